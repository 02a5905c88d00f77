"""Areas on grids against counts, areas and totals worked out by hand, GDAL's rasterize and Lambert's equal-area projection."""

import json
import logging
import os
import time
import zipfile

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from conftest import slow_but
from pydantic import TypeAdapter
from rasterio.features import rasterize
from rasterio.warp import transform

from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.vector import Area, load_areas, read_areas, write_areas
from soilcarbon.geo.zonal_statistics import Sums, ZoneCells, add, cell_areas, inside, sums, totals, zone_masks
from soilcarbon.io.files import UserError

DEGREES = "EPSG:4326"
EARTH = 510_065_621.7


def box(name, x_min, x_max, y_min, y_max):
    return Area(name, square(x_min, x_max, y_min, y_max))


def square(x_min, x_max, y_min, y_max):
    return shapely.box(x_min, y_min, x_max, y_max)


def whole(grid):
    return Tile(0, 0, 0, grid.height, grid.width)


def flat(height, width):
    """A grid of cells of 1 m in UTM, its lower left corner at 0, 0."""
    return Grid("EPSG:32632", 0.0, float(height), (1.0, 1.0), height, width)


# --- masks -------------------------------------------------------------------------------------------------------


def test_a_cell_is_in_an_area_if_its_centre_is():
    mask = inside([box("a", 0.6, 2.4, 0.4, 1.6)], flat(3, 4), Tile(0, 0, 0, 3, 4))
    assert mask.astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_a_hole_is_outside_and_the_parts_of_a_multipolygon_are_inside():
    shape = shapely.union_all([square(0, 4, 0, 4).difference(square(1, 3, 1, 3)), square(5, 6, 0, 1)])
    mask = inside([Area("a", shape)], flat(4, 6), Tile(0, 0, 0, 4, 6))
    assert mask.sum() == 16 - 4 + 1
    assert not mask[1:3, 1:3].any()
    assert mask[3, 5]


def test_masks_are_those_of_gdal_where_no_centre_lies_on_a_border():
    random = np.random.default_rng(0)
    grid = Grid("EPSG:32632", 500.0, 900.0, (3.0, 2.0), 90, 110)
    for _ in range(20):
        points = random.uniform([400, 700], [900, 950], (40, 2)).tolist()  # crosses itself, hangs over all sides
        area = Area("a", shapely.Polygon(points))
        gdal = rasterize([area.shape], out_shape=(90, 110), transform=grid.transform)
        assert (inside([area], grid, whole(grid)) == (gdal == 1)).all()


@pytest.mark.parametrize("border", ["upright", "level", "slanted"])
def test_neighbours_whose_border_runs_through_centres_share_no_cell_and_leave_none(border):
    grid = Grid(DEGREES, -0.125, 2.125, (0.25, 0.25), 9, 9)
    pairs = {
        "upright": (square(-1, 1, -1, 3), square(1, 3, -1, 3)),
        "level": (square(-1, 3, -1, 1), square(-1, 3, 1, 3)),
        "slanted": (shapely.Polygon([(-1, -1), (3, 3), (-1, 3)]), shapely.Polygon([(3, 3), (-1, -1), (3, -1)])),
    }
    first, second = (inside([Area("a", part)], grid, whole(grid)) for part in pairs[border])
    assert (first ^ second).all()


def test_a_centre_on_a_border_belongs_to_the_area_east_or_south_of_it():
    mask = inside([box("a", 0.5, 1.5, 0.5, 1.5)], flat(2, 2), Tile(0, 0, 0, 2, 2))
    assert mask.astype(int).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("side", slow_but([1, 7, 16, 64], 7, 64))
def test_masks_of_tiles_are_parts_of_the_whole_mask(side):
    random = np.random.default_rng(1)
    grid = Grid(DEGREES, 10.1, 50.3, (0.1, 0.1), 40, 50)
    points = np.round(random.uniform([9, 45], [16, 52], (30, 2)), 1).tolist()  # many vertices on lines of centres or borders
    areas = [Area("a", shapely.Polygon(points)), box("b", 12.15, 13.15, 47.15, 48.15)]
    expected = dict(zone_masks(areas, grid, whole(grid)))
    found = {name: np.zeros((40, 50), bool) for name in "ab"}
    for tile in grid.tiles(side):
        for name, mask in zone_masks(areas, grid, tile):
            found[name][tile.row : tile.row + tile.height, tile.col : tile.col + tile.width] = mask
    assert all((found[name] == expected[name]).all() for name in "ab")


