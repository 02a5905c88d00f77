"""Files of a finished map: Cloud Optimized GeoTIFFs, pictures, a page, totals, scores, provenance, and what a GIS looks for.

In: the tiles of a plan, all computed. Out: files beside each other, under the map's name.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from pydantic import ValidationError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from soilcarbon import __version__
from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.field import unit_of
from soilcarbon.geo.grid import Grid, as_plain, raster_grid, short_name
from soilcarbon.geo.periods import years_of as years_named
from soilcarbon.geo.plausibility import ask_about_fill_values
from soilcarbon.geo.raster import Layer, find_layers
from soilcarbon.geo.resampling import ON_THE_GRID, Stack
from soilcarbon.geo.vector import load_areas, write_layers
from soilcarbon.io.files import UserError, write_json, write_table, write_text, write_yaml
from soilcarbon.io.manifest import begin_files, finish_files
from soilcarbon.mapping.aggregation import block_grid, block_parts, blocks_name, describe_blocks
from soilcarbon.mapping.areal import CHANGE, estimation
from soilcarbon.mapping.cog import Band, Part, Statistics, is_empty, read_notes, whole_tiles, write_cog
from soilcarbon.mapping.gis import item, styles
from soilcarbon.mapping.native import natives_of
from soilcarbon.mapping.page import Profiles, write_page
from soilcarbon.mapping.picture import View, preview
from soilcarbon.mapping.plan import WHOLE, ZONES, Plan, Sample, own_zone
from soilcarbon.mapping.predictor import Predictor, dissimilarity_bands
from soilcarbon.mapping.tiles import Notes
from soilcarbon.soil.dataset import dataset_target, read_samples
from soilcarbon.stats.metrics import scores

log = logging.getLogger(__name__)
_SCORED_TILE = 1024
_STYLE, _ITEM, _ZONES = ".qml", "_stac.json", "_totals.gpkg"
"""Endings of the files for a GIS: QGIS style, STAC item, zones with their totals."""
_FURTHER = tuple(f"_{name}{_STYLE}" for name in ("lower", "upper", "sd", "di", "inside"))
"""Endings of the styles of further bands; the first band's has the map's own name, by which QGIS finds it."""
SCORED_AT_MOST = 2 * 10**7
"""Cells of a map that are scored against a raster."""


def bands_of(plan: Plan, model: Predictor, name: str) -> list[Band]:
    """Return the bands of a map, by its name among `Plan.maps`."""
    if len(plan.periods) > 1 and name == CHANGE:
        return model.describe_bands(plan.level, change=True)
    area = model.applicability if plan.applicability else None
    return [*model.describe_bands(plan.level), *(dissimilarity_bands(area) if area else [])]


def describe(plan: Plan, model: Predictor) -> dict[str, Any]:
    """Return the provenance of a map as plain containers: model, covariates and their grids, policies, versions."""
    rasters: dict[str, Any] = {}
    with Stack(plan.layers, plan.grid, model.classes, plan.resampling) as stack:
        methods = stack.how()
    for layer in plan.layers:
        rasters.setdefault(str(layer.path), []).append(layer.name)
    for path, names in rasters.items():
        grid = raster_grid(Path(path))
        rasters[path] = {"variables": ", ".join(names), "crs": short_name(grid.crs), "cell": list(grid.cell)}
        rasters[path]["brought to the map"] = methods[Path(path)]
    return {
        "model": {"checkpoint": plan.checkpoint.name, "sha256": plan.sha256, **model.describe()},
        "grid": as_plain(plan.grid),
        "max_missing": plan.max_missing,
        "resampling": plan.resampling,
        "periods": [name for name, _ in plan.periods if name],
        "rasters": rasters,
        "versions": plan.versions,
    }


def _tags(plan: Plan, model: Predictor, name: str) -> dict[str, str]:
    facts = model.describe()
    tags = {
        "SOFTWARE": f"soil-carbon-mapper {__version__}",
        "TARGET": model.target,
        "TITLE": model.title,
        "UNIT": model.unit,
        "CHECKPOINT": plan.checkpoint.name,
        "CHECKPOINT_SHA256": plan.sha256,
        "MAX_MISSING": f"{plan.max_missing:g}",
        "RESAMPLING": plan.resampling,
    }
    if "members" in facts:
        tags["MEMBERS"] = str(facts["members"])
    if model.meaning.depth:
        tags["DEPTH"] = "{:g}-{:g} cm".format(*model.meaning.depth)
    if years := years_of(plan, model, name):
        tags["YEARS"] = f"{years[0]}-{years[1]}"
    return {**tags, "PERIOD": name} if name else tags


def years_of(plan: Plan, model: Predictor, name: str) -> tuple[int, int] | None:
    """Return the first and last year that a map is of, by its name among `Plan.maps`: its period's, else the profiles'."""
    if not name:
        return model.meaning.years
    found = [years_named(each) for each in ([each for each, _ in plan.periods] if name == CHANGE else [name])]
    years = [year for each in found if each for year in each]
    return (min(years), max(years)) if all(found) else None


_CORRECTED = (
    "means and totals are corrected for the bias of profiles held out, and their intervals carry its uncertainty and the errors "
    "that neighbouring cells share; map_mean is that of the map as it is. See docs/totals.md"
)


def make_totals(plan: Plan, folder: Path, notes: Sequence[Notes], model: Predictor) -> pd.DataFrame:
    """Return mean and total of each map over the whole, the model's own zones and those of a file, with intervals."""
    areas = load_areas(folder / ZONES) if ZONES in plan.areas else []
    order = [WHOLE, *map(own_zone, model.zones), *(area.name for area in areas)]
    periods = [name for name, _ in plan.periods]
    parts = {name: [each.sums[name] for each in notes] for name in plan.maps}
    largest = max(zones.largest_mass(each, model.unit) for each in parts.values())
    tables = {}
    for name, each in parts.items():
        how = estimation(model.errors, periods, name, plan.level, plan.shared)
        tables[name] = zones.totals(each, model.unit, order, how, largest)
    found = pd.concat([table.assign(map=name)[["map", *table.columns]] for name, table in tables.items()], ignore_index=True)
    found.attrs["level"] = plan.level
    return found


