"""Adam over pieces: PyTorch's own, its memory saved and put back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from soilcarbon.training.adam import Adam


def pieces(*lengths):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=random, dtype=torch.float64) for n in lengths]


def test_the_way_is_that_of_torch_with_a_rate_for_each_piece():
    values, gradients, rates = pieces(5, 3), pieces(5, 3), [0.1, 0.001]
    theirs = [nn.Parameter(value.clone()) for value in values]
    plain = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in zip(theirs, rates, strict=True)])
    adam = Adam(values, gradients, rates)
    for k in range(20):
        for value, gradient, parameter in zip(values, gradients, theirs, strict=True):
            gradient.copy_(value**2 + k)
            parameter.grad = gradient.clone()
        if k == 10:
            adam.scale_rates(0.5)
            for group, rate in zip(plain.param_groups, rates, strict=True):
                group["lr"] = rate / 2
        adam.step()
        plain.step()
    for value, parameter in zip(values, theirs, strict=True):
        torch.testing.assert_close(value, parameter.detach(), rtol=1e-12, atol=1e-14)


def test_memory_put_back_goes_on_with_the_same_bits():
    values, gradients = pieces(5, 3), pieces(5, 3)
    adam = Adam(values, gradients, [0.1, 0.01])
    adam.step()
    state, there = adam.state(), [value.clone() for value in values]
    adam.step()
    other = Adam(there, gradients, [0.1, 0.01])
    other.restore(state)
    other.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(values, there, strict=True))
    assert state["2"] == 1, "a state is a copy"


@pytest.mark.parametrize(
    "damaged",
    [
        lambda state: state.pop("0"),
        lambda state: state.update(more=torch.zeros(1)),
        lambda state: state.update({"0": torch.zeros(4, dtype=torch.float64)}),
        lambda state: state.update({"0": torch.zeros(5)}),
        lambda state: state.update({"0": [0.0] * 5}),
    ],
)
def test_memory_of_other_weights_is_refused_and_nothing_changes(damaged):
    adam = Adam(pieces(5), pieces(5), [0.1])
    adam.step()
    before, state = adam.state(), adam.state()
    damaged(state)
    with pytest.raises(ValueError, match="other weights"):
        adam.restore(state)
    assert all(torch.equal(before[name], value) for name, value in adam.state().items())


def test_taking_steps_does_not_import_the_compiler():
    """It would double the time up to the first step."""
    steps = "import sys, torch; from soilcarbon.training import adam\nadam.Adam([torch.ones(3)], [torch.ones(3)], [0.1]).step()\n"
    code = steps + "assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
