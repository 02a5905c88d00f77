"""What a step and an epoch of this project's loop cost, against a per-sample loop and against the machine's multiplications.

    python benchmarks/epoch_speed.py [--profiles 1600] [--pairs 5]

Both loops (`loops.py`) have the same network and profiles and run alternately, each with one thread, which at batch 32 suits both
best; windows are of one radius in all categories. The rate of a matrix product (1024 x 1024 x 1024, float32) is measured between
epochs of batch 1024, with the same thread. Times are of the process (CPU time), which other programs disturb least; ratios are of
medians.
"""

import argparse
import statistics
import time

import torch
from loops import BATCH, Ours, PerSampleLoop, facts_of, made_up, multiplications
from measuring import keep, processor, timed

from soilcarbon.commands.train import SMALL_BATCH

LARGE = 1024


def against_per_sample(profiles, radius, pairs):
    """Return the ratio of medians, and the lowest and highest ratio of neighbours in time."""
    facts = facts_of(radius)
    data = made_up(profiles * 5 // 4, facts)
    ours, theirs = Ours(*data, facts), PerSampleLoop(*data, facts)
    ours.epoch()  # warm up
    long, short = [], []
    for _ in range(pairs):
        long.append(timed(theirs.epoch))
        short.append(statistics.median(timed(ours.epoch) for _ in range(5)))
    ratios = [their / our for their, our in zip(long, short, strict=True)]
    return {"ratio": statistics.median(long) / statistics.median(short), "lowest": min(ratios), "highest": max(ratios)}


def share_of_ceiling(profiles, pairs):
    """Return the share of a large matrix product's rate at which steps of batch 1024 do the network's arithmetic.

    Counted are the multiplications of forward and backward, as published; dropout, loss and Adam are not, but take time.
    """
    facts, count = facts_of(0), profiles // LARGE * LARGE or LARGE
    ours = Ours(*made_up(count * 5 // 4, facts), facts, batch=LARGE)
    one, product = torch.randn(LARGE, LARGE), torch.empty(LARGE, LARGE)
    work = count * multiplications(PerSampleLoop(*made_up(5, facts), facts).network)
    rates, ceilings = [], []
    ours.steps()
    for _ in range(4 * pairs):
        ceilings.append(3 * LARGE**3 / timed(lambda: [torch.mm(one, one, out=product) for _ in range(3)]))
        rates.append(work / timed(ours.steps))
    return statistics.median(rates) / statistics.median(ceilings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=1600, help="training profiles [1600]; a quarter as many are held out")
    parser.add_argument(
        "--pairs", type=int, default=5, help="epochs of the per-sample loop [5]; this project's runs five times as many"
    )
    options = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {"profiles": options.profiles, "batch": BATCH, "per-sample loop / this loop": {}}
    print(f"an epoch of {options.profiles} profiles at batch {BATCH}, with evaluation of train and held-out ones; {processor()}")
    for radius in (0, 1, 3):
        numbers = against_per_sample(options.profiles, radius, options.pairs)
        found["per-sample loop / this loop"][f"radius {radius}"] = numbers
        pairs = f"{numbers['lowest']:.1f} to {numbers['highest']:.1f}"
        print(f"  radius {radius}: per-sample loop / this loop {numbers['ratio']:.1f} (pairs {pairs})")
    share = found["share of a matrix product's rate at batch 1024"] = share_of_ceiling(options.profiles, options.pairs)
    print(f"  batch {LARGE}: {share:.0%} of a large matrix product's rate, on the same thread")
    if threads > 1:
        facts, seconds = facts_of(0), {}
        ours = Ours(*made_up(options.profiles * 5 // 4, facts), facts)
        for k in (1, threads):
            torch.set_num_threads(k)
            seconds[k] = statistics.median(timed(ours.epoch, time.perf_counter) for _ in range(5))
        longer = found["with all threads / with one, batch 32"] = seconds[threads] / seconds[1]
        print(f"  with {threads} threads it lasts {longer:.2f} times as long as with 1 (training uses 1 up to batch {SMALL_BATCH})")
    keep("epoch_speed", found)


if __name__ == "__main__":
    main()
