"""What lowers the error of SOC in a region, and what does not: covariates of 0.05 degrees, windows, interpolation, mixtures.

    make realdata                                     # or at least its first lines: data/real/global
    python experiments/transfer.py covariates         forests of 200 profiles of a region by sets of categories
    python experiments/transfer.py interpolation      the same forest, coarse covariates taken from the cell or interpolated
    python experiments/transfer.py windows            pretrained networks with and without windows, in regions they have not seen
    python experiments/transfer.py teachers --profiles 200   a pretrained network, fine-tuned, and teachers with and without it
    python experiments/transfer.py mixtures --out results/compare_realdata   means of methods that were compared

Four regions, three folds of half-degree blocks, ln(1 + SOC). Finished pieces are kept in results/transfer and not computed again;
--show prints what is there. Printed: MAE (g/kg) by region, and changes (%) with paired 95 % intervals of whole blocks.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import rasterio
import torch
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.benchmark.baselines import BASELINES
from soilcarbon.categories import Category, middle_cells
from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import write_table
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import Member, SoilCarbonNet, predict, to_target
from soilcarbon.settings import GlobalSettings
from soilcarbon.soil.dataset import SPLITS, Dataset, dataset_categories, read_dataset
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.stats.metrics import mean_paired_differences, paired_differences
from soilcarbon.stats.spatial_cv import make_folds
from soilcarbon.training.distillation import Teacher
from soilcarbon.training.ensemble import TEACHER_NETWORK
from soilcarbon.training.loop import Profiles, Schedule, TrainingSets, encode_profiles, fit, outputs_of
from soilcarbon.training.run import compute_statistics, new_specification, train_in_memory

KEPT = Path("results/transfer")
SIDE, FOLDS, SEED, PROFILES = 0.5, 3, 314, 200
COARSE = ("band", "topo", "climate", "vege", "bedrock")
SETS = {
    "10 arc-minutes": COARSE,
    "and greenness": (*COARSE, "greenness"),
    "and land cover": (*COARSE, "greenness", "landcover"),
    "and optimum temperature": (*COARSE, "greenness", "landcover", "optimum"),
}
WINDOWS = {"10 arc-minutes": None, "one cell": 0, "5 x 5 cells": 2}
"""Name -> radius of the windows of greenness; None: without covariates of 0.05 degrees."""
MIXTURES = {
    "network + forest": ("regional", "forest_log"),
    "network + kriging": ("regional", "kriging"),
    "network + forest + kriging": ("regional", "forest_log", "kriging"),
    "network + forests": ("regional", "forest_log", "forest_world_log"),
    "forest + forest of the world": ("forest_log", "forest_world_log"),
    "all": ("regional", "forest_log", "forest_world_log", "kriging", "ridge"),
}
PRETRAINING = ["--config", "configs/realdata_fine.yaml", "--no-tensorboard", "--members", "4"]
Results = Mapping[str, pd.DataFrame]
"""Region -> observed, group, and a column per method."""


def regions(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """Return the regions' bounds, lon_min, lon_max, lat_min, lat_max."""
    return {row[0]: row[1:] for row in pd.read_csv(path).itertuples(index=False)}


def rows_of(data: Dataset, box: tuple[float, ...]) -> np.ndarray:
    """Return the profiles within bounds."""
    return np.flatnonzero((data.lon >= box[0]) & (data.lon <= box[1]) & (data.lat >= box[2]) & (data.lat <= box[3]))


