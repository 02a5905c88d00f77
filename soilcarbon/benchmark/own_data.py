"""Comparison of methods on one dataset: folds, what fits into the budget of computing time, and runs.

A run is one fold held out and one method; all methods have the same folds. In: a `Design`. Out, in its folder: folds/, and runs/
with a CSV per run of what the method predicts of the profiles held out, its checksum, and the computing time it took; an
interrupted comparison resumes where it was.
"""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # a dependency of scikit-learn
from tqdm import tqdm

from soilcarbon.benchmark.budget import ALWAYS, LIMITS, REPEATS, Choice, fit_into
from soilcarbon.benchmark.folds import CrossValidation, Folds, kept_folds, places_on
from soilcarbon.benchmark.methods import METHODS, REFERENCE, STACKS, TUNED, Division, Method, expected_seconds, stacked
from soilcarbon.io.files import UserError, nearest, write_table, write_text
from soilcarbon.io.resumption import is_sealed, seal
from soilcarbon.io.tables import read_table
from soilcarbon.parallel import worker_pool
from soilcarbon.progress import quiet_training
from soilcarbon.regression.fit import FEWEST, check_columns, samples_of
from soilcarbon.regression.learners import FEWEST_OF_NETWORK, MOST_PROFILES, Task
from soilcarbon.regression.selection import draw_folds
from soilcarbon.regression.transfer import read_transfer
from soilcarbon.soil.dataset import SPLITS, Dataset, check_variables, read_dataset
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.spatial_cv import make_folds


@dataclass(frozen=True, kw_only=True)
class Design(CrossValidation):
    """Design of a comparison on one dataset."""

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

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in self.known:
                raise UserError(f"method {name!r} is not known{nearest(name, list(self.known))}; there are {', '.join(self.known)}")
            if self.known[name].needs_checkpoint and self.checkpoint is None:
                raise UserError(f"method {name!r} transfers a network: give --init_from, a checkpoint")


class Run(NamedTuple):
    """One run: strategy, number of the repeat, fold held out, method."""

    strategy: str
    repeat: int
    fold: int
    method: str

    @property
    def name(self) -> str:
        """Name of the run's files."""
        return f"{self.strategy}-{self.repeat}-{self.fold}-{self.method}"


# --- inputs and folds ---------------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """The dataset, the rows of the profiles that are used, and what is to be learnt."""

    data: Dataset
    rows: np.ndarray
    task: Task


@lru_cache(maxsize=1)
def read_inputs(design: Design) -> Inputs:
    """Read the dataset; a process of the pool reads it once. UserError if there is nothing to compare methods on."""
    splits, transfer = SPLITS if design.use_test else SPLITS[:2], None
    if design.checkpoint is None:
        data = read_dataset(design.data_dir, None, splits, target=design.target or "soc")
    else:
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


def folds_for(design: Design, strategy: str, repeat: int) -> Folds:
    """Return the folds of the profiles used in a repeat, from the folder if they were drawn before."""
    data, rows, task = read_inputs(design)
    seed, lon, lat = design.seed + repeat, data.lon[rows], data.lat[rows]

    def draw() -> tuple[np.ndarray, dict[str, Any]]:
        if strategy == "blocks":
            side = folds_for(design, strategy, 0).block_size if repeat else task.block_size
            samples = samples_of(replace(data, block_size=side), rows)
            folds, _, facts = draw_folds(samples, replace(task, seed=seed, block_size=side), design.folds)
            return folds, facts
        more: dict[str, Any] = {}
        if strategy == "knndm":
            more["prediction_points"] = places_on(design.land, design.nodata, data, seed)
        most = min(design.folds, len(np.unique(spatial_groups(lon, lat))))
        try:
            return make_folds(strategy, lon, lat, most, seed, **more)
        except ValueError as error:
            raise UserError(f"no folds by {strategy}: {error}; give fewer --folds, or other --strategies") from error

    return kept_folds(design.out / "folds" / f"{strategy}-{repeat}.csv", [data.ids[k] for k in rows], draw)


