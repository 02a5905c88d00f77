"""Restricted unpickling of NumPy arrays: untrusted pickles are read without running code of theirs; our own are written.

`load_pickle` returns arrays of plain numbers, numbers, text, and plain containers of them; `load_patches` the same of a file of
patches, whose arrays of one shape come as one array. As fast as `pickle.load`.
"""

import gc
import io
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io.files import UserError, atomic_write, must_exist

# A pickle is a program for a small virtual machine. NumPy's own callables must not reach it: `numpy.ndarray` with a buffer
# of objects forges pointers, and a dtype can be changed into one of another size. So `find_class` returns stand-ins without
# attributes to set. While the pickle runs they only collect what an array is to be made of, through `list`'s own methods: no
# Python code runs per array, which makes reading as fast as `pickle.load`. Arrays are made after the pickle has ended, of
# plain numbers, and no larger than their bytes in the file.


class _Parts(list[Any]):
    """An array not made yet. Its one item is its pickled state: (version, shape, dtype, whether Fortran order, bytes)."""

    __slots__ = ()
    __init__ = object.__init__  # takes the arguments of `_reconstruct`, which are not needed
    __setstate__ = list.append


_numpy_dtype = cache(np.dtype)


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


class _StandIn:
    """Stand-in that `find_class` returns for an admitted name; it has no state that the opcode BUILD could change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _MakeDtype(_StandIn):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)


class _MakeDict(_StandIn):
    """For `OrderedDict`."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> dict[Any, Any]:
        return dict(*arguments)


class _Latin1(_StandIn):
    """For `_codecs.encode`, by which protocol 2 stores bytes, restricted to latin1."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError(f"it requires the codec {str(encoding)[:20]!r}")
        return text.encode("latin1")


class _FromBuffer(_StandIn):
    """For `_frombuffer`, by which protocol 5 stores arrays."""

    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Parts:
        parts = _Parts()
        parts.append((1, shape, dtype, order == "F", raw))
        return parts


class _Scalar(_StandIn):
    """For `scalar`. Made at once, for it may be a dict's key."""

    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        if type(dtype) is not _Dtype or type(raw) is not bytes or len(raw) != (kind := _numpy_dtype(dtype.code)).itemsize:
            raise pickle.UnpicklingError("it holds a number that is not one")
        return np.frombuffer(raw, kind)[0]


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _StandIn(),
    ("numpy", "dtype"): _MakeDtype(),
    ("collections", "OrderedDict"): _MakeDict(),
    ("_codecs", "encode"): _Latin1(),
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    # not the class itself: NEWOBJ and BUILD take classes
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Parts.__call__
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _Scalar()
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it requires {module[:40]}.{name[:40]}")
        return _ADMITTED[module, name]


def _arrays(parts: Sequence[_Parts], most: int) -> Sequence[np.ndarray] | np.ndarray:
    """Make arrays; those of one shape and dtype are rows of one array, unless all together took more than `most` bytes."""
    if {*map(len, parts)} != {1}:
        raise pickle.UnpicklingError("it holds an array without content")
    states = [each[0] for each in parts]
    shapes, dtypes, orders, raws = ([*map(itemgetter(k), states)] for k in range(1, 5))
    if {*map(type, dtypes)} != {_Dtype} or not {*map(type, raws)} <= {bytes, bytearray}:
        raise pickle.UnpicklingError("it holds an array that is not made of numbers")
    if len(parts) > 1 and sum(map(len, raws)) > most:  # shared bytes: joining would copy them
        return [_arrays([each], most)[0] for each in parts]
    if len({*shapes}) > 1 or len({*orders}) > 1 or len({dtype.code for dtype in {*dtypes}}) > 1:
        return _by_shape([*zip(shapes, orders, (dtype.code for dtype in dtypes), strict=True)], parts, most)
    shape, fortran, dtype = shapes[0], orders[0], _numpy_dtype(dtypes[0].code)
    if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
        raise pickle.UnpicklingError("it holds an array without a shape")
    if {*map(len, raws)} != {math.prod(shape) * dtype.itemsize}:
        raise pickle.UnpicklingError("it holds an array whose shape does not fit its content")
    content = raws[0] if len(raws) == 1 else b"".join(raws)
    block = np.ndarray((len(raws), *(shape[::-1] if fortran else shape)), dtype, content)
    return block.transpose(0, *range(len(shape), 0, -1)) if fortran else block


