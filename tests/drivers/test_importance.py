"""Importance of functions that are known: what permutation must cost, and what hides behind a correlated variable."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from soilcarbon.categories import Category
from soilcarbon.drivers.importance import impurity, permutation, shapley, shares, strata_of
from soilcarbon.drivers.learners import Ordered, fit


class Linear:
    """Answers by given weights."""

    def __init__(self, *weights):
        self.weights = np.array(weights)

    def predict(self, x):
        return x @ self.weights


def single(columns):
    return [np.array([k]) for k in range(columns)]


def test_permutation_costs_twice_the_variance_a_variable_makes():
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 3))
    model = Linear(0.8, 0.6, 0.0)
    z = model.predict(x) + 0.1 * random.normal(size=len(x))
    assert permutation(model, x, z, single(3), None, [1]) == pytest.approx([1.28, 0.72, 0.0], abs=0.05)
    assert permutation(model, x, z, [np.array([0, 1])], None, [1]) == pytest.approx([2.0], abs=0.05)


def test_a_driver_is_permuted_whole():
    random = np.random.default_rng(0)
    first = random.normal(size=20_000)
    x = np.stack([first, first], axis=1)  # permuted apart, the difference would be large
    found = permutation(Linear(1.0, -1.0), x, np.zeros(len(x)), [np.array([0]), np.array([0, 1])], None, [1])
    assert found == pytest.approx([2.0, 0.0], abs=0.05)
    unlike = np.stack([first, 5 * random.normal(size=20_000)], axis=1)
    own = permutation(Linear(1.0, 0.0), unlike, first, [np.array([0, 1])], None, [1])
    assert own == pytest.approx([2.0], abs=0.05)


def test_within_strata_a_variable_is_worth_only_what_others_do_not_tell():
    random = np.random.default_rng(0)
    first = random.normal(size=6000)
    x = np.stack([first, first + 0.1 * random.normal(size=6000), random.normal(size=6000)], axis=1).astype(np.float32)
    strata = np.stack([strata_of(x, np.array([k]), np.zeros(3, bool), 0) for k in range(3)])
    z = Linear(1.0, 0.0, 1.0).predict(x)
    freely, within = (permutation(Linear(1.0, 0.0, 1.0), x, z, single(3), each, [1]) for each in (None, strata))
    assert freely[0] > 1.8 and within[0] < 0.15
    assert within[2] == pytest.approx(freely[2], rel=0.1)


def test_strata_of_classes_follow_what_tells_them():
    random = np.random.default_rng(0)
    height = random.uniform(size=3000)
    x = np.stack([np.where(height > 0.5, 7, 3), height], axis=1).astype(np.float32)
    strata = strata_of(x, np.array([0]), np.array([True, False]), 0)
    assert all(len(np.unique(x[strata == each, 0])) == 1 for each in np.unique(strata))
    assert (strata_of(x, np.array([0, 1]), np.array([True, False]), 0) == 0).all()


def test_permutations_are_those_of_the_seed_alone_however_many_are_done_at_once(monkeypatch):
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4))
    z = x[:, 0]
    strata = np.zeros((4, 50), int)
    every = permutation(Linear(1, 1, 1, 1), x, z, single(4), strata, [3])
    monkeypatch.setattr("soilcarbon.drivers.importance._ROWS", 50)
    assert np.array_equal(every, permutation(Linear(1, 1, 1, 1), x, z, single(4), strata, [3]))
    assert not np.array_equal(every, permutation(Linear(1, 1, 1, 1), x, z, single(4), strata, [4]))


def test_no_place_keeps_its_own_value_so_that_small_strata_cost_as_much():
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 1))
    z = x[:, 0]
    pairs = np.arange(3000)[None] // 2
    assert permutation(Linear(1.0), x, z, single(1), pairs, [1]) == pytest.approx([2.0], abs=0.12)
    assert permutation(Linear(1.0), x[:2], z[:2], single(1), None, [1]) == pytest.approx([(z[0] - z[1]) ** 2])
    alone = np.arange(3000)[None]
    assert permutation(Linear(1.0), x, z, single(1), alone, [1]) == pytest.approx([0.0])


def test_the_mean_of_draws_is_steadier():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 2))
    z = x.sum(1)
    spread = [np.std([permutation(Linear(1, 1), x, z, single(2), None, [k], draws)[0] for k in range(60)]) for draws in (1, 9)]
    assert 2 < spread[0] / spread[1] < 4.5


ROCK = (Category(name="numbers", variables=("a",)), Category(name="rock", variables=("rock",), kind="classes"))


def rocky(n, seed):
    """Return covariates and answers that follow a class whose codes are in no order."""
    random = np.random.default_rng(seed)
    effect = np.tile([1.0, -1.0], 10)
    code = random.integers(len(effect), size=n)
    x = np.stack([random.normal(size=n), code], axis=1).astype(np.float32)
    return x, effect[code] + 0.5 * random.normal(size=n)


@pytest.mark.parametrize("learner", ["boosting", "forest"])
def test_classes_are_met_in_the_order_of_carbon(learner):
    (x, z), (other, wanted) = rocky(150, 0), rocky(2000, 1)
    as_classes = fit(learner, x, z, ROCK, 0)
    assert isinstance(as_classes, Ordered)
    as_numbers = fit(learner, x, z, (Category(name="all", variables=("a", "rock")),), 0)
    missed = [np.mean((wanted - model.predict(other)) ** 2) for model in (as_classes, as_numbers)]
    assert missed[0] < 0.8 * missed[1] and missed[0] < 0.6
    new = np.array([[0.0, 99]], np.float32)  # a class never met is worth the mean of all
    assert as_classes.seen(new)[0, 1] == pytest.approx(z.mean(), abs=1e-5)
    assert np.array_equal(fit(learner, x, z, ROCK, 0).predict(other), as_classes.predict(other))


def test_importances_of_ordered_trees_are_of_the_variables_given():
    x, z = rocky(400, 0)
    model = fit("boosting", x, z, ROCK, 0)
    assert impurity(model, 2)[1] > 0.7
    values = shapley(model, x[:5], x[100:120], np.arange(2), [0])
    assert values.sum(1) == pytest.approx(model.predict(x[:5]) - model.predict(x[100:120]).mean(), abs=1e-5)


def test_impurity_is_of_training_and_favours_what_splits():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 3))
    forest = RandomForestRegressor(10, random_state=0).fit(x, x[:, 1])
    assert np.array_equal(impurity(forest, 3), forest.feature_importances_)
    boosting = HistGradientBoostingRegressor(max_iter=20).fit(x, x[:, 1])
    assert impurity(boosting, 3)[1] > 0.95 and impurity(boosting, 3).sum() == pytest.approx(1)
    assert np.isnan(impurity(Linear(1, 1, 1), 3)).all()


def test_shapley_values_of_a_linear_model_are_its_terms():
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 3))
    background = np.zeros((1, 3))
    found = shapley(Linear(1.0, 2.0, 0.0), x, background, np.arange(3), [0])
    assert np.allclose(found, x * [1, 2, 0])


def test_shares_sum_to_all_of_what_is_above_zero():
    assert shares(np.array([3.0, 1.0, 0.0])) == pytest.approx([75, 25, 0])
    assert shares(np.array([3.0, 1.0, -0.4])) == pytest.approx([75, 25, -10])
    assert np.isnan(shares(np.zeros(3))).all()
