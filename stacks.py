"""Covariate rasters brought to the grid of a map on the fly, window by window.

In: layers of GeoTIFFs in any CRS and cell size, and a `Grid`. Out: float32 arrays on that grid, missing = NaN.

    with Stack(find_layers([Path("covariates")]), grid) as stack:
        patch = stack.read(row=-7, col=1017, height=526, width=526)  # (V, 526, 526), beyond the grid's edges too

A file whose cells are the grid's is read as it is. Any other is interpolated here, by the formulas of GDAL's warper
with exact coordinates, and not by GDAL itself, for three reasons:

- `rasterio.warp.reproject` places cells by approximation, to an eighth of a source cell, line by line of the window it
  is given; and even exact places, relative to a window, differ between windows in their last digits. Values, and some
  nearest neighbours, would depend on how a map is cut into tiles. Here a cell's value is a function of its row and column
  alone: whatever window it is read in, it has the same bits.
- A warped view of a file (WarpedVRT) would mix undeclared -9999, NaN and absurd fill values into their neighbours, and
  round the interpolated values of integers. Here cells are cleaned first, as `rasters.cut_windows` does.
- Longitude is an angle: at the antimeridian interpolation goes on with the raster's other side.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform
from scipy.sparse import csr_array

import rasters
from grids import Grid
from rasters import UNDECLARED, Layer, check_raster, named_errors, open_raster, read_cells, spans_the_globe

log = getLogger(__name__)

_OPEN_FILES = 200
"""Files kept open; a process may often open 1024."""
_STRIP = 1024
"""Rows and columns of target cells whose coordinates are held at once."""
_WEIGHTS_AT_ONCE = 2**22
"""Interpolation weights held at once: 50 MB."""
_HAIR = 1e-6
"""Of a cell: a point this near to a cell's edge lies on it, and belongs to the next cell whatever its last digits are."""
_WHOLE = 1e-3
"""Of a cell: grids that are shifted by less coincide."""
_SAME_SIZE = 1e-6
"""Cells that differ by less, relatively, are the same."""
_DRIFT = 0.05
"""Of a cell: grids whose cells coincide at one corner may part by so much at the other."""
_AS_FINE = 1 / 0.95
"""Source cells per target cell up to which nothing is averaged; GDAL's threshold."""
_ENOUGH = 4
"""Source cells per target cell from which they are averaged in whole blocks first."""
_BLOCK = 32
"""Rows and columns of the blocks in which the edge of a projection's domain is looked for."""
_LATTICE = 15
"""Places along each side of a grid at which cells are compared."""


