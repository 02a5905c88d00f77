"""Carbon on a grid is read from what modellers hand over, in the right cell and unit, or refused in one line."""

import numpy as np
import pytest
import xarray as xr

from soilcarbon.geo.field import read_field, unit_of
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.simulation.earth_system_model import write_cmip


def write_netcdf(path, lat, lon, values, unit="kg m-2", more=(), axes=("lat", "lon"), encoding=None, engine="scipy", **attributes):
    """Write values (.., H, W) as NetCDF; `more` names the dimensions before lat and lon, `encoding` says how they are stored."""
    units = {"lat": "degrees_north", "lon": "degrees_east"}
    places = {name: (name, centres, {"units": units.get(name, "m")}) for name, centres in zip(axes, (lat, lon), strict=True)}
    carbon = (*more, *axes), values, ({"units": unit} if unit else {}) | attributes
    data = xr.Dataset({"cSoil": carbon}, places)
    data.to_netcdf(path, engine=engine, encoding={"cSoil": {"_FillValue": None} | (encoding or {})})
    return path


LAT, LON = np.arange(-88.0, 90, 4), np.arange(2.0, 360, 4)
GAUSS = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(45)[0]))
UNEVEN = np.sort(np.concatenate([np.arange(-88, 0, 4.0), np.arange(1, 90, 2.0)]))


def carbon_at(lat, lon):
    return 10 + lat / 10 + (np.asarray(lon) % 360) / 1000


@pytest.mark.parametrize("lat", [LAT, LAT[::-1], GAUSS, GAUSS[::-1], UNEVEN, UNEVEN[::-1]])
@pytest.mark.parametrize("west", [0, -180])
def test_a_place_has_the_value_of_its_cell_however_the_axes_run(tmp_path, lat, west):
    lon = LON + west
    field = read_field(write_netcdf(tmp_path / "m.nc", lat, lon, carbon_at(lat[:, None], lon[None, :]).astype(np.float32)))
    east, north = np.meshgrid(LON + west, lat)
    off = 0.3 * np.abs(np.diff(lat)).min()
    for dx, dy in ((0, 0), (1.5, off), (-1.5, -off), (360, 0), (-360, 0)):
        assert field.at(east.ravel() + dx, north.ravel() + dy) == pytest.approx(carbon_at(north, east).ravel(), abs=1e-4)
    assert field.variable == "cSoil" and field.unit == "kg/m2" and field.shape == (len(lat), len(LON))


def test_neighbouring_cells_are_distinguished_and_the_poles_belong_to_the_last_rows(tmp_path):
    field = read_field(write_netcdf(tmp_path / "m.nc", LAT, LON, np.ones((45, 90), np.float32)))
    assert field.cells(np.array([1.0, 3.9, 4.1, -0.1]), np.array([89.0, 86.5, 86.5, 90.0])).tolist() == [0, 0, 1, 89]
    assert field.cells(np.array([1.0]), np.array([-90.0])).tolist() == [44 * 90]
    assert field.metres == pytest.approx(444_780, rel=1e-3)


def test_a_region_has_no_value_outside(tmp_path):
    field = read_field(write_netcdf(tmp_path / "m.nc", np.array([50.0, 51]), np.array([5.0, 6, 7]), np.ones((2, 3), np.float32)))
    assert np.isfinite(field.at(np.array([5.0, 4.6, 4.4, 7.6, 6, 6]), np.array([50.0, 50, 50, 50, 51.4, 51.6]))).tolist() == [
        *(True, True, False, False, True, False)
    ]


def test_rows_may_run_along_longitude(tmp_path):
    values = carbon_at(LAT[None, :], LON[:, None]).astype(np.float32)
    field = read_field(write_netcdf(tmp_path / "m.nc", LON, LAT, values, axes=("lon", "lat")))
    assert field.at(np.array([10.0]), np.array([40.0])) == pytest.approx(carbon_at(40.0, 10.0), abs=1e-4)


def test_packed_values_are_unpacked(tmp_path):
    encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 5.0, "_FillValue": -32768}
    path = write_netcdf(tmp_path / "m.nc", LAT, LON, carbon_at(LAT[:, None], LON[None, :]), encoding=encoding)
    assert read_field(path).at(np.array([10.0]), np.array([40.0])) == pytest.approx(carbon_at(40.0, 10.0), abs=1e-3)


