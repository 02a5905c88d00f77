"""Compare methods on the same profiles by cross-validation: on your own data, or networks pretrained without each of some regions.

    soilcarbon compare --data_dir data/mine                     all methods on one dataset, within ten times a forest's time
    soilcarbon compare --data_dir data/mine --budget full       tuned, repeated, within a hundred times (unlimited: any time)
    soilcarbon compare --data_dir data/mine --init_from model/pretrain_model/world.pth      transferred networks as well
    soilcarbon compare                                          regions of the example world
    soilcarbon compare --config configs/realdata_compare.yaml   a comparison of your own, in a YAML file
    soilcarbon compare --config ... --resume                    resume after an interruption
    soilcarbon compare --runs anhui denmark                     finished runs, each on its own test split

One dataset: folds are of spatial blocks, as wide as a forest's residuals are correlated where the dataset has none, and beside them
of places at random. Writes into results/compare/<name>/: report.html (a table, a figure, a verdict), scores.csv, predictions.csv;
folds/ and runs/ (every prediction).

Regions: for each region the network is pretrained again without any place of it; every method is then trained on the same
profiles and predicts the same ones held out, under each strategy (random, place, blocks, region, knndm). Writes into
results/compare/: report.html, report.md, figures; scores.csv, differences.csv (paired, against the strongest baseline), curves.csv,
coverage.csv, selection.csv, floor.csv; folds/ and runs/ (every prediction). Any regressor with scikit-learn's interface can take
part, in YAML:

    methods: [forest, kriging, regional, {name: svr, estimator: sklearn.svm.SVR, parameters: {C: 10}, grid: {epsilon: [0.1, 0.3]}}]

Runs: reads what `soilcarbon predict` left in results/<run>/ and writes results/skill/: table.csv, table.md, skill.png, beside mean
and forests.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from soilcarbon.categories import first_repeated
from soilcarbon.commands.arguments import command_line, ensure_example_world, from_yaml, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, sha256, write_table, write_text
from soilcarbon.io.manifest import check_files, result_set
from soilcarbon.io.names import file_name
from soilcarbon.io.resumption import begin_or_resume
from soilcarbon.settings import RasterSettings, RegionalSettings, build, find_config

if TYPE_CHECKING:
    from soilcarbon.benchmark.methods import Method
    from soilcarbon.benchmark.own_data import Design as OneDesign
    from soilcarbon.benchmark.regions import Design
    from soilcarbon.benchmark.runs import CrossValidation

_Read = tuple[list[Path | None], list[Path | None]]  # folders of datasets, and files, that a comparison depends on


class MethodSettings(BaseModel):
    """A regressor with scikit-learn's interface, by its import path; see `benchmark.baselines.read_method`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z][\w.-]*$", max_length=60)
    estimator: str
    parameters: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    inputs: Literal["covariates", "scaled", "all"] = "scaled"
    target_transform: Literal["none", "log1p"] = "log1p"


