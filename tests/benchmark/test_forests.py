"""Forests: shares of region and world, medians and means, quantiles against the plain computation."""

import dataclasses

import numpy as np
import pytest

from soilcarbon.benchmark import forests
from soilcarbon.benchmark.baselines import Known
from soilcarbon.benchmark.forests import Forest, QuantileForest, WorldForest


def test_a_forest_of_logarithms_aims_at_the_median_the_other_at_the_mean():
    random = np.random.default_rng(0)
    y = np.exp(2 + random.normal(size=600))
    dull = Known(np.zeros((600, 1), np.float32), y, np.zeros(600), np.zeros(600), np.arange(600))
    assert Forest(log=False).fit(dull, 0).predict(dull.take(slice(1)))[0] == pytest.approx(y.mean(), rel=0.02)
    median = np.expm1(np.log1p(y).mean())
    assert Forest(log=True).fit(dull, 0).predict(dull.take(slice(1)))[0] == pytest.approx(median, rel=0.02)
    assert median < 0.75 * y.mean()


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_regions_share_of_the_weight_is_the_share(share, known, world, monkeypatch):
    weights = []

    class Spy(forests.RandomForestRegressor):
        def fit(self, x, y, sample_weight=None):
            weights.append(sample_weight)
            return super().fit(x, y, sample_weight=sample_weight)

    monkeypatch.setattr(forests, "RandomForestRegressor", Spy)
    few = known.take(slice(40))
    WorldForest(share=share, world=world, trees=3).fit(few, 0)
    assert weights[0][:40].sum() / weights[0].sum() == pytest.approx(share)
    assert np.ptp(weights[0][:40]) == 0 == np.ptp(weights[0][40:])
    assert weights[0].sum() == pytest.approx(440)  # or max_samples would mean another number of draws


def test_a_forest_that_cannot_split_predicts_the_two_means_in_their_shares(known, world):
    here, there = (dataclasses.replace(each, x=np.zeros((len(each), 1), np.float32)) for each in (known.take(slice(30)), world))
    for share in (0.1, 0.5):
        predicted = WorldForest(share=share, world=there, trees=200).fit(here, 0).predict(here)[0]
        assert predicted == pytest.approx(share * here.y.mean() + (1 - share) * there.y.mean(), rel=0.03)


def test_without_a_world_it_is_a_forest_of_the_region(known, places, world):
    alone = WorldForest(trees=20).fit(known, 0).predict(places)
    assert WorldForest(trees=20, world=world.take(slice(0))).fit(known, 0).predict(places).tolist() == alone.tolist()
    assert WorldForest(trees=20, world=world).fit(known, 0).predict(places).tolist() != alone.tolist()


def test_a_share_or_a_world_that_does_not_fit_is_named(known, world):
    with pytest.raises(ValueError, match="share = 1: expected above 0 and below 1"):
        WorldForest(share=1.0, world=world).fit(known, 0)
    with pytest.raises(ValueError, match="the world's profiles have 3 covariates, the region's 6"):
        WorldForest(world=dataclasses.replace(world, x=world.x[:, :3])).fit(known, 0)


# --- quantile forest ---------------------------------------------------------------------------------------------


def plain_quantile(forest, known, place, level):
    """Return one quantile as Meinshausen (2006) writes it."""
    weight = np.zeros(len(known))
    for tree in forest.estimators_:
        leaf_of = tree.apply(known.x)
        same = leaf_of == tree.apply(place)[0]
        weight[same] += 1 / same.sum() / len(forest.estimators_)
    total = 0.0
    for k in np.argsort(known.y):
        total += weight[k]
        if total >= level - 1e-9:
            return known.y[k]
    raise AssertionError("the weights do not add up to 1")


def test_quantile_forest_equals_the_plain_computation_in_chunks_of_any_size(known, places, monkeypatch):
    few, levels = places.take(slice(12)), (0.05, 0.5, 0.95, 1.0)
    method = QuantileForest(trees=20, min_samples_leaf=3).fit(known, 0)
    whole = method.quantiles(few, levels)
    expected = [[plain_quantile(method._forest, known, few.x[[k]], level) for k in range(12)] for level in levels]
    assert whole.tolist() == expected
    monkeypatch.setattr(forests, "CHUNK_VALUES", 5 * len(known))
    assert method.quantiles(few, levels).tolist() == expected
    assert method.predict(few).tolist() == expected[1]


def test_quantiles_rise_with_the_level_and_hold_their_share_of_new_profiles():
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, (1200, 1)).astype(np.float32)
    y = np.exp(1 + 2 * x[:, 0] + 0.5 * random.normal(size=1200))
    both = Known(x, y, np.zeros(1200), np.zeros(1200), np.arange(1200))
    method = QuantileForest(max_features=1.0, min_samples_leaf=20, trees=60).fit(both.take(slice(800)), 0)
    new = both.take(slice(800, None))
    quantiles = method.quantiles(new, [0.1, 0.25, 0.5, 0.75, 0.9])
    assert (np.diff(quantiles, axis=0) >= 0).all()
    assert (new.y <= quantiles).mean(1) == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9], abs=0.06)
    assert np.abs(np.log(quantiles[2]) - (1 + 2 * new.x[:, 0])).mean() < 0.15


@pytest.mark.parametrize("level", [0.0, 1.5, np.nan])
def test_a_level_that_is_none_is_refused(level, known):
    with pytest.raises(ValueError, match="expected a list of numbers above 0 and at most 1"):
        QuantileForest(trees=2).fit(known, 0).quantiles(known, [0.5, level])
