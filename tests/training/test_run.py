"""A training run: it learns, chooses its epoch on validation, survives interruptions and faults, and repeats itself to the bit."""

import json
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FEW_CATEGORIES, make_dataset, slow_but
from training_runs import STAND, epochs_of, quick, regional, same, train, weights

import train_global
from soilcarbon import parallel
from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.io.files import UserError, run
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import SoilCarbonNet, predict
from soilcarbon.network.specification import Specification
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.training import ensemble, loop
from soilcarbon.training.accelerator import Accelerator
from soilcarbon.training.ensemble import member_seed
from soilcarbon.training.run import train_in_memory
from soilcarbon.training.uncertainty import shuffled_importance

pytestmark = pytest.mark.usefixtures("small_learners")


@pytest.mark.parametrize("transform", slow_but(["none", "log1p"], "log1p"))
def test_it_beats_the_mean(tmp_path, workplace, transform):
    folder = make_dataset(tmp_path / "data", n=600, categories=FEW_CATEGORIES)
    scores = train(quick(folder, epochs=30, target_transform=transform))
    assert scores["test"]["r2"] > 0.6
    assert json.loads((workplace / "log/g/scores.json").read_text()) == scores


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_the_best_epoch_is_that_of_the_validation_scores(dataset, workplace, transform):
    train(quick(dataset, epochs=12, lr=0.01, select_on="mae", target_transform=transform))
    lines = epochs_of("log/g")
    assert [line["epoch"] for line in lines] == list(range(13))
    best = min(lines[1:], key=lambda line: line["valid"]["mae"])
    net = load_checkpoint("model/pretrain_model/g.pth")
    assert net.record.epoch == (best["epoch"],)
    assert net.record.scores["valid"]["mae"] == pytest.approx(best["valid"]["mae"], rel=1e-5)


def test_test_targets_change_nothing_but_the_test_scores(dataset, workplace):
    train(quick(dataset))
    before, first = weights("model/pretrain_model/g.pth"), load_checkpoint("model/pretrain_model/g.pth")
    log_before = (workplace / "log/g/epochs.jsonl").read_text()
    table = pd.read_csv(dataset / "samples.csv")
    test = table["profile_id"].isin(pd.read_csv(dataset / "split/test.csv")["profile_id"])
    table.loc[test, "soc"] = table.loc[test, "soc"].to_numpy()[::-1]
    table.loc[test & ~test.duplicated(), "soc"] = 900.0  # above every training target: the bounds must not see it
    assert table["soc"].idxmax() in table.index[test]
    table.to_csv(dataset / "samples.csv", index=False)
    train(quick(dataset))
    second = load_checkpoint("model/pretrain_model/g.pth")
    assert same(before, weights("model/pretrain_model/g.pth"))
    assert (workplace / "log/g/epochs.jsonl").read_text() == log_before
    assert first.specification == second.specification
    assert first.record.scores["test"] != second.record.scores["test"]
    for record in (first.record, second.record):
        record.scores["test"] = record.scores_of_mean["test"] = {}
    assert first.record == second.record


def test_same_seed_same_weights_other_seed_others(dataset, workplace):
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(quick(dataset, run=name, seed=seed))
        results.append(weights(f"model/pretrain_model/{name}.pth"))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_members_of_neighbouring_seeds_share_nothing():
    assert len({member_seed(seed, k) for seed in range(5) for k in range(5)}) == 25


def test_fine_tuning_members_start_from_the_members_of_the_checkpoint(dataset, workplace):
    train(quick(dataset, members=2))
    train(regional(dataset, lr=1e-12, members=3))
    before, after = (list(load_checkpoint(path).members()) for path in ("model/pretrain_model/g.pth", "model/r.pth"))
    for k in range(3):
        for name, value in after[k].tensors().items():
            torch.testing.assert_close(value, before[k % 2].tensors()[name], rtol=0, atol=1e-8)


def test_a_target_of_another_name_is_kept_in_fine_tuning_and_its_unit_unknown(dataset, workplace):
    table = pd.read_csv(dataset / "samples.csv")
    table.assign(stock=table["soc"] / 3).to_csv(dataset / "samples.csv", index=False)
    train(quick(dataset, target="stock"))
    train(regional(dataset))
    facts = load_checkpoint("model/r.pth").specification
    assert (facts.target, facts.unit, facts.bounds[1]) == ("stock", "", pytest.approx(max_of(dataset) / 3))


def max_of(folder):
    table = pd.read_csv(folder / "samples.csv")
    return table.loc[table["profile_id"].isin(pd.read_csv(folder / "split/train.csv")["profile_id"]), "soc"].max()


