"""Gridded soil carbon: a map, or the output of a process model or Earth-system model, as GeoTIFF or NetCDF.

In: a file of any grid, in one of the units below. Out: a `Field`: values at places, and which of its cells a place lies in.
NetCDF is read by xarray, classic and HDF5-based, of regular and Gaussian grids in degrees; where there are several times
(CMIP's `cSoil` by month), their mean is taken.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import rioxarray
import xarray as xr
from rasterio.errors import RasterioError

from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, nominal_metres, raster_grid
from soilcarbon.geo.plausibility import OF_FILE, ask_about_fill_values, ask_about_fills_of_array
from soilcarbon.geo.raster import Layer, check_path, check_size, cut_windows, find_layers
from soilcarbon.io import limits
from soilcarbon.io.files import UserError, must_exist, nearest
from soilcarbon.io.netcdf_header import check_classic
from soilcarbon.io.nodata import EVERY
from soilcarbon.quantities import CARBON_UNITS as UNITS
from soilcarbon.quantities import unit_of

log = getLogger(__name__)
_LARGEST = {"kg/m2": 2000.0, "g/kg": 1000.0}  # more is not soil: a peat of 30 m contains 2,000 kg/m2
_MISSING = 1e19
_CELLS_AT_ONCE = 2**22  # of a NetCDF of many times: 32 MB
_CHUNK = 1024  # cells along the side of a chunk of dask: whole tiles of 256 or 512
AXES = {"lat": ("degrees_north", "latitude"), "lon": ("degrees_east", "longitude")}
_TIMES = ("time", "month", "year")
_FINEST, _FARTHEST = 1e-6, 720.0  # degrees: no cell is smaller; no longitude is counted farther from Greenwich
_REGULAR = 0.1  # of a cell: so far may a centre lie from where a regular grid would have it


@dataclass(frozen=True)
class Field:
    """Gridded carbon."""

    path: Path
    variable: str
    unit: str  # "kg/m2" or "g/kg"
    layer: Layer | None = None  # of a GeoTIFF
    grid: Grid | None = None  # of a GeoTIFF
    values: np.ndarray | None = None  # of a NetCDF: (H, W) in the unit, missing = NaN
    lat: np.ndarray | None = None  # of a NetCDF: (H,) centres, from north to south
    lon: np.ndarray | None = None  # of a NetCDF: (W,) centres, eastwards
    factor: float = 1.0  # what a GeoTIFF's values are multiplied by
    times: int = 1  # that a NetCDF's values are the mean of

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        if self.grid is not None:
            return self.grid.height, self.grid.width
        assert self.values is not None
        height, width = self.values.shape
        return height, width

    @property
    def metres(self) -> float:
        """How wide a cell is, a degree counting as it does along a meridian."""
        if self.grid is not None:
            return float(np.sqrt(np.prod([nominal_metres(self.grid.crs, size) for size in self.grid.cell])))
        assert self.lat is not None and self.lon is not None
        steps = np.abs(np.diff(self.lat)).mean(), np.abs(np.diff(self.lon)).mean()
        return nominal_metres("EPSG:4326", float(np.sqrt(np.prod(steps))))

    def cells(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the number of the cell (N,) that each place (degrees) lies in, row by row; -1 outside."""
        height, width = self.shape
        if self.grid is not None:
            row, col = self.grid.places(*transformed("EPSG:4326", self.grid.crs, lon, lat))
            found = np.isfinite(row) & np.isfinite(col)
            row, col = (np.floor(np.where(found, each, -1)).astype(np.int64) for each in (row, col))
        else:
            assert self.lat is not None and self.lon is not None
            edges = edges_between(-self.lat)
            row = np.searchsorted(edges, -np.asarray(lat), side="right") - 1
            east = edges_between(self.lon)
            turned = east[0] + (np.asarray(lon) - east[0]) % 360
            col = np.searchsorted(east, turned, side="right") - 1
            row[np.asarray(lat) == -edges[-1]] = height - 1  # the pole belongs to the last row
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        return np.asarray(np.where(inside, row * width + col, -1))

    def at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the value (N,) of the cell that each place (degrees) lies in, in the unit; NaN where missing or outside.

        UserError if values are negative, or larger than soil can hold.
        """
        found = self.stored_at(lon, lat) * self.factor
        check_values(self.path, self.variable, found, self.unit)
        return found

    def stored_at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the same (N,) float64, before it is multiplied by the factor, and unchecked."""
        if self.layer is not None:
            windows, _ = cut_windows([self.layer], lon, lat, 0)
            return windows[self.layer.name][:, 0, 0].astype(np.float64)
        assert self.values is not None
        number = self.cells(lon, lat)
        return np.asarray(np.where(number < 0, np.nan, self.values.ravel()[np.maximum(number, 0)]))

    def as_grid(self) -> Grid:
        """Return its cells as a grid that rasters can be brought to.

        UserError if rows or columns are unevenly spaced.
        """
        if self.grid is not None:
            return self.grid
        assert self.lat is not None and self.lon is not None
        starts = []
        for axis in (-self.lat, self.lon):
            step = float((axis[-1] - axis[0]) / (len(axis) - 1))
            off = np.abs(axis - axis[0] - step * np.arange(len(axis))).max()
            if off > _REGULAR * step:
                raise UserError(f"{self.path}: its cells are unevenly spaced; regrid it to a regular grid first (cdo remapcon)")
            starts.append((float(axis[0]) - step / 2, step))
        (north, height), (west, width) = starts
        return Grid("EPSG:4326", west, -north, (width, height), len(self.lat), len(self.lon))


