"""Intervals from half-samples are as wide as theory says, and what is significant is not chance."""

import numpy as np
import pytest

from soilcarbon.categories import Category
from soilcarbon.drivers.importance import strata_of
from soilcarbon.drivers.mismatch import _ensemble, contrasts, distance_of, effects, interval, ranks_of, ratio_of
from soilcarbon.drivers.responses import density, quantile_grid
from soilcarbon.drivers.subsampling import BUDGETS, Budget, Study, extrapolate, half_samples, noisy_target, quarter_samples, refit
from soilcarbon.stats.groups import spatial_groups


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(BUDGETS, "boosting", Budget(400, 60, 3, 4))


def refits(values, blocks, count=400, seed=1):
    """Return the mean of values over the half that each refit learns from."""
    return np.array([values[half_samples(blocks, seed, number)[0]].mean() for number in range(count)])


def test_half_samples_are_whole_blocks_and_pairs_swap_them():
    blocks = np.repeat(np.arange(40), 5)
    first, second = half_samples(blocks, 7, 0), half_samples(blocks, 7, 1)
    assert np.array_equal(first[0], second[1]) and np.array_equal(first[1], second[0])
    assert not set(blocks[first[0]]) & set(blocks[first[1]]) and len(set(blocks[first[0]])) == 20
    assert not np.array_equal(first[0], half_samples(blocks, 7, 2)[0])
    assert not np.array_equal(first[0], half_samples(blocks, 8, 0)[0])


def test_quarters_make_up_the_training_half():
    here = study(lambda x: x[:, 0])
    train, test = half_samples(here.blocks, here.seed, 3)
    first, second = quarter_samples(here, train, 3)
    assert np.array_equal(np.sort(np.concatenate([first, second])), train)
    assert not set(here.blocks[first]) & set(here.blocks[second]) and not set(first) & set(test)
    assert abs(len(set(here.blocks[first])) - len(set(here.blocks[second]))) <= 1
    assert not np.array_equal(first, quarter_samples(here, train, 5)[0])


def test_extrapolation_is_exact_for_a_shortfall_that_shrinks_with_the_root_of_profiles():
    truth, short = np.array([[2.0, 0.5]]), np.array([[0.3, 0.2]])
    found = {"conditional": np.concatenate([[[9.0]], truth - short / 2**0.5], axis=1), "quarter_conditional": truth - short}
    lifted = extrapolate(found)["conditional"]
    assert lifted[:, 1:] == pytest.approx(truth)
    assert lifted[0, 0] == 9 and found["conditional"][0, 1] < 2  # variables, and what was given, are left as they are


@pytest.mark.slow
def test_importance_is_extrapolated_to_infinite_sample_size():
    """Half-samples underestimate a driver's effect; the extrapolated one is larger, and its interval covers the truth."""
    for seed in range(4):
        here = study(lambda x: x[:, 0], seed)
        parts = [refit(here, "boosting", number, [0]) for number in range(14)]
        found = {name: np.stack([part[name] for part in parts]) for name in ("conditional", "quarter_conditional")}
        truth = 2 * 0.7**2 * _within(here)
        half_sample, extrapolated = (interval(each["conditional"][:, 0, 5], 0.95) for each in (found, extrapolate(found)))
        assert half_sample.value < extrapolated.value and extrapolated.low <= truth <= extrapolated.high
        assert extrapolated.high - extrapolated.low < 2.5 * (half_sample.high - half_sample.low) < 1.2 * truth


def _within(here):
    """Return the variance of the second variable within its strata."""
    strata, column = here.strata[5], here.x[:, 1]
    return np.mean([column[strata == each].var(ddof=1) for each in strata])


def test_the_spread_over_halves_is_the_standard_error_of_the_whole():
    random = np.random.default_rng(0)
    means = random.normal(size=200)
    blocks = np.repeat(np.arange(200), 10)  # ten places of a block are one observation
    found = interval(refits(means[blocks], blocks), 0.95)
    assert found.value == pytest.approx(means.mean(), abs=0.02)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * means.std() / np.sqrt(200), rel=0.1)


def test_an_interval_needs_refits_and_leaves_out_those_without_a_number():
    assert np.isnan(interval(np.array([1.0, np.nan, 2.0]), 0.95).value)
    found = interval(np.array([1.0, 2.0, 3.0, np.nan]), 0.5)
    assert found.value == 2 and found.high == pytest.approx(2 + 0.8165, abs=1e-3)  # Student's t, 2 degrees of freedom


