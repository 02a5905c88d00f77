"""The accelerator gives what autograd and plain Adam give, for every setting; any other network is trained by autograd."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from soilcarbon.categories import Category
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training import cuda_graph
from soilcarbon.training.accelerator import Accelerator, blocks_of, covers
from soilcarbon.training.cuda_graph import GraphedSteps
from soilcarbon.training.optimiser import Optimiser, make_optimiser

PUBLISHED = Specification()
ROCK = Category(name="rock", variables=("code", "soil"), kind="classes", radius=1)
MIXED = (
    Category(name="relief", variables=("height", "slope"), radius=2),
    Category(name="water", variables=("flow",), radius=2),
    Category(name="climate", variables=("rain",)),
    Category(name="plants", variables=("evi", "ndvi")),
    ROCK,
)
CLASSES = {"code": (1, 2, 3), "soil": (4, 7)}
TABLES = {f"radius {r}": Specification(categories=(Category(name="a", variables=("x", "y"), radius=r),)) for r in range(1, 8)}
TABLES |= {"published": PUBLISHED, "mixed": Specification(categories=MIXED, classes=CLASSES)}
MSE = nn.MSELoss()


def member_of(facts, freeze="none", seed=1):
    member = Member(facts).double()
    member.initialise(seed)
    member.freeze(freeze)
    return member


def width(facts):
    return sum(facts.channels(category) * category.size**2 for category in facts.categories)


class Mask(nn.Module):
    """Dropout by given factors."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * self.factors


def by_autograd(member, masks):
    """A member whose dropout layers multiply with the given masks."""
    member = copy.deepcopy(member)
    member.classifier[2], member.classifier[5] = Mask(masks[0]), Mask(masks[1])
    return member


def batch(facts, n=7, seed=3):
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=random, dtype=torch.float64) * 2 for shape in ((n, width(facts)), (n,)))


def step_and_autograd(member, x, y):
    """Return the accelerator that has set the member's gradients, and a copy with autograd's on the same dropout; losses agree."""
    optimiser = Accelerator(member, 1e-3)
    masks = optimiser.dropout_masks(len(x))
    plain = by_autograd(member, masks)
    optimiser.dropout_masks = lambda _: masks
    expected = MSE(Member.forward(plain, x), y)
    expected.backward()
    with torch.no_grad():
        found = optimiser.gradients(x, y, len(y))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    return optimiser, plain


