"""Trials of a comparison: one region, one fold held out, so many profiles to learn from, every method on the same ones.

In: settings, datasets, folds. Out: a folder of finished trials, one CSV each with what every method predicts of the profiles held
out, written whole or not at all, so that an interrupted comparison goes on where it was.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

import engine
from baselines import BASELINES, held_out_predictions, tune
from config import CompareSettings, GlobalSettings, RegionalSettings, RunSettings, build, from_yaml
from contenders import BEST, CONTENDERS, STACK, Case, plain_settings, predict, stack, train_network
from encoding import unfold_classes
from files import UserError, read_table, write_table
from folds import make_folds, read_folds, save_folds
from forests import Forest, QuantileForest
from grouping import inner_folds
from knndm import draw_places
from lessons import elsewhere, fold_units
from methods import Known
from models import SoilCarbonNet, load_checkpoint, save_checkpoint
from processes import start_worker
from training import compute_statistics, learn, new_specification
from utils import Dataset, middle_cells, read_dataset

log = logging.getLogger(__name__)
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of intervals."""
INTERVALS = {BEST: BEST, "quantile_forest": "quantile_forest", "quantile_forest_calibrated": "quantile_forest"}
"""What gives intervals -> the method whose prediction they go with."""
PEEKED, HONEST = "peeked", "tuned"
"""The fine-tuned network whose epoch the held-out profiles choose, and the one whose epoch they do not."""
PLACES = 2000
"""Of the map, that kNNDM measures distances from."""


class Trial(BaseModel):
    """One trial; `size` 0 stands for all profiles there are to learn from; those of learning curves are `curve`."""

    model_config = ConfigDict(frozen=True)
    region: str
    way: str
    fold: int
    size: int = 0
    repeat: int = 0
    curve: bool = False
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.region}-{self.way}-{self.fold}-{self.size or 'all'}" + (f"-{self.repeat}" if self.curve else "")


class Stage(NamedTuple):
    """What a process keeps between trials."""

    regional: RegionalSettings
    world: Dataset
    regions: dict[str, Dataset]


@lru_cache(maxsize=1)
def stage(settings: str) -> Stage:
    """Read all datasets, by the settings as JSON; processes of a pool read them once."""
    wanted = CompareSettings.model_validate_json(settings)
    network = load_checkpoint(wanted.pretrained)
    values = from_yaml(RegionalSettings, wanted.regional)
    values |= {"data_dir": wanted.global_data, "init_from": wanted.pretrained, "seed": wanted.seed}
    values |= {"tensorboard": False, "device": "cpu"}
    if values.get("teacher", "none") != "none":
        values["global_data"] = wanted.global_data
    regional = build(RegionalSettings, values, str(wanted.regional))

    def read(folder: Path, splits: Sequence[str]) -> Dataset:
        where = build(RunSettings, {"data_dir": folder, "target": network.specification.target})
        return read_dataset(where, network.specification.categories, splits)

    regions = {folder.name: _in_blocks(read(folder, ()), wanted) for folder in wanted.regions}
    return Stage(regional, read(wanted.global_data, ("train", "valid")), regions)


# --- folds and pretraining ---------------------------------------------------------------------------------------------


