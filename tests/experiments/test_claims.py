"""The experiment on claims: its projects go through the commands, and finished ones are not run again."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def experiment():
    specification = importlib.util.spec_from_file_location("claims", ROOT / "experiments" / "claims.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_project_of_plots_credits_less_with_more_confidence(experiment, workplace):
    found = experiment.project_of_plots("40 pairs in 4 strata", 3)
    credited = [found[f"at_{confidence:g}"] for confidence in experiment.CONFIDENCES]
    assert credited == sorted(credited, reverse=True)
    assert found["low"] < found["value"] < found["high"]
    assert found["truth"] == pytest.approx(experiment.GAIN, abs=0.4)


def test_fields_have_the_variance_that_they_say(experiment):
    random = np.random.default_rng(0)
    assert np.mean([experiment.field(random, 3).var() for _ in range(10)]) == pytest.approx(1, abs=0.1)
