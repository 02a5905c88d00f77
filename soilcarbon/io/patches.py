"""Patches of variables as ONE packed float32 array (N, F): raw units, missing = NaN; cached in the dataset folder.

Their pickles are untrusted, and read by `soilcarbon.io.pickles`.

`pack` reads `<folder>/<variable>.pkl` of all categories, one variable in memory at a time. `read_packed` does it once and caches
the array in `<data_dir>/.packed/`, which may be deleted at any time:

    <name>.npy    the packed array (N, F)
    <name>.json   what it was made of: checksums of the patches, profiles, categories; and its own checksum

A cached array is used only if everything it was made of is unchanged. Where it cannot be written, the patches are read each time.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.categories import Category
from soilcarbon.io.files import NODATA, UserError, atomic_write, nearest, sha256, write_json
from soilcarbon.io.pickles import load_patches

log = logging.getLogger(__name__)
CACHE = ".packed"
CACHED_FROM = 2**18  # numbers in a packed array; smaller ones are read from the patches in a moment
FORMAT = 1  # version of the packing format: a cached array of another version is not used


def profile_key(profile_id: Any) -> str:
    """Return a profile id as text: 12, "12", 12.0, "12.0" and NumPy's 12 are one profile.

    >>> [profile_key(value) for value in (12, 12.0, " 12.0 ", "v1.0")]
    ['12', '12', '12', 'v1.0']
    """
    text = str(profile_id).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


# --- one variable ----------------------------------------------------------------------------------------------------


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


def _cut(patches: Any, rows: np.ndarray | None, ids: Sequence[str], radius: int, path: Path) -> tuple[np.ndarray, int]:
    """Return windows (N, S*S) float32, missing = NaN, cut from the middle of patches, and how many of their cells were infinite.

    Patches are a list or an array, a single number being a 1 x 1 patch; profile k's is patches[rows[k]], or patches[k] if `rows` is
    None. -9999 is missing; so is what is infinite, or what float32 cannot hold, which is counted in a warning.
    """
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
    infinite = np.isinf(windows)
    if count := int(infinite.sum()):
        first = ids[int(infinite.any(1).argmax())]
        message = (
            "%s: %d of %d cells are infinite or too large for a number of 32 bits, first at profile %r; they are taken as missing"
        )
        log.warning(message, path, count, windows.size, first)
    windows[infinite | (windows == NODATA)] = np.nan
    return windows, count


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

    UserError names the first file that is missing, and the nearest name that is there.
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


def pack(folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> tuple[np.ndarray, int]:
    """Read `<folder>/<variable>.pkl` of all categories into one packed array (N, F), one variable in memory at a time.

    Return also how many of its cells were infinite, or beyond float32, and are missing.
    """
    paths = patch_paths(folder, categories)
    x = np.empty((len(ids), sum(category.width for category in categories)), np.float32)
    known, rows, start, infinite = None, None, 0, 0
    for category in categories:
        for name in category.variables:
            keys, patches = load_patches(paths[name])
            if keys != known:  # mostly all files have the same
                known, rows = keys, None if keys is None else _rows_of(keys, ids, paths[name])
            end = start + category.size**2
            x[:, start:end], count = _cut(patches, rows, ids, category.radius, paths[name])
            start, infinite = end, infinite + count
            del patches
    return x, infinite


# --- the cache -------------------------------------------------------------------------------------------------------


def read_packed(home: Path, folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> np.ndarray:
    """Return the packed array (N, F) of profiles, from the cache in the dataset folder `home`, or from the patches in `folder`.

    UserError if patches are missing or wrong.
    """
    if len(ids) * sum(category.width for category in categories) < CACHED_FROM:
        return pack(folder, ids, categories)[0]
    paths = list(patch_paths(folder, categories).values())
    before = _file_states(paths)
    source = _source(paths, ids, categories)
    path = home / CACHE / f"{_checksum(source['categories'])[:16]}.npy"
    if (cached := _read_cache(path, source)) is not None:
        return cached
    x, infinite = pack(folder, ids, categories)
    if _file_states(paths) == before and not infinite:  # they are to be told of each time
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
