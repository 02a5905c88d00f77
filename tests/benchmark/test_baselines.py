"""Methods against numbers worked by hand and scikit-learn; ridge and boosting told apart from leaks of scale."""

import dataclasses

import numpy as np
import pytest
from simulated import haversine, on_line
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from soilcarbon.benchmark.baselines import Boosting, InverseDistance, Known, Mean, RidgeRegression

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


# --- boosting ----------------------------------------------------------------------------------------------------


def test_boosting_adds_all_its_trees_also_where_scikit_learn_would_stop_early():
    random = np.random.default_rng(0)
    x = random.normal(size=(10_500, 1)).astype(np.float32)
    many = Known(x, np.ones(10_500), np.zeros(10_500), np.zeros(10_500), np.arange(10_500))
    assert Boosting(iterations=25).fit(many, 0)._model.n_iter_ == 25
