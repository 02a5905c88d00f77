"""Spatially correlated error fields: the uncertainty of a map's means, totals and changes over an area.

In: predictions of held-out profiles. Out: `ErrorField`, and sums of simulated error fields over any places and periods, to be
added to a total.

    errors = ErrorField.fit(y, predicted, zone, zones, places, period)
    spread = errors.spread(predicted, weights)                          # (n,) in the target's unit
    drawn = errors.sums(lon, lat, [(0, 0, csr_array([spread * area]))], rows=1)      # (1, DRAWS) errors of a total

An error is relative to the prediction: (y - p) / (1 + p), to first order that of ln(1 + y). Of the mean square of a zone's
held-out errors the part that depends on distance (an exponential variogram) is shared by neighbours and stays in a mean; what
is left over beside that and the nugget, a bias, is shared by all; the nugget (measurement, and what differs within a cell)
cancels over thousands of cells. Each period has a bias of its own, as large as held-out errors show. After Wadoux and
Heuvelink 2023 (Methods in Ecology and Evolution 14, 1320-1332), with simulated fields in place of their double sum over all cells.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.spatial import cKDTree

from soilcarbon.stats.metrics import checked_vectors
from soilcarbon.stats.variogram import EARTH_KM, arc_km, empirical_variogram, fit_variogram, unit_vectors

log = logging.getLogger(__name__)
DRAWS = 200
"""Simulated fields: 100 and their mirror images (antithetic variates), so that their mean is 0."""
_WAVES = 32
"""Random Fourier features of one field."""
_AT_ONCE = 4096
"""Places for which fields are in memory."""
_ALWAYS = -1
"""Number of the field that all periods share; others have the number of their period."""
Term = tuple[int, int, csr_array]
"""Row, period, and weights of places (1, n): most rows are zones with few of them."""
_MIN_PROFILES = 30
"""Held-out profiles of a zone, or pairs of one, of which a standard deviation is taken."""
_RESAMPLES, _CAUTIOUS = 500, 0.1
"""Bootstrap resamples, and the quantile of them that is taken as the persistence."""
_MAX_ZONES = 100


@dataclass(frozen=True)
class ErrorField:
    """Error model of a map: size of errors in each zone, and their correlation in space and between periods.

    Attributes
    ----------
    deviations
        Root mean square of relative errors, of each zone.
    structured
        Share of its square that neighbours share, 0 to 1.
    common
        Share of that which all places share, however far apart, 0 to 1.
    range_km
        Distance at which e^-1 of the rest is still shared.
    persistence
        Correlation of the shared errors of two periods at the same place, 0 to 1: the lower end of its estimate, for what is
        not correlated makes the interval of a change. 0 where nothing is known.
    drift
        Variance of a bias that all places of one period share, as a multiple of a deviation's square.

    Raises
    ------
    ValueError
        If a number is not finite or out of its range.

    Examples
    --------
    Errors of 100 neighbouring cells partly cancel in their mean; those of cells taken as independent would cancel by a factor 10.

    >>> errors = ErrorField((0.3,), structured=0.5, common=0.0, range_km=100.0, persistence=0.0)
    >>> lon, lat = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 10), np.linspace(0, 1, 10)))
    >>> spread = errors.spread(np.full(100, 9.0), np.ones((1, 100)))
    >>> of_mean = errors.sums(lon, lat, [(0, 0, csr_array([spread / 100]))], rows=1).std()
    >>> float(spread[0]), bool(1.0 < of_mean < 2.5)
    (3.0, True)
    """

    deviations: tuple[float, ...]
    structured: float
    common: float
    range_km: float
    persistence: float
    drift: float = 0.0

    def __post_init__(self) -> None:
        numbers = [*self.deviations, self.structured, self.common, self.range_km, self.persistence, self.drift]
        if any(type(each) not in (int, float) or not abs(each) < 1e6 for each in numbers):
            raise ValueError("errors: expected finite numbers")
        shares = all(0 <= each <= 1 for each in (self.structured, self.common, self.persistence))
        sizes = min(self.deviations, default=-1) >= 0 and self.drift >= 0 and self.range_km > 0
        if not (len(self.deviations) <= _MAX_ZONES and sizes and shares):
            raise ValueError("errors: deviations and drift must be 0 or more, shares between 0 and 1, the range above 0")

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        predicted: np.ndarray,
        zone: np.ndarray,
        zones: int,
        places: np.ndarray,
        period: np.ndarray,
        seed: int = 0,
    ) -> "ErrorField":
        """Fit the model to errors of held-out profiles.

        Parameters
        ----------
        y, predicted
            (n,) in the target's unit, 0 or more.
        zone, zones
            (n,) int, the zone of each, and how many zones there are. One of fewer than 30 profiles has what all have.
        places
            (n, 2) longitude and latitude, degrees.
        period
            (n,) any number that is one for profiles of one period.
        seed
            Of the pairs that are drawn where there are too many.

        Raises
        ------
        ValueError
            If lengths differ, a value is not finite, errors do not vary, or too few pairs lie within a third of the extent.
        """
        y, predicted = checked_vectors(y=y, predicted=predicted)
        error = (y - predicted) / (1 + predicted)
        overall = _root(error)
        if not error.std() > 0:
            raise ValueError(f"{len(y)} errors do not vary")
        own = [error[zone == k] for k in range(zones)]
        deviations = tuple(_root(each) if len(each) >= _MIN_PROFILES else overall for each in own)
        scaled = error / np.maximum(np.array([*deviations, overall])[zone], 1e-9 * overall)
        found = fit_variogram(empirical_variogram(places[:, 0], places[:, 1], scaled, seed=seed))
        whole = max(float((scaled**2).mean()), found.nugget + found.sill)
        shared = whole - found.nugget
        common = max((shared - found.sill) / shared, 0.0) if shared > 0 else 0.0
        scale = float(found.scale)
        persistence = _persistence(scaled - scaled.mean(), places, period, scale, seed)
        return cls(deviations, shared / whole, common, scale, persistence, _drift(scaled, period))

    def spread(self, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the standard deviation of errors, in the target's unit, of predictions (any shape) by zone weights (Z, *shape)."""
        return np.asarray((1 + predicted) * np.tensordot(self.deviations, weights, axes=1))

    def of_change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the standard deviation of a change's shared errors, of the spreads of two periods (any shape)."""
        alone = before**2 + after**2
        shared = self.structured * (alone - 2 * self.persistence * before * after)
        return np.sqrt(np.maximum(shared, 0.0) + self.drift * alone)

    def sums(self, lon: np.ndarray, lat: np.ndarray, terms: Sequence[Term], rows: int, draws: int = DRAWS) -> np.ndarray:
        """Return weighted sums over places of drawn errors, (rows, draws): those of every row of the same fields.

        A field is relative to the spread, so that its variance is `structured` and `drift` together. It is a function of place
        and period alone, whatever the call; fields of two periods have the correlation `persistence`, but for the drift. The
        second half of the draws mirrors the first.

        Parameters
        ----------
        lon, lat
            (n,) degrees.
        terms
            What adds to which row: row, period, and weights (1, n).
        rows
            How many there are.
        draws
            Even.
        """
        points, half = unit_vectors(lon, lat) * EARTH_KM, draws // 2
        shares = {_ALWAYS: self.persistence} | {period: 1 - self.persistence for _, period, _ in terms}
        found = np.zeros((rows, half))
        for number, share in shares.items():
            if share == 0:
                continue
            added: dict[int, csr_array] = {}
            for row, period, weights in terms:
                if number in (_ALWAYS, period):
                    added[row] = added[row] + weights if row in added else weights
            matrix = (self.structured * share) ** 0.5 * vstack(list(added.values())).tocsc()
            for begin in range(0, len(points), _AT_ONCE):
                part = slice(begin, begin + _AT_ONCE)
                if matrix[:, part].nnz:
                    found[list(added)] += matrix[:, part] @ self._field(points[part], number, half).T
        for row, period, weights in terms:
            found[row] += self.drift**0.5 * weights.sum() * np.random.default_rng([159, period]).normal(size=half)
        return np.concatenate([found, -found], axis=1)

    def _field(self, points: np.ndarray, number: int, draws: int) -> np.ndarray:
        """Return fields (draws, n) at points (n, 3) in km: waves, and what is the same everywhere."""
        vectors, phases, same = _waves(self.range_km, number, draws)
        found = np.empty((draws, len(points)))
        for k in range(draws):
            part = slice(k * _WAVES, (k + 1) * _WAVES)
            turns = points @ vectors[:, part] + phases[part]
            turns -= np.floor(turns)  # so small, a float32 will do, whose cosine is many times as fast
            found[k] = np.cos(turns.astype(np.float32) * np.float32(2 * np.pi)).sum(axis=1)
        return (1 - self.common) ** 0.5 * (2 / _WAVES) ** 0.5 * found + self.common**0.5 * same[:, None]

    def to_plain(self) -> dict[str, Any]:
        """Return it as numbers and lists."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"deviations": list(self.deviations)}

    @classmethod
    def from_plain(cls, plain: Any) -> "ErrorField":
        """Make it from `to_plain`'s content, which may come from an untrusted file; ValueError if it is invalid."""
        if not isinstance(plain, dict) or set(plain) != set(cls.__dataclass_fields__) or not isinstance(plain["deviations"], list):
            raise ValueError(f"errors: expected {', '.join(cls.__dataclass_fields__)}")
        return cls(**plain | {"deviations": tuple(plain["deviations"])})