class CompareSettings(RasterSettings):
    """Settings of a comparison of the network with baselines."""

    preset = "sim_compare.yaml"
    preset_unless = ("config", "regions", "runs", "data_dir")

    data_dir: Path | None = Field(None, description="one dataset's folder, as soilcarbon prepare writes it: methods compared on it")
    init_from: Path | None = Field(None, description="one dataset: checkpoint of networks that are transferred to it, too")
    target: str | None = Field(None, description="one dataset: the sample table's column to predict [the checkpoint's, or soc]")
    use_test: bool = Field(False, description="one dataset: use the test split too, which then tests nothing any more")
    budget: Literal["quick", "full", "unlimited"] = Field(
        "quick", description="one dataset: computing time of at most 10, or 100, cross-validations of a default forest, or any"
    )

    runs: list[str] = Field([], description="instead of cross-validation: finished runs, as results/<run>, on their test split")
    regions: list[Path] = Field([], description="datasets of regions, the folder's name being the region's")
    global_data: Path | None = Field(
        None,
        description="regions: dataset the network is pretrained on, without the places of each region; one dataset: the one it "
        "was pretrained on, to whose profiles elsewhere teachers of transferred networks are fitted, too",
    )
    pretrained: Path | None = Field(None, description="checkpoint whose settings the pretraining takes")
    regional: Path | None = Field(None, description="YAML file of settings of soilcarbon finetune: the fine-tuning to be compared")
    out: Path | None = Field(None, description="folder of the results [results/compare, its <dataset>, or results/skill for runs]")
    strategies: list[Literal["random", "place", "blocks", "region", "knndm"]] = Field(
        ["random", "blocks"],
        min_length=1,
        description="cross-validation strategies; the verdict is based on the last [of one dataset place blocks]",
    )
    folds: int = Field(5, ge=2, le=50, description="folds of each strategy")
    block_size: float | None = Field(None, gt=0, le=180, description="side of blocks, degrees [the dataset's, or the variogram's]")
    land: Path | None = Field(None, description="knndm: raster that is above 0 where the map will be")
    methods: list[str | MethodSettings] = Field(
        [], description="methods compared under the last strategy; in YAML also {name, estimator, parameters, grid} [all]"
    )
    few_methods: list[str] = Field(
        ["mean", "forest_log", "forest_world_log", "pretrained", "tuned", "regional"],
        min_length=1,
        description="methods compared under the other strategies and in learning curves",
    )
    profiles: int = Field(0, ge=0, le=10**7, description="training profiles of each fold, drawn at random; 0: all not held out")
    sizes: list[int] = Field([], description="learning curves: numbers of training profiles; 0: all")
    repeats: int = Field(
        3,
        ge=1,
        le=100,
        description="draws of each number of profiles; of one dataset's folds [3, of one dataset with budget quick 1]",
    )
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, methods and bootstrap")
    resume: bool = Field(False, description="keep the runs that an interrupted comparison of the same settings has finished")

    @field_validator("methods", mode="before")
    @classmethod
    def _methods_are_names_or_settings(cls, methods: Any) -> Any:
        try:
            return [MethodSettings.model_validate(each) if isinstance(each, dict) else each for each in methods]
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    @field_validator("regions")
    @classmethod
    def _regions_have_distinct_names(cls, folders: list[Path]) -> list[Path]:
        names = [folder.name for folder in folders]
        for name in names:
            if not re.fullmatch(r"[\w.][\w.-]*", name) or name in (".", ".."):
                raise ValueError(f"{name!r} names a region and files: letters, digits, '-', '.' and '_' only")
            if names.count(name) > 1:
                raise ValueError(f"two regions are named {name!r}, by their folders")
        return folders

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.runs and self.data_dir:
            raise ValueError("give --data_dir, a dataset, or --runs, finished runs")
        if self.runs:
            return self
        self._check_lists()
        return self._of_one_dataset() if self.data_dir else self._of_regions()

    def _check_lists(self) -> None:
        for name in ("strategies", "methods", "few_methods", "sizes"):
            values = [each.name if isinstance(each, MethodSettings) else each for each in getattr(self, name)]
            if (double := first_repeated(values)) is not None:
                raise ValueError(f"{name}: {double!r} comes twice")

    def _of_one_dataset(self) -> Self:
        for name in ("regions", "pretrained", "regional", "few_methods", "profiles", "sizes"):
            if self.given(name) and getattr(self, name):
                raise ValueError(f"{name} is for a comparison in several regions; drop it, or data_dir")
        if self.global_data and not self.init_from:
            raise ValueError("global_data is for networks that are transferred: give --init_from, or drop it")
        return self

    def _of_regions(self) -> Self:
        for name in ("init_from", "target", "use_test", "budget"):
            if self.given(name):
                raise ValueError(f"{name} is for a comparison on one dataset; give --data_dir")
        for name in ("regions", "global_data", "pretrained", "regional"):
            if not getattr(self, name):
                what = type(self).model_fields[name].description
                made = " (soilcarbon train makes one)" if name == "pretrained" else ""
                raise ValueError(f"--{name} is required: {what}{made}; or give --data_dir, one dataset, or --runs")
        small = next((size for size in [*self.sizes, self.profiles] if size < 0 or 0 < size < 20), None)
        if small is not None:
            raise ValueError(f"{small} profiles are too few to train on; 0 stands for all, else 20 or more")
        if self.block_size is not None and "blocks" not in self.strategies:
            raise ValueError("block_size applies to the strategy blocks, which is not among the strategies")
        if self.profiles and "knndm" in self.strategies:
            raise ValueError("knndm matches distances of all profiles; set profiles to 0")
        return self


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(CompareSettings, __doc__, arguments, "soilcarbon compare")
    command = command_line("soilcarbon compare", arguments)
    if settings.runs:
        _compare_runs(settings)
        return
    from soilcarbon.benchmark import own_data, ranking, regions, report  # here and below: --help needs none, and they are slow

    if settings.data_dir:
        ensure_example_world(settings.data_dir)
        one = design_of_one(settings, settings.data_dir)
        read = [one.data_dir, one.global_data], [one.checkpoint, one.land]
        _cross_validate(settings, command, one, read, own_data, ranking)
        return
    assert settings.global_data and settings.regional  # checked by the settings
    ensure_example_world(settings.global_data)
    design = design_of(settings)
    if not design.pretrained.is_file():
        raise UserError(
            f"{design.pretrained}: no such checkpoint; a comparison in several regions trains it again without each. Make it with "
            f"soilcarbon train --data_dir {design.global_data}, or compare on one dataset: --data_dir {design.regions[0]}"
        )
    read = [design.global_data, *design.regions], [design.pretrained, find_config(settings.regional), design.land]
    _cross_validate(settings, command, design, read, regions, report)


