"""Change between two visits: a table of visits read, each set of values and group compared, and surveys planned.

In: the settings of `soilcarbon change`. Out: its tables by file name, and facts; a line is logged for each change and plan.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, sha256
from soilcarbon.io.points import table_file
from soilcarbon.io.values import label, named_numbers
from soilcarbon.soil.revisits import (
    STRATUM,
    check_written_alike,
    lone_zeros,
    pair_by_distance,
    pair_by_name,
    read_visits,
    two_visits,
    unlike_visits,
)
from soilcarbon.soil.settings import ChangeSettings
from soilcarbon.stats.change import (
    Change,
    difference_of_changes,
    difference_of_domains,
    joint_design,
    paired_change,
    rate_per_year,
    unpaired_change,
)
from soilcarbon.stats.design_based import SamplingDesign, dominant_stratum, sampling_design
from soilcarbon.stats.power import (
    Plan,
    Survey,
    detectable_effect,
    minimum_detectable_change,
    paired_survey,
    required_places,
    unpaired_survey,
)

log = logging.getLogger(__name__)
OVERALL = "all"
_ROUNDING = 1e-9  # of a mean: a standard error as small is that of equal values
_POPULATION = "--population: NAME=NUMBER for each stratum, or one number where there are none"
_DESIGNS = {True: "paired", False: "unpaired"}
_UNITS = {"_t_ha": "t/ha", "_kg_m2": "kg/m2", "_gkg": "g/kg", "_g_kg": "g/kg"}


class EmptyStratumError(UserError):
    """A stratum has no place, so that there is no change of all strata of a set or group."""


# --- from a table ----------------------------------------------------------------------------------------------------


def analyse(settings: ChangeSettings) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return tables of changes, pairs and plans, and facts; log a line for each change."""
    path = settings.table
    assert path is not None
    table = read_visits(path, settings)
    if table.sizes:
        sizes = [f"{name}={size!r}" for name, size in table.sizes.items()]
        settings = settings.model_copy(update={"stratum": STRATUM, "sizes": sizes})
    first, second, visits = two_visits(table, path, settings.visits)
    if settings.within is None and settings.design != "unpaired":
        check_written_alike(first, second, path)
    doubts = table.warnings + unlike_visits(first, second, visits) + lone_zeros(first, second)
    for note in [*table.notes, *doubts]:
        log.info("%s", note)
    log.info("%s", ", ".join(f"{count} {what}" for what, count in table.counts.items()))
    if settings.stratum and not settings.sizes and not settings.weight:
        log.info("no sizes of strata (--sizes) and no weights: a stratum counts by its number of places")
    groups = sorted(set(first["group"]) | set(second["group"])) if settings.by else []
    if OVERALL in groups:
        raise UserError(f"{path}: a group of --by is called {OVERALL!r}, as the row of all groups is; call it something else")
    settings = settings.model_copy(update={"control": label(settings.control)})
    if settings.control and settings.control not in groups:
        raise UserError(f"{path}: no group {settings.control!r} (--control); there are {', '.join(groups[:12])}")
    changes, pairs, plans, empty = [], [], [], []
    for what in _sets(first, second, table.each):
        of_set = [each[(each[list(what)] == pd.Series(what)).all(axis=1)].reset_index(drop=True) for each in (first, second)]
        by_group: dict[str, _Compared] = {}
        for group in [OVERALL, *groups]:
            if not all(len(each) and (group == OVERALL or (each["group"] == group).any()) for each in of_set):
                log.info("%s: no place at one of the visits", _label(what, group))
                continue
            try:
                found = _compare(settings, of_set[0], of_set[1], group)
            except EmptyStratumError as error:
                empty.append(error)
                log.warning("%s: left out: %s", _label(what, group), error)
                continue
            if settings.design == "auto" and not found.change.paired:
                log.info(
                    "%s: %d of %d and %d places were sampled at both visits: compared as independent samples (--design)",
                    _label(what, group), found.shared, found.change.n_before, found.change.n_after,
                )  # fmt: skip
            by_group[group] = found
            for doubt in found.doubts:
                doubts.append(f"{_label(what, group)}: {doubt}")
                log.warning("%s", doubts[-1])
            head = {**what, "group": group}
            changes.append({**head, **found.row(settings)})
            pairs.append(found.pairs.assign(**head))
            plans += [{**head, **row} for row in _plans(settings, found.survey)]
            _log(settings, _label(what, group), found, visits)
        if settings.control and settings.control in by_group:
            changes += _contrasts(settings, what, by_group)
    if not changes:
        raise empty[0] if empty else UserError(f"{path}: no set of values has places at both visits")
    facts = {
        "inputs": {str(path): sha256(table_file(path))},
        "value": table.value,
        "unit": _unit(table.value),
        "visits": list(visits),
        "counts": table.counts,
        "sampled_km2": sum(table.sizes.values()) or None,
        "notes": table.notes,
        "warnings": doubts,
        "changes": [{name: None if value != value else value for name, value in row.items()} for row in changes],
        "settings": settings.as_plain(),
    }
    tables = {
        "change.csv": pd.DataFrame(changes),
        "pairs.csv": pd.concat(pairs, ignore_index=True),
        "plan.csv": pd.DataFrame(plans),
    }
    return tables, facts


