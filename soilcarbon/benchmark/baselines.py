"""Baselines of the comparison: scikit-learn pipelines, tuned by grouped cross-validation.

In: `Samples`, whose X has longitude and latitude in its first two columns and covariates behind them. Out: fitted pipelines that
predict the target. `BASELINES` lists those that are always there; `read_method` makes one of any scikit-learn regressor.

    fitted, chosen = tune(BASELINES["kriging"], samples, seed=0)
    predicted = fitted.predict(X)

Boosting uses as many cores as OMP_NUM_THREADS allows, so set it to 1 where several processes fit side by side.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, ParameterGrid, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from soilcarbon.regression.estimators import (
    POSITION,
    InverseDistance,
    LogTarget,
    QuantileForest,
    RegressionKriging,
    Samples,
    WorldForest,
    check_target,
)
from soilcarbon.stats.groups import inner_folds

_CLIP_SD = 4.0  # standardised covariates are clipped at as many standard deviations, as the network's inputs are (`clip_inputs`)
_FEWEST_TUNED = 8  # of fewer profiles each inner fold holds out two or three, and which candidate wins is chance
INNER_FOLDS = 3


# --- methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """Baseline of a comparison: an unfitted regressor, its inputs and its parameter grid."""

    label: str  # as tables and figures name it
    meaning: str  # one line for a legend
    regressor: BaseEstimator  # scikit-learn's, unfitted
    # "scaled": covariates standardised, clipped at 4 standard deviations, missing ones the mean and classes one column each of 0
    # and 1; "all": positions and covariates as they are
    inputs: Literal["covariates", "scaled", "all"] = "covariates"
    log: bool = False  # fit ln(1 + y) (`LogTarget`)
    candidates: tuple[dict[str, Any], ...] = ({},)  # parameters, one set of which `tune` chooses; the first where it cannot
    while_tuning: Mapping[str, Any] = field(default_factory=dict)  # parameters that make choosing cheaper: fewer trees

    def pipeline(self, classes: Sequence[int] = (), seed: int = 0, **parameters: Any) -> Pipeline:
        """Return the method as an unfitted pipeline of "columns" and "model", with more parameters of the regressor.

        `classes` are numbers of covariates, without the two of the position, that are class codes.
        """
        regressor = clone(self.regressor)
        unset = {name for name, value in regressor.get_params().items() if value is None}
        given = {name: value for name, value in {"random_state": seed, "n_jobs": 1}.items() if name in unset}
        regressor.set_params(**given | parameters)
        return Pipeline([("columns", self._columns(classes)), ("model", LogTarget(regressor) if self.log else regressor)])

    def _columns(self, classes: Sequence[int]) -> ColumnTransformer | str:
        if self.inputs == "all":
            return "passthrough"
        if self.inputs == "covariates":
            return ColumnTransformer([("covariates", "passthrough", _covariates)])
        codes = [POSITION + k for k in classes]
        clip = FunctionTransformer(np.clip, kw_args={"a_min": -_CLIP_SD, "a_max": _CLIP_SD})
        scaled = make_pipeline(StandardScaler(), clip, SimpleImputer(strategy="constant", fill_value=0.0))
        encoded = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return ColumnTransformer([("numbers", scaled, partial(_covariates, without=codes)), ("classes", encoded, codes)])

    @property
    def prefix(self) -> str:
        """Prefix of the regressor's parameters in the pipeline."""
        return "model__regressor__" if self.log else "model__"


def _covariates(X: np.ndarray, without: Sequence[int] = ()) -> list[int]:
    """Return the columns of covariates that have a value; one without cannot be binned or standardised."""
    return [k for k in range(POSITION, X.shape[1]) if k not in without and not np.isnan(X[:, k]).all()]


def _raw_and_log(key: str, label: str, meaning: str, regressor: BaseEstimator, **more: Any) -> dict[str, Baseline]:
    """Return two lines of one method: of y, and of ln(1 + y)."""
    back = f"{meaning} of ln(1+y), transformed back: aims at the median"
    return {
        key: Baseline(label, f"{meaning} of y", regressor, **more),
        f"{key}_log": Baseline(f"{label}, log", back, regressor, log=True, **more),
    }


