"""Read strangers' files safely; write ours whole or not at all.

In: paths. Out: tables, plain Python objects, files that are complete whenever they exist.
Every mistake of a user ends as a `UserError`, which `run` turns into one or two lines and exit status 2.
"""

import csv
import io
import json
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import pandas as pd


class UserError(Exception):
    """Say what was read, what was wrong with it, and what to do: one or two lines, shown without a traceback."""


def run(main: Callable[[], None]) -> int:
    """Run a script's `main` and return its exit status: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


# --- writing ---------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the name `path` only once it is complete and on disk.

    A write that fails half-way leaves whatever stood at `path` before, and removes its own remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise UserError(f"{path}: not written ({error.strerror or error}); what stood there before is untouched") from error
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, atomically; NaN is refused, use None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write plain containers, numbers and text to `path` as YAML, atomically, in the order given."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to `path` as CSV, atomically."""
    write_text(path, table.to_csv(index=False))


def check_writable(*folders: Path) -> None:
    """Make the folders and try to write in each, so that a long run does not fail at its end.

    Raises
    ------
    UserError
        If one cannot be made or written.
    """
    for folder in folders:
        probe = folder / ".writable"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


# --- reading ---------------------------------------------------------------------------------------------------


def _must_exist(path: Path, what: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such {what}" + (" (it is a folder)" if path.is_dir() else ""))


class _Loader(yaml.SafeLoader):
    """YAML in which `on`, `off`, `yes` and `no` are the words they are: `on` is a setting's name."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises
    ------
    UserError
        If it is missing, is not YAML, or holds something else.
    """
    _must_exist(path, "YAML file")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected lines of the form 'name: value', found a {type(value).__name__}")
    return value


def read_table(path: Path, columns: Sequence[str] = (), text: Sequence[str] = ("profile_id",)) -> "pd.DataFrame":
    """Read a CSV (or tab- or semicolon-separated) table with a header line.

    Parameters
    ----------
    path
        The file. A byte-order mark is dropped; the separator is recognised from the header.
    columns
        Columns that must be there.
    text
        Columns kept as text, so that an id "007" stays "007".

    Raises
    ------
    UserError
        If the file is missing, empty, not text, or lacks a column.
    """
    import pandas as pd

    _must_exist(path, "table")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline(1_000_000)
        separator = max(",\t;", key=header.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would drop fields, or take ids for an index
            table = pd.read_csv(
                path,
                sep=separator,
                encoding="utf-8-sig",
                converters=dict.fromkeys(text, str.strip),  # no dtype: it would read the id "NA" as missing
                index_col=False,
                low_memory=False,
                skipinitialspace=True,
            )
    except pd.errors.ParserWarning as error:
        raise UserError(f"{path}: rows have more fields than the header (a separator at their end, or decimal commas?)") from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: not readable as a table: {' '.join(str(error).split())[:200]}") from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, table.columns[:12]))}")
    return table


# What a pickle of NumPy arrays needs, and nothing that can run code. NumPy moved its core from numpy.core to
# numpy._core in version 2; files of both ages are read.
_ADMITTED = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which pickles of protocol 2 carry bytes, without its other codecs."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def load_pickle(path: Path) -> Any:
    """Read a pickle that may hold NumPy arrays, plain containers, numbers and text, and nothing else.

    A pickle is a program; this reader runs only those that build such values (Python's documentation,
    "Restricting Globals"). It does not stop a file from being as large as it likes.

    Raises
    ------
    UserError
        If the file is missing, broken, or asks for anything else; nothing of it has run then.
    """
    _must_exist(path, "pickle")
    try:
        with path.open("rb") as file:
            return _RestrictedUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a hostile or torn file may raise anything at all
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{path}: refused: not a pickle of plain NumPy arrays ({reason})") from error


def dump_pickle(path: Path, value: Any) -> None:
    """Write `value` as a pickle, atomically."""
    buffer = io.BytesIO()
    pickle.dump(value, buffer, protocol=4)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
