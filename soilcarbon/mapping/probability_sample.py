"""Probability samples in tables of points: which points were drawn, in which strata, and with which weights.

In: a table of points (`io.points`) with columns of the draw as `soilcarbon design` writes them or under their usual names
(`io.columns.SAMPLING`), and perhaps the sizes of strata as a raster or a table. Out: `DrawnPoints`, and of the measured ones among
them a `stats.design_based.SamplingDesign`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from soilcarbon.categories import first_repeated
from soilcarbon.geo.grid import raster_grid
from soilcarbon.geo.raster import Layer, check_no_vector, cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.columns import SAMPLING, find_columns, plain
from soilcarbon.io.files import UserError
from soilcarbon.io.points import PointTable, TableRule, read_points
from soilcarbon.io.values import is_missing, label, labels
from soilcarbon.stats.design_based import SamplingDesign, sampling_design

Sampling = Literal["auto", "random", "stratified", "weighted", "none"]
_SIZES = ("stratum_size", "size", "area_km2", "km2", "area", "cells", "n_cells", "weight", "share")
"""Names of the column of sizes in a table of strata, by preference."""
RASTERS = (".tif", ".tiff")
_TILE = 1024
NO_SAMPLE = "no probability sample"
"""How the words end that `soilcarbon design` writes of points that are none."""
_DISAGREE = 2.5  # times by which products of weight and inclusion probability may differ: cells of a grid in degrees do


@dataclass(frozen=True)
class SampleRule:
    """How the points of a table were drawn, as far as the user says it."""

    # "random": all with one probability; "stratified": so in each stratum; "weighted": by their weights, in strata if there is a
    # column of them; "none"; "auto": weighted where the table has inclusion probabilities, stratified where `strata` is given
    sampling: Sampling = "auto"
    strata: Path | None = None  # raster of strata (sizes are the true areas of its cells), or table of strata and sizes
    not_sampled: Sequence[str] = ()  # strata of these that are not of the sampled area
    collapse: Mapping[str, str] = field(default_factory=dict)  # stratum -> stratum it is joined with for variances


@dataclass(frozen=True)
class DrawnPoints:
    """The draw of the N points of a table."""

    path: Path  # of the table, for errors
    member: np.ndarray  # (N,) bool: drawn with a known probability; others may have been added
    stratum: np.ndarray | None  # stratum, unit: (N,) text, of the primary unit too; None: none
    unit: np.ndarray | None
    weight: np.ndarray | None  # (N,) what each stands for; None: equal, in each stratum
    sizes: dict[str, float] | None  # stratum -> size; None: as the weights say
    collapse: Mapping[str, str]  # as of `SampleRule`

    def design(self) -> SamplingDesign:
        """Return the sampling design of the members; UserError where it is none."""
        stratum, unit, weight = (None if each is None else each[self.member] for each in (self.stratum, self.unit, self.weight))
        try:
            return sampling_design(int(self.member.sum()), stratum, self.sizes, weight, unit, self.collapse)
        except ValueError as error:
            raise UserError(f"{self.path}: its probability sample: {error} (see --strata, --not_sampled, --collapse)") from error


def read_sample(path: Path, value: str, table_rule: TableRule, rule: SampleRule) -> tuple[PointTable, DrawnPoints | None]:
    """Read a table of points with the columns of its draw; of a probability sample, points without a value are left out.

    The draw is None of ordinary points. UserError if the table lacks what the design needs.
    """
    further = () if rule.sampling == "none" else tuple(SAMPLING)
    points = read_points(path, TableRule(**{**vars(table_rule), "further": further}))
    sampling = _resolved(points, rule)
    if sampling == "none":
        return points, None
    if chosen := _chosen(points):
        raise UserError(f"{path}: says of its points {chosen!r}: they were chosen, not drawn at random; --sampling none")
    measured = np.ones(len(points.raw), bool)
    if value in points.raw.columns:
        measured = ~is_missing(points.raw[value], points.rule.missing)
    member = np.ones(len(points.raw), bool)
    if "probability_sample" in points:
        member = points.numbers(points.columns.found["probability_sample"]) == 1
    reserve = points.numbers(points.columns.found["reserve"]) == 1 if "reserve" in points else np.zeros(len(member), bool)
    _tell_unmeasured(points, value, measured, reserve)
    _tell_doubles(points, member & measured)
    if (member & measured).sum() < 2:
        raise UserError(f"{path}: {(member & measured).sum()} measured points are of a probability sample; two are the least")
    stratum, sizes = (None, None) if sampling == "random" else _strata(points, member & measured, rule)
    equal = sampling == "random" or (sampling == "stratified" and sizes is not None)
    weight = None if equal else _weights(points, member & measured)  # a column "weight" may be of anything, where none is needed
    if sampling == "weighted" and weight is None:
        raise UserError(f"{path}: no column of weights or inclusion probabilities; --columns weight=NAME names it")
    if sampling == "stratified" and (stratum is None or (sizes is None and weight is None)):
        lacks = "strata (--columns stratum=NAME, or --strata raster.tif)" if stratum is None else "their sizes (--strata FILE)"
        raise UserError(f"{path}: a stratified sample needs {lacks}")
    unit = _texts(points, "primary_unit")
    if stratum is not None and sizes is None and weight is not None:
        weight = _restored(path, stratum, weight, member & ~reserve, member & measured, rule)
    points.raw = points.raw[measured].reset_index(drop=True)
    stratum, unit, weight = (None if each is None else each[measured] for each in (stratum, unit, weight))
    return points, DrawnPoints(path, member[measured], stratum, unit, weight, sizes, rule.collapse)


def drawn_km2(path: Path, table_rule: TableRule) -> float:
    """Return the area that `soilcarbon design` drew the points of a table in, km2; NaN of any other table."""
    table = read_points(path, table_rule).raw
    if not {"design", "stratum", "stratum_size", "inclusion_probability"} <= set(table):
        return math.nan
    size = pd.to_numeric(table["stratum_size"], errors="coerce")
    return float(size.groupby(table["stratum"]).first().sum()) or math.nan


def _chosen(points: PointTable) -> str | None:
    """Return what `soilcarbon design` wrote of points that it chose and did not draw; None of others."""
    if "design" not in points.raw:
        return None
    return next((each for each in points.raw["design"].dropna().unique() if str(each).endswith(NO_SAMPLE)), None)


def _resolved(points: PointTable, rule: SampleRule) -> Sampling:
    """Return how the points were drawn: what was said, or what the columns say."""
    if rule.sampling != "auto":
        return rule.sampling
    if rule.strata is not None:
        return "stratified"
    if "inclusion_probability" in points and points["inclusion_probability"].notna().any():
        return "weighted"
    if "probability_sample" in points:
        name = points.columns.found["probability_sample"]
        points.notes.append(
            f"{name!r} marks a probability sample; --sampling or --strata says how it was drawn, and it is estimated"
        )
    return "none"


def _tell_unmeasured(points: PointTable, value: str, measured: np.ndarray, reserve: np.ndarray) -> None:
    """Note points that were drawn and have no value: reserve points, and those that could not be reached; UserError if none has."""
    unused, lost = int((~measured & reserve).sum()), int((~measured & ~reserve).sum())
    if unused:
        points.notes.append(f"{unused} reserve points without a value are left out")
    if lost:
        used = int((measured & reserve).sum())
        instead = f", {used} reserve points have one" if used else ""
        points.notes.append(f"{lost} points that were drawn have no value{instead}: taken as missing at random in their strata")
    if not measured.any():
        raise UserError(f"{points.path}: none of its {len(measured)} points has a value in {value!r}")


def _tell_doubles(points: PointTable, member: np.ndarray) -> None:
    """Note points of the sample that lie where another one does, which points drawn at random do not."""
    if "lon" in points and "lat" in points and "primary_unit" not in points:
        lon, lat = replace(points, notes=[]).places()  # its notes are taken where the map is read
        place = pd.DataFrame({"lon": lon, "lat": lat})[member].dropna()
        if (double := place.duplicated()).any():
            points.notes.append(f"{int(double.sum())} points of the sample lie where another one does: copies? each counts")


def _restored(
    path: Path, stratum: np.ndarray, weight: np.ndarray, drawn: np.ndarray, measured: np.ndarray, rule: SampleRule
) -> np.ndarray:
    """Return weights (N,) of which those of the measured points of a stratum sum to what all that were drawn in it stand for.

    UserError if none of a stratum was measured and it is neither joined with another nor left out.
    """
    joined = {label(one): label(other) for one, other in rule.collapse.items()}
    kept, there = drawn & ~np.isin(stratum, ["", *map(label, rule.not_sampled)]), set(stratum[measured])
    lost = sorted(set(stratum[kept]) - there)
    if unknown := [name for name in lost if joined.get(name) not in there]:
        way = "--not_sampled leaves it out of the area, --collapse joins it with another"
        raise UserError(f"{path}: none of the points drawn in stratum {str(unknown[0])!r} has a value; {way}")
    home = np.array([joined[name] if name in lost else name for name in stratum])
    found = weight.copy()
    for name in there:
        own, whole = measured & (stratum == name), kept & (home == name)
        if whole.any():
            stands_for = np.where(np.isfinite(weight), weight, np.nanmean(weight[own]))
            found[own] *= stands_for[whole].sum() / weight[own].sum()
    return found


def _texts(points: PointTable, ours: str) -> np.ndarray | None:
    """Return a column of names (N,), "" where missing; None if there is none."""
    column = points.get(ours)
    if column is None:
        return None
    where = f"{points.path}: column {points.columns.found[ours]!r}"
    return np.array(labels(column, where, points.rule.missing).fillna("").tolist())


def _weights(points: PointTable, member: np.ndarray) -> np.ndarray | None:
    """Return what each point stands for (N,): its weight, or the inverse of its inclusion probability."""
    ours = next((name for name in ("weight", "inclusion_probability") if name in points), None)
    if ours is None:
        return None
    name = points.columns.found[ours]
    if ours == "weight" and "prob" in plain(name):
        way = f"--columns inclusion_probability={name} says the latter"
        raise UserError(f"{points.path}: is {name!r} a weight or a probability? {way}")
    found = points.numbers(name)
    wrong = member & ~(np.isfinite(found) & (found > 0) & ((found <= 1) | (ours == "weight")))
    if wrong.any():
        expected = "weights above 0" if ours == "weight" else "inclusion probabilities above 0, up to 1"
        first = points.raw[name][wrong].iloc[0]
        raise UserError(f"{points.path}: column {name!r}: {wrong.sum()} of {member.sum()} are no {expected}, first {first!r}")
    if ours == "weight" and "inclusion_probability" in points and "design" not in points.raw:
        _check_weights_agree(points, found, member)
    points.notes.append(f"weights of the points: {name!r}")
    with np.errstate(divide="ignore", invalid="ignore"):
        found = found if ours == "weight" else 1 / found
    return np.where(member | (np.isfinite(found) & (found > 0)), found, np.nan)


def _check_weights_agree(points: PointTable, weight: np.ndarray, member: np.ndarray) -> None:
    """Raise UserError if weights are not about the inverse of the inclusion probabilities beside them: of something else, perhaps.

    Those of `soilcarbon design` differ where the areas of cells do.
    """
    names = [points.columns.found[name] for name in ("weight", "inclusion_probability")]
    product = (weight * points.numbers(names[1]))[member]
    product = product[np.isfinite(product)]
    if product.size and not product.max() <= _DISAGREE * product.min():
        way = "--columns weight=none or inclusion_probability=none leaves one out"
        raise UserError(f"{points.path}: {names[0]!r} is not the inverse of {names[1]!r}, and only one can count: {way}")


def _strata(points: PointTable, member: np.ndarray, rule: SampleRule) -> tuple[np.ndarray | None, dict[str, float] | None]:
    """Return the stratum of each point (N,), and the strata's sizes; None where not known."""
    stratum, sizes = _texts(points, "stratum"), None
    is_raster = rule.strata is not None and rule.strata.suffix.lower() in RASTERS
    if rule.strata is not None:
        check_no_vector(rule.strata, "strata")
        sizes = raster_sizes(rule.strata) if is_raster else table_sizes(rule.strata)
        if unknown := next((name for name in rule.not_sampled if label(name) not in sizes), None):
            raise UserError(f"{rule.strata}: has no stratum {unknown!r} (--not_sampled); it has {', '.join(list(sizes)[:12])}")
        sizes = {name: size for name, size in sizes.items() if name not in {label(each) for each in rule.not_sampled}}
        if stratum is None and is_raster:
            windows, _ = cut_windows([_strata_layer(rule.strata)], *points.places(), 0)
            codes = next(iter(windows.values()))[:, 0, 0]
            stratum = np.array(["" if np.isnan(code) else label(float(code)) for code in codes])
    if stratum is None:
        return None, None
    if (member & (stratum == "")).any():
        count = int((member & (stratum == "")).sum())
        raise UserError(
            f"{points.path}: {count} of {member.sum()} points have no stratum; they lie outside, or it is to be filled in"
        )
    if sizes is None and "stratum_size" in points:
        left_out = {label(each) for each in rule.not_sampled}
        sizes = {name: size for name, size in _column_sizes(points, stratum, member).items() if name not in left_out}
    return stratum, sizes


