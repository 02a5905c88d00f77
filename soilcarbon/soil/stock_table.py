"""Table of SOC stocks: a row for each core, method and depth, by the references that the settings of `soilcarbon stocks` say."""

import logging
from typing import Literal

import numpy as np
import pandas as pd

from soilcarbon.io.files import UserError, nearest
from soilcarbon.soil.cores import CoreTable, read_reference
from soilcarbon.soil.settings import StockSettings
from soilcarbon.soil.stocks import ErrorPropagation, Stocks, equivalent_mass_stocks, fixed_depth_stocks, smallest_masses

log = logging.getLogger(__name__)
_LIGHT = 0.5
"""Of the median mass of cores to a depth: a smallest one below it is told."""
_THIN, _SHALLOW = 4.0, 0.25
"""cm, and share of its depth: a reference mass that half of the cores reach above is in another unit."""


def group_columns(settings: StockSettings, table: CoreTable) -> dict[str, str]:
    """Return the columns by which references differ, as they were named -> as they are called in `CoreTable.once`."""
    called = {found["profile_id"]: "profile_id" for found in table.columns.values() if "profile_id" in found and not settings.place}
    called |= {settings.visit: "visit"} if settings.visit else {}
    names = {name: called.get(name, name) for name in settings.reference_by}
    for name, ours in names.items():
        if ours not in table.once:
            near = nearest(name, list(table.once))
            has = ", ".join(map(str, table.once))
            raise UserError(f"--reference_by {name}: no column that is the same throughout each core{near}; these are: {has}")
    return names


def stocks_of(settings: StockSettings, table: CoreTable, groups: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each core, method and depth with a stock, and one for each without."""
    errors = ErrorPropagation(settings.layer_correlation, settings.draws, settings.seed)
    cores, once = table.cores, table.once
    masses, depths = None, None
    if settings.reference_table is not None:
        masses, depths = read_reference(settings.reference_table, settings.table_rule(), once, groups)
    elif settings.reference_mass:
        masses = np.broadcast_to(np.cumsum(settings.reference_mass), (len(cores), len(settings.reference_mass)))
    given = settings.depths or ([0.0, 30.0] if depths is None else [0.0, *depths])
    fixed = fixed_depth_stocks(cores, np.array(given[1:]), errors, settings.mass)
    if masses is None:
        group = once.groupby(list(groups.values()), dropna=False, sort=False).ngroup().to_numpy() if groups else None
        masses = smallest_masses(fixed.mass, group)
        _tell_light(once, fixed.mass[:, -1], masses[:, -1])
        depths = np.array(given[1:])
    differ = pd.Series(masses[:, -1]).groupby(once["profile_id"].to_numpy()).nunique() > 1
    if differ.any() and set(settings.method) != {"fixed_depth"}:
        first = differ.index[differ][0]
        log.warning(
            "%d places have another reference mass at each visit (first %s): no change can be read from them", differ.sum(), first
        )
    parts = []
    for method in settings.method:
        if method == "fixed_depth":
            parts += [_rows(once, method, k, fixed, None, np.array(given[1:])) for k in range(len(given) - 1)]
        else:
            interpolation: Literal["linear", "spline"] = "linear" if method == "esm_linear" else "spline"
            found = equivalent_mass_stocks(cores, masses, interpolation, errors, settings.mass)
            if settings.reference_table or settings.reference_mass:
                _check_unit(found, depths)
            parts += [_rows(once, method, k, found, masses, depths) for k in range(masses.shape[1])]
    rows = pd.concat(parts, ignore_index=True)
    missing = rows["reason"] != ""
    names = ["profile_id", "visit", "method", "layer", "reason", "reference_mass_t_ha", "total_mass_t_ha", "total_depth_cm"]
    return rows[~missing].drop(columns=["reason"]).reset_index(drop=True), rows.loc[missing, names].reset_index(drop=True)


def _tell_light(once: pd.DataFrame, mass: np.ndarray, reference: np.ndarray) -> None:
    """Log where a reference is far below the masses (N,) of most cores that are compared: a peat, or an error of bulk density."""
    for least, own in pd.Series(mass).groupby(reference):
        if least < _LIGHT * own.median():
            row = once.iloc[int(np.nanargmin(np.abs(mass - least)))]
            core = f"{row['profile_id']}, visit {row['visit']}" if row["visit"] else str(row["profile_id"])
            share = f"{100 * least / own.median():.0f} % of the median"
            log.warning(
                "the smallest mass, %.0f t/ha of %s, is %s: right? --reference_by or --reference_mass else", least, core, share
            )


def _check_unit(found: Stocks, depths: np.ndarray | None) -> None:
    """Raise UserError if given reference masses, perhaps those of known depths, are so small that they look like another unit."""
    reached = found.depth[:, -1]
    if np.isfinite(reached).any() and np.nanmedian(reached) < (_THIN if depths is None else _SHALLOW * depths[-1]):
        there = "" if depths is None else f", not near {depths[-1]:g} cm"
        saw = f"the reference mass is reached within {np.nanmedian(reached):.2g} cm of the surface{there}"
        raise UserError(f"{saw}: is it in kg/m2? Reference masses are in t/ha (1 kg/m2 is 10 t/ha; 30 cm of soil weigh some 4000)")


def _rows(
    once: pd.DataFrame, method: str, k: int, found: Stocks, reference: np.ndarray | None, depths: np.ndarray | None
) -> pd.DataFrame:
    """Return the rows of all cores for one depth or mass."""
    nothing = np.full(len(once), np.nan)
    first = [name for name in ("profile_id", "visit", "year", "lon", "lat") if name in once]
    columns = {
        "method": method,
        "layer": k + 1,
        "to_depth_cm": nothing if depths is None else depths[k],
        "depth_cm": found.depth[:, k].round(6),
        "reference_mass_t_ha": nothing if reference is None else reference[:, k],
        "mass_t_ha": found.mass[:, k],
        "stock_t_ha": found.stock[:, k],
        "stock_sd_t_ha": found.sd[:, k],
        "stock_kg_m2": found.kg_m2[:, k],
        "stock_sd_kg_m2": found.sd[:, k] / 10,
        "layer_stock_t_ha": found.layer[:, k],
        "layer_stock_sd_t_ha": found.layer_sd[:, k],
        "total_mass_t_ha": found.total_mass,
        "total_depth_cm": found.total_depth,
        "reason": found.reason[:, k],
    }
    kept = once.drop(columns=[name for name in once if name in columns])
    return kept[first].assign(**columns).join(kept.drop(columns=first))
