"""Subsampling: learners refitted on random half-samples of the blocks, their drivers measured on the other half.

In: a `Support` and an `Analysis`. Out: a `Screening` (which learners have skill, and the `Study` that all refits share); tasks for
`parallel.run_tasks`, one for each refit; the stacked arrays of a learner's refits.

The standard deviation of a statistic over half-samples, drawn without replacement, is the standard error of the same statistic of
the whole (for a mean, (s2 / (n / 2)) (1 - 1 / 2) = s2 / n; Politis, Romano and Wolf 1999; Athey, Tibshirani and Wager 2019).
Whole blocks are drawn, as neighbours are not independent. Each refit is trained on one half and tested on the other, so that the
spread includes the variance of the learner between samples. Half-samples are the same for all targets, so that differences
between targets do not contain their common variation. Two refits share a draw, one trained on each half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from soilcarbon.categories import Category
from soilcarbon.drivers import responses
from soilcarbon.drivers.analysis import Analysis
from soilcarbon.drivers.importance import group_shapley, has_shap, impurity, permutation, strata_of, variable_shapley
from soilcarbon.drivers.learners import CrossValidation, Fitted, fit, flip_signs, log_target, matching_noise
from soilcarbon.drivers.support import Support, drivers_of, zones_of
from soilcarbon.io.files import UserError, nearest
from soilcarbon.parallel import Task, arrays_task, read_arrays, run_tasks
from soilcarbon.stats.groups import group_folds, spatial_groups
from soilcarbon.stats.metrics import bootstrap_scores

log = getLogger(__name__)


class Budget(NamedTuple):
    """Rows a refit is measured on: for drivers and curves, for single variables, explained (0: none), their background."""

    rows: int
    single: int
    explained: int
    background: int


BUDGETS = {"boosting": Budget(2000, 800, 30, 25), "forest": Budget(1000, 400, 15, 15), "network": Budget(1000, 400, 20, 60)}
"""By learner: fewer rows for one that predicts slowly."""
EXTRAPOLATED = ("conditional", "zones")
"""Importances of drivers that mismatches are based on, everywhere and by zone; both conditional. They grow with training rows."""
LEVEL = 0.95
"""Of intervals; 1 - level is the family-wise error rate of significant differences."""
EDITION = 4
"""Version of the refits' files; refits of another version are not resumed."""
_DRAWS = 3
"""Permutations of each driver within its strata."""
_FOLDS = 5
_MIN_BLOCKS = 20
_MIN_ZONE = 100
"""Places of a zone, at least, as half of them are tested on."""


@dataclass(frozen=True)
class Study:
    """Inputs shared by all refits."""

    x: np.ndarray  # (N, V) float32 covariates without gaps
    categories: tuple[Category, ...]  # categories of the columns, of radius 0
    z: np.ndarray  # (T, N) log target of each target, the reference first
    # residuals, factors: (N,) of the reference out of fold; (T,) multiple of them that is added to each target
    residuals: np.ndarray
    factors: np.ndarray
    blocks: np.ndarray  # (N,) block of each place
    drivers: dict[str, np.ndarray]  # driver -> its columns; G of them
    strata: np.ndarray  # (V + G, N) of each variable and each driver, for conditional permutation
    zone_strata: np.ndarray  # (Z, G, N) of each driver among the places of each zone
    # column, grid (K,) and weights (K,) of each of the R variables whose response is wanted
    curves: tuple[tuple[int, np.ndarray, np.ndarray], ...]
    pair: tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]] | None  # two columns and their grids, or None
    zones: dict[str, np.ndarray]  # zone -> (N,) bool
    shapley: bool  # whether single variables get Shapley values
    seed: int

    @property
    def member(self) -> np.ndarray:
        """(V,) the number of each variable's driver."""
        found = np.zeros(self.x.shape[1], np.int64)
        for k, columns in enumerate(self.drivers.values()):
            found[columns] = k
        return found


# --- a refit -----------------------------------------------------------------------------------------------------------


