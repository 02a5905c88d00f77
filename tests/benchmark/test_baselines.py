"""Baselines against numbers worked by hand, dense systems and plain scikit-learn; leaks planted for the tuning to find."""

import dataclasses

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from soilcarbon.benchmark import baselines
from soilcarbon.benchmark.baselines import BASELINES, Baseline, read_method, tune
from soilcarbon.regression.estimators import InverseDistance, Samples, WorldForest
from soilcarbon.stats.groups import inner_folds

FAST = {key: {} for key in BASELINES} | {key: {"n_estimators": 25} for key in BASELINES if "forest" in key}
FAST |= {"kriging": {"n_estimators": 60}, "boosting": {"max_iter": 60}}


def fitted(key, samples, world=None, seed=0, candidate=0):
    """Return a baseline of few trees, untuned."""
    method, extra = BASELINES[key], {}
    X, y, _ = samples
    if isinstance(method.regressor, WorldForest) and world is not None:
        X, y = np.concatenate([X, world.X]), np.append(y, world.y)
        extra = {"model__of_world": np.arange(len(y)) >= len(samples.y)}
    classes = (5,) if X.shape[1] == 8 else ()
    return method.pipeline(classes, seed, **method.candidates[candidate] | FAST[key]).fit(X, y, **extra)


# --- what all of them do ------------------------------------------------------------------------------------------------


def test_every_method_has_at_most_four_candidates_of_its_own_parameters_and_its_own_label():
    assert len({each.label for each in BASELINES.values()}) == len(BASELINES)
    for each in BASELINES.values():
        names = set(each.regressor.get_params())
        assert 1 <= len(each.candidates) <= 4
        assert {name for candidate in each.candidates for name in candidate} | set(each.while_tuning) <= names


@pytest.mark.parametrize("key", BASELINES)
def test_every_method_beats_the_mean_and_repeats_whatever_the_order_of_the_places(key, samples, places, abroad):
    model = fitted(key, samples, abroad)
    predicted = model.predict(places.X)
    assert predicted.shape == (150,) and predicted.min() >= 0 and predicted.max() <= max(samples.y.max(), abroad.y.max())
    if key != "mean":
        assert np.abs(predicted - places.y).mean() < 0.75 * np.abs(samples.y.mean() - places.y).mean()
    assert fitted(key, samples, abroad).predict(places.X[::-1])[::-1] == pytest.approx(predicted, rel=1e-9)


@pytest.mark.parametrize("key", BASELINES)
@pytest.mark.parametrize("case", ["eight in one group", "constant target", "column of NaN", "one profile", "one place", "zeros"])
def test_few_or_dull_profiles_are_fitted(key, case, samples, places, abroad):
    X, y, groups = samples.take(slice({"eight in one group": 8, "one profile": 1}.get(case, 30)))
    X, y = X.copy(), y.copy()
    if case == "eight in one group":
        groups = np.zeros(8, np.int64)
    elif case == "column of NaN":
        X[:, 3] = np.nan
    elif case == "one place":
        X[:, :2] = 10, 50
    elif case in ("constant target", "zeros"):
        y[:] = 12.5 if case == "constant target" else 0
    dull = case in ("constant target", "zeros")
    predicted = fitted(key, Samples(X, y, groups), None if dull else abroad).predict(places.X)
    assert np.isfinite(predicted).all() and (predicted >= 0).all()
    if dull:
        assert predicted == pytest.approx(y[0])


# --- ridge -----------------------------------------------------------------------------------------------------------


def test_ridge_equals_scikit_learns_where_nothing_is_missing_or_far_out(samples, places):
    X, at = (np.column_stack([each.X[:, :2], each.X[:, 2:4].clip(-1.5, 1.5)]) for each in (samples, places))
    predicted = BASELINES["ridge"].pipeline(alpha=10.0).fit(X, samples.y).predict(at)
    plain = make_pipeline(StandardScaler(), Ridge(10.0)).fit(X[:, 2:], np.log1p(samples.y)).predict(at[:, 2:])
    assert predicted == pytest.approx(np.expm1(plain).clip(0, samples.y.max()), rel=1e-6)


