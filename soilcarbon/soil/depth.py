"""Bring soil horizons to depth intervals.

In: the horizons of many profiles as flat arrays, depths in cm below the surface. Out: one value per profile and
interval: the mean of the horizons weighted by thickness, or that of a mass-preserving spline through them.
Stands alone but for the spline (splines.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import solveh_banded

Method = Literal["mean", "spline", "spline_1cm"]
MOST_SMOOTHING = 1e9
"""Long before this lambda a spline is constant."""
_DECIMALS = 6
"""Of depths, cm."""
_DEEPEST = 1e6
"""cm: ten kilometres; a depth beyond it is a code or a slip."""


@dataclass(frozen=True)
class Harmonised:
    """One soil property of N profiles in K depth intervals.

    Attributes
    ----------
    intervals
        (K, 2) upper and lower limit, cm.
    mean
        (N, K) unit of the property; NaN where a profile has nothing of the interval.
    covered
        (N, K) centimetres of the interval that were observed.
    reach
        (N, K) centimetres of it between the profile's first top and last bottom: what was observed, and gaps.
    layers
        (N, K) int64: the horizons within the interval.
    counts
        What was left out of the horizons, and what was odd about them.
    """

    intervals: np.ndarray
    mean: np.ndarray
    covered: np.ndarray
    reach: np.ndarray
    layers: np.ndarray
    counts: dict[str, int]

    def sufficient(self, min_covered: float) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Tell where a profile has a value that rests on enough of an interval.

        Parameters
        ----------
        min_covered
            Centimetres that must have been observed, or all of an interval that is thinner. 0: any, down to the
            observed bottom.

        Returns
        -------
        enough : ndarray
            (N, K) bool.
        counts : list
            For each interval how many profiles have such a value, and how many have not and why.
        """
        needed = np.minimum(np.diff(self.intervals)[:, 0], min_covered)
        some, enough = ~np.isnan(self.mean), self.covered >= needed - 1e-6  # `covered` is rounded to 1e-6
        counts = [
            {
                "profiles": int((some & enough)[:, k].sum()),
                "without a horizon in it": int((~some)[:, k].sum()),
                f"with fewer than {least:g} cm observed, left out": int((some & ~enough)[:, k].sum()),
            }
            for k, least in enumerate(needed.tolist())
        ]
        return some & enough, [{what: count for what, count in each.items() if count} for each in counts]


