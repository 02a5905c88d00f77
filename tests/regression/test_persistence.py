"""Fitted models of every learner: equal to the bit when loaded again, damaged or hostile files refused before anything happens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import slow_but, tiny_models
from simulated import make_samples

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.regression import learners
from soilcarbon.regression.learners import LEARNERS, Task, fit_parts
from soilcarbon.regression.model import FittedModel, ModelRecord
from soilcarbon.regression.persistence import load_model, save_model
from soilcarbon.regression.uncertainty import Uncertainty, applicability, calibrate, error_field

CATEGORIES = (
    Category(name="relief", variables=("a", "b", "c", "d", "e")),
    Category(name="rock", variables=("rock",), kind="classes"),
)
TASK = Task(CATEGORIES, block_size=0.5, members=2)
REFUSED = "not a fitted model, or damaged"


@pytest.fixture(scope="module")
def models():
    """Return a function of a learner's key: a small fitted model with all of its uncertainty."""
    made, samples = {}, make_samples(120)
    with pytest.MonkeyPatch.context() as patch:
        tiny_models(patch)

        def model(key):
            if key not in made:
                parts, facts = fit_parts(key, samples, TASK)
                fitted = FittedModel(key, facts.changed(smearing=(1.1,)), parts)
                predicted, folds = fitted.predict(samples.X), samples.groups % 3
                known = Uncertainty(
                    calibrate(samples.y, predicted, samples.groups, "log1p", "blocks")[0],
                    error_field(samples.y, fitted.means(predicted), samples.X[:, :2], folds, 0, fitted.means(predicted)),
                    applicability(fitted.predictors(samples.X[:, 2:].astype(np.float32)), np.ones(9), folds, 0),
                )
                record = ModelRecord(reason="it is simple", cross_validation=({"model": key, "mae": 1.5, "chosen": True},))
                made[key] = replace(fitted, uncertainty=known, record=record)
            return made[key]

        yield model


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def forge(path, metadata=None, **arrays):
    content = arrays_of(path) | {name.replace("__", "/"): array for name, array in arrays.items()}
    if metadata is not None:
        content["metadata"] = np.frombuffer(json.dumps(metadata(json.loads(content["metadata"].tobytes()))).encode(), np.uint8)
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


@pytest.mark.parametrize("key", slow_but(LEARNERS, *(key for key in LEARNERS if key != "taught")))  # a stack has the same network
def test_a_loaded_model_predicts_the_same_to_the_bit(key, models, tmp_path):
    model, places = models(key), make_samples(80, seed=1)
    save_model(model, tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.predict(places.X), model.predict(places.X))
    assert (again.learner, again.specification, again.record) == (key, model.specification, model.record)
    assert again.uncertainty.calibration == model.uncertainty.calibration
    assert again.uncertainty.errors == model.uncertainty.errors
    x = places.X[:, 2:].astype(np.float32)
    area, other = again.uncertainty.applicability, model.uncertainty.applicability
    np.testing.assert_array_equal(area.index(again.predictors(x)), other.index(model.predictors(x)))
    assert all(array.dtype.kind in "iuf" for array in arrays_of(tmp_path / "m.npz").values())
    assert yaml.safe_load((tmp_path / "m.yaml").read_text())["record"]["reason"] == "it is simple"


