"""What GDAL passes over in a GeoJSON file: features and geometries of a type there is not, and a CRS that nobody knows.

GDAL leaves out such features and takes such a CRS for WGS 84, both without an error.
"""

import json
from pathlib import Path
from typing import Any

from soilcarbon.io.files import UserError, nearest

_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
_LARGEST = 2**26  # bytes of a file that is looked at; a larger one takes too long


def check_geojson(local: Path, path: Path) -> None:
    """Raise UserError if a GeoJSON file holds features or geometries of unknown types, or names a CRS that is unknown.

    Files that are no GeoJSON, or too large, are passed. `path` is what `local` is called in messages.
    """
    if local.is_dir() or local.stat().st_size > _LARGEST:
        return
    with local.open("rb") as file:
        if file.read(1) not in (b"{", b"\xef", b" ", b"\n", b"\r", b"\t"):
            return
    try:
        content = json.loads(local.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):  # a sequence of features, or nothing that GDAL read as JSON
        return
    if not isinstance(content, dict) or not isinstance(content.get("features"), list) or content.get("type") == "Topology":
        return
    wrong = [(k, fault) for k, each in enumerate(content["features"], start=1) if (fault := _fault(each))]
    if wrong:
        many, (number, fault) = f"{len(wrong)} of {len(content['features'])} features", wrong[0]
        raise UserError(
            f"{path}: {many} are of a type that GeoJSON does not have and would be left out, first number {number}: {fault}"
        )
    _check_crs(content.get("crs"), path)


def _fault(feature: Any) -> str:
    """Return what is wrong with the types in a feature, "" if nothing is."""
    if not isinstance(feature, dict):
        return "no object"
    if feature.get("type") != "Feature":
        return f"{str(feature.get('type'))[:40]!r}, not 'Feature'"
    geometry = feature.get("geometry")
    if geometry is None:
        return ""
    kind = geometry.get("type") if isinstance(geometry, dict) else geometry
    return "" if kind in _GEOMETRIES else f"geometry {str(kind)[:40]!r}{nearest(str(kind), list(_GEOMETRIES))}"


def _check_crs(given: Any, path: Path) -> None:
    """Raise UserError if a file's member "crs" (GeoJSON of 2008) names none that is known; without one it is WGS 84."""
    if given is None:
        return
    from pyproj import CRS  # slow, and rarely needed
    from pyproj.exceptions import CRSError

    properties = given.get("properties") if isinstance(given, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    try:
        if not isinstance(name, str):
            raise CRSError("no name")
        CRS.from_user_input(name)
    except CRSError as error:
        shown = name if isinstance(name, str) else json.dumps(given)
        raise UserError(
            f"{path}: its coordinate reference system, {shown[:80]!r}, is unknown, and GDAL would take it for degrees (WGS 84); "
            f"set the true one (ogr2ogr -a_srs EPSG:... areas.gpkg {path.name})"
        ) from error
