"""The experiment on the lowest error: bounds within cells, differences by distance, the nugget, a region."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import slow_but

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import error_floor as floor

from soilcarbon.categories import Category
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import spatial_groups


def test_distances_from_the_medians_of_a_cell_and_of_the_others_in_it():
    found = floor.about_medians(np.array([1.0, 9.0, 4.0, 6.0, 3.0]), np.array([0, 1, 0, 0, 2]))
    np.testing.assert_allclose(found, [[3, 4], [np.nan] * 2, [0, 0.5], [2, 3.5], [np.nan] * 2])


@pytest.mark.parametrize(("size", "within"), slow_but([(2, 0.09), (4, 0.03), (8, 0.03)], (2, 0.09)))
def test_the_two_bounds_hold_the_error_about_the_true_median_and_their_geometric_mean_is_near_it(size, within):
    logs = 0.8 * np.random.default_rng(0).normal(size=3000 * size)
    low, high = floor.about_medians(np.exp(logs), np.repeat(np.arange(3000), size)).mean(axis=0)
    true = float(floor.mae_of(0.64))
    assert true == pytest.approx(np.abs(np.exp(0.8 * np.random.default_rng(1).normal(size=200_000)) - 1).mean(), rel=0.02)
    assert low < true < high
    assert np.sqrt(low * high) == pytest.approx(true, rel=within)


def test_differences_by_distance_are_means_of_profiles_not_of_pairs():
    lat = np.array([0.0, 0.001, 0.002, 0.5])  # 0.11 km steps; the last 55 km away
    found = floor.by_distance(np.zeros(4), lat, np.array([0.0, 1, 3, 9]), (0.001, 0.15, 1, 100), 1)
    np.testing.assert_allclose(found, [[1, 3, 9], [1.5, np.nan, 8], [2, 3, 6], [np.nan, np.nan, 23 / 3]])
    squares = floor.by_distance(np.zeros(2), lat[:2], np.array([0.0, 3]), (0.001, 0.15), 2)
    np.testing.assert_allclose(squares, [[9], [9]])


def a_region(field, noise, count=1500):
    """Return a region of profiles on 2 x 2 degrees, whose logarithm a baseline misses by a smooth field and by noise."""
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 2, (2, count))
    logs = 2 + field * np.sin(5 * lon) * np.cos(5 * lat) + noise * random.normal(size=count)
    table = pd.DataFrame({"profile_id": [str(k) for k in range(count)], "lon": lon, "lat": lat})
    cell = spatial_groups(lon, lat, 0.05)
    x = np.stack([np.sin(5 * lon), np.cos(5 * lat)], axis=1).astype(np.float32)
    data = Dataset(table, x, np.expm1(logs), {}, (Category(name="a", variables=("u", "v")),), None)
    predicted = pd.DataFrame({"forest_log": np.full(count, np.expm1(2.0)), "regional": np.full(count, np.expm1(2.0) * 1.01)})
    return floor.Region(
        data, predicted, random.integers(3, size=count), np.unique(cell, return_inverse=True)[1], spatial_groups(lon, lat, 0.5)
    )


def test_the_nugget_is_all_of_noise_and_part_of_a_field_with_noise(monkeypatch):
    monkeypatch.setattr(floor, "DRAWS", 2)
    reference = np.full(1500, np.expm1(2.0))
    assert floor.nugget(a_region(0.0, 0.5), reference)[0] == pytest.approx(0, abs=4)
    both = floor.nugget(a_region(0.8, 0.4), reference)[0]  # variances 0.16 and 0.16
    true = 100 * (floor.mae_of(0.16) / floor.mae_of(0.32) - 1)
    assert true - 12 < both < true + 2  # of a field as smooth as this one the exponential model's nugget is too small
