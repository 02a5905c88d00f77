"""Depth harmonisation: soil horizons to depth intervals, by the thickness-weighted mean or a mass-preserving spline.

The horizons of all profiles are flat arrays (`Horizons`), depths in cm below the surface; the result is one value per profile and
interval. NumPy and SciPy only. Source of the spline: Bishop, McBratney and Laslett 1999, Geoderma 91, 27-45.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import solveh_banded

Method = Literal["mean", "spline", "spline_1cm"]
MOST_SMOOTHING = 1e9  # long before this lambda a spline is constant
IMPOSSIBLE_MEANS = "interval means of the spline that were impossible, replaced by the mean weighted by thickness"
"""Name of their count."""
HIGHEST_LITTER = -100.0  # cm: a top above it is a code for an unknown depth, not an organic layer
_DECIMALS = 6  # of depths, cm
_DEEPEST = 1e6  # cm: ten kilometres; a depth beyond it is a code or a slip


@dataclass(frozen=True)
class Horizons:
    """Depths of L horizons in N profiles, as flat arrays in any order.

    Attributes
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1.
    top, bottom
        (L,) cm from the surface.
    profiles
        N; a profile may have no horizon.
    """

    profile: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    profiles: int

    def __len__(self) -> int:
        return len(self.profile)

    def take(self, rows: np.ndarray) -> "Horizons":
        """Return some horizons, by number or (L,) bool."""
        return Horizons(self.profile[rows], self.top[rows], self.bottom[rows], self.profiles)

    @property
    def follows(self) -> np.ndarray:
        """(L-1,) whether each horizon but the first is of the profile of the one before."""
        return np.diff(self.profile) == 0


@dataclass(frozen=True)
class Harmonised:
    """One soil property of N profiles in K depth intervals."""

    intervals: np.ndarray  # (K, 2) upper and lower limit, cm
    mean: np.ndarray  # (N, K) unit of the property; NaN where a profile has no horizon in the interval
    covered: np.ndarray  # (N, K) centimetres of the interval that were observed
    reach: np.ndarray  # (N, K) centimetres of it between the profile's first top and last bottom: observed ones, and gaps
    n_layers: np.ndarray  # (N, K) int64, horizons within the interval
    counts: dict[str, int]  # horizons left out, and unusual ones, by reason

    def sufficient(self, min_covered: float) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Return which values (N, K) are of profiles observed over enough of an interval, and K counts of profiles by reason.

        Enough is `min_covered` centimetres, or all of an interval that is thinner; 0: any number, down to the observed bottom.
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


def mass_preserving_spline(
    top: np.ndarray,
    bottom: np.ndarray,
    value: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    smoothing: float = 0.1,
    profile: np.ndarray | None = None,
) -> np.ndarray:
    """Means over depth intervals of the mass-preserving (equal-area quadratic smoothing) spline through soil horizons.

    A profile of n horizons with values y has the curve f that is quadratic within horizons, linear in gaps between them, smooth
    at their limits, and minimises mean((y - means of f over the horizons)^2) + lambda * integral of f'^2. With lambda towards 0
    its mean over each horizon is the horizon's value; with a large lambda it is constant. Prefer it to the thickness-weighted
    mean where intervals cut thick horizons. It overshoots beside sharp changes, and nothing is extrapolated.

    Parameters
    ----------
    top, bottom
        (L,) cm, in any order; horizons without thickness are left out, overlapping ones share their centimetres.
    value
        (L,) of any unit per mass of soil (SOC: g/kg); NaN is left out.
    intervals
        K pairs of upper and lower limit, cm.
    smoothing
        lambda, 0 to 1e9, for depths in cm.
    profile
        (L,) int, 0 to N-1: the profile of each horizon; None: all are of one.

    Returns
    -------
    ndarray
        (N, K) unit of `value`: means over the part of each interval between first top and last bottom; NaN where there is none.

    Raises
    ------
    ValueError
        If an interval is empty, or lambda out of range.

    References
    ----------
    Bishop, McBratney and Laslett 1999, Geoderma 91, 27-45.

    Examples
    --------
    >>> top, bottom, soc = np.array([0.0, 10.0, 30.0]), np.array([10.0, 30.0, 60.0]), np.array([24.0, 12.0, 6.0])
    >>> mass_preserving_spline(top, bottom, soc, [(0, 5), (5, 15), (0, 30), (60, 100)], smoothing=0.0).round(2)
    array([[25.45, 20.01, 16.  ,   nan]])
    """
    profile = np.zeros(len(top), np.int64) if profile is None else np.asarray(profile)
    horizons = Horizons(profile, np.asarray(top, float), np.asarray(bottom, float), int(profile.max(initial=-1)) + 1)
    return harmonise(horizons, np.asarray(value, float), intervals, "spline", smoothing, (-np.inf, np.inf)).mean


def harmonise(
    horizons: Horizons,
    value: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    method: Method = "mean",
    smoothing: float = 0.1,
    limits: tuple[float, float] = (0.0, np.inf),
) -> Harmonised:
    """Bring a property of L horizons, whatever their state and order, to K depth intervals (cm), which may overlap.

    Horizons whose depths are unknown or impossible, or whose value is unknown or outside `limits`, are left out and counted.
    Nothing is extrapolated: above the first horizon and below the last a profile has no value, and an interval that they end in
    gets the mean over the observed part. `Harmonised.sufficient` flags where that is too little.

    `method`: "mean": `weighted_mean`, over the observed centimetres. "spline": `mass_preserving_spline` with lambda `smoothing`,
    which also bridges gaps; "spline_1cm": the same read at every centimetre, as R packages do (mpspline2). A spline overshoots
    beside a sharp change: where its mean of an interval is outside `limits`, the interval gets that of "mean" (NaN where it lies
    between two horizons), and is counted.

    ValueError if an interval is empty or infinite, or lambda negative or above `MOST_SMOOTHING`.

    >>> horizons = Horizons(np.array([0, 0]), np.array([0.0, 10.0]), np.array([10.0, 40.0]), 1)
    >>> found = harmonise(horizons, np.array([20.0, 8.0]), [(0, 30), (30, 60)])
    >>> found.mean, found.covered
    (array([[12.,  8.]]), array([[30., 10.]]))
    """
    wanted = np.asarray(intervals, float).reshape(-1, 2)
    if not (np.isfinite(wanted).all() and (wanted[:, 0] < wanted[:, 1]).all()):
        raise ValueError(f"depth intervals {wanted.tolist()}: each needs an upper limit above its lower one, in cm")
    if not 0 <= smoothing <= MOST_SMOOTHING:
        raise ValueError(f"lambda {smoothing}: must lie between 0 and {MOST_SMOOTHING:g}")
    horizons, value, counts = _usable(horizons, value, limits)

    shape = horizons.profiles, len(wanted)
    first, last = np.full(horizons.profiles, np.inf), np.full(horizons.profiles, -np.inf)
    np.minimum.at(first, horizons.profile, horizons.top)
    np.maximum.at(last, horizons.profile, horizons.bottom)
    reach = (np.minimum(last[:, None], wanted[:, 1]) - np.maximum(first[:, None], wanted[:, 0])).clip(0.0)
    weighted, covered, n_layers = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
    pieces, piece_value = without_overlaps(horizons, value)
    for k, (upper, lower) in enumerate(wanted):
        weighted[:, k], n_layers[:, k] = weighted_mean(horizons, value, (upper, lower))
        observed = pieces.bottom.clip(upper, lower) - pieces.top.clip(upper, lower)
        covered[:, k] = np.bincount(pieces.profile, observed, pieces.profiles).round(_DECIMALS)
    mean, counts[IMPOSSIBLE_MEANS] = weighted, 0
    if method != "mean":
        mean = _spline_means(pieces, piece_value, wanted, smoothing, method == "spline_1cm")
        gaps = (pieces.top[1:] > pieces.bottom[:-1]) & pieces.follows
        counts["below a gap, bridged by the spline"] = int(gaps.sum())
        counts["alone in their profile, the spline constant"] = int((np.bincount(pieces.profile) == 1).sum())
        outside = (mean < limits[0]) | (mean > limits[1])
        counts[IMPOSSIBLE_MEANS] = int(outside.sum())
        mean = np.where(outside, weighted, mean)
    return Harmonised(wanted, mean, covered, reach, n_layers, counts)


def _usable(horizons: Horizons, value: np.ndarray, limits: tuple[float, float]) -> tuple[Horizons, np.ndarray, dict[str, int]]:
    """Return horizons with possible depths and values, sorted, repeats averaged; and counts of the others."""
    top, bottom = np.round(horizons.top, _DECIMALS), np.round(horizons.bottom, _DECIMALS)  # thinner pieces have no mass to keep
    horizons = Horizons(horizons.profile, top, bottom, horizons.profiles)
    placed = (np.abs(top) <= _DEEPEST) & (np.abs(bottom) <= _DEEPEST) & (top < bottom)
    known = np.isfinite(value) & (value >= limits[0]) & (value <= limits[1])
    counts = {"depth missing or impossible": int((~placed).sum()), "value missing or impossible": int((placed & ~known).sum())}
    horizons, value = horizons.take(placed & known), value[placed & known]
    given = len(horizons)
    horizons, (value,) = average_repeats(horizons, value)
    counts["same limits twice, averaged"] = given - len(horizons)
    counts["overlapping the one above"] = int(((horizons.top[1:] < horizons.bottom[:-1]) & horizons.follows).sum())
    return horizons, value, counts


def turn_litter(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, organic: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Bring organic layers that were described upwards from the mineral surface to negative depths, for `from_surface`.

    Two spellings are recognised, each only above a mineral horizon that begins at 0: an O horizon from 5 to 0 cm, others above it;
    and, where `organic` says which horizons are, O from 0 to 5 beside A from 0 to 10. (As aqp's accumulateDepths, Soil Survey
    Staff.) Returns top and bottom (L,), and the number of profiles with such layers.

    >>> turn_litter(np.array([0, 0]), np.array([5.0, 0.0]), np.array([0.0, 10.0]))
    (array([-5.,  0.]), array([ 0., 10.]), 1)
    """
    top, bottom = top.copy(), bottom.copy()
    organic = np.zeros(len(top), bool) if organic is None else organic
    upward = (bottom < top) & (bottom >= 0) & (top <= -HIGHEST_LITTER)
    mineral = (top == 0) & (bottom > 0) & ~organic
    grounded = np.isin(profile, profile[mineral])
    turned = 0
    rows = np.flatnonzero(grounded & (upward | (organic & (top >= 0) & (bottom > top))))
    for each in np.unique(profile[rows]):
        own = rows[profile[rows] == each]
        up, down = own[upward[own]], own[~upward[own]]
        upper, lower = (np.unique(np.column_stack(pair), axis=0) for pair in ((bottom[up], top[up]), (top[down], bottom[down])))
        if up.size and upper[0, 0] == 0 and (upper[1:, 0] >= upper[:-1, 1]).all():
            top[up], bottom[up] = 0.0 - top[up], 0.0 - bottom[up]
            turned += 1
        elif not up.size and down.size and lower[0, 0] == 0:
            ends = np.flatnonzero(lower[1:, 0] != lower[:-1, 1])
            thickness = lower[ends[0] if ends.size else -1, 1]
            layer = down[bottom[down] <= thickness]  # a buried organic layer is none of them
            top[layer], bottom[layer] = top[layer] - thickness, bottom[layer] - thickness
            turned += 1
    return top, bottom, turned


