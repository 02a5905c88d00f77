"""The network in every form it is compared in, for one division of a region's profiles.

In: a `Case`: a region, who teaches and who is held out, and a network that has seen nothing of the region. Out: predictions of
those held out. The forests that learn from the network, and the stack of both, are here too.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import nnls

from soilcarbon.benchmark.baselines import Known
from soilcarbon.benchmark.forests import Forest
from soilcarbon.benchmark.tuning import tune
from soilcarbon.network.network import SoilCarbonNet, to_target
from soilcarbon.settings import RegionalSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import inner_folds, spatial_groups
from soilcarbon.training import encoded
from soilcarbon.training import loop as engine
from soilcarbon.training.distillation import elsewhere, fold_units
from soilcarbon.training.run import learn
from soilcarbon.training.teacher import Teacher

VALID_FOLDS = 7
"""A seventh of the blocks that may be learnt from chooses a network's best epoch."""
STACK = "stack"
STACKED = ("tuned", "forest_log", "forest_world_log")
AS_SET = "regional"
"""The contender that `train_regional.py` is set to, whose skill the report is about."""


@dataclass(frozen=True)
class Case:
    """One division of a region.

    Attributes
    ----------
    region
        All its profiles.
    rows, test
        Rows that may be learnt from, and rows held out.
    start
        The network pretrained without any place of the region.
    world
        The dataset it was pretrained on.
    settings
        The network as `train_regional.py` would be told to train it.
    """

    region: Dataset
    rows: np.ndarray
    test: np.ndarray
    start: SoilCarbonNet
    world: Dataset
    settings: RegionalSettings

    @cached_property
    def profiles(self) -> Known:
        """The region's profiles, as baselines take them."""
        units = fold_units(self.region)
        return Known(self.region.x, self.region.y, self.region.lon, self.region.lat, units)

    @cached_property
    def abroad(self) -> Known:
        """The world's training profiles that lie in no place of the region, as baselines take them."""
        rows = elsewhere(self.world, self.region)
        lon, lat = self.world.lon[rows], self.world.lat[rows]
        return Known(self.world.x[rows], self.world.y[rows], lon, lat, spatial_groups(lon, lat, self.region.block_size))

    @property
    def classes(self) -> tuple[int, ...]:
        """Columns that are class codes."""
        kinds = np.concatenate([np.full(each.width, each.kind == "classes") for each in self.region.categories])
        return tuple(np.flatnonzero(kinds).tolist())

    def dataset(self, choosing: np.ndarray | None = None) -> Dataset:
        """Return the region with the split of this case: its rows, less a few blocks, teach; those, or `choosing`, choose."""
        units = fold_units(self.region)[self.rows]
        k = min(VALID_FOLDS, len(np.unique(units)))
        held_out = inner_folds(units, k, self.settings.seed) == 0 if k > 1 else np.arange(len(self.rows)) % VALID_FOLDS == 0
        split = {"train": self.rows[~held_out], "valid": self.rows[held_out] if choosing is None else choosing}
        return replace(self.region, split=split)


# --- networks ----------------------------------------------------------------------------------------------------------


def plain_settings(settings: RegionalSettings, **changes: Any) -> RegionalSettings:
    """Return settings for fine-tuning without a teacher: the published way, chosen on a validation split by RMSE."""
    usual: dict[str, Any] = {
        "teacher": "none",
        "global_data": None,
        "validate_on": "split",
        "select_on": "rmse",
        "lr_schedule": "constant",
    }
    usual |= {"epochs": 200, "patience": 20, "batch_size": 32, "lr": 3e-4, "members": 3, "freeze": "none"}
    return settings.model_copy(update=usual | changes)


def train_network(case: Case, settings: RegionalSettings, choosing: np.ndarray | None = None) -> SoilCarbonNet:
    """Fine-tune a copy of the case's network as the settings say."""
    world = case.world if settings.teacher != "none" else None
    return learn(copy.deepcopy(case.start), case.dataset(choosing), settings, world)


def _tuned(case: Case, **changes: Any) -> np.ndarray:
    network = train_network(case, plain_settings(case.settings, **changes))
    return engine.predict(network, case.region.x[case.test])[0]


def _pretrained(case: Case) -> np.ndarray:
    return engine.predict(case.start, case.region.x[case.test])[0]


def _teacher(case: Case) -> np.ndarray:
    """Predict by the trees and the Gaussian process that teach the network, themselves."""
    cpu = torch.device("cpu")
    region, world = (
        encoded.make_profiles(case.start, each.x, each.y, cpu) for each in (case.profiles.take(case.rows), case.abroad)
    )
    pairs = ((each.encoded.numpy(), each.output.double().numpy()) for each in (region, world))
    (x, y), (world_x, world_y) = pairs
    with torch.no_grad():
        places = case.start.encode(torch.from_numpy(case.region.x[case.test])).numpy()
    answers = Teacher(case.settings.seed).fit(x, y, world_x, world_y).predict(places)
    facts = case.start.specification.model_copy(update={"members": 1, "center": "median"})
    return to_target(torch.from_numpy(answers)[None], facts)[0].numpy()


