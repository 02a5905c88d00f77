"""Methods compared on one dataset: learners of `soilcarbon fit`, further baselines, any regressor, and transferred networks.

In: a `Division`, profiles for training and profiles held out. Out: predictions of those held out, in the target's unit. Whatever
depends on profiles (statistics and classes of covariates, filling, the transform, tuning, the epoch) is computed from those for
training alone.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
from sklearn.dummy import DummyRegressor

from soilcarbon.benchmark.baselines import BASELINES, INNER_FOLDS, Baseline, tune
from soilcarbon.categories import middle_cells
from soilcarbon.network.growth import grow, plan_growth
from soilcarbon.network.network import predict as predict_with
from soilcarbon.regression.estimators import POSITION, Samples
from soilcarbon.regression.fit import with_transform
from soilcarbon.regression.learners import LEARNERS, MEMBERS, Task
from soilcarbon.regression.model import from_scale
from soilcarbon.regression.parts import transformed
from soilcarbon.regression.selection import STACKED, hold_out

REFERENCE = "forest"
"""The method whose cross-validation is the unit of computing time."""
CONSTANTS = ("mean", "median")
STACKS = {"stack": STACKED, "transferred-stack": ("transferred-taught", "forest")}
"""Method -> the methods that it is the mean of, on the scale that is learnt."""


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


Seconds = Callable[[int, int, int], float]
"""Expected computing time of one fold on one core, of training profiles, columns, and members of an ensemble."""


@dataclass(frozen=True)
class Method:
    """A compared method.

    Attributes
    ----------
    label, meaning
        As tables and figures name it; one line.
    predict
        Division -> predictions of the profiles held out, in the target's unit.
    kind
        A network may be from scratch or transferred.
    seconds
        Expected computing time.
    candidates
        Sets of its parameters, of which inner folds choose; 1: nothing is tuned.
    needs_checkpoint
        Whether it is a transferred network.
    uses_world
        Whether it grows trees on the world's profiles, too, for each member.
    """

    label: str
    meaning: str
    predict: Callable[[Division], np.ndarray]
    kind: Literal["baseline", "network"]
    seconds: Seconds
    candidates: int = 1
    needs_checkpoint: bool = False
    uses_world: bool = False


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


# --- how methods predict ------------------------------------------------------------------------------------------------------


def _learner(division: Division, key: str, transferred: bool = False) -> np.ndarray:
    """Predict by a learner of `soilcarbon fit`, as its cross-validation does; its networks from scratch, or transferred."""
    task = with_transform(division.task, division.train.y) if transferred else division.learnt
    outputs = hold_out(key, division.samples, task, division.folds, division.fold)
    return from_scale(outputs, task.specify(division.train))


def _baseline(division: Division, method: Baseline) -> np.ndarray:
    """Predict by a baseline of the profiles' own cells, tuned on inner folds of whole groups."""
    categories = division.task.categories
    kinds = np.concatenate([np.full(len(each.variables), each.kind == "classes") for each in categories])

    def cells(samples: Samples) -> Samples:
        own = middle_cells(samples.X[:, POSITION:], categories)
        return samples._replace(X=np.column_stack([samples.X[:, :POSITION], own]))

    chosen = method if division.tuned else replace(method, candidates=method.candidates[:1])
    fitted, _ = tune(chosen, cells(division.train), division.task.seed, classes=tuple(np.flatnonzero(kinds).tolist()))
    return np.asarray(fitted.predict(cells(division.held_out).X), np.float64).ravel()


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


def as_method(baseline: Baseline) -> Method:
    """Return a baseline, or any regressor, as a compared method; its time is taken for that of a forest."""
    count = len(baseline.candidates)
    seconds = _linear if baseline.regressor.__class__.__module__.startswith("sklearn.linear_model") else _trees
    return Method(baseline.label, baseline.meaning, partial(_baseline, method=baseline), "baseline", seconds, count)


def expected_seconds(method: Method, n: int, width: int, members: int = MEMBERS, tuned: bool = True, world: int = 0) -> float:
    """Return the expected computing time of one fold: n training profiles, and so many of the world, of so many columns.

    Tuning is done with fewer trees. Teachers grow a third as many trees as a forest on 0.4 of the world's profiles.
    """
    tries = 1 + (INNER_FOLDS * method.candidates / 3 if tuned and method.candidates > 1 else 0)
    further = members * _trees(round(0.4 * world), width) / 3 if method.uses_world and world else 0.0
    return method.seconds(n, width, members) * tries + further


# --- the methods --------------------------------------------------------------------------------------------------------------


def _learners() -> dict[str, Method]:
    times: dict[str, Seconds] = {
        "mean": _linear,
        "ridge": _linear,
        "boosting": _boosted,
        "regression-kriging": _kriging,
        "network": _from_scratch,
    }
    times["taught"] = _taught
    return {
        key: Method(
            each.label,
            each.meaning,
            partial(_learner, key=key),
            "network" if each.network else "baseline",
            times.get(key, _trees),
        )
        for key, each in LEARNERS.items()
    }


_MEDIAN = Baseline("median", "the median of the profiles, everywhere", DummyRegressor(strategy="median"), "all")
_FURTHER = {
    "idw": BASELINES["idw"],
    "quantile-forest": BASELINES["quantile_forest"],
    "tuned-forest": replace(BASELINES["forest_log"], label="forest, tuned"),
    "tuned-boosting": replace(BASELINES["boosting"], label="gradient boosting, tuned"),
    "tuned-kriging": replace(BASELINES["kriging"], label="regression kriging, tuned"),
}
TUNED = tuple(key for key in _FURTHER if key.startswith("tuned-"))
"""Methods that are nothing but others, tuned."""
_LEARNERS = _learners()
METHODS: Mapping[str, Method] = {
    "mean": _LEARNERS.pop("mean"),
    "median": replace(as_method(_MEDIAN), seconds=_constant),
    "idw": replace(as_method(_FURTHER["idw"]), seconds=_constant),
    **{key: each for key, each in _LEARNERS.items() if each.kind == "baseline"},
    **{key: as_method(each) for key, each in _FURTHER.items() if key != "idw"},
    **{key: each for key, each in _LEARNERS.items() if each.kind == "network"},
    "unchanged": Method(
        "network, transferred", "the network of --init_from as it is", _unchanged, "network", _linear, needs_checkpoint=True
    ),
    "fine-tuned": Method(
        "network, transferred, fine-tuned",
        "all layers are trained on from the weights of --init_from",
        partial(_learner, key="network", transferred=True),
        "network",
        _from_scratch,
        needs_checkpoint=True,
    ),
    "transferred-taught": Method(
        "network, transferred, taught",
        "a teacher, in which the fine-tuned network has a share, is distilled into the network of --init_from",
        partial(_learner, key="taught", transferred=True),
        "network",
        partial(_taught, epochs=1.6),  # and its network is fine-tuned
        needs_checkpoint=True,
        uses_world=True,
    ),
    "transferred-stack": Method(
        "stack, transferred",
        "mean of that network and the forest",
        partial(_learner, key="stack", transferred=True),
        "network",
        _trees,
        needs_checkpoint=True,
    ),
}
"""Key -> method, in the order of tables."""


def stacked(division: Division, key: str, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a stack's predictions from those of its parts: their mean on the scale that is learnt."""
    facts = division.learnt.specify(division.train)
    return from_scale(np.mean([transformed(known[each], facts) for each in STACKS[key]], axis=0), facts)
