"""Fill values that nobody declared and class codes, in files whose cells are known."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from raster_files import write_raster

from soilcarbon.geo.grid import Grid
from soilcarbon.geo.plausibility import (
    ask_about_fill_values,
    check_codes,
    check_names,
    fill_values,
    hidden_classes,
    refusing,
    sample_layers,
    with_classes,
)
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError
from soilcarbon.io.nodata import parse_nodata

SIDE = 60


def put(path: Path, values, dtype="int16", names=("v",), **options):
    return write_raster(path, np.asarray(values).astype(dtype), 10, 50, 0.1, names=names, **options)


def holed(fill, low=20, high=1200):
    """Return a smooth field with voids of a value."""
    rows, cols = np.mgrid[:SIDE, :SIDE]
    values = low + (high - low) * (rows + cols) / (2 * SIDE - 2)
    values[5:12, 5:12] = fill
    return values


FILLS = [
    *(("int16", -32768, 20, 1200), ("int16", 32767, 20, 1200), ("int16", -999, 20, 600), ("int32", -2147483648, 20, 1200)),
    *(("int32", 2147483647, 20, 1200), ("uint16", 65535, 20, 1200), ("uint8", 255, 0, 100), ("uint8", 255, 0, 180)),
    *(("int8", -128, 0, 90), ("float32", -99999, -5, 30), ("float32", -999, -5, 30), ("float32", 65535, 20, 1200)),
    *(("int16", -999, 20, 1200), ("float32", -99, 20, 1200)),  # nothing else is negative
    *(("float64", -32768, 0, 1), ("uint32", 4294967295, 20, 90), ("float32", 254, 0, 13), ("float32", 0, 1000, 1013)),
    *(("int16", 0, 400, 1200), ("float32", 0, 5, 12)),  # what Earth Engine writes of masked cells
]


@pytest.mark.parametrize(("dtype", "fill", "low", "high"), FILLS)
def test_a_fill_value_is_asked_about_and_the_answer_is_taken(dtype, fill, low, high, tmp_path):
    path = put(tmp_path / "a.tif", holed(fill, low, high), dtype)
    with pytest.raises(
        UserError, match=rf"a.tif: 49 of the 3600 cells looked at are {fill} in v.*--nodata v={fill} takes"
    ) as asked:
        ask_about_fill_values(find_layers([path]))
    assert len(str(asked.value).splitlines()) == 1
    ask_about_fill_values(find_layers([path], parse_nodata(["none"])))
    layers = find_layers([path], parse_nodata([f"v={fill}"]))
    ask_about_fill_values(layers)
    windows, _ = cut_windows(layers, np.array([10.75, 15.0]), np.array([49.25, 48.0]), 0)
    assert np.isnan(windows["v"].ravel()).tolist() == [True, False]
    for grid in (Grid("EPSG:4326", 10, 50, (0.1, 0.1), SIDE, SIDE), Grid("EPSG:4326", 10, 50, (0.05, 0.05), 120, 120)):
        with Stack(layers, grid) as stack:
            cells = stack.read(0, 0, grid.height, grid.width)[0]
        assert 40 < np.isnan(cells).sum() * (SIDE / grid.width) ** 2 <= 49.5
        assert np.nanmin(cells) >= np.floor(low) and np.nanmax(cells) <= high


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256),  # 255 among 254 and 253
        ("uint8", np.where(np.arange(SIDE) < 30, 0, 255) * np.ones((SIDE, 1))),  # a mask
        ("int16", np.where(holed(0) == 0, 0, holed(0))),  # the sea
        ("float32", np.exp(np.random.default_rng(0).normal(0, 2, (SIDE, SIDE)))),  # a long tail
        ("int16", np.random.default_rng(0).poisson(0.05, (SIDE, SIDE))),
        ("float32", np.full((SIDE, SIDE), 7.0)),
        ("float32", np.where(holed(-99) == -99, -99, holed(0) - 400)),  # others are negative too
        ("int16", np.where(holed(-1) == -1, -1, holed(0))),
        ("float32", np.where(holed(-1) == -1, 0, np.floor(holed(-1, 40, 90)))),  # few different ones: per cent of cover
    ],
)
def test_values_are_not_asked_about(dtype, values, tmp_path):
    ask_about_fill_values(find_layers([put(tmp_path / "a.tif", values, dtype)]))


def test_several_codes_of_no_data_are_asked_about_together():
    found = fill_values(np.array([*range(101), 249, 250, 255]), np.ones(104), "uint8")
    assert found == {255: 1, 250: 1, 249: 1}


def test_an_answer_for_all_is_proposed_only_if_no_other_variable_has_the_value(tmp_path):
    voids = np.stack([holed(255, 0, 90), holed(255, 0, 80)])
    put(tmp_path / "a.tif", voids, "uint8", names=("p", "q"))
    with pytest.raises(UserError, match="in 1 more variables.*--nodata 255 takes"):
        ask_about_fill_values(find_layers([tmp_path]))
    put(tmp_path / "b.tif", np.round(holed(255, 0, 400)), names=("relief",))
    with pytest.raises(UserError, match="--nodata p=255 q=255 takes"):
        ask_about_fill_values(find_layers([tmp_path]))


def test_names_of_the_setting_may_be_patterns_and_unknown_ones_are_named(tmp_path):
    put(tmp_path / "a.tif", np.stack([holed(254, 0, 13)] * 3), "float32", names=("snow_03", "snow_04", "rain"))
    layers = find_layers([tmp_path], parse_nodata(["snow_*=254"]))
    assert [layer.missing for layer in layers] == [(254.0,), (254.0,), None]
    check_names(layers, nodata=["snow_*", "", "rain"])
    with pytest.raises(UserError, match="nodata: no variable 'snow_3' in the rasters; did you mean 'snow_03'"):
        check_names(layers, nodata=["snow_3"])


def test_a_void_that_only_profiles_meet_is_asked_about(tmp_path):
    values = np.tile(holed(0), (40, 40))
    values[200, 300] = -32768
    layers = find_layers([put(tmp_path / "a.tif", values)])
    ask_about_fill_values(layers)  # one cell of 6 million: no sample meets it
    with pytest.raises(UserError, match=r"1 of the \d+ cells looked at and the 2 at profiles are -32768"):
        ask_about_fill_values(layers, {"v": np.array([[-32768.0, 50.0]])})


def test_scaled_values_at_profiles_are_compared_as_stored(tmp_path):
    path = put(tmp_path / "a.tif", np.tile(holed(0), (30, 30)))
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.1,), (5.0,)
    with pytest.raises(UserError, match="are -32768 in v"):
        ask_about_fill_values(find_layers([path]), {"v": np.array([-32768 * 0.1 + 5, 6.0], np.float32)})


@pytest.mark.parametrize("cell", [0.1, 0.05])
def test_a_void_that_the_sample_missed_stops_the_reading_of_a_map(cell, tmp_path):
    values = np.tile(holed(20), (30, 30))
    values[900:904, 700:704] = -32768
    layers = find_layers([put(tmp_path / "a.tif", values)])
    guarded = refusing(layers, {"v": (600.0, 300.0)})
    assert guarded[0].refused == (-32768.0, -32767.0, 32766.0, 32767.0)
    grid = Grid("EPSG:4326", 10 + 690 * 0.1, 50 - 890 * 0.1, (cell, cell), 400, 400)
    with (
        Stack(guarded, grid) as stack,
        pytest.raises(UserError, match="cells of v here are -32768, far from all .*--nodata v=-32768"),
    ):
        stack.read(0, 0, 400, 400)
    answered = refusing(find_layers([tmp_path], parse_nodata(["v=-32768"])), {"v": (600.0, 300.0)})
    with Stack(answered, grid) as stack:
        assert np.isnan(stack.read(0, 0, 400, 400)).any()


def test_every_part_of_a_large_file_is_looked_at(tmp_path):
    values = np.full((3000, 3000), 7.0)
    values[:, 2000:] = 5
    values[2500:, :] = 3
    (sample,) = sample_layers(find_layers([put(tmp_path / "a.tif", values, "uint8")]))
    assert sample.values.tolist() == [3, 5, 7]
    assert sample.counts.sum() < 2**21


# --- class codes -------------------------------------------------------------------------------------------------------

CODES = np.array([10, 30, 60, 90, 120, 150, 190, 210])
COLOURS = {code: (code, 90, 9, 255) for code in CODES.tolist()}


def patches(codes=CODES):
    rows, cols = np.mgrid[:SIDE, :SIDE]
    return codes[(rows // 12 * 3 + cols // 13 * 5) % len(codes)]


def test_a_colour_table_or_category_names_mark_classes_whatever_the_file_is_called(tmp_path):
    put(tmp_path / "lulc_2018.tif", patches(), "uint8", names=None, colours=COLOURS)
    put(tmp_path / "soil.tif", patches(), "uint8", names=None)
    (tmp_path / "soil.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>a</Category></CategoryNames></PAMRasterBand></PAMDataset>'
    )
    put(tmp_path / "rat.tif", patches(), "uint8", names=None)
    (tmp_path / "rat.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable tableType="thematic"/></PAMRasterBand></PAMDataset>'
    )
    put(tmp_path / "plain.tif", patches(), "uint8", names=None)
    put(tmp_path / "whole.tif", patches(), "float32", names=None)
    layers = find_layers([tmp_path])
    assert {layer.name: layer.classes for layer in layers} == {
        "lulc_2018": True,
        "soil": True,
        "rat": True,
        "plain": False,
        "whole": False,
    }
    assert hidden_classes(layers, sample_layers(layers)) == ["plain", "whole"]


def test_integers_that_are_a_measurement_are_not_taken_for_classes(tmp_path):
    rows, cols = np.mgrid[:SIDE, :SIDE]
    put(tmp_path / "months.tif", (rows + cols) // 10, "uint8", names=None)
    put(tmp_path / "count.tif", np.random.default_rng(0).poisson(1, (SIDE, SIDE)), "uint8", names=None)
    layers = find_layers([tmp_path])
    assert hidden_classes(layers, sample_layers(layers)) == []


@pytest.mark.parametrize(
    ("first", "dtype"), [(28547312, "int32"), (2080000001, "int32"), (4294967000, "uint32"), (28547312, "float64")]
)
def test_codes_beyond_24_bits_are_refused_wherever_they_are_read(first, dtype, tmp_path):
    path = put(tmp_path / "a.tif", patches(first + np.arange(8)), dtype)
    layers = with_classes(find_layers([path]), ["v"])
    words = "class codes of v beyond 16,777,216, first .* number the classes 1, 2, 3"
    with pytest.raises(UserError, match=words):
        check_codes(layers, sample_layers(layers))
    with pytest.raises(UserError, match=words):
        cut_windows(layers, np.array([12.0]), np.array([48.0]), 0)
    plain = find_layers([path])  # nobody said that they are classes
    with pytest.raises(UserError, match=words):
        check_codes(plain, sample_layers(plain))


def test_codes_of_seven_digits_are_exact(tmp_path):
    codes = 2774001 + np.arange(8)
    layers = with_classes(find_layers([put(tmp_path / "a.tif", patches(codes), "int32")]), ["v"])
    check_codes(layers, sample_layers(layers))
    windows, _ = cut_windows(layers, np.array([10.05, 15.9]), np.array([49.95, 44.1]), 0)
    assert windows["v"].ravel().tolist() == [patches(codes)[0, 0], patches(codes)[-1, -1]]


# --- what a file holds -------------------------------------------------------------------------------------------------


def test_pictures_are_refused_unless_their_bands_are_named(tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (3, 20, 20))
    put(tmp_path / "picture.tif", bands, "uint8", names=None, photometric="RGB")
    with pytest.raises(UserError, match=r"picture.tif: is a picture \(bands red, green and blue"):
        find_layers([tmp_path])
    put(tmp_path / "picture.tif", bands, "uint8", names=("sand", "silt", "clay"), photometric="RGB")
    assert [layer.name for layer in find_layers([tmp_path])] == ["sand", "silt", "clay"]


def test_opacity_masks_and_is_no_variable_unless_it_has_a_name(tmp_path):
    bands = np.stack([np.full((20, 20), 5), np.where(np.arange(20) < 10, 255, 0) * np.ones((20, 1))])
    put(tmp_path / "a.tif", bands, "uint8", names=None, alpha="YES")
    assert [layer.name for layer in find_layers([tmp_path])] == ["a"]
    for names, lost in ((None, 0.5), (("a", "trees"), 0.0)):
        layers = find_layers([put(tmp_path / "a.tif", bands, "uint8", names=names, alpha="YES")])
        for cell in (0.1, 0.05):
            with Stack(layers[:1], Grid("EPSG:4326", 10, 50, (cell, cell), round(2 / cell), round(2 / cell))) as stack:
                assert np.isnan(stack.read(0, 0, round(2 / cell), round(2 / cell))).mean() == lost


def test_a_file_of_several_pages_is_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pages = [image.fromarray(np.full((9, 9), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"holds 2 pages \(images\), of which one at a time is read.*gdal_translate GTIFF_DIR:1:"):
        find_layers([tmp_path])
