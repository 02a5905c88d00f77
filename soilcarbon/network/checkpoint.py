"""Checkpoint input and output: save networks, and load them strictly.

A checkpoint is a plain state_dict with `_extra_state` (specification, record, calibration, applicability), beside it a YAML file
of the same facts. Nothing in a file is trusted: it is read with `weights_only=True`, and every tensor is checked.
"""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from soilcarbon.io import limits
from soilcarbon.io.files import UserError, atomic_write, write_yaml
from soilcarbon.io.pickles import StandIn, load_structure
from soilcarbon.network.network import Record, SoilCarbonNet
from soilcarbon.network.specification import Specification

FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_LARGEST = 1e10
"""Of a weight: outputs of larger ones overflow. Those of trained networks are below 100."""
_MOST_STRUCTURE = 2**28
"""Bytes of names, facts and places of tensors: 1,000 bytes for each of 100,000 tensors, and the points of the applicability."""


class _Kind(StandIn):
    """A type of storage, such as `torch.FloatStorage`."""

    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class _Storage(StandIn):
    """A record of the archive: numbers of one size."""

    __slots__ = ("itemsize", "count")

    def __init__(self, itemsize: int, count: int) -> None:
        self.itemsize, self.count = itemsize, count


class _Tensors(StandIn):
    """For `_rebuild_tensor_v2`: checks that a tensor is a part of its storage, no larger than that, and all are not much larger."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = 4 * size + 2**20  # storages may be shared

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StandIn:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers) or len(shape) > 32:
            raise ValueError("a tensor in it is not one")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        self.left -= count * storage.itemsize
        if count and (count > storage.count or last >= storage.count or self.left < 0):
            raise ValueError(f"a tensor claims {count:,} numbers, its storage has {storage.count:,}")
        return StandIn()


class _AsIs(StandIn):
    """For `_rebuild_parameter` and `torch.Size`, which change nothing."""

    __slots__ = ()

    def __call__(self, *_: Any) -> StandIn:
        return StandIn()


_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1}
"""Types of storage -> bytes of a number."""
_ADMITTED = {
    **{("torch", f"{name}Storage"): _Kind(size) for name, size in _SIZES.items()},
    **{("torch", str(kind).removeprefix("torch.")): StandIn() for kind in (*FLOATING, torch.int64)},
    ("torch._utils", "_rebuild_parameter"): _AsIs(),
    ("torch", "Size"): _AsIs(),
}


def _checked(path: Path) -> io.BytesIO:
    """Return the archive of a checkpoint, copied record by record once its structure has been found harmless.

    Nothing is unpacked, every record is as long as it says, every tensor is a part of its record, and the containers unfold to no
    more than `limits.NODES` values. Exceptions of any kind otherwise.
    """
    copied, size = io.BytesIO(), path.stat().st_size
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sum(entry.file_size for entry in archive.infolist()) > size or len(entries) < len(archive.infolist()):
            raise ValueError("compressed, or a record comes twice")
        main = next(name for name in entries if name.endswith("/data.pkl"))
        folder = main.removesuffix("data.pkl") + "data/"

        def storage(pid: Any) -> _Storage:
            word, kind, key, _, count = pid
            if word != "storage" or not isinstance(kind, _Kind) or type(count) is not int or type(key) is not str:
                raise ValueError("a storage in it is not one")
            if entries[folder + key].file_size != count * kind.itemsize:
                raise ValueError(f"storage {key[:20]} claims {count:,} numbers, and has {entries[folder + key].file_size:,} bytes")
            return _Storage(kind.itemsize, count)

        if entries[main].file_size > _MOST_STRUCTURE:
            raise ValueError("its structure is larger than any network's")
        admitted = {**_ADMITTED, ("torch._utils", "_rebuild_tensor_v2"): _Tensors(size)}
        limits.check_nodes(load_structure(archive.read(main), admitted, storage))
        for name in entries:  # checksums are not looked at by torch.load: a flipped bit would pass
            copy.writestr(name, archive.read(name))
    copied.seek(0)
    return copied


def read_state(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file of tensors and plain containers with `weights_only=True`.

    Raises
    ------
    UserError
        If it is missing, damaged, another kind of file, claims more than it holds, or would run code; nothing of it has run then.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one first, or name another")
    try:
        state = torch.load(_checked(path), map_location=device, weights_only=True)
    except Exception as error:  # a hostile or torn file may raise anything at all
        if isinstance(error, OSError) and error.filename:
            raise
        if _is_fitted(path):
            raise UserError(
                f"{path}: a fitted model, as of `soilcarbon fit`, and not a network's checkpoint; `map` and `predict` read it. "
                'SoilCarbonRegressor(forest="none") saves a network alone'
            ) from error
        reason = " ".join(str(error).split())[:120].removeprefix("Weights only load failed. ")
        shown = "" if reason.startswith("In PyTorch 2.6") else f" ({reason or type(error).__name__})"
        raise UserError(
            f"{path}: not a checkpoint: damaged, another kind of file, or a pickle that would run code{shown}"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint: expected named tensors, found {type(state).__name__}")
    return state


def _is_fitted(path: Path) -> bool:
    """Return whether a file is an archive of `regression.archive`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "metadata.npy" in archive.namelist()
    except Exception:
        return False


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
        json.dumps(extra.get("record", {}))
    except (TypeError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{path}: its record is not valid: {str(error)[:100]}") from error
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
        if (largest := float(value.detach().abs().max())) > _LARGEST:
            raise UserError(f"{path}: tensor {name} holds {largest:.3g}; its training diverged, or it is damaged")
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
