"""Page of a claim: the facts of `claim.claim_facts` as one self-contained HTML file.

In: the facts as they are written to claim.json. Out: claim.html, which shows them in tables, and all of them once more as they
are in the JSON.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soilcarbon.html import Block, Details, Items, Note, Section, Strong, Table, bracketed, flattened, format_value, write_report
from soilcarbon.mapping.claim import PLOTS, UNCHECKED

NOT_THE_STANDARD = (
    "The rule and its levels are settings of this program. No standard's text was at hand when it was written: whoever claims "
    "under a standard (such as Verra VM0042 with VT0014) must check formula, levels, thresholds and rounding against that text."
)
_CHECKS = (
    ("Inputs.", "Compute SHA-256 of every file listed (sha256sum FILE) and compare; explain those 'changed' or 'not here'."),
    ("Sampling.", "How were plots and validation points drawn, when, and by whom? A random draw is not visible in a table."),
    ("Independence.", "Validation points must not have been used in training or in choosing the model."),
    ("Depth and soil mass.", "Changes compared by equivalent soil mass, to the same depth, by the same laboratory methods."),
    ("Interval.", "Does the share of points inside agree with the stated level? Is the test for bias passed?"),
    ("Rule.", "Recompute the deduction from change, standard error and df by the formula given; compare with the standard's text."),
)
_NOT_COVERED = (
    "Not in the interval: an error shared by all places of a visit, such as another laboratory, unless stated (--shared_sd); "
    "points that could not be reached; a wrong boundary or area; baseline, leakage and permanence. Nothing here says why "
    "the soil changed: without a control or baseline a change is no effect of management."
)


def write_claim(path: Path, title: str, facts: Mapping[str, Any]) -> None:
    """Write the page, atomically."""
    sections = [
        Section("warnings", "Warnings", [Items(facts["warnings"])] if facts["warnings"] else ["None."]),
        Section("change", "Stock and change", _estimates(facts)),
        Section("deduction", "Deduction for uncertainty", _deduction(facts)),
        Section("validation", "Validation of the map", _validation(facts["validation"])),
        Section("errors", "Error budget", _errors(facts)),
        Section("objects", "Area, map and plots", _objects(facts)),
        Section("checks", "What a verifier should check", [Items(_CHECKS), Note(_NOT_COVERED)]),
        Section("inputs", "Inputs and their checksums", _inputs(facts)),
        Section("settings", "Settings, versions, and all facts", _everything(facts)),
    ]
    write_report(
        path,
        title,
        "Claim of soil organic carbon: what was measured, how sure it is, and what is credited.",
        verdict(facts),
        sections,
    )


def verdict(facts: Mapping[str, Any]) -> list[str]:
    """Return the result as sentences: what is credited, of which change, and how many warnings there are."""
    count = len(facts["warnings"])
    warned = [f"{count} warning{'s' if count != 1 else ''}, below."] if count else []
    area = hectares(facts)
    change, off = facts["change"], facts["deduction"]
    if change is None:
        given = any(row["quantity"] == "change" for row in facts["estimates"])
        why = UNCHECKED if given else "Nothing is credited: no change was given."
        return [f"{why} Area {area}.", *_stock_sentence(facts), *warned]
    unit = f" {change['unit']}" if change["unit"] else ""
    credited = f"{format_value(off['credited'])}{unit}"
    for name, mass in (("credited_total_t_c", "t of carbon"), ("credited_total_t_co2e", "t of CO2 equivalents")):
        if off.get(name) is not None:
            credited += f", {format_value(off[name])} {mass}"
    rule = f"one-sided confidence {_percent(off['confidence'])}" if off["confidence"] is not None else "discount"
    plots = facts["plots"]
    between = f" from {plots['visits'][0]} to {plots['visits'][1]}" if plots is not None and change["method"] == PLOTS else ""
    periods = facts["map"]["periods"] if facts["map"] is not None else []
    if not between and len(periods) > 1:
        between = f" from {periods[0]} to {periods[-1]}"
    return [
        f"Credited: {credited} over {area} ({rule}).",
        f"Change{between}, {change['method']}: {_interval(change)}{unit}; {_percent(change['level'])} interval.",
        *_stock_sentence(facts),
        *warned,
    ]


def hectares(facts: Mapping[str, Any]) -> str:
    """Return the area as text."""
    area = facts["area"]["hectares"]
    return f"{area:,.0f} ha" if area >= 1000 else f"{area:.3g} ha"


def _stock_sentence(facts: Mapping[str, Any]) -> list[str]:
    row = next((row for row in facts["estimates"] if row["quantity"] == "stock"), None)
    if row is None:
        return []
    return [f"Mean stock, {row['method']}: {_interval(row)} {row['unit']}."]


def _interval(row: Mapping[str, Any], of: str = "") -> str:
    return bracketed(*(row[f"{of}{name}"] for name in ("value", "low", "high")))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"


def _estimates(facts: Mapping[str, Any]) -> list[Block]:
    rows, claimed = [], facts["change"]
    for row in facts["estimates"]:
        name = f"{row['quantity']}, {row['method']}"
        total = "–" if row["total_value"] is None else _interval(row, "total_")
        cells = [row["n"], _interval(row), row["unit"], row["standard_error"], row["df"], total]
        rows.append([Strong(f"{name} (claimed)") if row == claimed else name, *cells])
    level = facts["estimates"][0]["level"] if facts["estimates"] else 0.9
    header = ["", "n", f"mean [{_percent(level)} interval]", "unit", "standard error", "df", "total (t of carbon)"]
    note = (
        "Measured at both visits: the places alone. Map and probability sample: the map's mean plus the weighted mean of the "
        "residuals at the sample (difference estimator), free of bias whatever the map. Map alone: by the map's own error model."
    )
    numeric = [False, True, True, False, True, True, True]
    blocks: list[Block] = [Table("By each method that there is evidence for", header, rows, numeric, note=note)]
    detectable = facts["minimum_detectable_change"]
    if detectable is not None:
        blocks.append(
            f"Minimum detectable change of this design: {format_value(detectable['value'])} {detectable['unit']} (power "
            f"{_percent(detectable['power'])}, {detectable['sides']}-sided, confidence {_percent(detectable['confidence'])})."
        )
    return blocks


def _deduction(facts: Mapping[str, Any]) -> list[Block]:
    off = facts["deduction"]
    if off is None:
        return ["No change, no deduction.", Note(NOT_THE_STANDARD)]
    unit = off["unit"]
    rows = [
        ["change", off["change"], unit],
        [f"deduction ({off['rule']})", off["deduction"], unit],
        ["deduction, share of the change", off["deduction_percent"], "%"],
        ["half-width of the two-sided interval, share of the change", _percent(off["relative_half_width"]), ""],
        [Strong("credited"), off["credited"], unit],
        ["credited, whole area", off["credited_total_t_c"], "t of carbon"],
    ]
    if "credited_total_t_co2e" in off:
        rows.append(["credited, whole area (x 44/12)", off["credited_total_t_co2e"], "t of CO2e"])
    rows.append(["one-sided confidence that the change is not less", _percent(off["implied_confidence"]), ""])
    return [
        Table(f"Rule {off['rule']}: {off['formula']}", ["", "value", "unit"], rows, [False, True, False]),
        Note(NOT_THE_STANDARD),
    ]


_SCORES = (
    ("n", "points with a value of the map", ""), ("given", "points given", ""),
    ("inside_share", "share inside their prediction interval", "share"), ("bias", "bias: mean of map minus point", "unit"),
    ("bias_p", "p of no bias (two-sided t test)", "p"), ("rmse", "RMSE", "unit"), ("mec", "MEC: 1 - MSE / variance", ""),
    ("r2", "R²: squared correlation", ""),
)  # fmt: skip


def _validation(found: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for name, title in (("map", "Map"), ("map_of_change", "Map of change")):
        scores = found[name]
        if scores is None:
            continue
        rows = []
        for key, label, kind in _SCORES:
            if key not in scores:
                continue
            shown = format_value(scores[key])
            if kind == "share":
                ends = f"{_percent(scores['inside_low'])} to {_percent(scores['inside_high'])}"
                counted = f"{scores['inside']} of {scores['n']}; binomial 95 % interval {ends}"
                shown = f"{_percent(scores[key])} ({counted}; nominal {_percent(scores['nominal'])})"
            elif key == "bias":
                shown = f"{bracketed(scores['bias'], scores['bias_low'], scores['bias_high'])} {scores['unit']}"
            elif kind == "unit":
                shown += f" {scores['unit']}"
            elif kind == "p":
                shown = "< 0.001" if scores[key] is not None and scores[key] < 0.001 else shown
                shown += f" (t {format_value(scores['bias_t'])}, df {format_value(scores['bias_df'])})"
            rows.append([label, shown])
        if "inside_share_of_area" in scores:
            rows.append(["share of the area inside, design-based", _percent(scores["inside_share_of_area"])])
        blocks += [Table(title, ["", "value"], rows, [False, False], note=scores["design"] + ".")]
    near = found["training_profiles"]
    if near is not None:
        blocks.append(
            f"Training profiles: {near['profiles']:,}. Validation points at one of them: {near['points_at_profiles']}; within the "
            f"width of a cell ({format_value(near['cell_m'])} m): {near['points_within_a_cell']}."
        )
    return blocks or ["No map was validated."]


def _errors(facts: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for of in dict.fromkeys(row["of"] for row in facts["error_budget"]):
        rows = [row for row in facts["error_budget"] if row["of"] == of]
        cells = [[row["source"], row["variance"], _percent(row["share"])] for row in rows]
        blocks.append(Table(f"Variance of: {of}", ["source", f"variance {rows[0]['unit']}", "share"], cells))
    return blocks or ["Not known."]


def _objects(facts: Mapping[str, Any]) -> list[Block]:
    area = facts["area"]
    blocks: list[Block] = [f"Area: {hectares(facts)}; {area['source']}."]
    if facts["map"] is not None:
        rows = [[key, value] for key, value in flattened({k: v for k, v in facts["map"].items() if v and k != "notes"})]
        blocks.append(Table("Map", ["name", "value"], rows, [False, False]))
    if facts["plots"] is not None:
        plots = facts["plots"]
        shown = {name: value if isinstance(value, str) else format_value(value) for name, value in plots.items()}
        chosen = ", ".join(f"{name} {value}" for name, value in plots["chosen"].items())
        lines = [
            ["how they were drawn", shown["design"]],
            ["which change", chosen],
            ["visits", f"{' and '.join(plots['visits'])}; years between: {shown['years']}"],
            ["places at each visit", f"{shown['n_before']} and {shown['n_after']}"],
            ["places at one visit only, left out", f"{shown['alone_before']} and {shown['alone_after']}"],
            ["mean at each visit", f"{shown['before']} and {shown['after']} {plots['unit']}"],
            ["standard deviation between places", f"{shown['sd_before']} and {shown['sd_after']} {plots['unit']}"],
        ]
        blocks.append(Table("Plots", ["", "value"], lines, [False, False]))
    return blocks


def _inputs(facts: Mapping[str, Any]) -> list[Block]:
    given = [[name, digest] for name, digest in facts["inputs"].items()]
    blocks: list[Block] = [Table("Read for this claim", ["file", "SHA-256"], given, [False, False])]
    if facts["recorded_inputs"]:
        rows = [[row["file"], row["sha256"], row["now"], row["recorded_by"]] for row in facts["recorded_inputs"]]
        header = ["file", "SHA-256 when it was read", "now", "recorded by"]
        blocks.append(Table("Read by the commands before", header, rows, [False] * 4))
    return blocks


def _everything(facts: Mapping[str, Any]) -> list[Block]:
    rows = [[name, value] for name, value in flattened(facts)]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    settings = [[name, value] for name, value in flattened(facts["settings"])]
    return [
        f"Made by {versions}.",
        Table("Settings", ["name", "value"], settings, [False, False]),
        Details("All facts, as in claim.json", [Table("", ["name", "value"], rows, [False, False])]),
    ]
