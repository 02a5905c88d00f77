"""Design-based estimation: means, differences and accuracy of maps from a probability sample, with standard errors and t intervals.

In: values at n sampled points and how they were drawn (`sampling_design`). Out: `Estimate`s. The randomness is that of the draw
alone: nothing is assumed of the soil or of the map, errors that are correlated in space included.

    design = sampling_design(62, strata=stratum, sizes={"1": 64426, "2": 13973})
    mean(observed, design)                                       # of the area
    difference_estimate(21.4, observed, predicted, design)       # of a map, corrected

All designs are one: the weighted (Hajek) mean with the variance between primary units within strata, as if these were drawn with
replacement, linearised where a ratio is estimated (Saerndal, Swensson and Wretman 1992, ch. 5; Brus 2022, Spatial Sampling
with R). Of a simple random sample it is s^2 / n, of a stratified one the sum of W^2 s^2 / n. A finite population correction
is left out: an area has infinitely many points.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from soilcarbon.stats.metrics import check_level, checked_vectors

LEVEL = 0.95  # of intervals, where none is given
_MOST_OF_VARIANCE, _FEW_UNITS = 0.7, 4  # a stratum with more of the variance of a mean than this, of so few units, is told


@dataclass(frozen=True)
class Estimate:
    """An estimate of a probability sample, in the values' unit; NaN where the sample has too few points."""

    value: float
    standard_error: float
    low: float  # low, high: ends of the t interval
    high: float
    df: int  # degrees of freedom: primary units minus strata
    n: int  # points it rests on

    @property
    def t(self) -> float:
        """Student's t of the hypothesis that the true value is 0; NaN where the standard error is 0 or unknown."""
        return self.value / self.standard_error if self.standard_error > 0 else float("nan")

    @property
    def p(self) -> float:
        """Two-sided p value of that hypothesis."""
        return float(2 * stats.t.sf(abs(self.t), self.df)) if self.df > 0 else float("nan")

    def within(self, least: float = -np.inf, most: float = np.inf) -> "Estimate":
        """Return the estimate with an interval that keeps to the values that are possible."""
        return replace(self, low=float(np.clip(self.low, least, most)), high=float(np.clip(self.high, least, most)))


def _estimate(value: float, variance: float, df: int, n: int, level: float) -> Estimate:
    check_level(level)
    if df < 1:
        return Estimate(value, np.nan, np.nan, np.nan, 0, n)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    return Estimate(float(value), error, float(value - half), float(value + half), df, n)


# --- designs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplingDesign:
    """How n points were drawn; made by `sampling_design`."""

    stratum: np.ndarray  # (n,) number of each point's stratum in `names`
    names: tuple[str, ...]  # of the strata, in order
    weight: np.ndarray  # (n,) what each point stands for in means; in a stratum of known size the sum is that size
    group: np.ndarray  # group, spread_weight: (n,) number of the stratum, after collapsing, and weight in it: of variances
    spread_weight: np.ndarray
    unit: np.ndarray  # (n,) number of the primary unit
    known_sizes: bool  # whether the sizes of strata were given
    collapsed: Mapping[str, str]  # stratum -> the one it is joined with for variances

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.weight)

    @property
    def shares(self) -> dict[str, float]:
        """Stratum -> its share of the area, known or estimated."""
        sums = np.bincount(self.stratum, self.weight, len(self.names))
        return dict(zip(self.names, (sums / sums.sum()).tolist(), strict=True))

    def part(self, within: np.ndarray) -> "SamplingDesign":
        """Return the design of some of the points (n,) bool, with their weights; variances of a domain need all points."""
        stratum, known = self.stratum[within], np.unique(self.stratum[within])
        names, group = tuple(self.names[k] for k in known), np.unique(self.group[within], return_inverse=True)[1]
        rows = self.weight[within], group, self.spread_weight[within], self.unit[within]
        return SamplingDesign(np.searchsorted(known, stratum), names, *rows, False, {})

    def described(self) -> str:
        """Return how it is estimated, as a sentence for a report."""
        units, strata = np.unique(self.unit).size, len(self.names)
        drawn = f"{self.n} points"
        if units < self.n:
            drawn += f" in {units} primary units"
        if strata > 1:
            sizes = "of known size" if self.known_sizes else "whose sizes the weights give"
            drawn += f" in {strata} strata {sizes}"
        unequal = any(np.ptp(self.weight[self.stratum == k]) > 1e-9 * self.weight.max() for k in range(strata))
        kind = "stratified" if strata > 1 else "simple"
        kind = "two-stage" if units < self.n else "of unequal probabilities" if unequal else f"{kind} random"
        among = ("points" if units == self.n else "primary units") + (" within strata" if strata > 1 else "")
        joined = "".join(f"; for variances stratum {one} is joined with {other}" for one, other in self.collapsed.items())
        return f"Design-based, {kind} sample: {drawn}; weighted means, variances between {among}{joined}"


