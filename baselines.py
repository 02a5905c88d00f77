"""Every method the network is compared with, behind one interface, each tuned by folds of its own profiles.

In: profiles as arrays (`Known`). Out: fitted methods that predict the target at places, and what was chosen for them.

    from baselines import BASELINES, Known, tune
    method, facts = tune("kriging", known, seed=0)
    predicted = method.predict(places)

`BASELINES` lists them. All have the same budget, at most four candidate settings, and the same inner folds choose among
them. Nothing is random but by the seed. Forests use one core unless told otherwise; boosting uses as many as
OMP_NUM_THREADS allows, so set it to 1 where several processes fit side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import signature
from itertools import product
from typing import Any, Literal, Protocol, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import OneHotEncoder

from variogram import SHAPES, Variogram, arc_km, fit_variogram, semivariances, unit_vectors

_FEWEST_TUNED = 8
"""Of fewer profiles each inner fold holds out two or three, and which candidate wins is chance."""
_FEWEST_KRIGED = 12
"""Fewer profiles have not the pairs for two lags of a variogram."""
_SAME_PLACE_KM = 0.001
"""Nearer than this, two profiles lie at one place."""
_CLIP_SD = 4.0
"""A linear model follows an outlying input without end; the network's inputs are clipped at as many (`clip_inputs`)."""
_JITTER = 1e-9
"""Of the sill, added where there is no nugget: profiles at one place would make the system singular."""
_CHUNK_VALUES = 4_000_000
"""Float64 values of one intermediate array, 32 MB, whatever the number of places."""


# --- profiles ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """Profiles a method may learn from, or places it is to predict; of those y is not looked at and may be NaN.

    Attributes
    ----------
    x
        (n, F) covariates, raw units, missing = NaN.
    y
        (n,) target, 0 or more (SOC, g/kg).
    lon, lat
        (n,) degrees.
    units
        (n,) int64, the place or block of each profile (`validation.split_units`); inner folds never part one.

    Raises
    ------
    ValueError
        If the lengths differ.
    """

    x: np.ndarray
    y: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    units: np.ndarray

    def __post_init__(self) -> None:
        if self.x.ndim != 2:
            raise ValueError(f"x {self.x.shape} must be profiles by covariates")
        for name in ("y", "lon", "lat", "units"):
            if getattr(self, name).shape != (len(self.x),):
                raise ValueError(f"{name} {getattr(self, name).shape} must have one value for each of the {len(self.x)} rows of x")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray | slice) -> "Known":
        """Return the profiles of row numbers, a mask or a slice."""
        return Known(*(getattr(self, each.name)[rows] for each in fields(self)))


class Method(Protocol):
    """What all methods can do. Their settings are the fields of a dataclass."""

    def fit(self, known: Known, seed: int) -> Self:
        """Learn from profiles; all randomness is from the seed."""

    def predict(self, places: Known) -> np.ndarray:
        """Return (m,) float64, in the target's unit; `places.y` is never read."""


def _target(known: Known) -> np.ndarray:
    """Return y (n,) float64, fit to be learnt from.

    Raises
    ------
    ValueError
        If there is no profile, or a target is missing, infinite or negative.
    """
    y = np.asarray(known.y, np.float64)
    wrong = ~(np.isfinite(y) & (y >= 0))
    if wrong.any() or not y.size:
        found = f"{int(wrong.sum())} of {y.size} targets are not, first {y[wrong][0]:g}" if y.size else "there are no profiles"
        raise ValueError(f"a method learns from targets that are finite and 0 or more; {found}")
    return y


def _from_log(log_y: np.ndarray, largest: float) -> np.ndarray:
    """Return expm1 of predictions, kept within 0 and the largest target learnt from.

    Methods that extrapolate on the log scale need it: one place outside the range of the profiles would else be
    given thousands of g/kg and decide every score. Means over profiles (mean, distance, forests) cannot leave it.
    """
    return np.minimum(np.expm1(np.clip(log_y, 0, np.log1p(largest))), largest)


