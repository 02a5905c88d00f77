"""The network slid over a raster against the same network patch by patch."""

import numpy as np
import pytest
import torch
from torch import nn

from soilcarbon.categories import Category
from soilcarbon.mapping import network as sliding
from soilcarbon.mapping.network import SlidingNetwork
from soilcarbon.network.network import MaxPool, Member, SoilCarbonNet, predict
from soilcarbon.network.specification import Specification

MIXED = (
    Category(name="climate", variables=("bio01", "bio12")),
    Category(name="relief", variables=("elevation", "slope", "tpi"), radius=3),
    Category(name="plants", variables=("evi",), radius=1),
    Category(name="rock", variables=("bedrock", "cover"), radius=2, kind="classes"),
)
PLAIN = tuple(category.model_copy(update={"radius": 0, "kind": "numeric"}) for category in MIXED)
NAMES = [name for category in MIXED for name in category.variables]


def make_network(categories=MIXED, **facts):
    facts = {"statistics": {name: (5.0 + k, 2.0 + k) for k, name in enumerate(NAMES)}, **facts}
    if any(category.kind == "classes" for category in categories):
        facts["classes"] = {"bedrock": (1, 2, 5), "cover": (3, 4)}
    network = SoilCarbonNet(Specification(categories=categories, **facts))
    for k, member in enumerate(network.members()):
        member.initialise(k)
    return network.eval()


def make_block(height, width, halo, missing=0.1, seed=0):
    random = np.random.default_rng(seed)
    block = random.normal(5, 4, (len(NAMES), height + 2 * halo, width + 2 * halo)).astype(np.float32)
    block[-2:] = random.integers(1, 6, block[-2:].shape)
    block[random.random(block.shape) < missing] = np.nan
    return block


def patch_by_patch(network, block):
    """Predict every cell as pred.py does: from its own windows. Return (M, h, w)."""
    categories = network.specification.categories
    halo = max(category.radius for category in categories)
    height, width = (side - 2 * halo for side in block.shape[1:])
    rows, cols = (axis.ravel() + halo for axis in np.mgrid[:height, :width])
    packed = []
    for category in categories:
        r = category.radius
        for name in category.variables:
            layer = block[NAMES.index(name)]
            packed += [layer[rows + i, cols + j] for i in range(-r, r + 1) for j in range(-r, r + 1)]
    return predict(network, np.stack(packed, axis=1))[1].reshape(-1, height, width)


@pytest.mark.parametrize("missing", ["mean", "zero"])
@pytest.mark.parametrize("categories", [PLAIN, MIXED])
def test_sliding_gives_what_patches_give(categories, missing):
    network = make_network(categories, missing=missing, clip_inputs=1.5, members=2)
    slid = SlidingNetwork(network)
    block = make_block(23, 37, slid.halo)
    np.testing.assert_allclose(slid.predict(block), patch_by_patch(network, block), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("categories", [PLAIN, MIXED])
def test_the_layers_of_the_package_are_multiplied_out(categories, monkeypatch):
    slid = SlidingNetwork(make_network(categories, members=2))
    monkeypatch.delattr(Member, "fused")
    assert np.isfinite(slid.predict(make_block(5, 5, slid.halo))).all()


class Residual(nn.Module):
    """A layer that the package does not have."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))

    def forward(self, x):
        return x + self.inner(x)


@pytest.mark.parametrize(("part", "layer"), [("features_climate", Residual()), ("features_merge", nn.Tanh())])
@pytest.mark.parametrize("categories", [PLAIN, MIXED])
def test_a_further_layer_acts_at_profiles_and_on_maps(categories, part, layer):
    network = make_network(categories, members=2)
    block = make_block(9, 11, max(each.radius for each in categories))
    before = patch_by_patch(network, block)
    network.get_submodule(part).append(layer)  # of one member
    slid = SlidingNetwork(network.eval()).predict(block)
    np.testing.assert_allclose(slid, patch_by_patch(network, block), rtol=1e-5, atol=1e-5)
    assert np.abs(slid[0] - before[0]).mean() > 0.01
    np.testing.assert_allclose(slid[1], before[1], rtol=1e-5, atol=1e-5)


def test_every_member_keeps_its_own_smearing_and_the_bounds():
    network = make_network(MIXED, target_transform="log1p", members=2, smearing=(1.0, 3.0), bounds=(0.0, 1.2))
    slid = SlidingNetwork(network)
    block = make_block(9, 9, slid.halo)
    predicted = slid.predict(block)
    np.testing.assert_allclose(predicted, patch_by_patch(network, block), rtol=1e-5, atol=1e-5)
    assert predicted[1].max() == np.float32(1.2)


def test_a_median_is_without_the_factors_also_when_slid():
    facts = {"target_transform": "log1p", "members": 2, "smearing": (1.5, 3.0)}
    median, mean = (make_network(MIXED, center=center, **facts) for center in ("median", "mean"))
    slid = SlidingNetwork(median)
    block = make_block(9, 9, slid.halo)
    predicted = slid.predict(block)
    np.testing.assert_allclose(predicted, patch_by_patch(median, block), rtol=1e-5, atol=1e-5)
    factors = np.array([1.5, 3.0], np.float32)[:, None, None]
    np.testing.assert_allclose(SlidingNetwork(mean).predict(block) + 1, (predicted + 1) * factors, rtol=1e-4)


@pytest.mark.parametrize("categories", [PLAIN, MIXED])
def test_only_wanted_cells_are_predicted_and_to_the_same_values(categories):
    slid = SlidingNetwork(make_network(categories))
    block, wanted = make_block(80, 50, slid.halo), np.random.default_rng(1).random((80, 50)) < 0.3
    wanted[20:60] = False
    whole, part = slid.predict(block), slid.predict(block, wanted)
    np.testing.assert_array_equal(np.isnan(part[0]), ~wanted)
    np.testing.assert_allclose(part[0][wanted], whole[0][wanted], rtol=1e-5)


def test_parts_of_a_block_give_what_the_whole_gives(monkeypatch):
    slid = SlidingNetwork(make_network())
    block, halo = make_block(40, 30, slid.halo), slid.halo
    whole = slid.predict(block)
    monkeypatch.setitem(sliding.CELLS_AT_ONCE, "cpu", 7)
    for rows, cols in ((slice(0, 13), slice(0, 30)), (slice(13, 40), slice(11, 12)), (slice(39, 40), slice(29, 30))):
        part = block[:, rows.start : rows.stop + 2 * halo, cols.start : cols.stop + 2 * halo]
        np.testing.assert_allclose(slid.predict(part), whole[:, rows, cols], rtol=1e-5, atol=1e-6)


def test_no_wanted_cell_is_no_work():
    slid = SlidingNetwork(make_network())
    assert np.isnan(slid.predict(make_block(4, 4, slid.halo), np.zeros((4, 4), bool))).all()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_max_pool_is_torchs(step):
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(step), requires_grad=True)
    weight = torch.randn(2, 3, 9 - step, 8 - step, generator=torch.Generator().manual_seed(9))
    ours, theirs = MaxPool(step)(x), nn.MaxPool2d(2, stride=1, dilation=step)(x)
    assert torch.equal(ours, theirs)
    ours_grad, theirs_grad = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs))
    torch.testing.assert_close(ours_grad, theirs_grad)
