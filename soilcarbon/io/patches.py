"""Patches of variables as ONE packed float32 array (N, F): raw units, missing = NaN; cached in the dataset folder.

Their pickles are untrusted: `load_pickle` and `load_patches` admit arrays of plain numbers, numbers, text, and plain containers of
them, run no code of the file, and are as fast as `pickle.load`.

`pack` reads `<folder>/<variable>.pkl` of all categories, one variable in memory at a time. `read_packed` does it once and caches
the array in `<data_dir>/.packed/`, which may be deleted at any time:

    <name>.npy    the packed array (N, F)
    <name>.json   what it was made of: checksums of the patches, profiles, categories; and its own checksum

A cached array is used only if everything it was made of is unchanged. Where it cannot be written, the patches are read each time.
"""

import gc
import hashlib
import io
import json
import logging
import math
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

from soilcarbon.categories import Category
from soilcarbon.io.files import NODATA, UserError, atomic_write, must_exist, nearest, sha256, write_json

log = logging.getLogger(__name__)
CACHE = ".packed"
CACHED_FROM = 2**18
"""Numbers in a packed array; smaller ones are read from the patches in a moment."""
FORMAT = 1
"""Version of the packing format: a cached array of another version is not used."""


def profile_key(profile_id: Any) -> str:
    """Return a profile id as text: 12, "12", 12.0, "12.0" and NumPy's 12 are one profile.

    Examples
    --------
    >>> [profile_key(value) for value in (12, 12.0, " 12.0 ", "v1.0")]
    ['12', '12', '12', 'v1.0']
    """
    text = str(profile_id).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


# --- one variable ----------------------------------------------------------------------------------------------------


def pack_variable(patches: Any, ids: Sequence[str], radius: int, path: Path) -> np.ndarray:
    """Return one variable's windows (N, S*S) float32, missing = NaN, cut from the middle of its patches.

    Parameters
    ----------
    patches
        {profile_id: 2-D array}; or a list or array of N patches in profile order. A single number is a 1 x 1 patch.
        -9999 and what float32 cannot hold are missing.
    ids
        The N profiles wanted.
    radius
        r, S = 2r+1.
    path
        Of the file, for errors.

    Raises
    ------
    UserError
        If profiles lack a patch; patches differ in shape, are not square with an odd side, are smaller than the
        window, or do not hold numbers.

    Examples
    --------
    >>> patches = {1: np.arange(9).reshape(3, 3), 2: np.full((3, 3), -9999)}
    >>> pack_variable(patches, ["2", "1"], 0, Path("slope.pkl"))
    array([[nan],
           [ 4.]], dtype=float32)
    """
    if isinstance(patches, Mapping):
        return _cut(list(patches.values()), _rows_of(list(patches), ids, path), ids, radius, path)
    return _cut(patches, None, ids, radius, path)


def _rows_of(keys: Sequence[Any], ids: Sequence[str], path: Path) -> np.ndarray:
    """Return the positions (N,) of the profiles among a file's keys."""
    wrong = next((kind for kind in {*map(type, keys)} if not issubclass(kind, (str, int, float, np.number))), None)
    if wrong is not None:
        raise UserError(f"{path}: a profile_id is text or a number; found a {wrong.__name__}")
    row = {profile_key(key): k for k, key in enumerate(keys)}
    lacking = [name for name in ids if name not in row]
    if lacking:
        raise UserError(f"{path}: no patch for {len(lacking)} of {len(ids)} profiles, first {lacking[0]!r}")
    if len(row) < len(keys):
        raise UserError(f"{path}: {len(keys) - len(row)} profiles have two patches, under ids that are one, like 1 and '1'")
    return np.array([row[name] for name in ids])


def _cut(patches: Any, rows: np.ndarray | None, ids: Sequence[str], radius: int, path: Path) -> np.ndarray:
    """Cut the windows for `pack_variable`; profile k's patch is patches[rows[k]], or patches[k] if `rows` is None."""
    if not isinstance(patches, (list, tuple)) and not (isinstance(patches, np.ndarray) and patches.ndim > 0):
        raise UserError(f"{path}: expected {{profile_id: array}}, a list or an array; found {type(patches).__name__}")
    if rows is None and len(patches) != len(ids):
        raise UserError(f"{path}: {len(patches)} patches in profile order for {len(ids)} profiles")
    if not isinstance(patches, np.ndarray):
        patches, rows = _as_arrays(patches if rows is None else [patches[k] for k in rows], ids, path), None
    if isinstance(patches, list):
        shape, kinds = patches[0].shape, {patch.dtype for patch in patches}
    else:
        shape, kinds = patches.shape[1:], {patches.dtype}
    wrong = next((kind for kind in kinds if kind.kind not in "biuf"), None)
    if wrong is not None:
        raise UserError(f"{path}: patches must hold numbers; found dtype {wrong}")
    side, columns = shape or (1, 1) if len(shape) in (0, 2) else (0, 0)
    if side != columns or side % 2 == 0:
        raise UserError(f"{path}: a patch must be square with an odd side, the profile in its middle; found shape {shape}")
    margin = (side - 1) // 2 - radius
    if margin < 0:
        window = 2 * radius + 1
        raise UserError(f"{path}: patches of {side} x {side} cells are smaller than the window of {window} x {window}")
    inner = slice(margin, side - margin)
    # Cut before anything is copied: patches may be far larger than the window, and one may have many ids.
    if isinstance(patches, list):
        cut = np.array([patch[inner, inner] for patch in patches] if margin else patches)
    else:
        cut = patches[:, inner, inner] if margin else patches
        cut = cut if rows is None else cut[rows]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, hence missing
        windows = cut.reshape(len(ids), -1).astype(np.float32)
    windows[~np.isfinite(windows) | (windows == NODATA)] = np.nan
    return windows


