"""Maps by random forests of climate zones: a `Predictor`, whose intervals are calibrated by zone."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.mapping.predictor import Cells, Predicted, Predictor, untrusted_scores
from soilcarbon.network.specification import FAR
from soilcarbon.soil.target import target_of
from soilcarbon.zonal.climate_zones import GivenZones, OneZone
from soilcarbon.zonal.persistence import load_zoned

log = logging.getLogger(__name__)
_FAR_SHARE = 0.05
"""Share of cells far from the training profiles from which on a warning is given."""


class ForestPredictor(Predictor):
    """Map with random forests by climate zone."""

    missing_policy = "a tree sends it where such profiles went in training"

    def __init__(self, path: Path) -> None:
        self.model = load_zoned(path)
        super().__init__(path, self.model.uncertainty)
        self.forest = self.model.forest
        forests = (column for each in self.forest.forests.values() for column in each.columns)
        self._columns = sorted({*self.forest.climate, *self.uncertainty.predictors, *forests})
        self.target, self.unit = self.model.target, self.model.unit
        self.meaning = target_of(self.target, self.unit, "")
        self.windows = ((tuple(self.model.variables[k] for k in self._columns), 0),)
        self.strata = self.forest.zones.names
        self.zone_variables = tuple(self.model.variables[k] for k in self.forest.climate)
        self.zones = () if isinstance(self.forest.zones, OneZone) else self.strata
        self.classes = frozenset(self.model.classes)
        if isinstance(self.forest.zones, GivenZones):
            self.classes |= frozenset(self.zone_variables)
        self.nodata = self.model.nodata
        if self.applicability is not None:
            spread = zip(self.uncertainty.predictors, self.applicability.mean, self.applicability.std, strict=True)
            self.trained = {self.model.variables[k]: (float(mean), float(std)) for k, mean, std in spread}

    def _all_variables(self, x: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Return the model's variables (n, V) from some of its columns; the others are NaN."""
        whole = np.full((len(x), len(self.model.variables)), np.nan, np.float32)
        whole[:, columns] = x
        return whole

    def zone_weights(self, values: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        if not len(values):
            return super().zone_weights(values)
        cells = values.reshape(len(values), -1).T
        whole = self._all_variables(cells, list(self.forest.climate))
        return np.asarray(self.forest.weights(whole).T.reshape(-1, *values.shape[1:]))

    def predict_patches(self, x: np.ndarray, metres: Mapping[str, float], lonlat: np.ndarray) -> np.ndarray:  # noqa: ARG002 - no windows
        """See `Predictor`."""
        far = []
        for name, (mean, std) in self.trained.items():
            cells = x[:, self.variables.index(name)].astype(np.float64)
            known = cells[np.isfinite(cells)]
            if known.size and (share := float((np.abs(known - mean) > FAR * std).mean())) > _FAR_SHARE:
                far.append(f"{share:.0%} of {name}'s values (mean {known.mean():.4g} here, {mean:.4g} there)")
        if far:
            more = f" and {len(far) - 3} more variables" if len(far) > 3 else ""
            log.warning("far from what the forests were trained on: %s%s; are the units the same?", "; ".join(far[:3]), more)
        return self.forest.predict(self._all_variables(x, self._columns))

    def predict(self, block: np.ndarray, wanted: np.ndarray, cells: Cells) -> Predicted:  # noqa: ARG002 - anywhere
        """See `Predictor`."""
        x = self._all_variables(block[:, wanted].T, self._columns)
        values, zone = np.full(wanted.shape, np.nan, np.float32), np.full(wanted.shape, -1, np.int64)
        weights = np.zeros((len(self.strata), *wanted.shape), np.float32)
        if len(x):
            values[wanted], zone[wanted], weights[:, wanted] = (
                self.forest.predict(x),
                self.forest.labels(x),
                self.forest.weights(x).T,
            )
        return Predicted(values[None], zone, weights)

    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return cells[[self._columns.index(k) for k in self.uncertainty.predictors]].T

    def method(self) -> str:
        """See `Predictor`."""
        return "forests by climate zone" if self.zones else "random forest"

    def describe(self) -> dict[str, Any]:
        """See `Predictor`."""
        rules = self.forest.zones
        found: dict[str, Any] = {"target": self.target, "unit": self.unit, "forests": {}}
        for name, count in self.forest.counts.items():
            own = "its own" if self.forest.has_own(name) else "that of all profiles"
            variables = ", ".join(self.model.variables[k] for k in self.forest.forests[name].columns)
            found["forests"][name] = f"{own}; {count} profiles; {variables}"
        if isinstance(rules, GivenZones):
            found["zones by"] = f"codes of {self.zone_variables[0]}"
        elif not isinstance(rules, OneZone):
            wet, warm = self.zone_variables
            found[f"zones by {wet}"] = _threshold(rules.precipitation, rules.width_precipitation)
            found[f"zones by {warm}"] = _threshold(rules.temperature, rules.width_temperature)
        return found | self.describe_errors()

    def scores(self) -> dict[str, dict[str, float | None]]:
        """See `Predictor`; of held-out profiles, by zone."""
        record, found = self.model.record, dict[str, dict[str, float | None]]()
        rows = record.get("scores") if isinstance(record, dict) else None
        method = "blended" if self.forest.zones != self.forest.zones.hard() else "zoned"
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and row.get("method") == method:
                numbers = {name: row[name] for name in ("n", "rmse", "mae", "me", "r2", "ccc") if row.get(name) is not None}
                found[f"held out, {str(row.get('zone'))[:40]}"] = untrusted_scores(numbers)
        return found


def _threshold(value: float, width: float) -> str:
    return f"{value:g}, " + (f"band of {width:g}" if width else "hard")
