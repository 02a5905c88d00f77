"""Variants of the network in a comparison: from scratch, pretrained, fine-tuned, distilled, and stacked with forests.

In: a `Case`: one division of a region's profiles, and a network that has seen nothing of the region. Out: predictions of the
profiles held out.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import nnls

from soilcarbon.benchmark.baselines import BASELINES, Baseline, tune
from soilcarbon.network.network import SoilCarbonNet, to_target
from soilcarbon.network.network import predict as predict_with
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.fit import samples_of
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import inner_folds
from soilcarbon.training.distillation import Teacher, distil
from soilcarbon.training.loop import encode_profiles, outputs_of
from soilcarbon.training.run import train_in_memory
from soilcarbon.training.uncertainty import fold_groups, rows_outside

VALID_FOLDS = 7
"""A seventh of the blocks that are not held out is the validation set, which chooses a network's best epoch."""
STACK = "stack"
STACKED = ("tuned", "forest_log", "forest_world_log")
AS_SET = "regional"
BLEND = "blend"
BLENDED = (AS_SET, "forest_log")
"""The variant that the comparison is about: as `soilcarbon finetune` trains it under the settings compared."""


@dataclass(frozen=True)
class Case:
    """One split of a region's profiles into training and held-out profiles.

    Attributes
    ----------
    region
        All its profiles.
    rows, test
        Rows of the training set, and rows held out.
    start
        The network pretrained without any place of the region.
    world
        The dataset it was pretrained on.
    settings
        The fine-tuning that is compared.
    """

    region: Dataset
    rows: np.ndarray
    test: np.ndarray
    start: SoilCarbonNet
    world: Dataset
    settings: RegionalSettings

    @cached_property
    def samples(self) -> Samples:
        """The region's profiles, as baselines take them."""
        return samples_of(self.region)

    @cached_property
    def elsewhere(self) -> Samples:
        """The world's training profiles that lie in no place or block of the region, as baselines take them."""
        world = replace(self.world, block_size=self.region.block_size)
        return samples_of(world, rows_outside(self.world, self.region))

    @property
    def classes(self) -> tuple[int, ...]:
        """Covariates that are class codes."""
        kinds = np.concatenate([np.full(each.width, each.kind == "classes") for each in self.region.categories])
        return tuple(np.flatnonzero(kinds).tolist())

    def dataset(self, valid: np.ndarray | None = None) -> Dataset:
        """Return the region with the split of this case: its rows, a few blocks of which (or `valid`) are the validation set."""
        groups = fold_groups(self.region)[self.rows]
        k = min(VALID_FOLDS, len(np.unique(groups)))
        held_out = inner_folds(groups, k, self.settings.seed) == 0 if k > 1 else np.arange(len(self.rows)) % VALID_FOLDS == 0
        split = {"train": self.rows[~held_out], "valid": self.rows[held_out] if valid is None else valid}
        return replace(self.region, split=split)


def predict_baseline(method: Baseline, case: Case) -> np.ndarray:
    """Tune a baseline on a case's training set and return its predictions (m,) of the profiles held out."""
    fitted, _ = tune(method, case.samples.take(case.rows), case.settings.seed, world=case.elsewhere, classes=case.classes)
    return np.asarray(fitted.predict(case.samples.X[case.test]))


def plain_settings(settings: RegionalSettings, **changes: Any) -> RegionalSettings:
    """Return settings for fine-tuning without a teacher: as published, with the best epoch chosen by validation RMSE."""
    usual: dict[str, Any] = {
        "teacher": "none",
        "global_data": None,
        "validate_on": "split",
        "select_on": "rmse",
        "lr_schedule": "constant",
    }
    usual |= {"epochs": 200, "patience": 20, "batch_size": 32, "lr": 3e-4, "members": 3, "freeze": "none"}
    return settings.with_given(**usual | changes)


def train_network(case: Case, settings: RegionalSettings, valid: np.ndarray | None = None) -> SoilCarbonNet:
    """Fine-tune a copy of the case's network; `valid` are rows for the validation set instead of the case's own."""
    world, how = (None, None) if settings.teacher == "none" else (case.world, distil)
    return train_in_memory(copy.deepcopy(case.start), case.dataset(valid), settings, world, how)


def _fine_tuned(case: Case, **changes: Any) -> np.ndarray:
    network = train_network(case, plain_settings(case.settings, **changes))
    return predict_with(network, case.region.x[case.test])[0]


