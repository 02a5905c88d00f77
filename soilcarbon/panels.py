"""Lay out figures of several panels, all of one width, as the pages of comparisons and of drivers show them.

In: how many panels. Out: a figure and its axes; names as matplotlib draws them letter by letter; a legend above them all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from soilcarbon.figures import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches of every figure: a page shows them all at one scale, so that their letters are of one size."""
DPI = 200
_ABOVE = 0.45
"""Inches for the legend."""


def plain(text: object, longest: int = 34) -> str:
    """Return a name as matplotlib draws it letter by letter: no mathematics, no line ends, not longer than there is room."""
    letters = "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()
    short = letters if len(letters) <= longest else letters[: longest - 1] + "…"
    return literal(short.replace("_", " ", 1) if short.startswith("_") else short)


def panels(n: int, columns: int, height: float, sharex: bool = False, sharey: bool = False) -> "tuple[Figure, list[Axes]]":
    """Return n axes in rows of at most `columns`, each row so many inches high."""
    from matplotlib.figure import Figure

    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH, rows * height + _ABOVE), dpi=DPI, layout="constrained")
    axes = list(np.ravel(np.asarray(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey))))
    for spare in axes[n:]:
        spare.set_visible(False)
    for ax in axes[:n]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes[:n]


def legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend above all panels, in as many columns as its labels leave room for."""
    columns = max(1, min(len(labels), 100 // (max(map(len, labels), default=0) + 8)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=8, handlelength=2.2)
