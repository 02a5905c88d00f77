"""Pictures and pages of maps: lengths, colours and values are read back and compared with what is known of the map."""

import base64
import html
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
from matplotlib.image import imread
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.io.files import UserError
from soilcarbon.mapping import page as mappage
from soilcarbon.mapping import view as mapview
from soilcarbon.mapping.picture import Ramp, bar_length, degree_words, ground, ramp_for, read_picture, sensible
from soilcarbon.mapping.view import View, page, preview

MOLLWEIDE = "ESRI:54009"  # the corners of its plane are off the Earth
SCORES = {"train": {"rmse": 10.123, "mae": 5.5, "me": -0.1234, "r2": 0.614, "ccc": 0.7, "n": 4123}, "test": {"rmse": None, "n": 0}}


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


def with_statistics(path, low, high, **others):
    """Tag the first band as GDAL does."""
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(1, STATISTICS_MINIMUM=low, STATISTICS_MAXIMUM=high, **others)
    return path


def soc(height, width, seed=0, holes=0.1):
    random = np.random.default_rng(seed)
    values = random.lognormal(2.5, 0.8, (height, width)).astype(np.float32)
    values[random.uniform(size=values.shape) < holes] = np.nan
    return values


def four_bands(height=40, width=60, seed=0):
    values = soc(height, width, seed)
    return [values, 0.6 * values, 1.5 * values, 0.2 * values]


def drawn(path, title="a map"):
    return mapview.draw(read_picture(View(title, path), 1600, first=1))


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
    assert [degree_words(lon, "EW", 0) for lon in (170, 180, -180, 190, 0)] == ["170° E", "180°", "180°", "170° W", "0°"]
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
    grid = {"count": 1, "height": 3, "width": 4, "dtype": "float32", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "m.tif", "w", driver="GTiff", transform=Affine(1, 0, 10, 0, 1, 50), **grid) as raster:
        raster.write(values[None].astype(np.float32))
    picture = read_picture(View("", tmp_path / "m.tif"), 100)
    np.testing.assert_array_equal(picture.bands[0].values, values[::-1])
    assert picture.bands[0].name == "band 1"


def test_what_is_no_map_is_named(tmp_path):
    (tmp_path / "m.tif").write_text("no raster")
    for act in (lambda view: preview(tmp_path / "m.png", view), lambda view: page(tmp_path / "m.html", "", [view], {}, {})):
        with pytest.raises(UserError, match=r"m\.tif"):
            act(View("", tmp_path / "m.tif"))
    assert [path.name for path in tmp_path.iterdir()] == ["m.tif"]


# --- colours ---------------------------------------------------------------------------------------------------


def test_a_ramp_ends_at_robust_quantiles_and_says_what_lies_beyond():
    values = np.random.default_rng(0).normal(100, 5, 10_000)
    values[0] = 5000
    ramp = ramp_for([values], diverging=False)
    assert (ramp.low, ramp.high) == pytest.approx(tuple(np.quantile(values, (0.01, 0.995))))
    assert (ramp.extend, ramp.logarithmic, ramp.highest) == ("both", False, 5000)
    assert "to 5,000; those below" in ramp.words()
    assert all(ramp.low <= tick <= ramp.high for tick in ramp.ticks())


def legends(tif, side=16):
    """Return what the legend of a map of one band says in a picture and in a page, of at most `side` cells."""
    picture = read_picture(View("", tif), side)
    return words_of(mapview.draw(picture)), next(iter(mapview._shared_ramps([picture]).values())).words()


SPIKED = np.where(np.arange(64 * 64) == 70, 600.0, 10 + np.arange(64 * 64) % 2).reshape(64, 64)


def test_the_legend_tells_the_range_of_the_file_not_of_averages(tmp_path):
    tif = write_map(tmp_path / "m.tif", [SPIKED])
    for words in legends(tif):
        assert "as shown, averaged: from 10.5 to 47.4" in words
    for words in legends(tif, 64):
        assert "cells from 10 to 600" in words
    for words in legends(with_statistics(tif, "10", "600.0001")):
        assert "cells from 10 to 600" in words and "averaged" not in words


@pytest.mark.parametrize(
    ("low", "high", "others"),
    [
        ("junk", "600", {}),
        ("10", "nan", {}),
        ("-inf", "600", {}),
        ("600", "10", {}),
        ("10", "20", {}),  # of another file: an average is 47.375
        ("10", "600", {"STATISTICS_APPROXIMATE": "YES"}),
        ("1" * 400, "1" * 400, {}),
    ],
)
def test_statistics_that_cannot_be_are_not_told(tmp_path, low, high, others):
    for words in legends(with_statistics(write_map(tmp_path / "m.tif", [SPIKED]), low, high, **others)):
        assert "as shown, averaged: from 10.5 to 47.4" in words


