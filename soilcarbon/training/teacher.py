"""What a network of a region learns from, where the region's profiles are too few to teach it themselves.

In: profiles of a region and of the world, encoded as the network sees them. Out: places made up between them, and at each the
mean of four learners that lose little on few profiles: extremely randomised trees and a random forest on world and region
together, such trees on the region alone, and a Gaussian process on the region. The network learns their answer
(distillation: Hinton, Vinyals and Dean 2015, arXiv 1503.02531): one smooth function of published form, which maps as fast as
any other.
"""

import multiprocessing
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.metrics import pairwise_distances_argmin_min

TREES = 100
REGION_SHARE = 0.1
"""Of all weight in the common trees: the world has some fifty times as many profiles."""
MOST_KERNEL_ROWS, ROWS_TO_FIT_KERNEL = 1500, 300
"""A Gaussian process costs the cube of its profiles."""
NEAR = 1000
"""Profiles of the world, the nearest to the region's in the network's inputs, that made-up places are mixed with."""
MADE_UP = 12_000
"""Places; fewer, and a network of 50 profiles learns their noise."""
SWAPPED = 0.15
"""Share of a made-up place's variables that come from another mixture, so that variables part which go together."""


@dataclass
class Teacher:
    """The mean of its learners, on the scale of the network's output.

    Parameters
    ----------
    seed
        Of all of them.
    """

    seed: int

    def fit(self, region: np.ndarray, output: np.ndarray, world: np.ndarray | None, world_output: np.ndarray | None) -> Self:
        """Learn from the region's encoded inputs (n, E) and outputs (n,), and the world's (m, E), (m,) if there are any."""
        trees: dict[str, Any] = {"max_features": 1 / 3, "min_samples_leaf": min(3, len(output)), "random_state": self.seed}
        trees["n_jobs"] = -1 if multiprocessing.parent_process() is None else 1  # processes side by side have a core each
        self._trees: list[ExtraTreesRegressor | RandomForestRegressor] = []
        self._trees.append(ExtraTreesRegressor(2 * TREES, **trees).fit(region, output))
        if world is not None and world_output is not None:
            n, m = len(output), len(world_output)
            weights = np.concatenate([np.full(n, REGION_SHARE / n), np.full(m, (1 - REGION_SHARE) / m)]) * (n + m)
            both = np.concatenate([region, world]), np.concatenate([output, world_output])
            for kind in (ExtraTreesRegressor, RandomForestRegressor):
                common = kind(TREES, bootstrap=True, max_samples=0.4, **trees)
                self._trees.append(common.fit(*both, sample_weight=weights))
        for each in self._trees:
            each.set_params(n_jobs=1)  # threads would add the trees' answers in any order, and the last bits would differ
        self._fit_process(region.astype(np.float64), output)
        return self

    def _fit_process(self, region: np.ndarray, output: np.ndarray) -> None:
        """Fit the Gaussian process: three numbers of its kernel by likelihood on some rows, then all rows it can afford."""
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

    def predict(self, encoded: np.ndarray) -> np.ndarray:
        """Return outputs (k,) for encoded inputs (k, E)."""
        process = self._process.predict(encoded.astype(np.float64)) * self._scale + self._centre
        mean: np.ndarray = np.mean([*(trees.predict(encoded) for trees in self._trees), process], axis=0)
        return mean


def make_up_places(
    region: np.ndarray,
    world: np.ndarray | None,
    likeness: tuple[np.ndarray, np.ndarray | None],
    variables: np.ndarray,
    coded: np.ndarray,
    seed: int,
    count: int = MADE_UP,
) -> np.ndarray:
    """Return covariates between those of profiles: a region's, mixed with each other and with the likest of the world.

    As mixup (Zhang et al. 2018, arXiv 1710.09412) does, but for the outputs, which the teacher gives. A place is a mixture of a
    profile of the region with another, at any ratio; a few of its variables come from a second mixture of the same
    profile.

    Parameters
    ----------
    region, world
        (n, F) and (m, F) packed covariates, raw units, missing = NaN (a mixture with a missing cell has one).
    likeness
        (n, E) and (m, E): the same profiles as the network sees them, to find the world's likest by.
    variables
        (F,) the variable each column belongs to: the cells of a window go together.
    coded
        (F,) bool: class codes, which are taken from the nearer profile and not mixed.
    seed
        Of the draws.
    count
        Places.

    Returns
    -------
    ndarray
        (count, F) float32.
    """
    random = np.random.default_rng(seed)
    own, others = random.integers(len(region), size=(2, count))
    second = pool = region
    if world is not None and likeness[1] is not None:
        distance = pairwise_distances_argmin_min(likeness[1], likeness[0])[1]
        pool = world[np.argsort(distance, kind="stable")[:NEAR]]
    partner = np.where((random.random(count) < 0.5)[:, None], second[others], pool[random.integers(len(pool), size=count)])
    base = region[own]

    def mixed(other: np.ndarray, most: float) -> np.ndarray:
        share = (random.random(count)[:, None] * most).astype(np.float32)  # as the covariates: windows are many columns
        return np.where(coded, np.where(share < 0.5, base, other), base * (1 - share) + other * share)

    first, swap = mixed(partner, 1.0), mixed(pool[random.integers(len(pool), size=count)], 0.5)
    swapped = random.random((count, int(variables.max()) + 1)) < SWAPPED
    return np.where(swapped[:, variables], swap, first)
