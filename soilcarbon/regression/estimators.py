"""Estimators that scikit-learn does not have, with its interface, and profiles as arrays for all of them.

In: X (n, 2 + F), longitude and latitude (degrees) in the first two columns and covariates behind them. Out: predictions (n,).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_solve
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from sklearn.neighbors import KNeighborsRegressor

from soilcarbon.stats.variogram import EARTH_KM, Variogram, empirical_variogram, fit_variogram, unit_vectors

POSITION = 2
"""Columns of X before the covariates: longitude and latitude, degrees (EPSG:4326)."""
_SAME_PLACE_KM = 0.001
"""Nearer than this, two profiles lie at one place."""
_FEWEST_KRIGED = 12
"""Fewer profiles have not the pairs for two lags of a variogram."""
_CHUNK_VALUES = 4_000_000
"""Float64 values of one intermediate array, 32 MB, whatever the number of places."""


class Samples(NamedTuple):
    """Profiles as arrays for scikit-learn.

    Attributes
    ----------
    X
        (n, 2 + F) float64: longitude and latitude (degrees), then covariates in raw units, missing = NaN.
    y
        (n,) target, 0 or more.
    groups
        (n,) int64, the place or block of each profile (`groups.spatial_groups`), which no inner fold splits.
    """

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Samples":
        """Return the profiles of row numbers, a mask or a slice."""
        return Samples(self.X[rows], self.y[rows], self.groups[rows])


def check_target(y: np.ndarray) -> None:
    """Raise ValueError if there is no profile, or a target is missing, infinite or negative."""
    wrong = ~(np.isfinite(y) & (y >= 0))
    if wrong.any() or not len(y):
        found = f"{int(wrong.sum())} of {len(y)} targets are not, first {y[wrong][0]:g}" if len(y) else "there are no profiles"
        raise ValueError(f"targets to be fitted must be finite and 0 or more; {found}")


# --- estimators that scikit-learn does not have ---------------------------------------------------------------------------


class LogTarget(TransformedTargetRegressor):
    """Regression of ln(1 + y), back-transformed without bias correction: it estimates the median, which lowers MAE and biases ME.

    Predictions are clipped at 0 and at the largest target fitted. A method that extrapolates on the log scale would else give
    thousands of g/kg to a single place outside the range of the profiles, which then decides every score.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> x, y = np.arange(4.0)[:, None], np.expm1(np.arange(4.0))
    >>> LogTarget(LinearRegression()).fit(x, y).predict([[1.5], [9.0]]).round(3)
    array([ 3.482, 19.086])
    """

    def __init__(self, regressor: BaseEstimator | None = None) -> None:
        super().__init__(regressor, func=np.log1p, inverse_func=np.expm1, check_inverse=False)

    def fit(self, X: np.ndarray, y: np.ndarray, **fit_params: Any) -> Self:
        """Fit the regressor to ln(1 + y)."""
        self.largest_ = float(np.max(y))
        super().fit(X, y, **fit_params)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return predictions (m,) in the unit of y."""
        with np.errstate(over="ignore"):
            return np.clip(super().predict(X), 0, self.largest_)


class InverseDistance(RegressorMixin, BaseEstimator):
    """Inverse distance weighting: mean of the nearest profiles by great-circle distance to minus `power` (Shepard 1968).

    X is longitude and latitude, degrees; further columns are not used. Where profiles lie at the very place (within 1 m), their
    mean. High powers: the nearest decide; low ones: a regional mean. `neighbours` are all where there are fewer.

    Examples
    --------
    >>> X = np.array([[0.0, 0.0], [3.0, 0.0]])
    >>> InverseDistance(power=1).fit(X, [10.0, 40.0]).predict([[1.0, 0.0], [3.0, 0.0]]).round(6)
    array([20., 40.])
    """

    def __init__(self, power: float = 2.0, neighbours: int = 32) -> None:
        self.power, self.neighbours = power, neighbours

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Index the profiles' positions."""
        knn = KNeighborsRegressor(min(self.neighbours, len(X)), weights=self._weights, algorithm="ball_tree", metric="haversine")
        self.neighbours_ = knn.fit(self._radians(X), y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return weighted means (m,)."""
        return np.asarray(self.neighbours_.predict(self._radians(X)))

    @staticmethod
    def _radians(X: np.ndarray) -> np.ndarray:
        return np.radians(np.asarray(X)[:, [1, 0]])

    def _weights(self, arc: np.ndarray) -> np.ndarray:
        km = EARTH_KM * arc
        here = km <= _SAME_PLACE_KM
        far = (km.min(1, keepdims=True) / np.maximum(km, _SAME_PLACE_KM)) ** self.power  # relative to the nearest: no overflow
        return np.where(here.any(1, keepdims=True), here, far)


class WorldForest(RandomForestRegressor):
    """Random forest of a region's and the world's profiles, in which the region's weigh a stated share of the whole.

    It is to a forest what fine-tuning is to a network. Each tree takes 40 % as many draws as there are profiles
    (`max_samples`), which keeps thousands of the world's affordable. Scikit-learn 1.9 draws in proportion to the weights, older
    ones draw evenly and weight afterwards: the share is the same, the trees are not.
    """

    def __init__(
        self,
        share: float = 0.3,
        n_estimators: int = 100,
        max_features: float = 1 / 3,
        min_samples_leaf: int = 3,
        max_samples: float | None = 0.4,
        n_jobs: int | None = None,
        random_state: int | None = None,
    ) -> None:
        super().__init__(
            n_estimators,
            max_features=max_features,
            min_samples_leaf=min_samples_leaf,
            max_samples=max_samples,
            n_jobs=n_jobs,
            random_state=random_state,
        )
        self.share = share

    def fit(self, X: np.ndarray, y: np.ndarray, of_world: np.ndarray | None = None) -> Self:
        """Fit the trees.

        Parameters
        ----------
        X, y
            Profiles of the region and the world.
        of_world
            (n,) bool, which of them are the world's. None, or none of them: a plain forest of the region.

        Raises
        ------
        ValueError
            If `share` is not above 0 and below 1.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"share = {self.share:g}: expected above 0 and below 1")
        weight = None
        if of_world is not None and of_world.any():
            there, n = int(of_world.sum()), len(of_world)
            # They add up to the number of profiles, of which max_samples is a share.
            weight = np.where(of_world, (1 - self.share) / there, self.share / (n - there)) * n
        super().fit(X, y, sample_weight=weight)
        return self


