"""Find what controls soil carbon in observations and in models, and where models disagree, and write a report.

    soilcarbon drivers                                          the example world and its process model
    soilcarbon drivers --config configs/realdata_drivers.yaml   an analysis of your own, in a YAML file
    soilcarbon drivers --config ... --resume                    go on after an interruption

Targets (profiles, maps, output of models as GeoTIFF or NetCDF) are brought to the same places; each learner is
cross-validated on whole blocks, and one without skill is refused; the others are refitted on random halves of the blocks.
Writes into results/drivers/: report.html, figures; mismatch.json, mismatch.csv (every difference), importance.csv,
responses.csv, joint.csv, shapes.csv, agreement.csv, ensemble.csv, skill.csv, places.csv; parts/ (what --resume keeps).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import begin_or_resume, check_writable, locked
from soilcarbon.settings import Settings

if TYPE_CHECKING:
    from soilcarbon.drivers.support import Support


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
        One of `fields.UNITS`, where the file does not say; of the dataset's own profiles g/kg if it is not given.
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
    classes: list[str] = Field([], description="variables that are class codes, beside those of the dataset's categories")
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
    bootstraps: int = Field(
        100, ge=10, le=10_000, description="refits of each learner on random halves of the blocks; even, as they come in pairs"
    )
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


_FREE = {"resume", "workers", "out", "bootstraps", "level"}
"""What an analysis may be resumed with another value of: more refits may be drawn."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(DriverSettings, __doc__, arguments, "soilcarbon drivers")
    from soilcarbon.drivers.facts import gather  # here and below: --help needs none of these, and they are slow to import
    from soilcarbon.drivers.report import write_report
    from soilcarbon.drivers.studies import screen
    from soilcarbon.drivers.subsampling import EDITION, refits, stacked
    from soilcarbon.drivers.support import make_support
    from soilcarbon.drivers.tables import answer
    from soilcarbon.parallel import run_tasks

    support = make_support(settings)
    check_writable(settings.out)
    parts = settings.out / "parts"
    with locked(settings.out):
        _begin(settings, support, EDITION)
        screened = screen(support, settings, parts)
        count = settings.bootstraps
        tasks = [refits(parts, screened.study, learner, count, told) for learner, told in screened.able.items()]
        run_tasks([task for each in tasks[::-1] for task in each], settings.workers, "refits")
        found = {learner: stacked(parts, learner, count) for learner in screened.able}
        how = "soilcarbon drivers" + (f" --config {settings.config}" if settings.config else "")
        drivers = gather(support, settings, screened, found, how)
        write_report(settings.out, drivers)
    print("\n".join(f"{lead} {rest}" for lead, rest in answer(drivers)))
    print(f"\n{settings.out / 'report.html'}")


def _begin(settings: DriverSettings, support: "Support", edition: int) -> None:
    """See that what is resumed was of the same settings and data, and that nothing finished is lost."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    digest = hashlib.sha256()
    for array in (support.x, support.y, support.lon, support.lat):
        digest.update(array.tobytes())
    plain["digest"] = digest.hexdigest()
    plain["edition of refits"] = edition
    begin_or_resume(settings.out, plain, ("parts",), settings.resume)