def filled_notes(plan: Plan, model: Predictor, notes: Sequence[Notes]) -> list[str]:
    """Return for each period how many cells lack variables, and which most often."""
    names = [layer.name for layer in plan.layers]
    lines = []
    for period, numbers in plan.periods:
        cells = sum(each.filled[period][0] for each in notes)
        known = sum(each.valued[period][0] for each in notes if period in each.valued)
        by_variable = np.sum([each.filled[period][1] for each in notes], axis=0)
        worst = [names[numbers[k]] for k in np.argsort(-by_variable, kind="stable")[:3] if by_variable[k]]
        if cells:
            share = f"{cells:,} of {known:,} cells ({cells / max(known, 1):.1%}) lack some variable, most often {', '.join(worst)}"
            which = f"{period}: " if period else ""
            area = "; di and inside have no value there" if plan.applicability else ""
            lines.append(f"{which}{share}; {model.missing_policy}{area}. --max_missing 0 leaves them out")
    return lines


def outside_notes(plan: Plan, notes: Sequence[Notes]) -> list[str]:
    """Return how many cells lie outside the area of applicability, and whether they are in means and totals; [] if none does."""
    counts = []
    for period, _ in plan.periods if plan.applicability else ():
        known, outside = (sum(each.valued[period][k] for each in notes if period in each.valued) for k in (0, 1))
        counts += [(outside, known)] if known else []
    if not any(outside for outside, _ in counts):
        return []
    shares = [outside / known for outside, known in counts]
    which = f"{counts[0][0]:,} of {counts[0][1]:,} cells ({shares[0]:.1%})"
    if len(counts) > 1:
        which = f"{min(shares):.1%} to {max(shares):.1%} of the cells of each period"
    left_out = "left out of means and totals" if plan.inside_only else "in means and totals all the same; see --inside_only"
    return [f"{which} lie outside the area of applicability, or lack a covariate that decides it; {left_out}"]


