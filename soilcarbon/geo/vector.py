"""Areas of interest and zones: the polygons of a vector file, brought to a map's CRS.

In: a vector file. Out: named `Area`s, which are kept as JSON for many processes to read. A cell of a
map belongs to the area its centre lies in (`zones.zone_masks`).

    areas, extent = read_areas(Path("provinces.gpkg"), grid.crs, "name")
    write_areas(folder / "zones.json", areas)
"""

import json
import math
import os
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import antimeridian
import numpy as np
import pandas as pd
import shapely  # type: ignore[import-untyped]
from rasterio.crs import CRS

from soilcarbon.geo.crs import Bounds, short_name, shown
from soilcarbon.io.files import UserError, must_exist, nearest, write_text
from soilcarbon.io.geojson import check_geojson
from soilcarbon.io.interruption import temporary_folder
from soilcarbon.io.vector_limits import check_layer

log = getLogger(__name__)

_STEP_DEGREES = 0.1
_STEP_METRES = 10_000.0  # vertices along an edge that is brought to another CRS: a chord of 10 km leaves a great circle by 2 m
_STEPS = 20_000  # ... but no more than this across a file's extent
_VERTICES = 2_000_000  # ... and in all: the coasts of the world, 1.6 million km, have 160,000 such steps
_CROSSINGS = 3000  # of borders, that are repaired and joined
_SAMPLED = 50_000  # edges looked at for crossings
_HAIR = 1e-6  # degrees by which longitudes may pass 180 from rounding
_NAMES = ("name", "zone", "region", "id", "code")  # words of the columns that may name areas, in order of preference
_FORMATS = (".gpkg", ".shp", ".geojson", ".json", ".fgb", ".kml")
_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_GEODATABASE = (".gdbtable", ".gdbtablx", ".gdbindexes", ".spx", ".atx", ".freelist", ".horizon", ".lock", ".gdb", "")
"""Endings of the files in a folder of this format."""
_STARTS = re.compile(
    rb"SQLite format 3\0|\0\0\x27\x0a|fgb\x03fgb"
    rb"|(\xef\xbb\xbf)?\s*\{|(\xef\xbb\xbf)?\s*(<\?xml[^>]*\?>)?\s*<kml[\s>]",
    re.DOTALL,
)
"""How files of these formats begin: GeoPackage, shapefile, FlatGeobuf, GeoJSON, KML."""
_POINTERS = (b"<ogr", b"gdal_streamed_alg", b"<gdal", b"<vrt")
_HEAD = 2**20  # bytes: words of formats that point to other files are looked for in these; GDAL looks at fewer
_UNPACKED = 2**33  # bytes that an archive may unpack to
_NO_NETWORK = {"GDAL_HTTP_PROXY": "none://none", "GDAL_HTTPS_PROXY": "none://none", "GML_DOWNLOAD_SCHEMA": "NO"}
"""GDAL's settings under which it reaches no host: a proxy of a kind that does not exist."""


@dataclass(frozen=True)
class Area:
    """A named area."""

    name: str  # unique among the areas of a file
    shape: Any  # shapely's Polygon or MultiPolygon in the CRS of the grid it is used on. Longitudes may pass 180.

    @cached_property
    def bounds(self) -> Bounds:
        """The extent; NaN if there is no ground at all."""
        x_min, y_min, x_max, y_max = map(float, self.shape.bounds)
        return x_min, x_max, y_min, y_max


def read_areas(path: Path, crs: str, column: str | None = None) -> tuple[list[Area], Bounds]:
    """Read the polygons of a vector file, in its order, and their extent, both in `crs`, the grid's: anything rasterio understands.

    A file is a GeoPackage, shapefile, GeoJSON, FlatGeobuf, KML, a zip of one of these, or a folder (file geodatabase). Of several
    layers the first with geometries is read; `file.gpkg:name` names another. What points to other files or to the network is
    refused, and nothing is fetched.

    Geometries that are not valid (a ring that crosses itself) are repaired. Edges get vertices every 10 km before they are brought
    to another CRS, so that a long straight border stays where it is. Polygons that the CRS cannot hold (a pole in Mercator) are
    left out. All this is logged.

    `column` names the areas; rows of one name are one area. Default: a column with a word like name, zone, id or code in its own
    name and no gaps; without any, areas are numbered from 1. Longitudes of the extent are within -180 to 180, all of them if areas
    cross the antimeridian.

    UserError if the file is missing, unreadable or empty, has no CRS or no polygons, or the column is unknown or has gaps.
    """
    import geopandas  # slow, and needed for this alone

    frame = _read(path)
    kinds = frame.geom_type.where(~frame.is_empty).fillna("row without geometry")
    usable = kinds.isin(["Polygon", "MultiPolygon"]).to_numpy()
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
    groups = pd.Series(range(len(names))).groupby(names, sort=False).indices
    flat = frame.geometry.force_2d()
    joined = np.concatenate([np.flatnonzero(~flat.is_valid), *(rows for rows in groups.values() if len(rows) > 1)]).astype(int)
    if _crossings(flat.to_numpy()[np.unique(joined)]) > _CROSSINGS:
        raise UserError(f"{path}: its borders cross at {_CROSSINGS:,} places or more; mend them first (QGIS: Fix geometries)")
    rows = flat.make_valid().to_numpy()
    whole = geopandas.GeoSeries([shapely.union_all(_polygons(rows[k])) for k in groups.values()], crs=frame.crs)

    placed = _reproject(whole, crs, path)
    areas = [Area(str(name), shapely.multipolygons(polygons)) for name, polygons in zip(groups, placed, strict=True)]
    if all(area.shape.is_empty for area in areas):
        raise UserError(f"{path}: none of its areas can be brought to {short_name(crs)}; give the map another CRS or other areas")
    x_min, y_min, x_max, y_max = shapely.total_bounds([area.shape for area in areas]).tolist()
    if CRS.from_user_input(crs).is_geographic:
        x_min, x_max = _within_180(x_min, x_max)
    return areas, (x_min, x_max, y_min, y_max)


