"""Horizons to depth intervals: known answers, a dense solution of the spline's equations, and what strangers' horizons hold."""

import time

import numpy as np
import pytest
from conftest import REALDATA, needs_realdata

from soilcarbon.io.files import read_table
from soilcarbon.soil.depth import from_surface, harmonise, interval_means, interval_weights, without_overlaps

STANDARD = [(0, 5), (5, 15), (15, 30), (30, 60), (60, 100)]
METHODS = ["mean", "spline", "spline_1cm"]


def one(layers, intervals, method="spline", smoothing=0.1, **more):
    """Return the means of one profile given as rows of top, bottom, value."""
    top, bottom, value = np.array(layers, float).reshape(-1, 3).T
    return harmonise(np.zeros(top.size, int), top, bottom, value, intervals, 1, method, smoothing, **more).mean[0]


def some_horizons(rng, profiles, gaps=True, most=8):
    """Return disjoint horizons of profiles of 1 to `most` layers, (L,) each."""
    rows = []
    for k in range(profiles):
        limits = np.cumsum(rng.integers(1, 30, 2 * rng.integers(1, most + 1))).astype(float)
        tops, bottoms = (limits[::2], limits[1::2]) if gaps else (limits[:-1], limits[1:])
        rows += [
            (k, top, bottom, value) for top, bottom, value in zip(tops, bottoms, rng.lognormal(2, 0.7, tops.size), strict=True)
        ]
    profile, top, bottom, value = np.array(rows).T
    return profile.astype(int), top, bottom, value


def dense_curve(top, bottom, value, smoothing):
    """Solve Bishop's equations for one profile with full matrices; return the curve as a function of depth."""
    n, thickness = value.size, bottom - top
    r = np.diag(2 * (thickness[:-1] + thickness[1:]) + 6 * (top[1:] - bottom[:-1]))
    r += np.diag(thickness[1:-1], 1) + np.diag(thickness[1:-1], -1)
    q = np.eye(n)[1:] - np.eye(n)[:-1]
    fitted = np.linalg.solve(np.eye(n) + 6 * n * smoothing * q.T @ np.linalg.solve(r, q), value)
    slope = np.concatenate(([0.0], 6 * np.linalg.solve(r, q @ fitted), [0.0]))
    bend = np.diff(slope) / (2 * thickness)
    surface = fitted - slope[:-1] * thickness / 2 - bend * thickness**2 / 3

    def curve(x):
        layer = np.searchsorted(top, x, side="right") - 1
        inside = x - top[layer]
        in_gap = (inside - thickness[layer]).clip(0)
        inside = inside.clip(max=thickness[layer])
        return surface[layer] + slope[layer] * inside + bend[layer] * inside**2 + slope[layer + 1] * in_gap

    return curve


# --- the spline ----------------------------------------------------------------------------------------------------


def test_published_example():
    layers = [(0, 10, 6), (20, 30, 4), (40, 50, 3), (60, 70, 10)]
    expected = [6.105160, 5.618341, 4.316876, 4.192058, 9.732400]  # mpspline2, which reads the curve every centimetre
    np.testing.assert_allclose(one(layers, STANDARD, "spline_1cm"), expected, atol=1e-6)
    np.testing.assert_allclose(one(layers, STANDARD, "spline"), expected, atol=0.11)  # its integral differs by half a cm's slope


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.1, 5.0])
def test_spline_is_the_dense_solution(smoothing):
    rng = np.random.default_rng(1)
    profile, top, bottom, value = some_horizons(rng, 30)
    intervals = [(0.0, 12.5), (10.0, 50.0), (33.3, 61.7)]
    found = interval_means(profile, top, bottom, value, np.array(intervals), 30, smoothing)
    several = 0
    for k in range(30):
        of = profile == k
        if of.sum() < 2:
            continue
        several += 1
        curve = dense_curve(top[of], bottom[of], value[of], smoothing)
        for j, (upper, lower) in enumerate(intervals):
            begin, end = max(upper, top[of][0]), min(lower, bottom[of][-1])
            if begin >= end:
                assert np.isnan(found[k, j])
                continue
            x = np.linspace(begin, end, 20001)
            np.testing.assert_allclose(found[k, j], curve((x[1:] + x[:-1]) / 2).mean(), rtol=1e-6)
    assert several > 20