def support_notes(plan: Plan, model: Predictor, tif: Path, sample: Sample) -> list[str]:
    """Return how far resampling of covariates moves the map's mean; [] where all rasters are on its grid.

    Interpolated and averaged covariates are smoother than those the model was trained on, and it is no linear function
    of them: the mean moves (change of support).
    """
    with Stack(plan.layers, plan.grid, model.classes, plan.resampling) as stack:
        moved = [path for path, method in stack.how().items() if method != ON_THE_GRID]
    for _, numbers in plan.periods:
        own = natives_of(model.windows, [plan.layers[n] for n in numbers], plan.grid, model.trained_cells).values()
        moved = [path for path in moved if not any(layer.path == path for native in own for layer in native.layers)]
    if not moved:
        return []
    with rasterio.open(tif) as raster:
        windows = (Window(col, row, 1, 1) for row, col in zip(sample.rows.tolist(), sample.cols.tolist(), strict=True))
        here = np.array([raster.read(1, window=window, masked=True).filled(np.nan)[0, 0] for window in windows])
    both = np.isfinite(here) & np.isfinite(sample.predicted)
    count = sum(layer.path in moved for layer in plan.layers)
    line = f"{count} of {len(plan.layers)} variables are resampled from other grids ({plan.resampling})"
    if any(layer.name in model.classes and layer.path in moved for layer in plan.layers):
        line += ", class codes by the nearest cell"
    if not both.any():
        return [line]
    ours, theirs = here[both].mean(), sample.predicted[both].mean()
    change = f"{100 * (ours / theirs - 1):+.1f} %" if theirs else "-"
    return [
        f"{line}: at {both.sum()} cells the mean is {ours:.4g} {model.unit}, with the rasters' own cells, as the scores were "
        f"measured, {theirs:.4g} ({change})"
    ]


def layer_to_score(path: Path, unit: str, nodata: Mapping[str, tuple[float, ...]] | None = None) -> Layer:
    """Return the band of a raster that maps in a unit can be scored against: its only one, or the one called "prediction"."""
    layers = find_layers([path], nodata)
    chosen = [layer for layer in layers if len(layers) == 1 or layer.name == "prediction"]
    if not chosen:
        raise UserError(f"{path}: has {len(layers)} bands, none of them called 'prediction'; to be scored against, it needs one")
    said = chosen[0].unit
    if said and unit and (unit_of(said) or said) != (unit_of(unit) or unit):
        raise UserError(f"{path}: is in {said}, the map in {unit}; convert it first, or see soilcarbon validate")
    ask_about_fill_values(chosen)
    return chosen[0]


def score(tif: Path, grid: Grid, against: Layer) -> dict[str, Any]:
    """Score a map's prediction against a raster of the same target, cell by cell, where both have values.

    The raster is brought to the map's grid as covariates are. Of a large map every k-th row and column is taken.
    """
    step = math.ceil((grid.height * grid.width / SCORED_AT_MOST) ** 0.5)
    observed, predicted = [], []
    with rasterio.open(tif) as raster, Stack([against], grid) as stack:
        for tile in grid.tiles(_SCORED_TILE):
            window = Window(tile.col, tile.row, tile.width, tile.height)
            part = np.s_[-tile.row % step :: step, -tile.col % step :: step]
            ours = raster.read(1, window=window, masked=True).filled(np.nan)[part]
            theirs = stack.read(tile.row, tile.col, tile.height, tile.width)[0][part]
            both = np.isfinite(ours) & np.isfinite(theirs)
            predicted.append(ours[both])
            observed.append(theirs[both])
    y, values = (np.concatenate(parts).astype(np.float64) for parts in (observed, predicted))
    if not y.size:
        raise UserError(f"{against.path}: shares no cell that has a value with the map")
    return {"against": against.path.name, "every": step, "scores": scores(y, values)}


