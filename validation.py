"""Hold profiles out, and score what was predicted for them.

In: arrays in memory. Out: who is in which split, scores, and intervals of scores. Every score this project prints,
logs or chooses an epoch by is made here. Stands alone: it knows no settings, no files and no network.
"""

from collections.abc import Mapping

import numpy as np

from files import UserError

HIGHER_IS_BETTER = {"rmse": False, "mae": False, "r2": True, "ccc": True}
"""The scores that can rank two models, and which way. ME is a balance, not a rank."""

# --- splits ----------------------------------------------------------------------------------------------------

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


# --- scores ----------------------------------------------------------------------------------------------------


def _checked(observed: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    observed, predicted = np.asarray(observed, np.float64), np.asarray(predicted, np.float64)
    if observed.ndim != 1 or observed.shape != predicted.shape:
        raise ValueError(f"observed {observed.shape} and predicted {predicted.shape} must be two vectors of one length")
    for name, values in (("observed", observed), ("predicted", predicted)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has {int((~np.isfinite(values)).sum())} values of {len(values)} that are not finite")
    return observed, predicted


def _moments(observed: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what scores are means of, (n, 8), and the variance below which observations count as constant."""
    error = predicted - observed
    o, p = observed - observed.mean(), predicted - predicted.mean()  # centred, lest squares cancel
    floor = max((1e-12 * np.abs(observed).max()) ** 2, 1e-12 * float(np.mean(o * o)))
    return np.stack([error, np.abs(error), error * error, o, p, o * o, p * p, o * p], axis=1), floor


def _scores_of(means: np.ndarray, floor: float) -> dict[str, np.ndarray]:
    """Return each score (...,) from the means of the moments (..., 8); NaN where undefined."""
    me, mae, mse, o, p, oo, pp, op = np.moveaxis(means, -1, 0)
    observed_variance, predicted_variance, covariance = oo - o * o, pp - p * p, op - o * p
    variance = np.where(observed_variance > floor, observed_variance, np.nan)
    return {
        "rmse": np.sqrt(mse),
        "mae": mae,
        "me": me,
        "r2": 1 - mse / variance,
        "ccc": 2 * covariance / (variance + predicted_variance + me * me),
    }


def scores(observed: np.ndarray, predicted: np.ndarray) -> dict[str, float | int | None]:
    """Return how well predictions meet observations.

    Parameters
    ----------
    observed, predicted
        (n,) in the target's unit.

    Returns
    -------
    dict
        n; rmse, mae and me (mean of predicted - observed) in the target's unit; r2, the model efficiency
        1 - SSE/SST (not a squared correlation: a biased model loses); ccc, Lin's concordance with population
        moments (Lin 1989, Biometrics 45, 255-268). A score that is undefined (no profiles; for r2 and ccc,
        observations that do not vary) is None.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    observed, predicted = _checked(observed, predicted)
    n = len(observed)
    if n == 0:
        return {"n": 0, **dict.fromkeys(("rmse", "mae", "me", "r2", "ccc"))}
    moments, floor = _moments(observed, predicted)
    values = _scores_of(moments.mean(axis=0), floor)
    return {"n": n, **{name: _plain(value) for name, value in values.items()}}


def _plain(value: np.ndarray | float) -> float | None:
    return float(value) if np.isfinite(value) else None


def bootstrap_scores(
    observed: np.ndarray,
    predicted: np.ndarray,
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
    units: np.ndarray | None = None,
) -> dict[str, int | dict[str, float | None]]:
    """Return the scores with bootstrap percentile intervals.

    Whole units are drawn with replacement: profiles of one block err alike, and drawn singly, as if independent of each
    other, they would give too narrow an interval.

    Parameters
    ----------
    observed, predicted
        (n,) in the target's unit.
    seed
        Of the draws.
    draws
        Resamples.
    level
        Of the interval: 0.95 leaves 2.5 % of the draws on each side.
    units
        (n,) the unit each profile belongs to, see `split_units`; default: each is its own.

    Returns
    -------
    dict
        n, and score -> {"value", "low", "high"}; None where undefined, as in `scores`.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    observed, predicted = _checked(observed, predicted)
    value = scores(observed, predicted)
    n = len(observed)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in value if name != "n"}
    if n > 0:
        moments, floor = _moments(observed, predicted)
        member = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
        blocks = int(member.max()) + 1
        sums = np.stack([np.bincount(member, column, blocks) for column in (*moments.T, np.ones(n))], axis=1)
        random = np.random.default_rng(seed)
        chunk = max(1, 2_000_000 // blocks)
        for begin in range(0, draws, chunk):
            count = min(chunk, draws - begin)
            chosen = random.integers(blocks, size=(count, blocks)) + blocks * np.arange(count)[:, None]
            totals = np.bincount(chosen.ravel(), minlength=count * blocks).reshape(count, blocks) @ sums
            for name, part in _scores_of(totals[:, :-1] / totals[:, -1:], floor).items():
                drawn[name].append(part)
    result: dict[str, int | dict[str, float | None]] = {"n": n}
    for name, parts in drawn.items():
        defined = np.concatenate([np.empty(0), *parts])
        defined = defined[np.isfinite(defined)]
        ends = [np.nan, np.nan]
        if value[name] is not None and defined.size:
            ends = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
        result[name] = {"value": value[name], "low": _plain(ends[0]), "high": _plain(ends[1])}
    return result


def better(name: str, a: float | None, b: float | None) -> bool:
    """Return whether score a beats score b; an undefined score (None) beats nothing and loses to any other."""
    if a is None or b is None:
        return a is not None
    return a > b if HIGHER_IS_BETTER[name] else a < b
