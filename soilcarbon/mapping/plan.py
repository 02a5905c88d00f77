"""Plan of a map: everything its output depends on, written beside the tiles, where every worker reads it.

In: a predictor, layers and a grid. Out: a `Plan`, the folder of its tiles, and predictions at a sample of cells by another method.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from soilcarbon.geo.grid import Grid, lonlat, nominal_metres
from soilcarbon.geo.periods import find_periods, replaced
from soilcarbon.geo.plausibility import ask_about_fill_values, check_codes, refusing, with_classes
from soilcarbon.geo.raster import Layer, cut_windows, find_layers, pick_layers
from soilcarbon.geo.vector import Area, write_areas
from soilcarbon.io.files import UserError, write_text
from soilcarbon.io.interruption import advise_resume
from soilcarbon.io.nodata import EVERY
from soilcarbon.mapping.areal import CHANGE
from soilcarbon.mapping.cog import TILE, whole_tiles
from soilcarbon.mapping.native import natives_of
from soilcarbon.mapping.predictor import Predictor

log = logging.getLogger(__name__)
PLAN, AREA, ZONES = "plan.json", "area.json", "zones.json"
WHOLE = "whole map"
_SPOTS, _SPOT = 12, 8
"""Squares, and cells along a side of each, that are sampled: few blocks of the rasters hold them."""

Stamps = tuple[tuple[int, int], ...]
"""Size and time of change (ns) of a file and of what GDAL reads beside it."""


class Plan(BaseModel):
    """Plan of a map: everything its output depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    checkpoint: Path  # checkpoint, sha256: the model's file and its checksum
    sha256: str
    statistics: dict[str, tuple[float, float]] | None  # statistics, missing: for a checkpoint that has none, else None
    missing: Literal["mean", "zero"] | None
    layers: tuple[Layer, ...]  # layers, stamps: the covariates, each once, and the stamps of their files and the mask's
    stamps: dict[str, Stamps]
    # (name, the layers' numbers in the order of the model's variables), in order of time; one unnamed, or several
    periods: tuple[tuple[str, tuple[int, ...]], ...]
    mask: Layer | None  # the layer that is above 0 where the map has values, or None
    grid: Grid  # grid, tile: the map's grid, and the side of its tiles in cells
    tile: int
    resampling: Literal["bilinear", "nearest"]
    max_missing: float
    level: float
    applicability: bool  # whether each period's map has bands of the area of applicability
    inside_only: bool  # whether means and totals are of cells that lie inside it in every period
    aggregate: int  # cells along the side of blocks whose means are mapped too; 0: none are
    # standard deviation of an error that all measurements share: of the unit, and as a share of the mean
    shared: tuple[float, float]
    device: str
    areas: dict[str, str]  # checksums of the area of interest and of the zones that lie beside the plan, by file name
    versions: dict[str, str]  # of this project and the library that computes

    @property
    def digest(self) -> str:
        """The plan's checksum."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def maps(self) -> list[str]:
        """The maps' names: the periods, and "change" where there are several."""
        names = [name for name, _ in self.periods]
        return [*names, CHANGE] if len(names) > 1 else names


def own_zone(name: str) -> str:
    """Return the name of a model's own zone in a table of totals, where zones of a file stand too.

    Examples
    --------
    >>> own_zone("arid"), own_zone("zone 3")
    ('climate zone arid', 'zone 3')
    """
    return name if name.startswith("zone ") else f"climate zone {name}"


def stamps_of(paths: Iterable[Path | str]) -> dict[str, Stamps]:
    """Return the stamps of rasters by path: other stamps mean another map."""
    found = {}
    for path in paths:
        beside = (Path(f"{path}{ending}") for ending in ("", ".aux.xml", ".msk"))
        status = [each.stat() for each in beside if each.is_file()]
        found[str(path)] = tuple((each.st_size, each.st_mtime_ns) for each in status)
    return found


