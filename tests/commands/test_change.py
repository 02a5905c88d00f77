"""The command change: pairs, groups, strata, blocks and plans end to end, and refused input."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from soilcarbon.commands import change
from soilcarbon.io.files import run


def write(n=12, seed=4, name="t.csv"):
    """Write stocks of n plots of two treatments in two visits, of which the last plot lacks the second and one is new."""
    random = np.random.default_rng(seed)
    plots = [f"p{k}" for k in range(n)]
    first = pd.DataFrame({"plot": plots, "year": 2010, "crop": ["grass", "wheat"] * (n // 2), "zone": ["u"] * 4 + ["v"] * (n - 4)})
    first["soc"] = random.normal(50, 9, n).round(3)
    second = first.assign(year=2018, soc=(first["soc"] + random.normal(2, 3, n) + 2 * (first["crop"] == "grass")).round(3))
    second.loc[n - 1, "plot"] = "new"
    pd.concat([first, second]).to_csv(name, index=False)
    return first, second


def make(*more):
    return run(lambda: change.main(["--out", "out", *more]))


def of_table(*more):
    return make("--table", "t.csv", "--value", "soc", *more)


def result(group="all"):
    table = pd.read_csv("out/change.csv")
    return table[table["group"] == group].iloc[0]


def test_pairs_rate_and_places_alone(workplace, caplog):
    first, second = write()
    with caplog.at_level("INFO"):
        assert of_table("--level", "0.95", "--one_sided", "0.8") == 0
    found, difference = result(), (second["soc"] - first["soc"]).to_numpy()[:-1]
    interval = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (found["change"], found["low"], found["high"]) == pytest.approx((difference.mean(), *interval))
    assert found["least"] == pytest.approx(found["change"] - stats.t.ppf(0.8, 10) * found["standard_error"])
    assert found["rate_per_year"] == pytest.approx(found["change"] / 8)
    assert found["change_percent"] == pytest.approx(100 * found["change"] / first["soc"][:-1].mean())
    assert found[["design", "n_before", "alone_before", "alone_after", "years"]].tolist() == ["paired", 11, 1, 1, 8]
    assert "11 pairs (1 and 1 places without a partner left out)" in caplog.text
    pairs = pd.read_csv("out/pairs.csv")
    np.testing.assert_allclose(pairs["difference"], difference)
    facts = json.loads((workplace / "out" / "change.json").read_text())
    assert facts["visits"] == ["2010", "2018"]
    assert facts["changes"][0]["change"] == pytest.approx(found["change"])
    assert yaml.safe_load((workplace / "out" / "settings.yaml").read_text())["level"] == 0.95


def test_minimum_detectable_change_and_required_places_of_a_table(workplace):
    write()
    assert of_table("--detect", "1.5", "--sample_sizes", "11") == 0
    found, plans = result(), pd.read_csv("out/plan.csv")
    assert plans["places"].tolist()[1] == 11
    assert plans["change"].tolist()[1] == pytest.approx(found["minimum_detectable_change"])
    assert plans["change"].tolist()[0] == 1.5
    assert plans["power"][0] >= 0.8


def test_independent_samples(workplace):
    first, second = write()
    assert of_table("--design", "unpaired") == 0
    test = stats.ttest_ind(second["soc"], first["soc"], equal_var=False)
    assert result()[["low", "high"]].tolist() == pytest.approx(list(test.confidence_interval(0.9)))
    table = pd.read_csv("t.csv")
    table["plot"] = table["plot"] + table["year"].astype(str)
    table.to_csv("t.csv", index=False)
    assert of_table() == 0
    assert result()[["design", "df"]].tolist() == ["unpaired", pytest.approx(test.df)]


def test_groups_and_their_control(workplace):
    first, second = write()
    assert of_table("--by", "crop", "--control", "wheat") == 0
    difference = (second["soc"] - first["soc"])[:-1]
    grass, wheat = (difference[first["crop"][:-1] == crop] for crop in ("grass", "wheat"))
    assert [result(group)["change"] for group in ("grass", "wheat")] == pytest.approx([grass.mean(), wheat.mean()])
    test = stats.ttest_ind(grass, wheat, equal_var=False)
    contrast = result("grass - wheat")
    assert (contrast["low"], contrast["high"], contrast["df"]) == pytest.approx((*test.confidence_interval(0.9), test.df))


def test_strata_and_blocks(workplace):
    first, second = write()
    assert of_table("--stratum", "zone", "--sizes", "u=30", "v=10") == 0
    difference = (second["soc"] - first["soc"])[:-1]
    u, v = (difference[first["zone"][:-1] == zone] for zone in "uv")
    assert result()["change"] == pytest.approx(0.75 * u.mean() + 0.25 * v.mean())
    assert result()["standard_error"] == pytest.approx(np.sqrt(0.75**2 * u.var() / 4 + 0.25**2 * v.var() / 7))
    assert of_table("--stratum", "zone") == 0
    assert result()["change"] == pytest.approx(difference.mean())
    assert of_table("--block", "zone") == 0
    assert result()["df"] == 1


def test_blocks_drawn_anew_are_two_samples_of_blocks(workplace, caplog):
    random = np.random.default_rng(3)
    table = pd.DataFrame({"plot": range(12), "year": np.repeat([2010, 2020], 6), "block": np.repeat(list("abcdef"), 2)})
    table["zone"] = np.where(table["block"].isin(["c", "f"]), "v", "u")
    table["soc"] = random.normal(50, 9, 12)
    table.to_csv("t.csv", index=False)
    assert of_table("--block", "block") == 0
    means = table.groupby("block")["soc"].mean().to_numpy()
    test = stats.ttest_ind(means[3:], means[:3], equal_var=False)
    assert result()[["low", "high", "df"]].tolist() == pytest.approx([*test.confidence_interval(0.9), test.df])
    with caplog.at_level("INFO"):
        assert of_table("--block", "block", "--stratum", "zone") == 0
    told = "stratum v has one place or block: for variances it is joined with u"
    assert told in caplog.text and told in json.loads((workplace / "out" / "change.json").read_text())["warnings"][0]


def test_a_population_of_places_in_shared_blocks_does_not_count(workplace):
    write()
    more = "--design", "unpaired", "--block", "zone"
    assert of_table(*more) == 0
    error = result()["standard_error"]
    assert of_table(*more, "--population", "20") == 0
    assert result()["standard_error"] == error
    assert "--population does not count" in json.loads((workplace / "out" / "change.json").read_text())["warnings"][0]


def test_equal_changes_are_told_but_where_all_places_were_sampled(workplace):
    first, _ = write()
    pd.concat([first, first.assign(year=2018, soc=first["soc"] + 2)]).to_csv("t.csv", index=False)
    for more, told in (([], ["standard error is 0"]), (["--population", "12"], [])):
        assert of_table(*more) == 0
        found = json.loads((workplace / "out" / "change.json").read_text())["warnings"]
        assert len(found) == len(told) and all(word in each for word, each in zip(told, found, strict=True))


def test_weights_and_inclusion_probabilities(workplace):
    first, second = write()
    weight = np.arange(1.0, 13.0)
    pd.concat([each.assign(w=weight, inclusion_probability=1 / weight, prob=3 / weight) for each in (first, second)]).to_csv(
        "t.csv", index=False
    )
    expected = np.average((second["soc"] - first["soc"])[:-1], weights=weight[:-1])
    for column in ("w", "inclusion_probability", "prob"):
        assert of_table("--weight", column) == 0
        assert result()["change"] == pytest.approx(expected)


def test_finite_population(workplace):
    write()
    assert of_table() == 0
    error = result()["standard_error"]
    assert of_table("--population", "22", "--sample_sizes", "11") == 0
    assert result()["standard_error"] == pytest.approx(error * np.sqrt(0.5))
    assert pd.read_csv("out/plan.csv")["change"][0] == pytest.approx(result()["minimum_detectable_change"])


def test_settings_in_yaml(workplace):
    write()
    given = {"table": "t.csv", "value": "soc", "visits": [2010, 2018], "stratum": "zone", "sizes": {"u": 30, "v": 10}}
    (workplace / "c.yaml").write_text(yaml.safe_dump(given))
    assert make("--config", "c.yaml") == 0
    expected = result()["change"]
    assert of_table("--stratum", "zone", "--sizes", "u=30", "v=10") == 0
    assert result()["change"] == expected


def test_places_paired_by_distance(workplace):
    first, second = write()
    table = pd.read_csv("t.csv")
    table["lon"], table["lat"] = 10 + np.tile(np.arange(12), 2) / 100, 50.0
    table.loc[table["year"] == 2018, "lat"] += 0.0001  # 11 m
    table["plot"] = np.arange(24)
    table.to_csv("t.csv", index=False)
    assert of_table("--within", "15") == 0
    assert result()[["design", "n_before"]].tolist() == ["paired", 12]
    assert result()["change"] == pytest.approx((second["soc"] - first["soc"]).mean())
    assert of_table("--within", "5", "--design", "paired") == 2


def test_stocks_are_analysed_by_method_and_layer(workplace):
    rows = [
        {"profile_id": place, "visit": visit, "method": method, "layer": layer, "stock_t_ha": 10.0 * layer + visit + place}
        for place in (1, 2, 3) for visit in (2010, 2020) for method in ("fixed_depth", "esm_spline") for layer in (1, 2)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv("t.csv", index=False)
    assert make("--table", "t.csv") == 0
    table = pd.read_csv("out/change.csv")
    assert table[["method", "layer"]].to_numpy().tolist() == [[m, k] for m in ("fixed_depth", "esm_spline") for k in (1, 2)]
    assert table["change"].tolist() == [10.0] * 4


@pytest.mark.parametrize(
    ("given", "places", "change_found"),
    [
        (["--sd", "2", "--detect", "1", "--level", "0.95"], 64, 1.0),
        (["--sd", "1", "--correlation", "0.5", "--detect", "0.5", "--level", "0.95"], 34, 0.5),
        (["--sd_difference", "1", "--detect", "0.5", "--sides", "one", "--one_sided", "0.95"], 27, 0.5),
        (["--sd", "10", "--sample_sizes", "50"], 50, 2 * (1.6606 + 0.8453)),  # t of 0.95 and of 0.8
        (["--sd_difference", "10", "--sample_sizes", "50", "--population", "50"], 50, 0.0),
    ],
)
def test_plans(given, places, change_found, workplace):
    assert make(*given) == 0
    plan = pd.read_csv("out/plan.csv").iloc[0]
    assert plan["places"] == places
    assert plan["change"] == pytest.approx(change_found, abs=0.01)
    assert not (workplace / "out" / "change.csv").exists()


def test_plans_of_strata_name_them(workplace):
    given = ["--sd", "hill=10", "plain=20", "--sizes", "plain=1", "hill=2"]
    assert make(*given, "--sample_sizes", "40") == 0
    assert pd.read_csv("out/plan.csv")["by_stratum"].tolist() == ["hill=20 plain=20"]
    assert make(*given, "--sample_sizes", "30", "--allocation", "proportional") == 0
    assert pd.read_csv("out/plan.csv")["by_stratum"].tolist() == ["hill=20 plain=10"]
    write()
    for how in ("neyman", "proportional"):  # of a table too
        assert of_table("--stratum", "zone", "--sizes", "u=1", "v=3", "--sample_sizes", "400", "--allocation", how) == 0
        assert (pd.read_csv("out/plan.csv")["by_stratum"].tolist() == ["1=100 2=300"]) == (how == "proportional")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "give --table, or --sd"),
        (["--sd", "3"], "give --detect CHANGE or --sample_sizes"),
        (["--sd", "much", "--detect", "1"], "one number, or NAME=NUMBER"),
        (["--sd", "a=3", "b=4", "--detect", "1"], "the sizes of the strata are needed"),
        (["--sd", "a=3", "b=4", "--sizes", "a=3", "c=4", "--detect", "1"], "elsewhere a, b"),
        (["--sd", "3", "--sizes", "a=3", "b=4", "--detect", "1", "--population", "9"], "or one number where there are none"),
        (["--sd", "3", "--detect", "0"], "cannot be detected"),
        (["--sd", "3", "--sample_sizes", "1"], "two a stratum"),
        (["--sd", "3", "--detect", "1", "--power", "0.05"], "that of chance"),
        (["--table", "t.csv", "--sd", "3", "--detect", "1"], "has its own standard deviations"),
        (["--table", "t.csv"], "no column 'stock_t_ha'"),
        (["--table", "t.csv", "--value", "soc", "--visits", "2010"], "the first and the second"),
        (["--table", "t.csv", "--value", "soc", "--control", "wheat"], "one of the groups of --by"),
        (["--table", "t.csv", "--value", "soc", "--by", "crop", "--control", "rye"], "no group 'rye'"),
        (["--table", "t.csv", "--value", "soc", "--sizes", "u=1"], "--stratum names their column"),
        (["--table", "t.csv", "--value", "soc", "--stratum", "zone", "--sizes", "u=1"], "no size of stratum 'v'"),
        (["--table", "t.csv", "--value", "soc", "--stratum", "zone", "--sizes", "u=1", "v=1", "w=1"], "stratum 'w' has no place"),
        (["--table", "t.csv", "--value", "soc", "--weight", "zone"], "are no numbers"),
        (["--table", "t.csv", "--value", "soc", "--within", "5"], "no column for lon"),
        (["--table", "t.csv", "--value", "soc", "--population", "5"], "11 places of a population of 5"),
        (["--table", "t.csv", "--value", "soc", "--population", "u=50"], "or one number where there are none"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(more, words, workplace, capsys):
    write()
    assert make(*more) == 2
    assert words in capsys.readouterr().err
    assert not (workplace / "out" / "settings.yaml").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"plot": ["Total"] * 24}, "called such as 'Total'; delete sums and means"),
        ({"variable": "clay", "soc": 250.0}, "'variable' says which quantity a row is of (soc, clay)"),
        ({"unit": "kg/m2"}, "'unit' has several units"),
    ],
)
def test_rows_of_something_else_are_asked_about(rows, words, workplace, capsys):
    write()
    table = pd.read_csv("t.csv").assign(variable="soc", unit="t/ha")
    pd.concat([table, table.assign(**rows)]).to_csv("t.csv", index=False)
    assert of_table() == 2
    assert words in capsys.readouterr().err


def test_strata_of_a_design_are_taken_as_it_wrote_them(workplace, caplog):
    first, second = write()
    table = pd.read_csv("t.csv").rename(columns={"zone": "stratum"})
    table.assign(stratum_size=table["stratum"].map({"u": 3.0, "v": 1.0})).to_csv("t.csv", index=False)
    with caplog.at_level("INFO"):
        assert of_table() == 0
    difference = (second["soc"] - first["soc"])[:-1]
    u, v = difference[:4], difference[4:]
    assert result()["change"] == pytest.approx(0.75 * u.mean() + 0.25 * v.mean())
    assert result()["standard_error"] == pytest.approx((0.75**2 * u.var() / 4 + 0.25**2 * v.var() / 7) ** 0.5)
    assert "2 strata and their sizes as soilcarbon design wrote them" in caplog.text
    settings = json.loads((workplace / "out" / "change.json").read_text())["settings"]
    assert (settings["stratum"], settings["sizes"]) == ("stratum", ["u=3.0", "v=1.0"])
    assert of_table("--stratum", "stratum", "--sizes", "u=1", "v=1") == 0
    assert result()["change"] == pytest.approx((u.mean() + v.mean()) / 2)


def test_a_stratum_of_two_sizes_is_asked_about(workplace, capsys):
    write()
    table = pd.read_csv("t.csv")
    table.assign(stratum="u", stratum_size=table["year"]).to_csv("t.csv", index=False)
    assert of_table() == 2
    assert "stratum 'u' has several sizes (stratum_size: 2010 and 2018)" in capsys.readouterr().err


def test_a_group_in_strata_is_a_part_of_the_area(workplace):
    """Grass is most of the hill and little of the plain: its change is weighted by where it is, not by the strata's sizes."""
    random = np.random.default_rng(6)
    table = pd.DataFrame(
        {"plot": range(100), "year": 2010, "soc": random.normal(60, 9, 100), "zone": ["hill"] * 30 + ["plain"] * 70}
    )
    table["use"] = ["grass"] * 24 + ["crop"] * 6 + ["grass"] * 7 + ["crop"] * 63
    gain = np.where(table["zone"] == "hill", 6.0, 1.0) + random.normal(0, 1, 100)
    pd.concat([table, table.assign(year=2020, soc=table["soc"] + gain)]).to_csv("t.csv", index=False)
    assert of_table("--by", "use", "--stratum", "zone", "--sizes", "hill=300", "plain=700") == 0
    assert result("grass")["change"] == pytest.approx(gain[table["use"] == "grass"].mean())  # all weights are 10
    assert result()["change"] == pytest.approx(gain.mean())
    table["drawn"] = 0.1
    pd.concat([table, table.assign(year=2020, soc=table["soc"] + gain)]).to_csv("t.csv", index=False)
    same = result("grass")
    assert of_table("--by", "use", "--stratum", "zone", "--weight", "drawn") == 0
    assert result("grass")["standard_error"] == pytest.approx(same["standard_error"], rel=0.1)
    how = ["--by", "use", "--stratum", "zone", "--sizes", "hill=300", "plain=700", "--control", "crop"]
    assert of_table(*how) == 0
    influence = np.zeros(100)  # all weights are 10; by hand, the difference of two ratios in one sample
    for use, sign in (("grass", 1), ("crop", -1)):
        inside = (table["use"] == use).to_numpy()
        influence[inside] += sign * (gain - gain[inside].mean())[inside] / inside.sum()
    parts = [(len(own), own.var(ddof=1)) for own in (influence[:30], influence[30:])]
    found = result("grass - crop")
    assert found["standard_error"] == pytest.approx(sum(n * variance for n, variance in parts) ** 0.5)
    assert found["change"] == pytest.approx(result("grass")["change"] - result("crop")["change"])
    assert of_table(*how, "--design", "unpaired") == 0
    assert result("grass - crop")["change"] == pytest.approx(found["change"])


