"""Sets of files: all of the new ones or all of the old ones, whatever fails at whichever moment; other files stay."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from soilcarbon.io.files import UserError, file_set, finish_set, write_text

OLD = {"a.csv": "old a", "sub/b.csv": "old b", "sub/only_old.csv": "old"}
NEW = {"a.csv": "new a", "sub/b.csv": "new b", "other/c.csv": "new c"}
MINE = {"notes.txt": "mine", "sub/mine.csv": "mine", ".hidden/mine.txt": "mine"}
CALLS = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (os, "unlink"), (os, "open")]
"""What a write, a move or a removal ends in."""


def written(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def make(folder: Path, files: dict[str, str], earlier=None) -> None:
    with file_set(folder, earlier) as new:
        for name, text in files.items():
            write_text(new / name, text)


def failing(monkeypatch, at: int, fault) -> list[int]:
    """Let `fault` happen at the n-th call of any of `CALLS`; return the list of calls so far."""
    calls: list[int] = []

    def wrap(function):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == at:
                fault()
            return function(*arguments, **options)

        return call

    for module, name in CALLS:
        monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    return calls


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "out", OLD)
    for name, text in MINE.items():
        write_text(tmp_path / "out" / name, text)
    return tmp_path / "out"


def test_new_files_replace_those_of_the_earlier_set_and_no_others(folder):
    make(folder, NEW, OLD)
    assert written(folder) == NEW | MINE


def test_error_at_any_call_leaves_the_old_set_or_the_new(folder, monkeypatch):
    at, kept = 1, 0
    while True:
        with monkeypatch.context() as patched:
            calls = failing(patched, at, full_disk)
            with suppress(UserError, OSError):
                make(folder, NEW, OLD)
        finish_set(folder)
        now = {name: text for name, text in written(folder).items() if not name.startswith(".soilcarbon")}
        assert now in (OLD | MINE, NEW | MINE)
        kept += now == OLD | MINE
        if len(calls) < at:
            break
        make(folder, OLD, OLD | NEW)
        at += 1
    assert at > 30
    assert kept > 10
    assert written(folder) == NEW | MINE  # what earlier attempts left is gone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_at_any_call_leaves_the_old_set_or_the_new(folder, monkeypatch, step):
    for at in range(1, 200, step):
        process = os.fork()
        if process == 0:
            failing(monkeypatch, at, lambda: os._exit(9))
            make(folder, NEW, OLD)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
        finish_set(folder)
        now = {name: text for name, text in written(folder).items() if not name.startswith(".soilcarbon-new")}
        assert now in (OLD | MINE, NEW | MINE)
        if not killed:
            break
        make(folder, OLD, OLD | NEW)
        assert written(folder) == OLD | MINE  # nor does a killed process leave anything for long
    assert at > 30


def test_a_user_s_file_of_the_same_name_is_not_replaced(folder):
    with pytest.raises(UserError, match=r"notes\.txt: is there, and is not of an earlier run"):
        make(folder, NEW | {"notes.txt": "new"}, OLD)
    assert written(folder) == OLD | MINE
    with pytest.raises(UserError, match="sub: is a folder"):
        make(folder, {"sub": "a file"})
    assert written(folder) == OLD | MINE


def test_failed_first_run_leaves_nothing(tmp_path):
    def fails():
        with file_set(tmp_path / "out") as new:
            write_text(new / "a.csv", "a")
            raise UserError(f"{new / 'b.csv'}: no")

    with pytest.raises(UserError, match=r"out/b\.csv: no"):
        fails()
    assert not list(tmp_path.iterdir())


def test_planted_names_and_links_reach_nothing_outside(tmp_path):
    write_text(tmp_path / "mine.txt", "mine")
    make(tmp_path / "out", NEW, {"../mine.txt", str(tmp_path / "mine.txt")})
    (tmp_path / "out" / ".soilcarbon-complete").symlink_to(tmp_path)
    (tmp_path / "out" / ".soilcarbon-new-1").symlink_to(tmp_path)
    finish_set(tmp_path / "out")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_two_runs_at_once_do_not_remove_each_other_s_files(tmp_path):
    with file_set(tmp_path) as first:
        write_text(first / "a", "first")
        make(tmp_path, {"b": "second"})
    assert written(tmp_path) == {"a": "first", "b": "second"}
