"""The two training loops compared: this project's, and a reference loop with the cost of the published `train_global.py`.

What costs there (facts of the published code, written anew): the covariates of each category lie in memory as one float32 array
(N, C, S, S), standardised; a Dataset makes six tensors per profile; a default DataLoader collates 32 of them; convolutions by
autograd; plain Adam; a TensorBoard scalar per batch. After every epoch: a pass over the training profiles by the same DataLoader,
and one over the held-out profiles in one batch, both with gradients recorded; predictions collected value by value; four scores of
each; TensorBoard scalars and histograms; the weights saved where the score is the best so far.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.training.loop import Best, TrainingSets, encode_profiles, evaluate
from soilcarbon.training.optimiser import make_optimiser

BATCH = 32


def facts_of(radius, variables=None):
    """Return a specification of the published categories with windows of one radius, or of one category of so many variables."""
    if variables is None:
        categories = tuple(category.model_copy(update={"radius": radius}) for category in PUBLISHED_CATEGORIES)
    else:
        names = tuple(f"v{k}" for k in range(variables))
        categories = (PUBLISHED_CATEGORIES[0].model_copy(update={"name": "all", "variables": names, "radius": radius}),)
    numbers = {name: (5.0, 2.0) for category in categories for name in category.variables}
    return Specification(statistics=numbers, categories=categories)


def made_up(n, facts):
    """Return covariates (n, variables, S, S) and a target (n,) that depends on the first."""
    random, size = np.random.default_rng(0), facts.categories[0].size
    x = random.standard_normal((n, len(facts.statistics), size, size), np.float32) * 2 + 5
    return x, np.exp(2.5 + 0.2 * (x[:, 0, size // 2, size // 2] - 5)) + random.normal(0, 1, n)


class Ours:
    """The loop of this project on made-up profiles, of which the last fifth is held out."""

    def __init__(self, x, y, facts, device="cpu", batch=BATCH, seed=1):
        train, device = len(y) * 4 // 5, torch.device(device)
        rows = slice(0, train), slice(train, None)
        known, held_out = (encode_profiles(facts, x[part].reshape(len(y[part]), -1), y[part], device) for part in rows)
        self.sets, self.batch = TrainingSets(known, known, held_out, facts), batch
        member = Member(facts)
        member.initialise(seed)
        self.optimiser = make_optimiser(member.to(device), 1e-3, 0.0)

    def steps(self):
        fit = self.sets.fit
        self.optimiser.epoch(fit.encoded, fit.output, torch.randperm(len(fit.y)).to(fit.output.device), self.batch)

    def epoch(self):
        """Train one epoch and evaluate; return the scores."""
        self.steps()
        return evaluate(self.optimiser, self.sets, 1, Best(0, None, {}), "")


class InMemory(Dataset):
    """One profile at a time: a tensor (C, S, S) per category, and the target, made from arrays in memory."""

    def __init__(self, arrays, y):
        self.arrays, self.y = arrays, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, k):
        return [torch.tensor(each[k], dtype=torch.float32) for each in (*self.arrays, self.y)]


class Plain(Member):
    """The same network on (B, C, S, S) tensors, by its convolutions."""

    def forward(self, *inputs):
        maps = [self.get_submodule(name)(x) for (name, *_), x in zip(self.layout, inputs, strict=True)]
        return self.final_regressor(self.classifier(self.features_merge(torch.cat(maps, 1)).flatten(1))).reshape(-1)


class PublishedLoop:
    """Reference loop with the cost of the published one, on the same profiles."""

    def __init__(self, x, y, facts, device="cpu"):
        train, size = len(y) * 4 // 5, facts.categories[0].size
        arrays, start = [], 0
        for category in facts.categories:
            arrays.append((x[:, start : start + len(category.variables)] - np.float32(5)) / np.float32(2))
            start += len(category.variables)
        parts = slice(0, train), slice(train, None)
        known, held_out = (
            InMemory([each[part].reshape(-1, each.shape[1], size, size) for each in arrays], y[part]) for part in parts
        )
        self.loaders = {"train": DataLoader(known, BATCH, shuffle=True), "test": DataLoader(held_out, len(held_out))}
        self.network, self.device, self.best, self.step = Plain(facts), device, -np.inf, 0
        self.network.initialise(1)
        self.network.to(device)
        self.adam, self.loss_of = torch.optim.Adam(self.network.parameters(), lr=1e-3), nn.MSELoss()
        self.folder = tempfile.TemporaryDirectory()
        self.log = SummaryWriter(self.folder.name)

    def close(self):
        """Wait for the log's writer, and remove the log."""
        self.log.close()
        self.folder.cleanup()

    def _moved(self, tensors):
        return [each.to(self.device) for each in tensors]

    def epoch(self):
        self.network.train()
        losses = []
        for tensors in self.loaders["train"]:
            *inputs, y = self._moved(tensors)
            loss = self.loss_of(self.network(*inputs), y)
            loss.backward()
            self.adam.step()
            self.adam.zero_grad()
            losses.append(loss.cpu().data.numpy())
            self.step += 1
            self.log.add_scalar("loss", loss, self.step)
        self.network.eval()
        for name, loader in self.loaders.items():
            seen, predicted = [], []
            for tensors in loader:
                *inputs, y = self._moved(tensors)
                predicted.extend(self.network(*inputs).data.cpu().numpy())
                seen.extend(y.data.cpu().numpy())
            scores = self._scores(seen, predicted)
            for score, value in scores.items():
                self.log.add_scalar(f"{name}/{score}", value, self.step)
        if scores["r2"] > self.best:
            self.best = scores["r2"]
            torch.save(self.network.state_dict(), Path(self.folder.name) / "best.pth")
        for name, parameter in self.network.named_parameters():
            self.log.add_histogram(name, parameter.clone().cpu().data.numpy(), self.step)

    @staticmethod
    def _scores(y, predicted):
        covariance = np.mean((y - np.mean(y)) * (predicted - np.mean(predicted)))
        concordance = 2 * covariance / (np.var(y) + np.var(predicted) + (np.mean(y) - np.mean(predicted)) ** 2)
        rmse = mean_squared_error(y, predicted) ** 0.5
        return {"rmse": rmse, "mae": mean_absolute_error(y, predicted), "r2": r2_score(y, predicted), "ccc": concordance}


def multiplications(member):
    """Return what a profile's training step multiplies and adds in matrix products, as published (radius 0), forward and back."""
    sizes = {name: parameter.numel() for name, parameter in member.named_parameters() if name.endswith("weight")}
    first = sum(size for name, size in sizes.items() if name.startswith("features_") and "merge" not in name)
    return 3 * sum(sizes.values()) - first  # by the inputs nothing is derived
