"""Maps by regression models with calibrated intervals and correlated errors: what networks, zoned forests and fitted models share.

The interval of a cell is calibrated on held-out profiles. The interval of a total or of a change comes from simulated error fields
with the correlation that held-out errors have in space and between periods (`stats.error_field`).
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.zonal_statistics import LOWER, UPPER, Sums
from soilcarbon.io.files import UserError
from soilcarbon.mapping.areal import change_bands, change_interval, described, deviation_of_change, sums_with_errors, with_change
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.predictor import Place, Predicted, Predictor
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.soil.dataset import Statistics
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.training.uncertainty import check_level


class RegressionPredictor(Predictor):
    """Map with a regression model, its calibration and its error field."""

    version = ("scikit-learn", metadata.version("scikit-learn"))
    strata: tuple[str | None, ...] = (None,)  # of the calibration, one for each zone of a prediction's weights; None: not by zone
    precision: type[np.floating[Any]] = np.float64  # of predictions that are summed

    def __init__(self, path: Path, uncertainty: Uncertainty) -> None:
        self.path, self.uncertainty = path, uncertainty
        self.applicability = uncertainty.applicability
        self.errors = uncertainty.errors

    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """See `Predictor`."""
        if stats is not None or missing is not None:
            raise UserError(f"{self.path}: has its own statistics and rule for missing cells; drop --stats and --missing")
        return None

    def check_level(self, level: float) -> None:
        """See `Predictor`."""
        check_level(self.uncertainty.calibration, level, self.strata)

    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """See `Predictor`."""
        values = predicted.members[0]
        if self.uncertainty.calibration is None:
            return predicted.members
        found = np.where(np.isfinite(values), np.stack([values, *np.zeros((2, *values.shape))]), np.nan)
        for name, weight in zip(self.strata, _weights(predicted), strict=True):  # the ends pass from zone to zone as predictions do
            here = weight > 0
            found[1:, here] += weight[here] * np.stack(self.uncertainty.calibration.interval(values[here], level, name))
        return found.astype(np.float32)

    def change(self, place: Place, maps: Mapping[str, Predicted], level: float) -> np.ndarray:
        """See `Predictor`; with the interval of the error model, or else of the members' own differences."""
        first, *_, last = maps.values()
        members = last.members - first.members
        if self.errors is None:
            return summary(members.mean(0), members)
        values = {name: self.member_means(each.members).mean(0) for name, each in maps.items()}
        weights = {name: _weights(each) for name, each in maps.items()}
        return change_bands(members.mean(0), deviation_of_change(self.errors, place, values, weights), level)

    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """See `Predictor`; of means, with fields of error or, without an error model, member by member."""
        means = {name: self.member_means(each.members.astype(self.precision)) for name, each in maps.items()}
        if self.errors is None:
            return {name: zones.sums(each, place.km2, place.zones) for name, each in with_change(means).items()}
        values = {name: each.mean(0) for name, each in means.items()}
        weights = {name: _weights(each) for name, each in maps.items()}
        several = any(len(each) > 1 for each in means.values())
        return sums_with_errors(self.errors, place, values, weights, means if several else None)

    def member_means(self, members: np.ndarray) -> np.ndarray:
        """Return the predictions (M, h, w) of members as means, which may be summed over an area."""
        return self.means(members)

    def interval_bands(self, value: str, level: float, change: bool) -> list[Band]:
        """Return the bands behind the prediction, by what it is called."""
        how = "calibrated on profiles held out" + (", by zone" if self.zones else "")
        bands, ends, errors = [], ("lower", "upper"), self.uncertainty.errors
        if not change and self.uncertainty.calibration is not None:
            how = f"end of the {level:.0%} interval of a profile, {how}"
            bands += [Band(name, self.unit, {"MEANING": f"{value}, {name} {how}"}) for name in ends]
        if change and errors is not None:
            bands += change_interval(errors, value, self.unit, level)
        return bands

    def describe_errors(self, errors: ErrorField) -> dict[str, Any]:
        """Return the facts of an error field as plain containers."""
        names = self.zones or ("everywhere",)
        deviations = {name: round(each, 3) for name, each in zip(names, errors.deviations, strict=True)}
        return {"of the square root of 1 + prediction": deviations} | described(errors)


def _weights(predicted: Predicted) -> np.ndarray:
    """Return the weights (Z, h, w) of the error model's zones: those of the prediction, or of the only one."""
    if predicted.weights is not None:
        return predicted.weights
    return np.isfinite(predicted.members.mean(0))[None].astype(np.float32)


def summary(mean: np.ndarray, members: np.ndarray, *interval: np.ndarray) -> np.ndarray:
    """Return the mean, an interval - that given, or the members' quantiles - and the members' standard deviation."""
    several = len(members) > 1
    between = interval or (np.quantile(members, [LOWER, UPPER], axis=0) if several else ())
    return np.stack([mean, *between, *([members.std(0, ddof=1)] if several else [])]).astype(np.float32)
