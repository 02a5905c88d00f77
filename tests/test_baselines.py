"""Baselines against numbers worked by hand, dense and plain computations, and leaks planted for the tuning to fall for."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import baselines
from baselines import (
    BASELINES,
    Baseline,
    Boosting,
    Forest,
    InverseDistance,
    Known,
    Mean,
    QuantileForest,
    RegressionKriging,
    RidgeRegression,
    WorldForest,
    held_out_predictions,
    inner_folds,
    krige,
    tune,
)
from validation import split_units
from variogram import KM_PER_DEGREE, Variogram


def haversine(lon, lat, other_lon, other_lat):
    lon, lat, other_lon, other_lat = np.radians(lon), np.radians(lat), np.radians(other_lon), np.radians(other_lat)
    h = np.sin((lat - other_lat) / 2) ** 2 + np.cos(lat) * np.cos(other_lat) * np.sin((lon - other_lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def profiles(n=300, seed=0, centre=(10.0, 50.0), noise=0.2):
    """Return profiles whose ln(y) is smooth in space and in two of six covariates; the last of these is a class."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    wave = np.sin(lon) + np.cos(1.5 * lat)
    x = np.column_stack([wave + 0.3 * random.normal(size=n), random.normal(size=(n, 4)), random.integers(1, 5, n)])
    y = np.exp(2.5 + 0.6 * wave + 0.4 * x[:, 1] + 0.2 * (x[:, 5] == 2) + noise * random.normal(size=n))
    x[random.random(n) < 0.05, 2] = np.nan
    return Known(x.astype(np.float32), y, lon, lat, split_units(lon, lat, "blocks", 0.5))


def on_line(degrees, y, lat=0.0):
    """Return profiles along a parallel, with nothing to learn from but where they lie."""
    degrees = np.asarray(degrees, np.float64)
    n = len(degrees)
    return Known(np.zeros((n, 1), np.float32), np.asarray(y, np.float64), degrees, np.full(n, lat), np.arange(n))


def make(key, world=None, candidate=0, **settings):
    """Return a baseline of few trees."""
    baseline = BASELINES[key]
    given = {**baseline.fixed, **baseline.candidates[candidate], **settings}
    names = {each.name for each in dataclasses.fields(baseline.method)}
    given |= {
        name: value
        for name, value in {"trees": 60 if key == "kriging" else 25, "world": world, "classes": (5,)}.items()
        if name in names
    }
    return baseline.method(**given)


@pytest.fixture(scope="module")
def known():
    return profiles()


@pytest.fixture(scope="module")
def places():
    return profiles(150, seed=1)


@pytest.fixture(scope="module")
def world():
    return profiles(400, seed=2, centre=(40.0, 20.0))


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


# --- distance ----------------------------------------------------------------------------------------------------


def test_mean_is_the_mean():
    assert Mean().fit(on_line([0, 1, 2], [1, 2, 6]), 0).predict(on_line([5, 6], [0, 0])).tolist() == [3, 3]


@pytest.mark.parametrize(("power", "expected"), [(1.0, (10 + 20 / 2) / 1.5), (2.0, (10 + 20 / 4) / 1.25), (3.0, 12.5 / 1.125)])
def test_inverse_distance_by_hand_over_the_date_line(power, expected):
    known = on_line([179.5, -177.5, 60], [10, 20, 900])  # 1 and 2 degrees from -179.5
    method = InverseDistance(power, neighbours=2).fit(known, 0)
    assert method.predict(on_line([-179.5], [0]))[0] == pytest.approx(expected)


def test_inverse_distance_at_a_profile_is_the_mean_of_those_there():
    method = InverseDistance(2.0, neighbours=32).fit(on_line([0, 0, 1], [4, 8, 100]), 0)
    assert method.predict(on_line([0, 1], [0, 0])).tolist() == [6, 100]


def test_inverse_distance_equals_the_sum_over_all_profiles(known, places):
    weight = haversine(places.lon[:, None], places.lat[:, None], known.lon, known.lat) ** -2.0
    predicted = InverseDistance(2.0, neighbours=10_000).fit(known, 0).predict(places)
    assert predicted == pytest.approx(weight @ known.y / weight.sum(1), rel=1e-6)


# --- ridge -------------------------------------------------------------------------------------------------------


def test_ridge_equals_scikit_learns_where_nothing_is_missing_or_far_out(known, places):
    x, at = known.x[:, [0, 1]].clip(-1.5, 1.5), places.x[:, [0, 1]].clip(-1.5, 1.5)
    predicted = RidgeRegression(10.0).fit(dataclasses.replace(known, x=x), 0).predict(dataclasses.replace(places, x=at))
    expected = np.expm1(make_pipeline(StandardScaler(), Ridge(10.0)).fit(x, np.log1p(known.y)).predict(at))
    assert predicted == pytest.approx(expected.clip(0, known.y.max()), rel=1e-4)


