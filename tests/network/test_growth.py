"""A grown network predicts what the pretrained one does until it is trained, whatever the region lacks."""

import numpy as np
import pytest
import torch
from conftest import slow_but

from soilcarbon.categories import Category, variable_columns
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.growth import grow, grown_categories, plan_growth
from soilcarbon.network.network import Growth, Member, SoilCarbonNet, predict
from soilcarbon.network.specification import Specification
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.training.loop import Schedule, TrainingSets, encode_profiles, fit

CALIBRATION = ConformalCalibration.fit(np.arange(30.0), np.arange(30.0)[::-1].copy(), scale="log1p")
WORLD = (
    Category(name="climate", variables=("mat", "map", "sun"), radius=1),
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="cover", variables=("igbp", "koeppen"), kind="classes"),
)
FACTS = {
    "categories": WORLD,
    "statistics": {"mat": (10.0, 5.0), "map": (700.0, 300.0), "sun": (5.0, 1.0), "elevation": (300.0, 200.0), "slope": (4.0, 3.0)},
    "classes": {"igbp": (1, 2, 7), "koeppen": (3, 4)},
    "target_transform": "log1p",
    "output_scale": (2.5, 0.6),
    "bounds": (0.0, 500.0),
    "clip_inputs": 4.0,
}
LOCAL = {
    "cells": Category(name="radar", variables=("vv", "vh")),
    "windows": Category(name="radar", variables=("vv", "vh"), radius=3),
    "classes": Category(name="rock", variables=("litho",), kind="classes"),
}
STATISTICS = {"vv": (-10.0, 3.0), "vh": (-16.0, 4.0)}
CLASSES = {"litho": (1, 2, 3)}


def pretrained(members=2, **facts):
    made = SoilCarbonNet(Specification(**FACTS | {"members": members} | facts))
    for k, member in enumerate(made.members()):
        member.initialise(k + 1)
    if made.specification.target_transform == "log1p":
        made.respecify(smearing=tuple(1.1 + 0.1 * k for k in range(members)))
    made.calibration = CALIBRATION
    return made.eval()


