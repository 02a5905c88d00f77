"""Ranking of methods on one dataset: one table, one verdict made from its numbers, one figure, and the report.

In: predictions of all methods for the same profiles held out. Out: a `Ranking`, report.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import norm, t

from soilcarbon.benchmark import figures as draw
from soilcarbon.benchmark.methods import CONSTANTS, Method
from soilcarbon.benchmark.report import OUTCOMES, bounds, in_percent, outcome_of
from soilcarbon.benchmark.report import SCORES as TITLES
from soilcarbon.benchmark.runs import Ledger
from soilcarbon.html import Block, Code, FigureFolder, Items, Note, Section, Strong, Table, fixed
from soilcarbon.html import write_report as write_page
from soilcarbon.regression.selection import SCORES, score_errors
from soilcarbon.stats import metrics
from soilcarbon.stats.spatial_cv import STRATEGIES
from soilcarbon.training.uncertainty import FEWEST_GROUPS

if TYPE_CHECKING:
    from soilcarbon.benchmark.own_data import Design, OwnPlan

FILES = ("scores.csv", "predictions.csv", "report.html")
_SHOWN = SCORES[:4]
_FIGURE = "methods"


@dataclass(frozen=True)
class Ranking:
    """Scores of methods on one dataset; the verdict is based on the last strategy."""

    name: str  # of the dataset
    target: str
    unit: str
    methods: Mapping[str, Method]
    # A row per strategy and method, in the order of methods: strategy, method, label, kind, n, groups, folds, repeats; each of
    # `SCORES` with `_se`, its standard error over folds; against, the strategy's strongest baseline, and change, change_low,
    # change_high, the change of MAE from it in % with a paired 95 % interval; the same from the mean of the training profiles,
    # as of_mean.
    scores: pd.DataFrame
    predictions: Mapping[str, pd.DataFrame]  # strategy -> what every method predicts, as `own_data.gather` returns it
    facts: Mapping[str, Mapping[str, Any]]  # strategy -> facts of its folds
    notes: Sequence[str]  # what was left out, and other sentences for the reader
    ratio: float  # computing time in cross-validations of a default forest
    limit: float  # of the ratio
    settings: Mapping[str, Any]  # plain values
    command: str  # that repeats it

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table that is written."""
        parts = [table.drop(columns="group").assign(strategy=each) for each, table in self.predictions.items()]
        return {"scores": self.scores, "predictions": pd.concat(parts, ignore_index=True)}

    @property
    def strategies(self) -> list[str]:
        """Strategies, the one that the verdict is based on last."""
        return list(dict.fromkeys(self.scores["strategy"]))

    @property
    def last(self) -> pd.DataFrame:
        """The rows of the last strategy by method, the lowest MAE first."""
        rows = self.scores[self.scores["strategy"] == self.strategies[-1]]
        return rows.sort_values("mae", kind="stable").set_index("method")

    @property
    def spent(self) -> str:
        """Computing time as text."""
        most = f" (at most {self.limit:g})" if np.isfinite(self.limit) else ""
        return f"computing time: {self.ratio:.1f} times that of a default forest's cross-validation{most}"


