"""Read a stranger's table of soil profiles, or of their horizons, into clean profiles.

In: CSV or TSV, GeoJSON, GeoPackage. Out: one row per profile with profile_id, lon, lat, soc (g/kg), and the rows that
were left out with the reason. Nothing is mended in silence: all that is left out is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.constants import SOC_MAXIMUM
from soilcarbon.io.files import UserError, nearest
from soilcarbon.io.points import ALIASES, check_not_swapped, find_columns, numbers, read_points, require_columns
from soilcarbon.soil import depth as depths

MEASURED: dict[str, tuple[str, ...]] = {
    "soc": ("soc", "soc_gkg", "soc_g_kg", "oc", "orgc", "orgc_value_avg", "toc", "orgcarb", "organic_carbon"),
    "bulk_density": ("bulk_density", "bd", "bld", "db", "bdfi", "bdfiod", "bdfiod_value_avg", "bulkdensity", "bd_gcm3"),
    "stones": ("stones", "cf", "crf", "cfvo", "cfvo_value_avg", "crfvol", "coarse_fragments", "gravel", "rock_fragments"),
    "year": ("year", "sampling_year", "survey_year", "year_sampled", "yr"),
}
"""What columns of measurements are called, by preference, in lower case; none that tells of another unit (soc_pct, cfgr)."""
_HIGHEST_LITTER = -100.0
"""cm: a top above it is a code for an unknown depth, not an organic layer."""


@dataclass(frozen=True)
class Horizons:
    """L horizons of N profiles.

    Attributes
    ----------
    table
        L rows as they came, those without profile_id gone.
    profile
        (L,) int64: the profile of each horizon, 0 to N-1.
    top, bottom
        (L,) cm from the surface.
    placed
        (L,) whether top and bottom are known and possible.
    once
        N rows: profile_id, lon, lat, and the columns that are constant within every profile.
    moves
        (N,) whether its horizons lie at different places.
    counts
        What was odd.
    """

    table: pd.DataFrame
    profile: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    placed: np.ndarray
    once: pd.DataFrame
    moves: np.ndarray
    counts: dict[str, int]


def place_horizons(table: pd.DataFrame, path: Path, measured: tuple[str, ...]) -> Horizons:
    """Sort horizons into profiles, and count their depths from the surface (`depths.from_surface`).

    Parameters
    ----------
    table
        With profile_id (text, missing = NaN), lon, lat, top and bottom (cm), and further columns.
    path
        Of the table, for errors.
    measured
        Columns that are each horizon's own, even where they are constant.

    Raises
    ------
    UserError
        If a column of depths holds no number.
    """
    named = table["profile_id"].notna().to_numpy()
    counts = {"rows": len(table), "no profile_id": int((~named).sum())}
    table = table[named].reset_index(drop=True)
    top, bottom = (numbers(table[name], path, name) for name in ("top", "bottom"))
    profile, ids = pd.factorize(table["profile_id"])
    unknown = np.isnan(top) | np.isnan(bottom)
    impossible = ~unknown & ((bottom <= top) | (top < _HIGHEST_LITTER))
    counts["depth missing or not a number"] = int(unknown.sum())
    counts["depth impossible (bottom not below top)"] = int(impossible.sum())
    placed = ~(unknown | impossible)
    top[placed], bottom[placed], counts["profiles with organic layers above 0"] = depths.from_surface(
        profile[placed], top[placed], bottom[placed]
    )
    first = np.flatnonzero(~pd.Series(profile).duplicated())
    once = {
        name: column.iloc[first].reset_index(drop=True)
        for name, column in table.drop(columns=["top", "bottom", *measured]).items()
        if name in ("profile_id", "lon", "lat") or _is_constant(column, profile, first)
    }
    moves = np.zeros(len(ids), bool)
    for name in ("lon", "lat"):
        degrees = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        np.logical_or.at(moves, profile, np.abs(degrees - degrees[first][profile]) > 1e-5)  # a metre is no move
    return Horizons(table, profile, top, bottom, placed, pd.DataFrame(once), moves, counts)


def _is_constant(column: pd.Series, profile: np.ndarray, first: np.ndarray) -> bool:
    """Whether a column (L,) has one value, or none, within every profile; `first` is the first row of each."""
    values, expected = column.to_numpy(object), column.iloc[first].to_numpy(object)[profile]
    return bool(((values == expected) | (pd.isna(values) & pd.isna(expected))).all())


def _years(column: pd.Series) -> pd.Series:
    """Return a column with dates such as 2009-06-15 replaced by their years."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    dates = column.astype("str").str.extract(r"^\s*(\d{4})-\d{1,2}(?:-\d{1,2}(?:[T ].*)?)?\s*$", expand=False)
    return dates.where(dates.notna(), column)


