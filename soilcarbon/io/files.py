"""Untrusted tables and YAML read safely; files written atomically; errors of the user as one or two lines.

A file written here is complete whenever it exists. Every mistake of a user is a `UserError`, which `run` turns into one or two
lines on stderr and exit status 2.
"""

import copy
import difflib
import errno
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from soilcarbon.categories import first_repeated
from soilcarbon.io import limits
from soilcarbon.io.formulas import guarded_table
from soilcarbon.io.interruption import end_at_signals, temporary, uninterrupted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
NODATA = -9999.0  # the number that stands for a missing cell in patches and in rasters written here
LOCK = ".lock"  # file in a folder by which a run keeps other runs out of it; it is removed when the run ends
_BEING_MADE, _COMPLETE, _REMOVED = ".soilcarbon-new-", ".soilcarbon-complete", ".removed"
"""Folders in which a set of files is made, and waits to be moved; in the latter, names of files that the set does away with."""
PARTIAL = re.compile(r"\.soilcarbon-[0-9a-f]{16}\.partial")
"""Names of files that are being written; one without a writer is left of a run that was killed."""
_swept: set[Path] = set()


class UserError(Exception):
    """Error caused by user input; its message names the input, the fault and the remedy, and is shown without traceback."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or "".

    >>> nearest("elevatoin", ["slope", "elevation"])
    "; did you mean 'elevation'?"
    """
    match = difflib.get_close_matches(name[:100], [each for each in known[:1000] if len(each) <= 100], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def run(main: Callable[[], None]) -> int:
    """Run a command's `main` and return its exit status: 0, 2 for a user's mistake, 141 if nobody reads what it prints.

    Ctrl-C and SIGTERM end the process with one line and status 130 and 143, see `interruption.end_at_signals`.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that it cannot show are no reason to fail
            stream.reconfigure(errors="backslashreplace")
    undo = end_at_signals()
    try:
        return _run(main)
    finally:
        undo()


def _run(main: Callable[[], None]) -> int:
    try:
        main()
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        status, line = 130, "interrupted"
    except UserError as error:
        status, line = 2, f"error: {str(error)[:1000]}"
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status, line = 2, f"error: {where}{error.strerror or error}"
        if isinstance(error, BrokenPipeError) and not error.filename:
            status, line = 141, ""
        _drop_if_unwritable(sys.stdout)
    except UnicodeEncodeError as error:
        name = error.object if len(error.object) < 200 else error.object[error.start : error.start + 50]
        status, line = 2, f"error: {name!r} is not UTF-8 and cannot be handed on; rename the file or folder"
    except MemoryError:
        status, line = 2, "error: not enough memory for this; take fewer profiles, a smaller radius, or another file"
    with uninterrupted:  # an error of a run that is being ended is not told of
        if line:
            print("".join(each if each.isprintable() or each == "\n" else "?" for each in line), file=sys.stderr)
    return status


def _drop_if_unwritable(stream: IO[str] | None) -> None:
    """Drop what is left for a stream that cannot be written: Python would try again at its end, with a traceback."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


# --- writing ---------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary binary file that is renamed to `path` once it is complete and on disk.

    A write that fails half-way leaves the earlier file at `path`, and removes the temporary one. UserError if the disk is full or
    the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    partial: Path | None = None
    try:
        partial, file = _new_partial(path.parent)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            with uninterrupted:
                partial.replace(path)
                temporary.discard(partial)
    except BaseException as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
            temporary.discard(partial)
        if isinstance(error, OSError) and (error.filename is None or PARTIAL.fullmatch(Path(str(error.filename)).name)):
            raise UserError(f"{path}: not written ({error.strerror or error}); an earlier file is untouched") from error
        raise
    _sync(path.parent)


@contextmanager
def file_set(folder: Path, earlier: Collection[str] | None = None) -> Iterator[Path]:
    """Yield an empty folder for a set of files that take their places in `folder` together, once all are written and on disk.

    Until then nothing in `folder` is touched, whatever happens: a full disk, an error, a killed process. Of a process killed while
    the files are brought into place, `finish_set` brings the rest. Other files in `folder` stay as they are.

    `earlier` are paths, relative to `folder`, of files of an earlier set: replaced, or removed if the new set lacks them. Other
    files are not replaced then. None: those that are replaced were named by the user. UserError if something cannot be written, or
    would replace a file that is not of the earlier set, or a folder.
    """
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    finish_set(folder)
    for left in folder.glob(f"{_BEING_MADE}*"):  # of a process that was killed, unless it is locked
        if left.is_dir() and not left.is_symlink():
            with suppress(UserError, OSError), _lock(left / LOCK, left):
                shutil.rmtree(left)
    with uninterrupted:
        new = Path(tempfile.mkdtemp(prefix=_BEING_MADE, dir=folder))
        temporary.add(new)
    try:
        with _lock(new / LOCK, new):
            yield new
            (new / LOCK).unlink(missing_ok=True)
            names = [path.relative_to(new) for path in files_below(new)]
            for name in names:
                if (folder / name).is_dir():
                    raise UserError(f"{folder / name}: is a folder, and a file would be called so; choose another folder")
                if earlier is not None and name.as_posix() not in earlier and os.path.lexists(folder / name):
                    raise UserError(f"{folder / name}: is there, and is not of an earlier run; move it, or choose another folder")
            here = {path.relative_to(folder).as_posix() for path in files_below(folder)}  # a name may be from a file: no path
            for old in here & set(earlier or ()) - {name.as_posix() for name in names}:
                (new / _REMOVED / old).parent.mkdir(parents=True, exist_ok=True)
                (new / _REMOVED / old).touch()
            for path in [*files_below(new), *(path for path in new.rglob("*") if path.is_dir()), new]:
                _sync(path)
        with uninterrupted:
            new.rename(folder / _COMPLETE)
            temporary.discard(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        temporary.discard(new)
        if not there:
            with suppress(OSError):  # not empty
                folder.rmdir()
        if isinstance(error, UserError) and str(new) in str(error):
            raise UserError(str(error).replace(str(new), str(folder))) from error
        if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(str(new))):
            why = error.strerror or error
            raise UserError(f"{folder}: not written ({why}); what stood there before is untouched") from error
        raise
    finish_set(folder)


def finish_set(folder: Path) -> None:
    """Bring the files of a complete set into place, if an interrupted `file_set` left one in `folder`.

    UserError if one cannot be moved; the set is complete, and the next call goes on.
    """
    complete = folder / _COMPLETE
    if complete.is_symlink() or not complete.is_dir():
        return
    try:
        for path in files_below(complete):
            name = path.relative_to(complete)
            if name.parts[0] == _REMOVED:
                (folder / name.relative_to(_REMOVED)).unlink(missing_ok=True)
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process moved it
                _move(path, folder / name)
        _sync(folder)
        shutil.rmtree(complete, ignore_errors=True)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder}: its new files are complete in {complete.name}, but not in place ({why}); run again") from error


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted; no link to a folder is followed."""
    return sorted(Path(parent) / name for parent, _, names in os.walk(folder) for name in names)


def _move(source: Path, target: Path) -> None:
    """Move a file, atomically, also to another file system."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as read, atomic_write(target) as written:
            shutil.copyfileobj(read, written)
        source.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    if os.name != "posix" and path.is_dir():  # a folder cannot be opened there
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _new_partial(folder: Path) -> tuple[Path, IO[bytes]]:
    """Make a temporary file of a new name, through no link, and open it; it stays locked while it is open."""
    while True:
        path = folder / f".soilcarbon-{secrets.token_hex(8)}.partial"
        with uninterrupted, suppress(FileExistsError):
            file = path.open("xb")
            temporary.add(path)
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # else another process has swept it before it was locked
                return path, file
            file.close()
            temporary.discard(path)


