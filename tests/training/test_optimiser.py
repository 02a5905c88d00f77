"""The written-out step: what autograd and a plain loop compute, for every setting, and dropout that is dropout."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from soilcarbon.categories import Category
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training.optimiser import Descent, blocks_of

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
HUBER, MSE = nn.HuberLoss(), nn.MSELoss()


def member_of(facts, freeze="none", seed=1):
    member = Member(facts).double()
    member.initialise(seed)
    member.freeze(freeze)
    return member


def width(facts):
    return sum(facts.channels(category) * category.size**2 for category in facts.categories)


class Gate(nn.Module):
    """Dropout by given factors."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * self.factors


def by_autograd(member, gates):
    """A member whose dropout layers multiply with the given gates."""
    member = copy.deepcopy(member)
    member.classifier[2], member.classifier[5] = Gate(gates[0]), Gate(gates[1])
    return member


def batch(facts, n=7, seed=3):
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=random, dtype=torch.float64) * 2 for shape in ((n, width(facts)), (n,)))


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
    monkeypatch.setattr("soilcarbon.training.optimiser.FOLDED_FROM", folded_from)
    member = member_of(TABLES[table], freeze)
    before = copy.deepcopy(member.state_dict())
    for name, loss in (("mse", MSE), ("huber", HUBER)):
        x, y = batch(TABLES[table])
        descent = Descent(member, 1e-3, loss=name)
        gates = descent.gates(len(x))
        plain = by_autograd(member, gates)
        descent.gates = lambda _, gates=gates: gates
        expected = loss(Member.forward(plain, x), y)
        expected.backward()
        with torch.no_grad():
            found = descent.gradients(x, y, len(y))
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
        assert_same_gradients(member, plain)
        assert descent.linear[0].weight.gradient.any() == (freeze == "none")  # nothing is computed for what is frozen
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
    descent = Descent(member, 1e-3)
    gates = descent.gates(len(x))
    plain = by_autograd(member, gates)
    descent.gates = lambda _: gates
    MSE(Member.forward(plain, x), y).backward()
    with torch.no_grad():
        descent.gradients(x, y, len(y))
    assert_same_gradients(member, plain)


def test_a_map_that_is_zero_everywhere_gets_no_gradient_as_by_autograd():
    member, (x, y) = member_of(TABLES["radius 1"]), batch(TABLES["radius 1"])
    with torch.no_grad():
        for parameter in member.features_a[0].parameters():
            parameter[0] = 0
        Descent(member, 1e-3).gradients(x, y, len(y))
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
    monkeypatch.setattr("soilcarbon.training.optimiser.EVALUATED_AT_ONCE", {"cpu": 13 * x.shape[1]})
    monkeypatch.setattr("soilcarbon.training.optimiser.FOLDED_FROM", 13)
    torch.testing.assert_close(Descent(member, 1e-3).outputs(x), expected.detach(), rtol=1e-10, atol=1e-10)


def test_a_member_goes_on_as_views_of_one_buffer():
    member = member_of(TABLES["mixed"])
    before = copy.deepcopy(member.state_dict())
    descent = Descent(member, 1e-3)
    assert all(torch.equal(value, before[key]) for key, value in member.state_dict().items())
    assert len({parameter.untyped_storage().data_ptr() for parameter in member.parameters()}) == 1
    doubled = {key: value * 2 for key, value in before.items()}
    member.load_state_dict(doubled)
    x, _ = batch(TABLES["mixed"])
    torch.testing.assert_close(descent.outputs(x), Member.forward(member.eval(), x).detach(), rtol=1e-10, atol=1e-10)


# --- steps ---------------------------------------------------------------------------------------------------------------

DEPTH = {"final_regressor": 0, "classifier": 1, "features_merge": 2}


