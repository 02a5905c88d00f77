"""Coverage and interval scores against hand-worked numbers, and a table of them."""

import numpy as np
import pytest
from scipy.stats import norm

from soilcarbon.stats.coverage import coverage, interval_score, picp_table


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
    single, blocks = (coverage(y, np.zeros(2000), np.ones(2000), units=units) for units in (None, unit))
    assert single["value"] == blocks["value"]
    assert blocks["high"] - blocks["low"] == pytest.approx(2 * 1.96 * 0.4 / np.sqrt(100), rel=0.25)
    assert single["high"] - single["low"] < 0.3 * (blocks["high"] - blocks["low"])
    assert blocks == coverage(y, np.zeros(2000), np.ones(2000), units=unit)


def test_a_table_has_a_row_for_each_level_and_stratum():
    y, strata = np.array([0.5, 2, 3, 1]), np.array(["b", "a", "a", "b"])
    rows = picp_table(y, {0.5: (y - 1, y + 1), 0.9: (np.zeros(4), np.full(4, 2.0))}, strata=strata, units=np.array([1, 1, 2, 2]))
    assert [(row["level"], row["stratum"], row["n"], row["coverage"]) for row in rows] == [
        (0.5, "all", 4, 1),
        (0.5, "a", 2, 1),
        (0.5, "b", 2, 1),
        (0.9, "all", 4, 0.75),
        (0.9, "a", 2, 0.5),
        (0.9, "b", 2, 1),
    ]
    assert [row["mean_width"] for row in rows] == [2] * 6
    assert rows[4]["interval_score"] == pytest.approx(2 + 20 * 1 / 2)


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
