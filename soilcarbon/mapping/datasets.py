"""Maps and means from covariates that are an xarray Dataset, in memory or on disk, tile by tile.

In: a model, and a Dataset with its variables on one grid. Out: the bands of `soilcarbon map` as a Dataset on that grid, or its
table of means and totals. Where the covariates are dask arrays, so is the map.

    covariates = soilcarbon.open_map("covariates.tif")
    soilcarbon.predict("model/mine.npz", covariates)["prediction"].plot()
"""

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401 - gives Datasets their CRS
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from soilcarbon import __version__
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.geo import zonal_statistics as zonal
from soilcarbon.geo.crs import as_text, read_crs, short_name
from soilcarbon.geo.grid import Grid, Tile, lonlat, nominal_metres
from soilcarbon.geo.plausibility import far_fills
from soilcarbon.geo.raster import missing_cells
from soilcarbon.geo.vector import read_areas
from soilcarbon.io.files import NODATA, UserError, nearest
from soilcarbon.io.interruption import temporary_folder
from soilcarbon.mapping.areal import estimation
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.fitted import FittedPredictor
from soilcarbon.mapping.network import NetworkPredictor
from soilcarbon.mapping.plan import WHOLE, own_zone
from soilcarbon.mapping.predictor import Cells, Predicted, Predictor, dissimilarity, dissimilarity_bands
from soilcarbon.mapping.tiles import open_predictor, place_of, zone_sums
from soilcarbon.progress import progress

_NORTH, _EAST = ("y", "lat", "latitude", "northing"), ("x", "lon", "longitude", "easting")
"""Names of dimensions."""
_DEGREES = ("lat", "latitude", "lon", "longitude")
_REGULAR = 1e-3
"""Of a cell: so far may a coordinate lie from where a regular grid has it."""
_SPOTS, _SPOT = 4, 8
"""Squares, and cells along a side of each, in which covariates are compared with those of training."""
_one_at_a_time = threading.Lock()
"""A model computes one tile while others are read."""


def load_model(
    path: Path | str, *, stats: Path | str | None = None, missing: Literal["mean", "zero"] | None = None, device: str = "cpu"
) -> Predictor:
    """Open a model's file: a checkpoint of networks, a model of `soilcarbon fit`, or forests by climate zone.

    Parameters
    ----------
    path
        The file; it may be untrusted.
    stats, missing
        For the published weights, which have no statistics: a table (var_name, v_mean, v_std), and what a missing cell becomes.
    device
        "cpu" or "cuda", of a network.

    Returns
    -------
    Predictor
        For `predict` and `zone_means`. `target`, `unit`, `title`: what it predicts; `variables`; `scores()`; `describe()`;
        `applicability`: its `ApplicabilityArea`; `errors`: its `ErrorField`.

    Raises
    ------
    UserError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> x = pd.DataFrame({"elevation": np.arange(40.0), "rain": np.arange(40.0)[::-1] ** 2})
    >>> path = Path(tempfile.mkdtemp()) / "soc.pth"
    >>> SoilCarbonRegressor(teacher="none", members=1, epochs=2).fit(x, 10 + x["elevation"]).save(path)
    >>> model = load_model(path)
    >>> model.variables, model.unit
    (('elevation', 'rain'), 'g/kg')
    """
    found = open_predictor(Path(path), device)
    found.take_statistics(None if stats is None else Path(stats), missing)
    return found