def _teacher(case: Case) -> np.ndarray:
    """Predict by the ensemble teacher itself: trees, and a Gaussian process round the pretrained network."""
    cpu = torch.device("cpu")
    region, world = (
        encode_profiles(case.start.specification, each.X[:, 2:].astype(np.float32), each.y, cpu)
        for each in (case.samples.take(case.rows), case.elsewhere)
    )
    pairs = ((each.encoded.numpy(), each.output.double().numpy()) for each in (region, world))
    (x, y), (world_x, world_y) = pairs
    with torch.no_grad():
        places = case.start.encode(torch.from_numpy(case.region.x[case.test])).numpy()
    prior = (np.mean([outputs_of(each, torch.from_numpy(at)).numpy() for each in case.start.members()], 0) for at in (x, places))
    output = Teacher(case.settings.seed).fit(x, y, world_x, world_y, next(prior)).predict(places, next(prior))
    facts = case.start.specification.model_copy(update={"members": 1, "center": "median"})
    return to_target(torch.from_numpy(output)[None], facts)[0].numpy()


def stack(case: Case, known: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Stack network and forests on the scale of ln(1 + y), by weights fitted on inner folds of whole blocks (Wolpert 1992).

    `known` are predictions (m,) of the profiles held out that are there already.
    """
    known = known or {}
    folds = inner_folds(case.samples.groups[case.rows], 3, case.settings.seed)
    held_out = np.empty((len(case.rows), len(STACKED)))
    for fold in range(int(folds.max()) + 1):
        part = replace(case, rows=case.rows[folds != fold], test=case.rows[folds == fold])
        held_out[folds == fold] = np.log1p(np.stack([predict(key, part) for key in STACKED], axis=1))
    weights = nnls(held_out, np.log1p(case.region.y[case.rows]))[0]
    logs = np.log1p(np.stack([known[key] if key in known else predict(key, case) for key in STACKED], axis=1))
    return np.asarray(np.expm1(logs @ weights))


def blend(case: Case, known: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Return the mean of network and forest on the scale of ln(1 + y); `known` as of `stack`."""
    known = known or {}
    return np.asarray(np.expm1(np.mean([np.log1p(known[key] if key in known else predict(key, case)) for key in BLENDED], axis=0)))


@dataclass(frozen=True)
class Variant:
    """One form of the network: its label, one line for a legend, how it predicts the profiles held out, and its kind."""

    label: str
    meaning: str
    predict: Callable[[Case], np.ndarray]
    kind: Literal["network", "forests"] = "network"


VARIANTS: Mapping[str, Variant] = {
    "scratch": Variant(
        "network, from scratch",
        "the network, trained on the region's profiles alone",
        lambda case: _fine_tuned(replace(case, start=case.start.blank(case.settings.seed)), lr=1e-3),
    ),
    "pretrained": Variant(
        "network, not fine-tuned",
        "the network as pretrained, without any profile of the region",
        lambda case: predict_with(case.start, case.region.x[case.test])[0],
    ),
    "tuned": Variant("network, fine-tuned", "all layers are trained on from the pretrained weights", _fine_tuned),
    "teacher": Variant(
        "the teacher itself",
        "the ensemble teacher itself: trees and a Gaussian process round the pretrained network",
        _teacher,
        "forests",
    ),
    STACK: Variant(
        "stack of network and forests",
        "the fine-tuned network, the regional and the global + regional forest, weighted by inner folds",
        stack,
    ),
    AS_SET: Variant(
        "network, fine-tuned by --regional",
        "the network as soilcarbon finetune trains it under the settings compared, with its intervals",
        lambda case: predict_with(train_network(case, case.settings), case.region.x[case.test])[0],
    ),
    BLEND: Variant(
        "mean of network and forest", "the mean of the network as set and the regional forest of ln(1+y), on that scale", blend
    ),
}
"""Key -> variant, in the order of tables."""
TOGETHER = {STACK: stack, BLEND: blend}
"""Variants of others' predictions, which are taken where they are there already."""


def predict(key: str, case: Case) -> np.ndarray:
    """Return predictions (m,) of a case's profiles held out, by a variant or a baseline of `BASELINES`, in the target's unit."""
    return VARIANTS[key].predict(case) if key in VARIANTS else predict_baseline(BASELINES[key], case)
