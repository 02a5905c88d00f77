"""Comparison on one dataset: nothing of a held-out profile in its prediction, budget, table and verdict, resumed runs."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from conftest import make_dataset, slow_but
from pyproj import Transformer
from sklearn.base import clone

from soilcarbon.benchmark import methods as registry
from soilcarbon.benchmark import own_data
from soilcarbon.benchmark.baselines import read_method
from soilcarbon.benchmark.budget import ALWAYS, LIMITS, PLANNED, Choice, fit_into
from soilcarbon.benchmark.methods import METHODS, TUNED, as_method, expected_seconds
from soilcarbon.benchmark.own_data import Design, plan_runs, read_inputs, strategies_of
from soilcarbon.benchmark.ranking import Ranking, in_words, score_table, verdict
from soilcarbon.benchmark.runs import Ledger, Plan, Run, execute_all, places_on
from soilcarbon.categories import Category
from soilcarbon.commands import compare, fit
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.io.files import UserError, run
from soilcarbon.network.checkpoint import save_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.regression import selection
from soilcarbon.regression.learners import LEARNERS
from soilcarbon.stats.groups import check_no_leak, spatial_groups

pytestmark = pytest.mark.usefixtures("small_learners")

CATEGORIES = (
    Category(name="topo", variables=("elevation", "slope"), radius=1),
    Category(name="climate", variables=("bio01",)),
    Category(name="rock", variables=("lithology",), kind="classes"),
)
SVR = {"name": "svr", "estimator": "sklearn.svm.SVR", "parameters": {"C": 10}, "grid": {"epsilon": [0.1, 0.3]}}
QUICK = Choice((), (), 1, members=2, tuned=True)
CHEAP = ["mean", "median", "idw", "ridge", "forest", "boosting"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """120 profiles, 96 of them for training and validation."""
    return make_dataset(tmp_path_factory.mktemp("own") / "mine", categories=CATEGORIES)


def cheap(method):
    """Return a method of fewer trees."""
    baseline = getattr(method.predict, "keywords", {}).get("method")
    if baseline is None or "n_estimators" not in baseline.regressor.get_params():
        return method
    regressor = clone(baseline.regressor).set_params(n_estimators=60)
    return as_method(dataclasses.replace(baseline, regressor=regressor, while_tuning={"n_estimators": 10}))


def design(mine, tmp_path, **changes):
    read_inputs.cache_clear()
    return Design(data_dir=mine, out=tmp_path / "out", **{"methods": tuple(CHEAP), "workers": 1, "block_size": 1.0} | changes)


# --- leaks ----------------------------------------------------------------------------------------------------------------------


KEYS = [key for key in METHODS if not METHODS[key].parts and "taught" not in key] + ["svr"]
LONG = {"tuned-boosting", "tuned-kriging", "quantile-forest", "network"}


@pytest.mark.parametrize("key", slow_but(KEYS, *(key for key in KEYS if key not in LONG)))
def test_nothing_of_the_profiles_held_out_is_in_their_predictions(key, mine, tmp_path):
    own = {"svr": as_method(read_method(**SVR))}
    checkpoint = tmp_path / "world.pth"
    method = cheap({**METHODS, **own}[key])
    if method.needs_checkpoint:
        save_checkpoint(tiny_network(mine, tmp_path), checkpoint)
    plan = design(mine, tmp_path, known={**METHODS, **own}, checkpoint=checkpoint if method.needs_checkpoint else None)
    division = dataclasses.replace(plan, choice=QUICK).divide(Run("blocks", 1, (key,)))
    out = np.flatnonzero(division.folds == division.fold)
    samples = division.samples
    X, y = samples.X.copy(), samples.y.copy()
    y[out] = 1000 * y[out] + 7  # targets of all that is held out: the skewness, bounds, the mean
    X[out[1:], 2:] = np.nan  # covariates of all that is held out but one: statistics, classes, filling
    other = dataclasses.replace(division, samples=samples._replace(X=X, y=y))
    before, after = (method.predict(each) for each in (division, other))
    assert np.isfinite(before).all() and before.shape == out.shape
    assert after[0] == before[0]


def tiny_network(mine, tmp_path, categories=CATEGORIES):
    """Return a network of the first categories of the dataset."""
    data, width = read_inputs(design(mine, tmp_path)).data, sum(each.width for each in categories)
    how = {"teacher": "none", "members": 2, "epochs": 2, "patience": 0}
    return SoilCarbonRegressor(categories, **how).fit(data.x[:, :width], data.y).network_


@pytest.mark.parametrize("key", ["unchanged", "fine-tuned"])
def test_transferred_networks_gain_the_dataset_s_own_categories(key, mine, tmp_path):
    topo = tiny_network(mine, tmp_path, CATEGORIES[:1])
    save_checkpoint(topo, tmp_path / "topo.pth")
    plan = design(mine, tmp_path, checkpoint=tmp_path / "topo.pth")
    assert read_inputs(plan).task.categories == CATEGORIES
    division = dataclasses.replace(plan, choice=QUICK).divide(Run("blocks", 1, (key,)))
    predicted = METHODS[key].predict(division)
    topo.respecify(center=division.task.center)  # medians, as all methods
    before = predict(topo, division.held_out.X[:, 2:20].astype(np.float32))[0]
    assert np.allclose(predicted, before, rtol=1e-6) is (key == "unchanged")


def test_categories_that_the_checkpoint_has_otherwise_say_how_to_prepare_them(mine, tmp_path):
    data = read_inputs(design(mine, tmp_path)).data
    coded = [CATEGORIES[0].model_copy(update={"radius": 0, "kind": "classes"})]
    width = len(coded[0].variables)
    SoilCarbonRegressor(coded, teacher="none", members=1, epochs=1).fit(data.x[:, :width] * 0 + 1, data.y).save(
        tmp_path / "world.pth"
    )
    with pytest.raises(
        UserError, match="numeric here, classes in the checkpoint; prepare the dataset with the categories of .*world.yaml"
    ):
        read_inputs(design(mine, tmp_path, checkpoint=tmp_path / "world.pth"))


@pytest.mark.parametrize("strategy", ["place", "blocks", "region"])
def test_no_fold_splits_a_place_or_a_block_and_repeats_differ(strategy, mine, tmp_path):
    plan = design(mine, tmp_path, strategies=(strategy,), block_size=1.0)
    first, second = (plan.folds_for(strategy, repeat) for repeat in (0, 1))
    data, rows, _ = read_inputs(plan)
    lon, lat = data.lon[rows], data.lat[rows]
    for each in (first, second):
        check_no_leak(each.folds, spatial_groups(lon, lat, 1.0 if strategy == "blocks" else None))
    assert (first.folds != second.folds).any() and first.block_size == second.block_size == (1.0 if strategy == "blocks" else None)
    division = plan.divide(Run(strategy, 0, ("ridge",)))  # tuning holds out whole groups too
    assert (division.samples.groups == spatial_groups(lon, lat, first.block_size)).all()
    assert (plan.folds_for(strategy).folds == first.folds).all()


def test_without_blocks_enough_places_are_held_out(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "_FEWEST_BLOCKS", 1000)
    assert strategies_of(design(mine, tmp_path)) == ("place",)


# --- budget ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [32, 90, 250, 3000])
@pytest.mark.parametrize("width", [10, 50])
@pytest.mark.parametrize("budget", LIMITS)
def test_the_choice_fits_into_the_budget_and_has_a_network(n, width, budget):
    keys = tuple(key for key, each in METHODS.items() if not each.needs_checkpoint)
    wanted = Choice(keys, keys, 3, tuned=budget != "quick")

    def times(choice):
        each = [expected_seconds(METHODS[key], n, width, choice.members, choice.tuned) for key in (*choice.methods, *choice.beside)]
        return choice.repeats * sum(each) / expected_seconds(METHODS["forest"], n, width)

    choice, changes = fit_into(wanted, METHODS, times, LIMITS[budget])
    assert times(choice) <= PLANNED * LIMITS[budget]
    lost = [each for each in changes if each.startswith("left out, beyond the budget")]
    assert all(each.endswith("--budget full allows for 100 times") is (budget == "quick") for each in lost)
    assert {*ALWAYS, "ridge", "network"} <= set(choice.methods) and set(ALWAYS) <= set(choice.beside) <= set(choice.methods)
    assert ("stack" in choice.methods) == ("taught" in choice.methods)
    assert budget != "unlimited" or choice == wanted
    if budget != "quick":
        assert {"taught", "stack", "regression-kriging"} <= set(choice.methods)
    assert choice == wanted or changes
    assert fit_into(choice, METHODS, times, LIMITS[budget])[0] == choice


def test_the_worlds_profiles_in_the_blocks_of_a_fold_s_strategy_are_left_out_and_cost_time(mine, tmp_path):
    save_checkpoint(tiny_network(mine, tmp_path), tmp_path / "world.pth")
    world = make_dataset(tmp_path / "world", n=60, seed=1, categories=CATEGORIES)
    plan = design(mine, tmp_path, checkpoint=tmp_path / "world.pth", global_data=world)
    data, _, task = read_inputs(plan)
    lon, lat, there = task.transfer.world.lon, task.transfer.world.lat, task.transfer.world.split["train"]
    for strategy, side in (("place", None), ("blocks", 1.0)):
        division = plan.divide(Run(strategy, 0, ("transferred-taught",)))
        inside = np.isin(spatial_groups(lon, lat, side), spatial_groups(data.lon, data.lat, side))
        assert inside[there].any() == (strategy == "blocks")
        assert division.task.transfer.world.split["train"].tolist() == [row for row in there if not inside[row]]
    alone, beside = (expected_seconds(METHODS["transferred-taught"], 80, 5, world=count) for count in (0, 20_000))
    assert beside - alone == pytest.approx(5 * expected_seconds(METHODS["forest"], 8000, 5) / 3)  # five members, 100 trees
    assert expected_seconds(METHODS["taught"], 80, 5, world=20_000) == expected_seconds(METHODS["taught"], 80, 5)


def test_a_stack_is_the_mean_of_its_parts_on_the_scale_that_is_learnt(mine, tmp_path):
    save_checkpoint(tiny_network(mine, tmp_path), tmp_path / "world.pth")
    known = {**METHODS, "transferred-taught": METHODS["ridge"]}  # any other method, for its time
    plan = design(
        mine, tmp_path, methods=("transferred-stack",), known=known, checkpoint=tmp_path / "world.pth", strategies=("blocks",)
    )
    planned = plan_runs(plan)
    assert "transferred-stack" in planned.choice.methods
    table = own_data.gather(plan, planned, execute_all(plan, planned))["blocks"]
    parts = np.log1p(table[["transferred-taught", "regression-kriging"]])
    assert table["transferred-stack"].to_numpy() == pytest.approx(np.expm1(parts.mean(axis=1)).to_numpy())


def test_rows_are_in_the_dataset_s_order_and_what_is_not_whole_is_left_out(mine, tmp_path):
    plan = design(mine, tmp_path, methods=("ridge",), repeats=2, strategies=("place",), budget="unlimited", folds=2)
    planned = plan_runs(plan)
    ledger = execute_all(plan, planned)
    table, (data, rows, _) = own_data.gather(plan, planned, ledger)["place"], read_inputs(plan)
    assert table["profile_id"].tolist() == 2 * [data.ids[k] for k in rows] and table["repeat"].tolist() == [0] * 96 + [1] * 96
    np.testing.assert_array_equal(table["observed"], np.tile(data.y[rows], 2))
    ledger.done.remove(Run("place", 1, ("ridge",), 1))
    table = own_data.gather(plan, planned, ledger)["place"]
    assert "ridge" in table and set(table["repeat"]) == {0}
    ledger.done.remove(Run("place", 1, ("ridge",)))
    table = own_data.gather(plan, planned, ledger)["place"]
    assert "ridge" not in table and set(table["repeat"]) == {0, 1}


def test_what_runs_beyond_the_limit_is_stopped_whole():
    runs = [Run("blocks", fold, (key,), repeat) for repeat in (0, 1) for key in ("forest", "ridge", "network") for fold in (0, 1)]
    mean = Run("blocks", 1, ("mean",))
    ledger = Ledger(Plan((*runs, mean), dict.fromkeys([*runs, mean], 1.0), tuple(runs[:2]), limit=4, always=ALWAYS))
    assert ledger.affords(runs[0], ()) and ledger.reference is None
    for each in runs[:4]:
        ledger.note(each, 2.0, "")
    assert ledger.reference == 4 and ledger.ratio == 2
    assert ledger.affords(runs[4], ()) and ledger.affords(runs[4], [runs[5]])
    ledger.note(runs[4], 7.0, "")  # much longer than expected
    assert not ledger.affords(runs[5], ()) and ledger.stopped == {(0, "network")}
    assert ledger.affords(mean, ())
    ledger.note(runs[1], 2.0, "too few profiles")
    assert not ledger.affords(Run("blocks", 0, ("forest",), 1), ()) and ledger.failed == {"forest": "too few profiles"}


# --- table and verdict ------------------------------------------------------------------------------------------------------------


def ranking(errors, groups=40, noise=0.3):
    """Return a ranking of methods with given sizes of errors in 40 groups of 5 profiles."""
    random, n = np.random.default_rng(0), 200
    y, sign = random.lognormal(3, 0.1, n), random.choice([-1, 1], n)
    table = pd.DataFrame(
        {"profile_id": np.arange(n).astype(str), "lon": 0.0, "lat": 0.0, "group": np.arange(n) % groups, "observed": y}
    )
    table = table.assign(repeat=0, fold=np.arange(n) % groups % 5)
    for key, size in errors.items():
        table[key] = y + sign * size * (1 + noise * random.uniform(-1, 1, n))
    scores = score_table({"blocks": table}, METHODS, 0)
    return Ranking("mine", "SOC", "g/kg", METHODS, scores, {}, {"blocks": {}}, [], 3.0, 10.0, {}, "")


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"mean": 5, "median": 5, "forest": 6, "network": 7}, "No method is better than the mean of the training profiles: the"),
        ({"mean": 5, "median": 5, "forest": 4.9}, "No method is clearly better than the mean of the training profiles"),
        ({"mean": 5, "median": 4, "forest": 4.2}, "No method is better than the median of the training profiles"),
        ({"mean": 5, "median": 5, "forest": 3, "network": 2}, "It is better than the strongest baseline, random forest"),
        ({"mean": 5, "median": 5, "forest": 3, "network": 2.99}, "It does not differ clearly from the strongest baseline"),
        ({"mean": 5, "median": 5, "forest": 2, "network": 3}, "The best network, network, is worse than it: MAE +"),
        ({"mean": 5, "median": 5, "forest": 2}, "No network was compared with it."),
    ],
)  # fmt: skip
def test_the_verdict_is_what_the_table_says(errors, expected):
    found = ranking(errors, noise=0.9 if errors.get("forest") == 4.9 else 0.3)
    said = verdict(found)
    expected = expected.replace("random forest", METHODS["forest"].label)
    assert expected in said
    best = found.last[~found.last.index.isin(["mean", "median"])].iloc[0]
    assert f"{best['of_mean']:+.1f}".replace("-", "−") in said


def test_the_report_opens_with_a_plain_sentence():
    found = ranking({"mean": 5, "median": 5, "forest": 2})
    label, errors = METHODS["forest"].label, found.last["mae"]
    assert in_words(found) == (
        f"Where no profile is near, a prediction of SOC by {label} errs by {errors['forest']:.3g} g/kg on average; "
        f"one value for all places would err by {errors[['mean', 'median']].min():.3g} g/kg."
    )
    worse = in_words(ranking({"mean": 5, "median": 4, "forest": 6}))
    assert worse.startswith("Where no profile is near, one value of SOC for all places errs by 3.95 g/kg")
    assert worse.endswith(" g/kg on average, and nothing that was tried predicts it clearly better.")


def test_the_table_has_the_scores_of_fit_and_intervals_widen_with_few_groups():
    wide, narrow = (ranking({"mean": 5, "median": 5, "forest": 4.5}, groups, noise=0.9).last.loc["forest"] for groups in (5, 40))
    assert wide["of_mean"] == narrow["of_mean"] and wide["groups"] == 5
    assert narrow["mae_se"] > 0 and narrow["against"] == "forest" and narrow["change"] == 0


def test_standard_errors_of_several_repeats_are_those_of_one():
    """The folds of a second repeat are those of the first, or each profile its own: the root of the mean square of both."""
    random, n = np.random.default_rng(0), 40
    table = pd.DataFrame({"profile_id": np.arange(n).astype(str), "group": np.arange(n), "observed": random.lognormal(3, 0.3, n)})
    table = table.assign(mean=20.0, median=19.0, forest=table["observed"] + random.normal(0, 2, n))
    folds = [np.arange(n) % 5, np.arange(n)]
    errors = np.abs(table["forest"] - table["observed"]).to_numpy()
    expected = [
        np.array([errors[each == k].mean() for k in np.unique(each)]).std(ddof=1) / len(np.unique(each)) ** 0.5 for each in folds
    ]
    parts = [table.assign(repeat=k, fold=each) for k, each in enumerate(folds)]
    found = score_table({"blocks": pd.concat(parts)}, METHODS, 0).set_index("method").loc["forest"]
    assert found["mae_se"] == pytest.approx(np.sqrt(np.mean(np.square(expected)))) and found["repeats"] == 2
    assert found["mae"] == pytest.approx(errors.mean())


# --- the command ----------------------------------------------------------------------------------------------------------------


def made(*more):
    return run(lambda: compare.main(["--data_dir", "mine", "--workers", "1", *more]))


@pytest.fixture
def here(mine, monkeypatch, tmp_path):
    (tmp_path / "mine").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("no_drawing")
def test_one_command_one_table_one_verdict(here, capsys):
    config = here / "mine.yaml"
    config.write_text(yaml.safe_dump({"methods": ["mean", "median", "ridge", "forest", SVR]}))
    assert made("--config", "mine.yaml", "--repeats", "1", "--strategies", "place") == 0
    shown = capsys.readouterr().out
    out = here / "results/compare/mine"
    table = pd.read_csv(out / "scores.csv")
    assert set(table["strategy"]) == {"place"}
    assert {"mean", "median", "ridge", "forest", "svr"} == set(table["method"]) and (table["mae_se"] > 0).all()
    assert "times that of a default forest's cross-validation (at most 10)" in shown and "report.html" in shown
    page = (out / "report.html").read_text()
    assert page.count("<table") == 1 and page.count("<img") == 1 and "the training profiles" in page
    held_out = pd.read_csv(out / "predictions.csv")
    last = held_out[held_out["strategy"] == table["strategy"].iloc[-1]]
    assert last["profile_id"].nunique() == 96 and len(last) == 96 * last["repeat"].nunique()
    mae = (last["forest"] - last["observed"]).abs().mean()
    row = table[(table["strategy"] == table["strategy"].iloc[-1]) & (table["method"] == "forest")].iloc[0]
    assert row["mae"] == pytest.approx(mae)


@pytest.mark.slow
@pytest.mark.usefixtures("no_drawing")
def test_the_scores_are_those_of_fit(here):
    assert made("--methods", "ridge", "boosting") == 0
    assert (
        run(lambda: fit.main(["--data_dir", "mine", "--workers", "1", "--candidates", "mean", "ridge", "forest", "boosting"])) == 0
    )
    ours = pd.read_csv("results/compare/mine/scores.csv").groupby("method").last()
    theirs = pd.read_csv("results/mine/cross_validation.csv").set_index("model")
    for name in ("mae", "mae_se", "rmse", "r2", "ccc", "ccc_se"):
        assert ours.loc[theirs.index, name].to_numpy() == pytest.approx(theirs[name].to_numpy(), rel=1e-6)


def test_a_comparison_is_continued_with_its_settings_and_data_alone(here, mine, capsys, monkeypatch):
    def stop(*_):
        raise UserError("stopped")

    monkeypatch.setattr(own_data, "compare", stop)
    (here / "mine").unlink()
    shutil.copytree(mine, here / "mine")
    for more, words in (([], "stopped"), (["--resume"], "stopped"), (["--resume", "--seed", "1"], "with other values of seed;")):
        assert made(*more) == 2 and words in capsys.readouterr().err
    samples = here / "mine" / "samples.csv"
    samples.write_text(samples.read_text() + "\n")
    assert made("--resume") == 2 and "with other values of the input files;" in capsys.readouterr().err


@pytest.mark.parametrize("tuned", [True, False])
def test_the_first_candidate_is_taken_where_nothing_is_tuned(tuned, mine, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(registry, "tune", lambda method, *_, **__: tried.append(method.candidates) or ("fitted", {}))
    plan = dataclasses.replace(design(mine, tmp_path), choice=Choice((), (), 1, tuned=tuned))
    with pytest.raises(AttributeError):  # nothing was fitted
        METHODS["idw"].predict(plan.divide(Run("blocks", 0, ("idw",))))
    every = registry.BASELINES["idw"].candidates
    assert tried == [every if tuned else every[:1]]


@pytest.mark.slow
def test_two_processes_predict_the_same_bits(mine, tmp_path, small_learners):
    small_learners.undo()  # other processes have learners of their own size
    found = []
    for workers in (1, 2):
        plan = design(mine, tmp_path / str(workers), methods=("ridge",), strategies=("place",), folds=2, workers=workers)
        planned = plan_runs(plan)
        ledger = execute_all(plan, planned)
        found.append(own_data.gather(plan, planned, ledger)["place"])
    pd.testing.assert_frame_equal(*found, check_exact=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "forrest"], "did you mean 'forest'"),
        (["--methods", "fine-tuned"], "give --init_from"),
        (["--regions", "mine"], "regions is for a comparison in several regions"),
        (["--global_data", "mine"], "global_data is for networks that are transferred: give --init_from, or drop it"),
        (["--runs", "mine"], "give --data_dir, a dataset, or --runs"),
        (["--target", "ph"], "ph"),
        (["--init_from", "none.pth"], "none.pth"),
    ],
)
def test_what_cannot_be_says_what_to_change(arguments, words, here, capsys):
    assert made(*arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown and len(shown.strip().splitlines()) <= 2


def test_settings_of_one_dataset_need_it(capsys, here):
    assert run(lambda: compare.main(["--regions", "mine", "--budget", "full"])) == 2
    assert "budget is for a comparison on one dataset; give --data_dir" in capsys.readouterr().err


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("n", [16, pytest.param(48, marks=pytest.mark.slow)])
def test_few_profiles_are_compared(n, tmp_path, monkeypatch):
    make_dataset(tmp_path / "mine", n=n, categories=CATEGORIES)
    monkeypatch.chdir(tmp_path)
    assert made("--methods", "idw", "regression-kriging") == 0
    notes = Path("results/compare/mine/report.html").read_text()
    assert "are few: intervals are wide" in notes


def test_too_few_profiles_say_how_many_are_needed(tmp_path, monkeypatch, capsys):
    make_dataset(tmp_path / "mine", n=11, categories=CATEGORIES)
    monkeypatch.chdir(tmp_path)
    assert made() == 2
    assert "10 are the fewest" in capsys.readouterr().err


def test_every_learner_of_fit_is_compared():
    assert set(LEARNERS) <= set(METHODS) and set(TUNED) <= set(METHODS)
    assert all(registry.METHODS[key].label == each.label for key, each in LEARNERS.items())


def test_the_area_of_the_map_may_be_a_projected_raster(tmp_path):
    """Its left half is 0: places are drawn in the right half, in degrees, by an inverse projection that is pyproj's."""
    values = np.concatenate([np.zeros((40, 30)), np.full((40, 30), 7)], axis=1).astype(np.int16)
    place = rasterio.transform.from_origin(650_000, 3_400_000, 500, 500)
    shape = {"width": 60, "height": 40, "count": 1, "dtype": "int16", "crs": "EPSG:32650", "transform": place}
    with rasterio.open(tmp_path / "land.tif", "w", driver="GTiff", **shape) as file:
        file.write(values, 1)
    to_degrees = Transformer.from_crs("EPSG:32650", "EPSG:4326", always_xy=True)
    corners = to_degrees.transform([648_000, 682_000], [3_378_000, 3_402_000])
    data = SimpleNamespace(lon=np.array(corners[0]), lat=np.array(corners[1]))
    x, y = to_degrees.transform(*places_on(tmp_path / "land.tif", {}, data, 0), direction="INVERSE")
    assert 664_500 < x.min() < 666_500 and 678_500 < x.max() < 680_500
    assert 3_379_500 < y.min() < 3_381_500 and 3_398_500 < y.max() < 3_400_500
