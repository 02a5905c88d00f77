"""Mean of a map over an area, corrected for bias, with an interval for the true mean.

In: the map's own mean, and the same with fields of error drawn by `error_field`. Out: an `ArealMean`.
"""

from dataclasses import dataclass

import numpy as np

from soilcarbon.stats.metrics import check_level

_LEAST_SHARE = 0.01
"""Of the map's mean, below which no correction lowers it."""


@dataclass(frozen=True)
class Variances:
    """Variance of a mean's error by source, in the target's unit squared; they add up.

    Attributes
    ----------
    bias
        What all places share: of the bias that held-out errors show, and a hidden one. Its covariance with the next is shared out.
    correlated
        Errors that neighbours share.
    cells
        Errors of single cells.
    shared
        An error that all measurements share, as stated.
    floor
        What is missing to the square of the least standard error.
    """

    bias: float
    correlated: float
    cells: float
    shared: float
    floor: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.bias + self.correlated + self.cells + self.shared + self.floor


@dataclass(frozen=True)
class ArealMean:
    """Mean of an area, the ends of its interval, and its variances; NaN and None where unknown. In the target's unit."""

    mean: float
    lower: float
    upper: float
    variances: Variances | None = None


def areal_mean(
    mapped: float,
    drawn: np.ndarray,
    *,
    level: float = 0.9,
    variance: float = 0.0,
    least: float = 0.0,
    signed: bool = False,
    biases: np.ndarray | None = None,
    shared: float = 0.0,
) -> ArealMean:
    """Return the mean of an area corrected for bias, and an interval for the truth.

    The interval has the variance of the drawn means and that of what single cells err beside, at least the square of a standard
    error, and the drawn means' tails. Of a quantity that cannot be negative it is that of a log-normal distribution with this mean
    and variance, which is normal where the variance is small, and never reaches 0.

    Parameters
    ----------
    mapped
        The map's own mean.
    drawn
        (M,) the means with drawn errors, `ErrorField.sums` added to the map's.
    level
        Coverage, between 0 and 1.
    variance
        Of the mean, from errors that cells do not share.
    least
        Standard error that the interval's is at least.
    signed
        The quantity may be below 0, as a change may.
    biases
        (M,) part of the drawn means that all places share, `ErrorField.biases`; None: not known apart.
    shared
        Standard deviation of an error that all measurements share.

    Raises
    ------
    ValueError
        If the level is out of range.

    Examples
    --------
    >>> drawn = 20 + np.array([0.5, 1.5, 1.0, 0.0, 2.0])
    >>> found = areal_mean(20.0, drawn)
    >>> round(found.mean, 2), round(found.lower, 1), round(found.upper, 1)
    (21.0, 20.1, 21.9)
    """
    check_level(level)
    centre, own = float(drawn.mean()), float(drawn.std())
    bias = 0.0 if biases is None else float(np.mean((drawn - centre) * biases))
    floor = max(least**2 - own**2 - variance, 0.0)
    sources = Variances(bias, own**2 - bias, variance, shared**2, floor)
    deviation = sources.total**0.5
    below, above = np.quantile((drawn - centre) / own if own > 0 else np.zeros(1), [(1 - level) / 2, (1 + level) / 2])
    if signed or mapped <= 0:
        return ArealMean(centre, float(centre + below * deviation), float(centre + above * deviation), sources)
    centre = max(centre, _LEAST_SHARE * mapped)
    scale = np.log1p((deviation / centre) ** 2) ** 0.5
    lower, upper = (float(centre * np.exp(scale * end - scale**2 / 2)) for end in (below, above))
    return ArealMean(centre, lower, upper, sources)