def assert_same_gradients(member, plain):
    for (name, ours), theirs in zip(member.named_parameters(), plain.parameters(), strict=True):
        if theirs.requires_grad:
            assert theirs.grad.abs().max() > 0, name
            torch.testing.assert_close(
                ours.grad, theirs.grad, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert ours.grad is None


@pytest.mark.parametrize("freeze", ["none", "features", "all-but-head"])
@pytest.mark.parametrize(("table", "folded_from"), [*((table, 128) for table in TABLES), ("published", 7), ("mixed", 7)])
def test_gradients_and_loss_are_autograds(table, folded_from, freeze, monkeypatch):
    monkeypatch.setattr("soilcarbon.training.accelerator.FOLDED_FROM", folded_from)
    member = member_of(TABLES[table], freeze)
    before = copy.deepcopy(member.state_dict())
    optimiser, plain = step_and_autograd(member, *batch(TABLES[table]))
    assert_same_gradients(member, plain)
    assert optimiser.linear[0].weight.gradient.any() == (freeze == "none")  # nothing is computed for what is frozen
    assert all(torch.equal(value, before[key]) for key, value in member.state_dict().items())


@pytest.mark.parametrize("table", ["radius 1", "radius 3", "mixed"])
def test_windows_of_equal_cells_have_autograds_gradients(table):
    """As of rasters coarser than the window: every maximum is shared by four cells."""
    facts = TABLES[table]
    member = member_of(facts)
    x, y = batch(facts)
    start = 0
    for category in facts.categories:
        for _ in range(facts.channels(category)):
            x[:, start : start + category.size**2] = x[:, start : start + 1]
            start += category.size**2
    assert_same_gradients(member, step_and_autograd(member, x, y)[1])


def test_a_map_that_is_zero_everywhere_gets_no_gradient_as_by_autograd():
    member, (x, y) = member_of(TABLES["radius 1"]), batch(TABLES["radius 1"])
    with torch.no_grad():
        for parameter in member.features_a[0].parameters():
            parameter[0] = 0
        Accelerator(member, 1e-3).gradients(x, y, len(y))
    assert all((parameter.grad[0] == 0).all() for parameter in member.features_a[0].parameters())
    assert all((parameter.grad[1:] != 0).any() for parameter in member.features_a[0].parameters())


@pytest.mark.parametrize("radius", range(1, 16))
def test_blocks_bring_a_window_to_one_cell_and_know_what_they_share(radius):
    blocks = blocks_of(radius)
    assert (blocks[0].side, blocks[-1].outcome) == (2 * radius + 1, 1)
    for block, following in pairwise(blocks):
        assert block.outcome == following.side
    for block in blocks:
        pooled = [block.stride * place + corner for place in range(block.outcome) for corner in (0, block.reach)]
        assert block.shared == (len(set(pooled)) < len(pooled))
        assert max(pooled) + block.reach < block.side


@pytest.mark.parametrize("table", TABLES)
def test_outputs_are_the_members_in_evaluation(table, monkeypatch):
    member, (x, _) = member_of(TABLES[table]), batch(TABLES[table], n=50)
    expected = Member.forward(member.eval(), x)
    monkeypatch.setattr("soilcarbon.training.accelerator.EVALUATED_AT_ONCE", {"cpu": 13 * x.shape[1]})
    monkeypatch.setattr("soilcarbon.training.accelerator.FOLDED_FROM", 13)
    torch.testing.assert_close(Accelerator(member, 1e-3).outputs(x), expected.detach(), rtol=1e-10, atol=1e-10)


def test_a_members_weights_are_views_of_one_buffer():
    member = member_of(TABLES["mixed"])
    before = copy.deepcopy(member.state_dict())
    optimiser = Accelerator(member, 1e-3)
    assert all(torch.equal(value, before[key]) for key, value in member.state_dict().items())
    assert len({parameter.untyped_storage().data_ptr() for parameter in member.parameters()}) == 1
    doubled = {key: value * 2 for key, value in before.items()}
    member.load_state_dict(doubled)
    x, _ = batch(TABLES["mixed"])
    torch.testing.assert_close(optimiser.outputs(x), Member.forward(member.eval(), x).detach(), rtol=1e-10, atol=1e-10)


# --- steps ---------------------------------------------------------------------------------------------------------------


def plain_losses(member, lr, strength, x, y, batches, masks):
    """Losses of a loop with autograd and PyTorch's plain Adam over the batches, dropout by the given masks; it trains `member`."""
    trained = [p for p in member.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, lr)
    start = [p.detach().clone() for p in trained]
    losses = []
    for rows, each in zip(batches, masks, strict=True):
        member.classifier[2], member.classifier[5] = map(Mask, each)
        pull = sum(((p - first) ** 2).sum() for p, first in zip(trained, start, strict=True))
        value = MSE(Member.forward(member, x[rows]), y[rows]) + strength / 2 * pull
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize(
    ("table", "freeze", "strength"),
    [("published", "none", 0.2), ("published", "all-but-head", 0.3), ("mixed", "none", 0.0), ("radius 3", "features", 0.0)],
)
def test_the_weights_are_those_of_a_plain_loop(table, freeze, strength):
    """Three epochs in double precision, the last batch of each smaller, on the dropout that was drawn."""
    member, (x, y) = member_of(TABLES[table], freeze), batch(TABLES[table], n=50)
    plain, order = copy.deepcopy(member), torch.randperm(50)
    optimiser = Accelerator(member, 1e-2, strength)
    drawn, draw = [], optimiser.dropout_masks
    optimiser.dropout_masks = lambda n: drawn.append(draw(n)) or drawn[-1]
    losses = torch.cat([optimiser.epoch(x, y, order, 16) for _ in range(3)])
    expected = plain_losses(plain, 1e-2, strength, x, y, order.split(16) * 3, drawn)
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(dict(member.state_dict()), dict(plain.state_dict()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("freeze", ["none", "features", "all-but-head"])
@pytest.mark.parametrize("table", ["published", "mixed"])
@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_by_autograd_and_accelerated_the_weights_are_the_same(table, freeze, strength):
    """Two epochs without dropout, for which nothing is drawn, in double precision, at half the rates in the second."""
    x, y = batch(TABLES[table], n=50)
    found = []
    for kind in (Optimiser, Accelerator):
        member = member_of(TABLES[table], freeze)
        member.classifier[2].p = member.classifier[5].p = 0.0
        optimiser, state = kind(member, 1e-2, strength), torch.get_rng_state()
        losses = [optimiser.epoch(x, y, torch.arange(50), 16)]
        optimiser.scale_rate(0.5)
        losses.append(optimiser.epoch(x, y, torch.arange(50).flip(0), 16))
        assert torch.equal(torch.get_rng_state(), state)
        found.append((torch.cat(losses).detach(), optimiser.outputs(x), dict(member.state_dict())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)


class Wider(Member):
    """A network with a layer that nobody differentiated by hand."""

    def __init__(self, specification):
        super().__init__(specification)
        self.classifier = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 128))


def test_any_network_is_trained_by_autograd_and_only_the_projects_own_is_accelerated():
    assert all(covers(member_of(facts)) for facts in TABLES.values())
    member = Wider(PUBLISHED)
    assert not covers(member)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 32, generator=random)
    optimiser = make_optimiser(member, 1e-2, 0.0)
    assert type(optimiser) is Optimiser
    losses = torch.cat([optimiser.epoch(x, 3 * x[:, 0], torch.randperm(200), 32) for _ in range(20)])
    assert losses[-7:].mean() < 0.2 * losses[:7].mean()
    dropout = member_of(PUBLISHED)
    dropout.classifier[2] = nn.AlphaDropout(0.2)
    assert not covers(dropout)


@pytest.mark.parametrize("table", ["published", "mixed"])
def test_single_precision_follows_double_precision(table):
    single = member_of(TABLES[table]).float()
    double = copy.deepcopy(single).double()
    x, y = batch(TABLES[table], n=64)
    losses = []
    for member in (single, double):
        torch.manual_seed(5)
        kind = next(member.parameters()).dtype
        optimiser = Accelerator(member, 1e-3)
        losses.append(torch.cat([optimiser.epoch(x.to(kind), y.to(kind), torch.arange(64), 32) for _ in range(10)]))
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=2e-4, atol=0)