def test_new_places_in_other_strata_are_no_change(workplace):
    random = np.random.default_rng(7)
    rows = [
        (f"{zone}{year}{k}", year, zone, (80 if zone == "hill" else 40) + random.normal())
        for year, counts in ((2010, {"hill": 10, "plain": 30}), (2020, {"hill": 30, "plain": 10}))
        for zone, n in counts.items()
        for k in range(n)
    ]
    table = pd.DataFrame(rows, columns=["plot", "year", "zone", "soc"])
    table.to_csv("t.csv", index=False)
    assert of_table("--stratum", "zone") == 0
    means = table.groupby(["year", "zone"])["soc"].mean()
    by_hand = sum(means[2020, zone] - means[2010, zone] for zone in ("hill", "plain")) / 2  # 40 places of each
    assert (result()["design"], result()["change"]) == ("unpaired", pytest.approx(by_hand))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sizes", "u=1", "v=1", "w=1"], "stratum 'w' has no place that was sampled at both visits; leave it out"),
        (["--sizes", "u=1", "v=1", "--population", "U=50", "v=60"], "--population: strata U, v; in the table u, v"),
        (["--sizes", "u=1", "v=1", "--population", "u=50"], "'v' is not in both"),
        (["--design", "unpaired", "--sizes", "u=1", "v=1", "w=1"], "stratum 'w' has no place at one of the visits"),
    ],
)
def test_strata_that_do_not_fit_are_named(more, words, workplace, capsys):
    write()
    assert of_table("--stratum", "zone", *more) == 2
    assert words in capsys.readouterr().err


