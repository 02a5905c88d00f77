"""Definition of an analysis of drivers: targets, drivers, zones, learners."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from soilcarbon.categories import first_repeated
from soilcarbon.settings import NodataValues, RasterSettings


class Target(BaseModel):
    """Soil carbon whose drivers are analysed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=80)
    # "observed" (profiles, or a map made from them) or "model" (output of a process model or Earth-system model)
    kind: Literal["observed", "model"]
    path: Path | None = None  # GeoTIFF or NetCDF, of any grid; None: the target of the dataset's own profiles
    variable: str | None = None  # the NetCDF variable or the band's description, where there are several
    unit: str | None = None  # one of `geo.field.UNITS`, where the file does not state it; of the dataset's own profiles it is known
    nodata: NodataValues = None  # values that mean missing, if the file does not declare them: 255, or 250|255; none: none do


class Analysis(RasterSettings):
    """Settings of an analysis of drivers; the command adds the output folder."""

    yaml_only = ("targets", "drivers", "zones")

    targets: tuple[Target, ...] = Field(
        (Target(name="observations", kind="observed"),),
        min_length=1,
        description="list of {name, kind, path, variable, unit, nodata}",
    )
    data_dir: Path | None = Field(None, description="dataset of profiles and their covariates")
    target: str = Field("soc", description="the column of its sample table that is observed")
    rasters: list[Path] = Field([], description="without data_dir: covariates, GeoTIFF files, folders of them, or YAML lists")
    classes: list[str] = Field(
        [],
        description="variables that are class codes, beside those of the dataset [rasters: those with a colour table]; none: none",
    )
    support: Literal["cells", "profiles"] = Field(
        "cells", description="compare profiles averaged in the cells of the coarsest target, or profile by profile"
    )
    drivers: dict[str, tuple[str, ...]] = Field(
        {}, description="driver -> variables permuted together [the dataset's categories; variables not named keep theirs]"
    )
    zones: dict[str, dict[str, tuple[float, float]]] = Field(
        {}, description="zone -> {lon, lat or a variable: [from, to]}: where importance is also reported"
    )
    responses: list[str] = Field([], description="variables of response curves [the most important one of each driver]")
    pair: list[str] = Field([], description="two variables of a joint response [the two most important of different drivers]")
    learners: list[Literal["boosting", "forest", "network"]] = Field(
        ["boosting", "forest", "network"], min_length=1, description="learners; mismatches are those of the first"
    )
    block_size: float = Field(2.0, gt=0, le=180, description="side of blocks that are held out and subsampled whole, degrees")
    min_skill: float = Field(0.1, ge=0, lt=1, description="cross-validated R2 below which a learner's drivers are not reported")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, subsamples, learners and permutations")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules = [
            ((self.data_dir is None) == (not self.rasters), "covariates come from a dataset (data_dir) or from rasters; give one"),
            (
                self.data_dir is None and any(each.path is None for each in self.targets),
                "a target without path is that of a dataset's profiles, so it needs data_dir",
            ),
            (sum(each.path is None for each in self.targets) > 1, "one target at most may be without path: the dataset's profiles"),
            (not any(each.kind == "observed" for each in self.targets), "targets: one must be observed, the reference"),
            (len(self.pair) not in (0, 2), "pair: two variables, or none"),
        ]
        for wrong, rule in rules:
            if wrong:
                raise ValueError(rule)
        lists: dict[str, list[str]] = {
            "targets": [each.name for each in self.targets],
            "drivers": [name for names in self.drivers.values() for name in names],
            "responses": list(self.responses),
            "pair": list(self.pair),
            "learners": list(self.learners),
        }
        for what, names in lists.items():
            if double := first_repeated(names):
                raise ValueError(f"{what}: {double!r} is there twice")
        for zone, ranges in self.zones.items():
            if not ranges or any(low >= high for low, high in ranges.values()):
                raise ValueError(f"zone {zone!r}: each range needs a lower limit below its upper one, and a zone needs a range")
        return self
