"""Put what controls soil carbon into one page that a modeller reads without Python, and a record that a program reads.

In: `Drivers`, tables in memory. Out: report.html, which needs neither network nor scripts, the figures in it as PNG, every table as
CSV, and mismatch.json. What a table does not hold is left out with its section. Names may be a stranger's: all that is put into
the page is escaped, here or in `comparetables.Table`.
"""

import html
import math
from collections.abc import Callable
from pathlib import Path

from soilcarbon.benchmark.sections import Page
from soilcarbon.benchmark.tables import Table
from soilcarbon.drivers import figures as draw
from soilcarbon.drivers.facts import Drivers, as_plain
from soilcarbon.drivers.importance import FOREMOST
from soilcarbon.drivers.mismatch import EVERYWHERE
from soilcarbon.drivers.tables import (
    CAVEAT,
    agreement_table,
    answer,
    ensemble_table,
    importance_table,
    mismatch_table,
    sentence,
    shape_table,
    skill_table,
    support_table,
)
from soilcarbon.html import fill, folded, paragraph
from soilcarbon.io.files import write_json, write_table, write_text
from soilcarbon.mapping.page import flattened

FIGURES = (
    "drivers",
    "variables",
    "responses_accumulated",
    "responses_partial",
    "joint_accumulated",
    "joint_partial",
    "zones",
    "responses_zones",
    "map",
)


def write_report(folder: Path, drivers: Drivers) -> None:
    """Write report.html, figures, tables and mismatch.json; what an earlier report had and this one lacks is removed.

    Parameters
    ----------
    folder
        Made if need be.
    drivers
        What to tell.
    """
    d, page = drivers, Page(folder)
    for name, table in d.tables().items():
        if len(table):
            write_table(folder / f"{name}.csv", table)
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_json(folder / "mismatch.json", record(d))
    wanted: list[tuple[str, str, bool, Callable[[Drivers, Page], str]]] = [
        ("mismatch", "Where models disagree with observations", bool(d.models), _mismatch),
        ("importance", "What matters", True, _importance),
        ("responses", "How carbon responds", len(d.responses) > 0, _responses),
        ("zones", "By zone", bool(d.facts["zones"]), _zones),
        ("skill", "Whether the learners may be asked", True, _skill),
        ("method", "What was compared, and how to repeat it", True, _method),
    ]
    bodies = [(name, title, make(d, page)) for name, title, there, make in wanted if there]
    (lead, rest), *others = answer(d)
    told = f'<p class="lead"><strong>{html.escape(lead)}</strong> {html.escape(rest)}</p>'
    told += "".join(f"<p><strong>{html.escape(lead)}</strong> {html.escape(rest)}</p>" for lead, rest in others)
    support = d.facts["support"]
    values = {
        "title": html.escape(d.facts["title"]),
        "target": html.escape(f"{support['places']:,} places ({support['support']}) in {d.facts['blocks']:,} blocks"),
        "answer": told,
        "contents": "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in bodies),
        "sections": "\n".join(f'<section id="{name}">\n<h2>{title}</h2>\n{body}\n</section>' for name, title, body in bodies),
    }
    write_text(folder / "report.html", fill("compare.html", values))
    for name in FIGURES:
        if f"{name}.png" not in page.drawn:
            (folder / f"{name}.png").unlink(missing_ok=True)


def record(d: Drivers) -> dict[str, object]:
    """Return what a program reads: every difference in numbers and, where it is named, in words; None where there is no number."""
    named = []
    for each in d.lead:
        words = " ".join(sentence(d, each)) if each.named else None
        named.append({**as_plain(each), "words": words})
    ensemble = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in d.ensemble.to_dict("records")
    ]
    facts = {name: value for name, value in d.facts.items() if name != "settings"}
    shapes = [
        {
            "target": target,
            "variable": variable,
            "shape": found.shape,
            "agreed": found.agreed,
            **{
                name: value if math.isfinite(value) else None
                for name, value in (("at", found.at), ("low", found.low), ("high", found.high))
            },
        }
        for (target, variable), found in d.shapes.items()
    ]
    return {"facts": facts, "differences": named, "shapes": shapes, "ensemble": ensemble, "caveat": CAVEAT}


