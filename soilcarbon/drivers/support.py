"""Common support: all targets and covariates at the same places, so that their differences are not those of sampling.

In: a dataset of profiles, or covariate rasters; targets on any grid. Out: a `Support`, arrays in memory, and what was counted on
the way. Profiles are averaged in the cells of the coarsest target, unless they are to be compared one by one: a model whose cell
is 100 km wide cannot respond to relief within it, and would seem to ignore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from typing import Any

import numpy as np

from soilcarbon.categories import Category, middle_cells, separate_classes, without_windows
from soilcarbon.drivers.analysis import Analysis, Target
from soilcarbon.geo.field import UNITS, Field, read_field, unit_of
from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.geo.plausibility import check_layers, check_names, choose_classes, with_classes
from soilcarbon.geo.raster import find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError, nearest
from soilcarbon.soil.dataset import Dataset, read_dataset

log = getLogger(__name__)

_MIN_PLACES = 100
"""Fewer are too few to train on and hold out."""
_MAX_MISSING = 0.5
"""Share of covariates: a place that lacks more is left out."""
_MAX_CELLS = 30_000
"""Cells of rasters; of more, so many are drawn by area."""
_STRIP = 64
"""Rows of a grid read at once."""


@dataclass(frozen=True)
class Support:
    """Covariates and targets at the same N places."""

    x: np.ndarray  # (N, V) float32, without gaps
    categories: tuple[Category, ...]  # the V variables as categories of radius 0
    y: np.ndarray  # (T, N) targets, 0 or more, in the order of `targets`
    targets: tuple[Target, ...]  # targets, units: what they are, and "kg/m2" or "g/kg" of each
    units: tuple[str, ...]
    lon: np.ndarray  # lon, lat: (N,) degrees
    lat: np.ndarray
    counts: np.ndarray  # (N,) profiles at each place; 1 of a raster's cell
    facts: dict[str, Any]  # name -> number or text, of what was counted

    def __len__(self) -> int:
        return len(self.x)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the columns, (V,)."""
        return tuple(name for each in self.categories for name in each.variables)

    @property
    def classes(self) -> np.ndarray:
        """(V,) bool: which columns are class codes."""
        return np.array([each.kind == "classes" for each in self.categories for _ in each.variables])


def make_support(analysis: Analysis) -> Support:
    """Read targets and covariates, and bring them to a common support; UserError if too few places have all targets."""
    fields = [
        None if each.path is None else read_field(each.path, each.variable, each.unit, each.nodata) for each in analysis.targets
    ]
    return _complete((_of_profiles if analysis.data_dir is not None else _of_rasters)(analysis, fields))


def _profile_unit(target: Target, data: Dataset) -> tuple[str, float]:
    """Return the unit of the dataset's own profiles, one of those that maps have, and the factor to it; or any other one."""
    recorded = data.target.unit if data.records_target else ""
    if target.unit and recorded and unit_of(target.unit) != unit_of(recorded):
        raise UserError(f"target {target.name!r}: unit {target.unit!r}, but the dataset is in {recorded}; drop the wrong one")
    stated = target.unit or data.target.unit
    if not stated:
        raise UserError(f"target {target.name!r}: the unit of the dataset's column is not known; give unit, such as g/kg or kg/m2")
    known = unit_of(stated)
    if known is None and target.unit:
        raise UserError(f"target {target.name!r}: unit {target.unit!r} is none of {', '.join(UNITS)}")
    return UNITS[known] if known else (stated, 1.0)


