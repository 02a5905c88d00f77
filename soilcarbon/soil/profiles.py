"""Soil profiles from untrusted tables of profiles or horizons: columns found, every row checked, rejected rows listed with reason.

In: CSV or TSV, GeoJSON, GeoPackage. Out: `read_profiles` one row per profile with profile_id, lon, lat, soc (g/kg), horizons
brought to a depth interval; `read_horizons` the horizons themselves with their measurements. What is left out is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, nearest
from soilcarbon.io.points import ALIASES, check_not_swapped, find_columns, numbers, read_points, require_columns
from soilcarbon.soil.dataset import SOC_MAXIMUM
from soilcarbon.soil.depth import Harmonised, Horizons, Method, from_surface, harmonise

MEASURED: dict[str, tuple[str, ...]] = {
    "soc": ("soc", "soc_gkg", "soc_g_kg", "oc", "orgc", "orgc_value_avg", "toc", "orgcarb", "organic_carbon"),
    "bulk_density": ("bulk_density", "bd", "bld", "db", "bdfi", "bdfiod", "bdfiod_value_avg", "bulkdensity", "bd_gcm3"),
    "stones": ("stones", "cf", "crf", "cfvo", "cfvo_value_avg", "crfvol", "coarse_fragments", "gravel", "rock_fragments"),
    "year": ("year", "sampling_year", "survey_year", "year_sampled", "yr"),
}
"""Common names of measured columns in lower case, by preference; none that states another unit (soc_pct, cfgr)."""
WOSIS_TARGET = "value_avg"
"""The measured value in the files of the WoSIS snapshots."""
_HIGHEST_LITTER = -100.0
"""cm: a top above it is a code for an unknown depth, not an organic layer."""
_LEADING = ("profile_id", "lon", "lat", "soc")
_SAME_PLACE = 1e-5
"""Degrees, about a metre."""


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
    """Clean profiles, and the rows that were left out.

    Attributes
    ----------
    table
        N rows: profile_id (text, unique), lon, lat (degrees), soc (g/kg), further columns as they came; of a horizon table also
        cm_covered and n_layers, and of its columns those that are constant within every profile.
    facts
        Kind of table, columns, counts; plain values.
    rejected
        profile_id, reason: one row for each that was left out.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
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


@dataclass(frozen=True)
class HorizonTable:
    """A table of L horizons of N profiles."""

    table: pd.DataFrame  # L rows as they came, those without profile_id left out
    horizons: Horizons  # their profiles and depths, cm from the surface
    placed: np.ndarray  # (L,) whether top and bottom are known and possible
    once: pd.DataFrame  # N rows: profile_id, lon, lat, and the columns that are constant within every profile
    moves: np.ndarray  # (N,) whether its horizons lie at different places
    counts: dict[str, int]  # unusual rows by kind


# --- profiles --------------------------------------------------------------------------------------------------------


def read_profiles(
    path: Path,
    target: str | None,
    depth: DepthRule = DepthRule(),  # noqa: B008 - frozen
    bounds: tuple[float, float, float, float] | None = None,
    places_only: bool = False,
) -> Profiles:
    """Read profiles, check every row, and bring horizons to one depth interval.

    A table with columns of upper and lower depth is taken for horizons, unless it has a column cm_covered: then they have been
    averaged already. Of several good rows with one profile_id the first is kept.

    Parameters
    ----------
    path
        CSV, TSV or semicolon-separated; *.geojson, *.json, *.gpkg or *.shp of points. Columns are found by `points.ALIASES`.
    target
        The column of soil organic carbon, g/kg; None: "soc", or "value_avg" of a WoSIS file.
    depth
        Depth harmonisation of horizons.
    bounds
        lon_min, lon_max, lat_min, lat_max, degrees: profiles beyond are dropped and only counted.
    places_only
        Rows are places to predict: no target is needed, and there is no column soc.

    Raises
    ------
    UserError
        If the file, a column or a whole column's content is wrong, or longitude and latitude look swapped.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "horizons.csv"
    >>> _ = path.write_text(chr(10).join(["id,x,y,top,bottom,soc", "a,10,50,0,10,20", "a,10,50,10,30,8", "b,11,50,0,30,-1"]))
    >>> found = read_profiles(path, "soc")
    >>> found.table[["profile_id", "soc", "cm_covered"]].to_dict("records")
    [{'profile_id': 'a', 'soc': 12.0, 'cm_covered': 30.0}]
    >>> found.counts()
    {'no usable horizon within 0-30 cm': 1}
    """
    raw = read_points(path)
    if places_only:
        raw, target = raw.drop(columns="soc", errors="ignore").assign(soc=np.nan, cm_covered=np.nan), "soc"
    table, columns, is_horizons = _name_columns(raw, path, target, [_column(pair) for pair in depth.further])
    facts: dict[str, Any] = {"kind": "horizons" if is_horizons else "profiles", "rows": len(table), "columns": columns}
    target = columns["soc"]
    if is_horizons:
        table = _average_horizons(table, path, target, depth, facts)
    elif (depth.method != "mean" or depth.further) and not places_only:
        raise UserError(
            f"{path}: depth_method and depth_limits need horizons (columns of upper and lower depth, none named cm_covered);"
            " leave them out for a table of profiles"
        )
    elif depth.min_covered > 0 and "cm_covered" not in table:
        raise UserError(f"{path}: min_covered needs horizons, or a column 'cm_covered'; set it to 0")
    profiles = _located(table[[*_LEADING, *(column for column in table if column not in _LEADING)]], facts, path, bounds)
    if is_horizons:
        why = f"no usable horizon within {depth.interval[0]:g}-{depth.interval[1]:g} cm"
        profiles.reject((profiles.table.pop("moves"), "its horizons lie at different places"), (profiles.table["soc"].isna(), why))
    elif not places_only:
        profiles.reject(*_value_checks(profiles.table["soc"], path, target))
        profiles.table["soc"] = profiles.table["soc"].astype(np.float64)
    if depth.min_covered > 0 and not places_only:
        covered = numbers(profiles.table["cm_covered"], path, "cm_covered")
        profiles.reject((~(covered >= depth.min_covered), f"fewer than {depth.min_covered:g} cm observed"))
    profiles.reject((profiles.table["profile_id"].duplicated(), "duplicate profile_id"))
    if places_only:
        profiles.table = profiles.table.drop(columns=["soc", "cm_covered"])
    return profiles


