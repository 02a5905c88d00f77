"""Speed of mapping, and of predicting the same cells by other methods: cells per second, and ratios.

    python benchmarks/map_speed.py                     make bench runs this
    python benchmarks/map_speed.py --side 2000         smaller: rasters of 2000 x 2000 cells [2816]

All on one set of rasters (32 variables as 16-bit integers, tiled, deflated, with gaps), one network of one member:

  map          the path of `soilcarbon map`: read, predict, write tiles, join them to a Cloud Optimized GeoTIFF, read it back;
               once with the start of its processes and once without
  patches      cut every cell's windows and predict them, as prepare.py and pred.py do for profiles, in batches
  per sample   the same, patch by patch through a Dataset and DataLoader, as the published code does
  forest       a random forest of 300 trees, grown on 15,000 profiles, on all cores, reading included
  ceiling      cells per second if the machine did nothing but this network's multiplications (all layers as published,
               none multiplied out) at the rate of a large matrix product
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import rasterio
import torch
from measuring import keep
from rasterio.transform import Affine
from rasterio.windows import Window
from sklearn.ensemble import RandomForestRegressor
from torch.utils.data import DataLoader, Dataset

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.grid import Grid, raster_grid
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import sha256
from soilcarbon.mapping import cog as cogs
from soilcarbon.mapping import tiles as mapping
from soilcarbon.mapping.network import NetworkPredictor, SlidingNetwork
from soilcarbon.mapping.plan import Plan, begin, stamps_of
from soilcarbon.mapping.predictor import summary
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.network import FUSED, HIDDEN, MAPS, Member, SoilCarbonNet, dilations, predict
from soilcarbon.network.specification import Specification
from soilcarbon.stats.applicability import MOST_POINTS, ApplicabilityArea

VARIABLES = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
SCALE = 0.01
PROFILES = 15_000


def make_rasters(folder, side):
    """Write five files of fields that vary over many cells, with some noise and gaps, and return the layers."""
    random = np.random.default_rng(0)
    for category in PUBLISHED_CATEGORIES:
        coding = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "nodata": -32768}
        size = {"height": side, "width": side, "count": len(category.variables), "dtype": "int16"}
        place = {"crs": "EPSG:4326", "transform": Affine(0.0025, 0, 10, 0, -0.0025, 50)}
        folder.mkdir(parents=True, exist_ok=True)
        with rasterio.open(folder / f"{category.name}.tif", "w", driver="GTiff", **size, **place, **coding) as raster:
            raster.descriptions = category.variables
            raster.scales = [SCALE] * len(category.variables)
            for band in range(1, len(category.variables) + 1):
                coarse = random.normal(size=(side // 64 + 3, side // 64 + 3))
                rows = np.linspace(0, side / 64, side)
                low = rows.astype(int)
                part = (rows - low)[:, None]
                smooth = coarse[low] * (1 - part) + coarse[low + 1] * part
                smooth = smooth[:, low] * (1 - part.T) + smooth[:, low + 1] * part.T
                values = 100 * (5 + 2 * smooth + 0.05 * random.normal(size=(side, side)))
                values[: side // 50, : side // 50] = -32768
                raster.write(values.astype(np.int16), band)
    return find_layers([folder])


def make_network(path, radius):
    categories = tuple(category.model_copy(update={"radius": radius}) for category in PUBLISHED_CATEGORIES)
    statistics = {name: (5.0, 2.0) for name in VARIABLES}
    network = SoilCarbonNet(Specification(categories=categories, statistics=statistics, clip_inputs=4.0))
    network.initialise(1)
    save_checkpoint(network, path)
    return load_checkpoint(path)


def make_map(folder, layers, checkpoint, device, cores):
    """Return seconds by cell of a whole map, and of it without the start of the processes and their first tiles."""
    by_name, grid, tile = {layer.name: layer for layer in layers}, raster_grid(layers[0].path), 512
    while grid.tile_count(tile) < 4 * cores:
        tile //= 2
    plan = Plan(
        checkpoint=checkpoint, sha256=sha256(checkpoint), statistics=None, missing=None,
        layers=tuple(by_name[name] for name in VARIABLES), stamps=stamps_of({layer.path for layer in layers}),
        periods=(("", tuple(range(len(VARIABLES)))),), mask=None, grid=grid, tile=tile,
        resampling="bilinear", max_missing=0.25, level=0.9, applicability=False, inside_only=False, aggregate=0,
        shared=(0.0, 0.0), device=device, areas={}, versions={},
    )  # fmt: skip
    start = time.perf_counter()
    tiles = folder / "tiles"
    tiles.mkdir()
    begin(tiles, folder / "map.tif", plan, {}, resume=False)
    with mapping.workers(cores, plan, None, tiles) as (pool, at_once):
        few = min(at_once, grid.tile_count(tile))
        first = list(pool.map(mapping.compute_tile, [tiles] * few, [plan.digest] * few, range(few)))
        begun = time.perf_counter()
        mapping.compute(tiles, plan, [], pool, at_once)
    written = [(plan.grid.tile(number, plan.tile), path) for number, path in cogs.whole_tiles(tiles, plan.digest).items()]
    parts = [(tile, path, (tile.height, tile.width)) for tile, path in written]
    path = tiles / "map.tif"
    cogs.write_cog(path, plan.grid, parts, 0, NetworkPredictor(checkpoint, device, None, None).describe_bands(0.9), {})
    end = time.perf_counter()
    shutil.move(path, folder / "map.tif")
    shutil.rmtree(tiles)
    cells = grid.height * grid.width
    before = sum(part.height * part.width for part in (grid.tile(number, tile) for number in first))
    return (end - start) / cells, (end - begun) / (cells - before)


class OneByOne(Dataset):
    """A cell's patches, cut on access: one (C, S, S) tensor per category."""

    def __init__(self, patches, categories):
        self.patches, self.categories = patches, categories

    def __len__(self):
        return len(next(iter(self.patches.values())))

    def __getitem__(self, k):
        return [
            torch.tensor(np.stack([(self.patches[name][k] - 5.0) / 2.0 for name in category.variables]), dtype=torch.float32)
            for category in self.categories
        ]


