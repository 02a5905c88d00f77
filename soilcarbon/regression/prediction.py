"""Prediction and evaluation of profiles with a network's checkpoint or a fitted model.

In: a checkpoint and a dataset's folder. Out: the folder results/<run>/: predictions.csv (profile_id, lon, lat, observed, predicted,
residual = observed - predicted; sd and one column per member of an ensemble; lower, upper: the prediction interval; di, lpd,
inside: dissimilarity index, local point density, and whether it is in the area of applicability, empty where a predictor is
missing; lpd_in_sample where the checkpoint keeps a sample of its training profiles), the same as points in predictions.gpkg,
scores.json, settings.yaml, and two figures.
Those of other profiles than the test profiles of the training's dataset have other names (`result_files`), so that they do not take
the place of the test's.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from soilcarbon import figures
from soilcarbon.categories import Category, middle_cells, without_windows
from soilcarbon.geo.vector import write_layers
from soilcarbon.io.files import UserError, check_writable, locked, write_json, write_table
from soilcarbon.io.manifest import MANIFEST, check_files, result_set
from soilcarbon.io.names import file_name
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import choose_device, predict
from soilcarbon.network.specification import Specification, difference, unfold_classes, warn_of_far_inputs
from soilcarbon.regression.archive import is_archive, kind_of
from soilcarbon.regression.estimators import POSITION
from soilcarbon.regression.persistence import load_model
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.settings import PredictSettings
from soilcarbon.soil.dataset import (
    Dataset,
    check_variables,
    read_dataset,
    read_statistics,
    require_unit,
    split_record,
    splits_of,
)
from soilcarbon.soil.target import Target
from soilcarbon.stats import metrics
from soilcarbon.stats.metrics import coverage
from soilcarbon.training.uncertainty import check_level

log = logging.getLogger(__name__)
FILES = ("predictions.csv", "predictions.gpkg", "scores.json", "settings.yaml", "observed_predicted.png", "residual_map.png")
"""Names of the results at the test profiles of the training's dataset."""


@dataclass(frozen=True)
class Evaluation:
    """Result of a prediction.

    Attributes
    ----------
    table
        As predictions.csv, a row per profile.
    scores
        Score -> value with the ends of its 95 % bootstrap interval; only "n" where nothing was observed.
    coverage
        Share of the observations in the prediction intervals of a level; empty without a calibration or observations.
    shared
        How many of the profiles share all covariates with a training profile, by the dataset's record.
    target
        What is predicted.
    verdict
        A sentence if the predictions are no better than the mean of the training profiles, else "".
    path
        The table's file.
    """

    table: pd.DataFrame
    scores: dict[str, Any]
    coverage: dict[str, Any]
    shared: int
    target: Target
    verdict: str
    path: Path


@dataclass(frozen=True)
class OpenModel:
    """A network or a fitted model, as prediction needs it.

    Attributes
    ----------
    specification
        Meaning of its inputs and output.
    predict
        Returns predictions (n,) and the members' (M, n), in the target's unit, for X (n, 2 + F): longitude, latitude, covariates.
    uncertainty
        Calibration and area of applicability.
    calibrated_on, data_dir
        The profiles its intervals are calibrated on, as text; the dataset that it was trained on, as its record says.
    training_mean
        Mean target of its training profiles; None: not recorded.
    """

    specification: Specification
    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    uncertainty: Uncertainty
    calibrated_on: str | None
    data_dir: Any
    training_mean: float | None


def result_files(settings: PredictSettings, recorded: Any) -> tuple[dict[str, str], str]:
    """Return the names of the results, by those of `FILES`, and what they are results of.

    The split, and the folder of a dataset that the network was not trained on, become part of the names: predictions_all.csv,
    predictions_test_kenya.csv. `recorded` is that folder, as the model's record says.
    """
    elsewhere, folder = isinstance(recorded, str) and not _is_own(settings, recorded), settings.data_dir.resolve()
    parts = ([settings.on] if elsewhere or settings.on != "test" else []) + ([file_name(folder.name)] if elsewhere else [])
    names = {name: "_".join([Path(name).stem, *parts]) + Path(name).suffix for name in FILES}
    return names, f"--on {settings.on}" + (f" --data_dir {folder}" if elsewhere or recorded is None else "")


def _is_own(settings: PredictSettings, recorded: Any) -> bool:
    """Return whether the dataset is the one that the model was trained on, as far as its record says."""
    return isinstance(recorded, str) and Path(recorded).resolve() == settings.data_dir.resolve()


