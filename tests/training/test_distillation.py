"""Who learns from what: every member without its fold, a teacher without the world's profiles at the region's places."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.training import distillation as lessons
from soilcarbon.training import loop as engine
from soilcarbon.training import teacher as teachers
from soilcarbon.training.distillation import elsewhere, fold_units, plan_lessons
from soilcarbon.training.resume import fingerprint
from soilcarbon.training.teacher import make_up_places

CPU = torch.device("cpu")
TABLE = (
    Category(name="a", variables=("x", "y", "z")),
    Category(name="relief", variables=("height",), radius=1),
    Category(name="rock", variables=("code",), kind="classes"),
)
WIDTH = 13


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few trees and few places: what is asked here is who learns from what, not how well."""
    monkeypatch.setattr(teachers, "TREES", 10)
    monkeypatch.setattr(teachers, "make_up_places", partial(make_up_places, count=200))


def dataset(n=60, seed=0, block_size=None, west=10.0, wide=4.0):
    """Profiles, two of every five at one place, each with a target of its own; of five rows three teach and one chooses."""
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


def learnt(data, world=None, **values):
    """Return each member's weights after a short run."""
    how = settings(**values)
    start = pretrained()
    plan = plan_lessons(start, data, how, CPU, world)
    network = engine.fit(start, plan.train, plan.valid, how, lessons=plan.lesson)
    return [torch.cat([value.flatten() for value in member.tensors().values()]) for member in network.members()]


def with_targets(data, rows, values):
    y = data.y.copy()
    y[rows] = values
    return replace(data, y=y)


def of(profiles):
    return set(profiles.y.tolist())


# --- folds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 0.5])
def test_each_member_holds_its_fold_out_and_no_place_or_block_is_in_two(block_size):
    data = dataset(block_size=block_size)
    plan = plan_lessons(pretrained(), data, settings(), CPU)
    assert sorted(plan.rows) == sorted([*data.split["train"], *data.split["valid"]])
    assert set(plan.folds) == {0, 1, 2}
    assert np.ptp(np.bincount(plan.folds)) <= 6
    units = fold_units(data)[plan.rows]
    assert len(np.unique(units)) < len(units)
    assert all(len(set(plan.folds[units == unit])) == 1 for unit in np.unique(units))
    for k in range(3):
        lesson = plan.lesson(k)
        assert of(lesson.choose) == set(data.y[plan.rows[plan.folds == k]])
        assert of(lesson.known) == set(data.y[plan.rows[plan.folds != k]])
        assert lesson.teach is lesson.known


def test_without_folds_all_members_have_the_splits():
    data = dataset()
    plan = plan_lessons(pretrained(), data, settings(validate_on="split"), CPU)
    assert plan.folds is None
    for k in range(3):
        lesson = plan.lesson(k)
        assert (of(lesson.known), of(lesson.choose)) == (of(plan.train), of(plan.valid))
    assert of(plan.train) == set(data.y[data.split["train"]])
    assert of(plan.valid) == set(data.y[data.split["valid"]])


@pytest.mark.parametrize("teacher", ["none", "ensemble"])
@pytest.mark.parametrize("block_size", [None, 0.5])
def test_a_member_does_not_know_the_targets_of_its_fold(teacher, block_size):
    data, world = dataset(block_size=block_size), dataset(80, 1, west=12.0) if teacher != "none" else None
    rows, folds = (plan := plan_lessons(pretrained(), data, settings(), CPU)).rows, plan.folds
    first = learnt(data, world, teacher=teacher)
    for fold in (0, 2):
        other = learnt(with_targets(data, rows[folds == fold], 700.0), world, teacher=teacher)
        assert [torch.equal(a, b) for a, b in zip(first, other, strict=True)] == [k == fold for k in range(3)]


