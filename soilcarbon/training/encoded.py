"""Profiles as the loop takes them: encoded, on the device.

In: packed covariates and targets. Out: what one member learns from, and what chooses its best epoch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soilcarbon.network.network import SoilCarbonNet


@dataclass(frozen=True)
class Profiles:
    """Profiles ready for the loop, on the device.

    Attributes
    ----------
    encoded
        (n, E) inputs, see `SoilCarbonNet.encode`.
    output
        (n,) float32: what the network is to put out, the target on its transform's scale.
    y
        (n,) float64 target.
    """

    encoded: Tensor
    output: Tensor
    y: np.ndarray


@dataclass(frozen=True)
class Lesson:
    """What one member learns from.

    Attributes
    ----------
    teach
        Profiles whose outputs its steps descend to: its training profiles, or those a teacher made.
    known
        Its training profiles.
    choose
        Profiles it does not learn from, which choose its best epoch.
    """

    teach: Profiles
    known: Profiles
    choose: Profiles


def make_profiles(network: SoilCarbonNet, x: np.ndarray, y: np.ndarray, device: torch.device) -> Profiles:
    """Encode packed covariates (n, F) and targets (n,) for training `network`."""
    with torch.no_grad():
        encoded = network.to(device).encode(torch.from_numpy(np.require(x, np.float32, ["C", "W"])).to(device))
    output = np.log1p(y) if network.specification.target_transform == "log1p" else y
    return Profiles(encoded, torch.from_numpy(output.astype(np.float32)).to(device), y)
