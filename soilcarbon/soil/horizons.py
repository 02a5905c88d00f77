"""Soil horizons from untrusted tables: rows sorted into profiles and visits, depths in cm from the surface, measured numbers.

Depths come as two columns or as ranges in text, in any unit, counted downwards, as heights below 0, or with organic layers upwards;
`read_depths` brings all to centimetres below the surface. What is unusual is counted or noted (`PointTable.notes`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.io.columns import is_organic_matter
from soilcarbon.io.files import UserError
from soilcarbon.io.points import PointTable, TableRule, read_points
from soilcarbon.io.values import depth_range, depths, is_missing, split_ranges
from soilcarbon.quantities import check_plausible, to_standard
from soilcarbon.soil.depth import HIGHEST_LITTER, Horizons, from_surface, turn_litter
from soilcarbon.soil.visits import check_hidden_visits, placed_visits

_SAME_PLACE = 1e-5  # degrees, about a metre
_ORGANIC = r"^\s*\d*\s*[OLFH](?![a-z]*(?:lu|um)\b)"  # designations of organic layers: O, L, F, H, with a number before
_THICK, _DEEP = 50.0, 300.0  # cm: where most uppermost of several layers are so thick, and most profiles so deep, depths are in mm
_SHALLOW = 3.0  # cm: several layers that end above it may be in m


@dataclass(frozen=True)
class HorizonTable:
    """A table of L horizons of N profiles."""

    table: pd.DataFrame  # L rows, those without profile_id left out; measurements as numbers, the unused columns as they came
    horizons: Horizons  # their profiles and depths, cm from the surface
    placed: np.ndarray  # (L,) whether top and bottom are known and possible
    once: pd.DataFrame  # N rows: profile_id, lon, lat, and the columns that are constant within every profile
    moves: np.ndarray  # (N,) whether its horizons lie at different places
    counts: dict[str, int]  # unusual rows by kind


def has_depths(points: PointTable) -> bool:
    """Return whether a table has columns of upper and lower depth, or one of depth ranges."""
    return ("top" in points and "bottom" in points) or _has_ranges(points)


def _has_ranges(points: PointTable) -> bool:
    """Return whether the column of depths holds ranges, most of it."""
    column = points.get("depth")
    if column is None:
        return False
    words = column[~is_missing(column)].astype("str")
    return len(words) > 0 and 2 * sum(depth_range(word) is not None for word in words) > len(words)


def read_depths(points: PointTable, profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return upper and lower limits (L,) in cm, NaN where missing, organic layers above the mineral surface negative.

    UserError if depths are in another unit than said, or upper and lower are swapped.
    """
    found, units, rule = points.columns.found, points.columns.units, points.rule
    if "top" in points and "bottom" in points:
        pair = [depths(points[name], points.path, found[name], points.reading, points.notes) for name in ("top", "bottom")]
        said = [rule.depth_unit or units.get(name) for name in ("top", "bottom")]
        where = f"{points.path}: depths ({found['top']}, {found['bottom']})"
    else:
        upper, lower, in_cells = split_ranges(points["depth"], points.path, found["depth"])
        pair, said = [upper, lower], [rule.depth_unit or in_cells or units.get("depth")] * 2
        where = f"{points.path}: depths ({found['depth']})"
    top, bottom = (to_standard(limit, "depth", unit or "cm") for limit, unit in zip(pair, said, strict=True))
    if np.nanmax(top, initial=-np.inf) <= 0 and np.nanmax(bottom, initial=-np.inf) < 0 and (bottom < top).any():
        points.notes.append("depths are heights below the surface: their sign is changed")
        top, bottom = -top, -bottom
    stated = all(said)
    thickness, unit = np.abs(pair[1] - pair[0]), said[0] or "cm"
    check_plausible(thickness, "thickness", unit, where, "--units depth=", stated)
    if np.isfinite(thickness).any():
        check_plausible(np.nanmedian(thickness), "thickness", unit, where, "--units depth=", stated)
    if not stated:
        _check_each_profile(profile, top, bottom, where, points.notes)
    column = points.get("horizon")
    organic = None if column is None else np.asarray(column.astype("str").str.contains(_ORGANIC, regex=True) & column.notna())
    top, bottom, turned = turn_litter(profile, top, bottom, organic)
    if turned:
        points.notes.append(f"organic layers of {turned} profiles, counted upwards from the mineral surface, are turned")
    upside_down = bottom < top
    if 2 * upside_down.sum() > (~np.isnan(top)).sum():
        raise UserError(
            f"{where}: {upside_down.sum()} of {len(top)} lower limits are above the upper ones; swap the columns (--columns)"
        )
    return top, bottom


