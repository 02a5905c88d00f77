"""Variogram: great-circle distances, the empirical semivariogram of residuals, and a fitted model with its range.

In: arrays of positions (degrees) and residuals. Out: distances (km), lags, a fitted model. Were spatial blocks narrower than the
practical range, held-out profiles would have neighbours with the same errors (`spatial_cv.block_size_for_range`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from soilcarbon.stats.groups import unit_vectors

EARTH_KM = 6371.0088  # mean radius of the Earth (IUGG)
KM_PER_DEGREE = EARTH_KM * np.pi / 180  # along a meridian

_SAME_PLACE_KM = 0.001  # pairs this near are left out: mostly one profile in two databases, which would bias the nugget to 0
_LAGS = 15
"""Classes of distance; their widths grow with distance, so that short distances, which decide nugget and range, are resolved."""
_MIN_PAIRS = 30  # a lag of fewer is not reliable (Journel and Huijbregts 1978) and is left out
_MAX_PAIRS = 2_000_000  # where there are more pairs, about so many are drawn evenly
_STRUCTURED = 0.1  # of the sill: where less depends on distance, a fitted range is that of noise

# --- distances on the sphere -------------------------------------------------------------------------------------


def arc_km(chord: np.ndarray | float) -> np.ndarray:
    """Return great-circle distances, km, of chords between unit vectors (of any shape).

    >>> float(arc_km(2.0).round())  # half round the Earth
    20015.0
    """
    return np.asarray(2 * EARTH_KM * np.arcsin(np.minimum(np.asarray(chord) / 2, 1)))


# --- the empirical semivariogram ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmpiricalVariogram:
    """Semivariances by lag: mean distance (L,) km, semivariance (L,) in squared units of the values, pairs (L,)."""

    km: np.ndarray
    semivariance: np.ndarray
    pairs: np.ndarray


def empirical_variogram(
    lon: np.ndarray, lat: np.ndarray, values: np.ndarray, robust: bool = False, seed: int = 0, max_km: float | None = None
) -> EmpiricalVariogram:
    """Return the empirical semivariogram: half the mean squared difference of pairs, in 15 classes of great-circle distance.

    Parameters
    ----------
    lon, lat
        (N,) degrees.
    values
        (N,) residuals.
    robust
        Cressie and Hawkins (1980, Math. Geol. 12, 115-125): fourth power of the mean root difference. A few wild
        residuals then do not lift the curve.
    seed
        Of the pairs that are drawn where there are more than two million.
    max_km
        Largest distance; default: a third of the extent (the farthest pair's distance), beyond which pairs share too many
        profiles and a trend takes over.

    Raises
    ------
    ValueError
        If a value is not finite, or fewer than two lags have 30 pairs. Pairs at one spot (1 m) do not count.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> lon, lat = random.uniform(0, 2, (2, 300))
    >>> lags = empirical_variogram(lon, lat, np.sin(4 * lon))  # smooth: near pairs differ less
    >>> bool(lags.semivariance[0] < 0.1 * lags.semivariance[-1])
    True
    """
    points, values = unit_vectors(lon, lat), np.asarray(values, np.float64)
    if values.shape != (len(points),) or not np.isfinite(values).all():
        raise ValueError(f"values {values.shape} must be {len(points)} finite numbers, one for each position")
    if len(points) < 2:
        raise ValueError("a semivariance needs two profiles or more")
    if max_km is None:
        outer = outermost(points)
        max_km = float(arc_km(np.linalg.norm(outer[:, None] - outer, axis=2).max())) / 3
    distance, difference = _pairs(points, values, max_km, np.random.default_rng(seed))
    lag = np.searchsorted(max_km * (np.arange(1, _LAGS) / _LAGS) ** 2, distance, side="left")
    pairs = np.bincount(lag, minlength=_LAGS)
    kept = pairs >= _MIN_PAIRS
    if kept.sum() < 2:
        raise ValueError(f"{distance.size} pairs within {max_km:g} km fill {int(kept.sum())} lags; 2 or more are needed")

    def mean(of: np.ndarray) -> np.ndarray:
        return np.bincount(lag, of, _LAGS)[kept] / pairs[kept]

    twice = mean(np.sqrt(difference)) ** 4 / (0.457 + 0.494 / pairs[kept]) if robust else mean(difference**2)
    return EmpiricalVariogram(mean(distance), twice / 2, pairs[kept])


def outermost(points: np.ndarray) -> np.ndarray:
    """Return those of the points (n, 3) that lie outermost in some of 200 directions: the farthest pair is, nearly, among them."""
    directions = np.random.default_rng(0).normal(size=(3, 200))
    return points[np.unique((points @ directions).argmax(0))]


def _pairs(points: np.ndarray, values: np.ndarray, max_km: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (km) and absolute difference of pairs within a distance: all, or about `_MAX_PAIRS` drawn evenly."""
    from scipy.spatial import cKDTree  # here and below: SciPy is slow to import

    tree, within = cKDTree(points), 2 * np.sin(min(max_km / (2 * EARTH_KM), np.pi / 2))
    count = (int(tree.count_neighbors(tree, within)) - len(points)) // 2
    if count <= 5 * _MAX_PAIRS:
        pairs = tree.query_pairs(within, output_type="ndarray")
        if count > _MAX_PAIRS:
            pairs = pairs[random.choice(len(pairs), _MAX_PAIRS, replace=False)]
        chord = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    else:  # too many to list; at least a few per cent of any pairs are near enough
        drawn, chords, found = [], [], 0
        while found < _MAX_PAIRS:
            pairs = random.integers(len(points), size=(500_000, 2))
            chord = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
            near = chord <= within
            drawn.append(pairs[near])
            chords.append(chord[near])
            found += int(near.sum())
        pairs, chord = np.concatenate(drawn), np.concatenate(chords)
    distance = arc_km(chord)
    apart = distance > _SAME_PLACE_KM
    return distance[apart], np.abs(values[pairs[apart, 0]] - values[pairs[apart, 1]])


# --- the model ---------------------------------------------------------------------------------------------------

VARIOGRAM_MODELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exponential": (lambda h: 1 - np.exp(-h), 3.0),
    "spherical": (lambda h: np.where(h < 1, 1.5 * h - 0.5 * h**3, 1.0), 1.0),
}
"""Model -> its rise from 0 to 1 over distance / range parameter, and practical range / range parameter."""


