"""What an interrupted run keeps and checks, so that it goes on as if nothing had been.

In: the state of a run after an epoch. Out: the same state, read again, of a run with the same settings, data and first weights.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soilcarbon.io.files import UserError
from soilcarbon.network.network import Member, SoilCarbonNet, read_state
from soilcarbon.settings import TrainSettings
from soilcarbon.training.encoded import Profiles
from soilcarbon.training.optimiser import Descent

log = logging.getLogger(__name__)
# Where things lie and how a run is watched: an interrupted run may be resumed with other values of these.
NOT_LEARNT = {"resume", "tensorboard", "device", "run", "model_dir", "log_dir", "results_dir"}
NOT_LEARNT |= {"data_dir", "samples", "patches", "stats", "split", "categories", "init_from", "global_data"}
# (the content of the latter is compared)


@dataclass
class Best:
    """A member's best epoch so far: its number, its validation score, its weights."""

    epoch: int
    score: float | None
    weights: dict[str, Tensor]


def snapshot(k: int, epoch: int, member: Member, descent: Descent, shuffler: torch.Generator) -> dict[str, Any]:
    """Return where member k is after an epoch."""
    device = descent.device
    return {
        "member": k,
        "epoch": epoch,
        "weights": member.copy_of_tensors(),
        "adam": descent.adam.state(),
        "shuffler": shuffler.get_state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(state: dict[str, Any], member: Member, descent: Descent, shuffler: torch.Generator) -> Best:
    """Bring a member to where `snapshot` found it, random numbers included, and return its best epoch so far.

    Raises
    ------
    UserError
        If the state is of another network.
    """
    device = descent.device
    try:
        member.load_state_dict(state["weights"])
        descent.adam.restore(state["adam"])
        shuffler.set_state(state["shuffler"].cpu())
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), device)
        return Best(**state["best"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError("the state of the interrupted run does not fit the network; run without --resume") from error


def fingerprint(
    network: SoilCarbonNet, known: Sequence[Profiles], settings: TrainSettings, folds: np.ndarray | None = None
) -> dict[str, Any]:
    """Return what decides a run's result: settings, specification, and a digest of data, folds and first weights."""
    digest = hashlib.sha256() if folds is None else hashlib.sha256(folds.tobytes())
    for profiles in known:
        for tensor in (profiles.encoded, profiles.output):
            digest.update(tensor.cpu().numpy().tobytes())
    if settings.init_from:
        for member in network.members():
            for tensor in member.tensors().values():
                digest.update(tensor.cpu().numpy().tobytes())
    plain = {name: value for name, value in settings.as_plain().items() if name not in NOT_LEARNT}
    return {**plain, "specification": network.specification.model_dump(mode="json"), "data and first weights": digest.hexdigest()}


def read_interrupted(path: Path, expected: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """Return where an interrupted run left off, or None when there is nothing to resume.

    Raises
    ------
    UserError
        If that run had other settings or data, or the file cannot be read.
    """
    if not path.is_file():
        log.info("%s: nothing to resume; starting afresh", path)
        return None
    state = read_state(path, device)
    needed = {"fingerprint", "best", "finished", "member", "epoch", "weights", "adam", "shuffler", "random", "random_cuda"}
    if not needed <= state.keys() or not isinstance(state["fingerprint"], dict):
        raise UserError(f"{path}: not the state of an interrupted run; run without --resume")
    numbers = [state["member"], state["epoch"]]
    if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(state["finished"], list):
        raise UserError(f"{path}: not the state of an interrupted run; run without --resume")
    other = [name for name in expected if state["fingerprint"].get(name) != expected[name]]
    if other:
        raise UserError(f"{path}: the interrupted run differs in {', '.join(other)}; run without --resume, or as it was")
    log.info("resuming after epoch %d of member %d", state["epoch"], state["member"])
    return state
