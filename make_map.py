"""Map the target wall to wall: from a checkpoint and rasters to a Cloud Optimized GeoTIFF.

    python make_map.py                                                             region anhui of the example world
    python make_map.py --checkpoint model/mine.pth --rasters covariates/ --out results/mine/soc.tif
    python make_map.py --checkpoint model/mine.pth --rasters covariates/ --crs EPSG:3035 --resolution 250 --aoi land.gpkg
    python make_map.py --checkpoint model/mine.pth --rasters covariates/ --zones counties.gpkg
    python make_map.py --checkpoint model/mine.pth --rasters static/ --periods 2000-2004=climate/2000 2020-2024=climate/2020
    python make_map.py --checkpoint model/mine.pth --rasters covariates/ --scheduler tcp://HOST:8786

Rasters may be of any CRS, cell size, extent and number of bands; they are brought to the map's grid while they are read.
Writes the map (bands: prediction; of an ensemble also lower, upper, sd; di and inside, the area of applicability) and
beside it, under the same name, .png (a picture), .html (map, legend, scores and provenance, for any browser),
_totals.csv (mean and total by zone) and .yaml (settings and provenance). Interrupted? The same command with --resume
goes on and ends with the same bytes.
"""

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from config import MapSettings, __version__, read_settings
from files import UserError, check_writable, must_exist, run, sha256, write_text

if TYPE_CHECKING:
    from areas import Area
    from grids import Grid
    from mapping import Plan
    from models import SoilCarbonNet
    from rasters import Layer

