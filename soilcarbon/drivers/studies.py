"""From a support to a study: who has skill, how much noise makes targets alike, which responses are looked at.

In: a `Support` and settings. Out: a `Study` that refits share, and what the cross-validation found, as a table. A learner without
skill on a target is not asked what drives it: it would tell what drives its errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.categories import Category
from soilcarbon.commands.drivers import DriverSettings
from soilcarbon.drivers.importance import impurity, strata_of
from soilcarbon.drivers.learners import answers, efficiency, fit, matching_noise, out_of_fold
from soilcarbon.drivers.responses import JOINT_BINS, density, grid_of
from soilcarbon.drivers.subsampling import Study
from soilcarbon.drivers.support import Support, drivers_of, zones_of
from soilcarbon.io.files import UserError, nearest
from soilcarbon.parallel import Task, arrays_task, read_arrays, run_tasks
from soilcarbon.stats.groups import group_folds, spatial_groups
from soilcarbon.stats.metrics import bootstrap_scores

log = getLogger(__name__)

_BLOCKS = 20
"""At least, for halves to differ."""
_ZONE = 100
"""Places of a zone, at least, for half of them to be judged on."""


@dataclass(frozen=True)
class Screened:
    """A study, and what was found on the way.

    Attributes
    ----------
    study
        Of all refits.
    order
        (T,) numbers of the support's targets, as the study has them: the reference first, which others are held against and
        which is the first one observed.
    able
        Learner -> the study's targets it has skill on; learners without skill on the reference are not there. The first one is
        what mismatches rest on.
    skill
        target, learner, n, r2, r2_low, r2_high, ccc, ccc_low, ccc_high, told (whether its drivers are told of).
    predicted
        (T, N) answers out of fold by the first learner.
    """

    study: Study
    order: tuple[int, ...]
    able: dict[str, list[int]]
    skill: pd.DataFrame
    predicted: np.ndarray


def held_out(
    learner: str, x: np.ndarray, z: np.ndarray, categories: Sequence[Category], folds: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Return a learner's predictions out of fold, as a task leaves them."""
    return {"predicted": out_of_fold(learner, x, z, categories, folds, seed)}


def noise(*arguments: Any) -> dict[str, np.ndarray]:
    """Return the factor and R2 of `learners.matching_noise`, as a task leaves them."""
    factor, r2 = matching_noise(*arguments)
    return {"factor": np.array(factor), "r2": np.array(r2)}


def screen(support: Support, settings: DriverSettings, folder: Path) -> Screened:
    """Cross-validate every learner on every target, and make the study of those with skill.

    Parameters
    ----------
    support, settings
        What is compared, and how.
    folder
        Where finished parts lie.

    Raises
    ------
    UserError
        If blocks are too few, no learner has skill on the reference, or a setting names what is not there.
    """
    units = spatial_groups(support.lon, support.lat, settings.block_size)
    blocks = len(np.unique(units))
    if blocks < max(_BLOCKS, settings.folds):
        raise UserError(
            f"{len(support)} places lie in {blocks} blocks; {_BLOCKS} are needed: lower --block_size ({settings.block_size:g})"
        )
    drivers, zones = drivers_of(support, settings.drivers), zones_of(support, settings.zones)
    folds = group_folds(units, settings.folds, settings.seed)
    first = next(k for k, target in enumerate(support.targets) if target.kind == "observed")
    order = (first, *(k for k in range(len(support.targets)) if k != first))
    names = [support.targets[k].name for k in order]
    z = np.stack([_answers(support, k) for k in order])
    shared = (support.x, support.categories, folds, settings.seed)
    tasks: dict[tuple[str, int], Task] = {
        (learner, t): arrays_task(folder / f"held-out-{learner}-{t}.npz", held_out, (learner, shared[0], z[t], *shared[1:]))
        for learner in settings.learners
        for t in range(len(order))
    }
    run_tasks(list(tasks.values())[::-1], settings.workers, "cross-validation")  # the slowest first
    predicted = {key: read_arrays(task.path)["predicted"] for key, task in tasks.items()}
    skill, able = _skill(names, z, predicted, units, settings)
    if not able:
        shown = "; ".join(
            f"{row.learner} {row.r2:.2f} [{row.r2_low:.2f}, {row.r2_high:.2f}]"
            for row in skill[skill["target"] == names[0]].itertuples()
        )
        raise UserError(
            f"{names[0]}: cross-validated R2 of {shown}, below min_skill {settings.min_skill:g}: what drives a model without skill "
            "says nothing of soil; give more profiles or other covariates"
        )
    lead = next(iter(able))
    residuals, wanted = z[0] - predicted[lead, 0], efficiency(z[0], predicted[lead, 0])
    matched = {
        t: arrays_task(
            folder / f"noise-{t}.npz",
            noise,
            (lead, support.x, z[t], support.categories, folds, units, residuals, wanted, settings.seed),
        )
        for t in able[lead]
        if t
    }
    run_tasks(list(matched.values()), settings.workers, "noise")
    factors = np.zeros(len(order))
    for t, task in matched.items():
        factors[t] = read_arrays(task.path)["factor"]
    players = [np.array([k]) for k in range(len(support.variables))] + list(drivers.values())
    strata = np.stack([strata_of(support.x, columns, support.classes, settings.seed) for columns in players])
    columns, pair = _responses(support, settings, drivers, z[0], lead)
    curves = []
    for column in columns:
        grid = grid_of(support.x[:, column])
        curves.append((column, grid, density(support.x[:, column], grid)))
    joint = None
    if pair is not None:
        joint = pair, (grid_of(support.x[:, pair[0]], JOINT_BINS), grid_of(support.x[:, pair[1]], JOINT_BINS))
    small = [zone for zone, inside in zones.items() if inside.sum() < _ZONE]
    if small:
        log.info("zones of fewer than %d places are not told of: %s", _ZONE, ", ".join(small))
    kept = {zone: inside for zone, inside in zones.items() if zone not in small}
    study = Study(
        support.x,
        support.categories,
        z,
        residuals,
        factors,
        units,
        drivers,
        strata,
        _zone_strata(support, list(drivers.values()), list(kept.values()), settings.seed),
        tuple(curves),
        joint,
        kept,
        settings.seed,
    )
    return Screened(study, order, able, skill, np.stack([predicted[lead, t] for t in range(len(order))]))


