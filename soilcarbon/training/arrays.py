"""Training of networks on arrays in memory: from scratch or from a pretrained one, on the profiles or on a teacher's predictions.

In: covariates (N, F), targets (N,), and the groups (N,) that no fold splits. Out: a network with its area of applicability and its
calibration, and what members that held the profiles out predicted of them. `SoilCarbonRegressor` and `soilcarbon fit` share it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from soilcarbon.categories import Category
from soilcarbon.network.growth import MOST_FILLED, grown_categories, plan_growth
from soilcarbon.network.network import Growth, SoilCarbonNet, choose_device
from soilcarbon.network.specification import difference
from soilcarbon.settings import RegionalSettings, build
from soilcarbon.soil.dataset import Dataset
from soilcarbon.soil.target import target_from_plain
from soilcarbon.stats.groups import group_folds
from soilcarbon.training.distillation import Teacher, distil, plain_arrays
from soilcarbon.training.ensemble import Members, TrainingData, assemble, member_seed, prepare_members, train_members
from soilcarbon.training.run import compute_statistics, fit_uncertainty, follow_checkpoint, grow_to, new_specification
from soilcarbon.training.uncertainty import fit_applicability, held_out_predictions

MOST_TAUGHT = 5000
"""Profiles up to which a teacher is worth its time; of more the network learns as much from the profiles themselves."""
MEMBERS = 5
VALIDATION_SHARE = 0.15
_TAUGHT = {"epochs": 8, "batch_size": 64, "lr": 3e-3, "lr_schedule": "cosine", "select_on": "none", "patience": 0}
_DIRECT = {"epochs": 200, "batch_size": 32, "lr": 1e-3, "lr_schedule": "constant", "select_on": "rmse", "patience": 30}
_TUNED = _DIRECT | {"lr": 3e-4}
"""Schedules with a teacher, then without one from scratch and from a checkpoint; `experiments/students.py` measures the first."""


@dataclass(frozen=True)
class Start:
    """A pretrained network that training continues from.

    Attributes
    ----------
    network
        It is changed.
    growth
        How it grows for the categories.
    freeze
        What stays as it is.
    world
        Profiles elsewhere, in the same columns, to which a teacher is also fitted.
    """

    network: SoilCarbonNet
    growth: Growth = Growth()
    freeze: Literal["none", "features", "all-but-head"] = "none"
    world: Dataset | None = None


@dataclass(frozen=True)
class Trained:
    """A trained network, and what the members of one trained by folds predicted of the profiles that they held out.

    Attributes
    ----------
    network
        With its area of applicability and its calibration.
    folds, held_out
        (N,) the fold of each profile and its prediction, in the target's unit; None where nothing was held out by folds.
    """

    network: SoilCarbonNet
    folds: np.ndarray | None = None
    held_out: np.ndarray | None = None


def plan_start_growth(categories: Sequence[Category], network: SoilCarbonNet, most_filled: float = MOST_FILLED) -> Growth:
    """Return how a network grows for categories; ValueError if these are not in the order of the grown network's."""
    theirs = network.specification.categories
    growth = plan_growth(categories, theirs, most_filled)
    if differs := difference(tuple(categories), grown_categories(theirs, growth)):
        raise ValueError(f"list the categories of init_from first, in its order, then those it gains: {differs}")
    return growth