def test_a_ratio_is_of_means_and_there_is_none_of_next_to_nothing():
    random = np.random.default_rng(0)
    shared = np.exp(0.1 * random.normal(size=60))
    found = ratio_of(40 * shared, 20 * shared, 0.95)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert np.isnan(ratio_of(40 * shared, random.normal(0, 1, 60), 0.95).value)


def test_fiellers_interval_contains_the_ratios_that_the_spread_does_not_rule_out():
    random = np.random.default_rng(0)
    modelled, observed = 4 + random.normal(0, 0.5, 40), 2 + random.normal(0, 0.3, 40)
    found = ratio_of(modelled, observed, 0.95)
    assert found.value == pytest.approx(modelled.mean() / observed.mean())
    for end in (found.low, found.high):  # there, modelled - ratio * observed is just significantly different from 0
        one = interval(modelled - end * observed, 0.95)
        assert min(abs(one.low), abs(one.high)) == pytest.approx(0, abs=1e-9)


def test_ranks_are_of_the_mean_and_their_intervals_of_refits():
    random = np.random.default_rng(0)
    values = np.array([1.0, 5.0, 4.9]) + 0.5 * random.normal(size=(200, 3))
    values[:, 1] += 4.9 + 0.05 - values[:, 1].mean()
    values[:, 2] += 4.9 - values[:, 2].mean()
    assert [tuple(vars(each).values()) for each in ranks_of(values, 0.95)] == [(3, 3, 3), (1, 1, 2), (2, 1, 2)]


def test_the_distance_of_equal_curves_is_not_their_noise():
    random = np.random.default_rng(0)
    weights = np.full(11, 1 / 11)
    noise = random.normal(0, 0.5, (100, 11))
    assert distance_of(noise, weights, 0.95).value < 0.1
    assert distance_of(noise + 0.4, weights, 0.95).value == pytest.approx(0.4, abs=0.05)


def test_effects_are_over_the_middle_of_places():
    weights = np.full(21, 1 / 21)
    assert effects(np.arange(21.0), weights) == pytest.approx(18)