def _sets(first: pd.DataFrame, second: pd.DataFrame, each: list[str]) -> list[dict[str, str]]:
    """Return the sets of values that are analysed each for itself, as column -> value."""
    if not each:
        return [{}]
    return [dict(zip(each, map(str, row), strict=True)) for row in pd.concat([first, second])[each].drop_duplicates().to_numpy()]


def _label(what: dict[str, str], group: str) -> str:
    """Return a set and a group as text."""
    words = [f"{name} {value}" for name, value in what.items()] + ([] if group == OVERALL else [f"group {group}"])
    return " ".join(words) or "all"


@dataclass(frozen=True)
class _Compared:
    """A change and what it rests on."""

    change: Change
    pairs: pd.DataFrame  # no row if unpaired
    alone: tuple[int, int]  # places without a partner
    years: float  # between the visits
    survey: Survey | None  # that it was, for planning
    shared: int  # places of both visits
    doubts: tuple[str, ...]  # what the interval does not say, as sentences
    # of domains: of the pairs' differences, or of both visits, values, design and which places are in the group
    sampled: tuple[tuple[np.ndarray, SamplingDesign, np.ndarray], ...] = ()

    def detectable(self, settings: ChangeSettings) -> float:
        """Return the change that this survey detects with the power of settings; NaN if unknown."""
        if not self.change.df > 0:
            return float("nan")
        return self.change.standard_error * detectable_effect(self.change.df, settings.power, settings.confidence, settings.sides)

    def row(self, settings: ChangeSettings) -> dict[str, Any]:
        """Return the row of the table of changes."""
        rate = rate_per_year(self.change, self.years) if self.years > 0 else (float("nan"),) * 3
        return _facts(self.change) | {
            "alone_before": self.alone[0],
            "alone_after": self.alone[1],
            "change_percent": 100 * self.change.change / self.change.before if self.change.before else float("nan"),
            "years": self.years,
            **dict(zip(("rate_per_year", "rate_low", "rate_high"), rate, strict=True)),
            "minimum_detectable_change": self.detectable(settings),
        }


def _compare(settings: ChangeSettings, first: pd.DataFrame, second: pd.DataFrame, group: str) -> _Compared:
    """Return the change of a group between the rows of two visits.

    Where sizes of strata or weights are known, a group is a part of the area (a domain), and its places tell its share of each
    stratum; else they are a sample of their own.
    """
    if group != OVERALL and not (settings.sizes or settings.weight):
        first, second = (each[each["group"] == group].reset_index(drop=True) for each in (first, second))
    inside = [np.full(len(each), group == OVERALL) | (each["group"] == group).to_numpy() for each in (first, second)]
    pairing = pair_by_name(first, second) if settings.within is None else pair_by_distance(first, second, settings.within)
    shared = int(inside[0][pairing[0]].sum())
    if settings.design == "paired" and shared == 0:
        of = "" if group == OVERALL else f" of group {group!r}"
        raise UserError(
            f"{settings.table}: no place{of} of the first visit is one of the second; --design unpaired, or --within METRES"
        )
    population = _population(settings, set(first["stratum"]) | set(second["stratum"])) if group == OVERALL else None
    if settings.design == "paired" or (settings.design == "auto" and 2 * shared >= min(each.sum() for each in inside)):
        one, other = (table.iloc[rows].reset_index(drop=True) for table, rows in zip((first, second), pairing, strict=True))
        alone = int(inside[0].sum()) - shared, int(inside[1].sum()) - shared
        return _of_pairs(settings, (one, other), inside[0][pairing[0]], alone, population)
    return _of_samples(settings, (first, second), (inside[0], inside[1]), shared, population)


