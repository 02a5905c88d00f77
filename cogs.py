"""Tiles of a map on disk, and the Cloud Optimized GeoTIFF they become.

A tile is a small GeoTIFF whose name holds its number and the checksum of its bytes, `000042.1f0c99ab.tif`: one that was
torn is known by its name. Tiles become one file through GDAL's virtual mosaic and its COG driver, in little memory.
"""

import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from config import NODATA
from files import UserError, atomic_write
from grids import Grid, Tile

log = logging.getLogger(__name__)
GDAL_SETTINGS: dict[str, Any] = {"GDAL_CACHEMAX": 64 * 2**20, "GDAL_PAM_ENABLED": False}
"""Half a gigabyte of cache would be used if it were there, and memory would seem to grow with the raster."""
_BLOCK = 512
_NOTES = "SOIL_CARBON"
EMPTY = "empty"


@dataclass(frozen=True)
class Band:
    """One band of a map: its name, unit, and what it means."""

    name: str
    unit: str
    tags: Mapping[str, str] = field(default_factory=dict)


def write_tile(folder: Path, tile: Tile, bands: np.ndarray | None, notes: Mapping[str, Any]) -> Path:
    """Write a tile (B, h, w) with missing = NaN and some notes (for JSON), atomically; None: no cell has a value.

    The same values give the same bytes and hence the same name.
    """
    shape = (1, 1, 1) if bands is None else bands.shape
    coding = {"dtype": "float32", "nodata": NODATA, "compress": "zstd", "zstd_level": 1, "predictor": 3, "interleave": "band"}
    place = Affine(1.0, 0.0, tile.col, 0.0, -1.0, -tile.row - 1.0)  # in the map's cells: rasterio warns of files without any
    size = {"count": shape[0], "height": shape[1], "width": shape[2], "transform": place}
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(shape[1:]) >= 256 else {}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, **coding, **blocks) as raster:
            if bands is not None:
                raster.write(np.where(np.isfinite(bands), bands, np.float32(NODATA)))
            raster.update_tags(**{_NOTES: json.dumps(notes)})
        content = bytes(memory.getbuffer())
    suffix = f".{EMPTY}.tif" if bands is None else ".tif"
    path = folder / f"{tile.number:08d}.{zlib.crc32(content):08x}{suffix}"
    with atomic_write(path) as file:
        file.write(content)
    return path


def whole_tiles(folder: Path) -> dict[int, Path]:
    """Return the tiles of a folder by number; one whose bytes do not fit its name, or that comes twice, is removed."""
    found: dict[int, Path] = {}
    for path in sorted(folder.glob("[0-9]*.tif")):
        number, checksum = path.name.split(".")[:2]
        if int(number) in found or f"{zlib.crc32(path.read_bytes()):08x}" != checksum:
            log.warning("%s: a damaged tile; it will be computed again", path.name)
            path.unlink()
        else:
            found[int(number)] = path
    return found


def read_notes(path: Path) -> Any:
    """Return what was noted with a tile."""
    with rasterio.open(path) as raster:
        return json.loads(raster.tags()[_NOTES])


def _mosaic(grid: Grid, tiles: Sequence[tuple[Tile, Path]], first: int, bands: Sequence[Band], tags: Mapping[str, str]) -> str:
    """Return a GDAL virtual raster over tiles' bands `first` to `first + len(bands) - 1`, counted from 0."""

    def metadata(values: Mapping[str, str]) -> str:
        entries = "".join(f'<MDI key="{escape(key)}">{escape(value)}</MDI>' for key, value in values.items())
        return f"<Metadata>{entries}</Metadata>"

    corner = ", ".join(f"{number!r}" for number in (grid.x, grid.cell[0], 0.0, grid.y, 0.0, -grid.cell[1]))
    lines = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}"><SRS>{escape(_wkt(grid.crs))}</SRS>']
    lines += [f"<GeoTransform>{corner}</GeoTransform>", metadata(tags)]
    for k, band in enumerate(bands):
        lines.append(f'<VRTRasterBand dataType="Float32" band="{k + 1}"><Description>{escape(band.name)}</Description>')
        lines.append(f"{metadata(band.tags)}<UnitType>{escape(band.unit)}</UnitType><NoDataValue>{NODATA}</NoDataValue>")
        for tile, path in tiles:
            size = f'xSize="{tile.width}" ySize="{tile.height}"'
            lines.append(
                f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(path.name)}</SourceFilename>'
                f"<SourceBand>{first + k + 1}</SourceBand>"
                f'<SourceProperties RasterXSize="{tile.width}" RasterYSize="{tile.height}" DataType="Float32"/>'
                f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{tile.col}" yOff="{tile.row}" {size}/></SimpleSource>'
            )
        lines.append("</VRTRasterBand>")
    return "\n".join([*lines, "</VRTDataset>"])


def _wkt(crs: str) -> str:
    return str(rasterio.CRS.from_user_input(crs).to_wkt())


def write_cog(
    folder: Path,
    name: str,
    grid: Grid,
    tiles: Sequence[tuple[Tile, Path]],
    first: int,
    bands: Sequence[Band],
    tags: Mapping[str, str],
) -> Path:
    """Join tiles into a Cloud Optimized GeoTIFF inside their folder, and read it back.

    Parameters
    ----------
    folder
        Holds the tiles.
    name
        The file's name.
    grid
        The map's.
    tiles
        Each tile that has values, and its file; the rest of the map is nodata.
    first, bands
        The map's bands are the tiles' from `first` (counted from 0) on.
    tags
        Metadata of the whole file.

    Returns
    -------
    Path
        The file, complete and on disk: every cell is what the tiles say.

    Raises
    ------
    UserError
        If it could not be written whole: the disk is full.
    """
    virtual, path = folder / f"{name}.vrt", folder / name
    virtual.write_text(_mosaic(grid, tiles, first, bands, tags), encoding="utf-8")
    options = {"compress": "DEFLATE", "predictor": "YES", "blocksize": _BLOCK, "overview_resampling": "AVERAGE"}
    options |= {"num_threads": "ALL_CPUS", "bigtiff": "IF_SAFER", "sparse_ok": "YES"}
    try:
        path.unlink(missing_ok=True)
        with rasterio.Env(**GDAL_SETTINGS):
            rasterio.shutil.copy(virtual, path, driver="COG", **options)
            _check(path, tiles, first, len(bands))
    except (RasterioError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"{path}: the map could not be written whole ({reason}); is the disk full? Make room, and --resume goes on"
        ) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path


def _check(path: Path, tiles: Sequence[tuple[Tile, Path]], first: int, count: int) -> None:
    """Compare a map with its tiles, cell by cell: GDAL tells nobody when a file could not be finished."""
    numbers = list(range(first + 1, first + count + 1))
    with rasterio.open(path) as raster:
        for tile, part in tiles:
            with rasterio.open(part) as source:
                window = Window(tile.col, tile.row, tile.width, tile.height)
                if not np.array_equal(raster.read(window=window), source.read(numbers)):
                    raise OSError(f"tile {tile.number} is not what was computed")
