"""Columns of tables of points found by name: one table of common names, and units that a header states.

Names are compared without regard to case, blanks, hyphens, underscores, dots and brackets; a unit may follow: "Upper depth (cm)",
"bulk_density_kgm3" and "SOC [%]" are known.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from soilcarbon.categories import first_repeated
from soilcarbon.io.files import UserError, nearest

ALIASES: dict[str, tuple[str, ...]] = {
    "profile_id": (
        "profile_id", "profile", "id", "pid", "site_id", "point_id", "sample_id", "plot_id", "source_id", "pedon_key",
        "pedon_id", "peiid", "user_pedon_id", "pedon", "soil_profile_id", "profile_code", "profile_name", "profile_no",
        "profile_nr", "profile_number", "pro_name", "prid", "wise3_id", "wise_id", "observation_id", "observacao_id",
        "location_id", "loc_id", "station_id", "site_key", "core_id", "core", "plot", "plot_no", "site_no", "sample_no",
        "pedlabsampnum", "labsampnum",
    ),
    "lon": (
        "lon", "longitude", "long", "lng", "lon_dd", "longitude_dd", "long_dd", "lon_wgs84", "long_wgs84", "longitude_wgs84",
        "wgs84_lon", "x_wgs84", "decimal_longitude", "longitude_decimal_degrees", "longitude_std_decimal_degrees", "lon_dec",
        "long_dec", "longitude_dec", "longdeg", "gps_long", "gps_lon", "th_long", "coord_longitude", "pro_long", "site_long",
        "x_lon", "x_lonlat", "lon_deg", "long_deg", "longitude_deg", "lon_degrees", "longitude_degrees", "lon_e", "long_e",
        "longitude_e", "longitude_deg_e", "longitude_degrees_e", "longitude_degrees_east", "longitud", "longitudine", "laengengrad",
        "längengrad", "x", "x_coord", "coord_x", "point_x", "easting",
    ),
    "lat": (
        "lat", "latitude", "lat_dd", "latitude_dd", "lat_wgs84", "latitude_wgs84", "wgs84_lat", "y_wgs84", "decimal_latitude",
        "latitude_decimal_degrees", "latitude_std_decimal_degrees", "lat_dec", "latitude_dec", "latdeg", "gps_lat", "th_lat",
        "coord_latitude", "pro_lat", "site_lat", "y_lat", "y_lonlat", "lat_deg", "latitude_deg", "lat_degrees", "latitude_degrees",
        "lat_n", "latitude_n", "latitude_deg_n", "latitude_degrees_n", "latitude_degrees_north", "latitud", "latitudine",
        "breitengrad", "y", "y_coord", "coord_y", "point_y", "northing",
    ),
    "top": (
        "top", "upper_depth", "depth_top", "top_depth", "upper", "depth_upper", "upper_limit", "hzdept", "hzdept_r", "hzn_top",
        "hztop", "horizon_top", "layer_top", "lyr_top", "sample_top", "uhdi", "udi", "lay_depth_to_top", "depth_to_top",
        "topdep", "updpth", "upp_depth", "top_limit", "depth_from", "from_depth", "from", "depth_min", "min_depth",
        "start_depth", "depth_start", "upper_boundary", "top_boundary", "upper_horizon_depth", "depth_upper_limit",
        "upper_depth_limit", "profund_sup",
    ),
    "bottom": (
        "bottom", "lower_depth", "depth_bottom", "bottom_depth", "bot", "lower", "depth_lower", "lower_limit", "hzdepb",
        "hzdepb_r", "hzn_bot", "hzbot", "horizon_bottom", "layer_bot", "layer_bottom", "lyr_bot", "sample_bottom", "lhdi",
        "ldi", "lay_depth_to_bottom", "depth_to_bottom", "botdep", "lowdpth", "low_depth", "bottom_limit", "depth_to",
        "to_depth", "to", "depth_max", "max_depth", "end_depth", "depth_end", "lower_boundary", "bottom_boundary",
        "lower_horizon_depth", "depth_lower_limit", "lower_depth_limit", "depth_bot", "bot_depth", "profund_inf",
    ),
    "depth": (
        "depth", "depth_range", "depth_interval", "layer_depth", "soil_depth", "sample_depth", "sampling_depth", "depth_class",
        "depth_layer", "depth_range_for_sample", "soil_depth_of_sample", "depth_increment", "horizon_depth", "depths",
    ),
    "horizon": (
        "horizon", "hzname", "hz_name", "hzn", "hzn_desgn", "horizon_designation", "designation", "horizon_name", "hz",
        "hzn_name", "layer_name", "horizon_code", "hodesg", "hzn_desgn_master",
    ),
    "year": (
        "year", "sampling_year", "survey_year", "year_sampled", "sample_year", "observation_year", "obs_year", "yr", "date",
        "sampling_date", "sample_date", "date_sampled", "observation_date", "obs_date", "survey_date", "collection_date",
        "observacao_data", "lyr_obs_date_y", "jahr", "annee", "année", "anno", "año",
    ),
    "soc": (
        "soc", "oc", "orgc", "orgc_value_avg", "toc", "orgcarb", "org_c", "organic_carbon", "soil_organic_carbon", "orcdrc",
        "org_carb", "total_organic_carbon", "c_org", "corg", "soil_organic_c", "organic_c", "carbono",
    ),
    "bulk_density": (
        "bulk_density", "bd", "bld", "db", "bdfi", "bdfiod", "bdfiod_value_avg", "bdod", "bd_od", "bulk_dens",
        "bulk_density_fine_earth", "bd_fine_earth", "dbod", "db_od", "bdfi33", "bd_samp", "soil_bulk_density",
        "dry_bulk_density",
    ),
    "stones": (
        "stones", "cf", "crf", "cfvo", "cfvo_value_avg", "crfvol", "coarse_fragments", "gravel", "rock_fragments",
        "coarse_frag", "coarse_fragment", "rock_fragment", "coarse", "frag_vol", "crf_vol", "crfvo", "fragments", "skeleton",
        "stoniness", "coarse_vol", "total_frags", "gravel_content", "frags", "rock_frag", "rfrag",
    ),
    "som": (
        "som", "om", "organic_matter", "soil_organic_matter", "humus", "org_matter", "humus_content", "loi", "loss_on_ignition",
    ),
    "lon_letter": (
        "ew", "e_w", "lon_ew", "lon_hem", "lon_hemisphere", "lon_dir", "long_dir", "longitude_dir", "longitude_direction",
        "lon_direction", "longitude_ew", "long_ew", "longitude_hemisphere", "gps_ew", "lon_e_w", "hemisphere_ew",
        "longitude_hem", "th_ew", "gps_e_w", "ewhem", "lon_ew_hem",
    ),
    "lat_letter": (
        "ns", "n_s", "lat_ns", "lat_hem", "lat_hemisphere", "lat_dir", "latitude_dir", "latitude_direction", "lat_direction",
        "latitude_ns", "latitude_hemisphere", "gps_ns", "lat_n_s", "hemisphere_ns", "latitude_hem", "th_ns", "gps_n_s",
        "nshem", "hemisphere",
    ),
}  # fmt: skip
"""Our name -> common names, by preference: of GSIF, aqp, NCSS, WoSIS, WISE, LUCAS, SoilGrids, ISRaD, ISCN, febr, AfSP."""
SAMPLING: dict[str, tuple[str, ...]] = {
    "stratum": ("stratum", "strata", "stratum_id", "stratum_name", "stratum_code", "stratum_no", "strat"),
    "inclusion_probability": (
        "inclusion_probability", "inclusion_prob", "incl_prob", "probability_of_inclusion", "inclusionprobability",
    ),
    "weight": ("weight", "sampling_weight", "design_weight", "survey_weight", "sample_weight"),
    "primary_unit": ("primary_unit", "psu", "primary_sampling_unit", "primary_unit_id", "psu_id", "cluster_id"),
    "stratum_size": ("stratum_size", "stratum_area", "stratum_km2", "stratum_area_km2", "stratum_cells"),
    "probability_sample": ("probability_sample", "is_probability_sample"),
    "reserve": ("reserve", "is_reserve", "reserve_point"),
}  # fmt: skip
"""Our name -> common names of columns that say how points were drawn; looked for where a command asks for them."""
_DEPTH_UNITS = {"cm": "cm", "m": "m", "mm": "mm", "in": "in", "inch": "in", "inches": "in", "metres": "m", "meters": "m"}
_SHARES = {"pct": "percent", "percent": "percent", "%": "percent", "perc": "percent", "frac": "fraction", "fraction": "fraction",
           "permille": "per_mille", "promille": "per_mille"}  # fmt: skip
UNITS_IN_NAMES: dict[str, dict[str, str]] = {
    "top": _DEPTH_UNITS,
    "bottom": _DEPTH_UNITS,
    "depth": _DEPTH_UNITS,
    "soc": {"gkg": "g/kg", "gperkg": "g/kg", "gkg1": "g/kg", "pct": "%", "percent": "%", "%": "%", "perc": "%", "wtpct": "%",
            "wt%": "%", "masspct": "%", "g100g": "%", "dagkg": "%", "mgkg": "mg/kg", "ppm": "mg/kg", "mgg": "mg/g", "gg": "g/g",
            "dgkg": "dg/kg"},
    "bulk_density": {"gcm3": "g/cm3", "gpercm3": "g/cm3", "gcc": "g/cm3", "kgm3": "kg/m3", "kgperm3": "kg/m3", "kgdm3": "kg/dm3",
                     "mgm3": "Mg/m3", "tm3": "t/m3", "cgcm3": "cg/cm3", "kgl": "kg/dm3"},
    "stones": {**_SHARES, **{f"vol{name}": unit for name, unit in _SHARES.items()},
               **{f"{name}vol": unit for name, unit in _SHARES.items()}, "vol": "percent", "volume": "percent", "cm3dm3": "cm3/dm3",
               **{f"{by}{name}": f"mass_{unit}" for by in ("mass", "wt", "weight") for name, unit in _SHARES.items()
                  if unit != "per_mille"},
               **{f"{name}{by}": f"mass_{unit}" for by in ("mass", "wt", "weight") for name, unit in _SHARES.items()
                  if unit != "per_mille"}, "mass": "mass_percent", "wt": "mass_percent", "weight": "mass_percent"},
    "som": {"gkg": "g/kg", "gkg1": "g/kg", "pct": "%", "percent": "%", "%": "%", "perc": "%", "dagkg": "%", "wtpct": "%"},
}  # fmt: skip
"""Our name -> unit as it follows a column's name, without punctuation -> the unit."""
_DENSITIES = {"kgm2": "kg/m2", "gm2": "g/m2", "tha": "t/ha", "mgha": "t/ha"}
_SHOWN = 12
NOT_USED = "none"  # in place of a column: the table's own is not to be used
BY_ROW = "row"  # in place of a column of ids: each row is a profile of its own


