"""The documentation site: all pages are in it, every setting is in its reference, it builds without a warning and works offline."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_docs import CLASSES

from soilcarbon.commands.arguments import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def make_site():
    specification = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def pages_of(nav):
    """Yield the pages of a navigation."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages_of(value)


def test_every_page_is_in_the_navigation(make_site):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(make_site.COPIED.values()) | {"commands.md"}
    assert set(pages_of(nav)) == pages, "mkdocs.yml: add the page to nav, or take it out"


def test_the_reference_has_every_setting_with_its_default(make_site):
    parts = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", make_site.commands_page()))
    assert tuple(sorted(parts)) == COMMANDS
    for command, text in parts.items():
        cls = make_site.settings_class(command)
        assert cls is CLASSES.get(command, cls)
        for name, field in cls.model_fields.items():
            row = next(line for line in text.splitlines() if re.match(rf"\| `(--)?{name}`", line))
            assert not field.is_required() or "| required |" in row
    assert "| `--level` | nominal coverage of the prediction intervals | `0.9` | number |" in parts["map"]


def test_links_lead_to_pages_of_the_site_or_become_text(make_site):
    text = "[a](docs/maps.md#change) [b](LICENSE) ![c](docs/zoned.png) [d](https://x.org) [e](examples/anhui/README.md) [f](#here)"
    found = make_site.relinked(text, ROOT / "README.md", {"maps.md", "zoned.png"})
    assert found == "[a](maps.md#change) b ![c](zoned.png) [d](https://x.org) [e](anhui.md) [f](#here)"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) >= 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"([^\"]+)\"", text) + re.findall(r"<link[^>]*href=\"([^\"]+)\"", text)
        assert not [address for address in loaded if re.match(r"(\w+:)?//", address)], page.name


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.stem)
def test_what_lies_in_a_list_is_indented_by_four(path):
    """GitHub takes two spaces, the site's Markdown four."""
    fence, wrong, before = False, [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("- ") and re.fullmatch(r" +```", before):
            wrong.append(number)  # an empty line has to part the block from the next item
        before = line
        if line.strip().startswith("```"):
            fence = not fence
        if (line.strip().startswith("```") or not fence) and re.match(r" {1,3}([-*] |\d+\. |```)", line):
            wrong.append(number)
    assert not wrong
