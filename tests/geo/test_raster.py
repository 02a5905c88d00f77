"""Windows against rasters whose cells say where they are."""

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from raster_files import write_raster
from rasterio.transform import Affine
from rasterio.warp import transform

from soilcarbon.geo import raster as rasters
from soilcarbon.geo.grid import raster_grid, target_grid
from soilcarbon.geo.raster import Layer, check_raster, cut_windows, describe, find_layers, write_geotiff
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError


def from_corner(west, north, cell):
    return Affine(cell, 0, west, 0, -cell, north)


def make(path: Path, values, origin=(0.0, 10.0), cell=1.0, crs="EPSG:4326", **options):
    return write_raster(path, values, *origin, cell, crs, **options)


def centres(height, width, origin, cell):
    """Return x and y of every cell's centre, (2, H, W)."""
    x = origin[0] + cell * (np.arange(width) + 0.5)
    y = origin[1] - cell * (np.arange(height) + 0.5)
    return np.stack(np.meshgrid(x, y)).astype(np.float32)


def one(path, lon, lat, radius=0):
    windows, inside = cut_windows(find_layers([path]), np.atleast_1d(lon), np.atleast_1d(lat), radius)
    return next(iter(windows.values())), inside


# --- where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crs", "x", "y"), [("EPSG:3857", 0, 2e6), ("EPSG:32632", 4e5, 2e6), ("EPSG:3035", 4.3e6, 3.3e6)])
def test_a_point_the_rasters_crs_cannot_hold_is_outside_and_harms_no_other(tmp_path, crs, x, y):
    path = make(tmp_path / "v.tif", centres(10, 10, (x, y), 1000.0), (x, y), 1000.0, crs, names=("x", "y"))
    (lon,), (lat,) = transform(crs, "EPSG:4326", [x + 3500], [y - 2500])
    windows, inside = cut_windows(find_layers([path]), np.array([lon, 0, 99.1, np.nan, lon]), np.array([lat, 95, 0, 5, -90]), 0)
    assert inside.tolist() == [True, False, False, False, False]
    assert windows["x"][:, 0, 0].tolist()[0] == x + 3500
    assert np.isnan(windows["x"][1:]).all()


def test_window_is_north_up_and_centred_on_the_cell_of_the_point(tmp_path):
    make(tmp_path / "xy.tif", centres(40, 60, (-30, 20), 1.0), (-30, 20), 1.0, names=("x", "y"))
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-27, 27, 500), rng.uniform(-17, 17, 500)
    windows, inside = cut_windows(find_layers([tmp_path / "xy.tif"]), lon, lat, 2)
    assert inside.all()
    offset = np.arange(-2, 3)
    np.testing.assert_allclose(windows["x"], (np.floor(lon) + 0.5)[:, None, None] + offset[None, None, :] + np.zeros((1, 5, 1)))
    np.testing.assert_allclose(windows["y"], (np.floor(lat) + 0.5)[:, None, None] - offset[None, :, None] + np.zeros((1, 1, 5)))


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "pixel"}])
def test_many_tiles_give_what_one_gives(tmp_path, monkeypatch, options):
    make(tmp_path / "xy.tif", centres(90, 110, (0, 45), 0.5), (0, 45), 0.5, names=("x", "y"), **options)
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-2, 57, 300), rng.uniform(-2, 47, 300)
    whole, inside = cut_windows(find_layers([tmp_path / "xy.tif"]), lon, lat, 3)
    monkeypatch.setattr(rasters, "_CELLS_AT_ONCE", 500)
    tiled, again = cut_windows(find_layers([tmp_path / "xy.tif"]), lon, lat, 3)
    np.testing.assert_array_equal(inside, again)
    assert 0 < inside.sum() < 300
    for name in ("x", "y"):
        np.testing.assert_array_equal(whole[name], tiled[name])


