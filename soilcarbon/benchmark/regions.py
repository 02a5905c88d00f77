"""Comparison of methods in several regions: datasets, folds, networks pretrained without a region, and what is to be run.

In: a `Design`. Out, in its folder: pretrained/, and what `runs` keeps; a `Comparison`. Every method of a run is trained on the same
profiles of one region.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from soilcarbon import parallel
from soilcarbon.benchmark.baselines import BASELINES
from soilcarbon.benchmark.network_variants import Case
from soilcarbon.benchmark.results import Comparison, summarise
from soilcarbon.benchmark.runs import CrossValidation, Plan, Run, execute_all, held_out
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.regression.fit import samples_of
from soilcarbon.settings import GlobalSettings, RegionalSettings, build
from soilcarbon.soil.dataset import Dataset, read_dataset, require_unit
from soilcarbon.stats.groups import inner_folds
from soilcarbon.stats.spatial_cv import make_folds
from soilcarbon.training.run import compute_statistics, new_specification, train_in_memory
from soilcarbon.training.uncertainty import fold_groups, rows_outside


@dataclass(frozen=True, kw_only=True)
class Design(CrossValidation):
    """Design of a comparison in several regions."""

    kept: ClassVar[tuple[str, ...]] = ("runs", "pretrained", "folds")
    may_change: ClassVar[tuple[str, ...]] = ("workers", "out", "sizes", "repeats")  # more learning curves may be drawn

    regions: tuple[Path, ...]  # folders of their datasets; a folder's name is the region's
    global_data: Path  # the dataset the network is pretrained on, again for each region, without any place of it
    pretrained: Path  # checkpoint whose settings the pretraining takes
    regional: RegionalSettings  # the fine-tuning compared, with `init_from` and `global_data` as far as its teacher needs them
    few_methods: tuple[str, ...] = ()  # compared under the other strategies, and in learning curves
    profiles: int = 0  # training profiles of each fold, drawn at random; 0: all that are not held out
    sizes: tuple[int, ...] = ()  # learning curves: numbers of training profiles; 0: all
    repeats: int = 3  # learning curves: draws of each

    def __post_init__(self) -> None:
        self.check_methods([*self.methods, *self.few_methods])
        baselines = [key for key, each in self.known.items() if each.kind == "baseline"]
        used = (self.methods, *([self.few_methods] if len(self.strategies) > 1 else []))
        if not all(set(each) & set(baselines) for each in used):
            raise UserError("methods: at least one baseline is needed to compare with: " + ", ".join(baselines))

    def profiles_of(self, region: str) -> tuple[Dataset, np.ndarray]:
        """Return a region's dataset, and all its rows."""
        data = read_inputs(self).regions[region]
        return data, np.arange(len(data.y))

    def divide(self, run: Run) -> Case:
        """Return the case of a run."""
        inputs, (rows, test) = read_inputs(self), self.split(run)
        start = load_checkpoint(pretrained_path(self, run.region))
        start.respecify(center=self.regional.center)  # as the forests of ln(1 + y): all aim at the median, or none
        return Case(inputs.regions[run.region], rows, test, start, inputs.world, self.regional, not run.curve)


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


# --- all runs ---------------------------------------------------------------------------------------------------------


def plan_runs(design: Design) -> Plan:
    """Return all runs: every fold of every strategy with all profiles, then learning curves under the last strategy."""
    last, regions = design.strategies[-1], [folder.name for folder in design.regions]
    methods = dict.fromkeys(design.strategies, design.few_methods) | {last: design.methods}
    runs = [
        Run(strategy, fold, methods[strategy], region=region, size=design.profiles)
        for strategy in reversed(design.strategies)
        for fold in range(design.folds)
        for region in regions
    ]
    curves = [
        Run(last, fold, design.few_methods, region=region, size=size, draw=draw, curve=True)
        for draw in range(design.repeats)
        for fold in range(design.folds)
        for size in design.sizes
        for region in regions
        if size or not draw  # there is a single draw of all profiles
    ]
    return Plan((*runs, *curves))


def compare(design: Design, settings: Mapping[str, Any], command: str) -> Comparison:
    """Pretrain for every region, execute the runs that are not there, and return the results."""
    regions, plan = read_inputs(design).regions, plan_runs(design)
    folds = {(name, each): design.folds_for(each, region=name).facts for name in regions for each in design.strategies}
    first = [
        parallel.Task(pretrained_path(design, each), pretrain, (design, each), f"pretraining without {each}") for each in regions
    ]
    parallel.run_tasks(first, design.workers, "pretraining")
    execute_all(design, plan)
    facts = load_checkpoint(design.pretrained).specification
    found = held_out(design, plan.runs, {name: fold_groups(data) for name, data in regions.items()})
    return summarise(design, found, regions, folds, (facts.meaning.title, facts.unit), settings, command)
