"""Read strangers' files safely; write ours whole or not at all.

In: paths. Out: tables, plain Python objects, files that are complete whenever they exist.
Every mistake of a user ends as a `UserError`, which `run` turns into one or two lines and exit status 2.
"""

import csv
import io
import json
import logging
import math
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class UserError(Exception):
    """Say what was read, what was wrong with it, and what to do: one or two lines, shown without a traceback."""


def run(main: Callable[[], None]) -> int:
    """Run a script's `main` and return its exit status: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        main()
    except UserError as error:
        print(f"error: {str(error)[:1000]}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: not enough memory for this; take fewer profiles, a smaller radius, or another file", file=sys.stderr)
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
    """YAML in which `on`, `off`, `yes` and `no` are the words they are (`on` is a setting's name), and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        double = next((key for k, key in enumerate(keys) if isinstance(key, str) and key in keys[:k]), None)
        if double is not None:
            raise yaml.YAMLError(f"{double!r} is given twice")
        return super().construct_mapping(node, deep)


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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected lines of the form 'name: value', found a {type(value).__name__}")
    return value


_NO_VALUE = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]
"""What stands for a missing value in columns of numbers; an id may be called NA."""


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
        header_names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        names = [name.strip() for name in header_names]
        double = next((name for k, name in enumerate(names) if name and name in names[:k]), None)
        if double is not None:
            raise UserError(f"{path}: two columns are named {double!r}; keep one")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would drop fields, or take ids for an index
            table = pd.read_csv(
                path,
                sep=separator,
                encoding="utf-8-sig",
                dtype=dict.fromkeys(text, "str"),
                keep_default_na=False,
                na_values={name: [""] if name.strip() in text else _NO_VALUE for name in header_names},
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


# A pickle is a program for a small machine. NumPy's own callables must not reach it: `numpy.ndarray` with a buffer of
# objects forges pointers, and a dtype can be changed into one that lies about its size. So the machine gets stand-ins,
# without attributes to set, that build arrays of plain numbers no larger than the bytes the file holds.


class _StandIn:
    """A callable that a pickle may ask for; it has no state that BUILD could change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Dtype:
    """A dtype of plain numbers; of its state only the byte order is taken."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(b1|\?|[iu][1248]|f[248]|c(8|16))", code):
            raise pickle.UnpicklingError(f"it holds {str(code)[:20]!r}, not plain numbers")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds a structured dtype")
        self.code = state[1] + self.code.lstrip("<>|=")


def _to_array(raw: Any, dtype: Any, shape: Any, order: str) -> "np.ndarray":
    import numpy as np

    if not (isinstance(raw, (bytes, bytearray)) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)):
        raise pickle.UnpicklingError("it holds an array that is not made of numbers")
    return np.frombuffer(raw, np.dtype(dtype.code)).reshape(shape, order="F" if order == "F" else "C")


def _numpy_stand_ins() -> dict[tuple[str, str], Any]:
    """Return (module, name) -> stand-in; made when first used, so that reading settings does not import NumPy."""
    import numpy as np

    class _Array(np.ndarray):
        """An array that takes its content only as bytes of plain numbers."""

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, fortran, raw = state
            if not (isinstance(raw, bytes) and isinstance(dtype, _Dtype) and all(type(n) is int and n >= 0 for n in shape)):
                raise pickle.UnpicklingError("it holds an array that is not made of numbers")
            real = np.dtype(dtype.code)
            if math.prod(shape) * real.itemsize != len(raw):
                raise pickle.UnpicklingError("it holds an array whose shape does not fit its content")
            super().__setstate__((1, shape, real, bool(fortran), raw))  # type: ignore[arg-type]

        def __reduce__(self) -> Any:
            return self.view(np.ndarray).__reduce__()

    marker = object()

    def reconstruct(kind: Any, *_: Any) -> "np.ndarray":
        if kind is not marker:
            raise pickle.UnpicklingError("it asks for a class of array")
        return np.ndarray.__new__(_Array, (0,), np.int8)

    admitted: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): marker,
        ("numpy", "dtype"): _StandIn(_Dtype),
        ("collections", "OrderedDict"): _StandIn(dict),
        ("_codecs", "encode"): _StandIn(_latin1),
    }
    for core in ("numpy.core", "numpy._core"):  # NumPy moved it in version 2; files of both ages are read
        admitted[f"{core}.multiarray", "_reconstruct"] = _StandIn(reconstruct)
        admitted[f"{core}.multiarray", "scalar"] = _StandIn(lambda dtype, raw: _to_array(raw, dtype, (), "C")[()])
        admitted[f"{core}.numeric", "_frombuffer"] = _StandIn(_to_array)
    return admitted


def _latin1(text: Any, encoding: Any) -> bytes:
    """Stand in for `_codecs.encode`, by which pickles of protocol 2 carry bytes, without its other codecs."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"it asks for the codec {str(encoding)[:20]!r}")
    return text.encode("latin1")


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._admitted = _numpy_stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module[:40]}.{name[:40]}")
        return self._admitted[module, name]


def load_pickle(path: Path) -> Any:
    """Read a pickle that may hold NumPy arrays, plain containers, numbers and text, and nothing else.

    Arrays hold booleans, integers, floats or complex numbers, and are never larger than their bytes in the file.

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
