"""Turn soil organic carbon (SOC) from content into density, kg per m2 of land.

In: horizons as flat arrays: depths, SOC, bulk density and coarse fragments, in units that are named. Out: the SOC
density of depth intervals and its standard deviation, and what was missing, impossible or estimated on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from soilcarbon.constants import SOC_MAXIMUM
from soilcarbon.soil import depth as depths

ORGANIC = 80.0
"""g/kg: above it a soil is organic, and bulk density falls with SOC as in `organic_bulk_density`."""
MINERAL_SD, ORGANIC_SD = 260.0, 80.0
"""kg/m3: root mean square errors of the two published functions, on 1,288 mineral and 12 organic horizons of North Macedonia."""
BULK_DENSITIES = (100.0, 2650.0)
"""kg/m3: the least of peat, and quartz without a pore; measured values outside are impossible."""
FEWEST_PROFILES = 20
"""Profiles with measured bulk density, at least, to fit a pedotransfer function to."""
_FOLDS = 10


def organic_bulk_density(soc: np.ndarray) -> np.ndarray:
    """Return the bulk density, kg/m3, of organic soils by SOC, g/kg: 1380 - 310 ln(1 + SOC / 10)."""
    return 1380 - 310 * np.log1p(soc / 10)


def mineral_bulk_density(soc: np.ndarray) -> np.ndarray:
    """Return the bulk density, kg/m3, of mineral soils by SOC, g/kg: 1660 - 318 sqrt(SOC in per cent).

    Of 19,651 horizons, R2 0.41 (Manrique and Jones 1991, Soil Sci. Soc. Am. J. 55, 476-481).
    """
    return 1660 - 318 * np.sqrt(soc / 10)


@dataclass(frozen=True)
class Pedotransfer:
    """Bulk density of mineral soils as a straight line in ln(1 + SOC / 10), fitted to measured horizons.

    Attributes
    ----------
    intercept, slope
        kg/m3.
    horizons, profiles
        What it was fitted to.
    rmse, bias, r2
        Of predictions for profiles left out of the fit, kg/m3 (bias: predicted less measured).
    """

    intercept: float
    slope: float
    horizons: int
    profiles: int
    rmse: float
    bias: float
    r2: float

    def __call__(self, soc: np.ndarray) -> np.ndarray:
        """Return bulk density, kg/m3, by SOC, g/kg."""
        return self.intercept + self.slope * np.log1p(soc / 10)


def fit_pedotransfer(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> Pedotransfer:
    """Fit bulk density to SOC on mineral horizons that have both, and cross-validate by whole profiles in ten folds.

    Parameters
    ----------
    profile
        (L,) int64.
    soc
        (L,) g/kg; horizons above `ORGANIC` or without a value are left out.
    bulk_density
        (L,) kg/m3; NaN where not measured.

    Raises
    ------
    ValueError
        If fewer than `FEWEST_PROFILES` profiles have both.
    """
    both = (soc <= ORGANIC) & np.isfinite(bulk_density)
    found = np.unique(profile[both]).size
    if found < FEWEST_PROFILES:
        raise ValueError(f"{found} profiles have SOC and bulk density; a pedotransfer function needs {FEWEST_PROFILES}")
    x, y = np.log1p(soc[both, None] / 10), bulk_density[both]
    line = LinearRegression().fit(x, y)
    error = cross_val_predict(LinearRegression(), x, y, groups=profile[both], cv=GroupKFold(_FOLDS)) - y
    spread = float(np.mean((y - y.mean()) ** 2))
    return Pedotransfer(
        intercept=float(line.intercept_),
        slope=float(line.coef_[0]),
        horizons=y.size,
        profiles=found,
        rmse=float(np.sqrt(np.mean(error**2))),
        bias=float(error.mean()),
        r2=1 - float(np.mean(error**2)) / spread if spread else float("nan"),
    )


def judge_functions(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> dict[str, dict[str, float]]:
    """Hold what bulk density may be estimated by against what was measured.

    Parameters
    ----------
    profile, soc, bulk_density
        As `fit_pedotransfer` takes them.

    Returns
    -------
    dict
        Function and soils -> horizons, measured (their mean), rmse, bias (estimated less measured) in kg/m3, and r2. The one
        fitted to these horizons is scored on profiles left out, and is missing below `FEWEST_PROFILES`. Soils without a
        measured horizon are missing.
    """
    measured = np.isfinite(soc) & np.isfinite(bulk_density)
    mineral = measured & (soc <= ORGANIC)
    asked = [
        ("Manrique and Jones 1991, mineral", mineral_bulk_density, mineral),
        ("1380 - 310 ln(1 + SOC/10), mineral", organic_bulk_density, mineral),
        ("Manrique and Jones 1991, organic", mineral_bulk_density, measured & ~mineral),
        ("1380 - 310 ln(1 + SOC/10), organic", organic_bulk_density, measured & ~mineral),
    ]
    found = {
        name: _scored(function(soc[rows]) - bulk_density[rows], bulk_density[rows]) for name, function, rows in asked if rows.any()
    }
    if np.unique(profile[mineral]).size >= FEWEST_PROFILES:
        own = fit_pedotransfer(profile, soc, bulk_density)
        numbers = {"horizons": own.horizons, "measured": float(bulk_density[mineral].mean())}
        numbers |= {"rmse": own.rmse, "bias": own.bias, "r2": own.r2}
        found["fitted to these horizons, mineral"] = {name: round(value, 3) for name, value in numbers.items()}
    return found


def _scored(error: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return how far estimates are off what was measured."""
    mean_square, spread = float(np.mean(error**2)), float(measured.var())
    r2 = 1 - mean_square / spread if spread else float("nan")
    numbers = {"horizons": error.size, "measured": float(measured.mean()), "rmse": mean_square**0.5, "bias": float(error.mean())}
    return {name: round(value, 3) for name, value in (numbers | {"r2": r2}).items()}


