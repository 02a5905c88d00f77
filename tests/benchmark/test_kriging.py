"""Kriging against a dense system and numbers worked by hand."""

import dataclasses

import numpy as np
import pytest
from simulated import haversine

from soilcarbon.benchmark import kriging
from soilcarbon.benchmark.baselines import Known
from soilcarbon.benchmark.forests import Forest
from soilcarbon.benchmark.kriging import RegressionKriging, krige
from soilcarbon.stats.variogram import KM_PER_DEGREE, Variogram

EXPONENTIAL = Variogram("exponential", 0.0, 2.0, 80.0, True)


@pytest.mark.parametrize("model", ["exponential", "spherical"])
@pytest.mark.parametrize("nugget", [0.0, 0.7])
def test_kriging_equals_a_dense_system(model, nugget, known, places):
    values, places = np.log(known.y) - np.log(known.y).mean(), places.take(slice(30))
    between = haversine(known.lon[:, None], known.lat[:, None], known.lon, known.lat)
    across = haversine(places.lon[:, None], places.lat[:, None], known.lon, known.lat)

    def covariance(km):
        h = km / 80
        return 2 * (np.exp(-h) if model == "exponential" else np.where(h < 1, 1 - 1.5 * h + 0.5 * h**3, 0))

    expected = covariance(across) @ np.linalg.solve(covariance(between) + nugget * np.eye(len(known)), values)
    variogram = Variogram(model, nugget, 2.0, 80.0, True)
    assert krige(variogram, known.lon, known.lat, values, (places.lon, places.lat), 1000) == pytest.approx(expected, abs=1e-5)
    near = krige(variogram, known.lon, known.lat, values, (places.lon, places.lat), 50)
    assert near == pytest.approx(expected, abs=0.1)


def test_kriging_from_one_value_by_hand():
    lon, lat, at = np.array([0.0, 5.0]), np.zeros(2), (np.array([1.0]), np.zeros(1))
    weight = 2 * np.exp(-KM_PER_DEGREE / 80) / (2 + 0.5)
    noisy = dataclasses.replace(EXPONENTIAL, nugget=0.5)
    assert krige(noisy, lon, lat, np.array([3.0, 100]), at, 1)[0] == pytest.approx(3 * weight)


def test_kriging_returns_a_value_at_its_place_less_of_it_with_a_nugget_and_nothing_far_away():
    lon, lat, values = np.array([0.0, 1, 2]), np.array([0.0, 1, 0]), np.array([5.0, -3, 1])
    assert krige(EXPONENTIAL, lon, lat, values, (lon, lat)) == pytest.approx(values, abs=1e-6)
    assert krige(dataclasses.replace(EXPONENTIAL, nugget=2.0), lon, lat, values, (lon, lat))[0] < 3
    assert krige(EXPONENTIAL, lon, lat, values, (np.array([120.0]), np.array([50.0]))) == pytest.approx([0], abs=1e-9)
    assert krige(dataclasses.replace(EXPONENTIAL, sill=0.0), lon, lat, values, (lon, lat)).tolist() == [0, 0, 0]


def test_two_values_of_one_place_are_averaged():
    twins, at = (np.zeros(2), np.zeros(2)), (np.zeros(1), np.zeros(1))
    assert krige(EXPONENTIAL, *twins, np.array([1.0, 4.0]), at)[0] == pytest.approx(2.5, abs=1e-5)


def scattered(n, practical_range, seed):
    """Return profiles whose ln(1 + y) is a field of an exponential covariance that no covariate knows."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(7, 13, n), random.uniform(48, 52, n)
    km = haversine(lon[:, None], lat[:, None], lon, lat)
    field = np.linalg.cholesky(np.exp(-3 * km / practical_range) + 1e-9 * np.eye(n)) @ random.normal(size=n)
    return Known(random.normal(size=(n, 2)).astype(np.float32), np.expm1(3 + 0.6 * field), lon, lat, np.arange(n))


def test_regression_kriging_adds_what_the_residuals_out_of_bag_tell():
    both = scattered(500, 300.0, seed=0)
    known, places = both.take(slice(350)), both.take(slice(350, None))
    kriging, forest = RegressionKriging(trees=60).fit(known, 0), Forest(log=True, trees=60).fit(known, 0)
    residual = np.log1p(known.y) - kriging._forest.oob_prediction_
    correction = krige(kriging.variogram_, known.lon, known.lat, residual, (places.lon, places.lat), 50)
    expected = np.expm1(np.log1p(forest.predict(places)) + correction).clip(0, known.y.max())
    assert kriging.predict(places) == pytest.approx(expected)
    assert 150 < kriging.variogram_.practical_range < 600
    assert np.abs(expected - places.y).mean() < 0.75 * np.abs(forest.predict(places) - places.y).mean()


@pytest.mark.parametrize(("sill", "scale"), [(0.0, 50.0), (0.05, 50.0), (1.0, 0.1)])
def test_residuals_without_structure_are_not_kriged(sill, scale, known, places, monkeypatch):
    monkeypatch.setattr(kriging, "fit_variogram", lambda _, model: Variogram(model, 1.0, sill, scale, True))
    fitted = RegressionKriging(trees=60).fit(known, 0)
    assert fitted.variogram_ is None
    assert fitted.predict(places) == pytest.approx(Forest(log=True, trees=60).fit(known, 0).predict(places))


def test_a_position_that_is_none_is_not_taken_for_a_lack_of_structure(known):
    with pytest.raises(ValueError, match="1 of 300 positions are invalid"):
        RegressionKriging(trees=60).fit(dataclasses.replace(known, lat=np.r_[95.0, known.lat[1:]]), 0)
