"""Uncertainty of a trained network: coverage of its intervals, calibrated on profiles held out; permutation importance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from soilcarbon.categories import Category
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import SoilCarbonNet, predict
from soilcarbon.network.specification import Specification
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.metrics import coverage
from soilcarbon.training.uncertainty import FEWEST, fit_applicability, fit_calibration, fit_errors, held_out_predictions

TABLE = (Category(name="a", variables=("x", "y", "z")),)
STATISTICS = {name: (0.0, 1.0) for name in ("x", "y", "z")}
LEVELS = (0.5, 0.8, 0.9, 0.95)


def network(members=1, center="median", transform="log1p", **facts):
    facts = {"bounds": (0.0, 500.0), "statistics": STATISTICS, "categories": TABLE} | facts
    made = SoilCarbonNet(Specification(members=members, center=center, target_transform=transform, **facts)).blank(3)
    for member in made.members():
        member.final_regressor[0].bias.data += 2.5 if transform == "log1p" else 12.0
    return made


def profiles(net, n, noise, seed=0, split=(0.0, 1.0), block_size=None):
    """Profiles whose targets are the network's predictions with noise on the log scale; `split`: where valid and test begin."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3)).astype(np.float32)
    y = np.maximum(np.expm1(np.log1p(predict(net, x)[0]) + noise(random, n)), 0.0)
    table = pd.DataFrame({"profile_id": range(n), "lon": random.uniform(0, 100, n), "lat": random.uniform(-50, 50, n)})
    valid, test = (int(share * n) for share in split)
    rows = np.arange(n)
    return Dataset(table, x, y, {"train": rows[:valid], "valid": rows[valid:test], "test": rows[test:]}, TABLE, block_size)


def even(random, n):
    return random.normal(0, 0.3, n)


def skewed(random, n):
    return random.exponential(0.4, n) - 0.1


def held(calibration, data, rows, net, level):
    lower, upper = calibration.interval(predict(net, data.x[rows])[0], level)
    return (lower <= data.y[rows]) & (data.y[rows] <= upper), upper - lower


# --- coverage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("center", "noise"), [("median", even), ("mean", skewed)])
def test_intervals_cover_new_observations_at_their_level(center, noise):
    net = network(center=center)
    data = profiles(net, 8000, noise, split=(0.0, 0.5))
    found = fit_calibration(net, data, np.arange(0), None)
    assert len(found.overall) == (1 if center == "median" else 2)
    wide = []
    for level in LEVELS:
        hit, width = held(found, data, data.split["test"], net, level)
        error = np.sqrt(level * (1 - level) * (1 / 4000 + 1 / 4000))  # of what calibrates and of what tests
        assert hit.mean() == pytest.approx(level, abs=4 * error)
        wide.append(width)
    assert (np.diff(wide, axis=0) > 0).all()
    predicted = predict(net, data.x[data.split["test"]])[0]
    hit, width = held(found, data, data.split["test"], net, 0.9)
    low, high = predicted < np.quantile(predicted, 0.3), predicted > np.quantile(predicted, 0.7)
    assert width[high].mean() > 1.3 * width[low].mean()  # wider where there is more, and right in both
    for some in (low, high):
        ends = coverage(np.where(hit[some], 0.0, 9.0), np.full(some.sum(), -1.0), np.full(some.sum(), 1.0))
        assert ends["low"] - 0.02 < 0.9 < ends["high"] + 0.02


def test_folds_of_members_that_err_more_than_their_mean_are_covered_often_enough():
    net = network(members=4)
    data = profiles(net, 6000, even, split=(0.4, 0.5))
    rows = np.concatenate([data.split["train"], data.split["valid"]])
    found = fit_calibration(net, data, rows, np.arange(len(rows)) % 4)
    for level in LEVELS:
        hit, _ = held(found, data, data.split["test"], net, level)
        assert hit.mean() > level - 4 * np.sqrt(level * (1 - level) * 2 / 3000)


# --- which profiles, which members -----------------------------------------------------------------------------------------


def test_a_profile_is_predicted_by_the_member_that_held_it_out():
    net = network(members=3)
    data = profiles(net, 40, even)
    predicted, members = predict(net, data.x)
    assert len(np.unique(members, axis=0)) == 3
    folds = np.array([2, 0, 1, 1] * 10)
    expected = [members[fold, k] for k, fold in enumerate(folds)]
    np.testing.assert_array_equal(held_out_predictions(net, data.x, folds), expected)
    np.testing.assert_array_equal(held_out_predictions(net, data.x, None), predicted)


def spoilt(data, rows):
    y = data.y.copy()
    y[rows] += 100
    return replace(data, y=y)


def test_without_folds_only_the_validation_split_calibrates():
    net = network()
    data = profiles(net, 300, even, split=(0.5, 0.8))
    rows = np.concatenate([data.split["train"], data.split["valid"]])
    first = fit_calibration(net, data, rows, None)
    for name, same in (("train", True), ("test", True), ("valid", False)):
        assert (fit_calibration(net, spoilt(data, data.split[name]), rows, None) == first) is same