@pytest.mark.parametrize("teacher", ["none", "ensemble"])
@pytest.mark.parametrize("validate_on", ["folds", "split"])
def test_no_member_knows_the_targets_of_the_test_split(teacher, validate_on):
    data, world = dataset(), dataset(80, 1, west=12.0) if teacher != "none" else None
    first = learnt(data, world, teacher=teacher, validate_on=validate_on)
    other = learnt(with_targets(data, data.split["test"], 700.0), world, teacher=teacher, validate_on=validate_on)
    assert all(map(torch.equal, first, other))
    if validate_on == "split":  # nor, where no score chooses, those of the validation split
        other = learnt(with_targets(data, data.split["valid"], 700.0), world, teacher=teacher, validate_on=validate_on)
        assert all(map(torch.equal, first, other))


def test_the_epoch_is_chosen_on_the_members_own_fold():
    how = settings(select_on="mae", epochs=4, lr=0.01)
    start, data = pretrained(), dataset()
    start.respecify(bounds=(0.0, 1000.0))
    plan = plan_lessons(start, data, how, CPU)
    best = {}
    plain = engine.evaluate

    def evaluate(outputs_for, train, valid, facts):
        scores = plain(outputs_for, train, valid, facts)
        best.setdefault(frozenset(of(valid)), []).append(scores["valid"]["mae"])
        return scores

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "evaluate", evaluate)
        network = engine.fit(start, plan.train, plan.valid, how, lessons=plan.lesson)
    folds = [frozenset(data.y[plan.rows[plan.folds == k]].tolist()) for k in range(3)]
    assert network.record["epoch"] == [int(np.argmin(best[fold])) for fold in folds]


def test_fewer_blocks_than_members_are_told():
    data = dataset(block_size=2.0)
    found = len(np.unique(fold_units(data)[np.concatenate([data.split["train"], data.split["valid"]])]))
    with pytest.raises(UserError, match=f"{found} places or blocks cannot be held out by {found + 1} members"):
        plan_lessons(pretrained(), data, settings(members=found + 1), CPU)
    assert set(plan_lessons(pretrained(), data, settings(members=found), CPU).folds) == set(range(found))


# --- the world --------------------------------------------------------------------------------------------------------------


def planted(world, region, shift):
    """Return the world with a training profile near each of the region's, of an absurd target."""
    n = len(region.y)
    table = pd.DataFrame({"profile_id": [f"p{k}" for k in range(n)], "lon": region.lon + shift, "lat": region.lat})
    split = world.split | {"train": np.concatenate([world.split["train"], len(world.y) + np.arange(n)])}
    joined = pd.concat([world.table, table], ignore_index=True)
    return Dataset(joined, np.concatenate([world.x, region.x]), np.concatenate([world.y, np.full(n, 900.0)]), split, TABLE, None)


@pytest.mark.parametrize("block_size", [None, 0.5])
def test_the_worlds_profiles_at_the_regions_places_never_reach_the_teacher(block_size):
    region, world = dataset(block_size=block_size), dataset(80, 1, west=40.0)
    shift = 0.0
    if block_size:  # not at the same place but in the same block
        side = np.floor((region.lon + 180) / 0.5 + 1e-9) * 0.5 - 180
        shift = np.where(region.lon - side < 0.25, 0.2, -0.2)
    leaky = planted(world, region, shift)
    assert set(elsewhere(leaky, region)) == set(world.split["train"])
    first, other = (learnt(region, each, teacher="ensemble", members=2) for each in (world, leaky))
    assert all(map(torch.equal, first, other))


def test_a_planted_profile_elsewhere_does_reach_it():
    region, world = dataset(), dataset(80, 1, west=40.0)
    first, other = (learnt(region, each, teacher="ensemble", members=2) for each in (world, planted(world, region, 30.0)))
    assert not any(map(torch.equal, first, other))


def test_elsewhere_is_the_worlds_training_rows_in_no_place_or_block_of_the_region():
    region = dataset(block_size=0.5)
    world = dataset(40, 1, west=40.0)
    table = world.table.copy()
    table.loc[[0, 3, 6], ["lon", "lat"]] = region.table.loc[[2, 3, 4], ["lon", "lat"]].to_numpy()  # of each split one
    world = replace(world, table=table)
    assert set(world.split["train"]) - set(elsewhere(world, region)) == {0, 6}  # row 3 chooses, and is not asked for anyway
    table.loc[0, "lon"] += 1e-4
    assert set(world.split["train"]) - set(elsewhere(replace(world, table=table), replace(region, block_size=None))) == {6}