def test_times_are_averaged_and_fill_values_are_missing(tmp_path):
    values = np.stack([np.full((45, 90), 2.0), np.full((45, 90), 4.0)]).astype(np.float32)
    values[0, 0, 0] = values[:, 1, 1] = 1e20
    for name, encoding in (("undeclared.nc", {}), ("m.nc", {"_FillValue": np.float32(1e20)})):
        field = read_field(write_netcdf(tmp_path / name, LAT, LON, values, more=("time",), encoding=encoding))
        assert field.values[-1, 0] == 4 and np.isnan(field.values[-2, 1]) and field.values[0, 0] == 3


@pytest.mark.parametrize(
    ("unit", "factor", "brought"),
    [("g m-2", 1e-3, "kg/m2"), ("t ha-1", 0.1, "kg/m2"), ("g kg-1", 1, "g/kg"), ("dg/kg", 0.1, "g/kg"), ("%", 10, "g/kg")],
)
def test_units_are_brought_to_one(tmp_path, unit, factor, brought):
    path = write_netcdf(tmp_path / "m.nc", LAT, LON, np.full((45, 90), 5.0, np.float32), unit)
    field = read_field(path)
    assert field.unit == brought and field.at(np.array([2.0]), np.array([0.0]))[0] == pytest.approx(5 * factor)


def test_units_as_files_spell_them():
    spelt = {"kg m-2": "kg/m2", "kgC/m^2": "kg/m2", "kg C m-2": "kg/m2", "kg m**-2": "kg/m2", "g C m-2": "g/m2", "Mg/ha": "t/ha"}
    assert {text: unit_of(text) for text in spelt} == spelt
    assert [unit_of(text) for text in (None, "", "m", "kg", "mol m-2")] == [None] * 5


def test_a_geotiff_of_any_unit_is_read_where_the_profiles_are(tmp_path):
    from rasterio.transform import Affine

    values = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    write_geotiff(tmp_path / "m.tif", values, ["soc"], Affine(10, 0, 0, 0, -10, 30), units=["g m-2"])
    field = read_field(tmp_path / "m.tif")
    assert field.at(np.array([5.0, 15.0, 99.0]), np.array([25.0, 15.0, 0.0])) == pytest.approx([0, 5e-3, np.nan], nan_ok=True)
    assert field.cells(np.array([5.0, 15.0, 99.0]), np.array([25.0, 15.0, 0.0])).tolist() == [0, 5, -1]


def refused(path, words, **given):
    with pytest.raises(UserError) as caught:
        field = read_field(path, **given)
        field.at(np.array([2.0]), np.array([0.0]))
    assert words in str(caught.value) and path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3, 200, 12_000])
def test_a_torn_file_is_refused(tmp_path, kept):
    whole = write_netcdf(tmp_path / "m.nc", LAT, LON, np.ones((45, 90), np.float32)).read_bytes()
    assert len(whole) > 12_000
    (tmp_path / "m.nc").write_bytes(whole[:kept])
    with pytest.raises(UserError, match="m.nc"):
        read_field(tmp_path / "m.nc")