def estimate_bulk_density(soc: np.ndarray, mineral: Callable[[np.ndarray], np.ndarray] = mineral_bulk_density) -> np.ndarray:
    """Return bulk density, kg/m3, by SOC, g/kg: `organic_bulk_density` above `ORGANIC`, `mineral` up to it.

    The two do not meet at `ORGANIC`: organic layers are lighter than a line through mineral horizons would have them.
    What either gives beyond `BULK_DENSITIES` is brought to the limit.
    """
    return np.where(soc > ORGANIC, organic_bulk_density(soc), mineral(soc)).clip(*BULK_DENSITIES)


def fill_bulk_density(
    profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pedotransfer | None]:
    """Estimate bulk density where it is missing, by the user's own horizons if enough of them are measured.

    Parameters
    ----------
    profile, soc, bulk_density
        As `fit_pedotransfer` takes them.
    sd
        (L,) kg/m3, of what was measured.

    Returns
    -------
    bulk_density, sd : ndarray
        (L,) kg/m3; NaN where SOC is unknown too. The deviation of an estimate is its function's error.
    pedotransfer : Pedotransfer or None
        What mineral soils were estimated by; None: `mineral_bulk_density`, for fewer than `FEWEST_PROFILES` are measured.
    """
    missing = np.isnan(bulk_density)
    measured = profile[~missing & (soc <= ORGANIC)]
    own = fit_pedotransfer(profile, soc, bulk_density) if np.unique(measured).size >= FEWEST_PROFILES else None
    estimate = estimate_bulk_density(soc, own or mineral_bulk_density)
    error = np.where(soc > ORGANIC, ORGANIC_SD, own.rmse if own else MINERAL_SD)
    return np.where(missing, estimate, bulk_density), np.where(missing, error, sd), own


Multiply = Literal["horizons", "intervals", "layers"]
STANDARD_LAYERS = ((0.0, 5.0), (5.0, 15.0), (15.0, 30.0), (30.0, 60.0), (60.0, 100.0))
"""cm: GlobalSoilMap's down to a metre, from which Dong, Wang and Su weight theirs."""
UNITS = {
    "g/kg": ("SOC", 1.0),
    "%": ("SOC", 10.0),
    "kg/m3": ("bulk density", 1.0),
    "g/cm3": ("bulk density", 1000.0),
    "% of volume": ("coarse fragments", 1.0),
}
"""Unit -> what it measures, and how many g/kg, kg/m3 or per cent of volume it is."""


def convert(values: np.ndarray, unit: str, to: str) -> np.ndarray:
    """Return values of one of `UNITS` in another.

    Raises
    ------
    ValueError
        If a unit is unknown, or the two measure different things.
    """
    for name in (unit, to):
        if name not in UNITS:
            raise ValueError(f"unit {name!r} is none of {', '.join(UNITS)}")
    if UNITS[unit][0] != UNITS[to][0]:
        raise ValueError(f"{unit} is a unit of {UNITS[unit][0]}, {to} of {UNITS[to][0]}: one cannot become the other")
    with np.errstate(over="ignore"):  # what is endless is impossible, and counted as such
        return np.asarray(values, float) * (UNITS[unit][1] / UNITS[to][1])


# --- the equation -------------------------------------------------------------------------------------------------


