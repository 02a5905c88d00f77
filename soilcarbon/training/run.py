"""One training run from settings to checkpoint: what `train_global.py` and `train_regional.py` share.

In: a dataset's folder, perhaps a checkpoint to start from. Out: a checkpoint, logs, and scores on train, valid and test.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from soilcarbon.io.files import UserError, check_writable, read_yaml, write_json
from soilcarbon.network.network import SoilCarbonNet, choose_device, is_bare, load_checkpoint, save_checkpoint, save_state
from soilcarbon.network.specification import difference
from soilcarbon.settings import RegionalSettings, TrainSettings
from soilcarbon.soil.dataset import Dataset, check_variables, read_dataset
from soilcarbon.stats import metrics as validation
from soilcarbon.training import distributed as crew
from soilcarbon.training import loop as engine
from soilcarbon.training.distillation import Plan, plan_lessons
from soilcarbon.training.initial import follow_checkpoint, new_specification, statistics_for
from soilcarbon.training.resume import fingerprint, read_interrupted
from soilcarbon.training.run_log import RunLog
from soilcarbon.training.uncertainty import held_out_predictions, learn_applicability, learn_calibration

log = logging.getLogger(__name__)
Scores = dict[str, dict[str, float | int | None]]
"""Split -> score -> value."""
RESUME, BEST = "resume.pth", "best.pth"
"""In the run's log folder: from where an interrupted run goes on, and the best network so far."""
SMALL_BATCH = 256
"""Up to so many profiles a step is shorter than the handing out of its parts to threads; measured by benchmarks/epoch_speed.py."""


def run_and_report(settings: TrainSettings) -> None:
    """Train, and print the scores."""
    with crew.together():
        scores = train(settings)
        if crew.is_first():
            _report(settings, scores)


def _report(settings: TrainSettings, scores: Scores) -> None:
    print(f"{settings.run} -> {settings.checkpoint_path}")
    print("split      n " + "".join(f"{name:>9}" for name in ("rmse", "mae", "me", "r2", "ccc")))
    for split, numbers in scores.items():
        values = (numbers[name] for name in ("rmse", "mae", "me", "r2", "ccc"))
        print(f"{split:<6}{numbers['n']:>6}" + "".join(f"{'-' if value is None else format(value, '9.3f'):>9}" for value in values))


class _Run(NamedTuple):
    """All that a run is made of once its files are read."""

    settings: TrainSettings
    start: SoilCarbonNet
    data: Dataset
    plan: Plan
    state: dict[str, Any] | None


def train(settings: TrainSettings) -> Scores:
    """Train as the settings say, save the checkpoint and logs, and return the scores per split.

    The test split is read once, after training: nothing that is saved depends on its targets but its scores. Of several
    processes (`crew`) the first alone writes; the others return no scores.

    Raises
    ------
    UserError
        For anything wrong in settings, files or data, and for a loss that is no longer finite.
    """
    run = _read(settings)
    if not crew.is_first():
        _fit(run, None)
        return {}
    settings, log_folder = run.settings, run.settings.log
    if run.state is None:
        for name in (RESUME, BEST):  # of an older run of the name
            (log_folder / name).unlink(missing_ok=True)
    settings.write(log_folder / "settings.yaml")
    after = (run.state["member"], run.state["epoch"]) if run.state else None
    journal = RunLog(log_folder, settings.epochs, settings.tensorboard, after)
    try:
        network = _fit(run, journal)
        scores = _scores(network, run.data, run.plan)
        network.record |= {"scores": scores, "profiles": {name: len(chosen) for name, chosen in run.data.split.items()}}
        network.record["rasters"] = rasters_of(settings.data_dir)
        _assure(network, run.data, run.plan, settings.seed)
        save_checkpoint(network, settings.checkpoint_path)
        for done in (log_folder / BEST, (log_folder / BEST).with_suffix(".yaml")):
            done.unlink(missing_ok=True)
        write_json(log_folder / "scores.json", scores)
        example = torch.from_numpy(run.data.x[:1]).to(run.plan.train.output.device)
        journal.finish(network, example, settings.as_plain(), scores)
    finally:
        journal.close()
    _warn(network, settings)
    log.info("best epoch %s; checkpoint %s", ", ".join(map(str, network.record["epoch"])), settings.checkpoint_path)
    return scores


def _read(settings: TrainSettings) -> _Run:
    """Read all that a run is made of, and stop for what cannot be trained."""
    device = choose_device(settings.device)
    if crew.is_first():
        check_writable(settings.checkpoint_path.parent, settings.log)
        _spare_published(settings.checkpoint_path)
    log.info("data: %s; %s", settings.data_dir, f"starting from {settings.init_from}" if settings.init_from else "from scratch")
    start = load_checkpoint(settings.init_from) if settings.init_from else None
    if start is not None and settings.categories is not None:
        differs = difference(settings.categories, start.specification.categories)
        if differs:
            raise UserError(f"{settings.init_from}: the checkpoint's variables are not the settings': {differs}")
    if start is not None and not settings.given("target"):
        settings = settings.model_copy(update={"target": start.specification.target})
    categories = start.specification.categories if start else settings.categories
    data = read_dataset(settings.data_dir, categories, target=settings.target, layout=settings.layout)
    _check_selectable(settings, data)
    if start is None:
        check_variables(data.x[data.split["train"]], data.categories, refuse="constant")
        start = SoilCarbonNet(new_specification(settings, data, statistics_for(settings, data)))
    else:
        check_variables(data.x[data.split["train"]], data.categories, refuse="missing")
        settings = follow_checkpoint(settings, start, data)
        engine.warn_of_far_inputs(start, data.x[data.split["train"]])
    plan = plan_lessons(start, data, settings, device, read_world(settings, data))
    state = None
    if settings.resume:
        state = read_interrupted(settings.log / RESUME, fingerprint(start, plan.sources, settings, plan.folds), device)
    return _Run(settings, start, data, plan, state)


