"""Say what controls soil carbon and where models disagree: the sentences of the answer, and the tables.

In: `Drivers`. Out: the answer as pairs of plain texts, what stands out and the rest; mismatches in words, the strongest first;
each table as a `comparetables.Table`, which escapes itself. Sentences are made from the numbers and say so where an interval
leaves the answer open.
"""

import numpy as np

from soilcarbon.benchmark.comparison import count, fact, fixed
from soilcarbon.benchmark.tables import Best, Table
from soilcarbon.drivers.facts import Drivers
from soilcarbon.drivers.importance import FOREMOST
from soilcarbon.drivers.mismatch import EVERYWHERE, Contrast, Interval
from soilcarbon.drivers.responses import Found
from soilcarbon.mapping.picture import sensible

CAVEAT = (
    "Importance is not causation: it tells what a learner's predictions rest on. A variable may stand for another that is not "
    "among the covariates, and correlated variables share what they know, by chance one way or the other; so drivers are permuted "
    "whole, within places that are alike in all else (conditional): what they tell beyond the others counts."
)
METHOD_WORDS = {
    "conditional": "conditional permutation",
    "permutation": "free permutation",
    "impurity": "impurity",
    "shapley": "Shapley values",
}
_SHAPES = {
    "flat": "is flat",
    "rising": "rises throughout",
    "falling": "falls throughout",
    "saturating": "saturates at",
    "threshold": "sets in at",
    "peaked": "peaks at",
    "dipped": "is lowest at",
    "unclear": "has no one shape",
}
_FEW = 3
"""Drivers named in a sentence."""
_NEXT_TO_NOTHING = 0.1
"""Of the observed importance."""


def bracketed(found: Interval, places: int, unit: str = "") -> str:
    """Return an interval's value and ends as words."""
    return f"{fixed(found.value, places)}{unit} [{fixed(found.low, places)}, {fixed(found.high, places)}]"


def shape_words(found: Found) -> str:
    """Return a shape, and where it bends."""
    words = _SHAPES[found.shape]
    if not words.endswith((" at", " in at")):
        return words
    ends = f" [{sensible(found.low)}, {sensible(found.high)}]" if found.high > found.low else ""
    return f"{words} {sensible(found.at)}{ends}"


def sentence(d: Drivers, contrast: Contrast) -> tuple[str, str]:
    """Return a mismatch in words: what it is of, and the rest."""
    where = "" if contrast.zone == EVERYWHERE else f" ({contrast.zone})"
    model, reference = contrast.model, d.reference
    if contrast.kind == "response":
        return f"Response to {contrast.of}{where}:", _response(d, contrast)
    sizes = f"importance {bracketed(contrast.modelled, 2)} against {bracketed(contrast.observed, 2)}"
    sizes += f"; rank {_rank(contrast.modelled_rank)} against {_rank(contrast.observed_rank)}"
    if contrast.difference.value < 0 and contrast.modelled.value < _NEXT_TO_NOTHING * contrast.observed.value:
        words = f"matters in {reference} and next to nothing in {model} ({sizes})."
    elif np.isfinite(contrast.ratio.value):
        value, low, high = (fixed(each, 1) for each in vars(contrast.ratio).values())
        words = f"{value} times as important in {model} as in {reference} [{low}, {high}] ({sizes})."
    elif contrast.difference.value > 0:
        words = f"more important in {model} than in {reference} ({sizes})."
    else:
        words = f"less important in {model} than in {reference} ({sizes})."
    return f"{contrast.of}{where}:", words


def _rank(found: Interval) -> str:
    value, low, high = (f"{each:.0f}" for each in vars(found).values())
    return value if low == high else f"{value} [{low}, {high}]"


def _response(d: Drivers, contrast: Contrast) -> str:
    by, theirs_by, ratio = (
        Interval(*np.exp(list(vars(each).values()))) for each in (contrast.observed, contrast.modelled, contrast.difference)
    )
    words = (
        f"from its 5th to its 95th percentile carbon is multiplied by {bracketed(by, 2)} in {d.reference} and by "
        f"{bracketed(theirs_by, 2)} in {contrast.model} (ratio {bracketed(ratio, 2)}; distance between the curves "
        f"{bracketed(contrast.distance, 2)} of ln carbon)"
    )
    if contrast.zone != EVERYWHERE:
        return f"{words}."
    ours, theirs = (d.shapes[name, contrast.of] for name in (d.reference, contrast.model))
    if ours.shape == theirs.shape and not np.isfinite(ours.at):
        return f"{words}. In both the response {shape_words(ours)}."
    return f"{words}. In {d.reference} the response {shape_words(ours)}; in {contrast.model} it {shape_words(theirs)}."


