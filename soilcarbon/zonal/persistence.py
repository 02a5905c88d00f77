"""Zoned forests in files that are safe to open: one door out, one door in.

In and out: a fitted `ZonedForest`, its facts and its `Assurance`, as `<name>.skops`, and the facts beside it as YAML for people.

A file of skops is a zip of JSON and arrays; nothing in it can run code. Even so a tree from a stranger may send scikit-learn, which
trusts its node numbers, to memory that is not its own. So trees are written as plain arrays, every number is checked, and
forests are built anew of them: no object of the file's survives, and skops is asked to trust no type beyond `TRUSTED`.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from soilcarbon import __version__
from soilcarbon.io.files import UserError, atomic_write, write_yaml
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.error_field import ErrorField
from soilcarbon.zonal.climate_zones import MOST_ZONES, ClimateZones, GivenZones, Zones
from soilcarbon.zonal.forest import SelectedForest, ZonedForest
from soilcarbon.zonal.uncertainty import Assurance

TRUSTED = {"builtins.dict", "builtins.str", "numpy.ndarray", "builtins.list"}
"""Types a file may hold."""
_EVERYWHERE = ""
"""Names the forest of all profiles, which serves zones without their own."""
_ARRAYS = ("nodes", "left", "right", "column", "missing_left", "threshold", "value")
"""Of a forest: nodes of each tree (T,), and then of each node of all trees, one tree after the other: its children, counted from
the tree's first node, -1 for a leaf; the column it asks; whether a missing value goes left; its threshold; its prediction."""
_MOST_VARIABLES, _MOST_TREES = 1000, 100_000
"""Of a model and of a forest: a file of a few megabytes may tell of so many that no memory holds a map's cells."""
_LARGEST = 1e30
"""Of a prediction: the sum of larger ones may have no end."""
_SKOPS = "pip install 'skops>=0.16'"


class ForestFacts(BaseModel):
    """What one forest is: the columns of x it uses, its settings, and how many profiles it learnt from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: tuple[int, ...] = Field(min_length=1)
    settings: dict[str, float]


class Facts(BaseModel):
    """What a file's numbers mean.

    Attributes
    ----------
    target, unit
        What is predicted.
    variables
        The columns of x, in their order.
    precipitation, temperature
        Columns of x, by number; the same where zones are a ready map's.
    zones
        The fields of `ClimateZones` or `GivenZones`.
    counts
        Zone -> training profiles.
    forests
        Zone with a forest of its own, or "" for the one of all -> its facts.
    record
        How it came about: settings, scores; plain containers, for people.
    version
        Of the project that wrote it.
    assurance
        What the forests know of their errors; not among the facts that are written as text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    target: str
    unit: str
    variables: tuple[str, ...] = Field(min_length=1, max_length=_MOST_VARIABLES)
    precipitation: int = Field(ge=0)
    temperature: int = Field(ge=0)
    zones: dict[str, float | tuple[str, ...] | tuple[float, ...]]
    counts: dict[str, int]
    forests: dict[str, ForestFacts]
    record: dict[str, Any] = {}
    version: str = __version__
    assurance: Assurance = Field(Assurance(), exclude=True)


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise UserError(f"forests are kept in files of skops, which is not installed: {_SKOPS}") from error
    return skops.io


# --- out ---------------------------------------------------------------------------------------------------------------------


def save_zoned(
    method: ZonedForest,
    path: Path,
    target: str,
    unit: str,
    variables: tuple[str, ...],
    record: dict[str, Any],
    assurance: Assurance | None = None,
) -> None:
    """Write a fitted method, and its facts beside it as YAML; both atomically.

    Parameters
    ----------
    method
        Fitted.
    path
        Of the file, *.skops.
    target, unit, variables, record, assurance
        As of `Facts`.

    Raises
    ------
    UserError
        If skops is not installed.
    """
    forests = {name: forest for name, forest in method.forests.items() if method.own(name)}
    if method.everywhere is not None and len(forests) < len(method.forests):
        forests[_EVERYWHERE] = method.everywhere
    facts = Facts(
        target=target,
        unit=unit,
        variables=variables,
        precipitation=method.precipitation,
        temperature=method.temperature,
        zones=vars(method.zones),
        counts=method.counts,
        forests={name: ForestFacts(columns=each.columns, settings=each.settings) for name, each in forests.items()},
        record=record,
    )
    plain = facts.model_dump(mode="json")
    content = {"facts": json.dumps(plain), "forests": {name: _as_arrays(each.forest) for name, each in forests.items()}}
    content |= _assured(assurance or Assurance())
    packed = _skops().dumps(content)
    with atomic_write(path) as file:
        file.write(packed)
    write_yaml(path.with_suffix(".yaml"), plain)


