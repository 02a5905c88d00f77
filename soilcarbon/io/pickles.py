"""Pickles read without running them: arrays of plain numbers, numbers, text, and plain containers of these.

A pickle is a program for a small virtual machine. Three things keep it harmless, and reading nearly as fast as `pickle.load`:

1. Its instructions are looked through before they reach the machine (`_instructions`): what no pickle of plain data has is refused,
   every length is compared with what is left of the file, places of the memo with its size. Dicts are built as lists of keys
   and values: the machine hashes nothing, so that no key can keep it busy.
2. NumPy's callables do not reach it: `numpy.ndarray` with a buffer of objects forges pointers, a dtype can be changed into one
   of another size. `find_class` returns stand-ins without attributes to set, which only collect what an array is to be made of,
   through `list`'s own methods: no Python code runs per array.
3. Arrays and dicts are made after the pickle has ended, of plain numbers, and no larger than their bytes in the file.
"""

import gc
import io
import math
import mmap
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io.files import UserError, atomic_write, must_exist

# --- instructions ------------------------------------------------------------------------------------------------------


def _short(opcode: bytes) -> bytes:
    """Return a pattern of an instruction with a length of one byte, and so many bytes."""
    return opcode + b"(?:" + b"|".join(re.escape(bytes([k])) + b".{%d}" % k for k in range(256)) + b")"


_PLAIN = [
    rb"[)\]NRbtaelQ012\x85-\x89\x93\x94]|\((?!d)",  # containers, constants, calls of what `find_class` returns
    rb"[Khq\x80].|M..|[jJ].{4}|G.{8}",
    rb"\x8a(?:" + b"|".join(re.escape(bytes([k])) + b".{%d}" % k for k in range(10)) + b")",  # integers of up to 9 bytes
    rb"c[^\n]{1,60}\n[^\n]{1,60}\n",
    rb"[IL]-?[0-9]{1,20}L?\n|F[^\n]{1,40}\n|[SV][^\n]*\n|g[0-9]{1,10}\n",
    *map(_short, (rb"\x8c", b"C", b"U")),
]
_LENGTHS = {b"X": 4, b"B": 4, b"T": 4, b"\x8d": 8, b"\x8e": 8, b"\x96": 8}  # opcode -> bytes of the length that follows it
_NEW_DICT, _FRAME = b"csoilcarbon\ndict\n)R", b"\x95"
_REPLACED = {b"}": _NEW_DICT, b"(d": _NEW_DICT, b"s": b"\x86a", b"u": b"ta", _FRAME: b""}
"""Instructions for dicts -> for a list of keys and values: SETITEM appends a pair, SETITEMS a tuple of all pairs. The length in a
FRAME would no longer be right."""


@cache
def _plain(size: int) -> re.Pattern[bytes]:
    """Return the pattern of a run of plain instructions, for a file of `size` bytes."""
    places = size // 3  # of the memo: what fills one takes as many bytes; counted by 65,536, which are 1 MB
    third, fourth = places >> 16 & 0xFF, min(places >> 24, 0xFF)
    bound = b"..[\\x00-\\x%02x]\\x%02x" % (third, fourth)
    below = b"|...[\\x00-\\x%02x]" % (fourth - 1) if fourth else b""
    put = b"r(?:%s%s)|p[0-9]{1,%d}\n" % (bound, below, len(str(places)))
    return re.compile(b"(?:" + b"|".join([*_PLAIN, put]) + b")*+", re.DOTALL)


def _instructions(content: "bytes | mmap.mmap") -> Iterator[bytes | memoryview]:
    """Yield the pickle in parts, with dicts as lists; UnpicklingError for what no pickle of plain data has."""
    view, size, begin, at = memoryview(content), len(content), 0, 0
    run = _plain(size)
    while True:
        found = run.match(content, at)
        assert found is not None  # it matches nothing, too
        at = found.end()
        opcode = content[at : at + 2] if content[at : at + 2] == b"(d" else content[at : at + 1]
        if width := _LENGTHS.get(opcode, 0):
            at += 1 + width + int.from_bytes(content[at + 1 : at + 1 + width], "little")
            if at > size:
                raise pickle.UnpicklingError("it claims more bytes than the file has")
        elif opcode == b".":
            yield view[begin : at + 1]
            return
        elif opcode not in _REPLACED:
            raise pickle.UnpicklingError(f"byte {at:,} of {size:,} is no instruction for plain data")
        else:
            yield view[begin:at]
            yield _REPLACED[opcode]
            begin = at = at + (9 if opcode == _FRAME else len(opcode))


