"""Tables of visits: which two, in which order, and which places are one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.soil.revisits import pair_by_distance, pair_by_name, read_visits, two_visits
from soilcarbon.soil.settings import ChangeSettings

PATH = Path("t.csv")


def read(table, **rule):
    table.to_csv(PATH, index=False)
    return read_visits(PATH, ChangeSettings(table=PATH, **({"value": "soc"} | rule)))


def places(*names, soc=10.0, **more):
    return pd.DataFrame({"plot": names, "soc": soc, **more})


def test_visits_are_ordered_by_year_even_if_their_names_are_not(workplace):
    table = pd.concat([places("a", visit="old", year=1990), places("a", visit="new", year=2005)])
    first, second, names = two_visits(read(table), PATH)
    assert names == ("old", "new")
    assert (first["year"].item(), second["year"].item()) == (1990, 2005)


def test_spans_of_years_average_what_a_place_has_in_them(workplace):
    table = pd.DataFrame({"plot": list("aabac"), "year": [1985, 1990, 1994, 2012, 2012], "soc": [10.0, 20, 7, 30, 5]})
    first, second, _ = two_visits(read(table), PATH, ["1985-1994", "2010-2019"])
    assert dict(zip(first["place"], first["value"], strict=True)) == {"a": 15.0, "b": 7.0}
    assert second["place"].tolist() == ["a", "c"]
    one, other = pair_by_name(first, second)
    assert (one.tolist(), other.tolist()) == ([0], [0])


def test_rows_of_one_place_are_averaged_and_noted(workplace):
    table = pd.concat([places("a", "a", "b", soc=[1.0, 3.0, 5.0], year=2000), places("a", "b", year=2010)])
    found = read(table)
    assert two_visits(found, PATH)[0]["value"].tolist() == [2.0, 5.0]
    assert found.notes == ["2 rows repeat place and visit (first 'a'): averaged"]


def test_missing_values_and_names_are_counted(workplace):
    table = places("a", "b", None, "c", soc=[1.0, np.nan, 2.0, 3.0], year=[2000, 2000, 2000, np.nan])
    assert read(table).counts == {"rows": 4, "rows without a value": 1, "rows without place, visit, group, stratum or block": 2}


def test_places_within_metres_are_paired_once_the_nearest_first():
    metre = 1 / 111_195
    alike = {"lon": 0.0, "group": "", "stratum": "", "block": ""}
    first = pd.DataFrame({"lat": np.array([0.0, 5.0, 500.0]) * metre} | alike)
    second = pd.DataFrame({"lat": np.array([4.0, 8.0, 900.0]) * metre} | alike)
    assert [each.tolist() for each in pair_by_distance(first, second, 10.0)] == [[0, 1], [1, 0]]
    assert [each.tolist() for each in pair_by_distance(first, second, 5.0)] == [[1], [0]]
    assert [each.tolist() for each in pair_by_distance(first, second.assign(group="x"), 10.0)] == [[], []]
    assert [each.tolist() for each in pair_by_distance(first.assign(lon=np.nan), second, 10.0)] == [[], []]


@pytest.mark.parametrize(
    ("table", "rule", "words"),
    [
        (places("a", year=2000), {"value": None}, "no column 'stock_t_ha'"),
        (places("a", year=2000), {"value": "toc"}, "the target column 'toc' is not in it"),
        (places("a"), {}, "no column of visits or years; --visit COLUMN"),
        (places("a", year=2000), {"by": ("crop",)}, "no column 'crop' (--by)"),
        (places("a", "a", year=2000, top=[0, 10], bottom=[10, 20]), {}, "--each bottom tells these apart"),
        (places("a", soc=np.nan, year=2000).assign(soc=[" "]), {}, "column 'soc' is empty"),
        (places(None, year=2000), {}, "no row has a place"),
        (places("a", visit=" ", when=1), {}, "column 'visit' is empty; --visit COLUMN"),
        (places("a", soc=1e308, year=2000), {}, "1 of 1 values are beyond 1e+100 (first 1e+308)"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(table, rule, words, workplace):
    with pytest.raises(UserError) as error:
        read(table, **rule)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("visits", "chosen", "words"),
    [
        ([2000, 2010, 2020], [], "3 visits ('2000', '2010', '2020'); a change is between two"),
        ([2000, 2000], [], "1 visits"),
        (["x", "y"], [], "which of the visits 'x', 'y' is the first?"),
        ([2000, 2010], ["2000", "2011"], "no row of visit '2011'"),
        ([2000, 2010], ["2000", "1990-2005"], "share rows"),
    ],
)
def test_visits_that_are_unclear_are_asked_about(visits, chosen, words, workplace):
    found = read(pd.DataFrame({"plot": "a", "soc": 1.0, "when": visits}), visit="when")
    with pytest.raises(UserError) as error:
        two_visits(found, PATH, chosen)
    assert words in str(error.value)


def test_rows_of_one_name_that_lie_far_apart_are_no_place(workplace):
    table = pd.concat([places("a", "a", year=year, lon=[10.0, 10.5], lat=50.0, zone=["n", "s"]) for year in (2000, 2010)])
    with pytest.raises(
        UserError, match=r"1 places have rows of one visit that lie far from each other \(first 'a'\): --place COLUMNS"
    ):
        read(table)
    assert len(read(table, place=["zone", "plot"]).rows) == 4
    assert len(read(table.assign(lon=[10.0, 10.0002] * 2)).rows) == 2
