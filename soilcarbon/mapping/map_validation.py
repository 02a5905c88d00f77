"""How far maps agree with points that none has learnt from, and with each other.

In: settings. Out: rows of scores, and what figures are drawn of. Of points every map is scored on the same ones; of two maps every
cell of their common grid counts once.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.constants import SOC_MAXIMUM
from soilcarbon.geo.field import UNITS, unit_of
from soilcarbon.geo.zonal_statistics import mass_of
from soilcarbon.io.files import UserError
from soilcarbon.io.points import find_columns, read_points, require_columns
from soilcarbon.mapping.products import CarbonMap, Cells, Shared, ends_of, on_common_grid
from soilcarbon.soil.dataset import check_samples
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.metrics import bootstrap_scores, coverage, scores

log = logging.getLogger(__name__)
SCORES = ("r2", "rmse", "me", "mae", "ccc")
PLACED = ("profile_id", "lon", "lat")
STRANGE = 4.0
"""Times that the medians of points and of a map differ by, from where on a user is asked about units."""
_FEWEST = 2
"""Points: one alone has no scores."""


@dataclass(frozen=True)
class Points:
    """Points at which all maps have values.

    Attributes
    ----------
    table
        profile_id, lon, lat, observed, and a column of each map by its name.
    unit
        Of the values.
    given
        How many there were.
    """

    table: pd.DataFrame
    unit: str
    given: int


def score_points(
    products: Sequence[CarbonMap], points: Path, value: str, unit: str, block_size: float, seed: int
) -> tuple[Points, pd.DataFrame]:
    """Score maps at independent points, those at which all of them have values.

    Parameters
    ----------
    products
        The maps.
    points
        Table of profile_id, lon, lat and the value.
    value, unit
        Its column, and the unit: one of `field.UNITS`.
    block_size
        Side in degrees of the blocks of points that are resampled for intervals.
    seed
        Of the bootstrap.

    Returns
    -------
    points
        What was compared.
    rows
        map, reference ("points"), n, blocks, unit, and each score with _low and _high (95 %, whole blocks resampled); of a map with
        prediction intervals coverage, coverage_low, coverage_high: the share of points inside (PICP).

    Raises
    ------
    UserError
        If a file cannot be read, units are of different quantities, or at fewer than two points all maps have values.
    """
    known = unit_of(unit)
    if known is None:
        raise UserError(f"unit = {unit!r}: expected one of {', '.join(UNITS)}")
    unit, factor = UNITS[known]
    table, observed = _read(points, value, SOC_MAXIMUM / factor)
    lon, lat = table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64)
    found = table[["profile_id", "lon", "lat"]].assign(observed=observed * factor)
    ends = {}
    for product in products:
        with Cells(product) as cells:
            if cells.unit != unit:
                raise UserError(f"{cells.name} is in {cells.unit}, the points in {unit}: a content is no density; see densities.py")
            found[product.name] = cells.at(lon, lat)
            ends[product.name] = ends_of(product, lon, lat, cells.bands)
    names = [product.name for product in products]
    _warn_of_units(found, names, unit)
    rows = found[names].notna().all(axis=1).to_numpy()
    if rows.sum() < _FEWEST:
        worst = found[names].notna().sum().idxmin()
        raise UserError(f"{points}: at {rows.sum()} of {len(found)} points all maps have values; {worst} has the fewest")
    compared = Points(found[rows].reset_index(drop=True), unit, len(found))
    units = spatial_groups(lon[rows], lat[rows], block_size)
    table_rows = []
    for name in names:
        observed = compared.table["observed"].to_numpy()
        each = bootstrap_scores(observed, compared.table[name].to_numpy(), seed, groups=units)
        row: dict[str, Any] = {
            "map": name,
            "reference": "points",
            "n": len(observed),
            "blocks": np.unique(units).size,
            "unit": unit,
        }
        for score in SCORES:
            row |= {f"{score}{end}": each[score][key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}  # type: ignore[index]
        interval = ends[name]
        if interval is not None:
            lower, upper = (end[rows] for end in interval)
            share = coverage(observed, lower, upper, units, seed)
            row |= {"coverage": share["value"], "coverage_low": share["low"], "coverage_high": share["high"]}
        table_rows.append(row)
    return compared, pd.DataFrame(table_rows)


def _read(path: Path, value: str, most: float) -> tuple[pd.DataFrame, np.ndarray]:
    """Read points in any format of profiles, columns found by their usual names, and check them."""
    table = read_points(path)
    columns = find_columns(table)
    require_columns(table, columns, PLACED, path)
    if value not in table.columns:
        raise UserError(f"{path}: no column {value!r}; it has {', '.join(map(str, table.columns[:12]))}: name one by --value")
    named = {ours: table[columns[ours]] for ours in PLACED} | {value: table[value]}
    return check_samples(pd.DataFrame(named), path, value, most=most)


def _warn_of_units(found: pd.DataFrame, names: Sequence[str], unit: str) -> None:
    """Say where points and a map differ so much that one of them may be of another unit."""
    for name in names:
        both = found.loc[found[name].notna(), ["observed", name]].median()
        if both.min() > 0 and both.max() / both.min() > STRANGE:
            told = f"points have a median of {both['observed']:.3g} {unit}, {name} {both[name]:.3g}"
            log.warning("%s; are the units right (--unit, and unit= of the map)?", told)


def score_pair(ours: Cells, theirs: Cells, covered: float) -> tuple[Shared, dict[str, Any]]:
    """Score a map against a reference map on their common grid, cell by cell.

    Returns
    -------
    shared
        Both maps.
    row
        map, reference, n (cells), cell_km, unit, area_km2, depth_map, depth_reference, scores, and over the cells that both have:
        mean_map, mean_reference (weighted by area), and of densities total_map, total_reference (Tg).
    """
    shared = on_common_grid(ours, theirs, covered)
    both = shared.both
    first, second, km2 = shared.first[both], shared.second[both], shared.km2[both]
    found = scores(second, first)
    row: dict[str, Any] = {"map": ours.name, "reference": theirs.name, "n": found["n"], "unit": ours.unit}
    row |= {"cell_km": max(ours.metres, theirs.metres) / 1000, "depth_map": ours.depth, "depth_reference": theirs.depth}
    row |= {"area_km2": float(km2.sum())} | {name: found[name] for name in SCORES}
    for name, values in (("map", first), ("reference", second)):
        row[f"mean_{name}"] = float((values * km2).sum() / km2.sum())
        if (mass := mass_of(ours.unit)) is not None:
            row[f"total_{name}"] = float((values * km2).sum()) * mass
    return shared, row
