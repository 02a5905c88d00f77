"""Results of a comparison in several regions: scores, paired differences, learning curves and coverage of prediction intervals.

In: the predictions of each run (`runs.held_out`) and the regions' datasets. Out: a `Comparison`, from which the report is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark.methods import Method
from soilcarbon.benchmark.network_variants import (
    AS_SET,
    CALIBRATED,
    INTERVALS,
    LEVELS,
    SELECTED_ON_TEST,
    SELECTED_ON_VALID,
    interval_columns,
)
from soilcarbon.benchmark.runs import Run
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.metrics import (
    SCORES,
    bootstrap_means,
    bootstrap_scores,
    mean_paired_differences,
    paired_differences,
    picp_table,
    scores,
)
from soilcarbon.training.uncertainty import FEWEST_GROUPS, fold_groups

if TYPE_CHECKING:
    from soilcarbon.benchmark.regions import Design

MEAN = "mean of regions"  # the name of the mean over regions in tables
TARGETS = {"SOC": "Soil organic carbon"}
_THIRDS = ("lowest", "middle", "highest")
_IN_CELL = 4  # profiles of one raster cell, at least, for the median of the others to say what a map could predict there
_DRAWS = 1000
_UNWRITTEN = ("predictions", "means")
_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))

Predictions = Mapping[tuple[str, str], pd.DataFrame]
"""(region, strategy) -> predictions of all folds, one under the other, with each profile's `group`."""


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison, in tables; all but `scores` may be empty."""

    target: str  # its name
    unit: str
    subject: str  # key of the method that the report is about
    methods: Mapping[str, Method]
    strongest: Mapping[str, str]  # strategy, in the order shown -> key of its strongest baseline; the verdict is of the last
    regions: Mapping[str, Mapping[str, Any]]  # region -> {fact: value}
    folds: Mapping[str, Mapping[str, Mapping[str, Any]]]  # strategy -> {fact: {region: value}}
    # region, strategy, method, n_train, n_test, and for each score s, and s_log, of ln(1 + target): s, s_low, s_high
    scores: pd.DataFrame
    # region (also `MEAN`), strategy, method, against; changes of mae and rmse in %, of ccc and r2 as they are, with _low, _high
    differences: pd.DataFrame
    curves: pd.DataFrame  # region, method, n_train, repeat, mae, rmse, ccc
    # region, strategy, method, level, stratum ("all" for all), n, coverage, low, high, mean_width, interval_score
    coverage: pd.DataFrame
    # region, strategy, profile_id, lon, lat, group (place or block), observed, predicted (by the subject), di, inside (0, 1; both
    # may be NaN)
    predictions: pd.DataFrame
    selection: pd.DataFrame  # region, score, chosen_on ("validation", "test"), value (mean over folds)
    # region, n, floor_mae, median_mae, subject_mae: of predicting a profile by the median of others in its cell, by that of the
    # region, and by the subject
    floor: pd.DataFrame
    notes: Sequence[str] = ()  # sentences for the reader
    settings: Mapping[str, Any] | None = None  # plain values
    command: str = ""  # that repeats it

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table that is written; each profile's predictions are with the runs."""
        return {name: table for name, table in vars(self).items() if isinstance(table, pd.DataFrame) and name not in _UNWRITTEN}

    @property
    def title(self) -> str:
        """Title of the page."""
        return f"{self.target}: the network compared with baselines"

    @property
    def last(self) -> str:
        """The strategy that the verdict is based on."""
        return list(self.strongest)[-1]

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean over regions of each score, indexed by strategy and method."""
        return self.scores.groupby(["strategy", "method"], sort=False)[list(SCORES)].mean()

    @cached_property
    def order(self) -> list[str]:
        """Methods by their MAE under the last strategy, the best first; those without one last."""
        mae = self.means.xs(self.last, level="strategy")["mae"].sort_values()
        return [*mae.index, *(key for key in self.scores["method"].unique() if key not in mae.index)]

    def label(self, method: str) -> str:
        """Return a method's label."""
        return self.methods[method].label if method in self.methods else method

    def change(self, strategy: str, method: str, region: str = MEAN) -> pd.Series | None:
        """Return the change from the strategy's strongest baseline to a method."""
        rows = self.differences
        if rows.empty:
            return None
        rows = rows[(rows["strategy"] == strategy) & (rows["method"] == method) & (rows["against"] == self.strongest[strategy])]
        found = rows[rows["region"] == region]
        return None if found.empty else found.iloc[0]

    def changes(self, score: str) -> pd.DataFrame:
        """Return strategy, method, value, low and high of each mean change; the strongest baseline's own is 0."""
        rows = []
        for strategy, reference in self.strongest.items():
            for key in self.order:
                if (row := self.change(strategy, key)) is not None:
                    rows.append((strategy, key, row[score], row[f"{score}_low"], row[f"{score}_high"]))
                elif key == reference and len(self.differences):
                    rows.append((strategy, key, 0.0, 0.0, 0.0))
        return pd.DataFrame(rows, columns=["strategy", "method", "value", "low", "high"])

    def held_out(self) -> pd.DataFrame:
        """Return the subject's predictions under the last strategy, with their absolute error and that of ln(1 + target)."""
        if self.predictions.empty:
            return pd.DataFrame()
        rows = self.predictions[self.predictions["strategy"] == self.last]
        logs = np.log1p(rows[["predicted", "observed"]].astype(float).clip(lower=0))
        error = (rows["predicted"] - rows["observed"]).abs()
        return rows.assign(error=error, relative=(logs["predicted"] - logs["observed"]).abs())

    def outside(self, regions: Sequence[str]) -> tuple[float, float, float]:
        """Return by how many % errors of ln(1 + target) are larger outside the area of applicability, and the 95 % interval.

        Mean of regions. On that scale a soil's level does not matter: outside may just be richer. Whole groups are resampled.
        """
        rows, found = self.held_out().dropna(subset="inside"), []
        for region in regions:
            here = rows[rows["region"] == region]
            inside, error = here["inside"].to_numpy(float), here["relative"].to_numpy(float)
            columns = np.stack([inside * error, inside, (1 - inside) * error, 1 - inside], axis=1)
            means = np.concatenate([columns.mean(0, keepdims=True), bootstrap_means(columns, here["group"].to_numpy(), 0, _DRAWS)])
            with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have none outside
                found.append(100 * (means[:, 2] / means[:, 3] / (means[:, 0] / means[:, 1]) - 1))
        change = np.mean(found, axis=0)
        drawn = change[1:][np.isfinite(change[1:])]
        low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
        return float(change[0]), float(low), float(high)

    def gains(self) -> tuple[str, str, pd.Series] | None:
        """Return a network, a baseline, and the change of MAE in % between their curves by region and n; None without both.

        They are the subject and the strongest baseline, or else those whose curves are lowest.
        """
        if self.curves.empty:
            return None
        means = self.curves.groupby(["method", "region", "n_train"], sort=False)["mae"].mean()
        overall = self.curves.groupby("method")["mae"].mean().sort_values()
        ordered = [key for key in (self.subject, self.strongest[self.last], *overall.index) if key in overall]
        networks = [key for key in ordered if self.methods[key].kind == "network"]
        others = [key for key in ordered if self.methods[key].kind != "network"]
        if not networks or not others:
            return None
        change = 100 * (means[networks[0]] / means[others[0]] - 1)
        return networks[0], others[0], change.dropna().sort_index()


