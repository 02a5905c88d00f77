"""Validation of maps by a probability sample: tables of design-based accuracy, and their section of a report.

In: points at which maps have values, and how they were drawn. Out: one row per map and part of the area, one per pair of maps, and
a `Section`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.html import Block, Details, Note, Section, Table, format_value
from soilcarbon.stats.design_based import (
    Estimate,
    SamplingDesign,
    by_zone,
    compare_maps,
    mean,
    points_for_normal_mean,
    validate_map,
)

AREA = "area"
"""The part that is all of it."""
_ENDS = ("", "_se", "_low", "_high")
"""Of the columns of an estimate: value, standard error, and the ends of its interval."""
_TITLES = {"me": "ME", "mae": "MAE", "mse": "MSE", "rmse": "RMSE", "mec": "MEC", "picp": "PICP"}
_EXPLAINED = (
    "Value, standard error and 95 % t interval. ME: mean of map minus point, with the two-sided p of no bias. MSE: mean squared "
    "error, RMSE its root. MEC: model efficiency coefficient, 1 minus MSE over the variance of the area; below 0 a map is worse "
    "than the mean. PICP: share of the area inside the map's own prediction intervals."
)


@dataclass(frozen=True)
class SampledPoints:
    """A probability sample of n points at which maps are validated."""

    design: SamplingDesign
    mapped: np.ndarray  # (n,) bool: where all maps have values; the estimates are of this part of the area
    observed: np.ndarray  # (n,) in `unit`
    # predicted, inside: map -> (n,) its values, NaN outside, and (n,) whether points lie in its prediction intervals, of maps that
    # have these
    predicted: Mapping[str, np.ndarray]
    inside: Mapping[str, np.ndarray]
    unit: str


def accuracy(points: SampledPoints) -> pd.DataFrame:
    """Return the accuracy of each map: of the area, and of each stratum where there are several.

    Columns: map, part ("area", or "stratum" and its name), share (of the area), n, df, unit; me, mae, mse, rmse, mec and, of maps
    with prediction intervals, picp, each with _se, _low, _high; me_t and me_p of the test for bias.
    """
    design = points.design
    parts = {AREA: (1.0, points.mapped)}
    if len(design.names) > 1:
        strata = by_zone([design.names[k] for k in design.stratum], design.names)
        parts |= {f"stratum {name}": (design.shares[name], inside & points.mapped) for name, inside in strata.items()}
    rows = []
    for name, predicted in points.predicted.items():
        for part, (share, within) in parts.items():
            if not within.any():
                continue
            found = validate_map(points.observed, predicted, design, within)
            if name in points.inside:
                found["picp"] = mean(points.inside[name].astype(float), design, within).within(0.0, 1.0)
            bias = found["me"]
            row: dict[str, Any] = {"map": name, "part": part, "share": share, "n": bias.n, "df": bias.df, "unit": points.unit}
            for measure, each in found.items():
                row |= _columns(measure, each)
            rows.append(row | {"me_t": bias.t, "me_p": bias.p})
    return pd.DataFrame(rows)


def comparisons(points: SampledPoints) -> pd.DataFrame:
    """Return, for each pair of maps, the difference of their mean squared errors (map minus other) with its paired t test."""
    rows = []
    for first, second in combinations(points.predicted, 2):
        each = compare_maps(points.observed, points.predicted[first], points.predicted[second], points.design, points.mapped)
        row = {"map": first, "other": second, "n": each.n, "df": each.df, "unit": f"({points.unit})2"}
        rows.append(row | _columns("mse_difference", each) | {"t": each.t, "p": each.p})
    columns = ["map", "other", "n", "df", "unit", *(f"mse_difference{end}" for end in _ENDS), "t", "p"]
    return pd.DataFrame(rows, columns=columns)


def _columns(name: str, each: Estimate) -> dict[str, float]:
    """Return an estimate as columns of a row."""
    return dict(zip((f"{name}{end}" for end in _ENDS), (each.value, each.standard_error, each.low, each.high), strict=True))


def described(points: SampledPoints) -> str:
    """Return how it was estimated, and of which part of the area, as text."""
    text = f"{points.design.described()}."
    if not points.mapped.all():
        text += (
            f" All maps have values at {int(points.mapped.sum())} of the points: the estimates are of the mapped part of the area."
        )
    errors = {name: (each - points.observed)[points.mapped] for name, each in points.predicted.items()}
    needed = {name: points_for_normal_mean(each) for name, each in errors.items()}
    if few := {name: n for name, n in needed.items() if n > points.mapped.sum()}:
        names = ", ".join(f"{name} (about {n:,} points)" for name, n in few.items())
        text += f" Errors are so skewed that intervals hold less often than they say with fewer points than: {names}."
    observed = mean(points.observed, points.design, points.mapped)
    return f"{text} Mean of the area by the points alone: {_shown(_columns('mean', observed), 'mean')} {points.unit}."


def section(points: SampledPoints, rows: pd.DataFrame, pairs: pd.DataFrame) -> Section:
    """Return the section of a report."""
    whole = rows["part"] == AREA
    blocks: list[Block] = [Note(described(points)), _table("Accuracy over the sampled area", points.unit, rows[whole], _EXPLAINED)]
    if not whole.all():
        blocks.append(Details("Accuracy in each stratum", [_table("Accuracy in each stratum", points.unit, rows[~whole])]))
    if len(pairs):
        names = ["map", "other", f"MSE, difference ({points.unit})²", "t", "df", "p"]
        lines = [
            [row["map"], row["other"], _shown(row, "mse_difference"), row["t"], row["df"], _p(row["p"])]
            for row in pairs.to_dict("records")
        ]
        numeric = [False, False, True, True, True, True]
        blocks.append(
            Table("Paired comparison of maps", names, lines, numeric, note="Below 0 the first map has the smaller errors.")
        )
    return Section("design", "Accuracy by the probability sample", blocks)


def _table(caption: str, unit: str, rows: pd.DataFrame, note: str = "") -> Table:
    measures = [name for name in _TITLES if name in rows]
    strata = (rows["part"] != AREA).any()
    header = ["map", *(["part", "share"] if strata else []), "n", "df", *(_title(name, unit) for name in measures), "p of bias"]
    body = []
    for row in rows.to_dict("records"):
        cells = [row["map"], *([row["part"], row["share"]] if strata else []), row["n"], row["df"]]
        estimates = [_shown(row, name) for name in measures]
        body.append([*cells, *estimates, _p(row["me_p"])])
    return Table(caption, header, body, note=note)


def lines(points: SampledPoints, rows: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return the results as text, for a terminal."""
    found = []
    for row in rows[rows["part"] == AREA].to_dict("records"):
        shown = [f"{_title(name, points.unit)} {_shown(row, name)}" for name in ("me", "rmse", "mec")]
        found.append(f"{row['map']} over the area, design-based: {', '.join(shown)}; bias t {row['me_t']:.2f}, p {_p(row['me_p'])}")
    for row in pairs.to_dict("records"):
        difference = _shown(row, "mse_difference")
        found.append(f"{row['map']} against {row['other']}: MSE differs by {difference}, paired t {row['t']:.2f}, p {_p(row['p'])}")
    return [*found, described(points)]


def _title(name: str, unit: str) -> str:
    units = {"me": f" ({unit})", "mae": f" ({unit})", "rmse": f" ({unit})", "mse": f" ({unit})²"}
    return _TITLES[name] + units.get(name, "")


def _shown(row: Mapping[str, Any], name: str) -> str:
    """Return an estimate of a row as text."""
    value, error, low, high = (format_value(row[f"{name}{end}"]) for end in _ENDS)
    return value if "–" in (value, error) else f"{value} ± {error} [{low}, {high}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
