"""Every setting of every script: its default, unit and meaning, declared once.

Defaults here <- a YAML file (`--config FILE`) <- flags (`--lr 3e-4`). `python SCRIPT.py --help` prints what a
script takes, made from these declarations. A YAML file may hold settings of several scripts; each takes its own.
"""

import argparse
import difflib
import re
import sys
import types
import typing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from files import UserError, read_yaml, write_yaml

__version__ = "0.1.0"
PRESETS = Path(__file__).parent / "configs"
UNFINISHED = ".unfinished"
"""Lies in a dataset's folder while it is being written."""
SOC_MAXIMUM = 1000.0
"""g/kg: more carbon than soil is impossible."""
NODATA = -9999.0
"""The number that stands for a missing cell in patches and in rasters written here."""


class Category(BaseModel):
    """A group of variables that shares one branch of the network.

    Attributes
    ----------
    name
        Names the branch's tensors, `features_<name>.0.weight`.
    variables
        In the order of the branch's input channels.
    radius
        r; the branch sees a window of S = 2r+1 cells round the profile.
    kind
        "numeric": standardised. "classes": integer codes (lithology, land cover), one channel per class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)
    variables: tuple[str, ...] = Field(min_length=1)
    radius: int = Field(0, ge=0, le=50)
    kind: Literal["numeric", "classes"] = "numeric"

    @field_validator("name")
    @classmethod
    def _not_the_fusion_layers(cls, name: str) -> str:
        if name == "merge":
            raise ValueError("a category must not be named 'merge', the fusion layer's name")
        return name

    @property
    def size(self) -> int:
        """S = 2r+1, the window's side in cells."""
        return 2 * self.radius + 1

    @property
    def width(self) -> int:
        """C*S*S, the columns the category takes in the packed array."""
        return len(self.variables) * self.size**2


def column_slices(categories: Sequence[Category]) -> dict[str, slice]:
    """Return where each category's columns lie in the packed array (N, F), F the sum of their widths."""
    ends = [sum(category.width for category in categories[: k + 1]) for k in range(len(categories))]
    return {category.name: slice(end - category.width, end) for category, end in zip(categories, ends, strict=True)}


# The published network's inputs (Zhang et al. 2025), in the order of its channels. Nothing else names a category.
PUBLISHED_CATEGORIES = (
    Category(name="band", variables=tuple(f"band{k}" for k in range(1, 8))),
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="climate", variables=tuple(f"bio{k:02d}" for k in range(1, 20))),
    Category(name="vege", variables=("evi_mean", "evi_min", "evi_max")),
    Category(name="bedrock", variables=("bedrock",)),
)


class Settings(BaseModel):
    """What all scripts share: how settings are declared, frozen, read and written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    yaml_only: ClassVar[tuple[str, ...]] = ("categories",)
    preset: ClassVar[str | None] = None
    preset_unless: ClassVar[tuple[str, ...]] = ()

    config: Path | None = Field(None, description="YAML file of settings; flags win over it")

    def write(self, path: Path) -> None:
        """Write the resolved settings as YAML."""
        write_yaml(path, self.as_plain())

    def as_plain(self) -> dict[str, Any]:
        """Return the settings as plain containers, numbers and text."""
        return self.model_dump(mode="json", exclude={"config"})

    def given(self, name: str) -> bool:
        """Whether a setting was given by YAML or flag rather than left at its default."""
        return name in self.model_fields_set


S = TypeVar("S", bound=Settings)


def unique_names(categories: tuple[Category, ...] | None) -> tuple[Category, ...] | None:
    """Return the categories if there are any and no name comes twice; else ValueError, for pydantic."""
    if categories is not None:
        if not categories:
            raise ValueError("at least one category is needed")
        for names in ([c.name for c in categories], [v for c in categories for v in c.variables]):
            double = next((name for name in names if names.count(name) > 1), None)
            if double:
                raise ValueError(f"{double!r} is named twice")
    return categories


class RunSettings(Settings):
    """What training and prediction share: the dataset, the run's name, where results go."""

    data_dir: Path = Field(description="the dataset's folder; the next four lie in it")
    samples: Path = Field(Path("samples.csv"), description="sample table: profile_id, lon, lat, target")
    patches: Path = Field(Path("patches"), description="folder of <variable>.pkl")
    stats: Path = Field(Path("stats.csv"), description="statistics: var_name, v_mean, v_std")
    split: Path = Field(Path("split"), description="folder of train.csv, valid.csv, test.csv: profile_id")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: the dataset's own, else the published table"
    )
    target: str = Field("soc", description="the sample table's column to learn")
    run: str = Field("GSoilCPM", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names checkpoint, logs, results")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of weights, batches, dropout and bootstrap")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto takes CUDA when present")
    model_dir: Path = Field(Path("model"), description="folder of checkpoints")
    log_dir: Path = Field(Path("log"), description="folder of logs, one below it per run")
    results_dir: Path | None = Field(None, description="folder of predictions, scores, figures [results/<run>]")
    missing: Literal["mean", "zero"] = Field(
        "mean", description="what a missing cell becomes: the variable's mean, or 0 in raw units as in the published code"
    )

    _check_categories = field_validator("categories")(unique_names)

    @property
    def results(self) -> Path:
        """The folder of this run's results."""
        return self.results_dir or Path("results") / self.run