def simple(n=600, seed=0):
    """Return covariates, places, and a function of the first two of them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4)).astype(np.float32)
    return x, random.uniform(-60, 60, n), random.uniform(-40, 40, n), np.tanh(x[:, 0]) + 0.7 * x[:, 1]


CATEGORY = (Category(name="all", variables=("a", "b", "c", "d")),)


def study(model, seed=0):
    """Return a study of a function with noise and of a model."""
    x, lon, lat, law = simple(seed=seed)
    random = np.random.default_rng([seed, 1])
    z = np.stack([law + 0.5 * random.normal(size=len(law)), model(x) + 0.5 * random.normal(size=len(law))])
    curves = tuple((k, quantile_grid(x[:, k]), density(x[:, k], quantile_grid(x[:, k]))) for k in (0, 1))
    drivers = {"one": np.array([0]), "two": np.array([1]), "rest": np.array([2, 3])}
    blocks = spatial_groups(lon, lat, 5)
    zones = {"north": lat > 0, "south": lat <= 0}
    own = np.stack([strata_of(x, columns, np.zeros(4, bool), seed) for columns in drivers.values()])
    strata = np.concatenate([np.zeros((4, len(law)), np.int64), own])
    by_zone = np.stack([own, own])
    shared = x, CATEGORY, z, np.zeros(len(law)), np.zeros(2), blocks, drivers, strata, by_zone, curves
    return Study(*shared, None, zones, shapley=False, seed=seed)


def compared(model, count=14, seed=0):
    here = study(model, seed)
    parts = [refit(here, "boosting", number, [0, 1]) for number in range(count)]
    found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    weights = [(name, np.stack([each[2]] * 3)) for name, each in zip("ab", here.curves, strict=True)]
    return contrasts(found, [(1, "model")], list(here.drivers), list(here.zones), weights, 0.95), found


@pytest.mark.slow
def test_what_a_model_lacks_and_what_it_exaggerates_is_significant_with_its_sign():
    every, found = compared(lambda x: 2 * np.tanh(x[:, 0]) + 0.0 * x[:, 1])
    signs = {(each.kind, each.name, each.zone): np.sign(each.difference.value) for each in every if each.significant}
    assert signs[("importance", "one", "everywhere")] == 1 and signs[("importance", "two", "everywhere")] == -1
    assert signs[("importance", "two", "north")] == -1 and signs[("response", "b", "everywhere")] == -1
    assert signs[("response", "b", "south")] == -1 and signs[("response", "a", "everywhere")] == 1
    assert not any(of == "rest" for _, of, _ in signs)
    two = next(each for each in every if (each.name, each.zone) == ("two", "everywhere"))
    assert np.isnan(two.ratio.value) and two.observed.low > 0.3 and abs(two.modelled.value) < 0.05
    assert (two.observed_rank.value, two.modelled_rank.low) == (1, 2)
    one = next(each for each in every if (each.name, each.zone) == ("one", "everywhere"))
    assert one.ratio.low < 4 < one.ratio.high  # twice the effect, four times the squared error
    assert [each.statistic for each in every] == sorted((each.statistic for each in every), reverse=True)
    assert np.nanmean(found["r2"], axis=0) == pytest.approx([0.7, 0.8], abs=0.2)


@pytest.mark.slow
def test_what_a_model_exaggerates_does_not_make_the_rest_seem_less():
    """Carbon that log_target twice as much to one driver, and to the other as it should: one mismatch, not two."""
    every, _ = compared(lambda x: 2 * np.tanh(x[:, 0]) + 0.7 * x[:, 1])
    assert {(each.name, each.difference.value > 0) for each in every if each.significant and each.kind == "importance"} == {
        ("one", True)
    }
    assert not any(each.significant for each in every if each.name in ("two", "b", "rest"))


@pytest.mark.slow
def test_nothing_is_significant_of_a_model_that_follows_the_same_relationship():
    every, _ = compared(lambda x: np.tanh(x[:, 0]) + 0.7 * x[:, 1])
    assert len(every) == 15 and not any(each.significant for each in every)


def test_targets_without_skill_are_left_out_and_refits_repeat():
    here = study(lambda x: x[:, 0])
    once, again = refit(here, "forest", 3, [0]), refit(here, "forest", 3, [0])
    assert all(np.array_equal(once[name], again[name], equal_nan=True) for name in once)
    assert np.isnan(once["permutation"][1]).all() and np.isfinite(once["permutation"][0]).all()
    assert once["impurity"][0, 4:] == pytest.approx(
        [once["impurity"][0, 0], once["impurity"][0, 1], once["impurity"][0, 2:4].sum()]
    )


def test_noise_is_added_to_models_alone_and_anew_for_each_pair():
    here = study(lambda x: x[:, 0])
    here = Study(**{**vars(here), "residuals": np.ones(len(here.x)), "factors": np.array([0.0, 0.5])})
    assert np.array_equal(noisy_target(here, 0, 0), here.z[0])
    first, pair, other = (noisy_target(here, 1, number) for number in (0, 1, 2))
    assert np.array_equal(first, pair) and not np.array_equal(first, other)
    assert set(np.round(first - here.z[1], 6)) == {-0.5, 0.5}


def test_models_are_summarised_together():
    random = np.random.default_rng(0)
    sizes = np.array([[3.0, 1.0], [6.0, 1.0], [3.0, 0.2]])  # the observations, and two models: two drivers
    drivers = sizes + 0.1 * random.normal(size=(40, 3, 2))
    found = {"conditional": np.concatenate([np.zeros((40, 3, 1)), drivers], axis=2), "quarter_conditional": drivers}
    every = contrasts(found | {"curves": np.zeros((40, 3, 0, 11))}, [(1, "A"), (2, "B")], ["heat", "rock"], [], [], 0.95)
    table = _ensemble(every, ["A", "B"]).set_index("driver")
    assert table.index.tolist() == ["heat", "rock"] and (table["models"] == 2).all()
    assert table[["observed", "mean", "low", "high"]].to_numpy() == pytest.approx(
        np.array([[3, 4.5, 3, 6], [1, 0.6, 0.2, 1]]), abs=0.1
    )
    assert table[["above", "below", "observed_rank", "mean_rank"]].to_numpy().tolist() == [[1, 0, 1, 1], [0, 1, 2, 2]]


def test_significance_is_of_half_samples_while_sizes_are_extrapolated():
    random = np.random.default_rng(0)
    drivers = np.array([[3.0, 1.0], [3.5, 1.0]]) + 0.1 * random.normal(size=(40, 2, 2))
    found = {"conditional": drivers, "curves": np.zeros((40, 2, 0, 11))}
    plain, lifted = (
        contrasts(found | {"quarter_conditional": quarters}, [(1, "m")], ["heat", "rock"], [], [], 0.95)
        for quarters in (drivers, 0.9 * drivers + 0.1 * random.normal(size=drivers.shape))
    )
    assert [each.statistic for each in plain] == [each.statistic for each in lifted] and plain[0].statistic > 1
    assert plain[0].observed.value == pytest.approx(3, abs=0.1) and lifted[0].observed.value == pytest.approx(3 * 1.241, abs=0.1)
