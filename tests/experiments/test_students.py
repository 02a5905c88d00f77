"""The experiment on variants of distillation: shares in the teacher, and what members are compared with."""

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import students

from soilcarbon.network.specification import Specification
from soilcarbon.training.distillation import NETWORK_SHARE
from soilcarbon.training.loop import Profiles, Schedule, TrainingSets


def test_another_share_of_the_fine_tuned_network():
    trees, tuned = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
    mixed = Profiles(torch.zeros(2, 1), trees + NETWORK_SHARE * (tuned - trees), np.zeros(2))
    found = students.with_share(TrainingSets(mixed, mixed, mixed, Specification()), tuned, 0.5)
    torch.testing.assert_close(found.fit.output, torch.tensor([0.5, 2.0]))
    assert found.train is mixed


def test_the_schedule_before_is_one_of_the_loop():
    assert set(students.WITH_DROPOUT) <= {each.name for each in fields(Schedule)}


def test_variants_are_compared_with_as_many_present_members_which_stand_for_those_they_lack():
    present = pd.DataFrame({"observed": [1.0], "group": [0], "present:0": [2.0], "present:1": [4.0], "present:2": [9.0]})
    few = pd.DataFrame({"observed": [1.0], "group": [0], "weights:0": [3.0], "weights:1": [7.0]})
    assert students.combined(few, present).iloc[0].to_dict() == {"observed": 1, "group": 0, "present": 3, "weights": 5}
    last = pd.DataFrame({"observed": [1.0], "group": [0], "two pretrainings:2": [6.0]})
    assert students.combined(last, present).iloc[0].to_dict() == {"observed": 1, "group": 0, "present": 5, "two pretrainings": 4}
