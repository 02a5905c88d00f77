"""Intermediate results of long runs: kept by `--resume` if they are of the same settings and data, and sealed by checksums."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soilcarbon.io.files import UserError, read_yaml, sha256, write_text, write_yaml
from soilcarbon.io.interruption import advise_resume

log = logging.getLogger(__name__)
RECORD = "settings.yaml"  # file of the facts of a run in the folder of its results


def begin_or_resume(folder: Path, facts: Mapping[str, Any], parts: Sequence[str], resume: bool) -> None:
    """Write the facts of a run into `settings.yaml` of its folder, after checking that its earlier results may stay.

    Facts are all that decides the results, as plain containers: settings, and a digest of the data. `parts` are names of folders
    that hold finished results, kept with `resume`. UserError if these are of other facts, or are there without `resume`, or
    `settings.yaml` is not of a run.
    """
    record = folder / RECORD
    if resume and record.is_file():
        before = read_yaml(record)
        if other := ["the input files" if name == "digest" else name for name, value in facts.items() if before.get(name) != value]:
            raise UserError(f"{folder}: was begun with other values of {', '.join(other)}; give another folder")
    elif found := next((part for part in parts if (folder / part).exists()), None):
        advice = "its settings.yaml is missing; empty the folder" if resume else "continue it with --resume"
        raise UserError(f"{folder / found}: results of an earlier run; {advice}, or give another folder")
    check_record(record, {"digest"} & facts.keys())
    write_yaml(record, facts)
    advise_resume()


def check_record(path: Path, keys: set[str]) -> None:
    """Raise UserError if a file that is written beside a result, or of a run, is there and has not the keys of such a record."""
    if not os.path.lexists(path):
        return
    try:
        own = keys <= read_yaml(path).keys()
    except UserError:
        own = False
    if not own:
        raise UserError(f"{path}: would be replaced, and was not written here; move it, or choose another name")


def seal(path: Path) -> None:
    """Write the checksum of an intermediate result beside it: `<name>.sha256`, as `sha256sum` does."""
    write_text(path.with_name(f"{path.name}.sha256"), f"{sha256(path)}  {path.name}\n")


def is_sealed(*paths: Path) -> bool:
    """Return whether intermediate results are there as they were sealed; one that is torn or was changed is logged."""
    for path in paths:
        if not path.is_file():
            return False
        try:
            known = path.with_name(f"{path.name}.sha256").read_bytes()
        except OSError:
            known = b""
        if known != f"{sha256(path)}  {path.name}\n".encode(errors="backslashreplace"):
            log.warning("%s: torn, or changed since it was finished; it is made again", path)
            return False
    return True
