"""Maps: equal to pred.py, independent of the tiles, resumable to the byte; invalid input is refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import yaml
from conftest import PUBLISHED_WEIGHTS, needs_published_weights
from damage import damage
from rasterio.transform import Affine

import pred
from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.commands import map as make_map
from soilcarbon.commands import prepare
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import locked, run
from soilcarbon.io.manifest import MANIFEST
from soilcarbon.mapping import cog as cogs
from soilcarbon.mapping import outputs as mapfiles
from soilcarbon.mapping import tiles as mapping
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import Record, SoilCarbonNet
from soilcarbon.network.specification import Specification, unfold_classes
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = (
    Category(name="climate", variables=("bio01", "bio12")),
    Category(name="relief", variables=("elevation", "slope"), radius=3),
    Category(name="plants", variables=("evi",), radius=1),
    Category(name="rock", variables=("bedrock",), radius=2, kind="classes"),
)
VARIABLES = [name for category in CATEGORIES for name in category.variables]
STATISTICS = {"bio01": (10.0, 8.0), "bio12": (800.0, 400.0), "elevation": (300.0, 200.0), "slope": (5.0, 4.0), "evi": (0.3, 0.2)}
pytestmark = pytest.mark.usefixtures("no_drawing")
HEIGHT, WIDTH, CELL, WEST, NORTH = 70, 90, 0.1, 10.0, 50.0


def make_checkpoint(path, members=3, categories=CATEGORIES, record=None, calibration=None, **facts):
    facts = {"target_transform": "log1p", "bounds": (0.0, 300.0), "clip_inputs": 4.0, "statistics": STATISTICS, **facts}
    network = SoilCarbonNet(
        Specification(categories=categories, classes={"bedrock": (1, 2, 3)}, members=members, **facts), record or Record()
    )
    for k, member in enumerate(network.members()):
        member.initialise(k)
        with torch.no_grad():
            member.final_regressor[0].bias += 2.5
    network.calibration = calibration
    save_checkpoint(network, path)
    return path


def calibration(n=60, seed=0):
    """Calibrate intervals of ln(1 + y), twice as wide upwards, from errors of no network."""
    errors = np.random.default_rng(seed).normal(0, 0.2, n)
    predicted = np.linspace(5, 50, n)
    return ConformalCalibration.fit(
        np.expm1(np.log1p(predicted) + np.where(errors > 0, 2, 1) * errors), predicted, scale="log1p", symmetric=False
    )


def covariates(height=HEIGHT, width=WIDTH, seed=0):
    """Return variable -> (H, W), smooth, with holes."""
    random = np.random.default_rng(seed)
    found = {}
    for name in VARIABLES:
        rough = random.normal(size=(height // 8 + 3, width // 8 + 3))
        smooth = np.kron(rough, np.ones((8, 8)))[:height, :width] + 0.3 * random.normal(size=(height, width))
        if name == "bedrock":
            found[name] = np.clip(np.round(smooth + 2), 1, 4)
        else:
            mean, deviation = STATISTICS[name]
            found[name] = mean + deviation * smooth
    for name in ("bio01", "bio12", "elevation"):  # half of the variables missing: nodata
        found[name][20:30, 40:60] = np.nan
    found["evi"][50:60, 10:30] = np.nan  # one missing: filled
    return {name: values.astype(np.float32) for name, values in found.items()}


def write_rasters(folder, layers, west=WEST, north=NORTH, cell=CELL):
    grid = Affine(cell, 0, west, 0, -cell, north)
    for category in CATEGORIES:
        names = [name for name in category.variables if name in layers]
        if names:
            write_geotiff(folder / f"{category.name}.tif", np.stack([layers[name] for name in names]), names, grid)
    return folder


@pytest.fixture
def world(workplace):
    """Rasters, a checkpoint of three members, and an empty working directory."""
    write_rasters(Path("rasters"), covariates())
    make_checkpoint(Path("model/m.pth"))
    return workplace


def make(*more, checkpoint="model/m.pth", rasters="rasters", out="out/soc.tif"):
    return run(lambda: make_map.main(["--checkpoint", checkpoint, "--rasters", rasters, "--out", out, *more]))


def read(path="out/soc.tif"):
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan)


def refused(capsys, *words):
    """Check what a user reads: one error of one or two lines with these words, and nothing under the final name."""
    error = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in error if line.startswith("error:")]
    assert len(errors) == 1
    assert all(word in errors[0] for word in words), errors[0]
    assert not [path for path in Path("out").glob("*.tif")] if Path("out").exists() else True


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


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("level", ["0.8", "0.5"])
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


def test_a_higher_level_is_wider_and_another_map(world, monkeypatch, capsys):
    make_checkpoint(Path("model/m.pth"), calibration=calibration())
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


def test_tiles_leave_no_seam(world):
    assert make(out="out/whole.tif") == 0
    for side in (16, 33):
        assert make("--tile", str(side), out="out/tiles.tif") == 0
        np.testing.assert_allclose(read("out/tiles.tif"), read("out/whole.tif"), rtol=1e-4, atol=1e-4)


def test_cells_that_lack_too_much_are_nodata_and_the_others_filled(world):
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
    make_checkpoint(Path("model/m.pth"))
    write_rasters(Path("rasters"), layers, -180, 90, 5.0)
    turned = {name: np.roll(values, 36, axis=1) for name, values in layers.items()}
    write_rasters(Path("turned"), turned, 0, 90, 5.0)
    assert make("--tile", "16") == 0
    assert make("--tile", "20", rasters="turned", out="out/turned.tif") == 0
    np.testing.assert_allclose(np.roll(read(), 36, axis=2), read("out/turned.tif"), rtol=1e-4, atol=1e-4)


def test_rasters_of_other_grids_meet_on_the_map(world):
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


def test_own_crs_resolution_and_bounds(world):
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


def test_area_of_applicability_is_mapped(world):
    layers = covariates()
    network = load_checkpoint("model/m.pth")
    cells = np.stack([layers[name] for name in VARIABLES])
    training = cells[:, 5:60:7, 5:35:7].reshape(len(VARIABLES), -1).T
    weights = np.array([3, 1, 1, 0, 1, 2, 2, 2])
    network.applicability = ApplicabilityArea.fit(unfold_classes(training, network.specification), weights)
    save_checkpoint(network, Path("model/m.pth"))
    assert make("--tile", "32") == 0
    with rasterio.open("out/soc.tif") as raster:
        assert raster.descriptions == ("prediction", "lower", "upper", "sd", "di", "inside")
    bands = read()
    known = np.isfinite(bands[0])
    index = network.applicability.index(unfold_classes(cells[:, known].T, network.specification))
    np.testing.assert_allclose(bands[4][known], index, rtol=1e-4, atol=1e-6)
    code_known = np.isin(cells[VARIABLES.index("bedrock")], (1, 2, 3))
    lacking = known & np.isnan(bands[4])  # as in CAST, which assesses no cell that lacks a predictor, or has an unknown class
    assert lacking[known & ~code_known].all()
    assert not lacking[code_known & ~np.isnan(cells).any(0)].any()
    assert np.isnan(bands[5, lacking]).all()
    known &= ~lacking
    np.testing.assert_array_equal(bands[5][known], bands[4][known] <= np.float32(network.applicability.threshold))
    assert 0.05 < bands[5][known].mean() < 0.999
    for year in (2000, 2010):
        write_rasters(Path(str(year)), {"bio01": layers["bio01"] + np.float32(year - 2000)})
    assert make("--periods", "a=2000", "b=2010") == 0
    np.testing.assert_allclose(read("out/soc_a.tif"), bands, rtol=1e-4, atol=1e-4)
    assert len(read("out/soc_change.tif")) == 4
    assert make("--no-applicability") == 0
    np.testing.assert_allclose(read(), bands[:4], rtol=1e-4, atol=1e-4)


def test_large_map_has_overviews(workplace):
    make_checkpoint(Path("model/m.pth"), members=1)
    write_rasters(Path("rasters"), covariates(700, 1100), cell=0.01)
    assert make() == 0
    with rasterio.open("out/soc.tif") as raster:
        assert (raster.count, raster.overviews(1), raster.block_shapes) == (1, [2, 4], [(512, 512)])
    rio_cogeo = pytest.importorskip("rio_cogeo", reason="pip install rio-cogeo")
    assert rio_cogeo.cog_validate("out/soc.tif", strict=True) == (True, [], [])


def test_everything_lies_beside_the_map(world):
    Path("lists").mkdir()
    Path("lists/c.yaml").write_text("- ../rasters/climate.tif\n- ../rasters\n")
    assert make(rasters="lists/c.yaml") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "soc.html",
        "soc.png",
        "soc.tif",
        "soc.yaml",
        "soc_totals.csv",
        MANIFEST,
    ]
    Path("out/soc.png").unlink()
    Path("out2").mkdir()
    Path("out2/soc.png").write_text("the user's")
    assert make(out="out2/soc.tif") == 2
    assert Path("out2/soc.png").read_text() == "the user's"


def test_a_target_that_is_a_path_stays_in_the_folder_of_results(world):
    make_checkpoint(Path("model/evil.pth"), label="../../../escaped/x")
    assert run(lambda: make_map.main(["--checkpoint", "model/evil.pth", "--rasters", "rasters"])) == 0
    assert not list(Path().resolve().parent.parent.rglob("escaped*"))
    assert [path.parent for path in Path().rglob("*escaped_x*.tif")] == [Path("results/evil")]


def test_map_is_scored_against_a_raster(world):
    assert make() == 0
    band = read()[0]
    write_geotiff(Path("truth.tif"), band[None] + 2, ["soc"], Affine(CELL, 0, WEST, 0, -CELL, NORTH))
    assert make("--against", "truth.tif") == 0
    scores = json.loads(Path("out/soc_scores.json").read_text())["scores"]
    assert scores["n"] == np.isfinite(band).sum()
    assert (scores["mae"], scores["me"]) == (pytest.approx(2, rel=1e-5), pytest.approx(-2, rel=1e-5))
    assert make("--max_missing", "0.1", "--against", "out/soc.tif", out="out/other.tif") == 0  # of several bands, "prediction"
    assert json.loads(Path("out/other_scores.json").read_text())["scores"]["mae"] == pytest.approx(0, abs=1e-4)


def test_large_map_is_scored_on_every_kth_row_and_column(world, monkeypatch):
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


def write_boxes(**boxes):
    """Write named boxes (west, south, east, north) into z.geojson."""
    pytest.importorskip("geopandas", reason="pip install geopandas")
    features = []
    for name, (w, s, e, n) in boxes.items():
        ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
        features.append({"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    Path("z.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_area_of_interest_crops_and_masks(world):
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


def test_mask_leaves_its_zeros_and_gaps_out(world):
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


def test_periods_give_a_map_each_and_the_change(world, capsys):
    layers = covariates()
    for year, warmer in ((2000, 0.0), (2010, 1.0), (2020, 4.0)):
        write_rasters(Path(str(year)), {"bio01": layers["bio01"] + np.float32(warmer)})
        write_rasters(Path(f"all{year}"), {**layers, "bio01": layers["bio01"] + np.float32(warmer)})
    assert make("--periods", "2000=2000", "2010=2010", "2020=2020", "--tile", "32") == 0
    assert f"-> {Path('out/soc_*.tif')}; look at" in capsys.readouterr().out
    for year in (2000, 2010, 2020):
        assert make(rasters=f"all{year}", out="out/one.tif") == 0
        np.testing.assert_allclose(read(f"out/soc_{year}.tif"), read("out/one.tif"), rtol=1e-4, atol=1e-4)
    change = read("out/soc_change.tif")
    np.testing.assert_allclose(change[0], read("out/soc_2020.tif")[0] - read("out/soc_2000.tif")[0], atol=1e-3)
    with rasterio.open("out/soc_change.tif") as raster:
        assert raster.descriptions[0] == "change"
    assert (change[1] <= change[0] + 1e-4)[np.isfinite(change[0])].all()
    table = pd.read_csv("out/soc_totals.csv")
    assert list(table["map"].astype(str)) == ["2000", "2010", "2020", "change"]
    assert table["mean"].iloc[3] == pytest.approx(table["mean"].iloc[2] - table["mean"].iloc[0], rel=1e-5)


def test_periods_may_cover_different_ground(world):
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


# --- interruptions -------------------------------------------------------------------------------------------------------


def interrupt_after(monkeypatch, tiles):
    """Let the machine die once so many tiles are written."""
    written = []
    real = cogs.write_tile

    def write(*arguments):
        if len(written) >= tiles:
            raise KeyboardInterrupt
        written.append(real(*arguments))
        return written[-1]

    monkeypatch.setattr(mapping, "write_tile", write)


def test_resumed_map_has_the_same_bytes_and_a_torn_tile_is_not_believed(world, monkeypatch, caplog):
    assert make("--tile", "16") == 0
    expected = Path("out/soc.tif").read_bytes()
    shutil.rmtree("out")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 11)
        assert make("--tile", "16") == 130
    assert not Path("out/soc.tif").exists()
    tiles = sorted(Path("out/.soc.tif.tiles").glob("0*.tif"))
    assert 11 <= len(tiles) < 16
    damage(tiles[3:9], seed=16)
    computed = []
    real = mapping.compute_tile
    monkeypatch.setattr(mapping, "compute_tile", lambda *which: computed.append(which[2]) or real(*which))
    assert make("--tile", "16", "--resume") == 0
    assert len(computed) == 30 - (len(tiles) - 6)
    assert Path("out/soc.tif").read_bytes() == expected
    assert not Path("out/.soc.tif.tiles").exists()


def test_resuming_another_map_is_refused(world, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        make("--tile", "16")
    capsys.readouterr()
    assert make("--tile", "32", "--max_missing", "0.1", "--resume") == 2
    refused(capsys, "tile", "max_missing", "--resume")
    write_boxes(north=(10, 47, 19, 50))
    assert make("--tile", "16", "--zones", "z.geojson", "--resume") == 2
    refused(capsys, "areas")
    write_rasters(Path("rasters"), covariates(seed=1))
    assert make("--tile", "16", "--resume") == 2
    refused(capsys, "stamps")


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_threads(world):
    assert make("--tile", "32", "--workers", "1") == 0
    assert make("--tile", "32", "--workers", "2", out="out/two.tif") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/two.tif").read_bytes()


COMMAND = [
    sys.executable,
    "-m",
    "soilcarbon",
    "map",
    "--checkpoint",
    "model/m.pth",
    "--rasters",
    "rasters",
    "--out",
    "out/soc.tif",
]


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(workplace):
    make_checkpoint(Path("model/m.pth"))
    write_rasters(Path("rasters"), covariates(300, 400), cell=0.01)
    assert make("--tile", "32", "--workers", "1", out="out/here.tif") == 0
    command = [*COMMAND, "--tile", "32", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Path("out/.soc.tif.tiles")
    while process.poll() is None and len(list(folder.glob("0*.tif"))) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("out/soc.tif").exists()
    assert make("--tile", "32", "--workers", "1", "--resume") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/here.tif").read_bytes()


@pytest.mark.slow
def test_dask_workers_give_the_same_bytes_though_one_is_killed(workplace):
    distributed = pytest.importorskip("distributed", reason="pip install 'dask[distributed]'")
    make_checkpoint(Path("model/m.pth"))
    write_rasters(Path("rasters"), covariates(300, 400), cell=0.01)
    assert make("--tile", "32", "--workers", "1", out="out/here.tif") == 0
    script = f"""