def test_a_page_tells_the_range_of_all_its_maps(tmp_path):
    paths = [write_map(tmp_path / f"{k}.tif", [SPIKED * k]) for k in (1, 2)]
    with_statistics(paths[0], "10", "600")
    pictures = [read_picture(View("", path), 16) for path in paths]
    (ramp,) = mapview._shared_ramps(pictures).values()
    assert "as shown, averaged: from 10.5 to 94.8" in ramp.words()
    with_statistics(paths[1], "20", "1200")
    (ramp,) = mapview._shared_ramps([pictures[0], read_picture(View("", paths[1]), 16)]).values()
    assert "cells from 10 to 1,200" in ramp.words()


@pytest.mark.parametrize("values", [np.arange(4096).reshape(64, 64) % 3 > 0, np.ones((64, 64)), np.zeros((64, 64))])
def test_the_area_of_applicability_has_fixed_ends(tmp_path, values):
    tif = write_map(tmp_path / "m.tif", [values], ["inside"], unit="")
    (ramp,) = mapview._shared_ramps([read_picture(View("", tif), 16)]).values()
    assert (ramp.colours, ramp.low, ramp.high, ramp.extend, ramp.logarithmic) == ("cividis", 0, 1, "neither", False)
    assert ramp.words() == "1 inside, 0 outside the area of applicability; between: share of the cells"
    assert {0, 1} <= set(ramp.ticks())


def test_a_band_named_inside_that_is_no_share_is_drawn_like_any_other(tmp_path):
    tif = write_map(tmp_path / "m.tif", [soc(20, 20)], ["inside"], unit="")
    (ramp,) = mapview._shared_ramps([read_picture(View("", tif), 20)]).values()
    assert ramp.colours == "viridis"


def test_skewed_values_get_a_logarithmic_ramp_that_zeros_do_not_stretch(tmp_path):
    values = soc(100, 100)
    values[:20] = 0
    ramp = ramp_for([values], diverging=False)
    assert ramp.logarithmic
    assert ramp.low == pytest.approx(np.nanquantile(values[values > 0], 0.01), rel=1e-6)
    assert {2, 5, 10, 20, 50} <= set(ramp.ticks())
    assert ramp.place(np.sqrt(ramp.low * ramp.high)) == pytest.approx(0.5)
    image = drawn(write_map(tmp_path / "m.tif", [values])).axes[0].images[0]
    assert image.get_array()[0].min() > 0  # else a logarithm would show zeros as missing


def test_maps_of_change_are_centred_at_zero_and_their_sd_is_not(tmp_path):
    change = np.random.default_rng(0).normal(2, 1, (30, 30))
    names = ["change", "lower", "upper", "sd"]
    picture = read_picture(View("", write_map(tmp_path / "m.tif", [change, change - 2, change + 2, abs(change)], names)), 100)
    ramps = mapview._shared_ramps([picture])
    ramp = ramps["change", "g/kg", True]
    assert (ramp.colours, ramp.place(0.0), ramp.low) == ("RdBu", 0.5, -ramp.high)
    assert [ramps[name, "g/kg", True].diverging for name in names] == [True, True, True, False]
    assert "red: loss, blue: gain" in words_of(mapview.draw(picture))


@pytest.mark.parametrize(("values", "middle"), [([7.5, 7.5], 7.5), ([0.0], 0.0), ([-3.0, -3.0], -3.0)])
def test_a_constant_map_has_its_value_in_the_middle_of_the_ramp(values, middle):
    ramp = ramp_for([np.array(values)], diverging=False)
    assert ramp.place(middle) == pytest.approx(0.5)
    assert ramp.ticks() == [middle]
    assert ramp.words() == f"the same everywhere: {sensible(middle)}"


def test_nearly_constant_maps_show_the_rest():
    values = np.full(10_000, 3.0)
    values[0] = 4
    ramp = ramp_for([values], diverging=False)
    assert (ramp.low, ramp.high) == (3, 4)


def test_nothing_has_no_ramp():
    assert ramp_for([np.full((3, 3), np.nan)], diverging=False) is None


def test_ticks_are_round_in_a_narrow_logarithmic_ramp():
    assert Ramp("viridis", 11, 19, True, 11, 19).ticks() == [12, 14, 16, 18]