# --- cross-validation -------------------------------------------------------------------------------------------------


def _cross_validate(
    settings: CompareSettings, command: str, design: "CrossValidation", read: _Read, compared: ModuleType, reported: ModuleType
) -> None:
    """Run a comparison: in a folder of its own, resumed if it was begun; `compared` and `reported` are the modules of its kind."""
    compared.read_inputs.cache_clear()
    compared.read_inputs(design)  # all that can be wrong with the input, before anything is cleared
    check_writable(design.out)
    with locked(design.out):
        plain = {name: value for name, value in settings.as_plain().items() if name not in design.may_change}
        begin_or_resume(design.out, plain | {"digest": _digest(*read)}, design.kept, settings.resume)
        check_files(design.out, reported.FILES, "compare")
        result = compared.compare(design, settings.as_plain(), command)
        with result_set(design.out, "compare") as new:
            for name, table in result.tables.items():
                write_table(new / f"{name}.csv", table)
            reported.write_report(new, result)
    print(f"{reported.as_text(result)}\n-> {design.out / 'report.html'}")


def design_of_one(settings: CompareSettings, folder: Path) -> "OneDesign":
    """Return the design of a comparison on one dataset; UserError if a method is unknown."""
    from soilcarbon.benchmark.methods import METHODS
    from soilcarbon.benchmark.own_data import Design

    own = _own_methods(settings, METHODS)
    named = tuple(each for each in settings.methods if isinstance(each, str))
    every = (key for key, each in METHODS.items() if settings.init_from or not each.needs_checkpoint)
    return Design(
        data_dir=folder,
        out=settings.out or Path("results/compare") / (file_name(folder.resolve().name) or "data"),
        methods=(*(named or every), *own),
        known={**METHODS, **own},
        checkpoint=settings.init_from,
        strategies=tuple(settings.strategies) if settings.given("strategies") else ("place", "blocks"),
        repeats=settings.repeats if settings.given("repeats") else None,
        **_alike(settings, "target", "use_test", "budget"),
    )


