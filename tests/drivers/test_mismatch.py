"""Intervals from random halves are as wide as theory says, and what is named is not chance."""

import numpy as np
import pytest

from soilcarbon.categories import Category
from soilcarbon.drivers.importance import strata_of
from soilcarbon.drivers.learners import answers, efficiency, flipped, matching_noise
from soilcarbon.drivers.mismatch import contrasts, distance_of, effects, interval, ranks_of, ratio_of
from soilcarbon.drivers.responses import density, grid_of
from soilcarbon.drivers.subsampling import BUDGETS, Budget, Study, endless, halves_of, noisy, quarters_of, refit
from soilcarbon.stats.groups import spatial_groups


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(BUDGETS, "boosting", Budget(400, 60, 3, 4))


def refits(values, units, count=400, seed=1):
    """Return the mean of values over the half that each refit learns from."""
    return np.array([values[halves_of(units, seed, number)[0]].mean() for number in range(count)])


def test_halves_are_whole_blocks_and_pairs_swap_them():
    units = np.repeat(np.arange(40), 5)
    first, second = halves_of(units, 7, 0), halves_of(units, 7, 1)
    assert np.array_equal(first[0], second[1]) and np.array_equal(first[1], second[0])
    assert not set(units[first[0]]) & set(units[first[1]]) and len(set(units[first[0]])) == 20
    assert not np.array_equal(first[0], halves_of(units, 7, 2)[0])
    assert not np.array_equal(first[0], halves_of(units, 8, 0)[0])


def test_quarters_make_up_the_half_that_is_learnt_from():
    here = study(lambda x: x[:, 0])
    learnt, judged = halves_of(here.units, here.seed, 3)
    first, second = quarters_of(here, learnt, 3)
    assert np.array_equal(np.sort(np.concatenate([first, second])), learnt)
    assert not set(here.units[first]) & set(here.units[second]) and not set(first) & set(judged)
    assert abs(len(set(here.units[first])) - len(set(here.units[second]))) <= 1
    assert not np.array_equal(first, quarters_of(here, learnt, 5)[0])


def test_a_shortfall_that_shrinks_with_the_root_of_profiles_is_made_up_for():
    truth, short = np.array([[2.0, 0.5]]), np.array([[0.3, 0.2]])
    found = {"conditional": np.concatenate([[[9.0]], truth - short / 2**0.5], axis=1), "quarter_conditional": truth - short}
    lifted = endless(found)["conditional"]
    assert lifted[:, 1:] == pytest.approx(truth)
    assert lifted[0, 0] == 9 and found["conditional"][0, 1] < 2  # variables, and what was given, are left as they are


def test_importance_is_told_as_endless_profiles_would_have_taught_it():
    """Halves learn a driver's effect in part; told is more than that, and the interval holds the truth."""
    for seed in range(4):
        here = study(lambda x: x[:, 0], seed)
        parts = [refit(here, "boosting", number, [0]) for number in range(14)]
        found = {name: np.stack([part[name] for part in parts]) for name in ("conditional", "quarter_conditional")}
        truth = 2 * 0.7**2 * _within(here)
        halves, lifted = (interval(each["conditional"][:, 0, 5], 0.95) for each in (found, endless(found)))
        assert halves.value < lifted.value and lifted.low <= truth <= lifted.high
        assert lifted.high - lifted.low < 2.5 * (halves.high - halves.low) < 1.2 * truth


def _within(here):
    """Return the variance of the second variable within its strata."""
    strata, column = here.strata[5], here.x[:, 1]
    return np.mean([column[strata == each].var(ddof=1) for each in strata])


def test_the_spread_over_halves_is_the_standard_error_of_the_whole():
    random = np.random.default_rng(0)
    blocks = random.normal(size=200)
    units = np.repeat(np.arange(200), 10)  # ten places of a block are one observation
    values = blocks[units]
    found = interval(refits(values, units), 0.95)
    assert found.value == pytest.approx(blocks.mean(), abs=0.02)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * blocks.std() / np.sqrt(200), rel=0.1)


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


def test_fiellers_interval_holds_the_ratios_that_the_spread_does_not_rule_out():
    random = np.random.default_rng(0)
    modelled, observed = 4 + random.normal(0, 0.5, 40), 2 + random.normal(0, 0.3, 40)
    found = ratio_of(modelled, observed, 0.95)
    assert found.value == pytest.approx(modelled.mean() / observed.mean())
    for end in (found.low, found.high):  # there, modelled - ratio * observed is just told apart from 0
        one = interval(modelled - end * observed, 0.95)
        assert min(abs(one.low), abs(one.high)) == pytest.approx(0, abs=1e-9)


