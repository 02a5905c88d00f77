"""Places, blocks, splits and folds: whole groups, even shares, the same whatever the order."""

import numpy as np
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.stats.groups import inner_folds, spatial_groups, train_valid_test_split


@pytest.fixture(scope="module")
def clustered():
    """Return lon, lat of 6,000 profiles: clusters of very unequal size."""
    random = np.random.default_rng(1)
    towns = random.uniform([-20, -35], [50, 35], size=(400, 2))
    town = random.choice(400, size=6000, p=(weight := random.lognormal(0, 1.5, 400)) / weight.sum())
    position = towns[town] + random.normal(0, 0.4, size=(6000, 2))
    return position[:, 0], position[:, 1]


# --- groups -------------------------------------------------------------------------------------------------------


def test_a_group_number_is_row_and_column_from_the_south_west_corner():
    assert spatial_groups(np.array([-180.0, -179.4, 0.0]), np.array([-90.0, -90.0, 0.0]), 0.5).tolist() == [0, 1, (180 << 32) + 360]


def test_block_edges_fall_where_they_are_said_to_in_spite_of_rounding():
    lon = np.arange(-1800, 1800) / 10  # 0.1 is no binary number: naive division puts some edges one block off
    assert (spatial_groups(lon, np.full(3600, -90.0), 0.1) == np.arange(3600)).all()


def test_places_closer_than_a_metre_are_one_and_ten_metres_apart_are_two():
    groups = spatial_groups(np.array([10, 10.000001, 10.0001]), np.array([50.0, 50, 50]), None)
    assert groups[0] == groups[1] != groups[2]


def test_both_ends_of_the_date_line_are_one_place():
    assert np.unique(spatial_groups(np.array([-180.0, 180.0]), np.zeros(2))).size == 1


def test_a_block_of_no_width_is_refused():
    with pytest.raises(UserError, match="block_size"):
        spatial_groups(np.zeros(1), np.zeros(1), 1e-7)


# --- split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_groups_stay_whole_and_shares_are_met(clustered, block_size, seed):
    groups = spatial_groups(*clustered, block_size)
    split = train_valid_test_split(groups, 0.1, 0.2, seed)
    assert all(np.unique(split[groups == group]).size == 1 for group in np.unique(groups)[:500])
    for name, share in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        assert (split == name).mean() == pytest.approx(share, abs=0.01)


def test_every_larger_area_has_about_its_share_of_test_blocks(clustered):
    lon, lat = clustered
    groups = spatial_groups(lon, lat, 1.0)
    area = (lon // 20) * 10 + lat // 20
    areas = [area == a for a in np.unique(area) if (area == a).sum() > 200]
    distinct = np.unique(groups)
    even, blind = [], []
    for seed in range(10):
        test = train_valid_test_split(groups, 0.1, 0.2, seed) == "test"
        even.append(np.std([test[a].mean() for a in areas]))
        drawn = np.random.default_rng(seed).permutation(distinct)[: distinct.size // 5]
        blind.append(np.std([np.isin(groups[a], drawn).mean() for a in areas]))
    assert len(areas) > 8
    assert np.mean(even) < 0.06
    assert np.mean(even) < 0.6 * np.mean(blind)


def test_each_group_has_the_same_chance_to_be_held_out():
    groups = spatial_groups(*np.meshgrid(np.arange(6.0), np.arange(5.0)), 1.0).ravel()
    held = np.mean([train_valid_test_split(groups, 0.2, 0.2, seed) == "test" for seed in range(1000)], axis=0)
    assert held == pytest.approx(np.full(30, 0.2), abs=0.055)  # 4.5 standard errors


def test_the_order_of_profiles_does_not_matter_and_the_seed_does(clustered):
    groups = spatial_groups(*clustered, 1.0)
    shuffle = np.random.default_rng(0).permutation(len(groups))
    assert (train_valid_test_split(groups, 0.1, 0.2, 3)[shuffle] == train_valid_test_split(groups[shuffle], 0.1, 0.2, 3)).all()
    assert (train_valid_test_split(groups, 0.1, 0.2, 3) != train_valid_test_split(groups, 0.1, 0.2, 4)).any()


def test_fixed_groups_keep_their_split_and_count_towards_the_shares(clustered):
    groups = spatial_groups(*clustered, 1.0)
    distinct = np.unique(groups)
    fixed = {int(group): "test" for group in distinct[:40]} | {int(group): "train" for group in distinct[40:60]} | {-1: "valid"}
    split = train_valid_test_split(groups, 0.1, 0.2, 0, fixed)
    assert (split[np.isin(groups, distinct[:40])] == "test").all()
    assert (split[np.isin(groups, distinct[40:60])] == "train").all()
    assert (split == "test").mean() == pytest.approx(0.2, abs=0.02)


def test_one_huge_block_does_not_become_the_test_split():
    groups = np.array([7] * 500 + list(range(100, 600)))
    for seed in range(20):
        split = train_valid_test_split(groups, 0.1, 0.2, seed)
        assert (split[0], (split == "test").mean()) == ("train", pytest.approx(0.2, abs=0.02))


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12])
def test_few_groups_still_give_three_splits(count):
    assert all(set(train_valid_test_split(np.arange(count), 0.1, 0.2, seed)) == {"train", "valid", "test"} for seed in range(20))


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UserError, match=r"valid_share 0\.5 and test_share 0\.5"):
        train_valid_test_split(np.arange(9), 0.5, 0.5, 0)


def test_an_unknown_fixed_split_is_refused():
    with pytest.raises(ValueError, match="'tset'"):
        train_valid_test_split(np.arange(9), 0.1, 0.2, 0, {1: "tset"})


# --- folds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_inner_folds_keep_groups_whole_and_are_fewer_where_groups_are(seed):
    groups = np.random.default_rng(0).integers(0, 60, 300)
    folds = inner_folds(groups, 3, seed)
    assert np.unique(folds).tolist() == [0, 1, 2]
    assert all(np.unique(folds[groups == group]).size == 1 for group in np.unique(groups))
    assert np.array_equal(folds, inner_folds(groups, 3, seed))
    assert np.unique(inner_folds(np.array([4, 4, 9, 9]), 3, seed)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 groups cannot be held out"):
        inner_folds(np.zeros(9), 3, seed)
