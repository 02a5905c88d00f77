"""Selection of sampling points: allocation to strata, bounds of strata, compact strata of equal area, coverage, Latin hypercube.

In: cells as arrays of areas, coordinates or covariates. Out: sizes of samples, strata, or the numbers of chosen cells. Which of
these give a probability sample, for `design_based`, is said at each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from soilcarbon.progress import Progress

_HISTOGRAM = 400  # classes of the histogram from which bounds of strata are made
_STEPS = 300  # steps in which strata are made compact and of equal area
_CANDIDATES = 32  # cells that are tried in the place of a point at once
_WARMTH, _COLDEST = 0.02, 1e-4  # temperature of the annealing at its start and end, of the first sample's objective

# --- allocation ----------------------------------------------------------------------------------------------------


def allocate(
    n: int, sizes: np.ndarray, spreads: np.ndarray | None = None, least: int = 2, most: np.ndarray | float = np.inf
) -> np.ndarray:
    """Allocate n points to H strata in proportion to size, or to size times standard deviation (Neyman 1934), which is optimal.

    Spreads (H,) are standard deviations within the strata of what is measured: of the map's errors, where a map is to be validated
    or corrected. Each stratum has `least` points or more, as two give a variance, and not more than `most`, its population.

    >>> allocate(20, np.array([50.0, 30, 20])).tolist(), allocate(20, np.array([50.0, 30, 20]), np.array([1.0, 1, 6])).tolist()
    ([10, 6, 4], [5, 3, 12])
    """
    if n < least * len(sizes):
        raise ValueError(f"{n} points are too few for {len(sizes)} strata of {least} each")
    weight = np.asarray(sizes, np.float64) * (1.0 if spreads is None else np.asarray(spreads, np.float64))
    if not weight.sum() > 0:
        weight = np.asarray(sizes, np.float64)
    most = np.broadcast_to(most, weight.shape)
    fewest = np.minimum(float(least), most)
    found, free = fewest, np.ones(len(weight), bool)
    for _ in weight:  # strata that reach a bound are fixed, and the others share the rest
        rest = n - found[~free].sum()
        ideal = np.where(free, rest * weight / max(weight[free].sum(), 1e-300), found)
        bound = np.clip(ideal, fewest, most)
        beyond = free & (bound != ideal)
        found = np.where(free, bound, found)
        if not beyond.any():
            break
        excess = (bound - ideal)[beyond].sum()  # above 0: strata that need more take from the others
        free &= ~(beyond & ((bound > ideal) if excess >= 0 else (bound < ideal)))
    whole = np.floor(found + 1e-9)
    for _ in range(int(round(n - whole.sum()))):
        gain = np.where(whole < most, found - whole, -np.inf)
        whole[int(np.argmax(gain))] += 1
    return whole.astype(np.int64)


def expected_standard_error(counts: np.ndarray, sizes: np.ndarray, spreads: np.ndarray) -> float:
    """Return the standard error of a stratified mean that standard deviations (H,) within strata let expect.

    >>> expected_standard_error(np.array([4, 4]), np.array([1.0, 1]), np.array([2.0, 2]))
    0.7071067811865476
    """
    share = np.asarray(sizes) / np.sum(sizes)
    return float(np.sqrt((share**2 * np.asarray(spreads) ** 2 / counts).sum()))


def order_keys(probability: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return keys (m,) of which the n smallest are a sample without replacement of given inclusion probabilities that sum to n.

    Pareto sampling (Rosen 1997): exact for equal probabilities, very nearly so for others.
    """
    p = np.clip(probability, 1e-300, 1 - 1e-9)
    u = random.random(len(p))
    return u / (1 - u) * (1 - p) / p


# --- strata --------------------------------------------------------------------------------------------------------