def score_table(found: Mapping[str, pd.DataFrame], methods: Mapping[str, Method], seed: int) -> pd.DataFrame:
    """Return `Ranking.scores` of the predictions of each strategy, as `own_data.gather` returns them."""
    rows = []
    for strategy, table in found.items():
        keys = [key for key in methods if key in table.columns]
        observed, mean = table["observed"].to_numpy(), table[CONSTANTS[0]].to_numpy()
        error = {key: float((table[key] - observed).abs().mean()) for key in keys}
        strongest = min((key for key in keys if methods[key].kind == "baseline"), key=error.__getitem__)
        reference = table[strongest].to_numpy()
        for key in keys:
            ours = table[key].to_numpy()
            row: dict[str, Any] = {"strategy": strategy, "method": key, "label": methods[key].label, "kind": methods[key].kind}
            row |= {"n": table["profile_id"].nunique(), "groups": table["group"].nunique()}
            row |= {"folds": table["fold"].nunique(), "repeats": table["repeat"].nunique()}
            row |= _scores(table, key) | {"against": strongest}
            row |= _change("change", table, observed, ours, reference, seed) | _change("of_mean", table, observed, ours, mean, seed)
            rows.append(row)
    numbers = [f"{name}{end}" for name in SCORES for end in ("", "_se")]
    numbers += [f"{name}{end}" for name in ("change", "of_mean") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _scores(table: pd.DataFrame, key: str) -> dict[str, Any]:
    """Return scores over all repeats, each with the standard error over folds that one repeat has."""
    found = metrics.scores(table["observed"].to_numpy(), table[key].to_numpy())
    errors = [score_errors(*(part[name].to_numpy() for name in ("observed", key, "fold"))) for _, part in table.groupby("repeat")]
    row: dict[str, Any] = {}
    for name in SCORES:
        row |= {name: found[name], f"{name}_se": float(np.sqrt(np.mean([each[name] ** 2 for each in errors])))}
    return row


def _change(
    name: str, table: pd.DataFrame, observed: np.ndarray, ours: np.ndarray, theirs: np.ndarray, seed: int
) -> dict[str, float | None]:
    """Return the paired change of MAE in % and its interval, wider where there are few groups."""
    groups = table["group"].to_numpy()
    found = metrics.paired_differences(observed, ours, theirs, seed, groups=groups)["mae"]
    value, low, high = found["value"], found["low"], found["high"]
    if value is None or low is None or high is None or (count := np.unique(groups).size) < 2:
        return {name: value, f"{name}_low": None, f"{name}_high": None}
    wider = few_groups_factor(count)
    return {name: value, f"{name}_low": value - wider * (value - low), f"{name}_high": value + wider * (high - value)}


def few_groups_factor(groups: int) -> float:
    """Return by how much a percentile interval of a bootstrap of so many groups is too narrow.

    The bootstrap's variance lacks the factor n / (n - 1), and its quantiles are the normal's instead of Student's (Hesterberg 2015,
    The American Statistician 69, 371-386).

    >>> [round(few_groups_factor(n), 2) for n in (5, 10, 40, 1000)]
    [1.58, 1.22, 1.05, 1.0]
    """
    return float(t.ppf(0.975, groups - 1) / norm.ppf(0.975) * np.sqrt(groups / (groups - 1)))


# --- verdict ------------------------------------------------------------------------------------------------------------------


def verdict(ranking: Ranking) -> str:
    """Return the result in a sentence or two, from the table's rows of the last strategy."""
    rows, where = ranking.last, STRATEGIES[ranking.strategies[-1]].title
    best = next(key for key in rows.index if key not in CONSTANTS)
    row, gap = rows.loc[best], in_percent(rows.loc[best], "of_mean")
    name = f"{row['label']} ({where})"
    lowest = f"the lowest MAE has {name}, {gap} from the mean's"
    mean, median = (float(rows.at[key, "mae"]) for key in CONSTANTS)
    if row["mae"] >= mean or outcome_of(row, "of_mean") != "better":
        clearly = "" if row["mae"] >= mean else "clearly "
        return f"No method is {clearly}better than the mean of the training profiles: {lowest}."
    if row["mae"] >= median:
        constant = "the median of the training profiles, one value for all places"
        return f"No method is better than {constant}: {lowest}."
    unit = f" {ranking.unit}" if ranking.unit else ""
    text = f"The lowest MAE has {name}: {row['mae']:.3g}{unit}, {gap} from the mean of the training profiles."
    if row["kind"] == "network":
        outcome, other = OUTCOMES[outcome_of(row, "change")], rows.at[row["against"], "label"]
        return f"{text} It {outcome} the strongest baseline, {other}: MAE {in_percent(row, 'change')}."
    networks = [key for key in rows.index if rows.at[key, "kind"] == "network"]
    if not networks:
        return f"{text} No network was compared with it."
    other = rows.loc[networks[0]]
    outcome = OUTCOMES[outcome_of(other, "change")]
    return f"{text} The best network, {other['label']}, {outcome} it: MAE {in_percent(other, 'change')}."


def in_words(ranking: Ranking) -> str:
    """Return the result in one plain sentence, with which the report opens."""
    rows, where = ranking.last, STRATEGIES[ranking.strategies[-1]].where
    best = next(key for key in rows.index if key not in CONSTANTS)
    row, constant = rows.loc[best], min(float(rows.at[key, "mae"]) for key in CONSTANTS)
    unit = f" {ranking.unit}" if ranking.unit else ""
    if row["mae"] >= constant or outcome_of(row, "of_mean") != "better":
        all_places = f"one value of {ranking.target} for all places errs by {constant:.3g}{unit} on average"
        return f"{where}, {all_places}, and nothing that was tried predicts it clearly better."
    errs = f"a prediction of {ranking.target} by {row['label']} errs by {row['mae']:.3g}{unit} on average"
    return f"{where}, {errs}; one value for all places would err by {constant:.3g}{unit}."


# --- table and report ---------------------------------------------------------------------------------------------------------


def ranking_table(ranking: Ranking) -> Table:
    """Return the table: scores with standard errors, changes with intervals, the lowest MAE first; other strategies' MAE beside."""
    rows, cells = ranking.last, []
    best = {name: (rows[name].max() if name in ("r2", "ccc") else rows[name].min()) for name in _SHOWN}
    beside = ranking.strategies[-2::-1]
    others = {each: ranking.scores[ranking.scores["strategy"] == each].set_index("method") for each in beside}
    for key, row in rows.iterrows():
        shown: list[object] = [row["label"], row["kind"]]
        for name in _SHOWN:
            text = _with_error(row, name)
            shown.append(Strong(text) if row[name] == best[name] else text)
        shown.append("reference" if key == row["against"] else bounds(row, "change", partial(fixed, places=1, sign=True)))
        shown.append(bounds(row, "of_mean", partial(fixed, places=1, sign=True)) if key != "mean" else "reference")
        cells.append(shown + [_with_error(table.loc[key], "mae") if key in table.index else "–" for table in others.values()])
    unit = f" ({ranking.unit})" if ranking.unit else ""
    against = rows.at[rows["against"].iloc[0], "label"]
    groups: list[tuple[str, Sequence[str]]] = [("", ["Method", "Kind"])]
    names = [TITLES[name] + (unit if name in ("mae", "rmse") else "") for name in _SHOWN]
    groups.append((STRATEGIES[ranking.strategies[-1]].title, [*names, f"MAE from {against}'s (%)", "MAE from the mean's (%)"]))
    groups += [(STRATEGIES[each].title, [f"MAE{unit}"]) for each in beside]
    counts = rows.iloc[0]
    repeated = f", {counts['repeats']} draws of the folds" if counts["repeats"] > 1 else ""
    caption = f"{counts['n']:,} profiles in {counts['groups']:,} blocks or places, {counts['folds']} folds{repeated}"
    caption += "; (standard error over folds), [paired 95 % interval over blocks or places]; bold: the best of a column"
    return Table.grouped(caption, groups, cells, texts=2)


def _with_error(row: "pd.Series[Any]", name: str) -> str:
    if not np.isfinite(row[name]):
        return "–"
    error = f" ({fixed(row[f'{name}_se'])})" if np.isfinite(row[f"{name}_se"]) else ""
    return fixed(row[name]) + error


def as_text(ranking: Ranking) -> str:
    """Return table, verdict, notes and time for the terminal."""
    table = ranking_table(ranking)
    header = [*table.header[: 2 + len(_SHOWN) + 2], *(f"MAE, {STRATEGIES[each].title}" for each in ranking.strategies[-2::-1])]
    frame = pd.DataFrame(table.cells(), columns=header).drop(columns="Kind").set_index("Method").rename_axis(None)
    where = STRATEGIES[ranking.strategies[-1]].title
    lines = [f"{ranking.target} of {ranking.name}, {where}: {table.caption.partition('; bold')[0]}", frame.to_string()]
    return "\n".join([*lines, *(f"- {note}" for note in ranking.notes), verdict(ranking), ranking.spent])


def write_report(folder: Path, ranking: Ranking) -> None:
    """Write report.html and its figure."""
    page = FigureFolder(folder)
    rows = ranking.last
    networks = [key for key in rows.index if rows.at[key, "kind"] == "network"]
    strongest = rows["against"].iloc[0]
    subject = networks[0] if networks else rows.index[0]
    look = draw.looks({str(key): str(rows.at[key, "label"]) for key in rows.index}, networks, subject, strongest)
    names = {each: STRATEGIES[each].title for each in ranking.strategies}
    changes = ranking.scores.rename(columns={"change": "value", "change_low": "low", "change_high": "high"})
    note = "Point: change of MAE from the strategy's strongest baseline; line: paired 95 % interval. Arrows: beyond the axis."
    label = f"change of MAE in %, n = {rows['n'].iloc[0]:,}: left of the line is better"
    drawn = page.draw(_FIGURE, "Change of MAE of each method", note, draw.differences, changes, look, names, label, "%")
    blocks: list[Block] = [ranking_table(ranking), drawn, Items(list(ranking.notes)), Note(ranking.spent.capitalize() + ".")]
    meanings = [(str(rows.at[key, "label"]), ranking.methods[str(key)].meaning) for key in rows.index]
    how: list[Block] = [Items([(names[each], _folds(ranking.facts[each])) for each in names]), Items(meanings)]
    how += [Code(ranking.command), Code(yaml.safe_dump(dict(ranking.settings), sort_keys=False, allow_unicode=True))]
    sections = [
        Section("methods", "Which method predicts best here", blocks),
        Section("how", "Folds, methods, how to repeat it", how),
    ]
    about = f"{len(rows)} methods, {rows['n'].iloc[0]:,} profiles, the same folds for all"
    write_page(
        folder / "report.html",
        f"{ranking.target}: methods compared on {ranking.name}",
        about,
        [in_words(ranking), verdict(ranking)],
        sections,
    )


def _folds(facts: Mapping[str, Any]) -> str:
    """Return what folds are, and how far away the held-out profiles are."""
    text = (
        f"{facts['reason']} {facts['k']} folds; median distance of a held-out profile to training ones {facts['median_km']:.3g} km"
    )
    if "blocks" in facts:
        text += f"; {facts['blocks']} blocks of {facts['block_size']:.3g} degrees"
    if "range_km" in facts:
        text += f", the residuals of a forest being correlated over {facts['range_km']:.3g} km"
    return f"{text}; {facts['no_blocks']}" if facts.get("no_blocks") else text


def notes_of(design: "Design", plan: "OwnPlan", ledger: Ledger, found: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what was left out and why, and what the reader must know of the scores."""
    notes = list(plan.changes)
    notes += [f"{key}: left out; {why}" for key, why in ledger.failed.items()]
    stopped = sorted({key for repeat, key in ledger.stopped if repeat == 0})
    if stopped:
        notes.append(f"stopped at the limit of computing time, which --budget raises: {', '.join(stopped)}")
    drawn = min(int(table["repeat"].nunique()) for table in found.values())
    if drawn < plan.choice.repeats:
        notes.append(f"draws of the folds: {drawn} of {plan.choice.repeats}, at the limit of computing time")
    if design.checkpoint is not None:
        notes.append(
            f"{design.checkpoint} is taken as it is: if it was trained on profiles of this area, transferred networks score too "
            "well"
        )
    if (groups := found[plan.strategies[-1]]["group"].nunique()) < FEWEST_GROUPS:
        notes.append(f"{groups} blocks or places are few: intervals are wide, and a small difference cannot be seen")
    return notes
