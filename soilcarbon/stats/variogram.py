"""How far the residuals of a model agree: distances on the sphere, the semivariogram, and its range.

In: arrays of positions (degrees) and residuals. Out: distances (km), lags, a fitted model with its practical range, and
the side of spatial blocks: were they narrower than that range, held-out profiles would have neighbours that err alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls
from scipy.spatial import cKDTree

from soilcarbon.stats.grouping import split_units

EARTH_KM = 6371.0088
"""Mean radius of the Earth (IUGG)."""
KM_PER_DEGREE = EARTH_KM * np.pi / 180
"""Along a meridian."""

_SAME_PLACE_KM = 0.001
"""Pairs this near are left out: mostly one profile in two databases, which would say there is no noise."""
_FEWEST_PAIRS = 30
"""A lag of fewer tells little (Journel and Huijbregts 1978)."""
_STRUCTURED = 0.1
"""Of the sill: where less depends on distance, a fitted range is that of noise."""
_NARROWEST_KM = 5.0
"""Of a block, whatever the range: profiles of one survey cluster lie nearer."""

# --- the sphere --------------------------------------------------------------------------------------------------


def unit_vectors(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return positions on the unit sphere, on which there is no date line and no pole.

    Parameters
    ----------
    lon, lat
        (N,) degrees.

    Returns
    -------
    array
        (N, 3) float64.

    Raises
    ------
    ValueError
        If lengths differ, or a value is not finite or no latitude.
    """
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    if lon.ndim != 1 or lon.shape != lat.shape:
        raise ValueError(f"lon {lon.shape} and lat {lat.shape} must be two vectors of one length")
    wrong = ~(np.isfinite(lon) & (np.abs(lat) <= 90))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"{int(wrong.sum())} of {lon.size} positions are none, first {lon[k]:g}, {lat[k]:g}")
    east, north = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)


def arc_km(chord: np.ndarray | float) -> np.ndarray:
    """Return great-circle distances, km, of chords between unit vectors (of any shape)."""
    return np.asarray(2 * EARTH_KM * np.arcsin(np.minimum(np.asarray(chord) / 2, 1)))


