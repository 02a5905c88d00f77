"""Simulated profiles for tests of mapping methods."""

import numpy as np
import pandas as pd

from soilcarbon.regression.estimators import Samples
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.zonal.space_time import Profiles


def haversine(lon, lat, other_lon, other_lat):
    lon, lat, other_lon, other_lat = np.radians(lon), np.radians(lat), np.radians(other_lon), np.radians(other_lat)
    h = np.sin((lat - other_lat) / 2) ** 2 + np.cos(lat) * np.cos(other_lat) * np.sin((lon - other_lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


ZONED_QUICK = {
    "covariates": (0, 1, 2, 3, 4),
    "year": 5,
    "best": 3,
    "inner_folds": 2,
    "candidates": 2,
    "search_trees": 5,
    "trees": 15,
}
"""Arguments of a `SelectedForest` that is trained in a second."""


def zoned_world(n=400, seed=0, differs=True):
    """Return profiles of four climate zones; x is precipitation, temperature, three covariates and the year.

    Wet soils follow the third column, dry ones the fourth, the other way round where it is cool: no single smooth function of
    all columns. Where nothing differs, all of them follow the third and fourth together.
    """
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(80, 120, n), random.uniform(25, 50, n)
    mm = 400 + 500 * np.sin(lon / 6) + 20 * random.normal(size=n)
    degrees = 10 + 12 * np.cos(lat / 4) + 0.5 * random.normal(size=n)
    a, b, noise = random.normal(size=(3, n))
    sign = np.where(degrees >= 10, 1, -1)
    signal = np.where(mm >= 400, sign * a, sign * b) if differs else 0.7 * (a + b)
    y = np.exp(1.5 + 0.4 * signal + 0.1 * random.normal(size=n))
    x = np.column_stack([mm, degrees, a, b, noise, random.integers(1985, 2021, n)])
    return Profiles(x, y, lon, lat, spatial_groups(lon, lat, 2.0), x[:, 5] // 5)


ZONED_NAMES = ["map", "mat", "a", "b", "noise", "year"]
"""Of the columns of x of `zoned_world`."""


def write_zoned_samples(folder, n=200, **changes):
    """Write the profiles of `zoned_world` to s.csv, columns changed by values or functions, and return the table."""
    profiles = zoned_world(n)
    table = pd.DataFrame(profiles.x, columns=ZONED_NAMES).assign(
        profile_id=[f"p{k}" for k in range(n)], lon=profiles.lon, lat=profiles.lat
    )
    table["map"] = table["map"].clip(lower=1.0)  # rain is never negative
    table = table.assign(socd_0_20=profiles.y, socd_0_100=profiles.y * 2, bulk_density=1.3)
    table.loc[: n // 3, "socd_0_100"] = np.nan
    for name, value in changes.items():
        table[name] = value(table[name]) if callable(value) else value
    table.to_csv(folder / "s.csv", index=False)
    return table


def field(n, practical_range, nugget, seed, centre=(10.0, 50.0)):
    """Return lon, lat and a Gaussian field of unit variance with an exponential covariance, in some 450 x 450 km."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    lon = (lon + 180) % 360 - 180
    distance = haversine(lon[:, None], lat[:, None], lon, lat)
    covariance = (1 - nugget) * np.exp(-3 * distance / practical_range) + nugget * np.eye(n)
    return lon, lat, np.linalg.cholesky(covariance) @ random.normal(size=n)


def make_samples(n=300, seed=0, centre=(10.0, 50.0), noise=0.2):
    """Return profiles whose ln(y) is smooth in space and in two of six covariates; the last of these is a class."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    wave = np.sin(lon) + np.cos(1.5 * lat)
    x = np.column_stack([wave + 0.3 * random.normal(size=n), random.normal(size=(n, 4)), random.integers(1, 5, n)])
    y = np.exp(2.5 + 0.6 * wave + 0.4 * x[:, 1] + 0.2 * (x[:, 5] == 2) + noise * random.normal(size=n))
    x[random.random(n) < 0.05, 2] = np.nan
    return Samples(np.column_stack([lon, lat, x.astype(np.float32)]), y, spatial_groups(lon, lat, 0.5))
