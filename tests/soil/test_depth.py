"""Horizons to depth intervals: known results, a dense solution of the spline's equations, and horizons in any state."""

import time

import numpy as np
import pytest

from soilcarbon.soil.depth import (
    IMPOSSIBLE_MEANS,
    Horizons,
    from_surface,
    harmonise,
    interval_weights,
    mass_preserving_spline,
    without_overlaps,
)

STANDARD = [(0, 5), (5, 15), (15, 30), (30, 60), (60, 100)]
METHODS = ["mean", "spline", "spline_1cm"]
ANY = (-np.inf, np.inf)


def brought(profile, top, bottom, value, intervals, profiles, method="spline", *more, **options):
    """Harmonise flat arrays."""
    return harmonise(Horizons(profile, top, bottom, profiles), value, intervals, method, *more, **options)


def flat(*rows):
    """Return rows of profile, top, bottom, value as arrays."""
    profile, top, bottom, value = np.array(rows, float).reshape(-1, 4).T
    return profile.astype(int), top, bottom, value


def one(layers, intervals, method="spline", smoothing=0.1, **more):
    """Return the means of one profile given as rows of top, bottom, value."""
    return brought(*flat(*((0, *layer) for layer in layers)), intervals, 1, method, smoothing, **more).mean[0]


def some_horizons(rng, profiles, gaps=True, most=8):
    """Return disjoint horizons of profiles of 1 to `most` layers, (L,) each."""
    rows = []
    for k in range(profiles):
        limits = np.cumsum(rng.integers(1, 30, 2 * rng.integers(1, most + 1))).astype(float)
        tops, bottoms = (limits[::2], limits[1::2]) if gaps else (limits[:-1], limits[1:])
        rows += [(k, *row) for row in zip(tops, bottoms, rng.lognormal(2, 0.7, tops.size), strict=True)]
    return flat(*rows)


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


# --- the weighted mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "layers", "expected"),
    [
        ((0, 30), [(10, 25, 10), (0, 10, 20), (25, 60, 4)], (370 / 30, 30, 3)),  # 5 cm of the last count
        ((20, 50), [(10, 25, 10), (0, 10, 20), (25, 60, 4)], (150 / 30, 30, 2)),
        ((0, 30), [(0, 5, 30), (20, 40, 6)], ((150 + 60) / 15, 15, 2)),  # a gap
        ((0, 30), [(30, 60, 5)], (np.nan, 0, 0)),
        ((0, 30), [(0, 20, 10), (0, 20, 14), (20, 30, 6)], ((12 * 20 + 6 * 10) / 30, 30, 2)),  # measured twice
        ((0, 30), [(0, 10, 12), (7, 15, 3)], ((12 * 10 + 3 * 8) / 18, 15, 2)),  # overlap
        ((0, 30), [(0, 30, 10), (5, 10, 40), (12, 20, 1)], (508 / 43, 30, 3)),  # nested
    ],
)
def test_horizons_weigh_by_their_thickness_within_the_interval(interval, layers, expected):
    found = brought(*flat(*((0, *layer) for layer in layers)), [interval], 1, "mean")
    assert [found.mean[0, 0], found.covered[0, 0], found.n_layers[0, 0]] == pytest.approx(expected, nan_ok=True)


def test_cover_is_counted_centimetre_by_centimetre():
    rng = np.random.default_rng(0)
    profile, top = rng.integers(0, 40, 400), rng.integers(0, 40, 400).astype(float)
    bottom, value = top + rng.integers(1, 15, 400), rng.uniform(1, 50, 400)
    covered = brought(profile, top, bottom, value, [(0, 30)], 40, "mean").covered[:, 0]
    for k in range(40):
        rows = zip(top[profile == k], bottom[profile == k], strict=True)
        assert covered[k] == len({cm for a, b in rows for cm in range(int(a), int(b)) if cm < 30})


def test_organic_layers_above_zero_move_the_profile_down():
    top, bottom, moved = from_surface(np.array([0, 0, 1]), np.array([-8.0, 0.0, 0.0]), np.array([0.0, 15.0, 10.0]))
    assert (top.tolist(), bottom.tolist(), moved) == ([0, 8, 0], [8, 23, 10], 1)


# --- the spline ------------------------------------------------------------------------------------------------------


