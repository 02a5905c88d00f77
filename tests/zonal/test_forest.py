"""Forests by zone and the network by zone: what each is trained on, how they meet, and that selection leaks nothing."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import ZONED_QUICK, zoned_world

from soilcarbon.io.files import UserError
from soilcarbon.stats.metrics import scores
from soilcarbon.zonal import forest as module
from soilcarbon.zonal.climate_zones import ClimateZones
from soilcarbon.zonal.forest import SelectedForest, ZonedForest, ZonedNetwork

HARD = ClimateZones()


def method(zones=HARD, **changes):
    return ZonedForest(zones, (0, 1), SelectedForest(**ZONED_QUICK), **changes)


def train(model, profiles, seed=0):
    return model.fit(profiles.x, profiles.y, profiles.groups, seed)


@pytest.fixture(scope="module")
def samples():
    return zoned_world(300)


@pytest.fixture(scope="module")
def fitted(samples):
    return train(method(), samples)


def test_a_forest_selects_what_matters_and_drops_correlated_covariates_and_noise(samples):
    wet = samples.take(samples.x[:, 0] >= 400)
    twin = wet.x[:, 2] * 1.5 + 0.01 * np.random.default_rng(0).normal(size=len(wet))
    wet = replace(wet, x=np.column_stack([wet.x, twin]))
    selected = train(SelectedForest(**ZONED_QUICK | {"covariates": (0, 1, 2, 3, 4, 6)}), wet)
    assert len({2, 6} & set(selected.columns)) == 1
    assert 3 not in selected.columns  # matters in dry zones alone
    assert np.corrcoef(selected.predict(wet.x), wet.y)[0, 1] > 0.8


def test_the_trace_has_all_candidates_and_the_winner(fitted):
    forest = fitted.forests["humid"]
    subsets, settings = (forest.trace[forest.trace["stage"] == stage] for stage in ("subset", "settings"))
    assert len(subsets) == 2 ** ZONED_QUICK["best"] - 1
    assert len(settings) == ZONED_QUICK["candidates"]
    assert subsets.loc[subsets["r2"].idxmax(), "columns"] == " ".join(map(str, forest.columns)) == settings["columns"].iloc[0]
    best = settings.loc[settings["r2"].idxmax()]
    assert {name: best[name] for name in forest.parameters} == forest.parameters
    assert settings["r2"].iloc[0] == pytest.approx(subsets["r2"].max())  # the first hyperparameters are those of the search
    assert settings["max_features"].nunique() == len(settings)


def test_each_zone_is_trained_on_its_own_profiles_alone(samples, fitted):
    labels = fitted.labels(samples.x)
    assert [fitted.counts[name] for name in HARD.names] == np.bincount(labels, minlength=4).tolist()
    changed = train(method(), replace(samples, y=np.where(labels == 0, samples.y, 0.5 + np.arange(len(samples)) % 2)))
    same = [(changed.forests[name].predict(samples.x) == fitted.forests[name].predict(samples.x)).all() for name in HARD.names]
    assert same == [True, False, False, False]


def test_hard_predictions_are_those_of_the_zone_and_nan_without_climate(samples, fitted):
    predicted, labels = fitted.predict(samples.x), fitted.labels(samples.x)
    for k, name in enumerate(HARD.names):
        rows = labels == k
        np.testing.assert_array_equal(predicted[rows], fitted.forests[name].predict(samples.x[rows]))
    x = samples.x.copy()
    x[0, 0], x[1, 1] = np.nan, np.nan
    assert np.flatnonzero(np.isnan(fitted.predict(x))).tolist() == [0, 1]


def test_blended_predictions_leave_no_seam_and_are_the_hard_ones_away_from_it(samples, fitted):
    x = np.repeat(samples.x[:1], 401, axis=0)
    x[:, 0], x[:, 1] = np.linspace(300, 500, 401), 20.0
    # The forests themselves change with precipitation too; these do without.
    without = {
        name: train(replace(each, covariates=(2, 3, 4), best=1), samples, k)
        for k, (name, each) in enumerate(fitted.forests.items())
    }
    hard, blended = (replace(fitted, zones=zones) for zones in (HARD, ClimateZones(width_precipitation=100, width_temperature=2)))
    hard.forests = blended.forests = without
    hard, soft = hard.predict(x), blended.predict(x)
    jump = np.abs(np.diff(hard)).max()
    assert jump > 0
    assert np.abs(np.diff(soft)).max() < jump / 50
    far = np.abs(x[:, 0] - 400) >= 50
    np.testing.assert_allclose(soft[far], hard[far])
    assert soft[200] == pytest.approx((hard[0] + hard[-1]) / 2)


def test_a_zone_of_few_profiles_is_predicted_by_the_forest_of_all(samples):
    labels = method().labels(samples.x)
    few = samples.take(np.flatnonzero((labels != 3) | (np.cumsum(labels == 3) <= 10)))
    served = train(method(min_profiles=30), few)
    assert [served.has_own(name) for name in HARD.names] == [True, True, True, False]
    alone = train(SelectedForest(**ZONED_QUICK), few)
    dry = few.x[served.labels(few.x) == 3]
    np.testing.assert_array_equal(served.predict(dry), alone.predict(dry))
    assert train(method(min_profiles=10**6, everywhere=alone), few).forests == dict.fromkeys(HARD.names, alone)


def test_selection_never_splits_a_block(samples, monkeypatch):
    seen, real = [], module.cross_validated_r2
    monkeypatch.setattr(module, "cross_validated_r2", lambda x, y, folds, *more: seen.append(folds) or real(x, y, folds, *more))
    train(SelectedForest(**ZONED_QUICK), samples)
    assert all(np.unique(seen[0][samples.groups == group]).size == 1 for group in np.unique(samples.groups))
    with pytest.raises(UserError, match="cannot be cross-validated"):
        train(SelectedForest(**ZONED_QUICK), replace(samples, groups=np.zeros(len(samples), np.int64)))


# --- the network by zone -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    samples = zoned_world(700)
    return samples, HARD.labels(*samples.x[:, :2].T)


@pytest.fixture(scope="module")
def network(large):
    samples, labels = large
    rows = samples.groups % 4 > 0
    return ZonedNetwork((2, 3, 4), epochs=40).fit(samples.take(rows), labels[rows], 0)


@pytest.mark.slow
def test_fine_tuning_finds_what_differs_between_zones(large, network):
    samples, labels = large
    rows = samples.groups % 4 == 0
    predicted = network.predict(samples.x[rows], labels[rows])
    unzoned, zoned = (scores(samples.y[rows], each)["r2"] for each in predicted)  # one network sees no climate, and no zones
    assert zoned > unzoned + 0.2
    assert set(network.own) == {0, 1, 2, 3}


def test_the_network_uses_its_covariates_alone(large, network):
    samples, labels = large
    x = samples.x.copy()
    x[:, [0, 1, 5]] = np.nan
    np.testing.assert_array_equal(network.predict(samples.x, labels), network.predict(x, labels))


def test_a_zone_of_few_profiles_is_predicted_by_the_network_of_all(large):
    samples, labels = large
    few = ZonedNetwork((2, 3), int(np.bincount(labels).min()) + 1, epochs=1).fit(samples, labels, 0)
    assert len(few.own) == 3
    unzoned, zoned = few.predict(samples.x, labels)
    served = labels == np.bincount(labels).argmin()
    np.testing.assert_array_equal(unzoned[served], zoned[served])
    assert (unzoned[~served] != zoned[~served]).any()