def test_scores_are_taken_every_eval_interval_epochs(dataset, workplace):
    train(quick(dataset, epochs=7, eval_interval=3))
    lines = epochs_of("log/g")
    assert [line["epoch"] for line in lines if "valid" in line] == [0, 3, 6, 7]


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [("features", {"classifier.0", "classifier.3", "final_regressor.0"}), ("all-but-head", {"final_regressor.0"})],
)
def test_frozen_layers_keep_their_weights_to_the_bit(dataset, workplace, freeze, trained):
    train(quick(dataset, epochs=1, lr=1e-5))
    train(regional(dataset, freeze=freeze, lr=0.01, select_on="rmse"))
    before, after = weights("model/pretrain_model/g.pth"), weights("model/r.pth")
    assert load_checkpoint("model/r.pth").record.epoch != (0,)
    assert {name.rsplit(".", 1)[0] for name in before if not torch.equal(before[name], after[name])} == trained


def test_weights_drawn_at_random_are_never_the_best_epoch(dataset, workplace):
    train(quick(dataset, epochs=2, lr=1e-12, target_transform="log1p", members=2))
    assert 0 not in load_checkpoint("model/pretrain_model/g.pth").record.epoch


def test_fine_tuning_that_makes_things_worse_keeps_the_pretrained_weights_with_a_warning(dataset, workplace, caplog):
    train(quick(dataset, epochs=20))
    train(regional(dataset, lr=0.1, epochs=2))
    assert load_checkpoint("model/r.pth").record.epoch == (0,)
    assert same(weights("model/pretrain_model/g.pth"), weights("model/r.pth"))
    assert "1 of 1 members kept the pretrained weights" in caplog.text


def test_covariates_in_another_unit_give_a_warning(dataset, workplace, caplog):
    train(quick(dataset))
    for path in (dataset / "patches").glob("bio12.pkl"):
        dump_pickle(path, {key: 100 * patch for key, patch in load_pickle(path).items()})
    train(regional(dataset))
    assert "100% of bio12's values (mean 1" in caplog.text


def test_early_stopping_ends_the_run(dataset, workplace):
    train(quick(dataset, epochs=500, lr=0.05, patience=2))
    lines = epochs_of("log/g")
    best = load_checkpoint("model/pretrain_model/g.pth").record.epoch[0]
    assert lines[-1]["epoch"] == best + 2 < 500


def test_fine_tuning_keeps_the_checkpoints_policy(dataset, tmp_path, workplace):
    train(quick(dataset, target_transform="log1p", missing="zero", clip_inputs=3.0, members=2))
    other = make_dataset(tmp_path / "other", seed=3, categories=FEW_CATEGORIES)
    train(regional(other))
    first, second = (load_checkpoint(path).specification for path in ("model/pretrain_model/g.pth", "model/r.pth"))
    for name in ("statistics", "missing", "clip_inputs", "target_transform", "members", "categories"):
        assert getattr(first, name) == getattr(second, name)
    assert first.bounds != second.bounds
    with pytest.raises(UserError, match="was trained with target_transform 'log1p'"):
        train(regional(other, target_transform="none"))


def test_log1p_predictions_are_unbiased_on_validation(tmp_path, workplace):
    folder = make_dataset(tmp_path / "data", n=800, categories=FEW_CATEGORIES)
    scores = train(quick(folder, epochs=20, target_transform="log1p"))
    assert abs(scores["valid"]["me"]) < 0.1 * scores["valid"]["mae"] + 0.05 * scores["valid"]["rmse"]
    assert load_checkpoint("model/pretrain_model/g.pth").specification.smearing is not None


def test_an_ensemble_is_trained_from_different_seeds_into_one_file(dataset, workplace):
    train(quick(dataset, members=3, target_transform="log1p", validate_on="split"))
    net = load_checkpoint("model/pretrain_model/g.pth")
    tensors = [member.tensors() for member in net.members()]
    assert len(tensors) == 3
    assert not same(tensors[0], tensors[1])
    data = read_dataset(dataset)
    mean, members = predict(net, data.x)
    np.testing.assert_allclose(mean, members.mean(0))
    train(quick(dataset, run="single", target_transform="log1p"))
    assert same(tensors[0], load_checkpoint("model/pretrain_model/single.pth").tensors())


class _Pickled(ThreadPoolExecutor):
    """Workers that get copies, as processes do."""

    def submit(self, function, *arguments):
        return super().submit(*pickle.loads(pickle.dumps((function, *arguments))))


