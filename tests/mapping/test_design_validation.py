"""`validate` with a probability sample: published figures, its columns and strata, and tables that do not say enough."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from conftest import SHARED
from rasterio.transform import Affine

from soilcarbon.commands import validate
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run

pytestmark = pytest.mark.usefixtures("light_maps")

XUANCHENG = SHARED / "realdata2" / "xuancheng_anhui"
CRS = "EPSG:32650"


def scores(*arguments, out="out"):
    assert run(lambda: validate.main([*arguments, "--out", out])) == 0
    table = pd.read_csv(Path(out) / "design_scores.csv")
    return table.set_index(["map", "part"])


@pytest.fixture
def book(workplace):
    """The book's predictions as maps: in the cells of the 62 points."""
    if not XUANCHENG.is_dir():
        pytest.skip("needs ../shared/realdata2/xuancheng_anhui")
    points, known = pd.read_csv(XUANCHENG / "points.csv"), pd.read_csv(XUANCHENG / "book_stsi_predictions.csv")
    with rasterio.open(XUANCHENG / "geology_strata.tif") as raster:
        place, shape = raster.transform, raster.shape
    sample = points[points["probability_sample"] == 1].merge(known, left_on=["x", "y"], right_on=["s1", "s2"])
    assert len(sample) == 62
    col, row = (np.floor(each).astype(int) for each in ~place @ (sample["x"].to_numpy(), sample["y"].to_numpy()))
    for name in ("SOM_KED", "SOM_RF"):
        values = np.full(shape, np.nan)
        values[row, col] = sample[name]
        write_geotiff(Path(f"{name}.tif"), values[None], [name], place, CRS, units=["g/kg"])
    points.to_csv("points.csv", index=False)
    return ["--maps", "KED=SOM_KED.tif", "RF=SOM_RF.tif", "--points", "points.csv", "--value", "som_gkg", "--unit", "g/kg"]


@pytest.mark.parametrize("strata", [["strata.csv"], ["geology_strata.tif", "--not_sampled", "99"]])
def test_published_figures(book, strata):
    found = scores(*book, "--strata", str(XUANCHENG / strata[0]), *strata[1:])
    ked, forest = found.loc[("KED", "area")], found.loc[("RF", "area")]
    assert (round(-ked["me"], 2), round(ked["me_se"], 1), round(ked["mse"], 1), round(ked["mse_se"], 1)) == (0.83, 1.2, 89.3, 25.5)
    assert (round(-forest["me"], 1), round(forest["me_se"], 2)) == (0.4, 1.29)
    assert (round(forest["mse"], 1), round(forest["mse_se"], 1)) == (93.8, 25.8)
    assert (round(ked["mec"], 3), round(forest["mec"], 3), ked["df"]) == (0.016, -0.034, 55)
    assert (round(ked["me_p"], 3), round(forest["me_p"], 3)) == (0.493, 0.759)
    pair = pd.read_csv("out/design_comparisons.csv").iloc[0]
    assert (round(pair["t"], 3), round(pair["p"], 3)) == (-0.438, 0.663)
    page = Path("out/report.html").read_text()
    assert "62 points in 8 strata of known size" in page
    assert "stratum 2 is joined with 1" in page
    assert found.loc[("KED", "stratum 6")]["n"] == 23
    assert np.isnan(found.loc[("KED", "stratum 2")]["me_se"])  # one point


# --- a small world ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(workplace):
    """A map of two halves, strata 1 (west) and 2, and 12 points of errors known."""
    place = Affine(1000, 0, 500_000, 0, -1000, 5_000_000)
    values = np.where(np.arange(40) < 10, 10.0, 20.0) * np.ones((20, 1))
    write_geotiff(Path("map.tif"), values[None], ["soc"], place, CRS, units=["g/kg"])
    strata = np.where(np.arange(40) < 10, 1.0, 2.0) * np.ones((20, 1))
    write_geotiff(Path("strata.tif"), strata[None], ["stratum"], place, CRS)
    k = np.arange(12)
    x, y = np.where(k < 6, 501_500 + 1000 * k, 515_500 + 2000 * k), 4_995_500 - 1000 * k
    lon, lat = rasterio.warp.transform(CRS, "EPSG:4326", x, y)
    stratum = np.where(k < 6, 1, 2)
    error = np.array([1, -1, 2, 0, 1, 3, 4, 6, 5, 9, 2, 4.0])
    table = pd.DataFrame({"id": k, "lon": lon, "lat": lat, "soc": np.where(k < 6, 10, 20) + error, "stratum": stratum})
    table.to_csv("points.csv", index=False)
    return table, error


