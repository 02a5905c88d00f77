"""Map the target wall to wall: from a checkpoint and rasters to a Cloud Optimized GeoTIFF.

    soilcarbon map                                                             region anhui of the example world
    soilcarbon map --checkpoint model/mine.pth --rasters covariates/ --out results/mine/soc.tif
    soilcarbon map --checkpoint model/mine.pth --rasters covariates/ --crs EPSG:3035 --resolution 250 --aoi land.gpkg
    soilcarbon map --checkpoint model/mine.pth --rasters covariates/ --zones counties.gpkg
    soilcarbon map --checkpoint model/mine.pth --rasters covariates/ --aggregate 5000      means of 5 km blocks too
    soilcarbon map --checkpoint model/mine.pth --rasters static/ --periods 2000-2004=climate/2000 2020-2024=climate/2020
    soilcarbon map --checkpoint model/zoned_socd_0_20.npz --rasters static/ --periods periodic/      of soilcarbon zones
    soilcarbon map --checkpoint model/mine.pth --rasters covariates/ --scheduler tcp://HOST:8786

Rasters may be of any CRS, cell size, extent and number of bands; they are brought to the map's grid while they are read.
Writes the map (bands: prediction; lower and upper, the calibrated interval of `--level`; of an ensemble sd; di and
inside, the area of applicability) and beside it, under the same name, .png (a picture), .html (map, legend, scores and
provenance, for any browser), _totals.csv (mean and total by zone) and .yaml (settings and provenance); with --aggregate
_aggregated.tif (bands: mean; lower and upper, its interval; cells). After an interruption the same command with --resume
continues and gives the same bytes.
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon import __version__
from soilcarbon.commands.arguments import gdal, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, must_exist, sha256
from soilcarbon.io.names import file_name
from soilcarbon.settings import Bounds, PeriodSettings, RasterSettings, RemoteSettings

if TYPE_CHECKING:
    from soilcarbon.geo.grid import Grid
    from soilcarbon.geo.raster import Layer
    from soilcarbon.geo.vector import Area
    from soilcarbon.mapping.plan import Plan, Sample
    from soilcarbon.mapping.predictor import Predictor


class MapSettings(RasterSettings, RemoteSettings, PeriodSettings):
    """Settings of a wall-to-wall map from a checkpoint and rasters."""

    preset = "sim_map.yaml"
    preset_unless = ("config", "checkpoint", "rasters")

    checkpoint: Path = Field(description="the model to map with")
    rasters: list[Path] = Field(
        description="GeoTIFF files, folders of them, or YAML lists of both; addresses (https, s3) and STAC items, of which the "
        "part that the map covers is fetched",
        min_length=1,
    )
    out: Path | None = Field(None, description="the map to write [results/<checkpoint's name>/<target>.tif]")
    like: Path | None = Field(None, description="raster whose grid the map takes [the finest of those used]")
    crs: str | None = Field(None, description="the map's own CRS instead, such as EPSG:3035")
    resolution: float | None = Field(None, gt=0, description="the map's own cell size, in the unit of its CRS")
    bounds: Bounds = Field(None, description="map X_MIN X_MAX Y_MIN Y_MAX, in the map's CRS")
    aoi: Path | None = Field(None, description="vector file of the area of interest; cells outside are nodata")
    mask: Path | None = Field(None, description="raster of one band, such as land; cells where it is 0 or missing are nodata")
    zones: Path | None = Field(None, description="vector file of zones to give means and totals for")
    aggregate: float | None = Field(
        None, gt=0, description="side of blocks whose means are written too, in the unit of the map's CRS: a whole number of cells"
    )
    shared_sd: str | None = Field(
        None,
        description="standard deviation of an error that all measurements share, such as of a bulk density function: in the "
        "target's unit, or a share such as 5%; added to intervals of means",
    )
    zone_name: str | None = Field(None, description="its column that names the zones [one called name, id, zone or code]")
    resampling: Literal["bilinear", "nearest"] = Field(
        "bilinear", description="resampling of numeric variables from another grid; classes always take the nearest"
    )
    max_missing: float = Field(
        0.25, ge=0, lt=1, description="a cell where a larger share of the variables is missing is nodata; below, they are filled"
    )
    level: float = Field(0.9, gt=0, lt=1, description="nominal coverage of the prediction intervals")
    against: Path | None = Field(None, description="raster of the target, such as an older map, to score this one against")
    profiles: Path | None = Field(None, description="dataset folder whose profiles and measurements the page shows, with a switch")
    stats: Path | None = Field(None, description="statistics (var_name, v_mean, v_std) for the published weights, which have none")
    missing: Literal["mean", "zero"] = Field("mean", description="filling of missing cells for the published weights")
    applicability: bool = Field(True, description="bands of dissimilarity and the area of applicability, where the model has one")
    inside_only: bool = Field(False, description="means and totals are of cells inside the area of applicability only")
    tile: int = Field(512, ge=16, le=8192, description="side of the tiles the map is computed in, cells; memory grows with it")
    workers: int = Field(0, ge=0, le=1024, description="processes on this machine; 0: one per core")
    scheduler: str | None = Field(None, description="address of a Dask scheduler whose workers compute instead, tcp://HOST:8786")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto takes CUDA when present")
    resume: bool = Field(False, description="continue an interrupted map of the same settings")

    @field_validator("shared_sd")
    @classmethod
    def _shared_is_a_deviation(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"\s*\d+(\.\d*)?\s*%?\s*", text):
            raise ValueError(f"{text!r} is no number of 0 or more in the target's unit, nor a share such as 5%")
        return text

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.like is not None and self.crs is not None:
            raise ValueError("the grid is that of a raster (like) or its own (crs, resolution); give one")
        if self.against is not None and self.periods:
            raise ValueError("against scores one map, and periods make several; give one of the two")
        return self

    @property
    def shared(self) -> tuple[float, float]:
        """Standard deviation of an error that all measurements share: of the unit, and as a share of the mean."""
        text = (self.shared_sd or "0").strip()
        return (0.0, float(text[:-1]) / 100) if text.endswith("%") else (float(text), 0.0)


log = logging.getLogger(__name__)
_SMALL = 2_000_000
"""Cells below which starting processes takes longer than the map, unless workers are given."""
_SPARSE = 0.05
"""Share of the map that the rasters should cover at least: less is a mistake in the bounds, mostly."""
_MOST_TILES = 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(MapSettings, __doc__, arguments, "soilcarbon map")
    from soilcarbon.mapping.aggregation import blocks_name  # here and below: slow to import, and --help needs none of these
    from soilcarbon.mapping.outputs import check_inputs_stay, claim, finish, layer_to_score, profiles_of
    from soilcarbon.mapping.plan import begin, clear
    from soilcarbon.mapping.tiles import compute, open_predictor, workers

    model = open_predictor(settings.checkpoint)
    model.check_level(settings.level)
    out = settings.out or Path("results") / settings.checkpoint.stem / f"{file_name(model.target)}.tif"
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"{out}: a map is a GeoTIFF; give --out a name that ends in .tif")
    check_writable(out.parent)
    folder = out.with_name(f".{out.name}.tiles")
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link, and the tiles of the map would be written behind it; remove it")
    with gdal():
        reference = layer_to_score(settings.against, model.unit, settings.missing_values) if settings.against else None
        local = _fetched(settings)
        plan, areas, sample = make_plan(local, model, reference)
        profiles = profiles_of(settings.profiles, model.unit) if settings.profiles else None
        checkpoint = settings.checkpoint, settings.checkpoint.with_suffix(".yaml")
        others = settings.config, settings.against, settings.aoi, settings.zones, settings.stats
        check_inputs_stay(out, plan, [*checkpoint, *others, *local.rasters])
        claim(out, plan)
        with locked(folder):
            done = begin(folder, out, plan, areas, settings.resume)
            tiles, cells = plan.grid.tile_count(plan.tile), plan.grid.height * plan.grid.width
            count = min(settings.workers or (1 if cells < _SMALL else os.cpu_count() or 1), max(tiles - len(done), 1))
            ready = f", {len(done)} done" if done else ""
            log.info("%d x %d cells in %d tiles%s", plan.grid.height, plan.grid.width, tiles, ready)
            with workers(count, plan, settings.scheduler, folder) as (pool, at_once):
                compute(folder, plan, done, pool, at_once)
            if cells > _SMALL:
                log.info("%s: joining the tiles, with overviews, picture and page", out.name)
            lines = finish(out, folder, plan, model, settings.as_plain(), reference, sample, profiles)
            clear(folder, out)
        with contextlib.suppress(OSError):  # something of another's lies in it
            folder.rmdir()
    made = out.with_name(f"{out.stem}_*.tif") if settings.periods else out
    if plan.aggregate:
        lines.append(f"means of blocks of {plan.aggregate} x {plan.aggregate} cells -> {blocks_name(made)}")
    print("\n".join([*lines, f"-> {made}; look at {out.with_suffix('.html')}"]))


def _fetched(settings: MapSettings) -> MapSettings:
    """Return settings whose remote rasters are fetched, as far as the map covers them."""
    from soilcarbon.geo.crs import bounds_in, read_crs
    from soilcarbon.geo.remote import any_remote, crs_of, local_rasters
    from soilcarbon.geo.vector import read_areas

    if not any_remote(settings.rasters):
        return settings
    extent = None
    if settings.aoi is not None:
        _, extent = read_areas(settings.aoi, "EPSG:4326")
    if settings.bounds is not None:
        far = [path for path in settings.rasters if any_remote([path])]
        crs = read_crs(settings.crs) if settings.crs else crs_of(settings.like or far[0], settings.cache)
        extent = bounds_in(settings.bounds, crs, "EPSG:4326")
    return settings.model_copy(update={"rasters": local_rasters(settings.rasters, extent, settings.cache)})


def make_plan(
    settings: MapSettings, model: "Predictor", reference: "Layer | None" = None
) -> "tuple[Plan, dict[str, list[Area]], Sample]":
    """Return the plan of the map; areas by the name of the file they go to; and a sample of cells predicted as profiles are."""
    from soilcarbon.geo import grid as grids
    from soilcarbon.geo.plausibility import ask_about_fill_values, check_names
    from soilcarbon.geo.raster import find_layers
    from soilcarbon.mapping.aggregation import cells_of_block
    from soilcarbon.mapping.plan import Plan, layers_of, predict_sample, stamps_of
    from soilcarbon.network.network import choose_device

    if settings.inside_only and (model.applicability is None or not settings.applicability):
        raise UserError("inside_only needs an area of applicability; this model has none, or --no-applicability was given")
    if settings.shared_sd is not None and model.errors is None:
        raise UserError("shared_sd widens intervals by the errors of held-out profiles, and this model has none")
    statistics = model.take_statistics(settings.stats, settings.missing if settings.given("missing") else None)
    found, periods = layers_of(model, settings.rasters, settings.periods, settings.missing_values)
    grid, areas = _grid_and_areas(settings, found, model)
    masks = find_layers([settings.mask], settings.missing_values) if settings.mask is not None else []
    if len(masks) > 1:
        raise UserError(f"{settings.mask}: has {len(masks)} bands; a mask has one")
    ask_about_fill_values(masks)
    check_names([*found, *masks, *([reference] if reference else [])], nodata=settings.missing_values)
    layers, masks = ([replace(layer, path=layer.path.resolve()) for layer in each] for each in (found, masks))
    if apart := grids.apart(grid, layers):
        raise UserError(f"{len(apart)} rasters share no ground with the map, first {apart[0]}; see --like, --bounds and --aoi")
    if (share := grids.covered(grid, layers)) < _SPARSE:
        log.warning("the rasters cover only %.1f %% of the map; bounds are X_MIN X_MAX Y_MIN Y_MAX, in the map's CRS", 100 * share)
    block = cells_of_block(settings.aggregate, grid) if settings.aggregate is not None else 0
    tile = max(settings.tile // block, 1) * block if block else settings.tile  # each block lies in one tile
    if grid.tile_count(tile) > _MOST_TILES:
        raise UserError(f"{grid.tile_count(tile):,} tiles of {tile} cells are too many; raise --tile")
    sample = predict_sample(model, [layers[k] for k in periods[0][1]], grid)
    plan = Plan(
        checkpoint=settings.checkpoint.resolve(),
        sha256=sha256(settings.checkpoint),
        statistics=statistics,
        missing=settings.missing if statistics else None,
        layers=tuple(layers),
        stamps=stamps_of(dict.fromkeys(layer.path for layer in [*layers, *masks])),
        periods=tuple(periods),
        mask=masks[0] if masks else None,
        grid=grid,
        tile=tile,
        resampling=settings.resampling,
        max_missing=settings.max_missing,
        level=settings.level,
        applicability=settings.applicability and model.applicability is not None,
        inside_only=settings.inside_only,
        aggregate=block,
        shared=settings.shared,
        device=choose_device(settings.device).type if model.on_gpu else "cpu",
        areas={name: hashlib.sha256(repr(each).encode()).hexdigest() for name, each in areas.items()},
        versions={"soil-carbon-mapper": __version__, model.version[0]: model.version[1]},
    )
    return plan, areas, sample


def _grid_and_areas(settings: MapSettings, layers: "Sequence[Layer]", model: "Predictor") -> "tuple[Grid, dict[str, list[Area]]]":
    """Return the map's grid, cropped to the area of interest, and areas by the name of the file they go to."""
    from soilcarbon.geo import grid as grids
    from soilcarbon.geo.vector import read_areas
    from soilcarbon.mapping.plan import AREA, WHOLE, ZONES, own_zone

    if settings.like is not None:
        must_exist(settings.like, "raster to follow")
    grid = grids.target_grid(layers, settings.like, settings.crs, settings.resolution, settings.bounds)
    areas: dict[str, list[Area]] = {}
    if settings.aoi is not None:
        areas[AREA], extent = read_areas(settings.aoi, grid.crs)
        grid = grids.crop_to_area(grid, extent, settings.aoi)
    if settings.zones is not None:
        areas[ZONES], _ = read_areas(settings.zones, grid.crs, settings.zone_name)
        taken = {WHOLE, *map(own_zone, model.zones)}
        if double := sorted(taken & {zone.name for zone in areas[ZONES]}):
            raise UserError(f"{settings.zones}: a zone must not be named {double[0]!r}, which another row of the table is called")
    return grid, areas