@pytest.mark.parametrize(
    ("value", "words"), [(0.012345, "0.0123"), (12.345, "12.3"), (-1234.5, "−1,234"), (999.7, "1,000"), (0, "0"), (np.nan, "–")]
)
def test_numbers_have_sensible_digits(value, words):
    assert sensible(value) == words


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32634"])
@pytest.mark.parametrize(("cell", "corner"), [(1e-300, 20), (1e-300, 0), (1e-15, 20), (1e300, 0)])
def test_cells_of_no_size_are_refused(tmp_path, cell, corner, crs):
    tif = write_map(tmp_path / "m.tif", [soc(4, 5)])
    with rasterio.open(tif, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.transform = from_origin(corner, corner, cell, cell)
        raster.crs = crs
    with pytest.raises(UserError, match=r"m\.tif: its cells"):
        preview(tmp_path / "m.png", View("", tif))
    with pytest.raises(UserError, match=r"m\.tif: its cells"):
        page(tmp_path / "m.html", "", [View("", tif)], {}, {})


# --- pictures --------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", EDGES)
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
    page(tmp_path / "m.html", name, [view], {}, {})
    shown = data_of(tmp_path / "m.html")["views"][0]
    assert 1 / 8 <= shown["shape"] <= 8
    np.testing.assert_array_equal(np.isnan(decoded(shown, 0)), np.isnan(read_picture(view, 1000).bands[0].values))


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


# --- the page --------------------------------------------------------------------------------------------------


def data_of(html):
    """Return what the script is given."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html.read_text(), re.DOTALL)[1])


def decoded(view, number):
    """Decode a band as the page's script does: (h, w), missing = NaN."""
    band = view["bands"][number]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(band["codes"])), np.uint8).reshape(2, view["height"], view["width"])
    folded = planes[0].astype(int) << 8 | planes[1]
    codes = np.cumsum((folded >> 1) ^ -(folded & 1), axis=1) % 65536
    place = band["start"] + band["step"] * (codes - 1)
    return np.where(codes == 0, np.nan, band["curve"] * np.sinh(place) if band["curve"] else place)


@pytest.mark.parametrize("codes", [mappage.FINE, mappage.COARSE])
@pytest.mark.parametrize("curve", [0.0, 3.0])
def test_values_decode_within_half_a_step(codes, curve):
    values = np.where(np.isnan(soc(50, 70)), np.nan, soc(50, 70, holes=0) * np.linspace(-1, 30, 70))
    packed = mappage.quantise(values, curve, codes)
    back = decoded({"height": 50, "width": 70, "bands": [packed]}, 0)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    straight = np.arcsinh if curve else np.asarray
    error = np.nanmax(np.abs(straight(back / (curve or 1)) - straight(values / (curve or 1))))
    assert error <= 0.5 * packed["step"] * (1 + 1e-6)
    spread = np.ptp(straight(values[np.isfinite(values)] / (curve or 1)))
    assert packed["step"] == pytest.approx(spread / (codes - 2))


def test_skewed_bands_keep_three_digits_of_small_values_even_in_few_codes():
    values = np.exp(np.random.default_rng(0).uniform(np.log(0.5), np.log(600), (100, 100)))
    packed = mappage.quantise(values, 0.6, mappage.COARSE)
    back = decoded({"height": 100, "width": 100, "bands": [packed]}, 0)
    assert np.max(np.abs(back / values - 1)) < 0.002