def _nearest(points: np.ndarray, at: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return chords and row numbers (m, k) of the k = min(neighbours, n) points (n, 3) nearest to each of (m, 3)."""
    k = np.arange(1, min(neighbours, len(points)) + 1)
    chord, near = cKDTree(points).query(at, k=k)
    return chord, near


# --- without covariates ------------------------------------------------------------------------------------------


@dataclass
class Mean:
    """The mean of the profiles, everywhere: what any method must beat."""

    _mean: float = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:  # noqa: ARG002 - one interface
        """Take the mean."""
        self._mean = float(_target(known).mean())
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return the mean, (m,)."""
        return np.full(len(places), self._mean)


@dataclass
class InverseDistance:
    """Mean of the nearest profiles, weighted by great-circle distance to minus a power (Shepard 1968).

    Where profiles lie at the very place (within 1 m), their mean.

    Attributes
    ----------
    power
        High: the nearest decide. Low: a regional mean.
    neighbours
        Profiles looked at, or all where there are fewer.
    """

    power: float = 2.0
    neighbours: int = 32
    _points: np.ndarray = field(init=False, repr=False)
    _y: np.ndarray = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:  # noqa: ARG002 - one interface
        """Remember where the profiles lie."""
        self._y, self._points = _target(known), unit_vectors(known.lon, known.lat)
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return the weighted means, (m,)."""
        chord, near = _nearest(self._points, unit_vectors(places.lon, places.lat), self.neighbours)
        km = arc_km(chord)
        here = km <= _SAME_PLACE_KM
        far = (km[:, :1] / np.maximum(km, _SAME_PLACE_KM)) ** self.power  # relative to the nearest: no overflow
        weight = np.where(here.any(1, keepdims=True), here, far)
        return np.asarray((weight * self._y[near]).sum(1) / weight.sum(1))


# --- linear ------------------------------------------------------------------------------------------------------


@dataclass
class RidgeRegression:
    """Linear in ln(1 + y), with shrinkage. Predictions stay within 0 and the largest target (`_from_log` says why).

    Covariates are standardised and clipped at 4 standard deviations; missing ones become the mean. Classes become one
    column each, of 0 and 1; a class that no profile has is none of them.

    Attributes
    ----------
    alpha
        Penalty on squared coefficients of standardised covariates.
    classes
        Columns of x that are class codes.
    """

    alpha: float = 10.0
    classes: tuple[int, ...] = ()
    _mean: np.ndarray = field(init=False, repr=False)
    _std: np.ndarray = field(init=False, repr=False)
    _encoder: OneHotEncoder | None = field(init=False, repr=False)
    _model: Ridge = field(init=False, repr=False)
    _largest: float = field(init=False, repr=False)

    def _numbers(self, x: np.ndarray) -> np.ndarray:
        return np.delete(np.asarray(x, np.float64), list(self.classes), axis=1)

    def _design(self, x: np.ndarray) -> np.ndarray:
        z = np.nan_to_num(np.clip((self._numbers(x) - self._mean) / self._std, -_CLIP_SD, _CLIP_SD), nan=0.0)
        return z if self._encoder is None else np.hstack([z, self._encoder.transform(x[:, list(self.classes)])])

    def fit(self, known: Known, seed: int) -> Self:  # noqa: ARG002 - one interface
        """Standardise and solve."""
        y, x = _target(known), self._numbers(known.x)
        present = ~np.isnan(x)
        count = np.maximum(present.sum(0), 1)
        self._mean = np.where(present, x, 0).sum(0) / count
        spread = np.sqrt((np.where(present, x - self._mean, 0) ** 2).sum(0) / count)
        self._std = np.where(spread > 1e-6 * np.abs(self._mean), spread, 1.0)  # a constant float32 column, but for rounding
        self._encoder = None
        if self.classes:
            self._encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(known.x[:, list(self.classes)])
        self._model = Ridge(self.alpha).fit(self._design(known.x), np.log1p(y))
        self._largest = float(y.max())
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        return _from_log(self._model.predict(self._design(places.x)), self._largest)


# --- trees -------------------------------------------------------------------------------------------------------


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
        y = _target(known)
        self._forest = _new_forest(self, seed).fit(known.x, np.log1p(y) if self.log else y)
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        predicted = self._forest.predict(places.x)
        return np.expm1(predicted) if self.log else predicted


def _new_forest(method: Any, seed: int, **more: Any) -> RandomForestRegressor:
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
        x, y, weight = known.x, _target(known), None
        if self.world is not None and len(self.world):
            if self.world.x.shape[1] != x.shape[1]:
                raise ValueError(f"the world's profiles have {self.world.x.shape[1]} covariates, the region's {x.shape[1]}")
            here, there = len(known), len(self.world)
            x, y = np.concatenate([x, self.world.x]), np.concatenate([y, _target(self.world)])
            # They add up to the number of profiles, of which scikit-learn's max_samples is a share.
            weight = np.repeat([self.share / here, (1 - self.share) / there], [here, there]) * (here + there)
        forest = _new_forest(self, seed, max_samples=self.max_samples)
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
        y = _target(known)
        order = np.argsort(y, kind="stable")
        self._y = y[order]
        self._forest = _new_forest(self, seed).fit(known.x, y)
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
        step = max(1, _CHUNK_VALUES // max(len(self._y), self.trees))
        for start in range(0, len(places), step):
            rows = slice(start, start + step)
            reached = (self._leaves(places.x[rows]) @ self._members).toarray().cumsum(1) / self.trees
            for k, level in enumerate(levels * (1 - 1e-9)):  # sums of many shares miss a level by rounding
                result[k, rows] = self._y[(reached >= level).argmax(1)]
        return result

    def predict(self, places: Known) -> np.ndarray:
        """Return the median, (m,)."""
        return self.quantiles(places, [0.5])[0]


@dataclass
class Boosting:
    """Gradient boosting of ln(1 + y) on binned covariates. Predictions stay within 0 and the largest target.

    There is no early stopping: it would hold out single profiles at random, whose neighbours it then trains on.

    Attributes
    ----------
    loss
        "squared_error" aims at the mean of ln(1 + y), "absolute_error" at the median.
    learning_rate, max_leaf_nodes, iterations
        Shrinkage of each tree, its leaves, and how many there are.
    min_samples_leaf
        Profiles in a leaf, at least.
    """

    loss: Literal["squared_error", "absolute_error"] = "squared_error"
    learning_rate: float = 0.05
    max_leaf_nodes: int = 8
    iterations: int = 200
    min_samples_leaf: int = 10
    _model: HistGradientBoostingRegressor = field(init=False, repr=False)
    _empty: np.ndarray = field(init=False, repr=False)
    _largest: float = field(init=False, repr=False)

    def _filled(self, x: np.ndarray) -> np.ndarray:
        return np.where(self._empty, x.dtype.type(0), x)  # a column without any value cannot be binned

    def fit(self, known: Known, seed: int) -> Self:
        """Add the trees up."""
        y = _target(known)
        self._empty = np.isnan(known.x).all(0)
        self._model = HistGradientBoostingRegressor(
            loss=self.loss,
            learning_rate=self.learning_rate,
            max_iter=self.iterations,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=self.min_samples_leaf,
            early_stopping=False,
            random_state=seed,
        ).fit(self._filled(known.x), np.log1p(y))
        self._largest = float(y.max())
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        return _from_log(self._model.predict(self._filled(places.x)), self._largest)


# --- kriging -----------------------------------------------------------------------------------------------------


def krige(
    variogram: Variogram,
    lon: np.ndarray,
    lat: np.ndarray,
    values: np.ndarray,
    at: tuple[np.ndarray, np.ndarray],
    neighbours: int = 50,
) -> np.ndarray:
    """Return simple-kriging predictions of a field of mean zero, from the nearest values on the sphere.

    The nugget is noise of the values, not of the field: it is taken out, and the prediction at a profile equals its
    value only where there is no nugget. Far from all values the prediction is zero.

    Parameters
    ----------
    variogram
        Fitted to the values.
    lon, lat
        (n,) degrees.
    values
        (n,).
    at
        Longitudes and latitudes (m,) to predict.
    neighbours
        Values each prediction is made from, or all where there are fewer.

    Returns
    -------
    array
        (m,).

    Notes
    -----
    Weights solve (C + nugget I) w = c with C, c = sill * (1 - rise) between values, and from each to the place
    (Chiles and Delfiner 2012, section 3.3). Exponential and spherical covariances are valid on great circles too
    (Gneiting 2013, Bernoulli 19, 1327-1349).
    """
    points, places = unit_vectors(lon, lat), unit_vectors(*at)
    rise, result = SHAPES[variogram.model][0], np.zeros(len(places))
    if variogram.sill <= 0 or not len(points):
        return result
    values = np.asarray(values, np.float64)
    chord, near = _nearest(points, places, neighbours)
    noise = max(variogram.nugget, _JITTER * variogram.sill) * np.eye(near.shape[1])

    def covariance(chord: np.ndarray) -> np.ndarray:
        return np.asarray(variogram.sill * (1 - rise(arc_km(chord) / variogram.scale)))

    step = max(1, _CHUNK_VALUES // (3 * near.shape[1] ** 2))
    for start in range(0, len(places), step):
        rows = slice(start, start + step)
        around = points[near[rows]]
        between = np.linalg.norm(around[:, :, None] - around[:, None], axis=3)
        weight = np.linalg.solve(covariance(between) + noise, covariance(chord[rows])[..., None])[..., 0]
        result[rows] = (weight * values[near[rows]]).sum(1)
    return result


@dataclass
class RegressionKriging:
    """A forest of ln(1 + y), and simple kriging of what it errs by on profiles it did not draw (out of bag).

    Errors on the profiles a tree was grown on would be far too small. Where the errors have no structure (none found,
    or one of a range below the shortest lag, or too few pairs to tell), there is no correction. The catch: in 8 of
    20 simulations of pure noise some structure was found by chance, and the correction then changed MAE by -3 to +4 %
    with 300 profiles and by +1 to +21 % with 60. Predictions stay within 0 and the largest target.

    Attributes
    ----------
    model
        Of the variogram, a key of `variogram.SHAPES`.
    neighbours
        Profiles each correction is made from.
    max_features, min_samples_leaf, trees, n_jobs
        As in `Forest`; with fewer than some 50 trees a profile may be drawn by all.
    variogram_
        The fitted one, or None where there is no correction.
    """

    model: str = "exponential"
    min_samples_leaf: int = 1
    max_features: float = 1 / 3
    neighbours: int = 50
    trees: int = 300
    n_jobs: int = 1
    variogram_: Variogram | None = field(init=False, repr=False)
    _forest: RandomForestRegressor = field(init=False, repr=False)
    _lon: np.ndarray = field(init=False, repr=False)
    _lat: np.ndarray = field(init=False, repr=False)
    _residual: np.ndarray = field(init=False, repr=False)
    _largest: float = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:
        """Grow the trees and fit the variogram of their residuals."""
        y, enough = _target(known), len(known) >= _FEWEST_KRIGED
        self._forest = _new_forest(self, seed, oob_score=enough).fit(known.x, np.log1p(y))
        self._lon, self._lat, self._largest, self.variogram_ = known.lon, known.lat, float(y.max()), None
        if enough:
            self._residual = np.log1p(y) - self._forest.oob_prediction_
            unit_vectors(known.lon, known.lat)  # wrong positions are an error, too few pairs are none
            try:
                lags = semivariances(known.lon, known.lat, self._residual, seed=seed)
            except ValueError:
                return self
            fitted = fit_variogram(lags, self.model)
            if fitted.practical_range > lags.km[0]:
                self.variogram_ = fitted
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        log_y = self._forest.predict(places.x)
        if self.variogram_ is not None:
            at = (places.lon, places.lat)
            log_y = log_y + krige(self.variogram_, self._lon, self._lat, self._residual, at, self.neighbours)
        return _from_log(log_y, self._largest)


# --- all of them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """One line of the comparison.

    Attributes
    ----------
    label
        As tables and figures name it.
    meaning
        One line for a legend.
    method
        Its class, a dataclass.
    candidates
        Settings one of which `tune` chooses; the first is taken where there is too little to choose by.
    fixed
        Settings of all candidates.
    while_tuning
        Settings that make choosing cheaper, the same for all candidates: fewer trees.
    """

    label: str
    meaning: str
    method: Callable[..., Method]
    candidates: tuple[dict[str, Any], ...] = ({},)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    while_tuning: Mapping[str, Any] = field(default_factory=dict)


def _grid(**settings: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Return every combination of the values of each setting."""
    return tuple(dict(zip(settings, values, strict=True)) for values in product(*settings.values()))


_FOREST = _grid(max_features=(1 / 3, 2 / 3), min_samples_leaf=(1, 5))
_SHARES = _grid(share=(0.3, 0.05, 0.1, 0.5))

BASELINES: dict[str, Baseline] = {
    "mean": Baseline("mean", "the mean of the region's profiles, everywhere", Mean),
    "idw": Baseline(
        "inverse distance",
        "mean of the nearest profiles, by distance; no covariates",
        InverseDistance,
        tuple({"power": power, "neighbours": neighbours} for power, neighbours in ((2.0, 32), (2.0, 8), (1.0, 32), (3.0, 32))),
    ),
    "ridge": Baseline("ridge", "linear regression of ln(1+y), shrunk", RidgeRegression, _grid(alpha=(10.0, 1.0, 100.0, 1000.0))),
    "forest": Baseline("forest", "random forest of y", Forest, _FOREST, while_tuning={"trees": 100}),
    "forest_log": Baseline(
        "forest, log",
        "random forest of ln(1+y), transformed back: aims at the median",
        Forest,
        _FOREST,
        fixed={"log": True},
        while_tuning={"trees": 100},
    ),
    "forest_world": Baseline(
        "forest, global + regional",
        "random forest of y, of the region's and the world's profiles",
        WorldForest,
        _SHARES,
        while_tuning={"trees": 12},
    ),
    "forest_world_log": Baseline(
        "forest, global + regional, log",
        "the same of ln(1+y): aims at the median",
        WorldForest,
        _SHARES,
        fixed={"log": True},
        while_tuning={"trees": 12},
    ),
    "quantile_forest": Baseline(
        "quantile forest", "median of a quantile regression forest", QuantileForest, _FOREST, while_tuning={"trees": 100}
    ),
    "boosting": Baseline(
        "gradient boosting",
        "gradient-boosted trees of ln(1+y)",
        Boosting,
        tuple(
            {"loss": loss, "learning_rate": rate, "max_leaf_nodes": leaves}
            for loss in ("squared_error", "absolute_error")
            for rate, leaves in ((0.03, 8), (0.1, 31))
        ),
    ),
    "kriging": Baseline(
        "regression kriging",
        "random forest of ln(1+y), and kriging of its out-of-bag residuals",
        RegressionKriging,
        _grid(model=("exponential", "spherical"), min_samples_leaf=(1, 5)),
        while_tuning={"trees": 100},
    ),
}
"""Key -> method, in the order of tables."""


# --- tuning ------------------------------------------------------------------------------------------------------


def inner_folds(units: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return folds (n,) 0.. of whole units, k of them or as many as there are units.

    Raises
    ------
    ValueError
        If k or the number of units is below 2.
    """
    count = min(k, np.unique(units).size)
    if count < 2:
        raise ValueError(f"{k} folds of {np.unique(units).size} units: expected 2 or more of both")
    folds = np.empty(len(units), np.int64)
    for fold, (_, held_out) in enumerate(GroupKFold(count, shuffle=True, random_state=seed).split(units, groups=units)):
        folds[held_out] = fold
    return folds


def held_out_predictions(make: Callable[[], Method], known: Known, folds: np.ndarray, seed: int) -> np.ndarray:
    """Return predictions (n,) of every profile, each by a fit that did not see its fold.

    Parameters
    ----------
    make
        Returns a new method.
    known
        The profiles.
    folds
        (n,) fold numbers.
    seed
        Of every fit.

    Raises
    ------
    ValueError
        If the folds are not one for each profile, or are one fold only.
    """
    folds = np.asarray(folds)
    if folds.shape != (len(known),) or np.unique(folds).size < 2:
        raise ValueError(f"folds {folds.shape} must be one for each of {len(known)} profiles, and two or more")
    predicted = np.empty(len(known))
    for fold in np.unique(folds):
        held_out = folds == fold
        predicted[held_out] = make().fit(known.take(~held_out), seed).predict(known.take(held_out))
    return predicted


def tune(
    key: str,
    known: Known,
    seed: int,
    *,
    world: Known | None = None,
    classes: tuple[int, ...] = (),
    inner: int = 3,
    n_jobs: int = 1,
) -> tuple[Method, dict[str, Any]]:
    """Choose a baseline's settings by inner folds of whole units, and fit it to all profiles.

    The candidate of the lowest MAE wins, over all held-out profiles together; at a tie the first. Of fewer than two
    units or eight profiles the first candidate is taken untried.

    Parameters
    ----------
    key
        Of `BASELINES`.
    known
        The region's profiles to learn from.
    seed
        Of the folds and of every fit.
    world
        Profiles of the world for those methods that use them, their units numbered as the region's, as
        `validation.split_units` does. Those in a unit of the region are left out: they may be the same profiles,
        and in the inner folds they would give away what is held out. That none lies where predictions will be
        scored is the caller's to see to.
    classes
        Columns of x that are class codes.
    inner
        Folds, or as many as there are units.
    n_jobs
        Cores that grow a forest.

    Returns
    -------
    method
        Fitted.
    facts
        "settings": the chosen ones. "folds": inner folds, 0 if untried. "candidates": "settings" and "mae" (the
        target's unit; None if untried) of each.

    Raises
    ------
    ValueError
        If the key is unknown, a target missing or negative, or `inner` below 2.
    """
    if key not in BASELINES:
        raise ValueError(f"baseline {key!r}: expected one of {', '.join(BASELINES)}")
    if inner < 2:
        raise ValueError(f"inner = {inner} folds: expected 2 or more")
    y, baseline = _target(known), BASELINES[key]
    if world is not None:
        world = world.take(~np.isin(world.units, known.units))
    given: dict[str, Any] = {"world": world, "classes": classes, "n_jobs": n_jobs}
    asked = signature(baseline.method).parameters
    make = partial(baseline.method, **baseline.fixed, **{name: value for name, value in given.items() if name in asked})
    errors: list[float | None] = [None] * len(baseline.candidates)
    best, count = 0, 0
    if len(known) >= _FEWEST_TUNED and np.unique(known.units).size >= 2:
        folds = inner_folds(known.units, inner, seed)
        count = int(folds.max()) + 1
        tried = [partial(make, **(candidate | dict(baseline.while_tuning))) for candidate in baseline.candidates]
        found = [float(np.abs(held_out_predictions(each, known, folds, seed) - y).mean()) for each in tried]
        best, errors = int(np.argmin(found)), list(found)
    chosen = baseline.candidates[best]
    candidates = [{"settings": dict(each), "mae": error} for each, error in zip(baseline.candidates, errors, strict=True)]
    return make(**chosen).fit(known, seed), {"settings": dict(chosen), "folds": count, "candidates": candidates}
