"""Validation of a map of stocks or of change at independent points, for a claim: coverage, fit, test for bias, corrected mean.

In: a GeoTIFF of `soilcarbon map`, a table of points, and how they were drawn. Out: `Validation`. Of a probability sample the
estimates are design-based (`stats.design_based`) and hold for the area; of other points they are of these points alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.spatial import cKDTree

from soilcarbon.geo.grid import Grid, nominal_metres, raster_grid
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError
from soilcarbon.io.points import TableRule, read_points
from soilcarbon.mapping.areal import CHANGE
from soilcarbon.mapping.carbon_map import CarbonMap
from soilcarbon.mapping.claim_sources import common_unit
from soilcarbon.mapping.common_grid import Cells
from soilcarbon.mapping.design_validation import SampledPoints
from soilcarbon.mapping.map_validation import score_points
from soilcarbon.mapping.probability_sample import SampleRule, read_sample
from soilcarbon.progress import progress
from soilcarbon.stats.credit import Uncertain
from soilcarbon.stats.design_based import Estimate, difference_estimate, mean, points_for_normal_mean, validate_map
from soilcarbon.stats.variogram import EARTH_KM, empirical_variogram, fit_variogram, unit_vectors

_NAME = "claimed map"
SAME_PLACE_M = 10.0
"""A validation point so near a training profile is that profile."""
FEWEST_FOR_VARIOGRAM = 60
_TILE = 1024
PICP_LEVEL = 0.95
"""Of the binomial interval of the share of points inside."""


@dataclass(frozen=True)
class Validation:
    """A map at the n points where it has values."""

    observed: np.ndarray  # observed, predicted: (n,) in `unit`
    predicted: np.ndarray
    inside: np.ndarray | None  # (n,) bool, whether points lie in the map's own prediction intervals; None of a map that has none
    lon: np.ndarray  # lon, lat: (n,) degrees
    lat: np.ndarray
    given: int  # how many points there were
    unit: str
    sampled: SampledPoints | None
    map_mean: float  # map_mean, map_km2: of what is compared, over its cells with a value; NaN without a probability sample
    map_km2: float

    def facts(self, level: float, nominal: float) -> dict[str, Any]:
        """Return the scores with intervals of a level; `nominal` is the coverage of the map's own prediction intervals.

        bias is the mean of map minus point, mec 1 - MSE / variance, r2 the squared correlation; inside_low and inside_high are the
        Clopper-Pearson interval (95 %) of the share of points inside the map's intervals, where it has some.
        """
        n = len(self.observed)
        error = self.predicted - self.observed
        if self.sampled is not None:
            s = self.sampled
            found = validate_map(s.observed, s.predicted[_NAME], s.design, s.mapped, level)
            bias, rmse, mec, design = found["me"], found["rmse"].value, found["mec"].value, s.design.described()
        else:
            bias = _mean_error(error, level)
            spread = float(np.var(self.observed))
            mse = float(np.mean(error**2))
            rmse, mec = mse**0.5, 1 - mse / spread if spread > 0 else np.nan
            design = "not a probability sample: scores are of these points, and the test takes their errors as independent"
        varied = n > 2 and np.ptp(self.observed) > 0 and np.ptp(self.predicted) > 0
        shown: dict[str, Any] = {"n": n, "given": self.given, "unit": self.unit, "design": design}
        shown |= {"bias": bias.value, "bias_se": bias.standard_error, "bias_low": bias.low, "bias_high": bias.high}
        shown |= {"bias_t": bias.t, "bias_df": bias.df, "bias_p": bias.p, "level": level, "rmse": rmse, "mec": mec}
        shown["r2"] = float(np.corrcoef(self.observed, self.predicted)[0, 1] ** 2) if varied else np.nan
        if self.inside is not None:
            count = int(self.inside.sum())
            low, high = stats.binomtest(count, n).proportion_ci(PICP_LEVEL)
            shown |= {"inside": count, "inside_share": count / n, "inside_low": float(low), "inside_high": float(high)}
            shown["nominal"] = nominal
            if self.sampled is not None:
                s = self.sampled
                shown["inside_share_of_area"] = mean(s.inside[_NAME].astype(float), s.design, s.mapped).value
        return shown

    @property
    def points_needed(self) -> int:
        """Number of points of a probability sample that errors so skewed need for their mean's interval; 0 of other points."""
        s = self.sampled
        return 0 if s is None else points_for_normal_mean((s.predicted[_NAME] - s.observed)[s.mapped])

    def corrected(self, level: float) -> Uncertain | None:
        """Return the difference estimate of the area's mean; None where the points are no probability sample."""
        if self.sampled is None:
            return None
        s = self.sampled
        found = difference_estimate(self.map_mean, s.observed, s.predicted[_NAME], s.design, s.mapped, level)
        return Uncertain(found.value, found.standard_error, found.df)

    def correlated(self, variance: float) -> dict[str, float]:
        """Return the parts of a variance of errors that neighbours share and that they do not, by the errors' variogram."""
        together = {"errors without bias; too few points to tell correlated ones apart": variance}
        if len(self.observed) < FEWEST_FOR_VARIOGRAM:
            return together
        try:
            fitted = fit_variogram(empirical_variogram(self.lon, self.lat, self.predicted - self.observed))
        except ValueError:  # the points lie at too few places
            return together
        whole = fitted.nugget + fitted.sill
        share = fitted.sill / whole if whole > 0 else 0.0
        reach = f" (practical range {fitted.practical_range:.3g} km)" if share else ""
        return {
            f"spatially correlated errors{reach}": share * variance,
            "nugget: measurement, and differences within the shortest distances": (1 - share) * variance,
        }

    def near(self, profiles: Sequence[Path], rule: TableRule, tif: Path) -> dict[str, Any]:
        """Return how many points lie at profiles (tables, or dataset folders), and how many within the width of a cell of one."""
        lon, lat = [], []
        for path in profiles:
            east, north = read_points(path / "samples.csv" if path.is_dir() else path, rule).places()
            known = np.isfinite(east) & np.isfinite(north)
            lon.append(east[known])
            lat.append(north[known])
        there = unit_vectors(np.concatenate(lon), np.concatenate(lat))
        if not len(there):
            raise UserError(f"{profiles[0]}: has no profile with coordinates")
        chord, _ = cKDTree(there).query(unit_vectors(self.lon, self.lat))
        metres = np.asarray(chord) * EARTH_KM * 1000  # a chord so short is the arc
        grid = raster_grid(tif)
        cell = nominal_metres(grid.crs, max(grid.cell))
        return {
            "profiles": len(there),
            "points_at_profiles": int((metres <= SAME_PLACE_M).sum()),
            "points_within_a_cell": int((metres <= cell).sum()),
            "cell_m": cell,
        }