def test_published_example():
    layers = [(0, 10, 6), (20, 30, 4), (40, 50, 3), (60, 70, 10)]
    expected = [6.105160, 5.618341, 4.316876, 4.192058, 9.732400]  # mpspline2, which reads the curve every centimetre
    np.testing.assert_allclose(one(layers, STANDARD, "spline_1cm"), expected, atol=1e-6)
    np.testing.assert_allclose(one(layers, STANDARD, "spline"), expected, atol=0.11)  # its integral differs by half a cm's slope


@pytest.mark.parametrize(
    ("smoothing", "method"), [(0.0, "spline"), (0.01, "spline"), (0.1, "spline"), (5.0, "spline"), (0.1, "spline_1cm")]
)
def test_spline_is_the_dense_solution(smoothing, method):
    profile, top, bottom, value = some_horizons(np.random.default_rng(1), 30)
    if method == "spline_1cm":
        top, bottom = top + 0.3, bottom + 0.3
    intervals = [(0.0, 12.5), (10.5, 50.0), (33.3, 61.7)]
    found = brought(profile, top, bottom, value, intervals, 30, method, smoothing, ANY).mean
    several = np.flatnonzero(np.bincount(profile) > 1)
    assert several.size > 20
    for k in several:
        of = profile == k
        curve = dense_curve(top[of], bottom[of], value[of], smoothing)
        for j, (upper, lower) in enumerate(intervals):
            begin, end = max(upper, top[of][0]), min(lower, bottom[of][-1])
            if method == "spline_1cm":
                x = np.arange(upper, lower)
                x = x[(x >= begin) & (x < end)]
            else:
                edges = np.linspace(begin, max(begin, end), 20001)
                x = (edges[1:] + edges[:-1])[: 20000 * (begin < end)] / 2
            np.testing.assert_allclose(found[k, j], curve(x).mean() if x.size else np.nan, rtol=1e-6)


def test_no_other_curve_of_its_kind_has_a_lower_criterion():
    top, bottom, value = np.array([0.0, 12, 30]), np.array([12.0, 25, 60]), np.array([30.0, 12, 15])
    edges = np.linspace(0, 60, 601)
    cells = np.column_stack((edges[:-1], edges[1:]))
    curve = mass_preserving_spline(top, bottom, value, cells, 2.0)[0]

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
    profile, top, bottom, value = some_horizons(np.random.default_rng(2), 60, gaps)
    own = np.column_stack((top, bottom))

    def off(smoothing):
        means = mass_preserving_spline(top, bottom, value, own, smoothing, profile)
        return np.abs(means[profile, np.arange(profile.size)] / value - 1)

    assert off(0.0).max() < 1e-9
    assert off(1e-6).max() < 1e-2
    assert off(1e-6).sum() < off(1e-3).sum() < off(1e-1).sum()


def test_smoothing_flattens_until_only_the_mean_of_the_horizons_is_left():
    layers = [(0, 10, 30.0), (10, 25, 12.0), (30, 70, 3.0)]
    spread = [np.ptp(one(layers, STANDARD, smoothing=each)) for each in (0.0, 0.1, 1, 10, 1e3, 1e6)]
    assert all(flatter < steeper for steeper, flatter in zip(spread, spread[1:], strict=False))
    np.testing.assert_allclose(one(layers, STANDARD, smoothing=1e9), 15.0, rtol=1e-6)


def test_curve_is_linear_in_the_values_and_additive_in_depth():
    profile, top, bottom, value = some_horizons(np.random.default_rng(4), 50)

    def means(value):
        return mass_preserving_spline(top, bottom, value, STANDARD, profile=profile)

    np.testing.assert_allclose(means(7 - 3 * value), 7 - 3 * means(value), atol=1e-9)
    np.testing.assert_allclose(means(value * 1e302) / 1e302, means(value))
    parts, whole = (brought(profile, top, bottom, value, each, 50, limits=ANY) for each in ([(0, 7), (7, 30), (30, 55)], [(0, 55)]))
    np.testing.assert_allclose((np.nan_to_num(parts.mean) * parts.reach).sum(1), whole.mean[:, 0] * whole.reach[:, 0])


def test_thirty_three_thousand_profiles_take_seconds():
    rng = np.random.default_rng(5)
    limits = np.cumsum(rng.integers(3, 30, (33_000, 7)), axis=1).astype(float)
    rows = (np.repeat(np.arange(33_000), 6), limits[:, :-1].ravel(), limits[:, 1:].ravel(), rng.lognormal(2, 1, 33_000 * 6))
    began = time.process_time()
    found = brought(*rows, STANDARD, 33_000)
    assert time.process_time() - began < 10
    for k in (0, 17_000, 32_999):
        alone = brought(np.zeros(6, int), *(each[6 * k : 6 * k + 6] for each in rows[1:]), STANDARD, 1)
        np.testing.assert_allclose(found.mean[k], alone.mean[0], rtol=1e-12)


