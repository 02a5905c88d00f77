"""Distances of folds against a plain search; kNNDM folds that hold out as far as a map lies from its profiles."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.stats import wasserstein_distance
from sklearn.metrics import adjusted_rand_score
from stats.test_folds import clusters, haversine, regular_places

from soilcarbon.stats import knndm
from soilcarbon.stats.folds import check_no_leak, make_folds
from soilcarbon.stats.grouping import split_units
from soilcarbon.stats.knndm import draw_places, held_out_distances, knndm_folds, mismatch, prediction_distances
from soilcarbon.stats.variogram import KM_PER_DEGREE, distinct_places, unit_vectors


@pytest.fixture(scope="module")
def grid():
    return regular_places()


# --- how far is held out -----------------------------------------------------------------------------------------


def test_held_out_distances_are_those_of_a_plain_search():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(-180, 180, 300), random.uniform(-90, 90, 300)
    folds = random.integers(4, size=300)
    distance = haversine(lon[:, None], lat[:, None], lon, lat)
    distance[folds[:, None] == folds] = np.inf
    assert held_out_distances(lon, lat, folds) == pytest.approx(distance.min(1))
    points = unit_vectors(lon, lat)
    for width in (2, 8, 300):
        order = np.argsort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, :width]
        near = np.linalg.norm(points[:, None] - points[order], axis=2), order
        assert knndm._nearest_elsewhere(points, folds, near) == pytest.approx(distance.min(1))


def test_neighbours_over_the_date_line_are_neighbours():
    assert held_out_distances(np.array([179.9, -179.9, 170]), np.zeros(3), np.array([0, 1, 1]))[0] == pytest.approx(22.24, abs=0.01)
    assert prediction_distances(np.array([179.9]), np.zeros(1), (np.array([-179.9]), np.zeros(1))) == pytest.approx(22.24, abs=0.01)


def test_the_mismatch_by_hand_and_by_scipy():
    lon, folds, places = np.array([0.0, 1, 10, 11]), np.array([0, 0, 1, 1]), (np.array([0.0, 5.5]), np.zeros(2))
    held_out, wanted = np.array([10.0, 9, 9, 10]), np.array([0, 4.5])  # degrees
    w = mismatch(lon, np.zeros(4), folds, places) / KM_PER_DEGREE
    assert w == pytest.approx((9 + 9 + 5.5 + 5.5) / 4)
    assert w == pytest.approx(wasserstein_distance(held_out, wanted))


def test_places_are_drawn_from_land_in_proportion_to_area():
    land = np.array([[True, True, False], [True, False, True]])
    lon, lat = draw_places(land, np.array([1.0, 2, 3]), np.array([60.0, 0]), 20_000, 0)
    cells, counts = np.unique(np.stack([lat, lon]), axis=1, return_counts=True)
    assert cells.T.tolist() == [[0, 1], [0, 3], [60, 1], [60, 2]]
    assert counts / 20_000 == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6], abs=0.02)
    with pytest.raises(ValueError, match="no cell of land"):
        draw_places(np.zeros((2, 3)), np.arange(3), np.arange(2), 5, 0)
    with pytest.raises(ValueError, match="rows and columns"):
        draw_places(land.T, np.arange(3), np.arange(2), 5, 0)


# --- kNNDM -------------------------------------------------------------------------------------------------------


def test_clustered_profiles_are_held_out_as_far_as_the_map_lies(grid):
    lon, lat = clusters()
    folds, facts = knndm_folds(lon, lat, 5, grid, 0)
    random, _ = make_folds("place", lon, lat, 5)
    assert facts["method"] == "knndm"
    assert facts["ks_p"] < 0.05
    assert facts["w_km"] == pytest.approx(mismatch(lon, lat, folds, grid), abs=0.01)
    assert facts["w_random_km"] == pytest.approx(mismatch(lon, lat, random, grid), abs=0.01)
    assert facts["w_km"] < 0.4 * facts["w_random_km"]
    far, near = (np.median(held_out_distances(lon, lat, each)) for each in (folds, random))
    assert far > 5 * near
    assert far == pytest.approx(np.median(prediction_distances(lon, lat, grid)), rel=0.4)


def test_no_other_number_of_clusters_matches_better(grid):
    lon, lat = clusters(200, spread=0.3)
    _, facts = knndm_folds(lon, lat, 4, grid, 0)
    points, member, sizes = distinct_places(lon, lat)
    tree = linkage(points, "ward")
    centred = points - np.average(points, axis=0, weights=sizes)
    axis = np.linalg.svd(centred * np.sqrt(sizes)[:, None])[2][0]
    w = {}
    for q in range(4, len(points) + 1):
        folds = knndm._merged_into_folds(cut_tree(tree, q)[:, 0], sizes, centred @ axis, 4)[member]
        if np.bincount(folds).max() <= 100:
            w[q] = mismatch(lon, lat, folds, grid)
    assert w[facts["q"]] == pytest.approx(facts["w_km"], abs=0.01)
    assert facts["w_km"] <= min(w.values()) + 0.05 * facts["w_random_km"]  # a hundred of the q were tried, not all


@pytest.mark.parametrize("seed", range(3))
def test_evenly_spread_profiles_get_random_folds(seed, grid):
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(0, 10, 500), random.uniform(40, 50, 500)
    places = random.uniform(0, 10, 2000), random.uniform(40, 50, 2000)
    folds, facts = knndm_folds(lon, lat, 10, places, seed)
    assert facts["method"] == "random by place"
    assert facts["q"] is None
    assert (folds == make_folds("place", lon, lat, 10, seed)[0]).all()
    assert facts["w_km"] < 5


def test_profiles_further_apart_than_the_map_needs_get_random_folds(grid):
    lon, lat = (each[::7] for each in grid)
    random = np.random.default_rng(0)
    places = lon + random.normal(0, 0.02, lon.size), lat + random.normal(0, 0.02, lon.size)
    assert knndm_folds(lon, lat, 5, places, 0)[1]["ks_p"] > 0.99


def test_five_far_clusters_are_five_folds_also_over_the_date_line():
    random = np.random.default_rng(0)
    true = np.repeat(np.arange(5), 40)
    lon = np.array([180.0, 160, 140, -160, -140])[true] + random.normal(0, 0.2, 200)
    lat = random.normal(0, 0.2, 200)
    lon = (lon + 180) % 360 - 180
    assert 5 < (lon[true == 0] > 0).sum() < 35
    far = np.array([-120.0, 120]).repeat(50) + random.normal(0, 0.2, 100), random.normal(0, 0.2, 100)
    folds, facts = knndm_folds(lon, lat, 5, far, 0)
    assert facts["q"] == 5
    assert adjusted_rand_score(true, folds) == 1


def test_small_clusters_are_dealt_along_the_line_and_large_ones_stand_alone():
    cluster = np.array([0, 0, 1, 2, 3, 4, 5])
    sizes = np.array([3, 3, 1, 1, 1, 1, 2])  # cluster 0 has 6 of 12, more than a third
    along = np.array([0.0, 10, 1, 7, 4, 6, 9])  # in order: 1, 3, (0), 4, 2, 5
    assert knndm._merged_into_folds(cluster, sizes, along, 3).tolist() == [0, 0, 1, 2, 2, 1, 1]


def test_merges_are_those_of_ward():
    points = np.random.default_rng(0).normal(size=(80, 3))
    merges, roots = knndm._merges(points, 0)
    assert roots == 1
    for q in (2, 7, 30):
        assert adjusted_rand_score(_cut(merges, 80, q), cut_tree(linkage(points, "ward"), q)[:, 0]) == 1


def _cut(merges, n, q):
    label = np.arange(n)
    for a, b in merges[: n - q]:
        label[label == label[a]] = label[b]
    assert np.unique(label).size == q
    return label


def test_many_places_are_parted_before_they_are_compared(grid, monkeypatch):
    lon, lat = clusters(1500, 40)
    whole = knndm_folds(lon, lat, 5, grid, 0)[1]
    monkeypatch.setattr(knndm, "_WARD_PLACES", 300)
    merges, roots = knndm._merges(distinct_places(lon, lat)[0], 0)
    assert 5 <= roots <= 30
    _cut(merges, 1425, roots)
    folds, parted = knndm_folds(lon, lat, 5, grid, 0)
    assert parted["w_km"] < whole["w_km"] + 0.1 * whole["w_random_km"]
    check_no_leak(folds, split_units(lon, lat, "random"))


def test_no_fold_holds_more_than_maxp(grid):
    random = np.random.default_rng(0)
    lon, lat = clusters(300, 8)
    lon, lat = np.append(lon, random.normal(5, 0.02, 260)), np.append(lat, random.normal(45, 0.02, 260))
    loose, loose_facts = knndm_folds(lon, lat, 5, grid, 0, maxp=0.6)
    tight, tight_facts = knndm_folds(lon, lat, 5, grid, 0, maxp=0.3)
    assert 0.3 < np.bincount(loose).max() / 560 <= 0.6
    assert np.bincount(tight).max() / 560 <= 0.3
    assert loose_facts["w_km"] < tight_facts["w_km"]
    with pytest.raises(ValueError, match="maxp = 0.4: every division"):
        lon[:300], lat[:300] = 1, 41
        knndm_folds(lon, lat, 5, grid, 0, maxp=0.4)
