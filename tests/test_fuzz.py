"""Files changed at random end in a result or in the user's error: no traceback, no hang, no crash, little memory, nothing outside.

The cases are those of `fuzzing.py`, which repeats a single one. Some thousands of them are left to `make test-all`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import KINDS

pytest.importorskip("netCDF4")


def fuzz(folder: Path, kinds: list[str], count: int, seed: int) -> None:
    """Run cases in a process of their own, in a folder of their own."""
    home = folder / "home"
    home.mkdir()
    script = [sys.executable, Path(__file__).with_name("fuzzing.py"), folder / "files"]
    options = ["--kinds", *kinds, "--count", count, "--seed", seed]
    done = subprocess.run(list(map(str, script + options)), cwd=home, capture_output=True, text=True, check=False)
    *faults, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] or [None]
    assert last == {"done": count * len(kinds)}, f"died at {done.stderr[-3000:]}"
    assert not faults
    assert [each.name for each in folder.iterdir()] in (["home", "files"], ["files", "home"])
    assert not list(home.iterdir())
    assert {each.name for each in (folder / "files").iterdir()} == set(kinds)


def test_each_kind_of_file_with_a_few_changes(tmp_path):
    fuzz(tmp_path, list(KINDS), 6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_with_many_changes(tmp_path, kind):
    fuzz(tmp_path, [kind], 400, seed=2)
