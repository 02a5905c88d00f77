"""Methods on the data of one region: derived methods on hand-made errors, one small case from profiles to tables."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import slow_but

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import own_data
from own_data import METHODS, REFERENCE, Case, Table, cross_validate, data_sets, jobs, show, with_derived

from soilcarbon.stats.groups import check_no_leak, spatial_groups

REAL, REAL2 = (Path(__file__).resolve().parents[3] / "shared" / name for name in ("realdata", "realdata2"))


@pytest.fixture
def table():
    random = np.random.default_rng(3)
    x = pd.DataFrame(random.normal(size=(80, 3)), columns=["a", "b", "glim_class"]).round(3)
    x["glim_class"] = random.integers(1, 4, 80)
    y = np.exp(2 + 0.6 * x["a"].to_numpy() + 0.1 * random.normal(size=80))
    return Table(x.astype(np.float32), y, random.uniform(10, 14, 80), random.uniform(50, 54, 80))


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


@pytest.mark.slow
@pytest.mark.parametrize("how", slow_but(["blocks", "random"], "random"))
def test_a_case_from_profiles_to_tables(how, table, tmp_path, capsys):
    case = Case.draw(table, how)
    check_no_leak(case.folds, spatial_groups(table.lon, table.lat))
    assert [each.kind for each in case.task.categories] == ["numeric", "classes"]
    for method in (REFERENCE, "mean", "ridge"):
        found = cross_validate(case, METHODS[method])
        np.savez(tmp_path / f"mine.{how}.{method}.npz", **found)
        if method == "mean":
            fold = case.folds == 0
            assert found["predicted"][fold] == pytest.approx(np.full(fold.sum(), table.y[~fold].mean()))
    show(tmp_path)
    printed = capsys.readouterr().out
    assert f"folds: {how}; 1 data sets" in printed and "| log-forest | 1 | +0.0 (+0.0 to +0.0) |" in printed


def test_what_is_finished_is_not_done_again(tmp_path):
    (tmp_path / "a.blocks.mean.npz").touch()
    arguments = argparse.Namespace(sets=["a", "b"], folds=["blocks"], learners=["mean"], out=tmp_path)
    assert list(jobs(arguments)) == [("b", "blocks", "mean")]


@pytest.mark.skipif(not REAL2.is_dir(), reason="needs ../shared/realdata2")
def test_data_sets_are_of_the_profiles_they_say():
    sets = data_sets(REAL, REAL2)
    assert len(sets) == 26
    anhui, laboratory = sets["xuancheng"](), sets["laboratory_CO"]()
    assert anhui.x.shape == (183, 7) and anhui.y.mean() == pytest.approx(12.6, abs=0.05)
    assert list(laboratory.x) == own_data.LABORATORY and len(laboratory.y) == 128
