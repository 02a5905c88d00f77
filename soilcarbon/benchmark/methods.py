"""Methods of a comparison, and those compared on one dataset: learners of `soilcarbon fit`, baselines, transferred networks.

In: a division, profiles for training and profiles held out. Out: predictions of those held out, in the target's unit. Whatever
depends on profiles (statistics and classes of covariates, filling, the transform, tuning, the epoch) is computed from those for
training alone.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.dummy import DummyRegressor

from soilcarbon.benchmark.baselines import BASELINES, INNER_FOLDS, Baseline, tune
from soilcarbon.categories import class_columns, middle_cells, without_windows
from soilcarbon.network.growth import grow, plan_growth
from soilcarbon.network.network import predict as predict_with
from soilcarbon.regression.estimators import POSITION, Samples
from soilcarbon.regression.fit import with_transform
from soilcarbon.regression.learners import LEARNERS, MEMBERS, Task
from soilcarbon.regression.model import MEANS, from_scale
from soilcarbon.regression.parts import transformed
from soilcarbon.regression.selection import hold_out

REFERENCE = "forest"
"""The method whose cross-validation is the unit of computing time."""
CONSTANTS = ("mean", "median")
# --- expected computing time: measured on one core, in seconds; only the ratios matter ----------------------------------------


def _trees(n: int, width: int, _: int = 1) -> float:
    return 0.22 + 5e-6 * n * math.log2(n + 2) * width


def _boosted(n: int, width: int, _: int = 1) -> float:
    return 0.5 * _trees(n, width)


def _constant(n: int, width: int, _: int = 1) -> float:
    return 0.01 + 1e-8 * n * width


def _linear(n: int, width: int, _: int = 1) -> float:
    return 0.13 + 3e-8 * n * width**2


def _kriging(n: int, width: int, _: int = 1) -> float:
    return 1.3 * _trees(n, width) + 1e-10 * n**3


def _from_scratch(n: int, width: int, members: int) -> float:
    return members * (0.06 + (0.018 + 2e-5 * width) * math.ceil(n / 20))


def _taught(n: int, width: int, members: int, epochs: float = 1.2) -> float:
    return members * (epochs + 0.0035 * min(n, 1500) + 0.005 * width + 0.5 * (_trees(n, width) - 0.22))


# --- methods ------------------------------------------------------------------------------------------------------------------

Seconds = Callable[[int, int, int], float]
"""Expected computing time of one fold on one core, of training profiles, columns, and members of an ensemble."""
Predicted = np.ndarray | dict[str, np.ndarray]
"""Predictions (m,) of the profiles held out; or columns: these, under the method's key, and others such as intervals."""