def pooled(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return coverage, width and interval score of groups of rows, each row weighing as many profiles as it has."""
    names = ["coverage", "mean_width", "interval_score"]
    sums = rows[names].mul(rows["n"], axis=0).assign(n=rows["n"]).groupby([rows[name] for name in by], sort=False).sum()
    return sums[names].div(sums["n"], axis=0).assign(n=sums["n"]).reset_index()


# --- tables -----------------------------------------------------------------------------------------------------------


def gather(runs: Iterable[tuple[Run, pd.DataFrame]]) -> tuple[Predictions, pd.DataFrame]:
    """Put the folds of each region and strategy together, and score each run for the learning curves."""
    parts: dict[tuple[str, str], list[pd.DataFrame]] = {}
    curves = []
    for run, table in runs:
        if not run.curve:
            parts.setdefault((run.region, run.strategy), []).append(table)
        for method in run.methods:
            found = scores(table["observed"].to_numpy(), table[method].to_numpy())
            row = {"region": run.region, "strategy": run.strategy, "method": method, "n_train": int(table["n_train"].iloc[0])}
            draw = {"size": run.size, "repeat": f"{run.fold}-{run.draw}"}
            curves.append(row | draw | {name: found[name] for name in ("mae", "rmse", "ccc")})
    return {key: pd.concat(each, ignore_index=True) for key, each in parts.items()}, pd.DataFrame(curves)


def flat_scores(found: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Return scores with intervals as columns: s, s_low, s_high."""
    return {f"{name}{suffix}{end}": score[key] for name, score in found.items() if isinstance(score, dict) for end, key in _ENDS}


def score_table(found: Predictions, methods: Iterable[str], seed: int, logs: bool = True) -> pd.DataFrame:
    """Return a row per region, strategy and method: scores in the target's unit and, as `<score>_log`, of ln(1 + y)."""
    rows, scales = [], {"": np.asarray} | ({"_log": np.log1p} if logs else {})
    for (region, strategy), table in found.items():
        observed, groups = table["observed"].to_numpy(), table["group"].to_numpy()
        for method in (key for key in methods if key in table.columns):
            predicted = table[method].to_numpy()
            row: dict[str, Any] = {"region": region, "strategy": strategy, "method": method}
            row |= {"n_train": int(table["n_train"].mean()), "n_test": len(table)}
            for suffix, scale in scales.items():
                row |= flat_scores(bootstrap_scores(scale(observed), scale(predicted), seed, groups=groups), suffix)
            rows.append(row)
    columns = [f"{name}{suffix}{end}" for name in SCORES for suffix in scales for end, _ in _ENDS]
    return pd.DataFrame(rows).astype(dict.fromkeys(columns, float))


def find_strongest(table: pd.DataFrame, baselines: Iterable[str]) -> dict[str, str]:
    """Return strategy -> the baseline whose MAE is lowest, on average over regions relative to the region's best."""
    known = table[table["method"].isin(list(baselines))]
    relative = known["mae"] / known.groupby(["region", "strategy"])["mae"].transform("min")
    mean = relative.groupby([known["strategy"], known["method"]]).mean()
    return {strategy: str(mean[strategy].idxmin()) for strategy in known["strategy"].unique()}


def difference_table(found: Predictions, methods: Iterable[str], strongest: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Return every method's paired differences against its strategy's strongest baseline, per region and their mean."""
    rows, methods = [], list(methods)
    for strategy, reference in strongest.items():
        tables = {region: table for (region, its), table in found.items() if its == strategy}
        for method in (key for key in methods if key in next(iter(tables.values())).columns and key != reference):
            parts = {
                region: (t["observed"].to_numpy(), t[method].to_numpy(), t[reference].to_numpy(), t["group"].to_numpy())
                for region, t in tables.items()
            }
            changes = {region: paired_differences(*each[:3], seed, groups=each[3]) for region, each in parts.items()}
            changes[MEAN] = mean_paired_differences(list(parts.values()), seed)
            for region, change in changes.items():
                rows.append({"region": region, "strategy": strategy, "method": method, "against": reference} | flat_scores(change))
    return pd.DataFrame(rows).astype({f"{n}{e}": float for n in ("mae", "rmse", "ccc", "r2") for e, _ in _ENDS})


def coverage_table(found: Predictions, seed: int) -> pd.DataFrame:
    """Return the coverage of prediction intervals: of all, by thirds of the prediction, in and out of the area of applicability."""
    rows = []
    for (region, strategy), table in found.items():
        for method, predictor in INTERVALS.items():
            levels = [level for level in LEVELS if interval_columns(method, level)[0] in table.columns]
            levels = [level for level in levels if np.isfinite(table[[*interval_columns(method, level)]].to_numpy()).all()]
            if not levels:  # some fold held out too few profiles
                continue
            rank = table[predictor].rank(method="first", pct=True).to_numpy()
            strata = {"all": np.ones(len(table), bool)}
            strata |= {f"predicted {name} third": (rank > k / 3) & (rank <= (k + 1) / 3) for k, name in enumerate(_THIRDS)}
            if "inside" in table.columns:
                strata |= {f"{side} the area": table["inside"].to_numpy() == k for k, side in ((1, "inside"), (0, "outside"))}
            for stratum, chosen in strata.items():
                if not chosen.any():
                    continue
                part = table[chosen]
                intervals = {level: tuple(part[name].to_numpy() for name in interval_columns(method, level)) for level in levels}
                for row in picp_table(part["observed"].to_numpy(), intervals, groups=part["group"].to_numpy(), seed=seed):
                    rows.append(
                        {"region": region, "strategy": strategy, "method": method, "level": row["level"], "stratum": stratum} | row
                    )
    return pd.DataFrame(rows)


def selection_table(found: Predictions, strategy: str) -> pd.DataFrame:
    """Return the selection effect: mean scores of a network whose epoch is chosen on the validation or on the test profiles."""
    rows = []
    for (region, its), table in found.items():
        if its != strategy or SELECTED_ON_TEST not in table.columns:
            continue
        for chosen_on, method in (("validation", SELECTED_ON_VALID), ("test", SELECTED_ON_TEST)):
            folds = [scores(part["observed"].to_numpy(), part[method].to_numpy()) for _, part in table.groupby("fold")]
            for name in ("rmse", "mae", "r2", "ccc"):
                values = [value for each in folds if (value := each[name]) is not None]
                rows.append({"region": region, "score": name, "chosen_on": chosen_on, "value": float(np.mean(values))})
    return pd.DataFrame(rows)


def floor_table(regions: Mapping[str, Dataset], predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the error floor: the spread of profiles with identical covariates, which no map of these can distinguish.

    Of the profiles in cells with four or more: the mean absolute error of predicting each by the median of the others in its cell,
    by the median of the region, and by the subject where all were held out (`predictions` of one strategy, as in `Comparison`).
    """
    rows = []
    for region, data in regions.items():
        cells = np.nan_to_num(data.x, nan=float(np.finfo(np.float32).min))  # NaN is not equal to NaN
        _, cell, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        members = [np.flatnonzero(cell.ravel() == number) for number in np.flatnonzero(count >= _IN_CELL)]
        if not members:
            continue
        error = [abs(data.y[k] - np.median(data.y[each[each != k]])) for each in members for k in each]
        chosen = np.concatenate(members)
        row = {"region": region, "n": len(error), "floor_mae": float(np.mean(error))}
        row |= {"median_mae": float(np.abs(data.y[chosen] - np.median(data.y)).mean()), "subject_mae": np.nan}
        if len(predictions):
            here = predictions[predictions["region"] == region].set_index("profile_id")
            held_out = here.reindex([data.ids[k] for k in chosen])
            row["subject_mae"] = float((held_out["predicted"] - held_out["observed"]).abs().mean(skipna=False))
        rows.append(row)
    return pd.DataFrame(rows)


def learning_curves(curves: pd.DataFrame, design: "Design") -> pd.DataFrame:
    """Return scores over the number of training profiles: the draws, and for all profiles the folds."""
    if curves.empty or not design.sizes:
        return pd.DataFrame()
    chosen = curves[(curves["strategy"] == design.strategies[-1]) & curves["method"].isin(design.few_methods)]
    whole = chosen["size"] == 0  # folds differ a little in what they leave
    most = chosen["n_train"].where(whole).groupby(chosen["region"]).transform("mean")
    return chosen.assign(n_train=chosen["n_train"].where(~whole, most).round().astype(int)).drop(columns=["strategy", "size"])


# --- all of them ------------------------------------------------------------------------------------------------------


def _notes(table: pd.DataFrame, last: str, regions: Mapping[str, Dataset]) -> list[str]:
    numbers = table.loc[table["strategy"] == last, "n_train"]
    count = f"{numbers.min():,}" if numbers.min() == numbers.max() else f"{numbers.min():,} to {numbers.max():,}"
    groups = {name: len(np.unique(fold_groups(data))) for name, data in regions.items()}
    few = [f"{name} ({n})" for name, n in groups.items() if n < FEWEST_GROUPS]
    return [
        f"Training profiles of each fold: {count} of the region; all others are held out or not used.",
        *([f"Few blocks, so wide intervals, and prediction intervals calibrated on profiles: {', '.join(few)}."] if few else []),
        "Pretraining is done again for every region without any place, or block, of its profiles.",
        "Intervals of scores and differences resample whole blocks, the same ones for all methods.",
        "Baselines are tuned by inner folds of whole blocks.",
    ]


def summarise(
    design: "Design", runs: Iterable[tuple[Run, pd.DataFrame]], regions: Mapping[str, Dataset],
    folds: Mapping[tuple[str, str], Mapping[str, Any]], target: tuple[str, str], settings: Mapping[str, Any], command: str,
) -> Comparison:  # fmt: skip
    """Make the tables of all finished runs; `folds`: (region, strategy) -> facts of its folds; `target`: its title and unit."""
    found, curves = gather(runs)
    methods = {**design.known, "quantile_forest_calibrated": CALIBRATED}
    table = score_table(found, methods, design.seed)
    best = find_strongest(table, [key for key, each in methods.items() if each.kind == "baseline"])
    strongest = {strategy: best[strategy] for strategy in design.strategies}
    last, compared = design.strategies[-1], set(table["method"])
    subject = next((key for key in (AS_SET, "tuned", *methods) if key in compared and methods[key].kind != "baseline"), AS_SET)
    names = {"median_km": "median distance (km)", "block_size": "block side (degrees)", "blocks": "blocks", "w_km": "W (km)"}
    facts = {
        strategy: {
            words: {region: folds[region, strategy].get(fact) for region in regions}
            for fact, words in names.items()
            if any(fact in folds[region, strategy] for region in regions)
        }
        for strategy in design.strategies
    }
    columns = ["profile_id", "lon", "lat", "group", "observed", "di", "inside"]
    predictions = [
        t.reindex(columns=columns).assign(region=region, strategy=strategy, predicted=t[subject])
        for (region, strategy), t in found.items()
        if subject in t
    ]
    predicted = pd.concat(predictions, ignore_index=True) if predictions else pd.DataFrame()
    name = TARGETS.get(target[0], target[0])
    return Comparison(
        target=name,
        unit=target[1],
        subject=subject,
        methods=methods,
        strongest=strongest,
        regions={name: {"profiles": len(data.y), "blocks": len(np.unique(fold_groups(data)))} for name, data in regions.items()},
        folds=facts,
        scores=table,
        differences=difference_table(found, methods, strongest, design.seed),
        curves=learning_curves(curves, design),
        coverage=coverage_table(found, design.seed),
        predictions=predicted,
        selection=selection_table(found, last),
        floor=floor_table(regions, predicted[predicted["strategy"] == last] if len(predicted) else predicted),
        notes=_notes(table, last, regions),
        settings=settings,
        command=command,
    )