def _check_each_profile(profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, where: str, notes: list[str]) -> None:
    """Raise UserError if most profiles of several layers look like mm, their uppermost layer too thick for cm; note a few."""
    groups = pd.DataFrame({"profile": profile, "top": top, "bottom": bottom}).dropna().sort_values("top").groupby("profile")
    first = groups.first()[(groups.size() > 1) & (groups["top"].min() == 0)]
    if first.empty:
        return
    deep = groups["bottom"].max()[first.index]
    if first["bottom"].median() >= _THICK and deep.median() >= _DEEP:
        raise UserError(
            f"{where}: layers are so thick and profiles so deep that they look like mm: --units depth=mm, or depth=cm if right"
        )
    for unit, alike in (("mm", (first["bottom"] >= _THICK) & (deep >= _DEEP)), ("m", deep <= _SHALLOW)):
        if alike.any():
            ends = f"the first ends at {deep[alike].iloc[0]:g} cm"
            notes.append(f"{alike.sum()} of {len(first)} profiles of several layers look as if they were in {unit} ({ends})")


def place_horizons(points: PointTable, measured: Mapping[str, np.ndarray], taken: Collection[str] = ()) -> HorizonTable:
    """Sort horizons into profiles and visits, and count their depths from the surface (`depth.from_surface`).

    `measured` has the values (L,) by our names, each horizon's own even where they are constant. A column of a name in it, or in
    `taken`, becomes <name>_input. UserError if a column of depths holds no numbers, or ids are those of horizons.
    """
    points.require("profile_id")
    rows, far = placed_visits(points)
    top, bottom = read_depths(points, pd.factorize(rows["profile_id"])[0])
    _check_ids(rows, top, points)
    rows = rows.assign(top=top, bottom=bottom, **measured)
    table = beside_others(rows, points, [points.columns.found[name] for name in (*rows, "depth") if name in points], taken)

    named = table["profile_id"].notna().to_numpy()
    counts = {"rows": len(table), "no profile_id": int((~named).sum())}
    table = table[named].reset_index(drop=True)
    top, bottom, far = top[named], bottom[named], far[named]
    profile, codes = pd.factorize(table["profile_id"])
    unknown = np.isnan(top) | np.isnan(bottom)
    impossible = ~unknown & ((bottom <= top) | (top < HIGHEST_LITTER))
    counts["depth missing"] = int(unknown.sum())
    counts["depth impossible (bottom not below top)"] = int(impossible.sum())
    placed = ~(unknown | impossible)
    check_hidden_visits(points, table, profile, top, bottom)
    top[placed], bottom[placed], moved = from_surface(profile[placed], top[placed], bottom[placed])
    counts["profiles with organic layers above 0"] = moved
    first = np.flatnonzero(~pd.Series(profile).duplicated())
    once = constant_columns(table.drop(columns=["top", "bottom", *measured]), profile, ("profile_id", "lon", "lat", "year"))
    moves = np.zeros(len(codes), bool)
    np.logical_or.at(moves, profile, far)
    for degrees in (table["lon"].to_numpy(), table["lat"].to_numpy()):
        np.logical_or.at(moves, profile, np.abs(degrees - degrees[first][profile]) > _SAME_PLACE)
    if "year" in once:
        once["year"] = table.groupby(profile)["year"].first().to_numpy()
    return HorizonTable(table, Horizons(profile, top, bottom, len(codes)), placed, once, moves, counts)


def _check_ids(rows: pd.DataFrame, top: np.ndarray, points: PointTable) -> None:
    """Raise UserError if each id has one horizon only while most lower horizons share their place with another."""
    if rows["profile_id"].dropna().duplicated().any() or len(rows) < 3:
        return
    shared = rows.duplicated(["lon", "lat"], keep=False).to_numpy() & (top > 0)
    if shared.sum() * 2 > len(rows):
        name, used = points.columns.found["profile_id"], points.columns.found.values()
        count = f"{shared.sum()} of {len(rows)} lie below another at their place"
        saw = f"{points.path}: each {name!r} has one horizon only, while {count}"
        others = ", ".join(str(each) for each in points.raw.columns if each not in used)[:100]
        raise UserError(f"{saw}: an id of layers? --columns profile_id=NAME names that of profiles (not used: {others or 'none'})")


