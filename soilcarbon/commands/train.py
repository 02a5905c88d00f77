"""Pretrain the network on the profiles of the whole world, or train one from scratch on your own.

    soilcarbon train                                       the example world, made first if it is not there
    soilcarbon train --data_dir data/mine --run mine       your dataset (made by soilcarbon prepare)

The same as `python train_global.py`. Writes model/pretrain_model/<run>.pth and log/<run>/ (tensorboard --logdir log).
"""

from collections.abc import Sequence

from soilcarbon.commands.arguments import ensure_example_world, read_settings
from soilcarbon.settings import GlobalSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(GlobalSettings, __doc__, arguments, "soilcarbon train")
    ensure_example_world(settings.data_dir)
    from soilcarbon.training.run import run_and_report  # here: PyTorch is slow to import, and --help needs none of it

    run_and_report(settings)
