"""Which profiles a member is trained on: never its fold's, nor the world's at the region's places; and what a teacher predicts."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import slow_but
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.training import distillation, ensemble, loop
from soilcarbon.training.distillation import Teacher, mix_profiles
from soilcarbon.training.ensemble import fingerprint, member_seed, prepare_members, train_members
from soilcarbon.training.uncertainty import fold_groups, rows_outside

CPU = torch.device("cpu")
TABLE = (
    Category(name="a", variables=("x", "y", "z")),
    Category(name="relief", variables=("height",), radius=1),
    Category(name="rock", variables=("code",), kind="classes"),
)
WIDTH = 13


@pytest.fixture
def small(monkeypatch):
    """Few trees and few mixtures: what is tested is who is trained on what, not how well."""
    monkeypatch.setattr(distillation, "TREES", 10)
    monkeypatch.setattr(distillation, "WORLD_TREES", 10)
    monkeypatch.setattr(distillation, "MIXED", 200)


def dataset(n=60, seed=0, block_size=None, west=10.0, wide=4.0):
    """Profiles, two of every five at one place, each with a target of its own; of five rows three are training, one validation."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(west, west + wide, n).round(5), random.uniform(50, 50 + wide, n).round(5)
    lon[1::5], lat[1::5] = lon[::5], lat[::5]
    x = random.normal(size=(n, WIDTH)).astype(np.float32)
    x[:, -1] = random.integers(1, 4, n)
    y = np.exp(2 + 0.5 * x[:, 0] - 0.3 * x[:, 1] + random.normal(0, 0.1, n))
    table = pd.DataFrame({"profile_id": [f"{seed}-{k}" for k in range(n)], "lon": lon, "lat": lat})
    split = {name: np.flatnonzero(np.isin(np.arange(n) % 5, which)) for name, which in SPLIT.items()}
    return Dataset(table, x, y, split, TABLE, block_size)


SPLIT = {"train": (0, 1, 2), "valid": (3,), "test": (4,)}


def pretrained(members=1):
    statistics = {name: (0.0, 1.0) for name in ("x", "y", "z", "height")}
    facts = {"categories": TABLE, "statistics": statistics, "classes": {"code": (1, 2, 3)}, "members": members}
    return SoilCarbonNet(Specification(**facts, target_transform="log1p", center="median")).blank(5)


def settings(**values):
    plain = {"data_dir": "d", "init_from": "p.pth", "tensorboard": False, "select_on": "none", "patience": 0, "epochs": 2}
    return RegionalSettings(**plain | {"members": 3, "validate_on": "folds"} | values)


def prepare(data, world=None, start=None, **values):
    how = settings(**values)
    distil = distillation.distil if how.teacher != "none" else None
    return prepare_members(start or pretrained(), data, how, how.init_from is not None, CPU, world, distil)


def trained(data, world=None, **values):
    """Return each member's weights after a short run."""
    return [best.weights["final_regressor.0.weight"] for best in train_members(prepare(data, world, **values))]


def with_targets(data, rows, values):
    y = data.y.copy()
    y[rows] = values
    return replace(data, y=y)


def targets(members, k):
    """Return the targets of the profiles that member k is trained on, and validated on."""
    return tuple(set(members.data.profiles.take(chosen).y.tolist()) for chosen in members.data.chosen(k))


# --- folds ----------------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("small_learners", "small")


@pytest.mark.parametrize("block_size", [None, 0.5])
def test_each_member_holds_its_fold_out_and_no_place_or_block_is_in_two(block_size):
    data = dataset(block_size=block_size)
    members = prepare(data)
    rows, folds = members.data.rows, members.data.folds
    assert sorted(rows) == sorted([*data.split["train"], *data.split["valid"]])
    assert set(folds) == {0, 1, 2}
    assert np.ptp(np.bincount(folds)) <= 6
    groups = fold_groups(data)[rows]
    assert len(np.unique(groups)) < len(groups)
    assert all(len(set(folds[groups == group])) == 1 for group in np.unique(groups))
    for k in range(3):
        assert targets(members, k) == (set(data.y[rows[folds != k]]), set(data.y[rows[folds == k]]))


