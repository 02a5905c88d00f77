"""Choice of a learner: the rule on hand-made errors, folds that split nothing, nothing of a held-out profile in its prediction."""

import numpy as np
import pytest
from conftest import slow_but, tiny_models
from simulated import make_samples

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.regression import estimators, selection
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.learners import LEARNERS, Task, fit_parts
from soilcarbon.regression.model import MEANS, FittedModel
from soilcarbon.regression.selection import (
    cross_validate,
    draw_folds,
    given,
    hold_out,
    in_unit,
    jackknife,
    select,
    smearing,
    suitable,
)
from soilcarbon.stats.groups import check_no_leak, spatial_groups
from soilcarbon.stats.variogram import Variogram

pytestmark = pytest.mark.usefixtures("small_learners")

CATEGORIES = (
    Category(name="relief", variables=("a", "b", "c", "d", "e")),
    Category(name="rock", variables=("rock",), kind="classes"),
)
TASK = Task(CATEGORIES, block_size=0.5)
FOLDS = np.repeat(np.arange(5), 20)


def predicted(*errors, noise=0.0, seed=0, keys=("mean", "ridge", "boosting")):
    """Return observations, and learner -> predictions whose error in each fold has a given size."""
    random, y = np.random.default_rng(seed), np.linspace(5, 30, 100)
    sign = random.choice([-1, 1], 100)
    found = {}
    for key, each in zip(keys, errors, strict=False):
        size = np.asarray(each, float)[FOLDS] if np.ndim(each) else np.full(100, float(each))
        found[key] = y + sign * (size + noise * random.uniform(-1, 1, 100))
    return y, found


# --- the rule ----------------------------------------------------------------------------------------------------------------


def test_the_best_is_chosen_where_it_is_better_in_every_fold():
    y, each = predicted(8, 4, [3, 3.1, 2.9, 3, 3])
    found = select(y, each, FOLDS)
    assert found.chosen == "boosting"
    assert found.table["difference"].tolist() == pytest.approx([5, 1, 0])
    assert found.table["within"].tolist() == [False, False, True]
    assert "boosting: MAE 3 " in found.reason and "62 % below the mean's" in found.reason


def test_a_simpler_learner_within_one_standard_error_is_preferred():
    y, each = predicted(8, [3.2, 2.8, 3.2, 2.8, 3.1], [3, 3, 3, 3, 3])
    found = select(y, each, FOLDS)  # differences of 0.2, -0.2, 0.2, -0.2, 0.1: mean 0.02, standard error 0.092
    row = found.table.set_index("model").loc["ridge"]
    assert (row["difference"], row["difference_se"]) == pytest.approx((0.02, np.std([0.2, -0.2, 0.2, -0.2, 0.1], ddof=1) / 5**0.5))
    assert found.chosen == "ridge"
    assert (
        "the lowest, boosting's, is 0.02 less, within one standard error of the difference (0.092) and 1 %, and ridge is simpler"
        in found.reason
    )
    y, each = predicted(8, [3.2, 3.1, 3.2, 3.1, 3.3], [3, 3, 3, 3, 3])
    assert select(y, each, FOLDS).chosen == "boosting"


def test_no_more_than_one_per_cent_is_given_up_for_the_simpler():
    y, each = predicted(8, [3.4, 2.7, 3.4, 2.7, 3.0], [3, 3, 3, 3, 3])
    row = select(y, each, FOLDS).table.set_index("model").loc["ridge"]
    assert row["difference"] == pytest.approx(0.04) and row["difference"] < row["difference_se"]
    assert not row["within"] and select(y, each, FOLDS).chosen == "boosting"
    y, each = predicted(8, [3.4, 2.7, 3.4, 2.7, 2.9], [3, 3, 3, 3, 3])  # 0.02 of 3
    assert select(y, each, FOLDS).chosen == "ridge"


@pytest.fixture(params=["forest", "regression-kriging", "stack"])
def preferred(request):
    """The learner that others must surely beat: kriging where there is no stack, the forest where there is no kriging."""
    return request.param


def against(preferred, ridge, mean=8, boosting=4):
    """Return observations and errors of size 3 of a preferred learner, and of others by fold."""
    y, each = predicted(mean, ridge, boosting)
    each[preferred] = y + np.where(np.arange(100) % 2, 3.0, -3.0)
    for other in {"forest": (), "regression-kriging": ("forest",), "stack": ("forest", "regression-kriging")}[preferred]:
        each[other] = each["boosting"]  # where both are there, it is not preferred
    return y, {key: each[key] for key in LEARNERS if key in each}


