"""Read a stranger's table of soil profiles, or of their horizons, into clean profiles.

In: CSV or TSV, GeoJSON, GeoPackage. Out: one row per profile with profile_id, lon, lat, soc (g/kg), and the rows that
were left out with the reason. Nothing is mended in silence: all that is left out is counted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import depths
from config import SOC_MAXIMUM, nearest
from files import UserError, read_table

# What columns are called, in order of preference, in lower case. The first name of each is ours.
ALIASES: dict[str, tuple[str, ...]] = {
    "profile_id": ("profile_id", "profileid", "profile", "id", "pid", "site_id", "point_id", "pointid", "sample_id", "plot_id"),
    "lon": ("lon", "longitude", "long", "lng", "lon_dd", "longitude_dd", "x", "x_coord", "coord_x"),
    "lat": ("lat", "latitude", "lat_dd", "latitude_dd", "y", "y_coord", "coord_y"),
    "top": ("top", "upper_depth", "depth_top", "top_depth", "depth_top_cm", "top_cm", "upper", "hzdept_r"),
    "bottom": ("bottom", "lower_depth", "depth_bottom", "bottom_depth", "depth_bottom_cm", "bottom_cm", "lower", "hzdepb_r"),
}
WOSIS_TARGET = "value_avg"
"""The measured value in the files of the WoSIS snapshots."""
_LEADING = ("profile_id", "lon", "lat", "soc")
_HIGHEST_LITTER = -100.0
"""cm: a top above it is a code for an unknown depth, not an organic layer."""


@dataclass
class Profiles:
    """Clean profiles, and what was left out of them.

    Attributes
    ----------
    table
        N rows: profile_id (text, unique), lon, lat, soc, further columns as they came; of a horizon table also
        cm_covered and n_layers, and of its columns those that are constant within every profile.
    facts
        What the file was, and counts; plain values.
    rejected
        profile_id, reason: one row for each that was left out.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    rejected: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"profile_id": [], "reason": []}, dtype="str"))

    def reject(self, *checks: tuple["np.ndarray | pd.Series", str]) -> None:
        """Move rows to the rejected ones: each check says which rows (N,) are bad and why; the first that holds counts."""
        reason = np.select([np.asarray(bad, bool) for bad, _ in checks], [why for _, why in checks], "")
        gone = pd.DataFrame({"profile_id": self.table["profile_id"], "reason": reason})[reason != ""]
        self.rejected = pd.concat([self.rejected, gone], ignore_index=True)
        self.table = self.table[reason == ""].reset_index(drop=True)

    def counts(self) -> dict[str, int]:
        """Return how many were left out for each reason."""
        return {str(reason): int(count) for reason, count in self.rejected["reason"].value_counts().items()}


