"""Untrusted tables of points: CSV, TSV, GeoJSON, GeoPackage, shapefile; their columns found by name and checked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, read_table

ALIASES: dict[str, tuple[str, ...]] = {
    "profile_id": ("profile_id", "profileid", "profile", "id", "pid", "site_id", "point_id", "pointid", "sample_id", "plot_id"),
    "lon": ("lon", "longitude", "long", "lng", "lon_dd", "longitude_dd", "x", "x_coord", "coord_x"),
    "lat": ("lat", "latitude", "lat_dd", "latitude_dd", "y", "y_coord", "coord_y"),
    "top": ("top", "upper_depth", "depth_top", "top_depth", "depth_top_cm", "top_cm", "upper", "hzdept_r"),
    "bottom": ("bottom", "lower_depth", "depth_bottom", "bottom_depth", "depth_bottom_cm", "bottom_cm", "lower", "hzdepb_r"),
}
"""Common names of columns in lower case, by preference. The first of each is ours."""


def read_points(path: Path) -> pd.DataFrame:
    """Read any of the formats, ids as text; geometries become columns lon and lat.

    Raises
    ------
    UserError
        If the file cannot be read, holds no rows, or names a column twice.
    """
    suffix = path.suffix.lower()
    if suffix in (".geojson", ".json"):
        table = _read_geojson(path)
    elif suffix in (".gpkg", ".shp"):
        table = _read_vector(path)
    else:
        ids = [spelling for name in ALIASES["profile_id"] for spelling in (name, name.upper(), name.capitalize())]
        table = read_table(path, text=ids)
    if table.empty:
        raise UserError(f"{path}: holds no rows")
    if table.columns.duplicated().any():
        raise UserError(f"{path}: column {table.columns[table.columns.duplicated()][0]!r} is there twice")
    return table


def _read_geojson(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        collection = json.loads(path.read_text(encoding="utf-8-sig"))
        crs = json.dumps(collection.get("crs", "CRS84"))
        places = [(f["geometry"] or {"type": "Point", "coordinates": (None, None)}) for f in collection["features"]]
        rows = [{**({"id": f["id"]} if "id" in f else {}), **(f["properties"] or {})} for f in collection["features"]]
        foreign = next((place["type"] for place in places if place["type"] != "Point"), None)
        positions = [] if foreign else [(place["coordinates"][0], place["coordinates"][1]) for place in places]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a GeoJSON FeatureCollection ({type(error).__name__}: {str(error)[:100]})") from error
    if foreign:
        raise UserError(f"{path}: holds a {foreign}; profiles must be of type Point")
    if "CRS84" not in crs and "4326" not in crs:
        raise UserError(f"{path}: is not in longitude and latitude (EPSG:4326) but {crs[:100]}; reproject it first")
    lon, lat = zip(*positions, strict=True) if positions else ((), ())
    return pd.DataFrame(rows).assign(lon=lon, lat=lat)


def _read_vector(path: Path) -> pd.DataFrame:
    try:
        import geopandas
    except ImportError as error:
        raise UserError(f"{path}: reading it needs geopandas: pip install 'geopandas>=1.0'; or export it as CSV") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    # GDAL opens a file by its content, whatever its name, and some formats point to other files or to the network.
    signature = b"\x00\x00\x27\x0a" if path.suffix.lower() == ".shp" else b"SQLite format 3\x00"
    with path.open("rb") as file:
        if file.read(len(signature)) != signature:
            raise UserError(
                f"{path}: not a {'shapefile' if path.suffix.lower() == '.shp' else 'GeoPackage'}, whatever its name says"
            )
    try:
        points = geopandas.read_file(path)
    except Exception as error:  # whichever library reads it, with errors of its own
        raise UserError(f"{path}: not readable as a vector layer ({' '.join(str(error).split())[:150]})") from error
    if not isinstance(points, geopandas.GeoDataFrame) or points.crs is None:
        raise UserError(f"{path}: its first layer has no geometry or no coordinate reference system")
    foreign = set(points.geom_type.dropna()) - {"Point"}
    if foreign:
        raise UserError(f"{path}: holds a {min(foreign)}; profiles must be of type Point")
    places = points.geometry.to_crs(4326)
    return pd.DataFrame(points.drop(columns=points.geometry.name)).assign(lon=places.x, lat=places.y)


def find_columns(table: pd.DataFrame, aliases: Mapping[str, Sequence[str]] = ALIASES) -> dict[str, str]:
    """Return our name -> the table's column, by common names of columns in any case.

    Examples
    --------
    >>> find_columns(pd.DataFrame(columns=["ID", "Longitude", "y", "soc"]))
    {'profile_id': 'ID', 'lon': 'Longitude', 'lat': 'y'}
    """
    by_name = {str(column).lower(): str(column) for column in reversed(table.columns)}
    return {ours: by_name[name] for ours, names in aliases.items() for name in reversed(names) if name in by_name}


def require_columns(table: pd.DataFrame, found: Mapping[str, str], wanted: Sequence[str], path: Path) -> None:
    """Raise UserError if a needed column was not found, with all that are missing and names they may have."""
    missing = [ours for ours in wanted if ours not in found]
    if missing:
        lacks = ", ".join(f"{ours} (or {', '.join(ALIASES[ours][1:4])} ...)" for ours in missing)
        it_has = ", ".join(map(str, table.columns[:12]))
        raise UserError(f"{path}: no column for {lacks}; it has {it_has}: rename them in its header")


def numbers(column: pd.Series, path: Path, name: str) -> np.ndarray:
    """Return a column as (N,) float64, NaN where it is not a finite number.

    Raises
    ------
    UserError
        If it holds no number at all; `path` and `name` are what the error names.
    """
    if pd.api.types.is_bool_dtype(column):  # pandas takes True for 1
        column = column.astype("str")
    found = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    found[~np.isfinite(found)] = np.nan
    if len(column) and np.isnan(found).all():
        given = column.dropna()
        what = f"holds no numbers (first: {str(given.iloc[0])[:40]!r}; decimal commas?)" if len(given) else "is empty"
        raise UserError(f"{path}: column {name!r} {what}; numbers with a decimal point are needed")
    return found


def check_not_swapped(lon: np.ndarray, lat: np.ndarray, path: Path) -> None:
    """Raise UserError if most positions are impossible as they stand and all are possible with lon and lat swapped."""
    known = ~(np.isnan(lon) | np.isnan(lat))
    wrong = known & (np.abs(lat) > 90)
    if wrong.sum() * 2 > known.sum() and not (known & ((np.abs(lat) > 180) | (np.abs(lon) > 90))).any():
        count = f"{wrong.sum()} of {lon.size} rows, first: lon {lon[wrong][0]:g}, lat {lat[wrong][0]:g}"
        raise UserError(f"{path}: longitude and latitude look swapped ({count}); swap the columns")
