"""The benchmark of maps runs: it makes its maps by parts of the package that no command calls in this way."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_way_of_mapping_is_timed_and_agrees(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import map_speed

    monkeypatch.setattr(map_speed, "PROFILES", 500)
    monkeypatch.setattr(sys, "argv", ["map_speed.py", "--side", "512"])
    monkeypatch.chdir(tmp_path)
    map_speed.main()  # asserts that the map is what pred.py says
    printed = capsys.readouterr().out
    assert printed.count("patches, per sample") == 2 and "network, r = 3, 5 members" in printed
