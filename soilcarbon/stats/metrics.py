"""Metrics of predictions: scores with bootstrap intervals, paired differences of two methods, and coverage of intervals.

In: observations and predictions (n,), and optionally the spatial group of each. Out: plain numbers. Every score that is printed,
logged or chooses an epoch is computed here.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

HIGHER_IS_BETTER = {"rmse": False, "mae": False, "r2": True, "ccc": True, "rpiq": True}
"""Scores that can rank two models. ME, a balance, cannot."""

# --- scores ----------------------------------------------------------------------------------------------------


def checked_vectors(may_be_infinite: Collection[str] = (), **vectors: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return vectors of one length as float64, checked to be finite; those named in `may_be_infinite` may be so, but not NaN."""
    arrays = {name: np.asarray(values, np.float64) for name, values in vectors.items()}
    if len({values.shape for values in arrays.values()}) > 1 or next(iter(arrays.values())).ndim != 1:
        raise ValueError(", ".join(f"{name} {values.shape}" for name, values in arrays.items()) + " must be vectors of one length")
    for name, values in arrays.items():
        bad = np.isnan(values) if name in may_be_infinite else ~np.isfinite(values)
        if bad.any():
            count, first = int(bad.sum()), int(bad.argmax())
            raise ValueError(f"{name} has {count} values of {len(values)} that are not finite, first at {first}")
    return tuple(arrays.values())


def check_level(level: float, what: str = "level") -> None:
    """Raise ValueError unless a level of confidence or coverage lies between 0 and 1: 90 % are 0.9."""
    if not 0 < level < 1:
        raise ValueError(f"{what} {level} must lie between 0 and 1")


SCORES = ("rmse", "mae", "me", "r2", "ccc", "rpiq")  # of `scores`, beside n


