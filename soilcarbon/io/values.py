"""Text of a column as numbers, depths, years or degrees: what is there and is no number is refused, or read by a stated rule.

Every function takes a column of text exactly as written (NaN: nothing there) and where it stands, for errors. Rules hold for a
whole column: decimal commas, per cent signs. What was done is appended to `notes`, a list of short sentences.
"""

import datetime
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError

NO_VALUE = (
    "", "na", "n/a", "#n/a", "n.a.", "<na>", "nan", "null", "(null)", "none", "missing", "#value!", "#div/0!", "-", "--", ".", "?",
)  # fmt: skip
"""Words for missing, in lower case."""
_NAMES = frozenset(("none", "missing", "-", "--", ".", "?"))
"""Those that may be names of groups."""
CODES = (-1.0, -9.0, -99.0, -99.9, -999.0, -999.9, -9999.0, -99999.0, -32768.0)
"""Codes for missing in columns that hold no negative number else."""
BelowLimit = Literal["ask", "half", "zero", "drop"]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_LIMIT = re.compile(r"\s*[<≤]\s*=?\s*(.*)")
_NINES = re.compile(r"9{2,}(\.9+)?")
_FEWEST_CODES = 3
_FAR = 1.5  # a code of nines repeats, and is so many times the next largest value


@dataclass(frozen=True)
class Reading:
    """Rules by which text that is no plain number is read."""

    below_limit: BelowLimit = "ask"  # what "<10" becomes: half of the limit, zero, or missing
    missing: Sequence[str] = ()  # further words and codes for missing
    decimal: str = ""  # "," if other columns of the file have decimal commas


def is_missing(column: pd.Series, missing: Sequence[str] = ()) -> np.ndarray:
    """Return which cells (N,) are empty or a word for missing; a code that is a number is missing however it is written.

    >>> is_missing(pd.Series(["999.0", "99", "n.d.", None]), ["999", "N.D."]).tolist()
    [True, False, True, True]
    """
    words = {*NO_VALUE, *(word.lower() for word in missing)}
    text = column.astype("str").str.strip().str.lower()
    found = column.isna() | text.isin(words)
    if codes := [float(word) for word in words if _NUMBER.fullmatch(word)]:
        found |= pd.to_numeric(text.str.replace(",", "."), errors="coerce").isin(codes)
    return np.asarray(found)


def label(word: object) -> str:
    """Return a name of a stratum or group: a whole number without a decimal point, composed letters (NFC), no blanks around it.

    >>> label(" 1.0"), label("1.5"), label("o\u0308stlich") == label("\u00f6stlich")
    ('1', '1.5', True)
    """
    text = unicodedata.normalize("NFC", str(word).strip())
    return text.removesuffix(".0") if text.removesuffix(".0").lstrip("-").isdigit() else text


def labels(column: pd.Series, where: str, missing: Sequence[str] = ()) -> pd.Series:
    """Return a column (N,) of names of strata or groups as `label` writes them, NaN where missing: "none" may be a treatment.

    UserError if two names differ in case or in blanks only; `where` names the file and the column.
    """
    unnamed = is_missing(column, missing) & ~column.astype("str").str.strip().str.lower().isin(_NAMES - set(missing))
    found = column.astype("str").map(label).where(~unnamed)
    alike: dict[str, str] = {}
    for name in found.dropna().unique():
        other = alike.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            raise UserError(f"{where}: {other!r} and {name!r} look like one name; write both alike")
    return found


