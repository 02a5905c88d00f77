"""Say what a comparison found: the sentences of the answer, and the tables.

In: a `Comparison`. Out: the answer as pairs of plain texts, what stands out and the rest; each `Table` as words in rows,
which turns itself into HTML or Markdown, escaped. Sentences are made from the numbers and say so where an interval leaves
the answer open. Where a table stands and what explains it is up to `comparesections`.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from soilcarbon.benchmark.comparison import (
    LESS_IS_BETTER,
    MEAN,
    SCORES,
    Comparison,
    bounds,
    changed,
    count,
    fact,
    fixed,
    percent,
    pooled,
    score_title,
    verdict,
)

_FACTS = {"profiles": "Profiles", "blocks": "Blocks", "w_km": "W (km)"}
_FEWEST = 5
"""Profiles on either side of the area of applicability below which its mean error is not used."""


@dataclass(frozen=True)
class Table:
    """Hold the words of a table: groups of columns (a title, "" for none, and the columns), rows, columns of text first."""

    caption: str
    groups: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    def to_html(self) -> str:
        """Return it with everything escaped, in a box of its own that scrolls."""
        names = [name for _, group in self.groups for name in group]
        kinds = ["" if k < self.texts else ' class="number"' for k in range(len(names))]
        cells = [f'<th scope="col"{kind}>{html.escape(name)}</th>' for kind, name in zip(kinds, names, strict=True)]
        head = f"<tr>{''.join(cells)}</tr>"
        if any(title for title, _ in self.groups):
            over = "".join(
                f'<th scope="colgroup" colspan="{len(group)}">{html.escape(title)}</th>'
                if title
                else f'<td colspan="{len(group)}"></td>'
                for title, group in self.groups
            )
            head = f'<tr class="over">{over}</tr>\n{head}'
        body = ""
        for first, *others in self.rows:
            shown = (_strong(cell, f"<td{kind}>", "</td>") for kind, cell in zip(kinds[1:], others, strict=True))
            body += f"<tr>{_strong(first, _ROW, '</th>')}{''.join(shown)}</tr>\n"
        caption = html.escape(self.caption)
        return (
            f'<div class="wide" role="region" tabindex="0" aria-label="{caption}"><table>\n'
            f"<caption><span>{caption}</span></caption>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>"
        )

    def to_markdown(self) -> str:
        """Return it in Markdown, a group's title before the names of its columns."""
        names = [f"{title}: {name}" if title else name for title, group in self.groups for name in group]
        marks = ["---" if k < self.texts else "---:" for k in range(len(names))]
        lines = [[markdown(name) for name in names], marks]
        lines += [[f"**{markdown(cell)}**" if isinstance(cell, Best) else markdown(cell) for cell in row] for row in self.rows]
        return f"{markdown(self.caption)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


_ROW = '<th scope="row">'


class Best(str):
    """Be a cell that stands out."""


def _strong(cell: str, start: str, end: str) -> str:
    words = html.escape(cell)
    return f"{start}<strong>{words}</strong>{end}" if isinstance(cell, Best) else f"{start}{words}{end}"


def markdown(text: str) -> str:
    """Return a text of which Markdown makes neither markup nor columns."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


# --- the answer ----------------------------------------------------------------------------------------------------


def answer(c: Comparison) -> list[tuple[str, str]]:
    """Return sentences that answer the reader's questions, each as what stands out and the rest."""
    said = [_against(c, c.headline), *(_elsewhere(c, way) for way in list(c.ways)[:-1]), _wrong(c), _where(c)]
    return [each for each in said if each]


def _moved(change: pd.Series) -> str:
    """Say by how much MAE and CCC moved, with intervals."""
    mae, ccc = change["mae"], change["ccc"]
    words = f"its mean absolute error (MAE) is {percent(abs(mae), False)} {'lower' if mae < 0 else 'higher'}"
    low, high = (fixed(change[f"mae_{end}"], 1, True) for end in ("low", "high"))
    words += " (no interval)" if "–" in (low, high) else f" (paired 95 % interval {low} to {high} %)"
    if math.isfinite(ccc):
        low, high = (fixed(change[f"ccc_{end}"], 3, True) for end in ("low", "high"))
        words += f" and its concordance (CCC) {fixed(abs(ccc), 3)} {'higher' if ccc > 0 else 'lower'} ({low} to {high})"
    return words


