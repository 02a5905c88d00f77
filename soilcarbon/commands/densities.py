"""Turn soil horizons into soil organic carbon (SOC) density of depth intervals, one row per profile.

    soilcarbon densities --horizons horizons.csv --out data/mine/densities.csv
    soilcarbon densities --horizons horizons.csv --depths 0 20 100 --soc humus_c --soc_unit % --bulk_density BLD --stones CRF
    soilcarbon densities --horizons horizons.csv --multiply layers --soc_sd 10% --bulk_density_sd bd_sd

Horizons need columns of profile, longitude and latitude (degrees), upper and lower depth (cm) and SOC; bulk density, coarse
fragments and sampling year if there are any. Writes the table that train_zoned.py learns from: profile_id, lon, lat, year, and of
each interval socd_0_20 and its standard deviation socd_0_20_sd (kg/m2), the centimetres it is of (cm_0_20), and the share of them
whose bulk density was estimated, was estimated as an organic soil's, and whose stones were taken as none; bulk_density_by says by
what (measured, own horizons, a published function). Beside it left_out.csv (which profile, which interval, why), and as YAML
all counts, and how functions of bulk density fare where it was measured. Nothing is extrapolated below the observed depth.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, sha256, write_table, write_yaml
from soilcarbon.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.soil.density import Densities
    from soilcarbon.soil.profiles import Horizons


class DensitySettings(Settings):
    """From horizons to soil organic carbon density, one row per profile."""

    horizons: Path = Field(description="horizons: CSV, TSV, GeoPackage or GeoJSON, with profile_id, lon, lat, top and bottom (cm)")
    out: Path = Field(Path("data/densities.csv"), description="the table to write; left_out.csv and .yaml go beside it")
    depths: list[float] = Field(
        [0.0, 20.0, 100.0], min_length=2, description="the upper limit and the lower ones, cm: 0 20 100 gives 0-20 and 0-100"
    )
    soc: str | None = Field(None, description="the column of soil organic carbon [the first whose name is known]")
    bulk_density: str | None = Field(None, description="the column of bulk density of fine earth [the same; none: all estimated]")
    stones: str | None = Field(None, description="the column of coarse fragments, % of volume [the same; none: taken as 0]")
    year: str | None = Field(None, description="the column of sampling years [the same]")
    soc_unit: Literal["g/kg", "%"] = Field("g/kg", description="unit of soil organic carbon")
    bulk_density_unit: Literal["g/cm3", "kg/m3"] = Field("g/cm3", description="unit of bulk density")
    soc_sd: str = Field("0", description="its standard deviation: a column, a number in its unit, or a share of it such as 10%")
    bulk_density_sd: str = Field(
        "0", description="the same of bulk density that was measured; estimates have their function's error"
    )
    stones_sd: str = Field("0", description="the same of coarse fragments")
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

    @field_validator("depths")
    @classmethod
    def _depths_descend(cls, limits: list[float]) -> list[float]:
        if limits[0] < 0 or any(upper >= lower for upper, lower in pairwise(limits)):
            raise ValueError("the upper limit, 0 or more, and then lower ones, each below the one before: 0 20 100")
        return limits

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
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from soilcarbon.constants import SOC_MAXIMUM
    from soilcarbon.soil.density import (  # here and below: --help needs none of these, and they are slow
        BULK_DENSITIES,
        convert,
        judge_functions,
    )
    from soilcarbon.soil.profiles import read_measured, unit_hint

    if settings.out.resolve() == settings.horizons.resolve():
        raise UserError(f"{settings.out}: would overwrite the horizons; choose another --out")
    named = {name: getattr(settings, name) for name in ("soc", "bulk_density", "stones", "year")}
    horizons, columns = read_measured(settings.horizons, named)
    check_writable(settings.out.parent)
    found = to_densities(settings, horizons)
    table, left_out = tabulate(settings, horizons, found)
    if table.empty:
        raise UserError(f"{settings.horizons}: no profile has a density; {left_out['reason'].value_counts().to_dict()}")

    soc, earth = (horizons.table[name].to_numpy(float) for name in ("soc", "bulk_density"))
    earth = convert(earth, settings.bulk_density_unit, "kg/m3")
    earth[~((earth >= BULK_DENSITIES[0]) & (earth <= BULK_DENSITIES[1]))] = float("nan")
    soc = convert(soc, settings.soc_unit, "g/kg")
    soc[~((soc >= 0) & (soc <= SOC_MAXIMUM))] = float("nan")
    functions = judge_functions(horizons.profile, soc, earth)
    counts = {name: count for name, count in horizons.counts.items() if count} | found.counts
    names = [target(interval) for interval in settings.intervals]
    record: dict[str, Any] = {
        "horizons": {"file": settings.horizons.name, "sha256": sha256(settings.horizons), "columns": columns},
        "counts": counts,
        "intervals": dict(zip(names, found.interval_counts, strict=True)),
        "left out": {f"{name}: {why}": int(n) for (name, why), n in left_out.groupby(["target", "reason"]).size().items()},
        "bulk density estimated by": by_what(found),
        "functions of bulk density, kg/m3": functions,
        "settings": settings.as_plain(),
    }
    write_table(settings.out.parent / "left_out.csv", left_out)
    write_yaml(settings.out.with_suffix(".yaml"), record)
    write_table(settings.out, table)

    log.info("columns: %s", ", ".join(f"{ours} = {column}" for ours, column in columns.items()))
    log.info("%s", ", ".join(f"{count} {what}" for what, count in counts.items()))
    for name, numbers in functions.items():
        numbers = {key: round(value, 2 if key == "r2" else 0) for key, value in numbers.items()}
        log.info("bulk density by %s: %s", name, ", ".join(f"{key} {value:g}" for key, value in numbers.items()))
    if settings.soc_unit == "g/kg" and (hint := unit_hint(soc[soc == soc])):
        log.info("hint: %s (--soc_unit %%)", hint)
    for name in names:
        known = table[name].dropna()
        estimated = (table.loc[known.index, name.replace("socd", "bd_estimated")] > 0).mean() if len(known) else 0
        middle = f"median {known.median():.2f} kg/m2, {estimated:.0%} with estimated bulk density" if len(known) else "no profile"
        log.info("%s: %d profiles, %s", name, len(known), middle)
    print(f"{settings.out}: {len(table)} profiles; {settings.out.parent / 'left_out.csv'}: {len(left_out)} lines")


def target(interval: tuple[float, float]) -> str:
    """Return the column of an interval's density."""
    return f"socd_{interval[0]:g}_{interval[1]:g}"