def _of_profiles(analysis: Analysis, fields: Sequence[Field | None]) -> Support:
    """Return profiles, or their means in the cells of the coarsest gridded target, with gaps."""
    assert analysis.data_dir is not None
    needed = any(field is None for field in fields)
    data = read_dataset(analysis.data_dir, splits=(), target=analysis.target, target_needed=needed)
    names = [name for each in data.categories for name in each.variables]
    _check_classes(analysis.classes, names, str(analysis.data_dir))
    categories = _with_classes(data.categories, analysis.classes)
    units, rows = [], []
    for target, field in zip(analysis.targets, fields, strict=True):
        unit, factor = _profile_unit(target, data) if field is None else (field.unit, 1.0)
        units.append(unit)
        rows.append(data.y * factor if field is None else field.at(data.lon, data.lat))
    y = np.stack(rows)
    facts: dict[str, Any] = {"profiles": len(data.y)} | _target_facts(analysis.targets, fields, y)
    known = np.isfinite(y).all(0)
    x = middle_cells(data.x, data.categories)[:, [names.index(name) for each in categories for name in each.variables]]
    gridded = [field for field in fields if field is not None]
    if analysis.support == "profiles" or not gridded:
        facts |= {"support": "profiles"} | _shared_cells(analysis.targets, fields, data, known)
        places = x[known], categories, y[:, known], analysis.targets, tuple(units), data.lon[known], data.lat[known]
        return Support(*places, np.ones(int(known.sum()), np.int64), facts)
    coarsest = max(gridded, key=lambda field: field.metres)
    facts["support"] = f"cells of {coarsest.path.name}, {coarsest.metres / 1000:.3g} km wide"
    number = coarsest.cells(data.lon, data.lat)
    used = np.flatnonzero(known & (number >= 0))
    if not used.size:
        raise UserError(f"none of {len(known)} profiles has all targets: {', '.join(each.name for each in analysis.targets)}")
    _, first, member, counts = np.unique(number[used], return_index=True, return_inverse=True, return_counts=True)
    facts["profiles_used"] = len(used)
    lon = data.lon[used]
    east = lon[first][member]  # a cell may lie across the antimeridian
    middle = (_means(east + (lon - east + 180) % 360 - 180, member) + 180) % 360 - 180
    coded = [each.kind == "classes" for each in categories for _ in each.variables]
    columns = [(_modes if is_class else _means)(column, member) for column, is_class in zip(x[used].T, coded, strict=True)]
    averaged, lat = np.stack([_means(each, member) for each in y[:, used]]), _means(data.lat[used], member)
    places = np.stack(columns, axis=1), categories, averaged, analysis.targets, tuple(units), middle, lat
    return Support(*places, counts, facts)


def _of_rasters(analysis: Analysis, fields: Sequence[Field | None]) -> Support:
    """Return cells of the coarsest target that have all targets and half of the covariates, with gaps."""
    layers = find_layers(analysis.rasters, analysis.missing_values)
    names = [layer.name for layer in layers]
    check_names(layers, nodata=analysis.missing_values)
    _check_classes(analysis.classes, names, "the rasters")
    classes = choose_classes(layers, analysis.classes)
    layers = with_classes(layers, classes)
    check_layers(layers)
    given = [field for field in fields if field is not None]  # all, as the analysis is checked for
    coarsest = max(given, key=lambda field: field.metres)
    grid = coarsest.as_grid()
    with Stack(layers, grid) as stack:
        x = _all_cells(stack, grid)
    row, col = np.divmod(np.arange(grid.height * grid.width), grid.width)
    lon, lat = lonlat(grid, row + 0.5, col + 0.5)
    lon = (lon + 180) % 360 - 180
    y = np.stack([_on_grid(field, grid, coarsest, lon, lat) for field in given])
    facts: dict[str, Any] = {"cells": len(lon), "support": f"cells of {coarsest.path.name}, {coarsest.metres / 1000:.3g} km wide"}
    facts |= _target_facts(analysis.targets, given, y)
    known = np.flatnonzero(np.isfinite(y).all(0) & np.isfinite(lon) & (np.isnan(x).mean(1) <= _MAX_MISSING))
    if len(known) > _MAX_CELLS:
        area = np.cos(np.radians(lat[known])) if grid.geographic else np.ones(len(known))
        random = np.random.default_rng(analysis.seed)
        known = np.sort(random.choice(known, _MAX_CELLS, replace=False, p=area / area.sum()))
        facts["cells_drawn"] = len(known)
    categories = _with_classes((Category(name="covariates", variables=tuple(names)),), classes)
    order = [names.index(name) for each in categories for name in each.variables]
    units = tuple(field.unit for field in given)
    places = (x[known][:, order], categories, y[:, known], analysis.targets, units, lon[known], lat[known])
    return Support(*places, np.ones(len(known), np.int64), facts)


