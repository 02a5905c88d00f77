"""Covariate rasters brought to the grid of a map on the fly, window by window.

In: layers of GeoTIFFs in any CRS and cell size, and a `Grid`. Out: float32 arrays on that grid, missing = NaN.

    with Stack(find_layers([Path("covariates")]), grid) as stack:
        patch = stack.read(row=-7, col=1017, height=526, width=526)  # (V, 526, 526), beyond the grid's edges too

A file whose cells are the grid's is read as it is. Any other is interpolated by `resampling`, by the formulas of GDAL's
warper with exact coordinates, and not by GDAL itself, for three reasons:

- `rasterio.warp.reproject` places cells by approximation, to an eighth of a source cell, line by line of the window it
  is given; and even exact places, relative to a window, differ between windows in their last digits. Values, and some
  nearest neighbours, would depend on how a map is cut into tiles: with rasterio 1.4.4 and GDAL 3.10.3, where no tolerance
  takes effect, 56 % (projected to geographic), 94 % (geographic to projected) and 62 % (finer to coarser) of the cells
  differ between a whole map and windows of 13 x 17. Here a cell's value is a function of its row and column alone:
  whatever window it is read in, it has the same bits.
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
from rasterio.crs import CRS

from soilcarbon.geo import raster as rasters
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, north_up
from soilcarbon.geo.raster import UNDECLARED, Layer, check_raster, named_errors, open_raster, read_cells, spans_the_globe
from soilcarbon.geo.resampling import AS_FINE, Axis, Sampling, Shape, Span

log = getLogger(__name__)
ON_THE_GRID = "on the map's grid"

_OPEN_FILES = 200
"""Files kept open; a process may often open 1024."""
_STRIP = 1024
"""Rows and columns of target cells whose coordinates are held at once."""
_WHOLE = 1e-3
"""Of a cell: grids that are shifted by less coincide."""
_SAME_SIZE = 1e-6
"""Cells that differ by less, relatively, are the same."""
_DRIFT = 0.05
"""Of a cell: grids whose cells coincide at one corner may part by so much at the other."""
_LATTICE = 15
"""Places along each side of a grid at which cells are compared."""


@dataclass
class _Source:
    """Files that share one grid.

    What coincides with the target has a shift and a period, of what does not the ratio tells how it is sampled.
    """

    grid: Grid
    """Turned north up, in thought."""
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

    def __post_init__(self) -> None:
        self.crs = CRS.from_user_input(self.grid.crs)
        self.shape = Shape(self.grid.height, self.grid.width, self.wraps, self.grid.geographic)

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """How rows and columns are sampled."""
        return Axis.of(self.ratio[0]), Axis.of(self.ratio[1], self.grid.width if self.wraps else None)


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
            return ON_THE_GRID
        classes = [self.layers[k].name for k in positions if self.layers[k].name in self._nearest]
        if len(classes) == len(positions):
            return "nearest"
        way = "bilinear"
        if max(source.ratio) > AS_FINE:
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
        for top in range(0, height if resampled else 0, _STRIP):
            for left in range(0, width, _STRIP):
                part = out[:, top : top + _STRIP, left : left + _STRIP]
                here = self._centres(row + top + np.arange(part.shape[1]), col + left + np.arange(part.shape[2]))
                for crs in dict.fromkeys(source.grid.crs for source in resampled):
                    there = transformed(self._crs, crs, *here)
                    for source in resampled:
                        if source.grid.crs == crs:
                            self._resample_all(source, *source.grid.places(*there), part)
        return out

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
        found = _Source(north_up(raster), corner.e > 0, corner.a < 0, spans_the_globe(raster), files={path: positions})
        for source in self._sources:
            if (source.grid, source.south_up, source.mirrored) == (found.grid, found.south_up, found.mirrored):
                source.files |= found.files
                return
        found.shift, found.period = self._coincidence(found)
        if found.shift is None:
            found.ratio = self._ratio(found)
        self._sources.append(found)

    def _read_file(
        self, source: _Source, path: Path, positions: Sequence[int], rows: Span, cols: Span,
        period: int | None, out: np.ndarray,
    ) -> None:  # fmt: skip
        """Fill `out` (B, rows, columns) with source rows and columns [from, to), counted from the north-west."""
        if source.south_up:
            rows, out = (source.grid.height - rows[1], source.grid.height - rows[0]), out[:, ::-1]
        if source.mirrored:
            cols, out = (source.grid.width - cols[1], source.grid.width - cols[0]), out[:, :, ::-1]
        undeclared: set[str] = set()
        with named_errors(path):
            read_cells(self._raster(path), [self.layers[k] for k in positions], rows, cols, period, undeclared, out)
        if undeclared - self._told:
            log.info(UNDECLARED, path.name, ", ".join(sorted(undeclared - self._told)))
            self._told |= undeclared

    def _read_directly(self, source: _Source, path: Path, positions: Sequence[int], row: int, col: int, out: np.ndarray) -> None:
        """Fill a file's layers of `out` (V, height, width) from a source whose cells are the grid's."""
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
        ours, theirs = self.grid, source.grid
        if source.crs != self._crs or any(abs(a / b - 1) > _SAME_SIZE for a, b in zip(theirs.cell, ours.cell, strict=True)):
            return None, None
        starts = ((theirs.y - ours.y) / theirs.cell[1], (ours.x - theirs.x) / theirs.cell[0])
        drifts = (ours.height * (ours.cell[1] / theirs.cell[1] - 1), ours.width * (ours.cell[0] / theirs.cell[0] - 1))
        row, col = (round(start) for start in starts)
        off = (starts[0] - row, starts[1] - col)
        if any(abs(a) > _WHOLE or abs(a + drift) > _DRIFT for a, drift in zip(off, drifts, strict=True)):
            return None, None
        turn = 360.0 / theirs.cell[0] if source.shape.angles else math.nan
        if abs(turn - np.round(turn)) < _WHOLE:
            return (row, col), round(turn)
        return (row, col), theirs.width if source.wraps else None

    def _centres(self, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (rows, columns) of cells' centres in the grid's CRS."""
        across, down = np.meshgrid(*self.grid.coordinates(rows + 0.5, cols + 0.5))
        return across, down

    def _ratio(self, source: _Source) -> tuple[float, float]:
        """Return how many source cells, down and across, lie along a target cell: the median over what both cover."""
        ours, theirs = self.grid, source.grid
        if source.crs == self._crs:
            return ours.cell[1] / theirs.cell[1], ours.cell[0] / theirs.cell[0]
        rows, cols = (np.unique(np.linspace(0, size - 1, _LATTICE).astype(int)) for size in (ours.height, ours.width))
        (row, col), (row_down, col_down), (row_right, col_right) = (
            source.grid.places(*transformed(self._crs, source.crs, *self._centres(rows + down, cols + right)))
            for down, right in ((0, 0), (1, 0), (0, 1))
        )
        turn = 360.0 / theirs.cell[0] if source.shape.angles else math.inf
        across = [np.minimum(np.abs(other - col), turn - np.abs(other - col)) for other in (col_down, col_right)]
        steps = np.array([np.hypot(row_down - row, row_right - row), np.hypot(*across)])
        known = np.isfinite(steps).all(axis=0)
        inside = known & (row >= 0) & (row < theirs.height) & (col >= 0) & (col < theirs.width)
        chosen = inside if inside.any() else known
        return tuple(np.median(steps[:, chosen], axis=1).tolist()) if chosen.any() else (1.0, 1.0)

    # --- what ------------------------------------------------------------------------------------------------------

    def _resample_all(self, source: _Source, row: np.ndarray, col: np.ndarray, out: np.ndarray) -> None:
        """Fill a source's layers of `out` (V, height, width) from places (height, width) in source cells."""
        for axes in (source.axes, None):
            layers = [(path, k) for path, ks in source.files.items() for k in ks]
            layers = [(path, k) for path, k in layers if (self.layers[k].name in self._nearest) == (axes is None)]
            if layers:
                self._resample(source, layers, axes, row, col, out)

    def _resample(
        self, source: _Source, layers: Sequence[tuple[Path, int]], axes: tuple[Axis, Axis] | None,
        row: np.ndarray, col: np.ndarray, out: np.ndarray,
    ) -> None:  # fmt: skip
        """Fill some layers, by file and position, of `out`; without axes by the nearest neighbour."""
        inside, *near = source.shape.nearest(row, col)
        if not inside.any():
            return
        sampling = Sampling(row[inside], col[inside], (near[0][inside], near[1][inside]), source.shape, axes)
        if sampling.cells * min(len(layers), 8) > rasters._CELLS_AT_ONCE and inside.size > 1:
            axis = int(inside.shape[1] > inside.shape[0])
            for half in np.array_split(np.arange(inside.shape[axis]), 2):
                part = np.s_[half[0] : half[-1] + 1, :] if axis == 0 else np.s_[:, half[0] : half[-1] + 1]
                self._resample(source, layers, axes, row[part], col[part], out[:, *part])
            return
        where = np.nonzero(inside)
        for band in _groups(len(layers), sampling.cells):
            some = layers[band]
            cells = np.empty((len(some), *(span[1] - span[0] for span in (sampling.rows, sampling.cols))), np.float32)
            for path in dict.fromkeys(path for path, _ in some):
                ours = [k for k, (other, _) in enumerate(some) if other == path]  # a file's layers stand together
                block = cells[ours[0] : ours[-1] + 1]
                self._read_file(source, path, [some[k][1] for k in ours], sampling.rows, sampling.cols, sampling.period, block)
            positions = np.array([k for _, k in some])[:, None]
            for m, values in sampling.values(cells):
                out[positions, where[0][m], where[1][m]] = values


def _groups(bands: int, cells: int) -> Iterator[slice]:
    """Yield as many bands at a time as may be held in memory."""
    at_once = max(1, rasters._CELLS_AT_ONCE // max(cells, 1))
    return (slice(first, min(first + at_once, bands)) for first in range(0, bands, at_once))
