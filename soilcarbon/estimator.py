"""Scikit-learn estimator of the network, for its cross-validation, inspection and pipelines.

In: covariates (N, F), raw units, missing = NaN, and a target (N,). Out: predictions (n,) in the target's unit, and a checkpoint
that `soilcarbon map` and `soilcarbon predict` read.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from soilcarbon.categories import Category, packed_width
from soilcarbon.io.files import sha256
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.growth import MOST_FILLED, grown_categories, plan_growth
from soilcarbon.network.network import Growth, SoilCarbonNet, choose_device, predict
from soilcarbon.network.specification import difference
from soilcarbon.settings import RegionalSettings, build
from soilcarbon.soil.dataset import Dataset
from soilcarbon.soil.target import target_from_plain
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.groups import group_folds
from soilcarbon.training.distillation import Teacher, distil, plain_arrays
from soilcarbon.training.ensemble import Members, assemble, member_seed, prepare_members, train_members
from soilcarbon.training.run import compute_statistics, fit_uncertainty, follow_checkpoint, grow_to, new_specification
from soilcarbon.training.uncertainty import check_level, fit_applicability

MOST_TAUGHT = 5000
"""Profiles up to which a teacher is worth its time; of more the network learns as much from the profiles themselves."""
MEMBERS = 5
_TRANSFERRED = {"epochs": 16, "batch_size": 128, "lr": 1e-3, "lr_schedule": "cosine", "select_on": "none", "patience": 0}
_TAUGHT = _TRANSFERRED | {"epochs": 8, "batch_size": 64, "lr": 3e-3}
_DIRECT = {"epochs": 200, "batch_size": 32, "lr": 1e-3, "lr_schedule": "constant", "select_on": "rmse", "patience": 30}
_TUNED = _DIRECT | {"lr": 3e-4}
"""Schedules with a teacher from a checkpoint and from scratch, then without one from scratch and from a checkpoint. From scratch
networks come nearer to the teacher without dropout and by more and longer steps: the root mean squared difference of held-out
predictions was 0.14 of their standard deviation, as with twice the epochs, and 0.19 with dropout, batches of 128 and lr 0.001."""


class SoilCarbonRegressor(RegressorMixin, BaseEstimator):
    """Regressor: multi-branch network on packed covariates, trained from scratch or fine-tuned from a checkpoint.

    By default five networks are averaged, each of which holds out a fifth of the profiles. Up to 5,000 profiles they learn from a
    teacher (`training.distillation`: trees and a Gaussian process), which keeps them accurate on small tables: first such
    networks calibrate the intervals, then others, which predict, are trained on all profiles, since a fifth of a small table is
    missed. That takes some twenty seconds of one core for 200 profiles. Of skewed targets, which are learnt as logarithms, it
    predicts medians, whose absolute errors are the smallest; `center="mean"` predicts means, whose R2 is higher by up to 0.05 and
    whose absolute errors may be a fifth larger.

    Parameters
    ----------
    categories
        Categories of the columns of x; default: the checkpoint's, or one numeric category of all of them, which have the names of a
        DataFrame's columns, else x0, x1 ... With `init_from`: the checkpoint's, of which variables may lack, then those that it
        gains, see `network.growth`.
    init_from
        Checkpoint, or network, to fine-tune; a network is copied.
    max_filled, new_rate
        As these settings of `soilcarbon finetune`, where the network grows.
    teacher
        "ensemble": distil one; "none": learn from the profiles; "auto": distil up to 5,000 profiles.
    members
        Networks; None: five, or as many as the checkpoint has. With two or more each holds out a fold of its own.
    epochs, batch_size, lr, select_on, patience
        As the settings of `soilcarbon train` and `finetune`; None: those that suit the teacher.
    freeze, target_transform, center, published, clip_inputs, missing, device
        As these settings.
    target
        Name of the target, for the checkpoint. "soc" is in g/kg; the unit of others is unknown.
    intervals
        Calibrate prediction intervals. False saves half of the time where a teacher is distilled from scratch.
    validation_share
        Of a single member: share of the profiles, drawn by `random_state`, that chooses the best epoch and is not trained on.
    random_state
        Seed of everything random.

    Attributes
    ----------
    network_
        The trained `SoilCarbonNet`.
    n_features_in_, feature_names_in_
        Number of columns, and their names where x was a DataFrame.
    applicability_
        `ApplicabilityArea` of the training profiles; None where no distance is defined.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> random = np.random.default_rng(0)
    >>> x = pd.DataFrame({"elevation": random.uniform(0, 2000, 200), "rain": random.uniform(300, 1500, 200)})
    >>> y = 5 + 0.02 * x["rain"] + 0.002 * x["elevation"]
    >>> model = SoilCarbonRegressor(teacher="none", epochs=20).fit(x, y)
    >>> bool(model.score(x, y) > 0.8)
    True
    >>> predicted, interval = model.predict(x, return_interval=0.9)
    >>> predicted.shape, interval.shape
    ((200,), (200, 2))
    >>> model.network_.specification.categories[0].variables
    ('elevation', 'rain')
    """

    def __init__(
        self,
        categories: Sequence[Category] | None = None,
        *,
        init_from: Path | str | SoilCarbonNet | None = None,
        max_filled: float = MOST_FILLED,
        new_rate: float = 1.0,
        teacher: Literal["auto", "none", "ensemble"] = "auto",
        members: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        freeze: Literal["none", "features", "all-but-head"] = "none",
        select_on: Literal["rmse", "mae", "r2", "ccc", "none"] | None = None,
        patience: int | None = None,
        target_transform: Literal["auto", "none", "log1p"] = "auto",
        center: Literal["mean", "median"] = "median",
        published: bool = False,
        clip_inputs: float = 4.0,
        missing: Literal["mean", "zero"] = "mean",
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        target: str = "soc",
        intervals: bool = True,
        validation_share: float = 0.15,
        random_state: int = 314,
    ) -> None:
        self.categories = categories
        self.init_from = init_from
        self.max_filled = max_filled
        self.new_rate = new_rate
        self.teacher = teacher
        self.members = members
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.freeze = freeze
        self.select_on = select_on
        self.patience = patience
        self.target_transform = target_transform
        self.center = center
        self.published = published
        self.clip_inputs = clip_inputs
        self.missing = missing
        self.device = device
        self.target = target
        self.intervals = intervals
        self.validation_share = validation_share
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    def fit(self, x: Any, y: Any, groups: np.ndarray | None = None, world: Dataset | None = None) -> Self:
        """Train on covariates (N, F) and targets (N,).

        Parameters
        ----------
        x, y
            Raw units.
        groups
            (N,) the block of each profile, which is held out whole. None: single profiles are.
        world
            Profiles elsewhere, in the same columns (`training.run.read_world`), to which a teacher is also fitted.

        Raises
        ------
        ValueError
            If x and y do not fit each other or there are fewer than three profiles.
        UserError
            If a setting is not valid, the checkpoint cannot be read, or the loss is no longer finite.
        """
        x, y = validate_data(self, x, y, dtype=np.float32, ensure_all_finite="allow-nan", y_numeric=True, ensure_min_samples=3)
        start = None
        if isinstance(self.init_from, SoilCarbonNet):
            start = copy.deepcopy(self.init_from)
        elif self.init_from:
            start = load_checkpoint(self.init_from)
        elif self.freeze != "none":
            raise ValueError("freeze keeps weights as they were, so it needs init_from")
        if world is not None and start is None:
            raise ValueError("world is for the teacher of a network that is transferred, so it needs init_from")
        groups = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        settings = self._settings(start, len(np.unique(groups)), len(y))
        growth = self._growth(start) if start else Growth()
        categories = grown_categories(start.specification.categories, growth) if start else self._categories()
        self._check_columns(categories)
        if self.target_transform == "log1p" and y.min() <= -1:
            raise ValueError("target_transform log1p needs targets above -1")
        split = self._split(len(y), groups)
        meaning = target_from_plain(None, self.target, "target")
        data = Dataset(pd.DataFrame(index=range(len(y))), x, y.astype(np.float64), split, categories, groups=groups, target=meaning)
        pretrained = start is not None
        if start is None:
            numbers = compute_statistics(x[split["train"]], categories)
            # A column that is constant or missing in a fold has no information there, and does no harm.
            statistics = {
                name: (mean if np.isfinite(mean) else 0.0, std if std > 0 else 1.0) for name, (mean, std) in numbers.items()
            }
            with torch.random.fork_rng(devices=[]):  # these weights are drawn again by the members' seeds
                start = SoilCarbonNet(new_specification(settings, data, statistics))
        else:
            if growth.added or growth.filled:
                start = grow_to(start, growth, data, settings)
            settings = follow_checkpoint(settings, start, data)
        teacher = distil if settings.teacher != "none" else None
        members = prepare_members(start, data, settings, pretrained, choose_device(self.device), world, teacher)
        noisy = teacher is None or pretrained
        members = replace(members, schedule=replace(members.schedule, freeze=self.freeze, dropout=noisy))
        if noisy or members.data.folds is None:
            self.network_ = _with_uncertainty(members, settings, data)
        else:
            self.network_ = _on_all_profiles(members, settings, data, self.intervals)
        return self

    def _settings(self, start: SoilCarbonNet | None, groups: int, profiles: int) -> RegionalSettings:
        """Return the parameters as validated settings; those fixed by a checkpoint are left out."""
        names = set(RegionalSettings.model_fields) - {"categories", "init_from", "freeze"}
        if start is not None:
            names -= {"target_transform", "missing", "clip_inputs"}
        given = {name: value for name, value in self.get_params(deep=False).items() if name in names and value is not None}
        if given["teacher"] == "auto":
            given["teacher"] = "ensemble" if profiles <= MOST_TAUGHT else "none"
        schedules = (_DIRECT, _TUNED) if given["teacher"] == "none" else (_TAUGHT, _TRANSFERRED)
        usual: dict[str, Any] = schedules[start is not None]
        if given.get("select_on", usual["select_on"]) == "none":
            usual = usual | {"patience": 0}
        members = min(self.members or (start.specification.members if start else MEMBERS), groups)
        fixed: dict[str, Any] = {"members": members, "validate_on": "folds" if members > 1 else "split", "init_from": None}
        fixed |= {"data_dir": Path(), "seed": self.random_state, "tensorboard": False}
        return build(RegionalSettings, {**usual, **given, **fixed})

    def _categories(self) -> tuple[Category, ...]:
        """Return the categories, by default one of all columns."""
        names = getattr(self, "feature_names_in_", [f"x{k}" for k in range(self.n_features_in_)])
        return tuple(self.categories or [Category(name="covariates", variables=tuple(map(str, names)))])

    def _growth(self, start: SoilCarbonNet) -> Growth:
        """Return how the network grows for the categories; ValueError if these are not in the order of the grown network's."""
        theirs = start.specification.categories
        if self.categories is None:
            return Growth()
        growth = plan_growth(self.categories, theirs, self.max_filled)
        expected = grown_categories(theirs, growth)
        if differs := difference(tuple(self.categories), expected):
            raise ValueError(f"list the categories of init_from first, in its order, then those it gains: {differs}")
        if isinstance(self.init_from, (str, Path)):
            path = Path(self.init_from)
            return growth.model_copy(update={"checkpoint": path.name, "sha256": sha256(path)})
        return growth

    def _check_columns(self, categories: Sequence[Category]) -> None:
        """Raise an error unless the covariates are those of the categories: in number and, where both have names, in order."""
        width = packed_width(categories)
        if width != self.n_features_in_:
            raise ValueError(f"x has {self.n_features_in_} columns, the categories have {width}")
        expected = [name for category in categories for name in category.variables]
        found = [str(name) for name in getattr(self, "feature_names_in_", ())]
        if found and len(expected) == len(found) and found != expected:
            k = next(k for k, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            raise ValueError(f"column {k + 1} of x is {found[k]!r}, the categories have {expected[k]!r} there")

    def _split(self, n: int, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Return training and validation rows of a single member; the folds of several are made of both."""
        if 1 < np.unique(groups).size < n:
            folds = min(max(2, round(1 / self.validation_share)), np.unique(groups).size)
            chooses = group_folds(groups, folds, self.random_state) == 0
            return {"valid": np.flatnonzero(chooses), "train": np.flatnonzero(~chooses)}
        order = np.random.default_rng(self.random_state).permutation(n)
        held_out = min(max(1, round(self.validation_share * n)), n - 1)
        return {"valid": order[:held_out], "train": order[held_out:]}

    @property
    def applicability_(self) -> ApplicabilityArea | None:
        """Area of applicability of the training profiles."""
        check_is_fitted(self)
        return self.network_.applicability

    @overload
    def predict(self, x: Any, return_interval: None = None) -> np.ndarray: ...
    @overload
    def predict(self, x: Any, return_interval: float) -> tuple[np.ndarray, np.ndarray]: ...
    def predict(self, x: Any, return_interval: float | None = None) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predict the target for covariates (n, F).

        Parameters
        ----------
        x
            Raw units, missing = NaN.
        return_interval
            Nominal coverage, such as 0.9, of prediction intervals calibrated on the profiles that each member held out.

        Returns
        -------
        ndarray, or ndarray and ndarray
            (n,) float32; with `return_interval` also (n, 2) float32, lower and upper ends.

        Raises
        ------
        ValueError
            If too few profiles were held out to calibrate intervals of this level.
        """
        check_is_fitted(self)
        x = validate_data(self, x, dtype=np.float32, ensure_all_finite="allow-nan", reset=False)
        predicted = predict(self.network_, x)[0]
        if return_interval is None:
            return predicted.astype(np.float32)
        if self.network_.calibration is None:
            why = "fewer than 20 profiles were held out" if self.intervals else "intervals=False"
            raise ValueError(f"no prediction intervals: {why}")
        check_level(self.network_.calibration, return_interval)
        interval = np.stack(self.network_.calibration.interval(predicted, return_interval), axis=1)
        return predicted.astype(np.float32), interval.astype(np.float32)

    def save(self, path: Path | str) -> None:
        """Write the network as a checkpoint, which `soilcarbon map` and `load_checkpoint` read, and its facts as YAML beside it."""
        check_is_fitted(self)
        save_checkpoint(self.network_, Path(path))


def _with_uncertainty(members: Members, settings: RegionalSettings, data: Dataset) -> SoilCarbonNet:
    """Train members, and calibrate them on the profiles that each held out."""
    network = assemble(members, train_members(members), settings)
    fit_uncertainty(network, data, members.data, settings.seed)
    return network


def _on_all_profiles(members: Members, settings: RegionalSettings, data: Dataset, intervals: bool) -> SoilCarbonNet:
    """Train members on all profiles, by a schedule that needs no validation set; their intervals are those of others by folds.

    The latter have half of the epochs and four fifths of the profiles: their errors are no smaller than those of the network that
    predicts, so that its intervals hold what they promise (Barber et al. 2021, Ann. Stat. 49, 486).
    """
    known = members.data
    rows = np.append(np.arange(len(known.rows)), 0)  # the validation set, which is not used, is a profile
    x = None if known.x is None else known.x[rows]
    everything = replace(
        known, profiles=known.profiles.take(rows), train_count=len(known.rows), rows=known.rows[rows], folds=None, x=x
    )
    seed = member_seed(members.seed, members.count)
    teacher = Teacher(seed).fit(*plain_arrays(known.profiles), None, None)
    whole = replace(members, data=everything, seed=seed, distil=partial(distil, teacher=teacher))
    network = assemble(whole, train_members(whole), settings)
    if not intervals:
        network.applicability = fit_applicability(network, data, known.rows, settings.seed)
        return network
    short = replace(members.schedule, epochs=max(1, members.schedule.epochs // 2))
    by_folds = _with_uncertainty(replace(members, schedule=short), settings, data)
    network.respecify(smearing=by_folds.specification.smearing)
    network.record.calibrated_on = by_folds.record.calibrated_on
    network.applicability, network.calibration, network.errors = by_folds.applicability, by_folds.calibration, by_folds.errors
    return network
