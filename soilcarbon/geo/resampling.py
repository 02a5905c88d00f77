"""Covariate rasters resampled to the grid of a map on the fly, window by window, by GDAL's warper.

In: layers of GeoTIFFs in any CRS and cell size, and a `Grid`. Out: float32 arrays on that grid, missing = NaN.

    with Stack(find_layers([Path("covariates")]), grid) as stack:
        patch = stack.read(row=-7, col=1017, height=526, width=526)  # (V, 526, 526), beyond the grid's edges too

Files whose cells are the grid's are read as they are. Of any other grid, all files become one virtual raster (GDAL's VRT) that
masks missing cells, applies scale and offset and repeats a global raster round the Earth; a `WarpedVRT` brings it
to the grid in pieces of 128 x 128 cells, counted from the grid's corner, with exact coordinates. A cell is always part of the
same piece, so that it has the same bits whatever window it is read in: GDAL's values depend on the window in their last digits.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NamedTuple, Self
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from soilcarbon.geo import raster as rasters
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, north_up
from soilcarbon.geo.raster import Layer
from soilcarbon.io.files import NODATA, UserError

log = getLogger(__name__)
ON_THE_GRID = "on the map's grid"

_OPEN_FILES = 200  # files kept open; a process may often open 1024
_SIDE = 128  # rows and columns of a piece of the map, which GDAL always warps as a whole
_CELLS_KEPT = 2**24  # cells of pieces that are kept for neighbouring windows: 64 MB
_AS_FINE = 1 / 0.95  # source cells per target cell up to which nothing is averaged; GDAL's threshold
_BLOCKWISE = 4  # source cells per target cell from which whole blocks of them are averaged first: GDAL's warper would hold them all
_EXACT = 1e-9  # of a source cell, by which a coordinate may be off: GDAL's approximation never is as good, so that it is not used
_IMPLAUSIBLE = 1e15  # an interpolated value that is as large has taken from a fill value that is not declared
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

    @property
    def transform(self) -> Affine:
        """From (column, row) of the files to coordinates; the columns of a global raster close round the Earth exactly."""
        grid = self.grid
        across = 360.0 / grid.width if self.wraps else grid.cell[0]
        place = Affine(across, 0.0, grid.x, 0.0, -grid.cell[1], grid.y)
        flip = (-1 if self.mirrored else 1, -1 if self.south_up else 1)
        return place @ Affine(flip[0], 0, grid.width * self.mirrored, 0, flip[1], grid.height * self.south_up)

    @property
    def blocks(self) -> tuple[int, int]:
        """Source cells, down and across, that are averaged before they are warped."""
        down, across = (int(ratio / 2) if ratio >= _BLOCKWISE else 1 for ratio in self.ratio)
        while self.wraps and self.grid.width % across:  # else there would be half a block at the seam
            across -= 1
        return down, across


class _View(NamedTuple):
    """Layers of one source that are warped alike."""

    positions: list[int]  # of its B layers among the stack's
    masks: list[int]  # which of the B layers have missing cells: their masks (0 or 255) are further bands, in this order
    rasters: list[Any]
    """Virtual rasters of B + masks bands: of a source in degrees one for every turn by which it may reach the grid."""
    options: dict[str, Any]  # how they are warped


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
        self._views: list[_View] | None = None
        self._warped = ExitStack()
        self._pieces: dict[tuple[int, int, int], np.ndarray] = {}
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
        self._views = None
        self._pieces.clear()
        self._warped.close()
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
        for source in self._sources:
            if source.shift is not None:
                for path, positions in source.files.items():
                    self._read_directly(source, path, positions, row, col, out)
        if all(source.shift is not None for source in self._sources):
            return out
        if self._views is None:
            self._views = [view for source in self._sources if source.shift is None for view in self._split(source)]
        for number, view in enumerate(self._views):
            for down in range(row // _SIDE, -(-(row + height) // _SIDE)):
                for right in range(col // _SIDE, -(-(col + width) // _SIDE)):
                    top, left = down * _SIDE - row, right * _SIDE - col
                    here = np.s_[max(top, 0) : min(top + _SIDE, height), max(left, 0) : min(left + _SIDE, width)]
                    there = tuple(slice(part.start - at, part.stop - at) for part, at in zip(here, (top, left), strict=True))
                    out[:, *here][view.positions] = self._piece(number, view, down, right)[:, *there]
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
            found.ratio = self._ratio(found)
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

    def _read_directly(self, source: _Source, path: Path, positions: Sequence[int], row: int, col: int, out: np.ndarray) -> None:
        """Fill a file's layers of `out` (V, height, width) from a source whose cells are the grid's."""
        assert source.shift is not None
        height, width = out.shape[1:]
        top, left = row + source.shift[0], col + source.shift[1]
        rows, cols = (top, top + height), (left, left + width)
        if source.south_up:
            rows = source.grid.height - rows[1], source.grid.height - rows[0]
        if source.mirrored:
            cols = source.grid.width - cols[1], source.grid.width - cols[0]
        undeclared: set[str] = set()
        for band in _groups(len(positions), height * width):
            some = positions[band]
            neighbours = some == list(range(some[0], some[0] + len(some)))
            block = out[some[0] : some[0] + len(some)] if neighbours else np.empty((len(some), height, width), np.float32)
            turned = block[:, :: -1 if source.south_up else 1, :: -1 if source.mirrored else 1]
            with rasters.named_errors(path):
                rasters.read_cells(
                    self._raster(path), [self.layers[k] for k in some], rows, cols, source.period, undeclared, turned
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

    def _split(self, source: _Source) -> Iterator[_View]:
        """Yield the views of a source: of its continuous variables and of its classes."""
        for kind in ("bilinear", "nearest"):
            files = {
                path: [k for k in at if (self.layers[k].name in self._nearest) == (kind == "nearest")]
                for path, at in source.files.items()
            }
            if not any(files.values()):
                continue
            blocks, masks = (source.blocks, self._holed(files)) if kind == "bilinear" else ((1, 1), [])
            virtual = [_virtual(source, files, self.layers, masks, blocks, turns) for turns in self._turns(source)]
            down, across = (max(1.0, ratio / block) for ratio, block in zip(source.ratio, blocks, strict=True))
            options = {
                "XSCALE": 1 / across,  # else GDAL would take the kernel's width from the window's
                "YSCALE": 1 / down,
                "UNIFIED_SRC_NODATA": "NO",  # each band by its own missing cells
                "SAMPLE_GRID": "YES",
                "resampling": Resampling[kind],
            }
            positions = [k for at in files.values() for k in at]
            yield _View(positions, masks, [self._warped.enter_context(rasterio.open(each)) for each in virtual], options)

    def _turns(self, source: _Source) -> list[range]:
        """Return by which turns of 360 degrees a source is moved to the grid: each item is one virtual raster."""
        theirs = source.grid
        if not theirs.geographic:
            return [range(1)]
        west, east = -180.0, 180.0  # what a projection's coordinates become
        if self.grid.geographic:  # a turn on each side, for windows beyond its edges
            west, east = self.grid.x - 360.0, self.grid.bounds[1] + 360.0
        first = math.floor((west - theirs.bounds[1]) / 360.0) + 1
        last = math.ceil((east - theirs.x) / 360.0) - 1
        if source.wraps:
            return [range(first - 1, last + 2)]
        return [range(turn, turn + 1) for turn in range(first, last + 1)]

    def _holed(self, files: dict[Path, list[int]]) -> list[int]:
        """Return which of the layers, counted as in `files`, may have missing cells."""
        found = []
        for path, positions in files.items():
            raster = self._raster(path)
            for k in positions:
                band = self.layers[k].band - 1
                declared = raster.nodatavals[band] is not None or rasters.is_masked(raster, band + 1)
                found.append(declared or bool(self.layers[k].missing) or _holds(raster.dtypes[band], NODATA))
        return np.flatnonzero(found).tolist()

    def _piece(self, number: int, view: _View, down: int, right: int) -> np.ndarray:
        """Return a piece of the map's lattice, of a view's layers: (B, 128, 128) float32, missing = NaN."""
        if (number, down, right) in self._pieces:
            return self._pieces[number, down, right]
        place = self.grid.transform @ Affine.translation(right * _SIDE, down * _SIDE)
        west, east, count = place.c, (place @ (_SIDE, 0))[0], len(view.positions)
        out = np.full((count, _SIDE, _SIDE), np.nan, np.float32)
        for raster in view.rasters:
            if len(view.rasters) > 1 and self.grid.geographic and (raster.bounds.left > east + 1 or raster.bounds.right < west - 1):
                continue
            target = {"crs": self._crs, "transform": place, "height": _SIDE, "width": _SIDE, "dtype": "float32"}
            missing = {"src_nodata": math.nan, "nodata": math.nan}
            try:
                with WarpedVRT(raster, **target, **missing, **view.options, tolerance=_EXACT) as warped:
                    values = warped.read(
                        out=np.full((count + len(view.masks), _SIDE, _SIDE), np.nan, np.float32)
                    )  # GDAL may leave cells
            except RasterioError as error:
                raise self._named(view, error) from error
            found, weight = values[:count], values[count:]
            with np.errstate(invalid="ignore"):
                found[~(np.abs(found) < _IMPLAUSIBLE)] = np.nan
            self._refuse(view, found)
            found[view.masks] = np.where(weight >= 255 / 2, found[view.masks], np.nan)
            out = np.where(np.isnan(out), found, out)
        while self._pieces and sum(piece.size for piece in self._pieces.values()) + out.size > _CELLS_KEPT:
            self._pieces.pop(next(iter(self._pieces)))
        self._pieces[number, down, right] = out
        return out

    def _refuse(self, view: _View, found: np.ndarray) -> None:
        """Raise UserError where a layer has one of its refused values; where only they are mixed the result is exactly this."""
        for k, values in zip(view.positions, found, strict=True):
            layer = self.layers[k]
            for value in layer.refused:
                raster = self._raster(layer.path)
                seen = value * raster.scales[layer.band - 1] + raster.offsets[layer.band - 1]
                if count := int(np.isclose(values, seen, rtol=1e-6, atol=0).sum()):
                    raise rasters.refused_value(layer, value, count)

    def _named(self, view: _View, error: Exception) -> UserError:
        """Return the error of a file that GDAL could not read, by its name."""
        paths = list(dict.fromkeys(self.layers[k].path for k in view.positions))
        texts = []
        cause: BaseException | None = error
        while cause is not None:
            texts.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        path = next((path for path in paths if any(path.name in text for text in texts)), paths[0])
        return UserError(f"{path}: not readable as a GeoTIFF ({' '.join(texts[-1].split())[:150]}); is the file whole?")


def _groups(bands: int, cells: int) -> Iterator[slice]:
    """Yield as many bands at a time as may be held in memory."""
    at_once = max(1, rasters._CELLS_AT_ONCE // max(cells, 1))
    return (slice(first, min(first + at_once, bands)) for first in range(0, bands, at_once))


def _virtual(
    source: _Source,
    files: dict[Path, list[int]],
    layers: Sequence[Layer],
    masks: Sequence[int],
    blocks: tuple[int, int],
    turns: range,
) -> str:
    """Return a virtual raster (VRT, as XML) of some layers of a source and of their masks, repeated for each turn."""
    (width, height), (down, across), count = (source.grid.width, source.grid.height), blocks, len(turns)
    clean: list[dict[str, Any]] = []
    values: list[dict[str, Any]]
    holes: list[dict[str, Any]]
    for path, positions in files.items():
        with rasters.open_raster(path) as raster:
            clean += [_clean(source, raster, layers[k]) for k in positions]
    step = width // across if source.wraps else -(-width // across)
    shifts = [step * (count - 1 - n if source.mirrored else n) for n in range(count)]
    if masks or blocks != (1, 1):
        inner = _dataset(source, source.transform, (width, height), [_band(_piece(**each)) for each in clean])
        size, how = (width, height, width / across, height / down), "nearest" if blocks == (1, 1) else "average"
        values, holes = (
            [{"file": inner, "band": f"{prefix}{k + 1}", "size": size, "resampling": how} for k in which]
            for prefix, which in (("", range(len(clean))), ("mask,", masks))
        )
    else:
        values, holes = clean, []
    bands = [
        _band("".join(_piece(**each, shift=shift) for shift in shifts), nodata)
        for some, nodata in ((values, "nan"), (holes, ""))
        for each in some
    ]
    place = Affine.translation(360.0 * turns[-1 if source.mirrored else 0], 0) @ source.transform @ Affine.scale(across, down)
    return _dataset(source, place, (step * count, -(-height // down)), bands)


def _clean(source: _Source, raster: Any, layer: Layer) -> dict[str, Any]:
    """Return the arguments of `_piece` for a band of a file, all kinds of missing cells as NaN, scale and offset applied."""
    band, size = layer.band - 1, (source.grid.width, source.grid.height)
    nodata = raster.nodatavals[band]
    masked = rasters.is_masked(raster, layer.band)
    given = [value for value in layer.missing or () if value not in (NODATA, nodata)]
    # Overviews may be made by any rule.
    options = {"OVERVIEW_LEVEL": "NONE"}
    found: dict[str, Any] = {"file": str(layer.path.resolve()), "band": str(layer.band), "size": size, "options": options}

    def without(missing: Mapping[str, Any]) -> dict[str, Any]:
        """Return a raster in which some cells are -9999: GDAL takes one missing value only."""
        return {"file": _dataset(source, source.transform, size, [_band(_piece(**found, facts=missing), str(NODATA))])} | one

    one, missing = {"band": "1", "size": size}, NODATA
    if masked or (nodata not in (None, NODATA) and not math.isnan(nodata)):
        if masked or given or _holds(raster.dtypes[band], NODATA):
            found = without({"UseMaskBand": "true"})
        else:
            missing = nodata
    for value in given:
        found = without({"NODATA": repr(value)})
    facts = {"NODATA": missing, "ScaleOffset": raster.offsets[band], "ScaleRatio": raster.scales[band]}
    return found | {"facts": facts}


def _holds(dtype: str, value: float) -> bool:
    """Return whether cells of a type can have a value."""
    return np.dtype(dtype).kind == "f" or (np.dtype(dtype).kind in "iu" and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _dataset(source: _Source, place: Affine, size: tuple[int, int], bands: Sequence[str]) -> str:
    """Return the XML of a virtual raster of `size` (columns, rows)."""
    crs = escape(CRS.from_user_input(source.grid.crs).to_wkt())
    return (
        f'<VRTDataset rasterXSize="{size[0]}" rasterYSize="{size[1]}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{', '.join(map(repr, map(float, place.to_gdal())))}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )


def _band(pieces: str, nodata: str = "nan") -> str:
    return f'<VRTRasterBand dataType="Float32">{f"<NoDataValue>{nodata}</NoDataValue>" if nodata else ""}{pieces}</VRTRasterBand>'


def _piece(
    file: str,
    band: str,
    size: tuple[float, ...],
    shift: int = 0,
    resampling: str = "nearest",
    options: Mapping[str, str] = MappingProxyType({}),
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the XML of a source of a band: columns and rows of a file, and in the virtual raster if these differ."""
    width, height = size[-2:]
    opened = "".join(f'<OOI key="{key}">{value}</OOI>' for key, value in options.items())
    return (
        f'<ComplexSource resampling="{resampling}"><SourceFilename relativeToVRT="0">{escape(file)}</SourceFilename>'
        f"<OpenOptions>{opened}</OpenOptions><SourceBand>{band}</SourceBand>"
        f'<SrcRect xOff="0" yOff="0" xSize="{size[0]}" ySize="{size[1]}"/>'
        f'<DstRect xOff="{shift}" yOff="0" xSize="{width!r}" ySize="{height!r}"/>'
        f"{''.join(f'<{key}>{value}</{key}>' for key, value in facts.items())}</ComplexSource>"
    )
