"""The network as a scikit-learn estimator, so that its cross-validation, inspection and pipelines work on it.

In: covariates (N, F), raw units, missing = NaN, and a target (N,). Out: predictions (n,) in the target's unit.

    from soilcarbon.estimator import SoilCarbonRegressor
    scores = cross_val_score(SoilCarbonRegressor(epochs=50), x, y, cv=5)
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from soilcarbon.categories import Category
from soilcarbon.network.network import SoilCarbonNet, choose_device, load_checkpoint
from soilcarbon.settings import TrainSettings, build
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import group_folds
from soilcarbon.training import encoded
from soilcarbon.training import loop as engine
from soilcarbon.training.initial import compute_statistics, follow_checkpoint, new_specification


class SoilCarbonRegressor(RegressorMixin, BaseEstimator):
    """Multi-branch network on packed covariates, trained from scratch or fine-tuned from a checkpoint.

    Parameters
    ----------
    categories
        What the columns of x are; default: one numeric category of all of them, or the checkpoint's.
    init_from
        Checkpoint, or network, to fine-tune; a network is copied.
    epochs, batch_size, lr, loss, freeze, select_on, patience, members, target_transform, clip_inputs, missing, device
        As in `config.TrainSettings`; members None: one, or as many as the checkpoint has. The defaults here are those
        of a run of seconds.
    validation_share
        Share of the profiles, drawn by `random_state`, that chooses the best epoch and is not trained on.
    random_state
        Seed of everything random.

    Attributes
    ----------
    network_
        The trained `SoilCarbonNet`; `models.save_checkpoint` writes it.
    """

    def __init__(
        self,
        categories: Sequence[Category] | None = None,
        *,
        init_from: Path | str | SoilCarbonNet | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        loss: Literal["mse", "huber"] = "mse",
        freeze: Literal["none", "features", "all-but-head"] = "none",
        select_on: Literal["rmse", "mae", "r2", "ccc"] = "rmse",
        patience: int = 20,
        members: int | None = None,
        target_transform: Literal["none", "log1p"] = "none",
        clip_inputs: float = 4.0,
        missing: Literal["mean", "zero"] = "mean",
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        validation_share: float = 0.15,
        random_state: int = 314,
    ) -> None:
        self.categories = categories
        self.init_from = init_from
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.loss = loss
        self.freeze = freeze
        self.select_on = select_on
        self.patience = patience
        self.members = members
        self.target_transform = target_transform
        self.clip_inputs = clip_inputs
        self.missing = missing
        self.device = device
        self.validation_share = validation_share
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags

    def fit(self, x: Any, y: Any, groups: np.ndarray | None = None) -> Self:
        """Train on covariates (N, F) and targets (N,).

        Parameters
        ----------
        x, y
            Raw units.
        groups
            (N,) the block of each profile: the best epoch is then chosen on whole blocks. None: on single profiles.

        Raises
        ------
        ValueError
            If x and y do not fit each other or there are fewer than three profiles.
        UserError
            If a setting is not valid, the checkpoint cannot be read, or the loss is no longer finite.
        """
        x, y = validate_data(self, x, y, dtype=np.float32, ensure_all_finite="allow-nan", y_numeric=True, ensure_min_samples=3)
        names = set(TrainSettings.model_fields)
        given = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in names - {"categories"} and value is not None
        }
        start = None
        if isinstance(self.init_from, SoilCarbonNet):
            start = copy.deepcopy(self.init_from)
            given["init_from"] = Path("memory")  # engine.fit draws new weights where nothing is named
        elif self.init_from:
            start = load_checkpoint(self.init_from)
        if start is not None:  # what the checkpoint decides is not asked for anew
            given = {name: value for name, value in given.items() if name not in ("target_transform", "missing", "clip_inputs")}
        settings = build(TrainSettings, {**given, "data_dir": Path(), "seed": self.random_state, "tensorboard": False})
        categories = start.specification.categories if start else tuple(self.categories or _one_category(x.shape[1]))
        width = sum(category.width for category in categories)
        if width != x.shape[1]:
            raise ValueError(f"x has {x.shape[1]} columns, the categories have {width}")
        if self.target_transform == "log1p" and y.min() <= -1:
            raise ValueError("target_transform log1p needs targets above -1")
        split = self._split(len(y), groups)
        data = Dataset(pd.DataFrame(index=range(len(y))), x, y.astype(np.float64), split, categories)
        if start is None:
            numbers = compute_statistics(x[split["train"]], categories)
            # A column that is constant or missing in a fold tells nothing there, and does no harm.
            statistics = {
                name: (mean if np.isfinite(mean) else 0.0, std if std > 0 else 1.0) for name, (mean, std) in numbers.items()
            }
            start = SoilCarbonNet(new_specification(settings, data, statistics))
        else:
            settings = follow_checkpoint(settings, start, data)
        device = choose_device(self.device)
        train, valid = (encoded.make_profiles(start, x[split[name]], data.y[split[name]], device) for name in ("train", "valid"))
        self.network_ = engine.fit(start, train, valid, settings)
        return self

    def _split(self, n: int, groups: np.ndarray | None) -> dict[str, np.ndarray]:
        if groups is not None and np.unique(groups).size > 1:
            folds = min(max(2, round(1 / self.validation_share)), np.unique(groups).size)
            chooses = group_folds(groups, folds, self.random_state) == 0
            return {"valid": np.flatnonzero(chooses), "train": np.flatnonzero(~chooses)}
        order = np.random.default_rng(self.random_state).permutation(n)
        held_out = min(max(1, round(self.validation_share * n)), n - 1)
        return {"valid": order[:held_out], "train": order[held_out:]}

    def predict(self, x: Any) -> np.ndarray:
        """Return the target (n,) float32 for covariates (n, F)."""
        check_is_fitted(self)
        x = validate_data(self, x, dtype=np.float32, ensure_all_finite="allow-nan", reset=False)
        return engine.predict(self.network_, x)[0].astype(np.float32)


def _one_category(columns: int) -> tuple[Category, ...]:
    return (Category(name="covariates", variables=tuple(f"x{k}" for k in range(columns))),)