def test_only_areas_with_cells_in_the_tile_are_returned_and_they_may_overlap():
    areas = [box("far", 50, 60, 50, 60), box("a", 0, 2, 0, 4), box("between centres", 0.6, 1.4, 0.6, 1.4), box("b", 1, 3, 0, 4)]
    masks = dict(zone_masks(areas, flat(4, 4), Tile(0, 0, 0, 4, 4)))
    assert {name: mask.sum() for name, mask in masks.items()} == {"a": 8, "b": 8}
    assert (masks["a"] & masks["b"]).sum() == 4
    assert inside(areas, flat(4, 4), Tile(0, 0, 0, 4, 4)).sum() == 12
    assert not inside([], flat(4, 4), Tile(0, 0, 0, 4, 4)).any()


@pytest.mark.parametrize(("west", "columns"), [(-180.0, [0, 1, 358, 359]), (0.0, [178, 179, 180, 181]), (170.0, [8, 9, 10, 11])])
def test_an_area_across_the_antimeridian_is_found_on_any_grid_of_degrees(west, columns):
    fiji = Area("a", shapely.MultiPolygon([square(178, 180, -1, 1), square(-180, -178, -1, 1)]))
    grid = Grid(DEGREES, west, 1.0, (1.0, 1.0), 2, 360)
    for area in (fiji, box("a", 178, 182, -1, 1), box("a", -182, -178, -1, 1)):
        assert np.flatnonzero(inside([area], grid, whole(grid)).all(axis=0)).tolist() == columns


def test_a_projected_grid_does_not_turn():
    assert not inside([box("a", 360, 370, 0, 10)], flat(10, 10), Tile(0, 0, 0, 10, 10)).any()


# --- true areas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [30.0, 1.0, 0.25])
def test_the_whole_earth_has_its_area(cell):
    grid = Grid(DEGREES, -180.0, 90.0, (cell, cell), int(180 / cell), int(360 / cell))
    areas = cell_areas(grid, whole(grid))
    assert areas.shape == (grid.height, 1)
    assert areas.sum() * grid.width == pytest.approx(EARTH, rel=1e-9)


def test_beyond_the_poles_there_is_nothing():
    areas = cell_areas(Grid(DEGREES, 0.0, 91.0, (1.0, 1.0), 182, 1), Tile(0, 0, 0, 182, 1))
    assert areas[[0, 181], 0].tolist() == [0, 0]
    assert areas.sum() * 360 == pytest.approx(EARTH, rel=1e-9)


@pytest.mark.parametrize("cell", [30.0, 1000.0, 20_000.0, 100_000.0])
@pytest.mark.parametrize("north", [0.0, 5_000_000.0, 11_100_000.0])  # 0, 41 and 70.3 degrees
def test_web_mercator_cells_have_the_area_between_their_parallels(cell, north):
    grid = Grid("EPSG:3857", 1_000_000.0, north, (cell, cell), 40, 30)
    _, lat = transform("EPSG:3857", DEGREES, np.zeros(41), north - cell * np.arange(41))
    width = np.degrees(cell / 6_378_137.0)
    between = [
        cell_areas(Grid(DEGREES, 0, top, (width, top - low), 1, 1), Tile(0, 0, 0, 1, 1)).item()
        for top, low in zip(lat, lat[1:], strict=False)
    ]
    np.testing.assert_allclose(
        cell_areas(grid, whole(grid)), np.tile(np.array(between)[:, None], (1, 30)), rtol=1e-6 if cell <= 1000 else 5e-5
    )


