"""soilcarbon covariates: the files it writes, and bad input."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from soilcarbon.commands import covariates
from soilcarbon.geo.periods import find_spans
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run
from soilcarbon.zonal.climate_zones import ClimateZones
from soilcarbon.zonal.covariates import INDICES, TERRAIN_UNITS

GRID = Affine(0.1, 0, 80, 0, -0.1, 50)
BANDS = ["blue", "red", "nir", "swir1"]


def make(*more):
    return run(lambda: covariates.main([str(each) for each in more]))


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan), raster.descriptions


def image(path, names=BANDS, level=0.0):
    write_geotiff(path, np.full((4, 5, 6), 0.1) * np.arange(1, 5)[:, None, None] + level, names, GRID)


def test_a_folder_by_years_becomes_periods(workplace):
    image(workplace / "bands" / "1985-1989.tif")
    image(workplace / "bands" / "1990-1994" / "image.tif", level=0.1)
    assert make("--bands", "bands", "--out", "periodic") == 0
    spans = find_spans(workplace / "periodic")
    assert list(spans) == [(1985, 1989), (1990, 1994)]
    assert [layer.name for layer in spans[1985, 1989]] == list(INDICES)
    np.testing.assert_allclose(read("periodic/1985-1989/indices.tif")[0][0], (0.3 - 0.2) / (0.3 + 0.2), rtol=1e-6)
    np.testing.assert_allclose(read("periodic/1990-1994/indices.tif")[0][0], (0.4 - 0.3) / (0.4 + 0.3), rtol=1e-6)


def test_bands_of_other_names_and_scale(workplace):
    image(workplace / "a.tif")
    names = ["SR_B2", "SR_B4", "SR_B5", "SR_B6"]
    stored = np.full((4, 5, 6), 1e3) * np.arange(1, 5)[:, None, None]
    write_geotiff(workplace / "b.tif", stored[::-1], names[::-1], GRID)
    assert make("--bands", "a.tif", "--out", "a/indices.tif") == 0
    assert make("--bands", "b.tif", "--band_names", *names, "--scale", "ten_thousandths", "--out", "b/indices.tif") == 0
    np.testing.assert_allclose(read("a/indices.tif")[0], read("b/indices.tif")[0], rtol=1e-5)


def test_terrain_and_zones(workplace):
    rows, columns = np.mgrid[:8, :9]
    write_geotiff(workplace / "dem.tif", (100.0 * rows)[None], ["height"], GRID)
    assert make("--dem", "dem.tif", "--out", "t.tif") == 0
    values, names = read("t.tif")
    assert names == tuple(TERRAIN_UNITS)
    np.testing.assert_allclose(values[2][1:-1, 1:-1], 1.0, atol=1e-6)  # it falls to the north
    climate = np.stack([100.0 * columns, 2.5 * rows])
    write_geotiff(workplace / "climate" / "c.tif", climate, ["rain", "warmth"], GRID)
    assert make("--climate", "climate", "--precipitation", "rain", "--temperature", "warmth", "--wet", "300", "--out", "z.tif") == 0
    expected = ClimateZones(300.0).labels(climate[0], climate[1]) + 1
    np.testing.assert_array_equal(read("z.tif")[0][0], expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --bands, --dem and --climate"),
        (["--bands", "a.tif", "--dem", "a.tif"], "give one of --bands, --dem and --climate"),
        (["--bands", "empty"], "holds no GeoTIFF and no folder"),
        (["--bands", "b.tif"], "no such raster"),
        (["--bands", "a.tif", "--band_names", "B1", "red", "nir", "swir1"], "'B1'"),
        (["--bands", "a.tif", "--band_names", "red", "red", "nir", "swir1"], "four different bands"),
        (["--bands", "a.tif", "--out", "a.tif"], "is an input; choose another name"),
        (["--bands", "high.tif"], "all cells would be missing; is 'reflectance' its scale?"),
        (["--bands", "placeless.tif"], "no coordinate reference system"),
        (["--bands", "vast.tif"], "200,000 x 200,000 cells are too many to hold"),
        (["--dem", "small.tif"], "a cell needs its eight neighbours"),
        (["--dem", "polar.tif"], "reaches from 80 to 95 degrees"),
        (["--dem", "feet.tif"], "its unit is 'us survey foot'; elevations in metres are needed"),
        (["--dem", "mercator.tif"], "a metre there is 2 of its projection's; warp it first (gdalwarp -t_srs EPSG:32632)"),
        (["--dem", "undeclared.tif"], "1 cells from -32768 to -32768 are no elevations in metres"),
        (["--climate", "high.tif", "small.tif", "--precipitation", "red", "--temperature", "z"], "cover the same area?"),
        (["--dem", "a.tif"], "holds 4 bands; expected one"),
        (["--climate", "a.tif"], "2 of 2 variables are in none of the rasters"),
    ],
)
def test_bad_input_ends_with_status_2(arguments, words, workplace, capsys):
    image(workplace / "a.tif")
    (workplace / "empty").mkdir()
    image(workplace / "high.tif", level=5000.0)
    write_geotiff(workplace / "small.tif", np.full((1, 1, 5), 5.0), ["z"], Affine(0.1, 0, 100, 0, -0.1, 50))
    write_geotiff(workplace / "polar.tif", np.ones((1, 15, 5)), ["z"], Affine(1, 0, 80, 0, -1, 95))
    land = np.full((1, 5, 5), 100.0)
    write_geotiff(workplace / "feet.tif", land, ["z"], Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632", ["US survey foot"])
    write_geotiff(workplace / "mercator.tif", land, ["z"], Affine(10, 0, 1e6, 0, -10, 8.4e6), "EPSG:3857")  # at 60 degrees
    land[0, 2, 2] = -32768
    write_geotiff(workplace / "undeclared.tif", land, ["z"], Affine(0.1, 0, 100, 0, -0.1, 50))
    empty = {"driver": "GTiff", "count": 4, "dtype": "uint8", "tiled": True, "sparse_ok": True}
    for name, side, crs in (("placeless", 9, None), ("vast", 200_000, "EPSG:4326")):
        with rasterio.open(
            f"{name}.tif", "w", height=side, width=side, crs=crs, transform=Affine(1e-5, 0, 10, 0, -1e-5, 50), **empty
        ) as file:
            file.descriptions = BANDS
    assert make("--out", "o.tif", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (workplace / "o.tif").exists()
