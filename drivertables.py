"""Say what controls soil carbon and where models disagree: the sentences of the answer, and the tables.

In: `Drivers`. Out: the answer as pairs of plain texts, what stands out and the rest; mismatches in words, the strongest first;
each table as a `comparetables.Table`, which escapes itself. Sentences are made from the numbers and say so where an interval
leaves the answer open.
"""

import numpy as np

from comparetables import Best, Table
from comparison import count, fact, fixed
from driverfacts import Drivers
from mismatch import EVERYWHERE, Contrast, Interval
from pictures import sensible
from responses import Found

CAVEAT = (
    "Importance is not causation: it tells what a learner's predictions rest on. A variable may stand for another that is not "
    "among the covariates, and correlated variables share what they know, by chance one way or the other; so drivers are permuted "
    "whole, and once more within places alike in all else (conditional)."
)
METHOD_WORDS = {
    "permutation": "permutation",
    "conditional": "conditional permutation",
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
_NEXT_TO_NOTHING = 2.0
"""Share of importance, %."""


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
    shares = f"{bracketed(contrast.modelled, 0, ' %')} of importance against {bracketed(contrast.observed, 0, ' %')}"
    if contrast.difference.value < 0 and contrast.modelled.value < _NEXT_TO_NOTHING:
        words = f"matters in {reference} and next to nothing in {model} ({shares})."
    elif np.isfinite(contrast.ratio.value):
        value, low, high = (fixed(each, 1) for each in vars(contrast.ratio).values())
        words = f"{value} times as important in {model} as in {reference} [{low}, {high}] ({shares})."
    elif contrast.difference.value > 0:
        words = f"more important in {model} than in {reference} ({shares})."
    else:
        words = f"less important in {model} than in {reference} ({shares})."
    return f"{contrast.of}{where}:", words


def _response(d: Drivers, contrast: Contrast) -> str:
    def moves(found: Interval) -> str:
        size = fixed(abs(found.value), 2)
        return f"{'rises' if found.value > 0 else 'falls'} by {size}" if float(size) else "hardly changes"

    ours, theirs = (d.shapes[name, contrast.of] for name in (d.reference, contrast.model))
    words = (
        f"over the middle 90 % of places carbon {moves(contrast.observed)} in {d.reference} and "
        f"{moves(contrast.modelled)} in {contrast.model} (difference {bracketed(contrast.difference, 2)} standard "
        f"deviations; distance between the curves {bracketed(contrast.distance, 2)})"
    )
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
        top = [each for each in named if each.zone == EVERYWHERE and each.kind == "importance"][:_FEW] or named[:_FEW]
        listed = "; ".join(" ".join(sentence(d, each)).rstrip(".") for each in top)
        rest = f"{count(len(named), 'difference')} of {len(every)} named; in {risk} of reports at most one is by chance. {listed}."
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
    rows = rows[(rows["kind"] == "driver") & (rows["method"] == "permutation")].sort_values("share", ascending=False)
    top = ", ".join(
        f"{row.of} ({fixed(row.share, 0)} % [{fixed(row.low, 0)}, {fixed(row.high, 0)}])" for row in rows.head(_FEW).itertuples()
    )
    skill = d.skill[(d.skill["target"] == d.reference) & (d.skill["learner"] == lead)].iloc[0]
    return (
        f"What controls {d.reference}: {top}.",
        f"Shares of the permutation importance of drivers by {lead}, whose R² on held-out blocks is {fixed(skill['r2'])} "
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
            parts.append(f"{row.driver}: {told} (mean {fixed(row.mean, 0)} %, observed {fixed(row.observed, 0)} %)")
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
    """Return shares of importance by the lead's permutation of each target, then by the reference's other methods and learners."""
    lead, some = d.facts["lead"], d.importance[(d.importance["kind"] == kind) & (d.importance["zone"] == zone)]
    cells = {
        (row.target, row.learner, row.method, row.of): f"{fixed(row.share, 1)} [{fixed(row.low, 1)}, {fixed(row.high, 1)}]"
        for row in some.itertuples()
    }
    mine = some[(some["learner"] == lead) & (some["method"] == "permutation")]
    columns = [(target, lead, "permutation") for target in dict.fromkeys(mine["target"])]
    others = [
        (d.reference, learner, method)
        for learner in d.facts["bootstraps"]
        for method in METHOD_WORDS
        if (learner, method) != (lead, "permutation") and (d.reference, learner, method) in {key[:3] for key in cells}
    ]
    order = mine[mine["target"] == d.reference].sort_values("share", ascending=False)["of"]
    rows = [[name, *(cells.get((*column, name), "–") for column in [*columns, *others])] for name in order]
    groups = [("", [kind.capitalize()]), (f"permutation, {lead}", [target for target, *_ in columns])]
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
        places = 1 if each.kind == "importance" else 2
        strength = fixed(each.strength)
        row = [each.model, each.kind, each.of, each.zone, bracketed(each.observed, places), bracketed(each.modelled, places)]
        row += [bracketed(each.difference, places), bracketed(each.ratio, 2) if np.isfinite(each.ratio.value) else "–"]
        rows.append([*row, Best(strength) if each.named else strength, ", ".join(same) or "–"])
    names = ["Model", "Kind", "Of", "Where", "Observed", "Modelled", "Difference", "Ratio", "Strength", "Same sign by"]
    caption = (
        "Importance: % of the sum over drivers. Response: change over the middle 90 % of places, standard deviations. Strength "
        "above 1 (bold): larger than chance makes the largest of all"
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
            row.driver,
            fixed(row.observed, 1),
            fixed(row.mean, 1),
            f"{fixed(row.low, 1)} to {fixed(row.high, 1)}",
            str(row.above),
            str(row.below),
        ]
        for row in d.ensemble.itertuples()
    ]
    groups = [("", ["Driver", "Observed"]), ("models", ["mean", "range", "named above", "named below"])]
    return Table("Models together: shares of importance, %", groups, rows)


def support_table(d: Drivers) -> Table:
    """Return what each target is and how many places it has."""
    rows = []
    for name, facts in d.facts["targets"].items():
        cells = f"{facts['cells']:,} of {fixed(facts['cell_km'], 0)} km" if "cells" in facts else "profiles"
        source = f"{facts['file']}: {facts['variable']}" if "file" in facts else "–"
        noise = d.facts["noise"].get(name)
        row = [name, facts["kind"], facts["unit"], source, cells, fact(facts["places"]), fact(facts["without"])]
        rows.append([*row, "–" if noise is None else fixed(noise)])
    names = ["Target", "Kind", "Unit", "File", "Cells", "With a value", "Without", "Noise added"]
    places, blocks = fact(d.facts["support"]["places"]), fact(d.facts["blocks"])
    caption = f"Targets, brought to {d.facts['support']['support']}: {places} places in {blocks} blocks"
    return Table(caption, [("", names)], rows, 5)