def test_without_folds_all_members_have_the_splits():
    data = dataset()
    members = prepare(data, validate_on="split")
    assert members.data.folds is None
    for k in range(3):
        assert targets(members, k) == tuple(set(data.y[data.split[name]]) for name in ("train", "valid"))


@pytest.mark.parametrize(
    ("teacher", "block_size"), slow_but(product(("none", "ensemble"), (None, 0.5)), ("none", None), ("ensemble", 0.5))
)
def test_a_member_does_not_depend_on_the_targets_of_its_fold(teacher, block_size):
    data, world = dataset(block_size=block_size), dataset(80, 1, west=12.0) if teacher != "none" else None
    known = prepare(data).data
    first = trained(data, world, teacher=teacher)
    other = trained(with_targets(data, known.rows[known.folds == 1], 700.0), world, teacher=teacher)
    assert [torch.equal(a, b) for a, b in zip(first, other, strict=True)] == [k == 1 for k in range(3)]


@pytest.mark.parametrize(
    ("teacher", "validate_on"),
    slow_but(product(("none", "ensemble"), ("folds", "split")), ("none", "split"), ("ensemble", "folds")),
)
def test_no_member_depends_on_the_targets_of_the_test_split(teacher, validate_on):
    data, world = dataset(), dataset(80, 1, west=12.0) if teacher != "none" else None
    first = trained(data, world, teacher=teacher, validate_on=validate_on)
    other = trained(with_targets(data, data.split["test"], 700.0), world, teacher=teacher, validate_on=validate_on)
    assert all(map(torch.equal, first, other))
    if validate_on == "split":  # nor, where no score chooses, on those of the validation split
        other = trained(with_targets(data, data.split["valid"], 700.0), world, teacher=teacher, validate_on=validate_on)
        assert all(map(torch.equal, first, other))


def test_the_epoch_is_chosen_on_the_members_own_fold(monkeypatch):
    start, data, best = pretrained(), dataset(), {}
    start.respecify(bounds=(0.0, 1000.0))
    members = prepare(data, start=start, select_on="mae", epochs=4, lr=0.01)
    evaluate = loop.evaluate

    def recorded(optimiser, sets, *more):
        scores = evaluate(optimiser, sets, *more)
        best.setdefault(frozenset(sets.valid.y.tolist()), []).append(scores["valid"]["mae"])
        return scores

    monkeypatch.setattr(loop, "evaluate", recorded)
    found = [best.epoch for best in train_members(members)]
    assert found == [int(np.argmin(best[frozenset(targets(members, k)[1])])) for k in range(3)]


def test_fewer_blocks_than_members_are_an_error():
    data = dataset(block_size=2.0)
    found = len(np.unique(fold_groups(data)[np.concatenate([data.split["train"], data.split["valid"]])]))
    with pytest.raises(UserError, match=f"{found} places or blocks cannot be held out by {found + 1} members"):
        prepare(data, members=found + 1)
    assert set(prepare(data, members=found).data.folds) == set(range(found))


# --- the world --------------------------------------------------------------------------------------------------------------


def planted(world, region, shift):
    """Return the world with a training profile near each of the region's, of an absurd target."""
    n = len(region.y)
    table = pd.DataFrame({"profile_id": [f"p{k}" for k in range(n)], "lon": region.lon + shift, "lat": region.lat})
    split = world.split | {"train": np.concatenate([world.split["train"], len(world.y) + np.arange(n)])}
    joined = pd.concat([world.table, table], ignore_index=True)
    return Dataset(joined, np.concatenate([world.x, region.x]), np.concatenate([world.y, np.full(n, 900.0)]), split, TABLE, None)


