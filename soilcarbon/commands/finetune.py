"""Fine-tune a pretrained network on the profiles of a region.

    soilcarbon finetune                                                              region anhui of the example world
    soilcarbon finetune --run mine --data_dir data/mine --init_from model/pretrain_model/GSoilCPM.pth

The same as `python train_regional.py`. Writes model/<run>.pth and log/<run>/ (tensorboard --logdir log).
"""

from collections.abc import Sequence

from soilcarbon.commands import train
from soilcarbon.commands.arguments import ensure_example_world, read_settings
from soilcarbon.io.files import UserError
from soilcarbon.settings import RegionalSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(RegionalSettings, __doc__, arguments, "soilcarbon finetune")
    run(settings)


def run(settings: RegionalSettings) -> None:
    """Fine-tune by the settings, and print the scores; UserError if no checkpoint to start from is given."""
    if settings.init_from is None and not settings.given("init_from"):
        raise UserError("--init_from is required: the checkpoint to fine-tune, or none to train from scratch")
    ensure_example_world(settings.data_dir)
    if settings.teacher == "none":
        train.run(settings)
        return
    from soilcarbon.training.distillation import distil  # here: scikit-learn's trees are slow to import

    train.run(settings, distil)
