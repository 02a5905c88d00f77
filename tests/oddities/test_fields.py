"""NetCDF and vector files of a small world whose values are known, written with oddities in all combinations.

Values are read in kg/m2 as they are, voids as missing, places where they lie; or a question is asked. No question is needless.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oddities.outcome import EXAMPLES, asked, examples
from pyproj import Transformer
from rasterio.transform import Affine

from soilcarbon.commands import validate
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.mapping.carbon_map import CarbonMap
from soilcarbon.mapping.common_grid import Cells
from soilcarbon.soil.profiles import read_profiles

pytestmark = pytest.mark.usefixtures("light_maps", "whole_maps")

netCDF4 = pytest.importorskip("netCDF4", reason="pip install 'soil-carbon-mapper[netcdf]'")
HEIGHT, WIDTH, CELL, WEST, NORTH = 24, 30, 0.5, 12.0, 52.0
ROWS, COLS = np.mgrid[:HEIGHT, :WIDTH]
LON, LAT = WEST + CELL * (COLS + 0.5), NORTH - CELL * (ROWS + 0.5)
TRUTH = 2 + 12 * (0.6 * ROWS + 0.4 * COLS + 2 * np.sin(COLS / 4.0)) / (HEIGHT + 8)
"""kg/m2, from about 1.5 to 13."""
VOID = (ROWS - 8) ** 2 + (COLS - 9) ** 2 < 14
UNITS = {"kg m-2": 1.0, "g m-2": 1000.0, "t/ha": 10.0, "kg/m2": 1.0}


@dataclass(frozen=True)
class Spelling:
    """How the field is written as NetCDF."""

    dtype: str = "f4"
    packing: tuple[float, float] = (1.0, 0.0)  # of integers
    fill: float | None = None
    declared: str = "_FillValue"  # _FillValue, missing_value, both, valid range, given, not
    valid: str = "none"  # none, packed, values
    unit: tuple[str, str] = ("kg m-2", "attribute")  # attribute, given, both, not
    west: float = 0.0
    south_up: bool = False
    times: int = 0
    form: str = "NETCDF4"
    name: str = "cSoil"
    axes: tuple[str, str] = ("lat", "lon")


spellings = st.builds(
    Spelling,
    dtype=st.sampled_from(("f4", "f8", "i2", "i4")),
    packing=st.sampled_from(((1e-3, 0.0), (2e-3, 5.0), (0.01, -1.0))),
    fill=st.sampled_from((None, None, -9999.0, -32768.0, 1e20, 32767.0, -999.0)),
    declared=st.sampled_from(("_FillValue", "missing_value", "both", "given", "not")),
    valid=st.sampled_from(("none", "none", "packed", "values")),
    unit=st.tuples(st.sampled_from(tuple(UNITS)), st.sampled_from(("attribute", "given", "both", "not"))),
    west=st.sampled_from((0.0, 360.0, -360.0)),
    south_up=st.booleans(),
    times=st.sampled_from((0, 1, 3)),
    form=st.sampled_from(("NETCDF3_CLASSIC", "NETCDF4")),
    name=st.sampled_from(("cSoil", "soil_carbon")),
    axes=st.sampled_from((("lat", "lon"), ("latitude", "longitude"), ("y", "x"))),
).filter(lambda how: how.valid != "values" or how.dtype.startswith("f"))  # netCDF4 makes integers of the range: CF's reading holds


def write_field(path: Path, how: Spelling) -> tuple[CarbonMap, np.ndarray, float] | None:
    """Write the field; return how it is named to a command, its truth (void = NaN) and its precision. None: no such file."""
    factor = UNITS[how.unit[0]]
    whole = how.dtype.startswith("i")
    scale, offset = (how.packing[0] * factor, how.packing[1] * factor) if whole else (1.0, 0.0)
    stored = (TRUTH * factor - offset) / scale
    stored = np.rint(stored) if whole else stored
    if whole and (np.abs(stored) > np.iinfo(how.dtype).max - 2).any():
        return None
    truth = (stored * scale + offset) / factor
    if how.fill is not None:
        if whole and not np.iinfo(how.dtype).min <= how.fill <= np.iinfo(how.dtype).max:
            return None
        if how.declared == "not" and stored.min() <= how.fill <= stored.max():
            return None  # a value among others
        stored, truth = np.where(VOID, how.fill, stored), np.where(VOID, np.nan, truth)
    declared = how.declared if how.fill is not None else "nothing"
    with netCDF4.Dataset(path, "w", format=how.form) as data:
        lat, lon = LAT[:, 0], LON[0] + how.west
        if how.south_up:
            lat, stored = lat[::-1], stored[::-1]
        for name, values, unit in zip(how.axes, (lat, lon), ("degrees_north", "degrees_east"), strict=True):
            data.createDimension(name, len(values))
            data.createVariable(name, "f8", (name,))[:] = values
            data[name].units = unit
        if how.times:
            data.createDimension("time", how.times)
        dimensions = (*(("time",) if how.times else ()), *how.axes)
        fill = how.fill if declared in ("_FillValue", "both") else None
        variable = data.createVariable(how.name, how.dtype, dimensions, fill_value=fill)
        variable.set_auto_maskandscale(False)
        kind = np.dtype(how.dtype).type
        if declared in ("missing_value", "both"):
            variable.missing_value = kind(how.fill)
        if whole:
            variable.scale_factor, variable.add_offset = scale, offset
        if how.valid != "none":
            low, high = (0.0, 25.0 * factor) if how.valid == "values" else (-offset / scale, (25.0 * factor - offset) / scale)
            if whole and how.valid == "packed":
                ends = np.iinfo(how.dtype)
                low, high = kind(max(np.floor(low), ends.min + 1)), kind(min(high, ends.max - 1))
            variable.valid_min, variable.valid_max = low, high
        if how.unit[1] in ("attribute", "both"):
            variable.units = how.unit[0]
        variable[:] = np.broadcast_to(stored.astype(how.dtype), (how.times, *stored.shape) if how.times else stored.shape)
    unit = how.unit[0].replace("kg m-2", "kg/m2").replace("g m-2", "g/m2") if how.unit[1] in ("given", "both") else None
    nodata = (how.fill,) if declared == "given" else None
    return CarbonMap(name="m", path=path, unit=unit, variable=how.name, nodata=nodata), truth, 2e-4


def check_field(folder: Path, how: Spelling) -> str:
    written = write_field(folder / "f.nc", how)
    if written is None:
        return "no such file"
    product, truth, precision = written
    try:
        with Cells(product) as cells:
            found, part = cells.at(LON.ravel(), LAT.ravel()), cells.read(2, 3, 9, 8)
            unit = cells.unit
    except UserError as question:
        undeclared = how.fill is not None and how.declared == "not"
        cast = how.valid == "values" and how.dtype.startswith("i")
        assert undeclared or cast or how.unit[1] == "not", f"a needless question: {question}"
        return str(question)
    assert how.unit[1] != "not", "no unit was stated, and none asked for"
    assert unit == "kg/m2"
    np.testing.assert_allclose(found, truth.ravel(), rtol=precision, atol=precision)
    np.testing.assert_allclose(part, truth[2:11, 3:11], rtol=precision, atol=precision)
    return ""


@examples(25)
@given(how=spellings)
def test_gridded_carbon_is_read_as_it_is_or_asked_about(how, tmp_path_factory):
    check_field(tmp_path_factory.mktemp("n"), how)


@pytest.mark.slow
@examples(EXAMPLES or 1500)
@given(how=spellings)
def test_many_odd_fields(how, tmp_path_factory):
    check_field(tmp_path_factory.mktemp("n"), how)


@pytest.mark.parametrize(
    "oddity",
    [{"fill": -9999.0}, {"fill": 1e20, "declared": "missing_value"}, {"dtype": "i2", "packing": (1e-3, 0.0)}, {"west": 360.0},
     {"south_up": True}, {"times": 3}, {"unit": ("g m-2", "both")},
     {"valid": "packed", "dtype": "i4", "packing": (1e-3, 0.0)}, {"form": "NETCDF3_CLASSIC"}],
    ids=str,
)  # fmt: skip
def test_what_netcdf_says_is_read(oddity, tmp_path):
    assert not check_field(tmp_path, Spelling(**oddity))


@pytest.mark.parametrize(
    "oddity",
    [{"unit": ("kg m-2", "not")}, {"fill": -9999.0, "declared": "not"}, {"valid": "values", "dtype": "i2", "packing": (1e-3, 0.0)}],
    ids=str,
)
def test_what_netcdf_does_not_say_is_asked_about(oddity, tmp_path):
    assert check_field(tmp_path, Spelling(**oddity))


# --- points in vector files ------------------------------------------------------------------------------------------

PLACES = np.random.default_rng(7).permutation(HEIGHT * WIDTH)[:40]
CRSS = ("EPSG:4326", "EPSG:3857", "EPSG:32633", "EPSG:3035", "EPSG:31468")
"""Degrees, web Mercator, UTM, Lambert equal area (y before x), Gauss-Krueger on another datum (y before x)."""


@dataclass(frozen=True)
class Vector:
    """How the points are written."""

    form: str = "gpkg"
    crs: str = "EPSG:4326"
    layers: int = 1
    ids: str = "text"  # text, numbers, zeros (leading), none
    columns: str = "none"  # none, lon and lat that agree, x and y of the geometry's system
    target: str = "soc"
    kind: str = "Point"  # Point, Point Z, MultiPoint


vectors = st.builds(
    Vector,
    form=st.sampled_from(("gpkg", "geojson", "shp")),
    crs=st.sampled_from(CRSS),
    layers=st.sampled_from((1, 1, 2)),
    ids=st.sampled_from(("text", "numbers", "zeros", "none")),
    columns=st.sampled_from(("none", "degrees", "metres")),
    target=st.sampled_from(("soc", "SOC_gkg", "orgc")),
    kind=st.sampled_from(("Point", "Point Z")),
)


def write_points(folder: Path, how: Vector) -> tuple[Path, list[str] | None] | None:
    """Write the places of profiles, and return the file and the ids; None: there is no such file."""
    import geopandas
    import shapely

    if how.form == "geojson" and how.crs != "EPSG:4326":
        return None  # GeoJSON is in degrees; of 2008 with a CRS: `test_points`
    if how.layers > 1 and how.form != "gpkg":
        return None
    lon, lat = LON.ravel()[PLACES], LAT.ravel()[PLACES]
    x, y = Transformer.from_crs("EPSG:4326", how.crs, always_xy=True).transform(lon, lat)
    names = {"text": [f"P{k}" for k in range(40)], "numbers": list(range(40)), "zeros": [f"{k:05d}" for k in range(40)]}
    table = {} if how.ids == "none" else {"profile_id": names[how.ids]}
    if how.columns == "degrees":
        table |= {"lon": lon, "lat": lat}
    elif how.columns == "metres":
        table |= {"x": x, "y": y}
    table[how.target] = np.round(10 * TRUTH.ravel()[PLACES], 3)
    heights = [100.0] * 40 if how.kind == "Point Z" else None
    frame = geopandas.GeoDataFrame(table, geometry=shapely.points(*((x, y) if heights is None else (x, y, heights))), crs=how.crs)
    path = folder / f"p.{how.form}"
    frame.to_file(path, **({"layer": "profiles"} if how.form == "gpkg" else {}))
    if how.layers > 1:
        frame.iloc[:3].to_file(path, layer="others")
        path = Path(f"{path}:profiles")
    return path, None if how.ids == "none" else [str(each) for each in names[how.ids]]


def check_points(folder: Path, how: Vector) -> str:
    written = write_points(folder, how)
    if written is None:
        return "no such file"
    path, ids = written
    table = read_profiles(path, how.target).table.set_index("profile_id")
    assert len(table) == len(PLACES)
    if ids is not None:
        assert sorted(table.index) == sorted(ids)
        table = table.loc[ids]
    np.testing.assert_allclose(table["soc"].to_numpy(float), np.round(10 * TRUTH.ravel()[PLACES], 3), rtol=1e-6)
    np.testing.assert_allclose(table["lon"].to_numpy(float), LON.ravel()[PLACES], atol=5e-5)
    np.testing.assert_allclose(table["lat"].to_numpy(float), LAT.ravel()[PLACES], atol=5e-5)
    return ""


@examples(16)
@given(how=vectors)
def test_points_of_vector_files_lie_where_they_lie(how, tmp_path_factory):
    check_points(tmp_path_factory.mktemp("v"), how)


@pytest.mark.slow
@examples(EXAMPLES or 300)
@given(how=vectors)
def test_many_odd_vector_files(how, tmp_path_factory):
    check_points(tmp_path_factory.mktemp("v"), how)


# --- validate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "points"),
    [
        (
            Spelling(dtype="i4", packing=(1e-6, 0.0), fill=-32768.0, west=360.0, unit=("g m-2", "attribute")),
            Vector(crs="EPSG:3035"),
        ),
        (Spelling(south_up=True, times=3, fill=1e20, form="NETCDF3_CLASSIC"), Vector(form="geojson", ids="zeros")),
    ],
    ids=("packed", "classic"),
)
def test_validate_finds_a_perfect_map_perfect(field, points, tmp_path):
    """The map as odd NetCDF, the same as GeoTIFF, and the truth at places in a vector file: nothing differs."""
    product, truth, _ = write_field(tmp_path / "f.nc", field)
    write_geotiff(tmp_path / "t.tif", truth[None], ["socd"], Affine(CELL, 0, WEST, 0, -CELL, NORTH), units=["kg/m2"])
    path, ids = write_points(tmp_path, points)
    more = ["--points", str(path), "--value", points.target, "--unit", "t/ha"]  # ten times the truth in kg/m2
    arguments = ["--maps", f"m={product.path}", "--products", f"t={tmp_path / 't.tif'}", "--out", str(tmp_path / "out"), *more]
    assert not asked(lambda: validate.main(arguments))
    pair = pd.read_csv(tmp_path / "out/product_scores.csv").iloc[0]
    assert pair["n"] == np.isfinite(truth).sum() and pair["mae"] < 1e-3 and abs(pair["mean_map"] - pair["mean_reference"]) < 1e-3
    scored = pd.read_csv(tmp_path / "out/points.csv", dtype={"profile_id": str}).set_index("profile_id")
    known = [key for key, value in zip(ids, truth.ravel()[PLACES], strict=True) if np.isfinite(value)]
    assert sorted(scored.index) == sorted(known)
    np.testing.assert_allclose(scored["m"], scored["observed"], rtol=2e-3)
