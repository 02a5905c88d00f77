"""Tables of horizons and profiles of a small world whose carbon is known, written with oddities in all combinations.

A command finds the right value, or ends with a question; it never finds another one.
"""

import csv
import datetime
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oddities.outcome import EXAMPLES, asked, examples

from soilcarbon.commands import densities
from soilcarbon.io.columns import ALIASES
from soilcarbon.io.formulas import unguarded
from soilcarbon.io.points import TableRule
from soilcarbon.soil.profiles import read_profiles

# --- the world ---------------------------------------------------------------------------------------------------------

PROFILES = 8
LAYERS = ((0.0, 10.0), (10.0, 30.0), (30.0, 60.0))
ORGANIC = (-5.0, 0.0)
SOC = np.array([[round(9 + 2.3 * k - 2.5 * j + 7 * (k == 5), 1) for j in range(3)] for k in range(PROFILES)])  # g/kg
DENSITY = np.array([[round(1.12 + 0.1 * j + 0.03 * k, 2) for j in range(3)] for k in range(PROFILES)])  # g/cm3
STONES = np.array([[12 + 3 * k + 6 * j for j in range(3)] for k in range(PROFILES)], float)  # per cent of volume
LON = np.array([-118.25 + k if k % 2 else 20.5 + k for k in range(PROFILES)])
LAT = np.array([42.125 + k for k in range(PROFILES)])
YEARS = 1987 + np.arange(PROFILES)
OF_O = (180.0, 0.25, 0.0)  # SOC, bulk density, stones of organic layers
SECOND = 1.5  # times the SOC of the second visit

IDS = {
    "plain": [f"P{k:03d}" for k in range(PROFILES)],
    "zeros": [f"{k:04d}" for k in range(7, 7 + PROFILES)],
    "exponents": [f"{k}e5" for k in range(1, PROFILES)] + ["100000"],
    "decimals": [f"{k}.{e}" for k in (1, 2) for e in ("1", "10", "100", "2")],
    "words": ["NA", "null", "-", "None", "TRUE", "nan", "x", "-9999"],
    "long": [f"28547312000{k:08d}" for k in range(PROFILES)],
    "umlauts": [f"Grünau {k}" for k in range(PROFILES)],
    "dates": [f"3-{k}" for k in range(1, 1 + PROFILES)],
}


@dataclass(frozen=True)
class Spelling:
    """How the world is written."""

    names: tuple = ()  # our name -> column, in pairs
    ids: str = "plain"
    order: str = "sorted"
    depths: str = "two"  # two, range, range_cm
    depth_unit: tuple = ("cm", "not")
    organic: str = "none"
    soc_unit: tuple = ("g/kg", "not")
    density_unit: tuple = ("g/cm3", "not")
    stones_unit: tuple = ("percent", "not")
    comma: bool = False
    sign: str = ""  # " %" or "%" behind the stones
    cell: tuple = ("", 0, "")  # column, row, what stands there instead
    answer: str = "ask"  # to that: ask, half, zero, drop
    separator: str = ","
    encoding: str = "utf-8"
    end: str = "\n"
    quoted: str = "where needed"  # where needed, all, open
    extra: str = "none"
    place: str = "plain"
    date: str = "none"
    visits: bool = False
    doubled: str = "none"
    suffix: str = ".csv"
    blank_lines: bool = False

    @property
    def signed(self) -> bool:
        """Whether stones carry per cent signs: those of other units only where the name contradicts them."""
        return self.stones_unit[0] == "percent" or self.stones_unit[1].startswith("name")


UNITS = {
    "soc": {"g/kg": 1.0, "%": 0.1, "mg/kg": 1000.0},
    "bulk_density": {"g/cm3": 1.0, "kg/m3": 1000.0},
    "stones": {"percent": 1.0, "fraction": 0.01, "per_mille": 10.0},
    "depth": {"cm": 1.0, "m": 0.01, "mm": 10.0, "in": 1 / 2.54},
}
IN_NAMES = {
    **{"g/kg": ("(g/kg)", "g_kg", "[g kg-1]"), "%": ("(%)", "pct", "percent"), "mg/kg": ("(mg/kg)", "mgkg")},
    **{"g/cm3": ("(g/cm3)", "g cm-3"), "kg/m3": ("[kg/m3]", "kgm3")},
    **{"percent": ("(%)", "pct"), "fraction": ("fraction", "frac"), "per_mille": ("permille",)},
    **{"cm": ("(cm)", "cm"), "m": ("(m)", "m"), "mm": ("(mm)", "mm"), "in": ("(in)", "inch")},
}
SEPARATORS = (",", ";", "\t", "|")


