"""Soil organic carbon stocks of cores, by fixed depth and by equivalent soil mass (ESM), with errors of measurement propagated.

A core is a sequence of layers from the surface. Fine soil mass and SOC stock are cumulated downwards, both in t/ha: a fixed depth
reads the stock at a depth, equivalent soil mass at a cumulative mass. Sources: Ellert and Bettany 1995, Can. J. Soil Sci. 75,
529-538; Wendt and Hauser 2013, Eur. J. Soil Sci. 64, 58-65; von Haden, Yang and DeLucia 2020, Glob. Change Biol. 26, 3759-3770;
Fowler et al. 2023, Sci. Rep. 13, 2242; Ferchaud, Chlebowski and Mary 2023, hal-04013158 (SimpleESM).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from soilcarbon.soil.bulk_density import PARTICLE_DENSITY, stones_by_volume
from soilcarbon.soil.depth import Horizons, average_repeats
from soilcarbon.stats.monotone_spline import monotone_spline

BulkDensityOf = Literal["fine_earth", "fine_mass", "whole_soil"]
Mass = Literal["fine", "mineral"]
Interpolation = Literal["linear", "spline"]
ORGANIC_MATTER = 1 / 0.58  # organic matter per carbon (van Bemmelen), for mineral soil mass
T_PER_HA = 0.1  # t/ha of a centimetre of 1 kg/m3
PER_KG_M2 = 10.0  # t/ha of 1 kg/m2
_SAME = 1e-6  # cm: limits that differ by less are the same
_SHARE = 1e-9  # of a mass: rounding by which a core may miss its reference
_LIGHTEST = 1e-6  # kg/m3, of a layer of nothing but stones, so that mass increases with depth
_STEP = 1e-2  # of a standard deviation: step of the numerical derivatives

SURFACE, GAP, SHORT = "no SOC or bulk density at the surface", "a layer without SOC or bulk density above", "too short"
OVERLAP, UNKNOWN = "layers overlap", "no reference mass: no core of its group is so deep"  # reasons why a core has no stock


@dataclass(frozen=True)
class Layers:
    """A property of L layers of N cores, sorted by core and depth; made by `Layers.of`.

    Attributes
    ----------
    horizons
        Their cores and depths, cm from the surface (`depth.Horizons`).
    value, sd
        (L,) property and standard deviation of its error.
    """

    horizons: Horizons
    value: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, horizons: Horizons, value: np.ndarray, sd: np.ndarray | float = 0.0) -> "Layers":
        """Sort layers, leave out those without a value, and average those of the same limits."""
        value, given = np.asarray(value, float), np.asarray(np.broadcast_to(sd, np.shape(value)), float)
        known = np.isfinite(value) & (horizons.bottom > horizons.top)
        horizons, means = average_repeats(horizons.take(known), value[known], given[known], same=_SAME)
        return cls(horizons, *means)

    def overlapping(self) -> np.ndarray:
        """Return the cores (N,) bool in which layers overlap."""
        found = np.zeros(self.horizons.profiles, bool)
        overlap = self.horizons.follows & (self.horizons.top[1:] < self.horizons.bottom[:-1] - _SAME)
        found[self.horizons.profile[1:][overlap]] = True
        return found

    def of_core(self, core: int) -> slice:
        """Return the rows of a core."""
        begin, end = np.searchsorted(self.horizons.profile, [core, core + 1])
        return slice(int(begin), int(end))


@dataclass(frozen=True)
class Cores:
    """N cores with what was measured of them; the three properties may be of layers of different limits.

    Attributes
    ----------
    soc
        g/kg of fine earth.
    bulk_density
        kg/m3.
    stones
        Coarse fragments, per cent; None: there are none.
    bulk_density_of
        "fine_earth": mass of fine earth per its own volume, so that stones are taken off by volume. "fine_mass": mass of fine
        earth per volume of the whole soil, in which stones are accounted for. "whole_soil": mass of everything per volume of
        everything, so that stones are taken off by mass.
    stones_by_mass
        Whether stones are per cent of the whole soil's mass rather than of its volume.
    """

    soc: Layers
    bulk_density: Layers
    stones: Layers | None = None
    bulk_density_of: BulkDensityOf = "fine_earth"
    stones_by_mass: bool = False

    def __len__(self) -> int:
        return self.soc.horizons.profiles


@dataclass(frozen=True)
class ErrorPropagation:
    """How errors of SOC, bulk density and stones, independent of each other, are propagated.

    Attributes
    ----------
    correlation
        Of the errors of one property between layers of a core: 0 independent of each other, 1 the same throughout.
    draws, seed
        Of Monte Carlo: normal errors drawn and stocks computed again. 0: the delta method, to first order by derivatives.
    """

    correlation: float = 0.0
    draws: int = 0
    seed: int = 314


@dataclass(frozen=True)
class Stocks:
    """SOC stocks of N cores from the surface to K depths or masses; NaN where a core has none."""

    stock: np.ndarray  # (N, K) t/ha, from the surface
    sd: np.ndarray  # (N, K) t/ha; NaN if no error of measurement was given
    layer: np.ndarray  # (N, K) t/ha, between a depth or mass and the one before
    layer_sd: np.ndarray  # (N, K) t/ha
    mass: np.ndarray  # (N, K) t/ha of soil, from the surface
    depth: np.ndarray  # (N, K) cm: the depth asked for, or that at which the mass is reached
    total_mass: np.ndarray  # (N,) t/ha down to `total_depth`
    total_depth: np.ndarray  # (N,) cm to which SOC and bulk density are known without a gap
    reason: np.ndarray = field(repr=False)  # (N, K) text, "" where there is a stock

    @property
    def kg_m2(self) -> np.ndarray:
        """Stocks (N, K) in kg/m2."""
        return self.stock / PER_KG_M2


def fine_soil_density(
    bulk_density: np.ndarray, stones: np.ndarray, of: BulkDensityOf = "fine_earth", by_mass: bool = False
) -> np.ndarray:
    """Return the mass of fine earth per volume of the whole soil, kg/m3, by bulk density (kg/m3, as `of` says: `Cores`) and stones.

    Stones are per cent of volume, or of mass.

    >>> bulk_density, stones = np.array([1300.0]), np.array([10.0])
    >>> fine_soil_density(bulk_density, stones), fine_soil_density(bulk_density, stones, "whole_soil")
    (array([1170.]), array([1035.]))
    """
    if of == "fine_mass":
        found = np.asarray(bulk_density, float)
    elif of == "whole_soil":
        found = bulk_density * (1 - stones / 100) if by_mass else bulk_density - PARTICLE_DENSITY * stones / 100
    else:
        found = bulk_density * (1 - (stones_by_volume(stones, bulk_density) if by_mass else stones) / 100)
    return np.maximum(found, _LIGHTEST)


def fixed_depth_stocks(
    cores: Cores, depths: np.ndarray, errors: ErrorPropagation = ErrorPropagation(), mass: Mass = "fine"  # noqa: B008 - frozen
) -> Stocks:  # fmt: skip
    """SOC stocks from the surface to fixed depths.

    Not for comparing sets of different bulk density: where a soil was compacted or loosened between two visits, the same depth
    holds more or less soil, and `equivalent_mass_stocks` compares like with like.

    Parameters
    ----------
    cores
        N of them. A layer that a depth cuts is taken as uniform.
    depths
        (K,) cm, increasing.
    errors
        How errors of measurement are propagated.
    mass
        What `Stocks.mass` is of: fine soil, or fine soil without organic matter.

    Examples
    --------
    >>> layers = Horizons(np.array([0, 0]), np.array([0.0, 10.0]), np.array([10.0, 30.0]), 1)
    >>> cores = Cores(Layers.of(layers, np.array([20.0, 10.0])), Layers.of(layers, np.array([1300.0, 1500.0])))
    >>> fixed_depth_stocks(cores, np.array([10.0, 20.0, 30.0])).stock
    array([[26., 41., 56.]])
    """
    wanted = np.asarray(depths, float)
    _check_increasing(wanted, "depths")
    return _stocks(cores, np.broadcast_to(wanted, (len(cores), wanted.size)), _at_depth, errors, mass)


def equivalent_mass_stocks(
    cores: Cores,
    reference: np.ndarray,
    method: Interpolation = "spline",
    errors: ErrorPropagation = ErrorPropagation(),  # noqa: B008 - frozen
    mass: Mass = "fine",
) -> Stocks:
    """SOC stocks in equivalent soil masses, cumulated from the surface.

    Parameters
    ----------
    cores
        N of them; one whose mass is less than a reference has no stock of it.
    reference
        Cumulative soil masses, t/ha, increasing: (K,) the same for all cores, or (N, K), NaN where a core has none.
    method
        Cumulative stock against cumulative mass: "linear" between all limits of layers, so that every layer is uniform; "spline"
        the monotone cubic spline through the lower limits of the layers of SOC (Wendt and Hauser 2013).
    errors
        How errors of measurement are propagated; the reference is taken as exact.
    mass
        "fine": of fine soil. "mineral": without organic matter, which von Haden et al. 2020 recommend where SOC differs much.

    Raises
    ------
    ValueError
        If masses do not increase from above 0.

    Examples
    --------
    >>> layers = Horizons(np.array([0, 0]), np.array([0.0, 10.0]), np.array([10.0, 30.0]), 1)
    >>> cores = Cores(Layers.of(layers, np.array([20.0, 10.0])), Layers.of(layers, np.array([1300.0, 1500.0])))
    >>> found = equivalent_mass_stocks(cores, np.array([1300.0, 2800.0, 5000.0]), "linear")
    >>> found.stock, found.depth, found.reason[0, 2]
    (array([[26., 41., nan]]), array([[10., 20., nan]]), 'too short')
    """
    wanted = np.atleast_2d(np.asarray(reference, float))
    _check_increasing(wanted, "reference masses")
    return _stocks(
        cores,
        np.broadcast_to(wanted, (len(cores), wanted.shape[1])),
        _at_mass_linear if method == "linear" else _at_mass_spline,
        errors,
        mass,
    )


def smallest_masses(masses: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """Return reference masses (N, K): of each core's group, the smallest of the masses (N, K), NaN ones apart.

    >>> smallest_masses(np.array([[1300.0], [1200.0], [1400.0]]), np.array([0, 0, 1]))
    array([[1200.],
           [1200.],
           [1400.]])
    """
    group = np.zeros(len(masses), np.int64) if group is None else group
    least = np.full((int(group.max(initial=0)) + 1, masses.shape[1]), np.inf)
    np.minimum.at(least, group, np.where(np.isnan(masses), np.inf, masses))
    return np.asarray(np.where(np.isinf(least), np.nan, least)[group])


# --- one core --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Profile:
    """Cumulative mass and stock of B versions of a core at its limits: all errors of measurement are tried at once."""

    limits: np.ndarray  # (P+1,) cm, of all layers and wanted depths, from 0
    knots: np.ndarray  # which of them are limits of layers of SOC
    mass: np.ndarray  # (B, P+1) t/ha
    stock: np.ndarray  # (B, P+1) t/ha


Reading = Callable[[_Profile, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Stocks (B, K), masses (B, K) and depths (B, K) of a core at wanted depths or masses (K,)."""


