"""Cut windows out of covariate rasters, and write rasters of our own.

In: GeoTIFF files in any CRS and cell size, points in degrees. Out: float32 arrays, north up, missing = NaN.
A raster's variables are its bands, named by their descriptions.
"""

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from soilcarbon.geo.crs import as_text, transformed, unfit
from soilcarbon.io import limits
from soilcarbon.io.files import NODATA, UserError, atomic_write, nearest, read_paths, sha256
from soilcarbon.io.nodata import nodata_of
from soilcarbon.io.ranges import is_address, shown
from soilcarbon.io.tiff_header import check_tiff
from soilcarbon.progress import Progress

log = getLogger(__name__)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # `check_raster` says it; catch_warnings mixes up threads

_CELLS_AT_ONCE = 2**24  # cells held in memory while windows are cut: 64 MB of float32
_MOST_CELLS = 10**8  # of a raster that is held whole: a scene of Landsat has 6e7
ABSURD = 1e19  # no covariate is as large: it is the fill value (1e20, 9.97e36, -3.4e38) of a writer that did not declare it
_FAR, _FAR_DEGREES = 1e10, 1e4  # in the CRS's unit: no ground is as far from an origin
_FINE = 1e-12  # of a coordinate, and ...
_TINY = 1e-12  # ... in the CRS's unit: neighbouring cells have to differ in float64 by far more than rounding
UNDECLARED = "%s: not declared as nodata, but taken as missing: %s"  # log message on a file and what is missing in its variables
EXACT = 2**24  # integers up to this are told apart in float32, in which all covariates are held
_OTHER_RASTERS = {".vrt", ".img", ".asc", ".nc", ".jp2", ".grd", ".sdat", ".bil", ".flt", ".hdf", ".h5"}
_SIDECAR = 2**22  # characters of a file beside a raster in which category names are looked for
_CATEGORIES = re.compile(r'<CategoryNames>\s*<Category>|<GDALRasterAttributeTable(?![^>]*tableType="athematic")')
_POLYGONS = (".gpkg", ".shp", ".geojson", ".json", ".kml", ".fgb")
_PICTURE = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@dataclass(frozen=True)
class Layer:
    """One band of one raster: one variable."""

    name: str
    path: Path
    band: int  # counted from 1
    # whether its values are class codes, exact in float32: found with a colour table or category names, or said by a setting
    classes: bool = False
    # stored values that mean missing beside those the file declares; None: nothing was said (`geo.plausibility` asks)
    missing: tuple[float, ...] | None = None
    # stored values that are not read without a question: fill values far from what a model was trained on
    refused: tuple[float, ...] = ()
    unit: str = ""  # as the file states it; "" where it does not


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Convert any error with a GeoTIFF inside the block into a UserError that names the file."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, limits.LimitError) as error:
        reason = " ".join(str(error).split())[:150]
        is_tiff = path.suffix.lower() in (".tif", ".tiff")
        advice = "is the file whole?" if is_tiff else f"gdal_translate {path.name} {path.stem}.tif makes one of other formats"
        raise UserError(f"{path}: not readable as a GeoTIFF ({reason}); {advice}") from error


def check_path(path: Path) -> None:
    """Raise UserError if a path cannot be passed to GDAL."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # bytes that are no UTF-8, which GDAL's paths are
        name = str(path).encode(errors="backslashreplace").decode()
        raise UserError(f"{name}: its path is not UTF-8; rename the file or folder") from error


def open_raster(path: Path) -> Any:
    """Open a GeoTIFF; the caller closes it, and reads from it inside `named_errors`."""
    check_path(path)
    with named_errors(path):
        if path.is_file():
            check_tiff(path)
        raster = rasterio.open(path, driver="GTiff")
    check_blocks(raster, path)
    return raster


def check_blocks(raster: Any, path: Path) -> None:
    """Raise UserError if a strip or tile is too large to be held: GDAL unpacks it at once, whatever part is wanted."""
    bands = raster.count if raster.interleaving == Interleaving.pixel else 1
    for (height, width), dtype in zip(raster.block_shapes, raster.dtypes, strict=True):
        size = height * width * bands * (8 if dtype.startswith("complex_int") else np.dtype(dtype).itemsize)
        if size > limits.BLOCK_BYTES:
            raster.close()
            what = f"{height:,} x {width:,} cells ({size >> 20:,} MiB)"
            tiles = f"gdal_translate -co TILED=YES {path.name} tiled.tif"
            raise UserError(f"{path}: one strip or tile of it has {what}, which is held at once; write it in tiles ({tiles})")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a GeoTIFF; errors on opening and on reading name the file."""
    with named_errors(path), open_raster(path) as raster:
        yield raster


