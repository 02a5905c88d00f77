"""soilcarbon fit: a model of any learner from a dataset folder, which predict reads; what is refused; the test split untouched."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import yaml

from soilcarbon.commands import fit, predict
from soilcarbon.io.files import run
from soilcarbon.regression.learners import LEARNERS
from soilcarbon.regression.persistence import load_model
from soilcarbon.soil.dataset import read_dataset

pytestmark = pytest.mark.usefixtures("small_learners", "light_maps")


def make(*more):
    return run(lambda: fit.main(["--data_dir", "data", "--workers", "1", *more]))


@pytest.fixture
def here(dataset, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    return dataset.parent


def test_the_setting_and_its_page_name_every_learner():
    assert get_args(fit.LearnerName) == tuple(LEARNERS)
    page = (Path(__file__).parents[2] / "docs/own-data.md").read_text(encoding="utf-8")
    assert not [key for key in LEARNERS if f"\n| `{key}` | " not in page]


def test_a_choice_is_fitted_written_and_explained(here, capsys):
    assert make("--candidates", "mean", "ridge", "forest", "boosting", "--run", "mine") == 0
    shown = capsys.readouterr().out
    assert "96 profiles" in shown and "-> model/mine.npz; the test split was not used" in shown
    model = load_model(Path("model/mine.npz"))
    table = pd.read_csv("results/mine/cross_validation.csv")
    assert table["model"].tolist() == ["mean", "ridge", "forest", "boosting"]
    assert table.set_index("model").at[model.learner, "chosen"] and model.record.reason in shown
    assert (table["mae_se"] > 0).all() and table["within"].any()
    held_out = pd.read_csv("results/mine/held_out.csv")
    mae = (held_out["observed"] - held_out[model.learner]).abs().mean()
    assert mae == pytest.approx(table.set_index("model").at[model.learner, "mae"])
    assert model.record.profiles == {"train": 72, "valid": 24}
    assert model.uncertainty.calibration and model.uncertainty.applicability
    facts = yaml.safe_load(Path("model/mine.yaml").read_text())
    assert facts["learner"] == model.learner and facts["record"]["settings"]["run"] == "mine"


def test_predict_reads_the_model_like_a_networks(here, capsys):
    assert make("--model", "regression-kriging", "--run", "mine") == 0
    assert "regression-kriging, as set" in capsys.readouterr().out
    assert run(lambda: predict.main(["--run", "mine", "--data_dir", "data"])) == 0
    table = pd.read_csv("results/mine/predictions.csv")
    assert {"observed", "predicted", "lower", "upper", "di", "inside"} <= set(table) and len(table) == 24
    model, data = load_model(Path("model/mine.npz")), read_dataset(Path("data"), splits=("test",))
    X = np.column_stack([data.lon, data.lat, data.x])[data.split["test"]]
    assert table["predicted"].to_numpy() == pytest.approx(model.predict(X))
    assert (table["lower"] < table["predicted"]).all() and (table["predicted"] < table["upper"]).all()
    assert Path("results/mine/scores.json").is_file()
    assert "24 profiles (test)" in capsys.readouterr().out


def test_the_test_split_changes_nothing_unless_it_is_to_be_used(here):
    assert make("--model", "ridge", "--run", "a") == 0
    table = pd.read_csv("data/samples.csv")
    test = table["profile_id"].isin(pd.read_csv("data/split/test.csv")["profile_id"])
    table.loc[test, "soc"] = 500.0
    table.to_csv("data/samples.csv", index=False)
    assert make("--model", "ridge", "--run", "b") == 0
    one, other = (load_model(Path(f"model/{name}.npz")) for name in "ab")
    np.testing.assert_array_equal(one.parts["linear"].coefficients, other.parts["linear"].coefficients)
    assert make("--model", "mean", "--run", "b", "--use_test") == 0
    assert load_model(Path("model/b.npz")).record.profiles == {"train": 72, "valid": 24, "test": 24}


@pytest.mark.slow
def test_mean_and_median_are_two_centres(here):
    for center in ("mean", "median"):
        assert make("--model", "ridge", "--run", center, "--center", center) == 0
    mean, median = (load_model(Path(f"model/{name}.npz")) for name in ("mean", "median"))
    X = np.column_stack([np.zeros((3, 2)), np.zeros((3, 32))])
    if mean.specification.target_transform == "log1p":
        factor = mean.specification.smearing[0]
        inside = median.predict(X) < mean.specification.bounds[1] / factor
        assert mean.predict(X)[inside] == pytest.approx(median.means(median.predict(X))[inside])


@pytest.mark.parametrize(
    ("prepare", "more", "words"),
    [
        (None, ["--model", "magic"], "setting model = 'magic'"),
        (None, ["--data_dir", "nowhere"], "no sample table there"),
        (lambda: Path("model").mkdir() or Path("model/data.npz").write_bytes(b"mine"), [], "was not made by soilcarbon fit"),
        (lambda: _same_target(), [], "there is nothing to learn"),
        (lambda: _few(8), [], "are too few to fit and to check a model"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_line(prepare, more, words, here, capsys):
    if prepare:
        prepare()
    assert make("--candidates", "mean", "ridge", *more) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) <= 2 and "Traceback" not in error


def _same_target():
    table = pd.read_csv("data/samples.csv").assign(soc=3.0)
    table.to_csv("data/samples.csv", index=False)


def _few(count):
    for name, some in (("train", count - 2), ("valid", 2)):
        path = Path(f"data/split/{name}.csv")
        pd.read_csv(path).head(some).to_csv(path, index=False)


@pytest.mark.slow
def test_forty_profiles_are_enough(here, capsys):
    _few(40)
    assert make("--candidates", "mean", "ridge", "forest", "regression-kriging") == 0
    assert "40 profiles" in capsys.readouterr().out
