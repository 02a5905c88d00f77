"""Grid of a model: rows of latitude and columns of longitude, evenly spaced or not, and the areas it shares with a map's cells.

In: a NetCDF or GeoTIFF of the model, or the size of a cell. Out: a `ModelGrid`, and for each tile of a map which of its cells lie
in which of the model's, with the area in km2: what area-weighted means are made of.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from soilcarbon.geo.crs import bounds_in, transformed
from soilcarbon.geo.field import AXES, edges_between, is_axis, open_netcdf
from soilcarbon.geo.grid import Grid, Tile, lonlat, nominal_metres, raster_grid
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError, must_exist

_PARTS_ALONG = 8
"""Of a model's cell, into which cells of a projected map are cut at least, each part belonging where its middle lies."""
_MOST_PARTS = 16
_TOUCHING = 1e-4  # degrees by which the bounds of neighbouring cells may differ
_UNEVEN = 1e-3  # degrees by which the rows of a regular grid may be unevenly spaced
_MOST_CELLS = 30_000_000
_TURNS = (-360.0, 0.0, 360.0)


@dataclass(frozen=True)
class ModelGrid:
    """Cells of a model between latitudes and longitudes, degrees.

    UserError if cells do not touch, or lie beyond the poles or one turn.
    """

    lat: np.ndarray  # (H,) centres, in the model's own order
    lon: np.ndarray  # (W,)
    lat_bounds: np.ndarray  # (H, 2) edges of the cells
    lon_bounds: np.ndarray  # (W, 2)

    def __post_init__(self) -> None:
        if len(self.lat) * len(self.lon) > _MOST_CELLS:
            raise UserError(f"a grid of {len(self.lat):,} x {len(self.lon):,} cells is too large for a model; give larger cells")
        for name, bounds in (("latitudes", self.lat_bounds), ("longitudes", self.lon_bounds)):
            ordered = np.sort(bounds, axis=1)[np.argsort(bounds.min(1))]
            if not np.isfinite(bounds).all() or np.abs(ordered[1:, 0] - ordered[:-1, 1]).max(initial=0) > _TOUCHING:
                raise UserError(f"the cells' {name} leave gaps or overlap; a model's grid has rows and columns of degrees")
        if np.abs(self.lat_bounds).max() > 90 + _TOUCHING or np.ptp(self.lon_bounds) > 360 + _TOUCHING:
            raise UserError("latitudes must lie within 90 degrees of the equator, longitudes within one turn")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.lat), len(self.lon)

    @property
    def km2(self) -> np.ndarray:
        """True areas of the cells on the WGS84 ellipsoid, (H, W)."""
        tall = np.abs(np.diff(_equal_area(self.lat_bounds), axis=1))
        wide = np.abs(np.diff(self.lon_bounds, axis=1))
        return np.asarray(tall * wide.T)

    def overlaps(self, grid: Grid, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which cells of a map's tile lie in which of the model's: numbers (m,) of both, row by row, and the shared km2.

        On a map in degrees the areas are exact. Cells of any other are cut into parts where fewer than eight lie along the side of
        one of the model's; each part belongs to the cell that its middle lies in, so that nothing is lost or counted twice. No
        pair of cells is there twice.
        """
        return self._exact(grid, tile) if grid.geographic else self._by_parts(grid, tile)

    def _exact(self, grid: Grid, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        south, north = (grid.y - (tile.row + np.arange(tile.height) + k) * grid.cell[1] for k in (1, 0))
        west, east = (grid.x + (tile.col + np.arange(tile.width) + k) * grid.cell[0] for k in (0, 1))
        ours, theirs = (
            _equal_area(np.clip(np.sort(each, axis=1), -90, 90)) for each in (self.lat_bounds, np.stack([south, north], 1))
        )
        tall = _overlap(ours, theirs)
        bounds = np.sort(self.lon_bounds, axis=1)
        wide = sum(_overlap(bounds + turn, np.stack([west, east], 1)) for turn in _TURNS)
        (row, down), (col, across) = (np.nonzero(each) for each in (tall, np.asarray(wide)))
        km2 = np.outer(tall[row, down], np.asarray(wide)[col, across])
        cells, fine = np.add.outer(row * len(self.lon), col), np.add.outer(down * tile.width, across)
        return cells.ravel(), fine.ravel(), km2.ravel()

    def _by_parts(self, grid: Grid, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = nominal_metres(
            "EPSG:4326", float(min(np.abs(np.diff(each, axis=1)).min() for each in (self.lat_bounds, self.lon_bounds)))
        )
        ratio = own / nominal_metres(grid.crs, max(grid.cell))
        parts = int(np.clip(math.ceil(_PARTS_ALONG / ratio), 1, _MOST_PARTS))
        steps = (np.arange(parts) + 0.5) / parts
        rows = (tile.row + np.arange(tile.height)[:, None] + steps).ravel()
        cols = (tile.col + np.arange(tile.width)[:, None] + steps).ravel()
        row, col = (each.ravel() for each in np.meshgrid(rows, cols, indexing="ij"))
        lon, lat = lonlat(grid, row, col)
        found = self.cells(lon, lat)
        fine = np.add.outer(np.arange(tile.height).repeat(parts) * tile.width, np.arange(tile.width).repeat(parts)).ravel()
        area = np.broadcast_to(cell_areas(grid, tile), (tile.height, tile.width)).ravel() / parts**2
        inside = found >= 0
        # parts of one cell in the same one of the model's are together: their errors are one
        pair, which = np.unique(found[inside] * area.size + fine[inside], return_inverse=True)
        return pair // area.size, pair % area.size, np.bincount(which, area[fine[inside]])

    def cells(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the number of the cell that each place (n,) lies in, row by row; -1 outside."""
        row = _within(self.lat_bounds, np.asarray(lat))
        west = float(self.lon_bounds.min())
        col = _within(self.lon_bounds, west + (np.asarray(lon) - west) % 360.0)
        return np.where((row >= 0) & (col >= 0), row * len(self.lon) + col, -1)


def _equal_area(latitude: np.ndarray) -> np.ndarray:
    """Return latitudes (any shape) such that their differences times those of longitudes, degrees, are areas in km2."""
    flat = np.clip(latitude, -90.0, 90.0).ravel()
    x, y = transformed("EPSG:4326", "+proj=cea +datum=WGS84", np.ones(len(flat)), flat)
    return np.asarray((x * y / 1e6).reshape(np.shape(latitude)))


def _overlap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the lengths (n, m) that stretches (n, 2) and (m, 2), in ascending order, share."""
    shared = np.minimum(ours[:, None, 1], theirs[None, :, 1]) - np.maximum(ours[:, None, 0], theirs[None, :, 0])
    length = np.maximum(shared, 0.0)
    return np.where(length > 1e-9 * (theirs[:, 1] - theirs[:, 0]), length, 0.0)


def _within(bounds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the row of bounds (n, 2) that each value lies in; -1 for none."""
    low, order = np.sort(bounds.min(1)), np.argsort(bounds.min(1))
    last = bounds.max()
    with np.errstate(invalid="ignore"):
        at = np.searchsorted(low, values, side="right") - 1
        outside = ~((values >= low[0]) & (values <= last))
    return np.where(outside, -1, order[np.clip(at, 0, len(low) - 1)])


def regular_grid(cell: float, grid: Grid) -> ModelGrid:
    """Return cells of `cell` degrees, counted from 180 W and 90 N, that hold a map; northwards, of all longitudes at most.

    UserError if half a turn is no multiple of the cell.
    """
    rows, cols = round(180 / cell), round(360 / cell)
    if abs(rows * cell - 180) > 1e-6:
        raise UserError(f"cell {cell:g}: 180 degrees are no multiple of it; give one like 0.25, 0.5 or 1, or a model's file (grid)")
    west, east, south, north = bounds_in(grid.bounds, grid.crs, "EPSG:4326")
    if east - west > 360 - cell:
        west, east = -180.0, 180.0
    left, right = math.floor((west + 180) / cell + 1e-6), math.ceil((east + 180) / cell - 1e-6)
    top, bottom = max(0, math.floor((90 - north) / cell + 1e-6)), min(rows, math.ceil((90 - south) / cell - 1e-6))
    lat, lon = 90 - 180 * np.arange(top, bottom + 1) / rows, -180 + 360 * np.arange(left, right + 1) / cols
    return _from_edges(lat, lon)


def own_grid(grid: Grid) -> ModelGrid:
    """Return the cells of a map in degrees as a model's grid.

    UserError if it is in a projection.
    """
    if not grid.geographic:
        raise UserError("the map is not in degrees: give cell, the side of the model's cells, or grid, a file of the model")
    lat, lon = grid.coordinates(np.arange(grid.height + 1), np.arange(grid.width + 1))[::-1]
    return _from_edges(np.clip(lat, -90, 90), lon)


def _from_edges(lat: np.ndarray, lon: np.ndarray) -> ModelGrid:
    """Return a grid in CMIP's order, northwards and eastwards."""
    bounds = [np.stack([each[:-1], each[1:]], axis=1) for each in (np.sort(lat), lon)]
    return ModelGrid(bounds[0].mean(1), bounds[1].mean(1), *bounds)


def read_model_grid(path: Path) -> ModelGrid:
    """Read the grid of a model: of a NetCDF its latitudes and longitudes with their bounds, of a GeoTIFF in degrees its cells.

    UserError if it cannot be read, or has no rows and columns of degrees.
    """
    must_exist(path, "grid of a model")
    if path.suffix.lower() not in (".nc", ".nc4", ".cdf"):
        found = raster_grid(path)
        if not found.geographic:
            raise UserError(f"{path}: is not in degrees; a model's grid has rows and columns of latitude and longitude")
        return own_grid(found)
    with open_netcdf(path) as data:
        axes = [_axis(path, data, which) for which in ("lat", "lon")]
    try:
        (lat, lat_bounds), (lon, lon_bounds) = axes
        return ModelGrid(lat, lon, np.clip(lat_bounds, -90, 90), lon_bounds)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _axis(path: Path, data: xr.Dataset, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (n,) and bounds (n, 2) of latitudes or longitudes."""
    for name, array in data.variables.items():
        if array.dims == (name,) and array.dtype.kind in "iuf" and array.size > 1 and is_axis(str(name), array, which):
            centres = np.asarray(array.values, np.float64)
            bounds = data.variables.get(str(array.attrs.get("bounds", "")))
            if bounds is not None and bounds.shape == (len(centres), 2):
                return centres, np.asarray(bounds.values, np.float64)
            turned = -1 if centres[-1] < centres[0] else 1
            edges = turned * edges_between(turned * centres)
            if which == "lat" and np.ptp(np.diff(centres)) > _UNEVEN:  # Gaussian: the outer rows reach the poles
                for end, next_one in ((0, 1), (-1, -2)):
                    if abs(edges[end] - edges[next_one]) > 90 - abs(edges[end]):
                        edges[end] = np.copysign(90.0, edges[end])
            return centres, np.stack([edges[:-1], edges[1:]], axis=1)
    unit = AXES[which][0]
    raise UserError(f"{path}: has no axis {which} in {unit}; a model's grid has rows and columns of latitude and longitude")