@pytest.mark.parametrize(
    ("crs", "x", "y", "cell"),
    [
        ("EPSG:32632", 100_000, 7_900_000, 1000),
        ("EPSG:32632", 900_000, 100_000, 250),
        ("EPSG:3995", -20_000, 20_000, 1000),
        ("EPSG:2263", 900_000, 200_000, 3000),
        ("EPSG:3035", 4_000_000, 3_000_000, 250),  # equal area
    ],
)
def test_cells_of_other_projections_have_the_area_of_their_corners_in_an_equal_area_projection(crs, x, y, cell):
    grid = Grid(crs, float(x), float(y), (float(cell), float(cell)), 40, 40)
    cols, rows = np.meshgrid(np.arange(41), np.arange(41))
    corners = (x + cols * cell).ravel(), (y - rows * cell).ravel()
    (lon,), (lat,) = transform(crs, DEGREES, [x + 20 * cell], [y - 20 * cell])
    local = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m"
    east, north = (np.reshape(axis, (41, 41)) for axis in transform(crs, local, *corners))
    diagonals = (
        east[1:, 1:] - east[:-1, :-1],
        north[1:, 1:] - north[:-1, :-1],
        east[1:, :-1] - east[:-1, 1:],
        north[1:, :-1] - north[:-1, 1:],
    )
    shoelace = np.abs(diagonals[0] * diagonals[3] - diagonals[1] * diagonals[2]) / 2e6
    np.testing.assert_allclose(cell_areas(grid, whole(grid)), shoelace, rtol=1e-6)


@pytest.mark.parametrize("cell", [25_000.0, 5000.0])
@pytest.mark.parametrize("west", [-18_050_000.0, -6_000_000.0, 17_000_000.0])
def test_at_the_rim_of_a_world_map_cells_have_the_area_of_their_latitude(cell, west):
    side = int(1_000_000 / cell)
    rim, middle = (
        cell_areas(Grid("ESRI:54009", x, 6_000_000.0, (cell, cell), side, side), Tile(0, 0, 0, side, side)) for x in (west, 0.0)
    )
    nominal = cell**2 / 1e6
    off_earth = (rim == nominal).all()
    assert off_earth or np.abs(rim / middle - 1).max() < 1e-4


@pytest.mark.slow
def test_a_world_map_has_the_area_of_the_earth():
    grid = Grid("ESRI:54009", -18_050_000.0, 9_025_000.0, (25_000.0, 25_000.0), 722, 1444)
    x, y = grid.x + 25_000 * (np.arange(1444) + 0.5), grid.y - 25_000 * (np.arange(722) + 0.5)
    ellipse = (x / 18_040_095.7) ** 2 + (y / 9_020_047.85)[:, None] ** 2 < 1
    assert (cell_areas(grid, whole(grid)) * ellipse).sum() == pytest.approx(EARTH, rel=2e-4)


