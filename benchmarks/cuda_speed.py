"""Time of the published run on a CUDA device, and comparison of its scores with a CPU.

    python benchmarks/cuda_speed.py [--profiles 106167] [--epochs 10]        make bench-cuda runs this

On made-up profiles of the published size, four fifths of which train: epochs of batch 32 and of batch 4096, each with its
evaluation of all profiles, from which the published run of 1000 epochs follows; the published loop (`loops.py`) on the same
device, by profile, for fewer of them; steps of batch 4096 as a share of a large matrix product's rate; and how well sixty
epochs predict on the device and on the CPU, three seeds each.
"""

import argparse
import statistics
import sys
import time

import torch
from loops import BATCH, Ours, PublishedLoop, facts_of, made_up, multiplications
from measuring import keep, timed

LARGE, SIDE, EPOCHS = 4096, 8192, 1000


def waited(call):
    """Return the wall seconds of a call, synchronised with the device."""

    def whole():
        call()
        torch.cuda.synchronize()

    return timed(whole, time.perf_counter)


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
    facts = facts_of(0)
    x, y = made_up(options.profiles, facts)
    found = {"profiles": options.profiles, "seconds of 1000 epochs": {}}
    for batch, epochs in ((BATCH, options.epochs), (LARGE, 20 * options.epochs)):
        ours = Ours(x, y, facts, "cuda", batch)
        waited(ours.epoch)  # captures
        seconds = waited(lambda ours=ours, epochs=epochs: [ours.epoch() for _ in range(epochs)]) / epochs * EPOCHS
        steps = waited(lambda ours=ours: [ours.steps() for _ in range(3)]) / 3 * EPOCHS
        found["seconds of 1000 epochs"][f"batch {batch}"] = {"with evaluation": seconds, "steps alone": steps}
        print(f"batch {batch}: {EPOCHS} epochs in {seconds:.0f} s ({steps:.0f} s of steps), from {epochs} timed")
    few = 2000
    theirs = PublishedLoop(x[:few], y[:few], facts, "cuda")
    waited(theirs.epoch)
    by_profile = statistics.median(waited(theirs.epoch) for _ in range(3)) / few
    ratio = by_profile * options.profiles * EPOCHS / found["seconds of 1000 epochs"][f"batch {BATCH}"]["with evaluation"]
    found["published loop / this loop, batch 32"] = ratio
    print(f"published loop / this loop, by profile, batch {BATCH}: {ratio:.0f}")

    one = torch.randn(SIDE, SIDE, device="cuda")
    ceiling = SIDE**3 / min(waited(lambda: one @ one) for _ in range(5))
    work = len(ours.sets.fit.y) * multiplications(theirs.network) * EPOCHS
    share = work / found["seconds of 1000 epochs"][f"batch {LARGE}"]["steps alone"] / ceiling
    found[f"share of a matrix product's rate at batch {LARGE}"] = share
    print(f"batch {LARGE}: {share:.1%} of the rate of a {SIDE} x {SIDE} float32 matrix product")

    scores = {}
    for device in ("cpu", "cuda"):
        runs = [Ours(x[:5000], y[:5000], facts, device, seed=seed) for seed in (1, 2, 3)]
        scores[device] = [[ours.epoch() for _ in range(60)][-1]["valid"]["rmse"] for ours in runs]
        print(
            f"RMSE of 1,000 profiles held out, after 60 epochs on 4,000, {device}: {', '.join(f'{s:.3f}' for s in scores[device])}"
        )
    found["rmse after 60 epochs"] = scores
    keep("cuda_speed", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
