"""Covariances of errors in space and time, and how probable each is: ranges and shares that an error field is averaged over.

In: standardised errors of profiles at places in km, and their periods. Out: `Shape`s with posterior probabilities.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

_LONG, _SHORT = (6.0, 2.5), (40.0, 15.0)
"""Ranges, as parts of the extent of the profiles."""
_SHARES = (*product((0.2, 0.4, 0.6), (0.0, 0.2)), (0.2, 0.45), (0.4, 0.45))
"""Shares of the variance with the long and the short range."""
_PERSISTENCE, _DRIFT = dict.fromkeys((0.0, 0.3, 0.6, 0.8, 0.95), 1.0), dict.fromkeys((0.1, 0.3), 1.0)
"""Shares of the correlated parts that persist, and of the variance that a period has in common, and their prior weights. A model
that knows the time is fitted to the mean of each period: its errors look like no drift, whatever it is, so that none is smaller."""
_LASTING = {0.0: 1.0, 0.5: 2.0, 0.8: 5.0, 0.9: 10.0, 0.97: 33.0}
"""Shares that persist of a model that knows no time, 1 / (1 - share): it errs alike where covariates are alike."""
_REACTING, _NOT_REACTING = {0.1: 0.45, 0.3: 0.45}, {0.1: 0.1}
"""Shares that a period has in common, of such a model that keeps none of its held-out errors; of one that keeps a share of them,
(1 - share)^2 times as large. And of one that does not react to a change at all, for want of covariates."""
_UNSEEN_DRIFT, _UNSEEN_PASSING = 0.1, 0.15
"""Where profiles are of one period, which shows nothing of others: the drift and the share that does not persist, of a model that
keeps none of its held-out errors; of one that keeps a share of them, (1 - share)^2 and 1 - share times as large."""
_LEAST_LOST = 0.16
"""Of 1 - that share: networks, which react to covariates as well as any model, have 0.13, which held 88 % of changes."""
_BIAS = 0.01
"""Variance of a standardised bias that all places share, where there is one, before any is seen."""
_ODDS = 20.0
"""Prior odds that errors of a cross-validated model have neither bias nor correlation: it was fitted to have none."""
_LEAST_WEIGHT = 1e-3


class Shape(NamedTuple):
    """A covariance of standardised errors, and its posterior probability.

    Attributes
    ----------
    weight
        Posterior probability, 0 to 1.
    long, short
        Shares of the variance with the long and the short range, 0 to 1; the rest, less the drift, is the nugget.
    long_km, short_km
        Distances at which e^-1 of each is left.
    persistence
        Share of both that persists from period to period, 0 to 1.
    drift
        Share of the variance that all places of one period have in common.
    """

    weight: float
    long: float
    short: float
    long_km: float
    short_km: float
    persistence: float
    drift: float

    @property
    def nugget(self) -> float:
        """Share of the variance without correlation."""
        return 1 - self.long - self.short - self.drift


def is_valid(shape: Shape) -> bool:
    """Return whether shares are between 0 and 1, ranges above 0, and something is left for a nugget."""
    shares = (shape.weight, shape.long, shape.short, shape.persistence, shape.drift)
    return (
        all(0 <= each <= 1 for each in shares) and min(shape.long_km, shape.short_km) > 0 and shape.nugget > 0 and shape.weight > 0
    )


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return distances (n, m) through the Earth, km, of points (n, 3) and (m, 3)."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0.0))


Decay = Callable[[float], np.ndarray]
"""Range, km -> e^(-distance / range), (n, n)."""


def decay_of(points: np.ndarray) -> Decay:
    """Return the exponential correlations of points (n, 3) in km by their range; each is computed once."""
    apart = distances(points, points)
    return cache(lambda km: np.exp(-apart / km))


def posterior_shapes(
    points: np.ndarray, values: np.ndarray, period: np.ndarray, extent: float, kept: float | None = None
) -> tuple[tuple[Shape, ...], float]:
    """Return covariances with their posterior probabilities, of values (n,) at points (n, 3) in km.

    And the share of their posterior mean that is corrected, of errors that a model keeps: a half, more where they have structure.

    First ranges and shares, then, of several periods and with the most probable of these, persistence and drift. `kept` is the
    share of held-out errors that a model keeps which knows of a period by its covariates alone; None: it may know the time. One
    that keeps less follows its profiles and reacts less to covariates that change. Of one period nothing shows how errors change
    with time: persistence and drift follow from `kept` alone.
    """
    decay, several = decay_of(points), len(np.unique(period)) > 1
    same = period[:, None] == period if several else None
    ranges = [(extent / long, extent / short) for long in _LONG for short in _SHORT]
    middle = 0.6 if several else 0.0
    first = [Shape(1.0, *shares, *km, middle, 0.0) for shares, km in product(_SHARES, ranges) if shares[1] or km[1] == ranges[0][1]]
    found = 0.5 + 0.5 * _probability_of_structure(first, decay, same, values)
    shapes = _weighted(first, decay, same, values)
    if not several:
        return tuple(_over_time(shape, kept or 0.0) for shape in shapes), found
    best = max(shapes, key=lambda shape: shape.weight)
    persistences, drifts = _PERSISTENCE, _DRIFT
    if kept is not None:
        persistences, drifts = _LASTING, {(1 - kept) ** 2 * drift: prior for drift, prior in _REACTING.items()} | _NOT_REACTING
    second = [
        best._replace(weight=one * other, persistence=persistence, drift=drift)
        for (persistence, one), (drift, other) in product(persistences.items(), drifts.items())
        if best.nugget > drift
    ]
    over_time = _weighted(second, decay, same, values)
    both = (
        shape._replace(weight=shape.weight * other.weight, persistence=other.persistence, drift=other.drift)
        for shape, other in product(shapes, over_time)
        if shape.nugget > other.drift and shape.weight * other.weight > _LEAST_WEIGHT
    )
    return tuple(both), found


def _over_time(shape: Shape, kept: float) -> Shape:
    """Return a shape of one period with the drift and the persistence that other periods have.

    All places of the one period share its drift, so that it is no part of the variance of their errors.
    """
    lost = max(1 - kept, _LEAST_LOST)
    drift = _UNSEEN_DRIFT * lost**2
    one = {"long": (1 - drift) * shape.long, "short": (1 - drift) * shape.short}
    return shape._replace(**one, persistence=1 - _UNSEEN_PASSING * lost, drift=drift)


def _probability_of_structure(shapes: Sequence[Shape], decay: Decay, same: np.ndarray | None, values: np.ndarray) -> float:
    """Return the posterior probability of a bias and a correlation of one of the shapes, against independent errors without bias.

    The latter are `_ODDS` times as probable before; the variance has the prior 1 / variance.
    """
    from scipy.linalg import solve_triangular  # SciPy is slow to import

    n = len(values)
    found = []
    for shape in shapes:
        root = np.linalg.cholesky(covariance(shape, decay, same, 1.0) + _BIAS)
        rest = solve_triangular(root, values, lower=True, check_finite=False)
        found.append(-np.log(np.diag(root)).sum() - 0.5 * n * np.log(rest @ rest))
    alone = -0.5 * n * np.log(values @ values)
    evidence = np.logaddexp.reduce(found) - np.log(len(found)) - alone - np.log(_ODDS)
    return float(1 / (1 + np.exp(-np.clip(evidence, -50, 50))))


def _weighted(shapes: Sequence[Shape], decay: Decay, same: np.ndarray | None, values: np.ndarray) -> tuple[Shape, ...]:
    """Return the shapes, whose weights are prior, with posterior probabilities; those that have almost none are left out."""
    found = np.array([_likelihood(covariance(shape, decay, same, 1.0), values) for shape in shapes])
    weights = np.exp(found - found.max()) * [shape.weight for shape in shapes]
    weights /= weights.sum()
    return tuple(
        shape._replace(weight=float(weight)) for shape, weight in zip(shapes, weights, strict=True) if weight > _LEAST_WEIGHT
    )


def covariance(shape: Shape, decay: Decay, same: np.ndarray | None, counts: np.ndarray | float) -> np.ndarray:
    """Return the covariance (n, n) of means of `counts` profiles, relative to the variance of one.

    `same` (n, n) tells which are of one period; None: all are.
    """
    found = shape.long * decay(shape.long_km)
    if shape.short:
        found += shape.short * decay(shape.short_km)
    found = found + shape.drift if same is None else np.where(same, found + shape.drift, shape.persistence * found)
    found[np.diag_indices_from(found)] += shape.nugget / np.asarray(counts)
    return found


def _likelihood(covariance: np.ndarray, values: np.ndarray) -> float:
    """Return the restricted log likelihood of values (n,) of unknown mean and variance."""
    from scipy.linalg import solve_triangular  # SciPy is slow to import

    root = np.linalg.cholesky(covariance)
    one, value = solve_triangular(root, np.column_stack([np.ones(len(values)), values]), lower=True, check_finite=False).T
    square = one @ one
    rest = float(((value - one * (one @ value) / square) ** 2).sum())
    n = len(values) - 1
    return float(-np.log(np.diag(root)).sum() - 0.5 * np.log(square) - 0.5 * n * np.log(max(rest, 1e-300)))
