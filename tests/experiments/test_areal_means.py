"""Intervals of means on simulated regions: one small case, whose truth is known, from survey to table."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import areal_means
from areal_means import evaluate, survey


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(areal_means, "CELL", 0.4)


def test_a_survey_is_of_the_truth_in_both_periods():
    region = survey(5, "denmark", 200, "even", "both")
    assert set(region.period) == {2000, 2020}
    assert region.cells.shape[:2] == region.truth.shape
    assert (region.truth[1] < region.truth[0]).mean() > 0.6  # warmer soils hold less
    assert not np.allclose(region.cells[0], region.cells[1], equal_nan=True)


def test_errors_that_are_known_are_found_again():
    """Held-out predictions that are 3 too low everywhere: the corrected mean is near the truth, and the interval holds it."""
    region = survey(5, "denmark", 300, "even", "no")
    held_out = np.maximum(region.y - 3 + np.random.default_rng(0).normal(size=300), 0)
    mapped = areal_means.Mapped(region.truth - 3, held_out, np.arange(300) % 5, held_out)
    zone = next(evaluate(region, mapped))
    assert abs(zone["mean"] - zone["truth"]) < 0.6 < 2.5 < abs(zone["map"] - zone["truth"])
    assert zone["lower"] <= zone["truth"] <= zone["upper"]