def per_sample(layers, lon, lat, radius, network):
    start = time.perf_counter()
    windows, _ = cut_windows(layers, lon, lat, radius)
    data = OneByOne(windows, network.specification.categories)
    with torch.no_grad():
        found = [Member.forward(network, torch.cat([part.flatten(1) for part in batch], 1)) for batch in DataLoader(data, 32)]
    assert len(torch.cat(found)) == len(lon)
    return time.perf_counter() - start


def in_batches(layers, lon, lat, radius, network):
    start = time.perf_counter()
    windows, _ = cut_windows(layers, lon, lat, radius)
    x = np.concatenate([windows[name].reshape(len(lon), -1) for name in VARIABLES], axis=1)
    predicted, _ = predict(network, x)
    return time.perf_counter() - start, predicted


def forest(layers, cores):
    """Return seconds per cell: reading and predicting two tiles."""
    grid = raster_grid(layers[0].path)
    random = np.random.default_rng(1)
    x = random.normal(5, 2, (PROFILES, len(VARIABLES)))
    y = np.exp(2.5 + 0.3 * (x[:, 0] - 5) + 0.2 * x[:, 9] + 0.3 * random.normal(size=len(x)))
    trees = RandomForestRegressor(300, max_features=1 / 3, n_jobs=cores, random_state=0).fit(x, y)
    side = 256
    start = time.perf_counter()
    with Stack(layers, grid) as stack:
        for tile in (0, 1):
            block = stack.read(512, 512 * tile, side, side)
            trees.predict(np.nan_to_num(block.reshape(len(layers), -1).T, nan=5.0))
    return (time.perf_counter() - start) / (2 * side * side)


