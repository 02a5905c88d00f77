"""Stocks of soil carbon on a model's grid: area-weighted means of maps, their standard errors, and realisations, as NetCDF.

In: maps of SOC density, of one depth interval or of several that lie on each other, and the models that made them. Out: `Stocks` in
kg m-2, and a NetCDF file by the CF conventions, named and measured as CMIP's `cSoil`, that ILAMB, ESMValTool, xarray, CDO and
`soilcarbon drivers` read.

Standard errors and realisations are those of the maps' error models (`stats.error_field`): fields of error, drawn given the errors
of held-out profiles, are averaged over a model's cell as the map is, so that what neighbouring cells share does not cancel. Draws
of several depth intervals are added one by one: their errors are taken to go together.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from scipy.sparse import csr_array

from soilcarbon import __version__
from soilcarbon.geo.grid import Tile
from soilcarbon.geo.model_grid import ModelGrid
from soilcarbon.geo.periods import find_periods, years_of
from soilcarbon.geo.raster import find_layers, pick_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError, must_exist, read_yaml, sha256
from soilcarbon.io.nodata import parse_nodata
from soilcarbon.mapping.areal import error_blocks
from soilcarbon.mapping.carbon_map import CarbonMap
from soilcarbon.mapping.common_grid import Cells
from soilcarbon.mapping.predictor import Predictor
from soilcarbon.mapping.tiles import open_predictor
from soilcarbon.progress import progress
from soilcarbon.quantities import CARBON_UNITS, unit_of
from soilcarbon.stats.error_field import DRAWS

log = logging.getLogger(__name__)
CONVENTIONS = "CF-1.8"
_NAME = "soil_mass_content_of_carbon"
"""Standard name of CMIP6; `soil_carbon_content` is its alias."""
_FILL = np.float32(1e20)
_EPOCH = datetime(1850, 1, 1, tzinfo=UTC)
_TILE = 512
_LEAST_SHARE = 0.01
"""Of a map's mean, below which no correction lowers it (`stats.areal_mean`)."""


@dataclass(frozen=True)
class Source:
    """A map of a depth interval."""

    product: CarbonMap
    depth: tuple[float, float]  # upper and lower limit, cm
    years: tuple[int, int] | None  # first and last; None where the file does not say
    period: int | None  # as error models number periods
    # model, facts: its model, and how it was made (the YAML beside it); None and {} where no errors are asked for
    model: Predictor | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Stocks:
    """Stocks on a model's grid, (H, W) each, kg m-2, missing = NaN."""

    grid: ModelGrid
    # mean, deviation: mean, corrected for bias where an error model is known, and its standard error or None; kg m-2
    mean: np.ndarray
    deviation: np.ndarray | None
    mapped: np.ndarray  # the maps' own area-weighted mean
    covered: np.ndarray  # share of the cell's area that the maps have values in, 0 to 1
    realizations: np.ndarray | None  # (N, H, W), or None


@dataclass
class _Sums:
    """Sums of a map over a model's cells (n,): areas, masses, and of the errors: draws (n, DRAWS), spreads, variances."""

    area: np.ndarray
    mass: np.ndarray
    drawn: np.ndarray | None
    spread: np.ndarray
    square: np.ndarray


def open_source(product: CarbonMap, checkpoint: Path | None, uncertainty: bool) -> Source:
    """Return a map with its depth and years by its tags, and its model: that given, or that which the YAML beside the map names.

    UserError if the depth is not known, the model is not that of the map, or it has no error model and `uncertainty` is asked for.
    """
    must_exist(product.path, "map")
    tags, facts = {}, {}
    if product.path.suffix.lower() in (".tif", ".tiff"):
        with rasterio.open(product.path) as raster:
            tags = raster.tags()
    depth, years = _pair(product.depth or tags.get("DEPTH", "")), _pair(tags.get("YEARS", ""))
    if depth is None or depth[0] >= depth[1]:
        raise UserError(f"{product.path}: of which depth is it? say {product.path.name},depth=0-30cm")
    model = None
    if uncertainty:
        beside = product.path.with_name(f"{product.path.stem.removesuffix('_' + tags.get('PERIOD', ''))}.yaml")
        facts = read_yaml(beside) if beside.is_file() else {}
        model = _model_of(product.path, checkpoint, facts, tags)
    found = None if years is None else (int(years[0]), int(years[1]))
    return Source(product, depth, found, (years_of(tags.get("PERIOD", "")) or [None])[0], model, facts)


