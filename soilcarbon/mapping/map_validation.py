"""Validation of maps of soil carbon: scores at independent points and against reference maps, and a report.

In: maps in any unit and grid, a table of points. Out: tables of scores, differences as GeoTIFF, figures and report.html. At points
every map is scored on the same ones; of two maps every cell of their common grid counts once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.figures import observed_against_predicted, residual_map, save
from soilcarbon.geo.field import UNITS, unit_of
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import mass_of, total_unit
from soilcarbon.html import Block, FigureFolder, Items, Note, Section, Table, bracketed, format_value, write_report
from soilcarbon.io.files import UserError
from soilcarbon.io.names import file_name
from soilcarbon.io.points import PointTable, TableRule
from soilcarbon.io.values import depth_range
from soilcarbon.mapping import design_validation
from soilcarbon.mapping.carbon_map import CarbonMap
from soilcarbon.mapping.common_grid import Cells, Shared, interval_at, on_common_grid, pair_name
from soilcarbon.mapping.design_validation import SampledPoints
from soilcarbon.mapping.picture import View, draw, read_picture
from soilcarbon.mapping.probability_sample import DrawnPoints, SampleRule, read_sample
from soilcarbon.soil.dataset import check_samples
from soilcarbon.soil.target import limits_of, target_of
from soilcarbon.soil.visits import one_row_each
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.metrics import bootstrap_scores, coverage, scores

log = logging.getLogger(__name__)
SCORES = ("r2", "rmse", "me", "mae", "ccc")
PLACED = ("profile_id", "lon", "lat")
_UNIT_RATIO = 4.0
"""Ratio of the medians of points and of a map from which on a warning about units is given."""


@dataclass(frozen=True)
class Points:
    """Points at which all maps have values."""

    table: pd.DataFrame  # profile_id, lon, lat, observed, and a column of each map by its name
    unit: str
    given: int
    intervals: Mapping[str, tuple[np.ndarray, np.ndarray]]  # map -> ends of its own prediction intervals, of maps that have some
    sampled: SampledPoints | None = None


def score_points(
    products: Sequence[CarbonMap],
    points: Path,
    value: str,
    unit: str,
    block_size: float,
    seed: int,
    rule: TableRule = TableRule(),  # noqa: B008 - frozen
    drawn: SampleRule = SampleRule(sampling="none"),  # noqa: B008 - frozen
    soc_factor: float | None = None,
) -> tuple[Points, pd.DataFrame]:
    """Score maps at independent points, those at which all of them have values.

    `unit` is of the column `value`; `soc_factor` is the share of organic matter that is carbon; blocks of points of `block_size`
    degrees are resampled for intervals. Rows: map, reference ("points"), n, blocks, unit, each score with _low and _high (95 %); of
    a map with prediction intervals coverage with its interval, the share of points inside (PICP). UserError if units are of
    different quantities, or at fewer than two points all maps have values.
    """
    known = unit_of(unit)
    if known is None:
        raise UserError(f"unit = {unit!r}: expected one of {', '.join(UNITS)}")
    unit, factor = UNITS[known]
    table, observed, sample, depth = _read(points, value, limits_of(known), rule, drawn)
    if soc_factor is not None:
        log.info("SOC is %r times %g", value, soc_factor)
        observed = observed * soc_factor
    lon, lat = table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64)
    found = table[["profile_id", "lon", "lat"]].assign(observed=observed * factor)
    ends = {}
    for product in products:
        with Cells(product) as cells:
            if cells.unit != unit:
                differ = f"{cells.name} is in {cells.unit}, the points in {unit}"
                raise UserError(f"{differ} (--unit): a content is not a density; soilcarbon densities makes one of the other")
            if depth and cells.depth.removesuffix("cm") not in ("", depth.removesuffix("cm")):
                log.warning(
                    "%s is of %s, the points of %s: part of the bias is the difference in depth", cells.name, cells.depth, depth
                )
            found[product.name] = cells.at(lon, lat)
            ends[product.name] = interval_at(product, lon, lat, cells.bands)
    names = [product.name for product in products]
    _warn_of_units(found, names, unit)
    rows = found[names].notna().all(axis=1).to_numpy()
    if rows.sum() < 2:
        worst = found[names].notna().sum().idxmin()
        raise UserError(f"{points}: at {rows.sum()} of {len(found)} points all maps have values; {worst} has the fewest")
    sampled = None if sample is None else _sampled(sample, found, rows, ends, unit)
    intervals = {name: (each[0][rows], each[1][rows]) for name, each in ends.items() if each is not None}
    compared = Points(found[rows].reset_index(drop=True), unit, len(found), intervals, sampled)
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
        if name in intervals:
            share = coverage(observed, *intervals[name], units, seed)
            row |= {"coverage": share["value"], "coverage_low": share["low"], "coverage_high": share["high"]}
        table_rows.append(row)
    return compared, pd.DataFrame(table_rows)


def _sampled(
    sample: DrawnPoints,
    found: pd.DataFrame,
    mapped: np.ndarray,
    ends: Mapping[str, tuple[np.ndarray, np.ndarray] | None],
    unit: str,
) -> SampledPoints:
    """Return the points of a probability sample among all (N rows), with their values and what the maps say there."""
    if (sample.member & mapped).sum() < 2:
        raise UserError(f"{sample.path}: at fewer than two points of the probability sample all maps have values")
    here = found[sample.member]
    observed, predicted = here["observed"].to_numpy(), {name: here[name].to_numpy() for name in ends}
    limits = {name: tuple(end[sample.member] for end in each) for name, each in ends.items() if each is not None}
    inside = {name: (low <= observed) & (observed <= high) for name, (low, high) in limits.items()}
    return SampledPoints(sample.design(), mapped[sample.member], observed, predicted, inside, unit)


def _read(
    path: Path, value: str, limits: tuple[float, float], rule: TableRule, drawn: SampleRule
) -> tuple[pd.DataFrame, np.ndarray, DrawnPoints | None, str]:
    """Read points in any format of profiles, and check them; how they were drawn, and their depth if the table says one for all."""
    points, sample = read_sample(path, value, rule, drawn)
    points.require(*PLACED)
    if value not in points.raw.columns:
        raise UserError(f"{path}: no column {value!r}; it has {', '.join(points.raw.columns[:12])}: name one by --value")
    table = one_row_each(points, value)
    for note in points.notes:
        log.info("%s", note)
    return *check_samples(table, path, value, limits=limits), sample, _depth_of(points, value)


def _depth_of(points: PointTable, value: str) -> str:
    """Return the depth of all values, such as "0-10cm", as the table or the column's name says, "" where neither does."""
    ranges = points.get("depth")
    if "top" in points and "bottom" in points:
        ranges = points["top"] + "-" + points["bottom"]
    words = [] if ranges is None else ranges.unique().tolist()
    known = depth_range(words[0]) if len(words) == 1 and isinstance(words[0], str) else None
    if known is None:
        known = (*(target_of(value, "any", points.path).depth or (0, 0)), "")
    units = {unit for name, unit in points.columns.units.items() if name in ("depth", "top")}
    return "" if not known[1] or {*units, known[2]} - {"", "cm"} else f"{known[0]:g}-{known[1]:g}cm"


