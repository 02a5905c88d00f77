"""Tiles of a map, computed by threads, processes or a Dask cluster, and resumed after an interruption.

In: a `Plan`. Out: tiles in a folder beside the map, see `cog`.

A worker - a thread, a process, or a process on another machine - is given a tile's number. It reads the covariates of the tile
and its halo, predicts and writes the tile: nothing large travels between processes. While one tile is computed others are read
and written.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
import torch
from pydantic import BaseModel, ConfigDict

from soilcarbon.geo import zonal_statistics as zones
from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.raster import Layer
from soilcarbon.geo.resampling import Stack
from soilcarbon.geo.vector import Area, load_areas
from soilcarbon.geo.zonal_statistics import ZoneCells
from soilcarbon.io.files import UserError, sha256
from soilcarbon.mapping.aggregation import block_bands
from soilcarbon.mapping.areal import CHANGE, Place, estimation, with_ends
from soilcarbon.mapping.cog import GDAL_SETTINGS, Statistics, write_tile
from soilcarbon.mapping.native import natives_of, read_windows
from soilcarbon.mapping.plan import AREA, PLAN, WHOLE, ZONES, Plan, own_zone, stamps_of
from soilcarbon.mapping.predictor import Cells, Predicted, Predictor, dissimilarity
from soilcarbon.parallel import process_pool, start_worker
from soilcarbon.progress import Progress

log = logging.getLogger(__name__)
IN_FLIGHT = 2
"""Tiles submitted per worker: one is computed, the next waits."""
PATIENCE_S = 10
"""Timeout of the connection to a Dask scheduler."""


class Notes(BaseModel):
    """Sums and statistics of a tile, kept in its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    inside: int  # cells in the area of interest and not masked
    sums: dict[str, dict[str, zones.Sums]] = {}  # map -> zone -> sums
    statistics: list[Statistics] = []  # of each band
    # period -> cells with a value where some variable was missing and filled, and in how many each variable was
    filled: dict[str, tuple[int, list[int]]] = {}
    # period -> cells with a value, and those of them outside the area of applicability, or of which that is not known
    valued: dict[str, tuple[int, int]] = {}


def open_predictor(
    path: Path, device: str = "cpu", stats: dict[str, tuple[float, float]] | None = None, missing: str | None = None
) -> Predictor:
    """Open a model's file, untrusted: a fitted model, forests by climate zone, or a network's checkpoint, by its content.

    `device` ("cpu" or "cuda") is of a network; `stats` and `missing` are for a checkpoint without statistics.
    """
    from soilcarbon.regression.archive import is_archive, kind_of

    if is_archive(path):
        from soilcarbon.mapping.fitted import FittedPredictor  # scikit-learn is slow to import, and so is torch
        from soilcarbon.mapping.forest import ForestPredictor

        return FittedPredictor(path) if kind_of(path) == "fitted" else ForestPredictor(path)
    from soilcarbon.mapping.network import NetworkPredictor

    return NetworkPredictor(path, device, stats, missing)


def open_planned(plan: Plan) -> Predictor:
    """Load the plan's model; UserError if it is not the one the plan was made with."""
    if not plan.checkpoint.is_file() or sha256(plan.checkpoint) != plan.sha256:
        raise UserError(f"{plan.checkpoint}: is not the checkpoint this map was begun with; run without --resume")
    return open_predictor(plan.checkpoint, plan.device, plan.statistics, plan.missing)


# --- one tile ----------------------------------------------------------------------------------------------------------


class _Open(threading.local):
    """Open rasters of a thread, by their layers and grid."""

    def __init__(self) -> None:
        self.stacks: dict[tuple[tuple[Layer, ...], Grid], Stack] = {}


