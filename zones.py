"""Areas of interest and zones of a vector file on a map's grid: masks of tiles, true cell areas, means and totals.

In: polygons of any vector file, a grid, and the maps of an ensemble's members, tile by tile. Out: one row per zone.
Many processes may share the work: the polygons are read once (that alone needs geopandas) and kept as JSON in the
grid's CRS; a tile yields `Sums`, which are added up at the end.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from config import nearest
from files import UserError, must_exist, write_text
from grids import Bounds, Grid, Tile, lonlat, short_name

log = getLogger(__name__)

_AXIS = 6378.137
_ECCENTRICITY = math.sqrt((2 - 1 / 298.257223563) / 298.257223563)
"""Of the WGS84 ellipsoid, whose semi-major axis is given in km."""
_BLOCK_KM = 25.0
_BLOCK_CELLS = 32
"""In a projected CRS true areas are taken of blocks no larger than this, and interpolated."""
_TOGETHER = 8
"""Places are looked for off the Earth one call for so many: a call takes up to 7 ms."""
_STEP_DEGREES = 0.1
_STEP_METRES = 10_000.0
"""Vertices along an edge that is brought to another CRS: a chord of 10 km leaves a great circle by 2 m."""
_STEPS = 20_000
"""... but no more than this across a file's extent."""
_HAIR = 1e-6
"""Degrees by which longitudes may pass 180 from rounding."""
_POLYGON, _MULTIPOLYGON = "Polygon", "MultiPolygon"
_NAMES = ("name", "zone", "region", "id", "code")
"""Words of the columns that may name areas, in order of preference."""
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


# --- areas -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Area:
    """A named area.

    Attributes
    ----------
    name
        Unique among the areas of a file.
    geometry
        A GeoJSON Polygon or MultiPolygon in the CRS of the grid it is used on. Longitudes may pass 180.
    """

    name: str
    geometry: dict[str, Any]

    @cached_property
    def edges(self) -> np.ndarray:
        """All edges but those along x: (E, 4) x and y of the end with the larger y, then of the other."""
        polygons = self.geometry["coordinates"]
        rings = polygons if self.geometry["type"] == _POLYGON else [ring for polygon in polygons for ring in polygon]
        ends = [np.asarray(ring, np.float64)[:, :2] for ring in rings]
        edges = np.concatenate([np.empty((0, 4)), *(np.hstack([ring[:-1], ring[1:]]) for ring in ends)])
        # One order of the two ends: neighbours then find the same crossings on the border they share.
        edges = np.where(edges[:, 1:2] < edges[:, 3:4], edges[:, [2, 3, 0, 1]], edges)
        return edges[edges[:, 1] > edges[:, 3]]

    @cached_property
    def bounds(self) -> Bounds:
        """The extent; minimum above maximum if there is no ground at all."""
        if not len(self.edges):
            return math.inf, -math.inf, math.inf, -math.inf
        x, y = self.edges[:, 0::2], self.edges[:, 1::2]
        return float(x.min()), float(x.max()), float(y.min()), float(y.max())


