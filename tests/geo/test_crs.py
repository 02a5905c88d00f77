"""Places in other coordinate reference systems, against EPSG's worked examples, closed formulas and PROJ one place at a time."""

import json
import time

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from soilcarbon.geo.crs import as_text, bounds_in, parse_crs, read_crs, short_name, transformed
from soilcarbon.geo.grid import cell_sizes
from soilcarbon.io.files import UserError

DEGREES = "EPSG:4326"
LAEA_WITHOUT_DATUM = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
PLAN = 'LOCAL_CS["a plan",UNIT["metre",1]]'

# --- places --------------------------------------------------------------------------------------------------------


def test_a_place_is_where_epsgs_guidance_note_has_it():
    x, y = transformed(DEGREES, "EPSG:3035", np.array([5.0]), np.array([50.0]))  # note 7-2, Lambert azimuthal equal area
    assert (x[0], y[0]) == pytest.approx((3962799.45, 2999718.85), abs=0.01)


def test_mercator_is_its_formula_as_far_as_the_poles_and_no_further():
    lat = np.array([0.0, 60.0, 85.0, 90.0, 90.1, -95.0])
    x, y = transformed(DEGREES, "EPSG:3857", np.full(6, 90.0), lat)
    np.testing.assert_allclose(x[:4], 6378137 * np.pi / 2)
    np.testing.assert_allclose(y[:3], 6378137 * np.arcsinh(np.tan(np.radians(lat[:3]))), atol=1e-6)
    assert np.isnan([x[4:], y[4:]]).all()


@pytest.mark.parametrize(
    ("crs", "other", "wide", "tall"),
    [
        ("ESRI:54009", DEGREES, 1.9e7, 9.5e6),  # the corners of a world map
        ("EPSG:3035", DEGREES, 2e7, 2e7),
        (DEGREES, "EPSG:32632", 180, 90),  # the other side of the Earth
        (DEGREES, "+proj=ortho +lat_0=20 +lon_0=30 +datum=WGS84", 180, 90),
        (DEGREES, "+proj=gnom +lat_0=20 +lon_0=30 +datum=WGS84", 180, 90),
        ("EPSG:32662", "EPSG:3857", 2e7, 1.2e7),  # plate carree continues beyond the poles
    ],
)
def test_among_places_without_an_image_the_others_keep_theirs(crs, other, wide, tall):
    random = np.random.default_rng(5)
    x, y = random.uniform(-wide, wide, (30, 40)), random.uniform(-tall, tall, (30, 40))
    found = np.stack(transformed(crs, other, x, y))
    assert found.shape == (2, 30, 40)
    assert 0.001 < np.isnan(found[0]).mean() < 0.95
    assert (np.isnan(found[0]) == np.isnan(found[1])).all()
    known = np.isfinite(found[0])
    expected = np.array(transform(crs, other, x[known], y[known]))
    assert found[:, known].tobytes() == expected.tobytes()
    for place in np.argwhere(~known)[:30]:  # in any company, alone too
        assert np.isnan(transformed(crs, other, x[tuple(place)], y[tuple(place)])).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [DEGREES, "EPSG:4258", "EPSG:3035"])
def test_what_is_not_finite_has_no_image(bad, other):
    x, y = transformed(DEGREES, other, np.array([10.0, bad, 10.0]), np.array([bad, 50.0, 50.0]))
    assert np.isnan(x).tolist() == np.isnan(y).tolist() == [True, True, False]


def test_in_its_own_crs_a_place_stays_to_the_last_bit_but_not_beyond_a_pole():
    lon, lat = np.array([0.1, 539.9, 0.0]), np.array([1 / 3, -90.0, 91.0])
    x, y = transformed(DEGREES, CRS.from_epsg(4326).to_wkt(), lon, lat)
    assert x.tolist()[:2] == [0.1, 539.9]
    assert y.tolist()[:2] == [1 / 3, -90.0]
    assert np.isnan([x[2], y[2]]).all()
    assert np.isnan(transformed("EPSG:32662", DEGREES, np.array([0.0]), np.array([1.2e7]))).all()  # 107.8 degrees north
    assert lat.tolist() == [1 / 3, -90.0, 91.0]


