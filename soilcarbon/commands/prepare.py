"""Make a dataset from soil profiles and covariate rasters.

    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters climate.tif relief/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth 0 30 --rasters covariates/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth_method spline --depth_limits 0 5 15 30 60 100
                      --min_covered 20 --rasters covariates/ --out data/mine
    soilcarbon prepare --points wosis_202312_orgc.tsv --rasters covariates/ --split blocks --out data/world
    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters covariates/ --bounds 33.9 41.9 -4.7 5.0
                      --global_data data/world --out data/kenya
    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters local/ --world_rasters world/
                      --global_data data/world --out data/mine

Profiles need columns of longitude and latitude (degrees), soil organic carbon (g/kg) and an id; horizons also their
upper and lower depth (cm). Rasters are GeoTIFFs of any CRS and cell size whose bands are the variables. Writes into
the folder --out the dataset that `soilcarbon train` and `finetune` read, rejected.csv (profiles left out, and why), and
dataset.yaml (provenance). A region that is to be fine-tuned from a model of the world takes that model's
dataset as --global_data: it keeps its categories, statistics and held-out places. With --world_rasters the region's own
rasters are further categories, by which `soilcarbon finetune` grows the model; each is cut on its own grid.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from soilcarbon.categories import Category, unique_names
from soilcarbon.commands.arguments import read_settings, used_columns
from soilcarbon.io.files import UserError, locked
from soilcarbon.settings import HorizonSettings, PeriodSettings, RasterSettings, RemoteSettings

if TYPE_CHECKING:
    from soilcarbon.soil.prepare import Prepared


class PrepareSettings(HorizonSettings, RasterSettings, RemoteSettings, PeriodSettings):
    """Settings of a dataset made from profiles and rasters."""

    replaced = {**HorizonSettings.replaced, "target_unit": "--unit"}

    points: Path = Field(description="profiles or horizons: CSV, TSV, GeoPackage or GeoJSON")
    target: str = Field("soc", description="the column to predict; written as 'soc' into samples.csv")
    unit: str | None = Field(
        None,
        max_length=30,
        pattern=r"^[^$\x00-\x1f\x7f]+$",
        description="its unit: g/kg, %, kg/m2, t/ha, g/cm3, dimensionless, any other text [g/kg of SOC; kg/m2 of socd_0_30]",
    )
    rasters: list[Path] = Field(
        description="GeoTIFF files, or folders of them; addresses (https, s3) and STAC items, of which the part round the "
        "profiles is fetched",
        min_length=1,
    )
    world_rasters: list[Path] = Field(
        [], description="rasters of a pretrained model's variables; rasters are then the region's own, categories that it gains"
    )
    out: Path = Field(description="the dataset's folder to make")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: published table if all there, else one per raster file"
    )
    global_data: Path | None = Field(
        None, description="global dataset this region is fine-tuned from: its categories, statistics and held-out places are kept"
    )
    predict_only: bool = Field(
        False, description="places without observations, for soilcarbon predict --on all: no target, split or statistics"
    )
    bounds: tuple[float, float, float, float] | None = Field(
        None, description="keep profiles within LON_MIN LON_MAX LAT_MIN LAT_MAX, degrees"
    )
    depth: tuple[float, float] = Field((0.0, 30.0), description="depth interval horizons are brought to, cm")
    min_covered: float = Field(0.0, ge=0, description="leave out profiles with fewer centimetres of the interval observed")
    depth_method: Literal["mean", "spline", "spline_1cm"] = Field(
        "mean",
        description="horizons to an interval: mean weighted by thickness; mass-preserving spline (Bishop et al. 1999); "
        "the same read every centimetre, as R packages do",
    )
    spline_lambda: float = Field(0.1, ge=0, le=1e9, description="smoothness of the spline; 0 keeps the mass of every horizon")
    depth_limits: list[float] = Field(
        [], description="limits of further intervals, cm: 0 5 15 30 60 100 adds columns soc_0_5 to soc_60_100"
    )
    split: Literal["random", "blocks"] = Field("random", description="what is held out: single places or whole spatial blocks")
    block_size: float | None = Field(
        None,
        ge=1e-5,
        le=180,
        description="side of a block, degrees [the range of the target's variogram, or as blocks enough allow]",
    )
    valid_share: float = Field(0.1, gt=0, lt=1, description="share of the profiles that chooses the best epoch")
    test_share: float = Field(0.2, ge=0, lt=1, description="share of the profiles in the test set; 0: none, for one of your own")
    radius: int = Field(0, ge=0, le=50, description="cells cut on each side of a profile, at least (more if a category needs more)")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the split")

    @field_validator("depth", "bounds")
    @classmethod
    def _limits_in_order(cls, limits: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if limits is not None and any(low >= high for low, high in zip(limits[::2], limits[1::2], strict=True)):
            raise ValueError("each lower limit must be below its upper limit")
        return limits

    @field_validator("depth_limits")
    @classmethod
    def _limits_descend(cls, limits: list[float]) -> list[float]:
        if limits and (len(limits) < 2 or any(upper >= lower for upper, lower in pairwise(limits))):
            raise ValueError("two or more limits are needed, each below the one before: 0 5 15 30 60 100")
        return limits

    _check_categories = field_validator("categories")(unique_names)


log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(PrepareSettings, __doc__, arguments, "soilcarbon prepare")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it reports is raised as an error too
    from soilcarbon.io.points import table_file
    from soilcarbon.soil.prepare import GlobalDataset, Sources, prepare_dataset  # slow, and --help does not need it
    from soilcarbon.soil.profiles import DepthRule
    from soilcarbon.soil.split import SplitRule

    rule, points = settings.table_rule(), table_file(settings.points)
    out, written = settings.out.resolve(), ("samples.csv", "stats.csv", "rejected.csv")
    parent = settings.global_data
    if points.resolve() in [out / name for name in written] or (parent and out == parent.resolve()):
        raise UserError(f"{settings.out}: would overwrite the points or the global dataset; choose another folder for --out")
    further = list(pairwise(settings.depth_limits))
    sources = Sources(
        points=settings.points,
        target=settings.target if settings.given("target") else None,
        unit=settings.unit,
        rasters=settings.rasters,
        world_rasters=settings.world_rasters,
        periods=settings.periods,
        categories=settings.categories,
        radius=settings.radius,
        nodata=settings.missing_values,
        cache=settings.cache,
        bounds=settings.bounds,
        rule=rule,
        soc_factor=settings.soc_factor,
        depth=DepthRule(settings.depth, settings.depth_method, settings.spline_lambda, further, settings.min_covered),
    )
    split = SplitRule(
        method=settings.split if settings.given("split") else None,
        block_size=settings.block_size,
        valid_share=settings.valid_share,
        test_share=settings.test_share,
        seed=settings.seed,
    )
    with locked(files=[settings.out]):
        made = prepare_dataset(
            sources,
            settings.out,
            None if settings.predict_only else split,
            GlobalDataset(parent) if parent else None,
            settings.as_plain(),
        )
    report(settings, made)
    variables = sum(len(category.variables) for category in made.categories)
    if settings.predict_only:
        command = f"soilcarbon predict --checkpoint FILE --data_dir {settings.out} --on all --run {settings.out.name or 'new'}"
        print(f"{len(made.profiles.table)} places, {variables} variables -> {settings.out}; next: {command}")
        return
    facts = made.facts["split"]
    groups = "blocks" if facts["method"] == "blocks" else "places"
    counts = ", ".join(
        f"{name} {facts[name]} in {facts['groups'][name]} {groups}" for name in ("train", "valid", "test") if facts[name]
    )
    profiles, categories = len(made.profiles.table), len(made.categories)
    print(f"{profiles} profiles ({counts}), {variables} variables in {categories} categories -> {settings.out}")


def report(settings: PrepareSettings, made: "Prepared") -> None:
    """Log counts of profiles used and left out, missing cells, and hints."""
    from soilcarbon.soil.target import target_from_plain

    facts = made.profiles.facts
    log.info(
        "%s: %d rows (%s); %s", settings.points, facts["rows"], facts["kind"], used_columns(facts["columns"], facts["not_used"])
    )
    for note in facts["notes"]:
        log.info("%s", note)
    for title, counts in (
        ("horizons", facts.get("horizons")),
        *facts.get("further_depths", {}).items(),
        (f"left out, see {settings.out}/rejected.csv", made.profiles.counts()),
    ):
        if counts:
            log.info("%s: %s", title, ", ".join(f"{count} {what}" for what, count in counts.items()))
    if settings.bounds:
        log.info("out of bounds: %d", facts["out_of_bounds"])
    if "target" in made.facts:
        target = target_from_plain(made.facts["target"], "soc", settings.points)
        log.info("target: %s (%s)", target.title, target.unit)
    log.info("missing cells: %s", made.missing_cells())
    if "split" in made.facts:
        log.info("split: %s", made.facts["split"]["reason"])
    for hint in made.hints:
        log.info("hint: %s", hint)