def read_areas(path: Path, crs: str, column: str | None = None) -> tuple[list[Area], Bounds]:
    """Read the polygons of a vector file.

    Geometries that are not valid (a ring that crosses itself) are repaired. Edges get vertices every 10 km before they
    are brought to another CRS, so that a long straight border stays where it is. Polygons that the CRS cannot hold
    (a pole in Mercator) are left out. All this is said by the log.

    Parameters
    ----------
    path
        Any format geopandas reads; of several layers the first.
    crs
        Of the grid: anything rasterio understands.
    column
        Names the areas; rows of one name are one area. Default: a column with a word like name, zone, id or code in
        its own name and no gaps; without any, areas are numbered from 1.

    Returns
    -------
    areas : list of Area
        In `crs`, in the order of the file.
    bounds : tuple
        Their extent in EPSG:4326, within -180 to 180: all longitudes if they cross the antimeridian.

    Raises
    ------
    UserError
        If geopandas is not installed, the file is missing, unreadable or empty, has no CRS or no polygons, or the
        column is unknown or has gaps.
    """
    try:
        import geopandas
        import shapely  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f"{path}: reading areas needs geopandas: pip install 'geopandas>=1.0'") from error
    frame = _read(path, geopandas)
    kinds = frame.geom_type.where(~frame.is_empty).fillna("row without geometry")
    usable = kinds.isin([_POLYGON, _MULTIPOLYGON]).to_numpy()
    others = ", ".join(f"{count} {kind}" for kind, count in kinds[~usable].value_counts().items())
    if not usable.any():
        raise UserError(f"{path}: holds no polygons, but {others}; areas are polygons")
    if others:
        log.info("%s: left out what is no polygon: %s", path.name, others)
    frame = frame[usable]
    names = _area_names(frame.drop(columns=frame.geometry.name), path, column)
    invalid = int((~frame.is_valid).sum())
    if invalid:
        log.info("%s: %d of %d geometries were not valid (a ring crosses itself?) and are repaired", path.name, invalid, len(frame))
    rows = frame.geometry.force_2d().make_valid().to_numpy()
    groups = pd.Series(range(len(names))).groupby(names, sort=False).indices
    whole = geopandas.GeoSeries([shapely.union_all(_polygons(rows[k], shapely)) for k in groups.values()], crs=frame.crs)

    placed = _reproject(whole, crs, path, shapely)
    areas = [Area(str(name), _geojson(polygons)) for name, polygons in zip(groups, placed, strict=True)]
    extent = shapely.total_bounds(np.concatenate(_reproject(whole, "EPSG:4326", path, shapely)))
    if not any(len(area.edges) for area in areas) or not np.isfinite(extent).all():
        raise UserError(f"{path}: none of its areas can be brought to {short_name(crs)}; give the map another CRS or other areas")
    return areas, _extent(extent)


def _read(path: Path, geopandas: Any) -> Any:
    """Return a vector file's first layer as a GeoDataFrame with rows and a CRS."""
    if not path.exists():
        raise UserError(f"{path}: no such file of areas")
    if path.is_file():
        with path.open("rb") as file:
            if b"<OGR" in file.read(4096):  # GDAL would open what it points to, on the network too
                raise UserError(f"{path}: only points to other files; give the vector file itself")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            frame = geopandas.read_file(path)
    except Exception as error:  # whichever library reads it, with errors of its own
        raise UserError(f"{path}: not readable as a vector layer ({' '.join(str(error).split())[:150]})") from error
    for warning in said:
        log.info("%s: %s", path.name, " ".join(str(warning.message).split())[:200])
    if not len(frame):
        raise UserError(f"{path}: holds no rows; areas are polygons")
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise UserError(f"{path}: its first layer has no geometry; areas are polygons")
    if frame.crs is None:
        raise UserError(f"{path}: has no coordinate reference system; set it first (ogr2ogr -a_srs EPSG:... out.gpkg {path.name})")
    x_min, y_min, x_max, y_max = frame.total_bounds
    if frame.crs.is_geographic and (max(abs(y_min), abs(y_max)) > 90 + _HAIR or max(abs(x_min), abs(x_max)) > 540):
        shown = f"x {x_min:.6g} to {x_max:.6g}, y {y_min:.6g} to {y_max:.6g}"
        raise UserError(f"{path}: says it is in degrees, but reaches from {shown}; set its true coordinate reference system")
    return frame


def _area_names(table: pd.DataFrame, path: Path, column: str | None) -> np.ndarray:
    """Return each row's name (N,), text."""
    columns = [str(name) for name in table.columns]
    table = table.set_axis(columns, axis=1)
    if column is not None and column not in columns:
        has = ", ".join(map(repr, columns[:12])) or "none"
        raise UserError(f"{path}: no column {column!r}{nearest(column, columns)}; it has {has}")
    if column is None:
        exact = [(word, name) for word in _NAMES for name in columns if name.lower() == word]
        within = [(word, name) for word in _NAMES for name in columns if word in re.split(r"[\W_]+", name.lower())]
        liked = sorted(exact + within, key=lambda choice: _NAMES.index(choice[0]))  # stable: exact before within
        column = next((name for _, name in liked if all(map(_text, table[name]))), None)
        log.info("%s: areas are named by %s", path.name, "their number" if column is None else f"column {column!r}")
    if column is None:
        return np.array([str(k) for k in range(1, len(table) + 1)], object)
    names = np.array([_text(value) for value in table[column]], object)
    gaps = np.flatnonzero(names == "")
    if len(gaps):
        raise UserError(
            f"{path}: column {column!r} is empty in {len(gaps)} of {len(names)} areas, first in number {gaps[0] + 1}; name them all"
        )
    return names