@st.composite
def column_names(draw):
    """Return a name for each of ours, any alias in any case and with any punctuation."""
    found = {}
    for ours in ("profile_id", "lon", "lat", "top", "bottom", "depth", "horizon", "year", "soc", "bulk_density", "stones"):
        alias = draw(st.one_of(st.just(ALIASES[ours][0]), st.sampled_from(ALIASES[ours])))
        alias = alias.replace("_", draw(st.sampled_from(("_", "_", " ", "-", ".", ""))))
        found[ours] = draw(st.sampled_from((alias, alias, alias.upper(), alias.title(), alias.capitalize())))
    return tuple(found.items())


def stated(quantity):
    """Return pairs of unit and where it is said: not at all, in the column's name (and which spelling), or by the setting."""
    where = st.sampled_from(("not", "not", "setting", "name0", "name1", "name2"))
    return st.tuples(st.sampled_from(tuple(UNITS[quantity])), where)


CELLS = st.tuples(
    st.sampled_from(("soc", "soc", "bulk_density", "stones", "top", "bottom")),
    st.integers(0, 23),
    st.sampled_from(
        (
            *("", "NA", "n.d.", "<10", "< 0,5", "-9999", "-99", "-1", "-999.0", "999", "15-40", ">40", "1,555", "1.234,5"),
            *("trace", "?", "2 g/kg", "1e2", "40%", "0x1F", "inf"),
        )
    ),
)  # fmt: skip

DATES = (*("none", "year", "iso", "serial", "yyyymmdd", "two digits", "day first", "2-digit day first", "decimal", "other name"),)
spellings = st.builds(
    Spelling,
    names=column_names(),
    ids=st.sampled_from(tuple(IDS)),
    order=st.sampled_from(("sorted", "shuffled", "deepest first", "by depth")),
    depths=st.sampled_from(("two", "two", "range", "range_cm", "heights")),
    depth_unit=stated("depth").filter(lambda unit: unit != ("in", "not")),  # thin layers in cm look the same
    organic=st.sampled_from(("none", "none", "none", "negative", "reversed", "from zero", "counted down", "one reversed")),
    soc_unit=stated("soc"),
    density_unit=stated("bulk_density"),
    stones_unit=stated("stones"),
    comma=st.booleans(),
    sign=st.sampled_from(("", "", "", "%", " %")),
    cell=st.one_of(st.just(("", 0, "")), CELLS),
    answer=st.sampled_from(("ask", "ask", "half", "zero", "drop")),
    separator=st.sampled_from(SEPARATORS),
    encoding=st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")),
    end=st.sampled_from(("\n", "\r\n", "\r")),
    quoted=st.sampled_from(("where needed", "where needed", "all", "open", "open twice")),
    extra=st.sampled_from(("none", "numbers", "texts", "line breaks", "inches", "empty", "a second soc", "unnamed")),
    place=st.sampled_from(("plain", "plain", "0-360", "letters", "letter columns", "letters before", "swapped", "signed letters")),
    date=st.sampled_from(DATES),
    visits=st.booleans(),
    doubled=st.sampled_from(("none", "none", "one row", "all rows")),
    suffix=st.sampled_from((".csv", ".csv", ".txt", ".tsv", ".geojson")),
    blank_lines=st.booleans(),
)  # fmt: skip


# --- rows --------------------------------------------------------------------------------------------------------------


