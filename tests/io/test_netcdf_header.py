"""A NetCDF that claims more than it holds is refused; whole ones of every classic form are read."""

import struct

import numpy as np
import pytest

from soilcarbon.geo.field import read_field
from soilcarbon.io import limits
from soilcarbon.io.files import UserError

netCDF4 = pytest.importorskip("netCDF4")

FORMATS = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4", "NETCDF4_CLASSIC"]


def write(path, form, times=3, dtype="f4", extra=False, shape=(20, 30), fill=None, **options):
    """Write soil carbon of 8 kg/m2, with a record dimension unless `times` is None."""
    with netCDF4.Dataset(path, "w", format=form) as data:
        for name, values in (("lat", np.linspace(40, 50, shape[0])), ("lon", np.linspace(5, 15, shape[1]))):
            data.createDimension(name, len(values))
            axis = data.createVariable(name, "f8", (name,))
            axis[:] = values
            axis.units = {"lat": "degrees_north", "lon": "degrees_east"}[name]
        if times is not None:
            data.createDimension("time", None)
        if extra and times is not None:
            data.createVariable("time", "i2", ("time",))[:] = np.arange(times)
        carbon = data.createVariable("cSoil", dtype, (*(() if times is None else ("time",)), "lat", "lon"), **options)
        carbon.units = "kg m-2"
        if fill is None:
            carbon[:] = np.full((*(() if times is None else (times,)), *shape), 8)
        else:
            carbon[fill] = 8
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("options", [{}, {"times": None}, {"extra": True}, {"dtype": "i2"}, {"dtype": "i2", "shape": (5, 5)}])
def test_whole_files_are_read_and_torn_ones_are_refused(tmp_path, form, options):
    path = write(tmp_path / "x.nc", form, **options)
    field = read_field(path)
    assert (field.values == 8).all()
    assert field.times == (options.get("times", 3) or 1)
    whole = path.read_bytes()
    for share in (0.999, 0.9, 0.5, 0.1, 0.02):
        path.write_bytes(whole[: int(len(whole) * share) - 8])
        with pytest.raises(UserError, match="is the file whole"):
            read_field(path)


@pytest.mark.parametrize("records", [10**5, 2**31 - 1, -1])
def test_records_that_are_not_there_are_refused(tmp_path, records):
    path = write(tmp_path / "x.nc", "NETCDF3_CLASSIC")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack(">i", records) + whole[8:])
    with pytest.raises(UserError, match="is the file whole"):
        read_field(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fill": (10**6, 0, 0), "zlib": True}, "claims"),
        ({"times": None, "shape": (100, 100), "fill": (0, 0), "zlib": True, "chunksizes": (100, 100)}, "chunk"),
    ],
)
def test_an_hdf5_file_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(limits, "BLOCK_BYTES", 39_999)
    path = write(tmp_path / "x.nc", "NETCDF4", **options)
    assert path.stat().st_size < 10**7
    with pytest.raises(UserError, match=words):
        read_field(path)


def test_a_coordinate_of_a_thousand_million_places_is_refused(tmp_path):
    path = write(tmp_path / "x.nc", "NETCDF4", times=None)
    with netCDF4.Dataset(path, "a") as data:
        data.createDimension("long", 10**9)
        data.createVariable("long", "f8", ("long",), zlib=True)
    with pytest.raises(UserError, match="long claims 1,000,000,000 places"):
        read_field(path)


def test_many_times_are_read_in_seconds(tmp_path):
    assert read_field(write(tmp_path / "x.nc", "NETCDF3_CLASSIC", times=50_000, shape=(2, 3))).times == 50_000
