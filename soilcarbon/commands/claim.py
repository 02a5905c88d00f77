"""State a claim of stored carbon for a verifier: one self-contained page and a JSON of the same facts.

    soilcarbon claim --change results/change/change.json --of method=esm_spline layer=1 --area_ha 850
    soilcarbon claim --change results/change --stocks results/stocks --area_ha 850 --confidence 0.95 --co2e
    soilcarbon claim --map results/mine/soc.tif --points sample.csv --value socd_0_30 --profiles data/mine
    soilcarbon claim --map results/mine/soc.tif --points sample.csv --value socd_0_30 --change_value dsocd --basis difference

Reads what other commands wrote: the measured change of `soilcarbon change`; cores' errors of `soilcarbon stocks`; a map of
`soilcarbon map` with the files beside it, and independent points to validate it. Claimed is the change of the plots, else that of
the map corrected by a probability sample (difference estimator); that of a map alone has to be asked for (--basis map). All are
shown. A deduction for uncertainty is made by a stated rule. Writes into results/claim/: claim.html, claim.json and settings.yaml.
"""

import logging
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from soilcarbon import __version__
from soilcarbon.commands.arguments import gdal, read_settings
from soilcarbon.commands.validate import SampleSettings
from soilcarbon.io.files import UserError, check_writable, locked, write_json
from soilcarbon.io.manifest import result_set
from soilcarbon.settings import Pairs

if TYPE_CHECKING:
    from soilcarbon.mapping.claim import Evidence
    from soilcarbon.mapping.claim_sources import Recorded

FILES = ("claim.html", "claim.json", "settings.yaml")


class ClaimSettings(SampleSettings):
    """Settings of a claim of stored carbon."""

    change: Path | None = Field(None, description="change.json of soilcarbon change, or its folder: the change of plots")
    of: Pairs = Field([], description="which of its changes: method=esm_spline layer=1 [the only one of all groups]")
    stocks: Path | None = Field(None, description="stocks.csv of soilcarbon stocks, or its folder: errors of cores, for the budget")
    map: Path | None = Field(None, description="map of soilcarbon map, as its --out; the files beside it are read")
    points: Path | None = Field(None, description="table of independent points at which the map is validated")
    value: str | None = Field(None, description="its column of values, of the map's quantity (of its last period)")
    change_value: str | None = Field(None, description="its column of measured changes, for a map of change")
    unit: str | None = Field(None, description="unit of the points, and of a change whose column does not say it [the map's]")
    profiles: list[Path] = Field([], description="dataset folders or tables of training profiles: are points among them?")
    area_ha: float | None = Field(None, gt=0, description="area of the claim, ha [that of the map]")
    basis: Literal["auto", "plots", "difference", "map"] = Field(
        "auto",
        description="claimed change: of plots, of the map corrected by a probability sample, or of the map alone [the first two]",
    )
    rule: Literal["lower_bound", "discount"] = Field(
        "lower_bound",
        description="credited: the one-sided lower bound, or the change less what its half-width exceeds a threshold by",
    )
    confidence: float = Field(0.9, ge=0.5, lt=1, description="one-sided confidence of the lower bound")
    threshold: float = Field(0.1, ge=0, le=1, description="half-width, as a share of the change, that discount does not deduct")
    level: float = Field(0.9, gt=0, lt=1, description="confidence of two-sided intervals")
    shared_sd: float = Field(
        0.0,
        ge=0,
        description="sd of an error of the change that all places share (laboratory), t/ha; of one at each visit, the root of "
        "the sum of squares",
    )
    power: float = Field(0.8, gt=0, lt=1, description="of the minimum detectable change")
    sides: Literal["two", "one"] = Field("two", description="its test: two-sided with --level, or one-sided with --confidence")
    co2e: bool = Field(False, description="convert the credit to CO2 equivalents (x 44/12)")
    title: str = Field("Soil carbon claim", min_length=1, max_length=120, description="heading of the page")
    out: Path = Field(Path("results/claim"), description="folder of the page and the JSON")

    @model_validator(mode="after")
    def _something_to_claim(self) -> Self:
        if self.change is None and self.map is None:
            raise ValueError("there is nothing to claim; give --change, --map or both")
        if self.change is None and (self.of or self.stocks is not None):
            raise ValueError("--of and --stocks belong to --change; give it too")
        if self.map is None and (self.points is not None or self.profiles):
            raise ValueError("--points and --profiles validate a map; give --map too")
        if self.points is None and (self.value or self.change_value or self.profiles):
            raise ValueError("--value, --change_value and --profiles are of points; give --points")
        if self.points is not None and not (self.value or self.change_value):
            raise ValueError("--points needs --value, the column of the map's quantity, or --change_value")
        return self