def strategies_of(design: Design) -> tuple[str, ...]:
    """Return the strategies, without blocks where there are too few of them and places take their part."""
    found = [str(folds_for(design, each, 0).facts["strategy"]) for each in design.strategies]
    return tuple(each for k, each in enumerate(found) if each not in found[k + 1 :])


# --- plan and budget ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What is computed."""

    strategies: tuple[str, ...]  # those there are folds of; the verdict is based on the last
    runs: tuple[Run, ...]  # in their order, those of the reference first
    choice: Choice
    seconds: Mapping[Run, float]  # expected, on one core
    changes: tuple[str, ...]  # what was left out or shrunk, a sentence each

    @property
    def reference(self) -> list[Run]:
        """Runs whose time is the unit of the budget: the reference under the last strategy."""
        return [run for run in self.runs if run[:2] == (self.strategies[-1], 0) and run.method == REFERENCE]


def plan_runs(design: Design) -> Plan:
    """Choose the strategies and what fits into the budget."""
    strategies = strategies_of(design)
    data, rows, task = read_inputs(design)
    world = len(task.transfer.world.split["train"]) if task.transfer and task.transfer.world else 0
    n, width, last = len(rows), sum(len(each.variables) for each in data.categories), strategies[-1]
    counts = {each: int(folds_for(design, each, 0).folds.max()) + 1 for each in strategies}

    def fold_seconds(key: str, strategy: str, choice: Choice) -> float:
        train = n - n // counts[strategy]
        return 0.0 if key in STACKS else expected_seconds(design.known[key], train, width, choice.members, choice.tuned, world)

    def alone(key: str, choice: Choice, strategy: str = last) -> float:
        reference = expected_seconds(design.known[REFERENCE], n - n // counts[last], width) * counts[last]
        return fold_seconds(key, strategy, choice) * counts[strategy] / reference

    def times(choice: Choice) -> float:
        beside = sum(alone(key, choice, each) for each in strategies[:-1] for key in choice.beside)
        return choice.repeats * (beside + sum(alone(key, choice) for key in choice.methods))

    wanted, changes = _wanted(design, n)
    choice, more = fit_into(wanted, design.known, times, LIMITS[design.budget])
    runs = [
        Run(strategy, repeat, fold, key)
        for repeat in range(choice.repeats)
        for strategy in strategies
        for key in (choice.methods if strategy == last else choice.beside)
        for fold in range(int(folds_for(design, strategy, repeat).folds.max()) + 1)
        if key not in STACKS
    ]
    seconds = {run: fold_seconds(run.method, run.strategy, choice) for run in runs}
    runs.sort(key=lambda run: (run.repeat, run.method != REFERENCE, run.strategy != last, seconds[run], run.method, run.fold))
    return Plan(strategies, tuple(runs), choice, seconds, (*changes, *more))


def _wanted(design: Design, n: int) -> tuple[Choice, list[str]]:
    """Return what is to be computed if the budget allows for it, and what is not for another reason."""
    keys = [key for key in design.known if key in {*design.methods, *ALWAYS}]
    parts = {each for key in keys for each in STACKS.get(key, ())}
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


# --- runs ---------------------------------------------------------------------------------------------------------------------


def divide(design: Design, run: Run, choice: Choice) -> Division:
    """Return the division of the profiles of a run."""
    data, rows, task = read_inputs(design)
    folds = folds_for(design, run.strategy, run.repeat)
    side = folds.block_size
    data = replace(data, block_size=side)
    transfer = task.transfer and task.transfer.outside(data)
    task = replace(task, seed=design.seed + run.repeat, block_size=side, members=choice.members, transfer=transfer)
    return Division(samples_of(data, rows), folds.folds, run.fold, task, choice.tuned)


def execute(design: Design, run: Run, choice: Choice) -> tuple[float, str]:
    """Execute a run: write its predictions; return its computing time, s, and why it failed, or ""."""
    division = divide(design, run, choice)
    torch.set_num_threads(1)  # as in the processes of a pool: bits depend on it
    begin = time.process_time()
    try:
        with threadpool_limits(1), quiet_training():
            found = np.asarray(design.known[run.method].predict(division), np.float64)
    except (ValueError, UserError, ArithmeticError, np.linalg.LinAlgError) as error:  # of a fold: too few profiles, diverged
        return time.process_time() - begin, str(error).partition("\n")[0] or type(error).__name__
    seconds = time.process_time() - begin
    if found.shape != ((division.folds == run.fold).sum(),) or not np.isfinite(found).all():
        return seconds, "its predictions are not finite"
    data, rows, _ = read_inputs(design)
    path, ids = design.run_path(run.name), np.array(data.ids)[rows[division.folds == run.fold]]
    write_text(path.with_suffix(".seconds"), f"{seconds:.4f}\n")
    write_table(path, pd.DataFrame({"profile_id": ids, "predicted": found}))
    seal(path)
    return seconds, ""


class Ledger:
    """Computing time that runs took, which of them are done, and which methods are not continued."""

    def __init__(self, plan: Plan, limit: float) -> None:
        self.plan, self.limit = plan, limit
        self.seconds: dict[Run, float] = {}
        self.done: set[Run] = set()
        self.failed: dict[str, str] = {}  # method -> why it cannot be fitted
        self.stopped: set[tuple[int, str]] = set()  # repeat and method that would have gone beyond the limit

    @property
    def reference(self) -> float | None:
        """Time of the reference's cross-validation; None before it is done."""
        runs = self.plan.reference
        return sum(self.seconds[run] for run in runs) if self.done.issuperset(runs) else None

    @property
    def ratio(self) -> float:
        """Time of all runs, in cross-validations of the reference."""
        return sum(self.seconds.values()) / (self.reference or 1e-9)

    def note(self, run: Run, seconds: float, error: str) -> None:
        """Enter a run."""
        self.seconds[run] = seconds
        if error:
            self.failed.setdefault(run.method, error)
        else:
            self.done.add(run)

    def affords(self, run: Run, running: Sequence[Run]) -> bool:
        """Return whether a run is to be begun, beside those running: its method has not failed, and its time is left."""
        if run.method in self.failed or (run.repeat, run.method) in self.stopped:
            return False
        reference = self.reference
        if reference is None or (run.method in ALWAYS and not run.repeat):
            return True
        scale = reference / sum(self.plan.seconds[each] for each in self.plan.reference)
        ahead = sum(self._expected(each, scale) for each in (run, *running))
        if sum(self.seconds.values()) + ahead <= self.limit * reference:
            return True
        self.stopped.add((run.repeat, run.method))
        return False

    def _expected(self, run: Run, scale: float) -> float:
        alike = [seconds for each, seconds in self.seconds.items() if each.method == run.method]
        return sum(alike) / len(alike) if alike else scale * self.plan.seconds[run]


def execute_all(design: Design, plan: Plan) -> Ledger:
    """Execute the runs that are not there, within the limit, on several processes, with a bar that shows the time left."""
    ledger, waiting, running = Ledger(plan, LIMITS[design.budget]), deque(plan.runs), dict[Future[tuple[float, str]], Run]()
    cores = design.workers or os.cpu_count() or 1
    form = "{l_bar}{bar}| [{elapsed}, {remaining} left]"
    pools: Any = nullcontext(None) if cores == 1 else worker_pool(cores)
    bar = tqdm(total=sum(plan.seconds.values()), desc="cross-validation", disable=None, leave=False, bar_format=form)
    with bar, pools as pool:
        while waiting or running:
            while waiting and len(running) < cores:
                run = waiting.popleft()
                if (begun := _begin(design, plan, run, ledger, list(running.values()), pool)) is not None:
                    running[begun] = run
                else:
                    bar.update(plan.seconds[run])
            for each in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                run = running.pop(each)
                ledger.note(run, *each.result())
                bar.update(plan.seconds[run])
    return ledger


def _begin(
    design: Design, plan: Plan, run: Run, ledger: Ledger, running: Sequence[Run], pool: Executor | None
) -> Future[tuple[float, str]] | None:
    """Begin a run in the pool and return its future; None: it was there, or is not afforded, or was executed here."""
    path = design.run_path(run.name)
    if is_sealed(path):
        ledger.note(run, _seconds_of(path), "")
    elif ledger.affords(run, running):
        if pool is not None:
            return pool.submit(execute, design, run, plan.choice)
        ledger.note(run, *execute(design, run, plan.choice))
    return None


def _seconds_of(path: Path) -> float:
    try:
        return max(float(path.with_suffix(".seconds").read_text(encoding="utf-8")), 0.0)
    except (OSError, ValueError):
        return 0.0


# --- predictions --------------------------------------------------------------------------------------------------------------


def gather(design: Design, plan: Plan, ledger: Ledger) -> dict[str, pd.DataFrame]:
    """Return strategy -> profile_id, lon, lat, group, observed, repeat, fold, and what every method predicts, a column each.

    A method is there if all folds of the first repeat are; a repeat, if all those methods have all its folds. Groups, of which
    intervals are resampled, are the blocks of the last strategy, or places.
    """
    data, rows, _ = read_inputs(design)
    side = folds_for(design, plan.strategies[-1], 0).block_size
    lon, lat = data.lon[rows], data.lat[rows]
    known = pd.DataFrame({"profile_id": np.array(data.ids)[rows], "lon": lon, "lat": lat})
    known = known.assign(group=spatial_groups(lon, lat, side), observed=np.asarray(data.y, np.float64)[rows])
    found = {}
    for strategy in plan.strategies:
        runs = [run for run in plan.runs if run.strategy == strategy and run.method not in ledger.failed]
        lacking = {run.method for run in runs if run.repeat == 0 and run not in ledger.done}
        runs = [run for run in runs if run.method not in lacking]
        cut = min((run.repeat for run in runs if run not in ledger.done), default=plan.choice.repeats)
        keys = list(dict.fromkeys(run.method for run in sorted(runs, key=lambda run: list(design.known).index(run.method))))
        wanted = plan.choice.methods if strategy == plan.strategies[-1] else plan.choice.beside
        stacks = [key for key in STACKS if key in wanted]
        parts = [_repeat(design, plan, known, strategy, repeat, keys, stacks) for repeat in range(cut)]
        found[strategy] = pd.concat(parts, ignore_index=True)
    return found


def _repeat(
    design: Design, plan: Plan, known: pd.DataFrame, strategy: str, repeat: int, keys: Sequence[str], stacks: Sequence[str]
) -> pd.DataFrame:
    """Return the predictions of a repeat, a row per profile."""
    folds = folds_for(design, strategy, repeat).folds
    columns = {key: np.full(len(folds), np.nan) for key in keys}
    stacks = [key for key in stacks if set(STACKS[key]) <= set(keys)]
    columns |= {key: np.full(len(folds), np.nan) for key in stacks}
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        for key in keys:
            path = design.run_path(Run(strategy, repeat, fold, key).name)
            table = read_table(path, ("profile_id", "predicted"))
            if table["profile_id"].tolist() != known.loc[out, "profile_id"].tolist():
                raise UserError(f"{path}: is of other profiles; give another --out")
            columns[key][out] = pd.to_numeric(table["predicted"]).to_numpy(np.float64)
        for key in stacks:
            division = divide(design, Run(strategy, repeat, fold, key), plan.choice)
            columns[key][out] = stacked(division, key, {each: columns[each][out] for each in keys})
    order = [key for key in design.known if key in columns]
    return known.assign(repeat=repeat, fold=folds, **{key: columns[key] for key in order})