# --- sections ----------------------------------------------------------------------------------------------------------


def _mismatch(d: Drivers, page: Page) -> str:
    named = [sentence(d, each) for each in d.lead if each.named]
    parts = []
    if named:
        listed = "".join(f"<li><strong>{html.escape(of)}</strong> {html.escape(words)}</li>" for of, words in named)
        parts.append(f"<p>The strongest first:</p><ol>{listed}</ol>")
    else:
        parts.append("<p>None is larger than chance makes the largest of all.</p>")
    parts.append(paragraph(_how_named(d), "soft"))
    alt = "Where models are relatively richer or poorer in carbon than the observations"
    note = (
        "Carbon as covariates predict it out of fold, each target relative to its own mean: where a model puts relatively more "
        "of its carbon than the observations do."
    )
    parts.append(page.figure("map", alt, note, draw.mismatch_map, d.places, d.models, d.reference))
    parts.append(mismatch_table(d).to_html())
    if len(d.ensemble) and d.ensemble["models"].max() > 1:
        parts.append(ensemble_table(d).to_html())
    return "\n".join(parts)


def _how_named(d: Drivers) -> str:
    level, refits = 100 * d.facts["level"], d.facts["bootstraps"][d.facts["lead"]]
    return (
        f"Every interval is one of {level:g} %, over {refits} refits of {d.facts['lead']} on random halves of the blocks, each "
        "judged on the other half. Importance is the growth of the squared error of ln carbon when a driver is permuted within "
        "places alike in all else, as endless profiles would have taught it: halves fall short of that, and by how much is told by "
        "quarters. It is no share: where a model overdoes one driver, the shares of all others fall. A difference is named only if "
        "it is larger than what the largest of all reaches by chance, so that a report on a model that follows the observations' "
        f"law names none in {level:g} % of cases. Before that, "
        "each model's output was given noise like that of the observations until it was as hard to learn: a smooth output is "
        "learnt more fully, and its weaker drivers would seem to matter more."
    )


def _importance(d: Drivers, page: Page) -> str:
    lead = d.facts["lead"]
    parts = [paragraph(CAVEAT)]
    for kind, name in (("driver", "drivers"), ("variable", "variables")):
        rows = d.importance
        rows = rows[
            (rows["kind"] == kind) & (rows["learner"] == lead) & (rows["method"] == FOREMOST) & (rows["zone"] == EVERYWHERE)
        ]
        alt = f"Importance of each {kind}, by target; shares of it in the table that follows"
        note = f"Conditional permutation on held-out blocks, {lead}, as halves have learnt it; line: {100 * d.facts['level']:g} % "
        note += "interval." + (" Sizes of mismatches make up for what halves have not learnt." if d.models else "")
        words = "importance: growth of the squared error of ln carbon when permuted among like places"
        parts.append(page.figure(name, alt, note, draw.importance_bars, rows, words))
        table = importance_table(d, kind).to_html()
        parts.append(table if kind == "driver" else folded("All variables, by every learner and method", table))
    parts.append(folded("How far methods agree", agreement_table(d).to_html()))
    members = [[driver, ", ".join(names)] for driver, names in d.facts["drivers"].items()]
    table = Table("Drivers and their variables", [("", ["Driver", "Variables"])], members, 2).to_html()
    return "\n".join([*parts, table.replace("<table>", '<table class="told">')])


