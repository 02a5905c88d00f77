"""Training run: dataset folder and settings in, checkpoint, logs and scores out.

Pretraining (`train_global.py`) and fine-tuning (`train_regional.py`) are the same run with other settings: read the data, build
the network or load a checkpoint, train the members (`loop.fit`), assemble them, calibrate, save.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from soilcarbon.categories import Category, column_slices, variable_columns
from soilcarbon.io.files import UserError, check_writable, locked, read_yaml, sha256, write_json
from soilcarbon.io.resumption import check_record
from soilcarbon.network.checkpoint import is_bare, load_checkpoint, save_checkpoint
from soilcarbon.network.growth import grow, grown_categories, named, plan_growth
from soilcarbon.network.network import Growth, SoilCarbonNet, choose_device, predict
from soilcarbon.network.specification import Specification, warn_of_far_inputs
from soilcarbon.settings import Layout, RegionalSettings, TrainSettings
from soilcarbon.soil.dataset import (
    Dataset,
    Statistics,
    check_variables,
    read_dataset,
    read_statistics,
    recorded_categories,
    require_unit,
)
from soilcarbon.stats import metrics
from soilcarbon.training import distributed
from soilcarbon.training.ensemble import (
    Distil,
    Members,
    RunFiles,
    TrainingData,
    assemble,
    fingerprint,
    prepare_members,
    train_members,
)
from soilcarbon.training.loop import Scores
from soilcarbon.training.run_log import log_result
from soilcarbon.training.uncertainty import fit_applicability, fit_calibration, fit_errors, held_out_predictions

log = logging.getLogger(__name__)
AnySettings = TypeVar("AnySettings", bound=TrainSettings)
MAXIMUM_CLASSES = 256
SKEWED = 1.0
"""Skewness of the training targets above which they are learnt as logarithms; SOC's is commonly 2 to 5."""


def train(settings: TrainSettings, distil: Distil | None = None) -> Scores:
    """Train a network by the settings, save checkpoint and logs, and return the scores per split.

    The test split is read once, after training: apart from its scores nothing that is saved depends on its targets. Of several
    processes (`distributed`) rank 0 alone writes; the others return no scores.

    Parameters
    ----------
    settings
        How to train.
    distil
        Makes a teacher's predictions, which members are trained on then: `distillation.distil`. Only fine-tuning has one.

    Raises
    ------
    UserError
        For anything wrong in settings, files or data, and for a loss that is no longer finite.
    """
    device = choose_device(settings.device)
    if distributed.is_rank_zero():
        _check_not_published(settings.checkpoint_path)
        check_record(settings.checkpoint_path.with_suffix(".yaml"), {"version"})  # beside it; not a user's settings
    log.info("data: %s; %s", settings.data_dir, f"starting from {settings.start}" if settings.start else "from scratch")
    start = load_checkpoint(settings.start) if settings.start else None
    growth = _growth(settings, start) if start else Growth()
    data, settings = _read_data(settings, start, growth)
    if start and (growth.added or growth.filled):
        check_variables(_new_columns(data, growth), growth.added, refuse="constant")
        start = grow_to(start, growth, data, settings)
    network, settings = specify(settings, data, start)
    members = prepare_members(network, data, settings, start is not None, device, _read_world(settings, data, start), distil)
    if not distributed.is_rank_zero():
        return _train(settings, data, network, members, device)
    log.info("target: %s (%s)", data.target.title, data.target.unit or "unit not known")
    check_writable(settings.checkpoint_path.parent, settings.log)  # after all that is refused, which leaves no empty folders then
    with locked(settings.log, files=[settings.checkpoint_path]):
        return _train(settings, data, network, members, device)


