"""The report of a comparison: one verdict, tables, figures, and how to repeat it.

In: a `Comparison`. Out: report.html, which needs no network, report.md with the main tables, and the figures as PNG. A section
without data is left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from soilcarbon.benchmark import figures as draw
from soilcarbon.benchmark.results import MEAN, Comparison, pooled
from soilcarbon.figures import short_label
from soilcarbon.html import (
    Block,
    Code,
    Details,
    Figure,
    FigureFolder,
    Items,
    Note,
    Section,
    Strong,
    Table,
    escape_markdown,
    fixed,
    format_value,
)
from soilcarbon.html import write_report as write_page
from soilcarbon.io.files import write_text
from soilcarbon.stats.metrics import worse_than_mean
from soilcarbon.stats.spatial_cv import STRATEGIES

FILES = ("report.html", "report.md")
FIGURES = ("changes_mae", "changes_ccc", "strategies", "learning_mae", "learning_ccc", "coverage", "dissimilarity", "residuals")
SCORES = {"mae": "MAE", "rmse": "RMSE", "ccc": "CCC", "r2": "R²", "rpiq": "RPIQ", "me": "ME"}
IN_UNIT = ("mae", "rmse", "me")
_IN_PERCENT = ("mae", "rmse")
OUTCOMES = {"better": "is better than", "worse": "is worse than", "open": "does not differ clearly from"}
_DEFINITIONS = (
    "MAE: mean absolute error. RMSE: root mean squared error, ruled by the largest misses. CCC: Lin's concordance, 1 is perfect, 0 "
    "no better than chance. R²: share of variance explained, below 0 worse than the mean. RPIQ: interquartile range over RMSE. "
    "ME: mean of predicted minus observed. Strongest baseline: of lowest MAE relative to each region's lowest. "
    "A change is the mean of the regions' own changes, which need not be that of the means shown."
)


def write_report(folder: Path, comparison: Comparison) -> None:
    """Write report.html, report.md and the figures; figures of an earlier report that this one lacks are removed."""
    c, page = comparison, FigureFolder(folder)
    sections = [
        Section("skill", "Which method is better", _skill(c, page)),
        Section("strategies", "Cross-validation strategies", _strategies(c, page)),
        Section("curves", "With fewer profiles", _curves(c, page)),
        Section("intervals", "Coverage of prediction intervals", _intervals(c, page)),
        Section("dissimilarity", "Errors far from the training profiles", _dissimilarity(c, page)),
        Section("residuals", "Residuals on the map", _residuals(c, page)),
        Section("selection", "Choosing the epoch on the test profiles", _selection(c)),
        Section("floor", "Differences within a raster cell", _floor(c)),
        Section("methods", "Methods, and how to repeat it", _repeat(c)),
    ]
    write_page(folder / "report.html", c.title, _about(c), [in_words(c), verdict(c)], sections)
    write_text(folder / "report.md", as_markdown(c))


def as_markdown(c: Comparison) -> str:
    """Return the verdict and the main tables in Markdown."""
    tables = [each.to_markdown() for each in (skill_table(c), change_table(c), region_changes(c)) if each.rows]
    code = "\n".join(f"    {line}" for line in c.command.splitlines())
    head = [f"# {escape_markdown(c.title)}", escape_markdown(_about(c)), escape_markdown(in_words(c))]
    head.append(f"**{escape_markdown(verdict(c))}**")
    return "\n\n".join([*head, *tables, "To repeat it:", code]) + "\n"


def as_text(c: Comparison) -> str:
    """Return the verdict and the main tables for the terminal: without Markdown's escapes."""
    return re.sub(r"\\([^\w\s])", r"\1", as_markdown(c))


def _about(c: Comparison) -> str:
    n = sum(int(facts.get("profiles", 0)) for facts in c.regions.values())
    return (
        f"{c.target} ({c.unit}): {len(c.order)} methods, {_count(len(c.regions), 'region')}, {n:,} profiles, the same folds for all"
    )


