"""Loading a dataset's patches, against plain `pickle.load` of the same files, and its peak memory.

    python benchmarks/loading.py [--profiles 106167] [--radius 1] [--rounds 3] [--growth 100000]

Pickles {profile_id: (S, S) float32} of the published 32 variables are made in a temporary folder. Plain loading, ours and a
start from the kept array run alternately, each in a fresh process with one thread, the files in the system's cache; medians
of the rounds are compared. Memory is the peak of the resident set above what it was before the first file (Linux).
Then the same at growing numbers of profiles (up to `--growth`), variables and radii, measured once: seconds into the packed
array, megabytes above it, seconds of a start from the kept array, speed as a multiple of plain loading's.
"""

import argparse
import os
import pickle
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from measuring import in_fresh_process, keep, resident_mb

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category
from soilcarbon.io import patches
from soilcarbon.io.pickles import dump_pickle


def plain(folder, _, categories):
    for path in patches.patch_paths(folder, categories).values():
        with path.open("rb") as file:
            pickle.load(file)


def kept(folder, ids, categories):
    return patches.read_packed(folder, folder, ids, categories)


METHODS = {"plain": plain, "ours": patches.pack, "kept": kept}


def measured(method, folder, n, categories):
    """Return seconds, and megabytes above what was resident before."""
    ids, patches.CACHED_FROM = [f"P{k:07d}" for k in range(n)], 1
    categories = [Category(**each) for each in categories]
    before, start = resident_mb(), time.perf_counter()
    held = METHODS[method](folder, ids, categories)
    seconds = time.perf_counter() - start
    del held
    return {"seconds": seconds, "megabytes": resident_mb("VmHWM") - before}


def table_of(variables, radius):
    """Return the published categories with so many variables in all: theirs, taken again under other names."""
    names = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
    chosen = [names[k % len(names)] + (f"_{k // len(names)}" if k >= len(names) else "") for k in range(variables)]
    return [{"name": "all", "variables": chosen, "radius": radius}]


def make_patches(folder, n, categories):
    ids, random = [f"P{k:07d}" for k in range(n)], np.random.default_rng(0)
    side = 2 * categories[0]["radius"] + 1
    for name in categories[0]["variables"]:
        values = random.normal(5, 2, (n, side, side)).astype(np.float32)
        dump_pickle(folder / f"{name}.pkl", dict(zip(ids, values, strict=True)))


def measure(folder, n, categories, rounds):
    """Return method -> seconds and megabytes: the medians, and for memory the most."""
    found = {method: [] for method in METHODS}

    def run(method):
        return in_fresh_process(measured, method, folder, n, categories)

    first = run("kept")  # writes the cache
    for _ in range(rounds):
        for method, results in found.items():
            results.append(run(method))
    shutil.rmtree(folder / ".packed")
    summary = {
        method: {
            "seconds": statistics.median(each["seconds"] for each in results),
            "megabytes": max(each["megabytes"] for each in results),
        }
        for method, results in found.items()
    }
    pairs = [p["seconds"] / o["seconds"] for p, o in zip(found["plain"], found["ours"], strict=True)]
    return summary | {"first": first, "pairs": [min(pairs), max(pairs)]}


def case(n, variables, radius, rounds):
    """Make the files, measure, and return the numbers of a line."""
    categories = table_of(variables, radius)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_patches(folder, n, categories)
        on_disk = sum(path.stat().st_size for path in folder.glob("*.pkl"))
        found = measure(folder, n, categories, rounds)
    f = variables * (2 * radius + 1) ** 2
    size = {"profiles": n, "variables": variables, "radius": radius, "f": f, "files_mb": on_disk / 2**20}
    return size | {"packed_mb": n * f * 4 / 2**20, **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=106_167, help="N [106167, as published]")
    parser.add_argument("--radius", type=int, default=1, help="r, windows are 2r+1 cells wide [1]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each method [3]")
    parser.add_argument(
        "--growth", type=int, default=100_000, help="the most profiles of the second table; 0: no such table [100000]"
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are measured

    main_case = case(options.profiles, 32, options.radius, options.rounds)
    plain, ours, kept, first = (main_case[method] for method in ("plain", "ours", "kept", "first"))
    packed, one, side = main_case["packed_mb"], plain["megabytes"], 2 * options.radius + 1
    above, (low, high) = ours["megabytes"] - packed, main_case["pairs"]
    print(f"{options.profiles:,} profiles x 32 variables x {side} x {side}, {packed:.0f} MB packed; one thread")
    print(f"  plain pickle.load, file by file  {plain['seconds']:8.2f} s   peak {one:.0f} MB, of one variable")
    print(f"  into the packed array            {ours['seconds']:8.2f} s   peak {ours['megabytes']:.0f} MB")
    print(f"  a first start, array kept        {first['seconds']:8.2f} s")
    print(f"  a second start, from it          {kept['seconds']:8.2f} s")
    print(
        f"  into the packed array: {plain['seconds'] / ours['seconds']:.1f} times as fast as plain (pairs {low:.1f} to {high:.1f})"
    )
    print(f"  second start: {plain['seconds'] / kept['seconds']:.0f} times as fast as plain")
    print(f"  memory above the packed array: {above:.0f} MB, {above / one:.2f} of a variable as pickle.load holds it")

    growth = []
    sizes = [(n, 8, 0) for n in (10**3, 10**4, 10**5, 10**6) if n <= options.growth]
    sizes += [(10**4, 8, 1), (10**4, 8, 3), (10**4, 32, 1), (10**4, 128, 1)] if options.growth else []
    if sizes:
        columns = {"N": 9, "variables": 11, "r": 4, "F": 7, "s": 9, "ns/number": 11, "MB above": 10, "kept s": 9, "speed": 7}
        print("\n" + "".join(name.rjust(width) for name, width in columns.items()))
    for n, variables, radius in sizes:
        found = case(n, variables, radius, 1)
        growth.append(found)
        seconds, numbers = found["ours"]["seconds"], n * found["f"]
        print(
            f"{n:9,}{variables:11}{radius:4}{found['f']:7}{seconds:9.3f}{seconds / numbers * 1e9:11.1f}"
            f"{found['ours']['megabytes'] - found['packed_mb']:10.0f}{found['kept']['seconds']:9.3f}"
            f"{found['plain']['seconds'] / seconds:7.1f}"
        )
    keep("loading", {"published": main_case, "growth": growth})


if __name__ == "__main__":
    main()
