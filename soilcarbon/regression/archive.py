"""Archives of models: uncompressed NumPy archives (.npz) of plain arrays, with the metadata as JSON in one of them.

Nothing in one can run code. In and out: metadata of plain containers, and arrays of numbers by name. A YAML file beside it holds
the metadata for people.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io import limits
from soilcarbon.io.files import atomic_write, write_yaml

_METADATA = "metadata"
RECORDED = {"version"}
"""Keys that the YAML beside a model has, be it an archive or a checkpoint, and that no settings have."""


def write_archive(path: Path, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray], beside: Mapping[str, Any]) -> None:
    """Write metadata and arrays as .npz, and what people read of it, `beside`, as .yaml; both atomically."""
    text = json.dumps(metadata)
    with atomic_write(path) as file:
        np.savez(file, **{_METADATA: np.frombuffer(text.encode(), np.uint8), **arrays})  # type: ignore[arg-type]
    write_yaml(path.with_suffix(".yaml"), dict(beside))


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return metadata and arrays of an archive, which may be untrusted.

    Raises
    ------
    Exception
        Of any kind, if the file is not such an archive: the caller names it.
    """
    arrays = _read_arrays(path)
    metadata = json.loads(arrays.pop(_METADATA).tobytes())
    limits.check_nodes(metadata)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not named")
    return metadata, arrays


def is_archive(path: Path) -> bool:
    """Return whether a model's file is such an archive, and no network's checkpoint: by its content, or else by its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # the one who opens it says what is wrong
        return path.suffix.lower() == ".npz"


def kind_of(path: Path) -> str:
    """Return the kind of model that an archive says it holds; "" where it says none, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{_METADATA}.npy")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                return ""
            found = json.loads(np.load(io.BytesIO(archive.read(entry)), allow_pickle=False).tobytes())
        return str(found["kind"])
    except Exception:  # the one who opens it says what is wrong
        return ""


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return name -> array of an uncompressed .npz; no more memory is taken than the file has bytes."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size or archive.testzip() is not None:
            raise ValueError("compressed or damaged")
        for entry in entries:
            with archive.open(entry) as file:
                major, _ = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
                shape, _, dtype = read(file)
                if dtype.kind not in "iuf" or dtype.itemsize * math.prod(shape) != entry.file_size - file.tell():
                    raise ValueError(f"{entry.filename}: not an array of numbers of its length")
            arrays[entry.filename.removesuffix(".npy")] = np.load(io.BytesIO(archive.read(entry)), allow_pickle=False)
    return arrays