@pytest.mark.parametrize(
    ("crs", "origin", "cell"), [("EPSG:3857", (500000, 6500000), 1000.0), ("EPSG:32633", (300000, 5600000), 250.0)]
)
def test_projected_raster_keeps_its_own_grid(tmp_path, crs, origin, cell):
    make(tmp_path / "xy.tif", centres(400, 400, origin, cell).astype(np.float64), origin, cell, crs, names=("x", "y"))
    rng = np.random.default_rng(2)
    x, y = origin[0] + rng.uniform(2, 398, 50) * cell, origin[1] - rng.uniform(2, 398, 50) * cell
    lon, lat = (np.array(v) for v in transform(crs, "EPSG:4326", x, y))
    windows, inside = cut_windows(find_layers([tmp_path / "xy.tif"]), lon, lat, 1)
    assert inside.all()
    assert np.abs(windows["x"][:, 1, 1] - x).max() <= cell / 2 + 1
    assert np.abs(windows["y"][:, 1, 1] - y).max() <= cell / 2 + 1
    np.testing.assert_allclose(np.diff(windows["x"], axis=2), cell)
    np.testing.assert_allclose(np.diff(windows["y"], axis=1), -cell)


def test_rasters_of_differing_cell_sizes_each_use_their_own(tmp_path):
    make(tmp_path / "coarse.tif", centres(10, 10, (0, 10), 1.0)[0], (0, 10), 1.0)
    make(tmp_path / "fine.tif", centres(100, 100, (0, 10), 0.1)[0], (0, 10), 0.1)
    windows, _ = cut_windows(find_layers([tmp_path]), np.array([3.23]), np.array([5.0]), 1)
    np.testing.assert_allclose(windows["coarse"][0, 0], [2.5, 3.5, 4.5])
    np.testing.assert_allclose(windows["fine"][0, 0], [3.15, 3.25, 3.35], atol=1e-5)


def test_global_raster_goes_on_across_the_antimeridian(tmp_path):
    make(tmp_path / "x.tif", centres(18, 36, (-180, 90), 10.0)[0], (-180, 90), 10.0)
    window, inside = one(tmp_path / "x.tif", [179.0, -179.0, 180.0], [0.0, 0.0, 0.0], 1)
    assert inside.all()
    assert window[:, 1].tolist() == [[165, 175, -175], [175, -175, -165], [175, -175, -165]]


def test_global_raster_whose_cells_were_rounded_has_no_seam(tmp_path):
    make(tmp_path / "x.tif", centres(18, 36, (-180, 90), 9.99)[0], (-180, 90), 9.99)  # 359.64 degrees wide
    window, inside = one(tmp_path / "x.tif", 179.9, 0.0)
    assert inside.all()
    assert window.item() == pytest.approx(-175.005)


def test_raster_of_part_of_the_world_does_not_wrap(tmp_path):
    make(tmp_path / "x.tif", centres(18, 35, (-180, 90), 10.0)[0], (-180, 90), 10.0)
    window, inside = one(tmp_path / "x.tif", [-179.0, 175.0], [0.0, 0.0], 1)
    assert inside.tolist() == [True, False]
    np.testing.assert_array_equal(window[0, 1], [np.nan, -175, -165])


def test_longitudes_from_0_to_360(tmp_path):
    make(tmp_path / "x.tif", centres(18, 36, (0, 90), 10.0)[0], (0, 90), 10.0)
    window, inside = one(tmp_path / "x.tif", [-1.0, 1.0], [0.0, 0.0], 1)
    assert inside.all()
    assert window[:, 1].tolist() == [[345, 355, 5], [355, 5, 15]]


def test_south_up_raster_is_turned(tmp_path):
    y = np.repeat(np.arange(10, dtype=np.float32)[:, None] + 0.5, 10, 1)  # row 0 is the south
    make(tmp_path / "y.tif", y, transform=Affine(1, 0, 2, 0, 1, 0))
    window, _ = one(tmp_path / "y.tif", 5.5, 3.2, 1)
    assert window[0, :, 1].tolist() == [4.5, 3.5, 2.5]


