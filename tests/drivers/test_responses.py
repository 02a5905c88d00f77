"""Responses of functions that are known, and the shapes of curves drawn by hand."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from soilcarbon.drivers.responses import (
    accumulated,
    common_shape,
    density,
    dependence,
    joint_accumulated,
    joint_dependence,
    quantile_grid,
    shape_of,
)


class Known(RegressorMixin, BaseEstimator):
    """Predicts by a function of columns."""

    def __init__(self, function):
        self.function = function

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, *_):
        return self

    def predict(self, x):
        return self.function(*x.T.astype(float))


def places(n=4000, correlation=0.0):
    random = np.random.default_rng(0)
    first = random.uniform(-1, 1, n)
    return np.stack([first, correlation * first + (1 - correlation) * random.uniform(-1, 1, n)], axis=1)


def test_grid_holds_equally_many_and_weights_sum_to_one():
    values = np.random.default_rng(0).lognormal(size=5000)
    grid = quantile_grid(values)
    assert len(grid) == 11 and np.histogram(values, grid)[0] == pytest.approx(490, abs=1)
    assert (values < grid[0]).mean() == pytest.approx(0.01, abs=1e-3) and (values > grid[-1]).mean() == pytest.approx(
        0.01, abs=1e-3
    )
    weights = density(values, grid)
    assert weights.sum() == pytest.approx(1) and weights[[0, 5]] == pytest.approx([0.054, 0.098], abs=1e-3)
    assert len(quantile_grid(np.array([0.0] * 90 + [1.0] * 10))) == 2
    rare = np.array([0.0] * 995 + [1.0] * 5, np.float32)  # water in half a percent of the places
    assert quantile_grid(rare).tolist() == [0.0, 1.0] and density(rare, quantile_grid(rare)).tolist() == [0.5, 0.5]


def test_effects_of_a_sum_are_its_terms_though_variables_go_together():
    x = places(correlation=0.8)
    model = Known(lambda a, b: 2 * a + np.sin(3 * b))
    for column, term in ((0, lambda v: 2 * v), (1, lambda v: np.sin(3 * v))):
        grid = quantile_grid(x[:, column])
        weights = density(x[:, column], grid)
        expected = term(grid) - weights @ term(grid)
        assert accumulated(model, x, column, grid, weights) == pytest.approx(expected, abs=1e-6)
        assert dependence(model, x, column, grid, weights) == pytest.approx(expected, abs=1e-6)


def test_accumulated_effects_never_leave_where_places_are():
    x = places(correlation=0.95)

    def cliff(a, b):
        return np.where(np.abs(a - b) > 0.5, 100.0, a)  # only where no place is

    grid = quantile_grid(x[:, 0])
    weights = density(x[:, 0], grid)
    assert np.ptp(accumulated(Known(cliff), x, 0, grid, weights)) < 3
    assert np.ptp(dependence(Known(cliff), x, 0, grid, weights)) > 20


def test_what_two_do_together_is_what_is_left_of_the_sum():
    x = places(20_000)
    grids = quantile_grid(x[:, 0], 6), quantile_grid(x[:, 1], 6)
    alone = joint_accumulated(Known(lambda a, b: 2 * a - b**2), x, (0, 1), grids)
    assert np.abs(alone).max() < 1e-9
    both = joint_accumulated(Known(lambda a, b: a * b + 3 * a), x, (0, 1), grids)
    assert both == pytest.approx(np.outer(*grids), abs=0.05)
    surface = joint_dependence(Known(lambda a, b: a * b + 3 * a), x, (0, 1), grids)
    expected = np.outer(*grids) + 3 * grids[0][:, None]
    assert surface == pytest.approx(expected - expected.mean(), abs=1e-9)


GRID = np.linspace(0, 10, 11)
EVEN = np.full(11, 1 / 11)


@pytest.mark.parametrize(
    ("curve", "shape", "at"),
    [
        (0.01 * GRID, "flat", None),
        (0.3 * GRID, "rising", None),
        (-0.3 * GRID, "falling", None),
        (np.minimum(GRID, 4.0), "saturating", 4),
        (-np.minimum(GRID, 6.0), "saturating", 6),
        (np.maximum(GRID - 7, 0.0), "threshold", 7),
        (-np.abs(GRID - 5), "peaked", 5),
        (np.abs(GRID - 3), "dipped", 3),
    ],
)
def test_shapes_of_plain_curves(curve, shape, at):
    found, bend = shape_of(curve, GRID, EVEN)
    assert found == shape and (np.isnan(bend) if at is None else bend == at)


def test_a_bend_where_hardly_any_place_lies_is_none():
    weights = np.array([0.3] * 3 + [0.1 / 8] * 8)
    assert shape_of(np.minimum(GRID, 9.0), GRID, weights / weights.sum())[0] == "rising"


def test_a_bend_that_hardly_matters_is_none():
    assert shape_of(np.minimum(GRID, 8.0), GRID, EVEN)[0] == "rising"
    assert shape_of(np.minimum(GRID, 6.0), GRID, EVEN)[0] == "saturating"


def test_a_shape_is_reported_only_if_refits_agree():
    random = np.random.default_rng(0)
    bends = random.choice([3.0, 4.0, 5.0], 40)
    found = common_shape(np.minimum(GRID, bends[:, None]), GRID, EVEN, 0.95)
    assert (found.shape, found.agreement, found.at) == ("saturating", 1.0, pytest.approx(bends.mean()))
    assert (found.low, found.high) == (3, 5)
    mixed = np.concatenate([np.minimum(GRID, 4.0) * np.ones((20, 1)), np.ones((20, 1)) * 0.4 * GRID])
    assert common_shape(mixed, GRID, EVEN, 0.95).shape == "unclear"
