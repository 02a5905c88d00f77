"""Places brought from one coordinate reference system (CRS) to another, and what is said of a CRS.

In: x and y, east and north, in a CRS's own unit. Out: the same in another CRS, NaN where a place has no image there.

    lon, lat = transformed("EPSG:3035", "EPSG:4326", x, y)
"""

import math

import numpy as np
from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError  # raised by rasterio.warp, exported nowhere else
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from files import UserError

_POLE = 90.0 + 1e-9
"""Degrees: latitudes up to here are a pole's, but for rounding."""


def transformed(crs: CRS | str, other: CRS | str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places of one CRS in another.

    Each place is taken for itself: its image does not depend on the others, to the last bit.

    Parameters
    ----------
    crs, other
        From and to: anything rasterio understands. Degrees are longitude and latitude, in this order.
    x, y
        Of one shape.

    Returns
    -------
    x, y : ndarray
        float64, of that shape. Both are NaN where a place has no image: it is not finite, beyond a pole, or outside
        what either projection can hold.

    Raises
    ------
    UserError
        If no way leads from one CRS to the other: another planet, a plan without a place on the Earth.
    """
    crs, other = CRS.from_user_input(crs), CRS.from_user_input(other)
    here = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    there = np.full_like(here, np.nan)
    known = _on_earth(crs, here)
    if known.any():
        there[:, known] = here[:, known] if crs == other else _moved(crs, other, here[:, known])
    there[:, ~_on_earth(other, there)] = np.nan
    return there[0], there[1]


def _moved(crs: CRS, other: CRS, here: np.ndarray) -> np.ndarray:
    """Return places (2, n) in another CRS, not finite where it has none."""
    try:
        return np.array(transform(crs, other, here[0], here[1]))
    except CPLE_NotSupportedError as error:
        raise UserError(f"no way leads from {short_name(crs)} to {short_name(other)}; set the true CRS, or warp to another") from error
    except (CPLE_BaseError, RasterioError):
        # One bad place fails them all, but only until GDAL has complained of twenty: halving soon comes to an end.
        half = here.shape[1] // 2
        if not half:
            return np.full((2, 1), np.nan)
        return np.hstack([_moved(crs, other, here[:, :half]), _moved(crs, other, here[:, half:])])


def _on_earth(crs: CRS, places: np.ndarray) -> np.ndarray:
    """Return which places (2, ...) are finite and, in degrees, not beyond a pole."""
    known = np.isfinite(places).all(axis=0)
    return known & (np.abs(places[1]) <= _POLE) if crs.is_geographic else known


def unfit(crs: CRS) -> str:
    """Return why grids cannot be in a CRS, "" if they can: it has to have degrees, or a projection's lengths."""
    if crs.is_projected:
        return ""
    if not crs.is_geographic:
        return "is neither in degrees nor a map projection"
    unit, radians = crs.units_factor
    return "" if math.isclose(radians, math.pi / 180, rel_tol=1e-6) else f"is in {unit}s, not in degrees"


def read_crs(text: str) -> str:
    """Return a CRS that a user names, as `as_text` gives it.

    Raises
    ------
    UserError
        If it is none, or one of heights, of another unit than degrees and lengths, or of no place on the Earth.
    """
    try:
        known = CRS.from_user_input(text)
    except CRSError as error:
        raise UserError(f"crs {text!r}: not a coordinate reference system; give a code like EPSG:3035, or WKT") from error
    if unfit(known):
        raise UserError(f"crs {text!r}: {unfit(known)}; give one like EPSG:4326 or EPSG:3035")
    return as_text(known)


def as_text(crs: CRS) -> str:
    """Return a text that gives back just this CRS: its authority's code if it has one, else WKT."""
    # rasterio gives the code of a CRS that is much the same, too: without its datum, say.
    texts = (crs.to_string(), crs.to_wkt(), crs.to_wkt(version="WKT2_2019"))
    return str(next((text for text in texts if CRS.from_user_input(text) == crs), texts[-1]))


def short_name(crs: CRS | str) -> str:
    """Return a CRS's authority code or its own name: WKT is long."""
    known = CRS.from_user_input(crs)
    text = as_text(known)
    if len(text) <= 20:
        return text
    return str(known.to_dict(projjson=True).get("name", "unnamed CRS"))