def _read(path: Path) -> Any:
    """Return a layer of a vector file as a GeoDataFrame with rows and a CRS."""
    import geopandas

    file, wanted = path, None
    if not path.exists():
        start, _, end = path.name.rpartition(":")
        file, wanted = path.with_name(start or path.name), end
        if not (start and file.exists()):
            raise UserError(f"{path}: no such file of areas")
    with _plain(file) as local:
        try:
            with _offline(), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                layer = _layer(local, file, wanted)
                check_layer(local, layer)
                frame = geopandas.read_file(local, engine="pyogrio", layer=layer)
            check_geojson(local, path)
        except UserError:
            raise
        except Exception as error:  # of GDAL, pyogrio or geopandas
            raise UserError(f"{path}: not readable as a vector layer ({' '.join(str(error).split())[:150]})") from error
    for warning in said:
        log.info("%s: %s", path.name, " ".join(str(warning.message).split())[:200])
    if not len(frame):
        raise UserError(f"{path}: holds no rows; areas are polygons")
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise UserError(f"{path}: its first layer has no geometry; areas are polygons")
    if frame.crs is None:
        raise UserError(f"{path}: has no coordinate reference system; set it first (ogr2ogr -a_srs EPSG:... out.gpkg {path.name})")
    if not np.isfinite(shapely.get_coordinates(frame.geometry.to_numpy())).all():
        raise UserError(f"{path}: has coordinates that are not finite; look at where it comes from")
    x_min, y_min, x_max, y_max = frame.total_bounds
    if frame.crs.is_geographic and (max(abs(y_min), abs(y_max)) > 90 + _HAIR or max(abs(x_min), abs(x_max)) > 540):
        reach = shown((x_min, x_max, y_min, y_max))
        raise UserError(f"{path}: says it is in degrees, but reaches from {reach}; set its true coordinate reference system")
    return frame


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """Yield the path of a file or folder of a known format, unpacked if it is an archive.

    A file is known by its content: GDAL asks all its formats whether a file is theirs, by content too, and some of
    these (OGR VRT, GDALG) only name what to read, from any host.
    """
    if path.is_dir():
        inside = sorted(each for each in path.iterdir() if each.suffix.lower() in _FORMATS)
        if path.suffix.lower() == ".gdb" and all(each.suffix.lower() in _GEODATABASE for each in path.iterdir()):
            yield _known_path(path)
        elif inside:
            yield _known_file(_first(inside, path), path)
        else:
            raise UserError(f"{path}: holds no vector file ({', '.join(_FORMATS)})")
    elif zipfile.is_zipfile(path):
        with temporary_folder() as folder:
            yield _known_file(_unpacked(path, folder), path)
    else:
        yield _known_file(path, path)


def _known_path(path: Path) -> Path:
    """Return an absolute path; a "!" would lead into an archive, "://" to a host."""
    if "!" in str(path.resolve()) or "://" in str(path):
        raise UserError(f"{path}: a path of areas must not hold '!' or '://'; rename the file or folder")
    return path.resolve()


def _known_file(local: Path, path: Path) -> Path:
    """Return the absolute path of a file whose content is of a known format; `path` is for the message."""
    try:
        with local.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error
    text = b"\0" not in head[:100]  # GDAL looks at what stands before the first
    if text and any(word in head.lower() for word in _POINTERS):
        raise UserError(f"{path}: only points to other files; give the vector file itself")
    if not _STARTS.match(head):
        raise UserError(
            f"{path}: not readable as a vector layer; give a GeoPackage, shapefile, GeoJSON, FlatGeobuf or KML"
            f" (ogr2ogr areas.gpkg {path.name})"
        )
    return _known_path(local)


