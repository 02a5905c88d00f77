"""Trials of a comparison: one region, one fold held out, so many profiles to learn from, every method on the same ones.

In: settings, datasets, folds. Out: a folder of finished trials, one CSV each with what every method predicts of the profiles held
out, written whole or not at all, so that an interrupted comparison goes on where it was.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict

from soilcarbon import parallel as workpool
from soilcarbon.benchmark.experiment import folds_of, pretrain, pretrained_path, stage
from soilcarbon.benchmark.forests import QuantileForest
from soilcarbon.benchmark.network_variants import AS_SET, CONTENDERS, STACK, Case, plain_settings, predict, stack, train_network
from soilcarbon.benchmark.tuning import BASELINES, tune
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.io.files import UserError, read_table, write_table
from soilcarbon.network.network import load_checkpoint
from soilcarbon.network.preprocessing import unfold_classes
from soilcarbon.parallel import Task
from soilcarbon.soil.dataset import middle_cells
from soilcarbon.stats.groups import inner_folds
from soilcarbon.training import loop as engine

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of intervals."""
INTERVALS = {AS_SET: AS_SET, "quantile_forest": "quantile_forest", "quantile_forest_calibrated": "quantile_forest"}
"""What gives intervals -> the method whose prediction they go with."""
PEEKED, HONEST = "peeked", "tuned"
"""The fine-tuned network whose epoch the held-out profiles choose, and the one whose epoch they do not."""


class Trial(BaseModel):
    """One trial; `size` 0 stands for all profiles there are to learn from; those of learning curves are `curve`."""

    model_config = ConfigDict(frozen=True)
    region: str
    way: str
    fold: int
    size: int = 0
    repeat: int = 0
    curve: bool = False
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.region}-{self.way}-{self.fold}-{self.size or 'all'}" + (f"-{self.repeat}" if self.curve else "")


# --- one trial -----------------------------------------------------------------------------------------------------


def run_trial(settings: str, trial: Trial) -> str:
    """Let every method predict a trial's profiles held out, and write the table; return the trial's name."""
    wanted, here = CompareSettings.model_validate_json(settings), stage(settings)
    torch.set_num_threads(1)
    data = here.regions[trial.region]
    folds, _ = folds_of(wanted, trial.region, data, trial.way)
    rows, test = np.flatnonzero(folds != trial.fold), np.flatnonzero(folds == trial.fold)
    if trial.size:
        rows = np.random.default_rng([wanted.seed, trial.fold, trial.repeat]).permutation(rows)[: trial.size]
    start = load_checkpoint(pretrained_path(wanted, trial.region))
    start.respecify(center=here.regional.center)  # as the forests of ln(1 + y): all aim at the median, or none
    case = Case(data, rows, test, start, here.world, here.regional)
    table = pd.DataFrame({"profile_id": np.array(data.ids)[test], "lon": data.lon[test], "lat": data.lat[test]})
    table = table.assign(observed=data.y[test], n_train=len(rows))
    columns: dict[str, np.ndarray] = {}
    for method in trial.methods:
        if method == AS_SET:
            columns |= _as_set(case)
        elif method == "quantile_forest" and not trial.curve:
            columns |= _quantile_forest(case)
        elif method == STACK:
            columns[method] = stack(case, columns)
        else:
            columns[method] = predict(method, case)
    if HONEST in trial.methods and not trial.curve:
        network = train_network(case, plain_settings(case.settings), choosing=test)
        columns[PEEKED] = engine.predict(network, data.x[test])[0]
    write_table(trial_path(wanted, trial), table.assign(**columns))
    return trial.name


def _as_set(case: Case) -> dict[str, np.ndarray]:
    """Return the prediction of the network as set, its intervals, and how unlike its training profiles each profile is."""
    network, x = train_network(case, case.settings), case.region.x[case.test]
    predicted = engine.predict(network, x)[0]
    columns = {AS_SET: predicted}
    for level in LEVELS:
        if network.calibration is None or level > network.calibration.highest_level():
            continue
        columns |= dict(zip(ends(AS_SET, level), network.calibration.interval(predicted, level), strict=True))
    if network.applicability is not None:
        cells = unfold_classes(middle_cells(x, case.region.categories), network.specification)
        columns["di"] = network.applicability.index(cells)
        columns["inside"] = (columns["di"] <= network.applicability.threshold).astype(int)
    return columns


