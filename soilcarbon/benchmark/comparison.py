"""Names that the drivers still import; gone once they are rebuilt."""

import math
from typing import Any

import numpy as np

from soilcarbon.mapping.picture import sensible


def fixed(value: float, places: int = 2, sign: bool = False) -> str:
    """Return a number with so many decimals and a true minus; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    rounded = round(float(value), places) + 0.0  # no minus, and no plus, before a zero
    return f"{rounded:{'+' if sign and rounded else ''},.{places}f}".replace("-", "−")


def count(n: int, of: str) -> str:
    """Return how many there are of what, such as "1 region" or "1,234 profiles"."""
    return f"{n:,} {of}" + ("" if n == 1 else "s")


def fact(value: Any) -> str:
    """Return a fact of any kind in words: numbers as sensible, a dash for None."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    return sensible(float(value)) if isinstance(value, float | np.floating) else "–" if value is None else str(value)
