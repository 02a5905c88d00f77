"""Tiles of a map on disk, and the Cloud Optimized GeoTIFF they become.

A tile is a small GeoTIFF whose name holds its number, the plan it belongs to and the checksum of its bytes,
`00000042.5e01aa7c.1f0c99ab.tif`: a torn tile, or one of another plan, does not fit its name. (It is no protection against
deliberate changes.) Tiles become one file through a GDAL virtual raster and GDAL's COG driver, in bounded memory.
"""

import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.transform import Affine
from rasterio.windows import Window

from soilcarbon.geo.crs import GDAL_ERRORS
from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.io.files import NODATA, UserError, atomic_write, write_text

log = logging.getLogger(__name__)
GDAL_SETTINGS: dict[str, Any] = {"GDAL_CACHEMAX": 64 * 2**20}
"""The default cache, a share of the machine's memory, lets memory grow with the raster."""
TILE = re.compile(r"(\d{8,})\.([0-9a-f]{8})\.([0-9a-f]{8})(\.empty)?\.tif")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BLOCK = 512
_NOTES = "SOIL_CARBON"


@dataclass(frozen=True)
class Band:
    """A band of a map: name, unit, and tags such as MEANING."""

    name: str
    unit: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Part(NamedTuple):
    """A tile of a raster, the file that it is the upper left corner of, and the file's height and width."""

    tile: Tile
    path: Path
    shape: tuple[int, int]


@dataclass
class Statistics:
    """Statistics of a band's cells that have values."""

    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> "Statistics":
        """Return those of an array with missing = NaN."""
        known = values[np.isfinite(values)].astype(np.float64)
        if not known.size:
            return cls()
        return cls(known.size, float(known.min()), float(known.max()), float(known.sum()), float((known**2).sum()))

    def __add__(self, other: "Statistics") -> "Statistics":
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Statistics(self.count + other.count, low, high, self.total + other.total, self.squares + other.squares)

    def tags(self) -> dict[str, str]:
        """Return them as GDAL's band metadata, which every GIS reads."""
        if not self.count:
            return {}
        mean = self.total / self.count
        deviation = max(self.squares / self.count - mean**2, 0.0) ** 0.5
        pairs = {"MINIMUM": self.low, "MAXIMUM": self.high, "MEAN": mean, "STDDEV": deviation}
        return {f"STATISTICS_{name}": f"{value:.9g}" for name, value in pairs.items()}


def write_tile(folder: Path, plan: str, tile: Tile, bands: np.ndarray | None, notes: str) -> Path:
    """Write a tile's bands (B, h, w), missing = NaN, atomically; the same values give the same bytes and hence the same name.

    `plan` is the plan's checksum. None in place of bands: no cell has a value. `notes` are kept with the tile.
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
            raster.update_tags(**{_NOTES: notes})
        content = bytes(memory.getbuffer())
    suffix = ".empty.tif" if bands is None else ".tif"
    path = folder / f"{tile.number:08d}.{plan[:8]}.{zlib.crc32(content):08x}{suffix}"
    with atomic_write(path) as file:
        file.write(content)
    return path


def whole_tiles(folder: Path, plan: str) -> dict[int, Path]:
    """Return a plan's tiles in a folder by number; damaged and duplicate tiles are removed with a warning."""
    found: dict[int, Path] = {}
    named = [(path, TILE.fullmatch(path.name)) for path in sorted(folder.glob("[0-9]*.tif")) if path.is_file()]
    ours = [(path, name) for path, name in named if name is not None and name[2] == plan[:8]]
    with ThreadPoolExecutor() as pool:
        checksums = pool.map(lambda each: f"{zlib.crc32(each[0].read_bytes()):08x}", ours)
    for (path, name), checksum in zip(ours, checksums, strict=True):
        if int(name[1]) in found or checksum != name[3]:
            log.warning("%s: a damaged tile; it will be computed again", path.name)
            path.unlink()
            if twin := found.pop(int(name[1]), None):
                twin.unlink()
        else:
            found[int(name[1])] = path
    return found


def is_empty(path: Path) -> bool:
    """Return whether no cell of a tile has a value."""
    return path.name.endswith(".empty.tif")


