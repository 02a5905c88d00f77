"""Distillation: a network trained on the predictions of a teacher, where a region has too few profiles.

In: encoded profiles of a region and of the world. Out: places mixed from profiles, and at each the prediction of the teacher.
"""

import multiprocessing
import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.model_selection import cross_val_predict

from soilcarbon.categories import class_columns, variable_of_column
from soilcarbon.network.specification import Encoder
from soilcarbon.training.ensemble import RawProfiles, TeacherNetworks
from soilcarbon.training.loop import Profiles, TrainingSets, outputs_of

NETWORK_SHARE = 0.2
"""Of the fine-tuned network in the teacher's predictions; docs/transfer.md has what was tried."""
TREES = 100
WORLD_TREES = 50
"""Of each kind of common trees, most of a teacher's computing time; the members of an ensemble have theirs each."""
REGION_SHARE = 0.1
"""Of all weight in the common trees: the world has some fifty times as many profiles."""
FEW_INPUTS = 20
"""Of fewer, a third is too few to split by and three profiles are too many for a leaf: on laboratory tables of 6 the error was up
to a third above a forest's."""
FOLDS_OF_SKILL = 3
MOST_KERNEL_ROWS, ROWS_TO_FIT_KERNEL = 1500, 300
"""A Gaussian process costs the cube of its profiles."""
NEAR = 1000
"""Profiles of the world, the nearest to the region's in the network's inputs, that are mixed in."""
MIXED = 12_000
"""Mixed profiles; with fewer a network of 50 profiles learns their noise."""
SWAPPED = 0.15
"""Share of a mixed profile's variables that come from another mixture, so that variables part which go together."""