def test_spline_read_every_centimetre():
    profile, top, bottom, value = some_horizons(np.random.default_rng(9), 30)
    top, bottom = top + 0.3, bottom + 0.3
    intervals = [(0.0, 25.0), (10.5, 50.0)]
    found = interval_means(profile, top, bottom, value, np.array(intervals), 30, 0.1, every_cm=True)
    for k in np.flatnonzero(np.bincount(profile) > 1):
        of = profile == k
        curve = dense_curve(top[of], bottom[of], value[of], 0.1)
        for j, (upper, lower) in enumerate(intervals):
            x = np.arange(upper, lower)
            x = x[(x >= top[of][0]) & (x < bottom[of][-1])]
            np.testing.assert_allclose(found[k, j], curve(x).mean() if x.size else np.nan, rtol=1e-9)


def test_no_other_curve_of_its_kind_has_a_lower_criterion():
    top, bottom, value = np.array([0.0, 12, 30]), np.array([12.0, 25, 60]), np.array([30.0, 12, 15])
    edges = np.linspace(0, 60, 601)
    cells = np.column_stack((edges[:-1], edges[1:]))
    curve = interval_means(np.zeros(3, int), top, bottom, value, cells, 1, 2.0)[0]

    def criterion(f):
        means = [f[(cells[:, 0] >= a - 1e-9) & (cells[:, 1] <= b + 1e-9)].mean() for a, b in zip(top, bottom, strict=True)]
        return np.mean((value - means) ** 2) + 2.0 * np.sum(np.diff(f) ** 2) / 0.1

    least = criterion(curve)
    x = cells.mean(1)
    for change in (np.ones(600), x, np.sin(x / 7), np.cos(x / 3), np.exp(-x), (x > 30) * (x - 30)):
        for size in (-0.1, 0.1):
            assert criterion(curve + size * change) > least


@pytest.mark.parametrize("gaps", [True, False])
def test_mass_of_every_horizon_is_kept_without_smoothing(gaps):
    rng = np.random.default_rng(2)
    profile, top, bottom, value = some_horizons(rng, 60, gaps)
    found = harmonise(profile, top, bottom, value, list(zip(top, bottom, strict=True)), 60, "spline", 0.0, (-np.inf, np.inf))
    np.testing.assert_allclose(found.mean[profile, np.arange(profile.size)], value, rtol=1e-9)
    off = [
        np.abs(
            interval_means(profile, top, bottom, value, np.column_stack((top, bottom)), 60, each)[profile, range(len(top))] - value
        )
        for each in (1e-6, 1e-3, 1e-1)
    ]
    assert off[0].max() < 1e-3 * value.max()
    assert off[0].sum() < off[1].sum() < off[2].sum()


def test_smoothing_flattens_until_only_the_mean_of_the_horizons_is_left():
    layers = [(0, 10, 30.0), (10, 25, 12.0), (30, 70, 3.0)]
    spread = [np.ptp(one(layers, STANDARD, smoothing=each)) for each in (0.0, 0.1, 1, 10, 1e3, 1e6)]
    assert all(flatter < steeper for steeper, flatter in zip(spread, spread[1:], strict=False))
    np.testing.assert_allclose(one(layers, STANDARD, smoothing=1e9), 15.0, rtol=1e-6)


def test_parts_of_an_interval_make_up_its_mass():
    rng = np.random.default_rng(3)
    horizons = some_horizons(rng, 100)
    parts, whole = (
        harmonise(*horizons, intervals, 100, "spline", limits=(-np.inf, np.inf))
        for intervals in ([(0, 7), (7, 30), (30, 55)], [(0, 55)])
    )
    np.testing.assert_allclose((np.nan_to_num(parts.mean) * parts.reach).sum(1), whole.mean[:, 0] * whole.reach[:, 0])


def test_curve_is_linear_in_the_values():
    profile, top, bottom, value = some_horizons(np.random.default_rng(4), 50)
    wanted = np.array(STANDARD, float)
    base = interval_means(profile, top, bottom, value, wanted, 50)
    np.testing.assert_allclose(interval_means(profile, top, bottom, 7 - 3 * value, wanted, 50), 7 - 3 * base, atol=1e-9)
    np.testing.assert_allclose(interval_means(profile, top, bottom, value * 1e306, wanted, 50) / 1e306, base)


