"""Odd and bad input of a map: what is refused, what is a warning, and what must not happen."""

import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import yaml
from conftest import PUBLISHED_WEIGHTS, needs_published_weights
from map_world import (
    CELL,
    HEIGHT,
    NORTH,
    STATISTICS,
    WEST,
    WIDTH,
    calibration,
    covariates,
    interrupt_after,
    make,
    make_checkpoint,
    make_world,
    read,
    refused,
    write_boxes,
    write_rasters,
)
from raster_files import write_raster
from rasterio.transform import Affine

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import locked
from soilcarbon.mapping import cog as cogs
from soilcarbon.mapping import tiles as mapping
from soilcarbon.network.network import Record

pytestmark = pytest.mark.usefixtures("light_maps")


@pytest.fixture
def world(workplace):
    return make_world(workplace, members=1)


# --- bad input -----------------------------------------------------------------------------------------------------------


def without(*names):
    shutil.rmtree("rasters")
    write_rasters(Path("rasters"), {name: values for name, values in covariates().items() if name not in names})


def plants(west=WEST, crs="EPSG:4326"):
    write_geotiff(Path("rasters/plants.tif"), covariates()["evi"][None], ["evi"], Affine(CELL, 0, west, 0, -CELL, NORTH), crs)


def write_other_period():
    write_geotiff(Path("p/other.tif"), np.ones((1, 7, 9)), ["other"], Affine(1, 0, WEST, 0, -1, NORTH))


def all_missing():
    write_rasters(Path("rasters"), {name: np.full_like(values, np.nan) for name, values in covariates().items()})


