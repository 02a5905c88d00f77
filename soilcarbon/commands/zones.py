r"""Train and evaluate random forests of soil carbon density by climate zone, and one for all zones.

    soilcarbon zones --samples densities.csv --rasters climate/ terrain.tif --periods landsat/ \
                     --precipitation bio12 --temperature bio01
    soilcarbon zones --samples data/mine --targets soc --precipitation bio12 --temperature bio01
    soilcarbon zones --samples densities.csv --rasters covariates/ --zone ecoregion      zones of a given map
    soilcarbon zones --samples ... --network       cross-validate this project's network on the same folds
    soilcarbon zones --samples ... --resume        continue an interrupted run

After Dong, Wang and Su (2024, Earth Syst. Sci. Data Discuss., essd-2024-588). For each target, cross-validation holds out folds of
whole blocks, each with about its share of zones and decades. Covariates (every subset of the ten best) and hyperparameters are
selected within the training profiles, for each zone and for all together. Writes into results/<run>/: scores.csv and .png,
differences.csv (zoned against unzoned, paired), importances.csv, predictions.csv, trace/ (all candidates), left_out.csv; and into
model/ a model of all profiles for each target, for soilcarbon map.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError
from soilcarbon.settings import ClimateSettings, PointSettings, RemoteSettings

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from soilcarbon.zonal.forest import ZonedForest
    from soilcarbon.zonal.space_time import SpaceTime

log = logging.getLogger(__name__)


class ZonedSettings(PointSettings, ClimateSettings, RemoteSettings):
    """Settings of random forests by climate zone."""

    replaced = {**ClimateSettings.replaced, "periodic": "--periods", "one_zone": "--zone none"}

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
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
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


_FREE = ("resume", "workers", "model_dir")
"""Settings with another value of which a run may be resumed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ZonedSettings, __doc__, arguments, "soilcarbon zones")
    from soilcarbon.parallel import worker_pool  # here and below: --help needs none of these, and they are slow to import
    from soilcarbon.zonal.space_time import Sources, read_space_time
    from soilcarbon.zonal.train import Run, train_zoned

    settings = settings.model_copy(update={"unit": _unit(settings)})
    names = {each.name for each in fields(Sources)} - {"climate", "rule", "nodata"}
    given = {name: getattr(settings, name) for name in names}
    rule, nodata = settings.table_rule(), settings.missing_values
    data = read_space_time(Sources(climate=_climate(settings), rule=rule, nodata=nodata, **given))
    for reason, count in data.left_out["reason"].value_counts().items():
        log.info("left out: %d profiles, %s", count, reason)
    run = Run(
        name=settings.run,
        results=settings.results,
        models=settings.model_dir,
        blended=settings.boundary == "blended",
        settings=settings.as_plain(),
        **{name: getattr(settings, name) for name in ("unit", "folds", "block_size", "seed", "network")},
    )
    facts = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    with nullcontext() if settings.workers == 1 else worker_pool(settings.workers) as pool:
        train_zoned(run, data, new_forest(settings, data, pool), settings.targets, facts, settings.resume)
    print(f"{settings.results}; models: {settings.model_dir}/{settings.run}_*.npz")


def _unit(settings: ZonedSettings) -> str:
    """Return the unit of the targets; UserError if it is not known, or they have several."""
    from soilcarbon.soil.dataset import dataset_target
    from soilcarbon.soil.target import target_of

    units: dict[str, str] = {}
    for name in settings.targets:
        recorded = dataset_target(settings.samples, name).unit if settings.samples.is_dir() else ""
        found = recorded or target_of(name, settings.unit, settings.samples).unit
        if recorded and settings.unit is not None and (stated := target_of(name, settings.unit, "").unit) != recorded:
            raise UserError(f"{settings.samples}: {name} is in {recorded} (dataset.yaml), and --unit says {stated}; drop it")
        units[name] = found
    if len(set(units.values())) > 1:
        each = ", ".join(f"{name} in {unit}" for name, unit in units.items())
        raise UserError(f"{settings.samples}: {each}; train targets of one unit at a time")
    return next(iter(units.values()))


def _climate(settings: ZonedSettings) -> dict[str, str]:
    """Return setting -> column that defines the zones."""
    if settings.zone is None:
        return {}
    if settings.zone != "climate":
        return {"zone": settings.zone}
    return {"precipitation": settings.precipitation, "temperature": settings.temperature}


def new_forest(settings: ZonedSettings, data: "SpaceTime", pool: "Executor | None") -> "ZonedForest":
    """Return the zoned forest that settings describe, not fitted; its bands are those of blended predictions."""
    from soilcarbon.zonal.climate_zones import OneZone, Zones, climate_variables, given_zones, log_zones, zones_of
    from soilcarbon.zonal.forest import SelectedForest, ZonedForest

    zones: Zones
    if settings.zone is None:
        zones = OneZone()
    elif settings.zone == "climate":
        where, variables = str(settings.samples), climate_variables(settings, data.units)
        zones = zones_of(variables, [data.table[each.name].to_numpy() for each in variables], where, tuple(settings.zone_names))
        climate = (data.table[each.name].to_numpy() for each in variables)
        log_zones(zones.names, zones.labels(*climate), "profiles", zones.thresholds)
    else:
        zones = given_zones(settings.zone, data.table[settings.zone].to_numpy())
    forest = SelectedForest(
        covariates=tuple(map(data.variables.index, data.covariates)),
        year=data.variables.index(settings.year) if settings.year else None,
        pool=pool,
        **{name: getattr(settings, name) for name in ("best", "inner_folds", "candidates", "search_trees", "trees")},
    )
    return ZonedForest(zones, tuple(map(data.variables.index, _climate(settings).values())), forest)