@lru_cache(10_000)  # of every alias, for every table
def plain(name: str) -> str:
    """Return a name without case and punctuation; a power of -1 or -3 is taken as division.

    >>> plain("Bulk density [g cm-3]"), plain("SOC (g kg-1)"), plain("hzn_top")
    ('bulkdensitygcm3', 'socgkg', 'hzntop')
    """
    name = re.sub(r"(?<=[a-z])\^?[-−]1\b", "", str(name).lower().replace("²", "2").replace("³", "3"))
    return re.sub(r"[^\w%]|_", "", name)


@dataclass(frozen=True)
class Columns:
    """Columns of a table: those that were found, the units that their names state, and all that look relevant."""

    found: dict[str, str]  # our name -> the table's column
    units: dict[str, str] = field(default_factory=dict)  # our name -> unit stated by the column's name
    relevant: tuple[str, ...] = ()  # columns of a known or telling name

    def unused(self, used: Mapping[str, str]) -> list[str]:
        """Return the relevant columns that are not among the used ones (our name -> column), at most a dozen."""
        return [name for name in self.relevant if name not in used.values()][:_SHOWN]


_TELLING = re.compile(
    r"depth|dpth|top|bottom|upper|lower|year|date|soc|carb|orgc|humus|organic|bulk|dens|stone|gravel|coarse|frag|lon|lat",
    re.IGNORECASE,
)


