"""Windows of remote rasters, and of STAC items, as GeoTIFFs in a cache on disk, which everything else reads.

In: addresses of GeoTIFFs (https, s3), STAC items and item collections, and the extent that is needed. Out: a local GeoTIFF of
each, with the same cells, type, nodata, scale, units and names of bands, so that it is read as any other. Only the parts of a file
that hold the window are fetched (`io.ranges`); a window that is there, with the checksum that was recorded, is used as it is.

    paths = local_rasters([Path("https://example.org/dem.tif")], (10.0, 11.0, 46.0, 47.0), Path("data/remote"))
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from soilcarbon.geo.crs import Bounds, as_text, bounds_in
from soilcarbon.geo.raster import check_blocks, check_raster, named_errors, open_raster
from soilcarbon.io.files import UserError, atomic_write, sha256, write_json
from soilcarbon.io.ranges import MissingError, RemoteFile, https_address, is_address, shown
from soilcarbon.io.stac import is_stac, read_assets
from soilcarbon.io.tiff_header import check_tiff_file
from soilcarbon.progress import Progress, progress

log = getLogger(__name__)
_REMOTE_NAME = "remote.tif"  # what GDAL takes a remote file to be called: it learns no address
MARGIN = 64  # cells that are fetched beyond the extent on each side: the windows round profiles reach over it
_MOST_BYTES = 2**34  # of a window, unpacked
_STRIP_BYTES = 2**27  # held in memory while a window is written, or a row of the file's own tiles
_HAIR = 1e-3  # of a cell: by so much may the grids of tiles that are joined differ, and an extent lie beyond a cell's edge


@dataclass(frozen=True)
class _Tile:
    """A file that covers a part of the extent: its raster, where the window lies in it, and where it lies in the joined window."""

    place: str | Path
    raster: Any
    file: RemoteFile | None
    window: Window
    row: int
    col: int


def any_remote(paths: Sequence[Path]) -> bool:
    """Return whether some rasters are remote, or STAC items."""
    return any(is_address(path) or is_stac(path) for path in paths)


def crs_of(path: Path, cache: Path) -> str:
    """Return the CRS of a raster, remote or not; of a STAC item that of its first asset."""
    place = read_assets(path, cache)[0].place if is_stac(path) else https_address(path) if is_address(path) else path
    with _open(place, cache) as (raster, _):
        return as_text(raster.crs)


def local_rasters(paths: Sequence[Path], extent: Bounds | None, cache: Path, margin: int = MARGIN) -> list[Path]:
    """Return local paths of rasters: of remote ones and STAC items, GeoTIFFs in `cache` of the window that covers an extent.

    Local paths are returned as they are. STAC items and item collections, local or remote, may have #key,key for some of their
    assets; assets of one key are joined: tiles of one grid. The extent is lon_min, lon_max, lat_min, lat_max in degrees; a remote
    raster needs it. `margin` cells beyond it are fetched on each side.

    UserError if a file cannot be read, covers nothing of the extent, or tiles of one key do not fit each other.
    """
    found: list[Path] = []
    for path in paths:
        if is_stac(path):
            by_key: dict[str, list[str | Path]] = {}
            for asset in read_assets(path, cache):
                if asset.bounds is None or extent is None or _overlap(asset.bounds, extent):
                    by_key.setdefault(asset.key, []).append(asset.place)
            if not by_key:
                raise UserError(f"{path}: no item of it covers {_words(extent)}")
            found += [local_window(places, _stem(key), extent, cache, margin) for key, places in by_key.items()]
        elif is_address(path):
            address = https_address(path)
            found.append(local_window([address], _stem(Path(shown(address)).stem), extent, cache, margin))
        else:
            found.append(path)
    return found


def local_window(
    places: Sequence[str | Path], stem: str, extent: Bounds | None, cache: Path, margin: int = MARGIN, skip_missing: bool = False
) -> Path:
    """Return a local GeoTIFF `<stem>.tif` of the window that covers an extent, joined of tiles; see `local_rasters`.

    `skip_missing` leaves out tiles that the server does not have (the sea), as long as one is there.
    """
    if extent is None:
        raise UserError(f"{_name(places[0])}: which part of it? give --bounds or --aoi; the whole is not fetched")
    with ExitStack() as stack:
        opened = []
        for place in progress(places, "tiles", len(places)):
            try:
                opened.append((place, *stack.enter_context(_open(place, cache))))
            except MissingError:
                if not skip_missing:
                    raise
        if opened and len(opened) < len(places):
            log.info("%s: %d of %d tiles are not there (the sea?)", stem, len(places) - len(opened), len(places))
        if not opened:
            raise UserError(f"{_name(places[0])}: no such file, nor one of the {len(places) - 1} other tiles; is the extent land?")
        _check_alike([(place, raster) for place, raster, _ in opened])
        grid, tiles = _place_tiles(opened, extent, margin)
        key = _key(tiles, grid)
        path = cache / "windows" / key / f"{stem}.tif"
        record = path.with_suffix(".json")
        if not _is_whole(path, record):
            _write(path, grid, tiles)
            sources = [{"address": _name(tile.place), "version": tile.file.version if tile.file else ""} for tile in tiles]
            write_json(record, {"sources": sources, "extent": list(extent), "sha256": sha256(path)})
            log.info("%s: %d x %d cells -> %s", _name(places[0]), grid.height, grid.width, path)
        return path


@contextmanager
def _open(place: str | Path, cache: Path) -> Iterator[tuple[Any, RemoteFile | None]]:
    """Open a remote or local GeoTIFF; why a read of it failed is raised instead of GDAL's message."""
    if isinstance(place, Path):
        with open_raster(place) as raster:
            check_raster(raster, place)
            yield raster, None
        return
    name = Path(shown(place))
    file = RemoteFile(place, cache)
    try:
        with _open_remote(file, name) as raster:
            check_raster(raster, name)
            yield raster, file
    except UserError as error:
        if file.error is not None and error is not file.error:
            raise file.error from error
        raise UserError(str(error).replace(str(name), shown(place))) from error


