"""Uncertainty of a fitted model: calibrated intervals, correlated errors for totals, area of applicability; as plain values too."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField


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
