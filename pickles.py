"""Read strangers' pickles of NumPy arrays without running them; write our own.

In: a path. Out: arrays of plain numbers, numbers, text, and plain containers of them.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from files import UserError, atomic_write, must_exist

if TYPE_CHECKING:
    import numpy as np

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
    must_exist(path, "pickle")
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
