"""Folds of a comparison: drawn once, kept in its folder and read again; and places of a map, for kNNDM.

In: how profiles are to be held out, positions. Out: fold numbers (N,) with facts of them; sealed files in folds/.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.io.resumption import is_sealed, seal
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.spatial_cv import read_folds, sample_cell_centres, save_folds

_MAP_PLACES = 2000  # places of the map from which kNNDM measures distances


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Design of the cross-validation of a comparison; the verdict is based on the last strategy."""

    out: Path  # folder of folds, runs and results
    strategies: tuple[str, ...]  # keys of `spatial_cv.STRATEGIES`
    folds: int = 5  # of each strategy
    block_size: float | None = None  # side of blocks, degrees; None: the dataset's, or the range of residuals
    land: Path | None = None  # raster that is above 0 where the map will be, for kNNDM
    nodata: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)  # of that raster, as `parse_nodata` has it
    workers: int = 0  # processes; 0: one per core
    seed: int = 314  # of folds and methods

    def run_path(self, name: str) -> Path:
        """Return the file of a run's predictions."""
        return self.out / "runs" / f"{name}.csv"


class Folds(NamedTuple):
    """Folds (N,) and facts of them."""

    folds: np.ndarray
    facts: dict[str, Any]

    @property
    def block_size(self) -> float | None:
        """Side of their blocks, degrees; None: places, or single profiles."""
        return self.facts.get("block_size")


def kept_folds(path: Path, ids: Sequence[str], draw: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> Folds:
    """Return the folds of a file, which is written with those that are drawn if it is not there as it was left."""
    record = path.with_suffix(".yaml")
    if is_sealed(path, record):
        return Folds(*read_folds(path, ids))
    folds, facts = draw()
    save_folds(path, ids, folds, facts)
    seal(path)
    seal(record)
    return Folds(folds, facts)


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
