"""The experiment behind a comparison: datasets, folds, networks pretrained without a region, and runs.

A run is one region and one fold held out, with so many training profiles; every method is trained on the same ones. In: a
`Design`. Out, in its folder: folds/, pretrained/, and runs/ with a CSV per finished run of what every method predicts of the
profiles held out, with its checksum, so that an interrupted comparison resumes where it was, and makes again what was changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from soilcarbon import parallel
from soilcarbon.benchmark.baselines import BASELINES, Baseline, tune
from soilcarbon.benchmark.folds import CrossValidation, Folds, kept_folds, places_on
from soilcarbon.benchmark.network_variants import (
    AS_SET,
    TOGETHER,
    VARIANTS,
    Case,
    plain_settings,
    predict,
    predict_baseline,
    train_network,
)
from soilcarbon.categories import middle_cells
from soilcarbon.io.files import UserError, write_table
from soilcarbon.io.tables import read_table
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.network import predict as predict_with
from soilcarbon.network.specification import unfold_classes
from soilcarbon.parallel import Task
from soilcarbon.regression.estimators import QuantileForest
from soilcarbon.regression.fit import samples_of
from soilcarbon.settings import GlobalSettings, RegionalSettings, build
from soilcarbon.soil.dataset import Dataset, read_dataset, require_unit
from soilcarbon.stats.groups import inner_folds
from soilcarbon.stats.spatial_cv import make_folds
from soilcarbon.training.run import compute_statistics, new_specification, train_in_memory
from soilcarbon.training.uncertainty import rows_outside

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of prediction intervals
INTERVALS = {AS_SET: AS_SET, "quantile_forest": "quantile_forest", "quantile_forest_calibrated": "quantile_forest"}
"""What gives intervals -> the method whose prediction they go with."""
SELECTED_ON_VALID, SELECTED_ON_TEST = "tuned", "tuned_selected_on_test"
"""The fine-tuned network whose epoch the validation set chooses, and the one whose epoch the profiles held out choose."""


@dataclass(frozen=True, kw_only=True)
class Design(CrossValidation):
    """Design of a comparison in several regions."""

    regions: tuple[Path, ...]  # folders of their datasets; a folder's name is the region's
    global_data: Path  # the dataset the network is pretrained on, again for each region, without any place of it
    pretrained: Path  # checkpoint whose settings the pretraining takes
    regional: RegionalSettings  # the fine-tuning compared, with `init_from` and `global_data` as far as its teacher needs them
    methods: tuple[str, ...] = (*BASELINES, *VARIANTS)  # compared under the last strategy
    few_methods: tuple[str, ...] = ()  # compared under the other strategies, and in learning curves
    baselines: Mapping[str, Baseline] = field(default_factory=lambda: BASELINES, compare=False)  # by key; `BASELINES` and others
    profiles: int = 0  # training profiles of each fold, drawn at random; 0: all that are not held out
    sizes: tuple[int, ...] = ()  # learning curves: numbers of training profiles; 0: all
    repeats: int = 3  # learning curves: draws of each

    def __post_init__(self) -> None:
        known = (*self.baselines, *VARIANTS)
        for name in (*self.methods, *self.few_methods):
            if name not in known:
                raise UserError(f"method {name!r}: expected one of {', '.join(known)}")
        used = (self.methods, *([self.few_methods] if len(self.strategies) > 1 else []))
        if not all(set(each) & set(self.baselines) for each in used):
            raise UserError("methods: at least one baseline is needed to compare with: " + ", ".join(self.baselines))


class Run(NamedTuple):
    """One run; `size` 0: all training profiles; runs of learning curves are `curve`."""

    region: str
    strategy: str
    fold: int
    methods: tuple[str, ...]
    size: int = 0
    repeat: int = 0
    curve: bool = False

    @property
    def name(self) -> str:
        """Name of the run's file."""
        return f"{self.region}-{self.strategy}-{self.fold}-{self.size or 'all'}" + (f"-{self.repeat}" if self.curve else "")


# --- inputs -----------------------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """Datasets of an experiment, in memory: the world's, and each region's."""

    world: Dataset
    regions: dict[str, Dataset]


@lru_cache(maxsize=1)
def read_inputs(design: Design) -> Inputs:
    """Read all datasets; a process of the pool reads them once."""
    specification = load_checkpoint(design.pretrained).specification

    def read(folder: Path, splits: Sequence[str]) -> Dataset:
        data = read_dataset(folder, specification.categories, splits, target=specification.target)
        require_unit(data, specification.unit, folder, f"that of {design.pretrained}")
        return data

    regions = {folder.name: _in_blocks(read(folder, ()), design) for folder in design.regions}
    return Inputs(read(design.global_data, ("train", "valid")), regions)