def _against(c: Comparison, way: str) -> tuple[str, str]:
    winner, rival = c.label(c.facts["winner"]), c.label(c.facts["strongest"].get(way, "no baseline"))
    change = c.change(way, c.facts["winner"])
    if c.facts["winner"] == c.facts["strongest"].get(way):
        return "No network is better than the strongest baseline:", f"scored on {c.ways[way]}, that is {rival}."
    if change is None:
        return "Which is better cannot be said:", f"{winner} and {rival} were not compared on the same profiles."
    lead = {
        "better": f"{winner} is better than the strongest baseline, {rival}:",
        "worse": f"{winner} is worse than the strongest baseline, {rival}:",
        "open": f"No difference can be told between {winner} and the strongest baseline, {rival}:",
    }[verdict(change)]
    single = [c.change(way, c.facts["winner"], region) for region in c.facts["regions"]]
    known = [row["mae"] for row in single if row is not None]
    lower = f"; MAE is lower in {sum(mae < 0 for mae in known)} of {count(len(known), 'region')}" if known else ""
    end = ". The interval includes zero: it may be chance." if change["mae_low"] <= 0 <= change["mae_high"] else "."
    return lead, f"scored on {c.ways[way]}, {_moved(change)}{lower}{end}"


def _elsewhere(c: Comparison, way: str) -> tuple[str, str] | None:
    change = c.change(way, c.facts["winner"])
    if change is None:
        return None
    lead = {"better": "it is better", "worse": "it is worse", "open": "no difference can be told"}[verdict(change)]
    rival = c.facts["strongest"][way]
    whom = f" against the strongest there, {c.label(rival)}" if rival != c.facts["strongest"].get(c.headline) else ""
    return f"Scored on {c.ways[way]}, {lead}{whom}:", f"{_moved(change)}."


def _wrong(c: Comparison) -> tuple[str, str] | None:
    rows, key = c.held_out(), c.facts["winner"]
    mae = c.table[(c.table["way"] == c.headline) & (c.table["method"] == key)]["mae"]
    if mae.empty:
        return None
    words = f"MAE is {fixed(mae.mean())} {c.unit}" + (
        f" ({fixed(mae.min())} to {fixed(mae.max())} by region)" if len(mae) > 1 else ""
    )
    if len(rows):
        middle, typical = rows["error"].median(), rows["observed"].median()
        words += f"; half of all held-out profiles are missed by less than {fixed(middle)} {c.unit}"
        words += f" (the middle one holds {fixed(typical)})"
    held = pooled(c.coverage[(c.coverage["method"] == key) & (c.coverage["way"] == c.headline)], ["region", "level", "stratum"])
    if not (held := held[held["stratum"] == "all"]).empty:
        level = c.level
        held = held[held["level"] == level]
        share = 100 * np.average(held["coverage"], weights=held["n"])
        miss = share - 100 * level
        judged = (
            "as promised"
            if abs(miss) <= 2
            else "fewer than promised: read them as too narrow"
            if miss < 0
            else "more than promised"
        )
        span = (
            f" ({fixed(100 * held['coverage'].min(), 1)} to {fixed(100 * held['coverage'].max(), 1)} by region)"
            if len(held) > 1
            else ""
        )
        words += f". Its {100 * level:g} % intervals held {percent(share, False)}{span} of profiles, {judged}"
    return "How wrong it may be:", f"{words}."


