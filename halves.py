"""Fit learners again and again, each time on a random half of the blocks, and see what they rest on with the other half.

In: a `Study`, all that is the same for every refit. Out: tasks for `workpool`, one for each refit; and the arrays that those of a
learner left, stacked.

Why halves: the spread of a statistic over random halves, drawn without replacement, is the spread that the same statistic of the
whole would have over samples of the world (for a mean, (s2 / (n / 2)) (1 - 1 / 2) = s2 / n; Politis, Romano and Wolf 1999;
Athey, Tibshirani and Wager 2019 build a forest's intervals on it). Whole blocks are drawn, as neighbours are not independent. Each
refit learns from one half and is judged on the other, so that its spread holds what a bootstrap of held-out losses alone would
miss: that another sample would have given another learner. The halves are the same for all targets, so that a difference between
targets does not hold what both share. No tree is grown for a bootstrap alone: two refits share a draw, one on each half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import Category
from importance import impurity, permutation, shapley
from learners import Fitted, efficiency, fit, flipped
from responses import BINS, JOINT_BINS, accumulated, density, dependence, joint_accumulated, joint_dependence
from workpool import Task, arrays_task, read


class Budget(NamedTuple):
    """What a refit is judged on: rows for drivers and curves, for single variables, explained (0: none), their background."""

    rows: int
    single: int
    explained: int
    background: int


BUDGETS = {"boosting": Budget(2000, 800, 30, 25), "forest": Budget(1000, 400, 15, 15), "network": Budget(1000, 400, 20, 60)}
"""By learner: the slower it predicts, the less it is asked."""


@dataclass(frozen=True)
class Study:
    """What is the same for every refit.

    Attributes
    ----------
    x
        (N, V) float32 covariates without gaps.
    categories
        What the columns are, of radius 0.
    z
        (T, N) answers of each target, the reference first.
    residuals, factors
        (N,) of the reference out of fold; (T,) how much of them is added to each target.
    units
        (N,) blocks.
    drivers
        Driver -> its columns.
    strata
        (V + G, N) of each variable and each driver, for conditional permutation.
    curves
        Column, grid (K,) and weights (K,) of each variable whose response is wanted.
    pair
        Two columns and their grids, or None.
    zones
        Zone -> (N,) bool.
    seed
        Of everything.
    """

    x: np.ndarray
    categories: tuple[Category, ...]
    z: np.ndarray
    residuals: np.ndarray
    factors: np.ndarray
    units: np.ndarray
    drivers: dict[str, np.ndarray]
    strata: np.ndarray
    curves: tuple[tuple[int, np.ndarray, np.ndarray], ...]
    pair: tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]] | None
    zones: dict[str, np.ndarray]
    seed: int

    @property
    def member(self) -> np.ndarray:
        """(V,) the number of each variable's driver."""
        found = np.zeros(self.x.shape[1], np.int64)
        for k, columns in enumerate(self.drivers.values()):
            found[columns] = k
        return found


