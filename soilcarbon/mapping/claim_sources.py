"""Results of other commands that a claim is made of: a measured change, stocks with their errors, a map with its totals.

In: change.json of `soilcarbon change`, stocks.csv of `soilcarbon stocks`, a map of `soilcarbon map` with the files beside it. Out:
dataclasses in t/ha (of densities; contents keep their unit). Files may have been edited: what is missing or no number is refused.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from soilcarbon.geo.zonal_statistics import mass_of
from soilcarbon.io import limits
from soilcarbon.io.files import UserError, must_exist, read_yaml, sha256
from soilcarbon.io.points import read_points, table_file
from soilcarbon.mapping.areal import CHANGE
from soilcarbon.mapping.plan import WHOLE
from soilcarbon.stats.credit import Uncertain

DENSITY = "t/ha"
_BYTES = 2**26
"""Of a JSON file that is read."""


def common_unit(unit: str) -> tuple[str, float]:
    """Return t/ha and the factor to it of a mass per area, else the unit as it is and 1.

    Examples
    --------
    >>> common_unit("kg/m2"), common_unit("g/kg")
    (('t/ha', 10.0), ('g/kg', 1.0))
    """
    mass = mass_of(unit)
    return (unit.strip(), 1.0) if mass is None else (DENSITY, round(mass * 1e4, 12))


@dataclass(frozen=True)
class MeasuredChange:
    """Change of places that were sampled at two visits, per hectare where it is a mass per area."""

    change: Uncertain  # of the mean, per hectare
    before: float  # before, after, unit: means of both visits
    after: float
    unit: str
    # n_before, n_after, alone_before, alone_after (places without a partner), design ("paired" or "unpaired"), years and
    # sampled_km2, the area that `soilcarbon design` drew places in (NaN if unknown), sd_before, sd_after
    facts: Mapping[str, Any]
    visits: tuple[str, str]  # names of both
    chosen: Mapping[str, str]  # column -> value of the row, such as method and layer
    value: str
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()  # sentences of `soilcarbon change`, of the chosen row or of all

    def as_plain(self) -> dict[str, Any]:
        """Return its facts as plain containers."""
        found = {**self.facts, "design": self.design, "visits": list(self.visits), "chosen": dict(self.chosen)}
        return found | {"before": self.before, "after": self.after, "unit": self.unit}

    @property
    def design(self) -> str:
        """How the places were drawn, as far as the change was told."""
        strata, block, weight = (self.settings.get(name) for name in ("stratum", "block", "weight"))
        words = [f"in strata ({strata})"] if strata else []
        words += [f"in primary units ({block})"] if block else []
        words += [f"with weights ({weight})"] if weight else []
        return f"{self.facts['design']} places " + (", ".join(words) if words else "taken as a simple random sample")


@dataclass(frozen=True)
class MappedMean:
    """Mean of a map over its whole area; Uncertain without a standard error where the map has no interval."""

    mean: Uncertain  # mean, low, high, level: with the interval that the map's totals give
    low: float
    high: float
    level: float
    unit: str
    # source of error -> variance of the mean, in the unit squared; they add up to that of its standard error. {} where the totals
    # have none.
    sources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Mapped:
    """A map with the files beside it; None in place of what a single map has not."""

    stock: MappedMean  # stock, stock_tif: of the map, or of the last period; None in place of a file that is not there
    stock_tif: Path
    change: MappedMean | None  # change, change_tif: from the first to the last period; None of a single map
    change_tif: Path | None
    area_ha: float  # of the cells with a value
    facts: Mapping[str, Any]  # model, depth, years, cells, CRS, periods, notes: for the page
    level: float  # of the intervals of cells
    unit: str
    files: tuple[Path, ...]


@dataclass
class Recorded:
    """Inputs that earlier commands recorded: path -> checksum then, and whether it is the same now."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, source: Path, inputs: Any) -> None:
        """Compare the recorded checksums of a file of facts with the files as they are."""
        for name, then in inputs.items() if isinstance(inputs, dict) else ():
            path = Path(str(name))
            state = "not here" if not path.is_file() else "the same" if sha256(path) == then else "changed"
            self.rows.append({"file": str(name), "recorded_by": str(source), "sha256": str(then), "now": state})


