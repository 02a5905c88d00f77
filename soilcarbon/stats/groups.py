"""Groups of profiles that no fold may split, and training, validation and test sets made of whole groups.

In: positions (N,) in degrees, or any group labels. Out: group numbers (N,), names of splits, fold numbers 0..k-1.

Soil varies slowly and profiles cluster: a profile held out a few kilometres from its training neighbours is nearly a copy of
them, and its score measures how well a model fills gaps, not how well it maps new areas. The groups fit scikit-learn's
`GroupKFold`, and `predefined_split` gives any folds to it. `spatial_cv` draws folds by every strategy.
"""

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from soilcarbon.io.files import UserError

if TYPE_CHECKING:
    from sklearn.model_selection import PredefinedSplit

_PER_DEGREE = 100_000  # positions are counted in 1e-5 degrees, about a metre: what two tables of one profile agree on
_AHEAD = 4
"""How far one group may carry a split ahead of its share, in groups of mean size. On clustered profiles of the world
(2,800 half-degree blocks, sizes 1 to 807) 4 keeps a country's share within 0.03; without it 0.1."""


def unit_vectors(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return positions (N,) in degrees as unit vectors in space (N, 3): distances are right across the date line and the poles.

    ValueError if lengths differ, a value is not finite, or a latitude is beyond 90 degrees.

    >>> unit_vectors(np.array([0.0, 90.0]), np.array([0.0, 0.0])).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    if lon.ndim != 1 or lon.shape != lat.shape:
        raise ValueError(f"lon {lon.shape} and lat {lat.shape} must be two vectors of one length")
    wrong = ~(np.isfinite(lon) & (np.abs(lat) <= 90))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"{int(wrong.sum())} of {lon.size} positions are invalid, first {lon[k]:g}, {lat[k]:g}")
    east, north = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)


def spatial_groups(lon: np.ndarray, lat: np.ndarray, block_size: float | None = None) -> np.ndarray:
    """Return the group of each profile that no fold may split: its square block, or its place.

    Make blocks at least as wide as the range over which a model's residuals are correlated (`block_size_for_range`). The number
    depends on position and block size alone, so that two datasets number a block alike: it is row * 2**32 + column, counted from
    (-180, -90) eastwards and northwards, in blocks or in 1e-5 degrees.

    Parameters
    ----------
    lon, lat
        (N,) degrees; taken to the nearest 1e-5 (about a metre).
    block_size
        Side of a block, degrees, to the nearest 1e-5. None: the group is the place, all profiles at one position.

    Returns
    -------
    array
        (N,) int64.

    Raises
    ------
    UserError
        If the block size is below 1e-5 degrees.

    Examples
    --------
    >>> groups = spatial_groups(np.array([10.1, 10.4, 10.6]), np.array([50.0, 50.2, 50.2]), block_size=0.5)
    >>> (groups == groups[0]).tolist()
    [True, True, False]
    """
    side = 1 if block_size is None else round(block_size * _PER_DEGREE)
    if side < 1:
        raise UserError(f"block_size = {block_size:g} degrees: a block must be at least {1 / _PER_DEGREE:g} wide")
    column = np.rint((np.asarray(lon, np.float64) + 180) * _PER_DEGREE).astype(np.int64) % (360 * _PER_DEGREE) // side
    row = np.rint((np.asarray(lat, np.float64) + 90) * _PER_DEGREE).astype(np.int64) // side
    return (row << 32) + column


