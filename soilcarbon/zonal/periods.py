"""Covariates of the time a profile was sampled in: years into periods, and rasters of a period to its profiles.

In: places (degrees) with a year, and a folder with one folder of GeoTIFFs for each year or span of years:

    periodic/1985/ndvi.tif  periodic/1986/ndvi.tif ...      or      periodic/1985-1989/ndvi.tif ...

Out: one table of profiles of all periods, each with the means of its own: a single model learns from them through space and time.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from soilcarbon.geo.raster import Layer, cut_windows, find_layers
from soilcarbon.io.files import UserError

NO_PERIOD = -1
"""Stands for a year that is missing or before the first period."""


def period_of(year: np.ndarray, first: int, length: int) -> np.ndarray:
    """Return the first year (n,) int64 of the period each year lies in; `NO_PERIOD` if it is missing or before them.

    Parameters
    ----------
    year
        (n,) with or without fraction: 1989.9 is a day of 1989. NaN is missing.
    first, length
        The first year of the first period, and the years of each: 1985 and 5 make 1985-1989, 1990-1994, ...

    Raises
    ------
    ValueError
        If the length is below 1.
    """
    if length < 1:
        raise ValueError(f"a period of {length} years: expected 1 or more")
    year = np.asarray(year, np.float64)
    known = np.isfinite(year) & (year >= first)
    whole = np.floor(np.where(known, year, first)).astype(np.int64)
    return np.where(known, first + (whole - first) // length * length, NO_PERIOD)


def find_spans(folder: Path) -> dict[tuple[int, int], list[Layer]]:
    """Return first and last year -> layers, of the folders named by a year (1985) or years (1985-1989), in order of time.

    Raises
    ------
    UserError
        If there is none, or they do not all hold the same variables.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it is to hold one folder of GeoTIFFs for each year (1985) or span (1985-1989)")
    spans: dict[tuple[int, int], list[Layer]] = {}
    for path in sorted(folder.iterdir()):
        named = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", path.name)
        if path.is_dir() and named:
            years = int(named[1]), int(named[2] or named[1])
            if years[0] > years[1]:
                raise UserError(f"{path}: its last year is before its first")
            spans[years] = find_layers([path])
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


def covariates_at(
    folder: Path, lon: np.ndarray, lat: np.ndarray, period: np.ndarray, length: int
) -> tuple[dict[str, np.ndarray], dict[int, int]]:
    """Return what the rasters of its own period say of each profile.

    Of several years or spans within a period, the mean of those that have a value there. A span counts to the period
    that holds all of it.

    Parameters
    ----------
    folder
        As of `find_spans`.
    lon, lat
        (n,) degrees.
    period
        (n,) as of `period_of`.
    length
        Years of a period.

    Returns
    -------
    values
        Variable -> (n,) float64; NaN where nothing is known, as for profiles without a period.
    unmatched
        First year of a period -> profiles of it for which there are no rasters; 0 where all have some.

    Raises
    ------
    UserError
        If the folder or its files cannot be read, or a span lies in no period of the profiles' whole.
    """
    spans = find_spans(folder)
    names = [layer.name for layer in next(iter(spans.values()))]
    values = {name: np.full(len(lon), np.nan) for name in names}
    unmatched: dict[int, int] = {}
    for begin in np.unique(period[period != NO_PERIOD]).tolist():
        rows = np.flatnonzero(period == begin)
        within = [layers for years, layers in spans.items() if begin <= years[0] and years[1] < begin + length]
        unmatched[begin] = 0 if within else len(rows)
        if within:
            for name, mean in _means(within, names, lon[rows], lat[rows]).items():
                values[name][rows] = mean
    if unmatched and all(unmatched.values()):
        have = ", ".join(f"{begin}-{end}" for begin, end in list(spans)[:4])
        raise UserError(f"{folder}: its rasters ({have} ...) lie in none of the {length}-year periods of the profiles")
    return values, unmatched


def _means(spans: Sequence[Sequence[Layer]], names: Sequence[str], lon: np.ndarray, lat: np.ndarray) -> dict[str, np.ndarray]:
    """Return variable -> (n,) mean over some spans' cells at places, those without a value left out."""
    total, count = (dict.fromkeys(names, np.zeros(len(lon))) for _ in range(2))
    for layers in spans:
        cells, _ = cut_windows(layers, lon, lat, 0)
        for name in names:
            here = cells[name][:, 0, 0].astype(np.float64)
            total[name] = total[name] + np.nan_to_num(here, nan=0.0)
            count[name] = count[name] + np.isfinite(here)
    with np.errstate(invalid="ignore"):  # 0 / 0: no value in any year
        return {name: total[name] / count[name] for name in names}
