"""Write docs/api.md from the docstrings of the public API.

python docs/make_api.py
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import soilcarbon

PAGE = Path(__file__).with_name("api.md")
TITLES = {
    "estimator": "The network as a scikit-learn regressor",
    "stats": "Spatial validation and uncertainty",
    "soil": "Soil profiles",
    "geo": "Maps",
    "mapping": "Models, and maps and means from xarray Datasets",
    "commands": "Commands",
}
"""Folder or module of the package -> heading; others have their own name."""
HEAD = """# Python API

Made by `python docs/make_api.py` from the docstrings; `help(soilcarbon.NAME)` has examples. N profiles, n observations,
(H, W) cells. Coordinates are longitudes and latitudes in degrees (EPSG:4326) unless stated otherwise.

"""


def sections(docstring: str) -> dict[str, str]:
    """Return the parts of a NumPy-style docstring: "" -> the text before the first heading, heading -> its text."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(docstring) + "\n", flags=re.MULTILINE)
    return {"": parts[0].strip()} | {name: text.rstrip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and descriptions of a section such as Parameters."""
    for name, description in re.findall(r"^(\S[^\n]*)\n((?:[ ]+[^\n]*\n?|\n)*)", text, flags=re.MULTILINE):
        yield name, " ".join(textwrap.dedent(description).split())


def signature(name: str, of: Any) -> str:
    """Return a call with argument names and defaults, without types."""
    call = inspect.signature(of)
    plain = [
        each.replace(annotation=inspect.Parameter.empty) for each in call.parameters.values() if each.name not in ("self", "cls")
    ]
    return name + str(call.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def describe(name: str, of: Any) -> str:
    """Return the Markdown of a function or class."""
    parts = sections(of.__doc__ or "")
    lines = [f"### `{name}`\n", f"```python\n{signature(name, of)}\n```\n", parts[""] + "\n"]
    for heading in ("Parameters", "Attributes", "Returns", "Raises"):
        if heading in parts:
            listed = [f"- `{each}`: {text}" if text else f"- {each}" for each, text in entries(parts[heading])]
            lines.append(f"{heading}:\n\n" + "\n".join(listed) + "\n")
    if inspect.isclass(of):
        methods = [
            f"- `{signature(each, getattr(of, each))}`: {sections(method.__doc__)[''].splitlines()[0]}"
            for each, member in vars(of).items()
            if not each.startswith("_") and callable(method := getattr(member, "__func__", member)) and method.__doc__
        ]
        lines += ["Methods:\n\n" + "\n".join(methods) + "\n"] if methods else []
    return "\n".join(lines)


def render() -> str:
    """Return the page."""
    page, title = HEAD, ""
    for name in soilcarbon.__all__:
        of = getattr(soilcarbon, name)
        folder = of.__module__.split(".")[1]
        if (own := TITLES.get(folder, folder)) != title:
            title = own
            page += f"## {title}\n\n"
        page += describe(name, of) + "\n"
    return page.rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
