"""Space-time table of profiles: targets, and the covariates of the place and period each profile was sampled in.

In: a table of samples or a dataset folder, static rasters, and a folder of rasters by year:

    periodic/1985/ndvi.tif  periodic/1986/ndvi.tif ...      or      periodic/1985-1989/ndvi.tif ...

Out: one table of profiles of all periods (`SpaceTime`), and from it the `Profiles` of each target. One model is fitted to them
through space and time. Profiles that are left out are listed with the reason.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.categories import class_variables, middle_cells
from soilcarbon.geo.periods import find_spans
from soilcarbon.geo.plausibility import check_layers, check_names, choose_classes, fill_values, with_classes
from soilcarbon.geo.raster import ABSURD, Layer, cut_windows, find_layers
from soilcarbon.geo.remote import local_rasters
from soilcarbon.io.files import NODATA, UserError, nearest
from soilcarbon.io.points import read_points
from soilcarbon.soil.dataset import check_samples, read_dataset
from soilcarbon.soil.horizons import typed
from soilcarbon.soil.target import limits_of
from soilcarbon.soil.visits import one_row_each
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.zonal.settings import ZonedSettings

log = logging.getLogger(__name__)
NO_PERIOD = -1
"""Stands for a year that is missing or before the first period."""


# --- periods -----------------------------------------------------------------------------------------------------------


def period_of(year: np.ndarray, first: int, length: int) -> np.ndarray:
    """Return the first year of the period each year (n,) lies in, int64; `NO_PERIOD` if it is missing or before the first.

    1989.9 is a day of 1989. First year 1985 and a length of 5 make 1985-1989, 1990-1994, ...
    """
    if length < 1:
        raise ValueError(f"a period of {length} years: expected 1 or more")
    year = np.asarray(year, np.float64)
    known = np.isfinite(year) & (year >= first)
    whole = np.floor(np.where(known, year, first)).astype(np.int64)
    return np.where(known, first + (whole - first) // length * length, NO_PERIOD)


def covariates_at(
    folder: Path,
    lon: np.ndarray,
    lat: np.ndarray,
    period: np.ndarray,
    length: int,
    nodata: Mapping[str, tuple[float, ...]] | None = None,
) -> tuple[dict[str, np.ndarray], dict[int, int]]:
    """Return the values at each profile of the rasters of its own period: variable -> (n,) float64, NaN where nothing is known.

    Of several years or spans within a period, the mean of those that have a value there. A span belongs to the period that contains
    all of it. Also returned: first year of a period -> number of its profiles for which there are no rasters. UserError if no
    profile's period contains a span.
    """
    spans = find_spans(folder, nodata)
    for layers in spans.values():
        check_layers(layers)
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
    """Return variable -> (n,) mean of several spans' cells at places, missing ones left out."""
    total, count = (dict.fromkeys(names, np.zeros(len(lon))) for _ in range(2))
    for layers in spans:
        cells, _ = cut_windows(layers, lon, lat, 0)
        for name in names:
            here = cells[name][:, 0, 0].astype(np.float64)
            total[name] = total[name] + np.nan_to_num(here, nan=0.0)
            count[name] = count[name] + np.isfinite(here)
    with np.errstate(invalid="ignore"):  # 0 / 0: no value in any year
        return {name: total[name] / count[name] for name in names}


# --- profiles ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profiles:
    """Profiles of one target."""

    x: np.ndarray  # (n, V) variables, missing = NaN
    y: np.ndarray  # (n,) target
    lon: np.ndarray  # lon, lat: (n,) degrees
    lat: np.ndarray
    # groups, period: (n,) the block of each profile, which no fold splits; the first year of its period, see `period_of`
    groups: np.ndarray
    period: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> "Profiles":
        """Return the profiles of row numbers or a mask."""
        return Profiles(*(getattr(self, each.name)[rows] for each in fields(self)))


@dataclass(frozen=True)
class SpaceTime:
    """Profiles that have a climate, and a year where years are used."""

    # a row per profile: profile_id, lon, lat, the targets (NaN where missing), `variables`, and its other columns
    table: pd.DataFrame
    covariates: tuple[str, ...]  # the columns a model may use
    variables: tuple[str, ...]  # those, the columns of the climate, and the year: the columns of x
    period: np.ndarray  # (N,) first year of the period of each row, see `period_of`
    left_out: pd.DataFrame
    classes: tuple[str, ...] = ()  # the variables that are class codes
    units: Mapping[str, str] = field(default_factory=dict)  # variable -> unit as its raster states it
    nodata: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def profiles(self, target: str, block_size: float) -> tuple[Profiles, np.ndarray]:
        """Return the profiles that have a target, at least two, grouped in blocks of so many degrees, and their ids (n,)."""
        known = self.table[target].notna().to_numpy()
        table = self.table[known]
        if len(table) < 2:
            raise UserError(f"target {target!r}: {len(table)} of {len(self.table)} profiles have one")
        y, lon, lat = (table[name].to_numpy(np.float64) for name in (target, "lon", "lat"))
        x = table[list(self.variables)].to_numpy(np.float64)
        groups = spatial_groups(lon, lat, block_size)
        return Profiles(x, y, lon, lat, groups, self.period[known]), table["profile_id"].to_numpy()


