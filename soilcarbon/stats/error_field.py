"""Error model of a map: spatially correlated errors, known at profiles, for means, totals and changes over any area.

In: predictions of held-out profiles. Out: `ErrorField`, and sums over any places and periods of error fields drawn from its
posterior distribution, to be added to a total. Their mean corrects the total's bias, their spread is its uncertainty.

    errors = ErrorField.fit(y, predicted, zone, zones, places, period)
    spread = errors.spread(predicted, weights)                                  # (n,)
    drawn = errors.sums(lon, lat, {None: csr_array([spread * area])})           # (1, DRAWS) errors of a total

The error of a prediction p is y - p = (1 + p)^(1/2) d e(place, period), d the deviation of its zone. The field e has an unknown
mean, a nugget (measurement, and what differs within a cell), which cancels over many cells, and two parts with exponential
correlation, over a short and over a long range; a share of each persists from period to period, and each period may have a bias
of its own. Ranges and shares are not estimated but averaged over, by their restricted likelihood (Handcock and Stein 1993,
Technometrics 35, 403): some hundred profiles do not determine them. Given these, a drawn field is conditioned on held-out errors
(Matheron's rule; Chiles and Delfiner 2012, section 7.3), so that its average over an area is block kriging of errors: profiles
that cluster share their weight. After Wadoux and Heuvelink 2023 (Methods in Ecology and Evolution 14, 1320-1332).

Drawn errors are multiplied by a growth with the distance to the nearest profile; a bias of size `HIDDEN`, which held-out profiles
cannot show, is added, and the spread multiplied by `WIDENED`. Of the posterior mean only a share is corrected: what the map's
model, which has seen these profiles, keeps of their held-out errors (the regression of the former on the latter), and of that a
half, or more as far as it is probable that there is an error and not noise alone (Bayesian model averaging). A period's own bias is
corrected wholly. Reasons and what was tried: docs/totals.md, `experiments/areal_means.py`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from soilcarbon.stats.error_covariance import Shape, covariance, decay_of, distances, is_valid, posterior_shapes
from soilcarbon.stats.metrics import checked_vectors
from soilcarbon.stats.variogram import EARTH_KM, outermost, unit_vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)
DRAWS = 200
"""Drawn fields: 100, and their mirror images about the posterior mean (antithetic variates)."""
WIDENED = 1.2
"""Factor on the spread of drawn fields about their mean; see the module's text."""
HIDDEN = 0.04
"""Standard deviation of a standardised bias that no held-out profile shows; it persists from period to period."""
NEAR, GROWTH = 0.35, 15.0
"""Variance of errors that neighbours share at a profile, as a share of that far from any, and how fast it grows: exponentially,
by the distance as a part of the extent. As of errors in the cells of simulated regions, of forests and networks alike."""
NOT_PERSISTENT = 0.1
"""Share of a single cell's error, nugget, that does not persist from period to period: as of changes of cells in simulated regions.
The nugget cancels in means, so that it matters for single cells and small zones alone. Profiles cannot show this share: at one
place they seldom are of several periods, and part of it is measurement error."""
_WAVES = 32
"""Random Fourier features of one field."""
_AT_ONCE = 2048
"""Places for which fields are in memory."""
_ALWAYS = -1
"""Number of the field that all periods share; others have numbers from 0."""
_MIN_PROFILES = 30
"""Held-out profiles of a zone of which a deviation is taken."""
_FEWEST = 10
_MAX_KNOTS = 800
"""Places that errors are conditioned on; those of more profiles are averaged in squares."""
_MAX_ZONES = 100
_LEAST_OF_MEMBERS = 0.5
"""Variance of the field that the averaging of members leaves, at least."""


