"""The teacher: its answers are good, repeatable and weighted as said; made-up places lie between profiles."""

import numpy as np
import pytest

from soilcarbon.training import teacher as teachers
from soilcarbon.training.teacher import Teacher, make_up_places


def world_of(n, seed, noise=0.1, width=6):
    """Return inputs and outputs of a smooth function of three of them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, width)).astype(np.float32)
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] - 0.3 * x[:, 2] + noise * random.normal(size=n)


def rmse(teacher, x, y):
    return float(np.sqrt(np.mean((teacher.predict(x) - y) ** 2)))


# --- the teacher --------------------------------------------------------------------------------------------------------


def test_it_tells_a_smooth_function_from_the_mean():
    x, y = world_of(400, 0, noise=0)
    assert rmse(Teacher(1).fit(*world_of(200, 1), None, None), x, y) < 0.5 * y.std()


def test_a_world_of_the_same_function_helps_few_profiles(monkeypatch):
    monkeypatch.setattr(teachers, "TREES", 30)
    x, y = world_of(400, 0, noise=0)
    world, errors = world_of(1000, 99), []
    for seed in range(1, 7):
        few = world_of(12, seed)
        errors.append([rmse(Teacher(1).fit(*few, *more), x, y) for more in ((None, None), world)])
    alone, helped = np.mean(errors, axis=0)
    assert helped < 0.93 * alone


def test_the_region_has_its_share_of_all_weight(monkeypatch):
    weights = []
    plain = teachers.ExtraTreesRegressor.fit

    def fit(self, x, y, sample_weight=None):
        weights.append(sample_weight)
        return plain(self, x, y, sample_weight)

    monkeypatch.setattr(teachers.ExtraTreesRegressor, "fit", fit)
    Teacher(0).fit(*world_of(20, 0), *world_of(300, 1))
    alone, common = weights
    assert alone is None
    assert common[:20].sum() / common.sum() == pytest.approx(teachers.REGION_SHARE)
    assert (len(common), common.sum()) == (320, pytest.approx(320))
    assert len(np.unique(common[:20])) == len(np.unique(common[20:])) == 1


@pytest.mark.parametrize("world", [(None, None), world_of(200, 3)], ids=["alone", "world"])
def test_three_profiles_are_enough(world):
    x, y = world_of(3, 1)
    answers = Teacher(0).fit(x, y, *world).predict(world_of(50, 2)[0])
    assert answers.shape == (50,)
    assert np.abs(answers - y.mean()).max() < 2 * np.ptp(np.concatenate([y, *([] if world[1] is None else [world[1]])]))


@pytest.mark.parametrize("value", [0.0, 0.1, 3.7])
def test_a_constant_target_is_answered_everywhere(value):
    answers = Teacher(0).fit(world_of(30, 1)[0], np.full(30, value), None, None).predict(world_of(50, 2)[0])
    np.testing.assert_allclose(answers, value, atol=1e-9)


def test_more_profiles_than_the_process_affords(monkeypatch):
    monkeypatch.setattr(teachers, "MOST_KERNEL_ROWS", 60)
    monkeypatch.setattr(teachers, "ROWS_TO_FIT_KERNEL", 30)
    x, y = world_of(400, 0, noise=0)
    teacher = Teacher(1).fit(*world_of(200, 1), None, None)
    assert len(teacher._process.X_train_) == 60
    assert rmse(teacher, x, y) < 0.6 * y.std()


def test_same_seed_same_answers_to_the_bit_other_seed_others():
    region, world, places = world_of(60, 1), world_of(500, 2), world_of(5000, 3)[0]
    first = Teacher(4).fit(*region, *world)
    answers = first.predict(places)
    np.testing.assert_array_equal(first.predict(places), answers)  # trees that answer side by side would not add up alike
    np.testing.assert_array_equal(Teacher(4).fit(*region, *world).predict(places), answers)
    assert not np.array_equal(Teacher(5).fit(*region, *world).predict(places), answers)


# --- places between profiles ----------------------------------------------------------------------------------------------

VARIABLES = np.repeat(np.arange(41), [9, *[1] * 39, 4])
"""A window of nine cells, 39 single cells, and a window of four class codes."""
CODED = VARIABLES == 40
NEAR_CODE, FAR_CODE = 3.0, 100.0


def two_profiles():
    """Return a profile of a region and one of the world, apart in every cell."""
    random = np.random.default_rng(0)
    region = random.normal(size=(1, len(VARIABLES)))
    world = region + random.uniform(1, 2, region.shape) * random.choice([-1, 1], region.shape)
    region[:, CODED], world[:, CODED] = NEAR_CODE, FAR_CODE
    return region.astype(np.float32), world.astype(np.float32)


def made_between(seed=0, count=4000):
    region, world = two_profiles()
    made = make_up_places(region, world, (region[:, :5], world[:, :5]), VARIABLES, CODED, seed, count)
    return made, (made.astype(np.float64) - region) / (world.astype(np.float64) - region)


def test_places_lie_between_their_two_profiles():
    made, ratio = made_between()
    assert (made.dtype, made.shape) == (np.float32, (4000, len(VARIABLES)))
    assert ratio.min() > -1e-5
    assert ratio.max() < 1 + 1e-5
    first = np.median(ratio[:, 9:48], axis=1)
    quarters = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(np.quantile(first[first > 1e-3], quarters), quarters, atol=0.05)  # at any ratio alike


def test_a_place_is_one_mixture_but_for_some_variables_whose_cells_go_together():
    ratio = made_between()[1]
    np.testing.assert_allclose(ratio[:, :9], ratio[:, :1] * np.ones(9), atol=1e-4)  # the window
    singles = ratio[:, 9:48]
    first = np.median(singles, axis=1)
    swapped = np.abs(singles - first[:, None]) > 1e-3
    assert swapped.mean() == pytest.approx(teachers.SWAPPED, abs=0.01)
    some = swapped.any(1)
    second = np.nanmedian(np.where(swapped, singles, np.nan)[some], axis=1)
    assert np.abs((singles[some] - second[:, None])[swapped[some]]).max() < 1e-3  # all of them of one other mixture
    assert second.max() < 0.5 + 1e-3  # so the profile of the region stays the nearer one


def test_codes_are_those_of_the_nearer_profile():
    made, ratio = made_between()
    codes = made[:, CODED]
    assert set(np.unique(codes)) == {NEAR_CODE, FAR_CODE}
    assert (codes == codes[:, :1]).all()
    first, far = np.median(ratio[:, 9:48], axis=1), codes[:, 0] == FAR_CODE
    assert (first[far] > 0.499).all()
    assert far[first > 0.501].mean() == pytest.approx(1 - teachers.SWAPPED, abs=0.03)


def many(n, seed, low, high, missing=0.0):
    random = np.random.default_rng(seed)
    x = random.uniform(low, high, (n, len(VARIABLES)))
    x[:, CODED] = random.choice([1.0, 50.0], (n, 4))
    x[random.random(x.shape) < missing] = np.nan
    return x.astype(np.float32)


def test_without_a_world_only_profiles_of_the_region_are_mixed():
    region, world = many(20, 0, 0, 1), many(30, 1, 9, 10)
    alone = make_up_places(region, None, (region, None), VARIABLES, CODED, 0, 1000)
    with_world = make_up_places(region, world, (region, world), VARIABLES, CODED, 0, 1000)
    assert (alone >= region.min(0) - 1e-6).all()
    assert (alone <= region.max(0) + 1e-6).all()
    assert with_world[:, ~CODED].max() > 5
    for made in (alone, with_world):
        assert set(np.unique(made[:, CODED])) == {1.0, 50.0}


def test_only_the_likest_of_the_world_are_mixed_in(monkeypatch):
    monkeypatch.setattr(teachers, "NEAR", 5)
    region = many(20, 0, 0, 1)
    world = np.concatenate([many(95, 1, 1000, 1001), many(5, 2, 1, 2)])
    likeness = np.zeros((20, 2)), np.repeat([[9.0, 9.0], [1.0, 0.0]], [95, 5], axis=0)
    made = make_up_places(region, world, likeness, VARIABLES, CODED, 0, 2000)[:, ~CODED]
    assert 1.5 < made.max() <= 2


def test_missing_cells_stay_missing_and_spoil_no_others():
    region, world = many(40, 0, 0, 1, missing=0.2), many(40, 1, 0, 1, missing=0.2)
    region[:, 20] = world[:, 20] = np.nan
    region[:, 21], world[:, 21] = 0.5, 0.6
    made = make_up_places(region, world, (np.nan_to_num(region), np.nan_to_num(world)), VARIABLES, CODED, 0, 3000)
    assert np.isnan(made[:, 20]).all()
    assert not np.isnan(made[:, 21]).any()
    assert not np.isinf(made).any()
    rest = np.isnan(np.delete(made[:, ~CODED], [20, 21], axis=1)).mean()
    assert 0.2 < rest < 1 - 0.8**2 + 0.02  # one parent or two
    codes = made[:, CODED]
    assert set(np.unique(codes[~np.isnan(codes)])) == {1.0, 50.0}
    assert np.isnan(codes).mean() == pytest.approx(0.2, abs=0.05)  # of one parent only


def test_same_seed_same_places():
    first, again, other = (made_between(seed, 50)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
