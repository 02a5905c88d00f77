"""Rasters of a small world whose cells are known, written with oddities in all combinations.

Values are read as they are, voids as missing, classes as codes; or the command ends with a question. It never finds another value.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from oddities.outcome import EXAMPLES, asked, examples
from raster_files import write_raster
from rasterio.transform import Affine

from soilcarbon.commands import covariates, prepare
from soilcarbon.geo.grid import Grid
from soilcarbon.geo.plausibility import (
    ask_about_fill_values,
    check_layers,
    choose_classes,
    hidden_classes,
    sample_layers,
    with_classes,
)
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.geo.resampling import Stack
from soilcarbon.io.files import UserError
from soilcarbon.io.nodata import parse_nodata
from soilcarbon.io.pickles import load_pickle

SIDE, CELL, WEST, NORTH = 48, 0.25, 10.0, 50.0
ROWS, COLS = np.mgrid[:SIDE, :SIDE]
RELIEF = 20 + 1180 * (0.6 * ROWS + 0.4 * COLS + 4 * np.sin(COLS / 5.0)) / (SIDE + 8)  # a smooth field, from 20 to about 1100
CLASSES = np.random.default_rng(1).integers(0, 4, (6, 6))[ROWS // 8, COLS // 8]
VOID = (ROWS - 10) ** 2 + (COLS - 12) ** 2 < 30
PLACES = np.random.default_rng(3).permutation(SIDE * SIDE)[:60]
"""Cells of the profiles; some are void."""
TYPES = ("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
FILLS = (-32768.0, 255.0, 65535.0, -99999.0, -9999.0, -999.0, 1e20, -3.4e38, np.nan, 0.0, -2147483648.0, 32767.0)


@dataclass(frozen=True)
class Spelling:
    """How the field is written."""

    dtype: str = "float32"
    fill: float | None = None  # what the voids hold; None: there are none
    declared: str = "nodata"  # nodata, mask, not, other (another value is declared), given (by --nodata)
    scale: float = 1.0
    offset: float = 0.0
    west: str = "plain"  # plain, 0-360, -360
    south_up: bool = False
    bands: int = 1
    name: str = "relief"
    tiled: bool = False


spellings = st.builds(
    Spelling,
    dtype=st.sampled_from(TYPES),
    fill=st.one_of(st.none(), st.sampled_from(FILLS)),
    declared=st.sampled_from(("nodata", "mask", "not", "not", "other", "given")),
    scale=st.sampled_from((1.0, 1.0, 0.1, 10.0)),
    offset=st.sampled_from((0.0, 0.0, -100.0)),
    west=st.sampled_from(("plain", "0-360", "-360")),
    south_up=st.booleans(),
    bands=st.integers(1, 2),
    name=st.sampled_from(("relief", "lulc_2018", "a b", "dem.v2", "classes")),
    tiled=st.booleans(),
)


def fits(value: float, dtype: str) -> bool:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return not np.isfinite(value) or abs(value) <= np.finfo(kind).max
    return bool(np.isfinite(value)) and np.iinfo(kind).min <= value <= np.iinfo(kind).max


def put(path: Path, stored: np.ndarray, how: Spelling, nodata=None, mask=None, names=(), colours=()) -> Path:
    """Write stored values (bands, H, W), north up, as `how` says."""
    west = WEST + {"plain": 0.0, "0-360": 360.0, "-360": -360.0}[how.west]
    place = Affine(CELL, 0, west, 0, -CELL, NORTH)
    if how.south_up:
        place = Affine(CELL, 0, west, 0, CELL, NORTH - CELL * SIDE)
        stored, mask = stored[:, ::-1], None if mask is None else mask[::-1]
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16} if how.tiled else {}
    table = {int(code) % 256: (int(code) % 256, 90, 9, 255) for code in colours}
    bands = {"scale": (how.scale, how.offset), "mask": mask, "names": names, "colours": table}
    return write_raster(path, stored.astype(how.dtype), transform=place, nodata=nodata, **bands, **options)


def write_relief(folder: Path, how: Spelling) -> tuple[Path, dict[str, np.ndarray], float, list[str]] | None:
    """Write the relief, and return file, truth by variable (void = NaN), its precision, and settings; None: no such file."""
    stored = (RELIEF - how.offset) / how.scale
    if np.dtype(how.dtype).kind != "f":
        stored = np.rint(stored)
    if not (fits(stored.min(), how.dtype) and fits(stored.max(), how.dtype)):
        return None
    names = ("relief",) if how.bands == 1 else ("relief", "other")
    layers = np.stack([stored, stored[::-1, ::-1]][: how.bands])
    truth = layers * how.scale + how.offset
    nodata, mask, more = None, None, []
    if how.fill is not None:
        if not fits(how.fill, how.dtype):
            return None
        layers = np.where(VOID, how.fill, layers)
        truth = np.where(VOID, np.nan, truth)
        if how.declared == "nodata":
            nodata = how.fill
        elif how.declared in ("not", "other") and 0 <= how.fill <= stored.max():
            return None  # a value among others
        elif how.declared == "mask":
            mask = np.where(VOID, 0, 255).astype("uint8")
        elif how.declared == "other":
            nodata = next(
                value for value in (-1.0, 7.0, 254.0) if value != how.fill and fits(value, how.dtype) and value not in layers
            )
        elif how.declared == "given":
            if not np.isfinite(how.fill):
                return None
            more = ["--nodata", f"{how.fill:.10g}"]
    path = folder / f"{how.name}.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        put(path, layers, how, nodata, mask, names)
    precision = max(0.02, 1e-4 * 1200) if np.dtype(how.dtype).kind == "f" else 0.01
    return path, dict(zip(names, truth, strict=True)), precision, more


def write_profiles(folder: Path) -> Path:
    rows, cols = PLACES // SIDE, PLACES % SIDE
    table = pd.DataFrame({
        "profile_id": [f"p{k}" for k in range(len(PLACES))], "lon": WEST + CELL * (cols + 0.5), "lat": NORTH - CELL * (rows + 0.5),
        "soc": 10 + np.arange(len(PLACES)) % 17,
    })  # fmt: skip
    table.to_csv(folder / "profiles.csv", index=False)
    return folder / "profiles.csv"


def prepared(folder: Path, rasters: Path, *more: str) -> str:
    out = folder / "D"
    return asked(
        lambda: prepare.main(["--points", str(write_profiles(folder)), "--rasters", str(rasters), "--out", str(out), *more])
    )


def at_profiles(folder: Path, name: str) -> dict[int, float]:
    """Return number of the profile -> its own cell of a prepared variable."""
    table = pd.read_csv(folder / "D" / "samples.csv")
    patches = load_pickle(folder / "D" / "patches" / f"{name}.pkl")
    found = {}
    for k, key in enumerate(table["profile_id"]):
        patch = np.asarray(patches[key] if isinstance(patches, dict) else patches[k], float)
        value = float(patch[patch.shape[0] // 2, patch.shape[1] // 2])
        found[int(key[1:])] = np.nan if value == -9999 else value
    return found


# --- values ------------------------------------------------------------------------------------------------------------


def check_prepare(folder: Path, how: Spelling) -> str:
    written = write_relief(folder, how)
    if written is None:
        return "no such file"
    path, truth, precision, more = written
    if question := prepared(folder, path, *more):
        assert how.fill is not None and how.declared in ("not", "other"), question
        return question
    for name, cells in truth.items():
        expected = cells.ravel()[PLACES]
        found = at_profiles(folder, name)
        for k, value in enumerate(expected):
            if k not in found:
                assert np.isnan(value), f"profile {k} was lost, where {name} is {value}"
            else:
                assert found[k] == pytest.approx(value, abs=precision, nan_ok=True), f"{name} at {k}: {found[k]} for {value}"
        table = pd.read_csv(folder / "D" / "stats.csv").set_index("var_name")
        assert np.nanmin(expected) <= table.loc[name, "v_mean"] <= np.nanmax(expected)
    return ""


@examples(12)
@given(how=spellings)
def test_prepare_reads_values_voids_and_scales(how, tmp_path_factory):
    check_prepare(tmp_path_factory.mktemp("r"), how)


GRIDS = {
    "same": Grid("EPSG:4326", WEST, NORTH, (CELL, CELL), SIDE, SIDE),
    "finer": Grid("EPSG:4326", WEST, NORTH, (CELL / 3, CELL / 3), 3 * SIDE, 3 * SIDE),
    "coarser": Grid("EPSG:4326", WEST, NORTH, (2 * CELL, 2 * CELL), SIDE // 2, SIDE // 2),
    "moved": Grid("EPSG:4326", WEST + 0.4 * CELL, NORTH - 0.7 * CELL, (CELL, CELL), SIDE - 2, SIDE - 2),
}


def cells_of(path: Path, more: list[str], grid: Grid, classes: tuple[str, ...] | None = None) -> np.ndarray:
    layers = find_layers([path], parse_nodata(more[1:]))
    if classes is not None:
        layers = with_classes(layers, classes)
    ask_about_fill_values(layers)
    with Stack(layers, grid) as stack:
        return np.array(stack.read(0, 0, grid.height, grid.width), float)


def nearest_truth(cells: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return least and largest truth within two cells round each cell of a grid, voids left out."""
    rows, cols = np.mgrid[: grid.height, : grid.width]
    x, y = grid.coordinates(rows, cols)
    row, col = (NORTH - y) / CELL - 0.5, (x - WEST) / CELL - 0.5
    around = []
    for down in range(-2, 3):
        for right in range(-2, 3):
            at = np.clip(np.rint(row).astype(int) + down, 0, SIDE - 1), np.clip(np.rint(col).astype(int) + right, 0, SIDE - 1)
            around.append(cells[at])
    with np.errstate(all="ignore"):
        return np.nanmin(np.nan_to_num(around, nan=np.inf), axis=0), np.nanmax(np.nan_to_num(around, nan=-np.inf), axis=0)