def design_of(settings: CompareSettings) -> "Design":
    """Return the design of a comparison in several regions; UserError if a method or a setting of the fine-tuning is unknown."""
    from soilcarbon.benchmark.network_variants import METHODS
    from soilcarbon.benchmark.regions import Design

    assert settings.global_data and settings.pretrained and settings.regional  # checked by the settings
    values = from_yaml(RegionalSettings, settings.regional)
    values |= {"data_dir": settings.global_data, "init_from": settings.pretrained, "seed": settings.seed}
    values |= {"tensorboard": False, "device": "cpu"}
    if values.get("teacher", "none") != "none":
        values["global_data"] = settings.global_data
    known = {**METHODS, **_own_methods(settings, METHODS)}
    names = [each.name if isinstance(each, MethodSettings) else each for each in settings.methods]
    return Design(
        regions=tuple(settings.regions),
        regional=build(RegionalSettings, values, str(settings.regional)),
        out=settings.out or Path("results/compare"),
        known=dict(sorted(known.items(), key=lambda pair: pair[1].kind != "baseline")),
        methods=tuple(names) or tuple(METHODS),
        strategies=tuple(settings.strategies),
        few_methods=tuple(settings.few_methods),
        sizes=tuple(settings.sizes),
        **_alike(settings, "pretrained", "profiles", "repeats"),
    )


def _alike(settings: CompareSettings, *names: str) -> dict[str, Any]:
    """Return fields of a design that are named as settings are: those of both kinds, and more."""
    same = ("global_data", "folds", "block_size", "land", "workers", "seed", *names)
    return {"nodata": settings.missing_values} | {name: getattr(settings, name) for name in same}


def _own_methods(settings: CompareSettings, taken: Collection[str]) -> "dict[str, Method]":
    """Return the regressors that the settings name by their import path; none may have the name of another method."""
    from soilcarbon.benchmark.baselines import read_method
    from soilcarbon.benchmark.methods import as_method

    found = {}
    for each in settings.methods:
        if isinstance(each, MethodSettings):
            if each.name in taken:
                raise UserError(f"methods: {each.name!r} is the name of another method")
            try:
                found[each.name] = as_method(read_method(**dict(each)))
            except ValueError as error:
                raise UserError(f"methods: {error}") from error
    return found


def _digest(folders: Iterable[Path | None], files: Iterable[Path | None]) -> str:
    """Return a checksum of what runs depend on: datasets' folders, and files."""
    paths = [path for path in files if path]
    for folder in (folder for folder in folders if folder):
        data = (path for path in folder.rglob("*") if path.suffix in (".csv", ".pkl") or path.name == "dataset.yaml")
        paths += sorted(path for path in data if path.is_file())
    digest = hashlib.sha256()
    for path in paths:
        digest.update(sha256(path).encode())
    return digest.hexdigest()


# --- finished runs ----------------------------------------------------------------------------------------------------


def _compare_runs(settings: CompareSettings) -> None:
    import pandas as pd

    from soilcarbon.benchmark.baselines import BASELINES
    from soilcarbon.benchmark.trained_runs import against_mean, as_text, change_against, read_run, score_run, with_intervals
    from soilcarbon.figures import skill_bars
    from soilcarbon.progress import progress

    folders = [Path(run) if (Path(run) / "settings.yaml").is_file() else Path("results") / run for run in settings.runs]
    runs = {folder.name: read_run(folder) for folder in folders}
    units = {name: data.target.unit or "the observations' unit" for name, (data, _) in runs.items()}
    if len(set(units.values())) > 1:
        raise UserError(f"--runs: {', '.join(f'{name} is in {unit}' for name, unit in units.items())}; compare runs of one unit")
    unit = next(iter(units.values()))
    out = settings.out or Path("results/skill")
    check_writable(out)
    purpose = "compare --runs"
    check_files(out, ("table.csv", "table.md", "skill.png", "settings.yaml"), purpose)
    names = progress(runs, "baselines", len(runs))
    table = pd.concat([score_run(name, *runs[name], settings.seed) for name in names], ignore_index=True)
    changes = [change_against(table, BASELINES[key].label, unit) for key in ("forest", "forest_log")]
    changes += against_mean(table, unit)
    with result_set(out, purpose) as new:
        write_table(new / "table.csv", table)
        lines = "".join(f"- {line}\n" for line in changes)
        write_text(new / "table.md", f"{with_intervals(table, unit).to_markdown()}\n\n{lines}")
        skill_bars(new / "skill.png", table, unit)
        settings.write(new / "settings.yaml")
    print(f"{as_text(table)}\n\n{chr(10).join(changes)}\nRMSE and MAE in {unit}; intervals, ME and a figure: {out}")
