"""What drivers are read from: soil carbon made comparable, three learners of it, their skill, and noise that makes targets alike.

In: covariates (N, V), a target (N,) in any unit. Out: answers on one scale, fitted learners, out-of-fold predictions. Covariates
must be complete (`supports` fills and counts gaps). All randomness is from the seed.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder

from soilcarbon.benchmark.forests import Forest, new_forest
from soilcarbon.categories import Category

_DRAWS = 3000
"""Rows that a tree of the forest is grown from, at most; all together see many more."""
_FLOOR = 0.05
"""Of the median: carbon below it is all but none, and its logarithm must not decide."""
_ALIKE = 1e-9
_MATCHING_STEPS = 4
_STEPS = 24
"""Of the network, in an epoch."""
_WITHIN = 0.01
"""Of R2: skills that differ by less are alike."""


class Fitted(Protocol):
    """What a learner has become."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return answers (n,) at covariates (n, V)."""


def answers(y: np.ndarray) -> np.ndarray:
    """Return ln(0.05 + y / median) less its mean, (N,) float64: the scale all targets are compared on.

    Stocks in kg/m2 and contents in g/kg get the same answers if they are proportional, whatever the unit. What is left to
    compare is how carbon is distributed, not how much there is. Answers are not divided by their spread: where a model
    overdoes one driver its carbon varies more, and every other driver would then seem to matter less.

    Raises
    ------
    ValueError
        If a value is missing or negative, or all are alike.
    """
    y = np.asarray(y, np.float64)
    if not (np.isfinite(y) & (y >= 0)).all():
        raise ValueError(f"{int((~(np.isfinite(y) & (y >= 0))).sum())} of {y.size} values are not finite and 0 or more")
    positive = y[y > 0]
    if positive.size == 0:
        raise ValueError("all values are zero")
    logs = np.log(_FLOOR + y / np.median(positive))
    if np.ptp(logs) < _ALIKE:
        raise ValueError("all values are alike")
    return np.asarray(logs - logs.mean())


def fit(name: str, x: np.ndarray, z: np.ndarray, categories: Sequence[Category], seed: int) -> Fitted:
    """Fit a learner.

    Parameters
    ----------
    name
        "boosting", "forest" or "network".
    x, z
        (n, V) covariates and (n,) answers.
    categories
        What the columns are, of radius 0: the network's branches.
    seed
        Of all that is random.
    """
    if name == "network":
        return _Network(categories, seed).fit(x, z)
    trees: Any
    if name == "boosting":
        trees = HistGradientBoostingRegressor(
            learning_rate=0.15, max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=seed
        )
    else:
        draws = min(1.0, _DRAWS / len(x))
        trees = new_forest(Forest(max_features=0.25, min_samples_leaf=5, trees=30), seed, max_samples=draws)
    coded = np.array([each.kind == "classes" for each in categories for _ in each.variables])
    return Ordered(trees, np.flatnonzero(coded), seed).fit(x, z) if coded.any() else trees.fit(x, z)


