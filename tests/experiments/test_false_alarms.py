"""The known answer: a model that overdoes temperature and productivity and lacks lithology is told of as just that.

Quick counterparts, of a plainer law, are in test_mismatch.
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


def test_the_faulty_model_is_named_for_its_faults_and_nothing_else():
    found = false_alarms.trial(1, 800, FAULTY, 20)
    assert {words for words in found["named"] if words.startswith("importance")} == {
        *("importance temperature +", "importance productivity +", "importance lithology and texture -"),
    }
    assert {words for words in found["named"] if words.startswith("response")} <= {"response bio01 -", "response evi_mean +"}


def test_a_model_of_the_same_law_is_not_named():
    assert false_alarms.trial(1, 300, Pedogenesis(), 14)["named"] == []
