"""Terrain derivatives of a digital elevation model: slope, aspect, topographic wetness.

In: elevations on a grid of metres or degrees. Out: slope, aspect, northness, eastness and twi, missing = NaN.

    from soilcarbon.zonal.terrain import write_terrain
    write_terrain(Path("dem.tif"), Path("covariates/terrain.tif"))

The whole raster is held in memory, and filling its depressions takes one core some 5 s per million cells. Water that enters
across the raster's edge is not known of: give it a margin of whole catchments, and cut that off afterwards. A raster that
goes round the Earth is not joined at its seam.
"""

import heapq
import math
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from soilcarbon.geo.grid import Grid, raster_grid
from soilcarbon.geo.raster import check_filled, check_size, find_layers, write_geotiff
from soilcarbon.geo.stack import Stack
from soilcarbon.io.files import UserError

UNITS = {"slope": "degrees", "aspect": "degrees", "northness": "1", "eastness": "1", "twi": "ln(m)"}
"""Derivative -> unit, in the order of bands written."""
_AXIS = 6_378_137.0
_ECCENTRICITY_SQUARED = (2 - 1 / 298.257223563) / 298.257223563
"""Of the WGS84 ellipsoid, whose semi-major axis is given in metres."""
_GENTLEST = 1e-3
"""A gradient below this, a metre in a kilometre, counts as this: wetness would else be endless on flat land."""
DEEPEST, HIGHEST = -500.0, 9000.0
"""Metres between which land lies."""
_HAIR = 1e-6
"""Degrees."""
_STEPS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
"""Rows and columns to the eight neighbours."""


def cell_metres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return how wide and how high the cells of each row are on the ground, (H,) and (H,) metres.

    On a geographic grid they are taken on the WGS84 ellipsoid at the middle of the row. In a projection they are the
    nominal ones: its distortion is not corrected, so do not give it a world Mercator.
    """
    known = CRS.from_user_input(grid.crs)
    if not known.is_geographic:
        unit = float(known.linear_units_factor[1])
        return np.full(grid.height, grid.cell[0] * unit), np.full(grid.height, grid.cell[1] * unit)
    latitude = np.radians(grid.y - (np.arange(grid.height) + 0.5) * grid.cell[1])
    curved = 1 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2
    across, along = _AXIS / np.sqrt(curved), _AXIS * (1 - _ECCENTRICITY_SQUARED) / curved**1.5
    return across * np.cos(latitude) * math.radians(grid.cell[0]), along * math.radians(grid.cell[1])


def gradient(elevation: np.ndarray, wide: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rise towards east and towards north (H, W), metres per metre.

    Of the eight neighbours, weighted (Horn 1981, Proc. IEEE 69, 14-47); NaN along the edge and beside a missing cell.

    Parameters
    ----------
    elevation
        (H, W) metres, north up, missing = NaN.
    wide, high
        (H,) metres, of each row's cells.
    """
    z = np.pad(np.asarray(elevation, np.float64), 1, constant_values=np.nan)
    height, width = np.shape(elevation)
    part = {(i, j): z[1 + i : height + 1 + i, 1 + j : width + 1 + j] for i, j in [*_STEPS, (0, 0)]}
    # A weight of 0 tells nothing but that its cell is missing: 0 * NaN is NaN.
    east = sum((2 - abs(i)) * j * cells for (i, j), cells in part.items()) / (8 * wide[:, None])
    north = sum((2 - abs(j)) * -i * cells for (i, j), cells in part.items()) / (8 * high[:, None])
    return np.asarray(east), np.asarray(north)


def fill_depressions(elevation: np.ndarray) -> np.ndarray:
    """Return elevations (H, W) from every cell of which water runs downhill to the edge or to a missing cell.

    Cells are raised as little as float64 allows, in the order in which water rising from outside would reach them, and
    flats get a slope of rounding size towards their outlet (priority flood with epsilon: Barnes et al. 2014, Comput.
    Geosci. 62, 117-127). So a lake that lies within the land drains; a missing cell, sea for instance, is an outlet.
    """
    height, width = elevation.shape
    row = width + 2
    z = np.pad(np.asarray(elevation, np.float64), 1, constant_values=np.nan)
    unknown = np.isnan(z)
    outlet = ~unknown[1:-1, 1:-1] & np.logical_or.reduce(
        [unknown[1 + i : height + 1 + i, 1 + j : width + 1 + j] for i, j in _STEPS]
    )
    level, done = z.ravel().tolist(), bytearray(unknown.ravel().tobytes())
    heap = [(level[k], k) for k in np.flatnonzero(np.pad(outlet, 1)).tolist()]
    for _, k in heap:
        done[k] = 1
    heapq.heapify(heap)
    steps = [i * row + j for i, j in _STEPS]
    while heap:
        lowest, k = heapq.heappop(heap)
        above = math.nextafter(lowest, math.inf)
        for step in steps:
            near = k + step
            if not done[near]:
                done[near] = 1
                level[near] = max(level[near], above)
                heapq.heappush(heap, (level[near], near))
    return np.array(level).reshape(z.shape)[1:-1, 1:-1]