def test_a_world_of_the_regions_places_alone_is_told():
    with pytest.raises(UserError, match="every training profile lies in a place or block of this region"):
        plan_lessons(pretrained(), dataset(), settings(teacher="ensemble"), CPU, dataset())


def test_a_resumed_run_must_have_the_same_world():
    region, world = dataset(), dataset(80, 1, west=40.0)
    how = settings(teacher="ensemble", global_data="w")
    row = world.split["train"][0]
    digests = []
    for each in (world, dataset(80, 1, west=40.0), with_targets(world, [row], 5.0), None):
        start = pretrained()
        plan = plan_lessons(start, region, how, CPU, each)
        assert len(plan.sources) == (2 if each is None else 3)
        digests.append(fingerprint(start, plan.sources, how))
    assert digests[0] == digests[1]
    assert digests[2] != digests[0] != digests[3]
    assert fingerprint(start, plan.sources, how.model_copy(update={"global_data": "moved"})) == digests[3]


# --- what a teacher's pupil is given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [None, dataset(80, 1, west=40.0)], ids=["alone", "world"])
def test_the_pupil_learns_the_teachers_answers_at_made_up_places(world):
    data, asked = dataset(), []

    class Echo:
        """Answers with the sum of its inputs."""

        def __init__(self, seed):
            self.seed = seed

        def fit(self, region, output, world, world_output):
            asked.append((self.seed, len(region), output.max(), None if world is None else (len(world), len(world_output))))
            return self

        def predict(self, encoded):
            return encoded.sum(1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(teachers, "Teacher", Echo)
        plan = plan_lessons(pretrained(), data, settings(teacher="ensemble", init_from=None), CPU, world)
        given = [plan.lesson(k) for k in range(3)]
    for k, lesson in enumerate(given):
        known = data.y[plan.rows[plan.folds != k]]
        there = None if world is None else (48, 48)
        assert asked[k] == (engine.member_seed(314, k), len(known), pytest.approx(np.log1p(known.max())), there)
        assert lesson.teach.encoded.shape == (200, 15)  # 3 + 9 + three classes
        torch.testing.assert_close(lesson.teach.output, lesson.teach.encoded.sum(1))
        assert of(lesson.known) == set(known)
        classes = lesson.teach.encoded[:, -3:]
        assert ((classes == 0) | (classes == 1)).all()
        assert (classes.sum(1) == 1).all()
    assert not torch.equal(given[0].teach.encoded, given[1].teach.encoded)


def test_the_network_itself_has_its_share_in_the_answers(monkeypatch):
    class Zero:
        """Answers nothing."""

        def __init__(self, seed):
            self.seed = seed
            self.fit = lambda *_: self

        def predict(self, encoded):
            return np.zeros(len(encoded))

    seen = []

    def fit(network, known, choose, how):
        seen.append((of(known), of(choose), how.members, how.select_on, how.seed))
        return network  # not tuned at all

    monkeypatch.setattr(teachers, "Teacher", Zero)
    monkeypatch.setattr(lessons, "fit", fit)
    start = pretrained(members=2)
    plan = plan_lessons(start, dataset(), settings(teacher="ensemble"), CPU)
    for k in range(3):
        lesson = plan.lesson(k)
        voice = engine.outputs_of(list(start.members())[k % 2], lesson.teach.encoded)
        torch.testing.assert_close(lesson.teach.output, lessons.NETWORK_SHARE * voice)
        assert seen[k] == (of(lesson.known), of(lesson.choose), 1, "none", engine.member_seed(314, k))


def test_same_seed_same_lessons_other_seed_others():
    data, world = dataset(), dataset(80, 1, west=40.0)
    how = {"teacher": "ensemble", "members": 2}
    first, again, other = (learnt(data, world, seed=seed, **how) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_the_network_is_left_as_it_was():
    start = pretrained()
    before = copy.deepcopy(start.state_dict())
    plan = plan_lessons(start, dataset(), settings(teacher="ensemble"), CPU, dataset(80, 1, west=40.0))
    plan.lesson(0)
    assert all(torch.equal(value, before[name]) for name, value in start.tensors().items())