def resolve_settings(given: Mapping[str, Any], start: Start | None, groups: int, profiles: int) -> RegionalSettings:
    """Return validated settings of training.

    Parameters
    ----------
    given
        Settings by name, None where not given: then those that suit a teacher ("auto": up to `MOST_TAUGHT` profiles), or none.
    start
        What fixes the transform, the filling and the clipping, which are then left out of `given`.
    groups, profiles
        Their numbers. There are no more members than groups to hold out.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if start is not None:
        given = {name: value for name, value in given.items() if name not in ("target_transform", "missing", "clip_inputs")}
    if given.get("teacher", "auto") == "auto":
        given["teacher"] = "ensemble" if profiles <= MOST_TAUGHT else "none"
    usual: dict[str, Any] = (_TUNED if start else _DIRECT) if given["teacher"] == "none" else _TAUGHT
    if given.get("select_on", usual["select_on"]) == "none":
        usual = usual | {"patience": 0}
    members = min(given.get("members") or (start.network.specification.members if start else MEMBERS), groups)
    fixed: dict[str, Any] = {"members": members, "validate_on": "folds" if members > 1 else "split", "init_from": None}
    fixed |= {"data_dir": Path(), "tensorboard": False}
    return build(RegionalSettings, {**usual, **given, **fixed})


def is_trained_on_all(settings: RegionalSettings, start: Start | None) -> bool:
    """Return whether a teacher is distilled from scratch into members that see all profiles, and that others by folds calibrate."""
    return start is None and settings.teacher != "none" and settings.on_folds


def train_on_arrays(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, categories: Sequence[Category], settings: RegionalSettings,
    start: Start | None = None, intervals: bool = True, validation_share: float = VALIDATION_SHARE,
) -> Trained:  # fmt: skip
    """Train a network on covariates and targets.

    Parameters
    ----------
    x, y
        (N, F) float32, raw units, missing = NaN, and (N,).
    groups
        (N,) group of each profile, which is held out whole.
    categories
        Of the columns: those of the grown network where there is one to start from.
    settings
        Of `resolve_settings`.
    start
        What training continues from; None: from scratch.
    intervals
        Whether to calibrate prediction intervals where that takes networks of its own.
    validation_share
        Of a single member, which holds out these profiles to choose the best epoch.

    Raises
    ------
    UserError
        If the loss is no longer finite.
    """
    split = split_rows(groups, validation_share, settings.seed)
    meaning = target_from_plain(None, settings.target, "target")
    table = pd.DataFrame(index=range(len(y)))
    data = Dataset(table, x, np.asarray(y, np.float64), split, tuple(categories), groups=groups, target=meaning)
    if start is None:
        network = _blank(settings, data)
    else:
        network, growth = start.network, start.growth
        if growth.added or growth.filled:
            network = grow_to(network, growth, data, settings)
        settings = follow_checkpoint(settings, network, data)
    teacher = distil if settings.teacher != "none" else None
    world = start.world if start else None
    members = prepare_members(network, data, settings, start is not None, choose_device(settings.device), world, teacher)
    members = replace(members, schedule=replace(members.schedule, freeze=start.freeze if start else "none"))
    if is_trained_on_all(settings, start):
        return _on_all_profiles(members, settings, data, intervals)
    return _with_uncertainty(members, settings, data)


def split_rows(groups: np.ndarray, validation_share: float, seed: int) -> dict[str, np.ndarray]:
    """Return training and validation rows of a single member; the folds of several are made of both."""
    n, count = len(groups), np.unique(groups).size
    if 1 < count < n:
        chooses = group_folds(groups, min(max(2, round(1 / validation_share)), count), seed) == 0
        return {"valid": np.flatnonzero(chooses), "train": np.flatnonzero(~chooses)}
    order = np.random.default_rng(seed).permutation(n)
    held_out = min(max(1, round(validation_share * n)), n - 1)
    return {"valid": order[:held_out], "train": order[held_out:]}


def _blank(settings: RegionalSettings, data: Dataset) -> SoilCarbonNet:
    """Return a network for a dataset, whose weights are drawn again by the members' seeds.

    A column that is constant or missing in a fold has no information there, and does no harm.
    """
    statistics = compute_statistics(data.x[data.split["train"]], data.categories, usable=True)
    with torch.random.fork_rng(devices=[]):
        return SoilCarbonNet(new_specification(settings, data, statistics))


def _with_uncertainty(members: Members, settings: RegionalSettings, data: Dataset) -> Trained:
    """Train members, and calibrate them on the profiles that each held out."""
    network, known = assemble(members, train_members(members), settings), members.data
    fit_uncertainty(network, data, known, settings.seed)
    if known.folds is None:
        return Trained(network)
    folds, held_out = np.empty(len(data.y), np.int64), np.empty(len(data.y))
    folds[known.rows], held_out[known.rows] = known.folds, held_out_predictions(network, data.x[known.rows], known.folds)
    return Trained(network, folds, held_out)


def _on_all_profiles(members: Members, settings: RegionalSettings, data: Dataset, intervals: bool) -> Trained:
    """Train members on all profiles, by a schedule that needs no validation set; their intervals are those of others by folds.

    The latter have half of the epochs and four fifths of the profiles: their errors are no smaller than those of the network that
    predicts, so that its intervals hold what they promise (Barber et al. 2021, Ann. Stat. 49, 486).
    """
    known = members.data
    rows = np.append(np.arange(len(known.rows)), 0)  # the validation set, which is not used, is a profile
    raw = known.raw and replace(known.raw, x=known.raw.x[rows])
    everything = TrainingData(known.profiles.take(rows), len(known.rows), known.rows[rows], raw=raw)
    seed = member_seed(members.seed, members.count)
    teacher = Teacher(seed).fit(*plain_arrays(known.profiles), None, None)
    whole = replace(members, data=everything, seed=seed, distil=partial(distil, teacher=teacher))
    network = assemble(whole, train_members(whole), settings)
    if not intervals:
        network.applicability = fit_applicability(network, data, known.rows, settings.seed)
        return Trained(network)
    short = replace(members.schedule, epochs=max(1, members.schedule.epochs // 2))
    found = _with_uncertainty(replace(members, schedule=short), settings, data)
    by_folds = found.network
    network.respecify(smearing=by_folds.specification.smearing)
    network.record.calibrated_on = by_folds.record.calibrated_on
    network.applicability, network.calibration, network.errors = by_folds.applicability, by_folds.calibration, by_folds.errors
    return replace(found, network=network)