def predict_and_evaluate(settings: PredictSettings) -> Evaluation:
    """Predict the profiles of a dataset with a checkpoint, score them against observations, and write both into `settings.results`.

    Raises
    ------
    UserError
        For anything wrong in settings, checkpoint or data.
    """
    model = load_for_prediction(settings, choose_device(settings.device))
    facts = model.specification
    if not settings.given("target"):
        settings = settings.model_copy(update={"target": facts.target})
    splits = () if settings.on == "all" else (settings.on,)
    if settings.on == "test" and not splits_of(settings.data_dir, ("test",)):
        raise UserError(
            f"{settings.data_dir}: has no test split (made with --test_share 0); predict your own test profiles (prepare them with "
            "--global_data, then --data_dir THEIRS --on all), or --on valid"
        )
    data = read_dataset(
        settings.data_dir, facts.categories, splits, target=settings.target, target_needed=False, layout=settings.layout
    )
    rows = data.rows(settings.on)
    if np.isfinite(data.y[rows]).any():
        require_unit(data, facts.unit, settings.data_dir, "what the checkpoint predicts")
    check_variables(data.x[rows], facts.categories, refuse="nothing")
    if not _is_own(settings, model.data_dir):
        warn_of_far_inputs(facts, data.x[rows])
    check_writable(settings.results)
    with locked(settings.results):
        return _evaluate(settings, model, data, rows)


def _evaluate(settings: PredictSettings, model: OpenModel, data: Dataset, rows: np.ndarray) -> Evaluation:
    facts, folder = model.specification, settings.results
    names, purpose = result_files(settings, model.data_dir)
    adopted = _of_earlier_version(folder)
    check_files(folder, names.values(), purpose, adopted)
    table = predict_table(model, data, rows, settings.level)
    observed, predicted = table["observed"].to_numpy(), table["predicted"].to_numpy()
    known = np.isfinite(observed)
    groups = None if data.blocks is None else data.blocks[rows][known]
    scores, held, of_mean = {"n": 0}, {}, {}  # type: dict[str, Any], dict[str, Any], dict[str, Any]
    if known.any():
        mean = model.training_mean
        of_mean = {} if mean is None else metrics.scores_of_constant(observed[known], mean)
        scores = metrics.bootstrap_scores(observed[known], predicted[known], settings.seed, groups=groups)
        if "lower" in table:
            lower, upper = (table[name].to_numpy()[known] for name in ("lower", "upper"))
            held = {"level": settings.level} | coverage(observed[known], lower, upper, groups, settings.seed)
    recorded = split_record(settings.data_dir).get("shared_with_training")
    shared = recorded.get(settings.on, 0) if isinstance(recorded, dict) else 0
    about = {
        "run": settings.run,
        "on": settings.on,
        "target": facts.meaning.as_plain(),
        "unit": facts.unit,
        "checkpoint_sha256": hashlib.sha256(settings.checkpoint_path.read_bytes()).hexdigest(),
        "intervals": "95 % bootstrap over " + ("profiles" if groups is None else f"{len(np.unique(groups))} spatial blocks"),
        "calibrated_on": model.calibrated_on,
        "shared_with_training": shared,
        "signs": "me: predicted - observed; residual: observed - predicted",
        "mean of the training profiles": of_mean,
    }
    with result_set(folder, purpose, adopted=adopted) as new:
        files = {name: new / mine for name, mine in names.items()}
        settings.model_copy(update={"categories": facts.categories, "checkpoint": settings.checkpoint_path}).write(
            files["settings.yaml"]
        )
        write_table(files["predictions.csv"], table)
        write_layers(files["predictions.gpkg"], {"predictions": table}, "EPSG:4326")
        write_json(files["scores.json"], {**about, "scores": scores, "coverage": held})
        if known.any():
            title, seen = f"{settings.run}: {facts.meaning.title}; {settings.on} profiles", table[known]
            figures.observed_against_predicted(
                files["observed_predicted.png"], observed[known], predicted[known], facts.unit, title
            )
            at = seen["lon"].to_numpy(), seen["lat"].to_numpy(), seen["residual"].to_numpy()
            figures.residual_map(files["residual_map.png"], *at, facts.unit, title)
    values = {name: each["value"] for name, each in scores.items() if isinstance(each, dict)}
    verdict = metrics.worse_than_mean(values, of_mean, facts.unit)
    return Evaluation(table, scores, held, shared, facts.meaning, verdict, folder / names["predictions.csv"])