def soc_density(soc: np.ndarray, bulk_density: np.ndarray, thickness: np.ndarray, stones: np.ndarray) -> np.ndarray:
    """Return SOC density, kg/m2: SOC x bulk density x thickness x (1 - stones / 100).

    g/kg, kg/m3 and cm make 1e-3 kg/kg x 1 kg/m3 x 1e-2 m = 1e-5 kg/m2; with SOC in per cent the factor is 1e-4. (Equation
    8 of Dong, Wang and Su, SOC density of China at 1 km, is off by a power of ten with the units printed beside it.)

    Parameters
    ----------
    soc
        g/kg of fine earth.
    bulk_density
        kg/m3 of fine earth.
    thickness
        cm.
    stones
        Coarse fragments, per cent of the soil's volume.
    """
    return soc * bulk_density * thickness * (1 - stones / 100) * 1e-5


def soc_density_sd(
    soc: np.ndarray,
    bulk_density: np.ndarray,
    thickness: np.ndarray,
    stones: np.ndarray,
    soc_sd: np.ndarray,
    bulk_density_sd: np.ndarray,
    stones_sd: np.ndarray,
) -> np.ndarray:
    """Return the standard deviation of `soc_density`, kg/m2, of errors that are independent of each other.

    First-order Taylor: the root of the sum of squares of each deviation (in the unit of what it belongs to) times
    the derivative. Good to a few per cent of itself while the deviations stay below a third of their values.
    """
    by_soc = soc_density(soc_sd, bulk_density, thickness, stones)
    by_bulk_density = soc_density(soc, bulk_density_sd, thickness, stones)
    by_stones = soc_density(soc, bulk_density, thickness, np.zeros(1)) * stones_sd / 100
    return np.sqrt(by_soc**2 + by_bulk_density**2 + by_stones**2)


# --- intervals ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Densities:
    """SOC density of N profiles in K depth intervals.

    Attributes
    ----------
    density, sd
        (N, K) kg/m2; NaN for a profile left out of an interval. `sd` is what the errors of SOC, bulk density and coarse
        fragments, independent of each other, make together if each is the same throughout a profile: the most it can be.
    covered
        (N, K) cm that were observed.
    reach
        (N, K) cm that `density` is of: all of the interval, or what of it lies between the first top and the last bottom.
    estimated, organic, stones_assumed
        (N, K) share of the observed centimetres whose bulk density was estimated; those of it that are organic, by
        `organic_bulk_density`; whose stones were taken as none.
    pedotransfer
        What bulk density of mineral soils was estimated by; None: `mineral_bulk_density`.
    counts
        What was odd about the horizons.
    interval_counts
        K: how many profiles have a density there, and how many have none and why.
    """

    density: np.ndarray
    sd: np.ndarray
    covered: np.ndarray
    reach: np.ndarray
    estimated: np.ndarray
    organic: np.ndarray
    stones_assumed: np.ndarray
    pedotransfer: Pedotransfer | None
    counts: dict[str, int]
    interval_counts: list[dict[str, int]]


