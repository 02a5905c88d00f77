"""A dataset folder, in the published layout or ours, as per-category 2-D covariate patch tensors, targets and splits.

    python utils.py data/sim/anhui                          what the folder holds
    python utils.py DL_inputs/regional/anhui                the published layout is recognised by its samples/ folder

In Python:

    data = utils.load_dataset("data/sim/anhui")
    data.patches["climate"]          (N, C, S, S) float32, raw units, NaN where missing; S = 2r+1
    data.target[data.split["train"]]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import CATEGORIES
from soilcarbon.categories import category_views
from soilcarbon.commands.arguments import from_yaml
from soilcarbon.io.files import UserError, run
from soilcarbon.settings import PRESETS, RunSettings, build
from soilcarbon.soil.dataset import read_dataset, read_statistics

PUBLISHED_LAYOUT = PRESETS / "published_layout.yaml"


@dataclass(frozen=True)
class PatchData:
    """N profiles as tensors.

    Attributes
    ----------
    ids
        Profile ids, N texts.
    patches
        Category -> (N, C, S, S) float32: C variables in the order of the table, S = 2r+1 cells; raw units, NaN where missing.
    target
        (N,) float32, in the target's unit (SOC: g/kg); NaN where not observed.
    split
        "train", "valid", "test" -> row numbers (n,) int64.
    statistics
        Variable -> (mean, standard deviation) in raw units, from the dataset's file.
    """

    ids: list[str]
    patches: dict[str, Tensor]
    target: Tensor
    split: dict[str, Tensor]
    statistics: dict[str, tuple[float, float]]


def dataset_settings(data_dir: Path | str) -> RunSettings:
    """Return the settings that read a folder: ours, or the published layout where it has a folder `samples`.

    A folder that says nothing of its categories (`dataset.yaml`) has those of `config.CATEGORIES`.
    """
    folder = Path(data_dir)
    published = (folder / "samples").is_dir()
    layout = from_yaml(RunSettings, PUBLISHED_LAYOUT) if published else {}
    return build(RunSettings, {**layout, "data_dir": folder}, str(folder)).with_table(CATEGORIES)


def load_dataset(data_dir: Path | str) -> PatchData:
    """Read a dataset folder into tensors.

    Parameters
    ----------
    data_dir
        Holds samples.csv, patches/, stats.csv and split/; or, as published, samples/ and <variable>.pkl.

    Returns
    -------
    PatchData
        Patches are views of one packed array, so they take its memory once.

    Raises
    ------
    UserError
        If a file is missing, is no plain data, or does not fit the others.
    """
    settings = dataset_settings(data_dir)
    data = read_dataset(settings.data_dir, settings.categories, layout=settings.layout)
    x = np.require(data.x, requirements="W")  # a copy where the array is a file mapped into memory
    return PatchData(
        ids=data.ids,
        patches={name: torch.from_numpy(patches) for name, patches in category_views(x, data.categories).items()},
        target=torch.tensor(data.y, dtype=torch.float32),
        split={name: torch.tensor(rows) for name, rows in data.split.items()},
        statistics=read_statistics(settings.data_dir / settings.stats, data.categories),
    )


def main() -> None:
    """Print what a dataset folder holds."""
    if len(sys.argv) != 2:
        raise UserError("usage: python utils.py DATA_DIR")
    data = load_dataset(sys.argv[1])
    parts = ", ".join(f"{name} {len(rows)}" for name, rows in data.split.items())
    print(f"{sys.argv[1]}: {len(data.ids)} profiles ({parts}); target {data.target.nanmean():.2f} on average")
    width = max(len(name) for name in data.patches)
    for name, patches in data.patches.items():
        print(f"  {name:<{width}}  {tuple(patches.shape)}  {patches.isnan().float().mean():.1%} of the cells missing")


if __name__ == "__main__":
    sys.exit(run(main))
