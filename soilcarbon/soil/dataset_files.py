"""Write a dataset's folder: sample table, patches, statistics, splits, and where it all came from.

In: profiles, patches and a split, in memory. Out: the default layout that `utils.read_dataset` reads:

    samples.csv  patches/<variable>.pkl  stats.csv  split/{train,valid,test}.csv  dataset.yaml
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, write_table, write_text, write_yaml
from soilcarbon.io.pickles import dump_pickle
from soilcarbon.settings import UNFINISHED, Category, __version__

SPLITS = ("train", "valid", "test")


def compute_statistics(patches: Mapping[str, np.ndarray], rows: np.ndarray) -> pd.DataFrame:
    """Return each variable's mean and standard deviation over all cells of some profiles' patches.

    Parameters
    ----------
    patches
        Variable -> (N, S, S), raw units, missing = NaN.
    rows
        (N,) bool: the profiles to use, those of the training split.

    Returns
    -------
    DataFrame
        var_name, v_mean, v_std (population standard deviation).

    Raises
    ------
    UserError
        If a variable is constant or all missing there: it cannot be standardised, and tells nothing.
    """
    table = []
    for name, patch in patches.items():
        cells = patch[rows].astype(np.float64)
        cells = cells[np.isfinite(cells)]
        if cells.size == 0 or cells.std() == 0:
            what = "missing everywhere" if cells.size == 0 else f"constant ({cells[0]:g})"
            raise UserError(f"variable {name!r} is {what} over the {int(rows.sum())} training profiles; leave it out")
        table.append((name, cells.mean(), cells.std()))
    return pd.DataFrame(table, columns=["var_name", "v_mean", "v_std"])


def write_dataset(
    folder: Path,
    samples: pd.DataFrame,
    patches: Mapping[str, np.ndarray],
    split: np.ndarray | None,
    categories: Sequence[Category],
    facts: Mapping[str, Any],
    statistics: pd.DataFrame | None = None,
) -> None:
    """Write a dataset's folder.

    Parameters
    ----------
    folder
        Made if it is not there. `dataset.yaml` is written last; while `.unfinished` lies there the folder is not whole
        and `utils.read_dataset` refuses it.
    samples
        N rows: profile_id (text, unique), lon, lat, soc; further columns are kept.
    patches
        Variable -> (N, S, S), raw units, missing = NaN; at least the variables of `categories`.
    split
        (N,) text: "train", "valid" or "test"; None: places to predict, without split and statistics.
    categories
        The table the network is to be built from.
    facts
        Where it came from: rasters, CRS, cell size, counts, checksums; plain containers.
    statistics
        var_name, v_mean, v_std; default: computed from the training profiles. Variables of kind "classes" are
        codes and have no statistics.

    Raises
    ------
    UserError
        If a split is empty, or a variable is constant or all missing.
    """
    if split is not None:
        for name in SPLITS:
            if not (split == name).any():
                raise UserError(f"{folder}: the {name} split would be empty ({len(samples)} profiles); use more or smaller blocks")
        if statistics is None:
            numeric = [v for c in categories if c.kind == "numeric" for v in c.variables]
            statistics = compute_statistics({v: patches[v] for v in numeric}, split == "train")
    ids = samples["profile_id"].astype(str).tolist()
    write_text(folder / UNFINISHED, "")
    (folder / "dataset.yaml").unlink(missing_ok=True)
    for category in categories:
        for name in category.variables:
            patch = patches[name].astype(np.float32)
            dump_pickle(folder / "patches" / f"{name}.pkl", dict(zip(ids, patch, strict=True)))
    write_table(folder / "samples.csv", samples)
    counts = {} if split is None else {"split": {name: int((split == name).sum()) for name in SPLITS}}
    if split is None or statistics is None:  # of a dataset that stood here before
        for stale in (folder / "stats.csv", *(folder / "split" / f"{name}.csv" for name in SPLITS)):
            stale.unlink(missing_ok=True)
    else:
        write_table(folder / "stats.csv", statistics)
        for name in SPLITS:
            write_table(folder / "split" / f"{name}.csv", samples.loc[split == name, ["profile_id"]])
    write_yaml(
        folder / "dataset.yaml",
        {
            "version": __version__,
            "profiles": len(samples),
            **counts,
            "categories": [c.model_dump(mode="json") for c in categories],
            **facts,
        },
    )
    (folder / UNFINISHED).unlink()
