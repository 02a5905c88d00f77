"""Time a whole analysis of drivers: every learner, every method, 100 refits each.

    python benchmarks/driver_speed.py [--profiles 30000] [--model] [--workers 2]

The covariates are 46, in six categories, and go together by eight hidden factors; carbon follows four of them, with noise. With
--model the output of a process model is compared too, which makes it twice the work. Prints wall and processor seconds, and how
loaded the machine was: on a busy one, processor seconds over two are more reliable.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from soilcarbon.categories import Category
from soilcarbon.io.files import write_yaml
from soilcarbon.simulation.earth_system_model import write_cmip
from soilcarbon.soil.dataset import write_dataset

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"climate": 19, "terrain": 7, "vegetation": 6, "soil": 8, "rock": 4, "land": 2}
CELL = 1.0


def make(folder, n):
    """Write a dataset of n profiles, and a model's output in cells of one degree."""
    random = np.random.default_rng(0)
    names = [f"{category}{k}" for category, size in SIZES.items() for k in range(size)]
    wide = np.linspace(0.5, 3, 8)
    angles, steps = random.uniform(0, 2 * np.pi, (8, 2)), random.normal(size=(8, len(names)))

    def covariates(lon, lat):
        waves = np.sin(np.radians(lon)[:, None] * wide + angles[:, 0]) * np.cos(np.radians(lat)[:, None] * wide + angles[:, 1])
        return waves @ steps + 0.7 * random.normal(size=(len(lon), len(names)))

    lon, lat = random.uniform(-180, 180, n), random.uniform(-60, 80, n)
    x = covariates(lon, lat).astype(np.float32)

    def carbon_of(x, second):
        return np.exp(2.5 + 0.5 * np.tanh(x[:, 0]) + second * np.tanh(x[:, 19]) + 0.2 * x[:, 26] * np.tanh(x[:, 32]))

    soc = carbon_of(x, 0.4) * np.exp(0.4 * random.normal(size=n))
    samples = pd.DataFrame({"profile_id": [f"p{k}" for k in range(n)], "lon": lon, "lat": lat, "soc": soc})
    patches = {name: x[:, k].reshape(-1, 1, 1) for k, name in enumerate(names)}
    categories, first = [], 0
    for category, size in SIZES.items():
        categories.append(Category(name=category, variables=tuple(names[first : first + size])))
        first += size
    split = np.array(["train", "train", "train", "valid", "test"])[np.arange(n) % 5]
    write_dataset(folder / "data", samples, patches, split, categories, {})
    column, row = np.meshgrid(np.arange(-179.5, 180), np.arange(89.5, -90, -1))
    carbon = carbon_of(covariates(column.ravel(), row.ravel()), 0.0).reshape(column.shape)
    write_cmip(folder / "cSoil.nc", 0.4 * carbon, -180.0, 90.0, CELL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=30_000)
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.profiles)
        targets = [{"name": "observations", "kind": "observed"}]
        if given.model:
            targets.append({"name": "model", "kind": "model", "path": str(folder / "cSoil.nc")})
        facts = {"data_dir": str(folder / "data"), "targets": targets, "support": "profiles", "out": str(folder / "out")}
        write_yaml(folder / "d.yaml", facts | {"workers": given.workers})
        began = time.perf_counter()
        command = [sys.executable, "-m", "soilcarbon", "drivers", "--config", str(folder / "d.yaml")]
        subprocess.run(command, check=True, cwd=ROOT)
        wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{given.profiles:,} profiles, {len(targets)} target{'s'[: len(targets) > 1]}, {given.workers} workers: {wall:.0f} s, "
            f"{used.ru_utime + used.ru_stime:.0f} s of processors (load {os.getloadavg()[2]:.1f})"
        )


if __name__ == "__main__":
    main()
