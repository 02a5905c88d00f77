"""The grid of a map: its coordinate reference system, cells and extent, and the tiles it is worked through in.

In: what a user says of the map (a raster to follow, or CRS, cell size and bounds). Out: one `Grid`, north up.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from files import UserError
from rasters import Layer, grid_of

Bounds = tuple[float, float, float, float]
"""x_min, x_max, y_min, y_max in a CRS's own unit."""
_LATTICE = 21
"""Points along each side of an extent that is brought to another CRS."""
_HAIR = 1e-6
"""Of a cell: bounds lie on cell edges, but for rounding."""
_MAXIMUM_CELLS = 10**13
"""A grid of more cells is a mistake: the land of the Earth at 4 m."""


@dataclass(frozen=True)
class Tile:
    """A part of a grid: its number in reading order, first row and column, height and width in cells."""

    number: int
    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class Grid:
    """Cells of a map, north up.

    Attributes
    ----------
    crs
        Anything rasterio understands, "EPSG:4326" or WKT.
    x, y
        Of the upper left corner, in the CRS's unit.
    cell
        Width and height of a cell, both positive, in the CRS's unit.
    height, width
        Rows and columns.
    """

    crs: str
    x: float
    y: float
    cell: tuple[float, float]
    height: int
    width: int

    @property
    def transform(self) -> Affine:
        """From (column, row) to the CRS's coordinates, of a cell's upper left corner."""
        return Affine(self.cell[0], 0.0, self.x, 0.0, -self.cell[1], self.y)

    @property
    def bounds(self) -> Bounds:
        """The extent."""
        return self.x, self.x + self.width * self.cell[0], self.y - self.height * self.cell[1], self.y

    @property
    def geographic(self) -> bool:
        """Whether the coordinates are degrees."""
        return bool(CRS.from_user_input(self.crs).is_geographic)

    def tiles(self, side: int) -> Iterator[Tile]:
        """Yield tiles of `side` x `side` cells (smaller at the right and lower edge) in reading order."""
        across = math.ceil(self.width / side)
        for number in range(across * math.ceil(self.height / side)):
            row, col = number // across * side, number % across * side
            yield Tile(number, row, col, min(side, self.height - row), min(side, self.width - col))

    def crop(self, bounds: Bounds) -> "Grid":
        """Return the part whose cells touch the bounds, given in the grid's CRS; whole cells are kept.

        Raises
        ------
        UserError
            If no cell does.
        """
        x_min, x_max, y_min, y_max = bounds
        left = max(0, math.floor((x_min - self.x) / self.cell[0] + _HAIR))
        right = min(self.width, math.ceil((x_max - self.x) / self.cell[0] - _HAIR))
        top = max(0, math.floor((self.y - y_max) / self.cell[1] + _HAIR))
        bottom = min(self.height, math.ceil((self.y - y_min) / self.cell[1] - _HAIR))
        if left >= right or top >= bottom:
            raise UserError(
                f"bounds {_shown(bounds)} hold no cell of the map's grid, {_shown(self.bounds)} in {short_name(self.crs)}"
            )
        x, y = self.x + left * self.cell[0], self.y - top * self.cell[1]
        return Grid(self.crs, x, y, self.cell, bottom - top, right - left)


def _shown(bounds: Sequence[float]) -> str:
    return "x {:.6g} to {:.6g}, y {:.6g} to {:.6g}".format(*bounds)


def short_name(crs: str) -> str:
    """Return a CRS's authority code or its own name: WKT is long."""
    known = CRS.from_user_input(crs)
    if known.to_epsg() is not None:
        return f"EPSG:{known.to_epsg()}"
    return str(known.to_dict(projjson=True).get("name", "unnamed CRS"))


def raster_grid(path: Path) -> Grid:
    """Return a raster's own grid, turned north up.

    Raises
    ------
    UserError
        If it is not readable, has no CRS, or is rotated.
    """
    crs, corner, height, width = grid_of(path)
    x = min(corner.c, corner.c + corner.a * width)
    y = max(corner.f, corner.f + corner.e * height)
    return Grid(crs, x, y, (abs(corner.a), abs(corner.e)), height, width)


def read_crs(text: str) -> str:
    """Return a CRS as WKT or authority code; UserError if it is none."""
    try:
        return str(CRS.from_user_input(text).to_string())
    except CRSError as error:
        raise UserError(f"crs {text!r}: not a coordinate reference system; give a code like EPSG:3035, or WKT") from error


def bounds_in(bounds: Bounds, crs: str, other: str) -> Bounds:
    """Return the extent, in `other`, of bounds given in `crs`."""
    if CRS.from_user_input(crs) == CRS.from_user_input(other):
        return bounds
    x_min, x_max, y_min, y_max = bounds
    left, bottom, right, top = transform_bounds(crs, other, x_min, y_min, x_max, y_max, densify_pts=_LATTICE)
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise UserError(f"{_shown(bounds)} in {short_name(crs)} has no finite extent in {short_name(other)}; give the map's bounds")
    if right < left:  # across the antimeridian
        right += 360.0
    return left, right, bottom, top


