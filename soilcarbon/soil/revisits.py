"""Values at places that were visited several times: a table read, two visits chosen, places paired by name or by distance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from soilcarbon.io.columns import SAMPLING, plain
from soilcarbon.io.files import UserError, nearest
from soilcarbon.io.points import PointTable, read_points
from soilcarbon.io.values import label, labels
from soilcarbon.soil.horizons import has_depths
from soilcarbon.soil.settings import ChangeSettings
from soilcarbon.soil.visits import QUANTITIES, SAME_SITE, several_quantities, visit_labels
from soilcarbon.stats.groups import unit_vectors
from soilcarbon.stats.variogram import EARTH_KM

STOCK = "stock_t_ha"  # column of values that `soilcarbon stocks` writes, and by which of its others values are told apart
STOCKS_OF = ("method", "layer")
_LARGEST = 1e100
_FAR_FROM_ZERO = 0.1  # of the median: where no value is lower, one of 0 is asked about
_ANOTHER_UNIT = 4.0  # times by which medians of two visits differ, where the unit is asked about


STRATUM, STRATUM_SIZE = "stratum", "stratum_size"  # columns of `soilcarbon design`


@dataclass(frozen=True)
class VisitTable:
    """Values of places at visits, one row per place, visit and each."""

    rows: pd.DataFrame  # place, visit, value; year, lon, lat, weight (NaN where unknown); each, group, stratum, block as text
    value: str  # name of the column of values
    place: str  # of the columns of places
    each: list[str]
    sizes: dict[str, float] = field(default_factory=dict)  # of strata, where the table has those of `soilcarbon design`
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_visits(path: Path, settings: ChangeSettings) -> VisitTable:
    """Read a table of values at places and visits; several rows of one place and visit are averaged, and noted.

    UserError if a column is not there, values are no numbers, or rows repeat a place and visit at several depths.
    """
    points = read_points(path, settings.table_rule())
    points.require(*(("lon", "lat") if settings.within is not None else ()))
    value = settings.value or (STOCK if STOCK in points.raw else None)
    if value is None:
        raise UserError(f"{path}: no column {STOCK!r}, as soilcarbon stocks writes it; --value takes one of {points.shown}")
    points.check_measurement(value, "--value")
    each = list(settings.each) if settings.each is not None else [name for name in STOCKS_OF if name in points.raw]
    sizes = {} if settings.stratum or settings.weight else _drawn_strata(points)
    strata = [STRATUM if sizes else settings.stratum]
    named: dict[str, Sequence[str | None]] = {"each": each, "by": settings.by, "stratum": strata, "block": [settings.block]}
    parts = {what: [points.text(name, f"--{what}") for name in names if name] for what, names in named.items()}
    parts |= {what: [_labels(points, each) for each in parts[what]] for what in ("by", "stratum", "block")}
    place = [points.text(name, "--place") for name in settings.place] or [points.ids()]
    if not settings.place:
        points.require("profile_id")
    visit_column = settings.visit or ("visit" if "visit" in points.raw else None)
    visit, year = visit_labels(points, visit_column)
    if visit_column is None:
        if np.isnan(year).all():
            beside = [str(name) for name in points.raw if _YEAR.search(str(name))]
            wide = f"; are {beside[0]} and {beside[1]} visits? A row for each place and visit is needed" if len(beside) > 1 else ""
            raise UserError(f"{path}: no column of visits or years; --visit COLUMN names it{wide}")
        visit = visit.replace("", None)
    if visit.isna().all():
        raise UserError(f"{path}: column {visit_column!r} is empty; --visit COLUMN names that of visits")
    rows = pd.DataFrame(
        {"place": _joined(place), "visit": visit, "value": points.numbers(value, negative=False), "year": year}
        | {name: column for name, column in zip(each, parts["each"], strict=True)}
        | {"group": _joined(parts["by"]), "stratum": _joined(parts["stratum"]), "block": _joined(parts["block"])}
        | {"weight": _weights(points, settings.weight), "lon": np.nan, "lat": np.nan},
        index=points.raw.index,
    )
    if "lon" in points and "lat" in points:
        rows["lon"], rows["lat"] = points.places()
    if (large := rows["value"].abs() > _LARGEST).any():
        saw = f"{int(large.sum())} of {len(rows)} values are beyond {_LARGEST:g} (first {rows['value'][large].iloc[0]:g})"
        raise UserError(f"{path}: column {value!r}: {saw}: a code for missing? --missing_words says so")
    unknown = rows["value"].isna()
    unnamed = rows[["place", "visit", *each, "group", "stratum", "block"]].isna().any(axis=1)
    counts = {"rows": len(rows), "rows without a value": int(unknown.sum())}
    counts["rows without place, visit, group, stratum or block"] = int((unnamed & ~unknown).sum())
    rows = rows[~unknown & ~unnamed]
    if rows.empty:
        raise UserError(f"{path}: no row has a place, a visit and a value")
    key = ["place", "visit", *each, "group", "stratum", "block"]
    again, warnings = int(rows.duplicated(key, keep=False).sum()), []
    if "design" in points.raw and points.raw["design"].str.endswith("no probability sample", na=False).any():
        chosen = points.raw["design"].dropna().iloc[0]
        warnings.append(f"places by {chosen}: intervals are as if they had been drawn at random")
    if not (settings.place or settings.block) and (plot := _shared_part(points)):
        count = f"{rows['place'].nunique()} places are of {points.raw[plot].nunique()} {plot!r}"
        warnings.append(
            f"{count}, and count as independent: --place {plot} takes their mean, --block {plot} variances between these"
        )
    if again and has_depths(points):
        depth = points.columns.found.get("bottom") or points.columns.found["depth"]
        raise UserError(f"{path}: {again} rows repeat place and visit at several depths: --each {depth} tells these apart")
    if again:
        values = points.raw.loc[rows.index].groupby([rows[name] for name in key], sort=False)
        for name in (name for name in points.raw if name != value and QUANTITIES.search(name)):
            if (values[name].nunique() > 1).any():
                raise several_quantities(path, name, points.raw[name])
        extent = rows.groupby(key, sort=False)[["lon", "lat"]].agg(np.ptp).max(axis=1)
        if far := {str(each[0]) for each in extent.index[extent > SAME_SITE]}:
            where = f"{len(far)} places have rows of one visit that lie far from each other"
            raise UserError(f"{path}: {where} (first {extent.idxmax()[0]!r}): --place COLUMNS tells places apart")
        first = rows.loc[rows.duplicated(key, keep=False), "place"].iloc[0]
        points.notes.append(f"{again} rows repeat place and visit (first {first!r}): averaged")
    rows = rows.groupby(key, sort=False, as_index=False).mean()
    where = " ".join(settings.place) or points.columns.found["profile_id"]
    return VisitTable(
        rows, value, where, each, sizes, {what: count for what, count in counts.items() if count}, points.notes, warnings
    )


def _shared_part(points: PointTable) -> str | None:
    """Return the column that ids begin with, as `soilcarbon stocks` joins columns of places, if several places share its values."""
    ids, used = points.ids(), set(points.columns.found.values())
    for name in (each for each in points.raw if each not in used and points.raw[each].notna().all()):
        part = points.text(name, "--place")
        joined = [one.startswith(f"{other}_") for one, other in zip(ids.fillna(""), part.fillna(""), strict=True)]
        if all(joined) and part.nunique() < ids.nunique():
            return str(name)
    return None


def _drawn_strata(points: PointTable) -> dict[str, float]:
    """Return the sizes of strata by name, of a table with the columns of `soilcarbon design`; {} of any other.

    Points of a design that is no probability sample have neither.
    """
    if not {STRATUM, STRATUM_SIZE} <= set(points.raw):
        return {}
    size, stratum = points.numbers(STRATUM_SIZE), _labels(points, points.text(STRATUM, "--stratum"))
    known = pd.DataFrame({"stratum": stratum, "size": size})[stratum.notna().to_numpy() & (size > 0)].drop_duplicates()
    if len(double := known[known["stratum"].duplicated(keep=False)]):
        saw = " and ".join(f"{each:g}" for each in double["size"].head(2))
        raise UserError(
            f"{points.path}: stratum {double['stratum'].iloc[0]!r} has several sizes ({STRATUM_SIZE}: {saw}): which are "
            "right? --stratum and --sizes say so"
        )
    if len(known):
        points.notes.append(
            f"{len(known)} strata and their sizes as soilcarbon design wrote them; else --stratum, --sizes, --weight"
        )
    return {str(name): float(each) for name, each in zip(known["stratum"], known["size"], strict=True)}


def _labels(points: PointTable, column: pd.Series) -> pd.Series:
    return labels(column, f"{points.path}: column {column.name!r}", points.rule.missing)


def _weights(points: PointTable, name: str | None) -> np.ndarray | float:
    """Return sampling weights (L,), the inverse of a column of inclusion probabilities; NaN without a column."""
    if name is None:
        return float("nan")
    points.text(name, "--weight")
    found = points.numbers(name)
    if (bad := ~(found > 0)).any():
        raise UserError(f"{points.path}: column {name!r}: {int(bad.sum())} of {bad.size} weights are missing or not above 0")
    if "prob" not in plain(name) and plain(name) not in map(plain, SAMPLING["inclusion_probability"]):
        points.notes.append(f"{name!r}: weights, not inclusion probabilities (these have 'prob' in their name)")
        return found
    points.notes.append(f"{name!r}: inclusion probabilities; weights are their inverse")
    return np.asarray(1 / found)


def _joined(columns: Sequence[pd.Series]) -> pd.Series | str:
    """Return columns of text as one, "" of none."""
    return reduce(lambda one, other: one + " " + other, columns) if columns else ""


# --- two visits ------------------------------------------------------------------------------------------------------

_YEAR = re.compile(r"(?<!\d)(19|20)\d{2}(?!\d)")
_SPAN = re.compile(r"(\d{4})\s*-\s*(\d{4})")


def two_visits(table: VisitTable, path: Path, chosen: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, str]]:
    """Return the rows of the first and of the second visit, and their names.

    `chosen` are two visits by name, or spans of years such as 1985-1994; none: the only two there are, in the order of time.
    UserError if there are not two, or their order is not known, or one has no row.
    """
    rows = table.rows
    names = sorted(rows["visit"].unique(), key=_as_number)
    shown = ", ".join(map(repr, names[:12]))
    if not chosen:
        if len(names) != 2:
            raise UserError(f"{path}: {len(names)} visits ({shown}); a change is between two: --visits FIRST SECOND names them")
        years = rows.groupby("visit")["year"].mean()
        numbers = [_as_number(name)[0] for name in names]
        if not years.isna().any() and years.nunique() == 2:
            names = years.sort_values().index.tolist()
        elif float("inf") in numbers:
            raise UserError(f"{path}: which of the visits {shown} is the first? --visits {names[0]} {names[1]} says it")
        chosen = names
    found = []
    for name in chosen:
        span = _SPAN.fullmatch(name)
        if name in names or span is None:
            mine = rows["visit"] == name
        else:
            year = rows["year"].where(rows["year"].notna(), pd.to_numeric(rows["visit"], errors="coerce"))
            mine = (np.floor(year) >= int(span[1])) & (np.floor(year) <= int(span[2]))
        if not mine.any():
            raise UserError(f"{path}: no row of visit {name!r}{nearest(name, names)}; there are {shown}")
        found.append(rows[mine].assign(visit=name))
    if found[0].index.intersection(found[1].index).size:
        raise UserError(f"{path}: visits {chosen[0]} and {chosen[1]} share rows; name two that do not")
    key = ["place", *table.each, "group", "stratum", "block"]  # a place may have been sampled in several years of a span
    first, second = (each.drop(columns="visit").groupby(key, sort=False, as_index=False).mean() for each in found)
    return first, second, (chosen[0], chosen[1])


def _as_number(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name


def check_written_alike(first: pd.DataFrame, second: pd.DataFrame, path: Path) -> None:
    """Raise UserError if names of places of two visits look alike and are not the same: "p1" and "P1", "1" and "1.0"."""
    names = set(first["place"]), set(second["place"])
    plainly = [{"".join(label(name).split()).casefold(): name for name in sorted(own)} for own in names]
    differing = [key for key in plainly[0] if key in plainly[1] and plainly[0][key] not in names[1]]
    if differing:
        one, other = (each[differing[0]] for each in plainly)
        saw = f"{len(differing)} places are written in two ways (first {one!r} at one visit, {other!r} at the other)"
        raise UserError(f"{path}: {saw}; write them alike, or --design unpaired takes them for different places")


def unlike_visits(first: pd.DataFrame, second: pd.DataFrame, visits: tuple[str, str]) -> list[str]:
    """Return sentences if the first visit is the later, or if medians differ so much that one may be in another unit."""
    years = [float(each["year"].mean()) for each in (first, second)]
    found = [f"the first visit, {visits[0]}, is later than {visits[1]}: the change is backwards"] if years[0] > years[1] else []
    medians = [float(each["value"].median()) for each in (first, second)]
    low, high = sorted(medians)
    if not low > 0 or high < _ANOTHER_UNIT * low:
        return found
    shown = " and ".join(f"{median:.4g} ({visit})" for median, visit in zip(medians, visits, strict=True))
    return [*found, f"medians of the visits are {shown}, {high / low:.3g} times as much: are both in one unit?"]


def lone_zeros(first: pd.DataFrame, second: pd.DataFrame) -> list[str]:
    """Return a sentence if values of 0 stand far below all others of two visits, and may be missing ones; else nothing."""
    rows = pd.concat([first, second])
    zero, others = rows["value"] == 0, rows["value"][rows["value"] > 0]
    if not zero.any() or others.empty or others.min() < _FAR_FROM_ZERO * others.median():
        return []
    saw = f"{int(zero.sum())} values are 0 (first {rows['place'][zero].iloc[0]!r}), the others {others.min():.3g} or more"
    return [f"{saw}: are they missing? --missing_words 0 says so"]


def pair_by_name(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (P,) of each visit that are of one place, of its group, stratum and block.

    >>> alike = {"group": "", "stratum": "", "block": ""}
    >>> first, second = (pd.DataFrame({"place": each} | alike) for each in (["a", "b"], ["c", "a"]))
    >>> pair_by_name(first, second)
    (array([0]), array([1]))
    """
    key = ["place", "group", "stratum", "block"]
    pairs = first.reset_index(drop=True)[key].reset_index().merge(second.reset_index(drop=True)[key].reset_index(), on=key)
    return pairs["index_x"].to_numpy(), pairs["index_y"].to_numpy()


