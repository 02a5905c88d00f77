"""Fit equal-area quadratic smoothing splines to soil horizons: mass-preserving, of many profiles at once.

In: horizons as flat arrays, depths in cm. Out: means of the splines over depth intervals.
Stands alone: NumPy and SciPy only. Source: Bishop, McBratney and Laslett 1999, Geoderma 91, 27-45.
"""

import numpy as np
from scipy.linalg import solveh_banded


def interval_means(
    profile: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    value: np.ndarray,
    intervals: np.ndarray,
    profiles: int,
    smoothing: float = 0.1,
    every_cm: bool = False,
) -> np.ndarray:
    """Average each profile's spline over depth intervals.

    A profile of n horizons with values y has the curve f that is quadratic within horizons, linear in gaps between
    them, smooth at their limits, and least in mean((y - means of f over the horizons)^2) + lambda * integral of f'^2.
    With lambda towards 0 its mean over each horizon is the horizon's value; with a large lambda it is constant, the
    mean of the n values. Of a single horizon it is constant.

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1, ascending.
    top, bottom
        (L,) cm, top < bottom, ascending within a profile and without overlap (`depths.without_overlaps`).
    value
        (L,) finite.
    intervals
        (K, 2) upper and lower limit, cm.
    profiles
        N.
    smoothing
        lambda, 0 or larger, for depths in cm.
    every_cm
        False: the curve is integrated, so that mass is preserved. True: it is averaged at the interval's upper limit
        and each centimetre below, as R packages do (mpspline2): near enough, and what published numbers were made by.

    Returns
    -------
    ndarray
        (N, K) unit of `value`: means over the part of an interval between a profile's first top and last bottom;
        NaN where there is none.
    """
    largest = np.zeros(profiles)
    np.maximum.at(largest, profile, np.abs(value))
    largest[largest == 0] = 1.0
    value = value / largest[profile]  # the curve is linear in the values: scaled, none overflows
    thickness = bottom - top
    above, below = _slopes(profile, top, bottom, value, smoothing)
    fitted = value - smoothing * np.bincount(profile, minlength=profiles)[profile] * (above - below)
    surface = fitted - thickness * (above / 3 + below / 6)

    # Pieces of the curve, at x cm below their upper limit: surface + above x + (below - above) x^2 / (2 thickness).
    gap = np.flatnonzero((np.diff(profile) == 0) & (top[1:] > bottom[:-1]))
    owner = np.concatenate((profile, profile[gap]))
    upper = np.concatenate((top, bottom[gap]))
    surface = np.concatenate((surface, (surface + thickness * (above + below) / 2)[gap]))
    thickness = np.concatenate((thickness, top[gap + 1] - bottom[gap]))
    above, below = np.concatenate((above, below[gap])), np.concatenate((below, below[gap]))
    power_sums = _points if every_cm else _integrals
    means = np.empty((profiles, len(intervals)))
    for k, interval in enumerate(intervals):
        length, first, second = power_sums(upper, thickness, interval)
        area = surface * length + above * first + (below - above) / (2 * thickness) * second
        length, area = np.bincount(owner, length, profiles), np.bincount(owner, area, profiles)
        means[:, k] = np.divide(area, length, out=np.full(profiles, np.nan), where=length > 0) * largest
    return means


def _integrals(upper: np.ndarray, thickness: np.ndarray, interval: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the integrals of 1, x and x^2 over the part of each piece within an interval, x cm below its upper limit."""
    begin, end = ((limit - upper).clip(0.0, thickness) for limit in interval)
    return end - begin, (end**2 - begin**2) / 2, (end**3 - begin**3) / 3


def _points(upper: np.ndarray, thickness: np.ndarray, interval: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums of 1, x and x^2 over the points of each piece that lie whole centimetres below an interval's top."""
    begin, end = (np.ceil(limit.clip(*interval) - interval[0]) for limit in (upper, upper + thickness))
    number, start = end - begin, interval[0] + begin - upper
    pairs = number * (number - 1) / 2
    return number, number * start + pairs, number * start**2 + 2 * start * pairs + pairs * (2 * number - 1) / 3


def _slopes(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, value: np.ndarray, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve's slope at the upper and at the lower limit of each horizon (L,), per cm; 0 at a profile's ends.

    The unknowns are the slopes b between neighbouring horizons, the same at both ends of a gap. That values and areas
    agree there gives R b = 6 Q m, m the curve's means over the horizons and Q their differences; the integral of f'^2
    is b' R b / 6; least is m = y - n lambda Q' b, hence (R + 6 n lambda Q Q') b = 6 Q y. The matrix is tridiagonal and
    positive definite, so that one solution serves all profiles: nothing couples one to the next.
    """
    above, below = np.zeros(profile.size), np.zeros(profile.size)
    upper = np.flatnonzero(np.diff(profile) == 0)  # the horizon above each pair of neighbours
    if upper.size == 0:
        return above, below
    thickness, lower = bottom - top, upper + 1
    stiffness = 6 * smoothing * np.bincount(profile)[profile[upper]]
    matrix = np.zeros((2, upper.size + 1))  # the upper diagonal, then the diagonal; SciPy wants two unknowns at least
    matrix[1] = np.append(2 * (thickness[upper] + thickness[lower] + stiffness) + 6 * (top[lower] - bottom[upper]), 1.0)
    matrix[0, 1:-1] = np.where(np.diff(upper) == 1, thickness[upper[1:]] - stiffness[1:], 0.0)
    slope = solveh_banded(matrix, np.append(6 * (value[lower] - value[upper]), 0.0))[:-1]
    below[upper], above[lower] = slope, slope
    return above, below