def _moments(observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the moments that scores are computed from, (n, 8)."""
    error = predicted - observed
    o, p = observed - observed.mean(), predicted - predicted.mean()  # centred, lest squares cancel
    return np.stack([error, np.abs(error), error * error, o, p, o * o, p * p, o * p], axis=1)


def _scores_of(means: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `SCORES` (...,) from the means of the moments (..., 8) and all observations (n,); NaN where undefined."""
    me, mae, mse, o, p, oo, pp, op = np.moveaxis(means, -1, 0)
    observed_variance, predicted_variance, covariance = oo - o * o, pp - p * p, op - o * p
    constant = max((1e-12 * np.abs(observed).max()) ** 2, 1e-12 * float(np.var(observed)))  # this variance or less is rounding
    variance = np.where(observed_variance > constant, observed_variance, np.nan)
    rmse, quartiles = np.sqrt(mse), np.quantile(observed, [0.25, 0.75])
    return {
        "rmse": rmse,
        "mae": mae,
        "me": me,
        "r2": 1 - mse / variance,
        "ccc": 2 * covariance / (variance + predicted_variance + me * me),
        "rpiq": (float(np.ptp(quartiles)) or np.nan) / np.where(rmse > 0, rmse, np.nan),
    }


def scores(observed: np.ndarray, predicted: np.ndarray) -> dict[str, float | int | None]:
    """Return RMSE, MAE, mean error, R2 (model efficiency), Lin's CCC and RPIQ of predictions.

    Parameters
    ----------
    observed, predicted
        (n,) in the target's unit. For scores on the log scale give both as ln(1 + value).

    Returns
    -------
    dict
        n; rmse, mae and me (mean of predicted - observed) in the target's unit; r2, the model efficiency
        1 - SSE/SST (not a squared correlation: a biased model loses); ccc, Lin's concordance with population
        moments (Lin 1989, Biometrics 45, 255-268); rpiq, the interquartile range of the observations divided by
        the RMSE (Bellon-Maurel et al. 2010, Trends Anal. Chem. 29, 1073-1081), which sets the error against a spread
        that a few peats do not stretch. A score that is undefined (no profiles; for r2 and ccc, observations that
        do not vary; for rpiq, quartiles that are one value, or no error at all) is None.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.

    Examples
    --------
    >>> found = scores(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 6]))
    >>> found["n"], found["mae"], found["me"], round(found["ccc"], 3)
    (4, 1.0, 0.5, 0.667)
    """
    observed, predicted = checked_vectors(observed=observed, predicted=predicted)
    n = len(observed)
    if n == 0:
        return {"n": 0, **dict.fromkeys(SCORES)}
    values = _scores_of(_moments(observed, predicted).mean(axis=0), observed)
    return {"n": n, **{name: _plain(value) for name, value in values.items()}}


def _plain(value: np.ndarray | float) -> float | None:
    return float(value) if np.isfinite(value) else None


# --- intervals of scores -----------------------------------------------------------------------------------------


def bootstrap_means(columns: np.ndarray, groups: np.ndarray | None, seed: int | Sequence[int], draws: int) -> np.ndarray:
    """Return block-bootstrap means of columns (n, C): groups are drawn with replacement, each whole; (draws, C).

    Profiles of one block have similar errors; drawn singly, as if independent, they would give too narrow an interval. Which
    groups a draw has depends on the seed and the groups alone, so that two methods on the same profiles can be compared draw by
    draw. Groups are (n,), see `groups.spatial_groups`; None: each profile is its own.

    >>> means = bootstrap_means(np.array([[1.0], [1.0], [4.0], [4.0]]), np.array([0, 0, 1, 1]), seed=0, draws=1000)
    >>> sorted(set(means.ravel().tolist()))
    [1.0, 2.5, 4.0]
    """
    n = len(columns)
    member = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    if member.shape != (n,):
        raise ValueError(f"groups {member.shape} must be one for each of {n} profiles")
    blocks = int(member.max()) + 1
    sums = np.stack([np.bincount(member, column, blocks) for column in (*columns.T, np.ones(n))], axis=1)
    random = np.random.default_rng(seed)
    chunk, means = max(1, 2_000_000 // blocks), [np.empty((0, columns.shape[1]))]
    for begin in range(0, draws, chunk):
        count = min(chunk, draws - begin)
        chosen = random.integers(blocks, size=(count, blocks)) + blocks * np.arange(count)[:, None]
        totals = np.bincount(chosen.ravel(), minlength=count * blocks).reshape(count, blocks) @ sums
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)


def _drawn_scores(
    observed: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None, seed: int | Sequence[int], draws: int
) -> dict[str, np.ndarray]:
    """Return each of `SCORES` of all profiles and then of each draw, (1 + draws,); NaN where undefined."""
    if len(observed) == 0:
        return {name: np.full(1 + draws, np.nan) for name in SCORES}
    moments = _moments(observed, predicted)
    means = np.concatenate([moments.mean(axis=0)[None], bootstrap_means(moments, groups, seed, draws)])
    return _scores_of(means, observed)


def _with_interval(values: np.ndarray, level: float) -> dict[str, float | None]:
    """Return the first value and the percentile interval of the others; draws in which it is undefined are left out."""
    value, drawn = _plain(values[0]), values[1:][np.isfinite(values[1:])]
    if value is None or drawn.size == 0:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return {"value": value, "low": low, "high": high}


def bootstrap_scores(
    observed: np.ndarray, predicted: np.ndarray, seed: int, draws: int = 1000, level: float = 0.95, groups: np.ndarray | None = None
) -> dict[str, int | dict[str, float | None]]:
    """Return `scores` with bootstrap percentile intervals.

    Whole groups are drawn with replacement, see `bootstrap_means`. For rpiq only the RMSE is resampled: the interquartile range
    stays that of all profiles, so its interval is that of the error, not of the spread of the soil.

    Parameters
    ----------
    observed, predicted
        (n,) in the target's unit.
    seed, draws
        Of the resamples, and how many.
    level
        Of the interval: 0.95 leaves 2.5 % of the draws on each side.
    groups
        (n,) the group each profile belongs to, see `groups.spatial_groups`; default: each is its own.

    Returns
    -------
    dict
        n, and score -> {"value", "low", "high"}; None where undefined, as in `scores`.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.

    Examples
    --------
    >>> observed = np.arange(50.0)
    >>> found = bootstrap_scores(observed, observed + np.tile([1.0, 3.0], 25), seed=0)
    >>> found["mae"]["value"], found["mae"]["low"] < 2 < found["mae"]["high"]
    (2.0, True)
    """
    observed, predicted = checked_vectors(observed=observed, predicted=predicted)
    drawn = _drawn_scores(observed, predicted, groups, seed, draws)
    return {"n": len(observed), **{name: _with_interval(values, level) for name, values in drawn.items()}}


# --- two methods on the same profiles ----------------------------------------------------------------------------


def paired_differences(
    observed: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return the paired difference of two methods' scores on the same profiles, with bootstrap percentile intervals.

    Both are scored on the same draws of whole groups. What makes a draw hard for both, such as one more peat, cancels in the
    difference, so that two methods whose own intervals overlap may still differ clearly.

    Parameters
    ----------
    observed, ours, theirs
        (n,) in the target's unit: observations, and two predictions of them.
    seed, draws, level, groups
        As in `bootstrap_scores`.

    Returns
    -------
    dict
        mae and rmse -> change in percent, 100 (ours / theirs - 1): negative, ours has smaller errors; ccc and r2 -> ours - theirs:
        positive, ours agrees better. Each {"value", "low", "high"}; None where undefined (so is a change
        against no error).

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.

    Examples
    --------
    >>> observed = np.arange(6.0)
    >>> paired_differences(observed, observed + 1, observed + 2, seed=0)["mae"]
    {'value': -50.0, 'low': -50.0, 'high': -50.0}
    """
    return mean_paired_differences([(observed, ours, theirs, groups)], seed, draws, level)


def mean_paired_differences(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]], seed: int, draws: int = 1000, level: float = 0.95
) -> dict[str, dict[str, float | None]]:
    """Return `paired_differences` averaged over regions, each with the same weight whatever its number of profiles.

    Groups are drawn within each region, independently of the others, and the regions' changes averaged per draw. So the
    interval is that of the mean over these regions, not of what to expect in another region. `parts` are observed, ours, theirs and
    groups of each region; a change is None where a region's is undefined.

    >>> y = np.arange(6.0)
    >>> regions = [(y, y + 1, y + 2, None), (y, y + 2, y + 2, None)]
    >>> mean_paired_differences(regions, seed=0)["mae"]["value"]
    -25.0
    """
    if not parts:
        raise ValueError("no regions: there is nothing to compare")
    changes: dict[str, list[np.ndarray]] = {"mae": [], "rmse": [], "ccc": [], "r2": []}
    for k, (observed, ours, theirs, groups) in enumerate(parts):
        observed, ours, theirs = checked_vectors(observed=observed, ours=ours, theirs=theirs)
        mine, other = (_drawn_scores(observed, predicted, groups, [seed, k], draws) for predicted in (ours, theirs))
        for name, change in changes.items():
            if name in ("mae", "rmse"):
                change.append(100 * (mine[name] / np.where(other[name] > 0, other[name], np.nan) - 1))
            else:
                change.append(mine[name] - other[name])
    return {name: _with_interval(np.mean(change, axis=0), level) for name, change in changes.items()}


def better(name: str, a: float | None, b: float | None) -> bool:
    """Return whether score a is better than score b; an undefined score (None) is worse than any other.

    >>> better("rmse", 1.0, 2.0), better("ccc", 0.5, None)
    (True, True)
    """
    if a is None or b is None:
        return a is not None
    return a > b if HIGHER_IS_BETTER[name] else a < b


# --- intervals of predictions ---


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
    y: np.ndarray, lower: np.ndarray, upper: np.ndarray, groups: np.ndarray | None = None, seed: int = 0, draws: int = 1000
) -> dict[str, float | int | None]:
    """Return the coverage of prediction intervals (PICP), ends included, with a 95 % interval of it.

    Without groups the exact binomial one (Clopper and Pearson 1934). With groups (n,) that of a bootstrap of whole groups,
    for profiles of one block are missed together; it has no width where no or every profile is covered.

    Parameters
    ----------
    y, lower, upper
        (n,) observations and the ends of their intervals, which may be infinite.
    groups, seed, draws
        As in `bootstrap_scores`.

    Returns
    -------
    dict
        n, value, low, high; the latter three None if n is 0.

    Raises
    ------
    ValueError
        If lengths differ, a value is NaN, or an interval's lower end is above its upper one.

    Examples
    --------
    >>> found = coverage(np.array([1.0, 2, 3, 9]), np.zeros(4), np.full(4, 5.0))
    >>> found["value"], round(found["low"], 2), round(found["high"], 2)
    (0.75, 0.19, 0.99)
    """
    y, lower, upper = _checked(y, lower, upper)
    n = len(y)
    if n == 0:
        return {"n": 0, "value": None, "low": None, "high": None}
    hit = (lower <= y) & (y <= upper)
    if groups is None:
        from scipy.stats import binomtest  # here: SciPy is slow to import, and the first optimiser step needs none of it

        ends = binomtest(int(hit.sum()), n).proportion_ci(0.95)
        return {"n": n, "value": float(hit.mean()), "low": float(ends.low), "high": float(ends.high)}
    drawn = bootstrap_means(hit[:, None].astype(np.float64), groups, seed, draws)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"n": n, "value": float(hit.mean()), "low": low, "high": high}


def interval_score(y: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: float) -> np.ndarray:
    """Return the interval score of each profile (n,), in the target's unit; the lower the better.

    Width + 2 / (1 - level) times the distance of an observation outside: only the true quantiles minimise its mean, so it rewards
    narrow intervals that cover (Winkler 1972; Gneiting and Raftery 2007, J. Am. Stat. Assoc. 102, 359-378, eq. 43).

    Raises
    ------
    ValueError
        As `coverage`, or if the level is not between 0 and 1.

    Examples
    --------
    >>> interval_score(np.array([1.0, 6.0]), np.zeros(2), np.full(2, 5.0), level=0.9).round(6).tolist()
    [5.0, 25.0]
    """
    y, lower, upper = _checked(y, lower, upper)
    check_level(level)
    return (upper - lower) + 2 / (1 - level) * (np.maximum(lower - y, 0) + np.maximum(y - upper, 0))


def picp_table(
    y: np.ndarray, intervals: Mapping[float, tuple[np.ndarray, np.ndarray]], groups: np.ndarray | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the prediction-interval coverage probability (PICP), mean width and interval score of intervals of several levels.

    Parameters
    ----------
    y
        (n,) observations.
    intervals
        Level -> lower, upper (n,) of any method, so that methods are compared by one measure.
    groups
        (n,) spatial groups for the interval of the coverage, see `coverage`.
    seed
        Of the bootstrap.

    Returns
    -------
    list of dict
        level, n, coverage, low, high, mean_width, interval_score (mean).

    Examples
    --------
    >>> y = np.array([1.0, 2.0, 3.0, 9.0])
    >>> row = picp_table(y, {0.9: (np.zeros(4), np.full(4, 5.0))})[0]
    >>> row["coverage"], row["mean_width"], round(row["interval_score"], 6)
    (0.75, 5.0, 25.0)
    """
    rows = []
    for level, (lower, upper) in intervals.items():
        found = coverage(y, lower, upper, groups, seed)
        facts = {"level": level, "n": found["n"], "coverage": found["value"], "low": found["low"], "high": found["high"]}
        score = float(interval_score(y, lower, upper, level).mean())
        rows.append(facts | {"mean_width": float(np.subtract(upper, lower, dtype=np.float64).mean()), "interval_score": score})
    return rows


def worse_than_mean(ours: Mapping[str, Any], of_mean: Mapping[str, Any], unit: str) -> str:
    """Return a sentence if a model is no better than the mean of its training profiles, else "".

    Both have rmse and mae at the same profiles, in the unit given; None where undefined.

    >>> worse_than_mean({"rmse": 12.9, "mae": 10.7}, {"rmse": 11.0, "mae": 9.2}, "g/kg")
    'no better than the mean of the training profiles: RMSE 12.9 against 11, MAE 10.7 against 9.2 g/kg'
    >>> worse_than_mean({"rmse": 8.0, "mae": 6.0}, {"rmse": 11.0, "mae": 9.2}, "g/kg")
    ''
    """
    pairs = {name: (ours.get(name), of_mean.get(name)) for name in ("rmse", "mae")}
    mine, theirs = pairs["rmse"]
    if mine is None or theirs is None or mine < theirs:
        return ""
    shown = [f"{name.upper()} {a:.4g} against {b:.4g}" for name, (a, b) in pairs.items() if a is not None and b is not None]
    return f"no better than the mean of the training profiles: {', '.join(shown)} {unit}".rstrip()


def scores_of_constant(observed: np.ndarray, value: float) -> dict[str, float | None]:
    """Return rmse and mae, at observations (n,), of one value predicted everywhere.

    >>> scores_of_constant(np.array([1.0, 3.0]), 2.0)
    {'rmse': 1.0, 'mae': 1.0}
    """
    error = np.abs(np.asarray(observed, np.float64) - value)
    return {"rmse": float(np.sqrt((error**2).mean())), "mae": float(error.mean())}