def unit_hint(soc: np.ndarray) -> str | None:
    """Return a sentence if values of soil organic carbon (n,) look like per cent rather than g/kg.

    Examples
    --------
    >>> unit_hint(np.full(20, 12.0)) is None
    True
    """
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
    """Rename columns to our names, without those that will be computed (`made`).

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
    table = _renamed(raw, names, taken)
    if "profile_id" not in table:
        table["profile_id"] = [str(k) for k in range(1, len(table) + 1)]
    table["profile_id"] = _ids(table["profile_id"])
    return table, {"profile_id": "row number"} | chosen | {"soc": target}, is_horizons


def _renamed(raw: pd.DataFrame, names: Mapping[str, str], taken: set[str]) -> pd.DataFrame:
    """Rename columns; others whose name is `taken` become <name>_input."""
    others = {column: f"{column}_input" for column in raw.columns if column in taken and column not in names}
    return raw.rename(columns={**names, **others})


def _ids(column: pd.Series) -> pd.Series:
    """Return ids as text; missing and empty ones as NaN."""
    ids = column.astype("str").str.strip()
    return ids.where(column.notna() & (ids != ""))


def _located(table: pd.DataFrame, facts: dict[str, Any], path: Path, bounds: tuple[float, float, float, float] | None) -> Profiles:
    """Return the rows that have an id and a possible place within bounds."""
    lon, lat = numbers(table["lon"], path, "lon"), numbers(table["lat"], path, "lat")
    check_not_swapped(lon, lat, path)
    profiles = Profiles(table.assign(lon=lon, lat=lat), facts)
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


def _value_checks(column: pd.Series, path: Path, target: str) -> list[tuple[np.ndarray, str]]:
    """Return the checks of soil organic carbon, g/kg: which rows fail, and the reason."""
    soc = numbers(column, path, target)
    return [
        (column.isna().to_numpy(), f"{target} missing"),
        (np.isnan(soc), f"{target} not a number"),
        (soc < 0, f"{target} negative"),
        (soc > SOC_MAXIMUM, f"{target} above {SOC_MAXIMUM:g} g/kg"),
    ]


# --- horizons --------------------------------------------------------------------------------------------------------


def _average_horizons(table: pd.DataFrame, path: Path, target: str, depth: DepthRule, facts: dict[str, Any]) -> pd.DataFrame:
    """Return a row per profile with soc of the intervals, NaN where no horizon is usable; add counts to `facts`."""
    found = place_horizons(table, path, ("soc",))
    value = pd.to_numeric(found.table["soc"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    checks = _value_checks(found.table["soc"], path, target)
    fault = np.select([found.placed & bad for bad, _ in checks], np.arange(1, len(checks) + 1), 0)
    counts = found.counts | {why: int((fault == k).sum()) for k, (_, why) in enumerate(checks, start=1)}
    good = found.placed & (fault == 0)
    intervals = [depth.interval, *depth.further]
    layers = harmonise(found.horizons.take(good), value[good], intervals, depth.method, depth.smoothing, (0.0, SOC_MAXIMUM))
    counts |= layers.counts
    facts["horizons"] = {what: count for what, count in counts.items() if count}
    facts["depth_cm"] = list(depth.interval)
    averaged = found.once.assign(
        soc=layers.mean[:, 0], cm_covered=layers.covered[:, 0], n_layers=layers.n_layers[:, 0], moves=found.moves
    )
    if not depth.further:
        return averaged
    further, facts["further_depths"] = _further_columns(layers, depth.min_covered)
    return pd.concat([averaged, further], axis=1)


def _column(interval: tuple[float, float]) -> str:
    """Return the column that holds soil organic carbon of a further interval."""
    return f"soc_{interval[0]:g}_{interval[1]:g}"


def _further_columns(layers: Harmonised, min_covered: float) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Return a column for each interval but the first, and of each how many profiles have a value or not."""
    columns = [_column(interval) for interval in layers.intervals.tolist()]
    enough, counts = layers.sufficient(min_covered)
    further = pd.DataFrame(np.where(enough, layers.mean, np.nan)[:, 1:], columns=columns[1:])
    return further, dict(zip(columns[1:], counts[1:], strict=True))


