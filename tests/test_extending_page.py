"""The code of docs/extending.md runs as it stands: the layer is trained, the learner is saved and loaded, the transform fits."""

import re

import numpy as np
import pytest
import torch
from doc_pages import PAGES, ROOT, pieces
from simulated import make_samples
from sklearn.metrics import r2_score

from soilcarbon.categories import Category
from soilcarbon.network.network import MAPS, SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.regression.learners import LEARNERS, Task, fit_parts
from soilcarbon.regression.model import FittedModel
from soilcarbon.regression.persistence import load_model, save_model
from soilcarbon.training.optimiser import Optimiser, make_optimiser


@pytest.fixture(scope="module")
def names():
    found = {}
    for kind, text in pieces("extending"):
        if kind == "python":
            exec(compile(text, "extending.md", "exec"), found)
    return found


def test_the_files_it_names_are_there():
    files = re.findall(r"`((?:soilcarbon|tests)/[\w/]+\.py)`", PAGES["extending"].read_text(encoding="utf-8"))
    assert len(files) > 5 and all((ROOT / each).is_file() for each in files)


@pytest.mark.parametrize("radius", [0, 2])
def test_the_layer_is_trained(names, radius):
    network = SoilCarbonNet(Specification(categories=(Category(name="relief", variables=("a", "b"), radius=radius),)))
    network.initialise(0)
    block = names["Residual"](MAPS)
    network.get_submodule("features_relief").append(block)
    before = block.inner[0].weight.detach().clone()
    x = torch.randn(200, network.specification.input_width)
    optimiser = make_optimiser(network, 1e-2, 0.0)
    losses = torch.cat([optimiser.epoch(x, x.sum(1), torch.randperm(200), 32) for _ in range(15)])
    assert type(optimiser) is Optimiser and losses[-7:].mean() < 0.5 * losses[:7].mean()
    assert (block.inner[0].weight - before).abs().max() > 1e-3


def test_the_learner_is_fitted_saved_and_loaded(names, monkeypatch, tmp_path):
    monkeypatch.setitem(LEARNERS, "extra-trees", names["EXTRA_TREES"])
    samples = make_samples(100)
    parts, facts = fit_parts("extra-trees", samples, Task((Category(name="all", variables=tuple("abcdef")),)))
    save_model(FittedModel("extra-trees", facts, parts), tmp_path / "m.npz")
    predicted = load_model(tmp_path / "m.npz").predict(samples.X)
    assert r2_score(samples.y, predicted) > 0.9
    np.testing.assert_array_equal(predicted, FittedModel("extra-trees", facts, parts).predict(samples.X))


def test_the_wrapper_of_another_transform_fits(names):
    root, samples = names["root"], make_samples(60)
    root.set_params(regressor__teacher="none", regressor__members=1, regressor__epochs=1).fit(samples.X[:, 2:], samples.y)
    assert np.isfinite(root.predict(samples.X[:, 2:])).all() and root.regressor_.network_.specification.target_transform == "none"