log = logging.getLogger(__name__)
SMALL = 2_000_000
"""Cells below which starting processes takes longer than the map, unless workers are asked for."""
FAR_SAMPLE = 500
"""Places at which the rasters are compared with what the network was trained on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(MapSettings, __doc__, arguments)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it has to say comes as an error
    import mapfiles  # here and below: --help needs none of these, and they are slow to import
    import mapping
    from models import load_checkpoint

    network = load_checkpoint(settings.checkpoint)
    out = settings.out or Path("results") / settings.checkpoint.stem / f"{network.specification.target}.tif"
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"{out}: a map is a GeoTIFF; give --out a name that ends in .tif")
    check_writable(out.parent)
    folder = out.with_name(f".{out.name}.tiles")
    plan, areas = make_plan(settings, network)
    done = begin(folder, plan, areas, settings.resume)

    tiles = len(list(plan.grid.tiles(plan.tile)))
    cells = plan.grid.height * plan.grid.width
    count = min(settings.workers or (1 if cells < SMALL else os.cpu_count() or 1), max(tiles - len(done), 1))
    log.info("%d x %d cells in %d tiles%s", plan.grid.height, plan.grid.width, tiles, f", {len(done)} done" if done else "")
    with mapping.workers(count, plan.device, settings.scheduler, folder) as (pool, at_once):
        mapping.compute(folder, plan, list(done), pool, at_once)
    mapfiles.finish(out, folder, plan, network, settings.as_plain(), settings.against)
    shutil.rmtree(folder)


# --- before --------------------------------------------------------------------------------------------------------------


def make_plan(settings: MapSettings, network: "SoilCarbonNet") -> "tuple[Plan, dict[str, list[Area]]]":
    """Return what decides the map, and the areas by the name of the file they shall lie in.

    Raises
    ------
    UserError
        If rasters, areas, grid and checkpoint do not fit each other.
    """
    import torch

    import grids
    import mapping
    from areas import read_areas
    from rasters import find_layers, pick_layers
    from utils import choose_device, read_statistics

    facts = network.specification
    variables = [name for category in facts.categories for name in category.variables]
    statistics = None
    if facts.statistics is None:
        if settings.stats is None:
            raise UserError(
                f"{settings.checkpoint}: has no statistics; give the ones its inputs are standardised with, --stats FILE"
            )
        statistics = read_statistics(settings.stats, facts.categories)
        network.respecify(statistics=statistics, missing=settings.missing)
    elif settings.stats is not None or settings.given("missing"):
        raise UserError(
            f"{settings.checkpoint}: brings its own statistics and what becomes of missing cells; drop --stats and --missing"
        )

    static = find_layers(settings.rasters)
    periods = []
    layers: Sequence[Layer] = []
    for period in settings.periods or [""]:
        name, _, path = period.partition("=")
        own = find_layers([Path(path)]) if path else []
        names = {layer.name for layer in own}
        chosen = pick_layers([*own, *(layer for layer in static if layer.name not in names)], variables)
        if path and not names & set(variables):
            raise UserError(f"period {name!r}: {path} holds none of the checkpoint's variables")
        layers = list(dict.fromkeys([*layers, *chosen]))
        periods.append((name, tuple(layers.index(layer) for layer in chosen)))

    for raster, what in ((settings.like, "raster to follow"), (settings.against, "raster to score against")):
        if raster is not None:
            must_exist(raster, what)
    grid = grids.target_grid(layers, settings.like, settings.crs, settings.resolution, settings.bounds)
    areas: dict[str, list[Area]] = {}
    if settings.aoi is not None:
        areas[mapping.AREA], extent = read_areas(settings.aoi, grid.crs)
        grid = grids.crop_to_area(grid, extent, settings.aoi)
    if settings.zones is not None:
        areas[mapping.ZONES], _ = read_areas(settings.zones, grid.crs, settings.zone_name)
        if mapping.WHOLE in (zone.name for zone in areas[mapping.ZONES]):
            raise UserError(f"{settings.zones}: a zone must not be named {mapping.WHOLE!r}, the whole map's name in the table")
    masks = find_layers([settings.mask]) if settings.mask is not None else []
    if len(masks) > 1:
        raise UserError(f"{settings.mask}: has {len(masks)} bands; a mask has one")
    masks = [replace(layer, path=layer.path.resolve()) for layer in masks]
    layers = [replace(layer, path=layer.path.resolve()) for layer in layers]
    apart = grids.apart(grid, layers)
    if apart:
        raise UserError(f"{len(apart)} rasters share no ground with the map, first {apart[0]}; see --like, --bounds and --aoi")
    warn_of_windows(network, layers, grid)
    plan = mapping.Plan(
        checkpoint=settings.checkpoint.resolve(),
        sha256=sha256(settings.checkpoint),
        statistics=statistics,
        missing=settings.missing if statistics else None,
        layers=tuple(layers),
        stamps=mapping.stamps_of(layer.path for layer in [*layers, *masks]),
        periods=tuple(periods),
        mask=masks[0] if masks else None,
        grid=grid,
        tile=settings.tile,
        resampling=settings.resampling,
        max_missing=settings.max_missing,
        applicability=settings.applicability and network.applicability is not None,
        device=choose_device(settings.device).type,
        areas={name: hashlib.sha256(repr(each).encode()).hexdigest() for name, each in areas.items()},
        versions={"soil-carbon-mapper": __version__, "torch": torch.__version__},
    )
    return plan, areas


def warn_of_windows(network: "SoilCarbonNet", layers: "Sequence[Layer]", grid: "Grid") -> None:
    """Say where the map's covariates are not what the network was trained on: their values, or the size of their windows."""
    import numpy as np

    import engine
    import grids
    from rasters import cut_windows, pick_layers

    facts = network.specification
    random = np.random.default_rng(0)
    lon, lat = grids.lonlat(grid, random.uniform(0, grid.height, FAR_SAMPLE), random.uniform(0, grid.width, FAR_SAMPLE))
    parts = []
    for category in facts.categories:
        chosen = pick_layers(layers, category.variables)
        windows, _ = cut_windows(chosen, lon, lat, category.radius)
        parts += [windows[name].reshape(len(lon), -1) for name in category.variables]
    engine.warn_of_far_inputs(network, np.concatenate(parts, axis=1))
    here = grids.nominal_metres(grid.crs, grid.cell[0])
    trained = grids.cell_sizes(network.record.get("rasters", []))
    for category in facts.categories:
        there = max((trained[name] for name in category.variables if name in trained), default=here)
        if category.radius and abs(np.log(there / here)) > np.log(1.1):
            wide = f"{category.size * there:.3g} m wide in training, here {category.size * here:.3g} m"
            log.warning("category %s: windows of %d cells were %s; see --like, --resolution", category.name, category.size, wide)


def begin(folder: Path, plan: "Plan", areas: "Mapping[str, Sequence[Area]]", resume: bool) -> dict[int, Path]:
    """Make the tiles' folder, or take up the one an interrupted map left; return the tiles that are done.

    Raises
    ------
    UserError
        If the interrupted map was to be another one.
    """
    import cogs
    import mapping
    from areas import write_areas

    if resume and folder.is_dir():
        other = mapping.difference(plan, folder)
        if other:
            raise UserError(f"{folder}: the interrupted map differs in {', '.join(other)}; run without --resume, or as it was")
        return cogs.whole_tiles(folder)
    if resume:
        log.info("nothing to resume; starting afresh")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, each in areas.items():
        write_areas(folder / name, each)
    write_text(folder / mapping.PLAN, plan.model_dump_json(indent=1))
    return {}


if __name__ == "__main__":
    sys.exit(run(main))
