"""Uncertainty of a trained network: area of applicability and calibrated prediction intervals.

In: a network and the dataset it was trained on (training and validation splits; the test split is not read).
Out: its area of applicability, and the calibration of its prediction intervals on held-out profiles.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from soilcarbon.categories import middle_cells, variable_columns
from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet, as_means, predict
from soilcarbon.network.specification import unfold_classes, variable_of_predictor
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField, kilometres_apart
from soilcarbon.stats.groups import inner_folds, spatial_groups

log = logging.getLogger(__name__)
AREA_FOLDS = 5
"""Folds between which training profiles' dissimilarity is measured."""
FEWEST = 20
"""Profiles: fewer give no interval of 90 %, or one that their luck decides."""
MANY = 1000
"""Validation profiles from which on it does not matter for the intervals that they also chose the best epoch: one of some ten times
fewer numbers."""
FEWEST_GROUPS = 40
"""Blocks: of fewer, half of the share outside a 95 % interval or more is decided by the largest block's errors."""


def fold_groups(data: Dataset) -> np.ndarray:
    """Return the label (N,) of the group of each profile that no fold may split: the given one, its block, or its place."""
    if data.groups is not None:
        return data.groups
    return spatial_groups(data.lon, data.lat, data.block_size)


def rows_outside(world: Dataset, region: Dataset) -> np.ndarray:
    """Return the training rows of the world's dataset that lie in no place, or block, of the region's profiles.

    Otherwise profiles of a held-out fold could be in the training set through the global dataset.
    """
    groups = spatial_groups(world.lon, world.lat, region.block_size)
    rows = world.split["train"]
    outside: np.ndarray = rows[~np.isin(groups[rows], fold_groups(region))]
    return outside


