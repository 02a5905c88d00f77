"""SOC density of depth intervals, kg per m2 of land, from soil horizons; bulk density estimated where it was not measured.

Horizons are flat arrays (`depth.Horizons`) with SOC, bulk density and coarse fragments in units that are named (`Measured`). The
result is the SOC density of each profile and interval, its standard deviation, and counts of what was missing, impossible or
estimated. All bulk densities and SOC contents are of the fine earth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, nearest
from soilcarbon.io.values import numbers
from soilcarbon.quantities import QUANTITIES, check_plausible, possible, to_standard
from soilcarbon.soil.bulk_density import BULK_DENSITIES, ORGANIC, Pedotransfer, fill_bulk_density, stones_by_volume
from soilcarbon.soil.dataset import SOC_MAXIMUM
from soilcarbon.soil.depth import IMPOSSIBLE_MEANS, Harmonised, Horizons, Method, harmonise, interval_weights
from soilcarbon.soil.horizons import HorizonTable
from soilcarbon.soil.profiles import unit_hint

Multiply = Literal["horizons", "intervals", "layers"]
STANDARD_LAYERS = ((0.0, 5.0), (5.0, 15.0), (15.0, 30.0), (30.0, 60.0), (60.0, 100.0))
"""cm: GlobalSoilMap's down to a metre, from which Dong, Wang and Su weight theirs."""
_QUANTITIES = ("soc", "bulk_density", "stones")
DEFAULT_UNITS = {"soc": "g/kg", "bulk_density": "g/cm3", "stones": "percent"}  # units of tables that state none
BY_MASS = ("mass_percent", "mass_fraction")  # units of coarse fragments by mass; the others are by volume
_TOPSOIL = 20.0  # cm: SOC of horizons that begin above is looked at for its unit


# --- the equation ----------------------------------------------------------------------------------------------------


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

    Examples
    --------
    >>> round(soc_density(12.0, 1350.0, 30.0, 5.0), 3)
    4.617
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
    """Return the standard deviation of `soc_density`, kg/m2, of independent errors by first-order error propagation.

    The root of the sum of squares of each deviation (in the unit of its quantity) times the derivative. Good to a few per cent of
    itself while the deviations stay below a third of their values.

    >>> round(float(soc_density_sd(12.0, 1350.0, 30.0, 0.0, 1.2, 135.0, 0.0)), 3)  # 10 % each: sqrt(2) x 10 % of 4.86
    0.687
    """
    by_soc = soc_density(soc_sd, bulk_density, thickness, stones)
    by_bulk_density = soc_density(soc, bulk_density_sd, thickness, stones)
    by_stones = soc * bulk_density * thickness * 1e-5 * stones_sd / 100
    return np.sqrt(by_soc**2 + by_bulk_density**2 + by_stones**2)


