"""What zoned forests are told about themselves: how wrong they may be at a place and over an area, and where they may be used.

In: a fitted method, its profiles, and what was predicted of them while their fold was held out. Out: `Assurance`, which is kept
with the forests.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from soilcarbon.benchmark.baselines import Known
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.training.uncertainty import FEWEST, FEWEST_UNITS
from soilcarbon.zonal.forest import ZonedForest

log = logging.getLogger(__name__)
_POINTS = 2000
"""Profiles that a model carries to tell what is unlike them."""


@dataclass(frozen=True)
class Assurance:
    """What is known; None where it is not.

    Attributes
    ----------
    calibration
        Intervals of a place; its groups are the zones.
    errors
        Errors over an area.
    applicability, predictors
        Where the forests may be used, and the columns of x that it looks at.
    """

    calibration: ConformalCalibration | None = None
    errors: ErrorField | None = None
    applicability: ApplicabilityArea | None = None
    predictors: tuple[int, ...] = ()


def assure(method: ZonedForest, known: Known, held_out: pd.DataFrame, predicted: str, period: np.ndarray, seed: int) -> Assurance:
    """Learn everything that can be.

    Intervals are calibrated on the scale of ln(1 + target), each zone by itself where it has blocks enough: they widen in
    proportion to the prediction. The area of applicability is one for all zones: a place in one zone that is like profiles of
    another lies inside.

    Parameters
    ----------
    method
        Fitted to all profiles.
    known
        Those.
    held_out
        Of `zonedscores.hold_out`, of all folds, a row for each profile in their order.
    predicted
        Its column of predictions, made as the method makes them at a boundary.
    period
        (n,) a number for the period of each profile.
    seed
        Of what is drawn.
    """
    y, fitted = held_out["observed"].to_numpy(np.float64), held_out[predicted].to_numpy(np.float64)
    folds, labels = held_out["fold"].to_numpy(), method.labels(known)
    names, units = np.array(method.zones.names), known.units
    calibration = errors = applicability = None
    if len(y) >= FEWEST:
        blocks = np.unique(units).size >= FEWEST_UNITS
        each = units if blocks else np.arange(len(y))
        calibration = ConformalCalibration.fit(
            y, fitted, scale="log1p", symmetric=False, groups=each, strata=names[labels], smallest_stratum=FEWEST_UNITS
        )
    else:
        log.warning("no intervals: %d profiles were held out, at least %d are needed", len(y), FEWEST)
    try:
        errors = ErrorField.fit(y, fitted, labels, len(names), np.column_stack([known.lon, known.lat]), period, seed)
    except ValueError as error:
        log.warning("no intervals of totals: %s", error)
    predictors, weights = _importance(method)
    try:
        applicability = ApplicabilityArea.fit(known.x[:, predictors], weights, folds, _POINTS, seed)
    except ValueError as error:
        log.warning("no area of applicability: %s", error)
    return Assurance(calibration, errors, applicability, predictors if applicability else ())


def _importance(method: ZonedForest) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the columns of x that any forest uses, and how important they are to the forests, weighted by their profiles."""
    total: dict[int, float] = {}
    for name, forest in method.forests.items():
        for column, importance in zip(forest.columns, forest.forest.feature_importances_, strict=True):
            total[column] = total.get(column, 0.0) + float(importance) * method.counts[name]
    columns = tuple(sorted(total))
    return columns, np.array([total[column] for column in columns])