def harmonise(
    profile: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    value: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    profiles: int,
    method: Method = "mean",
    smoothing: float = 0.1,
    limits: tuple[float, float] = (0.0, np.inf),
) -> Harmonised:
    """Bring a property of horizons, whatever their state and order, to depth intervals.

    Nothing is extrapolated: above the first horizon and below the last a profile has no value, and an interval that
    they end in gets the mean over the part they reach. `Harmonised.sufficient` tells where that is too little.

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1.
    top, bottom
        (L,) cm from the surface; horizons whose depths are unknown or impossible are left out and counted.
    value
        (L,) of one unit; horizons whose value is unknown or outside `limits` are left out and counted.
    intervals
        K pairs of upper and lower limit, cm; they may overlap.
    profiles
        N.
    method
        "mean": `weighted_mean`, over the observed centimetres. "spline": `interval_means`, which also bridges gaps;
        "spline_1cm": the same read every centimetre, as R packages do.
    smoothing
        The spline's lambda.
    limits
        The least and the largest possible value. A spline overshoots beside a sharp change: means outside are
        brought to the limit and counted.

    Raises
    ------
    ValueError
        If an interval is empty or infinite, or lambda negative or above `MOST_SMOOTHING`.
    """
    wanted = np.asarray(intervals, float).reshape(-1, 2)
    if not (np.isfinite(wanted).all() and (wanted[:, 0] < wanted[:, 1]).all()):
        raise ValueError(f"depth intervals {wanted.tolist()}: each needs an upper limit above its lower one, in cm")
    if not 0 <= smoothing <= MOST_SMOOTHING:
        raise ValueError(f"lambda {smoothing}: must lie between 0 and {MOST_SMOOTHING:g}")
    top, bottom = np.round(top, _DECIMALS), np.round(bottom, _DECIMALS)  # pieces that thin have no mass a spline could keep
    placed = (np.abs(top) <= _DEEPEST) & (np.abs(bottom) <= _DEEPEST) & (top < bottom)
    known = np.isfinite(value) & (value >= limits[0]) & (value <= limits[1])
    counts = {"depth missing or impossible": int((~placed).sum()), "value missing or impossible": int((placed & ~known).sum())}
    profile, top, bottom, value = (array[placed & known] for array in (profile, top, bottom, value))
    given = profile.size
    profile, top, bottom, value = _average_repeats(profile, top, bottom, value)
    counts["same limits twice, averaged"] = given - profile.size
    counts["overlapping the one above"] = int(((top[1:] < bottom[:-1]) & (profile[1:] == profile[:-1])).sum())

    first, last = np.full(profiles, np.inf), np.full(profiles, -np.inf)
    np.minimum.at(first, profile, top)
    np.maximum.at(last, profile, bottom)
    reach = (np.minimum(last[:, None], wanted[:, 1]) - np.maximum(first[:, None], wanted[:, 0])).clip(0.0)
    mean, covered = np.empty(reach.shape), np.empty(reach.shape)
    layers = np.empty(reach.shape, np.int64)
    for k, (upper, lower) in enumerate(wanted):
        mean[:, k], covered[:, k], layers[:, k] = weighted_mean(profile, top, bottom, value, (upper, lower), profiles)
    if method != "mean":
        profile, top, bottom, value = without_overlaps(profile, top, bottom, value)
        mean = interval_means(profile, top, bottom, value, wanted, profiles, smoothing, method == "spline_1cm")
        counts["below a gap, bridged by the spline"] = int(((top[1:] > bottom[:-1]) & (profile[1:] == profile[:-1])).sum())
        counts["alone in their profile, the spline constant"] = int((np.bincount(profile) == 1).sum())
        outside = (mean < limits[0]) | (mean > limits[1])
        counts["interval means of the spline that were impossible, brought to the limit"] = int(outside.sum())
        mean = mean.clip(*limits)
    return Harmonised(wanted, mean, covered, reach, layers, counts)