class _FileParts(io.RawIOBase):
    """Parts of a file, to be read one after the other."""

    def __init__(self, parts: Iterator[bytes | memoryview]) -> None:
        self.parts, self.rest = parts, memoryview(b"")
        self.fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        out, filled = memoryview(buffer), 0
        while filled < len(out):
            while not len(self.rest):
                try:
                    self.rest = memoryview(next(self.parts))
                except StopIteration:
                    return filled
                except pickle.UnpicklingError as error:  # readers take any error for the end of the file
                    self.fault = error
                    raise
            count = min(len(self.rest), len(out) - filled)
            out[filled : filled + count] = self.rest[:count]
            self.rest, filled = self.rest[count:], filled + count
        return filled


# --- stand-ins -----------------------------------------------------------------------------------------------------------


class _Parts(list[Any]):
    """An array not made yet. Its one item is its pickled state: (version, shape, dtype, whether Fortran order, bytes)."""

    __slots__ = ()
    __init__ = object.__init__  # takes the arguments of `_reconstruct`, which are not needed
    __setstate__ = list.append


class _Pairs(list[Any]):
    """A dict not made yet: its items are sequences (key, value, key, value, ...)."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore the attributes of an OrderedDict, such as PyTorch's `_metadata`."""


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


class StandIn:
    """Stand-in that `find_class` returns for an admitted name; it has no state that the opcode BUILD could change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _MakeDtype(StandIn):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)


class _MakeDict(StandIn):
    """For dicts, and for `OrderedDict`."""

    __slots__ = ()

    def __call__(self) -> _Pairs:
        return _Pairs()


class _Latin1(StandIn):
    """For `_codecs.encode`, by which protocol 2 stores bytes, restricted to latin1; each text is encoded once."""

    __slots__ = ("encoded",)

    def __init__(self) -> None:
        self.encoded: dict[int, tuple[str, bytes]] = {}

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError(f"it requires the codec {str(encoding)[:20]!r}")
        if id(text) not in self.encoded:
            self.encoded[id(text)] = text, text.encode("latin1")
        return self.encoded[id(text)][1]


class _FromBuffer(StandIn):
    """For `_frombuffer`, by which protocol 5 stores arrays."""

    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Parts:
        parts = _Parts()
        parts.append((1, shape, dtype, order == "F", raw))
        return parts


class _Scalar(StandIn):
    """For `scalar`. Made at once, for it may be a dict's key."""

    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        if type(dtype) is not _Dtype or type(raw) is not bytes or len(raw) != (kind := _numpy_dtype(dtype.code)).itemsize:
            raise pickle.UnpicklingError("it holds a number that is not one")
        return np.frombuffer(raw, kind)[0]


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): StandIn(),
    ("numpy", "dtype"): _MakeDtype(),
    ("collections", "OrderedDict"): _MakeDict(),
    ("soilcarbon", "dict"): _MakeDict(),
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    # not the class itself: NEWOBJ and BUILD take classes
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Parts.__call__
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _Scalar()
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _FromBuffer()


class _RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that finds stand-ins only: those for NumPy's names, and further ones."""

    def __init__(self, content: "bytes | mmap.mmap", admitted: Mapping[tuple[str, str], Any] = _ADMITTED) -> None:
        self.file = _FileParts(_instructions(content))
        super().__init__(io.BufferedReader(self.file, 2**17))  # what `pickle.Unpickler` peeks at
        self.admitted = {**admitted, ("_codecs", "encode"): _Latin1()}

    def load(self) -> Any:
        try:
            return super().load()
        except Exception as error:
            if self.file.fault is None:
                raise
            raise self.file.fault from error

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it requires {module[:40]}.{name[:40]}")
        return self.admitted[module, name]


# --- arrays and dicts ----------------------------------------------------------------------------------------------------


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
    if not (isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)):
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


