"""Adam over pieces of one buffer (Kingma and Ba 2015, arXiv 1412.6980), each piece with a rate of its own.

In: weights and gradients that stay where they are, rates. Out: the weights have moved. What it remembers can be saved and put back.

The arithmetic is PyTorch's, by the function behind `torch.optim.Adam`. The class would import PyTorch's compiler, which takes
longer than all else up to the first step.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam


class Piece(NamedTuple):
    """Weights that move at one rate.

    Attributes
    ----------
    value, gradient, mean, square
        (k,) the weights, their gradients, and the running means of these and of their squares.
    steps
        () float32, how many were taken.
    """

    value: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor


class Adam:
    """Steps of Adam, with its usual constants, no weight decay, and bias correction.

    Parameters
    ----------
    values, gradients
        Pieces (k,) of the weights and their gradients, on one device; read and written in place by every step.
    rates
        The learning rate of each.

    Attributes
    ----------
    rates
        The rates steps are taken at now: numbers; on a GPU tensors there, which a captured step reads.
    """

    def __init__(self, values: list[Tensor], gradients: list[Tensor], rates: list[float]) -> None:
        self._set = rates
        self.pieces = [
            Piece(value, gradient, torch.zeros_like(value), torch.zeros_like(value), value.new_zeros((), dtype=torch.float32))
            for value, gradient in zip(values, gradients, strict=True)
        ]
        self.rates: list[float | Tensor] = [
            torch.tensor(rate, device=value.device) if value.is_cuda else rate for value, rate in zip(values, rates, strict=True)
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights down their gradients."""
        for (value, gradient, mean, square, steps), rate in zip(self.pieces, self.rates, strict=True):
            adam(
                [value], [gradient], [mean], [square], [], [steps], fused=True, capturable=value.is_cuda,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip

    def scale_rates(self, factor: float) -> None:
        """Take further steps at so many times the rates that were set at first."""
        for k, rate in enumerate(self._set):
            now = self.rates[k]
            if isinstance(now, Tensor):
                now.fill_(rate * factor)
            else:
                self.rates[k] = rate * factor

    def memory(self) -> list[Tensor]:
        """Return what is remembered from step to step, in place."""
        return list(chain.from_iterable((piece.mean, piece.square, piece.steps) for piece in self.pieces))

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what is remembered."""
        return {str(k): tensor.clone() for k, tensor in enumerate(self.memory())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` told.

        Raises
        ------
        ValueError
            If it is of other pieces.
        """
        memory = self.memory()
        theirs = [value for k in range(len(memory)) if isinstance(value := state.get(str(k)), Tensor)]
        if len(state) != len(memory) or [(each.shape, each.dtype) for each in theirs] != [
            (each.shape, each.dtype) for each in memory
        ]:
            raise ValueError("Adam's memory is of other weights")
        for tensor, value in zip(memory, theirs, strict=True):
            tensor.copy_(value)