def named_numbers(given: Sequence[str], setting: str) -> dict[str, float]:
    """Return name -> number of settings such as "hill=14 plain=8"; of one number alone "" -> it.

    ValueError if one is of another form.

    >>> named_numbers(["hill=14", "plain=8"], "sd"), named_numbers(["9"], "sd")
    ({'hill': 14.0, 'plain': 8.0}, {'': 9.0})
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not np.isfinite(value) or label(name) in found or (not name and len(given) > 1):
            raise ValueError(f"{setting} {text!r}: one number, or NAME=NUMBER for each stratum")
        found[label(name)] = value
    return found


def numbers(
    column: pd.Series, path: Path, name: str, reading: Reading = Reading(), notes: list[str] | None = None,  # noqa: B008 - frozen
    negative: bool = True, signs: list[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """Return a column as (N,) float64, NaN where it is missing.

    The text is as written; numbers are taken as they are. If the quantity may not be `negative`, `CODES` are missing, and counted
    by name. `signs` gets "%" if the values carry per cent signs; where it is None such values are refused. UserError if something
    else than numbers is there (counts, the first example, and what to do), or nothing is.

    >>> notes = []
    >>> numbers(pd.Series(["1,55", "1", None]), Path("h.csv"), "bd", notes=notes), notes
    (array([1.55, 1.  ,  nan]), ["'bd': decimal commas"])
    """
    notes = [] if notes is None else notes
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        column = column.map(lambda value: None if value != value else repr(float(value)))
    missing = is_missing(column, reading.missing)
    text = column.astype("str").str.strip().str.replace("−", "-", regex=False)
    words = np.asarray(text.where(~missing, ""), object)
    if column.size and missing.all():
        given = column.dropna()
        raise UserError(f"{path}: column {name!r} is empty" + (f" (it holds only {given.iloc[0]!r})" if given.size else ""))
    words = _without_signs(words, path, name, notes, signs)
    words = _with_points(words, path, name, reading, notes)
    words, limits = _without_limits(words, path, name, reading, notes)
    found = np.full(len(words), np.nan)
    wrong = []
    for k, word in enumerate(words):
        if not word:
            continue
        if _NUMBER.fullmatch(word) and abs(value := float(word)) < float("inf"):
            found[k] = value
        else:
            wrong.append(k)
    if wrong:
        _refuse(words, wrong, path, name)
    found *= limits
    if not negative and (found >= 0).any() and not ((found < 0) & ~np.isin(found, CODES)).any():
        for code in CODES:
            if count := int((found == code).sum()):
                notes.append(f"{name!r}: {count} of {code:g} taken for missing")
                found[found == code] = np.nan
    _check_codes(found, path, name)
    return found


def _refuse(words: np.ndarray, wrong: list[int], path: Path, name: str) -> None:
    """Raise the error on text that is no number, with what it looks like."""
    first, given = str(words[wrong[0]]), int((words != "").sum())
    counted = f"{path}: column {name!r}: {len(wrong)} of {given} values are no numbers (first {first[:40]!r}, row {wrong[0] + 2})"
    if re.fullmatch(r"[\d.,]+\s*(-|–|to|bis|a)\s*[\d.,]+", first):
        advice = "they look like classes; write a number for each, such as the middle of the class"
    elif first.startswith((">", "≥")):
        advice = "they look like values above a limit; write a number for each"
    elif re.fullmatch(r"[\d.]*,[\d.,]*", first) or re.fullmatch(r"[\d,]*\.[\d.,]*", first):
        advice = "they look like decimal commas or thousands; write numbers with a decimal point"
    elif re.search(r"\d", first):
        advice = "write plain numbers with a decimal point (a unit, a flag, or blanks between thousands?)"
    else:
        advice = (
            f"correct them, or --missing_words {first if first.isalnum() or '.' in first and ' ' not in first else repr(first)}"
        )
        advice += " takes them for missing"
    raise UserError(f"{counted}; {advice}")


def _without_signs(words: np.ndarray, path: Path, name: str, notes: list[str], signs: list[str] | None) -> np.ndarray:
    """Return words without per cent signs, which all values other than zero have or none."""
    with_sign = np.array([word.endswith("%") for word in words], bool)
    if not with_sign.any():
        return words
    bare = [word for word in words[~with_sign] if word and word.strip("0.,") not in ("", "<")]
    if bare or signs is None:
        why = f"{len(bare)} others have none (first {bare[0][:40]!r})" if bare else "its unit is not per cent"
        count = f"{with_sign.sum()} values carry a per cent sign (first {words[with_sign][0][:40]!r})"
        raise UserError(f"{path}: column {name!r}: {count}, but {why}; write all in one unit without it")
    notes.append(f"{name!r}: {with_sign.sum()} per cent signs read")
    signs.append("%")
    return np.array([word.rstrip("%").strip() for word in words], object)


def _with_points(words: np.ndarray, path: Path, name: str, reading: Reading, notes: list[str]) -> np.ndarray:
    """Return words with decimal points for decimal commas; refuse what may be either."""
    bare = [word.lstrip("<≤= ") for word in words]
    commas = [word for word in bare if _COMMA.fullmatch(word)]
    if not commas:
        return words
    points = [word for word in bare if "." in word]
    unclear = [word for word in commas if _THOUSANDS.fullmatch(word)]
    if points or (len(unclear) == len(commas) and reading.decimal != ","):
        other = f"{len(points)} a decimal point (first {points[0][:40]!r})" if points else "1,234 may be 1.234 or 1234"
        count = f"{len(commas)} values have a comma (first {commas[0][:40]!r})"
        raise UserError(f"{path}: column {name!r}: {count}, {other}; write all with a decimal point")
    notes.append(f"{name!r}: decimal commas")
    return np.array(
        [word.replace(",", ".") if _COMMA.fullmatch(plain) else word for word, plain in zip(words, bare, strict=True)], object
    )


def _without_limits(words: np.ndarray, path: Path, name: str, reading: Reading, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return words without "<", and the factors (N,) by which values below a limit of detection are multiplied."""
    factors = np.ones(len(words))
    below = {k: match[1] for k, word in enumerate(words) if (match := _LIMIT.fullmatch(word)) and _NUMBER.fullmatch(match[1])}
    if not below:
        return words, factors
    count, first = f"{len(below)} values", str(words[next(iter(below))])
    if reading.below_limit == "ask":
        advice = "--below_limit half (or zero, or drop: missing) says what they become"
        raise UserError(f"{path}: column {name!r}: {count} are below a limit of detection (first {first[:40]!r}); {advice}")
    words = words.copy()
    for k, limit in below.items():
        words[k] = "" if reading.below_limit == "drop" else limit
        factors[k] = 0.5 if reading.below_limit == "half" else 0.0
    become = {"half": "half of the limit", "zero": "0", "drop": "missing"}[reading.below_limit]
    notes.append(f"{name!r}: {count} below a limit (first {first}) taken for {become}")
    return words, factors