_FOREST = RandomForestRegressor(300, max_features=1 / 3)
_LEAVES = tuple(ParameterGrid({"max_features": [1 / 3, 2 / 3], "min_samples_leaf": [1, 5]}))
_BOOSTING = HistGradientBoostingRegressor(max_iter=200, min_samples_leaf=10, early_stopping=False)
"""No early stopping: it would hold out single profiles at random, whose neighbours it then trains on."""

BASELINES: dict[str, Baseline] = {
    "mean": Baseline("mean", "the mean of the region's profiles, everywhere", DummyRegressor(), "all"),
    "idw": Baseline(
        "inverse distance",
        "mean of the nearest profiles, by distance; no covariates",
        InverseDistance(),
        "all",
        candidates=tuple({"power": power, "neighbours": n} for power, n in ((2.0, 32), (2.0, 8), (1.0, 32), (3.0, 32))),
    ),
    "ridge": Baseline(
        "ridge",
        "linear regression of ln(1+y), shrunk",
        Ridge(),
        "scaled",
        log=True,
        candidates=tuple(ParameterGrid({"alpha": [10.0, 1.0, 100.0, 1000.0]})),
    ),
    **_raw_and_log("forest", "forest", "random forest", _FOREST, candidates=_LEAVES, while_tuning={"n_estimators": 100}),
    **_raw_and_log(
        "forest_world",
        "forest, global + regional",
        "random forest, of the region's and the world's profiles,",
        WorldForest(),
        candidates=tuple(ParameterGrid({"share": [0.3, 0.05, 0.1, 0.5]})),
        while_tuning={"n_estimators": 25},
    ),
    "quantile_forest": Baseline(
        "quantile forest",
        "median of a quantile regression forest",
        QuantileForest(),
        candidates=_LEAVES,
        while_tuning={"n_estimators": 100},
    ),
    "boosting": Baseline(
        "gradient boosting",
        "gradient-boosted trees of ln(1+y)",
        _BOOSTING,
        log=True,
        candidates=tuple(
            {"loss": loss, "learning_rate": rate, "max_leaf_nodes": leaves}
            for loss in ("squared_error", "absolute_error")
            for rate, leaves in ((0.03, 8), (0.1, 31))
        ),
    ),
    "kriging": Baseline(
        "regression kriging",
        "random forest of ln(1+y), and kriging of its out-of-bag residuals",
        RegressionKriging(),
        "all",
        log=True,
        candidates=_LEAVES,
        while_tuning={"n_estimators": 100},
    ),
}
"""Key -> method, in the order of tables."""


# --- any scikit-learn regressor -------------------------------------------------------------------------------------------

PACKAGES = ("sklearn", "xgboost", "lightgbm", "catboost", "cubist", "soilcarbon")
"""Packages that a method's estimator may be imported from."""


def read_method(
    name: str,
    estimator: str,
    parameters: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    inputs: Literal["covariates", "scaled", "all"] = "scaled",
    target_transform: Literal["none", "log1p"] = "log1p",
) -> Baseline:
    """Make a baseline of any regressor with scikit-learn's interface, by the import path of its class in one of `PACKAGES`.

    Inner folds choose of the grid's values. ValueError if it is no such regressor, or does not take the parameters.

    >>> read_method("svr", "sklearn.svm.SVR", {"C": 10}, grid={"epsilon": [0.1, 0.3]}).candidates
    ({'epsilon': 0.1}, {'epsilon': 0.3})
    """
    parameters, grid = dict(parameters or {}), dict(grid or {})
    module, _, kind_name = estimator.rpartition(".")
    if module.partition(".")[0] not in PACKAGES:
        raise ValueError(f"estimator {estimator!r}: expected a regressor of {', '.join(PACKAGES)}")
    try:
        kind: Any = getattr(importlib.import_module(module), kind_name, None)
    except ImportError as error:
        raise ValueError(f"estimator {estimator!r}: {error}; install it, or correct the path") from error
    methods = ("fit", "predict", "get_params", "set_params")
    like_sklearn = isinstance(kind, type) and all(hasattr(kind, each) for each in methods)
    if not like_sklearn or not (issubclass(kind, RegressorMixin) or getattr(kind, "_estimator_type", "") == "regressor"):
        raise ValueError(f"estimator {estimator!r}: {module} has no regressor {kind_name} with scikit-learn's interface")
    try:
        regressor = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"estimator {estimator!r}: {error}") from error
    if unknown := set(grid) - set(regressor.get_params()):
        raise ValueError(f"grid of {name!r}: {estimator} has no parameter {min(unknown)!r}")
    if empty := [each for each, values in grid.items() if not values]:
        raise ValueError(f"grid of {name!r}: {empty[0]} has no values")
    log = target_transform == "log1p"
    shown = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
    meaning = f"{estimator}({shown}) of {'ln(1+y)' if log else 'y'}"
    return Baseline(
        name, meaning, regressor, inputs, log, tuple(ParameterGrid({each: list(values) for each, values in grid.items()}))
    )


