"""Multi-branch convolutional network for soil carbon, and ensembles of it.

In: packed covariates (B, F), raw units, missing = NaN. Out: one value per profile (B,).

At radius 0 a member is exactly the published network (Zhang et al. 2025, Geoderma 461, 117466): per category a 1x1
convolution to 32 maps, concatenated in table order, a 1x1 fusion convolution to 128, and a fully connected head; no
activation in front of the first Linear. At radius r > 0 a branch is convolution, ReLU and pooling until its window is
1x1. Standardising, filling of missing cells and class channels happen inside (`specification.Encoder`). Files:
`checkpoint.save_checkpoint`, `load_checkpoint`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from soilcarbon import __version__
from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.specification import Encoder, Specification
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField

MAPS, FUSED, HIDDEN = 32, 128, 256
BIAS = 0.01
AT_ONCE, ACTIVATIONS = 1 << 14, 1 << 28
"""Profiles evaluated together; fewer where a branch's feature maps would take more than so many bytes (256 MB)."""


def dilations(radius: int) -> list[int]:
    """Return the dilations of the blocks that reduce a window of 2r+1 cells to one; they sum to r.

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
    """One member network: branches, fusion convolution, fully connected head, with the published tensor names.

    Parameters
    ----------
    specification
        Gives the branches. Input: encoded covariates (B, E), see `SoilCarbonNet.encode`; output: (B,) the target, transformed
        and standardised as the specification says, see `to_target`.

    Examples
    --------
    >>> Member(Specification())(torch.zeros(5, 32)).shape
    torch.Size([5])
    """

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.layout: list[tuple[str, int, int]] = []  # of each branch: name, channels, window's side
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
        self.input_columns = specification.input_columns
        self.features_merge = nn.Sequential(nn.Conv2d(MAPS * len(self.layout), FUSED, 1))
        self.classifier = nn.Sequential(
            nn.Linear(FUSED, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, FUSED), nn.ReLU(), nn.Dropout(0.5)
        )
        self.final_regressor = nn.Sequential(nn.Linear(FUSED, 1))

    @property
    def at_once(self) -> int:
        """Number of profiles to evaluate together: `AT_ONCE`, fewer of wide windows."""
        layers = 4  # of a branch in memory: a convolution's input and output, its ReLU, and the pooling
        widest = max(size for _, _, size in self.layout)
        return max(1, min(AT_ONCE, ACTIVATIONS // (layers * MAPS * 4 * widest**2)))

    def forward(self, encoded: Tensor) -> Tensor:
        """Return (B,) for encoded inputs (B, E)."""
        return self.final_regressor(self.hidden(encoded)).squeeze(1)

    def hidden(self, encoded: Tensor) -> Tensor:
        """Return the inputs of the last layer, (B, 128), for encoded inputs (B, E)."""
        maps = []
        for (name, channels, size), columns in zip(self.layout, self.input_columns, strict=True):
            branch, part = self.get_submodule(name), encoded[:, columns]  # (B, C*S*S)
            maps.append(_of_cells(branch, part) if size == 1 else branch(part.unflatten(1, (channels, size, size))).flatten(1))
        return self.fused(torch.cat(maps, 1))

    def fused(self, maps: Tensor) -> Tensor:
        """Return the inputs of the last layer, (B, 128), for the maps of all branches at single cells, (B, 32 K)."""
        features: Tensor = self.classifier(_of_cells(self.features_merge, maps))
        return features

    def initialise(self, seed: int) -> None:
        """Seed PyTorch and draw the weights anew: Linear layers Xavier-uniform with bias 0.01, as published."""
        torch.manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, BIAS)
            elif callable(draw := getattr(module, "reset_parameters", None)):
                draw()

    def tensors(self) -> dict[str, Tensor]:
        """Return this member's own weights by name, detached."""
        return {name: value.detach() for name, value in self.named_parameters() if not name.startswith("member_")}

    def copy_of_tensors(self) -> dict[str, Tensor]:
        """Return copies of `tensors()`, which training does not change."""
        return {name: value.clone() for name, value in self.tensors().items()}

    def freeze(self, what: str, new: Sequence[str] = ()) -> None:
        """Freeze layers: "none", "features" (branches and fusion), or "all-but-head" (only the last layer is trained).

        Branches of `new` categories, and the fusion layer's weights, require gradients in any case; see `weights_of`.
        """
        trained = {"none": ("",), "features": ("classifier", "final_regressor"), "all-but-head": ("final_regressor",)}[what]
        always = self.weights_of(new)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trained) or name in always)

    def weights_of(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return masks of the weights that belong to some categories: parameter -> bool, of a shape that broadcasts to its own.

        They are their branches, and the columns of the fusion layer that read their maps.
        """
        if not names:
            return {}
        ours = torch.tensor([branch.removeprefix("features_") in names for branch, _, _ in self.layout])
        fusion = self.features_merge.get_parameter("0.weight")
        masks = {"features_merge.0.weight": ours.repeat_interleave(MAPS)[None, :, None, None].to(fusion.device)}
        for name in names:
            for key, _ in self.get_submodule(f"features_{name}").named_parameters():
                masks[f"features_{name}.{key}"] = torch.tensor(True, device=fusion.device)
        return masks


def _of_cells(layers: nn.Module, x: Tensor) -> Tensor:
    """Return what layers give for single cells (B, C). A 1x1 convolution alone is a matrix product, and faster as one."""
    first, *others = layers.children()
    if others or type(first) is not nn.Conv2d:
        return torch.flatten(layers(x[:, :, None, None]), 1)
    return functional.linear(x, first.weight.flatten(1), first.bias)


class Growth(BaseModel):
    """How a network grew from another one, see `growth.grow`.

    Attributes
    ----------
    checkpoint, sha256
        The file of the network it grew from; "" of one in memory.
    added
        Categories that the region has and that network had not.
    filled
        Variables that the region lacks, which are taken as their mean; their channels are gone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    checkpoint: str = ""
    sha256: str = ""
    added: tuple[Category, ...] = ()
    filled: tuple[str, ...] = ()


class Record(BaseModel):
    """Provenance of a network: settings of the training, and scores.

    Attributes
    ----------
    settings
        Of the training run, resolved.
    epoch
        The best epoch of each member.
    scores
        Split -> score -> value, in the target's unit.
    profiles
        Split -> number of profiles.
    rasters
        Of the rasters that the dataset was cut from: crs, cell_size, variables, nodata (variable -> values, as given by a setting).
    calibrated_on
        The profiles held out that the prediction intervals were calibrated on, as text.
    training_mean
        Of the training profiles' target, the simplest prediction; None: not recorded.
    scores_of_mean
        As `scores`, of that mean as a prediction.
    growth
        How the network grew from the one it was fine-tuned from, and that from an earlier one.
    """

    model_config = ConfigDict(extra="ignore", validate_assignment=True)
    settings: dict[str, Any] = {}
    epoch: tuple[int, ...] = ()
    scores: dict[str, dict[str, int | float | None]] = {}
    profiles: dict[str, int] = {}
    rasters: tuple[dict[str, Any], ...] = ()
    calibrated_on: str | None = None
    training_mean: float | None = None
    scores_of_mean: dict[str, dict[str, int | float | None]] = {}
    growth: tuple[Growth, ...] = ()


class SoilCarbonNet(Member):
    """A network with its specification: member 0 under the published names, others as `member_<k>`.

    Parameters
    ----------
    specification
        Meaning of inputs and output.
    record
        Provenance.

    Attributes
    ----------
    applicability
        Area of applicability, from the training profiles; None if unknown.
    calibration
        Conformal calibration of its prediction intervals, from held-out profiles; None if unknown.
    errors
        Error model of its means and totals, from held-out profiles; None if unknown.
    new
        Categories whose branches were added to a pretrained network and are not trained yet; not stored in checkpoints.

    Examples
    --------
    >>> network = SoilCarbonNet(Specification(members=3)).eval()
    >>> network(torch.zeros(5, 32)).shape
    torch.Size([5])
    """

    def __init__(self, specification: Specification, record: Record | None = None) -> None:
        super().__init__(specification)
        for k in range(1, specification.members):
            self.add_module(f"member_{k}", Member(specification))
        self.specification = specification
        self.record = record or Record()
        self.version = __version__
        self.applicability: ApplicabilityArea | None = None
        self.calibration: ConformalCalibration | None = None
        self.errors: ErrorField | None = None
        self.new: tuple[str, ...] = ()
        self.respecify()

    def respecify(self, **changes: Any) -> None:
        """Change facts of the specification, such as statistics or bounds, that do not change the tensors' shapes."""
        self.specification = self.specification.changed(**changes)
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
        cls, specification: Specification, members: Sequence[dict[str, Tensor]], record: Record | None = None
    ) -> "SoilCarbonNet":
        """Assemble an ensemble, in evaluation mode, from the tensors of its members."""
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced: a run's random number state stays unchanged
            network = cls(specification.changed(members=len(members), smearing=None), record)
        for member, tensors in zip(network.members(), members, strict=True):
            for name, own in member.tensors().items():
                own.copy_(tensors[name])
        return network.to(next(iter(members[0].values())).device).eval()

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs (B, E) of packed covariates (B, F), raw units, missing = NaN; see `Encoder`."""
        encoded: Tensor = self.encoder(x)
        return encoded

    def member_outputs(self, encoded: Tensor) -> Tensor:
        """Return (M, B): each member's output for encoded inputs (B, E)."""
        return torch.stack([Member.forward(member, encoded) for member in self.members()])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,): the members' mean output for packed covariates (B, F), transformed and standardised; see `to_target`."""
        return self.member_outputs(self.encode(x)).mean(0)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the `_extra_state` that PyTorch stores beside the tensors: plain containers only."""
        facts = {
            "specification": self.specification.model_dump(mode="json"),
            "record": self.record.model_dump(mode="json", exclude_defaults=True),
            "version": self.version,
        }
        fitted = {"applicability": self.applicability, "calibration": self.calibration, "errors": self.errors}
        return facts | {name: each.to_plain() for name, each in fitted.items() if each is not None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore record, applicability, calibration and errors from `_extra_state`; the specification stays the network's.

        Raises
        ------
        ValueError
            If record or calibration are not valid, or the applicability does not fit the specification's predictors.
        """
        self.record = Record.model_validate(state.get("record", {}))
        area = state.get("applicability")
        self.applicability = None if area is None else ApplicabilityArea.from_plain(area)
        scores = state.get("calibration")
        self.calibration = None if scores is None else ConformalCalibration.from_plain(scores)
        errors = state.get("errors")
        self.errors = None if errors is None else ErrorField.from_plain(errors)
        if self.errors is not None and len(self.errors.deviations) != 1:
            raise ValueError("errors: a network's are of one zone")
        width = sum(self.specification.channels(category) for category in self.specification.categories)
        if self.applicability is not None and len(self.applicability.mean) != width:
            raise ValueError(f"applicability: of {len(self.applicability.mean)} predictors, the network has {width}")
        self.version = str(state.get("version", "unknown"))