def _where(c: Comparison) -> tuple[str, str] | None:
    parts = c.inside_out()
    if parts.empty:
        return None
    share = 100 * parts["n_in"].sum() / (parts["n_in"] + parts["n_out"]).sum()
    words = f"{percent(share, False)} of held-out profiles lie inside the area of applicability"
    told = parts[(parts["n_in"] >= _FEWEST) & (parts["n_out"] >= _FEWEST)]
    if told.empty:
        return "Where it may be used:", f"{words}; too few lie outside to tell how much larger errors are there."
    inside, outside = told["mae_in"].mean(), told["mae_out"].mean()
    change, low, high = c.outside([str(region) for region in told.index])
    lesson = "leaving it says little about errors here" if not (low > 0 or high < 0) else "do not rely on the map there"
    lesson = "errors are smaller there, so it warns in vain" if high < 0 else lesson
    over = f" (mean of {count(len(told), 'region')})" if len(told) < len(parts) or len(told) > 1 else ""
    words += f"; MAE is {fixed(inside)} {c.unit} inside and {fixed(outside)} outside{over}; on the scale of ln(1 + target), where "
    words += f"a soil's level does not matter, errors are {percent(change)} [{fixed(low, 0, True)}, {fixed(high, 0, True)}] outside"
    return "Where it may be used:", f"{words}: {lesson}."


def claim(change: pd.Series) -> str:
    """Say whether changes of MAE (by region and n) bear out that the fewer the profiles, the larger the gain."""
    ends = [(each.iloc[0], each.iloc[-1]) for _, each in change.groupby(level="region") if len(each) > 1]
    if not ends:
        return "Curves of one size only cannot tell whether fewer profiles gain more."
    more = sum(few < many for few, many in ends)
    few, many = np.mean(ends, axis=0)
    found = "bear out" if more == len(ends) else "contradict" if more == 0 else "do not settle"
    full = change.groupby(level="region").tail(1).reset_index("n_train")  # between regions, each with all it has
    rank = full["n_train"].corr(full["mae"], method="spearman") if len(full) > 3 and full["n_train"].nunique() > 1 else math.nan
    between = f" Between regions, the rank correlation of profiles and change is {fixed(rank, sign=True)}." if rank == rank else ""
    return (
        f"The curves {found} the claim that the fewer profiles a region has, the more it gains: the change of MAE is "
        f"{percent(few)} with the fewest profiles and {percent(many)} with the most (mean of regions), and the gain is larger with "
        f"the fewest in {more} of {count(len(ends), 'region')}. This is a count of regions, not a test.{between}"
    )


# --- tables --------------------------------------------------------------------------------------------------------


def skill_table(c: Comparison) -> Table:
    """Return the mean scores of every method in every way, the lowest MAE of the headline's way first."""
    means, names = c.means, [s for s in SCORES if c.table[s].notna().any()]
    counts = c.table.groupby(["way", "method"])[names].count()
    size = {s: means[s] if s in ("ccc", "r2", "rpiq") else -means[s].abs() for s in names}
    best = {(way, s): size[s].xs(way, level="way").max() for way in c.ways for s in names}
    rows = []
    for key in c.order:
        row: list[str] = [c.label(key), c.kind(key)]
        for way in c.ways:
            for s in names:
                at = (way, key)
                words = fixed(means.loc[at, s]) if at in means.index else "–"
                words += "*" if at in means.index and 0 < counts.loc[at, s] < c.table["region"].nunique() else ""
                row.append(Best(words) if at in means.index and size[s][at] == best[way, s] else words)
        rows.append(row)
    caption = f"Mean over {count(c.table['region'].nunique(), 'region')}; bold: the best of a column, which may be by chance"
    caption += f"; MAE, RMSE and ME in {c.unit}"
    caption += "; *: of fewer regions, undefined in others" if any(cell.endswith("*") for row in rows for cell in row[2:]) else ""
    groups = [("", ["Method", "Kind"]), *((words, [SCORES[s] for s in names]) for words in c.ways.values())]
    return Table(caption, groups, rows, 2)