def verdict(c: Comparison) -> str:
    """Return the result: the subject against the strongest baseline under the last strategy, with paired 95 % intervals."""
    ours, theirs, change = c.subject, c.strongest[c.last], c.change(c.last, c.subject)
    if ours == theirs or change is None:
        return f"The strongest method under {STRATEGIES[c.last].title} is {c.label(theirs)}; no network was compared with it."
    outcome = OUTCOMES[outcome_of(change, "mae")]
    where = f"{STRATEGIES[c.last].title}, mean of {_count(len(c.regions), 'region')}"
    means = c.means.xs(c.last, level="strategy")
    both = f"MAE {fixed(means['mae'][ours])} against {fixed(means['mae'][theirs])} {c.unit}"
    of = " as the mean of the regions' own changes" if len(c.regions) > 1 else ""
    text = f"{c.label(ours)} {outcome} the strongest baseline, {c.label(theirs)} ({where}): "
    text += f"{both}; {in_percent(change, 'mae')}{of}; CCC {changed(change, 'ccc')}."
    if "mean" in means.index and (verdict := worse_than_mean(means.loc[ours], means.loc["mean"], c.unit)):
        text += f" {c.label(ours)} is {verdict}."
    return text[:1].upper() + text[1:]


def in_words(c: Comparison) -> str:
    """Return the result in one plain sentence, with which the report opens."""
    ours, theirs, change = c.subject, c.strongest[c.last], c.change(c.last, c.subject)
    means = c.means.xs(c.last, level="strategy")["mae"]
    ours = ours if ours in means.index else theirs
    target = c.target if c.target[1:2].isupper() else c.target[:1].lower() + c.target[1:]
    over = f" on average of {len(c.regions)} regions" if len(c.regions) > 1 else " on average"
    text = f"{STRATEGIES[c.last].where}, a prediction of {target} by {c.label(ours)} errs by {means[ours]:.3g} {c.unit}{over}"
    if ours != theirs and change is not None:
        differs = {"better": "clearly more", "worse": "clearly less", "open": "no clear difference"}[outcome_of(change, "mae")]
        text += f"; by {c.label(theirs)}, the strongest simple method, {means[theirs]:.3g} {c.unit}, {differs}"
    if "mean" in means.index:
        text += f"; one value for all places would err by {means['mean']:.3g} {c.unit}"
    return text + "."


# --- numbers as text --------------------------------------------------------------------------------------------------


def bounds(row: pd.Series | Mapping[Any, Any], name: str, text: Callable[[float], str]) -> str:
    """Return a number and its interval, where it has one."""
    ends = text(row[f"{name}_low"]), text(row[f"{name}_high"])
    return f"{text(row[name])} [{ends[0]}, {ends[1]}]" if "–" not in ends else text(row[name])


def changed(row: pd.Series | None, name: str) -> str:
    """Return a change and its interval: in percent of MAE and RMSE, as it is of CCC and R²."""
    return "–" if row is None else bounds(row, name, partial(fixed, places=1 if name in _IN_PERCENT else 3, sign=True))


def in_percent(row: pd.Series | Mapping[Any, Any], name: str) -> str:
    """Return a change in percent and its interval, as a sentence has them."""
    value, gap, interval = bounds(row, name, partial(fixed, places=1, sign=True)).partition(" ")
    return f"{value} %{gap}{interval}"