def test_with_folds_training_and_validation_calibrate_and_never_the_test_split():
    net = network(members=2)
    data = profiles(net, 300, even, split=(0.5, 0.8))
    rows = np.concatenate([data.split["train"], data.split["valid"]])
    first = fit_calibration(net, data, rows, np.arange(240) % 2)
    for name, same in (("train", False), ("test", True), ("valid", False)):
        assert (fit_calibration(net, spoilt(data, data.split[name]), rows, np.arange(240) % 2) == first) is same
    assert fit_calibration(net, data, rows, 1 - np.arange(240) % 2) != first


def test_the_error_model_knows_the_periods_of_the_profiles():
    net = network(members=2)
    data = profiles(net, 100, even)
    rows, folds = np.arange(100), np.arange(100) % 2
    dated = replace(data, period=np.where(rows < 50, 1985, 2005))
    assert {*fit_errors(net, data, rows, folds, 0).period} == {0}
    assert {*fit_errors(net, dated, rows, folds, 0).period} == {1985, 2005}


def test_by_hand():
    """Errors of ln(1 + y) are 0.01, 0.02 ... 0.19, 1: of 20 places the 90 % interval's score is the 19th."""
    net = network()
    data = profiles(net, 20, even)
    errors = np.array([*(0.01 * np.arange(1, 20)), 1.0]) * np.where(np.arange(20) % 2, 1, -1)
    predicted = predict(net, data.x)[0]
    data = replace(data, y=np.expm1(np.log1p(predicted) + errors))
    found = fit_calibration(net, data, np.arange(0), None)
    lower, upper = found.interval(np.array([np.e - 1]), 0.9)
    assert (lower[0], upper[0]) == (pytest.approx(np.exp(0.81) - 1), pytest.approx(np.exp(1.19) - 1))
    assert (found.scale, found.bounds, found.strata) == ("log1p", (0.0, None), {})


def test_too_few_profiles_give_no_calibration_and_a_warning(caplog):
    net = network()
    enough = profiles(net, FEWEST, even)
    assert fit_calibration(net, enough, np.arange(0), None) is not None
    assert not caplog.text
    few = replace(enough, split={"train": np.arange(1), "valid": np.arange(1, FEWEST), "test": np.arange(0)})
    assert fit_calibration(net, few, np.arange(FEWEST), None) is None
    assert "no intervals: 19 profiles were held out, at least 20 are needed" in caplog.text


def test_few_blocks_are_calibrated_by_profiles_and_a_crowded_one_does_not_raise_the_level():
    net = network()
    data = profiles(net, 200, even)
    table = data.table.assign(lon=np.where(np.arange(200) < 5, 10.0 * np.arange(200), 70.0 + 1e-3 * np.arange(200)), lat=10.0)
    data = replace(data, table=table)
    alone = fit_calibration(net, data, np.arange(0), None)
    assert net.record.calibrated_on.endswith("standing for new places (200)")
    few = fit_calibration(net, replace(data, block_size=1.0), np.arange(0), None)
    assert net.record.calibrated_on.endswith("standing for new profiles (200)")
    assert alone.highest_level() == few.highest_level() == pytest.approx(200 / 201)  # six blocks could support 6 / 7
    table = data.table.assign(lon=np.minimum(np.arange(200), 45.0), lat=10.0)
    many = fit_calibration(net, replace(data, table=table, block_size=1.0), np.arange(0), None)
    assert many.highest_level() == pytest.approx(46 / 47)


def test_a_target_below_zero_is_measured_as_it_is():
    net = network(transform="none", bounds=(-20.0, 50.0))
    data = profiles(network(transform="none"), 400, even)
    random = np.random.default_rng(0)
    data = replace(data, y=predict(net, data.x)[0] + random.normal(0, 5, 400))
    found = fit_calibration(net, data, np.arange(0), None)
    assert (found.scale, found.bounds) == ("identity", (-20.0, None))
    lower, upper = found.interval(np.array([0.0, 30.0]), 0.9)
    assert np.ptp(upper - lower) < 1e-9
    assert upper[0] == pytest.approx(1.645 * 5, rel=0.15)


# --- a checkpoint carries it ------------------------------------------------------------------------------------------------


def test_a_checkpoint_carries_calibration_and_area_to_the_bit(tmp_path):
    net = network(members=2)
    data = profiles(net, 200, skewed, split=(0.6, 0.9))
    net.calibration = fit_calibration(net, data, np.arange(180), np.arange(180) % 2)
    net.applicability = fit_applicability(net, data, data.split["train"], 1)
    save_checkpoint(net, tmp_path / "x.pth")
    again = load_checkpoint(tmp_path / "x.pth")
    assert again.calibration == net.calibration
    assert isinstance(again.calibration, ConformalCalibration)
    values = np.linspace(0, 100, 50)
    np.testing.assert_array_equal(again.calibration.interval(values, 0.8), net.calibration.interval(values, 0.8))
    cells = data.x[data.split["test"]]
    np.testing.assert_array_equal(again.applicability.index(cells), net.applicability.index(cells))
    assert again.blank(1).calibration is None
