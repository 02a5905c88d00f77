"""How often intervals from probability samples hold the truth, by design, in the regions of the example world (`make demo`).

    python experiments/probability_samples.py [--regions anhui denmark] [--n 60] [--draws 1000] [--noise 0]

Of each region's map (results/REGION/soc.tif) and its truth (data/sim/REGION/truth.tif) every cell is known. Points are drawn again
and again as `soilcarbon design` draws them, and what is measured there is the truth (or, with noise, has an error of measurement).
Prints, for each design: the true standard error of the mean by the points alone and by the map and the points (the difference
estimator), the one expected by the map's own intervals, bias in standard errors, and how often 90 % intervals held the mean of the
area, the map's mean error, RMSE and MEC.
"""

import argparse
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.geo.grid import raster_grid
from soilcarbon.geo.raster import find_layers
from soilcarbon.mapping import sampling_design as designs
from soilcarbon.stats.design_based import difference_estimate, mean, sampling_design, validate_map
from soilcarbon.stats.sample_selection import allocate, expected_standard_error

LEVEL = 0.9
DESIGNS = ("random", "geography", "covariates", "error", "error, optimal")


def layers_of(region):
    """Return the truth and prediction, the ends of the intervals, and covariates."""
    own = {layer.name: layer for layer in find_layers([Path(f"results/{region}/soc.tif")])}
    truth = find_layers([Path(f"data/sim/{region}/truth.tif")])[0]
    covariates = [
        layer for layer in find_layers([Path(f"data/sim/{region}/rasters")]) if layer.name in ("elevation", "bio01", "bio12")
    ]
    return [truth, own["prediction"], *covariates], [own["lower"], own["upper"]]


def strata_of(kind, population, sample, n):
    """Return the assignment of cells to strata."""
    if kind == "random":
        return designs.one_stratum
    if kind == "geography":
        return designs.compact_strata(population, sample, n // 2, seed=1)
    if kind == "covariates":
        part = designs.Cells(sample.row, sample.col, sample.values[:, 2:], sample.error, sample.km2)
        assign = designs.covariate_strata(part, population.layers[2:], 6, seed=1)
        return lambda cells: assign(designs.Cells(cells.row, cells.col, cells.values[:, 2:], cells.error, cells.km2))
    return designs.error_strata(sample, 6)


def study(region, kind, n, draws, noise, folder):
    """Return a row of the table: of one design in one region."""
    layers, errors = layers_of(region)
    grid, path = raster_grid(Path(f"results/{region}/soc.tif")), folder / f"{region}-{kind}.tif"
    with designs.Population(grid, layers, errors=errors) as population:
        cells = population.sample(10**7, seed=0)
        strata = designs.write_strata(path, population, strata_of(kind, population, cells, n))
    counts = allocate(n, strata.km2, strata.spread if "optimal" in kind else None)
    at = np.full((grid.height, grid.width), -1)
    at[cells.row, cells.col] = np.arange(len(cells.km2))
    truth, predicted = cells.values[:, 0], cells.values[:, 1]
    weight = cells.km2 / cells.km2.sum()
    area, mapped = float(weight @ truth), float(weight @ predicted)
    mse = float(weight @ (predicted - truth) ** 2)
    wanted = {
        "mean": area,
        "difference": area,
        "me": mapped - area,
        "rmse": mse**0.5,
        "mec": 1 - mse / float(weight @ (truth - area) ** 2),
    }
    values, held = {name: [] for name in wanted}, dict.fromkeys(wanted, 0)
    own = zlib.crc32(f"{region} {kind} {n}".encode())  # no two designs share their random numbers
    random = np.random.default_rng(own)
    for seed in range(own, own + draws):
        points = designs.draw(path, grid, strata, counts, 0, seed)
        chosen = at[points["row"].astype(int), points["col"].astype(int)]
        sizes = dict(zip(strata.names, strata.km2, strict=True))
        design = sampling_design(n, points["stratum"], sizes)
        observed = truth[chosen] * np.exp(noise * random.normal(size=n) - noise**2 / 2)
        found = validate_map(observed, predicted[chosen], design, level=LEVEL)
        found["mean"] = mean(observed, design, level=LEVEL)
        found["difference"] = difference_estimate(mapped, observed, predicted[chosen], design, level=LEVEL)
        for name, value in wanted.items():
            values[name].append(found[name].value)
            held[name] += found[name].low <= value <= found[name].high
    spread = {name: float(np.std(each)) for name, each in values.items()}
    bias = (np.mean(values["difference"]) - area) / (spread["difference"] / draws**0.5)
    row = {"region": region, "design": kind, "se_points": spread["mean"], "se_map_and_points": spread["difference"]}
    row |= {"se_expected": expected_standard_error(counts, strata.km2, strata.spread), "bias_in_se": bias}
    return row | {f"held_{name}": 100 * count / draws for name, count in held.items()}


def main():
    """Run all designs in all regions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", nargs="+", default=["anhui", "switzerland", "denmark", "australia"])
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the logarithm of a measurement")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            study(region, kind, given.n, given.draws, given.noise, Path(folder)) for region in given.regions for kind in DESIGNS
        ]
    table = pd.DataFrame(rows)
    print(table.round(3).to_csv(index=False))
    print(table.drop(columns=["region", "bias_in_se"]).groupby("design", sort=False).mean().round(3).to_csv())


if __name__ == "__main__":
    main()
