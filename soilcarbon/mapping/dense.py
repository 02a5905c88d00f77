"""The network slid over a raster: one prediction per cell, without cutting a patch.

In: covariates on a grid (V, H, W), raw units, missing = NaN. Out: predictions (M, h, w) of M members, in the target's unit.

A branch is made of valid, stride-1 layers, so it gives at every cell what it gives for that cell's window. Whatever is
affine in front of the first ReLU of the head - 1x1 branches, fusion, first Linear - is multiplied out once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from soilcarbon.network.network import MAPS, Member, SoilCarbonNet, to_target
from soilcarbon.network.preprocessing import Encoder
from soilcarbon.network.specification import Specification

CELLS_AT_ONCE = {"cpu": 2048, "cuda": 1 << 18}
"""Cells that go through the head together: on a CPU their activations stay in its cache."""


@dataclass(frozen=True)
class _Folded:
    """One member: its branches with a window, and the head as three matrices."""

    branches: list[nn.Module | None]
    """Per category; None where the branch is multiplied into the first matrix."""
    weights: tuple[Tensor, Tensor, Tensor]
    biases: tuple[Tensor, Tensor, Tensor]

    def head(self, parts: Tensor) -> Tensor:
        """Return (n,) for the inputs (K, n) of the first matrix."""
        outputs = []
        for hidden in parts.split(CELLS_AT_ONCE[parts.device.type], 1):
            for weight, bias in zip(self.weights[:2], self.biases[:2], strict=True):
                hidden = torch.addmm(bias, weight, hidden).relu_()
            outputs.append(torch.addmm(self.biases[2], self.weights[2], hidden)[0])
        return torch.cat(outputs)


def _fold(member: Member, facts: Specification) -> _Folded:
    """Multiply out what is affine in front of the head's first ReLU, in float64."""
    tensors = {name: value.double() for name, value in member.tensors().items()}
    fusion, linear = tensors["features_merge.0.weight"].flatten(1), tensors["classifier.0.weight"]
    first, bias = linear @ fusion, linear @ tensors["features_merge.0.bias"] + tensors["classifier.0.bias"]
    branches: list[nn.Module | None] = []
    columns = []
    for category, part in zip(facts.categories, first.split(MAPS, 1), strict=True):
        name = f"features_{category.name}"
        if category.radius == 0:
            bias = bias + part @ tensors[f"{name}.0.bias"]
            part = part @ tensors[f"{name}.0.weight"].flatten(1)
        branches.append(member.get_submodule(name) if category.radius else None)
        columns.append(part)
    weights = (torch.cat(columns, 1), tensors["classifier.3.weight"], tensors["final_regressor.0.weight"])
    biases = (bias, tensors["classifier.3.bias"], tensors["final_regressor.0.bias"])
    one, two, three = (weight.float().contiguous() for weight in weights)
    return _Folded(branches, (one, two, three), (*(each.float()[:, None] for each in biases),))  # type: ignore[arg-type]


class DenseNet:
    """A network that predicts every cell of a block of a raster.

    Parameters
    ----------
    network
        With statistics; it stays on its device.

    Attributes
    ----------
    halo
        R, the largest radius of a category: a block reaches so many cells beyond what is predicted.
    """

    def __init__(self, network: SoilCarbonNet) -> None:
        facts = self.specification = network.specification
        self.device = next(network.parameters()).device
        self.halo = max(category.radius for category in facts.categories)
        per_cell = tuple(category.model_copy(update={"radius": 0}) for category in facts.categories)
        self._encoder = Encoder(facts.model_copy(update={"categories": per_cell})).to(self.device)
        self._channels = [facts.channels(category) for category in facts.categories]
        self._members = [_fold(member.eval(), facts) for member in network.members()]

    def predict(self, block: np.ndarray, wanted: np.ndarray | None = None) -> np.ndarray:
        """Predict the cells of a block.

        Parameters
        ----------
        block
            (V, h+2R, w+2R) float32, raw units, missing = NaN; layers in the order of the specification's variables.
        wanted
            (h, w) bool; default: all cells.

        Returns
        -------
        ndarray
            (M, h, w) float32, each member's prediction in the target's unit; NaN where not wanted.
        """
        height, width = (side - 2 * self.halo for side in block.shape[1:])
        wanted = np.ones((height, width), bool) if wanted is None else wanted
        predicted = np.full((len(self._members), height * width), np.nan, np.float32)
        x = torch.from_numpy(np.require(block, np.float32, ["C", "W"]))
        with torch.inference_mode():
            for cells, parts in self._windows(x, wanted) if self.halo else self._cells(x.flatten(1), wanted.ravel()):
                outputs = torch.stack([member.head(part) for member, part in zip(self._members, parts, strict=True)])
                predicted[:, cells] = to_target(outputs, self.specification).cpu().numpy()
        return predicted.reshape(-1, height, width)

    def _cells(self, x: Tensor, wanted: np.ndarray) -> Iterator[tuple[slice | np.ndarray, list[Tensor]]]:
        """Yield cells and each member's inputs (K, n) of the head, where no branch has a window: x (V, cells)."""
        at_once = CELLS_AT_ONCE[self.device.type]
        chosen = None if wanted.all() else np.flatnonzero(wanted)
        for start in range(0, x.shape[1] if chosen is None else chosen.size, at_once):
            cells = slice(start, start + at_once) if chosen is None else chosen[start : start + at_once]
            part = x[:, cells] if isinstance(cells, slice) else x[:, torch.from_numpy(cells)]
            yield cells, [self._encoder(part.to(self.device).T).T] * len(self._members)

    def _windows(self, x: Tensor, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, list[Tensor]]]:
        """Yield cells and each member's inputs (K, n) of the head, where branches have windows, strip by strip of x (V, H, W)."""
        height, width = wanted.shape
        rows = max(1, 16 * CELLS_AT_ONCE[self.device.type] // width)
        for top in range(0, height, rows):
            here = wanted[top : top + rows]
            if not here.any():
                continue
            strip = x[:, top : top + len(here) + 2 * self.halo].to(self.device)
            encoded = self._encoder(strip.flatten(1).T).T.unflatten(1, strip.shape[1:])
            chosen = None if here.all() else torch.from_numpy(np.flatnonzero(here)).to(self.device)
            parts = []
            for member in self._members:
                maps = []
                for category, branch, part in zip(
                    self.specification.categories, member.branches, encoded.split(self._channels), strict=True
                ):
                    rim = self.halo - category.radius
                    inner = part[:, rim : part.shape[1] - rim, rim : part.shape[2] - rim]
                    maps.append((inner if branch is None else branch(inner[None])[0]).flatten(1))
                parts.append(torch.cat(maps) if chosen is None else torch.cat(maps)[:, chosen])
            yield top * width + np.flatnonzero(here), parts
