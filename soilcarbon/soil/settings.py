"""Settings of what is made of tables of soil: a dataset, stocks, changes."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from soilcarbon.categories import Category, unique_names
from soilcarbon.settings import (
    Bounds,
    DepthLimits,
    HorizonSettings,
    Interval,
    MeasurementSettings,
    PeriodSettings,
    PointSettings,
    RasterSettings,
    RemoteSettings,
    Texts,
)


class PrepareSettings(HorizonSettings, RasterSettings, RemoteSettings, PeriodSettings):
    """Settings of a dataset made from profiles and rasters."""

    renamed = {**HorizonSettings.renamed, "target_unit": "unit"}

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
    bounds: Bounds = Field(None, description="keep profiles within LON_MIN LON_MAX LAT_MIN LAT_MAX, degrees")
    depth: Interval = Field((0.0, 30.0), description="depth interval horizons are brought to, cm")
    min_covered: float = Field(0.0, ge=0, description="leave out profiles with fewer centimetres of the interval observed")
    depth_method: Literal["mean", "spline", "spline_1cm"] = Field(
        "mean",
        description="horizons to an interval: mean weighted by thickness; mass-preserving spline (Bishop et al. 1999); "
        "the same read every centimetre, as R packages do",
    )
    spline_lambda: float = Field(0.1, ge=0, le=1e9, description="smoothness of the spline; 0 keeps the mass of every horizon")
    depth_limits: DepthLimits = Field(
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

    _check_categories = field_validator("categories")(unique_names)


class StockSettings(MeasurementSettings):
    """Settings of SOC stocks by fixed depth and equivalent soil mass."""

    renamed = {**MeasurementSettings.renamed, "errors": "draws"}

    horizons: Path = Field(description="layers or horizons: CSV, TSV, GeoPackage or GeoJSON, with place, top, bottom (cm) and SOC")
    bulk_density_table: Path | None = Field(
        None, description="second table, with bulk density (and stones) of layers of other limits [the first has them]"
    )
    place: list[str] = Field([], description="columns that name a sampled place together, such as Plot Point [that of ids]")
    visit: str | None = Field(None, description="column of visits, any text [the year, if there is a column of years]")
    method: list[Literal["fixed_depth", "esm_linear", "esm_spline"]] = Field(
        ["fixed_depth", "esm_spline"], min_length=1, description="fixed_depth, esm_linear (uniform layers), esm_spline (Hyman's)"
    )
    depths: DepthLimits = Field([], description="0 and the lower limits, cm [0 30, or those of the table of reference masses]")
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

    @field_validator("reference_mass")
    @classmethod
    def _masses_are_positive(cls, masses: list[float]) -> list[float]:
        if any(mass <= 0 for mass in masses):
            raise ValueError("masses of successive layers, t/ha, each above 0")
        return masses

    @model_validator(mode="after")
    def _one_reference(self) -> "StockSettings":
        if self.depths and self.depths[0] != 0:
            raise ValueError("depths: 0, the surface, and then lower limits")
        if self.reference_mass and (self.reference_table or self.reference_by):
            raise ValueError("reference_mass is the same for all cores; give it, or reference_table, or reference_by")
        if 0 < self.draws < 100:
            raise ValueError(f"draws: {self.draws} are too few; 100 or more, or 0 for propagation to first order")
        if len(set(self.method)) < len(self.method):
            raise ValueError(f"method: {' '.join(self.method)}: each once")
        return self


class ChangeSettings(PointSettings):
    """Settings of a change between two visits, and of the planning of a survey."""

    table: Path | None = Field(None, description="table of values of places at visits, such as results/stocks/stocks.csv")
    value: str | None = Field(None, description="column of values [stock_t_ha]")
    place: list[str] = Field([], description="columns that name a sampled place together; rows of one are averaged [that of ids]")
    visit: str | None = Field(None, description="column of visits, any text [visit, or the year]")
    visits: Texts = Field([], description="first and second visit, or spans of years: 1985-1994 2010-2019 [the only two]")
    each: list[str] | None = Field(None, description="columns whose values are analysed each for itself [method layer, of stocks]")
    by: list[str] = Field([], description="columns of groups, such as treatment: the change of each, and of all")
    control: str = Field("", description="group of --by against which the changes of the others are compared")
    design: Literal["auto", "paired", "unpaired"] = Field(
        "auto",
        description="pairs of places, or independent samples; auto: pairs, if half of the places of the smaller visit have one",
    )
    within: float | None = Field(None, gt=0, le=10_000, description="pair places by distance, up to so many metres [by their name]")
    stratum: str | None = Field(None, description="column of the strata of the sampling design [that of soilcarbon design]")
    sizes: Texts = Field([], description="sizes of the strata in any unit, NAME=SIZE [column weight, or number of places]")
    weight: str | None = Field(None, description="column of sampling weights, or of inclusion probabilities, where they differ")
    block: str | None = Field(None, description="column of primary units: blocks, fields, clusters of places sampled together")
    years: float | None = Field(None, gt=0, description="years between the visits [of the column of years]")
    level: float = Field(0.9, gt=0, lt=1, description="confidence of the two-sided interval")
    one_sided: float = Field(0.9, ge=0.5, lt=1, description="confidence of the one-sided limits, least and most")
    power: float = Field(0.8, gt=0, lt=1, description="probability with which a survey is to find a true change")
    sides: Literal["two", "one"] = Field("two", description="planned test: two-sided with --level, one-sided with --one_sided")
    detect: float | None = Field(None, description="change to detect: the number of places at each visit that find it")
    sample_sizes: list[int] = Field([], description="numbers of places at each visit: the change that so many detect")
    sd: Texts = Field([], description="planning without a table: sd between places at a visit, SD or NAME=SD of each stratum")
    correlation: float | None = Field(
        None, ge=-1, le=1, description="of values of one place at both visits: the same places are visited"
    )
    sd_difference: Texts = Field([], description="instead of sd and correlation: sd of the differences of pairs")
    allocation: Literal["proportional", "neyman"] = Field("neyman", description="of places to strata: by size, or by size x sd")
    population: Texts = Field(
        [], description="places there are, NUMBER or NAME=NUMBER of each stratum, where few: finite population correction"
    )
    out: Path = Field(Path("results/change"), description="folder of the tables")

    @field_validator("sd", "sd_difference", "sizes", "population")
    @classmethod
    def _numbers_are_named(cls, given: list[str]) -> list[str]:
        from soilcarbon.io.values import named_numbers

        named_numbers(given, "setting")
        return given

    @model_validator(mode="after")
    def _something_to_do(self) -> "ChangeSettings":
        planned = bool(self.sd or self.sd_difference)
        if self.table is None and not planned:
            raise ValueError("give --table, or --sd (or --sd_difference) to plan a survey")
        if self.table is not None and (planned or self.correlation is not None):
            raise ValueError("the table has its own standard deviations; give --table, or --sd and what goes with it")
        if planned and self.detect is None and not self.sample_sizes:
            raise ValueError("to plan, give --detect CHANGE or --sample_sizes NUMBERS")
        if self.visits and len(self.visits) != 2:
            raise ValueError(f"visits: {' '.join(self.visits)}: the first and the second")
        if self.control and not self.by:
            raise ValueError("control is one of the groups of --by; give the column")
        if self.sizes and self.table is not None and self.stratum is None:
            raise ValueError("sizes are of strata; --stratum names their column")
        return self

    @property
    def confidence(self) -> float:
        """Of the planned test."""
        return self.level if self.sides == "two" else self.one_sided