ARGUMENTS = ["--maps", "m=map.tif", "--points", "points.csv", "--value", "soc"]


def by_hand(error, weights=(0.25, 0.75)):
    parts = error[:6], error[6:]
    value = sum(w * each.mean() for w, each in zip(weights, parts, strict=True))
    return -value, sum(w**2 * each.var(ddof=1) / 6 for w, each in zip(weights, parts, strict=True)) ** 0.5


def test_sizes_of_strata_from_anywhere_give_the_same(world):
    table, error = world
    probability = np.where(table["stratum"] == 1, 6 / 200, 6 / 600)
    pd.DataFrame({"stratum": [1, 2], "cells": [200, 600]}).to_csv("sizes.csv", index=False)
    tables = {
        "raster": (table.drop(columns="stratum"), ["--strata", "strata.tif"]),
        "table": (table, ["--strata", "sizes.csv"]),
        "column": (table.assign(stratum_size=np.where(table["stratum"] == 1, 2, 6)), ["--sampling", "stratified"]),
        "probability": (table.assign(inclusion_probability=probability), []),
        "weight": (table.assign(Weight=10 / probability), ["--sampling", "stratified"]),
        "named": (table.rename(columns={"stratum": "geology"}), ["--strata", "sizes.csv", "--columns", "stratum=geology"]),
    }
    for name, (each, settings) in tables.items():
        each.to_csv("points.csv", index=False)
        found = scores(*ARGUMENTS, *settings).loc[("m", "area")]
        assert (found["me"], found["me_se"]) == pytest.approx(by_hand(error), rel=2e-3 if name == "raster" else 1e-6), name
        assert found["df"] == 10


