"""Design a soil sampling: points drawn at random, in strata, or chosen to cover an area or its covariates.

    soilcarbon design --rasters covariates/ --n_points 60                               stratified, compact strata of equal area
    soilcarbon design --rasters covariates/ --n_points 60 --design random --aoi farm.gpkg
    soilcarbon design --rasters covariates/ --n_points 60 --by covariates --n_strata 8
    soilcarbon design --rasters results/mine/soc.tif --n_points 60 --by error --error_map results/mine/soc.tif --allocation optimal
    soilcarbon design --rasters covariates/ --n_points 60 --design clhs                 for training a model, not for estimates

Rasters may be of any CRS, cell size and extent, and of any size; points are drawn on the grid of the finest, where all have
values. Writes into results/design/: points.gpkg and points.csv (profile_id, lon, lat, stratum, order, reserve, inclusion
probability, weight in km2), strata.tif, strata.csv. Fill in what was measured, and `soilcarbon validate --points points.csv` reads
how it was drawn. Spatial coverage and Latin hypercube samples are no probability samples.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from soilcarbon.commands.arguments import gdal, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, must_exist, sha256, write_table
from soilcarbon.io.manifest import result_set
from soilcarbon.io.resumption import seal
from soilcarbon.settings import RasterSettings, RemoteSettings, Texts

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.geo.raster import Layer
    from soilcarbon.geo.vector import Area
    from soilcarbon.mapping.sampling_design import Assign, Population, Strata

log = logging.getLogger(__name__)
POINTS_CSV, POINTS_GPKG, STRATA_TIF, STRATA_CSV, SETTINGS = "points.csv", "points.gpkg", "strata.tif", "strata.csv", "settings.yaml"
_SEAL = f"{POINTS_CSV}.sha256"
_FILES = (POINTS_CSV, _SEAL, POINTS_GPKG, STRATA_TIF, STRATA_CSV, SETTINGS)
_MOST_COMPACT, _FEW = 50, 6
"""Strata by default: compact ones half as many as points, but no more than this; others this few."""
_OF_MAPS = ("prediction", "mean", "change")
"""Bands of maps that are no error."""


class DesignSettings(RasterSettings, RemoteSettings):
    """Settings of a sampling design on rasters."""

    rasters: list[Path] = Field(
        description="GeoTIFF files, folders of them, YAML lists of both, or addresses: covariates, or any raster of the area",
        min_length=1,
    )
    n_points: int = Field(ge=2, le=100_000, description="points to draw or choose, reserve points not counted")
    design: Literal["random", "stratified", "coverage", "clhs"] = Field(
        "stratified",
        description="simple or stratified random, for estimates; spatial coverage or conditioned Latin hypercube, to train models",
    )
    by: Literal["geography", "covariates", "error", "raster"] = Field(
        "geography",
        description="strata: compact of equal area, k-means of the covariates, size of a map's predicted error, or a raster's",
    )
    n_strata: int | None = Field(
        None, ge=2, le=1000, description="strata to make [by geography half the points, at most 50; else at most 6]"
    )
    strata: Path | None = Field(None, description="raster of the strata, whole numbers from 1 (by raster)")
    not_sampled: Texts = Field([], description="strata of it that are not of the sampled area")
    classes: list[str] = Field([], description="variables that are class codes [those with a colour table]; none: none are")
    error_map: Path | None = Field(
        None, description="map with bands lower and upper (of `soilcarbon map`), or sd, or one band of standard deviations"
    )
    level: float = Field(0.9, gt=0, lt=1, description="nominal coverage of that map's intervals")
    allocation: Literal["proportional", "optimal"] = Field(
        "proportional", description="points of a stratum in proportion to its area, or to area times standard deviation (Neyman)"
    )
    stratum_sd: list[float] = Field([], description="standard deviation within each stratum, in their order [by the error map]")
    reserve: int = Field(2, ge=0, le=1000, description="further points of each stratum, for places that cannot be sampled")
    like: Path | None = Field(None, description="raster whose grid is taken [the finest of those used]")
    aoi: Path | None = Field(None, description="vector file of the area of interest")
    mask: Path | None = Field(None, description="raster of one band, such as land; cells where it is 0 or missing are left out")
    cells: int = Field(20_000, ge=100, le=10_000_000, description="cells sampled at most to make strata and to choose points from")
    out: Path = Field(Path("results/design"), description="folder of the points, strata and settings")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the draw")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.given("by") and self.design != "stratified":
            raise ValueError(f"by says what strata are made of, and design {self.design} has none")
        if self.strata is not None and self.given("by") and self.by != "raster":
            raise ValueError(f"strata are those of a raster, or by {self.by}; give one")
        if self.by == "raster" and self.strata is None:
            raise ValueError("by raster needs strata, the raster")
        if self.by == "error" and self.error_map is None:
            raise ValueError("by error needs error_map, a map with bands lower and upper, or sd")
        if self.allocation == "optimal" and not (self.error_map or self.stratum_sd):
            raise ValueError("optimal allocation needs error_map, or stratum_sd")
        if any(each < 0 for each in self.stratum_sd):
            raise ValueError("stratum_sd are standard deviations, 0 or more")
        return self

    @property
    def strata_wanted(self) -> int:
        """How many strata are made, at most."""
        most = _MOST_COMPACT if self.by == "geography" else _FEW
        return self.n_strata or max(1, min(self.n_points // 2, most))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(DesignSettings, __doc__, arguments, "soilcarbon design")
    check_writable(settings.out)
    with locked(settings.out), gdal():
        _check_unchanged(settings.out / POINTS_CSV)
        population = _population(settings)
        with result_set(settings.out, "design", _FILES) as new, population:
            lines = _write_design(settings, population, new)
            settings.write(new / SETTINGS)
    print("\n".join([*lines, f"-> {settings.out / POINTS_GPKG}, {settings.out / POINTS_CSV}"]))


def _check_unchanged(path: Path) -> None:
    """Raise UserError if the points of an earlier design were changed: measurements may stand there."""
    drawn = path.with_name(_SEAL)
    if path.is_file() and drawn.is_file() and sha256(path) not in drawn.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{path}: was changed since it was drawn, with measurements perhaps; give another --out")


def _population(settings: DesignSettings) -> "Population":
    """Return the cells to be sampled; UserError if rasters do not fit each other."""
    from soilcarbon.geo import grid as grids  # here and below: slow to import, and --help needs none of these
    from soilcarbon.geo.plausibility import check_layers, check_names, choose_classes, with_classes
    from soilcarbon.geo.raster import check_no_vector, find_layers
    from soilcarbon.geo.vector import read_areas
    from soilcarbon.mapping.sampling_design import Population

    layers = find_layers(_local_rasters(settings), settings.missing_values)
    errors = _error_layers(settings) if settings.error_map else []
    if settings.mask is not None:
        check_no_vector(settings.mask, "a mask")
    masks = find_layers([settings.mask], settings.missing_values) if settings.mask else []
    if len(masks) > 1:
        raise UserError(f"{settings.mask}: has {len(masks)} bands; a mask has one")
    check_names([*layers, *errors, *masks], nodata=settings.missing_values, classes=settings.classes)
    check_layers([*layers, *errors, *masks])
    if settings.like is not None:
        must_exist(settings.like, "raster to follow")
    grid = grids.target_grid(layers, settings.like)
    areas: list[Area] = []
    if settings.aoi is not None:
        areas, extent = read_areas(settings.aoi, grid.crs)
        grid = grids.crop_to_area(grid, extent, settings.aoi)
    if apart := grids.apart(grid, [*layers, *errors]):
        raise UserError(f"{len(apart)} rasters share no ground with the others, first {apart[0]}; see --like and --aoi")
    layers = with_classes(layers, choose_classes(layers, settings.classes))
    return Population(grid, layers, areas, masks[0] if masks else None, errors, settings.level)


def _local_rasters(settings: DesignSettings) -> list[Path]:
    """Return the rasters, remote ones fetched as far as the area of interest reaches."""
    from soilcarbon.geo.remote import any_remote, local_rasters
    from soilcarbon.geo.vector import read_areas

    if not any_remote(settings.rasters):
        return settings.rasters
    if settings.aoi is None:
        raise UserError("which part of the remote rasters? give --aoi; the whole is not fetched")
    return local_rasters(settings.rasters, read_areas(settings.aoi, "EPSG:4326")[1], settings.cache)


def _error_layers(settings: DesignSettings) -> "list[Layer]":
    """Return the layers of a map's error: lower and upper, or sd, or the only one."""
    from soilcarbon.geo.raster import find_layers

    assert settings.error_map is not None
    found = {layer.name: layer for layer in find_layers([settings.error_map], settings.missing_values)}
    for names in (("lower", "upper"), ("sd",)):
        if set(names) <= found.keys():
            return [found[name] for name in names]
    if len(found) == 1 and not set(_OF_MAPS) & found.keys():
        return list(found.values())
    raise UserError(f"{settings.error_map}: has bands {', '.join(list(found)[:12])}, and neither lower and upper nor sd")


