"""A dataset folder from soil profiles and covariate rasters: patches cut at the profiles, split, statistics, provenance.

`prepare_dataset` reads the profiles (`profiles.read_profiles`), cuts the patches (`geo.raster.cut_windows`), splits and writes
(`dataset.write_dataset`). A region of a global dataset keeps its categories, statistics and held-out places (`GlobalDataset`).
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, class_variables, separate_classes
from soilcarbon.geo.grid import nominal_metres
from soilcarbon.geo.periods import find_periods, replaced, years_of
from soilcarbon.geo.plausibility import ask_about_fill_values, check_codes, check_names, hidden_classes, with_classes
from soilcarbon.geo.raster import Layer, by_file, cut_windows, describe, find_layers, pick_layers
from soilcarbon.geo.remote import any_remote, local_rasters
from soilcarbon.io.files import UserError, check_writable, must_exist, sha256
from soilcarbon.io.points import table_file
from soilcarbon.settings import Layout
from soilcarbon.soil.dataset import (
    PERIOD,
    check_free,
    compute_statistics,
    dataset_categories,
    dataset_target,
    largest_shares,
    read_samples,
    read_split,
    read_statistics,
    split_method,
    splits_of,
    write_dataset,
)
from soilcarbon.soil.places import precision_hint, share_covariates
from soilcarbon.soil.profiles import DepthRule, Profiles, read_profiles, unit_hint
from soilcarbon.soil.settings import PrepareSettings
from soilcarbon.soil.split import FEW_BLOCKS, SplitRule, draw_split
from soilcarbon.stats.groups import spatial_groups

log = logging.getLogger(__name__)
_SEEN = ("test", "valid", "train")  # a group with profiles in several splits is of the last of these


@dataclass
class Prepared:
    """A dataset that was written: N profiles, their patches (variable -> (N, S, S), raw units), and facts of `dataset.yaml`."""

    profiles: Profiles
    patches: dict[str, np.ndarray]
    categories: tuple[Category, ...]
    facts: dict[str, Any]
    hints: list[str] = field(default_factory=list)  # sentences on what may be wrong or better

    def missing_cells(self) -> str:
        """Return the variables with most missing cells as text."""
        counts = self.facts["missing_cells"]
        gaps = {name: counts[name] / patch.size for name, patch in self.patches.items() if counts[name]}
        return f"in {len(gaps)} of {len(self.patches)} variables, most in {largest_shares(gaps)}" if gaps else "none"


class GlobalDataset:
    """The global dataset that a region's model was pretrained on: categories, splits and statistics.

    UserError if the folder holds no dataset with splits.
    """

    def __init__(self, folder: Path) -> None:
        must_exist(folder / "dataset.yaml", "YAML file")
        self.folder = folder
        self.method, self.block_size = split_method(folder)
        self.categories = dataset_categories(folder)
        self.target = dataset_target(folder, "soc")
        self.table, _ = read_samples(folder / "samples.csv", "soc", limits=self.target.limits)
        self.split = read_split(folder / "split", splits_of(folder), self.table["profile_id"].tolist())

    def split_at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return this dataset's split, or "", of the places or blocks (as it was split) where profiles (N,) lie.

        Where it has profiles of one place in several splits, the place counts as seen: "train".
        """
        groups = spatial_groups(self.table["lon"].to_numpy(), self.table["lat"].to_numpy(), self.block_size)
        held = {group: name for name in _SEEN if name in self.split for group in groups[self.split[name]].tolist()}
        return np.array([held.get(group, "") for group in spatial_groups(lon, lat, self.block_size).tolist()])


def _fetched(settings: PrepareSettings, table: pd.DataFrame) -> PrepareSettings:
    """Return settings whose remote rasters are fetched, as far as profiles lie in them."""
    if table.empty or not any_remote([*settings.rasters, *settings.world_rasters]):
        return settings
    extent = float(table["lon"].min()), float(table["lon"].max()), float(table["lat"].min()), float(table["lat"].max())
    rasters, world = (local_rasters(paths, extent, settings.cache) for paths in (settings.rasters, settings.world_rasters))
    return settings.model_copy(update={"rasters": rasters, "world_rasters": world})


