"""How soil carbon comes about in the example world: the answer that models are to find.

In: covariates. Out: the true SOC, by one written equation, and where and how four regions depart from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pedogenesis:
    """How strongly SOC answers to each factor; see `soil_carbon`. Wetness must not exceed 1."""

    factor: float = 1.0
    litter: float = 1.0
    q10: float = 2.2
    wetness: float = 1.0
    relief: float = 1.0
    rock: float = 1.0


@dataclass(frozen=True)
class Region:
    """A study region and how its soils depart from the world's.

    Attributes
    ----------
    bounds
        lon_min, lat_min, lon_max, lat_max, degrees.
    coarser
        Its cell, as a multiple of the setting region_cell: a continent at a province's cell would be a large file.
    block_size
        Of its split, degrees.
    departure, why
        How its SOC comes about, and the story behind it.
    """

    bounds: tuple[float, float, float, float]
    coarser: int
    block_size: float
    departure: Pedogenesis
    why: str


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
FADE = 1.5
"""Degrees outside a region's bounds over which its departure fades."""

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
ICE_BELOW = -2.0
"""Mean temperature of the warmest quarter, degrees C, below which ice covers the land."""
ROCK_EFFECT = np.zeros(17)
ROCK_EFFECT[[code for code, *_ in LITHOLOGY.values()]] = [effect for *_, effect in LITHOLOGY.values()]


def evaporation(temperature: np.ndarray) -> np.ndarray:
    """Return potential evaporation in mm a year from the mean annual temperature in degrees C."""
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

    Parameters
    ----------
    covariates
        (M,) each: evi_mean, evi_min, bio01, bio12, slope, bedrock, without missing values.
    clay, hollow
        (M,) standard normal: texture, and how far the place lies below its surroundings. No covariate shows them
        wholly, so no model can know SOC exactly.
    how
        The exponents and factors.
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
    """Return how far a region's own pedogenesis holds at points, (M,): 1 inside, fading to 0 outside."""
    west, south, east, north = region.bounds
    outside = np.maximum.reduce([west - lon, lon - east, south - lat, lat - north, np.zeros_like(lon)])
    inside = np.clip(1 - outside / FADE, 0, 1)
    return np.asarray(inside**2 * (3 - 2 * inside))