def predict(
    model: Predictor | SoilCarbonRegressor | Path | str,
    data: xr.Dataset,
    *,
    level: float = 0.9,
    applicability: bool = True,
    max_missing: float = 0.25,
    tile: int = 512,
) -> xr.Dataset:
    """Map a model's target from covariates on one grid: what `soilcarbon map` writes for the same rasters.

    Parameters
    ----------
    model
        Of `load_model`, or its file, or a fitted `SoilCarbonRegressor`.
    data
        The model's variables by their names, in its units, on one regular grid with a CRS (`data.rio.crs`; dimensions called lat
        and lon are degrees); others are not looked at. Missing is NaN, and what the variables declare. Read tile by tile.
    level
        Nominal coverage of the prediction intervals.
    applicability
        Whether to compute `di` and `inside`, if the model has an area of applicability.
    max_missing
        A cell where a larger share of the variables is missing has no value; below, they are filled as in training.
    tile
        Side of the tiles, cells; memory grows with it.

    Returns
    -------
    Dataset
        prediction; lower, upper; sd; di, inside: the bands that the model has, float32, with `units` and `long_name`. Dask arrays
        that are computed when they are used, if some variable of `data` is one.

    Raises
    ------
    UserError
        If a variable lacks, is of another grid or CRS than the others, or the level cannot be had.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> table = pd.DataFrame({"elevation": random.uniform(0, 900, 60), "rain": random.uniform(300, 900, 60)})
    >>> model = SoilCarbonRegressor(teacher="none", members=1, epochs=2).fit(table, 10 + table["rain"] / 100)
    >>> layers = {name: (("lat", "lon"), random.uniform(300, 900, (3, 4))) for name in ("rain", "elevation")}
    >>> data = xr.Dataset(layers, {"lat": [47.5, 47.4, 47.3], "lon": [8.1, 8.2, 8.3, 8.4]})
    >>> soc = predict(model, data)
    >>> soc["prediction"].dims, soc["prediction"].attrs["units"]
    (('lat', 'lon'), 'g/kg')
    """
    known = _predictor(model)
    known.check_level(level)
    stack = _Covariates.of(data, known)
    _warn_of_unusual(known, stack)
    area = known.applicability if applicability else None
    bands = [*known.describe_bands(level), *(dissimilarity_bands(area) if area else [])]
    task = _Task(known, stack, level, max_missing, area is not None)
    if stack.chunked:
        values = _lazily(task, len(bands), tile)
    else:
        values = np.empty((len(bands), stack.grid.height, stack.grid.width), np.float32)
        for part in progress(stack.grid.tiles(tile), "tiles", stack.grid.tile_count(tile)):
            here = np.s_[:, part.row : part.row + part.height, part.col : part.col + part.width]
            values[here] = task.bands(part, *stack.part(part, known.halo))
    return _as_dataset(values, bands, task)


def zone_means(
    model: Predictor | SoilCarbonRegressor | Path | str,
    data: xr.Dataset,
    zones: Any = None,
    *,
    zone_name: str | None = None,
    level: float = 0.9,
    max_missing: float = 0.25,
    inside_only: bool = False,
    tile: int = 512,
) -> pd.DataFrame:
    """Return means and totals of a model's map by zone, corrected for bias, with intervals for the true mean.

    It is the table `_totals.csv` of `soilcarbon map` for the same rasters: the errors that neighbouring cells share are those of
    the model's error model (`ErrorField`), so that intervals of cells need not be added up, which would be wrong.

    Parameters
    ----------
    model, data, level, max_missing, tile
        As of `predict`.
    zones
        A vector file or a GeoDataFrame of polygons; None: the whole map only.
    zone_name
        Its column that names them; default: one called name, id, zone or code.
    inside_only
        Leave cells outside the area of applicability out.

    Returns
    -------
    DataFrame
        A row for the whole map, for each zone of the model's own and each of `zones`: zone, cells, area_km2, map_mean (of the map
        as it is), mean, mean_lower, mean_upper, mean_unit, total where the unit is a mass per area, and the
        variance of the mean by source.

    Raises
    ------
    UserError
        As `predict`, or if zones cannot be read or have the name of another row.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> table = pd.DataFrame({"elevation": random.uniform(0, 900, 60), "rain": random.uniform(300, 900, 60)})
    >>> model = SoilCarbonRegressor(teacher="none", members=1, epochs=2).fit(table, 10 + table["rain"] / 100)
    >>> layers = {name: (("lat", "lon"), random.uniform(300, 900, (3, 4))) for name in ("rain", "elevation")}
    >>> data = xr.Dataset(layers, {"lat": [47.5, 47.4, 47.3], "lon": [8.1, 8.2, 8.3, 8.4]})
    >>> zone_means(model, data)[["zone", "cells", "mean_unit"]].values.tolist()
    [['whole map', 12, 'g/kg']]
    """
    known = _predictor(model)
    known.check_level(level)
    if inside_only and known.applicability is None:
        raise UserError("inside_only needs an area of applicability; this model has none")
    stack = _Covariates.of(data, known)
    _warn_of_unusual(known, stack)
    areas = [] if zones is None else _areas(zones, stack.grid.crs, zone_name)
    order = [WHOLE, *map(own_zone, known.zones), *(area.name for area in areas)]
    if double := next((area.name for area in areas if order.count(area.name) > 1), None):
        raise UserError(f"a zone must not be named {double!r}, which another row of the table is called")
    task, parts = _Task(known, stack, level, max_missing, inside_only), []
    for part in progress(stack.grid.tiles(tile), "tiles", stack.grid.tile_count(tile)):
        found, unlike = task.predicted(part, *stack.part(part, known.halo))
        if np.isfinite(found.members[0]).any():
            maps, left_out = {"": found}, {} if unlike is None else {"": unlike[1] != 1}
            place = place_of(known, stack.grid, part, areas, maps, left_out)
            parts.append(zone_sums(known, place, maps, {"": known.bands(found, level)})[""])
    return zonal.totals(parts, known.unit, order, estimation(known.errors, [""], "", level))


