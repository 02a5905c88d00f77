"""What all baselines do, and leaks planted for the tuning to fall for."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from simulated import make, on_line

from soilcarbon.benchmark.baselines import InverseDistance, Known, Mean
from soilcarbon.benchmark.forests import Forest
from soilcarbon.benchmark.tuning import BASELINES, Baseline, held_out_predictions, tune
from soilcarbon.stats.groups import inner_folds

# --- what all of them do -----------------------------------------------------------------------------------------


def test_every_method_has_the_same_small_budget_and_its_own_label():
    assert all(1 <= len(each.candidates) <= 4 for each in BASELINES.values())
    assert len({each.label for each in BASELINES.values()}) == len(BASELINES)
    assert next(iter(BASELINES)) == "mean"
    for each in BASELINES.values():
        names = {one.name for one in dataclasses.fields(each.method)}
        assert {name for candidate in each.candidates for name in candidate} <= names
        assert set(each.fixed) | set(each.while_tuning) <= names


@pytest.mark.parametrize("key", [key for key in BASELINES if key != "mean"])
def test_every_method_beats_the_mean_and_reads_no_target_of_the_places(key, known, places, world):
    blind = dataclasses.replace(places, y=np.full(len(places), np.nan))
    predicted = make(key, world).fit(known, 0).predict(blind)
    assert predicted.shape == (len(places),) and predicted.dtype == np.float64
    assert predicted.min() >= 0 and predicted.max() <= max(known.y.max(), world.y.max())
    error, of_mean = np.abs(predicted - places.y).mean(), np.abs(known.y.mean() - places.y).mean()
    assert error < 0.75 * of_mean


@pytest.mark.parametrize("key", BASELINES)
def test_the_same_seed_gives_the_same_predictions_whatever_the_order_of_the_places(key, known, places, world):
    first, again = (make(key, world).fit(known, 7) for _ in range(2))
    order = np.random.default_rng(0).permutation(len(places))
    assert again.predict(places.take(order)) == pytest.approx(first.predict(places)[order], rel=1e-9)


def test_another_seed_grows_another_forest(known, places):
    assert np.ptp([make("forest").fit(known, seed).predict(places)[0] for seed in (0, 1)]) > 0


@pytest.mark.parametrize("key", BASELINES)
@pytest.mark.parametrize(
    "case", ["eight in one unit", "constant target", "column of NaN", "nothing but NaN", "one profile", "one place", "zeros"]
)
def test_few_or_dull_profiles_are_no_trouble(key, case, known, places, world):
    few = known.take(slice(8 if case == "eight in one unit" else 30))
    if case == "eight in one unit":
        few = dataclasses.replace(few, units=np.zeros(8, np.int64))
    elif case == "constant target":
        few = dataclasses.replace(few, y=np.full(30, 12.5))
    elif case in ("column of NaN", "nothing but NaN"):
        few = dataclasses.replace(few, x=np.where(np.isin(np.arange(6), 1) | (case[0] == "n"), np.float32(np.nan), few.x))
    elif case == "one profile":
        few = few.take(slice(1))
    elif case == "one place":
        few = dataclasses.replace(few, lon=np.full(30, 10.0), lat=np.full(30, 50.0))
    else:
        few = dataclasses.replace(few, y=np.zeros(30))
    of_the_world = None if case in ("constant target", "zeros") else world
    predicted = make(key, of_the_world).fit(few, 0).predict(places)
    assert np.isfinite(predicted).all() and (predicted >= 0).all()
    if case in ("constant target", "zeros"):
        assert predicted == pytest.approx(few.y[0])


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_a_target_that_none_can_learn_from_is_named(wrong, known):
    y = known.y.copy()
    y[[3, 5]] = wrong
    with pytest.raises(ValueError, match=f"2 of 300 targets are not, first {wrong:g}"):
        Forest().fit(dataclasses.replace(known, y=y), 0)


def test_no_profiles_and_columns_of_unequal_length_are_refused(known):
    with pytest.raises(ValueError, match="there are no profiles"):
        Mean().fit(known.take(slice(0)), 0)
    with pytest.raises(ValueError, match=r"lon \(299,\) must have one value for each of the 300 rows"):
        dataclasses.replace(known, lon=known.lon[1:])
    with pytest.raises(ValueError, match="must be profiles by covariates"):
        dataclasses.replace(known, x=known.x[:, 0])


@pytest.mark.parametrize("key", ["ridge", "boosting", "kriging"])
def test_predictions_stay_within_zero_and_the_largest_target_however_far_the_covariates_lie(key, known, places):
    method = make(key).fit(known, 0)
    for far in (100, -100):
        predicted = method.predict(dataclasses.replace(places, x=places.x + np.float32(far)))
        assert predicted.min() >= 0 and predicted.max() <= known.y.max()


# --- tuning ------------------------------------------------------------------------------------------------------


def test_held_out_profiles_are_predicted_by_a_fit_that_did_not_see_their_fold():
    known = on_line(np.arange(6), [1, 2, 3, 4, 5, 6])
    predicted = held_out_predictions(Mean, known, np.array([0, 0, 1, 1, 5, 5]), 0)
    assert predicted.tolist() == [4.5, 4.5, 3.5, 3.5, 2.5, 2.5]
    with pytest.raises(ValueError, match="two or more"):
        held_out_predictions(Mean, known, np.zeros(6), 0)
    with pytest.raises(ValueError, match="one for each of 6"):
        held_out_predictions(Mean, known, np.arange(5), 0)


@dataclasses.dataclass
class Memoriser:
    """Returns the target of the nearest profile within `reach` degrees, else 0; of a long reach, the mean."""

    reach: float = 0.0

    def fit(self, known, seed):  # noqa: ARG002 - one interface
        self.seen = known
        return self

    def predict(self, places):
        apart = np.abs(places.lon[:, None] - self.seen.lon)
        near = np.where(apart.min(1) <= self.reach, self.seen.y[apart.argmin(1)], 0)
        return near if self.reach < 100 else np.full(len(places), self.seen.y.mean())


def test_a_candidate_that_memorises_loses(known, monkeypatch):
    candidates = ({"reach": 1e-9}, {"reach": 500.0})
    monkeypatch.setitem(BASELINES, "leak", Baseline("leak", "", Memoriser, candidates))
    method, facts = tune("leak", known, 0)
    assert np.abs(Memoriser(1e-9).fit(known, 0).predict(known) - known.y).max() == 0
    assert facts["settings"] == {"reach": 500.0} and method.reach == 500.0


def test_twins_in_one_unit_do_not_help_a_memoriser(known, monkeypatch):
    twins = known.take(np.repeat(np.arange(len(known)), 2))
    monkeypatch.setitem(BASELINES, "leak", Baseline("leak", "", Memoriser, ({"reach": 1e-9}, {"reach": 500.0})))
    assert tune("leak", twins, 0)[1]["settings"] == {"reach": 500.0}
    parted = dataclasses.replace(twins, units=np.arange(len(twins)))  # as it would be, were units not kept whole
    assert tune("leak", parted, 0)[1]["settings"] == {"reach": 1e-9}


def test_tuning_takes_the_lowest_error_over_all_held_out_profiles_and_fits_to_all(known, places):
    method, facts = tune("idw", known, 3)
    folds = inner_folds(known.units, 3, 3)
    expected = []
    for each in BASELINES["idw"].candidates:
        predicted = held_out_predictions(partial(InverseDistance, **each), known, folds, 0)
        expected.append(np.abs(predicted - known.y).mean())
    assert [each["mae"] for each in facts["candidates"]] == pytest.approx(expected)
    assert facts["settings"] == BASELINES["idw"].candidates[int(np.argmin(expected))]
    assert facts["folds"] == 3
    again = InverseDistance(**facts["settings"]).fit(known, 0).predict(places)
    assert method.predict(places).tolist() == again.tolist()


def test_tuning_is_reproducible_and_chooses_with_fewer_trees_than_it_fits(known, places, world):
    few, there = known.take(slice(50)), world.take(slice(60))
    (method, facts), (again, same) = (tune("forest_world_log", few, 5, world=there) for _ in range(2))
    assert facts == same and method.predict(places).tolist() == again.predict(places).tolist()
    assert method.log and method.trees == 100 and len(method.world) == 60
    assert facts["settings"]["share"] == method.share


def test_the_worlds_profiles_in_the_regions_units_are_left_out(known, world):
    pairs = zip(dataclasses.astuple(known), dataclasses.astuple(world), strict=True)
    method, _ = tune("forest_world", known.take(slice(7)), 0, world=Known(*map(np.concatenate, pairs)))
    outside = ~np.isin(np.r_[known.units, world.units], known.units[:7])
    assert len(method.world) == outside.sum() < 700
    assert not np.isin(method.world.units, known.units[:7]).any()


def test_classes_reach_ridge_and_only_ridge(known):
    assert tune("ridge", known, 0, classes=(5,))[0].classes == (5,)
    assert tune("mean", known, 0, classes=(5,), n_jobs=2)[1]["settings"] == {}


@pytest.mark.parametrize("key", BASELINES)
def test_of_one_unit_the_first_candidate_is_taken_untried(key, known, world):
    one_unit = dataclasses.replace(known.take(slice(9)), units=np.zeros(9, np.int64))
    _, facts = tune(key, one_unit, 0, world=world.take(slice(50)))
    assert facts["settings"] == BASELINES[key].candidates[0] and facts["folds"] == 0
    assert [each["mae"] for each in facts["candidates"]] == [None] * len(BASELINES[key].candidates)


def test_of_eight_profiles_a_candidate_is_chosen_of_seven_none(known):
    apart = dataclasses.replace(known, units=np.arange(len(known)))
    assert [tune("idw", apart.take(slice(n)), 0)[1]["folds"] for n in (7, 8)] == [0, 3]


def test_what_cannot_be_tuned_is_named(known):
    with pytest.raises(ValueError, match="baseline 'forrest': expected one of mean, idw"):
        tune("forrest", known, 0)
    with pytest.raises(ValueError, match="inner = 1 folds"):
        tune("mean", known, 0, inner=1)