def test_beyond_the_edge_is_missing_and_outside_is_said(tmp_path):
    make(tmp_path / "a.tif", np.ones((10, 10), np.float32))
    make(tmp_path / "b.tif", np.ones((5, 10), np.float32))  # its south is missing
    windows, inside = cut_windows(find_layers([tmp_path]), np.array([0.5, 5.5, 50.0, np.nan]), np.array([9.5, 2.5, 5.0, 5.0]), 1)
    assert inside.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(windows["a"][0], [[np.nan] * 3, [np.nan, 1, 1], [np.nan, 1, 1]])
    assert np.isfinite(windows["a"][1]).all()
    assert np.isnan(windows["b"][1]).all()
    assert np.isnan(windows["a"][2:]).all()


# --- what ----------------------------------------------------------------------------------------------------------


def test_what_is_missing(tmp_path, caplog):
    values = np.array([[1, np.nan, np.inf], [-np.inf, -3.4e38, -9999], [7, -9999.5, 0]], np.float32)
    make(tmp_path / "v.tif", values, (0, 3))
    with caplog.at_level("INFO"):
        window, _ = one(tmp_path / "v.tif", 1.5, 1.5, 1)
    np.testing.assert_array_equal(window[0], np.array([[1, np.nan, np.nan], [np.nan, np.nan, np.nan], [7, -9999.5, 0]], np.float32))
    assert "v.tif: not declared as nodata, but taken as missing: -9999 in v, infinite cells in v" in caplog.text


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -32768), ("uint8", 255), ("float32", -1.0), ("float64", float("nan"))])
def test_nodata_is_missing_and_scale_and_offset_apply_to_the_rest(tmp_path, dtype, nodata):
    values = np.arange(9).reshape(3, 3).astype(dtype)
    values[1, 1] = nodata
    make(tmp_path / "v.tif", values, (0, 3), nodata=nodata, scale=(0.1, -5.0))
    window, inside = one(tmp_path / "v.tif", 1.5, 1.5, 1)
    expected = np.arange(9).reshape(3, 3) * 0.1 - 5.0
    expected[1, 1] = np.nan
    np.testing.assert_allclose(window[0], expected, rtol=1e-6)
    assert inside.all()  # a cell without a value is still a cell


def test_mask_band_is_missing(tmp_path):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        make(tmp_path / "v.tif", np.ones((3, 3), np.uint8), (0, 3))
        with rasterio.open(tmp_path / "v.tif", "r+") as raster:
            raster.write_mask(np.eye(3, dtype=bool))
    window, _ = one(tmp_path / "v.tif", 1.5, 1.5, 1)
    np.testing.assert_array_equal(np.isnan(window[0]), ~np.eye(3, dtype=bool))


# --- names and bad files -------------------------------------------------------------------------------------------