def _zone_strata(support: Support, groups: Sequence[np.ndarray], zones: Sequence[np.ndarray], seed: int) -> np.ndarray:
    found = np.zeros((len(zones), len(groups), len(support)), np.int64)
    for k, inside in enumerate(zones):
        found[k][:, inside] = [strata_of(support.x[inside], columns, support.classes, seed) for columns in groups]
    return found


def _answers(support: Support, target: int) -> np.ndarray:
    try:
        return answers(support.y[target])
    except ValueError as error:
        raise UserError(
            f"{support.targets[target].name}: {error} of {len(support)} places; there is nothing to tell apart"
        ) from error


def _skill(
    names: Sequence[str], z: np.ndarray, predicted: dict[tuple[str, int], np.ndarray], units: np.ndarray, settings: DriverSettings
) -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """Return the table of skill, and which learner may tell of which target."""
    rows: list[dict[str, Any]] = []
    able: dict[str, list[int]] = {}
    for learner in settings.learners:
        told = []
        for t, name in enumerate(names):
            found: dict[str, Any] = bootstrap_scores(z[t], predicted[learner, t], settings.seed, level=settings.level, groups=units)
            row = {"target": name, "learner": learner, "n": found["n"]}
            for score in ("r2", "ccc"):
                row |= {score: found[score]["value"], f"{score}_low": found[score]["low"], f"{score}_high": found[score]["high"]}
            if row["r2"] >= settings.min_skill:
                told.append(t)
            elif t:
                log.info(
                    "%s: R2 of %s is %.2f, below %g: its drivers are not told of", name, learner, row["r2"], settings.min_skill
                )
            rows.append(row | {"told": t in told})
        if 0 in told:
            able[learner] = told
    table = pd.DataFrame(rows)
    return table.assign(told=table["told"] & table["learner"].isin(list(able))), able


def _responses(
    support: Support, settings: DriverSettings, drivers: dict[str, np.ndarray], z: np.ndarray, lead: str
) -> tuple[list[int], tuple[int, int] | None]:
    """Return the columns whose responses are looked at, and the pair: those named, else the foremost numeric ones."""
    column = {name: k for k, name in enumerate(support.variables)}
    for what in ("responses", "pair"):
        for name in getattr(settings, what):
            if name not in column:
                raise UserError(f"{what}: no variable {name!r}{nearest(name, list(column))}")
            if support.classes[column[name]]:
                raise UserError(f"{what}: {name!r} is a class, which has no order and so no curve")
    weight = impurity(fit("forest" if lead == "network" else lead, support.x, z, support.categories, settings.seed), len(column))
    foremost = {}
    for driver, columns in drivers.items():
        numeric = [k for k in columns.tolist() if not support.classes[k]]
        if numeric:
            foremost[driver] = max(numeric, key=lambda k: weight[k])
    chosen = [column[name] for name in settings.responses] or list(foremost.values())
    if settings.pair:
        return chosen, (column[settings.pair[0]], column[settings.pair[1]])
    strongest = sorted(foremost.values(), key=lambda k: -weight[k])
    return chosen, (strongest[0], strongest[1]) if len(strongest) > 1 else None
