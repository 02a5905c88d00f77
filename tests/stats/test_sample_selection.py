"""Allocation, strata and choice of points: hand-worked numbers, inclusion frequencies, and better than a random sample."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from soilcarbon.stats.sample_selection import (
    CompactStrata,
    allocate,
    cum_root_frequency,
    expected_standard_error,
    latin_hypercube,
    order_keys,
    spatial_coverage,
)


def test_neyman_allocation_by_hand():
    sizes, spreads = np.array([100.0, 200, 50]), np.array([2.0, 5, 4])
    assert allocate(70, sizes, spreads).tolist() == [10, 50, 10]  # in proportion to 200, 1000, 200
    assert allocate(70, sizes).tolist() == [20, 40, 10]
    best = expected_standard_error(np.array([10, 50, 10]), sizes, spreads)
    assert best == pytest.approx((200 + 1000 + 200) / 350 / 70**0.5)  # sum of W S, over the root of n
    assert all(
        best < expected_standard_error(np.array(other), sizes, spreads) for other in ([11, 49, 10], [10, 49, 11], [20, 40, 10])
    )


def test_every_stratum_has_its_least_points():
    assert allocate(10, np.array([1e6, 1, 1])).tolist() == [6, 2, 2]
    assert allocate(7, np.ones(3), np.zeros(3)).sum() == 7
    assert allocate(6, np.array([1.0, 2, 9])).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="5 points are too few for 3 strata"):
        allocate(5, np.ones(3))


def test_order_sampling_has_its_inclusion_probabilities():
    random = np.random.default_rng(0)
    p = random.uniform(0.02, 0.4, 60)
    p *= 12 / p.sum()
    hits = np.zeros(60)
    runs = 8000
    for _ in range(runs):
        hits[np.argsort(order_keys(p, random))[:12]] += 1
    z = (hits / runs - p) / np.sqrt(p * (1 - p) / runs)
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() == pytest.approx(1, abs=0.6)


def test_bounds_of_strata_lie_where_the_values_are():
    random = np.random.default_rng(1)
    values = random.exponential(size=200_000)  # f = exp(-x): the root of f is exp(-x / 2), so bounds are -2 ln(1 - k / 4)
    found = cum_root_frequency(values, np.ones(len(values)), 4)
    top = 1 - np.exp(-values.max() / 2)
    assert found == pytest.approx(-2 * np.log(1 - np.arange(1, 4) / 4 * top), abs=0.12)
    assert cum_root_frequency(np.array([1.0, 1, 2]), np.ones(3), 5).size <= 2


def test_compact_strata_are_compact_and_of_equal_area():
    random = np.random.default_rng(2)
    points = random.random((6000, 2)) * [3, 1]
    points = points[np.hypot(points[:, 0] - 1.5, points[:, 1] - 0.5) > 0.3]  # an area with a hole
    weights = 1 + points[:, 0]
    strata = CompactStrata.fit(points, weights, 12, seed=0)
    label = strata.assign(points)
    area = np.bincount(label, weights, 12)
    assert area.max() / area.min() < 1.03
    within = np.mean([((points[label == k] - points[label == k].mean(axis=0)) ** 2).sum(axis=1).mean() for k in range(12)])
    assert within < 1.5 * 0.16 * (3 - np.pi * 0.09) / 12  # of a square of that area: a sixth; of a disc 0.159


def test_coverage_leaves_no_place_far_from_a_point():
    random = np.random.default_rng(3)
    points = random.random((3000, 2))
    chosen = spatial_coverage(points, np.ones(3000), 25, seed=0)
    assert len(chosen) == 25

    def far(which):
        return cdist(points, points[which]).min(axis=1).mean()

    assert far(chosen) < min(far(random.choice(3000, 25, replace=False)) for _ in range(50))
    assert far(chosen) == pytest.approx(0.3826 / 5, rel=0.1)  # a square of side 1/5 round each point: 0.3826 of its side


def test_latin_hypercube_fills_intervals_classes_and_correlations():
    random = np.random.default_rng(4)
    x = random.normal(size=(5000, 3))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    soil = random.choice([10.0, 20, 30], 5000, p=[0.5, 0.3, 0.2])
    values = np.column_stack([x, soil])
    chosen, objective, at_random = latin_hypercube(values, np.ones(5000), 20, seed=0, classes=[3], iterations=3000)
    assert len(set(chosen.tolist())) == 20
    assert objective < 0.25 * at_random
    assert np.abs([(values[chosen, 3] == code).sum() for code in (10, 20, 30)] - np.array([10, 6, 4])).max() <= 1
    ranks = np.array([np.searchsorted(np.quantile(column, np.arange(1, 20) / 20), column[chosen]) for column in x.T])
    assert np.mean([len(set(each)) for each in ranks]) >= 17  # of 20 intervals; a random sample has 13
    assert np.corrcoef(x[chosen, 0], x[chosen, 1])[0, 1] == pytest.approx(0.8, abs=0.08)


def test_latin_hypercube_knows_areas_and_keeps_its_sums():
    x = np.linspace(0, 1, 2001)[:, None]
    chosen, objective, _ = latin_hypercube(x, 1e-9 + x[:, 0], 10, seed=0, iterations=3000)  # quantiles of the density 2 x
    assert objective < 0.2
    assert np.sort(np.floor(x[chosen, 0] ** 2 * 10)).tolist() == list(range(10))
