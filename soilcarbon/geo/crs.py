"""Coordinate reference systems (CRS): parsing, names, and transformation of places.

In: x and y, east and north, in a CRS's own unit. Out: the same in another CRS, NaN where a place has no image there.

    lon, lat = transformed("EPSG:3035", "EPSG:4326", x, y)
"""

import json
import math
import re
from collections.abc import Sequence

import numpy as np
from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError  # raised by rasterio.warp, exported nowhere else
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform, transform_bounds

from soilcarbon.io.files import UserError

GDAL_ERRORS = (CPLE_BaseError, RasterioError)  # what rasterio raises when GDAL fails
Bounds = tuple[float, float, float, float]  # x_min, x_max, y_min, y_max in a CRS's own unit
_POLE = 90.0 + 1e-9  # degrees: latitudes up to here are a pole's, but for rounding
_SIDE, _LATTICE = 400, 21
"""Places along each side of an extent that is brought to another CRS, and rows and columns of those inside it."""
_SLACK = 0.001  # of an extent: a curved side may bulge by so much between two of its places
_ROUND_THE_EARTH = 41_000_000.0  # metres: a plane that is wider is not the ground's; Mercator's pole lies at 242,000 km
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_]*:[A-Za-z0-9_.-]+(\+([A-Za-z][A-Za-z0-9_]*:)?[A-Za-z0-9_.-]+)?")
_WKT = re.compile(
    r"(PROJ|GEOG|GEOC|COMPD_|VERT_|LOCAL_|FITTED_)_?CS\s*[\[(]"
    r"|(PROJ(ECTED)?|GEOG(RAPHIC)?|GEOD(ETIC)?|BOUND|COMPOUND|VERT(ICAL)?|ENG(INEERING)?|DERIVEDPROJ)CRS\s*[\[(]",
    re.IGNORECASE,
)
"""How WKT begins, of 1 and of 2."""


