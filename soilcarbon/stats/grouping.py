"""Profiles that belong together, and who of them is held out: places and blocks, splits and folds that part none.

In: positions (degrees). Out: numbers of places or blocks (`units`), names of splits, fold numbers. `folds.make_folds` draws folds
in every way there is, by these.
"""

import heapq
from collections.abc import Mapping

import numpy as np

from soilcarbon.io.files import UserError

# --- places and blocks -------------------------------------------------------------------------------------------------

_PER_DEGREE = 100_000
"""Positions are counted in 1e-5 degrees, about a metre: what two tables of one profile agree on."""


def split_units(lon: np.ndarray, lat: np.ndarray, how: str, block_size: float = 0.5) -> np.ndarray:
    """Return the place or the spatial block each profile belongs to; a split takes or leaves it whole.

    Soil varies slowly and profiles cluster, so a profile held out a few kilometres from its training neighbours
    is nearly a copy of them: its score tells how well the model fills gaps, not how well it maps unvisited land.
    Blocks keep neighbours together and tell the latter; make them at least as wide as the range over which the
    model's residuals still agree. Places ("random") only keep profiles at one spot together.

    The number depends on the position (and `block_size`) alone, so that two datasets name a block alike: it is
    row * 2**32 + column, counted from (-180, -90) eastwards and northwards, in blocks or in 1e-5 degrees.

    Parameters
    ----------
    lon, lat
        (N,) degrees; taken to the nearest 1e-5.
    how
        "random": the place. "blocks": the square block.
    block_size
        Side of a block, degrees; taken to the nearest 1e-5.

    Returns
    -------
    array
        (N,) int64.
    """
    if how not in ("random", "blocks"):
        raise ValueError(f"how = {how!r}: expected 'random' or 'blocks'")
    side = round(block_size * _PER_DEGREE) if how == "blocks" else 1
    if side < 1:
        raise UserError(f"block_size = {block_size:g} degrees: a block must be at least {1 / _PER_DEGREE:g} wide")
    column = np.rint((np.asarray(lon, np.float64) + 180) * _PER_DEGREE).astype(np.int64) % (360 * _PER_DEGREE) // side
    row = np.rint((np.asarray(lat, np.float64) + 90) * _PER_DEGREE).astype(np.int64) // side
    return (row << 32) + column


def units_within(lon: np.ndarray, lat: np.ndarray, side: float | None) -> np.ndarray:
    """Return the block (N,) of so many degrees that each profile belongs to, or its place where no side is given."""
    return split_units(lon, lat, "random") if side is None else split_units(lon, lat, "blocks", side)


# --- splits ------------------------------------------------------------------------------------------------------------

_AHEAD = 4
"""How far one unit may carry a split ahead of its share, in units of mean size. On clustered profiles of the world
(2,800 half-degree blocks, sizes 1 to 807) 4 keeps a country's share within 0.03; without it 0.1."""