def _in_blocks(data: Dataset, design: Design) -> Dataset:
    """Return a region with blocks of the requested side, its own, or the range of its residuals' variogram.

    One side serves folds, inner folds, calibration, resampling, and what of the world is left out.
    """
    side = design.block_size or data.block_size
    if side is None and "blocks" in design.strategies:
        samples = samples_of(data)
        split = PredefinedSplit(inner_folds(samples.groups, 5, design.seed))
        forest = BASELINES["forest_log"].pipeline(seed=design.seed, n_estimators=100)
        residuals = np.log1p(samples.y) - np.log1p(cross_val_predict(forest, samples.X, samples.y, cv=split))
        side = make_folds("blocks", data.lon, data.lat, design.folds, design.seed, residuals=residuals)[1]["block_size"]
    return replace(data, block_size=side)


def folds_for(design: Design, region: str, data: Dataset, strategy: str) -> Folds:
    """Return a region's folds under a strategy, from the folder if they were drawn before."""

    def draw() -> tuple[np.ndarray, dict[str, Any]]:
        more: dict[str, Any] = {"block_size": data.block_size} if strategy == "blocks" else {}
        if strategy == "knndm":
            more["prediction_points"] = places_on(design.land, design.nodata, data, design.seed)
        try:
            return make_folds(strategy, data.lon, data.lat, design.folds, design.seed, **more)
        except ValueError as error:
            raise UserError(f"{region}: no folds by {strategy}: {error}") from error

    return kept_folds(design.out / "folds" / f"{region}-{strategy}.csv", data.ids, draw)


def pretrained_path(design: Design, region: str) -> Path:
    """Return the file of the network pretrained without a region."""
    return design.out / "pretrained" / f"{region}.pth"


def pretrain(design: Design, region: str) -> None:
    """Pretrain a network with the settings of the design's checkpoint, without any place of a region."""
    inputs = read_inputs(design)
    torch.set_num_threads(1)
    recorded = load_checkpoint(design.pretrained).record.settings
    if not isinstance(recorded, dict):
        raise UserError(f"{design.pretrained}: has no record of its training, so it cannot be trained again without {region}")
    values = {name: value for name, value in recorded.items() if name in GlobalSettings.model_fields and value is not None}
    settings = build(GlobalSettings, values | {"tensorboard": False, "device": "cpu"}, str(design.pretrained))
    split = {
        name: rows_outside(replace(inputs.world, split={"train": inputs.world.split[name]}), inputs.regions[region])
        for name in ("train", "valid")
    }
    if not all(map(len, split.values())):
        raise UserError(f"{design.global_data}: without the places of {region} nothing is left to train on or validate with")
    data = replace(inputs.world, split=split)
    start = SoilCarbonNet(new_specification(settings, data, compute_statistics(data.x[split["train"]], data.categories)))
    save_checkpoint(train_in_memory(start, data, settings), pretrained_path(design, region))


# --- one run ----------------------------------------------------------------------------------------------------------


def execute(design: Design, run: Run) -> None:
    """Execute a run: every method predicts the held-out profiles; write the table of predictions."""
    inputs = read_inputs(design)
    torch.set_num_threads(1)
    data = inputs.regions[run.region]
    folds, _ = folds_for(design, run.region, data, run.strategy)
    rows, test = np.flatnonzero(folds != run.fold), np.flatnonzero(folds == run.fold)
    if run.size:
        rows = np.random.default_rng([design.seed, run.fold, run.repeat]).permutation(rows)[: run.size]
    start = load_checkpoint(pretrained_path(design, run.region))
    start.respecify(center=design.regional.center)  # as the forests of ln(1 + y): all aim at the median, or none
    case = Case(data, rows, test, start, inputs.world, design.regional)
    table = pd.DataFrame({"profile_id": np.array(data.ids)[test], "lon": data.lon[test], "lat": data.lat[test]})
    table = table.assign(observed=data.y[test], n_train=len(rows))
    columns: dict[str, np.ndarray] = {}
    for method in run.methods:
        if method == AS_SET:
            columns |= _as_set(case)
        elif method == "quantile_forest" and not run.curve:
            columns |= _quantile_forest(case)
        elif method in TOGETHER:
            columns[method] = TOGETHER[method](case, columns)
        elif method in design.baselines:
            columns[method] = predict_baseline(design.baselines[method], case)
        else:
            columns[method] = predict(method, case)
    if SELECTED_ON_VALID in run.methods and not run.curve:
        network = train_network(case, plain_settings(case.settings), valid=test)
        columns[SELECTED_ON_TEST] = predict_with(network, data.x[test])[0]
    write_table(design.run_path(run.name), table.assign(**columns))


