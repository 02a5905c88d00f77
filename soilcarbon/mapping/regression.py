"""Maps by regression models with calibrated intervals and correlated errors: what zoned forests and fitted models share.

The interval of a cell is calibrated on held-out profiles. The interval of a total or of a change comes from simulated error fields
with the correlation that held-out errors have in space and between periods (`stats.error_field`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sklearn
from scipy.sparse import csr_array
from scipy.stats import norm

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import lonlat, nominal_metres
from soilcarbon.geo.zonal_statistics import LOWER, UPPER, Sums
from soilcarbon.io.files import UserError
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.predictor import CHANGE, Place, Predicted, Predictor
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.soil.dataset import Statistics
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.training.uncertainty import check_level

_FINE = 4
"""Blocks along the distance over which errors are shared; within one they are taken to be one error."""
_WIDEST = 64
"""Cells along the side of a block."""


class RegressionPredictor(Predictor):
    """Map with a regression model, its calibration and its error field.

    Parameters
    ----------
    path
        Of the model's file.
    uncertainty
        Of its predictions.

    Attributes
    ----------
    strata
        Names of the strata of the calibration, one for each zone of a prediction's weights; None: not by zone.
    """

    version = ("scikit-learn", sklearn.__version__)
    strata: tuple[str | None, ...] = (None,)

    def __init__(self, path: Path, uncertainty: Uncertainty) -> None:
        self.path, self.uncertainty = path, uncertainty
        self.applicability = uncertainty.applicability
        if uncertainty.errors is not None:
            share = f"{LOWER:.0%} to {UPPER:.0%}"
            self.interval_note = f"Intervals of means and totals: {share} of simulated error fields; see docs/maps.md."

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """Return predictions of any shape as means, which may be summed over an area."""
        return predicted

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

    def change(self, first: Predicted, last: Predicted, level: float) -> np.ndarray:
        """See `Predictor`."""
        change, errors = last.members[0] - first.members[0], self.uncertainty.errors
        if errors is None:
            return np.asarray(change[None], np.float32)
        before, after = (errors.spread(self.means(each.members[0]), _weights(each)) for each in (first, last))
        deviation = errors.of_change(before, after)
        reach = norm.ppf((1 + level) / 2) * deviation
        return np.stack([change, change - reach, change + reach, deviation]).astype(np.float32)

    def sums(self, place: Place, maps: Mapping[str, Predicted]) -> dict[str, dict[str, Sums]]:
        """See `Predictor`: each drawn field of error, added to the map, is a member."""
        names, errors = list(maps), self.uncertainty.errors
        values = {name: self.means(each.members[0].astype(np.float64)) for name, each in maps.items()}
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

    def interval_bands(self, value: str, level: float, change: bool) -> list[Band]:
        """Return the bands behind the prediction, by what it is called."""
        how = "calibrated on profiles held out" + (", by zone" if self.zones else "")
        bands, ends, errors = [], ("lower", "upper"), self.uncertainty.errors
        if not change and self.uncertainty.calibration is not None:
            how = f"end of the {level:.0%} interval of a profile, {how}"
            bands += [Band(name, self.unit, {"MEANING": f"{value}, {name} {how}"}) for name in ends]
        if change and errors is not None:
            how = f"errors shared with neighbouring cells, of which {errors.persistence:.0%} are shared by other periods"
            bands += [
                Band(name, self.unit, {"MEANING": f"{value}, {name} end of the {level:.0%} interval by {how}"}) for name in ends
            ]
            bands.append(Band("sd", self.unit, {"MEANING": f"{value}, standard deviation by {how}"}))
        return bands

    def describe_errors(self, errors: ErrorField) -> dict[str, Any]:
        """Return the facts of an error field as plain containers."""
        names = self.zones or ("everywhere",)
        deviations = {name: round(each, 3) for name, each in zip(names, errors.deviations, strict=True)}
        shares = {
            "shared by neighbours": round(errors.structured, 3),
            "of that by all places": round(errors.common, 3),
            "shared by other periods": round(errors.persistence, 3),
            "bias of a period": round(errors.drift**0.5, 4),
        }
        return {"relative": deviations, "range in km": round(errors.range_km, 1)} | shares


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