def test_another_than_the_preferred_is_chosen_if_it_is_surely_better_and_not_if_it_was_lucky(preferred):
    y, each = against(preferred, [2.5, 2.6, 2.4, 2.5, 2.5])
    found = select(y, each, FOLDS)  # 0.5 less, standard error 0.03
    assert found.chosen == "ridge" and f"surely (95 %) lower than {preferred}'s" in found.reason
    y, each = against(preferred, [2.0, 3.4, 2.1, 3.3, 2.9])  # 0.26 less, standard error 0.29: in one fold it may fail
    found = select(y, each, FOLDS)
    assert found.chosen == preferred and "the lowest, ridge's, is 0.26 less; no other is surely" in found.reason
    y, each = against(preferred, [3.01] * 5)  # simpler, and 0.3 % worse
    assert select(y, each, FOLDS).chosen == preferred
    assert f"the lowest of {len(each)}; no other" in select(y, each, FOLDS).reason


def test_of_several_that_are_surely_better_than_the_preferred_the_surest_is_chosen(preferred):
    y, each = against(preferred, [2.6] * 5, boosting=[2.9, 2.1, 2.9, 2.1, 2.5])  # 0.4 less, and 0.5, standard error 0.18
    found = select(y, each, FOLDS)
    assert found.table.set_index("model").at["boosting", "difference"] == 0
    assert found.chosen == "ridge"


def test_none_is_preferred_that_is_no_better_than_the_mean(preferred):
    y, each = against(preferred, 3.5, mean=[2.8, 3.2, 2.7, 3.1, 3.1])  # 2.98: not surely less than 3
    found = select(y, each, FOLDS)
    assert found.chosen == "mean" and found.reason.endswith("the covariates do not predict the target here")


def test_the_mean_can_win_and_the_reason_says_so():
    y, each = predicted([5, 5, 5, 5, 5], [6, 4.9, 5.5, 5, 5.2])
    found = select(y, each, FOLDS)
    assert found.chosen == "mean" and found.reason.endswith("the covariates do not predict the target here")


def test_a_learner_that_the_user_names_is_taken_with_its_score_beside_the_means():
    y, each = predicted(5, 6)
    found = given(select(y, each, FOLDS), "ridge")
    assert found.chosen == "ridge" and "as set: MAE 6" in found.reason and found.reason.endswith("the mean's is 5, lower")
    assert found.table.set_index("model")["chosen"].to_dict() == {"mean": False, "ridge": True}


def test_jackknife_equals_the_standard_error_of_fold_means_and_is_unknown_of_one_fold():
    values = np.random.default_rng(0).normal(size=100)
    means = values.reshape(5, 20).mean(1)
    assert jackknife(values, FOLDS) == pytest.approx(means.std(ddof=1) / 5**0.5)
    assert np.isnan(jackknife(values, np.zeros(100, int)))


# --- folds -------------------------------------------------------------------------------------------------------------------


def test_folds_are_of_the_datasets_blocks():
    samples = make_samples(200)
    folds, side, facts = draw_folds(samples, TASK, 5)
    assert (side, facts["strategy"]) == (0.5, "blocks")
    check_no_leak(folds, spatial_groups(samples.X[:, 0], samples.X[:, 1], 0.5))


def test_without_blocks_their_side_is_the_range_of_residuals():
    samples = make_samples(200)
    folds, side, facts = draw_folds(samples, Task(CATEGORIES), 5)
    assert side == facts["block_size"] and facts["range_km"] > 0
    check_no_leak(folds, spatial_groups(samples.X[:, 0], samples.X[:, 1], side))


def test_too_few_blocks_make_folds_of_places_and_say_so(caplog):
    samples = make_samples(60)
    X = samples.X.copy()
    X[:, :2] = [10, 50] + np.random.default_rng(0).integers(0, 5, (60, 2)) * 0.005  # several profiles at a place, all within 2 km
    folds, side, facts = draw_folds(samples._replace(X=X), Task(CATEGORIES, block_size=4.0), 5)
    assert side is None and facts["strategy"] == "place" and "2 groups" in facts["no_blocks"]
    check_no_leak(folds, spatial_groups(X[:, 0], X[:, 1]))
    assert "folds are of places" in caplog.text


def test_one_place_is_refused():
    samples = make_samples(30)
    samples.X[:, :2] = 10.0
    with pytest.raises(UserError, match="30 profiles at 1 place"):
        draw_folds(samples, TASK, 5)


