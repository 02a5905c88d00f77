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
from typing import TYPE_CHECKING, Any

from soilcarbon.commands.arguments import read_settings, used_columns
from soilcarbon.io.files import UserError, check_writable, locked, sha256, write_json, write_table
from soilcarbon.io.manifest import result_set
from soilcarbon.soil.settings import StockSettings

if TYPE_CHECKING:
    import pandas as pd

    from soilcarbon.soil.cores import CoreTable

FILES = ("stocks.csv", "left_out.csv", "stocks.json", "settings.yaml")
METHODS = {"fixed_depth": "fixed depth", "esm_linear": "ESM, linear", "esm_spline": "ESM, monotone cubic spline"}

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(StockSettings, __doc__, arguments, "soilcarbon stocks")
    check_writable(settings.out)
    with locked(settings.out):
        compute(settings)


def compute(settings: StockSettings) -> None:
    """Compute stocks by the settings, write them, and print a summary."""
    from soilcarbon.io.points import table_file  # here and below: slow to import, and --help does not need it
    from soilcarbon.soil.cores import read_cores
    from soilcarbon.soil.stock_table import group_columns, stocks_of

    table = read_cores(settings)
    rows, left_out = stocks_of(settings, table, group_columns(settings, table))
    if rows.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out["reason"].value_counts().items())
        raise UserError(f"{settings.horizons}: no core has a stock; {reasons}")
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
