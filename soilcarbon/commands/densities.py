"""Compute soil organic carbon (SOC) density of depth intervals from soil horizons, one row per profile.

    soilcarbon densities --horizons horizons.csv --out data/mine/densities.csv
    soilcarbon densities --horizons horizons.csv --depths 0 20 100 --columns soc=humus_c bulk_density=BLD stones=CRF --units soc=%
    soilcarbon densities --horizons horizons.csv --multiply layers --sd soc=10% bulk_density=bd_sd

Horizons need columns of profile, longitude and latitude (degrees), upper and lower depth (cm) and SOC; bulk density, coarse
fragments and sampling year if there are any. Writes the table for `soilcarbon zones`: profile_id, lon, lat, year, and of each
interval the density socd_0_20 and its standard deviation socd_0_20_sd (kg/m2), the centimetres it is of (cm_0_20), and the share
of them whose bulk density was estimated, was estimated as an organic soil's, and whose stones were taken as none; bulk_density_by
is the source of the bulk density (measured, own horizons, a published function). Beside it <out>_left_out.csv (which profile, which
interval, why), and as YAML all counts, and the errors of functions of bulk density where it was measured. Nothing is extrapolated
below the observed depth.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from soilcarbon.commands.arguments import read_settings, used_columns
from soilcarbon.io.files import UserError, check_writable, file_set, locked, sha256, write_table, write_yaml
from soilcarbon.io.resumption import check_record
from soilcarbon.settings import DepthLimits, MeasurementSettings

if TYPE_CHECKING:
    import pandas as pd

    from soilcarbon.io.points import PointTable
    from soilcarbon.soil.density import Densities, Measured
    from soilcarbon.soil.horizons import HorizonTable


class DensitySettings(MeasurementSettings):
    """Settings of soil organic carbon density from horizons."""

    horizons: Path = Field(description="horizons: CSV, TSV, GeoPackage or GeoJSON, with profile_id, lon, lat, top and bottom (cm)")
    out: Path = Field(Path("data/densities.csv"), description="the table to write; _left_out.csv and .yaml go beside it")
    depths: DepthLimits = Field(
        [0.0, 20.0, 100.0], min_length=2, description="the upper limit and the lower ones, cm: 0 20 100 gives 0-20 and 0-100"
    )
    depth_method: Literal["mean", "spline", "spline_1cm"] = Field(
        "spline", description="horizons to intervals: mass-preserving spline (Bishop et al. 1999), or mean weighted by thickness"
    )
    spline_lambda: float = Field(0.1, ge=0, le=1e9, description="smoothness of the spline; 0 keeps the mass of every horizon")
    multiply: Literal["horizons", "intervals", "layers"] = Field(
        "horizons",
        description="SOC x bulk density of each horizon, and then depth; of each interval; or, as Dong, Wang and Su, of means "
        "weighted from 0-5, 5-15, 15-30, 30-60, 60-100 cm",
    )
    min_covered: float | None = Field(
        None, ge=0, description="centimetres of an interval that must have been observed [all of it]; 0: to the observed bottom"
    )

    @field_validator("out")
    @classmethod
    def _out_is_a_table(cls, path: Path) -> Path:
        if path.suffix != ".csv":
            raise ValueError("the table to write is named *.csv")
        return path

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Upper and lower limit of each interval, cm."""
        return [(self.depths[0], lower) for lower in self.depths[1:]]


log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(DensitySettings, __doc__, arguments, "soilcarbon densities")
    check_writable(settings.out.parent)
    with locked(files=[settings.out]):
        compute(settings)


