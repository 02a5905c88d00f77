"""Importance of functions that are known: what permutation must cost, and Shapley values by their definition."""

import sys
from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from soilcarbon.drivers import importance
from soilcarbon.drivers.importance import group_shapley, impurity, permutation, shares, strata_of, variable_shapley
from soilcarbon.io.files import UserError


class Linear:
    """Predicts by given weights."""

    def __init__(self, *weights):
        self.weights = np.array(weights)

    def predict(self, x):
        return x @ self.weights


def single(columns):
    return [np.array([k]) for k in range(columns)]


# --- permutation -------------------------------------------------------------------------------------------------------


def test_permutation_costs_twice_the_variance_a_variable_makes():
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 3))
    model = Linear(0.8, 0.6, 0.0)
    z = model.predict(x) + 0.1 * random.normal(size=len(x))
    assert permutation(model, x, z, single(3), None, [1]) == pytest.approx([1.28, 0.72, 0.0], abs=0.05)
    assert permutation(model, x, z, [np.array([0, 1])], None, [1]) == pytest.approx([2.0], abs=0.05)


def test_a_driver_is_permuted_whole():
    first = np.random.default_rng(0).normal(size=20_000)
    x = np.stack([first, first], axis=1)  # permuted apart, the difference would be large
    found = permutation(Linear(1.0, -1.0), x, np.zeros(len(x)), [np.array([0]), np.array([0, 1])], None, [1])
    assert found == pytest.approx([2.0, 0.0], abs=0.05)


def test_within_strata_a_variable_is_worth_only_what_others_do_not_explain():
    random = np.random.default_rng(0)
    first = random.normal(size=6000)
    x = np.stack([first, first + 0.1 * random.normal(size=6000), random.normal(size=6000)], axis=1).astype(np.float32)
    strata = np.stack([strata_of(x, np.array([k]), np.zeros(3, bool), 0) for k in range(3)])
    z = Linear(1.0, 0.0, 1.0).predict(x)
    freely, within = (permutation(Linear(1.0, 0.0, 1.0), x, z, single(3), each, [1]) for each in (None, strata))
    assert freely[0] > 1.8 and within[0] < 0.15
    assert within[2] == pytest.approx(freely[2], rel=0.1)


def test_strata_of_classes_follow_what_predicts_them():
    height = np.random.default_rng(0).uniform(size=3000)
    x = np.stack([np.where(height > 0.5, 7, 3), height], axis=1).astype(np.float32)
    strata = strata_of(x, np.array([0]), np.array([True, False]), 0)
    assert all(len(np.unique(x[strata == each, 0])) == 1 for each in np.unique(strata))
    assert (strata_of(x, np.array([0, 1]), np.array([True, False]), 0) == 0).all()


def test_permutations_depend_on_the_seed_alone_and_not_on_how_many_are_done_at_once(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 4))
    values = Linear(1, 1, 1, 1), x, x[:, 0], single(4), np.zeros((4, 50), int)
    every = permutation(*values, [3])
    monkeypatch.setattr(importance, "_ROWS_AT_ONCE", 50)
    assert np.array_equal(every, permutation(*values, [3])) and not np.array_equal(every, permutation(*values, [4]))


def test_no_row_keeps_its_own_value_so_that_small_strata_cost_as_much():
    x = np.random.default_rng(0).normal(size=(3000, 1))
    z = x[:, 0]
    pairs, alone = np.arange(3000)[None] // 2, np.arange(3000)[None]
    assert permutation(Linear(1.0), x, z, single(1), pairs, [1]) == pytest.approx([2.0], abs=0.12)
    assert permutation(Linear(1.0), x[:2], z[:2], single(1), None, [1]) == pytest.approx([(z[0] - z[1]) ** 2])
    assert permutation(Linear(1.0), x, z, single(1), alone, [1]) == pytest.approx([0.0])


def test_the_mean_of_draws_is_steadier():
    x = np.random.default_rng(0).normal(size=(60, 2))
    spread = [
        np.std([permutation(Linear(1, 1), x, x.sum(1), single(2), None, [k], draws)[0] for k in range(60)]) for draws in (1, 9)
    ]
    assert 2 < spread[0] / spread[1] < 4.5


