"""Settings: typed, frozen declarations with default, unit and meaning, resolved from defaults, YAML and flags.

Defaults here <- a YAML file (`--config FILE`) <- flags (`--lr 3e-4`). Those of training and prediction are declared here; the
settings of any other command stand beside it, in `soilcarbon.commands`, or beside the code that takes them as they are
(`soil.settings`, `zonal.settings`, `drivers.analysis`). A YAML file may hold settings of several commands.
"""

import copy
import logging
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, unique_names
from soilcarbon.io.files import UserError, nearest, write_yaml
from soilcarbon.io.nodata import EVERY, as_texts, parse_nodata
from soilcarbon.io.ranges import is_address, shown
from soilcarbon.quantities import QUANTITIES, spelt_unit

if TYPE_CHECKING:
    from soilcarbon.io.points import TableRule

log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
PRESETS = next((folder for folder in (_HERE / "configs", _HERE.parent / "configs") if folder.is_dir()), _HERE / "configs")
"""Folder of the YAML presets: inside the installed package, or beside it in a checkout."""
S = TypeVar("S", bound="Settings")


def find_config(path: Path) -> Path:
    """Return a YAML file of settings: itself, or where there is none, the installed preset of that name (`configs/NAME.yaml`)."""
    if path.exists():
        return path
    if path.parent in (Path(), Path("configs")) and (PRESETS / path.name).is_file():
        return PRESETS / path.name
    names = ", ".join(sorted(each.stem for each in PRESETS.glob("*.yaml")))
    raise UserError(f"{path}: no such YAML file; the presets, as configs/NAME.yaml, are {names}")


class Layout(NamedTuple):
    """Paths of a dataset's files within its folder."""

    samples: Path = Path("samples.csv")
    patches: Path = Path("patches")
    stats: Path = Path("stats.csv")
    split: Path = Path("split")


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no NaN; reads as YAML and flags, writes as YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    yaml_only: ClassVar[tuple[str, ...]] = ("categories",)
    preset: ClassVar[str | None] = None
    preset_unless: ClassVar[tuple[str, ...]] = ()
    # name of an earlier version -> the setting that takes its value now, or SETTING=NAME: one of its values NAME=VALUE
    renamed: ClassVar[Mapping[str, str]] = {}

    config: Path | None = Field(None, description="YAML file of settings; flags win over it")

    def write(self, path: Path) -> None:
        """Write the resolved settings as YAML."""
        write_yaml(path, self.as_plain())

    def as_plain(self) -> dict[str, Any]:
        """Return the settings that decide a result as plain containers, numbers and text: a resumed run has the same."""
        return self.model_dump(mode="json", exclude={"config", "resume"})

    def given(self, name: str) -> bool:
        """Whether a setting was given by YAML, flag or constructor rather than left at its default."""
        return name in self.model_fields_set

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with resolved values; `given` is unchanged."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__pydantic_fields_set__.clear()
        copied.__pydantic_fields_set__.update(self.model_fields_set)
        return copied

    def with_given(self, **values: Any) -> Self:
        """Return a copy in which further values are given, and checked."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **values})


def with_defaults(cls: type[S], values: Mapping[str, Any]) -> type[S]:
    """Return the settings class with other defaults, which count as not given, as its own do."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name not in cls.model_fields:
            raise UserError(f"config.py: unknown setting {name!r}{nearest(name, list(cls.model_fields))}")
        field = copy.copy(cls.model_fields[name])
        field.default = value
        fields[name] = (field.annotation, field)
    return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)


