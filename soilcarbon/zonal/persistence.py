"""Zoned forests in files that are safe to open: `<name>.npz`, and its metadata as YAML beside it (`regression.archive`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soilcarbon import __version__
from soilcarbon.io.files import UserError, must_exist
from soilcarbon.regression import trees
from soilcarbon.regression.archive import read_archive, write_archive
from soilcarbon.regression.uncertainty import Uncertainty
from soilcarbon.zonal.climate_zones import MAX_ZONES, ClimateZones, GivenZones, OneZone
from soilcarbon.zonal.forest import SelectedForest, ZonedForest

_EVERYWHERE = ""
"""Name of the forest of all profiles, which predicts zones without their own."""
_MAX_VARIABLES = 1000


@dataclass(frozen=True)
class ZonedModel:
    """Fitted zoned forest, the meaning of its numbers, and its uncertainty."""

    forest: ZonedForest
    target: str  # target, unit: predicted quantity
    unit: str
    variables: tuple[str, ...]  # names of the columns of x
    uncertainty: Uncertainty = Uncertainty()
    record: Any = None  # settings and scores of the training, plain containers
    classes: tuple[str, ...] = ()  # variables that are class codes: never interpolated
    # variable ("": all) -> values of rasters that mean missing, as given by a setting
    nodata: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class _Forest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: tuple[int, ...] = Field(min_length=1)
    parameters: dict[str, float]


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["zones"] = "zones"
    version: str
    target: str
    unit: str
    variables: tuple[str, ...] = Field(min_length=1, max_length=_MAX_VARIABLES)
    climate: tuple[int, ...] = Field(max_length=2)
    zones: dict[str, float | tuple[str, ...] | tuple[float, ...]]
    counts: dict[str, int]
    forests: dict[str, _Forest]
    record: Any = None
    classes: tuple[str, ...] = ()
    nodata: dict[str, tuple[float, ...]] = {}

    def check(self, names: tuple[str, ...]) -> None:
        """Raise ValueError if names and column numbers do not agree with each other and with the names of the zones."""
        columns = [*self.climate, *(k for each in self.forests.values() for k in each.columns)]
        if not all(0 <= k < len(self.variables) for k in columns):
            raise ValueError("a column is none of its variables")
        if len(set(self.variables)) < len(self.variables) or not all(map(str.isprintable, (self.target, self.unit, *names))):
            raise ValueError("a variable comes twice, or a name cannot be printed")
        if not set(self.classes) <= set(self.variables):
            raise ValueError("a class is none of its variables")
        if len(names) > MAX_ZONES:
            raise ValueError(f"{len(names)} zones, more than {MAX_ZONES}")
        if set(self.counts) != set(names) or not set(self.forests) <= {_EVERYWHERE, *names}:
            raise ValueError("its counts or forests are of other zones")
        if _EVERYWHERE not in self.forests and len(self.forests) < len(names):
            raise ValueError("a zone has no forest")


def save_zoned(model: ZonedModel, path: Path) -> None:
    """Write a model as .npz, and its metadata beside it as .yaml; both atomically."""
    method = model.forest
    forests = {name: forest for name, forest in method.forests.items() if method.has_own(name)}
    if method.everywhere is not None and len(forests) < len(method.forests):
        forests[_EVERYWHERE] = method.everywhere
    metadata = _Metadata(
        version=__version__,
        target=model.target,
        unit=model.unit,
        variables=model.variables,
        climate=method.climate,
        zones=vars(method.zones),
        counts=method.counts,
        forests={name: _Forest(columns=each.columns, parameters=each.parameters) for name, each in forests.items()},
        record=model.record,
        classes=model.classes,
        nodata=dict(model.nodata),
    ).model_dump(mode="json")
    uncertainty, points = model.uncertainty.to_plain()
    arrays = {"points": points}
    for k, forest in enumerate(forests.values()):
        fitted = trees.to_arrays([each.tree_ for each in forest.forest.estimators_])
        arrays |= {f"{k}_{name}": array for name, array in fitted.items()}
    write_archive(path, metadata | {"uncertainty": uncertainty}, arrays, metadata)


def load_zoned(path: Path) -> ZonedModel:
    """Load what `save_zoned` wrote; the file may be untrusted: UserError if its numbers do not make a model."""
    must_exist(path, "model; make one with soilcarbon zones")
    try:
        plain, arrays = read_archive(path)
        uncertainty, points = plain.pop("uncertainty"), arrays.pop("points")
        metadata = _Metadata(**plain)
        kind: Any = GivenZones if "codes" in metadata.zones else ClimateZones if metadata.zones else OneZone
        zones = kind(**metadata.zones)
        metadata.check(zones.names)
        if len(metadata.climate) != {OneZone: 0, GivenZones: 1, ClimateZones: 2}[kind]:
            raise ValueError("its climate is of other columns than its zones")
        if set(arrays) != {f"{k}_{name}" for k in range(len(metadata.forests)) for name in trees.ARRAYS}:
            raise ValueError("its arrays are not those of its forests")
        forests = {
            name: _forest_of(each, {kind: arrays[f"{k}_{kind}"] for kind in trees.ARRAYS})
            for k, (name, each) in enumerate(metadata.forests.items())
        }
        known = Uncertainty.from_plain(uncertainty, points, len(zones.names))
        if known.applicability and len(known.predictors) != len(known.applicability.mean):
            raise ValueError("its area of applicability is of other predictors")
        if not all(0 <= k < len(metadata.variables) for k in known.predictors):
            raise ValueError("a predictor is none of its variables")
    except Exception as error:  # a damaged or hostile file may raise anything at all
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:150]
        raise UserError(f"{path}: not a model of zoned forests, or damaged ({reason})") from error
    everywhere = forests.get(_EVERYWHERE)
    method = ZonedForest(zones, metadata.climate, next(iter(forests.values())), everywhere=everywhere)
    method.forests = {name: forests[name if name in forests else _EVERYWHERE] for name in zones.names}
    method.counts = dict(metadata.counts)
    names = metadata.target, metadata.unit, metadata.variables
    return ZonedModel(method, *names, known, metadata.record, metadata.classes, metadata.nodata)


def _forest_of(facts: _Forest, arrays: dict[str, np.ndarray]) -> SelectedForest:
    """Return a forest rebuilt from its arrays, every number of them checked."""
    selected, width = SelectedForest(facts.columns), len(facts.columns)
    selected.columns, selected.parameters = facts.columns, dict(facts.parameters)
    selected.forest = trees.forest_of(trees.from_arrays(arrays, width), width)
    return selected