def test_no_places_have_no_images():
    assert [axis.shape for axis in transformed(DEGREES, "EPSG:3035", np.empty((0, 3)), np.empty((0, 3)))] == [(0, 3), (0, 3)]


def test_two_planets_are_an_error():
    with pytest.raises(UserError, match="there is no transformation from EPSG:4326 to IAU_2015:30100"):
        transformed(DEGREES, "IAU_2015:30100", np.zeros(2), np.zeros(2))


# --- extents -------------------------------------------------------------------------------------------------------


def test_an_extent_is_that_of_its_curved_sides():
    left, right, bottom, top = bounds_in((0, 20, 50, 60), DEGREES, "EPSG:3035")
    x, y = transform(DEGREES, "EPSG:3035", [0, 20, 10, 0], [50, 50, 50, 60])
    assert (left, right, bottom, top) == pytest.approx((x[0], x[1], y[2], y[3]), abs=1)


def test_across_the_antimeridian_longitudes_continue():
    west, east, south, north = bounds_in((1e6, 9e6, 1e6, 2e6), "EPSG:3832", DEGREES)
    assert (west, east) == pytest.approx((158.98315, 230.84837), abs=1e-4)
    assert 9 < south < north < 18


def test_a_world_maps_extent_is_the_world():
    assert bounds_in((-18.1e6, 18.1e6, -9.1e6, 9.1e6), "ESRI:54009", DEGREES) == pytest.approx((-180, 180, -90, 90))
    assert bounds_in((-1e6, 1e6, -1e6, 1e6), "EPSG:3995", DEGREES)[3] == 90


@pytest.mark.parametrize(
    "other", ["EPSG:32632", "EPSG:3857", "EPSG:2154", "EPSG:3035", "+proj=ortho +lat_0=0 +lon_0=0 +datum=WGS84"]
)
def test_a_projection_that_cannot_represent_an_extent_is_an_error(other):
    with pytest.raises(UserError, match=r"cannot hold x -180 to 180, y -90 to 90 in EPSG:4326; give the map's bounds"):
        bounds_in((-180, 180, -90, 90), DEGREES, other)


@pytest.mark.parametrize("other", ["ESRI:54009", "EPSG:8857", "EPSG:6933"])
@pytest.mark.parametrize("west", [-180, 0, -180.125])
def test_an_equal_area_projection_holds_the_world(other, west):
    left, right, bottom, top = bounds_in((west, west + 360, -89, 89), DEGREES, other)
    assert 3.4e7 < right - left < 4.1e7
    assert 1.4e7 < top - bottom < 1.9e7


def test_the_extent_round_a_pole_is_a_disc():
    bounds = bounds_in((-180, 180, 60, 90), DEGREES, "EPSG:3573")  # equal area: the radius is that of the authalic sphere's cap
    assert np.abs(bounds) == pytest.approx([3_309_820] * 4, rel=2e-4)


def test_a_grid_that_reaches_half_a_cell_beyond_a_pole_has_an_extent():
    beyond, whole = (bounds_in((-180, 180, 60, north), DEGREES, "EPSG:3573") for north in (90.125, 90))
    assert beyond == whole


