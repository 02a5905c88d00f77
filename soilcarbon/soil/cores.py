"""Cores from untrusted tables: layers with SOC, bulk density and stones, of places and visits; bulk density perhaps elsewhere.

A core is what one visit measured at one place. Places need no coordinates: plots of an experiment have none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.io.columns import plain
from soilcarbon.io.files import UserError
from soilcarbon.io.points import PointTable, TableRule, read_points
from soilcarbon.quantities import check_plausible, possible
from soilcarbon.soil.bulk_density import fill_bulk_density
from soilcarbon.soil.density import BY_MASS, Measured, check_soc_unit, measurements
from soilcarbon.soil.depth import HIGHEST_LITTER, Horizons, from_surface
from soilcarbon.soil.horizons import constant_columns, has_depths, measured_columns, read_depths, typed
from soilcarbon.soil.settings import StockSettings
from soilcarbon.soil.stocks import Cores, Layers
from soilcarbon.soil.visits import QUANTITIES, TIMES, several_quantities, visit_labels

_TELLING = re.compile(r"core|rep|point|plot|sample|id$|no$|nr$|tube|block|treat|hole|bore|pit|sub", re.IGNORECASE)
"""Names of columns of numbers that may tell cores of one place apart."""
_MOST = 0.5
_LITTER = "cores with organic layers above 0 cm, whose depths are counted from their top"
_FEWEST_OF_VISIT = 10  # values of a visit whose unit is looked at for itself


@dataclass(frozen=True)
class CoreTable:
    """N cores and what a table says of them."""

    cores: Cores
    once: pd.DataFrame  # N rows: profile_id, visit, year (if known), lon, lat, and the columns that are constant within every core
    columns: dict[str, dict[str, str]]  # file -> our name -> its column
    units: dict[str, str]  # of what was measured
    counts: dict[str, int]  # unusual rows by kind
    notes: list[str]


@dataclass(frozen=True)
class _Rows:
    """A table as rows of named cores."""

    points: PointTable
    key: pd.Series  # (L,) place and visit as text, NaN where one is missing
    table: pd.DataFrame  # L rows: profile_id, visit, year, lon, lat, and the unused columns
    top: np.ndarray  # (L,) cm from the surface, NaN where impossible
    bottom: np.ndarray
    counts: dict[str, int]


def read_cores(settings: StockSettings) -> CoreTable:
    """Read cores from a table of layers with SOC, and bulk density and stones from it or from a second table of other layers.

    UserError if there is no column of places, depths, SOC or bulk density; values look like another unit; layers of a core overlap,
    or repeat while a column that may tell cores apart changes.
    """
    path, rule, other = settings.horizons, settings.table_rule(), settings.bulk_density_table
    first = second = _read(path, rule if other is None else _of_this_table(path, rule), settings)
    if other is not None:
        second = _read(other, _of_this_table(other, rule), settings)
    sources = {"soc": first, "bulk_density": second, "stones": second if "stones" in second.points else first}
    measured = _measured(sources, settings)
    check_soc_unit(measured["soc"], first.top, path)
    _check_each_visit(measured, sources)
    codes = pd.unique(first.key.dropna())
    if not len(codes):
        raise UserError(f"{path}: no row has a place" + (f" and a visit ({settings.visit})" if settings.visit else ""))
    counts = dict(first.counts)
    if second is not first:
        counts |= _check_second(first, second, codes)
    values = {name: list(measured[name].usable(name, counts)) for name in sources}
    counts["SOC of 0"] = int((values["soc"][0] == 0).sum())
    missing = counts.pop("coarse fragments missing")
    counts["coarse fragments missing, taken as none"] = missing if "stones" in sources["stones"].points else 0
    if settings.estimate:
        if second is not first:
            raise UserError(
                "--estimate: bulk density is estimated from the SOC of the same layer, which a second table does not have"
            )
        counts["bulk density estimated"] = int((np.isnan(values["bulk_density"][0]) & ~np.isnan(values["soc"][0])).sum())
        numbers = pd.factorize(first.key)[0]
        values["bulk_density"] = list(fill_bulk_density(numbers, values["soc"][0], *values["bulk_density"])[:2])
    layers = {name: _layers(sources[name], values[name][0], values[name][1], codes, settings) for name in sources}
    stones = layers["stones"] if "stones" in sources["stones"].points else None
    by_mass = measured["stones"].unit in BY_MASS
    return CoreTable(
        Cores(layers["soc"], layers["bulk_density"], stones, settings.bulk_density_of, by_mass),
        constant_columns(first.table, pd.factorize(first.key)[0], ("profile_id", "visit", "year", "lon", "lat")),
        {str(each.points.path): each.points.columns.found for each in (first, second)},
        {name: each.unit for name, each in measured.items() if name in sources[name].points},
        {name: count for name, count in counts.items() if count},
        first.points.notes + ([] if second is first else second.points.notes),
    )


def _measured(sources: "Mapping[str, _Rows]", settings: StockSettings) -> dict[str, Measured]:
    """Return what was measured, each of its own table; UserError if there is no column of SOC or bulk density."""
    found, units = measured_columns({name: rows.points for name, rows in sources.items()}, settings.soc_factor)
    if "bulk_density" not in sources["bulk_density"].points and not settings.estimate:
        way = "--columns bulk_density=NAME names it, --bulk_density_table a second table, --estimate estimates it from SOC"
        raise UserError(f"{sources['bulk_density'].points.path}: no column of bulk density is known by its name; {way}")
    measured: dict[str, Measured] = {}
    for name, rows in sources.items():
        table = rows.points.raw.assign(**{name: found[name]})
        measured |= measurements(table, rows.points.path, units | settings.stated_units, settings.deviations, (name,))
    return measured


def _check_each_visit(measured: Mapping[str, Measured], sources: "Mapping[str, _Rows]") -> None:
    """Raise UserError if the values of one visit look like another unit, though all together do not."""
    for name, rows in sources.items():
        visits = rows.table.groupby("visit").indices
        for visit, own in visits.items() if len(visits) > 1 else ():
            part = measured[name].take(own)
            where = f"{rows.points.path}: visit {visit}"
            if np.isfinite(part.values).sum() >= _FEWEST_OF_VISIT:
                check_plausible(part.values, name, part.unit, f"{where}: {name.replace('_', ' ')}", f"--units {name}=", part.stated)
            if name == "soc":
                check_soc_unit(part, rows.top[own], where)


def _check_second(first: "_Rows", second: "_Rows", codes: np.ndarray) -> dict[str, int]:
    """Return the count of rows of a second table that are of no core; UserError if all are, or depths cannot be matched."""
    path, other = first.points.path, second.points.path
    if first.counts[_LITTER] or second.counts[_LITTER]:
        raise UserError(f"{path}: organic layers above 0 cm, and two tables; count depths of both from the surface")
    strange = second.key.notna() & ~second.key.isin(codes)
    if strange.all():
        names = (each.dropna().iloc[0].replace("\n", ", visit ") for each in (second.key, first.key))
        raise UserError(f"{other}: none of its cores is in {path.name} (first {next(names)!r}; there {next(names)!r})")
    return {f"rows of {other.name} of no core in {path.name}": int(strange.sum())}


def _read(path: Path, rule: TableRule, settings: StockSettings) -> _Rows:
    """Return the rows of a table with their cores and depths; rows without a place or visit are left out and counted."""
    points = read_points(path, rule)
    place = _place(points, settings.place)
    visit, year = visit_labels(points, settings.visit)
    own: dict[str, object] = {"profile_id": place, "visit": visit}
    if not np.isnan(year).all():
        own["year"] = year
    if "lon" in points and "lat" in points:
        own["lon"], own["lat"] = points.places()
    key = (place + "\n" + visit).where(place.notna() & visit.notna())
    known = key.notna().to_numpy()
    several = pd.Series(np.floor(year)).groupby(key.to_numpy()).nunique() > 1
    if several.any():
        first = several.index[several][0].replace("\n", ", visit ")
        raise UserError(
            f"{path}: --visit {settings.visit}: {int(several.sum())} cores have layers of several years (first {first})"
        )
    counts = {"rows": len(key), "no place or visit": int((~known).sum())}
    points.require(*(() if has_depths(points) else ("top", "bottom")))
    core = pd.factorize(key)[0]
    top, bottom = read_depths(points, core)
    bad = np.isnan(top) | np.isnan(bottom) | (bottom <= top) | (top < HIGHEST_LITTER) | ~known
    counts["depth missing or impossible"] = int((bad & known).sum())
    top[bad], bottom[bad] = np.nan, np.nan
    top[~bad], bottom[~bad], counts[_LITTER] = from_surface(core[~bad], top[~bad], bottom[~bad])
    kept_too = ("horizon", "profile_id") if settings.place else ("horizon",)
    used = {name for ours, name in points.columns.found.items() if ours not in kept_too} | {settings.visit}
    others = typed(points.raw.drop(columns=[name for name in points.raw if name in used]))
    table = pd.concat([pd.DataFrame(own), others.drop(columns=[name for name in others if name in own])], axis=1)
    _check_repeats(points, place, others, pd.DataFrame({"core": core, "top": top, "bottom": bottom}), settings)
    kept = np.flatnonzero(known)
    points.raw = points.raw.iloc[kept].reset_index(drop=True)
    return _Rows(
        points, key[known].reset_index(drop=True), table.iloc[kept].reset_index(drop=True), top[kept], bottom[kept], counts
    )


def _of_this_table(path: Path, rule: TableRule) -> TableRule:
    """Return the rule with the columns of measurements that this table has: a second table has not all of them."""
    named = dict(rule.columns)
    optional = [name for name in ("soc", "bulk_density", "stones") if name in named]
    if optional:
        raw = read_points(path, TableRule()).raw
        named = {ours: column for ours, column in named.items() if ours not in optional or column in raw.columns}
    return TableRule(named, rule.sites, rule.crs, rule.below_limit, rule.missing, rule.depth_unit)


def _place(points: PointTable, columns: Sequence[str]) -> pd.Series:
    """Return the names of places (L,), NaN where missing: of the column of ids, or of several columns."""
    if not columns:
        points.require("profile_id")
        return points.ids()
    parts = [points.text(name, "--place") for name in columns]
    name = reduce(lambda one, other: one + "_" + other, parts)
    if name.nunique() < len(pd.DataFrame(dict(enumerate(parts))).dropna().drop_duplicates()):
        raise UserError(f"{points.path}: different places have the same name {' _ '.join(columns)}; name them in one column")
    return name


def _check_repeats(points: PointTable, place: pd.Series, others: pd.DataFrame, key: pd.DataFrame, settings: StockSettings) -> None:
    """Raise UserError if layers repeat a core and its depths while one of the other columns changes that may tell cores apart.

    That of visits is asked about in any case, others unless columns of places were named.
    """
    again = key.duplicated(keep=False).to_numpy() & key["top"].notna().to_numpy() & (key["core"] >= 0).to_numpy()
    if not again.any():
        return
    count = f"{int(again.sum())} layers repeat place, visit and depths (first of {place[again].iloc[0]!r})"
    mine = np.isin(key["core"], key["core"][again])
    own = points.columns.found.get("profile_id", "")
    for name, column in others.items():
        is_time = settings.visit is None and TIMES.search(str(name))
        if (settings.place and not is_time) or not _tells_apart(key[mine].assign(value=column[mine]), str(name)):
            continue
        if QUANTITIES.search(str(name)):
            raise several_quantities(points.path, str(name), column)
        way = f"several cores of a place? --place {own} {name} takes each for itself, --place {own} their mean"
        raise UserError(f"{points.path}: {count}, while {name} changes: {f'visits? --visit {name} says so' if is_time else way}")
    points.notes.append(f"{count}: averaged")


def _tells_apart(key: pd.DataFrame, name: str) -> bool:
    """Return whether a column (value) changes where core and limits repeat, and is one of cores: each value has several layers."""
    value = key["value"]
    numeric = pd.api.types.is_numeric_dtype(value)
    limits = ["core", "top", "bottom"]
    if (numeric and (value.dropna() % 1 != 0).any()) or key.groupby(limits)["value"].nunique(dropna=False).max() < 2:
        return False
    if key.duplicated([*limits, "value"]).any():
        return False
    layers = key.drop_duplicates(limits).groupby("core").size()
    if layers.max() < 2:  # of one layer nothing is known but the column's name
        return not numeric or bool(_TELLING.search(name))
    of_value = key.groupby(["core", "value"], dropna=False).size()
    return bool((2 * of_value > layers.reindex(of_value.index.get_level_values("core")).to_numpy()).mean() > _MOST)


def _layers(rows: _Rows, values: np.ndarray, sd: np.ndarray, codes: np.ndarray, settings: StockSettings) -> Layers:
    """Return a property of rows as layers of the cores `codes`; UserError if those of most cores overlap."""
    core = pd.Index(codes).get_indexer(rows.key)
    known = (core >= 0) & ~np.isnan(rows.top)
    found = Layers.of(Horizons(core[known], rows.top[known], rows.bottom[known], len(codes)), values[known], sd[known])
    overlapping = found.overlapping()
    if 2 * overlapping.sum() > len(codes):
        first = codes[overlapping][0].replace("\n", ", visit ").removesuffix(", visit ")
        way = "several cores of a place? --place COLUMNS" if settings.visit else "several visits? --visit COLUMN"
        count = f"layers of {int(overlapping.sum())} of {len(codes)} cores overlap (first {first})"
        raise UserError(f"{rows.points.path}: {count}; a stock needs layers that follow each other ({way})")
    return found


# --- reference masses ------------------------------------------------------------------------------------------------


def read_reference(
    path: Path, rule: TableRule, once: pd.DataFrame, group: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read cumulative reference soil masses (N, K), t/ha, of the N cores in `once`, and perhaps lower limits (K,), cm.

    The table has a column of soil masses, of layers or cumulative ("cum" in its name), in t/ha or kg/m2 as its name says. Masses
    are the same for all cores, or differ by the columns of `group`: name in the table -> in `once`. UserError if there is no column
    of masses, their unit is not plausible, or a group has none.
    """
    points = read_points(path, TableRule(crs=rule.crs, missing=rule.missing, depth_unit=rule.depth_unit))
    named = [name for name in points.raw if "mass" in str(name).lower()]
    if len(named) != 1:
        what = (
            f"{len(named)} columns have 'mass' in their name ({', '.join(named)})" if named else "no column has 'mass' in its name"
        )
        raise UserError(f"{path}: {what}; one column of soil masses is needed, such as mass_t_ha")
    mass = points.numbers(named[0])
    if (bad := ~(mass > 0)).any():
        raise UserError(f"{path}: column {named[0]!r}: {int(bad.sum())} of {bad.size} masses are missing or not above 0")
    unit = "kg/m2" if "kgm2" in plain(named[0]) else "t/ha"
    mass = mass * (10.0 if unit == "kg/m2" else 1.0)
    groups = [points.text(name, "--reference_by") for name in group]
    label = pd.Series("", index=range(len(mass))) if not groups else pd.concat(groups, axis=1).agg("\n".join, axis=1)
    top = bottom = None
    if has_depths(points):
        top, bottom = read_depths(points, pd.factorize(label)[0])
        order = np.lexsort((bottom, pd.factorize(label)[0]))
        mass, top, bottom, label = mass[order], top[order], bottom[order], label.iloc[order].reset_index(drop=True)
    cumulative = "cum" in named[0].lower()
    sets = {name: mass[rows] if cumulative else np.cumsum(mass[rows]) for name, rows in label.groupby(label).indices.items()}
    if len({len(each) for each in sets.values()}) > 1:
        raise UserError(f"{path}: groups have different numbers of layers; each needs the same")
    if top is not None and bottom is not None and not cumulative:
        density = mass / (bottom - top) * 10
        if (bad := ~possible(density, "bulk_density", "kg/m3")).any():
            saw = f"{path}: column {named[0]!r}: {int(bad.sum())} of {bad.size} layers weigh what no soil does"
            raise UserError(
                f"{saw} (first {density[bad][0]:.4g} kg/m3, in {unit}); masses are in t/ha, or in kg/m2 if the name says so"
            )
    wanted = once[list(group.values())].astype("str").agg("\n".join, axis=1) if group else pd.Series("", index=once.index)
    if lost := sorted(set(wanted) - set(sets)):
        raise UserError(f"{path}: no masses for {lost[0]!r}".replace("\\n", ", "))
    masses = np.stack([sets[name] for name in wanted])
    if (np.diff(masses, axis=1, prepend=0.0) <= 0).any():
        raise UserError(f"{path}: column {named[0]!r}: cumulative masses must increase with depth")
    depths = None if bottom is None else bottom[np.asarray(label == next(iter(sets)))]
    return masses, depths
