"""Sums of a map and of its errors over zones, tile by tile: the map, and the map with each drawn field of error.

In: maps of the periods as means, an error model (`stats.error_field`), cells of zones or blocks. Out: `Sums` by map and zone, and
how means are made of them. They are the same for all predictors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import Grid, Tile, lonlat, nominal_metres
from soilcarbon.geo.periods import years_of
from soilcarbon.geo.zonal_statistics import Estimation, Sums, ZoneCells
from soilcarbon.mapping.cog import Band
from soilcarbon.stats.error_field import NOT_PERSISTENT, ErrorField

CHANGE = "change"
"""The map of the last period minus the first."""
_FINE = 4
"""Blocks along the shortest distance over which errors are shared; within one they are taken to be one error."""
_WIDEST = 64
"""Cells along the side of a block."""
_LEAST_OF_CHANGE = 8
"""The same, at least, where the deviation of cells' changes is computed."""


@dataclass(frozen=True)
class Place:
    """A tile of a grid: its cells' areas (h, 1) or (h, w) in km2, and the cells of zones that have some in it."""

    grid: Grid
    tile: Tile
    km2: np.ndarray
    zones: ZoneCells


def sums_with_errors(
    errors: ErrorField,
    place: Place,
    values: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    members: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, Sums]]:
    """Return map -> zone -> sums of a tile, of each period's map and, if there are several, of the change from first to last.

    Parameters
    ----------
    errors
        Of the predictor.
    place
        The tile, and the cells of zones.
    values
        Period -> (h, w) predictions of means, in order of time; NaN where there is none.
    weights
        Period -> (Z, h, w) weights of the error model's zones.
    members
        Period -> (M, h, w) means that the members of an ensemble predict.
    """
    names, maps, count = list(values), with_change(values), len(place.zones.names)
    sums = {name: zones.sums(each[None], place.km2, place.zones) for name, each in maps.items()}
    known = {name: place.zones.where(np.isfinite(each)) for name, each in maps.items()}
    number, lon, lat = error_blocks(place.grid, place.tile, errors.shortest_km)
    growth = errors.growth(lon, lat)[number]
    spreads = {name: errors.spread(values[name], weights[name]) * growth * place.km2 for name in names}
    shape, standardised = (len(maps) * count, len(lon)), dict[int | None, csr_array]()
    for k, (name, cells) in enumerate(known.items()):
        for period, sign in _parts(names, name):
            at = k * count + cells.zone, number.ravel()[cells.cell]
            part = csr_array((sign * spreads[period].ravel()[cells.cell], at), shape)  # entries of one place add up
            when = _number(names, period)
            standardised[when] = standardised[when] + part if when in standardised else part
    drawn = errors.sums(lon, lat, standardised).reshape(len(maps), count, -1)
    differ = with_change(members) if members else {}
    found = {}
    for k, (name, cells) in enumerate(known.items()):
        spread = np.stack([cells.sum(spreads[period]) for period, _ in _parts(names, name)])
        alone = sum(errors.cell_variance(values[period]) for period, _ in _parts(names, name))
        square = cells.sum(alone * place.km2**2) * (NOT_PERSISTENT if name == CHANGE else 1)
        of_members = np.stack([cells.sum(each * place.km2) for each in differ[name]]) if name in differ else np.zeros((0, count))
        found[name] = {
            zone: replace(
                each,
                weighted=each.weighted + drawn[k, n],
                spread=tuple(spread[:, n].tolist()),
                square=float(square[n]),
                members=tuple(of_members[:, n].tolist()),
            )
            for n, zone in enumerate(place.zones.names)
            if (each := sums[name].get(zone)) is not None
        }
    return found


def _number(periods: Sequence[str], name: str) -> int | None:
    """Return the number of a period for the error model: its first year, or where its name has none its place before them.

    None of the only period, if it has no year.
    """
    years = years_of(name)
    return years[0] if years else -1 - periods.index(name) if len(periods) > 1 else None


