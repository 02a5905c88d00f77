"""Estimators against numbers worked by hand, dense systems and plain scikit-learn."""

import dataclasses

import numpy as np
import pytest
from conftest import slow_but
from simulated import haversine

from soilcarbon.regression import estimators
from soilcarbon.regression.estimators import (
    InverseDistance,
    LogTarget,
    QuantileForest,
    RegressionKriging,
    Samples,
    WorldForest,
    kriged_from_other_groups,
    kriging,
)
from soilcarbon.stats.variogram import KM_PER_DEGREE, Variogram, unit_vectors


def on_line(degrees, y):
    """Return profiles on the equator, without informative covariates."""
    degrees = np.asarray(degrees, float)
    X = np.column_stack([degrees, np.zeros((len(degrees), 2))])
    return Samples(X, np.asarray(y, float), np.arange(len(degrees)))


def distances(X, other):
    """Return great-circle distances (n, m), km."""
    return haversine(X[:, :1], X[:, 1:2], other[:, 0], other[:, 1])


# --- inverse distance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "expected"), [(1.0, (10 + 20 / 2) / 1.5), (2.0, (10 + 20 / 4) / 1.25), (3.0, 12.5 / 1.125)])
def test_inverse_distance_by_hand_over_the_date_line(power, expected):
    line = on_line([179.5, -177.5, 60], [10, 20, 900])  # 1 and 2 degrees from -179.5
    model = InverseDistance(power, neighbours=2).fit(line.X, line.y)
    assert model.predict(on_line([-179.5], [0]).X)[0] == pytest.approx(expected)


def test_inverse_distance_at_a_profile_is_the_mean_of_those_there():
    line = on_line([0, 0, 1], [4, 8, 100])
    assert InverseDistance().fit(line.X, line.y).predict(line.X[1:]).tolist() == [6, 100]


def test_inverse_distance_equals_the_sum_over_all_profiles(samples, places):
    weight = distances(places.X, samples.X) ** -2.0
    predicted = InverseDistance(2.0, neighbours=10_000).fit(samples.X, samples.y).predict(places.X)
    assert predicted == pytest.approx(weight @ samples.y / weight.sum(1), rel=1e-6)


# --- forests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", slow_but([0.1, 0.5], 0.5))
def test_a_forest_that_cannot_split_predicts_the_two_means_in_their_shares(share, samples, abroad):
    here, there = samples.y[:30], abroad.y
    of_world = np.arange(430) >= 30
    forest = WorldForest(share, n_estimators=200, random_state=0).fit(np.zeros((430, 1)), np.append(here, there), of_world)
    assert forest.predict([[0.0]])[0] == pytest.approx(share * here.mean() + (1 - share) * there.mean(), rel=0.03)
    alone = WorldForest(share, random_state=0).fit(np.zeros((30, 1)), here).predict([[0.0]])
    assert alone == WorldForest(share, random_state=0).fit(np.zeros((30, 1)), here, np.zeros(30, bool)).predict([[0.0]])
    with pytest.raises(ValueError, match="share = 1: expected above 0 and below 1"):
        WorldForest(1.0).fit(np.zeros((30, 1)), here)


def plain_quantile(forest, x, y, place, level):
    """Return one quantile as Meinshausen (2006) writes it."""
    weight = np.zeros(len(y))
    for tree in forest.estimators_:
        leaf_of = tree.apply(x.astype(np.float32))
        same = leaf_of == tree.apply(place.astype(np.float32))[0]
        weight[same] += 1 / same.sum() / len(forest.estimators_)
    order = np.argsort(y)
    return y[order[np.flatnonzero(weight[order].cumsum() >= level - 1e-9)[0]]]


def test_quantile_forest_equals_the_plain_computation_in_chunks_of_any_size(samples, places, monkeypatch):
    x, at, levels = samples.X[:, 2:], places.X[:12, 2:], (0.05, 0.5, 0.95, 1.0)
    forest = QuantileForest(n_estimators=20, min_samples_leaf=3, random_state=0).fit(x, samples.y)
    expected = [[plain_quantile(forest, x, samples.y, at[[k]], level) for level in levels] for k in range(12)]
    assert forest.predict_quantiles(at, levels).tolist() == expected
    monkeypatch.setattr(estimators, "_CHUNK_VALUES", 5 * len(samples.y))
    assert forest.predict_quantiles(at, levels).tolist() == expected
    assert forest.predict(at).tolist() == [row[1] for row in expected]


def test_quantiles_rise_with_the_level_and_cover_their_share_of_new_profiles():
    random, levels = np.random.default_rng(0), [0.1, 0.25, 0.5, 0.75, 0.9]
    x = random.uniform(0, 1, (1200, 1))
    y = np.exp(1 + 2 * x[:, 0] + 0.5 * random.normal(size=1200))
    forest = QuantileForest(60, max_features=1.0, min_samples_leaf=20, random_state=0).fit(x[:800], y[:800])
    quantiles = forest.predict_quantiles(x[800:], levels)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (y[800:, None] <= quantiles).mean(0) == pytest.approx(levels, abs=0.06)
    assert np.abs(np.log(quantiles[:, 2]) - (1 + 2 * x[800:, 0])).mean() < 0.15
    for level in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="expected a list of numbers above 0 and at most 1"):
            forest.predict_quantiles(x, [0.5, level])


# --- kriging ------------------------------------------------------------------------------------------------------------

EXPONENTIAL = Variogram("exponential", 0.0, 2.0, 80.0, True)


