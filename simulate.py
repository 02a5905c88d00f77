"""Make an example world whose true soil carbon is known.

    python simulate.py --out data/sim [--profiles 6000]

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

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from config import PUBLISHED_CATEGORIES, SimulateSettings, read_settings
from files import check_writable, run, sha256, write_table
from grouping import draw_split, split_units
from pedogenesis import REGIONS

if TYPE_CHECKING:
    import pandas as pd

    from world import World

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


@dataclass(frozen=True)
class Grid:
    """A north-up raster's cells: upper left corner and cell in degrees, rows, columns."""

    west: float
    north: float
    cell: float
    height: int
    width: int

    @classmethod
    def over(cls, bounds: tuple[float, float, float, float], cell: float) -> "Grid":
        """Return the grid of whole cells within lon_min, lat_min, lon_max, lat_max, from the upper left corner."""
        west, south, east, north = bounds
        return cls(west, north, cell, max(1, int((north - south) / cell + 1e-6)), max(1, int((east - west) / cell + 1e-6)))

    @property
    def bounds(self) -> list[float]:
        """lon_min, lat_min, lon_max, lat_max, degrees."""
        east, south = self.west + self.width * self.cell, self.north - self.height * self.cell
        return [round(degrees, 6) for degrees in (self.west, south, east, self.north)]

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the longitudes (W,) and latitudes (H,) of the cells' centres."""
        return self.west + (np.arange(self.width) + 0.5) * self.cell, self.north - (np.arange(self.height) + 0.5) * self.cell


@dataclass(frozen=True)
class Land:
    """What a raster shows: covariates (B, H, W), true SOC (H, W) with and without regional departures, g/kg."""

    grid: Grid
    covariates: Mapping[str, np.ndarray]
    truth: np.ndarray
    undisturbed: np.ndarray


def look(world: "World", grid: Grid) -> Land:
    """Return a world as a raster shows it: each cell is its centre."""
    lon, lat = grid.centres()
    rows = max(1, 2**18 // grid.width)  # at once
    parts = [
        world.at(*(axis.ravel() for axis in np.meshgrid(lon, lat[begin : begin + rows]))) for begin in range(0, grid.height, rows)
    ]

    def joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces).reshape(grid.height, grid.width)

    covariates = {name: joined([part[0][name] for part in parts]) for name in parts[0][0]}
    return Land(grid, covariates, joined([part[1] for part in parts]), joined([part[2] for part in parts]))


def draw_profiles(
    land: Land,
    effort: np.ndarray,
    count: int,
    spread: float,
    random: np.random.Generator,
    refused: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw profiles as surveys leave them: most in clusters of very unequal size, some scattered.

    Parameters
    ----------
    land
        Profiles are drawn where it has soil.
    effort
        (H, W) how densely land is surveyed, in any unit.
    count
        N.
    spread
        How far, typically, profiles of a cluster lie from its centre, degrees.
    random
        Drawn from.
    refused
        Tells of candidates at lon, lat (M,) which may not be taken, (M,) bool.

    Returns
    -------
    lon, lat, truth
        (N,) degrees, rounded to 1e-5, and the true SOC of the cell, g/kg.
    """
    grid, soil = land.grid, np.isfinite(land.truth)
    _, lats = grid.centres()
    chance = (effort * soil * np.cos(np.radians(lats))[:, None]).ravel()
    cumulative = np.cumsum(chance)

    def places(number: int) -> tuple[np.ndarray, np.ndarray]:
        cell = np.searchsorted(cumulative, random.uniform(0, cumulative[-1], number), side="right")
        row, column = np.divmod(np.minimum(cell, chance.size - 1), grid.width)
        return row + random.uniform(size=number), column + random.uniform(size=number)

    clusters = max(4, count // 20)
    centre = np.stack(places(clusters))
    size = np.exp(0.9 * random.normal(size=clusters))
    wide = spread / grid.cell * np.exp(0.5 * random.normal(size=clusters))
    found: list[np.ndarray] = []
    while sum(len(part) for part in found) < count:
        row, column = places(count)
        clustered = random.uniform(size=count) < 0.85
        member = random.choice(clusters, count, p=size / size.sum())
        shift = random.normal(size=(2, count)) * wide[member]
        row = np.where(clustered, centre[0, member] + shift[0], row)
        narrowing = np.cos(np.radians(np.clip(grid.north - row * grid.cell, -85, 85)))
        column = np.where(clustered, centre[1, member] + shift[1] / narrowing, column)
        inside = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
        row, column = row[inside], column[inside]
        # off the cells' edges, so that nobody's rounding moves a profile into the next cell
        in_row, in_column = (np.floor(at) + np.clip(at % 1, 0.01, 0.99) for at in (row, column))
        lon, lat = np.round(grid.west + in_column * grid.cell, 5), np.round(grid.north - in_row * grid.cell, 5)
        truth = land.truth[row.astype(int), column.astype(int)].astype(np.float64)
        taken = np.isfinite(truth) if refused is None else np.isfinite(truth) & ~refused(lon, lat)
        found.append(np.stack([lon, lat, truth], axis=1)[taken])
    lon, lat, truth = np.concatenate(found)[:count].T
    return lon, lat, truth


def make_world(settings: SimulateSettings) -> None:
    """Make the example world in `settings.out`; the same settings give the same bytes.

    A dataset's `dataset.yaml` is written last: a folder without one is not whole.

    Raises
    ------
    UserError
        If the folder cannot be written, or so few profiles are asked for that a split would be empty.
    """
    from datasets import compute_statistics, write_dataset
    from figures import SocMap, soc_maps
    from geography import SURVEYS, bumps
    from processmodel import COARSER, model_output, write_cmip
    from rasters import cut_windows, describe, find_layers
    from world import World

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

    from rasters import write_geotiff

    transform = Affine(land.grid.cell, 0, land.grid.west, 0, -land.grid.cell, land.grid.north)
    write_geotiff(folder / "truth.tif", land.truth[None], ["soc"], transform, units=["g/kg"])
    paths = []
    for category in PUBLISHED_CATEGORIES:
        paths.append(folder / "rasters" / f"{category.name}.tif")
        bands = np.stack([land.covariates[variable] for variable in category.variables])
        write_geotiff(paths[-1], bands, category.variables, transform, units=[UNITS[v] for v in category.variables])
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    settings = read_settings(SimulateSettings, __doc__, arguments)
    make_world(settings)
    print(
        f"{settings.out}: global ({settings.profiles:,} profiles, cells of {settings.cell:g} degrees) and "
        f"four regions ({settings.region_profiles:,} profiles each, cells of {settings.region_cell:g} degrees)"
    )


if __name__ == "__main__":
    sys.exit(run(main))
