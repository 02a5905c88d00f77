"""A small world of rasters and a checkpoint, and how a map of it is made, read and refused."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from soilcarbon.categories import Category
from soilcarbon.commands import map as make_map
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run
from soilcarbon.mapping import cog as cogs
from soilcarbon.mapping import tiles as mapping
from soilcarbon.network.checkpoint import save_checkpoint
from soilcarbon.network.network import Record, SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.stats.conformal import ConformalCalibration

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = (
    Category(name="climate", variables=("bio01", "bio12")),
    Category(name="relief", variables=("elevation", "slope"), radius=3),
    Category(name="plants", variables=("evi",), radius=1),
    Category(name="rock", variables=("bedrock",), radius=2, kind="classes"),
)
VARIABLES = [name for category in CATEGORIES for name in category.variables]
STATISTICS = {"bio01": (10.0, 8.0), "bio12": (800.0, 400.0), "elevation": (300.0, 200.0), "slope": (5.0, 4.0), "evi": (0.3, 0.2)}
HEIGHT, WIDTH, CELL, WEST, NORTH = 70, 90, 0.1, 10.0, 50.0


def make_checkpoint(path, members=3, categories=CATEGORIES, record=None, calibration=None, **facts):
    facts = {"target_transform": "log1p", "bounds": (0.0, 300.0), "clip_inputs": 4.0, "statistics": STATISTICS, **facts}
    classes = {"bedrock": (1, 2, 3)} if any(each.kind == "classes" for each in categories) else {}
    network = SoilCarbonNet(Specification(categories=categories, classes=classes, members=members, **facts), record or Record())
    for k, member in enumerate(network.members()):
        member.initialise(k)
        with torch.no_grad():
            member.final_regressor[0].bias += 2.5
    network.calibration = calibration
    save_checkpoint(network, path)
    return path


def calibration(n=60, seed=0):
    """Calibrate intervals of ln(1 + y), twice as wide upwards, from errors of no network."""
    errors = np.random.default_rng(seed).normal(0, 0.2, n)
    predicted = np.linspace(5, 50, n)
    return ConformalCalibration.fit(
        np.expm1(np.log1p(predicted) + np.where(errors > 0, 2, 1) * errors), predicted, scale="log1p", symmetric=False
    )


def covariates(height=HEIGHT, width=WIDTH, seed=0):
    """Return variable -> (H, W), smooth, with holes."""
    random = np.random.default_rng(seed)
    found = {}
    for name in VARIABLES:
        rough = random.normal(size=(height // 8 + 3, width // 8 + 3))
        smooth = np.kron(rough, np.ones((8, 8)))[:height, :width] + 0.3 * random.normal(size=(height, width))
        if name == "bedrock":
            found[name] = np.clip(np.round(smooth + 2), 1, 4)
        else:
            mean, deviation = STATISTICS[name]
            found[name] = mean + deviation * smooth
    for name in ("bio01", "bio12", "elevation"):  # half of the variables missing: nodata
        found[name][20:30, 40:60] = np.nan
    found["evi"][50:60, 10:30] = np.nan  # one missing: filled
    return {name: values.astype(np.float32) for name, values in found.items()}


def write_rasters(folder, layers, west=WEST, north=NORTH, cell=CELL):
    grid = Affine(cell, 0, west, 0, -cell, north)
    for category in CATEGORIES:
        names = [name for name in category.variables if name in layers]
        if names:
            write_geotiff(folder / f"{category.name}.tif", np.stack([layers[name] for name in names]), names, grid)
    return folder


def make(*more, checkpoint="model/m.pth", rasters="rasters", out="out/soc.tif"):
    return run(lambda: make_map.main(["--checkpoint", checkpoint, "--rasters", rasters, "--out", out, *more]))


def read(path="out/soc.tif"):
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan)


def refused(capsys, *words):
    """Check what a user reads: one error of one or two lines with these words, and nothing under the final name."""
    error = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in error if line.startswith("error:")]
    assert len(errors) == 1
    assert all(word in errors[0] for word in words), errors[0]
    assert not [path for path in Path("out").glob("*.tif")] if Path("out").exists() else True


def draw_nothing(monkeypatch):
    """Let figures be written empty, as `no_drawing` of conftest, for a fixture of a whole module."""

    def empty(figure, file, **options):
        PIL.Image.new("RGB", (1, 1)).save(file, options["format"])

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", empty)


@cache
def _template(members):
    folder = tempfile.TemporaryDirectory(prefix="soilcarbon-map-world-")  # removed when this process ends
    write_rasters(Path(folder.name) / "rasters", covariates())
    make_checkpoint(Path(folder.name) / "model/m.pth", members)
    return folder


def make_world(workplace, members=3):
    """Rasters, a checkpoint, and an empty working directory; a map of one member takes half the time of one of three."""
    shutil.copytree(_template(members).name, workplace, dirs_exist_ok=True)
    return workplace


def write_boxes(**boxes):
    """Write named boxes (west, south, east, north) into z.geojson."""
    pytest.importorskip("geopandas", reason="pip install geopandas")
    features = []
    for name, (w, s, e, n) in boxes.items():
        ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
        features.append({"type": "Feature", "properties": {"name": name}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    Path("z.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def interrupt_after(monkeypatch, tiles):
    """Let the machine die once so many tiles are written."""
    written = []
    real = cogs.write_tile

    def write(*arguments):
        if len(written) >= tiles:
            raise KeyboardInterrupt
        written.append(real(*arguments))
        return written[-1]

    monkeypatch.setattr(mapping, "write_tile", write)