def half_samples(blocks: np.ndarray, seed: int, refit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows a refit is trained and tested on: a random half of the blocks each; refits 2k and 2k + 1 swap them."""
    distinct, member = np.unique(blocks, return_inverse=True)
    chosen = np.zeros(len(distinct), bool)
    chosen[np.random.default_rng([seed, refit // 2]).permutation(len(distinct))[: len(distinct) // 2]] = True
    first = chosen[member] ^ bool(refit % 2)
    return np.flatnonzero(first), np.flatnonzero(~first)


def quarter_samples(study: Study, train: np.ndarray, refit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a refit's training rows split in two: whole blocks."""
    first, second = half_samples(study.blocks[train], study.seed + 1, 2 * refit)
    return train[first], train[second]


def noisy_target(study: Study, target: int, refit: int) -> np.ndarray:
    """Return a target (N,) for a refit: with the reference's residuals added, of random sign by block."""
    z, factor = study.z[target], float(study.factors[target])
    if factor == 0:
        return z
    return np.asarray(z + factor * flip_signs(study.residuals, study.blocks, [study.seed, refit // 2, target]))


def refit(study: Study, learner: str, number: int, targets: Sequence[int]) -> dict[str, np.ndarray]:
    """Fit a learner on one half for each target and measure its drivers on the other; NaN of other targets.

    Returns r2 (T,); permutation, conditional, impurity, shapley: (T, V + G) of variables and then of drivers; zones (T, Z, G),
    zone_r2 (T, Z); curves, dependences (T, R, K), padded, and zone_curves (T, Z, R, K); joint, joint_dependences (T, K, L);
    quarter_conditional (T, G), quarter_zones (T, Z, G): of drivers, mean of learners trained on the two quarters.
    """
    empty = _empty(study)
    every = {target: _refit_target(study, learner, number, target) for target in targets}
    return {name: np.stack([every.get(target, empty)[name] for target in range(len(study.z))]) for name in empty}


def _empty(study: Study) -> dict[str, np.ndarray]:
    """Return NaN arrays of the shapes of a refit's measurements of one target."""
    v, g, z, r = study.x.shape[1], len(study.drivers), len(study.zones), len(study.curves)
    shapes: dict[str, tuple[int, ...]] = {"r2": (), "zones": (z, g), "zone_r2": (z,), "zone_curves": (z, r, responses.BINS + 1)}
    shapes |= dict.fromkeys(("permutation", "conditional", "impurity", "shapley"), (v + g,))
    shapes |= {"quarter_conditional": (g,), "quarter_zones": (z, g)}
    shapes |= dict.fromkeys(("curves", "dependences"), (r, responses.BINS + 1))
    shapes |= dict.fromkeys(("joint", "joint_dependences"), (responses.JOINT_BINS + 1, responses.JOINT_BINS + 1))
    return {name: np.full(shape, np.nan) for name, shape in shapes.items()}


def _refit_target(study: Study, learner: str, number: int, target: int) -> dict[str, np.ndarray]:
    budget, seed, v, groups = BUDGETS[learner], [study.seed, number], study.x.shape[1], list(study.drivers.values())
    train, test = half_samples(study.blocks, study.seed, number)
    test = np.random.default_rng([*seed, 1]).permutation(test)
    z, found = noisy_target(study, target, number), _empty(study)
    model, *quarters = (
        fit(learner, study.x[rows], z[rows], study.categories, study.seed + number)
        for rows in (train, *quarter_samples(study, train, number))
    )
    whole, *parts = (_conditional(study, each, z, test, budget, seed) for each in (model, *quarters))
    for name, value in whole.items():
        found[name][..., -len(groups) :] = value
        found[f"quarter_{name}"] = np.mean([each[name] for each in parts], axis=0)
    some = test[: budget.single]
    for name, strata in (("permutation", None), ("conditional", study.strata[:v, some])):
        variables = [np.array([k]) for k in range(v)]
        found[name][:v] = permutation(model, study.x[some], z[some], variables, strata, [*seed, 2])
    x, y = study.x[test[: budget.rows]], z[test[: budget.rows]]
    found["permutation"][v:] = permutation(model, x, y, groups, None, [*seed, 2])
    found["r2"][...] = r2_score(y, model.predict(x))
    found["impurity"][:v] = impurity(model, v)
    found["impurity"][v:] = [found["impurity"][columns].sum() for columns in groups]
    if budget.explained:
        explained, background = x[: budget.explained], study.x[test[-budget.background :]]
        found["shapley"][v:] = np.abs(group_shapley(model, explained, background, study.member, [*seed, 3])).mean(0)
        if study.shapley:
            found["shapley"][:v] = np.abs(variable_shapley(model, explained, background, [*seed, 3])).mean(0)
    _measure_responses(study, model, x, found)
    _measure_zones(study, model, z, test, budget, found)
    return found


def _conditional(
    study: Study, model: Fitted, z: np.ndarray, test: np.ndarray, budget: Budget, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return the conditional permutation importance of drivers, everywhere (G,) and by zone (Z, G)."""
    groups, rows = list(study.drivers.values()), test[: budget.rows]
    strata = study.strata[study.x.shape[1] :, rows]
    found = {
        "conditional": permutation(model, study.x[rows], z[rows], groups, strata, [*seed, 2], _DRAWS),
        "zones": np.full((len(study.zones), len(groups)), np.nan),
    }
    for k, rows in _zone_rows(study, test, budget):
        strata = study.zone_strata[k][:, rows]
        found["zones"][k] = permutation(model, study.x[rows], z[rows], groups, strata, [*seed, 4], _DRAWS)
    return found


def _zone_rows(study: Study, test: np.ndarray, budget: Budget) -> list[tuple[int, np.ndarray]]:
    """Return number and test rows of each zone that has two of them."""
    every = [test[inside[test]][: budget.rows // 2] for inside in study.zones.values()]
    return [(k, rows) for k, rows in enumerate(every) if len(rows) > 1]


def _measure_responses(study: Study, model: Fitted, x: np.ndarray, found: dict[str, np.ndarray]) -> None:
    for k, (column, grid, weights) in enumerate(study.curves):
        found["curves"][k, : len(grid)] = responses.accumulated(model, x, column, grid, weights)
        found["dependences"][k, : len(grid)] = responses.dependence(model, x, column, grid, weights)
    if study.pair:
        columns, grids = study.pair
        shape = np.s_[: len(grids[0]), : len(grids[1])]
        found["joint"][shape] = responses.joint_accumulated(model, x, columns, grids)
        found["joint_dependences"][shape] = responses.joint_dependence(model, x, columns, grids)


def _measure_zones(
    study: Study, model: Fitted, z: np.ndarray, test: np.ndarray, budget: Budget, found: dict[str, np.ndarray]
) -> None:
    """Measure a learner's skill and accumulated local effects in each zone."""
    zones = list(study.zones.values())
    for k, rows in _zone_rows(study, test, budget):
        x = study.x[rows]
        found["zone_r2"][k] = r2_score(z[rows], model.predict(x))
        for c, (column, grid, _) in enumerate(study.curves):
            weights = responses.density(study.x[zones[k], column], grid)
            found["zone_curves"][k, c, : len(grid)] = responses.accumulated(model, x, column, grid, weights)


def extrapolate(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Extrapolate conditional importances of drivers, of `refit` or `read_refits`, to infinite sample size.

    A learner trained on half of the profiles underestimates importances, most of all of weak drivers, and one trained on a quarter
    more so. The shortfall is taken to shrink with the root of the number of profiles; then a half's importance is too low by 1 /
    (2^0.5 - 1) = 2.4 times its excess over a quarter's (Richardson extrapolation; Gray and Schucany 1972, The Generalized Jackknife
    Statistic). The two quarters make up the half, so that the chance of its profiles is in both, and grows little.
    """
    raised = {name: found[name].copy() for name in EXTRAPOLATED if name in found}
    for name, values in raised.items():
        drivers = values[..., -found[f"quarter_{name}"].shape[-1] :]
        drivers += (drivers - found[f"quarter_{name}"]) / (2**0.5 - 1)
    return {**found, **raised}


def refit_tasks(folder: Path, study: Study, learner: str, count: int, targets: Sequence[int]) -> list[Task]:
    """Return the tasks of a learner's refits, for `parallel.run_tasks`; each leaves a file in the folder."""
    return [arrays_task(_path(folder, learner, number), refit, (study, learner, number, targets)) for number in range(count)]


def _path(folder: Path, learner: str, number: int) -> Path:
    return folder / f"{learner}-{number:04d}.npz"


def read_refits(folder: Path, learner: str, count: int) -> dict[str, np.ndarray]:
    """Return the results of a learner's refits, each array with refits (H,) in front; UserError if a file is damaged."""
    parts = [read_arrays(_path(folder, learner, number)) for number in range(count)]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


# --- screening ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Screening:
    """A study, and the skill of its learners."""

    study: Study
    # (T,) numbers of the support's targets, as the study has them: the reference (the first one observed) first
    order: tuple[int, ...]
    # learner -> the study's targets it has skill on; learners without skill on the reference are not there. The first one is the
    # lead, which mismatches are based on.
    able: dict[str, list[int]]
    skill: pd.DataFrame  # target, learner, n, r2, r2_low, r2_high, ccc, ccc_low, ccc_high, reported (whether its drivers are)
    predicted: np.ndarray  # (T, N) log targets out of fold by the lead


def screen(support: Support, analysis: Analysis, folder: Path) -> Screening:
    """Cross-validate every learner on every target, and make the study of those with skill; finished parts lie in `folder`.

    A learner without skill on a target is not used: its importances would be those of its errors. UserError if blocks are too few,
    no learner has skill on the reference, or a setting names what is not there.
    """
    blocks = spatial_groups(support.lon, support.lat, analysis.block_size)
    if (count := len(np.unique(blocks))) < _MIN_BLOCKS:
        found = f"{len(support)} places lie in {count} blocks"
        raise UserError(f"{found}; {_MIN_BLOCKS} are needed: lower --block_size ({analysis.block_size:g})")
    drivers, zones = drivers_of(support, analysis.drivers), zones_of(support, analysis.zones)
    if small := [zone for zone, inside in zones.items() if inside.sum() < _MIN_ZONE]:
        log.info("zones of fewer than %d places are not reported: %s", _MIN_ZONE, ", ".join(small))
    zones = {zone: inside for zone, inside in zones.items() if zone not in small}
    first = next(k for k, target in enumerate(support.targets) if target.kind == "observed")
    order = (first, *(k for k in range(len(support.targets)) if k != first))
    names = [support.targets[k].name for k in order]
    z = np.stack([_log_target(support, k) for k in order])
    validation = CrossValidation(support.x, support.categories, group_folds(blocks, _FOLDS, analysis.seed), analysis.seed)
    tasks: dict[tuple[str, int], Task] = {
        (learner, t): arrays_task(folder / f"held-out-{learner}-{t}.npz", _held_out, (validation, learner, z[t]))
        for learner in analysis.learners
        for t in range(len(order))
    }
    run_tasks(list(tasks.values())[::-1], analysis.workers, "cross-validation")  # the slowest first
    predicted = {key: read_arrays(task.path)["predicted"] for key, task in tasks.items()}
    skill, able = _skill(names, z, predicted, blocks, analysis)
    if not able:
        rows = skill[skill["target"] == names[0]].itertuples()
        shown = "; ".join(f"{row.learner} {row.r2:.2f} [{row.r2_low:.2f}, {row.r2_high:.2f}]" for row in rows)
        reason = f"below min_skill {analysis.min_skill:g}: drivers of a learner without skill are not those of soil"
        raise UserError(f"{names[0]}: cross-validated R2 of {shown}, {reason}; give more profiles or other covariates")
    lead = next(iter(able))
    out_of_fold = np.stack([predicted[lead, t] for t in range(len(order))])
    matched = {
        t: arrays_task(folder / f"noise-{t}.npz", _noise, (validation, lead, z[t], z[0], out_of_fold[0], blocks))
        for t in able[lead]
        if t
    }
    run_tasks(list(matched.values()), analysis.workers, "noise")
    factors = np.array([float(read_arrays(matched[t].path)["factor"]) if t in matched else 0.0 for t in range(len(order))])
    study = _make_study(support, analysis, (z, z[0] - out_of_fold[0], factors, blocks), (drivers, zones), lead)
    return Screening(study, order, able, skill, out_of_fold)


def _held_out(validation: CrossValidation, learner: str, z: np.ndarray) -> dict[str, np.ndarray]:
    """Return a learner's out-of-fold predictions, as a task's arrays."""
    return {"predicted": validation.predict(learner, z)}


def _noise(
    validation: CrossValidation, learner: str, z: np.ndarray, reference: np.ndarray, predicted: np.ndarray, blocks: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the factor and R2 of `matching_noise`, as a task's arrays."""
    wanted = float(r2_score(reference, predicted))
    factor, r2 = matching_noise(validation, learner, z, reference - predicted, blocks, wanted)
    return {"factor": np.array(factor), "r2": np.array(r2)}


def _make_study(
    support: Support,
    analysis: Analysis,
    targets: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    groups: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    lead: str,
) -> Study:
    """Return the study of targets (z, residuals, factors, blocks) and groups (drivers, zones)."""
    z, (drivers, zones) = targets[0], groups
    columns, pair = _response_columns(support, analysis, drivers, z[0], lead)
    grids = {column: responses.quantile_grid(support.x[:, column]) for column in columns}
    edges = [responses.quantile_grid(support.x[:, column], responses.JOINT_BINS) for column in pair or ()]
    single = [np.array([k]) for k in range(support.x.shape[1])]

    def strata(players: Sequence[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
        return [strata_of(x, columns, support.classes, analysis.seed) for columns in players]

    zone_strata = np.zeros((len(zones), len(drivers), len(support)), np.int64)
    for k, inside in enumerate(zones.values()):
        zone_strata[k][:, inside] = strata(list(drivers.values()), support.x[inside])
    return Study(
        support.x,
        support.categories,
        *targets,
        drivers,
        np.stack(strata([*single, *drivers.values()], support.x)),
        zone_strata,
        tuple((column, grid, responses.density(support.x[:, column], grid)) for column, grid in grids.items()),
        pair and (pair, (edges[0], edges[1])),
        zones,
        has_shap(),
        analysis.seed,
    )


def _log_target(support: Support, target: int) -> np.ndarray:
    try:
        return log_target(support.y[target])
    except ValueError as error:
        raise UserError(f"{support.targets[target].name}: {error} of {len(support)} places; nothing to explain") from error


def _skill(
    names: Sequence[str], z: np.ndarray, predicted: dict[tuple[str, int], np.ndarray], blocks: np.ndarray, analysis: Analysis
) -> tuple[pd.DataFrame, dict[str, list[int]]]:
    """Return the table of skill, and the targets that each learner has skill on."""
    rows: list[dict[str, Any]] = []
    able: dict[str, list[int]] = {}
    for learner in analysis.learners:
        skilled = []
        for t, name in enumerate(names):
            found: dict[str, Any] = bootstrap_scores(z[t], predicted[learner, t], analysis.seed, level=LEVEL, groups=blocks)
            row = {"target": name, "learner": learner, "n": found["n"]}
            for score in ("r2", "ccc"):
                row |= {score: found[score]["value"], f"{score}_low": found[score]["low"], f"{score}_high": found[score]["high"]}
            if row["r2"] >= analysis.min_skill:
                skilled.append(t)
            elif t:
                words = "%s: R2 of %s is %.2f, below %g: its drivers are not reported"
                log.info(words, name, learner, row["r2"], analysis.min_skill)
            rows.append(row | {"reported": t in skilled})
        if 0 in skilled:
            able[learner] = skilled
    table = pd.DataFrame(rows)
    return table.assign(reported=table["reported"] & table["learner"].isin(list(able))), able


def _response_columns(
    support: Support, analysis: Analysis, drivers: dict[str, np.ndarray], z: np.ndarray, lead: str
) -> tuple[list[int], tuple[int, int] | None]:
    """Return the columns of response curves, and the pair: those named, else the most important numeric ones of each driver."""
    column = {name: k for k, name in enumerate(support.variables)}
    for what, names in (("responses", analysis.responses), ("pair", analysis.pair)):
        for name in names:
            if name not in column:
                raise UserError(f"{what}: no variable {name!r}{nearest(name, list(column))}")
            if support.classes[column[name]]:
                raise UserError(f"{what}: {name!r} is a class, which has no order and so no curve")
    weight = impurity(fit("forest" if lead == "network" else lead, support.x, z, support.categories, analysis.seed), len(column))
    numeric = [[k for k in columns.tolist() if not support.classes[k]] for columns in drivers.values()]
    top = [max(columns, key=lambda k: weight[k]) for columns in numeric if columns]
    chosen = [column[name] for name in analysis.responses] or top
    if analysis.pair:
        return chosen, (column[analysis.pair[0]], column[analysis.pair[1]])
    strongest = sorted(top, key=lambda k: -weight[k])
    return chosen, (strongest[0], strongest[1]) if len(strongest) > 1 else None