def outcome_of(row: pd.Series | Mapping[Any, Any], name: str) -> str:
    """Return "better", "worse", or "open" where the interval of a change of MAE spans zero or there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if not np.isfinite([low, high]).all():
        return "open"
    return "better" if high < 0 else "worse" if low > 0 else "open"


def _count(n: int, of: str) -> str:
    return f"{n:,} {of}" + ("" if n == 1 else "s")


def _title(score: str, unit: str) -> str:
    return f"{SCORES[score]} ({unit})" if score in IN_UNIT else SCORES[score]


def _names(c: Comparison) -> dict[str, str]:
    return {strategy: STRATEGIES[strategy].title for strategy in c.strongest}


def _look(c: Comparison, methods: Sequence[str]) -> dict[str, draw.Look]:
    """Return how the methods are drawn; the same in every figure."""
    curved = {key for table in (c.curves, c.coverage) if len(table) for key in table["method"]}  # first: they must differ
    every = {key: c.label(key) for key in sorted(dict.fromkeys([*c.order, *methods]), key=lambda key: key not in curved)}
    networks = [key for key in every if key in c.methods and c.methods[key].kind == "network"]
    found = draw.looks(every, networks, c.subject, c.strongest[c.last])
    return {key: found[key] for key in methods}


# --- tables -----------------------------------------------------------------------------------------------------------


def skill_table(c: Comparison) -> Table:
    """Return the mean scores of every method under every strategy, the lowest MAE under the last one first."""
    names = [s for s in SCORES if c.scores[s].notna().any()]
    counts = c.scores.groupby(["strategy", "method"])[names].count()
    size = {s: c.means[s] if s in ("ccc", "r2", "rpiq") else -c.means[s].abs() for s in names}
    best = {(strategy, s): size[s].xs(strategy, level="strategy").max() for strategy in c.strongest for s in names}
    regions = c.scores["region"].nunique()

    def cell(at: tuple[str, str], s: str) -> str:
        if at not in c.means.index:
            return "–"
        text = fixed(c.means.loc[at, s]) + ("*" if 0 < counts.loc[at, s] < regions else "")
        return Strong(text) if size[s][at] == best[at[0], s] else text

    rows = [[c.label(key), c.methods[key].kind, *(cell((w, key), s) for w in c.strongest for s in names)] for key in c.order]
    caption = f"Mean over {_count(regions, 'region')}; bold: the best of a column; MAE, RMSE and ME in {c.unit}"
    caption += "; *: of fewer regions, undefined in others" if any(str(text).endswith("*") for row in rows for text in row) else ""
    groups = [("", ["Method", "Kind"]), *((name, [SCORES[s] for s in names]) for name in _names(c).values())]
    return Table.grouped(caption, groups, rows, texts=2)


def change_table(c: Comparison, names: Sequence[str] = ("mae", "ccc")) -> Table:
    """Return each method's change against the strongest baseline with its interval, sorted as the skill table."""
    rows = []
    for key in c.order:
        shown = [
            "reference" if strongest == key else changed(c.change(strategy, key), s)
            for strategy, strongest in c.strongest.items()
            for s in names
        ]
        if any(text != "–" for text in shown) and len(c.differences):
            rows.append([c.label(key), *shown])
    titles = [f"{SCORES[s]} (%)" if s in _IN_PERCENT else SCORES[s] for s in names]
    groups = [("", ["Method"]), *((name, titles) for name in _names(c).values())]
    caption = "Change against the strongest baseline of each strategy [paired 95 % interval], mean of regions"
    return Table.grouped(caption, groups, rows)


def region_changes(c: Comparison) -> Table:
    """Return the subject's change against the strongest baseline, region by region."""
    rows: list[list[object]] = []
    n_train = c.scores[c.scores["strategy"] == c.last].groupby("region")["n_train"].first().to_dict()
    for region in [*c.regions, MEAN]:
        found = [c.change(strategy, c.subject, region) for strategy in c.strongest]
        if any(row is not None for row in found) and (region != MEAN or len(rows) > 1):
            rows.append([region, n_train.get(region), *(changed(row, s) for row in found for s in ("mae", "ccc"))])
    groups = [("", ["Region", "Training profiles"]), *((name, ["MAE (%)", "CCC"]) for name in _names(c).values())]
    return Table.grouped(f"{c.label(c.subject)} against the strongest baseline [paired 95 % interval]", groups, rows)


