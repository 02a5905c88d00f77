"""Tables of text files read whole: encodings, separators and quotes; what would be read in part is refused."""

import csv
import io
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soilcarbon.categories import first_repeated
from soilcarbon.io.files import UserError, must_exist
from soilcarbon.io.formulas import unguarded

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_LARGEST = 10**300
_NO_VALUE = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]
"""Missing values in columns of numbers; an id may be "NA"."""
_NOT_TEXT = {
    b"PK\x03\x04": "an Excel or OpenDocument file (.xlsx, .ods): save its sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel file (.xls): save its sheet as CSV (UTF-8)",
    b"SQLite format 3": "a database or GeoPackage: name it *.gpkg, or export its table as CSV",
    b"\x1f\x8b": "compressed (gzip): unpack it first",
    b"PAR1": "a Parquet file: export it as CSV",
    b"%PDF": "a PDF: export its table as CSV",
}
"""First bytes of files that are no text, and what to do with them."""
_HEAD = 2**16  # bytes that are looked at before the rest is read


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 with its byte-order mark, or else Windows-1252, which is logged.

    UserError if it is missing, or no text; what it is and the way out are named.
    """
    must_exist(path, "table")
    nul = f"{path}: not readable as a table: it holds NUL bytes, so is no text in UTF-8; save it as CSV (UTF-8)"
    with path.open("rb") as file:
        content = file.read(_HEAD)
        if what := next((what for begin, what in _NOT_TEXT.items() if content.startswith(begin)), None):
            raise UserError(f"{path}: not readable as a table: it is {what}")
        marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        if not marked and b"\x00" in content:  # before a file of any size is read
            raise UserError(nul)
        content += file.read()
    if not marked and b"\x00" in content:
        raise UserError(nul)
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 ({content.count(content[error.start : error.start + 1])} bytes such as {error.object[error.start]:#04x})"
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as a table: {what}, nor Windows-1252; save it as CSV (UTF-8)") from error
    log.info("%s: %s, read as Windows-1252; save it as UTF-8 if names look wrong", path, what)
    return text


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV (or tab- or semicolon-separated) table as text: the header, and the rows exactly as written.

    Blanks round a field, the apostrophe of a guarded one (`formulas`), empty lines, and empty fields beyond the header are dropped;
    a short row is filled with "". UserError if the file is no text, has two columns of one name or rows longer than the header, is
    torn off in its last line, or has a quote that is not closed: rows would be swallowed.
    """
    text = read_text(path)
    said = re.match(r"sep=(.)\r?\n", text)  # as Excel writes
    text = text[said.end() :] if said else text
    first = re.split(r"[\r\n]", text[:1_000_000].lstrip("\r\n"), maxsplit=1)[0]
    separator = said[1] if said else max(",\t;|", key=lambda each: len(_fields(first, each)))
    _check_comment(path, text, separator)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    found: list[tuple[int, list[str]]] = []  # number of the last line of a row, and its fields
    try:
        for row in rows:
            fields = [unguarded(field.strip()) for field in row]
            if any(fields):
                found.append((rows.line_num, fields))
    except csv.Error as error:
        advice = "a quote is opened and not closed, or stands within a field; correct it, or remove the quotes"
        what = str(error).replace("'\t'", "a tab")
        raise UserError(f"{path}: not readable as a table: line {rows.line_num}: {what} ({advice})") from error
    if not found:
        raise UserError(f"{path}: not readable as a table: it is empty")
    (_, header), *found = found
    if '"' in text:
        _check_quotes(
            path, [(line, field) for line, row in found for field in row if "\n" in field or "\r" in field], header, separator
        )
    _check_lengths(path, found, len(header), text.endswith(("\n", "\r")))
    double = first_repeated([name for name in header if name])
    if double is not None:
        raise UserError(f"{path}: two columns are named {double!r}; keep one")
    width = len(header)
    return header, [row[:width] + [""] * (width - len(row)) for _, row in found]


def _check_comment(path: Path, text: str, separator: str) -> None:
    """Raise UserError if a comment stands above the header; a header may begin with # itself."""
    first, second, *_ = [*(line for line in text[:1_000_000].splitlines() if line.strip()), "", ""]
    same_width = len(_fields(first, separator)) >= len(_fields(second, separator))
    is_header = first.startswith("#") and not second.startswith("#") and same_width
    if first.startswith(("#", "/*", "//")) and not is_header:
        raise UserError(f"{path}: its first line is a comment ({first[:40]!r}); delete the lines above the header")


def _check_lengths(path: Path, rows: Sequence[tuple[int, list[str]]], width: int, ended: bool) -> None:
    """Raise UserError if rows are longer than the header, torn off at the end of the file, or split by a line break."""
    long = next((line for line, row in rows if any(row[width:])), None)
    if long is not None:
        message = f"rows have more fields than the header, first in line {long} (decimal commas, or a separator in a text?)"
        raise UserError(f"{path}: {message}; quote such fields, or save with ';'")
    if rows and len(rows[-1][1]) < width and not ended:
        saw = f"its last line has {len(rows[-1][1])} of {width} fields and no end"
        raise UserError(f"{path}: {saw}: the file is torn; copy it again")
    short = [(line, len(row), before) for (line, row), before in zip(rows, [width, *(len(row) for _, row in rows)], strict=False)]
    short = [each for each in short if each[1] < width]
    split = next((line for line, length, before in short if before + length - 1 == width), None)
    if split is not None:
        parts = f"lines {split - 1} and {split} have too few fields, and together as many as the header has"
        raise UserError(f"{path}: {parts}: a line break within a text? Quote such texts, or remove it")
    if short:
        log.info("%s: %d rows have fewer fields than the header; the others are missing", path, len(short))


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # told of when all rows are read
        return []


def _check_quotes(path: Path, several: Sequence[tuple[int, str]], header: Sequence[str], separator: str) -> None:
    """Raise UserError if quoted fields of several lines have swallowed rows: they hold as many separators as those would."""
    separators = len(header) - 1
    swallowed = [(line, field) for line, field in several if field.count(separator) * 2 >= len(field.splitlines()) * separators > 0]
    if swallowed:
        line, field = swallowed[0]
        breaks = sum(max(field.count("\n"), field.count("\r")) for _, field in swallowed)
        raise UserError(
            f"{path}: {len(swallowed)} quoted fields run over several lines and swallow rows ({breaks} line breaks; the first ends"
            f" in line {line} and begins {field[:30]!r}): close the quotes, or remove them"
        )


def read_table(path: Path, columns: Sequence[str] = (), text: Sequence[str] = ("profile_id",)) -> "pd.DataFrame":
    """Read a table with a header line (`read_rows`); columns of numbers as numbers, those of `text` as written: an id stays "007".

    UserError if the file is missing, empty, not text, or lacks one of `columns`.
    """
    import pandas as pd

    header, rows = read_rows(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, header[:12]))}")
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    buffer.seek(0)
    table = pd.read_csv(
        buffer,
        dtype=dict.fromkeys(text, "str"),
        keep_default_na=False,
        na_values={name: [""] if name in text else _NO_VALUE for name in header},
        index_col=False,
        low_memory=False,
        skip_blank_lines=False,
    )
    for name, column in table.items():
        if column.dtype == object:  # whole numbers of any length, which pandas cannot make floats of
            table[name] = [math.inf if type(value) is int and abs(value) > _LARGEST else value for value in column]
    return table