def divisions(data: Dataset, rows: np.ndarray, profiles: int = PROFILES) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield fold, training rows, rows held out."""
    folds, _ = make_folds("blocks", data.lon[rows], data.lat[rows], FOLDS, SEED, block_size=SIDE)
    for fold in range(FOLDS):
        some = np.random.default_rng([SEED, fold, 0]).permutation(rows[folds != fold])[: profiles or None]
        yield fold, some, rows[folds == fold]


def forests(data: Dataset, rows: np.ndarray, inputs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Return predictions of a forest by inputs: name -> covariates (N, V) in training, and where it predicts."""
    parts = []
    for _, train, test in divisions(data, rows):
        table = pd.DataFrame({"observed": data.y[test], "group": spatial_groups(data.lon[test], data.lat[test], SIDE)})
        for name, (known, there) in inputs.items():
            forest = RandomForestRegressor(200, max_features=1 / 3, min_samples_leaf=2, random_state=0, n_jobs=1)
            table[name] = np.expm1(forest.fit(known[train], np.log1p(data.y[train])).predict(there[test]))
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def by_covariates(data: Dataset, rows: np.ndarray, _: argparse.Namespace) -> pd.DataFrame:
    """Compare sets of categories."""
    cells, names = {}, [name for each in data.categories for name in each.variables]
    x = pd.DataFrame(middle_cells(data.x, data.categories), columns=names)
    for title, wanted in SETS.items():
        cells[title] = x[[name for each in data.categories if each.name in wanted for name in each.variables]].to_numpy()
    return forests(data, rows, {title: (each, each) for title, each in cells.items()})


def by_interpolation(data: Dataset, rows: np.ndarray, options: argparse.Namespace) -> pd.DataFrame:
    """Compare covariates of the profile's cell with those that are interpolated between cells."""
    names = [name for each in data.categories for name in each.variables]
    own = middle_cells(data.x, data.categories)
    between = own.copy()
    for path in sorted(options.rasters.glob("cov_*.tif")):
        with rasterio.open(path) as raster:
            for band, name in enumerate(raster.descriptions, 1):
                if name in names and name != "glim_class":
                    at = raster.read(band, masked=True).astype(float).filled(np.nan), ~raster.transform
                    found = interpolated(*at, data.lon, data.lat)
                    column = names.index(name)
                    between[:, column] = np.where(np.isfinite(found), found, own[:, column])
    ways = {"cell": (own, own), "interpolated where it predicts": (own, between), "interpolated": (between, between)}
    return forests(data, rows, ways)