def shuffled_importance(network: SoilCarbonNet, x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return the permutation importance of each variable: the increase of the mean squared error when it is shuffled.

    Parameters
    ----------
    network
        Trained; the error is taken on the scale of its transform.
    x, y
        (n, F) packed covariates and (n,) targets of its training profiles.
    seed
        Of the one shuffle, by which all variables are shuffled alike.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    logarithmic = network.specification.target_transform == "log1p"

    def error(covariates: np.ndarray) -> float:
        pair = predict(network, covariates)[0], y
        predicted, observed = (np.log1p(np.maximum(values, 0)) if logarithmic else values for values in pair)
        return float(np.mean((predicted - observed) ** 2))

    return increases(error, x, variable_columns(network.specification.categories), order)


def increases(
    error: Callable[[np.ndarray], float], x: np.ndarray, columns: Mapping[str, slice], order: np.ndarray
) -> dict[str, float]:
    """Return by how much the error of covariates (n, F) increases where each variable's columns are put in another order (n,)."""
    whole, gained = error(x), {}
    for name, at in columns.items():
        shuffled = x.copy()
        shuffled[:, at] = x[order][:, at]
        gained[name] = max(error(shuffled) - whole, 0.0)
    return gained


def fit_applicability(network: SoilCarbonNet, data: Dataset, rows: np.ndarray, seed: int) -> ApplicabilityArea | None:
    """Return the area of applicability of a network trained on `rows`: distances in its predictors, weighted by importance.

    Predictors are the variables in the profile's own cell. None where no distance is defined.
    """
    facts = network.specification
    weights = shuffled_importance(network, data.x[rows], data.y[rows], seed)
    per_predictor = np.array([weights[name] for name in variable_of_predictor(facts)])
    groups = fold_groups(data)[rows]
    middle = middle_cells(data.x[rows], facts.categories)
    try:
        folds = inner_folds(groups, AREA_FOLDS, seed)
        return ApplicabilityArea.fit(unfold_classes(middle, facts), per_predictor, folds, seed=seed)
    except ValueError as error:
        log.warning("no area of applicability: %s", error)
        return None


def held_out_predictions(network: SoilCarbonNet, x: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    """Return predictions (n,) of profiles, each by those members only that were not trained on it.

    Parameters
    ----------
    network
        Trained.
    x
        (n, F) packed covariates.
    folds
        (n,) the member that held each profile out; None: all members held out all profiles.
    """
    predicted, members = predict(network, x)
    return predicted if folds is None else members[folds, np.arange(len(x))]


def check_level(calibration: ConformalCalibration | None, level: float, strata: Sequence[str | None] = (None,)) -> None:
    """Check that enough profiles were held out, in each of the strata, for finite intervals of a level.

    Raises
    ------
    UserError
        Naming the highest level that is possible.
    """
    if calibration is None:
        return
    highest = min(calibration.highest_level(name) for name in strata)
    if level > highest:
        raise UserError(
            f"level = {level:g}: the checkpoint's held-out profiles support intervals up to {highest:.3f}; use a lower --level"
        )


def fit_errors(network: SoilCarbonNet, data: Dataset, rows: np.ndarray, folds: np.ndarray | None, seed: int) -> ErrorField | None:
    """Return the error model of a network's means and totals, of profiles held out as in `fit_calibration`.

    None where these are few, chose the best epoch, or have no places, or a target is below 0.
    """
    chosen = data.split["valid"] if folds is None else rows
    if len(chosen) < FEWEST or _chose_the_epoch(network, chosen, folds) or not {"lon", "lat"} <= set(data.table):
        return None
    y = data.y[chosen]
    members = predict(network, data.x[chosen])[1]
    means = as_means(members, network.specification)
    predicted = means.mean(0) if folds is None else means[folds, np.arange(len(chosen))]
    if min(y.min(), predicted.min()) < 0:
        return None
    places, one = np.column_stack([data.lon, data.lat]), np.zeros(len(y), np.int64)
    fitted = np.concatenate([chosen, data.split["train"]]) if folds is None else chosen
    fold = np.arange(len(fitted)) >= len(chosen) if folds is None else folds
    try:
        apart = kilometres_apart(places[fitted], fold)[: len(chosen)]
        known = y, predicted, one, 1, places[chosen], one if data.period is None else data.period[chosen], seed, apart
        if folds is None:
            return ErrorField.fit(*known, timeless=True)
        # members that chose their epoch by the profiles they held out err less there, by about as much as their mean gains
        gained = None if _chosen_by(network) else means.var(0, ddof=1) * (1 - 1 / len(means))
        return ErrorField.fit(*known, means.mean(0), timeless=True, averaging=gained)
    except ValueError as error:
        log.warning("no intervals of means and totals: %s", error)
        return None


def _chose_the_epoch(network: SoilCarbonNet, chosen: np.ndarray, folds: np.ndarray | None) -> bool:
    """Return whether the validation profiles are few and chose the best epoch, so that their errors are too small."""
    return folds is None and _chosen_by(network) and len(chosen) < MANY


def _chosen_by(network: SoilCarbonNet) -> bool:
    """Return whether a validation score chose the best epoch."""
    return network.record.settings.get("select_on", "none") != "none"


def fit_calibration(
    network: SoilCarbonNet, data: Dataset, rows: np.ndarray, folds: np.ndarray | None
) -> ConformalCalibration | None:
    """Calibrate prediction intervals on profiles held out: the validation split's, or those of every member's fold.

    Errors are measured on the scale of ln(1 + target), where the target cannot be negative: an interval then widens in
    proportion to the prediction, as the errors of soil carbon do. A fold's profiles were seen by the network that its member
    was fine-tuned from, if they were in that network's training split; `soilcarbon compare` measures coverage where none was.

    Parameters
    ----------
    network
        Trained; the record's `calibrated_on` describes the profiles its intervals are calibrated on.
    data
        Its dataset.
    rows, folds
        As `run.TrainingData`; without folds, the validation split's rows are used.

    Returns
    -------
    ConformalCalibration
        None where there are fewer than `FEWEST` profiles, or fewer than `MANY` that also chose the best epoch.
    """
    chosen = data.split["valid"] if folds is None else rows
    if len(chosen) < FEWEST:
        log.warning("no intervals: %d profiles were held out, at least %d are needed", len(chosen), FEWEST)
        return None
    if _chose_the_epoch(network, chosen, folds):
        log.warning(
            "no intervals: the %d validation profiles also chose the best epoch, so their errors are too small; "
            "--members 5 calibrates on folds", len(chosen),
        )  # fmt: skip
        return None
    groups, stands_for = fold_groups(data)[chosen], "blocks" if data.block_size else "places"
    if (count := len(np.unique(groups))) < FEWEST_GROUPS:
        log.info(
            "intervals: %d blocks were held out, too few to calibrate on blocks; calibrated on single profiles instead, they may "
            "be too narrow far from all profiles",
            count,
        )
        groups, count, stands_for = np.arange(len(chosen)), len(chosen), "profiles"
    network.record.calibrated_on = f"{len(chosen)} profiles held out, standing for new {stands_for} ({count})"
    least = network.specification.bounds[0] if network.specification.bounds else float(min(0.0, data.y[chosen].min()))
    predicted = held_out_predictions(network, data.x[chosen], folds)
    return ConformalCalibration.fit(
        data.y[chosen],
        predicted,
        scale="log1p" if least >= 0 else "identity",
        symmetric=network.specification.center == "median",
        groups=groups,
        bounds=(least, None),
    )
