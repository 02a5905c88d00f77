"""The whole comparison on small datasets whose answer is known: same folds for all, nothing leaks, it goes on where it was."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from soilcarbon.benchmark.comparison import MEAN
from soilcarbon.benchmark.experiment import folds_of, pretrain, pretrained_path, stage
from soilcarbon.benchmark.results import floor_table, gather, selection_table, strongest
from soilcarbon.benchmark.trials import PEEKED, Trial, plan_trials
from soilcarbon.categories import Category
from soilcarbon.commands import compare
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.io.files import UserError, run
from soilcarbon.network.network import load_checkpoint
from soilcarbon.settings import GlobalSettings, build
from soilcarbon.soil.dataset import Dataset, write_dataset
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.metrics import scores
from soilcarbon.training.loop import predict
from soilcarbon.training.run import train

CATEGORIES = (
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="climate", variables=("bio01",)),
    Category(name="rock", variables=("lithology",), kind="classes"),
)
METHODS = ["mean", "ridge", "quantile_forest", "pretrained", "tuned", "regional"]


def make(folder, n, west, seed):
    """Write profiles in half-degree blocks of a square of 5 degrees, SOC a function of their variables with noise."""
    random = np.random.default_rng(seed)
    lon, lat = (west + 5 * random.random(n)).round(4), (40 + 5 * random.random(n)).round(4)
    patches = {name: random.normal(size=(n, 1, 1)).astype(np.float32) for name in ("elevation", "slope", "bio01")}
    patches["lithology"] = random.integers(1, 4, (n, 1, 1)).astype(np.float32)
    soc = np.exp(2 + 0.5 * patches["elevation"] - 0.4 * patches["bio01"] + 0.3 * (patches["lithology"] == 2)).ravel()
    soc *= random.lognormal(0, 0.3, n)
    ids = [f"{folder.name}{k}" for k in range(n)]
    samples = pd.DataFrame({"profile_id": ids, "lon": lon, "lat": lat, "soc": soc})
    split = np.array(["train", "train", "train", "valid", "test"])[spatial_groups(lon, lat, 0.5) % 5]
    write_dataset(folder, samples, patches, split, CATEGORIES, {"split": {"method": "blocks", "block_size": 0.5}})


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Return a folder with a world, of which the region "east" is a part, and its pretrained network."""
    root = tmp_path_factory.mktemp("land")
    make(root / "data/west", 150, 0, 1)
    make(root / "data/east", 120, 10, 2)
    make(root / "data/world", 300, 10, 3)
    settings = {"data_dir": root / "data/world", "run": "world", "epochs": 3, "target_transform": "log1p", "tensorboard": False}
    folders = {"model_dir": root / "model", "log_dir": root / "log"}
    train(build(GlobalSettings, settings | folders))
    regional = {"teacher": "ensemble", "members": 2, "validate_on": "folds", "select_on": "none", "patience": 0, "epochs": 1}
    (root / "regional.yaml").write_text(yaml.safe_dump(regional | {"center": "median", "batch_size": 512}))
    return root


def settings_of(land, out, **changes):
    """Return the settings of a small comparison."""
    values = {
        "regions": [str(land / "data/west"), str(land / "data/east")],
        "global_data": str(land / "data/world"),
        "pretrained": str(land / "model/pretrain_model/world.pth"),
        "regional": str(land / "regional.yaml"),
        "out": str(out),
        "folds": 2,
        "methods": METHODS,
        "few_methods": ["mean", "ridge"],
        "curve_methods": ["mean", "pretrained"],
        "sizes": [20],
        "repeats": 1,
        "workers": 2,
    }
    return values | changes


@pytest.fixture(scope="module")
def compared(land, tmp_path_factory):
    """Return the folder of a finished comparison, and the file of its settings."""
    out = tmp_path_factory.mktemp("compared") / "out"
    config = out.parent / "compare.yaml"
    config.write_text(yaml.safe_dump(settings_of(land, out)))
    compare.main(["--config", str(config)])
    return out, config


def test_every_method_is_scored_on_the_same_profiles_in_every_way(compared):
    out, _ = compared
    table = pd.read_csv(out / "table.csv")
    assert set(table.loc[table["way"] == "blocks", "method"]) == set(METHODS)
    assert set(table.loc[table["way"] == "random", "method"]) == {"mean", "ridge"}
    assert table.groupby("region")["n_test"].unique().map(list).to_dict() == {"west": [150], "east": [120]}
    one = table[(table["region"] == "west") & (table["way"] == "blocks") & (table["method"] == "tuned")].iloc[0]
    parts = pd.concat(pd.read_csv(path) for path in (out / "trials").glob("west-blocks-*-all.csv"))
    expected = scores(parts["observed"].to_numpy(), parts["tuned"].to_numpy())
    logs = scores(np.log1p(parts["observed"].to_numpy()), np.log1p(parts["tuned"].to_numpy()))
    for name in ("mae", "rmse", "me", "r2", "ccc", "rpiq"):
        assert one[name] == pytest.approx(expected[name], rel=1e-6)
        assert one[f"{name}_log"] == pytest.approx(logs[name], rel=1e-6)
        assert one[f"{name}_low"] <= one[name] <= one[f"{name}_high"]
    differences = pd.read_csv(out / "differences.csv")
    assert set(differences["region"]) == {"west", "east", MEAN}
    rival = differences.loc[differences["way"] == "blocks", "against"].unique()
    assert len(rival) == 1 and rival[0] in {"mean", "ridge", "quantile_forest"}


