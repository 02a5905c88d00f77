"""Fitting a model to a dataset: cross-validation, choice, fit to all profiles, uncertainty from the folds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from soilcarbon.categories import Category, middle_cells, variable_columns, without_windows
from soilcarbon.io.files import UserError
from soilcarbon.network.specification import variable_of_predictor
from soilcarbon.regression.estimators import POSITION, Samples
from soilcarbon.regression.learners import LEARNERS, Task, fit_parts
from soilcarbon.regression.model import FittedModel, ModelRecord
from soilcarbon.regression.parts import transformed
from soilcarbon.regression.selection import Selection, cross_validate, draw_folds, given, in_unit, select, smearing, suitable
from soilcarbon.regression.uncertainty import Uncertainty, applicability, calibrate, error_field, permutation_importance
from soilcarbon.soil.dataset import Dataset
from soilcarbon.training.ensemble import LARGE_SMEARING
from soilcarbon.training.run import choose_transform, rasters_of
from soilcarbon.training.uncertainty import fold_groups

log = logging.getLogger(__name__)
BEST = "best"
FEWEST = 10
"""Profiles: fewer cannot be cross-validated."""


@dataclass(frozen=True)
class Result:
    """A fitted model, how it was chosen, and the predictions of its folds, a row per profile."""

    model: FittedModel
    selection: Selection
    held_out: pd.DataFrame


def samples_of(data: Dataset, rows: np.ndarray | slice = slice(None)) -> Samples:
    """Return profiles of a dataset as learners take them, grouped by its blocks, or its places where it has none."""
    return Samples(np.column_stack([data.lon, data.lat, data.x]), np.asarray(data.y, np.float64), fold_groups(data)).take(rows)


def fit_model(
    data: Dataset, rows: np.ndarray, task: Task, wanted: str = BEST, candidates: Sequence[str] = tuple(LEARNERS),
    folds: int = 5, workers: int = 1,
) -> Result:  # fmt: skip
    """Cross-validate learners on profiles of a dataset, choose one, fit it to all of them and estimate its uncertainty.

    Parameters
    ----------
    data, rows
        The dataset, and the rows of the profiles to use.
    task
        What is to be learnt; its transform is chosen here by the targets' skewness, as that of a network is, or is that of the
        network to start from.
    wanted
        Key of `LEARNERS`, which is cross-validated beside the mean; or "best": the choice among `candidates`.
    candidates
        Keys of `LEARNERS`.
    folds, workers
        Of the cross-validation.

    Raises
    ------
    UserError
        If profiles are too few, the target does not vary, or the learner cannot be fitted.
    """
    y = np.asarray(data.y, np.float64)[rows]
    if len(y) < FEWEST:
        raise UserError(f"{len(y)} profiles are too few to fit and to check a model; {FEWEST} are the fewest, 40 are sensible")
    if np.ptp(y) == 0:
        raise UserError(f"all {len(y)} profiles have {task.target} {y[0]:g}: there is nothing to learn")
    task = with_transform(task, y)
    drawn, side, facts = draw_folds(samples_of(data, rows), task, folds)
    data = replace(data, block_size=side)
    task = replace(task, block_size=side, transfer=task.transfer and task.transfer.outside(data))
    samples = samples_of(data, rows)
    keys = suitable(candidates if wanted == BEST else [*{"mean": 0, wanted: 0}], samples)
    outputs = cross_validate(keys, samples, task, drawn, workers)
    if wanted != BEST and wanted not in outputs:
        raise UserError(f"model {wanted}: cannot be fitted to these {len(y)} profiles, see above; take another")
    specification = task.specify(samples)
    predicted = {key: in_unit(y, each, specification, drawn) for key, each in outputs.items()}
    selection = select(y, predicted, drawn, specification.unit)
    if wanted != BEST:
        selection = given(selection, wanted)
    log.info("%s; fitting it to all %d profiles", selection.reason, len(y))
    period = None if data.period is None else data.period[rows]
    model = _refit(selection, samples, task, outputs[selection.chosen], predicted[selection.chosen], drawn, period)
    record = model.record.model_copy(update={"folds": facts})
    held_out = pd.DataFrame({"profile_id": np.array(data.ids)[rows], "fold": drawn, "observed": y, **predicted})
    return Result(replace(model, record=record), selection, held_out)


def with_transform(task: Task, y: np.ndarray) -> Task:
    """Return a task with the transform that suits the targets (n,), or that of the network it starts from."""
    if task.transfer:
        return replace(task, transform=task.transfer.network.specification.target_transform)
    return replace(task, transform=choose_transform(task.settings(target_transform="auto"), y))


def _refit(
    selection: Selection, samples: Samples, task: Task, outputs: np.ndarray, predicted: np.ndarray, folds: np.ndarray,
    period: np.ndarray | None,
) -> FittedModel:  # fmt: skip
    """Return the chosen learner fitted to all profiles, with its uncertainty from what folds without them predicted."""
    if not LEARNERS[selection.chosen].network:  # it sees no windows, so the model needs none
        own = middle_cells(samples.X[:, POSITION:], task.categories)
        samples = samples._replace(X=np.column_stack([samples.X[:, :POSITION], own]))
        task = replace(task, categories=without_windows(task.categories))
    parts, facts = fit_parts(selection.chosen, samples, replace(task, jobs=-1))
    if task.transform == "log1p":
        factor = smearing(samples.y, outputs, task.transform)
        facts = facts.changed(smearing=(factor,))
        if factor > LARGE_SMEARING:
            log.warning(
                "smearing factor %.2f: errors on the log scale are large, and means and totals rest on them; more profiles or "
                "covariates are needed", factor,
            )  # fmt: skip
    model = FittedModel(selection.chosen, facts, parts)
    what = "blocks" if task.block_size else "places"
    scale: Literal["log1p", "identity"] = "log1p" if task.transform == "log1p" else "identity"
    calibration, basis = calibrate(samples.y, predicted, samples.groups, scale, what)
    means, fitted = model.means(predicted), model.means(model.predict(samples.X))
    uncertainty = Uncertainty(
        calibration,
        error_field(samples.y, means, samples.X[:, :POSITION], folds, task.seed, fitted, period),
        _applicability(model, samples, folds, task.seed),
    )
    table = selection.table.astype(object).where(selection.table.notna(), None)
    record = ModelRecord(
        reason=selection.reason,
        cross_validation=tuple(map(_plain, table.to_dict("records"))),
        calibrated_on=basis,
        training_mean=float(samples.y.mean()),
    )
    return replace(model, uncertainty=uncertainty, record=record)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _applicability(model: FittedModel, samples: Samples, folds: np.ndarray, seed: int) -> Any:
    facts = model.specification
    columns = {name: slice(at.start + POSITION, at.stop + POSITION) for name, at in variable_columns(facts.categories).items()}
    target = transformed(samples.y, facts)
    importance = permutation_importance(model.outputs, samples.X, target, columns, seed)
    weights = np.array([importance[name] for name in variable_of_predictor(facts)])
    return applicability(model.predictors(samples.X[:, POSITION:].astype(np.float32)), weights, folds, seed)


def with_facts(model: FittedModel, folder: Path, profiles: Mapping[str, int], settings: Mapping[str, Any]) -> FittedModel:
    """Return the model with the facts of its dataset and its run in the record."""
    more = {"profiles": dict(profiles), "rasters": tuple(rasters_of(folder)), "settings": dict(settings)}
    return replace(model, record=model.record.model_copy(update=more))


def check_columns(x: np.ndarray, categories: Sequence[Category]) -> None:
    """Raise UserError if no variable has two values among the profiles (n, F): there is nothing to predict by."""
    cells = middle_cells(x, categories)
    with np.errstate(all="ignore"):
        varies = (np.fmax.reduce(cells) > np.fmin.reduce(cells)).any()
    if not varies:
        raise UserError(f"none of {cells.shape[1]} covariates varies among {len(x)} profiles; are they the right rasters?")
