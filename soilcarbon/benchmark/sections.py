"""Fill the sections of the page: figures and tables, each beside the words that explain it.

In: a `Comparison`, and a `Page`, which has figures drawn into a folder and embeds them. Out: the sections in the order
shown, each as its name, its title and its HTML, in which everything is escaped. A section without data is left out. How
figures look is up to `comparefigures`; what tables hold and the answer says, to `comparetables`.
"""

import base64
import html
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark import figures as draw
from soilcarbon.benchmark.comparison import MEAN, SCORES, Comparison, count, fact, fixed, percent, pooled, score_title
from soilcarbon.benchmark.tables import Table, change_table, claim, folds_table, region_changes, region_table, skill_table
from soilcarbon.html import folded, paragraph
from soilcarbon.mapping.page import flattened

FIGURES = ("changes_mae", "changes_ccc", "ways", "learning_mae", "learning_ccc", "coverage", "dissimilarity", "residuals")


class Page:
    """Draw figures into a folder, embed them, and keep which there are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.drawn = folder, set[str]()

    def figure(self, name: str, alt: str, caption: str, plot: Callable[..., None], *values: Any) -> str:
        """Return a figure with its caption, which `plot` draws from values into the PNG file it is given first."""
        path = self.folder / f"{name}.png"
        plot(path, *values)
        self.drawn.add(path.name)
        picture = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
        box = f'<div class="panel" role="region" tabindex="0" aria-label="{html.escape(alt)}">{image}</div>'
        return f"<figure>{box}<figcaption>{html.escape(caption)}</figcaption></figure>"


def sections(c: Comparison, page: Page) -> list[tuple[str, str, str]]:
    """Return the name, title and HTML of each section that there is something to say in; its figures are drawn."""
    held_out = c.held_out()
    wanted: list[tuple[str, str, bool, Callable[[Comparison, Page], str]]] = [
        ("skill", "Skill", True, _skill),
        ("folds", "How profiles were held out", True, _ways),
        ("curves", "How skill grows with profiles", len(c.curves) > 0, _curves),
        ("intervals", "Whether intervals hold", (c.coverage["stratum"] == "all").any(), _intervals),
        ("dissimilarity", "Errors far from what was trained on", bool(held_out["di"].notna().any()), _dissimilarity),
        ("residuals", "Where it errs", len(held_out) > 0, _residuals),
        ("selection", "What choosing on the test profiles would flatter", len(c.selection) > 0, _selection),
        ("floor", "What no map can beat", len(c.floor) > 0, _floor),
        ("compared", "What was compared, and how to repeat it", True, _compared),
    ]
    bodies = [(name, title, make(c, page)) for name, title, there, make in wanted if there]
    return [each for each in bodies if each[2]]


def _skill(c: Comparison, page: Page) -> str:
    explained = (
        "MAE: mean absolute error. RMSE: root mean squared error, ruled by the largest misses. CCC: Lin's concordance, 1 is "
        "perfect, 0 no better than chance. R²: share of variance explained, below 0 worse than the mean. RPIQ: interquartile range "
        "over RMSE. ME: mean of predicted minus observed, best near 0."
    )
    parts = [paragraph(explained, "soft"), skill_table(c).to_html()]
    table = change_table(c)
    note = (
        f"Against {_rivals(c)}. Point: change; line: paired 95 % interval; one that crosses zero leaves open which is better. "
        "Arrows: beyond the axis."
    )
    for score, words in (
        ("mae", "change of MAE in %: left of the line is better"),
        ("ccc", "change of CCC: right of the line is better"),
    ):
        long = c.changes(score)
        if long["value"].notna().any():
            alt = f"Change of {SCORES[score]} of each method against the strongest baseline; numbers in the table that follows"
            look = c.look([key for key in c.order if key in set(long["method"])])
            values = long, look, c.ways, words, "%" if score == "mae" else ""
            parts.append(page.figure(f"changes_{score}", alt, note, draw.differences, *values))
    if table.rows:
        more = change_table(c, ("rmse", "r2")).to_html()
        parts += [table.to_html(), region_changes(c).to_html(), folded("The same for RMSE and R²", more)]
    for region in c.table["region"].unique():
        tables = [region_table(c, region, way, suffix) for way in c.ways for suffix in ("", "_log")]
        parts.append(folded(f"{region}: all scores with intervals", "".join(t.to_html() for t in tables if t.rows)))
    return "\n".join(parts)


def _rivals(c: Comparison) -> str:
    """Name the strongest baseline, of each way if they differ."""
    named = {way: c.label(c.facts["strongest"].get(way, "none")) for way in c.ways}
    same = len(set(named.values())) == 1
    return named[c.headline] if same else ", ".join(f"{name} ({c.ways[way]})" for way, name in named.items())


def _ways(c: Comparison, page: Page) -> str:
    reasons = "".join(
        f"<li><strong>{html.escape(words)}</strong>: {html.escape(str(c.facts['ways'][way].get('reason', '')))}</li>"
        for way, words in c.ways.items()
    )
    parts = [f"<ul>{reasons}</ul>"]
    mae, winner = c.means["mae"], c.facts["winner"]
    if len(c.ways) > 1:
        first, last = mae.xs(next(iter(c.ways)), level="way"), mae.xs(c.headline, level="way")
        rise = (100 * (last / first - 1)).dropna()
        if winner in rise:
            low, high = percent(rise.min()), percent(rise.max())
            told = f"MAE of {c.label(winner)} changes by {percent(rise[winner])} from {next(iter(c.ways.values()))} to "
            told += f"{c.ways[c.headline]}, that of all methods by {low} to {high}. Neighbours agree: with them in training a "
            told += "score tells how well gaps are filled, without them how well unvisited land is mapped."
            parts.append(paragraph(told))
        values = mae.rename("value").reset_index()
        alt = "MAE of each method under each way of holding profiles out; numbers in the skill table"
        note = "The longer the line, the more a method lives on near neighbours."
        words = f"MAE ({draw.short_label(c.unit)}), mean of regions"
        parts.append(page.figure("ways", alt, note, draw.both_ways, values, c.look(c.order), c.ways, words))
    return "\n".join([*parts, folds_table(c).to_html()])


def _curves(c: Comparison, page: Page) -> str:
    keys = [key for key in c.order[::-1] if key in set(c.curves["method"])]
    look = {key: each for key, each in sorted(c.look(keys).items(), key=lambda pair: pair[1].bold)}
    parts = []
    if found := c.gains():
        ours, theirs, change = found
        parts.append(paragraph(claim(change)))
        rows = [
            [fact(n), str(len(each)), percent(each.mean()), _span(each)]
            for n, each in change.groupby(level="n_train")
            if len(each) > 1 or change.index.unique("region").size == 1
        ]
        largest = change.groupby(level="region").last()
        rows.append(["each region's most", str(len(largest)), percent(largest.mean()), _span(largest)])
        groups = [("", ["Training profiles", "Regions", "Mean change of MAE", "From region to region"])]
        table = Table(f"{c.label(ours)} against {c.label(theirs)}; below zero is better", groups, rows).to_html()
    for score in ("mae", "ccc"):
        if c.curves[score].notna().any():
            repeats = c.curves["repeat"].nunique()
            alt = f"{SCORES[score]} against the number of training profiles, by region and method"
            note = f"{SCORES[score]}, mean of {count(repeats, 'repeat')}; band: from the least to the most of them."
            values = c.curves, look, score, draw.short_label(score_title(score, c.unit))
            parts.append(page.figure(f"learning_{score}", alt, note, draw.learning_curves, *values))
    return "\n".join([*parts, *([table] if found else [])])


def _span(values: pd.Series) -> str:
    return f"{percent(values.min())} to {percent(values.max())}" if len(values) > 1 else "–"


def _intervals(c: Comparison, page: Page) -> str:
    every = c.coverage[c.coverage["stratum"] == "all"]
    together = pooled(every, ["way", "method", "level"])
    ways = {way: words for way, words in c.ways.items() if way in set(every["way"])}
    keys = [key for key in c.order if key in set(every["method"])]
    single = every[["way", "method", "region", "level", "coverage"]] if every["region"].nunique() > 1 else every.iloc[:0]
    shown = pd.concat([together.assign(region=None)[["way", "method", "region", "level", "coverage"]], single])
    level, levels, cells = c.level, sorted(every["level"].unique()), together.set_index(["way", "method", "level"])
    nine = cells.xs(level, level="level")
    rows = []
    for key in keys:
        row = [c.label(key)]
        for way in ways:
            row += [fixed(100 * cells["coverage"].get((way, key, each), np.nan), 1) for each in levels]
            row += [fixed(nine[name].get((way, key), np.nan)) for name in ("mean_width", "interval_score")]
        rows.append(row)
    names = [*(f"of {100 * each:g} %" for each in levels), "Width", "Score"]
    caption = f"Profiles held (%) by intervals of each level; mean width and interval score of those of {100 * level:g} % "
    caption += f"({c.unit}; less is better)"
    parts = [paragraph(words) for words in _narrower(c, every[every["level"] == level])]
    alt = "Share of profiles found in intervals against the share promised; numbers in the table that follows"
    note = "Share of profiles found in an interval less the share promised. On the dashed line an interval keeps its promise; "
    note += "below it is too narrow. Small marks: single regions."
    parts.append(page.figure("coverage", alt, note, draw.coverage, shown, c.look(keys), ways))
    parts.append(Table(caption, [("", ["Method"]), *((words, names) for words in ways.values())], rows).to_html())
    strata = c.coverage[(c.coverage["stratum"] != "all") & (c.coverage["way"] == c.headline) & (c.coverage["level"] == level)]
    if len(strata):
        found = pooled(strata, ["stratum", "method"]).set_index(["stratum", "method"])
        rows = []
        for stratum in strata["stratum"].unique():
            here = found.loc[stratum]
            cells_of = [[fixed(100 * here["coverage"].get(k, np.nan), 1), fixed(here["mean_width"].get(k, np.nan))] for k in keys]
            rows.append([stratum, fact(int(here["n"].max())), *(cell for pair in cells_of for cell in pair)])
        groups = [("", ["Stratum", "n"]), *((c.label(key), ["Held (%)", f"Width ({c.unit})"]) for key in keys)]
        parts.append(Table(f"By stratum: intervals of {100 * level:g} %, {c.ways[c.headline]}", groups, rows).to_html())
    return "\n".join(parts)


def _narrower(c: Comparison, rows: pd.DataFrame) -> list[str]:
    """Say how wide the winner's intervals are beside those of each other method, mean of regions."""
    here = rows[rows["way"] == c.headline].set_index(["method", "region"])[["mean_width", "interval_score"]]
    if (winner := c.facts["winner"]) not in here.index:
        return []
    ratios = {key: (100 * (here.loc[winner] / here.loc[key] - 1)).mean() for key in here.index.unique("method") if key != winner}
    return [
        f"On {c.ways[c.headline]}, intervals of {c.label(winner)} are {percent(abs(ratio['mean_width']), False)} "
        f"{'narrower' if ratio['mean_width'] < 0 else 'wider'} than those of {c.label(key)}, and their interval score, which "
        f"charges for width and for misses, is {percent(abs(ratio['interval_score']), False)} "
        f"{'lower (better)' if ratio['interval_score'] < 0 else 'higher (worse)'}, mean of regions."
        for key, ratio in ratios.items()
    ]


