"""Spatial folds: whole groups, held-out distances as stated; kNNDM against a plain search and R's definitions."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.stats import wasserstein_distance
from simulated import field, haversine
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_predict

from soilcarbon.stats import spatial_cv
from soilcarbon.stats.groups import check_no_leak, distinct_places, group_folds, predefined_split, spatial_groups
from soilcarbon.stats.metrics import scores
from soilcarbon.stats.spatial_cv import (
    SPATIAL,
    STRATEGIES,
    block_folds,
    block_size_for_range,
    cluster_regions,
    held_out_distances,
    knndm_folds,
    make_folds,
    prediction_distances,
    sample_cell_centres,
)
from soilcarbon.stats.variogram import KM_PER_DEGREE, unit_vectors


def clusters(n=300, towns=15, seed=0, spread=0.05):
    """Return lon, lat of profiles in small towns of a 10 x 10 degree area, a twentieth of them twins of another."""
    random = np.random.default_rng(seed)
    place = random.uniform([0, 40], [10, 50], (towns, 2))[random.integers(towns, size=n)] + random.normal(0, spread, (n, 2))
    place[: n // 20] = place[n // 20 : 2 * (n // 20)]
    return place[:, 0].round(5), place[:, 1].round(5)


@pytest.fixture(scope="module")
def grid():
    """Return lon, lat of 900 places, regular over the area of `clusters`."""
    lon, lat = np.meshgrid(np.linspace(0.1, 9.9, 30), np.linspace(40.1, 49.9, 30))
    return lon.ravel(), lat.ravel()


def distance_mismatch(lon, lat, folds, places):
    """Return W, km: how far held-out profiles and places to be predicted differ in distance to the nearest profile."""
    return float(wasserstein_distance(held_out_distances(lon, lat, folds), prediction_distances(lon, lat, places)))


def draw(strategy, lon, lat, grid, k=5, seed=0):
    return make_folds(strategy, lon, lat, k, seed, block_size=1.0, prediction_points=grid)


@pytest.fixture(scope="module")
def drawn(grid):
    """Return strategy -> folds of `clusters` and their facts."""
    return {strategy: draw(strategy, *clusters(), grid) for strategy in STRATEGIES}


# --- the side of blocks ------------------------------------------------------------------------------------------


def test_blocks_are_as_wide_as_the_range():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 20, 2000), random.uniform(-0.1, 20.1, 2000)
    side, why = block_size_for_range(lon, lat - 10, 100, 25)
    assert side == pytest.approx(100 / KM_PER_DEGREE, rel=0.01)
    assert "practical range" in why
    north, _ = block_size_for_range(lon, 0.01 * lat + 60, 50, 2)
    assert north * KM_PER_DEGREE * np.cos(np.radians(60.1)) == pytest.approx(50, rel=0.01)


def test_blocks_are_narrowed_until_enough_remain_and_no_further(grid):
    side, why = block_size_for_range(*grid, 1000, 25)

    def count(side):
        return np.unique(spatial_groups(*grid, side)).size

    assert count(side) >= 25 > count(side / 0.95)
    assert why.startswith("narrowed")


def test_blocks_do_not_shrink_below_five_kilometres():
    side, why = block_size_for_range(np.array([0.0, 1]), np.array([0.0, 1]), 0, 25)
    assert side == pytest.approx(5 / KM_PER_DEGREE, rel=1e-3)
    assert "narrowest" in why
    assert block_size_for_range(np.array([0.0, 1]), np.array([0.0, 1]), 50, 25) == (side, why.replace("over 0", "over 50"))


def test_blocks_take_their_side_from_the_residuals():
    lon, lat, values = field(700, 60, 0.2, 1)
    folds, facts = make_folds("blocks", lon, lat, 3, residuals=values)
    assert facts["range_km"] == pytest.approx(60, rel=0.5)
    assert facts["range_found"]
    assert facts["block_size"] * KM_PER_DEGREE * np.cos(np.radians(50)) == pytest.approx(facts["range_km"], rel=0.02)
    check_no_leak(folds, spatial_groups(lon, lat, facts["block_size"]))


# --- what is kept together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SPATIAL)
def test_no_place_is_in_two_folds(strategy, drawn):
    check_no_leak(drawn[strategy][0], spatial_groups(*clusters()))


def test_single_profiles_do_leak_and_the_guard_says_where(drawn):
    lon, lat = clusters()
    folds, _ = drawn["random"]
    with pytest.raises(ValueError, match=r"\d+ of 285 groups are in more than one fold, first \d+"):
        check_no_leak(folds, spatial_groups(lon, lat))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_forest_knows_of_a_place_scores_only_where_twins_are_parted(strategy, grid):
    random = np.random.default_rng(0)
    place = np.repeat(np.arange(150), 4)  # four profiles each
    lon, lat = (random.uniform(low, low + 10, 150).round(5)[place] for low in (0, 40))
    covariates = np.column_stack([lon, lat, random.normal(size=(150, 3))[place]])  # shared within the place
    y = random.normal(size=150)[place] + random.normal(0, 0.3, 600)  # from place to place nothing but noise: R2 is 0 at best
    folds, _ = draw(strategy, lon, lat, grid)
    forest = RandomForestRegressor(10, random_state=0)
    r2 = scores(y, cross_val_predict(forest, covariates, y, cv=predefined_split(folds)))["r2"]
    assert r2 > 0.3 if strategy == "random" else r2 < 0.1


def test_folds_are_level_even_of_unlike_units():
    groups = np.repeat(np.arange(60), np.random.default_rng(0).geometric(0.05, 60))
    sizes = np.bincount(group_folds(groups, 5, 0))
    assert np.ptp(sizes) <= 3
    assert np.ptp(np.bincount(group_folds(np.arange(103), 10, 0))) == 1
    huge = group_folds(np.array([0] * 50 + list(range(1, 31))), 4, 0)
    assert sorted(np.bincount(huge).tolist()) == [10, 10, 10, 50]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_is_all_the_chance_there_is(strategy, grid, drawn):
    lon, lat = clusters()
    folds, facts = drawn[strategy]
    again, same = draw(strategy, lon, lat, grid)
    assert (folds == again).all()
    assert facts == same
    assert np.unique(folds).tolist() == list(range(5))
    assert facts["sizes"] == np.bincount(folds).tolist()
    assert facts["reason"] == STRATEGIES[strategy].reason
    if strategy in ("random", "place", "blocks"):
        assert (folds != draw(strategy, lon, lat, grid, seed=1)[0]).any()


@pytest.mark.parametrize("strategy", SPATIAL)
def test_the_order_of_rows_does_not_matter(strategy, grid, drawn):
    lon, lat = clusters()
    order = np.random.default_rng(1).permutation(lon.size)
    assert (draw(strategy, lon[order], lat[order], grid)[0] == drawn[strategy][0][order]).all()


def test_regions_without_labels_are_clusters_also_over_the_date_line():
    random = np.random.default_rng(0)
    true = np.repeat(np.arange(4), 50)
    lon = np.array([180.0, 150, 60, -90])[true] + random.normal(0, 3, 200)
    lat = np.array([0.0, 40, -50, 80])[true] + random.normal(0, 2, 200)
    assert adjusted_rand_score(true, cluster_regions((lon + 180) % 360 - 180, lat, 4, 0)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "loo"}, "strategy = 'loo'"),
        ({"strategy": "blocks"}, "block_size"),
        ({"strategy": "knndm"}, "points"),
        ({"strategy": "random", "k": 1}, "k = 1"),
        ({"strategy": "place", "k": 4}, "k = 4 folds of 3"),
    ],
)
def test_misuse_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_folds(**{"lon": np.array([0.0, 0, 1, 2]), "lat": np.zeros(4)} | arguments)


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
        assert spatial_cv._nearest_elsewhere(points, folds, near) == pytest.approx(distance.min(1))


def test_neighbours_over_the_date_line_are_neighbours():
    assert held_out_distances(np.array([179.9, -179.9, 170]), np.zeros(3), np.array([0, 1, 1]))[0] == pytest.approx(22.24, abs=0.01)
    assert prediction_distances(np.array([179.9]), np.zeros(1), (np.array([-179.9]), np.zeros(1))) == pytest.approx(22.24, abs=0.01)


def test_places_are_drawn_from_land_in_proportion_to_area():
    land = np.array([[True, True, False], [True, False, True]])
    lon, lat = sample_cell_centres(land, np.array([1.0, 2, 3]), np.array([60.0, 0]), 20_000, 0)
    cells, counts = np.unique(np.stack([lat, lon]), axis=1, return_counts=True)
    assert cells.T.tolist() == [[0, 1], [0, 3], [60, 1], [60, 2]]
    assert counts / 20_000 == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6], abs=0.02)
    with pytest.raises(ValueError, match="no cell of land"):
        sample_cell_centres(np.zeros((2, 3)), np.arange(3), np.arange(2), 5, 0)
    with pytest.raises(ValueError, match="rows and columns"):
        sample_cell_centres(land.T, np.arange(3), np.arange(2), 5, 0)


# --- kNNDM -------------------------------------------------------------------------------------------------------


def test_clustered_profiles_are_held_out_as_far_as_the_map_lies(grid, drawn):
    lon, lat = clusters()
    (folds, facts), (random, _) = drawn["knndm"], drawn["place"]
    assert facts["method"] == "knndm"
    assert facts["ks_p"] < 0.05
    assert facts["w_km"] == pytest.approx(distance_mismatch(lon, lat, folds, grid), abs=0.01)
    assert facts["w_random_km"] == pytest.approx(distance_mismatch(lon, lat, random, grid), abs=0.01)
    assert facts["w_km"] < 0.4 * facts["w_random_km"]
    far, near = (np.median(held_out_distances(lon, lat, each)) for each in (folds, random))
    assert far > 5 * near
    assert far == pytest.approx(np.median(prediction_distances(lon, lat, grid)), rel=0.4)


@pytest.mark.slow
def test_no_other_number_of_clusters_matches_better(grid):
    lon, lat = clusters(200, spread=0.3)
    found, facts = knndm_folds(lon, lat, 4, grid, 0)
    points, member, sizes = distinct_places(lon, lat)
    tree = linkage(points, "ward")
    centred = points - np.average(points, axis=0, weights=sizes)
    axis = np.linalg.svd(centred * np.sqrt(sizes)[:, None])[2][0]
    w = {}
    for q in range(4, len(points) + 1, 3):
        folds = spatial_cv._merged_into_folds(cut_tree(tree, q)[:, 0], sizes, centred @ axis, 4)[member]
        if np.bincount(folds).max() <= 100:
            w[q] = distance_mismatch(lon, lat, folds, grid)
    assert facts["w_km"] == pytest.approx(distance_mismatch(lon, lat, found, grid))
    # of every third q here, and a hundred of them there
    assert facts["w_km"] <= min(w.values()) + 0.05 * facts["w_random_km"]


@pytest.mark.slow
def test_k_means_and_blocks_match_no_better_than_what_is_chosen(grid):
    reached = {}
    for seed in range(3):
        lon, lat = clusters(200, spread=(0.05, 0.3, 1.0)[seed % 3], seed=seed)
        found, facts = knndm_folds(lon, lat, 4, grid, 0)
        points, member, sizes = distinct_places(lon, lat)
        along = PCA(1).fit_transform(points)[:, 0]
        others = {}
        for q in (8, 20, 60):
            labels = KMeans(q, n_init=3, random_state=1).fit_predict(points)
            others["k-means", q] = spatial_cv._merged_into_folds(labels, sizes, along, 4)[member]
        w = {name: distance_mismatch(lon, lat, folds, grid) for name, folds in others.items() if np.bincount(folds).max() <= 100}
        for side in (0.5, 1.0, 2.0):  # of several draws, for one may be lucky
            draws = [block_folds(lon, lat, 4, side, draw) for draw in range(5)]
            w["blocks", side] = float(np.median([distance_mismatch(lon, lat, folds, grid) for folds in draws]))
        assert facts["w_km"] <= min(w.values()) + 0.1 * facts["w_random_km"]  # of sizes and seeds that it may not have tried
        reached[seed] = facts["clustering"]
        assert facts["w_km"] == pytest.approx(distance_mismatch(lon, lat, found, grid))
    assert len(set(reached.values())) > 1  # no clustering is always the best


def test_evenly_spread_profiles_get_random_folds():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 10, 500), random.uniform(40, 50, 500)
    places = random.uniform(0, 10, 2000), random.uniform(40, 50, 2000)
    folds, facts = knndm_folds(lon, lat, 10, places, 0)
    assert facts["method"] == "random by place"
    assert facts["q"] is facts["clustering"] is None
    assert (folds == make_folds("place", lon, lat, 10, 0)[0]).all()
    assert facts["w_km"] < 5


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
    assert spatial_cv._merged_into_folds(cluster, sizes, along, 3).tolist() == [0, 0, 1, 2, 2, 1, 1]


def test_merges_are_those_of_ward():
    points = np.random.default_rng(0).normal(size=(80, 3))
    merges, roots = spatial_cv._merges(points, 0)
    assert roots == 1
    for q in (2, 7, 30):
        assert adjusted_rand_score(_cut(merges, 80, q), cut_tree(linkage(points, "ward"), q)[:, 0]) == 1


def _cut(merges, n, q):
    label = np.arange(n)
    for a, b in merges[: n - q]:
        label[label == label[a]] = label[b]
    assert np.unique(label).size == q
    return label


@pytest.mark.slow
def test_many_places_are_parted_before_they_are_compared(grid, monkeypatch):
    lon, lat = clusters(700, 40)
    whole = knndm_folds(lon, lat, 5, grid, 0)[1]
    monkeypatch.setattr(spatial_cv, "_WARD_PLACES", 150)
    merges, roots = spatial_cv._merges(distinct_places(lon, lat)[0], 0)
    assert 5 <= roots <= 30
    _cut(merges, 665, roots)
    folds, parted = knndm_folds(lon, lat, 5, grid, 0)
    assert parted["w_km"] < whole["w_km"] + 0.1 * whole["w_random_km"]
    check_no_leak(folds, spatial_groups(lon, lat))


@pytest.mark.slow
def test_no_fold_holds_more_than_max_share(grid):
    random = np.random.default_rng(0)
    lon, lat = clusters(300, 8)
    lon, lat = np.append(lon, random.normal(5, 0.02, 260)), np.append(lat, random.normal(45, 0.02, 260))
    loose, loose_facts = knndm_folds(lon, lat, 5, grid, 0, max_share=0.6)
    tight, tight_facts = knndm_folds(lon, lat, 5, grid, 0, max_share=0.3)
    assert 0.3 < np.bincount(loose).max() / 560 <= 0.6
    assert np.bincount(tight).max() / 560 <= 0.3
    assert loose_facts["w_km"] < tight_facts["w_km"]
    with pytest.raises(ValueError, match="max_share = 0.4: every division"):
        lon[:300], lat[:300] = 1, 41
        knndm_folds(lon, lat, 5, grid, 0, max_share=0.4)
