"""Spatial folds as scikit-learn splitters, for `cross_val_score`, `GridSearchCV` and any other `cv=`.

They make the folds of `spatial_cv` anew from the positions of the rows that they are given, so that they also work inside each
other (nested cross-validation), where folds made beforehand (`groups.predefined_split`) do not fit the rows.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.model_selection import BaseCrossValidator

from soilcarbon.stats.spatial_cv import block_folds, knndm_folds


def positions(x: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude (N,), degrees, of rows: of `groups` (N, 2), else the columns lon and lat of a DataFrame."""
    if groups is not None:
        found = np.asarray(groups, np.float64)
        if found.ndim != 2 or found.shape[1] != 2:
            raise ValueError(f"groups {found.shape} must be the positions of the rows: (N, 2), longitude and latitude in degrees")
        return found[:, 0], found[:, 1]
    if isinstance(x, pd.DataFrame) and {"lon", "lat"} <= set(x.columns):
        return x["lon"].to_numpy(np.float64), x["lat"].to_numpy(np.float64)
    raise ValueError("where are the rows? give groups=np.column_stack([lon, lat]), or a DataFrame with columns lon and lat")


class _SpatialKFold(BaseCrossValidator):
    """K-fold whose folds depend on positions."""

    __metadata_request__split: ClassVar[dict[str, bool]] = {"groups": True}
    n_splits: int

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: ARG002 - scikit-learn's names
        """Return the number of folds."""
        return self.n_splits

    def folds(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return fold numbers (N,) of positions in degrees."""
        raise NotImplementedError

    def _iter_test_masks(self, X: Any = None, y: Any = None, groups: Any = None) -> Iterator[np.ndarray]:  # noqa: ARG002
        folds = self.folds(*positions(X, groups))
        return (folds == k for k in range(self.n_splits))


class BlockKFold(_SpatialKFold):
    """Spatial block cross-validation as a scikit-learn splitter: `block_folds` of the rows' positions.

    Prefer it to `KFold` wherever profiles cluster; blocks should be as wide as the range of residual correlation.

    Parameters
    ----------
    n_splits
        Folds.
    block_size
        Side of a block, degrees.
    seed
        Of the blocks' assignment to folds.

    Raises
    ------
    ValueError
        By `split`, if positions are not given (as `groups`, (N, 2) in degrees, or as columns lon and lat of a DataFrame), or lie in
        fewer blocks than folds.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import cross_val_score
    >>> random = np.random.default_rng(0)
    >>> places, x = random.uniform(0, 10, (100, 2)), random.normal(size=(100, 3))
    >>> y = x[:, 0] + 0.1 * random.normal(size=100)
    >>> scores = cross_val_score(Ridge(), x, y, groups=places, cv=BlockKFold(5, block_size=2.0))
    >>> len(scores), bool(scores.min() > 0.9)
    (5, True)
    """

    def __init__(self, n_splits: int = 5, *, block_size: float, seed: int = 0) -> None:
        self.n_splits, self.block_size, self.seed = n_splits, block_size, seed

    def folds(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return fold numbers (N,) of positions in degrees."""
        return block_folds(lon, lat, self.n_splits, self.block_size, self.seed)


class KNNDMKFold(_SpatialKFold):
    """Nearest neighbour distance matching as a scikit-learn splitter: `knndm_folds` of the rows' positions.

    Its scores are those of the map of the prediction points: profiles are held out as far from the others as the map's cells are.

    Parameters
    ----------
    n_splits
        Folds.
    prediction_points
        lon, lat (M,) degrees, of places to be predicted: `sample_cell_centres`.
    seed, max_share
        As of `knndm_folds`.

    Raises
    ------
    ValueError
        By `split`, if positions are not given (as `groups`, (N, 2) in degrees, or as columns lon and lat of a DataFrame), or
        `knndm_folds` finds no folds.

    Examples
    --------
    >>> import pandas as pd
    >>> random = np.random.default_rng(0)
    >>> near, far = 0.01 * random.normal(size=(2, 60)), np.repeat([0.0, 5.0, 10.0], 20)
    >>> x = pd.DataFrame({"lon": far + near[0], "lat": near[1]})
    >>> cells = random.uniform(-9, 19, 500), random.uniform(-9, 9, 500)
    >>> [len(test) for train, test in KNNDMKFold(3, prediction_points=cells).split(x)]
    [20, 20, 20]
    """

    def __init__(
        self, n_splits: int = 5, *, prediction_points: tuple[np.ndarray, np.ndarray], seed: int = 0, max_share: float = 0.5
    ) -> None:
        self.n_splits, self.prediction_points, self.seed, self.max_share = n_splits, prediction_points, seed, max_share

    def folds(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return fold numbers (N,) of positions in degrees."""
        return knndm_folds(lon, lat, self.n_splits, self.prediction_points, self.seed, self.max_share)[0]
