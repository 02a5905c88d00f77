"""Skill of trained runs on their own test split, beside the mean and two random forests.

In: results/<run>/predictions.csv and settings.yaml, as `soilcarbon predict --on test` leaves them, and the datasets they name.
Out: a table of scores. Test profiles are in no training set. The mean and the forests are fitted to the training and validation
profiles together: they have no epoch to choose, the network does and uses the latter for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark.baselines import BASELINES
from soilcarbon.benchmark.network_variants import METHODS
from soilcarbon.benchmark.results import score_table
from soilcarbon.categories import first_repeated
from soilcarbon.html import Table
from soilcarbon.io.files import UserError, read_yaml
from soilcarbon.io.tables import read_table
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.growth import grow
from soilcarbon.network.network import predict
from soilcarbon.regression.fit import samples_of
from soilcarbon.settings import PredictSettings, build
from soilcarbon.soil.dataset import Dataset, read_dataset
from soilcarbon.stats.metrics import worse_than_mean

TREES = 500
NETWORK = "network"
SCORES = {"rmse": "RMSE", "mae": "MAE", "me": "ME", "r2": "R2", "ccc": "CCC"}


def predict_baselines(dataset: Dataset, rows: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Fit the mean and two forests, untuned, to a dataset's rows and return label -> predictions (m,) of the test rows."""
    train, X = samples_of(dataset, rows), samples_of(dataset, test).X
    more: dict[str, dict[str, Any]] = {"mean": {}, "forest": {"n_estimators": TREES}, "forest_log": {"n_estimators": TREES}}
    fitted = {key: BASELINES[key].pipeline(seed=seed, **each).fit(train.X, train.y) for key, each in more.items()}
    return {BASELINES[key].label: np.asarray(each.predict(X)) for key, each in fitted.items()}