def outputs(out: Path, plan: Plan) -> list[Path]:
    """Return all files that `finish` may write: the maps first."""
    maps = [out.with_stem(f"{out.stem}_{name}") if name else out for name in plan.maps]
    beside = [out.with_name(f"{out.stem}{ending}") for ending in (".html", ".yaml", "_totals.csv", "_scores.json", _ZONES)]
    coarser = map(blocks_name, maps) if plan.aggregate else ()
    own = (path.with_name(f"{path.stem}{ending}") for path in maps for ending in (".png", _STYLE, *_FURTHER, _ITEM))
    return [*maps, *own, *coarser, *beside]


def check_inputs_stay(out: Path, plan: Plan, inputs: Sequence[Path | None]) -> None:
    """Raise UserError if an input would be overwritten, or the name of an output is a folder's."""
    kept = {path.resolve() for path in [*map(Path, plan.stamps), *inputs] if path is not None and path.is_file()}
    for path in outputs(out, plan):
        if path.resolve() in kept:
            raise UserError(f"{path}: is an input of this map and would be overwritten; give --out another name")
        if path.is_dir():
            raise UserError(f"{path}: is a folder, and a file of the map would be called so; give --out another name")


def profiles_of(folder: Path, unit: str) -> Profiles:
    """Return the profiles of a dataset, to be shown on the page of a map in a unit; UserError if they are in another one."""
    target = dataset_target(folder, "soc")
    table, y = read_samples(folder / "samples.csv", "soc", target_needed=False, limits=target.limits)
    if np.isfinite(y).any() and target.unit != unit:
        raise UserError(f"{folder}: {target.name} is in {target.unit}, the map in {unit}; leave --profiles out")
    return Profiles(table["profile_id"].tolist(), table["lon"].to_numpy(), table["lat"].to_numpy(), y, target.unit)


def claim(out: Path, plan: Plan) -> None:
    """List the files of a map in the manifest of their folder; those beside a map made here, whose tags say so, are its own."""
    paths = outputs(out, plan)
    ours = [path for path in paths[: len(plan.maps)] if path.is_file() and _is_own(path)]
    older = [path for path in paths if path in ours or path not in paths[: len(plan.maps)]] if ours else []
    adopted = [path.name for path in older if not path.name.endswith((_STYLE, _ITEM, _ZONES))]  # earlier versions had none
    begin_files(out.parent, [path.name for path in paths], f"the map {out.name}", adopted)


def _is_own(tif: Path) -> bool:
    try:
        with rasterio.open(tif) as raster:
            return str(raster.tags().get("SOFTWARE", "")).startswith("soil-carbon-mapper")
    except RasterioError:
        return False