def _text(value: Any) -> str:
    """Return a value of a column as a name, "" for a missing one; whole numbers that a gap made 1.0 are 1."""
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _polygons(geometries: Any, shapely: Any) -> np.ndarray:
    """Return the single polygons among geometries and their parts; what a repair left as lines is dropped."""
    parts = shapely.get_parts(shapely.get_parts(geometries))  # twice: collections hold multipolygons
    return parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]


def _geojson(polygons: np.ndarray) -> dict[str, Any]:
    rings = [[np.asarray(ring.coords).tolist() for ring in (part.exterior, *part.interiors)] for part in polygons]
    return {"type": _MULTIPOLYGON, "coordinates": rings}


def _reproject(areas: Any, crs: str, path: Path, shapely: Any) -> list[np.ndarray]:
    """Return the polygons of each geometry of a GeoSeries in another CRS."""
    known = areas.crs
    if known.equals(crs, ignore_axis_order=True):
        return [_polygons(geometry, shapely) for geometry in areas]
    unit = known.axis_info[0].unit_conversion_factor  # radians or metres
    x_min, y_min, x_max, y_max = areas.total_bounds
    step = math.radians(_STEP_DEGREES) / unit if known.is_geographic else _STEP_METRES / unit
    dense = areas.segmentize(max(step, (x_max - x_min) / _STEPS, (y_max - y_min) / _STEPS))
    try:
        moved = dense.to_crs(crs)
    except Exception as error:  # of pyproj, which only geopandas brings
        raise UserError(f"{path}: cannot be brought from {known.name!r} to {short_name(crs)}; reproject it first") from error
    placed = [_polygons(geometry, shapely) for geometry in moved]
    whole = [[bool(np.isfinite(shapely.get_coordinates(part)).all()) for part in parts] for parts in placed]
    lost = sum(len(kept) - sum(kept) for kept in whole)
    if lost:
        log.info("%s: %d polygons reach beyond what %s can hold and are left out", path.name, lost, short_name(crs))
    placed = [parts[np.array(kept, bool)] for parts, kept in zip(placed, whole, strict=True)]
    if CRS.from_user_input(crs).is_geographic:
        placed = [_polygons(np.array([_unwrap(part, shapely) for part in parts], object), shapely) for parts in placed]
    return placed


