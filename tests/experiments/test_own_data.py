"""Methods on the data of one region: derived methods on hand-made errors, one small case from profiles to tables."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import own_data
from own_data import data_sets, with_derived

REAL, REAL2 = (Path(__file__).resolve().parents[3] / "shared" / name for name in ("realdata", "realdata2"))


def found_of(y, folds, log, **predicted):
    """Return methods as the experiment keeps them, from predictions."""
    one = {"y": y, "folds": folds, "groups": np.arange(len(y)), "log": np.array(log), "seconds": np.array(1.0)}
    return {key: one | {"predicted": each, "interval": np.full((len(y), 2), np.nan)} for key, each in predicted.items()}


def test_the_choice_for_a_fold_does_not_know_its_errors():
    y, folds = np.linspace(10, 30, 40), np.arange(40) % 4
    ridge = y + np.where(folds == 0, 10.0, 1.0)  # the worst in fold 0, surely the best elsewhere
    forest = y + np.where(folds == 0, 1.0, 3.0)
    derived = with_derived(found_of(y, folds, False, mean=np.full(40, 20.0), ridge=ridge, forest=forest))
    best = derived["best"]
    assert (best["predicted"] - y)[folds == 0] == pytest.approx(np.full(10, 10.0))  # ridge
    assert (best["predicted"] - y)[folds != 0] == pytest.approx(np.full(30, 3.0))  # the forest: with fold 0 nothing is sure
    assert np.isfinite(best["interval"]).all()


def test_a_stack_is_the_mean_on_the_scale_of_the_transform():
    y, folds = np.linspace(10, 30, 40), np.arange(40) % 4
    taught, kriging = np.full(40, 8.0), np.full(40, 15.0)
    for log, expected in ((True, 11.0), (False, 11.5)):  # the root of 9 x 16, less 1
        derived = with_derived(found_of(y, folds, log, taught=taught, **{"regression-kriging": kriging}))
        assert derived["stack"]["predicted"] == pytest.approx(expected)


@pytest.mark.skipif(not REAL2.is_dir(), reason="needs ../shared/realdata2")
def test_data_sets_are_of_the_profiles_they_say():
    sets = data_sets(REAL, REAL2)
    assert len(sets) == 26
    anhui, laboratory = sets["xuancheng"](), sets["laboratory_CO"]()
    assert anhui.x.shape == (183, 7) and anhui.y.mean() == pytest.approx(12.6, abs=0.05)
    assert list(laboratory.x) == own_data.LABORATORY and len(laboratory.y) == 128