def read_run(folder: Path) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Read a finished run: its dataset, and predictions (m,) of its test profiles in the split's order.

    They are the network's, and those of the network it was fine-tuned from, where the run's checkpoint names one that
    is still there. UserError if the run has not been evaluated on the test profiles that its dataset has now.
    """
    for name in ("settings.yaml", "predictions.csv"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; run soilcarbon predict for {folder.name} (--on test) first")
    values = read_yaml(folder / "settings.yaml")  # perhaps of an older version, which had more settings
    values = {name: value for name, value in values.items() if name in PredictSettings.model_fields}
    settings = build(PredictSettings, values, str(folder / "settings.yaml"))
    again = f"run soilcarbon predict --config {folder / 'settings.yaml'} --on test"
    path = folder / "predictions.csv"
    table = read_table(path, ("profile_id", "observed", "predicted"))
    if settings.on != "test":
        raise UserError(f"{path}: made with --on {settings.on}, not on the test profiles; {again}")
    dataset = read_dataset(settings.data_dir, settings.categories, target=settings.target, layout=settings.layout)
    if "test" not in dataset.split:
        raise UserError(f"{settings.data_dir}: has no test split now; {path} was made when it had one")
    test = dataset.split["test"]
    ids, found = [dataset.ids[k] for k in test], table["profile_id"].tolist()
    if sorted(found) != sorted(ids):
        differing = sorted(set(found) ^ set(ids)) or [first_repeated(found)]
        raise UserError(
            f"{path}: its {len(found)} profiles are not the {len(ids)} test profiles of {settings.data_dir} "
            f"(first difference: profile_id {differing[0]!r}); {again}"
        )
    columns = table.set_index("profile_id").loc[ids, ["observed", "predicted"]].apply(pd.to_numeric, errors="coerce")
    observed, predicted = columns.to_numpy(np.float64).T
    if not np.allclose(observed, dataset.y[test], rtol=1e-4):
        raise UserError(f"{path}: the observed values are not those of {settings.data_dir} now; {again}")
    if not np.isfinite(predicted).all():
        raise UserError(f"{path}: {int((~np.isfinite(predicted)).sum())} predictions are not numbers; {again}")
    return dataset, _predict_pretrained(settings.checkpoint_path, dataset, again) | {NETWORK: predicted}


def _predict_pretrained(checkpoint: Path, dataset: Dataset, again: str) -> dict[str, np.ndarray]:
    if not checkpoint.is_file():
        return {}
    tuned = load_checkpoint(checkpoint)
    if tuned.specification.categories != dataset.categories:
        raise UserError(f"{checkpoint}: is not the model that made the predictions any more; {again}")
    recorded = tuned.record.settings
    origin = recorded.get("init_from") if isinstance(recorded, dict) else None
    if not isinstance(origin, str) or not Path(origin).is_file():
        return {}
    pretrained = load_checkpoint(origin)
    if pretrained.specification.statistics is None:  # the published file
        pretrained.respecify(statistics=tuned.specification.statistics, missing=tuned.specification.missing)
    for growth in tuned.record.growth[len(pretrained.record.growth) :]:  # it predicted as it does after growing
        pretrained = grow(pretrained, growth, tuned.specification.statistics, tuned.specification.classes)
    if pretrained.specification.categories != dataset.categories:
        return {}
    return {METHODS["pretrained"].label: predict(pretrained, dataset.x[dataset.split["test"]])[0]}


def score_run(region: str, dataset: Dataset, predicted: Mapping[str, np.ndarray], seed: int) -> pd.DataFrame:
    """Return a row per method, baselines first: region, method, n_train, n_test, and each score with its 95 % interval.

    Whole blocks are resampled where the dataset was split by blocks.
    Bootstrap draws are the same for every method, so their intervals differ by skill and not by luck.
    """
    train, test = np.concatenate([dataset.split["train"], dataset.split["valid"]]), dataset.split["test"]
    methods = {**predict_baselines(dataset, train, test, seed), **predicted}
    groups = test if dataset.blocks is None else dataset.blocks[test]
    table = pd.DataFrame({"observed": dataset.y[test], "group": groups, "n_train": len(train), **methods})
    return score_table({(region, "test"): table}, methods, seed, logs=False).drop(columns="strategy")


def _number(name: str, value: float) -> str:
    return "-" if value != value else f"{round(value, 2) + 0:.2f}" if name in ("r2", "ccc") or abs(value) < 10 else f"{value:.1f}"


def with_intervals(table: pd.DataFrame, unit: str) -> Table:
    """Return the table as formatted text, each score as "value [low, high]"."""
    header = ["region", "method", "n train", "n test"]
    header += [label if s in ("r2", "ccc") else f"{label} ({unit})" for s, label in SCORES.items()]
    rows = [
        [row["region"], row["method"], str(row["n_train"]), str(row["n_test"])]
        + [f"{_number(s, row[s])} [{_number(s, row[f'{s}_low'])}, {_number(s, row[f'{s}_high'])}]" for s in SCORES]
        for _, row in table.iterrows()
    ]
    return Table("", header, rows, [False] * 2 + [True] * 7)


def as_text(table: pd.DataFrame) -> str:
    """Return the table as aligned text, without intervals and ME."""
    shown = {name: label for name, label in SCORES.items() if name != "me"}
    numbers = table.assign(**{name: [_number(name, value) for value in table[name]] for name in shown})
    lines = [["region", "method", "n_train", "n_test", *shown.values()]]
    lines += numbers[["region", "method", "n_train", "n_test", *shown]].astype(str).to_numpy().tolist()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if k < 2 else cell.rjust(max(w, 7)) for k, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def against_mean(table: pd.DataFrame, unit: str) -> list[str]:
    """Return a sentence for each region where the network is no better than the mean of the training profiles."""
    lines = []
    for region, rows in table.groupby("region", sort=False):
        scores = rows.set_index("method")[["rmse", "mae"]].to_dict("index")
        if verdict := worse_than_mean(scores[NETWORK], scores[BASELINES["mean"].label], unit):
            lines.append(f"{region}: {NETWORK} is {verdict}")
    return lines


def change_against(table: pd.DataFrame, baseline: str, unit: str) -> str:
    """Return one line on the network's MAE and CCC against a baseline's, means of the regions; all its numbers are those shown."""
    scores = table.set_index(["region", "method"])[["mae", "ccc"]]
    ours, theirs = scores.xs(NETWORK, level="method"), scores.xs(baseline, level="method")
    mine, other = ours.mean(), theirs.mean()
    change, lower = 100 * (mine["mae"] / other["mae"] - 1), int((ours["mae"] < theirs["mae"]).sum())
    where = f"mean of {len(ours)} regions" if len(ours) > 1 else str(ours.index[0])
    count = f"; lower in {lower} of {len(ours)}" if len(ours) > 1 else ""
    return (
        f"{NETWORK} against {baseline}, {where}: MAE {_number('mae', mine['mae'])} against {_number('mae', other['mae'])} {unit} "
        f"({change:+.1f} %{count}), CCC {mine['ccc']:.2f} against {other['ccc']:.2f}"
    )