def transformed(crs: CRS | str, other: CRS | str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transform places from one CRS to another: anything rasterio understands; degrees are longitude and latitude, in this order.

    Each place is taken for itself: its image does not depend on the others, to the last bit. Both coordinates are NaN where a place
    has no image: it is not finite, beyond a pole, or outside what either projection can hold. UserError if there is no
    transformation between the CRS: they are of two planets, or one is a local system.
    """
    crs, other = CRS.from_user_input(crs), CRS.from_user_input(other)
    there = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    known = _on_earth(crs, there)
    if crs != other and known.any():
        there[:, known] = _moved(crs, other, there[:, known])
        known &= _on_earth(other, there)
    there[:, ~known] = np.nan
    return there[0], there[1]


def _moved(crs: CRS, other: CRS, here: np.ndarray) -> np.ndarray:
    """Return places (2, n) in another CRS, not finite where it has none."""
    try:
        return np.array(transform(crs, other, here[0], here[1]))
    except CPLE_NotSupportedError as error:
        raise UserError(
            f"there is no transformation from {short_name(crs)} to {short_name(other)}; set the true CRS, or warp to another"
        ) from error
    except GDAL_ERRORS:
        # One bad place fails them all, but only until GDAL has complained of twenty: halving soon comes to an end.
        half = here.shape[1] // 2
        if not half:
            return np.full((2, 1), np.nan)
        return np.hstack([_moved(crs, other, here[:, :half]), _moved(crs, other, here[:, half:])])


def _on_earth(crs: CRS, places: np.ndarray) -> np.ndarray:
    """Return which places (2, ...) are finite and, in degrees, not beyond a pole."""
    known = np.isfinite(places).all(axis=0)
    return known & (np.abs(places[1]) <= _POLE) if crs.is_geographic else known


def bounds_in(bounds: Bounds, crs: str, other: str) -> Bounds:
    """Return the extent, in `other`, of bounds given in `crs`; across the antimeridian x_max passes 180.

    UserError if part of the ground has no place in a projection.
    """
    known, wanted = CRS.from_user_input(crs), CRS.from_user_input(other)
    if known == wanted:
        return bounds
    x_min, x_max, y_min, y_max = bounds
    if known.is_geographic:
        y_min, y_max = max(y_min, -90.0), min(y_max, 90.0)
        if x_max - x_min > 360.0 - 1e-6:  # all longitudes, wherever they are cut
            x_min, x_max = -180.0, 180.0
    try:
        left, bottom, right, top = transform_bounds(known, wanted, x_min, y_min, x_max, y_max, densify_pts=_SIDE)
    except GDAL_ERRORS:
        left = bottom = right = top = math.inf
    if wanted.is_geographic:
        if not any(map(math.isfinite, (left, right, bottom, top))):
            raise UserError(f"{shown(bounds)} in {short_name(crs)} is not on the Earth; is the raster's CRS the true one?")
        # A world map's corners are off the Earth: then it may reach as far as degrees do.
        left, bottom, right, top = (
            value if math.isfinite(value) else limit
            for value, limit in zip((left, bottom, right, top), (-180.0, -90.0, 180.0, 90.0), strict=True)
        )
        return left, right + 360.0 if right < left else right, bottom, top
    steps = (np.arange(_LATTICE) + 0.5) / _LATTICE
    x, y = np.meshgrid(x_min + steps * (x_max - x_min), y_min + steps * (y_max - y_min))
    lon, lat = transformed(known, "EPSG:4326", x, y)
    on_earth = np.isfinite(lon)
    if not (on_earth.any() and all(map(math.isfinite, (left, right, bottom, top)))):
        raise UserError(
            f"{shown(bounds)} in {short_name(crs)} has no extent in {short_name(other)}; give the map's bounds (--bounds)"
        )
    x, y = transformed("EPSG:4326", wanted, lon[on_earth], lat[on_earth])
    width, height = right - left, top - bottom
    # An extent is that of its sides: where some of the ground lies beyond these, it is none.
    beyond = max(left - x.min(), x.max() - right) > _SLACK * width or max(bottom - y.min(), y.max() - top) > _SLACK * height
    if not np.isfinite(x).all() or beyond or max(width, height) * float(wanted.units_factor[1]) > _ROUND_THE_EARTH:
        raise UserError(f"{short_name(other)} cannot hold {shown(bounds)} in {short_name(crs)}; give the map's bounds (--bounds)")
    return left, right, bottom, top


def shown(bounds: Sequence[float]) -> str:
    """Return bounds as text."""
    return "x {:.6g} to {:.6g}, y {:.6g} to {:.6g}".format(*bounds)


def unfit(crs: CRS) -> str:
    """Return why grids cannot be in a CRS, "" if they can: it has to be the Earth's, in degrees or a map projection."""
    if not (crs.is_projected or crs.is_geographic):
        return "is neither in degrees nor a map projection"
    unit, radians = crs.units_factor
    if crs.is_geographic and not math.isclose(radians, math.pi / 180, rel_tol=1e-6):
        return f"is in {unit}s, not in degrees"
    try:
        transformed(crs, "EPSG:4326", np.zeros(1), np.zeros(1))
    except UserError:
        return "is not the Earth's"
    return ""


def parse_crs(text: str) -> CRS:
    """Parse a CRS from untrusted text: a code like EPSG:3035, WKT, PROJ's "+proj=..." or PROJJSON.

    GDAL accepts more than these as a CRS: names of files, which it reads, and addresses, which it fetches. Text from an untrusted
    file must cause neither. CRSError if it is nothing of these, or names an address.
    """
    text = _without_schema(text.strip())
    form = _CODE.fullmatch(text) or _WKT.match(text) or text.startswith(("+proj=", "{"))
    if not form or "://" in text:
        raise CRSError("neither a code like EPSG:3035 nor WKT, PROJ or PROJJSON")
    return CRS.from_user_input(text)


def _without_schema(text: str) -> str:
    """Return PROJJSON without the address of its own definition, "" for other JSON; any other text as it is."""
    if not text.startswith("{"):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found.pop("$schema", None)
    return json.dumps(found) if str(found.get("type")).endswith("CRS") else ""


def read_crs(text: str) -> str:
    """Parse a CRS given by the user, and return it as `as_text` does.

    UserError if it is none, or `unfit` for a grid.
    """
    try:
        known = parse_crs(text)
    except CRSError as error:
        raise UserError(f"crs {text!r}: not a coordinate reference system; give a code like EPSG:3035, or WKT") from error
    if unfit(known):
        raise UserError(f"crs {text!r}: {unfit(known)}; give one like EPSG:4326 or EPSG:3035")
    return as_text(known)


def as_text(crs: CRS) -> str:
    """Return the definition of a CRS as text: its authority's code if it has one, else WKT."""
    # rasterio gives the code of a CRS that is much the same, too: without its datum, say.
    texts = (crs.to_string(), crs.to_wkt(), crs.to_wkt(version="WKT2_2019"))
    return str(next((text for text in texts if CRS.from_user_input(text) == crs), texts[-1]))


def short_name(crs: CRS | str) -> str:
    """Return a CRS's authority code, its own name, or its parameters: WKT is long."""
    known = CRS.from_user_input(crs)
    text = as_text(known)
    if len(text) <= 20:
        return text
    name = str(known.to_dict(projjson=True).get("name", "unnamed"))
    return known.to_proj4() or name if name in ("unknown", "unnamed") else name
