"""Error model of maps: its drawn fields against kriging by another method, and what it learns of errors of known correlation."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import slow_but
from scipy.sparse import csr_array

from soilcarbon.stats.error_field import DRAWS, GROWTH, HIDDEN, NEAR, WIDENED, ErrorField, Shape

RANGE = 150.0


def distances(lon, lat, to=None):
    def points(lon, lat):
        east, north = np.radians(lon), np.radians(lat)
        return 6371.0088 * np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)

    a, b = points(lon, lat), points(*(to or (lon, lat)))
    return np.linalg.norm(a[:, None] - b, axis=2)


def simulated(lon, lat, random, share=0.7, range_km=RANGE):
    """Return errors (n,) of variance 1 by Cholesky, an independent method; and their part that has structure."""
    covariance = share * np.exp(-distances(lon, lat) / range_km)
    structured = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(lon))) @ random.normal(size=len(lon))
    return structured + (1 - share) ** 0.5 * random.normal(size=len(lon)), structured


def places(random, n=400, side=8.0):
    return 100 + side * random.random(n), 30 + side * random.random(n)


UNIT = 6**-0.5
"""Size of errors in `fitted` by which they are those given, in g/kg."""


def fitted(lon, lat, error, period=None, size=0.1, **more):
    """Return the error model of predictions of 5 whose error is `size` times sqrt(6) times `error`."""
    zone = np.zeros(len(lon), int)
    y, period = 5 + 6**0.5 * size * error, zone if period is None else period
    return ErrorField.fit(y, np.full(len(lon), 5.0), zone, 1, np.column_stack([lon, lat]), period, **more)


def summed(errors, lon, lat, weights, period=None):
    return errors.sums(lon, lat, {period: csr_array(weights)})


@pytest.mark.parametrize("shape", [Shape(1.0, 0.5, 0.0, 300.0, 50.0, 0.0, 0.0), Shape(1.0, 0.2, 0.4, 300.0, 50.0, 0.0, 0.0)])
def test_drawn_means_have_mean_and_variance_of_block_kriging(shape):
    random = np.random.default_rng(0)
    lon, lat = places(random, 150)
    errors = replace(fitted(lon, lat, simulated(lon, lat, random)[0] + 1), shapes=(shape,))
    grid = [each.ravel() for each in np.meshgrid(np.linspace(100, 108, 12), np.linspace(30, 38, 12))]
    weights = np.stack(
        [np.where(np.hypot(grid[0] - x, grid[1] - y) < 2, 1.0, 0.0) for x, y in zip(*places(random, 60), strict=True)]
    )
    weights /= weights.sum(1, keepdims=True)
    drawn = summed(errors, *grid, weights)
    assert drawn.shape == (60, DRAWS)

    at = np.array(errors.places).T
    values, n = np.array(errors.values), len(errors.values)

    def correlation(d):
        return shape.long * np.exp(-d / shape.long_km) + shape.short * np.exp(-d / shape.short_km)

    inverse = np.linalg.inv(correlation(distances(*at)) + np.diag(shape.nugget / np.array(errors.counts)))
    one, to = np.ones(n), weights @ correlation(distances(*grid, tuple(at)))
    mean = one @ inverse @ values / (one @ inverse @ one)
    expected = mean + to @ inverse @ (values - mean)
    variance = (values - mean) @ inverse @ (values - mean) / (n - 1)
    rest = 1 - to @ inverse @ one
    within = np.einsum("ij,jk,ik->i", weights, correlation(distances(*grid)), weights)
    error = variance * (HIDDEN**2 + within - np.einsum("ij,jk,ik->i", to, inverse, to) + rest**2 / (one @ inverse @ one))
    np.testing.assert_allclose(drawn.mean(1), errors.corrected * expected, rtol=1e-5)
    ratio = drawn.var(1) / (WIDENED**2 * error)
    assert ratio.mean() == pytest.approx(1, abs=0.2)  # a hundred fields of 32 waves
    assert 0.5 < ratio.min() < ratio.max() < 1.9


def test_a_sum_does_not_depend_on_what_else_is_summed():
    random = np.random.default_rng(1)
    lon, lat = places(random, 120)
    errors = fitted(lon, lat, simulated(lon, lat, random)[0])
    weights = random.random((2, 120))
    both = summed(errors, lon, lat, weights)
    halves = [summed(errors, lon[part], lat[part], weights[:1, part]) for part in (slice(50), slice(50, None))]
    np.testing.assert_allclose(both[0], halves[0][0] + halves[1][0], rtol=1e-5, atol=1e-6)
    change = errors.sums(lon, lat, {1985: csr_array(weights[:1]), 2015: csr_array(-weights[1:])})[0]
    parts = [summed(errors, lon, lat, weights[k : k + 1], period)[0] for k, period in enumerate((1985, 2015))]
    np.testing.assert_allclose(change, parts[0] - parts[1], rtol=1e-5, atol=1e-6)


def test_sizes_are_learnt_by_zone():
    random, found = np.random.default_rng(0), []
    for _ in range(4):
        lon, lat = places(random)
        error, _ = simulated(lon, lat, random)
        zone = (lon > 104).astype(int)
        predicted = random.uniform(2, 10, len(lon))
        y = predicted + (1 + predicted) ** 0.5 * np.where(zone, 0.5, 0.2) * error
        found.append(ErrorField.fit(y.clip(0), predicted, zone, 3, np.column_stack([lon, lat]), np.zeros(len(lon), int)))
    deviations = np.mean([each.deviations for each in found], axis=0)
    np.testing.assert_allclose(deviations[:2], [0.2, 0.5], rtol=0.2)
    assert 0.2 < deviations[2] < 0.5  # nobody's zone: that of all
    spread = found[0].spread(np.array([8.0, 8.0]), np.array([[1.0, 0.5], [0.0, 0.5], [0.0, 0.0]]))
    np.testing.assert_allclose(spread, 3 * np.array([found[0].deviations[0], np.mean(found[0].deviations[:2])]))


def test_correlation_and_its_absence_are_learnt():
    random = np.random.default_rng(1)
    lon, lat = places(random)
    smooth, rough = fitted(lon, lat, simulated(lon, lat, random)[0]), fitted(lon, lat, random.normal(size=400))
    assert smooth.structured > 0.5 > 0.3 > rough.structured
    assert rough.cell_variance(np.array([5.0]))[0] == pytest.approx(0.8 * 0.06, rel=0.2)
    assert smooth.shortest_km < 30 < 200 < max(shape.long_km for shape in smooth.shapes)
    assert sum(shape.weight for shape in smooth.shapes) == pytest.approx(1, abs=0.02)
    assert rough.standard_error == pytest.approx(1 / 20, rel=0.1)


@pytest.mark.parametrize("truth", slow_but([0.0, 0.5, 1.0], 0.0, 1.0))
def test_what_lasts_from_period_to_period_is_learnt(truth):
    random, found = np.random.default_rng(2), []
    for _ in range(4):
        lon, lat = places(random, 300)
        always, once, other = (simulated(lon, lat, random)[1] for _ in range(3))
        later = random.random(300) < 0.5
        error = truth**0.5 * always + (1 - truth) ** 0.5 * np.where(later, once, other)
        found.append(fitted(lon, lat, error, later.astype(int)).persistence)
    assert np.mean(found) == pytest.approx(truth, abs=0.3)


def test_a_bias_of_its_own_period_is_learnt_and_part_of_a_change():
    random = np.random.default_rng(5)
    lon, lat = places(random, 450)
    period = np.repeat([1985, 1990, 1995], 150)
    found = fitted(lon, lat, np.repeat([0.5, -0.5, 0.0], 150) + random.normal(size=450), period, timeless=True)
    none = fitted(lon, lat, random.normal(size=450), period, timeless=True)
    assert found.drift > 0.03 > none.drift
    even = csr_array(np.full((1, 450), 1 / 450))
    changes = [each.sums(lon, lat, {1985: -even, 1990: even})[0] for each in (found, none)]
    assert changes[0].mean() == pytest.approx(-1, abs=0.3)
    assert changes[1].mean() == pytest.approx(0, abs=0.2)
    unseen = [each.sums(lon, lat, {2005: even})[0].std() for each in (found, none)]
    assert unseen[0] > 1.5 * unseen[1]  # a bias that no profile shows
    alone, later, shared = np.mean([each.covariances(lon[:9], lat[:9], 1985, 2005) for each in (found, none)], axis=2).T
    assert np.greater(*(alone + later - 2 * shared))  # a change, where one of the periods is known


def test_a_model_that_knows_the_time_has_a_bias_of_each_period_that_its_errors_do_not_show():
    random = np.random.default_rng(6)
    lon, lat = places(random, 300)
    period = np.repeat([1985, 1995], 150)
    error = random.normal(size=300)
    error -= np.repeat([error[:150].mean(), error[150:].mean()], 150)
    knows, timeless = (fitted(lon, lat, error, period, timeless=each) for each in (False, True))
    assert knows.drift >= 0.1 > timeless.drift


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("worlds", [100])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(worlds, clustered):
    """The mean error over an area is known; errors taken as independent would miss it mostly."""
    random = np.random.default_rng(3)
    axis = np.arange(0.25, 8, 0.5)
    grid_lon, grid_lat = (each.ravel() for each in np.meshgrid(100 + axis, 30 + axis))
    held = alone = 0
    for _ in range(worlds):
        lon, lat = places(random, 200)
        if clustered:
            centre = random.integers(10, size=200)
            lon, lat = (
                np.clip(each[centre] + 0.3 * random.normal(size=200), low, low + 8) for each, low in ((lon, 100), (lat, 30))
            )
        error, structured = simulated(np.append(lon, grid_lon), np.append(lat, grid_lat), random)
        errors = fitted(lon, lat, error[:200])
        spread = errors.spread(np.full(256, 5.0), np.ones((1, 256)))
        drawn = summed(errors, grid_lon, grid_lat, spread[None] / 256)[0]
        truth = 6**0.5 * 0.1 * structured[200:].mean()
        low, high = np.quantile(drawn, [0.05, 0.95])
        held += low <= truth <= high
        alone += abs(truth) <= 1.645 * 6**0.5 * 0.1 / 200**0.5
    print(f"covered {held}, by independent errors {alone}, of {worlds}")
    assert held >= 0.83 * worlds
    assert alone <= 0.7 * worlds


@pytest.mark.parametrize(("keeps", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (1.5, 1.0)])
def test_only_errors_that_the_model_keeps_at_profiles_it_has_seen_are_corrected(keeps, share):
    random = np.random.default_rng(8)
    lon, lat = places(random, 60)
    y, held_out, zero = 6 + random.normal(size=60), random.uniform(4, 6, 60), np.zeros(60, int)
    known = held_out, zero, 1, np.column_stack([lon, lat]), zero
    found = ErrorField.fit(y, *known, fitted=y - keeps * (y - held_out))
    unseen, even = ErrorField.fit(y, *known), np.full((1, 60), 1 / 60)
    assert found.corrected == pytest.approx(unseen.corrected * share) and unseen.corrected >= 0.5
    assert summed(found, lon, lat, even).mean() == pytest.approx(share * summed(unseen, lon, lat, even).mean())


def test_a_period_s_own_bias_is_corrected_wholly_and_a_model_that_reacts_has_less_of_it():
    random = np.random.default_rng(9)
    lon, lat = places(random, 400)
    period, error = np.repeat([1990, 2010], 200), np.repeat([0.2, -0.2], 200) + random.normal(size=400)
    follows, keeps = (fitted(lon, lat, error, period, UNIT, fitted=5 + share * error, timeless=True) for share in (1.0, 0.1))
    even = csr_array(np.full((1, 400), 1 / 400))
    changes = [each.sums(lon, lat, {1990: -even, 2010: even})[0] / each.deviations[0] / 6**0.5 for each in (follows, keeps)]
    assert follows.corrected == 0 and keeps.corrected > 0.4
    assert -0.42 < changes[0].mean() < changes[1].mean() - 0.05 < -0.05
    assert follows.drift > 1.3 * keeps.drift


def test_profiles_of_one_period_tell_little_of_a_change_however_many_they_are():
    random, narrow, change = np.random.default_rng(10), [], []
    for n in (100, 600):
        lon, lat = places(random, n)
        error, even = random.normal(size=n), csr_array(np.full((1, n), 1 / n))
        for share in (0.2, 1.0):
            found = fitted(lon, lat, error, size=UNIT, fitted=5 + (1 - share) * error)
            one_period = replace(found, shapes=tuple(each._replace(persistence=0.0) for each in found.shapes))
            assert one_period.sums(lon, lat, {None: even}).std() == pytest.approx(found.sums(lon, lat, {0: even}).std(), rel=0.15)
            narrow.append(found.sums(lon, lat, {None: even}).std() / found.deviations[0])
            change.append(found.sums(lon, lat, {1990: -even, 2010: even}).std() / found.deviations[0])
    assert narrow[2] < 0.6 * narrow[0] and narrow[3] < 0.6 * narrow[1]
    assert change[2] > 0.8 * change[0] > 0.3  # a model that follows its profiles reacts less to covariates that change
    assert change[0] > 1.5 * change[1] and change[3] > narrow[3]


def test_errors_of_a_map_are_smaller_by_what_the_averaging_of_members_gains():
    random = np.random.default_rng(11)
    lon, lat = places(random, 150)
    error = simulated(lon, lat, random)[0]
    gained = (None, np.full(150, 0.1), np.full(150, 9.0))
    single, mean, much = (fitted(lon, lat, error, size=UNIT, averaging=each) for each in gained)
    shared = single.structured / (1 - single.drift)
    assert mean.deviations[0] / single.deviations[0] == pytest.approx((1 - 0.1 / (error**2).mean() / shared) ** 0.5, rel=0.02)
    assert much.deviations[0] == pytest.approx(0.5**0.5 * single.deviations[0])
    np.testing.assert_allclose(mean.values, single.values)  # what profiles show stays as it is


def test_many_profiles_are_averaged_in_squares():
    random = np.random.default_rng(6)
    lon, lat = places(random, 5000)
    errors = fitted(lon, lat, simulated(lon[:800], lat[:800], random)[0][np.arange(5000) % 800] + 0.4)
    assert sum(errors.counts) == 5000
    assert len(errors.places) <= 800
    assert np.average(errors.values, weights=errors.counts) > 0.1


def test_what_tells_nothing_is_refused():
    where = np.column_stack(places(np.random.default_rng(4), 20))
    zero = np.zeros(20, int)
    with pytest.raises(ValueError, match="do not vary"):
        ErrorField.fit(np.ones(20), np.ones(20), zero, 1, where, zero)
    with pytest.raises(ValueError, match="one place"):
        ErrorField.fit(np.arange(20.0), np.ones(20), zero, 1, np.ones((20, 2)), zero)
    with pytest.raises(ValueError, match="too few"):
        ErrorField.fit(np.arange(5.0), np.ones(5), zero[:5], 1, where[:5], zero[:5])


def test_plain_values_restore_it_and_others_are_refused():
    random = np.random.default_rng(7)
    lon, lat = places(random, 40)
    known = fitted(lon, lat, random.normal(size=40))
    plain = known.to_plain()
    assert ErrorField.from_plain(plain) == known
    shape = plain["shapes"][0]
    for name, wrong in (
        ("deviations", [-1.0]),
        ("deviations", [np.nan]),
        ("deviations", ["1"]),
        ("deviations", []),
        ("cell", -1.0),
        ("places", [[0.0, 91.0]] * 40),
        ("places", [[0.0]] * 40),
        ("values", plain["values"][:-1]),
        ("counts", [0] * 40),
        ("counts", [1.5] * 40),
        ("period", ["a"] * 40),
        ("corrected", 1.1),
        ("shapes", []),
        ("shapes", [[*shape[:1], 0.9, 0.9, *shape[3:]]]),
        ("shapes", [[*shape[:3], 0.0, *shape[4:]]]),
        ("shapes", [shape[:-1]]),
    ):
        with pytest.raises(ValueError, match="errors"):
            ErrorField.from_plain(plain | {name: wrong})
    with pytest.raises(ValueError, match="expected deviations"):
        ErrorField.from_plain({})


def test_errors_grow_away_from_profiles_as_far_as_held_out_ones_do_not_show_it():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 1, (2, 60))  # all in one corner of 4 x 4 degrees, but one
    lon[0] = lat[0] = 4
    error = random.normal(size=60)
    extent = 6371.0088 * np.radians(np.hypot(4 - lat.min(), 4 - lon.min()))
    found = fitted(lon, lat, error, size=UNIT, apart=np.full(60, extent / GROWTH))
    assert found.held == pytest.approx(1 - (1 - NEAR) / np.e, rel=0.03)
    places = np.array([lon[5], 4.0, 2.5]), np.array([lat[5], 4.0, 2.5])
    expected = [(NEAR / found.held) ** 0.5, (NEAR / found.held) ** 0.5, (1 / found.held) ** 0.5]
    np.testing.assert_allclose(found.growth(*places), expected, rtol=0.03)
    unknown = fitted(lon, lat, error, size=UNIT)
    assert unknown.growth(*places).tolist() == [1, 1, 1]
    plain = unknown.to_plain()
    assert ErrorField.from_plain(found.to_plain()) == found and ErrorField.from_plain(plain) == unknown
    del plain["held"]  # of an earlier version
    assert ErrorField.from_plain(plain) == unknown
    with pytest.raises(ValueError, match="held"):
        replace(found, held=0.1)
