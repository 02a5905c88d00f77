"""Shapley values: how far each player moves a prediction from what it is elsewhere (Lundberg and Lee 2017).

In: a fitted learner, places (n, V) to explain, a background (m, V), and the player that each variable belongs to. Out: values
(n, P), whose sum over players is the prediction less the mean prediction of the background. A player is a variable, or a
driver: a group of variables that enters whole, so that what correlated variables share is not divided between them.

The value function is interventional: variables outside a coalition come from the background. For trees the values are
exact. For anything else players are brought in one by one in random orders.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import beta

Nodes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of a tree: variable (below 0: a leaf), threshold (at or below: left), left and right child, value."""


def trees_of(model: Any) -> Iterator[Nodes]:
    """Yield the nodes of each tree, values so scaled that a model is a sum of trees, but for a constant."""
    if hasattr(model, "estimators_"):
        for each in model.estimators_:
            tree = each.tree_
            value = tree.value[:, 0, 0] / len(model.estimators_)
            yield tree.feature, tree.threshold, tree.children_left, tree.children_right, value
    else:
        for (each,) in model._predictors:
            nodes = each.nodes
            variable = np.where(nodes["is_leaf"].astype(bool), -1, nodes["feature_idx"].astype(np.int64))
            left, right = (nodes[name].astype(np.int64) for name in ("left", "right"))
            yield variable, nodes["num_threshold"], left, right, nodes["value"]


def tree_shapley(model: Any, x: np.ndarray, background: np.ndarray, players: np.ndarray) -> np.ndarray:
    """Return exact Shapley values (n, P) of scikit-learn's forest or histogram boosting, of numeric variables without gaps.

    For one place and one background row, a leaf is reached by just those coalitions that hold all players whose conditions
    only the place meets (p of them) and none of those whose conditions only the background meets (q). So of the leaf's value v,
    each of the former is due v (p-1)! q! / (p+q)!, each of the latter -v p! (q-1)! / (p+q)!; if some player's conditions are
    met by neither, nobody is due anything. Sums over leaves and background rows are exact.

    All pairs of place and background row walk down a tree side by side. Where the two part, the pair becomes two: in one the
    player is with the place from there on, in the other with the background.

    Parameters
    ----------
    model
        Fitted.
    x, background
        (n, V) and (m, V) float32.
    players
        (V,) int, 0..P-1: whom each variable belongs to.
    """
    n, m, count = len(x), len(background), int(players.max()) + 1
    x, background = x.astype(np.float64), background.astype(np.float64)
    found = np.zeros(n * count)
    for variable, threshold, left, right, value in trees_of(model):
        place, other = (each.ravel() for each in np.indices((n, m)))
        node, side = np.zeros(n * m, np.int64), np.zeros((n * m, count), np.int8)  # side 1: with the place, -1: the background
        while node.size:
            leaf = variable[node] < 0
            found += _due(value[node[leaf]], side[leaf], place[leaf], n)
            node, side, place, other = node[~leaf], side[~leaf], place[~leaf], other[~leaf]
            column = variable[node]
            player, at = players[column], np.arange(len(node))
            own, others = (rows[which, column] <= threshold[node] for rows, which in ((x, place), (background, other)))
            so_far = side[at, player]
            parted = (so_far == 0) & (own != others)
            first = np.where(np.where(so_far < 0, others, own), left[node], right[node])
            second = np.where(others, left[node], right[node])[parted]
            behind = side[parted]
            side[at[parted], player[parted]] = 1
            behind[np.arange(len(behind)), player[parted]] = -1
            node, side = np.concatenate([first, second]), np.concatenate([side, behind])
            place, other = (np.concatenate([each, each[parted]]) for each in (place, other))
    return found.reshape(n, count) / m


def _due(value: np.ndarray, side: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """Return what leaves (L,) are worth to each place and player (n P,), from each player's side (L, P) of them."""
    row, player = np.nonzero(side)
    with_place = side[row, player] > 0
    p, q = ((side == which).sum(1)[row] for which in (1, -1))
    share = np.where(with_place, beta(p, q + 1.0), -beta(p + 1.0, q))  # beta(a, b) = (a-1)! (b-1)! / (a+b-1)!
    return np.bincount(place[row] * side.shape[1] + player, share * value[row], n * side.shape[1])


def sampled_shapley(
    model: Any, x: np.ndarray, background: np.ndarray, players: np.ndarray, orders: int, seed: int | Sequence[int]
) -> np.ndarray:
    """Return Shapley values (n, P) of any model, estimated from random orders of players (Castro et al. 2009).

    In each order a place starts as a background row drawn at random, and players bring in the place's own values one after
    the other; each order is also run backwards, which cancels part of the error. The sum over players is exact for the
    background rows drawn.

    Parameters
    ----------
    model, x, background, players
        As in `tree_shapley`; gaps do no harm.
    orders
        Even: half of them are the other half reversed.
    seed
        Of orders and background rows.
    """
    random, count, n = np.random.default_rng(seed), int(players.max()) + 1, len(x)
    found = np.zeros((n, count))
    for _ in range(orders // 2):
        order, start = random.permutation(count), background[random.integers(len(background), size=n)]
        for way in (order, order[::-1]):
            steps = np.repeat(start[None], count + 1, axis=0)  # (P + 1, n, V)
            for k, player in enumerate(way.tolist()):
                own = players == player
                steps[k + 1 :, :, own] = x[:, own]
            predicted = np.asarray(model.predict(steps.reshape(-1, x.shape[1])), np.float64).reshape(count + 1, n)
            found[:, way] += np.diff(predicted, axis=0).T
    return found / (2 * (orders // 2))
