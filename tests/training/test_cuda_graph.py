"""Captured steps are the steps of `Descent.epoch`, whatever the capture itself did on the way."""

import pytest
import torch

from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training.cuda_graph import Captured, passes
from soilcarbon.training.optimiser import Descent

N, BATCH = 110, 32


def member_of(device="cpu"):
    member = Member(Specification())
    member.initialise(1)
    return member.to(device)


def profiles(device="cpu"):
    random = torch.Generator().manual_seed(3)
    return torch.randn(N, 32, generator=random).to(device), torch.randn(N, generator=random).to(device)


def orders(count):
    random = torch.Generator().manual_seed(5)
    return [torch.randperm(N, generator=random) for _ in range(count)]


def warmed_up(step):
    """What a capture does that can be done without a GPU: a few steps of its own."""
    for _ in range(3):
        step()
    return step


def unable(step):
    step()
    raise RuntimeError("no graph")


def trained(one_pass, descent, device="cpu"):
    torch.manual_seed(7)
    losses = []
    for k, order in enumerate(orders(4)):
        descent.adam.scale_rates(1 - k / 4)
        losses.append(one_pass(order.to(device)))
    return torch.cat(losses), descent.trained.value.clone()


def test_passes_are_those_of_single_calls_to_the_bit():
    x, y = profiles()
    plain = Descent(member_of(), 1e-3, layer_decay=0.5, l2_sp=0.1)
    expected = trained(lambda order: plain.epoch(x, y, order, BATCH), plain)
    assert len(expected[0]) == 4 * 4  # three whole batches and a rest in each pass
    for capture in (warmed_up, unable, lambda step: step):
        descent = Descent(member_of(), 1e-3, layer_decay=0.5, l2_sp=0.1)
        found = trained(Captured(descent, x, y, BATCH, capture).epoch, descent)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_a_pass_of_whole_batches_has_no_rest():
    x, y = (each[:96] for each in profiles())
    descent, plain = Descent(member_of(), 1e-3), Descent(member_of(), 1e-3)
    torch.manual_seed(7)
    expected = plain.epoch(x, y, torch.arange(96), BATCH)
    torch.manual_seed(7)
    assert torch.equal(Captured(descent, x, y, BATCH, warmed_up).epoch(torch.arange(96)), expected)


def test_losses_of_a_pass_stay_when_the_next_is_taken():
    x, y = (each[:96] for each in profiles())
    captured = Captured(Descent(member_of(), 1e-2), x, y, BATCH, warmed_up)
    first = captured.epoch(torch.arange(96))
    kept = first.clone()
    captured.epoch(torch.arange(96))
    assert torch.equal(first, kept)


def test_a_capture_after_steps_keeps_what_adam_remembers():
    """As when a run is resumed: the memory is there before the first captured step."""
    x, y = profiles()
    descent = Descent(member_of(), 1e-3)
    descent.epoch(x, y, torch.arange(N), BATCH)
    before = descent.adam.state()
    Captured(descent, x, y, BATCH, warmed_up)._captured()
    assert before["2"] == 4
    for name, value in descent.adam.state().items():
        assert torch.equal(before[name], value), name


def test_without_a_gpu_nothing_is_captured(monkeypatch):
    x, y = profiles()
    monkeypatch.setattr("soilcarbon.training.cuda_graph.Captured", None)
    losses = passes(Descent(member_of(), 1e-3), x, y, BATCH)(torch.arange(N))
    assert losses.shape == (4,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_learns_as_single_calls_do():
    x, y = profiles("cuda")
    plain, descent = (Descent(member_of("cuda"), 1e-3) for _ in range(2))
    expected = trained(lambda order: plain.epoch(x, y, order, BATCH), plain, "cuda")
    captured = Captured(descent, x, y, BATCH)
    found = trained(captured.epoch, descent, "cuda")
    assert captured._replay is not None
    assert captured._replay.__name__ == "replay", "no graph could be captured"
    # Dropout is drawn from other places of the same stream, so that only the way down is alike.
    torch.testing.assert_close(found[0].mean(), expected[0].mean(), rtol=0.2, atol=0.05)
    assert found[0][-4:].mean() < found[0][:4].mean()
