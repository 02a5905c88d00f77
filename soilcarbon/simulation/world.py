"""The example world: covariates as functions of place, and soil carbon computed from them by a known equation.

In: points. Out: the 32 published variables and the true SOC there. Everything is a function of longitude and latitude, not of a
raster, so that a global raster and a finer regional one agree wherever their cells meet. Four regions depart from the equation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from soilcarbon.simulation.geography import KM_PER_DEGREE, Geography, bumps
from soilcarbon.stats import variogram

# --- soil ---


@dataclass(frozen=True)
class Pedogenesis:
    """Sensitivity of SOC to each soil-forming factor; see `soil_carbon`. Wetness must not exceed 1."""

    factor: float = 1.0
    litter: float = 1.0
    q10: float = 2.2
    wetness: float = 1.0
    relief: float = 1.0
    rock: float = 1.0


@dataclass(frozen=True)
class Region:
    """A study region and how its soils depart from the world's."""

    bounds: tuple[float, float, float, float]  # lon_min, lat_min, lon_max, lat_max, degrees
    coarser: int  # its cell, as a multiple of the setting region_cell: a continent at a province's cell would be a large file
    block_size: float  # of its split, degrees
    departure: Pedogenesis  # how its SOC comes about
    why: str  # the story behind it


REGIONS = {
    "anhui": Region(
        bounds=(114.5, 29.3, 119.8, 34.8),
        coarser=1,
        block_size=0.5,
        departure=Pedogenesis(factor=0.6, litter=1.4),
        why="farmed for millennia; what is not harvested decides",
    ),
    "switzerland": Region(
        bounds=(5.8, 45.7, 10.6, 47.9),
        coarser=1,
        block_size=0.4,
        departure=Pedogenesis(factor=1.6, relief=1.6),
        why="manured meadows, thin soils on steep slopes",
    ),
    "denmark": Region(
        bounds=(7.9, 54.5, 12.8, 57.9),
        coarser=1,
        block_size=0.4,
        departure=Pedogenesis(factor=0.6, wetness=0.6),
        why="bogs drained, sandy plains cultivated",
    ),
    "australia": Region(
        bounds=(113.0, -44.0, 154.0, -10.0),
        coarser=5,
        block_size=2.5,
        departure=Pedogenesis(factor=0.5, q10=1.6),
        why="old, weathered soils that burn often",
    ),
}
FADE = 1.5  # degrees outside a region's bounds over which its departure fades

# GLiM classes 1..16 (Hartmann and Moosdorf 2012): code, how common (standard deviations of a random field; + where
# mountains stand), effect on ln SOC. wb, nd and ig are what the map says where it shows no rock.
LITHOLOGY = {
    "su": (1, 1.0, -1.6, 0.00),  # unconsolidated sediments
    "vb": (2, -0.5, 0.6, 0.30),  # basic volcanics: iron oxides protect carbon
    "ss": (3, 0.3, 0.2, -0.25),  # siliciclastic sediments: sandy
    "pb": (4, -1.1, 0.5, 0.20),  # basic plutonics
    "sm": (5, 0.4, 0.2, 0.00),  # mixed sediments
    "sc": (6, 0.2, 0.4, 0.25),  # carbonates: calcium bridges
    "va": (7, -1.0, 0.8, -0.05),  # acid volcanics
    "mt": (8, 0.2, 0.5, -0.10),  # metamorphics
    "pa": (9, 0.0, 0.6, -0.30),  # acid plutonics: sandy
    "vi": (10, -1.0, 0.9, 0.25),  # intermediate volcanics
    "py": (12, -1.3, 0.9, 0.50),  # pyroclastics: allophane
    "pi": (13, -1.2, 0.5, 0.00),  # intermediate plutonics
    "ev": (14, -1.4, -0.5, -0.35),  # evaporites
    "nd": (15, -2.2, 0.0, 0.00),  # no data
}
WATER, ICE = 11, 16
ICE_BELOW = -2.0  # mean temperature of the warmest quarter, degrees C, below which ice covers the land
ROCK_EFFECT = np.zeros(17)
ROCK_EFFECT[[code for code, *_ in LITHOLOGY.values()]] = [effect for *_, effect in LITHOLOGY.values()]