def _as_arrays(patches: Sequence[Any], ids: Sequence[str], path: Path) -> list[np.ndarray]:
    """Return patches as arrays of one shape."""
    wrong = next((kind for kind in {*map(type, patches)} if not issubclass(kind, (np.ndarray, np.number, int, float))), None)
    if wrong is not None:
        raise UserError(f"{path}: a patch must be an array of numbers; found a {wrong.__name__}")
    arrays = [np.asarray(patch) for patch in patches]
    other = next((k for k, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if other is not None:
        pair = f"{arrays[0].shape} at profile {ids[0]!r}, {arrays[other].shape} at profile {ids[other]!r}"
        raise UserError(f"{path}: patches differ in shape: {pair}")
    return arrays


# --- all variables ---------------------------------------------------------------------------------------------------


def patch_paths(folder: Path, categories: Sequence[Category]) -> dict[str, Path]:
    """Return variable -> `<folder>/<variable>.pkl`, in table order.

    Raises
    ------
    UserError
        Naming the first file that is missing, and the nearest name that is there.
    """
    paths = {name: folder / f"{name}.pkl" for category in categories for name in category.variables}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        there, name = sorted(p.stem for p in folder.glob("*.pkl")), missing[0]
        message = f"{paths[name]}: no patches of variable {name!r} ({len(there)} variables there{nearest(name, there)})"
        if len(missing) == len(paths) > 1:  # those of another model
            message += (
                f", nor of the {len(missing) - 1} others; soilcarbon prepare --global_data takes the variables of a model's dataset"
            )
        raise UserError(message)
    return paths


def pack(folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> np.ndarray:
    """Read `<folder>/<variable>.pkl` of all categories into one packed array (N, F), one variable in memory at a time."""
    paths = patch_paths(folder, categories)
    x = np.empty((len(ids), sum(category.width for category in categories)), np.float32)
    known, rows, start = None, None, 0
    for category in categories:
        for name in category.variables:
            keys, patches = load_patches(paths[name])
            if keys != known:  # mostly all files have the same
                known, rows = keys, None if keys is None else _rows_of(keys, ids, paths[name])
            end = start + category.size**2
            x[:, start:end] = _cut(patches, rows, ids, category.radius, paths[name])
            start = end
            del patches
    return x


# --- the cache -------------------------------------------------------------------------------------------------------


def read_packed(home: Path, folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> np.ndarray:
    """Return the packed array (N, F) of profiles, from the cache or from their patches.

    Parameters
    ----------
    home
        The dataset folder, which holds the cache.
    folder
        The folder of its patches.
    ids
        The N profiles.
    categories
        What is packed.

    Raises
    ------
    UserError
        If patches are missing or wrong.
    """
    if len(ids) * sum(category.width for category in categories) < CACHED_FROM:
        return pack(folder, ids, categories)
    paths = list(patch_paths(folder, categories).values())
    before = _file_states(paths)
    source = _source(paths, ids, categories)
    path = home / CACHE / f"{_checksum(source['categories'])[:16]}.npy"
    if (cached := _read_cache(path, source)) is not None:
        return cached
    x = pack(folder, ids, categories)
    if _file_states(paths) == before:
        _write_cache(path, x, source)
    return x


def _file_states(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Return inode, size and modification time of each file, to detect changes."""
    return [(about.st_ino, about.st_size, about.st_mtime_ns) for about in (path.stat() for path in paths)]


def _source(paths: Sequence[Path], ids: Sequence[str], categories: Sequence[Category]) -> dict[str, Any]:
    """Return the inputs that determine the packed array, as plain containers."""
    return {
        "packing": FORMAT,
        "profiles": len(ids),
        "profile_ids": _checksum(list(ids)),
        "categories": [category.model_dump(mode="json") for category in categories],
        "missing": NODATA,
        "patches": {path.name: sha256(path) for path in paths},
    }


def _checksum(value: Any) -> str:
    """Return the checksum of plain containers."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _read_cache(path: Path, source: dict[str, Any]) -> np.ndarray | None:
    """Return the array at `path`, mapped into memory, if it is whole and was made of `source`."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        x = np.asarray(np.lib.format.open_memmap(path, mode="c"))  # copy on write: the file stays as it is
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file may raise anything
        about, x = None, np.empty(0)
    width = sum(len(category["variables"]) * (2 * category["radius"] + 1) ** 2 for category in source["categories"])
    fits = x.shape == (source["profiles"], width) and x.dtype == np.float32 and x.flags.c_contiguous
    if fits and about == {"source": source, "sha256": hashlib.sha256(x.data).hexdigest()}:
        log.info("%s: packed array read from the cache", path)
        return x
    log.info("%s: the cached array is not of these patches; they are read again", path)
    return None


def _write_cache(path: Path, x: np.ndarray, source: dict[str, Any]) -> None:
    try:
        with atomic_write(path) as file:
            np.save(file, x, allow_pickle=False)
        write_json(path.with_suffix(".json"), {"source": source, "sha256": hashlib.sha256(x.data).hexdigest()})
    except (OSError, UserError) as error:
        log.info("the packed array is not cached: %s", error)


# --- restricted unpickling ------------------------------------------------------------------------------------------------

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