def _check_codes(found: np.ndarray, path: Path, name: str) -> None:
    """Ask about a largest value of nines that repeats far from all others: a code for missing."""
    known = found[np.isfinite(found)]
    if not known.size or not _NINES.fullmatch(f"{known.max():.6g}"):
        return
    code, count = known.max(), int((known == known.max()).sum())
    others = known[known < code]
    if count >= _FEWEST_CODES and others.size and code > _FAR * max(float(others.max()), 1.0):
        saw = f"{count} values are {code:.6g}, the next largest is {others.max():.6g}"
        raise UserError(
            f"{path}: column {name!r}: {saw}: a code for missing? --missing_words {code:.6g} says so; else correct them"
        )


# --- years -----------------------------------------------------------------------------------------------------------

_ISO = re.compile(r"(\d{4})[-/.?](?:\d{1,2}|\?+)(?:[-/.?](?:\d{1,2}|\?+))?(?:[T ].*)?")
_DAY_FIRST = re.compile(
    r"(?:\d{1,2}|[a-z]{3,9}\.?)(?:[-/. ,]+(?:\d{1,2}|[a-z]{3,9}\.?))?[-/. ,]+(\d{4})(?:[T ,]\s*\d.*)?", re.IGNORECASE
)
_PLAIN = re.compile(r"(\d{4})(\.\d+)?")
_DATE8 = re.compile(r"(\d{4})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?:\.0)?")
_SERIAL = re.compile(r"([2-6]\d{4})(\.\d+)?")
_EXCELS_DAY_0 = datetime.date(1899, 12, 30)


def _year(word: str) -> tuple[float, str]:
    """Return the year of a date, and the form of it that is to be told; NaN: none."""
    if match := _PLAIN.fullmatch(word):
        return float(word), ""
    if match := _ISO.fullmatch(word):
        return float(match[1]), ""
    if match := _DAY_FIRST.fullmatch(word):
        return float(match[1]), "dates ending in a year"
    if match := _DATE8.fullmatch(word):
        return float(match[1]), "dates YYYYMMDD"
    if (match := _SERIAL.fullmatch(word)) and 20_000 <= int(match[1]) <= 60_000:
        return float((_EXCELS_DAY_0 + datetime.timedelta(int(match[1]))).year), "Excel's serial numbers of days"
    return np.nan, ""


