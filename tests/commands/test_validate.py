"""Maps against points and products of known truth: scores do not depend on units, grids, gaps and extents."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.transform import Affine

from soilcarbon.commands import validate
from soilcarbon.commands.validate import ValidateSettings
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError, run
from soilcarbon.mapping import common_grid
from soilcarbon.mapping.carbon_map import CarbonMap
from soilcarbon.mapping.common_grid import Cells, on_common_grid
from soilcarbon.settings import build

pytestmark = pytest.mark.usefixtures("light_maps")

HEIGHT, WIDTH, CELL, WEST, NORTH = 40, 50, 0.1, 100.0, 40.0


def smooth(lon, lat):
    """Return kg/m2 that are linear in degrees: a mean over a cell is the value at its middle."""
    return 8 + 0.5 * (lon - WEST) + 0.7 * (lat - NORTH + 4)


def centres(height=HEIGHT, width=WIDTH, cell=CELL, west=WEST, north=NORTH):
    return np.meshgrid(west + cell * (np.arange(width) + 0.5), north - cell * (np.arange(height) + 0.5))


def write(path, values, cell=CELL, west=WEST, north=NORTH, crs="EPSG:4326", unit="kg/m2", name="socd"):
    write_geotiff(Path(path), values[None], [name], Affine(cell, 0, west, 0, -cell, north), crs, None if unit is None else [unit])


@pytest.fixture
def ours(workplace):
    random = np.random.default_rng(0)
    values = smooth(*centres()) + random.normal(0, 0.5, (HEIGHT, WIDTH))
    write("ours.tif", values)
    return values.astype(np.float32).astype(np.float64)


def validated(*products, maps=("ours=ours.tif",), more=()):
    command = ["--maps", *maps, *(["--products", *products] if products else []), "--out", "out", *more]
    assert run(lambda: validate.main(command)) == 0
    return pd.read_csv("out/product_scores.csv").set_index("reference") if products else None


def refused(capsys, *arguments):
    assert run(lambda: validate.main([*arguments])) == 2
    return capsys.readouterr().err


# --- other products -------------------------------------------------------------------------------------------------------


def test_offset_and_scaled_products(ours):
    write("more.tif", ours + 1.5)
    write("tonnes.tif", ours * 10, unit=None)
    write("tenths.tif", np.round(ours * 100), unit=None)
    scores = validated("same=ours.tif", "more.tif", "tonnes=tonnes.tif,unit=t/ha", "tenths=tenths.tif,unit=t/ha,factor=0.1")
    same, more = scores.loc["same"], scores.loc["more"]
    assert (same["r2"], same["rmse"], same["me"], same["ccc"], same["n"]) == (1, 0, 0, 1, HEIGHT * WIDTH)
    assert (more["me"], more["rmse"]) == pytest.approx((-1.5, 1.5), abs=1e-5)
    variance = ours.var()
    assert more["ccc"] == pytest.approx(2 * variance / (2 * variance + 1.5**2), rel=1e-4)
    assert more["r2"] == pytest.approx(1 - 1.5**2 / variance, rel=1e-4)
    assert scores.loc["tonnes", "rmse"] < 1e-5
    assert scores.loc["tenths", "rmse"] < 0.005
    km2 = np.broadcast_to(
        cell_areas(Grid("EPSG:4326", WEST, NORTH, (CELL, CELL), HEIGHT, WIDTH), Tile(0, 0, 0, HEIGHT, WIDTH)), ours.shape
    )
    assert same["total_unit"] == "Pg"
    assert same["total_map"] == pytest.approx((ours * km2).sum() / 1e6, rel=1e-6)  # kg/m2 km2 is kt
    assert "total (Pg)" in Path("out/report.html").read_text(encoding="utf-8")
    assert more["mean_reference"] - more["mean_map"] == pytest.approx(1.5, abs=1e-4)
    with rasterio.open("out/difference-ours-more.tif") as raster:
        assert raster.descriptions == ("difference", "map: ours", "product: more")
        np.testing.assert_allclose(raster.read(1), -1.5, atol=1e-5)
    assert len(list(Path("out").glob("*.png"))) == 8


def test_scale_offset_and_nodata_of_the_file_are_believed(ours):
    profile = {
        "driver": "GTiff",
        "dtype": "int16",
        "count": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "crs": "EPSG:4326",
        "nodata": -32768,
    }
    stored = np.round((ours - 2) * 1000).astype(np.int16)
    stored[:10, :10] = -32768
    with rasterio.open("packed.tif", "w", transform=Affine(CELL, 0, WEST, 0, -CELL, NORTH), **profile) as raster:
        raster.write(stored, 1)
        raster.scales, raster.offsets = (0.001,), (2.0,)
    found = validated("packed=packed.tif,unit=kg/m2").loc["packed"]
    assert found["rmse"] < 0.001
    assert found["n"] == HEIGHT * WIDTH - 100


def test_undeclared_nodata_is_an_error_that_says_what_to_do(ours, capsys):
    values = ours.copy()
    values[5:9] = -32768
    write("holed.tif", values)
    assert "nodata" in refused(capsys, "--maps", "ours.tif", "--products", "holed.tif")
    found = validated("holed=holed.tif,nodata=-32768").loc["holed"]
    assert (found["n"], found["rmse"]) == ((HEIGHT - 4) * WIDTH, 0)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_coarser_product_is_met_on_its_own_grid_by_area_weighted_means(ours, swapped):
    grid = Grid("EPSG:4326", WEST, NORTH, (CELL, CELL), HEIGHT, WIDTH)
    km2 = np.broadcast_to(cell_areas(grid, Tile(0, 0, 0, HEIGHT, WIDTH)), ours.shape)
    blocks = [(each).reshape(8, 5, 10, 5).sum((1, 3)) for each in (ours * km2, km2)]
    write("coarse.tif", blocks[0] / blocks[1], cell=0.5)
    with Cells(CarbonMap(name="a", path="ours.tif")) as first, Cells(CarbonMap(name="b", path="coarse.tif")) as second:
        shared = on_common_grid(*((second, first) if swapped else (first, second)), 0.5)
    assert (shared.grid.height, shared.grid.width) == (8, 10)
    np.testing.assert_allclose(shared.first, shared.second, rtol=1e-6)
    fine = shared.second if swapped else shared.first
    assert (fine * shared.km2).sum() == pytest.approx((ours * km2).sum(), rel=1e-6)  # nothing is lost


@pytest.mark.parametrize(
    ("cell", "west", "north"), [(0.25, 100.0, 40.0), (0.17, 100.03, 39.96), (0.31, 100.111, 39.777), (0.1, 100.05, 39.93)]
)
@pytest.mark.parametrize(("turn", "tile", "across"), [(0, 512, 64), (-360, 16, 64), (0, 12, 4)])
def test_means_over_cells_that_share_no_edges_are_those_of_exact_areas(
    workplace, monkeypatch, cell, west, north, turn, tile, across
):
    monkeypatch.setattr(common_grid, "_TILE", tile)
    monkeypatch.setattr(common_grid, "_MOST_ACROSS", across)
    values = np.random.default_rng(0).normal(8, 2, (HEIGHT, WIDTH)).astype(np.float32).astype(np.float64)
    write("fine.tif", values, west=WEST + turn)
    height, width = int((north - 36) / cell), int((105 - west) / cell)
    write("coarse.tif", np.ones((height, width)), cell, west, north)

    def shares(start, size, count, whole):
        """Of each fine cell (whole,) in each coarse one (count,): its overlap, in fine cells."""
        low = (start + size * np.arange(count))[:, None]
        return np.clip(np.minimum(low + size, np.arange(1, whole + 1)) - np.maximum(low, np.arange(whole)), 0, None)

    rows, cols = (
        shares(start / CELL, cell / CELL, count, whole)
        for start, count, whole in ((NORTH - north, height, HEIGHT), (west - WEST, width, WIDTH))
    )
    area = cell_areas(Grid("EPSG:4326", WEST, NORTH, (CELL, CELL), HEIGHT, WIDTH), Tile(0, 0, 0, HEIGHT, WIDTH))
    exact = rows @ (values * area) @ cols.T / (rows @ np.broadcast_to(area, values.shape) @ cols.T)
    with Cells(CarbonMap(name="a", path="fine.tif")) as first, Cells(CarbonMap(name="b", path="coarse.tif")) as second:
        found = on_common_grid(second, first, 0.5).second
    np.testing.assert_allclose(found, exact, rtol=1e-5 if across == 64 else 0.05)  # blocks are cut by coarse edges


def test_half_of_a_cell_must_have_values(workplace):
    values = np.full((10, 10), 3.0)
    values[:, :4] = np.nan
    write("fine.tif", values)
    write("coarse.tif", np.full((1, 2), 3.0), cell=0.5)  # of its upper half only
    with Cells(CarbonMap(name="a", path="fine.tif")) as first, Cells(CarbonMap(name="b", path="coarse.tif")) as second:
        assert np.isfinite(on_common_grid(first, second, 0.2).first).tolist() == [[True, True]]
        assert np.isfinite(on_common_grid(first, second, 0.5).first).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("crs", "metres"),
    [("EPSG:3857", 30_000.0), ("EPSG:6933", 4_000.0), ("EPSG:32648", 11_000.0), ("+proj=igh +datum=WGS84", 250 * 9.0)],
)
def test_another_projection(workplace, crs, metres):
    """Of a field that is linear in degrees, whichever of the two is coarser."""
    write("ours.tif", smooth(*centres()))
    x, y = transformed("EPSG:4326", crs, *(np.array(each) for each in ((100.5, 104.5), (39.5, 36.5))))
    width, height = int((x[1] - x[0]) / metres), int((y[0] - y[1]) / metres)
    lon, lat = transformed(crs, "EPSG:4326", *centres(height, width, metres, x[0], y[0]))
    write("other.tif", smooth(lon, lat), metres, x[0], y[0], crs)
    found = validated("other.tif").loc["other"]
    assert found["rmse"] < 0.02
    assert found["r2"] > 0.999
    assert found["n"] > 50


def test_other_extents_are_compared_where_they_meet(ours):
    write("west.tif", ours[:, :20])
    shifted = np.full((30, 30), 5.0)
    write("shifted.tif", shifted, west=WEST + 4, north=NORTH + 1)  # ten columns and twenty rows in common
    write("turned.tif", ours, west=WEST - 360)
    scores = validated("west.tif", "shifted.tif", "turned.tif")
    assert (scores.loc["west", "n"], scores.loc["west", "rmse"]) == (HEIGHT * 20, 0)
    assert scores.loc["shifted", "n"] == 200
    assert scores.loc["shifted", "mean_reference"] == pytest.approx(5)
    assert (scores.loc["turned", "n"], scores.loc["turned", "rmse"]) == (HEIGHT * WIDTH, pytest.approx(0, abs=1e-9))


def test_depths_that_differ_are_reported(ours, caplog):
    validated("a=ours.tif,depth=0-30cm", maps=["ours=ours.tif,depth=0-20cm"])
    assert "part of the bias is the difference in depth" in caplog.text
    assert "part of the bias is the difference in depth" in Path("out/report.html").read_text()


def test_maps_made_here_say_their_depth_and_years(ours, caplog):
    write("mine.tif", ours)
    with rasterio.open("mine.tif", "r+") as raster:
        raster.update_tags(DEPTH="0-20 cm", YEARS="2010-2014")
    row = validated("other=ours.tif,depth=0-20cm", maps=["mine=mine.tif"]).loc["other"]
    assert (row["depth_map"], row["years_map"], row["depth_reference"]) == ("0-20cm", "2010-2014", "0-20cm")
    assert "mine: 0-20cm, 2010-2014; other: 0-20cm" in Path("out/report.html").read_text()
    assert "depth" not in caplog.text.replace("depth=", "")


def test_maps_of_medians_are_told(ours, caplog):
    write("mine.tif", ours)
    with rasterio.open("mine.tif", "r+") as raster:
        raster.update_tags(1, MEANING="SOC density, 0-20 cm, median (one network); totals are of means")
    told = "mine is of medians: its mean and total are lower than those of means"
    for maps in (["mine=mine.tif"], ["ours=ours.tif"]):
        caplog.clear()
        validated("other=ours.tif", maps=maps)
        assert (told in caplog.text) == (told in Path("out/report.html").read_text()) == (maps == ["mine=mine.tif"])


def test_a_map_of_many_bands_gives_its_prediction(ours):
    bands = np.stack([ours, ours - 1, ours + 1])
    write_geotiff(
        Path("bands.tif"), bands, ["prediction", "lower", "upper"], Affine(CELL, 0, WEST, 0, -CELL, NORTH), units=["kg/m2"] * 3
    )
    assert validated("ours.tif", maps=["bands=bands.tif"]).loc["ours", "rmse"] == 0
    assert validated("ours.tif", maps=["bands=bands.tif,variable=upper"]).loc["ours", "me"] == pytest.approx(1)


# --- points ----------------------------------------------------------------------------------------------------------------


def write_points(values, unit=1.0, n=300, seed=1):
    random = np.random.default_rng(seed)
    row, col = random.integers(0, HEIGHT, n), random.integers(0, WIDTH, n)
    lon, lat = WEST + CELL * (col + random.random(n)), NORTH - CELL * (row + random.random(n))
    observed = values[row, col] + random.normal(0, 0.6, n)
    pd.DataFrame({"profile_id": range(n), "lon": lon, "lat": lat, "socd_0_20": observed * unit}).to_csv("points.csv", index=False)
    return values[row, col], observed


def test_points_score_every_map_where_all_have_values(ours):
    holed = ours + 0.4
    holed[:, :5] = np.nan
    write("holed.tif", holed)
    predicted, observed = write_points(ours, unit=10.0)
    validated("holed.tif", more=["--points", "points.csv", "--value", "socd_0_20", "--unit", "t/ha"])
    scores, points = pd.read_csv("out/point_scores.csv").set_index("map"), pd.read_csv("out/points.csv")
    kept = points["profile_id"].to_numpy()
    assert 200 < len(kept) < 300
    error = (predicted - observed)[kept]
    assert scores.loc["ours", "n"] == len(kept)
    assert scores.loc["ours", "rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert scores.loc["ours", "me"] == pytest.approx(error.mean(), rel=1e-4)
    assert scores.loc["holed", "me"] == pytest.approx(error.mean() + 0.4, rel=1e-4)
    assert scores.loc["ours", "rmse_low"] < scores.loc["ours", "rmse"] < scores.loc["ours", "rmse_high"]
    assert "coverage" not in scores
    assert Path("out/residuals-ours.png").is_file()


def test_suspicious_units_are_reported(ours, caplog):
    write_points(ours)
    validated(more=["--points", "points.csv", "--value", "socd_0_20"])
    assert "units" not in caplog.text
    table = pd.read_csv("points.csv")
    table.assign(socd_0_20=10 * table["socd_0_20"]).to_csv("points.csv", index=False)
    validated(more=["--points", "points.csv", "--value", "socd_0_20"])
    assert "are the units right" in caplog.text


@pytest.mark.parametrize(
    ("columns", "depth", "said"),
    [
        ({"upper_depth": 0, "lower_depth": 10}, "0-30cm", True),
        ({"depth": "0-10 cm"}, "0-30 cm", True),
        ({}, "0-30cm", True),  # as the column's name says
        ({}, "0-20", False),
        ({"upper_depth": 0, "lower_depth": 30}, "0-30cm", False),
        ({"upper_depth": 0, "lower_depth": 30}, "", False),
    ],
)
def test_points_of_another_depth_are_told(ours, columns, depth, said, caplog):
    write_points(ours)
    pd.read_csv("points.csv").assign(**columns).to_csv("points.csv", index=False)
    validated(maps=[f"ours=ours.tif,depth={depth}"], more=["--points", "points.csv", "--value", "socd_0_20"])
    assert ("part of the bias is the difference in depth" in caplog.text) == said


def test_points_of_organic_matter_become_carbon_by_a_factor(ours, capsys):
    write("content.tif", 3 * ours, unit="g/kg", name="soc")
    write_points(ours)
    table = pd.read_csv("points.csv").assign(soc_gkg=lambda t: 3 * t["socd_0_20"], som_gkg=lambda t: 3 * t["socd_0_20"] / 0.58)
    table.assign(humus_pct=table["som_gkg"] / 10).to_csv("points.csv", index=False)
    given = ["--maps", "content.tif", "--points", "points.csv", "--out", "out", "--value"]
    found = []
    for more in (["soc_gkg"], ["som_gkg", "--soc_factor", "0.58"], ["humus_pct", "--soc_factor", "0.58", "--unit", "%"]):
        assert run(lambda more=more: validate.main([*given, *more])) == 0
        found.append(pd.read_csv("out/point_scores.csv")[["rmse", "me", "ccc"]].iloc[0].tolist())
    assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])
    assert "--soc_factor 0.58 takes 58 % of it" in refused(capsys, *given, "som_gkg")
    assert "in per cent or in g/kg? --unit %" in refused(capsys, *given, "humus_pct", "--soc_factor", "0.58")


def test_coverage_of_a_maps_intervals_at_points(ours):
    bands = np.stack([ours, ours - 0.6 * 1.645, ours + 0.6 * 1.645])
    write_geotiff(
        Path("bands.tif"), bands, ["prediction", "lower", "upper"], Affine(CELL, 0, WEST, 0, -CELL, NORTH), units=["kg/m2"] * 3
    )
    write_points(ours)
    validated(maps=["bands.tif"], more=["--points", "points.csv", "--value", "socd_0_20"])
    row = pd.read_csv("out/point_scores.csv").iloc[0]
    assert row["coverage"] == pytest.approx(0.9, abs=0.05)
    assert row["coverage_low"] <= row["coverage"] <= row["coverage_high"]


# --- the page --------------------------------------------------------------------------------------------------------------


def test_names_are_escaped_and_files_are_named_safely(ours):
    settings = {
        "maps": [{"name": "<b>&../x", "path": "ours.tif"}],
        "products": [{"name": "p, q", "path": "ours.tif"}],
        "out": "out",
    }
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    assert run(lambda: validate.main(["--config", "c.yaml"])) == 0
    page = Path("out/report.html").read_text()
    assert "&lt;b&gt;&amp;../x" in page
    assert "<b>&" not in page
    assert not re.search(r"<(script|iframe|link)\b", page)
    assert sorted(path.name for path in Path("out").glob("*.tif")) == ["difference-_b_&.._x-p, q-8aebb4.tif"]


def test_names_are_no_formulas(ours):
    write_points(ours)
    validated("$x^$=ours.tif", maps=[r"$\frac{a}$=ours.tif"], more=["--points", "points.csv", "--value", "socd_0_20"])


def test_settings_of_a_product():
    found = build(ValidateSettings, {"maps": ["data/a.tif,unit=t/ha,factor=0.1,nodata=-1,depth=0-30 cm"], "points": "p.csv"}).maps[
        0
    ]
    assert found == CarbonMap(name="a", path="data/a.tif", unit="t/ha", factor=0.1, nodata=-1, depth="0-30 cm")
    with pytest.raises(UserError, match="colour"):
        build(ValidateSettings, {"maps": ["a.tif,colour=red"], "points": "p.csv"})


def test_tables_of_points_are_read_as_everywhere(ours, capsys):
    write_points(ours)
    validated(more=["--points", "points.csv", "--value", "socd_0_20"])
    expected, table = pd.read_csv("out/point_scores.csv"), pd.read_csv("points.csv")
    other = table.rename(columns={"profile_id": "plot", "lon": "o", "lat": "y"}).assign(
        o=(table["lon"] % 360).astype(str).str.replace(".", ",")
    )
    other.assign(socd_0_20=table["socd_0_20"].astype(str).str.replace(".", ",")).to_csv(
        "points.csv", index=False, sep=";", encoding="utf-16"
    )
    validated(more=["--points", "points.csv", "--value", "socd_0_20", "--columns", "lon=o"])
    pd.testing.assert_frame_equal(pd.read_csv("out/point_scores.csv"), expected)


# --- bad input -------------------------------------------------------------------------------------------------------------

SOME = "--points points.csv --value socd_0_20"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--products away.tif", "ours (ours.tif) and away (away.tif) share no ground"),
        ("--products empty.tif", "no cell in which both"),
        ("--products content.tif", "is not a density"),
        ("--products bare.tif", "does not state its unit"),
        ("--products bare.tif,unit=stones", "stones"),
        ("--products negative=ours.tif,factor=-1", "factor"),
        ("--products none.tif", "none.tif"),
        ("--products a=ours.tif,colour=red", "colour=red"),
        ("--products a=ours.tif,factor=x", "factor"),
        ("--products p=ours.tif,factor=1.7e308", "above 2000"),  # no gap
        ("--products ours=content.tif", "called 'ours'"),
        ("--products Ours=ours.tif", "same files"),
        ("--products a=ours.tif --out .", "overwritten"),
        ("", "nothing to compare maps with"),
        (f"--maps observed=ours.tif {SOME}", "a column of the points"),
        (f"--maps lon=ours.tif {SOME}", "a column of the points"),
        (f"--maps a\x07=ours.tif {SOME}", "cannot be printed"),
        (f"--maps a=ours.tif,factor=0 {SOME}", "greater than 0"),
        ("--points points.csv --value soc", "name one by --value"),
        ("--points points.csv --value w", "'w'"),
        (f"{SOME} --unit g/kg", "not a density"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, capsys, arguments, words):
    write("away.tif", ours, west=10.0)
    write("empty.tif", np.full_like(ours, np.nan))
    write("content.tif", ours, unit="g/kg")
    write("bare.tif", ours, unit=None)
    write_points(ours)
    error = refused(capsys, "--maps", "ours=ours.tif", "--out", "out", *arguments.split(" ") if arguments else ())
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lon": 10.0}, "0 of 300 points"),
        ({"socd_0_20": ["<1", *["2.5"] * 299]}, "1 values are below a limit of detection (first '<1')"),
        ({"profile_id": "a", "depth": "0-10"}, "rows repeat ids, first 'a'"),
    ],
)
def test_unclear_tables_of_points_are_refused(ours, capsys, change, words):
    write_points(ours)
    pd.read_csv("points.csv").assign(**change).to_csv("points.csv", index=False)
    assert words in refused(capsys, "--maps", "ours.tif", *SOME.split(), "--out", "out")