def read_space_time(settings: ZonedSettings) -> SpaceTime:
    """Read profiles and add to each the covariates of its place and its own period; UserError if no profile is left."""
    table, found, classes = _read_table(settings)
    lon, lat = table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64)
    units: dict[str, str] = {}
    year, why = _years(table, settings)
    if settings.rasters:
        windows, coded, units = _static_covariates(settings, lon, lat)
        classes += coded
        table = _joined(table, {name: cells[:, 0, 0] for name, cells in windows.items()}, settings.rasters[0])
        found += windows
    period = period_of(year, settings.first_year, settings.period_years)
    if settings.periods is not None:
        values, unmatched = covariates_at(settings.periods, lon, lat, period, settings.period_years, settings.missing_values)
        table = _joined(table, values, settings.periods)
        found += values
        why.append((period == NO_PERIOD, f"{settings.year} before {settings.first_year}"))
        why.append((np.isin(period, [begin for begin, count in unmatched.items() if count]), "no rasters of its period"))
    covariates = tuple(settings.covariates or (name for name in found if name != settings.climate.get("zone")))
    if not covariates:
        raise UserError("no covariates: give --rasters, --periods, a dataset folder as --samples, or name columns (--covariates)")
    climate = list(settings.climate.values())
    variables = tuple(dict.fromkeys([*covariates, *climate, *([settings.year] if settings.year else [])]))
    numbers = _numbers(table, variables, found, settings)
    why += [(~np.isfinite(numbers[name]), f"no {name}") for name in climate]
    why.append((table[list(settings.targets)].isna().all(axis=1).to_numpy(), "no target"))
    reason = np.select([bad for bad, _ in why], [text for _, text in why], "")
    left_out = pd.DataFrame({"profile_id": table["profile_id"], "reason": reason})[reason != ""]
    table = table.assign(**numbers)[reason == ""].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{settings.samples}: no profile is left; the first has {left_out['reason'].iloc[0]}")
    classes = [*(settings.classes or classes), *([settings.climate["zone"]] if "zone" in settings.climate else [])]
    if unknown := [name for name in classes if name not in (*table, "none")]:
        raise UserError(f"classes: no column or variable {unknown[0]!r}{nearest(unknown[0], list(table))}")
    known = tuple(name for name in variables if name in classes)
    left_out = left_out.reset_index(drop=True)
    return SpaceTime(table, covariates, variables, period[reason == ""], left_out, known, units, settings.missing_values)


def _static_covariates(
    settings: ZonedSettings, lon: np.ndarray, lat: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str], dict[str, str]]:
    """Return variable -> windows (n, 1, 1) of the static rasters, which are class codes, and variable -> unit as its file says."""
    extent = float(lon.min()), float(lon.max()), float(lat.min()), float(lat.max())
    layers = find_layers(local_rasters(settings.rasters, extent, settings.cache), settings.missing_values)
    if settings.periods is None:
        check_names(layers, nodata=settings.missing_values)
    classes = choose_classes(layers, settings.classes)
    zone = settings.climate.get("zone")
    layers = with_classes(layers, [*classes, *([zone] if zone else [])])
    windows, _ = cut_windows(layers, lon, lat, 0)
    used = (*settings.covariates, *settings.climate.values()) if settings.covariates else windows
    check_layers([layer for layer in layers if layer.name in used], windows)
    return windows, classes, {layer.name: layer.unit for layer in layers if layer.unit}


def _years(table: pd.DataFrame, settings: ZonedSettings) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
    """Return the sampling years (n,), and masks of profiles without a plausible one with the reason."""
    if settings.year is None:
        return np.full(len(table), np.nan), []
    if settings.year not in table.columns:
        near = nearest(settings.year, list(table))
        raise UserError(f"{settings.samples}: no column {settings.year!r} of sampling years{near}; --year none does without")
    year = _column(table, settings.year, settings.samples)
    implausible = ~((year >= 1000) & (year <= 9999))
    return year, [(~np.isfinite(year), f"no {settings.year}"), (implausible, f"{settings.year} not from 1000 to 9999")]