def _open_remote(file: RemoteFile, name: Path) -> Any:
    """Open a remote GeoTIFF, of which GDAL sees nothing else: no file beside it, no other place."""

    def opener(path: str, *_: Any, **__: Any) -> RemoteFile:
        if not path.endswith(_REMOTE_NAME):
            raise FileNotFoundError(path)
        return file.again()

    with named_errors(name):
        check_tiff_file(file, file.size)  # type: ignore[arg-type]
        raster = rasterio.open(_REMOTE_NAME, driver="GTiff", opener=opener)
    check_blocks(raster, name)
    return raster


def _check_alike(opened: Sequence[tuple[str | Path, Any]]) -> None:
    """Raise UserError if tiles have not one CRS, cell size, type and bands."""
    kinds = [
        {
            "coordinate system": raster.crs,
            "cell size": np.round(raster.res, 12).tolist(),
            "type": raster.dtypes,
            "number of bands": raster.count,
            "nodata value": str(raster.nodatavals),
        }
        for _, raster in opened
    ]
    for (place, _), kind in zip(opened, kinds, strict=True):
        if what := next((name for name, value in kind.items() if value != kinds[0][name]), None):
            differ = f"has another {what} than {_name(opened[0][0])}"
            raise UserError(f"{_name(place)}: {differ}, so they are not joined; give a smaller extent, or each alone")


@dataclass(frozen=True)
class _Window:
    """Grid of a joined window, north up as its tiles are."""

    transform: Affine
    height: int
    width: int


def _place_tiles(opened: Sequence[tuple[Any, Any, Any]], extent: Bounds, margin: int) -> tuple[_Window, list[_Tile]]:
    """Return the grid of the window that covers the extent, and where each tile lies in it."""
    _, model, _ = opened[0]
    step_x, step_y = model.transform.a, model.transform.e
    left, right, bottom, top = bounds_in(extent, "EPSG:4326", as_text(model.crs))
    left, right = left - margin * abs(step_x), right + margin * abs(step_x)
    bottom, top = bottom - margin * abs(step_y), top + margin * abs(step_y)
    parts = []
    for place, raster, file in opened:
        t = raster.transform
        shifts = (0.0, 360.0, -360.0) if raster.crs.is_geographic else (0.0,)
        for shift in shifts:  # longitudes may count from 0 to 360
            cols = sorted(((left + shift - t.c) / t.a, (right + shift - t.c) / t.a))
            rows = sorted(((bottom - t.f) / t.e, (top - t.f) / t.e))
            c0, c1 = max(math.floor(cols[0] + _HAIR), 0), min(math.ceil(cols[1] - _HAIR), raster.width)
            r0, r1 = max(math.floor(rows[0] + _HAIR), 0), min(math.ceil(rows[1] - _HAIR), raster.height)
            if c0 < c1 and r0 < r1:
                parts.append((place, raster, file, Window(c0, r0, c1 - c0, r1 - r0), t.c + c0 * t.a - shift, t.f + r0 * t.e))
                break
    if not parts:
        raise UserError(f"{_name(opened[0][0])}: covers nothing of {_words(extent)}")
    x0 = min(part[4] / step_x for part in parts) * step_x
    y0 = min(part[5] / step_y for part in parts) * step_y
    tiles = []
    for place, raster, file, window, x, y in parts:
        col, row = (x - x0) / step_x, (y - y0) / step_y
        if abs(col - round(col)) > _HAIR or abs(row - round(row)) > _HAIR:
            raise UserError(
                f"{_name(place)}: its cells lie between those of {_name(parts[0][0])}, so they are not joined; give each alone"
            )
        tiles.append(_Tile(place, raster, file, window, round(row), round(col)))
    height = max(tile.row + int(tile.window.height) for tile in tiles)
    width = max(tile.col + int(tile.window.width) for tile in tiles)
    size = height * width * model.count * np.dtype(model.dtypes[0]).itemsize
    if size > _MOST_BYTES:
        raise UserError(
            f"{_name(opened[0][0])}: {height:,} x {width:,} cells ({size >> 30:,} GiB) are too many; give smaller bounds"
        )
    return _Window(Affine(step_x, 0, x0, 0, step_y, y0), height, width), tiles


