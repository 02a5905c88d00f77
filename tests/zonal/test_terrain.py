"""Terrain derivatives against planes, hand-worked grids and the ellipsoid's own formula."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError
from soilcarbon.zonal.terrain import UNITS, accumulate, cell_metres, derive, fill_depressions, gradient, receivers, write_terrain

METRES = Grid("EPSG:32650", 500_000, 4_000_000, (30, 30), 5, 6)


def sizes(height, wide=30.0, high=30.0):
    return np.full(height, wide), np.full(height, high)


def plane(east, north, height=7, width=8, cell=30.0):
    """Return elevations that rise by so many metres per metre towards east and north."""
    rows, cols = np.mgrid[:height, :width]
    return 1000 + east * cols * cell - north * rows * cell


# --- slope and aspect ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("east", "north", "slope", "aspect"),
    [(0.1, 0, 0.1, 270), (-0.1, 0, 0.1, 90), (0, 0.2, 0.2, 180), (0, -0.2, 0.2, 0), (0.3, 0.3, 0.3 * 2**0.5, 225)],
)
def test_a_plane_has_its_slope_and_falls_where_it_falls(east, north, slope, aspect):
    found = {name: values[1:-1, 1:-1] for name, values in derive(plane(east, north), *sizes(7)).items()}
    assert found["slope"] == pytest.approx(np.full((5, 6), np.degrees(np.arctan(slope))))
    assert np.cos(np.radians(found["aspect"] - aspect)) == pytest.approx(np.ones((5, 6)))
    assert found["northness"] == pytest.approx(np.full((5, 6), np.cos(np.radians(aspect))), abs=1e-9)
    assert found["eastness"] == pytest.approx(np.full((5, 6), np.sin(np.radians(aspect))), abs=1e-9)


def test_level_land_has_no_aspect_and_leans_nowhere():
    found = derive(np.full((5, 5), 7.0), *sizes(5))
    assert np.isnan(found["aspect"]).all()
    assert (found["slope"][2, 2], found["northness"][2, 2], found["eastness"][2, 2]) == (0, 0, 0)


def test_horn_weighs_the_nearer_neighbours_twice():
    z = np.array([[1.0, 4.0, 2.0], [7.0, 99.0, 3.0], [5.0, 8.0, 6.0]])
    east, north = gradient(z, *sizes(3, 10.0, 20.0))
    assert east[1, 1] == pytest.approx(((2 + 2 * 3 + 6) - (1 + 2 * 7 + 5)) / 80)
    assert north[1, 1] == pytest.approx(((1 + 2 * 4 + 2) - (5 + 2 * 8 + 6)) / 160)


def test_edges_and_neighbours_of_missing_cells_are_missing_in_every_derivative():
    z = plane(0.1, 0.05, 7, 9)
    z[3, 4] = np.nan
    expected = np.ones(z.shape, bool)
    expected[1:-1, 1:-1] = False
    expected[2:5, 3:6] = True
    for name, values in derive(z, *sizes(7)).items():
        np.testing.assert_array_equal(np.isnan(values), expected, err_msg=name)


# --- cells -----------------------------------------------------------------------------------------------------------


def test_cells_in_degrees_are_as_large_as_the_ellipsoid_says():
    grid = Grid("EPSG:4326", 100, 80, (0.1, 0.1), 1600, 3)
    wide, high = cell_metres(grid)
    areas = cell_areas(grid, next(grid.tiles(1600)))[:, 0] * 1e6
    np.testing.assert_allclose(wide * high, areas, rtol=2e-5)
    assert high[0] > high[800]  # a degree of latitude is longer near the pole
    assert wide[800] / high[800] == pytest.approx(1.0067, abs=1e-4)


def test_cells_of_a_projection_are_in_metres_whatever_its_unit():
    feet = Grid("EPSG:2263", 0, 1000, (100, 50), 4, 4)
    assert cell_metres(METRES)[0].tolist() == [30] * 5
    assert (cell_metres(feet)[0][0], cell_metres(feet)[1][0]) == pytest.approx((30.48006, 15.24003))


def test_one_slope_on_the_ground_is_one_slope_in_degrees_at_any_latitude():
    for north in (0.05, 60.05):
        wide, high = cell_metres(Grid("EPSG:4326", 10, north, (0.01, 0.01), 5, 5))
        z = 0.1 * wide[2] * np.arange(5)[None, :].repeat(5, 0)
        assert derive(z, wide, high)["slope"][2, 2] == pytest.approx(np.degrees(np.arctan(0.1)), rel=1e-3)


# --- flow ------------------------------------------------------------------------------------------------------------


def test_a_pit_is_raised_to_its_lowest_rim_and_the_rest_stays():
    z = np.full((5, 5), 9.0)
    z[1:4, 1:4] = 8
    z[2, 2], z[2, 3], z[2, 4] = 1, 5, 6
    filled = fill_depressions(z)
    expected = np.where(z < 6, 6, z)
    np.testing.assert_allclose(filled, expected, rtol=1e-12)
    assert filled[2, 2] > filled[2, 3] > filled[2, 4]  # and drains towards the outlet


def test_every_cell_drains_out_however_rough_or_flat_the_land():
    random = np.random.default_rng(0)
    for z in (random.integers(0, 4, (40, 30)).astype(float), np.zeros((20, 20)), random.normal(size=(30, 30))):
        z[10:13, 7] = np.nan
        receiver = receivers(fill_depressions(z), *sizes(len(z)))
        known = ~np.isnan(z).ravel()
        at = np.flatnonzero(known)
        for _ in range(z.size):
            at = np.where(at >= 0, receiver[at], -1)
        assert (at == -1).all()
        assert (receiver[~known] == -1).all()
        left = accumulate(receiver, known.astype(float))[known & (receiver == -1)]
        assert left.sum() == known.sum()  # no water is lost or made


def test_land_without_pits_is_not_changed():
    z = plane(0.1, 0.03)
    np.testing.assert_array_equal(fill_depressions(z), z)


def test_water_takes_the_steepest_way_not_the_deepest():
    z = np.array([[9.0, 9, 9], [9, 5, 1.0], [9, 9, 0.0]])
    assert receivers(z, *sizes(3, 10.0, 10.0))[4] == 5  # 4 m in 10 m, against 5 m in 14 m
    assert receivers(z, *sizes(3, 40.0, 10.0))[4] == 8  # 4 m in 40 m, against 5 m in 41 m


def test_a_valley_gathers_what_paper_and_pencil_give():
    z = np.array([[5.0, 3, 5], [4.9, 2, 4.9], [4.8, 1, 4.8]])
    receiver = receivers(fill_depressions(z), *sizes(3))
    assert receiver.tolist() == [4, 4, 4, 4, 7, 4, 7, -1, 7]  # corners: 3 m in 42 m is steeper than 2 m in 30 m
    assert accumulate(receiver, np.ones(9)).tolist() == [1, 1, 1, 1, 6, 1, 1, 9, 1]
    assert accumulate(receiver, np.arange(9.0))[7] == 36


def test_wetness_is_the_logarithm_of_drained_width_over_slope():
    found = derive(plane(-0.1, 0, 5, 9), *sizes(5))["twi"]  # falls to the east: column k drains k + 1 cells
    expected = [np.log((k + 1) * 30 / 0.1) for k in range(1, 8)]
    assert found[2, 1:-1] == pytest.approx(expected)


def test_wetness_of_level_land_is_bounded():
    assert np.isfinite(derive(np.zeros((6, 6)), *sizes(6))["twi"][1:-1, 1:-1]).all()


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_raster_of_elevations_becomes_a_raster_of_derivatives_whichever_way_it_lies(tmp_path):
    z = np.random.default_rng(0).normal(500, 30, (6, 8))
    write_geotiff(tmp_path / "up.tif", z[None], ["elevation"], Affine(0.01, 0, 10, 0, -0.01, 50))
    write_geotiff(tmp_path / "down.tif", z[None, ::-1], ["elevation"], Affine(0.01, 0, 10, 0, 0.01, 50 - 6 * 0.01))
    read = []
    for name in ("up", "down"):
        write_terrain(tmp_path / f"{name}.tif", tmp_path / "out" / f"{name}.tif")
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as raster:
            assert (raster.descriptions, raster.units) == (tuple(UNITS), tuple(UNITS.values()))
            read.append(raster.read(masked=True).filled(np.nan))
    np.testing.assert_array_equal(*read)
    expected = derive(z.astype(np.float32), *cell_metres(Grid("EPSG:4326", 10, 50, (0.01, 0.01), 6, 8)))
    np.testing.assert_allclose(read[0], np.stack(list(expected.values())), rtol=1e-5, atol=1e-6)


def test_a_raster_of_several_bands_and_a_wrong_shape_are_told(tmp_path):
    write_geotiff(tmp_path / "two.tif", np.ones((2, 4, 4)), ["a", "b"], Affine(1, 0, 0, 0, -1, 4))
    with pytest.raises(UserError, match="holds 2 bands; elevations alone"):
        write_terrain(tmp_path / "two.tif", tmp_path / "out.tif")
    with pytest.raises(ValueError, match=r"expected \(H, W\), \(H,\) and \(H,\)"):
        derive(np.ones((4, 4)), *sizes(3))
