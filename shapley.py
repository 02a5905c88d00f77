"""Shapley values: how far each player moves a prediction from what it is elsewhere (Lundberg and Lee 2017).

In: a fitted learner, places (n, V) to explain, a background (m, V), and the player that each variable belongs to. Out: values
(n, P), whose sum over players is the prediction less the mean prediction of the background. A player is a variable, or a
driver: a group of variables that enters whole, so that what correlated variables share is not divided between them.

The value function is interventional: variables outside a coalition come from the background. For trees the values are
exact; they are summed leaf by leaf. For anything else players are brought in one by one in random orders.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Split = tuple[int, float, int, int]
"""Variable, threshold (at or below: left), left and right child."""

_FACTORIAL = np.array([float(math.factorial(k)) for k in range(64)])


def trees_of(model: Any) -> Iterator[tuple[list[Split], np.ndarray]]:
    """Yield the splits (variable -1: a leaf) and the values of nodes of each tree, so scaled that a model is a sum of trees."""
    if hasattr(model, "estimators_"):
        for each in model.estimators_:
            tree = each.tree_
            columns = (tree.feature, tree.threshold, tree.children_left, tree.children_right)
            splits = list(zip(*(column.tolist() for column in columns), strict=True))
            yield [(max(f, -1), t, a, b) for f, t, a, b in splits], tree.value[:, 0, 0] / len(model.estimators_)
    else:
        for (each,) in model._predictors:
            nodes = each.nodes
            names = ("feature_idx", "num_threshold", "left", "right")
            splits = list(zip(*(nodes[name].tolist() for name in names), strict=True))
            leaf = nodes["is_leaf"].astype(bool)
            yield [(-1 if is_leaf else f, t, a, b) for (f, t, a, b), is_leaf in zip(splits, leaf, strict=True)], nodes["value"]


def tree_shapley(model: Any, x: np.ndarray, background: np.ndarray, players: np.ndarray) -> np.ndarray:
    """Return exact Shapley values (n, P) of scikit-learn's forest or histogram boosting, of numeric variables without gaps.

    For one place and one background row, a leaf is reached by just those coalitions that hold all players whose conditions
    only the place meets (p of them) and none of those whose conditions only the background meets (q). So of the leaf's value v,
    each of the former is due v (p-1)! q! / (p+q)!, each of the latter -v p! (q-1)! / (p+q)!; if some player's conditions are
    met by neither, nobody is due anything. Sums over leaves and background rows are exact.

    Parameters
    ----------
    model
        Fitted.
    x, background
        (n, V) and (m, V) float32.
    players
        (V,) int, 0..P-1: whom each variable belongs to.
    """
    n, both = len(x), np.concatenate([x, background]).astype(np.float64)
    found = np.zeros((n, int(players.max()) + 1))
    everyone = np.ones(len(both), bool)
    for splits, values in trees_of(model):
        stack: list[tuple[int, dict[int, np.ndarray]]] = [(0, {})]
        while stack:
            node, met = stack.pop()
            variable, threshold, left, right = splits[node]
            if variable < 0:
                _share_leaf(found, met, float(values[node]), n)
                continue
            player, below = int(players[variable]), both[:, variable] <= threshold
            so_far = met.get(player, everyone)
            stack.append((left, met | {player: so_far & below}))
            stack.append((right, met | {player: so_far & ~below}))
    return found / len(background)


def _share_leaf(found: np.ndarray, met: dict[int, np.ndarray], value: float, n: int) -> None:
    """Add what a leaf is worth to the players on its path, to `found` (n, P), summed over the background."""
    if not met:
        return
    bits = [np.uint64(1) << np.uint64(k) for k in range(len(met))]
    masks = np.zeros(len(next(iter(met.values()))), np.uint64)
    for bit, each in zip(bits, met.values(), strict=True):
        masks |= np.where(each, bit, np.uint64(0))
    place, other = masks[:n], masks[n:]
    whole = np.uint64(sum(int(bit) for bit in bits))
    row, column = np.nonzero((place[:, None] | other[None, :]) == whole)
    if not len(row):
        return
    only_place, only_other = place[row] & ~other[column], other[column] & ~place[row]
    p, q = np.bitwise_count(only_place).astype(np.int64), np.bitwise_count(only_other).astype(np.int64)
    total = _FACTORIAL[p + q]
    gain = np.where(p > 0, _FACTORIAL[np.maximum(p - 1, 0)] * _FACTORIAL[q] / total, 0.0) * value
    loss = np.where(q > 0, _FACTORIAL[p] * _FACTORIAL[np.maximum(q - 1, 0)] / total, 0.0) * value
    for bit, player in zip(bits, met, strict=True):
        due = np.where(only_place & bit, gain, 0.0) - np.where(only_other & bit, loss, 0.0)
        found[:, player] += np.bincount(row, due, n)


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
