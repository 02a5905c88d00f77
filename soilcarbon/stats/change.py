"""Change of a mean between two visits, of the same places (paired) or of independent samples (unpaired), with t intervals.

In: values at places of two visits, and how these were drawn (`design_based.sampling_design`: strata with sizes or weights, primary
units such as blocks). Out: `Change`. Errors of measurement that are independent between places are part of the spread between
them, and so of the interval; an error that all values of a visit share, such as another laboratory, is in no interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from soilcarbon.stats.design_based import Estimate, SamplingDesign, contrast, mean, sampling_design, variance_parts
from soilcarbon.stats.metrics import check_level, checked_vectors

LEVEL = 0.9  # of intervals, where none is given


@dataclass(frozen=True)
class Change:
    """Change of a mean between two visits, after minus before, in the unit of the values."""

    before: float  # before, after: means of the two visits; of a paired change, of the places of both
    after: float
    change: float  # their difference
    standard_error: float  # NaN where there are too few places
    df: float  # degrees of freedom: places (or primary units) minus strata; of an unpaired change Welch's
    low: float  # low, high: ends of the two-sided t interval of `level`
    high: float
    least: float  # with confidence `one_sided` the change is above this
    most: float  # with confidence `one_sided` the change is below this
    p: float  # two-sided p value of no change
    level: float
    one_sided: float
    n_before: int  # n_before, n_after: places; of a paired change the pairs, twice
    n_after: int
    paired: bool
    sd_before: float  # sd_before, sd_after: standard deviations between places of a visit, for planning
    sd_after: float
    correlation: float = float("nan")  # of pairs; NaN if unpaired
    sd_difference: float = float("nan")  # standard deviation of the differences of pairs; NaN if unpaired


def paired_change(
    before: np.ndarray,
    after: np.ndarray,
    design: SamplingDesign | None = None,
    level: float = LEVEL,
    one_sided: float = LEVEL,
    population: Mapping[str, float] | None = None,
    domain: np.ndarray | None = None,
) -> Change:
    """Change of a mean of places that were visited twice: the mean of their differences.

    Prefer it wherever the same places were sampled again: what differs between places, and does not change, cancels.

    Parameters
    ----------
    before, after
        (n,) values of the same places.
    design
        How the places were drawn; None: a simple random sample.
    level
        Of the two-sided interval.
    one_sided
        Of the one-sided limits.
    population
        Stratum ("all" without strata) -> number of places there are, for the finite population correction; None: infinitely many.
    domain
        (n,) bool: which places lie in a part of the area, whose share of each stratum they tell; without finite population
        correction. Default: the whole area.

    Raises
    ------
    ValueError
        If lengths differ, or a value is not finite.

    Examples
    --------
    >>> found = paired_change(np.array([40.0, 52.0, 47.0, 61.0]), np.array([42.0, 55.0, 46.0, 65.0]))
    >>> found.change, round(found.low, 2), round(found.high, 2)
    (2.0, -0.54, 4.54)
    """
    before, after = checked_vectors(before=np.asarray(before, float), after=np.asarray(after, float))
    design = sampling_design(len(before)) if design is None else design
    difference = _mean(after - before, design, population, domain)
    if domain is not None:
        before, after, design = before[domain], after[domain], design.part(domain)
    together = np.corrcoef(before, after)[0, 1] if len(before) > 2 and np.ptp(before) and np.ptp(after) else np.nan
    return Change(
        **_intervals(difference.value, difference.standard_error, difference.df, level, one_sided),
        **_visits((before, after), (design, design)),
        paired=True,
        correlation=float(together),
        sd_difference=_sd(after - before, design),
    )


def unpaired_change(
    before: np.ndarray,
    after: np.ndarray,
    designs: tuple[SamplingDesign, SamplingDesign] | None = None,
    level: float = LEVEL,
    one_sided: float = LEVEL,
    units: tuple[np.ndarray, np.ndarray] | None = None,
    population: Mapping[str, float] | None = None,
    domains: tuple[np.ndarray, np.ndarray] | None = None,
) -> Change:
    """Change of a mean between two independent samples: the difference of their means, with Welch's degrees of freedom.

    Parameters
    ----------
    before, after
        (n,) and (m,) values of the two visits.
    designs
        How each was drawn; None: simple random samples.
    level, one_sided
        As of `paired_change`.
    units
        (n,) and (m,) primary units (blocks, sites) that both visits share: variances are those between them, as the two means are
        not independent. The designs need no units then, and there is no finite population correction. Units that were drawn anew
        at the second visit belong into the designs.
    population
        As of `paired_change`.
    domains
        (n,) and (m,) bool: as of `paired_change`, at each visit.

    Raises
    ------
    ValueError
        If a value is not finite, or lengths differ.

    Examples
    --------
    >>> found = unpaired_change(np.array([40.0, 52.0, 47.0, 61.0]), np.array([42.0, 55.0, 46.0, 65.0]))
    >>> found.change, round(found.low, 2), round(found.high, 2), round(found.df, 2)
    (2.0, -11.18, 15.18, 5.87)
    """
    before, after = (checked_vectors(values=np.asarray(each, float))[0] for each in (before, after))
    designs = designs or (sampling_design(len(before)), sampling_design(len(after)))
    within = domains or (None, None)
    first, second = _mean(before, designs[0], population, within[0]), _mean(after, designs[1], population, within[1])
    if domains is not None:
        before, after = before[domains[0]], after[domains[1]]
        designs = designs[0].part(domains[0]), designs[1].part(domains[1])
        units = None if units is None else (units[0][domains[0]], units[1][domains[1]])
    if units is None:
        error, df = _welch(first, second)
    else:
        error, df = _between_units((before, after), designs, units)
    intervals = _intervals(second.value - first.value, error, df, level, one_sided)
    return Change(**intervals, **_visits((before, after), designs), paired=False)


def difference_of_changes(first: Change, second: Change) -> Change:
    """Difference of two independent changes, second minus first, such as of a treatment against its control.

    Its means before and after are those of the second.

    >>> control = paired_change(np.array([40.0, 52.0, 47.0]), np.array([41.0, 52.0, 46.0]))
    >>> treated = paired_change(np.array([41.0, 50.0, 49.0]), np.array([43.0, 53.0, 50.0]))
    >>> difference_of_changes(control, treated).change
    2.0
    """
    error, df = _welch(first, second)
    return replace(second, **_intervals(second.change - first.change, error, df, second.level, second.one_sided))


def difference_of_domains(first: Change, second: Change, visits: Sequence[tuple[np.ndarray, SamplingDesign, Any, Any]]) -> Change:
    """Difference of the changes of two domains of one sample, second minus first, as of `difference_of_changes`.

    `visits` are one of paired changes, of the differences of pairs, or two: values (n,), design, and which points lie in the first
    and in the second domain (n,) bool.
    """
    found = [contrast(values, design, other, one) for values, design, one, other in visits]
    error, df = (found[0].standard_error, found[0].df) if len(found) == 1 else _welch(found[0], found[1])
    return replace(second, **_intervals(second.change - first.change, error, df, second.level, second.one_sided))


def rate_per_year(change: Change, years: float) -> tuple[float, float, float]:
    """Return a change per year, and the ends of its interval, for two visits so many years apart.

    >>> change = paired_change(np.array([40.0, 52.0, 47.0, 61.0]), np.array([42.0, 55.0, 46.0, 65.0]))
    >>> rate_per_year(change, 10.0)[0]
    0.2
    """
    return change.change / years, change.low / years, change.high / years


def _welch(first: Estimate | Change, second: Estimate | Change) -> tuple[float, float]:
    """Return the standard error of the difference of two independent estimates, and Welch's degrees of freedom."""
    if not (first.df > 0 and second.df > 0):
        return float("nan"), 0.0
    one, other = first.standard_error**2, second.standard_error**2
    total = one + other
    if not total > 0:
        return 0.0, float(first.df + second.df)
    # shares, not variances: squares of the smallest vanish
    return float(np.sqrt(total)), 1 / ((one / total) ** 2 / first.df + (other / total) ** 2 / second.df)


