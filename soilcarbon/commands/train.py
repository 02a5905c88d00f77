"""Pretrain the network on the profiles of the whole world, or train one from scratch on your own.

    soilcarbon train                                       the example world, made first if it is not there
    soilcarbon train --data_dir data/mine --run mine       your dataset (made by soilcarbon prepare)

The same as `python train_global.py`. Writes model/pretrain_model/<run>.pth and log/<run>/ (tensorboard --logdir log).
"""

from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.commands.simulate import SimulateSettings
from soilcarbon.settings import GlobalSettings, RunSettings


def ensure_example_world(settings: RunSettings) -> None:
    """Make the example world if the data are to lie in it and it is not there."""
    world = SimulateSettings()
    if settings.data_dir.parent == world.out and not any(world.out.glob("*/dataset.yaml")):
        from soilcarbon.commands import simulate  # here: most runs need none of it

        simulate.main([])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(GlobalSettings, __doc__, arguments, "soilcarbon train")
    ensure_example_world(settings)
    from soilcarbon.training.run import run_and_report  # here: PyTorch is slow to import, and --help needs none of it

    run_and_report(settings)