def test_thirty_three_thousand_profiles_take_seconds():
    rng = np.random.default_rng(5)
    limits = np.cumsum(rng.integers(3, 30, (33_000, 7)), axis=1).astype(float)
    flat = (np.repeat(np.arange(33_000), 6), limits[:, :-1].ravel(), limits[:, 1:].ravel(), rng.lognormal(2, 1, 33_000 * 6))
    began = time.process_time()
    found = harmonise(*flat, STANDARD, 33_000, "spline")
    assert time.process_time() - began < 10
    for k in (0, 17_000, 32_999):
        alone = harmonise(np.zeros(6, int), *(each[6 * k : 6 * k + 6] for each in flat[1:]), STANDARD, 1, "spline")
        np.testing.assert_allclose(found.mean[k], alone.mean[0], rtol=1e-12)


# --- horizons in any state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_order_and_neighbours_do_not_matter(method):
    rng = np.random.default_rng(6)
    profile = rng.integers(0, 40, 300)
    top = rng.integers(0, 60, 300).astype(float)
    bottom, value = top + rng.integers(1, 25, 300), rng.uniform(0, 50, 300)  # overlaps, repeats and gaps
    together = harmonise(profile, top, bottom, value, STANDARD, 41, method)
    mixed = rng.permutation(300)
    shuffled = harmonise(profile[mixed], top[mixed], bottom[mixed], value[mixed], STANDARD, 41, method)
    np.testing.assert_allclose(shuffled.mean, together.mean, rtol=1e-12)
    assert shuffled.counts == together.counts
    for k in range(40):
        of = profile == k
        alone = harmonise(np.zeros(of.sum(), int), top[of], bottom[of], value[of], STANDARD, 1, method)
        np.testing.assert_allclose(together.mean[k], alone.mean[0], rtol=1e-12)
        np.testing.assert_array_equal([together.covered[k], together.reach[k]], [alone.covered[0], alone.reach[0]])
    assert np.isnan(together.mean[40]).all()  # a profile without horizons
    assert not together.covered[40].any()
    assert not together.reach[40].any()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_said_above_the_first_horizon_or_below_the_last(method):
    found = harmonise(
        np.zeros(2, int), np.array([5.0, 15]), np.array([15.0, 40]), np.array([9.0, 4]), [(0, 5), *STANDARD[1:]], 1, method
    )
    assert np.isnan(found.mean[0]).tolist() == [True, False, False, False, True]
    assert found.reach.tolist() == found.covered.tolist() == [[0, 10, 15, 10, 0]]
    deeper = one([(5, 15, 9), (15, 40, 4)], [(30, 40), (30, 60), (30, 1e5)], method)
    np.testing.assert_allclose(deeper, deeper[0])  # to the observed bottom, however deep the interval


def test_too_little_observed_is_counted():
    layers = harmonise(
        np.array([0, 1, 2, 2]),
        np.array([0.0, 0, 0, 50]),
        np.array([60.0, 40, 4, 60]),
        np.array([5.0, 6, 7, 8]),
        STANDARD,
        4,
        "spline",
    )
    enough, counts = layers.sufficient(10)
    assert enough.T.tolist() == [
        [True, True, False, False],  # 4 of 5 cm: all of a thin interval is asked for
        [True, True, False, False],  # a gap is bridged by the spline, but not observed
        [True, True, False, False],
        [True, True, True, False],
        [False, False, False, False],
    ]
    assert counts[0] == {"profiles": 2, "without a horizon in it": 1, "with fewer than 5 cm observed, left out": 1}
    assert counts[3] == {"profiles": 3, "without a horizon in it": 1}
    assert counts[4] == {"without a horizon in it": 4}
    assert layers.sufficient(0)[0].sum(0).tolist() == [3, 3, 3, 3, 0]
    assert layers.sufficient(np.inf)[0].sum(0).tolist() == [2, 2, 2, 1, 0]
    assert layers.reach[:, 3].tolist() == [30, 10, 30, 0]


@pytest.mark.parametrize("method", METHODS)
def test_single_horizon_is_constant(method):
    np.testing.assert_allclose(one([(0, 45, 7.3)], STANDARD, method)[:4], 7.3)
    assert np.isnan(one([(0, 45, 7.3)], STANDARD, method)[4])


