"""Covariates made from rasters: spectral indices of reflectance, terrain derivatives of elevation, climate zones.

In: reflectance bands, elevations in metres on a grid of metres or degrees, or climate. Out: arrays, or a GeoTIFF with a band for
each result on the grid of the input (`write_indices`, `write_terrain`, `write_zones`); missing = NaN. Rasters are held in memory.
"""

import heapq
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from pyproj import Geod
from rasterio.crs import CRS

from soilcarbon.geo.grid import Grid, lonlat, raster_grid
from soilcarbon.geo.plausibility import ask_about_fill_values
from soilcarbon.geo.raster import Layer, check_filled, check_size, find_layers, pick_layers, write_geotiff
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError
from soilcarbon.progress import Progress
from soilcarbon.zonal.climate_zones import ClimateVariable, ClimateZones, log_zones, zones_of


def _read(layers: Sequence[Layer]) -> tuple[Grid, np.ndarray]:
    """Return the grid of the first layer's file, and the layers on it, (V, H, W); UserError if it cannot be read or held."""
    grid = raster_grid(layers[0].path)
    check_size(grid.height, grid.width, layers[0].path)
    with Stack(layers, grid) as stack:
        return grid, stack.read(0, 0, grid.height, grid.width)


def _write(out: Path, bands: Mapping[str, np.ndarray], grid: Grid, source: Path, hint: str, units: Sequence[str] = ()) -> None:
    """Write name -> (H, W) as bands of a GeoTIFF; UserError with a hint if every cell is missing."""
    whole = np.stack(list(bands.values()))
    check_filled(whole, source, hint)
    write_geotiff(out, whole, list(bands), grid.transform, grid.crs, list(units) or None)


# --- spectral indices --------------------------------------------------------------------------------------------------

BANDS = ("blue", "red", "nir", "swir1")
"""About 0.48, 0.66, 0.85 and 1.6 micrometres: Landsat TM and ETM+ bands 1, 3, 4, 5; OLI 2, 4, 5, 6; MODIS 3, 1, 2, 6."""
SCALES = {"reflectance": (1.0, 0.0), "landsat_collection_2": (2.75e-5, -0.2), "ten_thousandths": (1e-4, 0.0)}
"""Name -> factor and offset: reflectance = factor * stored + offset. Landsat Collection 2 Level-2 (USGS, LSDS-1619);
MODIS MOD09, Landsat Collection 1 and Sentinel-2 before January 2022 store ten-thousandths."""


def _normalised(more: np.ndarray, less: np.ndarray) -> np.ndarray:
    return np.asarray((more - less) / (more + less))


def _evi(blue: np.ndarray, red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    below = nir + 6.0 * red - 7.5 * blue + 1.0
    return np.asarray(2.5 * (nir - red) / np.where(below > 0, below, np.nan))  # below 0: cloud or snow


INDICES: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "ndvi": (("nir", "red"), _normalised),
    "bsi": (BANDS, lambda blue, red, nir, swir1: _normalised(swir1 + red, nir + blue)),
    "evi": (("blue", "red", "nir"), _evi),
    "savi": (("red", "nir"), lambda red, nir: (1 + 0.5) * (nir - red) / (nir + red + 0.5)),
    "lswi": (("nir", "swir1"), _normalised),
}
"""Name -> bands, and the formula that takes them in this order; in the order of the bands written.
Vegetation: NDVI (Rouse et al. 1974, NASA SP-351), EVI (Huete et al. 2002, Remote Sens. Environ. 83, 195-213), SAVI with L = 0.5
(Huete 1988, Remote Sens. Environ. 25, 295-309). Bare soil: BSI (Rikimaru et al. 2002, Trop. Ecol. 43, 39-47). Leaf and soil water:
LSWI (Xiao et al. 2002, Int. J. Remote Sens. 23, 3009-3022)."""