def finish(
    out: Path,
    folder: Path,
    plan: Plan,
    model: Predictor,
    settings: Mapping[str, Any],
    reference: Layer | None,
    sample: Sample,
    profiles: Profiles | None = None,
) -> list[str]:
    """Join the tiles in `folder` into the maps at `out`, with picture, page, totals and provenance; return a line on each map.

    All is made in `folder` first, and renamed into place when nothing can fail any more: UserError if no cell has a value, or the
    disk is full, leaves maps that stood there before untouched. The map is scored against the band `reference`; `sample` is of the
    first period.
    """
    tiles, notes = _gather(folder, plan)
    place = folder / out.name
    views = _write_maps(place, plan, model, tiles, notes)
    totals = make_totals(plan, folder, notes, model)
    write_table(place.with_name(f"{place.stem}_totals.csv"), totals)
    filled = filled_notes(plan, model, notes)
    warnings = [*model.verdicts(), *filled, *outside_notes(plan, notes), *support_notes(plan, model, views[0].tif, sample)]
    provenance = describe(plan, model)
    write_yaml(place.with_suffix(".yaml"), {**provenance, "notes": warnings, "settings": dict(settings)})
    shown, lines = model.scores(), _summary(plan, model, totals)
    if reference is not None:
        found = score(views[0].tif, plan.grid, reference)
        write_json(place.with_name(f"{place.stem}_scores.json"), found)
        shown[f"cells, against {found['against']}"] = found["scores"]
        values = ", ".join(f"{name} {value:.4g}" for name, value in found["scores"].items() if name != "n" and value is not None)
        lines.append(f"against {found['against']}: {found['scores']['n']:,} cells, {values}")
    meanings = [f"{band.name}: {band.tags['MEANING']}" for band in bands_of(plan, model, plan.maps[0])]
    if len(plan.periods) > 1:
        meanings += [f"change, {band.name}: {band.tags['MEANING']}" for band in bands_of(plan, model, CHANGE)]
    if model.errors is not None:
        meanings.append(_CORRECTED)
    write_page(place.with_suffix(".html"), _title(plan, model), views, shown, provenance, totals, [*warnings, *meanings], profiles)
    _write_for_gis(place, folder, plan, model, views, totals)

    made = [path for path in reversed(outputs(out, plan)) if (folder / path.name).is_file()]
    for path in made:  # the maps last: where they are, all is
        (folder / path.name).replace(path)
    finish_files(out.parent, [path.name for path in outputs(out, plan)], [path.name for path in made])  # scores of an earlier map
    for line in warnings:
        log.warning("%s", line)
    for zone in totals.loc[(totals["cells"] == 0) & (totals["map"] == plan.maps[0]), "zone"]:
        log.warning("zone %s: no cell of the map has its centre there", zone)
    return lines


def _title(plan: Plan, model: Predictor) -> str:
    return f"{plan.checkpoint.stem}: {model.title}" + (f" ({model.unit})" if model.unit else "")


def _write_maps(place: Path, plan: Plan, model: Predictor, tiles: Sequence[Part], notes: Sequence[Notes]) -> list[View]:
    """Write the GeoTIFFs of all maps, of their blocks, and PNGs into the tiles' folder."""
    title, views, first = _title(plan, model), [], 0

    def write(path: Path, grid: Grid, parts: Sequence[Part], bands: Sequence[Band], name: str) -> None:
        nonlocal first
        statistics = [sum((each.statistics[first + k] for each in notes), Statistics()) for k in range(len(bands))]
        bands = [replace(band, tags={**band.tags, **each.tags()}) for band, each in zip(bands, statistics, strict=True)]
        write_cog(path, grid, parts, first, bands, _tags(plan, model, name))
        first += len(bands)

    maps = list(zip(plan.maps, outputs(place, plan), strict=False))
    for name, path in maps:
        write(path, plan.grid, tiles, bands_of(plan, model, name), name)
        views.append(View(f"{title}, {name}" if name else title, path))
    for name, path in maps if plan.aggregate else ():  # as a tile's bands are ordered
        bands = describe_blocks(model.title, model.unit, plan, name, model.errors is not None)
        grid, parts = block_grid(plan.grid, plan.aggregate), block_parts(tiles, plan.aggregate)
        write(blocks_name(path), grid, parts, bands, name)
    for view in views:
        preview(view.tif.with_suffix(".png"), view)
    return views


