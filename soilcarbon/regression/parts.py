"""Parts of fitted models: what a learner has learnt, in a form that predicts and that a file can hold.

Each part predicts the transformed target (ln(1 + y) or y) for X (n, 2 + F): longitude, latitude, packed covariates. It turns into
plain facts and arrays of numbers, and back; whatever comes from a file is checked. `PARTS` lists the kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.tree._tree import Tree

from soilcarbon.categories import Category, middle_cells, without_windows
from soilcarbon.network.network import Record, SoilCarbonNet, predict
from soilcarbon.network.specification import Encoder, Specification
from soilcarbon.regression import trees as tree_arrays
from soilcarbon.regression.estimators import POSITION
from soilcarbon.regression.trees import MAX_VALUE
from soilcarbon.stats.variogram import EARTH_KM, unit_vectors

Arrays = dict[str, np.ndarray]
_CHUNK_VALUES = 4_000_000
"""Numbers of one intermediate array."""


class Part(Protocol):
    """What all parts have in common."""

    kind: ClassVar[str]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the transformed target, or what is to be added to it, (n,) float64."""

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """Return plain facts and arrays."""

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Part":
        """Make it from `to_plain`'s content, which may come from an untrusted file; ValueError, TypeError, KeyError otherwise."""


def per_cell(specification: Specification) -> Specification:
    """Return a specification of the profiles' own cells, without windows."""
    return specification.changed(categories=without_windows(specification.categories))


def transformed(y: np.ndarray, specification: Specification) -> np.ndarray:
    """Return targets on the scale that parts predict: ln(1 + y), or y."""
    return np.log1p(np.maximum(y, 0)) if specification.target_transform == "log1p" else np.asarray(y, np.float64)


def own_cells(X: np.ndarray, categories: tuple[Category, ...]) -> np.ndarray:
    """Return each variable's value in the profile's own cell, (n, V) float32: trees and linear regression see no windows."""
    return np.ascontiguousarray(middle_cells(X[:, POSITION:], categories), np.float32)


def encoded_cells(X: np.ndarray, specification: Specification) -> np.ndarray:
    """Return the profiles' own cells as a network takes them, (n, E) float32: standardised, filled, clipped, classes as 0 and 1."""
    with torch.no_grad():
        cells = torch.from_numpy(own_cells(X, specification.categories))
        return np.asarray(Encoder(per_cell(specification))(cells).numpy())


def _numbers(arrays: Mapping[str, np.ndarray], name: str, *shape: int | None) -> np.ndarray:
    """Return an array of an untrusted file as float64, checked: its shape (None: any length) and that all is finite."""
    array = arrays[name]
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype.kind != "f" or not fits or not (np.abs(array) <= MAX_VALUE).all():
        raise ValueError(f"{name}: not an array of finite numbers of its shape")
    return array.astype(np.float64)


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts[name]
    if type(value) not in (int, float) or not abs(value) <= MAX_VALUE:
        raise ValueError(f"{name}: not a finite number")
    return float(value)


@dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float
    kind: ClassVar[str] = "constant"

    def predict(self, X: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return np.full(len(X), self.value)

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """See `Part`."""
        return {"value": self.value}, {}

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Constant":  # noqa: ARG003
        """See `Part`."""
        return cls(_number(facts, "value"))


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear function of the encoded cells: intercept and coefficients (E,)."""

    specification: Specification
    intercept: float
    coefficients: np.ndarray
    kind: ClassVar[str] = "linear"

    def predict(self, X: np.ndarray) -> np.ndarray:
        """See `Part`."""
        return np.asarray(encoded_cells(X, self.specification) @ self.coefficients + self.intercept)

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """See `Part`."""
        return {"intercept": self.intercept}, {"coefficients": self.coefficients}

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Linear":
        """See `Part`."""
        width = per_cell(specification).input_width
        return cls(specification, _number(facts, "intercept"), _numbers(arrays, "coefficients", width))


@dataclass(frozen=True, eq=False)
class Trees:
    """Mean of regression trees of the cells, times `scale`, plus `offset`: a forest, or boosted trees.

    Trees of a forest send missing values where such profiles went in training; boosted ones see the mean (`filled`).
    """

    specification: Specification
    trees: tuple[Tree, ...]
    scale: float = 1.0
    offset: float = 0.0
    filled: bool = False
    kind: ClassVar[str] = "trees"

    def predict(self, X: np.ndarray) -> np.ndarray:
        """See `Part`."""
        cells = cells_of_trees(X, self.specification, self.filled)
        total = np.zeros(len(cells))
        for tree in self.trees:
            total += tree.predict(cells).ravel()
        return total / len(self.trees) * self.scale + self.offset

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """See `Part`."""
        return {"scale": self.scale, "offset": self.offset, "filled": self.filled}, tree_arrays.to_arrays(self.trees)

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Trees":
        """See `Part`."""
        if type(facts["filled"]) is not bool:
            raise ValueError("filled: neither true nor false")
        width = sum(len(each.variables) for each in specification.categories)
        fitted = tuple(tree_arrays.from_arrays(arrays, width))
        return cls(specification, fitted, _number(facts, "scale"), _number(facts, "offset"), facts["filled"])


def cells_of_trees(X: np.ndarray, specification: Specification, filled: bool) -> np.ndarray:
    """Return the cells (n, V) float32 as trees take them: codes of classes as they are, missing as NaN or filled."""
    cells = own_cells(X, specification.categories)
    cells[np.isinf(cells)] = np.nan
    if filled:
        names = [name for category in specification.categories for name in category.variables]
        means = np.array([(specification.statistics or {}).get(name, (-1.0, 1.0))[0] for name in names], np.float32)
        cells = np.where(np.isnan(cells), means, cells)  # -1 for a class: another one
    return cells


@dataclass(frozen=True, eq=False)
class Kriged:
    """Simple kriging of residuals by an exponential variogram: sum over profiles of weight x sill x exp(-distance / scale).

    Attributes
    ----------
    points
        (P, 3) profiles as unit vectors.
    weights
        (P,) inverse of their covariance matrix, with the nugget, times the residuals.
    sill, scale_km
        Of the variogram.
    """

    points: np.ndarray
    weights: np.ndarray
    sill: float
    scale_km: float
    kind: ClassVar[str] = "kriged"

    def predict(self, X: np.ndarray) -> np.ndarray:
        """See `Part`; 0 where the position is not known."""
        found, step = np.zeros(len(X)), max(1, _CHUNK_VALUES // max(len(self.points), 1))
        known = np.flatnonzero(np.isfinite(X[:, :POSITION]).all(axis=1))
        for start in range(0, len(known), step):
            rows = known[start : start + step]
            distance = cdist(unit_vectors(X[rows, 0], X[rows, 1]), self.points)
            distance *= -EARTH_KM / self.scale_km
            found[rows] = self.sill * (np.exp(distance, out=distance) @ self.weights)
        return found

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """See `Part`."""
        return {"sill": self.sill, "scale_km": self.scale_km}, {"points": self.points, "weights": self.weights}

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Kriged":  # noqa: ARG003
        """See `Part`."""
        sill, scale = _number(facts, "sill"), _number(facts, "scale_km")
        points = _numbers(arrays, "points", None, 3)
        if sill < 0 or scale <= 1e-6 or not np.allclose((points**2).sum(axis=1), 1, atol=1e-6):
            raise ValueError("a variogram or a position that there cannot be")
        return cls(points, _numbers(arrays, "weights", len(points)), sill, scale)


@dataclass(frozen=True, eq=False)
class Network:
    """A network, or an ensemble of networks, which takes windows."""

    network: SoilCarbonNet
    kind: ClassVar[str] = "network"

    def predict(self, X: np.ndarray) -> np.ndarray:
        """See `Part`."""
        x = np.ascontiguousarray(X[:, POSITION:], np.float32)
        return transformed(predict(self.network, x)[0].astype(np.float64), self.network.specification)

    def to_plain(self) -> tuple[dict[str, Any], Arrays]:
        """See `Part`."""
        facts = self.network.get_extra_state()
        tensors = {name: each.detach().cpu().numpy() for name, each in self.network.named_parameters()}
        return {"specification": facts["specification"], "record": facts["record"], "version": facts["version"]}, tensors

    @classmethod
    def from_plain(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], specification: Specification) -> "Network":
        """See `Part`."""
        own = Specification(**facts["specification"])
        same = ("categories", "target_transform")
        if own.statistics is None or any(getattr(own, name) != getattr(specification, name) for name in same):
            raise ValueError("its network has other inputs than the model")
        with torch.device("meta"):
            shapes = {name: tuple(each.shape) for name, each in SoilCarbonNet(own).named_parameters()}
        if set(shapes) != set(arrays) or any(arrays[name].dtype.kind != "f" for name in shapes):
            raise ValueError("its tensors are not those of its network")
        tensors = {name: _numbers(arrays, name, *shape) for name, shape in shapes.items()}  # before anything of that size is made
        network = SoilCarbonNet(own, Record.model_validate(facts["record"]))
        network.load_state_dict(
            {name: torch.from_numpy(each.astype(np.float32)) for name, each in tensors.items()}
            | {"_extra_state": {"record": facts["record"], "version": facts["version"]}}
        )
        return cls(network.eval())


PARTS: dict[str, type[Part]] = {each.kind: each for each in (Constant, Linear, Trees, Kriged, Network)}
"""Kind -> class."""