def test_random_two_stage_and_weighted_samples(world):
    table, error = world
    found = scores(*ARGUMENTS, "--sampling", "random").loc[("m", "area")]
    assert (found["me"], found["me_se"]) == pytest.approx((-error.mean(), error.std(ddof=1) / 12**0.5))
    table.assign(psu=np.arange(12) // 3).to_csv("points.csv", index=False)
    found = scores(*ARGUMENTS, "--sampling", "random").loc[("m", "area")]
    means = error.reshape(4, 3).mean(axis=1)
    assert (found["me"], found["me_se"], found["df"]) == pytest.approx((-error.mean(), means.std(ddof=1) / 2, 3))
    weight = np.arange(1, 13.0)
    table.drop(columns="stratum").assign(weight=weight).to_csv("points.csv", index=False)
    found = scores(*ARGUMENTS, "--sampling", "weighted").loc[("m", "area")]
    value = (weight * error).sum() / weight.sum()
    assert found["me"] == pytest.approx(-value)
    assert found["me_se"] == pytest.approx(np.sqrt(12 / 11 * ((weight * (error - value) / weight.sum()) ** 2).sum()))


def test_a_column_called_weight_may_be_of_anything(world):
    table, error = world
    table.assign(weight=np.arange(1, 13.0), stratum_size=np.where(table["stratum"] == 1, 2, 6)).to_csv("points.csv", index=False)
    found = scores(*ARGUMENTS, "--sampling", "stratified").loc[("m", "area")]
    assert (found["me"], found["me_se"]) == pytest.approx(by_hand(error))


def test_unequal_probabilities_within_strata_are_found(world):
    table, error = world
    probability = 1 / np.arange(10, 22)
    table.assign(inclusion_probability=probability, stratum_size=np.where(table["stratum"] == 1, 2, 6)).to_csv(
        "points.csv", index=False
    )
    parts = [np.average(each, weights=w) for each, w in ((error[:6], 1 / probability[:6]), (error[6:], 1 / probability[6:]))]
    assert scores(*ARGUMENTS).loc[("m", "area")]["me"] == pytest.approx(-(0.25 * parts[0] + 0.75 * parts[1]))


def test_ordinary_points_stay_as_they_are(world):
    table, _ = world
    table.assign(weight=3.0).to_csv("points.csv", index=False)
    assert run(lambda: validate.main([*ARGUMENTS, "--sampling", "random", "--out", "out"])) == 0
    assert run(lambda: validate.main([*ARGUMENTS, "--out", "out"])) == 0
    assert not Path("out/design_scores.csv").exists()  # of the run before
    assert "probability sample" not in Path("out/report.html").read_text()


def test_points_that_were_not_measured_or_not_drawn(world, caplog):
    caplog.set_level("INFO")
    table, error = world
    more = table.assign(inclusion_probability=np.where(table["stratum"] == 1, 0.03, 0.01), reserve=0, stratum_size=200.0)
    more.loc[more["stratum"] == 2, "stratum_size"] = 600.0
    spare = more.iloc[[0, 6]].assign(id=[90, 91], reserve=1, soc=np.nan)
    more = pd.concat([more, spare])
    more.loc[more["id"] == 11, "soc"] = np.nan
    more.to_csv("points.csv", index=False)
    found = scores(*ARGUMENTS).loc[("m", "area")]
    assert found["me"] == pytest.approx(-(0.25 * error[:6].mean() + 0.75 * error[6:11].mean()))
    assert "2 reserve points without a value" in caplog.text
    assert "1 points that were drawn have no value" in caplog.text
    chosen = table.assign(probability_sample=(table["id"] < 6).astype(int))
    chosen.to_csv("points.csv", index=False)
    found = scores(*ARGUMENTS, "--sampling", "random").loc[("m", "area")]
    assert (found["n"], found["me"]) == (6, pytest.approx(-error[:6].mean()))
    assert pd.read_csv("out/point_scores.csv")["n"].iloc[0] == 12


def test_strata_that_lost_points_keep_their_weight(world, capsys):
    table, error = world
    sizes = np.where(table["stratum"] == 1, 200.0, 600.0)
    by_weight = table.assign(inclusion_probability=6 / sizes)
    lost = table["id"].isin([7, 8, 9, 10])
    by_hand = -(0.25 * error[:6].mean() + 0.75 * error[[6, 11]].mean())
    for each in (by_weight, by_weight.assign(stratum_size=sizes)):
        each.assign(soc=each["soc"].mask(lost)).to_csv("points.csv", index=False)
        assert scores(*ARGUMENTS).loc[("m", "area")]["me"] == pytest.approx(by_hand)
    spare = by_weight.assign(reserve=0, soc=by_weight["soc"].mask(lost))
    instead = spare[spare["id"] == 6].assign(id=90, reserve=1, soc=25.0)
    pd.concat([spare, instead]).to_csv("points.csv", index=False)
    by_hand = -(0.25 * error[:6].mean() + 0.75 * np.mean([error[6], error[11], 25 - 20]))
    assert scores(*ARGUMENTS).loc[("m", "area")]["me"] == pytest.approx(by_hand)


def test_a_stratum_that_lost_all_points_is_asked_about(world, capsys):
    table, error = world
    sizes = np.where(table["stratum"] == 1, 200.0, 600.0)
    table["stratum"] += table["id"].isin([10, 11])  # 3 of 2, 200 of its 600
    sizes = np.where(table["stratum"] > 1, np.where(table["stratum"] == 2, 400.0, 200.0), sizes)
    n = table.groupby("stratum")["id"].transform("size")
    by_weight = table.assign(inclusion_probability=n / sizes, soc=table["soc"].mask(table["stratum"] == 3))
    for each in (by_weight, by_weight.assign(stratum_size=sizes)):
        each.to_csv("points.csv", index=False)
        assert run(lambda: validate.main([*ARGUMENTS, "--out", "out"])) == 2
        assert "stratum '3'" in (words := capsys.readouterr().err) and "--collapse" in words
        found = scores(*ARGUMENTS, "--collapse", "3=2").loc[("m", "area")]["me"]
        assert found == pytest.approx(-(0.25 * error[:6].mean() + 0.75 * error[6:10].mean()))
        found = scores(*ARGUMENTS, "--not_sampled", "3").loc[("m", "area")]["me"]
        assert found == pytest.approx(-(200 * error[:6].mean() + 400 * error[6:10].mean()) / 600)


def test_a_map_of_a_part_is_validated_for_that_part(world):
    table, error = world
    with rasterio.open("map.tif") as raster:
        values, place = raster.read(1), raster.transform
    values[:, 24:] = np.nan  # of the points of stratum 2, from west to east, the last
    write_geotiff(Path("map.tif"), values[None], ["soc"], place, CRS, units=["g/kg"])
    found = scores(*ARGUMENTS, "--strata", "strata.tif").loc[("m", "area")]
    assert found["n"] == len(pd.read_csv("out/points.csv")) < len(table)
    n = int(found["n"])
    weights = np.where(np.arange(n) < 6, 0.25, 0.75) / 6  # of the draw: the mapped part of stratum 2 is estimated
    assert found["me"] == pytest.approx(-(weights * error[:n]).sum() / weights.sum(), rel=2e-3)
    assert "mapped part of the area" in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, ["--sampling", "stratified"], "their sizes (--strata FILE)"),
        ({"stratum": None}, ["--sampling", "stratified"], "--columns stratum=NAME"),
        ({}, ["--sampling", "weighted"], "--columns weight=NAME"),
        ({"weight": 0.0}, ["--sampling", "weighted"], "no weights above 0, first '0.0'"),
        ({"inclusion_probability": 2.0}, [], "no inclusion probabilities above 0, up to 1"),
        ({"inclusion_probability": "high"}, [], "'inclusion_probability'"),
        ({"stratum": [3, *[1] * 11]}, ["--strata", "strata.tif"], "'3' has points, but no size"),
        ({"stratum": 1}, ["--strata", "strata.tif"], "'2' has a size, but no point"),
        ({"stratum": ["", *[1] * 11]}, ["--strata", "strata.tif"], "1 of 12 points have no stratum"),
        ({}, ["--strata", "strata.tif", "--not_sampled", "7"], "no stratum '7'"),
        ({}, ["--strata", "map.csv"], "map.csv"),
        ({}, ["--strata", "strata.tif", "--collapse", "1"], "collapse = ['1']"),
        ({"stratum_size": np.arange(12.0) + 1}, ["--sampling", "stratified"], "it is not one number"),
        ({"psu": "a"}, ["--strata", "strata.tif"], "a primary unit has points in two strata"),
        ({"soc": np.nan}, ["--sampling", "random"], "none of its 12 points has a value"),
    ],
)
def test_samples_that_do_not_say_enough(world, capsys, change, settings, words):
    table, _ = world
    table = table.assign(**{name: value for name, value in change.items() if value is not None})
    table.drop(columns=[name for name, value in change.items() if value is None]).to_csv("points.csv", index=False)
    assert run(lambda: validate.main([*ARGUMENTS, *settings, "--out", "out"])) == 2
    error = capsys.readouterr().err
    assert words in error, error
    assert error.count("\n") <= 2