def distinct_places(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct places (P, 3) in an order of their own, the place of each profile (N,), profiles of each (P,)."""
    unit_vectors(lon, lat)
    units, member, sizes = np.unique(split_units(lon, lat, "random"), return_inverse=True, return_counts=True)
    return unit_vectors((units & 0xFFFFFFFF) / 1e5 - 180, (units >> 32) / 1e5 - 90), member, sizes


# --- the empirical semivariogram ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lags:
    """Semivariances by distance: mean distance (L,) km, semivariance (L,) in squared units of the values, pairs (L,)."""

    km: np.ndarray
    semivariance: np.ndarray
    pairs: np.ndarray


def semivariances(
    lon: np.ndarray,
    lat: np.ndarray,
    values: np.ndarray,
    lags: int = 15,
    largest_km: float | None = None,
    edges: str = "growing",
    robust: bool = False,
    seed: int = 0,
    most_pairs: int = 2_000_000,
    fewest_pairs: int = _FEWEST_PAIRS,
) -> Lags:
    """Return half the mean squared difference of pairs of values, by their great-circle distance.

    Parameters
    ----------
    lon, lat
        (N,) degrees.
    values
        (N,) residuals.
    lags
        Classes of distance.
    largest_km
        Pairs further apart are not used; default: a third of the extent (the farthest pair's distance), beyond which
        pairs share too many profiles and a trend takes over.
    edges
        "growing": widths grow with distance, so that short distances, which decide nugget and range, are resolved
        also in a wide area. "width": equal. "count": equal numbers of pairs.
    robust
        Cressie and Hawkins (1980, Math. Geol. 12, 115-125): fourth power of the mean root difference. A few wild
        residuals then do not lift the curve.
    seed, most_pairs
        Where there are more pairs, about that many, drawn evenly.
    fewest_pairs
        Lags of fewer pairs are left out. Pairs at one spot (1 m) are, too.

    Raises
    ------
    ValueError
        If a value is not finite, an argument unknown, or fewer than two lags are left.
    """
    points, values = unit_vectors(lon, lat), np.asarray(values, np.float64)
    if values.shape != (len(points),) or not np.isfinite(values).all():
        raise ValueError(f"values {values.shape} must be {len(points)} finite numbers, one for each position")
    if edges not in ("growing", "width", "count"):
        raise ValueError(f"edges = {edges!r}: expected 'growing', 'width' or 'count'")
    if len(points) < 2:
        raise ValueError("a semivariance needs two profiles or more")
    if largest_km is None:
        largest_km = _extent(points) / 3
    distance, difference = _pairs(points, values, largest_km, np.random.default_rng(seed), most_pairs)
    if edges == "count" and distance.size:
        bounds = np.quantile(distance, np.linspace(0, 1, lags + 1))[1:-1]
    else:
        bounds = largest_km * (np.arange(1, lags) / lags) ** (2 if edges == "growing" else 1)
    lag = np.searchsorted(bounds, distance, side="left")
    pairs = np.bincount(lag, minlength=lags)
    kept = pairs >= max(fewest_pairs, 1)
    if kept.sum() < 2:
        raise ValueError(f"{distance.size} pairs within {largest_km:g} km fill {int(kept.sum())} lags; 2 or more are needed")

    def mean(of: np.ndarray) -> np.ndarray:
        return np.bincount(lag, of, lags)[kept] / pairs[kept]

    twice = mean(np.sqrt(difference)) ** 4 / (0.457 + 0.494 / pairs[kept]) if robust else mean(difference**2)
    return Lags(mean(distance), twice / 2, pairs[kept])


def _extent(points: np.ndarray) -> float:
    """Return the largest distance, km: between the points that lie outermost in some of 200 directions."""
    directions = np.random.default_rng(0).normal(size=(3, 200))
    outer = points[np.unique((points @ directions).argmax(0))]
    return float(arc_km(np.linalg.norm(outer[:, None] - outer, axis=2).max()))


def _pairs(
    points: np.ndarray, values: np.ndarray, largest_km: float, random: np.random.Generator, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (km) and absolute difference of pairs within a distance: all, or about `most` drawn evenly."""
    tree, within = cKDTree(points), 2 * np.sin(min(largest_km / (2 * EARTH_KM), np.pi / 2))
    count = (int(tree.count_neighbors(tree, within)) - len(points)) // 2
    if count <= 5 * most:
        pairs = tree.query_pairs(within, output_type="ndarray")
        if count > most:
            pairs = pairs[random.choice(len(pairs), most, replace=False)]
        chord = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    else:  # too many to list; at least a few per cent of any pairs are near enough
        drawn, chords, found = [], [], 0
        while found < most:
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


def _spherical(h: np.ndarray) -> np.ndarray:
    return np.where(h < 1, 1.5 * h - 0.5 * h**3, 1.0)


SHAPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exponential": (lambda h: 1 - np.exp(-h), 3.0),
    "spherical": (_spherical, 1.0),
}
"""Model -> its rise from 0 to 1 over distance / range parameter, and practical range / range parameter."""


@dataclass(frozen=True)
class Variogram:
    """A fitted model: nugget + sill * rise(distance / scale).

    Attributes
    ----------
    model
        A key of `SHAPES`.
    nugget, sill
        Variance at no distance, and what distance adds to it; both 0 or more.
    scale
        Range parameter, km.
    bounded
        Whether the range was found among the lags; if not, it is only known to lie beyond (or before) them.
    """

    model: str
    nugget: float
    sill: float
    scale: float
    bounded: bool

    @property
    def practical_range(self) -> float:
        """Km beyond which values agree no more (95 % of the sill); 0 where under a tenth of the variance has structure."""
        structured = self.sill > 0 and self.sill >= _STRUCTURED * (self.nugget + self.sill)
        return SHAPES[self.model][1] * self.scale if structured else 0.0

    def at(self, km: np.ndarray) -> np.ndarray:
        """Return the semivariance at distances > 0."""
        return np.asarray(self.nugget + self.sill * SHAPES[self.model][0](np.asarray(km, np.float64) / self.scale))


def fit_variogram(lags: Lags, model: str = "exponential") -> Variogram:
    """Fit a model by weighted least squares, weights pairs / model squared (Cressie 1985, Math. Geol. 17, 563-586).

    For one range, nugget and sill follow by non-negative least squares; only the range is searched for, from half
    the first lag up to the last, so that no start values are needed and no fit runs away.

    Raises
    ------
    ValueError
        If the model is unknown.
    """
    if model not in SHAPES:
        raise ValueError(f"model = {model!r}: expected {' or '.join(map(repr, SHAPES))}")
    rise, reach = SHAPES[model]
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


# --- the side of blocks ------------------------------------------------------------------------------------------


def block_side(lon: np.ndarray, lat: np.ndarray, range_km: float, fewest: int) -> tuple[float, str]:
    """Return the side of spatial blocks, degrees, for residuals that agree over `range_km`, and what decided it.

    Blocks are squares in degrees (`grouping.split_units`): at the middle latitude of the profiles as wide as the
    range, and higher. They are narrowed until `fewest` or more hold profiles, but not below 5 km.

    Parameters
    ----------
    lon, lat
        (N,) degrees.
    range_km
        `Variogram.practical_range`.
    fewest
        Blocks with profiles that must remain.
    """
    unit_vectors(lon, lat)
    across = KM_PER_DEGREE * max(np.cos(np.radians(np.median(np.abs(lat)))), 0.1)
    narrowest, side = _NARROWEST_KM / across, min(range_km / across, 90.0)
    agree = f"the residuals agree over {range_km:.3g} km"
    while side > narrowest and np.unique(split_units(lon, lat, "blocks", side)).size < fewest:
        side *= 0.95
    if side <= narrowest:
        return round(narrowest, 5), f"{_NARROWEST_KM:g} km, the narrowest; {agree}"
    if side < range_km / across:
        return round(side, 5), f"narrowed so that {fewest} blocks remain; {agree}"
    return round(side, 5), f"the practical range; {agree}"