def edges_between(centres: np.ndarray) -> np.ndarray:
    """Return the edges (n + 1,) between ascending centres (n,); the outer ones lie as far out as the next ones in."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def read_field(path: Path, variable: str | None = None, unit: str | None = None, nodata: tuple[float, ...] | None = None) -> Field:
    """Read carbon on a grid: *.nc, *.nc4 or *.cdf are NetCDF, all else is GeoTIFF.

    `variable` says which, where there are several; of NetCDF `cSoil` if it is there. The unit is needed where the file does not
    state it; where it does, both must agree. `nodata` are values that mean missing, beside those that the file declares; None:
    values that look like missing ones are asked about.

    UserError if it cannot be read, the variable is not there, the unit is unknown or another than the file's, no cell has a value,
    or values are not carbon.
    """
    must_exist(path, "map or model output")
    given = unit_of(unit)
    if unit is not None and given is None:
        raise UserError(f"{path}: unit {unit!r}: expected one of {', '.join(UNITS)}")
    if path.suffix.lower() in (".nc", ".nc4", ".cdf"):
        return _read_netcdf(path, variable, given, nodata)
    layers = find_layers([path], None if nodata is None else {EVERY: nodata})
    if variable is not None:
        layers = [layer for layer in layers if layer.name == variable]
    if len(layers) != 1:
        there = [layer.name for layer in find_layers([path])]
        raise UserError(f"{path}: which of its bands is meant? give variable: one of {', '.join(there[:12])}")
    if layers[0].classes:
        raise UserError(f"{path}: {layers[0].name} has a colour table or category names: classes or a picture, no carbon")
    kind, factor = _resolve(path, layers[0].unit, given)
    ask_about_fill_values(layers, setting=OF_FILE)
    return Field(path, layers[0].name, kind, layers[0], raster_grid(path), factor=factor)


def _resolve(path: Path, said: str | None, given: str | None) -> tuple[str, float]:
    """Return the unit that values are brought to and the factor, from what the file states and what the user gives."""
    declared = unit_of(said)
    if declared and given and declared != given:
        raise UserError(f"{path}: its unit is {declared}, and {given} was given; drop the one that is wrong")
    known = declared or given
    if known is None:
        saw = f"its unit is {str(said)[:40]!r}" if said else "it does not state its unit"
        raise UserError(f"{path}: {saw}; give unit: one of {', '.join(UNITS)}")
    return UNITS[known]


def check_values(path: Path, variable: str, values: np.ndarray, unit: str) -> None:
    """Raise UserError where values, missing = NaN, cannot be soil carbon in a unit."""
    known = values[~np.isnan(values)]
    for wrong, rule in ((known < 0, "below 0"), (known > _LARGEST[unit], f"above {_LARGEST[unit]:g} {unit}")):
        if wrong.any():
            first = float(known[wrong][0])
            raise UserError(
                f"{path}: {int(wrong.sum())} of {known.size} values of {variable} are {rule}, first {first:g}; is the unit right?"
            )


def open_map(path: Path | str) -> xr.Dataset:
    """Open a GeoTIFF, a map or covariates, as an xarray Dataset with one variable per band, named by the bands' descriptions.

    Values are read when they are used: as dask arrays where dask is installed
    (`pip install 'soil-carbon-mapper[cluster]'`). Missing cells are NaN, scale and offset are applied; `units`, `long_name` (what a
    band is, else its name) and other tags are attributes of each variable.

    Parameters
    ----------
    path
        The file, or a folder of files (*.tif, *.tiff) on one grid.

    Returns
    -------
    Dataset
        Variables (y, x), in the CRS of `dataset.rio.crs`.

    Raises
    ------
    UserError
        If a file cannot be read, or those of a folder are not on one grid or have a band of one name.

    Examples
    --------
    >>> import tempfile
    >>> from rasterio.transform import Affine
    >>> from soilcarbon.geo.raster import write_geotiff
    >>> path = Path(tempfile.mkdtemp()) / "map.tif"
    >>> write_geotiff(path, np.array([[[12.0, np.nan]]]), ["prediction"], Affine(1, 0, 5, 0, -1, 50), units=["g/kg"])
    >>> soc = open_map(path)["prediction"]
    >>> soc.attrs["units"], float(soc.mean())
    ('g/kg', 12.0)
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    must_exist(path, "map")
    check_path(path)
    try:
        chunks = {"x": _CHUNK, "y": _CHUNK} if find_spec("dask") else None
        data = rioxarray.open_rasterio(path, mask_and_scale=True, band_as_variable=True, chunks=chunks, driver="GTiff")
    except (RasterioError, ValueError) as error:
        raise UserError(f"{path}: not readable as a GeoTIFF ({' '.join(str(error).split())[:150]})") from error
    assert isinstance(data, xr.Dataset)
    data = data.rename({name: str(data[name].attrs.get("long_name", name)) for name in data.data_vars})
    for array in data.data_vars.values():
        array.attrs["long_name"] = array.attrs.pop("MEANING", array.name)
    return data


