"""Random forests: of a region, of a region and the world, and of quantiles.

In: profiles (`methods.Known`). Out: methods that predict the target at places. A forest uses one core unless told otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.benchmark.baselines import CHUNK_VALUES, Known, target_of


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


@dataclass
class WorldForest(Forest):
    """A forest of the region's profiles and the world's, in which the region's weigh a stated share of the whole.

    It is to a forest what fine-tuning is to a network. Each tree takes 40 % as many draws as there are profiles, which
    keeps thousands of the world's affordable. Scikit-learn 1.9 draws in proportion to the weights, older ones draw
    evenly and weight afterwards: the share is the same, the trees are not.

    Attributes
    ----------
    share
        Of the total weight, above 0 and below 1, that the region's profiles have.
    world
        Profiles elsewhere, of the same covariates; none may lie where predictions will be scored. Without any, this
        is a forest of the region.
    max_samples
        Draws for a tree, of the number of profiles.
    min_samples_leaf, trees
        As in `Forest`, as are the others; by default more and fewer, for speed.
    """

    min_samples_leaf: int = 3
    trees: int = 100
    share: float = 0.3
    max_samples: float = 0.4
    world: Known | None = field(default=None, repr=False)

    def fit(self, known: Known, seed: int) -> Self:
        """Grow the trees.

        Raises
        ------
        ValueError
            If the share is not above 0 and below 1, or the world's covariates are not as many as the region's.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"share = {self.share:g}: expected above 0 and below 1")
        x, y, weight = known.x, target_of(known), None
        if self.world is not None and len(self.world):
            if self.world.x.shape[1] != x.shape[1]:
                raise ValueError(f"the world's profiles have {self.world.x.shape[1]} covariates, the region's {x.shape[1]}")
            here, there = len(known), len(self.world)
            x, y = np.concatenate([x, self.world.x]), np.concatenate([y, target_of(self.world)])
            # They add up to the number of profiles, of which scikit-learn's max_samples is a share.
            weight = np.repeat([self.share / here, (1 - self.share) / there], [here, there]) * (here + there)
        forest = new_forest(self, seed, max_samples=self.max_samples)
        self._forest = forest.fit(x, np.log1p(y) if self.log else y, sample_weight=weight)
        return self


@dataclass
class QuantileForest:
    """Quantile regression forest (Meinshausen 2006, J. Mach. Learn. Res. 7, 983-999); it predicts the median.

    A training profile weighs, at a place, the mean over trees of 1 / (profiles in the place's leaf) if it is in that
    leaf, else 0. As in the paper every training profile is dropped down every tree, whether it was drawn for the
    tree's bootstrap or not. A quantile is the smallest target at which the weights, added up in order of the targets,
    reach the level; so none lies outside the profiles, and whether y or its logarithm is ranked makes no difference.

    Attributes
    ----------
    max_features, min_samples_leaf, trees, n_jobs
        As in `Forest`; the trees are grown on y.
    """

    max_features: float = 1 / 3
    min_samples_leaf: int = 5
    trees: int = 300
    n_jobs: int = 1
    _forest: RandomForestRegressor = field(init=False, repr=False)
    _y: np.ndarray = field(init=False, repr=False)
    _first: np.ndarray = field(init=False, repr=False)
    _members: csr_array = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:
        """Grow the trees and note which profiles share a leaf."""
        y = target_of(known)
        order = np.argsort(y, kind="stable")
        self._y = y[order]
        self._forest = new_forest(self, seed).fit(known.x, y)
        self._first = np.cumsum([0] + [tree.tree_.node_count for tree in self._forest.estimators_])
        leaves = self._leaves(known.x[order])
        size = np.asarray(leaves.sum(0)).ravel()
        leaves.data /= size[leaves.indices]
        self._members = leaves.T.tocsr()
        return self

    def _leaves(self, x: np.ndarray) -> csr_array:
        """Return (n, nodes of all trees): 1 where a profile ends."""
        node = self._forest.apply(x).astype(np.int64) + self._first[:-1]
        start = np.arange(len(node) + 1) * node.shape[1]
        return csr_array((np.ones(node.size), node.ravel(), start), shape=(len(node), int(self._first[-1])))

    def quantiles(self, places: Known, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return quantiles (levels, m) of the target at places.

        Raises
        ------
        ValueError
            If a level is not above 0 and at most 1.
        """
        levels = np.asarray(levels, np.float64)
        if levels.ndim != 1 or not ((levels > 0) & (levels <= 1)).all():
            raise ValueError(f"levels = {levels.tolist()}: expected a list of numbers above 0 and at most 1")
        result = np.empty((len(levels), len(places)))
        step = max(1, CHUNK_VALUES // max(len(self._y), self.trees))
        for start in range(0, len(places), step):
            rows = slice(start, start + step)
            reached = (self._leaves(places.x[rows]) @ self._members).toarray().cumsum(1) / self.trees
            for k, level in enumerate(levels * (1 - 1e-9)):  # sums of many shares miss a level by rounding
                result[k, rows] = self._y[(reached >= level).argmax(1)]
        return result

    def predict(self, places: Known) -> np.ndarray:
        """Return the median, (m,)."""
        return self.quantiles(places, [0.5])[0]