def _pair(text: str) -> tuple[float, float] | None:
    """Return two numbers of a text such as "0-30 cm"; None if there are not two."""
    parts = text.lower().removesuffix("cm").strip().split("-")
    try:
        first, last = map(float, parts)
    except ValueError:
        return None
    return first, last


def _model_of(tif: Path, checkpoint: Path | None, facts: dict[str, Any], tags: dict[str, str]) -> Predictor:
    """Return the model of a map; UserError if it is not there, another one, or has no error model."""
    without = "; --no-uncertainty exports the map without standard errors"
    recorded = facts.get("settings", {}).get("checkpoint") if isinstance(facts.get("settings"), dict) else None
    path = checkpoint or (Path(str(recorded)) if recorded else None)
    if path is None or not path.is_file():
        raise UserError(f"{tif}: its model {path or ''} is not there; give --checkpoints{without}")
    if sha256(path) != tags.get("CHECKPOINT_SHA256"):
        raise UserError(f"{path}: is not the model that made {tif.name}; give --checkpoints{without}")
    model = open_predictor(path)
    if model.errors is None:
        raise UserError(f"{path}: has no error model, for want of held-out profiles{without}")
    return model


def layered(sources: Sequence[Source], bottom: float | None) -> list[Source]:
    """Return the fewest maps that lie on each other from the surface to a depth, cm; None: to the greatest that can be had."""
    reached: dict[float, list[Source]] = {0.0: []}
    frontier = [0.0]
    while frontier:  # breadth first: the first way to a depth has the fewest maps
        following = []
        for depth in frontier:
            for source in sources:
                if source.depth[0] == depth and source.depth[1] not in reached:
                    reached[source.depth[1]] = [*reached[depth], source]
                    following.append(source.depth[1])
        frontier = following
    there = sorted(reached)[1:]
    if not there:
        raise UserError(f"no map begins at the surface; the first is of {sources[0].depth[0]:g}-{sources[0].depth[1]:g} cm")
    if bottom is not None and bottom not in reached:
        raise UserError(f"depth {bottom:g} cm: the maps reach {', '.join(f'{each:g}' for each in there)} cm")
    return reached[there[-1] if bottom is None else bottom]


def stocks(sources: Sequence[Source], grid: ModelGrid, covered: float, realizations: int) -> Stocks:
    """Return the stocks of maps that lie on each other (with models: all of them, or none), on a model's grid.

    `covered` is the share of a cell's area that must have values in every map; `realizations` is from 0 to `DRAWS`. UserError if a
    map is no density, or no cell is covered.
    """
    whole, certain = grid.km2.ravel(), any(each.model is None for each in sources)
    sums = [_sum_up(source, grid) for source in sources]
    share = np.min([each.area for each in sums], axis=0) / whole
    kept = np.flatnonzero(share >= covered * (1 - 1e-9))
    if not len(kept):
        raise UserError(f"no cell of the model's grid is covered by {covered:.0%}; the best has {share.max():.1%} (covered)")
    mapped = np.sum([each.mass[kept] / each.area[kept] for each in sums], axis=0)
    mean, deviation, drawn = mapped, None, None
    if not certain:
        draws = np.sum([each.drawn[kept] / each.area[kept, None] for each in sums if each.drawn is not None], axis=0)
        shared = np.sum([_shared(source, each, kept) for source, each in zip(sources, sums, strict=True)], axis=0)
        alone = np.sum([np.sqrt(each.square[kept]) / each.area[kept] for each in sums], axis=0)
        errors = [0.0 if each.model is None or each.model.errors is None else each.model.errors.standard_error for each in sources]
        least = np.sum([each.spread[kept] / each.area[kept] * error for each, error in zip(sums, errors, strict=True)], axis=0)
        mean = np.maximum(mapped + draws.mean(1), _LEAST_SHARE * mapped)
        own = np.hypot(draws.std(1), alone)
        deviation = np.hypot(np.maximum(own, least), shared)
        draws += np.outer(shared, _scores())
        drawn = _realizations(draws, alone, np.hypot(own, shared), mean, deviation, realizations) if realizations else None

    def filled(values: np.ndarray) -> np.ndarray:
        found = np.full((*values.shape[1:], grid.shape[0] * grid.shape[1]), np.nan, np.float64 if values.ndim == 1 else np.float32)
        found[..., kept] = values.T
        return found.reshape(*values.shape[1:], *grid.shape)

    spread, many = (None if each is None else filled(each) for each in (deviation, drawn))
    return Stocks(grid, filled(mean), spread, filled(mapped), np.minimum(share, 1).reshape(grid.shape), many)