def read_change(path: Path, wanted: Sequence[str], unit: str | None, recorded: Recorded) -> MeasuredChange:
    """Read a change from change.json, or from the folder that has it; UserError if no row or several fit.

    `wanted` are COLUMN=VALUE that choose the row, such as method=esm_spline; group is "all" unless it is given. `unit` is of the
    values, where the file does not say it. `recorded` gets the checksums that the file records.
    """
    path = path / "change.json" if path.is_dir() else path
    facts = _read_json(path)
    rows = facts.get("changes")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: has no changes; it is to be change.json of soilcarbon change with a table")
    row, chosen = _chosen(path, rows, wanted)
    said = str(facts.get("unit") or "") or unit or ""
    common, factor = common_unit(said)
    numbers = {name: _number(path, row, name) for name in ("change", "before", "after", "standard_error", "df")}
    if not numbers["df"] > 0:
        numbers["standard_error"] = math.nan
    names = ("n_before", "n_after", "alone_before", "alone_after", "years", "sd_before", "sd_after")
    more = {name: _number(path, row, name, needed=False) for name in names}
    more |= {name: more[name] * factor for name in ("sd_before", "sd_after")}
    whole = chosen.get("group", "all") == "all"
    more["sampled_km2"] = _number(path, facts, "sampled_km2", needed=False) if whole else math.nan
    more = {name: int(value) if name[0] in "na" and value.is_integer() else value for name, value in more.items()}  # counts
    visits = facts.get("visits")
    first, second = visits if isinstance(visits, list) and len(visits) == 2 else ("before", "after")
    settings = facts.get("settings")
    recorded.add(path, facts.get("inputs"))
    return MeasuredChange(
        Uncertain(numbers["change"], numbers["standard_error"], numbers["df"]).times(factor),
        numbers["before"] * factor, numbers["after"] * factor, common,
        {**more, "design": str(row.get("design", ""))}, (str(first), str(second)), chosen, str(facts.get("value")),
        settings if isinstance(settings, dict) else {},
        tuple(str(each) for each in facts.get("warnings") or []) if whole else (),
    )  # fmt: skip


def _chosen(path: Path, rows: list[dict[str, Any]], wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the only row that fits, and the columns that tell it from others."""
    asked = {"group": "all"} | dict(each.split("=", 1) for each in wanted)
    if unknown := next((name for name in asked if name != "group" and name not in rows[0]), None):
        raise UserError(f"{path}: no column {unknown!r} to choose by (--of); it has {', '.join(list(rows[0])[:4])}")
    fitting = [row for row in rows if all(str(row.get(name, "all")) == value for name, value in asked.items())]
    telling = [name for name, value in rows[0].items() if isinstance(value, str) and name != "design"]
    if len(fitting) != 1:
        options = [" ".join(f"{name}={row.get(name)}" for name in telling) for row in (fitting or rows)]
        raise UserError(f"{path}: {len(fitting)} changes fit; --of says which: {'; '.join(options[:8])}")
    return fitting[0], {name: str(fitting[0].get(name)) for name in telling}


def measurement_variance(path: Path, change: MeasuredChange, unit: str, recorded: Recorded) -> float:
    """Return the variance of a change of means that the stated errors of cores make; NaN where none were stated.

    It is the sum over both visits of the mean variance of a core over the number of cores (of a group: of its places), as their
    errors are independent, in t/ha squared; cores of places without a partner, which are left out of a paired change, do not
    count. From stocks.csv of `soilcarbon stocks` or its folder, by the method, layer and visits of the change.
    """
    path = path / "stocks.csv" if path.is_dir() else path
    table = read_points(path).raw
    deviation = "layer_stock_sd_t_ha" if change.value.startswith("layer_") else "stock_sd_t_ha"
    if lacking := [name for name in ("visit", "method", "layer", deviation) if name not in table]:
        raise UserError(f"{path}: no column {lacking[0]!r}; it is to be stocks.csv of soilcarbon stocks")
    if unit != DENSITY:
        raise UserError(f"{path}: is of stocks, and the change is in {unit or 'an unknown unit'}; leave --stocks out")
    beside = path.with_name("stocks.json")
    if beside.is_file():
        recorded.add(beside, _read_json(beside).get("inputs"))
    variance = 0.0
    for visit, places in zip(change.visits, ("n_before", "n_after"), strict=True):
        here = table["visit"].fillna("") == visit
        for name in ("method", "layer"):
            if name in change.chosen:
                here &= table[name] == change.chosen[name]
        own = pd.to_numeric(table.loc[here, deviation], errors="coerce")
        if own.empty:
            raise UserError(f"{path}: no stocks of visit {visit!r}{''.join(f', {k} {v}' for k, v in change.chosen.items())}")
        n, alone = change.facts[places], change.facts[f"alone_{places.removeprefix('n_')}"]
        used = n / (n + alone) if n > 0 and alone > 0 else 1.0
        count = len(own) * used if change.chosen.get("group", "all") == "all" else n
        variance += float((own**2).mean()) / count
    return variance if variance > 0 else math.nan


def read_map(path: Path) -> Mapped:
    """Read the totals and facts beside a map; the path is that of `--out` of `soilcarbon map`, or of one of its periods."""
    totals, facts = _beside(path)
    provenance = read_yaml(facts)
    settings, model = (each if isinstance(each, dict) else {} for each in (provenance.get("settings"), provenance.get("model")))
    level = settings.get("level", 0.9)
    if not isinstance(level, float) or not 0 < level < 1:
        raise UserError(f"{facts}: its level {level!r} is no number between 0 and 1")
    rows = _read_totals(totals)
    stem = totals.name.removesuffix("_totals.csv")
    periods = [name for name in rows if name != CHANGE]
    tifs = {name: totals.with_name(f"{stem}_{name}.tif" if name else f"{stem}.tif") for name in rows}
    last = periods[-1]
    for name in (last, CHANGE):
        if name in tifs:
            must_exist(tifs[name], "map of these totals")
    changed = CHANGE in rows
    area = _number(totals, rows[last], "area_km2") * 100
    if not area > 0:
        raise UserError(f"{totals}: the map has no area")
    grid = provenance.get("grid")
    shown = {
        "file": str(tifs[last]),
        "model": {name: value for name, value in model.items() if name != "sha256"},
        "model_sha256": model.get("sha256"),
        "grid": grid if isinstance(grid, dict) else {},
        "cells": int(_number(totals, rows[last], "cells")),
        "periods": [name for name in periods if name],
        "versions": provenance.get("versions"),
        "notes": [str(each) for each in provenance.get("notes") or []],
    }
    return Mapped(
        _mapped_mean(totals, rows[last], level), tifs[last], _mapped_mean(totals, rows[CHANGE], level) if changed else None,
        tifs[CHANGE] if changed else None, area, shown, level, str(rows[last].get("mean_unit", "")),
        (totals, facts, *(tifs[name] for name in ([last, CHANGE] if changed else [last]))),
    )  # fmt: skip


def _beside(path: Path) -> tuple[Path, Path]:
    """Return the totals and the facts beside a map or beside one of its periods."""
    stem = path.stem if path.suffix else path.name
    while stem:
        found = path.with_name(f"{stem}_totals.csv"), path.with_name(f"{stem}.yaml")
        if all(each.is_file() for each in found):
            return found
        stem = stem.rpartition("_")[0]
    raise UserError(f"{path}: no {path.stem}_totals.csv and {path.stem}.yaml beside it; a map of soilcarbon map has both")


def _read_totals(path: Path) -> dict[str, dict[str, Any]]:
    """Return map (period, or change) -> its row of the whole area."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {row.get("map") or "": row for row in csv.DictReader(file) if row.get("zone") == WHOLE}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a table: {error}") from error
    if not set(rows) - {CHANGE}:
        raise UserError(f"{path}: has no row of the zone {WHOLE!r}; it is to be the totals of soilcarbon map")
    return rows


