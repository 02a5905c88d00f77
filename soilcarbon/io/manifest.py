"""Manifest of a results folder: the files that were written there by this program, which alone it may replace or remove.

A folder of results may be the user's own, with other files in it. A command writes its results as a set (`result_set`), which
takes its place when it is complete; or it says which files it may write (`begin_files`), writes them, and says which it did write
(`finish_files`).
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from soilcarbon.io.files import LOCK, UserError, file_set, files_below, write_json

REPORT = "a report"  # of figures, and of all reports of a version that did not tell them apart
MANIFEST = "soilcarbon-files.json"  # file in a folder of results: {"files": {name: what it is a result of}}


def listed_files(folder: Path) -> dict[str, str]:
    """Return the files that were written into a folder by this program: name -> what it is a result of.

    UserError if the manifest is not readable.
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
    """List files that may be written into a folder of results as this program's own, before they are.

    `purpose` is what they are results of, such as "test"; `adopted` are names that a version without manifests wrote. UserError if
    a file of that name is not listed, or is a result of another purpose: then nothing is changed.
    """
    files = check_files(folder, names, purpose, adopted)
    write_json(folder / MANIFEST, {"files": {**files, **dict.fromkeys(names, purpose)}})


def check_files(folder: Path, names: Collection[str], purpose: str, adopted: Collection[str] = ()) -> dict[str, str]:
    """Raise UserError as `begin_files` does, and return the files that are listed."""
    files = listed_files(folder)
    for name in names:
        if files.get(name, purpose) not in (purpose, REPORT):
            raise UserError(f"{folder / name}: holds results of {files[name]}, not of {purpose}; give another name or folder")
        if name not in files and name not in adopted and os.path.lexists(folder / name):
            raise UserError(f"{folder / name}: would be replaced, and was not written here; move it, or give another folder")
    return files


@contextmanager
def result_set(folder: Path, purpose: str, names: Collection[str] = (), adopted: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder for results, which take their places in `folder` together once all are written.

    Until then the results of an earlier run are whole; then those of the same purpose are replaced, or removed if they were not
    written again. `names` will be written: what would be refused at the end is refused before the work is done. UserError as of
    `begin_files`.
    """
    check_files(folder, names, purpose, adopted)
    earlier: set[str] = set()
    with file_set(folder, earlier) as new:
        yield new
        (new / MANIFEST).unlink(missing_ok=True)  # of figures alone
        written = [path.relative_to(new).as_posix() for path in files_below(new) if path.name != LOCK]
        files = check_files(folder, written, purpose, adopted)
        kept = {name: what for name, what in files.items() if what != purpose}
        earlier |= {MANIFEST, *written, *(files.keys() - kept.keys())}
        write_json(new / MANIFEST, {"files": {**kept, **dict.fromkeys(written, purpose)}})


def finish_files(folder: Path, names: Collection[str], written: Collection[str]) -> None:
    """Remove those of `names`, as given to `begin_files`, that an earlier run wrote and this one did not, and unlist them."""
    files = listed_files(folder)
    for name in set(names) - set(written):
        if files.pop(name, None) is not None:
            (folder / name).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {"files": files})
