"""Maps by a network: fully convolutional inference over blocks of a raster, and the `Predictor` built on it.

A branch is made of valid, stride-1 layers, so it gives at every cell what it gives for that cell's window, without cutting patches.
Whatever is affine in front of the first ReLU of the head - 1x1 branches, fusion, first Linear - is multiplied out once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from soilcarbon.categories import without_windows
from soilcarbon.geo.grid import cell_sizes
from soilcarbon.geo.zonal_statistics import LOWER, UPPER
from soilcarbon.io.files import UserError
from soilcarbon.mapping.areal import described
from soilcarbon.mapping.carbon_map import MEDIANS
from soilcarbon.mapping.cog import Band
from soilcarbon.mapping.native import Windows
from soilcarbon.mapping.predictor import Cells, Predicted, Predictor, summary, untrusted_scores, warn_of_other_windows
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import MAPS, Member, SoilCarbonNet, as_means, choose_device, predict, to_target
from soilcarbon.network.specification import Encoder, Specification, unfold_classes, warn_of_far_inputs
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.soil.dataset import Statistics, read_statistics
from soilcarbon.stats.metrics import worse_than_mean

CELLS_AT_ONCE = {"cpu": 2048, "cuda": 1 << 18}
"""Cells that go through the head together: on a CPU their activations stay in its cache."""
_CLASSIFIER = [nn.Linear, nn.ReLU, nn.Dropout] * 2
"""Layers that are multiplied out."""


@dataclass(frozen=True)
class _Slid:
    """One member, as it is slid.

    Attributes
    ----------
    branches
        Per category; None where the branch is multiplied into the head, which then takes its inputs.
    head
        Returns (n,) for the maps, or inputs, of all branches, (K, n).
    """

    branches: list[nn.Module | None]
    head: Callable[[Tensor], Tensor]

    def outputs(self, parts: Tensor) -> Tensor:
        """Return (n,) for (K, n), few cells at a time."""
        return torch.cat([self.head(part) for part in parts.split(CELLS_AT_ONCE[parts.device.type], 1)])


def _slid(member: Member, facts: Specification) -> _Slid:
    """Multiply out the affine layers in front of the head's first ReLU, in float64; other layers stay as they are."""
    modules = {category: member.get_submodule(f"features_{category.name}") for category in facts.categories}
    affine = [member.features_merge, *(module for category, module in modules.items() if category.radius == 0)]
    known = [(member.classifier, _CLASSIFIER), (member.final_regressor, [nn.Linear]), *((each, [nn.Conv2d]) for each in affine)]
    if any([type(layer) for layer in part.children()] != kinds for part, kinds in known):
        return _Slid([*modules.values()], lambda maps: member.final_regressor(member.fused(maps.T))[:, 0])
    tensors = {name: value.double() for name, value in member.tensors().items()}
    fusion, linear = tensors["features_merge.0.weight"].flatten(1), tensors["classifier.0.weight"]
    first, bias = linear @ fusion, linear @ tensors["features_merge.0.bias"] + tensors["classifier.0.bias"]
    columns = []
    for category, part in zip(facts.categories, first.split(MAPS, 1), strict=True):
        name = f"features_{category.name}"
        if category.radius == 0:
            bias = bias + part @ tensors[f"{name}.0.bias"]
            part = part @ tensors[f"{name}.0.weight"].flatten(1)
        columns.append(part)
    weights = (torch.cat(columns, 1), tensors["classifier.3.weight"], tensors["final_regressor.0.weight"])
    biases = (bias, tensors["classifier.3.bias"], tensors["final_regressor.0.bias"])
    matrices = [each.float().contiguous() for each in weights], [each.float()[:, None] for each in biases]
    branches = [module if category.radius else None for category, module in modules.items()]
    return _Slid(branches, partial(_multiplied, *matrices))


def _multiplied(weights: Sequence[Tensor], biases: Sequence[Tensor], hidden: Tensor) -> Tensor:
    """Return (n,) by the three matrices of the head for inputs (K, n) of the first."""
    for weight, bias in zip(weights[:2], biases[:2], strict=True):
        hidden = torch.addmm(bias, weight, hidden).relu_()
    return torch.addmm(biases[2], weights[2], hidden)[0]


