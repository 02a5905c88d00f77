"""Runs of a comparison, of a design by hand: what is kept, made again, read, stopped by an error; and folds that are kept."""

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import pytest

from soilcarbon.benchmark.methods import Method
from soilcarbon.benchmark.runs import CrossValidation, Plan, Run, execute_all, held_out, kept_folds
from soilcarbon.io.files import UserError
from soilcarbon.io.resumption import seal
from soilcarbon.soil.dataset import Dataset

N = 12
IDS = [f"{k:02d}" for k in range(N)]
DATA = Dataset(
    pd.DataFrame({"profile_id": IDS, "lon": np.arange(N) * 1.5, "lat": 50.0}), np.zeros((N, 1)), np.arange(N) / 7, {}, ()
)
ROWS = np.arange(N)[::-1]
GROUPS = {"r": np.arange(N) // 2, "": np.arange(N) // 2}
calls: list[Run] = []


class Toy(CrossValidation):
    """A division is the targets of the profiles for training, and how many are held out."""

    def profiles_of(self, _):
        return DATA, ROWS

    def divide(self, run):
        calls.append(run)
        train, test = self.split(run)
        return DATA.y[ROWS][train], len(test)


class Lenient(Toy):
    may_fail = True


def _mean(division):
    return np.full(division[1], division[0].mean())


def _count(division):
    return {"count": np.full(division[1], len(division[0])), "count_lower_0.9": np.full(division[1], -np.inf)}


def _sum(division, known):
    return known["mean"] + known["count"]


def _fail(_, error):
    raise error


def _missing(division):
    return np.full(division[1], np.nan)


KNOWN = {
    "mean": Method("mean", "", "baseline", _mean),
    "count": Method("count", "", "baseline", _count),
    "sum": Method("sum", "", "network", _sum, parts=("mean", "count")),
    "diverges": Method("diverges", "", "network", partial(_fail, error=ArithmeticError("a loss\nthat is not finite"))),
    "missing": Method("missing", "", "network", _missing),
}


def designed(kind, out):
    return kind(out=out, known=KNOWN, methods=(), strategies=("place",), folds=3, workers=1)


@pytest.fixture
def toy(tmp_path):
    calls.clear()
    return designed(Toy, tmp_path)


def runs_of(*methods, region="r", **more):
    return [Run("place", fold, methods, region=region, **more) for fold in range(3)]


def test_all_profiles_are_predicted_once_by_methods_that_may_be_of_others(toy):
    ledger = execute_all(toy, Plan((*runs_of("mean", "count", "sum"),)))
    assert len(ledger.done) == 3 and not ledger.failed
    tables = [table for _, table in held_out(toy, runs_of("mean", "count", "sum"), GROUPS)]
    whole = pd.concat(tables).sort_index()
    assert whole["profile_id"].tolist() == IDS[::-1] and whole["group"].tolist() == GROUPS["r"].tolist()
    np.testing.assert_array_equal(whole["observed"], DATA.y[ROWS])
    for table in tables:
        others = np.setdiff1d(DATA.y, table["observed"])
        assert (table["n_train"] == len(others)).all() and table["mean"].to_numpy() == pytest.approx(others.mean())
    np.testing.assert_allclose(whole["sum"], whole["mean"] + whole["count"])
    assert np.isneginf(whole["count_lower_0.9"]).all()


def test_so_many_profiles_are_drawn_for_training_and_each_draw_is_another(toy):
    size = [run._replace(size=5, draw=draw, curve=True) for draw in (0, 1) for run in runs_of("mean")]
    execute_all(toy, Plan((*size,)))
    assert len({run.name for run in size}) == 6
    found = {run: table for run, table in held_out(toy, size, GROUPS)}
    assert all((table["n_train"] == 5).all() for table in found.values())
    assert found[size[0]]["mean"].iloc[0] != found[size[3]]["mean"].iloc[0]


def test_what_is_lost_or_changed_is_made_again_and_nothing_else(toy):
    plan = Plan((*runs_of("mean", "count"),))
    execute_all(toy, plan)
    first, second, third = (toy.run_path(run) for run in plan.runs)
    before = [path.read_bytes() for path in (first, second, third)]
    first.unlink()
    second.write_text("profile_id,mean\n00,1\n")
    calls.clear()
    execute_all(toy, plan)
    assert calls == list(plan.runs[:2]) and [path.read_bytes() for path in (first, second, third)] == before


def test_runs_of_one_method_are_put_side_by_side_also_as_an_older_version_wrote_them(toy):
    runs = [*runs_of("mean", region=""), *runs_of("count", region="")]
    execute_all(toy, Plan((*runs,)))
    expected = [table for _, table in held_out(toy, runs, GROUPS)]
    for run in runs_of("mean", region=""):
        path = toy.run_path(run)
        assert path.name == f"place-0-{run.fold}-mean.csv"
        pd.read_csv(path, dtype=str)[["profile_id", "mean"]].rename(columns={"mean": "predicted"}).to_csv(path, index=False)
        seal(path)
    for (run, found), before in zip(held_out(toy, runs, GROUPS), expected, strict=True):
        assert run.methods == ("mean", "count")
        pd.testing.assert_frame_equal(found, before, check_exact=True)


def test_runs_and_folds_of_other_profiles_are_refused(toy):
    runs = runs_of("mean")
    execute_all(toy, Plan((*runs,)))
    path = toy.run_path(runs[0])
    header, first, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, f"other{first}", *others]) + "\n")
    with pytest.raises(UserError, match=r"r-place-0-all\.csv: is of other profiles; give another --out"):
        list(held_out(toy, runs, GROUPS))
    folds = toy.out / "folds" / "r-place.csv"
    with pytest.raises(UserError, match=r"r-place\.csv: is of other profiles"):
        kept_folds(folds, [*IDS[:-1], "other"], None)


def test_folds_are_drawn_once_and_drawn_again_if_they_were_changed(toy):
    first = toy.folds_for("place", region="r")
    assert first.facts["strategy"] == "place" and first.block_size is None
    path = toy.out / "folds" / "r-place.csv"
    before = path.read_bytes()
    changed = dataclasses.replace(toy, seed=1)
    assert (changed.folds_for("place", region="r").folds == first.folds).all()  # as they were left
    path.with_suffix(".yaml").unlink()
    assert (toy.folds_for("place", region="r").folds == first.folds).all() and path.read_bytes() == before


@pytest.mark.parametrize(("key", "why"), [("diverges", "a loss"), ("missing", "its predictions are not finite")])
def test_a_method_that_fails_ends_the_comparison_or_is_left_out(toy, key, why):
    with pytest.raises(UserError, match=f"^run r-place-0-all: {why}$"):
        execute_all(dataclasses.replace(toy, out=toy.out / "a"), Plan((*runs_of(key),)))
    runs = [*runs_of("mean", region=""), *runs_of(key, region="")]
    ledger = execute_all(designed(Lenient, toy.out / "b"), Plan((*runs,)))
    assert ledger.failed == {key: why} and ledger.done == set(runs[:3])
    assert [run.fold for run in calls if run.methods == (key,) and not run.region] == [0]  # its other folds are not begun
