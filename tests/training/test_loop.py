"""The training loop: what a schedule changes."""

import numpy as np
import pytest
import torch
from torch import nn

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training import ensemble
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


@pytest.mark.parametrize(("batch", "threads"), [(32, 1), (1024, 2)])
def test_small_batches_have_one_thread(batch, threads, monkeypatch):
    facts = Specification(categories=(Category(name="relief", variables=("a",)),))
    x = torch.zeros(4, facts.input_width)
    known = ensemble.TrainingData(Profiles(x, x[:, 0], np.zeros(4)), 3, np.arange(4))
    seen = []
    monkeypatch.setattr(ensemble, "_train_with_files", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ensemble.train_members(ensemble.Members(facts, [], known, Schedule(1, batch_size=batch), 2, 0))
        assert seen == [threads, threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_layers_with_buffers_are_refused():
    facts = Specification()
    member = Member(facts)
    member.features_topo.append(nn.BatchNorm2d(32))
    profiles = Profiles(torch.zeros(8, 32), torch.zeros(8), np.zeros(8))
    with pytest.raises(UserError, match="features_topo.1.running_mean: is a buffer.*GroupNorm"):
        fit(member, TrainingSets(profiles, profiles, profiles, facts), Schedule(1))
    member.features_topo[1] = nn.GroupNorm(4, 32)
    fit(member, TrainingSets(profiles, profiles, profiles, facts), Schedule(1))