def prepare_dataset(settings: PrepareSettings) -> Prepared:
    """Make a dataset folder from profiles and rasters.

    Places to predict have no target, split and statistics. Categories, statistics and held-out places of a global dataset are kept.
    UserError if profiles, rasters and categories do not fit each other, or nothing is left; then nothing is written.
    """
    parent = GlobalDataset(settings.global_data) if settings.global_data else None
    plain, out = settings.as_plain(), settings.out
    profiles, target = _profiles_of(settings, parent)
    settings = _fetched(settings, profiles.table)
    static = find_layers([*settings.rasters, *settings.world_rasters], settings.missing_values)
    stacks = {name: replaced(static, own) for name, own in find_periods(settings.periods, settings.missing_values).items()}
    layers = _all_layers(stacks)
    check_names(layers, nodata=settings.missing_values)
    categories, own = _categories_of(settings, next(iter(stacks.values())), parent)
    names = [name for category in categories for name in category.variables]
    used = _all_layers({period: pick_layers(each, names) for period, each in stacks.items()})
    _check_kinds(used, settings.categories)
    classes = class_variables(categories)
    layers, used = with_classes(layers, classes), with_classes(used, classes)
    if settings.periods:
        _assign_periods(profiles, stacks)
    _check_left(profiles, settings.points)
    check_free(out, categories)
    check_writable(out)
    stacks = {period: with_classes(each, classes) for period, each in stacks.items()}
    patches = cut_patches(profiles, stacks, categories, settings)
    samples = ask_about_fill_values(used, patches)
    check_codes(used, samples)
    _check_left(profiles, settings.points)
    facts: dict[str, Any] = {
        **({"target": target} if target else {}),
        "points": {"file": settings.points.name, "sha256": sha256(table_file(settings.points)), **profiles.facts},
        "rejected": profiles.counts(),
        "rasters": describe(layers),
        **({"sources": _sources_of(categories, settings)} if settings.world_rasters else {}),
        **({"periods": profiles.table[PERIOD].value_counts().sort_index().to_dict()} if settings.periods else {}),
        "missing_cells": {name: int((patch != patch).sum()) for name, patch in patches.items()},
        "settings": plain,
    }
    drawn, statistics = None, None
    if not settings.predict_only:
        drawn, facts["split"] = _split(profiles.table, settings, parent)
        centres = {name: patch[:, patch.shape[1] // 2, patch.shape[1] // 2] for name, patch in patches.items()}
        facts["split"]["shared_with_training"] = share_covariates(centres, drawn)
        training = drawn == "train"
        if settings.categories is None and parent is None:
            categories = without_constants(categories, patches, training)
        if parent:
            kept = without_constants(own, patches, training) if own else ()
            categories = (*(each for each in categories if each not in own), *kept)
            statistics, facts["statistics"] = _statistics_of(parent, categories, kept, patches, training)
        else:
            facts["statistics"] = "of the training profiles"
    write_dataset(out, profiles.table, patches, drawn, categories, facts, statistics, {"rejected.csv": profiles.rejected})
    made = Prepared(profiles, patches, tuple(categories), facts)
    codes = hidden_classes(used, samples) if settings.categories is None and parent is None else []
    made.hints = _hints(made, settings, codes)
    return made


def _profiles_of(settings: PrepareSettings, parent: GlobalDataset | None) -> tuple[Profiles, dict[str, Any] | None]:
    """Return the profiles, and facts of the target, which is in the unit of the global dataset; None of places to predict."""
    column = settings.target if settings.given("target") else None
    unit = settings.unit or (None if settings.predict_only else _recorded_unit(settings.points, column or "soc"))
    further = list(pairwise(settings.depth_limits))
    depth = DepthRule(settings.depth, settings.depth_method, settings.spline_lambda, further, settings.min_covered)
    rule = settings.table_rule()
    profiles = read_profiles(
        settings.points, column, depth, settings.bounds, settings.predict_only, rule, settings.soc_factor, unit
    )
    target = profiles.facts.pop("target", None)
    if target and parent and target["unit"] != parent.target.unit:
        theirs = f"{parent.folder} is in {parent.target.unit}"
        raise UserError(f"{settings.points}: the target is in {target['unit']}, and {theirs}; convert one, or see --unit")
    return profiles, target


def _statistics_of(
    parent: GlobalDataset,
    categories: Sequence[Category],
    own: Sequence[Category],
    patches: Mapping[str, np.ndarray],
    rows: np.ndarray,
) -> tuple[pd.DataFrame, str]:
    """Return var_name, v_mean, v_std, and where they are from: the global dataset, or the training rows (N,) for own categories."""
    theirs = read_statistics(parent.folder / "stats.csv", [each for each in categories if each not in own])
    statistics = pd.DataFrame([(name, *pair) for name, pair in theirs.items()], columns=["var_name", "v_mean", "v_std"])
    if not own:
        return statistics, f"of {parent.folder}"
    numeric = {name: patches[name] for each in own if each.kind == "numeric" for name in each.variables}
    statistics = pd.concat([statistics, compute_statistics(numeric, rows)], ignore_index=True)
    return statistics, f"of {parent.folder}; of the training profiles for the variables that it has not"


def _recorded_unit(points: Path, column: str) -> str | None:
    """Return the unit of the target where the points are the sample table of another dataset, which records it."""
    is_dataset = points.name == Layout().samples.name and (points.parent / "dataset.yaml").is_file()
    return dataset_target(points.parent, column).unit or None if is_dataset else None


# --- categories and patches ------------------------------------------------------------------------------------------


def _categories_of(
    settings: PrepareSettings, layers: Sequence[Layer], parent: GlobalDataset | None
) -> tuple[tuple[Category, ...], tuple[Category, ...]]:
    """Return the categories, and those among them that the global dataset has not.

    With rasters of the world they are its categories, or those of its rasters, as far as they are there; then the local rasters'.
    """
    theirs = parent.categories if parent else None
    if settings.categories:
        known = {name for each in theirs or () for name in each.variables}
        return settings.categories, tuple(each for each in settings.categories if parent and not known & {*each.variables})
    if not settings.world_rasters:
        return theirs or default_categories(layers), ()
    world = {layer.name for layer in find_layers(settings.world_rasters)}
    theirs = theirs or default_categories([layer for layer in layers if layer.name in world])
    known, here = {name for each in theirs for name in each.variables}, {layer.name for layer in layers}
    if lacking := sorted(known - here):
        log.warning("in none of the rasters, left out; finetune takes them as their means: %s", ", ".join(lacking))
    own = [layer for layer in layers if layer.name not in known and layer.name not in world]
    if not own or not known & here:
        what = "local variable" if not own else f"variable of {parent.folder if parent else 'the world'}"
        raise UserError(f"--rasters and --world_rasters: no {what} is in them; each is needed, or leave out --world_rasters")
    new = _renamed(default_categories(own), {each.name for each in theirs})
    return (*_narrowed(theirs, known & here), *new), new


def _renamed(categories: Sequence[Category], taken: set[str]) -> tuple[Category, ...]:
    """Return categories of other names than those that are taken."""
    renamed = []
    for each in categories:
        name = each.name
        while name in taken:
            name += "_local"
        renamed.append(each.model_copy(update={"name": name}))
    return tuple(renamed)


def _narrowed(categories: Sequence[Category], names: Collection[str]) -> tuple[Category, ...]:
    """Return the categories with these of their variables; a category without any is left out."""
    kept = [(each, tuple(name for name in each.variables if name in names)) for each in categories]
    return tuple(each.model_copy(update={"variables": variables}) for each, variables in kept if variables)


def _sources_of(categories: Sequence[Category], settings: PrepareSettings) -> dict[str, list[str]]:
    """Return and log which categories come from which set of rasters."""
    world = {layer.name for layer in find_layers(settings.world_rasters)}
    found: dict[str, list[str]] = {"world_rasters": [], "rasters": []}
    for each in categories:
        sets = {"world_rasters" if name in world else "rasters" for name in each.variables}
        for name in sets:
            found[name].append(each.name)
    for name, names in found.items():
        log.info("categories of --%s, cut on their own grids: %s", name, ", ".join(names) or "none")
    return found


def default_categories(layers: Sequence[Layer]) -> tuple[Category, ...]:
    """Return the published table if its variables are all there, else one category per raster file.

    Variables with a colour table or category names are classes, in a category of their own.
    """
    names = {layer.name for layer in layers}
    if all(variable in names for category in PUBLISHED_CATEGORIES for variable in category.variables):
        return PUBLISHED_CATEGORIES
    files: dict[str, list[str]] = {}
    for path, here in by_file(layers).items():
        stem = re.sub(r"\W", "_", path.stem.removeprefix("cov_"), flags=re.ASCII)
        name = stem if stem[:1].isalpha() else f"raster_{stem}"
        while name in files:
            name += "_"
        files[name] = [layer.name for layer in here]
    coded = [layer.name for layer in layers if layer.classes]
    if coded:
        log.info("classes, as their files have a colour table or category names: %s", ", ".join(coded))
    return separate_classes([Category(name=name, variables=tuple(each)) for name, each in files.items()], coded)


def _check_kinds(layers: Sequence[Layer], categories: Sequence[Category] | None) -> None:
    """Raise UserError if categories that the user lists do not say of what their file calls classes whether it is."""
    unsaid = [name for each in categories or () if "kind" not in each.model_fields_set for name in each.variables]
    if coded := [layer for layer in layers if layer.classes and layer.name in unsaid]:
        raise UserError(
            f"{coded[0].path}: {coded[0].name} has a colour table or category names: class codes? give its category kind: classes, "
            "or kind: numeric if they are measurements"
        )


def without_constants(categories: Sequence[Category], patches: Mapping[str, np.ndarray], rows: np.ndarray) -> tuple[Category, ...]:
    """Return the categories without variables that are constant or missing over the training profiles, (N,) bool.

    Only for categories that were not given: a folder of rasters often holds a mask. UserError if no variable is left.

    >>> patches = {"slope": np.array([[[1.0]], [[3.0]]]), "mask": np.ones((2, 1, 1))}
    >>> table = [Category(name="relief", variables=("slope", "mask"))]
    >>> without_constants(table, patches, np.array([True, True]))[0].variables
    ('slope',)
    """
    useless = []
    for name in (name for category in categories for name in category.variables):
        cells = patches[name][rows]
        cells = cells[np.isfinite(cells)]
        if cells.size == 0 or cells.min() == cells.max():
            useless.append(name)
    if not useless:
        return tuple(categories)
    log.info("constant or missing at all training profiles, left out: %s", ", ".join(useless))
    kept = _narrowed(categories, {name for category in categories for name in category.variables} - {*useless})
    if not kept:
        raise UserError("every variable of the rasters is constant or missing at the training profiles")
    return kept


def _check_left(profiles: Profiles, points: Path) -> None:
    """Raise UserError if every profile has been left out."""
    if profiles.table.empty:
        why = profiles.counts() | ({"out of bounds": n} if (n := profiles.facts.get("out_of_bounds")) else {})
        raise UserError(f"{points}: no profile is left; " + ", ".join(f"{count} {reason}" for reason, count in why.items()))


def _all_layers(stacks: Mapping[str, Sequence[Layer]]) -> list[Layer]:
    """Return the layers of all periods, each once."""
    return list(dict.fromkeys(layer for layers in stacks.values() for layer in layers))


def _assign_periods(profiles: Profiles, periods: Iterable[str]) -> None:
    """Give profiles the first year of the period that their year lies in, column `PERIOD`; others are moved to the rejected.

    UserError if a period is not named by years, two share a year, or profiles have no years.
    """
    first: dict[int, int] = {}
    for name in periods:
        years = years_of(name)
        if years is None or years[0] > years[1]:
            raise UserError(
                f"period {name!r}: a profile takes the rasters of its year; name the period by years, 1985 or 1985-1989"
            )
        for year in range(years[0], years[1] + 1):
            if year in first:
                raise UserError(f"periods: {year} lies in two of them, {first[year]} and {name}")
            first[year] = years[0]
    if "year" not in profiles.table:
        raise UserError("periods: the profiles have no column of years; name it (--columns year=NAME), or leave the periods out")
    year = np.floor(pd.to_numeric(profiles.table["year"], errors="coerce"))
    found = year.map(first)
    profiles.reject((year.isna(), "no year"), (found.isna(), "no rasters of its year"))
    profiles.table[PERIOD] = found.dropna().astype(np.int64).to_numpy()


def cut_patches(
    profiles: Profiles, stacks: Mapping[str, Sequence[Layer]], categories: Sequence[Category], settings: PrepareSettings
) -> dict[str, np.ndarray]:
    """Return variable -> (N, S, S) round the profiles that have covariates; the others are moved to the rejected.

    `stacks`: the layers by period, named by its years, or those of the only one. UserError if the profiles lie elsewhere, but would
    not if longitude and latitude were swapped.
    """

    def cut(lon: np.ndarray, lat: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return the windows, whether a profile is inside every raster, and the share of variables known there (N,)."""
        windows: dict[str, np.ndarray] = {}
        inside, known = np.ones(lon.size, bool), np.zeros(lon.size)
        for category in categories:
            radius = max(settings.radius, category.radius)
            for rows, layers in parts:
                cut_here, within = cut_windows(pick_layers(layers, category.variables), lon[rows], lat[rows], radius)
                for name, window in cut_here.items():
                    windows.setdefault(name, np.empty((lon.size, *window.shape[1:]), window.dtype))[rows] = window
                inside[rows] &= within
                known[rows] += sum(np.isfinite(window[:, radius, radius]) for window in cut_here.values())
        return windows, inside, known / len(windows)

    lon, lat = profiles.table["lon"].to_numpy(), profiles.table["lat"].to_numpy()
    parts: list[tuple[Any, Sequence[Layer]]] = [(slice(None), each) for each in stacks.values()]
    if len(stacks) > 1:
        period = profiles.table[PERIOD].to_numpy()
        rows_of = {name: np.flatnonzero(period == int(name[:4])) for name in stacks}  # named by years, see `_assign_periods`
        parts = [(rows_of[name], each) for name, each in stacks.items() if rows_of[name].size]
    windows, inside, known = cut(lon, lat)
    here = (inside & (known == 1)).mean()
    if here < 0.5:
        _, inside_if, known_if = cut(lat, np.where(np.abs(lon) > 90, np.nan, lon))
        if (there := (inside_if & (known_if == 1)).mean()) > max(0.9, 2 * here):
            raise UserError(
                f"{settings.points}: longitude and latitude look swapped: {here:.0%} of {lon.size} profiles have covariates"
                f" as they stand, {there:.0%} if swapped; swap the columns"
            )
    profiles.reject((~inside, "outside a raster"), (known == 0, "nodata in every variable"))
    kept = inside & (known > 0)
    return windows if kept.all() else {name: window[kept] for name, window in windows.items()}


# --- the split -------------------------------------------------------------------------------------------------------


def _split(table: pd.DataFrame, settings: PrepareSettings, parent: GlobalDataset | None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the split (N,) text of the profiles, and how it was made."""
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    method, side = settings.split if settings.given("split") else None, settings.block_size
    if parent:
        method, side = method or parent.method, side or parent.block_size
    rule = SplitRule(method or "random", side, settings.valid_share, settings.test_share, settings.seed)
    theirs = parent.split_at(lon, lat) if parent else np.full(len(lon), "")
    split, facts = draw_split(lon, lat, table["soc"].to_numpy(), rule, theirs)
    if parent:
        known, kept = (theirs != "").sum(), (theirs == split).sum()
        log.info("%d of %d profiles lie at places of %s; %d keep the split they have there", known, len(table), parent.folder, kept)
        facts["reason"] += f"; places of {parent.folder} keep their split, none of its training places is tested on"
    return split, facts


# --- hints -----------------------------------------------------------------------------------------------------------


def _hints(made: Prepared, settings: PrepareSettings, codes: Sequence[str]) -> list[str]:
    """Return sentences on unused variables, class codes, shared covariates, thin profiles, units and few blocks."""
    patches, facts, table = made.patches, made.facts, made.profiles.table
    hints = []
    named = [(grid["file"], name) for grid in facts["rasters"] for name in grid["variables"]]
    if unused := list(dict.fromkeys(name for _, name in named if name not in patches)):
        hints.append(f"in no category, not used: {', '.join(unused[:12])}{' ...' if len(unused) > 12 else ''}")
    if codes:
        hints.append(f"class codes? {', '.join(dict.fromkeys(codes))}; list categories in a YAML file to give them kind: classes")
    if "split" not in facts:
        return hints
    split = facts["split"]
    if shared := {name: count for name, count in split["shared_with_training"].items() if count}:
        share = " and ".join(f"{count} of {split[name]} {name}" for name, count in shared.items())
        advice = "; --split blocks avoids this optimistic bias of the scores" if split["method"] == "random" else ""
        hints.append(f"{share} profiles have all covariates of a training profile (they share its raster cell){advice}")
    cells = [nominal_metres(grid["crs"], min(grid["cell_size"])) for grid in facts["rasters"] if grid["crs"]]
    if cells and (hint := precision_hint(table["lon"].to_numpy(), table["lat"].to_numpy(), min(cells))):
        hints.append(hint)
    if "horizons" in facts["points"] and "cm_covered" in table:
        covered, least = pd.to_numeric(table["cm_covered"], errors="coerce"), 2 / 3 * (settings.depth[1] - settings.depth[0])
        if (short := int((covered < least).sum())) and settings.min_covered < least:
            advice = f"--min_covered {least:g} leaves them out"
            hints.append(f"{short} profiles have less than {least:g} cm of the interval observed; {advice}")
    assumed = facts["target"]["unit"] == "g/kg" and not settings.unit
    if assumed and (unit := unit_hint(table["soc"].to_numpy())):
        hints.append(f"{unit}: --unit % if so")
    held = [split["groups"][name] for name in ("valid", "test") if split["groups"][name]]
    if split["method"] == "blocks" and min(held) < FEW_BLOCKS:
        hints.append("so few blocks are held out that the score is that of single places; a smaller --block_size gives more")
    return hints
