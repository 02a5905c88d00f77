"""Predictor of maps: what networks, fitted models and forests by climate zone share.

A `Predictor` predicts blocks of covariates, gives the uncertainty of a cell and of an area, and describes its bands. Nothing else
of mapping depends on what kind of model it is. `tiles.open_predictor` opens one.

The interval of a cell is calibrated on held-out profiles. The interval of a total or of a change comes from simulated error fields
with the correlation that held-out errors have in space and between periods (`stats.error_field`).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import norm

from soilcarbon.categories import Category
from soilcarbon.geo import zonal_statistics
from soilcarbon.geo.grid import Grid, Tile, cell_sizes, lonlat
from soilcarbon.geo.zonal_statistics import LOWER, UPPER, Sums
from soilcarbon.io.files import UserError
from soilcarbon.io.nodata import given_nodata
from soilcarbon.mapping.areal import (
    CHANGE,
    Place,
    change_interval,
    described,
    deviation_of_change,
    sums_with_errors,
    with_change,
)
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.native import Windows
from soilcarbon.network.specification import Specification
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.soil.dataset import Statistics
from soilcarbon.soil.target import Target
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.training.uncertainty import check_level

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """A predicted block of a map."""

    members: np.ndarray  # (M, h, w) in the target's unit, whose mean is the prediction; NaN where there is none
    zone: np.ndarray | None = None  # (h, w) int, index of the model's own zone; -1 where unknown. None of a model without zones.
    # (Z, h, w) membership of a cell in each of them: 0 to 1, adding up to 1 where there is a prediction
    weights: np.ndarray | None = None


class Cells(NamedTuple):
    """The cells of a tile of a grid, and the windows there of categories that are read on their own grid, by number."""

    grid: Grid
    tile: Tile
    native: Mapping[int, Windows] = MappingProxyType({})

    def lonlat(self, wanted: np.ndarray) -> np.ndarray:
        """Return longitude and latitude, degrees, (n, 2) of the middles of the wanted (h, w) cells."""
        row, col = np.nonzero(wanted)
        return np.stack(lonlat(self.grid, self.tile.row + row + 0.5, self.tile.col + col + 0.5), axis=1)


class Predictor(ABC):
    """A model that a map can be made with, its calibration and its error field."""

    target: str
    unit: str
    meaning: Target  # what is predicted, with its depth and years where known
    # variables that are read in windows of one radius, in cells, group by group: the order of a block's layers
    windows: tuple[tuple[tuple[str, ...], int], ...]
    classes: frozenset[str] = frozenset()  # variables that are class codes
    # variable ("": all) -> values of rasters that mean missing, as given when the model was trained
    nodata: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    # variable -> mean and standard deviation of the training profiles, of those where they are known
    trained: Mapping[str, tuple[float, float]] = MappingProxyType({})
    zones: tuple[str, ...] = ()  # the model's own zones; () of a model without
    on_gpu: bool = False
    # variable -> metres of the cells that its windows had in training, of a model that takes windows at their own resolution
    trained_cells: Mapping[str, float] = MappingProxyType({})
    zone_variables: tuple[str, ...] = ()  # those that say which zone a cell belongs to
    missing_policy: str  # what becomes of a missing covariate, as text
    version = ("scikit-learn", metadata.version("scikit-learn"))  # the library that computes, and its version
    strata: tuple[str | None, ...] = (None,)  # of the calibration, one for each zone of a prediction's weights; None: not by zone
    precision: type[np.floating[Any]] = np.float64  # of predictions that are summed

    def __init__(self, path: Path, uncertainty: Uncertainty) -> None:
        self.path, self.uncertainty = path, uncertainty
        self.applicability = uncertainty.applicability
        # error model of means and totals; None where the held-out profiles are too few, or unknown
        self.errors = uncertainty.errors

    def describe_inputs(self, facts: Specification, rasters: Sequence[Mapping[str, Any]]) -> None:
        """Set what is predicted and from what: by a specification, and a record of the rasters that the profiles' values are of."""
        self.target, self.unit, self.meaning = facts.meaning.name, facts.unit, facts.meaning
        self.windows = tuple((category.variables, category.radius) for category in facts.categories)
        self.classes = frozenset(facts.classes)
        self.nodata, self.trained = given_nodata(rasters), dict(facts.statistics or {})

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of a block's layers, in their order."""
        return tuple(name for names, _ in self.windows for name in names)

    @property
    def halo(self) -> int:
        """Width, in cells, of a block's margin around the predicted cells: the largest radius."""
        return max(radius for _, radius in self.windows)

    def packed(self, block: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the packed covariates (n, F) of some cells of a tile, by row and column, from its block; see `predict`."""
        parts, first = [], 0
        for names, radius in self.windows:
            rim, size = self.halo - radius, 2 * radius + 1
            layers = block[first : first + len(names), rim : block.shape[1] - rim, rim : block.shape[2] - rim]
            windows = np.lib.stride_tricks.sliding_window_view(layers, (size, size), axis=(1, 2))
            parts.append(windows[:, rows, cols].swapaxes(0, 1).reshape(len(rows), -1))
            first += len(names)
        return np.concatenate(parts, axis=1)

    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """Read, keep and return the statistics that the file lacks; None if none. UserError if they lack, or are given in vain."""
        if stats is not None or missing is not None:
            raise UserError(f"{self.path}: has its own statistics and rule for missing cells; drop --stats and --missing")
        return None

    def check_level(self, level: float) -> None:
        """Raise UserError if intervals of a level would be infinite."""
        check_level(self.uncertainty.calibration, level, self.strata)

    def check_periods(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Raise UserError if a period (name -> variables of its own) changes zones, which are of a long-term climate."""
        for period, names in layers.items():
            if changed := sorted({*self.zone_variables} & set(names)):
                raise UserError(
                    f"period {period!r} brings its own {changed[0]}, which defines the zones: a place would change its model over "
                    "time; leave it to --rasters"
                )

    @abstractmethod
    def predict_patches(self, x: np.ndarray, metres: Mapping[str, float], lonlat: np.ndarray) -> np.ndarray:
        """Predict places (n,), at degrees (n, 2), from packed covariates (n, F) as pred.py does; warn of unusual covariates.

        `metres`: variable -> width of the cells that its window has on the map.
        """

    @abstractmethod
    def predict(self, block: np.ndarray, wanted: np.ndarray, cells: Cells) -> Predicted:
        """Predict the wanted (h, w) cells of a tile from its block (V, h + 2 halo, w + 2 halo), raw units, missing = NaN."""

    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of a map, in the order of `describe_bands`."""
        values = predicted.members[0]
        if self.uncertainty.calibration is None:
            return predicted.members
        found = np.where(np.isfinite(values), np.stack([values, *np.zeros((2, *values.shape))]), np.nan)
        for name, weight in zip(self.strata, _weights(predicted), strict=True):  # the ends pass from zone to zone as predictions do
            here = weight > 0
            found[1:, here] += weight[here] * np.stack(self.uncertainty.calibration.interval(values[here], level, name))
        return found.astype(np.float32)

    def change(self, place: Place, maps: Mapping[str, Predicted], level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of the change from the first period to the last, of maps in order of time.

        The interval is that of the error model, or else of the members' own differences.
        """
        first, *_, last = maps.values()
        members = last.members - first.members
        if self.errors is None:
            return summary(members.mean(0), members)
        values = {name: self.member_means(each.members).mean(0) for name, each in maps.items()}
        weights = {name: _weights(each) for name, each in maps.items()}
        change, deviation = members.mean(0), deviation_of_change(self.errors, place, values, weights)
        reach = norm.ppf((1 + level) / 2) * deviation
        return np.stack([change, change - reach, change + reach, deviation]).astype(np.float32)

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """Return predictions of any shape as means, which may be summed over an area."""
        return predicted

    def member_means(self, members: np.ndarray) -> np.ndarray:
        """Return the predictions (M, h, w) of members as means, which may be summed over an area."""
        return self.means(members)

    def zone_weights(self, values: np.ndarray) -> np.ndarray:
        """Return the weights (Z, h, w) of the error model's zones, from `zone_variables` (k, h, w)."""
        return np.ones((1, *values.shape[1:]))

    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """Return map -> zone -> sums of the periods' maps, in order of time, and of the change if there are several.

        They are of means, with fields of error or, without an error model, member by member.
        """
        means = {name: self.member_means(each.members.astype(self.precision)) for name, each in maps.items()}
        if self.errors is None:
            return {name: zonal_statistics.sums(each, place.km2, place.zones) for name, each in with_change(means).items()}
        values = {name: each.mean(0) for name, each in means.items()}
        weights = {name: _weights(each) for name, each in maps.items()}
        several = any(len(each) > 1 for each in means.values())
        return sums_with_errors(self.errors, place, values, weights, means if several else None)

    @abstractmethod
    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """Return the predictors (n, p) of the area of applicability of cells (V, n)."""

    @abstractmethod
    def method(self) -> str:
        """Return how a cell is predicted, for the meaning of its band."""

    def describe_bands(self, level: float, change: bool = False) -> list[Band]:
        """Return name, unit and meaning of each band."""
        value = f"{self.title} of the last period minus the first" if change else self.title
        prediction = Band(CHANGE if change else "prediction", self.unit, {"MEANING": f"{value}, {self.method()}"})
        if change and self.errors is not None:
            return [prediction, *change_interval(self.errors, value, self.unit, level)]
        return [prediction, *self.spread_bands(value, level, change)]

    def spread_bands(self, value: str, level: float, change: bool) -> list[Band]:
        """Return the bands behind the prediction, by what it is called; `change`: without an error model."""
        if change or self.uncertainty.calibration is None:
            return []
        how = f"end of the {level:.0%} interval of a profile, calibrated on profiles held out" + (", by zone" if self.zones else "")
        return [Band(name, self.unit, {"MEANING": f"{value}, {name} {how}"}) for name in ("lower", "upper")]

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the facts of the model as plain containers."""

    def describe_errors(self) -> dict[str, Any]:
        """Return the facts of the error field, if there is one, as plain containers."""
        if self.errors is None:
            return {}
        names = self.zones or ("everywhere",)
        deviations = {name: round(each, 3) for name, each in zip(names, self.errors.deviations, strict=True)}
        return {"errors": {"of the square root of 1 + prediction": deviations} | described(self.errors)}

    @property
    def title(self) -> str:
        """What is predicted, as a heading."""
        return self.meaning.title

    def verdicts(self) -> list[str]:
        """Return a sentence for each subject of its scores where it is no better than the mean."""
        found = ((of, each.get("r2")) for of, each in self.scores().items() if of != "train")
        return [f"{of}: no better than the mean of these profiles, R2 {r2:.2f}" for of, r2 in found if r2 is not None and r2 <= 0]

    @abstractmethod
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Return the model's scores by their subject, such as a split; the record of an untrusted file is not validated."""


def warn_of_other_windows(
    categories: Sequence[Category], rasters: Sequence[Mapping[str, Any]], metres: Mapping[str, float]
) -> None:
    """Log which windows had another width on the ground in training, by the rasters that the dataset was cut from."""
    trained = cell_sizes(rasters)
    for category in categories:
        ours = metres[category.variables[0]]
        theirs = max((trained[name] for name in category.variables if name in trained), default=ours)
        if category.radius and abs(np.log(theirs / ours)) > np.log(1.1):
            wide = f"{category.size * theirs:.3g} m wide in training, here {category.size * ours:.3g} m"
            log.warning("category %s: windows of %d cells were %s; see --like, --resolution", category.name, category.size, wide)


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


def dissimilarity_bands(area: ApplicabilityArea) -> list[Band]:
    """Return the bands of an area of applicability: dissimilarity index, and whether a cell lies inside."""
    meaning = f"dissimilarity index: how unlike the training profiles; up to {area.threshold:.3g} inside the area of applicability"
    inside = "1 inside the area of applicability, 0 outside, no value where a covariate is missing (Meyer and Pebesma 2021)"
    return [Band("di", "", {"MEANING": meaning}), Band("inside", "", {"MEANING": inside})]


def dissimilarity(model: Predictor, cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return dissimilarity index, and 1 inside the area of applicability or 0 outside, (2, h, w), of raw covariates (V, h, w).

    Both are NaN where not wanted, and where a covariate with a weight is missing.
    """
    assert model.applicability is not None
    found = np.full((2, *wanted.shape), np.nan, np.float32)
    found[0, wanted] = model.applicability.index(model.applicability_inputs(cells[:, wanted]))
    found[1] = model.applicability.is_inside(found[0])
    return found


def untrusted_scores(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return those entries of a record that can be scores: finite numbers and None."""
    numbers = {str(name): value for name, value in record.items() if value is None or isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if value is None or abs(value) < 1e300}