def test_overlapping_horizons_share_their_centimetres():
    zero = np.zeros(3, int)
    profile, top, bottom, value = without_overlaps(zero, np.array([5.0, 0, 40]), np.array([10.0, 30, 50]), np.array([40.0, 10, 2]))
    assert profile.tolist() == [0] * 4
    assert list(zip(top, bottom, value, strict=True)) == [(0, 5, 10), (5, 10, 25), (10, 30, 10), (40, 50, 2)]
    rng = np.random.default_rng(7)
    profile, top = rng.integers(0, 9, 80), rng.integers(0, 50, 80).astype(float)
    bottom, value = top + rng.integers(1, 20, 80), rng.uniform(0, 9, 80)
    cut = without_overlaps(profile, top, bottom, value)
    assert ((cut[1][1:] >= cut[2][:-1]) | (np.diff(cut[0]) > 0)).all()
    for k in range(9):
        for cm in range(70):
            here = (profile == k) & (top <= cm) & (bottom > cm)
            there = (cut[0] == k) & (cut[1] <= cm) & (cut[2] > cm)
            assert cut[3][there] == pytest.approx([value[here].mean()] if here.any() else [])


def test_repeated_horizon_weighs_once_in_the_spline():
    layers = [(0, 10, 20), (10, 30, 8), (30, 50, 3)]
    np.testing.assert_allclose(one([*layers, (10, 30, 4), (10, 30, 12)], STANDARD), one(layers, STANDARD))