def find_columns(
    table: pd.DataFrame, path: Path | None = None, named: Mapping[str, str] | None = None, wanted: Sequence[str] = tuple(ALIASES)
) -> Columns:
    """Find columns by their common names, or as they are named: our name -> its column, `NOT_USED` or `BY_ROW`, which come first.

    UserError, naming `path`, if a named column is not there, or one is named twice.

    >>> find_columns(pd.DataFrame(columns=["ID", "Longitude", "y", "Upper depth (cm)", "SOC_pct"])).found
    {'profile_id': 'ID', 'lon': 'Longitude', 'lat': 'y', 'top': 'Upper depth (cm)', 'soc': 'SOC_pct'}
    """
    named, columns = dict(named or {}), [str(name) for name in table.columns]
    found: dict[str, str] = {}
    units: dict[str, str] = {}
    for ours, column in named.items():
        if column in columns:
            found[ours] = column
        elif column not in (NOT_USED, BY_ROW):
            raise UserError(f"{path}: no column {column!r} ({ours}={column}){nearest(column, columns)}")
    if (double := first_repeated(list(found.values()))) is not None:
        raise UserError(f"{path}: column {double!r} is named twice; name different ones")
    by_name = {plain(name): name for name in reversed(columns) if name not in found.values()}
    known: list[str] = []
    for ours, aliases in (ALIASES | {name: SAMPLING[name] for name in wanted if name in SAMPLING}).items():
        suffixes = UNITS_IN_NAMES.get(ours, {})
        matches = [by_name[plain(alias) + unit] for alias in aliases for unit in ("", *suffixes) if plain(alias) + unit in by_name]
        known += matches
        matches = [name for name in matches if name not in found.values()]
        if ours in wanted and ours not in named and matches:
            found[ours] = matches[0]
        if ours in found and suffixes and (unit := stated_unit(table, found[ours], ours, path)):
            units[ours] = unit
    telling = [name for name in columns if name in known or _TELLING.search(name)]
    return Columns(found, units, tuple(telling))