def _fit(run: _Run, journal: RunLog | None) -> SoilCarbonNet:
    """Train; without a journal, as one of several processes that keeps nothing."""
    keep = partial(_keep, folder=run.settings.log) if journal else None
    plan = run.plan
    with _threads_for(run.settings.batch_size):
        return engine.fit(
            run.start, plan.train, plan.valid, run.settings, journal, run.state, keep, plan.lesson, plan.sources[2:], plan.folds
        )


def _scores(network: SoilCarbonNet, data: Dataset, plan: Plan) -> Scores:
    predicted = engine.predict(network, data.x)[0]
    scores = {name: validation.scores(data.y[chosen], predicted[chosen]) for name, chosen in data.split.items()}
    if plan.folds is not None:  # each has learnt from most of both splits; by its own fold's member none is learnt from
        held_out = held_out_predictions(network, data.x[plan.rows], plan.folds)
        scores["train"] = validation.scores(data.y[plan.rows], predicted[plan.rows])
        scores["valid"] = validation.scores(data.y[plan.rows], held_out)
    return scores


def _warn(network: SoilCarbonNet, settings: TrainSettings) -> None:
    if settings.init_from and 0 in network.record["epoch"]:
        untouched = network.record["epoch"].count(0)
        log.warning("%d of %d members kept the pretrained weights: no epoch beat them on validation", untouched, settings.members)
    if max(network.specification.smearing or (1.0,)) > 2:
        log.warning("smearing factor %.2f: the fit on the log scale is poor", max(network.specification.smearing or (1.0,)))


def learn(start: SoilCarbonNet, data: Dataset, settings: TrainSettings, world: Dataset | None = None) -> SoilCarbonNet:
    """Train as `train` does, in memory alone, on the CPU: nothing is read, written or scored.

    Parameters
    ----------
    start
        The network to go on from; it is changed.
    data
        With its training and validation splits.
    settings
        How to train.
    world
        Dataset a teacher learns from too.

    Returns
    -------
    SoilCarbonNet
        With its applicability and calibration.
    """
    settings = follow_checkpoint(settings, start, data)
    plan = plan_lessons(start, data, settings, torch.device("cpu"), world)
    network = engine.fit(start, plan.train, plan.valid, settings, lessons=plan.lesson)
    _assure(network, data, plan, settings.seed)
    return network


def _assure(network: SoilCarbonNet, data: Dataset, plan: Plan, seed: int) -> None:
    network.applicability = learn_applicability(network, data, data.split["train"] if plan.folds is None else plan.rows, seed)
    network.calibration = learn_calibration(network, data, plan.rows, plan.folds)


def read_world(settings: TrainSettings, data: Dataset) -> Dataset | None:
    """Read the dataset a teacher learns from too, by the region's variables; None where there is none."""
    if not isinstance(settings, RegionalSettings) or settings.global_data is None:
        return None
    if settings.teacher == "none":
        log.info("global_data: not used, for only a teacher learns from it")
        return None
    return read_dataset(settings.global_data, data.categories, ("train",), target=settings.target, layout=settings.layout)


def _keep(network: SoilCarbonNet, state: dict[str, Any] | None, folder: Path) -> None:
    """Save an unfinished run beside its log: the checkpoint of an earlier run of the name stands until this one is done."""
    save_checkpoint(network, folder / BEST)
    if state is not None:
        save_state(folder / RESUME, state)


@contextmanager
def _threads_for(batch_size: int) -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _spare_published(path: Path) -> None:
    """Stop before a file that was not made here is overwritten."""
    if not path.is_file():
        return
    try:
        foreign = is_bare(path)
    except UserError:
        foreign = True
    if foreign:
        raise UserError(
            f"{path}: was not trained here (the published file?) and would be lost; move it, or give --run another name"
        )


def _check_selectable(settings: TrainSettings, data: Dataset) -> None:
    valid = data.y[data.split["valid"]]
    if settings.select_on in ("r2", "ccc") and np.ptp(valid) == 0:
        raise UserError(
            f"{settings.data_dir}: the {len(valid)} validation profiles have one value of {settings.target}, so "
            f"{settings.select_on} is not defined; use more of them, or --select_on rmse"
        )


def rasters_of(folder: Path) -> list[dict[str, Any]]:
    """Return what a dataset says of the rasters it was cut from: CRS, cell size and variables of each; nothing if it does not."""
    path = folder / "dataset.yaml"
    said = read_yaml(path).get("rasters") if path.is_file() else None
    wanted = ("crs", "cell_size", "variables")
    whole = [each for each in (said if isinstance(said, list) else []) if isinstance(each, dict) and all(map(each.get, wanted))]
    return [{name: each[name] for name in wanted} for each in whole]
