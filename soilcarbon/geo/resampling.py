"""Interpolation: the values that places between a source's cells take from it.

In: places in source cells (row and column with fractions, 0.5 a cell's middle) and the source's cells round them, which
may be missing. Out: a value for each place and band. Nothing here knows of files or coordinate reference systems.

    inside, *near = shape.nearest(row, col)
    sampling = Sampling(row, col, near, shape, (Axis.of(ratio_down), Axis.of(ratio_across)))
    for m, values in sampling.values(cells):  # of rows sampling.rows and columns sampling.cols
        out[:, m] = values

A value has the same bits in whatever company it is asked for: each is computed for itself, in one order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array

AS_FINE = 1 / 0.95
"""Source cells per target cell up to which nothing is averaged; GDAL's threshold."""
_ENOUGH = 4
"""Source cells per target cell from which they are averaged in whole blocks first."""
_WEIGHTS_AT_ONCE = 2**22
"""Interpolation weights held at once: 50 MB."""
_HAIR = 1e-6
"""Of a cell: a point this near to a cell's edge lies on it, and belongs to the next cell whatever its last digits are."""

Span = tuple[int, int]
"""Rows, or columns, [from, to)."""


@dataclass(frozen=True)
class Axis:
    """How target cells take values along rows, or along columns, of a source."""

    block: int = 1
    """Source cells that are added up first; blocks are counted from the source's upper left corner."""
    stretch: float = 1.0
    """Half the width of the triangular kernel, in blocks; 1 is linear interpolation."""

    @classmethod
    def of(cls, ratio: float, around: int | None = None) -> Self:
        """Return how to sample an axis with `ratio` source cells per target cell; `around` cells go round the Earth."""
        if not ratio > AS_FINE:
            return cls()
        block = int(ratio / 2) if ratio >= _ENOUGH else 1
        while around is not None and around % block:  # else there would be half a block at the seam
            block -= 1
        return cls(block, ratio / block)

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


@dataclass(frozen=True)
class Shape:
    """What interpolation has to know of a source: its rows and columns, and how these close round the Earth."""

    height: int
    width: int
    wraps: bool
    """The columns go on at the other side."""
    angles: bool
    """Columns are longitudes: far apart in number, they may be neighbours."""

    def nearest(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which places lie in the source, and row and column of the cell that holds each, floats."""
        with np.errstate(invalid="ignore"):
            row, col = np.floor(row + _HAIR), np.floor(col + _HAIR)
            inside = (row >= 0) & (row < self.height) & np.isfinite(col)
            if not self.wraps:
                inside &= (col >= 0) & (col < self.width)
        return inside, row, col


class Sampling:
    """What M places take from a source: which of its cells, and with which weights.

    Parameters
    ----------
    row, col
        (M,) places in source cells.
    near
        (M,) row and (M,) column of the cell that holds each, of `Shape.nearest`; all lie in the source.
    shape
        The source's.
    axes
        Of rows and of columns; None: the nearest neighbour.

    Attributes
    ----------
    rows, cols
        The source's cells that are needed, [from, to); they may reach beyond it.
    period
        The source comes again after so many columns, if columns are longitudes; else None.
    """

    def __init__(
        self, row: np.ndarray, col: np.ndarray, near: tuple[np.ndarray, np.ndarray], shape: Shape, axes: tuple[Axis, Axis] | None
    ) -> None:
        self._blocks = (1, 1) if axes is None else (axes[0].block, axes[1].block)
        self._weights: tuple[np.ndarray, np.ndarray] | None = None
        top, left = near_row, near_col = near[0].astype(np.int64), near[1].astype(np.int64)
        tall, wide = 1, 1
        if axes is not None:
            (top, row_weights), (left, col_weights) = axes[0].taps(row), axes[1].taps(col)
            self._weights = row_weights, col_weights
            tall, wide = row_weights.shape[1], col_weights.shape[1]
        block = self._blocks[1]
        self.period: int | None = None
        if shape.angles:
            # Neighbours across the seam become neighbours in memory; where a source leaves a gap, any gap will do.
            around = shape.width // block if shape.wraps else -(-shape.width // block) + wide + 2
            middle = left[left.size // 2] - around // 2
            turned = (left - middle) % around + middle
            near_col = near_col + (turned - left) * block
            left, self.period = turned, around * block
        first = int(top.min()), int(left.min())
        height, width = int(top.max()) + tall - first[0], int(left.max()) + wide - first[1]
        self.rows: Span = first[0] * self._blocks[0], (first[0] + height) * self._blocks[0]
        self.cols: Span = first[1] * block, (first[1] + width) * block
        self._top, self._left = top - first[0], left - first[1]
        self._near = None
        if axes is not None and max(axis.stretch for axis in axes) == 1.0:
            # The hair may lead one cell beyond what is read, where there is nothing.
            self._near = np.clip(near_row - first[0], 0, height - 1) * width + np.clip(near_col - first[1], 0, width - 1)

    @property
    def cells(self) -> int:
        """How many cells of a band are needed."""
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])

    def values(self, cells: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (B, m) float32, missing = NaN, of some places m of the M at a time.

        Missing cells have no weight. An interpolated value is missing if the nearest cell is; an average if the cells
        with values have less than half of the weight.

        Parameters
        ----------
        cells
            (B, rows, columns) float32, missing = NaN; overwritten.
        """
        if self._weights is None:
            yield slice(None), cells[:, self._top, self._left]
            return
        added = _added(cells, *self._blocks)
        row_weights, col_weights = self._weights
        at_once = max(1, _WEIGHTS_AT_ONCE // (row_weights.shape[1] * col_weights.shape[1]))
        for start in range(0, len(row_weights), at_once):
            m = slice(start, start + at_once)
            near = None if self._near is None else self._near[m]
            yield m, _weighed(added, (self._top[m], self._left[m]), (row_weights[m], col_weights[m]), near).T


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
