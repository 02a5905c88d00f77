"""Covariate rasters resampled to the grid of a map on the fly, window by window.

In: layers of GeoTIFFs in any CRS and cell size, and a `Grid`. Out: float32 arrays on that grid, missing = NaN.

    with Stack(find_layers([Path("covariates")]), grid) as stack:
        patch = stack.read(row=-7, col=1017, height=526, width=526)  # (V, 526, 526), beyond the grid's edges too

Files whose cells are the grid's are read as they are. Of any other grid, the places of the map's cells are computed exactly, once
for all its layers, and values are interpolated as by GDAL's warper, with a sparse matrix of the weights of the source's cells. A
cell has the same bits whatever window it is read in, and whatever layers are read with it.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from rasterio.crs import CRS
from scipy.sparse import csr_array

from soilcarbon.geo import raster as rasters
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, north_up
from soilcarbon.geo.raster import Layer

log = getLogger(__name__)
ON_THE_GRID = "on the map's grid"

_OPEN_FILES = 200  # files kept open; a process may often open 1024
_WEIGHTS = 2**21  # of a matrix: 24 MB
_CELLS = 2**22  # of the source, of all layers, that are interpolated at once: 32 MB
_AS_FINE = 1 / 0.95  # source cells per target cell up to which nothing is averaged; GDAL's threshold
_BLOCKWISE = 4  # source cells per target cell from which whole blocks of them are averaged first, which takes less time
_HAIR = 1e-10  # of a cell: a place so near an edge lies on both sides of it; GDAL's
_HALF = 0.5 - 1e-9  # of the weight, that cells with values need
_WHOLE = 1e-3  # of a cell: grids that are shifted by less coincide
_SAME_SIZE = 1e-6  # cells that differ by less, relatively, are the same
_DRIFT = 0.05  # of a cell: grids whose cells coincide at one corner may part by so much at the other
_LATTICE = 15  # places along each side of a grid at which cells are compared

Kind = Literal["bilinear", "nearest"]


@dataclass
class _Source:
    """Files that share one grid.

    A source that coincides with the target has a shift and a period; of others the ratio decides the sampling.
    """

    grid: Grid  # turned north up, in thought
    south_up: bool
    mirrored: bool
    wraps: bool
    shift: tuple[int, int] | None = None  # source row and column of the target's upper left cell, if the cells of both coincide
    period: int | None = None  # columns after which a source that coincides comes again
    ratio: tuple[float, float] = (1.0, 1.0)  # source cells per target cell, down and across
    files: dict[Path, list[int]] = field(default_factory=dict)  # the positions of each file's layers

    def places(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column, with fractions, of coordinates in the source's CRS; NaN outside of it."""
        grid = self.grid
        row, col = grid.places(x, y)
        if grid.geographic:
            turn = 360.0 / grid.cell[0]
            col = np.where(col > turn - _HAIR, col - turn, col)
            if self.wraps:
                col *= grid.width / turn  # the columns close round the Earth exactly
        with np.errstate(invalid="ignore"):
            inside = (row >= -_HAIR) & (row <= grid.height + _HAIR) & (col >= -_HAIR) & (col <= grid.width + _HAIR)
        return np.where(inside, row, np.nan), np.where(inside, col, np.nan)

    @property
    def blocks(self) -> tuple[int, int]:
        """Source cells, down and across, that are averaged before they are warped."""
        down, across = (int(ratio / 2) if ratio >= _BLOCKWISE else 1 for ratio in self.ratio)
        while self.wraps and self.grid.width % across:  # else there would be half a block at the seam
            across -= 1
        return down, across


