"""One table of profiles of all decades: their targets, and the covariates of the place and time each was sampled in.

In: a sample table or a dataset's folder, rasters that do not change, and rasters by year. Out: `SpaceTime`, and from it `Known`
for each target. What is left out is listed with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from soilcarbon.benchmark.baselines import Known
from soilcarbon.commands.zones import ZonedSettings
from soilcarbon.geo.raster import ABSURD, cut_windows, find_layers
from soilcarbon.io.files import UserError, nearest
from soilcarbon.soil.dataset import middle_cells, read_dataset, read_samples
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.zonal.periods import NO_PERIOD, covariates_at, period_of

_CLIMATE = ("precipitation", "temperature", "zone")
"""The settings that name what zones are told by."""


@dataclass(frozen=True)
class SpaceTime:
    """Profiles with a year, if years are asked for, and a climate.

    Attributes
    ----------
    table
        A row per profile: profile_id, lon, lat, the targets (NaN where not known), `variables`, and what else it came with.
    covariates
        The columns a model may use.
    variables
        Those, precipitation and temperature, or the zone, and year: the columns of x.
    left_out
        profile_id, reason.
    """

    table: pd.DataFrame
    covariates: tuple[str, ...]
    variables: tuple[str, ...]
    left_out: pd.DataFrame

    def known(self, target: str, block_size: float) -> tuple[Known, np.ndarray]:
        """Return the profiles that have a target, their units blocks of so many degrees, and their ids (n,).

        Raises
        ------
        UserError
            If fewer than two have.
        """
        table = self.table[self.table[target].notna()]
        if len(table) < 2:
            raise UserError(f"target {target!r}: {len(table)} of {len(self.table)} profiles have one")
        lon, lat = table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64)
        x = table[list(self.variables)].to_numpy(np.float64)
        units = spatial_groups(lon, lat, block_size)
        return Known(x, table[target].to_numpy(np.float64), lon, lat, units), table["profile_id"].to_numpy()


def read_space_time(settings: ZonedSettings) -> SpaceTime:
    """Read profiles and bring each the covariates of its place and its own period.

    Of a dataset's folder the variables' values in the profile's own cell are taken. Without `covariates` all variables of the
    dataset and the rasters are; a column of the table is one only if it is named, for it may be a measurement.

    Raises
    ------
    UserError
        If a file or column is missing or wrong, a name comes twice, or nothing is left.
    """
    table, found = _read_table(settings.samples, settings.targets)
    lon, lat = table["lon"].to_numpy(np.float64), table["lat"].to_numpy(np.float64)
    year, why = np.full(len(table), np.nan), []
    if settings.year is not None:
        if settings.year not in table.columns:
            near = nearest(settings.year, list(table))
            raise UserError(f"{settings.samples}: no column {settings.year!r} of sampling years{near}; --year none asks for none")
        year = pd.to_numeric(table[settings.year], errors="coerce").to_numpy(np.float64)
        why = [
            (~np.isfinite(year), f"no {settings.year}"),
            (~((year >= 1000) & (year <= 9999)), f"{settings.year} not from 1000 to 9999"),
        ]
    if settings.rasters:
        windows, _ = cut_windows(find_layers(settings.rasters), lon, lat, 0)
        table = _joined(table, {name: cells[:, 0, 0] for name, cells in windows.items()}, settings.rasters[0])
        found += windows
    if settings.periodic is not None:
        period = period_of(year, settings.first_year, settings.period_years)
        values, unmatched = covariates_at(settings.periodic, lon, lat, period, settings.period_years)
        table = _joined(table, values, settings.periodic)
        found += values
        why.append((period == NO_PERIOD, f"{settings.year} before {settings.first_year}"))
        why.append((np.isin(period, [begin for begin, count in unmatched.items() if count]), "no rasters of its period"))
    covariates = tuple(settings.covariates or (name for name in found if name != settings.zone))
    climate = [settings.zone] if settings.zone else [settings.precipitation, settings.temperature]
    if not covariates:
        raise UserError(
            "no covariates: give --rasters, --periodic, a dataset's folder as --samples, or name columns (--covariates)"
        )
    variables = tuple(dict.fromkeys([*covariates, *climate, *([settings.year] if settings.year else [])]))
    for name in variables:
        if name not in table.columns:
            near, key = nearest(name, list(table)), next((key for key in _CLIMATE if getattr(settings, key) == name), None)
            told = f"; --{key} takes one of {', '.join(map(str, dict.fromkeys([*found, *table])))[:300]}" if key else ""
            raise UserError(f"{settings.samples}: no column or variable {name!r}{near}{told}")
        if name in settings.targets:
            raise UserError(f"{name!r} is a target, and must not be a covariate too")
    numbers = {name: pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, copy=True) for name in variables}
    for name, column in numbers.items():
        column[~(np.abs(column) <= ABSURD)] = np.nan  # as in rasters; float32, which trees see, would be endless
        if not np.isfinite(column).any():
            raise UserError(f"{settings.samples}: {name!r} has no number at any of the {len(table)} profiles")
    why += [(~np.isfinite(numbers[name]), f"no {name}") for name in climate]
    why.append((table[settings.targets].isna().all(axis=1).to_numpy(), "no target"))
    reason = np.select([bad for bad, _ in why], [words for _, words in why], "")
    left_out = pd.DataFrame({"profile_id": table["profile_id"], "reason": reason})[reason != ""]
    table = table.assign(**numbers)[reason == ""].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{settings.samples}: no profile is left; first {left_out['reason'].iloc[0]}")
    return SpaceTime(table, covariates, variables, left_out.reset_index(drop=True))


def _read_table(samples: Path, targets: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with its targets as numbers, and the variables of a dataset's folder, which are among its columns."""
    folder = samples.is_dir()
    path = samples / "samples.csv" if folder else samples
    table, _ = read_samples(path, targets[0], target_needed=False)
    for target in targets:
        if target not in table.columns:
            raise UserError(f"{path}: no column {target!r}{nearest(target, list(table))}; --targets names those to learn")
        table[target] = read_samples(path, target, target_needed=False)[1]
    if not folder:
        return table, []
    dataset = read_dataset(samples, splits=(), target=targets[0], target_needed=False)
    names = [name for category in dataset.categories for name in category.variables]
    cells = middle_cells(dataset.x, dataset.categories)
    return _joined(table, dict(zip(names, cells.T, strict=True)), samples), names


def _joined(table: pd.DataFrame, columns: dict[str, np.ndarray], source: Path) -> pd.DataFrame:
    """Return the table with more columns."""
    double = next((name for name in columns if name in table.columns), None)
    if double is not None:
        raise UserError(f"{source}: variable {double!r} is a column already; rename one")
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)
