"""Data-parallel training: the processes of a `torchrun` job share every batch and take the same optimiser step.

    torchrun --standalone --nproc_per_node 2 -- train_global.py --data_dir data/mine --run mine

Gradients are summed over all processes. Only rank 0 writes files and logs. Without `torchrun` there is a single process.
"""

import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from soilcarbon.io.files import UserError


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_rank_zero() -> bool:
    """Return whether this process is rank 0."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(count: int) -> slice:
    """Return this process's part of `count` profiles; parts differ by one at most, and some may be empty."""
    n = size()
    rank = distributed.get_rank() if n > 1 else 0
    return slice(count * rank // n, count * (rank + 1) // n)


def add_gradients(gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Replace gradients by their sum over all processes, in one all-reduce, and return the sum of the loss.

    Raises
    ------
    UserError
        If another process has ended.
    """
    if size() == 1:
        return loss
    message = torch.cat([*(each.flatten() for each in gradients), loss.detach()[None]])
    try:
        distributed.all_reduce(message)
    except RuntimeError as error:
        raise UserError("another process of this run has ended; start all of them again, with --resume") from error
    for gradient, total in zip(gradients, message[:-1].split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
    return message[-1]


def broadcast(value: float | None) -> float | None:
    """Broadcast rank 0's value, so that all processes choose the same epoch although they may round differently."""
    if size() == 1:
        return value
    known = torch.tensor([math.nan if value is None else value], dtype=torch.float64)
    distributed.broadcast(known, 0)
    return None if known.isnan() else float(known)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of a `torchrun` job, if there is one; ranks above 0 print nothing. For use in commands."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else None
    if device is not None:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device is not None else "gloo")
    try:
        if not is_rank_zero():
            logging.disable(logging.ERROR)
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
        yield
    finally:
        distributed.destroy_process_group()
