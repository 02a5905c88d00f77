"""The grid of a map: its coordinate reference system, cells and extent, and the tiles it is worked through in.

In: the user's specification of the map (a raster to follow, or CRS, cell size and bounds). Out: one `Grid`, north up.
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

from soilcarbon.geo.crs import Bounds, as_text, bounds_in, parse_crs, read_crs, short_name, shown, transformed
from soilcarbon.geo.raster import Layer, by_file, check_raster, named_errors, open_raster
from soilcarbon.io.files import UserError

_LATTICE = 21  # cells along each side of a grid that are looked for on another one
_HAIR = 1e-6  # of a cell: bounds lie on cell edges, but for rounding
_MAXIMUM_CELLS = 10**13  # a grid of more cells is a mistake: the land of the Earth at 4 m
_RADIUS = 6_371_000.0  # of the Earth, metres


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
    """Cells of a map, north up."""

    crs: str  # anything rasterio understands, "EPSG:4326" or WKT
    x: float  # of the upper left corner, in the CRS's unit, as y
    y: float
    cell: tuple[float, float]  # width and height of a cell, both positive, in the CRS's unit
    height: int  # rows
    width: int  # columns

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

    def coordinates(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of places given by row and column, 0.5 the middle of the first cell."""
        return self.x + cols * self.cell[0], self.y - rows * self.cell[1]

    def places(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column, with fractions, of coordinates in the grid's CRS; of longitudes the first one from its west."""
        east = x - self.x
        return (self.y - y) / self.cell[1], (east % 360.0 if self.geographic else east) / self.cell[0]

    def tiles(self, side: int) -> Iterator[Tile]:
        """Return tiles of `side` x `side` cells (smaller at the right and lower edge) in reading order."""
        return (self.tile(number, side) for number in range(self.tile_count(side)))

    def tile_count(self, side: int) -> int:
        """Return how many tiles there are of `side` x `side` cells."""
        return -(-self.height // side) * -(-self.width // side)

    def tile(self, number: int, side: int) -> Tile:
        """Return the tile of a number, as in `tiles(side)`.

        IndexError if there is none of this number.
        """
        if not 0 <= number < self.tile_count(side):
            raise IndexError(f"tile {number} of {self.tile_count(side)}")
        down, right = divmod(number, -(-self.width // side))
        row, col = down * side, right * side
        return Tile(number, row, col, min(side, self.height - row), min(side, self.width - col))

    def crop(self, bounds: Bounds) -> "Grid":
        """Return the part whose cells touch the bounds, given in the grid's CRS; whole cells are kept.

        UserError if no cell does.
        """
        x_min, x_max, y_min, y_max = bounds
        left, right = _touched(x_min - self.x, x_max - self.x, self.cell[0], self.width)
        top, bottom = _touched(self.y - y_max, self.y - y_min, self.cell[1], self.height)
        if left >= right or top >= bottom:
            raise UserError(
                f"bounds {shown(bounds)} hold no cell of the map's grid, {shown(self.bounds)} in {short_name(self.crs)}"
            )
        x, y = self.x + left * self.cell[0], self.y - top * self.cell[1]
        return Grid(self.crs, x, y, self.cell, bottom - top, right - left)


def _touched(start: float, end: float, cell: float, size: int) -> tuple[int, int]:
    """Return the cells [from, to), of `size` in a row, that a stretch touches; NaN touches none."""
    first, last = start / cell + _HAIR, end / cell - _HAIR
    if not (first < size and last > 0):
        return 0, 0
    return math.floor(max(first, 0.0)), math.ceil(min(last, float(size)))


def north_up(raster: Any) -> Grid:
    """Return the grid of an open raster that `rasters.check_raster` has passed, turned north up."""
    corner = raster.transform
    x = min(corner.c, corner.c + corner.a * raster.width)
    y = max(corner.f, corner.f + corner.e * raster.height)
    return Grid(as_text(raster.crs), x, y, (abs(corner.a), abs(corner.e)), raster.height, raster.width)


def raster_grid(path: Path) -> Grid:
    """Return a raster's own grid, turned north up.

    UserError if it is not readable, has no CRS or one that no map can be made in, or is rotated.
    """
    with named_errors(path), open_raster(path) as raster:
        check_raster(raster, path)
        return north_up(raster)


def nominal_metres(crs: CRS | str, cell: float) -> float:
    """Return how wide a cell of a CRS is, in metres; a degree counts as it does along a meridian."""
    known = CRS.from_user_input(crs)
    return cell * float(known.units_factor[1]) * (_RADIUS if known.is_geographic else 1.0)


def cell_sizes(rasters: Any) -> dict[str, float]:
    """Return variable -> cell in metres (`nominal_metres`), from a checkpoint's record of its rasters.

    A record may come from an untrusted file: entries not of the form {crs, cell_size, variables} are ignored.
    """
    found: dict[str, float] = {}
    for each in rasters if isinstance(rasters, list | tuple) else []:
        try:
            size = nominal_metres(parse_crs(str(each["crs"])), float(each["cell_size"][0]))
            names = each["variables"]
        except (TypeError, KeyError, IndexError, ValueError, OverflowError, CRSError):
            continue
        if math.isfinite(size) and size > 0 and isinstance(names, list):
            found |= {name: size for name in names if isinstance(name, str)}
    return found


def finest(layers: Sequence[Layer]) -> Path:
    """Return the raster with the smallest cells on the ground, the first of equals."""
    own = {path: raster_grid(path) for path in by_file(layers)}
    sizes = {path: nominal_metres(grid.crs, math.sqrt(grid.cell[0] * grid.cell[1])) for path, grid in own.items()}
    return min(sizes, key=lambda path: np.round(np.log(sizes[path]), 3))


def target_grid(
    layers: Sequence[Layer],
    like: Path | None = None,
    crs: str | None = None,
    resolution: float | None = None,
    bounds: Bounds | None = None,
) -> Grid:
    """Return the grid a map is made on: that of the raster `like`, by default the layer with the smallest cells.

    `crs` and `resolution`, the cell's size in its unit, are taken instead of that raster's. Bounds, in the grid's CRS, are taken as
    they are: the first cell starts at their upper left corner. Without them the extent is that raster's; with a CRS or cell size
    that is not that raster's it is widened to whole multiples of the cell size, counted from the CRS's origin, so that maps of one
    CRS and cell size have the same cells (as INSPIRE's grids).

    UserError if rasters cannot be read, the CRS is none, or the extent holds no cell or absurdly many.
    """
    if bounds is not None and not (all(map(math.isfinite, bounds)) and bounds[0] < bounds[1] and bounds[2] < bounds[3]):
        raise UserError(f"bounds {shown(bounds)}: they have to be finite, each lower limit below its upper limit")
    follow = raster_grid(like or finest(layers))
    chosen = follow.crs if crs is None else read_crs(crs)
    same_crs = CRS.from_user_input(chosen) == CRS.from_user_input(follow.crs)
    if resolution is None:
        if not same_crs:
            raise UserError(f"crs {short_name(chosen)} needs --resolution, the cell's size in its unit")
        grid = follow if bounds is None else follow.crop(bounds)
    elif not (math.isfinite(resolution) and resolution > 0):
        raise UserError(f"resolution {resolution}: a cell's size is a number above 0")
    elif bounds is None and same_crs and all(math.isclose(size, resolution, rel_tol=1e-9) for size in follow.cell):
        grid = follow
    else:
        extent = bounds_in(follow.bounds, follow.crs, chosen) if bounds is None else bounds
        if max(extent[1] - extent[0], extent[3] - extent[2]) / resolution < 1 - _HAIR:
            raise UserError(f"resolution {resolution:g} exceeds the map's extent, {shown(extent)}; is it in the unit of the CRS?")
        grid = _regular(chosen, resolution, _snapped(extent, resolution, chosen) if bounds is None else bounds)
    if grid.height * grid.width > _MAXIMUM_CELLS:
        raise UserError(f"the map would have {grid.height:.6g} x {grid.width:.6g} cells; is the resolution in the unit of the CRS?")
    return grid


def _snapped(extent: Bounds, cell: float, crs: str) -> Bounds:
    """Return an extent widened to whole multiples of the cell size; of degrees not beyond a pole or a whole turn."""
    x_min, x_max, y_min, y_max = (_multiple(limit, cell, up) for limit, up in zip(extent, (False, True, False, True), strict=True))
    if CRS.from_user_input(crs).is_geographic:
        if x_max - x_min > 360 + _HAIR * cell:  # the same ground twice
            x_min, x_max = extent[:2]
        y_min, y_max = max(y_min, min(extent[2], -90.0)), min(y_max, max(extent[3], 90.0))
    return x_min, x_max, y_min, y_max


def _multiple(limit: float, cell: float, up: bool) -> float:
    """Return the multiple of a cell size at a limit or next beyond it; a limit that is one but for rounding stays as it is."""
    count = limit / cell
    if not math.isfinite(count) or abs(count) > _MAXIMUM_CELLS:
        return limit  # the message on too many cells comes later
    if abs(count - round(count)) < _HAIR:
        return round(count) * cell if cell.is_integer() else limit
    return (math.ceil(count) if up else math.floor(count)) * cell


def _regular(crs: str, cell: float, bounds: Bounds) -> Grid:
    """Return a grid of square cells that starts at the upper left corner of bounds and covers them."""
    x_min, x_max, y_min, y_max = bounds
    spans = (y_max - y_min) / cell, (x_max - x_min) / cell
    height, width = (max(1, math.ceil(min(span, float(_MAXIMUM_CELLS)) - _HAIR)) for span in spans)
    return Grid(crs, x_min, y_max, (cell, cell), height, width)


def lonlat(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude, degrees EPSG:4326, of places (n,), as of `Grid.coordinates`; NaN off the Earth."""
    return transformed(grid.crs, "EPSG:4326", *grid.coordinates(np.asarray(rows), np.asarray(cols)))


def crop_to_area(grid: Grid, area: Bounds, path: Path) -> Grid:
    """Return the part of a grid that holds an area, given by its extent in the grid's CRS; `path` is for the message.

    On a geographic grid the area is also looked for a whole turn further west and east.
    """
    x_min, x_max, y_min, y_max = area
    west, east, south, north = grid.bounds
    turns = (-360.0, 0.0, 360.0) if grid.geographic else (0.0,)
    places = [(x_min + turn, x_max + turn) for turn in turns if x_min + turn < east and x_max + turn > west]
    if not places or y_min >= north or y_max <= south:
        raise UserError(f"{path}: the area of interest, {shown(area)}, does not meet the map's grid, {shown(grid.bounds)}")
    return grid.crop((min(place[0] for place in places), max(place[1] for place in places), y_min, y_max))


def apart(grid: Grid, layers: Sequence[Layer]) -> list[Path]:
    """Return the rasters that share no ground with a grid: none of a lattice of their cells has its middle on the other.

    An extent would not do: that of the Earth in UTM, say, is none.
    """
    own = {path: raster_grid(path) for path in by_file(layers)}
    return [path for path, other in own.items() if not (_on(grid, other).any() or _on(other, grid).any())]


def covered(grid: Grid, layers: Sequence[Layer]) -> float:
    """Return which share of a grid's cells lies in every raster, 0 to 1: of those on a lattice that are on the Earth.

    A share below a few hundredths is a rough figure, and 0 may miss a small raster: see `apart`.
    """
    own = {raster_grid(path) for path in by_file(layers)}
    on_earth = np.isfinite(lonlat(grid, *_lattice(grid))[0])
    if not on_earth.any():
        return 0.0
    inside = np.logical_and.reduce([_on(grid, other) for other in own])
    return float(inside[on_earth].mean())


def _lattice(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (n,) of the lattice."""
    rows, cols = (np.linspace(0.5, size - 0.5, _LATTICE) for size in (grid.height, grid.width))
    row, col = (index.ravel() for index in np.meshgrid(rows, cols))
    return row, col


def _on(grid: Grid, other: Grid) -> np.ndarray:
    """Return which cells of a grid's lattice (n,) have their middle on another grid."""
    row, col = other.places(*transformed(grid.crs, other.crs, *grid.coordinates(*_lattice(grid))))
    return np.asarray((row >= 0) & (row < other.height) & (col >= 0) & (col < other.width))


def as_plain(grid: Grid) -> dict[str, Any]:
    """Return the grid as plain containers, for records."""
    return {"crs": grid.crs, "corner": [grid.x, grid.y], "cell": list(grid.cell), "shape": [grid.height, grid.width]}
