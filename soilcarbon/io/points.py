"""Untrusted tables of points: CSV, TSV, GeoJSON, GeoPackage, shapefile, read once as text; columns found, places checked.

`read_points` gives all columns exactly as written (`PointTable`). Its methods turn a column into numbers when it is asked for, and
collect what was done in `notes`, which commands print.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.io import limits
from soilcarbon.io.columns import ALIASES, SAMPLING, Columns, find_columns, stated_unit, unit_beside
from soilcarbon.io.files import UserError, must_exist, nearest
from soilcarbon.io.tables import read_rows
from soilcarbon.io.values import BelowLimit, Reading, degrees, has_decimal_commas, numbers, years
from soilcarbon.io.vector_limits import check_layer

_MOST_UNMATCHED = 0.5
_TEXTS = ("profile_id", "horizon", "stratum", "primary_unit")  # columns of names, in which a comma is no decimal one
_SUMMARIES = (
    "total",
    "totals",
    "grand total",
    "subtotal",
    "sum",
    "mean",
    "average",
    "mittelwert",
    "summe",
    "gesamt",
    "moyenne",
    "promedio",
)
_ZONES = re.compile(r"zone|utm|epsg|srid|huso|fuso", re.IGNORECASE)  # names of columns that may say in which zone of UTM a row is
_FEW_SWAPPED, _SHARE_SWAPPED = 3, 0.1
"""Latitudes beyond 90 degrees, of so many and of this share of the places, show that longitude and latitude are swapped."""


@dataclass(frozen=True)
class TableRule:
    """Rules by which a table of points or horizons is read."""

    # our name -> the table's column, where it is not found by its name; `columns.NOT_USED` and `columns.BY_ROW` count too
    columns: Mapping[str, str] = field(default_factory=dict)
    sites: Path | None = None  # a second table that has the coordinates (and years) of the profiles, joined by their ids
    crs: str | None = None  # coordinate system of the coordinates; None: longitude and latitude
    below_limit: BelowLimit = "ask"  # as of `values.Reading`, as is missing
    missing: Sequence[str] = ()
    depth_unit: str | None = None  # one of `quantities.QUANTITIES["depth"].units`; None: as column names say, else cm
    further: Sequence[str] = ()  # names of `columns.SAMPLING` that are looked for, too


@dataclass
class PointTable:
    """A table of points as text, and its columns."""

    path: Path  # where it was read from, for errors
    raw: pd.DataFrame  # all columns as text exactly as written, NaN where there is nothing; no row is left out
    columns: Columns  # those that were found
    rule: TableRule = field(default_factory=TableRule)  # by which it is read
    notes: list[str] = field(default_factory=list)  # sentences on what was done, for the user

    @cached_property
    def reading(self) -> Reading:
        """Rules for text that is no plain number."""
        comma = has_decimal_commas(self.raw[[name for ours, name in self.columns.found.items() if ours not in _TEXTS]])
        return Reading(self.rule.below_limit, self.rule.missing, "," if comma else "")

    def __getitem__(self, ours: str) -> pd.Series:
        """Return a column by our name."""
        return self.raw[self.columns.found[ours]]

    def get(self, ours: str) -> pd.Series | None:
        """Return a column by our name, or None if there is none."""
        name = self.columns.found.get(ours)
        return None if name is None else self.raw[name]

    def take(self, ours: str, column: str) -> None:
        """Take a column for what we call `ours`, in the unit that it states."""
        self.columns.found[ours] = column
        self.columns.units.pop(ours, None)
        if unit := stated_unit(self.raw, column, ours, self.path):
            self.columns.units[ours] = unit

    def _letters(self, name: str) -> pd.Series | None:
        """Return the column of letters of lon or lat; one without any is none (WISE's degrees and minutes), and is forgotten."""
        column = self.get(f"{name}_letter")
        if column is not None and not column.dropna().str.match(r"\s*[EWNSewns]").any():
            del self.columns.found[f"{name}_letter"]
            return None
        return column

    def __contains__(self, ours: str) -> bool:
        return ours in self.columns.found

    def require(self, *wanted: str) -> None:
        """Raise UserError if some of our names have no column, with all that are missing and names they may have."""
        if missing := [ours for ours in wanted if ours not in self]:
            lacks = ", ".join(f"{ours} (or {', '.join((ALIASES | SAMPLING)[ours][1:4])} ...)" for ours in missing)
            blanks = "; its fields are not separated by , ; or tabs" if len(self.raw.columns) == 1 else ""
            saw = f"no column for {lacks}; it has {self.shown}{blanks}"
            raise UserError(f"{self.path}: {saw}: name it by --columns {missing[0]}=NAME")

    def check_measurement(self, name: str, setting: str) -> None:
        """Raise UserError if a column that a setting names is not there, or has another meaning."""
        placed = [column for ours, column in self.columns.found.items() if ours in ("profile_id", "lon", "lat", "top", "bottom")]
        if name in self.raw.columns and name not in placed:
            return
        longer = next((column for column in self.raw.columns if name.lower() in column.lower()), None)
        near = f"; did you mean {longer!r}?" if longer else nearest(name, list(self.raw.columns))
        what = "is no measurement" if name in self.raw.columns else f"is not in it{near}"
        raise UserError(f"{self.path}: the target column {name!r} {what} ({setting} takes one of {self.shown})")

    @property
    def shown(self) -> str:
        """Names of the first columns, for errors."""
        return ", ".join(map(str, self.raw.columns[:12]))

    def text(self, name: str, setting: str) -> pd.Series:
        """Return a column that a setting names as text (N,), NaN where there is nothing; UserError if it is not there."""
        if name not in self.raw:
            raise UserError(f"{self.path}: no column {name!r} ({setting}){nearest(name, list(self.raw))}; it has {self.shown}")
        words = self.raw[name].astype("str").str.strip()
        return words.where(words != "")

    def ids(self) -> pd.Series:
        """Return ids (N,) as text exactly as written, NaN where there is none; row numbers if there is no column of ids.

        UserError if a row is the sum or mean of others by its id.
        """
        if "profile_id" not in self:
            return pd.Series([str(k) for k in range(1, len(self.raw) + 1)], dtype="str")
        ids = self.text(self.columns.found["profile_id"], "--columns")
        if (summary := ids.str.lower().isin(_SUMMARIES)).any():
            raise UserError(f"{self.path}: {summary.sum()} rows are called such as {ids[summary].iloc[0]!r}; delete sums and means")
        return ids

    def numbers(self, column: str, negative: bool = True, signs: list[str] | None = None) -> np.ndarray:
        """Return a column of the table as numbers (N,) by the rules of `values.numbers`; UserError if rows have several units."""
        unit_beside(self.raw, column, self.path)
        return numbers(self.raw[column], self.path, column, self.reading, self.notes, negative, signs)

    def years(self) -> np.ndarray:
        """Return the years (N,), NaN throughout if there is no column of years or dates."""
        if "year" not in self:
            return np.full(len(self.raw), np.nan)
        return years(self["year"], self.path, self.columns.found["year"], self.reading, self.notes)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return longitude and latitude (N,), degrees, NaN where missing or text; longitudes of 180 to 360 are turned.

        UserError if they are swapped, projected (or not, where the rule says so), or in degrees and minutes.
        """
        self.require("lon", "lat")
        found = self.columns.found
        lon, lat = (
            degrees(self[name], self._letters(name), self.path, found[name], self.reading, self.notes) for name in ("lon", "lat")
        )
        nowhere = (lon == 0) & (lat == 0)
        if nowhere.any():
            self.notes.append(f"{nowhere.sum()} places at 0, 0 taken for missing")
            lon, lat = np.where(nowhere, np.nan, lon), np.where(nowhere, np.nan, lat)
        if self.rule.crs is not None:
            lon, lat = _to_degrees(self, lon, lat, self.rule.crs)
            self.notes.append(f"coordinates transformed from {self.rule.crs} to degrees")
        check_not_swapped(lon, lat, self.path)
        known = ~(np.isnan(lon) | np.isnan(lat))
        metres = known & ((np.abs(lon) > 360) | (np.abs(lat) > 90))
        if metres.sum() * 2 > known.sum():
            example = f"first {lon[metres][0]:.10g}, {lat[metres][0]:.10g}"
            count = f"{metres.sum()} of {known.sum()} coordinates are no degrees ({found['lon']}, {found['lat']}: {example})"
            raise UserError(f"{self.path}: {count}; if they are projected, --crs EPSG:... names their coordinate system")
        east = known & (lon > 180) & (lon <= 360)
        if east.any() and not (lon[known] < 0).any():
            self.notes.append(f"{east.sum()} longitudes above 180 are turned: {lon[east][0]:g} is {lon[east][0] - 360:g}")
            lon = np.where(east, np.round(lon - 360, 12), lon)
        return lon, lat


def read_points(path: Path, rule: TableRule = TableRule()) -> PointTable:  # noqa: B008 - frozen
    """Read any of the formats as text, and find its columns; geometries become columns lon and lat.

    They are *.csv, *.tsv, *.txt; *.geojson, *.json; *.shp; *.gpkg, of several layers `file.gpkg:layer`. UserError if a file cannot
    be read, holds no rows, names a column twice, or has none of the ids of the sites.
    """
    raw = _read(path)
    named = dict(rule.columns)
    wanted = (*ALIASES, *rule.further)
    if unknown := next((ours for ours in named if ours not in wanted), None):
        known = ", ".join(wanted)
        raise UserError(f"--columns {unknown}={named[unknown]}: {unknown!r} is none of {known}{nearest(unknown, wanted)}")
    if rule.sites is None:
        return PointTable(path, raw, find_columns(raw, path, named, wanted), rule)
    sites = _read(rule.sites)
    own = {ours: name for ours, name in named.items() if name in raw.columns or name not in sites.columns}
    first = PointTable(path, raw, find_columns(raw, path, own), replace(rule, sites=None))
    theirs = {ours: name for ours, name in named.items() if name in sites.columns}
    second = PointTable(rule.sites, sites, find_columns(sites, rule.sites, theirs), rule)
    return _joined(first, second)


def _joined(points: PointTable, sites: PointTable) -> PointTable:
    """Return a table with the columns of its sites, found by id."""
    points.require("profile_id")
    sites.require("profile_id", "lon", "lat")
    ids, theirs = points.ids(), sites.ids()
    double = theirs[theirs.notna() & theirs.duplicated()]
    if len(double):
        raise UserError(f"{sites.path}: {len(double)} profile_id come twice (first {double.iloc[0]!r}); a site table has each once")
    known = ids.isin(theirs.dropna())
    if known.sum() < _MOST_UNMATCHED * ids.notna().sum():
        lost, example = ids[~known & ids.notna()].iloc[0], theirs.dropna().iloc[0] if theirs.notna().any() else ""
        count = f"{int((~known).sum())} of {len(ids)} rows of {points.path.name} have no site in it"
        raise UserError(f"{sites.path}: {count} (first {lost!r}; its ids are such as {example!r}); ids must be written alike")
    row = {name: k for k, name in enumerate(theirs.tolist()) if isinstance(name, str)}
    moved = sites.raw.reindex(ids.map(row).to_numpy()).reset_index(drop=True)
    placed = ("lon", "lat", "lon_letter", "lat_letter")
    taken = {ours: name for ours, name in sites.columns.found.items() if ours in placed or (ours == "year" and ours not in points)}
    raw = points.raw.copy()
    found = {ours: name for ours, name in points.columns.found.items() if ours not in placed}
    for ours, name in taken.items():
        free = name if name not in raw else f"{name}_site"
        raw[free], found[ours] = moved[name], free
    others = [name for name in moved if name not in sites.columns.found.values() and name not in raw]
    raw = pd.concat([raw, moved[others]], axis=1)
    columns = Columns(found, points.columns.units, points.columns.relevant)
    notes = [f"{int(known.sum())} of {len(ids)} rows joined to {len(theirs)} sites of {sites.path.name}"]
    return PointTable(points.path, raw, columns, points.rule, notes)


# --- formats ---------------------------------------------------------------------------------------------------------


def table_file(path: Path) -> Path:
    """Return the file of a table that may be named `file.gpkg:layer`."""
    file, colon, layer = str(path).rpartition(":")
    return Path(file) if colon and layer and file.lower().endswith(".gpkg") else path


def _read(path: Path) -> pd.DataFrame:
    """Return all columns of a file as text, NaN where there is nothing."""
    file, suffix = table_file(path), table_file(path).suffix.lower()
    if suffix in (".geojson", ".json"):
        table = _as_text(_read_geojson(path))
    elif suffix in (".gpkg", ".shp"):
        table = _as_text(_read_vector(file, str(path)[len(str(file)) + 1 :]))
    else:
        header, rows = read_rows(path)
        names = [name or f"unnamed_{k}" for k, name in enumerate(header, start=1)]
        table = pd.DataFrame(rows, columns=names, dtype="str")
        table = table.where(table != "")
    if table.empty:
        raise UserError(f"{path}: holds no rows")
    if table.columns.duplicated().any():
        raise UserError(f"{path}: column {table.columns[table.columns.duplicated()][0]!r} is there twice")
    return table


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of any values as text: whole numbers without a decimal point, dates as ISO 8601."""

    def text(value: Any) -> str | None:
        if value is None or value != value or value is pd.NaT:
            return None
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        return value.isoformat() if isinstance(value, pd.Timestamp) else str(value).strip() or None

    names = [str(name) if str(name).strip() else f"unnamed_{k}" for k, name in enumerate(table, start=1)]
    columns = {name: [text(value) for value in column.tolist()] for name, (_, column) in zip(names, table.items(), strict=True)}
    return pd.DataFrame(columns, dtype="str")


def _read_geojson(path: Path) -> pd.DataFrame:
    must_exist(path, "file")
    with path.open("rb") as file:  # before a file of any size is read
        if not file.read(2**16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            raise UserError(f"{path}: not a GeoJSON FeatureCollection (it does not begin with a brace)")
    try:
        collection = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=limits.whole_number)
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
    return pd.DataFrame(rows, dtype=object).assign(lon=lon, lat=lat)


def _read_vector(path: Path, layer: str) -> pd.DataFrame:
    """Return the points of a shapefile or a layer of a GeoPackage; "": its only one."""
    import geopandas
    import pyogrio  # type: ignore[import-untyped]

    must_exist(path, "file")
    # GDAL opens a file by its content, whatever its name, and some formats point to other files or to the network.
    is_shapefile = path.suffix.lower() == ".shp"
    signature = b"\x00\x00\x27\x0a" if is_shapefile else b"SQLite format 3\x00"
    with path.open("rb") as file:
        if file.read(len(signature)) != signature:
            raise UserError(f"{path}: not a {'shapefile' if is_shapefile else 'GeoPackage'}, whatever its name says")
    try:
        names = [str(name) for name, _ in pyogrio.list_layers(path)]
        has = ", ".join(names[:12])
        if layer and layer not in names:
            raise UserError(f"{path}: no layer {layer!r}{nearest(layer, names)}; it has {has}")
        if not layer and len(names) > 1:
            raise UserError(f"{path}: has {len(names)} layers, {has}; name one as {path.name}:{names[0]}")
        layer = layer or names[0]
        check_layer(path, layer)
        points = geopandas.read_file(path, layer=layer)
    except UserError:
        raise
    except Exception as error:  # whichever library reads it, with errors of its own
        raise UserError(f"{path}: not readable as a vector layer ({' '.join(str(error).split())[:150]})") from error
    if not isinstance(points, geopandas.GeoDataFrame) or points.crs is None:
        raise UserError(f"{path}: its layer has no geometry or no coordinate reference system")
    foreign = set(points.geom_type.dropna()) - {"Point"}
    if foreign:
        raise UserError(f"{path}: holds a {min(foreign)}; profiles must be of type Point")
    places = points.geometry.to_crs(4326)
    return pd.DataFrame(points.drop(columns=points.geometry.name)).assign(lon=places.x, lat=places.y)


# --- places ----------------------------------------------------------------------------------------------------------


def _to_degrees(points: PointTable, x: np.ndarray, y: np.ndarray, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude of coordinates in any system.

    UserError if it is not known, or coordinates are degrees and it is projected, or rows are of another zone of UTM.
    """
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        known = CRS.from_user_input(crs)
        lon, lat = Transformer.from_crs(known, 4326, always_xy=True).transform(x, y)
    except ProjError as error:
        raise UserError(f"--crs {crs}: no coordinate system that is known; such as EPSG:32633 ({str(error)[:100]})") from error
    found, given = points.columns.found, np.isfinite(x) & np.isfinite(y)
    if known.is_projected and given.any() and np.abs(x[given]).max() <= 360 and np.abs(y[given]).max() <= 90:
        saw = f"{found['lon']}, {found['lat']} are degrees (first {x[given][0]:.10g}, {y[given][0]:.10g}), not of {crs}"
        raise UserError(f"{points.path}: {saw}: leave --crs out, or name the columns of the others (--columns lon=NAME lat=NAME)")
    own = {int(number) for number in re.findall(r"\d+", f"{known.utm_zone} {crs}")}
    for name in (name for name in points.raw if known.utm_zone and _ZONES.search(name) and name not in found.values()):
        zones = points.raw[name].str.extract(r"^\D*(\d\d?|\d{4,5})\D*$")[0].dropna().astype(int)
        others = zones[~zones.isin(own)]
        if len(others) and (len(others) < len(zones) or re.search("utm|epsg|srid", name.lower())):
            saw = f"column {name!r}: {len(others)} of {len(zones)} rows are of zone {others.iloc[0]}, {crs} is of {known.utm_zone}"
            raise UserError(f"{points.path}: {saw}; transform each zone for itself, to degrees")
    unknown = ~(np.isfinite(lon) & np.isfinite(lat))
    return np.where(unknown, np.nan, lon), np.where(unknown, np.nan, lat)


def check_not_swapped(lon: np.ndarray, lat: np.ndarray, path: Path) -> None:
    """Raise UserError if several positions are impossible as they stand and all are possible with lon and lat swapped.

    Of a table of both hemispheres only the places beyond 90 degrees of longitude show it.
    """
    known = ~(np.isnan(lon) | np.isnan(lat))
    wrong = known & (np.abs(lat) > 90)
    several = wrong.sum() >= max(_FEW_SWAPPED, _SHARE_SWAPPED * known.sum()) or wrong.sum() * 2 > known.sum()
    if several and not (known & ((np.abs(lat) > 180) | (np.abs(lon) > 90))).any():
        count = f"{wrong.sum()} of {lon.size} rows, first: lon {lon[wrong][0]:g}, lat {lat[wrong][0]:g}"
        raise UserError(f"{path}: longitude and latitude look swapped ({count}); swap the columns")
