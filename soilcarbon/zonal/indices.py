"""Spectral indices of vegetation, bare soil and leaf water, from surface reflectance.

In: bands as a file stores them, and the scale that makes them reflectance. Out: indices, -1 to 1, missing = NaN.

    from soilcarbon.zonal.indices import indices_of, reflectance, write_indices
    found = indices_of({name: reflectance(stored, "landsat_collection_2") for name, stored in bands.items()})
    write_indices([Path("landsat/1985-1989.tif")], Path("covariates/1985-1989/indices.tif"), "landsat_collection_2")

An index of mean bands is not the mean of an index: of several images, take the indices first and then their mean, where both
are at hand. The definitions are those of the first sources; how Dong, Wang and Su print them could not be seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soilcarbon.geo.raster import (
    check_filled,
    check_raster,
    check_size,
    find_layers,
    named_errors,
    open_raster,
    pick_layers,
    read_cells,
    write_geotiff,
)
from soilcarbon.io.files import UserError

BANDS = ("blue", "red", "nir", "swir1")
"""About 0.48, 0.66, 0.85 and 1.6 micrometres: Landsat TM and ETM+ bands 1, 3, 4, 5; OLI 2, 4, 5, 6; MODIS 3, 1, 2, 6."""
SCALES = {"reflectance": (1.0, 0.0), "landsat_collection_2": (2.75e-5, -0.2), "ten_thousandths": (1e-4, 0.0)}
"""Name -> factor and offset: reflectance = factor * stored + offset. Landsat Collection 2 Level-2 (USGS, LSDS-1619);
MODIS MOD09, Landsat Collection 1 and Sentinel-2 before January 2022 hold ten-thousandths."""
_SOIL = 0.5
"""Huete's L, for vegetation of middling density."""


@dataclass(frozen=True)
class Index:
    """One index: its formula, of the bands it names as parameters, and where it comes from."""

    bands: tuple[str, ...]
    formula: Callable[..., np.ndarray]
    source: str


def _normalised(more: np.ndarray, less: np.ndarray) -> np.ndarray:
    return np.asarray((more - less) / (more + less))


def _evi(blue: np.ndarray, red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    below = nir + 6.0 * red - 7.5 * blue + 1.0
    return np.asarray(2.5 * (nir - red) / np.where(below > 0, below, np.nan))  # below 0: cloud or snow


INDICES = {
    "ndvi": Index(
        ("red", "nir"), lambda red, nir: _normalised(nir, red), "Rouse et al. 1974, NASA SP-351: (nir - red) / (nir + red)"
    ),
    "bsi": Index(
        BANDS,
        lambda blue, red, nir, swir1: _normalised(swir1 + red, nir + blue),
        "Rikimaru et al. 2002, Trop. Ecol. 43, 39-47: bare soil, ((swir1 + red) - (nir + blue)) / (their sum)",
    ),
    "evi": Index(
        ("blue", "red", "nir"),
        _evi,
        "Huete et al. 2002, Remote Sens. Environ. 83, 195-213: 2.5 (nir - red) / (nir + 6 red - 7.5 blue + 1)",
    ),
    "savi": Index(
        ("red", "nir"),
        lambda red, nir: (1 + _SOIL) * (nir - red) / (nir + red + _SOIL),
        "Huete 1988, Remote Sens. Environ. 25, 295-309: 1.5 (nir - red) / (nir + red + 0.5)",
    ),
    "lswi": Index(
        ("nir", "swir1"),
        lambda nir, swir1: _normalised(nir, swir1),
        "Xiao et al. 2002, Int. J. Remote Sens. 23, 3009-3022: leaf and soil water, (nir - swir1) / (nir + swir1)",
    ),
}
"""Name -> index, in the order of bands written."""


def reflectance(stored: np.ndarray, scale: str) -> np.ndarray:
    """Return surface reflectance, float64; NaN where it is not above 0 and at most 1, as over shadow, glint and fill.

    Parameters
    ----------
    stored
        A band as its file has it, any shape, missing = NaN.
    scale
        A key of `SCALES`.

    Raises
    ------
    ValueError
        For an unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r}: expected one of {', '.join(SCALES)}")
    factor, offset = SCALES[scale]
    values = factor * np.asarray(stored, np.float64) + offset
    with np.errstate(invalid="ignore"):
        return np.where((values > 0) & (values <= 1), values, np.nan)


def indices_of(bands: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every index that the bands allow, in the order of `INDICES`; NaN where a band is, or beyond -1 to 1.

    Parameters
    ----------
    bands
        Name, of `BANDS` -> reflectance, all of one shape.

    Raises
    ------
    ValueError
        If a band's name is unknown, or no index can be made of them.
    """
    unknown = [name for name in bands if name not in BANDS]
    if unknown:
        raise ValueError(f"band {unknown[0]!r}: expected {', '.join(BANDS)}")
    found = {
        name: index.formula(**{band: bands[band] for band in index.bands})
        for name, index in INDICES.items()
        if set(index.bands) <= set(bands)
    }
    if not found:
        raise ValueError(f"no index is made of {', '.join(bands) or 'no bands'} alone; ndvi needs red and nir")
    return {name: np.where(np.abs(values) <= 1, values, np.nan) for name, values in found.items()}


def write_indices(paths: Sequence[Path], out: Path, scale: str, names: Sequence[str] = BANDS) -> None:
    """Write the indices of a raster's bands as a GeoTIFF on its own grid, a band each.

    Parameters
    ----------
    paths
        As of `rasters.find_layers`; four of their layers are taken, and must share one file.
    out
        The file to write.
    scale
        A key of `SCALES`; a scale that the file itself declares has been applied by then, and needs "reflectance".
    names
        What its blue, red, nir and swir1 are called.

    Raises
    ------
    UserError
        If a band is missing, they lie in several files, the raster has no CRS, is rotated or too large, or no cell has an index.
    """
    layers = pick_layers(find_layers(paths), names)
    if len({layer.path for layer in layers}) > 1:
        raise UserError(f"{layers[0].path}: {', '.join(names)} must be in one file; stack them (gdal_merge.py -separate)")
    path = layers[0].path
    with named_errors(path), open_raster(path) as raster:
        check_raster(raster, path, layers)
        check_size(raster.height, raster.width, path)
        stored = read_cells(raster, layers, (0, raster.height), (0, raster.width), None, set())
        transform, crs = raster.transform, raster.crs
    found = indices_of({name: reflectance(values, scale) for name, values in zip(BANDS, stored, strict=True)})
    whole = np.stack(list(found.values()))
    check_filled(whole, path, f"is {scale!r} its scale?")
    write_geotiff(out, whole, list(found), transform, crs.to_wkt())