def _train(settings: TrainSettings, data: Dataset, network: SoilCarbonNet, members: Members, device: torch.device) -> Scores:
    files = RunFiles(settings.log, fingerprint(members, settings), settings.resume, settings.tensorboard)
    if distributed.is_rank_zero():
        files.prepare(settings.members)
        settings.write(settings.log / "settings.yaml")
    best = train_members(members, files, settings.workers)
    if not distributed.is_rank_zero():
        return {}
    network = assemble(members, best, settings)
    scores = _scores(network, data, members.data)
    network.record.scores = scores
    mean = float(data.y[data.split["train"] if members.data.folds is None else members.data.rows].mean())
    network.record.training_mean = mean
    network.record.scores_of_mean = {name: metrics.scores_of_constant(data.y[chosen], mean) for name, chosen in data.split.items()}
    network.record.profiles = {name: len(chosen) for name, chosen in data.split.items()}
    network.record.rasters = tuple(rasters_of(settings.data_dir))
    fit_uncertainty(network, data, members.data, settings.seed)
    save_checkpoint(network, settings.checkpoint_path)
    files.finish(settings.members)
    write_json(settings.log / "scores.json", scores)
    if settings.tensorboard:
        log_result(settings.log, network, torch.from_numpy(data.x[:1]).to(device), settings.as_plain(), scores)
    _warn(network, settings)
    for name in [name for name in ("valid", "test") if name in scores]:
        if verdict := metrics.worse_than_mean(scores[name], network.record.scores_of_mean[name], network.specification.unit):
            log.warning("%s: %s", name, verdict)
    log.info("best epoch %s; checkpoint %s", ", ".join(map(str, network.record.epoch)), settings.checkpoint_path)
    return scores


def train_in_memory(
    start: SoilCarbonNet,
    data: Dataset,
    settings: TrainSettings,
    world: Dataset | None = None,
    distil: Distil | None = None,
) -> SoilCarbonNet:
    """Train a network in memory, on the CPU, as `train` does: no file is read or written, nothing is scored.

    Parameters
    ----------
    start
        The network to continue from where `settings.start` is a checkpoint, else one whose weights are drawn anew; it is changed.
    data
        With its training and validation splits.
    settings
        How to train.
    world
        Second dataset that the teacher is fitted to.
    distil
        As `train`.

    Returns
    -------
    SoilCarbonNet
        With its applicability and calibration.
    """
    settings = follow_checkpoint(settings, start, data)
    members = prepare_members(start, data, settings, settings.start is not None, torch.device("cpu"), world, distil)
    network = assemble(members, train_members(members), settings)
    fit_uncertainty(network, data, members.data, settings.seed)
    return network


# --- data and specification --------------------------------------------------------------------------------------------


def _growth(settings: TrainSettings, start: SoilCarbonNet) -> Growth:
    """Return how a checkpoint has to grow for the settings' categories, else the dataset's, where it names them; log it.

    Raises
    ------
    UserError
        If they do not fit the checkpoint's.
    """
    theirs, wanted = start.specification.categories, settings.categories or recorded_categories(settings.data_dir)
    if not wanted or not isinstance(settings, RegionalSettings):
        return Growth()
    assert settings.start is not None
    try:
        found = plan_growth(wanted, theirs, settings.max_filled, as_listed=settings.categories is not None)
    except UserError as error:
        raise UserError(f"{settings.start}: {error}") from error
    for each in found.added:
        log.info("grown: new category %s (radius %d, %s): %s", each.name, each.radius, each.kind, named(each.variables))
    if found.filled:
        count = sum(len(each.variables) for each in theirs)
        log.warning(
            "%d of the checkpoint's %d variables are not in the dataset, and are taken as their means: %s",
            len(found.filled), count, named(found.filled),
        )  # fmt: skip
    return found.model_copy(update={"checkpoint": settings.start.name, "sha256": sha256(settings.start)})


def _new_columns(data: Dataset, growth: Growth) -> np.ndarray:
    """Return the covariates (n, F') of added categories at the training profiles."""
    x, columns = data.x[data.split["train"]], column_slices(data.categories)
    return np.concatenate([x[:, :0], *(x[:, columns[each.name]] for each in growth.added)], axis=1)


def grow_to(start: SoilCarbonNet, growth: Growth, data: Dataset, settings: TrainSettings) -> SoilCarbonNet:
    """Return a checkpoint's network, grown, with statistics and classes of new variables from a dataset's training profiles.

    A network without statistics, as the published one, takes its own from the dataset's file. A variable that is constant or
    missing has no information, and does no harm.

    Raises
    ------
    UserError
        If a new variable has no class codes.
    """
    own = _new_columns(data, growth)
    statistics = compute_statistics(own, growth.added, usable=True)
    if start.specification.statistics is None:
        kept = grown_categories(start.specification.categories, growth.model_copy(update={"added": ()}))
        statistics |= read_statistics(settings.data_dir / settings.stats, kept)
    grown = grow(start, growth, statistics, _classes(own, growth.added), settings.seed)
    if start.specification.statistics is None:
        grown.respecify(missing=settings.missing, clip_inputs=settings.clip_inputs)
    return grown