class _Contents:
    """What a pickle collected, with arrays and dicts made of their parts."""

    def __init__(self, size: int) -> None:
        self.size, self.joined, self.keys = size, 0, 0  # bytes of the file; of it taken so far
        self.done: dict[int, tuple[Any, Any]] = {}  # id -> (what was collected, what was made of it)

    def made(self, value: Any) -> Any:
        """Return a value with arrays and dicts in the place of their parts; each is made once."""
        if type(value) not in (_Pairs, list, tuple, _Parts):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = value, value  # lists and dicts may hold themselves
            if type(value) is _Parts:
                self.done[id(value)] = value, self.arrays([value])[0]
            elif type(value) is _Pairs:
                made: dict[Any, Any] = {}
                self.done[id(value)] = value, made
                keys, values = self.pairs(value)
                made.update(zip(keys, self.all_made(values), strict=True))
            elif type(value) is list:
                value[:] = self.all_made(value)
            else:
                self.done[id(value)] = value, tuple(self.all_made(value))
        return self.done[id(value)][1]

    def all_made(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return values as `made` has them, arrays of one shape and dtype as parts of one."""
        if {*map(type, values)} == {_Parts}:
            return list(self.arrays(values))
        return [self.made(value) for value in values]

    def arrays(self, parts: Sequence[_Parts]) -> Sequence[np.ndarray] | np.ndarray:
        """Return arrays of their parts."""
        if len(parts) > 1:
            self.joined += sum(len(raw) for each in parts if each and len(each[0]) == 5 and type(raw := each[0][4]) is bytes)
        return _arrays(parts, self.size if self.joined <= self.size else 0)

    def pairs(self, items: _Pairs) -> tuple[list[Any], list[Any]]:
        """Return keys and values of a dict; a key that comes twice counts by its last value, as in a dict."""
        if not {*map(type, items)} <= {list, tuple} or any(len(each) % 2 for each in items):
            raise pickle.UnpicklingError("a dict in it has no keys and values")
        self.keys += sum(map(len, items))
        if self.keys > self.size:
            raise pickle.UnpicklingError("it unfolds to more keys and values than it has bytes")
        keys, values = ([part for each in items for part in each[k::2]] for k in (0, 1))
        for kind in {*map(type, keys)}:
            if not issubclass(kind, (str, bytes, int, float, type(None), np.bool_, np.integer, np.floating)):
                raise pickle.UnpicklingError(f"a key is text or a number; found a {kind.__name__.strip('_').lower()}")
        found = dict(zip(keys, values, strict=True))
        return list(found), list(found.values())


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
    UserError if the file is missing, broken, or contains anything else; none of its code has run then.
    """
    return _load(path, lambda contents, value: contents.made(value))


def load_patches(path: Path) -> tuple[list[Any] | None, Any]:
    """Read a pickle of patches as `load_pickle` does, and return keys, None for a list or an array, and values.

    Values are those of a dict, else the content itself. Arrays of one shape and dtype come as one array (N, ...).
    """

    def separated(contents: _Contents, value: Any) -> tuple[list[Any] | None, Any]:
        keys, values = contents.pairs(value) if type(value) is _Pairs else (None, value)
        if type(values) in (list, tuple) and {*map(type, values)} == {_Parts}:
            return keys, contents.arrays(values)
        return keys, contents.made(values)

    return _load(path, separated)


def _load(path: Path, finish: Callable[[_Contents, Any], Any]) -> Any:
    """Read a pickle and return what `finish` makes of what it collected."""
    must_exist(path, "pickle")
    try:
        with path.open("rb") as file, _without_gc():
            size = os.fstat(file.fileno()).st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            return finish(_Contents(size), _RestrictedUnpickler(content).load())
    except OSError:
        raise
    except Exception as error:  # a hostile or torn file may raise anything at all
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{path}: refused: not a pickle of plain NumPy arrays ({reason})") from error


def load_structure(content: bytes, admitted: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """Return what a pickle consists of, with stand-ins for what it asks for; nothing else of it is run.

    `admitted` has stand-ins without state by (module, name), `persistent` returns those of persistent ids. Any Exception if it is
    damaged, or asks for more.
    """

    class Unpickler(_RestrictedUnpickler):
        def persistent_load(self, pid: Any) -> Any:
            return persistent(pid)

    return _Contents(len(content)).made(Unpickler(content, {**_ADMITTED, **admitted}).load())


def dump_pickle(path: Path, value: Any) -> None:
    """Write `value` as a pickle, atomically."""
    buffer = io.BytesIO()
    pickle.dump(value, buffer, protocol=4)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
