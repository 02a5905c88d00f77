"""Climate zones: classes of precipitation and temperature with bands between them, or the classes of a given map.

In: precipitation and temperature, or class codes. Out: the zone of each place, or a weight for each place and zone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from types import MappingProxyType

import numpy as np

from soilcarbon.geo.raster import EXACT
from soilcarbon.io.files import UserError
from soilcarbon.quantities import QUANTITIES, check_plausible, possible, spelt_unit
from soilcarbon.settings import ClimateSettings

log = getLogger(__name__)

ZONES = ("humid", "semi-humid", "semi-arid", "arid")
"""Wet and warm, wet and cool, dry and warm, dry and cool: four zones of 400 mm and 10 degrees C after Dong, Wang and Su (2024).
Which of them the paper calls semi-humid or semi-arid could not be verified, so the names are a setting."""
MAX_ZONES = 100
"""More codes than this are a measurement, not zones; a weight is held for each of them and each cell."""


@dataclass(frozen=True)
class ClimateZones:
    """Four climate zones by a threshold of precipitation and one of temperature.

    Use long-term means: with the climate of each period a place would change its model over time. ValueError if a number is not
    finite, a width is negative, or there are not four names.
    """

    # precipitation, temperature: thresholds, in the unit of the values that are classified: mm and degrees C, or 100 for tenths of
    # a degree
    precipitation: float = 400.0
    temperature: float = 10.0
    # width_precipitation, width_temperature: widths of the bands, centred on the thresholds, over which one zone passes into the
    # other; 0: a hard boundary
    width_precipitation: float = 0.0
    width_temperature: float = 0.0
    names: tuple[str, ...] = ZONES  # of wet and warm, wet and cool, dry and warm, dry and cool

    def __post_init__(self) -> None:
        numbers = self.precipitation, self.temperature, self.width_precipitation, self.width_temperature
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"thresholds and widths {', '.join(f'{each:g}' for each in numbers)}: expected finite numbers")
        if min(numbers[2:]) < 0:
            raise ValueError(f"widths {numbers[2]:g} and {numbers[3]:g}: the width of a band must be 0 or more")
        if len(self.names) != 4 or len(set(self.names)) != 4:
            raise ValueError(f"names {', '.join(self.names)}: expected four different names")

    def weights(self, precipitation: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """Return the weight of each zone at each place, (n, 4), adding up to 1; NaN where a value is missing.

        Within a band the weight is the smoothstep 3 t^2 - 2 t^3 of the position t in the band, whose slope is 0 at both ends:
        a map of weighted predictions has neither a step nor a kink. At a threshold both sides weigh 0.5; with a width of 0
        it belongs to the wet, or warm, side.
        """
        wet = _smoothstep(precipitation, self.precipitation, self.width_precipitation)
        warm = _smoothstep(temperature, self.temperature, self.width_temperature)
        return np.stack([wet * warm, wet * (1 - warm), (1 - wet) * warm, (1 - wet) * (1 - warm)], axis=1)

    def labels(self, precipitation: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """Return the zone of each place by the thresholds, (n,) int64 from 0 to 3; -1 where a value is missing."""
        precipitation, temperature = np.asarray(precipitation), np.asarray(temperature)
        zone = 2 * (precipitation < self.precipitation) + (temperature < self.temperature)
        return np.where(np.isnan(precipitation) | np.isnan(temperature), -1, zone).astype(np.int64)

    @property
    def thresholds(self) -> dict[str, float]:
        """Quantity -> threshold, in the unit of the values that are classified."""
        return {"precipitation": self.precipitation, "temperature": self.temperature}

    def hard(self) -> "ClimateZones":
        """Return the same zones without bands."""
        return replace(self, width_precipitation=0.0, width_temperature=0.0)


@dataclass(frozen=True)
class GivenZones:
    """Zones of a given map of classes, such as climate types or ecoregions, by whole numbers; same methods as `ClimateZones`."""

    codes: tuple[float, ...]  # whole numbers, one for each zone

    def __post_init__(self) -> None:
        if not self.codes or len(set(self.codes)) != len(self.codes) or any(code % 1 != 0 for code in self.codes):
            raise ValueError(f"zones {', '.join(f'{code:.15g}' for code in self.codes[:5])}: expected different whole numbers")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the zones."""
        return tuple(f"zone {int(code)}" for code in self.codes)

    def weights(self, code: np.ndarray) -> np.ndarray:
        """Return 1 for the zone of each place and 0 for the others, (n, Z); NaN where the code is missing or unknown."""
        label = self.labels(code)
        return np.where(label[:, None] < 0, np.nan, np.eye(len(self.codes))[label])

    def labels(self, code: np.ndarray) -> np.ndarray:
        """Return the number of the zone of each place, (n,) int64 from 0; -1 where the code is missing or unknown."""
        belongs = np.asarray(code)[:, None] == np.array(self.codes)
        return np.where(belongs.any(axis=1), belongs.argmax(axis=1), -1)

    def hard(self) -> "GivenZones":
        """Return itself: a map of classes has no bands."""
        return self


