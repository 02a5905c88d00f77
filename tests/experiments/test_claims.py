"""The experiment on claims: its projects go through the commands, and finished ones are not run again."""

import importlib.util
import json
import sys
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


def test_finished_projects_are_kept(experiment, workplace, monkeypatch, capsys):
    monkeypatch.setitem(experiment.KINDS, "plots", ["30 pairs"])
    line = {"kind": "30 pairs", "seed": 0, "truth": 4.0, "value": 4.0, "low": 3.0, "high": 5.0, "discount": 3.9}
    line |= {f"at_{confidence:g}": 3.5 for confidence in experiment.CONFIDENCES}
    out = workplace / "claims.jsonl"
    out.write_text(json.dumps(line) + "\n")
    monkeypatch.setattr(sys, "argv", ["claims.py", "--projects", "2", "--kinds", "plots", "--out", str(out)])
    experiment.main()
    monkeypatch.chdir(workplace)
    rows = [json.loads(each) for each in out.read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0] == line
    assert "30 pairs,2" in capsys.readouterr().out
