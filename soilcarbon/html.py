"""HTML pages and reports from Jinja2 templates, usable offline and safe for untrusted text.

In: values, or the blocks of a report (paragraphs, tables, figures). Out: one HTML file that needs no network: style and
script are inline, pictures are data URIs, and its Content-Security-Policy admits just those. All text is escaped by the
templates (`templates/`); nothing else of the package writes HTML.
"""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soilcarbon.io.files import write_text
from soilcarbon.io.manifest import REPORT as REPORT
from soilcarbon.io.manifest import begin_files

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = "(policy)"
_MARKDOWN = str.maketrans({**{mark: f"\\{mark}" for mark in "\\`*_[]|#"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Strong(str):
    """A table cell shown in bold."""


@dataclass(frozen=True)
class Table:
    """A table of a report; its first cells name the rows. Anything but text is shown by `format_value`; `Strong` is bold.

    Examples
    --------
    >>> print(Table("Scores", ["model", "MAE"], [["forest", 0.25]]).to_markdown())
    Scores
    <BLANKLINE>
    | model | MAE |
    | --- | ---: |
    | forest | 0.25 |
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[bool] = ()
    groups: Sequence[tuple[str, int]] = ()
    note: str = ""
    kind: ClassVar[str] = "table"

    @classmethod
    def grouped(
        cls,
        caption: str,
        groups: Sequence[tuple[str, Sequence[str]]],
        rows: Sequence[Sequence[object]],
        texts: int = 1,
        note: str = "",
    ) -> "Table":
        """Return a table whose columns stand in titled groups, the first `texts` columns being text."""
        header = [name for _, names in groups for name in names]
        titled = [(title, len(names)) for title, names in groups] if any(title for title, _ in groups) else []
        return cls(caption, header, rows, [k >= texts for k in range(len(header))], titled, note)

    def cells(self) -> list[list[str]]:
        """Return the rows as text."""
        return [[cell if isinstance(cell, str) else format_value(cell) for cell in row] for row in self.rows]

    def numeric_columns(self) -> list[bool]:
        """Return for each column whether it is aligned as numbers."""
        return list(self.numeric) or [k > 0 for k in range(len(self.header))]

    def to_markdown(self) -> str:
        """Return the table in Markdown, escaped; the title of a group precedes the names of its columns."""
        titles = [title for title, width in self.groups for _ in range(width)] or [""] * len(self.header)
        names = [f"{title}: {name}" if title else name for title, name in zip(titles, self.header, strict=True)]
        marks = ["---:" if is_number else "---" for is_number in self.numeric_columns()]
        rows = [
            [f"**{escape_markdown(cell)}**" if isinstance(cell, Strong) else escape_markdown(cell) for cell in row]
            for row in self.cells()
        ]
        lines = "\n".join(f"| {' | '.join(line)} |" for line in [[escape_markdown(name) for name in names], marks, *rows])
        return "\n\n".join(part for part in (escape_markdown(self.caption), lines, escape_markdown(self.note)) if part)


@dataclass(frozen=True)
class Figure:
    """A PNG file, embedded with a text for those who cannot see it, and a caption."""

    path: Path
    alt: str
    caption: str
    kind: ClassVar[str] = "figure"

    def data_uri(self) -> str:
        """Return the file as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"


@dataclass(frozen=True)
class Note:
    """A paragraph in small type that explains the following blocks."""

    text: str
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Items:
    """A list; an item of two texts shows the first in bold."""

    items: Sequence[str | tuple[str, str]]
    kind: ClassVar[str] = "items"


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as commands."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away below a title until it is clicked."""

    title: str
    blocks: "Sequence[Block]"
    kind: ClassVar[str] = "details"


Block = str | Table | Figure | Note | Items | Code | Details
"""A part of a report; plain text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A section of a report: name (its anchor), title, blocks. A section without blocks is left out."""

    name: str
    title: str
    blocks: Sequence[Block]


class FigureFolder:
    """Figures drawn into a folder as PNG files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, name: str, alt: str, caption: str, plot: Callable[..., object], *values: Any) -> Figure:
        """Call `plot(path, *values)`, which writes a PNG, and return it as a figure."""
        path = self.folder / f"{name}.png"
        begin_files(self.folder, [path.name], REPORT)
        plot(path, *values)
        return Figure(path, alt, caption)


def write_report(path: Path, title: str, subject: str, verdict: Sequence[str], sections: Sequence[Section]) -> None:
    """Write a report as one HTML page, atomically.

    `subject` is a line below the title that says what the report is about; `verdict` the result, a sentence or two each, the first
    one the largest. Sections without blocks are left out.
    """
    kept = [section for section in sections if section.blocks]
    write_text(path, render("report.html", title=title, subject=subject, verdict=verdict, sections=kept))


def render(template: str, **values: Any) -> str:
    """Return a page: a template of `templates/` that extends base.html, filled with values, which are escaped.

    The Content-Security-Policy admits the page's own style and script by their hashes, pictures as data URIs, and nothing else. A
    value that is missing raises jinja2.UndefinedError.

    Examples
    --------
    >>> page = render("report.html", title="a < b", subject="", verdict=["yes"], sections=[])
    >>> "<h1>a &lt; b</h1>" in page
    True
    """
    page = _environment().get_template(template).render(values, policy=_POLICY)
    return page.replace(_POLICY, _policy(page), 1)  # the first is base.html's own: no value stands before it


def _policy(page: str) -> str:
    """Return the Content-Security-Policy: just the page's own style and script, pictures from within, no network."""
    rules = ["default-src 'none'"]
    for kind in ("script", "style"):
        for content in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL):
            rules.append(f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'")
    return "; ".join([*rules, "img-src data:", "base-uri 'none'", "form-action 'none'"])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["strong"] = lambda value: isinstance(value, Strong)
    return environment


def format_value(value: Any) -> str:
    """Return a value as a table shows it: three significant digits, thousands separated, "–" where there is none.

    Examples
    --------
    >>> [format_value(each) for each in (12345, -0.12345, 98765.4, 0.0, None, float("nan"), True, "x")]
    ['12,345', '−0.123', '98,765', '0', '–', '–', 'yes', 'x']
    """
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return "–"
    return (f"{number:,.0f}" if 999.5 <= abs(number) < 1e9 else f"{number:.3g}").replace("-", "−")


def fixed(value: float | None, places: int = 2, sign: bool = False) -> str:
    """Return a number with so many decimals and a true minus; a dash where there is none.

    >>> fixed(-1234.567, 1), fixed(0.004, sign=True), fixed(float("nan"))
    ('−1,234.6', '0.00', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(float(value), places) + 0.0  # no minus, and no plus, before a zero
    return f"{rounded:{'+' if sign and rounded else ''},.{places}f}".replace("-", "−")


def bracketed(value: Any, low: Any, high: Any) -> str:
    """Return a value and its interval as a table shows them; without the interval where there is none."""
    value, low, high = (format_value(each) for each in (value, low, high))
    return f"{value} [{low}, {high}]" if "–" not in (value, low) else value


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name, a dot between levels, and text of everything in nested mappings and sequences.

    Examples
    --------
    >>> list(flattened({"model": {"members": 5, "radii": [0, 3]}, "aoi": None}))
    [('model.members', '5'), ('model.radii', '0, 3'), ('aoi', '–')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping | list | tuple) for each in value):
        for k, inner in enumerate(value, start=1):
            yield from flattened(inner, f"{name}.{k}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "–"
    else:
        yield name, "–" if value is None or value == {} else str(value)


def escape_markdown(text: object) -> str:
    r"""Return text of which Markdown makes neither markup nor columns."""
    return " ".join(str(text).split()).translate(_MARKDOWN)
