"""Spectral indices against hand-worked numbers; terrain derivatives against planes, hand-worked grids and the ellipsoid."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError
from soilcarbon.zonal.climate_zones import ZONES, ClimateVariable, ClimateZones
from soilcarbon.zonal.covariates import (
    INDICES,
    SCALES,
    TERRAIN_UNITS,
    cell_sizes,
    fill_depressions,
    flow_accumulation,
    flow_directions,
    gradient,
    reflectance,
    spectral_indices,
    terrain_derivatives,
    write_indices,
    write_terrain,
    write_zones,
)

GRASS = {"blue": np.array([0.04]), "red": np.array([0.06]), "nir": np.array([0.40]), "swir1": np.array([0.20])}
METRES = Affine(30, 0, 500_000, 0, -30, 4_000_000)


# --- spectral indices ------------------------------------------------------------------------------------------------


def test_indices_of_grass_are_the_hand_worked_ones():
    found = {name: values[0] for name, values in spectral_indices(GRASS).items()}
    evi = 2.5 * 0.34 / (0.40 + 0.36 - 0.30 + 1)
    expected = {"ndvi": 0.34 / 0.46, "bsi": (0.26 - 0.44) / 0.70, "evi": evi, "savi": 1.5 * 0.34 / 0.96, "lswi": 0.20 / 0.60}
    assert found == pytest.approx(expected)
    soil = {"blue": np.array([0.10]), "red": np.array([0.20]), "nir": np.array([0.25]), "swir1": np.array([0.35])}
    assert {name for name, values in spectral_indices(soil).items() if values[0] > found[name]} == {"bsi"}


@pytest.mark.parametrize(
    ("scale", "stored", "expected"),
    [
        ("landsat_collection_2", [7273, 18182, 43636, 0, 65_535, 7272], [7.5e-6, 0.300005, 0.99999, *[np.nan] * 3]),
        ("ten_thousandths", [1, 2500, 10_000], [1e-4, 0.25, 1.0]),
        ("reflectance", [0.1, 1.0, 0.0, -0.01, 1.01, np.nan], [0.1, 1.0, *[np.nan] * 4]),
    ],
)
def test_stored_values_become_reflectance_or_missing(scale, stored, expected):
    assert reflectance(np.array(stored), scale) == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_an_index_is_missing_where_a_band_is_or_its_divisor_vanishes():
    found = spectral_indices(GRASS | {"blue": np.array([np.nan])})
    assert [name for name, value in found.items() if np.isnan(value[0])] == ["bsi", "evi"]
    cloud = {"blue": np.array([0.9, 0.30]), "red": np.array([0.8, 0.20]), "nir": np.array([0.8, 0.95])}
    below = cloud["nir"] + 6 * cloud["red"] - 7.5 * cloud["blue"] + 1
    assert below[0] < 0 < below[1]
    assert np.isnan(spectral_indices(cloud)["evi"]).all()  # the second is 2.0


def test_only_indices_that_the_bands_allow_are_made():
    assert list(spectral_indices({"red": GRASS["red"], "nir": GRASS["nir"]})) == ["ndvi", "savi"]
    with pytest.raises(ValueError, match="no index can be made from red; ndvi needs red and nir"):
        spectral_indices({"red": GRASS["red"]})
    with pytest.raises(ValueError, match="band 'green'"):
        spectral_indices({"green": GRASS["red"]})
    with pytest.raises(ValueError, match="scale 'landsat': expected one of " + ", ".join(SCALES)):
        reflectance(GRASS["red"], "landsat")


def test_a_raster_of_bands_becomes_a_raster_of_indices_on_its_grid(tmp_path):
    stored = np.random.default_rng(0).integers(8000, 20_000, (4, 3, 5)).astype(float)
    stored[2, 1, 1] = np.nan
    write_geotiff(tmp_path / "bands.tif", stored, ["swir1", "nir", "red", "blue"], METRES, "EPSG:32650")
    write_indices([tmp_path / "bands.tif"], tmp_path / "indices.tif", "landsat_collection_2")
    with rasterio.open(tmp_path / "indices.tif") as raster:
        assert (raster.descriptions, raster.transform, raster.crs.to_epsg()) == (tuple(INDICES), METRES, 32650)
        found = raster.read(masked=True).filled(np.nan)
    red, nir = reflectance(stored[2], "landsat_collection_2"), reflectance(stored[1], "landsat_collection_2")
    np.testing.assert_allclose(found[0], (nir - red) / (nir + red), rtol=1e-5)
    assert np.isnan(found[:, 1, 1]).tolist() == [True, True, True, True, False]  # lswi needs no red


def test_bands_of_several_files_and_missing_bands_are_refused(tmp_path):
    for name in GRASS:
        write_geotiff(tmp_path / f"{name}.tif", np.full((1, 2, 2), 0.3), [name], METRES, "EPSG:32650")
    with pytest.raises(UserError, match="must be in one file"):
        write_indices([tmp_path], tmp_path / "out" / "i.tif", "reflectance")
    (tmp_path / "nir.tif").unlink()
    with pytest.raises(UserError, match="1 of 4 variables are in none of the rasters: 'nir'"):
        write_indices([tmp_path], tmp_path / "out" / "i.tif", "reflectance")


# --- slope and aspect ------------------------------------------------------------------------------------------------


def sizes(rows, width=30.0, height=30.0):
    return np.full(rows, width), np.full(rows, height)


def plane(east, north, height=7, width=8, cell=30.0):
    """Return elevations that rise by so many metres per metre towards east and north."""
    rows, cols = np.mgrid[:height, :width]
    return 1000 + east * cols * cell - north * rows * cell


@pytest.mark.parametrize(
    ("east", "north", "slope", "aspect"),
    [(0.1, 0, 0.1, 270), (-0.1, 0, 0.1, 90), (0, 0.2, 0.2, 180), (0, -0.2, 0.2, 0), (0.3, 0.3, 0.3 * 2**0.5, 225)],
)
def test_slope_and_aspect_of_a_plane(east, north, slope, aspect):
    found = {name: values[1:-1, 1:-1] for name, values in terrain_derivatives(plane(east, north), *sizes(7)).items()}
    assert found["slope"] == pytest.approx(np.full((5, 6), np.degrees(np.arctan(slope))))
    assert np.cos(np.radians(found["aspect"] - aspect)) == pytest.approx(np.ones((5, 6)))
    assert found["northness"] == pytest.approx(np.full((5, 6), np.cos(np.radians(aspect))), abs=1e-9)
    assert found["eastness"] == pytest.approx(np.full((5, 6), np.sin(np.radians(aspect))), abs=1e-9)


def test_level_land_has_no_aspect_and_a_finite_wetness():
    found = {name: values[1:-1, 1:-1] for name, values in terrain_derivatives(np.full((6, 6), 7.0), *sizes(6)).items()}
    assert np.isnan(found["aspect"]).all()
    assert not any(found[name].any() for name in ("slope", "northness", "eastness"))
    assert np.isfinite(found["twi"]).all()


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
    for name, values in terrain_derivatives(z, *sizes(7)).items():
        np.testing.assert_array_equal(np.isnan(values), expected, err_msg=name)


def test_cells_in_degrees_are_as_large_as_on_the_ellipsoid():
    grid = Grid("EPSG:4326", 100, 80, (0.1, 0.1), 1600, 3)
    width, height = cell_sizes(grid)
    areas = cell_areas(grid, next(grid.tiles(1600)))[:, 0] * 1e6
    np.testing.assert_allclose(width * height, areas, rtol=2e-5)
    assert height[0] > height[800]  # a degree of latitude is longer near the pole
    assert width[800] / height[800] == pytest.approx(1.0067, abs=1e-4)
    for north in (0.05, 60.05):  # one slope on the ground is one slope at any latitude
        width, height = cell_sizes(Grid("EPSG:4326", 10, north, (0.01, 0.01), 5, 5))
        z = 0.1 * width[2] * np.arange(5)[None, :].repeat(5, 0)
        assert terrain_derivatives(z, width, height)["slope"][2, 2] == pytest.approx(np.degrees(np.arctan(0.1)), rel=1e-3)


def test_cells_of_a_projection_are_in_metres_whatever_its_unit():
    assert cell_sizes(Grid("EPSG:32650", 500_000, 4_000_000, (30, 30), 5, 6))[0].tolist() == [30] * 5
    width, height = cell_sizes(Grid("EPSG:2263", 0, 1000, (100, 50), 4, 4))  # in feet
    assert (width[0], height[0]) == pytest.approx((30.48006, 15.24003))


# --- flow ------------------------------------------------------------------------------------------------------------


def test_a_pit_is_raised_to_its_lowest_rim_and_the_rest_stays():
    z = np.full((5, 5), 9.0)
    z[1:4, 1:4] = 8
    z[2, 2], z[2, 3], z[2, 4] = 1, 5, 6
    filled = fill_depressions(z)
    np.testing.assert_allclose(filled, np.where(z < 6, 6, z), rtol=1e-12)
    assert filled[2, 2] > filled[2, 3] > filled[2, 4]  # and drains towards the outlet
    np.testing.assert_array_equal(fill_depressions(plane(0.1, 0.03)), plane(0.1, 0.03))


def test_every_cell_drains_out_however_rough_or_flat_the_land():
    random = np.random.default_rng(0)
    for z in (random.integers(0, 4, (40, 30)).astype(float), np.zeros((20, 20)), random.normal(size=(30, 30))):
        z[10:13, 7] = np.nan
        receiver = flow_directions(fill_depressions(z), *sizes(len(z)))
        known = ~np.isnan(z).ravel()
        at = np.flatnonzero(known)
        for _ in range(z.size):
            at = np.where(at >= 0, receiver[at], -1)
        assert (at == -1).all()
        assert (receiver[~known] == -1).all()
        left = flow_accumulation(receiver, known.astype(float))[known & (receiver == -1)]
        assert left.sum() == known.sum()  # no water is lost or made


def test_water_takes_the_steepest_path_not_the_deepest():
    z = np.array([[9.0, 9, 9], [9, 5, 1.0], [9, 9, 0.0]])
    assert flow_directions(z, *sizes(3, 10.0, 10.0))[4] == 5  # 4 m in 10 m, against 5 m in 14 m
    assert flow_directions(z, *sizes(3, 40.0, 10.0))[4] == 8  # 4 m in 40 m, against 5 m in 41 m


def test_accumulation_and_wetness_are_the_hand_worked_ones():
    z = np.array([[5.0, 3, 5], [4.9, 2, 4.9], [4.8, 1, 4.8]])
    receiver = flow_directions(fill_depressions(z), *sizes(3))
    assert receiver.tolist() == [4, 4, 4, 4, 7, 4, 7, -1, 7]  # corners: 3 m in 42 m is steeper than 2 m in 30 m
    assert flow_accumulation(receiver, np.ones(9)).tolist() == [1, 1, 1, 1, 6, 1, 1, 9, 1]
    assert flow_accumulation(receiver, np.arange(9.0))[7] == 36
    found = terrain_derivatives(plane(-0.1, 0, 5, 9), *sizes(5))["twi"]  # falls to the east: column k drains k + 1 cells
    assert found[2, 1:-1] == pytest.approx([np.log((k + 1) * 30 / 0.1) for k in range(1, 8)])


def test_elevations_become_a_raster_of_derivatives_whichever_way_the_file_is_stored(tmp_path):
    z = np.random.default_rng(0).normal(500, 30, (6, 8))
    write_geotiff(tmp_path / "up.tif", z[None], ["elevation"], Affine(0.01, 0, 10, 0, -0.01, 50))
    write_geotiff(tmp_path / "down.tif", z[None, ::-1], ["elevation"], Affine(0.01, 0, 10, 0, 0.01, 50 - 6 * 0.01))
    read = []
    for name in ("up", "down"):
        write_terrain(tmp_path / f"{name}.tif", tmp_path / "out" / f"{name}.tif")
        with rasterio.open(tmp_path / "out" / f"{name}.tif") as raster:
            assert (raster.descriptions, raster.units) == (tuple(TERRAIN_UNITS), tuple(TERRAIN_UNITS.values()))
            read.append(raster.read(masked=True).filled(np.nan))
    np.testing.assert_array_equal(*read)
    expected = terrain_derivatives(z.astype(np.float32), *cell_sizes(Grid("EPSG:4326", 10, 50, (0.01, 0.01), 6, 8)))
    np.testing.assert_allclose(read[0], np.stack(list(expected.values())), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \(H, W\), \(H,\) and \(H,\)"):
        terrain_derivatives(np.ones((4, 4)), *sizes(3))


# --- climate zones ---------------------------------------------------------------------------------------------------


def test_rasters_become_zones_and_weights_on_the_grid_of_the_precipitation(tmp_path):
    rain, warmth = ClimateVariable("precipitation", "bio12", 400, 100), ClimateVariable("temperature", "bio01", 10, 2)
    mm, degrees = np.array([[900.0, 900, 400], [100, 100, np.nan]]), np.array([[20.0, 5, 10], [20, 5, 5]])
    write_geotiff(tmp_path / "rain.tif", mm[None], ["bio12"], Affine(1, 0, 100, 0, -1, 40))
    write_geotiff(tmp_path / "warmth.tif", degrees[None, ::-1], ["bio01"], Affine(1, 0, 100, 0, 1, 38))
    assert write_zones([tmp_path], [rain, warmth], tmp_path / "out" / "zones.tif") == ClimateZones(400, 10, 100, 2)
    with rasterio.open(tmp_path / "out" / "zones.tif") as raster:
        assert raster.descriptions == ("zone", *ZONES)
        found = raster.read(masked=True).filled(np.nan)
    np.testing.assert_array_equal(found[0], [[1, 2, 1], [3, 4, np.nan]])
    assert found[1:, 0, 2].tolist() == [0.25] * 4
    assert np.isnan(found[1:, 1, 2]).all()
    with pytest.raises(UserError, match="both 'bio12'; name two variables"):
        write_zones([tmp_path], [rain, rain], tmp_path / "z.tif")