def check_no_vector(path: Path, what: str) -> None:
    """Raise UserError if a file that is to be a raster has the ending of polygons; `what` it is of, such as "strata"."""
    if path.suffix.lower() in _POLYGONS:
        burn = "gdal_rasterize burns the polygons' numbers into one, on the grid of the map"
        raise UserError(f"{path}: is a vector file, and {what} are to be a raster: {burn}")


def find_layers(paths: Sequence[Path], nodata: Mapping[str, tuple[float, ...]] | None = None) -> list[Layer]:
    """Return the variables that GeoTIFF files hold, in the order of the files and their bands.

    Paths are files, folders whose *.tif and *.tiff are taken in order of their names, or YAML lists of both. A variable is named by
    its band's description, else by the file (`<stem>`, or `<stem>_<band>` of several); characters that a file name cannot hold
    become "_". A band that says how opaque others are (alpha) is a mask and no variable. `nodata` is as of
    `io.nodata.parse_nodata`.

    UserError if a file is missing or no GeoTIFF, has several pages or is a picture, a folder has none, or two bands have one name.
    """
    found: dict[Path, Path] = {}  # by where it truly lies: a file given twice is read once
    listed = [read_paths(path) if path.suffix.lower() in (".yaml", ".yml") else [path] for path in paths]
    for path in (path for each in listed for path in each):
        if is_address(path):
            command = "soilcarbon fetch --rasters ADDRESS --bounds LON_MIN LON_MAX LAT_MIN LAT_MAX --out FOLDER"
            raise UserError(f"{shown(path)}: is not read from afar here; fetch the part that is needed first: {command}")
        if not path.exists():
            raise UserError(f"{path}: no such raster or folder of rasters")
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith("."))
            passed_over = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _OTHER_RASTERS)
            if not inside:
                other = f"; {passed_over[0]} is of another format: gdal_translate makes a GeoTIFF of it" if passed_over else ""
                raise UserError(f"{path}: no *.tif or *.tiff in this folder{other}")
            if passed_over:
                what = f"{len(passed_over)} raster{'s' * (len(passed_over) > 1)} of other formats not read"
                log.warning("%s: %s, first %s; gdal_translate makes GeoTIFFs of them", path, what, passed_over[0])
        found |= {p.resolve(): p for p in inside if p.resolve() not in found}
    layers: dict[str, Layer] = {}
    extents: dict[Path, tuple[Any, ...]] = {}
    for path in found.values():
        with _open(path) as raster:
            extents[path] = raster.crs, raster.count, raster.res, raster.bounds
            if tile := next((other for other in extents if _are_tiles(other, path, extents)), None):
                merge = f"gdalbuildvrt all.vrt {tile.name} {path.name} ...; gdal_translate all.vrt all.tif"
                raise UserError(f"{path}: lies beside {tile.name}, on one grid: tiles of one raster? Join them ({merge})")
            bands = _measured_bands(raster, path)
            described = [(k, raster.descriptions[k - 1], _is_coded(raster, k), raster.units[k - 1] or "") for k in bands]
        for band, description, coded, unit in described:
            unnamed = path.stem if len(described) == 1 else f"{path.stem}_{band}"
            name = re.sub(r"[^\w.-]+", "_", description or "").strip("._") or unnamed
            if name in layers:
                where = "twice in" if layers[name].path == path else f"in {layers[name].path} and in"
                raise UserError(f"variable {name!r} is {where} {path}; a name must be unique: leave one out, or rename its band")
            layers[name] = Layer(name, path, band, coded, nodata_of(name, nodata or {}), unit=unit)
    return list(layers.values())