def pair_by_distance(first: pd.DataFrame, second: pd.DataFrame, metres: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (P,) of each visit that lie within some metres, the nearest first, each in one pair at most.

    >>> first = pd.DataFrame({"lon": [10.0, 10.001], "lat": 50.0, "group": "", "stratum": "", "block": ""})
    >>> pair_by_distance(first, first.iloc[::-1].assign(lat=50.00005), 10.0)  # 5.6 m apart
    (array([0, 1]), array([1, 0]))
    """
    known = [np.flatnonzero(each[["lon", "lat"]].notna().all(axis=1)) for each in (first, second)]
    if not (known[0].size and known[1].size):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    places = [each.iloc[rows][["lon", "lat"]].to_numpy(float) for each, rows in zip((first, second), known, strict=True)]
    trees = [KDTree(unit_vectors(*each.T) * EARTH_KM * 1000) for each in places]  # metres from the centre of the Earth
    near = trees[0].sparse_distance_matrix(trees[1], metres, output_type="coo_matrix")
    rows, columns = known[0][near.row], known[1][near.col]
    alike = ["group", "stratum"]
    same = (first[alike].to_numpy(str)[rows] == second[alike].to_numpy(str)[columns]).all(axis=1)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for k in np.lexsort((columns, rows, near.data)):
        one, other = int(rows[k]), int(columns[k])
        if same[k] and one not in pairs and other not in taken:
            pairs[one] = other
            taken.add(other)
    found = np.array(sorted(pairs.items()), np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
