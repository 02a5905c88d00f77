"""Family-wise error rate and power: how often a report has a significant difference that is not there, or finds those that are.

    python experiments/false_alarms.py [--first 1] [--seeds 50] [--law same|faulty] [--profiles 800] [--out FILE]

Each seed is another example world. Observations follow its soil equation with noise (30 %), at clustered profiles. The model
is the same equation without noise (`same`: any significant difference is a false alarm), or the example world's faulty model
(`faulty`: too much temperature and productivity, no lithology and texture). Intervals are compared with the truth, the same
measure of the two equations themselves, permuting their own inputs and following their own responses. Prints a line per seed and
counts; FILE keeps finished seeds, also of several processes side by side.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import beta
from sklearn.metrics import r2_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from soilcarbon.categories import Category
from soilcarbon.drivers.importance import permutation, strata_of
from soilcarbon.drivers.learners import CrossValidation, log_target, matching_noise
from soilcarbon.drivers.mismatch import contrasts, effects
from soilcarbon.drivers.responses import accumulated, density, quantile_grid
from soilcarbon.drivers.subsampling import BUDGETS, Budget, Study, refit
from soilcarbon.simulation.earth_system_model import FAULTY
from soilcarbon.simulation.world import Pedogenesis, World, soil_carbon, unit_vectors
from soilcarbon.stats.groups import group_folds, spatial_groups

DRIVERS = {
    "temperature": ["bio01"],
    "wetness": ["bio12"],
    "productivity": ["evi_mean", "evi_min"],
    "relief": ["slope", "hollow"],
    "lithology and texture": ["clay", "bedrock"],
}
CLASSES = ("bedrock",)
VARIABLES = [name for names in DRIVERS.values() for name in names]
CURVES = ["bio01", "bio12", "evi_mean", "slope"]
NOISE = 0.3
CLUSTERS = 200
REPEATS = 20
"""Permutations of a soil equation's inputs."""
LEVEL = 0.95


class SoilEquation:
    """Soil equation as a learner: it predicts from its true inputs."""

    def __init__(self, how, middle=1.0):
        self.how, self.middle = how, middle

    def carbon(self, x):
        values = dict(zip(VARIABLES, x.T.astype(float), strict=True))
        clay, hollow = (values.pop(name) for name in ("clay", "hollow"))
        return soil_carbon(values, 0 * clay if self.how is FAULTY else clay, hollow, self.how)

    def predict(self, x):
        return np.log(0.05 + self.carbon(x) / self.middle)


def profiles(seed, n):
    """Return covariates (n, V), lon and lat of clustered profiles of a world."""
    random, world = np.random.default_rng(seed), World(seed)
    lon, lat = random.uniform(-180, 180, CLUSTERS), np.degrees(np.arcsin(random.uniform(-0.8, 0.95, CLUSTERS)))
    chosen = random.integers(CLUSTERS, size=20 * n)
    lon = (lon[chosen] + random.normal(0, 4, len(chosen)) + 180) % 360 - 180
    lat = np.clip(lat[chosen] + random.normal(0, 3, len(chosen)), -59, 83)
    covariates, _, truth = world.at(lon, lat)
    covariates |= {"clay": world._fields["clay"](unit_vectors(lon, lat)), "hollow": -world._fields["hill"](unit_vectors(lon, lat))}
    x = np.stack([covariates[name] for name in VARIABLES], axis=1).astype(np.float32)
    rows = np.flatnonzero(np.isfinite(truth) & np.isfinite(x).all(1))[:n]
    return x[rows], lon[rows], lat[rows]