def place_horizons(table: pd.DataFrame, path: Path, measured: tuple[str, ...]) -> HorizonTable:
    """Sort horizons into profiles, and count their depths from the surface (`depth.from_surface`).

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
    top[placed], bottom[placed], moved = from_surface(profile[placed], top[placed], bottom[placed])
    counts["profiles with organic layers above 0"] = moved
    first = np.flatnonzero(~pd.Series(profile).duplicated())
    once = {
        name: column.iloc[first].reset_index(drop=True)
        for name, column in table.drop(columns=["top", "bottom", *measured]).items()
        if name in ("profile_id", "lon", "lat") or _is_constant(column, profile, first)
    }
    moves = np.zeros(len(ids), bool)
    for name in ("lon", "lat"):
        degrees = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        np.logical_or.at(moves, profile, np.abs(degrees - degrees[first][profile]) > _SAME_PLACE)
    return HorizonTable(table, Horizons(profile, top, bottom, len(ids)), placed, pd.DataFrame(once), moves, counts)


def _is_constant(column: pd.Series, profile: np.ndarray, first: np.ndarray) -> bool:
    """Return whether a column (L,) is constant or empty within every profile; `first` is the first row of each."""
    values, expected = column.to_numpy(object), column.iloc[first].to_numpy(object)[profile]
    return bool(((values == expected) | (pd.isna(values) & pd.isna(expected))).all())


def read_horizons(path: Path, named: Mapping[str, str | None]) -> tuple[HorizonTable, dict[str, str]]:
    """Read a table of horizons, and find its columns of measurements.

    Parameters
    ----------
    path
        As of `points.read_points`.
    named
        soc, bulk_density, stones and year -> the column that the user names; None: the first of `MEASURED` that is there.

    Returns
    -------
    horizons
        Their table has columns of these names, numbers with NaN for what is none; NaN throughout where there is no column.
        A profile whose horizons are of several years has the first.
    columns
        Our name -> the table's own.

    Raises
    ------
    UserError
        If there is no column of profiles, places, depths or SOC, a named one is not there, or longitude and latitude look swapped.
    """
    raw = read_points(path)
    columns = _measured_columns(raw, path, named)
    table = _renamed(raw, {column: ours for ours, column in columns.items()}, {*ALIASES, *named})
    if "year" in columns:
        table["year"] = _years(table["year"])
    for ours in ("lon", "lat", *named):
        given = ours in columns and (ours in ("lon", "lat", "soc") or table[ours].notna().any())
        table[ours] = numbers(table[ours], path, columns[ours]) if given else np.nan
    check_not_swapped(table["lon"].to_numpy(), table["lat"].to_numpy(), path)
    table["profile_id"] = _ids(table["profile_id"])
    found = place_horizons(table, path, tuple(name for name in named if name != "year"))
    year = found.table.groupby(found.horizons.profile)["year"].first()
    return replace(found, once=found.once.assign(year=year.to_numpy())), columns


def _measured_columns(raw: pd.DataFrame, path: Path, named: Mapping[str, str | None]) -> dict[str, str]:
    """Return our name -> the table's column, of ids, places, depths, and the measurements that are there."""
    columns = find_columns(raw)
    require_columns(raw, columns, tuple(ALIASES), path)
    guessed = find_columns(raw.drop(columns=list(columns.values())), MEASURED)
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
        raise UserError(f"{path}: column {double!r} is named twice; name different ones")
    return columns


def _years(column: pd.Series) -> pd.Series:
    """Return a column with dates such as 2009-06-15 replaced by their years."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    dates = column.astype("str").str.extract(r"^\s*(\d{4})-\d{1,2}(?:-\d{1,2}(?:[T ].*)?)?\s*$", expand=False)
    return dates.where(dates.notna(), column)
