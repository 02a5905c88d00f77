"""Fitted models in files that are safe to open and describe themselves: `<name>.npz`, and their metadata as YAML beside it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soilcarbon import __version__
from soilcarbon.io.files import UserError, must_exist
from soilcarbon.network.specification import Specification
from soilcarbon.regression.archive import read_archive, write_archive
from soilcarbon.regression.learners import LEARNERS
from soilcarbon.regression.model import FittedModel, ModelRecord
from soilcarbon.regression.parts import PARTS
from soilcarbon.regression.uncertainty import Uncertainty

_OPTIONAL = {"kriged"}
"""Parts that a model may lack."""


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["fitted"] = "fitted"
    version: str
    learner: str
    specification: Specification
    parts: dict[str, dict[str, Any]] = Field(min_length=1)
    record: ModelRecord

    def check(self) -> None:
        """Raise ValueError if the parts are not those of the learner, or the specification is not one of it."""
        if self.learner not in LEARNERS:
            raise ValueError(f"learner {self.learner[:40]!r} is not known")
        whole = set(LEARNERS[self.learner].parts)
        if not whole - _OPTIONAL <= set(self.parts) <= whole:
            raise ValueError(f"its parts are not those of {self.learner}")
        facts = self.specification
        if facts.members != 1 or facts.statistics is None or facts.bounds is None:
            raise ValueError("its specification is not that of a fitted model")
        if any(category.kind == "classes" and not facts.classes for category in facts.categories):
            raise ValueError("its specification lacks classes")


def save_model(model: FittedModel, path: Path) -> None:
    """Write a fitted model as .npz, and its metadata beside it as .yaml; both atomically."""
    plain = {name: part.to_plain() for name, part in model.parts.items()}
    metadata = _Metadata(
        version=__version__,
        learner=model.learner,
        specification=model.specification,
        parts={name: facts for name, (facts, _) in plain.items()},
        record=model.record,
    ).model_dump(mode="json")
    uncertainty, points = model.uncertainty.to_plain()
    arrays = {f"{name}/{key}": array for name, (_, parts) in plain.items() for key, array in parts.items()}
    write_archive(path, metadata | {"uncertainty": uncertainty}, {"points": points, **arrays}, metadata)


def load_model(path: Path | str) -> FittedModel:
    """Load what `save_model` wrote; the file may be untrusted.

    Raises
    ------
    UserError
        If the file is missing, damaged, compressed or foreign, or its numbers do not make a model.
    """
    path = Path(path)
    must_exist(path, "model; make one with soilcarbon fit")
    try:
        plain, arrays = read_archive(path)
        uncertainty, points = plain.pop("uncertainty"), arrays.pop("points")
        metadata = _Metadata(**plain)
        metadata.check()
        facts, parts = metadata.specification, {}
        for name in sorted(metadata.parts, key=LEARNERS[metadata.learner].parts.index):
            own = {key.removeprefix(f"{name}/"): arrays.pop(key) for key in list(arrays) if key.startswith(f"{name}/")}
            parts[name] = PARTS[name].from_plain(metadata.parts[name], own, facts)
        if arrays:
            raise ValueError("its arrays are not those of its parts")
        known = Uncertainty.from_plain(uncertainty, points, 1)
        width = sum(facts.channels(category) for category in facts.categories)
        if known.applicability is not None and len(known.applicability.mean) != width:
            raise ValueError("its area of applicability is of other predictors")
    except Exception as error:  # a damaged or hostile file may raise anything at all
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:150]
        raise UserError(f"{path}: not a fitted model, or damaged ({reason})") from error
    return FittedModel(metadata.learner, facts, parts, known, metadata.record)
