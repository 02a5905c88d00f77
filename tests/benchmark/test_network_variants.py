"""Methods compared in regions: nothing of a held-out profile in its prediction, the world's profiles elsewhere, intervals."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soilcarbon.benchmark import network_variants
from soilcarbon.benchmark.network_variants import METHODS, SELECTED_ON_TEST, Case, interval_columns, plain_settings, stack
from soilcarbon.categories import Category
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.regression.estimators import QuantileForest
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import spatial_groups

CATEGORIES = (Category(name="topo", variables=("elevation", "slope")), Category(name="rock", variables=("code",), kind="classes"))


def dataset(n, seed):
    """Return profiles in a square of 4 degrees, in blocks of one, whose targets follow two covariates."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"profile_id": np.arange(n).astype(str), "lon": 4 * random.random(n), "lat": 4 * random.random(n)})
    x = np.column_stack([random.normal(size=(n, 2)), random.integers(1, 4, n)]).astype(np.float32)
    split = {"train": np.arange(n), "valid": np.arange(0)}
    return Dataset(table, x, np.exp(2 + 0.5 * x[:, 0] + 0.3 * (x[:, 2] == 2)).astype(float), split, CATEGORIES, 1.0)


@pytest.fixture(scope="module")
def case():
    region, world = dataset(60, 0), dataset(80, 1)
    world = dataclasses.replace(world, table=world.table.assign(lon=world.lon + 2))  # half of it lies in the region
    start = SoilCarbonRegressor(CATEGORIES, teacher="none", members=1, epochs=1, patience=0).fit(world.x, world.y).network_
    settings = RegionalSettings(data_dir=Path(), init_from=Path("start.pth"), teacher="none", epochs=2, members=1, device="cpu")
    test = np.flatnonzero(spatial_groups(region.lon, region.lat, 1.0) % 4 == 0)
    return Case(region, np.setdiff1d(np.arange(60), test), test, start, world, settings, whole=False)


@pytest.fixture
def cheap(monkeypatch):
    few = dataclasses.replace(network_variants.BASELINES["quantile_forest"], regressor=QuantileForest(10), candidates=({},))
    monkeypatch.setitem(network_variants.BASELINES, "quantile_forest", few)
    short = {"epochs": 2, "members": 1}
    monkeypatch.setattr(network_variants, "plain_settings", lambda settings, **more: plain_settings(settings, **more | short))


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("key", ["ridge", "quantile_forest", "scratch", "pretrained", "tuned", "regional"])
def test_nothing_of_the_profiles_held_out_is_in_their_predictions(key, case):
    x, y = case.region.x.copy(), case.region.y.copy()
    y[case.test] = 1000 * y[case.test] + 7
    x[case.test[1:]] = np.nan  # all that is held out but one
    other = dataclasses.replace(case, region=dataclasses.replace(case.region, x=x, y=y))
    before, after = (network_variants.predict(key, each) for each in (case, other))
    assert before.shape == case.test.shape and np.isfinite(before).all() and after[0] == before[0]


def test_baselines_are_fitted_to_the_training_profiles_and_those_of_the_world_elsewhere(case):
    tables = case.tables
    np.testing.assert_array_equal(tables.train.y, case.region.y[case.rows])
    np.testing.assert_array_equal(tables.held_out.X[:, 2:], case.region.x[case.test])
    assert tables.classes == [2] and tables.seed == case.settings.seed
    here = spatial_groups(case.region.lon, case.region.lat, 1.0)
    left_out = np.isin(spatial_groups(case.world.lon, case.world.lat, 1.0), here)
    assert 20 < left_out.sum() < 60
    np.testing.assert_array_equal(tables.elsewhere.y, case.world.y[~left_out])


@pytest.mark.usefixtures("cheap")
def test_only_whole_cases_have_intervals_and_the_epoch_that_held_out_profiles_choose(case):
    whole = dataclasses.replace(case, whole=True)
    for key, more in (("tuned", {SELECTED_ON_TEST}), ("quantile_forest", {*interval_columns("quantile_forest_calibrated", 0.9)})):
        found, alone = (METHODS[key].columns(key, each, {}) for each in (whole, case))
        assert set(alone) == {key} and more <= set(found)
        np.testing.assert_array_equal(found[key], alone[key])
    lower, upper = (found[name] for name in interval_columns("quantile_forest", 0.9))
    wide = [found[name] for name in interval_columns("quantile_forest_calibrated", 0.9)]
    assert (lower <= found["quantile_forest"]).all() and (found["quantile_forest"] <= upper).all()
    assert (wide[1] - wide[0] != upper - lower).all()  # made wider, or narrower, by errors on inner folds


def test_the_held_out_profiles_choose_the_epoch_of_one_network_alone(case, monkeypatch):
    chosen = []
    monkeypatch.setattr(network_variants, "train_network", lambda case, _, valid=None: chosen.append(valid) or case.start)
    assert list(METHODS["tuned"].columns("tuned", dataclasses.replace(case, whole=True), {})) == ["tuned", SELECTED_ON_TEST]
    for key in ("scratch", "regional"):
        network_variants.predict(key, case)
    assert chosen[1] is case.test and chosen[:1] + chosen[2:] == [None] * 3


def test_the_stack_is_the_mean_of_network_and_kriging_on_the_log_scale(monkeypatch):
    case = Case(None, None, None, None, None, None)
    known = {"regional": np.array([0.0, 3.0]), "kriging": np.array([8.0, 3.0]), "tuned": np.array([900.0, 900.0])}
    np.testing.assert_allclose(stack(case, known), [2.0, 3.0])  # 1 + y: the geometric mean of 1 and 9
    monkeypatch.setattr(network_variants, "predict", lambda key, _: known[key])
    np.testing.assert_allclose(METHODS["stack"].columns("stack", case, {})["stack"], [2.0, 3.0])
    np.testing.assert_allclose(stack(case, {"regional": np.array([8.0, 8.0])}), [8.0, 5.0])  # what is there is not computed again