def _mapped_mean(path: Path, row: Mapping[str, Any], level: float) -> MappedMean:
    mean = _number(path, row, "mean")
    low, high = (_number(path, row, name, needed=False) for name in ("mean_lower", "mean_upper"))
    unit, factor = common_unit(str(row.get("mean_unit", "")))
    found = Uncertain.of_interval(mean, low, high, level).times(factor)
    parts = {what: _number(path, row, name, needed=False) for name, what in _SOURCES.items()}
    whole = sum(parts.values())
    shares = {what: each / whole for what, each in parts.items() if each} if found.known and whole > 0 else {}  # NaN: not known
    return MappedMean(
        found, low * factor, high * factor, level, unit,
        {what: each * found.standard_error**2 for what, each in shares.items()},
    )  # fmt: skip


_SOURCES = {
    "variance_bias": "error model of the map: bias that all places share",
    "variance_correlated": "error model of the map: errors that neighbours share",
    "variance_cells": "error model of the map: errors of single cells",
    "variance_shared": "error that all measurements share (stated for the map, --shared_sd)",
    "variance_floor": "raised to the standard error of the mean residual",
}
"""Columns of a map's totals, and what they are of."""


def _read_json(path: Path) -> dict[str, Any]:
    must_exist(path, "file of facts")
    if path.stat().st_size > _BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes are too many for a file of facts")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_int=limits.whole_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected names with values, found a {type(found).__name__}")
    return found


def _number(path: Path, row: Mapping[str, Any], name: str, needed: bool = True) -> float:
    """Return a number of a row; NaN where it is missing and not needed."""
    value = row.get(name)
    try:
        found = math.nan if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        found = math.inf
    if math.isinf(found) or (needed and math.isnan(found) and name not in ("standard_error", "df")):
        raise UserError(f"{path}: {name} is {value!r}, no number")
    return found


def input_files(paths: Sequence[Path | None]) -> dict[str, str]:
    """Return path -> SHA-256 of the files, sidecars of tables without."""
    return {str(path): sha256(table_file(path)) for path in dict.fromkeys(path for path in paths if path is not None)}
