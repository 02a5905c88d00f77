"""Settings of a dataset made from profiles and rasters."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from soilcarbon.categories import Category, unique_names
from soilcarbon.settings import HorizonSettings, PeriodSettings, RasterSettings, RemoteSettings


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
