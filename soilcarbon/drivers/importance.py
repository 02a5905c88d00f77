"""Importance of variables and of drivers (groups of variables) in a fitted learner: permutation, impurity, Shapley values.

In: a fitted learner and held-out rows with their targets. Out: one number per group of columns. Permutation measures how much
held-out errors grow; impurity, how much training errors fell; Shapley values, how much predictions change. All describe what a
learner uses. None describes causes of carbon: a variable may be a proxy of another that is not among the covariates.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import beta
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeRegressor

from soilcarbon.drivers.learners import Fitted
from soilcarbon.io.files import UserError

METHODS = ("conditional", "permutation", "impurity", "shapley")
"""Importance methods, in the order of tables; figures and mismatches are based on the first."""
MAIN_METHOD = METHODS[0]
_STRATA = 12
_STRATUM_ROWS = 20
"""At least."""
_TREE_ROWS = 5000
"""Rows that strata are found from, at most."""
_ROWS_AT_ONCE = 200_000
_EXACT = 8
"""Groups up to which Shapley values are computed from all coalitions."""
_ORDERS = 8
INSTALL_SHAP = "Shapley values of single variables need the package shap: pip install 'soilcarbon[drivers]'"


def strata_of(x: np.ndarray, columns: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Return conditional subgroups: a stratum (N,) for each row of x (N, V), within which columns depend far less on the others.

    A tree of at most 12 leaves predicts the columns from the others; its leaves are the strata (Molnar et al. 2023, Data Min.
    Knowl. Disc. 38, 2903-2941). Permuted within strata, a variable makes few combinations that do not occur, and less of what it
    shares with others is counted as its own. With more strata less still is, but where variables are strongly correlated little is
    left to permute, and noise grows. `classes` (V,): which columns are class codes.
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
    some = np.random.default_rng(seed).permutation(len(x))[:_TREE_ROWS]
    leaf = max(_STRATUM_ROWS, len(some) // (4 * _STRATA))
    tree = DecisionTreeRegressor(max_leaf_nodes=_STRATA, min_samples_leaf=leaf, random_state=seed)
    return np.asarray(tree.fit(x[some][:, others], np.stack(wanted, axis=1)[some]).apply(x[:, others]), np.int64)


def _derangement(n: int, strata: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    """Return a random derangement within strata, (n,): a permutation by cycles in which no row is mapped to itself.

    Were rows allowed to keep their own values, small strata would make a group seem less important. A row alone in its stratum
    stays.
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
    groups: Sequence[np.ndarray],
    strata: np.ndarray | None,
    seed: Sequence[int],
    draws: int = 1,
) -> np.ndarray:
    """Return permutation importance (G,): by how much the mean squared error grows when a group's columns are permuted together.

    Where a driver's effect on ln carbon adds to the others', this is twice the variance of its effect; 0 where a group is not used;
    it may fall below 0 by chance. Unlike a share, it does not depend on the effects of other drivers. Held-out x (n, V) and z (n,);
    strata (G, n) within which each group is permuted (conditional importance), None: among all rows. The seed is the same for all
    targets, so that differences between them do not contain the random error of the permutations, of which `draws` are averaged.
    """
    n, found = len(x), np.empty((len(groups), draws))
    error = float(np.mean((z - model.predict(x)) ** 2))
    at_once = max(1, _ROWS_AT_ONCE // n)
    every = list(np.ndindex(found.shape))
    for begin in range(0, len(every), at_once):
        some = every[begin : begin + at_once]
        copies = np.repeat(x[None], len(some), axis=0)
        for copy, (group, draw) in zip(copies, some, strict=True):
            random = np.random.default_rng([*seed, group, draw])
            other = _derangement(n, None if strata is None else strata[group], random)
            copy[:, groups[group]] = x[other][:, groups[group]]
        predicted = model.predict(copies.reshape(-1, x.shape[1])).reshape(len(some), n)
        found[tuple(np.transpose(some))] = ((predicted - z) ** 2).mean(1) - error
    return found.mean(1)


def impurity(model: Any, variables: int) -> np.ndarray:
    """Return impurity importance (V,): each variable's share of the fall of training error at splits; NaN without trees.

    It favours variables of many values, and is given beside the others because it is often published.
    """
    model = model[-1] if isinstance(model, Pipeline) else model
    if hasattr(model, "feature_importances_"):
        return np.asarray(model.feature_importances_, np.float64)
    if not hasattr(model, "_predictors"):
        return np.full(variables, np.nan)
    found = np.zeros(variables)
    for (tree,) in model._predictors:
        inner = tree.nodes[~tree.nodes["is_leaf"].astype(bool)]
        found += np.bincount(inner["feature_idx"], inner["gain"], variables)
    return np.asarray(found / (found.sum() or 1.0))


def has_shap() -> bool:
    """Return whether the optional package shap is installed."""
    return importlib.util.find_spec("shap") is not None


def variable_shapley(model: Any, x: np.ndarray, background: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return interventional Shapley values (n, V) of single variables: exact for trees (`shap.TreeExplainer`), sampled otherwise.

    x (n, V) are the rows to explain, background (m, V) those that variables outside a coalition are taken from; the sum over V is
    the prediction less the mean prediction of the background. UserError if the model is made of trees and shap is not installed.
    """
    if isinstance(model, Pipeline):
        return variable_shapley(model[-1], model[:-1].transform(x), model[:-1].transform(background), seed)
    if not (hasattr(model, "estimators_") or hasattr(model, "_predictors")):
        return _sampled_shapley(model, x, background, np.arange(x.shape[1]), seed)
    try:
        with warnings.catch_warnings():  # of its plots
            warnings.simplefilter("ignore")
            import shap
    except ImportError as error:
        raise UserError(INSTALL_SHAP) from error
    explainer = shap.TreeExplainer(model, background, feature_perturbation="interventional")
    return np.asarray(explainer.shap_values(x, check_additivity=False))


def group_shapley(model: Fitted, x: np.ndarray, background: np.ndarray, member: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return interventional Shapley values (n, G) of groups of variables, each of which enters whole (Lundberg and Lee 2017).

    What correlated variables of a group share is not divided between them. Exact for up to 8 groups, as the value of every
    coalition is computed; sampled for more. As `variable_shapley`, of any regressor; `member` (V,) is the group of each variable,
    0..G-1.
    """
    groups = int(member.max()) + 1
    if groups > _EXACT:
        return _sampled_shapley(model, x, background, member, seed)
    coalitions = (np.arange(2**groups)[:, None] >> np.arange(groups) & 1).astype(bool)
    rows = np.where(coalitions[:, member][:, None, None], x[:, None], background)  # (2^G, n, m, V)
    value = np.asarray(model.predict(rows.reshape(-1, x.shape[1])), np.float64).reshape(*rows.shape[:3]).mean(2)
    size, found = coalitions.sum(1), np.empty((len(x), groups))
    for k in range(groups):
        without = np.flatnonzero(~coalitions[:, k])
        weight = beta(size[without] + 1.0, groups - size[without])  # s! (G - s - 1)! / G!
        found[:, k] = weight @ (value[without + 2**k] - value[without])
    return found


def _sampled_shapley(
    model: Fitted, x: np.ndarray, background: np.ndarray, member: np.ndarray, seed: int | Sequence[int], orders: int = _ORDERS
) -> np.ndarray:
    """Return Shapley values (n, G) estimated from random orders of the groups (Castro et al. 2009).

    In each order a row starts as a random background row, and groups bring in its own values one after the other; each order is
    also run backwards, which cancels part of the error. shap's `PermutationExplainer` does the same, but compiles for 8 s in
    every process and, as it averages over the whole background, predicts 30 times as many rows.
    """
    random, groups, n = np.random.default_rng(seed), int(member.max()) + 1, len(x)
    found = np.zeros((n, groups))
    for _ in range(orders // 2):
        order, start = random.permutation(groups), background[random.integers(len(background), size=n)]
        for sequence in (order, order[::-1]):
            steps = np.repeat(start[None], groups + 1, axis=0)  # (G + 1, n, V)
            for k, group in enumerate(sequence.tolist()):
                steps[k + 1 :, :, member == group] = x[:, member == group]
            predicted = np.asarray(model.predict(steps.reshape(-1, x.shape[1])), np.float64).reshape(groups + 1, n)
            found[:, sequence] += np.diff(predicted, axis=0).T
    return found / (2 * (orders // 2))


def shares(values: np.ndarray) -> np.ndarray:
    """Return importances (..., G) as percentages of their sum over G, in which values below 0 count as 0."""
    total = np.maximum(values, 0).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * values / np.where(total > 0, total, np.nan))
