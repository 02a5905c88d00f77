"""What a comparison found: finished trials into the tables of its report.

In: each trial's table of predictions, the regions' datasets. Out: scores, paired differences against the strongest
baseline, learning curves, coverage, what peeking at the test profiles flatters, and the floor below which no map of these
covariates goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark.comparison import MEAN, Comparison
from soilcarbon.benchmark.network_variants import AS_SET, CONTENDERS
from soilcarbon.benchmark.trials import HONEST, INTERVALS, LEVELS, PEEKED, Trial, ends
from soilcarbon.benchmark.tuning import BASELINES
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.metrics import SCORES, bootstrap_scores, mean_paired_differences, paired_differences, picp_table, scores
from soilcarbon.stats.spatial_cv import STRATEGIES
from soilcarbon.training.distillation import fold_units
from soilcarbon.training.uncertainty import FEWEST_UNITS

TARGETS = {"soc": "Soil organic carbon"}
"""The target's column in words."""
THIRDS = ("lowest", "middle", "highest")
CROWD = 4
"""Profiles of one raster cell, at least, for the median of the others to say what a map could know there."""

Found = Mapping[tuple[str, str], pd.DataFrame]
"""(region, way) -> all folds' predictions, one under the other, with each profile's `unit`."""


def gather(trials: Iterable[tuple[Trial, pd.DataFrame]], regions: Mapping[str, Dataset]) -> tuple[Found, pd.DataFrame]:
    """Put the folds of each region and way together, and score the trials of learning curves."""
    parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    curves = []
    for trial, table in trials:
        data = regions[trial.region]
        unit_of = dict(zip(data.ids, fold_units(data).tolist(), strict=True))
        table = table.assign(unit=[unit_of[each] for each in table["profile_id"]], fold=trial.fold)
        if not trial.curve:
            parts.setdefault((trial.region, trial.way), []).append(table)
        for method in trial.methods:
            found = scores(table["observed"].to_numpy(), table[method].to_numpy())
            row = {"region": trial.region, "way": trial.way, "method": method, "n_train": int(table["n_train"].iloc[0])}
            draw = {"size": trial.size, "repeat": f"{trial.fold}-{trial.repeat}"}
            curves.append(row | draw | {name: found[name] for name in ("mae", "rmse", "ccc")})
    return {key: pd.concat(each, ignore_index=True) for key, each in parts.items()}, pd.DataFrame(curves)