def test_a_cell_has_the_same_area_in_every_tile():
    grid = Grid("EPSG:3857", 1_000_000.0, 9_000_000.0, (300.0, 300.0), 100, 90)
    expected = cell_areas(grid, whole(grid))
    for tile in grid.tiles(37):
        part = expected[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
        np.testing.assert_allclose(cell_areas(grid, tile), part, rtol=1e-12)


# --- sums and totals ---------------------------------------------------------------------------------------------


def test_a_constant_stock_over_a_known_area_gives_its_mass():
    grid = Grid(DEGREES, 0.0, 1.0, (0.01, 0.01), 100, 100)
    parts = [
        sums(np.full((3, t.height, t.width), 10.0), cell_areas(grid, t), ZoneCells.of(zone_masks([box("a", 0, 1, 0, 1)], grid, t)))
        for t in grid.tiles(33)
    ]
    row = totals(parts, "kg/m2", ["a"]).iloc[0]
    assert (row["cells"], row["mean"], row["total_unit"]) == (10_000, pytest.approx(10), "Mt")
    assert row["area_km2"] == pytest.approx(12_308.464, abs=1e-3)
    assert row["total"] == pytest.approx(123.08464, abs=1e-5)  # 10 kg/m2 = 0.01 Mt/km2


def test_means_weigh_by_true_area():
    grid = Grid(DEGREES, 0.0, 60.5, (1.0, 60.5), 2, 1)
    km2 = cell_areas(grid, whole(grid))[:, 0]
    table = totals([sums(np.array([[[4.0], [1.0]]]), km2[:, None], ZoneCells.of([("a", np.ones((2, 1), bool))]))], "g/kg", ["a"])
    assert table["mean"].item() == pytest.approx((4 * km2[0] + km2[1]) / km2.sum())


@pytest.mark.parametrize(("crs", "corner", "cell"), [(DEGREES, (5.0, 70.0), 0.01), ("EPSG:3857", (1e6, 1e7), 500.0)])
def test_sums_over_tiles_of_any_size_are_those_of_the_whole(crs, corner, cell):
    grid = Grid(crs, *corner, (cell, cell), 60, 70)
    random = np.random.default_rng(2)
    values = random.lognormal(2, 1, (4, 60, 70)).astype(np.float32)
    values[:, random.random((60, 70)) < 0.2] = np.nan
    x_min, x_max, y_min, y_max = grid.bounds
    middle = (x_min + x_max) / 2
    areas = [box("a", x_min - 1, middle, y_min - 1, y_max), box("b", middle - 20 * cell, x_max, y_min, y_max - 30 * cell)]

    def of(side):
        cut = ((t, values[:, t.row : t.row + t.height, t.col : t.col + t.width]) for t in grid.tiles(side))
        parts = [sums(part, cell_areas(grid, t), ZoneCells.of(zone_masks(areas, grid, t))) for t, part in cut]
        return totals(parts, "kg m-2", ["a", "b"])

    expected = of(100)
    for side in (7, 13, 32):
        table = of(side)
        assert table["cells"].tolist() == expected["cells"].tolist()
        np.testing.assert_allclose(table.select_dtypes("number"), expected.select_dtypes("number"), rtol=1e-12)


def test_a_cell_without_a_value_counts_nowhere():
    values = np.array([[[1.0, np.nan, 3.0]], [[5.0, np.nan, 7.0]]])
    masks = [("a", np.array([[True, True, True]])), ("b", np.array([[False, True, False]]))]
    found = sums(values, np.full((1, 1), 2.0), ZoneCells.of(masks))
    assert list(found) == ["a"]
    assert (found["a"].cells, found["a"].area, found["a"].weighted.tolist()) == (2, 4.0, [8.0, 24.0])


def test_sums_survive_json_to_the_last_bit_and_add_up():
    first = {
        "a": Sums(1, 0.1, np.array([1 / 3, 1e-300]), 0.3, (1 / 7, 2.0), 2.0, (0.1,), (1 / 3, 2.0)),
        "b": Sums(2, 0.2, np.array([1.0, 2.0]), 1.0),
    }
    second = {"a": Sums(3, 0.2, np.array([1.0, 2.0]), 0.1, (1.0, 0.5), 3.0, (0.2,)), "c": Sums(1, 1.0, np.array([0.0, 0.0]), 0.0)}
    plain = TypeAdapter(dict[str, Sums])
    read = plain.validate_json(plain.dump_json(first))
    assert plain.dump_json(read) == plain.dump_json(first) and read["a"].weighted.tolist() == [1 / 3, 1e-300]
    expected = {
        "a": Sums(4, 0.1 + 0.2, np.array([1 / 3 + 1, 1e-300 + 2]), 0.1 + 0.3, (1 / 7 + 1.0, 2.5), 5.0, (0.1 + 0.2,)),
        "b": first["b"],
        "c": second["c"],
    }
    assert plain.dump_json(add(read, second)) == plain.dump_json(expected)
    assert read["a"].cells == 1  # adding changes neither


def test_the_interval_is_that_of_the_members_own_means_not_of_cells():
    means = np.arange(21.0)
    opposed = np.stack([means - 100, means + 100], axis=-1)[:, None, :]  # cells of every member differ by 200
    row = totals([sums(opposed, np.full((1, 1), 3.0), ZoneCells.of([("a", np.ones((1, 2), bool))]))], "kg/m2", ["a"]).iloc[0]
    assert (row["mean"], row["mean_lower"], row["mean_upper"]) == pytest.approx((10, 1, 19))
    assert (row["total"], row["total_lower"], row["total_upper"]) == pytest.approx((60, 6, 114)) and row["total_unit"] == "kt"


def test_one_member_has_no_interval():
    row = totals([{"a": Sums(1, 2.0, np.array([6.0]))}], "g/kg", ["a"]).iloc[0]
    assert (row["mean"], row["total_unit"]) == (3, "") and np.isnan(row["total"])
    assert row[["mean_lower", "mean_upper", "total_lower", "total_upper"]].isna().all()


def test_rows_follow_the_file_and_a_zone_without_cells_is_empty():
    table = totals([{"a": Sums(1, 2.0, np.array([6.0, 8.0]))}], "t/ha", ["none", "a"])
    assert table["zone"].tolist() == ["none", "a"]
    assert table["cells"].tolist() == [0, 1]
    assert table.loc[0, ["mean", "mean_lower", "mean_upper", "total", "total_lower", "total_upper"]].isna().all()
    assert len(totals([], "g/kg", ["a"])) == 1


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        ("kg/m2|kg m-2|kg m^-2|kg m**-2|kg·m⁻²|kg/m²|kg C m-2|kg C/m^2|kg.m-2| kg per m2 |Kg/m2", 1e-3),
        ("t/ha|Mg/ha|t ha-1|Mg ha^-1|tC/ha|Mg C ha⁻¹", 1e-4),
        ("g/m2|g C m-2|t/km2", 1e-6),
        ("g/cm2|g cm-2", 1e-2),
        ("mg/m2", 1e-9),
    ],
)
def test_units_of_mass_per_area_are_recognised(units, factor):
    table = [totals([{"a": Sums(1, 1.0, np.array([1.0]), 1.0)}], unit, ["a"]).iloc[0] for unit in units.split("|")]
    megatonnes = {"t": 1e-6, "kt": 1e-3, "Mt": 1.0}
    assert [row["total"] * megatonnes[row["total_unit"]] for row in table] == pytest.approx([factor] * len(table))


