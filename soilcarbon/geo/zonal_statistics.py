"""Zones on a map's grid: masks of tiles, true cell areas, means and totals.

In: areas (`areas.read_areas`), a grid, and the maps of an ensemble's members, tile by tile. Out: one row per zone.
Many processes may share the work: a tile yields `Sums`, which are added up at the end.

    parts = [sums(maps(tile), cell_areas(grid, tile), zone_masks(areas, grid, tile)) for tile in grid.tiles(512)]
    table = totals(parts, "kg/m2", [area.name for area in areas])
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from rasterio.crs import CRS
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid, Tile, lonlat
from soilcarbon.geo.vector import Area

_OFF_BORDER = 1e-7
"""Of a cell."""
LOWER, UPPER = 0.05, 0.95
"""Quantiles of an ensemble's members, at a cell and of a zone."""
_AXIS = 6378.137
_ECCENTRICITY = math.sqrt((2 - 1 / 298.257223563) / 298.257223563)
"""Of the WGS84 ellipsoid, whose semi-major axis is given in km."""
_BLOCK_KM = 25.0
_BLOCK_CELLS = 32
"""In a projected CRS true areas are taken of blocks no larger than this, and interpolated."""
_MASS = {
    "mg": 1e-15,
    "g": 1e-12,
    "kg": 1e-9,
    "Kg": 1e-9,
    "Mg": 1e-6,
    "t": 1e-6,
    "tonnes": 1e-6,
    "kt": 1e-3,
    "Gg": 1e-3,
    "Mt": 1.0,
    "Tg": 1.0,
    "Pg": 1e3,
}
"""Tg; a milligram and a megagram differ in case alone."""
_SURFACE = {"cm": 1e-10, "m": 1e-6, "ha": 1e-2, "km": 1.0}
"""km2, of the square or of the hectare."""
_PER_SURFACE = re.compile(
    rf"(?P<mass>{'|'.join(_MASS)})\s*(?:S?O?C\b)?\s*"
    r"(?:(?:/|\bper\b)\s*(?:(?P<square>c?m|km)\s*(?:\^|\*\*)?\s*2|ha|hectare)"
    r"|[\s.*]\s*(?:(?P<inverse>c?m|km)(?:\^|\*\*)?\(?-2\)?|ha(?:\^|\*\*)?\(?-1\)?))(?:\s+S?O?C)?"
)


# --- masks -------------------------------------------------------------------------------------------------------


def inside(areas: Sequence[Area], grid: Grid, tile: Tile) -> np.ndarray:
    """Return which cells of a tile have their centre in any of the areas: (h, w) bool."""
    found = np.zeros((tile.height, tile.width), bool)
    for _, mask in zone_masks(areas, grid, tile):
        found |= mask
    return found


def zone_masks(areas: Sequence[Area], grid: Grid, tile: Tile) -> list[tuple[str, np.ndarray]]:
    """Return the areas with cells in a tile, by name, and the cells whose centre is in each: (h, w) bool.

    Areas may overlap. A centre on a border belongs to the area east or south of it, so areas that share a border
    share no cell, and a cell is in the same areas whatever tile it is looked at in. On a geographic grid longitudes are
    angles: an area at -10 lies on a grid from 0 to 360.
    """
    shape, cell = (tile.height, tile.width), grid.cell
    left, top = grid.x + tile.col * cell[0], grid.y - tile.row * cell[1]
    right, bottom = left + tile.width * cell[0], top - tile.height * cell[1]
    shapes: dict[float, list[tuple[dict[str, Any], int]]] = {}
    for k, area in enumerate(areas, 1):
        x_min, x_max, y_min, y_max = area.bounds
        for turn in (-360.0, 0.0, 360.0) if grid.geographic else (0.0,):
            if y_min <= top and y_max >= bottom and x_min + turn <= right and x_max + turn >= left:
                shapes.setdefault(turn, []).append((area.geometry, k))

    def burnt(turn: float, found: Sequence[tuple[dict[str, Any], int]], add: bool = False) -> np.ndarray:
        """Burn shapes into the tile; centres are looked at a little to the east and south, off borders that run through them."""
        moved = Affine(cell[0], 0, left - turn + _OFF_BORDER * cell[0], 0, -cell[1], top - _OFF_BORDER * cell[1])
        how = {"merge_alg": MergeAlg.add} if add else {}
        return np.asarray(rasterize(found, out_shape=shape, transform=moved, dtype=np.int32, **how))

    labels, count = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for turn, found in shapes.items():
        labels = np.maximum(labels, burnt(turn, found))
        count += burnt(turn, [(geometry, 1) for geometry, _ in found], add=True)
    if (count > 1).any():  # areas overlap: each is burnt by itself
        numbers = sorted({k for found in shapes.values() for _, k in found})
        masks = {k: np.zeros(shape, bool) for k in numbers}
        for turn, found in shapes.items():
            for geometry, k in found:
                masks[k] |= burnt(turn, [(geometry, 1)]) == 1
    else:
        masks = {int(k): labels == k for k in np.unique(labels[labels > 0])}
    return [(areas[k - 1].name, mask) for k, mask in masks.items() if mask.any()]