def cum_root_frequency(values: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Return the bounds (count - 1,) of strata of a variable by the cumulative root of frequency (Dalenius and Hodges 1959).

    With Neyman allocation they nearly minimise the variance of a variable's mean, and of one that it predicts: here the size of
    a map's errors. Bounds that coincide, of values that are few, are given once.

    >>> cum_root_frequency(np.linspace(0, 1, 10001), np.ones(10001), 4).round(2).tolist()
    [0.25, 0.5, 0.75]
    """
    frequency, edges = np.histogram(values, _HISTOGRAM, weights=weights)
    cumulative = np.cumsum(np.sqrt(frequency))
    wanted = cumulative[-1] * np.arange(1, count) / count
    return np.unique(edges[1:][np.searchsorted(cumulative, wanted * (1 - 1e-12))])


@dataclass(frozen=True)
class CompactStrata:
    """Compact strata of (nearly) equal area: the cell of each place is that of the nearest centre, distances offset.

    The strata are a power diagram, k-means with a constraint on size: of a large raster a sample of cells makes it, and any other
    cell is assigned by it.
    """

    centres: np.ndarray  # (H, d)
    offsets: np.ndarray  # (H,) added to squared distances

    @classmethod
    def fit(cls, points: np.ndarray, weights: np.ndarray, count: int, seed: int) -> "CompactStrata":
        """Make strata of m places (m, d) of areas (m,): centres move to the mean of their stratum, offsets towards equal areas."""
        from sklearn.cluster import KMeans

        kmeans = KMeans(count, n_init=3, random_state=seed).fit(points, sample_weight=weights)
        centres, offsets, target = kmeans.cluster_centers_, np.zeros(count), weights.sum() / count
        scale = kmeans.inertia_ / weights.sum()
        best = (np.inf, centres, offsets)
        for step in range(_STEPS):
            label = cls(centres, offsets).assign(points)
            area = np.bincount(label, weights, count)
            if (off := float(np.abs(area / target - 1).max())) < best[0]:
                best = (off, centres, offsets)
            if off < 1e-3:
                break
            settled = step > _STEPS // 2  # centres stand still while the areas are made equal
            offsets = offsets + scale * (1.0 if not settled else 4.0 * (1 - step / _STEPS)) * 0.5 * (area / target - 1)
            if not settled:
                sums = np.stack([np.bincount(label, weights * column, count) for column in points.T], axis=1)
                centres = np.where(area[:, None] > 0, sums / np.maximum(area, 1e-300)[:, None], centres)
        return cls(best[1], best[2])

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Return the stratum (m,) of places (m, d), counted from 0."""
        squared = (self.centres**2).sum(axis=1) + self.offsets - 2 * points @ self.centres.T
        return np.asarray(squared.argmin(axis=1))


def spatial_coverage(points: np.ndarray, weights: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n places (numbers of rows) spread evenly: next to the centres of k-means clusters (Walvoort, Brus, de Gruijter 2010).

    They are chosen, not drawn: no probability sample.
    """
    from sklearn.cluster import KMeans
    from sklearn.neighbors import NearestNeighbors

    centres = KMeans(n, n_init=3, random_state=seed).fit(points, sample_weight=weights).cluster_centers_
    near = NearestNeighbors(n_neighbors=min(n, 20, len(points))).fit(points).kneighbors(centres, return_distance=False)
    chosen: list[int] = []
    for candidates in near.tolist():
        chosen.append(next((each for each in candidates if each not in chosen), candidates[0]))
    return np.array(sorted(set(chosen)))


# --- conditioned Latin hypercube -------------------------------------------------------------------------------------


@dataclass
class LatinHypercube:
    """Objective of a conditioned Latin hypercube sample (Minasny and McBratney 2006), kept up to date point by point."""

    bins: np.ndarray  # (m, b) quantile interval, or class, of every cell for each of b variables, counted on through all variables
    wanted: np.ndarray  # (B,) points that each of the B intervals should have
    values: np.ndarray  # (m, p) standardised numeric variables
    correlation: np.ndarray  # (p, p) of all cells
    chosen: np.ndarray  # (n,) the sample
    _counts: np.ndarray = field(init=False)
    _sums: np.ndarray = field(init=False)
    _products: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._counts = np.bincount(self.bins[self.chosen].ravel(), minlength=len(self.wanted)).astype(np.float64)
        sample = self.values[self.chosen]
        self._sums, self._products = sample.sum(axis=0), sample.T @ sample

    def _correlations_off(self, sums: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Return by how much (k,) the correlations of k samples differ from those of all cells, from sums (k, p), (k, p, p)."""
        n = len(self.chosen)
        covariance = products / n - (sums / n)[:, :, None] * (sums / n)[:, None, :]
        deviation = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-12))
        found = covariance / (deviation[:, :, None] * deviation[:, None, :])
        return np.abs(found - self.correlation).sum(axis=(1, 2)) / 2

    def objective(self) -> float:
        """Return the sum of |points - wanted points| over intervals and of |correlation - wanted| over pairs of variables."""
        off = self._correlations_off(self._sums[None], self._products[None])[0]
        return float(np.abs(self._counts - self.wanted).sum() + off)

    def crowded(self, random: np.random.Generator) -> int:
        """Return the number in the sample of a point that stands in the most crowded intervals."""
        excess = (self._counts - self.wanted)[self.bins[self.chosen]].sum(axis=1)
        return int(random.choice(np.flatnonzero(excess >= excess.max() - 1e-9)))

    def best_instead(self, which: int, cells: np.ndarray) -> tuple[int, float]:
        """Return the cell among some (k,) that is best in the place of a point of the sample, and the objective then."""
        old = self.chosen[which]
        counts = self._counts.copy()
        np.subtract.at(counts, self.bins[old], 1)
        left = np.abs(counts - self.wanted)
        gain = np.abs(counts + 1 - self.wanted) - left
        value, new = self.values[old], self.values[cells]
        sums = self._sums - value + new
        products = self._products - np.outer(value, value) + new[:, :, None] * new[:, None, :]
        found = left.sum() + gain[self.bins[cells]].sum(axis=1) + self._correlations_off(sums, products)
        k = int(found.argmin())
        return int(cells[k]), float(found[k])

    def swap(self, which: int, cell: int) -> None:
        """Put a cell in the place of a point of the sample."""
        old = self.chosen[which]
        np.subtract.at(self._counts, self.bins[old], 1)
        np.add.at(self._counts, self.bins[cell], 1)
        self._sums += self.values[cell] - self.values[old]
        self._products += np.outer(self.values[cell], self.values[cell]) - np.outer(self.values[old], self.values[old])
        self.chosen[which] = cell


