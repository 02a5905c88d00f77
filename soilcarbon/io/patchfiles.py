"""Read variables' patches from their pickles: quickly where they are laid out as such pickles are, carefully where not.

In: paths, one after the other. Out: each file's keys, and its patches in their order.

`pickle.dump` of {profile_id: array}, all arrays of one shape and dtype, writes a record per profile. From the second on,
records differ in nothing but the key and the array's bytes: a file can be split at what they share, frame by frame, and
nothing of it is run. Whatever deviates in a single byte is left to `pickles.load_patches`.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from soilcarbon.io.files import must_exist
from soilcarbon.io.pickles import load_patches

PROTOCOL, FRAME, TEXT = b"\x80\x04", b"\x95", b"\x8c"
WHOLE_NUMBERS = {b"K": 1, b"M": 2, b"J": 4}
"""Kind -> bytes."""
LONGEST_KEY = 262
"""Bytes of the longest key as the file has it, with the mark of a batch."""
END_OF_RECORD = b"\x94t\x94b"
NEXT_BATCH = b"u("
"""Between items, every thousand."""
ENDS = (b"u.", b"u(u.")
"""After the last item; its batch may be empty."""
FIRST = re.compile(
    rb"\}\x94\((?P<key>\x8c..*?\x94|K.|M..|J....)(?:\x8c\x15numpy\.core|\x8c\x16numpy\._core)\.multiarray\x94\x8c\x0c_reconstruct\x94"
    rb"\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94\(K\x01(?P<shape>K.K.)\x86\x94h(?P<numpy>.)"
    rb"\x8c\x05dtype\x94\x93\x94\x8c\x02(?P<code>b1|[iu][1248]|f[248])\x94\x89\x88\x87\x94R\x94\(K\x03\x8c\x01(?P<order>[<>|])\x94NNN"
    rb"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89(?P<size>C.|B....)",
    re.DOTALL,
)
"""The dict's start and its first record up to the array's bytes. It makes what the others refer to."""


class _UnusualError(Exception):
    """The file is not laid out as such files usually are; that is no fault of it."""


class PatchReader:
    """Reads files one after the other; keys that are the last file's need not be made out again."""

    def __init__(self) -> None:
        self._last: tuple[list[bytes], list[Any]] = ([], [])

    def read(self, path: Path) -> tuple[list[Any] | None, Any]:
        """Return the keys, None where patches are in profile order, and the patches.

        Patches are one array (N, ...) where they are of one shape and dtype, else a list.

        Raises
        ------
        UserError
            If the file is missing, or is no pickle of NumPy arrays.
        """
        must_exist(path, "pickle")
        try:
            with path.open("rb") as file:
                marks, patches = _split(file)
            if marks != self._last[0]:
                self._last = marks, _keys(marks)
        except (_UnusualError, UnicodeDecodeError):
            return load_patches(path)
        return self._last[1], patches


def _frames(file: IO[bytes]) -> Iterator[bytes]:
    """Return what a file holds but for the marks of the frames into which `pickle` parts it."""
    left = os.fstat(file.fileno()).st_size - len(PROTOCOL)
    if file.read(len(PROTOCOL)) != PROTOCOL:
        raise _UnusualError
    while mark := file.read(9):
        size = int.from_bytes(mark[1:], "little")
        left -= 9 + size
        if not mark.startswith(FRAME) or left < 0:
            raise _UnusualError
        yield file.read(size)


def _split(file: IO[bytes]) -> tuple[list[bytes], np.ndarray]:
    """Return what stands before each array, which is its key as the file has it, and the arrays (N, S, S)."""
    frames = _frames(file)
    rest = next(frames, b"")
    first = FIRST.match(rest)
    if first is None:
        raise _UnusualError
    made = 1 + first["key"].startswith(TEXT)  # the dict, and a key that is text, can be referred to by number; then come
    numpy, reconstruct, ndarray, b, dtype = (made + k for k in (3, 2, 5, 7, 15))
    shape, kind = tuple(first["shape"][1::2]), np.dtype((first["order"] + first["code"]).decode())
    size = int.from_bytes(first["size"][1:], "little")
    if first["numpy"][0] != numpy or size == 0 or size != math.prod(shape) * kind.itemsize:
        raise _UnusualError
    start = b"h%ch%cK\x00\x85\x94h%c\x87\x94R\x94(K\x01%b\x86\x94h%c\x89%b"
    start %= reconstruct, ndarray, b, first["shape"], dtype, first["size"]
    record = re.compile(re.escape(start) + b"(.{%d})" % size + re.escape(END_OF_RECORD), re.DOTALL)
    longest = LONGEST_KEY + len(start) + size + len(END_OF_RECORD)
    rest = first["key"] + start + rest[first.end() :]  # the first record like the others
    marks, content = [], bytearray()
    while True:
        *pieces, rest = record.split(rest)
        marks += pieces[::2]
        content += b"".join(pieces[1::2])
        if len(rest) > longest:
            raise _UnusualError
        if (frame := next(frames, None)) is None:
            break
        rest += frame
    if rest not in ENDS:
        raise _UnusualError
    return marks, np.frombuffer(content, kind).reshape(-1, *shape)


def _keys(marks: Sequence[bytes]) -> list[Any]:
    """Return keys; none may come twice, for the last one would count."""
    keys = [_key(mark.removeprefix(NEXT_BATCH)) for mark in marks]
    if len({*keys}) < len(keys):
        raise _UnusualError
    return keys


def _key(mark: bytes) -> str | int:
    kind, content = mark[:1], mark[1:]
    if kind == TEXT and mark.endswith(b"\x94") and content[0] == len(content) - 2:
        return content[1:-1].decode("utf-8", "surrogatepass")
    if len(content) != WHOLE_NUMBERS.get(kind):
        raise _UnusualError
    return int.from_bytes(content, "little", signed=kind == b"J")