@pytest.mark.parametrize("folded_from", [16, 17])
def test_what_lies_outside_the_branches_of_the_block_diagonal_matrix_stays_zero(folded_from, monkeypatch):
    monkeypatch.setattr("soilcarbon.training.accelerator.FOLDED_FROM", folded_from)
    member, (x, y) = member_of(PUBLISHED), batch(PUBLISHED, n=64)
    optimiser = Accelerator(member, 1e-2, l2_sp=0.1)
    optimiser.epoch(x, y, torch.randperm(64), 16)
    bank = optimiser.banks[0]
    assert bank.inside.sum() == 32 * 32
    assert (bank.weight.value[bank.inside == 0] == 0).all()
    assert (bank.weight.value[bank.inside == 1] != 0).all()


# --- dropout -------------------------------------------------------------------------------------------------------------


def test_dropout_keeps_its_share_and_the_mean_anew_each_time():
    optimiser = Accelerator(member_of(PUBLISHED), 1e-3)
    torch.manual_seed(1)
    drawn = [optimiser.dropout_masks(500) for _ in range(8)]
    for k, (dropped, units) in enumerate(((0.2, 256), (0.5, 128))):
        masks = torch.stack([each[k] for each in drawn])
        assert masks.shape == (8, 500, units)
        assert (masks == 0).double().mean().item() == pytest.approx(dropped, abs=2e-3)
        assert masks.unique().tolist() == [0, pytest.approx(1 / (1 - dropped), rel=1e-5)]
        for dim in range(3):  # no unit, profile or step is favoured: five standard errors
            rest = masks.numel() / masks.shape[dim]
            shares = (masks == 0).double().mean([each for each in range(3) if each != dim])
            assert (shares - dropped).abs().max() < 5 * (dropped * (1 - dropped) / rest) ** 0.5
    first, again = drawn[0], drawn[1]
    assert not torch.equal(first[0], again[0])
    torch.manual_seed(1)
    assert all(map(torch.equal, first, optimiser.dropout_masks(500)))


