"""Stocks of soil carbon as NetCDF by the CF conventions, named and measured as CMIP's `cSoil`.

In: `Stocks` on a model's grid, and what they are of. Out: a file that ILAMB, ESMValTool, xarray, CDO and `soilcarbon drivers` read.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from soilcarbon import __version__
from soilcarbon.io.files import UserError
from soilcarbon.mapping.export import Stocks

CONVENTIONS = "CF-1.8"
_NAME = "soil_mass_content_of_carbon"
"""Standard name of CMIP6; `soil_carbon_content` is its alias."""
_FILL = np.float32(1e20)
_EPOCH = datetime(1850, 1, 1, tzinfo=UTC)


def dataset(stocks: Stocks, depth: float, years: tuple[int, int] | None, facts: Mapping[str, str]) -> xr.Dataset:
    """Return stocks to a depth (cm) as a Dataset with CF attributes, `facts` being global ones; without years there is no time."""
    grid, dims = stocks.grid, ("lat", "lon")
    found: dict[str, Any] = {"cSoil": (dims, stocks.mean, _carbon("Carbon Mass in Soil Pool"))}
    if stocks.deviation is not None:
        attributes = _carbon("standard error of the mean carbon mass in soil pool", f"{_NAME} standard_error")
        attributes["comment"] = (
            "of the mean over the cell, by the error model of the map: errors that neighbouring places share do not cancel"
        )
        found["cSoil_standard_error"] = (dims, stocks.deviation, attributes)
        found["cSoil_map"] = (dims, stocks.mapped, _carbon("area-weighted mean of the map, not corrected for bias"))
        # ILAMB takes two ancillary variables for the ends of an interval: this is the only one
        found["cSoil"][2]["ancillary_variables"] = "cSoil_standard_error"
    if stocks.realizations is not None:
        attributes = _carbon("equally likely carbon mass in soil pool, with spatially correlated errors")
        found["cSoil_realizations"] = (("realization", *dims), stocks.realizations, attributes)
    share = {"standard_name": "area_fraction", "units": "1", "long_name": "share of the cell's area that the map has values in"}
    found["covered"] = (dims, stocks.covered, share)
    area = {"standard_name": "cell_area", "units": "m2", "long_name": "area of the cell on the WGS84 ellipsoid"}
    found["areacella"] = (dims, grid.km2 * 1e6, area)
    ellipsoid = {"semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563}
    found["crs"] = ((), np.int32(0), {"grid_mapping_name": "latitude_longitude", **ellipsoid})
    data = xr.Dataset(found, _coordinates(stocks, depth), {"Conventions": CONVENTIONS, **facts})
    methods = "area: mean where land"
    if years is not None:
        data, methods = _at(data, years), f"{methods} time: mean"
    for name in data.data_vars:
        if str(name).startswith("cSoil"):
            data[name].attrs |= {"cell_methods": methods, "cell_measures": "area: areacella", "grid_mapping": "crs"}
    return data


def _carbon(long_name: str, standard_name: str = _NAME) -> dict[str, str]:
    return {"standard_name": standard_name, "units": "kg m-2", "long_name": long_name}


def _coordinates(stocks: Stocks, depth: float) -> dict[str, Any]:
    grid = stocks.grid
    found: dict[str, Any] = {}
    for name, standard, unit, axis in (("lat", "latitude", "degrees_north", "Y"), ("lon", "longitude", "degrees_east", "X")):
        about = {"standard_name": standard, "long_name": standard, "units": unit, "axis": axis, "bounds": f"{name}_bnds"}
        found[name] = (name, getattr(grid, name), about)
        found[f"{name}_bnds"] = ((name, "bnds"), getattr(grid, f"{name}_bounds"))
    about = {"standard_name": "depth", "long_name": "depth of the soil", "units": "m", "positive": "down", "axis": "Z"}
    about["bounds"] = "depth_bnds"
    found["depth"] = ((), depth / 200, about)
    found["depth_bnds"] = (("bnds",), np.array([0.0, depth / 100]))
    if stocks.realizations is not None:
        about = {"standard_name": "realization", "long_name": "realisation", "units": "1"}
        found["realization"] = ("realization", np.arange(1, len(stocks.realizations) + 1, dtype=np.int32), about)
    return found


def _at(data: xr.Dataset, years: tuple[int, int]) -> xr.Dataset:
    """Return a Dataset whose stocks are of one time: the middle of the years."""
    ends = [(datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).days for year in (years[0], years[1] + 1)]
    about = {"standard_name": "time", "long_name": "time", "units": f"days since {_EPOCH:%Y-%m-%d}"}
    about |= {"calendar": "standard", "axis": "T", "bounds": "time_bnds"}
    names = [name for name in data.data_vars if str(name).startswith("cSoil")]
    moved = data[names].expand_dims(time=1).transpose("realization", "time", ..., missing_dims="ignore")
    found = data.drop_vars(names).assign(moved.data_vars)
    found = found.assign_coords(time=("time", [float(np.mean(ends))], about))
    return found.assign_coords(time_bnds=(("time", "bnds"), np.array([ends], np.float64)))


def write(data: xr.Dataset, path: Path) -> None:
    """Write a Dataset: compressed NetCDF-4 where the extra netcdf is installed, else classic NetCDF by SciPy.

    It is not written atomically: the path belongs into a folder of results that are not in place yet.
    """
    packed = find_spec("netCDF4") is not None
    encoding: dict[Any, dict[str, Any]] = {name: {"_FillValue": None} for name in data.variables}
    limits = [name for name in data.coords if str(name).endswith("_bnds")]
    for name in data.data_vars:
        if data[name].ndim > 1:
            encoding[name] = {"dtype": "float32", "_FillValue": _FILL} | ({"zlib": True, "complevel": 1} if packed else {})
    encoding["areacella"] = {"dtype": "float64", "_FillValue": None}
    kind: dict[str, Any] = {"engine": "scipy", "format": "NETCDF3_64BIT"}
    if packed:
        kind = {"engine": "netcdf4", "format": "NETCDF4_CLASSIC"}
    data = data.reset_coords(limits)  # as coordinates they would be in a global attribute, at which iris fails
    for name in ("areacella", "covered", "crs", *limits):
        data[name].encoding["coordinates"] = None  # no depth
    try:
        data.to_netcdf(path, encoding=encoding, **kind)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path.name}: could not be written ({' '.join(str(error).split())[:150]}); is the disk full?") from error


def provenance(title: str, sources: Mapping[str, str], command: str) -> dict[str, str]:
    """Return global attributes: what it is, from which files (name -> SHA-256), by which command."""
    files = "; ".join(f"{name} (SHA-256 {digest})" for name, digest in sources.items())
    now = datetime.now(UTC)
    return {
        "title": title,
        "source": f"soil-carbon-mapper {__version__}: statistical maps of measured soil profiles",
        "history": f"{now:%Y-%m-%dT%H:%M:%SZ}: {command}",
        "input_files": files,
        "variable_id": "cSoil",
        "references": "docs/earth-system-models.md of soil-carbon-mapper",
    }
