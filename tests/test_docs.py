"""What README and docs tell a user to type is understood by the scripts."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from soilcarbon.commands.arguments import read_settings
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.commands.covariates import CovariateSettings
from soilcarbon.commands.densities import DensitySettings
from soilcarbon.commands.drivers import DriverSettings
from soilcarbon.commands.map import MapSettings
from soilcarbon.commands.prepare import PrepareSettings
from soilcarbon.commands.simulate import SimulateSettings
from soilcarbon.commands.skill import SkillSettings
from soilcarbon.commands.validate import AgainstSettings
from soilcarbon.commands.zones import ZonedSettings
from soilcarbon.settings import GlobalSettings, PredictSettings, RegionalSettings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "simulate.py": SimulateSettings,
    "prepare.py": PrepareSettings,
    "train_global.py": GlobalSettings,
    "train_regional.py": RegionalSettings,
    "pred.py": PredictSettings,
    "make_map.py": MapSettings,
    "against.py": AgainstSettings,
    "compare.py": CompareSettings,
    "drivers.py": DriverSettings,
    "skill.py": SkillSettings,
    "train_zoned.py": ZonedSettings,
    "densities.py": DensitySettings,
    "covariates.py": CovariateSettings,
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """Yield (page, command) for every call of a script in a code block or in backticks."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`((?:python )?\w+\.py --[^`]*)`", text)
        for line in lines:
            words = shlex.split(line, comments=True)
            script = next((k for k, word in enumerate(words[:2]) if word in SETTINGS), None)
            if script is not None and "--help" not in words:
                yield pytest.param(words[script:], id=f"{page.stem}: {' '.join(words)[:90]}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_in_the_docs_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = read_settings(SETTINGS[words[0]], "", words[1:])
    given = [word.removeprefix("--") for word in words[1:] if word.startswith("--")]
    assert all(settings.given(name) for name in given)


def test_every_room_is_on_the_map():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in ROOT.glob("*.py") if f"`{path.name}`" not in readme]
    assert not missing


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "experiments").glob("*.py"))], ids=lambda path: path.stem
)
def test_benchmarks_find_what_they_measure(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)  # as where it is run
    specification = importlib.util.spec_from_file_location(path.stem, path)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))
