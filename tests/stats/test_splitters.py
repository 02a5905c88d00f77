"""Spatial splitters: the folds of `spatial_cv`, in scikit-learn's own cross-validation, nested too."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score

from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.spatial_cv import block_folds, knndm_folds
from soilcarbon.stats.splitters import BlockKFold, KNNDMKFold

RANDOM = np.random.default_rng(0)
PLACES = np.repeat(RANDOM.uniform(0, 10, (15, 2)), 8, axis=0) + 0.01 * RANDOM.normal(size=(120, 2))
X = RANDOM.normal(size=(120, 3))
Y = X[:, 0] + 0.1 * RANDOM.normal(size=120)
CELLS = RANDOM.uniform(-5, 15, 300), RANDOM.uniform(-5, 15, 300)
FOLDS = {
    "blocks": (BlockKFold(4, block_size=1.5, seed=3), block_folds(*PLACES.T, 4, 1.5, 3)),
    "knndm": (KNNDMKFold(4, prediction_points=CELLS, seed=3), knndm_folds(*PLACES.T, 4, CELLS, 3)[0]),
}


@pytest.mark.parametrize("kind", FOLDS)
def test_test_sets_are_the_folds(kind):
    splitter, folds = FOLDS[kind]
    pairs = list(splitter.split(X, Y, PLACES))
    assert len(pairs) == splitter.get_n_splits() == 4
    for k, (train, test) in enumerate(pairs):
        assert test.tolist() == np.flatnonzero(folds == k).tolist() and train.tolist() == np.flatnonzero(folds != k).tolist()


@pytest.mark.parametrize("kind", FOLDS)
def test_scikit_learn_scores_with_positions_as_groups(kind):
    splitter, folds = FOLDS[kind]
    scores = cross_val_score(Ridge(), X, Y, groups=PLACES, cv=splitter)
    by_hand = [Ridge().fit(X[folds != k], Y[folds != k]).score(X[folds == k], Y[folds == k]) for k in range(4)]
    np.testing.assert_allclose(scores, by_hand)


def test_nested_cross_validation_never_splits_a_block():
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(lon=PLACES[:, 0], lat=PLACES[:, 1])
    seen = []

    class Watched(Ridge):
        def fit(self, x, y):
            seen.append(set(spatial_groups(x["lon"], x["lat"], 1.5)))
            return super().fit(x, y)

        def predict(self, x):
            assert not seen[-1] & set(spatial_groups(x["lon"], x["lat"], 1.5))
            return super().predict(x)

    search = GridSearchCV(Watched(), {"alpha": [0.1, 10.0]}, cv=BlockKFold(3, block_size=1.5), refit=True)
    predicted = cross_val_predict(search, table, Y, cv=BlockKFold(4, block_size=1.5))
    assert np.corrcoef(predicted, Y)[0, 1] > 0.9 and len(seen) == 4 * (2 * 3 + 1)


def test_positions_are_routed_as_groups():
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_val_score(Ridge(), X, Y, params={"groups": PLACES}, cv=BlockKFold(4, block_size=1.5))
    np.testing.assert_allclose(scores, cross_val_score(Ridge(), X, Y, groups=PLACES, cv=BlockKFold(4, block_size=1.5)))


@pytest.mark.parametrize(("groups", "words"), [(None, "where are the rows"), (PLACES[:, 0], "must be the positions of the rows")])
def test_rows_without_positions_are_refused(groups, words):
    with pytest.raises(ValueError, match=words):
        next(BlockKFold(3, block_size=1.0).split(X, Y, groups))


def test_a_splitter_shows_its_parameters():
    assert repr(BlockKFold(4, block_size=1.5)) == "BlockKFold(block_size=1.5, n_splits=4, seed=0)"
