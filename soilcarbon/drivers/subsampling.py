"""Fit learners again and again, each time on a random half of the blocks, and see what they rest on with the other half.

In: a `Study`, all that is the same for every refit. Out: tasks for `parallel.run_tasks`, one for each refit; and the arrays that
those of a learner left, stacked.

Why halves: the spread of a statistic over random halves, drawn without replacement, is the spread that the same statistic of the
whole would have over samples of the world (for a mean, (s2 / (n / 2)) (1 - 1 / 2) = s2 / n; Politis, Romano and Wolf 1999;
Athey, Tibshirani and Wager 2019 build a forest's intervals on it). Whole blocks are drawn, as neighbours are not independent. Each
refit learns from one half and is judged on the other, so that its spread holds what a bootstrap of held-out losses alone would
miss: that another sample would have given another learner. The halves are the same for all targets, so that a difference between
targets does not hold what both share. No tree is grown for a bootstrap alone: two refits share a draw, one on each half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from soilcarbon.categories import Category
from soilcarbon.drivers.importance import impurity, permutation, shapley
from soilcarbon.drivers.learners import Fitted, efficiency, fit, flipped
from soilcarbon.drivers.responses import BINS, JOINT_BINS, accumulated, density, dependence, joint_accumulated, joint_dependence
from soilcarbon.parallel import Task, arrays_task, read_arrays


class Budget(NamedTuple):
    """What a refit is judged on: rows for drivers and curves, for single variables, explained (0: none), their background."""

    rows: int
    single: int
    explained: int
    background: int


BUDGETS = {"boosting": Budget(2000, 800, 30, 25), "forest": Budget(1000, 400, 15, 15), "network": Budget(1000, 400, 20, 60)}
"""By learner: the slower it predicts, the less it is asked."""

SHORT = ("conditional", "zones")
"""Importances that mismatches rest on, which grow with the profiles learnt from; those of zones are conditional, too."""
EDITION = 3
"""Of what a refit leaves; refits of another edition are not gone on from."""
_DRAWS = 3
"""Permutations of each driver within its strata: mismatches rest on them."""
_LEFT = 1 / (2**0.5 - 1)


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
    zone_strata
        (Z, G, N) of each driver among the places of each zone.
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
    zone_strata: np.ndarray
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


def quarters_of(study: Study, learnt: np.ndarray, refit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows a refit learns from, split in two: whole blocks."""
    first, second = halves_of(study.units[learnt], study.seed + 1, 2 * refit)
    return learnt[first], learnt[second]


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
        quarter_conditional (T, G), quarter_zones (T, Z, G): of drivers, by learners of quarters.
    """
    budget, seed = BUDGETS[learner], [study.seed, number]
    learnt, judged = halves_of(study.units, study.seed, number)
    random = np.random.default_rng([*seed, 1])
    judged = random.permutation(judged)
    rows = judged[: budget.rows]
    variables, groups = [np.array([k]) for k in range(study.x.shape[1])], list(study.drivers.values())
    t, v, g, z = len(study.z), len(variables), len(groups), len(study.zones)
    shapes: dict[str, tuple[int, ...]] = {"r2": (t,), "zones": (t, z, g), "zone_r2": (t, z)}
    shapes |= dict.fromkeys(("permutation", "conditional", "impurity", "shapley"), (t, v + g))
    shapes |= {f"quarter_{name}": (*shapes[name][:-1], g) for name in SHORT}
    shapes |= dict.fromkeys(("curves", "dependences"), (t, len(study.curves), BINS + 1))
    shapes["zone_curves"] = (t, z, len(study.curves), BINS + 1)
    shapes |= dict.fromkeys(("joint", "joint_dependences"), (t, JOINT_BINS + 1, JOINT_BINS + 1))
    found = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
    for target in targets:
        answers = noisy(study, target, number)
        model, *quarters = (
            fit(learner, study.x[of], answers[of], study.categories, study.seed + number)
            for of in (learnt, *quarters_of(study, learnt, number))
        )
        whole, *halved = (_by_driver(study, each, answers, judged, budget, seed) for each in (model, *quarters))
        for name, value in whole.items():
            found[name][target][..., -g:] = value
            found[f"quarter_{name}"][target] = np.mean([each[name] for each in halved], axis=0)
        some = judged[: budget.single]
        for name, strata in (("permutation", None), ("conditional", study.strata[:v, some])):
            found[name][target, :v] = permutation(model, study.x[some], answers[some], variables, strata, [*seed, 2])
        x, y = study.x[rows], answers[rows]
        found["permutation"][target, v:] = permutation(model, x, y, groups, None, [*seed, 2])
        found["r2"][target] = efficiency(y, np.asarray(model.predict(x)))
        found["impurity"][target, :v] = impurity(model, v)
        found["impurity"][target, v:] = [found["impurity"][target, columns].sum() for columns in groups]
        if budget.explained:
            background = study.x[judged[-budget.background :]]
            for member, part in ((np.arange(v), slice(v)), (study.member, slice(v, None))):
                values = shapley(model, x[: budget.explained], background, member, [*seed, 3])
                found["shapley"][target, part] = np.abs(values).mean(0)
        _respond(study, model, x, found, target)
        _by_zone(study, model, answers, judged, budget.rows, found, target)
    return found


def _by_driver(
    study: Study, model: Fitted, answers: np.ndarray, judged: np.ndarray, budget: Budget, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return what permuting each driver costs, of `SHORT`: (G,) and (Z, G)."""
    groups, rows = list(study.drivers.values()), judged[: budget.rows]
    x, y, strata = study.x[rows], answers[rows], study.strata[study.x.shape[1] :, rows]
    found = {
        "conditional": permutation(model, x, y, groups, strata, [*seed, 2], _DRAWS),
        "zones": np.full((len(study.zones), len(groups)), np.nan),
    }
    for k, inside in enumerate(study.zones.values()):
        rows = judged[inside[judged]][: budget.rows // 2]
        if len(rows) > 1:
            found["zones"][k] = permutation(
                model, study.x[rows], answers[rows], groups, study.zone_strata[k][:, rows], [*seed, 4], _DRAWS
            )
    return found


def endless(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what refits found, with the importances of drivers (`SHORT`) that endless profiles would have taught.

    A learner of half of the profiles falls short of what there is to learn, most of all of weak drivers, and one of a quarter
    more so. What it falls short by is taken to shrink with the root of the number of profiles. Then a half's importance is too low
    by 1 / (2^0.5 - 1) = 2.4 times what it is above a quarter's (Richardson's extrapolation; Gray and Schucany 1972, The
    Generalized Jackknife Statistic). The two quarters make up the half, so that what chance put into its profiles is in both,
    and grows little.

    Parameters
    ----------
    found
        As of `refit` or `stacked`.
    """
    lifted = {name: found[name].copy() for name in SHORT if name in found}
    for name, values in lifted.items():
        drivers = values[..., -found[f"quarter_{name}"].shape[-1] :]
        drivers += _LEFT * (drivers - found[f"quarter_{name}"])
    return {**found, **lifted}


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
    found: dict[str, np.ndarray],
    target: int,
) -> None:
    """See how much of each zone the learner knows, and move each of its places across its bin."""
    for k, inside in enumerate(study.zones.values()):
        rows = judged[inside[judged]][: at_most // 2]
        if len(rows) > 1:
            x, y = study.x[rows], answers[rows]
            found["zone_r2"][target, k] = efficiency(y, np.asarray(model.predict(x)))
            for c, (column, grid, _) in enumerate(study.curves):
                weights = density(study.x[inside, column], grid)
                found["zone_curves"][target, k, c, : len(grid)] = accumulated(model, x, column, grid, weights)


# --- all refits --------------------------------------------------------------------------------------------------------


def refits(folder: Path, study: Study, learner: str, count: int, targets: Sequence[int]) -> list[Task]:
    """Return the tasks of a learner's refits, for `parallel.run_tasks`; each leaves a file in the folder."""
    return [arrays_task(_path(folder, learner, number), refit, (study, learner, number, targets)) for number in range(count)]


def _path(folder: Path, learner: str, number: int) -> Path:
    return folder / f"{learner}-{number:04d}.npz"


def stacked(folder: Path, learner: str, count: int) -> dict[str, np.ndarray]:
    """Return what the refits of a learner found, each array with refits (H,) in front; UserError if a file is torn."""
    parts = [read_arrays(_path(folder, learner, number)) for number in range(count)]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
