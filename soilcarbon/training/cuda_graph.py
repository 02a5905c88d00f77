"""CUDA graphs of optimiser steps: one step captured on a GPU, and replayed for every whole batch.

At batch 32 a step is some fifty kernels of a few microseconds each, and Python takes longer to launch them than they run. A graph
launches all of them at once.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from soilcarbon.training.accelerator import Accelerator

log = logging.getLogger(__name__)
WARM_UPS = 3
"""Steps before the capture, in which libraries allocate what they keep."""


def capture(step: Callable[[], object]) -> Callable[[], object]:
    """Capture an optimiser step as a CUDA graph, after a few warm-up steps, and return the function that replays it."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class GraphedSteps:
    """Optimiser steps replayed as a CUDA graph, one call per whole batch; all changing values lie on the device.

    Parameters
    ----------
    optimiser
        Whose weights move.
    encoded, output
        (n, E) and (n,), on its device; where they lie must not change.
    batch_size
        At most n.
    """

    def __init__(self, optimiser: "Accelerator", encoded: Tensor, output: Tensor, batch_size: int) -> None:
        self.optimiser, self.encoded, self.output, self.batch_size = optimiser, encoded, output, batch_size
        self.order, self.number = (torch.zeros(n, dtype=torch.int64, device=output.device) for n in (len(output), 1))
        self.within = torch.arange(batch_size, device=output.device)
        self.losses = output.new_zeros(len(output) // batch_size)
        changed = [optimiser.trained.value, *optimiser.memory]  # and random numbers: afterwards they are what they were
        before = [tensor.clone() for tensor in changed]
        with torch.random.fork_rng([output.device] if output.is_cuda else []):
            try:
                self.replay = capture(self._step)
            except RuntimeError as error:  # a driver or a library that cannot
                log.info("steps are taken call by call: no CUDA graph could be captured (%s)", error)
                self.replay = self._step
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def epoch(self, order: Tensor) -> Tensor:
        """Take one pass in the given order (n,), and return each batch's loss; nothing in it waits for the device."""
        self.order.copy_(order)
        self.number.zero_()
        for _ in range(len(self.losses)):
            self.replay()
        rest = order[len(self.losses) * self.batch_size :]
        last = [self.optimiser.steps(self.encoded, self.output, rest, self.batch_size)] if len(rest) else []
        return torch.cat([self.losses, *last])

    def _step(self) -> None:
        rows = self.order[self.number * self.batch_size + self.within]
        loss = self.optimiser.gradients(self.encoded[rows], self.output[rows], self.batch_size)
        self.losses.index_copy_(0, self.number, loss[None])
        self.optimiser.adam_step()
        self.number.add_(1).remainder_(len(self.losses))
