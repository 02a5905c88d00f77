"""soilcarbon fit --init_from: networks that start from a pretrained one, which gains the dataset's own categories."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PUBLISHED_WEIGHTS, make_dataset, needs_published_weights, slow_but
from training_runs import quick, train

from soilcarbon.categories import Category, packed_width
from soilcarbon.commands import fit
from soilcarbon.io.files import UserError, run
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.regression.fit import fit_model, samples_of
from soilcarbon.regression.learners import Task, fit_parts
from soilcarbon.regression.persistence import load_model
from soilcarbon.regression.selection import hold_out
from soilcarbon.regression.transfer import read_transfer
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.training import arrays, distillation, ensemble

pytestmark = pytest.mark.usefixtures("small_learners")

WORLD = (Category(name="climate", variables=("mat", "map", "sun")), Category(name="topo", variables=("elevation", "slope")))
RADAR = Category(name="radar", variables=("vv", "vh"), radius=1)
CHECKPOINT = Path("model/pretrain_model/g.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with datasets world (200 profiles, of which a network was pretrained) and region (100, with radar)."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_dataset(folder / "world", n=200, seed=1, categories=WORLD)
        make_dataset(folder / "region", n=100, categories=(*WORLD, RADAR))
        train(quick(folder / "world", members=2, epochs=30, target_transform="log1p"))
    return folder


@pytest.fixture
def small(folder, monkeypatch):
    """In that folder, with small ensembles and teachers."""
    monkeypatch.chdir(folder)
    for name, value in {"TREES": 10, "WORLD_TREES": 10, "MIXED": 300}.items():
        monkeypatch.setattr(distillation, name, value)
    monkeypatch.setitem(ensemble.TEACHER_NETWORK, "epochs", 1)
    monkeypatch.setitem(arrays._TAUGHT, "epochs", 1)
    monkeypatch.setitem(arrays._TUNED, "epochs", 1)


def transfer(**more):
    data, found = read_transfer(CHECKPOINT, Path("region"), None, ("train", "valid"), **more)
    return data, found


def task_of(data, found, **more):
    transform = found.network.specification.target_transform
    return Task(data.categories, "soc", 1.0, transform=transform, members=2, transfer=found, **more)


@pytest.mark.slow
def test_a_stack_of_a_grown_network_and_a_forest_is_written_and_read(small, capsys, caplog):
    caplog.set_level("INFO")
    arguments = ["--data_dir", "region", "--workers", "1", "--model", "stack", "--folds", "2"]
    assert run(lambda: fit.main([*arguments, "--init_from", str(CHECKPOINT), "--global_data", "world"])) == 0
    assert "global_data: the world's profiles have no radar: taken as their means there" in caplog.text
    assert "too good" not in caplog.text  # the datasets have no place in common
    model = load_model(Path("model/region.npz"))
    assert model.learner == "stack" and set(model.parts) == {"network", "trees"}
    network = model.parts["network"].network
    assert [each.name for each in network.specification.categories] == ["climate", "topo", "radar"]
    assert [each.name for each in network.record.growth[0].added] == ["radar"]
    data = read_dataset(Path("region"))
    X = np.column_stack([data.lon, data.lat, data.x])[:9]
    each = np.log1p(predict(network, data.x[:9])[0]), model.parts["trees"].predict(X)
    assert model.predict(X) == pytest.approx(np.expm1(np.mean(each, axis=0)), rel=1e-5)
    assert model.record.settings["init_from"] == str(CHECKPOINT)


def test_the_network_starts_from_the_pretrained_one(small, monkeypatch):
    monkeypatch.setitem(arrays._TUNED, "lr", 1e-12)
    data, found = transfer()
    parts, _ = fit_parts("network", samples_of(data), task_of(data, found))
    start = load_checkpoint(CHECKPOINT)
    start.respecify(center="median", bounds=parts["network"].network.specification.bounds)
    width = packed_width(WORLD)
    before = predict(start, np.ascontiguousarray(data.x[:, :width]))[0]
    assert np.expm1(parts["network"].predict(np.column_stack([data.lon, data.lat, data.x]))) == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("key", slow_but(["network", "taught"], "network"))
def test_targets_of_profiles_held_out_change_no_prediction_of_them(key, small):
    data, found = transfer(global_data=Path("world"))
    folds = spatial_groups(data.lon, data.lat, 5.0) % 2
    predicted = []
    for factor in (1, 3):
        y = np.where(folds == 1, factor * data.y, data.y)
        changed = replace(data, y=y, block_size=1.0)
        task = task_of(changed, found.outside(changed))
        predicted.append(hold_out(key, samples_of(changed), task, folds, 1))
    np.testing.assert_array_equal(*predicted)


def test_profiles_of_the_world_near_the_regions_are_not_taught_from(small):
    data, found = transfer(global_data=Path("world"))
    world = found.world
    kept = found.outside(replace(data, block_size=1.0)).world.split["train"]
    blocks = spatial_groups(data.lon, data.lat, 1.0)
    inside = np.isin(spatial_groups(world.lon, world.lat, 1.0), blocks)
    assert inside[world.split["train"]].any()
    assert sorted(kept) == [row for row in world.split["train"] if not inside[row]]
    with pytest.raises(UserError, match="every training profile lies in a place or block of this region"):
        found.outside(replace(data, block_size=90.0))


def test_fit_leaves_them_out_in_the_blocks_of_its_folds_and_of_the_test_split(small, monkeypatch):
    data, found = transfer(global_data=Path("world"))
    tasks = []

    def stop(_keys, _samples, task, *_):
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr("soilcarbon.regression.fit.cross_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_model(data, np.concatenate([data.split[name] for name in ("train", "valid")]), task_of(data, found))
    side, world, kept = tasks[0].block_size, found.world, tasks[0].transfer.world.split["train"]
    inside = np.isin(spatial_groups(world.lon, world.lat, side), spatial_groups(data.lon, data.lat, side))
    assert inside[world.split["train"]].any() and len(kept) and not inside[kept].any()


def test_profiles_that_pretraining_may_have_seen_are_counted(small, tmp_path, caplog):
    table = pd.read_csv("region/samples.csv")
    seen = pd.read_csv("world/samples.csv").iloc[[0, 1, 5]]  # of the training split
    table.loc[[0, 1, 4], ["lon", "lat"]] = seen[["lon", "lat"]].to_numpy()  # the fifth is of the region's test split
    other = tmp_path / "region"
    other.mkdir()
    for name in ("patches", "split", "stats.csv", "dataset.yaml"):
        (other / name).symlink_to(Path("region", name).resolve())
    table.to_csv(other / "samples.csv", index=False)
    read_transfer(CHECKPOINT, other, None, ("train", "valid"), global_data=Path("world"))
    assert "global_data: 2 of 80 profiles lie where a training profile of it does" in caplog.text
    caplog.clear()
    read_transfer(CHECKPOINT, other, None, ("train", "valid"))
    assert "--global_data, the dataset of its pretraining, tells" in caplog.text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--global_data", "world"], "global_data is for networks that are transferred: give --init_from, or drop it"),
        (["--init_from", str(CHECKPOINT), "--target", "clay"], "g.pth: predicts 'soc', not 'clay'; drop --init_from or --target"),
        (["--init_from", "none.pth"], "none.pth"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_line(more, words, small, capsys):
    assert run(lambda: fit.main(["--data_dir", "region", *more])) == 2
    assert words in capsys.readouterr().err


@needs_published_weights
def test_the_published_weights_take_the_datasets_statistics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(arrays._TUNED, "epochs", 1)
    make_dataset(tmp_path / "region", n=60, side=1)
    data, found = read_transfer(PUBLISHED_WEIGHTS, Path("region"), None, ("train", "valid"))
    parts, _ = fit_parts("network", samples_of(data), task_of(data, found))
    assert parts["network"].network.specification.statistics == found.network.specification.statistics
    assert np.isfinite(parts["network"].predict(np.column_stack([data.lon, data.lat, data.x]))).all()