class _Worker:
    """State of a process between tiles: model, areas, and per thread the open rasters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = Plan.model_validate_json((folder / PLAN).read_text(encoding="utf-8"))
        if stamps_of(self.plan.stamps) != self.plan.stamps:
            raise UserError("a raster has changed since this map was begun; run without --resume")
        torch.set_num_threads(1)  # tiles are computed side by side, and the same arithmetic gives the same bits
        self.model = open_planned(self.plan)
        self.area = load_areas(folder / AREA) if AREA in self.plan.areas else None
        self.zones = load_areas(folder / ZONES) if ZONES in self.plan.areas else []
        periods = [name for name, _ in self.plan.periods]
        level, shared = self.plan.level, self.plan.shared
        self.how = {name: estimation(self.model.errors, periods, name, level, shared) for name in self.plan.maps}
        self.lock = threading.Lock()
        self._here = _Open()
        self._natives = {
            name: natives_of(self.model.windows, [self.plan.layers[n] for n in numbers], self.plan.grid, self.model.trained_cells)
            for name, numbers in self.plan.periods
        }

    def stack(self, layers: tuple[Layer, ...], grid: Grid, nearest: Collection[str] = ()) -> Stack:
        """Return this thread's open rasters of some layers, brought to a grid."""
        if (layers, grid) not in self._here.stacks:
            self._here.stacks[layers, grid] = Stack(layers, grid, nearest, self.plan.resampling)
        return self._here.stacks[layers, grid]

    def inside(self, tile: Tile) -> np.ndarray:
        """Return which cells (h, w) of a tile are in the area of interest and not masked."""
        found = np.ones((tile.height, tile.width), bool)
        if self.area is not None:
            found &= zones.inside(self.area, self.plan.grid, tile)
        if (mask := self.plan.mask) is not None and found.any():
            found &= self.stack((mask,), self.plan.grid, [mask.name]).read(tile.row, tile.col, tile.height, tile.width)[0] > 0
        return found

    def compute(self, tile: Tile) -> tuple[np.ndarray | None, Notes]:
        """Return a tile's bands (B, h, w), or None where no cell has a value, and its notes."""
        plan = self.plan
        inside = self.inside(tile)
        count = int(inside.sum())
        if not count:  # the covariates need not be read
            return None, Notes(inside=0)
        halo, covariates = self.model.halo, self.stack(plan.layers, plan.grid, self.model.classes)
        block = covariates.read(tile.row - halo, tile.col - halo, tile.height + 2 * halo, tile.width + 2 * halo)
        middle = block[:, halo : halo + tile.height, halo : halo + tile.width]
        missing = np.isnan(middle)
        maps: dict[str, Predicted] = {}
        unlike: dict[str, np.ndarray] = {}
        filled: dict[str, tuple[int, list[int]]] = {}
        for name, numbers in plan.periods:
            gaps = missing[list(numbers)]
            wanted = inside & (gaps.mean(0) <= plan.max_missing)
            own = self._natives[name].items()
            native = {k: read_windows(each, self.stack(each.layers, each.grid), plan.grid, tile) for k, each in own}
            with self.lock:  # one tile computes while others are read and written
                maps[name] = self.model.predict(block[list(numbers)], wanted, Cells(plan.grid, tile, native))
                wanted = np.isfinite(maps[name].members[0])  # forests need a climate
                if plan.applicability:
                    unlike[name] = dissimilarity(self.model, middle[list(numbers)], wanted)
            gaps &= wanted
            filled[name] = int(gaps.any(0).sum()), gaps.sum((1, 2)).tolist()
        if not any(np.isfinite(each.members[0]).any() for each in maps.values()):
            return None, Notes(inside=count)
        outside = {name: each[1] != 1 for name, each in unlike.items()}
        left_out = outside if plan.inside_only else {}
        place = place_of(self.model, plan.grid, tile, self.zones, maps, left_out)
        shown = self._shown(place, maps)
        sums = zone_sums(self.model, place, maps, shown)
        blocks = self._blocks(place, maps, shown, left_out) if plan.aggregate else []
        found = (each for name in plan.maps for each in (shown[name], unlike.get(name)) if each is not None)
        bands = np.concatenate([*found, *blocks])
        notes = {
            "inside": count,
            "sums": sums,
            "statistics": [Statistics.of(band) for band in bands],
            "filled": filled,
            "valued": {name: _valued(each, outside.get(name)) for name, each in maps.items()},
        }
        return bands, Notes.model_validate(notes)

    def _shown(self, place: Place, maps: dict[str, Predicted]) -> dict[str, np.ndarray]:
        """Return the bands (B, h, w) of each map, and of the change if there are several."""
        shown = {name: self.model.bands(each, self.plan.level) for name, each in maps.items()}
        if len(maps) > 1:
            shown[CHANGE] = self.model.change(place, maps, self.plan.level)
        return shown

    def _blocks(
        self, place: Place, maps: dict[str, Predicted], shown: dict[str, np.ndarray], left_out: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Return of each map the bands (B, h, w) of means of blocks, in the upper left corner: a block lies in one tile."""
        blocks = ZoneCells.blocks(_kept(place.tile, left_out), self.plan.aggregate)
        sums = zone_sums(self.model, replace(place, zones=blocks), maps, shown)
        return [block_bands(sums[name], place.tile, self.plan, self.how[name]) for name in self.plan.maps]


def _kept(tile: Tile, left_out: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which cells (h, w) are in none of the masks of what is left out."""
    return ~np.logical_or.reduce([np.zeros((tile.height, tile.width), bool), *left_out.values()])


def place_of(
    model: Predictor,
    grid: Grid,
    tile: Tile,
    areas: Sequence[Area],
    maps: Mapping[str, Predicted],
    left_out: Mapping[str, np.ndarray],
) -> Place:
    """Return a tile with the cells of the whole map, of areas and of the model's own zones, without those of masks (h, w)."""
    kept = _kept(tile, left_out)
    masks = [(WHOLE, kept), *((name, mask & kept) for name, mask in zones.zone_masks(areas, grid, tile))]
    for k, name in enumerate(model.zones):
        masks.append((own_zone(name), np.logical_or.reduce([each.zone == k for each in maps.values()]) & kept))
    return Place(grid, tile, zones.cell_areas(grid, tile), ZoneCells.of(masks))


def zone_sums(
    model: Predictor, place: Place, maps: Mapping[str, Predicted], shown: Mapping[str, np.ndarray]
) -> dict[str, dict[str, zones.Sums]]:
    """Return map -> zone -> sums; with an error model a zone of one cell has that cell's interval, of the bands `shown`."""
    sums = model.sums(place, maps)
    for name, bands in shown.items() if model.errors is not None else ():
        if len(bands) > 2:
            sums[name] = with_ends(sums[name], place.zones, *bands[1:3])
    return sums


def _valued(predicted: Predicted, outside: np.ndarray | None) -> tuple[int, int]:
    """Return how many cells have a value, and how many of them are outside the area of applicability."""
    known = np.isfinite(predicted.members[0])
    return int(known.sum()), 0 if outside is None else int((known & outside).sum())


@lru_cache(maxsize=1)
def _worker(folder: Path, digest: str) -> _Worker:
    """Return this process's worker for a plan; `digest`, the plan's checksum, distinguishes plans that were in one folder."""
    worker = _Worker(folder)
    if worker.plan.digest != digest:
        raise UserError(f"{folder / PLAN}: is not the plan of this map; are two runs making one map?")
    return worker


_opening = threading.Lock()


def compute_tile(folder: Path, digest: str, number: int) -> int:
    """Compute and write one tile of the plan in `folder`; return its number."""
    with rasterio.Env(**GDAL_SETTINGS):
        with _opening:
            worker = _worker(folder, digest)
        tile = worker.plan.grid.tile(number, worker.plan.tile)
        bands, notes = worker.compute(tile)
        write_tile(folder, digest, tile, bands, notes.model_dump_json())
    return number


# --- all tiles ---------------------------------------------------------------------------------------------------------


def _start_process() -> None:
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    start_worker()


@contextmanager
def workers(count: int, plan: Plan, scheduler: str | None, folder: Path) -> Iterator[tuple[Executor, int]]:
    """Yield an executor for tiles, and how many it runs at once.

    `count` processes on this machine; one, or a GPU, is served by threads of this process. Workers of the Dask scheduler at an
    address need this project on their Python path and the same file system. UserError if Dask is not installed, or the scheduler or
    a worker fails.
    """
    if scheduler is not None:
        with _dask(scheduler, folder, plan.digest) as found:
            yield found
    elif count == 1 or plan.device == "cuda":
        threads = 3 if plan.device == "cpu" else max(3, min(count, 16))  # a GPU is faster than three can read
        with ThreadPoolExecutor(threads, "tile") as pool:
            yield pool, threads - 1
    else:
        with process_pool(count, _start_process) as pool:
            yield pool, count


@contextmanager
def _dask(scheduler: str, folder: Path, digest: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--scheduler needs Dask: pip install 'dask[distributed]>=2024.8'") from error
    try:
        client = Client(scheduler, timeout=PATIENCE_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"scheduler {scheduler}: cannot be reached ({' '.join(str(error).split())[:150]})") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"scheduler {scheduler}: has no workers; start some: dask worker {scheduler}")
        try:
            replies = client.run(_opens, folder, digest, on_error="return")
        except Exception as error:
            raise UserError(f"scheduler {scheduler}: {' '.join(str(error).split())[:200]}") from error
        for address, reply in replies.items():
            if reply is not True:
                reason = " ".join(str(reply).split())[:200]
                needs = "it needs soilcarbon installed and the same files at the same paths"
                raise UserError(f"worker {address}: cannot take part ({reason}); {needs}")
        log.info("%d Dask workers, %d tiles at once: %s", len(replies), threads, client.dashboard_link)
        yield client.get_executor(pure=False, retries=2), threads


def _opens(folder: Path, digest: str) -> bool:
    """Open plan, model and rasters on a Dask worker; an exception names what is missing."""
    return bool(_worker(folder, digest))


def compute(folder: Path, plan: Plan, done: Collection[int], pool: Executor, at_once: int) -> None:
    """Compute the tiles of a plan that are not done yet, showing progress by cells; after an error finished tiles stay."""

    def cells(number: int) -> int:
        tile = plan.grid.tile(number, plan.tile)
        return tile.height * tile.width

    digest, waiting = plan.digest, (number for number in range(plan.grid.tile_count(plan.tile)) if number not in done)
    running: set[Future[int]] = set()
    try:
        with Progress("cells of the map", plan.grid.height * plan.grid.width - sum(map(cells, done))) as bar:
            while True:
                while len(running) < IN_FLIGHT * at_once and (number := next(waiting, None)) is not None:
                    running.add(pool.submit(compute_tile, folder, digest, number))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                bar.step(sum(cells(each.result()) for each in finished))
    except BrokenProcessPool as error:
        time.sleep(0.2)  # if a signal to all processes was the cause, it ends this one too
        raise UserError(
            "a worker process was killed, perhaps out of memory; use --resume with fewer --workers or a smaller --tile"
        ) from error
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            raise UserError(f"a tile killed several Dask workers: {' '.join(str(error).split())[:200]}") from error
        raise
    finally:
        for each in running:
            each.cancel()
