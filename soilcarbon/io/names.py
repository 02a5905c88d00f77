"""File names from untrusted text: the name of a target, run, variable, zone or region never becomes a path."""

import hashlib
import re

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]|^[.~\s-]+|[.\s]+$')
"""Separators, what Windows forbids, and what hides a file or makes it a flag."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 100  # bytes of UTF-8: file systems take 255, and endings and temporary names are added


def file_name(text: str) -> str:
    """Return text as one component of a path: itself where it can be, else changed, with a checksum that keeps it distinct.

    >>> file_name("socd_0_20"), file_name("SOC 0-30 cm")
    ('socd_0_20', 'SOC 0-30 cm')
    >>> file_name("../../escaped/x"), file_name("soc (g/kg)")
    ('__.._escaped_x-c9ebdf', 'soc (g_kg)-6e450d')
    """
    name = _UNSAFE.sub("_", text.encode(errors="replace").decode())
    name = name.encode()[:_LONGEST].decode(errors="ignore")
    if name == text and name and not _DEVICES.fullmatch(name):
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}"
