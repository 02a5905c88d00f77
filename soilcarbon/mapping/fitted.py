"""Maps by fitted models, of whatever learner: a `Predictor`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.mapping.carbon_map import MEDIANS
from soilcarbon.mapping.predictor import Cells, Predicted, Predictor, untrusted_scores, warn_of_other_windows
from soilcarbon.network.specification import warn_of_far_inputs
from soilcarbon.regression.estimators import POSITION
from soilcarbon.regression.learners import LEARNERS
from soilcarbon.regression.model import FittedModel
from soilcarbon.regression.parts import Kriged
from soilcarbon.regression.persistence import load_model

_CHUNK_VALUES = 4_000_000
"""Covariates that are packed at once, whatever the size of windows: 32 MB."""


class FittedPredictor(Predictor):
    """Map with a model of `soilcarbon fit`: that of a file, or the model itself."""

    missing_policy = "it is filled as in training; a forest's tree sends it where such profiles went"

    def __init__(self, path: Path, model: FittedModel | None = None) -> None:
        self.model = load_model(path) if model is None else model
        super().__init__(path, self.model.uncertainty)
        self.describe_inputs(self.model.specification, self.model.record.rasters)
        self._kriged = any(isinstance(part, Kriged) for part in self.model.parts.values())

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return self.model.means(predicted)

    def predict_patches(self, x: np.ndarray, metres: Mapping[str, float], lonlat: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        facts = self.model.specification
        warn_of_far_inputs(facts, x)
        warn_of_other_windows(facts.categories, self.model.record.rasters, metres)
        return self.model.predict(np.column_stack([lonlat, x]))

    def predict(self, block: np.ndarray, wanted: np.ndarray, cells: Cells) -> Predicted:
        """See `Predictor`."""
        values, rows, cols = np.full(wanted.shape, np.nan, np.float32), *np.nonzero(wanted)
        position = cells.lonlat(wanted) if self._kriged else np.full((len(rows), POSITION), np.nan)
        step = max(1, _CHUNK_VALUES // sum(category.width for category in self.model.specification.categories))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            x = np.column_stack([position[part], self.packed(block, rows[part], cols[part])])
            values[rows[part], cols[part]] = self.model.predict(x)
        return Predicted(values[None], weights=np.isfinite(values)[None].astype(np.float32))

    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return self.model.predictors_of_cells(cells.T)

    def method(self) -> str:
        """See `Predictor`."""
        facts, how = self.model.specification, LEARNERS[self.model.learner].meaning
        if facts.target_transform == "log1p":
            how = f"{facts.center} ({how}{', of ln(1+y)' if self.model.learner != 'mean' else ''})"
            how += f"; {MEDIANS}" if facts.center == "median" else ""
        return how

    def describe(self) -> dict[str, Any]:
        """See `Predictor`."""
        facts, record = self.model.specification, self.model.record
        found: dict[str, Any] = {"target": self.target, "unit": facts.unit, "learner": LEARNERS[self.model.learner].meaning}
        found |= {"target_transform": facts.target_transform, "center": facts.center, "chosen": record.reason}
        found["profiles"] = ", ".join(f"{count} {split}" for split, count in record.profiles.items())
        if record.calibrated_on:
            found["intervals"] = record.calibrated_on
        return found | self.describe_errors()

    def scores(self) -> dict[str, dict[str, float | None]]:
        """See `Predictor`; of held-out profiles."""
        names = ("n", "rmse", "mae", "me", "r2", "ccc")
        chosen = next((row for row in self.model.record.cross_validation if row.get("chosen") == 1), {})
        strategy = str(self.model.record.folds.get("strategy", "folds"))[:20]
        return {f"held out, {strategy}": untrusted_scores({name: chosen[name] for name in names if name in chosen})}
