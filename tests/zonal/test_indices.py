"""Spectral indices against hand-worked numbers."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from soilcarbon.geo.raster import find_layers, write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.zonal.indices import INDICES, SCALES, indices_of, reflectance, write_indices

GRASS = {"blue": np.array([0.04]), "red": np.array([0.06]), "nir": np.array([0.40]), "swir1": np.array([0.20])}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ndvi", 0.34 / 0.46),
        ("bsi", (0.26 - 0.44) / 0.70),
        ("evi", 2.5 * 0.34 / (0.40 + 0.36 - 0.30 + 1)),
        ("savi", 1.5 * 0.34 / 0.96),
        ("lswi", 0.20 / 0.60),
    ],
)
def test_an_index_of_grass_is_what_paper_and_pencil_give(name, expected):
    assert indices_of(GRASS)[name] == pytest.approx([expected])


def test_bare_soil_and_grass_are_told_apart_by_every_index():
    soil = {"blue": np.array([0.10]), "red": np.array([0.20]), "nir": np.array([0.25]), "swir1": np.array([0.35])}
    grass, bare = indices_of(GRASS), indices_of(soil)
    assert {name: bool(grass[name][0] > bare[name][0]) for name in INDICES} == {
        "ndvi": True, "bsi": False, "evi": True, "savi": True, "lswi": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "stored", "expected"),
    [
        ("landsat_collection_2", [7273, 18182, 43636], [7.5e-6, 0.300005, 0.99999]),
        ("ten_thousandths", [1, 2500, 10_000], [1e-4, 0.25, 1.0]),
        ("reflectance", [0.1, 1.0], [0.1, 1.0]),
    ],
)
def test_stored_numbers_become_reflectance(scale, stored, expected):
    assert reflectance(np.array(stored), scale) == pytest.approx(expected, rel=1e-6)


def test_what_is_no_reflectance_is_missing_and_so_is_every_index_of_it():
    stored = np.array([0, 65_535, np.nan, 7272])
    assert np.isnan(reflectance(stored, "landsat_collection_2")).all()
    assert np.isnan(reflectance(np.array([0.0, -0.01, 1.01]), "reflectance")).all()
    found = indices_of(GRASS | {"blue": np.array([np.nan])})
    assert [name for name, value in found.items() if np.isnan(value[0])] == ["bsi", "evi"]


def test_evi_is_missing_over_cloud_where_its_divisor_vanishes():
    cloud = {"blue": np.array([0.9, 0.30]), "red": np.array([0.8, 0.20]), "nir": np.array([0.8, 0.95])}
    below = cloud["nir"] + 6 * cloud["red"] - 7.5 * cloud["blue"] + 1
    assert below[0] < 0 < below[1]
    assert np.isnan(indices_of(cloud)["evi"]).all()  # the second is 2.0


def test_only_what_the_bands_allow_is_made():
    assert list(indices_of({"red": GRASS["red"], "nir": GRASS["nir"]})) == ["ndvi", "savi"]
    with pytest.raises(ValueError, match="no index is made of red alone"):
        indices_of({"red": GRASS["red"]})
    with pytest.raises(ValueError, match="band 'green'"):
        indices_of({"green": GRASS["red"]})
    with pytest.raises(ValueError, match="scale 'landsat': expected one of " + ", ".join(SCALES)):
        reflectance(GRASS["red"], "landsat")


def test_a_raster_of_bands_becomes_a_raster_of_indices_on_its_grid(tmp_path):
    random = np.random.default_rng(0)
    stored = random.integers(8000, 20_000, (4, 3, 5)).astype(float)
    stored[2, 1, 1] = np.nan
    grid = Affine(30, 0, 500_000, 0, -30, 4_000_000)
    write_geotiff(tmp_path / "bands.tif", stored, ["swir1", "nir", "red", "blue"], grid, "EPSG:32650")
    write_indices([tmp_path / "bands.tif"], tmp_path / "indices.tif", "landsat_collection_2")
    with rasterio.open(tmp_path / "indices.tif") as raster:
        assert (raster.descriptions, raster.transform, raster.crs.to_epsg()) == (tuple(INDICES), grid, 32650)
        found = raster.read(masked=True).filled(np.nan)
    red, nir = reflectance(stored[2], "landsat_collection_2"), reflectance(stored[1], "landsat_collection_2")
    np.testing.assert_allclose(found[0], (nir - red) / (nir + red), rtol=1e-5)
    assert np.isnan(found[:, 1, 1]).tolist() == [True, True, True, True, False]  # lswi needs no red


def test_bands_apart_or_missing_are_told(tmp_path):
    grid = Affine(30, 0, 500_000, 0, -30, 4_000_000)
    for name in ("blue", "red", "nir", "swir1"):
        write_geotiff(tmp_path / f"{name}.tif", np.full((1, 2, 2), 0.3), [name], grid, "EPSG:32650")
    assert len(find_layers([tmp_path])) == 4
    with pytest.raises(UserError, match="must be in one file"):
        write_indices([tmp_path], tmp_path / "out" / "i.tif", "reflectance")
    (tmp_path / "nir.tif").unlink()
    with pytest.raises(UserError, match="1 of 4 variables are in none of the rasters: 'nir'"):
        write_indices([tmp_path], tmp_path / "out" / "i.tif", "reflectance")