def _mean_error(error: np.ndarray, level: float) -> Estimate:
    """Return the mean error with Student's t interval, as of a simple random sample."""
    n = len(error)
    se = float(error.std(ddof=1) / n**0.5) if n > 1 else np.nan
    centre = float(error.mean())
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * se if n > 1 else np.nan
    return Estimate(centre, se, centre - half, centre + half, n - 1, n)


def _area_mean(grid: Grid, read: Callable[[int, int, int, int], np.ndarray]) -> tuple[float, float]:
    """Return the mean of a map, of windows (h, w) of its grid, weighted by the areas of cells, and the sum of these, km2.

    It is that of the map as it is. Totals beside it are of means, where the map is of medians: these and residuals from medians do
    not go together.
    """
    mass = area = 0.0
    for tile in progress(grid.tiles(_TILE), "mean of the map", grid.tile_count(_TILE)):
        values = read(tile.row, tile.col, tile.height, tile.width)
        km2 = np.where(np.isfinite(values), cell_areas(grid, tile), 0.0)
        mass, area = mass + float((np.nan_to_num(values) * km2).sum()), area + float(km2.sum())
    return mass / area, area


def validate_stock(tif: Path, points: Path, value: str, unit: str, rule: TableRule, drawn: SampleRule) -> Validation:
    """Validate a map at points of the same quantity; UserError as of `score_points`."""
    product, whole = CarbonMap(name=_NAME, path=tif), (np.nan, np.nan)
    compared, _ = score_points([product], points, value, unit, 0.5, 0, rule, drawn)
    unit, factor = common_unit(compared.unit)
    lon, lat, observed, predicted = (compared.table[name].to_numpy(np.float64) for name in ("lon", "lat", "observed", _NAME))
    ends = compared.intervals.get(_NAME)
    inside = None if ends is None or np.isnan(ends).any() else (ends[0] <= observed) & (observed <= ends[1])
    sampled = compared.sampled
    if sampled is not None:
        scaled = {name: each * factor for name, each in sampled.predicted.items()}
        sampled = replace(sampled, observed=sampled.observed * factor, predicted=scaled, unit=unit)
        with Cells(product) as cells:
            whole = _area_mean(cells.grid, lambda *window: cells.read(*window) * factor)
    return Validation(observed * factor, predicted * factor, inside, lon, lat, compared.given, unit, sampled, *whole)


def validate_change(tif: Path, points: Path, value: str, unit: str, rule: TableRule, drawn: SampleRule) -> Validation:
    """Validate a map of change at points where the change was measured; UserError if it has values at fewer than two of them."""
    table, sample = read_sample(points, value, rule, drawn)
    table.check_measurement(value, "--change_value")
    observed, (lon, lat) = table.numbers(value), table.places()
    layers = {layer.name: layer for layer in find_layers([tif])}
    if CHANGE not in layers:
        raise UserError(f"{tif}: has no band {CHANGE!r}; it is to be the map of change of soilcarbon map --periods")
    known = np.isfinite(observed) & np.isfinite(lon) & np.isfinite(lat)
    windows, _ = cut_windows([layers[CHANGE]], np.where(known, lon, 0.0), np.where(known, lat, 0.0), 0)
    mapped = windows[CHANGE][:, 0, 0].astype(np.float64)
    rows = known & np.isfinite(mapped)
    if rows.sum() < 2:
        raise UserError(f"{points}: at {rows.sum()} of {len(rows)} points there is a measured change and the map has a value")
    common, factor = common_unit(unit)
    observed, predicted = observed * factor, mapped * factor
    sampled, whole = None, (np.nan, np.nan)
    if sample is not None:
        if not (known | ~sample.member).all():
            raise UserError(f"{points}: {(~known & sample.member).sum()} points of the sample have no coordinates")
        here = sample.member
        sampled = SampledPoints(sample.design(), rows[here], observed[here], {_NAME: predicted[here]}, {}, common)
        grid = raster_grid(tif)
        with Stack([layers[CHANGE]], grid) as stack:
            whole = _area_mean(grid, lambda *window: stack.read(*window)[0].astype(np.float64) * factor)
    return Validation(observed[rows], predicted[rows], None, lon[rows], lat[rows], len(rows), common, sampled, *whole)
