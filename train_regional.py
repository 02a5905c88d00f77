"""Fine-tune a pretrained network on the profiles of a region.

    python train_regional.py                                                region anhui of the example world
    python train_regional.py --config configs/sim_regional.yaml --run denmark --data_dir data/sim/denmark
    python train_regional.py --run mine --data_dir data/mine --init_from model/pretrain_model/GSoilCPM.pth

Writes model/<run>.pth and log/<run>/ (tensorboard --logdir log). Then: python pred.py --checkpoint model/<run>.pth
"""

import sys
from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, run
from soilcarbon.settings import RegionalSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(RegionalSettings, __doc__, arguments)
    if settings.init_from is None and not settings.given("init_from"):
        raise UserError("--init_from is required: the checkpoint to fine-tune, or none to train from scratch")
    from soilcarbon.training.run import run_and_report  # here: PyTorch is slow to import, and --help needs none of it

    run_and_report(settings)


if __name__ == "__main__":
    sys.exit(run(main))
