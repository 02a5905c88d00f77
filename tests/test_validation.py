"""Splits that leak nothing and lie evenly; scores against hand-worked numbers and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from files import UserError
from validation import better, bootstrap_scores, draw_split, scores, split_units


@pytest.fixture(scope="module")
def clustered():
    """Return lon, lat of 6,000 profiles: towns of very unequal size on an uneven land."""
    random = np.random.default_rng(1)
    towns = random.uniform([-20, -35], [50, 35], size=(400, 2))
    town = random.choice(400, size=6000, p=(weight := random.lognormal(0, 1.5, 400)) / weight.sum())
    position = towns[town] + random.normal(0, 0.4, size=(6000, 2))
    return position[:, 0], position[:, 1]


# --- units -------------------------------------------------------------------------------------------------------


def test_a_unit_number_is_row_and_column_from_the_south_west_corner():
    assert split_units(np.array([-180.0, -179.4, 0.0]), np.array([-90.0, -90.0, 0.0]), "blocks", 0.5).tolist() == [
        0,
        1,
        (180 << 32) + 360,
    ]


def test_block_edges_fall_where_they_are_said_to_in_spite_of_rounding():
    lon = np.arange(-1800, 1800) / 10  # 0.1 is no binary number: naive division puts some edges one block off
    assert (split_units(lon, np.full(3600, -90.0), "blocks", 0.1) == np.arange(3600)).all()


def test_places_closer_than_a_metre_are_one_and_ten_metres_apart_are_two():
    units = split_units(np.array([10, 10.000001, 10.0001]), np.array([50.0, 50, 50]), "random", 0.5)
    assert units[0] == units[1] != units[2]


def test_a_profile_has_the_same_unit_in_any_company(clustered):
    lon, lat = clustered
    for how in ("random", "blocks"):
        assert (split_units(lon, lat, how, 0.5)[::7] == split_units(lon[::7], lat[::7], how, 0.5)).all()


def test_blocks_hold_what_is_in_them(clustered):
    lon, lat = clustered
    units = split_units(lon, lat, "blocks", 2)
    assert ((units & 0xFFFFFFFF) == np.floor((lon + 180) / 2)).all()
    assert ((units >> 32) == np.floor((lat + 90) / 2)).all()


def test_both_ends_of_the_date_line_are_one_place():
    assert np.unique(split_units(np.array([-180.0, 180.0]), np.zeros(2), "random", 1)).size == 1


def test_a_block_of_no_width_is_refused():
    with pytest.raises(UserError, match="block_size"):
        split_units(np.zeros(1), np.zeros(1), "blocks", 1e-7)


# --- split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["random", "blocks"])
@pytest.mark.parametrize("seed", range(5))
def test_units_stay_whole_and_shares_are_met(clustered, how, seed):
    units = split_units(*clustered, how, 1.0)
    split = draw_split(units, 0.1, 0.2, seed)
    assert all(np.unique(split[units == unit]).size == 1 for unit in np.unique(units)[:500])
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert (split == name).mean() == pytest.approx(share, abs=0.01)


def test_every_larger_area_has_about_its_share_of_test_blocks(clustered):
    lon, lat = clustered
    units = split_units(lon, lat, "blocks", 1.0)
    area = (lon // 20) * 10 + lat // 20
    areas = [area == a for a in np.unique(area) if (area == a).sum() > 200]
    distinct = np.unique(units)
    even, blind = [], []
    for seed in range(10):
        test = draw_split(units, 0.1, 0.2, seed) == "test"
        even.append(np.std([test[a].mean() for a in areas]))
        drawn = np.random.default_rng(seed).permutation(distinct)[: distinct.size // 5]
        blind.append(np.std([np.isin(units[a], drawn).mean() for a in areas]))
    assert len(areas) > 8
    assert np.mean(even) < 0.06
    assert np.mean(even) < 0.6 * np.mean(blind)


def test_each_unit_has_the_same_chance_to_be_held_out():
    units = split_units(*np.meshgrid(np.arange(6.0), np.arange(5.0)), "blocks", 1.0).ravel()
    held = np.mean([draw_split(units, 0.2, 0.2, seed) == "test" for seed in range(2000)], axis=0)
    assert held == pytest.approx(np.full(30, 0.2), abs=0.04)  # 4.5 standard errors


def test_well_sampled_blocks_are_tested_too(clustered):
    units = split_units(*clustered, "blocks", 1.0)
    _, member, sizes = np.unique(units, return_inverse=True, return_counts=True)
    per_profile = sizes[member]
    ratio = [
        np.mean(1 / per_profile[(s := draw_split(units, 0.1, 0.2, seed)) == "train"]) / np.mean(1 / per_profile[s == "test"])
        for seed in range(10)
    ]  # mean size of a test block over that of a training block
    assert 0.6 < np.mean(ratio) < 1.2


def test_the_order_of_profiles_does_not_matter_and_the_seed_does(clustered):
    units = split_units(*clustered, "blocks", 1.0)
    shuffle = np.random.default_rng(0).permutation(len(units))
    assert (draw_split(units, 0.1, 0.2, 3)[shuffle] == draw_split(units[shuffle], 0.1, 0.2, 3)).all()
    assert (draw_split(units, 0.1, 0.2, 3) != draw_split(units, 0.1, 0.2, 4)).any()


def test_fixed_units_keep_their_split_and_count_towards_the_shares(clustered):
    units = split_units(*clustered, "blocks", 1.0)
    distinct = np.unique(units)
    fixed = {int(unit): "test" for unit in distinct[:40]} | {int(unit): "train" for unit in distinct[40:60]} | {-1: "valid"}
    split = draw_split(units, 0.1, 0.2, 0, fixed)
    assert (split[np.isin(units, distinct[:40])] == "test").all()
    assert (split[np.isin(units, distinct[40:60])] == "train").all()
    assert (split == "test").mean() == pytest.approx(0.2, abs=0.02)


def test_one_huge_block_does_not_become_the_test_split():
    units = np.array([7] * 500 + list(range(100, 600)))
    for seed in range(20):
        split = draw_split(units, 0.1, 0.2, seed)
        assert (split[0], (split == "test").mean()) == ("train", pytest.approx(0.2, abs=0.02))


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12])
def test_few_units_still_give_three_splits(count):
    assert all(set(draw_split(np.arange(count), 0.1, 0.2, seed)) == {"train", "valid", "test"} for seed in range(20))


def test_no_profiles_no_split():
    assert draw_split(np.empty(0, np.int64), 0.1, 0.2, 0).shape == (0,)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UserError, match=r"valid_share 0\.5 and test_share 0\.5"):
        draw_split(np.arange(9), 0.5, 0.5, 0)


def test_an_unknown_fixed_split_is_refused():
    with pytest.raises(ValueError, match="'tset'"):
        draw_split(np.arange(9), 0.1, 0.2, 0, {1: "tset"})


# --- scores ------------------------------------------------------------------------------------------------------


def test_scores_worked_by_hand():
    # errors 1, 0, -1, 2; means 2.5 and 3; SST 5, SSE 6; population variances 1.25 and 1.5; covariance 0.5
    result = scores(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 6]))
    # variance of (2, 2, 2, 6) about 3: (1 + 1 + 1 + 9) / 4 = 3; covariance (1.5 + 0.5 - 0.5 + 4.5) / 4 = 1.5
    assert result == pytest.approx(
        {"n": 4, "rmse": 1.5**0.5, "mae": 1.0, "me": 0.5, "r2": 1 - 6 / 5, "ccc": 2 * 1.5 / (1.25 + 3 + 0.25)}
    )


def test_scores_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    observed = random.lognormal(2, 1, 500)
    predicted = 0.6 * observed + random.normal(2, 5, 500)
    result = scores(observed, predicted)
    assert result["rmse"] == pytest.approx(mean_squared_error(observed, predicted) ** 0.5)
    assert result["mae"] == pytest.approx(mean_absolute_error(observed, predicted))
    assert result["r2"] == pytest.approx(r2_score(observed, predicted))
    slope = 2 * np.cov(observed, predicted, ddof=0)[0, 1]
    assert result["ccc"] == pytest.approx(slope / (observed.var() + predicted.var() + (observed.mean() - predicted.mean()) ** 2))


def test_perfect_prediction():
    observed = np.random.default_rng(0).lognormal(2, 1, 50)
    assert scores(observed, observed) == {"n": 50, "rmse": 0, "mae": 0, "me": 0, "r2": 1, "ccc": 1}


def test_a_shift_moves_the_mean_error_and_lowers_agreement():
    observed = np.arange(10.0)
    result = scores(observed, observed + 3)
    assert (result["me"], result["mae"], result["rmse"]) == pytest.approx((3, 3, 3))
    assert result["ccc"] == pytest.approx(2 * 8.25 / (2 * 8.25 + 9))


def test_scores_keep_their_digits_far_from_zero():
    observed, predicted = np.random.default_rng(0).normal(size=(2, 100))
    near, far = scores(observed, predicted), scores(observed + 1e7, predicted + 1e7)
    assert far["r2"] == pytest.approx(near["r2"], rel=1e-6)
    assert far["ccc"] == pytest.approx(near["ccc"], rel=1e-6)


def test_the_mean_as_prediction_has_no_skill():
    observed = np.random.default_rng(0).lognormal(2, 1, 50)
    result = scores(observed, np.full(50, observed.mean()))
    assert (result["r2"], result["ccc"]) == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("observed", [[0.1, 0.1, 0.1], [5.0], [0.0, 0.0]])
def test_scores_without_variance_to_explain_are_none(observed):
    result = scores(np.array(observed), np.array(observed) + 1)
    assert (result["r2"], result["ccc"], result["mae"]) == (None, None, 1)


def test_scores_of_nobody_are_none():
    assert scores(np.empty(0), np.empty(0)) == {"n": 0, "rmse": None, "mae": None, "me": None, "r2": None, "ccc": None}
    assert bootstrap_scores(np.empty(0), np.empty(0), 0)["ccc"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("function", [scores, lambda o, p: bootstrap_scores(o, p, 0)])
def test_what_is_not_finite_or_not_paired_is_refused(function):
    with pytest.raises(ValueError, match="predicted has 1 values of 3"):
        function(np.ones(3), np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match="observed has 2 values of 3"):
        function(np.array([np.inf, np.nan, 1]), np.ones(3))
    with pytest.raises(ValueError, match="one length"):
        function(np.ones(3), np.ones((3, 1)))


# --- intervals ---------------------------------------------------------------------------------------------------


def test_intervals_hold_the_value_and_repeat_with_the_seed():
    observed, noise = np.random.default_rng(0).normal(size=(2, 200))
    first = bootstrap_scores(observed, observed + noise, 1)
    assert first == bootstrap_scores(observed, observed + noise, 1) != bootstrap_scores(observed, observed + noise, 2)
    assert first["n"] == 200
    for name, value in scores(observed, observed + noise).items():
        if name != "n":
            assert first[name]["value"] == value
            assert first[name]["low"] < value < first[name]["high"]


def test_intervals_agree_with_a_loop_over_draws():
    observed, noise = np.random.default_rng(0).normal(size=(2, 60))
    predicted = observed + noise
    draws = [np.random.default_rng(100 + k).integers(60, size=60) for k in range(2000)]
    loop = np.quantile([scores(observed[i], predicted[i])["ccc"] for i in draws], [0.025, 0.975])
    ours = bootstrap_scores(observed, predicted, 0, draws=2000)["ccc"]
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(loop), abs=0.03)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    covered = {"rmse": 0, "me": 0, "ccc": 0}
    truth = {"rmse": 1.0, "me": 0.0, "ccc": 2 * 4 / (4 + 5)}  # observed ~ N(0, 4), error ~ N(0, 1) independent
    for trial in range(300):
        observed = random.normal(0, 2, 150)
        result = bootstrap_scores(observed, observed + random.normal(0, 1, 150), trial, draws=300)
        for name in covered:
            covered[name] += result[name]["low"] <= truth[name] <= result[name]["high"]
    assert all(0.90 <= count / 300 <= 0.98 for count in covered.values()), covered


def test_an_interval_narrows_with_the_root_of_n():
    random = np.random.default_rng(0)
    width = []
    for n in (100, 1600):
        observed = random.normal(size=n)
        interval = bootstrap_scores(observed, observed + random.normal(size=n), 0)["mae"]
        width.append(interval["high"] - interval["low"])
    assert width[0] / width[1] == pytest.approx(4, rel=0.25)


def test_draws_that_cannot_be_scored_are_left_out():
    result = bootstrap_scores(np.array([1.0, 1, 1, 2]), np.array([1.0, 1, 1, 2]), 0)
    assert result["r2"] == {"value": 1, "low": 1, "high": 1}  # a third of the draws lack the only different profile
    assert bootstrap_scores(np.ones(4), np.ones(4), 0)["r2"] == {"value": None, "low": None, "high": None}


# --- choosing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,high_wins", [("r2", True), ("ccc", True), ("rmse", False), ("mae", False)])
def test_better_knows_which_way_is_up(name, high_wins):
    assert better(name, 2.0, 1.0) is high_wins
    assert better(name, 1.0, 2.0) is not high_wins
    assert not better(name, 1.0, 1.0)


def test_an_undefined_score_never_wins():
    assert better("rmse", 1.0, None)
    assert not better("rmse", None, 1.0)
    assert not better("r2", None, None)


def test_intervals_over_blocks_are_those_of_resampling_whole_blocks():
    random = np.random.default_rng(0)
    units = np.repeat(np.arange(12), random.integers(2, 30, 12))
    observed = random.lognormal(2, 1, len(units))
    predicted = observed + random.normal(0, 3, 12)[units] + random.normal(0, 0.5, len(units))
    single, blocks = (bootstrap_scores(observed, predicted, 1, units=given) for given in (None, units))
    assert blocks["me"]["high"] - blocks["me"]["low"] > 2 * (single["me"]["high"] - single["me"]["low"])
    assert blocks["rmse"]["value"] == single["rmse"]["value"]
    errors = [(predicted - observed)[units == k] for k in range(12)]
    draws = [np.concatenate([errors[k] for k in random.integers(12, size=12)]).mean() for _ in range(4000)]
    assert (blocks["me"]["low"], blocks["me"]["high"]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=0.15)


def test_units_of_one_profile_each_change_nothing():
    observed, predicted = np.random.default_rng(0).lognormal(2, 1, (2, 40))
    assert bootstrap_scores(observed, predicted, 3) == bootstrap_scores(observed, predicted, 3, units=np.arange(40))
