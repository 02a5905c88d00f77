"""The installed package works away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_the_container_is_built_of_files_that_are_there():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [words.split()[0] for words in re.findall(r"(?m)^COPY (.+)$", text)]
    assert copied == ["requirements.txt", "."] and all((ROOT / name).exists() for name in copied)
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = [name for name in kept if name.startswith(("soilcarbon/", "configs/")) or name in ("pyproject.toml", "README.md")]
    assert needed and not [name for name in needed if name.split("/")[0] in left_out]
    assert text.index("pip install --no-cache-dir -r requirements.txt") < text.index("COPY . .")  # kept while the code changes
    base = re.search(r"FROM python:(\d\.\d+)-slim", text)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Programming Language :: Python :: {base}" in project["classifiers"]


def test_the_conda_environment_and_the_container_have_the_same_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups() for each in project["dependencies"])
    listed = [each for each in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(each, str)]
    found = dict(re.fullmatch(r"([\w-]+) >=([\d.]+).*", each).groups() for each in listed if each != "pip")
    names = {"pytorch": "torch", "matplotlib-base": "matplotlib", "geopandas-base": "geopandas", "jinja2": "Jinja2"}
    assert {names.get(name, name): version for name, version in found.items() if name != "python"} == ours
    assert f">={found['python']}" == project["requires-python"]
    pinned = re.search(r"(?m)^torch==\S+", (ROOT / "requirements.txt").read_text())[0]
    assert pinned in (ROOT / "Dockerfile").read_text()