@pytest.mark.parametrize("block_size", slow_but([None, 0.5], 0.5))
def test_the_worlds_profiles_at_the_regions_places_never_reach_the_teacher_and_others_do(block_size):
    region, world = dataset(block_size=block_size), dataset(80, 1, west=40.0)
    shift = 0.0
    if block_size:  # not at the same place but in the same block
        side = np.floor((region.lon + 180) / 0.5 + 1e-9) * 0.5 - 180
        shift = np.where(region.lon - side < 0.25, 0.2, -0.2)
    leaky = planted(world, region, shift)
    assert set(rows_outside(leaky, region)) == set(world.split["train"])
    first, same, other = (
        trained(region, each, teacher="ensemble", members=2) for each in (world, leaky, planted(world, region, 30.0))
    )
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def test_rows_outside_are_the_worlds_training_rows_in_no_place_or_block_of_the_region():
    region = dataset(block_size=0.5)
    world = dataset(40, 1, west=40.0)
    table = world.table.copy()
    table.loc[[0, 3, 6], ["lon", "lat"]] = region.table.loc[[2, 3, 4], ["lon", "lat"]].to_numpy()  # of each split one
    world = replace(world, table=table)
    assert set(world.split["train"]) - set(rows_outside(world, region)) == {0, 6}  # row 3 is of the validation split
    table.loc[0, "lon"] += 1e-4
    assert set(world.split["train"]) - set(rows_outside(replace(world, table=table), replace(region, block_size=None))) == {6}


def test_a_world_of_the_regions_places_alone_is_an_error():
    with pytest.raises(UserError, match="every training profile lies in a place or block of this region"):
        prepare(dataset(), dataset(), teacher="ensemble")


def test_a_resumed_run_must_have_the_same_world():
    region, world = dataset(), dataset(80, 1, west=40.0)
    how = settings(teacher="ensemble", global_data="w")
    row = world.split["train"][0]
    prints = []
    for each in (world, dataset(80, 1, west=40.0), with_targets(world, [row], 5.0), None):
        members = prepare(region, each, teacher="ensemble")
        prints.append(fingerprint(members, how))
    assert prints[0] == prints[1]
    assert prints[2] != prints[0] != prints[3]
    assert fingerprint(members, how.model_copy(update={"global_data": "moved"})) == prints[3]


def test_processes_side_by_side_read_the_same_data_from_their_shared_file():
    members = prepare(dataset(), dataset(80, 1, west=40.0), teacher="ensemble")
    small = replace(members, pretrained=[], data=members.data.without_arrays())
    again = ensemble._with_tensors(small, ensemble._tensors_of(members))
    how = settings(teacher="ensemble", global_data="w")
    assert fingerprint(again, how) == fingerprint(members, how)
    for name in ("x", "world_x"):
        np.testing.assert_array_equal(getattr(again.data.raw, name), getattr(members.data.raw, name))


# --- distilled training sets -----------------------------------------------------------------------------------------------


@pytest.fixture
def distilled(monkeypatch):
    """Return the training sets that every member of an ensemble is fitted to."""

    def sets_of(members):
        seen = []
        monkeypatch.setattr(ensemble, "fit", lambda _, sets, schedule, *__: seen.append((sets, schedule)) or loop.Best(0, None, {}))
        train_members(members)
        return seen

    return sets_of