def _as_set(case: Case) -> dict[str, np.ndarray]:
    """Return the prediction of the network fine-tuned as set, its intervals, and the dissimilarity index of each profile."""
    network, x = train_network(case, case.settings), case.region.x[case.test]
    predicted = predict_with(network, x)[0]
    columns = {AS_SET: predicted}
    for level in LEVELS:
        if network.calibration is None or level > network.calibration.highest_level():
            continue
        columns |= dict(zip(interval_columns(AS_SET, level), network.calibration.interval(predicted, level), strict=True))
    if network.applicability is not None:
        cells = unfold_classes(middle_cells(x, case.region.categories), network.specification)
        columns["di"] = network.applicability.index(cells)
        columns["inside"] = network.applicability.is_inside(columns["di"])
    return columns


def _quantile_forest(case: Case) -> dict[str, np.ndarray]:
    """Return a quantile forest's median and intervals, as they are and conformalised (Romano et al. 2019), on ln(1 + y)."""
    known, X, seed = case.samples.take(case.rows), case.samples.X[case.test], case.settings.seed
    shares = np.array([(1 + sign * level) / 2 for level in LEVELS for sign in (-1, 1)])
    method, folds = BASELINES["quantile_forest"], inner_folds(known.groups, 3, seed)

    def quantiles(fitted: Any, X: np.ndarray) -> np.ndarray:
        forest: QuantileForest = fitted["model"]
        return forest.predict_quantiles(fitted["columns"].transform(X), shares)

    fitted, chosen = tune(method, known, seed, classes=case.classes)
    columns, found = {"quantile_forest": fitted.predict(X)}, quantiles(fitted, X)
    held_out = np.empty((len(known.y), len(shares)))
    for fold in range(int(folds.max()) + 1):
        train = known.take(folds != fold)
        part = method.pipeline(case.classes, seed, **chosen).fit(train.X, train.y)
        held_out[folds == fold] = quantiles(part, known.X[folds == fold])
    for k, level in enumerate(LEVELS):
        lower, upper = np.log1p(found[:, 2 * k : 2 * k + 2]).T
        columns |= dict(zip(interval_columns("quantile_forest", level), (np.expm1(lower), np.expm1(upper)), strict=True))
        low, high = np.log1p(held_out[:, 2 * k : 2 * k + 2]).T
        miss = np.maximum(low - np.log1p(known.y), np.log1p(known.y) - high)
        wider = np.quantile(miss, min(1.0, level * (len(miss) + 1) / len(miss)), method="higher")
        both = np.maximum(np.expm1(lower - wider), 0), np.expm1(np.maximum(upper + wider, lower - wider))
        columns |= dict(zip(interval_columns("quantile_forest_calibrated", level), both, strict=True))
    return columns


def interval_columns(method: str, level: float) -> tuple[str, str]:
    """Return the names of the columns with the ends of a method's interval."""
    return f"{method}_lower_{level:g}", f"{method}_upper_{level:g}"


# --- all runs ---------------------------------------------------------------------------------------------------------


def plan_runs(design: Design) -> list[Run]:
    """Return all runs: every fold of every strategy with all profiles, then learning curves under the last strategy."""
    last, regions = design.strategies[-1], [folder.name for folder in design.regions]
    methods = dict.fromkeys(design.strategies, design.few_methods) | {last: design.methods}
    runs = [
        Run(region, strategy, fold, methods[strategy], size=design.profiles)
        for strategy in reversed(design.strategies)
        for fold in range(design.folds)
        for region in regions
    ]
    curves = [
        Run(region, last, fold, design.few_methods, size, repeat, curve=True)
        for repeat in range(design.repeats)
        for fold in range(design.folds)
        for size in design.sizes
        for region in regions
        if size or not repeat  # there is a single draw of all profiles
    ]
    return runs + curves


def execute_all(design: Design, runs: Sequence[Run]) -> None:
    """Pretrain for every region, then execute the runs that are not there, on several processes, with a progress bar."""
    data = read_inputs(design).regions
    for region, strategy in dict.fromkeys((each.region, each.strategy) for each in runs):
        folds_for(design, region, data[region], strategy)
    tasks = [Task(design.run_path(each.name), execute, (design, each), f"run {each.name}") for each in runs]
    first = [Task(pretrained_path(design, each), pretrain, (design, each), f"pretraining without {each}") for each in data]
    parallel.run_tasks(first, design.workers, "pretraining")
    parallel.run_tasks(tasks, design.workers, "runs")


def finished_runs(design: Design, runs: Sequence[Run]) -> Iterator[tuple[Run, pd.DataFrame]]:
    """Yield each run with its table."""
    for run in runs:
        table = read_table(design.run_path(run.name), ("profile_id", "lon", "lat", "observed", "n_train", *run.methods))
        numbers = table.drop(columns="profile_id").apply(pd.to_numeric, errors="coerce")
        yield run, numbers.assign(profile_id=table["profile_id"])
