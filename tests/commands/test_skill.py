"""The table of skill, against predictions whose scores are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soilcarbon.categories import Category
from soilcarbon.commands import skill
from soilcarbon.io.files import UserError, read_table, run
from soilcarbon.settings import PredictSettings
from soilcarbon.soil.dataset import write_dataset
from soilcarbon.stats.metrics import scores

CATEGORIES = (Category(name="topo", variables=("elevation", "slope")), Category(name="climate", variables=("bio01",)))


def make_run(root, name, n=80, error=1.0, seed=0):
    """Write a dataset whose SOC is a function of its variables, and a run that predicts it with a constant error."""
    random = np.random.default_rng(seed)
    patches = {v: random.normal(size=(n, 1, 1)) for c in CATEGORIES for v in c.variables}
    soc = np.exp(2 + 0.6 * patches["elevation"] + 0.4 * patches["bio01"]).ravel()
    samples = pd.DataFrame({"profile_id": [f"{k:03d}" for k in range(n)], "lon": 10.0, "lat": 50.0, "soc": soc})
    split = np.array((["train"] * 6 + ["valid"] + ["test"] * 3) * (n // 10))
    write_dataset(root / "data" / name, samples, patches, split, CATEGORIES, {})
    settings = PredictSettings(data_dir=root / "data" / name, run=name, on="test")
    settings.write(root / "results" / name / "settings.yaml")
    test = samples[split == "test"]
    predictions = pd.DataFrame(
        {"profile_id": test["profile_id"], "lon": 10.0, "lat": 50.0, "observed": test["soc"], "predicted": test["soc"] + error}
    )
    predictions.sample(frac=1, random_state=0).to_csv(root / "results" / name / "predictions.csv", index=False)
    return samples, split


@pytest.fixture(autouse=True)
def few_trees(workplace, monkeypatch):
    monkeypatch.setattr(skill, "TREES", 15)


def test_the_table_holds_every_method_with_the_scores_of_its_predictions(tmp_path, capsys):
    samples, split = make_run(tmp_path, "anhui")
    make_run(tmp_path, "denmark", n=60, error=-2.0, seed=1)
    skill.main(["--runs", "anhui", "denmark", "--results_dir", str(tmp_path / "results")])
    out = Path("results/skill")
    table = pd.read_csv(out / "table.csv").set_index(["region", "method"])
    assert list(table.index) == [(r, m) for r in ("anhui", "denmark") for m in ("mean", "forest", "forest, log", "network")]

    network = table.loc[("anhui", "network")]
    assert (network["n_train"], network["n_test"]) == (56, 24)
    assert (network["mae"], network["me"], network["mae_low"], network["mae_high"]) == pytest.approx((1, 1, 1, 1))
    assert table.loc[("denmark", "network"), "me"] == pytest.approx(-2)

    soc = samples["soc"].to_numpy()
    test, fitted = soc[split == "test"], soc[split != "test"]
    expected = scores(test, np.full(24, fitted.mean()))
    for name in ("rmse", "mae", "me", "r2", "ccc"):
        assert table.loc[("anhui", "mean"), name] == pytest.approx(expected[name], abs=1e-9)
    assert 0.3 < table.loc[("anhui", "forest"), "r2"] < 1

    words = capsys.readouterr().out
    change = np.mean([100 * (e / table.loc[(r, "forest"), "mae"] - 1) for r, e in (("anhui", 1), ("denmark", 2))])
    assert f"network against forest, mean of 2 region(s): MAE {change:+.1f} %" in words
    assert words.splitlines()[0].split() == ["region", "method", "n_train", "n_test", "RMSE", "MAE", "R2", "CCC"]
    assert len({len(line) for line in words.splitlines()[:9]}) == 1  # the columns are aligned
    markdown = (out / "table.md").read_text().splitlines()
    assert markdown[5].startswith("| anhui | network | 56 | 24 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |")
    assert (out / "skill.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_table(tmp_path):
    make_run(tmp_path, "anhui")
    tables = []
    for _ in range(2):
        skill.main(["--runs", "anhui", "--results_dir", str(tmp_path / "results")])
        tables.append(read_table(Path("results/skill/table.csv")))
    pd.testing.assert_frame_equal(*tables, rtol=1e-12)


def test_baselines_do_not_see_the_test_targets(tmp_path):
    make_run(tmp_path, "anhui")
    dataset, predicted = skill.read_run(tmp_path / "results" / "anhui")
    before = skill.score_methods("anhui", dataset, predicted, 0)
    y = dataset.y.copy()
    y[dataset.split["test"]] += 1000
    after = skill.score_methods("anhui", dataclasses.replace(dataset, y=y), predicted, 0)
    assert after["me"].to_numpy() == pytest.approx(before["me"].to_numpy() - 1000)


def test_forests_of_logarithms_aim_lower(tmp_path):
    make_run(tmp_path, "anhui")
    dataset, _ = skill.read_run(tmp_path / "results" / "anhui")
    rows, test = np.arange(60), np.arange(60, 80)
    predicted = skill.predict_baselines(dataset, rows, test, 0)
    assert (predicted["mean"] == dataset.y[:60].mean()).all()
    assert predicted["forest, log"].mean() < predicted["forest"].mean()  # medians of a skewed target lie below means


def test_undefined_scores_are_dashes():
    row = {"region": "a", "method": "m", "n_train": 1, "n_test": 1}
    table = pd.DataFrame([row | {f"{s}{e}": np.nan for s in skill.LABELS for e in ("", "_low", "_high")}])
    assert "- [-, -]" in skill.as_markdown(table)
    assert skill.as_text(table).split()[-4:] == ["-"] * 4


def edit(path, change):
    """Apply `change` to a table on disk."""
    table = read_table(path)
    change(table).to_csv(path, index=False)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.iloc[:-1], "its 23 profiles are not the 24 test profiles"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "its 25 profiles are not the 24 test profiles"),
        (lambda t: t.assign(profile_id=["000", *t["profile_id"][1:]]), "first difference: profile_id '000'"),
        (lambda t: t.assign(observed=t["observed"] + 1), "observed values are not those of"),
        (lambda t: t.assign(predicted=["text", *t["predicted"][1:]]), "1 predictions are not numbers"),
        (lambda t: t.drop(columns="predicted"), "no column 'predicted'"),
    ],
)
def test_predictions_of_other_profiles_are_refused(tmp_path, change, message):
    make_run(tmp_path, "anhui")
    edit(tmp_path / "results" / "anhui" / "predictions.csv", change)
    with pytest.raises(UserError, match=message):
        skill.main(["--runs", "anhui", "--results_dir", str(tmp_path / "results")])
    assert not (tmp_path / "results" / "skill").exists()


def test_predictions_of_another_split_are_refused(tmp_path):
    make_run(tmp_path, "anhui")
    settings = PredictSettings(data_dir=tmp_path / "data" / "anhui", run="anhui", on="all")
    settings.write(tmp_path / "results" / "anhui" / "settings.yaml")
    with pytest.raises(UserError, match=r"made with --on all.*run python pred\.py --config .*settings\.yaml --on test"):
        skill.read_run(tmp_path / "results" / "anhui")


def test_a_run_that_was_never_evaluated_is_named_in_one_line(tmp_path, capsys):
    make_run(tmp_path, "anhui")
    assert run(lambda: skill.main(["--runs", "anhui", "narnia", "--results_dir", str(tmp_path / "results")])) == 2
    words = capsys.readouterr().err
    assert "narnia/settings.yaml: not there; run pred.py for narnia (--on test) first" in words
    assert words.count("\n") == 1


def test_the_pretrained_network_stands_beside_the_fine_tuned_one(tmp_path, workplace):
    import pred
    import train_global
    import train_regional

    make_run(tmp_path, "anhui")
    data = ["--data_dir", str(tmp_path / "data" / "anhui")]
    train_global.main([*data, "--run", "g", "--epochs", "2", "--no-tensorboard"])
    origin = "model/pretrain_model/g.pth"
    train_regional.main([*data, "--run", "anhui", "--init_from", origin, "--lr", "0.01", "--epochs", "3", "--no-tensorboard"])
    pred.main([*data, "--checkpoint", "model/anhui.pth"])
    pred.main([*data, "--checkpoint", origin])
    skill.main(["--runs", "anhui"])
    table = pd.read_csv("results/skill/table.csv").set_index("method")
    for method, run_name in (("network, not fine-tuned", "g"), ("network", "anhui")):
        predictions = pd.read_csv(f"results/{run_name}/predictions.csv")
        assert table.loc[method, "rmse"] == pytest.approx(scores(predictions["observed"], predictions["predicted"])["rmse"])
