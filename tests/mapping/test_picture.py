"""Pictures of maps: lengths on the ground, decimated values and colour ramps against what is known of the map."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import slow_but
from matplotlib.image import imread
from raster_files import write_raster
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.io.files import UserError
from soilcarbon.mapping.page import page_data, write_page
from soilcarbon.mapping.picture import Band, Ramp, View, bar_length, degree_label, draw, ground, preview, ramp_of, read_picture

MOLLWEIDE = "ESRI:54009"  # the corners of its plane are off the Earth


def from_origin(x, y, width, height):
    return Affine(width, 0, x, 0, -height, y)


def write_map(path, bands, names=None, transform=None, crs="EPSG:4326", nodata=-9999.0, unit="g/kg"):
    """Write bands (b, h, w), missing = NaN, as a Cloud Optimized GeoTIFF."""
    bands = np.asarray(bands, np.float32)
    count, height, width = bands.shape
    filled = bands if nodata is None else np.where(np.isfinite(bands), bands, np.float32(nodata))
    grid = {"count": count, "height": height, "width": width, "crs": crs, "transform": transform or from_origin(20, 42, 0.01, 0.01)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", dtype="float32", nodata=nodata, **grid) as raster:
            raster.write(filled)
            raster.descriptions = tuple(names or ["prediction", "lower", "upper", "sd"][:count])
            raster.units = (unit,) * count
        with memory.open() as raster:
            rasterio.shutil.copy(raster, path, driver="COG", compress="deflate", overview_resampling="average")
    return path


def soc(height, width, seed=0, holes=0.1):
    random = np.random.default_rng(seed)
    values = random.lognormal(2.5, 0.8, (height, width)).astype(np.float32)
    values[random.uniform(size=values.shape) < holes] = np.nan
    return values


def four_bands(height=40, width=60, seed=0):
    values = soc(height, width, seed)
    return [values, 0.6 * values, 1.5 * values, 0.2 * values]


def drawn(path, title="a map", diverging=False):
    return draw(read_picture(View(title, path), 1600, first=1), diverging)


def words_of(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return " ".join([*texts, figure.axes[0].get_title(), figure.get_supxlabel()])


# --- lengths on the ground -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:4326", from_origin(10, 60.2, 0.01, 0.01), 55_800),  # of a degree of longitude at 60 N, WGS 84
        ("EPSG:4326", from_origin(10, 0.2, 0.01, 0.01), 111_320),  # at the equator
        ("EPSG:32633", from_origin(490_000, 6_650_000, 500, 500), 1000 / 0.9996),  # of a km of UTM's middle meridian
        ("EPSG:2263", from_origin(980_000, 250_000, 1000, 1000), 1000),  # axes in km, the CRS in US feet
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(tmp_path, crs, transform, metres):
    figure = drawn(write_map(tmp_path / "m.tif", [soc(40, 60)], transform=transform, crs=crs))
    axes = figure.axes[0]
    left, right = axes.lines[0].get_xdata()
    number, unit = next(text.get_text() for text in axes.texts if "N" in text.get_text()).split()[:2]
    assert (right - left) * metres == pytest.approx(float(number) * {"m": 1, "km": 1000}[unit], rel=0.02)
    assert 0.1 < (right - left) / np.ptp(axes.get_xlim()) <= 0.3


def test_height_and_width_are_drawn_as_on_the_ground(tmp_path):
    figure = drawn(write_map(tmp_path / "m.tif", [soc(40, 60)], transform=from_origin(10, 60.2, 0.01, 0.01)))
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.width / box.height == pytest.approx(60 * 55_800 / (40 * 111_412), rel=0.02)


@pytest.mark.parametrize(("width", "length"), [(1000, 200), (3334, 1000), (17, 5), (40_075_000, 10_000_000), (0.9, 0.2)])
def test_the_bar_is_of_a_round_length(width, length):
    assert bar_length(width) == pytest.approx(length)


def test_the_ground_is_measured_over_the_pole_and_where_the_middle_is_off_the_earth():
    polar = ground(Grid("EPSG:3413", -1e6, 1e6, (1000.0, 1000.0), 2000, 2000))
    assert polar.x == pytest.approx(1 / 0.9705, rel=0.002)  # a secant projection true at 70 N shrinks the pole by 3 %
    assert polar.y == pytest.approx(polar.x, rel=1e-3)
    corner = Grid(MOLLWEIDE, -18e6, 9e6, (1e5, 1e5), 60, 60)
    assert np.isnan(lonlat(corner, np.array([1]), np.array([1]))[0]).all()
    assert 0.3 < ground(corner).x < 3


def test_longitudes_come_round_at_the_antimeridian(tmp_path):
    assert [degree_label(lon, "EW", 0) for lon in (170, 180, -180, 190, 0)] == ["170° E", "180°", "180°", "170° W", "0°"]
    figure = drawn(write_map(tmp_path / "m.tif", [soc(20, 40)], transform=from_origin(170, -10, 0.5, 0.5)))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["170° E", "175° E", "180°", "175° W", "170° W"]


# --- reading ---------------------------------------------------------------------------------------------------


def test_a_map_is_averaged_to_the_side_asked_for_and_missing_cells_do_not_count(tmp_path):
    values = np.where(np.arange(1200) % 2, 30.0, 10.0) * np.ones((600, 1))
    values[:300, :600] = np.nan
    path = write_map(tmp_path / "m.tif", [values], transform=from_origin(20, 42, 0.001, 0.001))
    picture = read_picture(View("", path), 100)
    shown = picture.bands[0].values
    assert shown.shape == (50, 100)
    assert picture.grid.bounds == pytest.approx(picture.full.bounds)
    assert np.isnan(shown[:24, :49]).all()
    np.testing.assert_allclose(shown[26:], 20)


@pytest.mark.parametrize("nodata", [-9999.0, np.nan, None, 0.0])
def test_whatever_is_declared_missing_is_missing(tmp_path, nodata):
    values = np.full((64, 64), 5.0)
    values[:33] = np.nan if nodata is not None else -9999
    path = write_map(tmp_path / "m.tif", [values], nodata=nodata)
    shown = read_picture(View("", path), 8).bands[0].values
    assert np.isnan(shown[:4]).all()
    assert (shown[5:] == 5).all()


def test_a_raster_stored_south_up_is_shown_north_up(tmp_path):
    values = np.arange(12.0).reshape(3, 4)
    write_raster(tmp_path / "m.tif", values.astype(np.float32), transform=Affine(1, 0, 10, 0, 1, 50))
    picture = read_picture(View("", tmp_path / "m.tif"), 100)
    np.testing.assert_array_equal(picture.bands[0].values, values[::-1])
    assert picture.bands[0].name == "band 1"


def test_what_is_no_map_is_named(tmp_path):
    (tmp_path / "m.tif").write_text("no raster")
    for act in (lambda view: preview(tmp_path / "m.png", view), lambda view: write_page(tmp_path / "m.html", "", [view], {}, {})):
        with pytest.raises(UserError, match=r"m\.tif"):
            act(View("", tmp_path / "m.tif"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


# --- colours ---------------------------------------------------------------------------------------------------


def ramp_for(values, diverging=False, name="prediction", unit="g/kg"):
    return ramp_of([Band(name, unit, "", np.asarray(values, np.float64))], diverging)


def test_a_ramp_ends_at_robust_quantiles_and_shows_what_lies_beyond():
    values = np.random.default_rng(0).normal(100, 5, 10_000)
    values[0] = 5000
    ramp = ramp_for(values)
    assert (ramp.low, ramp.high) == pytest.approx(tuple(np.quantile(values, (0.01, 0.995))))
    assert (ramp.extend, ramp.logarithmic) == ("both", False)
    assert "to 5,000" in ramp.note
    assert all(ramp.low <= tick <= ramp.high for tick in ramp.ticks())


@pytest.mark.parametrize("values", [np.arange(4096) % 3 > 0, np.ones(64), np.zeros(64)])
def test_the_area_of_applicability_has_fixed_ends(values):
    ramp = ramp_for(values, name="inside", unit="")
    assert (ramp.colours, ramp.low, ramp.high, ramp.extend, ramp.logarithmic) == ("cividis", 0, 1, "neither", False)
    assert {0, 1} <= set(ramp.ticks())
    assert ramp_for(soc(20, 20), name="inside", unit="").colours == "viridis"


def test_skewed_values_get_a_logarithmic_ramp_that_zeros_do_not_stretch(tmp_path):
    values = soc(100, 100)
    values[:20] = 0
    ramp = ramp_for(values)
    assert ramp.logarithmic
    assert ramp.low == pytest.approx(np.nanquantile(values[values > 0], 0.01), rel=1e-6)
    assert {2, 5, 10, 20, 50} <= set(ramp.ticks())
    assert ramp.place(np.sqrt(ramp.low * ramp.high)) == pytest.approx(0.5)
    image = drawn(write_map(tmp_path / "m.tif", [values])).axes[0].images[0]
    assert image.get_array()[0].min() > 0  # else a logarithm would show zeros as missing


def test_maps_of_change_are_centred_at_zero_and_their_sd_is_not(tmp_path):
    change = np.random.default_rng(0).normal(2, 1, (30, 30))
    names = ["change", "lower", "upper", "sd"]
    path = write_map(tmp_path / "m.tif", [change, change - 2, change + 2, abs(change)], names)
    bands = page_data([read_picture(View("", path), 100)])["views"][0]["bands"]
    assert [band["ramp"]["low"] == -band["ramp"]["high"] for band in bands] == [True, True, True, False]
    assert bands[0]["ramp"]["colours"] == "RdBu"
    assert "red: loss, blue: gain" in words_of(drawn(path, diverging=True))
    other = write_map(tmp_path / "d.tif", [change], ["difference"])
    assert "red: lower, blue: higher" in words_of(drawn(other, diverging=True))


@pytest.mark.parametrize("value", [7.5, 0.0, -3.0])
def test_a_constant_map_has_its_value_in_the_middle_of_the_ramp(value):
    ramp = ramp_for([value, value])
    assert ramp.place(value) == pytest.approx(0.5)
    assert ramp.note.startswith("the same everywhere")


def test_nearly_constant_maps_show_the_rest_and_no_value_has_no_ramp():
    values = np.full(10_000, 3.0)
    values[0] = 4
    assert (ramp_for(values).low, ramp_for(values).high) == (3, 4)
    assert ramp_for(np.full((3, 3), np.nan)) is None


def test_ticks_are_round_in_a_narrow_logarithmic_ramp():
    assert Ramp("viridis", 11, 19, True, "neither", "").ticks() == [12, 14, 16, 18]


# --- PNG --------------------------------------------------------------------------------------------------------

EDGES = {
    "one cell": ([[[12.3]]], {}),
    "nothing": (np.full((1, 5, 7), np.nan), {}),
    "constant": (np.full((1, 5, 7), 7.5), {"crs": "EPSG:32634", "transform": from_origin(5e5, 46e5, 250, 250)}),
    "one row": ([soc(1, 4000)], {"transform": from_origin(20, 42, 0.001, 0.001)}),
    "one column": ([soc(4000, 1)], {"transform": from_origin(20, 42, 0.001, 0.001)}),
    "the globe": ([soc(180, 360)], {"transform": from_origin(-180, 90, 1, 1)}),
    "the globe in a plane": ([soc(180, 360)], {"transform": from_origin(-18e6, 9e6, 1e5, 1e5), "crs": MOLLWEIDE}),
    "one cell of a globe": ([[[1.0]]], {"transform": from_origin(-180, 90, 360, 180)}),
    "antimeridian": ([soc(20, 40)], {"transform": from_origin(170, -10, 0.5, 0.5)}),
    "a small field": ([soc(20, 40)], {"transform": from_origin(20, 42, 1e-6, 1e-6)}),
}


@pytest.mark.parametrize("name", slow_but(EDGES, "nothing", "the globe in a plane", "one row", "antimeridian"))
def test_any_map_gets_a_picture_and_a_page(tmp_path, name):
    bands, grid = EDGES[name]
    view = View(f"{name}: $\\frac{{ $", write_map(tmp_path / "m.tif", bands, **grid))
    preview(tmp_path / "new" / "m.png", view)
    image = imread(tmp_path / "new" / "m.png")
    assert max(image.shape) <= 2600
    assert 0.05 < (image[..., :3].min(axis=-1) < 0.95).mean() < 0.9
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.png"]
    words = words_of(drawn(view.tif))
    assert ("no cell has a value" in words) == (name == "nothing")
    assert ("not to one scale" in words) == (name in ("one row", "one column"))
    shown = page_data([read_picture(view, 1000)])["views"][0]
    assert 1 / 8 <= shown["width"] / (shown["height"] * shown["aspect"]) <= 8


def test_the_axes_are_in_degrees_or_kilometres(tmp_path):
    east = from_origin(500_000, 4_650_000, 1000, 1000)
    axes = drawn(write_map(tmp_path / "m.tif", [soc(100, 100)], crs="EPSG:32634", transform=east)).axes[0]
    assert axes.get_xlabel() == "km east, EPSG:32634"
    assert axes.get_xlim() == (500, 600)
    assert axes.get_ylim() == (4550, 4650)
    axes = drawn(write_map(tmp_path / "m.tif", [soc(100, 100)])).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "42.0° N"


def test_the_legend_names_band_and_unit(tmp_path):
    figure = drawn(write_map(tmp_path / "m.tif", [soc(40, 60)]), "Kenya, 2000-2004")
    assert figure.axes[1].get_ylabel() == "prediction (g/kg)"
    assert figure.axes[0].get_title() == "Kenya, 2000-2004"
    assert "grey: no value" in words_of(figure)
