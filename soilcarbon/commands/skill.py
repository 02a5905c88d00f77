"""Set finished runs beside a mean predictor and regional random forests, on the same splits.

    soilcarbon skill --runs anhui switzerland denmark australia

In: results/<run>/predictions.csv and settings.yaml, as `pred.py --on test` leaves them, and the datasets they name.
Out: results/skill/table.csv, table.md and skill.png, and the table on the screen.

Every method is scored on the run's test profiles, which none has seen. The mean and the forests are fitted to the
training and validation profiles together: they have no epoch to choose, the network does and uses the latter for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, read_table, read_yaml, write_table, write_text
from soilcarbon.settings import PredictSettings, Settings, build

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.soil.dataset import Dataset


class SkillSettings(Settings):
    """One table of the skill of finished runs."""

    runs: list[str] = Field(description="runs that pred.py has evaluated on their test split", min_length=1)
    results_dir: Path = Field(Path("results"), description="folder that holds <run>/ of each")
    out: Path = Field(Path("results/skill"), description="folder of the table and its figure")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of forests and bootstrap")


UNIT = "g/kg"
TREES = 500
"""Of each forest."""
NETWORK, PRETRAINED, FOREST, LOG_FOREST = "network", "network, not fine-tuned", "forest", "forest, log"
LABELS = {"rmse": "RMSE", "mae": "MAE", "me": "ME", "r2": "R2", "ccc": "CCC"}
IN_UNIT = ("rmse", "mae", "me")


def predict_baselines(dataset: "Dataset", rows: "np.ndarray", test: "np.ndarray", seed: int) -> "dict[str, np.ndarray]":
    """Fit each baseline to a dataset's rows, as it comes, and return method -> (m,) predictions of the test rows."""
    from soilcarbon.benchmark.baselines import Known, Mean, Method
    from soilcarbon.benchmark.forests import Forest
    from soilcarbon.training.distillation import fold_units

    profiles = Known(dataset.x, dataset.y, dataset.lon, dataset.lat, fold_units(dataset))
    methods: dict[str, Method] = {
        "mean": Mean(),
        FOREST: Forest(trees=TREES, n_jobs=-1),
        LOG_FOREST: Forest(trees=TREES, n_jobs=-1, log=True),
    }
    return {name: method.fit(profiles.take(rows), seed).predict(profiles.take(test)) for name, method in methods.items()}