def region_table(c: Comparison, region: str, strategy: str, suffix: str) -> Table:
    """Return all scores with intervals in one region under one strategy; with the suffix "_log", those of ln(1 + target)."""
    rows = c.scores[(c.scores["region"] == region) & (c.scores["strategy"] == strategy)].set_index("method")
    names = [s for s in SCORES if f"{s}{suffix}" in rows and rows[f"{s}{suffix}"].notna().any()]
    text, found = partial(fixed, places=3 if suffix else 2), rows.to_dict("index")
    shown = [[c.label(key), *(bounds(found[key], f"{s}{suffix}", text) for s in names)] for key in c.order if key in found]
    scale = "scores of ln(1 + target)" if suffix else "scores"
    counts = f"n train {rows['n_train'].iloc[0]:,}, n test {rows['n_test'].iloc[0]:,}" if len(rows) else ""
    caption = f"{region}, {STRATEGIES[strategy].title}: {scale} [95 % interval]; {counts}"
    return Table(caption, ["Method", *(SCORES[s] if suffix else _title(s, c.unit) for s in names)], shown if names else [])


def folds_table(c: Comparison) -> Table:
    """Return the facts of regions and of the folds of each strategy, with the subject's MAE."""
    own = list(dict.fromkeys(name for facts in c.regions.values() for name in facts))
    mae = c.scores[c.scores["method"] == c.subject].set_index(["region", "strategy"])["mae"]
    rows: list[list[object]] = []
    for region, facts in c.regions.items():
        row = [region, *(facts.get(name) for name in own)]
        for strategy, its in c.folds.items():
            row += [*(values.get(region) for values in its.values()), fixed(mae.get((region, strategy), np.nan))]
        rows.append(row)
    groups = [("", ["Region", *own]), *((STRATEGIES[s].title, [*its, f"MAE ({c.unit})"]) for s, its in c.folds.items())]
    note = "W: how far held-out profiles and the map's cells differ in distance to the training profiles, 0 is best."
    has_w = any("W (km)" in its for its in c.folds.values())
    return Table.grouped(f"Regions and folds, with the MAE of {c.label(c.subject)}", groups, rows, note=note if has_w else "")


# --- sections ---------------------------------------------------------------------------------------------------------


def _skill(c: Comparison, page: FigureFolder) -> list[Block]:
    blocks: list[Block] = [skill_table(c), Note(_DEFINITIONS)]
    for score, label in (("mae", "change of MAE in %: left of the line is better"), ("ccc", "change of CCC: right is better")):
        changes = c.changes(score)
        if changes["value"].notna().any():
            alt = f"Change of {SCORES[score]} of each method against the strongest baseline"
            note = "Point: change against the strongest baseline; line: paired 95 % interval. Arrows: beyond the axis."
            look = _look(c, [key for key in c.order if key in set(changes["method"])])
            unit = "%" if score in _IN_PERCENT else ""
            blocks.append(page.draw(f"changes_{score}", alt, note, draw.differences, changes, look, _names(c), label, unit))
    if change_table(c).rows:
        more = Details("RMSE and R²", [change_table(c, ("rmse", "r2"))])
        blocks += [change_table(c), region_changes(c), more]
    for region in c.scores["region"].unique():
        tables = [region_table(c, region, strategy, suffix) for strategy in c.strongest for suffix in ("", "_log")]
        blocks.append(Details(f"{region}: all scores with intervals", [table for table in tables if table.rows]))
    return blocks


def _strategies(c: Comparison, page: FigureFolder) -> list[Block]:
    blocks: list[Block] = [Items([(STRATEGIES[each].title, STRATEGIES[each].reason) for each in c.strongest])]
    if len(c.strongest) > 1:
        values, label = c.means["mae"].rename("value").reset_index(), f"MAE ({short_label(c.unit)}), mean of regions"
        note = "The longer the line, the more a method gains from near neighbours in the training set."
        alt = "MAE of each method under each cross-validation strategy"
        blocks.append(page.draw("strategies", alt, note, draw.strategies_compared, values, _look(c, c.order), _names(c), label))
    return [*blocks, folds_table(c)]


