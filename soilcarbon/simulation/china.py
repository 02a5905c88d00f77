"""Simulated dataset resembling China, with known carbon density: four climate zones, seven periods, soils with depth.

In: the example world's climate and relief (`world`) and a seed. Out, in one folder:

    horizons.csv                  profile_id, lon, lat, year, top, bottom (cm), soc (g/kg), bd (g/cm3), cf (% of volume)
    rasters/*.tif                 static covariates: climate (map in mm, mat in degrees C among it), relief, soil
    periodic/1985-1989/*.tif ...  climate and spectral indices of each five years; bands/ has the bands of the indices
    truth/1985-1989/*.tif ...     the true density, kg/m2: socd_0_20.tif, socd_0_100.tif
    world.yaml                    seed, law, grid

Carbon is related to its factors in two ways. "unzoned": the same everywhere. "zoned": vegetation, clay, relief and land use act
differently in each zone, some with the opposite sign, so that forests by zone can gain. Both relationships are this project's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from soilcarbon.geo.grid import Grid
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import check_writable, file_set, write_table, write_yaml
from soilcarbon.simulation.sampling import GriddedWorld, centres, check_simulated, draw_profiles, extent, grid_over, rasterize_world
from soilcarbon.simulation.world import SPECTRA, RandomField, World, evaporation, productivity, unit_vectors
from soilcarbon.soil.density import soc_density
from soilcarbon.zonal.climate_zones import ZONES, ClimateZones
from soilcarbon.zonal.covariates import spectral_indices

BOUNDS = (74.0, 18.0, 135.0, 54.0)
PERIODS = tuple((first, first + 4) for first in range(1985, 2020, 5))
SAMPLED = (1980, 2020)  # sampling years, the last not included. There are no satellite data before the first period.
DEPTHS = ((0.0, 20.0), (0.0, 100.0))
Law = Literal["zoned", "unzoned"]
_UNSEEN = 0.25  # standard deviation, on ln SOC, of what differs within a cell, whose mean is the cell's
_LABORATORY = 0.08  # the same of a measurement of SOC
_DEEP = 0.12  # SOC far below, as a share of that at the surface
_BANDS = {"blue": 2, "red": 0, "nir": 1, "swir1": 5}  # band -> its column of `world.SPECTRA`
_FIELDS = {
    "vigour": (6, 0.5, 0.5),
    "clay": (6, 0.5, 0.5),
    "clay error": (4, 0.5, 0.3),
    "land use": (5, 0.5, 0.4),
    "stones": (3, 0.5, 0.4),
    "rooting": (8, 1.0, 0.5),
    "brightness": (4, 0.5, 0.4),
}
"""Gaussian random fields, as `world.FIELDS`."""


@dataclass(frozen=True)
class Response:
    """Change of ln SOC at the surface per standard deviation of each factor."""

    vigour: float = 0.4  # of vegetation beyond what climate lets grow, in the period
    clay: float = 0.3  # of texture
    relief: float = -0.15  # of the slope
    warmth: float = -0.3  # to 10 degrees C more, in the period
    wetness: float = 0.3  # to ln of rain over evaporation


RESPONSES: Mapping[str, Mapping[str, Response]] = {
    "unzoned": dict.fromkeys(ZONES, Response()),
    "zoned": {
        "humid": Response(vigour=-0.35, clay=0.45, relief=0.15),  # what grows is harvested; clay keeps what stays
        "semi-humid": Response(vigour=0.45, clay=-0.35, relief=-0.3),
        "semi-arid": Response(vigour=0.5, clay=0.1, relief=0.35),  # hollows are salt flats, slopes catch dust
        "arid": Response(vigour=-0.1, clay=-0.45, relief=-0.35),
    },
}
"""`law` -> zone -> response: the same in all zones, or different."""


def make_china(out: Path, law: Law = "zoned", *, profiles: int = 6000, cell: float = 0.5, seed: int = 314) -> Path:
    """Make the dataset in a folder of `out`, china or china_unzoned, and return it; the same parameters give the same bytes.

    `law` is a key of `RESPONSES`, `cell` in degrees. UserError if the folder cannot be written, or holds other files than simulated
    ones.
    """
    folder = out / ("china" if law == "zoned" else "china_unzoned")
    check_writable(out)
    check_simulated(folder / "world.yaml")
    china = China(seed, grid_over(BOUNDS, cell), law)
    with file_set(folder) as new:
        _write_china(new, china, profiles, seed, law)
    return folder


def _write_china(new: Path, china: "China", profiles: int, seed: int, law: Law) -> None:
    """Write rasters, horizons and their record into a folder."""
    grid = china.grid

    def write(name: str, layers: Mapping[str, np.ndarray], *units: str) -> None:
        """Write some layers; the last unit is that of all that follow."""
        every = [*units, *[units[-1]] * (len(layers) - len(units))]
        cells = np.stack(list(layers.values())).reshape(-1, grid.height, grid.width)
        write_geotiff(new / f"{name}.tif", cells, list(layers), grid.transform, units=every)

    write("rasters/climate", china.climate, "mm", "degrees C", "degrees C x 100", "%")
    write("rasters/relief", china.relief, "m", "degrees")
    write("rasters/soil", {"clay_map": china.clay_map}, "%")
    for k, (first, last) in enumerate(PERIODS):
        period = china.period(k)
        span = f"{first}-{last}"
        write(f"bands/{span}", period.bands, "reflectance")
        write(f"periodic/{span}/indices", spectral_indices(period.bands), "1")
        write(f"periodic/{span}/climate", period.climate, "mm", "degrees C")
        for (upper, lower), density in zip(DEPTHS, china.densities(china.surface(period)), strict=True):
            name = f"socd_{upper:g}_{lower:g}"
            write(f"truth/{span}/{name}", {name: density}, "kg/m2")
    write_table(new / "horizons.csv", china.horizons(profiles, seed))
    responses = {zone: vars(response) for zone, response in RESPONSES[law].items()}
    facts = {"simulated": True, "seed": seed, "law": law, "responses": responses, "profiles": profiles}
    write_yaml(new / "world.yaml", facts | {"crs": "EPSG:4326", "cell": grid.cell[0], "bounds": extent(grid)})


@dataclass(frozen=True)
class Period:
    """State of a period of five years; each array (M,), one value per cell, NaN at sea."""

    climate: dict[str, np.ndarray]
    bands: dict[str, np.ndarray]
    vigour: np.ndarray


class China:
    """Simulated China: M cells in reading order, NaN at sea.

    The same seed gives the same covariates; `law`, a key of `RESPONSES`, changes carbon only.
    """

    def __init__(self, seed: int, grid: Grid, law: Law) -> None:
        self.grid = grid
        gridded = rasterize_world(World(seed), grid)
        shown = {name: values.ravel().astype(np.float64) for name, values in gridded.covariates.items()}
        self.sea = ~np.isfinite(gridded.truth.ravel())
        lon, lat = (axis.ravel() for axis in np.meshgrid(*centres(grid)))
        self._points, self._seed = unit_vectors(lon, lat), seed
        self._fields = {name: self._field(k, spectrum) for k, (name, spectrum) in enumerate(_FIELDS.items())}
        names = {"map": "bio12", "mat": "bio01", "temperature_seasonality": "bio04", "rain_seasonality": "bio15"}
        self.climate = {name: np.where(self.sea, np.nan, shown[code]) for name, code in names.items()}
        self.relief = {name: np.where(self.sea, np.nan, shown[name]) for name in ("elevation", "slope")}
        clay = 0.8 * self._fields["clay"] + 0.6 * self._fields["clay error"]
        self.clay_map = np.where(self.sea, np.nan, (24 + 8 * clay).clip(2, 70))
        self.zone = ClimateZones().labels(self.climate["map"], self.climate["mat"])
        self._responses = [RESPONSES[law][zone] for zone in ZONES]

    def _field(self, k: int, spectrum: tuple[float, float, float]) -> np.ndarray:
        return RandomField((self._seed, 100 + k), *spectrum)(self._points)

    def period(self, k: int) -> Period:
        """Return the state in the k-th of `PERIODS`: warmer than before, with more vegetation in some places and less in others."""
        since = k / (len(PERIODS) - 1)
        temperature = self.climate["mat"] + 1.2 * since + 0.3 * self._field(200 + k, (20, 3, 0.7))
        rain = self.climate["map"] * np.exp(0.08 * self._field(300 + k, (15, 2, 0.7)))
        vigour = self._fields["vigour"] + (since - 0.5) * self._fields["land use"]
        growth = productivity(temperature, rain) / 2000
        leaves = (-np.expm1(-1.2 * growth) * np.exp(0.35 * vigour)).clip(0.02, 0.97)
        moisture = np.minimum(rain / evaporation(temperature), 1.5)
        bright = np.exp(0.1 * self._fields["brightness"] - 0.25 * moisture)
        bands = {name: leaves * SPECTRA[0, k] + (1 - leaves) * bright * SPECTRA[1, k] for name, k in _BANDS.items()}
        return Period({"rain_5y": rain, "temperature_5y": temperature}, bands, vigour)

    def surface(self, period: Period) -> np.ndarray:
        """Return SOC at the surface (M,), g/kg, by the responses of each cell's zone."""
        rain, temperature = period.climate["rain_5y"], period.climate["temperature_5y"]
        factors = {
            "vigour": period.vigour,
            "clay": self._fields["clay"],
            "relief": (np.log1p(self.relief["slope"]) - 1.2) / 0.8,
            "warmth": (temperature - 8) / 10,
            "wetness": np.log(rain / evaporation(temperature)),
        }
        log_soc = np.full(len(self.sea), np.log(22.0))
        for name, factor in factors.items():
            response = np.array([getattr(each, name) for each in self._responses])
            log_soc = log_soc + response[self.zone] * factor
        return np.exp(np.where(self.sea, np.nan, log_soc))

    @property
    def stones(self) -> np.ndarray:
        """Coarse fragments (M,), per cent of volume, at all depths."""
        logit = -2.5 + 0.7 * self._fields["stones"] + 0.06 * self.relief["slope"]
        return np.asarray(70 / (1 + np.exp(-logit)))

    @property
    def reach(self) -> np.ndarray:
        """Depth (M,), cm, over which the excess over deep SOC falls to 37 %."""
        return np.asarray(24 * np.exp(0.2 * self._fields["rooting"]))

    def densities(self, surface: np.ndarray) -> list[np.ndarray]:
        """Return the true SOC density (M,), kg/m2, of each of `DEPTHS`, from centimetre to centimetre."""
        total, found = np.zeros(len(surface)), {}
        for top in np.arange(max(lower for _, lower in DEPTHS)):
            soc = surface * mean_share(np.array(top), np.array(top + 1), self.reach)
            total = total + soc_density(soc, bulk_density(soc, np.array(top + 0.5)), np.ones(1), self.stones)
            found[top + 1] = total
        return [found[lower] for _, lower in DEPTHS]

    def horizons(self, count: int, seed: int) -> pd.DataFrame:
        """Return the horizons of some profiles as laboratories report them: bulk density often, stones sometimes missing.

        Profiles cluster, more of them where it is wet and warm, and soils are shallow on slopes. One bulk density in a hundred
        has slipped by a power of ten.
        """
        random = np.random.default_rng([seed, 2])
        shape = self.grid.height, self.grid.width
        gridded = GriddedWorld(self.grid, {}, np.where(self.sea, np.nan, 1.0).reshape(shape), np.zeros(shape))
        effort = np.select([self.zone == k for k in range(4)], [1.0, 0.9, 1.6, 0.6]).reshape(shape)
        lon, lat, _ = draw_profiles(gridded, effort, count, 0.8, random)
        row, column = (np.floor(at).astype(np.int64) for at in self.grid.places(lon, lat))
        cell = row * self.grid.width + column
        year = random.choice(np.arange(*SAMPLED), count, p=_surveyed())
        at = np.maximum((year - PERIODS[0][0]) // 5, 0)
        surface = np.stack([self.surface(self.period(k)) for k in range(len(PERIODS))])[at, cell]
        surface = surface * np.exp(_UNSEEN * random.normal(size=count) - _UNSEEN**2 / 2)
        solum = (115 * np.exp(0.35 * random.normal(size=count)) - 3 * self.relief["slope"][cell]).clip(15, 200).round()
        limits = np.cumsum(np.array([16, 20, 26, 34, 45, 60]) * np.exp(0.3 * random.normal(size=(count, 6))), axis=1).round()
        bottom = np.minimum(limits, solum[:, None])
        top = np.concatenate([np.zeros((count, 1)), bottom[:, :-1]], axis=1)
        soc = surface[:, None] * mean_share(top, np.maximum(bottom, top + 1), self.reach[cell][:, None])
        dense = bulk_density(soc, (top + bottom) / 2) + 90 * random.normal(size=(count, 1)) + 40 * random.normal(size=soc.shape)
        dense = np.where(random.uniform(size=soc.shape) < 0.01, 10, 1) * dense.clip(200, 2000)
        dense[random.uniform(size=count) > 0.45] = np.nan
        stones = (self.stones[cell][:, None] * np.exp(0.3 * random.normal(size=soc.shape))).clip(0, 90)
        stones[random.uniform(size=count) > 0.7] = np.nan
        soc = (soc * np.exp(_LABORATORY * random.normal(size=soc.shape) - _LABORATORY**2 / 2)).clip(0.1, 580)
        profile, layer = np.nonzero(bottom > top)
        return pd.DataFrame(
            {
                "profile_id": [f"china_{k + 1:05d}" for k in profile],
                "lon": lon[profile],
                "lat": lat[profile],
                "year": year[profile],
                "top": top[profile, layer],
                "bottom": bottom[profile, layer],
                "soc": soc[profile, layer].round(2),
                "bd": (dense[profile, layer] / 1000).round(3),
                "cf": stones[profile, layer].round(),
            }
        )


def mean_share(top: np.ndarray, bottom: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return mean SOC of a layer as a share of that at the surface: deep + (1 - deep) exp(-z / reach), cm, integrated.

    >>> mean_share(np.array([0.0, 30.0]), np.array([30.0, 100.0]), np.array([25.0])).round(2).tolist()
    [0.63, 0.21]
    """
    fallen = reach * (np.exp(-top / reach) - np.exp(-bottom / reach)) / (bottom - top)
    return np.asarray(_DEEP + (1 - _DEEP) * fallen)


def bulk_density(soc: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return bulk density, kg/m3, by SOC, g/kg, and depth, cm: low where rich in humus, higher below.

    >>> bulk_density(np.array([0.0, 20.0]), np.array([0.0, 50.0])).round().tolist()
    [1480.0, 1276.0]
    """
    return np.asarray(1480 - 240 * np.log1p(soc / 10) + 1.2 * depth)


def _surveyed() -> np.ndarray:
    """Return the share of profiles of each of `SAMPLED`: two great surveys, and few years without any."""
    year = np.arange(*SAMPLED)
    often = 0.3 + 2 * np.exp(-(((year - 1986) / 3) ** 2)) + 2 * np.exp(-(((year - 2010) / 4) ** 2))
    return np.asarray(often / often.sum())