def test_probabilities_taken_for_weights_and_copies_of_points_are_told(world, capsys, caplog):
    table, error = world
    probability = 1 / np.arange(10, 22)
    table.drop(columns="stratum").assign(prob=probability).to_csv("points.csv", index=False)
    how = [*ARGUMENTS, "--sampling", "weighted", "--columns"]
    assert run(lambda: validate.main([*how, "weight=prob", "--out", "out"])) == 2
    assert "is 'prob' a weight or a probability?" in capsys.readouterr().err
    assert scores(*how, "inclusion_probability=prob").loc[("m", "area")]["me"] == pytest.approx(
        -np.average(error, weights=1 / probability)
    )
    caplog.set_level("INFO")
    pd.concat([table, table.head(2).assign(id=[90, 91])]).to_csv("points.csv", index=False)
    scores(*ARGUMENTS, "--sampling", "random")
    assert "2 points of the sample lie where another one does" in caplog.text


def test_weights_that_contradict_inclusion_probabilities_are_asked_about(world, capsys):
    """A column "weight" may be that of the samples, in grams."""
    table, error = world
    probability = np.where(table["stratum"] == 1, 6 / 200, 6 / 600)
    table.assign(inclusion_probability=probability, weight=np.arange(500, 512)).to_csv("points.csv", index=False)
    assert run(lambda: validate.main([*ARGUMENTS, "--out", "out"])) == 2
    assert "'weight' is not the inverse of 'inclusion_probability'" in capsys.readouterr().err
    found = scores(*ARGUMENTS, "--columns", "weight=none").loc[("m", "area")]
    assert (found["me"], found["me_se"]) == pytest.approx(by_hand(error))
    table.assign(inclusion_probability=probability, weight=2 / probability).to_csv("points.csv", index=False)
    assert scores(*ARGUMENTS).loc[("m", "area")]["me"] == pytest.approx(by_hand(error)[0])


def test_names_of_strata_in_other_writings(world, capsys):
    table, error = world
    sizes = np.where(table["stratum"] == 1, 200.0, 600.0)
    names = np.where(table["stratum"] == 1, "Höhe", "Tal")
    split = [unicodedata.normalize("NFD" if k % 2 else "NFC", each) for k, each in enumerate(names)]
    table.assign(stratum=split, stratum_size=sizes, inclusion_probability=6 / sizes).to_csv("points.csv", index=False)
    assert scores(*ARGUMENTS).loc[("m", "area")]["me"] == pytest.approx(by_hand(error)[0])
    for other, words in (("tal", "look like one name"), ("NA", "1 of 12 points have no stratum")):
        changed = np.where(table["id"] == 8, other, names)
        table.assign(stratum=changed, inclusion_probability=6 / sizes).to_csv("points.csv", index=False)
        assert run(lambda: validate.main([*ARGUMENTS, "--out", "out"])) == 2
        assert words in capsys.readouterr().err
