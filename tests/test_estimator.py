"""SoilCarbonRegressor: scikit-learn's own checks, and checkpoints that can be mapped."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import slow_but
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from soilcarbon.categories import Category
from soilcarbon.estimator import SoilCarbonRegressor, _with_position
from soilcarbon.io.files import UserError
from soilcarbon.mapping.datasets import load_model
from soilcarbon.mapping.datasets import predict as map_of
from soilcarbon.mapping.network import NetworkPredictor, SlidingNetwork
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import predict
from soilcarbon.regression import learners
from soilcarbon.regression.prediction import load_for_prediction
from soilcarbon.settings import PredictSettings
from soilcarbon.training import arrays, distillation

pytestmark = pytest.mark.usefixtures("small_learners")

QUICK = {"epochs": 2, "teacher": "none", "members": 1}
SMALL = {"epochs": 2, "members": 2}


@parametrize_with_checks([SoilCarbonRegressor(**QUICK)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def problem(n=300):
    x = np.random.default_rng(0).normal([5, -3, 100], [2, 1, 30], (n, 3)).astype(np.float32)
    return x, 20 + 6 * np.tanh(x[:, 0] - 5) + 0.1 * x[:, 2]


def test_a_network_is_fine_tuned_as_its_checkpoint_would_be(tmp_path):
    x, y = problem(120)
    first = SoilCarbonRegressor(**QUICK, target_transform="log1p").fit(x, y)
    save_checkpoint(first.network_, tmp_path / "m.pth")
    before = first.predict(x)
    again = [SoilCarbonRegressor(init_from=start, **QUICK).fit(x[:60], y[:60]) for start in (first.network_, tmp_path / "m.pth")]
    np.testing.assert_array_equal(again[0].predict(x), again[1].predict(x))
    np.testing.assert_array_equal(first.predict(x), before)  # it was copied
    assert np.abs(again[0].predict(x) - before).max() > 0


def test_whole_groups_choose_the_epoch():
    groups = np.repeat(np.arange(20), 5)
    split = arrays.split_rows(groups, 0.2, 0)
    assert not set(groups[split["train"]]) & set(groups[split["valid"]])
    assert sorted(np.concatenate(list(split.values()))) == list(range(100))
    assert 10 <= len(split["valid"]) <= 30
    alone = arrays.split_rows(np.zeros(10, int), 0.15, 0)  # one block has nothing to hold out
    assert len(alone["valid"]) == 2


def test_names_of_columns_are_the_variables_of_a_checkpoint_that_can_be_predicted_and_mapped(tmp_path):
    x, y = problem(80)
    frame = pd.DataFrame(x, columns=["bio01", "slope", "evi"])
    model = SoilCarbonRegressor(**QUICK | {"members": 2}).fit(frame, y)
    assert list(model.feature_names_in_) == ["bio01", "slope", "evi"]
    model.save(tmp_path / "m.pth")
    network = load_checkpoint(tmp_path / "m.pth")
    assert [(each.variables, each.radius) for each in network.specification.categories] == [(("bio01", "slope", "evi"), 0)]
    assert (network.specification.target, network.specification.unit) == ("soc", "g/kg")
    np.testing.assert_allclose(model.predict(frame), predict(network, x)[0], rtol=1e-6)
    dense = SlidingNetwork(network).predict(x.T[:, :, None])
    np.testing.assert_allclose(dense.mean(0)[:, 0], predict(network, x)[0], rtol=1e-4)
    with pytest.raises(ValueError, match="x has 2 columns, the categories have 3"):
        SoilCarbonRegressor(init_from=network).fit(x[:, :2], y)
    with pytest.raises(ValueError, match="column 1 of x is 'slope', the categories have 'bio01' there"):
        SoilCarbonRegressor(init_from=network).fit(frame[["slope", "bio01", "evi"]], y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["slope", "bio01", "evi"]])


def test_training_leaves_the_random_numbers_of_the_process_as_they_were():
    x, y = problem(50)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    SoilCarbonRegressor(**QUICK).fit(x, y)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_by_default_it_is_taught_by_folds_and_no_worse_than_a_forest_on_a_small_skewed_table():
    random = np.random.default_rng(1)
    x = random.normal(size=(120, 6)).astype(np.float32)
    y = np.exp(2 + 0.8 * x[:, 0] - 0.6 * x[:, 1] + random.normal(0, 0.4, 120))
    train, test = slice(80), slice(80, None)
    model = SoilCarbonRegressor().fit(x[train], y[train])
    facts = model.network_.specification
    assert (facts.members, facts.target_transform, model.network_.record.settings["teacher"]) == (5, "log1p", "ensemble")
    forest = RandomForestRegressor(random_state=0).fit(x[train], np.log1p(y[train]))
    errors = [np.abs(each - y[test]).mean() for each in (model.predict(x[test]), np.expm1(forest.predict(x[test])))]
    assert errors[0] < 1.03 * errors[1]


@pytest.fixture
def few_mixtures(monkeypatch):
    """Few trees and mixtures: what is tested is who is trained on what."""
    monkeypatch.setattr(distillation, "TREES", 8)
    monkeypatch.setattr(distillation, "MIXED", 300)


@pytest.mark.usefixtures("few_mixtures")
def test_a_teacher_s_networks_are_trained_on_all_profiles_and_calibrated_by_others_that_hold_out_folds(monkeypatch):
    x, y = problem(60)
    seen = []
    fitted = distillation.Teacher.fit
    monkeypatch.setattr(distillation.Teacher, "fit", lambda *each: seen.append(len(each[1])) or fitted(*each))
    calibrated = []
    plain = arrays.fit_uncertainty
    monkeypatch.setattr(arrays, "fit_uncertainty", lambda *each: calibrated.append(each) or plain(*each))
    with_intervals, without = (SoilCarbonRegressor(epochs=4, intervals=each).fit(x, y) for each in (True, False))
    assert seen == [60, 48, 48, 48, 48, 48, 60]  # the teacher of all; those of five folds; no folds without intervals
    np.testing.assert_array_equal(with_intervals.predict(x), without.predict(x))
    ((others, _, known, _),) = calibrated
    network = with_intervals.network_
    assert others.calibration is network.calibration and np.bincount(known.folds).tolist() == [12] * 5
    assert np.abs(predict(others, x)[0] - predict(network, x)[0]).max() > 0.01  # of folds, with half of the epochs
    assert with_intervals.network_.record.calibrated_on.startswith("60 profiles held out")
    assert without.applicability_.threshold == pytest.approx(with_intervals.applicability_.threshold, rel=0.5)
    with pytest.raises(ValueError, match="no prediction intervals: intervals=False"):
        without.predict(x, return_interval=0.9)


@pytest.mark.usefixtures("few_mixtures")
@pytest.mark.parametrize("transform", ["log1p", "none"])
def test_the_default_is_the_mean_of_network_and_forest_on_the_scale_of_the_transform(transform):
    x, y = problem(60)
    model = SoilCarbonRegressor(**SMALL, target_transform=transform, intervals=False).fit(x[:50], y[:50])
    forward, back = (np.log1p, np.expm1) if transform == "log1p" else (np.asarray, np.asarray)
    trees = learners._FOREST["n_estimators"]
    forest = RandomForestRegressor(trees, random_state=314).fit(x[:50], forward(y[:50].astype(np.float64))).predict(x)
    network = predict(model.network_, x)[0]
    np.testing.assert_allclose(model.predict(x), back((forward(network) + forest) / 2), rtol=1e-6)
    assert model.forest_.predict(_with_position(x)) == pytest.approx(forest, rel=1e-12)
    alone = SoilCarbonRegressor(**SMALL, target_transform=transform, intervals=False, forest="none").fit(x[:50], y[:50])
    np.testing.assert_array_equal(alone.predict(x), network.astype(np.float32))
    assert alone.forest_ is None and np.abs(alone.predict(x) - model.predict(x)).max() > 0.1


@pytest.mark.usefixtures("few_mixtures")
def test_a_forest_joins_networks_from_scratch_that_a_teacher_teaches_by_folds_and_no_others():
    x, y = problem(40)
    model = SoilCarbonRegressor(**SMALL, intervals=False)
    taught = clone(model).fit(x, y)
    for more in ({"teacher": "none"}, {"init_from": taught.network_}, {"members": 1}, {"published": True}):
        other = clone(model).set_params(**more).fit(x, y)
        assert other.forest_ is None and other.model_ is None
        np.testing.assert_array_equal(other.predict(x), predict(other.network_, x)[0].astype(np.float32))
    with pytest.raises(ValueError, match="forest = 'some': is none of auto, none"):
        SoilCarbonRegressor(forest="some").fit(x, y)


@pytest.mark.usefixtures("few_mixtures")
def test_with_a_forest_it_repeats_and_pickles_and_its_intervals_cover_new_profiles():
    x, y = problem(300)
    y = np.exp(2 + 0.3 * (x[:, 0] - 5) + np.random.default_rng(2).normal(0, 0.3, len(y)))
    x[::9, 2] = np.nan
    model = SoilCarbonRegressor(**SMALL).fit(x[:100], y[:100])
    predicted, interval = model.predict(x[100:], return_interval=0.9)
    assert 0.83 < ((interval[:, 0] <= y[100:]) & (y[100:] <= interval[:, 1])).mean() < 0.97
    for again in (clone(model).fit(x[:100], y[:100]), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for one, other in zip((predicted, interval), again.predict(x[100:], return_interval=0.9), strict=True):
            np.testing.assert_array_equal(one, other)
    mean = clone(model).set_params(center="mean").fit(x[:100], y[:100])
    factor = mean.model_.specification.smearing[0]
    assert factor == pytest.approx(np.exp(0.3**2 / 2), abs=0.06)
    assert np.median((mean.predict(x) + 1) / (model.predict(x) + 1)) == pytest.approx(factor, rel=1e-5)
    np.testing.assert_array_equal(predict(mean.network_, x)[0], predict(model.network_, x)[0])


@pytest.mark.usefixtures("few_mixtures")
def test_intervals_stand_for_new_groups_and_are_refused_where_these_are_few():
    x, y = problem(60)
    some, few = (SoilCarbonRegressor(**SMALL).fit(x, y, np.arange(60) % count) for count in (20, 8))
    assert some.model_.record.calibrated_on == "60 profiles held out by folds, standing for new groups (20)"
    assert np.isfinite(some.predict(x, return_interval=0.95)[1]).all()
    with pytest.raises(UserError, match="up to 0.952"):  # 20 of 21
        some.predict(x, return_interval=0.96)
    with pytest.raises(ValueError, match="no prediction intervals: .* the groups too few"):
        few.predict(x, return_interval=0.9)


@pytest.mark.usefixtures("few_mixtures")
@pytest.mark.parametrize("name", slow_but(["m.npz", "m.pth"], "m.pth"))
def test_with_a_forest_the_whole_model_is_saved_whatever_the_file_is_called(name, tmp_path):
    x, y = problem(60)
    frame = pd.DataFrame(x, columns=["bio01", "slope", "evi"])
    model = SoilCarbonRegressor(**SMALL).fit(frame, y)
    model.save(tmp_path / name)
    predicted, interval = model.predict(frame, return_interval=0.8)
    layers = {each: (("lat", "lon"), frame[each].to_numpy()[:12].reshape(3, 4)) for each in ("slope", "evi", "bio01")}
    data = xr.Dataset(layers, {"lat": [47.5, 47.4, 47.3], "lon": [8.1, 8.2, 8.3, 8.4]})
    for known in (load_model(tmp_path / name), model):
        found = map_of(known, data, level=0.8)
        for band, expected in {"prediction": predicted, "lower": interval[:, 0], "upper": interval[:, 1]}.items():
            np.testing.assert_allclose(found[band].to_numpy().ravel(), expected[:12], rtol=1e-6)
        np.testing.assert_allclose(found["di"].to_numpy().ravel(), model.applicability_.index(x[:12]), rtol=1e-5)
    opened = load_for_prediction(PredictSettings(data_dir=tmp_path, checkpoint=tmp_path / name), torch.device("cpu"))
    np.testing.assert_allclose(opened.predict(_with_position(x))[0], predicted, rtol=1e-6)
    assert opened.calibrated_on == "60 profiles held out by folds, standing for new profiles (60)"
    assert opened.training_mean == pytest.approx(y.mean())
    assert load_model(tmp_path / name).scores()["held out, profiles"]["r2"] == model.model_.record.cross_validation[0]["r2"]
    with pytest.raises(UserError, match=f"{name}: a fitted model, .* not a network's checkpoint"):
        load_checkpoint(tmp_path / name)


def test_a_checkpoint_is_opened_by_its_content_too(tmp_path):
    x, y = problem(60)
    SoilCarbonRegressor(**QUICK).fit(x, y).save(tmp_path / "m.npz")
    assert isinstance(load_model(tmp_path / "m.npz"), NetworkPredictor)
    opened = load_for_prediction(PredictSettings(data_dir=tmp_path, checkpoint=tmp_path / "m.npz"), torch.device("cpu"))
    assert opened.specification == load_checkpoint(tmp_path / "m.npz").specification


@pytest.mark.slow
@pytest.mark.usefixtures("few_mixtures")
@parametrize_with_checks([SoilCarbonRegressor(epochs=1, members=2)])
def test_scikit_learns_own_checks_of_the_default(estimator, check):
    check(estimator)


def test_intervals_are_of_the_profiles_held_out_and_cover_new_ones():
    x, y = problem(400)
    y = y + np.random.default_rng(2).normal(0, 2, len(y))
    model = SoilCarbonRegressor(teacher="none", epochs=20, target_transform="none").fit(x[:200], y[:200])
    predicted, interval = model.predict(x[200:], return_interval=0.9)
    np.testing.assert_array_equal(predicted, model.predict(x[200:]))
    assert (interval[:, 0] < predicted).all() and (interval[:, 1] > predicted).all()
    assert 0.82 < ((interval[:, 0] <= y[200:]) & (y[200:] <= interval[:, 1])).mean() < 0.97
    assert model.applicability_.index(np.full((1, 3), 1e4, np.float32))[0] > model.applicability_.threshold
    few = SoilCarbonRegressor(**QUICK | {"members": 3}).fit(x[:15], y[:15])
    with pytest.raises(ValueError, match="fewer than 20 profiles"):
        few.predict(x, return_interval=0.9)


def test_groups_are_held_out_whole_by_the_members():
    x, y = problem(60)
    groups = np.repeat([7, 3, 5], 20)
    model = SoilCarbonRegressor(**QUICK | {"members": 5}).fit(x, y, groups)
    assert model.network_.specification.members == 3  # no more than groups to hold out


def test_a_network_grows_by_the_categories_that_it_has_not(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(150, 5)).astype(np.float32)
    y = np.exp(2 + 0.4 * x[:, 0] + 0.4 * x[:, 3])
    world = Category(name="world", variables=("a", "b", "c"))
    own = Category(name="own", variables=("d", "e"))
    first = SoilCarbonRegressor([world], **QUICK).fit(x[:, :3], y)
    first.save(tmp_path / "world.pth")
    grown = SoilCarbonRegressor([world, own], init_from=tmp_path / "world.pth", **QUICK | {"lr": 1e-12, "teacher": "none"}).fit(
        x, y
    )
    assert grown.network_.specification.categories == (world, own)
    assert grown.network_.record.growth[0].checkpoint == "world.pth"
    outputs = [
        net.member_outputs(net.encode(torch.from_numpy(part))) for net, part in ((first.network_, x[:, :3]), (grown.network_, x))
    ]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="list the categories of init_from first"):
        SoilCarbonRegressor([own, world], init_from=first.network_, **QUICK).fit(x, y)
    fewer = SoilCarbonRegressor([Category(name="world", variables=("a", "c")), own], init_from=first.network_, **QUICK)
    assert fewer.fit(x[:, [0, 2, 3, 4]], y).network_.record.growth[0].filled == ("b",)
