"""Hold profiles out for a fair score, in the way that matches what the map will be used for.

In: arrays of positions (degrees), labels, residuals. Out: fold numbers (N,) 0..k-1, and facts of them for a report.
A score is only as honest as the distance between the profiles held out and those trained on: `make_folds` draws folds
in each way of `WAYS`, `held_out_distances` tells how far they hold out, `mismatch` how far they should.
"""

import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.cluster import KMeans
from sklearn.model_selection import PredefinedSplit

from files import UserError, read_table, read_yaml, write_table, write_yaml
from validation import split_units
from variogram import arc_km, block_side, fit_variogram, semivariances, unit_vectors

WAYS = {
    "random": "Single profiles: the score of filling gaps between profiles; too good for a map wherever profiles cluster.",
    "place": "All profiles of one place together: as random, but no profile is predicted from its own twin.",
    "blocks": "Square blocks: the score on land some way from any profile; choose sides as wide as the residuals agree.",
    "region": "Whole regions: the score in a land that has no profiles at all; the hardest test, and of transfer only.",
    "knndm": "Held out as far from training profiles as the map's cells are from profiles: the score of that map.",
}
"""Way -> when to choose it."""
SPATIAL = ("place", "blocks", "region", "knndm")
"""Ways that never part the profiles of one place."""

_BLOCKS_PER_FOLD = 5
"""Fewer blocks make folds that are one landscape each, and of very unequal size."""
_KS_LEVEL = 0.05
"""Of the test whether random folds hold out near enough (Linnenbrink et al. 2024)."""
_CANDIDATES = 100
"""Numbers of clusters tried, few ones more densely (Linnenbrink et al. 2024)."""
_WARD_PLACES = 5_000
"""Of so many places at once, all pairs are compared (100 MB, a second); more are parted first."""
_NEIGHBOURS = 32
"""Looked up once; most held-out profiles have one of another fold among them."""


# --- folds of whole units ----------------------------------------------------------------------------------------


def _check_k(k: int, n: int, of: str) -> None:
    if not 2 <= k <= n:
        raise ValueError(f"k = {k} folds of {n} {of}: expected 2 to {n}" if n > 1 else f"{n} {of} cannot be held out in turn")


