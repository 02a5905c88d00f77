"""Means of blocks of a map: one error model serves cells, blocks, zones and the whole, so that they agree; sources of variance."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from map_world import CELL, HEIGHT, NORTH, WEST, WIDTH, calibration, covariates, make, make_world, read, write_rasters
from map_world import write_boxes as write_zones

from soilcarbon.geo.grid import Grid
from soilcarbon.io.files import UserError
from soilcarbon.mapping.aggregation import cells_of_block
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.stats.error_field import ErrorField

pytestmark = pytest.mark.usefixtures("light_maps")

SIDE = 20
"""Cells: the map of 70 x 90 has 4 x 5 blocks, the lowest of 10 x 20, the rightmost of 20 x 10."""
VARIANCES = ["variance_bias", "variance_correlated", "variance_cells", "variance_shared", "variance_floor"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with rasters, and a network of two members with an error model and a calibration."""
    folder = tmp_path_factory.mktemp("aggregation")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        make_world(folder, members=2)
        network = load_checkpoint("model/m.pth")
        random = np.random.default_rng(0)
        lon, lat = WEST + 9 * random.random(200), NORTH - 7 * random.random(200)
        predicted, none = random.uniform(8, 16, 200), np.zeros(200, int)
        y = (predicted + 1 + 0.3 * (1 + predicted) * random.normal(size=200)).clip(0)
        network.errors = ErrorField.fit(y, predicted, none, 1, np.column_stack([lon, lat]), none)
        network.calibration = calibration()
        save_checkpoint(network, Path("model/m.pth"))
        for year in (2000, 2010):
            write_rasters(Path(str(year)), {"bio01": covariates()["bio01"] + np.float32(year - 2000)})
    return folder


@pytest.fixture
def here(model, monkeypatch):
    monkeypatch.chdir(model)


def box(row, col, rows, cols):
    """Return west, south, east and north of cells of the map."""
    return (
        round(WEST + col * CELL, 9),
        round(NORTH - (row + rows) * CELL, 9),
        round(WEST + (col + cols) * CELL, 9),
        round(NORTH - row * CELL, 9),
    )


def totals():
    table = pd.read_csv("out/soc_totals.csv", dtype={"map": str})
    return table.set_index(["map", "zone"]) if table["map"].notna().any() else table.set_index("zone")


def test_a_block_has_the_mean_and_the_interval_of_its_zone_whatever_the_tiles(here):
    write_zones(first=box(0, 0, SIDE, SIDE), inner=box(20, 40, SIDE, SIDE), corner=box(60, 80, 10, 10))
    assert make("--aggregate", "2", "--zones", "z.geojson", "--tile", "70", "--shared_sd", "3%") == 0
    table, blocks = totals(), read("out/soc_aggregated.tif")
    with rasterio.open("out/soc_aggregated.tif") as raster:
        assert raster.shape == (4, 5) and raster.res == (2.0, 2.0)
        assert (raster.bounds.left, raster.bounds.top) == (WEST, NORTH)
        assert raster.descriptions == ("mean", "lower", "upper", "cells")
        assert float(raster.tags(1)["STATISTICS_MEAN"]) == pytest.approx(np.nanmean(blocks[0]), rel=1e-6)
    for zone, place in (("first", (0, 0)), ("inner", (1, 2)), ("corner", (3, 4))):
        expected = table.loc[zone, ["mean", "mean_lower", "mean_upper", "cells"]].astype(float)
        np.testing.assert_allclose(blocks[:, *place], expected, rtol=1e-6, err_msg=zone)
    assert blocks[3].sum() == table.loc["whole map", "cells"]
    assert make("--aggregate", "2", "--tile", "33", "--shared_sd", "3%") == 0  # tiles of one block
    np.testing.assert_allclose(read("out/soc_aggregated.tif"), blocks, rtol=1e-5)


def test_a_block_of_one_cell_has_the_interval_of_the_cell(here):
    assert make("--aggregate", str(CELL), "--crs", "EPSG:4326", "--resolution", str(CELL), "--bounds", "12", "14", "44", "46") == 0
    cells, blocks = read(), read("out/soc_aggregated.tif")
    assert np.isfinite(blocks[1]).sum() > 100
    np.testing.assert_array_equal(blocks[:3], cells[:3])