def _warn_of_units(found: pd.DataFrame, names: Sequence[str], unit: str) -> None:
    """Warn where points and a map differ so much that one of them may be in another unit."""
    for name in names:
        both = found.loc[found[name].notna(), ["observed", name]].median()
        if both.min() > 0 and both.max() / both.min() > _UNIT_RATIO:
            medians = f"points have a median of {both['observed']:.3g} {unit}, {name} {both[name]:.3g}"
            log.warning("%s; are the units right (--unit, and unit= of the map)?", medians)


def score_pair(ours: Cells, theirs: Cells, covered: float) -> tuple[Shared, dict[str, Any]]:
    """Score a map against a reference map on their common grid, cell by cell.

    Columns: map, reference, n (cells), cell_km, unit, area_km2, depth and years of both and whether they are medians,
    scores, and over the cells that both have mean_map, mean_reference (weighted by area), and of densities total_map,
    total_reference (Mt; see `in_one_unit`).
    """
    shared = on_common_grid(ours, theirs, covered)
    both = shared.both
    first, second, km2 = shared.first[both], shared.second[both], shared.km2[both]
    found = scores(second, first)
    row: dict[str, Any] = {"map": ours.name, "reference": theirs.name, "n": found["n"], "unit": ours.unit}
    row |= {"cell_km": max(ours.metres, theirs.metres) / 1000, "depth_map": ours.depth, "depth_reference": theirs.depth}
    row |= {"years_map": ours.years, "years_reference": theirs.years}
    row |= {"medians_map": ours.medians, "medians_reference": theirs.medians}
    row |= {"area_km2": float(km2.sum())} | {name: found[name] for name in SCORES}
    for name, values in (("map", first), ("reference", second)):
        row[f"mean_{name}"] = float((values * km2).sum() / km2.sum())
        if (mass := mass_of(ours.unit)) is not None:
            row[f"total_{name}"] = float((values * km2).sum()) * mass
    return shared, row


