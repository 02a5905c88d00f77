"""Training on arrays: what is called held out was not seen."""

import numpy as np
import pytest
from conftest import slow_but

from soilcarbon.categories import Category
from soilcarbon.training.arrays import resolve_settings, train_on_arrays

CATEGORIES = (Category(name="all", variables=("a", "b", "c")),)


@pytest.mark.parametrize(("teacher", "epochs"), slow_but([("ensemble", 2), ("none", 60)], ("none", 60)))
def test_predictions_of_profiles_held_out_know_nothing_of_a_target_that_is_noise(teacher, epochs, small_learners):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(100, 3)).astype(np.float32), random.normal(10, 1, 100)
    given = {"teacher": teacher, "members": 2, "epochs": epochs, "select_on": "none", "patience": 0, "target_transform": "none"}
    settings = resolve_settings(given, None, 100, 100)
    trained = train_on_arrays(x, y, np.arange(100), CATEGORIES, settings)
    assert trained.folds.shape == trained.held_out.shape == (100,) and set(trained.folds) == {0, 1}
    assert np.corrcoef(trained.held_out, y)[0, 1] < 0.2  # in sample: above 0.4