def changed(**more):
    """Write the table of two visits with columns replaced: name -> function of the table."""
    write()
    table = pd.read_csv("t.csv", dtype={"plot": str})
    table.assign(**{name: make(table) for name, make in more.items()}).to_csv("t.csv", index=False)


def numbered(table):
    return table["zone"].map({"u": "1", "v": "2"}) + np.where(table["year"] == 2010, "", ".0")


def test_strata_as_numbers_with_or_without_decimals_are_one(workplace):
    changed()
    assert of_table("--stratum", "zone", "--sizes", "u=3", "v=7") == 0
    expected = result()["standard_error"]
    changed(zone=numbered)
    assert of_table("--stratum", "zone", "--sizes", "1.0=3", "2=7") == 0
    assert result()["standard_error"] == pytest.approx(expected)
    changed(zone=lambda table: table["zone"].where(table["plot"] != "p2"))  # empty: not of any stratum, and counted
    assert of_table("--stratum", "zone") == 0
    assert result()["n_before"] == 10


@pytest.mark.parametrize(
    ("new", "more", "words"),
    [
        ({"zone": lambda t: t["zone"].mask(t["plot"] == "p2", "U ")}, ["--stratum", "zone"], "'u' and 'U' look like one name"),
        ({"crop": lambda t: t["crop"].mask(t["plot"] == "p0", "all")}, ["--by", "crop"], "a group of --by is called 'all'"),
        ({"plot": lambda t: t["plot"].mask(t["year"] == 2018, t["plot"].str.upper())}, [], "11 places are written in two ways"),
    ],
)
def test_names_that_look_alike_are_asked_about(new, more, words, workplace, capsys):
    changed(**new)
    assert of_table(*more) == 2
    assert words in capsys.readouterr().err


