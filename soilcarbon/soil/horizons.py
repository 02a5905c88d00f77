"""Soil horizons of strangers' tables, each in its profile and at its depth.

In: a table of horizons (`pointfiles.read_points`). Out: `Horizons`; and for densities what was measured in each, by the columns
named or found. What cannot be used is counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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
