"""Facts of a claim of stored carbon, for a verifier: area, map, validation, stock, change, errors, deduction, warnings.

In: results of other commands (`claim_sources`) and validations (`claim_validation`). Out: one nested dict, written as JSON and
shown by `claim_page`; both hold the same facts. Values are per hectare (t/ha of carbon), totals in t of carbon.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from soilcarbon.mapping.claim_sources import DENSITY, Mapped, MeasuredChange
from soilcarbon.mapping.claim_validation import Validation
from soilcarbon.stats.credit import Rule, Uncertain, credit
from soilcarbon.stats.power import Sides, detectable_effect

CO2E = 44.0 / 12.0
"""Mass of CO2 over that of its carbon."""
PLOTS, CORRECTED, MAP = "measured at both visits", "map and probability sample", "map alone"
UNCHECKED = "The only change is that of the map alone, which no plots and no probability sample check: nothing is credited."
BASES = {"plots": PLOTS, "difference": CORRECTED, "map": MAP}
"""Of a claimed change."""
_MANY_DF = 1e6
"""Of a normal distribution, where a t distribution is asked for."""
_FEW_POINTS = 30
_AREAS_DIFFER = 0.05
_BIAS_P = 0.05
"""Of a test for bias: a smaller one is a warning."""


@dataclass(frozen=True)
class Terms:
    """How much is credited, and with which confidence."""

    basis: str  # one of `BASES`; "auto" for plots, else the corrected map
    rule: Rule  # rule, confidence, threshold: as of `stats.credit.credit`
    confidence: float
    threshold: float
    level: float  # of two-sided intervals
    shared_sd: float  # standard deviation of an error that all places of a visit share, in the unit of the change
    power: float  # power, sides: of the minimum detectable change
    sides: Sides
    area_ha: float | None  # None: that of the map
    co2e: bool  # whether the credit is converted to CO2 equivalents


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on; None: not given."""

    measured: MeasuredChange | None = None  # change of places that were sampled twice
    measurement: float | None = None  # variance of that change by the stated errors of cores, NaN if none were stated
    mapped: Mapped | None = None  # a map
    stock: Validation | None = None  # stock, change: validation of the map, and of the map of change
    change: Validation | None = None
    near: Mapping[str, Any] | None = None  # of `Validation.near`
    points_km2: float = math.nan  # area that `soilcarbon design` drew the points of the validation in


def claim_facts(evidence: Evidence, terms: Terms) -> dict[str, Any]:
    """Return all facts of a claim but its inputs and versions; what was not given is None.

    estimates are rows of stock and change by each method, change is the claimed one, error_budget rows of variances. ValueError if
    the asked basis is not there, or units or areas do not fit.
    """
    area, area_of = _area(evidence, terms)
    rows = _estimates(evidence, terms, area)
    changes = {row["method"]: row for row in rows if row["quantity"] == "change"}
    basis = _basis(changes, terms.basis)
    validation = {
        name: None if each is None else each.facts(terms.level, evidence.mapped.level if evidence.mapped else terms.level)
        for name, each in (("map", evidence.stock), ("map_of_change", evidence.change))
    }
    facts: dict[str, Any] = {
        "area": {"hectares": area, "source": area_of},
        "map": None if evidence.mapped is None else {**evidence.mapped.facts, "interval_level_of_cells": evidence.mapped.level},
        "plots": None if evidence.measured is None else evidence.measured.as_plain(),
        "validation": {**validation, "training_profiles": None if evidence.near is None else dict(evidence.near)},
        "estimates": rows,
        "change": None if basis is None else changes[basis],
        "error_budget": _budget(evidence, terms, basis, changes),
        "minimum_detectable_change": None if basis is None else _detectable(changes[basis], terms),
        "deduction": None if basis is None else deduction(changes[basis], terms, area),
    }
    return facts | {"warnings": warnings(facts, evidence, terms)}


# --- area and estimates -----------------------------------------------------------------------------------------------


def _area(evidence: Evidence, terms: Terms) -> tuple[float, str]:
    if terms.area_ha is not None:
        return terms.area_ha, "as stated (--area_ha)"
    if evidence.mapped is not None:
        return evidence.mapped.area_ha, "cells of the map with a value, true areas on the WGS84 ellipsoid"
    raise ValueError("the area is not known without a map; give --area_ha")


