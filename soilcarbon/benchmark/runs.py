"""Runs of a comparison by cross-validation: executed side by side within a limit of computing time, kept, and resumed.

In: a `CrossValidation`, whose subclasses say which profiles, folds and methods, and the `Plan` of its runs. Out, in its folder:
folds/, and runs/ with a CSV per run of what its methods predict of the profiles held out, its checksum, and the computing time it
took; `held_out` reads them. An interrupted comparison resumes where it was, and makes again what was changed.
"""

import math
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # a dependency of scikit-learn
from tqdm import tqdm

from soilcarbon.benchmark.methods import Method
from soilcarbon.io.files import UserError, nearest, read_yaml, write_table, write_text, write_yaml
from soilcarbon.io.resumption import is_sealed, seal
from soilcarbon.io.tables import read_table
from soilcarbon.parallel import worker_pool
from soilcarbon.progress import quiet_training
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.spatial_cv import make_folds, sample_cell_centres

_MAP_PLACES = 2000  # places of the map from which kNNDM measures distances

# --- folds that are kept, and places of a map ----------------------------------------------------------------------------------


class Folds(NamedTuple):
    """Folds (N,) and facts of them."""

    folds: np.ndarray
    facts: dict[str, Any]

    @property
    def block_size(self) -> float | None:
        """Side of their blocks, degrees; None: places, or single profiles."""
        return self.facts.get("block_size")


def kept_folds(path: Path, ids: Sequence[str], draw: Callable[[], tuple[np.ndarray, dict[str, Any]]]) -> Folds:
    """Return the folds of a file and the YAML file beside it, which are written with those drawn if not there as they were left."""
    record = path.with_suffix(".yaml")
    if not is_sealed(path, record):
        folds, facts = draw()
        write_yaml(record, facts)
        write_table(path, pd.DataFrame({"profile_id": ids, "fold": folds}))
        seal(path)
        seal(record)
        return Folds(folds, facts)
    table = read_table(path, ("profile_id", "fold"))
    if table["profile_id"].tolist() != list(ids):
        raise UserError(f"{path}: is of other profiles; give another --out")
    return Folds(table["fold"].astype(np.int64).to_numpy(), read_yaml(record))


