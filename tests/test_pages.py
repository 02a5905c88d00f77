"""Every command and every block of Python of every page runs, in a folder that has the files that the pages name."""

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import doc_world
import numpy as np
import pytest
from conftest import PUBLISHED_WEIGHTS, slow_but
from doc_pages import PAGES, ROOT, commands, pieces, run_command
from test_docs import CLASSES

from soilcarbon.commands.arguments import from_yaml

OWN_TEST = {
    **dict.fromkeys(("tutorial", "agency", "market", "modeller", "weights"), "tests/test_guides.py"),
    "python": "tests/test_python_page.py",
    "r": "tests/test_r_page.py",
    "extending": "tests/test_extending_page.py",
    "api": "pyproject.toml",
}
"""Pages whose blocks run without the files made here -> the test that runs them; those of `api` are doctests (make test)."""
REAL = "real data are not in the repository"
NOT_RUN = {
    r"make \w": ("needs minutes to hours", "tests/test_pages.py::test_targets_of_make_are_understood"),
    r"python3 -m venv|pip install": ("changes the installation", "tests/test_install.py::test_command_and_import_work_elsewhere"),
    r"docker |conda ": ("needs programs of others", "tests/test_install.py::test_the_container_is_built_of_files_that_are_there"),
    r"tensorboard ": ("serves until it is stopped", "tests/test_scripts.py::test_tensorboard_holds_graph_losses"),
    r"dask |.* --scheduler ": ("needs several machines", "tests/commands/test_map_interruption.py::test_dask_workers_give"),
    r"torchrun ": ("needs several processes", "tests/training/test_distributed.py::test_two_processes_train_as_one_does"),
    r"python (benchmarks|experiments)/": ("takes minutes to hours", "tests/test_pages.py::test_arguments_of_experiments"),
    r".* configs/realdata_\w+\.yaml": (REAL, "tests/test_presets.py::test_compare"),
    r".* (data/real/|--runs north_macedonia)": (REAL, "tests/commands/test_compare.py::test_runs_cover"),
    r".* \.\./shared/": (REAL, "tests/test_presets.py::test_sim_zoned"),
    r"soilcarbon fetch --source": ("servers of others", "tests/commands/test_fetch.py::test_a_source_is_fetched_by_its_pattern"),
}
"""Start of a command -> why it is not run here, and the test of what it does."""
REPLACED = {"SoilCarbonRegressor()": 'SoilCarbonRegressor(teacher="none", members=2, epochs=2)', "--budget full": ""}
"""What takes minutes -> the same in short."""
GIVEN = {
    "network": lambda: {"x": np.random.default_rng(0).normal(size=(60, 3)), "y": np.random.default_rng(1).uniform(5, 50, 60)},
    "own-data": lambda: {"X": np.ones((3, 11))},
}
"""Page -> the arrays that its Python takes for given."""
YAML_OF = {"own-data": "compare", "skill": "compare", "data-sources": "prepare", "drivers": "drivers", "modeller": "drivers"}
"""Page -> the command whose settings its blocks of YAML are."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with the tables and rasters that the pages name."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        doc_world.make_inputs()
    return folder


@pytest.fixture(scope="module")
def world(inputs, tmp_path_factory):
    """A folder with the models and maps that they name, too."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(inputs, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        doc_world.make_models()
    return folder


def reason(line):
    """Return why a command is not run, or None."""
    if "published.pth" in line and not PUBLISHED_WEIGHTS.is_file():
        return "the published weights are not here"
    if line.startswith("gdal") and shutil.which(line.split()[0]) is None:
        return "GDAL's own programs are not here"
    return next((why for start, (why, _) in NOT_RUN.items() if re.match(start, line)), None)


def lines():
    """Return the commands of all pages."""
    return [line for page in PAGES for kind, text in pieces(page) if kind in ("bash", "inline") for line in commands(text)]


WITHOUT_MODEL = ("stocks", "choices", "scaling", "speed")


@pytest.mark.parametrize(
    "page", slow_but([page for page in PAGES if page not in ("api", "python", "r", "extending")], *WITHOUT_MODEL[1:])
)
def test_page(page, request, server, tmp_path, monkeypatch, no_drawing):
    shutil.copytree(request.getfixturevalue("inputs" if page in WITHOUT_MODEL else "world"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    server.files["/climate.tif"] = Path("served/climate.tif").read_bytes()
    names = GIVEN.get(page, dict)()
    for kind, text in pieces(page):
        for old, new in {**REPLACED, "https://example.org": server.address}.items():
            text = text.replace(old, new)
        if kind == "yaml":
            Path(f"{page}.yaml").write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        elif kind == "inline" or page not in OWN_TEST:
            for line in commands(text) if kind in ("bash", "inline") else ():
                print("\n$", line, f"# not run: {reason(line)}" if reason(line) else "", flush=True)
                if not reason(line):
                    run_command(line)


def test_kinds_of_blocks():
    kinds = {page: {kind for kind, _ in pieces(page)} for page in PAGES}
    assert set().union(*kinds.values()) == {"bash", "inline", "python", "yaml", "text", "r", "javascript"}
    assert [page for page in kinds if "text" in kinds[page]] == ["market", "tutorial"]  # what is printed: compared by test_guides
    assert [page for page in kinds if kinds[page] & {"r", "javascript"}] == ["data-sources", "r"]  # of other programs
    assert [
        page for page in ("python", "r", "api") for kind, text in pieces(page) if kind in ("bash", "inline") and not reason(text)
    ] == []
    assert {page for page in kinds if "yaml" in kinds[page]} == set(YAML_OF)


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_not_run_has_a_reason(start):
    why, test = NOT_RUN[start]
    path, _, name = test.partition("::")
    assert why and f"def {name}" in (ROOT / path).read_text(encoding="utf-8")
    assert any(re.match(start, line) for line in lines()), "no page has such a command: take it off the list"


@pytest.mark.parametrize("page", YAML_OF)
def test_yaml_of_pages_is_of_the_command(page, tmp_path):
    cls = CLASSES[YAML_OF[page]]
    for kind, text in pieces(page):
        if kind == "yaml":
            (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
            assert from_yaml(cls, tmp_path / "x.yaml")


EXPERIMENTS = sorted({line for line in lines() if re.match(r"python (benchmarks|experiments)/", line)})


@pytest.mark.parametrize("line", EXPERIMENTS)
def test_arguments_of_experiments(line, monkeypatch):
    """The parser of the script takes them, and nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    parsed, parse = [], argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments, **keywords):
        parsed.append(parse(self, *arguments, **keywords))
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend((ROOT / words[0]).parent)
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert parsed


TARGETS = sorted({shlex.split(line, comments=True)[1] for line in lines() if line.startswith("make ")})


@pytest.mark.parametrize("target", TARGETS)
def test_targets_of_make_are_understood(target):
    """What `make` would run are scripts that are there, and commands with settings that they have."""
    told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    found = re.findall(r"bin/python (?:-m soilcarbon (\w+)|(\S+\.py)|-m (\w+))([^&|;\n]*)", told)
    assert found or target == "docs"
    for command, script, _, rest in found:
        cls = CLASSES.get(command or script)
        assert cls or not command, f"no command {command}"
        assert not script or (ROOT / script).is_file()
        if cls:
            assert {word.removeprefix("--").removeprefix("no-") for word in re.findall(r"--\w+", rest)} <= set(cls.model_fields)
