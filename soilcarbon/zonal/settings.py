"""Settings of forests by climate zone: the space-time table of profiles, zones, selection, cross-validation, folders."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.categories import first_repeated
from soilcarbon.settings import ClimateSettings, PointSettings, RemoteSettings


class ZonedSettings(PointSettings, ClimateSettings, RemoteSettings):
    """Settings of random forests by climate zone."""

    renamed = {**ClimateSettings.renamed, "periodic": "periods"}

    samples: Path = Field(description="table of profile_id, lon, lat, year, targets and covariates; or a dataset folder")
    targets: list[str] = Field(
        ["socd_0_20", "socd_0_100"],
        min_length=1,
        description="columns to predict, each by its own model; profiles without a value are left out of it",
    )
    unit: str | None = Field(
        None, max_length=30, description="unit of the targets [that of the dataset folder; kg/m2 of socd_0_20, g/kg of soc]"
    )
    covariates: list[str] = Field([], description="columns and variables to predict from [all of rasters and the dataset folder]")
    rasters: list[Path] = Field([], description="GeoTIFFs, folders of them, or addresses, whose variables are added as columns")
    periods: Path | None = Field(
        None,
        description="folder of folders of GeoTIFFs by year (1985) or span (1985-1989); a profile takes the mean of its own period",
    )
    classes: list[str] = Field(
        [],
        description="variables that are class codes, never interpolated in maps [those whose file has a colour table or category "
        "names]; none: none are",
    )
    first_year: int = Field(1985, ge=1000, le=9999, description="first year of the first period")
    period_years: int = Field(5, ge=1, le=1000, description="years of a period")
    year: str | None = Field("year", description="column of sampling years; profiles without one are left out; none: not used")
    zone: str | None = Field(
        "climate",
        description="climate: zones by precipitation and temperature; else the column or raster variable of zone codes, whole "
        "numbers; none: one forest of all profiles, for space-time maps anywhere",
    )
    zone_names: list[str] = Field(
        ["humid", "semi-humid", "semi-arid", "arid"],
        min_length=4,
        max_length=4,
        description="names of wet and warm, wet and cool, dry and warm, dry and cool; unverified against the paper",
    )
    boundary: Literal["hard", "blended"] = Field("hard", description="the saved model at a boundary; both are scored")
    best: int = Field(10, ge=1, le=14, description="number of highest-ranked covariates of which every subset is tried, 2^best - 1")
    candidates: int = Field(20, ge=1, le=10_000, description="sets of hyperparameters that are tried, drawn at random")
    folds: int = Field(5, ge=2, le=50, description="folds of cross-validation")
    inner_folds: int = Field(5, ge=2, le=50, description="folds for selection and hyperparameters, within the training profiles")
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks that no fold splits, degrees")
    trees: int = Field(300, ge=1, le=100_000, description="trees of a final forest")
    network: bool = Field(False, description="also cross-validate this project's network: for all zones, and fine-tuned in each")
    search_trees: int = Field(50, ge=1, le=100_000, description="trees of a forest in the search")
    run: str = Field("zoned", pattern=r"^[A-Za-z0-9][\w.-]*$", description="name of the run, of its models and results")
    model_dir: Path = Field(Path("model"), description="folder of models: <run>_<target>.npz, and .yaml of the metadata")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, forests and bootstrap")
    resume: bool = Field(False, description="keep the finished folds of an interrupted run of the same settings")

    @field_validator("targets", "covariates", "zone_names")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        if (double := first_repeated(names)) is not None:
            raise ValueError(f"{double!r} comes twice")
        if unseen := next((name for name in names if not name.isprintable()), None):
            raise ValueError(f"{unseen!r} cannot be printed")
        return names

    @model_validator(mode="after")
    def _periods_need_years(self) -> Self:
        if self.periods is not None and self.year is None:
            raise ValueError("rasters by period are matched by sampling year, so they need year")
        return self

    @field_validator("targets")
    @classmethod
    def _targets_name_files(cls, names: list[str]) -> list[str]:
        wrong = next((name for name in names if not re.fullmatch(r"\w[\w.-]*", name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is part of file names: letters, digits, '-', '.' and '_' only")
        return names

    @property
    def results(self) -> Path:
        """The folder of this run's results."""
        return Path("results") / self.run

    @property
    def climate(self) -> dict[str, str]:
        """Setting -> column that defines the zones."""
        if self.zone is None:
            return {}
        if self.zone != "climate":
            return {"zone": self.zone}
        return {"precipitation": self.precipitation, "temperature": self.temperature}