def _at_depth(core: _Profile, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.abs(core.limits[:, None] - wanted).argmin(axis=0)
    return core.stock[:, at], core.mass[:, at], np.broadcast_to(wanted, (len(core.mass), wanted.size))


def _at_mass_linear(core: _Profile, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    depth = np.broadcast_to(core.limits, core.mass.shape)
    masses = np.broadcast_to(wanted, (len(core.mass), wanted.size))
    return _interpolate(core.mass, core.stock, wanted), masses, _interpolate(core.mass, depth, wanted)


def _at_mass_spline(core: _Profile, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mass, stock = core.mass[:, core.knots], core.stock[:, core.knots]
    depth = np.broadcast_to(core.limits[core.knots], mass.shape)
    masses = np.broadcast_to(wanted, (len(core.mass), wanted.size))
    return monotone_spline(mass, stock, wanted), masses, monotone_spline(mass, depth, wanted)


def _interpolate(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return (B, K) values of B piecewise linear curves through (B, P) points; beyond them the last piece goes on."""
    piece = (at[None, :, None] >= x[:, None, 1:-1]).sum(axis=2)
    x0, x1, y0, y1 = (np.take_along_axis(array, piece + shift, axis=1) for array in (x, y) for shift in (0, 1))
    return np.asarray(y0 + (y1 - y0) * ((at - x0) / (x1 - x0)))


def _reach(layers: Layers, rows: slice) -> tuple[float, float]:
    """Return the depth, cm, to which a core's layers follow each other from the surface, and its deepest limit."""
    top, bottom = layers.horizons.top[rows], layers.horizons.bottom[rows]
    if not top.size:
        return 0.0, 0.0
    apart = np.abs(top - np.concatenate(([0.0], bottom[:-1]))) > _SAME
    first = int(apart.argmax()) if apart.any() else top.size
    return (float(bottom[first - 1]) if first else 0.0), float(bottom[-1])


def _stocks(cores: Cores, wanted: np.ndarray, read: Reading, errors: ErrorPropagation, mass: Mass) -> Stocks:
    """Read stocks of all cores at wanted depths or masses (N, K)."""
    shape = wanted.shape
    found = {name: np.full(shape, np.nan) for name in ("stock", "sd", "layer", "layer_sd", "mass", "depth")}
    totals = np.full((2, len(cores)), np.nan)
    reason = np.full(shape, "", object)
    random = np.random.default_rng(errors.seed)
    measured = [cores.soc, cores.bulk_density] + ([cores.stones] if cores.stones is not None else [])
    overlapping = np.any([each.overlapping() for each in measured], axis=0)
    for core in range(len(cores)):
        rows = [each.of_core(core) for each in measured]
        reaches = [_reach(each, row) for each, row in zip(measured[:2], rows, strict=False)]
        reach, deepest = min(each[0] for each in reaches), max(each[1] for each in reaches)
        reach = 0.0 if overlapping[core] else reach
        totals[:, core] = 0.0, reach
        cause = OVERLAP if overlapping[core] else SURFACE if reach == 0 else GAP if deepest > reach + _SAME else SHORT
        if reach == 0:
            reason[core] = cause
            continue
        values = [each.value[row] for each, row in zip(measured, rows, strict=True)]
        evaluate = _evaluation(cores, measured, rows, reach, wanted[core] if read is _at_depth else np.zeros(0), mass)
        whole = evaluate(*(value[None] for value in values))
        totals[0, core] = whole.mass[0, -1]
        limit = reach + _SAME if read is _at_depth else whole.mass[0, -1] * (1 + _SHARE)
        within = wanted[core] <= limit
        reason[core, ~within] = np.where(np.isnan(wanted[core, ~within]), UNKNOWN, cause)
        if not within.any():
            continue
        stock, soil, depth = read(whole, wanted[core, within])
        for name, value in (("stock", stock), ("layer", _increments(stock)), ("mass", soil), ("depth", depth)):
            found[name][core, within] = value[0]
        sds = [each.sd[row] for each, row in zip(measured, rows, strict=True)]
        if any(sd.any() for sd in sds):
            propagated = _propagate(
                lambda *tried, evaluate=evaluate, core=core, within=within: read(evaluate(*tried), wanted[core, within])[0],
                values, sds, errors, random,
            )  # fmt: skip
            found["sd"][core, within], found["layer_sd"][core, within] = propagated
    return Stocks(**found, total_mass=totals[0], total_depth=totals[1], reason=reason)


def _evaluation(
    cores: Cores, given: list[Layers], rows: list[slice], reach: float, cuts: np.ndarray, mass: Mass
) -> Callable[..., _Profile]:
    """Return the function of SOC (B, n), bulk density (B, m) and perhaps stones (B, q) of a core to its `_Profile`."""
    inner = [each.horizons.bottom[row] for each, row in zip(given, rows, strict=True)] + [cuts]
    limits = np.unique(np.concatenate([*inner, [0.0, reach]]))
    limits = limits[(limits >= 0) & (limits <= reach + _SAME)]
    limits = limits[np.concatenate(([True], np.diff(limits) > _SAME))]
    middle, thickness = (limits[1:] + limits[:-1]) / 2, np.diff(limits)
    at = [np.searchsorted(each.horizons.bottom[row], middle) for each, row in zip(given, rows, strict=True)]
    ends = np.concatenate(([0.0, reach], given[0].horizons.bottom[rows[0]]))
    knots = np.flatnonzero((np.abs(limits[:, None] - ends) < _SAME).any(axis=1))
    stony = None
    if cores.stones is not None:
        top = cores.stones.horizons.top[rows[2]]
        known = at[2] < top.size
        known[known] = top[at[2][known]] <= middle[known]
        stony = known, np.where(known, at[2], 0)

    def evaluate(soc: np.ndarray, bulk_density: np.ndarray, stones: np.ndarray | None = None) -> _Profile:
        carbon, density = soc[:, at[0]], bulk_density[:, at[1]]
        rock = np.zeros_like(density)
        if stony is not None and stones is not None and stones.size:
            rock = np.where(stony[0], stones[:, stony[1]], 0.0)
        soil = fine_soil_density(density, rock, cores.bulk_density_of, cores.stones_by_mass) * thickness * T_PER_HA
        stock = carbon / 1000 * soil
        if mass == "mineral":
            soil = np.maximum(soil - ORGANIC_MATTER * stock, _LIGHTEST * thickness)
        start = np.zeros((len(soc), 1))
        cumulated = (np.concatenate((start, np.cumsum(each, axis=1)), axis=1) for each in (soil, stock))
        return _Profile(limits, knots, *cumulated)

    return evaluate


def _propagate(
    stocks_of: Callable[..., np.ndarray],
    values: list[np.ndarray],
    sds: list[np.ndarray],
    errors: ErrorPropagation,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviations (K,) of a core's stocks from the surface, and of those of layers.

    `stocks_of` gives stocks (B, K) of B versions of the properties `values`, whose errors have deviations `sds`.
    """
    kind = np.repeat(np.arange(len(values)), [value.size for value in values])
    value, sd = np.concatenate(values), np.concatenate(sds)
    split = np.cumsum([each.size for each in values])[:-1]
    if not errors.draws:
        tried = np.flatnonzero(sd)
        steps = np.zeros((tried.size, value.size))
        steps[np.arange(tried.size), tried] = _STEP * sd[tried]
        stock = stocks_of(*np.split(value + np.concatenate((steps, -steps)), split, axis=1))
        halves = []
        for each in (stock, _increments(stock)):
            effect = (each[: tried.size] - each[tried.size :]) / (2 * _STEP)  # of one standard deviation
            common = np.stack([effect[kind[tried] == k].sum(axis=0) for k in range(len(values))])
            variance = (1 - errors.correlation) * (effect**2).sum(axis=0) + errors.correlation * (common**2).sum(axis=0)
            halves.append(np.sqrt(variance))
        return halves[0], halves[1]
    own = random.standard_normal((errors.draws, value.size))
    common = random.standard_normal((errors.draws, len(values)))[:, kind]
    drawn = value + sd * (np.sqrt(1 - errors.correlation) * own + np.sqrt(errors.correlation) * common)
    stock = stocks_of(*np.split(np.maximum(drawn, 0.0), split, axis=1))
    return stock.std(axis=0, ddof=1), _increments(stock).std(axis=0, ddof=1)


def _increments(cumulated: np.ndarray) -> np.ndarray:
    """Return the differences (B, K) between cumulated values (B, K), the first from 0."""
    return np.diff(cumulated, axis=1, prepend=0.0)


def _check_increasing(wanted: np.ndarray, what: str) -> None:
    """Raise ValueError unless depths or masses increase from above 0; NaN are none."""
    steps = np.diff(wanted, axis=-1, prepend=0.0)
    if not wanted.size or (steps <= 0).any() or np.isinf(wanted).any():
        raise ValueError(f"{what} {np.atleast_2d(wanted)[0].tolist()}: each must be above 0 and above the one before")