def test_neighbouring_units_are_dropped_independently():
    kept = (Accelerator(member_of(PUBLISHED), 1e-3).dropout_masks(4000)[1] > 0).double() - 0.5
    for apart in range(1, 9):
        assert abs((kept[:, apart:] * kept[:, :-apart]).mean().item()) < 0.005


# --- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Optimiser, Accelerator])
def test_a_restored_state_continues_with_the_same_bits(kind):
    x, y = batch(PUBLISHED, n=64)
    member = member_of(PUBLISHED)
    optimiser = kind(member, 1e-2)
    optimiser.epoch(x, y, torch.arange(64), 16)
    state, weights = optimiser.state(), member.copy_of_tensors()

    def continued(member, optimiser):
        torch.manual_seed(1)
        return optimiser.epoch(x, y, torch.arange(64), 16).detach(), member.copy_of_tensors()

    expected = continued(member, optimiser)
    again = member_of(PUBLISHED, seed=2)
    again.load_state_dict(weights)
    other = kind(again, 1e-2)
    other.restore(state)
    torch.testing.assert_close(continued(again, other), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda state: state.pop("0"),
        lambda state: state.update(more=torch.zeros(1)),
        lambda state: state.update({"0": torch.zeros(4, dtype=torch.float64)}),
        lambda state: state.update({"0": [0.0] * 5}),
    ],
)
def test_a_state_of_another_network_is_refused_and_nothing_changes(damaged):
    optimiser = Accelerator(member_of(PUBLISHED), 1e-3)
    before, state = optimiser.state(), optimiser.state()
    damaged(state)
    with pytest.raises(ValueError, match="of another network"):
        optimiser.restore(state)
    assert all(torch.equal(before[name], value) for name, value in optimiser.state().items())


# --- CUDA graphs ---------------------------------------------------------------------------------------------------------


def warmed_up(step):
    """Warm-up steps of a capture, which need no GPU."""
    for _ in range(3):
        step()
    return step


def unable(step):
    step()
    raise RuntimeError("no graph")


def epochs_of(optimiser, one_epoch, device="cpu"):
    torch.manual_seed(7)
    random, losses = torch.Generator().manual_seed(5), []
    for k in range(3):
        optimiser.scale_rate(1 - k / 4)
        losses.append(one_epoch(torch.randperm(110, generator=random).to(device)))
    return torch.cat(losses), optimiser.trained.value.clone()


@pytest.mark.parametrize("capture", [warmed_up, unable, lambda step: step])
@pytest.mark.parametrize("batch_size", [32, 55])
def test_steps_replayed_as_a_graph_are_those_of_single_calls_to_the_bit(capture, batch_size, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture", capture)
    x, y = (each.float() for each in batch(PUBLISHED, n=110))
    found = []
    for graph in (False, True):
        optimiser = Accelerator(member_of(PUBLISHED).float(), 1e-3, l2_sp=0.1)
        with torch.no_grad():
            replayed = GraphedSteps(optimiser, x, y, batch_size)
            one_epoch = replayed.epoch if graph else lambda order, by=optimiser: by.epoch(x, y, order, batch_size)
            found.append(epochs_of(optimiser, one_epoch))
    assert all(map(torch.equal, *found))


def test_a_capture_keeps_what_adam_remembers(monkeypatch):
    """As when a run is resumed: the memory is there before the first captured step."""
    monkeypatch.setattr(cuda_graph, "capture", warmed_up)
    x, y = (each.float() for each in batch(PUBLISHED, n=110))
    optimiser = Accelerator(member_of(PUBLISHED).float(), 1e-3)
    optimiser.epoch(x, y, torch.arange(110), 32)
    before = optimiser.state()
    with torch.no_grad():
        GraphedSteps(optimiser, x, y, 32)
    assert before["2"] == 4
    assert all(torch.equal(before[name], value) for name, value in optimiser.state().items())