@dataclass(frozen=True)
class Method:
    """A compared method.

    Attributes
    ----------
    label, meaning
        As tables and figures name it; one line.
    kind
        A network, "forests" with a network in them, or a baseline, the strongest of which networks are compared with.
    predict
        Division -> what is predicted. A method that is made of others (`parts`) has their predictions, as far as they are there,
        as a second argument.
    seconds
        Expected computing time.
    candidates
        Sets of its parameters, of which inner folds choose; 1: nothing is tuned.
    needs_checkpoint
        Whether it is a transferred network.
    uses_world
        Whether it grows trees on the world's profiles, too, for each member.
    parts
        Keys of the methods that it is made of.
    """

    label: str
    meaning: str
    kind: Literal["baseline", "forests", "network"]
    predict: Callable[..., Predicted]
    seconds: Seconds = _trees
    candidates: int = 1
    needs_checkpoint: bool = False
    uses_world: bool = False
    parts: tuple[str, ...] = ()

    def columns(self, key: str, division: Any, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the columns of a run's table that this method, under its key, predicts beside those already known."""
        found = self.predict(division, known) if self.parts else self.predict(division)
        return found if isinstance(found, dict) else {key: found}


class Tables(NamedTuple):
    """A division as baselines take it: profiles with covariates in columns, some of which are class codes."""

    train: Samples
    held_out: Samples
    classes: Sequence[int]
    seed: int
    tuned: bool = True  # whether inner folds choose parameters; else the first candidate is taken
    elsewhere: Samples | None = None  # profiles of the world


def predict_baseline(division: "Division", method: Baseline) -> np.ndarray:
    """Predict by a baseline, tuned on inner folds of whole groups; the division is any that has `tables`."""
    given = division.tables
    chosen = method if given.tuned else replace(method, candidates=method.candidates[:1])
    fitted, _ = tune(chosen, given.train, given.seed, world=given.elsewhere, classes=given.classes)
    return np.asarray(fitted.predict(given.held_out.X), np.float64).ravel()


def as_method(baseline: Baseline) -> Method:
    """Return a baseline, or any regressor, as a compared method; its time is taken for that of a forest."""
    seconds = _linear if baseline.regressor.__class__.__module__.startswith("sklearn.linear_model") else _trees
    predict = partial(predict_baseline, method=baseline)
    return Method(baseline.label, baseline.meaning, "baseline", predict, seconds, len(baseline.candidates))


def expected_seconds(method: Method, n: int, width: int, members: int = MEMBERS, tuned: bool = True, world: int = 0) -> float:
    """Return the expected computing time of one fold: n training profiles, and so many of the world, of so many columns.

    Tuning is done with fewer trees. Teachers grow a third as many trees as a forest on 0.4 of the world's profiles. What is made
    of other methods costs nothing.
    """
    if method.parts:
        return 0.0
    tries = 1 + (INNER_FOLDS * method.candidates / 3 if tuned and method.candidates > 1 else 0)
    further = members * _trees(round(0.4 * world), width) / 3 if method.uses_world and world else 0.0
    return method.seconds(n, width, members) * tries + further


# --- methods on one dataset ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Division:
    """One division of a dataset's profiles.

    Attributes
    ----------
    samples
        The n profiles, their groups being those that no fold splits.
    folds, fold
        (n,) int64, and which of them is held out.
    task
        What is to be learnt; its transform is not used (`learnt`), and its network is transferred by some methods only.
    tuned
        Whether inner folds choose parameters; else the first candidate is taken.
    """

    samples: Samples
    folds: np.ndarray
    fold: int
    task: Task
    tuned: bool = True

    @cached_property
    def train(self) -> Samples:
        """The profiles for training."""
        return self.samples.take(self.folds != self.fold)

    @property
    def held_out(self) -> Samples:
        """The profiles held out."""
        return self.samples.take(self.folds == self.fold)

    @cached_property
    def learnt(self) -> Task:
        """The task from scratch, with the transform that suits the targets of the profiles for training."""
        return with_transform(replace(self.task, transfer=None), self.train.y)

    @property
    def tables(self) -> Tables:
        """Both parts with the covariates of the profiles' own cells."""
        categories = self.task.categories

        def cells(samples: Samples) -> Samples:
            return samples._replace(X=np.column_stack([samples.X[:, :POSITION], middle_cells(samples.X[:, POSITION:], categories)]))

        classes = np.flatnonzero(class_columns(without_windows(categories))).tolist()
        return Tables(cells(self.train), cells(self.held_out), classes, self.task.seed, self.tuned)


def _learner(division: Division, key: str, transferred: bool = False) -> np.ndarray:
    """Predict by a learner of `soilcarbon fit`, as its cross-validation does; its networks from scratch, or transferred."""
    task = with_transform(division.task, division.train.y) if transferred else division.learnt
    outputs = hold_out(key, division.samples, task, division.folds, division.fold)
    return from_scale(outputs, task.specify(division.train))


def _unchanged(division: Division) -> np.ndarray:
    """Predict by the network to be transferred, without covariates that it has not, as medians or means as the others do."""
    assert division.task.transfer is not None  # such methods are only there with one
    start, categories = copy.deepcopy(division.task.transfer.network), division.task.categories
    start.respecify(center=division.task.center)
    growth = plan_growth(categories, start.specification.categories, most_filled=1.0)
    names = {
        kind: [name for each in growth.added if each.kind == kind for name in each.variables] for kind in ("numeric", "classes")
    }
    network = grow(start, growth, dict.fromkeys(names["numeric"], (0.0, 1.0)), dict.fromkeys(names["classes"], (0,)))
    x = np.ascontiguousarray(division.held_out.X[:, POSITION:], np.float32)
    return np.asarray(predict_with(network, x)[0], np.float64)


def _mean_of(division: Division, known: Mapping[str, np.ndarray], parts: Sequence[str]) -> np.ndarray:
    """Return the mean of others' predictions on the scale that is learnt."""
    facts = division.learnt.specify(division.train)
    return from_scale(np.mean([transformed(known[each], facts) for each in parts], axis=0), facts)


_TIMES: Mapping[str, Seconds] = {
    "mean": _linear,
    "ridge": _linear,
    "boosting": _boosted,
    "regression-kriging": _kriging,
    "network": _from_scratch,
    "taught": _taught,
}
_LEARNERS = {
    key: Method(
        each.label,
        each.meaning,
        "network" if each.network else "baseline",
        partial(_mean_of, parts=MEANS[key]) if key in MEANS else partial(_learner, key=key),
        _TIMES.get(key, _trees),
        parts=MEANS.get(key, ()),
    )
    for key, each in LEARNERS.items()
}
_TRANSFERRED_STACK = ("transferred-taught", "regression-kriging")
_MEDIAN = Baseline("median", "the median of the profiles, everywhere", DummyRegressor(strategy="median"), "all")
TUNED = {
    "tuned-forest": replace(BASELINES["forest_log"], label="forest, tuned"),
    "tuned-boosting": replace(BASELINES["boosting"], label="gradient boosting, tuned"),
    "tuned-kriging": replace(BASELINES["kriging"], label="regression kriging, tuned"),
}
"""Methods that are nothing but others, tuned."""
METHODS: Mapping[str, Method] = {
    "mean": _LEARNERS["mean"],
    "median": replace(as_method(_MEDIAN), seconds=_constant),
    "idw": replace(as_method(BASELINES["idw"]), seconds=_constant),
    **{key: each for key, each in _LEARNERS.items() if each.kind == "baseline" and key != "mean"},
    "quantile-forest": as_method(BASELINES["quantile_forest"]),
    **{key: as_method(each) for key, each in TUNED.items()},
    **{key: each for key, each in _LEARNERS.items() if each.kind == "network"},
    "unchanged": Method(
        "network, transferred", "the network of --init_from as it is", "network", _unchanged, _linear, needs_checkpoint=True
    ),
    "fine-tuned": Method(
        "network, transferred, fine-tuned",
        "all layers are trained on from the weights of --init_from",
        "network",
        partial(_learner, key="network", transferred=True),
        _from_scratch,
        needs_checkpoint=True,
    ),
    "transferred-taught": Method(
        "network, transferred, taught",
        "a teacher, in which the fine-tuned network has a share, is distilled into the network of --init_from",
        "network",
        partial(_learner, key="taught", transferred=True),
        partial(_taught, epochs=1.6),  # and its network is fine-tuned
        needs_checkpoint=True,
        uses_world=True,
    ),
    "transferred-stack": Method(
        "stack, transferred",
        "mean of that network and regression kriging",
        "network",
        partial(_mean_of, parts=_TRANSFERRED_STACK),
        needs_checkpoint=True,
        parts=_TRANSFERRED_STACK,
    ),
}
"""Key -> method, in the order of tables."""