class Ordered:
    """Trees that meet each class as the mean answer of its places, so that a split parts rich classes from poor ones.

    By their codes, classes would have to be cut out one by one. The means that trees are fitted on are of other places each
    (scikit-learn's `TargetEncoder`), and drawn towards the mean of all where a class has few.

    Attributes
    ----------
    trees
        Fitted on what `seen` returns.
    """

    def __init__(self, trees: Any, columns: np.ndarray, seed: int) -> None:
        self.trees, self._columns = trees, columns
        self._encoder = TargetEncoder(target_type="continuous", cv=KFold(5, shuffle=True, random_state=seed))

    def fit(self, x: np.ndarray, z: np.ndarray) -> "Ordered":
        """Fit encoder and trees to covariates (n, V) and answers (n,)."""
        means = self._encoder.fit_transform(x[:, self._columns], z)
        self.trees.fit(self._with(x, means), z)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return answers (n,) at covariates (n, V)."""
        return np.asarray(self.trees.predict(self.seen(x)))

    def seen(self, x: np.ndarray) -> np.ndarray:
        """Return covariates (n, V) as the trees meet them; a class that is new becomes the mean of all."""
        return self._with(x, self._encoder.transform(x[:, self._columns]))

    def _with(self, x: np.ndarray, means: np.ndarray) -> np.ndarray:
        found = x.copy()
        found[:, self._columns] = means
        return found


class _Network:
    """Be the network, as an estimator of answers, which it takes from 0 up."""

    def __init__(self, categories: Sequence[Category], seed: int) -> None:
        from soilcarbon.estimator import SoilCarbonRegressor  # here: slow to import

        settings: dict[str, Any] = {"epochs": 8, "lr": 4e-3}
        self._network = SoilCarbonRegressor(categories, random_state=seed, **settings)

    def fit(self, x: np.ndarray, z: np.ndarray) -> "_Network":
        self._least = float(z.min())
        batch = min(max(len(x) // _STEPS, 32), 512)  # about as many steps, however many rows
        self._network.set_params(batch_size=batch).fit(x, z - self._least)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network.predict(x).astype(np.float64) + self._least


# --- skill -------------------------------------------------------------------------------------------------------------


def out_of_fold(
    name: str, x: np.ndarray, z: np.ndarray, categories: Sequence[Category], folds: np.ndarray, seed: int
) -> np.ndarray:
    """Return predictions (N,) of each fold (0..k-1) by a learner fitted without it."""
    predicted = np.empty(len(z))
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        predicted[held_out] = fit(name, x[~held_out], z[~held_out], categories, seed).predict(x[held_out])
    return predicted


def efficiency(z: np.ndarray, predicted: np.ndarray) -> float:
    """Return R2 = 1 - SSE / SST of answers (n,)."""
    return float(1 - np.mean((z - predicted) ** 2) / np.var(z))


# --- noise -------------------------------------------------------------------------------------------------------------


def flipped(residuals: np.ndarray, units: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return residuals (N,) whose sign is drawn anew for each block (Cameron et al. 2008, Rev. Econ. Stat. 90, 414-427).

    Their sizes, and how they agree within a block, stay; on what they depended is lost.
    """
    _, member = np.unique(units, return_inverse=True)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], member.max() + 1)
    return np.asarray(residuals * signs[member])


def matching_noise(
    name: str,
    x: np.ndarray,
    z: np.ndarray,
    categories: Sequence[Category],
    folds: np.ndarray,
    units: np.ndarray,
    residuals: np.ndarray,
    wanted: float,
    seed: int,
) -> tuple[float, float]:
    """Find how much of the observations' residuals makes a model's output as hard to learn as the observations.

    A model's output has no measurement error and no soil that covariates do not show, so that its weaker drivers are learnt
    more fully; told beside observations, they would seem to matter more even if both obeyed one law.

    Parameters
    ----------
    name, x, z, categories, folds, seed
        Learner, covariates (N, V), the model's answers (N,), and how it is cross-validated.
    units
        (N,) blocks.
    residuals
        (N,) of the observations' answers, out of fold.
    wanted
        R2 of the observations, out of fold.

    Returns
    -------
    factor, r2
        Of the residuals to be added, 0 where the model is no easier to learn; the R2 then found.
    """

    def found(factor: float) -> float:
        noisy = z + factor * flipped(residuals, units, [seed, 99])
        return efficiency(noisy, out_of_fold(name, x, noisy, categories, folds, seed))

    easiest = found(0.0)
    if easiest <= wanted + _WITHIN:
        return 0.0, easiest
    # noise that is no one's signal adds to the variance, so that 1 / R2 is nearly a line in the factor squared
    factor, tried = float(np.sqrt((easiest / wanted - 1) * np.var(z) / np.var(residuals))), []
    for _ in range(_MATCHING_STEPS):
        tried.append((factor, found(factor)))
        r2 = max(tried[-1][1], _WITHIN)
        if abs(r2 - wanted) <= _WITHIN:
            break
        factor *= float(np.sqrt((1 / wanted - 1 / easiest) / (1 / r2 - 1 / easiest))) if r2 < easiest else 2.0
    return min(tried, key=lambda each: abs(each[1] - wanted))