def interval_densities(
    profile: np.ndarray,
    top: np.ndarray,
    bottom: np.ndarray,
    soc: np.ndarray,
    bulk_density: np.ndarray,
    stones: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    profiles: int,
    *,
    soc_unit: str,
    bulk_density_unit: str,
    soc_sd: float | np.ndarray = 0.0,
    bulk_density_sd: float | np.ndarray = 0.0,
    stones_sd: float | np.ndarray = 0.0,
    multiply: Multiply = "horizons",
    method: depths.Method = "mean",
    smoothing: float = 0.1,
    min_covered: float = np.inf,
) -> Densities:
    """Bring horizons to the SOC density of depth intervals.

    Parameters
    ----------
    profile, top, bottom
        (L,) as `depths.harmonise` takes them, from the surface (`depths.from_surface`).
    soc, bulk_density, stones
        (L,) in `soc_unit` and `bulk_density_unit`, of fine earth; coarse fragments in per cent of volume. Horizons
        without SOC are left out; missing bulk density is estimated; missing stones are taken as none. All are counted.
    intervals, profiles
        K pairs of upper and lower limit, cm, from 0 down; N.
    soc_unit, bulk_density_unit
        "g/kg" or "%"; "g/cm3" or "kg/m3".
    soc_sd, bulk_density_sd, stones_sd
        Standard deviations of what was measured, in the same units.
    multiply
        "horizons": carbon per volume of each horizon, then depth, which keeps every horizon's carbon. "intervals": SOC, bulk
        density and stones are brought to intervals first, then multiplied, as one must with maps of them; too much where
        light soil rich in SOC lies above dense soil poor in it. "layers": the same by way of `STANDARD_LAYERS`, whose means
        are weighted by how much of an interval each fills (Dong, Wang and Su): 15-20 cm is taken to be as 15-30 cm.
    method, smoothing
        How horizons are brought to intervals (`depths.harmonise`).
    min_covered
        Leave a profile out of an interval of which fewer centimetres were observed, or less than all of a thinner one.
        0: the density is that down to the observed bottom, `reach` centimetres of it.

    Raises
    ------
    ValueError
        For an unknown unit, if most values of a kind are impossible in the unit named, or if an interval reaches below the
        standard layers that are to be weighted.
    """
    sds = [np.broadcast_to(np.asarray(sd, float), len(profile)) for sd in (soc_sd, bulk_density_sd, stones_sd)]
    soc, sds[0] = (convert(values, soc_unit, "g/kg") for values in (soc, sds[0]))
    bulk_density, sds[1] = (convert(values, bulk_density_unit, "kg/m3") for values in (bulk_density, sds[1]))
    counts = {"horizons": len(profile)}
    soc = _possible(soc, soc_unit, (0.0, SOC_MAXIMUM), "SOC", counts)
    bulk_density = _possible(bulk_density, bulk_density_unit, BULK_DENSITIES, "bulk density", counts)
    stones = _possible(stones, "% of volume", (0.0, 100.0), "coarse fragments", counts)
    known = ~np.isnan(soc)
    profile, top, bottom, soc, bulk_density, stones = (each[known] for each in (profile, top, bottom, soc, bulk_density, stones))
    estimated, assumed = np.isnan(bulk_density), np.isnan(stones)
    counts |= {"bulk density estimated": int(estimated.sum()), "coarse fragments taken as none": int(assumed.sum())}
    sds = [sd[known] for sd in sds]
    bulk_density, sds[1], pedotransfer = fill_bulk_density(profile, soc, bulk_density, sds[1])
    stones = np.nan_to_num(stones)

    def average(
        value: np.ndarray,
        method: depths.Method,
        limits: tuple[float, float] = (0.0, np.inf),
        through: Sequence[tuple[float, float]] = intervals,
    ) -> depths.Harmonised:
        return depths.harmonise(profile, top, bottom, value, through, profiles, method, smoothing, limits)

    def share(value: np.ndarray) -> np.ndarray:
        return average(value, "mean").mean

    a_centimetre = np.ones(1)
    layers = average(soc_density(soc, bulk_density, a_centimetre, stones), method)
    if multiply == "horizons":
        density = layers.mean * layers.reach
        sd = share(soc_density_sd(soc, bulk_density, a_centimetre, stones, *sds)) * layers.reach
    else:
        through, weights = intervals, np.eye(len(intervals))
        if multiply == "layers":
            through = STANDARD_LAYERS
            weights = np.array([depths.interval_weights(through, interval) for interval in intervals])
        factors = [(soc, (0.0, SOC_MAXIMUM)), (bulk_density, BULK_DENSITIES), (stones, (0.0, 100.0))]
        of_soc, of_earth, of_stones = (weighted(average(value, method, limits, through).mean, weights) for value, limits in factors)
        density = soc_density(of_soc, of_earth, layers.reach, of_stones)
        sd = soc_density_sd(of_soc, of_earth, layers.reach, of_stones, *(share(sd) for sd in sds))
    enough, interval_counts = layers.sufficient(min_covered)
    organic = share(estimated & (soc > ORGANIC))
    found = (np.where(enough, each, np.nan) for each in (density, sd, share(estimated), organic, share(assumed)))
    density, sd, estimated, organic, assumed = found
    counts = {what: count for what, count in (counts | layers.counts).items() if count}
    return Densities(density, sd, layers.covered, layers.reach, estimated, organic, assumed, pedotransfer, counts, interval_counts)


def weighted(of_layers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the means (N, K) of intervals from those of layers (N, M) and the layers' weights (K, M).

    A layer that a profile has nothing of is left out of its mean, as what lies below the observed bottom is.
    """
    known = ~np.isnan(of_layers)
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing known of the interval
        return np.asarray(np.where(known, of_layers, 0.0) @ weights.T / (known @ weights.T))


def _possible(values: np.ndarray, unit: str, limits: tuple[float, float], what: str, counts: dict[str, int]) -> np.ndarray:
    """Return values (L,), in g/kg, kg/m3 or per cent of volume, with NaN for what is impossible; count both kinds.

    Raises
    ------
    ValueError
        If most values are impossible in the unit that was named, and possible in another.
    """
    given = ~np.isnan(values)
    impossible = given & ~((values >= limits[0]) & (values <= limits[1]))
    for other in (name for name, (kind, _) in UNITS.items() if kind == UNITS[unit][0]):
        with np.errstate(over="ignore"):  # endless is impossible too
            meant = values * (UNITS[other][1] / UNITS[unit][1])
        if 2 * (impossible & (meant >= limits[0]) & (meant <= limits[1])).sum() > given.sum():
            raise ValueError(
                f"{impossible.sum()} of {given.sum()} values of {what} are impossible in {unit}, and look like {other}; "
                f"see {what.lower().replace(' ', '_')}_unit"
            )
    counts |= {f"{what} missing": int((~given).sum()), f"{what} impossible": int(impossible.sum())}
    return np.where(impossible, np.nan, values)