def _dissimilarity(c: Comparison, page: Page) -> str:
    rows = c.held_out().dropna(subset="di")
    lines = []
    sides = c.inside_out()
    for region, here in rows.groupby("region", sort=False):
        fifths = np.array_split(here.sort_values("di")["error"].to_numpy(), 5)
        ratio = np.median(fifths[-1]) / np.median(fifths[0]) if len(fifths[0]) else np.nan
        side = sides.loc[region] if region in sides.index else pd.Series(np.nan, sides.columns)
        share = percent(100 * side["n_in"] / (side["n_in"] + side["n_out"]), False)
        counted = [fact(int(side[name])) if math.isfinite(side[name]) else "–" for name in ("n_in", "n_out")]
        lines.append(
            (ratio, [str(region), share, counted[0], fixed(side["mae_in"]), counted[1], fixed(side["mae_out"]), fixed(ratio)])
        )
    above = sum(ratio > 1 for ratio, _ in lines)
    told = f"In {above} of {count(len(lines), 'region')} the fifth of profiles least like the training profiles has a larger "
    alt = "Median absolute error against dissimilarity to the training profiles, by region"
    note = "Median and middle half of the absolute error in bins of equally many profiles; above each bin its number of profiles. "
    note += "Dashed: the end of the area of applicability."
    picture = page.figure("dissimilarity", alt, note, draw.error_against_dissimilarity, rows, c.unit)
    groups = [
        ("", ["Region", "Share inside"]),
        ("inside", ["n", f"MAE ({c.unit})"]),
        ("outside", ["n", f"MAE ({c.unit})"]),
        ("error, strangest fifth", ["over most familiar"]),
    ]
    table = Table("The area of applicability, region by region", groups, [line for _, line in lines])
    return "\n".join([paragraph(f"{told}median error than the fifth most like them."), picture, table.to_html()])