@pytest.mark.parametrize("unit", ["g/kg", "kg/m3", "kg m-2 yr-1", "t CO2/ha", "%", "kg/m", "MG/HA", "dg/kg"])
def test_any_other_unit_is_summed_as_value_times_area(unit):
    row = totals([{"a": Sums(1, 2.0, np.array([6.0]))}], unit, ["a"]).iloc[0]
    assert row["total_unit"] == "" and np.isnan([row["total"], row["total_lower"], row["total_upper"]]).all()


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    """Write a vector file of geometries and columns, and return its path."""

    def write(geometries, crs=DEGREES, file="areas.gpkg", **columns):
        path = tmp_path / file
        geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs).to_file(path)
        return path

    return write


def area_names(path, column=None):
    return [area.name for area in read_areas(path, DEGREES, column)[0]]


@pytest.mark.parametrize(
    ("columns", "expected", "said"),
    [
        ({"area": [1.5, 2.5], "ZONE": ["x", "y"]}, ["x", "y"], "by column 'ZONE'"),
        ({"id": [7, 8], "NAME_EN": ["x", "y"]}, ["x", "y"], "by column 'NAME_EN'"),
        ({"name": ["x", None], "code": ["c", "d"]}, ["c", "d"], "by column 'code'"),
        ({"id": [7.0, 8.0]}, ["7", "8"], "by column 'id'"),
        ({"idle": ["x", "y"]}, ["1", "2"], "their number: no column is called name, zone, region, id, code"),
        ({"name": ["a", None]}, ["1", "2"], "their number: column 'name' has gaps"),
    ],
)
def test_areas_are_named_by_the_column_that_looks_like_it(make, caplog, columns, expected, said):
    with caplog.at_level(logging.INFO):
        assert area_names(make([square(0, 1, 0, 1), square(1, 2, 0, 1)], **columns)) == expected
    assert said in caplog.text


def test_rows_of_one_name_are_one_area(make):
    path = make([square(0, 2, 0, 1), square(5, 6, 0, 1), square(1, 3, 0, 1)], kind=["a", "b", "a"])
    areas, _ = read_areas(path, DEGREES, "kind")
    grid = Grid(DEGREES, 0.0, 1.0, (1.0, 1.0), 1, 6)
    assert [(name, mask[0].astype(int).tolist()) for name, mask in zone_masks(areas, grid, whole(grid))] == [
        ("a", [1, 1, 1, 0, 0, 0]),
        ("b", [0, 0, 0, 0, 0, 1]),
    ]