@dataclass
class Teacher:
    """Ensemble teacher of a distillation: mean of trees and a Gaussian process, on the scale of the network's output.

    Extremely randomised trees and a random forest on world and region together, such trees on the region alone, and a Gaussian
    process on the region: learners that remain accurate on few profiles. Without a world, or with a prior, a random forest on the
    region joins them. With a prior, the outputs of a pretrained network, the process is of the outputs less the prior. Without
    both, they weigh as the inverse square of their cross-validated mean squared errors: where they are about as good as each
    other, which is usual, equally, and one that fails is left out.

    Parameters
    ----------
    seed
        Of all of them.
    """

    seed: int

    def fit(
        self,
        region: np.ndarray,
        output: np.ndarray,
        world: np.ndarray | None,
        world_output: np.ndarray | None,
        prior: np.ndarray | None = None,
    ) -> Self:
        """Fit to the region's encoded inputs (n, E), outputs (n,) and prior (n,), and the world's (m, E), (m,) if there are any."""
        trees: dict[str, Any] = {"max_features": 1 / 3, "min_samples_leaf": min(3, len(output)), "random_state": self.seed}
        trees["n_jobs"] = -1 if multiprocessing.parent_process() is None else 1  # processes side by side have a core each
        self._trees: list[ExtraTreesRegressor | RandomForestRegressor] = []
        self._shares: np.ndarray | None = None
        alone = world is None and prior is None
        if region.shape[1] < FEW_INPUTS:
            trees |= {"max_features": 1.0, "min_samples_leaf": 1}
        self._trees.append(ExtraTreesRegressor(2 * TREES, **trees).fit(region, output))
        if alone:
            self._trees.append(RandomForestRegressor(TREES, **trees | {"min_samples_leaf": 1}).fit(region, output))
        if prior is not None:
            self._trees.append(RandomForestRegressor(2 * TREES, **trees).fit(region, output))
        if world is not None and world_output is not None:
            n, m = len(output), len(world_output)
            weights = np.concatenate([np.full(n, REGION_SHARE / n), np.full(m, (1 - REGION_SHARE) / m)]) * (n + m)
            both = np.concatenate([region, world]), np.concatenate([output, world_output])
            for kind in (ExtraTreesRegressor, RandomForestRegressor):
                common = kind(WORLD_TREES, bootstrap=True, max_samples=0.4, **trees)
                self._trees.append(common.fit(*both, sample_weight=weights))
        for each in self._trees:
            each.set_params(n_jobs=1)  # threads would add the trees' predictions in any order, and the last bits would differ
        self._fit_process(region.astype(np.float64), output if prior is None else output - prior)
        if alone and len(output) >= 2 * FOLDS_OF_SKILL:
            self._shares = self._skill(region, output) ** -2.0
        return self

    def _skill(self, region: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Return the cross-validated mean squared errors of trees and process, of at most `MOST_KERNEL_ROWS` rows."""
        rows = np.random.default_rng(self.seed).permutation(len(output))[:MOST_KERNEL_ROWS]
        x, y = region[rows].astype(np.float64), (output[rows] - self._centre) / self._scale
        process = GaussianProcessRegressor(self._process.kernel_, optimizer=None)
        trees = [clone(each).set_params(n_estimators=TREES // 4) for each in self._trees]
        held_out = [cross_val_predict(each, x, y, cv=FOLDS_OF_SKILL) for each in (*trees, process)]  # rows are in random order
        return np.maximum(np.mean((np.array(held_out) - y) ** 2, axis=1), 1e-6)

    def _fit_process(self, region: np.ndarray, output: np.ndarray) -> None:
        """Fit the Gaussian process: three kernel parameters by likelihood on a subset, then at most `MOST_KERNEL_ROWS` rows."""
        order = np.random.default_rng(self.seed).permutation(len(output))
        self._centre = float(output.mean())
        self._scale = float(output.std()) or 1.0
        width = np.sqrt(region.shape[1])  # inputs are of unit deviation, so distances grow with the root of their number
        kernel = ConstantKernel(0.6, (0.05, 10)) * Matern(width, (width / 5, width * 10), nu=1.5) + WhiteKernel(0.6, (0.05, 5))
        some, rows = order[:ROWS_TO_FIT_KERNEL], order[:MOST_KERNEL_ROWS]
        scaled = (output - self._centre) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a number at its limit, set above, is as good as inside
            fitted = GaussianProcessRegressor(kernel, random_state=self.seed).fit(region[some], scaled[some])
        self._process = GaussianProcessRegressor(fitted.kernel_, optimizer=None).fit(region[rows], scaled[rows])

    def predict(self, encoded: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
        """Return outputs (k,) for encoded inputs (k, E) and, if it was fitted with one, the prior there (k,)."""
        process = self._process.predict(encoded.astype(np.float64)) * self._scale + self._centre
        process = process if prior is None else process + prior
        each = [*(trees.predict(encoded) for trees in self._trees), process]
        return np.asarray(np.average(each, axis=0, weights=self._shares))


def mix_profiles(
    region: np.ndarray,
    world: np.ndarray | None,
    variables: np.ndarray,
    coded: np.ndarray,
    seed: int,
    count: int | None = None,
) -> np.ndarray:
    """Return covariates of synthetic profiles: mixtures of a region's profiles with each other and with the world's.

    As mixup (Zhang et al. 2018, arXiv 1710.09412), but for the outputs, which the teacher predicts. A place is a mixture of a
    profile of the region with another, at any ratio; a few of its variables come from a second mixture of the same profile.

    Parameters
    ----------
    region, world
        (n, F) and (m, F) packed covariates, raw units, missing = NaN (a mixture with a missing cell has one); of the world only
        what is to be mixed in, see `nearest_profiles`. Columns that no profile of the world has, as a region's own variables,
        stay those of the region's profile.
    variables
        (F,) the variable each column belongs to: the cells of a window go together.
    coded
        (F,) bool: class codes, which are taken from the nearer profile and not mixed.
    seed
        Of the draws.
    count
        Of mixed profiles; default `MIXED`.

    Returns
    -------
    ndarray
        (count, F) float32.
    """
    random, count = np.random.default_rng(seed), count or MIXED
    own, others = random.integers(len(region), size=(2, count))
    pool = region if world is None else world
    partner = np.where((random.random(count) < 0.5)[:, None], region[others], pool[random.integers(len(pool), size=count)])
    base, lacking = region[own], np.isnan(pool).all(0)

    def mixed(other: np.ndarray, most: float) -> np.ndarray:
        other = np.where(lacking & np.isnan(other), base, other)
        share = (random.random(count)[:, None] * most).astype(np.float32)  # as the covariates: windows are many columns
        return np.where(coded, np.where(share < 0.5, base, other), base * (1 - share) + other * share)

    first, swap = mixed(partner, 1.0), mixed(pool[random.integers(len(pool), size=count)], 0.5)
    swapped = random.random((count, int(variables.max()) + 1)) < SWAPPED
    return np.where(swapped[:, variables], swap, first)


def nearest_profiles(region: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Return which of the world's profiles are nearest to any of the region's, by the network's inputs (m, E) and (n, E).

    Inputs that are 0 in the whole world are not compared: it lacks a region's own variables.
    """
    known = world.any(0)
    distance = pairwise_distances_argmin_min(world[:, known], region[:, known])[1]
    nearest: np.ndarray = np.argsort(distance, kind="stable")[:NEAR]
    return nearest


def distil(
    sets: TrainingSets, raw: RawProfiles, networks: TeacherNetworks | None, seed: int, teacher: Teacher | None = None
) -> TrainingSets:
    """Distil a teacher: return training sets whose optimiser steps use its predictions at synthetic profiles.

    Distillation: Hinton, Vinyals and Dean 2015, arXiv 1503.02531. The result is a single network of the published architecture,
    which maps as fast as any other.

    Parameters
    ----------
    sets
        The training set that the teacher is fitted to, and the validation set.
    raw
        Covariates of the training set, and the world's profiles, which lie in no place of the region.
    networks
        The pretrained network, whose predictions are the teacher's prior, and the same, fine-tuned on the training set, which has
        its share in the teacher's predictions; None: there are none.
    seed
        Of teacher and mixtures.
    teacher
        One that is fitted; None: it is fitted to the training set.
    """
    region, world = sets.train, raw.world
    here = plain_arrays(region)
    there: tuple[np.ndarray | None, np.ndarray | None] = (None, None) if world is None else plain_arrays(world)

    def prior(inputs: torch.Tensor) -> np.ndarray | None:
        return None if networks is None else outputs_of(networks.pretrained, inputs).double().cpu().numpy()

    if teacher is None:
        teacher = Teacher(seed).fit(*here, *there, prior(region.encoded))
    pool = None if there[0] is None or raw.world_x is None else raw.world_x[nearest_profiles(here[0], there[0])]
    categories = sets.specification.categories
    mixed = mix_profiles(raw.x, pool, np.array(variable_of_column(categories)), np.array(class_columns(categories)), seed)
    device = region.output.device
    with torch.no_grad():
        encoded = Encoder(sets.specification).to(device)(torch.from_numpy(mixed).to(device))
    predicted = teacher.predict(encoded.cpu().numpy(), prior(encoded))
    if networks is not None:
        predicted += NETWORK_SHARE * (outputs_of(networks.tuned, encoded).double().cpu().numpy() - predicted)
    output = torch.from_numpy(predicted.astype(np.float32)).to(device)
    return replace(sets, fit=Profiles(encoded, output, predicted))


def plain_arrays(profiles: Profiles) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, E) and outputs (n,) as NumPy arrays for scikit-learn."""
    return profiles.encoded.cpu().numpy(), profiles.output.cpu().numpy().astype(np.float64)