def test_profiles_of_a_fold_are_predicted_once_and_folds_are_kept(compared):
    out, _ = compared
    for region in ("west", "east"):
        folds = pd.read_csv(out / "folds" / f"{region}-blocks.csv", dtype=str).set_index("profile_id")["fold"]
        parts = [pd.read_csv(out / "trials" / f"{region}-blocks-{k}-all.csv") for k in (0, 1)]
        for k, part in enumerate(parts):
            assert set(folds[part["profile_id"]]) == {str(k)}
        assert len(pd.concat(parts)) == len(folds) == pd.concat(parts)["profile_id"].nunique()


def test_intervals_and_applicability_are_told_for_every_profile(compared):
    out, _ = compared
    part = pd.read_csv(out / "trials" / "west-blocks-0-all.csv")
    for method in ("regional", "quantile_forest"):  # conformalised level by level, a quantile forest's need not nest
        for narrow, wide in ((0.5, 0.8), (0.8, 0.9), (0.9, 0.95)):
            assert (part[f"{method}_lower_{wide}"] <= part[f"{method}_lower_{narrow}"] + 1e-9).all()
            assert (part[f"{method}_upper_{wide}"] >= part[f"{method}_upper_{narrow}"] - 1e-9).all()
    assert set(part["inside"]) <= {0, 1}
    coverage = pd.read_csv(out / "coverage.csv")
    row = coverage[(coverage["stratum"] == "all") & (coverage["level"] == 0.9) & (coverage["way"] == "blocks")]
    row = row[(row["region"] == "west") & (row["method"] == "regional")].iloc[0]
    parts = pd.concat(pd.read_csv(path) for path in (out / "trials").glob("west-blocks-*-all.csv"))
    held = (parts["regional_lower_0.9"] <= parts["observed"]) & (parts["observed"] <= parts["regional_upper_0.9"])
    assert row["coverage"] == pytest.approx(held.mean())


def test_the_report_stands_alone(compared):
    page = (compared[0] / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "west" in page and "network, as set" in page


def test_a_finished_trial_is_not_run_again_and_another_comparison_is_refused(compared, capsys):
    out, config = compared
    lost = out / "trials" / "east-blocks-1-all.csv"
    before, others = lost.read_text(), {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir() if path != lost}
    lost.unlink()
    compare.main(["--config", str(config), "--resume"])
    assert lost.read_text() == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert run(lambda: compare.main(["--config", str(config), "--resume", "--seed", "1"])) == 2
    assert "was begun with another seed; give another folder" in capsys.readouterr().err


def test_pretraining_sees_nothing_of_the_region(land, tmp_path):
    """Targets of the world's profiles in a region's blocks may be anything: the network is the same."""
    other = tmp_path / "land"
    shutil.copytree(land, other)
    world, east = pd.read_csv(other / "data/world/samples.csv"), pd.read_csv(other / "data/east/samples.csv")
    blocks = [spatial_groups(t["lon"].to_numpy(), t["lat"].to_numpy(), 0.5) for t in (world, east)]
    shared = np.isin(*blocks)
    assert 20 < shared.sum() < len(world)
    world.loc[shared, "soc"] = 900.0
    world.to_csv(other / "data/world/samples.csv", index=False)
    networks = []
    for root in (land, other):
        settings = build(CompareSettings, settings_of(root, tmp_path / f"out{len(networks)}"))
        stage.cache_clear()
        pretrain(settings.model_dump_json(), "east")
        networks.append(load_checkpoint(pretrained_path(settings, "east")))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (predict(networks[0], x)[0] == predict(networks[1], x)[0]).all()


def test_unknown_methods_and_missing_land_are_named(land, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings_of(land, tmp_path / "o", methods=["forrest"])))
    assert run(lambda: compare.main(["--config", str(config)])) == 2
    assert "method 'forrest': expected one of mean, idw" in capsys.readouterr().err
    stage.cache_clear()
    settings = build(CompareSettings, settings_of(land, tmp_path / "o", ways=["knndm"]))
    data = stage(settings.model_dump_json()).regions["west"]
    with pytest.raises(UserError, match="give --land"):
        folds_of(settings, "west", data, "knndm")
    with pytest.raises(UserError, match="no folds by wherever"):
        folds_of(settings, "west", data, "wherever")
    (land / "typo.yaml").write_text("teachr: ensemble\n")
    config.write_text(yaml.safe_dump(settings_of(land, tmp_path / "o", regional=str(land / "typo.yaml"))))
    assert run(lambda: compare.main(["--config", str(config)])) == 2
    assert "unknown setting 'teachr'; did you mean 'teacher'?" in capsys.readouterr().err


