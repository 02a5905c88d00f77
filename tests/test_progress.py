"""Progress of long work: a bar on a terminal, lines elsewhere, and neither for what is short."""

import io
import sys

import pytest

from soilcarbon import progress
from soilcarbon.progress import Progress, duration


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