@pytest.mark.parametrize("pool", ["thread", pytest.param("processes", marks=pytest.mark.slow)])
def test_members_side_by_side_are_those_one_after_the_other_to_the_bit(dataset, workplace, monkeypatch, pool):
    train(quick(dataset, run="one", members=2, epochs=2, target_transform="log1p"))
    if pool == "thread":
        monkeypatch.setattr(parallel, "worker_pool", lambda _: _Pickled(1))
    train(quick(dataset, run="two", members=2, epochs=2, target_transform="log1p", workers=2))
    assert same(*(weights(f"model/pretrain_model/{name}.pth") for name in ("one", "two")))
    assert not Path("log/two/shared.pth").exists()


def test_windows_and_classes_train(tmp_path, workplace):
    table = (
        Category(name="relief", variables=("height", "slope"), radius=2),
        Category(name="climate", variables=("rain",)),
        Category(name="rock", variables=("code",), kind="classes", radius=1),
    )
    folder = make_dataset(tmp_path / "data", n=400, side=5, categories=table)
    scores = train(quick(folder, epochs=25))
    assert scores["test"]["r2"] > 0.5
    assert load_checkpoint("model/pretrain_model/g.pth").specification.classes == {"code": (1, 2, 3, 4)}


def test_statistics_are_computed_from_training_profiles_where_the_file_is_absent(dataset, workplace):
    (dataset / "stats.csv").unlink()
    train(quick(dataset))
    mean, std = load_checkpoint("model/pretrain_model/g.pth").specification.statistics["bio12"]
    ids = pd.read_csv(dataset / "split/train.csv")["profile_id"]
    patches = load_pickle(dataset / "patches/bio12.pkl")
    cells = np.array([patches[name][1, 1] for name in ids], float)  # radius 0 sees the middle cell
    assert (mean, std) == pytest.approx((cells.mean(), cells.std()))


