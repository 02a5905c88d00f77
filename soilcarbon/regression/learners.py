"""Learners that `soilcarbon fit` chooses from; what they have learnt are parts that predict and can be written to a file.

`LEARNERS` lists them, the simplest first. In: profiles, `Samples` whose X holds packed covariates, and a `Task`. Out: parts. All
that depends on the profiles, statistics of covariates included, is computed from those given: cross-validation leaks nothing.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import PredefinedSplit

from soilcarbon.categories import Category
from soilcarbon.network.specification import Specification
from soilcarbon.regression.estimators import POSITION, RegressionKriging, Samples
from soilcarbon.regression.parts import (
    Constant,
    Kriged,
    Linear,
    Network,
    Part,
    Trees,
    cells_of_trees,
    encoded_cells,
    transformed,
)
from soilcarbon.regression.transfer import Transfer
from soilcarbon.settings import TrainSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.soil.target import Target
from soilcarbon.stats.groups import inner_folds
from soilcarbon.training.arrays import MEMBERS, MOST_TAUGHT, Start, plan_start_growth, resolve_settings, train_on_arrays
from soilcarbon.training.run import compute_statistics, new_specification

_TREES = 300
_FOREST: dict[str, Any] = {"n_estimators": _TREES}
_FEW = 20
"""Covariates: of fewer a third is too few to split by, and all are tried: on a laboratory table of 6 the error was 12 % larger."""
_BOOSTING: dict[str, Any] = {"n_estimators": _TREES, "learning_rate": 0.05, "max_depth": 4, "min_samples_leaf": 5}
_BOOSTING |= {"subsample": 0.5}
_ALPHAS = np.geomspace(0.1, 10_000, 16)
"""Penalties of ridge regression, of which inner folds of whole groups choose."""
MOST_PROFILES = {"regression-kriging": 5000, "ridge-kriging": 5000, "network": 20_000, "taught": MOST_TAUGHT, "stack": MOST_TAUGHT}
"""Of some learners: kriging costs their cube, a teacher gains nothing on more, and cross-validated networks take hours."""
FEWEST_OF_NETWORK = 30
"""Profiles: with fewer, a fold of a member has five."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt, besides the profiles.

    Attributes
    ----------
    categories
        What the columns of covariates are.
    target
        Name of the target.
    block_size
        Side of the blocks, degrees, that no inner fold splits; None: places.
    transform
        The target is learnt as it is, or as ln(1 + target).
    center
        What is predicted, the median or the mean.
    seed
        Of all that is random.
    jobs
        Threads of forests; -1: one per core.
    meaning
        Unit, depth and years of the target.
    members
        Networks of an ensemble.
    transfer
        What networks start from; None: they are trained from scratch.
    """

    categories: tuple[Category, ...]
    target: str = "soc"
    block_size: float | None = None
    transform: Literal["none", "log1p"] = "log1p"
    center: Literal["mean", "median"] = "median"
    seed: int = 314
    jobs: int = 1
    meaning: Target = Target()
    members: int = MEMBERS
    transfer: Transfer | None = None

    def settings(self, **changes: Any) -> TrainSettings:
        """Return settings of training, as far as they matter to a specification."""
        given: dict[str, Any] = {"data_dir": ".", "target": self.target, "target_transform": self.transform, "center": self.center}
        return TrainSettings(**given | changes)

    def dataset(self, samples: Samples) -> Dataset:
        """Return profiles as a dataset, all of them in its training split."""
        table = pd.DataFrame({"lon": samples.X[:, 0], "lat": samples.X[:, 1]})
        x = np.ascontiguousarray(samples.X[:, POSITION:], np.float32)
        split = {"train": np.arange(len(x)), "valid": np.arange(0)}
        return Dataset(table, x, samples.y, split, self.categories, self.block_size, target=self.meaning)

    def specify(self, samples: Samples) -> Specification:
        """Return the specification of a model of some profiles: statistics and classes of their covariates, bounds."""
        data = self.dataset(samples)
        with np.errstate(all="ignore"):  # a variable that is constant or missing at all profiles tells nothing, and does no harm
            numbers = compute_statistics(np.where(np.isinf(data.x), np.nan, data.x), self.categories, usable=True)
        return new_specification(self.settings(), data, numbers)


Parts = dict[str, Part]
Fit = Callable[[Samples, Specification, Task], Parts]


def _mean(samples: Samples, facts: Specification, _: Task) -> Parts:
    return {"constant": Constant(float(transformed(samples.y.mean(), facts)))}


def _ridge(samples: Samples, facts: Specification, task: Task) -> Parts:
    folds = inner_folds(samples.groups, 5, task.seed) if np.unique(samples.groups).size > 1 else None
    model = RidgeCV(_ALPHAS, cv=None if folds is None else PredefinedSplit(folds))
    model.fit(encoded_cells(samples.X, facts).astype(np.float64), transformed(samples.y, facts))
    return {"linear": Linear(facts, float(model.intercept_), np.asarray(model.coef_, np.float64))}


def _share(cells: np.ndarray) -> float:
    """Return the share of the covariates (n, V) that trees choose from at a split."""
    return 1.0 if cells.shape[1] < _FEW else 1 / 3


def _forest(samples: Samples, facts: Specification, task: Task) -> Parts:
    cells = cells_of_trees(samples.X, facts, filled=False)
    model = RandomForestRegressor(**_FOREST, max_features=_share(cells), random_state=task.seed, n_jobs=task.jobs)
    model.fit(cells, transformed(samples.y, facts))
    return {"trees": Trees(facts, tuple(each.tree_ for each in model.estimators_))}


def _boosting(samples: Samples, facts: Specification, task: Task) -> Parts:
    cells = cells_of_trees(samples.X, facts, filled=True)
    model = GradientBoostingRegressor(**_BOOSTING, max_features=_share(cells), random_state=task.seed)
    model.fit(cells, transformed(samples.y, facts))
    trees = tuple(each.tree_ for each in model.estimators_[:, 0])
    offset = float(np.ravel(model.init_.constant_)[0])
    return {"trees": Trees(facts, trees, model.learning_rate * len(trees), offset, filled=True)}


def _regression_kriging(samples: Samples, facts: Specification, task: Task) -> Parts:
    cells = cells_of_trees(samples.X, facts, filled=False)
    model = RegressionKriging(**_FOREST, max_features=_share(cells), random_state=task.seed, n_jobs=task.jobs)
    model.fit(np.column_stack([samples.X[:, :POSITION], cells]), transformed(samples.y, facts), samples.groups)
    parts: Parts = {"trees": Trees(facts, tuple(each.tree_ for each in model.forest_.estimators_))}
    if model.variogram_ is not None:
        process, fitted = model.residuals_, model.variogram_
        weights = model.share_ * np.asarray(process.alpha_, np.float64).ravel()
        parts["kriged"] = Kriged(np.asarray(process.X_train_, np.float64), weights, float(fitted.sill), float(fitted.scale))
    return parts


def _ridge_kriging(samples: Samples, facts: Specification, task: Task) -> Parts:
    return _ridge(samples, facts, task) | _regression_kriging(samples, facts, task)


def _network(samples: Samples, facts: Specification, task: Task, teacher: Literal["none", "ensemble"]) -> Parts:
    """Train an ensemble: from scratch with a teacher on all profiles, else each member holds out a fold of groups."""
    start, groups = None, np.unique(samples.groups, return_inverse=True)[1]
    if task.transfer:
        network = copy.deepcopy(task.transfer.network)
        start = Start(network, plan_start_growth(task.categories, network), world=task.transfer.world)
    x = np.ascontiguousarray(samples.X[:, POSITION:], np.float32)
    if np.isinf(x).any():
        raise ValueError("a covariate is infinite")
    given = {"teacher": teacher, "members": task.members, "target_transform": facts.target_transform, "center": "median"}
    given |= {"target": task.target, "seed": task.seed, "device": "cpu"}
    settings = resolve_settings(given, start, int(groups.max()) + 1, len(x))
    # No intervals: cross-validation calibrates them.
    return {"network": Network(train_on_arrays(x, samples.y, groups, task.categories, settings, start, intervals=False).network)}


def _stack(samples: Samples, facts: Specification, task: Task) -> Parts:
    return _network(samples, facts, task, "ensemble") | _regression_kriging(samples, facts, task)


@dataclass(frozen=True)
class Learner:
    """A learner.

    Attributes
    ----------
    label, meaning
        As tables name it, and in one line.
    fit
        Returns what it has learnt.
    parts
        Kinds of its parts, in the order in which they are added up.
    cost
        How long it takes to fit beside the others.
    """

    label: str
    meaning: str
    fit: Fit
    parts: tuple[str, ...]
    cost: int

    @property
    def network(self) -> bool:
        """Whether there is a network in it, which sees windows."""
        return Network.kind in self.parts


LEARNERS: Mapping[str, Learner] = {
    "mean": Learner("mean", "the mean of the profiles, everywhere", _mean, ("constant",), 1),
    "ridge": Learner("ridge", "linear regression, shrunk; penalty by inner folds", _ridge, ("linear",), 1),
    "forest": Learner("forest", f"random forest, {_TREES} trees", _forest, ("trees",), 5),
    "boosting": Learner("boosting", f"{_TREES} gradient-boosted trees", _boosting, ("trees",), 5),
    "regression-kriging": Learner(
        "regression kriging, shrunk",
        "random forest, and kriging of its out-of-bag residuals as far as it predicts those of other blocks",
        _regression_kriging,
        ("trees", "kriged"),
        10,
    ),
    "ridge-kriging": Learner(
        "ridge and kriging",
        "mean of ridge regression and regression kriging",
        _ridge_kriging,
        ("linear", "trees", "kriged"),
        1,
    ),
    "network": Learner("network", f"{MEMBERS} networks, by folds", partial(_network, teacher="none"), ("network",), 100),
    "taught": Learner(
        "network, taught",
        f"{MEMBERS} networks that a teacher of trees and a Gaussian process was distilled into",
        partial(_network, teacher="ensemble"),
        ("network",),
        100,
    ),
    "stack": Learner("stack", "mean of the taught network and regression kriging", _stack, ("network", "trees", "kriged"), 1),
}
"""Key -> learner, the simplest first: the order in which the choice prefers them."""


def fit_parts(key: str, samples: Samples, task: Task) -> tuple[Parts, Specification]:
    """Fit a learner to profiles; return its parts, and the specification of a model of them.

    Raises
    ------
    ValueError
        If the profiles are too few, or too many, for it.
    """
    facts = task.specify(samples)
    return LEARNERS[key].fit(samples, facts, task), facts
