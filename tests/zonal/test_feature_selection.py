"""Feature selection: stratified folds, correlated covariates dropped, ranks, and every subset tried."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score

from soilcarbon.io.files import UserError
from soilcarbon.parallel import worker_pool
from soilcarbon.stats.groups import group_folds
from soilcarbon.zonal import feature_selection
from soilcarbon.zonal.feature_selection import cross_validated_r2, drop_correlated, rank, search_subsets, stratified_folds

QUICK = {"n_estimators": 8, "min_samples_leaf": 3}
FOLDS = np.arange(150) % 3


def sample(n=150, columns=5, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, columns))
    return x, 3 * x[:, 1] + 2 * x[:, 3] + 0.3 * random.normal(size=n)


# --- folds -----------------------------------------------------------------------------------------------------------


def test_folds_keep_groups_whole_and_the_share_of_each_zone_and_decade():
    random = np.random.default_rng(0)
    groups = random.integers(0, 150, 900)
    strata = np.char.add(np.array(["wet", "dry"])[groups % 2], np.array(["80s", "90s", "00s"])[random.integers(0, 3, 900)])
    folds = stratified_folds(groups, strata, 5, 0)
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    assert pd.Series(folds).groupby(groups).nunique().max() == 1
    table = pd.crosstab(strata, folds)
    assert (table.max(axis=1) - table.min(axis=1)).max() <= 8  # of 30
    alone = pd.crosstab(strata, group_folds(groups, 5, 0))
    assert (alone.max(axis=1) - alone.min(axis=1)).max() > 12  # what chance gives


def test_folds_do_not_depend_on_the_order_of_the_profiles():
    random = np.random.default_rng(1)
    groups, order = random.integers(0, 40, 200), random.permutation(200)
    strata = np.array(["b", "a", "c"])[random.integers(0, 3, 200)]
    folds = stratified_folds(groups, strata, 4, 3)
    assert stratified_folds(groups[order], strata[order], 4, 3).tolist() == folds[order].tolist()
    assert stratified_folds(groups, strata, 4, 4).tolist() != folds.tolist()


def test_rare_strata_and_few_groups_still_give_folds():
    groups = np.arange(12)
    folds = stratified_folds(groups, np.array(["common"] * 9 + ["a", "b", "c"]), 4, 0)
    assert np.bincount(folds).tolist() == [3, 3, 3, 3]
    assert np.unique(stratified_folds(groups, np.array(list("abcdefghijkl")), 4, 0)).size == 4
    assert np.unique(stratified_folds(groups // 4, np.zeros(12), 5, 0)).size == 3
    with pytest.raises(UserError, match="12 profiles in 1 place or block cannot be cross-validated"):
        stratified_folds(np.zeros(12), np.zeros(12), 5, 0)


# --- correlation and ranks ---------------------------------------------------------------------------------------------


def test_of_correlated_columns_the_better_predictor_stays():
    x, y = sample()
    twin, opposite = (x[:, [1, 3]] + 0.2 * np.random.default_rng(1).normal(size=(len(x), 2))).T * [[1], [-2]]
    assert drop_correlated(np.column_stack([twin, x, opposite]), y) == [1, 2, 3, 4, 5]
    assert drop_correlated(np.column_stack([x[:, 3] + 0.5 * x[:, 0], x[:, 3]]), y, 0.8) == [1]
    assert drop_correlated(np.column_stack([x[:, 3] + 0.5 * x[:, 0], x[:, 3]]), y, 0.95) == [0, 1]


def test_constant_and_empty_columns_go_and_gaps_do_not_hide_a_correlation():
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
    found = rank(*sample(), 0, 30)
    assert np.argsort(-found)[:2].tolist() == [1, 3]
    assert found.sum() == pytest.approx(1)


# --- candidates ------------------------------------------------------------------------------------------------------------


def test_r2_is_of_the_predictions_of_all_folds_together():
    x, y = sample(60)
    folds, expected = np.arange(60) % 3, np.empty(60)
    for fold in range(3):
        out = folds == fold
        expected[out] = RandomForestRegressor(**QUICK, random_state=5).fit(x[~out], y[~out]).predict(x[out])
    assert cross_validated_r2(x, y, folds, 5, QUICK) == pytest.approx(r2_score(y, expected))
    assert np.isnan(cross_validated_r2(x, np.ones(60), folds, 5, QUICK))


@pytest.mark.slow
def test_every_subset_is_tried_and_the_best_is_found():
    x, y = sample()
    x = x[:, [0, 1, 3, 4]]
    best, trace = search_subsets(x, y, FOLDS, 0, QUICK, None, "")
    assert set(best) >= {1, 2}
    assert len(trace) == trace["columns"].nunique() == 15
    assert trace["count"].tolist() == [len(each) for each in trace["columns"]]
    row = trace[trace["columns"] == (1, 2)].iloc[0]
    assert row["r2"] == pytest.approx(cross_validated_r2(x[:, [1, 2]], y, FOLDS, 0, QUICK))
    assert trace["r2"].max() == trace.loc[trace["columns"] == best, "r2"].iloc[0]
    with worker_pool(2) as pool:
        pd.testing.assert_frame_equal(search_subsets(x, y, FOLDS, 0, QUICK, pool, "")[1], trace)


def test_ten_columns_have_1023_subsets_and_of_equals_the_fewest_win(monkeypatch):
    x, y = sample(columns=10)
    monkeypatch.setattr(feature_selection, "cross_validated_r2", lambda x, *_: x.shape[1] / 10)
    best, trace = search_subsets(x, y, FOLDS, 0, QUICK, None, "")
    assert (len(trace), len(best)) == (1023, 10)
    monkeypatch.setattr(feature_selection, "cross_validated_r2", lambda *_: 0.5)
    assert search_subsets(x[:, [4, 1, 3]], y, FOLDS, 0, QUICK, None, "")[0] == (0,)


def test_nothing_to_choose_from_is_refused():
    x, y = sample()
    with pytest.raises(UserError, match="0 covariates"):
        search_subsets(x[:, :0], y, FOLDS, 0, QUICK, None, "")
    with pytest.raises(UserError, match="1 values of the target at 150 profiles"):
        search_subsets(x, np.ones(150), FOLDS, 0, QUICK, None, "")