def test_a_text_called_geotiff_is_refused(tmp_path):
    (tmp_path / "m.tif").write_text("no raster")
    refused(tmp_path / "m.tif", "GeoTIFF")


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        ({"unit": ""}, {}, "does not state its unit"),
        ({"unit": "mol m-2"}, {}, "mol m-2"),
        ({}, {"unit": "g/kg"}, "its unit is kg/m2, and g/kg was given"),
        ({}, {"unit": "stones"}, "'stones'"),
        ({}, {"variable": "cSoli"}, "did you mean 'cSoil'"),
        ({"values": np.full((45, 90), 5000.0)}, {}, "above 2000 kg/m2"),
        ({"values": np.full((45, 90), -1.0)}, {}, "below 0"),
        ({"values": np.full((45, 90), np.nan)}, {}, "missing in all 4050 cells"),
        ({"values": np.ones((2, 45, 90)), "more": ("depth",)}, {}, "depth"),
        ({"lat": LAT * 2}, {}, "degrees in order"),
        ({"lon": LON + 1e9}, {}, "degrees in order"),
        ({"lat": LAT * 1e-300, "lon": LON * 1e-300}, {}, "degrees in order"),
        ({"lat": LAT[:1], "values": np.ones((1, 90))}, {}, "1 x 90 cells"),
        ({"lon": LON[:1], "values": np.ones((45, 1))}, {}, "45 x 1 cells"),
        ({"axes": ("y", "x")}, {}, "no axis lat"),
    ],
)
def test_what_is_not_carbon_on_a_grid_of_degrees_is_refused(tmp_path, change, given, words):
    facts = {"lat": LAT, "lon": LON, "values": np.ones((45, 90))} | change
    facts["values"] = facts["values"].astype(np.float32)
    refused(write_netcdf(tmp_path / "m.nc", **facts), words, **given)


def write_cmip6(path, values, engine):
    """Write values (T, 45, 90) with what CMIP6 puts round them: bounds, a scalar coordinate, standard names, two fill values."""
    time = 15 + 30.4 * np.arange(len(values))
    axes = {"time": (time, "days since 1850-01-01"), "latitude": (LAT, "degrees_north"), "longitude": (LON, "degrees_east")}
    found = {"type": ("strlen", np.array(list("land"), "S1"))}
    for standard, (centres, unit) in axes.items():
        name = standard if standard == "time" else standard[:3]
        found[name] = name, centres, {"units": unit, "standard_name": standard, "bounds": f"{name}_bnds"}
        found[f"{name}_bnds"] = (name, "bnds"), np.stack([centres - 2, centres + 2], axis=1)
    about = {"units": "kg m-2", "coordinates": "type", "cell_methods": "area: mean where land time: mean"}
    found["cSoil"] = ("time", "lat", "lon"), values, about | {"missing_value": np.float32(1e20)}
    encoding = {"cSoil": {"_FillValue": np.float32(1e20)}, "time": {"_FillValue": None}}
    xr.Dataset(found).to_netcdf(path, engine=engine, encoding=encoding)
    return path


@pytest.mark.parametrize("engine", ["scipy", "netcdf4"])
def test_csoil_is_read_as_cmip6_writes_it(tmp_path, engine):
    values = np.stack([carbon_at(LAT[:, None], LON[None, :]) + t for t in (-1, 0, 1)]).astype(np.float32)
    values[:, :, :20] = 1e20
    pytest.importorskip({"scipy": "scipy", "netcdf4": "netCDF4"}[engine])
    path = write_cmip6(tmp_path / "cSoil_Emon_MODEL_historical_r1i1p1f1_gn_185001-185003.nc", values, engine)
    assert path.read_bytes()[1:4] == (b"HDF" if engine == "netcdf4" else b"DF\x02")
    field = read_field(path)
    assert (field.variable, field.unit, field.times, field.shape) == ("cSoil", "kg/m2", 3, (45, 90))
    west, north = np.array([-160.0, -160, 200, 10]), np.array([48.0, -88, 48, 0])
    assert field.at(west, north) == pytest.approx(
        [carbon_at(48, 198), carbon_at(-88, 198), carbon_at(48, 198), np.nan], nan_ok=True, abs=0.01
    )


def test_of_several_variables_csoil_is_read_by_default(tmp_path):
    with xr.load_dataset(write_netcdf(tmp_path / "m.nc", LAT, LON, np.full((45, 90), 2.0))) as data:
        data.assign(cVeg=data["cSoil"] / 2).to_netcdf(tmp_path / "m.nc", engine="scipy")
    assert read_field(tmp_path / "m.nc").values.max() == 2
    assert read_field(tmp_path / "m.nc", "cVeg").values.max() == 1


def test_the_example_model_writes_what_is_read(tmp_path):
    carbon = np.arange(8.0).reshape(2, 4)
    carbon[0, 1] = np.nan
    write_cmip(tmp_path / "c.nc", carbon, -180.0, 90.0, 90.0)
    field = read_field(tmp_path / "c.nc")
    east, north = np.meshgrid([-135.0, -45, 45, 135], [45.0, -45])
    assert field.at(east.ravel(), north.ravel()) == pytest.approx(carbon.ravel(), nan_ok=True)