def _are_tiles(one: Path, other: Path, extents: Mapping[Path, tuple[Any, ...]]) -> bool:
    """Return whether two rasters, each CRS, bands, cell size and bounds, are alike but for numbers in their names and their place.

    They share less than half of the smaller one.
    """
    named = [re.sub(r"[nsew]?\d+[nsew]?", "", path.stem.lower()) for path in (one, other)]
    (crs, count, cell, a), (*alike, cell_of_other, b) = extents[one], extents[other]
    if named[0] != named[1] or alike != [crs, count] or not np.allclose(cell, cell_of_other, rtol=1e-6, atol=0):
        return False
    turn = 360.0 * round((a.left + a.right - b.left - b.right) / 720.0) if crs and crs.is_geographic else 0.0
    wide = min(max(a.left, a.right), max(b.left, b.right) + turn) - max(min(a.left, a.right), min(b.left, b.right) + turn)
    high = min(max(a.top, a.bottom), max(b.top, b.bottom)) - max(min(a.top, a.bottom), min(b.top, b.bottom))
    smaller = min(abs((each.right - each.left) * (each.top - each.bottom)) for each in (a, b))
    return max(wide, 0.0) * max(high, 0.0) < smaller / 2


def _measured_bands(raster: Any, path: Path) -> list[int]:
    """Return the bands of an open file that hold a variable; UserError for several pages or a picture."""
    if raster.subdatasets:
        first = raster.subdatasets[0]
        raise UserError(
            f"{path}: holds {len(raster.subdatasets)} pages (images), of which one at a time is read; take those that are meant "
            f"out of it (gdal_translate {first} page1.tif)"
        )
    kinds, names = raster.colorinterp, raster.descriptions
    picture = [k for k, kind in enumerate(kinds) if kind in _PICTURE]
    if len(picture) >= 3 and not any(names) and {raster.dtypes[k] for k in picture} == {"uint8"}:
        raise UserError(
            f"{path}: is a picture (bands red, green and blue of colours), no measurement; give the raster it was drawn from, "
            "or, if these are measured, name its bands"
        )
    return [k + 1 for k, kind in enumerate(kinds) if kind != ColorInterp.alpha or names[k]]


def is_masked(raster: Any, band: int) -> bool:
    """Return whether a band of an open file has a mask: a band of the mask's own, or one of opacity (alpha).

    Writers declare the last of four bands of bytes opacity by default; one with a name is a variable, and masks nothing.
    """
    flags = set(raster.mask_flag_enums[band - 1]) - {MaskFlags.all_valid, MaskFlags.nodata}
    named = any(kind == ColorInterp.alpha and name for kind, name in zip(raster.colorinterp, raster.descriptions, strict=True))
    return bool(flags) and not (MaskFlags.alpha in flags and named)


def _is_coded(raster: Any, band: int) -> bool:
    """Return whether a band of integers has a colour table or category names."""
    if np.dtype(raster.dtypes[band - 1]).kind not in "iu":
        return False
    try:
        raster.colormap(band)
    except ValueError:  # no colour table; category names lie beside a GeoTIFF, in files of GDAL and of ArcGIS
        path = Path(raster.name)
        beside = Path(f"{path}.aux.xml")
        text = beside.read_text(encoding="utf-8", errors="replace")[:_SIDECAR] if beside.is_file() else ""
        own = next((part for part in text.split("<PAMRasterBand")[1:] if re.match(rf'\s+band="{band}"', part)), "")
        return bool(_CATEGORIES.search(own)) or (raster.count == 1 and Path(f"{path}.vat.dbf").is_file())
    return True