def constant_columns(table: pd.DataFrame, profile: np.ndarray, always: Sequence[str] = ()) -> pd.DataFrame:
    """Return the first row of each profile, of the columns that are `always` kept, or constant or empty within every profile.

    Profiles (L,) are numbered in the order in which they first come.

    >>> constant_columns(pd.DataFrame({"plot": [1, 1, 2], "soc": [9, 7, 8]}), np.array([0, 0, 1])).to_dict("list")
    {'plot': [1, 2]}
    """
    several = (table.groupby(profile).nunique(dropna=False) > 1).any().to_numpy()
    first = ~pd.Series(profile).duplicated().to_numpy()
    return table.loc[first, table.columns.isin(always) | ~several].reset_index(drop=True)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text with columns of plain numbers as numbers; codes such as 007 or 1e5 stay text.

    >>> typed(pd.DataFrame({"a": ["1.5", None], "b": ["007", "12"]})).to_dict("list")
    {'a': [1.5, nan], 'b': ['007', '12']}
    """
    columns = {}
    for name, column in table.items():
        known = column[~is_missing(column)]
        plain = known.str.fullmatch(r"[+-]?(0|[1-9]\d{0,14})(\.\d+([eE][+-]?\d+)?|[eE]-\d+)?").all()
        columns[name] = pd.to_numeric(column.where(~is_missing(column))) if plain else column
    return pd.DataFrame(columns, index=table.index)


def beside_others(rows: pd.DataFrame, points: PointTable, used: Sequence[str], taken: Collection[str] = ()) -> pd.DataFrame:
    """Return rows with the columns of a table that are not used, typed; one of a name that is there, or taken, is <name>_input."""
    others = typed(points.raw.drop(columns=list(used)))
    return pd.concat([rows, others.rename(columns={name: f"{name}_input" for name in (*rows, *taken)})], axis=1)


# --- measurements ----------------------------------------------------------------------------------------------------


def measured_soc(
    points: PointTable, soc_factor: float | None, setting: str = "--columns soc="
) -> tuple[str, np.ndarray, str | None]:
    """Return the column of SOC, its values (L,), those of organic matter times `soc_factor`, and the unit that is stated or None.

    UserError if there is no column of SOC, or it is one of organic matter and there is no factor.
    """
    column = points.columns.found.get("soc") or (points.columns.found.get("som") if soc_factor is not None else None)
    if column is None:
        if "som" in points:
            name = points.columns.found["som"]
            advice = f"{setting}{name} --soc_factor 0.58 takes 58 % of it for carbon (van Bemmelen), or another share"
            raise UserError(f"{points.path}: no column of SOC; {name!r} is organic matter: {advice}")
        raise UserError(
            f"{points.path}: no column of soil organic carbon is known by its name; {setting}NAME takes one of {points.shown}"
        )
    if soc_factor is None and is_organic_matter(column):
        raise UserError(
            f"{points.path}: {column!r} looks like organic matter, not carbon: --soc_factor 0.58 takes 58 % of it, 1 all of it"
        )
    signs: list[str] = []
    values = points.numbers(column, negative=False, signs=signs)
    unit = _stated(points, "soc" if column == points.columns.found.get("soc") else "som", column, signs, ("%",))
    if soc_factor is not None:
        points.notes.append(f"SOC is {column!r} times {soc_factor:g}")
        values = values * soc_factor
    return column, values, unit


def measured_quantity(points: PointTable, name: str) -> tuple[np.ndarray, str | None]:
    """Return bulk density or stones (L,) and the unit that is stated or None; NaN throughout without a column."""
    signs: list[str] = []
    if name not in points or is_missing(points[name], points.rule.missing).all():
        values = np.full(len(points.raw), np.nan)
    else:
        values = points.numbers(points.columns.found[name], False, signs if name == "stones" else None)
    return values, _stated(points, name, points.columns.found.get(name, ""), signs, ("percent", "mass_percent"))


def measured_columns(sources: Mapping[str, PointTable], soc_factor: float | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return SOC, bulk density and stones (L,), each of its own table, and the units that are stated."""
    column, soc, unit = measured_soc(sources["soc"], soc_factor)
    sources["soc"].columns.found["soc"] = column
    found: dict[str, tuple[np.ndarray, str | None]] = {"soc": (soc, unit)}
    found |= {name: measured_quantity(sources[name], name) for name in ("bulk_density", "stones")}
    return {name: values for name, (values, _) in found.items()}, {name: unit for name, (_, unit) in found.items() if unit}


def _stated(points: PointTable, ours: str, column: str, signs: list[str], per_cent: tuple[str, ...]) -> str | None:
    """Return the unit that a column's name or its per cent signs state, or None; UserError if they contradict each other."""
    by_name = points.columns.units.get(ours)
    if not signs or by_name in per_cent:
        return by_name
    if by_name is not None:
        raise UserError(f"{points.path}: column {column!r}: its name says {by_name}, its values carry per cent signs; correct one")
    return per_cent[0]


def read_horizons(
    path: Path, rule: TableRule = TableRule(), soc_factor: float | None = None  # noqa: B008 - frozen
) -> tuple[HorizonTable, PointTable, dict[str, str]]:  # fmt: skip
    """Read a table of horizons with their measurements, its columns and notes, and the units that names or per cent signs state.

    The horizons' table has numbers in soc, bulk_density, stones and year, NaN throughout where there is no column. `soc_factor` is
    the share of the column of SOC, or of organic matter, that is carbon. Visits of one place in several years are profiles of their
    own. UserError if there is no column of profiles, places, depths or SOC, or text in one that is no number.
    """
    points = read_points(path, rule)
    points.require("profile_id", "lon", "lat", *(() if has_depths(points) else ("top", "bottom")))
    values, units = measured_columns(dict.fromkeys(("soc", "bulk_density", "stones"), points), soc_factor)
    found = place_horizons(points, values)
    ranges = ("depth",) if not ("top" in points and "bottom" in points) else ("top", "bottom")
    used = ("profile_id", "lon", "lat", "lon_letter", "lat_letter", *ranges, "horizon", "year", *values)
    points.columns = replace(points.columns, found={name: points.columns.found[name] for name in used if name in points})
    if "year" not in points:
        found = replace(found, once=found.once.assign(year=np.nan), table=found.table.assign(year=np.nan))
    return found, points, units