def reading(layers):
    """Print and return what it takes to read the layers on several grids: processor seconds per million cells of a map."""
    own, found = raster_grid(layers[0].path), {}
    cell, corner = own.cell[0], (own.x + own.width / 4 * own.cell[0], own.y - own.height / 4 * own.cell[1])
    projected = transformed(own.crs, "EPSG:3035", *(np.array([each]) for each in corner))
    side = own.height // 2
    grids = {
        "the map's grid": replace(own, x=corner[0], y=corner[1], height=side, width=side),
        "half a cell aside": replace(own, x=corner[0] + cell / 2, y=corner[1], height=side, width=side),
        "another CRS": Grid("EPSG:3035", projected[0][0], projected[1][0], (250.0, 250.0), side // 2, side // 2),
        "cells 8 times as wide": replace(
            own, x=corner[0], y=corner[1], cell=(8 * cell, 8 * cell), height=side // 8, width=side // 8
        ),
    }
    print("\nreading 32 layers: processor seconds per million cells of the map")
    for what, grid in grids.items():
        with Stack(layers, grid) as stack:
            start = time.process_time()
            for tile in grid.tiles(512):
                stack.read(tile.row, tile.col, tile.height, tile.width)
            found[what] = (time.process_time() - start) / grid.height / grid.width * 1e6
        print(f"  {what:<25}{found[what]:8.2f}")
    return found


def steps():
    """Print and return what single steps take on one thread, for docs/scaling.md: core seconds per million cells."""
    torch.set_num_threads(1)
    found = {}
    random = np.random.default_rng(0)
    print("\ncore seconds per million cells, one thread")
    for radius in (0, 3):
        for members in (1, 5):
            categories = tuple(category.model_copy(update={"radius": radius}) for category in PUBLISHED_CATEGORIES)
            statistics = {name: (5.0, 2.0) for name in VARIABLES}
            facts = Specification(categories=categories, statistics=statistics, clip_inputs=4.0, members=members)
            network = SlidingNetwork(SoilCarbonNet(facts).eval())
            block = random.normal(5, 2, (len(VARIABLES), 512 + 2 * radius, 512 + 2 * radius)).astype(np.float32)
            network.predict(block)
            start = time.perf_counter()
            predicted = network.predict(block)
            between = time.perf_counter()
            summary(predicted.mean(0), predicted)
            end = time.perf_counter()
            seconds, more = ((after - before) / 0.512**2 for before, after in ((start, between), (between, end)))
            found[f"r = {radius}, {members} members"] = {"network": seconds, "bands": more}
            print(f"  network, r = {radius}, {members} members: {seconds:.1f}; bands {more:.2f}")
    area = ApplicabilityArea.fit(random.normal(5, 2, (4000, len(VARIABLES))), max_points=MOST_POINTS)
    cells = random.normal(5, 2, (2**16, len(VARIABLES))).astype(np.float32)
    start = time.perf_counter()
    area.index(cells)
    seconds = found[f"dissimilarity to {MOST_POINTS} profiles"] = (time.perf_counter() - start) / 0.065536
    print(f"  dissimilarity to {MOST_POINTS:,} profiles: {seconds:.1f}")
    return found


def multiplications(radius):
    """Return the multiply-adds per cell of the network as published (radius 0), or slid over the cells."""
    inputs = len(VARIABLES)
    branches = MAPS * inputs
    if radius:
        branches = 4 * MAPS * inputs + (len(dilations(radius)) - 1) * 4 * MAPS * MAPS * len(PUBLISHED_CATEGORIES)
    return branches + MAPS * len(PUBLISHED_CATEGORIES) * FUSED + FUSED * HIDDEN + HIDDEN * FUSED + FUSED


def product_rate(device):
    """Return multiply-adds per second of a large float32 matrix product."""
    size = 4096 if device == "cpu" else 16384
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, size**3 / (time.perf_counter() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--side", type=int, default=2816, help="rows and columns of the rasters at r = 0 [2816]; half of it at r = 3"
    )
    options = parser.parse_args()
    cores, device = os.cpu_count() or 1, "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(cores)
    rate, ratios = product_rate(device), {}
    print(f"{cores} cores, device {device}; a large matrix product: {2 * rate / 1e9:.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for radius, side in ((0, options.side), (3, options.side // 2)):
            layers = make_rasters(folder / f"r{radius}", side)
            if radius == 0:
                read = reading(layers)
            network = make_network(folder / "network.pth", radius)
            whole, running = make_map(folder, layers, folder / "network.pth", device, cores)
            rows, cols = (axis.ravel() + side // 2 for axis in np.mgrid[:100, :100])
            lon, lat = 10 + 0.0025 * (cols + 0.5), 50 - 0.0025 * (rows + 0.5)
            torch.set_num_threads(cores)
            seconds, predicted = in_batches(layers, lon, lat, radius, network)
            with rasterio.open(folder / "map.tif") as raster:
                mapped = np.ravel(raster.read(1, window=Window(side // 2, side // 2, 100, 100)))
            assert np.allclose(mapped, predicted, rtol=1e-4, atol=1e-5), "the map is not what pred.py says"
            few = 1000 if radius == 0 else 300
            found = {
                "map, with the start of processes": 1 / whole,
                "map": 1 / running,
                "patches in batches": len(lon) / seconds,
                "patches, per sample": few / per_sample(layers, lon[:few], lat[:few], radius, network),
                "forest of 300 trees": 1 / forest(layers, cores),
                "ceiling": rate / multiplications(radius),
            }
            print(f"\nradius {radius}, {side} x {side} cells".ljust(40) + "cells/s".rjust(12) + "  map's speed / this".rjust(20))
            ratios[f"radius {radius}"] = {what: found["map"] / speed for what, speed in found.items()}
            for what, speed in found.items():
                print(f"  {what:<37}{speed:12,.0f}{found['map'] / speed:20.2f}")
    seconds = {f"reading, {what}": number for what, number in read.items()} | steps()
    keep("map_speed", {"device": device, "a map's speed / this": ratios, "core seconds per million cells": seconds})


if __name__ == "__main__":
    main()