def _predictor(model: Predictor | SoilCarbonRegressor | Path | str) -> Predictor:
    if isinstance(model, Predictor):
        return model
    if isinstance(model, SoilCarbonRegressor):
        check_is_fitted(model)
        if model.model_ is not None:
            return FittedPredictor(Path("regressor"), model.model_)
        return NetworkPredictor(Path("regressor"), "cpu", None, None, model.network_)
    if not isinstance(model, (str, os.PathLike)):
        kind = type(model).__name__
        raise UserError(f"model: is a {kind}; expected a SoilCarbonRegressor (of a Pipeline the last step), or load_model(FILE)")
    return load_model(model)


def _areas(zones: Any, crs: str, column: str | None) -> list[Any]:
    """Return the areas of a vector file or a GeoDataFrame."""
    if isinstance(zones, (str, Path)):
        return read_areas(Path(zones), crs, column)[0]
    with temporary_folder() as folder:
        zones.to_file(folder / "zones.gpkg", engine="pyogrio")
        return read_areas(folder / "zones.gpkg", crs, column)[0]


# --- covariates --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variable:
    """How a variable is read: name, values that mean missing, scale and offset, and fill values that are refused."""

    name: str
    missing: tuple[float, ...]
    scale: float
    offset: float
    refused: tuple[float, ...]

    def cleaned(self, stored: np.ndarray) -> np.ndarray:
        """Return values float32, missing = NaN."""
        missing = missing_cells(stored, (NODATA, *self.missing))
        values = stored.astype(np.float32)
        if missing is not None:
            values[missing] = np.nan
        for value in self.refused:
            if (count := int((values == np.float32(value)).sum())) > 0:
                raise UserError(
                    f"{self.name}: {count} cells here are {value:.10g}, far from all the model was trained on: a missing value? "
                    "make it NaN (data.where) first"
                )
        return values if (self.scale, self.offset) == (1.0, 0.0) else values * np.float32(self.scale) + np.float32(self.offset)


