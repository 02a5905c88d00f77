"""Seeded damage to files of intermediate results: torn writes, flipped bits, edits that still parse, parts that change places."""

import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path


def damage(paths: Sequence[Path], seed: int) -> None:
    """Damage each file, in another way each time; its checksum goes with it where two files change places."""
    dice = random.Random(seed)
    for k, path in enumerate(paths):
        content = path.read_bytes()
        while True:
            kind = dice.choice(["cut", "empty", "bit", "bytes", "number", "line", "twice", "swap"])
            changed, at = content, dice.randrange(max(len(content), 1))
            if kind == "cut":
                changed = content[:at]
            elif kind == "empty":
                changed = b""
            elif kind == "bit" and content:
                changed = content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :]
            elif kind == "bytes":
                changed = content[:at] + dice.randbytes(8) + content[at:]
            elif kind == "number" and path.suffix == ".csv":  # parses, and would be believed
                numbers = list(re.finditer(rb"(?<=,)-?\d+\.\d+", content))
                if numbers:
                    one = dice.choice(numbers)
                    changed = content[: one.start()] + b"1000000.0" + content[one.end() :]
            elif kind in ("line", "twice"):
                lines = content.splitlines(keepends=True)
                one = dice.randrange(len(lines)) if lines else 0
                changed = b"".join([*lines[:one], *lines[one : one + 1] * (2 if kind == "twice" else 0), *lines[one + 1 :]])
            elif kind == "swap":
                other = paths[(k + 1) % len(paths)]
                changed = other.read_bytes()
                seal = other.with_name(f"{other.name}.sha256")
                if changed != content and seal.is_file():
                    shutil.copy(seal, path.with_name(f"{path.name}.sha256"))
            if changed != content:
                path.write_bytes(changed)
                break