def read_measured(path: Path, named: Mapping[str, str | None]) -> tuple[Horizons, dict[str, str]]:
    """Read a table of horizons, and find its columns of measurements.

    Parameters
    ----------
    path
        As of `pointfiles.read_points`.
    named
        soc, bulk_density, stones and year -> the column that the user names; None: the first of `MEASURED` that is there.

    Returns
    -------
    horizons
        Their table has columns of these names, numbers with NaN for what is none; NaN throughout where there is no column.
        A profile whose horizons are of several years has the first.
    columns
        Ours -> the table's own.

    Raises
    ------
    UserError
        If there is no column of profiles, places, depths or SOC, a named one is not there, or longitude and latitude look swapped.
    """
    raw = read_points(path)
    found = find_columns(raw)
    require_columns(raw, found, tuple(ALIASES), path)
    columns = dict(found)
    guessed = find_columns(raw.drop(columns=list(found.values())), MEASURED)
    for ours, column in named.items():
        if column is not None and column not in raw.columns:
            raise UserError(f"{path}: no column {column!r} (--{ours}){nearest(column, list(raw.columns))}")
        chosen = column or guessed.get(ours)
        if chosen is not None:
            columns[ours] = chosen
    if "soc" not in columns:
        it_has = ", ".join(map(str, raw.columns[:12]))
        raise UserError(f"{path}: no column of soil organic carbon is known by its name; --soc takes one of {it_has}")
    double = next((name for name in columns.values() if list(columns.values()).count(name) > 1), None)
    if double is not None:
        raise UserError(f"{path}: column {double!r} is asked for twice; name different ones")
    ours_of = {column: ours for ours, column in columns.items()}
    others = {column: f"{column}_input" for column in raw.columns if column in {*ALIASES, *named} and column not in ours_of}
    table = raw.rename(columns=ours_of | others)
    if "year" in columns:
        table["year"] = _years(table["year"])
    for ours in ("lon", "lat", *named):
        given = ours in columns and (ours in ("lon", "lat", "soc") or table[ours].notna().any())
        table[ours] = numbers(table[ours], path, columns[ours]) if given else np.nan
    check_not_swapped(table["lon"].to_numpy(), table["lat"].to_numpy(), path)
    ids = table["profile_id"].astype("str").str.strip()
    table["profile_id"] = ids.where(table["profile_id"].notna() & (ids != ""))
    horizons = place_horizons(table, path, tuple(name for name in named if name != "year"))
    year = horizons.table.groupby(horizons.profile)["year"].first()
    return Horizons(**{**vars(horizons), "once": horizons.once.assign(year=year.to_numpy())}), columns


WOSIS_TARGET = "value_avg"
"""The measured value in the files of the WoSIS snapshots."""
_LEADING = ("profile_id", "lon", "lat", "soc")