def _read_data(settings: TrainSettings, start: SoilCarbonNet | None, growth: Growth) -> tuple[Dataset, TrainSettings]:
    """Read and check the dataset, by the grown checkpoint's categories and target if there is one; return the settings too."""
    categories = settings.categories
    if start is not None:
        categories = grown_categories(start.specification.categories, growth)
        if not settings.given("target"):
            settings = settings.model_copy(update={"target": start.specification.target})
    data = read_dataset(settings.data_dir, categories, target=settings.target, layout=settings.layout)
    valid = data.y[data.split["valid"]]
    if settings.select_on in ("r2", "ccc") and np.ptp(valid) == 0:
        raise UserError(
            f"{settings.data_dir}: the {len(valid)} validation profiles have one value of {settings.target}, so "
            f"{settings.select_on} is not defined; use more of them, or --select_on rmse"
        )
    check_variables(data.x[data.split["train"]], data.categories, refuse="constant" if start is None else "missing")
    return data, settings


def _read_world(settings: TrainSettings, data: Dataset, start: SoilCarbonNet | None) -> Dataset | None:
    """Read the global dataset that the teacher is also fitted to, by the settings; None where there is none."""
    if not isinstance(settings, RegionalSettings) or settings.global_data is None:
        return None
    if settings.teacher == "none":
        log.info("global_data: not used, since teacher is none")
        return None
    added = {each.name for growth in start.record.growth for each in growth.added} if start else set()
    return read_world(settings.global_data, data, added, settings.target, settings.layout)


def read_world(folder: Path, data: Dataset, added: Collection[str], target: str, layout: Layout | None = None) -> Dataset:
    """Read the training split of the global dataset, with the columns of a region's dataset.

    Parameters
    ----------
    folder
        The global dataset.
    data
        The region's.
    added
        Categories that a network gains in the region. Where the world's profiles have them not, they are missing there.
    target, layout
        Column to predict; names of the folder's files, None: the default ones.

    Raises
    ------
    UserError
        If it lacks another category, or its target has another unit.
    """
    known = {name for each in recorded_categories(folder) or () for name in each.variables} if added else set()
    theirs = tuple(each for each in data.categories if each.name not in added or known.issuperset(each.variables))
    world = read_dataset(folder, theirs, ("train",), target=target, layout=layout or Layout())
    if lacking := [each.name for each in data.categories if each not in theirs]:
        log.info("global_data: the world's profiles have no %s: taken as their means there", named(lacking))
        world = replace(world, x=_in_columns_of(data.categories, world), categories=data.categories)
    require_unit(world, data.target.unit, folder, "that of the region's dataset")
    return world


def categories_of_transfer(
    start: SoilCarbonNet, source: Path, folder: Path, wanted: Sequence[Category] | None
) -> tuple[Category, ...]:
    """Return the categories of a region's dataset for a network that is transferred to it: the network's, then those it gains.

    Parameters
    ----------
    start, source
        The network, and its file, for messages.
    folder, wanted
        The dataset, and the categories to use; None: those that it records.

    Raises
    ------
    UserError
        If too many of the network's variables lack, or they are of another kind here.
    """
    wanted, theirs = wanted or recorded_categories(folder), start.specification.categories
    try:
        growth = plan_growth(wanted, theirs, as_listed=False) if wanted else Growth()
    except UserError as error:
        listed = f"prepare the dataset with the categories of {source.with_suffix('.yaml')}, and others behind them"
        raise UserError(f"{folder}: {error}; {listed}") from error
    return grown_categories(theirs, growth)


def _in_columns_of(categories: Sequence[Category], data: Dataset) -> np.ndarray:
    """Return covariates (n, F) of further categories, in their columns; missing where a dataset has them not."""
    columns, theirs = column_slices(categories), column_slices(data.categories)
    x = np.full((len(data.x), sum(each.width for each in categories)), np.nan, np.float32)
    for name, found in theirs.items():
        x[:, columns[name]] = data.x[:, found]
    return x


