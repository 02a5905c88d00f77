"""The command densities: columns found or named, units, deviations, reasons, and refused input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REALDATA, needs_realdata

from soilcarbon.commands import densities
from soilcarbon.io.files import run

ROWS = [
    # profile, lon, lat, year, top, bottom, soc, bd, cf
    ("a", 10.0, 50.0, 1990, 0, 20, 20.0, 1.2, 10.0),
    ("a", 10.0, 50.0, 1990, 20, 120, 5.0, 1.5, 10.0),
    ("b", 11.0, 50.0, 2001, 0, 30, 10.0, np.nan, np.nan),
    ("c", 12.0, 50.0, 2005, 0, 10, 10.0, 1.3, 0.0),
    ("d", 13.0, 50.0, 2005, 0, 20, 10.0, 13.0, 0.0),  # slipped by a power of ten
    ("d", 13.5, 50.0, 2005, 20, 40, 10.0, 1.3, 0.0),  # elsewhere
    ("e", 14.0, 95.0, 2005, 0, 20, 10.0, 1.3, 0.0),
    ("f", 15.0, 50.0, np.nan, 0, 25, 300.0, 12.0, 0.0),
]
NAMES = ["profile_id", "lon", "lat", "year", "top", "bottom", "soc", "bd", "cf"]


def horizons(folder, rename=None, **columns):
    table = pd.DataFrame(ROWS, columns=NAMES).assign(**columns).rename(columns=rename or {})
    table.to_csv(folder / "h.csv", index=False)


def make(*more):
    return run(lambda: densities.main(["--horizons", "h.csv", "--out", "out/d.csv", *more]))


def result():
    return pd.read_csv("out/d.csv", dtype={"profile_id": str}).set_index("profile_id")


def test_densities_and_flags_by_hand(workplace):
    horizons(workplace)
    assert make("--depth_method", "mean") == 0
    found = result()
    assert found.index.tolist() == ["a", "b", "f"]
    top = 0.020 * 1200 * 0.2 * 0.9
    assert found.loc["a", "socd_0_20"] == pytest.approx(top)
    assert found.loc["a", "socd_0_100"] == pytest.approx(top + 0.005 * 1500 * 0.8 * 0.9)
    assert found.loc["b", "socd_0_20"] == pytest.approx(0.010 * (1660 - 318) * 0.2)
    assert found.loc["f", "socd_0_20"] == pytest.approx(0.3 * (1380 - 310 * np.log(31)) * 0.2, abs=1e-4)
    assert found["bulk_density_by"].to_dict() == {"a": "measured", "b": "published", "f": "organic"}
    assert found["bd_estimated_0_20"].tolist() == [0, 1, 1]
    assert found["bd_organic_0_20"].tolist() == [0, 0, 1]
    assert found["stones_assumed_0_20"].tolist() == [0, 1, 0]
    assert found.loc["b", "socd_0_20_sd"] == pytest.approx(0.010 * 260 * 0.2)
    assert found["year"].tolist()[:2] == [1990, 2001]
    assert np.isnan(found.loc["b", "socd_0_100"])


def test_every_missing_density_has_a_reason(workplace):
    horizons(workplace)
    assert make() == 0
    left = pd.read_csv("out/d_left_out.csv", dtype=str).groupby("profile_id")[["target", "reason"]].agg(list)
    assert left.loc["c", "reason"] == ["too few centimetres of it observed"] * 2
    assert left.loc["d"].tolist() == [["all"], ["its horizons lie at different places"]]
    assert left.loc["e"].tolist() == [["all"], ["longitude or latitude out of range"]]
    assert left.loc["b", "target"] == ["socd_0_100"]
    record = yaml.safe_load(Path("out/d.yaml").read_text())
    assert record["counts"]["bulk density impossible"] == 2
    assert record["horizons"]["columns"]["bulk_density"] == "bd"
    assert sum(record["left out"].values()) == sum(len(reasons) for reasons in left["reason"])
    assert record["settings"]["depth_method"] == "spline"


def test_columns_of_other_names_and_units_give_the_same(workplace):
    horizons(workplace)
    assert make() == 0
    first = result()
    table = pd.DataFrame(ROWS, columns=NAMES)
    table = table.assign(soc=table["soc"] / 10, bd=table["bd"] * 1000)
    table = table.rename(columns={"profile_id": "PID", "top": "upper", "bottom": "lower", "soc": "C", "bd": "rho", "cf": "skelet"})
    table.to_csv("h.csv", index=False, sep=";")
    named = ["--columns", "soc=C", "bulk_density=rho", "stones=skelet", "--units", "soc=%", "--units", "bulk_density=kg/m3"]
    assert make(*named) == 0
    pd.testing.assert_frame_equal(result(), first)


@pytest.mark.parametrize(("given", "expected"), [("2", 0.1), ("10%", 0.1), ("error", 0.05)], ids=["number", "share", "column"])
def test_deviations_as_number_share_or_column(given, expected, workplace):
    horizons(workplace, error=1.0)
    assert make("--sd", f"soc={given}", "--depths", "0", "20", "--depth_method", "mean") == 0
    found = result()
    assert found.loc["a", "socd_0_20_sd"] == pytest.approx(expected * found.loc["a", "socd_0_20"], rel=1e-3)


def test_to_the_observed_bottom_if_requested(workplace):
    horizons(workplace)
    assert make("--min_covered", "0", "--depth_method", "mean") == 0
    found = result()
    assert found.loc["c", ["cm_0_20", "cm_0_100"]].tolist() == [10, 10]
    assert found.loc["c", "socd_0_100"] == pytest.approx(0.010 * 1300 * 0.1)


@pytest.mark.parametrize(
    ("more", "change", "words"),
    [
        (["--units", "bulk_density=kg/m3"], {}, "look like g/cm3"),
        (["--columns", "bulk_density=rho"], {}, "no column 'rho' (bulk_density=rho)"),
        (["--columns", "soc=bd", "bulk_density=bd"], {}, "named twice"),
        (["--sd", "soc=errors"], {}, "--sd soc=errors is no column, number or share such as 10%"),
        (["--sd", "soc=inf"], {}, "finite and 0 or more"),
        (["--sd", "soc=nan"], {}, "finite and 0 or more"),
        (["--sd", "soc=error"], {"error": -0.1}, "8 of 8 are negative"),
        (["--depths", "20", "0"], {}, "the upper one 0 or more"),
        (["--depths", "0", "150", "--multiply", "layers"], {}, "do not fill 0-150 cm"),
        (["--depths", "0", "200"], {}, "no profile has a density"),
        (["--out", "h.csv"], {}, "would overwrite"),
        ([], {"soc": -1.0}, "soc: 8 of 8 values (first -1) are no SOC in g/kg"),
        ([], {"rename": {"profile_id": "key", "top": "d1", "bottom": "d2"}}, "no column for profile_id (or profile, id"),
        ([], {"rename": {"soc": "carbon"}}, "--columns soc=NAME takes one of"),
        (["--units", "soc=furlongs"], {}, "soc: 'furlongs' is none of g/kg, %"),
        (["--units", "temperature=K"], {}, "'temperature' is none of depth, soc, bulk_density, stones"),
        (["--sd", "depth=1"], {}, "is of none of soc, bulk_density, stones"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(more, change, words, workplace, capsys):
    horizons(workplace, **change)
    assert make(*more) == 2
    assert words in capsys.readouterr().err
    assert not (workplace / "out" / "d.csv").exists()


def test_without_bulk_density_stones_and_year_all_is_estimated_and_logged(workplace):
    pd.DataFrame(ROWS, columns=NAMES).drop(columns=["bd", "cf", "year"]).to_csv("h.csv", index=False)
    assert make() == 0
    found = result()
    assert found["bd_estimated_0_20"].eq(1).all()
    assert found["stones_assumed_0_20"].eq(1).all()
    assert found["year"].isna().all()
    assert yaml.safe_load(Path("out/d.yaml").read_text())["functions of bulk density, kg/m3"] == {}


@needs_realdata
def test_real_horizons(workplace, capsys):
    given = REALDATA / "north_macedonia" / "horizons.csv"
    assert run(lambda: densities.main(["--horizons", str(given), "--out", "out/d.csv"])) == 0
    found = result()
    assert found["socd_0_20"].notna().sum() == 1916
    assert found["socd_0_100"].notna().sum() == 479
    scores = yaml.safe_load(Path("out/d.yaml").read_text())["functions of bulk density, kg/m3"]
    assert scores["Manrique and Jones 1991, mineral"]["bias"] == pytest.approx(-191, abs=1)
    assert scores["fitted to these horizons, mineral"]["rmse"] == pytest.approx(174, abs=1)


def test_impossible_carbon_scores_no_function(workplace):
    soc = np.full(8, 20.0)
    soc[:2] = 1e308, -5.0
    horizons(workplace, soc=soc)
    assert make("--min_covered", "0") == 0
    found = yaml.safe_load((workplace / "out" / "d.yaml").read_text())["functions of bulk density, kg/m3"]
    assert all(np.isfinite(each["rmse"]) for each in found.values())
