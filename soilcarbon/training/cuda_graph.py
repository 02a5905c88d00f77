"""A pass over the profiles on a GPU: one step captured as a CUDA graph, and replayed for every whole batch.

In: a descent, the profiles it learns from, the size of a batch. Out: a pass in any order, without the single calls.

At batch 32 a step is some fifty kernels of a few microseconds each, and Python takes longer to launch them than they run. A graph
launches all of them at once. Nothing that changes from step to step may then be the host's: which batch it is, the order, the rates
and the losses lie on the device.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from soilcarbon.training import distributed as crew
from soilcarbon.training.optimiser import Descent

log = logging.getLogger(__name__)
WARM_UPS = 3
"""Steps before the capture, in which libraries allocate what they keep."""

Step = Callable[[], object]


def passes(descent: Descent, encoded: Tensor, output: Tensor, batch_size: int) -> Callable[[Tensor], Tensor]:
    """Return what takes one pass over encoded inputs (n, E) and outputs (n,): an order (n,) to each batch's loss (batches,).

    On a GPU by a captured step; elsewhere, and with several processes (`crew`), by `Descent.epoch`.
    """
    if descent.device.type == "cuda" and crew.size() == 1 and len(output) >= batch_size:
        return Captured(descent, encoded, output, batch_size).epoch
    return lambda order: descent.epoch(encoded, output, order, batch_size)


def cuda_graph(step: Step) -> Step:
    """Take a few steps, capture one, and return what replays it."""
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


class Captured:
    """Steps of whole batches as one call each, which is made when the first pass is taken.

    Parameters
    ----------
    descent
        Whose weights move.
    encoded, output
        (n, E) and (n,), on its device; where they lie must not change.
    batch_size
        At most n.
    capture
        Takes a step and returns what does the same; it may take steps itself, which are undone.
    """

    def __init__(
        self, descent: Descent, encoded: Tensor, output: Tensor, batch_size: int, capture: Callable[[Step], Step] = cuda_graph
    ) -> None:
        self.descent, self.encoded, self.output, self.batch_size = descent, encoded, output, batch_size
        self.order = torch.zeros(len(output), dtype=torch.int64, device=output.device)
        self.number = torch.zeros(1, dtype=torch.int64, device=output.device)
        self.within = torch.arange(batch_size, device=output.device)
        self.losses = output.new_zeros(len(output) // batch_size)
        self._capture, self._replay = capture, None  # type: tuple[Callable[[Step], Step], Step | None]

    @torch.no_grad()
    def epoch(self, order: Tensor) -> Tensor:
        """Take one pass in the given order (n,), and return each batch's loss; nothing in it waits for the device."""
        replay = self._replay = self._replay or self._captured()
        self.order.copy_(order)
        self.number.zero_()
        for _ in range(len(self.losses)):
            replay()
        rest = order[len(self.losses) * self.batch_size :]
        if not len(rest):
            return self.losses.clone()
        return torch.cat([self.losses, self.descent.epoch(self.encoded, self.output, rest, self.batch_size)])

    def _step(self) -> None:
        """Take the step of batch `number`, and count on."""
        rows = self.order[self.number * self.batch_size + self.within]
        loss = self.descent.gradients(self.encoded[rows], self.output[rows], self.batch_size)
        self.losses.index_copy_(0, self.number, loss[None])
        self.descent.adam.step()
        self.number.add_(1).remainder_(len(self.losses))

    def _captured(self) -> Step:
        """Return what replays a step; weights, Adam's memory and random numbers are what they were before."""
        changed = [self.descent.trained.value, *self.descent.adam.memory()]
        before = [tensor.clone() for tensor in changed]
        with torch.random.fork_rng([self.descent.device] if self.descent.device.type == "cuda" else []):
            try:
                return self._capture(self._step)
            except RuntimeError as error:  # a driver or a library that cannot
                log.info("steps are taken call by call: no CUDA graph could be made of them (%s)", error)
                return self._step
            finally:
                for tensor, value in zip(changed, before, strict=True):
                    tensor.copy_(value)
