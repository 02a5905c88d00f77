"""A GeoTIFF that claims more than it holds is refused; whole ones of every form are read."""

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from soilcarbon.geo.raster import open_raster
from soilcarbon.io.files import UserError
from soilcarbon.io.limits import LimitError
from soilcarbon.io.tiff_header import check_tiff_file

PLAIN = {"driver": "GTiff", "height": 256, "width": 256, "count": 2, "dtype": "float32", "crs": "EPSG:4326"}
PLAIN |= {"transform": from_origin(5, 50, 0.01, 0.01)}
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64}
FORMS = {
    "strips": {},
    "tiles": TILES | {"compress": "deflate"},
    "BigTIFF": TILES | {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "by pixel": {"interleave": "pixel", "compress": "lzw"},
    "a single tile": {"tiled": True, "blockxsize": 256, "blockysize": 256, "count": 1},
}


def write(path, **options):
    with rasterio.open(path, "w", **(PLAIN | options)) as raster:
        raster.write(np.random.default_rng(0).normal(size=(raster.count, 256, 256)).astype("float32"))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_whole_files_are_read_and_torn_ones_are_refused(tmp_path, form):
    path = write(tmp_path / "x.tif", **FORMS[form])
    with open_raster(path) as raster:
        assert raster.read().shape[1:] == (256, 256)
    whole = path.read_bytes()
    for share in (0.999, 0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="not readable as a GeoTIFF"):
            open_raster(path)


def test_torn_overviews_and_masks_are_noticed(tmp_path):
    path = write(tmp_path / "x.tif", **FORMS["tiles"])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4])
        raster.write_mask(np.random.default_rng(0).random((256, 256)) > 0.5)
    with open_raster(path) as raster:
        assert raster.overviews(1) == [2, 4]
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(UserError, match="is the file whole"):
        open_raster(path)


def test_a_sparse_file_is_whole(tmp_path):
    with rasterio.open(tmp_path / "x.tif", "w", **PLAIN, **TILES, sparse_ok=True) as raster:
        raster.write(np.ones((2, 64, 64), "float32"), window=((0, 64), (0, 64)))
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.read(1).sum() == 64 * 64


def test_directories_in_a_ring_are_refused(tmp_path):
    path = write(tmp_path / "x.tif", count=1)
    content = bytearray(path.read_bytes())
    (at,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[at : at + 2])
    content[at + 2 + 12 * count : at + 6 + 12 * count] = content[4:8]
    path.write_bytes(content)
    with pytest.raises(UserError, match="form a ring"):
        open_raster(path)


def test_one_strip_that_unpacks_to_gigabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.tif"
    form = PLAIN | {"height": 30_000, "width": 30_000, "count": 1}
    with rasterio.open(path, "w", **form, compress="deflate", blockysize=30_000, sparse_ok=True):
        pass
    assert path.stat().st_size < 1000
    with pytest.raises(UserError, match=r"30,000 x 30,000 cells \(3,433 MiB\).*TILED=YES"):
        open_raster(path)


def test_bytes_changed_at_random_end_in_a_raster_or_in_the_users_error(tmp_path):
    random, path = np.random.default_rng(1), write(tmp_path / "x.tif", **TILES, compress="deflate")
    whole, ends = path.read_bytes(), 0
    for first, last in pairwise([0, 8, 400, 1200]):
        for _ in range(60):
            content = bytearray(whole)
            content[random.integers(first, last)] = random.integers(256)
            path.write_bytes(content)
            try:
                open_raster(path).close()
            except UserError:
                ends += 1
    assert ends


def test_a_directory_is_not_believed_to_be_of_any_size():
    """A server may say that its file has a petabyte, and its header that the directory fills it."""
    header = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 10**12)
    with pytest.raises(LimitError, match="a directory of 20,000,000,000,000 bytes"):
        check_tiff_file(io.BytesIO(header), 10**15)