class QuantileForest(RandomForestRegressor):
    """Quantile regression forest (Meinshausen 2006, J. Mach. Learn. Res. 7, 983-999); it predicts the median.

    A training profile weighs, at a place, the mean over trees of 1 / (profiles in the place's leaf) if it is in that
    leaf, else 0. As in the paper every training profile is dropped down every tree, whether it was drawn for the
    tree's bootstrap or not. A quantile is the smallest target at which the weights, added up in order of the targets,
    reach the level; so none lies outside the profiles, and whether y or its logarithm is ranked makes no difference.

    Examples
    --------
    >>> X, y = np.zeros((5, 1)), np.array([1.0, 2.0, 3.0, 4.0, 50.0])
    >>> forest = QuantileForest(n_estimators=10, random_state=0).fit(X, y)
    >>> forest.predict_quantiles(X[:1], [0.2, 0.5, 1.0])
    array([[ 1.,  3., 50.]])
    """

    def __init__(
        self,
        n_estimators: int = 300,
        max_features: float = 1 / 3,
        min_samples_leaf: int = 5,
        n_jobs: int | None = None,
        random_state: int | None = None,
    ) -> None:
        super().__init__(
            n_estimators, max_features=max_features, min_samples_leaf=min_samples_leaf, n_jobs=n_jobs, random_state=random_state
        )

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit the trees and note which profiles share a leaf."""
        super().fit(X, y)
        order = np.argsort(y, kind="stable")
        self.sorted_y_ = np.asarray(y, np.float64)[order]
        self._first = np.cumsum([0] + [tree.tree_.node_count for tree in self.estimators_])
        leaves = self._leaves(np.asarray(X)[order])
        size = np.asarray(leaves.sum(0)).ravel()
        leaves.data /= size[leaves.indices]
        self._members = leaves.T.tocsr()
        return self

    def _leaves(self, X: np.ndarray) -> csr_array:
        """Return (n, nodes of all trees): 1 where a profile ends."""
        node = self.apply(X).astype(np.int64) + self._first[:-1]
        start = np.arange(len(node) + 1) * node.shape[1]
        return csr_array((np.ones(node.size), node.ravel(), start), shape=(len(node), int(self._first[-1])))

    def predict_quantiles(self, X: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return quantiles (m, levels) of the target.

        Raises
        ------
        ValueError
            If a level is not above 0 and at most 1.
        """
        levels = np.asarray(levels, np.float64)
        if levels.ndim != 1 or not ((levels > 0) & (levels <= 1)).all():
            raise ValueError(f"levels = {levels.tolist()}: expected a list of numbers above 0 and at most 1")
        result = np.empty((len(X), len(levels)))
        step = max(1, _CHUNK_VALUES // max(len(self.sorted_y_), self.n_estimators))
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            reached = (self._leaves(X[rows]) @ self._members).toarray().cumsum(1) / self.n_estimators
            for k, level in enumerate(levels * (1 - 1e-9)):  # sums of many shares miss a level by rounding
                result[rows, k] = self.sorted_y_[(reached >= level).argmax(1)]
        return result

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the median, (m,)."""
        return self.predict_quantiles(X, [0.5])[:, 0]


class RegressionKriging(RegressorMixin, BaseEstimator):
    """Regression kriging: a random forest of the covariates, and simple kriging of its out-of-bag residuals.

    X is longitude and latitude (degrees), then covariates. Residuals of profiles a tree was fitted to would be far too small.
    Kriging is Gaussian process regression with the exponential covariance (Matern, nu = 1/2) of the residuals' variogram, whose
    nugget is noise. Distances are chords, within 0.1 % of the arc up to 1,000 km. Where the residuals have no structure (none
    found, or one of a range below the shortest lag, or too few pairs), there is no correction.

    A variogram may find structure that does not carry over to the next block, or that is chance. With `groups`, the correction is
    therefore multiplied by the slope, from 0 to 1, of the residuals on what is kriged for them from the other groups. Where there
    is no structure, 60 profiles with one covariate that matters, the correction raised MAE by 4.0 % on average, by 22 % at worst;
    shrunk by 0.3 and 4.0 % (60 simulations). With 300 profiles by 0.7 and 3.4 %; shrunk by 0.2 and 1.6 % (30).

    Attributes
    ----------
    variogram_
        Of the residuals, or None where there is no correction.
    share_
        Of the kriged residual that is added.
    """

    def __init__(
        self,
        n_estimators: int = 300,
        max_features: float = 1 / 3,
        min_samples_leaf: int = 1,
        n_jobs: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.n_estimators, self.max_features, self.min_samples_leaf = n_estimators, max_features, min_samples_leaf
        self.n_jobs, self.random_state = n_jobs, random_state

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Fit the forest, the variogram and the Gaussian process of its residuals.

        Parameters
        ----------
        X, y
            Profiles.
        groups
            (n,) place or block of each, by which the correction is shrunk; None: it is not.
        """
        enough = len(X) >= _FEWEST_KRIGED
        settings = self.get_params()
        self.forest_ = RandomForestRegressor(oob_score=enough, **settings).fit(X[:, POSITION:], y)
        self.variogram_: Variogram | None = None
        self.share_ = 1.0
        if not enough:
            return self
        lon, lat, residual = X[:, 0], X[:, 1], y - self.forest_.oob_prediction_
        points = unit_vectors(lon, lat)  # wrong positions are an error, too few pairs are none
        try:
            lags = empirical_variogram(lon, lat, residual, seed=self.random_state or 0)
        except ValueError:
            return self
        fitted = fit_variogram(lags)
        if fitted.practical_range > lags.km[0]:
            self.residuals_ = kriging(fitted).fit(points, residual)
            if groups is not None:
                kriged = kriged_from_other_groups(self.residuals_, residual, groups)
                self.share_ = float(np.clip(residual @ kriged / max(kriged @ kriged, 1e-300), 0, 1))
            self.variogram_ = fitted if self.share_ > 0 else None
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return predictions, (m,)."""
        predicted = self.forest_.predict(X[:, POSITION:])
        if self.variogram_ is not None:
            predicted = predicted + self.share_ * self.residuals_.predict(unit_vectors(X[:, 0], X[:, 1]))
        return np.asarray(predicted)


def kriging(variogram: Variogram) -> GaussianProcessRegressor:
    """Return simple kriging of a field of mean zero as a Gaussian process on unit vectors (n, 3), by an exponential variogram.

    The nugget is noise of the values, not of the field: the prediction at a profile equals its value only where there is no
    nugget, and far from all values it is zero (Chiles and Delfiner 2012, section 3.3).

    Examples
    --------
    >>> field = Variogram("exponential", nugget=0.0, sill=2.0, scale=80.0, bounded=True)
    >>> fitted = kriging(field).fit(unit_vectors([7.0, 8.0], [50.0, 50.0]), [1.0, -1.0])
    >>> fitted.predict(unit_vectors([7.0, 7.5, 80.0], [50.0, 50.0, 0.0])).round(3) + 0
    array([1., 0., 0.])
    """
    kernel = ConstantKernel(variogram.sill) * Matern(variogram.scale / EARTH_KM, nu=0.5)
    return GaussianProcessRegressor(kernel, alpha=max(variogram.nugget, 1e-9 * variogram.sill), optimizer=None)


def kriged_from_other_groups(process: GaussianProcessRegressor, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return what a fitted process predicts of each of its values (n,) from those of the other groups (n,) alone.

    In closed form, from the inverse C of the covariance matrix with the nugget: the errors of a group g are the solution e of
    C[g, g] e = (C values)[g] (Dubrule 1983, Math. Geol. 15, 687-699, for groups).

    Examples
    --------
    >>> points, values = unit_vectors([7.0, 7.1, 8.0], [50.0, 50.0, 50.0]), np.array([1.0, 2.0, -1.0])
    >>> fitted = kriging(Variogram("exponential", 0.5, 2.0, 80.0, bounded=True)).fit(points, values)
    >>> kriged_from_other_groups(fitted, values, np.array([0, 0, 1])).round(4)
    array([-0.3274, -0.358 ,  0.6507])
    """
    inverse, found = cho_solve((process.L_, True), np.eye(len(values))), np.empty(len(values))
    weights = np.ravel(process.alpha_)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        found[rows] = values[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], weights[rows])
    return found