def folds_of(settings: CompareSettings, region: str, data: Dataset, way: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a region's folds (N,) in one way and what they are, from the folder if they were drawn before."""
    path = settings.out / "folds" / f"{region}-{way}.csv"
    if path.is_file():
        return read_folds(path, data.ids)
    try:
        more: dict[str, Any] = {"side": data.block_size} if way == "blocks" else {}
        if way == "knndm":
            more["places"] = _places_on(settings.land, data, settings.seed)
        folds, facts = make_folds(way, data.lon, data.lat, settings.folds, settings.seed, **more)
    except ValueError as error:
        raise UserError(f"{region}: no folds by {way}: {error}") from error
    save_folds(path, data.ids, folds, facts)
    return folds, facts


def _in_blocks(data: Dataset, settings: CompareSettings) -> Dataset:
    """Return a region whose blocks have the side that is asked for, its own, or that of its residuals' variogram.

    One side serves folds, inner folds, calibration, resampling, and what of the world is left out.
    """
    side = settings.block_size or data.block_size
    if side is None and "blocks" in settings.ways:
        known = Known(data.x, data.y, data.lon, data.lat, fold_units(data))
        folds = inner_folds(known.units, 5, settings.seed)
        predicted = held_out_predictions(lambda: Forest(log=True, trees=100), known, folds, settings.seed)
        _, facts = make_folds(
            "blocks", data.lon, data.lat, settings.folds, settings.seed, residuals=np.log1p(data.y) - np.log1p(predicted)
        )
        side = facts["side_degrees"]
    return replace(data, block_size=side)


def _places_on(land: Path | None, data: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw places of the map that a region's profiles span."""
    if land is None:
        raise UserError("ways: knndm needs to know where the map will be; give --land, a raster that is above 0 there")
    import rasterio  # here: no other way needs it
    from rasterio.errors import WindowError
    from rasterio.windows import Window

    with rasterio.open(land) as raster:
        if raster.crs is None or not raster.crs.is_geographic:
            raise UserError(f"{land}: must be in degrees (EPSG:4326)")
        window = raster.window(data.lon.min(), data.lat.min(), data.lon.max(), data.lat.max()).round_offsets().round_lengths()
        try:
            window = window.intersection(Window(0, 0, raster.width, raster.height))
        except WindowError:
            raise UserError(f"{land}: does not reach the region's profiles") from None
        here, transform = raster.read(1, window=window, masked=True).filled(0) > 0, raster.window_transform(window)
    lon = transform.c + transform.a * (np.arange(here.shape[1]) + 0.5)
    lat = transform.f + transform.e * (np.arange(here.shape[0]) + 0.5)
    return draw_places(here, lon, lat, PLACES, seed)


def pretrained_path(settings: CompareSettings, region: str) -> Path:
    """Return where the network pretrained without a region lies."""
    return settings.out / "pretrained" / f"{region}.pth"


def pretrain(settings: str, region: str) -> str:
    """Pretrain a network as the settings' checkpoint was, without any place of a region; return the region."""
    wanted, here = CompareSettings.model_validate_json(settings), stage(settings)
    torch.set_num_threads(1)
    first = load_checkpoint(wanted.pretrained)
    known = GlobalSettings.model_fields
    said = first.record.get("settings")
    if not isinstance(said, dict):
        raise UserError(f"{wanted.pretrained}: does not say how it was trained, so it cannot be trained again without {region}")
    values = {name: value for name, value in said.items() if name in known and value is not None}
    how = build(GlobalSettings, values | {"init_from": None, "tensorboard": False, "device": "cpu"}, str(wanted.pretrained))
    split = {
        name: elsewhere(replace(here.world, split={"train": here.world.split[name]}), here.regions[region])
        for name in ("train", "valid")
    }
    if not all(map(len, split.values())):
        raise UserError(f"{wanted.global_data}: without the places of {region} nothing is left to train on or validate with")
    data = replace(here.world, split=split)
    network = learn(
        SoilCarbonNet(new_specification(how, data, compute_statistics(data.x[split["train"]], data.categories))), data, how
    )
    save_checkpoint(network, pretrained_path(wanted, region))
    return region


# --- one trial -----------------------------------------------------------------------------------------------------


def run_trial(settings: str, trial: Trial) -> str:
    """Let every method predict a trial's profiles held out, and write the table; return the trial's name."""
    wanted, here = CompareSettings.model_validate_json(settings), stage(settings)
    torch.set_num_threads(1)
    data = here.regions[trial.region]
    folds, _ = folds_of(wanted, trial.region, data, trial.way)
    rows, test = np.flatnonzero(folds != trial.fold), np.flatnonzero(folds == trial.fold)
    if trial.size:
        rows = np.random.default_rng([wanted.seed, trial.fold, trial.repeat]).permutation(rows)[: trial.size]
    start = load_checkpoint(pretrained_path(wanted, trial.region))
    start.respecify(center=here.regional.center)  # as the forests of ln(1 + y): all aim at the median, or none
    case = Case(data, rows, test, start, here.world, here.regional)
    table = pd.DataFrame({"profile_id": np.array(data.ids)[test], "lon": data.lon[test], "lat": data.lat[test]})
    table = table.assign(observed=data.y[test], n_train=len(rows))
    columns: dict[str, np.ndarray] = {}
    for method in trial.methods:
        if method == BEST:
            columns |= _best(case)
        elif method == "quantile_forest" and not trial.curve:
            columns |= _quantile_forest(case)
        elif method == STACK:
            columns[method] = stack(case, columns)
        else:
            columns[method] = predict(method, case)
    if HONEST in trial.methods and not trial.curve:
        network = train_network(case, plain_settings(case.settings), choosing=test)
        columns[PEEKED] = engine.predict(network, data.x[test])[0]
    write_table(wanted.out / "trials" / f"{trial.name}.csv", table.assign(**columns))
    return trial.name


def _best(case: Case) -> dict[str, np.ndarray]:
    """Return the winner's prediction, its intervals, and how unlike its training profiles each profile is."""
    network, x = train_network(case, case.settings), case.region.x[case.test]
    predicted = engine.predict(network, x)[0]
    columns = {BEST: predicted}
    for level in LEVELS:
        if network.calibration is None or level > network.calibration.highest_level():
            continue
        columns |= dict(zip(ends(BEST, level), network.calibration.interval(predicted, None, level), strict=True))
    if network.applicability is not None:
        cells = unfold_classes(middle_cells(x, case.region.categories), network.specification)
        columns["di"] = network.applicability.index(cells)
        columns["inside"] = (columns["di"] <= network.applicability.threshold).astype(int)
    return columns


def _quantile_forest(case: Case) -> dict[str, np.ndarray]:
    """Return a quantile forest's median and intervals, as they are and conformalised (Romano et al. 2019), on ln(1 + y)."""
    known, test, seed = case.profiles.take(case.rows), case.profiles.take(case.test), case.settings.seed
    shares = np.array([(1 + sign * level) / 2 for level in LEVELS for sign in (-1, 1)])
    method, facts = tune("quantile_forest", known, seed, classes=case.classes)
    assert isinstance(method, QuantileForest)
    columns = {"quantile_forest": method.predict(test)}
    found, folds = method.quantiles(test, shares), inner_folds(known.units, 3, seed)
    held_out = np.empty((len(shares), len(known)))
    for fold in range(int(folds.max()) + 1):
        part = QuantileForest(**facts["settings"]).fit(known.take(folds != fold), seed)
        held_out[:, folds == fold] = part.quantiles(known.take(folds == fold), shares)
    for k, level in enumerate(LEVELS):
        lower, upper = np.log1p(found[2 * k : 2 * k + 2])
        columns |= dict(zip(ends("quantile_forest", level), (np.expm1(lower), np.expm1(upper)), strict=True))
        low, high = np.log1p(held_out[2 * k : 2 * k + 2])
        miss = np.maximum(low - np.log1p(known.y), np.log1p(known.y) - high)
        wider = np.quantile(miss, min(1.0, level * (len(miss) + 1) / len(miss)), method="higher")
        both = np.maximum(np.expm1(lower - wider), 0), np.expm1(np.maximum(upper + wider, lower - wider))
        columns |= dict(zip(ends("quantile_forest_calibrated", level), both, strict=True))
    return columns


def ends(method: str, level: float) -> tuple[str, str]:
    """Return the names of the columns that hold the ends of a method's interval."""
    return f"{method}_lower_{level:g}", f"{method}_upper_{level:g}"


# --- all trials ------------------------------------------------------------------------------------------------------


def plan_trials(settings: CompareSettings) -> list[Trial]:
    """Return all trials: every fold of every way with all profiles, then learning curves in the last way."""
    everything = (*BASELINES, *CONTENDERS)
    for name in [*settings.methods, *settings.few_methods, *settings.curve_methods]:
        if name not in everything:
            raise UserError(f"method {name!r}: expected one of {', '.join(everything)}")
    if not all(set(each or everything) & set(BASELINES) for each in (settings.methods, settings.few_methods)):
        raise UserError("methods: at least one baseline is needed to compare with: " + ", ".join(BASELINES))
    last = settings.ways[-1]
    methods = {way: tuple(settings.few_methods) for way in settings.ways} | {last: tuple(settings.methods) or everything}
    regions = [folder.name for folder in settings.regions]
    trials = [
        Trial(region=region, way=way, fold=fold, size=settings.profiles, methods=methods[way])
        for way in reversed(settings.ways)
        for fold in range(settings.folds)
        for region in regions
    ]
    chosen = tuple(settings.curve_methods)
    curves = [
        Trial(region=region, way=last, fold=fold, size=size, repeat=repeat, curve=True, methods=chosen)
        for repeat in range(settings.repeats)
        for fold in range(settings.folds)
        for size in settings.sizes
        for region in regions
        if size or not repeat  # all profiles are drawn one way
    ]
    return trials + curves


def run_all(settings: CompareSettings, trials: Sequence[Trial]) -> None:
    """Pretrain for every region, then run the trials that are not there, on several processes, with a progress bar."""
    text = settings.model_dump_json()
    waiting = [each for each in trials if not (settings.out / "trials" / f"{each.name}.csv").is_file()]
    regions = [
        region for region in dict.fromkeys(each.region for each in waiting) if not pretrained_path(settings, region).is_file()
    ]
    here = stage(text)
    for region, way in dict.fromkeys((each.region, each.way) for each in trials):
        folds_of(settings, region, here.regions[region], way)
    with _pool(settings.workers) as pool:
        try:
            for words, unit, submit in (
                ("pretraining", "region", lambda: [pool.submit(pretrain, text, region) for region in regions]),
                ("trials", "trial", lambda: [pool.submit(run_trial, text, each) for each in waiting]),
            ):
                running = submit()
                for each in tqdm(as_completed(running), words, len(running), unit=unit, disable=None):
                    each.result()
        except BrokenProcessPool as error:
            raise UserError("a process ended, of too little memory perhaps; go on with --resume, and fewer --workers") from error
        except BaseException:  # trials are written whole, so those under way may be cut off
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _pool(workers: int) -> ProcessPoolExecutor:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # processes side by side have a core each
        os.environ[name] = "1"
    return ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn"), start_worker)


def finished(settings: CompareSettings, trials: Sequence[Trial]) -> Iterator[tuple[Trial, pd.DataFrame]]:
    """Yield each trial with its table."""
    for trial in trials:
        path = settings.out / "trials" / f"{trial.name}.csv"
        table = read_table(path, ("profile_id", "lon", "lat", "observed", "n_train", *trial.methods))
        numbers = table.drop(columns="profile_id").apply(pd.to_numeric, errors="coerce")
        yield trial, numbers.assign(profile_id=table["profile_id"])