def from_surface(profile: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Count depths (L,), cm, from the surface of the soil, organic layers included; return them and how many profiles were moved.

    Until 1990 or so, organic layers were described upwards from the mineral surface, which had depth 0: a profile with an O horizon
    from -8 to 0 cm is moved down by 8 cm, as horizons are counted today (FAO 2006, Guidelines for Soil Description).

    >>> from_surface(np.array([0, 0]), np.array([-8.0, 0.0]), np.array([0.0, 15.0]))
    (array([0., 8.]), array([ 8., 23.]), 1)
    """
    highest = np.zeros(profile.max(initial=-1) + 1)
    np.minimum.at(highest, profile, top)
    return top - highest[profile], bottom - highest[profile], int((highest < 0).sum())


def weighted_mean(horizons: Horizons, value: np.ndarray, interval: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (N,) of horizons over a depth interval, each weighted by its thickness within it, and their number (N,).

    Values (L,) are per mass of soil (g/kg), not per volume. No two horizons have the same limits; those that overlap each keep
    their own thickness as weight. NaN where no horizon reaches into the interval.
    """
    weight = horizons.bottom.clip(*interval) - horizons.top.clip(*interval)
    reached = weight > 0
    profile, weight, value = horizons.profile[reached], weight[reached], value[reached]
    with np.errstate(invalid="ignore"):  # 0 / 0: no horizon
        mean = np.bincount(profile, weight * value, horizons.profiles) / np.bincount(profile, weight, horizons.profiles)
    return mean, np.bincount(profile, minlength=horizons.profiles)


def without_overlaps(horizons: Horizons, value: np.ndarray) -> tuple[Horizons, np.ndarray]:
    """Cut horizons where others of their profile begin or end; centimetres that several share get their mean.

    Returns M pieces, sorted by profile and depth, and their values. Horizons that overlap no other are unchanged.
    """
    owner, limit = np.tile(horizons.profile, 2), np.concatenate((horizons.top, horizons.bottom))
    order = np.lexsort((limit, owner))
    owner, limit = owner[order], limit[order]
    new = np.concatenate(([True], (np.diff(owner) != 0) | (np.diff(limit) != 0)))[: owner.size]
    rank = np.empty(order.size, np.int64)
    rank[order] = np.cumsum(new) - 1
    owner, limit = owner[new], limit[new]
    # The centimetres between two limits that follow each other are a piece; a horizon is one or more of them.
    begin, pieces = rank[: len(horizons)], rank[len(horizons) :] - rank[: len(horizons)]
    piece = np.repeat(begin - np.cumsum(pieces) + pieces, pieces) + np.arange(pieces.sum())
    shared = np.bincount(piece, minlength=limit.size)
    total = np.bincount(piece, np.repeat(value, pieces), limit.size)
    kept = np.flatnonzero(shared)
    return Horizons(owner[kept], limit[kept], limit[kept + 1], horizons.profiles), total[kept] / shared[kept]


def interval_weights(layers: Sequence[tuple[float, float]], interval: tuple[float, float]) -> np.ndarray:
    """Return the share (K,) of a depth interval in each of K layers: the weights of the layers' values in its mean.

    ValueError if the layers overlap within the interval, or do not fill it.

    >>> interval_weights([(0, 5), (5, 15), (15, 30), (30, 60), (60, 100)], (0, 20))
    array([0.25, 0.5 , 0.25, 0.  , 0.  ])
    """
    limits = np.asarray(layers, float).reshape(-1, 2).clip(*interval)
    share = np.diff(limits)[:, 0] / (interval[1] - interval[0])
    inside = limits[share > 0]
    inside = inside[np.argsort(inside[:, 0])]
    if not np.array_equal(np.append(inside[:, 0], interval[1]), np.insert(inside[:, 1], 0, interval[0])):
        found = np.asarray(layers).tolist()
        raise ValueError(f"layers {found} do not fill {interval[0]:g}-{interval[1]:g} cm, each centimetre once")
    return share


def average_repeats(horizons: Horizons, *values: np.ndarray, same: float = 0.0) -> tuple[Horizons, list[np.ndarray]]:
    """Return the horizons by profile and depth, those whose limits differ by no more than `same`, cm, averaged into one."""
    # by value too: a sum does not depend on the order given
    order = np.lexsort((values[0], horizons.bottom, horizons.top, horizons.profile))
    horizons, sorted_values = horizons.take(order), [value[order] for value in values]
    repeated = horizons.follows & (np.diff(horizons.top) <= same) & (np.abs(np.diff(horizons.bottom)) <= same)
    first = np.flatnonzero(np.concatenate(([True], ~repeated))[: len(horizons)])
    if first.size < len(horizons):
        repeats = np.diff(np.append(first, len(horizons)))
        sorted_values = [np.add.reduceat(value, first) / repeats for value in sorted_values]
    return horizons.take(first), sorted_values


# --- the spline ------------------------------------------------------------------------------------------------------


def _spline_means(
    horizons: Horizons, value: np.ndarray, intervals: np.ndarray, smoothing: float, every_cm: bool = False
) -> np.ndarray:
    """Return the means (N, K) of each profile's spline over depth intervals (K, 2) cm.

    Horizons are sorted and without overlap (`without_overlaps`). The curve is integrated, which preserves mass; with `every_cm`
    it is averaged at the interval's upper limit and each centimetre below, as in mpspline2, by which published numbers were made.
    """
    profile, top, bottom = horizons.profile, horizons.top, horizons.bottom
    largest = np.zeros(horizons.profiles)
    np.maximum.at(largest, profile, np.abs(value))
    largest[largest == 0] = 1.0
    value = value / largest[profile]  # the curve is linear in the values: scaled, none overflows
    thickness = bottom - top
    above, below = _slopes(horizons, value, smoothing)
    fitted = value - smoothing * np.bincount(profile, minlength=horizons.profiles)[profile] * (above - below)
    surface = fitted - thickness * (above / 3 + below / 6)

    # Pieces of the curve, at x cm below their upper limit: surface + above x + (below - above) x^2 / (2 thickness).
    gap = np.flatnonzero(horizons.follows & (top[1:] > bottom[:-1]))
    owner = np.concatenate((profile, profile[gap]))
    upper = np.concatenate((top, bottom[gap]))
    surface = np.concatenate((surface, (surface + thickness * (above + below) / 2)[gap]))
    thickness = np.concatenate((thickness, top[gap + 1] - bottom[gap]))
    above, below = np.concatenate((above, below[gap])), np.concatenate((below, below[gap]))
    power_sums = _points if every_cm else _integrals
    means = np.empty((horizons.profiles, len(intervals)))
    for k, interval in enumerate(intervals):
        length, first, second = power_sums(upper, thickness, interval)
        area = surface * length + above * first + (below - above) / (2 * thickness) * second
        length, area = np.bincount(owner, length, horizons.profiles), np.bincount(owner, area, horizons.profiles)
        means[:, k] = np.divide(area, length, out=np.full(horizons.profiles, np.nan), where=length > 0) * largest
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


def _slopes(horizons: Horizons, value: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve's slope at the upper and at the lower limit of each horizon (L,), per cm; 0 at a profile's ends.

    The unknowns are the slopes b between neighbouring horizons, the same at both ends of a gap. That values and areas
    agree there gives R b = 6 Q m, m the curve's means over the horizons and Q their differences; the integral of f'^2
    is b' R b / 6; least is m = y - n lambda Q' b, hence (R + 6 n lambda Q Q') b = 6 Q y. The matrix is tridiagonal and
    positive definite, so that one solution serves all profiles: nothing couples one to the next.
    """
    profile, top, bottom = horizons.profile, horizons.top, horizons.bottom
    above, below = np.zeros(profile.size), np.zeros(profile.size)
    upper = np.flatnonzero(horizons.follows)  # the horizon above each pair of neighbours
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
