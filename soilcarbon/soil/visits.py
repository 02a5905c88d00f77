"""Rows and profiles: visits of one place in several years are profiles of their own, and a table of unknown horizons is refused."""

import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.io.columns import BY_ROW
from soilcarbon.io.files import UserError
from soilcarbon.io.points import PointTable
from soilcarbon.io.values import depth_range
from soilcarbon.quantities import check_plausible, possible

SITE = "site_id"  # column of the id as given, of profiles that were visited in several years
SAME_SITE = 0.01  # degrees, about a kilometre: visits farther apart are not of one place
_FEW = 5
_SHARE, _MOST = 0.1, 0.5  # rows that repeat an id are refused if they are few and this share of the table, or most of it
_DEPTHS = re.compile(r"depth|dpth|tief|prof(und|ond)|horiz|hz|layer", re.IGNORECASE)
_PERHAPS_DEPTHS = re.compile(r"top|bot|upper|lower|from|until|min|max|limit|inter|incr|cm$", re.IGNORECASE)
TIMES = re.compile(r"year|date|campaign|survey|visit|wave|jahr|anio", re.IGNORECASE)  # names of columns that may tell visits apart
QUANTITIES = re.compile(
    r"property|paramet|variable|analyte|attribut|determinand|measurand|indicator|propiedad|merkmal", re.IGNORECASE
)
"""Names of columns that may say which quantity a row's value is of."""
_MOST_COLUMNS = 40


def sampling_years(points: PointTable) -> np.ndarray:
    """Return the years (N,) of a table, NaN where missing or implausible, which is noted; NaN throughout without a column of years.

    UserError if most years are implausible, or text is no year.
    """
    year = points.years()
    bad = ~np.isnan(year) & ~possible(np.floor(year), "year", "year")
    if bad.any():
        name = points.columns.found["year"]
        check_plausible(np.floor(year), "year", where=f"{points.path}: column {name!r}")
        points.notes.append(f"{name!r}: {bad.sum()} implausible years (first {year[bad][0]:g}) taken for missing")
        year = np.where(bad, np.nan, year)
    return year


def visit_labels(points: PointTable, column: str | None) -> tuple[pd.Series, np.ndarray]:
    """Return the visits (N,) as text, of a column or else the year, "" where unknown; and the year, unless it names them."""
    year = np.full(len(points.raw), np.nan) if points.columns.found.get("year") == column else sampling_years(points)
    if column is not None:
        return points.text(column, "--visit"), year
    return pd.Series(["" if np.isnan(each) else f"{np.floor(each):.0f}" for each in year], dtype="str"), year


def placed_visits(points: PointTable) -> tuple[pd.DataFrame, np.ndarray]:
    """Return profile_id, lon, lat of rows (N,) as visits, and which lie far from the first of their id.

    The table has the year, if there is one, and `SITE`, the id as given, if some were visited in several years.
    """
    ids, year, (lon, lat) = points.ids(), sampling_years(points), points.places()
    lon, lat = lon.copy(), lat.copy()
    visits, several = name_visits(ids, year, points.notes)
    far = _at_first_visit(ids, several, lon, lat, points.notes)
    rows = pd.DataFrame({"profile_id": visits, "lon": lon, "lat": lat})
    if several.any():
        rows[SITE] = ids
    if "year" in points:
        rows["year"] = year
    return rows, far