def test_a_long_straight_border_stays_on_its_parallel(make):
    areas, bounds = read_areas(make([square(0, 20, 50, 60)], name=["a"]), "EPSG:3035")
    x, y = (np.array(axis) for axis in transform(DEGREES, "EPSG:3035", [10, 10, 10, 10], [49.999, 50.001, 59.999, 60.001]))
    grids = [Grid("EPSG:3035", a - 1, b + 1, (2.0, 2.0), 1, 1) for a, b in zip(x, y, strict=True)]
    assert [bool(inside(areas, grid, whole(grid)).item()) for grid in grids] == [False, True, True, False]
    x, y = transform(DEGREES, "EPSG:3035", [0, 20, 10, 0], [50, 50, 50, 60])
    assert bounds == pytest.approx((x[0], x[1], y[2], y[3]))


def test_projected_areas_across_the_antimeridian_come_out_whole_in_degrees(make):
    areas, bounds = read_areas(make([square(-300_000, 700_000, 9_000_000, 9_200_000)], crs="EPSG:32701", name=["a"]), DEGREES)
    grid = Grid(DEGREES, -180.0, -8.0, (1.0, 1.0), 1, 360)
    columns = np.flatnonzero(inside(areas, grid, whole(grid)))
    assert columns.tolist() == [*range(5), *range(356, 360)]  # 175.7 to 184.8 degrees east
    assert bounds[:2] == (-180, 180)


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3995", 0), ("EPSG:3031", -1)])
def test_projected_areas_round_a_pole_keep_their_hole_and_their_area(make, crs, pole):
    polygon = shapely.Point(0, 0).buffer(2_000_000, 64).difference(shapely.Point(100_000, 0).buffer(1_000_000, 64))
    areas, _ = read_areas(make([polygon], crs=crs, name=["a"]), DEGREES)
    grid = Grid(DEGREES, -180.0, 90.0, (0.25, 0.25), 720, 1440)
    mask = inside(areas, grid, whole(grid))
    assert not mask[pole].any()
    polar = Grid(crs, -2_000_000.0, 2_000_000.0, (20_000.0, 20_000.0), 200, 200)
    x, y = np.meshgrid(polar.x + 20_000 * (np.arange(200) + 0.5), polar.y - 20_000 * (np.arange(200) + 0.5))
    expected = cell_areas(polar, whole(polar))[(np.hypot(x, y) < 2e6) & (np.hypot(x - 1e5, y) > 1e6)].sum()
    assert (mask * cell_areas(grid, whole(grid))).sum() == pytest.approx(expected, rel=3e-3)


def test_a_ring_that_crosses_itself_is_repaired_and_said(make, caplog):
    bowtie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    with caplog.at_level(logging.INFO):
        areas, _ = read_areas(make([bowtie, square(5, 6, 0, 1)], name=["a", "b"]), DEGREES)
    assert "1 of 2 geometries were not valid" in caplog.text
    grid = Grid(DEGREES, 0.0, 2.0, (0.2, 0.2), 10, 10)
    assert (inside(areas[:1], grid, whole(grid)) * cell_areas(grid, whole(grid))).sum() == pytest.approx(2 * 12_308, rel=0.11)


def test_rings_that_cross_themselves_are_joined_with_others_of_their_name(make):
    bowties = [shapely.Polygon([(x, 0), (x + 2, 2), (x + 2, 0), (x, 2)]) for x in (0, 1)]
    areas, _ = read_areas(make(bowties, name=["a", "a"]), DEGREES)
    grid = Grid(DEGREES, 0.0, 2.0, (0.01, 0.01), 200, 300)
    assert inside(areas, grid, whole(grid)).mean() == pytest.approx(3.5 / 6, abs=0.01)


def test_heights_are_dropped_and_coordinates_in_the_grids_crs_stay_as_they_are(make):
    solid = shapely.force_3d(square(0.1, 1 / 3, 0.1, 50), 7.0)
    (area,), _ = read_areas(make([solid], name=["a"]), DEGREES)
    assert sorted(shapely.get_coordinates(area.shape).tolist()[:4]) == [[0.1, 0.1], [0.1, 50], [1 / 3, 0.1], [1 / 3, 50]]


def test_points_among_polygons_are_left_out_and_said(make, caplog):
    point = shapely.Point(0, 0)
    with caplog.at_level(logging.INFO):
        assert area_names(make([square(0, 1, 0, 1), point, point], file="a.geojson", name=["a", "b", None])) == ["a"]
    assert "left out what is no polygon: 2 Point" in caplog.text


