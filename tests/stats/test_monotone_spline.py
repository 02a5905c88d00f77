"""Hyman's monotone spline: reproduces cubics, passes its knots, never decreases, and is smooth where the filter is idle."""

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from soilcarbon.stats.monotone_spline import hyman_filter, monotone_spline, spline_slopes


def curves(count=200, knots=6, seed=1):
    random = np.random.default_rng(seed)
    x = np.cumsum(random.uniform(0.2, 3.0, (count, knots)), axis=1)
    return x, np.cumsum(random.exponential(1.0, (count, knots)) ** 2, axis=1)


def test_slopes_are_those_of_scipys_spline_with_the_same_slopes_at_the_ends():
    x, y = curves()
    slopes = spline_slopes(x, y)
    for k in range(20):
        ours = CubicSpline(x[k], y[k], bc_type=((1, slopes[k, 0]), (1, slopes[k, -1])))
        np.testing.assert_allclose(ours(x[k], 1), slopes[k], atol=1e-9)


def test_third_derivative_at_the_ends_is_that_of_the_cubic_through_four_points():
    x, y = curves(count=20)
    slopes = spline_slopes(x, y)
    for k in range(20):
        spline = CubicSpline(x[k], y[k], bc_type=((1, slopes[k, 0]), (1, slopes[k, -1])))
        for at, four in ((x[k, 0], slice(0, 4)), (x[k, -1], slice(-4, None))):
            cubic = np.polyfit(x[k, four] - at, y[k, four], 3)
            assert spline(at, 3) == pytest.approx(6 * cubic[0], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("count", "power"), [(2, 1), (3, 2), (4, 3), (7, 3)])
def test_polynomials_are_reproduced(count, power):
    x = np.linspace(1.0, 3.0, count)[None] ** 1.3
    at = np.linspace(x.min(), x.max(), 31)
    np.testing.assert_allclose(monotone_spline(x, x**power, at)[0], at**power, rtol=1e-12)


def test_it_passes_the_knots_and_never_decreases_where_the_plain_spline_does():
    x, y = curves()
    np.testing.assert_allclose(monotone_spline(x, y, x), y, rtol=1e-12)
    at = np.linspace(x[:, 0], x[:, -1], 200, axis=1)
    assert np.diff(monotone_spline(x, y, at), axis=1).min() >= -1e-9
    plain = [CubicHermiteSpline(*each)(at[k]) for k, each in enumerate(zip(x, y, spline_slopes(x, y), strict=True))]
    assert np.diff(plain, axis=1).min() < -0.01


def test_the_filter_leaves_gentle_slopes_alone():
    secants = np.array([[1.0, 1.1, 0.9]])
    gentle = np.array([[1.0, 1.2, 0.8, 2.7]])
    np.testing.assert_array_equal(hyman_filter(gentle, secants), gentle)


def test_it_goes_on_straight_beyond_the_knots():
    x, y = np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[0.0, 2.0, 3.0, 3.5]])
    end = hyman_filter(spline_slopes(x, y), np.diff(y))[0]
    found = monotone_spline(x, y, np.array([-1.0, 5.0]))[0]
    np.testing.assert_allclose(found, [-end[0], 3.5 + 2 * end[-1]])