def horizons(how: Spelling) -> list[dict]:
    """Return rows of our names: numbers in the units of `how`; `top` and `bottom` are as counted there."""
    rows = []
    for k in range(PROFILES):
        for visit in range(1 + (how.visits and k == 2)):
            layers = [(*LAYERS[j], "ABC"[j], SOC[k, j] * SECOND**visit, DENSITY[k, j], STONES[k, j]) for j in range(3)]
            if how.organic != "none" and (how.organic != "one reversed" or k == 3):
                top, bottom = {"reversed": (5.0, 0.0), "one reversed": (5.0, 0.0), "from zero": (0.0, 5.0)}.get(
                    how.organic, ORGANIC
                )
                layers = [(top, bottom, "O", *OF_O), *layers]
                if how.organic == "counted down":
                    layers = [(top + 5, bottom + 5, *others) for top, bottom, *others in layers]
            for number, (top, bottom, name, soc, density, stones) in enumerate(layers):
                year = YEARS[k] + 6 * visit
                rows.append(
                    {"profile": k, "visit": visit, "number": number, "top": top, "bottom": bottom, "horizon": name, "soc": soc,
                     "bulk_density": density, "stones": stones, "lon": LON[k], "lat": LAT[k], "year": year}
                )  # fmt: skip
    if how.order == "deepest first":
        rows.sort(key=lambda row: (row["profile"], row["visit"], -row["number"]))
    elif how.order == "by depth":
        rows.sort(key=lambda row: (row["number"], row["profile"], row["visit"]))
    elif how.order == "shuffled":
        rows = [rows[k] for k in np.random.default_rng(7).permutation(len(rows))]
    doubled = {"none": 0, "one row": 1, "all rows": len(rows)}[how.doubled]
    return rows + [dict(row) for row in rows[:doubled]]


def of_interval(how: Spelling, row_values: dict, depth: float = 30.0) -> float:
    """Return the SOC density (kg/m2) of the layers (from top to bottom: thickness cm, SOC, density, stones) to a depth."""
    total, below = 0.0, 0.0
    for thickness, soc, density, stones in row_values:
        part = max(0.0, min(depth, below + thickness) - below)
        if part:
            total += part / 100 * soc * density * (1 - stones / 100)
        below += thickness
    return total


def text(value: float, digits: int = 10) -> str:
    return f"{value:.{digits}g}"


def as_date(year: float, form: str) -> str:
    year = int(year)
    return {
        "year": str(year), "decimal": f"{year}.0", "other name": str(year),
        "iso": f"{year}-04-07", "yyyymmdd": f"{year}0407", "two digits": f"{year % 100:02d}",
        "day first": f"07/04/{year}", "2-digit day first": f"07/04/{year % 100:02d}",
        "serial": str((datetime.date(year, 4, 7) - datetime.date(1899, 12, 30)).days),
    }[form]  # fmt: skip


def placed(row: dict, how: Spelling) -> tuple[str, str]:
    lon, lat = row["lon"], row["lat"]
    if how.place == "0-360":
        lon %= 360
    if how.place == "swapped":
        lon, lat = lat, lon
    west, east = ("W", "E") if lon < 0 else ("E", "E")
    if how.place == "letters":
        return f"{abs(lon)}{west if lon < 0 else east}", f"{lat} N"
    if how.place == "letters before":
        return f"{west if lon < 0 else east} {abs(lon)}", f"N{lat}"
    if how.place == "letter columns":
        return text(abs(lon)), text(lat)
    if how.place == "signed letters":
        return f"{lon}{'W' if lon < 0 else 'E'}", f"{lat}N"
    return text(lon), text(lat)


