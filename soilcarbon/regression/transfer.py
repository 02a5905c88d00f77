"""Pretrained networks that learners start from, and the world's profiles that their teachers are fitted to as well.

In: a checkpoint, and a region's dataset folder. Out: the dataset with the columns that the network takes and gains, a `Transfer`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.settings import Layout
from soilcarbon.soil.dataset import Dataset, read_dataset, read_statistics
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.training.run import categories_of_transfer, read_world
from soilcarbon.training.uncertainty import rows_outside

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transfer:
    """A network to start from.

    Attributes
    ----------
    network
        The pretrained network, which grows where a task has further categories. Its transform of the target is the task's.
    world
        The world's profiles, in the task's columns, to which teachers are also fitted; None: there are none.
    """

    network: SoilCarbonNet
    world: Dataset | None = None

    def outside(self, region: Dataset) -> "Transfer":
        """Return the same without those of the world's profiles that lie in a place, or block, of the region's.

        Raises
        ------
        UserError
            If none is left.
        """
        if self.world is None:
            return self
        rows = rows_outside(self.world, region)
        if not len(rows):
            raise UserError(
                "global_data: every training profile lies in a place or block of this region; drop it, or name the world's"
            )
        return replace(self, world=replace(self.world, split={"train": rows}))


def read_transfer(
    checkpoint: Path | None,
    folder: Path,
    categories: Sequence[Category] | None,
    splits: Sequence[str],
    target: str | None = None,
    global_data: Path | None = None,
) -> tuple[Dataset, Transfer | None]:
    """Read a region's dataset, a network that is transferred to it, and the world's profiles.

    Parameters
    ----------
    checkpoint
        The network's; the bare published file takes the dataset's statistics. None: no network is transferred.
    folder, categories, splits
        The region's dataset, the variables to use (None: its own) and its splits.
    target
        Column to predict; None: the checkpoint's, or soc.
    global_data
        Folder of the world's dataset.

    Raises
    ------
    UserError
        If the files do not fit each other.
    """
    if checkpoint is None:
        return read_dataset(folder, categories, splits, target=target or "soc"), None
    network = load_checkpoint(checkpoint)
    facts = network.specification
    if target not in (None, facts.target):
        raise UserError(f"{checkpoint}: predicts {facts.target!r}, not {target!r}; drop --init_from or --target")
    if facts.statistics is None:
        network.respecify(statistics=read_statistics(folder / Layout().stats, facts.categories))
    wanted = categories_of_transfer(network, checkpoint, folder, categories)
    data = read_dataset(folder, wanted, splits, target=facts.target)
    if global_data is None:
        log.warning(
            "init_from: if %s was pretrained on profiles of this area, scores of networks that start from it are too good; "
            "--global_data, the dataset of its pretraining, tells",
            checkpoint.name,
        )
        return data, Transfer(network)
    known = {each.name for each in facts.categories}
    world = read_world(global_data, data, {each.name for each in wanted} - known, facts.target)
    rows = np.concatenate([np.asarray(data.split[name], np.int64) for name in splits if name in data.split])
    there = world.split["train"]
    seen = np.isin(spatial_groups(data.lon[rows], data.lat[rows]), spatial_groups(world.lon[there], world.lat[there])).sum()
    if seen:
        log.warning(
            "global_data: %d of %d profiles lie where a training profile of it does; if %s was pretrained on them, scores of "
            "networks that start from it are too good",
            seen, len(rows), checkpoint.name,
        )  # fmt: skip
    return data, Transfer(network, world)
