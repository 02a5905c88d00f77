"""train_zoned.py and the table it learns from, as a user meets them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_dataset
from rasterio.transform import Affine
from simulated import zoned_world

from soilcarbon.benchmark.baselines import Known
from soilcarbon.commands import densities, simulate
from soilcarbon.commands import zones as train_zoned
from soilcarbon.commands.zones import ZonedSettings
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError, run
from soilcarbon.settings import build
from soilcarbon.zonal import evaluation as zonedscores
from soilcarbon.zonal.indices import INDICES
from soilcarbon.zonal.persistence import load_zoned
from soilcarbon.zonal.space_time import read_space_time

NAMES = ["map", "mat", "a", "b", "noise", "year"]
QUICK = [
    "--covariates",
    *NAMES[:5],
    "--best",
    "2",
    "--folds",
    "2",
    "--inner_folds",
    "2",
    "--candidates",
    "2",
    "--search_trees",
    "4",
]
QUICK += ["--trees", "10", "--fewest", "35", "--workers", "1", "--block_size", "2"]
GRID = Affine(1, 0, 80, 0, -1, 50)
"""Of 25 x 40 cells, as large as the zoned world."""


def samples(folder, n=200, **changes):
    land = zoned_world(n)
    table = pd.DataFrame(land.x, columns=NAMES).assign(profile_id=[f"p{k}" for k in range(n)], lon=land.lon, lat=land.lat)
    table = table.assign(socd_0_20=land.y, socd_0_100=land.y * 2, bulk_density=1.3)
    table.loc[: n // 3, "socd_0_100"] = np.nan
    for name, value in changes.items():
        table[name] = value(table[name]) if callable(value) else value
    table.to_csv(folder / "s.csv", index=False)
    return table


def train(*more):
    return run(lambda: train_zoned.main(["--samples", "s.csv", *QUICK, *more]))


def settings(**values):
    return build(ZonedSettings, {"samples": "s.csv"} | values)


# --- the script --------------------------------------------------------------------------------------------------------


def test_from_a_table_to_scores_and_models(workplace, caplog):
    caplog.set_level("INFO")
    given = samples(workplace, year=lambda year: year.where(np.arange(len(year)) >= 3))
    assert train() == 0
    assert "left out: 3 profiles, no year" in caplog.text
    small = pd.read_csv("results/zoned/differences.csv").query(
        "target == 'socd_0_20' and rmse_low == 0 and rmse_high == 0 and method == 'zoned'"
    )
    assert len(small) == caplog.text.split("socd_0_100: ")[0].count("served by the forest of all") > 0
    assert "all (n = 197)" in caplog.text
    tables = {name: pd.read_csv(f"results/zoned/{name}.csv") for name in ("scores", "differences", "importances", "predictions")}
    assert all(table["target"].unique().tolist() == ["socd_0_20", "socd_0_100"] for table in tables.values())
    overall = tables["scores"].query("zone == 'all' and method == 'zoned'").set_index("target")
    assert overall["n"].to_dict() == {"socd_0_20": 197, "socd_0_100": int(given["socd_0_100"].notna().sum())}
    assert set(tables["importances"]["covariate"]) <= set(NAMES[:5])
    predictions = tables["predictions"].query("target == 'socd_0_20'").set_index("profile_id")
    truth = given.set_index("profile_id")["socd_0_20"]
    np.testing.assert_allclose(predictions["observed"], truth[predictions.index])
    assert pd.read_csv("results/zoned/left_out.csv")["profile_id"].tolist() == ["p0", "p1", "p2"]
    trace = pd.read_csv("results/zoned/trace/socd_0_20-final.csv")
    assert set(trace["columns"].str.split().explode()) <= set(NAMES[:5])
    for target in ("socd_0_20", "socd_0_100"):
        model, facts = load_zoned(Path(f"model/zoned_{target}.skops"))
        assert (facts.target, facts.variables, model.zones.width_precipitation) == (target, tuple(NAMES), 0)
        beside = yaml.safe_load(Path(f"model/zoned_{target}.yaml").read_text())
        r2 = overall.loc[target, "r2"]
        assert next(
            row["r2"] for row in beside["record"]["scores"] if (row["zone"], row["method"]) == ("all", "zoned")
        ) == pytest.approx(r2)


def test_resume_keeps_finished_folds_and_ends_alike(workplace, monkeypatch, capsys):
    samples(workplace)
    one = ["--targets", "socd_0_20", "--boundary", "blended"]
    assert train(*one) == 0
    whole = {path.name: path.read_bytes() for path in Path("results/zoned").glob("*.csv")}
    model = Path("model/zoned_socd_0_20.skops")
    assert load_zoned(model)[0].zones.width_precipitation == 50
    Path("results/zoned/folds/socd_0_20-1-predictions.csv").unlink()
    held, real = [], zonedscores.hold_out
    monkeypatch.setattr(
        zonedscores,
        "hold_out",
        lambda known, folds, fold, *more, **rest: held.append(fold) or real(known, folds, fold, *more, **rest),
    )
    assert train(*one) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert train(*one, "--resume", "--trees", "11") == 2
    assert "was begun with another trees" in capsys.readouterr().err
    assert train(*one, "--resume") == 0
    assert held == [1]
    assert {path.name: path.read_bytes() for path in Path("results/zoned").glob("*.csv")} == whole
    samples(workplace, a=0.5)
    assert train(*one, "--resume") == 2
    assert "was begun with another digest" in capsys.readouterr().err


# --- the table -----------------------------------------------------------------------------------------------------------


def test_rasters_and_periods_become_covariates_and_columns_of_the_table_do_not(workplace):
    samples(
        workplace, year=lambda year: np.where(np.arange(len(year)) == 0, 1979, np.where(np.arange(len(year)) == 1, 2016, 1987.5))
    )
    write_geotiff(workplace / "static.tif", np.arange(1000.0).reshape(1, 25, 40), ["height"], GRID)
    for year, value in ((1986, 1.0), (1988, 3.0), (1991, 9.0)):
        write_geotiff(workplace / f"p/{year}/x.tif", np.full((1, 25, 40), value), ["ndvi"], GRID)
    data = read_space_time(settings(rasters=["static.tif"], periodic="p"))
    assert (data.covariates, data.variables) == (("height", "ndvi"), ("height", "ndvi", "map", "mat", "year"))
    assert data.left_out.set_index("profile_id")["reason"].to_dict() == {"p0": "year before 1985", "p1": "no rasters of its period"}
    assert data.table["ndvi"].unique().tolist() == [2.0]
    row = data.table.iloc[5]
    assert row["height"] == np.floor(50 - row["lat"]) * 40 + np.floor(row["lon"] - 80)
    known, ids = data.known("socd_0_100", 2.0)
    assert known.x.shape == (len(ids), 5)
    np.testing.assert_array_equal(known.y, data.table.set_index("profile_id").loc[ids, "socd_0_100"])
    assert len(ids) == data.table["socd_0_100"].notna().sum() < len(data.table)


def test_a_datasets_folder_gives_its_variables(tmp_path):
    folder = make_dataset(tmp_path / "data", n=40)
    table = pd.read_csv(folder / "samples.csv").assign(year=2000)
    table.to_csv(folder / "samples.csv", index=False)
    data = read_space_time(settings(samples=folder, targets=["soc"], precipitation="bio12", temperature="bio01"))
    assert (len(data.covariates), data.covariates[0], data.variables[-1]) == (32, "band1", "year")
    patch = pd.read_pickle(folder / "patches" / "bio12.pkl")  # noqa: S301 - made above
    assert data.table["bio12"].iloc[3] == patch[data.table["profile_id"].iloc[3]][1, 1]


@pytest.mark.parametrize(
    ("values", "change", "words"),
    [
        ({}, {}, "no covariates: give --rasters"),
        ({"covariates": ["a", "bb"]}, {}, "no column or variable 'bb'; did you mean 'b'"),
        ({"covariates": ["a"], "precipitation": "rain"}, {}, "no column or variable 'rain'; --precipitation takes one of"),
        ({"covariates": ["a"], "targets": ["socd"]}, {}, "no column 'socd'; did you mean 'socd_0_20'"),
        ({"covariates": ["a", "socd_0_20"]}, {}, "'socd_0_20' is a target"),
        ({"covariates": ["a"], "year": "sampled"}, {}, "no column 'sampled' of sampling years"),
        ({"covariates": ["a"]}, {"a": "much"}, "'a' has no number at any of the 200 profiles"),
        ({"covariates": ["a"]}, {"year": np.nan}, "'year' has no number"),
        ({"covariates": ["a"]}, {"socd_0_20": -1.0}, "socd_0_20 must lie between 0"),
        ({"rasters": ["twin.tif"]}, {}, "variable 'a' is a column already"),
    ],
)
def test_what_is_wrong_with_the_input_is_told(values, change, words, workplace):
    samples(workplace, **change)
    write_geotiff(workplace / "twin.tif", np.zeros((1, 25, 40)), ["a"], GRID)
    with pytest.raises(UserError, match=words):
        read_space_time(settings(**values))


def test_profiles_without_climate_or_any_target_are_left_out(workplace):
    table = samples(workplace, map=lambda mm: mm.where(np.arange(len(mm)) != 4))
    table.loc[7, ["socd_0_20", "socd_0_100"]] = np.nan
    table.to_csv("s.csv", index=False)
    data = read_space_time(settings(covariates=["a"]))
    assert data.left_out.set_index("profile_id")["reason"].to_dict() == {"p4": "no map", "p7": "no target"}
    data.table["socd_0_20"] = np.nan
    with pytest.raises(UserError, match="target 'socd_0_20': 0 of 198 profiles have one"):
        data.known("socd_0_20", 2.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"targets": ["a/b"]}, "names files too"),
        ({"targets": ["a", "a"]}, "'a' comes twice"),
        ({"zone_names": ["a", "b", "c"]}, "at least 4"),
        ({"best": 15}, "less than or equal to 14"),
    ],
)
def test_settings_that_do_not_fit_are_told(values, words):
    with pytest.raises(UserError, match=words):
        settings(**values)


# --- zones of a ready map, no years, the network ---------------------------------------------------------------------------


def test_zones_of_a_raster_and_profiles_without_years(workplace, caplog):
    caplog.set_level("INFO")
    samples(workplace, year=np.nan)
    code = np.where(np.arange(40) < 20, 4.0, 9.0) * np.ones((25, 1))
    code[:, -1] = np.nan
    write_geotiff(workplace / "eco.tif", code[None], ["ecoregion"], GRID)
    assert train("--zone", "ecoregion", "--rasters", "eco.tif", "--year", "none", "--targets", "socd_0_20") == 0
    zones = pd.read_csv("results/zoned/predictions.csv").groupby("zone").size()
    assert set(zones.index) == {"zone 4", "zone 9"}
    left = pd.read_csv("results/zoned/left_out.csv")["reason"].value_counts().to_dict()
    assert set(left) <= {"no ecoregion"}
    assert zones.sum() + sum(left.values()) == 200
    model, facts = load_zoned(Path("model/zoned_socd_0_20.skops"))
    assert (model.zones.codes, facts.variables[-1], facts.precipitation) == ((4.0, 9.0), "ecoregion", facts.temperature)
    land = zoned_world(200)
    places = Known(np.column_stack([land.x[:, :5], np.full(200, 9.0)]), land.y, land.lon, land.lat, land.units)
    np.testing.assert_array_equal(model.predict(places), model.forests["zone 9"].predict(places))
    places.x[:, 5] = 5.0  # a zone without any profile
    assert np.isnan(model.predict(places)).all()


def test_a_ready_zone_is_no_covariate_unless_it_is_named(workplace):
    samples(workplace)
    write_geotiff(workplace / "r.tif", np.stack([np.ones((25, 40)), np.arange(1000.0).reshape(25, 40)]), ["eco", "height"], GRID)
    assert read_space_time(settings(rasters=["r.tif"], zone="eco")).covariates == ("height",)
    assert read_space_time(settings(rasters=["r.tif"], zone="eco", covariates=["eco", "height"])).covariates == ("eco", "height")


@pytest.mark.parametrize(("column", "words"), [("a", "different whole numbers are needed"), ("many", "101 zones, more than 100")])
def test_a_measurement_is_no_zone(column, words, workplace, capsys):
    samples(workplace, many=np.arange(200) % 101)
    assert train("--zone", column) == 2
    assert words in capsys.readouterr().err


def test_periods_need_years():
    with pytest.raises(UserError, match="they need year"):
        settings(periodic="p", year=None)


def test_the_network_is_scored_on_the_same_profiles(workplace):
    samples(workplace)
    assert train("--targets", "socd_0_20", "--network", "--network_epochs", "2") == 0
    found = pd.read_csv("results/zoned/predictions.csv")
    assert found[["unzoned", "zoned", "blended", "network", "network zoned"]].notna().all(axis=None)
    table = pd.read_csv("results/zoned/scores.csv").query("zone == 'all'").set_index("method")
    error = found["network zoned"] - found["observed"]
    assert table.loc["network zoned", "rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    pairs = pd.read_csv("results/zoned/differences.csv").query("zone == 'all'")[["method", "against"]].to_numpy().tolist()
    assert pairs == [list(pair) for pair in zonedscores.PAIRS]


# --- make zoned ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_simulated_horizons_to_scores_as_the_preset_has_it(workplace):
    assert run(lambda: simulate.main(["--world", "china", "--profiles", "350", "--cell", "1.5"])) == 0
    folder = workplace / "data/sim/china"
    horizons = ["--horizons", str(folder / "horizons.csv"), "--out", str(folder / "densities.csv")]
    assert run(lambda: densities.main(horizons)) == 0
    preset = ["--config", str(Path(__file__).parents[2] / "configs/sim_zoned.yaml"), "--targets", "socd_0_20"]
    quick = ["--best", "3", "--folds", "2", "--inner_folds", "2", "--candidates", "1", "--search_trees", "5", "--trees", "20"]
    assert run(lambda: train_zoned.main([*preset, *quick, "--workers", "1", "--network_epochs", "2", "--fewest", "30"])) == 0
    left = pd.read_csv("results/sim_zoned/left_out.csv")["reason"].unique().tolist()
    assert "year before 1985" in left
    _, facts = load_zoned(Path("model/sim_zoned_socd_0_20.skops"))
    assert set(INDICES) | {"map", "mat", "clay_map", "rain_5y", "slope"} <= set(facts.variables)
    scores = pd.read_csv("results/sim_zoned/scores.csv").query("zone == 'all'").set_index("method")
    assert scores.loc["unzoned", "r2"] > 0.15
    assert Path("results/sim_zoned/scores.png").is_file()