import os, sys, signal, subprocess, time
from pathlib import Path
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        process = subprocess.Popen({COMMAND!r} + ["--tile", "32", "--scheduler", cluster.scheduler_address])
        folder = Path("out/.soc.tif.tiles")
        while process.poll() is None and len(list(folder.glob("0*.tif"))) < 15:
            time.sleep(0.02)
        assert process.poll() is None, "finished before a worker could be killed"
        os.kill(list(cluster.workers.values())[0].pid, signal.SIGKILL)
        sys.exit(process.wait())
"""
    Path("cluster.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "cluster.py"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path("out/soc.tif").read_bytes() == Path("out/here.tif").read_bytes()
    assert distributed.__version__


# --- bad input -----------------------------------------------------------------------------------------------------------


def without(*names):
    shutil.rmtree("rasters")
    write_rasters(Path("rasters"), {name: values for name, values in covariates().items() if name not in names})


def plants(west=WEST, crs="EPSG:4326"):
    write_geotiff(Path("rasters/plants.tif"), covariates()["evi"][None], ["evi"], Affine(CELL, 0, west, 0, -CELL, NORTH), crs)


def write_other_period():
    write_geotiff(Path("p/other.tif"), np.ones((1, 7, 9)), ["other"], Affine(1, 0, WEST, 0, -1, NORTH))


def all_missing():
    write_rasters(Path("rasters"), {name: np.full_like(values, np.nan) for name, values in covariates().items()})


def torn():
    whole = Path("rasters/relief.tif").read_bytes()
    Path("rasters/relief.tif").write_bytes(whole[: len(whole) // 2])


def forged(part, key, value):
    """Change the checkpoint's facts, as nothing of this project would."""
    state = torch.load("model/m.pth", weights_only=True)
    state["_extra_state"][part][key] = value
    torch.save(state, "model/m.pth")