def _residuals(c: Comparison, page: Page) -> str:
    alt = "Maps of observed minus predicted, by region"
    note = f"Scored on {c.ways[c.headline]}. Patches of one colour: what is missed there is systematic. Each map has its own ramp."
    return page.figure("residuals", alt, note, draw.residual_maps, c.held_out(), c.unit)


def _selection(c: Comparison, _: Page) -> str:
    wide = c.selection.pivot_table(index=["score", "region"], columns="chosen_on", values="value", sort=False)
    if not {"validation", "test"} <= set(wide.columns):
        return ""
    wide["gap"] = wide["test"] - wide["validation"]
    rows, words = [], []
    for score, group in wide.groupby(level="score", sort=False):
        lines = [(str(name[1]), row) for name, row in group.iterrows()]
        lines += [(MEAN, group.mean())] if len(group) > 1 else []
        title = score_title(str(score), c.unit) if score in SCORES else str(score)
        rows += [[title, name, *(fixed(row[k], 3, k == "gap") for k in ("validation", "test", "gap"))] for name, row in lines]
        words.append(f"{SCORES.get(str(score), score)} by {fixed(group['gap'].mean(), 3, True)}")
    told = f"Keeping the epoch that scores best on the test profiles would have changed {', '.join(words)} on average: skill "
    groups = [("", ["Score", "Region"]), ("epoch chosen on", ["validation", "test"]), ("", ["flattered by"])]
    table = Table("Scores on the test profiles, mean over folds, by what chose the epoch", groups, rows, 2)
    return (
        paragraph(f"{told}that is not there on new land. No other score here is of an epoch that test profiles chose.")
        + table.to_html()
    )


