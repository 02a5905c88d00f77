"""Rasters and profiles of which a dataset is prepared, and how it is made, read and refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rasterio.transform import Affine

from soilcarbon.commands import prepare
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run

CELL = 0.25
WEST, NORTH = 10.0, 50.0


def raster(path: Path, *names: str, crs="EPSG:4326", cell=CELL, side=80, hole=False) -> Path:
    """Write bands lon, lat (their cells' centres) and others of noise; 20 x 20 degrees."""
    rows, columns = np.mgrid[0:side, 0:side] + 0.5
    rng = np.random.default_rng(0)
    known = {"lon": WEST + columns * cell, "lat": NORTH - rows * cell}
    bands = np.stack([known[name] if name in known else rng.normal(size=rows.shape) for name in names])
    if hole:
        bands[:, :8, :8] = np.nan
    write_geotiff(path, bands, names, Affine(cell, 0, WEST, 0, -cell, NORTH), crs)
    return path


def profiles(path: Path, n=200, seed=0, **columns) -> pd.DataFrame:
    """Write n profiles well inside the raster's known part."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "id": [f"p{k:03d}" for k in range(n)],
            "longitude": rng.uniform(13, 29, n).round(5),
            "latitude": rng.uniform(31, 47, n).round(5),
            "soc_gkg": rng.lognormal(2.5, 0.7, n).clip(0.1, 500),
            "year": 1990,
        }
    )
    for name, values in columns.items():
        table[name] = values
    table.to_csv(path, index=False)
    return table


def write_world(tmp_path: Path) -> Path:
    """Write rasters of three variables and 200 profiles."""
    (tmp_path / "rasters").mkdir()
    raster(tmp_path / "rasters" / "cov_place.tif", "lon", "lat")
    raster(tmp_path / "rasters" / "relief.tif", "slope")
    profiles(tmp_path / "points.csv")
    return tmp_path


def flags(world: Path, *more: str, points="points.csv", out="out", target="soc_gkg") -> list[str]:
    where = ["--points", str(world / points), "--rasters", str(world / "rasters"), "--out", str(world / out)]
    return [*where, *(["--target", target] if target else []), *more]


def made(world: Path, *more: str, **options) -> tuple[Path, dict]:
    prepare.main(flags(world, *more, **options))
    folder = world / options.get("out", "out")
    return folder, yaml.safe_load((folder / "dataset.yaml").read_text())


def split_of(folder: Path) -> dict[str, str]:
    return {i: name for name in ("train", "valid", "test") for i in pd.read_csv(folder / "split" / f"{name}.csv")["profile_id"]}


def refused(world: Path, capfd, *more: str, **options) -> str:
    """Run, expect status 2 and one or two plain lines, and no dataset; return the lines."""
    capfd.readouterr()
    assert run(lambda: prepare.main(flags(world, *more, **options))) == 2
    error = capfd.readouterr().err
    assert 1 <= len(error.strip().splitlines()) <= 2
    assert "Traceback" not in error
    out = world / options.get("out", "out")
    assert not (out / "dataset.yaml").exists()
    assert not (out / "samples.csv").exists()
    return error
