"""Time per epoch: this project's loop against the published script's, members side by side, share of arithmetic.

    python benchmarks/epoch_speed.py [--profiles 20000] [--pairs 3]

Both loops (`loops.py`) have the same network and profiles and run alternately, each with one thread, by processor time, which other
programs disturb least; windows are of one radius in all categories; ratios are of medians. Then an ensemble is trained as by the
command, logs and TensorBoard included, one member per core side by side and one after the other: wall time per member and epoch,
without the processes' start, beside the published loop's, and whether the weights are the same bits. Last the rate of a matrix
product (1024 x 1024 x 1024, float32), measured between epochs of batch 1024.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from loops import BATCH, Ours, PublishedLoop, facts_of, made_up, multiplications
from measuring import keep, processor, timed

from soilcarbon.training.ensemble import SMALL_BATCH, Members, RunFiles, TrainingData, train_members
from soilcarbon.training.loop import Schedule, encode_profiles

LARGE = 1024


def against_published(profiles, radius, pairs):
    """Return the ratio of medians, and the lowest and highest ratio of neighbours in time."""
    facts = facts_of(radius)
    data = made_up(profiles, facts)
    ours, theirs = Ours(*data, facts), PublishedLoop(*data, facts)
    ours.epoch()  # warm up
    long, short = [], []
    for _ in range(pairs):
        long.append(timed(theirs.epoch))
        short.append(statistics.median(timed(ours.epoch) for _ in range(3)))
    ratios = [their / our for their, our in zip(long, short, strict=True)]
    return {"ratio": statistics.median(long) / statistics.median(short), "lowest": min(ratios), "highest": max(ratios)}


def members_side_by_side(profiles, epochs, pairs):
    """Return wall seconds per member and epoch: side by side, one after the other, and of the published loop."""
    facts, count = facts_of(0), os.cpu_count() or 1
    x, y = made_up(profiles, facts)
    known = TrainingData(
        encode_profiles(facts, x.reshape(len(y), -1), y, torch.device("cpu")), len(y) * 4 // 5, torch.arange(0).numpy()
    )
    members = Members(facts, [], known, Schedule(epochs, BATCH), count, 1)

    def train(workers, longest):
        with tempfile.TemporaryDirectory() as folder:
            files = RunFiles(Path(folder), {}, resume=False, tensorboard=True)
            few = replace(members, schedule=replace(members.schedule, epochs=longest))
            start = time.perf_counter()
            best = train_members(few, files, workers)
            return time.perf_counter() - start, best

    def seconds(workers):
        return (train(workers, 2 + epochs)[0] - train(workers, 2)[0]) / epochs / count

    theirs = PublishedLoop(x, y, facts)
    theirs.epoch()
    rows = [(seconds(0), seconds(1), timed(theirs.epoch, time.perf_counter)) for _ in range(pairs)]
    together, alone, published = map(statistics.median, zip(*rows, strict=True))
    weights = [[each.weights for each in train(workers, 2)[1]] for workers in (0, 1)]
    same = all(torch.equal(a[name], b[name]) for a, b in zip(*weights, strict=True) for name in a)
    return {"members": count, "side by side": together, "one after the other": alone, "published": published, "same bits": same}


def share_of_ceiling(profiles, pairs):
    """Return the share of a large matrix product's rate at which steps of batch 1024 do the network's arithmetic.

    Counted are the multiplications of forward and backward, as published; dropout, loss and Adam are not, but take time.
    """
    facts, count = facts_of(0), profiles // LARGE * LARGE or LARGE
    ours = Ours(*made_up(count * 5 // 4, facts), facts, batch=LARGE)
    one, product = torch.randn(LARGE, LARGE), torch.empty(LARGE, LARGE)
    work = count * multiplications(PublishedLoop(*made_up(5, facts), facts).network)
    rates, ceilings = [], []
    ours.steps()
    for _ in range(4 * pairs):
        ceilings.append(3 * LARGE**3 / timed(lambda: [torch.mm(one, one, out=product) for _ in range(3)]))
        rates.append(work / timed(ours.steps))
    return statistics.median(rates) / statistics.median(ceilings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=20_000, help="profiles, of which a fifth is held out [20000]")
    parser.add_argument("--pairs", type=int, default=3, help="epochs of the published loop [3]; this project's runs more")
    parser.add_argument("--epochs", type=int, default=20, help="of an ensemble [20]")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {"profiles": options.profiles, "batch": BATCH, "load before": os.getloadavg()[0], "published loop / this loop": {}}
    print(f"an epoch of {options.profiles} profiles at batch {BATCH}, with evaluation of train and held-out ones; {processor()}")
    for radius, fewer in ((0, 1), (1, 4), (3, 10)):
        numbers = against_published(options.profiles // fewer, radius, options.pairs)
        found["published loop / this loop"][f"radius {radius}"] = numbers
        pairs = f"{numbers['lowest']:.1f} to {numbers['highest']:.1f}"
        print(f"  radius {radius}: published loop / this loop {numbers['ratio']:.1f} (pairs {pairs})")
    numbers = found["ensemble, wall seconds per member and epoch"] = members_side_by_side(
        options.profiles, options.epochs, options.pairs
    )
    print(
        f"  {numbers['members']} members side by side: {numbers['published'] / numbers['side by side']:.1f} times the published "
        f"loop per member and epoch, one after the other {numbers['published'] / numbers['one after the other']:.1f}; "
        f"{'the same' if numbers['same bits'] else 'OTHER'} bits"
    )
    share = found["share of a matrix product's rate at batch 1024"] = share_of_ceiling(1600, options.pairs)
    print(f"  batch {LARGE}: {share:.0%} of a large matrix product's rate, on the same thread")
    if threads > 1:
        facts, seconds = facts_of(0), {}
        ours = Ours(*made_up(2000, facts), facts)
        for k in (1, threads):
            torch.set_num_threads(k)
            seconds[k] = statistics.median(timed(ours.epoch, time.perf_counter) for _ in range(5))
        longer = found["with all threads / with one, batch 32"] = seconds[threads] / seconds[1]
        print(f"  with {threads} threads it lasts {longer:.2f} times as long as with 1 (training uses 1 up to batch {SMALL_BATCH})")
    keep("epoch_speed", found)


if __name__ == "__main__":
    main()