@pytest.mark.parametrize("world", [None, dataset(80, 1, west=40.0)], ids=["alone", "world"])
def test_the_network_is_trained_on_the_teachers_predictions_for_mixed_profiles(world, distilled, monkeypatch):
    data, fitted = dataset(), []

    class Sum:
        """Predicts the sum of its inputs."""

        def __init__(self, seed):
            self.seed = seed

        def fit(self, region, output, world, world_output, prior):
            assert prior is None
            fitted.append((self.seed, len(region), output.max(), None if world is None else (len(world), len(world_output))))
            return self

        def predict(self, encoded, prior):
            assert prior is None
            return encoded.sum(1)

    monkeypatch.setattr(distillation, "Teacher", Sum)
    members = prepare(data, world, teacher="ensemble", init_from=None)
    found = [sets for sets, _ in distilled(members)]
    for k, sets in enumerate(found):
        known = data.y[members.data.rows[members.data.folds != k]]
        there = None if world is None else (48, 48)
        assert fitted[k] == (member_seed(314, k), len(known), pytest.approx(np.log1p(known.max())), there)
        assert sets.fit.encoded.shape == (200, 15)  # 3 + 9 + three classes
        torch.testing.assert_close(sets.fit.output, sets.fit.encoded.sum(1))
        assert set(sets.train.y) == set(known)
        classes = sets.fit.encoded[:, -3:]
        assert ((classes == 0) | (classes == 1)).all()
        assert (classes.sum(1) == 1).all()
    assert not torch.equal(found[0].fit.encoded, found[1].fit.encoded)


def test_the_network_itself_fine_tuned_has_its_share_in_the_predictions(distilled, monkeypatch):
    class Zero:
        """Predicts nothing."""

        def __init__(self, _):
            self.fit = lambda *_: self

        def predict(self, encoded, prior):
            priors.append(prior)
            return np.zeros(len(encoded))

    monkeypatch.setattr(distillation, "Teacher", Zero)
    start, priors = pretrained(members=2), []
    members = prepare(dataset(), teacher="ensemble", start=start)
    seen = distilled(members)  # "fit" does nothing: the network is not tuned at all
    for k in range(3):
        (tuned, how), (sets, learns) = seen[2 * k : 2 * k + 2]
        own = loop.outputs_of(list(start.members())[k % 2], sets.fit.encoded)
        torch.testing.assert_close(sets.fit.output, distillation.NETWORK_SHARE * own)
        torch.testing.assert_close(torch.from_numpy(priors[k]).float(), own)
        assert tuned.fit is tuned.train
        assert set(tuned.train.y) == set(sets.train.y)
        assert (how.select_on, how.epochs, how.seed) == ("none", 30, member_seed(member_seed(314, k), 0))
        assert how.dropout and not learns.dropout  # profiles have noise, a teacher's predictions have none
    assert prepare(dataset()).schedule.dropout