def predict(network: SoilCarbonNet, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict the target for packed covariates.

    Parameters
    ----------
    network
        With statistics; on any device.
    x
        (n, F) float32, raw units, missing = NaN.

    Returns
    -------
    predicted, members
        (n,) and (M, n) float64 in the target's unit: the prediction, which is the members' mean, and each member's.

    Examples
    --------
    >>> predicted, members = predict(SoilCarbonNet(Specification(members=3)), np.zeros((5, 32), np.float32))
    >>> predicted.shape, members.shape
    ((5,), (3, 5))
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        batches = torch.from_numpy(np.require(x, np.float32, ["C", "W"])).split(network.at_once)
        outputs = torch.cat([network.member_outputs(network.encode(batch.to(device))) for batch in batches], 1)
        members = to_target(outputs, network.specification).double().cpu().numpy()
    if not (finite := np.isfinite(members).all(0)).all():
        raise UserError(
            f"predictions of {int((~finite).sum())} of {len(x)} profiles are not finite; its training diverged, or it is damaged"
        )
    return members.mean(0), members


def to_target(outputs: Tensor, specification: Specification) -> Tensor:
    """Convert members' outputs (M, n) to the target's unit: scale, inverse transform with bias correction, clipping to bounds."""
    mean, deviation = specification.output_scale
    outputs = outputs * deviation + mean
    if specification.target_transform == "log1p":
        means = specification.smearing if specification.center == "mean" else None
        factors = outputs.new_tensor(means or [1.0] * len(outputs))
        # e^30 is beyond any target; it keeps a wild output finite until the bounds are applied.
        outputs = torch.exp(outputs.clamp(max=30.0)) * factors[:, None] - 1
    return outputs if specification.bounds is None else outputs.clamp(*specification.bounds)


def as_means(members: np.ndarray, specification: Specification) -> np.ndarray:
    """Convert members' predictions (M, ...) from medians to means, which may be summed over an area."""
    if specification.center == "mean" or specification.smearing is None:
        return members
    factors = np.reshape(np.asarray(specification.smearing, members.dtype), (-1, *[1] * (members.ndim - 1)))
    means: np.ndarray = (members + 1) * factors - 1
    return means if specification.bounds is None else means.clip(*specification.bounds)


def choose_device(name: str) -> torch.device:
    """Return the device for "auto" (CUDA when present), "cpu" or "cuda".

    On CUDA, convolutions of this process are computed in float32 from then on, as on a CPU, and not in TF32, PyTorch's default,
    which keeps 10 bits of each number.

    Raises
    ------
    UserError
        If CUDA is requested and absent.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was requested, but PyTorch finds no CUDA device; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