def test_ridge_takes_the_mean_for_what_is_missing_and_clips_at_four_standard_deviations(known, places):
    method = RidgeRegression(1.0, classes=(5,)).fit(known, 0)
    mean, std = np.nanmean(known.x[:, 2], dtype=np.float64), np.nanstd(known.x[:, 2], dtype=np.float64)

    def at(value):
        x = places.x.copy()
        x[:, 2] = value
        return method.predict(dataclasses.replace(places, x=x))

    assert at(np.nan) == pytest.approx(at(mean), rel=1e-5)
    assert at(mean + 9 * std) == pytest.approx(at(mean + 4 * std), rel=1e-5)
    assert at(mean + 9 * std) != pytest.approx(at(mean), rel=1e-3)


def test_ridge_learns_classes_whatever_their_codes_and_takes_an_unknown_one_for_none(known, places):
    renamed, method = np.array([0, 77, 3, 1, 50])[known.x[:, 5].astype(int)], RidgeRegression(1.0, classes=(5,))
    plain = method.fit(known, 0).predict(places)
    unknown = method.predict(dataclasses.replace(places, x=np.column_stack([places.x[:, :5], np.full(150, 99.0)])))
    assert np.isfinite(unknown).all()
    other = np.column_stack([known.x[:, :5], renamed])
    code = np.column_stack([places.x[:, :5], np.array([0, 77, 3, 1, 50])[places.x[:, 5].astype(int)]])
    again = RidgeRegression(1.0, classes=(5,)).fit(dataclasses.replace(known, x=other), 0)
    assert again.predict(dataclasses.replace(places, x=code)) == pytest.approx(plain)


# --- forests and boosting ----------------------------------------------------------------------------------------


def test_a_forest_of_logarithms_aims_at_the_median_the_other_at_the_mean():
    random = np.random.default_rng(0)
    y = np.exp(2 + random.normal(size=600))
    dull = Known(np.zeros((600, 1), np.float32), y, np.zeros(600), np.zeros(600), np.arange(600))
    assert Forest(log=False).fit(dull, 0).predict(dull.take(slice(1)))[0] == pytest.approx(y.mean(), rel=0.02)
    median = np.expm1(np.log1p(y).mean())
    assert Forest(log=True).fit(dull, 0).predict(dull.take(slice(1)))[0] == pytest.approx(median, rel=0.02)
    assert median < 0.75 * y.mean()


def test_boosting_adds_all_its_trees_also_where_scikit_learn_would_stop_early():
    random = np.random.default_rng(0)
    x = random.normal(size=(10_500, 1)).astype(np.float32)
    many = Known(x, np.ones(10_500), np.zeros(10_500), np.zeros(10_500), np.arange(10_500))
    assert Boosting(iterations=25).fit(many, 0)._model.n_iter_ == 25


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_regions_share_of_the_weight_is_the_share(share, known, world, monkeypatch):
    weights = []

    class Spy(baselines.RandomForestRegressor):
        def fit(self, x, y, sample_weight=None):
            weights.append(sample_weight)
            return super().fit(x, y, sample_weight=sample_weight)

    monkeypatch.setattr(baselines, "RandomForestRegressor", Spy)
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
    monkeypatch.setattr(baselines, "_CHUNK_VALUES", 5 * len(known))
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


# --- kriging -----------------------------------------------------------------------------------------------------

EXPONENTIAL = Variogram("exponential", 0.0, 2.0, 80.0, True)


@pytest.mark.parametrize("model", ["exponential", "spherical"])
@pytest.mark.parametrize("nugget", [0.0, 0.7])
def test_kriging_equals_a_dense_system(model, nugget, known, places):
    values, places = np.log(known.y) - np.log(known.y).mean(), places.take(slice(30))
    between = haversine(known.lon[:, None], known.lat[:, None], known.lon, known.lat)
    across = haversine(places.lon[:, None], places.lat[:, None], known.lon, known.lat)

    def covariance(km):
        h = km / 80
        return 2 * (np.exp(-h) if model == "exponential" else np.where(h < 1, 1 - 1.5 * h + 0.5 * h**3, 0))

    expected = covariance(across) @ np.linalg.solve(covariance(between) + nugget * np.eye(len(known)), values)
    variogram = Variogram(model, nugget, 2.0, 80.0, True)
    assert krige(variogram, known.lon, known.lat, values, (places.lon, places.lat), 1000) == pytest.approx(expected, abs=1e-5)
    near = krige(variogram, known.lon, known.lat, values, (places.lon, places.lat), 50)
    assert near == pytest.approx(expected, abs=0.1)


