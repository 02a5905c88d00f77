"""Compute soil organic carbon (SOC) stocks of cores by fixed depth and by equivalent soil mass (ESM), one row per core and depth.

    soilcarbon stocks --horizons layers.csv --depths 0 30
    soilcarbon stocks --horizons soc.csv --bulk_density_table bd.csv --place Plot Point --visit Campaign --reference_by Block
    soilcarbon stocks --horizons layers.csv --reference_mass 1300 2700 --sd soc=5% bulk_density=8%

Layers need columns of place, upper and lower depth (cm), SOC and bulk density (perhaps in a second table, of other layers);
coarse fragments, years and coordinates if there are any. The reference mass of ESM is given, or the smallest fine soil mass to a
depth of the cores that are compared. Writes into results/stocks/: stocks.csv (place, visit, method, layer, depth, soil mass, stock
in t/ha and kg/m2 and its standard deviation), left_out.csv (which core, which depth, why), stocks.json (counts, units, checksums)
and settings.yaml. `soilcarbon change` reads stocks.csv. Nothing is extrapolated below the deepest layer.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from soilcarbon.commands.arguments import read_settings, used_columns
from soilcarbon.io.files import UserError, check_writable, locked, sha256, write_json, write_table
from soilcarbon.io.manifest import result_set
from soilcarbon.settings import MeasurementSettings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.soil.cores import CoreTable
    from soilcarbon.soil.stocks import Stocks

FILES = ("stocks.csv", "left_out.csv", "stocks.json", "settings.yaml")
METHODS = {"fixed_depth": "fixed depth", "esm_linear": "ESM, linear", "esm_spline": "ESM, monotone cubic spline"}
_LIGHT = 0.5
"""Of the median mass of cores to a depth: a smallest one below it is told."""
_THIN, _SHALLOW = 4.0, 0.25
"""cm, and share of its depth: a reference mass that half of the cores reach above is in another unit."""


class StockSettings(MeasurementSettings):
    """Settings of SOC stocks by fixed depth and equivalent soil mass."""

    replaced = {**MeasurementSettings.replaced, "errors": "--draws NUMBER (0: to first order)"}

    horizons: Path = Field(description="layers or horizons: CSV, TSV, GeoPackage or GeoJSON, with place, top, bottom (cm) and SOC")
    bulk_density_table: Path | None = Field(
        None, description="second table, with bulk density (and stones) of layers of other limits [the first has them]"
    )
    place: list[str] = Field([], description="columns that name a sampled place together, such as Plot Point [that of ids]")
    visit: str | None = Field(None, description="column of visits, any text [the year, if there is a column of years]")
    method: list[Literal["fixed_depth", "esm_linear", "esm_spline"]] = Field(
        ["fixed_depth", "esm_spline"], min_length=1, description="fixed_depth, esm_linear (uniform layers), esm_spline (Hyman's)"
    )
    depths: list[float] | None = Field(
        None, min_length=2, description="0 and the lower limits, cm [0 30, or those of the table of reference masses]"
    )
    reference_mass: list[float] = Field(
        [], description="reference masses of successive layers, t/ha of fine soil [the smallest mass to each depth of the cores]"
    )
    reference_table: Path | None = Field(None, description="table of reference masses of layers, with their depths and groups")
    reference_by: list[str] = Field(
        [], description="columns of cores that are compared with each other, each with its own reference: block, treatment, place"
    )
    mass: Literal["fine", "mineral"] = Field("fine", description="fine soil, or fine soil without organic matter (SOC / 0.58)")
    bulk_density_of: Literal["fine_earth", "fine_mass", "whole_soil"] = Field(
        "fine_earth",
        description="fine earth per its own volume; mass of fine earth per volume of all (stones are not taken off again); or all",
    )
    estimate: bool = Field(False, description="estimate bulk density that was not measured from SOC, as soilcarbon densities does")
    layer_correlation: float = Field(
        0.0, ge=0, le=1, description="correlation of the errors of a core's layers: 0 independent, 1 the same throughout"
    )
    draws: int = Field(
        0, ge=0, le=1_000_000, description="random draws by which errors are propagated, 100 or more; 0: to first order instead"
    )
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the draws")
    out: Path = Field(Path("results/stocks"), description="folder of the tables")

    @field_validator("depths")
    @classmethod
    def _depths_descend(cls, limits: list[float] | None) -> list[float] | None:
        if limits is not None and (limits[0] != 0 or any(upper >= lower for upper, lower in pairwise(limits))):
            raise ValueError("0, the surface, and then lower limits, each below the one before: 0 30 100")
        return limits

    @field_validator("reference_mass")
    @classmethod
    def _masses_are_positive(cls, masses: list[float]) -> list[float]:
        if any(mass <= 0 for mass in masses):
            raise ValueError("masses of successive layers, t/ha, each above 0")
        return masses

    @model_validator(mode="after")
    def _one_reference(self) -> "StockSettings":
        if self.reference_mass and (self.reference_table or self.reference_by):
            raise ValueError("reference_mass is the same for all cores; give it, or reference_table, or reference_by")
        if 0 < self.draws < 100:
            raise ValueError(f"draws: {self.draws} are too few; 100 or more, or 0 for propagation to first order")
        if len(set(self.method)) < len(self.method):
            raise ValueError(f"method: {' '.join(self.method)}: each once")
        return self


log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(StockSettings, __doc__, arguments, "soilcarbon stocks")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_writable(settings.out)
    with locked(settings.out):
        compute(settings)


def compute(settings: StockSettings) -> None:
    """Compute stocks by the settings, write them, and print a summary."""
    from soilcarbon.io.points import table_file  # here and below: slow to import, and --help does not need it
    from soilcarbon.soil.cores import CoreRule, read_cores

    rule = CoreRule(
        settings.place,
        settings.visit,
        settings.stated_units,
        settings.deviations,
        settings.soc_factor,
        settings.estimate,
        settings.bulk_density_of,
    )
    table = read_cores(settings.horizons, settings.table_rule(), rule, settings.bulk_density_table)
    rows, left_out = stocks_of(settings, table, group_columns(settings, table))
    if rows.empty:
        raise UserError(f"{settings.horizons}: no core has a stock; {left_out['reason'].value_counts().to_dict()}")
    inputs = [settings.horizons, settings.bulk_density_table, settings.reference_table]
    facts: dict[str, Any] = {
        "inputs": {str(path): sha256(table_file(path)) for path in inputs if path is not None},
        "columns": table.columns,
        "units": table.units,
        "notes": table.notes,
        "counts": table.counts | {"cores": len(table.once)},
        "left out": {" - ".join(key): int(count) for key, count in left_out.groupby(["method", "reason"]).size().items()},
        "settings": settings.as_plain(),
    }
    with result_set(settings.out, "stocks", FILES) as new:
        write_table(new / "left_out.csv", left_out)
        write_json(new / "stocks.json", facts)
        settings.write(new / "settings.yaml")
        write_table(new / "stocks.csv", rows)
    report(table, rows, left_out)
    print(f"{settings.out / 'stocks.csv'}: {len(rows)} rows; {settings.out / 'left_out.csv'}: {len(left_out)} rows")


def group_columns(settings: StockSettings, table: "CoreTable") -> dict[str, str]:
    """Return the columns by which references differ, as they were named -> as they are called in `CoreTable.once`."""
    from soilcarbon.io.files import nearest

    called = {found["profile_id"]: "profile_id" for found in table.columns.values() if "profile_id" in found and not settings.place}
    called |= {settings.visit: "visit"} if settings.visit else {}
    names = {name: called.get(name, name) for name in settings.reference_by}
    for name, ours in names.items():
        if ours not in table.once:
            near = nearest(name, list(table.once))
            has = ", ".join(map(str, table.once))
            raise UserError(f"--reference_by {name}: no column that is the same throughout each core{near}; these are: {has}")
    return names


def stocks_of(settings: StockSettings, table: "CoreTable", groups: dict[str, str]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return a row for each core, method and depth with a stock, and one for each without."""
    import numpy as np
    import pandas as pd

    from soilcarbon.soil.cores import read_reference
    from soilcarbon.soil.stocks import ErrorPropagation, equivalent_mass_stocks, fixed_depth_stocks, smallest_masses

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