@dataclass(frozen=True)
class _Covariates:
    """A model's variables in a Dataset."""

    data: xr.Dataset  # with these variables only, of dimensions `dims`, turned north up
    dims: tuple[str, str]  # names of the dimensions that run along y and x
    grid: Grid
    turns: Mapping[str, slice]  # dimension -> what turns it round, of those that ran northwards or westwards
    wraps: bool  # whether columns continue at the other side: all longitudes
    variables: tuple[_Variable, ...]  # in the model's order

    @classmethod
    def of(cls, data: xr.Dataset, model: Predictor) -> "_Covariates":
        """Return them; UserError if they lack or do not fit each other."""
        there = [str(name) for name in data.data_vars]
        if lacking := [name for name in model.variables if name not in there]:
            raise UserError(
                f"{len(lacking)} of the model's {len(model.variables)} variables are not in the Dataset, first {lacking[0]!r}"
                f"{nearest(lacking[0], there)}"
            )
        single = [dim for dim in data.dims if data.sizes[dim] == 1 and str(dim).lower() not in (*_NORTH, *_EAST)]
        data = data[list(model.variables)].squeeze(single, drop=True)
        arrays = {name: data[name] for name in model.variables}
        first, *_ = arrays
        dims = _dims(first, arrays[first])
        crs = {name: _crs(name, array) for name, array in arrays.items()}
        for name, array in arrays.items():
            if set(array.dims) != set(dims):
                raise UserError(f"{name}: has the dimensions {', '.join(map(str, array.dims))}, {first} {' and '.join(dims)}")
            if crs[name] != crs[first]:
                raise UserError(f"{name}: is in {short_name(crs[name])}, {first} in {short_name(crs[first])}; reproject one first")
            if array.dtype.kind not in "iufb":
                raise UserError(f"{name}: holds {array.dtype}, no numbers")
        chosen = data.transpose(*dims)
        if any(chosen[name].chunks for name in arrays):
            chosen = chosen.chunk()
        (_, north, down), (west, _, across) = (_axis(chosen, dim, k) for k, dim in enumerate(dims))
        height, width = abs(down), abs(across)
        sizes = chosen.sizes[dims[0]], chosen.sizes[dims[1]]
        grid = Grid(crs[first], west - width / 2, north + height / 2, (width, height), *sizes)
        turns = {dim: slice(None, None, -1) for dim, turned in zip(dims, (down > 0, across < 0), strict=True) if turned}
        wraps = grid.geographic and abs(grid.width * width - 360) < width / 2
        variables = tuple(_variable(name, arrays[name], model) for name in model.variables)
        return cls(chosen.isel(turns), dims, grid, turns, wraps, variables)

    @property
    def chunked(self) -> bool:
        """Whether the variables are dask arrays."""
        return any(self.data[each.name].chunks for each in self.variables)

    def part(self, tile: Tile, halo: int) -> tuple[xr.Dataset, tuple[slice, slice]]:
        """Return the part of the Dataset, not read yet, that holds a tile and its halo, and where it is in the tile's block."""
        top, left, height, width = tile.row - halo, tile.col - halo, tile.height + 2 * halo, tile.width + 2 * halo
        rows = slice(max(top, 0), min(top + height, self.grid.height))
        down = slice(rows.start - top, rows.stop - top)
        if self.wraps and (left < 0 or left + width > self.grid.width):
            cols = np.arange(left, left + width) % self.grid.width
            return self.data.isel({self.dims[0]: rows, self.dims[1]: cols}), (down, slice(0, width))
        inside = slice(max(left, 0), min(left + width, self.grid.width))
        return self.data.isel({self.dims[0]: rows, self.dims[1]: inside}), (down, slice(inside.start - left, inside.stop - left))

    def block(self, part: xr.Dataset, place: tuple[slice, slice], shape: tuple[int, int]) -> np.ndarray:
        """Return a block (V, h, w) float32 from the part that it holds, missing = NaN."""
        found, read = np.full((len(self.variables), *shape), np.nan, np.float32), part.compute()
        for k, each in enumerate(self.variables):
            found[k, *place] = each.cleaned(read[each.name].values)
        return found


def _dims(name: str, array: xr.DataArray) -> tuple[str, str]:
    """Return the names of the dimensions that run along y and x."""
    found = [[str(dim) for dim in array.dims if str(dim).lower() in names] for names in (_NORTH, _EAST)]
    if [len(each) for each in found] != [1, 1] or array.ndim != 2:
        has = ", ".join(map(str, array.dims)) or "none"
        raise UserError(f"{name}: has the dimensions {has}; a covariate has y and x, or lat and lon; select along others first")
    return found[0][0], found[1][0]


def _crs(name: str, array: xr.DataArray) -> str:
    """Return the CRS of a variable, as text."""
    if array.rio.crs is not None:
        return read_crs(as_text(array.rio.crs))
    if all(str(dim).lower() in _DEGREES for dim in array.dims):
        return "EPSG:4326"
    raise UserError(f"{name}: has no coordinate reference system; say it with data.rio.write_crs('EPSG:...')")


def _axis(data: xr.Dataset, dim: str, number: int) -> tuple[float, float, float]:
    """Return the least and largest coordinate along an axis (0: y, 1: x), and the step from cell to cell."""
    if dim not in data.coords:
        raise UserError(f"the Dataset has no coordinates along {dim}; give those of the cells' centres")
    values = data[dim].values.astype(np.float64)
    step = float(values[-1] - values[0]) / max(len(values) - 1, 1)
    if len(values) == 1:
        try:
            step = (-1.0, 1.0)[number] * abs(float(data.rio.resolution()[1 - number]))
        except Exception as error:  # rioxarray's own, and of missing dimensions
            raise UserError(f"{dim} has one coordinate, and the Dataset does not say how large a cell is") from error
    if not abs(step) > 0 or np.abs(values - values[0] - step * np.arange(len(values))).max() > _REGULAR * abs(step):
        raise UserError(f"the coordinates along {dim} are not evenly spaced; regrid the Dataset first")
    return float(values.min()), float(values.max()), step