# --- depth intervals -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A quantity of L horizons with its unit."""

    values: np.ndarray  # (L,), NaN where not measured
    unit: str  # one of those of a quantity, see `quantities.QUANTITIES`
    sd: float | np.ndarray = 0.0  # standard deviation of the values, in the same unit; one number or (L,)
    stated: bool = True  # the unit was stated; else values that are unusual in it are asked about

    def take(self, rows: np.ndarray) -> "Measured":
        """Return the quantity of some horizons, by number or (L,) bool."""
        return Measured(self.values[rows], self.unit, np.broadcast_to(self.sd, self.values.shape)[rows], self.stated)

    def possible(self, quantity: str) -> np.ndarray:
        """Return the values (L,) in a quantity's standard unit, with NaN for impossible ones; ValueError if theirs is none."""
        good = possible(self.values, quantity, self.unit)
        return np.where(good, to_standard(self.values, quantity, self.unit), np.nan)

    def usable(self, quantity: str, counts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return values and deviations (L,) in a quantity's standard unit, impossible values as NaN; add both kinds to `counts`.

        ValueError if the unit is of another quantity; UserError if most values are impossible in it, or look like another unit.
        """
        check_plausible(self.values, quantity, self.unit, setting=f"--units {quantity}=", stated=self.stated)
        what, found, missing = QUANTITIES[quantity].name, self.possible(quantity), np.isnan(self.values)
        counts |= {f"{what} missing": int(missing.sum()), f"{what} impossible": int((np.isnan(found) & ~missing).sum())}
        return found, to_standard(np.broadcast_to(self.sd, self.values.shape), quantity, self.unit)


@dataclass(frozen=True)
class Densities:
    """SOC density of N profiles in K depth intervals.

    `sd` combines the errors of SOC, bulk density and coarse fragments, independent of each other, each taken as the same throughout
    a profile: the largest it can be. Arrays are NaN for a profile left out of an interval.
    """

    intervals: Sequence[tuple[float, float]]  # K upper and lower limits, cm
    density: np.ndarray  # (N, K) kg/m2
    sd: np.ndarray  # (N, K) kg/m2
    covered: np.ndarray  # (N, K) cm that were observed
    reach: np.ndarray  # (N, K) cm that `density` is of: the interval, or its part between first top and last bottom
    estimated: np.ndarray  # (N, K) share of the observed centimetres whose bulk density was estimated
    organic: np.ndarray  # (N, K) share whose bulk density was estimated by `organic_bulk_density`
    stones_assumed: np.ndarray  # (N, K) share whose coarse fragments were taken as none
    pedotransfer: Pedotransfer | None  # estimated bulk density of mineral soils; None: `mineral_bulk_density`
    counts: dict[str, int]  # unusual horizons by kind
    interval_counts: list[dict[str, int]]  # K: profiles with a density, and without by reason


def interval_densities(
    horizons: Horizons,
    soc: Measured,
    bulk_density: Measured,
    stones: Measured,
    intervals: Sequence[tuple[float, float]],
    *,
    multiply: Multiply = "horizons",
    method: Method = "mean",
    smoothing: float = 0.1,
    min_covered: float = np.inf,
) -> Densities:
    """Bring L horizons of N profiles, from the surface (`depth.from_surface`), to the SOC density of K depth intervals, cm.

    Horizons without SOC are left out; missing bulk density is estimated; missing stones are taken as none. All are counted.
    ValueError for an unknown unit, or if an interval reaches below the standard layers that are to be weighted.

    `multiply`: "horizons": carbon per volume of each horizon, then depth, which keeps every horizon's carbon. "intervals": SOC,
    bulk density and stones are brought to intervals first, then multiplied, as one must with maps of them; too much where light
    soil rich in SOC lies above dense soil poor in it. "layers": the same through `STANDARD_LAYERS`, whose means are weighted by how
    much of an interval each fills (Dong, Wang and Su): 15-20 cm is taken to be as 15-30 cm.

    `min_covered`: a profile is left out of an interval of which fewer centimetres were observed, or less than all of a thinner one.
    0: the density is that down to the observed bottom, `reach` centimetres of it.

    >>> horizons = Horizons(np.array([0, 0]), np.array([0.0, 10.0]), np.array([10.0, 40.0]), 1)
    >>> soc, bulk_density = Measured(np.array([20.0, 10.0]), "g/kg"), Measured(np.array([1.0, 1.5]), "g/cm3")
    >>> interval_densities(horizons, soc, bulk_density, Measured(np.zeros(2), "percent"), [(0, 20)]).density
    array([[3.5]])
    """
    horizons, values, sds, estimated, assumed, pedotransfer, counts = _completed(horizons, soc, bulk_density, stones)
    carbon, earth, rock = values

    def average(
        value: np.ndarray, limits: tuple[float, float] = (0.0, np.inf), through: Sequence[tuple[float, float]] = intervals
    ) -> Harmonised:
        return harmonise(horizons, value, through, method, smoothing, limits)

    def share(value: np.ndarray) -> np.ndarray:
        unknown = harmonise(horizons, np.isnan(value).astype(float), intervals).mean > 0
        return np.where(unknown, np.nan, harmonise(horizons, value, intervals).mean)

    one_cm = np.ones(1)
    layers = average(soc_density(carbon, earth, one_cm, rock))
    if multiply == "horizons":
        density = layers.mean * layers.reach
        sd = share(soc_density_sd(carbon, earth, one_cm, rock, *sds)) * layers.reach
    else:
        through, weights = intervals, np.eye(len(intervals))
        if multiply == "layers":
            through = STANDARD_LAYERS
            weights = np.array([interval_weights(through, interval) for interval in intervals])
        limits = (0.0, SOC_MAXIMUM), BULK_DENSITIES, (0.0, 100.0)
        found = [average(*each, through) for each in zip(values, limits, strict=True)]
        means = [weighted_layers(each.mean, weights) for each in found]
        del layers.counts[IMPOSSIBLE_MEANS]  # of carbon per volume, which only gives the depths here
        for what, each in zip(("SOC", "bulk density", "coarse fragments"), found, strict=True):
            counts[f"{what}: {IMPOSSIBLE_MEANS}"] = each.counts[IMPOSSIBLE_MEANS]
        factors = means[0], means[1], layers.reach, means[2]
        density, sd = soc_density(*factors), soc_density_sd(*factors, *map(share, sds))
    enough, interval_counts = layers.sufficient(min_covered)
    shares = [density, sd, *map(share, (estimated, estimated & (carbon > ORGANIC), assumed))]
    density, sd, estimated, organic, assumed = (np.where(enough, each, np.nan) for each in shares)
    counts = {what: count for what, count in (counts | layers.counts).items() if count}
    return Densities(
        intervals, density, sd, layers.covered, layers.reach, estimated, organic, assumed, pedotransfer, counts, interval_counts
    )


def _completed(
    horizons: Horizons, soc: Measured, bulk_density: Measured, stones: Measured
) -> tuple[Horizons, list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray, Pedotransfer | None, dict[str, int]]:
    """Return the horizons with SOC, and their SOC (g/kg), bulk density (kg/m3) and stones (%) without gaps.

    Then the deviations of the three, which bulk densities are estimated, which stones are taken as none, the function that
    estimated, and counts.
    """
    counts = {"horizons": len(horizons)}
    carbon, carbon_sd = soc.usable("soc", counts)
    earth, earth_sd = bulk_density.usable("bulk_density", counts)
    rock, rock_sd = stones.usable("stones", counts)
    known = ~np.isnan(carbon)
    horizons = horizons.take(known)
    carbon, earth, rock, *sds = (each[known] for each in (carbon, earth, rock, carbon_sd, earth_sd, rock_sd))
    estimated, assumed = np.isnan(earth), np.isnan(rock)
    counts |= {"bulk density estimated": int(estimated.sum()), "coarse fragments taken as none": int(assumed.sum())}
    earth, sds[1], pedotransfer = fill_bulk_density(horizons.profile, carbon, earth, sds[1])
    rock = np.nan_to_num(rock)
    if stones.unit in BY_MASS:
        slope = (stones_by_volume(rock + 0.5, earth) - stones_by_volume((rock - 0.5).clip(0.0), earth)) / (
            0.5 + rock.clip(0.0, 0.5)
        )
        rock, sds[2] = stones_by_volume(rock, earth), sds[2] * slope
        counts["coarse fragments by mass turned into shares of volume"] = int((~assumed).sum())
    return horizons, [carbon, earth, rock], sds, estimated, assumed, pedotransfer, counts


def weighted_layers(of_layers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the means (N, K) of intervals from those of layers (N, M) and the layers' weights (K, M).

    A layer in which a profile has no value is left out of its mean, as is the depth below the observed bottom.

    >>> weighted_layers(np.array([[4.0, 2.0], [4.0, np.nan]]), np.array([[0.5, 0.5]]))
    array([[3.],
           [4.]])
    """
    known = ~np.isnan(of_layers)
    with np.errstate(invalid="ignore"):  # 0 / 0: no layer known
        return np.asarray(np.where(known, of_layers, 0.0) @ weights.T / (known @ weights.T))


# --- tables ----------------------------------------------------------------------------------------------------------


def density_column(interval: tuple[float, float]) -> str:
    """Return the name of the column of an interval's density: "socd_0_20"."""
    return f"socd_{interval[0]:g}_{interval[1]:g}"


def standard_deviations(given: str, name: str, values: np.ndarray, table: pd.DataFrame, path: Path) -> np.ndarray:
    """Return the standard deviations (L,) of values (L,), in their unit, from a setting: a column, a number, or a share "10%".

    `given` is that of the quantity `name`, which errors mention; `table`, read from `path`, has L rows. UserError if it is none
    of these, or a deviation is negative or infinite.

    >>> standard_deviations("10%", "soc", np.array([20.0, 5.0]), pd.DataFrame(), Path("h.csv"))
    array([2. , 0.5])
    """
    if given in table.columns:
        found = numbers(table[given], path, given)
        if bad := int((found < 0).sum()):
            raise UserError(f"--sd {name}={given}: {bad} of {len(found)} are negative; a standard deviation is 0 or more")
        return found
    try:
        number = float(given.removesuffix("%"))
    except ValueError:
        near = nearest(given, list(table.columns))
        raise UserError(f"--sd {name}={given} is no column, number or share such as 10%{near}") from None
    if not 0 <= number < float("inf"):
        raise UserError(f"--sd {name}={given}: a standard deviation is finite and 0 or more")
    return np.abs(values * number / 100 if given.endswith("%") else np.full(len(values), number))


def measurements(
    table: pd.DataFrame, path: Path, units: Mapping[str, str], deviations: Mapping[str, str], names: Sequence[str] = _QUANTITIES
) -> dict[str, Measured]:
    """Return quantities of the L rows of a table read from `path`, each in its stated unit or g/kg, g/cm3 and per cent.

    `units` and `deviations` are by name, the latter as of `standard_deviations`. UserError if values look like another unit, or a
    deviation is none.
    """
    found = {}
    for name in names:
        stated, values = units.get(name), table[name].to_numpy(float)
        unit = stated or DEFAULT_UNITS[name]
        sd = standard_deviations(deviations[name], name, values, table, path)
        check_plausible(values, name, unit, f"{path}: {name.replace('_', ' ')}", f"--units {name}=", stated is not None)
        found[name] = Measured(values, unit, sd, stated is not None)
    return found


def check_soc_unit(soc: Measured, top: np.ndarray, where: Path | str) -> None:
    """Raise UserError if no unit was stated and the SOC of horizons that begin (L,) in the topsoil looks like per cent."""
    values = soc.possible("soc")[top < _TOPSOIL]
    if not soc.stated and (hint := unit_hint(values[values == values])):
        raise UserError(f"{where}: {hint}: --units soc=% or soc=g/kg says which")


def tabulate(horizons: HorizonTable, found: Densities) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each profile with a density, and a row (profile_id, target, reason) for each density that is missing."""
    once = horizons.once
    lon, lat = once["lon"].to_numpy(), once["lat"].to_numpy()
    wrong = [
        (np.isnan(lon) | np.isnan(lat), "longitude or latitude missing or not a number"),
        ((np.abs(lon) > 180) | (np.abs(lat) > 90), "longitude or latitude out of range"),
        (horizons.moves, "its horizons lie at different places"),
    ]
    why = np.select([bad for bad, _ in wrong], [words for _, words in wrong], "")
    parts = [pd.DataFrame({"profile_id": once["profile_id"], "target": "all", "reason": why})[why != ""]]
    columns: dict[str, np.ndarray] = {}
    for k, interval in enumerate(found.intervals):
        name = density_column(interval)
        depth = name.removeprefix("socd_")
        columns |= {name: found.density[:, k].round(4), f"{name}_sd": found.sd[:, k].round(4), f"cm_{depth}": found.reach[:, k]}
        shares = {"bd_estimated": found.estimated, "bd_organic": found.organic, "stones_assumed": found.stones_assumed}
        columns |= {f"{what}_{depth}": share[:, k].round(3) for what, share in shares.items()}
        missing = np.isnan(found.density[:, k]) & (why == "")
        reason = np.where(found.covered[:, k] > 0, "too few centimetres of it observed", "no usable horizon in it")
        parts.append(pd.DataFrame({"profile_id": once["profile_id"], "target": name, "reason": reason})[missing])
    estimated, organic = (np.nan_to_num(share).max(axis=1) for share in (found.estimated, found.organic))
    by = np.select([estimated == 0, organic >= estimated], ["measured", "organic"], "own" if found.pedotransfer else "published")
    columns["bulk_density_by"] = by
    kept = once.drop(columns=[name for name in once if name in columns])
    first = ["profile_id", "lon", "lat", "year"]
    table = pd.concat([kept[first], pd.DataFrame(columns), kept.drop(columns=first)], axis=1)
    whole = np.isfinite(found.density).any(axis=1) & (why == "")
    return table[whole].reset_index(drop=True), pd.concat(parts, ignore_index=True)