def _quantile_forest(case: Case) -> dict[str, np.ndarray]:
    """Return a quantile forest's median and intervals, as they are and conformalised (Romano et al. 2019), on ln(1 + y)."""
    known, test, seed = case.profiles.take(case.rows), case.profiles.take(case.test), case.settings.seed
    shares = np.array([(1 + sign * level) / 2 for level in LEVELS for sign in (-1, 1)])
    method, facts = tune("quantile_forest", known, seed, classes=case.classes)
    assert isinstance(method, QuantileForest)
    columns = {"quantile_forest": method.predict(test)}
    found, folds = method.quantiles(test, shares), inner_folds(known.units, 3, seed)
    held_out = np.empty((len(shares), len(known)))
    for fold in range(int(folds.max()) + 1):
        part = QuantileForest(**facts["settings"]).fit(known.take(folds != fold), seed)
        held_out[:, folds == fold] = part.quantiles(known.take(folds == fold), shares)
    for k, level in enumerate(LEVELS):
        lower, upper = np.log1p(found[2 * k : 2 * k + 2])
        columns |= dict(zip(ends("quantile_forest", level), (np.expm1(lower), np.expm1(upper)), strict=True))
        low, high = np.log1p(held_out[2 * k : 2 * k + 2])
        miss = np.maximum(low - np.log1p(known.y), np.log1p(known.y) - high)
        wider = np.quantile(miss, min(1.0, level * (len(miss) + 1) / len(miss)), method="higher")
        both = np.maximum(np.expm1(lower - wider), 0), np.expm1(np.maximum(upper + wider, lower - wider))
        columns |= dict(zip(ends("quantile_forest_calibrated", level), both, strict=True))
    return columns


def ends(method: str, level: float) -> tuple[str, str]:
    """Return the names of the columns that hold the ends of a method's interval."""
    return f"{method}_lower_{level:g}", f"{method}_upper_{level:g}"


# --- all trials ------------------------------------------------------------------------------------------------------


def plan_trials(settings: CompareSettings) -> list[Trial]:
    """Return all trials: every fold of every way with all profiles, then learning curves in the last way."""
    everything = (*BASELINES, *CONTENDERS)
    for name in [*settings.methods, *settings.few_methods, *settings.curve_methods]:
        if name not in everything:
            raise UserError(f"method {name!r}: expected one of {', '.join(everything)}")
    if not all(set(each or everything) & set(BASELINES) for each in (settings.methods, settings.few_methods)):
        raise UserError("methods: at least one baseline is needed to compare with: " + ", ".join(BASELINES))
    last = settings.ways[-1]
    methods = {way: tuple(settings.few_methods) for way in settings.ways} | {last: tuple(settings.methods) or everything}
    regions = [folder.name for folder in settings.regions]
    trials = [
        Trial(region=region, way=way, fold=fold, size=settings.profiles, methods=methods[way])
        for way in reversed(settings.ways)
        for fold in range(settings.folds)
        for region in regions
    ]
    chosen = tuple(settings.curve_methods)
    curves = [
        Trial(region=region, way=last, fold=fold, size=size, repeat=repeat, curve=True, methods=chosen)
        for repeat in range(settings.repeats)
        for fold in range(settings.folds)
        for size in settings.sizes
        for region in regions
        if size or not repeat  # all profiles are drawn one way
    ]
    return trials + curves


def run_all(settings: CompareSettings, trials: Sequence[Trial]) -> None:
    """Pretrain for every region, then run the trials that are not there, on several processes, with a progress bar."""
    text = settings.model_dump_json()
    here = stage(text)
    for region, way in dict.fromkeys((each.region, each.way) for each in trials):
        folds_of(settings, region, here.regions[region], way)
    tasks = [Task(trial_path(settings, each), run_trial, (text, each), f"trial {each.name}") for each in trials]
    regions = dict.fromkeys(each.region for each, task in zip(trials, tasks, strict=True) if not task.path.is_file())
    first = [Task(pretrained_path(settings, each), pretrain, (text, each), f"pretraining without {each}") for each in regions]
    workpool.run_tasks(first, settings.workers, "pretraining")
    workpool.run_tasks(tasks, settings.workers, "trials")


def trial_path(settings: CompareSettings, trial: Trial) -> Path:
    """Return a trial's file."""
    return settings.out / "trials" / f"{trial.name}.csv"


def finished(settings: CompareSettings, trials: Sequence[Trial]) -> Iterator[tuple[Trial, pd.DataFrame]]:
    """Yield each trial with its table."""
    for trial in trials:
        table = read_table(trial_path(settings, trial), ("profile_id", "lon", "lat", "observed", "n_train", *trial.methods))
        numbers = table.drop(columns="profile_id").apply(pd.to_numeric, errors="coerce")
        yield trial, numbers.assign(profile_id=table["profile_id"])