def _write_for_gis(place: Path, folder: Path, plan: Plan, model: Predictor, views: Sequence[View], totals: pd.DataFrame) -> None:
    """Write the styles and STAC items of all maps, and the zones of a file with their means and totals, into the tiles' folder."""
    if ZONES in plan.areas:
        areas = {area.name: area.shape for area in load_areas(folder / ZONES)}
        rows = totals[totals["zone"].isin(areas)]
        layers = {name or "totals": part.drop(columns="map") for name, part in rows.groupby("map", sort=False)}
        write_layers(place.with_name(f"{place.stem}{_ZONES}"), layers, plan.grid.crs, areas)
    made = [_write_styles(view.tif, texts) for view, texts in zip(views, styles(views), strict=True)]
    written = datetime.fromtimestamp(plan.checkpoint.stat().st_mtime, UTC)
    beside = {key: (place.with_name(f"{place.stem}{ending}"), what) for key, (ending, what) in _BESIDE.items()}
    shared = {key: (path, what) for key, (path, what) in beside.items() if path.is_file()}
    for name, view, files in zip(plan.maps, views, made, strict=True):
        own = {"map": (view.tif, view.title), "overview": (view.tif.with_suffix(".png"), "Picture")}
        own |= files
        if plan.aggregate:
            own["aggregated"] = (blocks_name(view.tif), "Means of blocks of cells, with intervals")
        facts = {"description": bands_of(plan, model, name)[0].tags["MEANING"]}
        found = item(view.tif, own | shared, view.title, years_of(plan, model, name), written, facts)
        write_json(view.tif.with_name(f"{view.tif.stem}{_ITEM}"), found)


def _write_styles(tif: Path, texts: Mapping[str, str]) -> dict[str, tuple[Path, str]]:
    """Write the styles of a map's bands; return them as assets: key -> file and title."""
    found = {}
    for number, (band, text) in enumerate(texts.items()):
        path = tif.with_name(f"{tif.stem}_{band}{_STYLE}") if number else tif.with_suffix(_STYLE)
        write_text(path, text)
        found[f"style_{band}" if number else "style"] = (path, f"QGIS style of the band {band}")
    return found


_BESIDE = {
    "page": (".html", "Page with all bands, scores and provenance"),
    "provenance": (".yaml", "Settings and provenance"),
    "totals": ("_totals.csv", "Means and totals"),
    "zones": (_ZONES, "Zones with means and totals"),
    "scores": ("_scores.json", "Scores against another raster"),
}
"""Key of a file beside a map in its STAC item -> ending and title."""


def _summary(plan: Plan, model: Predictor, totals: pd.DataFrame) -> list[str]:
    """Return a line on each map: cells, area, and mean with its interval."""
    lines = []
    for name, (_, row) in zip(plan.maps, totals[totals["zone"] == WHOLE].iterrows(), strict=True):
        spread = f" [{row['mean_lower']:.4g}, {row['mean_upper']:.4g}]" if np.isfinite(row["mean_lower"]) else ""
        which = f"{name}: " if name else ""
        lines.append(f"{which}{row['cells']:,} cells, {row['area_km2']:,.0f} km2, mean {row['mean']:.4g}{spread} {model.unit}")
    return lines


def _gather(folder: Path, plan: Plan) -> tuple[list[Part], list[Notes]]:
    """Return the tiles that have values, and their notes; UserError if some are missing, or none has a value."""
    written = whole_tiles(folder, plan.digest)
    lacking = plan.grid.tile_count(plan.tile) - len(written)
    if lacking:
        raise UserError(f"{folder}: {lacking} tiles are missing or damaged; --resume computes them again")
    with ThreadPoolExecutor() as pool:
        texts = list(pool.map(read_notes, (written[number] for number in sorted(written))))
    try:
        notes = [Notes.model_validate_json(text) for text in texts]
    except ValidationError as error:
        raise UserError(f"{folder}: the notes of a tile are damaged; run without --resume") from error
    valued = [(number, note) for number, note in zip(sorted(written), notes, strict=True) if not is_empty(written[number])]
    if not valued and not any(note.inside for note in notes):
        raise UserError("no cell of the map has its centre in the area of interest, or the mask leaves none; see --aoi, --mask")
    if not valued:
        where = " in the area of interest" if plan.areas or plan.mask else ""
        lack = f"more than {plan.max_missing:.0%} of the variables are missing"
        raise UserError(f"no cell of the map has a value: everywhere{where} {lack}")
    tiles = {number: plan.grid.tile(number, plan.tile) for number, _ in valued}
    parts = [Part(tile, written[number], (tile.height, tile.width)) for number, tile in tiles.items()]
    return parts, [note for _, note in valued]