def group_folds(units: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Deal whole units into folds of about equal size, at random.

    Parameters
    ----------
    units
        (N,) the unit each profile belongs to: its row number, its place or its block (`validation.split_units`).
    k
        Folds.
    seed
        Same units, same seed: same folds, in whatever order the profiles stand.

    Returns
    -------
    array
        (N,) int64 0..k-1.

    Raises
    ------
    ValueError
        If there are fewer units than folds.
    """
    distinct, member, sizes = np.unique(units, return_inverse=True, return_counts=True)
    _check_k(k, len(distinct), "units")
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = np.empty(len(distinct), np.int64)
    smallest = [(0, fold) for fold in range(k)]
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():  # large ones first, small ones level
        size, fold = smallest[0]
        fold_of[unit] = fold
        heapq.heapreplace(smallest, (size + int(sizes[unit]), fold))
    return fold_of[member]


def cluster_regions(lon: np.ndarray, lat: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return compact regions (N,) 0..k-1 of profiles that have no region's label: k-means on the sphere.

    Raises
    ------
    ValueError
        If there are fewer places than regions.
    """
    points, member, sizes = _places(lon, lat)
    _check_k(k, len(points), "places")
    return np.asarray(KMeans(k, n_init=10, random_state=seed).fit(points, sample_weight=sizes).labels_[member], np.int64)


def _places(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct places (P, 3) in an order of their own, the place of each profile (N,), profiles of each (P,)."""
    unit_vectors(lon, lat)
    units, member, sizes = np.unique(split_units(lon, lat, "random"), return_inverse=True, return_counts=True)
    return unit_vectors((units & 0xFFFFFFFF) / 1e5 - 180, (units >> 32) / 1e5 - 90), member, sizes


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

    As published, but for these: positions lie on the sphere; a place (see `validation.split_units`) counts as one
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
    points, member, sizes = _places(lon, lat)
    _check_k(k, len(points), "places")
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


# --- any way -----------------------------------------------------------------------------------------------------


def make_folds(
    way: str,
    lon: np.ndarray,
    lat: np.ndarray,
    k: int = 5,
    seed: int = 0,
    *,
    side: float | None = None,
    residuals: np.ndarray | None = None,
    regions: Sequence[str] | np.ndarray | None = None,
    places: tuple[np.ndarray, np.ndarray] | None = None,
    maxp: float = 0.5,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw folds in one of `WAYS` and say what they are.

    Parameters
    ----------
    way
        A key of `WAYS`.
    lon, lat
        (N,) degrees.
    k, seed
        Folds, and the draw's seed; labelled regions are one fold each, whatever k.
    side
        "blocks": their side, degrees.
    residuals
        "blocks", where no side is given: (N,) residuals of a model, whose variogram gives the side.
    regions
        "region": (N,) labels; default: k clusters.
    places, maxp
        "knndm": see `knndm_folds`.

    Returns
    -------
    folds, facts
        (N,) int64 0..k-1; plain values for YAML or a report: way, why, k, seed, sizes, median_km (of
        `held_out_distances`), and what the way adds.

    Raises
    ------
    ValueError
        For an unknown way, a missing argument, or too few units for the folds.
    """
    if way not in WAYS:
        raise ValueError(f"way = {way!r}: expected one of {', '.join(WAYS)}")
    unit_vectors(lon, lat)
    more: dict[str, Any] = {}
    if way == "random":
        folds = group_folds(np.arange(len(lon)), k, seed)
    elif way == "place":
        folds = group_folds(split_units(lon, lat, "random"), k, seed)
    elif way == "blocks":
        if side is None:
            if residuals is None:
                raise ValueError("blocks need a side (degrees) or residuals whose variogram gives it")
            fitted = fit_variogram(semivariances(lon, lat, residuals, robust=True, seed=seed))
            side, limit = block_side(lon, lat, fitted.practical_range, _BLOCKS_PER_FOLD * k)
            more = {"range_km": fitted.practical_range, "range_found": fitted.bounded, "side_limit": limit}
        blocks = split_units(lon, lat, "blocks", side)
        folds = group_folds(blocks, k, seed)
        more |= {"side_degrees": float(side), "blocks": int(np.unique(blocks).size)}
    elif way == "region":
        if regions is None:
            regions = [f"cluster {number:02d}" for number in cluster_regions(lon, lat, k, seed)]
        names, folds = np.unique(np.asarray(regions, str), return_inverse=True)
        _check_k(len(names), len(names), "regions")
        more = {"regions": names.tolist()}
    else:
        if places is None:
            raise ValueError("knndm needs the places that will be predicted, see draw_places")
        folds, more = knndm_folds(lon, lat, k, places, seed, maxp)
    if way in SPATIAL:
        check_no_leak(folds, split_units(lon, lat, "random"))
    sizes = np.bincount(folds).tolist()
    median = float(np.median(held_out_distances(lon, lat, folds)))
    return folds, {"way": way, "why": WAYS[way], "k": len(sizes), "seed": seed, "sizes": sizes, "median_km": median} | more


def check_no_leak(folds: np.ndarray, units: np.ndarray) -> None:
    """Stop if profiles of one unit (place, block, region) are in two folds.

    Raises
    ------
    ValueError
        With the number of such units, and the first.
    """
    folds, (distinct, unit) = np.asarray(folds), np.unique(units, return_inverse=True)
    if folds.shape != unit.shape:
        raise ValueError(f"folds {folds.shape} and units {unit.shape} must be two vectors of one length")
    pairs = np.unique(np.stack([unit, folds]), axis=1)
    parted = np.flatnonzero(np.bincount(pairs[0]) > 1)
    if parted.size:
        first = distinct[parted[0]].item()
        raise ValueError(f"{parted.size} of {len(distinct)} units are in more than one fold, first {first!r}")


def splits(folds: np.ndarray) -> PredefinedSplit:
    """Return the folds as scikit-learn takes them: `cross_val_predict(model, x, y, cv=splits(folds))`."""
    return PredefinedSplit(np.asarray(folds))


# --- keeping folds -----------------------------------------------------------------------------------------------


def save_folds(path: Path, ids: Sequence[str], folds: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Write folds to `path` (CSV: profile_id, fold), and what they are beside it, in the same name as .yaml.

    Raises
    ------
    ValueError
        If ids repeat, or folds are not numbered 0..k-1 without a gap, one for each id.
    """
    folds, names = np.asarray(folds), [str(each) for each in ids]
    if len(set(names)) < len(names) or folds.shape != (len(names),):
        raise ValueError(f"{len(names)} ids, {len(set(names))} distinct, and folds {folds.shape}: expected one fold for each id")
    if not np.array_equal(np.unique(folds), np.arange(len(np.unique(folds)))):
        raise ValueError(f"folds are numbered {np.unique(folds)[:10].tolist()}: expected 0, 1, ... without a gap")
    write_yaml(path.with_suffix(".yaml"), dict(facts))
    write_table(path, pd.DataFrame({"profile_id": names, "fold": folds}))


def read_folds(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what `save_folds` wrote, for a table that may stand in another order.

    Parameters
    ----------
    path
        The CSV.
    ids
        (N,) the table's ids.

    Returns
    -------
    folds, facts
        (N,) int64, in the order of `ids`; the facts saved with them.

    Raises
    ------
    UserError
        If a file or column is missing, an id is in the one table and not in the other, or repeated, or a fold is no
        number 0, 1, ...
    """
    table, facts = read_table(path, ("profile_id", "fold")), read_yaml(path.with_suffix(".yaml"))
    fold = pd.to_numeric(table["fold"], errors="coerce").to_numpy(np.float64)
    number = np.isfinite(fold) & (fold >= 0) & (fold == np.floor(fold))
    named = table["profile_id"].fillna("").str.strip()
    for wrong, rule in ((~number, "fold must be 0, 1, ..."), (named.duplicated().to_numpy(), "profile_id must be unique")):
        if wrong.any():
            raise UserError(
                f"{path}: {rule}; not so in {int(wrong.sum())} of {len(table)} rows, first at {named[wrong.argmax()]!r}"
            )
    fold_of, wanted = dict(zip(named, fold.astype(np.int64).tolist(), strict=True)), [str(each).strip() for each in ids]
    missing, unknown = [each for each in wanted if each not in fold_of], list(set(fold_of) - set(wanted))
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} profiles have no fold, first {missing[0]!r}; draw folds anew")
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(table)} profiles are not in this table, first {min(unknown)!r}; draw folds anew"
        )
    return np.array([fold_of[each] for each in wanted], np.int64), facts
