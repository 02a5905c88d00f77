"""The published network, built from config's table of categories; the published weights opened and checked.

    python models.py                                             the network's layers and its number of parameters
    python models.py model/pretrain_model/published.pth          the same weights' outputs beside the published ones

Per category a convolution to 32 feature maps; concatenation; a 1 x 1 fusion convolution to 128; Linear 128-256, ReLU,
dropout 0.2, Linear 256-128, ReLU, dropout 0.5; Linear 128-1. With windows of one cell it has 87,841 parameters.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from config import CATEGORIES
from soilcarbon.categories import Category
from soilcarbon.io.files import UserError, run
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import SoilCarbonNet
from soilcarbon.network.specification import Specification

PUBLISHED_PARAMETERS = 87_841
PUBLISHED_OUTPUTS = {0.0: 22.411198, 1.0: 12.808447, -1.0: 17.005250}
"""What the published weights give where every standardised input is 0, 1 or -1 (g/kg)."""


def build_network(categories: Sequence[Category] = CATEGORIES, seed: int = 314) -> SoilCarbonNet:
    """Return the network of a table of categories with weights drawn from a seed.

    Linear weights are Xavier-uniform with bias 0.01, as published; the seed is set before they are drawn.

    >>> sum(parameter.numel() for parameter in build_network().parameters())
    87841
    """
    network = SoilCarbonNet(Specification(categories=tuple(categories)))
    network.initialise(seed)
    return network


def load_published(path: Path | str) -> SoilCarbonNet:
    """Load the published GSoilCPM.pth (CC BY-NC 4.0, not part of this project) and check what it computes.

    Parameters
    ----------
    path
        The bare state_dict of 18 tensors.

    Returns
    -------
    SoilCarbonNet
        In evaluation mode; its inputs (B, 32) are standardised, for the file has no statistics.

    Raises
    ------
    UserError
        If a tensor is missing or of another shape, or the outputs are not the published ones.
    """
    network = load_checkpoint(path)
    for value, expected in PUBLISHED_OUTPUTS.items():
        width = sum(category.width for category in network.specification.categories)
        with torch.no_grad():
            found = float(network(torch.full((1, width), value))[0])
        if abs(found - expected) > 1e-3:
            raise UserError(f"{path}: gives {found:.6f} where all inputs are {value:g}, the published weights {expected:.6f}")
    return network


def main() -> None:
    """Print the network, and check the published weights if a file is named."""
    network = load_published(sys.argv[1]) if len(sys.argv) > 1 else build_network()
    print(network)
    print(f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters")
    if len(sys.argv) > 1:
        print(f"{sys.argv[1]}: the published outputs are reproduced")


if __name__ == "__main__":
    sys.exit(run(main))