def name_visits(ids: pd.Series, year: np.ndarray, notes: list[str]) -> tuple[pd.Series, np.ndarray]:
    """Return ids (N,) of visits, <id>_<year> where one id has several years, and which rows those are.

    Rows without a year are a visit of their own then, with the id as it was. UserError if the id of a visit is there already.

    >>> name_visits(pd.Series(["a", "a", "b"]), np.array([2009.0, 2015.4, 2009.0]), [])[0].tolist()
    ['a_2009', 'a_2015', 'b']
    """
    whole = pd.Series(np.floor(year), index=ids.index)
    several = (whole.groupby(ids).transform("nunique") > 1).to_numpy() & ids.notna().to_numpy()
    named = several & ~np.isnan(year)
    visits = ids.copy()
    visits[named] = [f"{name}_{when:.0f}" for name, when in zip(ids[named], whole[named], strict=True)]
    if taken := set(visits[named]) & set(ids[~named].dropna()):
        raise UserError(f"profile_id {min(taken)!r} is there, and would be that of a visit too; give each visit an id of its own")
    if several.any():
        count = f"{ids[several].nunique()} profile_id were visited in several years"
        notes.append(f"{count}: {visits[several].nunique()} visits are profiles of their own, named <profile_id>_<year>")
    return visits, several


def _at_first_visit(ids: pd.Series, several: np.ndarray, lon: np.ndarray, lat: np.ndarray, notes: list[str]) -> np.ndarray:
    """Put the visits (in place) where the first of their id is, so that no fold splits them; return those too far away (N,)."""
    if not several.any():
        return np.zeros(len(ids), bool)
    first_lon, first_lat = pd.DataFrame({"lon": lon, "lat": lat}).groupby(ids.to_numpy()).transform("first").to_numpy().T
    apart = np.maximum(np.abs(lon - first_lon), np.abs(lat - first_lat))
    far, moved = several & (apart > SAME_SITE), several & (apart > 0) & (apart <= SAME_SITE)
    if moved.any():
        notes.append(
            f"{moved.sum()} rows of visits are put at the place of the first visit, up to {apart[moved].max():.4f} degrees away"
        )
    near = several & ~far
    lon[near], lat[near] = first_lon[near], first_lat[near]
    return far


def one_row_each(points: PointTable, *measured: str) -> pd.DataFrame:
    """Return profile_id, lon, lat, year (if there is one) and measured columns of a table with a row per profile or visit.

    UserError if it holds horizons, or text in a measured column, or visits that lie too far apart.
    """
    rows, far = placed_visits(points)
    if far.any():
        first = rows[SITE][far].iloc[0]
        raise UserError(f"{points.path}: {far.sum()} visits lie far from the first of their profile_id (first {first!r})")
    check_one_row_each(points, rows["profile_id"], measured[0] if measured else None)
    return rows.drop(columns=SITE, errors="ignore").assign(**{name: points.numbers(name, negative=False) for name in measured})


def check_one_row_each(points: PointTable, ids: pd.Series, target: str | None) -> None:
    """Raise UserError, naming columns that look like depths, if rows repeat an id of visits (N,) or a place as horizons do.

    Rows that repeat an id with the same value of the column `target` are copies, which harm nobody.
    """
    if points.rule.columns.get("profile_id") == BY_ROW:
        return
    by_place = "profile_id" not in points
    place = [points.columns.found[name] for name in ("lon", "lat") if name in points]
    key = points.raw[place].agg("|".join, axis=1) if by_place and place and points.raw[place].notna().all(axis=None) else ids
    own = [points.columns.found[name] for name in ("profile_id", "lon", "lat") if name in points]
    values = points.raw.drop(columns=own)
    again = key.notna() & key.duplicated(keep=False) & ~points.raw.duplicated(keep=False)
    if not again.any():
        return
    rows, keys = values[again], key[again]
    changing = [name for name in rows if (rows[name].groupby(keys).nunique(dropna=False) > 1).any()]
    others = [name for name in changing if name != target]
    extra = int(again.sum()) - keys.nunique()
    pair = _depth_pair(rows[others], keys)
    many = extra >= max(_FEW, _SHARE * len(key)) or again.sum() >= _MOST * len(key) > 2
    depths = list(pair) or [name for name in others if _is_depth(rows[name], name, many)]
    times = [name for name in others if TIMES.search(name)]
    if quantity := next((name for name in others if QUANTITIES.search(name)), None):
        raise several_quantities(points.path, quantity, rows[quantity])
    if not (depths or times or (many and (target is None or target in changing))):
        return
    what = "places (there is no column of ids)" if by_place else "ids"
    saw = f"{points.path}: {int(again.sum())} of {len(key)} rows repeat {what}, first {keys.iloc[0]!r}"
    saw += f", while {', '.join(changing[:6])} change"
    if depths:
        name = depths[0]
        ranges = depth_range(rows[name].dropna().iloc[0]) is not None
        top = f"depth={name}" if ranges else f"top={name} bottom={depths[1]}" if len(depths) > 1 else f"top=NAME bottom={name}"
        way = f"horizons? --columns {'profile_id=NAME ' if by_place else ''}{top} names the limits of their depths"
    elif times:
        way = f"visits? --columns year={times[0]} says so"
    else:
        way = "horizons or visits? --columns top=NAME bottom=NAME (or year=NAME) says so"
    raise UserError(f"{saw}: {way}; --columns profile_id=row takes each row for a profile")


