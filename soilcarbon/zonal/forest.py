"""Random forests by climate zone (Dong, Wang and Su 2024), each with its own feature selection and hyperparameters.

In: arrays of variables, among them climate and year, and of the target. Out: predictions, and the uncertainty of a fitted forest
(`estimate_uncertainty`). `ZonedNetwork` is the same with this project's network. All that uses the
target, selection included, happens in `fit`: cross-validating these models leaks nothing.
"""

import logging
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import randint, uniform
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import ParameterSampler

from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.parallel import map_in_order
from soilcarbon.regression.uncertainty import Uncertainty, applicability
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField, kilometres_apart
from soilcarbon.training.uncertainty import FEWEST, FEWEST_GROUPS
from soilcarbon.zonal.climate_zones import Zones
from soilcarbon.zonal.feature_selection import cross_validated_r2, drop_correlated, rank, search_subsets, stratified_folds
from soilcarbon.zonal.space_time import Profiles

log = logging.getLogger(__name__)
MAX_CORRELATION = 0.95
"""|Pearson r| above which one of two covariates is dropped."""
_DEFAULT = {"max_features": 1 / 3, "min_samples_leaf": 1, "max_depth": 64}
"""Hyperparameters of the subset search, always among those that are tried."""
_SPACE = {"max_features": uniform(0.2, 0.8), "min_samples_leaf": randint(1, 16), "max_depth": randint(4, 33)}
"""Values of the random search: share of covariates tried at a split, minimum profiles in a leaf, maximum depth of a tree."""
_NETWORK: dict[str, Any] = {"target_transform": "log1p", "center": "mean", "teacher": "none", "members": 1}
_NETWORK |= {"select_on": "rmse", "batch_size": 32, "patience": 15}
_FINE_TUNING_LR = 3e-4


