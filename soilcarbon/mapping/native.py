"""Windows of categories that are coarser than a map's grid, at their own resolution, as `prepare` cuts them round profiles.

A window is the raster's cell that holds the middle of the map's cell, and `radius` cells on each side. Resampled to the map's grid
it would be as many of the map's cells, which are smaller: another piece of the ground than in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, Tile, lonlat, nominal_metres, raster_grid
from soilcarbon.geo.raster import Layer
from soilcarbon.geo.resampling import ON_THE_GRID, Stack

_COARSER = 1.1
"""Cells that are larger by this factor are coarser."""


@dataclass(frozen=True)
class Native:
    """Layers of a category that are read on their own grid, and the radius of its windows in cells of that."""

    layers: tuple[Layer, ...]
    grid: Grid
    radius: int

    @property
    def metres(self) -> float:
        """Width of a cell."""
        return nominal_metres(self.grid.crs, self.grid.cell[0])


@dataclass(frozen=True)
class Windows:
    """A block (V, H, W) of a category's own cells, raw units, missing = NaN; row and column (h, w) in it of each cell's window."""

    block: np.ndarray
    rows: np.ndarray
    cols: np.ndarray


def natives_of(
    windows: Sequence[tuple[tuple[str, ...], int]], layers: Sequence[Layer], grid: Grid, trained: Mapping[str, float]
) -> dict[int, Native]:
    """Return those categories, by number, whose windows are read on their own grid.

    They are of more than one cell, of rasters of one grid that is coarser than the map's, and in training were of such cells rather
    than of the map's. `windows` are variables and radius of each category, `layers` in the order of the variables, `trained` is
    variable -> metres of its cells in training.
    """
    found, start = {}, 0
    fine = nominal_metres(grid.crs, sqrt(grid.cell[0] * grid.cell[1]))
    for k, (names, radius) in enumerate(windows):
        part = tuple(layers[start : start + len(names)])
        start += len(names)
        if not radius or names[0] not in trained:
            continue
        own = raster_grid(part[0].path)
        coarse = nominal_metres(own.crs, sqrt(own.cell[0] * own.cell[1]))
        if coarse <= _COARSER * fine or trained[names[0]] < sqrt(fine * coarse):
            continue
        with Stack(part, own) as stack:
            if all(how == ON_THE_GRID for how in stack.how().values()):
                found[k] = Native(part, own, radius)
    return found


def read_windows(native: Native, stack: Stack, grid: Grid, tile: Tile) -> Windows:
    """Read the windows of a tile of a map's grid; `stack` has the category's layers on their own grid."""
    own, radius = native.grid, native.radius
    row, col = np.mgrid[: tile.height, : tile.width] + 0.5
    lon, lat = lonlat(grid, (tile.row + row).ravel(), (tile.col + col).ravel())
    x, y = transformed("EPSG:4326", own.crs, lon, lat)
    if own.geographic:  # longitude is an angle
        x = own.x + (x - own.x) % 360.0
    known = np.isfinite(x) & np.isfinite(y)
    cells = np.zeros((2, lon.size), np.int64)
    if known.any():
        cells[:, known] = np.floor([(own.y - y[known]) / own.cell[1], (x[known] - own.x) / own.cell[0]])
        cells[:, ~known] = cells[:, known].min(1, keepdims=True)
    (top, left), (bottom, right) = cells.min(1), cells.max(1)
    size = 2 * radius + 1
    block = stack.read(int(top) - radius, int(left) - radius, int(bottom - top) + size, int(right - left) + size)
    rows, cols = (cells - [[top], [left]]).reshape(2, tile.height, tile.width)
    return Windows(block, rows, cols)