def _root(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float((values**2).mean() ** 0.5)


def _drift(values: np.ndarray, period: np.ndarray) -> float:
    """Return the mean square of the periods' biases, how uncertain each is included; 0 of fewer than two periods."""
    groups = [values[period == each] for each in np.unique(period)]
    found = [float(each.mean() ** 2 + each.var() / len(each)) for each in groups if len(each) >= _MIN_PROFILES]
    return float(np.mean(found)) if len(found) > 1 else 0.0


def _persistence(values: np.ndarray, places: np.ndarray, period: np.ndarray, range_km: float, seed: int) -> float:
    """Return the correlation of errors between periods relative to that within a period, of pairs within the range.

    Both by regression of their products on what distance leaves of their agreement. The lower tenth of what profiles drawn with
    replacement say.
    """
    points = unit_vectors(places[:, 0], places[:, 1])
    pairs = cKDTree(points).query_pairs(2 * np.sin(min(range_km / (2 * EARTH_KM), np.pi / 2)), output_type="ndarray")
    left, right = pairs[:, 0], pairs[:, 1]
    near = np.exp(-arc_km(np.linalg.norm(points[left] - points[right], axis=1)) / range_km)
    same = period[left] == period[right]
    if min(same.sum(), (~same).sum()) < _MIN_PROFILES:
        if len(np.unique(period)) > 1:
            log.info("errors: too few neighbours of different periods; errors of different periods are taken as independent")
        return 0.0
    product, square = values[left] * values[right] * near, near**2
    parts = [np.bincount(left[which], each[which], len(values)) for which in (same, ~same) for each in (product, square)]
    random = np.random.default_rng(seed)
    counts = random.multinomial(len(values), np.full(len(values), 1 / len(values)), size=_RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        within, between = (counts @ parts[k] / (counts @ parts[k + 1]) for k in (0, 2))
        found = np.where(within > 0, np.clip(between / within, 0, 1), 0.0)
    return float(np.quantile(np.nan_to_num(found), _CAUTIOUS))


@lru_cache(maxsize=32)
def _waves(range_km: float, number: int, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wave vectors (3, draws x waves), turns per km, and phases of fields whose correlation is e^(-distance / range).

    And a number for each field (draws,).

    That correlation is the characteristic function of a Cauchy distribution of three dimensions (random Fourier features:
    Rahimi and Recht 2007).
    """
    random = np.random.default_rng([314, number + 1])
    count = draws * _WAVES
    vectors = random.normal(size=(3, count)) / np.abs(random.normal(size=count)) / (2 * np.pi * range_km)
    return vectors, random.random(count), random.normal(size=draws)