def sampling_design(
    n: int,
    strata: Sequence[Hashable] | np.ndarray | None = None,
    sizes: Mapping[Any, float] | None = None,
    weights: np.ndarray | None = None,
    units: Sequence[Hashable] | np.ndarray | None = None,
    collapse: Mapping[Any, Any] | None = None,
) -> SamplingDesign:
    """Return the design of a probability sample of n points.

    Parameters
    ----------
    n
        Points. With nothing else: a simple random sample.
    strata
        (n,) the stratum of each point; strata are told apart as text.
    sizes
        Stratum -> its size in any unit (cells, km2, share of the area). Every stratum that has a size needs points, or a
        neighbour in `collapse`; without sizes they are taken from the weights.
    weights
        (n,) positive, what each point stands for: the inverse of its inclusion probability, up to a factor. Default: equal within
        a stratum.
    units
        (n,) the primary unit of each point, of two-stage and cluster samples; one drawn twice is two units. A unit lies in one
        stratum. Default: each point is one.
    collapse
        Stratum -> stratum it is joined with. A stratum with one unit has no variance of its own; where it is not named here it is
        joined with the stratum before it in order (the first with the next), which its values must not decide.

    Raises
    ------
    ValueError
        If lengths or weights are wrong, a point's stratum has no size, a stratum no point, or one unit lies in two strata.

    Examples
    --------
    >>> design = sampling_design(5, strata=[1, 1, 2, 2, 3], sizes={1: 60, 2: 30, 3: 10})
    >>> design.shares, dict(design.collapsed)
    ({'1': 0.6, '2': 0.3, '3': 0.1}, {'3': '2'})
    """
    if n < 1:
        raise ValueError("a sample has at least one point")
    raw = np.ones(n) if weights is None else checked_vectors(weights=np.asarray(weights))[0]
    label = np.array(["all"] * n if strata is None else [str(each) for each in strata])
    member = np.arange(n) if units is None else np.unique([str(each) for each in units], return_inverse=True)[1]
    for name, each in (("weights", raw), ("strata", label), ("units", member)):
        if len(each) != n:
            raise ValueError(f"{name}: {len(each)} for {n} points")
    if (raw <= 0).any():
        raise ValueError(f"weights must be above 0, the first that is not is {raw[raw <= 0][0]:g}")
    given = {str(name): float(size) for name, size in (sizes or {}).items()}
    joined = {str(one): str(other) for one, other in (collapse or {}).items()}
    if given:
        _check_sizes(set(label.tolist()), given, joined)
    elif strata is not None and weights is None:
        raise ValueError("the sizes of the strata are needed, or weights of the points")
    names = tuple(sorted(set(label.tolist()), key=_order))
    stratum = np.array([names.index(each) for each in label])
    pairs = {(int(one), int(other)) for one, other in zip(member, stratum, strict=True)}
    if len(pairs) > len(set(member.tolist())):
        raise ValueError("a primary unit has points in two strata")
    collapsed = _collapsed(names, [len({u for u, s in pairs if s == k}) for k in range(len(names))], joined)
    root = {name: name for name in names}
    for one, other in collapsed.items():
        old, new = root[one], root[other]
        root = {name: new if each == old else each for name, each in root.items()}
    group = np.array([names.index(root[each]) for each in label])
    weight, spread = raw, raw
    if given:
        size = np.array([given[name] for name in names])
        weight = raw * (size / np.bincount(stratum, raw))[stratum]
        in_group = np.bincount([names.index(root[name]) for name in names], size, len(names))
        spread = raw * (in_group[group] / np.bincount(group, raw, len(names))[group])
    return SamplingDesign(stratum, names, weight, group, spread, member, bool(given), collapsed)


