"""The methods the network is compared with, each tuned by folds of its own profiles.

In: profiles as arrays (`Known`). Out: fitted methods that predict the target at places, and what was chosen for them.

    from soilcarbon.benchmark.tuning import BASELINES, tune
    method, facts = tune("kriging", known, seed=0)
    predicted = method.predict(places)

`BASELINES` lists them. All have the same budget, at most four candidate settings, and the same inner folds choose among them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from itertools import product
from typing import Any

import numpy as np

from soilcarbon.benchmark.baselines import Boosting, InverseDistance, Known, Mean, Method, RidgeRegression, target_of
from soilcarbon.benchmark.forests import Forest, QuantileForest, WorldForest
from soilcarbon.benchmark.kriging import RegressionKriging
from soilcarbon.stats.groups import inner_folds

_FEWEST_TUNED = 8
"""Of fewer profiles each inner fold holds out two or three, and which candidate wins is chance."""


# --- all of them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """One line of the comparison.

    Attributes
    ----------
    label
        As tables and figures name it.
    meaning
        One line for a legend.
    method
        Its class, a dataclass.
    candidates
        Settings one of which `tune` chooses; the first is taken where there is too little to choose by.
    fixed
        Settings of all candidates.
    while_tuning
        Settings that make choosing cheaper, the same for all candidates: fewer trees.
    """

    label: str
    meaning: str
    method: Callable[..., Method]
    candidates: tuple[dict[str, Any], ...] = ({},)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    while_tuning: Mapping[str, Any] = field(default_factory=dict)


def _grid(**settings: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Return every combination of the values of each setting."""
    return tuple(dict(zip(settings, values, strict=True)) for values in product(*settings.values()))


def _raw_and_log(key: str, label: str, meaning: str, **more: Any) -> dict[str, Baseline]:
    """Return two lines of one method: of y, and of ln(1 + y)."""
    return {
        key: Baseline(label, f"{meaning} of y", **more),
        f"{key}_log": Baseline(
            f"{label}, log", f"{meaning} of ln(1+y), transformed back: aims at the median", fixed={"log": True}, **more
        ),
    }


_FOREST = _grid(max_features=(1 / 3, 2 / 3), min_samples_leaf=(1, 5))
_SHARES = _grid(share=(0.3, 0.05, 0.1, 0.5))

BASELINES: dict[str, Baseline] = {
    "mean": Baseline("mean", "the mean of the region's profiles, everywhere", Mean),
    "idw": Baseline(
        "inverse distance",
        "mean of the nearest profiles, by distance; no covariates",
        InverseDistance,
        tuple({"power": power, "neighbours": neighbours} for power, neighbours in ((2.0, 32), (2.0, 8), (1.0, 32), (3.0, 32))),
    ),
    "ridge": Baseline("ridge", "linear regression of ln(1+y), shrunk", RidgeRegression, _grid(alpha=(10.0, 1.0, 100.0, 1000.0))),
    **_raw_and_log("forest", "forest", "random forest", method=Forest, candidates=_FOREST, while_tuning={"trees": 100}),
    **_raw_and_log(
        "forest_world",
        "forest, global + regional",
        "random forest, of the region's and the world's profiles,",
        method=WorldForest,
        candidates=_SHARES,
        while_tuning={"trees": 25},
    ),
    "quantile_forest": Baseline(
        "quantile forest", "median of a quantile regression forest", QuantileForest, _FOREST, while_tuning={"trees": 100}
    ),
    "boosting": Baseline(
        "gradient boosting",
        "gradient-boosted trees of ln(1+y)",
        Boosting,
        tuple(
            {"loss": loss, "learning_rate": rate, "max_leaf_nodes": leaves}
            for loss in ("squared_error", "absolute_error")
            for rate, leaves in ((0.03, 8), (0.1, 31))
        ),
    ),
    "kriging": Baseline(
        "regression kriging",
        "random forest of ln(1+y), and kriging of its out-of-bag residuals",
        RegressionKriging,
        _grid(model=("exponential", "spherical"), min_samples_leaf=(1, 5)),
        while_tuning={"trees": 100},
    ),
}
"""Key -> method, in the order of tables."""