def years(column: pd.Series, path: Path, name: str, reading: Reading = Reading(), notes: list[str] | None = None) -> np.ndarray:  # noqa: B008 - frozen
    """Return the years (N,) of a column of years or dates, NaN where it is missing.

    Read are years, with decimals too; dates beginning (ISO) or ending in a year of four digits; YYYYMMDD; Excel's serial numbers.
    UserError if something else is there, such as years of two digits.

    >>> years(pd.Series(["1987", "07/04/1987", "1987-04-07", "31874", "19870407", "-9999"]), Path("h.csv"), "date")
    array([1987., 1987., 1987., 1987., 1987.,   nan])
    """
    notes = [] if notes is None else notes
    words = np.asarray(
        column.map(lambda value: f"{value:.12g}" if isinstance(value, (int, float)) else value).astype("str").str.strip()
    )
    missing = (
        is_missing(column, reading.missing)
        | np.isin(words, [f"{code:g}" for code in CODES])
        | np.isin(words, ["-9999.0", "-999.0"])
    )
    found, wrong = np.full(len(words), np.nan), []
    forms: dict[str, int] = {}
    for k in np.flatnonzero(~missing):
        found[k], form = _year(str(words[k]))
        if np.isnan(found[k]):
            wrong.append(k)
        if form:
            forms[form] = forms.get(form, 0) + 1
    if wrong:
        first = str(words[wrong[0]])
        counted = f"{path}: column {name!r}: {len(wrong)} of {int((~missing).sum())} values are no years (first {first[:40]!r})"
        two = re.fullmatch(r"\d{2}(\.0)?|(?:\d{1,2}[-/. ]){2}\d{2}|[a-z]{3,9}[-/. ]\d{2}", first, re.IGNORECASE)
        advice = "years of two digits? Write four" if two else "write years such as 1987, or dates such as 1987-04-07"
        raise UserError(f"{counted}; {advice}; --columns year=none does without")
    notes += [f"{name!r}: {count} {form} read as years" for form, count in forms.items()]
    return found


# --- depths ----------------------------------------------------------------------------------------------------------

_END = r"\s*(-?\d+(?:[.,]\d+)?)\s*({units})?\s*"
_UNITS = 'cm|mm|m|in|inches|"'
_RANGE = re.compile(
    rf"\(?\[?{_END.format(units=_UNITS)}(?:-|–|—|−|_|/|:|;|\bto\b|-to-|\bbis\b|\ba\b|\band\b|\.\.+|to)\s*{_END.format(units=_UNITS)}\]?\)?\.?",
    re.IGNORECASE,
)  # fmt: skip


def depth_range(word: str) -> tuple[float, float, str] | None:
    """Return upper limit, lower limit and unit ("" if not said) of a depth range as text; None if it is none.

    >>> [depth_range(word) for word in ("0-10", "10-to-20", "0 – 30 cm", "0_30", "30")]
    [(0.0, 10.0, ''), (10.0, 20.0, ''), (0.0, 30.0, 'cm'), (0.0, 30.0, ''), None]
    """
    match = _RANGE.fullmatch(word.strip())
    if match is None:
        return None
    unit = (match[4] or match[2] or "").lower().replace("inches", "in").replace('"', "in")
    return float(match[1].replace(",", ".")), float(match[3].replace(",", ".")), unit