# --- tuning ---------------------------------------------------------------------------------------------------------------


def _total_error(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the sum of absolute errors: its mean over folds ranks candidates as the MAE over all profiles does."""
    return float(np.abs(y - predicted).sum())


def tune(
    method: Baseline, samples: Samples, seed: int, *, world: Samples | None = None, classes: Sequence[int] = ()
) -> tuple[Pipeline, dict[str, Any]]:
    """Choose a method's parameters by grouped cross-validation, and fit it to all profiles.

    The candidate of the lowest MAE wins, over all profiles held out in three folds of whole groups; at a tie the first. Of fewer
    than two groups or eight profiles the first candidate is taken untried. ValueError if a target is missing or negative.

    `world` are profiles of the world for a `WorldForest`, their groups numbered as the region's, as `groups.spatial_groups` does.
    Those in a group of the region are left out: they may be the same profiles, and in the inner folds they would leak what is
    held out. That none lies where predictions will be scored is the caller's to see to. `classes` are covariates that are class
    codes.

    >>> random = np.random.default_rng(0)
    >>> X = np.column_stack([random.uniform(0, 5, (60, 2)), random.normal(size=(60, 2))])
    >>> samples = Samples(X, np.exp(2 + X[:, 2]), np.arange(60) // 3)
    >>> fitted, chosen = tune(BASELINES["ridge"], samples, seed=0)
    >>> chosen, fitted.predict(X).shape
    ({'alpha': 1.0}, (60,))
    """
    check_target(samples.y)
    n, extra = len(samples.y), {}
    fold = np.zeros(n, np.int64)
    groups = np.unique(samples.groups).size
    tuned = len(method.candidates) > 1 and n >= _FEWEST_TUNED and groups > 1
    if tuned:
        fold = inner_folds(samples.groups, INNER_FOLDS, seed)
    X, y = samples.X, samples.y
    if isinstance(method.regressor, WorldForest) and world is not None:
        world = world.take(~np.isin(world.groups, samples.groups))
        check_target(np.append(y, world.y))
        if world.X.shape[1] != X.shape[1]:
            counts = [each.shape[1] - POSITION for each in (world.X, X)]
            raise ValueError(f"the world's profiles have {counts[0]} covariates, the region's {counts[1]}")
        X, y = np.concatenate([X, world.X]), np.append(y, world.y)
        fold = np.append(fold, np.full(len(world.y), -1))  # never held out
        extra = {"model__of_world": np.arange(len(y)) >= n}
    chosen = method.candidates[0]
    if tuned:
        quick = method.pipeline(classes, seed, **method.while_tuning)
        grid = [{method.prefix + name: [value] for name, value in each.items()} for each in method.candidates]
        scorer = make_scorer(_total_error, greater_is_better=False)
        search = GridSearchCV(quick, grid, scoring=scorer, cv=PredefinedSplit(fold), refit=False, error_score="raise")
        chosen = method.candidates[int(search.fit(X, y, **extra).best_index_)]
    return method.pipeline(classes, seed, **chosen).fit(X, y, **extra), dict(chosen)