def _curves(c: Comparison, page: FigureFolder) -> list[Block]:
    if c.curves.empty:
        return []
    drawn = set(c.curves["method"])
    look = _look(c, [key for key in c.order[::-1] if key in drawn])
    look = dict(sorted(look.items(), key=lambda pair: pair[1].bold))
    blocks: list[Block] = []
    for score in ("mae", "ccc"):
        if c.curves[score].notna().any():
            alt = f"{SCORES[score]} against the number of training profiles, by region and method"
            note = f"Mean of {_count(c.curves['repeat'].nunique(), 'draw')}; band: from the least to the most of them."
            values = c.curves, look, score, short_label(_title(score, c.unit))
            blocks.append(page.draw(f"learning_{score}", alt, note, draw.learning_curves, *values))
    if (found := c.gains()) is not None:
        ours, theirs, change = found
        sizes = [(format_value(n), each) for n, each in change.groupby(level="n_train")]
        sizes = [(n, each) for n, each in sizes if len(each) > 1 or len(c.regions) == 1]
        sizes.append(("each region's most", change.groupby(level="region").last()))
        rows = [[n, len(each), *(fixed(v, 1, True) for v in (each.mean(), each.min(), each.max()))] for n, each in sizes]
        header = ["Training profiles", "Regions", "Mean", "Least", "Most"]
        blocks.append(Table(f"Change of MAE (%): {c.label(ours)} against {c.label(theirs)}", header, rows))
    return blocks


def _intervals(c: Comparison, page: FigureFolder) -> list[Block]:
    if c.coverage.empty:
        return []
    every = c.coverage[c.coverage["stratum"] == "all"]
    together = pooled(every, ["strategy", "method", "level"])
    names = {strategy: name for strategy, name in _names(c).items() if strategy in set(every["strategy"])}
    keys = [key for key in dict.fromkeys([*c.order, *c.methods]) if key in set(every["method"])]
    columns = ["strategy", "method", "region", "level", "coverage"]
    single = every[columns] if every["region"].nunique() > 1 else every[columns].iloc[:0]
    levels, cells = sorted(every["level"].unique()), together.set_index(["strategy", "method", "level"])
    level = min(levels, key=lambda each: abs(each - 0.9))
    percent = f"{100 * level:g} %"
    rows = []
    for key in keys:
        row = [c.label(key)]
        for strategy in names:
            row += [fixed(100 * cells["coverage"].get((strategy, key, each), np.nan), 1) for each in levels]
            row += [fixed(cells[name].get((strategy, key, level), np.nan)) for name in ("mean_width", "interval_score")]
        rows.append(row)
    header = [*(f"{100 * each:g} %" for each in levels), f"width, {percent}", f"score, {percent}"]
    caption = f"Coverage (%) of intervals of each level; mean width and interval score ({c.unit}, less is better)"
    note = "Coverage less nominal level; below the dashed line an interval is too narrow. Small marks: single regions."
    shown = pd.concat([together.assign(region=None)[columns], single]) if len(single) else together.assign(region=None)[columns]
    figure = page.draw("coverage", "Coverage of prediction intervals", note, draw.coverage, shown, _look(c, keys), names)
    blocks: list[Block] = [figure, Table.grouped(caption, [("", ["Method"]), *((name, header) for name in names.values())], rows)]
    strata = c.coverage[(c.coverage["stratum"] != "all") & (c.coverage["strategy"] == c.last) & (c.coverage["level"] == level)]
    if len(strata):
        found = pooled(strata, ["stratum", "method"]).set_index(["stratum", "method"])
        rows = []
        for stratum in strata["stratum"].unique():
            here = found.loc[stratum]
            pairs = [(100 * here["coverage"].get(k, np.nan), here["mean_width"].get(k, np.nan)) for k in keys]
            rows.append(
                [stratum, f"{int(here['n'].max()):,}", *(fixed(v, p) for pair in pairs for v, p in zip(pair, (1, 2), strict=True))]
            )
        groups = [("", ["Stratum", "n"]), *((c.label(key), ["Coverage (%)", f"Width ({c.unit})"]) for key in keys)]
        blocks.append(Table.grouped(f"Intervals of {percent} by stratum, {STRATEGIES[c.last].title}", groups, rows))
    return blocks


