"""Whole maps from rasters written with oddities, and ordinary rasters, which raise no question.

The map of odd rasters is that of the plain ones; or the command ends with a question.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from map_world import CATEGORIES, CELL, HEIGHT, NORTH, WEST, covariates, make_checkpoint, write_rasters
from oddities.outcome import EXAMPLES, asked, examples
from raster_files import write_raster
from rasterio.transform import Affine

from soilcarbon.commands import map as make_map
from soilcarbon.geo.plausibility import check_layers, choose_classes, with_classes
from soilcarbon.geo.raster import find_layers

pytestmark = pytest.mark.usefixtures("light_maps", "whole_maps")


@dataclass(frozen=True)
class Spelling:
    """How the rasters of one category are written; the others are plain."""

    category: int = 0
    dtype: str = "float32"
    fill: float | None = None  # None: NaN, or the type's limit declared
    declared: bool = True
    turn: float = 0.0
    south_up: bool = False
    reversed_bands: bool = False
    apart: bool = False  # a file per band
    coloured: bool = False


spellings = st.builds(
    Spelling,
    category=st.integers(0, len(CATEGORIES) - 1),
    dtype=st.sampled_from(("float32", "float64", "int16", "int32", "uint16")),
    fill=st.sampled_from((None, -9999.0, -32768.0, 65535.0, -99999.0)),
    declared=st.sampled_from((True, True, False)),
    turn=st.sampled_from((0.0, 360.0, -360.0)),
    south_up=st.booleans(),
    reversed_bands=st.booleans(),
    apart=st.booleans(),
    coloured=st.booleans(),
)


def write_odd(folder: Path, how: Spelling) -> bool:
    """Replace the rasters of a category; return whether such files can be."""
    category, layers = CATEGORIES[how.category], covariates()
    whole = np.dtype(how.dtype).kind in "iu"
    fill = how.fill
    if fill is None:
        fill = float(np.iinfo(how.dtype).min or np.iinfo(how.dtype).max) if whole else -3.4e38
    if whole and not np.iinfo(how.dtype).min <= fill <= np.iinfo(how.dtype).max:
        return False
    names = list(category.variables)[:: -1 if how.reversed_bands else 1]
    (folder / f"{category.name}.tif").unlink()
    for part in [[name] for name in names] if how.apart else [names]:
        bands, scales, offsets = [], [], []
        for name in part:
            values = layers[name].astype(float)
            step, start = (1.0, 0.0) if not whole or category.kind == "classes" else (np.nanmax(np.abs(values)) / 9_000, 0.0)
            if how.dtype == "uint16" and category.kind != "classes":
                start = float(np.floor(np.nanmin(values)))
            stored = (values - start) / step
            stored = np.where(np.isnan(values), fill, np.rint(stored) if whole else stored)
            bands.append(stored)
            scales.append(step)
            offsets.append(start)
        place = Affine(CELL, 0, WEST + how.turn, 0, -CELL, NORTH)
        cells = np.array(bands)
        if how.south_up:
            place, cells = Affine(CELL, 0, WEST + how.turn, 0, CELL, NORTH - CELL * HEIGHT), cells[:, ::-1]
        coloured = how.coloured and category.kind == "classes" and how.dtype == "uint16"
        table = {code: (50 * code, 9, 9, 255) for code in range(1, 5)} if coloured else None
        options = {"transform": place, "nodata": fill if how.declared else None, "names": part, "colours": table}
        with rasterio.open(write_raster(folder / f"odd_{part[0]}.tif", cells.astype(how.dtype), **options), "r+") as raster:
            raster.scales, raster.offsets = scales, offsets
    return True


def mapped(folder: Path, out: str) -> tuple[str, np.ndarray | None]:
    """Return the question, or the first band of the map."""
    arguments = ["--checkpoint", str(folder / "m.pth"), "--rasters", str(folder / "rasters"), "--out", str(folder / out)]
    if question := asked(lambda: make_map.main([*arguments, "--no-applicability"])):
        return question, None
    with rasterio.open(folder / out) as raster:
        return "", raster.read(1, masked=True).filled(np.nan)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    write_rasters(folder / "rasters", covariates())
    make_checkpoint(folder / "m.pth", members=1)
    return folder, mapped(folder, "soc.tif")[1]


def check_map(folder: Path, plain: tuple[Path, np.ndarray], how: Spelling) -> None:
    shutil.copytree(plain[0], folder, dirs_exist_ok=True)
    (folder / "soc.tif").unlink()
    if not write_odd(folder / "rasters", how):
        return
    question, found = mapped(folder, "odd/soc.tif")
    if question:
        assert not how.declared, f"a needless question: {question}"
        return
    assert found is not None
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(plain[1]))
    np.testing.assert_allclose(found, plain[1], rtol=2e-2, atol=0.02)  # what is packed is rounded


@examples(6)
@given(how=spellings)
def test_the_map_of_odd_rasters_is_that_of_the_plain_ones(how, plain, tmp_path_factory):
    check_map(tmp_path_factory.mktemp("m"), plain, how)


@pytest.mark.slow
@examples(EXAMPLES or 200)
@given(how=spellings)
def test_many_maps_of_odd_rasters(how, plain, tmp_path_factory):
    check_map(tmp_path_factory.mktemp("m"), plain, how)


# --- ordinary rasters ------------------------------------------------------------------------------------------------

SIDE = 200
KINDS = (
    "elevation", "coast", "slope", "aspect", "ndvi", "ndvi packed", "rain", "rain of a desert", "temperature", "tree cover",
    "tree cover of bytes", "sand", "soil depth", "distance", "curvature", "wetness", "burnt", "population",
)  # fmt: skip


def ordinary(kind: str, random: np.random.Generator) -> tuple[np.ndarray, str, float | None, float]:
    """Return cells as such products store them, the type, the declared nodata value, and the scale."""
    coarse = random.normal(size=(SIDE // 20 + 2, SIDE // 20 + 2))
    rows, cols = np.mgrid[:SIDE, :SIDE] / 20
    low = rows.astype(int), cols.astype(int)
    part = rows - low[0], cols - low[1]
    corner = [coarse[low[0] + i, low[1] + j] * np.abs(1 - i - part[0]) * np.abs(1 - j - part[1]) for i in (0, 1) for j in (0, 1)]
    z = sum(corner) + 0.1 * random.normal(size=(SIDE, SIDE))
    return {
        "elevation": (800 + 500 * z, "int16", -32768, 1.0),
        "coast": (np.maximum(0, 60 * z - 10), "int16", -9999, 1.0),
        "slope": (np.abs(12 * z) ** 1.3, "float32", -9999, 1.0),
        "aspect": (np.mod(180 * z, 360), "float32", -1, 1.0),
        "ndvi": (np.clip(0.4 + 0.3 * z, -0.2, 0.95), "float32", None, 1.0),
        "ndvi packed": (np.clip(4000 + 3000 * z, -2000, 9500), "int16", -3000, 1e-4),
        "rain": (np.exp(6.5 + 0.5 * z), "uint16", 65535, 1.0),
        "rain of a desert": (np.maximum(0, 20 * z), "int16", -32768, 1.0),
        "temperature": (120 + 60 * z, "int16", -32768, 0.1),
        "tree cover": (np.clip(40 + 50 * z, 0, 100), "uint8", 255, 1.0),
        "tree cover of bytes": (np.clip(128 + 100 * z, 0, 255), "uint8", None, 1.0),
        "sand": (np.clip(450 + 150 * z, 0, 1000), "int16", -32768, 1.0),
        "soil depth": (np.minimum(200, np.maximum(0, 180 + 100 * z)), "uint8", 255, 1.0),
        "distance": (np.abs(z) * 30_000, "float32", None, 1.0),
        "curvature": (0.01 * random.standard_t(4, size=(SIDE, SIDE)), "float32", -9999, 1.0),
        "wetness": (7 + 2 * z + random.gamma(1, 2, size=(SIDE, SIDE)), "float32", -99999, 1.0),
        "burnt": (z > 1.5, "uint8", None, 1.0),
        "population": (np.where(z > 0.5, np.exp(4 + 2 * z), 0), "float32", -3.4e38, 1.0),
    }[kind]


def check_ordinary(folder: Path, kind: str, seed: int, gaps: bool) -> None:
    random = np.random.default_rng(seed)
    cells, dtype, nodata, scale = ordinary(kind, random)
    cells = np.rint(cells) if np.dtype(dtype).kind in "iu" else cells
    if gaps and nodata is not None:
        cells = np.where((np.mgrid[:SIDE, :SIDE][0] - 60) ** 2 + (np.mgrid[:SIDE, :SIDE][1] - 40) ** 2 < 900, nodata, cells)
    place = 4_000_000, 3_000_000, 250, "EPSG:3035"
    path = write_raster(folder / "r.tif", cells.astype(dtype), *place, scale=(scale, 0.0), nodata=nodata)
    layers = find_layers([path])
    assert not asked(lambda: check_layers(with_classes(layers, choose_classes(layers, []))))


@examples(20)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 9999), gaps=st.booleans())
def test_ordinary_rasters_raise_no_question(kind, seed, gaps, tmp_path_factory):
    check_ordinary(tmp_path_factory.mktemp("o"), kind, seed, gaps)


@pytest.mark.slow
@examples(EXAMPLES or 2000)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 9999), gaps=st.booleans())
def test_many_ordinary_rasters(kind, seed, gaps, tmp_path_factory):
    check_ordinary(tmp_path_factory.mktemp("o"), kind, seed, gaps)