def test_names_come_from_descriptions_else_from_the_file(tmp_path):
    make(tmp_path / "b.tif", np.zeros((2, 3, 3), np.uint8), names=("bio01", "EVI / mean"))
    make(tmp_path / "a.TIFF", np.zeros((2, 3, 3), np.uint8))
    make(tmp_path / "c.tif", np.zeros((3, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    layers = find_layers([tmp_path, tmp_path / "c.tif"])
    assert [(layer.name, layer.band) for layer in layers] == [("a_1", 1), ("a_2", 2), ("bio01", 1), ("EVI_mean", 2), ("c", 1)]
    assert layers[-1] == Layer("c", tmp_path / "c.tif", 1)
    grid = describe(layers)[1]
    assert (grid["crs"], grid["cell_size"], grid["shape"]) == ("EPSG:4326", [1, 1], [3, 3])
    assert grid["variables"] == ["bio01", "EVI_mean"]


def test_one_name_twice_names_both_files(tmp_path):
    make(tmp_path / "a.tif", np.zeros((3, 3), np.uint8), names=("bio01",))
    make(tmp_path / "b.tif", np.zeros((3, 3), np.uint8), names=("bio01",))
    with pytest.raises(UserError, match=r"'bio01'.*a\.tif.*b\.tif"):
        find_layers([tmp_path])


@pytest.mark.parametrize(("west", "are_tiles"), [(3.0, True), (363.0, True), (2.0, True), (1.0, False), (360.0, False)])
def test_tiles_of_one_raster_are_asked_about(tmp_path, west, are_tiles):
    for name, left in (("dem_0", 0.0), ("dem_1", west)):
        write_raster(tmp_path / f"{name}.tif", np.zeros((3, 3), np.uint8), left)
    if not are_tiles:
        assert len(find_layers([tmp_path])) == 2
        return
    with pytest.raises(UserError, match=r"dem_1\.tif: lies beside dem_0\.tif, on one grid: tiles of one raster"):
        find_layers([tmp_path])


def test_what_is_no_raster(tmp_path):
    (tmp_path / "x.tif").write_text("not a raster")
    (tmp_path / "y.vrt").write_text("<VRTDataset/>")
    (tmp_path / "empty").mkdir()
    converted = "gdal_translate y.vrt y.tif makes one"
    for name, message in (
        ("x.tif", "x.tif: not readable .* is the file whole"),
        ("y.vrt", converted),
        ("none", "no such"),
        ("empty", "no .*tif"),
    ):
        with pytest.raises(UserError, match=message):
            find_layers([tmp_path / name])


FAULTS = {
    "has no coordinate reference system": {"crs": None},
    "its coordinate reference system is neither in degrees nor a map projection": {"crs": 'LOCAL_CS["a plan",UNIT["metre",1]]'},
    "its coordinate reference system is in grads, not in degrees": {"crs": "EPSG:4807"},
    "its coordinate reference system is not the Earth's": {"crs": "IAU_2015:30100"},
    "its grid is rotated": {"transform": Affine(1, 0.5, 0, 0.5, -1, 10)},
    "holds complex numbers in bad": {},
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_cannot_be_read_cell_by_cell_is_named_by_every_reader(tmp_path, message):
    values = np.zeros((3, 3), np.complex64 if "complex" in message else np.uint8)
    good, bad = make(tmp_path / "good.tif", np.zeros((3, 3), np.uint8)), make(tmp_path / "bad.tif", values, **FAULTS[message])
    readers = [lambda: one(bad, 1.0, 9.0), lambda: Stack(find_layers([bad]), raster_grid(good))]
    if "complex" not in message:  # which a grid does not depend on
        readers += [lambda: raster_grid(bad), lambda: target_grid(find_layers([good]), like=bad)]
        readers += [lambda: target_grid(find_layers([good, bad]))]
    for read in readers:
        with pytest.raises(UserError, match=f"bad.tif: {message}"):
            read()


def test_a_torn_file_is_named(tmp_path):
    torn = make(tmp_path / "torn.tif", np.random.default_rng(0).normal(size=(300, 300)), (0, 10), 0.01)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    with pytest.raises(UserError, match=r"torn.tif: .*not readable"):
        one(torn, np.linspace(0.1, 2.9, 9), np.linspace(9.9, 7.1, 9))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Affine(1e-300, 0, 0, 0, -1e-300, 10), "too small to be distinguished"),
        (Affine(1e-9, 0, 4e6, 0, -1e-9, 3e6), "too small to be distinguished"),
        (Affine(1, 0, 0, 0, -1e-13, 0), "too small to be distinguished"),
        (Affine(1e300, 0, 0, 0, -1e300, 10), "lie beyond all measure"),
        (Affine(1, 0, 1e12, 0, -1, 10), "lie beyond all measure"),
        (Affine(1, 0, math.inf, 0, -1, 10), "lie beyond all measure"),
        (Affine(math.nan, 0, 0, 0, -1, 10), "lie beyond all measure"),
        (Affine(1, 0, 0, 0, -1, math.nan), "lie beyond all measure"),
    ],
)
def test_cells_that_cannot_be_are_said(tmp_path, place, message):
    make(tmp_path / "v.tif", np.ones((3, 3), np.uint8), transform=place, crs="EPSG:3035")
    with rasterio.open(tmp_path / "v.tif") as raster, pytest.raises(UserError, match=f"v.tif: its cells .*{message}"):
        check_raster(raster, tmp_path / "v.tif")


def test_cells_of_a_thousandth_of_a_second_and_of_a_millimetre_are_fine(tmp_path):
    for crs, place in (("EPSG:4326", Affine(3e-7, 0, 179, 0, -3e-7, 89)), ("EPSG:3857", Affine(1e-3, 0, 2e7, 0, -1e-3, 2e7))):
        make(tmp_path / "v.tif", np.ones((3, 3), np.uint8), transform=place, crs=crs)
        with rasterio.open(tmp_path / "v.tif") as raster:
            check_raster(raster, tmp_path / "v.tif")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_is_not_utf8_is_said_and_can_be_printed(tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/r\xe9"))
    folder.mkdir()
    raster = make(tmp_path / "v.tif", np.ones((3, 3), np.uint8)).rename(folder / "v.tif")
    with pytest.raises(UserError, match="its path is not UTF-8") as error:
        find_layers([raster])
    assert str(error.value).encode()


@pytest.mark.parametrize("address", ["/vsicurl/http://127.0.0.1:9/v.tif", "http://127.0.0.1:9/v.tif", "/vsimem/v.tif"])
def test_a_list_of_rasters_cannot_name_the_network(tmp_path, address):
    (tmp_path / "rasters.yaml").write_text(f"- {address}\n")
    with pytest.raises(UserError, match="no such raster"):
        find_layers([tmp_path / "rasters.yaml"])


# --- writing -------------------------------------------------------------------------------------------------------


def test_written_raster_reads_back(tmp_path):
    bands = np.random.default_rng(0).normal(10, 3, (2, 600, 520)).astype(np.float32)
    bands[0, 3, 4] = np.nan
    write_geotiff(tmp_path / "new" / "v.tif", bands, ("bio01", "slope"), from_corner(20, 10, 0.01), units=("degC", "degree"))
    with rasterio.open(tmp_path / "new" / "v.tif") as raster:
        assert (raster.nodata, raster.descriptions, raster.units) == (-9999, ("bio01", "slope"), ("degC", "degree"))
        assert raster.profile["tiled"]
        assert raster.compression.name == "deflate"
        assert raster.crs.to_epsg() == 4326
        np.testing.assert_array_equal(raster.read(masked=True).filled(np.nan), bands)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["v.tif"]
    window, _ = one(tmp_path / "new" / "v.tif", 20.045, 9.965)
    assert np.isnan(window).all()


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_geotiff(tmp_path / "v.tif", np.ones((1, 4, 4)), ("v",), from_corner(0, 4, 1))
    before = (tmp_path / "v.tif").read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_geotiff(tmp_path / "v.tif", np.zeros((1, 4, 4)), ("v",), from_corner(0, 4, 1))
    assert (tmp_path / "v.tif").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["v.tif"]


def test_scales_beyond_all_measure_leave_nothing(tmp_path):
    make(tmp_path / "s.tif", np.full((4, 4), 10, np.float32), scale=(1e30, 0.0))
    assert np.isnan(one(tmp_path / "s.tif", 1.5, 8.5)[0]).all()


def test_rasters_of_other_formats_in_a_folder_are_told(tmp_path, caplog):
    (tmp_path / "slope.vrt").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no \*.tif or \*.tiff in this folder; slope.vrt is of another format"):
        find_layers([tmp_path])
    write_raster(tmp_path / "v.tif", np.ones((4, 4), np.float32), 0, 4, 1)
    assert [layer.name for layer in find_layers([tmp_path])] == ["v"]
    assert "1 raster of other formats not read, first slope.vrt" in caplog.text
