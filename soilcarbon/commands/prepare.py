"""Make a dataset from soil profiles and covariate rasters.

    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters climate.tif relief/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth 0 30 --rasters covariates/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth_method spline --depth_limits 0 5 15 30 60 100
                      --min_covered 20 --rasters covariates/ --out data/mine
    soilcarbon prepare --points wosis_202312_orgc.tsv --rasters covariates/ --split blocks --out data/world
    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters covariates/ --bounds 33.9 41.9 -4.7 5.0
                      --global_data data/world --out data/kenya

Profiles need columns of longitude and latitude (degrees), soil organic carbon (g/kg) and an id; horizons also their
upper and lower depth (cm). Rasters are GeoTIFFs of any CRS and cell size whose bands are the variables. Writes into
the folder --out what train_global.py and train_regional.py read, rejected.csv (profiles left out, and why), and
dataset.yaml (where it all came from). A region that is to be fine-tuned from a model of the world takes that model's
dataset as --global_data: it keeps its categories, statistics and held-out places.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, unique_names
from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, must_exist, sha256, write_table
from soilcarbon.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.geo.raster import Layer
    from soilcarbon.soil.profiles import Profiles


class PrepareSettings(Settings):
    """From profiles and rasters to a dataset's folder."""

    points: Path = Field(description="profiles or horizons: CSV, TSV, GeoPackage or GeoJSON")
    target: str = Field("soc", description="the column to learn; written as 'soc' into samples.csv")
    rasters: list[Path] = Field(description="GeoTIFF files, or folders of them", min_length=1)
    out: Path = Field(description="the dataset's folder to make")
    categories: tuple[Category, ...] | None = Field(
        None, description="list of {name, variables, radius, kind}; default: published table if all there, else one per raster file"
    )
    global_data: Path | None = Field(
        None, description="global dataset this region is fine-tuned from: its categories, statistics and held-out places are kept"
    )
    predict_only: bool = Field(
        False, description="places without observations, for pred.py --on all: no target, split or statistics"
    )
    own_stats: bool = Field(False, description="compute statistics from this region although global_data has some")
    bounds: tuple[float, float, float, float] | None = Field(
        None, description="keep profiles within LON_MIN LON_MAX LAT_MIN LAT_MAX, degrees"
    )
    depth: tuple[float, float] = Field((0.0, 30.0), description="depth interval horizons are brought to, cm")
    min_covered: float = Field(0.0, ge=0, description="leave out profiles with fewer centimetres of the interval observed")
    depth_method: Literal["mean", "spline", "spline_1cm"] = Field(
        "mean",
        description="horizons to an interval: mean weighted by thickness; mass-preserving spline (Bishop et al. 1999); "
        "the same read every centimetre, as R packages do",
    )
    spline_lambda: float = Field(0.1, ge=0, le=1e9, description="smoothness of the spline; 0 keeps the mass of every horizon")
    depth_limits: list[float] = Field(
        [], description="limits of further intervals, cm: 0 5 15 30 60 100 adds columns soc_0_5 to soc_60_100"
    )
    split: Literal["random", "blocks"] = Field("random", description="what is held out: single places or whole spatial blocks")
    block_size: float = Field(0.5, gt=0, le=180, description="side of a block, degrees")
    valid_share: float = Field(0.1, gt=0, lt=1, description="share of the profiles that chooses the best epoch")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of the profiles kept for the final score")
    radius: int = Field(0, ge=0, le=50, description="cells cut on each side of a profile, at least (more if a category asks)")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the split")

    @field_validator("depth", "bounds")
    @classmethod
    def _limits_in_order(cls, limits: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if limits is not None and any(low >= high for low, high in zip(limits[::2], limits[1::2], strict=True)):
            raise ValueError("each lower limit must be below its upper limit")
        return limits

    @field_validator("depth_limits")
    @classmethod
    def _limits_descend(cls, limits: list[float]) -> list[float]:
        if limits and (len(limits) < 2 or any(upper >= lower for upper, lower in pairwise(limits))):
            raise ValueError("two or more limits are needed, each below the one before: 0 5 15 30 60 100")
        return limits

    _check_categories = field_validator("categories")(unique_names)


log = logging.getLogger(__name__)
FEW_BLOCKS = 5
"""Below so many held-out blocks a score says little about land elsewhere."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(PrepareSettings, __doc__, arguments, "soilcarbon prepare")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it has to say comes as an error
    import numpy as np  # here and below: --help needs none of these, and they are slow to import
    import pandas as pd

    from soilcarbon.geo.raster import describe, find_layers, pick_layers
    from soilcarbon.soil import dataset as datasets
    from soilcarbon.soil import dataset as utils
    from soilcarbon.soil.profiles import read_profiles, unit_hint
    from soilcarbon.stats.groups import spatial_groups, train_valid_test_split

    out, made_here = settings.out.resolve(), ("samples.csv", "stats.csv", "rejected.csv")
    if settings.points.resolve() in [out / name for name in made_here] or (
        settings.global_data and out == settings.global_data.resolve()
    ):
        raise UserError(f"{settings.out}: would overwrite the points or the global dataset; choose another folder for --out")
    target = settings.target if settings.given("target") else None
    profiles = read_profiles(
        settings.points,
        target,
        settings.depth,
        settings.min_covered,
        settings.bounds,
        settings.predict_only,
        settings.depth_method,
        settings.spline_lambda,
        list(pairwise(settings.depth_limits)),
    )
    layers = find_layers(settings.rasters)
    parent = GlobalDataset(settings.global_data) if settings.global_data else None
    categories = settings.categories or (parent.categories if parent else default_categories(layers))
    pick_layers(layers, [name for category in categories for name in category.variables])  # names what is missing
    check_left(profiles, settings.points)
    check_writable(settings.out)
    patches = cut_patches(profiles, layers, categories, settings)
    check_left(profiles, settings.points)

    table = profiles.table
    facts: dict[str, Any] = {
        "points": {"file": settings.points.name, "sha256": sha256(settings.points), **profiles.facts},
        "rejected": profiles.counts(),
        "rasters": [grid | {"file": grid["file"].name, "sha256": sha256(grid["file"])} for grid in describe(layers)],
        "missing_cells": {name: int((patch != patch).sum()) for name, patch in patches.items()},
        "settings": settings.as_plain(),
    }
    if settings.predict_only:
        write(settings.out, profiles, patches, None, categories, facts)
        report(profiles, facts, patches, settings)
        print(f"{len(table)} places, {len(patches)} variables -> {settings.out}; next: pred.py --on all --data_dir {settings.out}")
        return
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    method, block_size = split_rule(settings, parent)
    units = spatial_groups(lon, lat, block_size if method == "blocks" else None)
    theirs = parent.split_at(lon, lat) if parent else np.full(len(table), "")
    # A block that holds a profile the pretraining has seen is seen: the last name wins.
    fixed = {unit: name for name in ("test", "valid", "train") for unit in units[theirs == name].tolist()}
    split = train_valid_test_split(units, settings.valid_share, settings.test_share, settings.seed, fixed)
    if settings.categories is None and parent is None:
        categories = leave_out_useless(categories, patches, split == "train")
    statistics = None
    if parent and not settings.own_stats:
        found = utils.read_statistics(parent.folder / "stats.csv", categories)
        statistics = pd.DataFrame([(name, *pair) for name, pair in found.items()], columns=["var_name", "v_mean", "v_std"])

    sizes = {name: int((split == name).sum()) for name in datasets.SPLITS}
    facts["split"] = {
        **sizes,
        "units": {name: len(np.unique(units[split == name])) for name in datasets.SPLITS},
        "method": method,
        "block_size": block_size if method == "blocks" else None,
        "reason": reason(method, block_size, parent),
        "seed": settings.seed,
        "valid_share": settings.valid_share,
        "test_share": settings.test_share,
    }
    facts["statistics"] = f"of {parent.folder}" if statistics is not None and parent else "of the training profiles"
    write(settings.out, profiles, patches, split, categories, facts, statistics)

    report(profiles, facts, patches, settings)
    if parent:
        known, kept = (theirs != "").sum(), (theirs == split).sum()
        log.info("%d of %d profiles lie at places of %s; %d keep the split they have there", known, len(table), parent.folder, kept)
    covered = pd.to_numeric(table["cm_covered"], errors="coerce") if "cm_covered" in table else pd.Series(dtype=float)
    least = 2 / 3 * (settings.depth[1] - settings.depth[0])
    if (short := int((covered < least).sum())) and settings.min_covered < least:
        log.info("%d profiles have less than %g cm of the interval observed; --min_covered %g leaves them out", short, least, least)
    hint = unit_hint(table["soc"].to_numpy())
    if hint:
        log.info("hint: %s (a density in kg/m2 stays as it is)", hint)
    held = facts["split"]["units"]
    if method == "blocks" and (held["test"] < FEW_BLOCKS or held["valid"] < FEW_BLOCKS):
        log.warning("hint: so few blocks are held out that the score is that of single places; a smaller --block_size gives more")
    what = "blocks" if method == "blocks" else "places"
    counts = ", ".join(f"{name} {size} in {held[name]} {what}" for name, size in sizes.items())
    used = sum(len(category.variables) for category in categories)
    print(f"{len(table)} profiles ({counts}), {used} variables in {len(categories)} categories -> {settings.out}")


def write(
    folder: Path,
    profiles: "Profiles",
    patches: "dict[str, np.ndarray]",
    split: "np.ndarray | None",
    categories: Sequence[Category],
    facts: Mapping[str, Any],
    statistics: "pd.DataFrame | None" = None,
) -> None:
    """Write the dataset, the list of what was left out, and drop patches of a dataset that stood here before."""
    from soilcarbon.soil.dataset import write_dataset

    ours = (folder / "dataset.yaml").is_file()
    write_dataset(folder, profiles.table, patches, split, categories, facts, statistics)
    write_table(folder / "rejected.csv", profiles.rejected)
    for stale in () if not ours else (folder / "patches").glob("*.pkl"):
        if all(stale.stem not in category.variables for category in categories):
            stale.unlink()


def leave_out_useless(
    categories: Sequence[Category], patches: "Mapping[str, np.ndarray]", rows: "np.ndarray"
) -> tuple[Category, ...]:
    """Return the categories without variables that are constant or missing over the training profiles (N,) bool.

    Only for categories that nobody wrote down: a folder of rasters often holds a mask.
    """
    import numpy as np

    useless = []
    for name in (name for category in categories for name in category.variables):
        cells = patches[name][rows]
        cells = cells[np.isfinite(cells)]
        if cells.size == 0 or cells.min() == cells.max():
            useless.append(name)
    if not useless:
        return tuple(categories)
    log.info("constant or missing at all training profiles, left out: %s", ", ".join(useless))
    kept = [(category, tuple(name for name in category.variables if name not in useless)) for category in categories]
    if not any(names for _, names in kept):
        raise UserError("every variable of the rasters is constant or missing at the training profiles")
    return tuple(category.model_copy(update={"variables": names}) for category, names in kept if names)


class GlobalDataset:
    """The dataset that a region's model was pretrained on, as far as the region must agree with it."""

    def __init__(self, folder: Path) -> None:
        from soilcarbon.soil import dataset as utils

        self.folder = folder
        must_exist(folder / "dataset.yaml", "YAML file")
        self.method, self.block_size = utils.split_method(folder)
        self.categories = utils.dataset_categories(folder)
        self.table, _ = utils.read_samples(folder / "samples.csv", "soc")
        self.split = utils.read_split(folder / "split", ("train", "valid", "test"), self.table["profile_id"].tolist())

    def split_at(self, lon: "np.ndarray", lat: "np.ndarray") -> "np.ndarray":
        """Return this dataset's split, or "", of the places or blocks (as it was split) where profiles (N,) lie.

        Where it has profiles of one place in several splits, the place counts as seen: "train".
        """
        import numpy as np

        from soilcarbon.stats.groups import spatial_groups

        block_size = self.block_size or 0.5
        side = block_size if self.method == "blocks" else None
        units = spatial_groups(self.table["lon"].to_numpy(), self.table["lat"].to_numpy(), side)
        held = {unit: name for name in ("test", "valid", "train") for unit in units[self.split[name]].tolist()}
        return np.array([held.get(unit, "") for unit in spatial_groups(lon, lat, side).tolist()])


def split_rule(settings: PrepareSettings, parent: GlobalDataset | None) -> tuple[str, float]:
    """Return "random" or "blocks" and the block's side: as asked for, else as the global dataset was split."""
    method, block_size = settings.split, settings.block_size
    if parent and not settings.given("split"):
        method = parent.method
    if parent and parent.block_size and not settings.given("block_size"):
        block_size = parent.block_size
    return method, block_size


def default_categories(layers: Sequence["Layer"]) -> tuple[Category, ...]:
    """Return the published table if its variables are all there, else one numeric category per raster file."""
    names = {layer.name for layer in layers}
    if all(variable in names for category in PUBLISHED_CATEGORIES for variable in category.variables):
        return PUBLISHED_CATEGORIES
    files: dict[str, list[str]] = {}
    for path in dict.fromkeys(layer.path for layer in layers):
        stem = re.sub(r"\W", "_", path.stem.removeprefix("cov_"), flags=re.ASCII)
        name = stem if stem[:1].isalpha() else f"raster_{stem}"
        while name in files:
            name += "_"
        files[name] = [layer.name for layer in layers if layer.path == path]
    return tuple(Category(name=name, variables=tuple(variables)) for name, variables in files.items())


def check_left(profiles: "Profiles", points: Path) -> None:
    """Stop if every profile has been left out."""
    if profiles.table.empty:
        why = profiles.counts() | ({"out of bounds": n} if (n := profiles.facts.get("out_of_bounds")) else {})
        raise UserError(f"{points}: no profile is left; " + ", ".join(f"{count} {reason}" for reason, count in why.items()))


def cut_patches(
    profiles: "Profiles", layers: Sequence["Layer"], categories: Sequence[Category], settings: PrepareSettings
) -> "dict[str, np.ndarray]":
    """Return variable -> (N, S, S) round the profiles that have covariates; the others are moved to the rejected.

    Raises
    ------
    UserError
        If the profiles lie elsewhere, but would not if longitude and latitude were swapped.
    """
    import numpy as np

    from soilcarbon.geo.raster import cut_windows, pick_layers

    def cut(lon: np.ndarray, lat: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return the windows, whether a profile is inside every raster, and the share of variables known there (N,)."""
        windows: dict[str, np.ndarray] = {}
        inside, known = np.ones(lon.size, bool), np.zeros(lon.size)
        for category in categories:
            radius = max(settings.radius, category.radius)
            cut_here, within = cut_windows(pick_layers(layers, category.variables), lon, lat, radius)
            windows |= cut_here
            inside &= within
            known += sum(np.isfinite(window[:, radius, radius]) for window in cut_here.values())
        return windows, inside, known / len(windows)

    lon, lat = profiles.table["lon"].to_numpy(), profiles.table["lat"].to_numpy()
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


def reason(method: str, block_size: float, parent: GlobalDataset | None) -> str:
    """Return in a sentence why profiles are held out as they are."""
    if method == "blocks":
        why = f"whole blocks of {block_size:g} degrees are held out, because neighbours share covariates and soil, so that"
        why += " single held-out profiles would flatter the score on land without profiles"
    else:
        why = "single places are held out at random, which tells how well gaps among the profiles are filled, not how well"
        why += " land without profiles is mapped"
    return why + (f"; what {parent.folder} holds keeps its split, and none of its training places is tested on" if parent else "")


def report(profiles: "Profiles", facts: Mapping[str, Any], patches: "Mapping[str, np.ndarray]", settings: PrepareSettings) -> None:
    """Say in plain lines what was taken, what was left out, what is missing, and what to think about."""
    import numpy as np
    import pandas as pd

    renamed = ", ".join(f"{ours} = {column}" for ours, column in profiles.facts["columns"].items() if column != ours)
    log.info(
        "%s: %d rows (%s); columns: %s", settings.points, profiles.facts["rows"], profiles.facts["kind"], renamed or "as named"
    )
    for title, counts in (
        ("horizons", profiles.facts.get("horizons")),
        *profiles.facts.get("further_depths", {}).items(),
        (f"left out, see {settings.out}/rejected.csv", profiles.counts()),
    ):
        if counts:
            log.info("%s: %s", title, ", ".join(f"{count} {what}" for what, count in counts.items()))
    if settings.bounds:
        log.info("out of bounds: %d", profiles.facts["out_of_bounds"])
    cells = {name: patch.size for name, patch in patches.items()}
    gaps = {name: count / cells[name] for name, count in facts["missing_cells"].items() if count}
    worst = ", ".join(f"{name} {gaps[name]:.1%}" for name in sorted(gaps, key=gaps.__getitem__, reverse=True)[:6])
    log.info("missing cells: %s", f"in {len(gaps)} of {len(cells)} variables, most in {worst}" if gaps else "none")
    unused = [name for grid in facts["rasters"] for name in grid["variables"] if name not in patches]
    if unused:
        log.info("in no category, not used: %s", ", ".join(unused[:12]) + (" ..." if len(unused) > 12 else ""))
    if settings.categories is None and settings.global_data is None:
        named = re.compile("class|code|lith|cover|geolog|soil_?type|wrb", re.IGNORECASE)
        likely = [name for grid in facts["rasters"] for name in grid["variables"] if named.search(grid["file"] + name)]
        codes = [name for name in likely if name in patches and (np.nan_to_num(patches[name]) % 1 == 0).all()]
        if codes:
            log.info("hint: class codes? %s; list categories in a YAML file to give them kind: classes", ", ".join(codes))
    centres = pd.DataFrame({name: patch[:, patch.shape[1] // 2, patch.shape[1] // 2] for name, patch in patches.items()})
    shared = centres.duplicated(keep=False).mean()
    if facts.get("split", {}).get("method") == "random" and shared > 0.2:
        log.info(
            "hint: %.0f %% of the profiles share all covariates with another; --split blocks gives a more honest score",
            100 * shared,
        )
