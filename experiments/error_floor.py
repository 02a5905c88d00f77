"""How low can errors be? Profiles that share all covariates, near profiles, and known neighbours, beside a finished comparison.

    make realdata && make compare                                        # data/real/<region> and results/compare_realdata/runs
    python experiments/error_floor.py                                    # some minutes
    python experiments/error_floor.py --compare results/compare_untouched

Changes (%) of MAE against the strongest baseline of the comparison, on the profiles that each is defined for, with 95 %
intervals of whole half-degree blocks:

cell        the median of the profile's own raster cell, within which all covariates are equal: no function of them has a
            smaller MAE there. Of k profiles the median of all k errs too little and that of the other k - 1 too much, whatever
            their distribution; the estimate is the geometric mean of both errors (of lognormal values up to 8 % too large for
            k = 2, within 2 % from 4 on).
a-b km      the same of pairs so many km apart: half of their mean difference is too little, the whole too much.
nugget      of the variogram of the baseline's errors of ln(1 + SOC), taken for normal: what no profile, however near, tells.
cells out   a forest of all profiles but those of the cell itself, in five folds: neighbours are known.
blocks out  a forest of all profiles of other blocks, in the folds of the comparison: what more profiles bring.
hindsight   the linear combination of all compared methods whose MAE on these very profiles is the smallest.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import norm
from sklearn.linear_model import QuantileRegressor

from soilcarbon.benchmark.baselines import BASELINES
from soilcarbon.io.files import read_yaml, write_table
from soilcarbon.regression.fit import samples_of
from soilcarbon.soil.dataset import SPLITS, Dataset, read_dataset
from soilcarbon.stats.groups import group_folds, spatial_groups, unit_vectors
from soilcarbon.stats.metrics import bootstrap_means
from soilcarbon.stats.variogram import EARTH_KM, EmpiricalVariogram, arc_km, fit_variogram

KEPT = Path("results/error_floor")
SIDE, SEED, DRAWS, CELL_FOLDS = 0.5, 314, 400, 5
SUBJECT = "regional"
LAGS = (0.001, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
"""Km; nearer profiles are at one place."""
Drawn = np.ndarray
"""(1 + DRAWS,) a number of all profiles, then of each draw of blocks."""


class Region(NamedTuple):
    """A region of a comparison: profiles, predictions of those held out (all of them), each's fold, cell and half-degree block."""

    data: Dataset
    predicted: pd.DataFrame
    fold: np.ndarray
    cell: np.ndarray
    block: np.ndarray


def read_regions(compared: Path) -> Iterator[tuple[str, Region]]:
    """Yield name and content of each region of a finished comparison."""
    settings = read_yaml(compared / "settings.yaml")
    methods = [each for each in settings["methods"] if isinstance(each, str)]
    for folder in map(Path, settings["regions"]):
        parts = [
            pd.read_csv(path, dtype={"profile_id": str}) for path in sorted((compared / "runs").glob(f"{folder.name}-blocks-*.csv"))
        ]
        table = pd.concat([part.assign(fold=k) for k, part in enumerate(parts)]).set_index("profile_id")
        data = read_dataset(folder, None, SPLITS)
        table = table.loc[list(data.ids)]
        cell = np.unique(np.nan_to_num(data.x, nan=-1e30), axis=0, return_inverse=True)[1].ravel()
        block = spatial_groups(data.lon, data.lat, SIDE)
        yield folder.name, Region(data, table[methods], table["fold"].to_numpy(), cell, block)


def strongest(region: Region) -> str:
    """Return the baseline of the smallest MAE."""
    errors = region.predicted[[each for each in region.predicted if each in BASELINES]].sub(region.data.y, axis=0).abs().mean()
    return str(errors.idxmin())


def about_medians(y: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return each profile's distance (N, 2) from the median of all of its cell, and of the others there; NaN where it is alone."""
    found = np.full((len(y), 2), np.nan)
    for rows in np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1]):
        if len(rows) > 1:
            others = [np.median(np.delete(y[rows], k)) for k in range(len(rows))]
            found[rows] = np.abs(y[rows, None] - np.stack([np.full(len(rows), np.median(y[rows])), others], axis=1))
    return found


