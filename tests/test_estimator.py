"""The network in scikit-learn's company."""

import numpy as np
import pytest
from conftest import make_dataset
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import training
from config import GlobalSettings
from estimator import SoilCarbonRegressor
from models import load_checkpoint


@parametrize_with_checks([SoilCarbonRegressor(epochs=2)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def problem(n=300):
    x = np.random.default_rng(0).normal([5, -3, 100], [2, 1, 30], (n, 3)).astype(np.float32)
    return x, 20 + 6 * np.tanh(x[:, 0] - 5) + 0.1 * x[:, 2]


def test_cross_validation_and_inspection_work_on_it():
    x, y = problem()
    model = SoilCarbonRegressor(epochs=60, target_transform="log1p")
    assert cross_val_score(model, x, y, cv=3).mean() > 0.6
    importance = permutation_importance(model.fit(x, y), x, y, n_repeats=3, random_state=0).importances_mean
    assert importance.argmin() == 1


def test_missing_cells_are_taken_and_the_seed_repeats():
    x, y = problem(80)
    x[::7, 2] = np.nan
    first, second = (clone(SoilCarbonRegressor(epochs=3)).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


def test_it_fine_tunes_a_checkpoint(tmp_path, workplace):
    folder = make_dataset(tmp_path / "data")
    training.train(GlobalSettings(data_dir=folder, run="g", epochs=2, tensorboard=False))
    path = "model/pretrain_model/g.pth"
    x, y = np.random.default_rng(0).normal(10, 3, (50, 32)).astype(np.float32), np.arange(50.0)
    model = SoilCarbonRegressor(init_from=path, epochs=2).fit(x, y)
    assert model.network_.specification.statistics == load_checkpoint(path).specification.statistics
    with pytest.raises(ValueError, match="x has 31 columns, the categories have 32"):
        SoilCarbonRegressor(init_from=path).fit(x[:, :31], y)