class SlidingNetwork:
    """Fully convolutional inference: every cell of a block of a raster, by a network with statistics, on its device.

    `halo` is R, the largest radius of a category: a block reaches so many cells beyond what is predicted.
    """

    def __init__(self, network: SoilCarbonNet) -> None:
        facts = self.specification = network.specification
        self.device = next(network.parameters()).device
        self.halo = max(category.radius for category in facts.categories)
        per_cell = without_windows(facts.categories)
        self._encoder = Encoder(facts.model_copy(update={"categories": per_cell})).to(self.device)
        self._encoders = [Encoder(facts.model_copy(update={"categories": (each,)})).to(self.device) for each in per_cell]
        self._channels = [facts.channels(category) for category in facts.categories]
        self._members = [_slid(member.eval(), facts) for member in network.members()]
        self._branched = any(branch is not None for member in self._members for branch in member.branches)

    def predict(
        self, block: np.ndarray, wanted: np.ndarray | None = None, native: Mapping[int, Windows] = MappingProxyType({})
    ) -> np.ndarray:
        """Return each member's predictions (M, h, w) float32 of a block, in the target's unit; NaN where not wanted (h, w).

        `block` is (V, h+2R, w+2R) float32, raw units, missing = NaN, in the order of the specification's variables. `native` has
        windows of categories, by number, that are of another grid; their layers of the block are not used.
        """
        height, width = (side - 2 * self.halo for side in block.shape[1:])
        wanted = np.ones((height, width), bool) if wanted is None else wanted
        predicted = np.full((len(self._members), height * width), np.nan, np.float32)
        x = torch.from_numpy(np.require(block, np.float32, ["C", "W"]))
        with torch.inference_mode():
            for cells, parts in self._windows(x, wanted, native) if self._branched else self._cells(x.flatten(1), wanted.ravel()):
                outputs = torch.stack([member.outputs(part) for member, part in zip(self._members, parts, strict=True)])
                predicted[:, cells] = to_target(outputs, self.specification).cpu().numpy()
        return predicted.reshape(-1, height, width)

    def _cells(self, x: Tensor, wanted: np.ndarray) -> Iterator[tuple[slice | np.ndarray, list[Tensor]]]:
        """Yield cells and each member's inputs (K, n) of the head, where all branches are multiplied into it: x (V, cells)."""
        at_once = CELLS_AT_ONCE[self.device.type]
        chosen = None if wanted.all() else np.flatnonzero(wanted)
        for start in range(0, x.shape[1] if chosen is None else chosen.size, at_once):
            cells = slice(start, start + at_once) if chosen is None else chosen[start : start + at_once]
            part = x[:, cells] if isinstance(cells, slice) else x[:, torch.from_numpy(cells)]
            yield cells, [self._encoder(part.to(self.device).T).T] * len(self._members)

    def _maps_of(self, k: int, windows: Windows) -> list[Tensor]:
        """Return each member's maps (32, H, W) of category k, at every window of a block of its own cells."""
        block = torch.from_numpy(windows.block).to(self.device)
        encoded = self._encoders[k](block.flatten(1).T).T.unflatten(1, block.shape[1:])
        return [branch(encoded[None])[0] for member in self._members if (branch := member.branches[k]) is not None]

    def _windows(self, x: Tensor, wanted: np.ndarray, native: Mapping[int, Windows]) -> Iterator[tuple[np.ndarray, list[Tensor]]]:
        """Yield cells and each member's inputs (K, n) of the head, where some branches are not, strip by strip of x (V, H, W)."""
        height, width = wanted.shape
        own = {k: self._maps_of(k, windows) for k, windows in native.items()}
        rows = max(1, 16 * CELLS_AT_ONCE[self.device.type] // width)
        for top in range(0, height, rows):
            here = wanted[top : top + rows]
            if not here.any():
                continue
            strip = x[:, top : top + len(here) + 2 * self.halo].to(self.device)
            encoded = self._encoder(strip.flatten(1).T).T.unflatten(1, strip.shape[1:])
            chosen = None if here.all() else torch.from_numpy(np.flatnonzero(here)).to(self.device)
            parts = []
            for m, member in enumerate(self._members):
                maps = []
                each = zip(self.specification.categories, member.branches, encoded.split(self._channels), strict=True)
                for k, (category, branch, part) in enumerate(each):
                    if k in own:
                        strips = (side[top : top + len(here)] for side in (native[k].rows, native[k].cols))
                        row, col = (torch.from_numpy(side).to(self.device) for side in strips)
                        maps.append(own[k][m][:, row, col].flatten(1))
                        continue
                    rim = self.halo - category.radius
                    inner = part[:, rim : part.shape[1] - rim, rim : part.shape[2] - rim]
                    maps.append((inner if branch is None else branch(inner[None])[0]).flatten(1))
                parts.append(torch.cat(maps) if chosen is None else torch.cat(maps)[:, chosen])
            yield top * width + np.flatnonzero(here), parts


class NetworkPredictor(Predictor):
    """Map with a network or an ensemble of networks: that of a file, or the network itself."""

    on_gpu = True
    missing_policy = "it is filled as in training"
    version = ("torch", torch.__version__)
    precision = np.float32

    def __init__(
        self, path: Path, device: str, stats: Statistics | None, missing: str | None, network: SoilCarbonNet | None = None
    ) -> None:
        self.network = load_checkpoint(path, choose_device(device)) if network is None else network
        super().__init__(path, Uncertainty(self.network.calibration, self.network.errors, self.network.applicability))
        if stats is not None:
            self.network.respecify(statistics=stats, missing=missing)
        self.describe_inputs(self.network.specification, self.network.record.rasters)
        self.trained_cells = cell_sizes(self.network.record.rasters)
        self._dense: SlidingNetwork | None = None

    def take_statistics(self, stats: Path | None, missing: Literal["mean", "zero"] | None) -> Statistics | None:
        """See `Predictor`."""
        facts = self.network.specification
        if facts.statistics is not None:
            return super().take_statistics(stats, missing)
        if stats is None:
            raise UserError(f"{self.path}: has no statistics; give those that its inputs are standardised with, --stats FILE")
        statistics = read_statistics(stats, facts.categories)
        self.network.respecify(statistics=statistics, missing=missing or "mean")
        return statistics

    def predict_patches(self, x: np.ndarray, metres: Mapping[str, float], lonlat: np.ndarray) -> np.ndarray:  # noqa: ARG002 - anywhere
        """See `Predictor`."""
        facts = self.network.specification
        warn_of_far_inputs(facts, x)
        warn_of_other_windows(facts.categories, self.network.record.rasters, metres)
        return predict(self.network, x)[0]

    def predict(self, block: np.ndarray, wanted: np.ndarray, cells: Cells) -> Predicted:
        """See `Predictor`."""
        if self._dense is None:
            self._dense = SlidingNetwork(self.network)
        return Predicted(self._dense.predict(block, wanted, cells.native))

    def bands(self, predicted: Predicted, level: float) -> np.ndarray:
        """See `Predictor`."""
        calibration, mean = self.network.calibration, predicted.members.mean(0)
        if calibration is None:
            return summary(mean, predicted.members)
        return summary(mean, predicted.members, *calibration.interval(mean, level))

    def means(self, predicted: np.ndarray) -> np.ndarray:
        """See `Predictor`; of an ensemble as if its members were alike."""
        facts = self.network.specification
        return np.asarray(as_means(np.stack([predicted] * facts.members), facts).mean(0))

    def member_means(self, members: np.ndarray) -> np.ndarray:
        """See `Predictor`; by each member's own smearing."""
        return as_means(members, self.network.specification)

    def applicability_inputs(self, cells: np.ndarray) -> np.ndarray:
        """See `Predictor`."""
        return unfold_classes(cells.T, self.network.specification)

    def method(self) -> str:
        """See `Predictor`."""
        facts = self.network.specification
        prediction = f"mean of {facts.members} networks" if facts.members > 1 else "one network"
        median = facts.target_transform == "log1p" and facts.center == "median"
        return f"median ({prediction}); {MEDIANS}" if median else prediction

    def spread_bands(self, value: str, level: float, change: bool) -> list[Band]:
        """See `Predictor`; without calibrated intervals the quantiles of the members, and their standard deviation."""
        count, meanings = self.network.specification.members, dict[str, str]()
        spread = f"over {count} networks: how far they differ, not how far they all may be wrong"
        if self.network.calibration is not None and not change:
            how = f"end of the {level:.0%} interval, calibrated on profiles held out"
            meanings = {name: f"{name} {how}" for name in ("lower", "upper")}
        elif count > 1:
            meanings = {name: f"{share:.0%} quantile {spread}" for name, share in (("lower", LOWER), ("upper", UPPER))}
        if count > 1:
            meanings["sd"] = f"standard deviation {spread}"
        return [Band(name, self.unit, {"MEANING": f"{value}, {meaning}"}) for name, meaning in meanings.items()]

    def describe(self) -> dict[str, Any]:
        """See `Predictor`."""
        facts = self.network.specification
        found: dict[str, Any] = {} if self.errors is None else {"errors": described(self.errors)}
        found |= {"members": facts.members, "target": self.target, "unit": facts.unit, "depth (cm)": facts.depth}
        found |= {"years of the profiles": facts.years, "target_transform": facts.target_transform}
        return found | {"missing": facts.missing, "center": facts.center}

    def verdicts(self) -> list[str]:
        """See `Predictor`; of the profiles held out, against the mean of the training profiles."""
        of_mean = {split: untrusted_scores(each) for split, each in self.network.record.scores_of_mean.items()}
        found = {split: worse_than_mean(each, of_mean.get(split, {}), self.unit) for split, each in self.scores().items()}
        return [f"{split[:40]} profiles: {found[split]}" for split in found if split in ("valid", "test") and found[split]]

    def scores(self) -> dict[str, dict[str, float | None]]:
        """See `Predictor`."""
        return {split: untrusted_scores(each) for split, each in self.network.record.scores.items()}
