"""Zones by mean annual precipitation and temperature, and how a place near a boundary belongs to two; or zones of a ready map.

In: precipitation and temperature, as numbers or rasters. Out: a zone for each place, or a weight for each place and zone.

    from soilcarbon.zonal.climate_zones import ClimateZones, write_zones
    zones = ClimateZones(width_precipitation=50, width_temperature=1)
    weights = zones.memberships(precipitation, temperature)     # (n, 4), rows add up to 1

Give long-term means: with the climate of each period a place would change its model over time, and the map of a change would
show the boundary wandering.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soilcarbon.geo.grid import raster_grid
from soilcarbon.geo.raster import check_filled, check_size, find_layers, pick_layers, write_geotiff
from soilcarbon.geo.stack import Stack
from soilcarbon.io.files import UserError

ZONES = ("humid", "semi-humid", "semi-arid", "arid")
"""Wet and warm, wet and cool, dry and warm, dry and cool: four zones of 400 mm and 10 degrees C after Dong, Wang and Su, whose
table was not at hand: which of them calls which quarter semi-humid or semi-arid is unverified, so the names are a setting."""
MOST_ZONES = 100
"""More are no zones but a measurement; a weight is held for each of them and each cell."""


@dataclass(frozen=True)
class ClimateZones:
    """Four zones: at or above a precipitation or below it, and at or above a temperature or below it.

    Attributes
    ----------
    precipitation, temperature
        The thresholds, in the unit of what is asked about: mm and degrees C, or 100 for a file of tenths of a degree.
    width_precipitation, width_temperature
        Of the band, half on each side of its threshold, over which one zone passes into the other; 0: a hard boundary.
    names
        Of wet and warm, wet and cool, dry and warm, dry and cool.

    Raises
    ------
    ValueError
        If a number is not finite, a width is negative, or there are not four names.
    """

    precipitation: float = 400.0
    temperature: float = 10.0
    width_precipitation: float = 0.0
    width_temperature: float = 0.0
    names: tuple[str, ...] = ZONES

    def __post_init__(self) -> None:
        numbers = self.precipitation, self.temperature, self.width_precipitation, self.width_temperature
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"thresholds and widths {', '.join(f'{each:g}' for each in numbers)}: expected finite numbers")
        if min(self.width_precipitation, self.width_temperature) < 0:
            widths = f"{self.width_precipitation:g} and {self.width_temperature:g}"
            raise ValueError(f"widths {widths}: a band's width is 0 or more")
        if len(set(self.names)) != 4:
            raise ValueError(f"names {', '.join(self.names)}: four different ones are needed")

    def memberships(self, precipitation: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """Return how far each place belongs to each zone, (n, 4): 0 to 1, adding up to 1; NaN where its climate is missing.

        Within a band the weight passes as 3 t^2 - 2 t^3 of the way t through it, level at both ends, so that a map of the
        weighted predictions has neither a step nor a kink there. At a threshold both sides weigh a half; with a width
        of 0 all of it belongs to the wet, or warm, side.
        """
        wet = _above(precipitation, self.precipitation, self.width_precipitation)
        warm = _above(temperature, self.temperature, self.width_temperature)
        return np.stack([wet * warm, wet * (1 - warm), (1 - wet) * warm, (1 - wet) * (1 - warm)], axis=1)

    def labels(self, precipitation: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """Return the zone (n,) int64 of each place by the thresholds alone: 0 to 3, -1 where its climate is missing."""
        precipitation, temperature = np.asarray(precipitation), np.asarray(temperature)
        zone = 2 * (precipitation < self.precipitation) + (temperature < self.temperature)
        return np.where(np.isnan(precipitation) | np.isnan(temperature), -1, zone).astype(np.int64)

    def hard(self) -> "ClimateZones":
        """Return the same zones without bands."""
        return replace(self, width_precipitation=0.0, width_temperature=0.0)


@dataclass(frozen=True)
class GivenZones:
    """Zones of a ready map, such as one of climates or ecoregions; asked as `ClimateZones` are, with the code in both places.

    Attributes
    ----------
    codes
        The whole numbers that stand for zones.

    Raises
    ------
    ValueError
        If there is none, one comes twice, or one is no whole number.
    """

    codes: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.codes or len(set(self.codes)) != len(self.codes) or any(code % 1 != 0 for code in self.codes):
            raise ValueError(f"zones {', '.join(f'{code:g}' for code in self.codes[:5])}: different whole numbers are needed")

    @property
    def names(self) -> tuple[str, ...]:
        """What the zones are called."""
        return tuple(f"zone {code:g}" for code in self.codes)

    def memberships(self, code: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Return 1 for the zone of each place and 0 for others, (n, Z); NaN where the code is missing or none of these."""
        belongs = np.asarray(code)[:, None] == np.array(self.codes)
        return np.where(belongs.any(axis=1, keepdims=True), belongs, np.nan)

    def labels(self, code: np.ndarray, _: np.ndarray) -> np.ndarray:
        """Return the number (n,) int64 of each place's zone, from 0; -1 where there is none."""
        belongs = np.asarray(code)[:, None] == np.array(self.codes)
        return np.where(belongs.any(axis=1), belongs.argmax(axis=1), -1)

    def hard(self) -> "GivenZones":
        """Return itself: a ready map has no bands."""
        return self


Zones = ClimateZones | GivenZones


def _above(values: np.ndarray, threshold: float, width: float) -> np.ndarray:
    """Return 0 below the band, 1 above it, and a smooth way between."""
    values = np.asarray(values, np.float64)
    if width == 0:
        return np.where(np.isnan(values), np.nan, values >= threshold)
    way = np.clip((values - threshold) / width + 0.5, 0.0, 1.0)
    return np.asarray(way * way * (3 - 2 * way))


def write_zones(rasters: list[Path], precipitation: str, temperature: str, zones: ClimateZones, out: Path) -> None:
    """Write a GeoTIFF of the zones on the grid of the precipitation: band "zone" 1 to 4, and each zone's weight by its name.

    Parameters
    ----------
    rasters
        As of `rasters.find_layers`.
    precipitation, temperature
        The names of their variables.
    zones
        Thresholds and widths.
    out
        The file to write.

    Raises
    ------
    UserError
        If a variable is missing, a file cannot be read or is too large, or no cell has both.
    """
    if precipitation == temperature:
        raise UserError(f"precipitation and temperature are both {temperature!r}; name two variables")
    layers = pick_layers(find_layers(rasters), [precipitation, temperature])
    grid = raster_grid(layers[0].path)
    check_size(grid.height, grid.width, layers[0].path)
    with Stack(layers, grid) as stack:
        cells = stack.read(0, 0, grid.height, grid.width)
    wet, warm = cells.reshape(2, -1)
    code = zones.labels(wet, warm) + 1.0
    bands = np.column_stack([np.where(code > 0, code, np.nan), zones.memberships(wet, warm)]).T
    check_filled(bands, layers[0].path, f"does {layers[1].path} lie on the same ground?")
    write_geotiff(out, bands.reshape(5, grid.height, grid.width), ["zone", *zones.names], grid.transform, grid.crs)
