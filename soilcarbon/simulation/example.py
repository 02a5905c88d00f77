"""The example world as datasets: rasters, profiles and splits of the globe and of four regions, whose true SOC is known.

In: how many profiles, how fine the cells, a seed. Out: five dataset folders (`make_world`), a picture of them, and the output of an
Earth-system model with known faults. It is one world: a region's rasters show the global fields at a finer cell. Its soils depart
from the world's (`world.REGIONS`), and the global dataset has few profiles there and none where the region's are held out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.figures import SocMap, soc_maps
from soilcarbon.geo.raster import cut_windows, describe, find_layers, write_geotiff
from soilcarbon.io.files import check_writable, file_set, write_table
from soilcarbon.simulation.earth_system_model import COARSER, model_output, write_cmip
from soilcarbon.simulation.geography import bumps
from soilcarbon.simulation.sampling import GriddedWorld, centres, check_simulated, draw_profiles, extent, grid_over, rasterize_world
from soilcarbon.simulation.world import REGIONS, World
from soilcarbon.soil.dataset import compute_statistics, write_dataset
from soilcarbon.stats.groups import spatial_groups, train_valid_test_split

NOISE = 0.3
"""Standard deviation of the measurement noise on ln SOC: laboratory, and variation within a field. Its mean is such that measured
SOC is right on average: a mean of many profiles is that of the land."""
LARGEST = 580.0  # SOC of pure organic matter, g/kg; no measurement exceeds it
GLOBAL_BOUNDS = (-180.0, -60.0, 180.0, 84.0)
VALID_SHARE, TEST_SHARE = 0.1, 0.2
REGION_VALID_SHARE = 0.2  # in a region profiles are few: a tenth of them would be too few to choose an epoch by
SPLIT_REASON = {
    "random": "single places, as in the published study; the regions show how well areas without profiles are mapped",
    "blocks": "profiles cluster, so places held out one by one would lie beside their training neighbours",
}
KEPT_IN_REGIONS = 0.1  # of the global profiles that would fall into a region, the share that is there
UNITS = {
    **{variable: "reflectance" for variable in PUBLISHED_CATEGORIES[0].variables},
    **{"elevation": "m", "slope": "degrees", "bedrock": "GLiM class", "evi_mean": "EVI", "evi_min": "EVI", "evi_max": "EVI"},
    **{f"bio{k:02d}": "degrees C" for k in (1, 2, 5, 6, 7, 8, 9, 10, 11)},
    **{f"bio{k:02d}": "mm" for k in (12, 13, 14, 16, 17, 18, 19)},
    **{"bio03": "%", "bio04": "degrees C x 100", "bio15": "%"},
}


@dataclass(frozen=True)
class Survey:
    """Survey of a region: profiles lon, lat (N,) degrees, true SOC (N,) g/kg, split (N,); random generator of the measurements."""

    gridded: GriddedWorld
    lon: np.ndarray
    lat: np.ndarray
    truth: np.ndarray
    split: np.ndarray
    random: np.random.Generator


def make_world(
    out: Path,
    *,
    profiles: int = 6000,
    region_profiles: int = 300,
    cell: float = 0.5,
    region_cell: float = 0.05,
    radius: int = 1,
    seed: int = 314,
) -> None:
    """Make the example world in a folder; the same parameters give the same bytes.

    Each of the folders `global`, `anhui`, `switzerland`, `denmark` and `australia` is a dataset (samples.csv, patches/, stats.csv,
    split/, dataset.yaml) with the rasters, the profiles and the true SOC it was made from. A folder's `dataset.yaml` is written
    last: a folder without one is not whole. Cells are in degrees; patches are (2 radius + 1) cells wide. UserError if the folder
    cannot be written, or holds other files than simulated ones.
    """
    names = ["global", *REGIONS]
    check_writable(out)
    check_simulated(*(out / name / "dataset.yaml" for name in names))
    world = World(seed)
    randoms = {name: np.random.default_rng([seed, 1, k]) for k, name in enumerate(names)}
    regions = {name: _region_survey(world, name, region_cell, region_profiles, seed, randoms[name]) for name in REGIONS}
    surveys = {"global": _global_survey(world, cell, profiles, regions, seed, randoms["global"]), **regions}

    with file_set(out) as new:
        _write_world(new, surveys, radius, seed)


def _write_world(out: Path, surveys: Mapping[str, Survey], radius: int, seed: int) -> None:
    """Write the datasets, and the picture of them all."""
    statistics: pd.DataFrame | None = None
    for name, survey in surveys.items():  # the global one first: the regions take its statistics
        folder, gridded = out / name, survey.gridded
        paths = _write_rasters(folder, gridded)
        if name == "global":
            stock = model_output(gridded.covariates)
            write_cmip(folder / "cSoil.nc", stock, gridded.grid.x, gridded.grid.y, COARSER * gridded.grid.cell[0])
        samples = _sample_table(name, survey)
        write_table(folder / "profiles.csv", samples)
        layers = find_layers(paths)
        windows, _ = cut_windows(layers, survey.lon, survey.lat, radius)
        if statistics is None:
            statistics = compute_statistics(windows, survey.split == "train")
        facts = _facts(name, survey, describe(layers), seed)
        write_dataset(folder, samples, windows, survey.split, PUBLISHED_CATEGORIES, facts, statistics)
    maps = [
        SocMap(f"{name}, n = {len(each.lon):,}", each.gridded.truth, extent(each.gridded.grid), each.lon, each.lat)
        for name, each in surveys.items()
    ]
    profiles = len(surveys["global"].lon)
    maps[0] = replace(maps[0], title=f"True SOC of the example world, 0-30 cm, and its profiles (n = {profiles:,})")
    soc_maps(out / "world.png", maps, "g/kg")


def _region_survey(world: World, name: str, cell: float, count: int, seed: int, random: np.random.Generator) -> Survey:
    """Return a region on its finer grid, surveyed evenly and split by blocks."""
    region = REGIONS[name]
    gridded = rasterize_world(world, grid_over(region.bounds, round(cell * region.coarser, 9)))
    spread = 0.05 * gridded.grid.cell[0] * min(gridded.truth.shape)
    lon, lat, truth = draw_profiles(gridded, np.ones(gridded.truth.shape), count, spread, random)
    blocks = spatial_groups(lon, lat, region.block_size)
    split = train_valid_test_split(blocks, REGION_VALID_SHARE, TEST_SHARE, seed)
    return Survey(gridded, lon, lat, truth, split, random)


def _global_survey(
    world: World, cell: float, count: int, regions: Mapping[str, Survey], seed: int, random: np.random.Generator
) -> Survey:
    """Return the globe, surveyed densely where real surveys are, with few profiles in the regions, split by place."""

    def refused(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return which candidates are not taken: most of those in a region, and all in blocks that it holds out."""
        refused = np.zeros(len(lon), bool)
        for name, region in REGIONS.items():
            west, south, east, north = region.bounds
            inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
            survey = regions[name]
            blocks = spatial_groups(survey.lon, survey.lat, region.block_size)
            held_out = np.isin(spatial_groups(lon, lat, region.block_size), blocks[survey.split != "train"])
            refused |= held_out | inside & (random.uniform(size=len(lon)) > KEPT_IN_REGIONS)
        return refused

    gridded = rasterize_world(world, grid_over(GLOBAL_BOUNDS, cell))
    cells = [axis.ravel() for axis in np.meshgrid(*centres(gridded.grid))]
    effort = (0.03 + bumps("surveys", *cells)).reshape(gridded.truth.shape)
    lon, lat, truth = draw_profiles(gridded, effort, count, 0.8, random, refused)
    split = train_valid_test_split(spatial_groups(lon, lat), VALID_SHARE, TEST_SHARE, seed)
    return Survey(gridded, lon, lat, truth, split, random)


