"""Pages of the documentation site that are not written by hand, and links of those that are; read by mkdocs (mkdocs.yml).

The start page is README.md, the changelog CHANGELOG.md, the tutorial's data examples/anhui/README.md; the reference of commands is
made from the declarations of their settings. Links to files of the repository that are no pages become plain text.
"""

import ast
import importlib
import re
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from soilcarbon.commands.arguments import COMMANDS  # noqa: E402 - of this checkout
from soilcarbon.settings import GlobalSettings, PredictSettings, RegionalSettings, Settings  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

COPIED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "examples/anhui/README.md": "anhui.md"}
"""File of the repository -> the page that it is."""
SCRIPTS: dict[str, type[Settings]] = {"train": GlobalSettings, "finetune": RegionalSettings, "predict": PredictSettings}
HEAD = """# Commands

Made from the declarations of the settings; `soilcarbon COMMAND --help` shows the same. Every setting can stand in a YAML file
(`--config FILE`), and a flag wins over it. Required settings have no default. Lists take several values: `--depths 0 30 100`.

"""


def settings_class(command: str) -> type[Settings]:
    """Return the settings that a command reads, by its source."""
    if command in SCRIPTS:
        return SCRIPTS[command]
    module = importlib.import_module(f"soilcarbon.commands.{command}")
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_settings"]
    found: type[Settings] = getattr(module, calls[0].args[0].id)  # type: ignore[attr-defined]
    return found


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return prose(text).replace("|", "\\|").replace("\n", " ")


def prose(text: str) -> str:
    """Return a docstring's words as Markdown: names in angle brackets are no tags, stars and underscores no emphasis."""
    return re.sub(r"([*_])", r"\\\1", text.replace("<", "&lt;"))


def values_of(annotation: Any) -> str:
    """Return what a setting takes, for a reader.

    Examples
    --------
    >>> values_of(int | None), values_of(list[Path]), values_of(Literal["mean", "zero"])
    ('whole number', 'paths, one or more', 'mean, zero')
    """
    options = [each for each in typing.get_args(annotation) if each is not type(None)]
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return values_of(options[0])
    if origin is typing.Annotated:
        return values_of(options[0])
    if origin is Literal:
        return ", ".join(map(str, options))
    if origin is list:
        return f"{values_of(options[0])}s, one or more"
    if origin is tuple:
        return f"{len(options)} numbers" if Ellipsis not in options else "list"
    known = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path"}
    return known.get(annotation, "list of mappings" if origin is None else "text")


def typed(value: Any) -> str:
    """Return a default value as it is typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(command: str) -> str:
    """Return the Markdown of one command: purpose, examples, settings with values, default, meaning and unit."""
    first, _, rest = (importlib.import_module(f"soilcarbon.commands.{command}").__doc__ or "").partition("\n")
    examples = [line[4:] for line in rest.splitlines() if line.startswith("    ")]
    words = "\n".join(line for line in rest.splitlines() if not line.startswith("    ")).strip()
    shown = ["```text", *examples, "```", ""] if examples else []
    lines = [f"## {command}", "", prose(first), "", *shown, prose(words), ""]
    lines += ["| setting | meaning | default | takes |", "|---|---|---|---|"]
    cls = settings_class(command)
    for name, field in cls.model_fields.items():
        flag = f"`{name}` (YAML only)" if name in cls.yaml_only else f"`--{name}`"
        none = field.is_required() or field.default in (None, [], "")
        default = "required" if field.is_required() else "" if none else f"`{typed(field.default)}`"
        lines.append(f"| {flag} | {cell(field.description or '')} | {default} | {cell(values_of(field.annotation))} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page of all commands."""
    return HEAD + "\n".join(describe(name) for name in COMMANDS)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    pages = {"commands.md": commands_page()}
    pages |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in COPIED.items()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def relinked(text: str, source: Path, pages: set[str]) -> str:
    """Return Markdown whose links lead to pages of the site; links to other files of the repository become their text."""
    copied = {(ROOT / name).resolve(): page for name, page in COPIED.items()}

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match["words"], match["target"], match["anchor"] or ""
        path = (source.parent / target).resolve()
        if path in copied:
            return f"[{words}]({copied[path]}{anchor})"
        if path.parent == ROOT / "docs" and path.name in pages:
            return f"[{words}]({path.name}{anchor})"
        return words if match[0].startswith("[") else match[0]

    pattern = r"(?P<bang>!?)\[(?P<words>[^\]]*)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
    return re.sub(pattern, lambda match: match["bang"] + link(match), text)


def on_page_markdown(markdown: str, page: "Page", files: "Files", **_: Any) -> str:
    """Return a page with its links mended."""
    sources = {page_name: ROOT / name for name, page_name in COPIED.items()}
    source = sources.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)
    return relinked(markdown, source, {file.src_uri for file in files})
