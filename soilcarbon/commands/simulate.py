"""Make an example world whose true soil carbon is known.

    soilcarbon simulate --out data/sim [--profiles 6000]
    soilcarbon simulate --world china [--law unzoned]        horizons, climate zones and periods instead: china.py

Out: five datasets, `global` and, on finer rasters, the regions anhui, switzerland, denmark and australia, each in a
folder <out>/<name>/ that train_global.py and train_regional.py read as it is:

    rasters/<category>.tif   the covariates, a band per variable (world.py)
    truth.tif                the true SOC of 0-30 cm in g/kg, without measurement noise
    profiles.csv             profile_id, lon, lat, soc: with rasters/, what a user would give to prepare.py
    samples.csv  patches/  stats.csv  split/  dataset.yaml

and <out>/world.png, a picture of it all; in global/ also cSoil.nc, what an Earth-system model with known faults gives there
(processmodel.py), for drivers.py.

It is one world: a region's rasters show the global fields at a finer cell. Its soils depart from the world's
(pedogenesis.py), and the global dataset has few profiles there and none where the region's are held out.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import check_writable, sha256, write_table
from soilcarbon.settings import Settings
from soilcarbon.simulation.pedogenesis import REGIONS
from soilcarbon.simulation.sampling import Grid, Land, draw_profiles, look
from soilcarbon.stats.grouping import draw_split, split_units

if TYPE_CHECKING:
    import pandas as pd


class SimulateSettings(Settings):
    """The example world."""

    out: Path = Field(Path("data/sim"), description="folder to make the world in")
    world: Literal["example", "china"] = Field(
        "example",
        description="example: SOC of one depth, all lands and four regions; china: horizons, zones, periods (china.py)",
    )
    law: Literal["zoned", "unzoned"] = Field("zoned", description="china: whether carbon follows another law in each climate zone")
    profiles: int = Field(6000, ge=100, le=10_000_000, description="profiles of the global dataset (106167: the paper's size)")
    region_profiles: int = Field(300, ge=30, le=1_000_000, description="profiles of each regional dataset")
    cell: float = Field(0.5, ge=0.05, le=2, description="cell of the global rasters, degrees")
    region_cell: float = Field(0.05, ge=0.005, le=0.5, description="cell of the regional rasters, degrees")
    radius: int = Field(1, ge=0, le=20, description="cells cut on each side of a profile")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the whole world")


NOISE = 0.3
"""Standard deviation of the measurement noise on ln SOC: laboratory, and variation within a field."""
LARGEST = 580.0
"""SOC of pure organic matter, g/kg; no measurement exceeds it."""
GLOBAL_BOUNDS = (-180.0, -60.0, 180.0, 84.0)
VALID_SHARE, TEST_SHARE = 0.1, 0.2
REGION_VALID_SHARE = 0.2
"""In a region profiles are few: a tenth of them would be too few to choose an epoch by."""
SPLIT_REASON = {
    "random": "single places, as in the published study; the regions tell how well unvisited land is mapped",
    "blocks": "profiles cluster, so places held out one by one would lie beside their training neighbours",
}
KEPT_IN_REGIONS = 0.1
"""Of the global profiles that would fall into a region, the share that is there."""
UNITS = {
    **{variable: "reflectance" for variable in PUBLISHED_CATEGORIES[0].variables},
    **{"elevation": "m", "slope": "degrees", "bedrock": "GLiM class", "evi_mean": "EVI", "evi_min": "EVI", "evi_max": "EVI"},
    **{f"bio{k:02d}": "degrees C" for k in (1, 2, 5, 6, 7, 8, 9, 10, 11)},
    **{f"bio{k:02d}": "mm" for k in (12, 13, 14, 16, 17, 18, 19)},
    **{"bio03": "%", "bio04": "degrees C x 100", "bio15": "%"},
}


def make_world(settings: SimulateSettings) -> None:
    """Make the example world in `settings.out`; the same settings give the same bytes.

    A dataset's `dataset.yaml` is written last: a folder without one is not whole.

    Raises
    ------
    UserError
        If the folder cannot be written, or so few profiles are asked for that a split would be empty.
    """
    from soilcarbon.figures import SocMap, soc_maps
    from soilcarbon.geo.raster import cut_windows, describe, find_layers
    from soilcarbon.simulation.earth_system_model import COARSER, model_output, write_cmip
    from soilcarbon.simulation.geography import SURVEYS, bumps
    from soilcarbon.simulation.world import World
    from soilcarbon.soil.dataset import compute_statistics, write_dataset

    names = ["global", *REGIONS]
    check_writable(*(settings.out / name for name in names))
    for name in names:
        (settings.out / name / "dataset.yaml").unlink(missing_ok=True)
    world = World(settings.seed)
    randoms = {name: np.random.default_rng([settings.seed, 1, k]) for k, name in enumerate(names)}

    grids = {name: Grid.over(region.bounds, round(settings.region_cell * region.coarser, 9)) for name, region in REGIONS.items()}
    lands = {name: look(world, grid) for name, grid in grids.items()}
    profiles = {
        name: draw_profiles(
            land,
            effort=np.ones(land.truth.shape),
            count=settings.region_profiles,
            spread=0.05 * grids[name].cell * min(land.truth.shape),
            random=randoms[name],
        )
        for name, land in lands.items()
    }
    splits = {
        name: draw_split(
            split_units(*profiles[name][:2], "blocks", region.block_size), REGION_VALID_SHARE, TEST_SHARE, settings.seed
        )
        for name, region in REGIONS.items()
    }

    def refused(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Tell which global candidates lie in a region: most, and all in blocks that it holds out."""
        refused = np.zeros(len(lon), bool)
        for name, region in REGIONS.items():
            west, south, east, north = region.bounds
            inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
            blocks = split_units(*profiles[name][:2], "blocks", region.block_size)
            held_out = np.isin(split_units(lon, lat, "blocks", region.block_size), blocks[splits[name] != "train"])
            refused |= held_out | inside & (randoms["global"].uniform(size=len(lon)) > KEPT_IN_REGIONS)
        return refused

    whole = look(world, Grid.over(GLOBAL_BOUNDS, settings.cell))
    lands = {"global": whole, **lands}
    cells = [axis.ravel() for axis in np.meshgrid(*whole.grid.centres())]
    effort = (0.03 + bumps(SURVEYS, *cells)).reshape(whole.truth.shape)
    profiles["global"] = draw_profiles(whole, effort, settings.profiles, 0.8, randoms["global"], refused)
    splits["global"] = draw_split(split_units(*profiles["global"][:2], "random"), VALID_SHARE, TEST_SHARE, settings.seed)

    statistics: pd.DataFrame | None = None
    for name, land in lands.items():  # the global one first: the regions take its statistics
        folder, (lon, lat, truth), split = settings.out / name, profiles[name], splits[name]
        paths = _write_rasters(folder, land)
        if name == "global":
            write_cmip(
                folder / "cSoil.nc", model_output(land.covariates), land.grid.west, land.grid.north, COARSER * land.grid.cell
            )
        samples = _sample_table(name, lon, lat, truth, randoms[name])
        write_table(folder / "profiles.csv", samples)
        layers = find_layers(paths)
        windows, _ = cut_windows(layers, lon, lat, settings.radius)
        if statistics is None:
            statistics = compute_statistics(windows, split == "train")
        how = "blocks" if name in REGIONS else "random"
        facts = {
            "simulated": True,
            "seed": settings.seed,
            "statistics": "of the training profiles of global",
            "crs": "EPSG:4326",
            "cell": land.grid.cell,
            "bounds": land.grid.bounds,
            "rasters": [grid | {"file": grid["file"].name, "sha256": sha256(grid["file"])} for grid in describe(layers)],
            "truth": "truth.tif: SOC of 0-30 cm, g/kg, without noise",
            "noise": f"normal on ln SOC, standard deviation {NOISE}, in profiles only",
            "split": {
                **{part: int((split == part).sum()) for part in ("train", "valid", "test")},
                "method": how,
                "block_size": REGIONS[name].block_size if name in REGIONS else None,
                "reason": SPLIT_REASON[how],
                "seed": settings.seed,
                "valid_share": REGION_VALID_SHARE if name in REGIONS else VALID_SHARE,
                "test_share": TEST_SHARE,
            },
        }
        if name in REGIONS:
            change = np.log(land.truth) - np.log(land.undisturbed)
            facts["departure"] = {
                "why": REGIONS[name].why,
                **asdict(REGIONS[name].departure),
                "mean_ln_ratio": round(float(np.nanmean(change)), 4),
            }
        write_dataset(folder, samples, windows, split, PUBLISHED_CATEGORIES, facts, statistics)
    maps = [
        SocMap(f"{name}, n = {len(profiles[name][0]):,}", land.truth, land.grid.bounds, *profiles[name][:2])
        for name, land in lands.items()
    ]
    maps[0] = replace(maps[0], title=f"True SOC of the example world, 0-30 cm, and its profiles (n = {settings.profiles:,})")
    soc_maps(settings.out / "world.png", maps, "g/kg")


