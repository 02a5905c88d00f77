"""The training loop: epochs of optimiser steps, evaluation, choice of the best epoch, early stopping.

Pretraining and fine-tuning are the same loop with another schedule. It takes tensors that lie on one device and knows neither
files nor ensembles nor teachers. A run interrupted after any epoch continues from its state, and ends with the same bits on the
same CPU.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from soilcarbon.io.files import UserError
from soilcarbon.network.network import Member, to_target
from soilcarbon.network.specification import Encoder, Specification
from soilcarbon.stats import metrics
from soilcarbon.training import distributed
from soilcarbon.training.accelerator import Accelerator
from soilcarbon.training.optimiser import Optimiser, make_optimiser

SAVE_EVERY_S = 10.0
AT_ONCE = 1 << 14
"""Profiles that are encoded together."""
Scores = dict[str, dict[str, float | int | None]]
"""Split -> score -> value."""


@dataclass(frozen=True)
class Profiles:
    """Encoded profiles, on the device of the training loop.

    Attributes
    ----------
    encoded
        (n, E) inputs, see `SoilCarbonNet.encode`.
    output
        (n,) float32: the expected output of the network, the target transformed and standardised.
    y
        (n,) float64 target.
    """

    encoded: Tensor
    output: Tensor
    y: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Profiles":
        """Return some of the profiles; a slice is a view."""
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.output.device)
        return Profiles(self.encoded[index], self.output[index], self.y[rows])


@dataclass(frozen=True)
class TrainingSets:
    """Training and validation sets of one member.

    Attributes
    ----------
    fit
        Profiles of the optimiser steps: the training set, or places with a teacher's predictions.
    train, valid
        The training set, and the validation set that chooses the best epoch.
    specification
        Of the network: how outputs become the target.
    """

    fit: Profiles
    train: Profiles
    valid: Profiles
    specification: Specification


@dataclass(frozen=True)
class Schedule:
    """Training schedule and hyper-parameters of one member; see the settings of the same names.

    `l2_sp`: half of it times the squared distance to the initial weights is added to the loss. `keep_initial`: the initial weights,
    being pretrained, may be the best epoch. `seed` is that of the order of the profiles. `new`: categories whose branches were
    added to the pretrained network, with `new_rate` times the learning rate; they are neither frozen nor pulled back. `dropout`:
    hidden values are dropped in training, as published; a teacher's predictions have no noise, and are learnt better without.
    """

    epochs: int
    batch_size: int = 32
    lr: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "constant"
    l2_sp: float = 0.0
    freeze: Literal["none", "features", "all-but-head"] = "none"
    select_on: Literal["rmse", "mae", "r2", "ccc", "none"] = "rmse"
    eval_interval: int = 1
    patience: int = 0
    keep_initial: bool = False
    seed: int = 0
    new: tuple[str, ...] = ()
    new_rate: float = 1.0
    dropout: bool = True

    def rate_factor(self, epoch: int) -> float:
        """Return the factor of the learning rate in an epoch, counted from 1."""
        return (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2 if self.lr_schedule == "cosine" else 1.0

    def evaluates(self, epoch: int) -> bool:
        """Return whether an epoch is followed by an evaluation."""
        return epoch % self.eval_interval == 0 or epoch == self.epochs


@dataclass
class Best:
    """The best epoch so far: its number, its validation score, its weights."""

    epoch: int
    score: float | None
    weights: dict[str, Tensor]


Log = Callable[[int, float | None, Scores, Member], None]
"""Takes the number of an epoch, its mean loss, and the scores where it was evaluated, as `run_log.RunLog.epoch` does."""
Save = Callable[[dict[str, Any]], None]
"""Takes a training state: plain containers of tensors and numbers, whose "best" is the best epoch so far."""


class DivergedError(FloatingPointError):
    """Training diverged: the loss or an output is not finite; carries the epoch, the batch and the best epoch before."""

    def __init__(self, epoch: int, where: str, best: Best) -> None:
        super().__init__(f"the loss is no longer finite in epoch {epoch}, {where}")
        self.best = best


@torch.no_grad()
def encode_profiles(specification: Specification, x: np.ndarray, y: np.ndarray, device: torch.device) -> Profiles:
    """Encode packed covariates (n, F) and targets (n,) as a network's specification says, and put them on a device."""
    encoder = Encoder(specification).to(device)
    batches = torch.from_numpy(np.require(x, np.float32, ["C", "W"])).split(AT_ONCE)
    encoded = torch.cat([encoder(batch.to(device)) for batch in batches])
    output = specification.standardised(y).astype(np.float32)
    return Profiles(encoded, torch.from_numpy(output).to(device), y)


