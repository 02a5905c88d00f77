"""Cells of CSV files that a spreadsheet would run as formulas: written with an apostrophe before them, and read without it.

Names in our tables (ids, zones, columns) come from untrusted files. A cell that begins with = + - @ or a control character, and is
no number, is written as '=...; what reads our tables gives the name as it was.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - wide forms count in spreadsheets too
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf|-")


def guarded(text: str) -> str:
    """Return text as a cell that no spreadsheet runs.

    >>> guarded("=1+1"), guarded("-2.5"), guarded("a=b"), guarded("'=1")
    ("'=1+1", '-2.5', 'a=b', "''=1")
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """Return the text that a cell was made of by `guarded`.

    >>> unguarded("'=1+1"), unguarded("'quoted'"), unguarded("-2.5")
    ('=1+1', "'quoted'", '-2.5')
    """
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def guarded_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table whose texts and names of columns no spreadsheet runs; numbers stay numbers."""
    texts = [k for k, dtype in enumerate(table.dtypes) if dtype.kind not in "biufcmM"]
    safe = table.set_axis([guarded(str(name)) for name in table.columns], axis=1)
    for k in texts:
        column = safe.iloc[:, k].astype(object)
        if any(isinstance(value, str) and _FORMULA.match(value) for value in column):
            safe.isetitem(k, column.map(lambda value: guarded(value) if isinstance(value, str) else value))
    return safe