def read_profiles(
    path: Path,
    target: str | None,
    interval: tuple[float, float] = (0.0, 30.0),
    min_covered: float = 0.0,
    bounds: tuple[float, float, float, float] | None = None,
    places_only: bool = False,
    depth_method: depths.Method = "mean",
    spline_lambda: float = 0.1,
    further: Sequence[tuple[float, float]] = (),
) -> Profiles:
    """Read profiles, check every row, and bring horizons to one depth interval.

    A table with columns of upper and lower depth is taken for horizons, unless it has a column cm_covered, which
    says that they have been averaged already. Of several good rows with one profile_id the first is kept.

    Parameters
    ----------
    path
        CSV, TSV or semicolon-separated; *.geojson, *.json, *.gpkg or *.shp of points. Columns go by `ALIASES`.
    target
        The column of soil organic carbon, g/kg; None: "soc", or "value_avg" of a WoSIS file.
    interval
        Upper and lower limit, cm, that horizons are averaged over.
    min_covered
        Leave out profiles with fewer observed centimetres.
    bounds
        lon_min, lon_max, lat_min, lat_max: profiles beyond are dropped and only counted.
    places_only
        Rows are places to predict: no target is needed, and soc is NaN.
    depth_method, spline_lambda
        How horizons are brought to an interval (`depths.harmonise`).
    further
        Intervals, cm, that get a column each beside soc: soc_0_5 for 0 to 5 cm. It is empty for profiles with less
        than `min_covered` observed, or with less than all of an interval that is thinner; they are counted.

    Raises
    ------
    UserError
        If the file, a column or a whole column's content is wrong, or longitude and latitude look swapped.
    """
    raw = _read(path)
    if places_only:
        raw, target = raw.drop(columns="soc", errors="ignore").assign(soc=np.nan, cm_covered=np.nan), "soc"
    table, columns, is_horizons = _name_columns(raw, path, target, [_column(pair) for pair in further])
    facts: dict[str, Any] = {"kind": "horizons" if is_horizons else "profiles", "rows": len(table), "columns": columns}
    target = columns["soc"]
    if is_horizons:
        table, facts["horizons"], layers = _to_profiles(table, path, target, [interval, *further], depth_method, spline_lambda)
        facts["depth_cm"] = list(interval)
        if further:
            table, facts["further_depths"] = _add_further(table, layers, min_covered)
    elif (depth_method != "mean" or further) and not places_only:
        raise UserError(
            f"{path}: depth_method and depth_limits need horizons (columns of upper and lower depth, none named cm_covered);"
            " leave them out for a table of profiles"
        )
    elif min_covered > 0 and "cm_covered" not in table:
        raise UserError(f"{path}: min_covered needs horizons, or a column 'cm_covered'; set it to 0")
    lon, lat = _numbers(table["lon"], path, "lon"), _numbers(table["lat"], path, "lat")
    _check_not_swapped(lon, lat, path)
    table = table[[*_LEADING, *(column for column in table if column not in _LEADING)]]
    profiles = Profiles(table.assign(lon=lon, lat=lat), facts)
    profiles.reject(
        (table["profile_id"].isna(), "no profile_id"),
        (np.isnan(lon) | np.isnan(lat), "longitude or latitude missing or not a number"),
        ((np.abs(lon) > 180) | (np.abs(lat) > 90), "longitude or latitude out of range"),
    )
    if bounds is not None:
        lon_min, lon_max, lat_min, lat_max = bounds
        here = profiles.table["lon"].between(lon_min, lon_max) & profiles.table["lat"].between(lat_min, lat_max)
        turned = profiles.table["lat"].between(lon_min, lon_max) & profiles.table["lon"].between(lat_min, lat_max)
        if not here.any() and turned.mean() > 0.5:
            raise UserError(f"{path}: longitude and latitude look swapped (none within bounds, {turned.sum()} if swapped)")
        facts["out_of_bounds"] = int((~here).sum())
        profiles.table = profiles.table[here].reset_index(drop=True)
    if is_horizons:
        why = f"no usable horizon within {interval[0]:g}-{interval[1]:g} cm"
        profiles.reject((profiles.table.pop("moves"), "its horizons lie at different places"), (profiles.table["soc"].isna(), why))
    elif not places_only:
        profiles.reject(*_value_checks(profiles.table["soc"], path, target))
        profiles.table["soc"] = profiles.table["soc"].astype(np.float64)
    if min_covered > 0:
        covered = _numbers(profiles.table["cm_covered"], path, "cm_covered")
        profiles.reject((~(covered >= min_covered), f"fewer than {min_covered:g} cm observed"))
    profiles.reject((profiles.table["profile_id"].duplicated(), "duplicate profile_id"))
    if places_only:
        profiles.table = profiles.table.drop(columns=["soc", "cm_covered"])
    return profiles


def unit_hint(soc: np.ndarray) -> str | None:
    """Return a sentence if values of soil organic carbon look like another unit than g/kg."""
    if len(soc) < 10:
        return None
    middle, most = float(np.median(soc)), float(np.max(soc))
    # Topsoils of the world have a median near 12 g/kg; pure organic matter has 580 g/kg, or 58 per cent, of carbon.
    if middle < 3 and most < 60:
        return f"the values (median {middle:.3g}, largest {most:.3g}) look like per cent; soc is g/kg: multiply by 10 if so"
    return None


