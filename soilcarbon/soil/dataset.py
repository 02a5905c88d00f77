"""The dataset folder, read and written: sample table, patches of variables, statistics, splits.

`write_dataset` makes the folder, `read_dataset` returns it as a `Dataset`, whose covariates are ONE packed float32 array (N, F)
in raw units, missing = NaN. `categories.category_views` gives each category's patches (N, C, S, S) as views of it. Default layout:

    samples.csv  patches/<variable>.pkl  stats.csv  split/{train,valid,test}.csv  dataset.yaml
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from soilcarbon import __version__
from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, variable_columns
from soilcarbon.io.files import UserError, file_set, finish_set, read_yaml, write_table, write_yaml
from soilcarbon.io.patches import profile_key, read_packed
from soilcarbon.io.pickles import dump_pickle
from soilcarbon.io.tables import read_table
from soilcarbon.progress import progress
from soilcarbon.settings import Layout, RunSettings, build
from soilcarbon.soil.target import Target, target_from_plain
from soilcarbon.stats.groups import spatial_groups

log = logging.getLogger(__name__)
SOC_MAXIMUM = Target().limits[1]  # g/kg: more carbon than soil is impossible

SPLITS = ("train", "valid", "test")
PERIOD = "period"
"""Column of the sample table: first year of the period whose covariates a profile has, where they differ by period."""
Statistics = dict[str, tuple[float, float]]  # variable -> (mean, standard deviation), raw units


@dataclass(frozen=True)
class Dataset:
    """N profiles with their covariates."""

    table: pd.DataFrame  # the sample table, N rows, all its columns
    x: np.ndarray  # (N, F) float32, raw units, missing = NaN; columns in the order of `categories`
    y: np.ndarray  # (N,) float64 target; NaN where unknown
    split: dict[str, np.ndarray]  # "train", "valid", "test" -> row numbers; only the splits that were read
    categories: tuple[Category, ...]  # what the columns of `x` are
    block_size: float | None = None  # side of the spatial blocks it was split by, degrees; None: it was not split by blocks
    groups: np.ndarray | None = None  # (N,) label of the group that no fold may split; None: of the block, or of the place
    target: Target = Target()  # what `y` is: name, unit, depth, years
    period: np.ndarray | None = None  # (N,) first year of the period whose covariates a profile has; None: there are no periods
    records_target: bool = False  # whether the dataset's record says so, which older ones do not

    @property
    def ids(self) -> list[str]:
        """Profile ids, as text, in row order."""
        return self.table["profile_id"].tolist()

    @property
    def lon(self) -> np.ndarray:
        """(N,) degrees east."""
        return self.table["lon"].to_numpy(np.float64)

    @property
    def lat(self) -> np.ndarray:
        """(N,) degrees north."""
        return self.table["lat"].to_numpy(np.float64)

    @property
    def blocks(self) -> np.ndarray | None:
        """(N,) label of the spatial block of each profile; None if the dataset was not split by blocks."""
        return None if self.block_size is None else spatial_groups(self.lon, self.lat, self.block_size)

    def rows(self, on: str) -> np.ndarray:
        """Return the row numbers of a split, or of "all"."""
        return np.arange(len(self.table)) if on == "all" else self.split[on]


def check_variables(x: np.ndarray, categories: Sequence[Category], refuse: Literal["constant", "missing", "nothing"]) -> None:
    """Log the share of missing cells of covariates (N, F), and raise UserError for a variable without information.

    `refuse`: "constant": variables that are missing in all cells or have one value (training from scratch). "missing": those
    missing in all cells. "nothing": none (prediction; the checkpoint defines how missing cells are filled).
    """
    gaps = {}
    for name, columns in variable_columns(categories).items():
        cells = x[:, columns]
        missing = int(np.isnan(cells).sum())
        if missing == cells.size and refuse != "nothing":
            raise UserError(f"variable {name!r} is missing at all {len(x)} profiles; leave it out or supply it")
        if refuse == "constant" and np.nanmin(cells) == np.nanmax(cells):
            raise UserError(f"variable {name!r} is constant ({np.nanmin(cells):g}) over all {len(x)} profiles; leave it out")
        if missing:
            gaps[name] = missing / cells.size
    if gaps:
        total = sum(len(category.variables) for category in categories)
        log.info("missing cells of %d profiles: in %d of %d variables, most in %s", len(x), len(gaps), total, largest_shares(gaps))


def largest_shares(shares: Mapping[str, float]) -> str:
    """Return the six largest shares as text: "slope 12.0%, bio01 3.5%"."""
    return ", ".join(f"{name} {shares[name]:.1%}" for name in sorted(shares, key=shares.__getitem__, reverse=True)[:6])


# --- reading ---------------------------------------------------------------------------------------------------------


def read_dataset(
    folder: Path,
    categories: Sequence[Category] | None = None,
    splits: Sequence[str] = SPLITS,
    *,
    target: str = "soc",
    target_needed: bool = True,
    layout: Layout = Layout(),  # noqa: B008 - frozen
) -> Dataset:
    """Read a dataset folder; its categories are those of `dataset_categories` if none are given.

    A test split is left out where the dataset was made without one (`splits_of`). Unless the target is needed, profiles without one
    are kept, with y = NaN. UserError if a file is missing or anything in it is wrong; see `read_samples`, `read_split` and
    `io.patches.read_packed`.
    """
    _finish_interrupted(folder)
    path = folder / layout.samples
    if not path.is_file():
        inner = next((other for other in sorted(folder.glob("DL_inputs/*")) if (other / layout.samples).is_file()), None)
        advice = f"did you mean --data_dir {inner}?" if inner else "make it with 'soilcarbon prepare' or 'soilcarbon simulate'"
        raise UserError(f"{path}: no sample table there; {advice}")
    meaning = dataset_target(folder, target)
    table, y = read_samples(path, target, target_needed, meaning.limits)
    ids = table["profile_id"].tolist()
    chosen = tuple(categories) if categories is not None else dataset_categories(folder)
    split = read_split(folder / layout.split, splits_of(folder, splits), ids)
    x = read_packed(folder, folder / layout.patches, ids, chosen)
    record = _record(folder)
    period = _periods(table, path) if "periods" in record else None
    block_size = split_method(folder)[1]
    return Dataset(table, x, y, split, chosen, block_size, target=meaning, period=period, records_target="target" in record)


def _periods(table: pd.DataFrame, path: Path) -> np.ndarray:
    """Return the first year of the period of each profile (N,); UserError if some have none."""
    years = pd.to_numeric(table[PERIOD], errors="coerce") if PERIOD in table else pd.Series(np.nan, table.index)
    if not years.between(-9999, 9999).all():
        raise UserError(f"{path}: covariates differ by period, by dataset.yaml; column {PERIOD!r} lacks the year of a profile's")
    return years.to_numpy().astype(np.int64)


def _record(folder: Path) -> dict[str, Any]:
    """Return the facts of the folder's `dataset.yaml`; {} without one."""
    path = folder / "dataset.yaml"
    return read_yaml(path) if path.is_file() else {}


