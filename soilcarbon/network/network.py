"""The multi-branch network, and the one door for weights in and out.

In: packed covariates (B, F), raw units, missing = NaN. Out: one value per profile (B,).

At radius 0 a member is exactly the published network (Zhang et al. 2025, Geoderma 461, 117466): per category a 1x1
convolution to 32 maps, concatenated in table order, a 1x1 fusion convolution to 128, and a fully connected head; no
activation in front of the first Linear. At radius r > 0 a branch is convolution, ReLU and pooling until its window is
1x1. Standardising, filling of missing cells and class channels happen inside, by the checkpoint's specification.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from soilcarbon import __version__
from soilcarbon.io.files import UserError, atomic_write, write_yaml
from soilcarbon.network.preprocessing import Encoder
from soilcarbon.network.specification import Specification
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration

MAPS, FUSED, HIDDEN = 32, 128, 256
BIAS = 0.01
PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def dilations(radius: int) -> list[int]:
    """Return the dilations of the blocks that bring a window of 2r+1 cells to one: they sum to r, growing outwards.

    A block of dilation d takes 2d cells: a 2x2 convolution takes d, a 2x2 pooling d. Dilated, stride-1 layers compute
    what strided ones would, at every cell of a raster at once (Long et al. 2015, "shift-and-stitch").
    """
    steps: list[int] = []
    while radius > 0:
        steps.insert(0, (radius + 1) // 2)
        radius -= steps[0]
    return steps


class MaxPool(nn.Module):
    """Maximum over 2 x 2 cells that lie `step` apart, at every cell.

    What `nn.MaxPool2d(2, stride=1, dilation=step)` gives, some forty times as fast on a CPU.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H - step, W - step) for (B, C, H, W)."""
        x = torch.maximum(x[..., : -self.step], x[..., self.step :])
        return torch.maximum(x[..., : -self.step, :], x[..., self.step :, :])


class Member(nn.Module):
    """One network: branches, fusion convolution, fully connected head, with the published tensor names.

    `forward` takes encoded inputs (B, E), see `SoilCarbonNet.encode`, and returns (B,) on the scale it is trained on.
    """

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.layout: list[tuple[str, int, int]] = []
        for category in specification.categories:
            channels = specification.channels(category)
            layers: list[nn.Module] = []
            self.layout.append((f"features_{category.name}", channels, category.size))
            if category.radius == 0:
                layers = [nn.Conv2d(channels, MAPS, 1)]
            for step in dilations(category.radius):
                layers += [nn.Conv2d(channels, MAPS, 2, dilation=step), nn.ReLU(), MaxPool(step)]
                channels = MAPS
            self.add_module(f"features_{category.name}", nn.Sequential(*layers))
        self.features_merge = nn.Sequential(nn.Conv2d(MAPS * len(self.layout), FUSED, 1))
        self.classifier = nn.Sequential(
            nn.Linear(FUSED, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, FUSED), nn.ReLU(), nn.Dropout(0.5)
        )
        self.final_regressor = nn.Sequential(nn.Linear(FUSED, 1))

    def initialise(self, seed: int) -> None:
        """Seed PyTorch and draw the weights anew: Linear layers Xavier-uniform with bias 0.01, as published."""
        torch.manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, BIAS)

    def tensors(self) -> dict[str, Tensor]:
        """Return this member's own weights by name, detached."""
        return {name: value.detach() for name, value in self.named_parameters() if not name.startswith("member_")}

    def copy_of_tensors(self) -> dict[str, Tensor]:
        """Return `tensors()` as they are now, wherever training takes them."""
        return {name: value.clone() for name, value in self.tensors().items()}

    def freeze(self, what: str) -> None:
        """Let only part be trained: "none" frozen, "features" (branches and fusion), or "all-but-head" (last layer)."""
        trained = {"none": ("",), "features": ("classifier", "final_regressor"), "all-but-head": ("final_regressor",)}[what]
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trained))

    def forward(self, encoded: Tensor) -> Tensor:
        """Return (B,) for encoded inputs (B, E)."""
        return self.final_regressor(self.hidden(encoded)).squeeze(1)

    def hidden(self, encoded: Tensor) -> Tensor:
        """Return what enters the last layer, (B, 128), for encoded inputs (B, E)."""
        maps, start = [], 0
        for name, channels, size in self.layout:
            end = start + channels * size * size
            part, branch = encoded[:, start:end], self.get_submodule(name)
            # On a single cell a 1x1 convolution is a matrix product, and cheaper as one.
            maps.append(_as_linear(branch, part) if size == 1 else branch(part.unflatten(1, (channels, size, size))).flatten(1))
            start = end
        features: Tensor = self.classifier(_as_linear(self.features_merge, torch.cat(maps, 1)))
        return features


