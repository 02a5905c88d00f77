"""Simulated profiles for tests of baselines."""

import numpy as np
import pytest

from soilcarbon.benchmark.baselines import Samples
from soilcarbon.stats.groups import spatial_groups


def make_samples(n=300, seed=0, centre=(10.0, 50.0), noise=0.2):
    """Return profiles whose ln(y) is smooth in space and in two of six covariates; the last of these is a class."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    wave = np.sin(lon) + np.cos(1.5 * lat)
    x = np.column_stack([wave + 0.3 * random.normal(size=n), random.normal(size=(n, 4)), random.integers(1, 5, n)])
    y = np.exp(2.5 + 0.6 * wave + 0.4 * x[:, 1] + 0.2 * (x[:, 5] == 2) + noise * random.normal(size=n))
    x[random.random(n) < 0.05, 2] = np.nan
    return Samples(np.column_stack([lon, lat, x.astype(np.float32)]), y, spatial_groups(lon, lat, 0.5))


@pytest.fixture(scope="session")
def samples():
    """300 profiles of a region."""
    return make_samples()


@pytest.fixture(scope="session")
def places():
    """150 places of the same region."""
    return make_samples(150, seed=1)


@pytest.fixture(scope="session")
def abroad():
    """400 profiles of another region."""
    return make_samples(400, seed=2, centre=(40.0, 20.0))
