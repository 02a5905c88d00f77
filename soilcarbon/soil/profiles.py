"""Soil profiles from untrusted tables of profiles or horizons: columns found, every row checked, rejected rows listed with reason.

In: CSV or TSV, GeoJSON, GeoPackage. Out: `read_profiles`: one row per profile or visit with profile_id, lon, lat, soc (g/kg),
horizons brought to a depth interval. What is left out is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.geo.zonal_statistics import mass_of
from soilcarbon.io.files import UserError
from soilcarbon.io.points import PointTable, TableRule, read_points
from soilcarbon.quantities import possible, to_standard
from soilcarbon.soil.depth import Method, harmonise
from soilcarbon.soil.horizons import beside_others, has_depths, measured_soc, place_horizons
from soilcarbon.soil.target import Target, organic_matter_unit, target_of, unit_is_stated
from soilcarbon.soil.visits import SITE, check_one_row_each, placed_visits

WOSIS_TARGET = "value_avg"  # the measured value in the files of the WoSIS snapshots
_SUBSOIL = 30.0  # cm: below it a low content of carbon is common
_LEADING = ("profile_id", "lon", "lat", "soc")


@dataclass(frozen=True)
class DepthRule:
    """Depth harmonisation of horizons: to one value per profile, and to further columns soc_0_5 ... of other intervals.

    A further column is empty for profiles with less than `min_covered` observed, or than all of an interval that is thinner.
    """

    interval: tuple[float, float] = (0.0, 30.0)  # cm
    method: Method = "mean"  # as of `depth.harmonise`
    smoothing: float = 0.1  # the spline's lambda
    further: Sequence[tuple[float, float]] = ()  # cm
    min_covered: float = 0.0  # cm; profiles with less are left out


@dataclass
class Profiles:
    """Clean profiles, and the rows that were left out."""

    # N rows: profile_id (text, unique), lon, lat (degrees), soc (g/kg), further columns as they came; of a horizon table also
    # cm_covered and n_layers, and of its columns those that are constant within every profile
    table: pd.DataFrame
    facts: dict[str, Any]  # kind of table, columns, counts; plain values
    # one row for each that was left out
    rejected: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"profile_id": [], "reason": []}, dtype="str"))

    def reject(self, *checks: tuple["np.ndarray | pd.Series", str]) -> None:
        """Move rows to the rejected ones: each check gives the rows (N,) that fail, and the reason; the first that fails counts."""
        reason = np.select([np.asarray(bad, bool) for bad, _ in checks], [why for _, why in checks], "")
        gone = pd.DataFrame({"profile_id": self.table["profile_id"], "reason": reason})[reason != ""]
        self.rejected = pd.concat([self.rejected, gone], ignore_index=True)
        self.table = self.table[reason == ""].reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """Return how many were left out for each reason."""
        return {str(reason): int(count) for reason, count in self.rejected["reason"].value_counts().items()}


# --- profiles --------------------------------------------------------------------------------------------------------


def read_profiles(
    path: Path,
    target: str | None,
    depth: DepthRule = DepthRule(),  # noqa: B008 - frozen
    bounds: tuple[float, float, float, float] | None = None,
    places_only: bool = False,
    rule: TableRule = TableRule(),  # noqa: B008 - frozen
    soc_factor: float | None = None,
    unit: str | None = None,
) -> Profiles:
    """Read profiles, check every row, and bring horizons to one depth interval.

    A table with columns of upper and lower depth, or of depth ranges, is taken for horizons, unless it has a column cm_covered:
    then they have been averaged already. Visits of one place in several years are profiles of their own. Of several good rows with
    one profile_id the first is kept; a table of which many rows repeat one is refused.

    The target's column is "soc" if none is named, or "value_avg" of a WoSIS file; `soc_factor` the share of it, of organic matter,
    that is carbon; its unit by default that of its name (`target.target_of`). With `places_only` rows are places to predict,
    without soc. Profiles beyond `bounds` (lon_min, lon_max, lat_min, lat_max, degrees) are dropped and only counted. UserError if
    the file, a column or a whole column's content is wrong, or longitude and latitude look swapped.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "horizons.csv"
    >>> _ = path.write_text(chr(10).join(["id,x,y,top,bottom,soc", "a,10,50,0,10,20", "a,10,50,10,30,8", "b,11,50,0,30,-3"]))
    >>> found = read_profiles(path, "soc")
    >>> found.table[["profile_id", "soc", "cm_covered"]].to_dict("records")
    [{'profile_id': 'a', 'soc': 12.0, 'cm_covered': 30.0}]
    >>> found.counts()
    {'no usable horizon within 0-30 cm': 1}
    """
    points = read_points(path, rule)
    is_horizons = has_depths(points) and "cm_covered" not in points.raw.columns.str.lower()
    points.require("lon", "lat", *(("profile_id",) if is_horizons else ()))
    soc, used, meaning = np.full(len(points.raw), np.nan), {}, Target()
    if not places_only:
        name = target or _default_target(points)
        points.check_measurement(name, "--target")
        points.take("soc", name)
        used["soc"], soc, meaning = _target(points, name, soc_factor, unit, depth.interval if is_horizons else None)
    facts: dict[str, Any] = {"kind": "horizons" if is_horizons else "profiles", "rows": len(points.raw)}
    if not (is_horizons or places_only):
        _check_depth_rule(depth, "cm_covered" in points.raw, path)
    if is_horizons:
        table, far = _average_horizons(points, soc, used.get("soc", ""), meaning, depth, facts), None
    else:
        table, far = _rows_as_profiles(points, soc, used.get("soc"), places_only)
    names = ("lon", "lat", "lon_letter", "lat_letter", "year", *(("top", "bottom", "depth", "horizon") if is_horizons else ()))
    used = {name: points.columns.found[name] for name in ("profile_id", *names) if name in points} | used
    facts["columns"] = {"profile_id": "row number"} | used
    facts["not_used"], facts["notes"] = points.columns.unused(used), points.notes
    profiles = _located(table[[*_LEADING, *(column for column in table if column not in _LEADING)]], facts, path, bounds)
    if is_horizons:
        why = f"no usable horizon within {depth.interval[0]:g}-{depth.interval[1]:g} cm"
        profiles.reject((profiles.table.pop("moves"), "its horizons lie at different places"), (profiles.table["soc"].isna(), why))
    elif not places_only:
        profiles.reject(*_value_checks(profiles.table["soc"].to_numpy(), used["soc"], meaning, path))
    if far is not None and far.any():
        lost = profiles.table[SITE].isin(table[SITE][far])
        profiles.reject((lost, "its visits lie at different places"))
    if places_only:
        profiles.reject((profiles.table["profile_id"].duplicated(), "duplicate profile_id"))
        profiles.table = profiles.table.drop(columns=["soc", "cm_covered"], errors="ignore")
        return profiles
    if unit is None and meaning.unit == "g/kg":
        check_not_percent(profiles.table["soc"].to_numpy(), used["soc"], meaning.depth, path)
    if depth.min_covered > 0:
        covered = pd.to_numeric(profiles.table["cm_covered"], errors="coerce").to_numpy(np.float64)
        profiles.reject((~(covered >= depth.min_covered), f"fewer than {depth.min_covered:g} cm observed"))
    profiles.reject((profiles.table["profile_id"].duplicated(), "duplicate profile_id"))
    facts["target"] = replace(meaning, years=_span(profiles.table)).as_plain()
    return profiles


def _check_depth_rule(depth: DepthRule, has_cover: bool, path: Path) -> None:
    """Raise UserError if a rule of depths is given for a table of profiles, which have been averaged over depth already."""
    if depth.method != "mean" or depth.further:
        raise UserError(
            f"{path}: depth_method and depth_limits need horizons (columns of upper and lower depth, none named cm_covered);"
            " leave them out for a table of profiles"
        )
    if depth.min_covered > 0 and not has_cover:
        raise UserError(f"{path}: min_covered needs horizons, or a column 'cm_covered'; set it to 0")


def _default_target(points: PointTable) -> str:
    """Return the column of the target where none is named."""
    is_wosis = {WOSIS_TARGET, "upper_depth", "lower_depth"} <= set(points.raw.columns)
    return WOSIS_TARGET if is_wosis and "soc" not in points.raw.columns else points.rule.columns.get("soc", "soc")


def _target(
    points: PointTable, name: str, soc_factor: float | None, unit: str | None, depth: tuple[float, float] | None
) -> tuple[str, np.ndarray, Target]:
    """Return the target's column, its values (L,), and what it is."""
    if unit is None or soc_factor is not None:
        column, values, stated = measured_soc(points, soc_factor, "--target ")
        if unit is None and stated not in (None, "g/kg"):
            values, unit = to_standard(values, "soc", stated), "g/kg"
            points.notes.append(f"{column!r}: {stated} are turned into g/kg")
        if soc_factor is not None and unit is None:
            unit = organic_matter_unit(column, points.path)
        named = soc_factor is not None or stated or points.rule.columns.get("soc") == column  # as soc, whatever it is called
        meaning = target_of("soc" if named else column, unit, points.path, depth)
    else:
        column, meaning = name, target_of(name, unit, points.path, depth)
        values = points.numbers(name, negative=meaning.limits[0] < 0)
    if depth is not None and mass_of(meaning.unit) is not None:
        advice = "a stock of the interval is a sum: make densities of profiles with soilcarbon densities first"
        raise UserError(f"{points.path}: {column} in {meaning.unit} of horizons cannot be averaged over depth; {advice}")
    return column, values, meaning


