"""The packed array kept for the next start: believed only while everything it was made of is what it was.

In: a dataset's folder. Out: the packed array, read from `<data_dir>/.packed/` or made there:

    <name>.npy    the packed array (N, F)
    <name>.json   what it was made of: checksums of the patches, profiles, categories; and its own checksum

The folder may be deleted at any time. Where it cannot be written, every start reads the patches.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io.files import UserError, atomic_write, sha256, write_json
from soilcarbon.io.packing import pack, patch_paths
from soilcarbon.settings import NODATA, Category

log = logging.getLogger(__name__)
FOLDER = ".packed"
WORTHWHILE = 2**18
"""Numbers in a packed array; fewer are read from the patches in a blink."""
PACKING = 1
"""Counts changes to how arrays are packed: what an older program kept is not believed."""


def read_packed(home: Path, folder: Path, ids: Sequence[str], categories: Sequence[Category]) -> np.ndarray:
    """Return the packed array (N, F) of profiles, kept from an earlier start or made of their patches.

    Parameters
    ----------
    home
        The dataset's folder.
    folder
        The folder of its patches.
    ids
        The N profiles.
    categories
        What is packed.

    Raises
    ------
    UserError
        For what is wrong with the patches.
    """
    if len(ids) * sum(category.width for category in categories) < WORTHWHILE:
        return pack(folder, ids, categories)
    paths = list(patch_paths(folder, categories).values())
    before = _seen(paths)
    source = _source(paths, ids, categories)
    path = home / FOLDER / f"{_checksum(source['categories'])[:16]}.npy"
    if (kept := _kept(path, source)) is not None:
        return kept
    x = pack(folder, ids, categories)
    if _seen(paths) == before:
        _keep(path, x, source)
    return x


def _seen(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Return what tells whether files were touched meanwhile."""
    return [(about.st_ino, about.st_size, about.st_mtime_ns) for about in (path.stat() for path in paths)]


def _source(paths: Sequence[Path], ids: Sequence[str], categories: Sequence[Category]) -> dict[str, Any]:
    """Return all that decides what is packed, as plain containers."""
    return {
        "packing": PACKING,
        "profiles": len(ids),
        "profile_ids": _checksum(list(ids)),
        "categories": [category.model_dump(mode="json") for category in categories],
        "missing": NODATA,
        "patches": {path.name: sha256(path) for path in paths},
    }


def _checksum(value: Any) -> str:
    """Return the checksum of plain containers."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _kept(path: Path, source: dict[str, Any]) -> np.ndarray | None:
    """Return the array at `path`, mapped into memory, if it is whole and was made of `source`."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        x = np.asarray(np.lib.format.open_memmap(path, mode="c"))  # what is written to it stays in memory
    except FileNotFoundError:
        return None
    except Exception:  # a torn file may raise anything at all
        about, x = None, np.empty(0)
    width = sum(len(category["variables"]) * (2 * category["radius"] + 1) ** 2 for category in source["categories"])
    fits = x.shape == (source["profiles"], width) and x.dtype == np.float32 and x.flags.c_contiguous
    if fits and about == {"source": source, "sha256": hashlib.sha256(x.data).hexdigest()}:
        log.info("%s: the packed array of an earlier start", path)
        return x
    log.info("%s: not, or no longer, the packed array of these patches; they are read again", path)
    return None


def _keep(path: Path, x: np.ndarray, source: dict[str, Any]) -> None:
    try:
        with atomic_write(path) as file:
            np.save(file, x, allow_pickle=False)
        write_json(path.with_suffix(".json"), {"source": source, "sha256": hashlib.sha256(x.data).hexdigest()})
    except (OSError, UserError) as error:
        log.info("the packed array is not kept for the next start: %s", error)
