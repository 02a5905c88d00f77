"""What a finished map is handed over as: Cloud Optimized GeoTIFFs, pictures, a page, totals, provenance.

In: the tiles of a plan, all computed. Out: files beside each other, under the map's name.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window

import cogs
import mapview
import validation
import zones
from areas import load_areas
from cogs import Band
from config import __version__
from files import UserError, write_json, write_table, write_yaml
from grids import Grid, as_plain, raster_grid, short_name
from mapping import LOWER, UPPER, WHOLE, ZONES, Plan
from models import SoilCarbonNet
from rasters import find_layers
from stacks import Stack

SCORED_AT_MOST = 2 * 10**7
"""Cells of a map that are scored against a raster."""


def describe_bands(network: SoilCarbonNet, change: bool = False, applicability: bool = False) -> list[Band]:
    """Return the bands of a map: what each is called, its unit, and what it means."""
    facts, count = network.specification, network.specification.members
    value = f"{facts.target} of the last period minus the first" if change else facts.target
    prediction = f"mean of {count} networks" if count > 1 else "one network"
    bands = [Band("change" if change else "prediction", facts.unit, {"MEANING": f"{value}, {prediction}"})]
    if count > 1:
        spread = f"over {count} networks: how far they differ, not yet how far they all may be wrong"
        for name, share in (("lower", LOWER), ("upper", UPPER)):
            bands.append(Band(name, facts.unit, {"MEANING": f"{value}, {share:.0%} quantile {spread}"}))
        bands.append(Band("sd", facts.unit, {"MEANING": f"{value}, standard deviation {spread}"}))
    if applicability and network.applicability is not None:
        edge = network.applicability.threshold
        meaning = f"dissimilarity index: how unlike the training profiles; up to {edge:.3g} inside the area of applicability"
        bands.append(Band("di", "", {"MEANING": meaning}))
        bands.append(Band("inside", "", {"MEANING": "1 inside the area of applicability, 0 outside (Meyer and Pebesma 2021)"}))
    return bands


def describe(plan: Plan, network: SoilCarbonNet) -> dict[str, Any]:
    """Return where a map comes from, as plain containers: model, covariates and their grids, policies, versions."""
    facts = network.specification
    rasters: dict[str, Any] = {}
    for layer in plan.layers:
        rasters.setdefault(str(layer.path), []).append(layer.name)
    for path, names in rasters.items():
        grid = raster_grid(Path(path))
        rasters[path] = {"variables": ", ".join(names), "crs": short_name(grid.crs), "cell": list(grid.cell)}
    return {
        "model": {
            "checkpoint": plan.checkpoint.name,
            "sha256": plan.sha256,
            "members": facts.members,
            "target": facts.target,
            "unit": facts.unit,
            "target_transform": facts.target_transform,
            "missing": facts.missing,
        },
        "grid": as_plain(plan.grid),
        "max_missing": plan.max_missing,
        "resampling": plan.resampling,
        "periods": [name for name, _ in plan.periods if name],
        "rasters": rasters,
        "versions": plan.versions,
    }


def _tags(plan: Plan, network: SoilCarbonNet, name: str) -> dict[str, str]:
    facts = network.specification
    tags = {
        "SOFTWARE": f"soil-carbon-mapper {__version__}",
        "TARGET": facts.target,
        "CHECKPOINT": plan.checkpoint.name,
        "CHECKPOINT_SHA256": plan.sha256,
        "MEMBERS": str(facts.members),
        "MAX_MISSING": f"{plan.max_missing:g}",
        "RESAMPLING": plan.resampling,
    }
    return {**tags, "PERIOD": name} if name else tags


def _told_scores(record: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the scores by split that a checkpoint's record holds; a stranger's record may hold anything."""
    by_split = record.get("scores")
    told = {str(split): each for split, each in by_split.items() if isinstance(each, dict)} if isinstance(by_split, dict) else {}
    return {
        split: {str(name): value for name, value in each.items() if value is None or isinstance(value, (int, float))}
        for split, each in told.items()
    }


def make_totals(plan: Plan, folder: Path, tiles: list[Path], unit: str) -> pd.DataFrame:
    """Return mean and total of each map over the whole and over every zone, with the members' interval."""
    order = [WHOLE, *(area.name for area in (load_areas(folder / ZONES) if ZONES in plan.areas else []))]
    notes = [cogs.read_notes(path) for path in tiles]
    tables = {name: zones.totals([zones.from_plain(each[name]) for each in notes], unit, order) for name in plan.maps}
    return pd.concat([table.assign(map=name)[["map", *table.columns]] for name, table in tables.items()], ignore_index=True)