def _as_arrays(forest: RandomForestRegressor) -> dict[str, np.ndarray]:
    trees = [each.tree_ for each in forest.estimators_]
    parts = {
        "left": [tree.children_left for tree in trees],
        "right": [tree.children_right for tree in trees],
        "column": [tree.feature for tree in trees],
        "missing_left": [tree.missing_go_to_left for tree in trees],
        "threshold": [tree.threshold for tree in trees],
        "value": [tree.value.ravel() for tree in trees],
    }
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    return {"nodes": np.array([tree.node_count for tree in trees], np.int64)} | arrays


def _assured(assurance: Assurance) -> dict[str, Any]:
    """Return `Assurance` as text and an array of the points that the area of applicability is told by."""
    learnt = {"calibration": assurance.calibration, "errors": assurance.errors, "applicability": assurance.applicability}
    plain = {name: None if each is None else each.to_plain() for name, each in learnt.items()}
    if plain["applicability"] is not None:
        del plain["applicability"]["points"]
    points = np.zeros((0, 1), np.float32) if assurance.applicability is None else assurance.applicability.points
    return {"assurance": json.dumps(plain | {"predictors": assurance.predictors}), "points": points}


# --- in ----------------------------------------------------------------------------------------------------------------------


def load_zoned(path: Path) -> tuple[ZonedForest, Facts]:
    """Load what `save_zoned` wrote; from a stranger too.

    Returns
    -------
    method
        Ready to predict; its columns of x are `facts.variables`.
    facts
        What its numbers mean.

    Raises
    ------
    UserError
        If the file is missing, torn or foreign, holds any other type, or its trees are none; nothing of it has run then. And if
        skops is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such model; make one with train_zoned.py")
    skops = _skops()
    try:
        content = _read_plain(skops, path.read_bytes())
        facts = Facts(**json.loads(content["facts"]))
        kind = GivenZones if "codes" in facts.zones else ClimateZones
        zones: Zones = kind(**facts.zones)  # type: ignore[arg-type] # checked by pydantic, and by its own rules
        if len(zones.names) > MOST_ZONES:
            raise ValueError(f"{len(zones.names)} zones, more than {MOST_ZONES}")
        limit = len(facts.variables)
        used = [facts.precipitation, facts.temperature, *(k for each in facts.forests.values() for k in each.columns)]
        if not all(0 <= k < limit for k in used) or set(content["forests"]) != set(facts.forests):
            raise ValueError("its forests are not those its facts tell of")
        told = (facts.target, facts.unit, *zones.names)
        if len(set(facts.variables)) != limit or not all(name.isprintable() for name in told):
            raise ValueError("a variable comes twice, or a name cannot be printed")
        if set(facts.counts) != set(zones.names) or not set(facts.forests) <= {_EVERYWHERE, *zones.names}:
            raise ValueError("its zones are not those its facts tell of")
        forests = {name: _forest(each, content["forests"][name]) for name, each in facts.forests.items()}
        if _EVERYWHERE not in forests and len(forests) < len(zones.names):
            raise ValueError("a zone has no forest")
        facts = facts.model_copy(update={"assurance": _assurance(json.loads(content["assurance"]), content["points"], facts)})
    except UserError:
        raise
    except Exception as error:  # a hostile or torn file may raise anything at all
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else " ".join(str(error).split())[:150]
        raise UserError(f"{path}: not a model of zoned forests: torn, foreign or changed ({reason})") from error
    everywhere = forests.get(_EVERYWHERE)
    method = ZonedForest(zones, facts.precipitation, facts.temperature, next(iter(forests.values())), everywhere=everywhere)
    method.forests = {name: forests.get(name, everywhere) for name in zones.names}  # type: ignore[misc] # none is missing, see above
    method.counts = dict(facts.counts)
    return method, facts


def _read_plain(skops: Any, content: bytes) -> dict[str, Any]:
    """Return the containers and arrays of a file, after a look at every type it names."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(content) or archive.testzip() is not None:
            raise ValueError("compressed or damaged")
        waiting, kinds = [json.loads(archive.read("schema.json"))], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "__class__" in node:
            kinds.add(f"{node.get('__module__')}.{node['__class__']}")
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if foreign := sorted(kinds - TRUSTED):
        raise ValueError(f"holds {foreign[0]}, and only {', '.join(sorted(TRUSTED))} are trusted")
    found = skops.loads(content, trusted=[])
    if not isinstance(found, dict) or set(found) != {"facts", "forests", "assurance", "points"}:
        raise ValueError("expected facts, forests, assurance and points")
    return found