def test_ridge_takes_the_mean_for_what_is_missing_and_clips_at_four_standard_deviations(samples, places):
    model = fitted("ridge", samples)
    mean, std = np.nanmean(samples.X[:, 4]), np.nanstd(samples.X[:, 4])

    def at(value):
        X = places.X.copy()
        X[:, 4] = value
        return model.predict(X)

    assert at(np.nan) == pytest.approx(at(mean))
    assert at(mean + 9 * std) == pytest.approx(at(mean + 4 * std))
    assert at(mean + 9 * std) != pytest.approx(at(mean), rel=1e-3)


def test_ridge_learns_classes_whatever_their_codes_and_takes_an_unknown_one_for_none(samples, places):
    codes = np.array([0, 77, 3, 1, 50])
    plain = fitted("ridge", samples).predict(places.X)
    X, at, unknown = samples.X.copy(), places.X.copy(), places.X.copy()
    X[:, 7], at[:, 7], unknown[:, 7] = codes[X[:, 7].astype(int)], codes[at[:, 7].astype(int)], 99
    assert fitted("ridge", samples._replace(X=X)).predict(at) == pytest.approx(plain)
    assert np.isfinite(fitted("ridge", samples).predict(unknown)).all()


# --- forests ------------------------------------------------------------------------------------------------------------


def test_boosting_adds_all_its_trees_also_where_scikit_learn_would_stop_early():
    X = np.column_stack([np.zeros((10_500, 2)), np.random.default_rng(0).normal(size=10_500)])
    model = BASELINES["boosting"].pipeline(max_iter=25).fit(X, np.ones(10_500))
    assert model["model"].regressor_.n_iter_ == 25


# --- tuning -------------------------------------------------------------------------------------------------------------


class Memoriser(RegressorMixin, BaseEstimator):
    """Returns the target of the nearest profile within `reach` degrees, else 0; of a long reach, the mean."""

    def __init__(self, reach=0.0):
        self.reach = reach

    def fit(self, X, y):
        self.lon_, self.y_ = X[:, 0], y
        return self

    def predict(self, X):
        apart = np.abs(X[:, :1] - self.lon_)
        near = np.where(apart.min(1) <= self.reach, self.y_[apart.argmin(1)], 0)
        return near if self.reach < 100 else np.full(len(X), self.y_.mean())


LEAK = Baseline("leak", "", Memoriser(), "all", candidates=({"reach": 1e-9}, {"reach": 500.0}))


def test_a_candidate_that_memorises_loses_unless_folds_split_groups(samples):
    assert np.abs(Memoriser(1e-9).fit(*samples[:2]).predict(samples.X) - samples.y).max() == 0
    assert tune(LEAK, samples, 0)[1] == {"reach": 500.0}
    twins = samples.take(np.repeat(np.arange(300), 2))
    assert tune(LEAK, twins, 0)[1] == {"reach": 500.0}
    assert tune(LEAK, twins._replace(groups=np.arange(600)), 0)[1] == {"reach": 1e-9}  # as it would be without groups


def test_tuning_takes_the_lowest_error_over_all_held_out_profiles_and_fits_to_all(samples, places):
    model, chosen = tune(BASELINES["idw"], samples, 3)
    folds, errors = inner_folds(samples.groups, 3, 3), []
    for each in BASELINES["idw"].candidates:
        held_out = np.empty(300)
        for k in range(3):
            part = InverseDistance(**each).fit(samples.X[folds != k], samples.y[folds != k])
            held_out[folds == k] = part.predict(samples.X[folds == k])
        errors.append(np.abs(held_out - samples.y).mean())
    assert chosen == BASELINES["idw"].candidates[int(np.argmin(errors))]
    again = InverseDistance(**chosen).fit(samples.X, samples.y).predict(places.X)
    assert model.predict(places.X).tolist() == again.tolist()


