"""What a network starts from: facts of its training profiles, or those of a checkpoint that it follows.

In: settings and a dataset. Out: a `Specification`, and the settings as they then hold.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.settings import TrainSettings
from soilcarbon.soil.dataset import Dataset, Statistics, read_statistics, variable_columns

log = logging.getLogger(__name__)
MAXIMUM_CLASSES = 256


def statistics_for(settings: TrainSettings, data: Dataset) -> Statistics:
    """Return the statistics of the dataset's file, or computed from the training profiles where there is none."""
    path, rows = settings.data_dir / settings.stats, data.split["train"]
    if path.is_file():
        return read_statistics(path, data.categories)
    log.info("%s: not there; statistics computed from the %d training profiles", path, len(rows))
    return compute_statistics(data.x[rows], data.categories)


def new_specification(settings: TrainSettings, data: Dataset, statistics: Statistics) -> Specification:
    """Return the specification of a network trained from scratch: facts of the training profiles alone.

    Raises
    ------
    UserError
        If a variable of kind "classes" has no whole-numbered codes, or too many.
    """
    rows = data.split["train"]
    return Specification(
        categories=data.categories,
        statistics=statistics,
        classes=_classes(data, rows),
        missing=settings.missing,
        clip_inputs=settings.clip_inputs,
        target=settings.target,
        unit=_unit(settings.target),
        target_transform=settings.target_transform,
        center=settings.center,
        bounds=_bounds(data, rows),
        members=settings.members,
    )


def compute_statistics(x: np.ndarray, categories: Sequence[Category]) -> Statistics:
    """Return every numeric variable's mean and standard deviation over all cells of profiles (n, F)."""
    columns = variable_columns(categories)
    names = [name for category in categories if category.kind == "numeric" for name in category.variables]
    cells = {name: x[:, columns[name]].astype(np.float64) for name in names}
    return {name: (float(np.nanmean(values)), float(np.nanstd(values))) for name, values in cells.items()}


def _classes(data: Dataset, rows: np.ndarray) -> dict[str, tuple[int, ...]]:
    columns, classes = variable_columns(data.categories), {}
    for name in (name for category in data.categories if category.kind == "classes" for name in category.variables):
        codes = np.unique(data.x[rows][:, columns[name]])
        codes = codes[np.isfinite(codes)]
        if len(codes) > MAXIMUM_CLASSES or (codes != np.rint(codes)).any():
            raise UserError(f"variable {name!r} is of kind classes but holds {len(codes)} values like {codes[0]:g}; is it numeric?")
        classes[name] = tuple(int(code) for code in codes)
    return classes


def _unit(target: str) -> str:
    """Return the unit of the sample table's `soc`; that of other columns is not known."""
    return "g/kg" if target == "soc" else ""


def _bounds(data: Dataset, rows: np.ndarray) -> tuple[float, float]:
    return min(0.0, float(data.y[rows].min())), float(data.y[rows].max())


def follow_checkpoint(settings: TrainSettings, start: SoilCarbonNet, data: Dataset) -> TrainSettings:
    """Let the checkpoint's facts stand, add those a fine-tuning run brings, and return the settings as they now hold."""
    facts, rows = start.specification, data.split["train"]
    if settings.validate_on == "folds":
        rows = np.concatenate([rows, data.split["valid"]])
    changes: dict[str, Any] = {"bounds": _bounds(data, rows), "target": settings.target, "smearing": None}
    if settings.given("center"):
        changes["center"] = settings.center
    if settings.target != facts.target:
        changes["unit"] = _unit(settings.target)
    if facts.statistics is None:
        changes["statistics"] = read_statistics(settings.data_dir / settings.stats, facts.categories)
        changes["missing"] = settings.missing
    if facts.statistics is None or settings.given("clip_inputs"):
        changes["clip_inputs"] = settings.clip_inputs
    for name in ("target_transform", "missing"):
        theirs = changes.get(name, getattr(facts, name))
        if settings.given(name) and getattr(settings, name) != theirs:
            raise UserError(
                f"{settings.init_from}: was trained with {name} {theirs!r}, which fine-tuning keeps; drop {name} from the settings"
            )
    start.respecify(**changes)
    facts = start.specification
    members = settings.members if settings.given("members") else facts.members
    return settings.model_copy(
        update={
            "members": members,
            "target_transform": facts.target_transform,
            "missing": facts.missing,
            "clip_inputs": facts.clip_inputs,
        }
    )
