"""The setting `nodata`: values that mean missing where a file does not declare them, of every raster or of some variables.

-   `--nodata -32768`: every raster
-   `--nodata elevation=-32768 "snow_*=254" landcover=250,255`: by name, which may be a pattern
-   `--nodata none`: nothing is missing but what the files declare, and no question is asked
"""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

EVERY = ""  # stands for all variables that are not named


def as_texts(given: Any) -> Any:
    """Return a setting as a list of texts: YAML gives numbers, and single values too; what is neither is returned as it is."""
    if isinstance(given, str | int | float):
        given = str(given).replace("|", " ").split()
    return [str(each) for each in given] if isinstance(given, list | tuple) else given


def parse_nodata(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return variable, or `EVERY`, -> values that mean missing; () where none do.

    ValueError for what is neither a number, "none" nor VARIABLE=VALUE,VALUE.

    >>> parse_nodata(["-32768", "landcover=250,255", "aspect=none"])
    {'': (-32768.0,), 'landcover': (250.0, 255.0), 'aspect': ()}
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, values = text.rpartition("=")
        numbers = tuple(_number(each, text) for each in values.split(",") if each.strip().lower() != "none")
        found[name.strip()] = (*found.get(name.strip(), ()), *numbers)
    return found


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{whole!r} is neither a number, none, nor VARIABLE=VALUE,VALUE") from error
    if not math.isfinite(value):
        raise ValueError(f"{whole!r}: cells that are no finite number are missing anyhow")
    return value


def nodata_of(name: str, given: Mapping[str, tuple[float, ...]]) -> tuple[float, ...] | None:
    """Return the values that mean missing of a variable; None where nothing is said of it.

    A name may be a pattern, as of files.

    >>> nodata_of("snow_03", {"snow_*": (254.0,)})
    (254.0,)
    """
    pattern = next((each for each in given if each != EVERY and fnmatchcase(name, each)), EVERY)
    return given.get(name, given.get(pattern))


def given_nodata(rasters: Any) -> dict[str, tuple[float, ...]]:
    """Return variable -> values that mean missing, from a record of rasters as of `geo.raster.describe`.

    What is of another form is ignored.
    """
    found: dict[str, tuple[float, ...]] = {}
    for each in rasters if isinstance(rasters, list | tuple) else []:
        given = each.get("nodata") if isinstance(each, dict) else None
        for name, values in given.items() if isinstance(given, dict) else []:
            if isinstance(values, list | tuple) and all(type(value) in (int, float) and math.isfinite(value) for value in values):
                found[str(name)] = tuple(map(float, values))
    return found