def read_notes(path: Path) -> str:
    """Return the notes stored with a tile, "" if there are none."""
    with rasterio.open(path, driver="GTiff") as raster:
        return str(raster.tags().get(_NOTES, ""))


def _xml(text: str) -> str:
    """Return text escaped for XML, without the control characters that XML cannot hold."""
    return escape(_NOT_XML.sub("", text), {'"': "&quot;"})


def _mosaic(grid: Grid, tiles: Sequence[Part], first: int, bands: Sequence[Band], tags: Mapping[str, str]) -> str:
    """Return a GDAL virtual raster over tiles' bands `first` to `first + len(bands) - 1`, counted from 0."""

    def metadata(values: Mapping[str, str]) -> str:
        entries = "".join(f'<MDI key="{_xml(key)}">{_xml(value)}</MDI>' for key, value in values.items())
        return f"<Metadata>{entries}</Metadata>"

    corner = ", ".join(f"{number!r}" for number in (grid.x, grid.cell[0], 0.0, grid.y, 0.0, -grid.cell[1]))
    wkt = rasterio.CRS.from_user_input(grid.crs).to_wkt()
    lines = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}"><SRS>{_xml(wkt)}</SRS>']
    lines += [f"<GeoTransform>{corner}</GeoTransform>", metadata(tags)]
    for k, band in enumerate(bands):
        lines.append(f'<VRTRasterBand dataType="Float32" band="{k + 1}"><Description>{_xml(band.name)}</Description>')
        lines.append(f"{metadata(band.tags)}<UnitType>{_xml(band.unit)}</UnitType><NoDataValue>{NODATA}</NoDataValue>")
        for tile, path, (height, width) in tiles:
            size = f'xSize="{tile.width}" ySize="{tile.height}"'
            lines.append(
                f'<SimpleSource><SourceFilename relativeToVRT="1">{_xml(path.name)}</SourceFilename>'
                f"<SourceBand>{first + k + 1}</SourceBand>"
                f'<SourceProperties RasterXSize="{width}" RasterYSize="{height}" DataType="Float32"/>'
                f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{tile.col}" yOff="{tile.row}" {size}/></SimpleSource>'
            )
        lines.append("</VRTRasterBand>")
    return "\n".join([*lines, "</VRTDataset>"])


def write_cog(path: Path, grid: Grid, tiles: Sequence[Part], first: int, bands: Sequence[Band], tags: Mapping[str, str]) -> None:
    """Join tiles into a Cloud Optimized GeoTIFF inside their folder, and read it back; UserError if the disk is full.

    The map's bands are the tiles' from `first` on, counted from 0; what no tile covers is nodata. `tags` are of the whole file.
    """
    virtual = path.with_name(f"{path.name}.vrt")
    write_text(virtual, _mosaic(grid, tiles, first, bands, tags))
    options = {"compress": "DEFLATE", "level": 1, "predictor": "YES", "blocksize": _BLOCK, "overview_resampling": "AVERAGE"}
    options |= {"num_threads": "ALL_CPUS", "bigtiff": "IF_SAFER", "sparse_ok": "YES"}
    try:
        path.unlink(missing_ok=True)
        with rasterio.Env(**GDAL_SETTINGS, GDAL_PAM_ENABLED=False):  # no .aux.xml beside the map
            rasterio.shutil.copy(virtual, path, driver="COG", **options)
            _check(path, tiles, first, len(bands))
    except (*GDAL_ERRORS, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"{path.name}: the map could not be written whole ({reason}); if the disk is full, free space and use --resume"
        ) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _check(path: Path, tiles: Sequence[Part], first: int, count: int) -> None:
    """Compare a map with its tiles, cell by cell: GDAL raises no error when a file could not be finished."""
    numbers = list(range(first + 1, first + count + 1))

    def compare(some: Sequence[Part]) -> None:
        with rasterio.Env(**GDAL_SETTINGS), rasterio.open(path) as raster:
            for tile, part, _ in some:
                with rasterio.open(part, driver="GTiff") as source:
                    window, corner = (Window(*at, tile.width, tile.height) for at in ((tile.col, tile.row), (0, 0)))
                    if not np.array_equal(raster.read(window=window), source.read(numbers, window=corner)):
                        raise OSError(f"tile {tile.number} is not what was computed")

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(compare, (tiles[k::threads] for k in range(threads))))
