"""What each member of an ensemble learns from: profiles, folds of them, or a teacher's answers between them.

In: a dataset, the network to start from, the settings. Out: a `Lesson` per member, and who held out whom.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.settings import TrainSettings
from soilcarbon.soil.dataset import Dataset, variable_columns
from soilcarbon.stats.groups import group_folds, spatial_groups
from soilcarbon.training.encoded import Lesson, Profiles, make_profiles
from soilcarbon.training.loop import fit, member_seed, outputs_of

log = logging.getLogger(__name__)
NETWORK_SHARE = 0.5
"""Of the teacher's answers; more gains concordance and loses absolute error. docs/skill.md tells what was tried."""
FINE_TUNED: dict[str, Any] = {
    "members": 1,
    "epochs": 30,
    "batch_size": 32,
    "lr": 3e-4,
    "lr_schedule": "constant",
    "l2_sp": 0.02,
    "freeze": "none",
}
FINE_TUNED |= {"select_on": "none", "patience": 0, "eval_interval": 30}
"""How the network is fine-tuned that is one of the teachers: no epoch is chosen, so no profile need be held out for it."""


@dataclass(frozen=True)
class Plan:
    """Who learns from what.

    Attributes
    ----------
    rows
        (n,) the dataset's rows that training may look at: those of the training and validation splits.
    folds
        (n,) the member that holds each of them out; None where all members have the validation split.
    train, valid
        Profiles of the two splits.
    world
        Profiles of the world a teacher learns from too.
    lesson
        Member k -> what it learns from.
    """

    rows: np.ndarray
    folds: np.ndarray | None
    train: Profiles
    valid: Profiles
    world: Profiles | None
    lesson: Callable[[int], Lesson]

    @property
    def sources(self) -> tuple[Profiles, ...]:
        """All profiles that anything is learnt from."""
        return (self.train, self.valid, *(() if self.world is None else (self.world,)))


def fold_units(data: Dataset) -> np.ndarray:
    """Return the unit (N,) of each profile that no fold may part: its block, or its place where the split is by places."""
    return spatial_groups(data.lon, data.lat, data.block_size)


def elsewhere(world: Dataset, region: Dataset) -> np.ndarray:
    """Return the training rows of the world's dataset that lie in no place, or block, of the region's profiles.

    A fold that is held out must not come back by way of the world.
    """
    theirs = spatial_groups(world.lon, world.lat, region.block_size)
    rows = world.split["train"]
    kept = ~np.isin(theirs[rows], fold_units(region))
    chosen: np.ndarray = rows[kept]
    return chosen


def plan_lessons(
    network: SoilCarbonNet, data: Dataset, settings: TrainSettings, device: torch.device, world: Dataset | None = None
) -> Plan:
    """Decide what each member learns from.

    Parameters
    ----------
    network
        Gives the inputs' encoding.
    data
        With its training and validation splits.
    settings
        `validate_on`, `teacher` where there is one, `members` and `seed`.
    device
        Where profiles are put.
    world
        Dataset a teacher learns from too.

    Raises
    ------
    UserError
        If there are fewer places, or blocks, than members to hold them out, or the world has none but the region's.
    """

    def profiles(of: Dataset, rows: np.ndarray) -> Profiles:
        return make_profiles(network, of.x[rows], of.y[rows], device)

    train, valid = (profiles(data, data.split[name]) for name in ("train", "valid"))
    rows = np.concatenate([data.split["train"], data.split["valid"]])
    folds = None
    if settings.validate_on == "folds":
        units = fold_units(data)[rows]
        if (found := len(np.unique(units))) < settings.members:
            raise UserError(f"{found} places or blocks cannot be held out by {settings.members} members; lower --members")
        folds = group_folds(units, settings.members, settings.seed)
    there = None if world is None else elsewhere(world, data)
    if there is not None and not len(there):
        raise UserError("global_data: every training profile lies in a place or block of this region; drop it, or name the world's")
    abroad = None if world is None or there is None else profiles(world, there)

    def lesson(k: int) -> Lesson:
        held_out = np.isin(rows, data.split["valid"]) if folds is None else folds == k
        known, choose = profiles(data, rows[~held_out]), profiles(data, rows[held_out])
        if getattr(settings, "teacher", "none") == "none":
            return Lesson(known, known, choose)
        seed = member_seed(settings.seed, k)
        from soilcarbon.training.teacher import (  # here: a run without a teacher need not wait for scikit-learn
            Teacher,
            make_up_places,
        )

        teacher = Teacher(seed).fit(*_plain(known), *((None, None) if abroad is None else _plain(abroad)))
        columns = variable_columns(data.categories)
        made = make_up_places(
            data.x[rows[~held_out]],
            None if world is None else world.x[there],
            (_plain(known)[0], None if abroad is None else _plain(abroad)[0]),
            np.repeat(np.arange(len(columns)), [at.stop - at.start for at in columns.values()]),
            np.concatenate([np.full(category.width, category.kind == "classes") for category in data.categories]),
            seed,
        )
        with torch.no_grad():
            encoded = network.encode(torch.from_numpy(made).to(device))
        answers = teacher.predict(encoded.cpu().numpy())
        if settings.init_from:  # another voice: the network itself, fine-tuned, which knows the world better than trees do
            start = list(network.members())[k % network.specification.members].tensors()
            alone = SoilCarbonNet.assemble(network.specification, [start], {})
            tuned = fit(alone, known, choose, settings.model_copy(update=FINE_TUNED | {"seed": seed}))
            answers += NETWORK_SHARE * (outputs_of(tuned, encoded).double().cpu().numpy() - answers)
        also = f" and {len(abroad.y)} of the world" if abroad else ""
        log.info("member %d: its teacher learnt from %d profiles%s", k, len(known.y), also)
        output = torch.from_numpy(answers.astype(np.float32)).to(device)
        return Lesson(replace(known, encoded=encoded, output=output, y=answers), known, choose)

    return Plan(rows, folds, train, valid, abroad, lesson)


def _plain(profiles: Profiles) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, E) and outputs (n,) as scikit-learn takes them."""
    return profiles.encoded.cpu().numpy(), profiles.output.cpu().numpy().astype(np.float64)
