"""Uncertainty of a fitted model: calibrated intervals, correlated errors for totals, area of applicability; as plain values too."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField, kilometres_apart
from soilcarbon.training.uncertainty import FEWEST, FEWEST_GROUPS, increases

log = logging.getLogger(__name__)
_FEWEST_FOR_INTERVALS = 10
"""Groups: of fewer no interval of 90 % is finite, since an unseen group may err more than all of them."""
_MOST_SHUFFLED = 2000
"""Profiles: importances of more are no other, and cost a prediction of each for every variable."""


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of a model; None where the profiles are too few.

    Attributes
    ----------
    calibration
        Prediction intervals of a place, calibrated on held-out profiles.
    errors
        Spatially correlated errors, for intervals of totals and of changes.
    applicability, predictors
        Area of applicability, and the columns of x it is computed from, where these are not all.
    """

    calibration: ConformalCalibration | None = None
    errors: ErrorField | None = None
    applicability: ApplicabilityArea | None = None
    predictors: tuple[int, ...] = ()

    def to_plain(self) -> tuple[dict[str, Any], np.ndarray]:
        """Return plain containers, and the profiles of the area of applicability (P, p)."""
        estimates = {"calibration": self.calibration, "errors": self.errors}
        plain: dict[str, Any] = {name: None if each is None else each.to_plain() for name, each in estimates.items()}
        if self.applicability is None:
            return plain | {"applicability": None, "predictors": []}, np.zeros((0, 1), np.float32)
        area = self.applicability.to_plain()
        del area["points"]
        return plain | {"applicability": area, "predictors": self.predictors}, self.applicability.points

    @classmethod
    def from_plain(cls, plain: Any, points: np.ndarray, zones: int) -> "Uncertainty":
        """Make it from `to_plain`'s content, which may come from an untrusted file, of a model of so many zones.

        Raises
        ------
        ValueError, TypeError, KeyError
            If the parts do not fit; that the predictors are columns of the model is the caller's to check.
        """
        if not isinstance(plain, dict) or set(plain) != {"calibration", "errors", "applicability", "predictors"}:
            raise ValueError("its uncertainty is not calibration, errors, applicability and predictors")
        calibration = None if plain["calibration"] is None else ConformalCalibration.from_plain(plain["calibration"])
        errors = None if plain["errors"] is None else ErrorField.from_plain(plain["errors"])
        if errors is not None and len(errors.deviations) != zones:
            raise ValueError("its errors are of other zones")
        area, predictors = plain["applicability"], plain["predictors"]
        if area is None:
            return cls(calibration, errors)
        if not isinstance(predictors, list) or not all(type(k) is int for k in predictors):
            raise ValueError("its predictors are not numbers of columns")
        if points.dtype != np.float32 or points.ndim != 2:
            raise ValueError("its points are not of its predictors")
        applicability = ApplicabilityArea.from_plain(area | {"points": points.astype("<f4").tobytes()})
        if points.shape[1] != len(applicability.mean):
            raise ValueError("its area of applicability is of other predictors")
        return cls(calibration, errors, applicability, tuple(predictors))


def calibrate(
    y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, scale: Literal["log1p", "identity"], what: str
) -> tuple[ConformalCalibration | None, str | None]:
    """Calibrate prediction intervals on predictions of profiles held out by folds of whole groups.

    The independent errors are the groups'. Of fewer than `FEWEST_GROUPS` intervals reach equally far down and up, which needs half
    as many, and they widen as the groups become fewer; of fewer than `_FEWEST_FOR_INTERVALS` there are none.

    Parameters
    ----------
    y, predicted
        (n,) in the target's unit.
    groups
        (n,) block or place of each.
    scale
        Where errors are measured.
    what
        What groups are, as text: "blocks" or "places".

    Returns
    -------
    calibration, calibrated_on
        The calibration and what it is based on as text; None where there are too few.
    """
    n, count = len(y), np.unique(groups).size
    if n < FEWEST or count < _FEWEST_FOR_INTERVALS:
        needed = f"at least {FEWEST} in {_FEWEST_FOR_INTERVALS} are needed"
        log.warning("no prediction intervals: %d profiles in %d %s, %s", n, count, what, needed)
        return None, None
    few = count < FEWEST_GROUPS
    if few:
        log.warning("prediction intervals are wide: calibrated on %d %s only; %d would be better", count, what, FEWEST_GROUPS)
    low = min(0.0, float(y.min()))
    calibration = ConformalCalibration.fit(y, predicted, scale=scale, symmetric=few, groups=groups, bounds=(low, None))
    return calibration, f"{n} profiles held out by folds, standing for new {what} ({count})"


def error_field(
    y: np.ndarray, means: np.ndarray, lonlat: np.ndarray, folds: np.ndarray, seed: int, fitted: np.ndarray,
    period: np.ndarray | None = None,
) -> ErrorField | None:  # fmt: skip
    """Return the error model of totals from predictions of means (n,) at places (n, 2) held out by folds; None if it has none.

    `fitted` (n,): what the model of the map, which has seen them, predicts there. `period` (n,): as `Dataset.period`.
    """
    one = np.zeros(len(y), np.int64)
    if min(y.min(), means.min()) < 0:
        log.warning("no intervals of totals: errors are relative to predictions, and some values are negative")
        return None
    try:
        when, apart = one if period is None else period, kilometres_apart(lonlat, folds)
        return ErrorField.fit(y, means, one, 1, lonlat, when, seed, apart, fitted, timeless=True)
    except ValueError as error:
        log.warning("no intervals of totals: %s", error)
        return None


def permutation_importance(
    outputs: Callable[[np.ndarray], np.ndarray], X: np.ndarray, target: np.ndarray, columns: Mapping[str, slice], seed: int
) -> dict[str, float]:
    """Return the permutation importance of each variable: the increase of the mean squared error when it is shuffled.

    Parameters
    ----------
    outputs
        Predicts the transformed target for X.
    X, target
        (n, 2 + F) and (n,) of profiles, of at most `_MOST_SHUFFLED` of which it is taken.
    columns
        Variable -> its columns of X.
    seed
        Of the one shuffle, by which all variables are shuffled alike.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(target))[:_MOST_SHUFFLED])
    X, target = X[rows], target[rows]
    order = random.permutation(len(target))
    return increases(lambda shuffled: float(np.mean((outputs(shuffled) - target) ** 2)), X, columns, order)


def applicability(x: np.ndarray, weights: np.ndarray, folds: np.ndarray, seed: int) -> ApplicabilityArea | None:
    """Return the area of applicability of predictors (n, p) weighted by importance; None where no distance is defined."""
    try:
        return ApplicabilityArea.fit(x, weights, folds, seed=seed)
    except ValueError as error:
        log.warning("no area of applicability: %s", error)
        return None
