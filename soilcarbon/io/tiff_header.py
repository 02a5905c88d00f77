"""Header of a TIFF file, checked against the file's size before GDAL reads it.

A torn file would otherwise be noticed late, where a map happens to reach its end. The format is that of the TIFF 6.0 specification
and of BigTIFF.
"""

import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from soilcarbon.io.limits import BLOCK_BYTES, LimitError

_STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a field -> bytes of a value."""
_NUMBERS = {3: "u2", 4: "u4", 16: "u8"}
_PLACES = ((273, 279), (324, 325))  # fields of the offsets and lengths of strips, and of tiles
_MOST_DIRECTORIES = 1000


@lru_cache(512)
def _check(path: Path, size: int, _: int) -> None:
    """Check a file of a size and time of modification."""
    with path.open("rb") as file:
        check_tiff_file(file, size)


def check_tiff_file(file: BinaryIO, size: int) -> None:
    """Check an open TIFF file of `size` bytes, of which only the directories are read; see `check_tiff`."""
    file.seek(0)
    start = file.read(16)
    if start[:4] not in _STARTS or len(start) < 16:
        return  # GDAL says what it is
    order, big = _STARTS[start[:4]]
    at = struct.unpack(order + "Q", start[8:16])[0] if big else struct.unpack(order + "I", start[4:8])[0]
    seen: set[int] = set()
    while at:
        if at in seen or len(seen) >= _MOST_DIRECTORIES:
            raise LimitError("its directories form a ring")
        seen.add(at)
        at = _check_directory(file, size, order, big, at)


def check_tiff(path: Path) -> None:
    """Check that every strip and tile of a TIFF file, overviews and masks included, lies within it.

    LimitError if the file is torn, or claims more than it has; OSError if it cannot be read.
    """
    about = path.stat()
    _check(path, about.st_size, about.st_mtime_ns)


def _check_directory(file: BinaryIO, size: int, order: str, big: bool, at: int) -> int:
    """Check a directory at a place of the file, and return the place of the next one, 0 behind the last."""
    head, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    width = struct.calcsize(order + entry)
    (count,) = struct.unpack(order + head, _taken(file, size, at, struct.calcsize(order + head)))
    at += struct.calcsize(order + head)
    fields: dict[int, tuple[int, int, bytes]] = {}
    entries = _taken(file, size, at, count * width)
    for tag, kind, length, value in struct.iter_unpack(order + entry, entries):
        fields[tag] = kind, length, value
    for offsets, lengths in _PLACES:
        if offsets in fields and lengths in fields:
            begin, number = (_numbers(file, size, order, link, fields[tag]) for tag in (offsets, lengths))
            if len(begin) != len(number):
                raise LimitError("it has other numbers of strips or tiles than of their lengths")
            beyond = (number > size) | (begin > size - np.minimum(number, size))
            if (torn := int((beyond & (number > 0)).sum())) > 0:
                raise LimitError(f"{torn:,} of {len(begin):,} strips or tiles lie beyond its end, it has {size:,} bytes")
    (following,) = struct.unpack(order + link, _taken(file, size, at + count * width, struct.calcsize(order + link)))
    return int(following)


def _taken(file: BinaryIO, size: int, at: int, length: int) -> bytes:
    """Return a part of the file."""
    if at + length > size:
        raise LimitError(f"its directory reaches to byte {at + length:,}, it has {size:,}")
    if length > BLOCK_BYTES:  # of a remote file the size is a claim, too
        raise LimitError(f"a directory of {length:,} bytes")
    file.seek(at)
    return file.read(length)


def _numbers(file: BinaryIO, size: int, order: str, link: str, field: tuple[int, int, bytes]) -> np.ndarray:
    """Return the values of a field (n,) uint64: within its entry if they fit, else where it points to."""
    kind, count, value = field
    if kind not in _NUMBERS:
        raise LimitError("it has offsets that are not whole numbers")
    length = count * _SIZES[kind]
    place = struct.unpack(order + link, value)[0]
    content = value[:length] if length <= len(value) else _taken(file, size, place, length)
    return np.frombuffer(content, order + _NUMBERS[kind]).astype(np.uint64)