def test_ranks_are_of_the_mean_and_their_intervals_of_refits():
    random = np.random.default_rng(0)
    values = np.array([1.0, 5.0, 4.9]) + 0.5 * random.normal(size=(200, 3))
    values[:, 1] += 4.9 + 0.05 - values[:, 1].mean()
    values[:, 2] += 4.9 - values[:, 2].mean()
    assert [tuple(vars(each).values()) for each in ranks_of(values, 0.95)] == [(3, 3, 3), (1, 1, 2), (2, 1, 2)]


def test_the_distance_of_like_curves_is_not_their_noise():
    random = np.random.default_rng(0)
    weights = np.full(11, 1 / 11)
    noise = random.normal(0, 0.5, (100, 11))
    assert distance_of(noise, weights, 0.95).value < 0.1
    assert distance_of(noise + 0.4, weights, 0.95).value == pytest.approx(0.4, abs=0.05)


def test_effects_are_over_the_middle_of_places():
    weights = np.full(21, 1 / 21)
    assert effects(np.arange(21.0), weights) == pytest.approx(18)


# --- answers and noise ---------------------------------------------------------------------------------------------------


def test_answers_do_not_know_units_or_levels():
    y = np.random.default_rng(0).lognormal(size=500)
    assert answers(y) == pytest.approx(answers(0.39 * y))
    assert answers(y).mean() == pytest.approx(0, abs=1e-9)
    large = y > 3  # far above the floor, twice the carbon is ln 2 more
    assert answers(np.append(y, 2 * y[large]))[500:] - answers(np.append(y, 2 * y[large]))[:500][large] == pytest.approx(
        np.log(2), abs=0.02
    )
    assert np.isfinite(answers(np.append(y, 0.0))).all()
    for wrong in (np.zeros(5), np.ones(5), np.array([1.0, np.nan]), np.array([1.0, -1.0])):
        with pytest.raises(ValueError, match="zero|alike|finite"):
            answers(wrong)


def test_flipped_residuals_keep_size_and_block_but_lose_their_cause():
    random = np.random.default_rng(0)
    units = np.repeat(np.arange(500), 4)
    residuals = np.repeat(random.normal(size=500), 4) + 1
    found = flipped(residuals, units, [1])
    assert np.array_equal(np.abs(found), np.abs(residuals))
    assert all(len(set(np.sign(found[units == unit] * residuals[units == unit]))) == 1 for unit in range(20))
    assert abs(np.corrcoef(found, residuals)[0, 1]) < 0.15