def written(how: Spelling) -> tuple[list[str], list[list[str]], list[dict], list[str]]:
    """Return header, rows of text, the rows of our names, and the command's settings."""
    rows, more = horizons(how), []
    names = dict(how.names) or {each: ALIASES[each][0] for each in ALIASES}
    said = {"soc": how.soc_unit, "bulk_density": how.density_unit, "stones": how.stones_unit, "depth": how.depth_unit}
    for quantity, (unit, where) in said.items():
        if where == "setting":
            more += ["--units", f"{quantity}={unit}"]
        elif where != "not":
            ends = IN_NAMES[unit]
            end = ends[int(where[-1]) % len(ends)]
            for ours in ("top", "bottom", "depth") if quantity == "depth" else (quantity,):
                names[ours] += ("" if end[0] in "([" else "_") + end if end[0] not in "([" else f" {end}"
    if how.answer != "ask":
        more += ["--below_limit", how.answer, "--missing_words", "n.d.", "trace", "999"]
    depth_factor = UNITS["depth"][how.depth_unit[0]]
    columns: dict[str, list[str]] = {names["profile_id"]: [IDS[how.ids][row["profile"]] for row in rows]}
    lon_lat = [placed(row, how) for row in rows]
    columns[names["lon"]], columns[names["lat"]] = [each[0] for each in lon_lat], [each[1] for each in lon_lat]
    if how.place == "letter columns":
        columns["EW"], columns["NS"] = ["W" if row["lon"] < 0 else "E" for row in rows], ["N"] * len(rows)
    limits = [[text(row[name] * depth_factor, 6) for row in rows] for name in ("top", "bottom")]
    if how.depths == "heights":
        limits = [[text(-row[name] * depth_factor, 6) for row in rows] for name in ("top", "bottom")]
    if how.depths in ("two", "heights"):
        columns[names["top"]], columns[names["bottom"]] = limits
    else:
        unit = f" {how.depth_unit[0]}" if how.depths == "range_cm" else ""
        columns[names["depth"]] = [f"{upper}-{lower}{unit}" for upper, lower in zip(*limits, strict=True)]
    columns[names["horizon"]] = [row["horizon"] for row in rows]
    if how.date != "none":
        columns["campaign" if how.date == "other name" else names["year"]] = [as_date(row["year"], how.date) for row in rows]
    for name in ("soc", "bulk_density", "stones"):
        factor = UNITS[name][said[name][0]]
        columns[names[name]] = [text(row[name] * factor) + (how.sign if name == "stones" and how.signed else "") for row in rows]
    ours, at, word = how.cell
    if ours in names and names.get(ours) in columns:
        columns[names[ours]][at % len(rows)] = word
    if how.comma:
        measured = [names[each] for each in ("lon", "lat", "soc", "bulk_density", "stones", "top", "bottom", "depth")]
        columns |= {name: [each.replace(".", ",") for each in columns[name]] for name in measured if name in columns}
    columns |= {
        "none": {}, "numbers": {"ph": ["5.5"] * len(rows), "clay": ["20"] * len(rows)},
        "texts": {"remarks": ['stony, wet; "old" field'] * len(rows)}, "empty": {"empty": [""] * len(rows)},
        "line breaks": {"remarks": ["two\nlines"] + ["none"] * (len(rows) - 1)},
        "inches": {"remarks": ['20" auger'] + ["none"] * (len(rows) - 1)}, "unnamed": {"": ["x"] * len(rows)},
        "a second soc": {"soc_sd": ["3"] * len(rows), "soc_method": ["dry"] * len(rows)},
    }[how.extra]  # fmt: skip
    return list(columns), [list(each) for each in zip(*columns.values(), strict=True)], rows, more


def write(folder: Path, how: Spelling) -> tuple[Path, list[dict], list[str]]:
    """Write the world, and return the file, its rows by our names, and the settings."""
    header, body, rows, more = written(how)
    path = folder / f"horizons{how.suffix}"
    if how.suffix == ".geojson":
        lon, lat = header[1], header[2]
        features = []
        for row, values in zip(rows, body, strict=True):
            properties = {name: value for name, value in zip(header, values, strict=True) if name not in (lon, lat)}
            geometry = {"type": "Point", "coordinates": [row["lon"], row["lat"]]}
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path, rows, more
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if how.quoted == "all" else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=how.separator, lineterminator=how.end, quoting=quoting).writerows([header, *body])
    content = file.getvalue()
    if how.quoted.startswith("open"):
        lines = content.split(how.end)
        for k in (3, 9) if how.quoted == "open twice" else (3,):
            lines[k] = '"' + lines[k]
        content = how.end.join(lines)
    if how.blank_lines:
        content = content.replace(how.end, how.end * 2) + how.end
    path.write_bytes(content.encode(how.encoding, errors="replace"))
    return path, rows, more


# --- truth -------------------------------------------------------------------------------------------------------------


