"""Measure how well intervals kept their promise: how often they held the truth, how wide they were, and both in one score.

In: observations (n,) and the ends of their intervals, of any method. Out: coverage with an interval of its own, interval
scores, and a table of both by level and stratum. Arrays in memory, no settings, no files.

    rows = picp_table(test_y, {0.9: (lower, upper)}, strata=land_cover, units=test_blocks)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

from soilcarbon.stats.metrics import checked_vectors, resampled_means


def _checked(y: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return y and the ends of its intervals, which may be infinite, if no interval is upside down."""
    y, lower, upper = checked_vectors(may_be_infinite=("lower", "upper"), y=y, lower=lower, upper=upper)
    if (lower > upper).any():
        k = int((lower > upper).argmax())
        raise ValueError(
            f"{int((lower > upper).sum())} intervals are upside down, first [{lower[k]:g}, {upper[k]:g}]; swap the ends"
        )
    return y, lower, upper


def coverage(
    y: np.ndarray, lower: np.ndarray, upper: np.ndarray, units: np.ndarray | None = None, seed: int = 0, draws: int = 1000
) -> dict[str, float | int | None]:
    """Return the share of observations (n,) within their intervals (ends included), with a 95 % interval of it.

    Without units the exact binomial one (Clopper and Pearson 1934). With units (n,) that of a bootstrap of whole units,
    for profiles of one block are missed together; it has no width where no or every profile is covered.

    Returns
    -------
    dict
        n, value, low, high; the latter three None if n is 0.

    Raises
    ------
    ValueError
        If lengths differ, a value is NaN, or an interval's lower end is above its upper one.
    """
    y, lower, upper = _checked(y, lower, upper)
    n = len(y)
    if n == 0:
        return {"n": 0, "value": None, "low": None, "high": None}
    hit = (lower <= y) & (y <= upper)
    if units is None:
        ends = binomtest(int(hit.sum()), n).proportion_ci(0.95)
        return {"n": n, "value": float(hit.mean()), "low": float(ends.low), "high": float(ends.high)}
    drawn = resampled_means(hit[:, None].astype(np.float64), units, seed, draws)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"n": n, "value": float(hit.mean()), "low": low, "high": high}


def interval_score(y: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: float) -> np.ndarray:
    """Return the interval score of each profile (n,), in the target's unit; the lower the better.

    Width + 2 / (1 - level) times what the truth lies outside: only the true quantiles minimise its mean, so it rewards
    narrow intervals that cover (Winkler 1972; Gneiting and Raftery 2007, J. Am. Stat. Assoc. 102, 359-378, eq. 43).

    Raises
    ------
    ValueError
        As `coverage`, or if the level is not between 0 and 1.
    """
    y, lower, upper = _checked(y, lower, upper)
    if not 0 < level < 1:
        raise ValueError(f"level {level} must lie between 0 and 1")
    return (upper - lower) + 2 / (1 - level) * (np.maximum(lower - y, 0) + np.maximum(y - upper, 0))


def picp_table(
    y: np.ndarray,
    intervals: Mapping[float, tuple[np.ndarray, np.ndarray]],
    strata: np.ndarray | None = None,
    units: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return how intervals of several levels did, over all profiles and in each stratum.

    Parameters
    ----------
    y
        (n,) observations.
    intervals
        Level -> lower, upper (n,) of any method, so that methods are compared by one measure.
    strata
        (n,) labels. None: no strata.
    units
        (n,) spatial units for the interval of the coverage, see `coverage`.

    Returns
    -------
    list of dict
        level, stratum ("all" for all), n, coverage, low, high, mean_width, interval_score (mean).
    """
    y = np.asarray(y)
    chosen = {"all": np.ones(len(y), bool)}
    if strata is not None:
        chosen |= {str(label): np.asarray(strata) == label for label in np.unique(strata)}
    rows = []
    for level, (lower, upper) in intervals.items():
        score = interval_score(y, lower, upper, level)
        width = np.subtract(upper, lower, dtype=np.float64)
        for stratum, some in chosen.items():
            found = coverage(y[some], lower[some], upper[some], None if units is None else np.asarray(units)[some], seed)
            facts = {"level": level, "stratum": stratum, "n": found["n"], "coverage": found["value"]}
            means = {"mean_width": float(width[some].mean()), "interval_score": float(score[some].mean())}
            rows.append(facts | {"low": found["low"], "high": found["high"]} | means)
    return rows
