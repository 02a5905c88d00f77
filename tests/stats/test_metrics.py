"""Scores against hand-worked numbers and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from soilcarbon.stats.metrics import (
    better,
    bootstrap_means,
    bootstrap_scores,
    checked_vectors,
    coverage,
    interval_score,
    mean_paired_differences,
    paired_differences,
    picp_table,
    scores,
)

# --- scores ------------------------------------------------------------------------------------------------------


def test_scores_worked_by_hand():
    # errors 1, 0, -1, 2; means 2.5 and 3; SST 5, SSE 6; population variances 1.25 and 1.5; covariance 0.5
    result = scores(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 6]))
    # variance of (2, 2, 2, 6) about 3: (1 + 1 + 1 + 9) / 4 = 3; covariance (1.5 + 0.5 - 0.5 + 4.5) / 4 = 1.5
    # quartiles of 1, 2, 3, 4 are 1.75 and 3.25
    assert result == pytest.approx(
        {"n": 4, "rmse": 1.5**0.5, "mae": 1, "me": 0.5, "r2": 1 - 6 / 5, "ccc": 3 / (1.25 + 3 + 0.25), "rpiq": 1.5 / 1.5**0.5}
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


def test_scores_keep_their_digits_far_from_zero():
    observed, predicted = np.random.default_rng(0).normal(size=(2, 100))
    near, far = scores(observed, predicted), scores(observed + 1e7, predicted + 1e7)
    assert far["r2"] == pytest.approx(near["r2"], rel=1e-6)
    assert far["ccc"] == pytest.approx(near["ccc"], rel=1e-6)


@pytest.mark.parametrize("observed", [[0.1, 0.1, 0.1], [5.0], [0.0, 0.0]])
def test_scores_without_variance_to_explain_are_none(observed):
    result = scores(np.array(observed), np.array(observed) + 1)
    assert (result["r2"], result["ccc"], result["rpiq"], result["mae"]) == (None, None, None, 1)


def test_rpiq_is_of_the_quartiles_not_of_the_extremes():
    observed = np.arange(101.0)
    peats = np.append(observed[:-2], [500, 900])
    assert scores(observed, observed + 5)["rpiq"] == scores(peats, peats + 5)["rpiq"] == pytest.approx(50 / 5)
    same = scores(np.array([0.0, 3, 3, 3, 9]), np.zeros(5))  # they vary, their quartiles do not
    assert same["rpiq"] is None
    assert same["r2"] is not None


def test_scores_of_nobody_are_none():
    assert scores(np.empty(0), np.empty(0)) == {"n": 0} | dict.fromkeys(("rmse", "mae", "me", "r2", "ccc", "rpiq"))
    assert bootstrap_scores(np.empty(0), np.empty(0), 0)["ccc"] == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize("function", [scores, lambda o, p: bootstrap_scores(o, p, 0)])
def test_what_is_not_finite_or_not_paired_is_refused(function):
    with pytest.raises(ValueError, match="predicted has 1 values of 3"):
        function(np.ones(3), np.array([1, np.nan, 1]))
    with pytest.raises(ValueError, match="observed has 2 values of 3"):
        function(np.array([np.inf, np.nan, 1]), np.ones(3))
    with pytest.raises(ValueError, match="one length"):
        function(np.ones(3), np.ones((3, 1)))


def test_only_named_vectors_may_be_infinite_and_none_nan():
    assert np.isinf(checked_vectors(("upper",), y=np.ones(1), upper=np.array([np.inf]))[1]).all()
    with pytest.raises(ValueError, match="upper has 1 values of 1 that are not finite, first at 0"):
        checked_vectors(("upper",), y=np.ones(1), upper=np.array([np.nan]))


# --- intervals ---------------------------------------------------------------------------------------------------


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
    for seed in range(300):
        observed = random.normal(0, 2, 150)
        result = bootstrap_scores(observed, observed + random.normal(0, 1, 150), seed, draws=300)
        for name in covered:
            covered[name] += result[name]["low"] <= truth[name] <= result[name]["high"]
    assert all(0.90 <= count / 300 <= 0.98 for count in covered.values()), covered


def test_draws_that_cannot_be_scored_are_left_out():
    result = bootstrap_scores(np.array([1.0, 1, 1, 2]), np.array([1.0, 1, 1, 2]), 0)
    assert result["r2"] == {"value": 1, "low": 1, "high": 1}  # a third of the draws lack the only different profile
    assert bootstrap_scores(np.ones(4), np.ones(4), 0)["r2"] == {"value": None, "low": None, "high": None}


def test_intervals_over_blocks_are_those_of_resampling_whole_blocks():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), random.integers(2, 30, 12))
    observed = random.lognormal(2, 1, len(groups))
    predicted = observed + random.normal(0, 3, 12)[groups] + random.normal(0, 0.5, len(groups))
    single, blocks = (bootstrap_scores(observed, predicted, 1, groups=given) for given in (None, groups))
    assert blocks["me"]["high"] - blocks["me"]["low"] > 2 * (single["me"]["high"] - single["me"]["low"])
    assert blocks["rmse"]["value"] == single["rmse"]["value"]
    errors = [(predicted - observed)[groups == k] for k in range(12)]
    draws = [np.concatenate([errors[k] for k in random.integers(12, size=12)]).mean() for _ in range(4000)]
    assert (blocks["me"]["low"], blocks["me"]["high"]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=0.15)


def test_for_rpiq_the_spread_is_that_of_all_profiles():
    observed, noise = np.random.default_rng(0).lognormal(2, 1, (2, 80))
    result = bootstrap_scores(observed, observed + noise, 0)
    spread = np.subtract(*np.quantile(observed, [0.75, 0.25]))
    ends = spread / result["rmse"]["high"], spread / result["rmse"]["low"]  # few draws lie between two quantiles
    assert (result["rpiq"]["low"], result["rpiq"]["high"]) == pytest.approx(ends, rel=0.01)
    assert result["rpiq"]["value"] == pytest.approx(spread / result["rmse"]["value"])


def test_the_draws_depend_on_seed_and_groups_only():
    values, groups = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) // 3
    both = bootstrap_means(values, groups, 5, 40)
    assert bootstrap_means(values[:, :1], groups, 5, 40)[:, 0] == pytest.approx(both[:, 0])
    assert bootstrap_means(values, groups, 5, 10) == pytest.approx(both[:10])
    assert bootstrap_means(np.ones((60, 1)), groups, 6, 40) == pytest.approx(np.ones((40, 1)))
    with pytest.raises(ValueError, match="one for each of 60"):
        bootstrap_means(values, groups[:-1], 5, 40)


# --- two methods -------------------------------------------------------------------------------------------------


def test_differences_worked_by_hand():
    observed, ours, theirs = np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 6]), np.array([3.0, 2, 3, 4])
    # ours as above: MAE 1, RMSE sqrt(1.5), R2 -0.2, CCC 2/3. Theirs: errors 2, 0, 0, 0: MAE 0.5, RMSE 1, R2 1 - 4 / 5;
    # variance of (3, 2, 3, 4) 0.5, covariance (0.5 + 1.5) / 4 = 0.5, so CCC = 1 / (1.25 + 0.5 + 0.25)
    result = paired_differences(observed, ours, theirs, 0)
    assert {name: each["value"] for name, each in result.items()} == pytest.approx(
        {"mae": 100, "rmse": 100 * (1.5**0.5 - 1), "ccc": 2 / 3 - 1 / 2, "r2": -0.4}
    )


# of two groups one is better by half, one worse by half; a quarter of the draws hold one of them alone
TWO_GROUPS = np.zeros(4), np.array([1.0, 1, 3, 3]), np.array([2.0, 2, 2, 2]), np.array([0, 0, 1, 1])


def test_an_interval_of_differences_worked_by_hand():
    observed, ours, theirs, groups = TWO_GROUPS
    result = paired_differences(observed, ours, theirs, 0, groups=groups)
    assert result["mae"] == {"value": 0, "low": -50, "high": 50}
    assert result["rmse"] == pytest.approx({"value": 100 * (5**0.5 / 2 - 1), "low": -50, "high": 50})
    assert result["ccc"] == result["r2"] == {"value": None, "low": None, "high": None}


def test_regions_weigh_alike_whatever_their_size():
    many = np.zeros(900), np.full(900, 1.2), np.full(900, -1.0), None  # worse by a fifth in every draw
    few = np.zeros(3), np.full(3, -1.7), np.full(3, 1.0), None
    assert mean_paired_differences([TWO_GROUPS, many], 0)["mae"] == pytest.approx({"value": 10, "low": -15, "high": 35})
    three = mean_paired_differences([TWO_GROUPS, many, few], 0)["mae"]  # changes 0 [-50, 50], 20 and 70
    assert three == pytest.approx({"value": 30, "low": 40 / 3, "high": 140 / 3})


def methods(seed, n=300, blocks=300, shared=1.0):
    """Return observed, ours, theirs, groups: two methods that err alike by block, and each by itself."""
    random = np.random.default_rng(seed)
    groups = np.arange(n) % blocks
    observed = random.normal(0, 3, n)
    common = shared * random.normal(size=n)
    ours, theirs = (observed + common + (size * random.normal(size=blocks))[groups] for size in (0.2, 0.6))
    return observed, ours, theirs, groups


def width(interval):
    return interval["high"] - interval["low"]


def test_differences_agree_with_a_loop_over_draws():
    observed, ours, theirs, _ = methods(0, 60, 60)
    loop = []
    for k in range(1500):
        i = np.random.default_rng(100 + k).integers(60, size=60)
        mine, other = scores(observed[i], ours[i]), scores(observed[i], theirs[i])
        loop.append([100 * (mine["rmse"] / other["rmse"] - 1), mine["ccc"] - other["ccc"]])
    result = paired_differences(observed, ours, theirs, 0, draws=3000)
    for name, draws in zip(("rmse", "ccc"), np.transpose(loop), strict=True):
        ends = np.quantile(draws, [0.025, 0.975])
        assert (result[name]["low"], result[name]["high"]) == pytest.approx(tuple(ends), abs=0.08 * np.ptp(ends))


def test_what_is_hard_for_both_cancels():
    observed, ours, theirs, _ = methods(0)
    paired = paired_differences(observed, ours, theirs, 0)
    mine, other = (bootstrap_scores(observed, each, seed) for seed, each in enumerate((ours, theirs)))
    for name in ("ccc", "r2"):
        assert width(paired[name]) < 0.6 * np.hypot(width(mine[name]), width(other[name]))
    for name, sign in (("ccc", 1), ("r2", 1), ("rmse", -1)):  # singly they do not differ significantly
        assert max(mine[name]["low"], other[name]["low"]) < min(mine[name]["high"], other[name]["high"])
        assert min(sign * paired[name]["low"], sign * paired[name]["high"]) > 0
    apart = [bootstrap_means(abs(each - observed)[:, None], None, seed, 1000) for seed, each in enumerate((ours, theirs))]
    assert width(paired["mae"]) < 0.7 * 100 * np.ptp(np.quantile(apart[0] / apart[1], [0.025, 0.975]))


def test_intervals_of_differences_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    truth, covered = -20.0, 0  # errors of normal blocks with deviations 0.8 and 1, so MAE and RMSE are a fifth lower
    groups = np.repeat(np.arange(60), 5)
    for seed in range(300):
        noise = random.normal(size=(2, 60))
        ours, theirs = (0.8 * noise[0])[groups], (0.7 * noise[0] + 0.51**0.5 * noise[1])[groups]
        result = mean_paired_differences([(np.zeros(300), ours, theirs, groups)], seed, draws=300)["mae"]
        covered += result["low"] <= truth <= result["high"]
    assert 0.90 <= covered / 300 <= 0.98


def test_differences_that_mean_nothing_are_none():
    observed, ours, theirs, groups = methods(0)
    nothing = {"value": None, "low": None, "high": None}
    against_perfect = paired_differences(observed, ours, observed, 0)
    assert against_perfect["mae"] == against_perfect["rmse"] == nothing
    assert against_perfect["r2"]["value"] == pytest.approx(scores(observed, ours)["r2"] - 1)
    assert set(map(str, paired_differences(*[np.empty(0)] * 3, 0).values())) == {str(nothing)}
    both = mean_paired_differences([(observed, ours, theirs, groups), (np.ones(9), np.zeros(9), np.full(9, 3.0), None)], 0)
    assert both["r2"] == both["ccc"] == nothing  # undefined in the second region
    assert both["mae"]["value"] is not None
    with pytest.raises(ValueError, match="no regions"):
        mean_paired_differences([], 0)
    with pytest.raises(ValueError, match="theirs has 1 values of 300"):
        paired_differences(observed, ours, np.append(theirs[1:], np.nan), 0)


# --- intervals of predictions ---


def test_interval_score_by_hand():
    # width 4; 2 / 0.2 = 10 for each unit outside
    score = interval_score(np.array([3.0, 1, 8, 6]), np.full(4, 2.0), np.full(4, 6.0), 0.8)
    assert score == pytest.approx([4, 14, 24, 4])


def test_the_true_quantiles_have_the_least_interval_score():
    y = np.random.default_rng(9).normal(size=100_000)
    z = norm.ppf(0.95)
    best, *others = (
        interval_score(y, np.full(y.shape, low), np.full(y.shape, high), 0.9).mean()
        for low, high in ((-z, z), (-z - 0.2, z + 0.2), (-z + 0.2, z - 0.2), (-z + 0.2, z + 0.2))
    )
    assert best < min(others)


def test_coverage_counts_the_ends_and_has_the_exact_binomial_interval():
    y, lower, upper = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0]), np.full(10, 1.0), np.full(10, 9.0)
    # Clopper and Pearson of 9 in 10: 0.5550 to 0.9975
    assert coverage(y, lower, upper) == pytest.approx({"n": 10, "value": 0.9, "low": 0.5550, "high": 0.9975}, abs=1e-4)
    assert coverage(y[:0], lower[:0], upper[:0]) == {"n": 0, "value": None, "low": None, "high": None}


def test_blocks_missed_together_widen_the_interval_of_the_coverage():
    random = np.random.default_rng(10)
    unit = np.repeat(np.arange(100), 20)
    y = np.where(random.random(100) < 0.2, 9.0, 0.5)[unit]
    single, blocks = (coverage(y, np.zeros(2000), np.ones(2000), groups=groups) for groups in (None, unit))
    assert single["value"] == blocks["value"]
    assert blocks["high"] - blocks["low"] == pytest.approx(2 * 1.96 * 0.4 / np.sqrt(100), rel=0.25)
    assert single["high"] - single["low"] < 0.3 * (blocks["high"] - blocks["low"])
    assert blocks == coverage(y, np.zeros(2000), np.ones(2000), groups=unit)


def test_a_table_has_a_row_for_each_level():
    y, groups = np.array([0.5, 2, 3, 1]), np.array([1, 1, 2, 2])
    rows = picp_table(y, {0.5: (y - 1, y + 1), 0.9: (np.zeros(4), np.full(4, 2.0))}, groups)
    assert [(row["level"], row["n"], row["coverage"], row["mean_width"]) for row in rows] == [(0.5, 4, 1, 2), (0.9, 4, 0.75, 2)]
    assert rows[1]["interval_score"] == pytest.approx(2 + 20 * 1 / 4)


@pytest.mark.parametrize(
    "measure", [coverage, lambda *ends: interval_score(*ends, 0.9), lambda y, a, b: picp_table(y, {0.9: (a, b)})]
)
def test_intervals_that_are_none_are_refused(measure):
    y, lower, upper = np.ones(3), np.zeros(3), np.array([2.0, 2, 2])
    for ends, said in (
        ((np.array([1, np.nan, 1]), lower, upper), "y has 1"),
        ((y, np.array([np.nan, 0, 0]), upper), "lower has 1"),
        ((y, upper, lower), "3 intervals are upside down"),
        ((y, lower, np.ones(2)), "one length"),
    ):
        with pytest.raises(ValueError, match=said):
            measure(*ends)


def test_an_endless_interval_covers_all_and_scores_infinity():
    ends = np.zeros(2), np.full(2, np.inf)
    assert coverage(np.ones(2), *ends)["value"] == 1
    assert np.isinf(interval_score(np.ones(2), *ends, 0.9)).all()


# --- choosing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,high_wins", [("r2", True), ("ccc", True), ("rpiq", True), ("rmse", False), ("mae", False)])
def test_better_knows_which_way_is_up(name, high_wins):
    assert better(name, 2.0, 1.0) is high_wins
    assert better(name, 1.0, 2.0) is not high_wins
    assert not better(name, 1.0, 1.0)


def test_an_undefined_score_never_wins():
    assert better("rmse", 1.0, None)
    assert not better("rmse", None, 1.0)
    assert not better("r2", None, None)
