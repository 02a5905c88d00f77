"""Training run of zoned forests: cross-validated by blocks, evaluated by zone, and the final model of each target saved.

In: a space-time table and a model that is not fitted. Out: files in the folders of the settings. Each fold is written when it is
finished, so that an interrupted run can be resumed and ends alike.
"""

import hashlib
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, check_writable, locked, write_table
from soilcarbon.io.manifest import check_files, result_set
from soilcarbon.io.resumption import begin_or_resume, check_record, is_sealed, seal
from soilcarbon.io.tables import read_table
from soilcarbon.progress import Progress
from soilcarbon.regression.archive import RECORDED, kind_of
from soilcarbon.zonal import evaluation
from soilcarbon.zonal.evaluation import ALL, BLENDED, UNZONED, ZONED
from soilcarbon.zonal.forest import ZonedForest, ZonedNetwork, estimate_uncertainty
from soilcarbon.zonal.persistence import ZonedModel, save_zoned
from soilcarbon.zonal.settings import ZonedSettings
from soilcarbon.zonal.space_time import Profiles, SpaceTime

log = logging.getLogger(__name__)
FOLDS, TRACE = "folds", "trace"
"""Folders of finished folds, and of all candidates of each."""


_FREE = ("resume", "workers", "model_dir")
"""Settings with another value of which a run may be resumed."""


def train_zoned(settings: ZonedSettings, data: SpaceTime, method: ZonedForest) -> None:
    """Train, evaluate and save the forests of each target, and write all tables.

    The method is not fitted, its zones with the bands of blended predictions. An interrupted run of the same settings and data is
    resumed. UserError if a folder holds another run, or the profiles are too few.
    """
    models = {target: settings.model_dir / f"{settings.run}_{target}.npz" for target in settings.targets}
    for path in models.values():
        if path.exists() and kind_of(path) != "zones":
            raise UserError(f"{path}: was not made by soilcarbon zones and would be lost; move it, or give --run another name")
        check_record(path.with_suffix(".yaml"), RECORDED)
    tables = (*(f"{name}.csv" for name in ("left_out", "scores", "differences", "importances", "predictions")), "scores.png")
    check_files(settings.results, tables, "zones")
    check_writable(settings.results, settings.model_dir)
    with locked(settings.results, files=list(models.values())):
        digest = hashlib.sha256(data.table.to_csv(index=False).encode()).hexdigest()
        facts = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
        begin_or_resume(settings.results, {**facts, "digest": digest}, (FOLDS, TRACE), settings.resume)
        done = [train_target(settings, data, method, target) for target in settings.targets]
        whole = {name: pd.concat([tables[name] for tables in done], ignore_index=True) for name in done[0]}
        with result_set(settings.results, "zones") as new:
            for name, table in {**whole, "left_out": data.left_out}.items():
                write_table(new / f"{name}.csv", table)
            evaluation.draw_scores(new / "scores.png", {"": whole["scores"]}, "rmse", f"RMSE ({settings.unit}), held-out blocks")


def train_target(settings: ZonedSettings, data: SpaceTime, method: ZonedForest, target: str) -> dict[str, pd.DataFrame]:
    """Cross-validate the forests of a target, save those of all profiles, and return name -> table."""
    profiles, ids = data.profiles(target, settings.block_size)
    blended, seed = settings.boundary == "blended", settings.seed
    method = replace(method, forest=replace(method.forest, label=target))
    folds = evaluation.space_time_folds(profiles, method, settings.folds, seed)
    blocks = np.unique(profiles.groups).size
    log.info("%s: %d profiles in %d blocks, %d covariates", target, len(profiles), blocks, len(data.covariates))
    parts, count = [], int(folds.max()) + 1
    with Progress(f"{target}: folds, and the model of all profiles", count + 1) as steps:
        for fold in range(count):
            parts.append(_fold(settings, data, target, profiles, folds, fold, method))
            steps.step()
        predictions = pd.concat([part[0] for part in parts]).sort_values("row", ignore_index=True)
        increases = pd.concat([part[1] for part in parts], ignore_index=True)
        scores, differences = evaluation.score_tables(predictions, profiles.groups, method.zones, seed)
        importances = evaluation.importance_table(increases, predictions, profiles.groups, method.zones, data.variables, seed)
        method = method if blended else replace(method, zones=method.zones.hard())
        method.fit(profiles.x, profiles.y, profiles.groups, seed)
        steps.step()
    forests = {name if method.has_own(name) else ALL: forest for name, forest in method.forests.items()}
    _write_trace(settings, data, f"{target}-final", pd.concat([each.trace.assign(forest=name) for name, each in forests.items()]))
    uncertainty = estimate_uncertainty(method, profiles, predictions, BLENDED if blended else ZONED, seed)
    record = {"settings": settings.as_plain(), "scores": _plain(scores), "differences": _plain(differences)}
    model = ZonedModel(method, target, str(settings.unit), data.variables, uncertainty, record, data.classes, data.nodata)
    save_zoned(model, settings.model_dir / f"{settings.run}_{target}.npz")
    log.info("%s: cross-validated R2 and RMSE (%s)\n%s", target, settings.unit, _summary(scores, differences))
    predictions = predictions.assign(profile_id=ids[predictions["row"]]).drop(columns="row")
    tables = {"scores": scores, "differences": differences, "importances": importances, "predictions": predictions}
    return {name: table.assign(target=target) for name, table in tables.items()}


def _fold(
    settings: ZonedSettings, data: SpaceTime, target: str, profiles: Profiles, folds: np.ndarray, fold: int, method: ZonedForest
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and increases of a fold, from its files if it was finished before."""
    increases, predictions = (settings.results / FOLDS / f"{target}-{fold}-{name}.csv" for name in ("increases", "predictions"))
    if not is_sealed(increases, predictions):
        network = ZonedNetwork(method.forest.covariates, method.min_profiles) if settings.network else None
        found = evaluation.hold_out(profiles, folds, fold, method, settings.seed, network=network)
        _write_trace(settings, data, f"{target}-{fold}", found.trace)
        for path, table in ((increases, found.increases), (predictions, found.predictions)):
            write_table(path, table)
            seal(path)
    return read_table(predictions, text=("zone",)), read_table(increases, text=("method",))


def _write_trace(settings: ZonedSettings, data: SpaceTime, name: str, trace: pd.DataFrame) -> None:
    """Write the trace of all candidates, with names of covariates."""
    names = [" ".join(data.variables[int(k)] for k in text.split()) for text in trace["columns"]]
    write_table(settings.results / TRACE / f"{name}.csv", trace.assign(columns=names))


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON; NaN becomes None."""
    return [{name: None if value != value else value for name, value in row.items()} for row in table.to_dict("records")]


def _summary(scores: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Return a text table: for each zone the scores of one forest and of zoned forests, and the change of RMSE."""
    table = scores.set_index("zone")
    unzoned, zoned = (table[table["method"] == method] for method in (UNZONED, ZONED))
    change = differences[differences["method"] == ZONED].set_index("zone")
    columns = {"n": unzoned["n"], "R2 unzoned": unzoned["r2"].round(2), "zoned": zoned["r2"].round(2)}
    columns |= {"RMSE unzoned": unzoned["rmse"].round(3), "zoned ": zoned["rmse"].round(3)}
    intervals = zip(change["rmse"], change["rmse_low"], change["rmse_high"], strict=True)
    columns["change of RMSE, % [95 %]"] = pd.Series([f"{a:+.1f} [{b:+.1f}, {c:+.1f}]" for a, b, c in intervals], change.index)
    return pd.DataFrame(columns).rename_axis(None).to_string()