def specify(settings: TrainSettings, data: Dataset, start: SoilCarbonNet | None) -> tuple[SoilCarbonNet, TrainSettings]:
    """Return the network to train, with its specification, and the resolved settings.

    The specification is computed from the training profiles, or taken from the checkpoint that is fine-tuned.
    """
    if start is not None:
        settings = follow_checkpoint(settings, start, data)
        warn_of_far_inputs(start.specification, data.x[data.split["train"]])
        return start, settings
    path, rows = settings.data_dir / settings.stats, data.split["train"]
    if path.is_file():
        statistics = read_statistics(path, data.categories)
    else:
        log.info("%s: not there; statistics computed from the %d training profiles", path, len(rows))
        statistics = compute_statistics(data.x[rows], data.categories)
    facts = new_specification(settings, data, statistics)
    return SoilCarbonNet(facts), settings.model_copy(update={"target_transform": facts.target_transform})


def new_specification(settings: TrainSettings, data: Dataset, statistics: Statistics) -> Specification:
    """Return the specification of a network trained from scratch: facts of the training profiles alone.

    Raises
    ------
    UserError
        If a variable of kind "classes" has no whole-numbered codes, or too many.
    """
    rows = data.split["train"]
    facts = Specification(
        categories=data.categories,
        statistics=statistics,
        classes=_classes(data.x[rows], data.categories),
        missing=settings.missing,
        clip_inputs=settings.clip_inputs,
        target=settings.target,
        **_meaning(data),
        target_transform=choose_transform(settings, data.y[rows]),
        center=settings.center,
        bounds=_bounds(data.y[rows]),
        members=settings.members,
    )
    return facts if settings.published else facts.changed(output_scale=_output_scale(facts, data.y[rows]))


def choose_transform(settings: TrainSettings, y: np.ndarray) -> Literal["none", "log1p"]:
    """Return the transform of training targets (n,): the one that is set, or by their skewness."""
    if settings.target_transform != "auto":
        return settings.target_transform
    if settings.published or y.min() < 0:
        return "none"
    away = y - y.mean()
    skewness = float((away**3).mean() / max((away**2).mean() ** 1.5, 1e-300))
    return "log1p" if skewness > SKEWED else "none"


