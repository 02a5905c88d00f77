"""Comparisons on small datasets: by cross-validation (same folds for all, no leaks, resumed), and of finished runs."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import plot_nothing
from damage import damage

from soilcarbon.benchmark import network_variants, trained_runs
from soilcarbon.benchmark.baselines import BASELINES
from soilcarbon.benchmark.network_variants import plain_settings
from soilcarbon.benchmark.regions import plan_runs, pretrain, pretrained_path, read_inputs
from soilcarbon.benchmark.results import MEAN
from soilcarbon.benchmark.runs import Run
from soilcarbon.categories import Category
from soilcarbon.commands import compare
from soilcarbon.commands.arguments import read_settings
from soilcarbon.commands.compare import CompareSettings, design_of
from soilcarbon.io.files import UserError, run
from soilcarbon.io.tables import read_table
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.regression.estimators import QuantileForest
from soilcarbon.settings import GlobalSettings, PredictSettings, build, find_config
from soilcarbon.soil.dataset import write_dataset
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.metrics import scores
from soilcarbon.training import distillation
from soilcarbon.training.run import train

pytestmark = pytest.mark.usefixtures("small_learners")

CATEGORIES = (
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="climate", variables=("bio01",)),
    Category(name="rock", variables=("lithology",), kind="classes"),
)
SVR = {"name": "svr", "estimator": "sklearn.svm.SVR", "parameters": {"epsilon": 0.1}, "grid": {"C": [1.0, 10.0]}}
METHODS = ["mean", "ridge", "quantile_forest", "svr", "pretrained", "tuned", "regional"]


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
def study(tmp_path_factory):
    """Return a folder with a world, of which the region "east" is a part, and its pretrained network."""
    root = tmp_path_factory.mktemp("study")
    make(root / "data/west", 150, 0, 1)
    make(root / "data/east", 120, 10, 2)
    make(root / "data/world", 300, 10, 3)
    settings = {"data_dir": root / "data/world", "run": "world", "epochs": 3, "target_transform": "log1p", "tensorboard": False}
    folders = {"model_dir": root / "model", "log_dir": root / "log"}
    train(build(GlobalSettings, settings | folders))
    regional = {"teacher": "ensemble", "members": 2, "validate_on": "folds", "select_on": "none", "patience": 0, "epochs": 1}
    (root / "regional.yaml").write_text(yaml.safe_dump(regional | {"center": "median", "batch_size": 512}))
    return root


def settings_of(study, out, **changes):
    """Return the settings of a small comparison."""
    values = {
        "regions": [str(study / "data/west"), str(study / "data/east")],
        "global_data": str(study / "data/world"),
        "pretrained": str(study / "model/pretrain_model/world.pth"),
        "regional": str(study / "regional.yaml"),
        "out": str(out),
        "folds": 2,
        "methods": [SVR if name == "svr" else name for name in METHODS],
        "few_methods": ["mean", "pretrained"],
        "sizes": [20],
        "repeats": 1,
        "workers": 1,
    }
    return values | changes


@pytest.fixture(scope="module")
def compared(study, tmp_path_factory):
    """Return the folder of a finished comparison of hardly trained methods, and the file of its settings."""
    out = tmp_path_factory.mktemp("compared") / "out"
    config = out.parent / "compare.yaml"
    config.write_text(yaml.safe_dump(settings_of(study, out)))
    few = {"regressor": QuantileForest(15), "while_tuning": {"n_estimators": 5}}
    forest = dataclasses.replace(BASELINES["quantile_forest"], **few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_variants, "plain_settings", lambda settings, **more: plain_settings(settings, **more | {"epochs": 2}))
        patch.setitem(BASELINES, "quantile_forest", forest)
        patch.setattr(distillation, "MIXED", 300)
        plot_nothing(patch)
        compare.main(["--config", str(config)])
        yield out, config


def test_every_method_is_scored_on_the_same_profiles_under_every_strategy(compared):
    out, _ = compared
    table = pd.read_csv(out / "scores.csv")
    assert set(table.loc[table["strategy"] == "blocks", "method"]) == set(METHODS)
    assert set(table.loc[table["strategy"] == "random", "method"]) == {"mean", "pretrained"}
    assert table.groupby("region")["n_test"].unique().map(list).to_dict() == {"west": [150], "east": [120]}
    one = table[(table["region"] == "west") & (table["strategy"] == "blocks") & (table["method"] == "tuned")].iloc[0]
    parts = pd.concat(pd.read_csv(path) for path in (out / "runs").glob("west-blocks-*-all.csv"))
    expected = scores(parts["observed"].to_numpy(), parts["tuned"].to_numpy())
    logs = scores(np.log1p(parts["observed"].to_numpy()), np.log1p(parts["tuned"].to_numpy()))
    for name in ("mae", "rmse", "me", "r2", "ccc", "rpiq"):
        assert one[name] == pytest.approx(expected[name], rel=1e-6)
        assert one[f"{name}_log"] == pytest.approx(logs[name], rel=1e-6)
        assert one[f"{name}_low"] <= one[name] <= one[f"{name}_high"]
    differences = pd.read_csv(out / "differences.csv")
    assert set(differences["region"]) == {"west", "east", MEAN}
    reference = differences.loc[differences["strategy"] == "blocks", "against"].unique()
    assert len(reference) == 1 and reference[0] in {"mean", "ridge", "quantile_forest", "svr"}


def test_intervals_and_applicability_are_there_for_every_profile(compared):
    out, _ = compared
    part = pd.read_csv(out / "runs" / "west-blocks-0-all.csv")
    for method in ("regional", "quantile_forest"):  # conformalised level by level, a quantile forest's need not nest
        for narrow, wide in ((0.5, 0.8), (0.8, 0.9), (0.9, 0.95)):
            assert (part[f"{method}_lower_{wide}"] <= part[f"{method}_lower_{narrow}"] + 1e-9).all()
            assert (part[f"{method}_upper_{wide}"] >= part[f"{method}_upper_{narrow}"] - 1e-9).all()
    assert set(part["inside"]) <= {0, 1}
    coverage = pd.read_csv(out / "coverage.csv")
    row = coverage[(coverage["stratum"] == "all") & (coverage["level"] == 0.9) & (coverage["strategy"] == "blocks")]
    row = row[(row["region"] == "west") & (row["method"] == "regional")].iloc[0]
    parts = pd.concat(pd.read_csv(path) for path in (out / "runs").glob("west-blocks-*-all.csv"))
    held = (parts["regional_lower_0.9"] <= parts["observed"]) & (parts["observed"] <= parts["regional_upper_0.9"])
    assert row["coverage"] == pytest.approx(held.mean())


def test_a_case_has_the_network_without_its_region_and_all_methods_aim_at_what_regional_says(compared):
    design = design_of(read_settings(CompareSettings, "", ["--config", str(compared[1])]))
    run, path = Run("blocks", 1, (), region="east", size=20, curve=True), pretrained_path(design, "east")
    case = design.divide(run)
    assert load_checkpoint(path).specification.center == "mean" and case.start.specification.center == "median"
    assert len(case.rows) == 20 and not case.whole and case.region is read_inputs(design).regions["east"]
    folds = design.folds_for("blocks", region="east").folds
    assert (folds[case.rows] == 0).all() and (folds[case.test] == 1).all() and len(case.test) == (folds == 1).sum()


def test_the_report_stands_alone(compared):
    page = (compared[0] / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "west" in page and "network, fine-tuned by --regional" in page


@pytest.mark.slow
def test_a_finished_run_is_not_run_again_and_another_comparison_is_refused(compared, capsys):
    out, config = compared
    lost = out / "runs" / "east-blocks-1-all.csv"
    before, others = lost.read_text(), {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.csv") if path != lost}
    lost.unlink()
    compare.main(["--config", str(config), "--resume"])
    assert lost.read_text() == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    tables = {path: path.read_bytes() for path in (*out.glob("*.csv"), *(out / "runs").glob("*.csv"))}
    damage([*sorted((out / "runs").glob("*.csv"))[1:], *sorted((out / "folds").glob("*.csv"))], seed=16)
    damage(sorted((out / "pretrained").glob("*.pth")), seed=16)
    compare.main(["--config", str(config), "--resume"])
    assert {path: path.read_bytes() for path in tables} == tables
    assert run(lambda: compare.main(["--config", str(config), "--resume", "--seed", "1"])) == 2
    assert "was begun with other values of seed; give another folder" in capsys.readouterr().err


def test_pretraining_sees_nothing_of_the_region(study, tmp_path):
    """Targets of the world's profiles in a region's blocks may be anything: the network is the same."""
    other = tmp_path / "study"
    shutil.copytree(study, other)
    world, east = pd.read_csv(other / "data/world/samples.csv"), pd.read_csv(other / "data/east/samples.csv")
    blocks = [spatial_groups(t["lon"].to_numpy(), t["lat"].to_numpy(), 0.5) for t in (world, east)]
    shared = np.isin(*blocks)
    assert 20 < shared.sum() < len(world)
    world.loc[shared, "soc"] = 900.0
    world.to_csv(other / "data/world/samples.csv", index=False)
    networks = []
    for root in (study, other):
        design = design_of(build(CompareSettings, settings_of(root, tmp_path / f"out{len(networks)}")))
        read_inputs.cache_clear()
        pretrain(design, "east")
        networks.append(load_checkpoint(pretrained_path(design, "east")))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (predict(networks[0], x)[0] == predict(networks[1], x)[0]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["forrest"]}, "method 'forrest' is not known; did you mean 'forest'?; there are mean, idw"),
        ({"methods": ["tuned"]}, "at least one baseline"),
        ({"methods": [SVR | {"name": "forest"}]}, "'forest' is the name of another method"),
        ({"methods": [SVR | {"estimator": "os.system"}]}, "expected a regressor of sklearn"),
        ({"methods": [{"name": "svr"}]}, "estimator: Field required"),
        ({"regional": "typo.yaml"}, "unknown setting 'teachr'; did you mean 'teacher'?"),
        ({"regions": ["a/kenya", "b/kenya"]}, "two regions are named 'kenya'"),
        ({"regions": ["."]}, "names a region and files"),
        ({"regions": []}, "--regions is required"),
        ({"pretrained": None}, "--pretrained is required: checkpoint whose settings the pretraining takes (soilcarbon train"),
        ({"pretrained": "absent.pth"}, "absent.pth: no such checkpoint; a comparison in several regions trains it"),
        ({"strategies": ["blocks", "blocks"]}, "'blocks' comes twice"),
        ({"strategies": []}, "at least 1 item"),
        ({"strategies": ["blocsk"]}, "'random', 'place', 'blocks', 'region' or 'knndm'"),
        ({"sizes": [5]}, "5 profiles are too few"),
        ({"few_methods": []}, "at least 1 item"),
        ({"strategies": ["knndm"], "profiles": 50}, "knndm matches distances of all profiles"),
        ({"strategies": ["random"], "block_size": 1}, "block_size applies to the strategy blocks"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, words, study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("typo.yaml").write_text("teachr: ensemble\n")
    Path("c.yaml").write_text(yaml.safe_dump(settings_of(study, "out", **changes)))
    assert run(lambda: compare.main(["--config", "c.yaml"])) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["sim_compare", "realdata_compare", "realdata_curves", "realdata_untouched"])
def test_presets_name_methods_and_settings_that_exist(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    design = design_of(read_settings(CompareSettings, "", ["--config", f"configs/{name}.yaml"]))
    assert design.regional.teacher == "ensemble" and plan_runs(design).runs


def test_fine_tuning_may_be_a_preset_away_from_the_checkout(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = build(CompareSettings, settings_of(study, "out", regional="configs/taught.yaml"))
    design = design_of(settings)
    assert design.regional.teacher == "ensemble" and len(compare._digest([], [find_config(settings.regional)])) == 64


def test_folds_that_cannot_be_drawn_are_named(study, tmp_path):
    read_inputs.cache_clear()
    design = design_of(build(CompareSettings, settings_of(study, tmp_path / "o", strategies=["knndm"])))
    with pytest.raises(UserError, match="give --land"):
        design.folds_for("knndm", region="west")
    with pytest.raises(UserError, match="west: no folds by wherever"):
        design.folds_for("wherever", region="west")


def test_runs_cover_every_fold_and_every_draw_once_and_are_named_apart(study):
    design = design_of(build(CompareSettings, settings_of(study, "o", folds=3, sizes=[25, 50], repeats=2)))
    runs = plan_runs(design).runs
    assert len({each.name for each in runs}) == len(runs) == 2 * 2 * 3 + 2 * 3 * 2 * 2
    assert {each.strategy for each in runs if each.size} == {"blocks"}
    again = pickle.loads(pickle.dumps(design))  # as a process of the pool gets it, which reads its datasets once
    assert again == design and hash(again) == hash(design) and set(again.known) == {*network_variants.METHODS, "svr"}
    whole = plan_runs(dataclasses.replace(design, sizes=(0,))).runs
    assert len([each for each in whole if each.curve]) == 2 * 3  # there is a single draw of all profiles
    names = {
        Run(s, f, (), region=r, size=n, curve=c).name
        for r in "ab"
        for s in ("blocks", "random")
        for f in (0, 1)
        for n in (0, 50)
        for c in (0, 1)
    }
    assert len(names) == 32


def test_finished_runs_are_never_cleared(study, tmp_path, capsys):
    (tmp_path / "o" / "runs").mkdir(parents=True)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings_of(study, tmp_path / "o")))
    assert run(lambda: compare.main(["--config", str(config)])) == 2
    assert "results of an earlier run; continue it with --resume" in capsys.readouterr().err
    assert (tmp_path / "o" / "runs").is_dir()


# --- finished runs, against predictions whose scores are known --------------------------------------------------------


def make_run(root, name, n=80, error=1.0, seed=0):
    """Write a dataset whose SOC is a function of its variables, and a run that predicts it with a constant error."""
    random = np.random.default_rng(seed)
    patches = {v: random.normal(size=(n, 1, 1)) for c in CATEGORIES[:2] for v in c.variables}
    soc = np.exp(2 + 0.6 * patches["elevation"] + 0.4 * patches["bio01"]).ravel()
    samples = pd.DataFrame({"profile_id": [f"{k:03d}" for k in range(n)], "lon": 10.0, "lat": 50.0, "soc": soc})
    split = np.array((["train"] * 6 + ["valid"] + ["test"] * 3) * (n // 10))
    write_dataset(root / "data" / name, samples, patches, split, CATEGORIES[:2], {})
    settings = PredictSettings(data_dir=root / "data" / name, run=name, on="test")
    settings.write(root / "results" / name / "settings.yaml")
    test = samples[split == "test"]
    predictions = test.drop(columns="soc").assign(observed=test["soc"], predicted=test["soc"] + error)
    predictions.sample(frac=1, random_state=0).to_csv(root / "results" / name / "predictions.csv", index=False)
    return samples, split


@pytest.fixture
def few_trees(workplace, monkeypatch):
    monkeypatch.setattr(trained_runs, "TREES", 15)
    return workplace


def test_the_table_of_runs_holds_every_method_with_the_scores_of_its_predictions(few_trees, capsys):
    samples, split = make_run(Path(), "anhui")
    make_run(Path(), "denmark", n=60, error=-2.0, seed=1)
    tables = []
    for _ in range(2):
        compare.main(["--runs", "anhui", "results/denmark"])  # names or folders
        tables.append(read_table(Path("results/skill/table.csv")))
    pd.testing.assert_frame_equal(*tables)
    table = pd.read_csv("results/skill/table.csv").set_index(["region", "method"])
    assert list(table.index) == [(r, m) for r in ("anhui", "denmark") for m in ("mean", "forest", "forest, log", "network")]
    network = table.loc[("anhui", "network")]
    assert (network["n_train"], network["n_test"]) == (56, 24)
    assert (network["mae"], network["me"], network["mae_low"], network["mae_high"]) == pytest.approx((1, 1, 1, 1))
    assert table.loc[("denmark", "network"), "me"] == pytest.approx(-2)
    soc = samples["soc"].to_numpy()
    expected = scores(soc[split == "test"], np.full(24, soc[split != "test"].mean()))
    for name in ("rmse", "mae", "me", "r2", "ccc"):
        assert table.loc[("anhui", "mean"), name] == pytest.approx(expected[name], abs=1e-9)
    assert 0.3 < table.loc[("anhui", "forest"), "r2"] < 1
    words = capsys.readouterr().out
    forest = table.xs("forest", level="method")["mae"].mean()
    change = 100 * (1.5 / forest - 1)
    lower = sum(e < table.loc[(r, "forest"), "mae"] for r, e in (("anhui", 1), ("denmark", 2)))
    told = f"network against forest, mean of 2 regions: MAE 1.50 against {forest:.2f} g/kg ({change:+.1f} %; lower in {lower} of 2)"
    assert told in words
    assert words.splitlines()[0].split() == ["region", "method", "n_train", "n_test", "RMSE", "MAE", "R2", "CCC"]
    assert len({len(line) for line in words.splitlines()[:9]}) == 1  # the columns are aligned
    markdown = Path("results/skill/table.md").read_text()
    assert r"| anhui | network | 56 | 24 | 1.00 \[1.00, 1.00\] | 1.00 \[1.00, 1.00\] | 1.00 \[1.00, 1.00\] |" in markdown
    assert Path("results/skill/skill.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_of_runs_do_not_see_the_test_targets(few_trees):
    make_run(Path(), "anhui")
    dataset, predicted = trained_runs.read_run(Path("results/anhui"))
    before = trained_runs.score_run("anhui", dataset, predicted, 0)
    y = dataset.y.copy()
    y[dataset.split["test"]] += 1000
    after = trained_runs.score_run("anhui", dataclasses.replace(dataset, y=y), predicted, 0)
    assert after["me"].to_numpy() == pytest.approx(before["me"].to_numpy() - 1000)


def test_undefined_scores_are_dashes():
    row = {"region": "a", "method": "m", "n_train": 1, "n_test": 1}
    table = pd.DataFrame([row | {f"{s}{e}": np.nan for s in trained_runs.SCORES for e in ("", "_low", "_high")}])
    assert trained_runs.with_intervals(table, "g/kg").rows[0][4] == "- [-, -]"
    assert trained_runs.as_text(table).split()[-4:] == ["-"] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:-1], "its 23 profiles are not the 24 test profiles"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "its 25 profiles are not the 24 test profiles"),
        (lambda t: t.assign(profile_id=["000", *t["profile_id"][1:]]), "first difference: profile_id '000'"),
        (lambda t: t.assign(observed=t["observed"] + 1), "observed values are not those of"),
        (lambda t: t.assign(predicted=["text", *t["predicted"][1:]]), "1 predictions are not numbers"),
        (lambda t: t.drop(columns="predicted"), "no column 'predicted'"),
    ],
)
def test_predictions_of_other_profiles_are_refused(few_trees, change, message):
    make_run(Path(), "anhui")
    path = Path("results/anhui/predictions.csv")
    change(read_table(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=message):
        compare.main(["--runs", "anhui"])
    assert not Path("results/skill").exists()


def test_predictions_of_another_split_and_runs_never_evaluated_are_refused(few_trees, capsys):
    make_run(Path(), "anhui")
    assert run(lambda: compare.main(["--runs", "anhui", "narnia"])) == 2
    words = capsys.readouterr().err
    assert "narnia/settings.yaml: not there; run soilcarbon predict for narnia (--on test) first" in words
    assert words.count("\n") == 1
    PredictSettings(data_dir=Path("data/anhui"), run="anhui", on="all").write(Path("results/anhui/settings.yaml"))
    with pytest.raises(UserError, match=r"made with --on all.*run soilcarbon predict --config .*settings\.yaml --on test"):
        compare.main(["--runs", "anhui"])


@pytest.mark.slow
def test_the_pretrained_network_stands_beside_the_fine_tuned_one(few_trees):
    import pred
    import train_global
    import train_regional

    make_run(Path(), "anhui")
    shutil.rmtree("results")
    data = ["--data_dir", "data/anhui"]
    train_global.main([*data, "--run", "g", "--epochs", "2", "--no-tensorboard"])
    origin = "model/pretrain_model/g.pth"
    train_regional.main([*data, "--run", "anhui", "--init_from", origin, "--lr", "0.01", "--epochs", "3", "--no-tensorboard"])
    pred.main([*data, "--checkpoint", "model/anhui.pth"])
    pred.main([*data, "--checkpoint", origin])
    compare.main(["--runs", "anhui"])
    table = pd.read_csv("results/skill/table.csv").set_index("method")
    for method, run_name in (("network, not fine-tuned", "g"), ("network", "anhui")):
        predictions = pd.read_csv(f"results/{run_name}/predictions.csv")
        assert table.loc[method, "rmse"] == pytest.approx(scores(predictions["observed"], predictions["predicted"])["rmse"])
