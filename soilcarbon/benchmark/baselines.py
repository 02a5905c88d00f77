"""What a map of a region can be made with: one interface for all methods, and those that are neither forest nor kriging.

In: profiles as arrays (`Known`). Out: methods that predict the target at places. Nothing is random but by the seed. Boosting
uses as many cores as OMP_NUM_THREADS allows, so set it to 1 where several processes fit side by side.
"""

from dataclasses import dataclass, field, fields
from typing import Literal, Protocol, Self

import numpy as np
from scipy.spatial import cKDTree
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.preprocessing import OneHotEncoder

from soilcarbon.stats.variogram import arc_km, unit_vectors

_SAME_PLACE_KM = 0.001
"""Nearer than this, two profiles lie at one place."""
_CLIP_SD = 4.0
"""A linear model follows an outlying input without end; the network's inputs are clipped at as many (`clip_inputs`)."""
CHUNK_VALUES = 4_000_000
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
        (n,) int64, the place or block of each profile (`groups.spatial_groups`); inner folds never part one.

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


def target_of(known: Known) -> np.ndarray:
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


def from_log(log_y: np.ndarray, largest: float) -> np.ndarray:
    """Return expm1 of predictions, kept within 0 and the largest target learnt from.

    Methods that extrapolate on the log scale need it: one place outside the range of the profiles would else be
    given thousands of g/kg and decide every score. Means over profiles (mean, distance, forests) cannot leave it.
    """
    return np.minimum(np.expm1(np.clip(log_y, 0, np.log1p(largest))), largest)


def nearest_of(points: np.ndarray, at: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
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
        self._mean = float(target_of(known).mean())
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
        self._y, self._points = target_of(known), unit_vectors(known.lon, known.lat)
        return self

    def predict(self, places: Known) -> np.ndarray:
        """Return the weighted means, (m,)."""
        chord, near = nearest_of(self._points, unit_vectors(places.lon, places.lat), self.neighbours)
        km = arc_km(chord)
        here = km <= _SAME_PLACE_KM
        far = (km[:, :1] / np.maximum(km, _SAME_PLACE_KM)) ** self.power  # relative to the nearest: no overflow
        weight = np.where(here.any(1, keepdims=True), here, far)
        return np.asarray((weight * self._y[near]).sum(1) / weight.sum(1))


# --- linear ------------------------------------------------------------------------------------------------------


@dataclass
class RidgeRegression:
    """Linear in ln(1 + y), with shrinkage. Predictions stay within 0 and the largest target (`from_log` says why).

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
        y, x = target_of(known), self._numbers(known.x)
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
        return from_log(self._model.predict(self._design(places.x)), self._largest)


# --- boosting ---------------------------------------------------------------------------------------------------------


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
        y = target_of(known)
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
        return from_log(self._model.predict(self._filled(places.x)), self._largest)