def reflectance(stored: np.ndarray, scale: str) -> np.ndarray:
    """Return surface reflectance of stored values (missing = NaN), float64; NaN where it is not above 0 and at most 1.

    So it is over shadow, glint and fill. `scale` is a key of `SCALES`.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r}: expected one of {', '.join(SCALES)}")
    factor, offset = SCALES[scale]
    values = factor * np.asarray(stored, np.float64) + offset
    with np.errstate(invalid="ignore"):
        return np.where((values > 0) & (values <= 1), values, np.nan)


def spectral_indices(bands: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every index of `INDICES` that bands of reflectance allow; NaN where a band is missing or the index is beyond -1 to 1.

    An index of mean bands is not the mean of an index: of several images take the indices first, then their mean.
    """
    unknown = [name for name in bands if name not in BANDS]
    if unknown:
        raise ValueError(f"band {unknown[0]!r}: expected {', '.join(BANDS)}")
    found = {name: make(*map(bands.get, needed)) for name, (needed, make) in INDICES.items() if set(needed) <= set(bands)}
    if not found:
        raise ValueError(f"no index can be made from {', '.join(bands) or 'no bands'}; ndvi needs red and nir")
    return {name: np.where(np.abs(values) <= 1, values, np.nan) for name, values in found.items()}


def write_indices(
    paths: Sequence[Path],
    out: Path,
    scale: str,
    names: Sequence[str] = BANDS,
    nodata: Mapping[str, tuple[float, ...]] | None = None,
) -> None:
    """Write the spectral indices of a raster (`find_layers`), whose four bands lie in one file, as a GeoTIFF on its own grid.

    `scale` is a key of `SCALES`; where the file itself declares a scale, that has been applied, and this is "reflectance". `names`
    are those of its blue, red, nir and swir1 band.
    """
    layers = pick_layers(find_layers(paths, nodata), names)
    path = layers[0].path
    if len({layer.path for layer in layers}) > 1:
        raise UserError(f"{path}: {', '.join(names)} must be in one file; stack them (gdal_merge.py -separate)")
    grid, stored = _read(layers)
    bands = {name: reflectance(values, scale) for name, values in zip(BANDS, stored, strict=True)}
    _write(out, spectral_indices(bands), grid, path, f"is {scale!r} its scale?")


# --- terrain derivatives -------------------------------------------------------------------------------------------------

TERRAIN_UNITS = {"slope": "degrees", "aspect": "degrees", "northness": "1", "eastness": "1", "twi": "ln(m)"}
"""Derivative -> unit, in the order of the bands written."""
_SEMI_MAJOR = 6_378_137.0
_ECCENTRICITY_SQUARED = (2 - 1 / 298.257223563) / 298.257223563
"""Of the WGS84 ellipsoid; its semi-major axis in metres."""
_MIN_GRADIENT = 1e-3
"""Metres per metre: without a lower limit the topographic wetness index of flat land would be infinite."""
_LOWEST, _HIGHEST = -500.0, 9000.0
"""Plausible elevations of land, metres."""
_NO_METRES = re.compile(r"\b(ft|feet|foot|ftus|us-ft|inch|[cdkm]m|(centi|deci|kilo|milli)met)")
"""Units of elevation, in small letters, that are not metres; any other text may be a datum."""
_MOST_DISTORTED = 0.05
"""Share by which a projection may stretch or shrink lengths: a world Mercator doubles them at 60 degrees, UTM has 0.0004."""
_CELLS_A_STEP = 2**16
"""Between two looks at the progress."""
_NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
"""Row and column offsets."""


