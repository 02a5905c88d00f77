"""The two loops that are compared: this project's, and the per-sample one of research code of this kind.

The latter is a Dataset that gathers one profile's patches from dictionaries per variable, a DataLoader that stacks them,
convolutions, plain Adam, and after every epoch an evaluation of the training and the held-out profiles.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.network.network import Member
from soilcarbon.network.specification import Specification
from soilcarbon.stats import metrics as validation
from soilcarbon.training.loop import Best, TrainingSets, encode_profiles, evaluate
from soilcarbon.training.optimiser import make_optimiser

BATCH = 32


class PerSample(Dataset):
    """One profile at a time: {variable: {profile_id: (S, S)}} -> one (C, S, S) tensor per category, and the target."""

    def __init__(self, patches, ids, y, facts):
        self.patches, self.ids, self.y, self.facts = patches, ids, y, facts

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        inputs = []
        for category in self.facts.categories:
            channels = []
            for name in category.variables:
                mean, std = self.facts.statistics[name]
                channels.append((self.patches[name][self.ids[k]] - mean) / std)
            inputs.append(torch.tensor(np.stack(channels), dtype=torch.float32))
        return inputs, torch.tensor(self.y[k], dtype=torch.float32)


class Plain(Member):
    """The same network on a list of (B, C, S, S) tensors, by its convolutions."""

    def forward(self, inputs):
        maps = [self.get_submodule(name)(x) for (name, *_), x in zip(self.layout, inputs, strict=True)]
        return self.final_regressor(self.classifier(self.features_merge(torch.cat(maps, 1)).flatten(1))).squeeze(1)


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
        self.optimiser = make_optimiser(member.to(device), 1e-3, 1.0, "mse", 0.0)

    def steps(self):
        fit = self.sets.fit
        self.optimiser.epoch(fit.encoded, fit.output, torch.randperm(len(fit.y)).to(fit.output.device), self.batch)

    def epoch(self):
        """Train one epoch and evaluate; return the scores."""
        self.steps()
        return evaluate(self.optimiser, self.sets, 1, Best(0, None, {}), "")


class PerSampleLoop:
    """The per-sample loop on the same profiles."""

    def __init__(self, x, y, facts, device="cpu"):
        ids, train = [f"P{k}" for k in range(len(y))], len(y) * 4 // 5
        patches = {name: {key: x[k, j] for k, key in enumerate(ids)} for j, name in enumerate(facts.statistics)}
        self.data = [PerSample(patches, ids[part], y[part], facts) for part in (slice(0, train), slice(train, None))]
        self.network, self.device = Plain(facts), device
        self.network.initialise(1)
        self.network.to(device)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def _moved(self, inputs):
        return [each.to(self.device) for each in inputs]

    def epoch(self):
        loss_of = nn.MSELoss()
        self.network.train()
        for inputs, y in DataLoader(self.data[0], BATCH, shuffle=True):
            loss = loss_of(self.network(self._moved(inputs)), y.to(self.device))
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
        self.network.eval()
        with torch.no_grad():
            for data in self.data:
                predicted = torch.cat([self.network(self._moved(inputs)) for inputs, _ in DataLoader(data, BATCH)])
                validation.scores(data.y, predicted.double().cpu().numpy())


def multiplications(member):
    """Return what a profile's training step multiplies and adds in matrix products, as published (radius 0), forward and back."""
    sizes = {name: parameter.numel() for name, parameter in member.named_parameters() if name.endswith("weight")}
    first = sum(size for name, size in sizes.items() if name.startswith("features_") and "merge" not in name)
    return 3 * sum(sizes.values()) - first  # by the inputs nothing is derived