# --- reading -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> pd.DataFrame:
    """Read any of the formats; geometries become columns lon and lat."""
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


def _name_columns(
    raw: pd.DataFrame, path: Path, target: str | None, made: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, str], bool]:
    """Give columns our names, none of them one of those that will be `made`.

    Return the table, our name -> the column's name, and whether rows are horizons.
    """
    it_has = ", ".join(map(str, raw.columns[:12]))
    by_name = {str(column).lower(): str(column) for column in reversed(raw.columns)}
    chosen = {ours: by_name[name] for ours, names in ALIASES.items() for name in reversed(names) if name in by_name}
    is_horizons = "top" in chosen and "bottom" in chosen and "cm_covered" not in by_name
    if not is_horizons:
        chosen = {ours: column for ours, column in chosen.items() if ours not in ("top", "bottom")}
    for ours in ("lon", "lat", *(("profile_id",) if is_horizons else ())):
        if ours not in chosen:
            known = ", ".join(ALIASES[ours][:4])
            raise UserError(f"{path}: no column for {ours} (known names: {known} ...); it has {it_has}")
    if target is None:
        is_wosis = {WOSIS_TARGET, "upper_depth", "lower_depth"} <= set(raw.columns)
        target = WOSIS_TARGET if is_wosis and "soc" not in raw.columns else "soc"
    if target not in raw.columns or target in chosen.values():
        longer = next((column for column in raw.columns if target.lower() in column.lower()), None)
        near = f"; did you mean {longer!r}?" if longer else nearest(target, list(raw.columns))
        what = "is no measurement" if target in raw.columns else f"is not in it{near}"
        raise UserError(f"{path}: the target column {target!r} {what} (--target takes one of {it_has})")

    names = {column: ours for ours, column in chosen.items()} | {target: "soc"}
    taken = {*chosen, "profile_id", "soc"} | ({"cm_covered", "n_layers", "moves", *made} if is_horizons else set())
    others = {column: f"{column}_input" for column in raw.columns if column in taken and column not in names}
    table = raw.rename(columns=names | others)
    if "profile_id" not in table:
        table["profile_id"] = [str(k) for k in range(1, len(table) + 1)]
    ids = table["profile_id"].astype("str").str.strip()
    table["profile_id"] = ids.where(table["profile_id"].notna() & (ids != ""))
    return table, {"profile_id": "row number"} | chosen | {"soc": target}, is_horizons


# --- checking ----------------------------------------------------------------------------------------------------