def test_an_extent_in_its_own_crs_stays():
    assert bounds_in((170, 190, -95, 0.1), DEGREES, CRS.from_epsg(4326).to_wkt()) == (170, 190, -95, 0.1)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "crs",
    [
        DEGREES,
        "EPSG:27700+5701",
        "EPSG:3035+5773",
        "ESRI:54009",
        LAEA_WITHOUT_DATUM,
        "+proj=ob_tran +o_proj=longlat +o_lat_p=30 +o_lon_p=10 +lon_0=0",
        "+proj=utm +zone=32 +ellps=bessel +towgs84=598,73,418,0.2,0.04,-2.4,6.7",
        "+proj=laea +lat_0=10 +lon_0=5 +units=km",
    ],
)
def test_a_crs_comes_back_from_its_text_and_from_json(crs):
    text = read_crs(crs)
    assert CRS.from_user_input(json.loads(json.dumps(text))) == CRS.from_user_input(crs)
    assert read_crs(text) == text


def test_a_crs_that_only_resembles_one_with_a_code_does_not_get_the_code():
    assert CRS.from_user_input(LAEA_WITHOUT_DATUM).to_epsg() == 3035
    assert "3035" not in as_text(CRS.from_user_input(LAEA_WITHOUT_DATUM))
    assert "3035" not in short_name(LAEA_WITHOUT_DATUM)


@pytest.mark.parametrize(
    ("crs", "name"),
    [
        (CRS.from_epsg(3035).to_wkt(), "EPSG:3035"),
        ("ESRI:54009", "ESRI:54009"),
        ("EPSG:3035+5773", "ETRS89-extended / LAEA Europe + EGM96 height"),
        ("+proj=laea +lat_0=10 +lon_0=5 +datum=WGS84", "+proj=laea +lat_0=10 +lon_0=5"),
    ],
)
def test_names_are_short(crs, name):
    assert short_name(crs).startswith(name)
    assert len(short_name(crs)) < 100


@pytest.mark.parametrize(
    ("crs", "message"),
    [
        ("EPSG:999999", "not a coordinate reference system; give a code"),
        ("metres", "not a coordinate reference system"),
        ("", "not a coordinate reference system"),
        ("3035", "not a coordinate reference system"),
        ("EPSG:5773", "is neither in degrees nor a map projection"),  # heights
        ("EPSG:4978", "is neither in degrees nor a map projection"),  # from the Earth's centre
        (PLAN, "is neither in degrees nor a map projection"),
        ("EPSG:4807", "is in grads, not in degrees"),
        ("IAU_2015:30100", "is not the Earth's"),
    ],
)
def test_a_crs_no_map_can_be_made_in_is_named(crs, message):
    with pytest.raises(UserError, match=message):
        read_crs(crs)


def test_a_crs_is_never_fetched_nor_read_from_a_file(host, tmp_path):
    address, seen = host
    (tmp_path / "crs.txt").write_text(CRS.from_epsg(3035).to_wkt())
    for text in (
        address,
        f" {address}",
        f"/vsicurl/{address}",
        f"+proj=longlat +ellps=bessel +nadgrids={address}",
        f"+init={address}:3",
        f'{{"type": "link", "href": "{address}"}}',
        f'{{"init": "{address}"}}',
        f'PROJCS["x",EXTENSION["PROJ4","+proj=longlat +nadgrids={address}"]]',
        "urn:ogc:def:crs:EPSG::3035",
        str(tmp_path / "crs.txt"),
    ):
        with pytest.raises(CRSError):
            parse_crs(text)
        with pytest.raises(UserError, match="not a coordinate reference system"):
            read_crs(text)
        assert cell_sizes([{"crs": text, "cell_size": [1, 1], "variables": ["a"]}]) == {}
    time.sleep(0.2)
    assert seen == []


@pytest.mark.parametrize("code", ["EPSG:3035", "EPSG:4326", "EPSG:3035+5773", "ESRI:54009", "OGC:CRS84"])
def test_codes_wkt_of_all_kinds_and_projjson_are_a_crs(code):
    known = CRS.from_user_input(code)
    texts = [known.to_wkt(), known.to_wkt(version="WKT2_2019"), known.to_wkt(version="WKT2_2015")]
    for text in (code, *texts, json.dumps(known.to_dict(projjson=True))):
        assert parse_crs(f" {text} ") == CRS.from_user_input(text)