# --- horizons in any state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_order_and_neighbours_do_not_matter(method):
    rng = np.random.default_rng(6)
    profile, top = rng.integers(0, 40, 300), rng.integers(0, 60, 300).astype(float)
    rows = profile, top, top + rng.integers(1, 25, 300), rng.uniform(0, 50, 300)  # overlaps, repeats and gaps
    together = brought(*rows, STANDARD, 41, method)
    mixed = rng.permutation(300)
    shuffled = brought(*(each[mixed] for each in rows), STANDARD, 41, method)
    np.testing.assert_allclose(shuffled.mean, together.mean, rtol=1e-12)
    assert shuffled.counts == together.counts
    for k in range(40):
        of = profile == k
        alone = brought(np.zeros(of.sum(), int), *(each[of] for each in rows[1:]), STANDARD, 1, method)
        np.testing.assert_allclose(together.mean[k], alone.mean[0], rtol=1e-12)
        np.testing.assert_array_equal([together.covered[k], together.reach[k]], [alone.covered[0], alone.reach[0]])
    assert np.isnan(together.mean[40]).all()  # a profile without horizons
    assert not together.covered[40].any()
    assert not together.reach[40].any()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_extrapolated_and_a_single_horizon_is_constant(method):
    found = brought(*flat((0, 5, 15, 9), (0, 15, 40, 4)), STANDARD, 1, method)
    assert np.isnan(found.mean[0]).tolist() == [True, False, False, False, True]
    assert found.reach.tolist() == found.covered.tolist() == [[0, 10, 15, 10, 0]]
    deeper = one([(5, 15, 9), (15, 40, 4)], [(30, 40), (30, 60), (30, 1e5)], method)
    np.testing.assert_allclose(deeper, deeper[0])  # to the observed bottom, however deep the interval
    np.testing.assert_allclose(one([(0, 45, 7.3)], STANDARD, method), [7.3] * 4 + [np.nan])


