"""Text of a column as numbers: read by a rule that is told, or refused; never another number."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.io.values import Reading, degrees, depth_range, depths, is_missing, numbers, split_ranges, years

PATH, NAN = Path("h.csv"), np.nan


def text(*words):
    return pd.Series(words, dtype="str")


@pytest.mark.parametrize(
    ("words", "expected", "told"),
    [
        (["1.5", "-2", "1e-3", " 7 ", "+.5"], [1.5, -2, 0.001, 7, 0.5], ""),
        (["1.5", "", "NA", "n.a.", "-", "NaN", None], [1.5, *[NAN] * 6], ""),
        (["1,55", "1", "0,3"], [1.55, 1, 0.3], "decimal commas"),
        (["1,555", "1,6"], [1.555, 1.6], "decimal commas"),
        (["−1.5", "2"], [-1.5, 2], ""),
        (["15", "-9999", "-999", "-99", "-1"], [15, *[NAN] * 4], "1 of -9999 taken for missing"),
        (["15", "-3", "-1"], [15, -3, -1], ""),  # no codes: there are other negative numbers
    ],
)
def test_numbers(words, expected, told):
    notes = []
    np.testing.assert_array_equal(numbers(text(*words), PATH, "soc", notes=notes, negative=False), expected)
    assert told in "; ".join(notes)
    assert bool(notes) == bool(told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1.5", "n.d."], "column 'soc': 1 of 2 values are no numbers .first 'n.d.', row 3.*--missing_words n.d."),
        (["1.5", "trace"], "first 'trace'"),
        (["1.5", "15-40"], "they look like classes"),
        (["1.5", "15 – 40"], "they look like classes"),
        (["1.5", ">80"], "above a limit"),
        (["1.5", "inf"], "1 of 2 values are no numbers"),
        (["1.5", "1_000"], "1 of 2 values are no numbers"),
        (["1.5", "0x10"], "1 of 2 values are no numbers"),
        (["1.5", "12 g/kg"], "1 of 2 values are no numbers"),
        (["1.5", "1.2.3"], "1 of 2 values are no numbers"),
        (["True", "False"], "2 of 2 values are no numbers"),
        (["1,555", "2,345"], "1,234 may be 1.234 or 1234"),
        (["1,5", "1.5"], "1 values have a comma .first '1,5'., 1 a decimal point"),
        (["1.5", "40%"], "carry a per cent sign .first '40%'., but 1 others have none"),
        (["1.5", "<10"], "1 values are below a limit of detection .first '<10'.; --below_limit half"),
        (["1.5", "<LOD"], "1 of 2 values are no numbers"),
        (["NA", ""], "column 'soc' is empty"),
        (["1", "2", "999", "999", "999"], "3 values are 999, the next largest is 2: a code for missing. --missing_words 999"),
    ],
)
def test_what_is_no_number_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        numbers(text(*words), PATH, "soc", signs=[])


@pytest.mark.parametrize(("rule", "expected"), [("half", 5.0), ("zero", 0.0), ("drop", NAN)])
def test_values_below_a_limit(rule, expected):
    notes = []
    found = numbers(text("40", "<10", "< 10", "≤10", "<= 10"), PATH, "soc", Reading(below_limit=rule), notes)
    np.testing.assert_array_equal(found, [40, *[expected] * 4])
    assert "4 values below a limit (first <10)" in notes[0]


def test_per_cent_signs_of_a_whole_column_and_further_words():
    signs = []
    assert numbers(text("0", "40%", "5 %"), PATH, "cf", signs=signs).tolist() == [0, 40, 5]
    assert signs == ["%"]
    with pytest.raises(UserError, match="its unit is not per cent"):
        numbers(text("40%", "5%"), PATH, "bd")
    found = numbers(text("12", "n.d.", "999", "999", "999"), PATH, "cf", Reading(missing=("N.D.", "999")))
    np.testing.assert_array_equal(found, [12, *[NAN] * 4])
    assert is_missing(text("NULL", "0", "none")).tolist() == [True, False, True]


def test_decimal_commas_elsewhere_in_the_file_decide():
    assert numbers(text("1,345", "1,278"), PATH, "bd", Reading(decimal=",")).tolist() == [1.345, 1.278]


@pytest.mark.parametrize(
    ("word", "year"),
    [
        ("1987", 1987), ("1987.25", 1987.25), ("1987-04-07", 1987), ("1987/4/7", 1987), ("1987-04", 1987), ("1987-??-??", 1987),
        ("1987-04-07T10:00:00Z", 1987), ("1987-04-07 10:00", 1987), ("07/04/1987", 1987), ("7.4.1987", 1987), ("Apr-1987", 1987),
        ("7 April 1987", 1987), ("4/7/1987 0:00", 1987), ("19870407", 1987), ("31874", 1987), ("31874.5", 1987), ("42000", 2014),
    ],
)  # fmt: skip
def test_years(word, year):
    assert years(text(word, ""), PATH, "date")[0] == year


@pytest.mark.parametrize(
    "word", ["87", "07/04/87", "1987-1989", "ca. 1987", "1990s", "198704", "20991307", "unknown", "Apr-87", "61000"]
)
def test_no_years(word):
    with pytest.raises(UserError, match="1 of 1 values are no years"):
        years(text(word, "-9999"), PATH, "date")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0-10", (0, 10, "")), ("0-10 cm", (0, 10, "cm")), ("0–10", (0, 10, "")), ("10-to-20", (10, 20, "")), ("0_30", (0, 30, "")),
        ("0 to 30cm", (0, 30, "cm")), ("0cm-30cm", (0, 30, "cm")), ("7.5-15", (7.5, 15, "")), ("0,5-1,0 m", (0.5, 1, "m")),
        ("0/30", (0, 30, "")), ("[0-30]", (0, 30, "")), ("-5-0", (-5, 0, "")), ("5-0", (5, 0, "")), ("0..10", (0, 10, "")),
        ("30", None), ("topsoil", None), ("0-10-20", None), ("A-B", None), ("", None),
    ],
)  # fmt: skip
def test_depth_ranges(word, expected):
    assert depth_range(word) == expected


def test_columns_of_depths():
    upper, lower, unit = split_ranges(text("0-10 cm", "10-30", ""), PATH, "depth")
    np.testing.assert_array_equal([upper, lower], [[0, 10, NAN], [10, 30, NAN]])
    assert unit == "cm"
    with pytest.raises(UserError, match="1 of 2 values are no ranges such as 0-10 .first 'litter'"):
        split_ranges(text("0-10", "litter"), PATH, "depth")
    with pytest.raises(UserError, match="depths in cm and in mm"):
        split_ranges(text("0-10 cm", "100-300 mm"), PATH, "depth")
    notes = []
    assert depths(text("10 cm", "120+", ">150"), PATH, "bottom", Reading(), notes).tolist() == [10, 120, 150]
    assert "2 depths open below (first '120+')" in notes[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["44.5555W", "10 E"], [-44.5555, 10]), (["32.5S", "5.1n"], [-32.5, 5.1]), (["10,5", "11"], [10.5, 11]), (["1.5°W"], [-1.5])],
)  # fmt: skip
def test_degrees(words, expected):
    assert degrees(text(*words), None, PATH, "lon", Reading(), []).tolist() == expected


@pytest.mark.parametrize(
    ("words", "letters", "message"),
    [
        (["44°33'19.8\"W"], None, "degrees, minutes and seconds"),
        (["44 33 19 W"], None, "degrees, minutes and seconds"),
        (["44:33:19"], None, "degrees, minutes and seconds"),
        (["east"], None, "holds no numbers .first: 'east'"),
        (["-10E"], None, "negative and east or north"),
        (["10E", "5N"], None, "letters E, N where"),
        (["10"], ["X"], "letters X where"),
    ],
)
def test_no_degrees(words, letters, message):
    with pytest.raises(UserError, match=message):
        degrees(text(*words), None if letters is None else text(*letters), PATH, "lon", Reading(), [])