def test_the_worlds_profiles_are_used_but_for_those_in_the_regions_groups_and_never_held_out(samples, places, abroad, monkeypatch):
    sizes = []

    class Spy(WorldForest):
        def fit(self, X, y, of_world=None):
            sizes.append((self.n_estimators, int((~of_world).sum()), int(of_world.sum())))
            return super().fit(X, y, of_world)

    few = samples.take(slice(50))
    method = dataclasses.replace(BASELINES["forest_world_log"], regressor=Spy(n_estimators=20), while_tuning={"n_estimators": 5})
    both = Samples(*(np.concatenate(pair) for pair in zip(samples, abroad, strict=True)))
    model, _ = tune(method, few, 5, world=both)
    outside = int((~np.isin(both.groups, few.groups)).sum())
    assert outside < 700 and {there for _, _, there in sizes} == {outside}
    assert sizes[-1] == (20, 50, outside) and {trees for trees, *_ in sizes[:-1]} == {5}
    assert sum(here for _, here, _ in sizes[:3]) == 100  # each of three folds is held out once
    assert model.predict(places.X).tolist() == tune(method, few, 5, world=both)[0].predict(places.X).tolist()
    with pytest.raises(ValueError, match="the world's profiles have 3 covariates, the region's 6"):
        tune(method, few, 5, world=abroad._replace(X=abroad.X[:, :5]))


@pytest.mark.parametrize(("n", "groups", "tried"), [(7, 7, False), (8, 8, True), (9, 1, False)])
def test_too_few_profiles_or_groups_take_the_first_candidate_untried(n, groups, tried, samples, monkeypatch):
    called = []
    monkeypatch.setattr(baselines, "inner_folds", lambda *values: called.append(1) or inner_folds(*values))
    few = samples.take(slice(n))._replace(groups=np.arange(n) % groups)
    chosen = tune(BASELINES["idw"], few, 0)[1]
    assert bool(called) == tried and (tried or chosen == BASELINES["idw"].candidates[0])


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_a_target_that_cannot_be_fitted_is_named(wrong, samples):
    y = samples.y.copy()
    y[[3, 5]] = wrong
    with pytest.raises(ValueError, match=f"2 of 300 targets are not, first {wrong:g}"):
        tune(BASELINES["mean"], samples._replace(y=y), 0)
    with pytest.raises(ValueError, match="there are no profiles"):
        tune(BASELINES["mean"], samples.take(slice(0)), 0)


# --- any scikit-learn regressor -----------------------------------------------------------------------------------------


def test_any_regressor_is_tuned_like_the_others(samples, places):
    method = read_method("svr", "sklearn.svm.SVR", {"epsilon": 0.05}, grid={"C": [0.001, 10]})
    model, chosen = tune(method, samples, 0, classes=(5,))
    assert chosen == {"C": 10}
    assert model["model"].regressor_.get_params()["epsilon"] == 0.05
    predicted = model.predict(places.X)
    assert np.abs(predicted - places.y).mean() < 0.75 * np.abs(samples.y.mean() - places.y).mean()
    raw = read_method("knn", "sklearn.neighbors.KNeighborsRegressor", target_transform="none")
    assert not raw.log and raw.meaning == "sklearn.neighbors.KNeighborsRegressor() of y"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimator": "os.system"}, "expected a regressor of sklearn, xgboost"),
        ({"estimator": "sklearnx.svm.SVR"}, "expected a regressor of sklearn"),
        ({"estimator": "sklearn.svm.SVC"}, "sklearn.svm has no regressor SVC"),
        ({"estimator": "sklearn.utils.shuffle"}, "has no regressor shuffle"),
        ({"estimator": "sklearn.svm.SVQ"}, "has no regressor SVQ"),
        ({"estimator": "sklearn.svn.SVR"}, "install it, or correct the path"),
        ({"parameters": {"c": 1}}, "unexpected keyword argument 'c'"),
        ({"grid": {"c": [1]}}, "sklearn.svm.SVR has no parameter 'c'"),
        ({"grid": {"C": []}}, "C has no values"),
    ],
)
def test_what_is_no_regressor_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        read_method(**{"name": "mine", "estimator": "sklearn.svm.SVR"} | changes)