def test_a_treatment_may_be_none(workplace):
    changed(crop=lambda t: t["crop"].replace({"wheat": "none"}))
    assert of_table("--by", "crop", "--control", "none") == 0
    assert result("grass - none")["n_before"] == 6
    changed(crop=lambda t: t["crop"].mask(t["plot"] == "p2", "NA"))
    assert of_table("--by", "crop") == 0
    assert (result()["n_before"], result("grass")["n_before"]) == (10, 5)


def test_places_that_are_not_paired_and_another_unit_are_told(workplace, caplog):
    changed(plot=lambda t: t["plot"] + t["year"].astype(str), soc=lambda t: t["soc"] / np.where(t["year"] == 2018, 10, 1))
    with caplog.at_level("INFO"):
        assert of_table() == 0
    assert "0 of 12 and 12 places were sampled at both visits: compared as independent samples" in caplog.text
    assert "are both in one unit?" in caplog.text
    assert "are both in one unit?" in json.loads((workplace / "out" / "change.json").read_text())["warnings"][0]


def test_a_stratum_of_few_places_that_makes_most_of_the_variance_is_told(workplace, caplog):
    random = np.random.default_rng(11)
    table = pd.DataFrame({"plot": range(20), "year": 2010, "soc": 50.0, "zone": np.repeat(list("abcde"), 4)})
    gain = random.normal(0, np.where(table["zone"] == "c", 10, 1))
    for spread, told in ((gain, True), (random.normal(0, 1, 20), False)):
        caplog.clear()
        pd.concat([table, table.assign(year=2020, soc=table["soc"] + spread)]).to_csv("t.csv", index=False)
        with caplog.at_level("INFO"):
            assert of_table("--stratum", "zone") == 0
        assert ("most of the variance is of stratum c" in caplog.text) == told
        assert bool(json.loads((workplace / "out" / "change.json").read_text())["warnings"]) == told