def _column(table: pd.DataFrame, name: str, samples: Path) -> np.ndarray:
    """Return a column as numbers (n,); UserError if it holds text that is none, such as "<10" or "40%"."""
    column = pd.to_numeric(table[name], errors="coerce")
    wrong = table.index[column.isna() & table[name].notna()]
    if len(wrong):
        first = f"{table[name][wrong[0]]!r} of profile {table['profile_id'][wrong[0]]}"
        raise UserError(
            f"{samples}: {name!r}: {len(wrong)} values are not numbers, first {first}; correct them or leave them empty"
        )
    return column.to_numpy(np.float64, copy=True)


def _numbers(table: pd.DataFrame, variables: Sequence[str], found: Sequence[str], settings: ZonedSettings) -> dict[str, np.ndarray]:
    """Return variable -> (n,) float64, checked; `found` are those of rasters and the dataset folder."""
    numbers = {}
    for name in variables:
        if name not in table.columns:
            near, key = nearest(name, list(table)), next((key for key, column in settings.climate.items() if column == name), None)
            hint = f"; --{key} takes one of {', '.join(map(str, dict.fromkeys([*found, *table])))[:300]}" if key else ""
            raise UserError(f"{settings.samples}: no column or variable {name!r}{near}{hint}")
        if name in settings.targets:
            raise UserError(f"{name!r} is a target, and must not be a covariate too")
        column = _column(table, name, settings.samples)
        column[~(np.abs(column) <= ABSURD) | (column == NODATA)] = np.nan  # as in rasters: infinite in float32, which trees see
        if name not in found and (fills := fill_values(*np.unique(column[np.isfinite(column)], return_counts=True), "float64")):
            seen = f"{sum(fills.values())} of {len(table)} values are {', '.join(f'{value:.10g}' for value in fills)}"
            raise UserError(f"{settings.samples}: {name!r}: {seen}, far from all others: codes for missing? Leave such cells empty")
        if not np.isfinite(column).any():
            raise UserError(f"{settings.samples}: {name!r} has no number at any of the {len(table)} profiles")
        numbers[name] = column
    return numbers


def _read_table(settings: ZonedSettings) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the table with its targets as numbers; the variables of a dataset folder, among its columns; which are class codes."""
    samples, path = settings.samples, settings.samples / "samples.csv"
    if not samples.is_dir():
        return _read_points(settings), [], []
    dataset = read_dataset(samples, splits=(), target=settings.targets[0], target_needed=False)
    table = _checked(dataset.table, path, settings)
    names = [name for category in dataset.categories for name in category.variables]
    cells = middle_cells(dataset.x, dataset.categories)
    return _joined(table, dict(zip(names, cells.T, strict=True)), samples), names, class_variables(dataset.categories)


def _checked(table: pd.DataFrame, path: Path, settings: ZonedSettings) -> pd.DataFrame:
    """Return a table whose targets are there and possible, as numbers."""
    for target in settings.targets:
        if target not in table:
            raise UserError(f"{path}: no column {target!r}{nearest(target, list(table))}; --targets names the columns to predict")
        table[target] = check_samples(table, path, target, target_needed=False, limits=limits_of(settings.unit or ""))[1]
    return table


def _read_points(settings: ZonedSettings) -> pd.DataFrame:
    """Return a table of points, one row per profile or visit, its targets and years as numbers."""
    path, year = settings.samples, settings.year
    points = read_points(path, settings.table_rule())
    if year is not None and year in points.raw:
        points.columns.found["year"] = year
    elif year != "year":
        points.columns.found.pop("year", None)
    points.require("profile_id", "lon", "lat")
    targets = [name for name in settings.targets if name in points.raw]
    table = one_row_each(points, *targets)
    for note in points.notes:
        log.info("%s", note)
    used = [points.columns.found[name] for name in ("profile_id", "lon", "lat", "year") if name in points]
    if year is not None and "year" in table:
        table = table.rename(columns={"year": year})
    others = typed(points.raw.drop(columns=[*used, *targets]))
    return _checked(pd.concat([table, others.drop(columns=[name for name in others if name in table])], axis=1), path, settings)


def _joined(table: pd.DataFrame, columns: dict[str, np.ndarray], source: Path) -> pd.DataFrame:
    """Return the table with more columns."""
    double = next((name for name in columns if name in table.columns), None)
    if double is not None:
        raise UserError(f"{source}: variable {double!r} is a column already; rename one")
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)
