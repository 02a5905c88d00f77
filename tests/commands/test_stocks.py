"""The command stocks: the worked example end to end, references, second tables, counts, and refused input."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from soilcarbon.commands import stocks
from soilcarbon.io.files import run

EXAMPLE = SHARED / "realdata2" / "esm_example"
NAMES = ["plot", "year", "treatment", "top", "bottom", "soc", "bd", "stones"]
ROWS = [
    ("a", 2010, "T", 0, 10, 20.0, 1.2, 0.0),
    ("a", 2010, "T", 10, 30, 10.0, 1.4, 0.0),
    ("a", 2020, "T", 0, 10, 22.0, 1.3, 0.0),
    ("a", 2020, "T", 10, 30, 10.0, 1.5, 0.0),
    ("b", 2010, "C", 0, 10, 15.0, 1.0, 10.0),
    ("b", 2010, "C", 10, 30, 8.0, 1.3, 10.0),
    ("b", 2020, "C", 0, 20, 15.0, 1.1, 10.0),
]


def write(rows=ROWS, name="h.csv", **columns):
    pd.DataFrame(rows, columns=NAMES).assign(**columns).to_csv(name, index=False)


def make(*more, horizons="h.csv"):
    return run(lambda: stocks.main(["--horizons", horizons, "--out", "out", *more]))


def result(method="fixed_depth", layer=1, column="stock_t_ha"):
    table = pd.read_csv("out/stocks.csv", dtype={"profile_id": str, "visit": str})
    rows = table[(table["method"] == method) & (table["layer"] == layer)]
    return rows.set_index(["profile_id", "visit"])[column].to_dict()


def test_stocks_by_hand_and_cores_left_out(workplace, caplog):
    write()
    with caplog.at_level("INFO"):
        assert make("--depths", "0", "10", "30", "--method", "fixed_depth", "esm_linear") == 0
    assert result() == pytest.approx({("a", "2010"): 24.0, ("a", "2020"): 28.6, ("b", "2010"): 13.5, ("b", "2020"): 14.85})
    assert result(layer=2) == pytest.approx({("a", "2010"): 52.0, ("a", "2020"): 58.6, ("b", "2010"): 13.5 + 18.72})
    least = 900 + 2340.0
    expected = {("a", "2010"): 24 + (least - 1200) / 100, ("a", "2020"): 28.6 + (least - 1300) / 100, ("b", "2010"): 32.22}
    assert result("esm_linear", 2) == pytest.approx(expected)
    assert result("esm_linear", 2, "reference_mass_t_ha") == pytest.approx(dict.fromkeys(expected, least))
    assert result("esm_linear", 2, "depth_cm")["a", "2020"] == pytest.approx(10 + (least - 1300) / 150)
    left = pd.read_csv("out/left_out.csv")
    assert left[["profile_id", "visit", "layer", "reason"]].to_numpy().tolist() == [["b", 2020, 2, "too short"]] * 2
    assert "1 cores left out, too short" in caplog.text
    facts = json.loads((workplace / "out" / "stocks.json").read_text())
    assert facts["counts"]["cores"] == 4
    assert facts["left out"] == {"esm_linear - too short": 1, "fixed_depth - too short": 1}
    assert (workplace / "out" / "settings.yaml").is_file()


def test_organic_layers_above_0_are_told(workplace, caplog):
    write([*ROWS, ("a", 2010, "T", -5, 0, 300.0, 0.1, 0.0)])
    with caplog.at_level("INFO"):
        assert make("--depths", "0", "10", "--method", "fixed_depth") == 0
    assert result()["a", "2010"] == pytest.approx(15 + 12)
    assert "1 cores with organic layers above 0 cm, whose depths are counted from their top" in caplog.text


def test_kg_per_m2_sd_and_columns_of_the_core(workplace):
    write()
    assert make("--sd", "soc=10%", "--method", "fixed_depth") == 0
    table = pd.read_csv("out/stocks.csv")
    np.testing.assert_allclose(table["stock_kg_m2"] * 10, table["stock_t_ha"])
    assert table["treatment"].tolist() == ["T", "T", "C"]
    assert table["year"].tolist() == [2010, 2020, 2010]
    assert table["stock_sd_t_ha"][0] == pytest.approx(np.hypot(2.4, 2.8))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--reference_by", "treatment"], {"a": 4000.0, "b": 3240.0}),
        (["--reference_by", "plot", "year"], {"a": 4000.0, "b": 3240.0}),
        (["--reference_mass", "1000", "2000"], {"a": 3000.0, "b": 3000.0}),
        (["--reference_table", "r.csv"], {"a": 2500.0, "b": 2500.0}),
        (["--reference_table", "g.csv", "--reference_by", "treatment"], {"a": 2500.0, "b": 1900.0}),
    ],
    ids=["by treatment", "by place and visit", "masses", "table", "table by group"],
)
def test_reference_masses(more, expected, workplace):
    write()
    pd.DataFrame({"top": [0, 10], "bottom": [10, 30], "mass_kg_m2": [100, 150]}).to_csv("r.csv", index=False)
    groups = {"treatment": list("TTCC"), "top": [0, 10] * 2, "bottom": [10, 30] * 2, "cum_mass_t_ha": [1000, 2500, 900, 1900]}
    pd.DataFrame(groups).to_csv("g.csv", index=False)
    assert make("--depths", "0", "10", "30", "--method", "esm_linear", *more) == 0
    masses = result("esm_linear", 2, "mass_t_ha")
    assert {place: masses[place, "2010"] for place in "ab"} == pytest.approx(expected)


def test_a_smallest_mass_far_below_the_others_is_told(workplace, caplog):
    write(bd=[1.2, 1.4, 1.3, 1.5, 0.2, 0.2, 1.1])
    with caplog.at_level("INFO"):
        assert make("--depths", "0", "30") == 0
    assert "the smallest mass, 540 t/ha of b, visit 2010, is 14 % of the median" in caplog.text


@pytest.mark.parametrize(
    ("table", "more", "words"),
    [
        ({"top": [0], "bottom": [30]}, [], "no column has 'mass' in its name"),
        ({"mass_a": [1], "mass_b": [2]}, [], "2 columns have 'mass' in their name (mass_a, mass_b)"),
        ({"mass": [1000, -1]}, [], "1 of 2 masses are missing or not above 0"),
        (
            {"mass": [130, 280], "top": [0, 10], "bottom": [10, 30]},
            [],
            "within 3.8 cm of the surface, not near 30 cm: is it in kg/m2?",
        ),
        (
            {"mass": [13, 28], "top": [0, 10], "bottom": [10, 30]},
            [],
            "2 of 2 layers weigh what no soil does (first 13 kg/m3, in t/ha)",
        ),
        ({"cum_mass": [2800, 1300], "top": [0, 10], "bottom": [10, 30]}, [], "cumulative masses must increase"),
        ({"mass": [1300], "treatment": ["T"]}, ["--reference_by", "treatment"], "no masses for 'C'"),
        ({"mass": [13, 28, 5], "treatment": list("TTC")}, ["--reference_by", "treatment"], "different numbers of layers"),
        ({"mass": [1300]}, ["--reference_by", "treatment"], "no column 'treatment' (--reference_by)"),
    ],
)
def test_tables_of_reference_masses_that_are_refused(table, more, words, workplace, capsys):
    write()
    pd.DataFrame(table).to_csv("r.csv", index=False)
    assert make("--reference_table", "r.csv", *more) == 2
    assert words in capsys.readouterr().err


def test_references_that_differ_between_visits_are_told(workplace, caplog):
    write()
    with caplog.at_level("INFO"):
        assert make("--reference_by", "plot") == 0
        assert "another reference mass" not in caplog.text
        assert make("--reference_by", "plot", "year") == 0
    assert "1 places have another reference mass at each visit (first a)" in caplog.text


def test_a_group_of_shallow_cores_has_stocks_of_the_upper_depths(workplace):
    write([row for row in ROWS if row[0] == "a" or row[3] == 0])
    assert make("--depths", "0", "10", "30", "--method", "esm_spline", "--reference_by", "plot") == 0
    assert result("esm_spline", 1)["b", "2010"] == pytest.approx(13.5)
    left = pd.read_csv("out/left_out.csv")
    assert left["reason"].tolist() == ["no reference mass: no core of its group is so deep"] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plot": list("xxxxyyy")}, "none of its cores is in h.csv (first 'x, visit 2010'; there 'a, visit 2010')"),
        ({"top": -5, "bottom": 10}, "organic layers above 0 cm, and two tables"),
    ],
)
def test_second_tables_that_do_not_fit_are_refused(change, words, workplace, capsys):
    write()
    table = pd.DataFrame(ROWS, columns=NAMES).assign(**change)
    table.drop(columns="soc").to_csv("bd.csv", index=False)
    assert make("--bulk_density_table", "bd.csv") == 2
    assert words in capsys.readouterr().err


def test_bulk_density_of_other_layers_in_a_second_table(workplace):
    write()
    assert make("--depths", "0", "20", "--method", "fixed_depth") == 0
    expected = result()
    table = pd.DataFrame(ROWS, columns=NAMES)
    table.drop(columns=["bd", "stones"]).to_csv("h.csv", index=False)
    halves = [table.assign(bottom=(table["top"] + table["bottom"]) / 2), table.assign(top=(table["top"] + table["bottom"]) / 2)]
    pd.concat(halves).drop(columns=["soc", "treatment"]).sample(frac=1, random_state=1).to_csv("bd.csv", index=False)
    assert make("--depths", "0", "20", "--method", "fixed_depth", "--bulk_density_table", "bd.csv") == 0
    assert result() == pytest.approx(expected)


def test_estimated_bulk_density_is_asked_for(workplace, capsys):
    write(bd=np.nan)
    assert make() == 2
    error = capsys.readouterr().err
    assert "no core has a stock" in error and "{" not in error
    assert make("--estimate") == 0
    facts = json.loads((workplace / "out" / "stocks.json").read_text())
    assert facts["counts"]["bulk density estimated"] == 7


@pytest.mark.parametrize(
    ("more", "change", "words"),
    [
        ([], {"year": "15.06.90"}, "years of two digits?"),
        ([], {"plot": ""}, "no row has a place"),
        ([], {"soc": "much"}, "no numbers (first 'much'"),
        ([], {"bd": 13.0}, "look"),
        (["--depths", "0", "200"], {}, "no core has a stock"),
        (["--depths", "10", "30"], {}, "0, the surface"),
        (["--reference_mass", "300"], {}, ""),
        (["--reference_mass", "4", "--method", "esm_linear"], {}, "is it in kg/m2?"),
        (["--reference_mass", "-4"], {}, "each above 0"),
        (["--reference_mass", "4", "--reference_by", "plot"], {}, "give it, or reference_table, or reference_by"),
        (["--reference_by", "block"], {}, "no column that is the same throughout each core"),
        (["--visit", "campaign"], {}, "no column 'campaign' (--visit)"),
        (["--columns", "year=none"], {}, "while year changes: visits? --visit year says so"),
        (["--visit", "treatment"], {}, "2 cores have layers of several years (first a, visit T)"),
        (["--bulk_density_table", "h.csv", "--estimate"], {}, "a second table does not have"),
        (["--method", "esm_linear", "esm_linear"], {}, "each once"),
        ([], {"top": [0, 5, 0, 5, 0, 5, 0]}, "layers of 3 of 4 cores overlap (first a, visit 2010)"),
        ([], {"top": 10, "bottom": 20, "year": range(2001, 2008)}, "no SOC or bulk density at the surface"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(more, change, words, workplace, capsys):
    write(**change)
    if words:
        assert make(*more) == 2
        assert words in capsys.readouterr().err
        assert not (workplace / "out" / "stocks.csv").exists()


def test_replicates_are_averaged_or_asked_about(workplace, capsys):
    rows = [*ROWS, ("a", 2010, "T", 0, 10, 30.0, 1.2, 0.0)]
    write(rows)
    assert make("--depths", "0", "10", "--method", "fixed_depth") == 0
    assert result()["a", "2010"] == pytest.approx(30.0)
    write(rows, sand=[40, 35, 40, 35, 20, 25, 20, 42], lab_no=[f"L{k}" for k in range(8)])  # of layers, not of cores
    assert make("--depths", "0", "10", "--method", "fixed_depth") == 0
    both = [*ROWS, *(("a", 2010, "T", top, bottom, 30.0, 1.2, 0.0) for top, bottom in ((0, 10), (10, 30)))]
    write(both, tube=[1] * 7 + [2] * 2)
    capsys.readouterr()
    assert make() == 2
    assert "while tube changes: several cores of a place? --place plot tube takes each for itself" in capsys.readouterr().err
    assert make("--place", "plot", "tube", "--depths", "0", "10", "--method", "fixed_depth") == 0
    assert result()["a_2", "2010"] == pytest.approx(36.0)
    assert make("--place", "plot", "--depths", "0", "10", "--method", "fixed_depth") == 0
    assert result()["a", "2010"] == pytest.approx(30.0)


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the worked example (CeCILL-C) is not beside the checkout")
def test_the_worked_example_end_to_end(workplace):
    given = [
        *("--bulk_density_table", str(EXAMPLE / "bulk_density.csv"), "--place", "Plot", "Point", "--visit", "Campaign"),
        *("--reference_table", str(EXAMPLE / "reference_mass.csv"), "--method", "fixed_depth", "esm_linear", "esm_spline"),
    ]
    assert make(*given, horizons=str(EXAMPLE / "concentrations.csv")) == 0
    found, expected = pd.read_csv("out/stocks.csv"), pd.read_csv(EXAMPLE / "stocks.csv")
    found["core"] = found["visit"] + "_" + found["profile_id"]
    for ours, theirs, column in (
        ("fixed_depth", "FD", "soc_stock_cum_t_ha"),
        ("esm_spline", "ESM2_hyman_spline", "soc_stock_cum_t_ha"),
        ("esm_linear", "ESM2_hyman_spline", "linear_exact_soc_stock_cum_t_ha"),
    ):
        mine = found[found["method"] == ours].set_index(["core", "layer"])["stock_t_ha"]
        other = expected[expected["method"] == theirs].set_index(["core", "layer"])[column]
        assert len(mine) == len(other) == 20
        np.testing.assert_allclose(mine, other[mine.index], rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [("soc", 10, "visit 2020: the values (median"), ("stones", 100, "they look like fraction"), ("bd", 0.001, "bulk density")],
)
def test_a_visit_in_another_unit_is_asked_about(column, factor, words, workplace, capsys):
    random = np.random.default_rng(8)
    rows = [
        (f"p{k}", year, "T", top, top + 10, soc * random.uniform(0.8, 1.2), random.uniform(1.2, 1.5), random.uniform(2, 20))
        for k in range(6)
        for year in (2010, 2020)
        for top, soc in ((0, 20.0), (10, 15.0), (20, 12.0))
    ]
    table = pd.DataFrame(rows, columns=NAMES)
    table.to_csv("h.csv", index=False)
    assert make() == 0
    table[column] /= np.where(table["year"] == 2020, factor, 1)
    table.to_csv("h.csv", index=False)
    assert make() == 2
    assert words in capsys.readouterr().err
