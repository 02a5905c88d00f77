"""Comparison of methods on one dataset: profiles, folds, and what fits into the budget of computing time.

In: a `Design`. Out, in its folder: what `runs` keeps; a `Ranking`. A run is of one method, so that what takes too long can be left
out; all methods have the same folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd

from soilcarbon.benchmark.budget import ALWAYS, LIMITS, REPEATS, Choice, fit_into
from soilcarbon.benchmark.methods import METHODS, REFERENCE, TUNED, Division, Method, expected_seconds
from soilcarbon.benchmark.ranking import Ranking, notes_of, score_table
from soilcarbon.benchmark.runs import CrossValidation, Ledger, Plan, Run, execute_all, held_out
from soilcarbon.io.files import UserError
from soilcarbon.regression.fit import FEWEST, check_columns, samples_of
from soilcarbon.regression.learners import FEWEST_OF_NETWORK, MOST_PROFILES, Task
from soilcarbon.regression.selection import draw_folds
from soilcarbon.regression.transfer import read_transfer
from soilcarbon.soil.dataset import SPLITS, Dataset, check_variables
from soilcarbon.stats.groups import spatial_groups


@dataclass(frozen=True, kw_only=True)
class Design(CrossValidation):
    """Design of a comparison on one dataset."""

    may_fail: ClassVar[bool] = True

    data_dir: Path
    methods: tuple[str, ...] = tuple(METHODS)  # keys; with them come the constants and the reference
    known: Mapping[str, Method] = field(default_factory=lambda: METHODS, compare=False)  # by key; `METHODS` and others
    target: str | None = None  # column to predict; None: the checkpoint's, or soc
    use_test: bool = False  # use the profiles of the test split, too
    checkpoint: Path | None = None  # of a network that is transferred
    global_data: Path | None = None  # its dataset, to whose profiles elsewhere its teachers are fitted
    strategies: tuple[str, ...] = ("place", "blocks")
    repeats: int | None = None  # draws of the folds; None: by the budget
    budget: Literal["quick", "full", "unlimited"] = "quick"  # key of `LIMITS`
    choice: Choice = field(default=Choice((), (), 1), compare=False)  # what is computed, as planned

    def __post_init__(self) -> None:
        self.check_methods(self.methods)
        for name in self.methods:
            if self.known[name].needs_checkpoint and self.checkpoint is None:
                raise UserError(f"method {name!r} transfers a network: give --init_from, a checkpoint")

    def profiles_of(self, region: str) -> tuple[Dataset, np.ndarray]:  # noqa: ARG002
        """Return the dataset, and the rows of the profiles that are used."""
        return read_inputs(self)[:2]

    def draw_folds(self, region: str, strategy: str, repeat: int, most: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw folds; of blocks as `soilcarbon fit` does, or of whole places where there are too few blocks."""
        data, rows, task = read_inputs(self)
        if strategy != "blocks":
            most = min(self.folds, len(np.unique(spatial_groups(data.lon[rows], data.lat[rows]))))
            return super().draw_folds(region, strategy, repeat, most)
        side = self.folds_for(strategy).block_size if repeat else task.block_size
        samples = samples_of(replace(data, block_size=side), rows)
        folds, _, facts = draw_folds(samples, replace(task, seed=self.seed + repeat, block_size=side), self.folds)
        return folds, facts

    def divide(self, run: Run) -> Division:
        """Return the division of the profiles of a run."""
        data, rows, task = read_inputs(self)
        folds = self.folds_for(run.strategy, run.repeat)
        side = folds.block_size
        data = replace(data, block_size=side)
        transfer = task.transfer and task.transfer.outside(data)
        task = replace(task, seed=self.seed + run.repeat, block_size=side, members=self.choice.members, transfer=transfer)
        return Division(samples_of(data, rows), folds.folds, run.fold, task, self.choice.tuned)


class Inputs(NamedTuple):
    """The dataset, the rows of the profiles that are used, and what is to be learnt."""

    data: Dataset
    rows: np.ndarray
    task: Task