def _of_pairs(
    settings: ChangeSettings,
    visits: tuple[pd.DataFrame, pd.DataFrame],
    within: np.ndarray,
    alone: tuple[int, int],
    population: dict[str, float] | None,
) -> _Compared:
    """Return the change of pairs, rows of both visits that belong together, within a domain (n,) bool."""
    before, after = (each["value"].to_numpy() for each in visits)
    design = _design(settings, visits[0], [visits[0]], settings.block is not None)
    domain = None if within.all() else within
    change = paired_change(before, after, design, settings.level, settings.one_sided, population, domain)
    survey = _survey(settings, [(after - before)[within]], [design.part(within)], population)
    names = {"place": visits[0]["place"], "place_after": visits[1]["place"]}
    pairs = pd.DataFrame(names | {"before": before, "after": after, "difference": after - before})[within].reset_index(drop=True)
    doubts = _doubts(change, population, *([(after - before, design)] if domain is None else []))
    years = _years(settings, *(each["year"][within] for each in visits))
    return _Compared(change, pairs, alone, years, survey, len(pairs), doubts, ((after - before, design, within),))


def _of_samples(
    settings: ChangeSettings,
    visits: tuple[pd.DataFrame, pd.DataFrame],
    within: tuple[np.ndarray, np.ndarray],
    shared: int,
    population: dict[str, float] | None,
) -> _Compared:
    """Return the change between the rows of two visits as independent samples, within a domain (n,) bool of each."""
    before, after = (each["value"].to_numpy() for each in visits)
    blocks = visits[0]["block"].to_numpy(), visits[1]["block"].to_numpy()
    units = blocks if settings.block is not None and np.isin(*blocks).any() else None  # else drawn anew
    first, second = (_design(settings, each, list(visits), settings.block is not None and units is None) for each in visits)
    designs = first, second
    domains = None if within[0].all() and within[1].all() else within
    change = unpaired_change(before, after, designs, settings.level, settings.one_sided, units, population, domains)
    parts = [each.part(own) for each, own in zip(designs, within, strict=True)]
    survey = _survey(settings, [before[within[0]], after[within[1]]], parts, population)
    drawn = list(zip((before, after), designs, strict=True))
    if units is not None:
        drawn = [(np.zeros(len(before) + len(after)), joint_design(designs, units))]
    doubts = _doubts(change, population, *(drawn if domains is None else []))
    if units is not None and population is not None:
        doubts += ("--population does not count: blocks are of both visits",)
    years = _years(settings, *(each["year"][own] for each, own in zip(visits, within, strict=True)))
    sampled = tuple(zip((before, after), designs, within, strict=True)) if units is None else ()
    return _Compared(change, pd.DataFrame(), (0, 0), years, survey, shared, doubts, sampled)


def _doubts(change: Change, population: dict[str, float] | None, *drawn: tuple[np.ndarray, SamplingDesign]) -> tuple[str, ...]:
    """Return what the interval of a change of values (n,) by these designs does not say."""
    found = []
    if population is None and change.standard_error <= _ROUNDING * abs(change.before):
        found.append("the standard error is 0: values of one visit may be copied from the other, or modelled")
    joined = {one: other for _, design in drawn for one, other in design.collapsed.items()}
    found += [f"stratum {one} has one place or block: for variances it is joined with {other}" for one, other in joined.items()]
    dominant = next((name for each in drawn if (name := dominant_stratum(*each)) is not None), None)
    if dominant is not None:
        of = f"most of the variance is of stratum {dominant}, which has few places"
        found.append(f"{of}: the interval holds less often than it says")
    return tuple(found)