@dataclass(frozen=True)
class OneZone:
    """One zone that is everywhere, of no climate; same methods as `ClimateZones`, for any variable."""

    names = ("everywhere",)

    def weights(self, places: np.ndarray) -> np.ndarray:
        """Return 1 for each place, (n, 1)."""
        return np.ones((len(places), 1))

    def labels(self, places: np.ndarray) -> np.ndarray:
        """Return 0 for each place, (n,) int64."""
        return np.zeros(len(places), np.int64)

    def hard(self) -> "OneZone":
        """Return itself."""
        return self


Zones = ClimateZones | GivenZones | OneZone


def given_zones(name: str, codes: np.ndarray) -> GivenZones:
    """Return the zones of the codes (n,) of a column or variable; UserError if too many, or too large to be told apart in a map."""
    try:
        zones = GivenZones(tuple(np.unique(codes).tolist()))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if len(zones.codes) > MAX_ZONES:
        raise UserError(f"{name}: {len(zones.codes)} zones, more than {MAX_ZONES}; is it a measurement?")
    if abs(largest := max(zones.codes, key=abs)) > EXACT:
        raise UserError(
            f"{name}: zone codes beyond {EXACT:,}, such as {int(largest)}, cannot be told apart in maps; number them 1, 2, 3 ..."
        )
    return zones


@dataclass(frozen=True)
class ClimateVariable:
    """What is said of the precipitation or the temperature that defines zones."""

    quantity: str  # "precipitation" or "temperature"
    name: str  # of the variable or column
    # threshold, width: in mm a year or degrees C; in the variable's own unit where `own_threshold` and no unit is given
    threshold: float
    width: float
    own_threshold: bool = False  # whether the user gave the threshold
    unit: str | None = None  # given by a setting; None: not
    stated: str = ""  # the unit as the file states it; "" where it does not

    def limits(self, values: np.ndarray, where: str) -> tuple[float, float]:
        """Return threshold and width of the band in the unit of the values (missing = NaN), which are checked for plausibility."""
        if self.unit is None and self.own_threshold:
            return self.threshold, self.width
        unit = self.unit or spelt_unit(self.quantity, self.stated)
        source, setting = f"{where}: {self.name}", f"--units {self.quantity}="
        check_plausible(values, self.quantity, unit, source, setting, stated=self.unit is not None)
        unit = unit or QUANTITIES[self.quantity].unit
        known = np.asarray(values, np.float64)[np.isfinite(values)]
        check_plausible(known[~possible(known, self.quantity, unit)], self.quantity, unit, source, setting, stated=True)
        if self.unit is None and unit != QUANTITIES[self.quantity].unit:
            log.info("%s is in %s, as its file says", self.name, unit)
        factor, offset = QUANTITIES[self.quantity].units[unit]
        return (self.threshold - offset) / factor, self.width / factor


def climate_variables(
    settings: ClimateSettings, stated: Mapping[str, str] = MappingProxyType({})
) -> tuple[ClimateVariable, ClimateVariable]:
    """Return precipitation and temperature as settings describe them; `stated` is variable -> unit as its file says."""
    found = []
    for quantity, threshold, width in zip(("precipitation", "temperature"), ("wet", "warm"), settings.band_widths, strict=True):
        name, unit = getattr(settings, quantity), settings.stated_units.get(quantity)
        limits = getattr(settings, threshold), width, settings.given(threshold)
        found.append(ClimateVariable(quantity, name, *limits, unit, stated.get(name, "")))
    return found[0], found[1]


def zones_of(
    variables: Sequence[ClimateVariable], values: Sequence[np.ndarray], where: str, names: tuple[str, ...] = ZONES
) -> ClimateZones:
    """Return climate zones whose thresholds are in the units of precipitation and temperature (any shape), which are checked."""
    (wet, width), (warm, other) = (each.limits(cells, where) for each, cells in zip(variables, values, strict=True))
    return ClimateZones(wet, warm, width, other, names)


def log_zones(names: Sequence[str], labels: np.ndarray, what: str, limits: Mapping[str, float]) -> None:
    """Log how many places (n,) lie in each zone, and warn of zones that are empty."""
    counts = {name: int((labels == k).sum()) for k, name in enumerate(names)}
    log.info("%s by zone: %s", what, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if empty := [name for name, count in counts.items() if not count]:
        rule = ", ".join(f"{name} {value:g}" for name, value in limits.items())
        log.warning("no %s in zone %s; are the thresholds (%s) in the unit of the variables?", what, " and ".join(empty), rule)


def _smoothstep(values: np.ndarray, threshold: float, width: float) -> np.ndarray:
    """Return 0 below the band, 1 above it, and 3 t^2 - 2 t^3 within."""
    values = np.asarray(values, np.float64)
    if width == 0:
        return np.where(np.isnan(values), np.nan, values >= threshold)
    t = np.clip((values - threshold) / width + 0.5, 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))