def compute(settings: DensitySettings) -> None:
    """Compute densities by the settings, write them, and print counts."""
    from soilcarbon.io.points import table_file
    from soilcarbon.soil.density import check_soc_unit, interval_densities, measurements, tabulate  # slow, and --help needs none
    from soilcarbon.soil.horizons import read_horizons

    left = settings.out.with_name(f"{settings.out.stem}_left_out.csv")
    record_file = settings.out.with_suffix(".yaml")
    names = settings.out.name, left.name, record_file.name
    if table_file(settings.horizons).resolve() in [path.resolve() for path in (settings.out, left, record_file)]:
        raise UserError(f"{settings.out}: would overwrite the horizons; choose another --out")
    check_record(record_file, {"intervals", "counts"})
    if not record_file.exists() and (foreign := next((path for path in (settings.out, left) if os.path.lexists(path)), None)):
        raise UserError(f"{foreign}: would be replaced, and was not written here; move it, or choose another --out")
    horizons, points, units = read_horizons(settings.horizons, settings.table_rule(), settings.soc_factor)
    measured = measurements(horizons.table, settings.horizons, units | settings.stated_units, settings.deviations)
    placed = horizons.horizons.take(horizons.placed)
    soc, bulk_density, stones = (measured[name].take(horizons.placed) for name in ("soc", "bulk_density", "stones"))
    check_soc_unit(soc, placed.top, settings.horizons)
    try:
        found = interval_densities(
            placed,
            soc,
            bulk_density,
            stones,
            settings.intervals,
            multiply=settings.multiply,
            method=settings.depth_method,
            smoothing=settings.spline_lambda,
            min_covered=float("inf") if settings.min_covered is None else settings.min_covered,
        )
    except ValueError as error:
        raise UserError(f"{settings.horizons}: {error}") from error
    table, left_out = tabulate(horizons, found)
    if table.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out["reason"].value_counts().items())
        raise UserError(f"{settings.horizons}: no profile has a density; {reasons}")
    facts = record(settings, horizons, points, measured, found, left_out) | functions(horizons, measured)
    facts["settings"] = settings.as_plain()
    with file_set(settings.out.parent, names) as new:
        write_table(new / left.name, left_out)
        write_yaml(new / record_file.name, facts)
        write_table(new / settings.out.name, table)
    report(table, facts)
    print(f"{settings.out}: {len(table)} profiles; {left}: {len(left_out)} lines")


def functions(horizons: "HorizonTable", measured: "dict[str, Measured]") -> dict[str, Any]:
    """Return the scores of bulk density functions against measured bulk density."""
    from soilcarbon.soil.bulk_density import score_bulk_density_functions

    soc, bulk_density = (measured[name].possible(name) for name in ("soc", "bulk_density"))
    scores = score_bulk_density_functions(horizons.horizons.profile, soc, bulk_density)
    return {"functions of bulk density, kg/m3": scores}


def record(
    settings: DensitySettings,
    horizons: "HorizonTable",
    points: "PointTable",
    measured: "Mapping[str, Measured]",
    found: "Densities",
    left_out: "pd.DataFrame",
) -> dict[str, Any]:
    """Return the provenance of the table and all counts, as plain containers."""
    from soilcarbon.io.points import table_file
    from soilcarbon.soil.density import density_column

    columns = points.columns.found
    file = table_file(settings.horizons)
    own = found.pedotransfer
    function = f"own horizons ({own.intercept:.0f} {own.slope:+.0f} ln(1 + SOC/10), of {own.horizons})" if own else ""
    reasons = left_out.groupby(["target", "reason"]).size()
    names = [density_column(interval) for interval in found.intervals]
    return {
        "horizons": {"file": file.name, "sha256": sha256(file), "columns": columns, "not_used": points.columns.unused(columns)},
        "units": {name: each.unit for name, each in measured.items() if name in columns},
        "notes": points.notes,
        "counts": {name: count for name, count in horizons.counts.items() if count} | found.counts,
        "intervals": dict(zip(names, found.interval_counts, strict=True)),
        "left out": {f"{name}: {why}": int(count) for (name, why), count in reasons.items()},
        "bulk density estimated by": function or "Manrique and Jones 1991",
    }


def report(table: "pd.DataFrame", facts: dict[str, Any]) -> None:
    """Log columns, counts, scores of bulk density, and a summary of each interval."""
    log.info("%s", used_columns(facts["horizons"]["columns"], facts["horizons"]["not_used"]))
    log.info("units: %s", ", ".join(f"{name} {unit}" for name, unit in facts["units"].items()))
    for note in facts["notes"]:
        log.info("%s", note)
    for name, what in (("bulk_density", "bulk density"), ("stones", "coarse fragments")):
        if name not in facts["horizons"]["columns"]:
            log.info("no column of %s found; --columns %s=NAME names it, if there is one", what, name)
    log.info("%s", ", ".join(f"{count} {what}" for what, count in facts["counts"].items()))
    for name, scores in facts["functions of bulk density, kg/m3"].items():
        shown = {key: round(value, 2 if key == "r2" else 0) for key, value in scores.items()}
        words = ", ".join(f"{key} {value:g}" for key, value in shown.items())
        log.info("bulk density function %s (kg/m3, where measured): %s", name, words)
    for name in facts["intervals"]:
        known = table[name].dropna()
        estimated = (table.loc[known.index, name.replace("socd", "bd_estimated")] > 0).mean() if len(known) else 0
        middle = f"median {known.median():.2f} kg/m2, {estimated:.0%} with estimated bulk density" if len(known) else "no profile"
        log.info("%s: %d profiles, %s", name, len(known), middle)