def evaporation(temperature: np.ndarray) -> np.ndarray:
    """Return potential evaporation in mm a year from the mean annual temperature in degrees C.

    >>> evaporation(np.array([10.0])).tolist()
    [740.0]
    """
    return np.asarray(np.maximum(100, 350 + 35 * temperature + 0.4 * temperature**2))


def soil_carbon(covariates: Mapping[str, np.ndarray], clay: np.ndarray, hollow: np.ndarray, how: Pedogenesis) -> np.ndarray:
    """Return the true SOC of 0-30 cm in g/kg, (M,): litter in, decay out, at steady state.

        SOC     = S C / (S + C),  S = 550 g/kg: soil cannot hold more
        C       = factor h I / (k d) exp(rock R - 0.025 relief slope) (1 + 0.2 clay) / (1 - 0.98 wetness A)
        I       = 450 (EVI_mean / 0.3)^litter (0.4 + 1.2 EVI_min / EVI_mean)      g carbon per m2 and year
        k       = 0.024 q10^((T - 10) / 10) M / (M + 0.25)                          per year; T not below -4
        A       = 1 / (1 + exp(-L)),  L = -2.9 + 2.2 ln M - 0.16 (T - 8) - 0.35 slope + 1.5 hollow

    Litter I follows vegetation; perennial cover, green in its leanest month, puts more below ground. Decay k
    doubles about every 10 degrees and stops where it is dry: M = P / PET is the moisture index. R is the effect
    of parent material (`LITHOLOGY`), the slope in degrees stands for erosion. Where it is cold, wet and flat, lack
    of air A all but stops decay, and peat forms. Constants: h = 0.25 of the litter is humified, d = 390 kg fine
    earth per m2 and 30 cm. Each term is of the usual form (Jenny 1941; Lloyd and Taylor 1994); together they are
    this project's own and calibrated to nothing.

    >>> place = {"evi_mean": 0.3, "evi_min": 0.1, "bio01": 10.0, "bio12": 800.0, "slope": 3.0, "bedrock": 1}
    >>> place = {name: np.array([value]) for name, value in place.items()}
    >>> soil_carbon(place, clay=np.zeros(1), hollow=np.zeros(1), how=Pedogenesis()).round(1).tolist()
    [10.9]

    Covariates (M,) are without missing values. `clay` and `hollow` are standard normal: texture, and how far the place lies below
    its surroundings. No covariate shows them wholly, so no model can know SOC exactly.
    """
    temperature, slope = covariates["bio01"], covariates["slope"]
    evi, lean = np.maximum(covariates["evi_mean"], 0.02), np.maximum(covariates["evi_min"], 0)
    moisture = covariates["bio12"] / evaporation(temperature)
    litter = 450 * (evi / 0.3) ** how.litter * (0.4 + 1.2 * lean / evi)
    decay = 0.024 * how.q10 ** ((np.maximum(temperature, -4) - 10) / 10) * moisture / (moisture + 0.25)
    logit = -2.9 + 2.2 * np.log(moisture) - 0.16 * (temperature - 8) - 0.35 * slope + 1.5 * hollow
    airless = how.wetness * 1 / (1 + np.exp(-logit))
    rock = ROCK_EFFECT[covariates["bedrock"].astype(int)]
    carbon = how.factor * 0.25 * litter / (decay * 390) * np.exp(how.rock * rock - 0.025 * how.relief * slope)
    carbon *= (1 + 0.2 * np.clip(clay, -2.5, 2.5)) / (1 - 0.98 * airless)
    return np.asarray(550 * carbon / (550 + carbon))


