"""Folds that keep together what they must, and hold out as far as they say; variograms of fields whose range is known."""

import numpy as np
import pandas as pd
import pytest
from conftest import REALDATA, needs_realdata
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_predict

from soilcarbon.io.files import UserError
from soilcarbon.stats.folds import SPATIAL, WAYS, check_no_leak, cluster_regions, make_folds, read_folds, save_folds, splits
from soilcarbon.stats.grouping import group_folds, split_units
from soilcarbon.stats.knndm import draw_places, mismatch
from soilcarbon.stats.metrics import scores
from soilcarbon.stats.variogram import (
    KM_PER_DEGREE,
    Lags,
    Variogram,
    arc_km,
    block_side,
    fit_variogram,
    semivariances,
    unit_vectors,
)


def haversine(lon, lat, other_lon, other_lat):
    lon, lat, other_lon, other_lat = np.radians(lon), np.radians(lat), np.radians(other_lon), np.radians(other_lat)
    h = np.sin((lat - other_lat) / 2) ** 2 + np.cos(lat) * np.cos(other_lat) * np.sin((lon - other_lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def field(n, practical_range, nugget, seed, centre=(10.0, 50.0)):
    """Return lon, lat and a Gaussian field of unit variance with an exponential covariance, in some 450 x 450 km."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    lon = (lon + 180) % 360 - 180
    distance = haversine(lon[:, None], lat[:, None], lon, lat)
    covariance = (1 - nugget) * np.exp(-3 * distance / practical_range) + nugget * np.eye(n)
    return lon, lat, np.linalg.cholesky(covariance) @ random.normal(size=n)


def clusters(n=600, towns=15, seed=0, spread=0.05):
    """Return lon, lat of profiles in small towns of a 10 x 10 degree land, a twentieth of them twins of another."""
    random = np.random.default_rng(seed)
    place = random.uniform([0, 40], [10, 50], (towns, 2))[random.integers(towns, size=n)] + random.normal(0, spread, (n, 2))
    place[: n // 20] = place[n // 20 : 2 * (n // 20)]
    return place[:, 0].round(5), place[:, 1].round(5)


def regular_places():
    """Return lon, lat of 2,500 places, regular over the land of `clusters`."""
    lon, lat = np.meshgrid(np.linspace(0.1, 9.9, 50), np.linspace(40.1, 49.9, 50))
    return lon.ravel(), lat.ravel()


@pytest.fixture(scope="module")
def grid():
    return regular_places()


def draw(way, lon, lat, grid, k=5, seed=0):
    return make_folds(way, lon, lat, k, seed, side=1.0, places=grid)


# --- the sphere and the variogram --------------------------------------------------------------------------------


def test_distances_are_great_circles_also_over_the_date_line_and_the_pole():
    points = unit_vectors(np.array([179.9, -179.9, 0, 180, 0, 0]), np.array([0.0, 0, 89, 89, 0, 1e-5]))
    chord = np.linalg.norm(points[::2] - points[1::2], axis=1)
    assert arc_km(chord) == pytest.approx(np.array([0.2, 2, 1e-5]) * KM_PER_DEGREE, rel=1e-8)
    assert arc_km(2.0) == pytest.approx(180 * KM_PER_DEGREE)


def test_semivariances_of_three_points_by_hand():
    lon, values = np.array([0.0, 1, 3]), np.array([1.0, 3, 7])
    lags = semivariances(lon, np.zeros(3), values, 3, 3.01 * KM_PER_DEGREE, "width", fewest_pairs=1)
    assert lags.km == pytest.approx(np.array([1, 2, 3]) * KM_PER_DEGREE)
    assert lags.semivariance == pytest.approx([2, 8, 18])  # (3 - 1)^2 / 2, (7 - 3)^2 / 2, (7 - 1)^2 / 2
    assert lags.pairs.tolist() == [1, 1, 1]
    one = semivariances(lon, np.zeros(3), values, 2, 3.01 * KM_PER_DEGREE, "width", fewest_pairs=1)
    assert one.semivariance == pytest.approx([2, 13])
    assert one.km == pytest.approx(np.array([1, 2.5]) * KM_PER_DEGREE)


def test_the_robust_semivariance_by_hand():
    lags = semivariances(np.array([0.0, 1, 3]), np.zeros(3), np.array([1.0, 2, 6]), 2, 400, "width", True, fewest_pairs=1)
    two = ((2 + np.sqrt(5)) / 2) ** 4 / (0.457 + 0.494 / 2) / 2  # differences 4 and 5 in the far lag
    assert lags.semivariance == pytest.approx([1 / (0.457 + 0.494) / 2, two])


@pytest.mark.parametrize("edges", ["growing", "width", "count"])
def test_lags_cover_a_third_of_the_extent_and_every_pair_once(edges):
    lon, lat, values = field(150, 100, 0.2, 3)
    distance = haversine(lon[:, None], lat[:, None], lon, lat)[np.triu_indices(150, 1)]
    lags = semivariances(lon, lat, values, 10, edges=edges, fewest_pairs=1)
    within = distance[distance <= distance.max() / 3]
    assert lags.pairs.sum() == within.size
    assert (lags.km * lags.pairs).sum() == pytest.approx(within.sum())
    if edges == "count":
        assert np.ptp(lags.pairs) <= 1


def test_sampled_pairs_tell_what_all_pairs_tell_and_depend_on_the_seed_only():
    lon, lat, values = field(900, 120, 0.2, 1)
    whole = semivariances(lon, lat, values, fewest_pairs=1)
    for most in (20_000, 60_000):  # drawn blindly, and from the list of all 120,000 near pairs
        part, again, other = (semivariances(lon, lat, values, seed=s, most_pairs=most, fewest_pairs=1) for s in (0, 0, 1))
        assert part.km[5:] == pytest.approx(whole.km[5:], rel=0.02)
        assert part.semivariance[5:] == pytest.approx(whole.semivariance[5:], rel=0.1)
        assert (part.semivariance == again.semivariance).all()
        assert (part.pairs != other.pairs).any()


def test_twins_at_one_spot_say_nothing_of_the_nugget():
    lon, lat, values = field(200, 100, 0.5, 0)
    alone = semivariances(lon, lat, values, fewest_pairs=1)
    twins = semivariances(np.tile(lon, 2), np.tile(lat, 2), np.tile(values, 2), fewest_pairs=1)
    assert twins.semivariance == pytest.approx(alone.semivariance)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("practical_range", [30, 60])
def test_a_known_range_and_nugget_are_recovered(robust, practical_range):
    fits = [fit_variogram(semivariances(*field(700, practical_range, 0.3, seed), robust=robust)) for seed in range(8)]
    assert np.median([fit.practical_range for fit in fits]) == pytest.approx(practical_range, rel=0.2)
    assert np.median([fit.nugget for fit in fits]) == pytest.approx(0.3, abs=0.1)
    assert np.median([fit.nugget + fit.sill for fit in fits]) == pytest.approx(1, abs=0.1)


def test_the_robust_semivariance_withstands_wild_residuals():
    lon, lat, values = field(700, 60, 0.3, 2)
    wild = values.copy()
    wild[::70] += 15
    plain, robust = (fit_variogram(semivariances(lon, lat, wild, robust=robust)) for robust in (False, True))
    assert robust.nugget + robust.sill < 1.5 < 3 < plain.nugget + plain.sill
    assert robust.practical_range == pytest.approx(60, rel=0.5)


@pytest.mark.parametrize(("model", "reach"), [("exponential", 3), ("spherical", 1)])
def test_an_exact_model_is_fitted_exactly(model, reach):
    km = np.linspace(5, 200, 15)
    true = Variogram(model, 0.2, 0.8, 120 / reach, True)
    fit = fit_variogram(Lags(km, true.at(km), np.full(15, 100)), model)
    assert fit.practical_range == pytest.approx(120, rel=1e-3)
    assert (fit.nugget, fit.sill) == pytest.approx((0.2, 0.8), rel=1e-3)
    assert fit.bounded


def test_lags_weigh_by_their_pairs_and_inversely_by_the_model_squared():
    lags = semivariances(*field(300, 60, 0.3, 5))
    fit = fit_variogram(lags)
    weight = np.sqrt(lags.pairs) / fit.at(lags.km)
    terms = np.stack([np.ones(lags.km.size), 1 - np.exp(-lags.km / fit.scale)], axis=1)
    by_hand = np.linalg.lstsq(terms * weight[:, None], lags.semivariance * weight)[0]
    assert (fit.nugget, fit.sill) == pytest.approx(by_hand, rel=1e-3)
    assert min(by_hand) > 0.1


def test_a_nugget_is_never_negative_and_a_range_beyond_the_lags_is_told():
    km = np.linspace(5, 200, 15)
    convex = fit_variogram(Lags(km, (km / 200) ** 2, np.full(15, 100)))
    assert convex.nugget == 0
    assert not convex.bounded


def test_noise_has_no_range():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 10, (2, 800))
    ranges = [fit_variogram(semivariances(lon, lat, random.normal(size=800))).practical_range for _ in range(7)]
    assert np.median(ranges) < 20  # of 1,100 km
    assert fit_variogram(Lags(np.arange(1.0, 9), np.zeros(8), np.full(8, 99))).practical_range == 0


def test_a_variogram_does_not_see_the_date_line():
    here, there = (semivariances(*field(300, 100, 0.2, 0, centre)) for centre in ((10, 50), (180, 50)))
    assert there.semivariance == pytest.approx(here.semivariance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.array([1.0, np.nan, 2])}, "finite"),
        ({"lat": np.array([0.0, 91, 0])}, "positions"),
        ({"lat": np.zeros(2)}, "one length"),
        ({"edges": "log"}, "edges"),
        ({}, "2 or more"),
    ],
)
def test_a_variogram_refuses_misuse(change, message):
    with pytest.raises(ValueError, match=message):
        semivariances(**{"lon": np.arange(3.0), "lat": np.zeros(3), "values": np.arange(3.0)} | change)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="gaussian"):
        fit_variogram(Lags(np.ones(2), np.ones(2), np.ones(2)), "gaussian")


# --- the side of blocks ------------------------------------------------------------------------------------------


def test_blocks_are_as_wide_as_the_range():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 20, 2000), random.uniform(-0.1, 20.1, 2000)
    side, why = block_side(lon, lat - 10, 100, 25)
    assert side == pytest.approx(100 / KM_PER_DEGREE, rel=0.01)
    assert "practical range" in why
    north, _ = block_side(lon, 0.01 * lat + 60, 50, 2)
    assert north * KM_PER_DEGREE * np.cos(np.radians(60.1)) == pytest.approx(50, rel=0.01)


def test_blocks_are_narrowed_until_enough_remain_and_no_further(grid):
    side, why = block_side(*grid, 1000, 25)

    def count(side):
        return np.unique(split_units(*grid, "blocks", side)).size

    assert count(side) >= 25 > count(side / 0.95)
    assert why.startswith("narrowed")


def test_blocks_do_not_shrink_below_five_kilometres():
    side, why = block_side(np.array([0.0, 1]), np.array([0.0, 1]), 0, 25)
    assert side == pytest.approx(5 / KM_PER_DEGREE, rel=1e-3)
    assert "narrowest" in why
    assert block_side(np.array([0.0, 1]), np.array([0.0, 1]), 50, 25) == (side, why.replace("over 0", "over 50"))


def test_blocks_take_their_side_from_the_residuals():
    lon, lat, values = field(700, 60, 0.2, 1)
    folds, facts = make_folds("blocks", lon, lat, 3, residuals=values)
    assert facts["range_km"] == pytest.approx(60, rel=0.5)
    assert facts["range_found"]
    assert facts["side_degrees"] * KM_PER_DEGREE * np.cos(np.radians(50)) == pytest.approx(facts["range_km"], rel=0.02)
    check_no_leak(folds, split_units(lon, lat, "blocks", facts["side_degrees"]))


# --- what is kept together ---------------------------------------------------------------------------------------


def test_blocks_are_those_of_split_units(grid):
    lon, lat = clusters(spread=1)
    folds, facts = make_folds("blocks", lon, lat, 5, side=0.7)
    blocks = split_units(lon, lat, "blocks", 0.7)
    check_no_leak(folds, blocks)
    assert facts["blocks"] == np.unique(blocks).size
    with pytest.raises(ValueError, match="in more than one fold"):  # the folds are no coarser than these blocks
        check_no_leak(folds, split_units(lon, lat, "blocks", 1.4))


@pytest.mark.parametrize("way", SPATIAL)
def test_no_place_is_in_two_folds(way, grid):
    lon, lat = clusters()
    check_no_leak(draw(way, lon, lat, grid)[0], split_units(lon, lat, "random"))


def test_single_profiles_do_leak_and_the_guard_says_where():
    lon, lat = clusters()
    folds, _ = make_folds("random", lon, lat)
    with pytest.raises(ValueError, match=r"\d+ of 570 units are in more than one fold, first \d+"):
        check_no_leak(folds, split_units(lon, lat, "random"))
    with pytest.raises(ValueError, match="1 of 2 units are in more than one fold, first 'b'"):
        check_no_leak(np.array([0, 1, 0, 1]), np.array(list("abbb")))


@pytest.mark.parametrize("way", WAYS)
def test_what_a_forest_knows_of_a_place_scores_only_where_twins_are_parted(way, grid):
    random = np.random.default_rng(0)
    place = np.repeat(np.arange(150), 4)  # four profiles each
    lon, lat = (random.uniform(low, low + 10, 150).round(5)[place] for low in (0, 40))
    covariates = np.column_stack([lon, lat, random.normal(size=(150, 3))[place]])  # shared within the place
    y = random.normal(size=150)[place] + random.normal(0, 0.3, 600)  # from place to place nothing but noise: R2 is 0 at best
    folds, _ = draw(way, lon, lat, grid)
    forest = RandomForestRegressor(30, random_state=0)
    r2 = scores(y, cross_val_predict(forest, covariates, y, cv=splits(folds)))["r2"]
    assert r2 > 0.3 if way == "random" else r2 < 0.1


def test_folds_are_level_even_of_unlike_units():
    units = np.repeat(np.arange(60), np.random.default_rng(0).geometric(0.05, 60))
    sizes = np.bincount(group_folds(units, 5, 0))
    assert np.ptp(sizes) <= 3
    assert np.ptp(np.bincount(group_folds(np.arange(103), 10, 0))) == 1
    huge = group_folds(np.array([0] * 50 + list(range(1, 31))), 4, 0)
    assert sorted(np.bincount(huge).tolist()) == [10, 10, 10, 50]


@pytest.mark.parametrize("way", WAYS)
def test_the_seed_is_all_the_chance_there_is(way, grid):
    lon, lat = clusters()
    folds, facts = draw(way, lon, lat, grid)
    again, same = draw(way, lon, lat, grid)
    assert (folds == again).all()
    assert facts == same
    assert np.unique(folds).tolist() == list(range(5))
    assert facts["sizes"] == np.bincount(folds).tolist()
    assert facts["why"] == WAYS[way]
    if way in ("random", "place", "blocks"):
        assert (folds != draw(way, lon, lat, grid, seed=1)[0]).any()


@pytest.mark.parametrize("way", SPATIAL)
def test_the_order_of_rows_does_not_matter(way, grid):
    lon, lat = clusters()
    order = np.random.default_rng(1).permutation(lon.size)
    assert (draw(way, lon[order], lat[order], grid)[0] == draw(way, lon, lat, grid)[0][order]).all()


def test_labelled_regions_are_a_fold_each():
    lon, lat = clusters()
    labels = np.where(lon < 3, "west", np.where(lon < 7, "centre", "east"))
    folds, facts = make_folds("region", lon, lat, regions=labels)
    assert facts["regions"] == ["centre", "east", "west"]
    assert (np.array(facts["regions"])[folds] == labels).all()
    labels[0] = "east" if labels[0] == "west" else "west"  # its twin keeps the other label
    with pytest.raises(ValueError, match="1 of 570 units"):
        make_folds("region", lon, lat, regions=labels)


def test_regions_without_labels_are_clusters_also_over_the_date_line():
    random = np.random.default_rng(0)
    true = np.repeat(np.arange(4), 50)
    lon = np.array([180.0, 150, 60, -90])[true] + random.normal(0, 3, 200)
    lat = np.array([0.0, 40, -50, 80])[true] + random.normal(0, 2, 200)
    assert adjusted_rand_score(true, cluster_regions((lon + 180) % 360 - 180, lat, 4, 0)) == 1


def test_regions_are_of_profiles_not_of_places():
    lon = np.array([0.0, 4, 10])
    assert np.unique(cluster_regions(lon, np.zeros(3), 2, 0), return_inverse=True)[1].tolist() in ([0, 0, 1], [1, 1, 0])
    crowded = cluster_regions(np.repeat(lon, [50, 50, 1]), np.zeros(101), 2, 0)
    assert crowded[0] != crowded[50] == crowded[100]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"way": "loo"}, "way = 'loo'"),
        ({"way": "blocks"}, "side"),
        ({"way": "knndm"}, "places"),
        ({"way": "random", "k": 1}, "k = 1"),
        ({"way": "place", "k": 4}, "k = 4 folds of 3"),
        ({"way": "region", "regions": ["a"] * 4}, "1 regions"),
        ({"way": "region", "regions": ["a", "b"]}, "one length"),
        ({"way": "knndm", "k": 2, "places": (np.zeros(1), np.zeros(1)), "maxp": 0.4}, "maxp = 0.4"),
    ],
)
def test_misuse_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_folds(**{"lon": np.array([0.0, 0, 1, 2]), "lat": np.zeros(4)} | arguments)


# --- use and keeping ---------------------------------------------------------------------------------------------


def test_scikit_learn_takes_the_folds():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 2)), random.normal(size=60)
    folds = group_folds(np.arange(60), 4, 0)
    predicted = cross_val_predict(LinearRegression(), x, y, cv=splits(folds))
    for fold, (train, test) in enumerate(splits(folds).split()):
        assert (folds[test] == fold).all()
        assert sorted([*train, *test]) == list(range(60))
        assert predicted[test] == pytest.approx(LinearRegression().fit(x[train], y[train]).predict(x[test]))


@pytest.fixture
def saved(tmp_path):
    lon, lat = clusters(100)
    folds, facts = make_folds("blocks", lon, lat, 4, side=2)
    ids = [f"{k:03d}" for k in range(99)] + ["NA"]
    save_folds(tmp_path / "folds.csv", ids, folds, facts)
    return tmp_path / "folds.csv", ids, folds, facts


def test_saved_folds_serve_a_table_in_another_order(saved):
    path, ids, folds, facts = saved
    order = np.random.default_rng(0).permutation(100)
    again, same = read_folds(path, [ids[k] for k in order])
    assert (again == folds[order]).all()
    assert same == facts


def test_strange_and_missing_profiles_are_named(saved):
    path, ids, _, _ = saved
    with pytest.raises(UserError, match=r"folds.csv: 2 of 102 profiles have no fold, first 'new'"):
        read_folds(path, [*ids, "new", "newer"])
    with pytest.raises(UserError, match=r"folds.csv: 3 of 100 profiles are not in this table, first '000'"):
        read_folds(path, ids[3:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,0\nb,1.5\nc,\n", "2 of 3 rows, first at 'b'"),
        ("a,0\nb,-1\nc,1\n", "1 of 3 rows, first at 'b'"),
        ("a,0\nb,1\na,1\n", "unique; not so in 1 of 3 rows, first at 'a'"),
    ],
)
def test_spoilt_folds_are_refused(saved, rows, message):
    path, _, _, _ = saved
    path.write_text("profile_id,fold\n" + rows)
    with pytest.raises(UserError, match=message):
        read_folds(path, ["a", "b", "c"])


def test_folds_without_their_facts_are_refused(saved):
    path, ids, _, _ = saved
    path.with_suffix(".yaml").unlink()
    with pytest.raises(UserError, match=r"folds\.yaml"):
        read_folds(path, ids)


def test_only_whole_numberings_of_distinct_profiles_are_saved(tmp_path):
    for ids, folds, message in ((["a", "a"], [0, 1], "distinct"), (["a", "b"], [0, 2], "gap"), (["a", "b"], [0], "one fold")):
        with pytest.raises(ValueError, match=message):
            save_folds(tmp_path / "folds.csv", ids, np.array(folds), {})
    assert not any(tmp_path.iterdir())


# --- real profiles -----------------------------------------------------------------------------------------------


@needs_realdata
def test_kenya_is_held_out_farther_from_way_to_way():
    import rasterio

    box = pd.read_csv(REALDATA / "regions.csv", index_col="region").loc["kenya"]
    profiles = pd.read_csv(REALDATA / "global" / "points.csv")
    inside = profiles["lon"].between(box["lon_min"], box["lon_max"]) & profiles["lat"].between(box["lat_min"], box["lat_max"])
    profiles = profiles[inside]
    lon, lat = profiles["lon"].to_numpy(), profiles["lat"].to_numpy()
    with rasterio.open(REALDATA / "global" / "landmask.tif") as file:
        land, across, down = file.read(1) > 0, *file.xy(np.arange(900), np.arange(900))
        across = np.asarray(file.xy(np.zeros(2160), np.arange(2160))[0])
    land = (
        land
        & ((across > box["lon_min"]) & (across < box["lon_max"]))
        & ((down > box["lat_min"]) & (down < box["lat_max"]))[:, None]
    )
    places = draw_places(land, across, np.asarray(down), 2000, 0)
    residuals = np.log1p(profiles["soc_gkg"].to_numpy())
    drawn = {way: make_folds(way, lon, lat, 5, residuals=residuals, places=places) for way in WAYS}
    sizes = {way: np.array(facts["sizes"]) / len(lon) for way, (_, facts) in drawn.items()}
    assert all(sizes[way].min() > 0.19 and sizes[way].max() < 0.21 for way in ("random", "place", "blocks"))
    assert all(sizes[way].min() > 0.05 and sizes[way].max() <= 0.5 for way in ("region", "knndm"))
    far = {way: facts["median_km"] for way, (_, facts) in drawn.items()}
    assert far["random"] < far["place"] < 10 < far["blocks"] < far["region"]
    assert far["place"] < far["knndm"] < far["region"]
    w = {way: mismatch(lon, lat, folds, places) for way, (folds, _) in drawn.items()}
    assert min(w, key=w.__getitem__) == "knndm"
    assert drawn["blocks"][1]["blocks"] >= 25
