"""Fit a model to your own data: learners are cross-validated in space, and the chosen one is fitted to all profiles.

    soilcarbon fit --data_dir data/mine                        the choice among mean, ridge, forest, boosting, kriging, networks
    soilcarbon fit --data_dir data/mine --model forest         one learner, cross-validated beside the mean
    soilcarbon fit --data_dir data/mine --candidates mean ridge forest boosting     a choice within seconds
    soilcarbon fit --data_dir data/mine --init_from model/pretrain_model/world.pth --global_data data/world     networks transferred
    soilcarbon map --checkpoint model/mine.npz --rasters covariates/ --out results/mine/soc.tif     the map

Folds are of whole spatial blocks: the dataset's, else as wide as residuals are correlated, else of places. The choice is the
stack, or without networks regression kriging, unless another learner's mean absolute error is surely lower; where neither is
better than the mean, the simplest within one standard error, and 1 %, of the lowest. Writes model/<run>.npz, which `predict`
and `map` read, with calibrated intervals, area of applicability and errors for totals; beside it .yaml of the facts, with the
table of the cross-validation; and results/<run>/cross_validation.csv and held_out.csv. The test split is not used unless you
say so.

With --init_from the learners network, taught and stack start from that network instead of from scratch, and gain a branch for each
category that it has not. Scores are too good where it was pretrained on these profiles: --global_data tells how many that are.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from soilcarbon.categories import Category, unique_names
from soilcarbon.commands.arguments import ensure_example_world, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, write_table
from soilcarbon.io.manifest import check_files, result_set
from soilcarbon.io.names import file_name
from soilcarbon.io.resumption import check_record
from soilcarbon.settings import Settings

LearnerName = Literal["mean", "ridge", "forest", "boosting", "regression-kriging", "ridge-kriging", "network", "taught", "stack"]
_COLUMNS = ("mae", "rmse", "r2", "ccc")


class FitSettings(Settings):
    """Settings of a fit."""

    data_dir: Path = Field(description="the dataset's folder, as soilcarbon prepare writes it")
    model: Literal["best", LearnerName] = Field("best", description="the learner, or best: the choice among candidates")
    candidates: list[LearnerName] = Field([*get_args(LearnerName)], min_length=1, description="learners to choose among")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: the dataset's own"
    )
    target: str = Field("soc", description="the sample table's column to predict [the checkpoint's, or soc]")
    init_from: Path | None = Field(None, description="checkpoint that networks start from, instead of from scratch")
    global_data: Path | None = Field(
        None, description="with init_from: the dataset it was pretrained on, to whose profiles elsewhere teachers are fitted, too"
    )
    center: Literal["mean", "median"] = Field(
        "median", description="what is predicted where logarithms are learnt: the median, which errs least, or the mean"
    )
    folds: int = Field(5, ge=2, le=50, description="folds of the cross-validation")
    use_test: bool = Field(False, description="fit to the test split too; its scores by predict then are no test any more")
    run: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][\w.-]*$", description="name of the model and its results [the dataset folder's]"
    )
    model_dir: Path = Field(Path("model"), description="folder of models")
    workers: int = Field(0, ge=0, le=1024, description="processes of the cross-validation; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds and learners")

    _check_categories = field_validator("categories")(unique_names)

    @model_validator(mode="after")
    def _global_data_needs_a_network(self) -> Self:
        if self.global_data and not self.init_from:
            raise ValueError("global_data is for networks that are transferred: give --init_from, or drop it")
        return self

    @property
    def name(self) -> str:
        """Name of the model and its results."""
        name = self.run or file_name(self.data_dir.resolve().name)
        return name if re.match(r"[A-Za-z0-9]", name) else f"m{name}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(FitSettings, __doc__, arguments, "soilcarbon fit")
    import numpy as np  # here and below: --help needs none of these, and they are slow to import

    from soilcarbon.regression.archive import RECORDED, kind_of
    from soilcarbon.regression.fit import check_columns, fit_model, with_facts
    from soilcarbon.regression.learners import Task
    from soilcarbon.regression.persistence import save_model
    from soilcarbon.regression.transfer import read_transfer
    from soilcarbon.soil.dataset import SPLITS, check_variables, splits_of

    ensure_example_world(settings.data_dir)
    path, results = settings.model_dir / f"{settings.name}.npz", Path("results") / settings.name
    if path.exists() and kind_of(path) != "fitted":
        raise UserError(f"{path}: was not made by soilcarbon fit and would be lost; move it, or give --run another name")
    check_record(path.with_suffix(".yaml"), RECORDED)
    tables = "cross_validation.csv", "held_out.csv"
    check_files(results, tables, "fit")
    check_writable(settings.model_dir, results)
    splits = splits_of(settings.data_dir, SPLITS if settings.use_test else SPLITS[:2])
    with locked(results, files=[path]):
        target = settings.target if settings.given("target") else None
        read = settings.init_from, settings.data_dir, settings.categories, splits, target, settings.global_data
        data, transfer = read_transfer(*read)
        rows = np.concatenate([data.split[name] for name in splits])
        check_variables(data.x[rows], data.categories, refuse="nothing")
        check_columns(data.x[rows], data.categories)
        task = Task(
            data.categories,
            transfer.network.specification.target if transfer else settings.target,
            data.block_size,
            center=settings.center,
            seed=settings.seed,
            meaning=data.target,
            transfer=transfer,
        )
        found = fit_model(data, rows, task, settings.model, settings.candidates, settings.folds, settings.workers)
        counts = {name: len(data.split[name]) for name in splits}
        model = with_facts(found.model, settings.data_dir, counts, {**settings.as_plain(), "run": settings.name})
        with result_set(results, "fit") as new:
            for name, table in zip(tables, (found.selection.table, found.held_out), strict=True):
                write_table(new / name, table)
        save_model(model, path)
    table = found.selection.table.set_index("model")
    ends = {name: zip(table[name], table[f"{name}_se"], strict=True) for name in _COLUMNS}
    shown = {name: [f"{value:.3g} ({se:.2g})" for value, se in pairs] for name, pairs in ends.items()}
    print(
        f"{len(rows)} profiles, {model.record.folds['strategy']} in {int(table['folds'].iloc[0])} folds; standard error in brackets"
    )
    print(table.assign(**shown)[list(_COLUMNS)].rename_axis(None).rename(columns=str.upper).to_string())
    print(found.selection.reason)
    left = "; the test split was not used" if "test" in splits_of(settings.data_dir) and not settings.use_test else ""
    print(f"-> {path}{left}; {results / 'cross_validation.csv'}")
