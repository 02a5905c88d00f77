"""Pretrain on the profiles of the whole world.

    python train_global.py                                     the example world, made first if it is not there
    python train_global.py --data_dir data/mine --run mine     your dataset (prepare.py makes one)

Writes model/pretrain_model/<run>.pth and log/<run>/ (tensorboard --logdir log).
"""

import sys
from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import run
from soilcarbon.settings import GlobalSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(GlobalSettings, __doc__, arguments)
    from soilcarbon.training.run import run_and_report  # here: PyTorch is slow to import, and --help needs none of it

    run_and_report(settings)


if __name__ == "__main__":
    sys.exit(run(main))
