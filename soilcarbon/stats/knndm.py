"""Hold profiles out as far from training as a map's cells are from profiles (kNNDM), and tell how far any folds do.

In: arrays of positions (degrees). Out: distances (km), what folds' distances miss a map's by, places drawn from a map's
land, and fold numbers (N,) 0..k-1. `folds.make_folds` draws folds in this and in every other way.
"""

from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.cluster import KMeans

from soilcarbon.stats.grouping import check_k, group_folds, split_units
from soilcarbon.stats.variogram import arc_km, distinct_places, unit_vectors

_KS_LEVEL = 0.05
"""Of the test whether random folds hold out near enough (Linnenbrink et al. 2024)."""
_CANDIDATES = 100
"""Numbers of clusters tried, few ones more densely (Linnenbrink et al. 2024)."""
_WARD_PLACES = 5_000
"""Of so many places at once, all pairs are compared (100 MB, a second); more are parted first."""
_NEIGHBOURS = 32
"""Looked up once; most held-out profiles have one of another fold among them."""

# --- how far folds hold out --------------------------------------------------------------------------------------


def _nearest_elsewhere(points: np.ndarray, folds: np.ndarray, near: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Return each point's distance (P,) km to the nearest of another fold; `near`, a tree's answer, saves searching."""
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
    """Return how far each profile is from the nearest one in another fold, (N,) km: how hard the folds test.

    Raises
    ------
    ValueError
        If there is one fold only.
    """
    folds = np.asarray(folds)
    if np.unique(folds).size < 2:
        raise ValueError("one fold only: nothing is left to train on")
    return _nearest_elsewhere(unit_vectors(lon, lat), folds)


def prediction_distances(lon: np.ndarray, lat: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return how far each place (lon, lat) to be predicted is from the nearest profile, (M,) km."""
    return arc_km(cKDTree(unit_vectors(lon, lat)).query(unit_vectors(*places))[0])


def mismatch(lon: np.ndarray, lat: np.ndarray, folds: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> float:
    """Return W, km: the Wasserstein distance between `held_out_distances` and `prediction_distances`; 0 is a fair test."""
    return float(wasserstein_distance(held_out_distances(lon, lat, folds), prediction_distances(lon, lat, places)))


def draw_places(land: np.ndarray, lon: np.ndarray, lat: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw centres of cells evenly over a map's land, with replacement.

    Parameters
    ----------
    land
        (H, W) bool: the cells that will be mapped.
    lon, lat
        (W,) and (H,) of the cells' centres, degrees.
    n
        Places.
    seed
        Of the draws.

    Returns
    -------
    lon, lat
        (n,) each; a cell's chance is its area, which shrinks towards the poles.

    Raises
    ------
    ValueError
        If there is no land, or the shapes do not fit.
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
    lon: np.ndarray, lat: np.ndarray, k: int, places: tuple[np.ndarray, np.ndarray], seed: int, maxp: float = 0.5
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw folds whose held-out profiles are as far from training as the map's places are from profiles.

    k-fold nearest neighbour distance matching (Linnenbrink, Mila, Ludwig and Meyer 2024, Geosci. Model Dev. 17,
    5897-5912). If profiles are no nearer to each other than places are to them (Kolmogorov-Smirnov), random folds do.
    Else profiles are clustered (Ward) into q clusters, for q from k to all, each merged into k folds; that q is taken
    whose held-out distances have the smallest Wasserstein distance W to the places' distances.

    As published, but for these: positions lie on the sphere; a place (see `grouping.split_units`) counts as one
    point, for profiles of one place, parted, would leak into each other; random folds, too, keep places whole, and
    are taken if no q matches better; among more than 5,000 places, clusters do not cross the parts of a 2-means
    tree.

    Parameters
    ----------
    lon, lat
        (N,) degrees, of profiles.
    k
        Folds.
    places
        lon, lat (M,) degrees, of places to be predicted: `draw_places`; a few thousand do.
    seed
        Same profiles, same seed: same folds, in whatever order the profiles stand.
    maxp
        Largest share of the profiles in one fold, 1/k..1.

    Returns
    -------
    folds, facts
        (N,) int64; and method ("knndm" or "random by place"), q (clusters; none for random), w_km and w_random_km (W
        of these and of random folds), ks_p, maxp.

    Raises
    ------
    ValueError
        If there are fewer places with profiles than folds, or no q keeps to `maxp`.
    """
    points, member, sizes = distinct_places(lon, lat)
    check_k(k, len(points), "places")
    if not 1 / k <= maxp <= 1:
        raise ValueError(f"maxp = {maxp:g}: {k} folds hold at least {1 / k:.2g} of the profiles, at most 1")
    target = prediction_distances(lon, lat, places)
    near = cKDTree(points).query(points, min(len(points), 1 + _NEIGHBOURS))

    def held_out(fold: np.ndarray) -> np.ndarray:
        return _nearest_elsewhere(points, fold, near)

    def w_of(fold: np.ndarray) -> float:
        return float(wasserstein_distance(held_out(fold), target, sizes))

    random = group_folds(split_units(lon, lat, "random"), k, seed)
    fold = np.empty(len(points), np.int64)
    fold[member] = random
    w_random = w_of(fold)
    alone = np.repeat(held_out(np.arange(len(points))), sizes)
    p = float(ks_2samp(alone, target, alternative="greater", method="asymp").pvalue)
    facts: dict[str, Any] = {"method": "random by place", "q": None, "w_km": w_random}
    facts |= {"w_random_km": w_random, "ks_p": p, "maxp": float(maxp)}
    if p >= _KS_LEVEL:
        return random, facts

    merges, roots = _merges(points, seed)
    centre = np.average(points, axis=0, weights=sizes)
    axis = np.linalg.svd((points - centre) * np.sqrt(sizes)[:, None], full_matrices=False)[2][0]
    best, fits = (w_random, None, fold), False
    for q in np.unique(np.rint(np.geomspace(max(k, roots), len(points), _CANDIDATES)).astype(int)).tolist():
        a, b = merges[: len(points) - q].T
        joined = coo_array((np.ones(len(a)), (a, b)), shape=(len(points), len(points)))
        fold = _merged_into_folds(connected_components(joined, directed=False)[1], sizes, (points - centre) @ axis, k)
        if np.bincount(fold, sizes).max() > maxp * sizes.sum():
            continue
        fits, w = True, w_of(fold)
        if w < best[0]:
            best = (w, q, fold)
    if not fits:
        raise ValueError(f"maxp = {maxp:g}: every division into {k} folds has one that holds more of the profiles; raise it, or k")
    if best[1] is None:
        return random, facts
    return best[2][member], facts | {"method": "knndm", "w_km": best[0], "q": best[1]}
