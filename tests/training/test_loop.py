"""The training loop: what a schedule changes."""

import numpy as np
import pytest
import torch

from soilcarbon.categories import Category
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training.loop import Profiles, Schedule, TrainingSets, fit

COLUMNS = {"numbers": 0, "windows": 1}
"""Name -> radius: networks that the accelerator covers in two ways."""


@pytest.mark.parametrize("radius", COLUMNS.values(), ids=COLUMNS)
def test_without_dropout_weights_do_not_depend_on_random_numbers_drawn_in_training(radius):
    facts = Specification(categories=(Category(name="relief", variables=("a", "b"), radius=radius),))
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(64, facts.input_width, generator=drawn)
    profiles = Profiles(x, x[:, 0], x[:, 0].double().numpy())

    def outputs(seed, dropout):
        member = Member(facts)
        member.initialise(0)
        torch.manual_seed(seed)
        schedule = Schedule(2, select_on="none", dropout=dropout)
        best = fit(member, TrainingSets(profiles, profiles, profiles, facts), schedule)
        assert best.epoch == 2
        return member.eval()(x).detach().numpy()

    np.testing.assert_array_equal(outputs(1, False), outputs(2, False))
    assert np.abs(outputs(1, True) - outputs(2, True)).max() > 1e-4