def halves_of(units: np.ndarray, seed: int, refit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows a refit learns from and those it is judged on: whole blocks; refits 2k and 2k + 1 swap them."""
    distinct, member = np.unique(units, return_inverse=True)
    chosen = np.zeros(len(distinct), bool)
    chosen[np.random.default_rng([seed, refit // 2]).permutation(len(distinct))[: len(distinct) // 2]] = True
    first = chosen[member] ^ bool(refit % 2)
    return np.flatnonzero(first), np.flatnonzero(~first)


def noisy(study: Study, target: int, refit: int) -> np.ndarray:
    """Return the answers (N,) of a target as a refit meets them: with the reference's residuals, of random sign by block."""
    z, factor = study.z[target], float(study.factors[target])
    if factor == 0:
        return z
    return np.asarray(z + factor * flipped(study.residuals, study.units, [study.seed, refit // 2, target]))


def refit(study: Study, learner: str, number: int, targets: Sequence[int]) -> dict[str, np.ndarray]:
    """Fit a learner to one half for each target and return what it rests on, judged on the other; NaN of other targets.

    Returns
    -------
    dict
        r2 (T,); permutation, conditional, impurity, shapley: (T, V + G) of variables and then of drivers; zones (T, Z, G),
        zone_r2 (T, Z); curves, dependences (T, R, K), padded, and zone_curves (T, Z, R, K); joint, joint_dependences (T, K, L).
    """
    budget, seed = BUDGETS[learner], [study.seed, number]
    learnt, judged = halves_of(study.units, study.seed, number)
    random = np.random.default_rng([*seed, 1])
    judged = random.permutation(judged)
    rows = judged[: budget.rows]
    variables = [np.array([k]) for k in range(study.x.shape[1])]
    groups = list(study.drivers.values())
    t, v, g, z = len(study.z), len(variables), len(groups), len(study.zones)
    shapes: dict[str, tuple[int, ...]] = {"r2": (t,), "zones": (t, z, g), "zone_r2": (t, z)}
    shapes |= dict.fromkeys(("permutation", "conditional", "impurity", "shapley"), (t, v + g))
    shapes |= dict.fromkeys(("curves", "dependences"), (t, len(study.curves), BINS + 1))
    shapes["zone_curves"] = (t, z, len(study.curves), BINS + 1)
    shapes |= dict.fromkeys(("joint", "joint_dependences"), (t, JOINT_BINS + 1, JOINT_BINS + 1))
    found = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
    for target in targets:
        answers = noisy(study, target, number)
        model = fit(learner, study.x[learnt], answers[learnt], study.categories, study.seed + number)
        x, y = study.x[rows], answers[rows]
        found["r2"][target] = efficiency(y, np.asarray(model.predict(x)))
        some = rows[: budget.single]
        for players, first, at in ((variables, 0, some), (groups, v, rows)):
            part = slice(first, first + len(players))
            for name, strata in (("permutation", None), ("conditional", study.strata[part][:, at])):
                found[name][target, part] = permutation(model, study.x[at], answers[at], players, strata, [*seed, 2])
        found["impurity"][target, :v] = impurity(model, v)
        found["impurity"][target, v:] = [found["impurity"][target, columns].sum() for columns in groups]
        if budget.explained:
            background = study.x[judged[-budget.background :]]
            for member, part in ((np.arange(v), slice(v)), (study.member, slice(v, None))):
                values = shapley(model, x[: budget.explained], background, member, [*seed, 3])
                found["shapley"][target, part] = np.abs(values).mean(0)
        _respond(study, model, x, found, target)
        _by_zone(study, model, answers, judged, budget.rows, [*seed, 4], found, target)
    return found


def _respond(study: Study, model: Fitted, x: np.ndarray, found: dict[str, np.ndarray], target: int) -> None:
    for k, (column, grid, weights) in enumerate(study.curves):
        found["curves"][target, k, : len(grid)] = accumulated(model, x, column, grid, weights)
        found["dependences"][target, k, : len(grid)] = dependence(model, x, column, grid, weights)
    if study.pair:
        columns, grids = study.pair
        shape = np.s_[: len(grids[0]), : len(grids[1])]
        found["joint"][target][shape] = joint_accumulated(model, x, columns, grids)
        found["joint_dependences"][target][shape] = joint_dependence(model, x, columns, grids)


def _by_zone(
    study: Study,
    model: Fitted,
    answers: np.ndarray,
    judged: np.ndarray,
    at_most: int,
    seed: Sequence[int],
    found: dict[str, np.ndarray],
    target: int,
) -> None:
    """Permute drivers among the places of each zone, and move each place across its bin: what tells them apart within it."""
    for k, inside in enumerate(study.zones.values()):
        rows = judged[inside[judged]][: at_most // 2]
        if len(rows) > 1:
            x, y = study.x[rows], answers[rows]
            found["zone_r2"][target, k] = efficiency(y, np.asarray(model.predict(x)))
            found["zones"][target, k] = permutation(model, x, y, list(study.drivers.values()), None, seed)
            for c, (column, grid, _) in enumerate(study.curves):
                weights = density(study.x[inside, column], grid)
                found["zone_curves"][target, k, c, : len(grid)] = accumulated(model, x, column, grid, weights)


# --- all refits --------------------------------------------------------------------------------------------------------


def refits(folder: Path, study: Study, learner: str, count: int, targets: Sequence[int]) -> list[Task]:
    """Return the tasks of a learner's refits, for `workpool.run_all`; each leaves a file in the folder."""
    return [arrays_task(_path(folder, learner, number), refit, (study, learner, number, targets)) for number in range(count)]


def _path(folder: Path, learner: str, number: int) -> Path:
    return folder / f"{learner}-{number:04d}.npz"


def stacked(folder: Path, learner: str, count: int) -> dict[str, np.ndarray]:
    """Return what the refits of a learner found, each array with refits (H,) in front; UserError if a file is torn."""
    parts = [read(_path(folder, learner, number)) for number in range(count)]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
