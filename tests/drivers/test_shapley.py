"""Shapley values equal their definition, summed over all coalitions."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from soilcarbon.drivers.shapley import sampled_shapley, tree_shapley


def defined(model, x, background, players):
    """Return Shapley values by their definition: every coalition, variables outside it from every background row."""
    count = players.max() + 1
    found = np.zeros((len(x), count))

    def worth(coalition):
        own = np.isin(players, coalition)
        return np.array([model.predict(np.where(own, place, background)).mean() for place in x])

    for player in range(count):
        others = [k for k in range(count) if k != player]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for coalition in combinations(others, size):
                found[:, player] += weight * (worth([*coalition, player]) - worth(list(coalition)))
    return found


def fitted(kind):
    random = np.random.default_rng(3)
    x = random.normal(size=(300, 5)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) + 0.5 * (x[:, 3] > 0) * x[:, 0]
    model = (
        HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=8, min_samples_leaf=5)
        if kind == "boosting"
        else RandomForestRegressor(5, min_samples_leaf=3, random_state=0)
    )
    return model.fit(x, y), x[:4], x[10:16]


@pytest.mark.parametrize("kind", ["boosting", "forest"])
@pytest.mark.parametrize("players", [(0, 1, 2, 3, 4), (0, 0, 1, 2, 1)])
def test_values_of_trees_are_those_of_the_definition(kind, players):
    model, x, background = fitted(kind)
    found = tree_shapley(model, x, background, np.array(players))
    assert np.allclose(found, defined(model, x, background, np.array(players)), atol=1e-6)
    assert np.allclose(found.sum(1), model.predict(x) - model.predict(background).mean(), atol=1e-6)


def test_a_driver_is_a_player_of_its_own_and_not_the_sum_of_its_variables():
    model, x, background = fitted("forest")
    single, whole = (tree_shapley(model, x, background, np.array(players)) for players in ((0, 1, 2, 3, 4), (0, 0, 1, 1, 2)))
    assert not np.allclose(whole[:, 0], single[:, :2].sum(1), atol=1e-3)


def test_sampled_values_come_near_the_exact_ones_and_are_seeded():
    model, x, background = fitted("boosting")
    players = np.arange(5)
    exact = tree_shapley(model, x, background, players)
    assert np.abs(sampled_shapley(model, x, background, players, 600, 1) - exact).max() < 0.12
    assert np.array_equal(*(sampled_shapley(model, x, background, players, 4, 1) for _ in range(2)))
    assert not np.array_equal(*(sampled_shapley(model, x, background, players, 4, seed) for seed in (1, 2)))


def test_an_order_and_its_reverse_make_two_players_exact():
    model, x, background = fitted("forest")
    players = np.array([0, 0, 1, 1, 1])
    exact = tree_shapley(model, x, background[:1], players)
    assert np.allclose(sampled_shapley(model, x, background[:1], players, 2, 5), exact, atol=1e-6)


def test_a_variable_that_is_not_used_has_no_value():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3)).astype(np.float32)
    model = RandomForestRegressor(4, random_state=0).fit(np.where([True, True, False], x, 0), x[:, 0])
    assert (tree_shapley(model, x[:5], x[5:15], np.arange(3))[:, 2] == 0).all()
    assert (sampled_shapley(model, x[:5], x[5:15], np.arange(3), 6, 0)[:, 2] == 0).all()