def _write_design(settings: DesignSettings, population: "Population", new: Path) -> list[str]:
    """Draw or choose the points, write all files into a folder, and return the summary."""
    import pandas as pd

    from soilcarbon.mapping.sampling_design import CHOSEN, chosen_points, draw, points_table, write_strata
    from soilcarbon.stats.sample_selection import latin_hypercube, spatial_coverage

    lines: list[str] = []
    if settings.design in CHOSEN:
        sample = population.sample(max(settings.cells, 10 * settings.n_points), settings.seed)
        if len(sample.km2) <= settings.n_points:
            raise UserError(f"the area has {len(sample.km2)} cells, no more than the {settings.n_points} points; a finer raster?")
        if settings.design == "coverage":
            places = population.places(sample.row, sample.col)
            chosen = spatial_coverage(places, sample.km2, settings.n_points, settings.seed)
        else:
            classes = [k for k, layer in enumerate(population.layers) if layer.classes]
            how = settings.n_points, settings.seed, classes
            chosen, objective, at_random = latin_hypercube(sample.values, sample.km2, *how)
            lines.append(f"objective {objective:.4g}; of a random sample {at_random:.4g}")
        points, design = chosen_points(sample, chosen), CHOSEN[settings.design]
        lines.insert(0, f"{len(points)} points by {design}: it has no inclusion probabilities, and gives no design-based estimates")
    else:
        assign, names, by = _strata(settings, population)
        strata = write_strata(new / STRATA_TIF, population, assign, names)
        counts, spreads = _allocated(settings, strata)
        points = draw(new / STRATA_TIF, population.grid, strata, counts, settings.reserve, settings.seed)
        facts = {"stratum": strata.names, "cells": strata.cells, "area_km2": strata.km2, "share": strata.km2 / strata.km2.sum()}
        facts |= {"points": counts, "reserve": settings.reserve, "sd": spreads}
        write_table(new / STRATA_CSV, pd.DataFrame(facts))
        design = "simple random" if len(counts) == 1 else f"stratified random, {by}"
        lines = _summary(settings, population, strata, counts, spreads, design)
    table, x, y = points_table(points, population.grid, design)
    write_table(new / POINTS_CSV, table)
    seal(new / POINTS_CSV)
    _write_points(new / POINTS_GPKG, table, x, y, population.grid.crs)
    return lines


