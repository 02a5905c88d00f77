"""Fine-tuning on a dataset with categories of its own: the checkpoint grows, says so, and resumes to the bit."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PUBLISHED_WEIGHTS, make_dataset, needs_published_weights
from training_runs import STAND, quick, regional, same, stop_then_resume, train, weights

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError, sha256
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.training import distillation

WORLD = (
    Category(name="climate", variables=("mat", "map", "sun")),
    Category(name="topo", variables=("elevation", "slope"), radius=1),
)
RADAR = Category(name="radar", variables=("vv", "vh"), radius=2)
ROCK = Category(name="rock", variables=("litho",), kind="classes")
OWN = (RADAR, *WORLD, ROCK)


@pytest.fixture
def world(tmp_path, workplace):
    folder = make_dataset(tmp_path / "world", n=200, seed=1, categories=WORLD)
    train(quick(folder, members=2, epochs=5, target_transform="log1p"))
    return folder


@pytest.fixture
def region(tmp_path):
    return make_dataset(tmp_path / "region", n=150, side=5, categories=OWN)


def test_a_dataset_with_further_categories_grows_the_checkpoint(world, region, caplog):
    caplog.set_level("INFO")
    train(regional(region, lr=1e-12, epochs=1, **STAND))
    start, grown = load_checkpoint("model/pretrain_model/g.pth"), load_checkpoint("model/r.pth")
    assert grown.specification.categories == (*WORLD, RADAR, ROCK)
    assert "grown: new category radar (radius 2, numeric): vv, vh" in caplog.text
    step = grown.record.growth[0]
    assert (step.checkpoint, step.sha256) == ("g.pth", sha256(Path("model/pretrain_model/g.pth")))
    assert (step.added, step.filled) == ((RADAR, ROCK), ())
    old, new = read_dataset(region, WORLD), read_dataset(region, grown.specification.categories)
    outputs = [net.member_outputs(net.encode(torch.from_numpy(data.x))) for net, data in ((start, old), (grown, new))]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    train_rows = new.x[new.split["train"]][:, -26:-1]
    mean, std = grown.specification.statistics["vh"]
    assert (mean, std) == pytest.approx((train_rows.mean(), train_rows.std()), rel=1e-5)
    assert grown.specification.classes == {"litho": (1, 2, 3, 4)}
    first = "features_radar.0.weight"
    assert not torch.equal(*(member.tensors()[first] for member in grown.members()))
    assert all(torch.equal(a.tensors()["features_topo.0.weight"], b.tensors()["features_topo.0.weight"])
               or torch.allclose(a.tensors()["features_topo.0.weight"], b.tensors()["features_topo.0.weight"], atol=1e-9)
               for a, b in zip(start.members(), grown.members(), strict=True))  # fmt: skip


def test_it_learns_from_what_only_the_region_has_and_can_be_fine_tuned_again(world, region):
    # the simulated target depends on the first three variables of OWN: vv, vh, mat
    alone = train(regional(region, categories=WORLD, epochs=40, lr=2e-3))
    grown = train(regional(region, epochs=40, lr=2e-3))
    assert grown["test"]["rmse"] < 0.8 * alone["test"]["rmse"]
    train(regional(region, run="again", init_from=Path("model/r.pth"), freeze="features", epochs=2, **STAND))
    net = load_checkpoint("model/again.pth")
    assert net.record.growth == load_checkpoint("model/r.pth").record.growth
    before, after = weights("model/r.pth"), weights("model/again.pth")
    assert torch.equal(before["features_radar.0.weight"], after["features_radar.0.weight"])  # no longer new


def lacking(folder, *names):
    kept = [(each, tuple(v for v in each.variables if v not in names)) for each in OWN]
    return make_dataset(
        folder, n=150, side=5, categories=tuple(each.model_copy(update={"variables": left}) for each, left in kept if left)
    )


def test_variables_that_the_region_lacks_are_named_and_refused_beyond_the_share(world, tmp_path, caplog):
    folder = lacking(tmp_path / "lacking", "map", "slope", "elevation")
    with pytest.raises(UserError, match=r"g.pth: 3 of the checkpoint's 5 variables .*\(map, elevation, slope\).*share of 0.5"):
        train(regional(folder))
    assert not Path("model/r.pth").exists()
    train(regional(folder, max_filled=0.6))
    assert "3 of the checkpoint's 5 variables are not in the dataset, and are taken as their means: map, elevation" in caplog.text
    net = load_checkpoint("model/r.pth")
    assert net.record.growth[0].filled == ("map", "elevation", "slope")
    assert [each.name for each in net.specification.categories] == ["climate", "radar", "rock"]
    assert np.isfinite(predict(net, read_dataset(folder, net.specification.categories).x)[0]).all()


def test_a_category_of_the_world_with_another_variable_and_a_constant_new_one_are_refused(world, tmp_path):
    other = (WORLD[0].model_copy(update={"variables": ("mat", "map", "wind")}), WORLD[1])
    folder = make_dataset(tmp_path / "other", categories=other)
    with pytest.raises(UserError, match="category 'climate': variable 'wind' is not one of the checkpoint's there"):
        train(regional(folder))
    folder = make_dataset(tmp_path / "constant", side=5, categories=OWN)
    path = folder / "patches/vh.pkl"
    dump_pickle(path, {key: np.full_like(patch, 3) for key, patch in load_pickle(path).items()})
    with pytest.raises(UserError, match="'vh' is constant"):
        train(regional(folder))


@pytest.mark.parametrize(("stop_at", "freeze"), [((0, 2), "none"), ((1, 1), "features"), ((1, 3), "all-but-head")])
def test_a_stopped_growing_run_resumes_to_the_same_bits(world, region, monkeypatch, stop_at, freeze):
    how = {"epochs": 4, "lr": 0.01, "members": 2, "freeze": freeze, **STAND}
    whole, cut = stop_then_resume(monkeypatch, partial(regional, region, **how), stop_at, "model")
    assert same(whole, cut)


def test_a_grown_network_learns_from_a_teacher_but_not_from_profiles_without_its_variables(world, region, monkeypatch):
    monkeypatch.setattr(distillation, "TREES", 10)
    monkeypatch.setattr(distillation, "MIXED", 300)
    how = {"teacher": "ensemble", "members": 2, "epochs": 2, **STAND}
    train(regional(region, **how))
    assert load_checkpoint("model/r.pth").calibration is not None
    with pytest.raises(UserError, match="the world's profiles have no radar, rock"):
        train(regional(region, run="s", global_data=world, **how))


@needs_published_weights
def test_the_published_weights_grow_with_supplied_statistics(tmp_path, workplace):
    published = load_checkpoint(PUBLISHED_WEIGHTS)
    folder = make_dataset(tmp_path / "data", side=5, categories=(*published.specification.categories, RADAR))
    train(regional(folder, init_from=PUBLISHED_WEIGHTS, lr=1e-12, epochs=1, clip_inputs=0, **STAND))
    net = load_checkpoint("model/r.pth")
    x = read_dataset(folder, net.specification.categories).x
    published.respecify(statistics=net.specification.statistics, bounds=net.specification.bounds)
    np.testing.assert_allclose(predict(net, x)[0], predict(published, x[:, :32])[0], rtol=1e-5)