def with_change(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return maps of periods, in order of time, and of the change from first to last if there are several."""
    first, *_, last = maps.values() if len(maps) > 1 else (None, None)
    return dict(maps) if first is None or last is None else {**maps, CHANGE: last - first}


def _parts(periods: Sequence[str], name: str) -> list[tuple[str, float]]:
    """Return the periods that a map is made of, with their signs."""
    return [(periods[0], -1.0), (periods[-1], 1.0)] if name == CHANGE else [(name, 1.0)]


def estimation(
    errors: ErrorField | None, periods: Sequence[str], name: str, level: float, shared: tuple[float, float] = (0.0, 0.0)
) -> Estimation:
    """Return how the means of a map of periods are made of its sums.

    `shared`: standard deviation of an error that all measurements share, of the unit and as a share of the mean.
    """
    signed = name == CHANGE
    if errors is None:
        return Estimation(level, signed=signed)
    biases = []
    for period, sign in _parts(periods, name):
        biases.append(errors.biases({_number(periods, period): np.array([sign])})[0])
    return Estimation(level, errors.standard_error, tuple(biases), shared, signed)


def deviation_of_change(
    errors: ErrorField, place: Place, values: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the standard deviation (h, w) of cells' changes from the first period to the last.

    It is that of the drawn errors of blocks, and of what of the cells' own errors does not persist. `values`, `weights`: as of
    `sums_with_errors`.
    """
    names = list(values)
    ends = [(name, values[name], errors.spread(values[name], weights[name])) for name in (names[0], names[-1])]
    (first, _, before), (last, _, after) = ends
    number, lon, lat = error_blocks(place.grid, place.tile, errors.shortest_km, _LEAST_OF_CHANGE)
    wanted, found = np.unique(number[np.isfinite(before + after)]), np.full((3, len(lon)), np.nan)
    if len(wanted):
        at, when = (lon[wanted], lat[wanted]), (_number(names, first), _number(names, last))
        found[:, wanted] = errors.covariances(*at, *when) * errors.growth(*at) ** 2
    alone, later, shared = found[:, number]
    cells = NOT_PERSISTENT * sum(errors.cell_variance(each) for _, each, _ in ends)
    return np.asarray(np.sqrt(np.maximum(alone * before**2 + later * after**2 - 2 * shared * before * after, 0.0) + cells))


def change_interval(errors: ErrorField, value: str, unit: str, level: float) -> list[Band]:
    """Return the bands behind a change by an error model: ends of its interval, and its deviation; `value` is what it is called."""
    how = f"errors shared with neighbouring cells, of which {errors.persistence:.0%} are shared by other periods"
    ends = [
        Band(name, unit, {"MEANING": f"{value}, {name} end of the {level:.0%} interval by {how}"}) for name in ("lower", "upper")
    ]
    return [*ends, Band("sd", unit, {"MEANING": f"{value}, standard deviation by {how}"})]


def described(errors: ErrorField) -> dict[str, float | str]:
    """Return facts of an error model for a record."""
    profiles, km = sum(errors.counts), sorted({round(each) for shape in errors.shapes for each in (shape.long_km, shape.short_km)})
    return {
        "held-out profiles": profiles,
        "share of the variance that neighbours share": round(errors.structured, 3),
        "ranges in km": ", ".join(map(str, km)),
        "share of that which persists from period to period": round(errors.persistence, 3),
        "share of the variance of a period's own bias": round(errors.drift, 4),
    }


def with_ends(sums: Mapping[str, Sums], cells: ZoneCells, lower: np.ndarray, upper: np.ndarray) -> dict[str, Sums]:
    """Return sums with the interval of the only cell of a zone, from lower and upper ends (h, w)."""
    known = cells.where(np.isfinite(lower) & np.isfinite(upper))
    one = np.bincount(known.zone, minlength=len(cells.names)) == 1
    ends = {cells.names[k]: place for k, place in zip(known.zone, known.cell, strict=True) if one[k]}
    return {
        zone: replace(each, ends=(float(lower.flat[ends[zone]]), float(upper.flat[ends[zone]])))
        if each.cells == 1 and zone in ends
        else each
        for zone, each in sums.items()
    }


def error_blocks(grid: Grid, tile: Tile, range_km: float, least: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of each cell's block (h, w) of a tile, and longitude and latitude (b,) of the blocks' middles.

    Blocks are squares of cells of the whole grid, at least so many wide, so that what is drawn there is the same in every tile.
    """
    side = int(np.clip(range_km * 1000 / _FINE / nominal_metres(grid.crs, max(grid.cell)), least, _WIDEST))
    down, across = np.arange(tile.row, tile.row + tile.height) // side, np.arange(tile.col, tile.col + tile.width) // side
    rows, cols = np.unique(down), np.unique(across)
    row, col = (each.ravel() for each in np.meshgrid((rows + 0.5) * side, (cols + 0.5) * side, indexing="ij"))
    lon, lat = lonlat(grid, np.minimum(row, grid.height - 0.5), np.minimum(col, grid.width - 0.5))
    off = ~np.isfinite(lon)  # off the Earth, at the rim of a world map: any place will do, few cells are there
    number = (down - rows[0])[:, None] * len(cols) + (across - cols[0])[None, :]
    return number, np.where(off, 0.0, lon), np.where(off, 0.0, lat)
