"""Zoned forests in files that are safe to open: `<name>.npz`, and its metadata as YAML beside it.

The file is an uncompressed NumPy archive of plain arrays: the metadata as JSON in one, the trees in the others. Nothing in it can
run code. Even so scikit-learn trusts the node numbers of a tree, and a forged one makes it read memory that is not its own: so
every number is checked, and forests are rebuilt from the arrays.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from soilcarbon import __version__
from soilcarbon.io.files import UserError, atomic_write, must_exist, write_yaml
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.zonal.climate_zones import MAX_ZONES, ClimateZones, GivenZones
from soilcarbon.zonal.forest import SelectedForest, Uncertainty, ZonedForest

_EVERYWHERE = ""
"""Name of the forest of all profiles, which predicts zones without their own."""
_ARRAYS = {"nodes": "i", "left": "i", "right": "i", "column": "i", "missing_left": "u", "threshold": "f", "value": "f"}
"""Array of a forest -> kind. nodes: number of each tree's nodes (T,). The others are of every node of all trees, one tree after the
other: its children, counted from the tree's first node, -1 of a leaf; the column it splits; whether missing values go left; its
threshold; its prediction."""
_MAX_VARIABLES, _MAX_TREES = 1000, 100_000
"""Of a model and of a forest: a file of a few megabytes could name so many that the cells of a map do not fit in memory."""
_MAX_VALUE = 1e30
"""Of a prediction: the sum of larger ones could overflow."""


@dataclass(frozen=True)
class ZonedModel:
    """Fitted zoned forest, the meaning of its numbers, and its uncertainty.

    Attributes
    ----------
    forest
        Fitted.
    target, unit
        Predicted quantity.
    variables
        Names of the columns of x.
    uncertainty
        Of its predictions.
    record
        Settings and scores of the training, plain containers.
    classes
        Variables that are class codes: never interpolated.
    nodata
        Variable ("": all) -> values of rasters that mean missing, as given by a setting.
    """

    forest: ZonedForest
    target: str
    unit: str
    variables: tuple[str, ...]
    uncertainty: Uncertainty = Uncertainty()
    record: Any = None
    classes: tuple[str, ...] = ()
    nodata: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class _Forest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: tuple[int, ...] = Field(min_length=1)
    parameters: dict[str, float]


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    version: str
    target: str
    unit: str
    variables: tuple[str, ...] = Field(min_length=1, max_length=_MAX_VARIABLES)
    climate: tuple[int, ...] = Field(min_length=1, max_length=2)
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


# --- save --------------------------------------------------------------------------------------------------------------


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
    uncertainty, points = _uncertainty_to_plain(model.uncertainty)
    text = json.dumps(metadata | {"uncertainty": uncertainty})
    arrays = {"metadata": np.frombuffer(text.encode(), np.uint8), "points": points}
    for k, forest in enumerate(forests.values()):
        arrays |= {f"{k}_{name}": array for name, array in _forest_to_arrays(forest.forest).items()}
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    write_yaml(path.with_suffix(".yaml"), metadata)


def _forest_to_arrays(forest: RandomForestRegressor) -> dict[str, np.ndarray]:
    trees = [each.tree_ for each in forest.estimators_]
    parts = {
        "left": np.concatenate([tree.children_left for tree in trees]).astype(np.int32),
        "right": np.concatenate([tree.children_right for tree in trees]).astype(np.int32),
        "column": np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        "missing_left": np.concatenate([tree.missing_go_to_left for tree in trees]),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "value": np.concatenate([tree.value.ravel() for tree in trees]),
    }
    return {"nodes": np.array([tree.node_count for tree in trees], np.int64)} | parts


def _uncertainty_to_plain(uncertainty: Uncertainty) -> tuple[dict[str, Any], np.ndarray]:
    """Return plain containers, and the profiles of the area of applicability (P, p)."""
    estimates = {"calibration": uncertainty.calibration, "errors": uncertainty.errors}
    plain: dict[str, Any] = {name: None if each is None else each.to_plain() for name, each in estimates.items()}
    if uncertainty.applicability is None:
        return plain | {"applicability": None, "predictors": []}, np.zeros((0, 1), np.float32)
    area = uncertainty.applicability.to_plain()
    del area["points"]
    return plain | {"applicability": area, "predictors": uncertainty.predictors}, uncertainty.applicability.points


# --- load --------------------------------------------------------------------------------------------------------------


def load_zoned(path: Path) -> ZonedModel:
    """Load what `save_zoned` wrote; the file may be untrusted.

    Raises
    ------
    UserError
        If the file is missing, damaged, compressed or foreign, or its numbers do not make a model.
    """
    must_exist(path, "model; make one with soilcarbon zones")
    try:
        arrays = _read_arrays(path.read_bytes())
        plain = json.loads(arrays.pop("metadata").tobytes())
        uncertainty, points = plain.pop("uncertainty"), arrays.pop("points")
        metadata = _Metadata(**plain)
        kind: Any = GivenZones if "codes" in metadata.zones else ClimateZones
        zones = kind(**metadata.zones)
        metadata.check(zones.names)
        if len(metadata.climate) != (1 if kind is GivenZones else 2):
            raise ValueError("its climate is of other columns than its zones")
        if set(arrays) != {f"{k}_{name}" for k in range(len(metadata.forests)) for name in _ARRAYS}:
            raise ValueError("its arrays are not those of its forests")
        forests = {
            name: _forest_of(each, {kind: arrays[f"{k}_{kind}"] for kind in _ARRAYS})
            for k, (name, each) in enumerate(metadata.forests.items())
        }
        known = _uncertainty_of(uncertainty, points, len(metadata.variables), len(zones.names))
    except Exception as error:  # a damaged or hostile file may raise anything at all
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:150]
        raise UserError(f"{path}: not a model of zoned forests, or damaged ({reason})") from error
    everywhere = forests.get(_EVERYWHERE)
    method = ZonedForest(zones, metadata.climate, next(iter(forests.values())), everywhere=everywhere)
    method.forests = {name: forests[name if name in forests else _EVERYWHERE] for name in zones.names}
    method.counts = dict(metadata.counts)
    names = metadata.target, metadata.unit, metadata.variables
    return ZonedModel(method, *names, known, metadata.record, metadata.classes, metadata.nodata)


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return name -> array of an uncompressed .npz; no more memory is taken than the file has bytes."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content) or archive.testzip() is not None:
            raise ValueError("compressed or damaged")
        for entry in entries:
            with archive.open(entry) as file:
                major, _ = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
                shape, _, dtype = read(file)
                if dtype.kind not in "iuf" or dtype.itemsize * math.prod(shape) != entry.file_size - file.tell():
                    raise ValueError(f"{entry.filename}: not an array of numbers of its length")
            arrays[entry.filename.removesuffix(".npy")] = np.load(io.BytesIO(archive.read(entry)), allow_pickle=False)
    return arrays


def _uncertainty_of(plain: Any, points: np.ndarray, variables: int, zones: int) -> Uncertainty:
    """Return the uncertainty from plain containers and an array, checked; ValueError, TypeError or KeyError if they do not fit."""
    if not isinstance(plain, dict) or set(plain) != {"calibration", "errors", "applicability", "predictors"}:
        raise ValueError("its uncertainty is not calibration, errors, applicability and predictors")
    calibration = None if plain["calibration"] is None else ConformalCalibration.from_plain(plain["calibration"])
    errors = None if plain["errors"] is None else ErrorField.from_plain(plain["errors"])
    if errors is not None and len(errors.deviations) != zones:
        raise ValueError("its errors are of other zones")
    area, predictors = plain["applicability"], plain["predictors"]
    if area is None:
        return Uncertainty(calibration, errors)
    if not isinstance(predictors, list) or not all(type(k) is int and 0 <= k < variables for k in predictors):
        raise ValueError("a predictor is none of its variables")
    if points.dtype != np.float32 or points.shape[1:] != (len(predictors),):
        raise ValueError("its points are not of its predictors")
    applicability = ApplicabilityArea.from_plain(area | {"points": points.astype("<f4").tobytes()})
    if len(applicability.mean) != len(predictors):
        raise ValueError("its area of applicability is of other predictors")
    return Uncertainty(calibration, errors, applicability, tuple(predictors))


def _forest_of(facts: _Forest, arrays: dict[str, np.ndarray]) -> SelectedForest:
    """Return a forest rebuilt from its arrays, every number of them checked."""
    if any(arrays[name].ndim != 1 or arrays[name].dtype.kind != kind for name, kind in _ARRAYS.items()):
        raise ValueError("an array of a forest is of another type or shape")
    whole = {name: array.astype(np.float64 if _ARRAYS[name] == "f" else np.int64) for name, array in arrays.items()}
    nodes = whole.pop("nodes")
    total = len(whole["left"])
    if nodes.size > _MAX_TREES:
        raise ValueError(f"{nodes.size} trees, more than {_MAX_TREES}")
    if not nodes.size or nodes.min() < 1 or nodes.max() > total or nodes.sum() != total:
        raise ValueError("its trees do not add up to its nodes")
    if any(len(each) != total for each in whole.values()):
        raise ValueError("an array of a forest is too short or too long")
    # A threshold may be infinite: it separates present from missing values.
    if not (np.abs(whole["value"]) <= _MAX_VALUE).all() or np.isnan(whole["threshold"]).any():
        raise ValueError("a prediction or threshold is not a number")
    width = len(facts.columns)
    forest = RandomForestRegressor(len(nodes), n_jobs=1)
    forest.n_features_in_, forest.n_outputs_ = width, 1
    ends = np.cumsum(nodes).tolist()
    slices = [slice(end - count, end) for count, end in zip(nodes.tolist(), ends, strict=True)]
    forest.estimators_ = [_tree_of({name: each[part] for name, each in whole.items()}, width) for part in slices]
    selected = SelectedForest(facts.columns)
    selected.columns, selected.parameters, selected.forest = facts.columns, dict(facts.parameters), forest
    return selected


def _tree_of(part: dict[str, np.ndarray], width: int) -> DecisionTreeRegressor:
    """Return one tree. Children must stand behind their parent, as scikit-learn writes them, so that no path loops."""
    count = len(part["left"])
    own, leaf = np.arange(count), part["left"] == -1
    for side in ("left", "right"):
        if not np.where(leaf, part[side] == -1, (part[side] > own) & (part[side] < count)).all():
            raise ValueError("a node's child is not a later node of its tree")
    if not (leaf | ((part["column"] >= 0) & (part["column"] < width))).all():
        raise ValueError("a node splits a column there is not")
    blank = Tree(width, np.array([1]), 1)
    nodes = np.zeros(count, blank.__getstate__()["nodes"].dtype)
    nodes["left_child"], nodes["right_child"] = part["left"], part["right"]
    nodes["feature"], nodes["threshold"] = np.where(leaf, -2, part["column"]), part["threshold"]
    nodes["missing_go_to_left"] = part["missing_left"] != 0
    values = np.ascontiguousarray(part["value"].reshape(-1, 1, 1))
    blank.__setstate__({"max_depth": count, "node_count": count, "nodes": nodes, "values": values})
    tree = DecisionTreeRegressor()
    tree.n_features_in_, tree.n_outputs_, tree.tree_ = width, 1, blank
    return tree