def test_what_the_map_cannot_hold_is_left_out_and_said(make, caplog):
    with caplog.at_level(logging.INFO):
        areas, _ = read_areas(make([square(-180, 180, -90, -60), square(0, 1, 45, 46)], name=["Antarctica", "a"]), "EPSG:2154")
    assert "1 polygons reach beyond what EPSG:2154 can hold" in caplog.text
    x, y = areas[1].bounds[0], areas[1].bounds[3]
    grid = Grid("EPSG:2154", x, y, (1000.0, 1000.0), 100, 70)
    assert [name for name, _ in zone_masks(areas, grid, whole(grid))] == ["a"]
    assert [area.name for area in areas] == ["Antarctica", "a"]
    with pytest.raises(UserError, match="none of its areas can be brought to EPSG:2154"):
        read_areas(make([square(-180, 180, -90, -60)], name=["a"]), "EPSG:2154")


@pytest.mark.parametrize(
    ("x", "expected"), [((190, 200), (-170, -160)), ((170, 190), (-180, 180)), ((-180, 180), (-180, 180)), ((0, 360), (-180, 180))]
)
def test_the_extent_lies_within_180_degrees(make, x, expected):
    assert read_areas(make([square(*x, 0, 1)], name=["a"]), DEGREES)[1][:2] == expected


def test_areas_survive_their_file_exactly(make, tmp_path):
    areas, _ = read_areas(make([square(0.1, 1 / 3, 0, 1), square(5, 6, 0, 1)], name=["ä", "b"]), "EPSG:3035")
    write_areas(tmp_path / "areas.json", areas)
    assert load_areas(tmp_path / "areas.json") == areas
    with pytest.raises(UserError, match="none.json: no such file of areas"):
        load_areas(tmp_path / "none.json")


# --- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        ({"zone_name": ["a", "b"]}, "zone_nam", r"no column 'zone_nam'; did you mean 'zone_name'\?; it has 'zone_name'"),
        ({"zone_name": ["a", None]}, "zone_name", "column 'zone_name' is empty in 1 of 2 areas, first in number 2"),
        ({"zone_name": ["a", " "]}, "zone_name", "column 'zone_name' is empty in 1 of 2 areas, first in number 2"),
    ],
)
def test_a_wrong_column_is_said(make, columns, column, message):
    with pytest.raises(UserError, match=message):
        read_areas(make([square(0, 1, 0, 1), square(1, 2, 0, 1)], **columns), DEGREES, column)