def layers_of(rows: list[dict], profile: int, visit: int) -> list[dict]:
    seen = {row["number"]: row for row in rows if (row["profile"], row["visit"]) == (profile, visit)}
    return [seen[number] for number in sorted(seen)]


def density_of(rows: list[dict], profile: int, visit: int) -> float:
    layers = layers_of(rows, profile, visit)
    values = [(abs(row["bottom"] - row["top"]), row["soc"], row["bulk_density"], row["stones"]) for row in layers]
    return of_interval(Spelling(), values)


def name_of(how: Spelling, profile: int, visit: int, with_years: bool) -> str:
    name = IDS[how.ids][profile]
    return f"{name}_{YEARS[profile] + 6 * visit}" if with_years and how.visits and profile == 2 else name


def touched(how: Spelling, rows: list[dict]) -> tuple[int, int] | None:
    """Return profile and visit of the row in which a cell was replaced."""
    if not how.cell[0]:
        return None
    row = rows[how.cell[1] % len(rows)]
    return row["profile"], row["visit"]


def check_table(how: Spelling, rows: list[dict], table: pd.DataFrame, value: str, truth) -> None:
    """Assert that each row of a result is what the world says of this profile; all but the one touched must be there."""
    with_years = how.visits and how.date != "none"
    assert not (how.visits and how.date == "other name"), "visits of a column that is not known"
    if how.visits and not with_years:
        rows = [row for row in rows if row["profile"] != 2]  # of two values at one depth the mean is told
    expected = {name_of(how, row["profile"], row["visit"], with_years): (row["profile"], row["visit"]) for row in rows}
    spoilt = touched(how, rows)
    found = table.set_index(table["profile_id"].map(unguarded))
    strange = set(found.index) - set(expected) - {IDS[how.ids][2]}
    assert not strange, f"profiles that are not there: {strange}"
    for name, key in expected.items():
        if key == spoilt:
            continue
        assert name in found.index, f"{name} was lost"
        row = found.loc[name]
        assert row[value] == pytest.approx(truth(*key), rel=1e-3), f"{name}: {row[value]} for {truth(*key)}"
        assert (row["lon"], row["lat"]) == pytest.approx((LON[key[0]], LAT[key[0]])), f"{name} lies elsewhere"
        if how.date not in ("none", "other name"):
            assert int(row["year"]) == YEARS[key[0]] + 6 * key[1]
    names = [name for name, key in expected.items() if key == spoilt and name in found.index]
    for name in names:
        check_spoilt(how, rows, spoilt, float(found.loc[name, value]), value)


def check_spoilt(how: Spelling, rows: list[dict], key: tuple[int, int], value: float, what: str) -> None:
    """Assert the value of the profile in which a cell was replaced: nothing, the untouched value, or one by a stated rule."""
    column, at, word = how.cell
    if value != value or how.doubled != "none":  # a copy of the row may have the value still
        return
    row = rows[at % len(rows)]
    layers = layers_of(rows, *key)
    below = sum(abs(each["bottom"] - each["top"]) for each in layers[: row["number"]])
    if below >= 30:
        other = density_of(rows, *key) if what != "soc" else None
        if column in ("soc", "stones", "bulk_density") and other is not None:
            assert value == pytest.approx(other, rel=1e-3)
        return
    if column == "soc":
        given = re.fullmatch(r"<? ?([\d.,]+(?:e2)?)%?", word)
        number = float({"1,555": "1.555", "< 0,5": "0.5", "1.234,5": "nan"}.get(word, given[1])) if given else np.nan
        number *= {"half": 0.5, "zero": 0.0}.get(how.answer, np.nan) if word.startswith("<") else 1.0
        number /= UNITS["soc"][how.soc_unit[0]]
        changed = [{**each, "soc": number} if same(each, row) else each for each in layers]
        if what != "soc":
            assert not np.isnan(number), f"{word!r} became {value}"
            values = [(abs(each["bottom"] - each["top"]), each["soc"], each["bulk_density"], each["stones"]) for each in changed]
            assert value == pytest.approx(of_interval(how, values), rel=1e-3), f"{word!r} became {value}"
            return
        part = np.clip(30 - np.cumsum([0] + [abs(each["bottom"] - each["top"]) for each in changed[:-1]]), 0, None)
        weight = np.minimum(part, [abs(each["bottom"] - each["top"]) for each in changed])
        carbon = np.array([each["soc"] for each in changed])
        known = ~np.isnan(carbon)  # the rest of the interval stands for what is missing, as cm_covered says
        assert value == pytest.approx((weight * np.where(known, carbon, 0)).sum() / weight[known].sum(), rel=1e-3), word


