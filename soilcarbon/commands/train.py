"""Pretrain the network on the profiles of the whole world, or train one from scratch on your own.

    soilcarbon train                                       the example world, made first if it is not there
    soilcarbon train --data_dir data/mine --run mine       your dataset (made by soilcarbon prepare)

The same as `python train_global.py`. Writes model/pretrain_model/<run>.pth and log/<run>/ (tensorboard --logdir log).
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soilcarbon.commands.arguments import ensure_example_world, read_settings
from soilcarbon.io.interruption import end_with_parent
from soilcarbon.settings import GlobalSettings, TrainSettings

if TYPE_CHECKING:
    from soilcarbon.training.ensemble import Distil


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(GlobalSettings, __doc__, arguments, "soilcarbon train")
    ensure_example_world(settings.data_dir)
    run(settings)


def run(settings: TrainSettings, distil: "Distil | None" = None) -> None:
    """Train by the settings, as a single process or one of a `torchrun` job, and print the scores.

    `distil`: see `training.run.train`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_with_parent()  # torchrun
    import torch  # here: it is slow to import, and --help needs none of it

    from soilcarbon.training.distributed import is_rank_zero, process_group
    from soilcarbon.training.ensemble import SMALL_BATCH
    from soilcarbon.training.run import train

    if settings.batch_size <= SMALL_BATCH or settings.members > 1:  # several members are trained side by side
        torch.set_num_threads(1)
    with process_group():
        scores = train(settings, distil)
        if not is_rank_zero():
            return
        names = ("rmse", "mae", "me", "r2", "ccc")
        print(f"{settings.run} -> {settings.checkpoint_path}")
        print("split      n " + "".join(f"{name:>9}" for name in names))
        for split, numbers in scores.items():
            shown = ("-" if (value := numbers[name]) is None else format(value, "9.3f") for name in names)
            print(f"{split:<6}{numbers['n']:>6}" + "".join(f"{value:>9}" for value in shown))
