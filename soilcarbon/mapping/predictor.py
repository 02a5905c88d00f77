"""Predictor interface of maps, implemented by networks and forests by climate zone.

A `Predictor` predicts blocks of covariates, gives the uncertainty of a cell and of an area, and describes its bands. Nothing else
of mapping depends on what kind of model it is. `tiles.open_predictor` opens one.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from soilcarbon.categories import Category
from soilcarbon.geo.grid import Grid, Tile, cell_sizes, lonlat
from soilcarbon.geo.zonal_statistics import Sums, ZoneCells
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.native import Windows
from soilcarbon.soil.dataset import Statistics
from soilcarbon.soil.target import Target, target_of
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.error_field import ErrorField

log = logging.getLogger(__name__)
CHANGE = "change"
"""The map of the last period minus the first."""


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


@dataclass(frozen=True)
class Place:
    """A tile of a grid: its cells' areas (h, 1) or (h, w) in km2, and the cells of zones that have some in it."""

    grid: Grid
    tile: Tile
    km2: np.ndarray
    zones: ZoneCells


class Predictor(ABC):
    """Interface of a model that a map can be made with."""

    path: Path
    target: str
    unit: str
    # variables that are read in windows of one radius, in cells, group by group: the order of a block's layers
    windows: tuple[tuple[tuple[str, ...], int], ...]
    classes: frozenset[str] = frozenset()  # variables that are class codes
    # variable ("": all) -> values of rasters that mean missing, as given when the model was trained
    nodata: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    # variable -> mean and standard deviation of the training profiles, of those where they are known
    trained: Mapping[str, tuple[float, float]] = MappingProxyType({})
    zones: tuple[str, ...] = ()  # the model's own zones; () of a model without
    applicability: ApplicabilityArea | None = None
    on_gpu: bool = False
    # variable -> metres of the cells that its windows had in training, of a model that takes windows at their own resolution
    trained_cells: Mapping[str, float] = MappingProxyType({})
    zone_variables: tuple[str, ...] = ()  # those that say which zone a cell belongs to
    missing_policy: str  # what becomes of a missing covariate, as text
    version: tuple[str, str]  # the library that computes, and its version
    errors: ErrorField | None = None
    """Error model of means and totals; None where the held-out profiles are too few, or unknown."""

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of a block's layers, in their order."""
        return tuple(name for names, _ in self.windows for name in names)

    @property
    def halo(self) -> int:
        """Width, in cells, of a block's margin around the predicted cells: the largest radius."""
        return max(radius for _, radius in self.windows)

    @abstractmethod
    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """Read, keep and return the statistics that the file lacks; None if none. UserError if they lack, or are given in vain."""

    @abstractmethod
    def check_level(self, level: float) -> None:
        """Raise UserError if intervals of a level would be infinite."""

    @abstractmethod
    def check_periods(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Raise UserError if a period (name -> variables of its own) changes what must be constant."""

    @abstractmethod
    def predict_patches(self, x: np.ndarray, metres: Mapping[str, float], lonlat: np.ndarray) -> np.ndarray:
        """Predict places (n,), at degrees (n, 2), from packed covariates (n, F) as pred.py does; warn of unusual covariates.

        `metres`: variable -> width of the cells that its window has on the map.
        """

    @abstractmethod
    def predict(self, block: np.ndarray, wanted: np.ndarray, cells: Cells) -> Predicted:
        """Predict the wanted (h, w) cells of a tile from its block (V, h + 2 halo, w + 2 halo), raw units, missing = NaN."""

    @abstractmethod
    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of a map, in the order of `describe_bands`."""

    @abstractmethod
    def change(self, place: Place, maps: Mapping[str, Predicted], level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of the change from the first period to the last, of maps in order of time."""

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """Return predictions of any shape as means, which may be summed over an area."""
        return predicted

    def zone_weights(self, values: np.ndarray) -> np.ndarray:
        """Return the weights (Z, h, w) of the error model's zones, from `zone_variables` (k, h, w)."""
        return np.ones((1, *values.shape[1:]))

    @abstractmethod
    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """Return map -> zone -> sums of the periods' maps, in order of time, and of the change if there are several."""

    @abstractmethod
    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """Return the predictors (n, p) of the area of applicability of cells (V, n)."""

    @abstractmethod
    def describe_bands(self, level: float, change: bool = False) -> list[Band]:
        """Return name, unit and meaning of each band."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the facts of the model as plain containers."""

    @property
    def meaning(self) -> Target:
        """What is predicted, with its depth and years where known."""
        return target_of(self.target, self.unit, "")

    @property
    def title(self) -> str:
        """The same as a heading."""
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
