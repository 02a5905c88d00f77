"""Forests by climate zone, after Dong, Wang and Su: each chooses its covariates and settings by its own profiles.

In: profiles (`methods.Known`), among whose columns are precipitation, temperature and year. Out: methods that predict the target
at places, as those of `methods.py` do. Everything that looks at the target, choosing included, happens in `fit`: whoever
cross-validates these methods leaks nothing.

    forest = SelectedForest(covariates=(0, 1, 2, 3), year=5)
    method = ZonedForest(ClimateZones(width_precipitation=50), precipitation=0, temperature=1, forest=forest).fit(known, seed=0)
    predicted = method.predict(places)
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from joblib import delayed
from scipy.stats import randint, uniform
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import ParameterSampler

from soilcarbon.benchmark.baselines import Known, target_of
from soilcarbon.zonal.climate_zones import Zones
from soilcarbon.zonal.feature_selection import drop_correlated, held_out_r2, in_parallel, rank, search_subsets, stratified_folds

_FIRST = {"max_features": 1 / 3, "min_samples_leaf": 1, "max_depth": 64}
"""Settings that are always tried, and serve while covariates are chosen: in effect the forest of `forests.py`."""
_SPACE = {"max_features": uniform(0.2, 0.8), "min_samples_leaf": randint(1, 16), "max_depth": randint(4, 33)}
"""What others are drawn from: the share of covariates tried at a split, profiles in a leaf at least, levels of a tree at most."""


def decades(known: Known, year: int | None) -> np.ndarray:
    """Return the decade (n,) int64 of each profile, by the column of x that holds its year; 0 where there is none."""
    if year is None:
        return np.zeros(len(known), np.int64)
    return np.nan_to_num(known.x[:, year].astype(np.float64) // 10 * 10).astype(np.int64)


@dataclass
class SelectedForest:
    """Random forest of the covariates and settings that predict best, found by folds of its own profiles.

    Twins are dropped, the rest ranked, every subset of the best tried, and settings drawn at random for the subset that won.
    Folds part no unit and have each decade in about its share. A missing covariate goes to the side that serves it best.

    Attributes
    ----------
    covariates
        Columns of x that may be used.
    year
        Column of x of the sampling year; None: folds are not stratified.
    limit
        |Pearson r| above which two covariates are twins.
    best
        Covariates of the highest rank of which all subsets are tried: 2^best - 1.
    inner
        Folds that choose.
    candidates
        Settings that are tried.
    search_trees, trees
        Of a forest that is tried, and of the one that stands at the end.
    workers
        Processes; 0: one per core.
    label
        Of progress bars.
    columns, settings, trace, forest
        What `fit` found: columns of x, settings, a row for everything tried (stage "subset" or "settings", columns, count,
        r2, and the settings), and the forest itself.
    """

    covariates: tuple[int, ...]
    year: int | None = None
    limit: float = 0.95
    best: int = 10
    inner: int = 5
    candidates: int = 20
    search_trees: int = 50
    trees: int = 300
    workers: int = 1
    label: str = "forest"
    columns: tuple[int, ...] = field(init=False)
    settings: dict[str, Any] = field(init=False)
    trace: pd.DataFrame = field(init=False, repr=False)
    forest: RandomForestRegressor = field(init=False, repr=False)

    def fit(self, known: Known, seed: int) -> Self:
        """Choose, and grow the trees.

        Raises
        ------
        UserError
            If no covariate varies, or there is but one unit, or one value of the target.
        """
        x, y = known.x[:, list(self.covariates)], target_of(known)
        kept = np.array(drop_correlated(x, y, self.limit))
        importance = rank(x[:, kept], y, seed, self.search_trees)
        first = sorted(kept[np.argsort(-importance, kind="stable")[: self.best]].tolist())
        folds = stratified_folds(known.units, decades(known, self.year), self.inner, seed)
        tried = {"n_estimators": self.search_trees}
        best, subsets = search_subsets(x, y, folds, first, seed, tried | _FIRST, self.workers, f"{self.label}: subsets")
        self.columns = tuple(self.covariates[k] for k in best)
        self.settings, others = self._tune(known.x[:, list(self.columns)], y, folds, seed)
        names = [" ".join(str(self.covariates[int(k)]) for k in text.split()) for text in subsets["columns"]]
        self.trace = pd.concat([subsets.assign(stage="subset", columns=names), others], ignore_index=True)
        forest = RandomForestRegressor(self.trees, **self.settings, random_state=seed, n_jobs=1)
        self.forest = forest.fit(known.x[:, list(self.columns)], y)
        return self

    def _tune(self, x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int) -> tuple[dict[str, Any], pd.DataFrame]:
        """Return the best of some settings, drawn at random, and a row for each."""
        drawn = [_FIRST, *ParameterSampler(_SPACE, self.candidates - 1, random_state=seed)]
        drawn = [{name: value.item() if isinstance(value, np.generic) else value for name, value in each.items()} for each in drawn]
        tasks = (delayed(held_out_r2)(x, y, folds, seed, {"n_estimators": self.search_trees} | each) for each in drawn)
        r2 = in_parallel(tasks, len(drawn), self.workers, f"{self.label}: settings")
        columns = " ".join(map(str, self.columns))
        trace = pd.DataFrame(drawn).assign(stage="settings", columns=columns, count=len(self.columns), r2=r2)
        return drawn[int(np.argmax(r2))], trace

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,)."""
        return np.asarray(self.forest.predict(places.x[:, list(self.columns)]))


