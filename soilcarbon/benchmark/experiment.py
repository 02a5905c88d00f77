"""What the trials of a comparison share: datasets, folds, and a network pretrained without any place of a region.

In: a comparison's settings. Out: datasets in memory, read once a process; folds/ and pretrained/ in the comparison's folder.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from soilcarbon.benchmark.baselines import Known
from soilcarbon.benchmark.forests import Forest
from soilcarbon.benchmark.tuning import held_out_predictions
from soilcarbon.commands.arguments import from_yaml
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.io.files import UserError
from soilcarbon.network.network import SoilCarbonNet, load_checkpoint, save_checkpoint
from soilcarbon.settings import GlobalSettings, RegionalSettings, build
from soilcarbon.soil.dataset import Dataset, read_dataset
from soilcarbon.stats.groups import inner_folds
from soilcarbon.stats.spatial_cv import make_folds, read_folds, sample_cell_centres, save_folds
from soilcarbon.training.distillation import elsewhere, fold_units
from soilcarbon.training.initial import compute_statistics, new_specification
from soilcarbon.training.run import learn

PLACES = 2000
"""Of the map, that kNNDM measures distances from."""


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
        return read_dataset(folder, network.specification.categories, splits, target=network.specification.target)

    regions = {folder.name: _in_blocks(read(folder, ()), wanted) for folder in wanted.regions}
    return Stage(regional, read(wanted.global_data, ("train", "valid")), regions)


# --- folds and pretraining ---------------------------------------------------------------------------------------------


def folds_of(settings: CompareSettings, region: str, data: Dataset, way: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a region's folds (N,) in one way and what they are, from the folder if they were drawn before."""
    path = settings.out / "folds" / f"{region}-{way}.csv"
    if path.is_file():
        return read_folds(path, data.ids)
    try:
        more: dict[str, Any] = {"block_size": data.block_size} if way == "blocks" else {}
        if way == "knndm":
            more["prediction_points"] = _places_on(settings.land, data, settings.seed)
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
        side = facts["block_size"]
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
    return sample_cell_centres(here, lon, lat, PLACES, seed)


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
