"""Methods compared in regions: baselines, and the network from scratch, pretrained, fine-tuned, distilled, averaged with kriging.

In: a `Case`: one division of a region's profiles, and a network that has seen nothing of the region. Out: predictions of the
profiles held out, and prediction intervals where a method has them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from soilcarbon.benchmark.baselines import BASELINES, tune
from soilcarbon.benchmark.methods import Method, Tables, as_method
from soilcarbon.categories import class_columns, middle_cells
from soilcarbon.network.network import SoilCarbonNet, to_target
from soilcarbon.network.network import predict as predict_with
from soilcarbon.network.specification import unfold_classes
from soilcarbon.regression.estimators import QuantileForest, Samples
from soilcarbon.regression.fit import samples_of
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import inner_folds
from soilcarbon.training.distillation import Teacher, distil
from soilcarbon.training.loop import encode_profiles, outputs_of
from soilcarbon.training.run import train_in_memory
from soilcarbon.training.uncertainty import fold_groups, rows_outside

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of prediction intervals
VALID_FOLDS = 7
"""A seventh of the blocks that are not held out is the validation set, which chooses a network's best epoch."""
AS_SET = "regional"
"""The variant that the comparison is about: as `soilcarbon finetune` trains it under the settings compared."""
INTERVALS = {AS_SET: AS_SET, "quantile_forest": "quantile_forest", "quantile_forest_calibrated": "quantile_forest"}
"""What gives intervals -> the method whose prediction they go with."""
SELECTED_ON_VALID, SELECTED_ON_TEST = "tuned", "tuned_selected_on_test"
"""The fine-tuned network whose epoch the validation set chooses, and the one whose epoch the profiles held out choose."""
_STACKED = (AS_SET, "kriging")


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
    whole
        Whether methods also return prediction intervals, and what of them depends on the profiles held out.
    """

    region: Dataset
    rows: np.ndarray
    test: np.ndarray
    start: SoilCarbonNet
    world: Dataset
    settings: RegionalSettings
    whole: bool = True

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
    def tables(self) -> Tables:
        """Both parts, and the profiles of the world, as baselines take them."""
        classes = np.flatnonzero(class_columns(self.region.categories)).tolist()
        train, held_out = self.samples.take(self.rows), self.samples.take(self.test)
        return Tables(train, held_out, classes, self.settings.seed, elsewhere=self.elsewhere)

    def predict(self, network: SoilCarbonNet) -> np.ndarray:
        """Return a network's predictions (m,) of the profiles held out."""
        return predict_with(network, self.region.x[self.test])[0]

    def dataset(self, valid: np.ndarray | None = None) -> Dataset:
        """Return the region with the split of this case: its rows, a few blocks of which (or `valid`) are the validation set."""
        groups = fold_groups(self.region)[self.rows]
        k = min(VALID_FOLDS, len(np.unique(groups)))
        held_out = inner_folds(groups, k, self.settings.seed) == 0 if k > 1 else np.arange(len(self.rows)) % VALID_FOLDS == 0
        split = {"train": self.rows[~held_out], "valid": self.rows[held_out] if valid is None else valid}
        return replace(self.region, split=split)


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


def interval_columns(method: str, level: float) -> tuple[str, str]:
    """Return the names of the columns with the ends of a method's interval."""
    return f"{method}_lower_{level:g}", f"{method}_upper_{level:g}"


def _from_scratch(case: Case) -> np.ndarray:
    blank = replace(case, start=case.start.blank(case.settings.seed))
    return case.predict(train_network(blank, plain_settings(case.settings, lr=1e-3)))


def _pretrained(case: Case) -> np.ndarray:
    return case.predict(case.start)


def _fine_tuned(case: Case) -> dict[str, np.ndarray]:
    """Return predictions of the network whose epoch the validation set chooses and, if `whole`, the profiles held out."""
    sets = {SELECTED_ON_VALID: None, **({SELECTED_ON_TEST: case.test} if case.whole else {})}
    return {key: case.predict(train_network(case, plain_settings(case.settings), valid)) for key, valid in sets.items()}


