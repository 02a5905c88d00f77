"""Scikit-learn estimator of the default model of one table, for its cross-validation, inspection and pipelines.

In: covariates (N, F), raw units, missing = NaN, and a target (N,). Out: predictions (n,) in the target's unit, and a file that
`soilcarbon map`, `predict` and `validate` read.
"""

import copy
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from soilcarbon.categories import Category, packed_width
from soilcarbon.io.files import sha256
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.growth import MOST_FILLED, grown_categories
from soilcarbon.network.network import Growth, SoilCarbonNet, predict
from soilcarbon.regression.estimators import POSITION, Samples
from soilcarbon.regression.learners import Task
from soilcarbon.regression.parts import Trees
from soilcarbon.regression.persistence import save_model
from soilcarbon.regression.stack import stack
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.training.arrays import (
    VALIDATION_SHARE,
    Start,
    is_trained_on_all,
    plan_start_growth,
    resolve_settings,
    train_on_arrays,
)
from soilcarbon.training.uncertainty import check_level


class SoilCarbonRegressor(RegressorMixin, BaseEstimator):
    """Regressor: multi-branch network on packed covariates, and a forest beside it; or a network fine-tuned from a checkpoint.

    By default, up to 5,000 profiles, it predicts the mean, on the scale that the target is learnt on, of a network and a random
    forest: the learner `stack` of `soilcarbon fit`, which has kriging in it besides where positions are known. The network is the
    mean of five that learn from a teacher (`training.distillation`: trees and a Gaussian process), of all profiles; others, and
    forests, that miss a fifth of the profiles each calibrate the intervals. That takes some twenty seconds of one core for 200
    profiles. From a checkpoint, without a teacher or with a single member it is the network alone; each of several members then
    holds out a fold. Of skewed targets, which are learnt as logarithms, it predicts medians, whose absolute errors are the
    smallest; `center="mean"` predicts means, which have no bias and may be summed, whose R2 is a little higher, and whose absolute
    errors are some 8 % larger.

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
    forest
        "auto": average the network with a random forest where a teacher is distilled from scratch into two or more members;
        "none": the network alone.
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
        The trained `SoilCarbonNet`. Beside a forest it predicts medians.
    model_
        `FittedModel` of network and forest, which predicts; None: the network is alone.
    forest_
        The forest of `model_`.
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
        forest: Literal["auto", "none"] = "auto",
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
        validation_share: float = VALIDATION_SHARE,
        random_state: int = 314,
    ) -> None:
        self.categories = categories
        self.init_from = init_from
        self.max_filled = max_filled
        self.new_rate = new_rate
        self.teacher = teacher
        self.forest = forest
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
        """Fit to covariates (N, F) and targets (N,).

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
        if self.forest not in ("auto", "none"):
            raise ValueError(f"forest = {self.forest!r}: is none of auto, none")
        start = self._start(world)
        groups = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        settings = self._settings(start, len(np.unique(groups)), len(y))
        categories = grown_categories(start.network.specification.categories, start.growth) if start else self._categories()
        self._check_columns(categories)
        if self.target_transform == "log1p" and y.min() <= -1:
            raise ValueError("target_transform log1p needs targets above -1")
        with_forest = self.forest == "auto" and is_trained_on_all(settings, start) and not self.published
        if with_forest:
            settings = settings.model_copy(update={"center": "median"})  # the mean of both becomes a mean
        trained = train_on_arrays(x, y, groups, categories, settings, start, self.intervals, self.validation_share)
        self.network_, self.model_ = trained.network, None
        if with_forest:
            jobs = -1 if multiprocessing.parent_process() is None else 1  # processes side by side have a core each
            task = Task(categories, center=self.center, seed=self.random_state, jobs=jobs)
            self.model_ = stack(trained, Samples(_with_position(x), y.astype(np.float64), groups), task)
        return self

    def _start(self, world: Dataset | None) -> Start | None:
        """Return what training continues from."""
        if self.init_from is None or self.init_from == "":
            if self.freeze != "none":
                raise ValueError("freeze keeps weights as they were, so it needs init_from")
            if world is not None:
                raise ValueError("world is for the teacher of a network that is transferred, so it needs init_from")
            return None
        path, network = None, self.init_from
        if isinstance(network, SoilCarbonNet):
            network = copy.deepcopy(network)
        else:
            path = Path(network)
            network = load_checkpoint(path)
        growth = Growth() if self.categories is None else plan_start_growth(self.categories, network, self.max_filled)
        if path and self.categories is not None:
            growth = growth.model_copy(update={"checkpoint": path.name, "sha256": sha256(path)})
        return Start(network, growth, self.freeze, world)

    def _settings(self, start: Start | None, groups: int, profiles: int) -> RegionalSettings:
        """Return the parameters as validated settings."""
        names = set(RegionalSettings.model_fields) - {"categories", "init_from", "freeze"}
        given = {name: value for name, value in self.get_params(deep=False).items() if name in names}
        return resolve_settings(given | {"seed": self.random_state}, start, groups, profiles)

    def _categories(self) -> tuple[Category, ...]:
        """Return the categories, by default one of all columns."""
        names = getattr(self, "feature_names_in_", [f"x{k}" for k in range(self.n_features_in_)])
        return tuple(self.categories or [Category(name="covariates", variables=tuple(map(str, names)))])

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

    @property
    def forest_(self) -> Trees | None:
        """The forest, which predicts the transformed target; None: the network is alone."""
        check_is_fitted(self)
        forest = None if self.model_ is None else self.model_.parts["trees"]
        return forest if isinstance(forest, Trees) else None

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
        predicted = predict(self.network_, x)[0] if self.model_ is None else self.model_.predict(_with_position(x))
        if return_interval is None:
            return predicted.astype(np.float32)
        calibration = self.network_.calibration if self.model_ is None else self.model_.uncertainty.calibration
        if calibration is None:
            why = "fewer than 20 profiles, or of the groups too few, were held out" if self.intervals else "intervals=False"
            raise ValueError(f"no prediction intervals: {why}")
        check_level(calibration, return_interval)
        interval = np.stack(calibration.interval(predicted, return_interval), axis=1)
        return predicted.astype(np.float32), interval.astype(np.float32)

    def save(self, path: Path | str) -> None:
        """Write the model, which `soilcarbon map`, `predict` and `load_model` read, and its facts as YAML beside it.

        With a forest it is a fitted model, as those of `soilcarbon fit` (.npz is their usual ending); a network alone is written
        as a checkpoint (.pth), which can also be fine-tuned.
        """
        check_is_fitted(self)
        if self.model_ is None:
            save_checkpoint(self.network_, Path(path))
        else:
            save_model(self.model_, Path(path))


def _with_position(x: np.ndarray) -> np.ndarray:
    """Return X (n, 2 + F) of covariates (n, F) at places that are not known."""
    return np.column_stack([np.full((len(x), POSITION), np.nan), x])
