"""Fine-tune a pretrained network on the profiles of a region.

    python train_regional.py                                                region anhui of the example world
    python train_regional.py --config configs/sim_regional.yaml --run denmark --data_dir data/sim/denmark
    python train_regional.py --run mine --data_dir data/mine --init_from model/pretrain_model/GSoilCPM.pth

Values come from config.py, then a YAML file (--config), then flags. Writes model/<run>.pth and log/<run>/
(tensorboard --logdir log). Then: python pred.py --checkpoint model/<run>.pth
"""

import sys
from collections.abc import Sequence

import config
from soilcarbon.commands import finetune
from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import run
from soilcarbon.settings import RegionalSettings, with_defaults


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    finetune.run(read_settings(with_defaults(RegionalSettings, config.TRAIN_REGIONAL), __doc__, arguments, "train_regional.py"))


if __name__ == "__main__":
    sys.exit(run(main))