def plain_losses(member, lr, decay, loss, strength, x, y, batches, gates):
    """Losses of a loop with autograd and PyTorch's plain Adam over the batches, dropout by the given gates; it trains `member`."""
    trained = [(name, p) for name, p in member.named_parameters() if p.requires_grad]
    adam = torch.optim.Adam([{"params": [p], "lr": lr * decay ** DEPTH.get(name.split(".")[0], 3)} for name, p in trained])
    start = [p.detach().clone() for _, p in trained]
    losses = []
    for rows, each in zip(batches, gates, strict=True):
        member.classifier[2], member.classifier[5] = map(Gate, each)
        pull = sum(((p - first) ** 2).sum() for (_, p), first in zip(trained, start, strict=True))
        value = loss(Member.forward(member, x[rows]), y[rows]) + strength / 2 * pull
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize(
    ("table", "freeze", "decay", "loss", "strength"),
    [
        ("published", "none", 1.0, "mse", 0.0),
        ("published", "none", 0.3, "mse", 0.2),
        ("published", "features", 0.5, "huber", 0.0),
        ("published", "all-but-head", 0.5, "mse", 0.3),
        ("mixed", "none", 1.0, "mse", 0.0),
        ("mixed", "none", 0.5, "huber", 0.2),
        ("radius 3", "features", 1.0, "mse", 0.0),
    ],
)
def test_the_weights_go_the_way_of_a_plain_loop(table, freeze, decay, loss, strength):
    """Three epochs in double precision, the last batch of each smaller, on the dropout that was drawn."""
    member, (x, y) = member_of(TABLES[table], freeze), batch(TABLES[table], n=50)
    plain, order = copy.deepcopy(member), torch.randperm(50)
    descent = Descent(member, 1e-2, decay, loss, strength)
    drawn, draw = [], descent.gates
    descent.gates = lambda n: drawn.append(draw(n)) or drawn[-1]
    losses = torch.cat([descent.epoch(x, y, order, 16) for _ in range(3)])
    of = {"mse": MSE, "huber": HUBER}[loss]
    expected = plain_losses(plain, 1e-2, decay, of, strength, x, y, order.split(16) * 3, drawn)
    torch.testing.assert_close(losses.tolist(), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(dict(member.state_dict()), dict(plain.state_dict()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("table", ["published", "mixed"])
def test_single_precision_follows_double_precision(table):
    single = member_of(TABLES[table]).float()
    double = copy.deepcopy(single).double()
    x, y = batch(TABLES[table], n=64)
    losses = []
    for member in (single, double):
        torch.manual_seed(5)
        kind = next(member.parameters()).dtype
        descent = Descent(member, 1e-3)
        losses.append(torch.cat([descent.epoch(x.to(kind), y.to(kind), torch.arange(64), 32) for _ in range(10)]))
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=2e-4, atol=0)


@pytest.mark.parametrize("folded_from", [16, 17])
def test_what_lies_outside_the_branches_of_the_block_diagonal_matrix_stays_zero(folded_from, monkeypatch):
    monkeypatch.setattr("soilcarbon.training.optimiser.FOLDED_FROM", folded_from)
    member, (x, y) = member_of(PUBLISHED), batch(PUBLISHED, n=64)
    descent = Descent(member, 1e-2, l2_sp=0.1)
    descent.epoch(x, y, torch.randperm(64), 16)
    bank = descent.banks[0]
    assert bank.inside.sum() == 32 * 32
    assert (bank.weight.value[bank.inside == 0] == 0).all()
    assert (bank.weight.value[bank.inside == 1] != 0).all()


# --- dropout -------------------------------------------------------------------------------------------------------------


def test_dropout_keeps_its_share_and_the_mean_anew_each_time():
    descent = Descent(member_of(PUBLISHED), 1e-3)
    torch.manual_seed(1)
    drawn = [descent.gates(500) for _ in range(8)]
    for k, (dropped, units) in enumerate(((0.2, 256), (0.5, 128))):
        gates = torch.stack([each[k] for each in drawn])
        assert gates.shape == (8, 500, units)
        assert (gates == 0).double().mean().item() == pytest.approx(dropped, abs=2e-3)
        assert gates.unique().tolist() == [0, pytest.approx(1 / (1 - dropped), rel=1e-5)]
        for dim in range(3):  # no unit, profile or step is favoured: five standard errors
            rest = gates.numel() / gates.shape[dim]
            shares = (gates == 0).double().mean([each for each in range(3) if each != dim])
            assert (shares - dropped).abs().max() < 5 * (dropped * (1 - dropped) / rest) ** 0.5
    first, again = drawn[0], drawn[1]
    assert not torch.equal(first[0], again[0])
    torch.manual_seed(1)
    assert all(map(torch.equal, first, descent.gates(500)))


def test_neighbouring_units_are_dropped_independently():
    kept = (Descent(member_of(PUBLISHED), 1e-3).gates(4000)[1] > 0).double() - 0.5
    for apart in range(1, 9):
        assert abs((kept[:, apart:] * kept[:, :-apart]).mean().item()) < 0.005


def test_a_layer_without_dropout_keeps_all():
    member = member_of(PUBLISHED)
    member.classifier[2].p = member.classifier[5].p = 0.0
    assert all((gate == 1).all() for gate in Descent(member, 1e-3).gates(100))
