"""The report of an analysis of drivers: one page, its figures, every table as CSV, and mismatch.json for programs.

In: `Results`, tables in memory. Out: report.html, PNG, CSV and JSON files in a folder. A section without data is left out.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.drivers import figures as draw
from soilcarbon.drivers.importance import MAIN_METHOD
from soilcarbon.drivers.mismatch import EVERYWHERE, Interval, Results
from soilcarbon.drivers.responses import CurveShape
from soilcarbon.html import Block, Code, Details, FigureFolder, Note, Section, Strong, Table, fixed, format_value
from soilcarbon.html import write_report as write_page
from soilcarbon.io.files import write_json, write_table
from soilcarbon.io.manifest import result_set

FIGURES = (
    *("drivers", "variables", "responses_accumulated", "responses_partial", "joint_accumulated", "joint_partial"),
    *("zones", "responses_zones", "map"),
)
CAVEAT = (
    "Importance is not causation: it measures what a learner uses. A variable may stand for another that is not among the "
    "covariates, and correlated variables share what they explain; so drivers are permuted whole, within strata of places that are "
    "alike in all else (conditional)."
)
METHOD_NAMES = {"conditional": "conditional permutation", "shapley": "Shapley values"}
_AXIS = "importance: growth of the squared error of ln carbon, permuted within strata"
_MOST_IMPORTANT = 3
"""Drivers named in the verdict."""


def write_report(folder: Path, results: Results) -> None:
    """Write report.html, figures, tables and mismatch.json; files of an earlier report that this one does not have are removed."""
    with result_set(folder, "drivers") as new:
        _write_report(new, results)


def _write_report(folder: Path, results: Results) -> None:
    r, figures = results, FigureFolder(folder)
    tables = {f"{name}.csv": table for name, table in r.tables().items()}
    for name, table in tables.items():
        if len(table):
            write_table(folder / name, table)
    write_json(folder / "mismatch.json", r.record() | {"caveat": CAVEAT})
    sections = [
        Section("mismatch", "Differences between models and observations", _mismatch(r, figures) if r.models else []),
        Section("importance", "Importance", _importance(r, figures)),
        Section("responses", "Responses", _responses(r, figures) if len(r.responses) else []),
        Section("zones", "Zones", _zones(r, figures) if r.facts["zones"] else []),
        Section("skill", "Skill of the learners", [skill_table(r)]),
        Section("method", "Data and settings", _method(r)),
    ]
    support = r.facts["support"]
    subject = f"{support['places']:,} places ({support['support']}) in {r.facts['blocks']:,} blocks"
    write_page(folder / "report.html", r.facts["title"], subject, [in_words(r), verdict(r), CAVEAT], sections)


def verdict(r: Results) -> str:
    """Return the result in a line: the most important drivers, and of each model the significant differences."""
    lead = r.facts["lead"]
    rows = _lead_rows(r, "driver")
    rows = rows[rows["target"] == r.reference].sort_values("share", ascending=False).head(_MOST_IMPORTANT)
    top = ", ".join(
        f"{row.name} {_bracketed(Interval(row.share, row.share_low, row.share_high), 0, ' %')}" for row in rows.itertuples(False)
    )
    skill = r.skill[(r.skill["target"] == r.reference) & (r.skill["learner"] == lead)].iloc[0]
    parts = [f"{r.reference}: {top} of importance ({lead}, R² {fixed(skill['r2'])})"]
    for model in r.models:
        every = [each for each in r.lead if each.model == model]
        found = [each for each in every if each.significant]
        sized = [each for each in found if each.kind == "importance" and each.zone == EVERYWHERE]
        listed = ", ".join(f"{each.name} {'more' if each.difference.value > 0 else 'less'} important" for each in sized)
        parts.append(f"{model}: {len(found)} of {len(every)} differences are significant" + (f" ({listed})" if listed else ""))
    return "; ".join(parts) + "."


def in_words(r: Results) -> str:
    """Return the result in one or two plain sentences, with which the report opens."""
    rows = _lead_rows(r, "driver")
    first, *others = rows[rows["target"] == r.reference].sort_values("share", ascending=False).head(2).itertuples(False)
    text = f"Soil carbon in {_named(r.reference)} follows {first.name} most ({first.share:.0f} % of what all drivers explain)"
    text += f", then {others[0].name} ({others[0].share:.0f} %)." if others else "."
    alike = []
    for model in r.models:
        found = [each for each in r.lead if each.model == model and each.kind == "importance" and each.zone == EVERYWHERE]
        sure = [each for each in found if each.significant]
        more, less = ([each.name for each in sure if (each.difference.value > 0) == up] for up in (True, False))
        parts = [f"{_listed(names)} too {much}" for names, much in ((more, "much"), (less, "little")) if names]
        if parts:
            text += f" In {_named(model)} it follows {' and '.join(parts)}."
        else:
            alike.append(_named(model))
    return text + (f" In {_listed(alike)} no driver clearly counts for more or less." if alike else "")


def _named(target: str) -> str:
    """Return the name of a target in a sentence: words have an article, names have none."""
    return f"the {target}" if target[:1].islower() else target


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- text of numbers ---------------------------------------------------------------------------------------------------


def _bracketed(found: Interval, places: int = 2, unit: str = "") -> str:
    """Return a value and its interval; a dash where there is none."""
    if not np.isfinite(found.value):
        return "–"
    return f"{fixed(found.value, places)}{unit} [{fixed(found.low, places)}, {fixed(found.high, places)}]"


def _rank(found: Interval) -> str:
    value, low, high = (f"{each:.0f}" for each in vars(found).values())
    return value if low == high else f"{value} [{low}, {high}]"


def _lead_rows(r: Results, kind: str, zone: str = EVERYWHERE) -> pd.DataFrame:
    """Return importances by the lead and the main method."""
    rows = r.importance
    mine = (rows["learner"] == r.facts["lead"]) & (rows["method"] == MAIN_METHOD)
    return rows[mine & (rows["kind"] == kind) & (rows["zone"] == zone)]


# --- sections ----------------------------------------------------------------------------------------------------------


def _mismatch(r: Results, figures: FigureFolder) -> list[Block]:
    alt = "Where models are relatively richer or poorer in carbon than the observations"
    note = "Carbon predicted from covariates out of fold, each target relative to its own mean."
    level, refits = 100 * r.facts["level"], r.facts["refits"][r.facts["lead"]]
    explained = (
        f"Intervals of {level:g} % over {refits} refits of {r.facts['lead']} on random half-samples of the blocks, each tested on "
        "the other half. Importance: growth of the squared error of ln carbon when a driver is permuted within strata, "
        "extrapolated to infinite sample size. Response: change of ln carbon from the 5th to the 95th percentile of places; "
        "distance: root mean square between the curves. Statistic: largest studentised difference over its max-T critical value; "
        f"above 1 (bold) significant, with a family-wise error rate of {100 - level:g} %. Noise is added to models so that they "
        "are as hard to predict as the observations."
    )
    blocks: list[Block] = [
        mismatch_table(r),
        Note(explained),
        figures.draw("map", alt, note, draw.mismatch_map, r.places, r.models, r.reference),
    ]
    return [*blocks, ensemble_table(r)] if len(r.ensemble) and r.ensemble["models"].max() > 1 else blocks


def _importance(r: Results, figures: FigureFolder) -> list[Block]:
    blocks: list[Block] = []
    level, axis = 100 * r.facts["level"], f"{_AXIS} (n = {r.facts['support']['places']:,})"
    note = f"Conditional permutation on held-out blocks, {r.facts['lead']} trained on half-samples; line: {level:g} % interval."
    for kind, name in (("driver", "drivers"), ("variable", "variables")):
        alt = f"Importance of each {kind}, by target; shares of it in the table that follows"
        blocks.append(figures.draw(name, alt, note, draw.importance_bars, _lead_rows(r, kind), axis))
        table = importance_table(r, kind)
        blocks.append(table if kind == "driver" else Details("All variables, by every learner and method", [table]))
    members = [[driver, ", ".join(names)] for driver, names in r.facts["drivers"].items()]
    drivers = Table("Drivers and their variables", ["Driver", "Variables"], members, [False, False])
    return [*blocks, Details("Agreement of methods", [agreement_table(r)]), drivers]


def _responses(r: Results, figures: FigureFolder) -> list[Block]:
    lead, level = r.facts["lead"], 100 * r.facts["level"]
    bends = {key: found.at for key, found in r.shapes.items()}
    blocks: list[Block] = []
    mine = r.responses[(r.responses["learner"] == lead) & (r.responses["zone"] == EVERYWHERE)]
    for method, title in (("accumulated", "Accumulated local effects"), ("partial", "Partial dependence")):
        rows = mine[mine["method"] == method]
        note = f"{title}. Band: {level:g} % interval; lower ticks: tenths of the places; circle: bend."
        values = rows, bends if method == "accumulated" else {}
        figure = figures.draw(f"responses_{method}", f"{title} of each variable, by target", note, draw.response_curves, *values)
        blocks.append(figure if method == "accumulated" else Details(title, [figure]))
    blocks.append(shape_table(r))
    joint = r.joint[r.joint["learner"] == lead].dropna(subset="value") if len(r.joint) else r.joint
    for method, title in (("accumulated", "Second-order accumulated local effects"), ("partial", "Joint partial dependence")):
        if len(joint):
            rows = joint[joint["method"] == method]
            title = f"{title} of {rows['first'].iloc[0]} and {rows['second'].iloc[0]}"
            note = f"{title}. Crosses: the {level:g} % interval includes zero."
            figure = figures.draw(f"joint_{method}", f"{title}, by target", note, draw.joint_surfaces, rows)
            blocks.append(figure if method == "accumulated" else Details(title, [figure]))
    return blocks


def _zones(r: Results, figures: FigureFolder) -> list[Block]:
    lead = r.facts["lead"]
    rows = r.importance[(r.importance["zone"] != EVERYWHERE) & (r.importance["learner"] == lead)]
    found = list(dict.fromkeys(rows["zone"]))
    lost = [zone for zone in r.facts["zones"] if zone not in found]
    blocks: list[Block] = []
    if found:
        alt, note = (
            "Importance of each driver, by zone and target",
            f"Drivers permuted within strata among held-out places of a zone; {lead}.",
        )
        blocks.append(figures.draw("zones", alt, note, draw.importance_bars, rows, _AXIS))
        blocks += [importance_table(r, "driver", zone) for zone in found]
    curves = r.responses
    if len(curves):
        curves = curves[(curves["zone"] != EVERYWHERE) & (curves["learner"] == lead)]
    if len(curves):
        note = f"Accumulated local effects among the held-out places of a zone. Band: {100 * r.facts['level']:g} % interval."
        alt = "Response of carbon to each variable, by zone and target"
        blocks.append(Details("Responses by zone", [figures.draw("responses_zones", alt, note, draw.response_curves, curves, {})]))
    if lost:
        least = f"R² below {r.facts['settings']['min_skill']:g}, or not significantly above 0"
        blocks.append(Note(f"Not reported, as {lead} has no skill there ({least}): {', '.join(lost)}."))
    return blocks


def _method(r: Results) -> list[Block]:
    support = r.facts["support"]
    counted = {
        "Missing values filled by the median or the commonest class": sum(support["filled"].values()),
        "Covariates with such values": len(support["filled"]),
        "Places left out, as they lack more than half of the covariates": support["left_out"],
        **{f"Cells of {name} with profiles": n for name, n in support.get("cells_with_profiles", {}).items()},
    }
    rows = [[name, value if isinstance(value, str | int | float) else str(value)] for name, value in r.facts["settings"].items()]
    return [
        support_table(r),
        Table("Counts", ["", "Number"], list(counted.items())),
        Code(r.facts["command"]),
        Details("Settings", [Table("Settings", ["Name", "Value"], rows, [False, False])]),
    ]


# --- tables ------------------------------------------------------------------------------------------------------------


def skill_table(r: Results) -> Table:
    """Return each learner's skill on each target, on held-out blocks."""
    rows = []
    for _, row in r.skill.iterrows():
        ends = [[row[f"{score}{end}"] for end in ("", "_low", "_high")] for score in ("r2", "ccc")]
        scored = [_bracketed(Interval(*(np.nan if each is None else each for each in three))) for three in ends]
        rows.append([row["target"], row["learner"], int(row["n"]), *scored, "yes" if row["reported"] else "no skill"])
    caption = f"Skill on held-out blocks of {r.facts['block_size']:g} degrees, of ln carbon [{100 * r.facts['level']:g} % interval]"
    note = f"Drivers of a learner whose R² is below {r.facts['settings']['min_skill']:g} would be those of its errors."
    return Table.grouped(caption, [("", ["Target", "Learner", "Places", "R²", "CCC", "Reported"])], rows, 2, note)