def _mean(
    values: np.ndarray, design: SamplingDesign, population: Mapping[str, float] | None, domain: np.ndarray | None = None
) -> Estimate:
    """Return the mean of a sample, its standard error with the finite population correction if the population is known."""
    found = mean(values, design, domain)
    if population is None or domain is not None:
        return found
    counts = np.bincount(design.stratum)
    whole = np.array([population.get(name, np.inf) for name in design.names])
    if (counts > whole).any():
        k = int((counts > whole).argmax())
        raise ValueError(f"stratum {design.names[k]!r}: {counts[k]} places of a population of {whole[k]:g}")
    group = np.unique(design.group, return_inverse=True)[1]
    joined = np.bincount(group[np.unique(design.stratum, return_index=True)[1]], whole)
    variance = (variance_parts(values, design) * (1 - np.bincount(group) / joined)).sum()
    return replace(found, standard_error=float(np.sqrt(variance)) if found.df > 0 else np.nan)


def _centres(values: np.ndarray, weight: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return the weighted mean of each place's stratum (n,)."""
    own = np.unique(stratum, return_inverse=True)[1]
    return np.asarray((np.bincount(own, weight * values) / np.bincount(own, weight))[own])


def joint_design(designs: Sequence[SamplingDesign], units: Sequence[np.ndarray]) -> SamplingDesign:
    """Return the design of the places of both visits together, whose primary units (n,) and (m,) the visits share."""
    strata = [each.names[k] for each in designs for k in each.stratum]
    unit = np.concatenate([np.asarray(each).astype(str) for each in units])
    return sampling_design(len(unit), strata, weights=np.ones(len(unit)), units=unit)


def _between_units(
    values: tuple[np.ndarray, np.ndarray], designs: tuple[SamplingDesign, SamplingDesign], units: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return the standard error of a difference of means, between the primary units of both visits, and degrees of freedom."""
    joint, effects = joint_design(designs, units), []
    groups = np.split(joint.group, [len(values[0])])
    for sign, value, design, group in zip((-1, 1), values, designs, groups, strict=True):
        weight = design.weight / design.weight.sum()
        centre = _centres(value, weight, group) if design.known_sizes else (weight * value).sum()
        effects.append(sign * weight * (value - centre))
    found = mean(joint.n * np.concatenate(effects), joint)
    return found.standard_error, float(found.df)


def _sd(values: np.ndarray, design: SamplingDesign) -> float:
    """Return the standard deviation between places, within strata where there are several."""
    weight = design.weight / design.weight.sum()
    n, strata = len(values), np.unique(design.stratum).size
    if n <= strata:
        return float("nan")
    return float(np.sqrt((weight * (values - _centres(values, weight, design.stratum)) ** 2).sum() * n / (n - strata)))


def _visits(values: Sequence[np.ndarray], designs: Sequence[SamplingDesign]) -> dict[str, Any]:
    """Return the fields of a `Change` that describe the two visits."""
    found: dict[str, Any] = {}
    for name, its, design in zip(("before", "after"), values, designs, strict=True):
        found |= {name: mean(its, design).value, f"n_{name}": len(its), f"sd_{name}": _sd(its, design)}
    return found


def _intervals(change: float, error: float, df: float, level: float, one_sided: float) -> dict[str, Any]:
    """Return the fields of a `Change` that say how sure it is; NaN without degrees of freedom."""
    check_level(level)
    check_level(one_sided, "one_sided")
    error = error if df > 0 else float("nan")
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    one = float(stats.t.ppf(one_sided, df)) * error
    ratio = abs(change) / error if error > 0 else float("nan")
    return {
        "change": change,
        "standard_error": error,
        "df": float(df),
        "low": change - half,
        "high": change + half,
        "least": change - one,
        "most": change + one,
        "p": float(2 * stats.t.sf(ratio, df)),
        "level": level,
        "one_sided": one_sided,
    }