SelectOn = Literal["rmse", "mae", "r2", "ccc", "none"]


class TrainSettings(RunSettings):
    """One training run; pretraining and fine-tuning differ only in defaults."""

    init_from: Path | None = Field(None, description="checkpoint to start from")
    epochs: int = Field(1000, ge=1, le=10_000_000, description="passes over the training profiles, at most")
    batch_size: int = Field(32, ge=1, le=10_000_000, description="profiles per optimiser step")
    lr: float = Field(1e-3, gt=0, le=1e30, description="Adam's learning rate")
    loss: Literal["mse", "huber"] = Field("mse", description="squared error, or Huber's with delta 1, of the transformed target")
    freeze: Literal["none", "features", "all-but-head"] = Field(
        "none", description="what stays as init_from has it: branches and fusion, or all but the last layer"
    )
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="the learning rate stays, or falls to nothing over the epochs along a cosine"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="the learning rate of each layer group is so many times that of the one behind it"
    )
    l2_sp: float = Field(0.0, ge=0, description="pull of the weights back to where they started, times half their squared distance")
    select_on: SelectOn = Field("r2", description="validation score that chooses the best epoch; none: the last one stands")
    eval_interval: int = Field(1, ge=1, description="epochs between two evaluations")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better validation score; 0: never")
    members: int = Field(1, ge=1, le=100, description="networks trained with different seeds and averaged")
    target_transform: Literal["none", "log1p"] = Field("none", description="learn the target, or ln(1 + target)")
    center: Literal["mean", "median"] = Field(
        "mean", description="what is predicted under log1p: the mean, right for totals, or the median, which errs least"
    )
    validate_on: Literal["split", "folds"] = Field(
        "split", description="the validation split chooses for all members, or each holds out its own fold of it and training"
    )
    clip_inputs: float = Field(
        4.0, ge=0, description="standardised inputs are held within so many standard deviations; 0: not held"
    )
    resume: bool = Field(False, description="continue an interrupted run of this name")
    tensorboard: bool = Field(True, description="write TensorBoard logs")

    @model_validator(mode="after")
    def _freeze_needs_weights(self) -> Self:
        if self.freeze != "none" and self.init_from is None:
            raise ValueError("freeze keeps weights as they were, so it needs init_from")
        return self

    @model_validator(mode="after")
    def _patience_spans_an_evaluation(self) -> Self:
        if self.patience and self.select_on == "none":
            raise ValueError("patience waits for a better score, and select_on none has no score; set patience 0")
        if 0 < self.patience < self.eval_interval:
            raise ValueError(f"patience {self.patience} ends a run before its first evaluation; at least eval_interval is needed")
        return self

    @model_validator(mode="after")
    def _every_member_has_a_fold(self) -> Self:
        if self.validate_on == "folds" and self.members == 1:
            raise ValueError("validate_on folds gives each member a fold, so it needs members 2 or more")
        return self

    @property
    def checkpoint_path(self) -> Path:
        """Where the run's checkpoint goes."""
        return self.model_dir / f"{self.run}.pth"

    @property
    def log(self) -> Path:
        """The folder of this run's logs."""
        return self.log_dir / self.run


