"""Fitted model: any learner's parts, the meaning of its numbers, its uncertainty and its cross-validation; predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from soilcarbon.categories import middle_cells
from soilcarbon.network.network import as_means
from soilcarbon.network.specification import Specification, unfold_classes
from soilcarbon.regression.parts import Part
from soilcarbon.regression.uncertainty import Uncertainty

MEANS = {"ridge-kriging": ("ridge", "regression-kriging"), "stack": ("taught", "regression-kriging")}
"""Learner -> the two whose predictions, on the scale of the transform, it averages."""
_LARGEST = 30.0
"""Of a prediction of ln(1 + y): e^30 is beyond any target."""


class ModelRecord(BaseModel):
    """Provenance of a fitted model.

    Attributes
    ----------
    reason
        Why this learner, in one sentence.
    cross_validation
        A row per learner: `selection.Selection.table`.
    folds
        Facts of the folds: strategy, side of blocks, groups.
    profiles
        Split -> number of profiles that the model was fitted to.
    rasters
        Of the rasters that the dataset was cut from: crs, cell_size, variables.
    settings
        Of the fit, resolved.
    calibrated_on
        The profiles that the prediction intervals were calibrated on, as text.
    training_mean
        Mean target of the profiles that the model was fitted to; None: not recorded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    reason: str = ""
    cross_validation: tuple[dict[str, str | bool | int | float | None], ...] = ()
    folds: dict[str, Any] = {}
    profiles: dict[str, int] = {}
    rasters: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = {}
    calibrated_on: str | None = None
    training_mean: float | None = None


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A fitted model.

    Attributes
    ----------
    learner
        Key of `learners.LEARNERS`.
    specification
        Categories of covariates, their statistics and classes; target, unit, centre, smearing factor and bounds.
    parts
        Name -> part. Their outputs are added up; of `MEANS` half of the sum is taken.
    uncertainty, record
        From its cross-validation.
    """

    learner: str
    specification: Specification
    parts: Mapping[str, Part]
    uncertainty: Uncertainty = Uncertainty()
    record: ModelRecord = ModelRecord()

    def outputs(self, X: np.ndarray) -> np.ndarray:
        """Return predictions of the transformed target, (n,) float64, without the smearing factor.

        Parameters
        ----------
        X
            (n, 2 + F): longitude and latitude, degrees, and packed covariates, raw units, missing = NaN.
        """
        total = np.sum([part.predict(X) for part in self.parts.values()], axis=0)
        return np.asarray(total / 2 if self.learner in MEANS else total)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return predictions in the target's unit, (n,) float64; see `outputs`."""
        return from_scale(self.outputs(X), self.specification)

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """Return predictions of any shape as means, which may be summed over an area."""
        return as_means(predicted[None], self.specification)[0]

    def predictors(self, x: np.ndarray) -> np.ndarray:
        """Return the predictors (n, p) of the area of applicability for packed covariates (n, F)."""
        return self.predictors_of_cells(middle_cells(x, self.specification.categories))

    def predictors_of_cells(self, cells: np.ndarray) -> np.ndarray:
        """Return the same for the variables' values in the places' own cells (n, V)."""
        return unfold_classes(cells, self.specification)


def from_scale(outputs: np.ndarray, specification: Specification) -> np.ndarray:
    """Return predictions in the target's unit from the transformed target: of ln(1 + y) the median, or the mean by smearing."""
    predicted = outputs
    if specification.target_transform == "log1p":
        factor = specification.smearing[0] if specification.center == "mean" and specification.smearing else 1.0
        predicted = np.exp(np.minimum(outputs, _LARGEST)) * factor - 1
    return predicted if specification.bounds is None else np.clip(predicted, *specification.bounds)