def covariates(categories, n=40, seed=0):
    """Raw covariates, a tenth of them missing."""
    random = np.random.default_rng(seed)
    x = np.empty((n, sum(each.width for each in categories)), np.float32)
    means = FACTS["statistics"] | STATISTICS
    for name, columns in variable_columns(categories).items():
        mean, std = means.get(name, (0.0, 1.0))
        shape = (n, columns.stop - columns.start)
        coded = name in FACTS["classes"] | CLASSES
        x[:, columns] = random.integers(1, 6, shape) if coded else mean + std * random.normal(size=shape)
    x[random.random(x.shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("added", [["cells"], ["windows"], ["classes"], ["windows", "classes"]], ids=" ".join)
def test_before_training_it_predicts_what_the_pretrained_network_does(added, members, tmp_path):
    net, new = pretrained(members), tuple(LOCAL[name] for name in added)
    growth = plan_growth([*new, *WORLD], WORLD)
    assert growth == Growth(added=new)
    grown = grow(net, growth, STATISTICS, CLASSES, seed=5)
    assert grown.specification.categories == (*WORLD, *new)
    x = covariates(grown.specification.categories)
    before, after = predict(net, x[:, : sum(each.width for each in WORLD)]), predict(grown, x)
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(grown.calibration.interval(after[0], 0.9), net.calibration.interval(before[0], 0.9), rtol=1e-6)
    save_checkpoint(grown, tmp_path / "grown.pth")
    again = load_checkpoint(tmp_path / "grown.pth")
    np.testing.assert_array_equal(predict(again, x)[1], after[1])
    assert again.record.growth == (growth,)
    assert again.new == ()


@pytest.mark.parametrize("missing", ["mean", "zero"])
@pytest.mark.parametrize(
    "lacking",
    [("map",), ("mat", "sun", "slope"), ("igbp",), ("elevation", "slope"), ("mat", "map", "sun"), ("igbp", "koeppen")],
    ids=" ".join,
)
def test_what_the_region_lacks_is_taken_as_its_mean(lacking, missing):
    net = pretrained(missing=missing)
    own = grown_categories(WORLD, Growth(filled=lacking))
    growth = plan_growth([*own, LOCAL["windows"]], WORLD)
    assert growth == Growth(added=(LOCAL["windows"],), filled=lacking)
    grown = grow(net, growth, STATISTICS)
    x, columns = covariates(WORLD), variable_columns(WORLD)
    for name in lacking:
        x[:, columns[name]] = FACTS["statistics"].get(name, (np.nan,))[0]  # of classes: none of them
    chosen = [x[:, columns[name]] for each in own for name in each.variables]
    local = covariates([LOCAL["windows"]], seed=1)
    np.testing.assert_allclose(predict(grown, np.concatenate([*chosen, local], 1))[1], predict(net, x)[1], rtol=1e-6)
    assert grown.calibration is None
    assert not set(lacking) & {*grown.specification.statistics, *grown.specification.classes}


OTHER = Category(name="topo", variables=("elevation", "curvature"))


@pytest.mark.parametrize(
    ("wanted", "most", "message"),
    [
        ([*WORLD[:1], OTHER], 0.5, "category 'topo': variable 'curvature' is not one of the checkpoint's"),
        ([*WORLD[:2], Category(name="c", variables=("igbp",))], 0.5, "'igbp' is of kind numeric here, classes in"),
        ([LOCAL["cells"]], 0.9, r"7 of the checkpoint's 7 variables are not in the dataset \(mat, map, sun, elevation"),
        (WORLD[:1], 0.5, "4 of the checkpoint's 7 variables .* more than the share of 0.5"),
        ([Category(name="topo", variables=("slope", "elevation")), WORLD[0]], 0.5, "variable 1 is 'slope' here, 'elevation' there"),
        ([*WORLD[1:], Category(name="climate", variables=("mat", "map", "sun"))], 0.5, "'climate' .* radius 0, numeric. here"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_checkpoint_is_refused(wanted, most, message):
    with pytest.raises(UserError, match=message):
        plan_growth(wanted, WORLD, most)


def test_a_dataset_is_read_by_name_so_order_and_wider_windows_do_no_harm():
    table = [
        Category(name="topo", variables=("slope", "elevation"), radius=4),
        Category(name="all", variables=("map", "vv", "sun")),
    ]
    found = plan_growth([*table, WORLD[2]], WORLD, as_listed=False)
    assert found == Growth(added=(Category(name="all", variables=("vv",)),), filled=("mat",))


# --- training ---------------------------------------------------------------------------------------------------------


def trained(freeze="none", epochs=3, **how):
    """Return the tensors of a grown network before and after fine-tuning, and its names of new weights."""
    net = grow(pretrained(1), Growth(added=(LOCAL["windows"],)), STATISTICS)
    x = covariates(net.specification.categories, n=60)
    facts = net.specification.changed(smearing=None)
    y = np.exp(2.5 + 0.5 * np.tanh(x[:, -25].clip(-20, 0) / 10)).astype(np.float64)
    y[~np.isfinite(y)] = 12.0
    profiles = encode_profiles(facts, x, y, torch.device("cpu"))
    sets = TrainingSets(profiles, profiles, profiles, facts)
    before, member = net.copy_of_tensors(), Member(facts)
    member.load_state_dict(before)
    torch.manual_seed(0)
    schedule = Schedule(epochs, lr=1e-3, freeze=freeze, select_on="none", keep_initial=True, new=net.new, **how)
    return before, fit(member, sets, schedule).weights


@pytest.mark.parametrize("freeze", slow_but(["none", "features", "all-but-head"], "features"))
def test_new_branches_are_trained_whatever_is_frozen(freeze):
    before, after = trained(freeze)
    changed = {name: before[name] != after[name] for name in before}
    fusion = changed.pop("features_merge.0.weight")
    assert fusion[:, 96:].any()
    assert all(changed[f"features_radar.{k}.weight"].any() for k in (0, 3))
    assert bool(fusion[:, :96].any()) is (freeze == "none")
    frozen = {"none": (), "features": ("features_",), "all-but-head": ("features_", "classifier")}[freeze]
    for name, different in changed.items():
        if "radar" not in name:
            assert bool(different.any()) is not name.startswith(frozen or ("nothing",)), name


def test_the_new_columns_of_the_fusion_layer_move_at_the_first_step_and_the_branch_at_the_second():
    for steps, branch_moves in ((1, False), (2, True)):
        before, after = trained(epochs=steps, batch_size=60)
        assert (after["features_merge.0.weight"][:, 96:] != 0).any()
        assert torch.equal(before["features_radar.0.weight"], after["features_radar.0.weight"]) is not branch_moves


def test_a_penalty_towards_pretrained_weights_does_not_pull_new_branches():
    plain, pulled = trained(l2_sp=1e-9)[1], trained(l2_sp=1e3)[1]
    before = trained(epochs=1)[0]

    def moved(weights, name):
        return float((weights[name] - before[name])[:, -32:].abs().mean())

    assert moved(pulled, "classifier.0.weight") < 0.6 * moved(plain, "classifier.0.weight")
    assert moved(pulled, "features_merge.0.weight") > 0.8 * moved(plain, "features_merge.0.weight")
    assert (pulled["features_merge.0.weight"] - before["features_merge.0.weight"])[:, :96].abs().mean() < 0.6 * moved(
        pulled, "features_merge.0.weight"
    )


def test_new_branches_may_have_a_learning_rate_of_their_own():
    before, once = trained(epochs=1, batch_size=60, l2_sp=1e-12)
    fast = trained(epochs=1, batch_size=60, new_rate=10.0)[1]
    name = "features_merge.0.weight"
    torch.testing.assert_close(fast[name][:, 96:], 10 * once[name][:, 96:], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(fast[name][:, :96], once[name][:, :96])
    torch.testing.assert_close(fast["classifier.0.weight"], once["classifier.0.weight"])
