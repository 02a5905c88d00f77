"""Commands in README and docs are accepted by the scripts and commands; links are valid."""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from soilcarbon.commands.arguments import COMMANDS, read_settings
from soilcarbon.settings import GlobalSettings, PredictSettings, RegionalSettings, Settings

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train_global.py": GlobalSettings, "train_regional.py": RegionalSettings, "pred.py": PredictSettings}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def settings_class(command: str) -> type[Settings]:
    """Return the settings that a command's `main` reads, by its source."""
    module = importlib.import_module(f"soilcarbon.commands.{command}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_settings"]
    return getattr(module, calls[0].args[0].id)


CLASSES = SCRIPTS | {name: settings_class(name) for name in COMMANDS}


def commands():
    """Yield (class of settings, its arguments) for every call of a script or command in a code block or in backticks."""
    sources = [(page.stem, page.read_text(encoding="utf-8")) for page in PAGES]
    for name, text in sources:
        text = text.replace("\\\n", " ")
        blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`((?:python \w+\.py|soilcarbon \w+) --[^`]*)`", text)
        for line in lines:
            words = shlex.split(line, comments=True)
            at = next(
                (
                    k
                    for k, word in enumerate(words[:4])
                    if word in CLASSES and words[k - 1].endswith(("python", "soilcarbon", "--"))
                ),
                None,
            )
            if at is not None and "--help" not in words:
                yield pytest.param(CLASSES[words[at]], words[at + 1 :], id=f"{name}: {' '.join(words)[:90]}")


@pytest.mark.parametrize(("cls", "arguments"), list(commands()))
def test_every_command_in_the_docs_is_understood(cls, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8"), re.DOTALL)
    Path("drivers.yaml").write_text(shown[1], encoding="utf-8")
    settings = read_settings(cls, "", arguments)
    given = [word.removeprefix("--").removeprefix("no-") for word in arguments if word.startswith("--")]
    assert all(settings.given(name) for name in given)


def test_the_docs_name_no_command_that_is_not_there():
    for page in PAGES:
        for name in re.findall(r"(?m)^\s*(?:python -m )?soilcarbon ([a-z_]+)", page.read_text(encoding="utf-8")):
            assert name in COMMANDS, f"{page.name}: soilcarbon {name}"
        for name in re.findall(r"\bpython ([\w/]+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: python {name}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short_and_names_every_command_and_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12_000
    assert not [name for name in COMMANDS if f"`{name}`" not in text]
    folders = [path.name for path in (ROOT / "soilcarbon").iterdir() if (path / "__init__.py").is_file()]
    assert not [name for name in folders if f"`{name}/`" not in text]


PROGRAMS = sorted(path for folder in ("benchmarks", "experiments") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_benchmarks_and_experiments_find_what_they_import(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)  # as where it is run
    specification = importlib.util.spec_from_file_location(path.stem, path)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))