def _of_earlier_version(folder: Path) -> tuple[str, ...]:
    """Return the names of results that a version without manifests wrote into a folder; its scores name the checkpoint."""
    path = folder / "scores.json"
    if (folder / MANIFEST).exists() or not path.is_file():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return ()
    earlier = tuple(name for name in FILES if not name.endswith(".gpkg"))
    return earlier if isinstance(found, Mapping) and "checkpoint_sha256" in found else ()


def predict_table(model: OpenModel, data: Dataset, rows: np.ndarray, level: float) -> pd.DataFrame:
    """Return predictions of a dataset's rows, with intervals and applicability where the model has them.

    Raises
    ------
    UserError
        If too few profiles were held out for intervals of the level.
    """
    facts, known = model.specification, model.uncertainty
    predicted, members = model.predict(np.column_stack([data.lon[rows], data.lat[rows], data.x[rows]]))
    observed = data.y[rows]
    table = pd.DataFrame(
        {
            "profile_id": np.array(data.ids)[rows],
            "lon": data.lon[rows],
            "lat": data.lat[rows],
            "observed": observed,
            "predicted": predicted,
            "residual": observed - predicted,
            "unit": facts.unit,
        }
    )
    if len(members) > 1:
        table["sd"] = members.std(0, ddof=1)
        table = table.assign(**{f"member_{k}": values for k, values in enumerate(members)})
    if known.calibration is not None:
        check_level(known.calibration, level)
        table["lower"], table["upper"] = known.calibration.interval(predicted, level)
    if (area := known.applicability) is not None:
        cells = unfold_classes(middle_cells(data.x[rows], facts.categories), facts)
        table["di"], density = area.assess(cells)
        table[area.density_name] = pd.array(density, dtype="Int64")
        table["inside"] = pd.array(area.is_inside(table["di"].to_numpy()), dtype="boolean")
    return table


def load_for_prediction(settings: PredictSettings, device: torch.device) -> OpenModel:
    """Load the settings' checkpoint or fitted model.

    Raises
    ------
    UserError
        If it cannot be read, or its variables are not those the settings name.
    """
    path = settings.checkpoint_path
    found = _open_fitted(path, settings) if is_archive(path) else _open_network(path, settings, device)
    theirs = found.specification.categories
    if settings.categories is not None and (differs := difference(_matching(settings.categories, theirs), theirs)):
        raise UserError(f"{path}: the checkpoint's variables are not the settings': {differs}")
    return found


def _matching(mine: Sequence[Category], theirs: Sequence[Category]) -> Sequence[Category]:
    """Return categories without windows where those of a model have none: a forest sees no windows."""
    return mine if any(each.radius for each in theirs) else without_windows(mine)


def _open_fitted(path: Path, settings: PredictSettings) -> OpenModel:
    if kind_of(path) == "zones":
        raise UserError(
            f"{path}: forests by climate zone take a table of years and climate, not a dataset; make a map of them (soilcarbon map)"
            " and compare it with profiles (soilcarbon validate --points)"
        )
    model = load_model(path)
    if settings.given("missing"):
        raise UserError(f"{path}: has its own rule for missing cells; drop the setting missing")

    def predicted(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = model.predict(X)
        return values, values[None]

    record = model.record
    about = record.calibrated_on, record.settings.get("data_dir"), record.training_mean
    return OpenModel(model.specification, predicted, model.uncertainty, *about)


def _open_network(path: Path, settings: PredictSettings, device: torch.device) -> OpenModel:
    """Open a network's checkpoint; the published bare file, which has no statistics, takes the dataset's."""
    network = load_checkpoint(path, device)
    facts = network.specification
    if facts.statistics is not None and settings.given("missing") and settings.missing != facts.missing:
        raise UserError(f"{path}: was trained with missing {facts.missing!r}, which prediction cannot change; drop the setting")
    if facts.statistics is None:
        stats = settings.data_dir / settings.stats
        network.respecify(statistics=read_statistics(stats, facts.categories), missing=settings.missing)
        log.info("%s: has no statistics; those of %s are used, and predictions are not bounded", path, stats)

    def predicted(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return predict(network, np.ascontiguousarray(X[:, POSITION:], np.float32))

    known = Uncertainty(network.calibration, None, network.applicability)
    record = network.record
    about = record.calibrated_on, record.settings.get("data_dir"), record.training_mean
    return OpenModel(network.specification, predicted, known, *about)