def _strata(settings: DesignSettings, population: "Population") -> "tuple[Assign, list[str], str]":
    """Return how cells are assigned to strata, the strata's names where they have any, and what they are by."""
    from soilcarbon.geo.raster import check_no_vector, find_layers
    from soilcarbon.mapping import sampling_design as designs

    if settings.design == "random":
        return designs.one_stratum, [], ""
    if settings.strata is not None:
        check_no_vector(settings.strata, "strata")
        layers = find_layers([settings.strata], settings.missing_values)
        if len(layers) != 1:
            raise UserError(f"{settings.strata}: has {len(layers)} bands; a raster of strata has one")
        return *designs.given_strata(population, layers[0], settings.not_sampled), f"strata of {settings.strata.name}"
    count = settings.strata_wanted
    if settings.n_points < 2 * count:
        raise UserError(f"{settings.n_points} points are too few for {count} strata of two each; take fewer strata (--n_strata)")
    sample = population.sample(settings.cells, settings.seed)
    if len(sample.km2) < 10 * count:
        raise UserError(f"the area has {len(sample.km2)} cells, too few for {count} strata; take fewer, or a finer raster (--like)")
    if settings.by == "geography":
        return designs.compact_strata(population, sample, count, settings.seed), [], "compact strata of equal area"
    if settings.by == "covariates":
        how = sample, population.layers, count, settings.seed
        return designs.covariate_strata(*how), [], "strata by k-means of the covariates"
    return designs.error_strata(sample, count), [], "strata by the map's predicted error"