def dataset_target(folder: Path, column: str) -> Target:
    """Return the meaning of a column of the folder's sample table, by its `dataset.yaml`; without, soc is in g/kg."""
    return target_from_plain(_record(folder).get("target"), column, folder / "dataset.yaml")


def require_unit(data: Dataset, unit: str, folder: Path, other: str) -> None:
    """Raise UserError if a dataset's target is in another unit than `other`'s; what is not known is not compared."""
    if unit and data.target.unit and data.target.unit != unit:
        raise UserError(f"{folder}: {data.target.name} is in {data.target.unit}, {other} in {unit}; prepare it again in that unit")


def _finish_interrupted(folder: Path) -> None:
    for made in (folder.parent, folder):  # an interrupted simulation, or dataset
        finish_set(made)


def dataset_categories(folder: Path) -> tuple[Category, ...]:
    """Return the categories of the folder's `dataset.yaml`, else the published table; see `recorded_categories`."""
    return recorded_categories(folder) or PUBLISHED_CATEGORIES


def recorded_categories(folder: Path) -> tuple[Category, ...] | None:
    """Return the categories of the folder's `dataset.yaml`; None if it names none.

    UserError if it has no valid table of categories.
    """
    _finish_interrupted(folder)
    table = _record(folder).get("categories")
    if table is None:
        return None
    return build(RunSettings, {"data_dir": folder, "categories": table}, str(folder / "dataset.yaml")).categories


