"""Progress of long work: a bar on a terminal, lines elsewhere, and neither for what is short."""

import io
import sys

import numpy as np
import pytest
from rasterio.transform import from_origin

from soilcarbon import progress
from soilcarbon.geo.raster import cut_windows, find_layers, write_geotiff
from soilcarbon.progress import Progress, duration
from soilcarbon.zonal import covariates


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 10 s at each look."""
    now = [0.0]

    def tick():
        now[0] += 10
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", tick)


def test_lines_say_how_much_is_done_and_left(clock, caplog):
    caplog.set_level("INFO")
    assert list(progress.progress(range(8), "folds", 8)) == list(range(8))
    assert [record.message for record in caplog.records] == ["folds: 3 of 8, about 50 s left", "folds: 6 of 8, about 20 s left"]


def test_covariates_at_points_and_terrain_say_how_much_is_left(clock, caplog, tmp_path, monkeypatch):
    caplog.set_level("INFO")
    layers = []
    for k in range(7):
        write_geotiff(tmp_path / f"c{k}.tif", np.zeros((1, 4, 4)), [f"c{k}"], from_origin(0, 4, 1, 1))
        layers += find_layers([tmp_path / f"c{k}.tif"])
    cut_windows(layers, np.array([0.5, 9.0]), np.array([0.5, 0.5]), 0)
    assert caplog.messages[0].startswith("covariates at the points: 3 of 14, about ")
    caplog.clear()
    monkeypatch.setattr(covariates, "_CELLS_A_STEP", 5)
    covariates.fill_depressions(np.arange(36.0).reshape(6, 6))
    assert caplog.messages[0].startswith("filling of depressions: 15 of 36, about ")


def test_short_work_is_silent(caplog, capsys):
    caplog.set_level("INFO")
    with Progress("folds", 2) as steps:
        steps.step()
        steps.step()
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.progress("ab", "letters", 2)) == ["a", "b"]
    assert "letters" in sys.stderr.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