def _dissimilarity(c: Comparison, page: FigureFolder) -> list[Block]:
    rows = c.held_out()
    rows = rows.dropna(subset=["di", "inside"]) if len(rows) else rows
    if rows.empty:
        return []
    lines: list[list[object]] = []
    both = []
    for region, here in rows.groupby("region", sort=False):
        fifths = np.array_split(here.sort_values("di")["error"].to_numpy(), 5)
        ratio = np.median(fifths[-1]) / np.median(fifths[0]) if len(fifths[0]) else np.nan
        sides = [here.loc[here["inside"] == side, "error"] for side in (1, 0)]
        both += [str(region)] if min(map(len, sides)) >= 5 else []
        cells = [cell for side in sides for cell in (len(side), fixed(side.mean()))]
        lines.append([str(region), fixed(100 * len(sides[0]) / len(here), 1), *cells, fixed(ratio)])
    note = "Ratio: median error of the fifth of profiles least like the training profiles over that of the fifth most like them."
    if both:
        change, low, high = (fixed(value, 0, True) for value in c.outside(both))
        note += (
            f" Errors of ln(1 + target) outside against inside, mean of {_count(len(both), 'region')}: {change} % [{low}, {high}]."
        )
    mae = ["n", f"MAE ({c.unit})"]
    groups = [("", ["Region", "Inside (%)"]), ("inside", mae), ("outside", mae), ("", ["Ratio"])]
    caption = (
        "Median and middle half of the absolute error in bins of equally many profiles; above each bin its number of profiles. "
    )
    caption += "Dashed: the threshold of the area of applicability."
    alt = "Median absolute error against dissimilarity to the training profiles, by region"
    figure = page.draw("dissimilarity", alt, caption, draw.error_against_dissimilarity, rows, c.unit)
    return [figure, Table.grouped("The area of applicability", groups, lines, note=note)]


def _residuals(c: Comparison, page: FigureFolder) -> list[Figure]:
    rows = c.held_out()
    if rows.empty:
        return []
    note = f"{STRATEGIES[c.last].title}. Patches of one colour are systematic errors. Each map has its own ramp."
    return [page.draw("residuals", "Maps of observed minus predicted, by region", note, draw.residual_maps, rows, c.unit)]


def _selection(c: Comparison) -> list[Block]:
    if c.selection.empty:
        return []
    wide = c.selection.pivot_table(index=["score", "region"], columns="chosen_on", values="value", sort=False)
    wide["gap"] = wide["test"] - wide["validation"]
    rows: list[list[object]] = []
    for score, group in wide.groupby(level="score", sort=False):
        lines = [(str(name[1]), row) for name, row in group.iterrows()]
        lines += [(MEAN, group.mean())] if len(group) > 1 else []
        rows += [
            [_title(str(score), c.unit), name, *(fixed(row[k], 3, k == "gap") for k in ("validation", "test", "gap"))]
            for name, row in lines
        ]
    groups = [("", ["Score", "Region"]), ("epoch chosen on", ["validation", "test"]), ("", ["difference"])]
    note = "The difference is skill that is not found in new areas. No other score here is of an epoch that test profiles chose."
    return [Table.grouped("Scores on the test profiles, mean over folds, by what chose the epoch", groups, rows, 2, note)]


def _floor(c: Comparison) -> list[Block]:
    if c.floor.empty:
        return []
    rows = [
        [row["region"], int(row["n"]), *(fixed(row[name]) for name in ("floor_mae", "median_mae", "subject_mae"))]
        for _, row in c.floor.iterrows()
    ]
    groups = [("", ["Region", "Profiles"]), ("MAE on these", ["others of the cell", "region's median", c.label(c.subject)])]
    note = "Profiles of one raster cell share every covariate: what they differ by, no map of these covariates predicts."
    return [Table.grouped(f"Noise floor ({c.unit}): cells of four profiles and more", groups, rows, note=note)]


def _repeat(c: Comparison) -> list[Block]:
    methods = [[method.label, method.kind, method.meaning] for method in (c.methods[key] for key in c.order)]
    blocks: list[Block] = [
        Table("Methods", ["Method", "Kind", "What it is"], methods, [False] * 3),
        Items(c.notes),
        Code(c.command),
    ]
    if c.settings:
        blocks.append(Details("Settings", [Code(yaml.safe_dump(dict(c.settings), sort_keys=False, allow_unicode=True))]))
    return blocks