def _as_set(case: Case) -> dict[str, np.ndarray]:
    """Return the prediction of the network fine-tuned as set, its intervals, and the dissimilarity index of each profile."""
    network = train_network(case, case.settings)
    columns = {AS_SET: case.predict(network)}
    for level in LEVELS:
        if network.calibration is not None and level <= network.calibration.highest_level():
            ends = network.calibration.interval(columns[AS_SET], level)
            columns |= dict(zip(interval_columns(AS_SET, level), ends, strict=True))
    if network.applicability is not None:
        cells = unfold_classes(middle_cells(case.region.x[case.test], case.region.categories), network.specification)
        columns["di"] = network.applicability.index(cells)
        columns["inside"] = network.applicability.is_inside(columns["di"])
    return columns


def _quantile_forest(case: Case) -> dict[str, np.ndarray]:
    """Return a quantile forest's median and intervals, as they are and conformalised (Romano et al. 2019), on ln(1 + y)."""
    method, (known, held_out, classes, seed, *_) = BASELINES["quantile_forest"], case.tables
    shares = np.array([(1 + sign * level) / 2 for level in LEVELS for sign in (-1, 1)])

    def quantiles(fitted: Any, X: np.ndarray) -> np.ndarray:
        forest: QuantileForest = fitted["model"]
        return np.log1p(forest.predict_quantiles(fitted["columns"].transform(X), shares))

    fitted, chosen = tune(method, known, seed, classes=classes)
    columns = {"quantile_forest": fitted.predict(held_out.X)}
    if not case.whole:
        return columns
    found, inner, folds = quantiles(fitted, held_out.X), np.empty((len(known.y), len(shares))), inner_folds(known.groups, 3, seed)
    for fold in range(int(folds.max()) + 1):
        train = known.take(folds != fold)
        inner[folds == fold] = quantiles(method.pipeline(classes, seed, **chosen).fit(train.X, train.y), known.X[folds == fold])
    for k, level in enumerate(LEVELS):
        (lower, upper), (low, high) = (each[:, 2 * k : 2 * k + 2].T for each in (found, inner))
        columns |= dict(zip(interval_columns("quantile_forest", level), (np.expm1(lower), np.expm1(upper)), strict=True))
        miss = np.maximum(low - np.log1p(known.y), np.log1p(known.y) - high)
        wider = np.quantile(miss, min(1.0, level * (len(miss) + 1) / len(miss)), method="higher")
        both = np.maximum(np.expm1(lower - wider), 0), np.expm1(np.maximum(upper + wider, lower - wider))
        columns |= dict(zip(interval_columns("quantile_forest_calibrated", level), both, strict=True))
    return columns


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


def stack(case: Case, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean of network and regression kriging on the scale of ln(1 + y).

    Either is computed where it is not among the known predictions (m,) of other methods.
    """
    parts = [known[key] if key in known else predict(key, replace(case, whole=False)) for key in _STACKED]
    return np.asarray(np.expm1(np.mean(np.log1p(parts), axis=0)))


METHODS: Mapping[str, Method] = {
    **{key: as_method(each) for key, each in BASELINES.items()},
    "quantile_forest": replace(as_method(BASELINES["quantile_forest"]), predict=_quantile_forest),
    "scratch": Method("network, from scratch", "the network, trained on the region's profiles alone", "network", _from_scratch),
    "pretrained": Method(
        "network, not fine-tuned", "the network as pretrained, without any profile of the region", "network", _pretrained
    ),
    "tuned": Method("network, fine-tuned", "all layers are trained on from the pretrained weights", "network", _fine_tuned),
    "teacher": Method(
        "the teacher itself",
        "the ensemble teacher itself: trees and a Gaussian process round the pretrained network",
        "forests",
        _teacher,
    ),
    AS_SET: Method(
        "network, fine-tuned by --regional",
        "the network as soilcarbon finetune trains it under the settings compared, with its intervals",
        "network",
        _as_set,
    ),
    "stack": Method(
        "mean of network and kriging",
        "the mean of the network as set and of regression kriging on the scale of ln(1+y)",
        "network",
        stack,
        parts=_STACKED,
    ),
}
"""Key -> method, in the order of tables: baselines first."""
CALIBRATED = replace(
    METHODS["quantile_forest"], label="quantile forest, calibrated", meaning="its intervals conformalised on inner folds"
)


def predict(key: str, case: Case) -> np.ndarray:
    """Return predictions (m,) of a case's profiles held out, by one of `METHODS`, in the target's unit."""
    return METHODS[key].columns(key, case, {})[key]
