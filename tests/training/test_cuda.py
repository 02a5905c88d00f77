"""Training and mapping on a CUDA device: the same results as on a CPU, and the same bits after an interruption."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from map_world import covariates, make_checkpoint
from training_runs import quick, regional, same, stop_then_resume, train, weights

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.mapping.network import NetworkPredictor, SlidingNetwork
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import Member, choose_device, predict
from soilcarbon.network.specification import Specification
from soilcarbon.training.accelerator import Accelerator
from soilcarbon.training.cuda_graph import GraphedSteps
from soilcarbon.training.optimiser import Optimiser

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

WINDOWS = Specification(
    categories=(
        Category(name="relief", variables=("height", "slope"), radius=2),
        Category(name="climate", variables=("rain", "warmth")),
    )
)
WIDE = tuple(category.model_copy(update={"radius": 3}) for category in PUBLISHED_CATEGORIES)
TABLES = pytest.mark.parametrize("facts", [Specification(), WINDOWS], ids=["published", "windows"])


@pytest.fixture(autouse=True)
def chosen():
    """Choose the device as every command does."""
    assert choose_device("auto").type == "cuda"


def member_of(facts, dropout=True):
    member = Member(facts)
    member.initialise(1)
    if not dropout:
        for layer in (each for each in member.classifier if isinstance(each, torch.nn.Dropout)):
            layer.p = 0.0
    return member


def profiles(facts, n=230):
    random = torch.Generator().manual_seed(3)
    x = torch.randn(n, facts.input_width, generator=random)
    return x, x[:, 0] + 0.1 * torch.randn(n, generator=random)


def three_epochs(epoch, n, device):
    torch.manual_seed(7)
    random = torch.Generator().manual_seed(5)
    return torch.cat([epoch(torch.randperm(n, generator=random).to(device)) for _ in range(3)])


@TABLES
@pytest.mark.parametrize("make", [Accelerator, Optimiser])
@pytest.mark.parametrize("batch_size", [32, 200])
def test_steps_are_those_of_the_cpu(facts, make, batch_size):
    x, y = profiles(facts)
    found = []
    for device in ("cpu", "cuda"):
        optimiser = make(member_of(facts, dropout=False).to(device), 1e-3, 0.01)
        there = x.to(device), y.to(device)
        losses = three_epochs(lambda order, by=optimiser, at=there: by.epoch(*at, order, batch_size), len(y), device)
        found.append((losses.cpu(), optimiser.outputs(there[0]).cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=2e-3, atol=2e-4)


@TABLES
def test_a_replayed_graph_takes_the_same_steps_as_single_calls_to_the_bit(facts):
    x, y = (each.cuda() for each in profiles(facts))
    found = []
    for graph in (False, True):
        optimiser = Accelerator(member_of(facts, dropout=False).cuda(), 1e-3, 0.01)
        take = optimiser.epoch if graph else optimiser.steps
        with torch.no_grad():
            losses = three_epochs(lambda order, by=take: by(x, y, order, 32), len(y), "cuda")
        found.append((losses, optimiser.trained.value.clone()))
    assert optimiser._graph.replay.__name__ == "replay", "no graph could be captured"
    assert all(map(torch.equal, *found))


def test_a_replayed_graph_draws_new_dropout_masks_at_every_step():
    """With a rate of 0 and one batch that never changes, losses differ by their masks alone."""
    x, y = (each.cuda()[:32].repeat(8, 1) if each.ndim == 2 else each.cuda()[:32].repeat(8) for each in profiles(Specification()))
    optimiser = Accelerator(member_of(Specification()).cuda(), 0.0)
    with torch.no_grad():
        steps = GraphedSteps(optimiser, x, y, 32)
        losses = torch.cat([steps.epoch(torch.arange(len(y), device="cuda")) for _ in range(2)])
    assert len(losses.unique()) == len(losses) == 16


@pytest.mark.usefixtures("small_learners")
@pytest.mark.parametrize("how", [{}, {"teacher": "ensemble", "center": "median"}], ids=["published", "distilled"])
def test_an_interrupted_run_resumes_to_the_same_bits(dataset, workplace, monkeypatch, how):
    common = {"members": 2, "epochs": 5, "target_transform": "log1p", "device": "cuda"}
    if how:
        train(quick(dataset, device="cuda"))
        common["epochs"] = 3
        make = partial(regional, dataset, **common, **how)
    else:
        make = partial(quick, dataset, **common)
    assert same(*stop_then_resume(monkeypatch, make, (1, 2), "model" if how else "model/pretrain_model"))


def test_scores_are_those_of_the_cpu_and_the_checkpoint_predicts_the_same_there(dataset, workplace):
    scores = {}
    for device in ("cpu", "cuda"):
        train(quick(dataset, run=device, device=device, epochs=30, members=3))
        network = load_checkpoint(Path("model/pretrain_model") / f"{device}.pth")
        scores[device] = network.record.scores["valid"]["rmse"]
    assert scores["cuda"] == pytest.approx(scores["cpu"], rel=0.15)
    x = np.random.default_rng(0).normal(size=(500, network.specification.input_width)).astype(np.float32)
    there = load_checkpoint(Path("model/pretrain_model/cuda.pth"), "cuda")
    np.testing.assert_allclose(predict(there, x)[0], predict(network, x)[0], rtol=1e-4, atol=1e-4)
    assert all(value.device.type == "cpu" for value in weights("model/pretrain_model/cuda.pth").values())


@pytest.mark.parametrize("facts", [None, Specification(categories=WIDE)], ids=["small", "wide"])
def test_a_map_is_that_of_the_cpu(tmp_path, facts):
    """In float32: in TF32, PyTorch's default of convolutions, wide branches differ by more."""
    path = tmp_path / "network.pth"
    if facts is None:
        layers = covariates()
        names = [
            name for category in load_checkpoint(make_checkpoint(path)).specification.categories for name in category.variables
        ]
        block = np.stack([layers[name] for name in names])
    else:
        statistics = {name: (0.0, 1.0) for category in facts.categories for name in category.variables}
        make_checkpoint(path, categories=facts.categories, statistics=statistics)
        block = np.random.default_rng(0).normal(size=(len(statistics), 60, 70)).astype(np.float32)
    here, there = (SlidingNetwork(NetworkPredictor(path, device, None, None).network).predict(block) for device in ("cpu", "cuda"))
    assert np.isfinite(here).any()
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)


def test_the_estimator_trains_there():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4))
    y = 10 + 2 * x[:, 0] + random.normal(0, 0.3, 300)
    for device in ("cpu", "cuda"):
        found = SoilCarbonRegressor(device=device, epochs=40, members=1).fit(x, y).score(x, y)
        assert found > 0.8, device