def from_surface(profile: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Count depths from the surface of the soil, organic layers included.

    Until 1990 or so, organic layers were described upwards from the mineral surface, which had depth 0: a profile
    with an O horizon from -8 to 0 cm is moved down by 8 cm, as horizons are counted today (FAO 2006, Guidelines for
    Soil Description).

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1.
    top, bottom
        (L,) cm.

    Returns
    -------
    top, bottom : ndarray
        (L,) cm, no top above 0.
    moved : int
        The number of profiles that were moved.
    """
    highest = np.zeros(profile.max(initial=-1) + 1)
    np.minimum.at(highest, profile, top)
    return top - highest[profile], bottom - highest[profile], int((highest < 0).sum())


def weighted_mean(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, value: np.ndarray, interval: tuple[float, float], profiles: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average horizons over a depth interval, each weighted by its thickness within it.

    What was not observed is not guessed: the mean is over the observed centimetres, and their number is given.
    Horizons with the same limits are repeated measurements of one: they are averaged first. Horizons that overlap
    otherwise each keep their own thickness as weight, but a centimetre is counted as observed once.

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1; in any order.
    top, bottom
        (L,) cm, top < bottom.
    value
        (L,) finite, per mass of soil (g/kg), not per volume.
    interval
        Upper and lower limit, cm.
    profiles
        N.

    Returns
    -------
    mean : ndarray
        (N,) unit of `value`; NaN where no horizon reaches into the interval.
    covered : ndarray
        (N,) centimetres of the interval that were observed.
    layers : ndarray
        (N,) int64: the horizons within the interval.
    """
    profile, top, bottom, value = _average_repeats(profile, top, bottom, value)
    top, bottom = top.clip(*interval), bottom.clip(*interval)

    reached = bottom > top
    profile, top, bottom, value = (array[reached] for array in (profile, top, bottom, value))
    weight = bottom - top
    total = np.bincount(profile, weight, profiles)
    with np.errstate(invalid="ignore"):  # 0 / 0: no horizon
        mean = np.bincount(profile, weight * value, profiles) / total

    # Observed centimetres: what each horizon, from the top, adds below the deepest one so far. Profiles are told
    # apart by an offset larger than the interval, so that one running maximum serves all of them.
    offset = profile * (interval[1] - interval[0] + 1.0)
    deepest = np.maximum.accumulate(bottom + offset) - offset
    before = np.concatenate(([interval[0]], deepest[:-1])).clip(*interval)[: profile.size]
    before[np.flatnonzero(np.diff(profile, prepend=-1))] = interval[0]
    added = (bottom - np.maximum(top, before)).clip(0.0)
    covered = np.bincount(profile, added, profiles).round(6)
    return mean, covered, np.bincount(profile, minlength=profiles)


def without_overlaps(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut horizons where others of their profile begin or end; centimetres that several share get their mean.

    Returns
    -------
    profile, top, bottom, value : ndarray
        (M,) each, by profile and depth. Horizons that overlap no other are as they were.
    """
    owner, limit = np.concatenate((profile, profile)), np.concatenate((top, bottom))
    order = np.lexsort((limit, owner))
    owner, limit = owner[order], limit[order]
    new = np.concatenate(([True], (np.diff(owner) != 0) | (np.diff(limit) != 0)))[: owner.size]
    rank = np.empty(order.size, np.int64)
    rank[order] = np.cumsum(new) - 1
    owner, limit = owner[new], limit[new]
    # The centimetres between two limits that follow each other are a piece; a horizon is one or more of them.
    begin, pieces = rank[: profile.size], rank[profile.size :] - rank[: profile.size]
    piece = np.repeat(begin - np.cumsum(pieces) + pieces, pieces) + np.arange(pieces.sum())
    shared = np.bincount(piece, minlength=limit.size)
    total = np.bincount(piece, np.repeat(value, pieces), limit.size)
    kept = np.flatnonzero(shared)
    return owner[kept], limit[kept], limit[kept + 1], total[kept] / shared[kept]


def interval_weights(layers: Sequence[tuple[float, float]], interval: tuple[float, float]) -> np.ndarray:
    """Return the shares (K,) of an interval that lie in each of K layers: the weights that turn their values into its own.

    From 0-5, 5-15, 15-30, 30-60 and 60-100 cm to 0-20 cm: 1/4, 1/2, 1/4, 0, 0 (Dong, Wang and Su, SOC density of China).

    Raises
    ------
    ValueError
        If the layers overlap within the interval, or do not fill it.
    """
    limits = np.asarray(layers, float).reshape(-1, 2).clip(*interval)
    share = np.diff(limits)[:, 0] / (interval[1] - interval[0])
    inside = limits[share > 0]
    inside = inside[np.argsort(inside[:, 0])]
    if not np.array_equal(np.append(inside[:, 0], interval[1]), np.insert(inside[:, 1], 0, interval[0])):
        raise ValueError(
            f"layers {np.asarray(layers).tolist()} do not fill {interval[0]:g}-{interval[1]:g} cm, each centimetre once"
        )
    return share


def _average_repeats(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the horizons by profile and depth, those with the same limits averaged into one."""
    order = np.lexsort((value, bottom, top, profile))  # by value too: a sum does not depend on the order given
    profile, top, bottom, value = (array[order] for array in (profile, top, bottom, value))
    same = (np.diff(profile) == 0) & (np.diff(top) == 0) & (np.diff(bottom) == 0)
    first = np.flatnonzero(np.concatenate(([True], ~same))[: profile.size])
    repeats = np.diff(np.append(first, profile.size))
    value = np.add.reduceat(value, first) / repeats if first.size else value
    return profile[first], top[first], bottom[first], value


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
