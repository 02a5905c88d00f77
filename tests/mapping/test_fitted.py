"""Maps of fitted models: what the model predicts at every cell, windows and kriged residuals included; means in totals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import slow_but, tiny_models
from map_world import make as make_map
from map_world import read
from rasterio.transform import Affine

import soilcarbon
from soilcarbon.categories import Category
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.mapping.tiles import open_predictor
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.learners import LEARNERS, Task, fit_parts
from soilcarbon.regression.model import FittedModel, ModelRecord
from soilcarbon.regression.persistence import save_model
from soilcarbon.regression.uncertainty import Uncertainty, applicability, calibrate, error_field
from soilcarbon.stats.groups import spatial_groups

pytestmark = pytest.mark.usefixtures("small_learners", "light_maps")

HEIGHT, WIDTH, CELL, WEST, NORTH = 24, 30, 0.1, 20.0, 43.0
RADIUS = 1
CATEGORIES = (
    Category(name="relief", variables=("a", "b"), radius=RADIUS),
    Category(name="rock", variables=("rock",), kind="classes"),
)


def rasters():
    row, col = np.mgrid[0:HEIGHT, 0:WIDTH]
    random = np.random.default_rng(0)
    a, b = np.sin(col / 5) + 0.1 * random.normal(size=row.shape), np.cos(row / 4)
    return {"a": a.astype(np.float32), "b": b.astype(np.float32), "rock": (1 + (row // 6 + col // 8) % 3).astype(np.float32)}


def samples(windows, n=160, seed=0):
    """Return profiles in inner cells of the rasters, with a field that no covariate knows."""
    random, layers = np.random.default_rng(seed), rasters()
    row, col = random.integers(1, HEIGHT - 1, n), random.integers(1, WIDTH - 1, n)
    radius = RADIUS if windows else 0
    steps = [(i, j) for i in range(-radius, radius + 1) for j in range(-radius, radius + 1)]
    x = [layers[name][row + i, col + j] for name in ("a", "b") for i, j in steps] + [layers["rock"][row, col]]
    lon, lat = WEST + CELL * (col + 0.5), NORTH - CELL * (row + 0.5)
    field = 0.6 * np.sin(lon * 3) * np.cos(lat * 4)
    y = np.exp(2.5 + 0.5 * layers["a"][row, col] + 0.2 * (layers["rock"][row, col] == 2) + field + 0.1 * random.normal(size=n))
    return Samples(np.column_stack([lon, lat, *x]), y, spatial_groups(lon, lat, 0.3)), row, col


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function of a learner's key: the file of a small model, its profiles, and their cells."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    with pytest.MonkeyPatch.context() as patch:
        tiny_models(patch)

        def make(key):
            if key not in made:
                windows = LEARNERS[key].network
                known, row, col = samples(windows)
                own = tuple(each if windows else each.model_copy(update={"radius": 0}) for each in CATEGORIES)
                parts, facts = fit_parts(key, known, Task(own, block_size=0.3))
                model = FittedModel(key, facts.changed(smearing=(1.2,)), parts)
                predicted = model.predict(known.X)
                uncertainty = Uncertainty(
                    calibrate(known.y, predicted, known.groups, "log1p", "blocks")[0],
                    error_field(known.y, model.means(predicted), known.X[:, :2], known.groups % 3, 0, model.means(predicted)),
                    applicability(model.predictors(known.X[:, 2:].astype(np.float32)), np.ones(5), known.groups % 3, 0),
                )
                rows = ({"model": key, "n": 160, "mae": 1.5, "chosen": True},)
                record = ModelRecord(reason="it is simple", cross_validation=rows, folds={"strategy": "blocks"})
                save_model(replace(model, uncertainty=uncertainty, record=record), folder / f"{key}.npz")
                made[key] = folder / f"{key}.npz", model, known, row, col
            return made[key]

        yield make


@pytest.fixture
def world(workplace):
    for name, values in rasters().items():
        write_geotiff(Path("static") / f"{name}.tif", values[None], [name], Affine(CELL, 0, WEST, 0, -CELL, NORTH))
    return workplace


def make(path, *more):
    return make_map("--workers", "1", *more, checkpoint=str(path), rasters="static")


@pytest.mark.parametrize("key", slow_but(LEARNERS, "ridge", "regression-kriging", "stack"))
def test_a_map_is_what_the_model_predicts_at_the_cells(key, world, saved):
    path, model, known, row, col = saved(key)
    assert make(path, "--level", "0.8", "--tile", "16") == 0
    bands, names = read(), list(soilcarbon.open_map("out/soc.tif"))
    assert names == ["prediction", "lower", "upper", "di", "inside"]
    predicted = model.predict(known.X)
    assert bands[0, row, col] == pytest.approx(predicted, rel=1e-4)
    calibration = open_predictor(path).uncertainty.calibration
    lower, upper = calibration.interval(predicted, 0.8)
    assert bands[1, row, col] == pytest.approx(lower, rel=1e-4) and bands[2, row, col] == pytest.approx(upper, rel=1e-4)
    assert np.isfinite(bands[0]).all()
    table = pd.read_csv("out/soc_totals.csv")
    assert table["zone"].tolist() == ["whole map"]
    mean = model.means(bands[0].astype(float))  # a median has less than a total has
    weights = np.cos(np.radians(NORTH - CELL * (np.arange(HEIGHT) + 0.5)))[:, None] * np.ones(WIDTH)
    assert table["map_mean"][0] == pytest.approx(np.average(mean, weights=weights), rel=1e-3)
    assert table["mean_lower"][0] < table["mean"][0] < table["mean_upper"][0]
    assert "it is simple" in Path("out/soc.yaml").read_text()


def test_kriged_residuals_are_added_tile_by_tile(world, saved):
    path, model, *_ = saved("regression-kriging")
    assert make(path, "--tile", "512") == 0
    whole = read()
    assert make(path, "--tile", "16") == 0
    np.testing.assert_allclose(read(), whole, rtol=1e-5)
    kriged = model.parts["kriged"].predict(np.array([[WEST + 1.0, NORTH - 1.0], [0.0, 0.0], [np.nan, 0.0]]))
    assert abs(kriged[0]) > 0.01 and kriged[1:] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("key", slow_but(["regression-kriging", "network"], "regression-kriging"))
def test_a_dataset_of_the_rasters_gives_the_same_map(key, world, saved):
    path = saved(key)[0]
    assert make(path, "--tile", "16") == 0
    found = soilcarbon.predict(path, soilcarbon.open_map("static").load(), tile=20)
    bands, names = read(), list(soilcarbon.open_map("out/soc.tif"))
    assert list(found.data_vars) == names
    for name, band in zip(names, bands, strict=True):
        np.testing.assert_allclose(found[name].values, band, rtol=1e-4, atol=1e-4)
