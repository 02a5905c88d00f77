"""Maps by random forests of climate zones: a `Predictor`.

The interval of a cell is calibrated on held-out profiles, by zone. The interval of a total or of a change comes from simulated
error fields with the correlation that held-out errors have in space and between periods (`stats.error_field`).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sklearn
from scipy.sparse import csr_array
from scipy.stats import norm

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import Grid, lonlat, nominal_metres
from soilcarbon.geo.zonal_statistics import LOWER, UPPER, Sums
from soilcarbon.io.files import UserError
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.predictor import CHANGE, Place, Predicted, Predictor, untrusted_scores
from soilcarbon.network.specification import FAR
from soilcarbon.soil.dataset import Statistics
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.zonal.climate_zones import GivenZones
from soilcarbon.zonal.persistence import load_zoned

log = logging.getLogger(__name__)
_FINE = 4
"""Blocks along the distance over which errors are shared; within one they are taken to be one error."""
_WIDEST = 64
"""Cells along the side of a block."""
_FAR_SHARE = 0.05
"""Share of cells far from the training profiles from which on a warning is given."""


class ForestPredictor(Predictor):
    """Map with random forests by climate zone.

    Parameters
    ----------
    path
        Of the file.
    """

    missing_policy = "a tree sends it where such profiles went in training"
    version = ("scikit-learn", sklearn.__version__)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = load_zoned(path)
        self.forest, self.uncertainty = self.model.forest, self.model.uncertainty
        forests = (column for each in self.forest.forests.values() for column in each.columns)
        self._columns = sorted({*self.forest.climate, *self.uncertainty.predictors, *forests})
        if self.uncertainty.errors is not None:
            share = f"{LOWER:.0%} to {UPPER:.0%}"
            self.interval_note = f"Intervals of means and totals: {share} of simulated error fields; see docs/maps.md."
        self.target, self.unit = self.model.target, self.model.unit
        self.windows = ((tuple(self.model.variables[k] for k in self._columns), 0),)
        self.zones = self.forest.zones.names
        self.applicability = self.uncertainty.applicability
        self.classes = frozenset(self.model.classes)
        if isinstance(self.forest.zones, GivenZones):
            self.classes |= frozenset(self._climate)
        self.nodata = self.model.nodata
        if self.applicability is not None:
            spread = zip(self.uncertainty.predictors, self.applicability.mean, self.applicability.std, strict=True)
            self.trained = {self.model.variables[k]: (float(mean), float(std)) for k, mean, std in spread}

    @property
    def _climate(self) -> list[str]:
        return [self.model.variables[k] for k in self.forest.climate]

    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """See `Predictor`."""
        if stats is not None or missing is not None:
            raise UserError(f"{self.path}: forests need no statistics and fill no cells; drop --stats and --missing")
        return None

    def check_level(self, level: float) -> None:
        """See `Predictor`."""
        calibration = self.uncertainty.calibration
        if calibration is not None:
            highest = min(calibration.highest_level(name) for name in self.zones)
            if level > highest:
                raise UserError(
                    f"level = {level:g}: the held-out profiles support intervals up to {highest:.3f}; use a lower --level"
                )

    def check_periods(self, layers: Mapping[str, Sequence[str]]) -> None:
        """See `Predictor`; zones are of a long-term climate."""
        for period, names in layers.items():
            if changed := sorted({*self._climate} & set(names)):
                raise UserError(
                    f"period {period!r} brings its own {changed[0]}, which defines the zones: a place would change its model over "
                    "time; leave it to --rasters"
                )

    def _all_variables(self, x: np.ndarray) -> np.ndarray:
        """Return the model's variables (n, V) from those it needs; the others are NaN."""
        whole = np.full((len(x), len(self.model.variables)), np.nan, np.float32)
        whole[:, self._columns] = x
        return whole

    def predict_patches(self, x: np.ndarray, grid: Grid) -> np.ndarray:  # noqa: ARG002 - no windows that could be of another size
        """See `Predictor`."""
        far = []
        if self.applicability is not None:
            for name, cells, mean, std in zip(
                (self.model.variables[k] for k in self.uncertainty.predictors),
                self.applicability_inputs(x.T).T.astype(np.float64),
                self.applicability.mean,
                self.applicability.std,
                strict=True,
            ):
                known = cells[np.isfinite(cells)]
                if known.size and (share := float((np.abs(known - mean) > FAR * std).mean())) > _FAR_SHARE:
                    far.append(f"{share:.0%} of {name}'s values (mean {known.mean():.4g} here, {mean:.4g} there)")
        if far:
            more = f" and {len(far) - 3} more variables" if len(far) > 3 else ""
            log.warning("far from what the forests were trained on: %s%s; are the units the same?", "; ".join(far[:3]), more)
        return self.forest.predict(self._all_variables(x))

    def predict(self, block: np.ndarray, wanted: np.ndarray) -> Predicted:
        """See `Predictor`."""
        x = self._all_variables(block[:, wanted].T)
        values, zone = np.full(wanted.shape, np.nan, np.float32), np.full(wanted.shape, -1, np.int64)
        weights = np.zeros((len(self.zones), *wanted.shape), np.float32)
        if len(x):
            values[wanted], zone[wanted], weights[:, wanted] = (
                self.forest.predict(x),
                self.forest.labels(x),
                self.forest.weights(x).T,
            )
        return Predicted(values[None], zone, weights)

    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """See `Predictor`."""
        values = predicted.members[0]
        if self.uncertainty.calibration is None:
            return predicted.members
        found = np.where(np.isfinite(values), np.stack([values, *np.zeros((2, *values.shape))]), np.nan)
        for name, weight in zip(self.zones, _weights(predicted), strict=True):  # the ends pass from zone to zone as predictions do
            here = weight > 0
            found[1:, here] += weight[here] * np.stack(self.uncertainty.calibration.interval(values[here], level, name))
        return found.astype(np.float32)

    def change(self, first: Predicted, last: Predicted, level: float) -> np.ndarray:
        """See `Predictor`."""
        change, errors = last.members[0] - first.members[0], self.uncertainty.errors
        if errors is None:
            return np.asarray(change[None], np.float32)
        before, after = (errors.spread(each.members[0], _weights(each)) for each in (first, last))
        deviation = errors.of_change(before, after)
        reach = norm.ppf((1 + level) / 2) * deviation
        return np.stack([change, change - reach, change + reach, deviation]).astype(np.float32)

    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """See `Predictor`: each drawn field of error, added to the map, is a member."""
        names, errors = list(maps), self.uncertainty.errors
        values = {name: each.members[0].astype(np.float64) for name, each in maps.items()}
        if len(names) > 1:
            values[CHANGE] = values[names[-1]] - values[names[0]]
        found = {name: zones.sums(each[None], place.km2, place.masks) for name, each in values.items()}
        if errors is None:
            return found
        blocks, lon, lat = _blocks(place, errors.range_km)
        spreads = [errors.spread(values[name], _weights(maps[name])) * place.km2 for name in names]
        parts = {name: [(k, spreads[k])] for k, name in enumerate(names)}
        if len(names) > 1:
            parts[CHANGE] = [(len(names) - 1, spreads[-1]), (0, -spreads[0])]
        rows = [(name, zone) for name in values for zone in found[name]]
        masks, terms = dict(place.masks), []
        for row, (name, zone) in enumerate(rows):
            here = masks[zone] & np.isfinite(values[name])
            for k, spread in parts[name]:
                terms.append((row, k, csr_array(np.bincount(blocks[here], spread[here], len(lon))[None])))
        for (name, zone), drawn in zip(rows, errors.sums(lon, lat, terms, len(rows)), strict=True):
            base = found[name][zone]
            found[name][zone] = Sums(base.cells, base.area, base.weighted + drawn)
        return found

    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return cells[[self._columns.index(k) for k in self.uncertainty.predictors]].T

    def describe_bands(self, level: float, change: bool = False) -> list[Band]:
        """See `Predictor`."""
        value = f"{self.target} of the last period minus the first" if change else self.target
        bands = [Band(CHANGE if change else "prediction", self.unit, {"MEANING": f"{value}, forests by climate zone"})]
        ends, errors = ("lower", "upper"), self.uncertainty.errors
        if not change and self.uncertainty.calibration is not None:
            how = f"end of the {level:.0%} interval of a profile, calibrated on profiles held out, by zone"
            bands += [Band(name, self.unit, {"MEANING": f"{value}, {name} {how}"}) for name in ends]
        if change and errors is not None:
            how = f"errors shared with neighbouring cells, of which {errors.persistence:.0%} are shared by other periods"
            bands += [
                Band(name, self.unit, {"MEANING": f"{value}, {name} end of the {level:.0%} interval by {how}"}) for name in ends
            ]
            bands.append(Band("sd", self.unit, {"MEANING": f"{value}, standard deviation by {how}"}))
        return bands

    def describe(self) -> dict[str, Any]:
        """See `Predictor`."""
        rules, errors = self.forest.zones, self.uncertainty.errors
        found: dict[str, Any] = {"target": self.target, "unit": self.unit, "forests": {}}
        for name, count in self.forest.counts.items():
            own = "its own" if self.forest.has_own(name) else "that of all profiles"
            variables = ", ".join(self.model.variables[k] for k in self.forest.forests[name].columns)
            found["forests"][name] = f"{own}; {count} profiles; {variables}"
        if isinstance(rules, GivenZones):
            found["zones by"] = f"codes of {self._climate[0]}"
        else:
            wet, warm = self._climate
            found[f"zones by {wet}"] = _threshold(rules.precipitation, rules.width_precipitation)
            found[f"zones by {warm}"] = _threshold(rules.temperature, rules.width_temperature)
        if errors is not None:
            found["errors"] = self._errors(errors)
        return found

    def _errors(self, errors: ErrorField) -> dict[str, Any]:
        deviations = {name: round(each, 3) for name, each in zip(self.zones, errors.deviations, strict=True)}
        shares = {
            "shared by neighbours": round(errors.structured, 3),
            "of that by all places": round(errors.common, 3),
            "shared by other periods": round(errors.persistence, 3),
            "bias of a period": round(errors.drift**0.5, 4),
        }
        return {"relative": deviations, "range in km": round(errors.range_km, 1)} | shares

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


def _weights(predicted: Predicted) -> np.ndarray:
    assert predicted.weights is not None
    return predicted.weights


def _blocks(place: Place, range_km: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of each cell's block (h, w), and longitude and latitude (b,) of the blocks' middles.

    Blocks are squares of cells of the whole grid, so that what is drawn there is the same in every tile.
    """
    grid, tile = place.grid, place.tile
    side = int(np.clip(range_km * 1000 / _FINE / nominal_metres(grid.crs, max(grid.cell)), 1, _WIDEST))
    down, across = np.arange(tile.row, tile.row + tile.height) // side, np.arange(tile.col, tile.col + tile.width) // side
    rows, cols = np.unique(down), np.unique(across)
    row, col = (each.ravel() for each in np.meshgrid((rows + 0.5) * side, (cols + 0.5) * side, indexing="ij"))
    lon, lat = lonlat(grid, np.minimum(row, grid.height - 0.5), np.minimum(col, grid.width - 0.5))
    off = ~np.isfinite(lon)  # off the Earth, at the rim of a world map: any place will do, few cells are there
    number = (down - rows[0])[:, None] * len(cols) + (across - cols[0])[None, :]
    return number, np.where(off, 0.0, lon), np.where(off, 0.0, lat)
