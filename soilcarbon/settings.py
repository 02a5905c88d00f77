"""Every setting of the pipeline's scripts, its default, unit and meaning, declared once; those of further scripts: `studysettings`.

Defaults here <- a YAML file (`--config FILE`) <- flags (`--lr 3e-4`). `python SCRIPT.py --help` prints what a
script takes, made from these declarations. A YAML file may hold settings of several scripts; each takes its own.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from soilcarbon.io.files import write_yaml

__version__ = "0.1.0"
PRESETS = Path(__file__).parents[1] / "configs"
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
        [],
        description="NAME=FOLDER of rasters, one per period in order of time, or a folder of folders named by year (1985) or years "
        "(1985-1989): a map each and the change from first to last",
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
        names = [period.partition("=")[0] for period in periods if "=" in period]
        for period, name in zip((period for period in periods if "=" in period), names, strict=True):
            if not re.fullmatch(r"[\w.-]+=.+", period):
                raise ValueError(f"{period!r} is not of the form NAME=FOLDER, the name of letters, digits, '-', '.' and '_'")
            if names.count(name) > 1 or name == "change":
                raise ValueError(f"period {name!r} is named twice" if name != "change" else "a period must not be named 'change'")
        if len(periods) == len(names) == 1:
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