@pytest.mark.parametrize(
    ("prepared", "more", "words"),
    [
        (None, ["--bounds", "50", "51", "0", "1"], ["no cell"]),
        (None, ["--bounds", "12", "12", "0", "1"], ["bounds"]),
        (None, ["--crs", "EPSG:3035"], ["--resolution"]),
        (None, ["--crs", "EPSG:99999", "--resolution", "10"], ["EPSG:99999"]),
        (None, ["--like", "rasters/climate.tif", "--crs", "EPSG:3035"], ["give one"]),
        (None, ["--like", "nowhere.tif"], ["nowhere.tif"]),
        (None, ["--aoi", "nowhere.gpkg"], ["nowhere.gpkg"]),
        (None, ["--periods", "2000=rasters"], ["one period"]),
        (None, ["--periods", "a", "b=rasters"], ["NAME=FOLDER"]),
        (None, ["--stats", "stats.csv"], ["its own statistics"]),
        (None, ["--mask", "rasters/relief.tif"], ["relief.tif", "2 bands"]),
        (None, ["--scheduler", "tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "cannot be reached"]),
        (None, ["--resolution", "1e-9"], ["resolution"]),
        (None, ["--out", "out/soc.png"], [".tif"]),
        (lambda: without("slope", "evi"), [], ["2 of 6 variables", "'slope'", "'evi'"]),
        (lambda: plants(west=100), ["--like", "rasters/climate.tif"], ["plants.tif", "no ground"]),
        (lambda: plants(crs=None), [], ["plants.tif", "coordinate reference system"]),
        (all_missing, [], ["no cell of the map has a value", "25%"]),
        (torn, [], ["relief.tif"]),
        (lambda: write_boxes(tiny=(11.01, 46.01, 11.03, 46.03)), ["--aoi", "z.geojson"], ["centre in the area of interest"]),
        (write_other_period, ["--periods", "a=p", "b=rasters"], ["'a'", "none of the checkpoint's variables"]),
        (
            lambda: make_checkpoint(Path("model/m.pth"), calibration=calibration(n=9)),
            ["--level", "0.95"],
            ["support intervals up to 0.800"],
        ),
        (lambda: forged("specification", "target", "../../escaped"), [], ["specification is not valid"]),
        (lambda: forged("record", "scores", [1]), [], ["record is not valid"]),
        (lambda: forged("record", "scores", {"train": {"mae": [1]}}), [], ["record is not valid"]),
    ],
)
def test_what_cannot_be_mapped(world, capsys, monkeypatch, prepared, more, words):
    monkeypatch.setattr(mapping, "PATIENCE_S", 1)
    if prepared:
        prepared()
    assert make(*more) == 2
    refused(capsys, *words)


def coarser_training():
    rasters = [{"crs": "EPSG:4326", "cell_size": [0.5, 0.5], "variables": ["elevation", "slope"]}]
    make_checkpoint(Path("model/m.pth"), record=Record(rasters=rasters))


def wrong_unit():
    layers = covariates()
    write_rasters(Path("rasters"), {**layers, "bio01": layers["bio01"] * 1000})


@pytest.mark.parametrize(
    ("prepared", "more", "warning"),
    [
        (None, [], r"200 of 6,100 cells \(3\.3%\) lack some variable, most often evi"),
        (coarser_training, [], "category relief: windows of 7 cells"),
        (wrong_unit, [], "far from what the model was trained on: .* of bio01's values"),
        (
            None,
            ["--crs", "EPSG:4326", "--resolution", "0.5", "--bounds", "-100", "19", "-40", "50"],
            "the rasters cover only",
        ),
        (
            lambda: write_boxes(here=(10, 43, 19, 50), tiny=(11.01, 46.01, 11.03, 46.03)),
            ["--zones", "z.geojson"],
            "(?s)^(?!.*zone here).*zone tiny: no cell",
        ),
        (lambda: forged("record", "scores", {"train": {"mae": float("nan")}}), [], "lack some variable"),
    ],
)
def test_what_looks_wrong_is_a_warning(world, caplog, prepared, more, warning):
    if prepared:
        prepared()
    assert make(*more) == 0
    assert re.search(warning, caplog.text)
    if not more and not prepared:
        assert "200 of 6,100 cells" in Path("out/soc.html").read_text()
        assert "lack some variable" in yaml.safe_load(Path("out/soc.yaml").read_text())["notes"][0]


def test_full_disk_leaves_the_older_map(world, capsys, monkeypatch):
    assert make() == 0
    before = Path("out/soc.tif").read_bytes()
    real = cogs.rasterio.shutil.copy

    def short(source, target, **options):
        """Write as GDAL does on a full disk: part of the file, and no word."""
        real(source, target, **options)
        target.write_bytes(target.read_bytes()[:-3000])

    monkeypatch.setattr(cogs.rasterio.shutil, "copy", short)
    assert make("--max_missing", "0.1") == 2
    assert "could not be written whole" in capsys.readouterr().err
    assert Path("out/soc.tif").read_bytes() == before
    monkeypatch.setattr(cogs.rasterio.shutil, "copy", real)
    assert make("--max_missing", "0.1", "--resume") == 0


def test_disk_full_while_tiles_are_written(world, capsys, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        real = mapping.write_tile

        def write(*arguments):
            patched.setattr("os.fsync", full)
            return real(*arguments)

        patched.setattr(mapping, "write_tile", write)
        assert make("--tile", "16") == 2
    refused(capsys, "No space left on device")
    assert not list(Path("out/.soc.tif.tiles").glob("0*.tif"))


def test_tile_without_any_value(world):
    layers = covariates()
    for values in layers.values():
        values[:32, :48] = np.nan
    write_rasters(Path("rasters"), layers)
    assert make("--tile", "16") == 0
    known = np.isfinite(read()[0])
    assert not known[:32, :48].any()
    assert known[32:, 48:].all()


def test_checkpoint_without_statistics(workplace, capsys):
    write_rasters(Path("rasters"), covariates())
    make_checkpoint(Path("model/m.pth"), statistics=None)
    assert make() == 2
    refused(capsys, "has no statistics", "--stats")
    rows = [(name, *pair) for name, pair in STATISTICS.items()]
    pd.DataFrame(rows, columns=["var_name", "v_mean", "v_std"]).to_csv("stats.csv", index=False)
    assert make("--stats", "stats.csv") == 0


@needs_published_weights
def test_published_weights_make_a_map(workplace):
    random = np.random.default_rng(0)
    names = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
    write_geotiff(Path("all.tif"), random.normal(size=(32, 20, 30)), names, Affine(1, 0, 0, 0, -1, 20))
    pd.DataFrame({"var_name": names, "v_mean": 0.0, "v_std": 1.0}).to_csv("stats.csv", index=False)
    assert make("--stats", "stats.csv", checkpoint=str(PUBLISHED_WEIGHTS), rasters="all.tif") == 0
    assert 5 < np.nanmean(read()) < 60


# --- what must not happen ------------------------------------------------------------------------------------------------


def test_two_runs_do_not_make_one_map(world, capsys):
    with locked(Path("out/.soc.tif.tiles")):
        assert make() == 2
    refused(capsys, "another run is at work")


@pytest.mark.parametrize(
    ("out", "more", "words"),
    [
        ("rasters/relief.tif", [], ["rasters/relief.tif", "would be overwritten"]),
        ("model/m.tif", [], ["model/m.yaml", "would be overwritten"]),
        ("land.tif", ["--mask", "land.tif"], ["land.tif", "would be overwritten"]),
        ("page.tif", [], ["page.html", "is a folder"]),
    ],
)
def test_no_input_is_overwritten(world, capsys, out, more, words):
    write_geotiff(Path("land.tif"), np.ones((1, 7, 9)), ["land"], Affine(1, 0, WEST, 0, -1, NORTH))
    Path("page.html").mkdir()
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert make(*more, out=out) == 2
    refused(capsys, *words)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_tile_that_comes_twice_is_computed_again(world, monkeypatch):
    assert make("--tile", "32", out="out/whole.tif") == 0
    with monkeypatch.context() as patched:
        interrupt_after(patched, 4)
        make("--tile", "32")
    tile = min(Path("out/.soc.tif.tiles").glob("0*.tif"))
    other = tile.read_bytes() + b"x"
    (tile.parent / f"{tile.name[:17]}.{zlib.crc32(other):08x}.tif").write_bytes(other)
    assert make("--tile", "32", "--resume") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/whole.tif").read_bytes()


# --- warnings ------------------------------------------------------------------------------------------------------------


def test_the_effect_of_resampling_on_the_mean_is_reported(world, caplog):
    assert make() == 0
    assert "resampled from other grids" not in caplog.text
    assert make("--crs", "EPSG:3035", "--resolution", "30000") == 0
    reported = re.search(
        r"6 of 6 variables are resampled from other grids \(bilinear\): .* the mean is ([\d.]+) .*, ([\d.]+) \(", caplog.text
    )
    band = read()[0]
    assert float(reported[1]) == pytest.approx(np.nanmean(band), rel=0.1)
    assert float(reported[1]) != float(reported[2])


def test_bands_carry_their_statistics(world):
    assert make("--tile", "32") == 0
    with rasterio.open("out/soc.tif") as raster:
        for number, band in enumerate(read(), start=1):
            known = band[np.isfinite(band)].astype(float)
            reported = {
                name.removeprefix("STATISTICS_"): float(value)
                for name, value in raster.tags(number).items()
                if "STATISTICS" in name
            }
            expected = {"MINIMUM": known.min(), "MAXIMUM": known.max(), "MEAN": known.mean(), "STDDEV": known.std()}
            assert reported == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_classes_on_another_grid_are_never_mixed(world):
    layers = covariates()
    codes = np.where(np.arange(WIDTH // 2) % 2, 1.0, 3.0) * np.ones((HEIGHT // 2, 1))
    write_geotiff(Path("rasters/rock.tif"), codes[None], ["bedrock"], Affine(0.2, 0, WEST, 0, -0.2, NORTH))
    assert make("--like", "rasters/relief.tif") == 0
    write_rasters(Path("same"), {**layers, "bedrock": np.kron(codes, np.ones((2, 2)))})
    assert make(rasters="same", out="out/same.tif") == 0
    np.testing.assert_allclose(read(), read("out/same.tif"), rtol=1e-4, atol=1e-4)


def test_nodata_declared_beside_the_file_counts(world):
    layers = covariates()
    wrong = layers["evi"].copy()
    wrong[:10] = 99999
    with rasterio.open("rasters/plants.tif", "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1, dtype="float32",
                       crs="EPSG:4326", transform=Affine(CELL, 0, WEST, 0, -CELL, NORTH)) as raster:  # fmt: skip
        raster.write(wrong[None])
        raster.descriptions = ("evi",)
    Path("rasters/plants.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>99999</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert make("--max_missing", "0") == 0
    assert np.isnan(read()[0, :10]).all()
    assert np.isfinite(read()[0, 30:50]).all()


def write_voids(rows=slice(0, 10), fill=-32768.0):
    """Replace the raster of evi by one with a fill value that it does not declare."""
    cells = covariates()["evi"].copy()
    cells[rows] = fill
    with rasterio.open("rasters/plants.tif", "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1, dtype="float32",
                       crs="EPSG:4326", transform=Affine(CELL, 0, WEST, 0, -CELL, NORTH)) as raster:  # fmt: skip
        raster.write(cells[None])
        raster.descriptions = ("evi",)


@pytest.mark.parametrize("more", [(), ("--resolution", "0.05")])
def test_a_fill_value_that_is_not_declared_is_asked_about_and_not_mapped(world, capsys, more):
    write_voids()
    assert make("--max_missing", "0", *more) == 2
    refused(capsys, "plants.tif: 900 of the 6100 cells looked at are -32768 in evi", "--nodata evi=-32768 takes them as missing")
    assert make("--max_missing", "0", "--nodata", "-32768", *more) == 0
    scale = 2 if more else 1
    assert np.isnan(read()[0, : 9 * scale]).all()
    assert np.isfinite(read()[0, 30 * scale : 50 * scale]).all()


@pytest.mark.parametrize("more", [(), ("--resolution", "0.05")])
def test_a_fill_value_that_the_sample_missed_stops_the_map(world, capsys, monkeypatch, more):
    write_voids()
    monkeypatch.setattr("soilcarbon.mapping.plan.ask_about_fill_values", lambda *_: [])
    monkeypatch.setattr("soilcarbon.mapping.plan.check_codes", lambda *_: None)
    assert make("--max_missing", "0", *more) == 2
    refused(capsys, "cells of evi here are -32768, far from all the model was trained on", "--nodata evi=-32768")


def test_nodata_given_to_prepare_holds_for_the_map(world):
    given = {"crs": "EPSG:4326", "cell_size": [CELL, CELL], "variables": ["evi"], "nodata": {"evi": [-32768.0]}}
    make_checkpoint(Path("model/m.pth"), record=Record(rasters=(given,)))
    write_voids()
    assert make("--max_missing", "0") == 0
    assert np.isnan(read()[0, :10]).all()


def test_a_mask_with_a_fill_value_is_asked_about(world, capsys):
    cells = np.where(np.arange(9) < 3, 255, np.arange(9) % 2) * np.ones((7, 1))
    write_geotiff(Path("land.tif"), cells[None], ["land"], Affine(1, 0, WEST, 0, -1, NORTH))
    assert make("--mask", "land.tif") == 2
    refused(capsys, "land.tif: 21 of the 63 cells looked at are 255 in land")
    assert make("--mask", "land.tif", "--nodata", "land=255") == 0
    assert np.isnan(read()[0, :, :30]).all()
