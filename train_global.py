"""Pretrain on the profiles of the whole world.

    python train_global.py                                     the example world, made first if it is not there
    python train_global.py --data_dir data/mine --run mine     your dataset (soilcarbon prepare makes one)

Values come from config.py, then a YAML file (--config), then flags. Writes model/pretrain_model/<run>.pth and log/<run>/
(tensorboard --logdir log).
"""

import sys
from collections.abc import Sequence

import config
from soilcarbon.commands import train
from soilcarbon.commands.arguments import ensure_example_world, read_settings
from soilcarbon.io.files import run
from soilcarbon.settings import GlobalSettings, with_defaults


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(with_defaults(GlobalSettings, config.TRAIN_GLOBAL), __doc__, arguments, "train_global.py")
    ensure_example_world(settings.data_dir)
    train.run(settings.with_table(config.CATEGORIES))


if __name__ == "__main__":
    sys.exit(run(main))
