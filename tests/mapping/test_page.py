"""Page of maps: what its script is given, and what a browser makes of it, against the maps it was made from."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
import zlib

import numpy as np
import pandas as pd
import pytest
from html_tags import Tags
from mapping.test_picture import four_bands, from_origin, soc, write_map

from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.html import Table, format_value
from soilcarbon.mapping import page as pages
from soilcarbon.mapping.page import Profiles, degree_lattice, quantise, write_page
from soilcarbon.mapping.picture import View

SCORES = {"train": {"rmse": 10.123, "mae": 5.5, "me": -0.1234, "r2": 0.614, "ccc": 0.7, "n": 4123}, "test": {"rmse": None, "n": 0}}


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


@pytest.mark.parametrize("curve", [0.0, 3.0])
def test_values_decode_within_half_a_step(curve):
    values = soc(50, 70) * np.linspace(-1, 30, 70)
    packed = quantise(values, curve)
    back = decoded({"height": 50, "width": 70, "bands": [packed]}, 0)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    straight = np.arcsinh if curve else np.asarray
    error = np.nanmax(np.abs(straight(back / (curve or 1)) - straight(values / (curve or 1))))
    assert error <= 0.5 * packed["step"] * (1 + 1e-6)
    spread = np.ptp(straight(values[np.isfinite(values)] / (curve or 1)))
    assert packed["step"] == pytest.approx(spread / (pages._CODES - 2))


def test_skewed_bands_keep_three_digits_of_small_values():
    values = np.exp(np.random.default_rng(0).uniform(np.log(0.5), np.log(600), (100, 100)))
    back = decoded({"height": 100, "width": 100, "bands": [quantise(values, 0.6)]}, 0)
    assert np.max(np.abs(back / values - 1)) < 0.0005


HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- {{ data }} & \" ' \u2028"


@pytest.fixture
def hostile(tmp_path):
    """A page whose every text tries to break out."""
    tif = write_map(tmp_path / "it's a <map> & more #1.tif", four_bands(), [HOSTILE, "lower", "upper", "sd"], unit=HOSTILE[:40])
    totals = pd.DataFrame({"zone": [HOSTILE], HOSTILE: [1.5]})
    write_page(
        tmp_path / "m.html", HOSTILE, [View(HOSTILE, tif)], {HOSTILE: {HOSTILE: 1.0}}, {HOSTILE: {"x": HOSTILE}}, totals, [HOSTILE]
    )
    return tmp_path / "m.html"


def test_nothing_from_a_file_becomes_markup(hostile):
    tags = Tags(hostile.read_text())
    assert len(tags.named("script")) == 2 and not tags.named("img") and (tags.open, tags.wrong) == ([], [])
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert data_of(hostile)["views"][0]["bands"][0]["name"] == HOSTILE
    shown = " ".join(tags.words)
    assert (
        shown.count("document.title='broken'") == 10
    )  # title and heading, split, score, column, zone, map, fact and its name, note


def test_a_page_needs_no_network(hostile):
    tags = Tags(hostile.read_text())
    policy = next(each["content"] for each in tags.named("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert tags.links == ["it%27s%20a%20%3Cmap%3E%20%26%20more%20%231.tif"]
    assert "http" not in re.sub(r"[A-Za-z0-9+/=]{200,}", "", hostile.read_text()).replace("http-equiv", "")
    assert [path.name for path in hostile.parent.iterdir() if path.suffix != ".tif"] == ["m.html"]


def test_files_are_linked_from_where_the_page_is(tmp_path):
    (tmp_path / "maps").mkdir()
    tif = write_map(tmp_path / "maps" / "soc 1%.tif", [soc(20, 30)])
    write_page(tmp_path / "pages" / "m.html", "", [View("", tif)], {}, {})
    assert Tags((tmp_path / "pages" / "m.html").read_text()).links == ["../maps/soc%201%25.tif"]


def test_tables_show_what_is_known(tmp_path):
    provenance = {"model": {"members": 5, "seeds": [1, 2]}, "layers": [{"path": "a.tif"}, {"path": "b.tif"}], "aoi": None}
    tif = write_map(tmp_path / "m.tif", four_bands())
    write_page(tmp_path / "m.html", "Kenya", [View("k", tif)], SCORES, provenance, totals_table(), ["averages"])
    words = Tags((tmp_path / "m.html").read_text()).words
    row = words.index("train")
    assert words[row - 6 : row + 7] == [
        *("RMSE (g/kg)", "MAE (g/kg)", "ME (g/kg)", "R²", "CCC", "n"),
        *("train", "10.1", "5.5", "−0.123", "0.614", "0.7", "4,123"),
    ]
    assert words[row + 7 : row + 14] == ["test", "–", "–", "–", "–", "–", "0"]
    assert {"model.members", "1, 2", "layers.2.path", "b.tif", "averages", "EPSG:4326", "40 × 60", "all", "Kenya"} <= set(words)


def totals_table(**changed):
    """Return totals of two zones, the second without cells, as `zonal_statistics.totals` does."""
    table = {"map": ["", ""], "zone": ["Kenya", "sea"], "cells": [584521, 0], "area_km2": [141213.4, 0.0]}
    for name, value, lower, upper, unit in (("mean", 22.61, 21.49, 23.51, "g/kg"), ("total", 319.25, 303, 332, "Tg")):
        table |= {name: [value, np.nan], f"{name}_lower": [lower, np.nan], f"{name}_upper": [upper, np.nan]}
        table[f"{name}_unit"] = [unit] * 2
    return pd.DataFrame(table | changed)


def test_totals_have_bounds_beside_and_shared_units_in_the_header():
    table = pages._totals_table(totals_table())
    assert list(table.header) == ["zone", "cells", "area (km2)", "mean (g/kg)", "total (Tg)"]
    assert table.rows == [["Kenya", "584,521", "141,213", "22.6 [21.5, 23.5]", "319 [303, 332]"], ["sea", "0", "0", "–", "–"]]
    apart = pages._totals_table(totals_table(map=["a", "b"], mean_unit=["g/kg", "%"]))
    assert list(apart.header) == ["map", "zone", "cells", "area (km2)", "mean", "mean_unit", "total (Tg)"]
    one = {f"{name}_{end}": [np.nan, np.nan] for name in ("mean", "total") for end in ("lower", "upper")}
    assert pages._totals_table(totals_table(**one)).rows[0][-2:] == ["22.6", "319"]


@pytest.mark.parametrize("value", [10**400, np.inf, np.nan, None, "x", [1]])
def test_a_score_that_is_no_number_is_a_dash(value):
    table = pages._score_table({"test": {"rmse": value, "other": value}}, "g/kg")
    assert isinstance(table, Table) and table.rows == [["test", "–", "–"]]


def test_bands_of_one_name_share_their_colours_but_not_with_maps_of_change(tmp_path):
    paths = [write_map(tmp_path / f"{k}.tif", [10.0**k * band for band in four_bands(seed=k)]) for k in range(2)]
    paths.append(write_map(tmp_path / "c.tif", four_bands(), ["change", "lower", "upper", "sd"]))
    write_page(tmp_path / "m.html", "", [View(path.name, path) for path in paths], {}, {})
    data = data_of(tmp_path / "m.html")
    first, second, change = ([band["ramp"] for band in view["bands"]] for view in data["views"])
    assert first == second
    assert all(ours["high"] != theirs["high"] for ours, theirs in zip(first, change, strict=True))
    assert set(data["palettes"]) == {"viridis", "RdBu"}
    assert data["palettes"]["viridis"].startswith("440154") and len(data["palettes"]["viridis"]) == 6 * 256


@pytest.mark.slow
def test_a_large_map_of_noise_still_makes_a_small_page(tmp_path, monkeypatch):
    values = soc(1300, 1300, holes=0)
    path = write_map(tmp_path / "m.tif", [values, 0.7 * values], transform=from_origin(20, 42, 0.001, 0.001))
    monkeypatch.setattr(pages, "_BYTES", 1_500_000)  # of 8 MB, so that the test is quick
    write_page(tmp_path / "m.html", "", [View("", path)], {}, {})
    assert (tmp_path / "m.html").stat().st_size < 1.6e6
    view = data_of(tmp_path / "m.html")["views"][0]
    assert 400 < view["width"] < 1000
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
    places = degree_lattice(grid)
    side = places["side"]
    lattice = np.array(places["lattice"]).reshape(side, side, 3)
    random = np.random.default_rng(0)
    row, col = random.uniform(0, side - 1, (2, 500))
    i, j = np.floor(row).astype(int), np.floor(col).astype(int)
    v, u = (row - i)[:, None], (col - j)[:, None]
    upper, lower = ((1 - u) * lattice[k, j] + u * lattice[k, j + 1] for k in (i, i + 1))
    shown = (1 - v) * upper + v * lower
    shown /= np.linalg.norm(shown, axis=1, keepdims=True)
    lon, lat = (np.deg2rad(angle) for angle in lonlat(grid, row / (side - 1) * 1000, col / (side - 1) * 1000))
    true = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    assert np.max(np.linalg.norm(shown - true, axis=1)) * 6.371e6 < 0.5 * transform.a


# --- in a browser ----------------------------------------------------------------------------------------------


def three_profiles():
    """Two profiles on the map `utm`, at the middles of the cells (row, column) 10, 20 and 30, 50, and one elsewhere."""
    places = lonlat(Grid("EPSG:32634", 500_000, 4_650_000, (1000, 1000), 40, 60), np.array([10.5, 30.5]), np.array([20.5, 50.5]))
    lon, lat = (np.append(each, 0.0) for each in places)
    return Profiles(["P<1>", "P2", "far"], lon, lat, np.array([12.345678, np.nan, 3.0]), "g/kg")


def test_profiles_lie_in_their_cells_and_those_elsewhere_are_left_out(tmp_path):
    tif = write_map(tmp_path / "m.tif", four_bands(), crs="EPSG:32634", transform=from_origin(500_000, 4_650_000, 1000, 1000))
    write_page(tmp_path / "m.html", "", [View("m", tif)], {}, {}, profiles=three_profiles())
    data = data_of(tmp_path / "m.html")
    assert data["profiles"] == {"ids": ["P<1>", "P2", "far"], "values": [12.3457, None, 3.0], "unit": "g/kg"}
    assert data["views"][0]["profiles"] == [[20.5, 10.5, 0], [50.5, 30.5, 1]]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

CANVAS = "(b => [b.left, b.top, b.width, b.height])(document.getElementById('canvas').getBoundingClientRect())"


class Browser:
    """A page in headless Chromium, driven through its DevTools protocol."""

    def __init__(self, page, profile):
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        remote = ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1000,1000"]
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *remote, page]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.profile, self.count = profile, 0

    async def __aenter__(self):
        httpclient, websocket = pytest.importorskip("tornado.httpclient"), pytest.importorskip("tornado.websocket")
        while not (port := self.profile / "DevToolsActivePort").exists() or not port.read_text():
            await asyncio.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"
        targets = json.loads((await httpclient.AsyncHTTPClient().fetch(address)).body)
        where = next(each["webSocketDebuggerUrl"] for each in targets if each["type"] == "page")
        self.socket = await websocket.websocket_connect(where)
        for _ in range(200):
            if await self.value("document.documentElement.dataset.state") in ("drawn", "failed"):
                return self
            await asyncio.sleep(0.05)
        raise TimeoutError

    async def __aexit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()

    async def send(self, method, **parameters):
        self.count += 1
        await self.socket.write_message(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (reply := json.loads(await self.socket.read_message())).get("id") != self.count:
            pass
        return reply["result"]

    async def value(self, expression):
        reply = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return reply["result"].get("value")

    async def mouse(self, kind, x, y, **more):
        await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    async def place(self):
        """Return zoom (1: the whole map) and the column and row at the upper left corner."""
        found = await self.value("['zoom', 'left', 'top'].map(name => Number(document.documentElement.dataset[name]))")
        return np.array(found)

    async def reading(self):
        return " ".join((await self.value("document.getElementById('reading').textContent")).split())


def browse(page, tmp_path, act, address=""):
    """Run `act(browser)` on a page."""

    async def main():
        async with Browser(page.as_uri() + address, tmp_path / f"profile{time.monotonic_ns()}") as browser:
            return await act(browser)

    return asyncio.run(asyncio.wait_for(main(), 60))


needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"),
]


class TestBrowser:
    """What the script does."""

    pytestmark = needs_browser

    @pytest.fixture
    def utm(self, tmp_path):
        """A page of two maps of 40 x 60 cells of 1 km."""
        place = {"crs": "EPSG:32634", "transform": from_origin(500_000, 4_650_000, 1000, 1000)}
        paths = [write_map(tmp_path / f"{k}.tif", four_bands(seed=k), **place) for k in range(2)]
        write_page(tmp_path / "m.html", "Kenya", [View(path.stem, path) for path in paths], SCORES, {})
        return tmp_path / "m.html"

    @pytest.mark.usefixtures("utm")
    def test_profiles_are_shown_on_demand_and_read_under_the_pointer(self, tmp_path):
        write_page(tmp_path / "p.html", "", [View("k", tmp_path / "0.tif")], {}, {}, profiles=three_profiles())

        async def act(browser):
            label = await browser.value("document.getElementById('profiles-choice').textContent")
            box, (zoom, left, top) = await browser.value(CANVAS), await browser.place()
            cell = zoom * min(box[2] / 60, box[3] / 40)
            found = []
            for _ in range(2):
                await browser.mouse("mouseMoved", box[0] + (20.5 - left) * cell, box[1] + (10.5 - top) * cell)
                found.append(await browser.reading())
                await browser.value("document.getElementById('profiles').click()")
                await asyncio.sleep(0.3)
            return label, found

        label, (before, after) = browse(tmp_path / "p.html", tmp_path, act)
        assert label.strip() == "3 profiles (measured, g/kg)"
        assert "profile" not in before and "profile P<1>: measured 12.3 g/kg" in after

    def test_values_of_all_bands_under_the_pointer_at_any_zoom(self, utm, tmp_path):
        async def act(browser):
            box = await browser.value(CANVAS)
            x, y = box[0] + 0.7 * box[2], box[1] + 0.4 * box[3]
            assert await browser.value("document.getElementById('legend').textContent.startsWith('sd (g/kg)')")
            assert await browser.value("document.getElementById('band').options.length") == 4
            found = []
            for _ in range(3):
                await browser.mouse("mouseMoved", x, y)
                zoom, left, top = await browser.place()
                scale = zoom * min(box[2] / 60, box[3] / 40)
                found.append((zoom, left + 0.7 * box[2] / scale, top + 0.4 * box[3] / scale, await browser.reading()))
                await browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
            return found

        found = browse(utm, tmp_path, act, "#map=1&band=sd")
        assert found[0][0] == 1
        assert found[2][0] == pytest.approx(np.exp(1.2), rel=1e-3)
        grid = Grid("EPSG:32634", 500_000, 4_650_000, (1000.0, 1000.0), 40, 60)
        for _, col, row, words in found:  # the place under the pointer stays there
            assert (col, row) == pytest.approx(found[0][1:3], abs=0.05)  # aspect is 1.0007
            for name, band in zip(("prediction", "lower", "upper", "sd"), four_bands(seed=1), strict=True):
                value = float(band[int(row), int(col)])
                assert f"{name} {format_value(value)} g/kg" in words or np.isnan(value)
            lon, lat = lonlat(grid, np.array([row]), np.array([col]))
            shown = [float(each) for each in re.findall(r"([\d.]+)° [NE]", words)]
            assert shown == pytest.approx([lat[0], lon[0]], abs=0.006)

    def test_dragging_pans_by_as_much_and_the_keyboard_too(self, utm, tmp_path):
        async def act(browser):
            box = await browser.value(CANVAS)
            x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
            await browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
            before = await browser.place()
            await browser.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
            await browser.mouse("mouseMoved", x - 60, y + 30, button="left", buttons=1)
            await browser.mouse("mouseReleased", x - 60, y + 30, button="left", clickCount=1)
            after = await browser.place()
            scale = before[0] * min(box[2] / 60, box[3] / 40)
            assert (after[1:] - before[1:]) * scale == pytest.approx([60, -30], abs=0.5)
            await browser.value("document.getElementById('canvas').focus()")
            for key in ("ArrowRight", "0"):
                await browser.send("Input.dispatchKeyEvent", type="keyDown", key=key)
                before, after = after, await browser.place()
            assert before[1] > 0
            assert after[0] == 1
            await browser.value("document.getElementById('in').click()")
            return await browser.place()

        assert browse(utm, tmp_path, act)[0] == pytest.approx(1.5)

    def test_texts_of_files_stay_texts(self, hostile, tmp_path):
        async def act(browser):
            return [await browser.value(each) for each in ("document.title", "document.scripts.length", "document.images.length")]

        assert browse(hostile, tmp_path, act) == [HOSTILE, 2, 0]

    def test_a_page_that_cannot_draw_says_so(self, utm, tmp_path):
        utm.write_text(re.sub(r'"codes": ?"[^"]{8}', '"codes":"AAAAAAAA', utm.read_text()))

        async def act(browser):
            return await browser.value("document.getElementById('trouble').textContent")

        assert "cannot be shown" in browse(utm, tmp_path, act)