def pick_layers(layers: Sequence[Layer], variables: Sequence[str]) -> list[Layer]:
    """Return the layers of some variables, in the variables' order.

    UserError if a variable is in none of them; each is named, with the nearest name there is.
    """
    by_name = {layer.name: layer for layer in layers}
    missing = [name for name in variables if name not in by_name]
    if missing:
        shown = "; ".join(f"{name!r}{nearest(name, list(by_name)).replace(';', ',')}" for name in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{len(missing)} of {len(variables)} variables are in none of the rasters: {shown}{more}")
    return [by_name[name] for name in variables]


def by_file(layers: Sequence[Layer]) -> dict[Path, list[Layer]]:
    """Return the layers of each file, in the order of the files' first layers."""
    found: dict[Path, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.path, []).append(layer)
    return found


def describe(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return, of each file of some layers: name, CRS, cell size in its unit (x, y), shape, variables, given nodata, checksum."""
    table = []
    for path, here in by_file(layers).items():
        with _open(path) as raster:
            crs, size, shape = as_text(raster.crs) if raster.crs else None, [abs(float(each)) for each in raster.res], raster.shape
        facts = {"file": path.name, "crs": crs, "cell_size": size, "shape": list(shape), "variables": [each.name for each in here]}
        given = {each.name: list(each.missing) for each in here if each.missing is not None}
        table.append(facts | ({"nodata": given} if given else {}) | {"sha256": sha256(path)})
    return table


def check_raster(raster: Any, path: Path, layers: Sequence[Layer] = ()) -> None:
    """Raise UserError if a raster has no CRS of the Earth's surface, a rotated grid, or complex numbers in some of its layers."""
    imaginary = [layer.name for layer in layers if raster.dtypes[layer.band - 1].startswith("complex")]
    if imaginary:
        raise UserError(f"{path}: holds complex numbers in {', '.join(imaginary[:3])}; give it real ones")
    if raster.crs is None:
        raise UserError(f"{path}: has no coordinate reference system; set it first (gdal_edit.py -a_srs EPSG:... {path.name})")
    if unfit(raster.crs):
        raise UserError(f"{path}: its coordinate reference system {unfit(raster.crs)}; set the true one, or warp it (gdalwarp)")
    if raster.transform.b or raster.transform.d:
        raise UserError(f"{path}: its grid is rotated; warp it to a north-up grid first (gdalwarp)")
    fault = _fault(raster.transform, raster.width, raster.height, _FAR_DEGREES if raster.crs.is_geographic else _FAR)
    if fault:
        raise UserError(f"{path}: its cells {fault}; set its true georeferencing (gdal_edit.py -a_ullr)")


def check_size(height: int, width: int, path: Path) -> None:
    """Raise UserError if a raster, perhaps of a few bytes that claim to be many, has more cells than may be held at once."""
    if height * width > _MOST_CELLS:
        raise UserError(f"{path}: {height:,} x {width:,} cells are too many to hold at once; cut it into parts (gdalwarp -te)")


def check_filled(values: np.ndarray, path: Path, hint: str) -> None:
    """Raise UserError if an array computed from a raster (any shape, missing = NaN) is missing throughout."""
    if not np.isfinite(values).any():
        raise UserError(f"{path}: nothing can be made of it, all cells would be missing; {hint}")


def _fault(place: Affine, width: int, height: int, far: float) -> str:
    """Return the fault of the cells of a raster that is not rotated, "" if there is none."""
    for corner, cell, size in ((place.c, place.a, width), (place.f, place.e, height)):
        end = corner + cell * size
        if not all(map(math.isfinite, (corner, cell, end))) or max(abs(corner), abs(end)) > far:
            return f"lie beyond all measure (size {cell:g}, corner at {corner:g})"
        if abs(cell) < _FINE * max(abs(corner), abs(end)) or abs(cell) < _TINY:
            return f"are too small to be distinguished (size {cell:g}, corner at {corner:g})"
    return ""


def cut_windows(layers: Sequence[Layer], lon: np.ndarray, lat: np.ndarray, radius: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cut the square window (N, S, S) float32 of every variable round every point, lon and lat (N,) in degrees.

    Each raster keeps its own CRS and cells: a window is the cell that holds the point and `radius` cells on each side, north up.
    Nodata, masked, NaN, infinite and -9999 cells are missing; scale and offset are applied. Beyond a raster's edge a window is
    missing, but one that spans 360 degrees continues at its other side.

    A raster is visited by tiles, of which only those with points in them are read, and only as far as the windows reach: reading a
    few points from a large raster is cheap, and memory stays small.

    Also returned is (N,) whether the point's own cell lies in every raster. UserError if one has no CRS, is rotated, or cannot be
    read.
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    size = 2 * radius + 1
    windows = {layer.name: np.full((lon.size, size, size), np.nan, np.float32) for layer in layers}
    inside = np.ones(lon.size, bool)
    files = by_file(layers)
    with Progress("covariates at the points", len(files) * lon.size) as bar:
        for path, here in files.items():
            undeclared: set[str] = set()
            with _open(path) as raster:
                check_raster(raster, path, here)
                rows, cols, wraps = _cells(raster, lon, lat)
                within = (rows >= 0) & (rows < raster.height) & (cols >= 0) & (cols < raster.width)
                inside &= within
                north_up = np.s_[:, :: 1 if raster.transform.e < 0 else -1, :: 1 if raster.transform.a > 0 else -1]
                for points in _by_tile(raster, rows, cols, np.flatnonzero(within), len(here)):
                    top, left = rows[points].min() - radius, cols[points].min() - radius
                    bottom, right = rows[points].max() + radius + 1, cols[points].max() + radius + 1
                    block = read_cells(raster, here, (top, bottom), (left, right), raster.width if wraps else None, undeclared)
                    views = np.lib.stride_tricks.sliding_window_view(block, (size, size), axis=(1, 2))
                    for layer, view in zip(here, views, strict=True):
                        windows[layer.name][points] = view[rows[points] - radius - top, cols[points] - radius - left][north_up]
                    bar.step(len(points))
                bar.step(int((~within).sum()))
            if undeclared:
                log.info(UNDECLARED, path.name, ", ".join(sorted(undeclared)))
    return windows, inside


def spans_the_globe(raster: Any) -> bool:
    """Return whether a raster in degrees spans the globe, so that its columns continue at the other side."""
    width = abs(raster.transform.a)
    return bool(raster.crs.is_geographic) and abs(width * raster.width - 360.0) < width / 2


def _cells(raster: Any, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the row and column (N,) of the cell that holds each point, and whether columns continue beyond the edge."""
    grid: Affine = raster.transform
    x, y = transformed("EPSG:4326", raster.crs, lon, lat)
    wraps = spans_the_globe(raster)
    if raster.crs.is_geographic:  # longitude is an angle: -10 and 350 are one meridian
        west = min(grid.c, grid.c + grid.a * raster.width)
        x = west + (x - west) % 360.0
    known = np.isfinite(x)
    cells = np.full((2, lon.size), -1, np.int64)
    cells[0, known] = np.floor((y[known] - grid.f) / grid.e).clip(-1, raster.height)
    cells[1, known] = np.floor((x[known] - grid.c) / grid.a).clip(-1, raster.width)
    if wraps:
        cells[1, known] %= raster.width
    return cells[0], cells[1], wraps


def _by_tile(raster: Any, rows: np.ndarray, cols: np.ndarray, points: np.ndarray, bands: int) -> list[np.ndarray]:
    """Group points by the tile that holds them: whole blocks of the file, as many as memory allows."""
    if points.size == 0:
        return []
    block_height, block_width = raster.block_shapes[0]
    cells = _CELLS_AT_ONCE // bands
    width = max(block_width, int(cells**0.5) // block_width * block_width)
    height = max(block_height, cells // min(width, raster.width) // block_height * block_height)
    tile = rows[points] // height * (raster.width // width + 1) + cols[points] // width
    order = np.argsort(tile, kind="stable")
    return np.split(points[order], np.flatnonzero(np.diff(tile[order])) + 1)


def read_cells(
    raster: Any,
    layers: Sequence[Layer],
    rows: tuple[int, int],
    cols: tuple[int, int],
    period: int | None,
    undeclared: set[str],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Read rows and columns [from, to) of some bands of an open file, beyond the edges too: (B, rows, columns) float32.

    Rows and columns are in the file's own order; beyond its edges all is missing. It comes again after `period` columns, at least
    its width: one of the whole globe after its own width. Nodata, masked, NaN, infinite, absurdly large and -9999 cells are
    missing; scale and offset are applied. What is missing without being declared as nodata, -9999 and infinite cells, is added to
    `undeclared`, with the layers' names. `out` is filled, any view. RasterioError if a part of the file cannot be read; see
    `named_errors`.
    """
    height, width = rows[1] - rows[0], cols[1] - cols[0]
    block = np.empty((len(layers), height, width), np.float32) if out is None else out
    top, bottom = max(rows[0], 0), min(rows[1], raster.height)
    shifts = range(cols[0] // period * period, cols[1], period) if period else (0,)
    pieces = [(shift, max(cols[0], shift), min(cols[1], shift + raster.width)) for shift in shifts]
    pieces = [piece for piece in pieces if piece[1] < piece[2] and top < bottom]
    if bottom - top < height or sum(right - left for _, left, right in pieces) < width:
        block[:] = np.nan
    for shift, left, right in pieces:
        part = block[:, top - rows[0] : bottom - rows[0], left - cols[0] : right - cols[0]]
        _read_inside(raster, layers, Window(left - shift, top, right - left, bottom - top), part, undeclared)
    return block


def _read_inside(raster: Any, layers: Sequence[Layer], window: Window, out: np.ndarray, undeclared: set[str]) -> None:
    """Read a window that lies inside the raster into `out` (B, rows, columns) float32, missing = NaN."""
    bands = [layer.band for layer in layers]
    stored = raster.read(bands, window=window)
    nodata, scales, offsets = raster.nodatavals, raster.scales, raster.offsets
    hidden = None  # a mask band, alpha: rare, and read once more; to compare with nodata is much faster than to ask for a mask
    if any(is_masked(raster, band) for band in bands):
        hidden = raster.read_masks(bands, window=window) == 0
        nodata = [None] * len(nodata)  # GDAL lets a mask take the place of nodata
    for k, (layer, values) in enumerate(zip(layers, out, strict=True)):
        band = layer.band - 1
        reach = _reach(stored[k])
        missing = missing_cells(stored[k], (nodata[band], *(layer.missing or ())), reach)
        with np.errstate(over="ignore", invalid="ignore"):
            values[...] = stored[k]
        if hidden is not None:
            missing = hidden[k] if missing is None else missing | hidden[k]
        if missing is not None:
            values[missing] = np.nan
        _check_exact(stored[k], missing, reach, layer)
        if stored.dtype.kind == "f" and not all(map(math.isfinite, reach)):
            infinite = np.isinf(stored[k]) if hidden is None else np.isinf(stored[k]) & ~hidden[k]
            if infinite.any() and not (nodata[band] is not None and math.isinf(nodata[band])):
                undeclared.add(f"infinite cells in {layer.name}")
        if nodata[band] != NODATA and _within(NODATA, reach):
            taken = values == NODATA  # means missing in patches too, so it cannot be anything else here
            if taken.any():
                undeclared.add(f"-9999 in {layer.name}")
                values[taken] = np.nan
        for value in layer.refused:
            if _within(value, reach) and (count := int((values == np.float32(value)).sum())):
                raise refused_value(layer, value, count)
        if (scales[band], offsets[band]) != (1.0, 0.0):
            with np.errstate(over="ignore", invalid="ignore"):
                values *= scales[band]
                values += offsets[band]
            values[~(np.abs(values) < ABSURD)] = np.nan


def _reach(stored: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest value of cells as stored; NaN of both where one is NaN."""
    with np.errstate(invalid="ignore"):
        return float(stored.min()), float(stored.max())


def _within(value: float, reach: tuple[float, float]) -> bool:
    """Return False if no cell can have the value."""
    return not (value < reach[0] or value > reach[1])  # not the other way round: NaN compares as False


def missing_cells(
    stored: np.ndarray, values: Iterable[float | None], reach: tuple[float, float] | None = None
) -> np.ndarray | None:
    """Return where cells as stored (any shape) have one of some values or are no number a covariate can have; None if nowhere.

    Values that are None or absurd say nothing. `reach` are the least and the largest of the cells, if known.
    """
    reach, missing = reach or _reach(stored), None
    if stored.dtype.kind == "f" and not (reach[1] < ABSURD and reach[0] > -ABSURD):
        with np.errstate(invalid="ignore"):
            missing = ~(np.abs(stored) < ABSURD)
    for value in values:
        if value is None or not _within(value, reach):
            continue
        if stored.dtype.kind == "f":
            if not abs(value) < ABSURD:
                continue
            hair = 4 * float(np.finfo(stored.dtype).eps) * abs(value)  # GDAL's: what declares nodata may have been rounded
            with np.errstate(invalid="ignore"):
                found = (stored >= value - hair) & (stored <= value + hair)
        elif float(value).is_integer():
            limits = np.iinfo(stored.dtype)
            found = stored == min(max(int(value), limits.min), limits.max)  # of 64 bits the limit itself is no float64
        else:
            continue
        missing = found if missing is None else missing | found
    return missing


def refused_value(layer: Layer, value: float, count: int) -> UserError:
    """Return the question about a fill value that turned up while a map was made."""
    return UserError(
        f"{layer.path}: {count} cells of {layer.name} here are {value:.10g}, far from all the model was trained on: a missing "
        f"value that is not declared? --nodata {layer.name}={value:.10g} takes it as missing, --nodata {layer.name}=none as a value"
    )


def _check_exact(stored: np.ndarray, missing: np.ndarray | None, reach: tuple[float, float], layer: Layer) -> None:
    """Raise UserError if class codes cannot be told apart in float32."""
    if not layer.classes or max(abs(reach[0]), abs(reach[1])) <= EXACT:
        return
    large = np.abs(stored.astype(np.float64)) > EXACT  # not as integers: the least of a type has no absolute value in it
    large &= True if missing is None else ~missing
    if large.any():
        raise too_large_code(layer, stored[large][0])


def too_large_code(layer: Layer, code: Any) -> UserError:
    """Return the error of a class code that float32 cannot hold."""
    return UserError(
        f"{layer.path}: class codes of {layer.name} beyond {EXACT:,}, first {code}, cannot be told apart in the 32-bit numbers "
        "that covariates are held in; number the classes 1, 2, 3 ... in a new raster (gdal_calc.py, or QGIS: reclassify by table)"
    )


def write_geotiff(
    path: Path,
    bands: np.ndarray,
    names: Sequence[str],
    transform: Affine,
    crs: str = "EPSG:4326",
    units: Sequence[str] | None = None,
) -> None:
    """Write bands (B, H, W), missing = NaN, as a GeoTIFF, atomically: float32, deflated, missing cells as -9999, each named.

    `transform` is from column and row to the CRS's coordinates, of the cells' upper left corners.
    """
    count, height, width = bands.shape
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) >= 512 else {}
    grid = {"count": count, "height": height, "width": width, "transform": transform, "crs": crs}
    coding = {"dtype": "float32", "nodata": NODATA, "compress": "deflate", "predictor": 3, "interleave": "band", **tiles}
    # Made in memory first: GDAL does not report a full disk on closing, a plain write does.
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **grid, **coding) as raster:
            raster.write(np.where(np.isfinite(bands), bands, NODATA).astype(np.float32))
            raster.descriptions = tuple(names)
            if units is not None:
                raster.units = tuple(units)
        with atomic_write(path) as file:
            file.write(memory.getbuffer())