class Tags(HTMLParser):
    """Keep all elements, and the text outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.found, self.words, self.inside = [], [], ""
        self.feed(html.read_text())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, _):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style") and data.strip():
            self.words.append(data.strip())


HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- {{data}} & \" ' \u2028"


@pytest.fixture
def hostile(tmp_path):
    """A page whose every text tries to break out."""
    tif = write_map(tmp_path / "it's a <map> & more #1.tif", four_bands(), [HOSTILE, "lower", "upper", "sd"], unit=HOSTILE[:40])
    totals = pd.DataFrame({"zone": [HOSTILE], HOSTILE: [1.5]})
    page(
        tmp_path / "m.html", HOSTILE, [View(HOSTILE, tif)], {HOSTILE: {HOSTILE: 1.0}}, {HOSTILE: {"x": HOSTILE}}, totals, [HOSTILE]
    )
    return tmp_path / "m.html"


def test_nothing_from_a_file_becomes_markup(hostile):
    tags = Tags(hostile)
    assert [name for name, _ in tags.found].count("script") == 2
    assert [name for name, _ in tags.found].count("img") == 1
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert data_of(hostile)["views"][0]["bands"][0]["name"] == HOSTILE
    shown = " ".join(tags.words)
    assert (
        shown.count("document.title='broken'") == 10
    )  # title and heading, split, score, column, zone, map, fact and its name, note


def test_a_page_needs_no_network(hostile):
    tags = Tags(hostile)
    policy = next(each["content"] for name, each in tags.found if name == "meta" and each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    links = [each[key] for _, each in tags.found for key in ("src", "href") if key in each]
    assert links[0].startswith("data:image/jpeg;base64,")
    assert links[1:] == ["it%27s%20a%20%3Cmap%3E%20%26%20more%20%231.tif"]
    assert "http" not in re.sub(r"[A-Za-z0-9+/=]{200,}", "", hostile.read_text()).replace("http-equiv", "")
    assert [path.name for path in hostile.parent.iterdir() if path.suffix != ".tif"] == ["m.html"]


def test_files_are_linked_from_where_the_page_is(tmp_path):
    (tmp_path / "maps").mkdir()
    tif = write_map(tmp_path / "maps" / "soc 1%.tif", [soc(20, 30)])
    page(tmp_path / "pages" / "m.html", "", [View("", tif)], {}, {})
    assert [each["href"] for name, each in Tags(tmp_path / "pages" / "m.html").found if name == "a"] == ["../maps/soc%201%25.tif"]


def test_tables_say_what_they_are_given(tmp_path):
    totals = pd.DataFrame({"zone": ["Nairobi"], "cells": [12345], "mean": [23.456], "upper": [np.nan]})
    provenance = {
        "model": {"members": 5, "seeds": [1, 2]},
        "layers": [{"path": "a.tif"}, {"path": "b.tif"}],
        "aoi": None,
        "empty": {},
    }
    tif = write_map(tmp_path / "m.tif", four_bands())
    page(tmp_path / "m.html", "Kenya", [View("k", tif)], SCORES, provenance, totals, ["averages"])
    words = Tags(tmp_path / "m.html").words
    follows = set(pairwise(words))
    assert {("model.members", "5"), ("model.seeds", "1, 2"), ("layers.2.path", "b.tif"), ("aoi", "–"), ("empty", "–")} <= follows
    row = words.index("train")
    assert words[row : row + 7] == ["train", "10.1", "5.5", "−0.123", "0.61", "0.70", "4,123"]
    assert words[row - 6 : row] == ["RMSE (g/kg)", "MAE (g/kg)", "ME (g/kg)", "R²", "CCC", "n"]
    assert words[row + 7 : row + 14] == ["test", "–", "–", "–", "–", "–", "0"]
    row = words.index("Nairobi")
    assert words[row - 3 : row + 4] == ["zone", "cells", "mean", "Nairobi", "12,345", "23.5", "Files"]  # no row has an `upper`
    assert {"averages", "EPSG:4326", "40 × 60"} <= set(words)


def totals_table(**changed):
    """Return totals of two zones, the second without cells, as `zones.totals` does."""
    table = {"map": ["", ""], "zone": ["Kenya", "sea"], "cells": [584521, 0], "area_km2": [141213.4, 0.0]}
    for name, value, lower, upper, unit in (("mean", 22.61, 21.49, 23.51, "g/kg"), ("total", 3.1925e9, 3.03e9, 3.32e9, "g/kg km2")):
        table |= {
            name: [value, np.nan],
            f"{name}_lower": [lower, np.nan],
            f"{name}_upper": [upper, np.nan],
            f"{name}_unit": [unit] * 2,
        }
    return pd.DataFrame(table | changed)


def table_words(table):
    """Return the rows of a table in HTML, the header first."""
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_totals_have_bounds_beside_and_shared_units_in_the_header():
    header, kenya, sea = table_words(mappage._totals_table(totals_table()))
    assert header == ["zone", "cells", "area (km2)", "mean (g/kg)", "total (10⁹ g/kg km2)"]
    assert kenya == ["Kenya", "584,521", "141,213", "22.6 [21.5, 23.5]", "3.19 [3.03, 3.32]"]
    assert sea == ["sea", "0", "0", "–", "–"]


def test_units_that_rows_do_not_share_stay_a_column():
    found = table_words(mappage._totals_table(totals_table(map=["a", "b"], mean_unit=["g/kg", "%"])))
    assert found[0] == ["map", "zone", "cells", "area (km2)", "mean", "mean_unit", "total (10⁹ g/kg km2)"]
    assert found[1][4:6] == ["22.6 [21.5, 23.5]", "g/kg"]


def test_totals_of_one_network_have_no_brackets():
    none = {f"{name}_{end}": [np.nan, np.nan] for name in ("mean", "total") for end in ("lower", "upper")}
    assert "[" not in mappage._totals_table(totals_table(**none))
    assert table_words(mappage._totals_table(totals_table(**none)))[1][-2:] == ["22.6", "3.19"]


@pytest.mark.parametrize(
    ("values", "power"), [([999_999.0, 5.0], 0), ([2e6, 5e3], 3), ([2e6, 0.5], 0), ([0.0, np.nan], 0), ([-4e9, 2e9], 9)]
)
def test_millions_are_divided_by_as_much_as_leaves_no_row_below_one(values, power):
    assert mappage._thousands(values) == power


@pytest.mark.parametrize("value", [10**400, np.inf, np.nan, None, "x", [1]])
@pytest.mark.parametrize("name", ["rmse", "r2", "n", "other"])
def test_a_score_that_is_no_number_is_a_dash(name, value):
    assert mappage._score(name, value) == "–"


def test_huge_scores_stay_short():
    assert max(len(mappage._score(name, -1e300)) for name in ("rmse", "r2", "n")) < 10


def test_scores_say_what_was_compared():
    scores = {"test": {"rmse": 1.0}, "cells, against older.tif": {"rmse": 2.0}}
    both = mappage._score_table(scores, "g/kg")
    assert "train, valid and test are of profiles" in both and "compare this map with a raster" in both
    assert "with a raster" not in mappage._score_table({"test": {"rmse": 1.0}}, "g/kg")
    assert "profiles" not in mappage._score_table({"cells": {"rmse": 1.0}}, "g/kg")


def test_bands_of_one_name_share_their_colours_but_not_with_maps_of_change(tmp_path):
    paths = [write_map(tmp_path / f"{k}.tif", [10.0**k * band for band in four_bands(seed=k)]) for k in range(2)]
    paths.append(write_map(tmp_path / "c.tif", four_bands(), ["change", "lower", "upper", "sd"]))
    page(tmp_path / "m.html", "", [View(path.name, path) for path in paths], {}, {})
    data = data_of(tmp_path / "m.html")
    numbers = [[band["ramp"] for band in view["bands"]] for view in data["views"]]
    assert numbers == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert set(data["palettes"]) == {"viridis", "RdBu"}
    assert data["palettes"]["viridis"].startswith("440154") and len(data["palettes"]["viridis"]) == 6 * 256
    assert len(data["grids"]) == 1
    assert data["views"][0]["bar"]["share"] <= 0.3


def test_a_large_restless_map_still_makes_a_page_of_three_megabytes(tmp_path):
    values = soc(1300, 1300, holes=0)
    path = write_map(tmp_path / "m.tif", [values, 0.7 * values], transform=from_origin(20, 42, 0.001, 0.001))
    page(tmp_path / "m.html", "", [View("", path)], {}, {})
    assert (tmp_path / "m.html").stat().st_size < 1.75e6
    view = data_of(tmp_path / "m.html")["views"][0]
    assert 500 < view["width"] < 1000
    assert np.mean(decoded(view, 0)) == pytest.approx(values.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32634", from_origin(460_000, 4_700_000, 200, 200)),
        ("EPSG:3035", from_origin(2_500_000, 5_500_000, 4000, 4000)),  # Europe
        ("EPSG:3832", from_origin(-2e6, 1e6, 4000, 4000)),  # the Pacific: Mercator round 150 E, across the antimeridian
        ("EPSG:3413", from_origin(-2e6, 2e6, 4000, 4000)),  # round the pole
    ],
)
def test_the_page_tells_places_within_half_a_cell(crs, transform):
    grid = Grid(crs, transform.c, transform.f, (transform.a, -transform.e), 1000, 1000)
    places = mappage._places(grid)
    side = places["side"]
    lattice = np.array(places["lattice"]).reshape(side, side, 3)
    random = np.random.default_rng(0)
    row, col = random.uniform(0, side - 1, (2, 500))
    i, j = np.floor(row).astype(int), np.floor(col).astype(int)
    v, u = (row - i)[:, None], (col - j)[:, None]
    upper, lower = ((1 - u) * lattice[k, j] + u * lattice[k, j + 1] for k in (i, i + 1))
    told = (1 - v) * upper + v * lower
    told /= np.linalg.norm(told, axis=1, keepdims=True)
    lon, lat = (np.deg2rad(angle) for angle in lonlat(grid, row / (side - 1) * 1000, col / (side - 1) * 1000))
    true = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    assert np.max(np.linalg.norm(told - true, axis=1)) * 6.371e6 < 0.5 * transform.a


# --- in a browser ----------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")


def opened(html, profile, address=""):
    """Return the page as it is after its script ran."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu"]
    where = [f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", html.as_uri() + address]
    result = subprocess.run([BROWSER, "--headless", "--no-sandbox", *quiet, *where], capture_output=True, timeout=120, check=True)
    return result.stdout.decode()


def text_of(dom, name):
    """Return the words inside the element of this id."""
    inside = re.search(rf'id="{name}"[^>]*>(.*?)</(?:p|div)>', dom, re.DOTALL)[1]
    return re.sub(r"<[^>]*>", " ", inside)


@needs_browser
@pytest.mark.slow
def test_the_script_draws_the_band_asked_for_and_reads_values(tmp_path):
    utm = {"crs": "EPSG:32634", "transform": from_origin(500_000, 4_650_000, 1000, 1000)}
    paths = [write_map(tmp_path / f"{k}.tif", four_bands(seed=k), **utm) for k in range(2)]
    page(tmp_path / "m.html", "Kenya", [View(path.stem, path) for path in paths], SCORES, {})
    dom = opened(tmp_path / "m.html", tmp_path / "profile", "#map=1&band=sd&at=0.7083,0.5125")  # column 42, row 20
    assert re.search(r'<html[^>]*data-state="drawn"[^>]*>', dom)
    assert re.search(r'<html[^>]*data-map="1" data-band="sd"', dom)
    assert text_of(dom, "trouble") == ""
    assert re.search(r"<h3>1: sd \(g/kg\)</h3>", dom)
    assert dom.count('type="radio"') == 4
    words = text_of(dom, "reading")
    for name, band in zip(("prediction", "lower", "upper", "sd"), four_bands(seed=1), strict=True):
        assert f"{name} {sensible(float(band[20, 42]))} g/kg" in words
    lon, lat = lonlat(Grid(utm["crs"], 500_000, 4_650_000, (1000.0, 1000.0), 40, 60), np.array([20.5]), np.array([42.5]))
    assert f"{lat[0]:.3f}° N, {lon[0]:.3f}° E" in words


@needs_browser
@pytest.mark.slow
def test_the_area_of_applicability_reads_as_one_or_zero(tmp_path):
    inside = np.arange(40 * 60).reshape(40, 60) % 2
    tif = write_map(tmp_path / "m.tif", [*four_bands()[:1], inside], ["prediction", "inside"], unit="")
    page(tmp_path / "m.html", "Kenya", [View("k", tif)], {}, {})
    for col, words in ((42, "inside 0"), (43, "inside 1")):
        dom = opened(tmp_path / "m.html", tmp_path / "profile", f"#map=0&band=inside&at={(col + 0.5) / 60:.4f},0.5125")
        assert re.search(rf'class="chosen">{words}</span>', dom)
    assert ">1 inside, 0 outside the area of applicability; between" in dom


@needs_browser
@pytest.mark.slow
def test_hostile_texts_stay_texts_in_a_browser(hostile):
    dom = opened(hostile, hostile.parent / "profile")
    assert re.search(r'<html[^>]*data-state="drawn"', dom)
    assert text_of(dom, "trouble") == ""
    assert "<title>broken</title>" not in dom
    assert dom.count("<script>") == 1


@needs_browser
@pytest.mark.slow
def test_a_page_that_cannot_draw_says_so_and_keeps_its_picture(tmp_path):
    page(tmp_path / "m.html", "Kenya", [View("k", write_map(tmp_path / "m.tif", [soc(20, 30)]))], {}, {})
    text = (tmp_path / "m.html").read_text()
    (tmp_path / "m.html").write_text(re.sub(r'"codes":"[^"]{8}', '"codes":"AAAAAAAA', text))
    dom = opened(tmp_path / "m.html", tmp_path / "profile")
    assert re.search(r'<html[^>]*data-state="failed"', dom)
    assert "cannot be shown" in text_of(dom, "trouble")
    assert re.search(r'<img class="still"(?![^>]*hidden)', dom)
    assert re.search(r'id="live"[^>]*hidden', dom)