@dataclass
class Profiles:
    """Clean profiles, and what was left out of them.

    Attributes
    ----------
    table
        N rows: profile_id (text, unique), lon, lat, soc, further columns as they came; of a horizon table also
        cm_covered and n_layers, and of its columns those that are constant within every profile.
    facts
        What the file was, and counts; plain values.
    rejected
        profile_id, reason: one row for each that was left out.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    rejected: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"profile_id": [], "reason": []}, dtype="str"))

    def reject(self, *checks: tuple["np.ndarray | pd.Series", str]) -> None:
        """Move rows to the rejected ones: each check says which rows (N,) are bad and why; the first that holds counts."""
        reason = np.select([np.asarray(bad, bool) for bad, _ in checks], [why for _, why in checks], "")
        gone = pd.DataFrame({"profile_id": self.table["profile_id"], "reason": reason})[reason != ""]
        self.rejected = pd.concat([self.rejected, gone], ignore_index=True)
        self.table = self.table[reason == ""].reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """Return how many were left out for each reason."""
        return {str(reason): int(count) for reason, count in self.rejected["reason"].value_counts().items()}


def read_profiles(
    path: Path,
    target: str | None,
    interval: tuple[float, float] = (0.0, 30.0),
    min_covered: float = 0.0,
    bounds: tuple[float, float, float, float] | None = None,
    places_only: bool = False,
    depth_method: depths.Method = "mean",
    spline_lambda: float = 0.1,
    further: Sequence[tuple[float, float]] = (),
) -> Profiles:
    """Read profiles, check every row, and bring horizons to one depth interval.

    A table with columns of upper and lower depth is taken for horizons, unless it has a column cm_covered, which
    says that they have been averaged already. Of several good rows with one profile_id the first is kept.

    Parameters
    ----------
    path
        CSV, TSV or semicolon-separated; *.geojson, *.json, *.gpkg or *.shp of points. Columns go by `pointfiles.ALIASES`.
    target
        The column of soil organic carbon, g/kg; None: "soc", or "value_avg" of a WoSIS file.
    interval
        Upper and lower limit, cm, that horizons are averaged over.
    min_covered
        Leave out profiles with fewer observed centimetres.
    bounds
        lon_min, lon_max, lat_min, lat_max: profiles beyond are dropped and only counted.
    places_only
        Rows are places to predict: no target is needed, and soc is NaN.
    depth_method, spline_lambda
        How horizons are brought to an interval (`depths.harmonise`).
    further
        Intervals, cm, that get a column each beside soc: soc_0_5 for 0 to 5 cm. It is empty for profiles with less
        than `min_covered` observed, or with less than all of an interval that is thinner; they are counted.

    Raises
    ------
    UserError
        If the file, a column or a whole column's content is wrong, or longitude and latitude look swapped.
    """
    raw = read_points(path)
    if places_only:
        raw, target = raw.drop(columns="soc", errors="ignore").assign(soc=np.nan, cm_covered=np.nan), "soc"
    table, columns, is_horizons = _name_columns(raw, path, target, [_column(pair) for pair in further])
    facts: dict[str, Any] = {"kind": "horizons" if is_horizons else "profiles", "rows": len(table), "columns": columns}
    target = columns["soc"]
    if is_horizons:
        table, facts["horizons"], layers = _to_profiles(table, path, target, [interval, *further], depth_method, spline_lambda)
        facts["depth_cm"] = list(interval)
        if further:
            table, facts["further_depths"] = _add_further(table, layers, min_covered)
    elif (depth_method != "mean" or further) and not places_only:
        raise UserError(
            f"{path}: depth_method and depth_limits need horizons (columns of upper and lower depth, none named cm_covered);"
            " leave them out for a table of profiles"
        )
    elif min_covered > 0 and "cm_covered" not in table:
        raise UserError(f"{path}: min_covered needs horizons, or a column 'cm_covered'; set it to 0")
    lon, lat = numbers(table["lon"], path, "lon"), numbers(table["lat"], path, "lat")
    check_not_swapped(lon, lat, path)
    table = table[[*_LEADING, *(column for column in table if column not in _LEADING)]]
    profiles = Profiles(table.assign(lon=lon, lat=lat), facts)
    profiles.reject(
        (table["profile_id"].isna(), "no profile_id"),
        (np.isnan(lon) | np.isnan(lat), "longitude or latitude missing or not a number"),
        ((np.abs(lon) > 180) | (np.abs(lat) > 90), "longitude or latitude out of range"),
    )
    if bounds is not None:
        lon_min, lon_max, lat_min, lat_max = bounds
        here = profiles.table["lon"].between(lon_min, lon_max) & profiles.table["lat"].between(lat_min, lat_max)
        turned = profiles.table["lat"].between(lon_min, lon_max) & profiles.table["lon"].between(lat_min, lat_max)
        if not here.any() and turned.mean() > 0.5:
            raise UserError(f"{path}: longitude and latitude look swapped (none within bounds, {turned.sum()} if swapped)")
        facts["out_of_bounds"] = int((~here).sum())
        profiles.table = profiles.table[here].reset_index(drop=True)
    if is_horizons:
        why = f"no usable horizon within {interval[0]:g}-{interval[1]:g} cm"
        profiles.reject((profiles.table.pop("moves"), "its horizons lie at different places"), (profiles.table["soc"].isna(), why))
    elif not places_only:
        profiles.reject(*_value_checks(profiles.table["soc"], path, target))
        profiles.table["soc"] = profiles.table["soc"].astype(np.float64)
    if min_covered > 0:
        covered = numbers(profiles.table["cm_covered"], path, "cm_covered")
        profiles.reject((~(covered >= min_covered), f"fewer than {min_covered:g} cm observed"))
    profiles.reject((profiles.table["profile_id"].duplicated(), "duplicate profile_id"))
    if places_only:
        profiles.table = profiles.table.drop(columns=["soc", "cm_covered"])
    return profiles


def unit_hint(soc: np.ndarray) -> str | None:
    """Return a sentence if values of soil organic carbon look like another unit than g/kg."""
    if len(soc) < 10:
        return None
    middle, most = float(np.median(soc)), float(np.max(soc))
    # Topsoils of the world have a median near 12 g/kg; pure organic matter has 580 g/kg, or 58 per cent, of carbon.
    if middle < 3 and most < 60:
        return f"the values (median {middle:.3g}, largest {most:.3g}) look like per cent; soc is g/kg: multiply by 10 if so"
    return None


def _name_columns(
    raw: pd.DataFrame, path: Path, target: str | None, made: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str], bool]:
    """Give columns our names, none of them one of those that will be `made`.

    Return the table, our name -> the column's name, and whether rows are horizons.
    """
    it_has = ", ".join(map(str, raw.columns[:12]))
    chosen = find_columns(raw)
    is_horizons = "top" in chosen and "bottom" in chosen and "cm_covered" not in raw.columns.str.lower()
    if not is_horizons:
        chosen = {ours: column for ours, column in chosen.items() if ours not in ("top", "bottom")}
    require_columns(raw, chosen, ("lon", "lat", *(("profile_id",) if is_horizons else ())), path)
    if target is None:
        is_wosis = {WOSIS_TARGET, "upper_depth", "lower_depth"} <= set(raw.columns)
        target = WOSIS_TARGET if is_wosis and "soc" not in raw.columns else "soc"
    if target not in raw.columns or target in chosen.values():
        longer = next((column for column in raw.columns if target.lower() in column.lower()), None)
        near = f"; did you mean {longer!r}?" if longer else nearest(target, list(raw.columns))
        what = "is no measurement" if target in raw.columns else f"is not in it{near}"
        raise UserError(f"{path}: the target column {target!r} {what} (--target takes one of {it_has})")

    names = {column: ours for ours, column in chosen.items()} | {target: "soc"}
    taken = {*chosen, "profile_id", "soc"} | ({"cm_covered", "n_layers", "moves", *made} if is_horizons else set())
    others = {column: f"{column}_input" for column in raw.columns if column in taken and column not in names}
    table = raw.rename(columns=names | others)
    if "profile_id" not in table:
        table["profile_id"] = [str(k) for k in range(1, len(table) + 1)]
    ids = table["profile_id"].astype("str").str.strip()
    table["profile_id"] = ids.where(table["profile_id"].notna() & (ids != ""))
    return table, {"profile_id": "row number"} | chosen | {"soc": target}, is_horizons


# --- checking ----------------------------------------------------------------------------------------------------


def _value_checks(column: pd.Series, path: Path, target: str) -> list[tuple[np.ndarray, str]]:
    """Return what can be wrong with soil organic carbon, and where."""
    soc = numbers(column, path, target)
    return [
        (column.isna().to_numpy(), f"{target} missing"),
        (np.isnan(soc), f"{target} not a number"),
        (soc < 0, f"{target} negative"),
        (soc > SOC_MAXIMUM, f"{target} above {SOC_MAXIMUM:g} g/kg"),
    ]


# --- horizons ----------------------------------------------------------------------------------------------------


def _to_profiles(
    table: pd.DataFrame, path: Path, target: str, intervals: Sequence[tuple[float, float]], method: depths.Method, smoothing: float
) -> tuple[pd.DataFrame, dict[str, int], depths.Harmonised]:
    """Bring horizons to intervals; `smoothing` is the spline's lambda.

    Return one row per profile, its soc being of the first interval (NaN where nothing is usable), counts of what was
    odd, and the values in all intervals.
    """
    horizons = place_horizons(table, path, ("soc",))
    value = pd.to_numeric(horizons.table["soc"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    checks = _value_checks(horizons.table["soc"], path, target)
    fault = np.select([horizons.placed & bad for bad, _ in checks], np.arange(1, len(checks) + 1), 0)
    counts = horizons.counts | {why: int((fault == k).sum()) for k, (_, why) in enumerate(checks, start=1)}
    good = horizons.placed & (fault == 0)
    layers = depths.harmonise(
        horizons.profile[good],
        horizons.top[good],
        horizons.bottom[good],
        value[good],
        intervals,
        len(horizons.once),
        method,
        smoothing,
        (0.0, SOC_MAXIMUM),
    )
    counts |= layers.counts
    averaged = horizons.once.assign(
        soc=layers.mean[:, 0], cm_covered=layers.covered[:, 0], n_layers=layers.layers[:, 0], moves=horizons.moves
    )
    return averaged, {what: count for what, count in counts.items() if count}, layers


def _column(interval: tuple[float, float]) -> str:
    """Return the column that holds soil organic carbon of a further interval."""
    return f"soc_{interval[0]:g}_{interval[1]:g}"


def _add_further(
    table: pd.DataFrame, layers: depths.Harmonised, min_covered: float
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Add a column for each interval but the first; return the table, and of each column how many have a value or not."""
    columns = [_column(interval) for interval in layers.intervals.tolist()]
    enough, counts = layers.sufficient(min_covered)
    further = pd.DataFrame(np.where(enough, layers.mean, np.nan)[:, 1:], columns=columns[1:])
    return pd.concat([table, further], axis=1), dict(zip(columns[1:], counts[1:], strict=True))
