"""Maps of zoned forests: the forests' predictions in every cell, no seam where boundaries are blended, exact intervals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from map_world import make as make_map
from map_world import read
from rasterio.transform import Affine
from simulated import ZONED_QUICK, zoned_world

import soilcarbon
from soilcarbon.geo.grid import Grid
from soilcarbon.geo.model_grid import regular_grid
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import ZoneCells, cell_areas
from soilcarbon.io.files import UserError
from soilcarbon.mapping.areal import Place
from soilcarbon.mapping.forest import ForestPredictor
from soilcarbon.mapping.predictor import Cells
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.stats.error_field import HIDDEN, NOT_PERSISTENT, WIDENED, ErrorField, Shape
from soilcarbon.zonal.climate_zones import ClimateZones, GivenZones
from soilcarbon.zonal.evaluation import hold_out, space_time_folds
from soilcarbon.zonal.forest import SelectedForest, ZonedForest, estimate_uncertainty
from soilcarbon.zonal.persistence import ZonedModel, load_zoned, save_zoned

pytestmark = pytest.mark.usefixtures("light_maps")

NAMES = ("map", "mat", "a", "b", "noise", "year")
HEIGHT, WIDTH, CELL, WEST, NORTH = 30, 40, 0.25, 90.0, 45.0
GRID = Grid("EPSG:4326", WEST, NORTH, (CELL, CELL), HEIGHT, WIDTH)
FAR = tuple((-120.0 + 2.0 * k, -30.0) for k in range(50))
ERRORS = ErrorField(
    (0.2, 0.3, 0.25, 0.4), 0.3, FAR, (1.0, -1.0) * 25, (1,) * 50, (1900, 1950) * 25, (Shape(1.0, 0.5, 0.0, 200.0, 20.0, 0.6, 0.0),)
)
"""Errors of known size and correlation; the profiles that show no bias lie in another part of the world and in other years."""


def method(**widths):
    forest = SelectedForest(**ZONED_QUICK | {"covariates": (0, 1, 2, 3)})
    return ZonedForest(ClimateZones(**widths), (0, 1), forest, min_profiles=30)


def model(forest, uncertainty, variables=NAMES, record=None):
    return ZonedModel(forest, "socd_0_20", "kg/m2", variables, uncertainty, record)


@pytest.fixture(scope="module")
def trained():
    """Return forests of a zoned world, its profiles, and what was predicted of them in two folds."""
    profiles, forest = zoned_world(320), method(width_precipitation=100, width_temperature=4)
    folds = space_time_folds(profiles, forest, 2, 0)
    held_out = pd.concat([hold_out(profiles, folds, fold, forest, 0, repeats=1).predictions for fold in (0, 1)])
    return forest.fit(profiles.x, profiles.y, profiles.groups, 0), profiles, held_out.sort_values("row", ignore_index=True)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """Return the folder of two models: of hard and of blended boundaries."""
    forest, profiles, held_out = trained
    folder = tmp_path_factory.mktemp("model")
    for name, column in (("hard", "zoned"), ("blended", "blended")):
        known = estimate_uncertainty(forest, profiles, held_out, column, 0)
        assert None not in (known.calibration, known.errors, known.applicability)
        each = forest
        if name == "hard":
            each = replace(forest, zones=ClimateZones())
            each.forests, each.counts = forest.forests, forest.counts
        save_zoned(model(each, replace(known, errors=ERRORS)), folder / f"{name}.npz")
    return folder


def covariates():
    """Return variable -> (H, W): a climate that passes both thresholds, and smooth covariates."""
    row, col = np.mgrid[0:HEIGHT, 0:WIDTH]
    found = {"map": 250 + 300 * col / WIDTH, "mat": 16 - 12 * row / HEIGHT, "a": np.sin(col / 9), "b": np.cos(row / 7)}
    found["map"][3:6, 3:6] = np.nan  # no zone is known
    found["a"][20:23, 30:33] = np.nan
    return {name: values.astype(np.float32) for name, values in found.items()}


def write(folder, layers):
    transform = Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    for name, values in layers.items():
        write_geotiff(Path(folder) / f"{name}.tif", values[None], [name], transform)


@pytest.fixture
def world(workplace):
    layers = covariates()
    write("static", layers)
    for k, period in enumerate(("1985-1989", "2000-2004", "2015-2019")):
        write(f"periodic/{period}", {"a": layers["a"] + 0.4 * k})
    return workplace


def make(saved, *more, kind="hard"):
    return make_map("--workers", "1", *more, checkpoint=str(saved / f"{kind}.npz"), rasters="static")


def cells(layers):
    """Return the variables of every cell of the rasters, (H * W, V)."""
    x = np.full((HEIGHT * WIDTH, len(NAMES)), np.nan)
    for name, values in layers.items():
        x[:, NAMES.index(name)] = values.ravel()
    return x


# --- one map ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hard", "blended"])
def test_a_map_is_what_the_forests_say_with_the_interval_of_its_zone(world, saved, kind):
    assert make(saved, "--level", "0.8", "--max_missing", "0.5", kind=kind) == 0
    with rasterio.open("out/soc.tif") as raster:
        assert raster.descriptions == ("prediction", "lower", "upper", "di", "inside")
        assert raster.units[:3] == ("kg/m2",) * 3
        assert "MEMBERS" not in raster.tags()
    loaded = load_zoned(saved / f"{kind}.npz")
    forest, uncertainty, x = loaded.forest, loaded.uncertainty, cells(covariates())
    expected, found = forest.predict(x), read()
    np.testing.assert_allclose(found[0].ravel(), expected, rtol=1e-6)
    assert np.isnan(found[:, 3:6, 3:6]).all()  # without climate
    assert np.isfinite(found[0, 20:23, 30:33]).all()  # trees handle missing values
    weights = forest.weights(x)
    for k, name in enumerate(forest.zones.names):
        here = weights[:, k] == 1  # well within the zone
        assert here.any()
        ends = uncertainty.calibration.interval(expected[here], 0.8, name)
        np.testing.assert_allclose(found[1:3].reshape(2, -1)[:, here], ends, rtol=1e-5)
    known = np.isfinite(expected)
    assert (found[1] <= found[0]).ravel()[known].all() and (found[0] <= found[2]).ravel()[known].all()
    index = uncertainty.applicability.index(x[:, uncertainty.predictors])
    np.testing.assert_allclose(found[3].ravel()[known], index[known], rtol=1e-4, atol=1e-6)
    assert make(saved, "--max_missing", "0", kind=kind) == 0
    assert np.isnan(read()[0, 20:23, 30:33]).all()


def test_a_blended_boundary_leaves_no_seam_and_a_hard_one_does(world, saved):
    fine = np.tile(np.linspace(399.0, 401.0, WIDTH), (HEIGHT, 1))  # 2 mm from west to east, across the threshold
    write("static", {"map": fine, "mat": np.full_like(fine, 14.0), "a": 0 * fine + 1.0, "b": 0 * fine - 1.0})
    largest = {}
    for kind in ("hard", "blended"):
        assert make(saved, kind=kind) == 0
        largest[kind] = np.abs(np.diff(read()[:3], axis=2)).max((1, 2))
    x = np.array([[399.9, 14, 1, -1, np.nan, np.nan], [400.1, 14, 1, -1, np.nan, np.nan]])
    dry, wet = load_zoned(saved / "hard.npz").forest.predict(x)
    assert abs(wet - dry) > 0.5  # the zones differ: a seam is there to be seen
    assert largest["hard"][0] == pytest.approx(abs(wet - dry), rel=1e-5)
    # Lower and upper too. 2 of 100 mm of the band: the weight changes by 0.03 over the whole map.
    assert (largest["blended"] < 0.02 * largest["hard"].max()).all()


def test_tiles_leave_no_seam(world, saved):
    assert make(saved, "--tile", "16") == 0
    values = read()
    assert make(saved) == 0
    np.testing.assert_array_equal(read(), values)


# --- periods and totals ----------------------------------------------------------------------------------------------------


def test_a_folder_of_periods_is_a_map_each_and_the_change(world, saved):
    assert make(saved, "--periods", "periodic") == 0
    names = ["1985-1989", "2000-2004", "2015-2019", "change"]
    assert sorted(path.name for path in Path("out").glob("*.tif")) == [f"soc_{name}.tif" for name in names]
    first, last, change = (read(f"out/soc_{name}.tif") for name in (names[0], names[2], names[3]))
    with rasterio.open("out/soc_change.tif") as raster:
        assert raster.descriptions == ("change", "lower", "upper", "sd")
    np.testing.assert_allclose(change[0], last[0] - first[0], atol=1e-6)
    labels = ClimateZones().labels(*(covariates()[name].ravel() for name in ("map", "mat"))).reshape(HEIGHT, WIDTH)
    deviation = np.array([*ERRORS.deviations, np.nan])[labels] * 0.5**0.5
    before, after = deviation * (1 + first[0]) ** 0.5, deviation * (1 + last[0]) ** 0.5
    alone = NOT_PERSISTENT * sum(ERRORS.cell_variance(each[0]) for each in (first, last))
    expected = np.sqrt(WIDENED**2 * (before**2 + after**2 - 2 * 0.6 * before * after) + alone)
    np.testing.assert_allclose(change[3], expected, rtol=0.35)  # the deviation of a hundred draws, of what profiles leave unknown
    np.testing.assert_allclose(change[2] - change[1], 2 * 1.6449 * change[3], rtol=1e-3)
    table = pd.read_csv("out/soc_totals.csv").set_index(["map", "zone"])
    assert table.index.get_level_values("zone").unique().tolist() == [
        "whole map",
        *(f"climate zone {name}" for name in ClimateZones().names),
    ]
    one = table.loc["change"]
    assert one.loc["whole map", "total"] == pytest.approx(
        table["total"]["2015-2019", "whole map"] - table["total"]["1985-1989", "whole map"]
    )
    assert one["total"].iloc[1:].sum() == pytest.approx(one["total"].iloc[0])
    assert one["cells"].iloc[1:].sum() == one["cells"].iloc[0]
    explicit = [f"{name}=periodic/{name}" for name in names[:3]]
    before = Path("out/soc_totals.csv").read_bytes()
    assert make(saved, "--periods", *explicit) == 0
    assert Path("out/soc_totals.csv").read_bytes() == before


def test_the_interval_of_a_total_is_that_of_the_double_sum_over_all_cells(world, saved):
    """Of 1,200 cells the variance of the total can be written out: spreads times areas times what distance leaves."""
    assert make(saved) == 0
    found = pd.read_csv("out/soc_totals.csv").set_index("zone")
    values = read()[0]
    labels = ClimateZones().labels(*(covariates()[name].ravel() for name in ("map", "mat")))
    lon, lat = (
        each.ravel() for each in np.meshgrid(WEST + CELL * (np.arange(WIDTH) + 0.5), NORTH - CELL * (np.arange(HEIGHT) + 0.5))
    )
    km2 = np.broadcast_to(cell_areas(GRID, GRID.tile(0, 512)), (HEIGHT, WIDTH)).ravel()
    spread = np.array([*ERRORS.deviations, np.nan])[labels] * (1 + values.ravel()) ** 0.5 * km2
    east, north = np.radians(lon), np.radians(lat)
    points = 6371.0 * np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)
    for zone, here in (("whole map", np.isfinite(spread)), ("climate zone arid", (labels == 3) & np.isfinite(spread))):
        apart = np.linalg.norm(points[here][:, None] - points[here], axis=2)
        exact = WIDENED * np.sqrt(
            0.5 * spread[here] @ np.exp(-apart / 200.0) @ spread[here] + spread[here].sum() ** 2 * (1 / 50 + HIDDEN**2)
        )
        row = found.loc[zone]
        mapped = np.nansum((values.ravel() * km2)[here])  # kg/m2 x km2 is kt
        size = {"kt": 1.0, "Mt": 1e3, "Pg": 1e6}[row["total_unit"]]
        assert row["map_mean"] == pytest.approx(mapped / km2[here].sum(), rel=1e-6)
        assert row["total"] == pytest.approx(mapped / size, rel=1e-3)  # no bias is known
        assert (row["total_upper"] - row["total_lower"]) / (2 * 1.6449) == pytest.approx(exact / size, rel=0.25)  # of 100 draws
    independent = np.sqrt(np.nansum(spread**2))
    assert found.loc["whole map", "total_upper"] - found.loc["whole map", "total"] > 5 * independent / size


def test_a_dataset_of_the_rasters_gives_the_same_map_and_means(world, saved):
    assert make(saved, "--tile", "16", kind="blended") == 0
    path, data = saved / "blended.npz", soilcarbon.open_map("static").load()
    found = soilcarbon.predict(path, data, tile=23)
    np.testing.assert_allclose(np.stack([found[name].values for name in found]), read(), rtol=1e-4, atol=1e-4)
    table, means = pd.read_csv("out/soc_totals.csv"), soilcarbon.zone_means(path, data, tile=23)
    assert means["zone"].tolist() == table["zone"].tolist() and len(means) == 5
    np.testing.assert_allclose(means[["mean", "mean_lower"]], table[["mean", "mean_lower"]], rtol=1e-4)


def test_exported_realisations_have_the_covariances_that_can_be_written_out(world, saved):
    """Cells of a model: their errors are double sums over the map's cells, by the deviation of each cell's own zone."""
    assert make(saved) == 0
    soilcarbon.run("export", maps="out/soc.tif", cell=2.5, realizations=200, covered=0.3)
    data = xr.open_dataset("out/cSoil.nc").load()
    known = np.isfinite(data["cSoil"].values.ravel())
    drawn = data["cSoil_realizations"].values.reshape(200, -1)[:, known].astype(float)
    values, (ours, fine, km2) = read()[0].ravel(), regular_grid(2.5, GRID).overlaps(GRID, GRID.tile(0, 512))
    labels = ClimateZones().labels(*(covariates()[name].ravel() for name in ("map", "mat")))
    spread = np.array([*ERRORS.deviations, np.nan])[labels] * (1 + values) ** 0.5
    used = np.isfinite(spread[fine])
    shares = np.zeros((known.size, values.size))
    np.add.at(shares, (ours[used], fine[used]), km2[used])
    shares = (shares / np.maximum(shares.sum(1, keepdims=True), 1e-9))[known]
    row, col = np.divmod(np.arange(values.size), WIDTH)
    east, north = np.radians(WEST + CELL * (col + 0.5)), np.radians(NORTH - CELL * (row + 0.5))
    points = 6371.0 * np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)
    field = 0.5 * np.exp(-np.linalg.norm(points[:, None] - points, axis=2) / 200.0) + 1 / 50 + HIDDEN**2
    weights = shares * np.nan_to_num(spread)
    exact = WIDENED**2 * weights @ field @ weights.T
    exact += np.diag((shares**2 * np.nan_to_num(ERRORS.cell_variance(values))).sum(1))
    found = np.cov(drawn.T)
    assert len(found) == 12 and (np.diag(found) / np.diag(exact)).mean() == pytest.approx(1, abs=0.15)
    assert np.sqrt(np.diag(found) / np.diag(exact)) == pytest.approx(np.ones(12), abs=0.3)
    root = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(np.corrcoef(drawn.T), exact / np.outer(root, root), atol=0.3)
    area = (data["areacella"] * data["covered"]).values.ravel()[known]
    areal = area / area.sum()
    assert (drawn @ areal).std() == pytest.approx((areal @ exact @ areal) ** 0.5, rel=0.25)  # of 100 draws and their mirror images
    error = data["cSoil_standard_error"].values.ravel()[known]
    np.testing.assert_allclose(drawn.std(0), error, rtol=0.1)
    np.testing.assert_allclose(drawn.mean(0), data["cSoil"].values.ravel()[known], rtol=0.02)


def test_sums_do_not_depend_on_tiles_nor_the_order_of_them(saved):
    mapped, layers = ForestPredictor(saved / "blended.npz"), covariates()
    block = np.stack([layers[name] for name in mapped.variables])
    for side in (512, 7):
        total = np.zeros(200)
        for tile in GRID.tiles(side):
            part = np.s_[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
            predicted = mapped.predict(block[(slice(None), *part)], np.ones((tile.height, tile.width), bool), Cells(GRID, tile))
            cells = ZoneCells.of([("all", np.ones((tile.height, tile.width), bool))])
            sums = mapped.sums(Place(GRID, tile, cell_areas(GRID, tile), cells), {"": predicted})[""]
            total += sums["all"].weighted if "all" in sums else 0
        if side == 512:
            expected = total.copy()
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_without_uncertainty_there_are_no_intervals(world, trained, saved, tmp_path):
    save_zoned(model(trained[0], Uncertainty(), record={"scores": "junk"}), tmp_path / "bare.npz")
    assert make(tmp_path, "--periods", "periodic", kind="bare") == 0
    with rasterio.open("out/soc_change.tif") as raster:
        assert raster.descriptions == ("change",)
    with rasterio.open("out/soc_1985-1989.tif") as raster:
        assert raster.descriptions == ("prediction",)
    assert pd.read_csv("out/soc_totals.csv")["total_lower"].isna().all()


def test_zones_of_a_map_take_the_nearest_code(workplace, trained, tmp_path):
    """The codes lie on another grid, and are never interpolated."""
    _, profiles, _ = trained
    x = np.column_stack([profiles.x, np.where(profiles.x[:, 0] >= 400, 1.0, 3.0)])
    forest = replace(method(), zones=GivenZones((1.0, 3.0)), climate=(6,)).fit(x, profiles.y, profiles.groups, 0)
    uncertainty = Uncertainty(errors=replace(ERRORS, deviations=(0.2, 0.3)))
    save_zoned(model(forest, uncertainty, (*NAMES, "code")), tmp_path / "given.npz")
    write("static", covariates())
    grid = Affine(0.35, 0, WEST, 0, -0.35, NORTH)
    wet = np.where(np.arange(29)[None] < 14, 3.0, 1.0) * np.ones((22, 1))
    write_geotiff(Path("static/code.tif"), wet[None], ["code"], grid)
    assert make(tmp_path, "--like", "static/map.tif", kind="given") == 0
    table = pd.read_csv("out/soc_totals.csv").set_index("zone")
    assert table.index.tolist() == ["whole map", "zone 1", "zone 3"]
    assert table["cells"].iloc[1:].sum() == table["cells"].iloc[0] == HEIGHT * WIDTH


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_bad_input_ends_with_status_2(world, saved, capsys):
    layers = covariates()
    write("climate/1985", {"map": layers["map"]})
    write("climate/1990", {"map": layers["map"]})
    write("one/1985", {"a": layers["a"]})
    for more, words in (
        (["--periods", "climate"], ["'1985'", "map, which defines the zones"]),
        (["--periods", "one"], ["one period alone"]),
        (["--periods", "nowhere"], ["nowhere", "NAME=FOLDER"]),
        (["--periods", "periodic", "1985-1989=periodic/1985-1989"], ["1985-1989", "twice"]),
        (["--stats", "s.csv"], ["drop --stats"]),
        (["--level", "0.9999"], ["lower --level"]),
    ):
        assert make(saved, *more) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words), error
    Path("static/b.tif").unlink()
    assert make(saved) == 2
    assert "'b'" in capsys.readouterr().err


def test_another_unit_is_warned_of(world, saved, caplog):
    name = NAMES[load_zoned(saved / "hard.npz").uncertainty.predictors[0]]
    write("static", {name: covariates()[name] * 1000 + 20_000})
    assert make(saved, "--no-applicability") == 0
    assert f"{name}'s values" in caplog.text


# --- uncertainty in files --------------------------------------------------------------------------------------------------


def test_uncertainty_is_saved_to_the_bit(trained, tmp_path):
    forest, profiles, held_out = trained
    known = estimate_uncertainty(forest, profiles, held_out, "blended", 0)
    save_zoned(model(forest, known), tmp_path / "m.npz")
    again = load_zoned(tmp_path / "m.npz").uncertainty
    assert (again.calibration, again.errors, again.predictors) == (known.calibration, known.errors, known.predictors)
    np.testing.assert_array_equal(again.applicability.points, known.applicability.points)
    assert set(again.calibration.strata) <= set(ClimateZones().names)
    lower, upper = known.calibration.interval(held_out["blended"].to_numpy(), 0.9)
    inside = (held_out["observed"] >= lower) & (held_out["observed"] <= upper)
    assert 0.86 < inside.mean() < 0.97  # of those it was calibrated on


@pytest.mark.parametrize(
    "change",
    [
        lambda plain, points: (plain | {"more": 1}, points),
        lambda plain, points: (plain | {"predictors": [0, 99]}, points),
        lambda plain, points: (plain, points[:, :1]),
        lambda plain, points: (plain, points * np.float32("nan")),
        lambda plain, points: (plain, points.astype(np.float64)),
        lambda plain, points: (plain | {"errors": plain["errors"] | {"deviations": [1.0]}}, points),
        lambda plain, points: (plain | {"errors": plain["errors"] | {"cell": -1}}, points),
        lambda plain, points: (plain | {"errors": plain["errors"] | {"values": "much"}}, points),
        lambda plain, points: (plain | {"errors": []}, points),
        lambda plain, points: (plain | {"calibration": {"scale": "identity"}}, points),
        lambda plain, points: (plain | {"applicability": [1]}, points),
        lambda _, points: ([], points),
    ],
)
def test_forged_uncertainty_is_refused(saved, tmp_path, change):
    with np.load(saved / "hard.npz", allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    metadata = json.loads(content["metadata"].tobytes())
    metadata["uncertainty"], content["points"] = change(metadata["uncertainty"], content["points"])
    np.savez(tmp_path / "x.npz", **content | {"metadata": np.frombuffer(json.dumps(metadata).encode(), np.uint8)})
    with pytest.raises(UserError, match="not a model of zoned forests"):
        load_zoned(tmp_path / "x.npz")