@pytest.mark.parametrize(("few", "share"), [(7, 1.0), (6, 1 / 3)])
def test_trees_of_a_model_are_scikit_learns_and_few_covariates_are_all_tried(few, share):
    samples, places = make_samples(120), make_samples(80, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(learners._FOREST, "n_estimators", 12)
        patch.setattr(learners, "_FEW", few)
        parts, facts = fit_parts("forest", samples, TASK)
    from sklearn.ensemble import RandomForestRegressor

    plain = RandomForestRegressor(12, max_features=share, random_state=TASK.seed)
    plain.fit(samples.X[:, 2:].astype(np.float32), np.log1p(samples.y))
    expected = plain.predict(places.X[:, 2:].astype(np.float32))
    assert FittedModel("forest", facts, parts).outputs(places.X) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("mean", lambda facts: facts | {"learner": "magic"}, "learner 'magic' is not known"),
        ("mean", lambda facts: facts | {"learner": "forest"}, "parts are not those of forest"),
        ("mean", lambda facts: facts | {"parts": {}}, "at least 1 item"),
        ("mean", lambda facts: facts | {"parts": {"constant": {"value": 1e31}}}, "value: not a finite number"),
        ("mean", lambda facts: facts | {"parts": {"constant": {"value": "3"}}}, "value: not a finite number"),
        ("mean", lambda facts: facts | {"kind": "zones"}, "Input should be 'fitted'"),
        ("mean", lambda facts: facts | {"more": 1}, "Extra inputs"),
        ("mean", lambda facts: facts | {"specification": facts["specification"] | {"statistics": None}}, "not that of a fitted"),
        ("mean", lambda facts: facts | {"specification": facts["specification"] | {"classes": {}}}, "no classes of variable"),
        ("mean", lambda facts: facts | {"uncertainty": facts["uncertainty"] | {"errors": {}}}, "errors: expected"),
        ("mean", lambda facts: {k: v for k, v in facts.items() if k != "uncertainty"}, "uncertainty"),
        ("mean", lambda _: [], "metadata are not named"),
        ("regression-kriging", lambda facts: facts | {"parts": {"kriged": facts["parts"]["kriged"]}}, "parts are not those"),
        (
            "network",
            lambda facts: facts | {"specification": facts["specification"] | {"target_transform": "none"}},
            "its network has other inputs than the model",
        ),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit_is_refused(key, change, words, models, tmp_path):
    save_model(models(key), tmp_path / "m.npz")
    with pytest.raises(UserError, match=f"{REFUSED}.*{words}"):
        load_model(forge(tmp_path / "m.npz", change))


@pytest.mark.parametrize(
    ("key", "name", "change", "words"),
    [
        ("forest", "trees/left", lambda a: np.where(a >= 0, 0, a), "child is not a later node"),
        ("boosting", "trees/column", lambda a: a + 100, "splits a column there is not"),
        ("forest", "trees/value", lambda _: None, "value"),
        ("ridge", "linear/coefficients", lambda a: a[:-1], "not an array of finite numbers of its shape"),
        ("ridge", "linear/coefficients", lambda a: a * np.nan, "not an array of finite numbers of its shape"),
        ("regression-kriging", "kriged/points", lambda a: a * 2, "a position that there cannot be"),
        ("regression-kriging", "kriged/points", lambda a: a[:, :2], "not an array of finite numbers of its shape"),
        ("regression-kriging", "kriged/weights", lambda a: a[1:], "not an array of finite numbers of its shape"),
        ("regression-kriging", "kriged/weights", lambda a: a.astype(int), "not an array of finite numbers of its shape"),
        ("network", "network/classifier.0.weight", lambda a: a[1:], "not an array of finite numbers of its shape"),
        ("network", "network/classifier.0.weight", lambda a: a + np.inf, "not an array of finite numbers of its shape"),
        ("network", "network/classifier.0.weight", lambda _: None, "tensors are not those"),
        ("stack", "points", lambda a: a[:, 1:], "area of applicability is of other predictors|points"),
        ("mean", "points", lambda a: a.astype(np.float64), "points are not of its predictors"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(key, name, change, words, models, tmp_path):
    save_model(models(key), tmp_path / "m.npz")
    arrays = arrays_of(tmp_path / "m.npz")
    with pytest.raises(UserError, match=f"{REFUSED}.*({words})"):
        load_model(forge(tmp_path / "m.npz", **{name.replace("/", "__"): change(arrays[name])}))


def test_arrays_of_no_part_and_files_of_another_kind_are_refused(models, tmp_path):
    save_model(models("mean"), tmp_path / "m.npz")
    with pytest.raises(UserError, match="arrays are not those of its parts"):
        load_model(forge(tmp_path / "m.npz", more=np.zeros(3)))
    (tmp_path / "text.npz").write_bytes(b"a model")
    with pytest.raises(UserError, match=REFUSED):
        load_model(tmp_path / "text.npz")
    with pytest.raises(UserError, match="no such model; make one with soilcarbon fit"):
        load_model(tmp_path / "none.npz")