def _variable(name: str, array: xr.DataArray, model: Predictor) -> _Variable:
    """Return how a variable is read: what xarray has not decoded is in its attributes."""
    said = [array.attrs[key] for key in ("_FillValue", "missing_value") if key in array.attrs]
    declared = [float(value) for value in np.ravel(said) if math.isfinite(float(value))] if said else []
    given = model.nodata.get(name, model.nodata.get("", ()))
    scale, offset = (float(array.attrs.get(key, usual)) for key, usual in (("scale_factor", 1.0), ("add_offset", 0.0)))
    asked = name in model.trained and name not in model.classes and not given and array.dtype.kind in "iuf"
    far = far_fills(str(array.dtype), model.trained[name], scale, offset) if asked else ()
    return _Variable(name, (*declared, *given), scale, offset, tuple(value for value in far if value not in declared))


# --- tiles -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """What is computed of a tile."""

    model: Predictor
    stack: _Covariates
    level: float
    max_missing: float
    applicability: bool

    def predicted(self, tile: Tile, part: xr.Dataset, place: tuple[slice, slice]) -> tuple[Predicted, Any]:
        """Return a tile's prediction, and its bands di and inside or None, from the part of the Dataset that it needs."""
        halo = self.model.halo
        block = self.stack.block(part, place, (tile.height + 2 * halo, tile.width + 2 * halo))
        middle = block[:, halo : halo + tile.height, halo : halo + tile.width]
        wanted = np.isnan(middle).mean(0) <= self.max_missing
        with _one_at_a_time:
            found = self.model.predict(block, wanted, Cells(self.stack.grid, tile))
            known = np.isfinite(found.members[0])  # forests need a climate
            return found, dissimilarity(self.model, middle, known) if self.applicability else None

    def bands(self, tile: Tile, part: xr.Dataset, place: tuple[slice, slice]) -> np.ndarray:
        """Return a tile's bands (B, h, w)."""
        found, unlike = self.predicted(tile, part, place)
        shown = self.model.bands(found, self.level)
        return shown if unlike is None else np.concatenate([shown, unlike])


def _lazily(task: _Task, count: int, side: int) -> Any:
    """Return the bands (B, H, W) as a dask array, a task for each tile."""
    import dask.array as da  # an extra; who gives dask arrays has it
    from dask import delayed

    stack = task.stack
    there = replace(task, stack=replace(stack, data=xr.Dataset()))  # dask would carry the whole Dataset along
    rows: dict[int, list[Any]] = {}
    for tile in stack.grid.tiles(side):
        part, place = stack.part(tile, task.model.halo)
        values = delayed(partial(there.bands, tile, place=place))(part)
        rows.setdefault(tile.row, []).append(da.from_delayed(values, (count, tile.height, tile.width), np.float32))
    return da.concatenate([da.concatenate(row, axis=2) for row in rows.values()], axis=1)


def _as_dataset(values: Any, bands: Sequence[Band], task: _Task) -> xr.Dataset:
    """Return bands (B, H, W) as a Dataset on the covariates' own coordinates."""
    stack, model = task.stack, task.model
    found = xr.Dataset(
        {
            band.name: (stack.dims, values[k], {"units": band.unit, "long_name": band.tags["MEANING"]})
            for k, band in enumerate(bands)
        },
        {dim: stack.data[dim] for dim in stack.dims},
        {"title": model.title, "source": f"soil-carbon-mapper {__version__}"},
    )
    return found.isel(stack.turns).rio.write_crs(stack.grid.crs)


def _warn_of_unusual(model: Predictor, stack: _Covariates) -> None:
    """Log where covariates, in a sample of cells, or widths of windows are unlike those of training."""
    random, grid = np.random.default_rng(0), stack.grid
    found, places = [], []
    for _ in range(_SPOTS):
        top, left = (int(random.integers(0, max(size - _SPOT, 0) + 1)) for size in (grid.height, grid.width))
        tile = Tile(0, top, left, min(_SPOT, grid.height), min(_SPOT, grid.width))
        shape = tile.height + 2 * model.halo, tile.width + 2 * model.halo
        row, col = np.mgrid[: tile.height, : tile.width].reshape(2, -1)
        found.append(model.packed(stack.block(*stack.part(tile, model.halo), shape), row, col))
        places.append(np.stack(lonlat(grid, top + row + 0.5, left + col + 0.5), axis=1))
    metres = dict.fromkeys(model.variables, nominal_metres(grid.crs, grid.cell[0]))
    model.predict_patches(np.concatenate(found), metres, np.concatenate(places))
