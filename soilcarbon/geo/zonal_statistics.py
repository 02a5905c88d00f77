"""Zones on a map's grid: masks of tiles, true cell areas, means and totals.

In: areas (`areas.read_areas`), a grid, and the maps of an ensemble's members, tile by tile. Out: one row per zone.
Many processes may share the work: a tile yields `Sums`, which are added up at the end.

    parts = [sums(maps(tile), cell_areas(grid, tile), ZoneCells.of(zone_masks(areas, grid, tile))) for tile in grid.tiles(512)]
    table = totals(parts, "kg/m2", [area.name for area in areas])
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import reduce
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import shapely  # type: ignore[import-untyped]
from pydantic import PlainSerializer, PlainValidator
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, array_bounds

from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, Tile, lonlat
from soilcarbon.geo.vector import Area
from soilcarbon.stats.areal_mean import ArealMean, Variances, areal_mean

LOWER, UPPER = 0.05, 0.95  # quantiles of an ensemble's members at a cell
_BLOCK_KM = 3.0
_BLOCK_CELLS = 4  # in a projected CRS true areas are taken of blocks no larger than this, and interpolated
_EAST_SOUTH = 1e-7  # of a cell: centres are moved so far east and south, so that one on a border lies in one of the two areas
_LONG = 1000  # vertices from which a geometry is cut to a tile before it is rasterized
_MASS = {
    "mg": 1e-15, "g": 1e-12, "kg": 1e-9, "Kg": 1e-9, "Mg": 1e-6, "t": 1e-6, "tonnes": 1e-6, "kt": 1e-3, "Gg": 1e-3,
    "Mt": 1.0, "Tg": 1.0, "Pg": 1e3,
}  # fmt: skip
"""Mt (Tg); a milligram and a megagram differ in case alone."""
_SURFACE = {"cm": 1e-10, "m": 1e-6, "ha": 1e-2, "km": 1.0}  # km2, of the square or of the hectare
_PER_SURFACE = re.compile(
    rf"(?P<mass>{'|'.join(_MASS)})\s*(?:S?O?C\b)?\s*"
    r"(?:(?:/|\bper\b)\s*(?:(?P<square>c?m|km)\s*(?:\^|\*\*)?\s*2|ha|hectare)"
    r"|[\s.*]\s*(?:(?P<inverse>c?m|km)(?:\^|\*\*)?\(?-2\)?|ha(?:\^|\*\*)?\(?-1\)?))(?:\s+S?O?C)?"
)


# --- masks -------------------------------------------------------------------------------------------------------


def inside(areas: Sequence[Area], grid: Grid, tile: Tile) -> np.ndarray:
    """Return which cells of a tile have their centre in any of the areas: (h, w) bool."""
    masks = (mask for _, mask in zone_masks(areas, grid, tile))
    return np.logical_or.reduce([np.zeros((tile.height, tile.width), bool), *masks])


def zone_masks(areas: Sequence[Area], grid: Grid, tile: Tile) -> list[tuple[str, np.ndarray]]:
    """Return the areas with cells in a tile, by name, and the cells whose centre is in each: (h, w) bool.

    Areas may overlap. A centre on a border belongs to the area east or south of it, so areas that share a border
    share no cell, and a cell is in the same areas whatever tile it is looked at in. (GDAL's rasterize alone counts centres on
    a border that runs east to west twice, as on grids whose centres are at whole degrees.) On a geographic grid
    longitudes are angles: an area at -10 lies on a grid from 0 to 360.

    >>> grid = Grid("EPSG:4326", 0, 2, (1, 1), 2, 2)
    >>> [(name, mask.tolist()) for name, mask in zone_masks([Area("a", shapely.box(0, 0, 1, 1))], grid, grid.tile(0, 2))]
    [('a', [[False, False], [True, False]])]
    """
    place = grid.transform @ Affine.translation(tile.col + _EAST_SOUTH, tile.row + _EAST_SOUTH)
    left, bottom, right, top = array_bounds(tile.height, tile.width, place)
    found = []
    for area in areas:
        x_min, x_max, y_min, y_max = area.bounds
        if y_min > top or y_max < bottom:
            continue
        mask = np.zeros((tile.height, tile.width), bool)
        for turn in (-360.0, 0.0, 360.0) if grid.geographic else (0.0,):
            if x_min + turn <= right and x_max + turn >= left:
                shape = area.shape
                if shapely.get_num_coordinates(shape) > _LONG:
                    wide, tall = grid.cell
                    shape = shapely.clip_by_rect(shape, left - turn - wide, bottom - tall, right - turn + wide, top + tall)
                if not shape.is_empty:
                    moved = Affine.translation(-turn, 0) @ place
                    mask |= rasterize([shape], out_shape=mask.shape, transform=moved, dtype="uint8") == 1
        if mask.any():
            found.append((area.name, mask))
    return found


class ZoneCells(NamedTuple):
    """Zones of a tile by their cells; zones may overlap."""

    names: Sequence[str]  # (Z,) of the zones
    zone: np.ndarray  # (n,) number of a zone
    cell: np.ndarray  # (n,) number of a cell of it, in reading order

    @classmethod
    def of(cls, masks: Sequence[tuple[str, np.ndarray]]) -> "ZoneCells":
        """Return those of masks (h, w) by name."""
        cells = [np.flatnonzero(mask) for _, mask in masks]
        zone = np.repeat(np.arange(len(cells)), [len(each) for each in cells])
        return cls([name for name, _ in masks], zone, np.concatenate([*cells, np.zeros(0, np.int64)]))

    @classmethod
    def blocks(cls, wanted: np.ndarray, side: int) -> "ZoneCells":
        """Return square blocks of side x side cells of a tile, of its wanted (h, w) cells, by number in reading order.

        >>> blocks = ZoneCells.blocks(np.ones((2, 3), bool), 2)
        >>> blocks.names, blocks.zone.tolist()
        (['0', '1'], [0, 0, 1, 0, 0, 1])
        """
        height, width = wanted.shape
        down, across = -(-height // side), -(-width // side)
        zone = (np.arange(height) // side * across)[:, None] + np.arange(width) // side
        return cls([str(k) for k in range(down * across)], zone[wanted], np.flatnonzero(wanted))

    def where(self, known: np.ndarray) -> "ZoneCells":
        """Return those of the known (h, w) cells."""
        kept = known.ravel()[self.cell]
        return ZoneCells(self.names, self.zone[kept], self.cell[kept])

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sums (Z,) of values (h, w) over the cells of each zone."""
        return np.bincount(self.zone, values.ravel()[self.cell], len(self.names))


