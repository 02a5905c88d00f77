"""An epoch of this project's loop against a per-sample loop, on the same network and data, in one run.

    python benchmarks/epoch_speed.py [--profiles 4000] [--epochs 3]

The per-sample loop is what research code of this kind does: a Dataset that gathers one profile's patches from
dictionaries per variable, a DataLoader that stacks them, convolutions on 1 x 1 patches, plain Adam, and after every
epoch an evaluation of the training and the held-out profiles. Both loops run alternately, each with one thread, which at
this batch size suits both best; ratios of medians are printed.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import engine
import validation
from config import PUBLISHED_CATEGORIES
from models import Member, SoilCarbonNet
from specification import Specification
from training import SMALL_BATCH

BATCH = 32


class PerSample(Dataset):
    """One profile at a time: {variable: {profile_id: (S, S)}} -> one (C, S, S) tensor per category, and the target."""

    def __init__(self, patches, ids, y, numbers):
        self.patches, self.ids, self.y, self.numbers = patches, ids, y, numbers

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        inputs = []
        for category in PUBLISHED_CATEGORIES:
            channels = []
            for name in category.variables:
                mean, std = self.numbers[name]
                channels.append((self.patches[name][self.ids[k]] - mean) / std)
            inputs.append(torch.tensor(np.stack(channels), dtype=torch.float32))
        return inputs, torch.tensor(self.y[k], dtype=torch.float32)


class Plain(Member):
    """The same network on a list of (B, C, 1, 1) tensors, by its convolutions."""

    def forward(self, inputs):
        maps = [self.get_submodule(f"features_{c.name}")(x) for c, x in zip(PUBLISHED_CATEGORIES, inputs, strict=True)]
        return self.final_regressor(self.classifier(self.features_merge(torch.cat(maps, 1)).flatten(1))).squeeze(1)


def per_sample_epoch(network, optimiser, train, held_out):
    loss_of = nn.MSELoss()
    network.train()
    for inputs, y in DataLoader(train, BATCH, shuffle=True):
        loss = loss_of(network(inputs), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        for data in (train, held_out):
            predicted = torch.cat([network(inputs) for inputs, _ in DataLoader(data, BATCH)])
            validation.scores(data.y, predicted.double().numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=4000, help="training profiles [4000]; a quarter as many are held out")
    parser.add_argument(
        "--epochs", type=int, default=3, help="epochs of the per-sample loop [3]; this project's runs five times as many"
    )
    options = parser.parse_args()
    random, n = np.random.default_rng(0), options.profiles * 5 // 4
    names = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
    ids = [f"P{k}" for k in range(n)]
    x = random.normal(5, 2, (n, len(names))).astype(np.float32)
    y = np.exp(2.5 + 0.2 * (x[:, 0] - 5)) + random.normal(0, 1, n)
    numbers = {name: (5.0, 2.0) for name in names}
    patches = {name: {key: x[k, j].reshape(1, 1) for k, key in enumerate(ids)} for j, name in enumerate(names)}
    rows = {"train": slice(0, options.profiles), "held out": slice(options.profiles, n)}

    facts = Specification(statistics=numbers)
    network = SoilCarbonNet(facts)
    ours = {name: engine.make_profiles(network, x[part], y[part], torch.device("cpu")) for name, part in rows.items()}
    theirs = {name: PerSample(patches, ids[part], y[part], numbers) for name, part in rows.items()}
    member, plain = Member(facts), Plain(facts)
    member.initialise(1)
    plain.load_state_dict(member.state_dict())
    fused = torch.optim.Adam(member.parameters(), lr=1e-3, fused=True)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-3)
    threads = max(2, torch.get_num_threads())

    def our_epoch():
        engine.train_epoch(member, fused, ours["train"], torch.randperm(options.profiles), BATCH, nn.MSELoss())
        engine.evaluate(member, ours["train"], ours["held out"], facts)

    def timed(call, with_threads=1):
        torch.set_num_threads(with_threads)
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    timed(our_epoch)  # warm up
    seconds = {"ours": [], "per sample": []}
    for _ in range(options.epochs):
        seconds["per sample"].append(timed(lambda: per_sample_epoch(plain, adam, theirs["train"], theirs["held out"])))
        seconds["ours"] += [timed(our_epoch) for _ in range(5)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"an epoch of {options.profiles} profiles at batch {BATCH}, with evaluation of train and held-out profiles, CPU")
    print(f"  per-sample loop / this loop: {medians['per sample'] / medians['ours']:.1f} times")
    lowest, highest = min(seconds["per sample"]) / max(seconds["ours"]), max(seconds["per sample"]) / min(seconds["ours"])
    print(f"  least and most favourable pair: {lowest:.1f} and {highest:.1f}")
    by_threads = {k: statistics.median(timed(our_epoch, k) for _ in range(3)) for k in {1, threads}}
    ratio = by_threads[threads] / by_threads[1]
    print(
        f"  this loop with {threads} threads lasts {ratio:.2f} times as long as with 1 (training uses 1 up to batch {SMALL_BATCH})"
    )


if __name__ == "__main__":
    main()