def _shared(source: Source, sums: _Sums, kept: np.ndarray) -> np.ndarray:
    """Return the standard deviation of cells' errors that all measurements share, as it was stated for the map (`shared_sd`)."""
    text = str((source.facts.get("settings") or {}).get("shared_sd") or "0").strip()
    if text.endswith("%"):
        return float(text[:-1]) / 100 * sums.mass[kept] / sums.area[kept]
    return np.full(len(kept), float(text) * _factor(source.model))


def _scores() -> np.ndarray:
    """Return standard normal scores of the draws, (DRAWS,), in pairs that mirror each other."""
    found = np.random.default_rng(16).normal(size=DRAWS // 2)
    found /= (found**2).mean() ** 0.5
    return np.concatenate([found, -found])


def _factor(model: Predictor | None) -> float:
    """Return the factor from a model's unit to kg/m2."""
    return 1.0 if model is None else CARBON_UNITS[unit_of(model.unit) or "kg/m2"][1]


def _realizations(
    draws: np.ndarray, alone: np.ndarray, own: np.ndarray, mean: np.ndarray, deviation: np.ndarray, count: int
) -> np.ndarray:
    """Return equally likely means (n, count) of cells: log-normal with these means and deviations, so that none is below 0.

    They come in pairs that mirror each other about the mean (antithetic), as the draws do.
    """
    half = DRAWS // 2
    order = np.stack([np.arange(half), half + np.arange(half)], axis=1).ravel()[:count]
    noise = np.random.default_rng(15).normal(size=(len(mean), half))
    mirrored = np.concatenate([noise, -noise], axis=1)[:, order]
    error = draws[:, order] - draws.mean(1, keepdims=True) + alone[:, None] * mirrored
    score = error / np.where(own > 0, own, 1)[:, None]
    scale = np.sqrt(np.log1p((deviation / np.where(mean > 0, mean, 1)) ** 2))[:, None]
    return np.asarray(mean[:, None] * np.exp(scale * score - scale**2 / 2))


def _sum_up(source: Source, grid: ModelGrid) -> _Sums:
    """Return the sums of a map over a model's cells, tile by tile."""
    size = grid.shape[0] * grid.shape[1]
    drawn = None if source.model is None else np.zeros((size, DRAWS), np.float32)  # memory only of cells that are touched
    found = _Sums(np.zeros(size), np.zeros(size), drawn, np.zeros(size), np.zeros(size))
    with Cells(source.product) as cells, _zone_rasters(source, cells) as zones:
        if cells.unit != "kg/m2":
            raise UserError(f"{cells.path}: is in {cells.unit}: a content is no stock; see soilcarbon densities")
        if cells.medians and source.model is None:
            log.warning("%s is of medians: stocks are lower than those of means, which uncertainty makes of it", cells.path)
        for tile in progress(cells.grid.tiles(_TILE), cells.path.name, cells.grid.tile_count(_TILE)):
            read = cells.read(tile.row, tile.col, tile.height, tile.width)
            if np.isfinite(read).any():
                _add(found, source, grid, cells, zones, tile, read)
    return found


def _add(found: _Sums, source: Source, grid: ModelGrid, cells: Cells, zones: Stack | None, tile: Tile, read: np.ndarray) -> None:
    """Add the sums of a tile, whose values (h, w) are in kg/m2."""
    model, factor = source.model, _factor(source.model)
    ours, fine, km2 = grid.overlaps(cells.grid, tile)
    if model is not None:
        read = model.means(read / factor)
    values = read.ravel()
    known = np.isfinite(values[fine])
    ours, fine, km2 = ours[known], fine[known], km2[known]
    if not len(ours):
        return
    touched, place = np.unique(ours, return_inverse=True)

    def summed(weights: np.ndarray) -> np.ndarray:
        return np.bincount(place, weights, len(touched))

    found.area[touched] += summed(km2)
    found.mass[touched] += summed(values[fine] * km2) * factor
    if model is None or model.errors is None or found.drawn is None:
        return
    errors = model.errors
    number, lon, lat = error_blocks(cells.grid, tile, errors.shortest_km)
    where = np.empty((0, *read.shape)) if zones is None else zones.read(tile.row, tile.col, tile.height, tile.width)
    grown = errors.spread(np.nan_to_num(read), model.zone_weights(where)) * errors.growth(lon, lat)[number]
    spread = grown.ravel()[fine] * km2 * factor
    inside = np.isfinite(spread)
    weights = csr_array((spread[inside], (place[inside], number.ravel()[fine][inside])), (len(touched), len(lon)))
    found.drawn[touched] += errors.sums(lon, lat, {source.period: weights})
    found.spread[touched] += summed(np.where(inside, spread, 0))
    found.square[touched] += summed(errors.cell_variance(np.nan_to_num(read)).ravel()[fine] * (km2 * factor) ** 2)


def _zone_rasters(source: Source, cells: Cells) -> AbstractContextManager[Stack | None]:
    """Return the covariates that define the error model's zones, on the map's grid; of None where it has none."""
    model = source.model
    if model is None or not model.zone_variables:
        return nullcontext(None)
    settings = source.facts.get("settings", {})
    try:
        nodata = parse_nodata(list(settings.get("nodata", [])))
        layers = find_layers([Path(each) for each in settings["rasters"]], nodata)
        periods = find_periods([str(each) for each in settings.get("periods", [])], nodata)
        known = [*layers, *(each for own in list(periods.values())[:1] for each in own)]
        return Stack(pick_layers(known, model.zone_variables), cells.grid, model.classes)
    except (UserError, KeyError, TypeError, AttributeError) as error:
        names = ", ".join(model.zone_variables)
        raise UserError(
            f"{source.product.path}: its errors depend on zones, which take the rasters of {names} ({error}); --no-uncertainty "
            "exports the map without standard errors"
        ) from error


# --- NetCDF ------------------------------------------------------------------------------------------------------------


def dataset(stocks: Stocks, depth: float, years: tuple[int, int] | None, facts: Mapping[str, str]) -> xr.Dataset:
    """Return stocks to a depth (cm) as a Dataset with CF attributes, `facts` being global ones; without years there is no time."""
    grid, dims = stocks.grid, ("lat", "lon")
    found: dict[str, Any] = {"cSoil": (dims, stocks.mean, _carbon("Carbon Mass in Soil Pool"))}
    if stocks.deviation is not None:
        attributes = _carbon("standard error of the mean carbon mass in soil pool", f"{_NAME} standard_error")
        attributes["comment"] = (
            "of the mean over the cell, by the error model of the map: errors that neighbouring places share do not cancel"
        )
        found["cSoil_standard_error"] = (dims, stocks.deviation, attributes)
        found["cSoil_map"] = (dims, stocks.mapped, _carbon("area-weighted mean of the map, not corrected for bias"))
        # ILAMB takes two ancillary variables for the ends of an interval: this is the only one
        found["cSoil"][2]["ancillary_variables"] = "cSoil_standard_error"
    if stocks.realizations is not None:
        attributes = _carbon("equally likely carbon mass in soil pool, with spatially correlated errors")
        found["cSoil_realizations"] = (("realization", *dims), stocks.realizations, attributes)
    share = {"standard_name": "area_fraction", "units": "1", "long_name": "share of the cell's area that the map has values in"}
    found["covered"] = (dims, stocks.covered, share)
    area = {"standard_name": "cell_area", "units": "m2", "long_name": "area of the cell on the WGS84 ellipsoid"}
    found["areacella"] = (dims, grid.km2 * 1e6, area)
    ellipsoid = {"semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563}
    found["crs"] = ((), np.int32(0), {"grid_mapping_name": "latitude_longitude", **ellipsoid})
    data = xr.Dataset(found, _coordinates(stocks, depth), {"Conventions": CONVENTIONS, **facts})
    methods = "area: mean where land"
    if years is not None:
        data, methods = _at(data, years), f"{methods} time: mean"
    for name in data.data_vars:
        if str(name).startswith("cSoil"):
            data[name].attrs |= {"cell_methods": methods, "cell_measures": "area: areacella", "grid_mapping": "crs"}
    return data


def _carbon(long_name: str, standard_name: str = _NAME) -> dict[str, str]:
    return {"standard_name": standard_name, "units": "kg m-2", "long_name": long_name}


def _coordinates(stocks: Stocks, depth: float) -> dict[str, Any]:
    grid = stocks.grid
    found: dict[str, Any] = {}
    for name, standard, unit, axis in (("lat", "latitude", "degrees_north", "Y"), ("lon", "longitude", "degrees_east", "X")):
        about = {"standard_name": standard, "long_name": standard, "units": unit, "axis": axis, "bounds": f"{name}_bnds"}
        found[name] = (name, getattr(grid, name), about)
        found[f"{name}_bnds"] = ((name, "bnds"), getattr(grid, f"{name}_bounds"))
    about = {"standard_name": "depth", "long_name": "depth of the soil", "units": "m", "positive": "down", "axis": "Z"}
    about["bounds"] = "depth_bnds"
    found["depth"] = ((), depth / 200, about)
    found["depth_bnds"] = (("bnds",), np.array([0.0, depth / 100]))
    if stocks.realizations is not None:
        about = {"standard_name": "realization", "long_name": "realisation", "units": "1"}
        found["realization"] = ("realization", np.arange(1, len(stocks.realizations) + 1, dtype=np.int32), about)
    return found


def _at(data: xr.Dataset, years: tuple[int, int]) -> xr.Dataset:
    """Return a Dataset whose stocks are of one time: the middle of the years."""
    ends = [(datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).days for year in (years[0], years[1] + 1)]
    about = {"standard_name": "time", "long_name": "time", "units": f"days since {_EPOCH:%Y-%m-%d}"}
    about |= {"calendar": "standard", "axis": "T", "bounds": "time_bnds"}
    names = [name for name in data.data_vars if str(name).startswith("cSoil")]
    moved = data[names].expand_dims(time=1).transpose("realization", "time", ..., missing_dims="ignore")
    found = data.drop_vars(names).assign(moved.data_vars)
    found = found.assign_coords(time=("time", [float(np.mean(ends))], about))
    return found.assign_coords(time_bnds=(("time", "bnds"), np.array([ends], np.float64)))


def write(data: xr.Dataset, path: Path) -> None:
    """Write a Dataset: compressed NetCDF-4 where the extra netcdf is installed, else classic NetCDF by SciPy.

    It is not written atomically: the path belongs into a folder of results that are not in place yet.
    """
    packed = find_spec("netCDF4") is not None
    encoding: dict[Any, dict[str, Any]] = {name: {"_FillValue": None} for name in data.variables}
    limits = [name for name in data.coords if str(name).endswith("_bnds")]
    for name in data.data_vars:
        if data[name].ndim > 1:
            encoding[name] = {"dtype": "float32", "_FillValue": _FILL} | ({"zlib": True, "complevel": 1} if packed else {})
    encoding["areacella"] = {"dtype": "float64", "_FillValue": None}
    kind: dict[str, Any] = {"engine": "scipy", "format": "NETCDF3_64BIT"}
    if packed:
        kind = {"engine": "netcdf4", "format": "NETCDF4_CLASSIC"}
    data = data.reset_coords(limits)  # as coordinates they would be in a global attribute, at which iris fails
    for name in ("areacella", "covered", "crs", *limits):
        data[name].encoding["coordinates"] = None  # no depth
    try:
        data.to_netcdf(path, encoding=encoding, **kind)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path.name}: could not be written ({' '.join(str(error).split())[:150]}); is the disk full?") from error


def provenance(title: str, sources: Mapping[str, str], command: str) -> dict[str, str]:
    """Return global attributes: what it is, from which files (name -> SHA-256), by which command."""
    files = "; ".join(f"{name} (SHA-256 {digest})" for name, digest in sources.items())
    now = datetime.now(UTC)
    return {
        "title": title,
        "source": f"soil-carbon-mapper {__version__}: statistical maps of measured soil profiles",
        "history": f"{now:%Y-%m-%dT%H:%M:%SZ}: {command}",
        "input_files": files,
        "variable_id": "cSoil",
        "references": "docs/earth-system-models.md of soil-carbon-mapper",
    }