def _floor(c: Comparison, _: Page) -> str:
    mae = c.table[(c.table["method"] == c.facts["winner"]) & (c.table["way"] == c.headline)].set_index("region")["mae"]
    rows = [
        [row["region"], fact(int(row["n"])), *map(fixed, (row["floor_mae"], row["median_mae"], mae.get(row["region"], np.nan)))]
        for _, row in c.floor.iterrows()
    ]
    share = (100 * c.floor["floor_mae"] / c.floor["median_mae"]).mean()
    told = (
        f"Profiles in one raster cell share every covariate and still differ: predicted by the median of their cell mates, they "
        f"are missed by {percent(share, False)} of what the region's median misses, mean of regions. No map of these covariates "
        "can beat that by much."
    )
    groups = [("", ["Region", "Profiles that share a cell"]), ("MAE on these", ["cell mates", "region's median"])]
    groups.append(("MAE on all", [c.label(c.facts["winner"])]))
    return paragraph(told) + Table(f"The noise floor ({c.unit})", groups, rows).to_html()


def _compared(c: Comparison, _: Page) -> str:
    methods = c.facts["methods"]
    rows = [[c.label(k), c.kind(k), str(methods.get(k, {}).get("meaning", ""))] for k in c.order]
    parts = [
        Table("Methods", [("", ["Method", "Kind", "What it is"])], rows, 3).to_html().replace("<table>", '<table class="told">')
    ]
    if c.facts["notes"]:
        parts.append(f"<h3>Notes</h3><ul>{''.join(f'<li>{html.escape(str(note))}</li>' for note in c.facts['notes'])}</ul>")
    parts.append(f'<h3>To repeat it</h3><pre tabindex="0"><code>{html.escape(c.facts["how"])}</code></pre>')
    settings = [[name, words] for name, words in flattened(c.facts["settings"])]
    if settings:
        parts.append(folded("Settings", Table("Settings", [("", ["Name", "Value"])], settings, 2).to_html()))
    return "\n".join(parts)