def by_distance(lon: np.ndarray, lat: np.ndarray, values: np.ndarray, lags: Sequence[float], power: int) -> np.ndarray:
    """Return each profile's mean difference to this power (N, L) from others so far away, by lag; NaN where there is none.

    A mean of profiles, as MAE is, and not of pairs, most of which are of few clusters.
    """
    points = unit_vectors(lon, lat)
    pairs = cKDTree(points).query_pairs(2 * np.sin(lags[-1] / (2 * EARTH_KM)), output_type="ndarray")
    km = arc_km(np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1))
    lag = np.searchsorted(lags, km) - 1
    pairs, km, lag = pairs[lag >= 0], km[lag >= 0], lag[lag >= 0]
    place = np.concatenate([pairs[:, 0], pairs[:, 1]]) * (len(lags) - 1) + np.tile(lag, 2)
    size = len(values) * (len(lags) - 1)
    sums = np.bincount(place, np.tile(np.abs(np.diff(values[pairs], axis=1)[:, 0]) ** power, 2), size)
    counts = np.bincount(place, minlength=size)
    return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0).reshape(len(values), -1)


def drawn_means(columns: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return means (1 + DRAWS, C) of columns (n, C) without NaN, of all profiles and of draws of whole groups."""
    return np.concatenate([columns.mean(axis=0)[None], bootstrap_means(columns, groups, SEED, DRAWS)])


def change(error: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> Drawn:
    """Return the change (%) from the mean of the reference (n,) to that of an error (n,), where the latter is not NaN."""
    there = np.isfinite(error)
    means = drawn_means(np.stack([error[there], reference[there]], axis=1), groups[there])
    return np.asarray(100 * (means[:, 0] / means[:, 1] - 1))


def between(low: np.ndarray, high: np.ndarray, reference: np.ndarray, groups: np.ndarray) -> Drawn:
    """Return the change (%) from the mean of a reference to the geometric mean of those of two bounds, where they are not NaN."""
    there = np.isfinite(low)
    means = drawn_means(np.stack([low[there], high[there], reference[there]], axis=1), groups[there])
    return np.asarray(100 * (np.sqrt(means[:, 0] * means[:, 1]) / means[:, 2] - 1))


def mae_of(variance: np.ndarray | float) -> np.ndarray:
    """Return the mean absolute error about the median 1 of lognormal values whose logarithms have this variance.

    >>> round(float(mae_of(1.0)), 4)
    1.1256
    """
    return np.asarray(np.exp(np.asarray(variance) / 2) * (2 * norm.cdf(np.sqrt(variance)) - 1))


def nugget(region: Region, reference: np.ndarray) -> Drawn:
    """Return the change (%) of MAE from a baseline's predictions to errors of the nugget alone."""
    data, lags = region.data, np.concatenate([[LAGS[0]], 40 * (np.arange(1, 13) / 12) ** 2])
    residual = np.log1p(data.y) - np.log1p(reference)
    half = by_distance(data.lon, data.lat, residual, lags, 2) / 2
    there, km = np.isfinite(half), (lags[1:] + lags[:-1]) / 2
    columns = np.column_stack([np.where(there, half, 0), there, residual**2])
    means, size = drawn_means(columns, region.block), len(km)
    found = []
    for row in means:
        used = row[size : 2 * size] * len(residual) >= 30  # profiles with another so far away
        lag = EmpiricalVariogram(km[used], (row[:size] / np.maximum(row[size : 2 * size], 1e-9))[used], row[size : 2 * size][used])
        found.append(100 * (float(mae_of(fit_variogram(lag).nugget) / mae_of(row[-1])) - 1))
    return np.array(found)


def forests(name: str, region: Region) -> pd.DataFrame:
    """Return predictions by forests of ln(1 + SOC) of all profiles: cells out, and blocks out; kept in a file."""
    path = KEPT / f"{name}.csv"
    if not path.is_file():
        samples, kinds = samples_of(region.data), [np.full(each.width, each.kind == "classes") for each in region.data.categories]
        classes = tuple(np.flatnonzero(np.concatenate(kinds)).tolist())
        table = pd.DataFrame(index=range(len(samples.y)), columns=["cells out", "blocks out"], dtype=float)
        for column, folds in (("cells out", group_folds(region.cell, CELL_FOLDS, SEED)), ("blocks out", region.fold)):
            for fold in range(int(folds.max()) + 1):
                known = samples.take(folds != fold)
                fitted = BASELINES["forest_log"].pipeline(classes, SEED).fit(known.X, known.y)
                table.loc[folds == fold, column] = fitted.predict(samples.X[folds == fold])
        write_table(path, table)
    return pd.read_csv(path)


def in_hindsight(region: Region) -> np.ndarray:
    """Return the linear combination of all methods that has the smallest MAE of all on these very profiles (N,)."""
    methods = region.predicted.to_numpy()
    fitted = QuantileRegressor(quantile=0.5, alpha=0, solver="highs").fit(methods, region.data.y)
    return np.asarray(fitted.predict(methods))


def changes(name: str, region: Region) -> tuple[dict[str, str], dict[str, Drawn]]:
    """Return facts of a region, and changes of MAE against its strongest baseline."""
    data, y, best = region.data, region.data.y, strongest(region)
    error = {key: np.abs(region.predicted[key].to_numpy() - y) for key in (best, SUBJECT)}
    near, cells = by_distance(data.lon, data.lat, y, LAGS, 1), about_medians(y, region.cell)
    there = np.isfinite(cells[:, 0])
    low, high = cells[there].mean(axis=0)
    facts = {
        "profiles": f"{len(y)}",
        "strongest": f"{best} {error[best].mean():.2f}",
        "share a cell": f"{there.sum()}",
        "strongest there": f"{error[best][there].mean():.2f}",
        "cell, MAE": f"{np.sqrt(low * high):.2f} ({low:.2f} to {high:.2f})",
        "km apart in a cell": f"{within_cells(data, region.cell):.1f}",
    }
    found = {SUBJECT: change(error[SUBJECT], error[best], region.block)}
    found["the same, share a cell"] = change(np.where(there, error[SUBJECT], np.nan), error[best], region.block)
    found["cell"] = between(*cells.T, error[best], region.block)
    for k in range(len(LAGS) - 1):
        found[f"{LAGS[k]:.0f}-{LAGS[k + 1]:.0f} km"] = between(near[:, k] / 2, near[:, k], error[best], region.block)
    found["nugget"] = nugget(region, region.predicted[best].to_numpy())
    for column, predicted in forests(name, region).items():
        found[str(column)] = change(np.abs(predicted.to_numpy() - y), error[best], region.block)
    found["hindsight"] = change(np.abs(in_hindsight(region) - y), error[best], region.block)
    return facts, found


def within_cells(data: Dataset, cell: np.ndarray) -> float:
    """Return the median, over profiles that share a cell, of their mean distance (km) from the others there."""
    points, found = unit_vectors(data.lon, data.lat), []
    for rows in np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1]):
        if len(rows) > 1:
            km = arc_km(np.linalg.norm(points[rows, None] - points[rows], axis=2).clip(0, 2))
            found += (km.sum(axis=1) / (len(rows) - 1)).tolist()
    return float(np.median(found))


def interval(values: Drawn) -> str:
    """Return a number with its 95 % interval."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:+.1f} [{low:+.1f}, {high:+.1f}]"


def as_table(found: Mapping[str, tuple[dict[str, str], dict[str, Drawn]]]) -> str:
    """Return a column per region, and the mean of regions, whose draws are put in any order: they are independent."""
    table = pd.DataFrame(
        {name: facts | {key: interval(each) for key, each in drawn.items()} for name, (facts, drawn) in found.items()}
    )
    table["mean"] = ""
    for key in next(iter(found.values()))[1]:
        parts = [drawn[key] for _, drawn in found.values()]
        mixed = [np.append(each[:1], np.random.default_rng(k).permutation(each[1:])) for k, each in enumerate(parts)]
        table.loc[key, "mean"] = interval(np.mean(mixed, axis=0))
    return table.to_string()


def main() -> None:
    """Compute what is not there, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, default=Path("results/compare_realdata"), help="folder of a finished comparison")
    options = parser.parse_args()
    print(as_table({name: changes(name, region) for name, region in read_regions(options.compare)}))


if __name__ == "__main__":
    main()
