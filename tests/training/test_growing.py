"""Fine-tuning on a dataset with categories of its own: the checkpoint grows, says so, and resumes to the bit."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PUBLISHED_WEIGHTS, make_dataset, needs_published_weights, slow_but
from training_runs import STAND, quick, regional, same, stop_then_resume, train, weights

from soilcarbon.categories import Category, column_slices
from soilcarbon.io.files import UserError, sha256
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.training import distillation

pytestmark = pytest.mark.usefixtures("small_learners", "light_maps")

WORLD = (
    Category(name="climate", variables=("mat", "map", "sun")),
    Category(name="topo", variables=("elevation", "slope"), radius=1),
)
RADAR = Category(name="radar", variables=("vv", "vh"), radius=2)
ROCK = Category(name="rock", variables=("litho",), kind="classes")
OWN = (RADAR, *WORLD, ROCK)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The checkpoint of a network of the world's categories."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_dataset(folder / "world", n=200, seed=1, categories=WORLD)
        train(quick(folder / "world", members=2, epochs=5, target_transform="log1p"))
    return folder / "model"


@pytest.fixture
def world(pretrained, tmp_path, workplace):
    shutil.copytree(pretrained, workplace / "model")
    return make_dataset(tmp_path / "world", n=200, seed=1, categories=WORLD)


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
    before, after = ([member.tensors()["features_topo.0.weight"] for member in net.members()] for net in (start, grown))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_it_learns_from_what_only_the_region_has_and_can_be_fine_tuned_again(world, region):
    # the simulated target depends on the first three variables of OWN: vv, vh, mat
    alone = train(regional(region, categories=WORLD, epochs=25, lr=3e-3))
    grown = train(regional(region, epochs=25, lr=3e-3))
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


@pytest.mark.parametrize(
    ("stop_at", "freeze"),
    slow_but([((0, 2), "none"), ((1, 1), "features"), ((1, 3), "all-but-head")], ((1, 1), "features")),
)
def test_a_stopped_growing_run_resumes_to_the_same_bits(world, region, monkeypatch, stop_at, freeze):
    how = {"epochs": 4, "lr": 0.01, "members": 2, "freeze": freeze, **STAND}
    whole, cut = stop_then_resume(monkeypatch, partial(regional, region, **how), stop_at, "model")
    assert same(whole, cut)


def test_a_grown_network_learns_from_a_teacher_and_from_profiles_without_its_variables(world, region, monkeypatch, caplog):
    monkeypatch.setattr(distillation, "TREES", 10)
    monkeypatch.setattr(distillation, "WORLD_TREES", 10)
    monkeypatch.setattr(distillation, "MIXED", 300)
    seen = []
    mix = distillation.mix_profiles
    monkeypatch.setattr(distillation, "mix_profiles", lambda *each: seen.append((*each, mix(*each))) or seen[-1][-1])
    how = {"teacher": "ensemble", "members": 2, "epochs": 2, **STAND}
    with caplog.at_level("INFO"):
        train(regional(region, global_data=world, **how))
    assert "the world's profiles have no radar, rock: taken as their means there" in caplog.text
    net = load_checkpoint("model/r.pth")
    assert net.calibration is not None
    columns = column_slices(net.specification.categories)
    own = np.concatenate([np.r_[columns[name]] for name in ("radar", "rock")])
    ours, theirs, *_, made = seen[0]
    assert np.isnan(theirs[:, own]).all() and np.isfinite(np.delete(theirs, own, 1)).any(0).all()
    assert np.isfinite(made).all()
    assert np.isin(made[:, own[-1]], ours[:, own[-1]]).all()  # a class is one of the region's


def test_mixtures_with_the_world_keep_the_regions_own_variables():
    region = np.arange(10, dtype=np.float32)[:, None] * [1, 100] + 1
    world = np.stack([np.full(5, 50.0), np.full(5, np.nan)], 1).astype(np.float32)
    made = distillation.mix_profiles(region, world, np.arange(2), np.zeros(2, bool), 0, 2000)
    assert not np.isnan(made).any()
    assert made[:, 1].max() < 901.1 and made[:, 0].max() > 20  # the first variable is mixed with the world's


def test_the_nearest_profiles_of_the_world_are_found_by_the_variables_that_it_has():
    region, world = np.array([[0.0, 9.0], [5.0, 0.0]]), np.array([[4.0, 0.0], [0.5, 0.0], [2.0, 0.0]])
    assert distillation.nearest_profiles(region, world).tolist() == [1, 0, 2]  # by both columns 0 would be first


@needs_published_weights
def test_the_published_weights_grow_with_supplied_statistics(tmp_path, workplace):
    published = load_checkpoint(PUBLISHED_WEIGHTS)
    folder = make_dataset(tmp_path / "data", side=5, categories=(*published.specification.categories, RADAR))
    train(regional(folder, init_from=PUBLISHED_WEIGHTS, lr=1e-12, epochs=1, clip_inputs=0, **STAND))
    net = load_checkpoint("model/r.pth")
    x = read_dataset(folder, net.specification.categories).x
    published.respecify(statistics=net.specification.statistics, bounds=net.specification.bounds)
    np.testing.assert_allclose(predict(net, x)[0], predict(published, x[:, :32])[0], rtol=1e-5)