def test_impurity_is_scikit_learns_or_the_gain_of_boosting():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 3))
    forest = RandomForestRegressor(10, random_state=0).fit(x, x[:, 1])
    assert np.array_equal(impurity(forest, 3), forest.feature_importances_)
    boosting = HistGradientBoostingRegressor(max_iter=20).fit(x, x[:, 1])
    assert impurity(boosting, 3)[1] > 0.95 and impurity(boosting, 3).sum() == pytest.approx(1)
    assert np.isnan(impurity(Linear(1, 1, 1), 3)).all()


# --- Shapley values ----------------------------------------------------------------------------------------------------


def defined(model, x, background, member):
    """Return Shapley values by their definition: every coalition, variables outside it from every background row."""
    count = member.max() + 1
    found = np.zeros((len(x), count))

    def worth(coalition):
        own = np.isin(member, coalition)
        return np.array([model.predict(np.where(own, place, background)).mean() for place in x])

    for player in range(count):
        others = [k for k in range(count) if k != player]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for coalition in combinations(others, size):
                found[:, player] += weight * (worth([*coalition, player]) - worth(list(coalition)))
    return found


@pytest.fixture(params=["boosting", "forest"])
def fitted(request):
    random = np.random.default_rng(3)
    x = random.normal(size=(300, 5)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) + 0.5 * (x[:, 3] > 0) * x[:, 0]
    boosting = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=8, min_samples_leaf=5)
    model = boosting if request.param == "boosting" else RandomForestRegressor(5, min_samples_leaf=3, random_state=0)
    return model.fit(x, y), x[:4], x[10:16]


def test_shapley_values_are_those_of_the_definition_and_sum_to_the_prediction(fitted):
    pytest.importorskip("shap")
    model, x, background = fitted
    gap = model.predict(x) - model.predict(background).mean()
    single, whole = variable_shapley(model, x, background, [0]), group_shapley(model, x, background, np.array([0, 0, 1, 2, 1]), [0])
    assert np.allclose(single, defined(model, x, background, np.arange(5)), atol=1e-6)
    assert np.allclose(whole, defined(model, x, background, np.array([0, 0, 1, 2, 1])), atol=1e-6)
    assert np.allclose(single.sum(1), gap, atol=1e-6) and np.allclose(whole.sum(1), gap, atol=1e-6)
    assert not np.allclose(whole[:, 0], single[:, :2].sum(1), atol=1e-3)  # a group is not the sum of its variables


def test_sampled_shapley_values_come_near_the_exact_ones_and_are_seeded(fitted, monkeypatch):
    model, x, background = fitted
    member = np.arange(5)
    exact = group_shapley(model, x, background, member, [0])
    monkeypatch.setattr(importance, "_EXACT", 0)
    assert np.abs(importance._sampled_shapley(model, x, background, member, 1, 600) - exact).max() < 0.12
    one, again, other = (group_shapley(model, x, background, member, [seed]) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    two = np.array([0, 0, 1, 1, 1])  # an order and its reverse make two groups exact
    assert np.allclose(importance._sampled_shapley(model, x, background[:1], two, 5, 2), defined(model, x, background[:1], two))


def test_shapley_values_of_a_linear_model_are_its_terms():
    x = np.random.default_rng(0).normal(size=(6, 3))
    for found in (
        variable_shapley(Linear(1, 2, 0), x, 0 * x[:1], [0]),
        group_shapley(Linear(1, 2, 0), x, 0 * x[:1], np.arange(3), [0]),
    ):
        assert np.allclose(found, x * [1, 2, 0])


def test_without_shap_single_variables_of_trees_are_refused_with_the_install_line(fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(UserError, match=r"pip install 'soilcarbon\[drivers\]'"):
        variable_shapley(*fitted, [0])


def test_shares_sum_to_all_of_what_is_above_zero():
    assert shares(np.array([3.0, 1.0, -0.4])) == pytest.approx([75, 25, -10])
    assert np.isnan(shares(np.zeros(3))).all()
