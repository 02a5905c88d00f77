"""Names that the drivers still import; gone once they are rebuilt."""

from typing import Any, NamedTuple

from sklearn.ensemble import RandomForestRegressor


class Forest(NamedTuple):
    """Parameters of a random forest."""

    max_features: float
    min_samples_leaf: int
    trees: int


def new_forest(method: Forest, seed: int, **more: Any) -> RandomForestRegressor:
    """Return scikit-learn's forest with such parameters."""
    leaves = method.min_samples_leaf
    return RandomForestRegressor(
        method.trees, max_features=method.max_features, min_samples_leaf=leaves, random_state=seed, n_jobs=1, **more
    )