# --- true areas --------------------------------------------------------------------------------------------------


def cell_areas(grid: Grid, tile: Tile) -> np.ndarray:
    """Return the true areas of a tile's cells on the WGS84 ellipsoid, km2, float64.

    On a geographic grid that is the closed formula for a cell between two parallels. In any other CRS corners of
    blocks of up to 32 cells (25 km) are taken back to the ellipsoid; the area of a block per cell is interpolated
    between the blocks' middles. Blocks are those of the whole grid, so a cell's area is the same in every tile.

    Returns
    -------
    ndarray
        (h, 1) on a geographic grid, else (h, w). A cell of a block that is partly off the Earth, at the rim of a world
        map, has the area of the nearest block that is not, on its own row if there is one.

    Notes
    -----
    J. P. Snyder, Map Projections: A Working Manual, USGS Professional Paper 1395 (1987), equations 3-11 to 3-13:
    the authalic latitude makes the ellipsoid a sphere of equal area, on which polygons are measured by their excess.
    """
    known = CRS.from_user_input(grid.crs)
    rows, cols = np.arange(tile.row, tile.row + tile.height + 1), np.arange(tile.col, tile.col + tile.width + 1)
    if known.is_geographic:
        latitude = np.clip(grid.y - rows * grid.cell[1], -90.0, 90.0)
        return (-_SQUARE_RADIUS * math.radians(grid.cell[0]) * np.diff(_authalic_sine(latitude)))[:, None]
    cell_km = max(grid.cell) * float(known.linear_units_factor[1]) / 1000
    step = int(min(max(_BLOCK_KM // cell_km, 1), _BLOCK_CELLS))
    (row, down), (col, right) = _between(rows[:-1], step), _between(cols[:-1], step)
    blocks = np.arange(row[0], row[-1] + 3) * step, np.arange(col[0], col[-1] + 3) * step
    nominal = grid.cell[0] * grid.cell[1] * (float(known.linear_units_factor[1]) / 1000) ** 2
    density = _filled(_quadrilaterals(grid, *blocks) / step**2, nominal)
    row, col = row - row[0], col - col[0]
    density = density[row] + down[:, None] * (density[row + 1] - density[row])
    return np.asarray(density[:, col] + right * (density[:, col + 1] - density[:, col]))


def _authalic_sine(latitude: np.ndarray) -> np.ndarray:
    """Return the sine of the authalic latitude of a geographic one, degrees."""
    return _authalic_q(np.sin(np.radians(latitude))) / _authalic_q(np.ones(()))


def _authalic_q(sine: np.ndarray) -> np.ndarray:
    """Return Snyder's q (3-12), of the sine of latitude."""
    part = _ECCENTRICITY * sine
    return np.asarray((1 - _ECCENTRICITY**2) * (sine / (1 - part**2) + np.arctanh(part) / _ECCENTRICITY))


_SQUARE_RADIUS = float(_AXIS**2 * _authalic_q(np.ones(())) / 2)
"""km2: of the sphere with the ellipsoid's surface."""


def _between(cells: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block whose middle is last before each cell's, and how far on it is to the next one, 0 to 1."""
    place = (cells + 0.5) / step - 0.5
    before = np.floor(place)
    return before.astype(np.int64), place - before


def _quadrilaterals(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return the areas, km2, between edges (R,) of rows and (C,) of columns: (R-1, C-1), NaN where a corner is off the Earth."""
    lon, lat = lonlat(grid, *np.meshgrid(rows, cols, indexing="ij"))
    lon, height = np.radians(lon), _authalic_sine(lat).clip(-1, 1)
    width = np.sqrt(1 - height**2)
    corner = np.stack([width * np.cos(lon), width * np.sin(lon), height], axis=-1)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    return _SQUARE_RADIUS * np.abs(_excess(a, b, c) + _excess(a, c, d))


def _filled(density: np.ndarray, nominal: float) -> np.ndarray:
    """Return densities (R, C) with NaN replaced by the nearest in its row, else in its column, else by `nominal`."""
    filled = density.copy()
    for lines in (filled, filled.T):  # views: most world maps change in scale with latitude alone
        for line in lines:
            known = np.flatnonzero(np.isfinite(line))
            if 0 < len(known) < len(line):
                line[:] = np.interp(np.arange(len(line)), known, line[known])
    return np.where(np.isfinite(filled), filled, nominal)


def _excess(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the spherical excess of triangles of unit vectors (..., 3), with sign."""
    volume = np.sum(a * np.cross(b - a, c - a), axis=-1)  # of differences: the triangles are small
    return np.asarray(2 * np.arctan2(volume, 1 + np.sum(a * b + b * c + c * a, axis=-1)))


# --- sums, means and totals --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """What a zone's cells add up to, in one tile or in many.

    Attributes
    ----------
    cells
        How many have a value.
    area
        Theirs, km2.
    weighted
        (M,) float64: the sum of each member's values times km2.
    """

    cells: int
    area: float
    weighted: np.ndarray

    def __add__(self, other: "Sums") -> "Sums":
        assert self.weighted.shape == other.weighted.shape  # numpy would repeat a single member
        return Sums(self.cells + other.cells, self.area + other.area, self.weighted + other.weighted)


def sums(values: np.ndarray, km2: np.ndarray, masks: Sequence[tuple[str, np.ndarray]]) -> dict[str, Sums]:
    """Return the sums of a tile, of the zones that have cells with a value in it.

    Parameters
    ----------
    values
        (M, h, w) of M members; a cell with NaN in any has no value.
    km2
        The cells' areas, broadcastable to (h, w), of `cell_areas`.
    masks
        Of `zone_masks`.
    """
    known = np.isfinite(values).all(axis=0)
    km2 = np.broadcast_to(km2, known.shape)
    found = {}
    for name, mask in masks:
        cells = mask & known
        if cells.any():
            weight = km2[cells]
            weighted = [float((member[cells] * weight).sum()) for member in values]  # float64, as the weights are
            found[name] = Sums(int(cells.sum()), float(weight.sum()), np.array(weighted))
    return found


def add(left: Mapping[str, Sums], right: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return the sums of two parts of a map together."""
    return {**left, **{name: left[name] + part if name in left else part for name, part in right.items()}}


def as_plain(parts: Mapping[str, Sums]) -> dict[str, list[Any]]:
    """Return sums as plain containers; JSON keeps every bit of them."""
    return {name: [part.cells, part.area, part.weighted.tolist()] for name, part in parts.items()}


def from_plain(plain: Mapping[str, Sequence[Any]]) -> dict[str, Sums]:
    """Return what `as_plain` was given."""
    return {name: Sums(cells, area, np.array(weighted, np.float64)) for name, (cells, area, weighted) in plain.items()}


def totals(parts: Iterable[Mapping[str, Sums]], unit: str, order: Sequence[str]) -> pd.DataFrame:
    """Return the area-weighted mean and the total of each zone, with intervals.

    The mean is that over the members of their own means. The interval runs from the 5th to the 95th percentile of the
    members' own means, and totals: the errors of an ensemble are shared by neighbouring cells, so the lower bounds
    of cells may not be summed to the lower bound of a zone. It speaks of the ensemble's spread, no more.

    A total is in Tg if the unit is a mass per area (kg/m2, t ha-1 ...). Of any other unit (g/kg is a concentration) it
    is the sum of value times area, in "<unit> km2": no mass, for that takes bulk density and depth.

    Parameters
    ----------
    parts
        Sums of all tiles, in an order that is the same in every run: then so is the last digit.
    unit
        Of the map.
    order
        The names of all zones; the rows follow them.

    Returns
    -------
    DataFrame
        zone, cells, area_km2 (of the cells with a value), mean, mean_lower, mean_upper, mean_unit, total, total_lower,
        total_upper, total_unit. Without cells: cells and area 0, the rest NaN. One member: the bounds NaN.
    """
    whole: dict[str, Sums] = reduce(add, parts, {})
    unknown = sorted(set(whole) - set(order))
    assert not unknown, unknown
    unit = unit.strip()
    mass = mass_of(unit)
    units = {"mean_unit": unit, "total_unit": "Tg" if mass else f"{unit} km2".strip()}
    rows = []
    for name in order:
        part = whole.get(name, Sums(0, 0.0, np.array([np.nan])))
        mean = part.weighted / part.area if part.area > 0 else np.array([np.nan])
        row = {"zone": name, "cells": part.cells, "area_km2": part.area}
        rows.append(row | _spread("mean", mean) | _spread("total", part.weighted * (mass or 1.0)) | units)
    columns = [f"{what}{end}" for what in ("mean", "total") for end in ("", "_lower", "_upper", "_unit")]
    return pd.DataFrame(rows, columns=["zone", "cells", "area_km2", *columns])


def _spread(name: str, members: np.ndarray) -> dict[str, float]:
    """Return the mean of members (M,) and their 5th and 95th percentile, NaN of one."""
    lower, upper = np.quantile(members, [LOWER, UPPER]) if len(members) > 1 else (np.nan, np.nan)
    return {name: float(members.mean()), f"{name}_lower": float(lower), f"{name}_upper": float(upper)}


def mass_of(unit: str) -> float | None:
    """Return how many Tg/km2 a unit of mass per area is; None of any other unit."""
    text = unit.strip().translate(str.maketrans("⁰¹²³⁻−·⋅", "0123--  "))
    found = _PER_SURFACE.fullmatch(text)
    if found is None:
        return None
    return _MASS[found["mass"]] / _SURFACE[found["square"] or found["inverse"] or "ha"]
