"""Spatial cross-validation: folds by block, region and nearest-neighbour distance matching (kNNDM).

In: positions (N,) in degrees. Out: fold numbers (N,) 0..k-1, which `groups.predefined_split` gives to scikit-learn, and facts of
them for a report. `STRATEGIES` describes the use of each kind of folds; `held_out_distances` measures how far folds hold out.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.cluster import KMeans

from soilcarbon.stats.groups import check_k, check_no_leak, distinct_places, group_folds, spatial_groups
from soilcarbon.stats.variogram import KM_PER_DEGREE, arc_km, empirical_variogram, fit_variogram, unit_vectors


class Strategy(NamedTuple):
    """Cross-validation strategy: its name in tables and figures, where its errors hold, and when to choose it."""

    title: str
    where: str  # as a sentence begins with it
    reason: str


STRATEGIES = {
    "random": Strategy(
        "random folds",
        "Between the profiles",
        "Single profiles: the score of filling gaps between profiles; too good for a map wherever profiles cluster.",
    ),
    "place": Strategy(
        "folds of whole places",
        "Between the profiles",
        "All profiles of one place together: as random, but no profile is predicted from its own twin.",
    ),
    "blocks": Strategy(
        "spatial blocks",
        "Where no profile is near",
        "Square blocks: the score far from any profile; blocks should be as wide as the range of residual correlation.",
    ),
    "region": Strategy(
        "whole regions",
        "In a region without profiles",
        "Whole regions: the score in a region without any profiles; the hardest test, and of transfer only.",
    ),
    "knndm": Strategy(
        "kNNDM folds",
        "As far from profiles as the map's cells are",
        "Held out as far from training profiles as the map's cells are from profiles: the score of that map.",
    ),
}
"""Key -> cross-validation strategy."""
SPATIAL = ("place", "blocks", "region", "knndm")  # strategies that never split the profiles of one place

_NARROWEST_KM = 5.0  # of a block, whatever the range: profiles of one survey cluster lie nearer
_BLOCKS_PER_FOLD = 5  # fewer blocks make folds that are one landscape each, and of very unequal size
_KS_LEVEL = 0.05  # of the test whether random folds hold out near enough (Linnenbrink et al. 2024)
_CANDIDATES = 100  # numbers of Ward's clusters tried, small ones more densely (Linnenbrink et al. 2024)
_OTHERS = (2_000, 60, 20)
"""Up to so many places, so many numbers of clusters of k-means and sizes of blocks are tried; of more places, fewer."""
_KMEANS_CLUSTERS = 200  # more take long, and are as small as Ward's
_WARD_PLACES = 5_000  # up to so many places all pairs are compared (100 MB, a second); more are divided first
_NEIGHBOURS = 32  # looked up once; most held-out profiles have one of another fold among them

# --- blocks and regions ------------------------------------------------------------------------------------------


def block_size_for_range(lon: np.ndarray, lat: np.ndarray, range_km: float, min_blocks: int, known: str = "") -> tuple[float, str]:
    """Return the side of spatial blocks, degrees, for residuals correlated over `range_km`, and the reason as text.

    Blocks are squares in degrees (`spatial_groups`): at the median latitude of the profiles as wide as the range, and higher.
    They are narrowed until `min_blocks` or more have profiles, but not below 5 km.

    Parameters
    ----------
    lon, lat
        (N,) degrees.
    range_km
        `Variogram.practical_range`.
    min_blocks
        Blocks with profiles that must remain.
    known
        What is known of the range, for the reason; "": that the residuals are correlated over it.

    Examples
    --------
    >>> block_size_for_range(np.arange(20.0), np.zeros(20), range_km=200.0, min_blocks=5)
    (1.79864, 'the practical range; the residuals are correlated over 200 km')
    """
    unit_vectors(lon, lat)
    across = KM_PER_DEGREE * max(np.cos(np.radians(np.median(np.abs(lat)))), 0.1)
    narrowest, side = _NARROWEST_KM / across, min(range_km / across, 90.0)
    found = known or f"the residuals are correlated over {range_km:.3g} km"
    while side > narrowest and np.unique(spatial_groups(lon, lat, side)).size < min_blocks:
        side *= 0.95
    if side <= narrowest:
        return round(float(narrowest), 5), f"{_NARROWEST_KM:g} km, the narrowest; {found}"
    if side < range_km / across:
        return round(float(side), 5), f"narrowed so that {min_blocks} blocks remain; {found}"
    return round(float(side), 5), f"the practical range; {found}"


def block_folds(lon: np.ndarray, lat: np.ndarray, k: int, block_size: float, seed: int = 0) -> np.ndarray:
    """Return spatial block k-fold: whole square blocks assigned at random to folds of about equal size.

    Parameters
    ----------
    lon, lat
        (N,) degrees.
    k
        Folds.
    block_size
        Side of a block, degrees; at least the range over which residuals are correlated, see `make_folds`.
    seed
        Same profiles, same seed: same folds.

    Returns
    -------
    array
        (N,) int64 0..k-1.

    Raises
    ------
    ValueError
        If there are fewer blocks than folds, or a position is none.

    Examples
    --------
    >>> lon, lat = np.array([0.1, 0.2, 5.1, 9.1]), np.array([0.1, 0.2, 0.1, 0.1])
    >>> folds = block_folds(lon, lat, k=3, block_size=1.0)
    >>> [bool(folds[0] == fold) for fold in folds]
    [True, True, False, False]
    """
    unit_vectors(lon, lat)
    return group_folds(spatial_groups(lon, lat, block_size), k, seed)


def cluster_regions(lon: np.ndarray, lat: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return compact regions (N,) 0..k-1 of profiles that have no region's label: k-means on the sphere.

    >>> regions = cluster_regions(np.array([0.0, 1.0, 90.0, 91.0]), np.zeros(4), k=2, seed=0)
    >>> bool(regions[0] == regions[1] != regions[2] == regions[3])
    True
    """
    points, member, sizes = distinct_places(lon, lat)
    check_k(k, len(points), "places")
    return np.asarray(KMeans(k, n_init=10, random_state=seed).fit(points, sample_weight=sizes).labels_[member], np.int64)