def simple(n=600, seed=0):
    """Return covariates, places, and a law of the first two of them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4)).astype(np.float32)
    return x, random.uniform(-60, 60, n), random.uniform(-40, 40, n), np.tanh(x[:, 0]) + 0.7 * x[:, 1]


CATEGORY = (Category(name="all", variables=("a", "b", "c", "d")),)


def test_noise_makes_a_model_as_hard_to_learn_as_observations():
    x, lon, lat, law = simple()
    random = np.random.default_rng(1)
    units = spatial_groups(lon, lat, 5)
    folds = units % 5
    residuals = 0.7 * random.normal(size=len(law))
    found = {}
    for scale in (1, 3):  # a model whose carbon varies more needs more noise
        found[scale], r2 = matching_noise("boosting", x, scale * law, CATEGORY, folds, units, residuals, 0.6, 0)
        assert r2 == pytest.approx(0.6, abs=0.03)
    assert 0.5 < found[1] < 2 and found[3] == pytest.approx(3 * found[1], rel=0.1)
    factor, _ = matching_noise("boosting", x, law + 3 * residuals, CATEGORY, folds, units, residuals, 0.6, 0)
    assert factor == 0


def study(model, seed=0):
    """Return a study of a law with noise and of a model."""
    x, lon, lat, law = simple(seed=seed)
    random = np.random.default_rng([seed, 1])
    z = np.stack([law + 0.5 * random.normal(size=len(law)), model(x) + 0.5 * random.normal(size=len(law))])
    curves = tuple((k, grid_of(x[:, k]), density(x[:, k], grid_of(x[:, k]))) for k in (0, 1))
    drivers = {"one": np.array([0]), "two": np.array([1]), "rest": np.array([2, 3])}
    units = spatial_groups(lon, lat, 5)
    zones = {"north": lat > 0, "south": lat <= 0}
    own = np.stack([strata_of(x, columns, np.zeros(4, bool), seed) for columns in drivers.values()])
    strata = np.concatenate([np.zeros((4, len(law)), np.int64), own])
    by_zone = np.stack([own, own])
    return Study(x, CATEGORY, z, np.zeros(len(law)), np.zeros(2), units, drivers, strata, by_zone, curves, None, zones, seed)


def named(model, count=14, seed=0):
    here = study(model, seed)
    parts = [refit(here, "boosting", number, [0, 1]) for number in range(count)]
    found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    weights = [(name, np.stack([each[2]] * 3)) for name, each in zip("ab", here.curves, strict=True)]
    return contrasts(found, [(1, "model")], list(here.drivers), list(here.zones), weights, 0.95), found


def test_what_a_model_lacks_and_what_it_overdoes_are_named_with_their_sign():
    every, found = named(lambda x: 2 * np.tanh(x[:, 0]) + 0.0 * x[:, 1])
    signs = {(each.kind, each.of, each.zone): np.sign(each.difference.value) for each in every if each.named}
    assert signs[("importance", "one", "everywhere")] == 1 and signs[("importance", "two", "everywhere")] == -1
    assert signs[("importance", "two", "north")] == -1 and signs[("response", "b", "everywhere")] == -1
    assert signs[("response", "b", "south")] == -1 and signs[("response", "a", "everywhere")] == 1
    assert not any(of == "rest" for _, of, _ in signs)
    two = next(each for each in every if (each.of, each.zone) == ("two", "everywhere"))
    assert np.isnan(two.ratio.value) and two.observed.low > 0.3 and abs(two.modelled.value) < 0.05
    assert (two.observed_rank.value, two.modelled_rank.low) == (1, 2)
    one = next(each for each in every if (each.of, each.zone) == ("one", "everywhere"))
    assert one.ratio.low < 4 < one.ratio.high  # twice the effect, four times the squared error
    assert [each.strength for each in every] == sorted((each.strength for each in every), reverse=True)
    assert np.nanmean(found["r2"], axis=0) == pytest.approx([0.7, 0.8], abs=0.2)


def test_what_a_model_overdoes_does_not_make_the_rest_seem_less():
    """Carbon that answers twice as much to one driver, and to the other as it should: one mismatch, not two."""
    every, _ = named(lambda x: 2 * np.tanh(x[:, 0]) + 0.7 * x[:, 1])
    assert {(each.of, each.difference.value > 0) for each in every if each.named and each.kind == "importance"} == {("one", True)}
    assert not any(each.named for each in every if each.of in ("two", "b", "rest"))


def test_nothing_is_named_of_a_model_that_obeys_the_same_law():
    every, _ = named(lambda x: np.tanh(x[:, 0]) + 0.7 * x[:, 1])
    assert len(every) == 15 and not any(each.named for each in every)


def test_targets_without_skill_are_not_asked_and_refits_repeat():
    here = study(lambda x: x[:, 0])
    once, again = refit(here, "forest", 3, [0]), refit(here, "forest", 3, [0])
    assert all(np.array_equal(once[name], again[name], equal_nan=True) for name in once)
    assert np.isnan(once["permutation"][1]).all() and np.isfinite(once["permutation"][0]).all()
    assert once["impurity"][0, 4:] == pytest.approx(
        [once["impurity"][0, 0], once["impurity"][0, 1], once["impurity"][0, 2:4].sum()]
    )
    assert efficiency(here.z[0], here.z[0]) == 1


def test_noise_is_added_to_models_alone_and_anew_for_each_pair():
    here = study(lambda x: x[:, 0])
    here = Study(**{**vars(here), "residuals": np.ones(len(here.x)), "factors": np.array([0.0, 0.5])})
    assert noisy(here, 0, 0) is not None and np.array_equal(noisy(here, 0, 0), here.z[0])
    assert np.array_equal(noisy(here, 1, 0), noisy(here, 1, 1)) and not np.array_equal(noisy(here, 1, 0), noisy(here, 1, 2))
    assert set(np.round(noisy(here, 1, 0) - here.z[1], 6)) == {-0.5, 0.5}


def test_models_are_summarised_together():
    from soilcarbon.drivers.facts import _ensemble

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


def test_naming_asks_halves_while_sizes_make_up_for_what_they_lack():
    random = np.random.default_rng(0)
    drivers = np.array([[3.0, 1.0], [3.5, 1.0]]) + 0.1 * random.normal(size=(40, 2, 2))
    found = {"conditional": drivers, "curves": np.zeros((40, 2, 0, 11))}
    plain, lifted = (
        contrasts(found | {"quarter_conditional": quarters}, [(1, "m")], ["heat", "rock"], [], [], 0.95)
        for quarters in (drivers, 0.9 * drivers + 0.1 * random.normal(size=drivers.shape))
    )
    assert [each.strength for each in plain] == [each.strength for each in lifted] and plain[0].strength > 1
    assert plain[0].observed.value == pytest.approx(3, abs=0.1) and lifted[0].observed.value == pytest.approx(3 * 1.241, abs=0.1)