def read_run(folder: Path) -> "tuple[Dataset, dict[str, np.ndarray]]":
    """Read a finished run: its dataset, and predictions (m,) of its test profiles in the split's order.

    They are the network's, and those of the network it was fine-tuned from, where the run's checkpoint names one that
    is still there.

    Raises
    ------
    UserError
        If the run has not been evaluated on the test profiles that its dataset has now.
    """
    import numpy as np
    import pandas as pd

    from soilcarbon.soil.dataset import read_dataset

    for name in ("settings.yaml", "predictions.csv"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; run pred.py for {folder.name} (--on test) first")
    values = read_yaml(folder / "settings.yaml")
    settings = build(PredictSettings, values, str(folder / "settings.yaml"))
    again = f"run python pred.py --config {folder / 'settings.yaml'} --on test"
    table = read_table(folder / "predictions.csv", ("profile_id", "observed", "predicted"))
    if settings.on != "test":
        raise UserError(f"{folder / 'predictions.csv'}: made with --on {settings.on}, not on the test profiles; {again}")
    dataset = read_dataset(settings.data_dir, settings.categories, target=settings.target, layout=settings.layout)
    test = dataset.split["test"]
    ids = [dataset.ids[k] for k in test]
    found = table["profile_id"].tolist()
    if sorted(found) != sorted(ids):
        strangers = sorted(set(found) ^ set(ids)) or [next(name for name in found if found.count(name) > 1)]
        raise UserError(
            f"{folder / 'predictions.csv'}: its {len(found)} profiles are not the {len(ids)} test profiles of {settings.data_dir} "
            f"(first difference: profile_id {strangers[0]!r}); {again}"
        )
    columns = table.set_index("profile_id").loc[ids, ["observed", "predicted"]].apply(pd.to_numeric, errors="coerce")
    observed, predicted = columns.to_numpy(np.float64).T
    if not np.allclose(observed, dataset.y[test], rtol=1e-4):
        raise UserError(f"{folder / 'predictions.csv'}: the observed values are not those of {settings.data_dir} now; {again}")
    if not np.isfinite(predicted).all():
        raise UserError(
            f"{folder / 'predictions.csv'}: {int((~np.isfinite(predicted)).sum())} predictions are not numbers; {again}"
        )
    return dataset, _predict_pretrained(settings.checkpoint_path, dataset, again) | {NETWORK: predicted}


def _predict_pretrained(checkpoint: Path, dataset: "Dataset", again: str) -> "dict[str, np.ndarray]":
    from soilcarbon.network.network import load_checkpoint
    from soilcarbon.training.loop import predict

    if not checkpoint.is_file():
        return {}
    tuned = load_checkpoint(checkpoint)
    if tuned.specification.categories != dataset.categories:
        raise UserError(f"{checkpoint}: is not the model that made the predictions any more; {again}")
    said = tuned.record.get("settings")
    origin = said.get("init_from") if isinstance(said, dict) else None
    if not isinstance(origin, str) or not Path(origin).is_file():
        return {}
    pretrained = load_checkpoint(origin)
    if pretrained.specification.statistics is None:  # the published file
        pretrained.respecify(statistics=tuned.specification.statistics, missing=tuned.specification.missing)
    return {PRETRAINED: predict(pretrained, dataset.x[dataset.split["test"]])[0]}


def score_methods(region: str, dataset: "Dataset", predicted: "dict[str, np.ndarray]", seed: int) -> "pd.DataFrame":
    """Return a row per method, baselines first: region, method, n_train, n_test, and each score with its 95 % interval.

    Whole blocks are resampled where the dataset was split by blocks.
    Bootstrap draws are the same for every method, so their intervals differ by skill and not by luck.
    """
    import numpy as np
    import pandas as pd

    from soilcarbon.stats.metrics import bootstrap_scores

    fitted, test = np.concatenate([dataset.split["train"], dataset.split["valid"]]), dataset.split["test"]
    methods = predict_baselines(dataset, fitted, test, seed) | predicted
    units = None if dataset.blocks is None else dataset.blocks[test]
    rows = []
    for method, values in methods.items():
        row: dict[str, object] = {"region": region, "method": method, "n_train": len(fitted), "n_test": len(test)}
        for name, score in bootstrap_scores(dataset.y[test], values, seed, groups=units).items():
            if isinstance(score, dict):
                row |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
        rows.append(row)
    return pd.DataFrame(rows).astype({f"{name}{end}": float for name in LABELS for end in ("", "_low", "_high")})


def _number(name: str, value: float) -> str:
    return "-" if value != value else f"{round(value, 2) + 0:.2f}" if name in ("r2", "ccc") or abs(value) < 10 else f"{value:.1f}"


def as_markdown(table: "pd.DataFrame") -> str:
    """Return the table in Markdown, each score as "value [low, high]"."""
    lines = [
        ["region", "method", "n train", "n test", *(label + (f" ({UNIT})" if s in IN_UNIT else "") for s, label in LABELS.items())]
    ]
    lines.append(["---"] * len(lines[0]))
    for _, row in table.iterrows():
        cells = [f"{_number(s, row[s])} [{_number(s, row[s + '_low'])}, {_number(s, row[s + '_high'])}]" for s in LABELS]
        lines.append([row["region"], row["method"], str(row["n_train"]), str(row["n_test"]), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_text(table: "pd.DataFrame") -> str:
    """Return the table as aligned text, without intervals and ME."""
    shown = [name for name in LABELS if name != "me"]
    lines = [["region", "method", "n_train", "n_test", *(LABELS[s] for s in shown)]]
    for _, row in table.iterrows():
        lines.append([row["region"], row["method"], str(row["n_train"]), str(row["n_test"]), *(_number(s, row[s]) for s in shown)])
    wide, broad = (max(len(line[k]) for line in lines) for k in (0, 1))
    return "".join(f"{line[0]:{wide}}  {line[1]:{broad}}" + "".join(f"{cell:>9}" for cell in line[2:]) + "\n" for line in lines)


def change_against(table: "pd.DataFrame", baseline: str) -> str:
    """Say how the network's MAE and CCC differ from a baseline's, on average over the regions."""
    scores = table.set_index(["region", "method"])[["mae", "ccc"]]
    ours, theirs = scores.xs(NETWORK, level="method"), scores.xs(baseline, level="method")
    change = 100 * (ours["mae"] / theirs["mae"] - 1)
    mine, other = ours["ccc"].mean(), theirs["ccc"].mean()
    share = f" ({100 * (mine / other - 1):+.1f} %)" if other > 0 else ""
    return (
        f"{NETWORK} against {baseline}, mean of {len(ours)} region(s): MAE {change.mean():+.1f} % (lower in {(change < 0).sum()}), "
        f"CCC {mine:.3f} against {other:.3f}{share}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare finished runs with baselines."""
    settings = read_settings(SkillSettings, __doc__, arguments, "soilcarbon skill")
    import pandas as pd
    from tqdm import tqdm

    from soilcarbon.figures import skill_bars

    runs = {name: read_run(settings.results_dir / name) for name in dict.fromkeys(settings.runs)}
    check_writable(settings.out)
    progress = tqdm(list(runs), "baselines", unit="region", disable=None, leave=False)
    table = pd.concat([score_methods(name, *runs[name], settings.seed) for name in progress], ignore_index=True)
    changes = [change_against(table, baseline) for baseline in (FOREST, LOG_FOREST)]
    write_table(settings.out / "table.csv", table)
    write_text(settings.out / "table.md", as_markdown(table) + "\n" + "".join(f"- {line}\n" for line in changes))
    skill_bars(settings.out / "skill.png", table, UNIT)
    settings.write(settings.out / "settings.yaml")
    print(f"{as_text(table)}\n{chr(10).join(changes)}\nRMSE and MAE in {UNIT}; intervals, ME and a figure: {settings.out}")
