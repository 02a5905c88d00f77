"""Response curves: accumulated local effects and partial dependence of one variable or two, and the shape of a curve.

In: a fitted learner, held-out rows, a grid of values. Out: curves (K,) and surfaces (K, L) at the grid's values, centred, in the
unit of the log target; a curve's shape and where it bends.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.inspection import partial_dependence

from soilcarbon.drivers.learners import Fitted

BINS, JOINT_BINS = 10, 6
_TAIL = 0.01
_DEPENDENCE_ROWS = 150
"""Rows that partial dependence is a mean over."""
_FLAT = 0.15
"""Ln carbon: a curve that spans less is flat."""
_LEVEL = 0.25
"""A part of a curve is level if it is at most this steep, relative to the other part."""
_BENT = 0.05
"""Share of a curve's variance by which a bent line must beat a straight one."""
_END = 0.1
"""Share of the places on either side of a bend, at least."""
_AGREEMENT = 0.8
"""Share of the refits that must have one shape for it to be reported."""

Shape = Literal["flat", "rising", "falling", "saturating", "threshold", "peaked", "dipped", "unclear"]


def quantile_grid(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the edges (K,) of bins that hold about equally many of the values (N,); fewer where values repeat.

    They reach from the first to the last percentile, or over the whole range if these are equal; values beyond are counted to the
    outer bins, so that a single extreme value does not determine the length of the axis.
    """
    probabilities = np.linspace(_TAIL, 1 - _TAIL, bins + 1)
    edges = np.unique(np.quantile(values.astype(np.float64), probabilities, method="inverted_cdf"))
    return edges if len(edges) > 1 else np.unique([values.min(), values.max()]).astype(np.float64)  # nearly all values are alike


def density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the share of values (N,) nearest to each edge of a grid (K,), half a bin on either side; the sum is 1."""
    counts = np.bincount(_bins(values, grid), minlength=len(grid) - 1).astype(float)
    weights = np.concatenate([counts, [0]]) + np.concatenate([[0], counts])
    return np.asarray(weights / weights.sum())


def _bins(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(grid, values, side="left") - 1, 0, len(grid) - 2)


def accumulated(model: Fitted, x: np.ndarray, column: int, grid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return accumulated local effects (K,) of a variable (Apley and Zhu 2020, J. R. Stat. Soc. B 82, 1059-1086).

    Each row of x (n, V) is moved only across the bin it lies in, so that no combinations are made up that correlated variables rule
    out. Grid (K,) of `quantile_grid`; weights (K,) of `density`, by which the curve has mean 0.
    """
    bins = _bins(x[:, column], grid)
    low, high = x.copy(), x.copy()
    low[:, column], high[:, column] = grid[bins], grid[bins + 1]
    step = model.predict(np.concatenate([low, high])).reshape(2, -1)
    counts = np.bincount(bins, minlength=len(grid) - 1)
    mean = np.bincount(bins, step[1] - step[0], len(grid) - 1) / np.maximum(counts, 1)
    curve = np.concatenate([[0.0], np.cumsum(mean)])
    return np.asarray(curve - weights @ curve)


def dependence(model: Any, x: np.ndarray, column: int, grid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return partial dependence (K,) of a variable (Friedman 2001): the mean prediction if all rows had its value, centred.

    As `accumulated`, of a fitted scikit-learn regressor and the first 150 rows.
    """
    curve = _partial_dependence(model, x, {column: grid})
    return np.asarray(curve - weights @ curve)


def _partial_dependence(model: Any, x: np.ndarray, grids: dict[int, np.ndarray]) -> np.ndarray:
    found = partial_dependence(model, x[:_DEPENDENCE_ROWS], list(grids), custom_values=grids, method="brute", kind="average")
    return np.asarray(found["average"][0], np.float64)


def joint_accumulated(model: Fitted, x: np.ndarray, columns: tuple[int, int], grids: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return second-order accumulated local effects (K, L): the effect of two variables beyond the sum of their own effects.

    Where a bin holds no row of x (n, V) the effect is taken to be level.
    """
    bins = [_bins(x[:, column], grid) for column, grid in zip(columns, grids, strict=True)]
    shape = (len(grids[0]) - 1, len(grids[1]) - 1)
    corners = []
    for first, second in np.ndindex(2, 2):
        moved = x.copy()
        moved[:, columns[0]], moved[:, columns[1]] = grids[0][bins[0] + first], grids[1][bins[1] + second]
        corners.append(moved)
    low_low, low_high, high_low, high_high = model.predict(np.concatenate(corners)).reshape(4, -1)
    cell = np.ravel_multi_index((bins[0], bins[1]), shape)
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
    steps = np.bincount(cell, (high_high - high_low) - (low_high - low_low), counts.size).reshape(shape) / np.maximum(counts, 1)
    surface = np.zeros((shape[0] + 1, shape[1] + 1))
    surface[1:, 1:] = steps.cumsum(0).cumsum(1)
    # what is left of each variable's own effect is taken out, weighted by rows
    across = np.diff(surface, axis=0)
    down = np.diff(surface, axis=1)
    per_row = (counts * (across[:, 1:] + across[:, :-1]) / 2).sum(1) / np.maximum(counts.sum(1), 1)
    per_column = (counts * (down[1:] + down[:-1]) / 2).sum(0) / np.maximum(counts.sum(0), 1)
    surface -= np.concatenate([[0], np.cumsum(per_row)])[:, None] + np.concatenate([[0], np.cumsum(per_column)])[None, :]
    middle = (surface[1:, 1:] + surface[1:, :-1] + surface[:-1, 1:] + surface[:-1, :-1]) / 4
    return np.asarray(surface - (counts * middle).sum() / max(counts.sum(), 1))


def joint_dependence(model: Any, x: np.ndarray, columns: tuple[int, int], grids: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return partial dependence (K, L) of two variables, less its mean; parameters as in `joint_accumulated`."""
    surface = _partial_dependence(model, x, dict(zip(columns, grids, strict=True)))
    return np.asarray(surface - surface.mean())


@dataclass(frozen=True)
class CurveShape:
    """A curve's shape, the share of refits that have it, and where it bends: value, low, high (NaN where it does not)."""

    shape: Shape
    agreement: float
    at: float = np.nan
    low: float = np.nan
    high: float = np.nan


def shape_of(curve: np.ndarray, grid: np.ndarray, weights: np.ndarray) -> tuple[Shape, float]:
    """Return the shape of a curve (K,) over a grid (K,) and where it bends (NaN where it does not), by segmented regression.

    A line with one bend is fitted by weighted least squares. Saturating: the second part is at most a quarter as steep as the
    first; threshold: the first as the second; peaked and dipped: the parts have opposite signs. A curve that a straight line fits
    nearly as well is rising or falling; one that spans less than 0.15 of ln carbon is flat.
    """
    if np.ptp(curve) < _FLAT:
        return "flat", np.nan
    root = np.sqrt(weights)
    ones = np.ones_like(grid)

    def fitted(columns: list[np.ndarray]) -> tuple[np.ndarray, float]:
        design = np.stack(columns, axis=1) * root[:, None]
        found = np.linalg.lstsq(design, curve * root, rcond=None)[0]
        return found, float(((design @ found - curve * root) ** 2).sum())

    straight, error = fitted([ones, grid])
    total = float((weights * (curve - weights @ curve) ** 2).sum())
    share = np.cumsum(weights)
    bends = [k for k in range(1, len(grid) - 1) if _END <= share[k] - weights[k] / 2 <= 1 - _END]
    tries = [(*fitted([ones, grid, np.maximum(grid - grid[k], 0)]), grid[k]) for k in bends]
    direction: Shape = "rising" if straight[1] > 0 else "falling"
    if not tries:
        return direction, np.nan
    line, least, at = min(tries, key=lambda each: each[1])
    if error - least < _BENT * total:
        return direction, np.nan
    before, after = float(line[1]), float(line[1] + line[2])
    if abs(after) <= _LEVEL * abs(before):
        return "saturating", float(at)
    if abs(before) <= _LEVEL * abs(after):
        return "threshold", float(at)
    if before * after < 0:
        return ("peaked" if before > 0 else "dipped"), float(at)
    return direction, np.nan


def common_shape(curves: np.ndarray, grid: np.ndarray, weights: np.ndarray, level: float) -> CurveShape:
    """Return the shape that at least 80 % of refits' curves (H, K) have, else "unclear", with the interval of the bend."""
    each = [shape_of(curve, grid, weights) for curve in curves]
    names = [name for name, _ in each]
    commonest = max(sorted(set(names)), key=names.count)
    agreement = names.count(commonest) / len(names)
    if agreement < _AGREEMENT:
        return CurveShape("unclear", agreement)
    places = np.array([at for name, at in each if name == commonest])
    if np.isnan(places).any():
        return CurveShape(commonest, agreement)
    low, high = np.quantile(places, [(1 - level) / 2, (1 + level) / 2])
    return CurveShape(commonest, agreement, float(places.mean()), float(low), float(high))