def with_present_names(cls: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their names; those of an earlier version (`renamed`) are taken as what they are called now."""
    found = {name: value for name, value in values.items() if name not in cls.renamed}
    for name in values.keys() & cls.renamed.keys():
        present, _, key = cls.renamed[name].partition("=")
        if key:
            pairs = _texts(found.get(present, []))
            found[present] = [*(pairs if isinstance(pairs, list) else [pairs]), f"{key}={values[name]}"]
        elif present in found:
            raise UserError(f"{name} is an older name of {present}; give one of them")
        else:
            found[present] = values[name]
    return found


def build(cls: type[S], values: dict[str, Any], source: str = "settings") -> S:
    """Make settings from values; UserError names the first setting at fault, its value and the rule."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] == "missing")  # invalid values are reported before missing ones
        name = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise UserError(f"--{name} is required: {cls.model_fields[str(first['loc'][0])].description}") from error
        if first["type"] == "extra_forbidden":
            raise UserError(f"{source}: unknown setting {name!r}{nearest(name, list(cls.model_fields))}") from error
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise UserError(f"setting {name}{shown}: {rule}" if name else f"{source}: {rule}") from error


def _texts(given: Any) -> Any:
    """Return a list of YAML as texts, of a mapping NAME=VALUE."""
    pairs = [f"{name}={value}" for name, value in given.items()] if isinstance(given, Mapping) else given
    return [str(each) for each in pairs] if isinstance(pairs, list) else pairs


def _check_pairs(given: list[str]) -> list[str]:
    """Return texts NAME=VALUE; ValueError for another one."""
    if wrong := next((each for each in given if not all(each.partition("="))), None):
        raise ValueError(f"{wrong!r} is not of the form NAME=VALUE")
    return given


Texts = Annotated[list[str], BeforeValidator(_texts)]
"""Texts that may look like numbers, such as names of strata."""
PAIRS = AfterValidator(_check_pairs)
Pairs = Annotated[list[str], BeforeValidator(_texts), PAIRS]
"""Texts NAME=VALUE, or a mapping of YAML; a flag that is given several times adds to them."""


def _check_depths(limits: list[float]) -> list[float]:
    """Return depth limits, none or several that descend from 0 or below; ValueError for others."""
    if limits and (len(limits) < 2 or limits[0] < 0 or any(upper >= lower for upper, lower in pairwise(limits))):
        raise ValueError("two or more limits are needed, the upper one 0 or more, each below the one before: 0 5 15 30 60 100")
    return limits


def _check_ranges(limits: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Return pairs of a lower and an upper limit; ValueError if they are not in order."""
    if limits is not None and any(low >= high for low, high in zip(limits[::2], limits[1::2], strict=True)):
        raise ValueError("each lower limit must be below its upper limit")
    return limits


DepthLimits = Annotated[list[float], AfterValidator(_check_depths)]
"""Limits of depth intervals that lie on each other, cm."""
Interval = Annotated[tuple[float, float], AfterValidator(_check_ranges)]
Bounds = Annotated[tuple[float, float, float, float] | None, AfterValidator(_check_ranges)]
"""Two limits in x and two in y."""


class PointSettings(Settings):
    """Settings of how a table of points is read."""

    columns: Pairs = Field(
        [],
        description="columns that are not found by their names: profile_id=site year=date; none: not used; profile_id=row: no ids",
    )
    crs: str | None = Field(None, description="coordinate system of the table's coordinates, as EPSG:32633 [degrees, WGS 84]")
    below_limit: Literal["ask", "half", "zero", "drop"] = Field(
        "ask", description="what measurements such as <10 become: half of the limit, zero, or missing"
    )
    missing_words: list[str] = Field([], description="further words and codes for missing in measured columns, such as n.d. or 999")

    def table_rule(self) -> "TableRule":
        """Return the rule by which tables are read."""
        from soilcarbon.io.points import TableRule  # pandas is slow to import, and --help needs none of it

        return TableRule(
            columns=dict(each.split("=", 1) for each in self.columns),
            sites=getattr(self, "sites", None),
            crs=self.crs,
            below_limit=self.below_limit,
            missing=tuple(self.missing_words),
            depth_unit=self.stated_units.get("depth") if isinstance(self, UnitSettings) else None,
        )


SOC_FACTOR: Any = Field(
    None, gt=0, le=1, description="share of the SOC column that is carbon, for organic matter: 0.58 (van Bemmelen) or 0.5"
)
"""The setting `soc_factor` of whatever reads measured carbon."""


class UnitSettings(Settings):
    """Settings of units that a table or raster does not state."""

    quantities: ClassVar[tuple[str, ...]]  # whose units may be said
    units: Pairs

    @field_validator("units", check_fields=False)
    @classmethod
    def _units_are_known(cls, given: list[str]) -> list[str]:
        for name, unit in (each.split("=", 1) for each in given):
            if name not in cls.quantities:
                raise ValueError(f"{name!r} is none of {', '.join(cls.quantities)}")
            if spelt_unit(name, unit) is None:
                raise ValueError(f"{name}: {unit!r} is none of {', '.join(QUANTITIES[name].units)}")
        return given

    @property
    def stated_units(self) -> dict[str, str]:
        """Units that were stated, by quantity."""
        pairs = (each.split("=", 1) for each in self.units)
        return {name: str(spelt_unit(name, unit)) for name, unit in pairs}


class HorizonSettings(PointSettings, UnitSettings):
    """Settings of how a table of profiles or horizons is read."""

    quantities: ClassVar[tuple[str, ...]] = ("depth",)
    renamed = {"depth_unit": "units=depth"}

    sites: Path | None = Field(None, description="second table, with coordinates (and years) of the profiles, joined by their ids")
    units: Pairs = Field([], description="depth=cm, m, mm or in [as column names say, else cm]")
    soc_factor: float | None = SOC_FACTOR


class MeasurementSettings(HorizonSettings):
    """Settings of the measurements of horizons: SOC, bulk density and coarse fragments."""

    quantities = ("depth", "soc", "bulk_density", "stones")
    renamed = {
        **HorizonSettings.renamed,
        **{name: f"columns={name}" for name in ("soc", "bulk_density", "stones", "year")},
        **{f"{name}_unit": f"units={name}" for name in ("soc", "bulk_density", "stones")},
        **{f"{name}_sd": f"sd={name}" for name in ("soc", "bulk_density", "stones")},
    }

    units: Pairs = Field(
        [],
        description="units of depth, soc, bulk_density and stones, such as soc=% bulk_density=kg/m3 stones=mass_percent (of volume "
        "unless it says mass) [as column names say, else cm, g/kg, g/cm3, percent]",
    )
    sd: Pairs = Field(
        [],
        description="standard deviations of soc, bulk_density (measured; estimates have their function's error) and stones: a "
        "column, a number in the unit, or a share such as soc=10%",
    )

    @field_validator("sd")
    @classmethod
    def _deviations_are_of_measurements(cls, given: list[str]) -> list[str]:
        if wrong := next((each for each in given if each.split("=")[0] not in cls.quantities[1:]), None):
            raise ValueError(f"{wrong!r} is of none of {', '.join(cls.quantities[1:])}")
        return given

    @property
    def deviations(self) -> dict[str, str]:
        """Standard deviation of each quantity, as it was given."""
        return dict.fromkeys(self.quantities[1:], "0") | dict(each.split("=", 1) for each in self.sd)


def _values_of(given: Any) -> Any:
    texts = as_texts(given)
    if not isinstance(texts, list):
        return texts
    found = parse_nodata(texts)
    if set(found) - {EVERY}:
        raise ValueError(f"{given!r}: numbers, or none")
    return found.get(EVERY, ())


NodataValues = Annotated[tuple[float, ...] | None, BeforeValidator(_values_of)]
"""Values that mean missing of one file: numbers, text such as "250|255", "none" for no further ones; None: nothing is said."""


class RasterSettings(Settings):
    """Settings of whatever reads covariates from rasters."""

    nodata: list[str] = Field(
        [],
        description="values that mean missing though the rasters do not declare them: VALUE or VARIABLE=VALUE,VALUE; none: none do",
    )

    @field_validator("nodata", mode="before")
    @classmethod
    def _nodata_can_be_parsed(cls, given: Any) -> Any:
        texts = as_texts(given)
        if isinstance(texts, list):
            parse_nodata(texts)
        return texts

    @property
    def missing_values(self) -> dict[str, tuple[float, ...]]:
        """Values that mean missing by variable."""
        return parse_nodata(self.nodata)


class RemoteSettings(Settings):
    """Settings of whatever reads rasters from addresses."""

    cache: Path = Field(
        Path("data/remote"), description="folder in which the parts of remote rasters that were read are kept; it may be deleted"
    )

    def as_plain(self) -> dict[str, Any]:
        """Return the settings that decide a result, as `Settings`: without the cache, and addresses without their secrets."""
        plain = {name: value for name, value in super().as_plain().items() if name != "cache"}
        for name in plain.keys() & {"rasters", "world_rasters"}:
            plain[name] = [shown(each) if is_address(each) else each for each in plain[name]]
        return plain


class PeriodSettings(Settings):
    """Settings of whatever reads rasters by period."""

    periods: list[str] = Field(
        [],
        description="rasters that differ by period: NAME=FOLDER for each in order of time, or a folder of folders named by year "
        "(1985) or years (1985-1989)",
    )

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


class ClimateSettings(RasterSettings, UnitSettings):
    """Settings of climate zones by precipitation and temperature."""

    quantities = ("precipitation", "temperature")
    renamed = {f"{name}_unit": f"units={name}" for name in quantities}

    precipitation: str = Field("map", description="variable or column of long-term mean annual precipitation")
    temperature: str = Field("mat", description="variable or column of long-term mean annual temperature")
    units: Pairs = Field(
        [], description='units of both, such as precipitation="kg m-2 s-1" temperature=K [as the files say, else mm and degC]'
    )
    wet: float = Field(400.0, description="precipitation from which a zone is wet: mm, or the variable's unit where none is given")
    warm: float = Field(10.0, description="temperature from which a zone is warm: degC, or the variable's unit where none is given")
    band_widths: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (50.0, 1.0), description="widths of the bands of both over which zones blend, in the units of wet and warm"
    )


class RunSettings(Settings):
    """Settings shared by training and prediction: the dataset, the run's name, the folder of checkpoints."""

    data_dir: Path = Field(description="the dataset's folder, in which samples, patches, stats and split lie")
    samples: Path = Field(Path("samples.csv"), description="sample table: profile_id, lon, lat, target")
    patches: Path = Field(Path("patches"), description="folder of <variable>.pkl")
    stats: Path = Field(Path("stats.csv"), description="statistics: var_name, v_mean, v_std")
    split: Path = Field(Path("split"), description="folder of train.csv, valid.csv, test.csv: profile_id")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: the dataset's own, else the published table"
    )
    target: str = Field("soc", description="the sample table's column to predict")
    run: str = Field("GSoilCPM", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names checkpoint, logs, results")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of weights, batches, dropout and bootstrap")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto takes CUDA when present")
    model_dir: Path = Field(Path("model"), description="folder of checkpoints")
    missing: Literal["mean", "zero"] = Field(
        "mean", description="what a missing cell becomes: the variable's mean, or 0 in raw units as in the published code"
    )

    _check_categories = field_validator("categories")(unique_names)

    def with_table(self, categories: tuple[Category, ...]) -> Self:
        """Return a copy that reads the folder by a table of categories where neither the settings nor the folder name any."""
        own = self.data_dir / "dataset.yaml"
        if self.categories is None and not own.is_file():
            return self.model_copy(update={"categories": categories})
        if self.categories is None and categories != PUBLISHED_CATEGORIES:
            log.warning(
                "the categories of config.py are not used: %s names its own; `categories` in a YAML file overrule both", own
            )
        return self

    @property
    def layout(self) -> Layout:
        """Paths of the dataset's files in `data_dir`."""
        return Layout(self.samples, self.patches, self.stats, self.split)


SelectOn = Literal["rmse", "mae", "r2", "ccc", "none"]


class TrainSettings(RunSettings):
    """Settings of a training run, shared by pretraining and fine-tuning."""

    epochs: int = Field(1000, ge=1, le=10_000_000, description="passes over the training profiles, at most")
    batch_size: int = Field(32, ge=1, le=10_000_000, description="profiles per optimiser step")
    lr: float = Field(1e-3, gt=0, le=1e30, description="Adam's learning rate")
    select_on: SelectOn = Field("r2", description="validation score that chooses the best epoch; none: the last one stands")
    eval_interval: int = Field(1, ge=1, description="epochs between two evaluations")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better validation score; 0: never")
    members: int = Field(1, ge=1, le=100, description="networks trained with different seeds and averaged")
    validate_on: Literal["split", "folds"] | None = Field(
        None,
        description="the validation split chooses for all members, or each holds out its own fold of it and training, which "
        "calibrates the prediction intervals [folds of two or more members]",
    )
    target_transform: Literal["auto", "none", "log1p"] = Field(
        "auto",
        description="train on the target, on ln(1 + target), or on whichever is less skewed (auto: log1p if skewness is above 1)",
    )
    published: bool = Field(False, description="outputs as published: of the target as it is, first 0.01, not standardised")
    center: Literal["mean", "median"] = Field(
        "mean", description="what is predicted under log1p: the mean, right for totals, or the median, which errs least"
    )
    clip_inputs: float = Field(
        4.0, ge=0, le=1e30, description="standardised inputs are clipped to so many standard deviations; 0: not clipped"
    )
    resume: bool = Field(False, description="continue an interrupted run of this name")
    workers: int = Field(0, ge=0, le=1024, description="processes that train members side by side on CPUs; 0: one per core")
    tensorboard: bool = Field(True, description="write TensorBoard logs")
    log_dir: Path = Field(Path("log"), description="folder of logs, one below it per run")

    @model_validator(mode="after")
    def _patience_spans_an_evaluation(self) -> Self:
        if self.patience and self.select_on == "none":
            raise ValueError("patience waits for a better score, and select_on none has no score; set patience 0")
        if 0 < self.patience < self.eval_interval:
            raise ValueError(f"patience {self.patience} ends a run before its first evaluation; at least eval_interval is needed")
        return self

    @property
    def start(self) -> Path | None:
        """The checkpoint to start from; None: from scratch."""
        return None

    @model_validator(mode="after")
    def _every_member_has_a_fold(self) -> Self:
        if self.validate_on == "folds" and self.members == 1:
            raise ValueError("validate_on folds gives each member a fold, so it needs members 2 or more")
        return self

    @property
    def on_folds(self) -> bool:
        """Whether each member is validated on a fold of its own of the training and validation splits."""
        return self.validate_on == "folds" or (self.validate_on is None and self.members > 1)

    @property
    def checkpoint_path(self) -> Path:
        """Path of the run's checkpoint."""
        return self.model_dir / f"{self.run}.pth"

    @property
    def log(self) -> Path:
        """The folder of this run's logs."""
        return self.log_dir / self.run


class GlobalSettings(TrainSettings):
    """Settings of pretraining on the profiles of the whole world."""

    preset = "sim_global.yaml"
    preset_unless = ("config", "data_dir")

    @property
    def checkpoint_path(self) -> Path:
        """Path of the run's checkpoint: the folder of pretrained models, as published."""
        return self.model_dir / "pretrain_model" / f"{self.run}.pth"


class RegionalSettings(TrainSettings):
    """Settings of fine-tuning on the profiles of a region."""

    preset = "sim_regional.yaml"
    preset_unless = ("config", "data_dir", "run")

    run: str = Field("anhui", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names checkpoint, logs, results")
    init_from: Path | None = Field(None, description="checkpoint to start from (required; none: train from scratch)")
    epochs: int = Field(200, ge=1, description="passes over the training profiles, at most")
    lr: float = Field(3e-4, gt=0, le=1e30, description="Adam's learning rate")
    select_on: SelectOn = Field("ccc", description="validation score that chooses the best epoch; none: the last one stands")
    patience: int = Field(50, ge=0, description="stop after so many epochs without a better validation score; 0: never")
    freeze: Literal["none", "features", "all-but-head"] = Field(
        "none", description="what stays as init_from has it: branches and fusion, or all but the last layer"
    )
    max_filled: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="largest share of init_from's variables that the dataset may lack; they are taken as their means",
    )
    new_rate: float = Field(
        1.0, gt=0, le=1e6, description="times lr: learning rate of branches added to init_from for the dataset's own categories"
    )
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="the learning rate stays, or falls to nothing over the epochs along a cosine"
    )
    teacher: Literal["none", "ensemble"] = Field(
        "none",
        description="train on the profiles, or distil a teacher: trees and a Gaussian process fitted to them and to global_data",
    )
    global_data: Path | None = Field(None, description="teacher: second dataset whose training profiles it is fitted to")

    @model_validator(mode="after")
    def _freeze_needs_weights(self) -> Self:
        if self.freeze != "none" and self.init_from is None:
            raise ValueError("freeze keeps weights as they were, so it needs init_from")
        return self

    @property
    def start(self) -> Path | None:
        """The checkpoint to start from; None: from scratch."""
        return self.init_from


class PredictSettings(RunSettings):
    """Settings of prediction and evaluation with a checkpoint."""

    preset = "sim_regional.yaml"
    preset_unless = ("config", "data_dir", "run", "checkpoint")

    checkpoint: Path | None = Field(None, description="the model to read [<model_dir>/<run>.pth, or .npz]")
    on: Literal["train", "valid", "test", "all"] = Field("test", description="the profiles to predict")
    level: float = Field(0.9, gt=0, lt=1, description="nominal coverage of the prediction intervals")
    results_dir: Path | None = Field(None, description="folder of predictions, scores, figures [results/<run>]")

    @model_validator(mode="before")
    @classmethod
    def _run_from_checkpoint(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(values.get("checkpoint"), (str, Path)) and "run" not in values:
            values["run"] = Path(values["checkpoint"]).stem
        return values

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self.results_dir or Path("results") / self.run

    @property
    def checkpoint_path(self) -> Path:
        """Path of the checkpoint to read, or of the fitted model where there is no checkpoint of the run."""
        network, fitted = (self.model_dir / f"{self.run}{ending}" for ending in (".pth", ".npz"))
        return self.checkpoint or (fitted if fitted.exists() and not network.exists() else network)