def sweep(folder: Path) -> None:
    """Remove temporary files that killed runs left in a folder: those of our names that no living process is writing.

    Once per process and folder. Nothing is removed where files cannot be locked.
    """
    with uninterrupted:
        if folder.absolute() in _swept or fcntl is None:
            return
        _swept.add(folder.absolute())
    with suppress(OSError):
        for path in [Path(each.path) for each in os.scandir(folder) if PARTIAL.fullmatch(each.name)]:
            with suppress(OSError):
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    about = os.fstat(file)
                    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and about.st_uid == os.getuid():
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                finally:
                    os.close(file)


@contextmanager
def locked(*folders: Path, files: Sequence[Path] = ()) -> Iterator[None]:
    """Keep other runs out of folders, made if they are not there, and away from files, until this process ends, by any cause.

    The lock is on the file `LOCK` in each folder of results; those that were made for it and stay empty are removed again. Of
    `files`, or of folders that are replaced as a whole, it is on a file beside each. UserError if another run holds one.
    """
    inside = [(each, each / LOCK) for each in folders]
    beside = [(each, each.with_name(f".{each.name}{LOCK}")) for each in map(Path.absolute, files)]
    with ExitStack() as stack:
        for path, lock in inside + beside:
            stack.enter_context(_lock(lock, path))
        yield