def cell_sizes(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return width and height of the cells of each row on the ground, (H,) and (H,) metres.

    On a geographic grid they are those on the WGS84 ellipsoid at the middle of the row; in a projection the nominal ones, its
    distortion is not corrected (`_check_lengths`).
    """
    crs = CRS.from_user_input(grid.crs)
    if not crs.is_geographic:
        unit = float(crs.linear_units_factor[1])
        return np.full(grid.height, grid.cell[0] * unit), np.full(grid.height, grid.cell[1] * unit)
    latitude = np.radians(grid.y - (np.arange(grid.height) + 0.5) * grid.cell[1])
    curvature = 1 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2
    prime_vertical, meridian = _SEMI_MAJOR / np.sqrt(curvature), _SEMI_MAJOR * (1 - _ECCENTRICITY_SQUARED) / curvature**1.5
    return prime_vertical * np.cos(latitude) * math.radians(grid.cell[0]), meridian * math.radians(grid.cell[1])


def _check_lengths(dem: Path, grid: Grid) -> None:
    """Raise UserError if lengths in the middle of a projected grid are not those on the ground, as of a world Mercator."""
    middle = grid.height / 2, grid.width / 2
    lon, lat = lonlat(grid, middle[0] + np.array([0, 0.5, 0, -0.5]), middle[1] + np.array([0.5, 0, -0.5, 0]))
    _, _, metres = Geod(ellps="WGS84").inv(lon[:2], lat[:2], lon[2:], lat[2:])
    stretched = np.array([each[0] for each in cell_sizes(grid)]) / metres
    if not grid.geographic and np.abs(np.log(stretched)).max() > _MOST_DISTORTED:
        zone = f"EPSG:{32600 + 100 * (lat[0] < 0) + int((lon[0] + 180) // 6) + 1}"
        raise UserError(
            f"{dem}: a metre there is {stretched.max():.3g} of its projection's; warp it first (gdalwarp -t_srs {zone})"
        )


def gradient(elevation: np.ndarray, width: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient towards east and towards north, (H, W) each, metres per metre (Horn 1981, Proc. IEEE 69, 14-47).

    Elevation (H, W) is in metres, north up, missing = NaN; width and height (H,) are the cell sizes of each row, metres. NaN along
    the edge and beside a missing cell.
    """
    z = np.pad(np.asarray(elevation, np.float64), 1, constant_values=np.nan)
    rows, columns = np.shape(elevation)
    part = {(i, j): z[1 + i : rows + 1 + i, 1 + j : columns + 1 + j] for i, j in [*_NEIGHBOURS, (0, 0)]}
    # Terms of weight 0 stay in the sum: 0 * NaN marks cells beside a missing one.
    east = sum((2 - abs(i)) * j * cells for (i, j), cells in part.items()) / (8 * width[:, None])
    north = sum((2 - abs(j)) * -i * cells for (i, j), cells in part.items()) / (8 * height[:, None])
    return np.asarray(east), np.asarray(north)


def fill_depressions(elevation: np.ndarray) -> np.ndarray:
    """Return elevations without depressions, (H, W): water of every cell runs downhill to the edge or to a missing cell.

    Priority flood with epsilon (Barnes et al. 2014, Comput. Geosci. 62, 117-127): cells are raised as little as float64 allows, so
    that flats slope towards their outlet. A lake within the land drains; a missing cell, such as sea, is an outlet. One core takes
    about 5 s per million cells.
    """
    rows, columns = elevation.shape
    z = np.pad(np.asarray(elevation, np.float64), 1, constant_values=np.nan)
    missing = np.isnan(z)
    outlet = ~missing[1:-1, 1:-1] & np.logical_or.reduce(
        [missing[1 + i : rows + 1 + i, 1 + j : columns + 1 + j] for i, j in _NEIGHBOURS]
    )
    level, done = z.ravel().tolist(), bytearray(missing.ravel().tobytes())
    heap = [(level[k], k) for k in np.flatnonzero(np.pad(outlet, 1)).tolist()]
    for _, k in heap:
        done[k] = 1
    heapq.heapify(heap)
    steps = [i * (columns + 2) + j for i, j in _NEIGHBOURS]
    with Progress("filling of depressions", int((~missing).sum())) as bar:
        for cell in count(1):
            if not heap:
                break
            lowest, k = heapq.heappop(heap)
            above = math.nextafter(lowest, math.inf)
            for step in steps:
                near = k + step
                if not done[near]:
                    done[near] = 1
                    level[near] = max(level[near], above)
                    heapq.heappush(heap, (level[near], near))
            if cell % _CELLS_A_STEP == 0:
                bar.step(_CELLS_A_STEP)
    return np.array(level).reshape(z.shape)[1:-1, 1:-1]


def flow_directions(filled: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return the cell each cell drains to, (H * W,) int64 in row-major order; -1 at an outlet and where elevation is missing.

    D8, the steepest descent among eight neighbours (O'Callaghan and Mark 1984, Comput. Vis. Graph. Image Process. 28, 323-344).
    """
    rows, columns = filled.shape
    z = np.pad(filled, 1, constant_values=np.nan)
    steepest, receiver = np.zeros(filled.shape), np.full(filled.shape, -1, np.int64)
    own = np.arange(filled.size).reshape(filled.shape)
    for i, j in _NEIGHBOURS:
        metres = np.hypot(j * width, i * height)[:, None]
        drop = (filled - z[1 + i : rows + 1 + i, 1 + j : columns + 1 + j]) / metres
        steeper = drop > steepest  # False for NaN
        steepest[steeper], receiver[steeper] = drop[steeper], (own + i * columns + j)[steeper]
    return receiver.ravel()


def flow_accumulation(receiver: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the area that drains through each cell, its own included, (n,); `receiver` is of `flow_directions`, without cycle."""
    total, drains = np.array(area, np.float64), receiver >= 0
    waiting = np.bincount(receiver[drains], minlength=len(receiver))
    ready = np.flatnonzero((waiting == 0) & drains)
    while ready.size:  # all cells whose inflow is complete, at once
        below = receiver[ready]
        np.add.at(total, below, total[ready])
        np.subtract.at(waiting, below, 1)
        below = np.unique(below)
        ready = below[(waiting[below] == 0) & drains[below]]
    return total


def terrain_derivatives(elevation: np.ndarray, width: np.ndarray, height: np.ndarray) -> dict[str, np.ndarray]:
    """Return slope, aspect, northness, eastness and topographic wetness index, (H, W) float64 each; arguments as of `gradient`.

    slope: degrees. aspect: direction of descent, degrees clockwise from north, NaN on level land. northness, eastness: cosine and
    sine of the aspect, 0 on level land; unlike the aspect they have no jump at north. twi: ln(a / tan(slope)), a the drained area
    per metre of contour (Beven and Kirkby 1979, Hydrol. Sci. Bull. 24, 43-69), with D8 flow over filled depressions, a contour as
    wide as the square root of the cell's area, and a gradient of at least 1 in 1000. All are NaN along the edge and beside a
    missing cell. Inflow across the edge is unknown: give the raster a margin of whole catchments.
    """
    elevation = np.asarray(elevation, np.float64)
    if elevation.ndim != 2 or width.shape != height.shape or width.shape != elevation.shape[:1]:
        raise ValueError(f"elevation {elevation.shape}, width {width.shape}, height {height.shape}: expected (H, W), (H,) and (H,)")
    east, north = gradient(elevation, width, height)
    steepness, level = np.hypot(east, north), (east == 0) & (north == 0)
    aspect = np.degrees(np.arctan2(-east, -north)) % 360
    area = np.broadcast_to((width * height)[:, None], elevation.shape)
    receiver = flow_directions(fill_depressions(elevation), width, height)
    drained = flow_accumulation(receiver, area.ravel()).reshape(elevation.shape)
    return {
        "slope": np.degrees(np.arctan(steepness)),
        "aspect": np.where(level, np.nan, aspect),
        "northness": np.where(level, 0.0, np.cos(np.radians(aspect))),
        "eastness": np.where(level, 0.0, np.sin(np.radians(aspect))),
        "twi": np.log(drained / np.sqrt(area) / np.maximum(steepness, _MIN_GRADIENT)),
    }


def write_terrain(dem: Path, out: Path, nodata: Mapping[str, tuple[float, ...]] | None = None) -> None:
    """Write the terrain derivatives of a digital elevation model (one band, metres) as a GeoTIFF on its own grid, a band each.

    A raster around the Earth is not joined at its seam. UserError if it reaches beyond a pole, or holds implausible elevations.
    """
    layers = find_layers([dem], nodata)
    if len(layers) != 1:
        raise UserError(f"{dem}: holds {len(layers)} bands; expected one, of elevations (gdal_translate -b NUMBER takes one out)")
    _refuse_coded(layers)
    if _NO_METRES.search(unit := layers[0].unit.lower()):
        raise UserError(f"{dem}: its unit is {unit!r}; elevations in metres are needed (gdal_calc.py, then gdal_edit.py -units m)")
    grid, cells = _read(layers)
    elevation, south, north = cells[0], grid.y - grid.height * grid.cell[1], grid.y
    if CRS.from_user_input(grid.crs).is_geographic and max(north, -south) > 90 + 1e-6:
        raise UserError(
            f"{dem}: reaches from {south:g} to {north:g} degrees of latitude; correct its position (gdal_edit.py -a_ullr)"
        )
    implausible = elevation[(elevation < _LOWEST) | (elevation > _HIGHEST)]
    if implausible.size:
        raise UserError(
            f"{dem}: {implausible.size} cells from {implausible.min():g} to {implausible.max():g} are no elevations in metres; "
            "declare the missing value (gdal_edit.py -a_nodata VALUE), or give --nodata VALUE"
        )
    ask_about_fill_values(layers)
    _check_lengths(dem, grid)
    found = terrain_derivatives(elevation, *cell_sizes(grid))
    _write(out, found, grid, dem, "a cell needs its eight neighbours", list(TERRAIN_UNITS.values()))


# --- climate zones -------------------------------------------------------------------------------------------------------


def write_zones(
    rasters: Sequence[Path], variables: Sequence[ClimateVariable], out: Path, nodata: Mapping[str, tuple[float, ...]] | None = None
) -> ClimateZones:
    """Write a GeoTIFF of climate zones on the grid of the precipitation: band "zone", 1 to 4, and a band of weights per zone.

    Returns the zones, with thresholds in the units of the variables, precipitation and temperature.
    """
    names = [each.name for each in variables]
    if names[0] == names[1]:
        raise UserError(f"precipitation and temperature are both {names[0]!r}; name two variables")
    layers = pick_layers(find_layers(rasters, nodata), names)
    _refuse_coded(layers)
    grid, cells = _read(layers)
    ask_about_fill_values(layers)
    climate = cells.reshape(2, -1)
    variables = [replace(each, stated=layer.unit) for each, layer in zip(variables, layers, strict=True)]
    zones = zones_of(variables, list(climate), str(layers[0].path))
    log_zones(zones.names, zones.labels(*climate), "cells", zones.thresholds)
    code = zones.labels(*climate) + 1.0
    bands = {"zone": np.where(code > 0, code, np.nan)} | dict(zip(zones.names, zones.weights(*climate).T, strict=True))
    shaped = {name: values.reshape(cells.shape[1:]) for name, values in bands.items()}
    _write(out, shaped, grid, layers[0].path, f"does {layers[1].path} cover the same area?")
    return zones


def _refuse_coded(layers: Sequence[Layer]) -> None:
    """Raise UserError for a band of classes where a measurement is needed."""
    if coded := next((layer for layer in layers if layer.classes), None):
        raise UserError(f"{coded.path}: {coded.name} has a colour table or category names: classes or a picture, no measurement")
