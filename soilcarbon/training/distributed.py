"""Processes that train one network together: each takes its share of every batch, and all take the same step.

In: the environment that `torchrun` gives its processes. Out: gradients added up over them. The first process alone writes and
speaks. A process by itself is a crew of one.

    torchrun --standalone --nproc_per_node 2 -- train_global.py --data_dir data/mine --run mine
"""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from soilcarbon.io.files import UserError


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(count: int) -> slice:
    """Return this process's part of `count` profiles; the parts are as equal as can be, and some may be empty."""
    n = size()
    rank = distributed.get_rank() if n > 1 else 0
    return slice(count * rank // n, count * (rank + 1) // n)


def add_up(values: Tensor) -> None:
    """Replace values by their sum over all processes, the same bits in each.

    Raises
    ------
    UserError
        If another process has ended.
    """
    if size() > 1:
        try:
            distributed.all_reduce(values)
        except RuntimeError as error:
            raise UserError("another process of this run has ended; start all of them again, with --resume") from error


def agreed(value: float | None) -> float | None:
    """Return the first process's value, lest machines that round differently part ways."""
    if size() == 1:
        return value
    known = torch.tensor([math.nan if value is None else value], dtype=torch.float64)
    distributed.broadcast(known, 0)
    return None if known.isnan() else float(known)


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that `torchrun` started beside this one, if it did; but the first, they are silent."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else None
    if device is not None:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device is not None else "gloo")
    try:
        if not is_first():
            logging.disable(logging.ERROR)
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends
        yield
    finally:
        distributed.destroy_process_group()