def score(tif: Path, grid: Grid, against: Path) -> dict[str, Any]:
    """Score a map's prediction against a raster of the same target, cell by cell, where both have values.

    The raster is brought to the map's grid as covariates are. Of a large map every k-th row and column is taken.

    Raises
    ------
    UserError
        If the raster cannot be read, has several bands, or shares no cell with the map.
    """
    layers = find_layers([against])
    if len(layers) != 1:
        raise UserError(f"{against}: has {len(layers)} bands; to score a map against it, it needs one")
    step = math.ceil((grid.height * grid.width / SCORED_AT_MOST) ** 0.5)
    observed, predicted = [], []
    with rasterio.open(tif) as raster, Stack(layers, grid) as stack:
        for tile in grid.tiles(1024):
            window = Window(tile.col, tile.row, tile.width, tile.height)
            part = np.s_[-tile.row % step :: step, -tile.col % step :: step]
            ours = raster.read(1, window=window, masked=True).filled(np.nan)[part]
            theirs = stack.read(tile.row, tile.col, tile.height, tile.width)[0][part]
            both = np.isfinite(ours) & np.isfinite(theirs)
            predicted.append(ours[both])
            observed.append(theirs[both])
    y, values = (np.concatenate(parts).astype(np.float64) for parts in (observed, predicted))
    if not y.size:
        raise UserError(f"{against}: shares no cell that has a value with the map")
    return {"against": against.name, "every": step, "scores": validation.scores(y, values)}


def finish(
    out: Path, folder: Path, plan: Plan, network: SoilCarbonNet, settings: Mapping[str, Any], against: Path | None = None
) -> None:
    """Join the tiles in `folder` into the maps at `out`, and lay picture, page, totals and provenance beside them.

    Parameters
    ----------
    out
        Where the map goes; the maps of periods get their names appended to it.
    folder, plan
        The tiles, all computed, and what they were made by.
    network
        The plan's.
    settings
        Written beside the map.
    against
        A raster to score the map against.

    Raises
    ------
    UserError
        If no cell has a value, or the disk is full; maps that stood there before are untouched then.
    """
    facts = network.specification
    written = cogs.whole_tiles(folder)
    tiles = [(tile, written[tile.number]) for tile in plan.grid.tiles(plan.tile) if cogs.EMPTY not in written[tile.number].name]
    if not tiles:
        where = " in the area of interest" if plan.areas else ""
        raise UserError(
            f"no cell of the map has a value: everywhere{where} more than {plan.max_missing:.0%} of the variables are missing"
        )
    ready: dict[str, Path] = {}
    first = 0
    for name in plan.maps:
        change = len(plan.periods) > 1 and name == "change"
        bands = describe_bands(network, change, plan.applicability and not change)
        named = out.with_stem(f"{out.stem}_{name}") if name else out
        ready[name] = cogs.write_cog(folder, named.name, plan.grid, tiles, first, bands, _tags(plan, network, name))
        first += len(bands)
    for path in ready.values():
        path.replace(out.parent / path.name)

    title = f"{plan.checkpoint.stem}: {facts.target}"
    views = [mapview.View(f"{title}, {name}" if name else title, out.parent / path.name) for name, path in ready.items()]
    for view in views:
        mapview.preview(view.tif.with_suffix(".png"), view)
    totals = make_totals(plan, folder, [path for _, path in tiles], facts.unit)
    write_table(out.with_name(f"{out.stem}_totals.csv"), totals)
    provenance = describe(plan, network)
    write_yaml(out.with_suffix(".yaml"), {**provenance, "settings": dict(settings)})
    scores = _told_scores(network.record)
    if against is not None:
        found = score(views[0].tif, plan.grid, against)
        write_json(out.with_name(f"{out.stem}_scores.json"), found)
        scores[f"cells, against {against.name}"] = found["scores"]
    notes = [f"{band.name}: {band.tags['MEANING']}" for band in describe_bands(network, applicability=plan.applicability)]
    mapview.page(out.with_suffix(".html"), title, views, scores, provenance, totals, notes)
    for view, (_, row) in zip(views, totals[totals["zone"] == WHOLE].iterrows(), strict=True):
        spread = f" [{row['mean_lower']:.4g}, {row['mean_upper']:.4g}]" if facts.members > 1 else ""
        print(f"{view.tif}: {row['cells']} cells, {row['area_km2']:,.0f} km2, mean {row['mean']:.4g}{spread} {facts.unit}")
    if against is not None:
        words = ", ".join(f"{name} {value:.4g}" for name, value in found["scores"].items() if value is not None)
        print(f"against {against}: {words}")
    print(f"look at {out.with_suffix('.html')}")
