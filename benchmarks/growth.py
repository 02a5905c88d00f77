"""Growth of training time and memory with profiles, variables and radius.

    python benchmarks/growth.py [--most 1000000]

Each line is a process of its own with one thread: from a packed array in memory to one epoch of batch 32, with evaluation of the
training and held-out profiles. Time is of the process, by profile and by the numbers a profile has; memory is the
peak above the packed array, in multiples of it and in megabytes. (What loading grows like is in loading.py.)
"""

import argparse

import torch
from loops import Ours, facts_of, made_up
from measuring import in_fresh_process, keep, resident_mb, timed


def measure(n, variables, radius):
    """Return time and memory of one size."""
    torch.set_num_threads(1)
    facts = facts_of(radius, variables)
    small = Ours(*made_up(640, facts), facts)
    small.epoch()  # libraries load what they need
    x, y = made_up(n, facts)
    before = resident_mb()
    ours = Ours(x, y, facts)
    seconds = timed(ours.epoch)
    above, packed = resident_mb("VmHWM") - before, x.nbytes / 2**20
    numbers = x[0].size
    return {
        "profiles": n, "variables": variables, "radius": radius, "numbers of a profile": numbers,
        "microseconds by profile": seconds / n * 1e6, "nanoseconds by number": seconds / n / numbers * 1e9,
        "packed_mb": packed, "above_mb": above,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="the most profiles [1000000]")
    options = parser.parse_args()
    sizes = [(n, 32, 0) for n in (10**3, 10**4, 10**5, 10**6) if n <= options.most]
    sizes += [(10**4, variables, 0) for variables in (8, 128, 512)] + [(10**4, 32, radius) for radius in (1, 3)]
    columns = {"N": 9, "variables": 11, "r": 4, "F": 7, "us/profile": 12, "ns/number": 11, "packed MB": 11, "MB above": 10}
    print("one epoch of training and evaluation, batch 32, one thread\n" + "".join(name.rjust(k) for name, k in columns.items()))
    lines = []
    for size in sizes:
        found = in_fresh_process(measure, *size)
        lines.append(found)
        print(
            f"{found['profiles']:9,}{found['variables']:11}{found['radius']:4}{found['numbers of a profile']:7}"
            f"{found['microseconds by profile']:12.1f}{found['nanoseconds by number']:11.0f}{found['packed_mb']:11.1f}"
            f"{found['above_mb']:10.1f}"
        )
    keep("growth", {"training": lines})


if __name__ == "__main__":
    main()
