"""Rasters by period: a folder for each year or span of years, whose layers replace those of all periods.

In: names and folders. Out: layers by period, in order of time.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from soilcarbon.geo.raster import Layer, find_layers
from soilcarbon.io.files import UserError


def years_of(name: str) -> tuple[int, int] | None:
    """Return the first and the last year of a period's name; None if it is not named by years.

    Examples
    --------
    >>> years_of("1985-1989"), years_of("2000"), years_of("now")
    ((1985, 1989), (2000, 2000), None)
    """
    named = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", name)
    return (int(named[1]), int(named[2] or named[1])) if named else None


def replaced(layers: Sequence[Layer], own: Sequence[Layer]) -> list[Layer]:
    """Return the layers of a period: its own, and of all periods those of other names."""
    names = {layer.name for layer in own}
    return [*own, *(layer for layer in layers if layer.name not in names)]


def find_spans(folder: Path, nodata: Mapping[str, tuple[float, ...]] | None = None) -> dict[tuple[int, int], list[Layer]]:
    """Return (first year, last year) -> layers, of the folders named by a year (1985) or years (1985-1989), in order of time.

    UserError if there is none, or they do not all hold the same variables.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of GeoTIFFs in it for each year (1985) or span (1985-1989)")
    spans: dict[tuple[int, int], list[Layer]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (years := years_of(path.name)):
            if years[0] > years[1]:
                raise UserError(f"{path}: its last year is before its first")
            spans[years] = find_layers([path], nodata)
    if not spans:
        raise UserError(f"{folder}: holds no folder named by a year (1985) or a span of years (1985-1989)")
    spans = dict(sorted(spans.items()))
    names = {years: {layer.name for layer in layers} for years, layers in spans.items()}
    everything = set().union(*names.values())
    for (begin, end), found in names.items():
        if lacking := sorted(everything - found):
            where = f"{begin}" if begin == end else f"{begin}-{end}"
            raise UserError(f"{folder / where}: lacks {', '.join(lacking[:5])}, which other years have; give all years the same")
    return spans


def find_periods(periods: Sequence[str], nodata: Mapping[str, tuple[float, ...]] | None = None) -> dict[str, list[Layer]]:
    """Return the layers of each period that replace those of all periods, by its name in order of time; {"": []} of no period.

    A period is NAME=FOLDER, or a folder of one folder for each year or span of years. UserError if there is one only, or two of one
    name.
    """
    found: dict[str, list[Layer]] = {}
    for period in periods:
        name, named, path = period.partition("=")
        if named:
            spans = {name: find_layers([Path(path)], nodata)}
        elif not Path(period).is_dir():
            raise UserError(f"period {period!r} is neither NAME=FOLDER nor a folder of one folder for each year or span of years")
        else:
            years = find_spans(Path(period), nodata)
            spans = {f"{first}" if first == last else f"{first}-{last}": layers for (first, last), layers in years.items()}
        if double := sorted(found.keys() & spans.keys()):
            raise UserError(f"period {double[0]!r} is named twice")
        found |= spans
    if len(found) == 1:
        raise UserError(f"{periods[0]}: one period alone has no change; give two or more, or none")
    return found or {"": []}