def answer(d: Drivers) -> list[tuple[str, str]]:
    """Return sentences that answer the reader's questions, each as what stands out and the rest."""
    said = [_controls(d)]
    for model in d.models:
        every = [each for each in d.lead if each.model == model]
        named = [each for each in every if each.named]
        risk = f"{100 * (1 - d.facts['level']):.0f} %"
        if not named:
            rest = f"none of {count(len(every), 'difference')} is larger than chance makes the largest of them in {risk} of cases."
            said.append((f"No mismatch between {model} and {d.reference} can be told:", rest))
            continue
        ranked = sorted(named, key=lambda each: (each.kind != "importance", each.zone != EVERYWHERE))  # the strongest first in each
        foremost: dict[str, Contrast] = {}
        for each in ranked:
            foremost.setdefault(each.of, each)
        top = list(foremost.values())[:_FEW]
        listed = "; ".join(" ".join(sentence(d, each)).rstrip(".") for each in top)
        rest = f"{count(len(named), 'difference')} of {len(every)} named; in at most {risk} of reports is any by chance. {listed}."
        said.append((f"{model} disagrees with {d.reference}:", rest))
    said += [_ensemble(d)] if len(d.ensemble) and d.ensemble["models"].max() > 1 else []
    refused = d.skill[~d.skill["told"]]
    if len(refused):
        words = "; ".join(f"{row.target} by {row.learner} (R² {fixed(row.r2)})" for row in refused.itertuples())
        said.append(("Not told of, for want of skill on held-out blocks:", f"{words}."))
    return [*said, ("Read it with care.", CAVEAT)]


def _controls(d: Drivers) -> tuple[str, str]:
    lead = d.facts["lead"]
    rows = d.importance
    rows = rows[(rows["target"] == d.reference) & (rows["learner"] == lead) & (rows["zone"] == EVERYWHERE)]
    rows = rows[(rows["kind"] == "driver") & (rows["method"] == FOREMOST)].sort_values("share", ascending=False)
    top = ", ".join(
        f"{row.of} ({bracketed(Interval(row.share, row.share_low, row.share_high), 0, ' %')})"
        for row in rows.head(_FEW).itertuples()
    )
    skill = d.skill[(d.skill["target"] == d.reference) & (d.skill["learner"] == lead)].iloc[0]
    return (
        f"What controls {d.reference}: {top}.",
        f"Shares of the conditional importance of drivers by {lead}, whose R² on held-out blocks is {fixed(skill['r2'])} "
        f"[{fixed(skill['r2_low'])}, {fixed(skill['r2_high'])}].",
    )


def _ensemble(d: Drivers) -> tuple[str, str]:
    parts = []
    for row in d.ensemble.itertuples():
        if row.above or row.below:
            more, fewer = (
                f"{n} of {row.models} give it {words} weight" if n else ""
                for n, words in ((row.above, "more"), (row.below, "less"))
            )
            told = " and ".join(each for each in (more, fewer) if each)
            parts.append(f"{row.driver}: {told} (mean {fixed(row.mean, 2)}, observed {fixed(row.observed, 2)})")
    n = int(d.ensemble["models"].max())
    return f"The ensemble of {n} models:", ("; ".join(parts) or "no driver is named in any of them") + "."


# --- tables ------------------------------------------------------------------------------------------------------------


def skill_table(d: Drivers) -> Table:
    """Return each learner's skill on each target, on held-out blocks."""
    rows = [
        [row.target, row.learner, fact(row.n), _scored(row, "r2"), _scored(row, "ccc"), "yes" if row.told else "refused"]
        for row in d.skill.itertuples()
    ]
    caption = f"Skill on held-out blocks of {d.facts['block_size']:g} degrees, of ln carbon [{100 * d.facts['level']:g} % interval]"
    return Table(caption, [("", ["Target", "Learner", "Places", "R²", "CCC", "Told of"])], rows, 2)


def _scored(row: object, name: str) -> str:
    value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    return "–" if value is None else f"{fixed(value)} [{fixed(low)}, {fixed(high)}]"


def importance_table(d: Drivers, kind: str, zone: str = EVERYWHERE) -> Table:
    """Return shares of importance of each target by the lead's foremost method, then the reference's by all others."""
    lead, some = d.facts["lead"], d.importance[(d.importance["kind"] == kind) & (d.importance["zone"] == zone)]
    cells = {
        (row.target, row.learner, row.method, row.of): bracketed(Interval(row.share, row.share_low, row.share_high), 1)
        for row in some.itertuples()
    }
    mine = some[(some["learner"] == lead) & (some["method"] == FOREMOST)]
    columns = [(target, lead, FOREMOST) for target in dict.fromkeys(mine["target"])]
    others = [
        (d.reference, learner, method)
        for learner in d.facts["bootstraps"]
        for method in METHOD_WORDS
        if (learner, method) != (lead, FOREMOST) and (d.reference, learner, method) in {key[:3] for key in cells}
    ]
    order = mine[mine["target"] == d.reference].sort_values("share", ascending=False)["of"]
    rows = [[name, *(cells.get((*column, name), "–") for column in [*columns, *others])] for name in order]
    groups = [("", [kind.capitalize()]), (f"{METHOD_WORDS[FOREMOST]}, {lead}", [target for target, *_ in columns])]
    groups += (
        [(f"{d.reference}, otherwise", [f"{learner}: {METHOD_WORDS[method]}" for _, learner, method in others])] if others else []
    )
    caption = f"Share of importance, % [{100 * d.facts['level']:g} % interval]" + ("" if zone == EVERYWHERE else f", {zone}")
    return Table(caption, groups, rows)