@lru_cache(maxsize=1)
def read_inputs(design: Design) -> Inputs:
    """Read the dataset; a process of the pool reads it once. UserError if there is nothing to compare methods on."""
    splits = SPLITS if design.use_test else SPLITS[:2]
    data, transfer = read_transfer(design.checkpoint, design.data_dir, None, splits, design.target, design.global_data)
    target = transfer.network.specification.target if transfer else design.target or "soc"
    rows = np.concatenate([np.asarray(data.split[name], np.int64) for name in splits if name in data.split])  # as fit has them
    y = np.asarray(data.y, np.float64)[rows]
    if len(y) < FEWEST:
        more = "" if design.use_test else ", or --use_test to take the test split too"
        raise UserError(
            f"{len(y)} profiles are too few to compare methods; {FEWEST} are the fewest, 40 are sensible: use more{more}"
        )
    if np.ptp(y) == 0:
        raise UserError(f"all {len(y)} profiles have {target} {y[0]:g}: there is nothing to compare; is it the right --target?")
    check_variables(data.x[rows], data.categories, refuse="nothing")
    check_columns(data.x[rows], data.categories)
    size = design.block_size or data.block_size
    return Inputs(data, rows, Task(data.categories, target, size, seed=design.seed, meaning=data.target, transfer=transfer))


# --- plan and budget ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OwnPlan(Plan):
    """What is computed."""

    strategies: tuple[str, ...]  # those there are folds of; the verdict is based on the last
    choice: Choice
    changes: tuple[str, ...]  # what was left out or shrunk, a sentence each


def strategies_of(design: Design) -> tuple[str, ...]:
    """Return the strategies, without blocks where there are too few of them and places take their part."""
    found = [str(design.folds_for(each).facts["strategy"]) for each in design.strategies]
    return tuple(each for k, each in enumerate(found) if each not in found[k + 1 :])