def _tell_light(once: "pd.DataFrame", mass: "np.ndarray", reference: "np.ndarray") -> None:
    """Log where a reference is far below the masses (N,) of most cores that are compared: a peat, or an error of bulk density."""
    import numpy as np
    import pandas as pd

    for least, own in pd.Series(mass).groupby(reference):
        if least < _LIGHT * own.median():
            row = once.iloc[int(np.nanargmin(np.abs(mass - least)))]
            core = f"{row['profile_id']}, visit {row['visit']}" if row["visit"] else str(row["profile_id"])
            share = f"{100 * least / own.median():.0f} % of the median"
            log.warning(
                "the smallest mass, %.0f t/ha of %s, is %s: right? --reference_by or --reference_mass else", least, core, share
            )


def _check_unit(found: "Stocks", depths: "np.ndarray | None") -> None:
    """Raise UserError if given reference masses, perhaps those of known depths, are so small that they look like another unit."""
    import numpy as np

    reached = found.depth[:, -1]
    if np.isfinite(reached).any() and np.nanmedian(reached) < (_THIN if depths is None else _SHALLOW * depths[-1]):
        there = "" if depths is None else f", not near {depths[-1]:g} cm"
        saw = f"the reference mass is reached within {np.nanmedian(reached):.2g} cm of the surface{there}"
        raise UserError(f"{saw}: is it in kg/m2? Reference masses are in t/ha (1 kg/m2 is 10 t/ha; 30 cm of soil weigh some 4000)")