def torn():
    whole = Path("rasters/relief.tif").read_bytes()
    Path("rasters/relief.tif").write_bytes(whole[: len(whole) // 2])


def forged(part, key, value):
    """Change the checkpoint's facts, as nothing of this project would."""
    state = torch.load("model/m.pth", weights_only=True)
    state["_extra_state"][part][key] = value
    torch.save(state, "model/m.pth")


@pytest.mark.parametrize(
    ("prepared", "more", "words"),
    [
        (None, ["--bounds", "50", "51", "0", "1"], ["no cell"]),
        (None, ["--bounds", "12", "12", "0", "1"], ["bounds"]),
        (None, ["--crs", "EPSG:3035"], ["--resolution"]),
        (None, ["--crs", "EPSG:99999", "--resolution", "10"], ["EPSG:99999"]),
        (None, ["--like", "rasters/climate.tif", "--crs", "EPSG:3035"], ["give one"]),
        (None, ["--like", "nowhere.tif"], ["nowhere.tif"]),
        (None, ["--aoi", "nowhere.gpkg"], ["nowhere.gpkg"]),
        (None, ["--periods", "2000=rasters"], ["one period"]),
        (None, ["--periods", "a", "b=rasters"], ["NAME=FOLDER"]),
        (None, ["--stats", "stats.csv"], ["its own statistics"]),
        (None, ["--mask", "rasters/relief.tif"], ["relief.tif", "2 bands"]),
        (None, ["--scheduler", "tcp://127.0.0.1:1"], ["tcp://127.0.0.1:1", "cannot be reached"]),
        (None, ["--resolution", "1e-9"], ["resolution"]),
        (None, ["--out", "out/soc.png"], [".tif"]),
        (lambda: without("slope", "evi"), [], ["2 of 6 variables", "'slope'", "'evi'"]),
        (lambda: plants(west=100), ["--like", "rasters/climate.tif"], ["plants.tif", "no ground"]),
        (lambda: plants(crs=None), [], ["plants.tif", "coordinate reference system"]),
        (all_missing, [], ["no cell of the map has a value", "25%"]),
        (torn, [], ["relief.tif"]),
        (lambda: write_boxes(tiny=(11.01, 46.01, 11.03, 46.03)), ["--aoi", "z.geojson"], ["centre in the area of interest"]),
        (write_other_period, ["--periods", "a=p", "b=rasters"], ["'a'", "none of the checkpoint's variables"]),
        (
            lambda: make_checkpoint(Path("model/m.pth"), calibration=calibration(n=9)),
            ["--level", "0.95"],
            ["support intervals up to 0.800"],
        ),
        (lambda: forged("specification", "target", "../../escaped"), [], ["specification is not valid"]),
        (lambda: forged("record", "scores", [1]), [], ["record is not valid"]),
        (lambda: forged("record", "scores", {"train": {"mae": [1]}}), [], ["record is not valid"]),
    ],
)
def test_what_cannot_be_mapped(world, capsys, monkeypatch, prepared, more, words):
    monkeypatch.setattr(mapping, "PATIENCE_S", 0.2)
    if prepared:
        prepared()
    assert make(*more) == 2
    refused(capsys, *words)


def coarser_training():
    rasters = [{"crs": "EPSG:4326", "cell_size": [0.5, 0.5], "variables": ["elevation", "slope"]}]
    make_checkpoint(Path("model/m.pth"), record=Record(rasters=rasters))


def wrong_unit():
    layers = covariates()
    write_rasters(Path("rasters"), {**layers, "bio01": layers["bio01"] * 1000})


@pytest.mark.parametrize(
    ("prepared", "more", "warning"),
    [
        (None, [], r"200 of 6,100 cells \(3\.3%\) lack some variable, most often evi"),
        (coarser_training, [], "category relief: windows of 7 cells"),
        (wrong_unit, [], "far from what the model was trained on: .* of bio01's values"),
        (None, ["--crs", "EPSG:4326", "--resolution", "0.5", "--bounds", "-100", "19", "-40", "50"], "the rasters cover only"),
        (
            lambda: write_boxes(here=(10, 43, 19, 50), tiny=(11.01, 46.01, 11.03, 46.03)),
            ["--zones", "z.geojson"],
            "(?s)^(?!.*zone here).*zone tiny: no cell",
        ),
        (lambda: forged("record", "scores", {"train": {"mae": float("nan")}}), [], "lack some variable"),
    ],
)
def test_what_looks_wrong_is_a_warning(world, whole_maps, caplog, prepared, more, warning):
    if prepared:
        prepared()
    assert make(*more) == 0
    assert re.search(warning, caplog.text)
    if not more and not prepared:
        assert "200 of 6,100 cells" in Path("out/soc.html").read_text()
        assert "lack some variable" in yaml.safe_load(Path("out/soc.yaml").read_text())["notes"][0]


def test_full_disk_leaves_the_older_map(world, capsys, monkeypatch):
    assert make() == 0
    before = Path("out/soc.tif").read_bytes()
    real = cogs.rasterio.shutil.copy

    def short(source, target, **options):
        """Write as GDAL does on a full disk: part of the file, and no word."""
        real(source, target, **options)
        target.write_bytes(target.read_bytes()[:-3000])

    monkeypatch.setattr(cogs.rasterio.shutil, "copy", short)
    assert make("--max_missing", "0.1") == 2
    assert "could not be written whole" in capsys.readouterr().err
    assert Path("out/soc.tif").read_bytes() == before
    monkeypatch.setattr(cogs.rasterio.shutil, "copy", real)
    assert make("--max_missing", "0.1", "--resume") == 0


def test_disk_full_while_tiles_are_written(world, capsys, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        real = mapping.write_tile

        def write(*arguments):
            patched.setattr("os.fsync", full)
            return real(*arguments)

        patched.setattr(mapping, "write_tile", write)
        assert make("--tile", "16") == 2
    refused(capsys, "No space left on device")
    assert not list(Path("out/.soc.tif.tiles").glob("0*.tif"))


def test_tile_without_any_value(world):
    layers = covariates()
    for values in layers.values():
        values[:32, :48] = np.nan
    write_rasters(Path("rasters"), layers)
    assert make("--tile", "16") == 0
    known = np.isfinite(read()[0])
    assert not known[:32, :48].any()
    assert known[32:, 48:].all()


def test_checkpoint_without_statistics(workplace, capsys):
    write_rasters(Path("rasters"), covariates())
    make_checkpoint(Path("model/m.pth"), statistics=None)
    assert make() == 2
    refused(capsys, "has no statistics", "--stats")
    rows = [(name, *pair) for name, pair in STATISTICS.items()]
    pd.DataFrame(rows, columns=["var_name", "v_mean", "v_std"]).to_csv("stats.csv", index=False)
    assert make("--stats", "stats.csv") == 0


@needs_published_weights
def test_published_weights_make_a_map(workplace):
    random = np.random.default_rng(0)
    names = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
    write_geotiff(Path("all.tif"), random.normal(size=(32, 20, 30)), names, Affine(1, 0, 0, 0, -1, 20))
    pd.DataFrame({"var_name": names, "v_mean": 0.0, "v_std": 1.0}).to_csv("stats.csv", index=False)
    assert make("--stats", "stats.csv", checkpoint=str(PUBLISHED_WEIGHTS), rasters="all.tif") == 0
    assert 5 < np.nanmean(read()) < 60


# --- what must not happen ------------------------------------------------------------------------------------------------


def test_two_runs_do_not_make_one_map(world, capsys):
    with locked(Path("out/.soc.tif.tiles")):
        assert make() == 2
    refused(capsys, "another run is at work")


@pytest.mark.parametrize(
    ("out", "more", "words"),
    [
        ("rasters/relief.tif", [], ["rasters/relief.tif", "would be overwritten"]),
        ("model/m.tif", [], ["model/m.yaml", "would be overwritten"]),
        ("land.tif", ["--mask", "land.tif"], ["land.tif", "would be overwritten"]),
        ("page.tif", [], ["page.html", "is a folder"]),
    ],
)
def test_no_input_is_overwritten(world, capsys, out, more, words):
    write_geotiff(Path("land.tif"), np.ones((1, 7, 9)), ["land"], Affine(1, 0, WEST, 0, -1, NORTH))
    Path("page.html").mkdir()
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert make(*more, out=out) == 2
    refused(capsys, *words)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_tile_that_comes_twice_is_computed_again(world, monkeypatch):
    assert make("--tile", "32", out="out/whole.tif") == 0
    with monkeypatch.context() as patched:
        interrupt_after(patched, 4)
        make("--tile", "32")
    tile = min(Path("out/.soc.tif.tiles").glob("0*.tif"))
    other = tile.read_bytes() + b"x"
    (tile.parent / f"{tile.name[:17]}.{zlib.crc32(other):08x}.tif").write_bytes(other)
    assert make("--tile", "32", "--resume") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/whole.tif").read_bytes()


# --- warnings ------------------------------------------------------------------------------------------------------------


def test_the_effect_of_resampling_on_the_mean_is_reported(world, caplog):
    assert make() == 0
    assert "resampled from other grids" not in caplog.text
    assert make("--crs", "EPSG:3035", "--resolution", "30000") == 0
    reported = re.search(
        r"6 of 6 variables are resampled from other grids \(bilinear\), class codes .* the mean is ([\d.]+) .*, ([\d.]+) \(",
        caplog.text,
    )
    band = read()[0]
    assert float(reported[1]) == pytest.approx(np.nanmean(band), rel=0.1)
    assert float(reported[1]) != float(reported[2])


def test_bands_carry_their_statistics(world):
    assert make("--tile", "32") == 0
    with rasterio.open("out/soc.tif") as raster:
        for number, band in enumerate(read(), start=1):
            known = band[np.isfinite(band)].astype(float)
            reported = {
                name.removeprefix("STATISTICS_"): float(value)
                for name, value in raster.tags(number).items()
                if "STATISTICS" in name
            }
            expected = {"MINIMUM": known.min(), "MAXIMUM": known.max(), "MEAN": known.mean(), "STDDEV": known.std()}
            assert reported == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_classes_on_another_grid_are_never_mixed(world):
    layers = covariates()
    codes = np.where(np.arange(WIDTH // 2) % 2, 1.0, 3.0) * np.ones((HEIGHT // 2, 1))
    write_geotiff(Path("rasters/rock.tif"), codes[None], ["bedrock"], Affine(0.2, 0, WEST, 0, -0.2, NORTH))
    assert make("--like", "rasters/relief.tif") == 0
    write_rasters(Path("same"), {**layers, "bedrock": np.kron(codes, np.ones((2, 2)))})
    assert make(rasters="same", out="out/same.tif") == 0
    np.testing.assert_allclose(read(), read("out/same.tif"), rtol=1e-4, atol=1e-4)


def test_nodata_declared_beside_the_file_counts(world):
    layers = covariates()
    wrong = layers["evi"].copy()
    wrong[:10] = 99999
    write_raster("rasters/plants.tif", wrong, WEST, NORTH, CELL, names=("evi",))
    Path("rasters/plants.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>99999</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert make("--max_missing", "0") == 0
    assert np.isnan(read()[0, :10]).all()
    assert np.isfinite(read()[0, 30:50]).all()


def write_voids(rows=slice(0, 10), fill=-32768.0):
    """Replace the raster of evi by one with a fill value that it does not declare."""
    cells = covariates()["evi"].copy()
    cells[rows] = fill
    write_raster("rasters/plants.tif", cells, WEST, NORTH, CELL, names=("evi",))


@pytest.mark.parametrize("more", [(), pytest.param(("--resolution", "0.05"), marks=pytest.mark.slow)])
def test_a_fill_value_that_is_not_declared_is_asked_about_and_not_mapped(world, capsys, more):
    write_voids()
    assert make("--max_missing", "0", *more) == 2
    refused(capsys, "plants.tif: 900 of the 6100 cells looked at are -32768 in evi", "--nodata evi=-32768 takes them as missing")
    assert make("--max_missing", "0", "--nodata", "-32768", *more) == 0
    scale = 2 if more else 1
    assert np.isnan(read()[0, : 9 * scale]).all()
    assert np.isfinite(read()[0, 30 * scale : 50 * scale]).all()


@pytest.mark.parametrize("more", [(), ("--resolution", "0.05")])
def test_a_fill_value_that_the_sample_missed_stops_the_map(world, capsys, monkeypatch, more):
    write_voids()
    monkeypatch.setattr("soilcarbon.mapping.plan.ask_about_fill_values", lambda *_: [])
    monkeypatch.setattr("soilcarbon.mapping.plan.check_codes", lambda *_: None)
    assert make("--max_missing", "0", *more) == 2
    refused(capsys, "cells of evi here are -32768, far from all the model was trained on", "--nodata evi=-32768")


def test_nodata_given_to_prepare_holds_for_the_map(world):
    given = {"crs": "EPSG:4326", "cell_size": [CELL, CELL], "variables": ["evi"], "nodata": {"evi": [-32768.0]}}
    make_checkpoint(Path("model/m.pth"), record=Record(rasters=(given,)))
    write_voids()
    assert make("--max_missing", "0") == 0
    assert np.isnan(read()[0, :10]).all()


def test_a_mask_with_a_fill_value_is_asked_about(world, capsys):
    cells = np.where(np.arange(9) < 3, 255, np.arange(9) % 2) * np.ones((7, 1))
    write_geotiff(Path("land.tif"), cells[None], ["land"], Affine(1, 0, WEST, 0, -1, NORTH))
    assert make("--mask", "land.tif") == 2
    refused(capsys, "land.tif: 21 of the 63 cells looked at are 255 in land")
    assert make("--mask", "land.tif", "--nodata", "land=255") == 0
    assert np.isnan(read()[0, :, :30]).all()
