"""From patches of variables to ONE packed float32 array (N, F): raw units, missing = NaN.

In: a folder of <variable>.pkl, the profiles wanted, the table of categories. Out: the packed array; what is kept of it
for the next start is in packed.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io.files import UserError, nearest
from soilcarbon.io.patchfiles import PatchReader
from soilcarbon.settings import NODATA, Category


def key_of(profile_id: Any) -> str:
    """Return a profile id as text: 12, "12", 12.0, "12.0" and NumPy's 12 are one profile."""
    text = str(profile_id).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def rows_of(keys: Sequence[Any], ids: Sequence[str], path: Path) -> np.ndarray:
    """Return where in a file's `keys` the N profiles wanted are, (N,).

    Raises
    ------
    UserError
        If a key is no profile id, profiles are lacking, or two keys are one profile.
    """
    strange = next((kind for kind in {*map(type, keys)} if not issubclass(kind, (str, int, float, np.number))), None)
    if strange is not None:
        raise UserError(f"{path}: a profile_id is text or a number; found a {strange.__name__}")
    row = {key_of(key): k for k, key in enumerate(keys)}
    lacking = [name for name in ids if name not in row]
    if lacking:
        raise UserError(f"{path}: no patch for {len(lacking)} of {len(ids)} profiles, first {lacking[0]!r}")
    if len(row) < len(keys):
        raise UserError(f"{path}: {len(keys) - len(row)} profiles have two patches, under ids that are one, like 1 and '1'")
    return np.array([row[name] for name in ids])


def pack_variable(patches: Any, ids: Sequence[str], radius: int, path: Path) -> np.ndarray:
    """Return one variable's windows (N, S*S) float32, missing = NaN, cut from the middle of its patches.

    Parameters
    ----------
    patches
        {profile_id: 2-D array}; or a list or array of N patches in profile order. A single number is a 1 x 1 patch.
    ids
        The N profiles wanted.
    radius
        r, S = 2r+1.
    path
        For the message.

    Raises
    ------
    UserError
        If profiles lack a patch; patches differ in shape, are not square with an odd side, are smaller than the
        window, or do not hold numbers.
    """
    if isinstance(patches, Mapping):
        return _cut(list(patches.values()), rows_of(list(patches), ids, path), ids, radius, path)
    return _cut(patches, None, ids, radius, path)


def _cut(patches: Any, rows: np.ndarray | None, ids: Sequence[str], radius: int, path: Path) -> np.ndarray:
    """Do the work of `pack_variable`, profile k's patch being patches[rows[k]], or patches[k]."""
    if not isinstance(patches, (list, tuple)) and not (isinstance(patches, np.ndarray) and patches.ndim > 0):
        raise UserError(f"{path}: expected {{profile_id: array}}, a list or an array; found {type(patches).__name__}")
    if rows is None and len(patches) != len(ids):
        raise UserError(f"{path}: {len(patches)} patches in profile order for {len(ids)} profiles")
    if isinstance(patches, np.ndarray):
        shape, kinds = patches.shape[1:], {patches.dtype}
    else:
        patches, rows = _as_arrays(patches if rows is None else [patches[k] for k in rows], path), None
        shape, kinds = patches[0].shape, {patch.dtype for patch in patches}
        if len({patch.shape for patch in patches}) > 1:
            other = next(k for k, patch in enumerate(patches) if patch.shape != shape)
            raise UserError(
                f"{path}: patches differ in shape: {shape} at profile {ids[0]!r}, {patches[other].shape} at profile {ids[other]!r}"
            )
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
    # Cut before anything is copied: patches may be far larger than the window, and one under many names.
    if isinstance(patches, np.ndarray):
        cut = patches[:, inner, inner] if margin else patches
        cut = cut if rows is None else cut[rows]
    else:
        cut = np.array([patch[inner, inner] for patch in patches] if margin else patches)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, hence missing
        windows = cut.reshape(len(ids), -1).astype(np.float32)
    windows[~np.isfinite(windows) | (windows == NODATA)] = np.nan
    return windows


def _as_arrays(patches: Sequence[Any], path: Path) -> list[np.ndarray]:
    kinds = {*map(type, patches)}
    strange = next((kind for kind in kinds if not issubclass(kind, (np.ndarray, np.number, int, float))), None)
    if strange is not None:
        raise UserError(f"{path}: a patch must be an array of numbers; found a {strange.__name__}")
    return [np.asarray(patch) for patch in patches]


def patch_paths(folder: Path, categories: Sequence[Category]) -> dict[str, Path]:
    """Return variable -> its `<folder>/<variable>.pkl`, in table order.

    Raises
    ------
    UserError
        If one is not there; the nearest name that is there is told.
    """
    paths = {name: folder / f"{name}.pkl" for category in categories for name in category.variables}
    for name, path in paths.items():
        if not path.is_file():
            there = sorted(p.stem for p in folder.glob("*.pkl"))
            raise UserError(f"{path}: no patches of variable {name!r} ({len(there)} variables there{nearest(name, there)})")
    return paths


def pack(folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> np.ndarray:
    """Read `<folder>/<variable>.pkl` of all categories into one packed array (N, F), one variable in memory at a time."""
    paths = patch_paths(folder, categories)
    x = np.empty((len(ids), sum(category.width for category in categories)), np.float32)
    reader, known, rows = PatchReader(), None, None
    start = 0
    for category in categories:
        for name in category.variables:
            keys, patches = reader.read(paths[name])
            if keys != known:  # mostly all files have the same
                known, rows = keys, None if keys is None else rows_of(keys, ids, paths[name])
            end = start + category.size**2
            x[:, start:end] = _cut(patches, rows, ids, category.radius, paths[name])
            start = end
            del patches
    return x