def plan_runs(design: Design) -> OwnPlan:
    """Choose the strategies and what fits into the budget."""
    strategies = strategies_of(design)
    data, rows, task = read_inputs(design)
    world = len(task.transfer.world.split["train"]) if task.transfer and task.transfer.world else 0
    n, width, last = len(rows), sum(len(each.variables) for each in data.categories), strategies[-1]
    counts = {each: int(design.folds_for(each).folds.max()) + 1 for each in strategies}

    def fold_seconds(key: str, strategy: str, choice: Choice) -> float:
        train = n - n // counts[strategy]
        return expected_seconds(design.known[key], train, width, choice.members, choice.tuned, world)

    def alone(key: str, choice: Choice, strategy: str = last) -> float:
        reference = expected_seconds(design.known[REFERENCE], n - n // counts[last], width) * counts[last]
        return fold_seconds(key, strategy, choice) * counts[strategy] / reference

    def times(choice: Choice) -> float:
        beside = sum(alone(key, choice, each) for each in strategies[:-1] for key in choice.beside)
        return choice.repeats * (beside + sum(alone(key, choice) for key in choice.methods))

    wanted, changes = _wanted(design, n)
    choice, more = fit_into(wanted, design.known, times, LIMITS[design.budget])
    runs = [
        Run(strategy, fold, (key,), repeat)
        for repeat in range(choice.repeats)
        for strategy in strategies
        for key in (choice.methods if strategy == last else choice.beside)
        for fold in range(int(design.folds_for(strategy, repeat).folds.max()) + 1)
        if not design.known[key].parts
    ]
    seconds = {run: fold_seconds(run.methods[0], run.strategy, choice) for run in runs}
    runs.sort(
        key=lambda run: (run.repeat, run.methods[0] != REFERENCE, run.strategy != last, seconds[run], run.methods[0], run.fold)
    )
    reference = tuple(run for run in runs if (run.strategy, run.repeat, run.methods[0]) == (last, 0, REFERENCE))
    limit, changes = LIMITS[design.budget], [*changes, *more]
    return OwnPlan(tuple(runs), seconds, reference, limit, ALWAYS, strategies=strategies, choice=choice, changes=tuple(changes))


def _wanted(design: Design, n: int) -> tuple[Choice, list[str]]:
    """Return what is to be computed if the budget allows for it, and what is not for another reason."""
    keys = [key for key in design.known if key in {*design.methods, *ALWAYS}]
    parts = {each for key in keys for each in design.known[key].parts}
    keys = [key for key in design.known if key in {*keys, *parts}]
    tuned, changes = design.budget != "quick", []
    if not tuned:
        keys = [key for key in keys if key not in TUNED]
        changes.append("nothing is tuned but the penalty of ridge and the epoch of networks: --budget full tunes")
    unfit = {key for key in keys if design.known[key].kind == "network"} if n < FEWEST_OF_NETWORK else set()
    if unfit:
        changes.append(f"no networks: {n} profiles are too few, {FEWEST_OF_NETWORK} are needed")
    many = {key for key in keys if n > MOST_PROFILES.get("regression-kriging" if "kriging" in key else key.split("-")[-1], n)}
    if many:
        changes.append(f"left out, being for fewer profiles: {', '.join(sorted(many))}")
    kept = tuple(key for key in keys if key not in unfit | many)
    return Choice(kept, kept, design.repeats or REPEATS[design.budget], tuned=tuned), changes


# --- results ------------------------------------------------------------------------------------------------------------------


def compare(design: Design, settings: Mapping[str, Any], command: str) -> Ranking:
    """Execute what fits into the budget and is not there, and return the results."""
    plan = plan_runs(design)
    design = replace(design, choice=plan.choice)
    ledger = execute_all(design, plan)
    found, target = gather(design, plan, ledger), read_inputs(design).data.target
    return Ranking(
        name=design.data_dir.resolve().name,
        target=target.title,
        unit=target.unit,
        methods=design.known,
        scores=score_table(found, design.known, design.seed),
        predictions=found,
        facts={each: design.folds_for(each).facts for each in plan.strategies},
        notes=notes_of(design, plan, ledger, found),
        ratio=ledger.ratio,
        limit=plan.limit,
        settings=settings,
        command=command,
    )


def gather(design: Design, plan: OwnPlan, ledger: Ledger) -> dict[str, pd.DataFrame]:
    """Return strategy -> profile_id, lon, lat, group, observed, repeat, fold, and what every method predicts, a column each.

    A method is there if all folds of the first repeat are; a repeat, if all those methods have all its folds. Groups, of which
    intervals are resampled, are the blocks of the last strategy, or places.
    """
    data, rows, _ = read_inputs(design)
    groups = spatial_groups(data.lon[rows], data.lat[rows], design.folds_for(plan.strategies[-1]).block_size)
    found = {}
    for strategy in plan.strategies:
        runs = [run for run in plan.runs if run.strategy == strategy and run.methods[0] not in ledger.failed]
        lacking = {run.methods for run in runs if run.repeat == 0 and run not in ledger.done}
        runs = [run for run in runs if run.methods not in lacking]
        cut = min((run.repeat for run in runs if run not in ledger.done), default=plan.choice.repeats)
        wanted = plan.choice.methods if strategy == plan.strategies[-1] else plan.choice.beside
        stacks = {key: design.known[key] for key in wanted if design.known[key].parts}
        tables = []
        for run, table in held_out(design, [run for run in runs if run.repeat < cut], {"": groups}):
            for key, stack in stacks.items():
                if set(stack.parts) <= set(run.methods):
                    known = {each: table[each].to_numpy() for each in stack.parts}
                    table = table.assign(**stack.columns(key, design.divide(run), known))
            tables.append(table)
        whole = pd.concat(tables).rename_axis("row").sort_values(["repeat", "row"]).reset_index(drop=True)
        first = ["profile_id", "lon", "lat", "group", "observed", "repeat", "fold"]
        found[strategy] = whole[[*first, *(key for key in design.known if key in whole)]]
    return found