@contextmanager
def _lock(path: Path, what: Path) -> Iterator[None]:
    refused = UserError(f"{what}: another run is at work here; wait for it, or write somewhere else")
    if fcntl is None:
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                yield
        except Timeout as error:
            raise refused from error
        return
    made = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
    file = -1
    while file < 0:
        with uninterrupted:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            except FileNotFoundError:  # the folder was removed in between
                continue
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise UserError(f"{path}: is a link, and cannot be a lock; remove it") from error
                raise UserError(f"{path.parent}: cannot be written ({error.strerror}); choose another folder") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise refused from None
            except OSError as error:  # some network file systems
                log.warning("%s: cannot be locked here (%s); do not run this twice at once", what, error.strerror)
            try:
                replaced = not os.path.samestat(os.fstat(file), path.lstat())
            except FileNotFoundError:
                replaced = True
            if replaced:  # its owner has removed it in between
                os.close(file)
                file = -1
            else:
                temporary.add(path)
    try:
        yield
    finally:
        with uninterrupted:
            path.unlink(missing_ok=True)
            os.close(file)
            temporary.discard(path)
            with suppress(OSError):
                for folder in made:  # stays where something is in it
                    folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # names of files need not be UTF-8


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, atomically; NaN is refused, use None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write plain containers, numbers and text to `path` as YAML, atomically, in the order given."""
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 120}
    try:
        text = yaml.dump(value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), **how)  # ten times as fast where libyaml is
    except UnicodeEncodeError:  # names of files need not be UTF-8, which libyaml requires
        text = yaml.safe_dump(value, **how)
    write_text(path, text)


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to `path` as CSV, atomically; a text that a spreadsheet would run is guarded (`formulas`)."""
    write_text(path, guarded_table(table).to_csv(index=False))


def check_writable(*folders: Path) -> None:
    """Make the folders and try to write in each, so that a long run does not fail at its end.

    UserError if one cannot be made or written.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            probe, file = _new_partial(folder)
            with file:
                probe.unlink(missing_ok=True)
            temporary.discard(probe)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


# --- reading ---------------------------------------------------------------------------------------------------


def must_exist(path: Path, what: str) -> None:
    """Raise UserError if there is no file at `path`; `what` names the kind of file."""
    if not path.is_file():
        raise UserError(f"{path}: no such {what}" + (" (it is a folder)" if path.is_dir() else ""))


class _Loader(yaml.SafeLoader):
    """YAML in which `on`, `off`, `yes` and `no` are text (`on` is a setting's name), and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        double = first_repeated([key for key in keys if isinstance(key, str)])
        if double is not None:
            raise yaml.YAMLError(f"{double!r} is given twice")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace merge keys (`<<`) by what they name, in all no more than `limits.NODES`."""
        super().flatten_mapping(node)
        self.merged = getattr(self, "merged", 0) + len(node.value)
        if self.merged > limits.NODES:
            raise yaml.YAMLError(f"its merge keys unfold to more than {limits.NODES:,} values")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@lru_cache(8)
def _parsed(text: str) -> Any:
    """Return the content of YAML; a file is read several times, and 100 kB take a second."""
    value = yaml.load(text, _Loader)
    limits.check_nodes(value)
    return value


def _parse_yaml(path: Path) -> Any:
    must_exist(path, "YAML file")
    if path.stat().st_size > limits.YAML_BYTES:
        raise UserError(f"{path}: a YAML file of more than {limits.YAML_BYTES >> 10} KiB; is it the right file?")
    try:
        return copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except OSError:
        raise
    except Exception as error:  # an untrusted file may make the parser raise anything
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_paths(path: Path) -> list[Path]:
    """Read a YAML file that is a list of paths; relative ones count from the file's own folder.

    UserError if it is missing, is not YAML, or holds something else.
    """
    value = _parse_yaml(path)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise UserError(f"{path}: expected a list of paths, lines of the form '- path'")
    return [path.parent / each for each in value]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    UserError if it is missing, is not YAML, or holds something else.
    """
    value = _parse_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected lines of the form 'name: value', found a {type(value).__name__}")
    return value