class Stack:
    """Covariate layers brought to one grid on the fly, read window by window.

    A file whose CRS is the grid's and whose cells coincide with the grid's (or do when turned south up, or by whole turns of
    longitude) is read without resampling. Of any other, continuous variables are interpolated between the four cells round a target
    cell's centre. Where source cells are smaller than the target's they are averaged, with a triangular kernel as wide as two
    target cells; from four source cells per target cell on, whole blocks of them are averaged first. The kernel's width is one for
    a file, so that it does not depend on the window. Layers of classes, the named variables, or with `resampling` "nearest" all
    have the nearest neighbour's value.

    Missing cells have no weight. A cell is missing if the source cells with values have less than half of the weight; where blocks
    are averaged first, a block has the mean of its cells with values. A variable never depends on which others are read with it.
    Where a file holds infinite values, or an undeclared fill value of 1e19 or more, all cells whose kernel touches them are
    missing.

    A stack keeps files open: one for each thread and each process. UserError if a file cannot be read, has no CRS, is rotated or
    holds complex numbers.
    """

    def __init__(self, layers: Sequence[Layer], grid: Grid, nearest: Collection[str] = (), resampling: Kind = "bilinear") -> None:
        self.layers = list(layers)
        self.grid = grid
        self._crs = CRS.from_user_input(grid.crs)
        self._nearest = {layer.name for layer in layers if resampling == "nearest" or layer.classes or layer.name in nearest}
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._reported: set[str] = set()
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
        """Return how each file is brought to the grid, as short text for a log."""
        return {path: self._method(source, at) for source in self._sources for path, at in source.files.items()}

    def _method(self, source: _Source, positions: Sequence[int]) -> str:
        if source.shift is not None:
            return ON_THE_GRID
        classes = [self.layers[k].name for k in positions if self.layers[k].name in self._nearest]
        if len(classes) == len(positions):
            return "nearest"
        method = "bilinear"
        if max(source.ratio) > _AS_FINE:
            method += ", averaged over about {:.2g} x {:.2g} cells".format(*(max(1.0, ratio) for ratio in source.ratio))
        return method + (f"; nearest: {', '.join(classes)}" if classes else "")

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Read a window of all layers: (V, height, width) float32, in the order of `layers`, north up, missing = NaN.

        Its upper left cell is counted from the grid's. It may lie outside the grid or reach beyond it, where the rasters' own data
        are read. UserError if a part of a file cannot be read.
        """
        out = np.full((len(self.layers), height, width), np.nan, np.float32)
        places: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for source in self._sources:
            if source.shift is not None:
                top, left = row + source.shift[0], col + source.shift[1]
                for path, positions in source.files.items():
                    self._read_cells(source, path, positions, top, left, out, positions)
                continue
            if (crs := source.grid.crs) not in places:
                x, y = self.grid.coordinates(np.arange(row, row + height) + 0.5, np.arange(col, col + width) + 0.5)
                places[crs] = transformed(self._crs, crs, *np.meshgrid(x, y))
            self._interpolate(source, *source.places(*places[crs]), out)
        return out

    def _raster(self, path: Path) -> Any:
        """Return an open file; those not used for longest are closed."""
        if path in self._open:
            self._open.move_to_end(path)
        else:
            while len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = rasters.open_raster(path)
        return self._open[path]

    def _add(self, path: Path) -> None:
        """Add a file to the source with the same grid."""
        raster = self._raster(path)
        positions = [k for k, layer in enumerate(self.layers) if layer.path == path]
        rasters.check_raster(raster, path, [self.layers[k] for k in positions])
        corner = raster.transform
        found = _Source(north_up(raster), corner.e > 0, corner.a < 0, rasters.spans_the_globe(raster), files={path: positions})
        for source in self._sources:
            if (source.grid, source.south_up, source.mirrored) == (found.grid, found.south_up, found.mirrored):
                source.files |= found.files
                return
        found.shift, found.period = self._coincidence(found)
        if found.shift is None:
            found.period, found.ratio = found.grid.width if found.wraps else None, self._ratio(found)
        self._sources.append(found)

    # --- files whose cells are the grid's --------------------------------------------------------------------------

    def _coincidence(self, source: _Source) -> tuple[tuple[int, int] | None, int | None]:
        """Return the source's cell at the grid's upper left one, and its period, if the cells of both coincide."""
        ours, theirs = self.grid, source.grid
        if theirs.crs != ours.crs and CRS.from_user_input(theirs.crs) != self._crs:
            return None, None
        if any(abs(a / b - 1) > _SAME_SIZE for a, b in zip(theirs.cell, ours.cell, strict=True)):
            return None, None
        starts = ((theirs.y - ours.y) / theirs.cell[1], (ours.x - theirs.x) / theirs.cell[0])
        drifts = (ours.height * (ours.cell[1] / theirs.cell[1] - 1), ours.width * (ours.cell[0] / theirs.cell[0] - 1))
        row, col = (round(start) for start in starts)
        off = (starts[0] - row, starts[1] - col)
        if any(abs(a) > _WHOLE or abs(a + drift) > _DRIFT for a, drift in zip(off, drifts, strict=True)):
            return None, None
        turn = 360.0 / theirs.cell[0] if theirs.geographic else math.nan
        if abs(turn - np.round(turn)) < _WHOLE:
            return (row, col), round(turn)
        return (row, col), theirs.width if source.wraps else None

    def _read_cells(
        self, source: _Source, path: Path, positions: Sequence[int], top: int, left: int, out: np.ndarray, at: list[int]
    ) -> None:
        """Read cells of a file's layers, from a row and a column of its source on, to `out[at]` (B, height, width)."""
        height, width = out.shape[1:]
        rows, cols = (top, top + height), (left, left + width)
        if source.south_up:
            rows = source.grid.height - rows[1], source.grid.height - rows[0]
        if source.mirrored:
            cols = source.grid.width - cols[1], source.grid.width - cols[0]
        undeclared: set[str] = set()
        for band in _groups(len(positions), height * width):
            some = at[band]
            neighbours = some == list(range(some[0], some[0] + len(some)))
            block = out[some[0] : some[0] + len(some)] if neighbours else np.empty((len(some), height, width), np.float32)
            turned = block[:, :: -1 if source.south_up else 1, :: -1 if source.mirrored else 1]
            with rasters.named_errors(path):
                rasters.read_cells(
                    self._raster(path), [self.layers[k] for k in positions[band]], rows, cols, source.period, undeclared, turned
                )
            if not neighbours:
                out[some] = block
        if undeclared - self._reported:
            log.info(rasters.UNDECLARED, path.name, ", ".join(sorted(undeclared - self._reported)))
            self._reported |= undeclared

    # --- all other files -------------------------------------------------------------------------------------------

    def _ratio(self, source: _Source) -> tuple[float, float]:
        """Return how many source cells, down and across, lie along a target cell: the median over what both cover."""
        ours, theirs = self.grid, source.grid
        crs = CRS.from_user_input(theirs.crs)
        if crs == self._crs:
            return ours.cell[1] / theirs.cell[1], ours.cell[0] / theirs.cell[0]
        rows, cols = (np.unique(np.linspace(0, size - 1, _LATTICE).astype(int)) + 0.5 for size in (ours.height, ours.width))
        (row, col), (row_down, col_down), (row_right, col_right) = (
            theirs.places(*transformed(self._crs, crs, *np.meshgrid(*ours.coordinates(rows + down, cols + right))))
            for down, right in ((0, 0), (1, 0), (0, 1))
        )
        turn = 360.0 / theirs.cell[0] if theirs.geographic else math.inf
        across = [np.minimum(np.abs(other - col), turn - np.abs(other - col)) for other in (col_down, col_right)]
        steps = np.array([np.hypot(row_down - row, row_right - row), np.hypot(*across)])
        known = np.isfinite(steps).all(axis=0)
        inside = known & (row >= 0) & (row < theirs.height) & (col >= 0) & (col < theirs.width)
        chosen = inside if inside.any() else known
        return tuple(np.median(steps[:, chosen], axis=1).tolist()) if chosen.any() else (1.0, 1.0)

    def _interpolate(self, source: _Source, rows: np.ndarray, cols: np.ndarray, out: np.ndarray) -> None:
        """Fill the layers of `out` (V, h, w) from a source, given its places (h, w) of the cells; NaN: outside of it."""
        known = np.isfinite(rows)
        if not known.any():
            return
        size = (source.grid.height, source.grid.width)
        row = _Axis(rows[known], source.ratio[0], source.blocks[0], size[0])
        col = _Axis(cols[known], source.ratio[1], source.blocks[1], size[1], source.wraps)
        layers, weights = [k for at in source.files.values() for k in at], row.weights.shape[1] * col.weights.shape[1]
        if known.size > 1 and max(known.sum() * weights / _WEIGHTS, len(layers) * row.count * col.count / _CELLS) > 1:
            axis = int(rows.shape[1] > rows.shape[0])
            for half in (slice(rows.shape[axis] // 2), slice(rows.shape[axis] // 2, None)):
                part = (half, slice(None)) if axis == 0 else (slice(None), half)
                self._interpolate(source, rows[part], cols[part], out[:, *part])
            return
        classes = [k for k in layers if self.layers[k].name in self._nearest]
        others = [k for k in layers if k not in classes]
        found = [*self._nearest_cells(source, classes, row, col), *self._weighted_cells(source, others, row, col)]
        for k, each in zip([*classes, *others], found, strict=True):
            out[k][known] = each

    def _parts(
        self, source: _Source, layers: Sequence[int], row: "_Axis", col: "_Axis"
    ) -> Iterator[tuple[slice, slice, slice, np.ndarray]]:
        """Yield the cells that the axes need of some layers, in parts: their layers, rows and columns of blocks, and values."""
        most, start = max(1, _CELLS // (row.block * col.block)), 0
        for path, at in source.files.items():
            here = [k for k in at if k in layers]
            for first in range(0, len(here), most):
                some = here[first : first + most]
                wide = min(col.count, max(1, most // len(some)))
                tall = min(row.count, max(1, most // (len(some) * wide)))
                for top, left in product(range(0, row.count, tall), range(0, col.count, wide)):
                    down, across = min(tall, row.count - top), min(wide, col.count - left)
                    cells = np.empty((len(some), down * row.block, across * col.block), np.float32)
                    corner = (row.start + top) * row.block, (col.start + left) * col.block
                    self._read_cells(source, path, some, *corner, cells, list(range(len(some))))
                    yield slice(start, start + len(some)), slice(top, top + down), slice(left, left + across), cells
                start += len(some)

    def _nearest_cells(self, source: _Source, layers: Sequence[int], row: "_Axis", col: "_Axis") -> np.ndarray:
        """Return the values (B, n) of the cells that hold the axes' places."""
        found = np.empty((len(layers), len(row.nearest)), np.float32)
        for some, down, across, cells in self._parts(source, layers, row, col):
            at = row.nearest - down.start * row.block, col.nearest - across.start * col.block
            here = (at[0] >= 0) & (at[0] < cells.shape[1]) & (at[1] >= 0) & (at[1] < cells.shape[2])
            found[some, here] = cells[:, at[0][here], at[1][here]]
        return found

    def _weighted_cells(self, source: _Source, layers: Sequence[int], row: "_Axis", col: "_Axis") -> np.ndarray:
        """Return the interpolated values (B, n) at the axes' places; missing = NaN."""
        values = np.empty((len(layers), row.count, col.count), np.float64 if row.block * col.block > 1 else np.float32)
        shares = np.empty(values.shape, values.dtype)
        """Of the cells of each block that lie in the source, those with a value."""
        for some, down, across, cells in self._parts(source, layers, row, col):
            known = np.isfinite(cells)
            cells[~known] = 0.0
            if row.block * col.block == 1:
                values[some, down, across], shares[some, down, across] = cells, known
                continue
            counts = _block_sums(known, row.block, col.block)
            values[some, down, across] = _block_sums(cells, row.block, col.block) / np.maximum(counts, 1)
            shares[some, down, across] = counts / np.maximum(np.outer(row.inside[down], col.inside[across]), 1)
        weights = row.weights[:, :, None] * col.weights[:, None, :]
        rows, cols = (each.first[:, None] + np.arange(each.weights.shape[1]) for each in (row, col))
        columns, starts = rows[:, :, None] * col.count + cols[:, None, :], np.arange(len(weights) + 1) * weights[0].size
        matrix = csr_array((weights.ravel(), columns.ravel(), starts), shape=(len(weights), row.count * col.count))

        def weighted(blocks: np.ndarray) -> np.ndarray:
            return np.asarray((matrix @ blocks.reshape(len(blocks), matrix.shape[1]).T.astype(np.float64)).T)

        found, holed = weighted(values), np.flatnonzero((shares < 1).any(axis=(1, 2)))
        with np.errstate(invalid="ignore", divide="ignore"):
            known = weighted(shares[holed]) >= _HALF
            found[holed] = np.where(known, found[holed] / weighted(shares[holed] > 0), np.nan)
        return found


class _Axis:
    """Interpolation along one axis of a source: of n places, counted in its cells, from blocks of `block` cells.

    Attributes
    ----------
    start, count
        First block, and number of blocks, that any place is interpolated from.
    first, weights
        (n,) first block of each place, counted from `start`, and (n, k) weights of the k blocks from it on.
    nearest
        (n,) the cell of each place, counted from the first one of `start`.
    inside
        (count,) cells of each block that lie in the source.
    """

    def __init__(self, places: np.ndarray, ratio: float, block: int, size: int, wraps: bool = False) -> None:
        scale = ratio / block if ratio / block > _AS_FINE else 1.0
        taps = 2 * math.ceil(scale)
        self.block = block
        first = np.floor(places / block - 0.5).astype(np.int64) - taps // 2 + 1
        each = first[:, None] + np.arange(taps)
        self.weights = np.maximum(1 - np.abs(each + 0.5 - places[:, None] / block) / scale, 0.0)
        nearest = np.floor(places + _HAIR).astype(np.int64).clip(0, size - 1)
        if wraps:  # places beside each other may lie at both edges: all are counted in the first one's turn
            turns = np.round((first[0] - first) / (size // block)).astype(np.int64)
            first, nearest = first + turns * (size // block), nearest + turns * size
        else:
            self.weights[(each < 0) | (each >= -(-size // block))] = 0.0
        self.weights /= self.weights.sum(axis=1, keepdims=True)
        self.start = int(first.min())
        self.first, self.nearest = first - self.start, nearest - self.start * block
        self.count = int(self.first.max()) + taps
        cells = np.arange(self.start * block, (self.start + self.count) * block)
        self.inside = ((cells >= 0) & (cells < size) | wraps).reshape(-1, block).sum(axis=1)


def _block_sums(cells: np.ndarray, down: int, across: int) -> np.ndarray:
    """Return the sums (B, h / down, w / across) float64 of blocks of cells (B, h, w)."""
    lines = cells.reshape(len(cells), -1, down, cells.shape[2]).sum(axis=2, dtype=np.float64)
    sums = lines[:, :, ::across].copy()
    for k in range(1, across):
        sums += lines[:, :, k::across]
    return sums


def _groups(bands: int, cells: int) -> Iterator[slice]:
    """Yield as many bands at a time as may be held in memory."""
    at_once = max(1, rasters._CELLS_AT_ONCE // max(cells, 1))
    return (slice(first, min(first + at_once, bands)) for first in range(0, bands, at_once))
