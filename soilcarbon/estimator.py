"""Scikit-learn estimator of the network, for its cross-validation, inspection and pipelines.

In: covariates (N, F), raw units, missing = NaN, and a target (N,). Out: predictions (n,) in the target's unit, and a checkpoint
that `soilcarbon map` and `soilcarbon predict` read.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from soilcarbon.categories import Category, packed_width
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import SoilCarbonNet, choose_device, predict
from soilcarbon.settings import TrainSettings, build
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import group_folds
from soilcarbon.training.ensemble import assemble, prepare_members, train_members
from soilcarbon.training.run import compute_statistics, follow_checkpoint, new_specification


class SoilCarbonRegressor(RegressorMixin, BaseEstimator):
    """Regressor: multi-branch network on packed covariates, trained from scratch or fine-tuned from a checkpoint.

    Prefer a forest for fewer than some hundred profiles without a checkpoint to start from. With the defaults training takes
    seconds.

    Parameters
    ----------
    categories
        Categories of the columns of x; default: the checkpoint's, or one numeric category of all of them, which have the names of a
        DataFrame's columns, else x0, x1 ...
    init_from
        Checkpoint, or network, to fine-tune; a network is copied.
    epochs, batch_size, lr, freeze, select_on, patience, members, target_transform, center, published, clip_inputs, missing, device
        As the settings of `soilcarbon train` and `finetune`; members None: one, or as many as the checkpoint has.
    target
        Name of the target, for the checkpoint. "soc" is in g/kg; the unit of others is unknown.
    validation_share
        Share of the profiles, drawn by `random_state`, that chooses the best epoch and is not trained on.
    random_state
        Seed of everything random.

    Attributes
    ----------
    network_
        The trained `SoilCarbonNet`.
    n_features_in_, feature_names_in_
        Number of columns, and their names where x was a DataFrame.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> random = np.random.default_rng(0)
    >>> x = pd.DataFrame({"elevation": random.uniform(0, 2000, 200), "rain": random.uniform(300, 1500, 200)})
    >>> y = 5 + 0.02 * x["rain"] + 0.002 * x["elevation"]
    >>> model = SoilCarbonRegressor(epochs=30).fit(x, y)
    >>> bool(model.score(x, y) > 0.8)
    True
    >>> model.network_.specification.categories[0].variables
    ('elevation', 'rain')
    """

    def __init__(
        self,
        categories: Sequence[Category] | None = None,
        *,
        init_from: Path | str | SoilCarbonNet | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        freeze: Literal["none", "features", "all-but-head"] = "none",
        select_on: Literal["rmse", "mae", "r2", "ccc"] = "rmse",
        patience: int = 20,
        members: int | None = None,
        target_transform: Literal["auto", "none", "log1p"] = "auto",
        center: Literal["mean", "median"] = "mean",
        published: bool = False,
        clip_inputs: float = 4.0,
        missing: Literal["mean", "zero"] = "mean",
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        target: str = "soc",
        validation_share: float = 0.15,
        random_state: int = 314,
    ) -> None:
        self.categories = categories
        self.init_from = init_from
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.freeze = freeze
        self.select_on = select_on
        self.patience = patience
        self.members = members
        self.target_transform = target_transform
        self.center = center
        self.published = published
        self.clip_inputs = clip_inputs
        self.missing = missing
        self.device = device
        self.target = target
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
        start = None
        if isinstance(self.init_from, SoilCarbonNet):
            start = copy.deepcopy(self.init_from)
        elif self.init_from:
            start = load_checkpoint(self.init_from)
        elif self.freeze != "none":
            raise ValueError("freeze keeps weights as they were, so it needs init_from")
        settings = self._settings(start is not None)
        categories = start.specification.categories if start else tuple(self.categories or (self._one_category(),))
        self._check_columns(categories)
        if self.target_transform == "log1p" and y.min() <= -1:
            raise ValueError("target_transform log1p needs targets above -1")
        split = self._split(len(y), groups)
        data = Dataset(pd.DataFrame(index=range(len(y))), x, y.astype(np.float64), split, categories)
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
            settings = follow_checkpoint(settings, start, data)
        members = prepare_members(start, data, settings, pretrained, choose_device(self.device))
        members = replace(members, schedule=replace(members.schedule, freeze=self.freeze))
        self.network_ = assemble(members, train_members(members), settings)
        return self

    def _settings(self, fine_tuning: bool) -> TrainSettings:
        """Return the parameters as validated settings; those fixed by a checkpoint are left out."""
        names = set(TrainSettings.model_fields) - {"categories"}
        if fine_tuning:
            names -= {"target_transform", "missing", "clip_inputs"}
        given = {name: value for name, value in self.get_params(deep=False).items() if name in names and value is not None}
        return build(TrainSettings, {**given, "data_dir": Path(), "seed": self.random_state, "tensorboard": False})

    def _one_category(self) -> Category:
        names = getattr(self, "feature_names_in_", [f"x{k}" for k in range(self.n_features_in_)])
        return Category(name="covariates", variables=tuple(map(str, names)))

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
        return predict(self.network_, x)[0].astype(np.float32)

    def save(self, path: Path | str) -> None:
        """Write the network as a checkpoint, which `soilcarbon map` and `load_checkpoint` read, and its facts as YAML beside it."""
        check_is_fitted(self)
        save_checkpoint(self.network_, Path(path))
