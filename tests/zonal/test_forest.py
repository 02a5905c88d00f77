"""Forests by zone: what each learns from, how they meet, and that choosing sees nothing it should not."""

import dataclasses

import numpy as np
import pytest
from simulated import ZONED_QUICK, zoned_world

from soilcarbon.io.files import UserError
from soilcarbon.zonal import feature_selection as selection
from soilcarbon.zonal.climate_zones import ClimateZones
from soilcarbon.zonal.forest import SelectedForest, ZonedForest, decades

HARD = ClimateZones()


def method(zones=HARD, **changes):
    return ZonedForest(zones, 0, 1, SelectedForest(**ZONED_QUICK), **changes)


@pytest.fixture(scope="module")
def land():
    return zoned_world(300)


@pytest.fixture(scope="module")
def fitted(land):
    return method().fit(land, 0)


def test_a_forest_chooses_what_matters_and_leaves_twins_and_noise(land):
    wet = land.take(land.x[:, 0] >= 400)
    twin = wet.x[:, 2] * 1.5 + 0.01 * np.random.default_rng(0).normal(size=len(wet))
    wet = dataclasses.replace(wet, x=np.column_stack([wet.x, twin]))
    chosen = SelectedForest(**ZONED_QUICK | {"covariates": (0, 1, 2, 3, 4, 6)}).fit(wet, 0)
    assert len({2, 6} & set(chosen.columns)) == 1
    assert 3 not in chosen.columns  # matters in dry zones alone
    assert np.corrcoef(chosen.predict(wet), wet.y)[0, 1] > 0.8


def test_the_trace_tells_all_that_was_tried_and_the_winner_is_in_it(fitted):
    forest = fitted.forests["humid"]
    subsets, settings = (forest.trace[forest.trace["stage"] == stage] for stage in ("subset", "settings"))
    assert len(subsets) == 2 ** ZONED_QUICK["best"] - 1
    assert len(settings) == ZONED_QUICK["candidates"]
    assert subsets.loc[subsets["r2"].idxmax(), "columns"] == " ".join(map(str, forest.columns)) == settings["columns"].iloc[0]
    best = settings.loc[settings["r2"].idxmax()]
    assert {name: best[name] for name in forest.settings} == forest.settings
    assert settings["r2"].iloc[0] == pytest.approx(subsets["r2"].max())  # the first settings are those of the search
    assert settings["max_features"].nunique() == len(settings)


def test_each_zone_learns_from_its_own_profiles_alone(land, fitted):
    labels = HARD.labels(land.x[:, 0], land.x[:, 1])
    assert [fitted.counts[name] for name in HARD.names] == np.bincount(labels, minlength=4).tolist()
    other = dataclasses.replace(land, y=np.where(labels == 0, land.y, 0.5 + np.arange(len(land)) % 2))
    changed = method().fit(other, 0)
    for k, name in enumerate(HARD.names):
        same = changed.forests[name].predict(land).tolist() == fitted.forests[name].predict(land).tolist()
        assert same == (k == 0)


def test_hard_predictions_are_those_of_the_places_zone_and_nan_without_climate(land, fitted):
    predicted, labels = fitted.predict(land), fitted.labels(land)
    for k, name in enumerate(HARD.names):
        rows = labels == k
        np.testing.assert_array_equal(predicted[rows], fitted.forests[name].predict(land.take(rows)))
    x = land.x.copy()
    x[0, 0], x[1, 1] = np.nan, np.nan
    assert np.flatnonzero(np.isnan(fitted.predict(dataclasses.replace(land, x=x)))).tolist() == [0, 1]


def test_blended_predictions_leave_no_seam_and_are_the_hard_ones_away_from_it(land, fitted):
    blended = dataclasses.replace(fitted, zones=ClimateZones(width_precipitation=100, width_temperature=2))
    blended.forests = fitted.forests
    across = land.take(np.zeros(401, int))
    x = across.x.copy()
    x[:, 0], x[:, 1] = np.linspace(300, 500, 401), 20.0
    walk = dataclasses.replace(across, x=x)
    # What the forests themselves say changes along the way too; hold it by leaving the rain out of them.
    held = {
        name: dataclasses.replace(each, covariates=(2, 3, 4), best=1).fit(land, k)
        for k, (name, each) in enumerate(fitted.forests.items())
    }
    fitted, blended = dataclasses.replace(fitted), dataclasses.replace(blended)
    fitted.forests = blended.forests = held
    hard, soft = fitted.predict(walk), blended.predict(walk)
    jump = np.abs(np.diff(hard)).max()
    assert jump > 0
    assert np.abs(np.diff(soft)).max() < jump / 50
    far = np.abs(x[:, 0] - 400) >= 50
    np.testing.assert_allclose(soft[far], hard[far])
    assert soft[200] == pytest.approx((hard[0] + hard[-1]) / 2)


def test_a_zone_of_few_profiles_is_served_by_the_forest_of_all(land):
    labels = HARD.labels(land.x[:, 0], land.x[:, 1])
    few = land.take(np.flatnonzero((labels != 3) | (np.cumsum(labels == 3) <= 10)))
    served = method(fewest=30).fit(few, 0)
    assert [served.own(name) for name in HARD.names] == [True, True, True, False]
    alone = SelectedForest(**ZONED_QUICK).fit(few, 0)
    dry = few.take(served.labels(few) == 3)
    np.testing.assert_array_equal(served.predict(dry), alone.predict(dry))
    assert method(fewest=10**6, everywhere=alone).fit(few, 0).forests == dict.fromkeys(HARD.names, alone)


def test_one_block_alone_cannot_choose(land):
    with pytest.raises(UserError, match="cannot be held out in turn"):
        SelectedForest(**ZONED_QUICK).fit(dataclasses.replace(land, units=np.zeros(len(land), np.int64)), 0)


def test_choosing_never_parts_a_block(land, monkeypatch):
    seen = []
    real = selection.held_out_r2
    monkeypatch.setattr(
        "soilcarbon.zonal.forest.held_out_r2", lambda x, y, folds, *more: seen.append(folds) or real(x, y, folds, *more)
    )
    SelectedForest(**ZONED_QUICK).fit(land, 0)
    for unit in np.unique(land.units):
        assert np.unique(seen[0][land.units == unit]).size == 1


def test_decades_are_those_of_the_year(land):
    x = np.array([[1989.9], [1990], [np.nan]])
    assert decades(dataclasses.replace(land.take(slice(3)), x=x), 0).tolist() == [1980, 1990, 0]
    assert decades(land, None).tolist() == [0] * len(land)