def _numbers(column: pd.Series, path: Path, name: str) -> np.ndarray:
    """Return a column as (N,) float64 with NaN for what is no finite number; a column without any is an error."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    numbers[~np.isfinite(numbers)] = np.nan
    if len(column) and np.isnan(numbers).all():
        given = column.dropna()
        what = f"holds no numbers (first: {str(given.iloc[0])[:40]!r}; decimal commas?)" if len(given) else "is empty"
        raise UserError(f"{path}: column {name!r} {what}; numbers with a decimal point are needed")
    return numbers


def _value_checks(column: pd.Series, path: Path, target: str) -> list[tuple[np.ndarray, str]]:
    """Return what can be wrong with soil organic carbon, and where."""
    soc = _numbers(column, path, target)
    return [
        (column.isna().to_numpy(), f"{target} missing"),
        (np.isnan(soc), f"{target} not a number"),
        (soc < 0, f"{target} negative"),
        (soc > SOC_MAXIMUM, f"{target} above {SOC_MAXIMUM:g} g/kg"),
    ]


def _check_not_swapped(lon: np.ndarray, lat: np.ndarray, path: Path) -> None:
    """Stop if most positions are impossible as they stand and all are possible the other way round."""
    known = ~(np.isnan(lon) | np.isnan(lat))
    wrong = known & (np.abs(lat) > 90)
    if wrong.sum() * 2 > known.sum() and not (known & ((np.abs(lat) > 180) | (np.abs(lon) > 90))).any():
        count = f"{wrong.sum()} of {lon.size} rows, first: lon {lon[wrong][0]:g}, lat {lat[wrong][0]:g}"
        raise UserError(f"{path}: longitude and latitude look swapped ({count}); swap the columns")


# --- horizons ----------------------------------------------------------------------------------------------------


def _to_profiles(
    table: pd.DataFrame, path: Path, target: str, intervals: Sequence[tuple[float, float]], method: depths.Method, smoothing: float
) -> tuple[pd.DataFrame, dict[str, int], depths.Harmonised]:
    """Bring horizons to intervals; `smoothing` is the spline's lambda.

    Return one row per profile, its soc being of the first interval (NaN where nothing is usable), counts of what was
    odd, and the values in all intervals.
    """
    named = table["profile_id"].notna().to_numpy()
    counts = {"rows": len(table), "no profile_id": int((~named).sum())}
    table = table[named].reset_index(drop=True)
    top, bottom = (_numbers(table[name], path, name) for name in ("top", "bottom"))
    profile, ids = pd.factorize(table["profile_id"])
    checks = [
        (np.isnan(top) | np.isnan(bottom), "depth missing or not a number"),
        ((bottom <= top) | (top < _HIGHEST_LITTER), "depth impossible (bottom not below top)"),
        *_value_checks(table["soc"], path, target),
    ]
    fault = np.select([bad for bad, _ in checks], np.arange(1, len(checks) + 1), 0)
    counts |= {why: int((fault == k).sum()) for k, (_, why) in enumerate(checks, start=1)}
    placed = (fault == 0) | (fault > 2)
    top[placed], bottom[placed], counts["profiles with organic layers above 0"] = depths.from_surface(
        profile[placed], top[placed], bottom[placed]
    )
    good = fault == 0
    value = pd.to_numeric(table["soc"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    layers = depths.harmonise(
        profile[good], top[good], bottom[good], value[good], intervals, len(ids), method, smoothing, (0.0, SOC_MAXIMUM)
    )
    counts |= layers.counts

    first = np.flatnonzero(~pd.Series(profile).duplicated())
    once = {
        name: column.iloc[first].reset_index(drop=True)
        for name, column in table.drop(columns=["top", "bottom", "soc"]).items()
        if name in ("profile_id", "lon", "lat") or _is_constant(column, profile, first)
    }
    moves = np.zeros(len(ids), bool)
    for name in ("lon", "lat"):
        degrees = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        np.logical_or.at(moves, profile, np.abs(degrees - degrees[first][profile]) > 1e-5)  # a metre is no move
    averaged = pd.DataFrame(once).assign(
        soc=layers.mean[:, 0], cm_covered=layers.covered[:, 0], n_layers=layers.layers[:, 0], moves=moves
    )
    return averaged, {what: count for what, count in counts.items() if count}, layers


def _column(interval: tuple[float, float]) -> str:
    """Return the column that holds soil organic carbon of a further interval."""
    return f"soc_{interval[0]:g}_{interval[1]:g}"


def _add_further(
    table: pd.DataFrame, layers: depths.Harmonised, min_covered: float
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Add a column for each interval but the first; return the table, and of each column how many have a value or not."""
    columns = [_column(interval) for interval in layers.intervals.tolist()]
    enough, counts = layers.sufficient(min_covered)
    further = pd.DataFrame(np.where(enough, layers.mean, np.nan)[:, 1:], columns=columns[1:])
    return pd.concat([table, further], axis=1), dict(zip(columns[1:], counts[1:], strict=True))


def _is_constant(column: pd.Series, profile: np.ndarray, first: np.ndarray) -> bool:
    """Whether a column (L,) has one value, or none, within every profile; `first` is the first row of each."""
    values, expected = column.to_numpy(object), column.iloc[first].to_numpy(object)[profile]
    return bool(((values == expected) | (pd.isna(values) & pd.isna(expected))).all())