def check_hidden_visits(points: PointTable, table: pd.DataFrame, profile: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> None:
    """Raise UserError if horizons (L rows of a table) that repeat profile and depths differ in quantity, or in time not in use."""
    key = pd.DataFrame({"profile": profile, "top": top, "bottom": bottom})
    again = key.duplicated(keep=False).to_numpy() & ~np.isnan(top)
    if not again.any():
        return
    groups = [column[again] for _, column in key.items()]
    timed = "year" in points or "year" in points.rule.columns
    for name in (name for name in points.raw if name in table):
        is_time = not timed and TIMES.search(str(name))
        if not (is_time or QUANTITIES.search(str(name))):
            continue
        differ = table[name][again].groupby(groups).nunique(dropna=False) > 1
        if differ.any() and not is_time:
            raise several_quantities(points.path, name, table[name])
        if differ.any():
            first = table["profile_id"].iloc[int(np.flatnonzero(again)[0])]
            saw = f"{int(again.sum())} of {len(table)} horizons repeat profile and depths (first {first!r}), while {name} changes"
            raise UserError(f"{points.path}: {saw}: visits? --columns year={name} says so; --columns year=none takes their mean")


def several_quantities(path: Path, name: str, column: pd.Series) -> UserError:
    """Return the error of a table with a row for each quantity, which a column names."""
    seen = ", ".join(map(str, column.dropna().unique()[:4]))
    return UserError(f"{path}: column {name!r} says which quantity a row is of ({seen}): keep the rows of one")


def _is_depth(column: pd.Series, name: str, many: bool) -> bool:
    """Return whether a column that changes within profiles (within many of them) holds depths, by its name or as ranges."""
    given = column.dropna()
    ranges = [depth_range(word) for word in given.iloc[:200]]
    if len(given) and all(each is not None and 0 <= each[0] < each[1] for each in ranges):
        return True
    named = bool(_DEPTHS.search(name)) or (many and bool(_PERHAPS_DEPTHS.search(name)))
    return named and len(given) > 0 and bool(given.str.contains(r"\d").all())


def _depth_pair(rows: pd.DataFrame, keys: pd.Series) -> tuple[str, ...]:
    """Return two columns of numbers of which one row's second is another's first in most profiles, as depths of horizons are."""
    numeric = rows.iloc[:, :_MOST_COLUMNS].apply(pd.to_numeric, errors="coerce").dropna(axis=1)
    for upper, lower in permutations(numeric.columns, 2):
        if not (numeric[upper] < numeric[lower]).all():
            continue
        ends = pd.MultiIndex.from_arrays([keys, numeric[lower]])
        begins = pd.MultiIndex.from_arrays([keys, numeric[upper]])
        if 2 * begins.isin(ends).sum() >= len(rows) - keys.nunique() > 0:
            return str(upper), str(lower)
    return ()