def _open_folder(folder: Path) -> xr.Dataset:
    paths = dict.fromkeys(layer.path for layer in find_layers([folder]))  # which asks for names that are unique
    opened = [open_map(path) for path in paths]
    for path, data in zip(paths, opened, strict=True):
        first = opened[0]
        if data.sizes != first.sizes or data.rio.crs != first.rio.crs or not _alike(data, first):
            raise UserError(f"{path}: is not on the grid of {next(iter(paths))}; soilcarbon map resamples, or gdalwarp does")
    placed = [data.assign_coords({name: opened[0][name] for name in ("x", "y")}) for data in opened]
    return xr.merge(placed, join="exact", compat="override", combine_attrs="override").drop_attrs(deep=False)


def _alike(data: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether coordinates are the same, but for a hair of a cell."""
    hair = _REGULAR * float(np.hypot(*data.rio.resolution()))
    return all(float(np.abs(data[name].values - other[name].values).max()) < hair for name in ("x", "y"))


# --- NetCDF ------------------------------------------------------------------------------------------------------------


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not readable as NetCDF ({' '.join(str(error).split())[:150]}); is the file whole?")


def open_netcdf(path: Path) -> xr.Dataset:
    """Open a NetCDF file, classic by scipy, HDF5-based by the extra netCDF4; nothing but its header is read yet."""
    check_path(path)
    with path.open("rb") as file:
        start = file.read(4)
    classic = start[:3] == b"CDF" and start[3:] in (b"\x01", b"\x02", b"\x05")
    by_scipy = classic and start[3:] != b"\x05"
    if not by_scipy and find_spec("netCDF4") is None:
        raise UserError(f"{path}: NetCDF-4 (HDF5) is read by an extra package: pip install 'soil-carbon-mapper[netcdf]'")
    try:
        if classic:
            check_classic(path)
        else:
            _check_axes(path)
        engine: Any = "scipy" if by_scipy else "netcdf4"
        return xr.open_dataset(path, engine=engine, decode_times=False, decode_coords=False, cache=False)
    except Exception as error:  # an untrusted file may make the libraries raise anything
        raise _unreadable(path, error) from error


def _check_axes(path: Path) -> None:
    """Raise LimitError if an HDF5-based file claims coordinates that would fill the memory: xarray reads them on opening."""
    import netCDF4

    with netCDF4.Dataset(path) as data:
        for name, variable in data.variables.items():
            if variable.ndim == 1 and variable.size > limits.AXIS:
                raise limits.LimitError(f"{name} claims {variable.size:,} places")


def _read_netcdf(path: Path, variable: str | None, given: str | None, nodata: tuple[float, ...] | None) -> Field:
    with open_netcdf(path) as data:
        name = _variable(path, data, variable)
        axes = [_axis(path, data, name, which) for which in ("lat", "lon")]
        extra = [str(each) for each in data[name].dims if each not in axes and str(each).lower() not in _TIMES]
        if extra:
            raise UserError(f"{path}: {name} has the dimension {', '.join(extra)} too; sum or select along it first (cdo, nco)")
        array = data[name].transpose(..., *axes)
        kind, factor = _resolve(path, array.attrs.get("units"), given)
        height, width = array.shape[-2:]
        check_size(height, width, path)
        if min(height, width) < 2:
            raise UserError(f"{path}: {name} has {height} x {width} cells; a map needs 2 rows and 2 columns")
        try:
            _check_claims(path, array)
            lat, lon = (np.asarray(data[axis].values, np.float64) for axis in axes)
            values, times = _mean_over_times(path, array, nodata)
        except UserError:
            raise
        except Exception as error:  # as above, from the values themselves
            raise _unreadable(path, error) from error
    if times > 1:
        log.info("%s: %s is the mean of %d times", path.name, name, times)
    values = values * factor
    if lat[0] < lat[-1]:
        lat, values = lat[::-1], values[::-1]
    in_order = (np.diff(lat) < -_FINEST).all() and (np.diff(lon) > _FINEST).all()
    if not (in_order and np.abs(lat).max() <= 90 and np.abs(lon).max() <= _FARTHEST and np.ptp(lon) < 360):
        raise UserError(f"{path}: lat and lon must be degrees in order, lon eastwards within one turn; regrid it first (cdo)")
    if not np.isfinite(values).any():
        raise UserError(f"{path}: {name} is missing in all {values.size} cells")
    check_values(path, name, values, kind)
    return Field(path, name, kind, values=values, lat=lat, lon=lon, times=times)


def _check_claims(path: Path, array: xr.DataArray) -> None:
    """Raise LimitError if a variable, or a chunk of it, claims more than its file can unpack to."""
    limits.check_unpacked(array.nbytes, path.stat().st_size)
    chunk = math.prod(array.encoding.get("chunksizes") or (1,)) * array.dtype.itemsize
    if chunk > limits.BLOCK_BYTES:
        raise limits.LimitError(f"a chunk of it has {chunk:,} bytes, more than {limits.BLOCK_BYTES:,}; rechunk it (nccopy -c)")


def _variable(path: Path, data: xr.Dataset, wanted: str | None) -> str:
    """Return the name of the variable to read: the requested one, `cSoil`, or the only one on two dimensions or more."""
    there = [str(name) for name, array in data.variables.items() if array.ndim >= 2 and array.dtype.kind in "iuf"]
    there = [name for name in there if not name.endswith(("_bnds", "_bounds"))]
    if wanted is not None and wanted not in there:
        raise UserError(f"{path}: no variable {wanted!r} on a grid; it has {', '.join(there[:12])}{nearest(wanted, there)}")
    if wanted is None and len(there) > 1 and "cSoil" not in there:
        raise UserError(f"{path}: which variable is meant? give variable: one of {', '.join(there[:12])}")
    if not there:
        raise UserError(f"{path}: holds no variable on a grid of lat and lon")
    return wanted or ("cSoil" if "cSoil" in there else there[0])


def is_axis(name: str, array: xr.Variable, which: str) -> bool:
    """Return whether a variable runs along "lat" or "lon", by its units, standard name or name (CF)."""
    unit, standard = AXES[which]
    attributes = array.attrs
    named = attributes.get("units") == unit or attributes.get("standard_name") == standard or name in (which, standard)
    return array.ndim == 1 and named


def _axis(path: Path, data: xr.Dataset, name: str, which: str) -> str:
    """Return the dimension of a variable that runs along latitude or longitude."""
    for dimension in map(str, data[name].dims):
        if dimension in data.variables and is_axis(dimension, data.variables[dimension], which):
            return dimension
    unit = AXES[which][0]
    raise UserError(f"{path}: {name} has no axis {which} in {unit}; it needs a regular grid of lat and lon (cdo remapcon)")


@dataclass
class _ValidRange:
    """The range that NetCDF declares valid (valid_min, valid_max, valid_range), and what lies beyond it.

    It is of the packed numbers, as the CF conventions say, unless it is floating point and they are integers: then it is of the
    values (NetCDF User Guide, "valid_range").
    """

    low: float
    high: float
    packing: tuple[float, float]
    of_values: bool
    beyond: int = 0
    beyond_other: int = 0
    total: int = 0

    @classmethod
    def of(cls, array: xr.DataArray) -> "_ValidRange":
        """Return the range of a decoded variable."""
        attributes, encoding = array.attrs, array.encoding
        ends = [np.ravel(attributes[name])[k] for name, k in (("valid_range", 0), ("valid_range", -1)) if name in attributes]
        low, high = ends or (attributes.get("valid_min", -np.inf), attributes.get("valid_max", np.inf))
        packing = float(np.ravel(encoding.get("scale_factor", 1.0))[0]), float(np.ravel(encoding.get("add_offset", 0.0))[0])
        packed = np.dtype(encoding.get("dtype", array.dtype))
        floating = any(np.asarray(end).dtype.kind == "f" and np.isfinite(end) for end in (low, high))
        return cls(float(np.ravel(low)[0]), float(np.ravel(high)[0]), packing, packed.kind in "iu" and floating)

    def keep(self, values: np.ndarray) -> np.ndarray:
        """Return which values, unpacked, are valid, and count the others."""
        if not (np.isfinite(self.low) or np.isfinite(self.high)):
            return np.ones(values.shape, bool)
        factor, offset = self.packing
        known = np.isfinite(values)
        inside = []
        for scale, start in ((factor, offset), (1.0, 0.0)):
            first, last = sorted((self.low * scale + start, self.high * scale + start))
            hair = 1e-6 * max(
                abs(end) for end in (first, last, 0.0) if np.isfinite(end)
            )  # packed numbers are whole, values rounded
            inside.append((values >= first - hair) & (values <= last + hair))
        valid, other = inside[::-1] if self.of_values else inside
        self.beyond += int((known & ~valid).sum())
        self.beyond_other += int((known & ~other).sum())
        self.total += int(known.sum())
        return valid

    def check(self, path: Path, name: str) -> None:
        """Raise UserError if the range would leave little, and nearly all in the other reading; log what lies beyond it."""
        if 2 * self.beyond > self.total and 4 * self.beyond_other < self.beyond:  # what else lies beyond may be fill values
            meant = ("packed numbers", "values") if not self.of_values else ("values", "packed numbers")
            left, other = f"{self.total - self.beyond} of {self.total} values", self.total - self.beyond_other
            delete = " ".join(f"-a {each},{name},d,," for each in ("valid_range", "valid_min", "valid_max"))
            raise UserError(
                f"{path}: the valid range {self.low:g} to {self.high:g} of {name} leaves {left} as one of {meant[0]}, {other} "
                f"as one of {meant[1]}; correct or delete it (ncatted {delete} {path.name})"
            )
        if self.beyond:
            log.info(
                "%s: %d of %d values of %s lie outside its valid range and are missing", path.name, self.beyond, self.total, name
            )


def _mean_over_times(path: Path, array: xr.DataArray, nodata: tuple[float, ...] | None) -> tuple[np.ndarray, int]:
    """Return the mean (H, W) float64 of values over times, missing ones left out, and the number of times.

    `nodata` values may be those of the packed numbers or those of the values.
    """
    valid = _ValidRange.of(array)
    fills = [*(nodata or ()), *(value * valid.packing[0] + valid.packing[1] for value in nodata or ())]
    shape = array.shape[-2:]
    total, count, times = np.zeros(shape), np.zeros(shape), 0
    at_once = max(1, _CELLS_AT_ONCE // max(1, math.prod(array.shape[1:])))  # one by one, xarray needs a millisecond for each
    parts = [array[k : k + at_once] for k in range(0, len(array), at_once)] if array.ndim > 2 else [array]
    for part in parts:
        for values in np.asarray(part.values, np.float64).reshape(-1, *shape):
            known = np.isfinite(values) & (np.abs(values) < _MISSING)
            for fill in fills:
                known &= ~np.isclose(values, fill, rtol=1e-6, atol=0)
            known &= valid.keep(np.where(known, values, np.nan))
            if nodata is None and not times:
                packed = np.dtype(array.encoding.get("dtype", array.dtype))
                stored = np.rint((values - valid.packing[1]) / valid.packing[0]) if packed.kind in "iu" else values
                ask_about_fills_of_array(path, str(array.name), np.where(known, stored, np.nan), packed)
            total += np.where(known, values, 0.0)
            count += known
            times += 1
    valid.check(path, str(array.name))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan)), times