# --- learning rates, and no choice of an epoch -------------------------------------------------------------------------


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of each epoch as training proceeds."""
    seen, plain = [], Accelerator.epoch

    def epoch(optimiser, *more):
        seen.append(optimiser.rate)
        return plain(optimiser, *more)

    monkeypatch.setattr(Accelerator, "epoch", epoch)
    return seen


COSINE = [(1 + math.cos(math.pi * k / 5)) / 2 for k in range(5)]


@pytest.mark.parametrize(
    ("how", "expected"), [({"members": 2, "lr_schedule": "cosine"}, [0.01 * share for share in COSINE * 2]), ({}, [0.01] * 5)]
)
def test_the_learning_rate_of_each_epoch(dataset, workplace, rates, how, expected):
    train(regional(dataset, epochs=5, lr=0.01, init_from=None, **how))
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize("lr", [1e-3, 0.1])
def test_where_no_score_chooses_the_last_epoch_stands_however_bad(dataset, workplace, lr):
    train(quick(dataset, epochs=20 if lr == 0.1 else 1))
    train(regional(dataset, epochs=4, lr=lr, members=2, eval_interval=3, **STAND))
    net = load_checkpoint("model/r.pth")
    assert net.record.epoch == (4, 4)
    lines = epochs_of("log/r/member_1")
    assert [(line["member"], line["epoch"]) for line in lines] == [(1, k) for k in range(5)]
    train(regional(dataset, run="mae", epochs=4, lr=lr, members=2, eval_interval=3, select_on="mae", validate_on="split"))
    chosen = load_checkpoint("model/mae.pth").record.epoch
    assert (chosen == (0, 0)) is (lr == 0.1)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_epoch_and_batch_and_keeps_the_best(dataset, workplace):
    train(quick(dataset))
    before = weights("model/pretrain_model/g.pth")
    with pytest.raises(UserError, match=r"no longer finite in epoch \d+, (batch \d+ of 3|after its last batch)"):
        train(quick(dataset, lr=1e18))
    assert same(before, weights("model/pretrain_model/g.pth"))
    assert torch.isfinite(load_checkpoint("log/g/best.pth")(torch.zeros(1, 8))).all()


def test_published_weights_are_not_overwritten(dataset, workplace):
    net = SoilCarbonNet(Specification())
    path = workplace / "model/pretrain_model/g.pth"
    path.parent.mkdir(parents=True)
    torch.save(net.tensors(), path)
    with pytest.raises(UserError, match="give --run another name"):
        train(quick(dataset))
    assert same(weights(path), net.tensors())


def test_a_full_disk_keeps_the_previous_checkpoint(dataset, workplace, monkeypatch):
    train(quick(dataset))
    before = weights("model/pretrain_model/g.pth")

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="No space left on device"):
        train(quick(dataset, seed=9))
    assert same(before, weights("model/pretrain_model/g.pth"))


def test_training_in_memory_gives_the_same_network(dataset, workplace):
    train(quick(dataset, target_transform="log1p"))
    how = regional(dataset, members=2, validate_on="folds", **STAND)
    train(how)
    there = load_checkpoint("model/r.pth")
    start = load_checkpoint("model/pretrain_model/g.pth")
    here = train_in_memory(start, read_dataset(dataset), how)
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.named_parameters())
    assert here.calibration == there.calibration
    assert here.specification == there.specification


# --- importance and applicability ---------------------------------------------------------------------------------------


def test_importance_is_what_shuffling_costs():
    categories = (Category(name="a", variables=("used", "weak", "idle")),)
    statistics = {name: (0.0, 1.0) for name in categories[0].variables}
    network = SoilCarbonNet(Specification(categories=categories, statistics=statistics)).eval()
    network.initialise(3)
    with torch.no_grad():
        network.features_a[0].weight *= torch.tensor([3.0, 0.3, 0.0])[None, :, None, None]
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    y = predict(network, x)[0]
    found = shuffled_importance(network, x, y, seed=1)
    assert found["idle"] == 0
    assert found["used"] > 5 * found["weak"] > 0
    shuffled = x.copy()
    shuffled[:, 0] = x[np.random.default_rng(1).permutation(400), 0]
    assert found["used"] == pytest.approx(np.mean((predict(network, shuffled)[0] - y) ** 2))


def test_training_learns_where_the_network_may_be_used(tmp_path, workplace):
    folder = make_dataset(tmp_path / "data", n=200)
    assert run(lambda: train_global.main(["--data_dir", str(folder), "--run", "g", "--epochs", "20", "--no-tensorboard"])) == 0
    network = load_checkpoint("model/pretrain_model/g.pth")
    area = network.applicability
    assert area.profiles == 120
    assert len(area.mean) == 32
    at = {name: k for k, name in enumerate(name for category in PUBLISHED_CATEGORIES for name in category.variables)}
    assert np.mean([area.weights[at[name]] for name in ("band1", "band2", "band3")]) > 2  # what SOC was made of; the mean is 1
    middle = np.array(area.mean)
    assert area.inside(middle[None]).all()
    assert not area.inside((middle + 20 * np.array(area.std))[None]).any()


# --- scale of the output ------------------------------------------------------------------------------------------------


def test_an_untrained_network_predicts_about_the_mean_of_the_training_targets(dataset, workplace):
    y = read_dataset(dataset).y
    train(quick(dataset, epochs=1, target_transform="none"))
    train(quick(dataset, epochs=1, run="p", published=True))
    ours, published = (epochs_of(f"log/{run}")[0]["valid"]["rmse"] for run in "gp")
    assert ours < 1.2 * y.std()
    assert published == pytest.approx(np.sqrt(np.mean(y**2)), rel=0.2)  # it starts near 0
    specifications = [load_checkpoint(f"model/pretrain_model/{run}.pth").specification for run in "gp"]
    assert [each.output_scale == (0.0, 1.0) for each in specifications] == [False, True]


@pytest.mark.parametrize(("exponent", "transform"), [(1.0, "none"), (8.0, "log1p")])
def test_skewed_targets_are_learnt_as_logarithms(tmp_path, workplace, exponent, transform):
    folder = make_dataset(tmp_path / "data", n=200)
    table = pd.read_csv(folder / "samples.csv")
    table["soc"] = 10 * np.random.default_rng(0).uniform(0.1, 1, len(table)) ** exponent
    table.to_csv(folder / "samples.csv", index=False)
    train(quick(folder, epochs=1))
    assert load_checkpoint("model/pretrain_model/g.pth").specification.target_transform == transform


def test_fine_tuning_keeps_the_scale_unless_the_target_is_another(dataset, workplace):
    train(quick(dataset, epochs=5))
    world = load_checkpoint("model/pretrain_model/g.pth").specification
    train(regional(dataset))
    assert load_checkpoint("model/r.pth").specification.output_scale == world.output_scale
    table = pd.read_csv(dataset / "samples.csv")
    table.assign(stock=table["soc"] / 3).to_csv(dataset / "samples.csv", index=False)
    train(regional(dataset, target="stock"))
    assert load_checkpoint("model/r.pth").specification.output_scale[0] < world.output_scale[0]


def test_a_diverged_networks_smearing_factor_stays_above_0_and_finite():
    profiles = [ensemble.Profiles(torch.zeros(3, 1), torch.zeros(3), np.zeros(3))]
    for output in (1e6, -1e6):
        assert 0 < loop.smearing_factor([torch.full((3,), output)], profiles, 1.0) < 1e14