def test_same_seed_same_members_other_seed_others_and_the_network_is_left_as_it_was():
    data, world, start = dataset(), dataset(80, 1, west=40.0), pretrained()
    before = start.copy_of_tensors()
    how = {"teacher": "ensemble", "members": 2, "start": start}
    first, again, other = (trained(data, world, seed=seed, **how) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert all(torch.equal(value, before[name]) for name, value in start.tensors().items())


# --- the teacher --------------------------------------------------------------------------------------------------------


def world_of(n, seed, noise=0.1, width=6):
    """Return inputs and outputs of a smooth function of three of them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, width)).astype(np.float32)
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] - 0.3 * x[:, 2] + noise * random.normal(size=n)


def rmse(teacher, x, y):
    return float(np.sqrt(np.mean((teacher.predict(x) - y) ** 2)))


def test_the_teacher_learns_a_smooth_function():
    x, y = world_of(400, 0, noise=0)
    assert rmse(Teacher(1).fit(*world_of(200, 1), None, None), x, y) < 0.5 * y.std()


@pytest.mark.slow
def test_a_world_of_the_same_function_helps_few_profiles(monkeypatch):
    monkeypatch.setattr(distillation, "TREES", 30)
    x, y = world_of(400, 0, noise=0)
    world, errors = world_of(1000, 99), []
    for seed in range(1, 7):
        few = world_of(12, seed)
        errors.append([rmse(Teacher(1).fit(*few, *more), x, y) for more in ((None, None), world)])
    alone, helped = np.mean(errors, axis=0)
    assert helped < 0.93 * alone


def test_the_region_has_its_share_of_all_weight(monkeypatch):
    weights = []
    plain = distillation.ExtraTreesRegressor.fit

    def fit(self, x, y, sample_weight=None):
        weights.append(sample_weight)
        return plain(self, x, y, sample_weight)

    monkeypatch.setattr(distillation.ExtraTreesRegressor, "fit", fit)
    Teacher(0).fit(*world_of(20, 0), *world_of(300, 1))
    alone, common = weights
    assert alone is None
    assert common[:20].sum() / common.sum() == pytest.approx(distillation.REGION_SHARE)
    assert (len(common), common.sum()) == (320, pytest.approx(320))
    assert len(np.unique(common[:20])) == len(np.unique(common[20:])) == 1


def test_the_process_is_of_the_outputs_less_the_pretrained_networks(monkeypatch):
    monkeypatch.setattr(distillation, "TREES", 10)
    monkeypatch.setattr(distillation, "WORLD_TREES", 10)
    (x, y), (places, true) = world_of(30, 1, noise=0), world_of(200, 2, noise=0)
    near = Teacher(1).fit(x, y, None, None, y + 0.5)  # a prior that is right but for its level
    process = 3 * near.predict(places, true + 0.5) - sum(trees.predict(places) for trees in near._trees)
    np.testing.assert_allclose(process, true, atol=1e-6)
    assert [type(trees).__name__ for trees in near._trees] == ["ExtraTreesRegressor", "RandomForestRegressor"]


@pytest.mark.parametrize("world", [(None, None), world_of(200, 3)], ids=["alone", "world"])
def test_three_profiles_suffice(world):
    x, y = world_of(3, 1)
    predicted = Teacher(0).fit(x, y, *world).predict(world_of(50, 2)[0])
    assert predicted.shape == (50,)
    assert np.abs(predicted - y.mean()).max() < 2 * np.ptp(np.concatenate([y, *([] if world[1] is None else [world[1]])]))


@pytest.mark.parametrize("value", [0.0, 0.1, 3.7])
def test_a_constant_target_is_predicted_everywhere(value):
    predicted = Teacher(0).fit(world_of(30, 1)[0], np.full(30, value), None, None).predict(world_of(50, 2)[0])
    np.testing.assert_allclose(predicted, value, atol=1e-9)


def test_more_profiles_than_the_process_affords(monkeypatch):
    monkeypatch.setattr(distillation, "MOST_KERNEL_ROWS", 60)
    monkeypatch.setattr(distillation, "ROWS_TO_FIT_KERNEL", 30)
    x, y = world_of(400, 0, noise=0)
    teacher = Teacher(1).fit(*world_of(200, 1), None, None)
    assert len(teacher._process.X_train_) == 60
    assert rmse(teacher, x, y) < 0.6 * y.std()


def test_same_seed_same_predictions_to_the_bit_other_seed_others():
    region, world, places = world_of(60, 1), world_of(500, 2), world_of(5000, 3)[0]
    first = Teacher(4).fit(*region, *world)
    predicted = first.predict(places)
    np.testing.assert_array_equal(first.predict(places), predicted)  # trees that predict side by side would not add up alike
    np.testing.assert_array_equal(Teacher(4).fit(*region, *world).predict(places), predicted)
    assert not np.array_equal(Teacher(5).fit(*region, *world).predict(places), predicted)


# --- mixed profiles ----------------------------------------------------------------------------------------------

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
    made = mix_profiles(region, world, VARIABLES, CODED, seed, count)
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
    assert swapped.mean() == pytest.approx(distillation.SWAPPED, abs=0.01)
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
    assert far[first > 0.501].mean() == pytest.approx(1 - distillation.SWAPPED, abs=0.03)


def many(n, seed, low, high, missing=0.0):
    random = np.random.default_rng(seed)
    x = random.uniform(low, high, (n, len(VARIABLES)))
    x[:, CODED] = random.choice([1.0, 50.0], (n, 4))
    x[random.random(x.shape) < missing] = np.nan
    return x.astype(np.float32)


def test_without_a_world_only_profiles_of_the_region_are_mixed():
    region, world = many(20, 0, 0, 1), many(30, 1, 9, 10)
    alone = mix_profiles(region, None, VARIABLES, CODED, 0, 1000)
    with_world = mix_profiles(region, world, VARIABLES, CODED, 0, 1000)
    assert (alone >= region.min(0) - 1e-6).all()
    assert (alone <= region.max(0) + 1e-6).all()
    assert with_world[:, ~CODED].max() > 5
    for made in (alone, with_world):
        assert set(np.unique(made[:, CODED])) == {1.0, 50.0}


def test_only_the_nearest_of_the_world_are_mixed_in(monkeypatch):
    monkeypatch.setattr(distillation, "NEAR", 5)
    world = np.repeat([[9.0, 9.0], [1.0, 0.0]], [95, 5], axis=0)
    assert set(distillation.nearest_profiles(np.zeros((20, 2)), world)) == set(range(95, 100))


def test_missing_cells_stay_missing_and_spoil_no_others():
    region, world = many(40, 0, 0, 1, missing=0.2), many(40, 1, 0, 1, missing=0.2)
    region[:, 20] = world[:, 20] = np.nan
    region[:, 21], world[:, 21] = 0.5, 0.6
    made = mix_profiles(region, world, VARIABLES, CODED, 0, 3000)
    assert np.isnan(made[:, 20]).all()
    assert not np.isnan(made[:, 21]).any()
    assert not np.isinf(made).any()
    rest = np.isnan(np.delete(made[:, ~CODED], [20, 21], axis=1)).mean()
    assert 0.2 < rest < 1 - 0.8**2 + 0.02  # one parent or two
    codes = made[:, CODED]
    assert set(np.unique(codes[~np.isnan(codes)])) == {1.0, 50.0}
    assert np.isnan(codes).mean() == pytest.approx(0.2, abs=0.05)  # of one parent only


def test_a_teacher_of_one_region_leaves_out_what_fails_there():
    """Steps in one of six inputs: a third of the inputs at a split misses it, and a smooth process fails."""
    random = np.random.default_rng(1)
    x = random.normal(size=(520, 6)).astype(np.float32)
    y = np.where(x[:, 0] > 0.3, 2.0, 0.0) + np.where(x[:, 0] > 1.2, 3.0, 0.0) + (x[:, 0] > 0.3) * x[:, 1]
    teacher = Teacher(0).fit(x[:120], y[:120], None, None)
    forest = RandomForestRegressor(100, random_state=0).fit(x[:120], y[:120])
    errors = [float(np.mean((each.predict(x[120:]) - y[120:]) ** 2)) for each in (teacher, forest)]
    assert errors[0] < 1.4 * errors[1]  # 0.37 and 0.30; 0.98 of equal shares, 0.7 of a third of the inputs
    shares = teacher._shares / teacher._shares.sum()
    assert shares[-1] < 0.1  # the process's


def test_shares_are_inverse_squares_of_errors_of_profiles_held_out():
    random = np.random.default_rng(2)
    x = random.normal(size=(90, 4)).astype(np.float32)
    y = x[:, 0] + 0.5 * random.normal(size=90)
    teacher = Teacher(0).fit(x, y, None, None)
    errors = teacher._skill(x, y)
    assert len(errors) == 3 and (errors > 0.1).all() and (errors < 0.6).all()  # of a variance of 1, 0.2 of which is noise
    process = teacher._process.predict(x.astype(np.float64)) * teacher._scale + teacher._centre
    each = np.array([*(trees.predict(x) for trees in teacher._trees), process])
    shares = errors**-2.0 / (errors**-2.0).sum()
    np.testing.assert_allclose(teacher.predict(x), shares @ each)
    world = random.normal(size=(50, 4)).astype(np.float32)
    assert Teacher(0).fit(x, y, world, world[:, 0])._shares is None