def _years(settings: ChangeSettings, first: pd.Series, second: pd.Series) -> float:
    """Return the years between two visits as stated, or of their rows; NaN if unknown."""
    means = [float("nan") if each.isna().all() else float(each.mean()) for each in (first, second)]
    return settings.years or means[1] - means[0]


def _design(settings: ChangeSettings, rows: pd.DataFrame, visits: list[pd.DataFrame], blocks: bool = False) -> SamplingDesign:
    """Return how the places of rows were drawn; without sizes and weights a stratum counts by its places at the visits."""
    strata = rows["stratum"].to_numpy() if settings.stratum else None
    weights = rows["weight"].to_numpy() if settings.weight else None
    sizes = named_numbers(settings.sizes, "sizes") if settings.sizes else None
    here = set(rows["stratum"])
    if sizes and (lacking := sorted(here - sizes.keys())):
        raise UserError(f"--sizes: no size of stratum {lacking[0]!r}; it has {', '.join(sizes)}")
    if strata is not None and weights is None and not sizes:
        sizes = pd.concat(visits)["stratum"].value_counts().to_dict()
    if empty := [name for name in sizes or {} if name not in here]:
        seen = "that was sampled at both visits" if len(visits) == 1 else "at one of the visits"
        left = f"leave it out, and the change is that of the others (--stratum {settings.stratum or STRATUM} --sizes, of these)"
        raise EmptyStratumError(f"{settings.table}: stratum {empty[0]!r} has no place {seen}; {left}")
    units = rows["block"].to_numpy() if blocks else None
    return sampling_design(len(rows), strata, sizes, weights, units)


def _population(settings: ChangeSettings, strata: set[str]) -> dict[str, float] | None:
    """Return the number of places there are in each of the strata, "all" without strata; None if not given."""
    found = named_numbers(settings.population, "population")
    if found and ("" in found) == bool(settings.stratum):
        raise UserError(_POPULATION)
    if found and settings.stratum and (unknown := sorted(found.keys() ^ strata)):
        there = ", ".join(sorted(strata))
        raise UserError(f"--population: strata {', '.join(found)}; in the table {there} ({unknown[0]!r} is not in both)")
    return {name or OVERALL: number for name, number in found.items()} or None


def _survey(
    settings: ChangeSettings, values: list[np.ndarray], designs: list[SamplingDesign], population: dict[str, float] | None
) -> Survey | None:
    """Return the survey that values of strata make for planning; None where a stratum has one place, or places are in blocks."""
    names = designs[0].names
    if settings.block is not None or any(each.names != names or np.bincount(each.stratum).min() < 2 for each in designs):
        return None
    sds = [
        [float(value[design.stratum == k].std(ddof=1)) for k in range(len(names))]
        for value, design in zip(values, designs, strict=True)
    ]
    shares = list(designs[0].shares.values())
    there_are = None if population is None else [population.get(name, np.inf) for name in names]
    if len(sds) == 1:
        return paired_survey(sds[0], shares=shares, allocation=settings.allocation, population=there_are)
    return unpaired_survey(sds[0], sd_after=sds[1], shares=shares, allocation=settings.allocation, population=there_are)


def _contrasts(settings: ChangeSettings, what: dict[str, str], found: dict[str, _Compared]) -> list[dict[str, Any]]:
    """Return rows of the differences between the changes of groups and that of their control, and log them."""
    rows, control = [], found[str(settings.control)]
    for group, each in found.items():
        if group in (OVERALL, settings.control):
            continue
        known = settings.sizes or settings.weight
        if known and each.sampled and len(each.sampled) == len(control.sampled):
            both = [(*mine, within) for mine, (_, _, within) in zip(control.sampled, each.sampled, strict=True)]
            difference = difference_of_domains(control.change, each.change, both)
        else:
            difference = difference_of_changes(control.change, each.change)
        name = f"{group} - {settings.control}"
        rows.append({**what, "group": name, **_facts(difference)})
        log.info("%s: %s", _label(what, name), _interval(difference))
    return rows


def _facts(change: Change) -> dict[str, Any]:
    """Return a change as columns of a row."""
    return {name: value for name, value in vars(change).items() if name != "paired"} | {"design": _DESIGNS[change.paired]}


