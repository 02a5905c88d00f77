"""Time of the published run on a CUDA device, beside the published loop there and beside one thread of the CPU.

    python benchmarks/cuda_speed.py [--profiles 106167] [--epochs 10]        make bench-cuda runs this

On made-up profiles of the published size, four fifths of which train, with single cells and with windows of 7 x 7 cells (of a
fifth of the profiles): epochs of batch 32 and of batch 4096, each with its evaluation of all profiles, from which the published run
of 1000 epochs follows; by profile, the published loop (`loops.py`) on the same device, and this loop on one thread of the CPU,
for fewer profiles; steps of batch 4096 as a share of a large matrix product's rate; and how well sixty epochs predict on the
device and on the CPU, three seeds each.
"""

import argparse
import statistics
import sys
import time
from contextlib import closing

import torch
from loops import BATCH, Ours, PublishedLoop, facts_of, made_up, multiplications
from measuring import keep, timed

from soilcarbon.network.network import Member

LARGE, SIDE, EPOCHS, FEW = 4096, 8192, 1000, 2000


def waited(call):
    """Return the wall seconds of a call, synchronised with the device."""

    def whole():
        call()
        torch.cuda.synchronize()

    return timed(whole, time.perf_counter)


def by_profile(loop, profiles):
    """Return the median seconds of three epochs, after one more, divided by the profiles."""
    waited(loop.epoch)
    return statistics.median(waited(loop.epoch) for _ in range(3)) / profiles


def speeds(radius, profiles, epochs):
    """Return batch -> what 1000 epochs take on the device, and the ratios to other loops, at one radius of the windows."""
    facts, found = facts_of(radius), {}
    x, y = made_up(profiles, facts)
    with closing(PublishedLoop(x[:FEW], y[:FEW], facts, "cuda")) as loop:
        published = by_profile(loop, FEW)
    for batch, count in ((BATCH, epochs), (LARGE, 20 * epochs)):
        ours = Ours(x, y, facts, "cuda", batch)
        waited(ours.epoch)  # captures
        seconds = waited(lambda ours=ours, count=count: [ours.epoch() for _ in range(count)]) / count
        steps = waited(lambda ours=ours: [ours.steps() for _ in range(3)]) / 3
        on_cpu = by_profile(Ours(x[: max(FEW, 2 * batch)], y[: max(FEW, 2 * batch)], facts, "cpu", batch), max(FEW, 2 * batch))
        found[f"batch {batch}"] = {
            f"seconds of {EPOCHS} epochs": seconds * EPOCHS,
            "of these, steps": steps * EPOCHS,
            "microseconds by profile": seconds / profiles * 1e6,
            "one CPU thread / this": on_cpu * profiles / seconds,
            f"published loop, batch {BATCH} / this": published * profiles / seconds,
        }
    return found


def share_of_ceiling(seconds, profiles):
    """Return the rate of steps at radius 0, which take so many seconds in all epochs, as a share of a matrix product's."""
    one = torch.randn(SIDE, SIDE, device="cuda")
    ceiling = SIDE**3 / min(waited(lambda: one @ one) for _ in range(5))
    return profiles * 4 // 5 * multiplications(Member(facts_of(0))) * EPOCHS / seconds / ceiling


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=106_167, help="all profiles [106167, as published]")
    parser.add_argument(
        "--epochs", type=int, default=10, help="epochs of batch 32 that are timed [10]; of batch 4096 20 times as many"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("CUDA: not measured, for there is no such device here", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found = {"profiles": options.profiles}
    for radius in (0, 3):
        profiles = options.profiles if radius == 0 else options.profiles // 5
        found[f"radius {radius}"] = speeds(radius, profiles, options.epochs)
        for batch, numbers in found[f"radius {radius}"].items():
            print(f"radius {radius}, {profiles} profiles, {batch}")
            for what, number in numbers.items():
                print(f"  {what:<40}{number:10.1f}")
    found[f"share of a matrix product's rate at batch {LARGE}"] = share = share_of_ceiling(
        found["radius 0"][f"batch {LARGE}"]["of these, steps"], options.profiles
    )
    print(f"batch {LARGE}, radius 0: {share:.1%} of the rate of a {SIDE} x {SIDE} float32 matrix product")

    scores, facts = {}, facts_of(0)
    x, y = made_up(5000, facts)
    for device in ("cpu", "cuda"):
        runs = [Ours(x, y, facts, device, seed=seed) for seed in (1, 2, 3)]
        scores[device] = [[ours.epoch() for _ in range(60)][-1]["valid"]["rmse"] for ours in runs]
        print(
            f"RMSE of 1,000 profiles held out, after 60 epochs on 4,000, {device}: {', '.join(f'{s:.3f}' for s in scores[device])}"
        )
    found["rmse after 60 epochs"] = scores
    keep("cuda_speed", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