def _sample_table(name: str, survey: Survey) -> pd.DataFrame:
    """Return the profiles as measured: the true SOC with noise, in g/kg."""
    noise = NOISE * survey.random.normal(size=len(survey.truth)) - NOISE**2 / 2
    soc = np.minimum(survey.truth * np.exp(noise), LARGEST)
    ids = [f"{name}_{k:06d}" for k in range(1, len(soc) + 1)]
    return pd.DataFrame({"profile_id": ids, "lon": survey.lon, "lat": survey.lat, "soc": soc.round(3)})


def _facts(name: str, survey: Survey, rasters: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return a dataset's provenance."""
    gridded, region = survey.gridded, REGIONS.get(name)
    how = "blocks" if region else "random"
    facts: dict[str, Any] = {
        "simulated": True,
        "seed": seed,
        "statistics": "of the training profiles of global",
        "crs": "EPSG:4326",
        "cell": gridded.grid.cell[0],
        "bounds": extent(gridded.grid),
        "rasters": rasters,
        "truth": "truth.tif: SOC of 0-30 cm, g/kg, without noise",
        "noise": f"normal on ln SOC, standard deviation {NOISE}, mean {-(NOISE**2) / 2:g}, in profiles only",
        "split": {
            **{part: int((survey.split == part).sum()) for part in ("train", "valid", "test")},
            "method": how,
            "block_size": region.block_size if region else None,
            "reason": SPLIT_REASON[how],
            "seed": seed,
            "valid_share": REGION_VALID_SHARE if region else VALID_SHARE,
            "test_share": TEST_SHARE,
        },
    }
    if region:
        change = float(np.nanmean(np.log(gridded.truth) - np.log(gridded.undisturbed)))
        facts["departure"] = {"why": region.why, **asdict(region.departure), "mean_ln_ratio": round(change, 4)}
    return facts


def _write_rasters(folder: Path, gridded: GriddedWorld) -> list[Path]:
    """Write truth.tif and rasters/<category>.tif; return the paths of the latter."""
    transform = gridded.grid.transform
    write_geotiff(folder / "truth.tif", gridded.truth[None], ["soc"], transform, units=["g/kg"])
    paths = []
    for category in PUBLISHED_CATEGORIES:
        paths.append(folder / "rasters" / f"{category.name}.tif")
        bands = np.stack([gridded.covariates[variable] for variable in category.variables])
        write_geotiff(paths[-1], bands, category.variables, transform, units=[UNITS[v] for v in category.variables])
    return paths
