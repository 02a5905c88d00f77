"""Manifest of a results folder: the files that were written there by this program, which alone it may replace or remove.

A folder of results may be the user's own, with other files in it. A command says which files it may write (`begin_files`), writes
them, and says which it did write (`finish_files`).
"""

import json
from collections.abc import Collection
from pathlib import Path

from soilcarbon.io.files import UserError, write_json

MANIFEST = "soilcarbon-files.json"
"""File in a folder of results: {"files": {name: what it is a result of}}."""


def listed_files(folder: Path) -> dict[str, str]:
    """Return the files that were written into a folder by this program: name -> what it is a result of.

    Raises
    ------
    UserError
        If the manifest is not readable.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): str(purpose) for name, purpose in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not readable, so what may be replaced is unknown; remove it, or give another folder") from error


def begin_files(folder: Path, names: Collection[str], purpose: str, adopted: Collection[str] = ()) -> None:
    """List files as this program's own before they are written.

    Parameters
    ----------
    folder
        Of results; it exists.
    names
        Of all files that may be written into it.
    purpose
        What they are results of, such as "test".
    adopted
        Names of files that a version without manifests wrote.

    Raises
    ------
    UserError
        If a file of that name is not listed, or is a result of another purpose: then nothing is changed.
    """
    files = listed_files(folder)
    for name in names:
        if name in files and files[name] != purpose:
            raise UserError(f"{folder / name}: holds results of {files[name]}, not of {purpose}; give another name or folder")
        if name not in files and name not in adopted and (folder / name).exists():
            raise UserError(f"{folder / name}: would be replaced, and was not written here; move it, or give another folder")
    write_json(folder / MANIFEST, {"files": {**files, **dict.fromkeys(names, purpose)}})


def finish_files(folder: Path, names: Collection[str], written: Collection[str]) -> None:
    """Remove those of `names`, as given to `begin_files`, that an earlier run wrote and this one did not, and unlist them."""
    files = listed_files(folder)
    for name in set(names) - set(written):
        if files.pop(name, None) is not None:
            (folder / name).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {"files": files})
