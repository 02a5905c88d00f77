"""Feature selection for random forests: correlated covariates dropped, the rest ranked, every subset of the best tried.

In: profiles as arrays, and folds of them. Out: the columns chosen, and a table of all candidates.

All of this uses the target, so it belongs inside whatever is cross-validated: a subset chosen with all profiles and then scored
on some of them has seen those.
"""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, cross_val_predict

from soilcarbon.io.files import UserError
from soilcarbon.parallel import map_in_order
from soilcarbon.stats.groups import group_folds
from soilcarbon.stats.metrics import scores


def stratified_folds(groups: np.ndarray, strata: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return folds (n,) of whole groups, 0 to k - 1, in which every stratum has about its share (`StratifiedGroupKFold`).

    A stratum of fewer groups than folds cannot be in all of them; k is at most the number of groups. The folds do not depend on the
    order of the profiles. UserError if there are fewer than two groups.
    """
    distinct = np.unique(groups).size
    if distinct < 2:
        raise UserError(f"{len(groups)} profiles in {distinct} place or block cannot be cross-validated; use smaller blocks")
    k = min(k, distinct)
    labels, stratum = np.unique(strata, return_inverse=True)
    if len(labels) < 2 or np.bincount(stratum).max() < k:  # scikit-learn refuses the latter
        return group_folds(groups, k, seed)
    folds = np.empty(len(groups), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of strata too rare to be in every fold
        for fold, (_, test) in enumerate(StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(groups, stratum, groups)):
            folds[test] = fold
    return folds


def drop_correlated(x: np.ndarray, y: np.ndarray, limit: float = 0.95) -> list[int]:
    """Return the columns to keep of x (n, F) so that no two have |Pearson r| above the limit; constant ones are dropped too.

    Columns are taken in order of their |r| with the target, so that of a correlated pair the better predictor stays. Correlations
    are over the profiles that have both values. UserError if no column varies.
    """
    table = pd.DataFrame(np.asarray(x, np.float64))
    table = table.loc[:, table.nunique() > 1]
    if table.empty:
        raise UserError(f"none of {x.shape[1]} covariates varies over the {len(x)} profiles")
    r = table.corr(min_periods=3).abs().to_numpy()
    with_target = table.corrwith(pd.Series(y)).abs().fillna(0).to_numpy() if np.ptp(y) > 0 else np.zeros(len(r))
    kept: list[int] = []
    for k in np.argsort(-with_target, kind="stable").tolist():
        if not (r[k, kept] > limit).any():  # False for NaN, of too few common profiles
            kept.append(k)
    return sorted(int(table.columns[k]) for k in kept)


def rank(x: np.ndarray, y: np.ndarray, seed: int, trees: int) -> np.ndarray:
    """Return the impurity importance of each covariate in a random forest, (F,), adding up to 1."""
    forest = RandomForestRegressor(trees, max_features=1 / 3, min_samples_leaf=3, random_state=seed, n_jobs=1)
    return np.asarray(forest.fit(x, y).feature_importances_)


def cross_validated_r2(x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int, parameters: Mapping[str, Any]) -> float:
    """Return R2 of the cross-validated predictions of a random forest, all folds pooled; NaN if y does not vary.

    Pooled, not averaged over folds as scikit-learn's searches do: folds of whole blocks differ in size and variance, and a small
    one of little variance would decide the average.
    """
    forest = RandomForestRegressor(**parameters, random_state=seed, n_jobs=1)
    found = scores(y, cross_val_predict(forest, x, y, cv=PredefinedSplit(folds)))["r2"]
    return np.nan if found is None else float(found)


def _subset_r2(x: np.ndarray, columns: Sequence[int], *more: Any) -> float:
    return cross_validated_r2(x[:, list(columns)], *more)


def search_subsets(
    x: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    seed: int,
    parameters: Mapping[str, Any],
    pool: Executor | None,
    label: str = "",
) -> tuple[tuple[int, ...], pd.DataFrame]:
    """Cross-validate every subset of the columns of x (n, F): 2^F - 1 of F, 1023 of ten; the same seed and parameters for all.

    Returns the columns of the highest R2 (of equal ones the fewest, then the first), and a row per subset: columns (tuple), count,
    r2. The highest of so many is optimistic, so it is no score of the model. UserError if the target does not vary.
    """
    if not x.shape[1] or np.ptp(y) == 0:
        raise UserError(
            f"{x.shape[1]} covariates and {np.unique(y).size} values of the target at {len(y)} profiles: nothing to choose"
        )
    subsets = [each for size in range(1, x.shape[1] + 1) for each in combinations(range(x.shape[1]), size)]
    r2 = map_in_order(pool, _subset_r2, [(x, each, y, folds, seed, parameters) for each in subsets], label)
    trace = pd.DataFrame({"columns": subsets, "count": list(map(len, subsets)), "r2": r2})
    return subsets[int(np.argmax(r2))], trace  # the first of equals, and they are sorted by size