def check_grid(folder: Path, how: Spelling, grid: Grid) -> str:
    written = write_relief(folder, how)
    if written is None:
        return "no such file"
    path, truth, precision, more = written
    try:
        found = cells_of(path, more, grid)
    except UserError as question:
        assert how.fill is not None and how.declared in ("not", "other"), question
        return str(question)
    for values, cells in zip(found, truth.values(), strict=True):
        low, high = nearest_truth(cells, grid)
        known = np.isfinite(values)
        assert (values[known] >= low[known] - precision).all() and (values[known] <= high[known] + precision).all()
        assert known.mean() > 0.8 * np.isfinite(cells).mean()
        if how.fill is not None and np.isnan(cells).any():
            assert (~known).any(), "voids were filled"
    return ""


@examples(12)
@given(how=spellings, grid=st.sampled_from(tuple(GRIDS)))
def test_a_map_reads_values_voids_and_scales_on_any_grid(how, grid, tmp_path_factory):
    check_grid(tmp_path_factory.mktemp("r"), how, GRIDS[grid])


@pytest.mark.slow
@examples(EXAMPLES or 1500)
@given(how=spellings, grid=st.sampled_from(tuple(GRIDS)))
def test_many_odd_rasters(how, grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    check_grid(folder, how, GRIDS[grid])
    check_prepare(folder, how)


# --- classes -----------------------------------------------------------------------------------------------------------

SERIES = {"small": (2, 5, 8, 11), "bytes": (10, 20, 210, 230), "mukey": (2774001, 2774002, 2774007, 2774013),
          "mid": (28547310, 28547312, 28547313, 28547319), "big": (2080000010, 2080000020, 2080000030, 2080000070),
          "pairs": (1, 2, 3, 4)}  # fmt: skip


def check_classes(folder: Path, codes: str, dtype: str, coloured: bool, said: bool, name: str, grid: Grid) -> str:
    series = np.array(SERIES[codes], float)
    if (
        not fits(series.max(), dtype)
        or (coloured and dtype not in ("uint8", "uint16"))
        or (dtype == "float32" and series.max() > 2**24)
    ):
        return "no such file"
    cells = series[CLASSES]
    path = put(folder / f"{name}.tif", cells[None], Spelling(dtype=dtype), colours=series if coloured else ())
    try:
        layers = find_layers([path])
        variable = layers[0].name
        chosen = choose_classes(layers, [variable] if said else [])
        layers = with_classes(layers, chosen)
        check_layers(layers)
        with Stack(layers, grid) as stack:
            found = np.unique(stack.read(0, 0, grid.height, grid.width).astype(float))
        windows, _ = cut_windows(layers, np.array([WEST + 1.1 * CELL]), np.array([NORTH - 1.1 * CELL]), 0)
    except UserError as question:
        return str(question)
    assert float(windows[variable].ravel()[0]) == cells[1, 1]
    if chosen:
        assert set(found[np.isfinite(found)]) <= set(series.tolist()), f"classes were mixed: {found}"
    else:
        assert not coloured
        assert hidden_classes(layers, sample_layers(layers)), "nothing is said of class codes"
    return ""


@examples(12)
@given(codes=st.sampled_from(tuple(SERIES)), dtype=st.sampled_from(TYPES), coloured=st.booleans(), said=st.booleans(),
       name=st.sampled_from(("lulc_2018", "x", "zones", "mean_temperature")), grid=st.sampled_from(tuple(GRIDS)))  # fmt: skip
def test_classes_are_codes_or_asked_about(codes, dtype, coloured, said, name, grid, tmp_path_factory):
    check_classes(tmp_path_factory.mktemp("r"), codes, dtype, coloured, said, name, GRIDS[grid])


# --- units -------------------------------------------------------------------------------------------------------------

TEMPERATURE = 3 + 17 * ROWS / SIDE  # degC
RAIN = 150 + 700 * COLS / SIDE  # mm
IN_UNITS = {
    "temperature": {"degC": (1.0, 0.0), "K": (1.0, 273.15), "0.1 degC": (10.0, 0.0), "0.1 K": (10.0, 2731.5), "degF": (1.8, 32.0)},
    "precipitation": {"mm": (1.0, 0.0), "m": (1e-3, 0.0), "0.1 mm": (10.0, 0.0), "kg m-2 s-1": (1 / 31_557_600, 0.0)},
}


def check_zones(folder: Path, units: dict[str, str], stated: bool) -> str:
    """Climate zones 1 to 4 of temperature and precipitation in any unit."""
    fields = []
    for name, values in (("temperature", TEMPERATURE), ("precipitation", RAIN)):
        factor, offset = IN_UNITS[name][units[name]]
        fields.append(values * factor + offset)
    path = put(folder / "climate.tif", np.stack(fields), Spelling(dtype="float64"), names=("mat", "map"))
    more = ["--units", *(f"{name}={unit}" for name, unit in units.items())] if stated else []
    if question := asked(lambda: covariates.main(["--climate", str(path), "--out", str(folder / "zones.tif"), *more])):
        return question
    with rasterio.open(folder / "zones.tif") as raster:
        zones = raster.read(1)
    wet, warm = RAIN >= 400, TEMPERATURE >= 10
    expected = np.select([wet & warm, wet & ~warm, ~wet & ~warm, ~wet & warm], [1, 2, 3, 4])
    edge = (np.abs(RAIN - 400) < 1) | (np.abs(TEMPERATURE - 10) < 0.01)
    groups = {(int(a), int(b)) for a, b in zip(zones[~edge], expected[~edge], strict=True)}
    assert len(groups) == 4, f"zones are others: {groups}"
    return ""


@examples(15)
@given(
    temperature=st.sampled_from(tuple(IN_UNITS["temperature"])), precipitation=st.sampled_from(tuple(IN_UNITS["precipitation"])),
    stated=st.booleans(),
)  # fmt: skip
def test_climate_in_any_unit(temperature, precipitation, stated, tmp_path_factory):
    units = {"temperature": temperature, "precipitation": precipitation}
    question = check_zones(tmp_path_factory.mktemp("z"), units, stated)
    assert not (question and (stated or list(units.values()) == ["degC", "mm"])), question