def latin_hypercube(
    values: np.ndarray, weights: np.ndarray, n: int, seed: int, classes: Sequence[int] = (), iterations: int = 10_000
) -> tuple[np.ndarray, float, float]:
    """Choose n cells whose covariates fill their distribution evenly: a conditioned Latin hypercube, by simulated annealing.

    Each numeric variable has n intervals of equal area, each of which should hold one point; classes should have the share
    of points that they have of the area; correlations should be those of all cells. The points are chosen, not drawn: no
    probability sample.

    `values` are covariates (m, p) of m cells, more than n, of which `classes` are columns of class codes; `weights` are the cells'
    areas. Each step of the annealing tries 32 cells in the place of one point. Returned are the chosen rows (n,), the objective of
    them and of the random sample the search began with; 0 is the least.

    >>> x = np.linspace(0, 1, 1000)[:, None]
    >>> chosen, objective, _ = latin_hypercube(x, np.ones(1000), 10, seed=0)
    >>> sorted((x[chosen, 0] * 10).astype(int).tolist()), round(objective, 3)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0.0)
    """
    random = np.random.default_rng(seed)
    start = random.choice(len(values), n, replace=False, p=weights / weights.sum())
    sample = _hypercube(values, weights, n, set(classes), start)
    now = at_random = sample.objective()
    best, best_value = sample.chosen.copy(), now
    with Progress("conditioned Latin hypercube", iterations) as progress:
        for step in range(iterations):
            which = sample.crowded(random) if random.random() < 0.5 else int(random.integers(n))
            cells = random.integers(len(values), size=_CANDIDATES)
            cells = cells[~np.isin(cells, sample.chosen)]
            if len(cells):
                cell, value = sample.best_instead(which, cells)
                warmth = at_random * _WARMTH * (_COLDEST / _WARMTH) ** (step / iterations)
                if value - now < warmth * random.standard_exponential():
                    sample.swap(which, cell)
                    now = value
                    if now < best_value - 1e-12:
                        best, best_value = sample.chosen.copy(), now
            progress.step()
            if best_value < 1e-9:
                break
    return np.sort(best), best_value, at_random


def _hypercube(values: np.ndarray, weights: np.ndarray, n: int, classes: set[int], start: np.ndarray) -> LatinHypercube:
    """Return the objective of a sample to start with."""
    bins, wanted, first = [], [], 0
    for k, column in enumerate(values.T):
        if k in classes:
            number = np.unique(column, return_inverse=True)[1]
        else:
            order = np.argsort(column, kind="stable")
            below = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
            bounds = np.interp(np.arange(1, n) / n, below, column[order])
            number = np.searchsorted(bounds, column, side="right")
        count = int(number.max()) + 1
        bins.append(number + first)
        wanted.append(n * np.bincount(number, weights, count) / weights.sum())
        first += count
    share = (weights / weights.sum())[:, None]
    numeric = values[:, [k for k in range(values.shape[1]) if k not in classes]]
    centred = numeric - (share * numeric).sum(axis=0)
    deviation = np.sqrt((share * centred**2).sum(axis=0))
    standard = (centred / np.where(deviation > 0, deviation, 1)).astype(np.float64)
    return LatinHypercube(np.stack(bins, axis=1), np.concatenate(wanted), standard, standard.T @ (share * standard), start)
