"""Windows of categories coarser than the map: every cell of a map has what pred.py predicts for a profile in its middle."""

from pathlib import Path

import numpy as np
import pytest
from conftest import slow_but
from map_world import CATEGORIES, STATISTICS, covariates, make, make_checkpoint, read
from rasterio.transform import Affine

from soilcarbon.geo.grid import lonlat, raster_grid
from soilcarbon.geo.raster import cut_windows, find_layers, pick_layers, write_geotiff
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import Record, predict

pytestmark = pytest.mark.usefixtures("light_maps")

CELLS = {"climate": 0.1, "relief": 0.4, "plants": 0.1, "rock": 0.25}
"""Degrees; relief and rock, the classes, have windows of radius 3 and 2."""


@pytest.fixture
def world(workplace):
    for k, category in enumerate(CATEGORIES):
        cell = CELLS[category.name]
        height, width = round(6.9 / cell), round(8.8 / cell)
        values = covariates(height, width, seed=k)
        if cell != 0.1:  # no holes: what is missing is judged on the map's grid
            values = {name: np.where(np.isnan(each), STATISTICS.get(name, (1,))[0] + 1, each) for name, each in values.items()}
        turned = {"relief": -1}.get(category.name, 1)  # a raster that stands on its head
        bands = np.stack([values[name][::turned] for name in category.variables])
        corner = Affine(cell, 0, 10.0, 0, -cell * turned, 50.0 if turned == 1 else 50.0 - cell * height)
        write_geotiff(Path(f"rasters/{category.name}.tif"), bands, category.variables, corner)
    return workplace


def patch_by_patch(rasters="rasters"):
    net, grid = load_checkpoint("model/m.pth"), raster_grid(Path("out/soc.tif"))
    layers = find_layers([Path(rasters)])
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    places = lonlat(grid, rows.ravel(), cols.ravel())
    packed = []
    for category in net.specification.categories:
        windows = cut_windows(pick_layers(layers, category.variables), *places, category.radius)[0]
        packed += [windows[name].reshape(len(places[0]), -1) for name in category.variables]
    return predict(net, np.concatenate(packed, 1))[0].reshape(grid.height, grid.width)


@pytest.mark.parametrize("tile", slow_but(["512", "32"], "32"))
def test_a_coarse_category_has_the_windows_of_its_own_cells(world, tile, caplog):
    caplog.set_level("INFO")
    record = Record(rasters=tuple(
        {"crs": "EPSG:4326", "cell_size": [CELLS[each.name]] * 2, "variables": list(each.variables)} for each in CATEGORIES
    ))  # fmt: skip
    make_checkpoint(Path("model/m.pth"), 1, record=record)
    assert make("--tile", tile) == 0
    mapped = read()[0]
    assert np.isfinite(mapped).mean() > 0.9
    known = np.isfinite(mapped)
    known[:, -1] = False  # beyond the edge of rock, where no profile is
    np.testing.assert_allclose(mapped[known], patch_by_patch()[known], rtol=1e-4)
    assert "windows of elevation, slope are read at their own" in caplog.text
    assert "wide in training" not in caplog.text
    assert "resampled from other grids" not in caplog.text
    assert mapped.shape == (69, 88)  # the finer grid


@pytest.mark.parametrize(("trained", "more"), [(0.4, ["--like", "rasters/relief.tif"]), (0.1, []), (None, [])])
def test_windows_of_the_map_s_cells_are_taken_where_training_had_such_or_says_nothing(world, trained, more, caplog):
    caplog.set_level("INFO")
    facts = {"crs": "EPSG:4326", "cell_size": [trained, trained], "variables": ["elevation", "slope"]}
    make_checkpoint(Path("model/m.pth"), 1, record=Record(rasters=() if trained is None else (facts,)))
    assert make(*more) == 0
    assert "are read at their own" not in caplog.text