# --- tuning ------------------------------------------------------------------------------------------------------


def held_out_predictions(make: Callable[[], Method], known: Known, folds: np.ndarray, seed: int) -> np.ndarray:
    """Return predictions (n,) of every profile, each by a fit that did not see its fold.

    Parameters
    ----------
    make
        Returns a new method.
    known
        The profiles.
    folds
        (n,) fold numbers.
    seed
        Of every fit.

    Raises
    ------
    ValueError
        If the folds are not one for each profile, or are one fold only.
    """
    folds = np.asarray(folds)
    if folds.shape != (len(known),) or np.unique(folds).size < 2:
        raise ValueError(f"folds {folds.shape} must be one for each of {len(known)} profiles, and two or more")
    predicted = np.empty(len(known))
    for fold in np.unique(folds):
        held_out = folds == fold
        predicted[held_out] = make().fit(known.take(~held_out), seed).predict(known.take(held_out))
    return predicted


def tune(
    key: str,
    known: Known,
    seed: int,
    *,
    world: Known | None = None,
    classes: tuple[int, ...] = (),
    inner: int = 3,
    n_jobs: int = 1,
) -> tuple[Method, dict[str, Any]]:
    """Choose a baseline's settings by inner folds of whole units, and fit it to all profiles.

    The candidate of the lowest MAE wins, over all held-out profiles together; at a tie the first. Of fewer than two
    units or eight profiles the first candidate is taken untried.

    Parameters
    ----------
    key
        Of `BASELINES`.
    known
        The region's profiles to learn from.
    seed
        Of the folds and of every fit.
    world
        Profiles of the world for those methods that use them, their units numbered as the region's, as
        `groups.spatial_groups` does. Those in a unit of the region are left out: they may be the same profiles,
        and in the inner folds they would give away what is held out. That none lies where predictions will be
        scored is the caller's to see to.
    classes
        Columns of x that are class codes.
    inner
        Folds, or as many as there are units.
    n_jobs
        Cores that grow a forest.

    Returns
    -------
    method
        Fitted.
    facts
        "settings": the chosen ones. "folds": inner folds, 0 if untried. "candidates": "settings" and "mae" (the
        target's unit; None if untried) of each.

    Raises
    ------
    ValueError
        If the key is unknown, a target missing or negative, or `inner` below 2.
    """
    if key not in BASELINES:
        raise ValueError(f"baseline {key!r}: expected one of {', '.join(BASELINES)}")
    if inner < 2:
        raise ValueError(f"inner = {inner} folds: expected 2 or more")
    y, baseline = target_of(known), BASELINES[key]
    if world is not None:
        world = world.take(~np.isin(world.units, known.units))
    given: dict[str, Any] = {"world": world, "classes": classes, "n_jobs": n_jobs}
    asked = signature(baseline.method).parameters
    make = partial(baseline.method, **baseline.fixed, **{name: value for name, value in given.items() if name in asked})
    errors: list[float | None] = [None] * len(baseline.candidates)
    best, count = 0, 0
    if len(known) >= _FEWEST_TUNED and np.unique(known.units).size >= 2:
        folds = inner_folds(known.units, inner, seed)
        count = int(folds.max()) + 1
        tried = [partial(make, **(candidate | dict(baseline.while_tuning))) for candidate in baseline.candidates]
        found = [float(np.abs(held_out_predictions(each, known, folds, seed) - y).mean()) for each in tried]
        best, errors = int(np.argmin(found)), list(found)
    chosen = baseline.candidates[best]
    candidates = [{"settings": dict(each), "mae": error} for each, error in zip(baseline.candidates, errors, strict=True)]
    return make(**chosen).fit(known, seed), {"settings": dict(chosen), "folds": count, "candidates": candidates}