def _column_sizes(points: PointTable, stratum: np.ndarray, member: np.ndarray) -> dict[str, float]:
    """Return the sizes of strata that stand at every point, those of strata whose points were not measured too."""
    name = points.columns.found["stratum_size"]
    size = points.numbers(name, negative=False)
    known = member | (np.isfinite(size) & (stratum != ""))
    each = pd.Series(size[known]).groupby(stratum[known])
    spread, first = each.max() - each.min(), each.first()
    if (differ := spread > 1e-6 * first).any() or first.isna().any():
        which = spread.index[differ][0] if differ.any() else first.index[first.isna()][0]
        raise UserError(f"{points.path}: column {name!r} is no size of strata: in stratum {which!r} it is not one number")
    return {str(key): float(size) for key, size in first.items()}


def _strata_layer(path: Path) -> Layer:
    layers = find_layers([path])
    if len(layers) != 1:
        raise UserError(f"{path}: has {len(layers)} bands; a raster of strata has one")
    return layers[0]


def raster_sizes(path: Path) -> dict[str, float]:
    """Return stratum -> area in km2, of the true areas of the cells of a raster of strata."""
    layer, grid = _strata_layer(path), raster_grid(path)
    found: dict[str, float] = {}
    with Stack([layer], grid, resampling="nearest") as stack:
        for tile in grid.tiles(_TILE):
            codes = stack.read(tile.row, tile.col, tile.height, tile.width)[0]
            km2 = np.broadcast_to(cell_areas(grid, tile), codes.shape)
            known = np.isfinite(codes)
            values, member = np.unique(codes[known], return_inverse=True)
            for value, area in zip(values.tolist(), np.bincount(member, km2[known]).tolist(), strict=False):
                found[label(value)] = found.get(label(value), 0.0) + area
    if not found:
        raise UserError(f"{path}: has no cell with a stratum")
    return found


def table_sizes(path: Path) -> dict[str, float]:
    """Return stratum -> size in any unit, of a table of strata."""
    table = read_points(path, TableRule(columns={}))
    columns = find_columns(table.raw, path, wanted=("stratum",)).found
    lower = {str(name).lower(): str(name) for name in table.raw.columns}
    size = next((lower[name] for name in _SIZES if name in lower), None)
    if "stratum" not in columns or size is None:
        it_has = ", ".join(map(str, table.raw.columns[:12]))
        raise UserError(f"{path}: a table of strata has columns stratum and one of {', '.join(_SIZES)}; it has {it_has}")
    names = [label(each) for each in table.raw[columns["stratum"]].fillna("").tolist()]
    if double := first_repeated(names):
        raise UserError(f"{path}: stratum {double!r} is there twice")
    return dict(zip(names, table.numbers(size, negative=False).tolist(), strict=True))
