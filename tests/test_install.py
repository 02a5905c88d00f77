"""The installed package works away from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the project without its dependencies into a folder of its own; return a runner of commands that sees only that."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("soilcarbon", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--target",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "setuptools" in done.stderr:
        pytest.skip("the build requirements cannot be downloaded here")
    assert done.returncode == 0, done.stderr

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(target)}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=target, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_command_and_import_work_elsewhere(installed):
    assert "usage: soilcarbon COMMAND" in installed("bin/soilcarbon", "--help")
    installed("-m", "soilcarbon", "simulate", "--out", "sim", "--cell", "2", "--profiles", "150")
    program = (
        "import soilcarbon, pathlib; from soilcarbon import SoilCarbonRegressor; print(pathlib.Path(soilcarbon.__file__).parent)"
    )
    assert installed("-c", program).strip().endswith("soilcarbon")
    assert ".yaml" in installed("-c", "import soilcarbon.settings as s; print(*s.PRESETS.iterdir())")
