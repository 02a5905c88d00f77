"""Choose covariates for a forest: drop twins, rank, and try every subset of the best.

In: profiles as arrays, and folds of them. Out: the columns chosen, and a table of all that was tried.

All of it looks at the target, so it belongs inside whatever is cross-validated: a subset that was chosen by all profiles and
then scored on some of them has seen those.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from soilcarbon.io.files import UserError
from soilcarbon.stats.groups import group_folds
from soilcarbon.stats.metrics import scores

# --- folds -----------------------------------------------------------------------------------------------------------


def stratified_folds(units: np.ndarray, strata: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Deal whole units into folds in each of which every stratum has about its share.

    Parameters
    ----------
    units
        (n,) the place or block of each profile, which is not parted (`groups.spatial_groups`).
    strata
        (n,) of each profile: its zone and decade as one label, for instance. Strata with fewer units than folds cannot be in
        all of them.
    k, seed
        Folds, or as many as there are units; same units, same seed: same folds, in whatever order the profiles stand.

    Returns
    -------
    array
        (n,) int64 0..k-1.

    Raises
    ------
    UserError
        If there are fewer than two units.
    """
    distinct = np.unique(units).size
    if distinct < 2:
        raise UserError(f"{len(units)} profiles in {distinct} place or block cannot be held out in turn; take smaller blocks")
    k = min(k, distinct)
    labels, stratum = np.unique(strata, return_inverse=True)
    if len(labels) < 2 or np.bincount(stratum).max() < k:  # scikit-learn refuses the latter
        return group_folds(units, k, seed)
    folds = np.empty(len(units), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of strata too rare to be in every fold
        dealt = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(units, stratum, units)
        for fold, (_, held_out) in enumerate(dealt):
            folds[held_out] = fold
    return folds


# --- twins and ranks ---------------------------------------------------------------------------------------------------


def drop_correlated(x: np.ndarray, y: np.ndarray, limit: float = 0.95) -> list[int]:
    """Return the columns to keep, so that no two of them have |Pearson r| above the limit; constant ones go too.

    Columns are gone through from the one that agrees best with the target, by |r|, and each is kept unless it is a twin
    of one that has been: of a pair the more telling one stays. A correlation is over profiles that have both values.

    Parameters
    ----------
    x
        (n, F) covariates, missing = NaN.
    y
        (n,) target.
    limit
        0 to 1.

    Returns
    -------
    list
        Column numbers, in the order of x.

    Raises
    ------
    UserError
        If no column varies.
    """
    table = pd.DataFrame(np.asarray(x, np.float64))
    table = table.loc[:, table.nunique() > 1]
    if table.empty:
        raise UserError(f"none of {x.shape[1]} covariates varies over the {len(x)} profiles")
    r = table.corr(min_periods=3).abs().to_numpy()
    telling = table.corrwith(pd.Series(y)).abs().fillna(0).to_numpy() if np.ptp(y) > 0 else np.zeros(len(r))
    kept: list[int] = []
    for k in np.argsort(-telling, kind="stable").tolist():
        if not (r[k, kept] > limit).any():  # NaN, of too few common profiles, is no twin
            kept.append(k)
    return sorted(int(table.columns[k]) for k in kept)


def rank(x: np.ndarray, y: np.ndarray, seed: int, trees: int) -> np.ndarray:
    """Return the importance (F,) of each covariate to a forest: its share of the impurity removed, adding up to 1."""
    forest = RandomForestRegressor(trees, max_features=1 / 3, min_samples_leaf=3, random_state=seed, n_jobs=1)
    return np.asarray(forest.fit(x, y).feature_importances_)


# --- what is tried -----------------------------------------------------------------------------------------------------


def held_out_r2(x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int, settings: Mapping[str, Any]) -> float:
    """Return R2 of all profiles together, each predicted by a forest that did not see its fold; NaN if y does not vary.

    Parameters
    ----------
    x, y, folds
        (n, F), (n,), (n,).
    seed, settings
        Of each `RandomForestRegressor`.
    """
    predicted = np.empty(len(y))
    for fold in np.unique(folds):
        out = folds == fold
        predicted[out] = RandomForestRegressor(**settings, random_state=seed, n_jobs=1).fit(x[~out], y[~out]).predict(x[out])
    found = scores(y, predicted)["r2"]
    return np.nan if found is None else float(found)


def in_parallel(tasks: Iterable[Any], count: int, workers: int, words: str) -> list[Any]:
    """Return the results of joblib's delayed calls, in their order, with a progress bar; workers 0: one per core."""
    run = Parallel(workers or -1, return_as="generator", batch_size=4)
    return list(tqdm(run(tasks), words, count, leave=False, disable=None))


def search_subsets(
    x: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    columns: Sequence[int],
    seed: int,
    settings: Mapping[str, Any],
    workers: int = 1,
    words: str = "subsets",
) -> tuple[tuple[int, ...], pd.DataFrame]:
    """Try every subset of some columns: 2^b - 1 of b, 1023 of ten.

    Parameters
    ----------
    x, y, folds
        (n, F), (n,), (n,) of the profiles to learn from, and of no others.
    columns
        b of the columns of x.
    seed, settings
        As of `held_out_r2`; the same for all subsets.
    workers, words
        As of `in_parallel`.

    Returns
    -------
    best
        The columns of the highest R2; of equal ones the fewest, then the first.
    trace
        A row per subset: columns (text, "0 3 7"), count, r2. The highest of so many is flattered by chance, so the R2
        of the best is no score: that is for profiles which had no part in this.

    Raises
    ------
    UserError
        If there is no column, or the target does not vary.
    """
    if not columns or np.ptp(y) == 0:
        raise UserError(
            f"{len(columns)} covariates and {np.unique(y).size} values of the target at {len(y)} profiles: nothing to choose"
        )
    subsets = [each for size in range(1, len(columns) + 1) for each in combinations(columns, size)]
    tasks = (delayed(held_out_r2)(x[:, list(each)], y, folds, seed, settings) for each in subsets)
    r2 = np.array(in_parallel(tasks, len(subsets), workers, words))
    trace = pd.DataFrame({"columns": [" ".join(map(str, each)) for each in subsets], "count": list(map(len, subsets)), "r2": r2})
    return subsets[int(np.argmax(r2))], trace  # the first of equals, and they stand by size
