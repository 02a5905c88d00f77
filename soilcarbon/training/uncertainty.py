"""What a trained network is told about itself: where it may be used, and how wrong it may be.

In: a network and the dataset it was trained on (training and validation splits; the test split is not looked at).
Out: its area of applicability, and intervals calibrated on profiles that the members predicting them did not learn from.
"""

import logging

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.preprocessing import unfold_classes
from soilcarbon.soil.dataset import Dataset, middle_cells
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.groups import inner_folds
from soilcarbon.training import loop as engine
from soilcarbon.training.distillation import fold_units

log = logging.getLogger(__name__)
AREA_FOLDS, AREA_POINTS = 5, 2000
"""Folds between which training profiles' dissimilarity is measured, and how many of them a checkpoint carries."""
FEWEST = 20
"""Profiles: fewer give no interval of 90 %, or one that their luck decides."""
FEWEST_UNITS = 40
"""Blocks: of fewer, no more than half of the share left out of a 95 % interval can be told from the largest block's errors."""


def learn_applicability(network: SoilCarbonNet, data: Dataset, rows: np.ndarray, seed: int) -> ApplicabilityArea | None:
    """Return where a network may be used: how far in its predictors, weighted by importance, from `rows`, which taught it.

    Predictors are the variables in the profile's own cell; a variable's importance is what the squared error of the training
    profiles gains when its values are shuffled among them. None where no distance can be told.
    """
    facts = network.specification
    weights = engine.shuffled_importance(network, data.x[rows], data.y[rows], seed)
    per_predictor = np.concatenate(
        [
            np.repeat(weights[name], len(facts.classes[name]) if category.kind == "classes" else 1)
            for category in facts.categories
            for name in category.variables
        ]
    )
    units = fold_units(data)[rows]
    middle = middle_cells(data.x[rows], facts.categories)
    try:
        folds = inner_folds(units, AREA_FOLDS, seed)
        return ApplicabilityArea.fit(unfold_classes(middle, facts), per_predictor, folds, AREA_POINTS, seed)
    except ValueError as error:
        log.warning("no area of applicability: %s", error)
        return None


def held_out_predictions(network: SoilCarbonNet, x: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    """Return predictions (n,) of profiles, each by those members only that did not learn from it.

    Parameters
    ----------
    network
        Trained.
    x
        (n, F) packed covariates.
    folds
        (n,) the member that held each profile out; None: all of them did.
    """
    predicted, members = engine.predict(network, x)
    return predicted if folds is None else members[folds, np.arange(len(x))]


def check_level(network: SoilCarbonNet, level: float) -> None:
    """Stop if an interval of a level would have no end, for too little was held out.

    Raises
    ------
    UserError
        Naming the highest level there is.
    """
    if network.calibration is not None and level > (highest := network.calibration.highest_level()):
        raise UserError(
            f"level = {level:g}: what the checkpoint held out supports intervals up to {highest:.3f}; use a lower --level"
        )


def learn_calibration(
    network: SoilCarbonNet, data: Dataset, rows: np.ndarray, folds: np.ndarray | None
) -> ConformalCalibration | None:
    """Return how wide intervals must be, from profiles held out: the validation split's, or those of every member's fold.

    Errors are measured on the scale of ln(1 + target), where the target cannot be negative: an interval then widens in
    proportion to the prediction, as the errors of soil carbon do. A fold's profiles were seen by the network that its member
    was fine-tuned from, if they were in that network's training split; `compare.py` measures coverage where none was.

    Parameters
    ----------
    network
        Trained; what its intervals rest on is noted in its record as `calibrated_on`.
    data
        Its dataset.
    rows, folds
        As `lessons.Plan`; without folds, the validation split's rows are used.

    Returns
    -------
    ConformalCalibration
        None where there are fewer than `FEWEST` profiles.
    """
    chosen = data.split["valid"] if folds is None else rows
    if len(chosen) < FEWEST:
        log.warning("no intervals: %d profiles were held out, at least %d are needed", len(chosen), FEWEST)
        return None
    units, stands_for = fold_units(data)[chosen], "blocks" if data.block_size else "places"
    if (count := len(np.unique(units))) < FEWEST_UNITS:
        log.info(
            "intervals: %d blocks were held out, too few to stand for new ones; profiles stand for new profiles instead", count
        )
        units, count, stands_for = np.arange(len(chosen)), len(chosen), "profiles"
    network.record["calibrated_on"] = f"{len(chosen)} profiles held out, standing for new {stands_for} ({count})"
    least = network.specification.bounds[0] if network.specification.bounds else float(min(0.0, data.y[chosen].min()))
    predicted = held_out_predictions(network, data.x[chosen], folds)
    return ConformalCalibration.fit(
        data.y[chosen],
        predicted,
        scale="log1p" if least >= 0 else "identity",
        symmetric=network.specification.center == "median",
        groups=units,
        bounds=(least, None),
    )