def _key(tiles: Sequence[_Tile], grid: _Window) -> str:
    """Return the name of a window's folder: of its files, their versions, and its place."""
    facts: list[Any] = [grid.transform[:6], grid.height, grid.width]
    for tile in tiles:
        version = tile.file.version if tile.file else f"{tile.place.stat().st_mtime_ns}" if isinstance(tile.place, Path) else ""
        facts.append([str(tile.place), version, [float(each) for each in tile.window.flatten()]])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _is_whole(path: Path, record: Path) -> bool:
    """Return whether a window is there as it was written."""
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["sha256"] == sha256(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path: Path, grid: _Window, tiles: Sequence[_Tile]) -> None:
    """Write a window, atomically, strip by strip."""
    model = tiles[0].raster
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(model.dtypes[0])
    predictor = 1 if dtype.itemsize > 4 else 3 if dtype.kind == "f" else 2
    place = {"crs": model.crs, "transform": grid.transform, "height": grid.height, "width": grid.width, "count": model.count}
    coding = {"dtype": model.dtypes[0], "nodata": model.nodatavals[0], "compress": "deflate", "predictor": predictor}
    layout = {"interleave": "band", "tiled": True, "blockxsize": 256, "blockysize": 256, "BIGTIFF": "IF_SAFER"}
    masked = any(MaskFlags.per_dataset in flags for flags in model.mask_flag_enums)
    gaps = len(tiles) > 1 and model.nodatavals[0] is None and not masked  # between tiles: what is not written is masked
    step = max(_STRIP_BYTES // (grid.width * model.count * dtype.itemsize), model.block_shapes[0][0])
    strips = [(tile, at) for tile in tiles for at in range(0, int(tile.window.height), step)]
    with (
        atomic_write(path) as file,
        named_errors(path),
        rasterio.Env(GDAL_PAM_ENABLED=False, GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(file.name, "w", driver="GTiff", **place, **coding, **layout) as out,
        Progress(path.stem, len(strips)) as bar,
    ):
        _describe(out, model, tiles)
        for tile, at in strips:
            window = Window(tile.window.col_off, tile.window.row_off + at, tile.window.width, min(step, tile.window.height - at))
            target = Window(tile.col, tile.row + at, window.width, window.height)
            with _named(tile):
                out.write(tile.raster.read(window=window), window=target)
                if masked:
                    out.write_mask(tile.raster.dataset_mask(window=window), window=target)
                elif gaps:
                    out.write_mask(np.full((int(window.height), int(window.width)), 255, np.uint8), window=target)
            bar.step()


@contextmanager
def _named(tile: _Tile) -> Iterator[None]:
    """Raise why a remote file could not be read, in the place of GDAL's message."""
    try:
        yield
        if tile.file is not None and tile.file.error is not None:
            raise tile.file.error
    except RasterioError as error:
        if tile.file is not None and tile.file.error is not None:
            raise tile.file.error from error
        raise UserError(f"{_name(tile.place)}: not readable as a GeoTIFF ({' '.join(str(error).split())[:120]})") from error


def _describe(out: Any, model: Any, tiles: Sequence[_Tile]) -> None:
    """Copy what a file says of its bands: names, units, scale and offset, colours and class names."""
    out.descriptions, out.units = model.descriptions, tuple(unit or "" for unit in model.units)
    out.scales, out.offsets = model.scales, model.offsets
    out.colorinterp = model.colorinterp
    for band in range(1, model.count + 1):
        try:
            out.write_colormap(band, model.colormap(band))
        except ValueError:  # it has no colour table
            continue
    out.update_tags(SOURCE="; ".join(_name(tile.place) for tile in tiles[:20]))


def _overlap(bounds: tuple[float, float, float, float], extent: Bounds) -> bool:
    """Return whether an item's extent (west, south, east, north) and lon_min, lon_max, lat_min, lat_max share ground."""
    west, south, east, north = bounds
    lon_min, lon_max, lat_min, lat_max = extent
    east += 360.0 if east < west else 0.0  # across the antimeridian
    return south <= lat_max and north >= lat_min and any(west + k <= lon_max and east + k >= lon_min for k in (-360, 0, 360))


def _stem(text: str) -> str:
    """Return text as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._")[:80] or "raster"


def _name(place: str | Path) -> str:
    return str(place) if isinstance(place, Path) else shown(place)


def _words(extent: Bounds | None) -> str:
    return "the extent" if extent is None else "longitudes {:g} to {:g}, latitudes {:g} to {:g}".format(*extent)