def _unit(column: str) -> str:
    """Return the unit that a column of values ends with, or ""."""
    return next((unit for end, unit in _UNITS.items() if column.lower().endswith(end)), "")


def _interval(change: Change) -> str:
    """Return a change with its interval as text."""
    if not change.df > 0:
        return f"{change.change:+.3g}, too few places for an interval"
    return f"{change.change:+.3g} [{change.low:+.3g}, {change.high:+.3g}], one-sided above {change.least:+.3g}"


def _log(settings: ChangeSettings, label: str, found: _Compared, visits: tuple[str, str]) -> None:
    """Log a change in one line, and what was left out."""
    change = found.change
    unit = _unit(settings.value or "stock_t_ha")
    places = f"{change.n_before} pairs" if change.paired else f"{change.n_before} and {change.n_after} places"
    alone = f" ({found.alone[0]} and {found.alone[1]} places without a partner left out)" if any(found.alone) else ""
    rate = f"; {change.change / found.years:+.3g} a year" if found.years > 0 else ""
    log.info(
        "%s: %s %.4g, %s %.4g %s, change %s%s; %s%s; minimum detectable %.3g",
        label, visits[0], change.before, visits[1], change.after, unit, _interval(change), rate, places, alone,
        found.detectable(settings),
    )  # fmt: skip


# --- planning --------------------------------------------------------------------------------------------------------


def plan_alone(settings: ChangeSettings) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return the plan of a survey from standard deviations, and facts; log a line for each number of places."""
    names = ("sd", "sd_difference", "sizes", "population")
    given = {name: named_numbers(getattr(settings, name), name) for name in names}
    strata = max((list(values) for values in given.values()), key=len)
    for name, values in given.items():
        if values and list(values) != [""] and set(values) != set(strata):
            raise UserError(f"--{name}: strata {', '.join(values)}; elsewhere {', '.join(strata)}")
    if "" in given["population"] and len(strata) > 1:
        raise UserError(_POPULATION)
    if len(strata) > 1 and not given["sizes"]:
        raise UserError("--sizes: the sizes of the strata are needed, NAME=SIZE in any unit")

    def listed(name: str) -> list[float] | None:
        values = given[name]
        return [values.get(stratum, values.get("", 0.0)) for stratum in strata] if values else None

    more: dict[str, Any] = {"shares": listed("sizes"), "allocation": settings.allocation, "population": listed("population")}
    if settings.sd_difference:
        survey = paired_survey(listed("sd_difference"), **more)
    elif settings.correlation is not None:
        survey = paired_survey(sd=listed("sd"), correlation=settings.correlation, **more)
    else:
        survey = unpaired_survey(listed("sd") or [], **more)
    rows = _plans(settings, survey, strata)
    for row in rows:
        words = f" ({row['by_stratum']})" if len(strata) > 1 else ""
        log.info(
            "%d places at each visit%s detect a change of %.4g with power %.3f (%s-sided, confidence %g; %s)",
            row["places"], words, row["change"], row["power"], row["sides"], row["confidence"], row["design"],
        )  # fmt: skip
    return {"plan.csv": pd.DataFrame(rows)}, {"plan": rows, "settings": settings.as_plain()}


def _plans(settings: ChangeSettings, survey: Survey | None, strata: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return rows of required places, and of the changes that numbers of places detect."""
    if survey is None or not survey.sds.any():
        return []
    how = settings.power, settings.confidence, settings.sides
    plans = [] if settings.detect is None else [required_places(survey, settings.detect, *how)]
    plans += [minimum_detectable_change(survey, places, *how) for places in settings.sample_sizes]
    return [_plan_row(plan, survey, strata) for plan in plans]


def _plan_row(plan: Plan, survey: Survey, strata: Sequence[str]) -> dict[str, Any]:
    """Return a plan as a row."""
    names = strata if len(strata) == len(plan.by_stratum) else [str(k + 1) for k in range(len(plan.by_stratum))]
    each = " ".join(f"{name}={places}" for name, places in zip(names, plan.by_stratum, strict=True))
    return vars(plan) | {"by_stratum": each if len(names) > 1 else "", "design": _DESIGNS[survey.paired]}
