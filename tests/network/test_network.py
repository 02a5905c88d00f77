"""The network: the published one to the last digit, windows that slide, preprocessing, and strict checkpoints."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PUBLISHED_WEIGHTS, needs_published_weights
from torch import nn

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import Member, Record, SoilCarbonNet, as_means, dilations, predict, to_target
from soilcarbon.network.specification import Specification, difference
from soilcarbon.stats.conformal import ConformalCalibration

PUBLISHED_SHAPES = {
    "features_band.0": (32, 7, 1, 1),
    "features_topo.0": (32, 2, 1, 1),
    "features_climate.0": (32, 19, 1, 1),
    "features_vege.0": (32, 3, 1, 1),
    "features_bedrock.0": (32, 1, 1, 1),
    "features_merge.0": (128, 160, 1, 1),
    "classifier.0": (256, 128),
    "classifier.3": (128, 256),
    "final_regressor.0": (1, 128),
}
CALIBRATION = ConformalCalibration.fit(np.arange(30.0), np.arange(30.0)[::-1].copy(), scale="log1p")
STATISTICS = {name: (2.0 * k, 1.0 + k) for k, name in enumerate(v for c in PUBLISHED_CATEGORIES for v in c.variables)}


def network(seed=1, **facts):
    made = SoilCarbonNet(Specification(**facts))
    for k, member in enumerate(made.members()):
        member.initialise(seed + k)
    return made.eval()


def by_hand(state, x):
    """The published network written out for one cell per variable, in float64."""
    state = {name: value.double() for name, value in state.items() if isinstance(value, torch.Tensor)}
    maps, start = [], 0
    for name, (_, channels, *_) in list(PUBLISHED_SHAPES.items())[:5]:
        maps.append(x[:, start : start + channels] @ state[f"{name}.weight"][:, :, 0, 0].T + state[f"{name}.bias"])
        start += channels
    h = torch.cat(maps, 1) @ state["features_merge.0.weight"][:, :, 0, 0].T + state["features_merge.0.bias"]
    for name in ("classifier.0", "classifier.3"):
        h = torch.relu(h @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    return (h @ state["final_regressor.0.weight"].T + state["final_regressor.0.bias"])[:, 0]


def test_radius_0_is_the_published_network_tensor_by_tensor():
    state = network().state_dict()
    assert {name: tuple(state[f"{name}.weight"].shape) for name in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    assert set(state) == {f"{name}.{part}" for name in PUBLISHED_SHAPES for part in ("weight", "bias")} | {"_extra_state"}
    assert sum(parameter.numel() for parameter in network().parameters()) == 87_841


def test_radius_0_computes_the_published_function():
    net, x = network(), torch.randn(50, 32)
    torch.testing.assert_close(net(x).double(), by_hand(net.state_dict(), x.double()), rtol=1e-5, atol=1e-5)


@needs_published_weights
@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(32), 22.411198),
        (torch.ones(32), 12.808447),
        (-torch.ones(32), 17.005250),
        ((torch.arange(32) - 15.5) / 16, 28.163348),
    ],
    ids=["zeros", "ones", "minus ones", "ramp"],
)
def test_published_weights_give_their_golden_values_on_cpu(x, expected):
    assert load_checkpoint(PUBLISHED_WEIGHTS)(x[None]).item() == pytest.approx(expected, abs=2e-5)


def test_linear_layers_start_as_published_and_all_layers_follow_the_seed():
    first, again, other = network(seed=5), network(seed=5), network(seed=6)
    for name in ("classifier.0", "classifier.3", "final_regressor.0"):
        layer = first.get_submodule(name)
        bound = np.sqrt(6 / sum(layer.weight.shape))
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.9 * bound
        assert (layer.bias == 0.01).all()
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])
        assert name.endswith("bias") or not torch.equal(value, other.tensors()[name])


@pytest.mark.parametrize("radius", range(1, 12))
def test_dilations_use_up_the_radius_without_gaps(radius):
    steps = dilations(radius)
    assert sum(steps) == radius
    assert all(step <= 1 + 2 * sum(steps[:k]) for k, step in enumerate(steps))


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_a_branch_slides_over_a_raster_and_gives_the_same_as_window_by_window(radius):
    category = Category(name="relief", variables=("a", "b"), radius=radius)
    net = network(categories=(category,))
    raster = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        dense = net.features_relief(raster)[0]
        size = category.size
        for row, column in ((0, 0), (3, 1), (16 - size, 16 - size)):
            window = raster[:, :, row : row + size, column : column + size]
            torch.testing.assert_close(dense[:, row, column], net.features_relief(window)[0, :, 0, 0])


@pytest.mark.parametrize("radius", [1, 3])
def test_every_cell_of_a_window_matters_and_no_other(radius):
    category = Category(name="relief", variables=("a",), radius=radius)
    net = network(categories=(category,))
    x = torch.randn(64, category.width, requires_grad=True)
    net(x).sum().backward()
    assert (x.grad.abs().sum(0) > 0).all()


# --- encoding -----------------------------------------------------------------------------------------------------------

ONE = (Category(name="a", variables=("x", "y")),)


def test_inputs_are_standardised_with_the_variables_own_statistics():
    net = network(categories=ONE, statistics={"x": (10.0, 2.0), "y": (-1.0, 0.5)})
    torch.testing.assert_close(net.encode(torch.tensor([[14.0, -1.0], [10.0, 0.0]])), torch.tensor([[2.0, 0.0], [0.0, 2.0]]))


def test_missing_cells_become_the_mean_or_zero_in_raw_units():
    facts = {"categories": ONE, "statistics": {"x": (10.0, 2.0), "y": (-1.0, 0.5)}}
    x = torch.tensor([[torch.nan, 0.0]])
    torch.testing.assert_close(network(**facts).encode(x), torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(network(**facts, missing="zero").encode(x), torch.tensor([[-5.0, 2.0]]))


def test_inputs_are_clipped_at_the_stated_deviations():
    net = network(categories=ONE, statistics={"x": (0.0, 1.0), "y": (0.0, 1.0)}, clip_inputs=4.0)
    torch.testing.assert_close(net.encode(torch.tensor([[1e30, -7.0]])), torch.tensor([[4.0, -4.0]]))


def test_classes_become_channels_and_unknown_codes_none():
    table = (Category(name="rock", variables=("code",), kind="classes", radius=1), *ONE)
    net = network(categories=table, classes={"code": (2, 7)})
    x = torch.full((1, 11), 7.0)
    x[0, :4] = torch.tensor([2.0, 99.0, torch.nan, 2.0])
    encoded = net.encode(x)[0]
    assert encoded.shape == (20,)
    assert encoded[:9].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert encoded[9:18].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert net(x).shape == (1,)


def test_back_transform_undoes_log1p_and_its_bias():
    log_values = torch.randn(200_000).double() * 0.6 + 2
    median = Specification(target_transform="log1p")
    unbiased = Specification(target_transform="log1p", smearing=(float(torch.exp(log_values - 2).mean()),))
    truth = torch.expm1(log_values).mean()
    constant = torch.tensor([[2.0]]).double()
    assert to_target(constant, unbiased).item() == pytest.approx(truth.item(), rel=1e-6)
    assert to_target(constant, median).item() < 0.9 * truth.item()


def test_each_member_has_its_own_factor():
    facts = Specification(target_transform="log1p", members=2, smearing=(1.0, 2.0))
    torch.testing.assert_close(to_target(torch.zeros(2, 1), facts), torch.tensor([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="1 smearing factors for 2 members"):
        Specification(members=2, smearing=(1.0,))


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_wild_outputs_stay_within_the_bounds(transform):
    facts = Specification(target_transform=transform, bounds=(0.0, 300.0))
    values = to_target(torch.tensor([[-1e9, -1.0, 1e9, 1e30]]), facts)[0]
    assert values.tolist()[0] == 0.0
    assert values.tolist()[2:] == [300.0, 300.0]


@pytest.mark.parametrize("shape", [(2, 50), (2, 5, 10)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_medians_are_brought_back_to_means_within_the_bounds(shape, dtype):
    facts = {"target_transform": "log1p", "members": 2, "smearing": (1.5, 1.2), "bounds": (0.0, 100.0)}
    median, mean = (Specification(**facts, center=center) for center in ("median", "mean"))
    outputs = torch.from_numpy(np.random.default_rng(0).uniform(0, 5.5, shape))
    flat = outputs.reshape(2, -1)
    medians, means = (to_target(flat, each).numpy().reshape(shape).astype(dtype) for each in (median, mean))
    assert (medians.max(), (means == 100).sum() > (medians == 100).sum() > 0) == (100, True)
    found = as_means(medians, median)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, means, rtol=1e-5)
    assert as_means(means, mean) is means
    hole = medians.copy()
    hole[:, 3] = np.nan
    np.testing.assert_array_equal(np.isnan(as_means(hole, median)), np.isnan(hole))


def test_the_last_layer_of_what_enters_it_is_the_output():
    net, x = network(members=2), torch.randn(7, 32)
    hidden = net.hidden(x)
    assert hidden.shape == (7, 128)
    assert (hidden >= 0).all()
    weight, bias = net.final_regressor[0].weight[0], net.final_regressor[0].bias
    torch.testing.assert_close(Member.forward(net, x), hidden @ weight + bias)


def test_layers_of_any_kind_follow_the_seed():
    drawn = []
    for _ in range(2):
        member = Member(Specification())
        member.features_topo.append(nn.ConvTranspose2d(32, 32, 1))
        member.initialise(5)
        drawn.append(member.features_topo[1].weight)
    assert torch.equal(*drawn)


def test_a_blank_network_has_the_specification_and_no_record():
    net = full(members=2, target_transform="log1p", center="median", smearing=(1.1, 1.2))
    net.record, net.calibration = Record(epoch=(3, 4)), CALIBRATION
    blank = net.blank(9)
    assert blank.specification == net.specification
    assert (blank.record, blank.calibration, blank.applicability, blank.training) == (Record(), None, None, False)
    first, second = (member.tensors() for member in blank.members())
    assert not any(
        torch.equal(value, other)
        for name, value in first.items()
        for other in (second[name], net.tensors()[name])
        if name.endswith("weight")
    )
    assert all(torch.equal(value, again) for value, again in zip(first.values(), net.blank(9).tensors().values(), strict=True))


# --- checkpoints ---------------------------------------------------------------------------------------------------------


def full(**facts):
    return network(statistics=STATISTICS, classes={}, bounds=(0.0, 400.0), clip_inputs=4.0, **facts)


def test_a_checkpoint_comes_back_with_weights_and_meaning(tmp_path):
    net = full(members=3, target_transform="log1p", smearing=(1.2, 1.3, 1.4))
    net.record = Record(scores={"valid": {"n": 7, "r2": 0.5, "ccc": None}}, epoch=(1, 2, 3), settings={"lr": 0.1})
    save_checkpoint(net, tmp_path / "x.pth")
    again = load_checkpoint(tmp_path / "x.pth")
    assert again.specification == net.specification
    assert again.record == net.record
    x = torch.randn(5, 32)
    assert torch.equal(again(x), net(x))
    assert (tmp_path / "x.yaml").is_file()


def test_a_published_loader_reads_our_file(tmp_path):
    net = full(members=2)
    save_checkpoint(net, tmp_path / "x.pth")
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    known = {f"{name}.{part}" for name in PUBLISHED_SHAPES for part in ("weight", "bias")}
    member = {name: value for name, value in state.items() if name in known}  # as the published code filters keys
    assert set(member) == known
    x = torch.randn(5, 32)
    torch.testing.assert_close(
        by_hand(member, net.encode(x).double()), net.member_outputs(net.encode(x))[0].double(), rtol=1e-5, atol=1e-5
    )
    assert {name for name in state if name.startswith("member_1.")} == {f"member_1.{name}" for name in known}


def test_bare_weights_take_standardised_inputs_until_statistics_are_given(tmp_path):
    net = network()
    torch.save(net.tensors(), tmp_path / "bare.pth")
    bare = load_checkpoint(tmp_path / "bare.pth")
    x = torch.randn(3, 32)
    assert torch.equal(bare(x), net(x))
    bare.respecify(statistics=STATISTICS)
    mean, std = (torch.tensor([value[k] for value in STATISTICS.values()]) for k in (0, 1))
    torch.testing.assert_close(bare(x * std + mean), net(x), rtol=1e-4, atol=1e-4)


class RunsCode:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def damaged(path, change):
    save_checkpoint(full(), path)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("classifier.0.bias"), r"tensor classifier.0.bias \(256,\) is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "1 tensors are not of this model, first 'extra'"),
        (
            lambda s: s.update({"classifier.0.weight": torch.ones(256, 64)}),
            r"classifier.0.weight is \(256, 64\) in the file, \(256, 128\) in",
        ),
        (lambda s: s.update({"classifier.0.bias": torch.full((256,), torch.nan)}), "not finite"),
        (lambda s: s.update({"classifier.0.bias": torch.full((256,), torch.inf)}), "not finite"),
        (lambda s: s.update({"classifier.0.bias": torch.full((256,), 3e38)}), r"holds 3e\+38; its training diverged"),
        (lambda s: s.update({"classifier.0.bias": torch.ones(256, dtype=torch.int64)}), "floating-point"),
        (lambda s: s.update({"classifier.0.bias": "text"}), "floating-point"),
        (lambda s: s["_extra_state"]["specification"].update(members=10**9), "specification is not valid"),
        (lambda s: s["_extra_state"]["specification"].update(categories=[]), "specification is not valid"),
        (lambda s: s["_extra_state"]["specification"].update(statistics={"x": [1, 2]}), "no statistics of variable 'band1'"),
        (
            lambda s: s["_extra_state"]["specification"]["statistics"].update(band1=[0.0, -1.0]),
            "variable 'band1' has mean 0 and deviation -1",
        ),
        (
            lambda s: s["_extra_state"]["specification"]["statistics"].update(band1=[float("nan"), 1.0]),
            "specification is not valid",
        ),
        (lambda s: s["_extra_state"]["specification"].update(bounds=[100.0, 0.0]), "are no range"),
        (lambda s: s["_extra_state"]["specification"].update(clip_inputs=float("inf")), "specification is not valid"),
        (lambda s: s["_extra_state"]["specification"].update(clip_inputs=1e308), "specification is not valid"),
        (lambda s: s["_extra_state"]["specification"].update(smearing=[float("inf")]), "specification is not valid"),
        (lambda s: s["_extra_state"].update(record=3), "its record is not valid"),
        (lambda s: s["_extra_state"].update(record={"scores": {"test": 1}}), "its record is not valid: scores.test: "),
        (lambda s: s["_extra_state"].update(record={"epoch": ["first"]}), "its record is not valid: epoch.0: "),
        (lambda s: s.update(_extra_state=[1]), "specification is not valid"),
    ],
)
def test_a_checkpoint_that_differs_is_refused_with_the_reason(tmp_path, change, words):
    damaged(tmp_path / "x.pth", change)
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: 7, "calibration: expected"),
        (lambda c: c | {"bounds": (torch.ones(1), None)}, "are no range"),
    ],
)
def test_a_damaged_calibration_is_refused_with_the_reason(tmp_path, change, words):
    def spoil(state):
        state["_extra_state"]["calibration"] = change(CALIBRATION.to_plain())

    damaged(tmp_path / "x.pth", spoil)
    with pytest.raises(UserError, match=words) as error:
        load_checkpoint(tmp_path / "x.pth")
    assert "x.pth: calibration: " in str(error.value)


def test_torn_foreign_and_hostile_files_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    save_checkpoint(full(), path)
    whole = path.read_bytes()
    mark = tmp_path / "ran"
    contents = [b"", b"text", whole[: len(whole) // 2], whole[:100], pickle.dumps(RunsCode(mark)), pickle.dumps({"a": 1})]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pth"):
            load_checkpoint(path)
    torch.save(nn.Linear(2, 2), path)  # a whole module would run code
    with pytest.raises(UserError, match="would run code"):
        load_checkpoint(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(UserError, match="found list"):
        load_checkpoint(path)
    assert not mark.exists()
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")


def nested(depth):
    value = [0.0]
    for _ in range(depth):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.update({"classifier.0.weight": torch.zeros(1).expand(2**20, 2**10)}),
            r"claims 1,073,741,824 numbers, .* has 1",
        ),
        (lambda s: s["_extra_state"].update(record={"settings": {"x": nested(9)}}), "unfolds to more than"),
        (lambda s: s["_extra_state"].update(record={"settings": {"x": {1, 2}}}), "would run code"),
        (lambda s: s["_extra_state"].update(record={"settings": {"x": b"\xff"}}), "record is not valid"),
        (lambda s: s["_extra_state"].update(record={"settings": {"x": torch.ones(1)}}), "record is not valid"),
        (lambda s: s.update({(1, (2, (3,))): 1}), "found a tuple"),
        (lambda s: s.update(x=torch.ones(3).to_sparse()), "would run code"),
        (lambda s: s.update({f"t{k}": s["classifier.0.weight"][:] for k in range(999)}), "its storage has"),
        (
            lambda s: s["_extra_state"]["specification"].update(
                categories=[{"name": "a", "variables": [f"v{k}" for k in range(1000)], "radius": 50}], statistics=None
            ),
            "10,201,000 cells",
        ),
    ],
)
def test_a_checkpoint_that_claims_or_unfolds_to_more_than_it_holds_is_refused(tmp_path, change, words):
    damaged(tmp_path / "x.pth", change)
    with pytest.raises(UserError, match=words):
        load_checkpoint(tmp_path / "x.pth")


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(64)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for change in ({"x/data/0": b"1234"}, {"x/data.pkl": records["x/data.pkl"].replace(b"K@", b"K\xff")}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (records | change).items():
                archive.writestr(name, content)
        with pytest.raises(UserError, match="claims"):
            load_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    save_checkpoint(full(), path)
    whole = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(5_000, len(whole) - 5_000, 20):
        damaged_bytes = bytearray(whole)
        damaged_bytes[place] ^= 16
        path.write_bytes(damaged_bytes)
        with pytest.raises(UserError, match=r"x\.pth"):
            load_checkpoint(path)


def test_a_category_named_like_the_fusion_layer_is_refused():
    with pytest.raises(ValueError, match="merge"):
        Specification(categories=(Category(name="merge", variables=("x",)),))


def test_a_swapped_variable_order_is_a_difference():
    swapped = (Category(name="a", variables=("y", "x")),)
    assert difference(ONE, ONE) is None
    assert difference(swapped, ONE) == "category 'a': variable 1 is 'y' here, 'x' there"
    assert "radius 1" in difference((Category(name="a", variables=("x", "y"), radius=1),), ONE)
    assert difference((*ONE, Category(name="b", variables=("z",))), ONE) == "2 categories here, 1 there"


def test_fewer_profiles_of_wide_windows_are_predicted_together_and_nothing_else_changes(monkeypatch):
    def with_radius(radius):
        category = Category(name="c", variables=("a", "b"), radius=radius)
        network = SoilCarbonNet(Specification(categories=(category,), statistics={"a": (0.0, 1.0), "b": (0.0, 1.0)}))
        network.initialise(0)
        return network, np.random.default_rng(0).normal(size=(40, category.width)).astype(np.float32)

    assert [with_radius(radius)[0].at_once for radius in (0, 1, 15, 50)] == [1 << 14, 1 << 14, 545, 51]
    network, x = with_radius(7)
    together = predict(network, x)[0]
    monkeypatch.setattr("soilcarbon.network.network.ACTIVATIONS", 1 << 20)
    assert network.at_once == 9
    np.testing.assert_allclose(predict(network, x)[0], together, rtol=1e-5)


@pytest.mark.parametrize("transform", ["none", "log1p"])
def test_standardised_targets_come_back_exactly(transform):
    facts = Specification(target_transform=transform, output_scale=(2.5, 0.75))
    y = np.array([0.0, 1.0, 40.0, 600.0])
    back = to_target(torch.from_numpy(facts.standardised(y))[None], facts)[0].numpy()
    np.testing.assert_allclose(back, y, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="output_scale"):
        Specification(output_scale=(0.0, 0.0))
