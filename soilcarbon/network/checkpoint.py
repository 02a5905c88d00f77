"""Checkpoint input and output: save networks, and load them strictly.

A checkpoint is a plain state_dict with `_extra_state` (specification, record, calibration, applicability), beside it a YAML file
of the same facts. Nothing in a file is trusted: it is read with `weights_only=True`, and every tensor is checked.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from soilcarbon.io.files import UserError, atomic_write, write_yaml
from soilcarbon.network.network import Record, SoilCarbonNet
from soilcarbon.network.specification import Specification

FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def read_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file of tensors and plain containers with `weights_only=True`.

    Raises
    ------
    UserError
        If it is missing, damaged, another kind of file, or would run code; nothing of it has run then.
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
        reason = " ".join(str(error).split())[:120].removeprefix("Weights only load failed. ")
        shown = "" if reason.startswith("In PyTorch 2.6") else f" ({reason})"
        raise UserError(
            f"{path}: not a checkpoint: damaged, another kind of file, or a pickle that would run code{shown}"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint: expected named tensors, found {type(state).__name__}")
    return state


def load_checkpoint(path: Path | str, device: str | torch.device = "cpu") -> SoilCarbonNet:
    """Load a network with its specification from a checkpoint, strictly.

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
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f"{path}: its specification is not valid: {reason}") from error
    try:
        Record.model_validate(extra.get("record", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: its record is not valid: {where + ': ' if where else ''}{first['msg']}") from error
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in SoilCarbonNet(specification).named_parameters()}
    tensors = {name: value for name, value in state.items() if name != "_extra_state"}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{path}: tensor {name} {tuple(shape)} is missing")
        value = tensors[name]
        plain = isinstance(value, Tensor) and value.dtype in FLOATING and value.layout == torch.strided
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
    """Return whether a file contains tensors without a specification, as the published one does."""
    return "_extra_state" not in read_state(path)


def save_state(path: Path, state: Any) -> None:
    """Write tensors and plain containers atomically, to be read by `read_state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def save_checkpoint(network: SoilCarbonNet, path: Path) -> None:
    """Write a network's checkpoint, and beside it the same facts as YAML; both atomically."""
    state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in network.state_dict().items()}
    save_state(path, state)
    facts = network.get_extra_state()
    facts.get("applicability", {}).pop("points", None)  # binary fields are left out of the YAML
    write_yaml(path.with_suffix(".yaml"), facts)