def test_too_little_observed_is_counted():
    layers = brought(*flat((0, 0, 60, 5), (1, 0, 40, 6), (2, 0, 4, 7), (2, 50, 60, 8)), STANDARD, 4)
    enough, counts = layers.sufficient(10)
    assert enough.T.tolist() == [
        [True, True, False, False],  # 4 of 5 cm: all of a thin interval is required
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


def test_overlapping_horizons_share_their_centimetres():
    rng = np.random.default_rng(7)
    profile, top = rng.integers(0, 9, 80), rng.integers(0, 50, 80).astype(float)
    bottom, value = top + rng.integers(1, 20, 80), rng.uniform(0, 9, 80)
    cut, means = without_overlaps(Horizons(profile, top, bottom, 9), value)
    assert ((cut.top[1:] >= cut.bottom[:-1]) | ~cut.follows).all()
    for k in range(9):
        for cm in range(70):
            here = (profile == k) & (top <= cm) & (bottom > cm)
            there = (cut.profile == k) & (cut.top <= cm) & (cut.bottom > cm)
            assert means[there] == pytest.approx([value[here].mean()] if here.any() else [])
    layers = [(0, 10, 20), (10, 30, 8), (30, 50, 3)]  # a repeated horizon weighs once in the spline
    np.testing.assert_allclose(one([*layers, (10, 30, 4), (10, 30, 12)], STANDARD), one(layers, STANDARD))


@pytest.mark.parametrize("method", METHODS)
def test_impossible_horizons_are_left_out_and_change_no_other(method):
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
    found = brought(*flat(*bad, *good, *huge), STANDARD, 3, method)
    alone = brought(*flat(*good), STANDARD, 3, method)
    np.testing.assert_array_equal(found.mean[[0, 2]], alone.mean[[0, 2]])
    assert (found.counts["depth missing or impossible"], found.counts["value missing or impossible"]) == (7, 4)
    assert np.isfinite(found.mean[1]).all()
    empty = brought(*flat(), STANDARD, 2, method)
    assert np.isnan(empty.mean).all()
    assert empty.mean.shape == (2, 5)
    assert not any(empty.counts.values())
    assert brought(*flat(), [], 0, method).mean.shape == (0, 0)


def test_unusual_horizons_are_counted():
    rows = [(0, 0, 10, 5), (0, 0, 10, 7), (0, 8, 20, 4), (0, 30, 40, 2), (1, 0, 30, 3), (2, 0, 10, 1), (2, 10, 20, 1)]
    counts = brought(*flat(*rows), STANDARD, 3).counts
    assert {what: count for what, count in counts.items() if count} == {
        "same limits twice, averaged": 1,
        "overlapping the one above": 1,
        "below a gap, bridged by the spline": 1,
        "alone in their profile, the spline constant": 1,
    }


@pytest.mark.parametrize("method", ["spline", "spline_1cm"])
@pytest.mark.parametrize(
    ("layers", "intervals", "expected"),
    [
        ([(0, 10, 400), (10, 12, 1), (12, 60, 2)], [(12, 20), (11, 14)], [2, 5 / 3]),  # below 0
        ([(0, 10, 990), (10, 40, 10)], [(0, 2)], [990]),  # above 1000
        ([(0, 10, 400), (10, 30, 1), (40, 60, 2)], [(32, 38)], [np.nan]),  # below 0, between two horizons
    ],
)
def test_where_the_spline_leaves_what_is_possible_the_layers_speak(method, layers, intervals, expected):
    free = one(layers, intervals, method, limits=ANY, smoothing=0.0)
    assert ((free < 0) | (free > 1000)).all()
    held = brought(*flat(*((0, *layer) for layer in layers)), intervals, 1, method, 0.0, limits=(0, 1000))
    assert held.mean[0] == pytest.approx(expected, nan_ok=True)
    assert held.counts[IMPOSSIBLE_MEANS] == len(intervals)


def test_means_of_the_spline_that_are_possible_stay_beside_those_that_are_not():
    layers, intervals = [(0, 10, 400), (10, 12, 1), (12, 60, 2)], [(0, 10), (10, 12), (12, 20), (0, 60)]
    free, held = (one(layers, intervals, smoothing=0.0, limits=limits) for limits in (ANY, (0, 1000)))
    assert free[2] < 0
    assert np.delete(held, 2).tolist() == np.delete(free, 2).tolist()
    assert held[2] == 2
    assert np.isnan(one([(0, 10, 1001)], [(0, 2)], limits=(0, 1000)))


@pytest.mark.parametrize(
    ("interval", "smoothing", "message"),
    [(each, 0.1, "upper limit above its lower") for each in ((5, 5), (10, 5), (0, np.inf), (np.nan, 5))]
    + [((0, 5), each, "lambda") for each in (-0.1, 1e10, np.inf, np.nan)],
)
def test_impossible_intervals_and_lambda_are_refused(interval, smoothing, message):
    with pytest.raises(ValueError, match=message):
        one([(0, 10, 5)], [interval], smoothing=smoothing)


# --- weights of layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "interval", "weights"),
    [
        (STANDARD, (0, 20), [1 / 4, 1 / 2, 1 / 4, 0, 0]),
        (STANDARD, (0, 100), [1 / 20, 1 / 10, 3 / 20, 3 / 10, 2 / 5]),
        (STANDARD[::-1], (0, 20), [0, 0, 1 / 4, 1 / 2, 1 / 4]),
        (STANDARD, (10, 40), [0, 5 / 30, 15 / 30, 10 / 30, 0]),
        (STANDARD, (0, 120), None),
        ([(0, 10), (5, 20)], (0, 20), None),
        ([(0, 5), (10, 20)], (0, 20), None),
        ([], (0, 20), None),
    ],
)
def test_weights_of_layers(layers, interval, weights):
    if weights is None:
        with pytest.raises(ValueError, match="do not fill"):
            interval_weights(layers, interval)
    else:
        np.testing.assert_allclose(interval_weights(layers, interval), weights)


def test_weights_turn_means_of_layers_into_that_of_the_interval():
    profile, top, bottom, value = some_horizons(np.random.default_rng(8), 60, gaps=False)
    first = np.flatnonzero(np.diff(profile, prepend=-1))
    top[first] = 0.0
    deep = np.maximum.reduceat(bottom, first) >= 100
    assert deep.sum() > 10
    for method in METHODS:
        found = brought(profile, top, bottom, value, [*STANDARD, (0, 100)], 60, method, limits=ANY).mean[deep]
        np.testing.assert_allclose(found[:, :5] @ interval_weights(STANDARD, (0, 100)), found[:, 5])