def _with_columns(case: Case, columns: np.ndarray) -> np.ndarray:
    """Fit a forest on the region's covariates and further columns (N, c) that the network gives."""
    known = replace(case.profiles, x=np.concatenate([case.profiles.x, columns], axis=1, dtype=np.float32))
    return Forest(log=True).fit(known.take(case.rows), case.settings.seed).predict(known.take(case.test))


def _embedding(case: Case) -> np.ndarray:
    """Return what enters the last layer of the network's first member, (N, 128)."""
    with torch.no_grad():
        encoded = case.start.encode(torch.from_numpy(case.region.x))
        features: np.ndarray = case.start.hidden(encoded).numpy()
    return features


def stack(case: Case, known: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Mix network and forests, on the scale of ln(1 + y), by weights that inner folds of whole blocks give (Wolpert 1992).

    What is `known` of the parts' predictions of the profiles held out is not computed again.
    """
    known = known or {}
    folds = inner_folds(case.profiles.units[case.rows], 3, case.settings.seed)
    held_out = np.empty((len(case.rows), len(STACKED)))
    for fold in range(int(folds.max()) + 1):
        part = replace(case, rows=case.rows[folds != fold], test=case.rows[folds == fold])
        held_out[folds == fold] = np.log1p(np.stack([predict(key, part) for key in STACKED], axis=1))
    weights = nnls(held_out, np.log1p(case.region.y[case.rows]))[0]
    logs = np.log1p(np.stack([known[key] if key in known else predict(key, case) for key in STACKED], axis=1))
    return np.expm1(logs @ weights)


@dataclass(frozen=True)
class Contender:
    """One form of the network: its name and meaning in words, how it predicts a case's profiles held out, and what it is."""

    label: str
    meaning: str
    predict: Callable[[Case], np.ndarray]
    kind: Literal["network", "forests"] = "network"


CONTENDERS: Mapping[str, Contender] = {
    "scratch": Contender(
        "network, from scratch",
        "the network, trained on the region's profiles alone",
        lambda case: _tuned(replace(case, start=case.start.blank(case.settings.seed)), lr=1e-3),
    ),
    "pretrained": Contender("network, not fine-tuned", "the network as pretrained, without any profile of the region", _pretrained),
    "tuned": Contender("network, fine-tuned", "all layers go on from the pretrained weights", _tuned),
    "tuned_features": Contender(
        "network, head fine-tuned", "branches and fusion stay as pretrained", lambda case: _tuned(case, freeze="features")
    ),
    "tuned_last": Contender(
        "network, last layer fine-tuned",
        "all but the last layer stays as pretrained",
        lambda case: _tuned(case, freeze="all-but-head"),
    ),
    "tuned_discriminative": Contender(
        "network, discriminative rates",
        "fine-tuned, each group of layers at half the rate of the one behind it",
        lambda case: _tuned(case, layer_decay=0.5),
    ),
    "tuned_l2sp": Contender(
        "network, L2-SP", "fine-tuned, the weights pulled back to the pretrained ones", lambda case: _tuned(case, l2_sp=0.01)
    ),
    "forest_prediction": Contender(
        "forest on covariates and the network's prediction",
        "random forest of ln(1+y) with the pretrained network's prediction as one more covariate",
        lambda case: _with_columns(case, engine.predict(case.start, case.region.x)[0][:, None]),
    ),
    "forest_embedding": Contender(
        "forest on covariates and the network's features",
        "random forest of ln(1+y) with the 128 numbers that enter the pretrained network's last layer",
        lambda case: _with_columns(case, _embedding(case)),
    ),
    "teacher": Contender(
        "the teacher itself",
        "the trees and the Gaussian process that teach the network, without it",
        _teacher,
        "forests",
    ),
    STACK: Contender(
        "stack of network and forests",
        "the fine-tuned network, the regional and the global + regional forest, mixed by weights learnt on inner folds",
        stack,
    ),
    AS_SET: Contender(
        "network, as set",
        "the network as train_regional.py trains it under the settings compared, with its intervals",
        lambda case: engine.predict(train_network(case, case.settings), case.region.x[case.test])[0],
    ),
}
"""Key -> contender, in the order of tables."""


def predict(key: str, case: Case) -> np.ndarray:
    """Return predictions (m,) of a case's profiles held out, by a baseline or a contender, in the target's unit."""
    if key in CONTENDERS:
        return CONTENDERS[key].predict(case)
    method, _ = tune(key, case.profiles.take(case.rows), case.settings.seed, world=case.abroad, classes=case.classes)
    return method.predict(case.profiles.take(case.test))