def by_what(found: "Densities") -> str:
    """Return what the bulk density of mineral soils was estimated by."""
    own = found.pedotransfer
    if own is None:
        return "Manrique and Jones 1991"
    return f"own horizons ({own.intercept:.0f} {own.slope:+.0f} ln(1 + SOC/10), of {own.horizons})"


def to_densities(settings: DensitySettings, horizons: "Horizons") -> "Densities":
    """Return the density of each profile and interval.

    Raises
    ------
    UserError
        If a unit or a deviation cannot be right.
    """
    import numpy as np

    from soilcarbon.soil.density import interval_densities

    table = horizons.table
    sds = [
        deviation(getattr(settings, f"{name}_sd"), f"{name}_sd", table[name].to_numpy(float), horizons, settings)
        for name in ("soc", "bulk_density", "stones")
    ]
    good = horizons.placed
    try:
        return interval_densities(
            horizons.profile[good],
            horizons.top[good],
            horizons.bottom[good],
            table["soc"].to_numpy(float)[good],
            table["bulk_density"].to_numpy(float)[good],
            table["stones"].to_numpy(float)[good],
            settings.intervals,
            len(horizons.once),
            soc_unit=settings.soc_unit,
            bulk_density_unit=settings.bulk_density_unit,
            soc_sd=sds[0][good],
            bulk_density_sd=sds[1][good],
            stones_sd=sds[2][good],
            multiply=settings.multiply,
            method=settings.depth_method,
            smoothing=settings.spline_lambda,
            min_covered=np.inf if settings.min_covered is None else settings.min_covered,
        )
    except ValueError as error:
        raise UserError(f"{settings.horizons}: {error}") from error