def test_wrong_files_are_said(make, tmp_path):
    line = shapely.LineString([(0, 0), (1, 1)])
    (tmp_path / "text.gpkg").write_text("no vectors here")
    (tmp_path / "far.vrt").write_text("<OGRVRTDataSource><OGRVRTLayer name='a'/></OGRVRTDataSource>")
    (tmp_path / "table.csv").write_text("name,value\na,1\n")
    pyogrio.write_dataframe(pd.DataFrame({"name": ["a"]}), tmp_path / "table.gpkg")
    bare = make([square(0, 1, 0, 1)], file="bare.shp", name=["a"])
    bare.with_suffix(".prj").unlink()
    cases = {
        tmp_path / "none.gpkg": "no such file of areas",
        tmp_path / "text.gpkg": "not readable as a vector layer",
        tmp_path / "far.vrt": "only points to other files",
        tmp_path / "table.csv": "not readable as a vector layer; give a GeoPackage",
        tmp_path / "table.gpkg": "has no geometry",
        make([shapely.Point(0, 0), line, line], file="points.geojson"): "no polygons, but 2 LineString, 1 Point",
        bare: "no coordinate reference system",
        make([square(4e5, 5e5, 5e6, 6e6)], file="metres.gpkg"): "says it is in degrees, but reaches from x 400000 to 500000",
        make([None], file="empty.gpkg", name=["a"]): "holds no polygons, but 1 row without geometry",
        make([], file="rows.gpkg", name=[]): "holds no rows",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            read_areas(path, DEGREES)
        assert str(path) in str(error.value)


def test_a_file_of_areas_reaches_no_host(make, tmp_path, host, monkeypatch):
    address, seen = host
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    layer = f"<OGRVRTLayer name='a'><SrcDataSource>/vsicurl/{address}</SrcDataSource></OGRVRTLayer>"
    vrt = f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"
    streamed = json.dumps(
        {"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read /vsicurl/{address} ! write x"}
    )
    for name, text in {"a.json": streamed, "b.gdalg.json": streamed, "c.kml": f"<kml>{vrt}</kml>", "d.gpkg": vrt}.items():
        (tmp_path / name).write_text(text)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
        for path in (tmp_path / name, tmp_path / f"{name}.zip"):
            with pytest.raises(UserError, match="only points to other files"):
                read_areas(path, DEGREES)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("e.vrt", vrt)
    with pytest.raises(UserError, match="e.zip: holds no vector file"):
        read_areas(tmp_path / "e.zip", DEGREES)
    linked = make([square(0, 1, 0, 1)], file="f.geojson", name=["a"])
    content = json.loads(linked.read_text()) | {"crs": {"type": "link", "properties": {"href": address, "type": "proj4"}}}
    linked.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its coordinate reference system, .*link.*, is unknown"):
        area_names(linked)
    time.sleep(0.2)
    assert seen == []
    assert os.environ["no_proxy"] == "127.0.0.1"
    assert pyogrio.get_gdal_config_option("GDAL_HTTP_PROXY") is None


@pytest.mark.parametrize("file", ["areas.gpkg", "areas.shp", "areas.geojson", "areas.fgb", "areas.kml"])
def test_areas_are_read_from_a_file_an_archive_and_a_folder(make, tmp_path, file):
    (tmp_path / "in").mkdir()
    path = make([square(5, 6, 45, 46), square(1, 2, 41, 42)], file=f"in/{file.replace('kml', 'gpkg')}", name=["Zug", "Aargau"])
    if file.endswith("kml"):
        path.unlink()
        marks = ""
        for name, (w, e, s, n) in (("Zug", (5, 6, 45, 46)), ("Aargau", (1, 2, 41, 42))):
            corners = f"<coordinates>{w},{s} {e},{s} {e},{n} {w},{n} {w},{s}</coordinates>"
            polygon = f"<Polygon><outerBoundaryIs><LinearRing>{corners}</LinearRing></outerBoundaryIs></Polygon>"
            marks += f"<Placemark><name>{name}</name>{polygon}</Placemark>"
        kml = f"<kml xmlns='http://www.opengis.net/kml/2.2'><Document>{marks}</Document></kml>"
        path = path.with_suffix(".kml")
        path.write_text(f"<?xml version='1.0' encoding='UTF-8'?>\n{kml}")
    with zipfile.ZipFile(tmp_path / "areas.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "by an agency")
        for part in (tmp_path / "in").iterdir():
            archive.write(part, f"deep/{part.name}")
    for each in (path, tmp_path / "in", tmp_path / "areas.zip"):
        areas, bounds = read_areas(each, DEGREES)
        assert {area.name: area.bounds for area in areas} == {"Zug": (5, 6, 45, 46), "Aargau": (1, 2, 41, 42)}
        assert bounds == (1, 6, 41, 46) and (areas[0].name == "Zug" or file.endswith("fgb"))  # in the order of the file


def test_a_layer_is_chosen_by_its_name_and_the_others_are_said(make, tmp_path, caplog):
    path = make([square(0, 1, 0, 1)], name=["a"])
    frame = geopandas.GeoDataFrame({"name": ["b"]}, geometry=[square(2, 3, 0, 1)], crs=DEGREES)
    frame.to_file(path, layer="parishes")
    with caplog.at_level(logging.INFO):
        assert area_names(path) == ["a"]
    assert "areas.gpkg: has the layers 'areas', 'parishes'; 'areas' is read; name another by areas.gpkg:LAYER" in caplog.text
    assert "Specify" not in caplog.text
    assert area_names(path.with_name("areas.gpkg:parishes")) == ["b"]
    with pytest.raises(UserError, match=r"no layer 'parish'.*; it has 'areas', 'parishes'"):
        read_areas(path.with_name("areas.gpkg:parish"), DEGREES)
    with pytest.raises(UserError, match="no such file of areas"):
        read_areas(path.with_name("none.gpkg:parishes"), DEGREES)