def decades(x: np.ndarray, year: int | None) -> np.ndarray:
    """Return the decade of each profile, (n,) int64, from the column of x that holds its year; 0 where there is none.

    Examples
    --------
    >>> decades(np.array([[1989.9], [2003], [np.nan]]), 0)
    array([1980, 2000,    0])
    """
    if year is None:
        return np.zeros(len(x), np.int64)
    return np.nan_to_num(x[:, year].astype(np.float64) // 10 * 10).astype(np.int64)


@dataclass
class SelectedForest:
    """Random forest with feature selection and hyperparameter search by cross-validation within the training profiles.

    Correlated covariates are dropped, the rest ranked, every subset of the best tried, and hyperparameters drawn at random for the
    best subset. Folds are of whole groups, stratified by decade. Missing values are handled by the trees.
    """

    covariates: tuple[int, ...]  # columns of x that may be used
    year: int | None = None  # column of x of the sampling year; None: folds are not stratified
    best: int = 10  # number of highest-ranked covariates of which every subset is tried, 2^best - 1
    inner_folds: int = 5  # folds of the search
    candidates: int = 20  # sets of hyperparameters that are tried
    search_trees: int = 50  # search_trees, trees: trees of a forest in the search, and of the final one
    trees: int = 300
    # processes of the search, see `soilcarbon.parallel.worker_pool`; None: this one
    pool: Executor | None = field(default=None, repr=False)
    label: str = "forest"
    # columns, parameters, trace, forest: set by `fit`: columns of x, hyperparameters, a row for each candidate (stage "subset" or
    # "settings", columns, count, r2, hyperparameters), and the forest
    columns: tuple[int, ...] = field(init=False)
    parameters: dict[str, Any] = field(init=False)
    trace: pd.DataFrame = field(init=False, repr=False)
    forest: RandomForestRegressor = field(init=False, repr=False)

    def fit(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Self:
        """Select covariates and hyperparameters, and train on x (n, V), y and groups (n,), which no fold splits."""
        kept = np.array(self.covariates)[drop_correlated(x[:, list(self.covariates)], y, MAX_CORRELATION)]
        importance = rank(x[:, kept], y, seed, self.search_trees)
        best = np.sort(kept[np.argsort(-importance, kind="stable")[: self.best]])
        folds = stratified_folds(groups, decades(x, self.year), self.inner_folds, seed)
        trees = {"n_estimators": self.search_trees}
        chosen, subsets = search_subsets(x[:, best], y, folds, seed, trees | _DEFAULT, self.pool, f"{self.label}: subsets")
        self.columns = tuple(best[list(chosen)].tolist())
        x = x[:, list(self.columns)]
        random = ParameterSampler(_SPACE, self.candidates - 1, random_state=seed)
        drawn = [_DEFAULT, *({k: np.asarray(v).item() for k, v in each.items()} for each in random)]
        candidates = [(x, y, folds, seed, trees | each) for each in drawn]
        r2 = map_in_order(self.pool, cross_validated_r2, candidates, f"{self.label}: hyperparameters")
        self.parameters = drawn[int(np.argmax(r2))]
        others = pd.DataFrame(drawn).assign(stage="settings", columns=_text(self.columns), count=len(self.columns), r2=r2)
        names = [_text(best[list(each)].tolist()) for each in subsets["columns"]]
        self.trace = pd.concat([subsets.assign(stage="subset", columns=names), others], ignore_index=True)
        self.forest = RandomForestRegressor(self.trees, **self.parameters, random_state=seed, n_jobs=1).fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (m,) at places of variables (m, V)."""
        return np.asarray(self.forest.predict(x[:, list(self.columns)]))


def _text(columns: Any) -> str:
    return " ".join(map(str, columns))


@dataclass
class ZonedForest:
    """Random forest for each climate zone; within a band at a boundary the weighted mean of the forests that meet there.

    A zone's forest is trained on the profiles within the thresholds, whatever the widths of the bands. Without bands the map has a
    seam along each boundary, as in the paper. With a band, a forest extrapolates by up to half its width.
    """

    zones: Zones  # thresholds, widths and names; or the codes of a given map
    climate: tuple[int, ...]  # columns of x that define the zones: precipitation and temperature, or the code; () of one zone
    forest: SelectedForest  # template of each zone's forest
    min_profiles: int = 50  # a zone of fewer profiles is predicted by the forest of all profiles
    everywhere: SelectedForest | None = None  # fitted forest of all profiles; None: fitted if a zone needs it
    # forests, counts: set by `fit`: zone -> forest, zone -> number of its profiles
    forests: dict[str, SelectedForest] = field(init=False, repr=False)
    counts: dict[str, int] = field(init=False)

    def _climate_of(self, x: np.ndarray) -> np.ndarray:
        """Return the variables that define the zones, (C, m); any one of one zone."""
        return x[:, list(self.climate or (0,))].T

    def labels(self, x: np.ndarray) -> np.ndarray:
        """Return the number of the zone of each place, (m,); -1 where its climate is missing."""
        return self.zones.labels(*self._climate_of(x))

    def weights(self, x: np.ndarray) -> np.ndarray:
        """Return the weight of each zone at each place, (m, Z); NaN where its climate is missing."""
        return self.zones.weights(*self._climate_of(x))

    def fit(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Self:
        """Train the zones' forests, see `SelectedForest.fit`; profiles without climate belong to no zone."""
        labels = self.labels(x)
        self.forests, self.counts = {}, {}
        for k, name in enumerate(self.zones.names):
            here = labels == k
            self.counts[name] = int(here.sum())
            if here.all() and self.everywhere is not None:
                self.forests[name] = self.everywhere
                continue
            if self.counts[name] >= self.min_profiles and np.unique(groups[here]).size >= 2:
                forest = replace(self.forest, label=f"{self.forest.label}, {name}")
                self.forests[name] = forest.fit(x[here], y[here], groups[here], seed)
                continue
            if self.everywhere is None:
                self.everywhere = replace(self.forest).fit(x, y, groups, seed)
            self.forests[name] = self.everywhere
        return self

    def has_own(self, name: str) -> bool:
        """Return whether a zone has a forest of its own."""
        return self.forests[name] is not self.everywhere

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (m,) at places of variables (m, V); NaN where the climate is missing."""
        weights = self.weights(x)
        predicted = np.where(np.isnan(weights[:, 0]), np.nan, 0.0)
        for k, name in enumerate(self.zones.names):
            rows = weights[:, k] > 0
            if rows.any():
                predicted[rows] += weights[rows, k] * self.forests[name].predict(x[rows])
        return predicted


@dataclass
class ZonedNetwork:
    """Network of ln(1 + target) at radius 0, pretrained on all profiles and fine-tuned in each zone, on the forests' folds.

    The best epoch is chosen on whole groups of the training profiles.
    """

    covariates: tuple[int, ...]  # columns of x that it uses
    min_profiles: int = 50  # a zone of fewer profiles is predicted by the network of all profiles
    epochs: int = 100  # of each training, at most
    # everywhere, own: set by `fit`: the network of all profiles, and zone number -> the fine-tuned one
    everywhere: SoilCarbonRegressor = field(init=False, repr=False)
    own: dict[int, SoilCarbonRegressor] = field(init=False, repr=False)

    def fit(self, profiles: Profiles, labels: np.ndarray, seed: int) -> Self:
        """Pretrain and fine-tune; `labels` (n,) are the numbers of the zones."""
        usual = _NETWORK | {"epochs": self.epochs, "random_state": seed}
        x = profiles.x[:, list(self.covariates)].astype(np.float32)
        self.everywhere = SoilCarbonRegressor(**usual).fit(x, profiles.y, profiles.groups)
        self.own = {}
        for label in np.unique(labels).tolist():
            rows = labels == label
            if rows.sum() >= self.min_profiles and np.unique(profiles.groups[rows]).size >= 2:
                tuned = SoilCarbonRegressor(init_from=self.everywhere.network_, **usual | {"lr": _FINE_TUNING_LR})
                self.own[label] = tuned.fit(x[rows], profiles.y[rows], profiles.groups[rows])
        return self

    def predict(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the predictions of the network of all profiles, and of that of each place's zone, (m,) each."""
        x = x[:, list(self.covariates)].astype(np.float32)
        unzoned = self.everywhere.predict(x).astype(np.float64)
        zoned = unzoned.copy()
        for label, network in self.own.items():
            rows = labels == label
            if rows.any():
                zoned[rows] = network.predict(x[rows])
        return unzoned, zoned


def estimate_uncertainty(method: ZonedForest, profiles: Profiles, held_out: pd.DataFrame, predicted: str, seed: int) -> Uncertainty:
    """Estimate the uncertainty of a zoned forest, fitted to all of these profiles, from cross-validated predictions.

    Intervals are calibrated on the scale of ln(1 + target), so that they widen in proportion to the prediction, and in each zone
    that has blocks enough. The area of applicability is one for all zones: a place in one zone that is like profiles of another
    lies inside. `held_out` are `evaluation.HeldOut.predictions` of all folds, a row for each profile in their order; `predicted` is
    its column of predictions made as the method makes them at a boundary.
    """
    y, fitted = held_out["observed"].to_numpy(np.float64), held_out[predicted].to_numpy(np.float64)
    labels, names = method.labels(profiles.x), np.array(method.zones.names)
    calibration = errors = None
    if len(y) >= FEWEST:
        groups = profiles.groups if np.unique(profiles.groups).size >= FEWEST_GROUPS else np.arange(len(y))
        calibration = ConformalCalibration.fit(
            y, fitted, scale="log1p", symmetric=False, groups=groups, strata=names[labels], smallest_stratum=FEWEST_GROUPS
        )
    else:
        log.warning("no prediction intervals: %d cross-validated profiles, at least %d are needed", len(y), FEWEST)
    try:
        lonlat = np.column_stack([profiles.lon, profiles.lat])
        apart = kilometres_apart(lonlat, held_out["fold"].to_numpy())
        timeless = all(each.year not in each.columns for each in method.forests.values())
        known = y, fitted, labels, len(names), lonlat, profiles.period, seed, apart, method.predict(profiles.x)
        errors = ErrorField.fit(*known, timeless=timeless)
    except ValueError as error:
        log.warning("no intervals of totals: %s", error)
    predictors, weights = _importance(method)
    area = applicability(profiles.x[:, predictors], weights, held_out["fold"].to_numpy(), seed)
    return Uncertainty(calibration, errors, area, predictors if area else ())


def _importance(method: ZonedForest) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the columns of x that any forest uses, and their importances to the forests, weighted by profiles."""
    total: dict[int, float] = {}
    for name, forest in method.forests.items():
        for column, importance in zip(forest.columns, forest.forest.feature_importances_, strict=True):
            total[column] = total.get(column, 0.0) + float(importance) * method.counts[name]
    columns = tuple(sorted(total))
    return columns, np.array([total[column] for column in columns])
