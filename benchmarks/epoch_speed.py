"""What a step and an epoch of this project's loop cost, against a per-sample loop and against the machine's multiplications.

    python benchmarks/epoch_speed.py [--profiles 1600] [--pairs 5] [--out results/epoch_speed.json]

The per-sample loop is what research code of this kind does: a Dataset that gathers one profile's patches from
dictionaries per variable, a DataLoader that stacks them, convolutions, plain Adam, and after every epoch an evaluation of
the training and the held-out profiles. Both loops have the same network and profiles and run alternately, each with one
thread, which at batch 32 suits both best; windows are of one radius in all categories. The rate of a matrix product (1024 x
1024 x 1024, float32) is measured between epochs of batch 1024, with the same threads. Times are of the process (CPU time),
which other programs disturb least; ratios are of medians.
"""

import argparse
import json
import platform
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
from steps import Descent
from training import SMALL_BATCH

BATCH, LARGE = 32, 1024
NAMES = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
NUMBERS = {name: (5.0, 2.0) for name in NAMES}


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
    """The same network on a list of (B, C, S, S) tensors, by its convolutions."""

    def forward(self, inputs):
        maps = [self.get_submodule(name)(x) for (name, *_), x in zip(self.layout, inputs, strict=True)]
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


class Loops:
    """Our loop and the per-sample one, on the same profiles with windows of one radius."""

    def __init__(self, profiles, radius):
        random, n, size = np.random.default_rng(0), profiles * 5 // 4, 2 * radius + 1
        x = random.normal(5, 2, (n, len(NAMES), size, size)).astype(np.float32)
        y = np.exp(2.5 + 0.2 * (x[:, 0, radius, radius] - 5)) + random.normal(0, 1, n)
        ids = [f"P{k}" for k in range(n)]
        patches = {name: {key: x[k, j] for k, key in enumerate(ids)} for j, name in enumerate(NAMES)}
        categories = tuple(category.model_copy(update={"radius": radius}) for category in PUBLISHED_CATEGORIES)
        self.facts = Specification(statistics=NUMBERS, categories=categories)
        network = SoilCarbonNet(self.facts)
        rows = slice(0, profiles), slice(profiles, n)
        self.ours = [engine.make_profiles(network, x[part].reshape(-1, x[0].size), y[part], torch.device("cpu")) for part in rows]
        self.theirs = [PerSample(patches, ids[part], y[part], NUMBERS) for part in rows]
        member, self.plain = Member(self.facts), Plain(self.facts)
        member.initialise(1)
        self.plain.load_state_dict(member.state_dict())
        self.descent = Descent(member, 1e-3)
        self.adam = torch.optim.Adam(self.plain.parameters(), lr=1e-3)

    def steps(self, batch=BATCH):
        train = self.ours[0]
        self.descent.epoch(train.encoded, train.output, torch.randperm(len(train.y)), batch)

    def our_epoch(self):
        self.steps()
        engine.evaluate(self.descent.outputs, *self.ours, self.facts)

    def per_sample_epoch(self):
        per_sample_epoch(self.plain, self.adam, *self.theirs)


def timed(call, clock=time.process_time):
    start = clock()
    call()
    return clock() - start


def against_per_sample(profiles, radius, pairs):
    """Return the ratio of medians, and the lowest and highest ratio of neighbours in time."""
    loops = Loops(profiles, radius)
    loops.our_epoch()  # warm up
    theirs, ours = [], []
    for _ in range(pairs):
        theirs.append(timed(loops.per_sample_epoch))
        ours.append(statistics.median(timed(loops.our_epoch) for _ in range(5)))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return {"ratio": statistics.median(theirs) / statistics.median(ours), "lowest": min(ratios), "highest": max(ratios)}


def share_of_ceiling(profiles, pairs):
    """Return the share of a large matrix product's rate at which steps of batch 1024 do the network's arithmetic.

    Counted are the multiplications of forward and backward, as published; dropout, loss and Adam are not, but take time.
    """
    loops, one = Loops(profiles // LARGE * LARGE or LARGE, 0), torch.randn(LARGE, LARGE)
    sizes = {name: parameter.numel() for name, parameter in loops.plain.named_parameters() if name.endswith("weight")}
    first = sum(size for name, size in sizes.items() if name.startswith("features_") and "merge" not in name)
    count = len(loops.ours[0].y) * (3 * sum(sizes.values()) - first)  # by the inputs nothing is derived
    product = torch.empty(LARGE, LARGE)
    rates, ceilings = [], []
    loops.steps(LARGE)
    for _ in range(4 * pairs):
        ceilings.append(3 * LARGE**3 / timed(lambda: [torch.mm(one, one, out=product) for _ in range(3)]))
        rates.append(count / timed(lambda: loops.steps(LARGE)))
    return statistics.median(rates) / statistics.median(ceilings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=1600, help="training profiles [1600]; a quarter as many are held out")
    parser.add_argument(
        "--pairs", type=int, default=5, help="epochs of the per-sample loop [5]; this project's runs five times as many"
    )
    parser.add_argument("--out", type=Path, default=Path("results/epoch_speed.json"), help="the numbers [results/epoch_speed.json]")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    machine = {"cpu": cpu(), "threads": 1, "torch": torch.__version__, "python": platform.python_version()}
    found = {"machine": machine, "profiles": options.profiles, "batch": BATCH, "per-sample loop / this loop": {}}
    print(f"an epoch of {options.profiles} profiles at batch {BATCH}, with evaluation of train and held-out ones; {machine['cpu']}")
    for radius in (0, 1, 3):
        numbers = against_per_sample(options.profiles, radius, options.pairs)
        found["per-sample loop / this loop"][f"radius {radius}"] = numbers
        pairs = f"{numbers['lowest']:.1f} to {numbers['highest']:.1f}"
        print(f"  radius {radius}: per-sample loop / this loop {numbers['ratio']:.1f} (pairs {pairs})")
    share = found["share of a matrix product's rate at batch 1024"] = share_of_ceiling(options.profiles, options.pairs)
    print(f"  batch {LARGE}: {share:.0%} of a large matrix product's rate, on the same thread")
    if threads > 1:
        loops = Loops(options.profiles, 0)
        seconds = {}
        for k in (1, threads):
            torch.set_num_threads(k)
            seconds[k] = statistics.median(timed(loops.our_epoch, time.perf_counter) for _ in range(5))
        longer = found["with all threads / with one, batch 32"] = seconds[threads] / seconds[1]
        print(f"  with {threads} threads it lasts {longer:.2f} times as long as with 1 (training uses 1 up to batch {SMALL_BATCH})")
    found["cuda"] = "not measured: no such machine was at hand"
    print(f"  CUDA: {found['cuda']}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def cpu():
    """Return the processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