class GlobalSettings(TrainSettings):
    """Pretraining on the profiles of the whole world."""

    preset = "sim_global.yaml"
    preset_unless = ("config", "data_dir")

    @property
    def checkpoint_path(self) -> Path:
        """Where the run's checkpoint goes: apart from the regional ones, where the published file lies too."""
        return self.model_dir / "pretrain_model" / f"{self.run}.pth"


class RegionalSettings(TrainSettings):
    """Fine-tuning on the profiles of a region."""

    preset = "sim_regional.yaml"
    preset_unless = ("config", "data_dir", "run")

    run: str = Field("anhui", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names checkpoint, logs, results")
    init_from: Path | None = Field(None, description="checkpoint to start from (required; none: train from scratch)")
    epochs: int = Field(200, ge=1, description="passes over the training profiles, at most")
    lr: float = Field(3e-4, gt=0, description="Adam's learning rate")
    select_on: SelectOn = Field("ccc", description="validation score that chooses the best epoch; none: the last one stands")
    patience: int = Field(50, ge=0, description="stop after so many epochs without a better validation score; 0: never")
    teacher: Literal["none", "ensemble"] = Field(
        "none", description="learn from the profiles, or from trees and a Gaussian process fitted to them and to global_data's"
    )
    global_data: Path | None = Field(None, description="teacher: dataset whose training profiles it learns from too")


class PredictSettings(RunSettings):
    """Prediction and evaluation with one checkpoint."""

    preset = "sim_regional.yaml"
    preset_unless = ("config", "data_dir", "run", "checkpoint")

    checkpoint: Path | None = Field(None, description="the model to read [<model_dir>/<run>.pth]")
    on: Literal["train", "valid", "test", "all"] = Field("test", description="the profiles to predict")
    level: float = Field(0.9, gt=0, lt=1, description="share of places whose true value an interval is to hold")

    @model_validator(mode="before")
    @classmethod
    def _run_from_checkpoint(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(values.get("checkpoint"), (str, Path)) and "run" not in values:
            values["run"] = Path(values["checkpoint"]).stem
        return values

    @property
    def checkpoint_path(self) -> Path:
        """The model to read."""
        return self.checkpoint or self.model_dir / f"{self.run}.pth"


class MapSettings(Settings):
    """From a checkpoint and rasters to a wall-to-wall map."""

    preset = "sim_map.yaml"
    preset_unless = ("config", "checkpoint", "rasters")

    checkpoint: Path = Field(description="the model to map with")
    rasters: list[Path] = Field(description="GeoTIFF files, folders of them, or YAML lists of both", min_length=1)
    out: Path | None = Field(None, description="the map to write [results/<checkpoint's name>/<target>.tif]")
    like: Path | None = Field(None, description="raster whose grid the map takes [the finest of those used]")
    crs: str | None = Field(None, description="the map's own CRS instead, such as EPSG:3035")
    resolution: float | None = Field(None, gt=0, description="the map's own cell size, in the unit of its CRS")
    bounds: tuple[float, float, float, float] | None = Field(None, description="map X_MIN X_MAX Y_MIN Y_MAX, in the map's CRS")
    aoi: Path | None = Field(None, description="vector file of the area of interest; cells outside are nodata")
    mask: Path | None = Field(None, description="raster of one band, such as land; cells where it is 0 or missing are nodata")
    zones: Path | None = Field(None, description="vector file of zones to give means and totals for")
    zone_name: str | None = Field(None, description="its column that names the zones [one called name, id, zone or code]")
    periods: list[str] = Field(
        [], description="NAME=FOLDER of rasters, one per period in order of time: a map each and the change from first to last"
    )
    resampling: Literal["bilinear", "nearest"] = Field(
        "bilinear", description="how numeric variables on another grid are brought to the map's; classes always take the nearest"
    )
    max_missing: float = Field(
        0.25, ge=0, lt=1, description="a cell where a larger share of the variables is missing is nodata; below, they are filled"
    )
    level: float = Field(0.9, gt=0, lt=1, description="share of cells whose true value an interval is to hold")
    against: Path | None = Field(None, description="raster of the target, such as an older map, to score this one against")
    stats: Path | None = Field(None, description="statistics (var_name, v_mean, v_std) for the published file, which has none")
    missing: Literal["mean", "zero"] = Field("mean", description="what a missing cell becomes for the published file")
    applicability: bool = Field(
        True, description="bands of dissimilarity and of the area of applicability, where the model has one"
    )
    tile: int = Field(512, ge=16, le=8192, description="side of the tiles the map is computed in, cells; memory grows with it")
    workers: int = Field(0, ge=0, le=1024, description="processes on this machine; 0: one per core")
    scheduler: str | None = Field(None, description="address of a Dask scheduler whose workers compute instead, tcp://HOST:8786")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto takes CUDA when present")
    resume: bool = Field(False, description="continue an interrupted map of the same settings")

    @field_validator("bounds")
    @classmethod
    def _area_is_not_empty(cls, limits: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if limits is not None and any(low >= high for low, high in zip(limits[::2], limits[1::2], strict=True)):
            raise ValueError("each lower limit must be below its upper limit")
        return limits

    @field_validator("periods")
    @classmethod
    def _periods_are_named(cls, periods: list[str]) -> list[str]:
        names = [period.partition("=")[0] for period in periods]
        for period, name in zip(periods, names, strict=True):
            if not re.fullmatch(r"[\w.-]+=.+", period):
                raise ValueError(f"{period!r} is not of the form NAME=FOLDER, the name of letters, digits, '-', '.' and '_'")
            if names.count(name) > 1 or name == "change":
                raise ValueError(f"period {name!r} is named twice" if name != "change" else "a period must not be named 'change'")
        if len(periods) == 1:
            raise ValueError("one period alone has no change; give two or more, or none")
        return periods

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.like is not None and self.crs is not None:
            raise ValueError("the grid is that of a raster (like) or its own (crs, resolution); give one")
        if self.against is not None and self.periods:
            raise ValueError("against scores one map, and periods make several; give one of the two")
        return self


class PrepareSettings(Settings):
    """From profiles and rasters to a dataset's folder."""

    points: Path = Field(description="profiles or horizons: CSV, TSV, GeoPackage or GeoJSON")
    target: str = Field("soc", description="the column to learn; written as 'soc' into samples.csv")
    rasters: list[Path] = Field(description="GeoTIFF files, or folders of them", min_length=1)
    out: Path = Field(description="the dataset's folder to make")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: published table if all there, else one per raster file"
    )
    global_data: Path | None = Field(
        None, description="global dataset this region is fine-tuned from: its categories, statistics and held-out places are kept"
    )
    predict_only: bool = Field(
        False, description="places without observations, for pred.py --on all: no target, split or statistics"
    )
    own_stats: bool = Field(False, description="compute statistics from this region although global_data has some")
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
    block_size: float = Field(0.5, gt=0, le=180, description="side of a block, degrees")
    valid_share: float = Field(0.1, gt=0, lt=1, description="share of the profiles that chooses the best epoch")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the profiles kept for the final score")
    radius: int = Field(0, ge=0, le=50, description="cells cut on each side of a profile, at least (more if a category asks)")
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


class SimulateSettings(Settings):
    """The example world."""

    out: Path = Field(Path("data/sim"), description="folder to make the world in")
    profiles: int = Field(6000, ge=100, le=10_000_000, description="profiles of the global dataset (106167: the paper's size)")
    region_profiles: int = Field(300, ge=30, le=1_000_000, description="profiles of each regional dataset")
    cell: float = Field(0.5, ge=0.05, le=2, description="cell of the global rasters, degrees")
    region_cell: float = Field(0.05, ge=0.005, le=0.5, description="cell of the regional rasters, degrees")
    radius: int = Field(1, ge=0, le=20, description="cells cut on each side of a profile")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the whole world")


class SkillSettings(Settings):
    """One table of the skill of finished runs."""

    runs: list[str] = Field(description="runs that pred.py has evaluated on their test split", min_length=1)
    results_dir: Path = Field(Path("results"), description="folder that holds <run>/ of each")
    out: Path = Field(Path("results/skill"), description="folder of the table and its figure")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of forests and bootstrap")


class CompareSettings(Settings):
    """The network against every baseline, on the same folds."""

    preset = "sim_compare.yaml"
    preset_unless = ("config", "regions")

    regions: list[Path] = Field(description="datasets of regions, the folder's name being the region's", min_length=1)
    global_data: Path = Field(description="dataset the network is pretrained on, again for each region, without any place of it")
    pretrained: Path = Field(description="checkpoint that says how: its settings are taken")
    regional: Path = Field(description="YAML of train_regional.py's settings: the network to be compared")
    out: Path = Field(Path("results/compare"), description="folder of the report and of what it is made from")
    ways: list[Literal["random", "place", "blocks", "region", "knndm"]] = Field(
        ["random", "blocks"], min_length=1, description="how profiles are held out, the last being what the answer rests on"
    )
    folds: int = Field(5, ge=2, le=50, description="folds of each way")
    block_size: float | None = Field(None, gt=0, le=180, description="side of blocks, degrees [the dataset's, or the variogram's]")
    land: Path | None = Field(None, description="knndm: raster that is above 0 where the map will be")
    methods: list[str] = Field([], description="what is compared in the last way [everything]")
    few_methods: list[str] = Field(
        ["mean", "forest", "forest_log", "forest_world_log", "quantile_forest", "tuned", "regional"],
        min_length=1,
        description="what is compared in the other ways",
    )
    profiles: int = Field(
        0, ge=0, le=10**7, description="profiles to learn from in each fold, drawn at random; 0: all that are not held out"
    )
    sizes: list[int] = Field([], description="learning curves: numbers of profiles to learn from; 0: all")
    repeats: int = Field(3, ge=1, le=100, description="draws of each number of profiles")
    curve_methods: list[str] = Field(
        ["forest_log", "forest_world_log", "pretrained", "tuned", "regional"], description="what is compared in learning curves"
    )
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, methods and bootstrap")
    resume: bool = Field(False, description="keep the trials that an interrupted comparison of the same settings has finished")

    @field_validator("regions")
    @classmethod
    def _regions_are_told_apart(cls, folders: list[Path]) -> list[Path]:
        names = [folder.name for folder in folders]
        for name in names:
            if not re.fullmatch(r"[\w.][\w.-]*", name) or name in (".", ".."):
                raise ValueError(f"{name!r} names a region and files: letters, digits, '-', '.' and '_' only")
            if names.count(name) > 1:
                raise ValueError(f"two regions are named {name!r}, by their folders")
        return folders

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in ("ways", "methods", "few_methods", "sizes", "curve_methods"):
            values = getattr(self, name)
            double = next((each for each in values if values.count(each) > 1), None)
            if double is not None:
                raise ValueError(f"{name}: {double!r} comes twice")
        small = next((size for size in [*self.sizes, self.profiles] if size < 0 or 0 < size < 20), None)
        if small is not None:
            raise ValueError(f"{small} profiles are too few to learn from; 0 stands for all, else 20 or more")
        if self.block_size is not None and "blocks" not in self.ways:
            raise ValueError("block_size is of the way blocks, which is not among the ways")
        if self.profiles and "knndm" in self.ways:
            raise ValueError("knndm matches distances of all profiles, so it goes with profiles 0")
        return self


class ZonedSettings(Settings):
    """Forests by climate zone, one target after the other."""

    samples: Path = Field(description="table of profile_id, lon, lat, year, targets and covariates; or a dataset's folder")
    targets: list[str] = Field(
        ["socd_0_20", "socd_0_100"],
        min_length=1,
        description="columns to learn, each by itself; profiles without one are left out of it",
    )
    unit: str = Field("kg/m2", description="the targets' unit")
    covariates: list[str] = Field(
        [], description="columns and variables to learn from [all that are numbers, but for targets and year]"
    )
    rasters: list[Path] = Field([], description="GeoTIFFs or folders of them whose variables are added as columns")
    periodic: Path | None = Field(
        None,
        description="folder of a folder of GeoTIFFs per year (1985) or span (1985-1989); a profile takes its own period's mean",
    )
    first_year: int = Field(1985, ge=1000, le=9999, description="first year of the first period")
    period_years: int = Field(5, ge=1, le=1000, description="years of a period")
    year: str = Field("year", description="the column of sampling years; profiles without a year are left out")
    precipitation: str = Field("map", description="the column of long-term mean annual precipitation")
    temperature: str = Field("mat", description="the column of long-term mean annual temperature")
    wet: float = Field(400.0, description="precipitation from which a zone is wet, in its column's unit (mm)")
    warm: float = Field(10.0, description="temperature from which a zone is warm, in its column's unit (degrees C)")
    wet_band: float = Field(50.0, ge=0, description="width of the band over which blended predictions pass from wet to dry")
    warm_band: float = Field(1.0, ge=0, description="width of the band over which blended predictions pass from warm to cool")
    zone_names: list[str] = Field(
        ["humid", "semi-humid", "semi-arid", "arid"],
        min_length=4,
        max_length=4,
        description="names of wet and warm, wet and cool, dry and warm, dry and cool; which the paper calls which is unverified",
    )
    boundary: Literal["hard", "blended"] = Field("hard", description="what the saved model does at a boundary; scores tell of both")
    fewest: int = Field(50, ge=10, description="profiles below which a zone is served by the forest of all")
    correlation: float = Field(0.95, gt=0, le=1, description="|Pearson r| above which one of two covariates is dropped")
    best: int = Field(10, ge=1, le=14, description="covariates of the highest rank of which every subset is tried, 2^best - 1")
    candidates: int = Field(20, ge=1, le=10_000, description="settings of the forest that are tried, drawn at random")
    folds: int = Field(5, ge=2, le=50, description="folds held out for the scores")
    inner_folds: int = Field(5, ge=2, le=50, description="folds that choose covariates and settings, of the profiles not held out")
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks that no fold parts, degrees")
    trees: int = Field(300, ge=1, le=100_000, description="trees of a forest")
    search_trees: int = Field(50, ge=1, le=100_000, description="trees of a forest that is only tried")
    run: str = Field("zoned", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names models and results")
    model_dir: Path = Field(Path("model"), description="folder of models: <run>_<target>.skops, and .yaml for people")
    results_dir: Path | None = Field(None, description="folder of scores and importances [results/<run>/]")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, forests and bootstrap")
    resume: bool = Field(False, description="keep the folds that an interrupted run of the same settings has finished")

    @field_validator("targets", "covariates", "zone_names")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{double!r} comes twice")
        return names

    @field_validator("targets")
    @classmethod
    def _targets_name_files(cls, names: list[str]) -> list[str]:
        wrong = next((name for name in names if not re.fullmatch(r"\w[\w.-]*", name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} names files too: letters, digits, '-', '.' and '_' only")
        return names

    @property
    def results(self) -> Path:
        """The folder of this run's results."""
        return self.results_dir or Path("results") / self.run


class Target(BaseModel):
    """Soil carbon whose drivers are looked for.

    Attributes
    ----------
    name
        What the report calls it.
    kind
        "observed" (profiles, or a map made from them) or "model" (what a process model or Earth-system model gives).
    path
        GeoTIFF or NetCDF, of any grid; None: the target of the dataset's own profiles.
    variable
        The NetCDF variable or the band's description, where there are several.
    unit
        One of `fields.UNITS`, where the file does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=80)
    kind: Literal["observed", "model"]
    path: Path | None = None
    variable: str | None = None
    unit: str | None = None


class DriverSettings(Settings):
    """What controls soil carbon, in observations and in models."""

    preset = "sim_drivers.yaml"
    preset_unless = ("config", "data_dir", "rasters")
    yaml_only = ("targets", "drivers", "zones")

    targets: tuple[Target, ...] = Field(
        (Target(name="observations", kind="observed"),), min_length=1, description="list of {name, kind, path, variable, unit}"
    )
    data_dir: Path | None = Field(None, description="dataset of profiles and their covariates")
    target: str = Field("soc", description="the column of its sample table that is observed")
    rasters: list[Path] = Field([], description="without data_dir: covariates, GeoTIFF files, folders of them, or YAML lists")
    classes: list[str] = Field([], description="rasters: variables that are class codes")
    support: Literal["cells", "profiles"] = Field(
        "cells", description="compare where: profiles averaged in the cells of the coarsest target, or profile by profile"
    )
    drivers: dict[str, tuple[str, ...]] = Field(
        {}, description="driver -> variables permuted together [the dataset's categories; variables not named keep theirs]"
    )
    zones: dict[str, dict[str, tuple[float, float]]] = Field(
        {}, description="zone -> {lon, lat or a variable: [from, to]}: where importance is also told of"
    )
    responses: list[str] = Field([], description="variables to draw response curves of [the foremost one of each driver]")
    pair: list[str] = Field([], description="two variables whose joint response is drawn [the two foremost of different drivers]")
    learners: list[Literal["boosting", "forest", "network"]] = Field(
        ["boosting", "forest", "network"], min_length=1, description="what learns; mismatches rest on the first"
    )
    folds: int = Field(5, ge=2, le=50, description="folds of whole blocks that each learner is cross-validated on first")
    block_size: float = Field(2.0, gt=0, le=180, description="side of blocks that are held out and resampled whole, degrees")
    min_skill: float = Field(0.1, ge=0, lt=1, description="cross-validated R2 below which a learner's drivers are not told of")
    bootstraps: int = Field(100, ge=10, le=10_000, description="refits of each learner on random halves of the blocks; even")
    level: float = Field(0.95, gt=0.5, lt=1, description="of intervals; 1 - level is also the risk of naming any mismatch wrongly")
    cells: int = Field(30_000, ge=200, le=10**7, description="rasters: cells drawn, at most")
    out: Path = Field(Path("results/drivers"), description="folder of the report and of what it is made from")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, halves, learners and permutations")
    resume: bool = Field(False, description="keep the refits that an interrupted run of the same settings has finished")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [target.name for target in self.targets]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two targets are named {double!r}")
        if (self.data_dir is None) == (not self.rasters):
            raise ValueError("covariates come from a dataset (data_dir) or from rasters; give one of the two")
        if self.data_dir is None and any(target.path is None for target in self.targets):
            raise ValueError("a target without path is that of a dataset's profiles, so it needs data_dir")
        if sum(target.path is None for target in self.targets) > 1:
            raise ValueError("one target at most may be without path: the dataset's profiles")
        if not any(target.kind == "observed" for target in self.targets):
            raise ValueError("targets: one must be observed, what the others are held against")
        listed = [name for names in self.drivers.values() for name in names]
        for what, values in (("drivers", listed), ("responses", self.responses), ("pair", self.pair), ("learners", self.learners)):
            double = next((name for name in values if list(values).count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{what}: {double!r} comes twice")
        if len(self.pair) not in (0, 2):
            raise ValueError("pair: two variables, or none")
        if self.bootstraps % 2:
            raise ValueError("refits come in pairs, one on each half of the blocks: bootstraps must be even")
        for zone, ranges in self.zones.items():
            if not ranges or any(low >= high for low, high in ranges.values()):
                raise ValueError(f"zone {zone!r}: each range needs a lower limit below its upper one, and a zone needs a range")
        return self


_ALL = (
    ZonedSettings,
    GlobalSettings,
    RegionalSettings,
    PredictSettings,
    MapSettings,
    PrepareSettings,
    SimulateSettings,
    SkillSettings,
    CompareSettings,
    DriverSettings,
)


# --- YAML and command line --------------------------------------------------------------------------------------


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ", did you mean 'x'?" for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see python {self.prog} --help)")


def _flag(annotation: Any) -> dict[str, Any]:
    """Return argparse's keywords for a field's type; pydantic checks the values."""
    options = [a for a in typing.get_args(annotation) if a is not type(None)]
    if isinstance(annotation, types.UnionType) and len(options) == 1:
        return _flag(options[0])
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is list:
        return {"nargs": "+", "metavar": _flag(typing.get_args(annotation)[0])["metavar"]}
    if typing.get_origin(annotation) is tuple:
        return {"nargs": len(options), "metavar": "NUMBER"}
    if typing.get_origin(annotation) is Literal:
        return {"metavar": "|".join(options)}
    return {"metavar": annotation.__name__.upper()}


def _parser(cls: type[Settings], script: str, purpose: str) -> _Parser:
    parser = _Parser(prog=script, description=purpose, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in cls.model_fields.items():
        if name in cls.yaml_only:
            continue
        shown = "" if field.is_required() or field.default in (None, []) else f" [{field.default}]"
        words = (field.description or "").replace("%", "%%") + (" (required)" if field.is_required() else shown)
        parser.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=words, **_flag(field.annotation))
    return parser


def from_yaml(cls: type[Settings], path: Path) -> dict[str, Any]:
    """Return what a YAML file says of a script's settings; UserError for a name that no script knows."""
    values = read_yaml(path)
    known = sorted({name for kind in _ALL for name in kind.model_fields} - {"config"})
    for name in values:
        if name not in known:
            raise UserError(f"{path}: unknown setting {name!r}{nearest(str(name), known)}")
    return {name: value for name, value in values.items() if name in cls.model_fields}


def build(cls: type[S], values: dict[str, Any], source: str = "settings") -> S:
    """Make settings from values, with a plain error for what does not fit.

    Raises
    ------
    UserError
        Naming the first setting at fault, its value and the rule.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] == "missing")  # what is wrong before what is lacking
        name = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise UserError(f"--{name} is required: {cls.model_fields[str(first['loc'][0])].description}") from error
        if first["type"] == "extra_forbidden":
            raise UserError(f"{source}: unknown setting {name!r}{nearest(name, list(cls.model_fields))}") from error
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise UserError(f"setting {name}{shown}: {rule}" if name else f"{source}: {rule}") from error


def read_settings(cls: type[S], purpose: str | None, arguments: Sequence[str] | None = None) -> S:
    """Resolve a script's settings from defaults, YAML file and command line.

    Parameters
    ----------
    cls
        The script's settings.
    purpose
        Shown by `--help`: the script's docstring.
    arguments
        The command line without the script's name; default `sys.argv[1:]`.

    Raises
    ------
    UserError
        For an unknown or ill-typed setting, or a YAML file that cannot be read.
    """
    parser = _parser(cls, Path(sys.argv[0]).name, purpose or "")
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [f"--{name}" for name in cls.model_fields if name not in cls.yaml_only]
        raise UserError(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)} (see --help)")
    flags_given: dict[str, Any] = vars(parsed)
    path = flags_given.get("config")
    if path is None and cls.preset and not any(name in flags_given for name in cls.preset_unless):
        path = PRESETS / cls.preset
    in_file = from_yaml(cls, Path(path)) if path is not None else {}
    for name, value in flags_given.items():
        if value == "none" and type(None) in typing.get_args(cls.model_fields[name].annotation):
            flags_given[name] = None
    return build(cls, in_file | flags_given, "command line")