def _responses(d: Drivers, page: Page) -> str:
    lead, level = d.facts["lead"], 100 * d.facts["level"]
    bends = {key: found.at for key, found in d.shapes.items()}
    parts = []
    notes = {
        "accumulated": "Accumulated local effects: each place is moved only within its neighbourhood of values",
        "partial": "Partial dependence: all places are given each value in turn, also where it does not occur with the rest",
    }
    for way, note in notes.items():
        rows = d.responses[(d.responses["learner"] == lead) & (d.responses["way"] == way) & (d.responses["zone"] == EVERYWHERE)]
        alt = f"Response of carbon to each variable, by target: {way}"
        told = f"{note}. Band: {level:g} % interval; lower ticks: tenths of the places; circle: where the response bends."
        figure = page.figure(f"responses_{way}", alt, told, draw.response_curves, rows, bends if way == "accumulated" else {})
        parts.append(figure if way == "accumulated" else folded("The same by partial dependence", figure))
    parts.append(shape_table(d).to_html())
    if len(d.joint):
        for way, words in (("accumulated", "beyond what each does alone"), ("partial", "as partial dependence")):
            rows = d.joint[(d.joint["learner"] == lead) & (d.joint["way"] == way)]
            both = f"{rows['first'].iloc[0]} and {rows['second'].iloc[0]}"
            alt = f"What {both} do together, by target"
            told = f"What {both} do together, {words}. Crosses: the {level:g} % interval holds zero."
            figure = page.figure(f"joint_{way}", alt, told, draw.joint_surfaces, rows.dropna(subset="value"))
            parts.append(figure if way == "accumulated" else folded("The same pair by partial dependence", figure))
    return "\n".join(parts)


def _zones(d: Drivers, page: Page) -> str:
    lead = d.facts["lead"]
    rows = d.importance[(d.importance["zone"] != EVERYWHERE) & (d.importance["learner"] == lead)]
    told = list(dict.fromkeys(rows["zone"]))
    lost = [zone for zone in d.facts["zones"] if zone not in told]
    without = [paragraph(f"Not told of, for want of skill of {lead} there: {', '.join(lost)}.")] if lost else []
    if not told:
        return without[0]
    alt = "Importance of each driver, by zone and target"
    note = "Drivers permuted among held-out places of a zone that are alike in all else: what tells places of this zone apart. "
    note += f"{lead}; zones whose R² is below {d.facts['settings']['min_skill']:g}, or may be 0, are left out."
    parts = [page.figure("zones", alt, note, draw.zone_shares, rows)]
    parts += [importance_table(d, "driver", zone).to_html() for zone in told]
    curves = d.responses[(d.responses["zone"] != EVERYWHERE) & (d.responses["learner"] == lead)]
    if curves.empty:  # all variables may be classes
        return "\n".join([*parts, *without])
    alt = "Response of carbon to each variable, by zone and target"
    note = f"Accumulated local effects among the held-out places of a zone. Band: {100 * d.facts['level']:g} % interval."
    figure = page.figure("responses_zones", alt, note, draw.response_curves, curves, {})
    return "\n".join([*parts, folded("Responses by zone", figure), *without])


def _skill(d: Drivers, _: Page) -> str:
    words = (
        f"A learner that cannot predict held-out blocks is not asked what drives carbon: it would tell what drives its errors. "
        f"The least is R² {d.facts['settings']['min_skill']:g}."
    )
    return paragraph(words) + skill_table(d).to_html()


def _method(d: Drivers, _: Page) -> str:
    support = d.facts["support"]
    parts = [support_table(d).to_html()]
    filled = sum(support["filled"].values())
    told = f"Carbon is compared as ln(0.05 + carbon / median), so that units and levels do not matter. {filled:,} "
    told += f"missing values of {len(support['filled'])} covariates were filled by the median or the commonest class; "
    told += f"{support['left_out']:,} places lacked more than half of the covariates and were left out."
    parts.append(paragraph(told))
    if "cells_with_profiles" in support and support["cells_with_profiles"]:
        cells = "; ".join(f"{name}: {n:,}" for name, n in support["cells_with_profiles"].items())
        parts.append(
            paragraph(
                f"Profiles are compared one by one, and those in one cell of a model share its value. Cells that hold any: {cells}."
            )
        )
    parts.append(f'<h3>To repeat it</h3><pre tabindex="0"><code>{html.escape(d.facts["how"])}</code></pre>')
    settings = [[name, words] for name, words in flattened(d.facts["settings"])]
    parts.append(folded("Settings", Table("Settings", [("", ["Name", "Value"])], settings, 2).to_html()))
    return "\n".join(parts)