def fit(
    member: Member,
    sets: TrainingSets,
    schedule: Schedule,
    log: Log | None = None,
    saved: dict[str, Any] | None = None,
    save: Save | None = None,
) -> Best:
    """Train one member and return its best epoch.

    Dropout is drawn from PyTorch's global generator, which the caller seeds.

    Parameters
    ----------
    member
        On the device of the sets; its weights change.
    sets, schedule
        The data, and the hyper-parameters.
    log
        Where epochs are logged.
    saved
        The state to resume from, the last one given to `save`; None: start from the beginning.
    save
        Called with the state every `SAVE_EVERY_S` seconds.

    Raises
    ------
    DivergedError
        If the loss or an output is no longer finite.
    UserError
        If the state is of another network, or the network has buffers.
    """
    if kept_aside := next((name for name, _ in member.named_buffers()), None):
        raise UserError(f"{kept_aside}: is a buffer, which no best epoch and no checkpoint keeps; take GroupNorm for BatchNorm")
    member.freeze(schedule.freeze, schedule.new)
    if not schedule.dropout:
        for layer in (each for each in member.classifier if isinstance(each, torch.nn.Dropout)):
            layer.p = 0.0
    optimiser = make_optimiser(member, schedule.lr, schedule.l2_sp, schedule.new, schedule.new_rate)
    shuffler = torch.Generator().manual_seed(schedule.seed)
    if saved is not None:
        epoch, best = _restore(saved, member, optimiser, shuffler)
    else:
        epoch, best = 0, Best(0, None, member.copy_of_tensors())
        scores = evaluate(optimiser, sets, epoch, best, "before its first batch")
        if schedule.keep_initial:
            best.score = distributed.broadcast(scores["valid"].get(schedule.select_on))
        if log:
            log(0, None, scores, member)
    last = time.monotonic()

    while epoch < schedule.epochs and not (schedule.patience and epoch - best.epoch >= schedule.patience):
        epoch += 1
        optimiser.scale_rate(schedule.rate_factor(epoch))
        order = torch.randperm(len(sets.fit.output), generator=shuffler).to(sets.fit.output.device)
        losses = optimiser.epoch(sets.fit.encoded, sets.fit.output, order, schedule.batch_size)
        finite = torch.isfinite(losses)
        if not finite.all():
            raise DivergedError(epoch, f"batch {int((~finite).nonzero()[0]) + 1} of {len(losses)}", best)
        scores = {}
        if schedule.evaluates(epoch):
            scores = evaluate(optimiser, sets, epoch, best, "after its last batch")
            score = distributed.broadcast(scores["valid"].get(schedule.select_on))
            if schedule.select_on != "none" and metrics.better(schedule.select_on, score, best.score):
                best = Best(epoch, score, member.copy_of_tensors())
        if log:
            log(epoch, float(losses.double().mean()), scores, member)
        if save is not None and time.monotonic() - last > SAVE_EVERY_S:
            save(_snapshot(epoch, best, member, optimiser, shuffler))
            last = time.monotonic()

    if best.score is None:  # the score was never defined, so the last epoch is taken
        best = Best(epoch, None, member.copy_of_tensors())
    return best


def evaluate(optimiser: Optimiser | Accelerator, sets: TrainingSets, epoch: int, best: Best, where: str) -> Scores:
    """Return a member's scores on training and validation set, in the target's unit.

    Raises
    ------
    DivergedError
        If an output is not finite.
    """
    parts = {"train": sets.train, "valid": sets.valid}
    outputs = {name: optimiser.outputs(profiles.encoded) for name, profiles in parts.items()}
    facts = sets.specification.model_copy(update={"members": 1, "smearing": None})
    if facts.target_transform == "log1p":
        factor = smearing_factor(list(outputs.values()), list(parts.values()), facts.output_scale[1])
        facts = facts.model_copy(update={"smearing": (factor,)})
    scores = {}
    for name, profiles in parts.items():
        predicted = to_target(outputs[name][None], facts)[0].double().cpu().numpy()
        if not np.isfinite(predicted).all():
            raise DivergedError(epoch, where, best)
        scores[name] = metrics.scores(profiles.y, predicted)
    return scores


@torch.no_grad()
def outputs_of(member: Member, encoded: Tensor) -> Tensor:
    """Return a member's outputs (n,) in evaluation mode, in large batches."""
    member.eval()
    return torch.cat([Member.forward(member, batch) for batch in encoded.split(member.at_once)])


def smearing_factor(outputs: Sequence[Tensor], profiles: Sequence[Profiles], deviation: float) -> float:
    """Return Duan's (1983) smearing factor of one member: the mean of exp(residual) on the log scale, over several sets.

    Training and validation profiles are taken together: the latter alone are few, and one outlier among them would
    scale every prediction. `deviation` is that of the output's scale.
    """
    residuals = [(each.output - output) * deviation for each, output in zip(profiles, outputs, strict=True)]
    return float(
        torch.exp(torch.cat(residuals).double().clamp(-30.0, 30.0)).mean()
    )  # as in `to_target`: finite and above 0, however bad


# --- the state of an interrupted run -----------------------------------------------------------------------------------


def _snapshot(
    epoch: int, best: Best, member: Member, optimiser: Optimiser | Accelerator, shuffler: torch.Generator
) -> dict[str, Any]:
    weights = member.copy_of_tensors()
    device = next(iter(weights.values())).device
    return {
        "epoch": epoch,
        "best": vars(best),
        "weights": weights,
        "optimiser": optimiser.state(),
        "shuffler": shuffler.get_state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore(
    saved: dict[str, Any], member: Member, optimiser: Optimiser | Accelerator, shuffler: torch.Generator
) -> tuple[int, Best]:
    """Restore a member from a snapshot, random number states included; return its epoch and the best one so far."""
    try:
        member.load_state_dict(saved["weights"])
        optimiser.restore(saved["optimiser"])
        shuffler.set_state(saved["shuffler"].cpu())
        torch.set_rng_state(saved["random"].cpu())
        device = next(member.parameters()).device
        if saved["random_cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"].cpu(), device)
        if type(saved["epoch"]) is not int or saved["epoch"] < 0:
            raise ValueError("no epoch")
        return saved["epoch"], Best(**saved["best"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError("the state of the interrupted run does not fit the network; run without --resume") from error
