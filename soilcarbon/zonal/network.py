"""The network where forests by zone are: one of all profiles, and the same fine-tuned in each zone.

In: profiles (`methods.Known`) and their zones. Out: predictions of both, to be scored on the forests' folds.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from soilcarbon.benchmark.baselines import Known

if TYPE_CHECKING:
    from soilcarbon.estimator import SoilCarbonRegressor

_ALIKE: dict[str, Any] = {"target_transform": "log1p", "select_on": "rmse", "batch_size": 32, "members": 1, "patience": 15}
_FINE_TUNING = {"lr": 3e-4}


@dataclass
class ZonedNetwork:
    """GSoilCPM's network, radius 0, of ln(1 + target): pretrained on all zones' profiles, then fine-tuned on each zone's.

    The best epoch is chosen on whole blocks of the profiles it is given.

    Attributes
    ----------
    covariates
        Columns of x that it sees; all of them, for it has no use for a choice.
    epochs
        At most, of each training.
    fewest
        A zone of fewer profiles is predicted by the network of all.
    everywhere, own
        What `fit` found: the network of all profiles, and zone number -> the fine-tuned one.
    """

    covariates: tuple[int, ...]
    epochs: int = 100
    fewest: int = 50
    everywhere: "SoilCarbonRegressor" = field(init=False, repr=False)
    own: "dict[int, SoilCarbonRegressor]" = field(init=False, repr=False)

    def fit(self, known: Known, labels: np.ndarray, seed: int) -> Self:
        """Pretrain and fine-tune; `labels` (n,) are the zones' numbers."""
        from soilcarbon.estimator import SoilCarbonRegressor  # here: forests need no torch

        usual = _ALIKE | {"epochs": self.epochs, "random_state": seed}
        x = known.x[:, list(self.covariates)].astype(np.float32)
        self.everywhere = SoilCarbonRegressor(**usual).fit(x, known.y, known.units)
        self.own = {}
        for label in np.unique(labels).tolist():
            rows = labels == label
            if rows.sum() >= self.fewest and np.unique(known.units[rows]).size >= 2:
                tuned = SoilCarbonRegressor(init_from=self.everywhere.network_, **usual | _FINE_TUNING)
                self.own[label] = tuned.fit(x[rows], known.y[rows], known.units[rows])
        return self

    def predict(self, places: Known, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the network of all, and that of each place's zone, predict, (m,) each."""
        x = places.x[:, list(self.covariates)].astype(np.float32)
        unzoned = self.everywhere.predict(x).astype(np.float64)
        zoned = unzoned.copy()
        for label, network in self.own.items():
            rows = labels == label
            if rows.any():
                zoned[rows] = network.predict(x[rows])
        return unzoned, zoned