def _check_sizes(here: set[str], sizes: dict[str, float], joined: Mapping[str, str]) -> None:
    """Check that points and sizes fit; a stratum without points gives its size (in place) to the one it is joined with."""
    if lacking := sorted(here - sizes.keys(), key=_order):
        raise ValueError(f"stratum {lacking[0]!r} has points, but no size")
    if bad := next((name for name, size in sizes.items() if not (np.isfinite(size) and size > 0)), None):
        raise ValueError(f"the size of stratum {bad!r} is {sizes[bad]:g}; it must be above 0")
    for name in sorted(sizes.keys() - here, key=_order):
        other = joined.get(name)
        if other is None or other not in here:
            raise ValueError(f"stratum {name!r} has a size, but no point; leave it out of the area, or join it with another")
        sizes[other] += sizes.pop(name)


def _collapsed(names: Sequence[str], units: Sequence[int], joined: Mapping[str, str]) -> dict[str, str]:
    """Return stratum -> stratum it is joined with, of those that are named and those of one unit."""
    found = {one: other for one, other in joined.items() if one in names}
    if unknown := next((other for one, other in found.items() if other not in names or other == one), None):
        raise ValueError(f"a stratum is to be joined with {unknown!r}, which is no other stratum")
    if len(names) > 1:
        for k, name in enumerate(names):
            if units[k] < 2 and name not in found and name not in found.values():
                found[name] = names[k - 1 if k else 1]
    return found


def _order(name: str) -> tuple[int, float, str]:
    """Return the key that sorts numbers as numbers, and before text."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


# --- estimators ----------------------------------------------------------------------------------------------------


def _variance(deviation: np.ndarray, design: SamplingDesign) -> float:
    """Return the variance of a weighted mean whose linearised values (n,) these are, between units within collapsed strata."""
    return float(_variances(deviation, design).sum())


def _variances(deviation: np.ndarray, design: SamplingDesign) -> np.ndarray:
    """Return the parts (G,) that collapsed strata, in their order, have in that variance."""
    total, groups = float(design.spread_weight.sum()), np.unique(design.group)
    found = np.zeros(len(groups))
    for at, k in enumerate(groups):
        here = design.group == k
        weight, values = design.spread_weight[here], deviation[here]
        if design.known_sizes:
            values = values - (weight * values).sum() / weight.sum()
        sums = np.bincount(np.unique(design.unit[here], return_inverse=True)[1], weight * values) / total
        if (m := len(sums)) > 1:
            found[at] = m / (m - 1) * ((sums - sums.mean()) ** 2).sum()
    return found


def variance_parts(values: np.ndarray, design: SamplingDesign) -> np.ndarray:
    """Return the parts (G,) that strata, joined ones together, have in the variance of a mean of values (n,)."""
    return _variances(_linearised(values, np.ones(design.n, bool), design)[1], design)


def dominant_stratum(values: np.ndarray, design: SamplingDesign) -> str | None:
    """Return the stratum of few units that makes most of the variance of a mean; None if there is none.

    The t interval counts the units of all strata, and then holds less often than it says (Cochran 1977, 5.4): with ten times the
    deviation in one of ten strata of two points each, 75 % of 90 % intervals did.

    >>> design = sampling_design(6, strata=list("aabbcc"), sizes={"a": 1, "b": 1, "c": 1})
    >>> dominant_stratum(np.array([0.0, 9.0, 1.0, 2.0, 1.0, 2.0]), design)
    'a'
    """
    parts, groups = variance_parts(values, design), np.unique(design.group)
    if len(groups) < 2 or not parts.sum() > 0:
        return None
    k = int(parts.argmax())
    units = np.unique(design.unit[design.group == groups[k]]).size
    return design.names[groups[k]] if parts[k] > _MOST_OF_VARIANCE * parts.sum() and units <= _FEW_UNITS else None


def _degrees_of_freedom(design: SamplingDesign, within: np.ndarray) -> int:
    """Return primary units minus strata, of those with points in a domain; 0 where it has one unit."""
    units = np.unique(design.unit[within]).size
    return 0 if units < 2 else max(1, units - np.unique(design.group[within]).size)


def mean(values: np.ndarray, design: SamplingDesign, domain: np.ndarray | None = None, level: float = LEVEL) -> Estimate:
    """Estimate the mean over the sampled area, or over a part of it (a domain).

    Parameters
    ----------
    values
        (n,) at the points; outside the domain they do not matter, and may be NaN.
    design
        Of the sample.
    domain
        (n,) bool: which points lie in the part. It need not be known when the sample is drawn; the estimate is the ratio of two
        weighted means. Default: the whole area.
    level
        Of the t interval.

    Returns
    -------
    Estimate
        NaN throughout without a point in the domain; without standard error and interval where it has one.

    Raises
    ------
    ValueError
        If there are not as many values as points, or one that counts is not finite.

    Examples
    --------
    >>> found = mean(np.array([3.0, 5.0, 7.0, 9.0]), sampling_design(4))
    >>> found.value, round(found.standard_error, 4), found.df
    (6.0, 1.291, 3)
    """
    within, (values,) = _within(design, domain, values=values)
    if not within.any():
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, 0)
    value, deviation = _linearised(values, within, design)
    return _estimate(value, _variance(deviation, design), _degrees_of_freedom(design, within), int(within.sum()), level)


def contrast(values: np.ndarray, design: SamplingDesign, domain: np.ndarray, control: np.ndarray) -> Estimate:
    """Estimate the difference between the means of two domains, domain minus control, of one sample.

    Means of two parts of strata are not independent: the more points of a stratum lie in one, the fewer in the other.

    >>> design = sampling_design(4, strata=list("aabb"), sizes={"a": 1, "b": 1})
    >>> first = np.array([True, False, True, False])
    >>> found = contrast(np.array([1.0, 2.0, 5.0, 8.0]), design, ~first, first)
    >>> found.value, round(found.standard_error, 3)
    (2.0, 3.536)
    """
    parts = [(within, checked) for within, (checked,) in (_within(design, part, values=values) for part in (domain, control))]
    (one, its), (other, theirs) = (_linearised(checked, within, design) for within, checked in parts)
    both = parts[0][0] | parts[1][0]
    return _estimate(one - other, _variance(its - theirs, design), _degrees_of_freedom(design, both), int(both.sum()), LEVEL)


def _linearised(values: np.ndarray, within: np.ndarray, design: SamplingDesign) -> tuple[float, np.ndarray]:
    """Return the weighted mean of the points of a domain (n,), and the linearised values (n,) of which its variance is made."""
    weight = design.weight * within
    value = float((weight * values).sum() / weight.sum())
    share = float(design.spread_weight[within].sum() / design.spread_weight.sum())  # as variances weigh the points
    return value, within * (values - value) / share


def _within(design: SamplingDesign, domain: np.ndarray | None, **vectors: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return which points lie in the domain (n,), and vectors that are checked there and 0 elsewhere."""
    within = np.ones(design.n, bool) if domain is None else np.asarray(domain, bool)
    arrays = {name: np.asarray(values, np.float64) for name, values in vectors.items()}
    for name, values in {"domain": within, **arrays}.items():
        if values.shape != (design.n,):
            raise ValueError(f"{name} {values.shape} must be one for each of {design.n} points")
    return within, checked_vectors(**{name: np.where(within, values, 0.0) for name, values in arrays.items()})


