"""Windows of remote rasters: they equal what is in the file, only they are read, tiles are joined, and faults are told of."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from raster_files import write_raster
from remote_server import serve

from soilcarbon.geo import remote
from soilcarbon.geo.raster import find_layers
from soilcarbon.geo.remote import crs_of, local_rasters, local_window
from soilcarbon.io.files import UserError
from soilcarbon.io.ranges import CHUNK

EXTENT = (10.2, 10.4, 46.55, 46.7)


def write_cog(path, west=10.0, north=47.0, height=900, width=1000, cell=0.001, count=1, seed=0, dtype="int16", **more):
    """Write noise, which deflate does not shrink, in tiles; return its values."""
    values = np.random.default_rng(seed).integers(0, 30_000, (count, height, width)).astype(dtype)
    layout = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "nodata": -9999} | more
    named = {"names": [f"band{k}" for k in range(count)], "units": ["degC"] * count}
    write_raster(path, values, west, north, cell, scale=(0.1, -5.0), **named, **layout)
    return values


@pytest.fixture
def published(server, tmp_path):
    """A raster of 1.8 MB at an address, and its values."""
    values = write_cog(tmp_path / "dem.tif")
    server.files["/dem.tif"] = (tmp_path / "dem.tif").read_bytes()
    return f"{server.address}/dem.tif", values


def test_a_window_is_the_file_there_and_says_the_same(server, published, tmp_path):
    address, values = published
    (path,) = local_rasters([address], EXTENT, tmp_path / "cache", margin=3)
    assert path.name == "dem.tif"
    with rasterio.open(path) as raster:
        row, col = 300 - 3, 200 - 3
        height, width = raster.shape
        assert (height, width) == (150 + 6, 200 + 6)
        np.testing.assert_array_equal(raster.read(1), values[0, row : row + height, col : col + width])
        assert (raster.nodata, raster.scales, raster.offsets, raster.units) == (-9999, (0.1,), (-5.0,), ("degC",))
        assert (raster.descriptions, raster.dtypes, raster.crs.to_epsg()) == (("band0",), ("int16",), 4326)
        assert raster.transform.c == pytest.approx(10.0 + 0.001 * col)
        assert raster.transform.f == pytest.approx(47.0 - 0.001 * row)
        assert address in raster.tags()["SOURCE"]
    assert server.bytes_sent < len(server.files["/dem.tif"]) * 0.6


def test_the_second_time_nothing_is_fetched_and_no_server_is_needed(tmp_path):
    write_cog(tmp_path / "dem.tif")
    with serve() as running:
        running.files["/dem.tif"] = (tmp_path / "dem.tif").read_bytes()
        address = f"{running.address}/dem.tif"
        first = local_rasters([address], EXTENT, tmp_path / "cache")
    content = first[0].read_bytes()
    assert local_rasters([address], EXTENT, tmp_path / "cache") == first
    first[0].write_bytes(content[:-1])  # damaged: made again from the parts that were kept
    assert local_rasters([address], EXTENT, tmp_path / "cache") == first
    assert first[0].read_bytes() == content


def test_an_interrupted_fetch_goes_on(server, published, tmp_path):
    address, _ = published
    server.faults = [None, None] + [503] * 99
    with pytest.raises(UserError, match="HTTP 503"):
        local_rasters([address], EXTENT, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tif"))
    server.faults, before = [], len(server.asked)
    local_rasters([address], EXTENT, tmp_path / "cache")
    again = {first for _, first, _ in server.asked[before:]}
    assert 0 not in again  # the header was kept


def test_faults_of_a_server_are_told_of_by_address(server, published, tmp_path):
    address, _ = published
    with pytest.raises(UserError, match=r"missing\.tif: there is no such file"):
        local_rasters([f"{server.address}/missing.tif"], EXTENT, tmp_path / "cache")
    server.files["/page.tif"] = b"<html>" * 1000
    with pytest.raises(UserError, match=r"/page\.tif: not readable as a GeoTIFF"):
        local_rasters([f"{server.address}/page.tif"], EXTENT, tmp_path / "cache")
    server.files["/torn.tif"] = server.files["/dem.tif"][: CHUNK * 3]
    with pytest.raises(UserError, match=r"/torn\.tif: not readable as a GeoTIFF \(its directory reaches to byte"):
        local_rasters([f"{server.address}/torn.tif"], EXTENT, tmp_path / "cache")
    with pytest.raises(UserError, match="covers nothing of longitudes -70 to -60"):
        local_rasters([address], (-70, -60, 0, 5), tmp_path / "cache")
    with pytest.raises(UserError, match=r"which part of it\? give --bounds"):
        local_rasters([address], None, tmp_path / "cache")


def test_a_window_that_is_too_large_is_refused(published, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_MOST_BYTES", 10_000)
    with pytest.raises(UserError, match="are too many; give smaller bounds"):
        local_rasters([published[0]], EXTENT, tmp_path / "cache")


def test_tiles_of_one_grid_are_joined(server, tmp_path):
    whole = {}
    for west in (10, 11):
        for north in (47, 46):
            name = f"t_{west}_{north}.tif"
            whole[west, north] = write_cog(tmp_path / name, west, north, 200, 200, 0.005, seed=west * 100 + north)[0]
            server.files[f"/{name}"] = (tmp_path / name).read_bytes()
    expected = np.block([[whole[10, 47], whole[11, 47]], [whole[10, 46], whole[11, 46]]])
    tiles = [f"{server.address}/t_{west}_{north}.tif" for west in (10, 11) for north in (46, 47)]
    path = local_window(tiles, "elevation", (10.8, 11.3, 45.7, 46.2), tmp_path / "cache", margin=0)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), expected[160:260, 160:260])
        assert raster.bounds == pytest.approx((10.8, 45.7, 11.3, 46.2))
    del server.files["/t_11_46.tif"]  # the sea
    path = local_window(tiles, "elevation", (10.8, 11.3, 45.7, 46.2), tmp_path / "other", margin=0, skip_missing=True)
    expected[200:, 200:] = -9999
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1, masked=True).filled(-9999), expected[160:260, 160:260])
    with pytest.raises(UserError, match="there is no such file"):
        local_window(tiles, "elevation", (10.8, 11.3, 45.7, 46.2), tmp_path / "third", margin=0)
    for name in list(server.files):
        del server.files[name]
    with pytest.raises(UserError, match="no such file, nor one of the 3 other tiles"):
        local_window(tiles, "elevation", (10.8, 11.3, 45.7, 46.2), tmp_path / "fourth", skip_missing=True)


@pytest.mark.parametrize("mask", [False, True])
def test_gaps_and_masks_stay_missing(server, tmp_path, mask, monkeypatch):
    monkeypatch.setattr(remote, "_STRIP_BYTES", 1)  # strips of one row of tiles
    for k, west in enumerate((10, 12)):
        values = write_cog(tmp_path / f"{k}.tif", west, 47, 200, 200, 0.005, seed=k, nodata=None, dtype="uint8")
        if mask:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / f"{k}.tif", "r+") as raster:
                raster.write_mask(np.where(values[0] > 100, 255, 0).astype("uint8"))
        server.files[f"/{k}.tif"] = (tmp_path / f"{k}.tif").read_bytes()
    path = local_window([f"{server.address}/{k}.tif" for k in range(2)], "x", (10, 13, 46, 47), tmp_path / "cache", margin=0)
    with rasterio.open(path) as raster:
        found = raster.read(1, masked=True)
    assert found.shape == (200, 600)
    assert found.mask[:, 200:400].all()
    expected = values[0] <= 100 if mask else np.zeros((200, 200), bool)
    np.testing.assert_array_equal(found.mask[:, 400:], expected)
    np.testing.assert_array_equal(found.data[:, 400:][~expected], values[0][~expected])


def test_tiles_that_do_not_fit_each_other_are_refused(server, tmp_path):
    write_cog(tmp_path / "a.tif", height=100, width=100, cell=0.01)
    write_cog(tmp_path / "b.tif", west=11.0, height=100, width=100, cell=0.02)
    write_cog(tmp_path / "c.tif", west=11.0005, height=100, width=100, cell=0.01)
    write_cog(tmp_path / "d.tif", west=11.0, height=100, width=100, cell=0.01, dtype="float32")
    for name in "abcd":
        server.files[f"/{name}.tif"] = (tmp_path / f"{name}.tif").read_bytes()
    for other, words in (("b", "another cell size"), ("d", "another type"), ("c", "its cells lie between those")):
        with pytest.raises(UserError, match=words):
            local_window(
                [f"{server.address}/{name}.tif" for name in ("a", other)], "x", (10.9, 11.1, 46.5, 46.9), tmp_path / "cache"
            )


def test_classes_keep_their_colours_and_longitudes_may_count_to_360(server, tmp_path):
    write_cog(tmp_path / "classes.tif", west=350.0, height=100, width=100, cell=0.01, dtype="uint8", nodata=None)
    with rasterio.open(tmp_path / "classes.tif", "r+") as raster:
        raster.write_colormap(1, {1: (255, 0, 0, 255)})
        raster.scales, raster.offsets = (1.0,), (0.0,)
    server.files["/classes.tif"] = (tmp_path / "classes.tif").read_bytes()
    (path,) = local_rasters([f"{server.address}/classes.tif"], (-9.7, -9.5, 46.3, 46.5), tmp_path / "cache", margin=0)
    assert find_layers([path])[0].classes
    with rasterio.open(path) as raster:
        assert raster.bounds.left == pytest.approx(-9.7)


def test_a_stac_collection_becomes_a_raster_of_each_asset(server, tmp_path):
    features = []
    for west in (10, 11):
        assets = {}
        for key in ("dem", "slope"):
            name = f"{key}_{west}.tif"
            write_cog(tmp_path / name, west, 47, 100, 100, 0.01, seed=west)
            server.files[f"/{name}"] = (tmp_path / name).read_bytes()
            assets[key] = {"href": f"{server.address}/{name}", "type": "image/tiff"}
        features.append({"type": "Feature", "id": f"T{west}", "bbox": [west, 46, west + 1, 47], "assets": assets})
    server.files["/search.json"] = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    address = f"{server.address}/search.json"
    paths = local_rasters([address], (10.9, 11.1, 46.2, 46.4), tmp_path / "cache", margin=0)
    assert [path.name for path in paths] == ["dem.tif", "slope.tif"]
    with rasterio.open(paths[0]) as raster:
        assert raster.shape == (20, 20)
    (path,) = local_rasters([f"{address}#slope"], (10.2, 10.3, 46.2, 46.4), tmp_path / "cache", margin=0)
    assert "/slope_11.tif" not in json.loads(path.with_suffix(".json").read_text())["sources"][0]["address"]
    with pytest.raises(UserError, match="no item of it covers longitudes 50 to 51"):
        local_rasters([address], (50, 51, 46, 47), tmp_path / "cache")
    assert crs_of(address, tmp_path / "cache").endswith("4326") or "4326" in crs_of(address, tmp_path / "cache")


def test_remote_rasters_are_not_read_whole_by_other_commands():
    with pytest.raises(UserError, match=r"https://example.org/dem.tif: is not read from afar here; .* soilcarbon fetch --rasters"):
        find_layers([Path("https://example.org/dem.tif")])


def test_gdal_opens_nothing_but_the_file_itself(server, tmp_path):
    """A TIFF named like other formats, and a VRT that leads elsewhere, are no GeoTIFFs."""
    server.files["/x.tif"] = b'<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    with pytest.raises(UserError, match="not readable as a GeoTIFF"):
        local_rasters([f"{server.address}/x.tif"], EXTENT, tmp_path / "cache")
    assert {path for path, _, _ in server.asked} == {"/x.tif"}
