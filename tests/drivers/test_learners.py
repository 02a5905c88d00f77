"""Log targets, learners of coded classes, and noise that makes targets equally hard to predict."""

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from soilcarbon.categories import Category
from soilcarbon.drivers.importance import impurity, variable_shapley
from soilcarbon.drivers.learners import CrossValidation, fit, flip_signs, log_target, matching_noise

ROCK = (Category(name="numbers", variables=("a",)), Category(name="rock", variables=("rock",), kind="classes"))


def test_log_targets_do_not_depend_on_units_or_levels():
    y = np.random.default_rng(0).lognormal(size=500)
    assert log_target(y) == pytest.approx(log_target(0.39 * y)) and log_target(y).mean() == pytest.approx(0, abs=1e-9)
    large = y > 3  # far above the floor, twice the carbon is ln 2 more
    both = log_target(np.append(y, 2 * y[large]))
    assert both[500:] - both[:500][large] == pytest.approx(np.log(2), abs=0.02)
    assert np.isfinite(log_target(np.append(y, 0.0))).all()
    for wrong in (np.zeros(5), np.ones(5), np.array([1.0, np.nan]), np.array([1.0, -1.0])):
        with pytest.raises(ValueError, match="zero|equal|finite"):
            log_target(wrong)


def rocky(n, seed):
    """Return covariates and targets that follow a class whose codes are in no order."""
    random = np.random.default_rng(seed)
    effect = np.tile([1.0, -1.0], 10)
    code = random.integers(len(effect), size=n)
    x = np.stack([random.normal(size=n), code], axis=1).astype(np.float32)
    return x, effect[code] + 0.5 * random.normal(size=n)


@pytest.mark.parametrize("learner", ["boosting", "forest"])
def test_trees_get_classes_in_the_order_of_carbon(learner):
    (x, z), (other, wanted) = rocky(150, 0), rocky(2000, 1)
    as_classes = fit(learner, x, z, ROCK, 0)
    assert isinstance(as_classes, Pipeline)
    as_numbers = fit(learner, x, z, (Category(name="all", variables=("a", "rock")),), 0)
    missed = [np.mean((wanted - model.predict(other)) ** 2) for model in (as_classes, as_numbers)]
    assert missed[0] < 0.8 * missed[1] and missed[0] < 0.6
    new = np.array([[0.0, 99]], np.float32)  # an unknown class is worth the overall mean
    assert as_classes[:-1].transform(new)[0, 1] == pytest.approx(z.mean(), abs=1e-5)
    assert np.array_equal(fit(learner, x, z, ROCK, 0).predict(other), as_classes.predict(other))


def test_importances_of_encoded_classes_are_of_the_variables_given():
    pytest.importorskip("shap")
    x, z = rocky(400, 0)
    model = fit("boosting", x, z, ROCK, 0)
    assert impurity(model, 2)[1] > 0.7
    values = variable_shapley(model, x[:5], x[100:120], [0])
    assert values.sum(1) == pytest.approx(model.predict(x[:5]) - model.predict(x[100:120]).mean(), abs=1e-5)


def test_flipped_residuals_keep_size_and_block_but_lose_their_cause():
    random = np.random.default_rng(0)
    blocks = np.repeat(np.arange(500), 4)
    residuals = np.repeat(random.normal(size=500), 4) + 1
    found = flip_signs(residuals, blocks, [1])
    assert np.array_equal(np.abs(found), np.abs(residuals))
    assert all(len(set(np.sign(found[blocks == each] * residuals[blocks == each]))) == 1 for each in range(20))
    assert abs(np.corrcoef(found, residuals)[0, 1]) < 0.15


@pytest.mark.slow
def test_noise_makes_a_model_as_hard_to_learn_as_observations():
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4)).astype(np.float32)
    signal, residuals, blocks = np.tanh(x[:, 0]) + 0.7 * x[:, 1], 0.7 * random.normal(size=600), np.arange(600) // 3
    validation = CrossValidation(x, (Category(name="all", variables=("a", "b", "c", "d")),), blocks % 5, 0)
    found = {}
    for scale in (1, 3):  # a model whose carbon varies more needs more noise
        found[scale], r2 = matching_noise(validation, "boosting", scale * signal, residuals, blocks, 0.6)
        assert r2 == pytest.approx(0.6, abs=0.03)
    assert 0.5 < found[1] < 2 and found[3] == pytest.approx(3 * found[1], rel=0.1)
    assert matching_noise(validation, "boosting", signal + 3 * residuals, residuals, blocks, 0.6)[0] == 0