def split_method(folder: Path) -> tuple[Literal["random", "blocks"], float | None]:
    """Return the split method of the folder's `dataset.yaml`, and the side of the blocks, degrees, or None.

    UserError if it was split by blocks of no possible size.
    """
    facts = split_record(folder)
    if facts.get("method") != "blocks":
        return "random", None
    side = facts.get("block_size")
    if not isinstance(side, int | float) or isinstance(side, bool) or not 1e-5 <= side <= 180:
        raise UserError(f"{folder / 'dataset.yaml'}: block_size of the split is {side!r}; a block is 0.00001 to 180 degrees wide")
    return "blocks", float(side)


def split_record(folder: Path) -> dict[str, Any]:
    """Return how a dataset was split, by its `dataset.yaml`; {} if that is not said."""
    facts = _record(folder).get("split")
    return facts if isinstance(facts, dict) else {}


def splits_of(folder: Path, names: Sequence[str] = SPLITS) -> list[str]:
    """Return those of some splits that a dataset has: all but "test", if it was made without (`prepare --test_share 0`)."""
    return [name for name in names if name != "test" or split_record(folder).get("test") != 0]


def read_samples(
    path: Path, target: str, target_needed: bool = True, limits: tuple[float, float] = (0.0, SOC_MAXIMUM)
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read a sample table (CSV with profile_id, lon, lat in degrees and the target) and check every value; return it and y (N,).

    Ids are text. Unless the target is needed, its column or single values may be missing (profiles to predict). UserError for a
    missing column; duplicate ids; coordinates that are no numbers, out of range, or swapped; a target that is text, missing, or
    beyond the limits, the least and the largest possible in its unit.
    """
    table = read_table(path, ("profile_id", "lon", "lat", *((target,) if target_needed else ())))
    if table.empty:
        raise UserError(f"{path}: no profiles, only a header")
    return check_samples(table, path, target, target_needed, limits)


def check_samples(
    table: pd.DataFrame, path: Path, target: str, target_needed: bool = True, limits: tuple[float, float] = (0.0, SOC_MAXIMUM)
) -> tuple[pd.DataFrame, np.ndarray]:
    """Check a table as `read_samples` does; `path` is named in errors."""
    ids = ["" if pd.isna(value) else profile_key(value) for value in table["profile_id"]]
    table["profile_id"] = ids
    double = table["profile_id"].duplicated().to_numpy()
    if double.any():
        raise UserError(f"{path}: profile_id must be unique; repeated: {_first(double, ids, ids)}")
    if "" in ids:
        raise UserError(f"{path}: profile_id is empty in row {ids.index('') + 2}")
    numbers: dict[str, np.ndarray] = {}
    for name in ("lon", "lat", target):
        if name not in table.columns:
            numbers[name] = np.full(len(table), np.nan)
            continue
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        wrong = ~np.isfinite(values)
        if name == target and not target_needed:
            wrong &= table[name].notna().to_numpy()
        if wrong.any():
            raise UserError(f"{path}: {name} must be a number; not so in {_first(wrong, table[name].tolist(), ids)}")
        numbers[name] = values
    _check_coordinates(path, numbers["lon"], numbers["lat"], ids)
    y = numbers[target]
    least, most = limits
    impossible = (y < least) | (y > most)
    if impossible.any():
        unit = " (SOC is in g/kg)" if most == SOC_MAXIMUM else ""
        found = _first(impossible, y.tolist(), ids)
        raise UserError(f"{path}: {target} must lie between {least:g} and {most:g}{unit}; not so in {found}")
    return table.assign(lon=numbers["lon"], lat=numbers["lat"]), y


def _first(bad: np.ndarray, values: Sequence[Any], ids: Sequence[str]) -> str:
    k = int(np.flatnonzero(bad)[0])
    return f"{int(bad.sum())} of {len(bad)}, first {values[k]!r} at profile {ids[k]!r}"


def _check_coordinates(path: Path, lon: np.ndarray, lat: np.ndarray, ids: Sequence[str]) -> None:
    wrong = (np.abs(lon) > 180) | (np.abs(lat) > 90)
    if wrong.any():
        swapped = not ((np.abs(lat) > 180) | (np.abs(lon) > 90)).any()
        found = _first(wrong, list(zip(lon.tolist(), lat.tolist(), strict=True)), ids)
        advice = "; lon and lat look swapped" if swapped else ""
        raise UserError(f"{path}: lon must lie in -180..180 and lat in -90..90; not so in {found}{advice}")


def read_split(folder: Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the split files and return row numbers into `ids`.

    UserError for a missing file or column, an empty split, an id not among `ids`, or a profile in two splits.
    """
    row = {name: k for k, name in enumerate(ids)}
    split: dict[str, np.ndarray] = {}
    seen: dict[str, str] = {}
    for name in names:
        path = folder / f"{name}.csv"
        members = [profile_key(value) for value in read_table(path, ("profile_id",))["profile_id"]]
        if not members:
            raise UserError(f"{path}: the {name} split is empty")
        unknown = [member for member in members if member not in row]
        if unknown:
            raise UserError(f"{path}: {len(unknown)} of {len(members)} ids are not in the sample table, first {unknown[0]!r}")
        for member in members:
            if member in seen:
                other = seen[member]
                raise UserError(f"{path}: profile {member!r} is already in the {other} split; splits must not share profiles")
            seen[member] = name
        split[name] = np.array([row[member] for member in members])
    return split


def read_statistics(path: Path, categories: Sequence[Category]) -> Statistics:
    """Read means and standard deviations of all numeric variables.

    UserError if a variable has no row or several, or a number is not finite or a deviation not positive.
    """
    table = read_table(path, ("var_name", "v_mean", "v_std"), text=("var_name",))
    statistics: Statistics = {}
    for name in (v for category in categories if category.kind == "numeric" for v in category.variables):
        rows = table[table["var_name"].str.strip() == name]
        if len(rows) != 1:
            raise UserError(f"{path}: {len(rows)} rows for variable {name!r}, one is needed")
        mean, std = (pd.to_numeric(rows[column], errors="coerce").iloc[0] for column in ("v_mean", "v_std"))
        if not (abs(mean) < 1e30 and 1e-30 < std < 1e30):  # also as float32, and NaN fails
            raise UserError(f"{path}: variable {name!r} has mean {mean:g} and deviation {std:g}; the deviation must be above 0")
        statistics[name] = (float(mean), float(std))
    return statistics


# --- writing ---------------------------------------------------------------------------------------------------------


def compute_statistics(patches: Mapping[str, np.ndarray], rows: np.ndarray) -> pd.DataFrame:
    """Return each variable's mean and population standard deviation over all cells of the patches (N, S, S) of some profiles (N,).

    Those profiles are the training split. UserError if a variable is constant or all missing there: it cannot be standardised.

    >>> compute_statistics({"slope": np.array([[[1.0]], [[3.0]], [[99.0]]])}, np.array([True, True, False]))
      var_name  v_mean  v_std
    0    slope     2.0    1.0
    """
    table = []
    for name, patch in patches.items():
        cells = patch[rows].astype(np.float64)
        cells = cells[np.isfinite(cells)]
        if cells.size == 0 or cells.std() == 0:
            what = "missing everywhere" if cells.size == 0 else f"constant ({cells[0]:g})"
            raise UserError(f"variable {name!r} is {what} over the {int(rows.sum())} training profiles; leave it out")
        table.append((name, cells.mean(), cells.std()))
    return pd.DataFrame(table, columns=["var_name", "v_mean", "v_std"])


def write_dataset(
    folder: Path,
    samples: pd.DataFrame,
    patches: Mapping[str, np.ndarray],
    split: np.ndarray | None,
    categories: Sequence[Category],
    facts: Mapping[str, Any],
    statistics: pd.DataFrame | None = None,
    further: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write a dataset folder in the default layout, all files of it or none (`files.file_set`).

    The files of an earlier dataset in it are replaced, others are not touched. `split` is (N,) text: "train", "valid" or "test";
    None: places to predict, without split and statistics. `facts` are the provenance: rasters, CRS, cell size, counts, checksums.
    Statistics are by default computed from the training profiles; variables of kind "classes" have none. `further` tables by file
    name are written beside the others.

    UserError if a split is empty, a variable is constant or all missing or its name cannot be a file's, or a file would replace one
    that is not of an earlier dataset; then nothing is written.
    """
    splits = [name for name in SPLITS if split is not None and (split == name).any()]
    if split is not None:
        for name in SPLITS:
            if name not in splits and (name != "test" or (facts.get("split") or {}).get("test_share") != 0):
                raise UserError(f"{folder}: the {name} split would be empty ({len(samples)} profiles); use more profiles")
        if statistics is None:
            numeric = [v for c in categories if c.kind == "numeric" for v in c.variables]
            statistics = compute_statistics({v: patches[v] for v in numeric}, split == "train")
    ids = samples["profile_id"].astype(str).tolist()
    names = [name for category in categories for name in category.variables]
    if bad := [name for name in names if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|\0\n')]:
        raise UserError(f"variable {bad[0]!r}: cannot be the name of a file of patches; rename the band")
    counts = {} if split is None else {"split": {name: int((split == name).sum()) for name in SPLITS}}
    table = [category.model_dump(mode="json") for category in categories]
    record = {"version": __version__, "profiles": len(samples), **counts, "categories": table, **facts}
    with file_set(folder, earlier_files(folder)) as new:
        for name in progress(names, "patches", len(names)):
            dump_pickle(new / "patches" / f"{name}.pkl", dict(zip(ids, patches[name].astype(np.float32), strict=True)))
        write_table(new / "samples.csv", samples)
        for name, rows in (further or {}).items():
            write_table(new / name, rows)
        if split is not None and statistics is not None:
            write_table(new / "stats.csv", statistics)
            for name in splits:
                write_table(new / "split" / f"{name}.csv", samples.loc[split == name, ["profile_id"]])
        write_yaml(new / "dataset.yaml", record)


def _file_names(variables: Iterable[str]) -> list[str]:
    """Return the paths of the files of a dataset, relative to its folder."""
    tables = ["dataset.yaml", "samples.csv", "stats.csv", "rejected.csv", *(f"split/{name}.csv" for name in SPLITS)]
    return tables + [f"patches/{name}.pkl" for name in variables]


def check_free(folder: Path, categories: Sequence[Category]) -> None:
    """Raise UserError if a dataset would replace a file in a folder that is not of an earlier dataset there."""
    names, earlier = _file_names(name for category in categories for name in category.variables), earlier_files(folder)
    if foreign := next((name for name in names if name not in earlier and os.path.lexists(folder / name)), None):
        raise UserError(f"{folder / foreign}: is there, and is not of an earlier run; move it, or choose another folder")


def earlier_files(folder: Path) -> set[str]:
    """Return the paths, relative to a folder, of the files of a dataset that was written into it; none if there was none."""
    try:
        facts = _record(folder)
    except UserError:
        return set()
    if not {"version", "profiles", "categories"} <= facts.keys():
        return set()
    groups = [group.get("variables") for group in facts["categories"] or () if isinstance(group, dict)]
    return set(_file_names(name for group in groups if isinstance(group, list) for name in group))
