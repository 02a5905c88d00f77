"""Files changed at random end in a result or in the user's error: no traceback, no hang, no crash, little memory, nothing outside.

The cases are those of `fuzzing.py`, which repeats a single one. Some thousands of them are left to `make test-all`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import KINDS, faults

pytest.importorskip("netCDF4")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_with_a_few_changes(workplace, tmp_path, kind):
    assert not list(faults(kind, tmp_path / "files", range(6), seed=1))
    assert not list(workplace.iterdir())
    assert {each.name for each in tmp_path.iterdir()} == {"files", workplace.name}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_with_many_changes(workplace, tmp_path, kind):
    """In a process of its own: a library may crash or hang."""
    script = [sys.executable, Path(__file__).with_name("fuzzing.py"), tmp_path / "files"]
    options = ["--kinds", kind, "--count", 400, "--seed", 2]
    done = subprocess.run(list(map(str, script + options)), capture_output=True, text=True, check=False)
    *found, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")] or [None]
    assert last == {"done": 400}, f"died at {done.stderr[-3000:]}"
    assert not found
    assert not list(workplace.iterdir())
    assert {each.name for each in tmp_path.iterdir()} == {"files", workplace.name}
