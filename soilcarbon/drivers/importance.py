"""How much a fitted learner's answers rest on each variable and on each driver, which is a group of variables.

In: a fitted learner, rows it was not fitted on, their answers. Out: one number per player, a variable or a driver. Permutation
tells by how much held-out errors grow; impurity, by how much training errors fell; Shapley values, how far predictions are moved.
All of them tell what a learner uses. None tells what causes carbon: a variable may stand for another that is not there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from soilcarbon.drivers.learners import Fitted, Ordered
from soilcarbon.drivers.shapley import sampled_shapley, tree_shapley

METHODS = ("conditional", "permutation", "impurity", "shapley")
"""Ways to tell importance, in the order of tables."""
FOREMOST = METHODS[0]
"""What figures show and mismatches rest on: it asks of no learner what carbon is where there are no places."""
_STRATA = 12
_FEWEST = 20
"""Rows in a stratum, at least."""
_GROWN = 5000
"""Rows that strata are found by, at most."""
_ROWS = 200_000
"""Predicted at once."""
_ORDERS = 8


def strata_of(x: np.ndarray, columns: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Return a stratum for each row (N,), within which some columns depend far less on the others.

    A tree of a few leaves predicts them from the others; its leaves are the strata (conditional subgroups: Molnar et al.
    2023, Data Min. Knowl. Disc. 38, 2903-2941). Permuted within strata, a variable makes few places that do not exist, and
    less of what it shares with others is counted as its own. With more strata still less; but where variables go together
    little is left to permute, and chance has more to say.

    Parameters
    ----------
    x
        (N, V) without gaps.
    columns
        Of the player, ints.
    classes
        (V,) bool: class codes.
    seed
        Of ties.
    """
    others = np.setdiff1d(np.arange(x.shape[1]), columns)
    if others.size == 0:
        return np.zeros(len(x), np.int64)
    wanted = []
    for column in columns:
        values = x[:, column].astype(np.float64)
        if classes[column]:
            wanted += [(values == code).astype(float) for code in np.unique(values)]
        else:
            wanted.append((values - values.mean()) / (values.std() or 1.0))
    some = np.random.default_rng(seed).permutation(len(x))[:_GROWN]
    leaf = max(_FEWEST, len(some) // (4 * _STRATA))
    tree = DecisionTreeRegressor(max_leaf_nodes=_STRATA, min_samples_leaf=leaf, random_state=seed)
    return np.asarray(tree.fit(x[some][:, others], np.stack(wanted, axis=1)[some]).apply(x[:, others]), np.int64)


def _permuted(n: int, strata: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """Return for each of n rows another one of its stratum (n,), each of them once: a random cycle, so that none is its own.

    Were rows let stay where they are, small strata would make a player seem to matter less. A row alone in its stratum stays.
    """
    strata = np.zeros(n, np.int64) if strata is None else strata
    order = np.lexsort((random.random(n), strata))
    last = np.append(strata[order][1:] != strata[order][:-1], True)
    following = np.roll(order, -1)
    following[last] = order[np.roll(last, 1)]  # the first of its stratum
    found = np.empty(n, np.int64)
    found[order] = following
    return found


def permutation(
    model: Fitted,
    x: np.ndarray,
    z: np.ndarray,
    players: Sequence[np.ndarray],
    strata: np.ndarray | None,
    seed: Sequence[int],
    draws: int = 1,
) -> np.ndarray:
    """Return by how much the mean squared error of answers grows when each player's columns are permuted together, (P,).

    Where a driver's effect on ln carbon adds to the others', that is twice the variance of its effect: 0 where a player is not
    used. What a model makes of one driver does not change what it is of another, as it would change shares. It may fall below
    0 by chance.

    Parameters
    ----------
    model, x, z
        Fitted; (n, V) and (n,) held out.
    players
        The columns of each.
    strata
        (P, n), within which each player is permuted; None: freely.
    seed
        Of the permutations; the same for all targets, so that differences between them are not chance.
    draws
        Permutations of each player, to take the mean of.
    """
    n, found = len(x), np.empty((len(players), draws))
    error = float(np.mean((z - model.predict(x)) ** 2))
    at_once = max(1, _ROWS // n)
    every = list(np.ndindex(found.shape))
    for begin in range(0, len(every), at_once):
        some = every[begin : begin + at_once]
        copies = np.repeat(x[None], len(some), axis=0)
        for copy, (player, draw) in zip(copies, some, strict=True):
            random = np.random.default_rng([*seed, player, draw])
            other = _permuted(n, None if strata is None else strata[player], random)
            copy[:, players[player]] = x[other][:, players[player]]
        predicted = model.predict(copies.reshape(-1, x.shape[1])).reshape(len(some), n)
        found[tuple(np.transpose(some))] = ((predicted - z) ** 2).mean(1) - error
    return found.mean(1)


def impurity(model: Any, variables: int) -> np.ndarray:
    """Return each variable's share in the fall of training error at splits, (V,); NaN of a learner without splits.

    It favours variables of many values, and is given beside the others because it is often published.
    """
    if isinstance(model, Ordered):
        model = model.trees
    if hasattr(model, "feature_importances_"):
        return np.asarray(model.feature_importances_, np.float64)
    if not hasattr(model, "_predictors"):
        return np.full(variables, np.nan)
    found = np.zeros(variables)
    for (tree,) in model._predictors:
        inner = tree.nodes[~tree.nodes["is_leaf"].astype(bool)]
        found += np.bincount(inner["feature_idx"], inner["gain"], variables)
    return np.asarray(found / (found.sum() or 1.0))


def shapley(model: Any, x: np.ndarray, background: np.ndarray, players: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return Shapley values (n, P): exact of trees, sampled of the network. Their mean size is an importance."""
    if isinstance(model, Ordered):
        return shapley(model.trees, model.seen(x), model.seen(background), players, seed)
    if hasattr(model, "estimators_") or hasattr(model, "_predictors"):
        return tree_shapley(model, x, background, players)
    return sampled_shapley(model, x, background, players, _ORDERS, seed)


def shares(values: np.ndarray) -> np.ndarray:
    """Return importances (..., P) as shares of their sum, in %; below 0 counts as 0 in the sum alone."""
    total = np.maximum(values, 0).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * values / np.where(total > 0, total, np.nan))