# --- true areas --------------------------------------------------------------------------------------------------


def cell_areas(grid: Grid, tile: Tile) -> np.ndarray:
    """Return the true areas of a tile's cells on the WGS84 ellipsoid, km2, float64: (h, 1) on a geographic grid, else (h, w).

    On a geographic grid they are areas in a cylindrical equal-area projection. In any other CRS corners of blocks of up to 4 cells
    (3 km) are brought to the equal-area plane of the nearer pole; the area of a block per cell is interpolated between the blocks'
    middles. Blocks are those of the whole grid, so a cell's area is the same in every tile. A cell of a block that is partly off
    the Earth, at the rim of a world map, has the area of the nearest block that is not, on its own row if there is one.

    >>> cell_areas(Grid("EPSG:4326", 0, 1, (1, 1), 1, 1), Tile(0, 0, 0, 1, 1)).round(3).tolist()
    [[12308.464]]
    """
    known = CRS.from_user_input(grid.crs)
    rows, cols = np.arange(tile.row, tile.row + tile.height + 1), np.arange(tile.col, tile.col + tile.width + 1)
    if known.is_geographic:
        latitude = np.clip(grid.y - rows * grid.cell[1], -90.0, 90.0)
        x, y = transformed("EPSG:4326", "+proj=cea +datum=WGS84", np.full(len(rows), grid.cell[0] / 2), latitude)
        return (2 * x[:-1] * -np.diff(y) / 1e6)[:, None]
    cell_km = max(grid.cell) * float(known.linear_units_factor[1]) / 1000
    step = int(min(max(_BLOCK_KM // cell_km, 1), _BLOCK_CELLS))
    (row, down), (col, right) = _between(rows[:-1], step), _between(cols[:-1], step)
    blocks = np.arange(row[0], row[-1] + 3) * step, np.arange(col[0], col[-1] + 3) * step
    nominal = grid.cell[0] * grid.cell[1] * (float(known.linear_units_factor[1]) / 1000) ** 2
    density = _filled(_quadrilaterals(grid, *blocks) / step**2, nominal)
    row, col = row - row[0], col - col[0]
    density = density[row] + down[:, None] * (density[row + 1] - density[row])
    return np.asarray(density[:, col] + right * (density[:, col + 1] - density[:, col]))


def _between(cells: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block whose middle is last before each cell's, and how far on it is to the next one, 0 to 1."""
    place = (cells + 0.5) / step - 0.5
    before = np.floor(place)
    return before.astype(np.int64), place - before


def _quadrilaterals(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return the areas, km2, between edges (R,) of rows and (C,) of columns: (R-1, C-1), NaN where a corner is off the Earth."""
    lon, lat = lonlat(grid, *np.meshgrid(rows, cols, indexing="ij"))
    km2 = np.full((len(rows) - 1, len(cols) - 1), np.nan)
    for pole, cells in ((90, lat[:-1, :-1] >= 0), (-90, lat[:-1, :-1] < 0)):
        if cells.any():
            x, y = transformed("EPSG:4326", f"+proj=laea +lat_0={pole} +datum=WGS84", lon, lat)
            (x_1, x_2), (y_1, y_2) = ((each[1:, 1:] - each[:-1, :-1], each[1:, :-1] - each[:-1, 1:]) for each in (x, y))
            km2[cells] = (np.abs(x_1 * y_2 - x_2 * y_1) / 2e6)[cells]
    return km2


def _filled(density: np.ndarray, nominal: float) -> np.ndarray:
    """Return densities (R, C) with NaN replaced by the nearest in its row, else in its column, else by `nominal`."""
    filled = density.copy()
    for lines in (filled, filled.T):  # views: most world maps change in scale with latitude alone
        for line in lines:
            known = np.flatnonzero(np.isfinite(line))
            if 0 < len(known) < len(line):
                line[:] = np.interp(np.arange(len(line)), known, line[known])
    return np.where(np.isfinite(filled), filled, nominal)


# --- sums, means and totals --------------------------------------------------------------------------------------


Array = Annotated[np.ndarray, PlainValidator(lambda given: np.asarray(given, np.float64)), PlainSerializer(np.ndarray.tolist)]
"""An array that pydantic writes as JSON and reads back, to the last bit."""


@dataclass(frozen=True)
class Sums:
    """Sums over a zone's cells, of one tile or of many."""

    cells: int  # how many have a value
    area: float  # theirs, km2
    # (M,) float64: the sum of values times km2, of each member of an ensemble, or with each drawn field of error
    weighted: Array
    mapped: float = math.nan  # the same of the map itself
    # sum of the deviations of an error field times km2, of the period, or of the first and the last of a change; () without
    spread: tuple[float, ...] = ()
    square: float = 0.0  # sum of the variances of single cells times km2 squared; 0 without
    members: tuple[float, ...] = ()  # sums like `weighted` of an ensemble's members, where `weighted` has drawn errors; () without
    # lower and upper end of the interval of the only cell; None if there are more, or it has none
    ends: tuple[float, float] | None = None

    def __add__(self, other: "Sums") -> "Sums":
        assert self.weighted.shape == other.weighted.shape  # numpy would repeat a single member
        spread, members = (
            tuple(left + right for left, right in zip(*pair, strict=True))
            for pair in ((self.spread, other.spread), (self.members, other.members))
        )
        first = self.cells + other.cells, self.area + other.area, self.weighted + other.weighted, self.mapped + other.mapped
        return Sums(*first, spread, self.square + other.square, members)


def sums(values: np.ndarray, km2: np.ndarray, zones: ZoneCells) -> dict[str, Sums]:
    """Return the sums of a tile, of the zones that have cells with a value in it.

    Values are (M, h, w) of M members; a cell with NaN in any has no value. `km2` is that of `cell_areas`.
    """
    known = np.isfinite(values).all(axis=0)
    km2, zones = np.broadcast_to(km2, known.shape), zones.where(known)
    count, area = np.bincount(zones.zone, minlength=len(zones.names)), zones.sum(km2)
    weighted = np.stack([zones.sum(member * km2.astype(np.float64)) for member in values], axis=-1)
    return {
        zones.names[k]: Sums(int(count[k]), float(area[k]), weighted[k], float(weighted[k].mean()))
        for k in np.flatnonzero(count).tolist()
    }


def add(left: Mapping[str, Sums], right: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return the sums of two parts of a map together."""
    return {**left, **{name: left[name] + part if name in left else part for name, part in right.items()}}


@dataclass(frozen=True)
class Estimation:
    """How the mean of a map and its interval are made of sums."""

    level: float = 0.9  # of the interval
    # standard error of the error model's mean, `ErrorField.standard_error`; None: there is no error model
    least: float | None = None
    biases: tuple[np.ndarray, ...] = ()  # `ErrorField.biases` of a weight of 1, (M,) of each period that `Sums.spread` has
    # standard deviation of an error that all measurements share: of the unit, and as a share of the mean
    shared: tuple[float, float] = (0.0, 0.0)
    signed: bool = False  # values may be below 0, as those of a change

    def mean(self, part: Sums) -> ArealMean:
        """Return the mean of a zone with its interval: of a single cell that of the cell."""
        if not part.area > 0:
            return ArealMean(np.nan, np.nan, np.nan)
        mapped = part.mapped / part.area
        if part.cells == 1 and part.ends is not None:
            return ArealMean(mapped, *part.ends)
        drawn, tails = part.weighted / part.area, [(1 - self.level) / 2, (1 + self.level) / 2]
        absolute, share = self.shared
        shared = float(np.hypot(0.0 if self.signed else absolute, share * mapped))
        if self.least is None:
            lower, upper = np.quantile(drawn, tails) if len(drawn) > 1 else (np.nan, np.nan)
            return ArealMean(float(drawn.mean()), float(lower), float(upper))
        spread = np.array(part.spread) / part.area
        biases = spread @ np.stack(self.biases) if self.biases else None
        return areal_mean(
            mapped,
            drawn,
            level=self.level,
            variance=part.square / part.area**2,
            least=0.0 if self.signed else self.least * float(spread.mean()),  # most of it cancels in a change
            signed=self.signed,
            biases=biases,
            shared=shared,
        )


def totals(
    parts: Iterable[Mapping[str, Sums]],
    unit: str,
    order: Sequence[str],
    how: Estimation = Estimation(),  # noqa: B008 - frozen
    largest: float | None = None,
) -> pd.DataFrame:
    """Return the area-weighted mean and the total of each zone, with intervals.

    Of a map with an error model (`stats.error_field`) the mean is corrected for the bias that held-out profiles show, and the
    interval is that of `stats.areal_mean`. Of an ensemble without one it runs from quantile to quantile of the members' own means:
    the errors of an ensemble are shared by neighbouring cells, so the lower bounds of cells may not be summed to the lower bound of
    a zone; it describes the ensemble's spread only. A zone of a single cell has the interval of that cell.

    A total is a mass, if the unit is a mass per area (kg/m2, t ha-1 ...): in t, kt, Mt or Pg, whatever suits the largest zone, or
    the mass `largest` in Mt, where several tables are to have the same unit. Of any other unit (g/kg is a concentration) there is
    none: a mass takes bulk density and depth.

    Parts are the sums of all tiles, in an order that is the same in every run: then so is the last digit. Rows follow `order`, the
    names of all zones. Columns are zone, cells, area_km2 (of the cells with a value), mean, mean_lower, mean_upper, mean_unit,
    map_mean (of the map as it is), total, total_lower, total_upper, total_unit; with an error model variance, of the mean, and
    variance_bias, _correlated, _cells, _shared, _floor, which add up to it (`stats.areal_mean.Variances`); of an ensemble
    variance_members, that of its members' own means. Without cells: cells and area 0, the rest NaN. One member: the bounds NaN. No
    mass: totals NaN.
    """
    whole: dict[str, Sums] = reduce(add, parts, {})
    unknown = sorted(set(whole) - set(order))
    assert not unknown, unknown
    unit = unit.strip()
    mass = mass_of(unit)
    mass_unit, megatonnes = total_unit(largest if largest is not None else largest_mass([whole], unit))
    units = {"mean_unit": unit, "total_unit": mass_unit if mass else ""}
    rows = []
    for name in order:
        part = whole.get(name, Sums(0, 0.0, np.array([np.nan])))
        mean = how.mean(part)
        scale = part.area * mass / megatonnes if mass else np.nan
        row = {
            "zone": name,
            "cells": part.cells,
            "area_km2": part.area,
            "map_mean": part.mapped / part.area if part.area else np.nan,
        }
        total = ArealMean(mean.mean * scale, mean.lower * scale, mean.upper * scale)
        rows.append(row | _named("mean", mean) | _named("total", total) | units | _budget(part, mean))
    columns = [f"{what}{end}" for what in ("mean", "total") for end in ("", "_lower", "_upper", "_unit")]
    columns.insert(4, "map_mean")
    columns += VARIANCES if how.least is not None else []
    columns += [_OF_MEMBERS] if any(_OF_MEMBERS in row for row in rows) else []
    return pd.DataFrame(rows, columns=["zone", "cells", "area_km2", *columns])


VARIANCES = ["variance", *(f"variance_{each.name}" for each in fields(Variances))]
"""Columns of the variance of a mean and of its sources, which add up to it."""
_OF_MEMBERS = "variance_members"


def _budget(part: Sums, mean: ArealMean) -> dict[str, float]:
    """Return the variances of a mean by their column."""
    members = part.members if mean.variances is not None else tuple(part.weighted)
    found = {_OF_MEMBERS: float(np.var(np.array(members) / part.area, ddof=1))} if len(members) > 1 and part.area else {}
    if mean.variances is not None:
        found |= dict(zip(VARIANCES, (mean.variances.total, *astuple(mean.variances)), strict=True))
    return found


def _named(name: str, mean: ArealMean) -> dict[str, float]:
    return {name: mean.mean, f"{name}_lower": mean.lower, f"{name}_upper": mean.upper}


def largest_mass(parts: Iterable[Mapping[str, Sums]], unit: str) -> float:
    """Return the mass of the largest zone in Mt; 0 where the unit is not that of a mass per area."""
    whole: dict[str, Sums] = reduce(add, parts, {})
    return max((abs(part.mapped) * (mass_of(unit) or 0.0) for part in whole.values()), default=0.0)


def total_unit(largest: float) -> tuple[str, float]:
    """Return the unit that suits a mass in Mt, and how many Mt it is.

    >>> [total_unit(mass)[0] for mass in (0.0005, 0.5, 20.0, 5000.0)]
    ['t', 'kt', 'Mt', 'Pg']
    """
    return next(
        (unit, size) for unit, size in (("Pg", 1e3), ("Mt", 1.0), ("kt", 1e-3), ("t", 1e-6)) if largest >= size or unit == "t"
    )


def mass_of(unit: str) -> float | None:
    """Return the factor from a unit of mass per area to Mt/km2; None for any other unit."""
    text = unit.strip().translate(str.maketrans("⁰¹²³⁻−·⋅", "0123--  "))
    found = _PER_SURFACE.fullmatch(text)
    if found is None:
        return None
    return _MASS[found["mass"]] / _SURFACE[found["square"] or found["inverse"] or "ha"]