def receivers(filled: np.ndarray, wide: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the cell (H * W,) int64 each cell drains to, in reading order; -1 where water leaves, or nothing is known.

    The steepest way down among eight (D8: O'Callaghan and Mark 1984, Comput. Vis. Graph. Image Process. 28, 323-344).
    """
    height, width = filled.shape
    z = np.pad(filled, 1, constant_values=np.nan)
    steepest, receiver = np.zeros(filled.shape), np.full(filled.shape, -1, np.int64)
    own = np.arange(filled.size).reshape(filled.shape)
    for i, j in _STEPS:
        metres = np.hypot(j * wide, i * high)[:, None]
        drop = (filled - z[1 + i : height + 1 + i, 1 + j : width + 1 + j]) / metres
        better = drop > steepest  # NaN is not
        steepest[better], receiver[better] = drop[better], (own + i * width + j)[better]
    return receiver.ravel()


def accumulate(receiver: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the area (n,) that drains through each cell, its own included.

    Parameters
    ----------
    receiver
        (n,) as of `receivers`, without a cycle.
    area
        (n,) of each cell, any unit.
    """
    total, drains = np.array(area, np.float64), receiver >= 0
    waiting = np.bincount(receiver[drains], minlength=len(receiver))
    ready = np.flatnonzero((waiting == 0) & drains)
    while ready.size:  # all cells whose own inflow is known, at once
        below = receiver[ready]
        np.add.at(total, below, total[ready])
        np.subtract.at(waiting, below, 1)
        below = np.unique(below)
        ready = below[(waiting[below] == 0) & drains[below]]
    return total


def derive(elevation: np.ndarray, wide: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    """Return the derivatives of `UNITS`, each (H, W) float64; all are NaN along the edge and beside a missing cell.

    slope: degrees. aspect: the direction the land falls to, degrees clockwise from north; NaN where it is level.
    northness, eastness: its cosine and sine, 0 where it is level; they have no jump at north, so give a model these.
    twi: ln(a / tan(slope)), a the drained area per metre of contour (Beven and Kirkby 1979, Hydrol. Sci. Bull. 24,
    43-69), with D8 flow over filled depressions, a contour as wide as the square root of the cell's area, and the slope of
    the land as it is, at least 1 in 1000.

    Parameters
    ----------
    elevation, wide, high
        As of `gradient`.

    Raises
    ------
    ValueError
        If elevation is no grid, or there is not one cell size for each of its rows.
    """
    elevation = np.asarray(elevation, np.float64)
    if elevation.ndim != 2 or wide.shape != high.shape or wide.shape != elevation.shape[:1]:
        raise ValueError(f"elevation {elevation.shape}, wide {wide.shape}, high {high.shape}: expected (H, W), (H,) and (H,)")
    east, north = gradient(elevation, wide, high)
    steepness, level = np.hypot(east, north), (east == 0) & (north == 0)
    aspect = np.degrees(np.arctan2(-east, -north)) % 360
    area = np.broadcast_to((wide * high)[:, None], elevation.shape)
    drained = accumulate(receivers(fill_depressions(elevation), wide, high), area.ravel()).reshape(elevation.shape)
    return {
        "slope": np.degrees(np.arctan(steepness)),
        "aspect": np.where(level, np.nan, aspect),
        "northness": np.where(level, 0.0, np.cos(np.radians(aspect))),
        "eastness": np.where(level, 0.0, np.sin(np.radians(aspect))),
        "twi": np.log(drained / np.sqrt(area) / np.maximum(steepness, _GENTLEST)),
    }


def write_terrain(dem: Path, out: Path) -> None:
    """Write the derivatives of a raster's elevations as a GeoTIFF on its own grid, a band each.

    Parameters
    ----------
    dem
        GeoTIFF of one band, metres.
    out
        The file to write.

    Raises
    ------
    UserError
        If the raster cannot be read, has several bands or no CRS, is rotated or too large, reaches beyond a pole, holds
        what is no elevation, or no cell has all its neighbours.
    """
    layers = find_layers([dem])
    if len(layers) != 1:
        raise UserError(f"{dem}: holds {len(layers)} bands; elevations alone are needed")
    grid = raster_grid(layers[0].path)
    check_size(grid.height, grid.width, dem)
    south, north = grid.y - grid.height * grid.cell[1], grid.y
    if CRS.from_user_input(grid.crs).is_geographic and max(north, -south) > 90 + _HAIR:
        raise UserError(
            f"{dem}: reaches from {south:g} to {north:g} degrees of latitude; set its true place (gdal_edit.py -a_ullr)"
        )
    with Stack(layers, grid) as stack:
        elevation = stack.read(0, 0, grid.height, grid.width)[0]
    strange = elevation[(elevation < DEEPEST) | (elevation > HIGHEST)]
    if strange.size:
        raise UserError(
            f"{dem}: {strange.size} cells from {strange.min():g} to {strange.max():g} are no elevations in metres; "
            "declare what is missing (gdal_edit.py -a_nodata VALUE)"
        )
    found = derive(elevation, *cell_metres(grid))
    whole = np.stack(list(found.values()))
    check_filled(whole, dem, "a cell needs its eight neighbours")
    write_geotiff(out, whole, list(found), grid.transform, grid.crs, list(UNITS.values()))