def test_kriging_from_one_value_by_hand():
    lon, lat, at = np.array([0.0, 5.0]), np.zeros(2), (np.array([1.0]), np.zeros(1))
    weight = 2 * np.exp(-KM_PER_DEGREE / 80) / (2 + 0.5)
    noisy = dataclasses.replace(EXPONENTIAL, nugget=0.5)
    assert krige(noisy, lon, lat, np.array([3.0, 100]), at, 1)[0] == pytest.approx(3 * weight)


def test_kriging_returns_a_value_at_its_place_less_of_it_with_a_nugget_and_nothing_far_away():
    lon, lat, values = np.array([0.0, 1, 2]), np.array([0.0, 1, 0]), np.array([5.0, -3, 1])
    assert krige(EXPONENTIAL, lon, lat, values, (lon, lat)) == pytest.approx(values, abs=1e-6)
    assert krige(dataclasses.replace(EXPONENTIAL, nugget=2.0), lon, lat, values, (lon, lat))[0] < 3
    assert krige(EXPONENTIAL, lon, lat, values, (np.array([120.0]), np.array([50.0]))) == pytest.approx([0], abs=1e-9)
    assert krige(dataclasses.replace(EXPONENTIAL, sill=0.0), lon, lat, values, (lon, lat)).tolist() == [0, 0, 0]


def test_two_values_of_one_place_are_averaged():
    twins, at = (np.zeros(2), np.zeros(2)), (np.zeros(1), np.zeros(1))
    assert krige(EXPONENTIAL, *twins, np.array([1.0, 4.0]), at)[0] == pytest.approx(2.5, abs=1e-5)


def scattered(n, practical_range, seed):
    """Return profiles whose ln(1 + y) is a field of an exponential covariance that no covariate knows."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(7, 13, n), random.uniform(48, 52, n)
    km = haversine(lon[:, None], lat[:, None], lon, lat)
    field = np.linalg.cholesky(np.exp(-3 * km / practical_range) + 1e-9 * np.eye(n)) @ random.normal(size=n)
    return Known(random.normal(size=(n, 2)).astype(np.float32), np.expm1(3 + 0.6 * field), lon, lat, np.arange(n))


def test_regression_kriging_adds_what_the_residuals_out_of_bag_tell():
    both = scattered(500, 300.0, seed=0)
    known, places = both.take(slice(350)), both.take(slice(350, None))
    kriging, forest = RegressionKriging(trees=60).fit(known, 0), Forest(log=True, trees=60).fit(known, 0)
    residual = np.log1p(known.y) - kriging._forest.oob_prediction_
    correction = krige(kriging.variogram_, known.lon, known.lat, residual, (places.lon, places.lat), 50)
    expected = np.expm1(np.log1p(forest.predict(places)) + correction).clip(0, known.y.max())
    assert kriging.predict(places) == pytest.approx(expected)
    assert 150 < kriging.variogram_.practical_range < 600
    assert np.abs(expected - places.y).mean() < 0.75 * np.abs(forest.predict(places) - places.y).mean()


@pytest.mark.parametrize(("sill", "scale"), [(0.0, 50.0), (0.05, 50.0), (1.0, 0.1)])
def test_residuals_without_structure_are_not_kriged(sill, scale, known, places, monkeypatch):
    monkeypatch.setattr(baselines, "fit_variogram", lambda _, model: Variogram(model, 1.0, sill, scale, True))
    kriging = RegressionKriging(trees=60).fit(known, 0)
    assert kriging.variogram_ is None
    assert kriging.predict(places) == pytest.approx(Forest(log=True, trees=60).fit(known, 0).predict(places))


def test_a_position_that_is_none_is_not_taken_for_a_lack_of_structure(known):
    with pytest.raises(ValueError, match="1 of 300 positions are none"):
        RegressionKriging(trees=60).fit(dataclasses.replace(known, lat=np.r_[95.0, known.lat[1:]]), 0)


# --- tuning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_inner_folds_keep_units_whole_and_are_fewer_where_units_are(seed, known):
    folds = inner_folds(known.units, 3, seed)
    assert np.unique(folds).tolist() == [0, 1, 2]
    assert all(np.unique(folds[known.units == unit]).size == 1 for unit in np.unique(known.units))
    assert np.array_equal(folds, inner_folds(known.units, 3, seed))
    assert np.unique(inner_folds(np.array([4, 4, 9, 9]), 3, seed)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="3 folds of 1 units"):
        inner_folds(np.zeros(9), 3, seed)


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