def _assurance(plain: Any, points: Any, facts: Facts) -> Assurance:
    """Return what forests know of their errors, after a look at every number."""
    if not isinstance(plain, dict) or set(plain) != {"calibration", "errors", "applicability", "predictors"}:
        raise ValueError("its assurance is not calibration, errors, applicability and predictors")
    calibration = None if plain["calibration"] is None else ConformalCalibration.from_plain(plain["calibration"])
    errors = None if plain["errors"] is None else ErrorField.from_plain(plain["errors"])
    if errors is not None and len(errors.deviations) != len(facts.counts):
        raise ValueError("its errors are of other zones")
    area, predictors = plain["applicability"], plain["predictors"]
    if area is None:
        return Assurance(calibration, errors)
    limit = len(facts.variables)
    if not isinstance(predictors, list) or not all(type(k) is int and 0 <= k < limit for k in predictors):
        raise ValueError("a predictor is none of its variables")
    if not (isinstance(points, np.ndarray) and points.dtype == np.float32 and points.shape[1:] == (len(predictors),)):
        raise ValueError("its points are not of its predictors")
    applicability = ApplicabilityArea.from_plain(area | {"points": points.astype("<f4").tobytes()})
    if len(applicability.mean) != len(predictors):
        raise ValueError("its area of applicability is of other predictors")
    return Assurance(calibration, errors, applicability, tuple(predictors))


def _forest(facts: ForestFacts, arrays: dict[str, Any]) -> SelectedForest:
    """Return a forest built of arrays, after a look at every number."""
    plain = [isinstance(each, np.ndarray) and each.ndim == 1 and each.dtype.kind in "biuf" for each in arrays.values()]
    if set(arrays) != set(_ARRAYS) or not all(plain):
        raise ValueError(f"a forest is made of {', '.join(_ARRAYS)}")
    whole = {name: arrays[name].astype(np.float64 if name in ("threshold", "value") else np.int64) for name in _ARRAYS}
    nodes = whole.pop("nodes")
    total = len(whole["left"])
    if nodes.size > _MOST_TREES:
        raise ValueError(f"{nodes.size} trees, more than {_MOST_TREES}")
    if not nodes.size or nodes.min() < 1 or nodes.max() > total or nodes.sum() != total:
        raise ValueError("its trees do not add up to its nodes")
    if any(len(each) != total for each in whole.values()):
        raise ValueError("an array of a forest is too short or too long")
    if (
        not (np.abs(whole["value"]) <= _LARGEST).all() or np.isnan(whole["threshold"]).any()
    ):  # at infinity it parts known from missing
        raise ValueError("a prediction or threshold is not a number")
    forest = RandomForestRegressor(len(nodes), n_jobs=1)
    forest.n_features_in_, forest.n_outputs_ = len(facts.columns), 1
    forest.estimators_ = [
        _tree({name: each[end - count : end] for name, each in whole.items()}, len(facts.columns))
        for count, end in zip(nodes.tolist(), np.cumsum(nodes).tolist(), strict=True)
    ]
    selected = SelectedForest(facts.columns)
    selected.columns, selected.settings, selected.forest = facts.columns, dict(facts.settings), forest
    return selected


def _tree(part: dict[str, np.ndarray], width: int) -> DecisionTreeRegressor:
    """Return one tree; its children stand behind their parent, as scikit-learn writes them, so that no walk is endless."""
    count, own = len(part["left"]), np.arange(len(part["left"]))
    leaf = part["left"] == -1
    for side in ("left", "right"):
        if not np.where(leaf, part[side] == -1, (part[side] > own) & (part[side] < count)).all():
            raise ValueError("a node's child is not a later node of its tree")
    if not (leaf | ((part["column"] >= 0) & (part["column"] < width))).all():
        raise ValueError("a node asks a column there is not")
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