def _spatial_order(units: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return an order of distinct units (U,) in which neighbours in space are neighbours in line, at every scale.

    Quadrants within quadrants, those of one parent in random order, begun anywhere: the walk of a generalised
    random-tessellation stratified sample (Stevens and Olsen 2004, J. Am. Stat. Assoc. 99, 262-278).
    """
    row, column = units >> 32, units & 0xFFFFFFFF
    levels = int(max(row.max(), column.max())).bit_length()
    keys = []
    for level in range(levels + 1):  # from the units themselves up to one square that holds them all
        squares, member = np.unique(((row >> level) << 32) + (column >> level), return_inverse=True)
        keys.append(random.permutation(len(squares))[member])
    return np.roll(np.lexsort(keys), random.integers(len(units)))  # the last key, the largest squares, sorts first


def draw_split(
    units: np.ndarray, valid_share: float, test_share: float, seed: int, fixed: Mapping[int, str] | None = None
) -> np.ndarray:
    """Divide profiles into train, valid and test, whole units together, evenly over the land.

    Units are visited in a seeded spatial order, and each goes to the split that is furthest behind its share so
    far. So not only the whole but any larger area, a country say, has about its share of each split. Whether a
    unit is held out does not depend on how many profiles it has, unless they are so many that the balance would
    be lost; were it to, a test split would hold only the sparsely sampled blocks.

    Parameters
    ----------
    units
        (N,) from `split_units`; the order is read off their numbers.
    valid_share, test_share
        Shares of the profiles, met as nearly as the sizes of units allow.
    seed
        Same units, same seed: same split, in whatever order the profiles stand.
    fixed
        Unit -> its split, decided before (in the dataset a region's model was pretrained on); counted, not moved.

    Returns
    -------
    array
        (N,) text: "train", "valid" or "test".

    Raises
    ------
    UserError
        If the shares leave nothing for training.
    """
    shares = {"train": 1 - valid_share - test_share, "valid": valid_share, "test": test_share}
    if min(valid_share, test_share) < 0 or shares["train"] < 1e-9:
        raise UserError(f"valid_share {valid_share:g} and test_share {test_share:g} leave no profiles to train on; lower them")
    fixed = fixed or {}
    if unknown := set(fixed.values()) - set(shares):
        raise ValueError(f"fixed names the split {min(unknown)!r}; there are {', '.join(shares)}")
    distinct, member, sizes = np.unique(np.asarray(units, np.int64), return_inverse=True, return_counts=True)
    if len(distinct) == 0:
        return np.empty(0, dtype="U5")

    total, typical, visited = int(sizes.sum()), float(sizes.mean()), 0
    filled = dict.fromkeys(shares, 0)
    chosen: list[str] = [""] * len(distinct)
    random = np.random.default_rng(seed)
    for k in _spatial_order(distinct, random).tolist():
        unit, size = int(distinct[k]), int(sizes[k])
        ahead = {s: filled[s] + size - shares[s] * (visited + size) for s in shares}
        # a unit fits where it brings the final share nearer, and the share so far not much beyond
        fits = [s for s in shares if size <= 2 * (shares[s] * total - filled[s]) and ahead[s] <= _AHEAD * typical]
        if unit in fixed:
            name = fixed[unit]
        elif fits:
            name = max(fits, key=lambda s: shares[s] * (visited + typical) - filled[s])
        else:
            name = min(shares, key=ahead.__getitem__)
        chosen[k] = name
        filled[name] += size
        visited += size

    for k in random.permutation(len(distinct)).tolist():  # a huge unit may have left another split short
        lacks = {s: shares[s] * total - filled[s] for s in shares}
        short, size = max(lacks, key=lacks.__getitem__), int(sizes[k])
        if size <= min(lacks[short], -lacks[chosen[k]]) and int(distinct[k]) not in fixed:
            filled[chosen[k]] -= size
            filled[short] += size
            chosen[k] = short
    for name in ("test", "valid"):  # of few units a small share may have got none
        spare = [k for k, unit in enumerate(distinct.tolist()) if chosen[k] == "train" and unit not in fixed]
        if shares[name] > 0 and name not in chosen and spare and chosen.count("train") > 1:
            chosen[min(spare, key=sizes.__getitem__)] = name
    return np.array(chosen, dtype="U5")[member]


# --- folds ---------------------------------------------------------------------------------------------------------------


def check_k(k: int, n: int, of: str) -> None:
    """Stop unless k folds can be made of n units, called `of` in the message.

    Raises
    ------
    ValueError
        If k is not 2 to n.
    """
    if not 2 <= k <= n:
        raise ValueError(f"k = {k} folds of {n} {of}: expected 2 to {n}" if n > 1 else f"{n} {of} cannot be held out in turn")


def group_folds(units: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Deal whole units into folds of about equal size, at random.

    Parameters
    ----------
    units
        (N,) the unit each profile belongs to: its row number, its place or its block (`grouping.split_units`).
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
    check_k(k, len(distinct), "units")
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = np.empty(len(distinct), np.int64)
    smallest = [(0, fold) for fold in range(k)]
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():  # large ones first, small ones level
        size, fold = smallest[0]
        fold_of[unit] = fold
        heapq.heapreplace(smallest, (size + int(sizes[unit]), fold))
    return fold_of[member]


def inner_folds(units: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return `group_folds` of k folds, or of as many as there are units.

    Raises
    ------
    ValueError
        If k or the number of units is below 2.
    """
    return group_folds(units, min(k, np.unique(units).size), seed)