def same(row: dict, other: dict) -> bool:
    return all(row[name] == other[name] for name in ("profile", "visit", "number"))


# --- properties --------------------------------------------------------------------------------------------------------


def check_densities(folder: Path, how: Spelling) -> str:
    path, rows, more = write(folder, how)
    out = folder / "densities.csv"
    for old in folder.glob("densities*"):
        old.unlink()
    question = asked(lambda: densities.main(["--horizons", str(path), "--depths", "0", "30", "--depth_method", "mean",
                                             "--out", str(out), *more]))  # fmt: skip
    if question:
        return question
    table = pd.read_csv(out, dtype={"profile_id": str}, keep_default_na=False, na_values={"socd_0_30": "", "year": ""})
    check_table(how, rows, table, "socd_0_30", lambda *key: density_of(rows, *key))
    return ""


def check_profiles(folder: Path, how: Spelling) -> str:
    """The same horizons as `prepare` reads them: SOC of 0-30 cm weighted by thickness."""
    path, rows, _ = write(folder, how)
    if how.soc_unit[1] == "setting":
        return "prepare has no such setting"
    header = written(how)[0]
    soc = dict(how.names).get("soc", "soc")
    target = next((name for name in header if name.startswith(soc)), soc)
    rule = TableRule(
        depth_unit=how.depth_unit[0] if how.depth_unit[1] == "setting" else None, below_limit=how.answer,
        missing=("n.d.", "trace", "999") if how.answer != "ask" else (),
    )  # fmt: skip
    found = []
    question = asked(lambda: found.append(read_profiles(path, target, rule=rule)))
    if question:
        return question

    def truth(profile, visit):
        total, depth = 0.0, 0.0
        for row in layers_of(rows, profile, visit):
            part = max(0.0, min(30.0, depth + abs(row["bottom"] - row["top"])) - depth)
            total, depth = total + part * row["soc"], depth + abs(row["bottom"] - row["top"])
        return total / 30

    if how.soc_unit[0] != "g/kg" and how.soc_unit[1] == "not":
        return "told by a hint"  # a target may be anything; prepare hints at per cent
    check_table(how, rows, found[0].table, "soc", truth)
    return ""


@examples(12)
@given(how=spellings)
def test_densities_of_odd_tables(how, tmp_path_factory):
    check_densities(tmp_path_factory.mktemp("t"), how)


@examples(12)
@given(how=spellings)
def test_profiles_of_odd_tables(how, tmp_path_factory):
    check_profiles(tmp_path_factory.mktemp("t"), how)


