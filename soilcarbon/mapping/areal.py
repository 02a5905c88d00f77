"""Sums of a map and of its errors over zones, tile by tile: the map, and the map with each drawn field of error.

In: maps of the periods as means, an error model (`stats.error_field`), zone masks. Out: `Sums` by map and zone. They are the same
for all predictors.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import lonlat, nominal_metres
from soilcarbon.geo.zonal_statistics import Sums
from soilcarbon.mapping.predictor import CHANGE, Place
from soilcarbon.stats.error_field import ErrorField

_FINE = 4
"""Blocks along the shortest distance over which errors are shared; within one they are taken to be one error."""
_WIDEST = 64
"""Cells along the side of a block."""


def period_of(name: str) -> int | None:
    """Return the first year of a period's name, as error models number periods; None if it has none.

    Examples
    --------
    >>> period_of("1985-1989"), period_of("2000"), period_of("")
    (1985, 2000, None)
    """
    first = name.partition("-")[0]
    return int(first) if first.isdecimal() and len(first) == 4 else None


def sums_with_errors(
    errors: ErrorField, place: Place, values: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Sums]]:
    """Return map -> zone -> sums of a tile, of each period's map and, if there are several, of the change from first to last.

    Parameters
    ----------
    errors
        Of the predictor.
    place
        The tile, and masks of zones.
    values
        Period -> (h, w) predictions of means, in order of time; NaN where there is none.
    weights
        Period -> (Z, h, w) weights of the error model's zones.
    """
    names, maps = list(values), dict(values)
    if len(names) > 1:
        maps[CHANGE] = values[names[-1]] - values[names[0]]
    found = {name: zones.sums(each[None], place.km2, place.masks) for name, each in maps.items()}
    number, lon, lat = _blocks(place, errors.shortest_km)
    spreads = {name: errors.spread(values[name], weights[name]) * place.km2 for name in names}
    alone = {name: errors.cell_variance(values[name]) * place.km2**2 for name in names}
    parts = {name: [(name, 1.0)] for name in names}
    if len(names) > 1:
        parts[CHANGE] = [(names[-1], 1.0), (names[0], -1.0)]
    rows = [(name, zone) for name in maps for zone in found[name]]
    masks, terms = dict(place.masks), []
    for row, (name, zone) in enumerate(rows):
        here = masks[zone] & np.isfinite(maps[name])
        for period, sign in parts[name]:
            summed = np.bincount(number[here], sign * spreads[period][here], len(lon))
            terms.append(
                (row, period_of(period) if period_of(period) is not None else -names.index(period), csr_array(summed[None]))
            )
        spread = sum(float(spreads[period][here].sum()) for period, _ in parts[name]) / len(parts[name])
        square = float(alone[name][here].sum()) if name in alone else 0.0  # a cell's own error persists from period to period
        found[name][zone] = replace(found[name][zone], spread=spread, square=square)
    for (name, zone), drawn in zip(rows, errors.sums(lon, lat, terms, len(rows)), strict=True):
        found[name][zone] = replace(found[name][zone], weighted=found[name][zone].weighted + drawn)
    return found


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


def with_ends(sums: Mapping[str, Sums], masks: Mapping[str, np.ndarray], lower: np.ndarray, upper: np.ndarray) -> dict[str, Sums]:
    """Return sums with the interval of the only cell of a zone, from lower and upper ends (h, w)."""
    found = dict(sums)
    for zone, each in sums.items():
        if each.cells == 1:
            known = masks[zone] & np.isfinite(lower) & np.isfinite(upper)
            if known.sum() == 1:
                found[zone] = replace(each, ends=(float(lower[known][0]), float(upper[known][0])))
    return found


def _blocks(place: Place, range_km: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of each cell's block (h, w), and longitude and latitude (b,) of the blocks' middles.

    Blocks are squares of cells of the whole grid, so that what is drawn there is the same in every tile.
    """
    grid, tile = place.grid, place.tile
    side = int(np.clip(range_km * 1000 / _FINE / nominal_metres(grid.crs, max(grid.cell)), 1, _WIDEST))
    down, across = np.arange(tile.row, tile.row + tile.height) // side, np.arange(tile.col, tile.col + tile.width) // side
    rows, cols = np.unique(down), np.unique(across)
    row, col = (each.ravel() for each in np.meshgrid((rows + 0.5) * side, (cols + 0.5) * side, indexing="ij"))
    lon, lat = lonlat(grid, np.minimum(row, grid.height - 0.5), np.minimum(col, grid.width - 0.5))
    off = ~np.isfinite(lon)  # off the Earth, at the rim of a world map: any place will do, few cells are there
    number = (down - rows[0])[:, None] * len(cols) + (across - cols[0])[None, :]
    return number, np.where(off, 0.0, lon), np.where(off, 0.0, lat)
