"""The network by zone: it learns what differs, sees nothing but what it is given, and falls back where profiles are few."""

import numpy as np
import pytest
from simulated import zoned_world

from soilcarbon.stats.metrics import scores
from soilcarbon.zonal.climate_zones import ClimateZones
from soilcarbon.zonal.network import ZonedNetwork


@pytest.fixture(scope="module")
def land():
    return zoned_world(700)


@pytest.fixture(scope="module")
def labels(land):
    return ClimateZones().labels(land.x[:, 0], land.x[:, 1])


@pytest.fixture(scope="module")
def fitted(land, labels):
    rows = land.units % 4 > 0
    return ZonedNetwork((2, 3, 4), 40).fit(land.take(rows), labels[rows], 0)


def test_fine_tuning_finds_what_differs_between_zones(land, labels, fitted):
    rows = land.units % 4 == 0
    unzoned, zoned = fitted.predict(land.take(rows), labels[rows])
    r2 = [scores(land.y[rows], each)["r2"] for each in (unzoned, zoned)]  # without rain and warmth one network cannot tell zones
    assert r2[1] > r2[0] + 0.2
    assert set(fitted.own) == {0, 1, 2, 3}


def test_only_its_covariates_are_looked_at(land, labels, fitted):
    x = land.x.copy()
    x[:, [0, 1, 5]] = np.nan
    hidden = land.__class__(x, land.y, land.lon, land.lat, land.units)
    for shown, blind in zip(fitted.predict(land, labels), fitted.predict(hidden, labels), strict=True):
        np.testing.assert_array_equal(shown, blind)


def test_a_zone_of_few_profiles_has_the_network_of_all(land, labels):
    few = ZonedNetwork((2, 3), 1, fewest=int(np.bincount(labels).min()) + 1).fit(land, labels, 0)
    assert len(few.own) == 3
    unzoned, zoned = few.predict(land, labels)
    served = labels == np.bincount(labels).argmin()
    np.testing.assert_array_equal(unzoned[served], zoned[served])
    assert (unzoned[~served] != zoned[~served]).any()