def score_table(found: Found, seed: int) -> pd.DataFrame:
    """Return a row per region, way and method: scores in the target's unit and, as `<score>_log`, of ln(1 + y)."""
    rows = []
    for (region, way), table in found.items():
        observed, units = table["observed"].to_numpy(), table["unit"].to_numpy()
        for method in _methods(table):
            predicted = table[method].to_numpy()
            row: dict[str, Any] = {"region": region, "way": way, "method": method}
            row |= {"n_train": int(table["n_train"].mean()), "n_test": len(table)}
            for ending, pair in (("", (observed, predicted)), ("_log", (np.log1p(observed), np.log1p(predicted)))):
                for name, score in bootstrap_scores(*pair, seed, groups=units).items():
                    if isinstance(score, dict):
                        row |= {
                            f"{name}{ending}{end}": score[key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
                        }
            rows.append(row)
    table = pd.DataFrame(rows)
    columns = [f"{name}{ending}{end}" for name in SCORES for ending in ("", "_log") for end in ("", "_low", "_high")]
    return table.astype(dict.fromkeys(columns, float))


def _methods(table: pd.DataFrame) -> list[str]:
    return [name for name in (*BASELINES, *CONTENDERS) if name in table.columns]


def strongest(table: pd.DataFrame) -> dict[str, str]:
    """Return way -> the baseline whose MAE is lowest, on average over regions relative to the region's best."""
    known = table[table["method"].isin(list(BASELINES))]
    relative = known["mae"] / known.groupby(["region", "way"])["mae"].transform("min")
    mean = relative.groupby([known["way"], known["method"]]).mean()
    return {way: str(mean[way].idxmin()) for way in known["way"].unique()}


def difference_table(found: Found, rivals: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Return every method's paired differences against its way's strongest baseline, per region and their mean."""
    rows = []
    for way, rival in rivals.items():
        tables = {region: table for (region, its), table in found.items() if its == way}
        for method in _methods(next(iter(tables.values()))):
            if method == rival:
                continue
            parts = {
                region: (t["observed"].to_numpy(), t[method].to_numpy(), t[rival].to_numpy(), t["unit"].to_numpy())
                for region, t in tables.items()
            }
            changes = {region: paired_differences(*each[:3], seed, groups=each[3]) for region, each in parts.items()}
            changes[MEAN] = mean_paired_differences(list(parts.values()), seed)
            for region, change in changes.items():
                row = {"region": region, "way": way, "method": method, "against": rival}
                ends_ = (("", "value"), ("_low", "low"), ("_high", "high"))
                rows.append(row | {f"{name}{end}": score[key] for name, score in change.items() for end, key in ends_})
    return pd.DataFrame(rows).astype({f"{n}{e}": float for n in ("mae", "rmse", "ccc", "r2") for e in ("", "_low", "_high")})


def coverage_table(found: Found, seed: int) -> pd.DataFrame:
    """Return how often intervals held the truth: of all, by thirds of the prediction, in and out of the area of applicability."""
    rows = []
    for (region, way), table in found.items():
        for method, predictor in INTERVALS.items():
            levels = [level for level in LEVELS if ends(method, level)[0] in table.columns]
            levels = [level for level in levels if np.isfinite(table[[*ends(method, level)]].to_numpy()).all()]
            if not levels:  # some fold held out too few profiles
                continue
            rank = table[predictor].rank(method="first", pct=True).to_numpy()
            strata = {f"predicted {name} third": (rank > k / 3) & (rank <= (k + 1) / 3) for k, name in enumerate(THIRDS)}
            if "inside" in table.columns:
                strata |= {"inside the area": table["inside"].to_numpy() == 1, "outside the area": table["inside"].to_numpy() == 0}
            for stratum, chosen in {"all": np.ones(len(table), bool), **strata}.items():
                if not chosen.any():
                    continue
                part = table[chosen]
                intervals = {level: tuple(part[name].to_numpy() for name in ends(method, level)) for level in levels}
                for row in picp_table(part["observed"].to_numpy(), intervals, groups=part["unit"].to_numpy(), seed=seed):
                    rows.append({"region": region, "way": way, "method": method, "level": row["level"], "stratum": stratum} | row)
    return pd.DataFrame(rows)


def selection_table(found: Found, way: str) -> pd.DataFrame:
    """Return what choosing the best epoch on the test profiles flatters: scores of one network under both, mean over folds."""
    rows = []
    for (region, its), table in found.items():
        if its != way or PEEKED not in table.columns:
            continue
        for chosen_on, method in (("validation", HONEST), ("test", PEEKED)):
            folds = [scores(part["observed"].to_numpy(), part[method].to_numpy()) for _, part in table.groupby("fold")]
            for name in ("rmse", "mae", "r2", "ccc"):
                values = [value for each in folds if (value := each[name]) is not None]
                rows.append({"region": region, "score": name, "chosen_on": chosen_on, "value": float(np.mean(values))})
    return pd.DataFrame(rows)


def floor_table(regions: Mapping[str, Dataset]) -> pd.DataFrame:
    """Return how far profiles differ that share all their covariates: no map of these covariates tells them apart.

    Of cells with `CROWD` profiles or more: the mean absolute error of predicting each by the median of the others in its
    cell, and by the median of the region.
    """
    rows = []
    for region, data in regions.items():
        cells = np.nan_to_num(data.x, nan=float(np.finfo(np.float32).min))  # NaN is not equal to NaN
        _, cell, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        error, plain = [], []
        for number in np.flatnonzero(count >= CROWD):
            values = data.y[cell.ravel() == number]
            error += [abs(value - np.median(np.delete(values, k))) for k, value in enumerate(values)]
            plain += np.abs(values - np.median(data.y)).tolist()
        if error:
            rows.append(
                {"region": region, "n": len(error), "floor_mae": float(np.mean(error)), "median_mae": float(np.mean(plain))}
            )
    return pd.DataFrame(rows)


def learning_curves(curves: pd.DataFrame, settings: CompareSettings) -> pd.DataFrame:
    """Return scores over the number of profiles learnt from: the draws, and for all profiles the folds."""
    if curves.empty or not settings.sizes:
        return pd.DataFrame()
    chosen = curves[(curves["way"] == settings.ways[-1]) & curves["method"].isin(settings.curve_methods)]
    whole = chosen["size"] == 0  # folds differ a little in what they leave
    most = chosen["n_train"].where(whole).groupby(chosen["region"]).transform("mean")
    return chosen.assign(n_train=chosen["n_train"].where(~whole, most).round().astype(int)).drop(columns=["way", "size"])


def _learnt_from(table: pd.DataFrame, way: str) -> str:
    numbers = table.loc[table["way"] == way, "n_train"]
    count = f"{numbers.min():,}" if numbers.min() == numbers.max() else f"{numbers.min():,} to {numbers.max():,}"
    return f"In each fold every method learnt from {count} profiles of the region; all others of it were held out or not used."


def _few_blocks(regions: Mapping[str, Dataset]) -> list[str]:
    """Say in which regions an interval of a score rests on few blocks, and those of predictions on profiles."""
    counts = {name: len(np.unique(fold_units(data))) for name, data in regions.items()}
    few = [f"{name} ({n})" for name, n in counts.items() if n < FEWEST_UNITS]
    words = f"Few blocks, so wide and rough intervals, and those of predictions calibrated on profiles instead: {', '.join(few)}."
    return [words] if few else []


def _other_champions(table: pd.DataFrame, way: str, rival: str, methods: Mapping[str, Mapping[str, str]]) -> str:
    """Say which baselines lead in other scores: the strongest in MAE aims at the median, which costs concordance."""
    known = table[(table["way"] == way) & table["method"].isin(list(BASELINES))]
    mean = known.groupby("method")[["rmse", "ccc", "r2"]].mean()
    best = {"RMSE": mean["rmse"].idxmin(), "CCC": mean["ccc"].idxmax(), "R2": mean["r2"].idxmax()}
    words = ", ".join(f"{score} {methods[key]['label']}" for score, key in best.items())
    return f"Strongest means lowest MAE ({methods[rival]['label']}). Of the baselines, the best in other scores are: {words}."


def compare(
    settings: CompareSettings, trials: Sequence[tuple[Trial, pd.DataFrame]], regions: Mapping[str, Dataset],
    folds: Mapping[tuple[str, str], Mapping[str, Any]], target: tuple[str, str], how: str,
) -> Comparison:  # fmt: skip
    """Make the report's tables of all finished trials.

    Parameters
    ----------
    settings
        Of the comparison.
    trials
        Each with its table.
    regions
        Name -> dataset.
    folds
        (region, way) -> what its folds are.
    target, how
        The target and its unit, and the command.
    """
    found, curves = gather(trials, regions)
    name, unit = TARGETS.get(target[0], target[0]), target[1]
    table = score_table(found, settings.seed)
    rivals = strongest(table)
    ways: dict[str, dict[str, Any]] = {}
    for way in settings.ways:
        ways[way] = {
            "reason": STRATEGIES[way],
            "median distance (km)": {name: round(folds[name, way]["median_km"], 1) for name in regions},
        }
        for fact, words in (("block_size", "block side (degrees)"), ("blocks", "blocks"), ("w_km", "w_km")):
            if any(fact in folds[name, way] for name in regions):
                ways[way][words] = {name: folds[name, way].get(fact) for name in regions}
    last = settings.ways[-1]
    compared = set(table["method"])
    about = next((key for key in (AS_SET, "tuned", *CONTENDERS) if key in compared), AS_SET)  # what the report is about
    columns = ["profile_id", "lon", "lat", "unit", "observed", "di", "inside"]
    predictions = [
        t.reindex(columns=columns).assign(region=region, way=way, predicted=t[about])
        for (region, way), t in found.items()
        if about in t
    ]
    methods = {key: {"label": each.label, "kind": "baseline", "meaning": each.meaning} for key, each in BASELINES.items()}
    methods |= {key: {"label": each.label, "kind": each.kind, "meaning": each.meaning} for key, each in CONTENDERS.items()}
    methods["quantile_forest_calibrated"] = {
        "label": "quantile forest, calibrated",
        "kind": "baseline",
        "meaning": "its intervals conformalised on inner folds",
    }
    facts = {
        "title": f"{name}: the network against every baseline",
        "target": name,
        "unit": unit,
        "winner": about,
        "strongest": rivals,
        "regions": {name: {"profiles": len(data.y), "blocks": len(np.unique(fold_units(data)))} for name, data in regions.items()},
        "ways": ways,
        "settings": settings.as_plain(),
        "methods": methods,
        "notes": [
            _learnt_from(table, last),
            *_few_blocks(regions),
            _other_champions(table, last, rivals[last], methods),
            "Pretraining is done again for every region without any place, or block, of its profiles.",
            "Intervals of scores and differences resample whole blocks, the same ones for all methods.",
            "All baselines are tuned by inner folds of whole blocks, with the same number of candidates.",
        ],
        "how": how,
    }
    return Comparison(
        facts,
        table,
        differences=difference_table(found, rivals, settings.seed),
        curves=learning_curves(curves, settings),
        coverage=coverage_table(found, settings.seed),
        predictions=pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame(),
        selection=selection_table(found, last),
        floor=floor_table(regions),
    )
