"""The command claim: hand-worked credits, validations, warnings, the page and its JSON, refused input."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from html_tags import Tags
from rasterio.transform import Affine
from scipy import stats

from soilcarbon.commands import change as change_command
from soilcarbon.commands import claim
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.html import format_value
from soilcarbon.io.files import run

SIDE, CELL = 40, 100.0  # cells, m: 1,600 ha
WEST, NORTH = 500_000.0, 5_500_000.0


def write_plots(n=12, gain=3.0, seed=1):
    """Write stocks of n plots at two visits, and the change between them."""
    random = np.random.default_rng(seed)
    first = pd.DataFrame({"profile_id": [f"p{k}" for k in range(n)], "visit": "2015", "method": "esm_spline", "layer": "1"})
    first = first.assign(year=2015, stock_t_ha=random.normal(60, 8, n).round(3), stock_sd_t_ha=0.6)
    second = first.assign(visit="2023", year=2023, stock_t_ha=(first["stock_t_ha"] + random.normal(gain, 2, n)).round(3))
    pd.concat([first, second]).to_csv("stocks.csv", index=False)
    assert run(lambda: change_command.main(["--table", "stocks.csv", "--out", "change"])) == 0
    return (second["stock_t_ha"] - first["stock_t_ha"]).to_numpy()


def write_maps(bias=0.0, level=0.9, half=2.0, seed=2):
    """Write maps of two periods in kg/m2, 0.4 higher in the second, with an interval of +-half; return what they hold."""
    random = np.random.default_rng(seed)
    first = 6 + np.linspace(0, 3, SIDE)[:, None] + random.normal(0, 0.2, (SIDE, SIDE))
    place, crs = Affine(CELL, 0, WEST, 0, -CELL, NORTH), "EPSG:32632"
    second = first + 0.4 + bias
    for name, values in (("2010", first), ("2020", second)):
        bands = np.stack([values, values - half, values + half])
        write_geotiff(Path(f"soc_{name}.tif"), bands, ["prediction", "lower", "upper"], place, crs, ["kg/m2"] * 3)
    write_geotiff(Path("soc_change.tif"), (second - first)[None], ["change"], place, crs, ["kg/m2"])
    rows = []
    for name, values, wide in (("2010", first, 0.3), ("2020", second, 0.3), ("change", second - first, 0.2)):
        mean = values.mean()
        row = {"map": name, "zone": "whole map", "cells": SIDE * SIDE, "area_km2": 16.0, "mean": mean - 0.01}
        row["map_mean"] = 1.2 * mean  # as of a map of medians, whose totals are of means
        rows.append(row | {"mean_lower": mean - 0.01 - wide, "mean_upper": mean - 0.01 + wide, "mean_unit": "kg/m2"})
    pd.DataFrame(rows).to_csv("soc_totals.csv", index=False)
    facts = {"model": {"checkpoint": "m.pth", "sha256": "ab", "unit": "kg/m2"}, "periods": ["2010", "2020"], "notes": []}
    Path("soc.yaml").write_text(yaml.safe_dump(facts | {"settings": {"level": level}}), encoding="utf-8")
    return first, second


def write_points(second, n=40, error=0.5, true_change=0.3, seed=3, name="points.csv"):
    """Write a simple random sample of cells with the truth of the second period and the change, which the map lacks."""
    random = np.random.default_rng(seed)
    row, col = random.integers(0, SIDE, (2, n))
    lon, lat = transformed("EPSG:32632", "EPSG:4326", WEST + (col + 0.5) * CELL, NORTH - (row + 0.5) * CELL)
    table = pd.DataFrame({"profile_id": [f"v{k}" for k in range(n)], "lon": lon, "lat": lat})
    table["socd"] = second[row, col] + random.normal(0, error, n)
    table["dsocd"] = true_change + random.normal(0, 0.4, n)
    table.to_csv(name, index=False)
    return table.assign(mapped=second[row, col].astype(np.float32).astype(float))


def make(*more):
    return run(lambda: claim.main(["--out", "out", *more]))


def facts():
    return json.loads(Path("out/claim.json").read_text(encoding="utf-8"))


def row(found, quantity, method):
    return next(each for each in found["estimates"] if each["quantity"] == quantity and each["method"].startswith(method))


# --- credit of plots --------------------------------------------------------------------------------------------------


def test_lower_bound_of_paired_plots(workplace):
    difference = write_plots()
    assert make("--change", "change", "--area_ha", "200", "--confidence", "0.95", "--co2e") == 0
    found = facts()
    se = difference.std(ddof=1) / 12**0.5
    least = difference.mean() - stats.t.ppf(0.95, 11) * se
    off = found["deduction"]
    assert off["credited"] == pytest.approx(least)
    assert off["credited_total_t_c"] == pytest.approx(200 * least)
    assert off["credited_total_t_co2e"] == pytest.approx(200 * least * 44 / 12)
    assert off["implied_confidence"] == pytest.approx(0.95)
    assert off["relative_half_width"] == pytest.approx(stats.t.ppf(0.95, 11) * se / difference.mean())
    low, high = stats.ttest_1samp(difference, 0).confidence_interval(0.9)
    assert (found["change"]["low"], found["change"]["high"]) == pytest.approx((low, high))
    assert found["change"]["total_high"] == pytest.approx(200 * high)
    assert found["plots"]["visits"] == ["2015", "2023"]
    detectable = json.loads(Path("change/change.json").read_text())["changes"][0]["minimum_detectable_change"]
    assert found["minimum_detectable_change"]["value"] == pytest.approx(detectable)


def test_discount_deducts_what_exceeds_the_threshold(workplace):
    difference = write_plots()
    assert make("--change", "change", "--area_ha", "200", "--rule", "discount", "--threshold", "0.15") == 0
    half = stats.t.ppf(0.95, 11) * difference.std(ddof=1) / 12**0.5
    off = facts()["deduction"]
    assert off["credited"] == pytest.approx(difference.mean() * (1 - (half / difference.mean() - 0.15)))
    assert off["deduction"] + off["credited"] == pytest.approx(difference.mean())
    assert "credited_total_t_co2e" not in off


def test_error_budget_of_plots(workplace):
    difference = write_plots()
    assert make("--change", "change", "--stocks", "stocks.csv", "--area_ha", "1", "--shared_sd", "0.5") == 0
    found = facts()
    variance = difference.var(ddof=1) / 12
    measurement = 2 * 0.6**2 / 12
    parts = [each["variance"] for each in found["error_budget"]]
    assert parts == pytest.approx([measurement, variance - measurement, 0.25])
    assert sum(each["share"] for each in found["error_budget"]) == pytest.approx(1)
    assert found["change"]["standard_error"] == pytest.approx((variance + 0.25) ** 0.5)


def test_error_budget_of_a_map_is_that_of_its_totals(workplace):
    write_maps()
    table = pd.read_csv("soc_totals.csv")
    parts = {"bias": 0.5, "correlated": 0.3, "cells": 0.0, "shared": 0.2, "floor": 0.0}
    table.assign(variance=1.0, **{f"variance_{name}": each for name, each in parts.items()}).to_csv("soc_totals.csv", index=False)
    assert make("--map", "soc.tif", "--basis", "map", "--shared_sd", "0.5") == 0
    found = facts()
    change, stock = ([row for row in found["error_budget"] if each in row["of"]] for each in ("change", "mean of the map"))
    own = (10 * 0.2 / 1.6449) ** 2  # half of the interval, in t/ha
    assert [row["variance"] for row in change] == pytest.approx([0.5 * own, 0.3 * own, 0.2 * own, 0.25], rel=1e-3)
    assert sum(row["variance"] for row in change) == pytest.approx(found["change"]["standard_error"] ** 2)
    assert [row["share"] for row in stock] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("new", ['"df": null', '"df": 0.0', '"standard_error": null, "df": 11.0'])
def test_a_change_without_an_error_is_not_credited(workplace, new):
    write_plots()
    edit(workplace / "change" / "change.json", '"df": 11.0', new)
    assert make("--change", "change", "--area_ha", "10") == 0
    found = facts()
    assert found["deduction"]["credited"] == 0
    assert found["minimum_detectable_change"] is None
    assert "has no interval" in " ".join(found["warnings"])


def test_a_loss_is_not_credited(workplace):
    write_plots(gain=-3.0)
    assert make("--change", "change", "--area_ha", "10") == 0
    off = facts()["deduction"]
    assert (off["credited"], off["deduction"], off["deduction_percent"]) == (0, 0, None)


# --- maps -------------------------------------------------------------------------------------------------------------


def test_validation_and_corrected_means_of_a_map(workplace):
    first, second = write_maps()
    points = write_points(second)
    values = ("--value", "socd", "--change_value", "dsocd", "--sampling", "random")
    assert make("--map", "soc.tif", "--points", "points.csv", *values) == 0
    found, error = facts(), 10 * (points["mapped"] - points["socd"])
    scores = found["validation"]["map"]
    test = stats.ttest_1samp(error, 0)
    assert (scores["bias"], scores["bias_p"]) == pytest.approx((error.mean(), test.pvalue))
    assert scores["rmse"] == pytest.approx((error**2).mean() ** 0.5)
    assert scores["r2"] == pytest.approx(np.corrcoef(points["mapped"], points["socd"])[0, 1] ** 2)
    assert scores["inside"] == int((np.abs(error) <= 20).sum())
    low, high = stats.binomtest(scores["inside"], 40).proportion_ci(0.95)
    assert (scores["inside_low"], scores["inside_high"]) == pytest.approx((low, high))
    assert found["area"]["hectares"] == 1600
    stock = row(found, "stock", "map and")
    assert stock["value"] == pytest.approx(10 * second.mean() - error.mean(), rel=1e-5)
    assert stock["standard_error"] == pytest.approx(error.std(ddof=1) / 40**0.5)
    alone = row(found, "stock", "map alone")
    assert (alone["low"], alone["high"]) == pytest.approx((10 * second.mean() - 3.1, 10 * second.mean() + 2.9), rel=1e-6)
    change = row(found, "change", "map and")
    residual = 10 * points["dsocd"]
    assert change == found["change"]
    assert change["value"] == pytest.approx(residual.mean(), rel=1e-5)
    assert change["total_value"] == pytest.approx(1600 * residual.mean(), rel=1e-5)
    assert row(found, "change", "map alone")["standard_error"] == pytest.approx(2.0 / stats.norm.ppf(0.95))


def test_a_stratified_sample_corrects_the_map_by_the_sizes_of_strata(workplace):
    _, second = write_maps()
    points = write_points(second)
    points["stratum"] = np.where(points.index < 30, "dry", "wet")
    points["socd"] += np.where(points["stratum"] == "wet", 1.0, 0.0)
    points.to_csv("points.csv", index=False)
    pd.DataFrame({"stratum": ["dry", "wet"], "km2": [12, 4]}).to_csv("strata.csv", index=False)
    assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--strata", "strata.csv") == 0
    residual = (10 * (points["socd"] - points["mapped"])).groupby(points["stratum"])
    share = pd.Series({"dry": 0.75, "wet": 0.25})
    stock = row(facts(), "stock", "map and")
    assert stock["value"] == pytest.approx(10 * second.mean() + (share * residual.mean()).sum(), rel=1e-5)
    assert stock["standard_error"] == pytest.approx((share**2 * residual.var() / residual.size()).sum() ** 0.5)
    assert (stock["df"], "strata.csv" in facts()["inputs"]) == (38, True)


def test_strata_that_were_not_sampled_are_told(workplace):
    _, second = write_maps()
    points = write_points(second)
    codes = np.repeat([[1.0] * 14 + [2.0] * (SIDE - 14)], SIDE, axis=0)
    write_geotiff(Path("strata.tif"), codes[None], ["stratum"], Affine(CELL, 0, WEST, 0, -CELL, NORTH), "EPSG:32632")
    east, _ = transformed("EPSG:4326", "EPSG:32632", points["lon"].to_numpy(), points["lat"].to_numpy())
    points[east < WEST + 14 * CELL].to_csv("points.csv", index=False)
    more = "--points", "points.csv", "--value", "socd", "--strata", "strata.tif"
    assert make("--map", "soc.tif", *more, "--not_sampled", "2") == 0
    assert "mean and scores by the points are of another area" in " ".join(facts()["warnings"])


def test_skewed_errors_at_the_sample_are_told(workplace):
    _, second = write_maps()
    points = write_points(second)
    for more in (0.0, 20.0):
        points.assign(socd=points["socd"] + np.where(points.index == 3, more, 0.0)).to_csv("points.csv", index=False)
        assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--sampling", "random") == 0
        assert ("are so skewed that intervals hold less often" in " ".join(facts()["warnings"])) == (more > 0)


def test_medians_and_totals_of_another_area_are_told(workplace):
    _, second = write_maps()
    write_points(second)
    edit(workplace / "soc.yaml", "  checkpoint: m.pth", "  checkpoint: m.pth\n  center: median\n  target_transform: log1p")
    edit(workplace / "soc_totals.csv", "16.0", "12.0")
    assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--sampling", "random") == 0
    told = " ".join(facts()["warnings"])
    assert "The map is of medians" in told and "The mean of the map and the sample is of 1,60" in told


def test_points_that_were_added_to_a_sample_are_none_of_its_points(workplace):
    _, second = write_maps()
    points = write_points(second)
    points.assign(probability_sample=(points.index < 25).astype(int)).to_csv("points.csv", index=False)
    assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--sampling", "random") == 0
    stock = row(facts(), "stock", "map and")
    assert (stock["n"], stock["df"]) == (25, 24)


def test_points_that_are_no_probability_sample_validate_and_do_not_correct(workplace):
    _, second = write_maps()
    points = write_points(second)
    assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--change_value", "dsocd") == 0
    found = facts()
    assert {each["method"] for each in found["estimates"]} == {"map alone"}
    assert (found["change"], found["deduction"]) == (None, None)
    assert "nothing is credited. --basis map" in " ".join(found["warnings"])
    assert found["validation"]["map_of_change"]["bias"] == pytest.approx(10 * (0.4 - points["dsocd"].mean()), rel=1e-4)


def test_warnings_of_bias_narrow_intervals_and_training_profiles(workplace):
    _, second = write_maps(bias=0.8, half=0.2)
    points = write_points(second - 0.8)
    points.iloc[:5].to_csv("profiles.csv", index=False)
    assert make("--map", "soc_2020.tif", "--points", "points.csv", "--value", "socd", "--profiles", "profiles.csv") == 0
    text = " ".join(facts()["warnings"])
    assert "biased: too high at the points by" in text
    assert "are too narrow" in text
    assert "5 validation points lie at training profiles" in text
    assert "no probability sample" in text
    assert facts()["validation"]["training_profiles"]["profiles"] == 5


def test_a_sound_map_has_no_warning_of_its_validation(workplace):
    _, second = write_maps()
    points = write_points(second)
    points.assign(lon=points["lon"] + 1).to_csv("profiles.csv", index=False)
    more = ("--value", "socd", "--change_value", "dsocd", "--sampling", "random", "--profiles", "profiles.csv")
    assert make("--map", "soc.tif", "--points", "points.csv", *more) == 0
    assert [each for each in facts()["warnings"] if "map of change is biased" not in each] == []


def test_the_basis_can_be_chosen(workplace, capsys):
    write_plots()
    _, second = write_maps()
    write_points(second)
    assert make("--change", "change", "--map", "soc.tif", "--basis", "map") == 0
    found = facts()
    assert found["change"]["method"] == "map alone"
    assert "no probability sample corrects it" in " ".join(found["warnings"])
    assert found["deduction"]["credited"] == pytest.approx(
        found["change"]["value"] - stats.norm.ppf(0.9) * 2 / stats.norm.ppf(0.95)
    )
    assert make("--change", "change", "--map", "soc.tif", "--basis", "difference") == 2
    assert "--change_value" in capsys.readouterr().err


def test_estimates_that_disagree_are_told(workplace):
    write_plots()  # of about 60 t/ha, the map of about 80
    write_maps()
    assert make("--change", "change", "--map", "soc.tif") == 0
    told = [each for each in facts()["warnings"] if "disagree" in each]
    assert len(told) == 1
    assert told[0].startswith("Estimates of the stock disagree: ")


# --- files ------------------------------------------------------------------------------------------------------------


def leaves(value):
    if isinstance(value, dict):
        return [each for inner in value.values() for each in leaves(inner)]
    return [each for inner in value for each in leaves(inner)] if isinstance(value, list) else [value]


def test_the_page_is_self_contained_and_holds_the_facts_of_the_json(workplace):
    write_plots()
    _, second = write_maps()
    write_points(second)
    validated = ("--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--sampling", "random")
    assert make("--change", "change", "--stocks", "stocks.csv", *validated, "--co2e", "--title", "Farm <b>A</b>") == 0
    html = (workplace / "out" / "claim.html").read_text(encoding="utf-8")
    page = Tags(html)
    assert [each for each in page.links if not each.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in html
    assert "<b>" not in html
    text = " ".join(page.words)
    found = facts()
    assert [each for each in leaves(found) if each is not None and " ".join(str(each).split()) not in " ".join(text.split())] == []
    shown = format_value(found["deduction"]["credited_total_t_co2e"])
    assert f"{shown} t of CO2 equivalents over 1,600 ha" in text
    for name, digest in found["inputs"].items():
        assert hashlib.sha256((workplace / name).read_bytes()).hexdigest() == digest
    assert {"stocks.csv", "soc_totals.csv", "points.csv"} <= set(found["inputs"])
    assert re.search(r"Verra VM0042 with VT0014\) must check", text)


def test_an_input_that_changed_since_is_told(workplace, caplog):
    write_plots()
    edit(workplace / "stocks.csv", "p0,2015", "p0 ,2015")
    assert make("--change", "change", "--area_ha", "10") == 0
    assert facts()["recorded_inputs"][0]["now"] == "changed"
    assert "stocks.csv has changed since" in " ".join(facts()["warnings"])


def test_the_same_claim_gives_the_same_bytes(workplace):
    write_plots()
    made = []
    for _ in range(2):
        assert make("--change", "change", "--area_ha", "10") == 0
        made.append((workplace / "out" / "claim.html").read_bytes())
    assert made[0] == made[1]


def test_contents_have_no_total(workplace):
    difference = write_plots()
    path = workplace / "change" / "change.json"
    path.write_text(path.read_text().replace('"unit": "t/ha"', '"unit": "g/kg"'))
    assert make("--change", "change", "--area_ha", "10", "--co2e") == 0
    found = facts()
    assert found["change"]["value"] == pytest.approx(difference.mean())
    assert (found["change"]["total_value"], found["deduction"]["credited_total_t_co2e"]) == (None, None)
    assert "no mass per area" in " ".join(found["warnings"])


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


BAD = {
    "nothing": ([], "nothing to claim"),
    "no area": (["--change", "change"], "--area_ha"),
    "no such file": (["--change", "none.json", "--area_ha", "1"], "none.json"),
    "no JSON": (["--change", "stocks.csv", "--area_ha", "1"], "not readable as JSON"),
    "no such change": (["--change", "change", "--of", "method=fixed_depth", "--area_ha", "1"], "method=esm_spline"),
    "no such column": (["--change", "change", "--of", "crop=oats", "--area_ha", "1"], "'crop'"),
    "no map": (["--map", "other.tif"], "other_totals.csv"),
    "no column": (["--map", "soc.tif", "--points", "points.csv", "--value", "clay"], "clay"),
    "points without a value": (["--map", "soc.tif", "--points", "points.csv"], "--value"),
    "points without a map": (["--change", "change", "--area_ha", "1", "--points", "p.csv", "--value", "v"], "--map"),
    "confidence": (["--change", "change", "--area_ha", "1", "--confidence", "0.4"], "confidence"),
    "not a pair": (["--change", "change", "--area_ha", "1", "--of", "esm"], "NAME=VALUE"),
    "stocks of another unit": (
        ["--change", "change", "--area_ha", "1", "--stocks", "points.csv"],
        "stocks.csv of soilcarbon stocks",
    ),
    "content against density": (["--map", "soc.tif", "--points", "points.csv", "--value", "socd", "--unit", "g/kg"], "g/kg"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with plots, maps and points."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_plots()
        write_points(write_maps()[1])
    return folder


@pytest.mark.parametrize("name", BAD)
def test_refused(inputs, workplace, capsys, name):
    arguments, told = BAD[name]
    shutil.copytree(inputs, workplace, dirs_exist_ok=True)
    assert make(*arguments) == 2
    message = capsys.readouterr().err
    assert told in message
    assert len(message.strip().splitlines()) <= 2
    assert not (workplace / "out" / "claim.json").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("change/change.json", '"df": 11.0', '"df": "many"', "df is 'many'"),
        ("change/change.json", '"changes": [', '"changed": [', "no changes"),
        ("soc_totals.csv", "whole map", "county", "no row of the zone 'whole map'"),
        ("soc.yaml", "level: 0.9", "level: high", "level 'high'"),
    ],
)
def test_edited_files_are_refused(workplace, capsys, file, old, new, told):
    write_plots()
    write_maps()
    edit(workplace / file, old, new)
    assert make("--change", "change", "--map", "soc.tif") == 2
    assert told in capsys.readouterr().err


# --- places and areas that are not of the claim -----------------------------------------------------------------------


def test_cores_of_places_without_a_partner_are_not_in_the_budget(workplace):
    write_plots()
    table = pd.read_csv("stocks.csv")
    alone = [
        table[table["visit"] == visit].assign(profile_id=lambda t, v=visit: t["profile_id"] + f"_{v}") for visit in (2015, 2023)
    ]
    pd.concat([table, alone[0], alone[1].head(4)]).to_csv("stocks.csv", index=False)
    assert run(lambda: change_command.main(["--table", "stocks.csv", "--out", "change", "--design", "paired"])) == 0
    assert make("--change", "change", "--stocks", "stocks.csv", "--area_ha", "1") == 0
    found = facts()
    assert (found["plots"]["n_before"], found["plots"]["alone_before"], found["plots"]["alone_after"]) == (12, 12, 4)
    assert found["error_budget"][0]["variance"] == pytest.approx(2 * 0.6**2 / 12)


def test_an_area_other_than_that_of_the_draw_is_told(workplace):
    write_plots()
    table = pd.read_csv("stocks.csv").assign(stratum=1, stratum_size=8.5)
    table.to_csv("stocks.csv", index=False)
    assert run(lambda: change_command.main(["--table", "stocks.csv", "--out", "change"])) == 0
    plain = Path("change/change.json").read_text()
    Path("change/change.json").write_text(plain.replace('"warnings": []', '"warnings": ["medians differ"]'))
    assert make("--change", "change", "--area_ha", "850") == 0
    assert "Of the plots: medians differ." in facts()["warnings"]
    for hectares, told in (("850", False), ("85", True)):
        assert make("--change", "change", "--area_ha", hectares) == 0
        assert any("in which the plots were drawn, 850 ha" in each for each in facts()["warnings"]) == told
    _, second = write_maps()
    points = write_points(second).assign(design="simple random", stratum=1, inclusion_probability=0.01)
    for km2, told in ((16.0, False), (4.0, True)):
        points.assign(stratum_size=km2).to_csv("points.csv", index=False)
        assert make("--map", "soc.tif", "--points", "points.csv", "--value", "socd") == 0
        assert any("points were drawn in 400 ha, and the map has 1,600 ha" in each for each in facts()["warnings"]) == told
