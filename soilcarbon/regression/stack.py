"""Stack of a network and the forest of `soilcarbon fit`: their mean on the scale of the transform, and its uncertainty.

In: a network whose members held the profiles out by folds, and the profiles. Out: a `FittedModel` of the learner "stack".
"""

from typing import Any, Literal

import numpy as np

from soilcarbon.network.specification import Specification
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.learners import LEARNERS, Task
from soilcarbon.regression.model import FittedModel, ModelRecord
from soilcarbon.regression.parts import Network, transformed
from soilcarbon.regression.selection import in_unit, smearing
from soilcarbon.regression.uncertainty import Uncertainty, calibrate
from soilcarbon.stats import metrics
from soilcarbon.training.arrays import Trained


def stack(trained: Trained, samples: Samples, task: Task) -> FittedModel:
    """Return the mean of a network, which predicts medians, and a forest of the same profiles.

    Its prediction intervals are calibrated on profiles that were held out of both: a forest is fitted without each fold of the
    network's members. Where nothing was held out there are none, and the smearing factor is that of the network. The area of
    applicability is the network's.
    """
    network, n = trained.network, len(samples.y)
    least = min(0.0, float(samples.y.min()))
    facts = network.specification.changed(members=1, smearing=None, center=task.center, bounds=(least, float(samples.y.max())))
    parts = {"network": Network(network), **LEARNERS["forest"].fit(samples, facts, task)}
    record: dict[str, Any] = {"reason": "the mean of network and forest; nothing else was tried", "profiles": {"train": n}}
    record["training_mean"] = float(samples.y.mean())
    calibration = None
    if trained.folds is None or trained.held_out is None:
        factor = float(np.mean(network.specification.smearing or 1.0))
    else:
        forests = _held_out_by_forests(samples, facts, task, trained.folds)
        outputs = np.mean([transformed(trained.held_out, facts), forests], axis=0)
        factor = smearing(samples.y, outputs, facts.target_transform)
        predicted = in_unit(samples.y, outputs, facts, trained.folds)
        what = "profiles" if np.unique(samples.groups).size == n else "groups"
        scale: Literal["log1p", "identity"] = "log1p" if facts.target_transform == "log1p" else "identity"
        calibration, record["calibrated_on"] = calibrate(samples.y, predicted, samples.groups, scale, what)
        scores = {"model": "stack", "n": n, **metrics.scores(samples.y, predicted), "chosen": True}
        record |= {"cross_validation": (scores,), "folds": {"strategy": what}}
    if facts.target_transform == "log1p":
        facts = facts.changed(smearing=(factor,))
    return FittedModel("stack", facts, parts, Uncertainty(calibration, None, network.applicability), ModelRecord(**record))


def _held_out_by_forests(samples: Samples, facts: Specification, task: Task, folds: np.ndarray) -> np.ndarray:
    """Return the transformed target (n,) of every profile, predicted by a forest fitted to the other folds."""
    found = np.empty(len(folds))
    for fold in np.unique(folds):
        out = folds == fold
        (forest,) = LEARNERS["forest"].fit(samples.take(~out), facts, task).values()
        found[out] = forest.predict(samples.X[out])
    return found