def deviation(given: str, name: str, values: "np.ndarray", horizons: "Horizons", settings: DensitySettings) -> "np.ndarray":
    """Return standard deviations (L,), in the unit of the values (L,), as a setting gives them: column, number or share."""
    import numpy as np

    from soilcarbon.io.files import nearest
    from soilcarbon.io.points import numbers

    if given in horizons.table.columns:
        found = numbers(horizons.table[given], settings.horizons, given)
    else:
        try:
            number = float(given.removesuffix("%"))
        except ValueError:
            near = nearest(given, list(horizons.table.columns))
            raise UserError(f"--{name} {given!r} is no column, number or share such as 10%{near}") from None
        if not 0 <= number < float("inf"):
            raise UserError(f"--{name} {given}: a standard deviation is finite and 0 or more")
        found = values * number / 100 if given.endswith("%") else np.full(len(values), number)
    if (bad := int((found < 0).sum())) and given in horizons.table.columns:
        raise UserError(f"--{name} {given}: {bad} of {len(found)} are negative; a standard deviation is 0 or more")
    return np.abs(found)


def tabulate(settings: DensitySettings, horizons: "Horizons", found: "Densities") -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return a row for each profile with a density, and a row (profile_id, target, reason) for each density that is missing."""
    import numpy as np
    import pandas as pd

    once = horizons.once
    lon, lat = once["lon"].to_numpy(), once["lat"].to_numpy()
    wrong = [
        (np.isnan(lon) | np.isnan(lat), "longitude or latitude missing or not a number"),
        ((np.abs(lon) > 180) | (np.abs(lat) > 90), "longitude or latitude out of range"),
        (horizons.moves, "its horizons lie at different places"),
    ]
    why = np.select([bad for bad, _ in wrong], [words for _, words in wrong], "")
    parts = [pd.DataFrame({"profile_id": once["profile_id"], "target": "all", "reason": why})[why != ""]]
    columns: dict[str, np.ndarray] = {}
    for k, interval in enumerate(settings.intervals):
        name, depth = target(interval), f"{interval[0]:g}_{interval[1]:g}"
        columns |= {name: found.density[:, k].round(4), f"{name}_sd": found.sd[:, k].round(4), f"cm_{depth}": found.reach[:, k]}
        shares = {"bd_estimated": found.estimated, "bd_organic": found.organic, "stones_assumed": found.stones_assumed}
        columns |= {f"{what}_{depth}": share[:, k].round(3) for what, share in shares.items()}
        missing = np.isnan(found.density[:, k]) & (why == "")
        reason = np.where(found.covered[:, k] > 0, "too few centimetres of it observed", "no usable horizon in it")
        parts.append(pd.DataFrame({"profile_id": once["profile_id"], "target": name, "reason": reason})[missing])
    estimated, organic = (np.nan_to_num(share).max(axis=1) for share in (found.estimated, found.organic))
    by = np.select([estimated == 0, organic >= estimated], ["measured", "organic"], "own" if found.pedotransfer else "published")
    columns["bulk_density_by"] = by
    kept = once.drop(columns=[name for name in once if name in columns])
    first = ["profile_id", "lon", "lat", "year"]
    table = pd.concat([kept[first], pd.DataFrame(columns), kept.drop(columns=first)], axis=1)
    whole = np.isfinite(found.density).any(axis=1) & (why == "")
    return table[whole].reset_index(drop=True), pd.concat(parts, ignore_index=True)