def test_one_block_of_the_whole_map_is_the_whole_map(here, capsys):
    bounds = "--bounds", "12", "14", "44", "46"
    assert make("--aggregate", "2", *bounds, "--tile", "16") == 0
    assert f"means of blocks of 20 x 20 cells -> {Path('out/soc_aggregated.tif')}" in capsys.readouterr().out
    row, block = totals().loc["whole map"], read("out/soc_aggregated.tif")
    assert block.shape == (4, 1, 1)
    np.testing.assert_allclose(block.ravel(), row[["mean", "mean_lower", "mean_upper", "cells"]].astype(float), rtol=1e-6)
    assert block[2] - block[1] < 0.5 * np.nanmean(read()[2] - read()[1])  # errors of single cells cancel


def test_blocks_and_cells_of_a_change_are_of_the_same_errors_too(here):
    write_zones(block=box(20, 40, SIDE, SIDE), cell=box(30, 50, 1, 1), pair=box(30, 50, 1, 2))
    assert make("--periods", "2000=2000", "2010=2010", "--aggregate", "2", "--zones", "z.geojson") == 0
    table = totals()
    for name in ("2000", "2010", "change"):
        expected = table.loc[(name, "block"), ["mean", "mean_lower", "mean_upper"]].astype(float)
        np.testing.assert_allclose(read(f"out/soc_{name}_aggregated.tif")[:3, 1, 2], expected, rtol=1e-5, err_msg=name)
        expected = table.loc[(name, "cell"), ["map_mean", "mean_lower", "mean_upper"]].astype(float)
        np.testing.assert_allclose(read(f"out/soc_{name}.tif")[:3, 30, 50], expected, rtol=1e-5, err_msg=name)
    change = read("out/soc_change.tif")
    known = np.isfinite(change[0])
    np.testing.assert_allclose((change[2] - change[1])[known], 2 * 1.64485 * change[3][known], rtol=1e-4)
    pair = table.loc[("change", "pair")]  # two neighbours share all but the cells' own errors, of which half is left
    assert change[3, 30, 50] ** 2 == pytest.approx(pair["variance"] + pair["variance_cells"], rel=0.4)
    assert pair["variance_cells"] > 0.1 * pair["variance"]


@pytest.mark.usefixtures("whole_maps")
def test_variances_by_source_add_up_and_make_the_interval(here):
    write_zones(west=box(0, 0, HEIGHT, 40), cell=box(30, 50, 1, 1))
    assert make("--zones", "z.geojson", "--shared_sd", "4%") == 0
    table = totals()
    several = table.loc[["whole map", "west"]]
    np.testing.assert_allclose(several[VARIANCES].sum(axis=1), several["variance"], rtol=1e-12)
    np.testing.assert_allclose(several["variance_shared"], (0.04 * several["map_mean"]) ** 2, rtol=1e-9)
    assert (several[["variance_bias", "variance_correlated", "variance_cells", "variance_members"]] > 0).all(axis=None)
    half = (several["mean_upper"] - several["mean_lower"]) / 2
    np.testing.assert_allclose(half / several["variance"] ** 0.5, 1.645, rtol=0.1)
    assert table.loc["cell", ["variance", *VARIANCES]].isna().all()  # its interval is that of the cell
    assert "variance_" not in Path("out/soc.html").read_text(encoding="utf-8")
    assert make("--zones", "z.geojson", "--shared_sd", "0.5") == 0
    assert totals().loc["whole map", "variance_shared"] == pytest.approx(0.25)
    narrow = totals().loc["whole map", "variance"] - 0.25
    assert narrow == pytest.approx(several.loc["whole map", ["variance", "variance_shared"]] @ [1, -1])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--aggregate", "0.25"), "aggregate 0.25 is no whole number of the map's cells of 0.1; 0.2 or 0.3 is"),
        (("--aggregate", "0.04"), "no whole number of the map's cells of 0.1; 0.1 is"),
        (("--aggregate", "-1"), "aggregate"),
        (("--shared_sd", "five"), "shared_sd"),
        (("--shared_sd", "-5%"), "shared_sd"),
    ],
)
def test_what_is_no_block_or_no_deviation_is_refused(here, capsys, more, said):
    assert make(*more, out="refused/soc.tif") == 2
    assert said in capsys.readouterr().err and not list(Path("refused").glob("*"))


def test_blocks_of_too_many_cells_are_refused():
    with pytest.raises(UserError, match="10,000 cells"):
        cells_of_block(100_000.0, Grid("EPSG:3035", 0, 0, (10.0, 10.0), 100, 100))
    assert cells_of_block(0.5, Grid("EPSG:4326", 0, 0, (1 / 120, 1 / 120), HEIGHT, WIDTH)) == 60
