"""Learners of soil carbon, their cross-validation, and noise that makes a model's output as hard to predict as observations.

In: covariates (N, V) without gaps and a target (N,) in any unit. Out: log targets on one scale, fitted learners, out-of-fold
predictions. All randomness comes from the seed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import TargetEncoder

from soilcarbon.categories import Category

_TREE_ROWS = 3000
"""Rows drawn for a tree of the forest, at most."""
_FLOOR = 0.05
"""Share of the median, added before the logarithm, so that values near 0 do not dominate."""
_MATCHING_STEPS = 4
_EPOCH_STEPS = 24
"""Optimiser steps of the network in an epoch, about."""
_SCHEDULE: dict[str, Any] = {"teacher": "none", "members": 1, "target_transform": "none", "epochs": 8, "lr": 4e-3}
"""Of the network, which is one of many learners here and must be quick."""
_TOLERANCE = 0.01
"""Of R2, within which two skills count as equal."""


class Fitted(Protocol):
    """A fitted regressor."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (n,) at covariates (n, V)."""


def log_target(y: np.ndarray) -> np.ndarray:
    """Return ln(0.05 + y / median) less its mean: the log scale on which all targets (N,), 0 or more in any unit, are compared.

    Stocks in kg/m2 and contents in g/kg become equal if they are proportional; what is compared is how carbon is distributed, not
    how much there is. It is not divided by its spread: where a model exaggerates one driver its carbon varies more, and all other
    drivers would then seem to matter less. ValueError if a value is missing or negative, or all are equal.
    """
    y = np.asarray(y, np.float64)
    if bad := int((~(np.isfinite(y) & (y >= 0))).sum()):
        raise ValueError(f"{bad} of {y.size} values are not finite and 0 or more")
    if not (y > 0).any():
        raise ValueError("all values are zero")
    logs = np.log(_FLOOR + y / np.median(y[y > 0]))
    if np.ptp(logs) < 1e-9:
        raise ValueError("all values are equal")
    return np.asarray(logs - logs.mean())


def fit(name: str, x: np.ndarray, z: np.ndarray, categories: Sequence[Category], seed: int) -> Any:
    """Fit "boosting", "forest" or "network" to covariates (n, V) of categories of radius 0, and targets (n,).

    Trees get each class code as the mean target of its places, so that one split separates rich classes from poor ones. The means
    used in training are of other places each (scikit-learn's `TargetEncoder`), shrunk to the overall mean where a class is rare.
    """
    trees: Any
    if name == "network":
        return NetworkLearner(categories, seed).fit(x, z)
    if name == "boosting":
        trees = HistGradientBoostingRegressor(
            learning_rate=0.15, max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=seed
        )
    else:
        share = min(1.0, _TREE_ROWS / len(x))
        trees = RandomForestRegressor(30, max_features=0.25, min_samples_leaf=5, max_samples=share, random_state=seed, n_jobs=1)
    if not any(each.kind == "classes" for each in categories):
        return trees.fit(x, z)
    ends = np.cumsum([len(each.variables) for each in categories]).tolist()
    means = TargetEncoder(target_type="continuous", cv=KFold(5, shuffle=True, random_state=seed))
    parts = [
        (each.name, means if each.kind == "classes" else "passthrough", slice(end - len(each.variables), end))
        for each, end in zip(categories, ends, strict=True)
    ]
    return Pipeline([("encoder", ColumnTransformer(parts)), ("trees", trees)]).fit(x, z)


class NetworkLearner(RegressorMixin, BaseEstimator):
    """Wrap SoilCarbonRegressor as a learner: targets are shifted to start at 0, and the batch grows with the rows."""

    def __init__(self, categories: Sequence[Category], seed: int = 0) -> None:
        self.categories, self.seed = categories, seed

    def fit(self, x: np.ndarray, z: np.ndarray) -> Self:
        """Train the network on covariates (n, V) and targets (n,)."""
        from soilcarbon.estimator import SoilCarbonRegressor  # slow to import, and not every analysis uses it

        self.least_ = float(z.min())
        batch = min(max(len(x) // _EPOCH_STEPS, 32), 512)
        network = SoilCarbonRegressor(self.categories, random_state=self.seed, **_SCHEDULE, batch_size=batch)
        self.network_ = network.fit(x, z - self.least_)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (n,) float64 at covariates (n, V)."""
        return np.asarray(self.network_.predict(x).astype(np.float64) + self.least_)


class CrossValidation(NamedTuple):
    """Covariates, folds and seed of out-of-fold predictions."""

    x: np.ndarray  # x, categories: (N, V) covariates, and the categories of their columns
    categories: Sequence[Category]
    folds: np.ndarray  # (N,) 0..k-1
    seed: int

    def predict(self, name: str, z: np.ndarray) -> np.ndarray:
        """Return predictions (N,) of targets (N,): of each fold by a learner fitted without it."""
        predicted = np.empty(len(z))
        for fold in range(int(self.folds.max()) + 1):
            test = self.folds == fold
            predicted[test] = fit(name, self.x[~test], z[~test], self.categories, self.seed).predict(self.x[test])
        return predicted


def flip_signs(residuals: np.ndarray, blocks: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return residuals (N,) multiplied by one random sign per block: the wild cluster bootstrap's draw.

    Their sizes and their agreement within a block stay; what they depended on is lost (Cameron et al. 2008, Rev. Econ. Stat. 90,
    414-427).
    """
    _, member = np.unique(blocks, return_inverse=True)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], member.max() + 1)
    return np.asarray(residuals * signs[member])


def matching_noise(
    validation: CrossValidation, name: str, z: np.ndarray, residuals: np.ndarray, blocks: np.ndarray, wanted: float
) -> tuple[float, float]:
    """Find the multiple of the observations' residuals that makes a model's output as hard to predict as the observations.

    A model's output has no measurement error and no soil that covariates do not describe, so its weaker drivers are fitted more
    fully; beside observations they would seem to matter more even if both followed the same relationship. z (N,) are log targets of
    the model; residuals (N,) and R2 (`wanted`) of the observations, out of fold. Returns the multiple, 0 where the model is no
    easier to predict, and the R2 reached.
    """
    noise = flip_signs(residuals, blocks, [validation.seed, 99])

    def skill(factor: float) -> float:
        noisy = z + factor * noise
        return float(r2_score(noisy, validation.predict(name, noisy)))

    easiest = skill(0.0)
    if easiest <= wanted + _TOLERANCE:
        return 0.0, easiest
    # unexplained noise adds to the variance, so that 1 / R2 is nearly linear in the squared factor
    factor, tried = float(np.sqrt((easiest / wanted - 1) * np.var(z) / np.var(residuals))), []
    for _ in range(_MATCHING_STEPS):
        tried.append((factor, skill(factor)))
        r2 = max(tried[-1][1], _TOLERANCE)
        if abs(r2 - wanted) <= _TOLERANCE:
            break
        factor *= float(np.sqrt((1 / wanted - 1 / easiest) / (1 / r2 - 1 / easiest))) if r2 < easiest else 2.0
    return min(tried, key=lambda each: abs(each[1] - wanted))