def _by_shape(kinds: Sequence[Any], parts: Sequence[_Parts], most: int) -> list[np.ndarray]:
    """Make arrays of several shapes and dtypes."""
    of_kind: dict[Any, list[int]] = {}
    for k, kind in enumerate(kinds):
        of_kind.setdefault(kind, []).append(k)
    made = {k: array for rows in of_kind.values() for k, array in zip(rows, _arrays([parts[k] for k in rows], most), strict=True)}
    return [made[k] for k in range(len(parts))]


def _resolve(value: Any, most: int, done: dict[int, tuple[Any, Any]]) -> Any:
    """Return a value with arrays in the place of their parts; `done` holds id -> (value, result)."""
    if type(value) not in (dict, list, tuple, _Parts):
        return value
    if id(value) not in done:
        done[id(value)] = value, value  # lists and dicts stay, and may hold themselves
        if type(value) is _Parts:
            done[id(value)] = value, _arrays([value], most)[0]
        elif type(value) is dict:
            value.update(zip(list(value), _resolve_all(list(value.values()), most, done), strict=True))
        elif type(value) is list:
            value[:] = _resolve_all(value, most, done)
        else:
            done[id(value)] = value, tuple(_resolve_all(value, most, done))
    return done[id(value)][1]


def _resolve_all(values: Sequence[Any], most: int, done: dict[int, tuple[Any, Any]]) -> Sequence[Any]:
    if {*map(type, values)} == {_Parts}:
        return list(_arrays(values, most))
    return [_resolve(value, most, done) for value in values]


@contextmanager
def _without_gc() -> Iterator[None]:
    """Disable the garbage collector, which would scan many new objects again and again."""
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if usual:
            gc.enable()


def load_pickle(path: Path) -> Any:
    """Read a pickle that may hold NumPy arrays, plain containers, numbers and text, and nothing else.

    Arrays hold booleans, integers, floats or complex numbers, are read-only, and are never larger than their bytes in the file.

    Raises
    ------
    UserError
        If the file is missing, broken, or contains anything else; none of its code has run then.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "slope.pkl"
    >>> dump_pickle(path, {"P1": np.ones((3, 3), np.float32)})
    >>> load_pickle(path)["P1"].shape
    (3, 3)
    """
    return _load(path, lambda content, most: _resolve(content, most, {}))


def load_patches(path: Path) -> tuple[list[Any] | None, Any]:
    """Read a pickle of patches as `load_pickle` does, and return keys and values.

    Returns
    -------
    keys
        Of a dict; None for a list or an array.
    values
        Of the dict, else the content itself. Arrays of one shape and dtype come as one array (N, ...).
    """

    def separated(content: Any, most: int) -> tuple[list[Any] | None, Any]:
        keys, values = (list(content), list(content.values())) if type(content) is dict else (None, content)
        if type(values) in (list, tuple) and {*map(type, values)} == {_Parts}:
            return keys, _arrays(values, most)
        return keys, _resolve(values, most, {})

    return _load(path, separated)


def _load(path: Path, finish: Callable[[Any, int], Any]) -> Any:
    """Read a pickle and return `finish` of its content and the file's size in bytes."""
    must_exist(path, "pickle")
    try:
        with path.open("rb") as file, _without_gc():
            return finish(_RestrictedUnpickler(file).load(), os.fstat(file.fileno()).st_size)
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