def test_zeros_far_below_all_others_are_told(workplace, caplog):
    changed(soc=lambda t: t["soc"].mask((t["plot"] == "p2") & (t["year"] == 2018), 0.0))
    with caplog.at_level("INFO"):
        assert of_table() == 0
    assert "1 values are 0 (first 'p2'), the others" in caplog.text
    assert of_table("--missing_words", "0") == 0
    assert result()["n_before"] == 10
    assert json.loads((workplace / "out" / "change.json").read_text())["warnings"] == []


def test_visits_side_by_side_are_refused(workplace, capsys):
    write()
    table = pd.read_csv("t.csv").pivot(index="plot", columns="year", values="soc").add_prefix("soc_").dropna()
    table.to_csv("t.csv")
    assert make("--table", "t.csv", "--value", "soc_2010") == 2
    assert "are soc_2010 and soc_2018 visits?" in capsys.readouterr().err


def test_places_that_were_chosen_are_told(workplace, caplog):
    changed(design=lambda t: np.full(len(t), "spatial coverage: no probability sample"))
    assert of_table() == 0
    facts = json.loads((workplace / "out" / "change.json").read_text())
    assert facts["warnings"] == [
        "places by spatial coverage: no probability sample: intervals are as if they had been drawn at random"
    ]


def test_sets_and_groups_whose_strata_are_empty_are_left_out(workplace, caplog, capsys):
    """Few cores reach the lower layer, and none of them in one stratum; of one group one stratum was sampled once only."""
    first, second = write()
    deep = [each[each["zone"] == "v"].assign(layer=2) for each in (first, second)]
    pd.concat([first.assign(layer=1), second.assign(layer=1), *deep]).to_csv("t.csv", index=False)
    how = ["--each", "layer", "--stratum", "zone", "--sizes", "u=1", "v=2"]
    with caplog.at_level("INFO"):
        assert of_table(*how) == 0
    assert pd.read_csv("out/change.csv")["layer"].tolist() == [1]
    assert "layer 2: left out: t.csv: stratum 'u' has no place that was sampled at both visits" in caplog.text
    pd.concat(deep).to_csv("t.csv", index=False)
    assert of_table(*how) == 2
    assert "stratum 'u' has no place" in capsys.readouterr().err
    lone = second[(second["zone"] == "v") | (second["crop"] == "grass")]
    pd.concat([first, lone]).to_csv("t.csv", index=False)
    assert of_table("--design", "unpaired", "--by", "crop", "--stratum", "zone") == 0
    assert pd.read_csv("out/change.csv")["group"].tolist() == ["all", "grass"]


def test_cores_of_one_plot_and_visits_backwards_are_told(workplace, caplog):
    first, second = write()
    both = pd.concat([first, second])
    cores = [both.assign(profile_id=both["plot"] + f"_c{k}", core=f"c{k}", soc=both["soc"] + k) for k in range(2)]
    pd.concat(cores).drop(columns="crop").to_csv("t.csv", index=False)
    columns = ["--columns", "profile_id=profile_id"]
    for more, told in (([], True), (["--block", "plot"], False), (["--place", "plot"], False)):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert of_table(*columns, *more) == 0
        assert ("26 places are of 13 'plot', and count as independent: --place plot" in caplog.text) == told
    assert of_table(*columns, "--place", "plot", "--visits", "2018", "2010") == 0
    warnings = json.loads((workplace / "out" / "change.json").read_text())["warnings"]
    assert warnings == ["the first visit, 2018, is later than 2010: the change is backwards"]