@pytest.mark.parametrize("nugget", [0.0, 0.7])
def test_kriging_equals_a_dense_system(nugget, samples, places):
    values = np.log(samples.y) - np.log(samples.y).mean()
    between, across = distances(samples.X, samples.X), distances(places.X, samples.X)
    expected = 2 * np.exp(-across / 80) @ np.linalg.solve(2 * np.exp(-between / 80) + nugget * np.eye(300), values)
    process = kriging(dataclasses.replace(EXPONENTIAL, nugget=nugget)).fit(unit_vectors(*samples.X[:, :2].T), values)
    assert process.predict(unit_vectors(*places.X[:, :2].T)) == pytest.approx(expected, abs=1e-3)  # chords, not arcs


def test_kriging_by_hand_from_one_value_from_twins_and_far_away():
    noisy, points = dataclasses.replace(EXPONENTIAL, nugget=0.5), unit_vectors([0.0, 1.0, 120.0], [0.0, 0.0, 50.0])
    weight = 2 * np.exp(-KM_PER_DEGREE / 80) / (2 + 0.5)
    assert kriging(noisy).fit(points[:1], [3.0]).predict(points)[1:] == pytest.approx([3 * weight, 0], rel=1e-4, abs=1e-9)
    assert kriging(EXPONENTIAL).fit(points, [5.0, -3, 1]).predict(points) == pytest.approx([5, -3, 1], abs=1e-6)
    assert kriging(EXPONENTIAL).fit(points[[0, 0]], [1.0, 4.0]).predict(points[:1]) == pytest.approx([2.5], abs=1e-5)


def scattered(n, practical_range, seed):
    """Return profiles whose ln(1 + y) is a field of an exponential covariance that no covariate knows."""
    random = np.random.default_rng(seed)
    X = np.column_stack([random.uniform(7, 13, n), random.uniform(48, 52, n), random.normal(size=(n, 2))])
    km = distances(X, X)
    field = np.linalg.cholesky(np.exp(-3 * km / practical_range) + 1e-9 * np.eye(n)) @ random.normal(size=n)
    return Samples(X, np.expm1(3 + 0.6 * field), np.arange(n))


def test_regression_kriging_adds_what_the_out_of_bag_residuals_give():
    both = scattered(500, 300.0, seed=0)
    known, places = both.take(slice(350)), both.take(slice(350, None))
    model, forest = (LogTarget(each).fit(known.X, known.y) for each in (RegressionKriging(60, random_state=0),) * 2)
    inner = model.regressor_
    correction = inner.residuals_.predict(unit_vectors(*places.X[:, :2].T))
    plain = inner.forest_.predict(places.X[:, 2:])
    predicted = forest.predict(places.X)
    assert predicted == pytest.approx(np.expm1(plain + correction).clip(0, known.y.max()))
    assert 150 < inner.variogram_.practical_range < 600
    assert np.abs(predicted - places.y).mean() < 0.75 * np.abs(np.expm1(plain) - places.y).mean()


def test_what_is_kriged_from_other_groups_is_what_a_process_of_them_alone_predicts():
    both = scattered(60, 300.0, seed=1)
    points, values, groups = unit_vectors(*both.X[:, :2].T), np.log1p(both.y) - 3, np.arange(60) // 4 % 11
    noisy = dataclasses.replace(EXPONENTIAL, nugget=0.5)
    found = kriged_from_other_groups(kriging(noisy).fit(points, values), values, groups)
    for group in range(11):
        out = groups == group
        assert found[out] == pytest.approx(kriging(noisy).fit(points[~out], values[~out]).predict(points[out]))


def test_the_correction_is_shrunk_by_the_slope_of_residuals_on_what_other_blocks_give():
    both = scattered(300, 300.0, seed=0)
    model = RegressionKriging(60, random_state=0).fit(both.X, both.y, both.groups)
    residual = both.y - model.forest_.oob_prediction_
    kriged = kriged_from_other_groups(model.residuals_, residual, both.groups)
    assert model.share_ == pytest.approx(min(np.linalg.lstsq(kriged[:, None], residual)[0][0], 1)) and model.share_ > 0.5
    found = model.predict(both.X) - model.forest_.predict(both.X[:, 2:])
    assert found == pytest.approx(model.share_ * model.residuals_.predict(unit_vectors(*both.X[:, :2].T)))


def test_structure_within_blocks_alone_is_not_kriged():
    # a chessboard of blocks: near profiles are alike, and those of the next block are the opposite
    random = np.random.default_rng(3)
    X = np.column_stack([random.uniform(7, 13, 300), random.uniform(48, 52, 300), random.normal(size=(300, 2))])
    column, row = np.floor(X[:, :2].T).astype(int)
    blocks, y = 100 * column + row, 3 + (column + row) % 2 + 0.3 * random.normal(size=300)
    assert RegressionKriging(60, random_state=0).fit(X, y).variogram_ is not None
    assert RegressionKriging(60, random_state=0).fit(X, y, blocks).variogram_ is None


@pytest.mark.parametrize(("sill", "scale"), [(0.0, 50.0), (0.05, 50.0), (1.0, 0.1)])
def test_residuals_without_structure_are_not_kriged(sill, scale, samples, places, monkeypatch):
    monkeypatch.setattr(estimators, "fit_variogram", lambda _: Variogram("exponential", 1.0, sill, scale, True))
    model = RegressionKriging(60, random_state=0).fit(samples.X, samples.y)
    assert model.variogram_ is None
    assert model.predict(places.X).tolist() == model.forest_.predict(places.X[:, 2:]).tolist()


def test_a_wrong_position_is_not_taken_for_a_lack_of_structure(samples):
    X = samples.X.copy()
    X[0, 1] = 95
    with pytest.raises(ValueError, match="1 of 300 positions"):
        RegressionKriging(60).fit(X, samples.y)