def _all_cells(stack: Stack, grid: Grid) -> np.ndarray:
    """Return all layers on a grid, (cells, V)."""
    strips = ((row, min(_STRIP, grid.height - row)) for row in range(0, grid.height, _STRIP))
    return np.concatenate([stack.read(row, 0, rows, grid.width).reshape(len(stack.layers), -1).T for row, rows in strips])


def _on_grid(field: Field, grid: Grid, coarsest: Field, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return a target in the cells of a grid (cells,): its own, or the mean of its smaller cells."""
    if field.layer is not None:
        with Stack([field.layer], grid) as stack:
            return _all_cells(stack, grid)[:, 0].astype(np.float64) * field.factor
    if field is coarsest:
        return field.at(lon, lat)
    assert field.values is not None and field.lat is not None and field.lon is not None
    own_lon, own_lat = (axis.ravel() for axis in np.meshgrid(field.lon, field.lat))
    number, values = coarsest.cells(own_lon, own_lat), field.values.ravel()
    inside = (number >= 0) & np.isfinite(values)
    count = np.bincount(number[inside], minlength=len(lon))
    total = np.bincount(number[inside], values[inside], len(lon))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _target_facts(targets: Sequence[Target], fields: Sequence[Field | None], y: np.ndarray) -> dict[str, Any]:
    """Return the facts of each target: kind, number of places with a value, cells."""
    facts: dict[str, dict[str, Any]] = {}
    for target, field, values in zip(targets, fields, y, strict=True):
        known = int(np.isfinite(values).sum())
        if not known:
            raise UserError(f"{target.path}: target {target.name!r} has no value at any of {values.size} places")
        facts[target.name] = {"kind": target.kind, "places": known, "without": int(values.size - known)}
        if field is not None:
            height, width = field.shape
            facts[target.name] |= {"file": field.path.name, "variable": field.variable, "cell_km": round(field.metres / 1000, 3)}
            facts[target.name] |= {"cells": height * width, "times": field.times}
    return {"targets": facts}


def _shared_cells(targets: Sequence[Target], fields: Sequence[Field | None], data: Dataset, known: np.ndarray) -> dict[str, Any]:
    """Return and log how many cells of each gridded target the profiles lie in: profiles of one cell share its value."""
    found = {}
    for target, field in zip(targets, fields, strict=True):
        if field is not None:
            found[target.name] = int(np.unique(field.cells(data.lon[known], data.lat[known])).size)
            words = "%s: %d profiles lie in %d of its cells; --support cells compares cells"
            log.info(words, target.name, known.sum(), found[target.name])
    return {"cells_with_profiles": found}


def _means(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the mean of each member's values that are not missing; NaN of none."""
    known = np.isfinite(values)
    count = np.bincount(member[known], minlength=member.max() + 1)
    total = np.bincount(member[known], values[known].astype(np.float64), member.max() + 1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _modes(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the commonest class of each member, the smallest code of equals; NaN of none."""
    known = np.isfinite(values)
    codes, code = np.unique(values[known], return_inverse=True)
    found = np.full(member.max() + 1, np.nan)
    if codes.size:
        table = np.zeros((member.max() + 1, codes.size), np.int64)
        np.add.at(table, (member[known], code), 1)
        found = np.where(table.sum(1) > 0, codes[table.argmax(1)], np.nan)
    return found


def _check_classes(classes: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in classes:
        if name not in (*names, "none"):
            raise UserError(f"classes: no variable {name!r} in {where}{nearest(name, list(names))}")


def _with_classes(categories: Sequence[Category], classes: Sequence[str]) -> tuple[Category, ...]:
    """Return a dataset's categories without windows; further variables that are classes have a category of their own."""
    return without_windows(separate_classes(categories, classes))


def _complete(support: Support) -> Support:
    """Leave out places that lack most covariates and constant variables; fill gaps by the median or the commonest class."""
    names, classes = np.array(support.variables), support.classes
    enough = np.isnan(support.x).mean(1) <= _MAX_MISSING
    if int(enough.sum()) < _MIN_PLACES:
        found = f"{int(enough.sum())} of {len(support)} places have all targets and half of the covariates"
        raise UserError(f"{found}; {_MIN_PLACES} are needed")
    x = support.x[enough]
    gaps = np.isnan(x)
    broken = ~gaps & (x % 1 != 0) & classes
    if broken.any():
        row, column = np.argwhere(broken)[0]
        found = f"is not an integer at {int(broken[:, column].sum())} of {len(x)} places, the first {x[row, column]:g}"
        raise UserError(f"classes: {str(names[column])!r} {found}")
    if gaps.all(0).any():
        raise UserError(f"variable {names[gaps.all(0)][0]!r} is missing at all {len(x)} places; leave it out or supply it")
    filled = {}
    for k in np.flatnonzero(gaps.any(0)).tolist():
        known = x[~gaps[:, k], k]
        x[gaps[:, k], k] = _modes(known, np.zeros(len(known), np.int64))[0] if classes[k] else np.median(known)
        filled[str(names[k])] = int(gaps[:, k].sum())
    varies = np.ptp(x, axis=0) > 0
    if filled:
        log.info("filled %d missing values of %d variables by the median or the commonest class", sum(filled.values()), len(filled))
    if not varies.all():
        log.info("left out, as they are constant: %s", ", ".join(names[~varies]))
    kept = set(names[varies])
    categories = tuple(
        each.model_copy(update={"variables": some})
        for each in support.categories
        if (some := tuple(name for name in each.variables if name in kept))
    )
    facts = {"places": len(x), "filled": filled, "constant": names[~varies].tolist(), "left_out": int((~enough).sum())}
    kept_places = {name: getattr(support, name)[..., enough] for name in ("y", "lon", "lat", "counts")}
    x = np.ascontiguousarray(x[:, varies], np.float32)
    return replace(support, x=x, categories=categories, facts=support.facts | facts, **kept_places)


def drivers_of(support: Support, wanted: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return driver -> its columns: those wanted, then each category's variables that none of them names; UserError if but one."""
    column = {name: k for k, name in enumerate(support.variables)}
    constant = set(support.facts["constant"])
    for driver, names in wanted.items():
        for name in names:
            if name not in column and name not in constant:
                raise UserError(f"driver {driver!r}: no variable {name!r}{nearest(name, list(column))}")
    found = {driver: [column[name] for name in names if name in column] for driver, names in wanted.items()}
    taken = {k for columns in found.values() for k in columns}
    for category in support.categories:
        rest = [column[name] for name in category.variables if column[name] not in taken]
        if rest:
            found[category.name] = sorted([*found.get(category.name, []), *rest])
    found = {driver: columns for driver, columns in found.items() if columns}
    if len(found) < 2:
        raise UserError(f"{len(found)} driver: a share of importance needs two or more; name drivers in a YAML file")
    return {driver: np.array(columns) for driver, columns in found.items()}


def zones_of(support: Support, wanted: Mapping[str, Mapping[str, tuple[float, float]]]) -> dict[str, np.ndarray]:
    """Return zone -> (N,) bool: where lon, lat or variables lie in all its ranges, the lower limit included; at least one place."""
    values = {"lon": support.lon, "lat": support.lat} | dict(zip(support.variables, support.x.T, strict=True))
    found = {}
    for zone, ranges in wanted.items():
        inside = np.ones(len(support), bool)
        for name, (low, high) in ranges.items():
            if name not in values:
                raise UserError(f"zone {zone!r}: no variable {name!r}{nearest(name, list(values))}")
            inside &= (values[name] >= low) & (values[name] < high)
        if not inside.any():
            raise UserError(f"zone {zone!r} contains none of {len(support)} places; are its limits in the variables' units?")
        found[zone] = inside
    return found
