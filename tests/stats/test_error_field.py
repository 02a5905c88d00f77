"""Spatially correlated errors: drawn with a given correlation, and fitted to errors of known correlation."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from soilcarbon.stats.error_field import DRAWS, ErrorField

RANGE = 150.0


def distances(lon, lat):
    east, north = np.radians(lon), np.radians(lat)
    points = 6371.0088 * np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)
    return np.linalg.norm(points[:, None] - points, axis=2)


def simulated(lon, lat, random, share=0.7, range_km=RANGE):
    """Return errors (n,) of variance 1 by Cholesky, an independent method; and their part that has structure."""
    covariance = share * np.exp(-distances(lon, lat) / range_km)
    structured = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(lon))) @ random.normal(size=len(lon))
    return structured + (1 - share) ** 0.5 * random.normal(size=len(lon)), structured


def places(random, n=400, side=8.0):
    return 100 + side * random.random(n), 30 + side * random.random(n)


@pytest.mark.parametrize("common", [0.0, 0.4])
def test_fields_have_the_correlation_they_are_to_have(common):
    lon, lat = np.linspace(100, 110, 30), np.full(30, 35.0)
    errors = ErrorField((1.0,), 1.0, common, RANGE, 0.6)
    one = np.eye(30)
    both = errors.sums(
        lon, lat, [(k + 30 * period, period, csr_array(one[k : k + 1])) for k in range(30) for period in (0, 1)], 60, 3000
    )
    first, last = both[:30].T, both[30:].T
    np.testing.assert_allclose(first.mean(0), 0, atol=1e-12)  # each has its mirror image
    assert first.var() == pytest.approx(1, abs=0.05)
    expected = common + (1 - common) * np.exp(-distances(lon, lat)[0] / RANGE)
    np.testing.assert_allclose((first * first[:, :1]).mean(0), expected, atol=0.09)
    np.testing.assert_allclose((last * first[:, :1]).mean(0), 0.6 * expected, atol=0.09)
    alone = errors.sums(lon[5:6], lat[5:6], [(0, 0, csr_array([[1.0]]))], 1, 3000)[0]
    np.testing.assert_allclose(alone, first[:, 5], atol=1e-5)  # whatever else is requested
    weights = np.random.default_rng(0).normal(size=(2, 30))
    change = errors.sums(lon, lat, [(0, 0, csr_array(weights[:1])), (0, 1, csr_array(weights[1:]))], 1, 3000)[0]
    np.testing.assert_allclose(change, first @ weights[0] + last @ weights[1], atol=1e-4)
    assert errors.sums(lon, lat, [(0, 0, csr_array(weights[:1]))], 1).shape == (1, DRAWS)


def test_what_is_shared_is_learnt():
    random, found = np.random.default_rng(0), []
    for _ in range(8):
        lon, lat = places(random)
        error, _ = simulated(lon, lat, random)
        zone = (lon > 104).astype(int)
        predicted = random.uniform(2, 10, len(lon))
        y = predicted + (1 + predicted) * np.where(zone, 0.05, 0.02) * error
        found.append(ErrorField.fit(y, predicted, zone, 3, np.column_stack([lon, lat]), np.zeros(len(lon))))
    deviations = np.mean([each.deviations for each in found], axis=0)
    np.testing.assert_allclose(deviations[:2], [0.02, 0.05], rtol=0.2)
    assert 0.02 < deviations[2] < 0.05  # nobody's zone: that of all
    assert np.mean([each.structured for each in found]) == pytest.approx(0.7, abs=0.15)
    assert 0.5 * RANGE < np.median([each.range_km for each in found]) < 2 * RANGE
    assert all(each.persistence == 0 for each in found)  # one period has no information on others


def test_errors_without_structure_cancel():
    random = np.random.default_rng(1)
    lon, lat = places(random)
    predicted = random.uniform(2, 10, 400)
    y = predicted + (1 + predicted) * 0.05 * random.normal(size=400)
    found = ErrorField.fit(y, predicted, np.zeros(400, int), 1, np.column_stack([lon, lat]), np.zeros(400))
    assert found.structured < 0.35
    assert found.spread(np.array([9.0]), np.ones((1, 1)))[0] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
def test_what_lasts_from_period_to_period_is_learnt(truth):
    random, found = np.random.default_rng(2), []
    for _ in range(6):
        lon, lat = places(random, 500)
        always, once = (simulated(lon, lat, random)[1] for _ in range(2))
        later = random.random(500) < 0.5
        other = simulated(lon, lat, random)[1]
        error = truth**0.5 * always + (1 - truth) ** 0.5 * np.where(later, once, other)
        y = 5 + 6 * 0.1 * error
        found.append(ErrorField.fit(y, np.full(500, 5.0), np.zeros(500, int), 1, np.column_stack([lon, lat]), later).persistence)
    assert truth - 0.45 < np.mean(found) < truth + 0.1  # the lower end of the estimates


def test_a_bias_of_its_own_period_is_part_of_a_change():
    random = np.random.default_rng(5)
    lon, lat = places(random, 600)
    period = np.repeat([1985, 1990, 1995], 200)
    bias = np.array([0.05, -0.05, 0.0])
    y = 5 + 6 * (np.repeat(bias, 200) + 0.1 * random.normal(size=600))
    found = ErrorField.fit(y, np.full(600, 5.0), np.zeros(600, int), 1, np.column_stack([lon, lat]), period)
    deviation = found.deviations[0]
    assert found.drift * deviation**2 == pytest.approx((bias**2).mean(), rel=0.5)
    even = csr_array(np.full((1, 600), 1 / 600))
    alone = ErrorField((deviation,), 0.0, 0.0, 100.0, 0.0, found.drift)
    change = alone.sums(lon, lat, [(0, 0, -even), (0, 1, even)], 1, 2000)[0] * deviation
    assert change.std() == pytest.approx((2 * found.drift) ** 0.5 * deviation, rel=0.1)
    assert alone.of_change(np.array([deviation]), np.array([deviation]))[0] == pytest.approx(change.std(), rel=0.1)


@pytest.mark.parametrize("worlds", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(worlds):
    """The mean error over an area is known; errors taken as independent would miss it mostly."""
    random = np.random.default_rng(3)
    axis = np.arange(0.25, 8, 0.5)
    grid_lon, grid_lat = (each.ravel() for each in np.meshgrid(100 + axis, 30 + axis))
    held = alone = 0
    for _ in range(worlds):
        lon, lat = places(random, 300)
        error, structured = simulated(np.append(lon, grid_lon), np.append(lat, grid_lat), random)
        y = 5 + 6 * 0.1 * error[:300]
        known = ErrorField.fit(y, np.full(300, 5.0), np.zeros(300, int), 1, np.column_stack([lon, lat]), np.zeros(300))
        drawn = known.sums(grid_lon, grid_lat, [(0, 0, csr_array([known.spread(np.full(256, 5.0), np.ones((1, 256))) / 256]))], 1)[
            0
        ]
        truth = (6 * 0.1 * structured[300:]).mean()
        low, high = np.quantile(drawn, [0.05, 0.95])
        held += low <= truth <= high
        alone += abs(truth) <= 1.645 * 0.6 / 16
    print(f"covered {held}, by independent errors {alone}, of {worlds}")
    assert held >= 0.9 * worlds
    assert alone < 0.5 * worlds


def test_what_tells_nothing_is_refused():
    where = np.column_stack(places(np.random.default_rng(4), 20))
    with pytest.raises(ValueError, match="do not vary"):
        ErrorField.fit(np.ones(20), np.ones(20), np.zeros(20, int), 1, where, np.zeros(20))
    with pytest.raises(ValueError, match="lags"):
        ErrorField.fit(np.arange(20.0), np.ones(20), np.zeros(20, int), 1, where, np.zeros(20))
    for wrong in ((-1.0,), (np.nan,), ("1",), ()):
        with pytest.raises(ValueError, match="errors"):
            ErrorField(wrong, 0.5, 0.0, 100.0, 0.5)
    known = ErrorField((0.1, 0.2), 0.5, 0.0, 100.0, 0.5)
    assert ErrorField.from_plain(known.to_plain()) == known