def in_one_unit(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `score_pair` with all totals in the unit that suits the largest of them, `total_unit`: t, kt, Mt or Pg.

    Examples
    --------
    >>> in_one_unit([{"total_map": 0.2, "total_reference": 0.25}])
    [{'total_map': 200.0, 'total_reference': 250.0, 'total_unit': 'kt'}]
    """
    totals = ("total_map", "total_reference")
    unit, size = total_unit(max((abs(row[name]) for row in rows for name in totals if name in row), default=0.0))
    return [
        {name: value / size if name in totals else value for name, value in row.items()}
        | ({"total_unit": unit} if totals[0] in row else {})
        for row in rows
    ]


# --- report ---------------------------------------------------------------------------------------------------------------

_TITLES = {"r2": "R²", "rmse": "RMSE", "me": "bias", "mae": "MAE", "ccc": "CCC"}
_IN_UNIT = ("rmse", "me", "mae")
_EXPLAINED = (
    "R²: share of the variance explained, below 0 worse than the mean. Bias: mean of map minus point, or map minus reference map. "
    "CCC: Lin's concordance correlation coefficient."
)
_SIDE = 1000
"""Cells along the longer side of a picture."""


class ValidationReport:
    """Report of a map validation, built up one pair of maps after the other, so that only one pair is in memory.

    `lines` are the results as text, for a terminal.
    """

    def __init__(self, folder: Path, maps: Sequence[str]) -> None:
        self.folder, self.maps, self.lines = folder, maps, list[str]()
        self._figures = FigureFolder(folder)
        self._sections: list[Section] = []
        self._rows: list[Mapping[str, Any]] = []

    def add_points(self, points: Points, rows: pd.DataFrame, depth: str = "") -> None:
        """Add the scores of every map at independent points, as `score_points` returns them."""
        n, groups = len(points.table), int(rows["blocks"].iloc[0])
        which = f"{n:,} of {points.given:,} points ({groups:,} blocks{f', {depth}' if depth else ''}), where all maps have values"
        scores = [*SCORES, *(["coverage"] if "coverage" in rows else [])]
        body = []
        for row in rows.to_dict("records"):
            ends = ([row[f"{name}{end}"] for end in ("", "_low", "_high")] for name in scores)
            body.append([str(row["map"]), *(bracketed(*three) for three in ends)])
            self.lines.append(f"{row['map']} at {n:,} points: {_as_text(row, points.unit)}")
        header = ["map", *_titles(points.unit), *(["PICP"] if "coverage" in rows else [])]
        note = f"{which}; 95 % intervals by blocks. {_EXPLAINED}"
        note += " PICP: share of points inside the map's own prediction interval." if "coverage" in rows else ""
        blocks: list[Block] = [Table("Maps at points", header, body, note=note)]
        observed = points.table["observed"].to_numpy()
        for name in rows["map"]:
            predicted = points.table[name].to_numpy()
            alt, key = f"{name} against points", file_name(name)
            values = observed, predicted, points.unit, alt, ("observed", name), "points"
            blocks.append(self._figures.draw(f"points-{key}", alt, f"{name} at the points.", observed_against_predicted, *values))
            if name in self.maps:
                residuals = *(points.table[each].to_numpy() for each in ("lon", "lat")), observed - predicted, points.unit, alt
                caption = f"Residuals of {name}", "Observed minus map."
                blocks.append(self._figures.draw(f"residuals-{key}", *caption, residual_map, *residuals))
        self._sections.append(Section("points", "Independent points", blocks))

    def add_sample(self, points: SampledPoints, rows: pd.DataFrame, pairs: pd.DataFrame) -> None:
        """Add the accuracy of maps by a probability sample, as `design_validation` gives it."""
        self._sections.append(design_validation.section(points, rows, pairs))
        self.lines.extend(design_validation.lines(points, rows, pairs))

    def add_pair(self, shared: Shared, row: Mapping[str, Any]) -> None:
        """Add a map and a reference map, as `score_pair` returns them; write their difference, and draw it and their scatter."""
        ours, theirs, unit = str(row["map"]), str(row["reference"]), str(row["unit"])
        key, both = pair_name(ours, theirs), shared.both
        tif = self.folder / f"difference-{key}.tif"
        bands = np.stack([shared.first - shared.second, shared.first, shared.second])
        names = ["difference", f"map: {ours}", f"product: {theirs}"]
        write_geotiff(tif, bands, names, shared.grid.transform, shared.grid.crs, [unit] * 3)
        title, about = f"{ours} against {theirs}", f"{row['n']:,} cells of {row['cell_km']:.3g} km"
        for name, which in ((ours, "map"), (theirs, "reference")):
            of = ", ".join(filter(None, (row[f"depth_{which}"], row[f"years_{which}"])))
            about += f"; {name}: {of}" if of else ""
        scatter = shared.second[both], shared.first[both], unit, title, (theirs, ours), "cells"

        def difference(png: Path) -> None:
            picture = read_picture(View(f"{ours} minus {theirs}", tif), _SIDE, first=1)
            save(draw(picture, diverging=True), png)

        figures = [
            self._figures.draw(f"scatter-{key}", title, about, observed_against_predicted, *scatter),
            self._figures.draw(f"difference-{key}", f"{ours} minus {theirs}", f"{ours} minus {theirs}, {unit}.", difference),
        ]
        self._rows.append(row)
        self._sections.append(Section(f"pair{len(self._rows)}", title, [Note(_depth_mismatch(row) or about), *figures]))
        self.lines.append(f"{title}, {about}: {_as_text(row, unit)}")

    def write(self) -> None:
        """Write report.html."""
        sections = list(self._sections)
        if self._rows:
            sections.insert(0, Section("references", "Reference maps", [_pair_table(self._rows)]))
        notes = pair_warnings(self._rows)
        sections.append(Section("notes", "Notes", [Items(notes)] if notes else []))
        title = f"{', '.join(self.maps)} against points and reference maps"
        subject = "A reference map is not the truth: agreement with it shows little, disagreement shows where to look."
        write_report(self.folder / "report.html", title, subject, self.lines, sections)


def pair_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each pair of maps of different or unknown depths, and for each map of medians."""
    found = [text for row in rows if (text := _depth_mismatch(row))]
    medians = [row[which] for row in rows for which in ("map", "reference") if row[f"medians_{which}"]]
    found += [f"{name} is of medians: its mean and total are lower than those of means" for name in medians]
    return list(dict.fromkeys(found))


def _depth_mismatch(row: Mapping[str, Any]) -> str:
    """Return a warning about the depths of a pair; "" where they agree or neither is known."""
    ours, theirs = row["depth_map"], row["depth_reference"]
    if ours == theirs:
        return ""
    if not ours or not theirs:
        unknown = "depth unknown"
        return f"{row['map']} ({ours or unknown}) and {row['reference']} ({theirs or unknown}) may be of different depths"
    return f"{row['map']} is of {ours}, {row['reference']} of {theirs}: part of the bias is the difference in depth"


def _titles(unit: str) -> list[str]:
    return [_TITLES[name] + (f" ({unit})" if name in _IN_UNIT else "") for name in SCORES]


def _pair_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    rows = in_one_unit(rows)
    unit, total = str(rows[0]["unit"]), rows[0].get("total_unit")
    both = ["map", "reference"]
    note = f"{_EXPLAINED} Scores count each cell once; means and totals are by area."
    groups = [("", [*both, "cells", "cell (km)", "area (km2)", *_titles(unit)]), (f"mean ({unit})", both)]
    groups += [(f"total ({total})", both)] if total else []
    names = [*both, "n", "cell_km", "area_km2", *SCORES, "mean_map", "mean_reference"]
    body = [[*(row[name] for name in names), *(row[f"total_{which}"] for which in both if total)] for row in rows]
    return Table.grouped("Maps against reference maps", groups, body, texts=2, note=note)


def _as_text(row: Mapping[str, Any], unit: str) -> str:
    return ", ".join(f"{_TITLES[name]} {format_value(row[name])}" + (f" {unit}" if name in _IN_UNIT else "") for name in SCORES)