def split_ranges(column: pd.Series, path: Path, name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return upper and lower limits (N,), NaN where missing, and the unit that all name or "", of a column of depth ranges.

    UserError if a cell is no range, or units differ.
    """
    missing = is_missing(column)
    words = column.astype("str").to_numpy(object)
    ranges = [None if gone else depth_range(word) for word, gone in zip(words, missing, strict=True)]
    wrong = [k for k, each in enumerate(ranges) if each is None and not missing[k]]
    if wrong:
        counted = f"{len(wrong)} of {int((~missing).sum())} values are no ranges such as 0-10 (first {words[wrong[0]][:40]!r})"
        raise UserError(f"{path}: column {name!r}: {counted}; name columns of upper and lower depth (--columns top=... bottom=...)")
    units = sorted({each[2] for each in ranges if each is not None} - {""})
    if len(units) > 1:
        raise UserError(f"{path}: column {name!r}: depths in {' and in '.join(units)}; write all in one unit")
    limits = np.array([(np.nan, np.nan) if each is None else each[:2] for each in ranges], np.float64).reshape(-1, 2)
    return limits[:, 0], limits[:, 1], units[0] if units else ""


def depths(column: pd.Series, path: Path, name: str, reading: Reading, notes: list[str]) -> np.ndarray:
    """Return a column of depths (N,); "120+" and ">120", open below, are 120, and cm behind all is dropped."""
    words = column.astype("str").str.strip()
    cut = words.str.replace(r"\s*cm\.?$", "", regex=True, case=False)
    open_below = cut.str.fullmatch(r"[>≥]\s*\d+(\.\d+)?|\d+(\.\d+)?\s*\+") & ~is_missing(column)
    if open_below.any():
        notes.append(f"{name!r}: {int(open_below.sum())} depths open below (first {words[open_below].iloc[0]!r}) end at the number")
        cut = cut.str.strip("+>≥ ").where(open_below, cut)
    found = numbers(cut.where(~is_missing(column)), path, name, reading, notes)
    code = np.isin(found, CODES) & (found <= -99)
    if code.any() and (found >= 0).any() and not (found[~code] <= -99).any():
        notes.append(f"{name!r}: {code.sum()} of {found[code][0]:g} taken for missing")
        found[code] = np.nan
    return found


# --- degrees ---------------------------------------------------------------------------------------------------------

_LETTERED = re.compile(r"([NSEWnsew]?)\s*([+-]?\d+(?:\.\d+)?)\s*°?\s*([NSEWnsew]?)")
_MINUTES = re.compile(r".*\d\s*(°|º|d|deg|:|\s)\s*\d+(\.\d+)?\s*(['′’\"″m:\s].*|[NSEW]\s*)?", re.IGNORECASE)


def degrees(column: pd.Series, letters: pd.Series | None, path: Path, name: str, reading: Reading, notes: list[str]) -> np.ndarray:
    """Return a column of longitudes or latitudes (N,), NaN where it is missing or text; letters E, W, N and S give the sign.

    `letters` is a column of letters of their own, if there is one. UserError if degrees are in minutes and seconds, a letter and a
    sign disagree, or nothing is a number.

    >>> degrees(pd.Series(["44.5W", "10.25 E"]), None, Path("p.csv"), "lon", Reading(), [])
    array([-44.5 ,  10.25])
    """
    missing = is_missing(column, reading.missing)
    words = np.asarray(column.astype("str").str.strip().str.replace("−", "-", regex=False).where(~missing, ""), object)
    words = _with_points(words, path, name, reading, notes)
    matches = [_LETTERED.fullmatch(word) for word in words]
    plain_numbers = [bool(_NUMBER.fullmatch(word)) for word in words]
    wrong = [k for k, match in enumerate(matches) if match is None and not plain_numbers[k] and words[k]]
    minutes = [k for k in wrong if _MINUTES.fullmatch(words[k])]
    if minutes:
        counted = f"{len(minutes)} of {int((words != '').sum())} values (first {words[minutes[0]][:40]!r})"
        advice = "write decimal degrees, degrees + minutes / 60 + seconds / 3600, west and south negative"
        raise UserError(f"{path}: column {name!r}: {counted} are in degrees, minutes and seconds; {advice}")
    if len(wrong) == int((words != "").sum()):
        what = f"holds no numbers (first: {str(column[~missing].iloc[0])[:40]!r})" if wrong else "is empty"
        raise UserError(f"{path}: column {name!r} {what}; decimal degrees are needed")
    found = np.array(
        [
            float(word) if plain else float(match[2]) if match else np.nan
            for word, plain, match in zip(words, plain_numbers, matches, strict=True)
        ]
    )
    sides = np.array(["" if match is None else (match[1] or match[3]).upper() for match in matches], object)
    if letters is not None:
        own = np.asarray(letters.astype("str").str.strip().str.upper().str[:1].where(letters.notna(), ""), object)
        sides = np.where(sides == "", own, sides)
    return _signed(found, sides, path, name, notes)


def _signed(found: np.ndarray, sides: np.ndarray, path: Path, name: str, notes: list[str]) -> np.ndarray:
    """Return degrees with the sign that letters give."""
    known = set(sides[~np.isnan(found)].tolist()) - {""}
    if not known:
        return found
    if not (known <= {"E", "W"} or known <= {"N", "S"}):
        shown = ", ".join(sorted(known)[:5])
        raise UserError(
            f"{path}: column {name!r}: letters {shown} where E and W, or N and S are expected; write west and south negative"
        )
    south = np.isin(sides, ["W", "S"])
    clash = np.isin(sides, ["E", "N"]) & (found < 0)
    if clash.any():
        raise UserError(f"{path}: column {name!r}: {clash.sum()} values are negative and east or north (first {found[clash][0]:g})")
    notes.append(f"{name!r}: {south.sum()} values west or south by their letter")
    return np.where(south, -np.abs(found), found)


def has_decimal_commas(table: pd.DataFrame) -> bool:
    """Return whether some cells of columns can only be decimal commas, and none has a decimal point."""
    seen = False
    for _, column in table.items():
        words = column.dropna().astype("str").str.strip()
        if words.str.fullmatch(r"[+-]?\d*\.\d+").any():
            return False
        commas = words[words.str.fullmatch(_COMMA.pattern)]
        seen = seen or bool((~commas.str.fullmatch(_THOUSANDS.pattern)).any())
    return seen