@dataclass
class ZonedForest:
    """A forest for each climate zone, and at a boundary the weighted mean of those that meet there.

    A zone's forest learns from the profiles within the zone's thresholds, whatever the widths: these only say how
    predictions pass from one to the next. With widths of 0 the map has a seam along each boundary, as in the paper. With a
    band, a forest predicts up to half its width beyond the climate it has learnt from.

    Attributes
    ----------
    zones
        Thresholds, widths and names; or a ready map's codes.
    precipitation, temperature
        Columns of x; both that of the codes where zones are a ready map's.
    forest
        What each zone's forest is made like.
    fewest
        A zone of fewer profiles has no forest of its own: that of all profiles serves it.
    everywhere
        A forest of all profiles that has been fitted already; None: fitted if a zone needs it.
    forests, counts
        What `fit` found: zone -> its forest, zone -> its profiles.
    """

    zones: Zones
    precipitation: int
    temperature: int
    forest: SelectedForest
    fewest: int = 50
    everywhere: SelectedForest | None = None
    forests: dict[str, SelectedForest] = field(init=False, repr=False)
    counts: dict[str, int] = field(init=False)

    def labels(self, places: Known) -> np.ndarray:
        """Return the zone (m,) of each place by the thresholds, 0 to 3; -1 where its climate is missing."""
        return self.zones.labels(places.x[:, self.precipitation], places.x[:, self.temperature])

    def fit(self, known: Known, seed: int) -> Self:
        """Fit the zones' forests; profiles without climate are of none."""
        labels = self.labels(known)
        self.forests, self.counts = {}, {}
        for k, name in enumerate(self.zones.names):
            here = known.take(labels == k)
            self.counts[name] = len(here)
            if len(here) >= self.fewest and np.unique(here.units).size >= 2:
                self.forests[name] = replace(self.forest, label=f"{self.forest.label}, {name}").fit(here, seed)
                continue
            if self.everywhere is None:
                self.everywhere = replace(self.forest).fit(known, seed)
            self.forests[name] = self.everywhere
        return self

    def own(self, name: str) -> bool:
        """Whether a zone has a forest of its own."""
        return self.forests[name] is not self.everywhere

    def predict(self, places: Known) -> np.ndarray:
        """Return predictions, (m,); NaN where precipitation or temperature is missing."""
        weights = self.zones.memberships(places.x[:, self.precipitation], places.x[:, self.temperature])
        predicted = np.where(np.isnan(weights[:, 0]), np.nan, 0.0)
        for k, name in enumerate(self.zones.names):
            rows = weights[:, k] > 0
            if rows.any():
                predicted[rows] += weights[rows, k] * self.forests[name].predict(places.take(rows))
        return predicted
