"""Zoned against unzoned: a real difference is found, none is not, and held-out profiles have no influence."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulated import ZONED_QUICK, zoned_world

from soilcarbon.stats.metrics import scores
from soilcarbon.zonal import evaluation
from soilcarbon.zonal.climate_zones import ZONES, ClimateZones
from soilcarbon.zonal.evaluation import (
    draw_scores,
    hold_out,
    importance_table,
    permutation_increases,
    score_tables,
    space_time_folds,
)
from soilcarbon.zonal.forest import SelectedForest, ZonedForest

BANDS = ClimateZones(width_precipitation=60, width_temperature=1)
METHOD = ZonedForest(BANDS, (0, 1), SelectedForest(**ZONED_QUICK), min_profiles=25)
NAMES = ("map", "mat", "a", "b", "noise", "year")


def run(profiles, k=3):
    folds = space_time_folds(profiles, METHOD, k, 0)
    parts = [hold_out(profiles, folds, fold, METHOD, 0, 2) for fold in range(k)]
    predictions, increases = (pd.concat([getattr(part, name) for part in parts]) for name in ("predictions", "increases"))
    return predictions.sort_values("row", ignore_index=True), increases, parts


@pytest.fixture(scope="module")
def profiles():
    return zoned_world(420)


@pytest.fixture(scope="module")
def found(profiles):
    return run(profiles)


def test_folds_split_no_block_and_hold_every_zone_and_decade(profiles):
    folds = space_time_folds(profiles, METHOD, 4, 0)
    assert pd.Series(folds).groupby(profiles.groups).nunique().max() == 1
    zone, decade = METHOD.labels(profiles.x), profiles.x[:, 5] // 10
    for groups in (zone, decade):
        table = pd.crosstab(groups, folds)
        expected = table.sum(axis=1).to_numpy()[:, None] / 4
        assert (np.abs(table - expected) <= 0.35 * expected + 4).all(axis=None)


def test_where_zones_differ_zoning_wins_significantly(profiles, found):
    table, differences = score_tables(found[0], profiles.groups, BANDS, 0)
    overall = differences.set_index(["zone", "method"]).loc["all"]
    assert overall.loc["zoned", "rmse_high"] < 0
    assert overall.loc["zoned", "r2_low"] > 0.2
    assert overall.loc["blended", "rmse_high"] < 0
    r2 = table.set_index(["zone", "method"])["r2"]
    assert r2["all", "zoned"] > 0.5 > r2["all", "unzoned"]


@pytest.mark.slow
def test_where_zones_do_not_differ_zoning_does_not_win():
    profiles = zoned_world(420, differs=False)
    differences = score_tables(run(profiles, 2)[0], profiles.groups, BANDS, 0)[1].set_index(["zone", "method"])
    assert differences.loc[("all", "zoned"), "rmse_high"] > 0
    assert differences.loc[("all", "zoned"), "r2_low"] < 0
    assert not (differences["rmse_high"] < 0).any()


def test_every_profile_is_predicted_once_and_scores_are_those_of_the_table(profiles, found):
    predictions = found[0]
    assert predictions["row"].tolist() == list(range(420))
    np.testing.assert_array_equal(predictions["observed"], profiles.y)
    table, differences = score_tables(predictions, profiles.groups, BANDS, 0)
    assert table["zone"].drop_duplicates().tolist() == ["all", *ZONES]
    assert table.groupby("method")["n"].sum().tolist() == [840] * 3
    arid = predictions[predictions["zone"] == "arid"]
    expected = scores(arid["observed"].to_numpy(), arid["blended"].to_numpy())
    row = table.set_index(["zone", "method"]).loc[("arid", "blended")]
    assert [row[name] for name in ("r2", "rmse", "ccc")] == pytest.approx([expected[name] for name in ("r2", "rmse", "ccc")])
    assert (table["r2_low"] <= table["r2"]).all()
    assert (table["rmse_high"] >= table["rmse"]).all()
    r2 = table.set_index(["zone", "method"])["r2"].loc["arid"]
    change = differences.set_index(["zone", "method"]).loc[("arid", "zoned"), "r2"]
    assert change == pytest.approx(r2["zoned"] - r2["unzoned"])


def test_blending_changes_only_what_lies_in_a_band(profiles, found):
    predictions = found[0]
    inside = (np.abs(profiles.x[:, 0] - 400) < 30) | (np.abs(profiles.x[:, 1] - 10) < 0.5)
    differ = ~np.isclose(predictions["zoned"], predictions["blended"])
    assert differ.any()
    assert not (differ & ~inside).any()


def test_held_out_profiles_have_no_influence_on_the_models(profiles, found):
    folds = space_time_folds(profiles, METHOD, 3, 0)
    spoilt = replace(profiles, y=np.where(folds == 1, 1000.0, profiles.y))
    again = hold_out(spoilt, folds, 1, METHOD, 0, 2)
    before = found[2][1]
    for name in ("unzoned", "zoned", "blended"):
        np.testing.assert_array_equal(again.predictions[name], before.predictions[name])
    pd.testing.assert_frame_equal(again.trace, before.trace)


def test_the_trace_names_the_forest_of_every_zone(found):
    assert found[2][0].trace["forest"].unique().tolist() == ["all", *ZONES]


# --- importances -----------------------------------------------------------------------------------------------------------


class Sum:
    columns = (0, 2)

    def predict(self, x):
        return x[:, 0] + 3 * x[:, 2]


def test_permuting_a_covariate_costs_twice_the_variance_it_explains(profiles):
    x = np.random.default_rng(0).normal(size=(420, 3))
    test = replace(profiles, x=x, y=Sum().predict(x))
    cost = permutation_increases(Sum(), test, np.arange(420), 0, 20).groupby("covariate")["increase"].mean()
    assert list(cost.index) == [0, 2]
    assert cost.to_numpy() == pytest.approx([2, 18], rel=0.15)


def test_the_most_important_covariate_of_each_zone_is_that_of_its_relationship(profiles, found):
    table = importance_table(found[1], found[0], profiles.groups, BANDS, NAMES, 0)
    first = table.groupby("zone", sort=False).first()
    assert first.loc[list(ZONES), "covariate"].tolist() == ["a", "a", "b", "b"]
    assert (first.loc[list(ZONES), "low"] > 0).all()
    assert ((table["low"] <= table["importance"]) & (table["importance"] <= table["high"])).all()
    assert table["chosen"].between(0, 1).all()
    assert (first.loc[list(ZONES), "chosen"] == 1).all()
    assert (table.loc[table["zone"] == "all", "method"] == "unzoned").all()


def test_an_importance_is_the_mean_increase_over_the_variance():
    predictions = pd.DataFrame({"row": range(4), "fold": [0, 0, 1, 1], "zone": "humid", "observed": [1.0, 3, 1, 3]})
    increases = pd.DataFrame({"row": [0, 1], "covariate": 2, "increase": [1.0, 3.0], "method": "zoned"})
    increases = pd.concat([increases, increases.assign(method="unzoned", increase=8.0)])
    table = importance_table(increases, predictions, np.arange(4), BANDS, NAMES, 0).set_index("zone")
    found = table.loc["humid", ["covariate", "importance", "chosen", "n"]].tolist()
    assert found == ["a", 1.0, 0.5, 4]  # 4 / 4 over a variance of 1
    assert table.loc["all", "importance"] == 4


def test_a_single_block_has_no_interval(found):
    predictions = found[0]
    table, differences = score_tables(predictions, np.zeros(420), BANDS, 0, draws=20)
    assert table["r2"].notna().all()
    assert table[["r2_low", "rmse_high"]].isna().all(axis=None)
    assert differences["rmse_low"].isna().all()


# --- figure ----------------------------------------------------------------------------------------------------------------


def test_the_figure_shows_scores_intervals_and_the_paper(tmp_path, monkeypatch):
    drawn, save = [], evaluation.save
    monkeypatch.setattr(evaluation, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    rows = [
        {"zone": zone, "method": method, "n": 40, "target": "socd_0_20", "r2": r2, "r2_low": r2 - 0.1, "r2_high": r2 + 0.05}
        for zone in ("all", "arid")
        for method, r2 in (("unzoned", 0.4), ("zoned", 0.6))
    ]
    rows[3] |= {"r2_low": np.nan, "r2_high": np.nan}
    table = pd.DataFrame(rows)
    draw_scores(tmp_path / "z.png", {"a": table, "b": table}, "r2", "R2", paper=True)
    assert (tmp_path / "z.png").read_bytes()[:4] == b"\x89PNG"
    axes = drawn[0].axes
    assert len(axes) == 2
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["all\nn = 40", "arid\nn = 40"]
    bars = list(axes[0].containers)
    np.testing.assert_allclose(bars[1].lines[0].get_ydata(), [0.6, 0.6])
    segments = bars[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in segments], [[0.3, 0.45]] * 2)
    assert [line.get_ydata()[0] for line in axes[0].lines if line.get_marker() == "D"] == [0.46, 0.63]
