"""The network in scikit-learn's company."""

import numpy as np
import pytest
from conftest import make_dataset
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.network.network import load_checkpoint, save_checkpoint
from soilcarbon.settings import GlobalSettings
from soilcarbon.training import run as training


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


def test_a_network_is_fine_tuned_as_its_checkpoint_would_be(tmp_path):
    x, y = problem(120)
    first = SoilCarbonRegressor(epochs=5, target_transform="log1p").fit(x, y)
    save_checkpoint(first.network_, tmp_path / "m.pth")
    before = first.predict(x)
    again = [SoilCarbonRegressor(init_from=start, epochs=3).fit(x[:60], y[:60]) for start in (first.network_, tmp_path / "m.pth")]
    np.testing.assert_array_equal(again[0].predict(x), again[1].predict(x))
    np.testing.assert_array_equal(first.predict(x), before)  # it was copied
    assert np.abs(again[0].predict(x) - before).max() > 0


def test_whole_groups_choose_the_epoch():
    groups = np.repeat(np.arange(20), 5)
    split = SoilCarbonRegressor(validation_share=0.2)._split(100, groups)
    assert not set(groups[split["train"]]) & set(groups[split["valid"]])
    assert sorted(np.concatenate(list(split.values()))) == list(range(100))
    assert 10 <= len(split["valid"]) <= 30
    alone = SoilCarbonRegressor()._split(10, np.zeros(10, int))  # one block has nothing to hold out
    assert len(alone["valid"]) == 2