def _sample_table(name: str, lon: np.ndarray, lat: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> "pd.DataFrame":
    """Return the profiles as measured: the true SOC with noise, in g/kg."""
    import pandas as pd

    soc = np.minimum(truth * np.exp(NOISE * random.normal(size=len(truth))), LARGEST)
    ids = [f"{name}_{k:06d}" for k in range(1, len(lon) + 1)]
    return pd.DataFrame({"profile_id": ids, "lon": lon, "lat": lat, "soc": soc.round(3)})


def _write_rasters(folder: Path, land: Land) -> list[Path]:
    """Write truth.tif and rasters/<category>.tif; return the paths of the latter."""
    from rasterio.transform import Affine

    from soilcarbon.geo.raster import write_geotiff

    transform = Affine(land.grid.cell, 0, land.grid.west, 0, -land.grid.cell, land.grid.north)
    write_geotiff(folder / "truth.tif", land.truth[None], ["soc"], transform, units=["g/kg"])
    paths = []
    for category in PUBLISHED_CATEGORIES:
        paths.append(folder / "rasters" / f"{category.name}.tif")
        bands = np.stack([land.covariates[variable] for variable in category.variables])
        write_geotiff(paths[-1], bands, category.variables, transform, units=[UNITS[v] for v in category.variables])
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(SimulateSettings, __doc__, arguments, "soilcarbon simulate")
    if settings.world == "china":
        from soilcarbon.simulation.china import make_china

        print(f"{make_china(settings)}: {settings.profiles:,} profiles, cells of {settings.cell:g} degrees")
        return
    make_world(settings)
    print(
        f"{settings.out}: global ({settings.profiles:,} profiles, cells of {settings.cell:g} degrees) and "
        f"four regions ({settings.region_profiles:,} profiles each, cells of {settings.region_cell:g} degrees)"
    )