@dataclass(frozen=True)
class ErrorField:
    """Error model of a map: size and correlation of errors, and the held-out errors themselves.

    Attributes
    ----------
    deviations
        Of each zone: root mean square of errors / (1 + prediction)^(1/2).
    cell
        Root mean square of errors / (1 + prediction): that of a single place.
    places
        (K, 2) longitude and latitude, degrees, of squares with held-out profiles: a thousandth of the extent wide, or wider.
    values, counts
        (K,) mean standardised error there, and the number of profiles.
    period
        (K,) as given to `fit`.
    shapes
        Covariances and their posterior probabilities.
    held
        Mean growth of the variance at held-out profiles (`_growth`), that of their distance to the profiles that their model was
        fitted to; 0: not known, and errors are not taken to grow.
    corrected
        Share of the posterior mean that is corrected, 0 to 1: what the model keeps of its held-out errors, times a half and half
        the probability of a bias or a correlation.

    Raises
    ------
    ValueError
        If a number is not finite or out of its range.

    Examples
    --------
    A map that is 1 too low everywhere, and 100 profiles that show it:

    >>> from scipy.sparse import csr_array
    >>> random = np.random.default_rng(0)
    >>> lon, lat = random.uniform(0, 2, (2, 100))
    >>> y = 10 + random.normal(size=100)
    >>> errors = ErrorField.fit(y, np.full(100, 9.0), np.zeros(100, int), 1, np.column_stack([lon, lat]), np.zeros(100, int))
    >>> weights = csr_array([errors.spread(np.full(100, 9.0), np.ones((1, 100))) / 100])
    >>> drawn = errors.sums(lon, lat, {None: weights})[0]
    >>> bool(abs(drawn.mean() - 1) < 0.3), bool(0.05 < drawn.std() < 0.4)
    (True, True)
    """

    deviations: tuple[float, ...]
    cell: float
    places: tuple[tuple[float, float], ...]
    values: tuple[float, ...]
    counts: tuple[int, ...]
    period: tuple[int, ...]
    shapes: tuple[Shape, ...]
    corrected: float = 1.0
    held: float = 0.0

    def __post_init__(self) -> None:
        numbers = [*self.deviations, self.cell, self.corrected, self.held, *self.values]
        numbers += [each for named in (*self.places, *self.shapes) for each in named]
        if any(type(each) not in (int, float) or not abs(each) < 1e6 for each in numbers):
            raise ValueError("errors: expected finite numbers")
        if not all(type(each) is int and abs(each) < 1e9 for each in (*self.counts, *self.period)):
            raise ValueError("errors: expected whole numbers as counts and periods")
        lengths = {len(each) for each in (self.places, self.values, self.counts, self.period)}
        if len(lengths) != 1 or not 2 <= lengths.pop() <= _MAX_KNOTS or min(self.counts) < 1:
            raise ValueError(f"errors: expected 2 to {_MAX_KNOTS} places, and as many values, counts and periods")
        if not 0 < len(self.shapes) <= 500 or not all(map(is_valid, self.shapes)):
            raise ValueError("errors: shares must be between 0 and 1, ranges above 0")
        if not (len(self.deviations) <= _MAX_ZONES and min(self.deviations, default=-1) >= 0 and self.cell >= 0):
            raise ValueError("errors: deviations must be 0 or more")
        if not 0 <= self.corrected <= 1:
            raise ValueError("errors: corrected is a share, 0 to 1")
        if self.held and not NEAR <= self.held <= 1:
            raise ValueError(f"errors: held is 0, or {NEAR} to 1")
        if any(abs(lat) > 90 for _, lat in self.places):
            raise ValueError("errors: a latitude is beyond 90 degrees")

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
        apart: np.ndarray | None = None,
        fitted: np.ndarray | None = None,
        timeless: bool = False,
        averaging: np.ndarray | None = None,
    ) -> "ErrorField":
        """Fit the model to errors of held-out profiles.

        Parameters
        ----------
        y, predicted
            (n,) in the target's unit, 0 or more; predictions of means.
        zone, zones
            (n,) int, the zone of each, and how many zones there are. One of fewer than 30 profiles has what all have.
        places
            (n, 2) longitude and latitude, degrees.
        period
            (n,) int that is one for profiles of one period, such as its first year.
        seed
            Of the profiles that are drawn for the likelihood where there are too many.
        apart
            (n,) km of each to the nearest profile that its prediction was fitted to (`kilometres_apart`); None: not known.
        fitted
            (n,) predictions of the map's own model, which has seen these profiles; None: it has not.
        timeless
            The model knows of a period by its covariates alone, and was fitted to all periods at once. It errs alike in all then.
            Profiles of one period are taken to be of such a model.
        averaging
            (n,) variance by which the mean of an ensemble's members, which maps, errs less than the member that held a profile
            out; None: the errors of both are as large.

        Raises
        ------
        ValueError
            If lengths differ, a value is not finite, profiles are fewer than 10 or in one place, or errors do not vary.
        """
        y, predicted, seen = checked_vectors(y=y, predicted=predicted, fitted=predicted if fitted is None else fitted)
        if len(y) < _FEWEST:
            raise ValueError(f"{len(y)} held-out profiles are too few, {_FEWEST} are needed")
        error = (y - predicted) / scale_of(predicted)
        overall = _root(error)
        if not error.std() > 0:
            raise ValueError(f"{len(y)} errors do not vary")
        own = [error[zone == k] for k in range(zones)]
        deviations = tuple(_root(each) if len(each) >= _MIN_PROFILES else overall for each in own)
        standard = error / np.maximum(np.array([*deviations, overall])[zone], 1e-9 * overall)
        period = np.asarray(period, np.int64)
        knots, values, counts, when = _knots(places, standard, period)
        points = unit_vectors(*knots.T) * EARTH_KM
        extent = _diameter(points)
        if extent < 1e-3:
            raise ValueError(f"{len(y)} held-out profiles lie in one place")
        chosen = _subsample(unit_vectors(*places.T), np.random.default_rng(seed))
        kept = 1.0 if fitted is None else float(np.clip(error @ ((y - seen) / scale_of(predicted)) / (error @ error), 0, 1))
        near = unit_vectors(*places[chosen].T) * EARTH_KM
        timeless = timeless or len(np.unique(period)) == 1
        shapes, found = posterior_shapes(near, standard[chosen], period[chosen], extent, kept if timeless else None)
        if averaging is not None:
            shared = sum(shape.weight * (shape.long + shape.short) for shape in shapes)
            less = float((averaging / scale_of(predicted) ** 2).mean() / (error**2).mean() / max(shared, 1e-9))
            deviations = tuple(each * max(1 - less, _LEAST_OF_MEMBERS) ** 0.5 for each in deviations)
        located = tuple((float(lon), float(lat)) for lon, lat in knots.round(5))
        cell = _root((y - predicted) / (1 + predicted))
        held = 0.0 if apart is None else float(_growth(apart, extent).mean())
        known = tuple(values.tolist()), tuple(counts.tolist()), tuple(when.tolist())
        return cls(deviations, cell, located, *known, shapes, kept * found, held)

    # --- sizes ---

    def spread(self, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the deviation of the field's errors of predictions (any shape) by zone weights (Z, *shape)."""
        return np.asarray(scale_of(predicted) * np.tensordot(self.deviations, weights, axes=1))

    def growth(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the factor (n,) on the field's errors at places, by their distance to the nearest profile."""
        if not self.held:
            return np.ones(len(lon))
        from scipy.spatial import cKDTree

        points = self._posterior_draws.points
        distance, _ = cKDTree(points).query(unit_vectors(lon, lat) * EARTH_KM)
        return np.asarray((_growth(distance, _diameter(points)) / self.held) ** 0.5)

    def cell_variance(self, predicted: np.ndarray) -> np.ndarray:
        """Return the variance of a single cell's error beside the field: of the nugget, which neighbours do not share.

        Of a cell's change it is the share `NOT_PERSISTENT` of the sum of both periods'.
        """
        several = len(set(self.period)) > 1
        nugget = self._mean(lambda shape: shape.nugget / (1.0 if several else 1 - shape.drift))
        return np.asarray(nugget * (self.cell * (1 + predicted)) ** 2)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean standardised error, as if profiles were independent: no interval of a mean is narrower."""
        counts, values = np.array(self.counts, float), np.array(self.values)
        mean = np.average(values, weights=counts)
        variance = (counts * (values - mean) ** 2).sum() / (len(values) - 1)
        return float((variance / counts.sum()) ** 0.5)

    @property
    def shortest_km(self) -> float:
        """The shortest range that the field has, km."""
        return min(shape.short_km if shape.short else shape.long_km for shape in self.shapes)

    @property
    def structured(self) -> float:
        """Mean share of the variance that neighbours share, 0 to 1."""
        return self._mean(lambda shape: shape.long + shape.short)

    @property
    def persistence(self) -> float:
        """Mean share of that which persists from period to period, 0 to 1."""
        return self._mean(lambda shape: shape.persistence)

    @property
    def drift(self) -> float:
        """Mean share of the variance that the places of one period have in common."""
        return self._mean(lambda shape: shape.drift)

    def _mean(self, of: Any) -> float:
        return float(np.average([of(shape) for shape in self.shapes], weights=[shape.weight for shape in self.shapes]))

    # --- drawn fields ---

    def sums(self, lon: np.ndarray, lat: np.ndarray, weights: Mapping[int | None, "csr_array"]) -> np.ndarray:
        """Return weighted sums over places and periods of drawn errors, (R, DRAWS): those of every row of the same fields.

        A field is a function of place and period alone, whatever the call. The second half of the draws mirrors the first about
        the posterior mean.

        Parameters
        ----------
        lon, lat
            (n,) degrees.
        weights
            Period, as in `fit` -> weights (R, n) of standardised errors: spreads times areas. None: unknown. A period that no
            profile is of has what all periods have in common, and errors of its own that nothing shows. None: unknown; where all
            profiles are of one period, that one.
        """
        points, posterior = unit_vectors(lon, lat) * EARTH_KM, self._posterior_draws
        rows = next(iter(weights.values())).shape[0]
        mean, deviation = np.zeros((2, rows, DRAWS // 2))
        columns = {period: each.tocsc() for period, each in weights.items()}  # of which a range of places is taken fast
        for begin in range(0, len(points), _AT_ONCE):
            parts = {period: each[:, begin : begin + _AT_ONCE].tocsr() for period, each in columns.items()}
            parts = {period: each for period, each in parts.items() if each.nnz}
            if not parts:
                continue
            here = points[begin : begin + _AT_ONCE]
            always, distance = posterior.prior(here, _ALWAYS), distances(here, posterior.points)
            decays = {km: np.exp(-distance / km) for km in posterior.ranges}
            for period, each in parts.items():
                number = self._period_number(period)
                row = np.flatnonzero(np.diff(each.indptr))
                each, own = each[row], posterior.prior(here, number)
                deviation[row] += posterior.mixed(each @ always.T, each @ own.T)
                for km, decay in decays.items():
                    kriged = each @ decay
                    mean[row] += kriged @ posterior.weights(km, number, "mean")
                    deviation[row] += kriged @ posterior.weights(km, number, "deviation")
        totals = {period: each.sum(axis=1) for period, each in weights.items()}
        mean += np.outer(sum(totals.values()), posterior.constants())
        mean, deviation = self.corrected * mean, WIDENED * deviation + self.biases(totals)[:, : DRAWS // 2]
        for period, total in totals.items():
            mean += np.outer(total, posterior.shifts(self._period_number(period)))
        return np.concatenate([mean + deviation, mean - deviation], axis=1)

    def covariances(self, lon: np.ndarray, lat: np.ndarray, first: int | None, last: int | None) -> np.ndarray:
        """Return the variance in one period, in another, and the covariance, (3, n), of single places' errors without nugget."""
        from scipy.sparse import eye_array  # SciPy is slow to import

        every = eye_array(len(lon), format="csr")
        before, after = (self.sums(lon, lat, {period: every})[:, : DRAWS // 2] for period in (first, last))
        before, after = (each - each.mean(axis=1, keepdims=True) for each in (before, after))
        return np.stack([np.mean(a * b, axis=1) for a, b in ((before, before), (after, after), (before, after))])

    def biases(self, totals: Mapping[int | None, np.ndarray]) -> np.ndarray:
        """Return what of drawn sums' deviations all places of a period share, (R, DRAWS), of total weights (R,) by period."""
        found = sum(np.outer(total, self._posterior_draws.biases(self._period_number(period))) for period, total in totals.items())
        return WIDENED * np.concatenate([found, -found], axis=1)

    def _period_number(self, period: int | None) -> int:
        """Return the number of a period's field: its rank among those of profiles, or one behind them for each that is not."""
        known = sorted(set(self.period))
        if period in known or (period is None and len(known) == 1):
            return 0 if period is None else known.index(period)
        return len(known) + (0 if period is None else 1 + abs(int(period)) % 1_000_000)

    @cached_property
    def _posterior_draws(self) -> "_Posterior":
        return _Posterior(self)

    # --- as plain values ---

    def to_plain(self) -> dict[str, Any]:
        """Return it as numbers and lists."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: [list(x) if isinstance(x, tuple) else x for x in v] if isinstance(v, tuple) else v for name, v in plain.items()
        }

    @classmethod
    def from_plain(cls, plain: Any) -> "ErrorField":
        """Make it from `to_plain`'s content, which may come from an untrusted file; ValueError if it is invalid."""
        names = set(cls.__dataclass_fields__)
        lists = names - {"cell", "corrected", "held"}
        if not isinstance(plain, dict) or {*plain, "held"} != names or not all(isinstance(plain[name], list) for name in lists):
            raise ValueError(f"errors: expected {', '.join(cls.__dataclass_fields__)}")
        for name, width in (("places", 2), ("shapes", len(Shape._fields))):
            if not all(isinstance(each, list) and len(each) == width for each in plain[name]):
                raise ValueError(f"errors: {name} are not lists of {width} numbers")
        given: dict[str, Any] = {name: tuple(plain[name]) for name in lists} | {name: plain[name] for name in plain.keys() - lists}
        given["places"] = tuple(map(tuple, plain["places"]))
        return cls(**given | {"shapes": tuple(Shape(*each) for each in plain["shapes"])})


def _growth(km: np.ndarray, extent: float) -> np.ndarray:
    """Return the variance of errors at distances from the nearest profile, as a share of that far from any."""
    return np.asarray(1 - (1 - NEAR) * np.exp(-GROWTH * km / extent))


def kilometres_apart(places: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return the distance (n,), km, of places (n, 2), degrees, to the nearest place of another fold; infinite if there is none.

    Examples
    --------
    >>> kilometres_apart(np.array([[8.0, 47.0], [8.0, 47.1], [8.0, 47.3]]), np.array([0, 0, 1])).round(1)
    array([33.4, 22.2, 22.2])
    """
    from scipy.spatial import cKDTree

    points, found = unit_vectors(*places.T) * EARTH_KM, np.full(len(places), np.inf)
    for fold in np.unique(folds):
        here = folds == fold
        if not here.all():
            found[here] = cKDTree(points[~here]).query(points[here])[0]
    return found


def scale_of(predicted: np.ndarray) -> np.ndarray:
    """Return (1 + prediction)^(1/2), which errors of the field are in proportion to: in places of little carbon they are small."""
    return np.sqrt(1 + np.maximum(predicted, 0.0))


def _root(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float((values**2).mean() ** 0.5)


def _diameter(points: np.ndarray) -> float:
    """Return the largest distance, km, of points (n, 3)."""
    outer = outermost(points)
    return float(np.linalg.norm(outer[:, None] - outer, axis=2).max())


def _knots(places: np.ndarray, values: np.ndarray, period: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean places (K, 2), mean values, numbers of profiles and periods (K,) of squares, as small as their number allows."""
    side = max(float(np.ptp(places, axis=0).max()) / 1000, 1e-5)
    while True:
        squares = np.column_stack([np.floor(places / side), period])
        _, which, counts = np.unique(squares, axis=0, return_inverse=True, return_counts=True)
        if len(counts) <= _MAX_KNOTS:
            break
        side *= 1.5
    which = which.ravel()

    def mean(of: np.ndarray) -> np.ndarray:
        return np.bincount(which, of) / counts

    when = np.zeros(len(counts), np.int64)
    when[which] = period
    return np.column_stack([mean(places[:, 0]), mean(places[:, 1])]), mean(values), counts, when


def _subsample(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return rows of profiles for the likelihood: all, or neighbourhoods of ten around random ones."""
    if len(points) <= _MAX_KNOTS:
        return np.arange(len(points))
    from scipy.spatial import cKDTree

    centres = random.choice(len(points), _MAX_KNOTS // 10, replace=False)
    return np.unique(cKDTree(points).query(points[centres], k=10)[1])


# --- the posterior distribution ------------------------------------------------------------------------------------------------


class _Posterior:
    """Weights of fields that are drawn from the posterior distribution of an error model: half of `DRAWS`, and their means.

    A draw has a shape, a variance, prior fields (waves), and weights (K,) of covariances with the places of profiles.
    """

    def __init__(self, errors: ErrorField) -> None:
        self.count = DRAWS // 2
        self.points = unit_vectors(*np.array(errors.places).T) * EARTH_KM
        self.values, self.counts = np.array(errors.values), np.array(errors.counts, float)
        self.number = np.unique(errors.period, return_inverse=True)[1]
        weights = np.cumsum([shape.weight for shape in errors.shapes])
        places = np.searchsorted(weights / weights[-1], (np.arange(self.count) + 0.5) / self.count)
        self.shape_of = np.random.default_rng(11).permutation(np.minimum(places, len(weights) - 1))
        self.shapes = [errors.shapes[k] for k in self.shape_of]
        parts = ((km, share) for s in self.shapes for km, share in ((s.long_km, s.long), (s.short_km, s.short)))
        self.ranges = sorted({km for km, share in parts if share})
        self._array = {name: np.array([getattr(shape, name) for shape in self.shapes]) for name in Shape._fields}
        self._cached: dict[Any, Any] = {}
        self.sigma, self.solved = self._solve(errors.shapes)
        self.hidden = HIDDEN * self.sigma * np.random.default_rng(14).normal(size=self.count)

    def _solve(self, shapes: Sequence[Shape]) -> tuple[np.ndarray, dict[int, Any]]:
        """Return the deviation of each draw, and of each shape in use the Cholesky root and what it makes of ones and values."""
        from scipy.linalg import cho_solve

        decay, random, n = decay_of(self.points), np.random.default_rng(12), len(self.values)
        same = self.number[:, None] == self.number
        solved = {}
        for k in np.unique(self.shape_of).tolist():
            root = np.linalg.cholesky(covariance(shapes[k], decay, same, self.counts))
            ones = cho_solve((root, True), np.ones(n))
            rest = self.values - ones @ self.values / ones.sum()
            variance = rest @ cho_solve((root, True), rest) / (n - 1)
            solved[k] = root, ones, variance
        chance = (n - 1) / random.chisquare(n - 1, self.count)
        sigma = np.array([solved[k][2] for k in self.shape_of.tolist()])
        return np.sqrt(sigma * chance), solved

    def prior(self, points: np.ndarray, number: int) -> np.ndarray:
        """Return the correlated parts of the draws' prior fields (draws, n), of variance long + short."""
        found = np.zeros((self.count, len(points)))
        for name, seed in (("long", 0), ("short", 1)):
            vectors, phases = _waves(number, seed, self.count)
            for k in np.flatnonzero(self._array[name]):
                part = slice(k * _WAVES, (k + 1) * _WAVES)
                turns = points @ (vectors[:, part] / self._array[f"{name}_km"][k]) + phases[part]
                turns -= np.floor(turns)  # so small, a float32 will do, whose cosine is many times as fast
                cosines = np.cos(turns.astype(np.float32) * np.float32(2 * np.pi)).sum(axis=1)
                found[k] += (2 * self._array[name][k] / _WAVES) ** 0.5 * cosines
        return found

    def _bias(self, number: int) -> np.ndarray:
        """Return the prior biases (draws,) of a period, of variance drift."""
        return np.asarray(self._array["drift"] ** 0.5 * np.random.default_rng([159, number]).normal(size=self.count))

    def mixed(self, always: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return weighted sums (R, draws) of prior fields of a period, from those of the shared field and the period's own."""
        kept = self._array["persistence"]
        return np.asarray(self.sigma * (kept**0.5 * always + (1 - kept) ** 0.5 * own))

    def _solution(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (K, draws) and constants (draws,): of the posterior mean, or of what a draw deviates from it by."""
        from scipy.linalg import cho_solve

        if what not in self._cached:
            data = np.repeat(self.values[:, None], self.count, axis=1) if what == "mean" else -self._simulated()
            weights, constants = np.empty_like(data), np.empty(self.count)
            for k, (root, ones, _) in self.solved.items():
                here = np.flatnonzero(self.shape_of == k)
                constants[here] = ones @ data[:, here] / ones.sum()
                weights[:, here] = cho_solve((root, True), data[:, here] - constants[here])
            self._cached[what] = weights, constants
        found: tuple[np.ndarray, np.ndarray] = self._cached[what]
        return found

    def _simulated(self) -> np.ndarray:
        """Return prior fields, biases and nuggets (K, draws) at the places of profiles."""
        kept, found = self._array["persistence"][:, None], np.empty((self.count, len(self.points)))
        always = self.prior(self.points, _ALWAYS)
        for number in np.unique(self.number).tolist():
            rows = self.number == number
            own = self.prior(self.points[rows], number)
            found[:, rows] = kept**0.5 * always[:, rows] + (1 - kept) ** 0.5 * own + self._bias(number)[:, None]
        nugget = np.array([shape.nugget for shape in self.shapes])[:, None] / self.counts
        noise = np.random.default_rng([13, 0]).normal(size=found.shape)
        return np.asarray((self.sigma[:, None] * (found + nugget**0.5 * noise)).T)

    def _factor(self, number: int) -> np.ndarray:
        """Return how far correlated errors of the profiles' periods are shared by a period, (K, draws)."""
        return np.where((self.number == number)[:, None], 1.0, self._array["persistence"])

    def weights(self, km: float, number: int, what: str) -> np.ndarray:
        """Return the weights (K, draws) of e^(-distance / km) between a place of a period and those of profiles."""
        if (key := (km, number, what)) not in self._cached:
            share = sum(self._array[name] * (self._array[f"{name}_km"] == km) for name in ("long", "short"))
            self._cached[key] = self._solution(what)[0] * self._factor(number) * share
        found: np.ndarray = self._cached[key]
        return found

    def constants(self, what: str = "mean") -> np.ndarray:
        """Return what is added to the field everywhere, (draws,)."""
        return self._solution(what)[1]

    def shifts(self, number: int, what: str = "mean") -> np.ndarray:
        """Return what is known of a period's own bias, (draws,)."""
        weights, _ = self._solution(what)
        return np.asarray(self._array["drift"] * weights[self.number == number].sum(axis=0))

    def biases(self, number: int) -> np.ndarray:
        """Return what draws (draws,) deviate by from the posterior mean everywhere in a period: mean, its own bias, hidden bias."""
        known = self.constants("deviation") + self.shifts(number, "deviation")
        return np.asarray(known + self.sigma * self._bias(number) + self.hidden)


@lru_cache(maxsize=32)
def _waves(number: int, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Return wave vectors (3, draws x waves), turns per unit, and phases of fields whose correlation is e^-distance.

    That correlation is the characteristic function of a Cauchy distribution of three dimensions (random Fourier features:
    Rahimi and Recht 2007).
    """
    random = np.random.default_rng([314, seed, number + 1])
    count = draws * _WAVES
    vectors = random.normal(size=(3, count)) / np.abs(random.normal(size=count)) / (2 * np.pi)
    return vectors, random.random(count)
