"""Credited changes by hand-worked numbers, and their promise in repeated draws."""

import math

import numpy as np
import pytest
from conftest import slow_but
from scipy import stats

from soilcarbon.stats.credit import Uncertain, credit


def test_lower_bound_by_hand():
    """t(0.9, 9) = 1.383029; 5 - 1.383029 x 2 = 2.233942."""
    found = credit(Uncertain(5.0, 2.0, df=9), confidence=0.9)
    assert (found.credited, found.deduction) == pytest.approx((2.233942, 2.766058), abs=1e-6)


@pytest.mark.parametrize(
    ("se", "threshold", "credited"),
    [
        (1.0, 0.20, 10.0),  # half-width 1.644854: 16.4 %, not deducted
        (2.0, 0.20, 8.710293),  # 32.897073 % - 20 %
        (2.0, 0.0, 6.710293),  # as the lower end of the two-sided interval
        (9.0, 0.1, 0.0),  # 148 %
    ],
)
def test_discount_by_hand(se, threshold, credited):
    assert credit(Uncertain(10.0, se), "discount", level=0.9, threshold=threshold).credited == pytest.approx(credited, abs=1e-6)


@pytest.mark.parametrize("change", [Uncertain(-1.0, 0.1), Uncertain(0.0, 1.0), Uncertain(3.0, math.nan), Uncertain(3.0, 1.0, df=0)])
@pytest.mark.parametrize("rule", ["lower_bound", "discount"])
def test_nothing_is_credited_without_a_gain_or_an_error(change, rule):
    assert credit(change, rule).credited == 0


def test_intervals_and_totals():
    estimate = Uncertain.of_interval(5.0, 3.0, 7.0, 0.9)
    assert estimate.interval(0.9) == pytest.approx((3.0, 7.0))
    assert estimate.times(10.0).interval(0.9) == pytest.approx((30.0, 70.0))
    assert Uncertain(5.0, 2.0, df=9).interval(0.95) == pytest.approx(stats.t.interval(0.95, 9, 5.0, 2.0))


def test_a_shared_error_is_added():
    """Satterthwaite: df (9 + 16)^2 / 9^2 = 7.716 df of the sampled part alone."""
    found = Uncertain(10.0, 3.0, df=9).with_error(4.0)
    assert (found.standard_error, found.df) == pytest.approx((5.0, 9 * 625 / 81))
    assert Uncertain(10.0, 3.0, df=9).with_error(0.0) == Uncertain(10.0, 3.0, df=9)


@pytest.mark.parametrize("confidence", slow_but([0.667, 0.9], 0.667))
def test_the_lower_bound_is_above_the_truth_as_often_as_it_says(confidence):
    random = np.random.default_rng(0)
    values = random.normal(4.0, 5.0, (4000, 20))
    estimates = [Uncertain(each.mean(), each.std(ddof=1) / 20**0.5, 19) for each in values]
    above = np.mean([credit(each, confidence=confidence).credited > 4.0 for each in estimates])
    assert above == pytest.approx(1 - confidence, abs=0.02)


@pytest.mark.parametrize("wrong", [{"rule": "none"}, {"confidence": 0.3}, {"level": 1.0}, {"threshold": -0.1}])
def test_refused(wrong):
    with pytest.raises(ValueError, match=r"rule|confidence"):
        credit(Uncertain(1.0, 1.0), **wrong)
