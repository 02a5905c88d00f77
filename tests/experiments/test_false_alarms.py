"""Validation with known truth: a model that exaggerates temperature and productivity and lacks lithology is found to do just that.

Quick counterparts, with a simpler relationship, are in test_mismatch.
"""

import sys
from pathlib import Path

import pytest

from soilcarbon.drivers.subsampling import BUDGETS
from soilcarbon.simulation.earth_system_model import FAULTY
from soilcarbon.simulation.world import Pedogenesis

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import false_alarms

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _kept(monkeypatch):
    monkeypatch.setitem(BUDGETS, "boosting", BUDGETS["boosting"])  # the benchmark sets its own


def test_the_faults_of_the_model_are_significant_and_nothing_else():
    found = false_alarms.experiment(1, 800, FAULTY, 20)
    assert {words for words in found["significant"] if words.startswith("importance")} == {
        *("importance temperature +", "importance productivity +", "importance lithology and texture -")
    }
    assert {words for words in found["significant"] if words.startswith("response")} <= {"response bio01 -", "response evi_mean +"}


def test_nothing_is_significant_of_a_model_with_the_same_equation():
    assert false_alarms.experiment(1, 300, Pedogenesis(), 14)["significant"] == []
