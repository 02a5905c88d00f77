"""Names that the drivers still import; gone once they are rebuilt."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.benchmark.baselines import Known, target_of


@dataclass
class Forest:
    """Random forest (Breiman 2001); a missing covariate goes to the side that serves it best, classes stay numbers.

    Attributes
    ----------
    max_features
        Share of the covariates tried at a split.
    min_samples_leaf
        Profiles in a leaf, at least.
    log
        Learn ln(1 + y) and transform back as it is, without bias correction: it then aims at the median, which serves
        MAE and costs ME.
    trees, n_jobs
        Trees, and cores that grow them.
    """

    max_features: float = 1 / 3
    min_samples_leaf: int = 1
    log: bool = False
    trees: int = 300
    n_jobs: int = 1
    _forest: RandomForestRegressor = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:
        """Grow the trees."""
        y = target_of(known)
        self._forest = new_forest(self, seed).fit(known.x, np.log1p(y) if self.log else y)
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        predicted = self._forest.predict(places.x)
        return np.expm1(predicted) if self.log else predicted


def new_forest(method: Any, seed: int, **more: Any) -> RandomForestRegressor:
    """Return scikit-learn's forest with the settings of a method that has them as fields."""
    return RandomForestRegressor(
        method.trees,
        max_features=method.max_features,
        min_samples_leaf=method.min_samples_leaf,
        random_state=seed,
        n_jobs=method.n_jobs,
        **more,
    )