def places_on(
    land: Path | None, nodata: Mapping[str, tuple[float, ...]], data: Dataset, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw prediction places of the map within the bounding box of a region's profiles."""
    if land is None:
        raise UserError(
            "strategies: knndm needs the area of the map; give --land, a raster that is above 0 there, such as elevation"
        )
    from rasterio.errors import WindowError  # here and below: no other strategy needs them
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    from soilcarbon.geo.plausibility import ask_about_fill_values
    from soilcarbon.geo.raster import find_layers, missing_cells, named_errors, open_raster

    layers = find_layers([land], nodata)[:1]
    ask_about_fill_values(layers)
    with ExitStack() as opened, named_errors(land):
        raster = opened.enter_context(open_raster(land))
        if raster.crs is None:
            raise UserError(f"{land}: has no coordinate reference system; give one to it")
        if not raster.crs.is_geographic:
            raster = opened.enter_context(WarpedVRT(raster, crs="EPSG:4326"))  # of the nearest cells
        window = raster.window(data.lon.min(), data.lat.min(), data.lon.max(), data.lat.max()).round_offsets().round_lengths()
        try:
            window = window.intersection(Window(0, 0, raster.width, raster.height))
        except WindowError:
            raise UserError(f"{land}: does not reach the region's profiles") from None
        cells, transform = raster.read(1, window=window, masked=True).filled(0), raster.window_transform(window)
        missing = missing_cells(cells, layers[0].missing or ())
        here = (cells > 0) & (True if missing is None else ~missing)
    lon = transform.c + transform.a * (np.arange(here.shape[1]) + 0.5)
    lat = transform.f + transform.e * (np.arange(here.shape[0]) + 0.5)
    return sample_cell_centres(here, lon, lat, _MAP_PLACES, seed)


# --- the design ---------------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run: a fold held out, and methods that are trained on the same other profiles and predict those held out."""

    strategy: str
    fold: int
    methods: tuple[str, ...]
    repeat: int = 0  # draw of the folds
    region: str = ""  # "" in a comparison on one dataset
    size: int = 0  # training profiles, drawn at random; 0: all that are not held out
    draw: int = 0  # which of these draws
    curve: bool = False  # whether it is of a learning curve

    @property
    def name(self) -> str:
        """Name of the run's files."""
        if not self.region:
            return f"{self.strategy}-{self.repeat}-{self.fold}-{self.methods[0]}"
        return f"{self.region}-{self.strategy}-{self.fold}-{self.size or 'all'}" + (f"-{self.draw}" if self.curve else "")


@dataclass(frozen=True, kw_only=True)
class CrossValidation(ABC):
    """Design of a comparison by cross-validation; a subclass says which profiles, folds and methods."""

    kept: ClassVar[tuple[str, ...]] = ("runs", "folds")  # folders of what is finished, by which a comparison is resumed
    may_change: ClassVar[tuple[str, ...]] = ("workers", "out")  # settings that may differ when it is resumed
    may_fail: ClassVar[bool] = False  # whether a method that cannot be fitted is left out; else it ends the comparison

    out: Path  # folder of folds, runs and results
    known: Mapping[str, Method] = field(compare=False)  # methods by key, in the order of tables
    methods: tuple[str, ...]  # keys of those compared, under the last strategy at least
    strategies: tuple[str, ...]  # keys of `spatial_cv.STRATEGIES`; the verdict is based on the last
    folds: int = 5  # of each strategy
    block_size: float | None = None  # side of blocks, degrees; None: the dataset's, or the range of residuals
    land: Path | None = None  # raster that is above 0 where the map will be, for kNNDM
    nodata: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)  # of that raster, as `parse_nodata` has it
    workers: int = 0  # processes; 0: one per core
    seed: int = 314  # of folds and methods

    def check_methods(self, names: Sequence[str]) -> None:
        """Raise UserError if a method is not known."""
        for name in names:
            if name not in self.known:
                raise UserError(f"method {name!r} is not known{nearest(name, list(self.known))}; there are {', '.join(self.known)}")

    @abstractmethod
    def profiles_of(self, region: str) -> tuple[Dataset, np.ndarray]:
        """Return a region's dataset, and the rows of the profiles that are used."""

    @abstractmethod
    def divide(self, run: Run) -> Any:
        """Return the profiles for training and those held out, as the methods take them."""

    def draw_folds(self, region: str, strategy: str, repeat: int, most: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw folds (`most`, if they are fewer than asked for) and return them with facts; UserError if there are none."""
        data, rows = self.profiles_of(region)
        seed, more = self.seed + repeat, dict[str, Any]()
        if strategy == "blocks":
            more["block_size"] = data.block_size
        elif strategy == "knndm":
            more["prediction_points"] = places_on(self.land, self.nodata, data, seed)
        try:
            return make_folds(strategy, data.lon[rows], data.lat[rows], most or self.folds, seed, **more)
        except ValueError as error:
            where = f"{region}: " if region else ""
            raise UserError(f"{where}no folds by {strategy}: {error}; give fewer --folds, or other --strategies") from error

    def folds_for(self, strategy: str, repeat: int = 0, region: str = "") -> Folds:
        """Return the folds of the profiles used, from the folder if they are there as they were left."""
        data, rows = self.profiles_of(region)
        path = self.out / "folds" / (f"{region}-{strategy}.csv" if region else f"{strategy}-{repeat}.csv")
        return kept_folds(path, [data.ids[k] for k in rows], partial(self.draw_folds, region, strategy, repeat))

    def split(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Return the places, among the rows used, of the profiles for training and of those held out."""
        folds = self.folds_for(run.strategy, run.repeat, run.region).folds
        train = np.flatnonzero(folds != run.fold)
        if run.size:
            train = np.random.default_rng([self.seed, run.fold, run.draw]).permutation(train)[: run.size]
        return train, np.flatnonzero(folds == run.fold)

    def run_path(self, run: Run) -> Path:
        """Return the file of a run's predictions."""
        return self.out / "runs" / f"{run.name}.csv"


# --- one run ------------------------------------------------------------------------------------------------------------------


def execute(design: CrossValidation, run: Run) -> tuple[float, str]:
    """Execute a run: write its predictions; return its computing time, s, and why it failed, or ""."""
    table, division = _held_out(design, run), design.divide(run)
    torch.set_num_threads(1)  # as in the processes of a pool: bits depend on it
    begin, columns = time.process_time(), dict[str, np.ndarray]()
    try:
        with threadpool_limits(1), quiet_training():
            for key in run.methods:
                columns |= design.known[key].columns(key, division, columns)
        if not all(columns[key].shape == (len(table),) and np.isfinite(columns[key]).all() for key in run.methods):
            raise ValueError("its predictions are not finite")
    except (ValueError, UserError, ArithmeticError, np.linalg.LinAlgError) as error:  # of a fold: too few profiles, diverged
        return time.process_time() - begin, str(error).partition("\n")[0] or type(error).__name__
    seconds, path = time.process_time() - begin, design.run_path(run)
    write_text(path.with_suffix(".seconds"), f"{seconds:.4f}\n")
    write_table(path, table.assign(**columns))
    seal(path)
    return seconds, ""


def _held_out(design: CrossValidation, run: Run) -> pd.DataFrame:
    """Return the profiles that a run holds out."""
    data, rows = design.profiles_of(run.region)
    train, test = design.split(run)
    at = rows[test]
    table = pd.DataFrame({"profile_id": np.array(data.ids)[at], "lon": data.lon[at], "lat": data.lat[at]}, index=test)
    return table.assign(observed=np.asarray(data.y, np.float64)[at], n_train=len(train))


def held_out(design: CrossValidation, runs: Sequence[Run], groups: Mapping[str, np.ndarray]) -> Iterator[tuple[Run, pd.DataFrame]]:
    """Yield the predictions of each fold, by all its runs: the run of all methods, and a table.

    Its rows are numbered as the profiles used; it has profile_id, lon, lat, observed, n_train, group, repeat, fold, and what every
    method predicts, a column each. `groups` are region -> the group (N,) of each profile used, of which intervals are resampled.
    """
    folds: dict[Run, list[Run]] = {}
    for run in runs:
        folds.setdefault(run._replace(methods=()), []).append(run)
    for fold, same in folds.items():
        table = _held_out(design, fold)
        table = table.assign(group=groups[fold.region][table.index], repeat=fold.repeat, fold=fold.fold)
        for run in same:
            path = design.run_path(run)
            found = read_table(path, ("profile_id",)).rename(columns={"predicted": run.methods[0]})  # as an older version wrote it
            if found.pop("profile_id").tolist() != table["profile_id"].tolist():
                raise UserError(f"{path}: is of other profiles; give another --out")
            new = [name for name in found if name not in table]
            table[new] = found[new].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        yield fold._replace(methods=tuple(key for run in same for key in run.methods)), table


# --- all runs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Runs in the order in which they are begun, and what they may cost."""

    runs: tuple[Run, ...]
    seconds: Mapping[Run, float] = field(default_factory=dict)  # expected, on one core; of those not there: all alike
    reference: tuple[Run, ...] = ()  # those whose time is the unit of the limit
    limit: float = math.inf
    always: tuple[str, ...] = ()  # methods that are begun whatever the time


class Ledger:
    """Computing time that runs took, which of them are done, and which methods are not continued."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seconds: dict[Run, float] = {}
        self.done: set[Run] = set()
        self.failed: dict[str, str] = {}  # method -> why it cannot be fitted
        self.stopped: set[tuple[int, str]] = set()  # repeat and method that would have gone beyond the limit

    @property
    def reference(self) -> float | None:
        """Time of the reference's runs; None before they are done."""
        return sum(self.seconds[run] for run in self.plan.reference) if self.done.issuperset(self.plan.reference) else None

    @property
    def ratio(self) -> float:
        """Time of all runs, as a multiple of the reference's."""
        return sum(self.seconds.values()) / (self.reference or 1e-9)

    def note(self, run: Run, seconds: float, error: str) -> None:
        """Enter a run."""
        self.seconds[run] = seconds
        if error:
            self.failed.setdefault(run.methods[0], error)
        else:
            self.done.add(run)

    def affords(self, run: Run, running: Sequence[Run]) -> bool:
        """Return whether a run is to be begun, beside those running: its method has not failed, and its time is left."""
        method, reference, planned = run.methods[0], self.reference, self.plan.seconds
        if method in self.failed or (run.repeat, method) in self.stopped:
            return False
        if reference is None or math.isinf(self.plan.limit) or (method in self.plan.always and not run.repeat):
            return True
        scale = reference / sum(planned[each] for each in self.plan.reference)
        ahead = sum(self._expected(each, scale) for each in (run, *running))
        if sum(self.seconds.values()) + ahead <= self.plan.limit * reference:
            return True
        self.stopped.add((run.repeat, method))
        return False

    def _expected(self, run: Run, scale: float) -> float:
        alike = [seconds for each, seconds in self.seconds.items() if each.methods == run.methods]
        return sum(alike) / len(alike) if alike else scale * self.plan.seconds[run]


def execute_all(design: CrossValidation, plan: Plan) -> Ledger:
    """Execute the runs that are not there, within the limit, on several processes, with a bar that shows the time left."""
    ledger, waiting, running = Ledger(plan), deque(plan.runs), dict[Future[tuple[float, str]], Run]()
    cores = design.workers or os.cpu_count() or 1
    form = "{l_bar}{bar}| [{elapsed}, {remaining} left]"
    pools: Any = nullcontext(None) if cores == 1 else worker_pool(cores)
    total = sum(plan.seconds.get(run, 1.0) for run in plan.runs)
    bar = tqdm(total=total, desc="cross-validation", disable=None, leave=False, bar_format=form)

    def note(run: Run, seconds: float, error: str) -> None:
        if error and not design.may_fail:
            raise UserError(f"run {run.name}: {error}")
        ledger.note(run, seconds, error)

    def begin(run: Run, pool: Executor | None) -> None:
        path = design.run_path(run)
        if is_sealed(path):
            note(run, _seconds_of(path), "")
        elif ledger.affords(run, list(running.values())):
            if pool is not None:
                running[pool.submit(execute, design, run)] = run
                return
            note(run, *execute(design, run))
        bar.update(plan.seconds.get(run, 1.0))

    with bar, pools as pool:
        while waiting or running:
            while waiting and len(running) < cores:
                begin(waiting.popleft(), pool)
            for each in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                run = running.pop(each)
                note(run, *each.result())
                bar.update(plan.seconds.get(run, 1.0))
    return ledger


def _seconds_of(path: Path) -> float:
    try:
        return max(float(path.with_suffix(".seconds").read_text(encoding="utf-8")), 0.0)
    except (OSError, ValueError):
        return 0.0