def departure_weight(region: Region, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the weight of a region's own pedogenesis at points, (M,): 1 inside, fading to 0 outside.

    >>> departure_weight(REGIONS["denmark"], np.array([10.0, 13.55, 20.0]), np.array([56.0, 56.0, 56.0])).round(2).tolist()
    [1.0, 0.5, 0.0]
    """
    west, south, east, north = region.bounds
    outside = np.maximum.reduce([west - lon, lon - east, south - lat, lat - north, np.zeros_like(lon)])
    inside = np.clip(1 - outside / FADE, 0, 1)
    return np.asarray(inside**2 * (3 - 2 * inside))


# --- covariates ---

# Reflectance of MODIS band 1-7 (red, NIR, blue, green, 1.24, 1.64 and 2.13 um): green leaves, dry soil, snow.
SPECTRA = np.array(
    [
        [0.04, 0.33, 0.03, 0.07, 0.30, 0.16, 0.07],
        [0.20, 0.28, 0.10, 0.15, 0.35, 0.40, 0.34],
        [0.72, 0.66, 0.76, 0.74, 0.42, 0.14, 0.09],
    ]
)

# Gaussian random fields: longest and shortest wavelength in degrees, roughness (0 all wavelengths alike, 1 smooth).
FIELDS = {
    "coast": (4, 0.15, 0.6),
    "upland": (28, 3, 0.7),
    "ridge": (2, 0.2, 0.6),
    "hill": (2.5, 0.12, 0.8),
    "temperature": (30, 3, 0.8),
    "rain": (22, 0.8, 0.7),
    "rain season": (40, 6, 0.8),
    "daily range": (25, 2, 0.8),
    "plants": (8, 0.2, 0.4),
    "farming": (8, 0.25, 0.4),
    "season of plants": (12, 0.5, 0.5),
    "clay": (8, 0.2, 0.4),
    "brightness": (8, 0.2, 0.4),
    "canopy": (8, 0.2, 0.4),
    "cloud": (4, 0.3, 0.3),
    "other cloud": (4, 0.3, 0.3),
    "unmapped": (5, 0.5, 0.4),
    **{f"rock {name}": (12, 0.3, 0.5) for name in LITHOLOGY},
}
WAVES = 64


class RandomField:
    """A Gaussian random field on the sphere, of mean 0 and variance 1: a sum of plane waves in space.

    Evaluated at unit vectors, it has no seam at the antimeridian and no crowding at the poles.
    """

    def __init__(self, seed: tuple[int, int], longest: float, shortest: float, roughness: float) -> None:
        random = np.random.default_rng(seed)
        wavelength = np.exp(random.uniform(np.log(shortest), np.log(longest), WAVES))
        direction = random.normal(size=(3, WAVES))
        direction /= np.linalg.norm(direction, axis=0)
        weight = wavelength**roughness
        self._waves = (direction * 360 / wavelength).astype(np.float32)  # radians of phase per radian of arc
        self._phase = random.uniform(0, 2 * np.pi, WAVES).astype(np.float32)
        self._weight = (weight * np.sqrt(2 / np.sum(weight**2))).astype(np.float32)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the field (M,) at unit vectors (M, 3)."""
        value = np.empty(len(points))
        chunk = 1 << 12  # stays in the cache
        for begin in range(0, len(points), chunk):
            # spelled out: a matrix product rounds differently on another number of cores
            x, y, z = points[begin : begin + chunk, :, None].swapaxes(0, 1)
            angle = x * self._waves[0] + y * self._waves[1] + z * self._waves[2] + self._phase
            value[begin : begin + chunk] = (np.sin(angle) * self._weight).sum(1, dtype=np.float64)
        return value


def unit_vectors(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return points (M, 3) on the unit sphere, float32, of longitudes and latitudes (M,) in degrees."""
    return variogram.unit_vectors(lon, lat).astype(np.float32)


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _belt(lat: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.asarray(np.exp(-(((np.abs(lat) - centre) / width) ** 2)))


# --- climate -------------------------------------------------------------------------------------------------------


def bioclim(tmin: np.ndarray, tmax: np.ndarray, rain: np.ndarray) -> dict[str, np.ndarray]:
    """Return the 19 bioclimatic variables of a year, by their definitions (Hijmans et al. 2005; units of WorldClim 2).

    In are monthly means (12, M) of the daily minimum and maximum, degrees C, and monthly totals of rain, mm. Out are bio01..bio19
    (M,): degrees C, mm; bio03 and bio15 in %; bio04 = 100 standard deviations. A quarter is any three months in succession,
    December and January included.

    >>> year = bioclim(np.full((12, 1), 5.0), np.full((12, 1), 15.0), np.full((12, 1), 50.0))
    >>> float(year["bio01"][0]), float(year["bio12"][0]), float(year["bio16"][0])
    (10.0, 600.0, 150.0)
    """
    mean = (tmin + tmax) / 2
    warmth = (mean + np.roll(mean, -1, 0) + np.roll(mean, -2, 0)) / 3
    wetness = rain + np.roll(rain, -1, 0) + np.roll(rain, -2, 0)
    points = np.arange(mean.shape[1])
    wettest, driest, warmest, coldest = wetness.argmax(0), wetness.argmin(0), warmth.argmax(0), warmth.argmin(0)
    daily, hottest, coolest = (tmax - tmin).mean(0), tmax.max(0), tmin.min(0)
    values = [
        *[mean.mean(0), daily, 100 * daily / (hottest - coolest), 100 * mean.std(0), hottest, coolest, hottest - coolest],
        *[warmth[quarter, points] for quarter in (wettest, driest, warmest, coldest)],
        *[rain.sum(0), rain.max(0), rain.min(0), 100 * rain.std(0) / (1 + rain.mean(0))],
        *[wetness[quarter, points] for quarter in (wettest, driest, warmest, coldest)],
    ]
    return {f"bio{k:02d}": value for k, value in enumerate(values, 1)}


def productivity(temperature: np.ndarray, rain: np.ndarray) -> np.ndarray:
    """Return net primary productivity in g dry matter per m2 and year: the Miami model (Lieth 1975).

    >>> productivity(np.array([10.0]), np.array([800.0])).round().tolist()
    [1236.0]
    """
    return np.asarray(3000 * np.minimum(1 / (1 + np.exp(1.315 - 0.119 * temperature)), -np.expm1(-0.000664 * rain)))


# --- the world -----------------------------------------------------------------------------------------------------


class World:
    """Simulated planet, drawn from one seed: the same seed, the same planet.

    With `warming` it is warmer by so many degrees C; vegetation, decay and SOC follow.
    """

    def __init__(self, seed: int, warming: float = 0.0) -> None:
        self._geography, self._warming = Geography(), warming
        self._fields = {name: RandomField((seed, k), *spectrum) for k, (name, spectrum) in enumerate(FIELDS.items())}

    def at(self, lon: np.ndarray, lat: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return covariates by variable, SOC, and SOC without regional departures, (M,) float32, at points in degrees.

        Covariates are band1-band7 (reflectance, 0-1), elevation (m), slope (degrees), bio01-bio19 (as `bioclim`), evi_mean,
        evi_min, evi_max, bedrock (GLiM class). NaN at sea, and where clouds hid the ground from the satellite or no geologist went.
        SOC is of 0-30 cm, g/kg. NaN at sea, on water and under ice.
        """
        lon, lat = np.asarray(lon, float), np.asarray(lat, float)
        land = self._geography.at(lon, lat)["to_coast"] + 20 * self._fields["coast"](unit_vectors(lon, lat)) > 0
        covariates, soils = self._on_land(lon[land], lat[land])

        def spread(values: np.ndarray) -> np.ndarray:
            full = np.full(len(lon), np.nan, np.float32)
            full[land] = values
            return full

        return {name: spread(values) for name, values in covariates.items()}, spread(soils[0]), spread(soils[1])

    def _on_land(self, lon: np.ndarray, lat: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return covariates with their gaps, and SOC with and without regional departures, at points on land."""
        points = unit_vectors(lon, lat)
        place = self._geography.at(lon, lat)
        noise = {name: field(points) for name, field in self._fields.items()}
        true = self._relief(lon, lat)
        true |= self._climate(lat, place, noise, true["elevation"], bumps("currents", lon, lat), bumps("monsoons", lon, lat))
        true["bedrock"] = _bedrock(noise, place["range_height"], true["bio10"])
        true |= _vegetation(noise, true)
        true |= _reflectance(noise, true)

        soil = ~np.isin(true["bedrock"], [WATER, ICE])
        undisturbed = np.where(soil, soil_carbon(true, noise["clay"], -noise["hill"], Pedogenesis()), np.nan)
        log_soc = np.log(undisturbed)
        for region in REGIONS.values():
            weight = departure_weight(region, lon, lat)
            own = soil_carbon(true, noise["clay"], -noise["hill"], region.departure)
            log_soc = log_soc + weight * (np.log(own) - np.log(undisturbed))

        shown = {name: values.copy() for name, values in true.items()}
        cloudy = np.minimum(true["bio12"], 3000) / 3000  # skies are grey where it rains
        gaps = {
            "band": noise["cloud"] > 2.15 - 0.5 * cloudy,
            "evi": noise["other cloud"] > 2.2 - 0.5 * cloudy,
            "bedrock": noise["unmapped"] > 2.4,
        }
        for name, values in shown.items():
            for prefix, gap in gaps.items():
                if name.startswith(prefix):
                    values[gap] = np.nan
        return shown, (np.exp(log_soc), undisturbed)

    def _elevation(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the height above the sea in m, (M,)."""
        place, points = self._geography.at(lon, lat), unit_vectors(lon, lat)
        inland = -np.expm1(-np.maximum(place["to_coast"], 0) / 350)
        plain = 20 + 380 * inland * _logistic(1.5 * self._fields["upland"](points))
        # folded waves: sharp crests, broad valleys
        ridges = place["range_height"] * np.clip(0.95 - 0.35 * np.abs(self._fields["ridge"](points)), 0.1, None)
        shore = -np.expm1(-np.maximum(place["to_coast"] + 25, 2) / 40)
        relief = (10 + 0.3 * plain + 0.2 * place["range_height"]) * self._fields["hill"](points)
        return np.asarray(np.maximum(shore * (plain + ridges + relief), 0) + 2)

    def _relief(self, lon: np.ndarray, lat: np.ndarray) -> dict[str, np.ndarray]:
        """Return elevation in m and slope in degrees, (M,).

        Hillsides are steeper than the 5 km the gradient is taken over show: 4 times, as slopes from a 90 m model are.
        """
        step, steepening = 0.05, 4
        here = self._elevation(lon, lat)
        north = (self._elevation(lon, lat + step) - here) / (step * KM_PER_DEGREE * 1000)
        width = step * KM_PER_DEGREE * 1000 * np.maximum(np.cos(np.radians(lat)), 0.05)
        east = (self._elevation(lon + step, lat) - here) / width
        return {"elevation": here, "slope": np.degrees(np.arctan(steepening * np.hypot(north, east)))}

    def _climate(
        self,
        lat: np.ndarray,
        place: Mapping[str, np.ndarray],
        noise: Mapping[str, np.ndarray],
        elevation: np.ndarray,
        currents: np.ndarray,
        monsoons: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return the bioclimatic variables: warmth by latitude and height, rain by belts, winds and mountains."""
        sun = np.abs(np.sin(np.radians(lat)))
        westerly = _logistic((np.abs(lat) - 30) / 4)  # trade winds blow from the east
        inland = westerly * place["dry_west"] + (1 - westerly) * place["dry_east"]
        mean = 27.5 - 40 * sun**2.3 + currents - 0.006 * elevation + 0.8 * noise["temperature"] + self._warming

        tropics = 2300 * _belt(lat, 0, 10) * (1.05 - 0.45 * place["dry_east"])
        subtropics = 1300 * _belt(lat, 26, 9) * (1 - place["dry_east"]) ** 1.6
        westerlies = 1050 * _belt(lat, 51, 13) * (0.3 + 0.7 * (1 - place["dry_west"]) ** 1.3)
        lifted = (1 + 0.4 * np.minimum(place["range_height"], 1500) / 1500) * np.exp(-np.maximum(elevation - 2800, 0) / 1500)
        year = (55 + tropics + subtropics + westerlies + monsoons) * lifted * np.exp(0.28 * noise["rain"])

        # how strongly rain keeps to summer (+) or to winter (-)
        summer = 0.25 + 1.5 * _belt(lat, 15, 9) + 0.0009 * monsoons * _belt(lat, 22, 16) + 0.7 * westerly * inland
        winter = 2.0 * _belt(lat, 36, 6) * np.maximum(1 - 1.4 * place["dry_west"], 0) * (monsoons < 500)
        seasonal = summer - winter + 0.25 * noise["rain season"]
        angle = 2 * np.pi * (np.arange(12)[:, None] - 6.3) / 12  # 0 in July
        hemisphere = np.tanh(lat / 5)
        share = np.exp(seasonal * hemisphere * np.cos(angle) + 0.3 * (1 - np.abs(hemisphere)) * np.cos(2 * angle))
        rain = year * share / share.sum(0)

        swing = 1.2 + 17 * sun**1.5 * (0.35 + 1.4 * inland)
        monthly = mean + swing * hemisphere * np.cos(angle - 0.25)
        range_by_day = 14 - 7 * np.minimum(year, 1600) / 1600 + 1.2 * noise["daily range"]
        half = np.maximum(range_by_day, 2) / 2 * (1 - 0.15 * (share / share.mean(0) - 1).clip(-1, 2))
        return bioclim(monthly - half, monthly + half, rain)


def _bedrock(noise: Mapping[str, np.ndarray], range_height: np.ndarray, summer: np.ndarray) -> np.ndarray:
    """Return the GLiM class, (M,): the commonest rock of its neighbourhood, loose sediments in the plains, ice."""
    rugged = np.minimum(range_height, 2000) / 1000
    liking = np.stack([noise[f"rock {name}"] + common + uphill * rugged for name, (_, common, uphill, _) in LITHOLOGY.items()])
    bedrock = np.array([code for code, *_ in LITHOLOGY.values()], float)[liking.argmax(0)]
    bedrock[(liking.max(0) < 0.25) & (range_height < 300)] = WATER
    bedrock[summer < ICE_BELOW] = ICE
    return np.asarray(bedrock)


def _vegetation(noise: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return EVI over the year: from climate, lower on farmland, seasonal where rain or warmth are."""
    growth = productivity(true["bio01"], true["bio12"]) / 2000
    mean = 0.05 + 0.5 * -np.expm1(-1.5 * growth) * np.exp(0.28 * noise["plants"] - 0.1 * noise["farming"])
    mean = np.minimum(mean, 0.75)
    seasonal = 0.15 + 0.45 * np.tanh(true["bio04"] / 900) + 0.25 * np.tanh(true["bio15"] / 80)
    seasonal = np.clip(seasonal + 0.15 * noise["farming"] + 0.08 * noise["season of plants"], 0.05, 0.95)
    mean = np.where(true["bedrock"] == ICE, 0.01, np.where(true["bedrock"] == WATER, 0.03, mean))
    return {
        "evi_mean": mean,
        "evi_min": np.maximum(mean - 0.9 * seasonal * (mean + 0.02), -0.1),
        "evi_max": np.minimum(mean + 0.95 * seasonal * mean, 0.95),
    }


def _reflectance(noise: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return MODIS band 1-7: leaves, soil and snow, mixed by cover. Wet and clayey soil is darker in the infrared."""
    snow = 0.85 * _logistic(-(true["bio01"] + 5) / 2.5)
    leaves = np.clip((true["evi_mean"] - 0.03) / 0.5, 0, 1) * (1 - snow)
    mix = np.stack([leaves, 1 - snow - leaves, snow], axis=1)
    moisture = np.minimum(true["bio12"] / evaporation(true["bio01"]), 1.5)
    pale = -ROCK_EFFECT[true["bedrock"].astype(int)]  # sand is pale and holds little carbon, basalt the reverse
    bright = np.exp(0.1 * noise["brightness"] - 0.25 * moisture + 0.7 * pale)
    lit = np.stack([np.exp(0.06 * noise["canopy"]), bright, np.ones_like(bright)], axis=1)
    bands = np.einsum("ms,sb->mb", mix * lit, SPECTRA)
    bands[:, 4:] *= np.exp(-0.05 * np.arange(1, 4) * (moisture[:, None] - 0.7) * (1 - snow[:, None]))
    bands[:, 4:] *= np.exp(-0.1 * np.arange(1, 4) * np.clip(-noise["hill"] / (1 + true["slope"]), -0.5, 2)[:, None])
    bands[:, 6] *= np.exp(-0.06 * np.clip(noise["clay"], -2.5, 2.5) * mix[:, 1])
    bands[true["bedrock"] == WATER] = (0.04, 0.02, 0.05, 0.05, 0.015, 0.01, 0.006)
    return {f"band{k}": np.clip(band, 0.001, 1) for k, band in enumerate(bands.T, 1)}