def stated_unit(table: pd.DataFrame, column: str, ours: str, path: Path | None) -> str | None:
    """Return the unit of a quantity that its column's name states, or else a column of units beside it; None if neither does."""
    return _unit_of(column, ours) or UNITS_IN_NAMES.get(ours, {}).get(plain(unit_beside(table, column, path)))


def unit_beside(table: pd.DataFrame, column: str, path: Path | None) -> str:
    """Return the unit in a column of units beside another (unit, soc_unit), "" where there is none.

    Most of its rows have to be known units: a "unit" may be one of land, too. UserError if they differ.

    >>> unit_beside(pd.DataFrame({"soc": [12, 9], "SOC unit": ["g/kg", "g/kg"]}), "soc", None)
    'g/kg'
    """
    known = {name: unit for ours in reversed(UNITS_IN_NAMES) for name, unit in UNITS_IN_NAMES[ours].items()} | _DENSITIES
    for name in map(str, table.columns):
        rest = re.sub(r"units?$|^units?", "", plain(name))
        if rest == plain(name) or not plain(column).startswith(rest):
            continue
        rows = table[name].dropna().astype("str").value_counts()
        if 2 * sum(rows[word] for word in rows.index if plain(word) in known) <= rows.sum():
            continue
        if len({known.get(plain(word), word) for word in rows.index}) > 1:
            seen = ", ".join(f"{count} of {word!r}" for word, count in rows.items())[:150]
            raise UserError(f"{path}: column {name!r} has several units ({seen}): keep the rows of one quantity, in one unit")
        return str(rows.index[0])
    return ""


def _unit_of(column: str, ours: str) -> str | None:
    """Return the unit that a column's name ends with, if it is one of our quantity's."""
    name, suffixes = plain(column), UNITS_IN_NAMES.get(ours, {})
    for alias in ALIASES.get(ours, ()):
        if name.startswith(plain(alias)) and (unit := suffixes.get(name[len(plain(alias)) :])):
            return unit
    in_brackets = re.search(r"[\[(]([^\])]+)[\])]\s*$", column)
    ends = [plain(in_brackets[1])] if in_brackets else []
    ends += [plain(part) for part in (column.rpartition("_")[2], "".join(column.split("_")[-2:]))]
    return next((suffixes[end] for end in ends if end in suffixes), None)


_ORGANIC_MATTER = re.compile(
    r"^(som|om|humus|loi|hum)([_ .\-\[(%]|$)|organic[_ .\-]?matter|loss[_ .\-]?on[_ .\-]?ignition", re.IGNORECASE
)
_CARBON = re.compile(r"carbon|(^|[_ .\-])(c|oc|soc)($|[_ .\-])", re.IGNORECASE)


def is_organic_matter(name: str) -> bool:
    """Return whether a column is one of soil organic matter by its name, not of its carbon.

    >>> [is_organic_matter(name) for name in ("SOM", "humus_pct", "Organic matter (%)", "humus_c", "soc", "omega")]
    [True, True, True, False, False, False]
    """
    return bool(_ORGANIC_MATTER.search(name)) and not _CARBON.search(name)