def _span(table: pd.DataFrame) -> tuple[int, int] | None:
    """Return the first and the last year of sampling, where a column of years is there."""
    if "year" not in table:
        return None
    years = pd.to_numeric(table["year"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    years = years[possible(years, "year", "year")]
    return (int(years.min()), int(years.max())) if years.size else None


def check_not_percent(soc: np.ndarray, column: str, depth: tuple[float, float] | None, path: Path) -> None:
    """Raise a question if values of SOC (n,), taken for g/kg, look like per cent; those of a subsoil may be as low."""
    hint = unit_hint(soc)
    if hint and not unit_is_stated(column) and (depth is None or depth[0] < _SUBSOIL):
        raise UserError(f"{path}: {column}: {hint}; --unit % if so, --unit g/kg if not")


def _rows_as_profiles(
    points: PointTable, soc: np.ndarray, target: str | None, places_only: bool
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of profiles or visits, one row each, and which visits are far from the first of their id (N,)."""
    rows, far = placed_visits(points)
    if not places_only:
        check_one_row_each(points, rows["profile_id"], target)
    used = [points.columns.found[name] for name in ("profile_id", "lon", "lat") if name in points] + ([target] if target else [])
    used += [points.columns.found["year"]] if points.columns.found.get("year") == "year" else []
    return beside_others(rows.assign(soc=soc), points, used), far


def unit_hint(soc: np.ndarray) -> str | None:
    """Return a sentence if values of soil organic carbon (n,) look like per cent rather than g/kg.

    >>> unit_hint(np.full(20, 12.0)) is None
    True
    """
    if len(soc) < 10:
        return None
    middle, most = float(np.median(soc)), float(np.max(soc))
    # Topsoils of the world have a median near 12 g/kg; pure organic matter has 580 g/kg, or 58 per cent, of carbon.
    if middle < 3 and most < 60:
        return f"the values (median {middle:.3g}, largest {most:.3g}) look like per cent, not g/kg"
    return None


def _located(table: pd.DataFrame, facts: dict[str, Any], path: Path, bounds: tuple[float, float, float, float] | None) -> Profiles:
    """Return the rows that have an id and a possible place within bounds."""
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    profiles = Profiles(table, facts)
    profiles.reject(
        (table["profile_id"].isna(), "no profile_id"),
        (np.isnan(lon) | np.isnan(lat), "longitude or latitude missing or not a number"),
        ((np.abs(lon) > 180) | (np.abs(lat) > 90), "longitude or latitude out of range"),
    )
    if bounds is not None:
        lon_min, lon_max, lat_min, lat_max = bounds
        here = profiles.table["lon"].between(lon_min, lon_max) & profiles.table["lat"].between(lat_min, lat_max)
        swapped = profiles.table["lat"].between(lon_min, lon_max) & profiles.table["lon"].between(lat_min, lat_max)
        if not here.any() and swapped.mean() > 0.5:
            raise UserError(f"{path}: longitude and latitude look swapped (none within bounds, {swapped.sum()} if swapped)")
        facts["out_of_bounds"] = int((~here).sum())
        profiles.table = profiles.table[here].reset_index(drop=True)
    return profiles


def _value_checks(values: np.ndarray, name: str, target: Target, path: Path) -> list[tuple[np.ndarray, str]]:
    """Return the checks of the target (N,): which rows fail, and the reason."""
    least, most = target.limits
    wrong, known = int(((values < least) | (values > most)).sum()), int(np.isfinite(values).sum())
    if 2 * wrong > known:
        raise UserError(f"{path}: {name}: {wrong} of {known} values lie beyond {least:g} to {most:g} {target.unit}: --unit")
    return [
        (np.isnan(values), f"{name} missing"),
        (values < least, f"{name} negative"),
        (values > most, f"{name} above {most:g} {target.unit}"),
    ]


# --- horizons --------------------------------------------------------------------------------------------------------


def _average_horizons(
    points: PointTable, soc: np.ndarray, name: str, target: Target, depth: DepthRule, facts: dict[str, Any]
) -> pd.DataFrame:
    """Return a row per profile with soc of the intervals, NaN where no horizon is usable; add counts to `facts`."""
    further = [f"soc_{upper:g}_{lower:g}" for upper, lower in depth.further]
    found = place_horizons(points, {"soc": soc}, ("cm_covered", "n_layers", "moves", *further))
    value = found.table["soc"].to_numpy(np.float64)
    checks = _value_checks(value, name, target, points.path)
    fault = np.select([found.placed & bad for bad, _ in checks], np.arange(1, len(checks) + 1), 0)
    counts = found.counts | {why: int((fault == k).sum()) for k, (_, why) in enumerate(checks, start=1)}
    good = found.placed & (fault == 0)
    intervals = [depth.interval, *depth.further]
    layers = harmonise(found.horizons.take(good), value[good], intervals, depth.method, depth.smoothing, target.limits)
    counts |= layers.counts
    facts["horizons"] = {what: count for what, count in counts.items() if count}
    facts["depth_cm"] = list(depth.interval)
    averaged = found.once.assign(
        soc=layers.mean[:, 0], cm_covered=layers.covered[:, 0], n_layers=layers.n_layers[:, 0], moves=found.moves
    )
    if further:
        enough, counted = layers.sufficient(depth.min_covered)
        averaged[further] = np.where(enough, layers.mean, np.nan)[:, 1:]
        facts["further_depths"] = dict(zip(further, counted[1:], strict=True))
    return averaged
