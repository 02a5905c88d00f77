"""Limits of what untrusted files may claim and take: checked against a file's own size, before anything is allocated.

A reader compares every size that a file states with the size of the file and with one of these limits. Formats whose content may be
much larger than the file (aliases of YAML, shared containers of pickles, sparse or compressed rasters) are counted as they unfold.
"""

from typing import Any

YAML_BYTES = 2**19  # of a YAML file, of which 100 kB take a second: a list of 8,000 paths has as many
NODES = 1_000_000  # values in a YAML file, or in the facts of a model file, each counted as often as it is referred to
BLOCK_BYTES = 2**28  # of a strip or tile of a GeoTIFF, or a chunk of a NetCDF, unpacked: it is held at once, twice
UNPACKED_BYTES = 2**30  # that any file may unpack to. A larger one must have at least ...
UNPACKED_RATIO = 2000  # ... one byte for so many: deflate reaches 1,032
AXIS = 10_000_000  # places along a coordinate of a NetCDF


class LimitError(ValueError):
    """A file claims or takes more than a limit; the message says what, and its reader names the file."""


def check_unpacked(claimed: int, size: int) -> None:
    """Raise LimitError if content of `claimed` bytes cannot come from a file of `size` bytes.

    >>> check_unpacked(10**9, 1000)
    >>> check_unpacked(10**13, 1000)
    Traceback (most recent call last):
    soilcarbon.io.limits.LimitError: it claims 10,000,000,000,000 bytes, and has 1,000
    """
    if claimed > max(UNPACKED_BYTES, UNPACKED_RATIO * size):
        raise LimitError(f"it claims {claimed:,} bytes, and has {size:,}")


def check_nodes(value: Any) -> int:
    """Return how many values plain containers hold, each counted as often as it is referred to.

    LimitError if they are more than `NODES`, or a container is part of itself.

    >>> pair = [1, 2]
    >>> check_nodes([pair, pair])
    7
    """
    found: dict[int, int] = {}

    def count(each: Any) -> int:
        if not isinstance(each, (dict, list, tuple, set, frozenset)):
            return 1
        if id(each) in found:
            if not found[id(each)]:
                raise LimitError("a container in it is part of itself")
            return found[id(each)]
        found[id(each)] = 0
        inside = (part for pair in each.items() for part in pair) if isinstance(each, dict) else each
        total = 1
        for part in inside:
            total += count(part)
            if total > NODES:
                raise LimitError(f"it unfolds to more than {NODES:,} values")
        found[id(each)] = total
        return total

    return count(value)


def whole_number(text: str) -> int | float:
    """Return a whole number of JSON; one beyond all floats is infinite.

    >>> whole_number("12"), whole_number("1" + "0" * 400)
    (12, inf)
    """
    return int(text) if len(text) <= 300 else float(text)
