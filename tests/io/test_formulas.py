"""Cells of our CSV files that a spreadsheet would run are guarded; read back, names are what they were, and numbers numbers."""

import csv

import pandas as pd
import pytest

from soilcarbon.io.files import write_table
from soilcarbon.io.formulas import guarded, unguarded
from soilcarbon.io.tables import read_rows, read_table

NAMES = ["=1+1", "+cmd|' /C calc'!A0", "-A12", "@SUM(A1)", '=HYPERLINK("http://x","y")', "+49 123", "--", "=", "＝1", "'=1"]
PLAIN = ["a=b", "-5", "+5", "1e-3", "-1.5e+3", "", "'quoted'", "O'Neill", "x-1", "007", "-", "é", "-inf"]


@pytest.mark.parametrize("name", NAMES)
def test_a_formula_is_guarded_and_read_back_as_it_was(tmp_path, name):
    assert guarded(name) == f"'{name}"
    assert unguarded(guarded(name)) == name
    write_table(tmp_path / "t.csv", pd.DataFrame({"profile_id": ["a", name], name: [-1.5, 2.0]}))
    with (tmp_path / "t.csv").open(newline="") as file:
        assert all(not cell.startswith(("=", "+", "@", "\t")) for row in csv.reader(file) for cell in row)
    header, rows = read_rows(tmp_path / "t.csv")
    assert (header, [row[0] for row in rows]) == (["profile_id", name], ["a", name])
    table = read_table(tmp_path / "t.csv")
    assert table["profile_id"].tolist() == ["a", name]
    assert table[name].tolist() == [-1.5, 2.0]


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_no_formula_stays_as_it_is(name):
    assert guarded(name) == unguarded(name) == name


def test_numbers_of_any_kind_stay_numbers(tmp_path):
    table = pd.DataFrame({"a": [-1, 2], "b": [-0.5, None], "c": pd.array([-3, None], "Int64"), "d": [None, -4.5]}, dtype=object)
    write_table(tmp_path / "t.csv", table.assign(zone=pd.Categorical(["=x", "y"])))
    assert (tmp_path / "t.csv").read_text() == "a,b,c,d,zone\n-1,-0.5,-3,,'=x\n2,,,-4.5,y\n"
