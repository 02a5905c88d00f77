"""Regression trees as plain arrays: written, checked, and rebuilt to predict.

scikit-learn trusts the node numbers of a tree, and a forged one makes it read memory that is not its own: so every number is
checked, and trees are rebuilt from the arrays.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

ARRAYS = {"nodes": "i", "left": "i", "right": "i", "column": "i", "missing_left": "u", "threshold": "f", "value": "f"}
"""Array -> kind. nodes: number of each tree's nodes (T,). The others are of every node of all trees, one tree after the other: its
children, counted from the tree's first node, -1 of a leaf; the column it splits; whether missing values go left; its threshold; its
prediction."""
_MAX_TREES = 100_000
"""A file of a few megabytes could name so many that the cells of a map do not fit in memory."""
MAX_VALUE = 1e30
"""Of a prediction: the sum of larger ones could overflow."""


def to_arrays(trees: Sequence[Tree]) -> dict[str, np.ndarray]:
    """Return the arrays of fitted trees (`tree_` of scikit-learn's)."""
    parts = {
        "left": np.concatenate([tree.children_left for tree in trees]).astype(np.int32),
        "right": np.concatenate([tree.children_right for tree in trees]).astype(np.int32),
        "column": np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        "missing_left": np.concatenate([tree.missing_go_to_left for tree in trees]),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "value": np.concatenate([tree.value.ravel() for tree in trees]),
    }
    return {"nodes": np.array([tree.node_count for tree in trees], np.int64)} | parts


def from_arrays(arrays: Mapping[str, np.ndarray], width: int) -> list[Tree]:
    """Return trees of so many columns, rebuilt from arrays of an untrusted file; ValueError if they do not make trees."""
    if any(arrays[name].ndim != 1 or arrays[name].dtype.kind != kind for name, kind in ARRAYS.items()):
        raise ValueError("an array of a forest is of another type or shape")
    whole = {name: arrays[name].astype(np.float64 if kind == "f" else np.int64) for name, kind in ARRAYS.items()}
    nodes = whole.pop("nodes")
    total = len(whole["left"])
    if nodes.size > _MAX_TREES:
        raise ValueError(f"{nodes.size} trees, more than {_MAX_TREES}")
    if not nodes.size or nodes.min() < 1 or nodes.max() > total or nodes.sum() != total:
        raise ValueError("its trees do not add up to its nodes")
    if any(len(each) != total for each in whole.values()):
        raise ValueError("an array of a forest is too short or too long")
    # A threshold may be infinite: it separates present from missing values.
    if not (np.abs(whole["value"]) <= MAX_VALUE).all() or np.isnan(whole["threshold"]).any():
        raise ValueError("a prediction or threshold is not a number")
    ends = np.cumsum(nodes).tolist()
    slices = [slice(end - count, end) for count, end in zip(nodes.tolist(), ends, strict=True)]
    return [_tree_of({name: each[part] for name, each in whole.items()}, width) for part in slices]


def _tree_of(part: dict[str, np.ndarray], width: int) -> Tree:
    """Return one tree. Children must stand behind their parent, as scikit-learn writes them, so that no path loops."""
    count = len(part["left"])
    own, leaf = np.arange(count), part["left"] == -1
    for side in ("left", "right"):
        if not np.where(leaf, part[side] == -1, (part[side] > own) & (part[side] < count)).all():
            raise ValueError("a node's child is not a later node of its tree")
    if not (leaf | ((part["column"] >= 0) & (part["column"] < width))).all():
        raise ValueError("a node splits a column there is not")
    tree = Tree(width, np.array([1]), 1)
    nodes = np.zeros(count, tree.__getstate__()["nodes"].dtype)
    nodes["left_child"], nodes["right_child"] = part["left"], part["right"]
    nodes["feature"], nodes["threshold"] = np.where(leaf, -2, part["column"]), part["threshold"]
    nodes["missing_go_to_left"] = part["missing_left"] != 0
    values = np.ascontiguousarray(part["value"].reshape(-1, 1, 1))
    tree.__setstate__({"max_depth": count, "node_count": count, "nodes": nodes, "values": values})
    return tree


def forest_of(trees: Sequence[Tree], width: int) -> RandomForestRegressor:
    """Return trees of so many columns as a fitted random forest that predicts in one thread."""
    forest = RandomForestRegressor(len(trees), n_jobs=1)
    forest.n_features_in_, forest.n_outputs_ = width, 1
    forest.estimators_ = []
    for each in trees:
        tree = DecisionTreeRegressor()
        tree.n_features_in_, tree.n_outputs_, tree.tree_ = width, 1, each
        forest.estimators_.append(tree)
    return forest