def _estimates(evidence: Evidence, terms: Terms, area: float) -> list[dict[str, Any]]:
    """Return rows of stock and change, by each method that there is evidence for."""
    rows = []
    measured, mapped = evidence.measured, evidence.mapped
    if measured is not None:
        sampled = measured.facts
        simple = not any(measured.settings.get(name) for name in ("block", "weight", "stratum"))
        n = sampled["n_after"]
        se = sampled["sd_after"] / n**0.5 if simple and n > 1 else math.nan
        stock = Uncertain(measured.after, se, n - 1)
        rows.append(_row("stock", PLOTS, stock, measured.unit, terms, area, n))
        change = measured.change.with_error(terms.shared_sd)
        rows.append(_row("change", PLOTS, change, measured.unit, terms, area, sampled["n_before"]))
    if mapped is not None:
        pairs = (("stock", mapped.stock, evidence.stock), ("change", mapped.change, evidence.change))
        for quantity, mean, validation in pairs:
            if mean is None:
                continue
            shared = terms.shared_sd if quantity == "change" else 0.0
            corrected = None if validation is None else validation.corrected(terms.level)
            if corrected is not None and validation is not None and validation.sampled is not None:
                if validation.unit != mean.unit:
                    raise ValueError(f"the map is in {mean.unit}, its points in {validation.unit}")
                n = int(validation.sampled.mapped.sum())
                rows.append(_row(quantity, CORRECTED, corrected.with_error(shared), mean.unit, terms, area, n))
            row = _row(quantity, MAP, mean.mean.with_error(shared), mean.unit, terms, area, None)
            if not shared and mean.level == terms.level and mean.mean.known:  # as the totals say, which may be skewed
                row |= _totals({"low": mean.low, "high": mean.high}, mean.unit, area)
            rows.append(row)
    return sorted(rows, key=lambda row: str(row["quantity"]))  # changes, then stocks


def _row(quantity: str, method: str, estimate: Uncertain, unit: str, terms: Terms, area: float, n: float | None) -> dict[str, Any]:
    low, high = estimate.interval(terms.level)
    row = {"quantity": quantity, "method": method, "n": n, "unit": unit, "standard_error": estimate.standard_error}
    row |= {"df": estimate.df if math.isfinite(estimate.df) else None, "level": terms.level}
    return row | _totals({"value": estimate.value, "low": low, "high": high}, unit, area)


def _totals(values: Mapping[str, float], unit: str, area: float) -> dict[str, float | None]:
    """Return values per hectare, and of the whole area in t; None of a unit that is no mass per area."""
    return {**values, **{f"total_{name}": value * area if unit == DENSITY else None for name, value in values.items()}}


def _uncertain(row: Mapping[str, Any]) -> Uncertain:
    return Uncertain(row["value"], row["standard_error"], math.inf if row["df"] is None else row["df"])


def _basis(changes: Mapping[str, Any], asked: str) -> str | None:
    """Return the method of the claimed change; None where there is none, or that of a map alone, which has to be asked for."""
    if asked == "auto":
        return next((method for method in (PLOTS, CORRECTED) if method in changes), None)
    if BASES[asked] not in changes:
        needs = {
            "plots": "--change",
            "difference": "a map of change, --points that are a probability sample, and --change_value",
            "map": "a map of several periods",
        }
        raise ValueError(f"basis {asked}: there is no such change; it needs {needs[asked]}")
    return BASES[asked]


# --- errors -----------------------------------------------------------------------------------------------------------


