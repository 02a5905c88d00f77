"""Layers on a map's grid, against cells that say where they are, own interpolation, and GDAL's."""

from itertools import product

import numpy as np
import pytest
from conftest import slow_but
from raster_files import write_raster as make
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform
from scipy.ndimage import map_coordinates

from soilcarbon.geo import resampling as stacks
from soilcarbon.geo.grid import Grid, lonlat, raster_grid
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def own_draws():
    """Let a test draw the same numbers whatever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state


def noise(*shape, holes=0.0):
    """Return float32 noise with a share of missing cells."""
    values = RNG.normal(size=shape).astype(np.float32)
    values[RNG.random(shape) < holes] = np.nan
    return values


def read(path, grid, halo=0, **options):
    with Stack(find_layers([path]), grid, **options) as stack:
        return stack.read(-halo, -halo, grid.height + 2 * halo, grid.width + 2 * halo)


def globe(path, cell=5.0, west=-180.0, values=None, **options):
    height, width = round(180 / cell), round(360 / cell)
    return make(path, noise(2, height, width, holes=0.1) if values is None else values, west, 90, cell, **options)


# --- one grid ------------------------------------------------------------------------------------------------------


def turned(path, south_up, mirrored):
    values = noise(3, 40, 50, holes=0.1)
    place = Affine(-0.5 if mirrored else 0.5, 0, 35 if mirrored else 10, 0, 0.5 if south_up else -0.5, 20 if south_up else 40)
    return make(path, values, 0, 0, 0, transform=place)


@pytest.mark.parametrize("kind", ["plain", "south_up", "mirrored", "both", "global", "0..360", "crossing", "integers"])
def test_coinciding_cells_are_what_cut_windows_gives(tmp_path, kind):
    path, cell = tmp_path / "v.tif", 0.5
    grid = Grid("EPSG:4326", 15.0, 36.0, (0.5, 0.5), 12, 14)
    if kind in ("plain", "south_up", "mirrored", "both"):
        turned(path, kind in ("south_up", "both"), kind in ("mirrored", "both"))
    elif kind == "integers":
        values = RNG.integers(-9999, -9990, (2, 40, 50), dtype=np.int16)
        make(path, values, 10, 40, 0.5, nodata=-9995, scale=(0.1, 3))
    elif kind == "crossing":
        make(path, noise(40, 80), 160, 20, 0.5)
        grid = Grid("EPSG:4326", -184.0, 12.0, (cell, cell), 12, 60)
    else:
        globe(path, 5.0, -180.0 if kind == "global" else 0.0)
        grid, cell = Grid("EPSG:4326", -180, 90, (5.0, 5.0), 36, 72), 5.0
    found = read(path, grid, halo=3)
    cols, rows = np.meshgrid(np.arange(-3, grid.width + 3), np.arange(-3, grid.height + 3))
    lon, lat = lonlat(grid, rows.ravel() + 0.5, cols.ravel() + 0.5)
    windows, _ = cut_windows(find_layers([path]), lon, lat, 0)
    expected = np.stack([window[:, 0, 0].reshape(rows.shape) for window in windows.values()])
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).mean() > 0.3
    assert set(Stack(find_layers([path]), grid).how().values()) == {"on the map's grid"}


def test_order_is_that_of_the_layers_also_when_files_alternate(tmp_path):
    for name, at in (("a", 0.0), ("b", 10.0), ("c", 20.0)):
        make(tmp_path / f"{name}.tif", np.full((2, 6, 6), at, np.float32) + np.arange(2)[:, None, None], 0, 6, 1)
    layers = find_layers([tmp_path])
    order = [layers[k] for k in (5, 0, 3, 1, 4, 2)]
    for grid in (Grid("EPSG:4326", 1, 5, (1, 1), 4, 4), Grid("EPSG:4326", 1, 5, (0.4, 0.4), 8, 8)):
        with Stack(order, grid) as stack:
            found = stack.read(1, 1, 2, 3)
        assert found[:, 0, 0].tolist() == [21, 0, 11, 1, 20, 10]
        assert found.flags.c_contiguous
        assert found.dtype == np.float32


def test_rasters_that_do_not_overlap_are_missing(tmp_path):
    make(tmp_path / "v.tif", np.ones((6, 6), np.float32), 0, 6, 1)
    for crs, x, y, cell in (("EPSG:4326", 60, 6, 1), ("EPSG:4326", 60, 6, 0.3), ("EPSG:32733", 500000, 9e6, 1000)):
        assert np.isnan(read(tmp_path / "v.tif", Grid(crs, x, y, (cell, cell), 5, 5))).all()


# --- any window gives the same bits --------------------------------------------------------------------------------

CASES = {
    "projected to geographic": ("EPSG:3035", 4.0e6, 3.0e6, 5e3, Grid("EPSG:4326", 9.0, 51.0, (0.03, 0.03), 71, 83)),
    "geographic to projected": ("EPSG:4326", 5.0, 53.0, 0.09, Grid("EPSG:3035", 4.0e6, 3.0e6, (4321.0, 4321.0), 60, 70)),
    "finer to coarser": ("EPSG:32632", 4.0e5, 5.7e6, 1e3, Grid("EPSG:3035", 4.2e6, 3.1e6, (2500.0, 2700.0), 30, 37)),
    "much finer to coarser": ("EPSG:32632", 4.0e5, 5.7e6, 1e3, Grid("EPSG:3035", 4.2e6, 3.1e6, (9100.0, 6000.0), 11, 13)),
    "coarser to finer": ("EPSG:4326", 9.0, 51.0, 0.07, Grid("EPSG:4326", 10.0, 50.0, (0.011, 0.013), 70, 61)),
    "half a cell aside": ("EPSG:4326", 9.05, 51.05, 0.1, Grid("EPSG:4326", 9.0, 51.0, (0.1, 0.1), 50, 61)),
    "another datum": ("EPSG:4267", -110.0, 45.0, 0.1, Grid("EPSG:4326", -109.0, 44.0, (0.13, 0.07), 50, 61)),
    "globe": ("EPSG:4326", -180.0, 90.0, 5.0, Grid("EPSG:4326", -180.0, 90.0, (3.0, 3.0), 60, 120)),
    "globe, coarser": ("EPSG:4326", -180.0, 90.0, 5.0, Grid("EPSG:4326", -180.0, 90.0, (22.5, 22.5), 8, 16)),
    "globe from 0": ("EPSG:4326", 0.0, 90.0, 5.0, Grid("EPSG:4326", -180.0, 90.0, (3.0, 3.0), 60, 120)),
    "across 180": ("EPSG:4326", -180.0, 90.0, 5.0, Grid("EPSG:3832", 2.0e6, 3.0e6, (9.1e4, 9.1e4), 50, 60)),
    "part of the globe across 180": ("EPSG:4326", 160.0, 60.0, 0.5, Grid("EPSG:3832", 2.0e6, 3.0e6, (3e4, 3e4), 60, 70)),
    "round the pole": (
        "EPSG:4326", -180.0, 90.0, 5.0, Grid("+proj=laea +lat_0=90 +lon_0=180 +datum=WGS84", -2e6, 2e6, (7e4, 7e4), 57, 57)
    ),
    "edge of the Earth": ("EPSG:4326", -180.0, 90.0, 5.0, Grid("ESRI:54009", -1.85e7, 9.2e6, (2.5e5, 2.5e5), 74, 148)),
}  # fmt: skip


QUICK = [(case, "bilinear") for case in ("projected to geographic", "much finer to coarser", "half a cell aside", "round the pole")]
QUICK += [("another datum", "nearest"), ("across 180", "nearest"), ("edge of the Earth", "bilinear")]


@pytest.mark.parametrize(("case", "resampling"), slow_but(product(CASES, ("bilinear", "nearest")), *QUICK))
def test_any_window_gives_the_same_bits(tmp_path, monkeypatch, case, resampling):
    crs, west, north, cell, grid = CASES[case]
    whole_globe = case in ("globe", "globe, coarser", "globe from 0", "across 180", "round the pole", "edge of the Earth")
    shape = (36, 72) if whole_globe else (130, 110)
    make(tmp_path / "a.tif", noise(3, *shape, holes=0.05), west, north, cell, crs)
    make(tmp_path / "b.tif", noise(1, *shape), west, north, cell, crs)
    with Stack(find_layers([tmp_path]), grid, resampling=resampling) as stack:
        halo = 7
        height, width = grid.height + 2 * halo, grid.width + 2 * halo
        whole = stack.read(-halo, -halo, height, width)
        assert np.isfinite(whole).mean() > 0.2
        for tall, wide in ((13, 29), (height, 17), (40, 64)):
            monkeypatch.setattr(stacks, "_CELLS", 100 * wide)  # windows are split again and again, and read in parts
            monkeypatch.setattr(stacks, "_WEIGHTS", 30 * wide)
            stack.close()
            for row in range(0, height, tall):
                for col in range(0, width, wide):
                    part = whole[:, row : row + tall, col : col + wide]
                    found = stack.read(row - halo, col - halo, *part.shape[1:])
                    assert found.tobytes() == np.ascontiguousarray(part).tobytes()


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["projected to geographic", "geographic to projected", "coarser to finer"])
def test_bilinear_is_scipys(tmp_path, case):
    crs, west, north, cell, grid = CASES[case]
    values = noise(130, 110)
    make(tmp_path / "v.tif", values, west, north, cell, crs)
    found = read(tmp_path / "v.tif", grid)[0]
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (cols.ravel(), rows.ravel())
    if CRS.from_user_input(crs) != CRS.from_user_input(grid.crs):
        x, y = (np.array(v) for v in transform(grid.crs, crs, x, y))
    at = np.stack([(north - y) / cell - 0.5, (x - west) / cell - 0.5]).reshape(2, *found.shape)
    within = (at > 0).all(0) & (at[0] < 129) & (at[1] < 109)
    assert within.sum() > 1000
    np.testing.assert_allclose(found[within], map_coordinates(values.astype(float), at, order=1)[within], atol=1e-5)
    outside = (at < -0.51).any(0) | (at[0] > 129.51) | (at[1] > 109.51)
    assert np.isnan(found[outside]).all()


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("case", ["projected to geographic", "geographic to projected", "finer to coarser"])
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_values_are_gdals(tmp_path, case, resampling, holes):
    crs, west, north, cell, grid = CASES[case]
    values = noise(130, 110, holes=holes)
    make(tmp_path / "v.tif", values, west, north, cell, crs)
    stack = Stack(find_layers([tmp_path]), grid, resampling=resampling)
    ratio = [max(1.0, r) for r in stack._sources[0].ratio]
    scales = {"XSCALE": 1 / ratio[1], "YSCALE": 1 / ratio[0]} if resampling == "bilinear" else {}
    expected = np.full((grid.height, grid.width), np.nan, np.float32)
    for col in range(0, grid.width, 4):  # GDAL computes so short lines exactly, longer ones by approximation
        part = np.full_like(expected[:, col : col + 4], np.nan)
        here = Affine(grid.cell[0], 0, grid.x + col * grid.cell[0], 0, -grid.cell[1], grid.y)
        source = {"src_transform": Affine(cell, 0, west, 0, -cell, north), "src_crs": crs, "src_nodata": np.nan}
        target = {"dst_transform": here, "dst_crs": grid.crs, "dst_nodata": np.nan, "resampling": Resampling[resampling]}
        reproject(values, part, **source, **target, **scales)
        expected[:, col : col + 4] = part
    found = stack.read(0, 0, grid.height, grid.width)[0]
    stack.close()
    if holes and resampling == "bilinear":  # half of the weight must have values; GDAL requires the nearest cell
        here, there = np.isfinite(found), np.isfinite(expected)
        assert (here & ~there).mean() > 0 and (there & ~here).mean() < 0.01
        found[~there], expected[~here] = np.nan, np.nan
    assert np.isfinite(expected).mean() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_finer_grid_inside_a_coarser_by_hand(tmp_path):
    make(tmp_path / "v.tif", np.array([[0, 4], [8, 100]], np.float32), 0, 2, 1)
    found = read(tmp_path / "v.tif", Grid("EPSG:4326", 0, 2, (0.5, 0.5), 4, 4))[0]
    # Centres lie a quarter of a cell from the nearest source centre; at the edge only what is there counts.
    np.testing.assert_allclose(found[0], [0, 1, 3, 4], atol=1e-6)
    np.testing.assert_allclose(found[1, 1], (9 * 0 + 3 * 4 + 3 * 8 + 1 * 100) / 16)


def test_missing_cells_have_no_weight(tmp_path):
    make(tmp_path / "v.tif", np.array([[0, 4], [8, -9999]], np.float32), 0, 2, 1)
    found = read(tmp_path / "v.tif", Grid("EPSG:4326", 0, 2, (0.5, 0.5), 4, 4))[0]
    np.testing.assert_allclose(found[1, 1], (9 * 0 + 3 * 4 + 3 * 8) / 15, rtol=1e-6)
    assert np.isnan(found).tolist() == [[False] * 4, [False] * 4, [False, False, True, True], [False, False, True, True]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -9999.0, 3.4e38, -1e31, 77.0])
def test_what_is_missing_never_spreads(tmp_path, bad):
    values = np.full((20, 20), 5.0, np.float32)
    values[7:9, 11] = bad
    make(tmp_path / "v.tif", values, 0, 20, 1, nodata=77.0, scale=(2.0, 1.0))
    for cell in (0.3, 1.5, 5.0):
        found = read(tmp_path / "v.tif", Grid("EPSG:4326", 2, 18, (cell, cell), int(16 / cell), int(16 / cell)))
        assert set(np.unique(found[np.isfinite(found)])) == {11.0}


@pytest.mark.parametrize("ratio", [1.5, 2, 3, 7, 10, 40])
def test_coarser_cells_are_averages(tmp_path, ratio):
    noisy = noise(400, 400)
    make(tmp_path / "v.tif", np.stack([noisy, np.mgrid[:400, :400][1].astype(np.float32)]), 0, 400, 1, "EPSG:3035")
    size = int(400 / ratio)
    grid = Grid("EPSG:3035", 0, 400, (ratio, ratio), size, size)
    found = read(tmp_path / "v.tif", grid)
    inner = np.s_[2:-2, 2:-2] if size > 8 else np.s_[1:-1, 1:-1]
    assert found[0][inner].std() < 0.95 * (2 / 3) / ratio * 1.15 + 0.03  # a triangle's: 2/3 of the target cell's own
    expected = (np.arange(size) + 0.5) * ratio - 0.5
    np.testing.assert_allclose(found[1][inner], np.broadcast_to(expected, (size, size))[inner], atol=0.06 * ratio)


def test_an_average_needs_half_of_its_weight(tmp_path):
    values = np.ones((120, 120), np.float32)
    values[:, 60:] = np.nan
    values[::7, :40] = np.nan  # holes that often hit the cell in the middle
    make(tmp_path / "v.tif", values, 0, 120, 1, "EPSG:3035")
    found = read(tmp_path / "v.tif", Grid("EPSG:3035", 0, 120, (3, 3), 40, 40))[0]
    assert np.isnan(found).tolist() == [[False] * 20 + [True] * 20] * 40


@pytest.mark.parametrize(("share", "missing"), [(0.4, True), (0.6, False)])
def test_half_of_the_weight_is_counted_in_cells_where_blocks_are_averaged(tmp_path, share, missing):
    values = np.tile(np.arange(5, dtype=np.float32), (120, 24))
    values[:, np.tile(np.arange(5), 24) >= 5 * share] = np.nan
    make(tmp_path / "v.tif", values, 0, 120, 1, "EPSG:3035")
    found = read(tmp_path / "v.tif", Grid("EPSG:3035", 0, 120, (10, 10), 12, 12))[0]
    if missing:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, 1.0, rtol=1e-6)  # the mean of 0, 1 and 2


def test_classes_stay_classes(tmp_path):
    codes = RNG.choice(np.array([10, 30, 200], np.uint8), (60, 60))
    make(tmp_path / "v.tif", np.stack([codes, codes]), 0, 6, 0.1, names=("cover", "height"))
    grid = Grid("EPSG:4326", 1, 5, (0.037, 0.037), 80, 80)
    cover, height = read(tmp_path / "v.tif", grid, nearest=["cover"])
    assert set(np.unique(cover)) == {10, 30, 200}
    assert len(np.unique(height)) > 1000
    with Stack(find_layers([tmp_path]), grid, ["cover"]) as stack:
        assert stack.how() == {tmp_path / "v.tif": "bilinear; nearest: cover"}
    with Stack(find_layers([tmp_path]), Grid("EPSG:4326", 1, 5, (0.3, 0.4), 8, 8)) as stack:
        assert stack.how() == {tmp_path / "v.tif": "bilinear, averaged over about 4 x 3 cells"}


def test_a_variable_does_not_depend_on_its_neighbours(tmp_path):
    make(tmp_path / "a.tif", noise(50, 50, holes=0.3), 0, 5, 0.1, names=("a",))
    make(tmp_path / "b.tif", noise(50, 50, holes=0.3), 0, 5, 0.1, names=("b",))
    for cell in (0.07, 0.23):
        grid = Grid("EPSG:4326", 1, 4, (cell, cell), 10, 12)
        together = read(tmp_path, grid)
        for k, name in enumerate("ab"):
            assert together[k].tobytes() == read(tmp_path / f"{name}.tif", grid)[0].tobytes()


# --- round the Earth -----------------------------------------------------------------------------------------------


def wave(lon):
    return np.cos(np.radians(lon - 25.0))


@pytest.mark.parametrize("west", [-180.0, 0.0, -30.0])
@pytest.mark.parametrize("target", ["finer", "coarser", "EPSG:3832", "+proj=laea +lat_0=10 +lon_0=180 +datum=WGS84"])
def test_no_seam_at_the_antimeridian(tmp_path, west, target):
    lon = west + 5.0 * (np.arange(72) + 0.5)
    globe(tmp_path / "v.tif", 5.0, west, np.broadcast_to(wave(lon), (36, 72)).astype(np.float32))
    grid = {
        "finer": Grid("EPSG:4326", -180, 80, (0.9, 0.9), 20, 400),
        "coarser": Grid("EPSG:4326", -180, 15, (15.0, 15.0), 2, 24),
        "EPSG:3832": Grid("EPSG:3832", 2.2e6, 1e6, (1e5, 1e5), 20, 30),
    }.get(target, Grid(target, -2e6, 1.5e6, (1e5, 1e5), 30, 40))
    found = read(tmp_path / "v.tif", grid, halo=4)[0]
    cols, rows = np.meshgrid(np.arange(-4, grid.width + 4) + 0.5, np.arange(-4, grid.height + 4) + 0.5)
    there, _ = lonlat(grid, rows.ravel(), cols.ravel())
    off = np.abs(found - wave(there).reshape(found.shape)) if target != "coarser" else np.abs(np.diff(found, 2, axis=1))
    assert np.isfinite(found).all()
    bound = (np.radians(5.0) ** 2 / 8) * 1.05  # of linear interpolation
    assert off.max() < (bound if target != "coarser" else np.radians(15.0) ** 2 * 1.05)


@pytest.mark.parametrize("west", [-190.0, 170.0, 530.0])
def test_a_raster_across_180_is_found_by_any_longitude(tmp_path, west):
    lon = 160 + 0.5 * (np.arange(80) + 0.5)
    make(tmp_path / "v.tif", np.broadcast_to(wave(lon), (40, 80)).astype(np.float32), 160, 20, 0.5)
    found = read(tmp_path / "v.tif", Grid("EPSG:4326", west, 15, (0.3, 0.3), 5, 66))[0]
    np.testing.assert_allclose(found, np.broadcast_to(wave(west + 0.3 * (np.arange(66) + 0.5)), (5, 66)), atol=2e-5)


def test_goes_on_at_the_other_side(tmp_path):
    globe(tmp_path / "v.tif", 5.0)
    grid = Grid("EPSG:4326", -180, 80, (1.25, 1.25), 12, 288)
    with Stack(find_layers([tmp_path]), grid) as stack:
        here = stack.read(0, -30, 12, 60)
        for turn in (-288, 288):
            np.testing.assert_array_equal(stack.read(0, -30 + turn, 12, 60), here)


# --- files ---------------------------------------------------------------------------------------------------------


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    for k in range(7):
        make(tmp_path / f"{k}.tif", np.full((6, 6), k, np.float32), 0, 6, 1)
    monkeypatch.setattr(stacks, "_OPEN_FILES", 2)
    with Stack(find_layers([tmp_path]), Grid("EPSG:4326", 1, 5, (0.5, 0.5), 4, 4)) as stack:
        for _ in range(2):
            assert stack.read(0, 0, 2, 2)[:, 0, 0].tolist() == list(range(7))
            assert len(stack._open) == 2
            stack.close()


@pytest.mark.parametrize("cell", [0.01, 0.007])
def test_a_file_that_is_torn_while_it_is_in_use_is_named(tmp_path, cell):
    make(tmp_path / "torn.tif", RNG.normal(size=(300, 300)), 0, 10, 0.01)
    torn = (tmp_path / "torn.tif").read_bytes()
    with Stack(find_layers([tmp_path]), Grid("EPSG:4326", 0, 10, (cell, cell), 300, 300)) as stack:
        (tmp_path / "torn.tif").write_bytes(torn[: len(torn) // 2])
        with pytest.raises(UserError, match="torn.tif: not readable"):
            stack.read(200, 0, 100, 100)


def test_undeclared_nodata_is_logged_once(tmp_path, caplog):
    make(tmp_path / "v.tif", np.full((6, 6), -9999, np.int16), 0, 6, 1)
    with caplog.at_level("INFO"), Stack(find_layers([tmp_path]), raster_grid(tmp_path / "v.tif")) as stack:
        assert np.isnan(stack.read(0, 0, 6, 6)).all()
        stack.read(0, 0, 6, 6)
    assert caplog.text.count("not declared as nodata, but taken as missing: -9999 in") == 1