def importance_table(r: Results, kind: str, zone: str = EVERYWHERE) -> Table:
    """Return shares of importance of each target by the lead and the main method, then the reference's by all others."""
    lead, some = r.facts["lead"], r.importance[(r.importance["kind"] == kind) & (r.importance["zone"] == zone)]
    cells = {
        (row.target, row.learner, row.method, row.name): _bracketed(Interval(row.share, row.share_low, row.share_high), 1)
        for row in some.itertuples(False)
    }
    mine = _lead_rows(r, kind, zone)
    targets = list(dict.fromkeys(mine["target"]))
    others = [key for key in dict.fromkeys(key[1:3] for key in cells if key[0] == r.reference) if key != (lead, MAIN_METHOD)]
    columns = [*((target, lead, MAIN_METHOD) for target in targets), *((r.reference, *other) for other in others)]
    order = mine[mine["target"] == r.reference].sort_values("share", ascending=False)["name"]
    rows = [[name, *(cells.get((*column, name), "–") for column in columns)] for name in order]
    groups = [("", [kind.capitalize()]), (f"{METHOD_NAMES[MAIN_METHOD]}, {lead}", targets)]
    if others:
        names = [f"{learner}: {METHOD_NAMES.get(method, method)}" for learner, method in others]
        groups.append((f"{r.reference}, other methods", names))
    caption = f"Share of importance, % [{100 * r.facts['level']:g} % interval]" + ("" if zone == EVERYWHERE else f", {zone}")
    return Table.grouped(caption, groups, rows)


