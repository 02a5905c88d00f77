"""Folds of a comparison: drawn once, kept in its folder and read again; and places of a map, for kNNDM.

In: how profiles are to be held out, positions. Out: fold numbers (N,) with facts of them; sealed files in folds/.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, read_yaml, write_table, write_yaml
from soilcarbon.io.resumption import is_sealed, seal
from soilcarbon.io.tables import read_table
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.spatial_cv import sample_cell_centres

_MAP_PLACES = 2000  # places of the map from which kNNDM measures distances


class Folds(NamedTuple):
    """Folds (N,) and facts of them."""

    folds: np.ndarray
    facts: dict[str, Any]

    @property
    def block_size(self) -> float | None:
        """Side of their blocks, degrees; None: places, or single profiles."""
        return self.facts.get("block_size")


def kept_folds(path: Path, ids: Sequence[str], draw: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> Folds:
    """Return the folds of a file and the YAML file beside it, which are written with those drawn if not there as they were left."""
    record = path.with_suffix(".yaml")
    if not is_sealed(path, record):
        folds, facts = draw()
        write_yaml(record, facts)
        write_table(path, pd.DataFrame({"profile_id": ids, "fold": folds}))
        seal(path)
        seal(record)
        return Folds(folds, facts)
    table = read_table(path, ("profile_id", "fold"))
    if table["profile_id"].tolist() != list(ids):
        raise UserError(f"{path}: is of other profiles; give another --out")
    return Folds(table["fold"].astype(np.int64).to_numpy(), read_yaml(record))


def places_on(
    land: Path | None, nodata: Mapping[str, tuple[float, ...]], data: Dataset, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw prediction places of the map within the bounding box of a region's profiles."""
    if land is None:
        raise UserError(
            "strategies: knndm needs the area of the map; give --land, a raster that is above 0 there, such as elevation"
        )
    from rasterio.errors import WindowError  # here and below: no other strategy needs them
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    from soilcarbon.geo.plausibility import ask_about_fill_values
    from soilcarbon.geo.raster import find_layers, missing_cells, named_errors, open_raster

    layers = find_layers([land], nodata)[:1]
    ask_about_fill_values(layers)
    with ExitStack() as opened, named_errors(land):
        raster = opened.enter_context(open_raster(land))
        if raster.crs is None:
            raise UserError(f"{land}: has no coordinate reference system; give one to it")
        if not raster.crs.is_geographic:
            raster = opened.enter_context(WarpedVRT(raster, crs="EPSG:4326"))  # of the nearest cells
        window = raster.window(data.lon.min(), data.lat.min(), data.lon.max(), data.lat.max()).round_offsets().round_lengths()
        try:
            window = window.intersection(Window(0, 0, raster.width, raster.height))
        except WindowError:
            raise UserError(f"{land}: does not reach the region's profiles") from None
        cells, transform = raster.read(1, window=window, masked=True).filled(0), raster.window_transform(window)
        missing = missing_cells(cells, layers[0].missing or ())
        here = (cells > 0) & (True if missing is None else ~missing)
    lon = transform.c + transform.a * (np.arange(here.shape[1]) + 0.5)
    lat = transform.f + transform.e * (np.arange(here.shape[0]) + 0.5)
    return sample_cell_centres(here, lon, lat, _MAP_PLACES, seed)