@dataclass(frozen=True)
class Variogram:
    """A variogram model: nugget + sill * rise(distance / scale).

    >>> Variogram("exponential", nugget=0.2, sill=0.8, scale=50.0, bounded=True).practical_range
    150.0
    """

    model: str  # a key of `VARIOGRAM_MODELS`
    nugget: float  # variance at no distance, 0 or more
    sill: float  # partial sill, what distance adds to it, 0 or more
    scale: float  # range parameter, km
    bounded: bool  # whether the range was found among the lags; if not, it is only known to lie beyond (or before) them

    @property
    def practical_range(self) -> float:
        """Km beyond which values are uncorrelated (95 % of the sill); 0 where under a tenth of the variance has structure."""
        structured = self.sill > 0 and self.sill >= _STRUCTURED * (self.nugget + self.sill)
        return VARIOGRAM_MODELS[self.model][1] * self.scale if structured else 0.0

    def at(self, km: np.ndarray) -> np.ndarray:
        """Return the semivariance at distances > 0."""
        return np.asarray(self.nugget + self.sill * VARIOGRAM_MODELS[self.model][0](np.asarray(km, np.float64) / self.scale))


def fit_variogram(lags: EmpiricalVariogram, model: str = "exponential") -> Variogram:
    """Fit a variogram model by weighted least squares, weights pairs / model squared (Cressie 1985, Math. Geol. 17, 563-586).

    For one range, nugget and sill follow by non-negative least squares; only the range is searched for, from half
    the first lag up to the last, so that no start values are needed and no fit runs away.

    Raises
    ------
    ValueError
        If the model is unknown.

    Examples
    --------
    >>> lags = EmpiricalVariogram(np.array([10.0, 30, 60, 90]), np.array([0.5, 0.9, 1.0, 1.0]), np.array([100, 100, 100, 100]))
    >>> fitted = fit_variogram(lags)
    >>> round(fitted.practical_range), round(fitted.nugget + fitted.sill, 2)
    (44, 1.01)
    """
    from scipy.optimize import minimize_scalar, nnls

    if model not in VARIOGRAM_MODELS:
        raise ValueError(f"model = {model!r}: expected {' or '.join(map(repr, VARIOGRAM_MODELS))}")
    rise, reach = VARIOGRAM_MODELS[model]
    first, last = lags.km[0] / 2, lags.km[-1]
    grid = np.geomspace(first, last, 60) / reach
    variance = np.full(len(lags.km), np.average(lags.semivariance, weights=lags.pairs))
    nugget, sill, scale = 0.0, 0.0, float(grid[0])
    if variance[0] <= 0:
        return Variogram(model, nugget, sill, scale, False)
    for _ in range(5):  # weights need the model, the model weights; they settle in three or four rounds
        root = np.sqrt(lags.pairs) / variance

        def fitted(scale: float, root: np.ndarray = root) -> tuple[np.ndarray, float]:
            terms = np.stack([np.ones(len(root)), rise(lags.km / scale)], axis=1)
            part, misfit = nnls(terms * root[:, None], lags.semivariance * root)
            return part, float(misfit)

        k = int(np.argmin([fitted(each)[1] for each in grid]))
        ends = np.log([grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]])
        scale = float(np.exp(minimize_scalar(lambda x: fitted(np.exp(x))[1], bounds=tuple(ends), method="bounded").x))
        nugget, sill = fitted(scale)[0].tolist()
        variance = np.maximum(nugget + sill * rise(lags.km / scale), 1e-6 * variance.max())
    return Variogram(model, nugget, sill, scale, bool(1.01 * grid[0] < scale < 0.99 * grid[-1]))