def test_learners_that_do_not_suit_the_number_of_profiles_are_left_out(caplog, monkeypatch):
    assert suitable(list(LEARNERS), make_samples(25)) == [key for key, each in LEARNERS.items() if not each.network]
    monkeypatch.setitem(selection.MOST_PROFILES, "regression-kriging", 50)
    assert "regression-kriging" not in suitable(list(LEARNERS), make_samples(60))
    assert "network: left out; 25 profiles" in caplog.text and "it takes at most 50 profiles, here are 60" in caplog.text


# --- cross-validation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    tiny_models(monkeypatch)


@pytest.mark.parametrize("key", slow_but(LEARNERS, *(key for key in LEARNERS if key != "taught")))  # a stack has the same network
def test_nothing_of_a_held_out_profile_is_in_its_prediction(key, quick):
    samples = make_samples(80)
    folds = draw_folds(samples, TASK, 3)[0]
    out = folds == 1
    honest = hold_out(key, samples, TASK, folds, 1)
    changed = samples.y.copy()
    changed[out] = 900.0  # targets
    np.testing.assert_array_equal(hold_out(key, samples._replace(y=changed), TASK, folds, 1), honest)
    X, one = samples.X.copy(), np.flatnonzero(out)[0]
    X[out & (np.arange(80) != one), 2:7] += 1000.0  # covariates of the others that are held out: no statistics of theirs
    np.testing.assert_array_equal(hold_out(key, samples._replace(X=X), TASK, folds, 1)[0], honest[0])


@pytest.mark.parametrize("key", slow_but(MEANS, "ridge-kriging"))
def test_every_profile_is_predicted_and_a_mean_is_that_of_its_two(key, quick):
    samples = make_samples(80)
    folds = draw_folds(samples, TASK, 3)[0]
    one, other = MEANS[key]
    keys = [each for each in LEARNERS if each in ("mean", one, other, key)]
    found = cross_validate(keys, samples, TASK, folds)
    assert list(found) == keys and all(np.isfinite(each).all() for each in found.values())
    np.testing.assert_array_equal(found[key], (found[one] + found[other]) / 2)
    (facts, parts), *alone = ((facts, parts) for parts, facts in (fit_parts(each, samples, TASK) for each in (key, one, other)))
    expected = np.mean(
        [FittedModel(each, *those).outputs(samples.X) for each, those in zip((one, other), alone, strict=True)], axis=0
    )
    np.testing.assert_allclose(FittedModel(key, facts, parts).outputs(samples.X), expected, rtol=1e-6)


def test_kriging_is_shrunk_by_the_groups_of_the_profiles(quick, monkeypatch):
    samples, given, weights = make_samples(80), [], []
    monkeypatch.setattr(estimators, "fit_variogram", lambda _: Variogram("exponential", 0.1, 1.0, 200.0, True))
    for slope in (1.0, 0.5):
        monkeypatch.setattr(
            estimators, "kriged_from_other_groups", lambda _, values, groups, k=slope: given.append(groups) or values / k
        )
        weights.append(fit_parts("regression-kriging", samples, TASK)[0]["kriged"].weights)
    assert all(each is samples.groups for each in given) and len(given) == 2
    np.testing.assert_allclose(weights[1], weights[0] / 2)


def test_a_learner_that_fails_is_left_out_and_named(monkeypatch, caplog):
    samples = make_samples(60)
    folds = draw_folds(samples, TASK, 3)[0]

    def fails(*_):
        raise ValueError("too few")

    monkeypatch.setattr(selection, "hold_out", lambda key, *rest: fails() if key == "ridge" else hold_out(key, *rest))
    assert list(cross_validate(["mean", "ridge"], samples, TASK, folds)) == ["mean"]
    assert "ridge: left out; too few" in caplog.text


def test_means_are_medians_times_the_smearing_factor_of_the_other_folds():
    random = np.random.default_rng(0)
    y = np.expm1(2 + random.normal(size=300))
    X = np.column_stack([random.uniform(0, 9, (300, 2)), random.normal(size=(300, 5)), np.ones(300)])
    samples, folds = Samples(X, y, np.arange(300)), np.arange(300) % 3
    outputs = np.full(300, 2.0)
    median, mean = (
        in_unit(samples.y, outputs, Task(CATEGORIES, center=center).specify(samples), folds) for center in ("median", "mean")
    )
    assert median == pytest.approx(np.expm1(2.0))
    assert mean[0] == pytest.approx(np.exp(2.0) * smearing(y[folds != 0], outputs[folds != 0], "log1p") - 1)
    assert mean.mean() == pytest.approx(y.mean(), rel=0.05) and median.mean() < 0.7 * y.mean()