def experiment(seed, n, how, refits):
    """Return the content of one report, as plain values."""
    x, lon, lat = profiles(seed, n)
    random = np.random.default_rng([seed, 5])
    observed, modelled = SoilEquation(Pedogenesis()).carbon(x) * np.exp(NOISE * random.normal(size=n)), SoilEquation(how).carbon(x)
    z = np.stack([log_target(observed), log_target(modelled)])
    drivers = {driver: np.array([VARIABLES.index(name) for name in names]) for driver, names in DRIVERS.items()}
    numeric = tuple(name for name in VARIABLES if name not in CLASSES)
    categories = (Category(name="covariates", variables=numeric), Category(name="classes", variables=CLASSES, kind="classes"))
    blocks = spatial_groups(lon, lat, 2.0)
    validation = CrossValidation(x, categories, group_folds(blocks, 5, seed), seed)
    predicted = validation.predict("boosting", z[0])
    residuals, wanted = z[0] - predicted, float(r2_score(z[0], predicted))
    factor, matched = matching_noise(validation, "boosting", z[1], residuals, blocks, wanted)
    curves = []
    for name in CURVES:
        column = VARIABLES.index(name)
        grid = quantile_grid(x[:, column])
        curves.append((column, grid, density(x[:, column], grid)))
    coded = np.isin(VARIABLES, CLASSES)
    own = np.stack([strata_of(x, columns, coded, seed) for columns in drivers.values()])
    strata = np.concatenate([np.zeros((len(VARIABLES), n), np.int64), own])  # of drivers alone
    shared = x, categories, z, residuals, np.array([0, factor]), blocks, drivers, strata, own[:0], tuple(curves)
    study = Study(*shared, None, {}, shapley=False, seed=seed)
    BUDGETS["boosting"] = Budget(2000, 2, 0, 1)  # no more than mismatches are based on
    parts = [refit(study, "boosting", number, [0, 1]) for number in range(refits)]
    found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    weights = [(name, each[2][None]) for name, each in zip(CURVES, curves, strict=True)]
    every = contrasts(found, [(1, "model")], list(drivers), [], weights, LEVEL)
    truth = _truth(x, drivers, own, curves, how, seed)
    return {
        "seed": seed,
        "r2": round(wanted, 3),
        "matched": round(matched, 3),
        "strongest": round(every[0].statistic, 3),
        "significant": [
            f"{each.kind} {each.name} {'+' if each.difference.value > 0 else '-'}" for each in every if each.significant
        ],
        "single": sum(not each.difference.low <= 0 <= each.difference.high for each in every),
        "differences": len(every),
        "found": {f"{each.kind} {each.name}, {name}": plain(interval) for each, name, interval in reported(every)},
        "truth": {name: round(float(value), 3) for name, value in truth.items()},
    }


def reported(every):
    """Return the intervals of each difference: of the difference itself, and of the ratio where there is one."""
    return [
        *((each, "difference", each.difference) for each in every),
        *((each, "ratio", each.ratio) for each in every if np.isfinite(each.ratio.value)),
    ]


def plain(interval):
    return [round(value, 3) for value in vars(interval).values()]


def _truth(x, drivers, strata, curves, how, seed):
    """Return by how much importances and responses of the two equations differ, by the names of `reported`."""
    equations = [SoilEquation(each, np.median(SoilEquation(each).carbon(x))) for each in (Pedogenesis(), how)]
    players = list(drivers.values())
    sizes = [permutation(equation, x, equation.predict(x), players, strata, [seed, 7], REPEATS) for equation in equations]
    both = {"difference": sizes[1] - sizes[0], "ratio": sizes[1] / sizes[0]}
    return {
        f"importance {driver}, {name}": value
        for name, values in both.items()
        for driver, value in zip(drivers, values, strict=True)
    } | {
        f"response {name}, difference": effects(
            np.subtract(*(accumulated(equation, x, *each) for equation in equations[::-1])), each[2]
        )
        for name, each in zip(CURVES, curves, strict=True)
    }


def finished(path):
    """Return seed -> result, of the seeds in a file."""
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
            found = experiment(seed, given.profiles, Pedogenesis() if given.law == "same" else FAULTY, given.refits)
            print(json.dumps(found), flush=True)
            with given.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
    done = list(finished(given.out).values())
    n, named = len(done), sum(bool(each["significant"]) for each in done)
    high = beta.ppf(0.95, named + 1, n - named) if named < n else 1.0
    singles, of = (sum(each[name] for each in done) for name in ("single", "differences"))
    print(f"{named} of {n} reports have one ({100 * named / n:.0f} %; at most {100 * high:.1f} % with 95 % confidence)")
    print(f"{100 * singles / of:.1f} % of single {100 * LEVEL:g} % intervals leave out zero")
    for name in done[0]["truth"]:
        both = [(each["found"][name], each["truth"][name]) for each in done if name in each["found"]]
        if both:
            value, true = np.mean([found[0] for found, _ in both]), np.mean([true for _, true in both])
            held = sum(found[1] <= true <= found[2] for found, true in both)
            print(f"{name}: found {value:.2f}, by the equations {true:.2f}, covered by {held} of {len(both)}")
    for words in sorted({words for each in done for words in each["significant"]}):
        print(f"{sum(words in each['significant'] for each in done)} of {n}: {words}")


if __name__ == "__main__":
    main()