@pytest.mark.parametrize("method", METHODS)
def test_hostile_horizons_are_left_out_and_touch_nobody(method):
    good = [(0, 0, 10, 5.0), (0, 10, 30, 3.0), (2, 0, 20, 8.0)]
    bad = [
        (0, 5, 5, 9.0),  # no thickness
        (0, 20, 15, 9.0),  # upside down
        (0, 0, 1e9, 9.0),
        (0, -1e9, 10, 9.0),
        (0, np.nan, 10, 9.0),
        (0, 10, np.inf, 9.0),
        (0, -np.inf, np.inf, 9.0),
        (0, 0, 30, np.nan),
        (0, 0, 30, np.inf),
        (0, 0, 30, -np.inf),
        (0, 0, 30, -1.0),
    ]
    huge = [(1, 0, 10, 1e300), (1, 10, 20, 1e-300), (1, 30, 5e5, 1e300)]
    profile, top, bottom, value = np.array(bad + good + huge).T
    found = harmonise(profile.astype(int), top, bottom, value, STANDARD, 3, method)
    profile, top, bottom, value = np.array(good).T
    alone = harmonise(profile.astype(int), top, bottom, value, STANDARD, 3, method)
    np.testing.assert_array_equal(found.mean[[0, 2]], alone.mean[[0, 2]])
    assert (found.counts["depth missing or impossible"], found.counts["value missing or impossible"]) == (7, 4)
    assert np.isfinite(found.mean[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_horizons_at_all(method):
    nothing = np.zeros(0)
    found = harmonise(nothing.astype(int), nothing, nothing, nothing, STANDARD, 2, method)
    assert np.isnan(found.mean).all()
    assert found.mean.shape == (2, 5)
    assert not any(found.counts.values())
    assert harmonise(nothing.astype(int), nothing, nothing, nothing, [], 0, method).mean.shape == (0, 0)


def test_what_was_odd_is_counted():
    rows = [(0, 0, 10, 5), (0, 0, 10, 7), (0, 8, 20, 4), (0, 30, 40, 2), (1, 0, 30, 3), (2, 0, 10, 1), (2, 10, 20, 1)]
    counts = harmonise(
        *(np.array(column, float if k else int) for k, column in enumerate(zip(*rows, strict=True))), STANDARD, 3, "spline"
    ).counts
    assert {what: count for what, count in counts.items() if count} == {
        "same limits twice, averaged": 1,
        "overlapping the one above": 1,
        "below a gap, bridged by the spline": 1,
        "alone in their profile, the spline constant": 1,
    }


def test_spline_does_not_leave_what_is_possible():
    steep = [(0, 10, 400), (10, 12, 1), (12, 60, 2)]
    free = one(steep, [(10, 12), (12, 20)], limits=(-np.inf, np.inf), smoothing=0.0)
    held = harmonise(np.zeros(3, int), *np.array(steep, float).T, [(10, 12), (12, 20)], 1, "spline", 0.0)
    assert free[1] < 0
    assert held.mean[0].tolist() == [pytest.approx(1), 0]
    assert held.counts["interval means of the spline that were impossible, brought to the limit"] == 1
    assert one([(0, 10, 990), (10, 40, 10)], [(0, 2)], limits=(0, 1000)) == 1000
    assert np.isnan(one([(0, 10, 1001)], [(0, 2)], limits=(0, 1000)))


@pytest.mark.parametrize("interval", [(5, 5), (10, 5), (0, np.inf), (np.nan, 5)])
def test_intervals_that_will_not_do(interval):
    with pytest.raises(ValueError, match="upper limit above its lower"):
        one([(0, 10, 5)], [interval])


@pytest.mark.parametrize("smoothing", [-0.1, 1e10, np.inf, np.nan])
def test_lambda_that_will_not_do(smoothing):
    with pytest.raises(ValueError, match="lambda"):
        one([(0, 10, 5)], STANDARD, smoothing=smoothing)


# --- weights of layers ---------------------------------------------------------------------------------------------


def test_weights_of_the_standard_layers():
    np.testing.assert_allclose(interval_weights(STANDARD, (0, 20)), [1 / 4, 1 / 2, 1 / 4, 0, 0])
    np.testing.assert_allclose(interval_weights(STANDARD, (0, 100)), [1 / 20, 1 / 10, 3 / 20, 3 / 10, 2 / 5])
    np.testing.assert_allclose(interval_weights(STANDARD[::-1], (0, 20)), [0, 0, 1 / 4, 1 / 2, 1 / 4])
    np.testing.assert_allclose(interval_weights(STANDARD, (10, 40)), [0, 5 / 30, 15 / 30, 10 / 30, 0])


@pytest.mark.parametrize(
    ("layers", "interval"), [(STANDARD, (0, 120)), ([(0, 10), (5, 20)], (0, 20)), ([(0, 5), (10, 20)], (0, 20)), ([], (0, 20))]
)
def test_layers_that_do_not_fill_the_interval(layers, interval):
    with pytest.raises(ValueError, match="do not fill"):
        interval_weights(layers, interval)


def test_weights_turn_means_of_layers_into_that_of_the_interval():
    profile, top, bottom, value = some_horizons(np.random.default_rng(8), 60, gaps=False)
    top[np.flatnonzero(np.diff(profile, prepend=-1))] = 0.0  # from the surface on
    deep = np.maximum.reduceat(bottom, np.flatnonzero(np.diff(profile, prepend=-1))) >= 100
    for method in METHODS:
        found = harmonise(profile, top, bottom, value, [*STANDARD, (0, 20), (0, 100)], 60, method, limits=(-np.inf, np.inf)).mean[
            deep
        ]
        np.testing.assert_allclose(found[:, :5] @ interval_weights(STANDARD, (0, 100)), found[:, 6])
    assert deep.sum() > 10


# --- real horizons -------------------------------------------------------------------------------------------------


@needs_realdata
def test_real_horizons_keep_their_mass():
    table = read_table(REALDATA / "north_macedonia" / "horizons.csv")
    profile, names = table["profile_id"].factorize()
    top, bottom, soc = (table[name].to_numpy(float) for name in ("top", "bottom", "soc_gkg"))
    top, bottom, _ = from_surface(profile, top, bottom)
    smooth, exact = (harmonise(profile, top, bottom, soc, [(0, 400)], len(names), "spline", each) for each in (0.1, 0.0))
    mean = harmonise(profile, top, bottom, soc, [(0, 400)], len(names))
    whole = (mean.covered == mean.reach)[:, 0] & (mean.covered[:, 0] > 0)  # no gap: both methods see the same carbon
    assert whole.sum() > 1500
    differ = np.abs(exact.mean / mean.mean - 1)[whole] > 1e-9
    assert differ.sum() <= exact.counts["overlapping the one above"] < 10  # overlaps are weighed differently
    assert np.nanmedian(np.abs(smooth.mean / mean.mean - 1)[whole]) < 0.01