log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ClaimSettings, __doc__, arguments, "soilcarbon claim")
    from soilcarbon.mapping.claim import Terms, claim_facts, plain  # here and below: slow to import, and --help needs none
    from soilcarbon.mapping.claim_page import verdict, write_claim
    from soilcarbon.mapping.claim_sources import Recorded, input_files

    check_writable(settings.out)
    names = ("basis", "rule", "confidence", "threshold", "level", "shared_sd", "power", "sides", "area_ha", "co2e")
    terms, recorded = Terms(**{name: getattr(settings, name) for name in names}), Recorded()
    with gdal(), locked(settings.out), result_set(settings.out, "claim", FILES) as new:
        evidence, files = gather(settings, recorded)
        try:
            facts = claim_facts(evidence, terms)
        except ValueError as error:
            raise UserError(str(error)) from error
        changed = [row["file"] for row in recorded.rows if row["now"] == "changed"]
        facts["warnings"] += [f"{name} has changed since it was read for these results." for name in changed]
        facts |= {"inputs": input_files(files), "recorded_inputs": recorded.rows, "settings": settings.as_plain()}
        facts |= {"versions": {"soil-carbon-mapper": __version__, "Python": platform.python_version()}}
        facts = plain({"title": settings.title, **facts})
        write_claim(new / "claim.html", settings.title, facts)
        write_json(new / "claim.json", facts)
        settings.write(new / "settings.yaml")
    for line in facts["warnings"]:
        log.warning("%s", line)
    print("\n".join([*verdict(facts), f"-> {settings.out / 'claim.html'}"]))


def gather(settings: ClaimSettings, recorded: "Recorded") -> "tuple[Evidence, list[Path]]":
    """Return what the claim rests on, and the files that were read; `recorded` gets checksums that earlier commands recorded."""
    from soilcarbon.io.points import table_file
    from soilcarbon.mapping.claim import Evidence
    from soilcarbon.mapping.claim_sources import measurement_variance, read_change, read_map
    from soilcarbon.mapping.claim_validation import validate_change, validate_stock
    from soilcarbon.mapping.probability_sample import RASTERS, drawn_km2

    files: list[Path] = []
    measured = measurement = mapped = stock = changed = near = None
    points_km2 = math.nan
    if settings.change is not None:
        measured = read_change(settings.change, settings.of, settings.unit, recorded)
        files.append(_in(settings.change, "change.json"))
        if settings.stocks is not None:
            measurement = measurement_variance(settings.stocks, measured, measured.unit, recorded)
            files.append(_in(settings.stocks, "stocks.csv"))
    if settings.map is not None:
        mapped = read_map(settings.map)
        files += mapped.files
    if mapped is not None and settings.points is not None:
        how = settings.unit or mapped.unit, settings.table_rule(), settings.sample_rule
        files += [table_file(settings.points), *([settings.strata] if settings.strata is not None else [])]
        points_km2 = drawn_km2(settings.points, settings.table_rule())
        if settings.value:
            stock = validate_stock(mapped.stock_tif, settings.points, settings.value, *how)
        if settings.change_value:
            if mapped.change_tif is None:
                raise UserError(f"{settings.map}: is no map of several periods, and has no change to validate by --change_value")
            changed = validate_change(mapped.change_tif, settings.points, settings.change_value, *how)
        sampled = next((each.sampled for each in (stock, changed) if each is not None and each.sampled is not None), None)
        if sampled is not None and settings.strata is not None and settings.strata.suffix.lower() in RASTERS:
            strata_km2 = float(sampled.design.weight.sum())
            points_km2 = strata_km2 if 100 * strata_km2 < mapped.area_ha else points_km2  # else the map has gaps
        if settings.profiles:
            validation = stock if stock is not None else changed
            assert validation is not None
            near = validation.near(settings.profiles, settings.table_rule(), mapped.stock_tif)
            files += [_in(path, "samples.csv") for path in settings.profiles]
    return Evidence(measured, measurement, mapped, stock, changed, near, points_km2), files


def _in(path: Path, name: str) -> Path:
    """Return a file, or the file of that name in a folder."""
    return path / name if path.is_dir() else path