def _budget(evidence: Evidence, terms: Terms, basis: str | None, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows of the variances of the claimed mean change, and of the map's errors at one place, with shares of each."""
    rows = []
    if basis is not None and _uncertain(changes[basis]).known:
        shared = terms.shared_sd**2
        whole, known = changes[basis]["standard_error"] ** 2 - shared, evidence.measurement
        of, unit = f"claimed mean change ({basis})", f"({changes[basis]['unit']})²"
        parts: dict[str, float] = {}
        if basis == MAP:
            mapped = evidence.mapped.change if evidence.mapped is not None else None
            sources = mapped.sources if mapped is not None else {}
            parts |= sources or {"error model of the map: bias and errors that neighbours share": whole}
        elif basis == CORRECTED:
            parts["sampling: residuals of the map between points, errors of measurement included"] = whole
        elif known is not None and math.isfinite(known):
            parts["measurement of cores: SOC, bulk density, stones, independent between cores"] = min(known, whole)
            parts["sampling: change differs between places"] = max(whole - known, 0.0)
        else:
            parts["sampling: change differs between places, errors of measurement included"] = whole
        if shared:
            parts["error that all places of a visit share (stated)"] = shared
        rows += _shares(of, unit, parts)
    if evidence.mapped is not None and evidence.mapped.stock.sources:
        rows += _shares("mean of the map", f"({evidence.mapped.stock.unit})²", evidence.mapped.stock.sources)
    if evidence.stock is not None:
        rows += _map_budget(evidence.stock, terms)
    return rows


def _map_budget(validation: Validation, terms: Terms) -> list[dict[str, Any]]:
    """Return rows of the mean squared error of a map at one place: bias and the rest, which neighbours share or not."""
    found = validation.facts(terms.level, terms.level)
    known = found["bias_se"] == found["bias_se"]
    bias = max(found["bias"] ** 2 - (found["bias_se"] ** 2 if known else 0.0), 0.0)
    rest = max(found["rmse"] ** 2 - bias, 0.0)
    parts = {"bias": bias, **validation.correlated(rest)}
    return _shares("map at one place (mean squared error at the points)", f"({validation.unit})²", parts)


def _shares(of: str, unit: str, parts: Mapping[str, float]) -> list[dict[str, Any]]:
    whole = sum(parts.values())
    return [
        {"of": of, "source": source, "variance": variance, "share": variance / whole if whole > 0 else None, "unit": unit}
        for source, variance in parts.items()
    ]


def _detectable(row: Mapping[str, Any], terms: Terms) -> dict[str, Any] | None:
    """Return the smallest true change that an estimate with this standard error finds with the power of the terms."""
    change = _uncertain(row)
    if not change.known:
        return None
    confidence = terms.level if terms.sides == "two" else terms.confidence
    effect = detectable_effect(min(change.df, _MANY_DF), terms.power, confidence, terms.sides)
    found = {"value": effect * change.standard_error, "unit": row["unit"], "power": terms.power}
    return found | {"confidence": confidence, "sides": terms.sides}


def deduction(row: Mapping[str, Any], terms: Terms, area: float) -> dict[str, Any]:
    """Return what is deducted from a change for its uncertainty, and what is credited."""
    change = _uncertain(row)
    found = credit(change, terms.rule, terms.confidence, terms.level, terms.threshold)
    lower = f"credited = change - t({terms.confidence:g}, df) x standard error, 0 at least"
    u = f"half-width of the {100 * terms.level:g} % interval / change"
    discount = f"deduction = change x (u - {terms.threshold:g}), 0 at least; u = {u}"
    margin = (change.value - found.credited) / change.standard_error if change.known and change.standard_error > 0 else math.nan
    facts: dict[str, Any] = {
        "rule": found.rule,
        "formula": lower if terms.rule == "lower_bound" else discount,
        "confidence": terms.confidence if terms.rule == "lower_bound" else None,
        "threshold": terms.threshold if terms.rule == "discount" else None,
        "relative_half_width": found.relative_half_width,
        "change": row["value"],
        "deduction": found.deduction,
        "deduction_percent": 100 * found.deduction / row["value"] if row["value"] > 0 else None,
        "credited": found.credited,
        "unit": row["unit"],
        "implied_confidence": change.probability_below(margin) if found.credited > 0 else None,
    }
    credited = found.credited * area if row["unit"] == DENSITY else None
    facts["credited_total_t_c"] = credited
    if terms.co2e:
        facts["credited_total_t_co2e"] = None if credited is None else credited * CO2E
    return facts


# --- warnings ---------------------------------------------------------------------------------------------------------


def warnings(facts: Mapping[str, Any], evidence: Evidence, terms: Terms) -> list[str]:
    """Return a sentence on everything that a verifier should not overlook."""
    found = []
    for name, title in (("map", "map"), ("map_of_change", "map of change")):
        if facts["validation"][name] is not None:
            found += _of_validation(facts["validation"][name], title)
        each = evidence.stock if name == "map" else evidence.change
        if each is None or evidence.mapped is None:
            continue
        if abs(100 * each.map_km2 / evidence.mapped.area_ha - 1) > _AREAS_DIFFER:
            found.append(
                f"The mean of the {title} and the sample is of {100 * each.map_km2:,.0f} ha, all of its cells with a value."
            )
        if each.points_needed > max(len(each.observed), _FEW_POINTS):
            held = f"intervals hold less often than they say with fewer than about {each.points_needed:,} points"
            found.append(f"Errors of the {title} at the sample are so skewed that {held}.")
    model = {} if evidence.mapped is None else evidence.mapped.facts["model"]
    validated = evidence.stock is not None or evidence.change is not None
    if validated and (model.get("center"), model.get("target_transform")) == ("median", "log1p"):
        found.append("The map is of medians: the bias at the points is theirs, and estimates of stock and change are of means.")
    if evidence.mapped is not None and evidence.stock is None:
        found.append("The map was not validated at independent points (--points).")
    near = evidence.near
    if near is not None and near["points_at_profiles"]:
        count = near["points_at_profiles"]
        found.append(f"{count} validation points lie at training profiles: they are not independent, and scores flatter.")
    elif near is not None and near["points_within_a_cell"]:
        found.append(f"{near['points_within_a_cell']} validation points lie within a cell's width of a training profile.")
    elif near is None and evidence.stock is not None:
        found.append("Whether validation points were used in training was not checked (--profiles).")
    found += _of_change(facts, evidence, terms)
    found += _disagreements(facts["estimates"])
    if evidence.mapped is not None:
        area = evidence.mapped.area_ha
        if abs(facts["area"]["hectares"] / area - 1) > _AREAS_DIFFER:
            found.append(f"The stated area differs from that of the map, {area:,.0f} ha.")
        if abs(100 * evidence.points_km2 / area - 1) > _AREAS_DIFFER:
            drawn = f"The points were drawn in {100 * evidence.points_km2:,.0f} ha, and the map has {area:,.0f} ha"
            found.append(f"{drawn}: mean and scores by the points are of another area.")
        found += [f"Of the map: {note}." for note in evidence.mapped.facts["notes"]]
    if evidence.measured is not None:
        found += [f"Of the plots: {each}." for each in evidence.measured.warnings]
        sampled = 100 * evidence.measured.facts["sampled_km2"]
        if abs(sampled / facts["area"]["hectares"] - 1) > _AREAS_DIFFER:
            found.append(f"The area differs from that in which the plots were drawn, {sampled:,.0f} ha.")
    return found


def _of_validation(scores: Mapping[str, Any], title: str) -> list[str]:
    found = []
    if scores["bias_p"] < _BIAS_P:
        word = "too high" if scores["bias"] > 0 else "too low"
        size = f"{abs(scores['bias']):.3g} {scores['unit']}"
        found.append(f"The {title} is biased: {word} at the points by {size} (p {scores['bias_p']:.2g}).")
    if scores.get("inside_high", 1.0) < scores.get("nominal", 0.0):
        found.append(
            f"Prediction intervals of the {title} are too narrow: they hold {100 * scores['inside_share']:.0f} % of the points, "
            f"at most {100 * scores['inside_high']:.0f} %, and {100 * scores['nominal']:g} % is promised."
        )
    if scores["n"] < _FEW_POINTS:
        found.append(f"The {title} was validated at {scores['n']} points only: tests find large faults alone.")
    if scores["n"] < scores["given"]:
        found.append(f"The {title} has values at {scores['n']} of {scores['given']} validation points; the others are not scored.")
    if scores["mec"] < 0:
        found.append(f"The {title} is worse than the mean of the points (MEC {scores['mec']:.2f}).")
    if scores["design"].startswith("not"):
        found.append(f"The points of the {title} are no probability sample: scores may not hold for the area.")
    return found


def _disagreements(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each pair of estimates of one quantity and unit whose intervals do not overlap."""
    found = []
    for one, other in combinations(rows, 2):
        alike = one["quantity"] == other["quantity"] and one["unit"] == other["unit"]
        if alike and (one["low"] > other["high"] or other["low"] > one["high"]):
            values = " and ".join(f"{each['value']:.3g} ({each['method']})" for each in (one, other))
            found.append(f"Estimates of the {one['quantity']} disagree: {values} {one['unit']}; their intervals do not overlap.")
    return found


def _of_change(facts: Mapping[str, Any], evidence: Evidence, terms: Terms) -> list[str]:
    row, mdc = facts["change"], facts["minimum_detectable_change"]
    if row is None:
        if any(each["quantity"] == "change" for each in facts["estimates"]):
            return [f"{UNCHECKED} --basis map claims it all the same."]
        return ["No change was given: nothing is credited."]
    found = []
    if not _uncertain(row).known:
        found.append("The claimed change has no interval: nothing is credited.")
    elif row["low"] <= 0 <= row["high"]:
        found.append(f"The change is not significant: its {100 * terms.level:g} % interval includes 0.")
    if mdc is not None and abs(row["value"]) < mdc["value"]:
        found.append(f"The change is smaller than the minimum detectable one, {mdc['value']:.3g} {mdc['unit']}.")
    if row["unit"] != DENSITY:
        found.append(
            f"The change is in {row['unit'] or 'an unknown unit'}, no mass per area: there is no total and no credit in t."
        )
    if row["method"] == MAP:
        found.append(
            "The claimed change is modelled, and no probability sample corrects it: its interval rests on the error model."
        )
    measured = evidence.measured
    if measured is not None:
        alone = [measured.facts[name] for name in ("alone_before", "alone_after")]
        if any(each > 0 for each in alone):
            found.append(f"{alone[0]:.0f} and {alone[1]:.0f} places were sampled at one visit only, and are left out.")
        if measured.design.endswith("simple random sample"):
            found.append("The plots are taken as a simple random sample of the area; how they were drawn is to be documented.")
    known = evidence.measurement
    if known is not None and math.isfinite(known) and row["method"] == PLOTS and row["standard_error"] ** 2 < known:
        found.append("The stated errors of cores are larger than the spread between places: they are overstated.")
    return found


def plain(value: Any) -> Any:
    """Return nested values with None in place of numbers that are not finite.

    Examples
    --------
    >>> plain({"a": [1.5, float("nan")], "b": (2,)})
    {'a': [1.5, None], 'b': [2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
