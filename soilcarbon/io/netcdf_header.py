"""Header of a classic NetCDF file (CDF-1, CDF-2, CDF-5), checked against the file's size before a library reads it.

A library takes what the header says for the file's content: a torn file then reads as zeros or as other variables' numbers. The
format is that of the NetCDF User's Guide, "File Format Specifications".
"""

import struct
from pathlib import Path
from typing import BinaryIO

from soilcarbon.io.limits import AXIS, LimitError

_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}  # type -> bytes of a value
_MOST = 100_000  # dimensions, variables or attributes; and characters of a name


class _Header:
    """Reader of the header's big-endian numbers; none may lie behind the file's end."""

    def __init__(self, file: BinaryIO, size: int, version: int) -> None:
        self.file, self.size = file, size
        self.count_format, self.begin_format = (">q", ">q") if version == 5 else (">i", ">i" if version == 1 else ">q")

    def take(self, length: int) -> bytes:
        if not 0 <= length <= self.size - self.file.tell():
            raise LimitError("its header ends early")
        return self.file.read(length)

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def count(self) -> int:
        """Return a count, not negative."""
        if (found := self.number(self.count_format)) < 0:
            raise LimitError("its header is damaged")
        return found

    def skip(self, length: int) -> None:
        """Pass over bytes and what pads them to a multiple of 4."""
        if length > self.size - self.file.tell():
            raise LimitError("its header ends early")
        self.file.seek(length + -length % 4, 1)

    def items(self, tag: int) -> int:
        """Return the length of a list of dimensions, variables or attributes."""
        found, length = self.number(">i"), self.count()
        if found not in (0, tag) or (found == 0 and length) or length > _MOST:
            raise LimitError("its header is damaged")
        return length

    def name(self) -> None:
        if (length := self.count()) > _MOST:
            raise LimitError("its header is damaged")
        self.skip(length)

    def kind(self) -> int:
        """Return the bytes of a value of a type."""
        if (found := self.number(">i")) not in _SIZES:
            raise LimitError("its header is damaged")
        return _SIZES[found]

    def attributes(self) -> None:
        for _ in range(self.items(_ATTRIBUTE)):
            self.name()
            size = self.kind()
            self.skip(self.count() * size)


def check_classic(path: Path) -> None:
    """Check that all that a classic NetCDF file says it holds lies within it.

    LimitError if the file is torn, or claims more than it has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        version = file.read(4)[3]
        header = _Header(file, size, version)
        records = header.number(header.count_format)
        lengths = []
        for _ in range(header.items(_DIMENSION)):
            header.name()
            lengths.append(header.count())
        header.attributes()
        ends, whole = _variables(header, lengths)
    if records < 0:
        raise LimitError("it was not closed: its number of records is open")
    if max(lengths, default=0) > AXIS and size < AXIS or records > size:
        raise LimitError(f"it claims {max(*lengths, records):,} places along a dimension, and has {size:,} bytes")
    end = max([*(begin + length for begin, length, per_record in ends if not per_record), 0])
    for begin, length, per_record in ends:
        if per_record and records:
            end = max(end, begin + (records - 1) * whole + length)
    if end > size:
        raise LimitError(f"its header says it has {end:,} bytes, it has {size:,}")


def _variables(header: _Header, lengths: list[int]) -> tuple[list[tuple[int, int, bool]], int]:
    """Return begin and bytes of each variable, or of its record, and which it is; and the bytes of a record of all variables."""
    found, padded = [], []
    for _ in range(header.items(_VARIABLE)):
        header.name()
        numbers = [header.count() for _ in range(min(header.count(), _MOST))]
        if any(each >= len(lengths) for each in numbers):
            raise LimitError("its header is damaged")
        header.attributes()
        bytes_ = header.kind()
        header.count()  # vsize: redundant, and wrong of large variables
        begin = header.number(header.begin_format)
        shape = [lengths[each] for each in numbers]
        per_record = bool(shape) and shape[0] == 0
        for length in shape[1:] if per_record else shape:
            bytes_ *= length
        if begin < 0:
            raise LimitError("its header is damaged")
        found.append((begin, bytes_, per_record))
        if per_record:
            padded.append(bytes_ + -bytes_ % 4)
    whole = sum(padded) if len(padded) != 1 else next(length for _, length, per_record in found if per_record)
    return found, whole