def test_trials_cover_every_fold_and_every_draw():
    values = {
        "regions": ["a", "b"],
        "global_data": "g",
        "pretrained": "p",
        "regional": "r",
        "folds": 3,
        "sizes": [25, 50],
        "repeats": 2,
    }
    found = plan_trials(build(CompareSettings, values))
    whole = plan_trials(build(CompareSettings, values | {"sizes": [0]}))
    assert len([each for each in whole if each.curve]) == 2 * 3  # all profiles can be drawn in one way only
    assert len({each.name for each in found}) == len(found) == 2 * 2 * 3 + 2 * 3 * 2 * 2
    assert {each.way for each in found if each.size} == {"blocks"}


# --- findings, by hand -----------------------------------------------------------------------------------------------


def small(y, lon, x):
    """Return a dataset of profiles by hand."""
    table = pd.DataFrame({"profile_id": [str(k) for k in range(len(y))], "lon": lon, "lat": 50.0})
    return Dataset(table, np.asarray(x, np.float32), np.asarray(y, float), {}, CATEGORIES[:1])


def test_the_floor_by_hand():
    data = small([1, 2, 6, 3, 50], range(5), [[0, np.nan]] * 4 + [[1, 1]])
    row = floor_table({"r": data}).iloc[0]
    # of 1, 2, 3, 6 each against the median of the other three: 3-1, 3-2, 3-2, 6-2; of all five the median is 3
    assert (row["n"], row["floor_mae"], row["median_mae"]) == (4, (2 + 1 + 1 + 4) / 4, (2 + 1 + 0 + 3) / 4)


def test_the_strongest_baseline_is_no_network_and_large_errors_do_not_outvote():
    rows = [
        ("a", "mean", 100.0),
        ("a", "forest", 90.0),
        ("a", "tuned", 1.0),
        ("b", "mean", 1.0),
        ("b", "forest", 2.0),
        ("b", "tuned", 0.1),
    ]
    table = pd.DataFrame(rows, columns=["region", "method", "mae"]).assign(way="blocks")
    assert strongest(table) == {"blocks": "mean"}


def test_what_peeking_flatters_is_the_difference_of_fold_means():
    data = small([1.0, 2, 3, 4], range(4), np.zeros((4, 2)))
    trials_ = [
        (
            Trial(region="r", way="blocks", fold=fold, methods=("tuned",)),
            pd.DataFrame({"profile_id": ids, "observed": y, "n_train": 2, "tuned": np.add(y, 2.0), PEEKED: np.add(y, 1.0)}),
        )
        for fold, ids, y in ((0, ["0", "1"], [1.0, 2.0]), (1, ["2", "3"], [3.0, 4.0]))
    ]
    found, _ = gather(trials_, {"r": data})
    table = selection_table(found, "blocks").set_index(["score", "chosen_on"])["value"]
    assert (table["rmse", "validation"], table["rmse", "test"]) == (2.0, 1.0)


def test_trials_are_named_apart():
    found = [
        Trial(region=region, way=way, fold=fold, size=size, curve=curve, methods=())
        for region in ("a", "b")
        for way in ("blocks", "random")
        for fold in (0, 1)
        for size in (0, 50)
        for curve in (False, True)
    ]
    assert len({each.name for each in found}) == len(found)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"regions": ["a/kenya", "b/kenya"]}, "two regions are named 'kenya'"),
        ({"regions": ["."]}, "names a region and files"),
        ({"ways": ["blocks", "blocks"]}, "'blocks' comes twice"),
        ({"ways": []}, "at least 1 item"),
        ({"ways": ["blocsk"]}, "'random', 'place', 'blocks', 'region' or 'knndm'"),
        ({"sizes": [5]}, "5 profiles are too few"),
        ({"few_methods": []}, "at least 1 item"),
        ({"ways": ["knndm"], "profiles": 50}, "knndm matches distances of all profiles"),
        ({"ways": ["random"], "block_size": 1}, "block_size is of the way blocks"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, words):
    values = {"regions": ["a"], "global_data": "g", "pretrained": "p", "regional": "r"}
    with pytest.raises(UserError, match=words):
        build(CompareSettings, values | changes)


def test_without_a_baseline_there_is_nothing_to_compare_with():
    values = {"regions": ["a"], "global_data": "g", "pretrained": "p", "regional": "r", "methods": ["tuned"]}
    with pytest.raises(UserError, match="at least one baseline"):
        plan_trials(build(CompareSettings, values))


def test_finished_trials_are_never_cleared(land, tmp_path, capsys):
    (tmp_path / "o" / "trials").mkdir(parents=True)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings_of(land, tmp_path / "o")))
    assert run(lambda: compare.main(["--config", str(config)])) == 2
    assert "results of an earlier run; continue it with --resume, or give another folder" in capsys.readouterr().err
    assert (tmp_path / "o" / "trials").is_dir()
