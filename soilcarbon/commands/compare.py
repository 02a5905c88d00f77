"""Compare the network with every baseline, on the same folds, and write a report.

    soilcarbon compare                                          regions of the example world
    soilcarbon compare --config configs/realdata_compare.yaml   a comparison of your own, in a YAML file
    soilcarbon compare --config ... --resume                    go on after an interruption

For each region the network is pretrained again without any place of it; every method then learns from the same profiles
and predicts the same ones held out, in each way of holding out (random, place, blocks, region, knndm).
Writes into results/compare/: report.html, report.md, figures; table.csv (scores), differences.csv (paired, against the
strongest baseline), curves.csv, coverage.csv, selection.csv, floor.csv; folds/ and trials/ (every prediction).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import begin_or_resume, check_writable, locked, sha256, write_table
from soilcarbon.settings import Settings


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


_FREE = {"resume", "workers", "out", "sizes", "repeats"}
"""What a comparison may be resumed with another value of: it may draw more learning curves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(CompareSettings, __doc__, arguments, "soilcarbon compare")
    import pandas as pd  # here and below: --help needs none of these, and they are slow to import

    from soilcarbon.benchmark.experiment import folds_of, stage
    from soilcarbon.benchmark.page import write_report
    from soilcarbon.benchmark.results import compare
    from soilcarbon.benchmark.trials import finished, plan_trials, run_all
    from soilcarbon.network.network import load_checkpoint

    trials = plan_trials(settings)
    stage.cache_clear()
    regions = stage(settings.model_dump_json()).regions  # all that can be wrong with the input, before anything is cleared
    check_writable(settings.out)
    with locked(settings.out):
        _begin(settings)
        run_all(settings, trials)
        folds: dict[tuple[str, str], dict[str, Any]] = {}
        for name, data in regions.items():
            folds |= {(name, way): folds_of(settings, name, data, way)[1] for way in settings.ways}
        facts = load_checkpoint(settings.pretrained).specification
        how = "soilcarbon compare" + (f" --config {settings.config}" if settings.config else "")
        comparison = compare(settings, list(finished(settings, trials)), regions, folds, (facts.target, facts.unit), how)
        for each in fields(comparison):
            table = getattr(comparison, each.name)
            if isinstance(table, pd.DataFrame) and each.name != "predictions":
                write_table(settings.out / f"{each.name}.csv", table)
        write_report(settings.out, comparison)
    print((settings.out / "report.md").read_text(encoding="utf-8").split("\n## ")[0].strip())
    print(f"\n{settings.out / 'report.html'}")


def _begin(settings: CompareSettings) -> None:
    """See that what is resumed was of the same settings and data, and that nothing finished is lost."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    plain["digest"] = _digest(settings)
    begin_or_resume(settings.out, plain, ("trials", "pretrained", "folds"), settings.resume)


def _digest(settings: CompareSettings) -> str:
    """Return a checksum of all that trials are made from: datasets, checkpoint, settings, land."""
    paths = [settings.pretrained, settings.regional, *([settings.land] if settings.land else [])]
    for folder in (settings.global_data, *settings.regions):
        paths += sorted(path for path in folder.rglob("*") if path.is_file() and _is_data(path))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(sha256(path).encode())
    return digest.hexdigest()


def _is_data(path: Path) -> bool:
    return path.suffix in (".csv", ".pkl") or path.name == "dataset.yaml"