# --- how far folds hold out --------------------------------------------------------------------------------------


def _nearest_elsewhere(points: np.ndarray, folds: np.ndarray, near: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Return each point's distance (P,) km to the nearest of another fold; `near`, a tree query's result, saves a search."""
    chord = np.empty(len(points))
    open_ = np.ones(len(points), bool)
    if near is not None:
        other = folds[near[1]] != folds[:, None]
        first = other.argmax(1)
        open_ = ~other[np.arange(len(points)), first]
        chord = near[0][np.arange(len(points)), first]
    for fold in np.unique(folds[open_]):
        tree = cKDTree(points[folds != fold], balanced_tree=False, compact_nodes=False)
        rows = open_ & (folds == fold)
        chord[rows] = tree.query(points[rows])[0]
    return arc_km(chord)


def held_out_distances(lon: np.ndarray, lat: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the distance of each profile to the nearest one in another fold, (N,) km.

    Raises
    ------
    ValueError
        If there is one fold only.

    Examples
    --------
    >>> held_out_distances(np.array([0.0, 1.0, 3.0]), np.zeros(3), np.array([0, 0, 1])).round().tolist()
    [334.0, 222.0, 222.0]
    """
    folds = np.asarray(folds)
    if np.unique(folds).size < 2:
        raise ValueError("one fold only: nothing is left to train on")
    return _nearest_elsewhere(unit_vectors(lon, lat), folds)


def prediction_distances(lon: np.ndarray, lat: np.ndarray, prediction_points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the distance of each prediction point (lon, lat) to the nearest profile, (M,) km.

    >>> prediction_distances(np.array([0.0, 9.0]), np.zeros(2), (np.array([1.0]), np.array([0.0]))).round().tolist()
    [111.0]
    """
    return arc_km(cKDTree(unit_vectors(lon, lat)).query(unit_vectors(*prediction_points))[0])


def sample_cell_centres(land: np.ndarray, lon: np.ndarray, lat: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw prediction points: centres of mapped cells, evenly by area, with replacement.

    Parameters
    ----------
    land
        (H, W) bool: the cells that will be mapped.
    lon, lat
        (W,) and (H,) of the cells' centres, degrees.
    n
        Points.
    seed
        Of the draws.

    Returns
    -------
    lon, lat
        (n,) each; a cell's probability is proportional to its area, which shrinks towards the poles.

    Raises
    ------
    ValueError
        If there is no mapped cell, or the shapes do not fit.

    Examples
    --------
    >>> lon, lat = sample_cell_centres(np.array([[True, False]]), np.array([10.0, 11.0]), np.array([50.0]), n=3, seed=0)
    >>> lon.tolist(), lat.tolist()
    ([10.0, 10.0, 10.0], [50.0, 50.0, 50.0])
    """
    land = np.asarray(land, bool)
    if land.shape != (len(lat), len(lon)):
        raise ValueError(f"land {land.shape} has not the rows and columns of lat and lon, {(len(lat), len(lon))}")
    row, column = np.nonzero(land)
    if row.size == 0:
        raise ValueError("there is no cell of land to draw from")
    area = np.cos(np.radians(np.asarray(lat, np.float64)))[row]
    drawn = np.random.default_rng(seed).choice(row.size, n, p=area / area.sum())
    return np.asarray(lon, np.float64)[column[drawn]], np.asarray(lat, np.float64)[row[drawn]]


# --- kNNDM -------------------------------------------------------------------------------------------------------


def _merges(points: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Return Ward's merges, lowest first, as pairs of points (P - roots, 2), and the number of roots.

    Ward's method compares all pairs, so many places are parted by 2-means first and never merged across the parts.
    """
    parts, whole = [np.arange(len(points))], []
    while parts:
        rows = parts.pop()
        if len(rows) > _WARD_PLACES:
            side = KMeans(2, n_init=1, random_state=seed).fit(points[rows]).labels_
            parts += [rows[side == 0], rows[side == 1]]
        else:
            whole.append(rows)
    pairs, heights = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for rows in whole:
        if len(rows) < 2:
            continue
        tree = linkage(points[rows], "ward")
        leaf = list(range(len(rows)))  # one point of each cluster stands for it
        for a in tree[:, 0].astype(int).tolist():
            leaf.append(leaf[a])
        pairs.append(rows[np.array(leaf)[tree[:, :2].astype(int)]])
        heights.append(tree[:, 2])
    order = np.argsort(np.concatenate(heights), kind="stable")
    return np.concatenate(pairs)[order], len(whole)


def _merged_into_folds(cluster: np.ndarray, sizes: np.ndarray, along: np.ndarray, k: int) -> np.ndarray:
    """Return folds (P,) of clusters: those of a k-th of the profiles or more alone, the others dealt in turn along a line.

    `sizes` (P,) are profiles of a place, `along` (P,) its position on the first principal axis: clusters that are
    neighbours on it go to different folds, so that each fold spans the area.
    """
    weight = np.bincount(cluster, sizes)
    order = np.argsort(np.bincount(cluster, sizes * along) / weight, kind="stable")
    large = weight[order] >= sizes.sum() / k
    alone = int(large.sum())
    fold = np.empty(len(order), np.int64)
    fold[order[large]] = np.arange(alone)
    if alone < len(order):
        fold[order[~large]] = alone + np.arange(len(order) - alone) % (k - alone)
    return fold[cluster]


def knndm_folds(
    lon: np.ndarray,
    lat: np.ndarray,
    k: int,
    prediction_points: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
    max_share: float = 0.5,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return k-fold nearest neighbour distance matching: held-out profiles as far from training as the map's cells are.

    Linnenbrink, Mila, Ludwig and Meyer 2024, Geosci. Model Dev. 17, 5897-5912. If profiles are no nearer to each other than
    prediction points are to them (Kolmogorov-Smirnov), random folds do. Otherwise profiles are clustered into q clusters, which are
    merged into k folds: by Ward's method for q from k to all, by k-means, and by square blocks. Those folds are taken whose
    held-out distances have the smallest Wasserstein distance W to the distances of the prediction points.

    As published, but for these: the best of three clusterings is taken, not that of one; positions lie on the sphere; a place
    (`spatial_groups`) counts as one point, for profiles of one place in two folds would leak; random folds, too, keep places
    whole, and are taken if no clusters match better; among more than 5,000 places, Ward's clusters do not cross the parts of a
    2-means tree.

    Parameters
    ----------
    lon, lat
        (N,) degrees, of profiles.
    k
        Folds.
    prediction_points
        lon, lat (M,) degrees, of places to be predicted: `sample_cell_centres`; a few thousand do.
    seed
        Same profiles, same seed: same folds, in whatever order the profiles stand.
    max_share
        Largest share of the profiles in one fold, 1/k..1 (CAST: maxp).

    Returns
    -------
    folds, facts
        (N,) int64; and method ("knndm" or "random by place"), clustering and q (its clusters; none for random), w_km and
        w_random_km (W of these and of random folds), ks_p, max_share.

    Raises
    ------
    ValueError
        If there are fewer places with profiles than folds, or no q keeps to `max_share`.

    Examples
    --------
    Profiles in four tight clusters, predicted far from them: whole clusters are held out.

    >>> random = np.random.default_rng(0)
    >>> lon, lat = np.repeat([0.0, 5.0, 10.0, 15.0], 20) + 0.01 * random.normal(size=80), 0.01 * random.normal(size=80)
    >>> folds, facts = knndm_folds(lon, lat, 4, (random.uniform(0, 15, 500), random.uniform(-4, 4, 500)))
    >>> facts["method"], len(np.unique(folds[:20]))
    ('knndm', 1)
    """
    points, member, sizes = distinct_places(lon, lat)
    check_k(k, len(points), "places")
    if not 1 / k <= max_share <= 1:
        raise ValueError(f"max_share = {max_share:g}: {k} folds have at least {1 / k:.2g} of the profiles, at most 1")
    target = prediction_distances(lon, lat, prediction_points)
    near = cKDTree(points).query(points, min(len(points), 1 + _NEIGHBOURS))

    def held_out(fold: np.ndarray) -> np.ndarray:
        return _nearest_elsewhere(points, fold, near)

    def w_of(fold: np.ndarray) -> float:
        return float(wasserstein_distance(held_out(fold), target, sizes))

    random = group_folds(spatial_groups(lon, lat), k, seed)
    fold = np.empty(len(points), np.int64)
    fold[member] = random
    w_random = w_of(fold)
    alone = np.repeat(held_out(np.arange(len(points))), sizes)
    p = float(ks_2samp(alone, target, alternative="greater", method="asymp").pvalue)
    facts: dict[str, Any] = {"method": "random by place", "clustering": None, "q": None, "w_km": w_random}
    facts |= {"w_random_km": w_random, "ks_p": p, "max_share": float(max_share)}
    if p >= _KS_LEVEL:
        return random, facts

    best: tuple[float, dict[str, Any], np.ndarray] = (w_random, {}, fold)
    fits = False
    for clustering, q, fold in _clusterings(points, sizes, k, seed):
        if np.bincount(fold, sizes).max() > max_share * sizes.sum():
            continue
        fits, w = True, w_of(fold)
        if w < best[0]:
            best = (w, {"method": "knndm", "clustering": clustering, "q": q, "w_km": w}, fold)
    if not fits:
        raise ValueError(
            f"max_share = {max_share:g}: every division into {k} folds has one with more of the profiles; raise it, or k"
        )
    return (best[2][member], facts | best[1]) if best[1] else (random, facts)


def _clusterings(points: np.ndarray, sizes: np.ndarray, k: int, seed: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield a clustering's name, its number of clusters q, and the folds (P,) that they are merged into.

    Ward's for q from k to all places; k-means for q up to `_KMEANS_CLUSTERS`; square blocks of every size that gives k or more,
    also assigned to folds at random.
    """
    merges, roots = _merges(points, seed)
    centre = np.average(points, axis=0, weights=sizes)
    along = (points - centre) @ np.linalg.svd((points - centre) * np.sqrt(sizes)[:, None], full_matrices=False)[2][0]
    for q in _numbers_of_clusters(max(k, roots), len(points), _CANDIDATES):
        a, b = merges[: len(points) - q].T
        joined = coo_array((np.ones(len(a)), (a, b)), shape=(len(points), len(points)))
        yield "Ward", q, _merged_into_folds(connected_components(joined, directed=False)[1], sizes, along, k)
    tried = _OTHERS[1] if len(points) <= _OTHERS[0] else _OTHERS[2]
    for q in _numbers_of_clusters(k, min(len(points), _KMEANS_CLUSTERS), tried):
        labels = KMeans(q, n_init=1, random_state=seed).fit(points, sample_weight=sizes).labels_
        yield "k-means", q, _merged_into_folds(np.unique(labels, return_inverse=True)[1], sizes, along, k)
    lon, lat = np.degrees(np.arctan2(points[:, 1], points[:, 0])), np.degrees(np.arcsin(points[:, 2].clip(-1, 1)))
    widest = max(float(np.ptp(lon)), float(np.ptp(lat)), 1e-3)
    for side in np.geomspace(widest, max(widest / np.sqrt(4 * len(points)), 1e-4), tried).tolist():
        block = np.unique(spatial_groups(lon, lat, side), return_inverse=True)[1]
        if (q := int(block.max()) + 1) >= k:
            yield "blocks", q, _merged_into_folds(block, sizes, along, k)
            yield "blocks at random", q, group_folds(block, k, seed)


def _numbers_of_clusters(least: int, most: int, count: int) -> list[int]:
    """Return numbers of clusters from least to most, small ones more densely."""
    found: list[int] = np.unique(np.rint(np.geomspace(least, max(least, most), count)).astype(int)).tolist()
    return found


# --- folds of any strategy ---------------------------------------------------------------------------------------


def make_folds(
    strategy: str,
    lon: np.ndarray,
    lat: np.ndarray,
    k: int = 5,
    seed: int = 0,
    *,
    block_size: float | None = None,
    residuals: np.ndarray | None = None,
    prediction_points: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw folds by one of `STRATEGIES` and describe them.

    Parameters
    ----------
    strategy
        A key of `STRATEGIES`.
    lon, lat
        (N,) degrees.
    k, seed
        Folds, and the seed of the draw.
    block_size
        "blocks": their side, degrees.
    residuals
        "blocks", where no block size is given: (N,) residuals of a model, whose variogram gives it.
    prediction_points
        "knndm": lon, lat (M,) of the map's cells, see `knndm_folds`.

    Returns
    -------
    folds, facts
        (N,) int64 0..k-1; plain values for YAML or a report: strategy, reason, k, seed, sizes, median_km (of
        `held_out_distances`), and what the strategy adds.

    Raises
    ------
    ValueError
        For an unknown strategy, a missing argument, or too few groups for the folds.

    Examples
    --------
    >>> lon, lat = np.meshgrid(np.arange(6.0), np.arange(6.0))
    >>> folds, facts = make_folds("blocks", lon.ravel(), lat.ravel(), k=3, block_size=2.0)
    >>> facts["sizes"], facts["blocks"], round(facts["median_km"])
    ([12, 12, 12], 9, 111)
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy = {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    unit_vectors(lon, lat)
    more: dict[str, Any] = {}
    if strategy == "random":
        folds = group_folds(np.arange(len(lon)), k, seed)
    elif strategy == "place":
        folds = group_folds(spatial_groups(lon, lat), k, seed)
    elif strategy == "blocks":
        if block_size is None:
            if residuals is None:
                raise ValueError("blocks need a block_size (degrees) or residuals whose variogram gives it")
            fitted = fit_variogram(empirical_variogram(lon, lat, residuals, robust=True, seed=seed))
            block_size, limit = block_size_for_range(lon, lat, fitted.practical_range, _BLOCKS_PER_FOLD * k)
            more = {"range_km": fitted.practical_range, "range_found": fitted.bounded, "block_size_reason": limit}
        folds = block_folds(lon, lat, k, block_size, seed)
        more |= {"block_size": float(block_size), "blocks": int(np.unique(spatial_groups(lon, lat, block_size)).size)}
    elif strategy == "region":
        folds = cluster_regions(lon, lat, k, seed)
    else:
        if prediction_points is None:
            raise ValueError("knndm needs the points that will be predicted, see sample_cell_centres")
        folds, more = knndm_folds(lon, lat, k, prediction_points, seed)
    if strategy in SPATIAL:
        check_no_leak(folds, spatial_groups(lon, lat))
    sizes = np.bincount(folds).tolist()
    median = float(np.median(held_out_distances(lon, lat, folds)))
    facts = {"strategy": strategy, "reason": STRATEGIES[strategy].reason, "k": len(sizes), "seed": seed, "sizes": sizes}
    return folds, facts | {"median_km": median} | more