@pytest.mark.slow
@examples(EXAMPLES or 1500)
@given(how=spellings)
def test_many_odd_tables(how, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    check_densities(folder, how)
    check_profiles(folder, how)


ONE_BY_ONE = [
    {"ids": "words"}, {"ids": "exponents"}, {"order": "shuffled"}, {"depths": "range_cm"}, {"depths": "heights"},
    {"depth_unit": ("m", "name0")}, {"depth_unit": ("in", "setting")}, {"organic": "reversed"}, {"organic": "from zero"},
    {"soc_unit": ("%", "name0")}, {"soc_unit": ("mg/kg", "setting")}, {"density_unit": ("kg/m3", "name0")}, {"comma": True},
    {"stones_unit": ("per_mille", "setting")}, {"stones_unit": ("fraction", "name0")}, {"sign": "%"}, {"separator": "|"},
    {"comma": True, "separator": ";"}, {"encoding": "utf-16"}, {"encoding": "cp1252", "ids": "umlauts"}, {"end": "\r"},
    {"quoted": "all"}, {"extra": "texts"}, {"extra": "line breaks"}, {"place": "0-360"}, {"place": "letters"},
    {"place": "letter columns"}, {"date": "serial"}, {"date": "yyyymmdd"}, {"date": "day first"}, {"doubled": "all rows"},
    {"visits": True, "date": "iso"}, {"suffix": ".geojson"}, {"blank_lines": True}, {"cell": ("soc", 0, "-9999")},
    {"cell": ("soc", 0, "<10"), "answer": "half"},
]  # fmt: skip


@pytest.mark.parametrize("oddity", ONE_BY_ONE, ids=str)
def test_what_can_be_read_is_read(oddity, tmp_path):
    assert not check_densities(tmp_path, Spelling(**oddity))


@pytest.mark.parametrize(
    "oddity",
    [
        {"depth_unit": ("m", "not")}, {"depth_unit": ("mm", "not")}, {"soc_unit": ("%", "not")}, {"soc_unit": ("mg/kg", "not")},
        {"density_unit": ("kg/m3", "not")}, {"stones_unit": ("fraction", "not")}, {"stones_unit": ("per_mille", "not")},
        {"sign": "%", "stones_unit": ("fraction", "name0")}, {"quoted": "open"}, {"quoted": "open twice"}, {"place": "swapped"},
        {"date": "two digits"}, {"visits": True, "date": "other name"}, {"cell": ("soc", 0, "<10")},
        {"cell": ("stones", 4, "15-40")},
        {"cell": ("bulk_density", 2, "n.d.")},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_asked_about(oddity, tmp_path):
    assert check_densities(tmp_path, Spelling(**oddity))


# --- ordinary tables ---------------------------------------------------------------------------------------------------


@examples(8)
@given(
    soc=st.sampled_from(((1.0, 0.5), (5.0, 0.6), (12.0, 0.9), (40.0, 0.8), (350.0, 0.3))),
    stones=st.sampled_from(("none", "empty", "zeros", "few", "whole per cent", "to 90", "mostly none")),
    density=st.sampled_from(("none", "measured", "some", "peat")),
    top=st.sampled_from((5, 10, 20, 30)),
    seed=st.integers(0, 999),
)
def test_ordinary_tables_are_read_without_a_question(soc, stones, density, top, seed, tmp_path_factory):
    random, n = np.random.default_rng(seed), 40
    layers = [(0, top), (top, top + 20), (top + 20, top + 60)]
    rows = [(f"p{k}", 20 + k / 10, 45 + k / 20, upper, lower, j) for k in range(n) for j, (upper, lower) in enumerate(layers)]
    table = pd.DataFrame(rows, columns=["profile_id", "lon", "lat", "top", "bottom", "layer"])
    middle, spread = soc
    table["soc"] = np.clip(np.exp(random.normal(np.log(middle), spread, len(table))) * 0.7 ** table["layer"], 0, 560).round(2)
    given_stones = {
        "empty": "", "zeros": 0, "few": random.uniform(0, 4, len(table)).round(1), "to 90": random.uniform(0, 90, n * 3).round(),
        "whole per cent": random.choice([0, 1, 2, 5, 10, 20], len(table)),
        "mostly none": np.where(random.random(len(table)) < 0.95, 0, 15),
    }.get(stones)  # fmt: skip
    if given_stones is not None:
        table["stones"] = given_stones
    if density != "none":
        table["bulk_density"] = (random.uniform(0.1, 0.3, n * 3) if density == "peat" else random.uniform(0.8, 1.7, n * 3)).round(2)
    if density == "some":
        table.loc[random.random(len(table)) < 0.6, "bulk_density"] = np.nan
    folder = tmp_path_factory.mktemp("o")
    low = table.loc[table["layer"] == 0, "soc"].median() < 3.5  # per cent is as likely: its name says what it is
    name = "soc_gkg" if low else "soc"
    table.drop(columns="layer").rename(columns={"soc": name}).to_csv(folder / "h.csv", index=False)
    question = asked(lambda: densities.main(["--horizons", str(folder / "h.csv"), "--out", str(folder / "d.csv")]))
    assert not question
    assert len(read_profiles(folder / "h.csv", name).table) == n