def _output_scale(facts: Specification, y: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the transformed targets (n,); the deviation is 1 where all are alike."""
    transformed = facts.changed(output_scale=(0.0, 1.0)).standardised(y)
    return float(transformed.mean()), float(transformed.std()) or 1.0


def follow_checkpoint(settings: AnySettings, start: SoilCarbonNet, data: Dataset) -> AnySettings:
    """Update a checkpoint's specification for fine-tuning, and return the resolved settings.

    A setting that was not given is taken from the checkpoint.

    Raises
    ------
    UserError
        If a setting was given that fine-tuning cannot change.
    """
    facts, rows = start.specification, data.split["train"]
    if not settings.given("members"):
        settings = settings.model_copy(update={"members": facts.members})
    if settings.on_folds:
        rows = np.concatenate([rows, data.split["valid"]])
    changes: dict[str, Any] = {"bounds": _bounds(data.y[rows]), "target": settings.target, "smearing": None}
    if settings.given("center"):
        changes["center"] = settings.center
    if data.target.unit or settings.target != facts.target:
        changes |= _meaning(data)
    if settings.target != facts.target or (data.target.unit or facts.unit) != facts.unit:
        log.warning("target: %s (%s) here, %s (%s) of the checkpoint", settings.target, data.target.unit, facts.target, facts.unit)
        changes["output_scale"] = _output_scale(facts, data.y[rows])
    if facts.statistics is None:
        changes["statistics"] = read_statistics(settings.data_dir / settings.stats, facts.categories)
        changes["missing"] = settings.missing
    if facts.statistics is None or settings.given("clip_inputs"):
        changes["clip_inputs"] = settings.clip_inputs
    for name in ("target_transform", "missing"):
        theirs = changes.get(name, getattr(facts, name))
        if settings.given(name) and getattr(settings, name) not in ("auto", theirs):
            raise UserError(f"{settings.start}: was trained with {name} {theirs!r}, which fine-tuning cannot change; drop {name}")
    start.respecify(**changes)
    resolved = {name: getattr(start.specification, name) for name in ("target_transform", "missing", "clip_inputs")}
    return settings.model_copy(update=resolved)


def compute_statistics(x: np.ndarray, categories: Sequence[Category], usable: bool = False) -> Statistics:
    """Return every numeric variable's mean and standard deviation over all cells of profiles (n, F).

    `usable`: one that is missing everywhere has mean 0, one that does not vary deviation 1, so that inputs stay finite.
    """
    columns = variable_columns(categories)
    names = [name for category in categories if category.kind == "numeric" for name in category.variables]
    cells = {name: x[:, columns[name]].astype(np.float64) for name in names}
    found = {
        name: (np.nan, np.nan) if np.isnan(values).all() else (float(np.nanmean(values)), float(np.nanstd(values)))
        for name, values in cells.items()
    }
    if not usable:
        return found
    return {name: (mean if np.isfinite(mean) else 0.0, std if std > 0 else 1.0) for name, (mean, std) in found.items()}


def _classes(x: np.ndarray, categories: Sequence[Category]) -> dict[str, tuple[int, ...]]:
    columns, classes = variable_columns(categories), {}
    for name in (name for category in categories if category.kind == "classes" for name in category.variables):
        codes = np.unique(x[:, columns[name]])
        codes = codes[np.isfinite(codes)]
        if len(codes) > MAXIMUM_CLASSES or (codes != np.rint(codes)).any():
            raise UserError(f"variable {name!r} is of kind classes but holds {len(codes)} values like {codes[0]:g}; is it numeric?")
        classes[name] = tuple(int(code) for code in codes)
    return classes


def _meaning(data: Dataset) -> dict[str, Any]:
    """Return the fields of a specification that say what the target is."""
    meaning = data.target
    return {"unit": meaning.unit, "label": meaning.name, "depth": meaning.depth, "years": meaning.years}


def _bounds(y: np.ndarray) -> tuple[float, float]:
    return min(0.0, float(y.min())), float(y.max())


# --- results ---------------------------------------------------------------------------------------------------------------


def _scores(network: SoilCarbonNet, data: Dataset, known: TrainingData) -> Scores:
    predicted = predict(network, data.x)[0]
    scores = {name: metrics.scores(data.y[chosen], predicted[chosen]) for name, chosen in data.split.items()}
    if known.folds is not None:  # the members were trained on most of both splits; each profile's own fold's member was not
        held_out = held_out_predictions(network, data.x[known.rows], known.folds)
        scores["train"] = metrics.scores(data.y[known.rows], predicted[known.rows])
        scores["valid"] = metrics.scores(data.y[known.rows], held_out)
    return scores


def fit_uncertainty(network: SoilCarbonNet, data: Dataset, known: TrainingData, seed: int) -> None:
    """Set a network's area of applicability, the calibration of its prediction intervals and its error model."""
    network.applicability = fit_applicability(network, data, data.split["train"] if known.folds is None else known.rows, seed)
    network.calibration = fit_calibration(network, data, known.rows, known.folds)
    network.errors = fit_errors(network, data, known.rows, known.folds, seed)


def _warn(network: SoilCarbonNet, settings: TrainSettings) -> None:
    if settings.start and 0 in network.record.epoch:
        untouched = network.record.epoch.count(0)
        log.warning("%d of %d members kept the pretrained weights: no epoch beat them on validation", untouched, settings.members)


def _check_not_published(path: Path) -> None:
    """Raise UserError if a checkpoint that this program did not write, such as the published one, would be overwritten."""
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


def rasters_of(folder: Path) -> list[dict[str, Any]]:
    """Return CRS, cell size, variables and given nodata of the rasters that a dataset was cut from; nothing if it has no record."""
    path = folder / "dataset.yaml"
    found = read_yaml(path).get("rasters") if path.is_file() else None
    wanted = ("crs", "cell_size", "variables")
    whole = [each for each in (found if isinstance(found, list) else []) if isinstance(each, dict) and all(map(each.get, wanted))]
    return [{name: each[name] for name in (*wanted, "nodata") if name in each} for each in whole]