def mismatch_table(d: Drivers) -> Table:
    """Return all differences by the lead, the strongest first, and which other learners find the same sign."""
    others = {learner: {(c.kind, c.model, c.of, c.zone): c for c in every} for learner, every in d.contrasts.items()}
    rows = []
    for each in d.lead:
        key = each.kind, each.model, each.of, each.zone
        same = [
            learner
            for learner, found in others.items()
            if learner != d.facts["lead"] and key in found and found[key].difference.value * each.difference.value > 0
        ]
        strength = fixed(each.strength)
        row = [each.model, each.kind, each.of, each.zone, Best(strength) if each.named else strength]
        row += [bracketed(found, 2) for found in (each.observed, each.modelled, each.difference)]
        row += [bracketed(found, 2) if np.isfinite(found.value) else "–" for found in (each.ratio, each.distance)]
        ranks = (each.observed_rank, each.modelled_rank)
        row.append(" / ".join(map(_rank, ranks)) if np.isfinite(ranks[0].value) else "–")
        rows.append([*row, ", ".join(same) or "–"])
    names = [*("Model", "Kind", "Of", "Where", "Strength"), *("Observed", "Modelled", "Difference", "Ratio", "Distance", "Ranks")]
    names.append("Same sign by")
    caption = (
        "Importance: growth of the squared error of ln carbon when a driver is permuted within places alike in all else, as "
        "endless profiles would have taught it; ranks: observed / modelled. Response: change of ln carbon from the 5th to the 95th "
        "percentile; distance: between the curves. Strength above 1 (bold): larger than chance makes the largest of all"
    )
    return Table(caption, [("", names)], rows, 4)


def shape_table(d: Drivers) -> Table:
    """Return the shape of each response."""
    rows = [[variable, target, shape_words(found), f"{100 * found.agreed:.0f} %"] for (target, variable), found in d.shapes.items()]
    return Table(
        "Shapes of responses, and the share of refits that agree",
        [("", ["Variable", "Target", "The response", "Agree"])],
        sorted(rows),
        3,
    )


def agreement_table(d: Drivers) -> Table:
    """Return how far ways to tell importance rank the reference's variables alike."""
    rows = [[row.a, row.b, fixed(row.tau)] for row in d.agreement[d.agreement["target"] == d.reference].itertuples()]
    return Table(
        f"Agreement on the order of variables, {d.reference}: Kendall's tau, 1 the same order, 0 none",
        [("", ["One", "Other", "Tau"])],
        rows,
        2,
    )


def ensemble_table(d: Drivers) -> Table:
    """Return models together beside the observations."""
    rows = [
        [
            *(row.driver, fixed(row.observed), str(row.observed_rank), fixed(row.mean), str(row.mean_rank)),
            *(f"{fixed(row.low)} to {fixed(row.high)}", str(row.above), str(row.below)),
        ]
        for row in d.ensemble.itertuples()
    ]
    groups = [("", ["Driver", "Observed", "Rank"]), ("models", ["mean", "rank", "range", "named above", "named below"])]
    return Table("Models together: importance, and how many differ from the observations", groups, rows)


def support_table(d: Drivers) -> Table:
    """Return what each target is and how many places it has."""
    rows = []
    for name, facts in d.facts["targets"].items():
        cells = f"{facts['cells']:,} of {fixed(facts['cell_km'], 0)} km" if "cells" in facts else "profiles"
        source = f"{facts['file']}: {facts['variable']}" if "file" in facts else "–"
        if facts.get("times", 1) > 1:
            source += f", mean of {facts['times']:,} times"
        noise = d.facts["noise"].get(name)
        row = [name, facts["kind"], facts["unit"], source, cells, fact(facts["places"]), fact(facts["without"])]
        rows.append([*row, "–" if noise is None else fixed(noise)])
    names = ["Target", "Kind", "Unit", "File", "Cells", "With a value", "Without", "Noise added"]
    places, blocks = fact(d.facts["support"]["places"]), fact(d.facts["blocks"])
    caption = f"Targets, brought to {d.facts['support']['support']}: {places} places in {blocks} blocks"
    return Table(caption, [("", names)], rows, 5)