def _rows(
    once: "pd.DataFrame", method: str, k: int, found: "Stocks", reference: "np.ndarray | None", depths: "np.ndarray | None"
) -> "pd.DataFrame":
    """Return the rows of all cores for one depth or mass."""
    import numpy as np

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


def report(table: "CoreTable", rows: "pd.DataFrame", left_out: "pd.DataFrame") -> None:
    """Log columns, units, counts, and the mean stock by method, depth and visit."""
    for file, found in table.columns.items():
        log.info("%s: %s", file, used_columns(found, ()))
    log.info("units: %s", ", ".join(f"{name} {unit}" for name, unit in table.units.items()))
    for note in table.notes:
        log.info("%s", note)
    if "stones" not in table.units:
        log.info("no column of coarse fragments found, so there are none; --columns stones=NAME names it, if there is one")
    log.info("%s", ", ".join(f"{count} {what}" for what, count in table.counts.items()))
    for (method, layer), those in rows.groupby(["method", "layer"], sort=False):
        head = f"{METHODS[str(method)]}, {_extent(those, str(method))}"
        for visit, own in those.groupby("visit", sort=True):
            stock = own["stock_t_ha"]
            spread = f", sd between cores {stock.std():.2f}" if len(own) > 1 else ""
            error = own["stock_sd_t_ha"].median()
            spread += f", error of one core {error:.2f}" if error == error else ""
            when = f", visit {visit}" if visit else ""
            log.info("%s%s: %d cores, mean %.2f t/ha%s", head, when, len(own), stock.mean(), spread)
        lost = left_out[(left_out["method"] == method) & (left_out["layer"] == layer)]
        for reason, count in lost["reason"].value_counts().items():
            log.info("%s: %d cores left out, %s", head, count, reason)


def _extent(rows: "pd.DataFrame", method: str) -> str:
    """Return the depth or reference mass of rows, and the depths at which that is reached, as text."""
    if method == "fixed_depth":
        return f"0-{rows['to_depth_cm'].iloc[0]:g} cm"
    least, most = rows["reference_mass_t_ha"].min(), rows["reference_mass_t_ha"].max()
    masses = f"{least:.0f}" if round(least) == round(most) else f"{least:.0f} to {most:.0f}"
    return f"{masses} t/ha of soil (reached at {rows['depth_cm'].min():.1f} to {rows['depth_cm'].max():.1f} cm)"