def nominal_metres(crs: str, cell: float) -> float:
    """Return how wide a cell of a CRS is, in metres; a degree counts as it does along a meridian."""
    known = CRS.from_user_input(crs)
    return cell * (111_195.0 if known.is_geographic else float(known.linear_units_factor[1]))


def cell_sizes(rasters: Any) -> dict[str, float]:
    """Return variable -> cell in metres (`nominal_metres`), of what a checkpoint's record says of its rasters.

    A record may come from a stranger: what is not of the form [{crs, cell_size, variables}, ...] tells nothing.
    """
    try:
        return {
            str(name): nominal_metres(each["crs"], float(each["cell_size"][0])) for each in rasters for name in each["variables"]
        }
    except (TypeError, KeyError, IndexError, ValueError, CRSError):
        return {}


def finest(layers: Sequence[Layer]) -> Path:
    """Return the raster with the smallest cells on the ground, the first of equals."""
    paths = list(dict.fromkeys(layer.path for layer in layers))
    own = [raster_grid(path) for path in paths]
    sizes = [nominal_metres(grid.crs, grid.cell[0]) for grid in own]
    return paths[int(np.argmin(np.round(np.log(sizes), 3)))]


def target_grid(
    layers: Sequence[Layer],
    like: Path | None = None,
    crs: str | None = None,
    resolution: float | None = None,
    bounds: Bounds | None = None,
) -> Grid:
    """Return the grid a map is made on.

    Parameters
    ----------
    layers
        The covariates, at least one.
    like
        The raster to follow; default: the one with the smallest cells.
    crs, resolution
        The grid's own CRS and cell size, in its unit, instead of that raster's.
    bounds
        The extent, in the grid's CRS; default: that raster's.

    Raises
    ------
    UserError
        If rasters cannot be read, the CRS is none, or the extent holds no cell or absurdly many.
    """
    follow = raster_grid(like or finest(layers))
    grid = follow
    if crs is not None or resolution is not None:
        chosen = follow.crs if crs is None else read_crs(crs)
        same = CRS.from_user_input(chosen) == CRS.from_user_input(follow.crs)
        if resolution is None and not same:
            raise UserError(f"crs {short_name(chosen)} needs --resolution, the cell's size in its unit")
        cell = (resolution, resolution) if resolution is not None else follow.cell
        x_min, x_max, y_min, y_max = bounds or bounds_in(follow.bounds, follow.crs, chosen)
        spans = ((y_max - y_min) / cell[1], (x_max - x_min) / cell[0])
        height, width = (max(0, math.ceil(span - _HAIR)) for span in spans)
        if height * width == 0:
            raise UserError(f"the map's extent {_shown((x_min, x_max, y_min, y_max))} holds no cell")
        grid = Grid(chosen, x_min, y_max, cell, height, width)
    elif bounds is not None:
        grid = follow.crop(bounds)
    if grid.height * grid.width > _MAXIMUM_CELLS:
        raise UserError(f"the map would have {grid.height} x {grid.width} cells; is the resolution in the unit of the CRS?")
    return grid


def lonlat(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude, degrees EPSG:4326, of places given by row and column (n,), 0.5 a cell's middle."""
    x, y = grid.x + np.asarray(cols) * grid.cell[0], grid.y - np.asarray(rows) * grid.cell[1]
    if CRS.from_user_input(grid.crs) == CRS.from_epsg(4326):
        return x, y
    lon, lat = transform(grid.crs, "EPSG:4326", x, y)
    return np.asarray(lon), np.asarray(lat)


def _turned(bounds: Bounds, grid: Grid) -> list[Bounds]:
    """Return bounds as they lie on a grid: on a geographic one also a whole turn further west and east, where they meet it."""
    x_min, x_max, y_min, y_max = bounds
    here = grid.bounds
    turns = (-360.0, 0.0, 360.0) if grid.geographic else (0.0,)
    places = [(x_min + turn, x_max + turn, y_min, y_max) for turn in turns]
    return [each for each in places if each[0] < here[1] and each[1] > here[0] and y_min < here[3] and y_max > here[2]]


def crop_to_area(grid: Grid, area: Bounds, path: Path) -> Grid:
    """Return the part of a grid that holds an area, given by its extent in EPSG:4326; `path` is for the message."""
    places = _turned(bounds_in(area, "EPSG:4326", grid.crs), grid)
    if not places:
        raise UserError(f"{path}: the area of interest, {_shown(area)} degrees, does not meet the map's grid")
    return grid.crop((min(each[0] for each in places), max(each[1] for each in places), *places[0][2:]))


def apart(grid: Grid, layers: Sequence[Layer]) -> list[Path]:
    """Return the rasters that share no ground with a grid."""
    own = {path: raster_grid(path) for path in dict.fromkeys(layer.path for layer in layers)}
    return [path for path, other in own.items() if not _turned(bounds_in(other.bounds, other.crs, grid.crs), grid)]


def as_plain(grid: Grid) -> dict[str, Any]:
    """Return the grid as plain containers, for records."""
    return {"crs": grid.crs, "corner": [grid.x, grid.y], "cell": list(grid.cell), "shape": [grid.height, grid.width]}