def difference_estimate(
    map_mean: float,
    observed: np.ndarray,
    predicted: np.ndarray,
    design: SamplingDesign,
    domain: np.ndarray | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Estimate a mean by a map and a probability sample: the map's mean plus the weighted mean of the residuals.

    It is free of bias however poor the map is, and the better the map, the smaller its variance, which is that of the residuals.
    The map must not have been trained on the sample.

    Parameters
    ----------
    map_mean
        Mean of the map over the area, or over the domain; of what is `predicted`: of medians, where the map is of medians.
    observed, predicted
        (n,) at the points.
    design, domain, level
        As of `mean`.

    Examples
    --------
    >>> observed, predicted = np.array([3.0, 5.0, 7.0, 9.0]), np.array([3.5, 4.5, 7.5, 7.5])
    >>> found = difference_estimate(6.0, observed, predicted, sampling_design(4))
    >>> found.value, round(found.standard_error, 3)
    (6.25, 0.479)
    """
    within, (observed, predicted) = _within(design, domain, observed=observed, predicted=predicted)
    found = mean(observed - predicted, design, within, level)
    return replace(found, value=map_mean + found.value, low=map_mean + found.low, high=map_mean + found.high)


def by_zone(zones: Sequence[Hashable] | np.ndarray, names: Sequence[Hashable]) -> dict[str, np.ndarray]:
    """Return zone -> domain (n,) bool, of the zone of each point as text.

    >>> {name: domain.tolist() for name, domain in by_zone(["a", "b", "a"], ["a", "b"]).items()}
    {'a': [True, False, True], 'b': [False, True, False]}
    """
    label = np.array([str(each) for each in zones])
    return {str(name): label == str(name) for name in names}


def points_for_normal_mean(values: np.ndarray) -> int:
    """Return how many points a mean of values so skewed needs for its t interval to hold about as often as it says.

    Cochran's rule, 28 + 25 G1^2, of the coefficient of skewness G1 (Sugden, Smith and Jones 2000). A sample that missed the largest
    values says too few.

    >>> points_for_normal_mean(np.arange(20.0)), points_for_normal_mean(np.array([0.0] * 19 + [10.0]))
    (28, 454)
    """
    skewness = float(stats.skew(values)) if np.ptp(values) > 0 else 0.0
    return int(28 + 25 * skewness**2)


# --- validation of a map -------------------------------------------------------------------------------------------


def validate_map(
    observed: np.ndarray, predicted: np.ndarray, design: SamplingDesign, domain: np.ndarray | None = None, level: float = LEVEL
) -> dict[str, Estimate]:
    """Estimate the accuracy of a map over the sampled area (Brus, Kempen and Heuvelink 2011; Brus 2022, ch. 25).

    Parameters
    ----------
    observed, predicted
        (n,) at the points, which the map was not trained on.
    design, domain, level
        As of `mean`.

    Returns
    -------
    dict
        me (mean of predicted - observed; its t and p test for bias), mae, mse; rmse with the standard error of
        linearisation and the root of the interval of mse; mec, the model efficiency coefficient 1 - MSE / S2, S2 the estimated
        variance of the area. NaN where undefined. Where a few large errors make up most of the MSE its interval, and that of
        mec, hold the truth less often than `level` says: the sample may have missed the largest.

    Raises
    ------
    ValueError
        As of `mean`.

    Examples
    --------
    >>> observed, predicted = np.array([3.0, 5.0, 7.0, 9.0]), np.array([3.5, 4.5, 7.5, 7.5])
    >>> found = validate_map(observed, predicted, sampling_design(4))
    >>> {name: round(found[name].value, 4) for name in ("me", "mse", "mec")}
    {'me': -0.25, 'mse': 0.75, 'mec': 0.8875}
    """
    within, (observed, predicted) = _within(design, domain, observed=observed, predicted=predicted)
    error = predicted - observed
    mse = mean(error**2, design, within, level).within(0.0)
    root = float(np.sqrt(mse.value))
    half = mse.standard_error / (2 * root) if root > 0 else mse.standard_error
    rmse = Estimate(root, half, float(np.sqrt(mse.low)), float(np.sqrt(mse.high)), mse.df, mse.n)
    return {
        "me": mean(error, design, within, level),
        "mae": mean(np.abs(error), design, within, level).within(0.0),
        "mse": mse,
        "rmse": rmse,
        "mec": _efficiency(observed, error, mse, design, within, level),
    }


def _efficiency(
    observed: np.ndarray, error: np.ndarray, mse: Estimate, design: SamplingDesign, within: np.ndarray, level: float
) -> Estimate:
    """Return 1 - MSE / S2; its variance is that of the linearised ratio."""
    weight, n = design.spread_weight * within, int(within.sum())
    nothing = Estimate(np.nan, np.nan, np.nan, np.nan, 0, n)
    if n < 2:
        return nothing
    squares = n / (n - 1) * (observed - (weight * observed).sum() / weight.sum()) ** 2
    spread = float((weight * squares).sum() / weight.sum())
    if not spread > 1e-12 * float(np.abs(observed).max()) ** 2:
        return nothing
    ratio = mse.value / spread
    deviation = (error**2 - ratio * squares) / spread
    change = mean(deviation, design, within, level)
    return _estimate(1 - ratio, change.standard_error**2, change.df, n, level).within(most=1.0)


def compare_maps(
    observed: np.ndarray, first: np.ndarray, second: np.ndarray, design: SamplingDesign, domain: np.ndarray | None = None
) -> Estimate:
    """Estimate the difference of two maps' mean squared errors, first minus second; its `t` and `p` are the paired test.

    >>> observed = np.array([3.0, 5.0, 7.0, 9.0])
    >>> compare_maps(observed, observed + [1, -1, 2, 1], observed + [0, 1, 1, 1], sampling_design(4)).value
    1.0
    """
    within, (observed, first, second) = _within(design, domain, observed=observed, first=first, second=second)
    return mean((first - observed) ** 2 - (second - observed) ** 2, design, within)
