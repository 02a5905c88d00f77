"""Grids whose cells can be counted by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from raster_files import write_raster
from rasterio.crs import CRS
from rasterio.transform import Affine

from soilcarbon.geo import grid as grids
from soilcarbon.geo.grid import (
    Grid,
    Tile,
    apart,
    cell_sizes,
    covered,
    crop_to_area,
    finest,
    lonlat,
    nominal_metres,
    raster_grid,
    target_grid,
)
from soilcarbon.geo.raster import find_layers
from soilcarbon.io.files import UserError

DEGREES = "EPSG:4326"
AREA = Path("area.gpkg")


def make(path, west=0.0, north=10.0, cell=1.0, height=10, width=10, crs=DEGREES, transform=None):
    return write_raster(path, np.ones((height, width), np.uint8), west, north, cell, crs, transform=transform)


def layers_of(*paths):
    return find_layers(paths)


# --- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 3, 7, 20, 1000])
def test_tiles_cover_each_cell_once_in_reading_order(side):
    grid = Grid(DEGREES, 0, 10, (1, 1), 14, 20)
    count = np.zeros((14, 20), int)
    tiles = list(grid.tiles(side))
    for tile in tiles:
        assert 0 < tile.height <= side
        assert 0 < tile.width <= side
        count[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width] += 1
    assert (count == 1).all()
    assert [tile.number for tile in tiles] == list(range(len(tiles)))
    assert sorted(tiles, key=lambda tile: (tile.row, tile.col)) == tiles


def test_tiles_of_a_huge_grid_are_not_counted_one_by_one():
    grid = Grid("EPSG:3857", 0, 0, (1, 1), 3_000_001, 3_000_000)
    assert grid.tile_count(512) == 5860 * 5860
    assert grid.tile(5860 * 5860 - 1, 512) == Tile(5860 * 5860 - 1, 5859 * 512, 5859 * 512, 193, 192)
    for number in (-1, 5860 * 5860):
        with pytest.raises(IndexError):
            grid.tile(number, 512)


def test_coordinates_and_places_are_each_others_inverse():
    grid = Grid("EPSG:3035", 4e6, 3e6, (250.0, 100.0), 60, 70)
    x, y = grid.coordinates(np.array([0.0, 59.5]), np.array([0.5, 70.0]))
    assert (x.tolist(), y.tolist()) == ([4000125, 4017500], [3000000, 2994050])
    assert np.array(grid.places(x, y)).tolist() == [[0, 59.5], [0.5, 70]]
    assert grid.bounds == (4e6, 4017500, 2994000, 3e6)
    assert tuple(grid.transform)[:6] == (250, 0, 4e6, 0, -100, 3e6)


def test_a_longitude_is_found_on_any_turn():
    grid = Grid(DEGREES, 170, 10, (1, 1), 20, 20)
    for lon in (175.5, -184.5, 535.5):
        assert grid.places(np.array([lon]), np.array([0.0]))[1] == pytest.approx(5.5)


@pytest.mark.parametrize(("crs", "geographic"), [(DEGREES, True), ("EPSG:9518", True), ("EPSG:3035", False), ("EPSG:7405", False)])
def test_degrees_are_distinguished_from_lengths(crs, geographic):
    assert Grid(crs, 0, 0, (1, 1), 1, 1).geographic is geographic


def test_middles_in_degrees():
    lon, lat = lonlat(Grid("EPSG:3035", 4320500.0, 3210500.0, (1000.0, 1000.0), 3, 3), np.array([0.5]), np.array([0.5]))
    assert (lon[0], lat[0]) == pytest.approx((10, 52), abs=1e-6)
    lon, lat = lonlat(Grid("ESRI:54009", -1.81e7, 9.1e6, (5e4, 5e4), 364, 724), np.array([0.5, 182.0]), np.array([0.5, 362.0]))
    assert np.isnan([lon[0], lat[0]]).all()
    assert (lon[1], lat[1]) == pytest.approx((0, 0))


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((2, 5, 3, 7), (2, 7, 4, 3)),  # x, y, height, width: bounds on cell edges
        ((2.1, 4.9, 3.1, 6.9), (2, 7, 4, 3)),  # cells that are touched are kept whole
        ((2 + 1e-9, 5 + 1e-9, 3 - 1e-9, 7 + 1e-9), (2, 7, 4, 3)),  # edges missed by rounding
        ((-50, 50, -50, 50), (0, 10, 10, 10)),
        ((-math.inf, 4, -1e308, 1e308), (0, 10, 10, 4)),
        ((3.4, 3.5, 3.4, 3.5), (3, 4, 1, 1)),
    ],
)
def test_a_crop_keeps_the_cells_that_bounds_touch(bounds, expected):
    part = Grid(DEGREES, 0, 10, (1, 1), 10, 10).crop(bounds)
    assert (part.x, part.y, part.height, part.width) == expected


def test_a_crop_is_not_fooled_by_rounding_far_from_the_corner():
    grid = Grid(DEGREES, -180, 90, (1 / 120, 1 / 120), 21600, 43200)
    for west in range(-179, 170, 7):
        part = grid.crop((west, west + 1, 10, 12))
        assert (part.height, part.width) == (240, 120)
        assert part.bounds == pytest.approx((west, west + 1, 10, 12), abs=1e-9)
        assert part.crop(part.bounds) == part


@pytest.mark.parametrize("bounds", [(10, 12, 3, 7), (2, 5, 10, 11), (-5, 0, 3, 7), (math.nan, 5, 3, 7), (5, 2, 3, 7)])
def test_bounds_without_cells_are_an_error(bounds):
    with pytest.raises(UserError, match="hold no cell of the map's grid, x 0 to 10, y 0 to 10 in EPSG:4326"):
        Grid(DEGREES, 0, 10, (1, 1), 10, 10).crop(bounds)


@pytest.mark.parametrize(
    ("west", "area", "expected"),
    [
        (-180, (10, 20), (10, 20)),
        (0, (10, 20), (10, 20)),
        (0, (-20, -10), (340, 350)),
        (0, (-180, 180), (0, 360)),
        (0, (-10, 10), (0, 360)),  # lies at both ends
        (-180, (-180, 180), (-180, 180)),
        (-180, (170, 190), (-180, 180)),
        (170, (-180, -175), (180, 185)),
        (170, (170, 190), (170, 190)),
        (-190, (175, 179), (-185, -181)),
    ],
)
def test_an_area_is_found_on_a_grid_of_any_longitudes(west, area, expected):
    grid = Grid(DEGREES, west, 50, (1, 1), 100, 360)
    assert crop_to_area(grid, (*area, -10, 10), AREA).bounds == (*expected, -10, 10)


def test_an_area_does_not_turn_on_a_projected_grid():
    grid = Grid("EPSG:3035", 0, 100, (1, 1), 100, 100)
    assert crop_to_area(grid, (10, 20, 30, 40), AREA).bounds == (10, 20, 30, 40)
    with pytest.raises(UserError, match=r"area.gpkg: the area of interest, x 370 to 380, y 30 to 40, does not meet the map's grid"):
        crop_to_area(grid, (370, 380, 30, 40), AREA)


@pytest.mark.parametrize("area", [(10, 20, 60, 70), (200, 210, 0, 10)])
def test_an_area_elsewhere_is_an_error(area):
    with pytest.raises(
        UserError, match=r"area.gpkg: the area of interest, .* does not meet the map's grid, x 0 to 100, y -50 to 50"
    ):
        crop_to_area(Grid(DEGREES, 0, 50, (1, 1), 100, 100), area, AREA)


def test_rasters_apart_from_a_grid_are_named(tmp_path):
    make(tmp_path / "here.tif", 5, 55, 1)
    make(tmp_path / "globe.tif", -180, 90, 10, 18, 36)
    make(tmp_path / "globe_from_0.tif", 0, 90, 10, 18, 36)
    make(tmp_path / "mollweide.tif", -1.81e7, 9.1e6, 1e5, 182, 362, "ESRI:54009")
    make(tmp_path / "america.tif", -100, 55, 1)
    make(tmp_path / "beside.tif", 15, 55, 1)
    make(tmp_path / "corner.tif", 14.9, 45.1, 0.05)
    make(tmp_path / "utm.tif", 3e5, 5.4e6, 1000, crs="EPSG:32632")
    layers = layers_of(tmp_path)
    assert [path.stem for path in apart(Grid(DEGREES, 5, 55, (0.1, 0.1), 100, 100), layers)] == ["america", "beside"]
    west = apart(Grid("EPSG:32632", 3e5, 5.4e6, (100.0, 100.0), 1000, 1000), layers)  # west of the zone's middle meridian
    assert [path.stem for path in west] == ["america", "beside", "corner"]
    assert [path.stem for path in apart(Grid("EPSG:3832", 2.5e6, 0.0, (1e4, 1e4), 99, 99), layers)] == [
        *("america", "beside", "corner", "here", "utm")
    ]


def test_the_share_of_a_map_that_all_rasters_cover(tmp_path):
    grid = Grid(DEGREES, 0, 10, (0.1, 0.1), 100, 100)
    west, north = make(tmp_path / "w.tif", -5, 20, 1, 20, 10), make(tmp_path / "n.tif", -5, 20, 1, 15, 20)
    assert covered(grid, layers_of(west)) == pytest.approx(0.5, abs=0.03)
    assert covered(grid, layers_of(west, north)) == pytest.approx(0.25, abs=0.03)
    assert covered(grid, layers_of(make(tmp_path / "all.tif", -180, 90, 10, 18, 36))) == 1
    assert covered(grid, layers_of(west, make(tmp_path / "away.tif", 50, 20))) == 0
    world = Grid("ESRI:54009", -1.81e7, 9.1e6, (5e4, 5e4), 364, 724)  # its corners are off the Earth
    assert covered(world, layers_of(tmp_path / "all.tif")) == 1


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crs", "cell", "metres"),
    [
        (DEGREES, 1, 111_195),
        ("EPSG:9518", 0.5, 55_597.5),
        ("EPSG:3035", 250, 250),
        ("EPSG:2263", 100, 30.48),
        ("EPSG:7405", 30, 30),
        ("+proj=laea +lat_0=10 +lon_0=5 +units=km", 2, 2000),
    ],
)
def test_cells_in_metres(crs, cell, metres):
    assert nominal_metres(crs, cell) == pytest.approx(metres, rel=1e-5)


def test_the_finest_raster_has_the_smallest_cells_on_the_ground_and_of_equals_the_first_wins(tmp_path):
    coarse = make(tmp_path / "a.tif", cell=0.1)
    feet = make(tmp_path / "b.tif", 9e5, 2e5, 1000, crs="EPSG:2263")  # 305 m
    metres = make(tmp_path / "c.tif", 4e6, 3e6, 400, crs="EPSG:3035")
    long = make(tmp_path / "d.tif", crs="EPSG:3035", transform=Affine(100, 0, 4e6, 0, -4000, 3e6))
    same = make(tmp_path / "e.tif", 0, 0, 1000.0001, crs="EPSG:2263")
    assert finest(layers_of(coarse, metres)) == metres
    assert finest(layers_of(coarse, metres, long, feet, same)) == feet
    assert finest(layers_of(same, feet)) == same


def test_cells_of_a_record_are_used_only_if_valid():
    good = {"crs": "EPSG:3035", "cell_size": [250, 250], "variables": ["slope", "band1"], "shape": None}
    degrees = {"crs": DEGREES, "cell_size": [0.1, 0.2], "variables": ["bio01"]}
    assert cell_sizes([good, degrees]) == pytest.approx({"slope": 250, "band1": 250, "bio01": 11119.5}, rel=1e-5)
    for junk in (None, 5, "text", {}, {"a": 1}, [], [None], [5], ["text"], [[]], [{}]):
        assert cell_sizes(junk) == {}
    for key, value in [
        *[
            ("crs", each)
            for each in (None, "http://127.0.0.1:9/crs", "+init=epsg:3035", "", "nowhere", [], {}, 3.5, "EPSG:5773 ", "EPSG:999999")
        ],
        *[("cell_size", each) for each in (None, [], "x", ["x"], [None], [0], [-1], [math.nan], [math.inf], [10**400], 5, {})],
        *[("variables", each) for each in (None, 5, "soc", {"a": 1}, [5, None, ["x"]])],
    ]:
        found = cell_sizes([good | {key: value, "name": "junk"}, degrees])
        assert set(found) - {"slope", "band1"} == {"bio01"}, (key, value)
        assert key == "crs" or set(found) == {"bio01"}, (key, value)


# --- the grid of a map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        Affine(0.5, 0, 10, 0, -0.5, 40),
        Affine(0.5, 0, 10, 0, 0.5, 35),
        Affine(-0.5, 0, 15, 0, -0.5, 40),
        Affine(-0.5, 0, 15, 0, 0.5, 35),
    ],
)
def test_a_rasters_grid_is_turned_north_up(tmp_path, place):
    assert raster_grid(make(tmp_path / "v.tif", transform=place)) == Grid(DEGREES, 10, 40, (0.5, 0.5), 10, 10)


def test_a_map_follows_the_finest_raster_or_the_given_one(tmp_path):
    fine, coarse = make(tmp_path / "a.tif", cell=0.1, height=20, width=30), make(tmp_path / "b.tif", 100, 50, 1)
    assert target_grid(layers_of(coarse, fine)) == Grid(DEGREES, 0, 10, (0.1, 0.1), 20, 30)
    assert target_grid(layers_of(coarse, fine), like=coarse) == Grid(DEGREES, 100, 50, (1, 1), 10, 10)


def test_bounds_alone_crop_the_rasters_cells(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", 0.05, 10.05, 0.1, 100, 100))
    assert target_grid(layers, bounds=(1, 2, 3, 4)).bounds == pytest.approx((0.95, 2.05, 2.95, 4.05))
    for crs in (DEGREES, CRS.from_epsg(4326).to_wkt()):  # the raster's own, by whatever name
        assert target_grid(layers, crs=crs, bounds=(1, 2, 3, 4)) == target_grid(layers, bounds=(1, 2, 3, 4))
        assert target_grid(layers, crs=crs) == target_grid(layers)


def test_a_resolution_alone_keeps_the_rasters_extent(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", -10, 50, 0.1, 100, 200))
    assert target_grid(layers, resolution=0.05) == Grid(DEGREES, -10, 50, (0.05, 0.05), 200, 400)
    assert target_grid(layers, resolution=0.1) == target_grid(layers)
    assert target_grid(layers, resolution=3) == Grid(DEGREES, -12, 51, (3, 3), 4, 8)  # multiples of 3
    assert target_grid(layers, resolution=15) == Grid(DEGREES, -15, 60, (15, 15), 2, 2)
    world = layers_of(make(tmp_path / "b.tif", -180, 90, 1, 180, 360))
    assert target_grid(world, resolution=7).bounds == (-180, 184, -92, 90)  # 91 is beyond the pole
    shifted = layers_of(make(tmp_path / "c.tif", 0.05, 50.05, 0.1, 100, 100))
    assert target_grid(shifted, resolution=0.1) == target_grid(shifted)  # its own cells, not resampled


def test_a_grid_without_bounds_lies_on_multiples_of_its_cell_size_and_covers_the_raster(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", 4_000_123, 3_000_077, 90, 100, 100, "EPSG:3035"))
    assert target_grid(layers, resolution=250.0) == Grid("EPSG:3035", 4_000_000, 3_000_250, (250, 250), 37, 37)
    grid = target_grid(layers, crs="EPSG:32632", resolution=100.0)
    assert (grid.x % 100, grid.y % 100) == (0, 0)
    assert covered(grid, layers) > 0.8


def test_crs_resolution_and_bounds_are_taken_as_they_are(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", 0, 60, 0.1, 200, 200))
    grid = target_grid(layers, crs="EPSG:3035", resolution=1000.0, bounds=(4_000_100, 4_010_100, 3_000_000, 3_005_500))
    assert grid == Grid("EPSG:3035", 4_000_100, 3_005_500, (1000.0, 1000.0), 6, 10)


def test_without_bounds_another_crs_covers_the_raster(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", 4, 54, 0.1, 40, 80))
    grid = target_grid(layers, crs="EPSG:3035", resolution=1000.0)
    lon, lat = np.meshgrid(np.linspace(4, 12, 50), np.linspace(50, 54, 50))
    row, col = grid.places(*grids.transformed(DEGREES, grid.crs, lon, lat))
    assert -1e-3 < row.min() < 5
    assert -1e-3 < col.min() < 5
    assert grid.height - 5 < row.max() < grid.height + 1e-3
    assert grid.width - 5 < col.max() < grid.width + 1e-3


def test_a_projected_raster_across_the_antimeridian_in_degrees_is_no_belt_round_the_earth(tmp_path):
    layers = layers_of(make(tmp_path / "a.tif", 1e6, 4e6, 1e4, 300, 300, "EPSG:3460"))
    grid = target_grid(layers, crs=DEGREES, resolution=0.1)
    assert grid.bounds[:2] == pytest.approx((166.4, 203.5), abs=1)  # 1000 km west and 2000 km east of 178.75, at 44 south


def test_a_world_raster_goes_to_degrees_and_a_world_projection_but_not_to_a_zone(tmp_path):
    world = layers_of(make(tmp_path / "a.tif", -180, 90, 1, 180, 360))
    assert target_grid(world, crs="EPSG:8857", resolution=1e5).width == 346
    mollweide = layers_of(make(tmp_path / "m.tif", -1.81e7, 9.1e6, 1e5, 182, 362, "ESRI:54009"))
    assert target_grid(mollweide, crs=DEGREES, resolution=0.5) == Grid(DEGREES, -180, 90, (0.5, 0.5), 360, 720)
    for crs in ("EPSG:32632", "EPSG:3035"):
        with pytest.raises(UserError, match=f"{crs} cannot hold x -180 to 180, y -90 to 90 in EPSG:4326; give the map's bounds"):
            target_grid(world, crs=crs, resolution=1000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crs": "EPSG:3035"}, "crs EPSG:3035 needs --resolution"),
        ({"crs": "nowhere", "resolution": 1}, "crs 'nowhere': not a coordinate reference system"),
        ({"crs": "EPSG:5773", "resolution": 1}, "crs 'EPSG:5773': is neither in degrees nor a map projection"),
        ({"resolution": 1e-7}, r"would have 1e\+08 x 1e\+08 cells; is the resolution in the unit of the CRS"),
        ({"resolution": 5e-324}, "cells; is the resolution in the unit of the CRS"),
        ({"resolution": 1000}, "resolution 1000 exceeds the map's extent, x 0 to 10, y 0 to 10; is it in the unit of the CRS"),
        ({"resolution": 0}, "resolution 0: a cell's size is a number above 0"),
        ({"resolution": -1.0}, "above 0"),
        ({"resolution": math.nan}, "above 0"),
        ({"resolution": math.inf}, "above 0"),
        ({"bounds": (20, 30, 0, 5)}, "bounds x 20 to 30, y 0 to 5 hold no cell of the map's grid, x 0 to 10, y 0 to 10"),
        ({"bounds": (math.nan, 5, 0, 5)}, "bounds x nan to 5, y 0 to 5: they have to be finite"),
        ({"bounds": (0, math.inf, 0, 5), "resolution": 1}, "they have to be finite"),
        ({"bounds": (5, 0, 0, 5), "resolution": 1}, "each lower limit below its upper limit"),
        ({"bounds": (0, 0, 0, 5)}, "each lower limit below its upper limit"),
        ({"bounds": (-1e308, 1e308, 0, 5), "resolution": 1}, "cells; is the resolution in the unit of the CRS"),
    ],
)
def test_invalid_grids_are_errors(tmp_path, given, message):
    layers = layers_of(make(tmp_path / "a.tif"))
    with pytest.raises(UserError, match=message):
        target_grid(layers, **given)