def mismatch_table(r: Results) -> Table:
    """Return all differences by the lead, and which other learners find the same sign."""
    others = {
        learner: {(c.kind, c.model, c.name, c.zone): c.difference.value for c in every}
        for learner, every in r.contrasts.items()
        if learner != r.facts["lead"]
    }
    rows = []
    for each in r.lead:
        key = each.kind, each.model, each.name, each.zone
        same = [learner for learner, found in others.items() if found.get(key, 0.0) * each.difference.value > 0]
        ranks = f"{_rank(each.observed_rank)} / {_rank(each.modelled_rank)}" if np.isfinite(each.observed_rank.value) else "–"
        statistic = fixed(each.statistic)
        row = [each.model, each.kind, each.name, each.zone, Strong(statistic) if each.significant else statistic]
        row += [_bracketed(found) for found in (each.observed, each.modelled, each.difference, each.ratio, each.distance)]
        rows.append([*row, ranks, ", ".join(same) or "–"])
    names = ["Model", "Kind", "Driver or variable", "Zone", "Statistic", "Observed", "Modelled", "Difference", "Ratio", "Distance"]
    caption = f"{sum(each.significant for each in r.lead)} of {len(rows)} differences are significant"
    return Table.grouped(caption, [("", [*names, "Ranks", "Same sign by"])], rows, 4)