def change_table(c: Comparison, names: Sequence[str] = ("mae", "ccc")) -> Table:
    """Return each method's change against the strongest baseline with its interval, sorted as the skill table."""
    rows = []
    for key in c.order:
        cells = [c.change(way, key) for way in c.ways]
        is_rival = [c.facts["strongest"].get(way) == key for way in c.ways]
        shown = ["reference" if rival else changed(row, s) for row, rival in zip(cells, is_rival, strict=True) for s in names]
        if any(words != "–" for words in shown):
            rows.append([c.label(key), *shown])
    titles = [f"{SCORES[s]} (%)" if s in LESS_IS_BETTER else SCORES[s] for s in names]
    groups = [("", ["Method"]), *((words, titles) for words in c.ways.values())]
    return Table("Change against the strongest baseline of each way [paired 95 % interval], mean of regions", groups, rows)


def region_changes(c: Comparison) -> Table:
    """Return the winner's change against the strongest baseline, region by region."""
    winner = c.facts["winner"]
    rows: list[list[str]] = []
    learnt = c.table[c.table["way"] == c.headline].groupby("region")["n_train"].first().to_dict()
    for region in [*c.facts["regions"], MEAN]:
        found = [c.change(way, winner, region) for way in c.ways]
        if any(row is not None for row in found) and (region != MEAN or len(rows) > 1):
            rows.append(
                [
                    region,
                    fact(learnt.get(region)),
                    *(changed(row, s) for row in found for s in ("mae", "ccc")),
                ]
            )
    groups = [("", ["Region", "Learnt from"]), *((words, ["MAE (%)", "CCC"]) for words in c.ways.values())]
    return Table(f"{c.label(winner)} against the strongest baseline, region by region [paired 95 % interval]", groups, rows)


def region_table(c: Comparison, region: str, way: str, suffix: str) -> Table:
    """Return all scores with intervals in one region and way; with the suffix "_log", those of ln(1 + target)."""
    rows = c.table[(c.table["region"] == region) & (c.table["way"] == way)].set_index("method")
    names = [s for s in SCORES if f"{s}{suffix}" in rows and rows[f"{s}{suffix}"].notna().any()]
    words = partial(fixed, places=3 if suffix else 2)
    found = rows.to_dict("index")
    shown = [[c.label(key), *(bounds(found[key], f"{s}{suffix}", words) for s in names)] for key in c.order if key in found]
    counts = f"{fact(rows['n_train'].iloc[0])} training and {fact(rows['n_test'].iloc[0])} held-out profiles" if len(rows) else ""
    scale = "scores of ln(1 + target)" if suffix else "scores"
    titles = [SCORES[s] if suffix else score_title(s, c.unit) for s in names]
    return Table(f"{region}, {c.ways[way]}: {scale} [95 % interval]; {counts}", [("", ["Method", *titles])], shown if names else [])


def folds_table(c: Comparison) -> Table:
    """Return the facts of regions, and those of each way in each region."""
    regions = c.facts["regions"]
    own = list(dict.fromkeys(name for facts in regions.values() for name in facts))
    by_way = {way: [name for name, v in facts.items() if isinstance(v, Mapping)] for way, facts in c.facts["ways"].items()}
    rows = []
    for region, facts in regions.items():
        scores = c.table[(c.table["region"] == region) & (c.table["method"] == c.facts["winner"])].set_index("way")["mae"]
        row = [region, *(fact(facts.get(name)) for name in own)]
        for way, names in by_way.items():
            row += [fact(c.facts["ways"][way][name].get(region)) for name in names] + [fixed(scores.get(way, np.nan))]
        rows.append(row)
    last = f"MAE ({c.unit})"
    groups = [
        ("", ["Region", *(_FACTS.get(name, name) for name in own)]),
        *((c.ways[w], [*(_FACTS.get(n, n) for n in names), last]) for w, names in by_way.items()),
    ]
    caption = f"Regions and folds, with the MAE of {c.label(c.facts['winner'])}"
    if any("w_km" in names for names in by_way.values()):
        caption += "; W: how far held-out profiles and the map's cells differ in distance to training, 0 is best"
    return Table(caption, groups, rows)