def _first(choices: Sequence[Path], path: Path) -> Path:
    """Return the first of the vector files of an archive or folder, and log which if there are more."""
    if len(choices) > 1:
        names = ", ".join(each.name for each in choices[:6])
        log.info("%s: holds %d vector files (%s); %s is read", path.name, len(choices), names, choices[0].name)
    return choices[0]


def _unpacked(path: Path, folder: Path) -> Path:
    """Unpack the first vector file of an archive, with its companions, into a folder, and return its path."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and "__MACOSX" not in each.filename]
            choices = sorted(Path(each.filename) for each in members if Path(each.filename).suffix.lower() in _FORMATS)
            if not choices:
                raise UserError(f"{path}: holds no vector file ({', '.join(_FORMATS)})")
            chosen = _first(choices, path)
            endings = _SHAPEFILE if chosen.suffix.lower() == ".shp" else (chosen.suffix.lower(),)
            parts = {
                Path(each.filename).suffix.lower(): each
                for each in members
                if Path(each.filename).with_suffix("") == chosen.with_suffix("")
            }
            parts = {ending: each for ending, each in parts.items() if ending in endings}
            if sum(each.file_size for each in parts.values()) > _UNPACKED:
                raise UserError(f"{path}: unpacks to more than {_UNPACKED >> 30} GiB; give the vector file itself")
            for ending, each in parts.items():
                with archive.open(each) as packed, (folder / f"areas{ending}").open("wb") as out:
                    shutil.copyfileobj(packed, out)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not readable as an archive ({' '.join(str(error).split())[:150]})") from error
    return folder / f"areas{chosen.suffix.lower()}"


@contextmanager
def _offline() -> Iterator[None]:
    """Keep GDAL, as geopandas brings it, from the network: a GeoJSON may give its CRS as an address, say."""
    import pyogrio  # type: ignore[import-untyped]

    before = {name: pyogrio.get_gdal_config_option(name) for name in _NO_NETWORK}
    exempt = {name: os.environ.pop(name) for name in ("no_proxy", "NO_PROXY") if name in os.environ}
    pyogrio.set_gdal_config_options(_NO_NETWORK)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)
        os.environ.update(exempt)


def _layer(local: Path, path: Path, wanted: str | None) -> str:
    """Return the name of the layer to read: the wanted one, else the first with geometries, which is logged."""
    import pyogrio

    table = [(str(name), kind) for name, kind in pyogrio.list_layers(local)]
    names = [name for name, _ in table]
    has = ", ".join(map(repr, names[:12])) or "none"
    if wanted is not None and wanted not in names:
        raise UserError(f"{path}: no layer {wanted!r}{nearest(wanted, names)}; it has {has}")
    if not names:
        raise UserError(f"{path}: holds no layer")
    layer = wanted if wanted is not None else next((name for name, kind in table if kind is not None), names[0])
    if wanted is None and len(names) > 1:
        log.info("%s: has the layers %s; %r is read; name another by %s:LAYER", path.name, has, layer, path.name)
    return layer


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
        named = f"column {column!r}"
        if column is None:
            gappy = ", ".join(dict.fromkeys(repr(name) for _, name in liked))
            named = f"their number: {f'column {gappy} has gaps' if gappy else 'no column is called ' + ', '.join(_NAMES)}"
        log.info("%s: areas are named by %s", path.name, named)
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


def _polygons(geometries: Any) -> np.ndarray:
    """Return the single polygons among geometries and their parts; what a repair left as lines is dropped."""
    parts = shapely.get_parts(shapely.get_parts(geometries))  # twice: collections hold multipolygons
    return parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]


def _crossings(shapes: np.ndarray) -> float:
    """Return at how many places the borders of geometries cross themselves and one another; of many, from a sample of their edges.

    To repair or to join them takes time and memory that grow with the square of these.
    """
    if not len(shapes):
        return 0.0
    rings = shapely.get_rings(shapely.get_parts(shapes))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    edges = shapely.linestrings(np.stack([points[:-1][same], points[1:][same]], 1))
    tree, chosen = shapely.STRtree(edges), np.random.default_rng(0).permutation(len(edges))[:_SAMPLED]
    at_once, found = max(1, min(1000, 200_000 // max(1, len(edges)))), 0
    for begin in range(0, len(chosen), at_once):
        found += tree.query(edges[chosen[begin : begin + at_once]], predicate="crosses").shape[1]
        if found / 2 * len(edges) / len(chosen) > _CROSSINGS:
            break
    return found / 2 * len(edges) / max(1, len(chosen))


def _reproject(areas: Any, crs: str, path: Path) -> list[np.ndarray]:
    """Return the polygons of each geometry of a GeoSeries in another CRS."""
    known = areas.crs
    if known.equals(crs, ignore_axis_order=True):
        return [_polygons(geometry) for geometry in areas]
    unit = known.axis_info[0].unit_conversion_factor  # radians or metres
    x_min, y_min, x_max, y_max = areas.total_bounds
    step = math.radians(_STEP_DEGREES) / unit if known.is_geographic else _STEP_METRES / unit
    length = float(shapely.length(areas.to_numpy()).sum())
    dense = areas.segmentize(max(step, (x_max - x_min) / _STEPS, (y_max - y_min) / _STEPS, length / _VERTICES))
    try:
        moved = dense.to_crs(crs)
    except Exception as error:  # of pyproj, which only geopandas brings
        raise UserError(f"{path}: cannot be brought from {known.name!r} to {short_name(crs)}; reproject it first") from error
    placed = [_polygons(geometry) for geometry in moved]
    whole = [[bool(np.isfinite(shapely.get_coordinates(part)).all()) for part in parts] for parts in placed]
    lost = sum(len(kept) - sum(kept) for kept in whole)
    if lost:
        log.info("%s: %d polygons reach beyond what %s can hold and are left out", path.name, lost, short_name(crs))
    placed = [parts[np.array(kept, bool)] for parts, kept in zip(placed, whole, strict=True)]
    if CRS.from_user_input(crs).is_geographic:
        placed = [_polygons(np.array([_cut(part) for part in parts], object)) for parts in placed]
    return placed


def _cut(polygon: Any) -> Any:
    """Return a polygon in degrees cut at the antimeridian where its edges jump across; round a pole it reaches up to it."""
    rings = [np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
    if all(np.abs(np.diff(ring[:, 0])).max() < 180 for ring in rings):
        return polygon
    outer, *holes = (_filled(ring) for ring in rings)
    return shapely.difference(outer, shapely.union_all(holes))


def _filled(ring: np.ndarray) -> Any:
    """Return the polygon that a ring (n, 2) in degrees encloses."""
    lon = np.unwrap(ring[:, 0], period=360)
    north = ring[:, 1].mean() > 0
    pole = {"force_north_pole": north, "force_south_pole": not north} if abs(lon[-1] - lon[0]) > 180 else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", antimeridian.FixWindingWarning)
        return shapely.make_valid(antimeridian.fix_polygon(shapely.Polygon(ring), **pole))


def _within_180(x_min: float, x_max: float) -> tuple[float, float]:
    """Return a stretch of longitudes within -180 to 180: all of them if it crosses the antimeridian."""
    turn = 360.0 * math.floor((x_min + 180 + _HAIR) / 360)
    x_min, x_max = x_min - turn, x_max - turn
    return (max(x_min, -180.0), min(x_max, 180.0)) if x_max <= 180 + _HAIR else (-180.0, 180.0)


def write_areas(path: Path, areas: Sequence[Area]) -> None:
    """Write areas as JSON, atomically, coordinates exactly as they are."""
    write_text(path, json.dumps([{"name": area.name, "shape": area.shape.wkb_hex} for area in areas]) + "\n")


def load_areas(path: Path) -> list[Area]:
    """Load areas written by `write_areas`; UserError if there is no such file."""
    must_exist(path, "file of areas")
    return [Area(each["name"], shapely.from_wkb(each["shape"])) for each in json.loads(path.read_text(encoding="utf-8"))]


def write_layers(path: Path, layers: Mapping[str, pd.DataFrame], crs: str, shapes: Mapping[str, Any] | None = None) -> None:
    """Write tables as layers of a GeoPackage, not atomically: into a folder of results that are not in place yet.

    Tables have columns lon and lat, or a column `zone` of keys of `shapes`, geometries in `crs`. UserError if it cannot be written:
    the disk is full.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "points.gpkg"
    >>> write_layers(path, {"profiles": pd.DataFrame({"lon": [8.5], "lat": [47.4], "soc": [21.0]})}, "EPSG:4326")
    >>> import geopandas
    >>> geopandas.read_file(path).geometry[0].wkt
    'POINT (8.5 47.4)'
    """
    import geopandas  # slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        for name, table in layers.items():
            if shapes is None:
                places = shapely.points(table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64))
            else:
                places = np.array([shapely.multipolygons(shapely.get_parts(shapes[zone])) for zone in table["zone"]], object)
            geopandas.GeoDataFrame(table, geometry=places, crs=crs).to_file(path, layer=name, driver="GPKG", engine="pyogrio")
    except Exception as error:  # of GDAL, pyogrio or geopandas
        raise UserError(f"{path.name}: could not be written ({' '.join(str(error).split())[:150]}); is the disk full?") from error
