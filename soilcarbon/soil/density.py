"""Turn soil organic carbon (SOC) from content into density, kg per m2 of land.

In: horizons as flat arrays: depths, SOC, bulk density and coarse fragments, in units that are named. Out: the SOC
density of depth intervals and its standard deviation, and what was missing, impossible or estimated on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from soilcarbon.settings import SOC_MAXIMUM
from soilcarbon.soil import depth as depths
from soilcarbon.soil.bulk_density import BULK_DENSITIES, ORGANIC, Pedotransfer, fill_bulk_density

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