def _allocated(settings: DesignSettings, strata: "Strata") -> "tuple[np.ndarray, np.ndarray]":
    """Return the points and the standard deviation (H,) of each stratum, NaN where not known."""
    import numpy as np

    from soilcarbon.stats.sample_selection import allocate

    spreads = np.array(settings.stratum_sd) if settings.stratum_sd else strata.spread
    if len(spreads) != len(strata.names):
        raise UserError(f"--stratum_sd has {len(spreads)} values for {len(strata.names)} strata ({', '.join(strata.names[:12])})")
    least = 2 if len(strata.names) > 1 else 1
    try:
        return allocate(settings.n_points, strata.km2, spreads if settings.allocation == "optimal" else None, least), spreads
    except ValueError as error:
        raise UserError(f"--n_points: {error}") from error


def _summary(
    settings: DesignSettings, population: "Population", strata: "Strata", counts: "np.ndarray", spreads: "np.ndarray", design: str
) -> list[str]:
    """Return what was drawn, and the sampling error to expect, as text."""
    import numpy as np

    from soilcarbon.stats.sample_selection import allocate, expected_standard_error

    several = len(counts) > 1
    within = f"{counts.min()} to {counts.max()}" if np.ptp(counts) else f"{counts[0]}"
    spare = f" and {settings.reserve * len(counts)} reserve points" if settings.reserve else ""
    each = f", {within} in each of {len(counts)} strata" if several else ""
    area = f"{strata.km2.sum():,.4g} km2 ({strata.cells.sum():,} cells)"
    lines = [f"{counts.sum()} points{spare} in {area}: {design}{each}{f', {settings.allocation} allocation' if several else ''}"]
    if not np.isfinite(spreads).all():
        return lines
    unit = population.errors[0].unit if population.errors and not settings.stratum_sd else ""
    expected = expected_standard_error(counts, strata.km2, spreads)
    lines.append(f"standard error of the mean to expect: {expected:.3g} {unit}".rstrip())
    if several:
        share = strata.km2 / strata.km2.sum()
        optimal = expected_standard_error(allocate(int(counts.sum()), strata.km2, spreads), strata.km2, spreads)
        even = float(np.sqrt((share * spreads**2).sum() / counts.sum()))
        lines[-1] += f" (with optimal allocation {optimal:.3g}, simple random {even:.3g})"
    source = (
        "the given standard deviations" if settings.stratum_sd else f"the errors that {population.errors[0].path.name} predicts"
    )
    lines[-1] += f", if {source} are right and the map corrects the sample"
    return lines


def _write_points(path: Path, table: "pd.DataFrame", x: "np.ndarray", y: "np.ndarray", crs: str) -> None:
    """Write the points as a GeoPackage in the map's CRS."""
    import geopandas

    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it says how many rows were written
    frame: Any = geopandas.GeoDataFrame(table, geometry=geopandas.points_from_xy(x, y), crs=crs)
    frame.to_file(path, layer="points", driver="GPKG", engine="pyogrio")
