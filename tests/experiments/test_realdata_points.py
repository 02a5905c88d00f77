"""Joined tables of real profiles: each profile once, earlier tables first."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
from realdata_points import joined

COLUMNS = ["profile_id", "lon", "lat", "soc_gkg", "year"]


def test_earlier_tables_win_and_repeats_go():
    first = pd.DataFrame(
        [["a", 10.0, 50.0, 12.0, 1990], ["a2", 10.0, 50.0, 14.0, 1990], ["b", 11.0, 50.0, 9.0, 1991]], columns=COLUMNS
    )
    second = pd.DataFrame(
        [
            ["near", 10.0, 50.0008, 12.5, 1960],  # 89 m of a
            ["apart", 10.0, 50.0010, 12.5, 1960],  # 111 m
            ["twice", 80.0, 20.0, 3.0, 1970],
            ["copy", 80.0, 20.000004, 3.0001, 1975],  # one place, one value, but for rounding
            ["other", 80.0, 20.0, 4.0, 1970],  # a second profile of the place
        ],
        columns=COLUMNS,
    )
    assert joined([first, second])["profile_id"].tolist() == ["a", "a2", "b", "apart", "twice", "other"]
    assert joined([first])["profile_id"].tolist() == ["a", "a2", "b"]