@dataclass(frozen=True)
class _Axis:
    """How target cells take values along rows, or along columns, of a source."""

    block: int = 1
    """Source cells that are added up first; blocks are counted from the source's upper left corner."""
    stretch: float = 1.0
    """Half the width of the triangular kernel, in blocks; 1 is linear interpolation."""

    @property
    def reach(self) -> int:
        """Blocks on each side that have some weight."""
        return math.ceil(self.stretch)

    def taps(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, of places (M,) in source cells, the first block (M,) that counts and weights (M, 2 reach) from it on."""
        at = place / self.block - 0.5
        first = np.floor(at).astype(np.int64) - (self.reach - 1)
        distance = np.abs(first[:, None] + np.arange(2 * self.reach) - at[:, None])
        return first, np.maximum(0.0, 1.0 - distance / self.stretch)


def _axis(ratio: float, size: int | None) -> _Axis:
    """Return how to sample an axis with `ratio` source cells per target cell; `size` cells go round, if it is given."""
    if not ratio > _AS_FINE:
        return _Axis()
    block = 1
    if ratio >= _ENOUGH:
        block = int(ratio / 2)
        while size is not None and size % block:  # else there would be half a block at the seam
            block -= 1
    return _Axis(block, ratio / block)


@dataclass
class _Source:
    """Files that share one grid, turned north up in thought."""

    crs: CRS
    x: float
    """Western edge."""
    y: float
    """Northern edge."""
    cell: tuple[float, float]
    height: int
    width: int
    south_up: bool
    mirrored: bool
    wraps: bool
    shift: tuple[int, int] | None = None
    """Source row and column of the target's upper left cell, if the cells of both coincide."""
    period: int | None = None
    """Columns after which a source that coincides comes again."""
    ratio: tuple[float, float] = (1.0, 1.0)
    """Source cells per target cell, down and across."""
    files: dict[Path, list[int]] = field(default_factory=dict)
    """The positions of each file's layers."""

    def places(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns, with fractions, of coordinates in the source's CRS."""
        east = x - self.x
        if self.crs.is_geographic:
            east = east % 360.0
        return (self.y - y) / self.cell[1], east / self.cell[0]


@dataclass(frozen=True)
class _Job:
    """Layers of one source that are sampled in one way."""

    positions: list[tuple[Path, int]]
    axes: tuple[_Axis, _Axis] | None
    """None: nearest neighbour."""


class Stack:
    """Covariate layers brought to one grid on the fly, read window by window.

    A file whose CRS is the grid's and whose cells coincide with the grid's (or do when turned south up, or by whole
    turns of longitude) is read without resampling. Of any other, continuous variables are interpolated between the
    four cells round a target cell's centre. Where source cells are smaller than the target's they are averaged, with
    a triangular kernel as wide as two target cells; from four source cells per target cell on, whole blocks of them are
    added up first. The kernel's width is one for a file, so that it does not depend on the window.

    Missing cells have no weight. An interpolated cell is missing if the nearest source cell is missing or outside, as
    with GDAL; an averaged one if the cells with values have less than half of the weight (GDAL asks the one nearest
    cell there too, which punches holes in coasts and clouds). A variable never depends on which others are read with it.

    A stack keeps files open: one for each thread and each process.

    Parameters
    ----------
    layers
        V variables, as `rasters.find_layers` gives them.
    grid
        The map's.
    nearest
        Names of variables whose values are classes: always the nearest neighbour's.
    resampling
        "nearest" takes the nearest neighbour for all.

    Raises
    ------
    UserError
        If a file cannot be read, has no CRS, is rotated or holds complex numbers.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        grid: Grid,
        nearest: Collection[str] = (),
        resampling: Literal["bilinear", "nearest"] = "bilinear",
    ) -> None:
        self.layers = list(layers)
        self.grid = grid
        self._crs = CRS.from_user_input(grid.crs)
        self._nearest = {layer.name for layer in layers if resampling == "nearest" or layer.name in nearest}
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._told: set[str] = set()
        self._sources: list[_Source] = []
        try:
            for path in dict.fromkeys(layer.path for layer in layers):
                self._add(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; a later `read` opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def how(self) -> dict[Path, str]:
        """Return how each file comes to the grid, in a few words for a log."""
        return {path: self._way(source, at) for source in self._sources for path, at in source.files.items()}

    def _way(self, source: _Source, positions: Sequence[int]) -> str:
        if source.shift is not None:
            return "on the map's grid"
        names = [self.layers[k].name for k in positions]
        classes = [name for name in names if name in self._nearest]
        if len(classes) == len(names):
            return "nearest"
        way = "bilinear"
        if max(source.ratio) > _AS_FINE:
            way += ", averaged over about {:.2g} x {:.2g} cells".format(*(max(1.0, ratio) for ratio in source.ratio))
        return way + (f"; nearest: {', '.join(classes)}" if classes else "")

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Read a window of all layers.

        Parameters
        ----------
        row, col
            Of the window's upper left cell, counted from the grid's; may lie outside the grid, where the rasters'
            own data are read.
        height, width
            In cells; may reach beyond the grid.

        Returns
        -------
        ndarray
            (V, height, width) float32, in the order of `layers`, north up, missing = NaN.

        Raises
        ------
        UserError
            If a part of a file cannot be read.
        """
        out = np.full((len(self.layers), height, width), np.nan, np.float32)
        for source in self._sources:
            if source.shift is not None:
                for path, positions in source.files.items():
                    self._read_directly(source, path, positions, row, col, out)
        resampled = [source for source in self._sources if source.shift is None]
        systems: list[CRS] = []
        for source in resampled:
            if source.crs not in systems:
                systems.append(source.crs)
        for top in range(0, height if resampled else 0, _STRIP):
            for left in range(0, width, _STRIP):
                part = out[:, top : top + _STRIP, left : left + _STRIP]
                for crs in systems:
                    x, y = self._coordinates(crs, row + top, col + left, *part.shape[1:])
                    for source in resampled:
                        if source.crs == crs:
                            places = source.places(x, y)
                            for job in self._jobs(source):
                                self._resample(source, job, *places, part)
        return out

    # --- files -----------------------------------------------------------------------------------------------------

    def _raster(self, path: Path) -> Any:
        """Return an open file; those not used for longest are closed."""
        if path in self._open:
            self._open.move_to_end(path)
        else:
            while len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_raster(path)
        return self._open[path]

    def _add(self, path: Path) -> None:
        """Put a file to those that share its grid."""
        raster = self._raster(path)
        positions = [k for k, layer in enumerate(self.layers) if layer.path == path]
        check_raster(raster, path, [self.layers[k] for k in positions])
        corner = raster.transform
        found = _Source(
            crs=raster.crs,
            x=min(corner.c, corner.c + corner.a * raster.width),
            y=max(corner.f, corner.f + corner.e * raster.height),
            cell=(abs(corner.a), abs(corner.e)),
            height=raster.height,
            width=raster.width,
            south_up=corner.e > 0,
            mirrored=corner.a < 0,
            wraps=spans_the_globe(raster),
        )
        for source in self._sources:
            same = ("crs", "x", "y", "cell", "height", "width", "south_up", "mirrored")
            if all(getattr(source, name) == getattr(found, name) for name in same):
                source.files[path] = positions
                return
        found.files[path] = positions
        found.shift, found.period = self._coincidence(found)
        if found.shift is None:
            found.ratio = self._ratio(found)
        self._sources.append(found)

    def _read_file(
        self, source: _Source, path: Path, positions: Sequence[int], rows: tuple[int, int], cols: tuple[int, int],
        period: int | None, out: np.ndarray,
    ) -> None:  # fmt: skip
        """Fill `out` (B, rows, columns) with source rows and columns [from, to), counted from the north-west."""
        if source.south_up:
            rows, out = (source.height - rows[1], source.height - rows[0]), out[:, ::-1]
        if source.mirrored:
            cols, out = (source.width - cols[1], source.width - cols[0]), out[:, :, ::-1]
        undeclared: set[str] = set()
        with named_errors(path):
            read_cells(self._raster(path), [self.layers[k] for k in positions], rows, cols, period, undeclared, out)
        if undeclared - self._told:
            log.info(UNDECLARED, path.name, ", ".join(sorted(undeclared - self._told)))
            self._told |= undeclared

    def _read_directly(self, source: _Source, path: Path, positions: Sequence[int], row: int, col: int, out: np.ndarray) -> None:
        assert source.shift is not None
        height, width = out.shape[1:]
        top, left = row + source.shift[0], col + source.shift[1]
        for band in _groups(len(positions), height * width):
            some = positions[band]
            neighbours = some == list(range(some[0], some[0] + len(some)))
            block = out[some[0] : some[0] + len(some)] if neighbours else np.empty((len(some), height, width), np.float32)
            self._read_file(source, path, some, (top, top + height), (left, left + width), source.period, block)
            if not neighbours:
                out[some] = block

    # --- where -----------------------------------------------------------------------------------------------------

    def _coincidence(self, source: _Source) -> tuple[tuple[int, int] | None, int | None]:
        """Return the source's cell at the grid's upper left one, and its period, if the cells of both coincide."""
        grid = self.grid
        if source.crs != self._crs or any(
            abs(theirs / ours - 1) > _SAME_SIZE for theirs, ours in zip(source.cell, grid.cell, strict=True)
        ):
            return None, None
        down = (source.y - grid.y) / source.cell[1]
        across = (grid.x - source.x) / source.cell[0]
        turn = 360.0 / source.cell[0] if source.crs.is_geographic else None
        period = source.width if source.wraps else None
        if turn is not None and abs(turn - round(turn)) < _WHOLE:
            period = round(turn)
        ends = (down + grid.height * grid.cell[1] / source.cell[1], across + grid.width * grid.cell[0] / source.cell[0])
        starts = (round(down), round(across))
        if any(abs(place - start) > _WHOLE for place, start in zip((down, across), starts, strict=True)):
            return None, None
        if any(abs(end - start - size) > _DRIFT for end, start, size in zip(ends, starts, (grid.height, grid.width), strict=True)):
            return None, None
        return starts, period

    def _coordinates(self, crs: CRS, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (height, width) of cells' centres in another CRS, NaN where it knows none.

        A cell's coordinates must not depend on the window. PROJ takes each point for itself, but one bad point spoils a
        whole call: then the window is taken by blocks that lie fast in the grid.
        """
        x, y = self._centres(np.arange(row, row + height), np.arange(col, col + width))
        if crs == self._crs:
            return x, y
        try:
            return self._transformed(crs, x, y)
        except (CPLE_BaseError, RasterioError):
            pass
        there = np.full((2, height, width), np.nan)
        probes = (np.arange(4) * 2 + 1) * (_BLOCK // 8)
        for block_row in range(row // _BLOCK * _BLOCK, row + height, _BLOCK):
            for block_col in range(col // _BLOCK * _BLOCK, col + width, _BLOCK):
                part = (
                    slice(max(block_row - row, 0), max(block_row - row + _BLOCK, 0)),
                    slice(max(block_col - col, 0), max(block_col - col + _BLOCK, 0)),
                )
                try:
                    there[:, *part] = self._transformed(crs, x[part], y[part])
                except (CPLE_BaseError, RasterioError):
                    some = self._bisected(crs, *map(np.ravel, self._centres(block_row + probes, block_col + probes)))
                    if np.isfinite(some[0]).any():
                        there[:, *part] = np.reshape(self._bisected(crs, x[part].ravel(), y[part].ravel()), (2, *x[part].shape))
        return there[0], there[1]

    def _centres(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (rows, columns) of cells' centres in the grid's CRS; beyond a pole y is NaN."""
        grid = self.grid
        x, y = grid.x + (cols + 0.5) * grid.cell[0], grid.y - (rows + 0.5) * grid.cell[1]
        if self._crs.is_geographic:
            y[np.abs(y) > 90.0] = np.nan
        across, down = np.meshgrid(x, y)
        return across, down

    def _transformed(self, crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y in another CRS, of the same shape; raise rasterio's error if one of them has none."""
        found = np.isfinite(x) & np.isfinite(y)
        there = np.full((2, *x.shape), np.nan)
        if found.any():
            there[:, found] = transform(self._crs, crs, x[found], y[found])
        there[:, ~np.isfinite(there).all(axis=0)] = np.nan
        return there[0], there[1]

    def _bisected(self, crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (n,) in another CRS, NaN where it knows none."""
        try:
            return self._transformed(crs, x, y)
        except (CPLE_BaseError, RasterioError):
            if x.size == 1:
                return np.full(1, np.nan), np.full(1, np.nan)
            half = x.size // 2
            first, second = self._bisected(crs, x[:half], y[:half]), self._bisected(crs, x[half:], y[half:])
            return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))

    def _ratio(self, source: _Source) -> tuple[float, float]:
        """Return how many source cells, down and across, lie along a target cell: the median over what both cover."""
        grid = self.grid
        if source.crs == self._crs:
            return grid.cell[1] / source.cell[1], grid.cell[0] / source.cell[0]
        rows, cols = (np.unique(np.linspace(0, size - 1, _LATTICE).astype(int)) for size in (grid.height, grid.width))
        found = []
        for down, right in ((0, 0), (1, 0), (0, 1)):
            x, y = self._centres(rows + down, cols + right)
            x, y = self._bisected(source.crs, x.ravel(), y.ravel())
            found.append(source.places(x, y))
        (row, col), (row_down, col_down), (row_right, col_right) = found
        turn = 360.0 / source.cell[0] if source.crs.is_geographic else math.inf
        across = [np.minimum(np.abs(other - col), turn - np.abs(other - col)) for other in (col_down, col_right)]
        steps = np.array([np.hypot(row_down - row, row_right - row), np.hypot(*across)])
        known = np.isfinite(steps).all(axis=0)
        inside = known & (row >= 0) & (row < source.height) & (col >= 0) & (col < source.width)
        chosen = inside if inside.any() else known
        return tuple(np.median(steps[:, chosen], axis=1).tolist()) if chosen.any() else (1.0, 1.0)

    # --- what ------------------------------------------------------------------------------------------------------

    def _jobs(self, source: _Source) -> list[_Job]:
        axes = _axis(source.ratio[0], None), _axis(source.ratio[1], source.width if source.wraps else None)
        jobs = []
        for way in (axes, None):
            at = [
                (path, k)
                for path, ks in source.files.items()
                for k in ks
                if (self.layers[k].name in self._nearest) == (way is None)
            ]
            if at:
                jobs.append(_Job(at, way))
        return jobs

    def _resample(self, source: _Source, job: _Job, row: np.ndarray, col: np.ndarray, out: np.ndarray) -> None:
        """Fill the job's layers of `out` (V, height, width) from places (height, width) in source cells."""
        with np.errstate(invalid="ignore"):
            near_row, near_col = np.floor(row + _HAIR), np.floor(col + _HAIR)
            inside = (near_row >= 0) & (near_row < source.height) & np.isfinite(near_col)
            if not source.wraps:
                inside &= (near_col >= 0) & (near_col < source.width)
        if not inside.any():
            return
        down, across = job.axes or (_Axis(), _Axis())
        if job.axes is None:
            top_taps, left_taps = near_row[inside].astype(np.int64), near_col[inside].astype(np.int64)
            taps = (1, 1)
        else:
            (top_taps, row_weights), (left_taps, col_weights) = down.taps(row[inside]), across.taps(col[inside])
            taps = (2 * down.reach, 2 * across.reach)
        period = None
        if source.crs.is_geographic:
            # Neighbours across the seam become neighbours in memory; where a raster leaves a gap, any gap will do.
            period = source.width // across.block if source.wraps else -(-source.width // across.block) + taps[1] + 2
            middle = left_taps[left_taps.size // 2] - period // 2
            turned = (left_taps - middle) % period + middle
            near_shift = (turned - left_taps) * across.block
            left_taps = turned
        else:
            near_shift = np.zeros_like(left_taps)
        top, left = int(top_taps.min()), int(left_taps.min())
        height, width = int(top_taps.max()) + taps[0] - top, int(left_taps.max()) + taps[1] - left
        cells = height * down.block * width * across.block
        if cells * min(len(job.positions), 8) > rasters._CELLS_AT_ONCE and inside.size > 1:
            axis = int(inside.shape[1] > inside.shape[0])
            for half in np.array_split(np.arange(inside.shape[axis]), 2):
                part = np.s_[half[0] : half[-1] + 1, :] if axis == 0 else np.s_[:, half[0] : half[-1] + 1]
                self._resample(source, job, row[part], col[part], out[:, *part])
            return
        where = np.nonzero(inside)
        rows, cols = ((first * axis.block, (first + size) * axis.block) for first, size, axis in
                      ((top, height, down), (left, width, across)))  # fmt: skip
        for band in _groups(len(job.positions), cells):
            some = job.positions[band]
            block = np.empty((len(some), rows[1] - rows[0], cols[1] - cols[0]), np.float32)
            for path in dict.fromkeys(path for path, _ in some):
                ours = [k for k, (other, _) in enumerate(some) if other == path]  # a file's layers stand together
                file_period = None if period is None else period * across.block
                self._read_file(source, path, [some[k][1] for k in ours], rows, cols, file_period, block[ours[0] : ours[-1] + 1])
            at = np.array([k for _, k in some])[:, None]
            if job.axes is None:
                out[at, where[0], where[1]] = block[:, top_taps - top, left_taps - left]
                continue
            near = None
            if max(down.stretch, across.stretch) == 1.0:
                # The hair may lead one cell beyond what is read, where there is nothing.
                near = (
                    np.clip(near_row[inside].astype(np.int64) - top, 0, height - 1),
                    np.clip(near_col[inside].astype(np.int64) + near_shift - left, 0, width - 1),
                )
            added = _added(block, down.block, across.block)
            for m in _chunks(len(top_taps), taps[0] * taps[1]):
                first = (top_taps[m] - top, left_taps[m] - left)
                nearest = None if near is None else near[0][m] * width + near[1][m]
                values = _weighed(added, first, (row_weights[m], col_weights[m]), nearest)
                out[at, where[0][m], where[1][m]] = values.T


def _groups(bands: int, cells: int) -> Iterator[slice]:
    """Yield as many bands at a time as may be held in memory."""
    at_once = max(1, rasters._CELLS_AT_ONCE // max(cells, 1))
    return (slice(first, min(first + at_once, bands)) for first in range(0, bands, at_once))


def _chunks(points: int, taps: int) -> Iterator[slice]:
    at_once = max(1, _WEIGHTS_AT_ONCE // taps)
    return (slice(first, first + at_once) for first in range(0, points, at_once))


@dataclass(frozen=True)
class _Added:
    """Blocks of source cells, added up; n of them lie in h rows of w."""

    width: int
    """w."""
    full: int
    """Cells of a block."""
    sums: np.ndarray
    """(n, B) float64, of the cells that have values."""
    holed: np.ndarray
    """The bands in which some cell has none."""
    counts: np.ndarray
    """(n, holed bands) float64, how many have."""


def _added(block: np.ndarray, down: int, across: int) -> _Added:
    """Add up blocks of down x across cells of (B, H, W).

    One row of cells after the other, then one column: the order, and so the bits, must not depend on the array's size.
    """
    known = ~np.isnan(block)
    holed = np.flatnonzero(~known.all(axis=(1, 2)))
    block[~known] = 0.0
    results = []
    for array in (block, known[holed]):
        if down * across > 1:
            rows = array[:, ::down].astype(np.float64)
            for k in range(1, down):
                rows += array[:, k::down]
            array = rows[:, :, ::across].copy()
            for k in range(1, across):
                array += rows[:, :, k::across]
        flat = np.empty((array[0].size if len(array) else 0, len(array)))
        flat[:] = array.reshape(len(array), -1).T if len(array) else 0.0
        results.append(flat)
    return _Added(block.shape[2] // across, down * across, results[0], holed, results[1])


def _weighed(
    added: _Added, first: tuple[np.ndarray, np.ndarray], weights: tuple[np.ndarray, np.ndarray], near: np.ndarray | None
) -> np.ndarray:
    """Return weighted means (M, B) float32, missing = NaN.

    Parameters
    ----------
    added
        The source.
    first, weights
        (M,) first row and column of blocks that count, and (M, T) weights from there on, down and across.
    near
        (M,) the nearest source cell, which must have a value; None: half of the weight must.
    """
    points, (tall, wide) = len(first[0]), (weights[0].shape[1], weights[1].shape[1])
    rows, cols = first[0][:, None] + np.arange(tall), first[1][:, None] + np.arange(wide)
    index = (rows * added.width)[:, :, None] + cols[:, None, :]
    weight = weights[0][:, :, None] * weights[1][:, None, :]
    pointer = np.arange(0, points * tall * wide + 1, tall * wide)
    # A sparse matrix adds up each row's products in their order, for all bands at once.
    matrix = csr_array((weight.ravel(), index.ravel(), pointer), shape=(points, len(added.sums)))
    values = matrix @ added.sums
    whole = matrix @ np.full((len(added.sums), 1), float(added.full))
    if added.holed.size == 0:
        return np.asarray(values / whole, np.float32)
    known = matrix @ added.counts
    missing = added.counts[near] == 0 if near is not None else known < whole / 2
    divisor = np.repeat(whole, values.shape[1], axis=1)
    divisor[:, added.holed] = np.where(missing, np.nan, known)
    return np.asarray(values / divisor, np.float32)
