"""A stack's uncertainty comes from profiles that neither network nor forest has seen, by hand-made predictions of the network."""

import numpy as np
import pytest
from simulated import make_samples
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.categories import Category
from soilcarbon.regression import learners
from soilcarbon.regression.learners import Task
from soilcarbon.regression.stack import stack
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.training.arrays import Trained, resolve_settings, train_on_arrays

CATEGORIES = (
    Category(name="relief", variables=("a", "b", "c", "d", "e")),
    Category(name="rock", variables=("rock",), kind="classes"),
)


@pytest.mark.parametrize("center", ["median", "mean"])
def test_intervals_and_factor_are_of_profiles_held_out_of_both(center, monkeypatch):
    monkeypatch.setitem(learners._FOREST, "n_estimators", 12)
    samples = make_samples(90)
    x, y = samples.X[:, 2:].astype(np.float32), samples.y
    given = {"teacher": "none", "members": 2, "epochs": 1, "target_transform": "log1p", "center": "median"}
    settings = resolve_settings(given, None, 90, 90)
    network = train_on_arrays(x, y, samples.groups, CATEGORIES, settings).network
    folds = samples.groups % 3
    held_out = y * np.where(np.arange(90) % 2, 1.2, 0.8)
    model = stack(Trained(network, folds, held_out), samples, Task(CATEGORIES, center=center))
    forests, expected = np.empty(90), np.empty(90)
    for fold in range(3):
        out = folds == fold
        forest = RandomForestRegressor(12, random_state=314).fit(x[~out], np.log1p(y[~out]))
        forests[out] = forest.predict(x[out])
    outputs = (np.log1p(held_out) + forests) / 2
    residuals = np.log1p(y) - outputs
    for fold in range(3):
        out = folds == fold
        factor = np.exp(residuals[~out]).mean() if center == "mean" else 1.0
        expected[out] = np.clip(np.exp(outputs[out]) * factor - 1, 0, y.max())
    assert model.specification.smearing[0] == pytest.approx(np.exp(residuals).mean())
    assert model.record.cross_validation[0]["mae"] == pytest.approx(np.abs(expected - y).mean())
    few = np.unique(samples.groups).size < 40
    calibration = ConformalCalibration.fit(y, expected, scale="log1p", symmetric=few, groups=samples.groups, bounds=(0.0, None))
    found = np.stack(model.uncertainty.calibration.interval(expected, 0.8))
    np.testing.assert_allclose(found, np.stack(calibration.interval(expected, 0.8)), rtol=1e-9)


def test_where_nothing_was_held_out_there_are_no_intervals_and_the_factor_is_the_network_s(monkeypatch):
    monkeypatch.setitem(learners._FOREST, "n_estimators", 12)
    samples = make_samples(90)
    given = {"teacher": "none", "members": 2, "epochs": 1, "target_transform": "log1p", "center": "median"}
    x = samples.X[:, 2:].astype(np.float32)
    network = train_on_arrays(x, samples.y, samples.groups, CATEGORIES, resolve_settings(given, None, 90, 90)).network
    model = stack(Trained(network), samples, Task(CATEGORIES))
    assert model.specification.smearing[0] == pytest.approx(np.mean(network.specification.smearing))
    assert model.uncertainty.calibration is None and model.uncertainty.applicability is network.applicability
    assert not model.record.cross_validation
