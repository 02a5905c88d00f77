"""Count how often a report names a mismatch that is not there, and how often it finds those that are.

    python benchmarks/false_alarms.py [--first 1] [--seeds 50] [--law same|faulty] [--profiles 800] [--out FILE]

Each seed is another example world. Observations are its law of soil carbon with noise (30 %), at clustered profiles. The model
is the very same law, without noise (`same`: whatever is named is a false alarm), or the example world's faulty model
(`faulty`: too much temperature and productivity, no lithology and texture). What the law itself rests on, by permuting its own
inputs, is the truth that intervals are held against. Prints a line per seed and counts; FILE keeps finished seeds, also
of several processes side by side.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import halves
from config import Category
from grouping import group_folds, split_units
from halves import Budget, Study, refit
from importance import permutation, shares
from learners import answers, efficiency, matching_noise, out_of_fold
from mismatch import contrasts
from pedogenesis import Pedogenesis, soil_carbon
from processmodel import FAULTY
from responses import density, grid_of
from world import World, _unit_vectors

DRIVERS = {
    "temperature": ["bio01"],
    "wetness": ["bio12"],
    "productivity": ["evi_mean", "evi_min"],
    "relief": ["slope", "hollow"],
    "lithology and texture": ["bedrock", "clay"],
}
VARIABLES = [name for names in DRIVERS.values() for name in names]
CURVES = ["bio01", "bio12", "evi_mean", "slope"]
NOISE = 0.3
CLUSTERS = 200
LEVEL = 0.95


class Law:
    """The law as if it were a learner: it answers to its true inputs."""

    def __init__(self, how, reference):
        self.how, self.reference = how, reference

    def carbon(self, x):
        values = dict(zip(VARIABLES, x.T.astype(float), strict=True))
        clay, hollow = (values.pop(name) for name in ("clay", "hollow"))
        if self.how is FAULTY:
            clay, hollow = 0 * clay, 0 * hollow
        return soil_carbon(values, clay, hollow, self.how)

    def predict(self, x):
        middle, low, spread = self.reference
        return (np.log(0.05 + self.carbon(x) / middle) - low) / spread


def profiles(seed, n):
    """Return covariates (n, V), lon and lat of clustered profiles of a world."""
    random, world = np.random.default_rng(seed), World(seed)
    lon, lat = random.uniform(-180, 180, CLUSTERS), np.degrees(np.arcsin(random.uniform(-0.8, 0.95, CLUSTERS)))
    chosen = random.integers(CLUSTERS, size=20 * n)
    lon = (lon[chosen] + random.normal(0, 4, len(chosen)) + 180) % 360 - 180
    lat = np.clip(lat[chosen] + random.normal(0, 3, len(chosen)), -59, 83)
    covariates, _, truth = world.at(lon, lat)
    covariates |= {
        "clay": world._fields["clay"](_unit_vectors(lon, lat)),
        "hollow": -world._fields["hill"](_unit_vectors(lon, lat)),
    }
    x = np.stack([covariates[name] for name in VARIABLES], axis=1).astype(np.float32)
    rows = np.flatnonzero(np.isfinite(truth) & np.isfinite(x).all(1))[:n]
    return x[rows], lon[rows], lat[rows]


def trial(seed, n, how, refits):
    """Return what one report would say, as plain values."""
    x, lon, lat = profiles(seed, n)
    random = np.random.default_rng([seed, 5])
    true = Law(Pedogenesis(), (1, 0, 1)).carbon(x)
    observed, modelled = true * np.exp(NOISE * random.normal(size=n)), Law(how, (1, 0, 1)).carbon(x)
    z = np.stack([answers(observed), answers(modelled)])
    drivers = {driver: np.array([VARIABLES.index(name) for name in names]) for driver, names in DRIVERS.items()}
    categories = (Category(name="covariates", variables=tuple(VARIABLES)),)
    units = split_units(lon, lat, "blocks", 2.0)
    folds = group_folds(units, 5, seed)
    predicted = out_of_fold("boosting", x, z[0], categories, folds, seed)
    residuals, wanted = z[0] - predicted, efficiency(z[0], predicted)
    factor, matched = matching_noise("boosting", x, z[1], categories, folds, units, residuals, wanted, seed)
    curves = []
    for name in CURVES:
        column = VARIABLES.index(name)
        grid = grid_of(x[:, column])
        curves.append((column, grid, density(x[:, column], grid)))
    strata = np.zeros((len(VARIABLES) + len(drivers), n), np.int64)
    study = Study(x, categories, z, residuals, np.array([0, factor]), units, drivers, strata, tuple(curves), None, {}, seed)
    halves.BUDGETS["boosting"] = Budget(2000, 2, 1, 1, 0)  # no more than mismatches rest on
    parts = [refit(study, "boosting", number, [0, 1]) for number in range(refits)]
    found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    weights = [(name, each[2]) for name, each in zip(CURVES, curves, strict=True)]
    every = contrasts(found, [(1, "model")], list(drivers), [], weights, LEVEL)
    truth = _truth(x, drivers, how, seed)
    return {
        "seed": seed,
        "r2": round(wanted, 3),
        "matched": round(matched, 3),
        "strongest": round(every[0].strength, 3),
        "named": [f"{each.kind} {each.of} {'+' if each.difference.value > 0 else '-'}" for each in every if each.named],
        "single": sum(not each.difference.low <= 0 <= each.difference.high for each in every),
        "differences": len(every),
        "held": sum(each.difference.low <= truth[each.of] <= each.difference.high for each in every if each.kind == "importance"),
        "importance": {
            each.of: [round(v, 2) for v in vars(each.difference).values()] for each in every if each.kind == "importance"
        },
        "truth": {driver: round(value, 2) for driver, value in truth.items()},
    }


def _truth(x, drivers, how, seed):
    """Return by how much the shares of the two laws differ, in points, when their own inputs are permuted."""
    found = []
    for each in (Pedogenesis(), how):
        carbon = Law(each, (1, 0, 1)).carbon(x)
        middle = np.median(carbon)
        logs = np.log(0.05 + carbon / middle)
        law = Law(each, (middle, logs.mean(), logs.std()))
        found.append(shares(permutation(law, x, law.predict(x), list(drivers.values()), None, [seed, 7])))
    return dict(zip(drivers, (found[1] - found[0]).tolist(), strict=True))


def finished(path):
    """Return seed -> what was found, of the seeds in a file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {each["seed"]: each for each in map(json.loads, lines)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--profiles", type=int, default=800)
    parser.add_argument("--refits", type=int, default=30)
    parser.add_argument("--law", choices=("same", "faulty"), default="same")
    parser.add_argument("--out", type=Path, default=Path("results/false_alarms.jsonl"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in range(given.first, given.first + given.seeds):
        if seed not in finished(given.out):
            found = trial(seed, given.profiles, Pedogenesis() if given.law == "same" else FAULTY, given.refits)
            print(json.dumps(found), flush=True)
            with given.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
    done = list(finished(given.out).values())
    n, named = len(done), sum(bool(each["named"]) for each in done)
    high = beta.ppf(0.95, named + 1, n - named) if named < n else 1.0
    singles, held, of = (sum(each[name] for each in done) for name in ("single", "held", "differences"))
    print(f"{named} of {n} reports name a mismatch ({100 * named / n:.0f} %; at most {100 * high:.0f} % with 95 % confidence)")
    print(f"{100 * singles / of:.1f} % of single {100 * LEVEL:g} % intervals leave out zero")
    print(f"{100 * held / (n * len(DRIVERS)):.0f} % of them hold the true difference of shares")
    for words in sorted({words for each in done for words in each["named"]}):
        print(f"{sum(words in each['named'] for each in done)} of {n} name {words}")


if __name__ == "__main__":
    main()
