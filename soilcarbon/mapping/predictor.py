"""What a map can be made with: one interface for networks and zoned forests.

A `MapModel` predicts blocks of covariates, says how sure it is of a cell and of an area, and tells what its bands mean. Nothing
else of `make_map.py` knows what predicts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.zonal_statistics import Sums
from soilcarbon.mapping.cog import Band
from soilcarbon.stats.applicability import ApplicabilityArea

Statistics = dict[str, tuple[float, float]]
"""Variable -> mean and standard deviation."""
CHANGE = "change"
"""The map of the last period minus the first."""


@dataclass(frozen=True)
class Predicted:
    """A block of a map.

    Attributes
    ----------
    members
        (M, h, w) in the target's unit, whose mean is the prediction; NaN where there is none.
    zone
        (h, w) int, the number of the model's own zone; -1 where unknown. None of a model without zones.
    weights
        (Z, h, w) how far a cell belongs to each of them: 0 to 1, adding up to 1 where there is a prediction.
    """

    members: np.ndarray
    zone: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Place:
    """A tile of a grid: its cells' areas (h, 1) or (h, w) in km2, and masks (h, w) of zones that have cells in it, by name."""

    grid: Grid
    tile: Tile
    km2: np.ndarray
    masks: Sequence[tuple[str, np.ndarray]]


class MapModel(ABC):
    """A model that a map can be made with.

    Attributes
    ----------
    target, unit
        What is predicted.
    windows
        Variables that are seen in windows of one radius, in cells, group by group: the order of a block's layers.
    classes
        Variables that are codes.
    zones
        The model's own zones; () of a model without.
    applicability
        Where it may be used; None where that is not known.
    on_gpu
        Whether it can compute on one.
    filled
        What becomes of a missing cell, for people.
    version
        The library that computes, and its version.
    """

    target: str
    unit: str
    windows: tuple[tuple[tuple[str, ...], int], ...]
    classes: frozenset[str] = frozenset()
    zones: tuple[str, ...] = ()
    applicability: ApplicabilityArea | None = None
    on_gpu: bool = False
    filled: str
    version: tuple[str, str]

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of a block's layers, in their order."""
        return tuple(name for names, _ in self.windows for name in names)

    @property
    def halo(self) -> int:
        """Cells that a block reaches beyond what is predicted."""
        return max(radius for _, radius in self.windows)

    @abstractmethod
    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """Read, keep and return what the file lacks; None if nothing. UserError if that is not given, or given for nothing."""

    @abstractmethod
    def check_level(self, level: float) -> None:
        """Stop with a UserError if intervals of a level would have no end."""

    @abstractmethod
    def check_periods(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Stop with a UserError if a period (name -> variables that are its own) has what must not change."""

    @abstractmethod
    def look(self, x: np.ndarray, grid: Grid) -> np.ndarray:
        """Predict places (n,) from packed covariates (n, F), and warn of what is not as it was in training."""

    @abstractmethod
    def predict(self, block: np.ndarray, wanted: np.ndarray) -> Predicted:
        """Predict the wanted (h, w) cells of a block (V, h + 2 halo, w + 2 halo), raw units, missing = NaN."""

    @abstractmethod
    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of a map, in the order of `describe_bands`."""

    @abstractmethod
    def change(self, first: Predicted, last: Predicted, level: float) -> np.ndarray:
        """Return the bands (B, h, w) float32 of the change from one period to another."""

    @abstractmethod
    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """Return map -> zone -> sums of the periods' maps, in order of time, and of the change if there are several."""

    @abstractmethod
    def predictors(self, cells: np.ndarray) -> np.ndarray:
        """Return what `applicability` looks at (n, p) of cells (V, n)."""

    @abstractmethod
    def describe_bands(self, level: float, change: bool = False) -> list[Band]:
        """Return what each band is called, its unit, and what it means."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the model is, as plain containers."""

    @abstractmethod
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Return its scores by what they are of."""

    def shares(self) -> str:
        """Return what the interval of a total speaks of, for people; "" where there is none."""
        return ""


def likeness_bands(area: ApplicabilityArea) -> list[Band]:
    """Return the bands of an area of applicability: dissimilarity index, and whether a cell lies inside."""
    meaning = f"dissimilarity index: how unlike the training profiles; up to {area.threshold:.3g} inside the area of applicability"
    inside = "1 inside the area of applicability, 0 outside (Meyer and Pebesma 2021)"
    return [Band("di", "", {"MEANING": meaning}), Band("inside", "", {"MEANING": inside})]


def likeness(model: MapModel, cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return dissimilarity index, and 1 inside the area of applicability or 0 outside, (2, h, w), NaN where not wanted.

    Parameters
    ----------
    model
        With an area of applicability.
    cells
        (V, h, w) raw covariates.
    wanted
        (h, w).
    """
    assert model.applicability is not None
    found = np.full((2, *wanted.shape), np.nan, np.float32)
    found[0, wanted] = model.applicability.index(model.predictors(cells[:, wanted]))
    found[1, wanted] = found[0, wanted] <= np.float32(model.applicability.threshold)
    return found
