"""Names that the drivers still import; gone once they are rebuilt."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Hold the words of a table: groups of columns (a title, "" for none, and the columns), rows, columns of text first."""

    caption: str
    groups: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    def to_html(self) -> str:
        """Return it with everything escaped, in a box of its own that scrolls."""
        names = [name for _, group in self.groups for name in group]
        kinds = ["" if k < self.texts else ' class="number"' for k in range(len(names))]
        cells = [f'<th scope="col"{kind}>{html.escape(name)}</th>' for kind, name in zip(kinds, names, strict=True)]
        head = f"<tr>{''.join(cells)}</tr>"
        if any(title for title, _ in self.groups):
            over = "".join(
                f'<th scope="colgroup" colspan="{len(group)}">{html.escape(title)}</th>'
                if title
                else f'<td colspan="{len(group)}"></td>'
                for title, group in self.groups
            )
            head = f'<tr class="over">{over}</tr>\n{head}'
        body = ""
        for first, *others in self.rows:
            shown = (_strong(cell, f"<td{kind}>", "</td>") for kind, cell in zip(kinds[1:], others, strict=True))
            body += f"<tr>{_strong(first, _ROW, '</th>')}{''.join(shown)}</tr>\n"
        caption = html.escape(self.caption)
        return (
            f'<div class="wide" role="region" tabindex="0" aria-label="{caption}"><table>\n'
            f"<caption><span>{caption}</span></caption>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>"
        )

    def to_markdown(self) -> str:
        """Return it in Markdown, a group's title before the names of its columns."""
        names = [f"{title}: {name}" if title else name for title, group in self.groups for name in group]
        marks = ["---" if k < self.texts else "---:" for k in range(len(names))]
        lines = [[markdown(name) for name in names], marks]
        lines += [[f"**{markdown(cell)}**" if isinstance(cell, Best) else markdown(cell) for cell in row] for row in self.rows]
        return f"{markdown(self.caption)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


_ROW = '<th scope="row">'


class Best(str):
    """Be a cell that stands out."""


def _strong(cell: str, start: str, end: str) -> str:
    words = html.escape(cell)
    return f"{start}<strong>{words}</strong>{end}" if isinstance(cell, Best) else f"{start}{words}{end}"


def markdown(text: str) -> str:
    """Return a text of which Markdown makes neither markup nor columns."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