def _as_linear(layers: nn.Module, x: Tensor) -> Tensor:
    convolution = layers.get_submodule("0")
    assert isinstance(convolution, nn.Conv2d)
    return functional.linear(x, convolution.weight.flatten(1), convolution.bias)


class SoilCarbonNet(Member):
    """A network with its specification: member 0 under the published names, others as `member_<k>`.

    Parameters
    ----------
    specification
        What the numbers mean.
    record
        How it came about: settings, scores, epoch, version; plain containers, for people and audits.

    Attributes
    ----------
    applicability
        Where it may be used, learnt from its training profiles; None where that is not known.
    calibration
        How wide its intervals must be, learnt from profiles held out; None where that is not known.
    """

    def __init__(self, specification: Specification, record: dict[str, Any] | None = None) -> None:
        super().__init__(specification)
        for k in range(1, specification.members):
            self.add_module(f"member_{k}", Member(specification))
        self.specification = specification
        self.record = record or {}
        self.version = __version__
        self.applicability: ApplicabilityArea | None = None
        self.calibration: ConformalCalibration | None = None
        self.respecify()

    def respecify(self, **changes: Any) -> None:
        """Change facts of the specification, such as statistics or bounds, that do not change the tensors' shapes."""
        self.specification = Specification(**(dict(self.specification) | changes))
        self.encoder = Encoder(self.specification).to(next(self.parameters()).device)

    def members(self) -> Iterator[Member]:
        """Yield the members; the first is the network itself, by its own tensors."""
        yield self
        for k in range(1, self.specification.members):
            member = self.get_submodule(f"member_{k}")
            assert isinstance(member, Member)
            yield member

    def blank(self, seed: int) -> "SoilCarbonNet":
        """Return a network of the same specification with weights drawn anew."""
        network = SoilCarbonNet(self.specification)
        for k, member in enumerate(network.members()):
            member.initialise(seed + k)
        return network.eval()

    @classmethod
    def assemble(
        cls, specification: Specification, members: Sequence[dict[str, Tensor]], record: dict[str, Any]
    ) -> "SoilCarbonNet":
        """Make a network, in evaluation mode, of members given by their tensors."""
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced: a run's random numbers go on as they were
            network = cls(specification.model_copy(update={"members": len(members), "smearing": None}), record)
        names = ["", *(f"member_{k}." for k in range(1, len(members)))]
        tensors = {prefix + name: value for prefix, member in zip(names, members, strict=True) for name, value in member.items()}
        network.load_state_dict(tensors | {"_extra_state": network.get_extra_state()})
        return network.to(next(iter(tensors.values())).device).eval()

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs (B, E) of packed covariates (B, F), raw units, missing = NaN; see `Encoder`."""
        encoded: Tensor = self.encoder(x)
        return encoded

    def member_outputs(self, encoded: Tensor) -> Tensor:
        """Return (M, B): each member's output for encoded inputs (B, E)."""
        return torch.stack([Member.forward(member, encoded) for member in self.members()])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,): the members' mean output for packed covariates (B, F), on the scale of the target's transform."""
        return self.member_outputs(self.encode(x)).mean(0)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what PyTorch stores beside the tensors as `_extra_state`: plain containers only."""
        facts = {"specification": self.specification.model_dump(mode="json"), "record": self.record, "version": self.version}
        learnt = {"applicability": self.applicability, "calibration": self.calibration}
        return facts | {name: each.to_plain() for name, each in learnt.items() if each is not None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over `_extra_state`'s record, applicability and calibration; the specification is what the network was built from.

        Raises
        ------
        ValueError
            If the applicability is not of the specification's predictors, or the calibration is none.
        """
        area = state.get("applicability")
        self.applicability = None if area is None else ApplicabilityArea.from_plain(area)
        scores = state.get("calibration")
        self.calibration = None if scores is None else ConformalCalibration.from_plain(scores)
        width = sum(self.specification.channels(category) for category in self.specification.categories)
        if self.applicability is not None and len(self.applicability.mean) != width:
            raise ValueError(f"applicability: of {len(self.applicability.mean)} predictors, the network has {width}")
        self.record, self.version = state.get("record", {}), str(state.get("version", "unknown"))


def to_target(outputs: Tensor, specification: Specification) -> Tensor:
    """Bring members' outputs (M, n) to the target's unit: undo the transform with its bias, hold within the bounds."""
    if specification.target_transform == "log1p":
        means = specification.smearing if specification.center == "mean" else None
        factors = outputs.new_tensor(means or [1.0] * len(outputs))
        # e^30 is beyond any target; it keeps a wild output finite until the bounds are applied.
        outputs = torch.exp(outputs.clamp(max=30.0)) * factors[:, None] - 1
    return outputs if specification.bounds is None else outputs.clamp(*specification.bounds)


def as_means(members: np.ndarray, specification: Specification) -> np.ndarray:
    """Return members' predictions (M, ...) as means, which may be summed over an area, where they are medians."""
    if specification.center == "mean" or specification.smearing is None:
        return members
    factors = np.reshape(np.asarray(specification.smearing, members.dtype), (-1, *[1] * (members.ndim - 1)))
    means: np.ndarray = (members + 1) * factors - 1
    return means if specification.bounds is None else means.clip(*specification.bounds)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def read_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file of tensors and plain containers with `weights_only=True`.

    Raises
    ------
    UserError
        If it is missing, torn, foreign, or would run code; nothing of it has run then.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one first, or name another")
    content = io.BytesIO(path.read_bytes())
    try:
        if zipfile.is_zipfile(content):  # checksums are not looked at by torch.load: a flipped bit would pass
            with zipfile.ZipFile(content) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                if size > len(content.getbuffer()) or (torn := archive.testzip()) is not None:
                    raise ValueError(f"damaged at {torn!r}" if size <= len(content.getbuffer()) else "compressed")
        content.seek(0)
        state = torch.load(content, map_location=device, weights_only=True)
    except Exception as error:  # a hostile or torn file may raise anything at all
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: not a checkpoint of plain tensors: torn, foreign, or a pickle that asks for code ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint: expected named tensors, found {type(state).__name__}")
    return state


def load_checkpoint(path: Path | str, device: str | torch.device = "cpu") -> SoilCarbonNet:
    """Load a network with its specification; the only door for weights.

    Parameters
    ----------
    path
        A checkpoint written here, or the published bare state_dict of 18 tensors, which has no statistics: its network
        takes inputs already standardised until `respecify(statistics=...)` gives it some.
    device
        Where to put it, wherever it was saved.

    Returns
    -------
    SoilCarbonNet
        In evaluation mode.

    Raises
    ------
    UserError
        If the file cannot be read, or a tensor is missing, unknown, of another shape than the specification says, not a
        dense floating-point tensor, or not finite; naming the tensor and both shapes.
    """
    path = Path(path)
    state = read_state(path, device)
    extra = state.get("_extra_state", {})
    try:
        specification = Specification(**extra.get("specification", {}))
        if not isinstance(extra.get("record", {}), dict):
            raise ValueError("the record is not a mapping")
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f"{path}: its specification is not valid: {reason}") from error
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in SoilCarbonNet(specification).named_parameters()}
    tensors = {name: value for name, value in state.items() if name != "_extra_state"}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{path}: tensor {name} {tuple(shape)} is missing")
        value = tensors[name]
        plain = isinstance(value, Tensor) and value.dtype in PLAIN and value.layout == torch.strided
        if not plain or value.is_nested or value.device.type == "meta":
            raise UserError(f"{path}: {name} is not a dense floating-point tensor")
        if value.shape != shape:
            raise UserError(f"{path}: tensor {name} is {tuple(value.shape)} in the file, {tuple(shape)} in the model")
        if not torch.isfinite(value.float()).all():
            raise UserError(f"{path}: tensor {name} holds values that are not finite")
    unknown = sorted(set(map(str, tensors)) - set(shapes))
    if unknown:
        raise UserError(f"{path}: {len(unknown)} tensors are not of this model, first {unknown[0]!r}")
    network = SoilCarbonNet(specification).to(device)
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()} | {"_extra_state": extra})
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return network.eval()


def is_bare(path: Path) -> bool:
    """Whether the file holds tensors without our specification, as the published one does."""
    return "_extra_state" not in read_state(path)


def save_state(path: Path, state: Any) -> None:
    """Write tensors and plain containers atomically, to be read by `read_state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def save_checkpoint(network: SoilCarbonNet, path: Path) -> None:
    """Write a network's checkpoint, and beside it the same facts as YAML for people; both atomically."""
    state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in network.state_dict().items()}
    save_state(path, state)
    facts = network.get_extra_state()
    facts.get("applicability", {}).pop("points", None)  # bytes are nothing for people
    write_yaml(path.with_suffix(".yaml"), facts)


def choose_device(name: str) -> torch.device:
    """Return the device for "auto" (CUDA when present), "cpu" or "cuda".

    Raises
    ------
    UserError
        If CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but PyTorch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
