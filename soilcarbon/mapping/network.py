"""Networks as what a map is made with; see `mapmodels`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from soilcarbon.geo import grid as grids
from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import Grid
from soilcarbon.geo.zonal_statistics import LOWER, UPPER, Sums
from soilcarbon.io.files import UserError
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.dense import DenseNet
from soilcarbon.mapping.predictor import CHANGE, MapModel, Place, Predicted, Statistics
from soilcarbon.network.network import as_means, load_checkpoint
from soilcarbon.network.preprocessing import unfold_classes
from soilcarbon.soil.dataset import read_statistics
from soilcarbon.training import loop as engine
from soilcarbon.training.uncertainty import check_level

log = logging.getLogger(__name__)


class NetworkModel(MapModel):
    """A network, or an ensemble of networks.

    Parameters
    ----------
    path, device, stats, missing
        As of `modelfiles.open_model`.
    """

    on_gpu = True
    filled = "it is filled as in training"
    version = ("torch", torch.__version__)

    def __init__(self, path: Path, device: str, stats: Statistics | None, missing: str | None) -> None:
        self.path = path
        self.network = load_checkpoint(path, device)
        if stats is not None:
            self.network.respecify(statistics=stats, missing=missing)
        facts = self.network.specification
        self.target, self.unit = facts.target, facts.unit
        self.windows = tuple((category.variables, category.radius) for category in facts.categories)
        self.classes = frozenset(facts.classes)
        self.applicability = self.network.applicability
        self._dense: DenseNet | None = None

    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """See `MapModel`."""
        facts = self.network.specification
        if facts.statistics is not None:
            if stats is not None or missing is not None:
                raise UserError(
                    f"{self.path}: brings its own statistics and what becomes of missing cells; drop --stats and --missing"
                )
            return None
        if stats is None:
            raise UserError(f"{self.path}: has no statistics; give the ones its inputs are standardised with, --stats FILE")
        statistics = read_statistics(stats, facts.categories)
        self.network.respecify(statistics=statistics, missing=missing or "mean")
        return statistics

    def check_level(self, level: float) -> None:
        """See `MapModel`."""
        check_level(self.network, level)

    def check_periods(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Anything may change."""

    def look(self, x: np.ndarray, grid: Grid) -> np.ndarray:
        """See `MapModel`."""
        engine.warn_of_far_inputs(self.network, x)
        ours, trained = grids.nominal_metres(grid.crs, grid.cell[0]), grids.cell_sizes(self.network.record.get("rasters", []))
        for category in self.network.specification.categories:
            theirs = max((trained[name] for name in category.variables if name in trained), default=ours)
            if category.radius and abs(np.log(theirs / ours)) > np.log(1.1):
                wide = f"{category.size * theirs:.3g} m wide in training, here {category.size * ours:.3g} m"
                log.warning(
                    "category %s: windows of %d cells were %s; see --like, --resolution", category.name, category.size, wide
                )
        return engine.predict(self.network, x)[0]

    def predict(self, block: np.ndarray, wanted: np.ndarray) -> Predicted:
        """See `MapModel`."""
        if self._dense is None:
            self._dense = DenseNet(self.network)
        return Predicted(self._dense.predict(block, wanted))

    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """See `MapModel`."""
        calibration, mean = self.network.calibration, predicted.members.mean(0)
        if calibration is None:
            return self.apart(mean, predicted.members)
        return self.apart(mean, predicted.members, *calibration.interval(mean, level))

    def change(self, first: Predicted, last: Predicted, level: float) -> np.ndarray:  # noqa: ARG002 - the members' own differences
        """See `MapModel`; a change has no calibrated interval."""
        members = last.members - first.members
        return self.apart(members.mean(0), members)

    @staticmethod
    def apart(mean: np.ndarray, members: np.ndarray, *interval: np.ndarray) -> np.ndarray:
        """Return the mean, an interval - that given, or the members' quantiles - and the members' standard deviation."""
        several = len(members) > 1
        between = interval or (np.quantile(members, [LOWER, UPPER], axis=0) if several else ())
        return np.stack([mean, *between, *([members.std(0, ddof=1)] if several else [])]).astype(np.float32)

    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """See `MapModel`; of means, member by member."""
        means = {name: as_means(each.members, self.network.specification) for name, each in maps.items()}
        if len(means) > 1:
            first, *_, last = means.values()
            means[CHANGE] = last - first
        return {name: zones.sums(each, place.km2, place.masks) for name, each in means.items()}

    def predictors(self, cells: np.ndarray) -> np.ndarray:
        """See `MapModel`."""
        return unfold_classes(cells.T, self.network.specification)

    def describe_bands(self, level: float, change: bool = False) -> list[Band]:
        """See `MapModel`."""
        facts, count = self.network.specification, self.network.specification.members
        value = f"{facts.target} of the last period minus the first" if change else facts.target
        prediction = f"mean of {count} networks" if count > 1 else "one network"
        if facts.target_transform == "log1p" and facts.center == "median":
            prediction = f"median ({prediction}); totals are of means"
        bands = [Band(CHANGE if change else "prediction", facts.unit, {"MEANING": f"{value}, {prediction}"})]
        spread = f"over {count} networks: how far they differ, not how far they all may be wrong"
        if self.network.calibration is not None and not change:
            for name in ("lower", "upper"):
                meaning = f"{value}, {name} end of the {level:.0%} interval, calibrated on profiles held out"
                bands.append(Band(name, facts.unit, {"MEANING": meaning}))
        elif count > 1:
            for name, share in (("lower", LOWER), ("upper", UPPER)):
                bands.append(Band(name, facts.unit, {"MEANING": f"{value}, {share:.0%} quantile {spread}"}))
        if count > 1:
            bands.append(Band("sd", facts.unit, {"MEANING": f"{value}, standard deviation {spread}"}))
        return bands

    def describe(self) -> dict[str, Any]:
        """See `MapModel`."""
        facts = self.network.specification
        return {
            "members": facts.members,
            "target": facts.target,
            "unit": facts.unit,
            "target_transform": facts.target_transform,
            "missing": facts.missing,
            "center": facts.center,
        }

    def scores(self) -> dict[str, dict[str, float | None]]:
        """See `MapModel`; a stranger's record may hold anything."""
        by_split = self.network.record.get("scores")
        told = {str(name): each for name, each in by_split.items() if isinstance(each, dict)} if isinstance(by_split, dict) else {}

        def plausible(value: Any) -> bool:
            return value is None or (isinstance(value, (int, float)) and abs(value) < 1e300)

        return {split: {str(name): value for name, value in each.items() if plausible(value)} for split, each in told.items()}
