"""Maps: equal to pred.py, independent of the tiles, resumable to the byte; invalid input is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from map_world import (
    CATEGORIES,
    CELL,
    HEIGHT,
    NORTH,
    VARIABLES,
    WEST,
    WIDTH,
    calibration,
    covariates,
    interrupt_after,
    make,
    make_checkpoint,
    make_world,
    read,
    refused,
    write_boxes,
    write_rasters,
)
from rasterio.transform import Affine

import pred
from soilcarbon.commands import map as make_map
from soilcarbon.commands import prepare
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run
from soilcarbon.io.manifest import MANIFEST
from soilcarbon.mapping import outputs as mapfiles
from soilcarbon.mapping import tiles as mapping
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.specification import unfold_classes
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField

pytestmark = pytest.mark.usefixtures("light_maps")


@pytest.fixture
def world(workplace):
    return make_world(workplace)


@pytest.fixture
def plain(workplace):
    """The same with a network of one member, whose maps take half the time."""
    return make_world(workplace, members=1)


# --- what a map is -------------------------------------------------------------------------------------------------------


def test_golden_map(world):
    assert make("--workers", "1") == 0
    assert make("--workers", "1", "--crs", "EPSG:3035", "--resolution", "50000", out="out/warped.tif") == 0
    golden = json.loads((Path(__file__).parent / "golden_map.json").read_text())
    for name, found in (("own grid", read()[0][5::12, 7::17]), ("EPSG:3035", read("out/warped.tif")[0][1::4, 1::4])):
        expected = np.array(golden[name], float)
        np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=name)


def predict_places(*more):
    """Let pred.py predict 200 places on the rasters; return its table, and the rows and columns of the map they lie in."""
    random = np.random.default_rng(3)
    lon, lat = random.uniform(WEST, WEST + WIDTH * CELL, 200), random.uniform(NORTH - HEIGHT * CELL, NORTH, 200)
    pd.DataFrame({"profile_id": range(200), "lon": lon, "lat": lat}).to_csv("places.csv", index=False)
    Path("c.yaml").write_text(yaml.safe_dump({"categories": [category.model_dump(mode="json") for category in CATEGORIES]}))
    places = ["--points", "places.csv", "--rasters", "rasters", "--out", "data", "--predict_only", "--config", "c.yaml"]
    assert run(lambda: prepare.main(places)) == 0
    assert run(lambda: pred.main(["--checkpoint", "model/m.pth", "--data_dir", "data", "--on", "all", *more])) == 0
    table = pd.read_csv(next(Path("results/m").glob("predictions_all*.csv")))
    return table, ((NORTH - table["lat"]) / CELL).astype(int), ((table["lon"] - WEST) / CELL).astype(int)


def descriptions(path="out/soc.tif"):
    with rasterio.open(path) as raster:
        return raster.descriptions


def test_map_equals_pred_at_profiles(world):
    table, rows, cols = predict_places()
    assert make() == 0
    bands = read()[:, rows, cols]
    known = np.isfinite(bands[0])
    assert 150 < known.sum() < len(table)
    np.testing.assert_allclose(bands[0][known], table["predicted"][known], rtol=1e-4)
    np.testing.assert_allclose(bands[3][known], table["sd"][known], rtol=1e-3, atol=1e-4)
    members = table[["member_0", "member_1", "member_2"]].to_numpy()[known]
    np.testing.assert_allclose(bands[1][known], np.quantile(members, 0.05, axis=1), rtol=1e-4)
    np.testing.assert_allclose(bands[2][known], np.quantile(members, 0.95, axis=1), rtol=1e-4)


@pytest.mark.usefixtures("whole_maps")
@pytest.mark.parametrize(("members", "level"), [(1, "0.5"), (3, "0.8")])
def test_calibrated_intervals_are_those_of_pred_at_profiles(world, members, level):
    make_checkpoint(Path("model/m.pth"), members, calibration=calibration(), center="median", smearing=(1.3,) * members)
    table, rows, cols = predict_places("--level", level)
    assert make("--level", level, "--tile", "32") == 0
    names = descriptions()
    assert names == ("prediction", "lower", "upper", "sd")[: 4 if members > 1 else 3]
    assert ("sd" in table, {"lower", "upper"} <= set(table)) == (members > 1, True)
    bands = read()[:, rows, cols]
    known = np.isfinite(bands[0])
    assert known.sum() > 150
    for name, band in zip(names, bands, strict=True):
        column = "predicted" if name == "prediction" else name
        np.testing.assert_allclose(band[known], table[column][known], rtol=1e-3 if name == "sd" else 1e-4, atol=1e-4)
    assert (bands[1] < bands[0])[known].all()
    assert (bands[0] < bands[2])[known].all()
    with rasterio.open("out/soc.tif") as raster:
        assert f"lower end of the {float(level):.0%} interval, calibrated" in raster.tags(2)["MEANING"]
        assert "median" in raster.tags(1)["MEANING"]
    page = Path("out/soc.html").read_text()
    assert f"upper end of the {float(level):.0%} interval" in page


def test_a_higher_level_is_wider_and_another_map(plain, monkeypatch, capsys):
    make_checkpoint(Path("model/m.pth"), members=1, calibration=calibration())
    width = {}
    for level in ("0.5", "0.9"):
        assert make("--level", level) == 0
        bands = read()
        width[level] = (bands[2] - bands[1])[np.isfinite(bands[0])]
    assert (width["0.5"] < width["0.9"]).all()
    shutil.rmtree("out")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        make("--tile", "16")
    capsys.readouterr()
    assert make("--tile", "16", "--level", "0.8", "--resume") == 2
    refused(capsys, "level")


@pytest.mark.usefixtures("whole_maps")
def test_totals_are_of_means_though_the_map_shows_medians(world):
    facts = {"smearing": (1.5, 1.2, 1.1), "calibration": calibration()}
    tables, bands = {}, {}
    for center in ("mean", "median"):
        make_checkpoint(Path("model/m.pth"), center=center, **facts)
        assert make("--tile", "32") == 0
        tables[center], bands[center] = pd.read_csv("out/soc_totals.csv"), read()
        assert ("totals are of means" in Path("out/soc.html").read_text()) is (center == "median")
    numbers = ["cells", "area_km2", "mean", "mean_lower", "mean_upper", "total", "total_lower", "total_upper"]
    np.testing.assert_allclose(tables["median"][numbers], tables["mean"][numbers], rtol=1e-5)
    known = np.isfinite(bands["mean"][0])
    ratio = (bands["mean"][0] + 1)[known] / (bands["median"][0] + 1)[known]
    assert ratio.min() >= 1.1
    assert 1.2 < ratio.mean() < 1.35
    assert ratio.max() <= 1.5
    assert tables["mean"]["mean"][0] > 1.1 * np.nanmean(bands["median"][0])


def test_a_change_has_the_members_quantiles_and_its_total_is_that_of_means(world):
    layers = covariates()
    for year in (2000, 2010):
        write_rasters(Path(str(year)), {"bio01": layers["bio01"] + np.float32(0.4 * (year - 2000))})
    make_checkpoint(Path("model/m.pth"), center="median", smearing=(1.5, 1.2, 1.1), calibration=calibration())
    assert make("--periods", "a=2000", "b=2010", "--tile", "32") == 0
    assert descriptions("out/soc_a.tif") == descriptions("out/soc_b.tif") == ("prediction", "lower", "upper", "sd")
    assert descriptions("out/soc_change.tif") == ("change", "lower", "upper", "sd")
    with rasterio.open("out/soc_change.tif") as raster:
        assert "5% quantile over 3 networks" in raster.tags(2)["MEANING"]
    with rasterio.open("out/soc_a.tif") as raster:
        assert "90% interval" in raster.tags(2)["MEANING"]
    change, first, last = (read(f"out/soc_{name}.tif") for name in ("change", "a", "b"))
    np.testing.assert_allclose(change[0], last[0] - first[0], atol=1e-3)
    known = np.isfinite(change[0])
    assert ((change[2] - change[1]) < (first[2] - first[1]))[known].mean() > 0.9  # the intervals are the members', not the errors'
    means = pd.read_csv("out/soc_totals.csv").set_index("map")["mean"]
    assert means["change"] == pytest.approx(means["b"] - means["a"], rel=1e-4)
    assert means["a"] > 1.1 * np.nanmean(first[0])


def test_tiles_leave_no_seam(plain):
    assert make(out="out/whole.tif") == 0
    for side in (16, 33):
        assert make("--tile", str(side), out="out/tiles.tif") == 0
        np.testing.assert_allclose(read("out/tiles.tif"), read("out/whole.tif"), rtol=1e-4, atol=1e-4)


def test_cells_that_lack_too_much_are_nodata_and_the_others_filled(plain):
    assert make() == 0
    known = np.isfinite(read()[0])
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[20:30, 40:60] = False
    np.testing.assert_array_equal(known, expected)
    assert make("--max_missing", "0.1") == 0
    expected[50:60, 10:30] = False
    np.testing.assert_array_equal(np.isfinite(read()[0]), expected)
    assert make("--max_missing", "0.5") == 0  # three of six are missing in the hole: just allowed
    assert np.isfinite(read()[0]).all()


def test_antimeridian_is_no_edge(workplace):
    layers = covariates(40, 72)
    make_checkpoint(Path("model/m.pth"), members=1)
    write_rasters(Path("rasters"), layers, -180, 90, 5.0)
    turned = {name: np.roll(values, 36, axis=1) for name, values in layers.items()}
    write_rasters(Path("turned"), turned, 0, 90, 5.0)
    assert make("--tile", "16") == 0
    assert make("--tile", "20", rasters="turned", out="out/turned.tif") == 0
    np.testing.assert_allclose(np.roll(read(), 36, axis=2), read("out/turned.tif"), rtol=1e-4, atol=1e-4)


def test_rasters_of_other_grids_meet_on_the_map(plain):
    layers = covariates()
    coarse = layers["bio01"][: HEIGHT // 2 * 2].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
    layers["bio12"][:] = 700  # of one value: whatever the resampling
    shutil.rmtree("rasters")
    write_rasters(Path("rasters"), {name: values for name, values in layers.items() if name not in ("bio01", "bio12")})
    write_geotiff(Path("rasters/bio01.tif"), coarse[None], ["bio01"], Affine(0.2, 0, WEST, 0, -0.2, NORTH))
    utm = Affine(5000, 0, -100_000, 0, -5000, 5_700_000)
    write_geotiff(Path("rasters/bio12.tif"), np.full((1, 300, 300), 700.0), ["bio12"], utm, "EPSG:32633")
    assert make("--resampling", "nearest", "--like", "rasters/relief.tif") == 0
    twice = {**layers, "bio01": np.kron(coarse, np.ones((2, 2)))}
    write_rasters(Path("same"), twice)
    assert make(rasters="same", out="out/same.tif") == 0
    np.testing.assert_allclose(read(), read("out/same.tif"), rtol=1e-4, atol=1e-4)


def test_own_crs_resolution_and_bounds(plain):
    assert make("--crs", "EPSG:3035", "--resolution", "20000", "--bounds", "4.4e6", "4.8e6", "2.55e6", "2.65e6") == 0
    with rasterio.open("out/soc.tif") as raster:
        assert (raster.crs.to_epsg(), raster.res, raster.shape) == (3035, (20000, 20000), (5, 20))
        assert tuple(raster.bounds) == (4.4e6, 2.55e6, 4.8e6, 2.65e6)
        assert np.isfinite(raster.read(1, masked=True).filled(np.nan)).mean() > 0.9


def test_file_is_a_cog_with_metadata(world):
    assert make() == 0
    with rasterio.open("out/soc.tif") as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (raster.nodata, raster.descriptions) == (-9999, ("prediction", "lower", "upper", "sd"))
        assert raster.units == ("g/kg",) * 4
        assert "5%" in raster.tags(2)["MEANING"]
        assert raster.tags()["CHECKPOINT_SHA256"] == mapping.sha256(Path("model/m.pth"))
        assert str(Path.cwd()) not in json.dumps(raster.tags())
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="pip install rio-cogeo")
    assert rio_cogeo.cog_validate("out/soc.tif", strict=True) == (True, [], [])


def test_area_of_applicability_is_mapped(plain):
    layers = covariates()
    network = load_checkpoint("model/m.pth")
    cells = np.stack([layers[name] for name in VARIABLES])
    training = cells[:, 5:60:7, 5:35:7].reshape(len(VARIABLES), -1).T
    weights = np.array([3, 1, 1, 0, 1, 2, 2, 2])
    network.applicability = ApplicabilityArea.fit(unfold_classes(training, network.specification), weights)
    save_checkpoint(network, Path("model/m.pth"))
    assert make("--tile", "32") == 0
    with rasterio.open("out/soc.tif") as raster:
        assert raster.descriptions == ("prediction", "di", "inside")
    bands = read()
    known = np.isfinite(bands[0])
    index = network.applicability.index(unfold_classes(cells[:, known].T, network.specification))
    np.testing.assert_allclose(bands[1][known], index, rtol=1e-4, atol=1e-6)
    code_known = np.isin(cells[VARIABLES.index("bedrock")], (1, 2, 3))
    lacking = known & np.isnan(bands[1])  # as in CAST, which assesses no cell that lacks a predictor, or has an unknown class
    assert lacking[known & ~code_known].all()
    assert not lacking[code_known & ~np.isnan(cells).any(0)].any()
    assert np.isnan(bands[2, lacking]).all()
    known &= ~lacking
    np.testing.assert_array_equal(bands[2][known], bands[1][known] <= np.float32(network.applicability.threshold))
    assert 0.05 < bands[2][known].mean() < 0.999
    for year in (2000, 2010):
        write_rasters(Path(str(year)), {"bio01": layers["bio01"] + np.float32(year - 2000)})
    assert make("--periods", "a=2000", "b=2010") == 0
    np.testing.assert_allclose(read("out/soc_a.tif"), bands, rtol=1e-4, atol=1e-4)
    assert len(read("out/soc_change.tif")) == 1
    assert make("--inside_only") == 0
    row = pd.read_csv("out/soc_totals.csv").iloc[0]
    inside = bands[2] == 1
    weight = np.cos(np.radians(NORTH - CELL * (np.arange(HEIGHT) + 0.5)))[:, None] * inside
    assert row["cells"] == inside.sum() < known.sum()
    assert row["map_mean"] == pytest.approx(np.nansum(bands[0] * weight) / weight.sum(), rel=1e-3)
    left_out = int((np.isfinite(bands[0]) & ~inside).sum())
    assert f"{left_out:,} of {np.isfinite(bands[0]).sum():,} cells" in Path("out/soc.yaml").read_text()
    assert make("--no-applicability") == 0
    np.testing.assert_allclose(read(), bands[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_large_map_has_overviews(workplace):
    make_checkpoint(Path("model/m.pth"), members=1, categories=CATEGORIES[:1])
    write_rasters(Path("rasters"), {name: covariates(520, 1030)[name] for name in CATEGORIES[0].variables}, cell=0.01)
    assert make() == 0
    with rasterio.open("out/soc.tif") as raster:
        assert (raster.count, raster.overviews(1), raster.block_shapes) == (1, [2, 4], [(512, 512)])
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="pip install rio-cogeo")
    assert rio_cogeo.cog_validate("out/soc.tif", strict=True) == (True, [], [])


@pytest.mark.usefixtures("whole_maps")
def test_everything_lies_beside_the_map(world):
    Path("lists").mkdir()
    Path("lists/c.yaml").write_text("- ../rasters/climate.tif\n- ../rasters\n")
    assert make(rasters="lists/c.yaml") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "soc.html",
        "soc.png",
        "soc.qml",
        "soc.tif",
        "soc.yaml",
        "soc_lower.qml",
        "soc_sd.qml",
        "soc_stac.json",
        "soc_totals.csv",
        "soc_upper.qml",
        MANIFEST,
    ]
    Path("out/soc.png").unlink()
    Path("out2").mkdir()
    Path("out2/soc.png").write_text("the user's")
    assert make(out="out2/soc.tif") == 2
    assert Path("out2/soc.png").read_text() == "the user's"


def test_a_target_that_is_a_path_stays_in_the_folder_of_results(plain):
    make_checkpoint(Path("model/evil.pth"), label="../../../escaped/x")
    assert run(lambda: make_map.main(["--checkpoint", "model/evil.pth", "--rasters", "rasters"])) == 0
    assert not list(Path().resolve().parent.parent.rglob("escaped*"))
    assert [path.parent for path in Path().rglob("*escaped_x*.tif")] == [Path("results/evil")]


def test_map_is_scored_against_a_raster(plain):
    assert make() == 0
    band = read()[0]
    write_geotiff(Path("truth.tif"), band[None] + 2, ["soc"], Affine(CELL, 0, WEST, 0, -CELL, NORTH))
    assert make("--against", "truth.tif") == 0
    scores = json.loads(Path("out/soc_scores.json").read_text())["scores"]
    assert scores["n"] == np.isfinite(band).sum()
    assert (scores["mae"], scores["me"]) == (pytest.approx(2, rel=1e-5), pytest.approx(-2, rel=1e-5))
    assert make("--max_missing", "0.1", "--against", "out/soc.tif", out="out/other.tif") == 0  # of several bands, "prediction"
    assert json.loads(Path("out/other_scores.json").read_text())["scores"]["mae"] == pytest.approx(0, abs=1e-4)


def test_large_map_is_scored_on_every_kth_row_and_column(plain, monkeypatch):
    assert make() == 0
    band = read()[0]
    write_geotiff(Path("truth.tif"), band[None] * 1.5, ["soc"], Affine(CELL, 0, WEST, 0, -CELL, NORTH))
    monkeypatch.setattr(mapfiles, "SCORED_AT_MOST", 1000)
    assert make("--against", "truth.tif") == 0
    scores = json.loads(Path("out/soc_scores.json").read_text())
    part = band[::3, ::3]
    assert (scores["every"], scores["scores"]["n"]) == (3, np.isfinite(part).sum())
    assert scores["scores"]["mae"] == pytest.approx(np.nanmean(part) / 2, rel=1e-5)


# --- areas, zones, periods -----------------------------------------------------------------------------------------------


def test_area_of_interest_crops_and_masks(plain):
    write_boxes(left=(11.02, 46.03, 12.0, 47.0), right=(13.0, 46.5, 14.0, 48.0))
    assert make(out="out/all.tif") == 0
    assert make("--aoi", "z.geojson", "--tile", "16") == 0
    with rasterio.open("out/soc.tif") as raster:
        np.testing.assert_allclose(tuple(raster.bounds), (11.0, 46.0, 14.0, 48.0), atol=1e-9)
    whole, part = read("out/all.tif")[0, 20:40, 10:40], read()[0]
    inside = np.zeros((20, 30), bool)
    inside[10:20, 0:10] = inside[0:15, 20:30] = True
    np.testing.assert_array_equal(np.isfinite(part), inside & np.isfinite(whole))
    np.testing.assert_allclose(part[inside], whole[inside], rtol=1e-4)


def test_mask_leaves_its_zeros_and_gaps_out(plain):
    land = np.ones((7, 9), np.float32)
    land[:3, :2], land[5:, 6:] = 0, np.nan
    write_geotiff(Path("land.tif"), land[None], ["land"], Affine(1, 0, WEST, 0, -1, NORTH))
    assert make(out="out/all.tif") == 0
    assert make("--mask", "land.tif") == 0
    expected = np.isfinite(read("out/all.tif")[0]) & (np.kron(land, np.ones((10, 10))) > 0)
    np.testing.assert_array_equal(np.isfinite(read()[0]), expected)


def test_totals_of_zones_add_up(world):
    write_boxes(north=(10, 46.5, 19, 50), south=(10, 43, 19, 46.5), outside=(100, 0, 101, 1))
    assert make("--zones", "z.geojson", "--tile", "16") == 0
    table = pd.read_csv("out/soc_totals.csv").set_index("zone")
    assert list(table.index) == ["whole map", "north", "south", "outside"]
    bands = read()
    latitude = np.radians(NORTH - CELL * (np.arange(HEIGHT) + 0.5))
    weight = np.cos(latitude)[:, None] * np.isfinite(bands[0])  # cells of a sphere, to a thousandth
    mean = np.nansum(bands[0] * weight) / weight.sum()
    assert table.loc["whole map", "mean"] == pytest.approx(mean, rel=1e-3)
    assert table.loc["north", "mean"] == pytest.approx(np.nansum((bands[0] * weight)[:35]) / weight[:35].sum(), rel=1e-3)
    assert table.loc["whole map", "area_km2"] == pytest.approx((weight * (0.1 * 111.195) ** 2).sum(), rel=3e-3)
    parts = table.loc[["north", "south"]]
    for column in ("cells", "area_km2"):
        assert parts[column].sum() == pytest.approx(table.loc["whole map", column], rel=1e-12)
    assert table.loc["outside", "cells"] == 0
    assert (table["mean_lower"] <= table["mean"]).iloc[:3].all()
    assert (table["mean"] <= table["mean_upper"]).iloc[:3].all()


def with_errors(bias=2.0):
    """Give the checkpoint an error model: held-out profiles that were predicted too low by `bias` everywhere, and a calibration."""
    random = np.random.default_rng(0)
    lon, lat = WEST + 9 * random.random(200), NORTH - 7 * random.random(200)
    predicted = random.uniform(8, 16, 200)
    y = predicted + bias + 0.2 * (1 + predicted) * random.normal(size=200)
    none = np.zeros(200, int)
    network = load_checkpoint("model/m.pth")
    network.errors = ErrorField.fit(y.clip(0), predicted, none, 1, np.column_stack([lon, lat]), none)
    network.calibration = ConformalCalibration.fit(y.clip(0), predicted, scale="log1p", symmetric=True)
    save_checkpoint(network, Path("model/m.pth"))
    return network.errors


def test_means_are_corrected_by_what_held_out_profiles_show(plain):
    with_errors()
    cell = (12.51, 44.01, 12.59, 44.09)  # the centre of one cell
    write_boxes(north=(10, 46.5, 19, 50), south=(10, 43, 19, 46.5), cell=cell)
    assert make("--zones", "z.geojson", "--tile", "16") == 0
    table, bands = pd.read_csv("out/soc_totals.csv").set_index("zone"), read()
    corrected = table["mean"] - table["map_mean"]
    np.testing.assert_allclose(corrected.iloc[:3], 2, atol=0.5)
    assert (table["mean_lower"] < table["mean"]).all() and (table["mean"] < table["mean_upper"]).all()
    widths = table["mean_upper"] - table["mean_lower"]
    assert 0.3 < widths["whole map"] < widths["north"] < widths["cell"] / 3
    row, col = round((NORTH - 44.05) / CELL - 0.5), round((12.55 - WEST) / CELL - 0.5)
    assert table.loc["cell", "cells"] == 1
    np.testing.assert_allclose(table.loc["cell", ["mean_lower", "mean_upper"]].astype(float), bands[1:3, row, col], rtol=1e-5)
    assert make("--zones", "z.geojson", "--tile", "70", "--level", "0.5") == 0
    half = pd.read_csv("out/soc_totals.csv").set_index("zone")
    np.testing.assert_allclose(half["mean"], table["mean"], rtol=1e-5)  # whatever the tiles
    assert ((half["mean_upper"] - half["mean_lower"]) < 0.7 * widths).all()


def test_errors_persist_in_part_from_period_to_period_where_profiles_are_of_one(plain):
    with_errors(bias=0.0)
    for year in (2000, 2010):
        write_rasters(Path(str(year)), {"bio01": covariates()["bio01"] + np.float32(year - 2000)})
    assert make("--periods", "2000=2000", "2010=2010") == 0
    table = pd.read_csv("out/soc_totals.csv").set_index("map")
    assert table.loc["change", "mean"] == pytest.approx(table.loc["2010", "mean"] - table.loc["2000", "mean"], abs=1e-6)
    widths = table["mean_upper"] - table["mean_lower"]
    assert 0.3 < widths["change"] / np.hypot(widths["2000"], widths["2010"]) < 0.8  # 1: independent, 0: the same errors in both


def test_periods_give_a_map_each_and_the_change(world, capsys):
    layers = covariates()
    for year, warmer in ((2000, 0.0), (2020, 4.0)):
        write_rasters(Path(str(year)), {"bio01": layers["bio01"] + np.float32(warmer)})
        write_rasters(Path(f"all{year}"), {**layers, "bio01": layers["bio01"] + np.float32(warmer)})
    assert make("--periods", "2000=2000", "2020=2020", "--tile", "32") == 0
    assert f"-> {Path('out/soc_*.tif')}; look at" in capsys.readouterr().out
    for year in (2000, 2020):
        assert make(rasters=f"all{year}", out="out/one.tif") == 0
        np.testing.assert_allclose(read(f"out/soc_{year}.tif"), read("out/one.tif"), rtol=1e-4, atol=1e-4)
    change = read("out/soc_change.tif")
    np.testing.assert_allclose(change[0], read("out/soc_2020.tif")[0] - read("out/soc_2000.tif")[0], atol=1e-3)
    with rasterio.open("out/soc_change.tif") as raster:
        assert raster.descriptions[0] == "change"
    assert (change[1] <= change[0] + 1e-4)[np.isfinite(change[0])].all()
    table = pd.read_csv("out/soc_totals.csv")
    assert list(table["map"].astype(str)) == ["2000", "2020", "change"]
    assert table["mean"].iloc[2] == pytest.approx(table["mean"].iloc[1] - table["mean"].iloc[0], rel=1e-5)


def test_periods_may_cover_different_ground(plain):
    layers = covariates()
    climate = ("bio01", "bio12")
    part = {name: np.where(np.arange(WIDTH) < 48, np.nan, layers[name]).astype(np.float32) for name in climate}
    write_rasters(Path("a"), part)  # two of six missing in the west
    write_rasters(Path("b"), {name: layers[name] for name in climate})
    assert make("--periods", "a=a", "b=b", "--tile", "16") == 0
    west = np.s_[:, :48]
    assert np.isnan(read("out/soc_a.tif")[0][west]).all()
    assert np.isnan(read("out/soc_change.tif")[0][west]).all()
    assert make(out="out/one.tif") == 0
    np.testing.assert_allclose(read("out/soc_b.tif"), read("out/one.tif"), rtol=1e-4, atol=1e-4)