def _unwrap(polygon: Any, shapely: Any) -> Any:
    """Return a polygon in degrees whose rings do not jump at the antimeridian but go on, round a pole up to it."""
    rings = [np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
    if all(np.abs(np.diff(ring[:, 0])).max() < 180 for ring in rings):
        return polygon
    filled = []
    for ring in rings:
        lon, lat = np.unwrap(ring[:, 0], period=360), ring[:, 1]
        if abs(lon[-1] - lon[0]) > 180:
            pole = math.copysign(90, lat.mean())
            lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
        filled.append(shapely.make_valid(shapely.Polygon(np.column_stack([lon, lat]))))
    outer, *holes = filled
    turned = [shapely.transform(hole, lambda xy, turn=turn: xy + (turn, 0)) for hole in holes for turn in range(-720, 721, 360)]
    return shapely.difference(outer, shapely.union_all(turned))


def _extent(total: Sequence[float]) -> Bounds:
    """Return the extent of x_min, y_min, x_max, y_max in degrees, within -180 to 180."""
    x_min, y_min, x_max, y_max = map(float, total)
    turn = 360.0 * math.floor((x_min + 180 + _HAIR) / 360)
    x_min, x_max = x_min - turn, x_max - turn
    return (max(x_min, -180.0), min(x_max, 180.0), y_min, y_max) if x_max <= 180 + _HAIR else (-180.0, 180.0, y_min, y_max)


def write_areas(path: Path, areas: Sequence[Area]) -> None:
    """Write areas as JSON, atomically, coordinates exactly as they are."""
    # One line: indented, each number of a coastline would stand in its own.
    write_text(path, json.dumps([{"name": area.name, "geometry": area.geometry} for area in areas], allow_nan=False) + "\n")


def load_areas(path: Path) -> list[Area]:
    """Return what `write_areas` wrote; UserError if there is no such file."""
    must_exist(path, "file of areas")
    return [Area(**area) for area in json.loads(path.read_text(encoding="utf-8"))]


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
    share no cell, and a cell is in the same areas whatever tile it is looked at in. (GDAL's rasterize counts centres on
    a border that runs east to west twice, as on grids whose centres are at whole degrees.) On a geographic grid
    longitudes are angles: an area at -10 lies on a grid from 0 to 360.
    """
    turns = (-360.0, 0.0, 360.0) if grid.geographic else (0.0,)
    left, top = grid.x + tile.col * grid.cell[0], grid.y - tile.row * grid.cell[1]
    right, bottom = left + tile.width * grid.cell[0], top - tile.height * grid.cell[1]
    found = []
    for area in areas:
        x_min, x_max, y_min, y_max = area.bounds
        if y_min > top or y_max < bottom:
            continue
        masks = [_mask(area.edges, grid, tile, turn) for turn in turns if x_min + turn <= right and x_max + turn >= left]
        mask = np.logical_or.reduce(masks) if masks else np.zeros(0, bool)
        if mask.any():
            found.append((area.name, mask))
    return found


def _mask(edges: np.ndarray, grid: Grid, tile: Tile, turn: float) -> np.ndarray:
    """Return the cells (h, w) whose centre has an odd number of edges (E, 4), moved by `turn`, to its west."""
    top, right = grid.y - tile.row * grid.cell[1], grid.x + (tile.col + tile.width) * grid.cell[0] - turn
    near = (edges[:, 1] >= top - tile.height * grid.cell[1]) & (edges[:, 3] <= top) & (edges[:, 0::2].min(axis=1) <= right)
    # In cells from the grid's corner, not the tile's: every tile finds the same crossings to the last bit.
    col_1, col_2 = ((edges[near, k] + turn - grid.x) / grid.cell[0] for k in (0, 2))
    row_1, row_2 = ((grid.y - edges[near, k]) / grid.cell[1] for k in (1, 3))
    first, last = (np.ceil(row - 0.5).clip(tile.row, tile.row + tile.height).astype(np.int64) for row in (row_1, row_2))
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (col_2 - col_1)[edge] / (row_2 - row_1)[edge]
    crossing = col_1[edge] + (row + 0.5 - row_1[edge]) * slope
    col = (np.ceil(crossing - 0.5) - tile.col).clip(0, tile.width).astype(np.int64)
    across = tile.width + 1
    crossings = np.bincount((row - tile.row) * across + col, minlength=tile.height * across).reshape(tile.height, across)
    return np.cumsum(crossings, axis=1)[:, : tile.width] % 2 == 1


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
    lon, lat = _lonlat(grid, *(index.ravel() for index in np.meshgrid(rows, cols, indexing="ij")))
    known = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90)
    lon, lat = np.where(known, np.radians(lon), np.nan), np.where(known, lat, np.nan)
    height = _authalic_sine(lat).clip(-1, 1)
    width = np.sqrt(1 - height**2)
    corner = np.stack([width * np.cos(lon), width * np.sin(lon), height], axis=-1).reshape(len(rows), len(cols), 3)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    return _SQUARE_RADIUS * np.abs(_excess(a, b, c) + _excess(a, c, d))


def _lonlat(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return longitude and latitude (2, n) of places, NaN off the Earth and at a few places next to it."""
    try:
        return np.stack(lonlat(grid, rows, cols))
    except (CPLE_BaseError, RasterioError):  # one place off the Earth fails them all
        if len(rows) <= _TOGETHER:
            return np.full((2, len(rows)), np.nan)
        half = len(rows) // 2
        return np.hstack([_lonlat(grid, rows[part], cols[part]) for part in (slice(half), slice(half, None))])


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
    mass = _tg_per_km2(unit)
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
    lower, upper = np.quantile(members, [0.05, 0.95]) if len(members) > 1 else (np.nan, np.nan)
    return {name: float(members.mean()), f"{name}_lower": float(lower), f"{name}_upper": float(upper)}


def _tg_per_km2(unit: str) -> float | None:
    """Return how many Tg/km2 a unit of mass per area is; None of any other unit."""
    text = unit.strip().translate(str.maketrans("⁰¹²³⁻−·⋅", "0123--  "))
    found = _PER_SURFACE.fullmatch(text)
    if found is None:
        return None
    return _MASS[found["mass"]] / _SURFACE[found["square"] or found["inverse"] or "ha"]