def distinct_places(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct places (P, 3) as unit vectors, the place of each profile (N,), and the profiles of each place (P,)."""
    unit_vectors(lon, lat)
    groups, member, sizes = np.unique(spatial_groups(lon, lat), return_inverse=True, return_counts=True)
    return unit_vectors((groups & 0xFFFFFFFF) / 1e5 - 180, (groups >> 32) / 1e5 - 90), member, sizes


# --- splits ------------------------------------------------------------------------------------------------------------


def _spatial_order(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return an order of distinct groups (U,) in which neighbours in space are neighbours in line, at every scale.

    Quadrants within quadrants, those of one parent in random order, begun anywhere: the walk of a generalised
    random-tessellation stratified sample (Stevens and Olsen 2004, J. Am. Stat. Assoc. 99, 262-278).
    """
    row, column = groups >> 32, groups & 0xFFFFFFFF
    levels = int(max(row.max(), column.max())).bit_length()
    keys = []
    for level in range(levels + 1):  # from the groups themselves up to one square that contains them all
        squares, member = np.unique(((row >> level) << 32) + (column >> level), return_inverse=True)
        keys.append(random.permutation(len(squares))[member])
    return np.roll(np.lexsort(keys), random.integers(len(groups)))  # the last key, the largest squares, sorts first


def train_valid_test_split(
    groups: np.ndarray, valid_share: float, test_share: float, seed: int, fixed: Mapping[int, str] | None = None
) -> np.ndarray:
    """Split profiles into training, validation and test sets, whole groups together, evenly in space.

    Groups are visited in a seeded spatial order, and each goes to the split that is furthest behind its share so far. So not only
    the whole but any larger area, a country say, has about its share of each split. Whether a group is held out does not depend
    on how many profiles it has, unless they are so many that the balance would be lost; otherwise a test split would have only
    the sparsely sampled blocks.

    Parameters
    ----------
    groups
        (N,) from `spatial_groups`; the spatial order is read off their numbers.
    valid_share, test_share
        Shares of the profiles, met as nearly as the sizes of groups allow.
    seed
        Same groups, same seed: same split, in whatever order the profiles stand.
    fixed
        Group -> its split, decided before (in the dataset a region's model was pretrained on); counted, not moved.

    Returns
    -------
    array
        (N,) text: "train", "valid" or "test".

    Raises
    ------
    UserError
        If the shares leave nothing for training.

    Examples
    --------
    >>> groups = spatial_groups(np.linspace(0, 9, 100), np.linspace(0, 9, 100), block_size=0.5)
    >>> split = train_valid_test_split(groups, valid_share=0.1, test_share=0.2, seed=0)
    >>> {str(name): int((split == name).sum()) for name in ("train", "valid", "test")}
    {'train': 68, 'valid': 11, 'test': 21}
    """
    shares = {"train": 1 - valid_share - test_share, "valid": valid_share, "test": test_share}
    if min(valid_share, test_share) < 0 or shares["train"] < 1e-9:
        raise UserError(f"valid_share {valid_share:g} and test_share {test_share:g} leave no profiles to train on; lower them")
    fixed = fixed or {}
    if unknown := set(fixed.values()) - set(shares):
        raise ValueError(f"fixed names the split {min(unknown)!r}; there are {', '.join(shares)}")
    distinct, member, sizes = np.unique(np.asarray(groups, np.int64), return_inverse=True, return_counts=True)
    if len(distinct) == 0:
        return np.empty(0, dtype="U5")

    random = np.random.default_rng(seed)
    chosen = _first_assignment(distinct, sizes, shares, fixed, random)
    filled = {s: int(sizes[[name == s for name in chosen]].sum()) for s in shares}
    for k in random.permutation(len(distinct)).tolist():  # a huge group may have left another split short
        lacks = {s: shares[s] * int(sizes.sum()) - filled[s] for s in shares}
        short, size = max(lacks, key=lacks.__getitem__), int(sizes[k])
        if size <= min(lacks[short], -lacks[chosen[k]]) and int(distinct[k]) not in fixed:
            filled[chosen[k]] -= size
            filled[short] += size
            chosen[k] = short
    for name in ("test", "valid"):  # of few groups a small share may have got none
        spare = [k for k, group in enumerate(distinct.tolist()) if chosen[k] == "train" and group not in fixed]
        if shares[name] > 0 and name not in chosen and spare and chosen.count("train") > 1:
            chosen[min(spare, key=sizes.__getitem__)] = name
    return np.array(chosen, dtype="U5")[member]


def _first_assignment(
    distinct: np.ndarray, sizes: np.ndarray, shares: Mapping[str, float], fixed: Mapping[int, str], random: np.random.Generator
) -> list[str]:
    """Return a split for each distinct group (U,): visited in spatial order, each goes to the split furthest behind its share."""
    total, typical, visited = int(sizes.sum()), float(sizes.mean()), 0
    filled = dict.fromkeys(shares, 0)
    chosen: list[str] = [""] * len(distinct)
    for k in _spatial_order(distinct, random).tolist():
        group, size = int(distinct[k]), int(sizes[k])
        ahead = {s: filled[s] + size - shares[s] * (visited + size) for s in shares if shares[s] > 0}
        # a group fits where it brings the final share nearer, and the share so far not much beyond
        fits = [s for s in ahead if size <= 2 * (shares[s] * total - filled[s]) and ahead[s] <= _AHEAD * typical]
        if group in fixed:
            name = fixed[group]
        elif fits:
            name = max(fits, key=lambda s: shares[s] * (visited + typical) - filled[s])
        else:
            name = min(ahead, key=ahead.__getitem__)
        chosen[k] = name
        filled[name] += size
        visited += size
    return chosen


# --- folds of groups -----------------------------------------------------------------------------------------------------


def check_k(k: int, n: int, of: str) -> None:
    """Raise ValueError unless k folds can be made of n groups, called `of` in the message."""
    if not 2 <= k <= n:
        raise ValueError(f"k = {k} folds of {n} {of}: expected 2 to {n}" if n > 1 else f"{n} {of} cannot be held out in turn")


def group_folds(groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return group k-fold: whole groups assigned at random to folds of about equal size.

    As scikit-learn's `GroupKFold`, but seeded, and independent of the order in which the profiles stand.

    Parameters
    ----------
    groups
        (N,) the group each profile belongs to: its row number, its place or its block (`spatial_groups`).
    k
        Folds.
    seed
        Same groups, same seed: same folds.

    Returns
    -------
    array
        (N,) int64 0..k-1.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    Examples
    --------
    >>> group_folds(np.array([7, 7, 7, 8, 8, 9]), k=2, seed=0).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    distinct, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    check_k(k, len(distinct), "groups")
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = np.empty(len(distinct), np.int64)
    smallest = [(0, fold) for fold in range(k)]
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():  # large ones first, small ones level
        size, fold = smallest[0]
        fold_of[group] = fold
        heapq.heapreplace(smallest, (size + int(sizes[group]), fold))
    return fold_of[member]


def inner_folds(groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return `group_folds` of k folds, or of as many as there are groups: the inner loop of a nested cross-validation.

    >>> sorted(inner_folds(np.array([1, 1, 2, 3]), k=5, seed=0).tolist())
    [0, 0, 1, 2]
    """
    return group_folds(groups, min(k, np.unique(groups).size), seed)


def check_no_leak(folds: np.ndarray, groups: np.ndarray) -> None:
    """Raise a ValueError if profiles of one group (place, block, region) are in two folds.

    >>> check_no_leak(np.array([0, 0, 1]), np.array(["a", "b", "b"]))
    Traceback (most recent call last):
    ...
    ValueError: 1 of 2 groups are in more than one fold, first 'b'
    """
    folds, (distinct, group) = np.asarray(folds), np.unique(groups, return_inverse=True)
    if folds.shape != group.shape:
        raise ValueError(f"folds {folds.shape} and groups {group.shape} must be two vectors of one length")
    pairs = np.unique(np.stack([group, folds]), axis=1)
    split = np.flatnonzero(np.bincount(pairs[0]) > 1)
    if split.size:
        first = distinct[split[0]].item()
        raise ValueError(f"{split.size} of {len(distinct)} groups are in more than one fold, first {first!r}")


def predefined_split(folds: np.ndarray) -> "PredefinedSplit":
    """Return folds as a scikit-learn splitter: `cross_val_predict(model, x, y, cv=predefined_split(folds))`.

    Examples
    --------
    >>> [test.tolist() for _, test in predefined_split(np.array([0, 1, 0])).split()]
    [[0, 2], [1]]
    """
    from sklearn.model_selection import PredefinedSplit  # here: scikit-learn is slow to import, and training needs none of it

    return PredefinedSplit(np.asarray(folds))
