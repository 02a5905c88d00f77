"""soilcarbon zones: from a table to scores and models, resumed runs, zones of a map, bad input."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from damage import damage
from rasterio.transform import Affine
from simulated import ZONED_NAMES, write_zoned_samples, zoned_world

from soilcarbon.commands import map as make_map
from soilcarbon.commands import zones
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run
from soilcarbon.zonal import train
from soilcarbon.zonal.climate_zones import OneZone
from soilcarbon.zonal.evaluation import METHODS, PAIRS
from soilcarbon.zonal.forest import ZonedNetwork
from soilcarbon.zonal.persistence import load_zoned

pytestmark = pytest.mark.usefixtures("light_maps")

QUICK = ["--folds", "2", "--inner_folds", "2", "--candidates", "2", "--search_trees", "4", "--trees", "10", "--workers", "1"]
ONE = ["--targets", "socd_0_20"]


def command(*more):
    given = ["--samples", "s.csv", "--covariates", *ZONED_NAMES[:5], "--best", "2", "--block_size", "2", *QUICK]
    return run(lambda: zones.main([*given, *more]))


def results(name):
    return pd.read_csv(f"results/zoned/{name}.csv")


def test_from_a_table_to_scores_and_models(workplace, caplog):
    caplog.set_level("INFO")
    given = write_zoned_samples(workplace, year=lambda year: year.where(year.index >= 3))
    assert command() == 0
    assert "left out: 3 profiles, no year" in caplog.text
    tables = {name: results(name) for name in ("scores", "differences", "importances", "predictions")}
    assert all(table["target"].unique().tolist() == ["socd_0_20", "socd_0_100"] for table in tables.values())
    overall = tables["scores"].query("zone == 'all' and method == 'zoned'").set_index("target")
    assert overall["n"].to_dict() == {"socd_0_20": 197, "socd_0_100": int(given["socd_0_100"].notna().sum())}
    change = tables["differences"].query("zone == 'all' and method == 'zoned'").iloc[0]
    assert f"{change['rmse']:+.1f} [{change['rmse_low']:+.1f}, {change['rmse_high']:+.1f}]" in caplog.text
    assert set(tables["importances"]["covariate"]) <= set(ZONED_NAMES[:5])
    predictions = tables["predictions"].query("target == 'socd_0_20'").set_index("profile_id")
    np.testing.assert_allclose(predictions["observed"], given.set_index("profile_id")["socd_0_20"][predictions.index])
    assert results("left_out")["profile_id"].tolist() == ["p0", "p1", "p2"]
    assert set(results("trace/socd_0_20-final")["columns"].str.split().explode()) <= set(ZONED_NAMES[:5])
    for target in ("socd_0_20", "socd_0_100"):
        model = load_zoned(Path(f"model/zoned_{target}.npz"))
        assert (model.target, model.variables, model.forest.zones.width_precipitation) == (target, tuple(ZONED_NAMES), 0)
        scores = yaml.safe_load(Path(f"model/zoned_{target}.yaml").read_text())["record"]["scores"]
        r2 = {(row["zone"], row["method"]): row["r2"] for row in scores}
        assert r2["all", "zoned"] == pytest.approx(overall.loc[target, "r2"])


@pytest.mark.slow
def test_resume_keeps_finished_folds_and_ends_alike(workplace, monkeypatch, capsys):
    write_zoned_samples(workplace)
    one = [*ONE, "--boundary", "blended"]
    assert command(*one) == 0
    whole = {path.name: path.read_bytes() for path in Path("results/zoned").glob("*.csv")}
    assert load_zoned(Path("model/zoned_socd_0_20.npz")).forest.zones.width_precipitation == 50
    Path("results/zoned/folds/socd_0_20-1-predictions.csv").unlink()
    held, real = [], train.evaluation.hold_out
    monkeypatch.setattr(train.evaluation, "hold_out", lambda *more, **rest: held.append(more[2]) or real(*more, **rest))
    for more, words in ((), "--resume"), (("--resume", "--trees", "11"), "other values of trees"):
        assert command(*one, *more) == 2
        assert words in capsys.readouterr().err
    assert command(*one, "--resume", "--workers", "2") == 0
    assert held == [1]
    assert {path.name: path.read_bytes() for path in Path("results/zoned").glob("*.csv")} == whole
    for seed in range(4):
        damage(sorted(Path("results/zoned/folds").glob(f"*-{seed % 2}-{('predictions', 'increases')[seed // 2]}.csv")), seed)
        assert command(*one, "--resume") == 0
        assert held[1:] == [0, 1, 0, 1][: seed + 1]
        assert {path.name: path.read_bytes() for path in Path("results/zoned").glob("*.csv")} == whole
    write_zoned_samples(workplace, a=0.5)
    assert command(*one, "--resume") == 2
    assert "other values of the input files" in capsys.readouterr().err


def test_one_zone_needs_neither_climate_nor_zones_and_is_mapped(workplace, capsys):
    write_zoned_samples(workplace)
    pd.read_csv("s.csv").drop(columns=["map", "mat"]).to_csv("s.csv", index=False)
    given = ["--samples", "s.csv", "--covariates", "a", "b", "--best", "2", "--block_size", "2", *QUICK]
    assert run(lambda: zones.main([*given, "--zone", "none", *ONE])) == 0
    model = load_zoned(Path("model/zoned_socd_0_20.npz"))
    assert (model.forest.zones, model.forest.climate) == (OneZone(), ())
    scores = results("scores").query("zone == 'all'").set_index("method")
    assert scores.loc["zoned", "rmse"] == scores.loc["unzoned", "rmse"]
    for name in ("a", "b"):
        values = np.random.default_rng(0).normal(size=(1, 20, 30)).astype(np.float32)
        write_geotiff(workplace / f"static/{name}.tif", values, [name], Affine(0.5, 0, 90, 0, -0.5, 40))
    one = ["--checkpoint", "model/zoned_socd_0_20.npz", "--rasters", "static", "--out", "out/socd.tif", "--workers", "1"]
    assert run(lambda: make_map.main(one)) == 0
    assert pd.read_csv("out/socd_totals.csv")["zone"].tolist() == ["whole map"]


def test_zones_of_a_raster_and_profiles_without_years(workplace):
    write_zoned_samples(workplace, year=np.nan)
    code = np.where(np.arange(40) < 20, 4.0, 9.0) * np.ones((25, 1))
    code[:, -1] = np.nan
    write_geotiff(workplace / "eco.tif", code[None], ["ecoregion"], Affine(1, 0, 80, 0, -1, 50))
    assert command("--zone", "ecoregion", "--rasters", "eco.tif", "--year", "none", *ONE) == 0
    counts = results("predictions").groupby("zone").size()
    assert set(counts.index) == {"zone 4", "zone 9"}
    left = results("left_out")["reason"].value_counts().to_dict()
    assert set(left) <= {"no ecoregion"}
    assert counts.sum() + sum(left.values()) == 200
    model = load_zoned(Path("model/zoned_socd_0_20.npz"))
    forest = model.forest
    assert (forest.zones.codes, model.variables[-1], forest.climate) == ((4.0, 9.0), "ecoregion", (5,))
    x = np.column_stack([zoned_world(200).x[:, :5], np.full(200, 9.0)])
    np.testing.assert_array_equal(forest.predict(x), forest.forests["zone 9"].predict(x))
    x[:, 5] = 5.0  # a zone without any profile
    assert np.isnan(forest.predict(x)).all()


@pytest.mark.slow
def test_the_network_is_scored_on_the_same_profiles(workplace, monkeypatch):
    write_zoned_samples(workplace)
    monkeypatch.setattr(train, "ZonedNetwork", partial(ZonedNetwork, epochs=2))
    assert command(*ONE, "--network") == 0
    found = results("predictions")
    assert found[list(METHODS)].notna().all(axis=None)
    table = results("scores").query("zone == 'all'").set_index("method")
    error = found["network zoned"] - found["observed"]
    assert table.loc["network zoned", "rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    pairs = results("differences").query("zone == 'all'")[["method", "against"]].to_numpy().tolist()
    assert pairs == [list(pair) for pair in PAIRS]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--targets", "a/b"], "part of file names"),
        (["--targets", "a", "a"], "'a' comes twice"),
        (["--zone_names", "a", "b", "c"], "at least 4"),
        (["--best", "15"], "less than or equal to 14"),
        (["--band_widths", "50", "-1"], "greater than or equal to 0"),
        (["--periods", "p", "--year", "none"], "they need year"),
        (["--zone", "a"], "expected different whole numbers"),
        (["--zone", "many"], "101 zones, more than 100"),
        (["--covariates", "aa"], "no column or variable 'aa'; did you mean 'a'"),
        (["--samples", "none.csv"], "none.csv: no such"),
    ],
)
def test_bad_input_ends_with_status_2(arguments, words, workplace, capsys):
    write_zoned_samples(workplace, many=np.arange(200) % 101)
    assert command(*arguments) == 2
    assert words in capsys.readouterr().err
    assert not Path("model").exists()