# --- what NetCDF declares and does not declare missing -------------------------------------------------------------------


def write_packed(path, carbon, dtype="i2", scale=0.01, fill=None, **attributes):
    """Write carbon (H, W; NaN: sea) as NetCDF-4, packed where there is a scale."""
    pytest.importorskip("netCDF4")
    packed = {"scale_factor": scale} if scale != 1 else {}
    stored = np.where(np.isnan(carbon), -32768 if packed else 999.0, np.round(carbon / scale) if packed else carbon)
    how = {"encoding": {"_FillValue": fill}, "engine": "netcdf4"}
    return write_netcdf(path, LAT, LON, stored.astype(dtype), **how, **packed, **attributes)


def land():
    carbon = np.broadcast_to(12 + 10 * np.sin(np.radians(3 * LAT))[:, None], (len(LAT), len(LON))).copy()
    carbon[:, 60:] = np.nan
    return carbon


@pytest.mark.parametrize(
    "valid",
    [
        {},
        {"valid_min": 0.0, "valid_max": 100.0},  # floating point: of the values (NetCDF User Guide)
        {"valid_range": np.array([0.0, 100.0])},
        {"valid_range": np.array([0, 10_000], "i2")},  # of the packed numbers (CF)
        {"valid_min": np.int16(0)},
    ],
)
def test_a_valid_range_is_of_packed_numbers_or_of_values(valid, tmp_path):
    field = read_field(write_packed(tmp_path / "m.nc", land(), fill=np.int16(-32768), **valid))
    np.testing.assert_allclose(field.values, land()[::-1], atol=0.006)


def test_values_beyond_the_valid_range_are_missing(tmp_path):
    carbon = land()
    carbon[:, :10] = 150
    valid = {"valid_range": np.array([0, 9999], "i2")}
    field = read_field(write_packed(tmp_path / "m.nc", carbon, fill=np.int16(-32768), **valid))
    assert np.isnan(field.values[:, :10]).all() and np.isfinite(field.values[:, 10:60]).all()


def test_a_range_that_leaves_nothing_in_one_reading_and_all_in_the_other_is_asked_about(tmp_path):
    valid = {"valid_min": np.int16(0), "valid_max": np.int16(100)}
    path = write_packed(tmp_path / "m.nc", land(), fill=np.int16(-32768), **valid)
    with pytest.raises(UserError, match=r"the valid range 0 to 100 of cSoil leaves \d+ of 2700 values .*ncatted -a valid_range"):
        read_field(path)


@pytest.mark.parametrize(
    ("dtype", "scale", "shown", "answers"), [("i2", 0.01, "-32768", (-32768.0, -327.68)), ("f4", 1, "999", (999.0,))]
)
def test_an_undeclared_fill_value_of_netcdf_is_asked_about(dtype, scale, shown, answers, tmp_path):
    path = write_packed(tmp_path / "m.nc", land(), dtype, scale)
    with pytest.raises(UserError, match=rf"1350 of 4050 values of cSoil are {shown}, far from all others.*nodata={shown} takes"):
        read_field(path)
    for answer in answers:
        np.testing.assert_allclose(read_field(path, nodata=(answer,)).values, land()[::-1], atol=0.006)


def test_a_fill_value_among_packed_numbers_is_asked_about(tmp_path):
    """32767 x 0.001 = 32.767 is no number that stands for missing; 32767 is."""
    packed = np.add.outer(np.arange(1000, 9000, 400), np.arange(20)).astype("i4")
    packed[:3, :4] = 32767
    lat, lon = np.arange(50, 30, -1.0), np.arange(20.0)
    write_netcdf(tmp_path / "f.nc", lat, lon, packed, scale_factor=0.001)
    with pytest.raises(UserError, match=r"12 of 400 values of cSoil are 32767.*nodata=32767 takes them as missing"):
        read_field(tmp_path / "f.nc")
    assert np.isnan(read_field(tmp_path / "f.nc", nodata=(32767.0,)).values).sum() == 12
