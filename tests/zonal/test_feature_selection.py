"""Folds that keep shares, twins dropped, ranks, and every subset tried."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score

from soilcarbon.io.files import UserError
from soilcarbon.zonal import feature_selection as selection
from soilcarbon.zonal.feature_selection import drop_correlated, held_out_r2, in_parallel, rank, search_subsets, stratified_folds

QUICK = {"n_estimators": 8, "min_samples_leaf": 3}


def sample(n=150, columns=5, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, columns))
    return x, 3 * x[:, 1] + 2 * x[:, 3] + 0.3 * random.normal(size=n)


# --- folds -----------------------------------------------------------------------------------------------------------


def test_folds_keep_units_whole_and_the_share_of_each_zone_and_decade():
    random = np.random.default_rng(0)
    units = random.integers(0, 150, 900)
    strata = np.char.add(np.array(["wet", "dry"])[units % 2], np.array(["80s", "90s", "00s"])[random.integers(0, 3, 900)])
    folds = stratified_folds(units, strata, 5, 0)
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    assert pd.Series(folds).groupby(units).nunique().max() == 1
    table = pd.crosstab(strata, folds)
    assert (table.max(axis=1) - table.min(axis=1)).max() <= 8  # of 30
    alone = pd.crosstab(strata, selection.group_folds(units, 5, 0))
    assert (alone.max(axis=1) - alone.min(axis=1)).max() > 12  # what chance gives


def test_folds_are_those_of_the_units_in_whatever_order_the_profiles_stand():
    random = np.random.default_rng(1)
    units, order = random.integers(0, 40, 200), random.permutation(200)
    strata = np.array(["b", "a", "c"])[random.integers(0, 3, 200)]
    folds = stratified_folds(units, strata, 4, 3)
    assert stratified_folds(units[order], strata[order], 4, 3).tolist() == folds[order].tolist()
    assert stratified_folds(units, strata, 4, 4).tolist() != folds.tolist()


def test_rare_strata_and_few_units_still_give_folds():
    units = np.arange(12)
    folds = stratified_folds(units, np.array(["common"] * 9 + ["a", "b", "c"]), 4, 0)
    assert np.bincount(folds).tolist() == [3, 3, 3, 3]
    assert np.unique(stratified_folds(units, np.array(list("abcdefghijkl")), 4, 0)).size == 4
    assert np.unique(stratified_folds(units // 4, np.zeros(12), 5, 0)).size == 3
    with pytest.raises(UserError, match="12 profiles in 1 place or block cannot be held out"):
        stratified_folds(np.zeros(12), np.zeros(12), 5, 0)


# --- twins and ranks ---------------------------------------------------------------------------------------------------


def test_of_twins_the_one_that_tells_more_of_the_target_stays():
    x, y = sample()
    twin, opposite = (x[:, [1, 3]] + 0.2 * np.random.default_rng(1).normal(size=(len(x), 2))).T * [[1], [-2]]
    assert drop_correlated(np.column_stack([twin, x, opposite]), y) == [1, 2, 3, 4, 5]
    assert drop_correlated(np.column_stack([x[:, 3] + 0.5 * x[:, 0], x[:, 3]]), y, 0.8) == [1]
    assert drop_correlated(np.column_stack([x[:, 3] + 0.5 * x[:, 0], x[:, 3]]), y, 0.95) == [0, 1]


def test_constant_and_empty_columns_go_and_gaps_do_not_hide_a_twin():
    x, y = sample()
    holed = x[:, 1].copy()
    holed[::3] = np.nan
    columns = np.column_stack([np.full(len(x), 4.0), np.full(len(x), np.nan), x[:, 1], holed, x[:, 0]])
    kept = drop_correlated(columns, y)
    assert len(kept) == 2
    assert 4 in kept
    with pytest.raises(UserError, match="none of 2 covariates varies over the 150 profiles"):
        drop_correlated(columns[:, :2], y)


def test_ranks_put_what_matters_first_and_add_up_to_one():
    x, y = sample()
    found = rank(x, y, 0, 30)
    assert np.argsort(-found)[:2].tolist() == [1, 3]
    assert found.sum() == pytest.approx(1)


# --- what is tried -----------------------------------------------------------------------------------------------------


def test_r2_is_of_all_held_out_profiles_together():
    x, y = sample(60)
    folds, expected = np.arange(60) % 3, np.empty(60)
    for fold in range(3):
        out = folds == fold
        expected[out] = RandomForestRegressor(**QUICK, random_state=5).fit(x[~out], y[~out]).predict(x[out])
    assert held_out_r2(x, y, folds, 5, QUICK) == pytest.approx(r2_score(y, expected))


def test_every_subset_is_tried_and_the_best_is_found(monkeypatch):
    x, y = sample()
    best, trace = search_subsets(x, y, np.arange(150) % 3, [0, 1, 3, 4], 0, QUICK)
    assert set(best) >= {1, 3}
    assert len(trace) == trace["columns"].nunique() == 15
    assert trace["count"].tolist() == [len(text.split()) for text in trace["columns"]]
    row = trace[trace["columns"] == "1 3"].iloc[0]
    assert row["r2"] == pytest.approx(held_out_r2(x[:, [1, 3]], y, np.arange(150) % 3, 0, QUICK))
    assert trace["r2"].max() == trace.loc[trace["columns"] == " ".join(map(str, best)), "r2"].iloc[0]
    monkeypatch.setattr(selection, "held_out_r2", lambda *_: 0.5)
    assert search_subsets(x, y, np.arange(150) % 3, [4, 1, 3], 0, QUICK)[0] == (4,)  # of equals the fewest


def test_ten_columns_have_1023_subsets(monkeypatch):
    monkeypatch.setattr(selection, "held_out_r2", lambda x, *_: x.shape[1] / 10)
    x, y = sample(columns=12)
    best, trace = search_subsets(x, y, np.arange(150) % 3, range(1, 11), 0, QUICK)
    assert (len(trace), len(best)) == (1023, 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_stand_in_the_order_of_the_tasks(workers):
    tasks = (selection.delayed(pow)(k, 2) for k in range(30))
    assert in_parallel(tasks, 30, workers, "squares") == [k * k for k in range(30)]


def test_nothing_to_choose_from_is_told():
    x, y = sample()
    with pytest.raises(UserError, match="0 covariates"):
        search_subsets(x, y, np.arange(150) % 3, [], 0, QUICK)
    with pytest.raises(UserError, match="1 values of the target at 150 profiles"):
        search_subsets(x, np.ones(150), np.arange(150) % 3, [1], 0, QUICK)