def interpolated(values: np.ndarray, inverse: rasterio.Affine, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return values (N,) between the centres of the four nearest cells, of those that have one."""
    column, row = inverse * (lon, lat)
    left, top = np.floor(column - 0.5).astype(int), np.floor(row - 0.5).astype(int)
    total, weights = np.zeros(len(lon)), np.zeros(len(lon))
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(top + down + 0.5 - row)) * (1 - np.abs(left + right + 0.5 - column))
            found = values[np.clip(top + down, 0, len(values) - 1), (left + right) % values.shape[1]]
            total += np.where(np.isfinite(found), found * weight, 0)
            weights += np.where(np.isfinite(found), weight, 0)
    return np.divide(total, weights, out=np.full(len(lon), np.nan), where=weights > 0)


def pretrained(data: Dataset, boxes: Mapping[str, tuple[float, ...]]) -> tuple[SoilCarbonNet, Dataset]:
    """Return a network pretrained without any block of the regions, and the profiles it was trained on and validated with."""
    groups = spatial_groups(data.lon, data.lat, SIDE)
    inside = np.concatenate([rows_of(data, box) for box in boxes.values()])
    outside = ~np.isin(groups, groups[inside])
    world = replace(data, split={name: rows[outside[rows]] for name, rows in data.split.items() if name != "test"})
    settings = read_settings(GlobalSettings, "", PRETRAINING)
    numbers = compute_statistics(data.x[world.split["train"]], data.categories)
    return train_in_memory(SoilCarbonNet(new_specification(settings, world, numbers)), world, settings), world


def by_windows(options: argparse.Namespace) -> Results:
    """Compare networks pretrained without any block of the four regions, in them, without fine-tuning."""
    boxes = regions(options.regions)
    found: dict[str, pd.DataFrame] = {}
    for title, radius in WINDOWS.items():
        data = read_dataset(options.data_dir, windowed(dataset_categories(options.data_dir), radius), SPLITS)
        predicted = predict(pretrained(data, boxes)[0], data.x)[0]
        for name, rows in ((name, rows_of(data, box)) for name, box in boxes.items()):
            groups = spatial_groups(data.lon[rows], data.lat[rows], SIDE)
            found.setdefault(name, pd.DataFrame({"observed": data.y[rows], "group": groups}))[title] = predicted[rows]
    return found


def by_teachers(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    """Compare the parts of a taught network: pretrained, fine-tuned, teachers without and with what was pretrained."""
    boxes = regions(options.regions)
    data = read_dataset(options.data_dir, windowed(dataset_categories(options.data_dir), 0), SPLITS)
    path = KEPT / "pretrained.pth"
    if not path.is_file():
        save_checkpoint(pretrained(data, boxes)[0], path)
    network = load_checkpoint(path)
    known = encode_profiles(network.specification, data.x, data.y, torch.device("cpu"))
    groups = spatial_groups(data.lon, data.lat, SIDE)
    inside = np.concatenate([rows_of(data, box) for box in boxes.values()])
    elsewhere = data.split["train"][~np.isin(groups[data.split["train"]], groups[inside])]
    facts = network.specification.model_copy(update={"members": 1, "center": "median"})
    for name, box in boxes.items():
        parts = []
        for fold, train, test in divisions(data, rows_of(data, box), options.profiles):
            outputs = teachers(network, known, elsewhere, train, test, fold)
            columns = {key: to_target(torch.from_numpy(each)[None], facts)[0].numpy() for key, each in outputs.items()}
            parts.append(pd.DataFrame({"observed": data.y[test], "group": groups[test]} | columns))
        yield name, pd.concat(parts, ignore_index=True)


def teachers(
    network: SoilCarbonNet, known: Profiles, elsewhere: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Return outputs (m,) at the profiles held out, by learner."""
    x, output = known.encoded.numpy(), known.output.double().numpy()
    prior = np.mean([outputs_of(each, known.encoded).double().numpy() for each in network.members()], axis=0)
    sets, tuned = TrainingSets(known.take(train), known.take(train), known.take(test), network.specification), []
    for k, each in enumerate(network.members()):
        member = Member(network.specification)
        member.load_state_dict(each.copy_of_tensors())
        fit(member, sets, replace(Schedule(epochs=1), **TEACHER_NETWORK, seed=k))
        tuned.append(outputs_of(member, known.encoded[test]).double().numpy())
    forest = RandomForestRegressor(300, max_features=1 / 3, random_state=0, n_jobs=1).fit(x[train], output[train]).predict(x[test])
    fitted = np.mean(tuned, axis=0)
    alone = Teacher(seed).fit(x[train], output[train], x[elsewhere], output[elsewhere]).predict(x[test])
    helped = Teacher(seed).fit(x[train], output[train], x[elsewhere], output[elsewhere], prior[train]).predict(x[test], prior[test])
    return {
        "forest": forest,
        "pretrained": prior[test],
        "fine-tuned": fitted,
        "trees and process": alone,
        "trees and process, half fine-tuned": (alone + fitted) / 2,
        "round the pretrained": helped,
        "round the pretrained, 20 % fine-tuned": helped + 0.2 * (fitted - helped),
        "round the pretrained, half fine-tuned": (helped + fitted) / 2,
        "round the pretrained, 20 % fine-tuned, and the forest": (helped + 0.2 * (fitted - helped) + forest) / 2,
    }


def windowed(categories: tuple[Category, ...], radius: int | None) -> tuple[Category, ...]:
    """Return categories with the windows of greenness, or those of 10 arc-minutes alone."""
    if radius is None:
        return tuple(each for each in categories if each.name in COARSE)
    return tuple(each.model_copy(update={"radius": radius if each.name == "greenness" else 0}) for each in categories)


def by_mixtures(options: argparse.Namespace) -> Results:
    """Return what was compared, and means of some of its methods on the scale of ln(1 + y)."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for path in sorted((options.out / "runs").glob("*-blocks-*.csv")):
        table = pd.read_csv(path)
        kept = pd.DataFrame({"observed": table["observed"], "group": spatial_groups(table["lon"], table["lat"], SIDE)})
        methods = table.select_dtypes("number").columns.drop(["lon", "lat", "observed", "n_train"])
        methods = [name for name in methods if not re.search("_lower_|_upper_|^di$|^inside$", name)]
        kept = pd.concat([kept, table[methods]], axis=1)
        for name, parts in MIXTURES.items():
            if set(parts) <= set(kept):
                kept[name] = np.expm1(np.log1p(kept[list(parts)]).mean(axis=1))
        tables.setdefault(path.name.split("-")[0], []).append(kept)
    return {region: pd.concat(parts, ignore_index=True) for region, parts in tables.items()}


def shown(found: Results, against: str | None) -> str:
    """Return MAE by region and changes against one method, by default the first; "best": each region's strongest baseline."""
    methods = [name for name in next(iter(found.values())) if name not in ("observed", "group")]
    reference = against or methods[0]
    if reference == "best":
        rivals = [name for name in methods if name in BASELINES]
        best = {region: min(rivals, key=lambda name, t=t: (t[name] - t["observed"]).abs().mean()) for region, t in found.items()}
        found = {f"{region} ({best[region]})": t.assign(best=t[best[region]]) for region, t in found.items()}
    lines = []
    for name in methods:
        parts = [tuple(t[each].to_numpy() for each in ("observed", name, reference, "group")) for t in found.values()]
        errors = {region: float((t[name] - t["observed"]).abs().mean()) for region, t in found.items()}
        row = {"method": name} | {region: f"{each:.2f}" for region, each in errors.items()}
        if name != reference:
            for region, each in zip(found, parts, strict=True):
                change = paired_differences(*each[:3], SEED, groups=each[3])["mae"]
                row[region] += f" ({change['value']:+.1f} [{change['low']:+.1f}, {change['high']:+.1f}])"
            change = mean_paired_differences(parts, SEED)
            row["mean change"] = f"{change['mae']['value']:+.1f} [{change['mae']['low']:+.1f}, {change['mae']['high']:+.1f}]"
            row["CCC"] = f"{change['ccc']['value']:+.3f} [{change['ccc']['low']:+.3f}, {change['ccc']['high']:+.3f}]"
        lines.append(row)
    return pd.DataFrame(lines).fillna("").to_string(index=False)


FORESTS: Mapping[str, Callable[[Dataset, np.ndarray, argparse.Namespace], pd.DataFrame]] = {
    "covariates": by_covariates,
    "interpolation": by_interpolation,
}


def main() -> None:
    """Compute what is not there, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*FORESTS, "windows", "teachers", "mixtures"))
    parser.add_argument("--profiles", type=int, default=PROFILES, help="of teachers: training profiles of a fold; 0: all")
    parser.add_argument("--data_dir", type=Path, default=Path("data/real/global"), help="of windows: prepared with --radius 2")
    parser.add_argument("--regions", type=Path, default=Path("../shared/realdata/regions.csv"), help="name and bounds of regions")
    parser.add_argument("--rasters", type=Path, default=Path("../shared/realdata/global"), help="coarse covariates, to interpolate")
    parser.add_argument("--out", type=Path, default=Path("results/compare_realdata"), help="of mixtures: a finished comparison")
    parser.add_argument("--against", help="method that changes are against [the first]; best: each region's best baseline")
    parser.add_argument("--show", action="store_true", help="print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "mixtures":
        print(shown(by_mixtures(options), options.against))
        return
    boxes = regions(options.regions)
    part = f"{options.part}_{options.profiles or 'all'}" if options.part == "teachers" else options.part
    paths = {name: KEPT / f"{part}-{name}.csv" for name in boxes}
    if not options.show and not all(path.is_file() for path in paths.values()):
        if options.part in ("windows", "teachers"):
            for name, table in by_windows(options).items() if options.part == "windows" else by_teachers(options):
                write_table(paths[name], table)
        else:
            data = read_dataset(options.data_dir, None, SPLITS)
            for name, path in paths.items():
                if not path.is_file():
                    write_table(path, FORESTS[options.part](data, rows_of(data, boxes[name]), options))
    print(shown({name: pd.read_csv(path) for name, path in paths.items() if path.is_file()}, options.against))


if __name__ == "__main__":
    main()