def shape_table(r: Results) -> Table:
    """Return the shape of each response."""

    def bend(found: CurveShape) -> str:
        ends = f" [{format_value(found.low)}, {format_value(found.high)}]" if found.high > found.low else ""
        return f"{format_value(found.at)}{ends}"

    rows = [[v, t, found.shape, bend(found), f"{100 * found.agreement:.0f} %"] for (t, v), found in r.shapes.items()]
    header = ["Variable", "Target", "Shape", "Bend", "Refits that agree"]
    return Table("Shapes of responses", header, sorted(rows), [False, False, False, True, True])


def agreement_table(r: Results) -> Table:
    """Return the table of Kendall's tau between learners and methods in ranking the reference's variables."""
    rows = [[row.a, row.b, fixed(row.tau)] for row in r.agreement[r.agreement["target"] == r.reference].itertuples()]
    caption = f"Kendall's tau of the order of variables, {r.reference}: 1 the same order, 0 none"
    return Table(caption, ["One", "Other", "Tau"], rows, [False, False, True])


def ensemble_table(r: Results) -> Table:
    """Return the table of the model ensemble beside the observations."""
    rows = []
    for row in r.ensemble.itertuples():
        observed, mean, low, high = (fixed(each) for each in (row.observed, row.mean, row.low, row.high))
        rows.append([row.driver, observed, row.observed_rank, mean, row.mean_rank, f"{low} to {high}", row.above, row.below])
    models = ["mean", "rank", "range", "significantly above", "significantly below"]
    return Table.grouped("Importance in all models", [("", ["Driver", "Observed", "Rank"]), ("models", models)], rows)


def support_table(r: Results) -> Table:
    """Return the table of targets: kind, unit, file and number of places."""
    rows = []
    for name, facts in r.facts["targets"].items():
        source = f"{facts['file']}: {facts['variable']}" if "file" in facts else "–"
        source += f", mean of {facts['times']:,} times" if facts.get("times", 1) > 1 else ""
        cells = f"{facts['cells']:,} of {fixed(facts['cell_km'], 0)} km" if "cells" in facts else "profiles"
        row = [name, facts["kind"], facts["unit"], source, cells, facts["places"], facts["without"]]
        rows.append([*row, fixed(r.facts["noise"].get(name, np.nan))])
    names = ["Target", "Kind", "Unit", "File", "Cells", "With a value", "Without", "Noise added"]
    caption = f"Targets at {r.facts['support']['places']:,} places ({r.facts['support']['support']})"
    note = "Compared as ln(0.05 + carbon / median), so that units and levels do not matter."
    return Table.grouped(caption, [("", names)], rows, 5, note)