def layers_of(
    model: Predictor, rasters: Sequence[Path], periods: Sequence[str], nodata: Mapping[str, tuple[float, ...]]
) -> tuple[list[Layer], list[tuple[str, tuple[int, ...]]]]:
    """Return the layers that a model needs, each once, and `Plan.periods`.

    The model says which are classes, and, where `nodata` is silent, which values mean missing. Values that look like missing ones
    are asked about; layers refuse those that a sample of the rasters has missed (`geo.plausibility`).
    """
    nodata = {**model.nodata, **({} if EVERY not in nodata else dict.fromkeys(model.nodata, nodata[EVERY])), **nodata}
    static, found = find_layers(rasters, nodata), find_periods(periods, nodata)
    layers: list[Layer] = []
    numbers = []
    for name, own in found.items():
        names = {layer.name for layer in own}
        chosen = pick_layers(replaced(static, own), model.variables)
        chosen = refusing(with_classes(chosen, model.classes), model.trained)
        if own and not names & set(model.variables):
            raise UserError(f"period {name!r}: {own[0].path.parent} has none of the checkpoint's variables")
        layers = list(dict.fromkeys([*layers, *chosen]))
        numbers.append((name, tuple(layers.index(layer) for layer in chosen)))
    check_codes(layers, ask_about_fill_values(layers))
    model.check_periods({name: [layer.name for layer in own] for name, own in found.items()})
    return layers, numbers


@dataclass(frozen=True)
class Sample:
    """Cells of a map, by row and column (n,), and the predictions there (n,) from covariates cut as for profiles."""

    rows: np.ndarray
    cols: np.ndarray
    predicted: np.ndarray


def predict_sample(model: Predictor, layers: Sequence[Layer], grid: Grid) -> Sample:
    """Predict a sample of cells as pred.py would, and warn where covariates are unlike the training data."""
    random = np.random.default_rng(0)
    places, covariates, positions = [], [], []
    for _ in range(_SPOTS):
        top, left = (int(random.integers(0, max(size - _SPOT, 0) + 1)) for size in (grid.height, grid.width))
        spot = np.mgrid[top : min(top + _SPOT, grid.height), left : min(left + _SPOT, grid.width)].reshape(2, -1)
        lon, lat = lonlat(grid, spot[0] + 0.5, spot[1] + 0.5)
        windows = [cut_windows(pick_layers(layers, names), lon, lat, radius)[0] for names, radius in model.windows]
        covariates.append(np.concatenate([each.reshape(lon.size, -1) for found in windows for each in found.values()], axis=1))
        places.append(spot)
        positions.append(np.stack([lon, lat], axis=1))
    rows, cols = np.concatenate(places, axis=1)
    metres = dict.fromkeys(model.variables, nominal_metres(grid.crs, grid.cell[0]))
    for k, native in natives_of(model.windows, layers, grid, model.trained_cells).items():
        log.info("windows of %s are read at their own %.4g m", ", ".join(model.windows[k][0]), native.metres)
        metres |= dict.fromkeys(model.windows[k][0], native.metres)
    predicted = model.predict_patches(np.concatenate(covariates), metres, np.concatenate(positions))
    return Sample(rows, cols, predicted)


def clear(folder: Path, out: Path) -> None:
    """Remove plan, areas, tiles and unfinished files of the map `out` from the tiles' folder; whatever else lies there stays."""
    for path in list(folder.iterdir()):
        ours = path.name in (PLAN, AREA, ZONES) or TILE.fullmatch(path.name) or path.name.startswith(out.stem)
        if ours and (path.is_file() or path.is_symlink()):
            path.unlink()


def begin(folder: Path, out: Path, plan: Plan, areas: Mapping[str, Sequence[Area]], resume: bool) -> dict[int, Path]:
    """Write plan and areas into the tiles' folder, or resume an interrupted map `out` of the same plan; return finished tiles."""
    begun = (folder / PLAN).exists()
    changed = difference(plan, folder) if begun and resume else []
    if changed:
        raise UserError(f"{folder}: the interrupted map differs in {', '.join(changed)}; run without --resume, or as it was")
    if resume and not begun:
        log.info("nothing to resume; starting afresh")
    if not resume:
        clear(folder, out)
    for name, each in areas.items():
        write_areas(folder / name, each)
    write_text(folder / PLAN, plan.model_dump_json())
    advise_resume()
    return whole_tiles(folder, plan.digest)


def difference(plan: Plan, folder: Path) -> list[str]:
    """Return the fields in which a plan differs from the one in a folder."""
    unreadable = UserError(f"{folder}: holds no plan of a map; run without --resume")
    try:
        older = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable from error
    newer = json.loads(plan.model_dump_json())
    if not isinstance(older, dict):
        raise unreadable
    return [name for name in {**older, **newer} if older.get(name) != newer.get(name)]
