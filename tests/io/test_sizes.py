"""Files that claim or have a great size, and hold nothing: refused in one or two lines, with little memory."""

import re
import subprocess
import sys

import pytest
import rasterio
from rasterio.transform import from_origin

PROGRAM = """
import importlib, resource, sys
from pathlib import Path
import numpy as np
from soilcarbon.io.files import run
for each in sys.argv[1:]:
    module, name, path = each.split(":")
    read = getattr(importlib.import_module(f"soilcarbon.{module}"), name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = run(lambda: read(Path(path)))
    print(status, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, flush=True)
    print("end of", path, file=sys.stderr, flush=True)
"""
READ = {
    "x.csv": "io.tables:read_text",
    "x.geojson": "io.points:read_points",
    "x.gpkg": "io.points:read_points",
    "x.yaml": "io.files:read_yaml",
    "x.pkl": "io.pickles:load_pickle",
    "x.tif": "geo.grid:raster_grid",
    "x.npz": "zonal.persistence:load_zoned",
}


def outcomes(program, *words):
    """Return exit status, MiB taken and the lines of the error of each `module:reader:path`, one after the other in a process."""
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120)
    errors = re.split(r"^end of .*\n", done.stderr, flags=re.MULTILINE)[:-1]
    taken = [map(int, line.split()) for line in done.stdout.splitlines()]
    return [(*each, error.strip().splitlines()) for each, error in zip(taken, errors, strict=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and memory in KiB")
@pytest.mark.parametrize("names", [list(READ)[:-1], pytest.param(["x.npz"], marks=pytest.mark.slow)])  # imports scikit-learn
def test_two_gigabytes_of_zeros_are_refused_unread(tmp_path, names):
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**31)
    found = outcomes(PROGRAM, *(f"{READ[name]}:{tmp_path / name}" for name in names))
    for name, (status, taken, error) in zip(names, found, strict=True):
        assert status == 2 and taken < 300, (name, status, taken)
        assert len(error) <= 2 and name in error[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="memory in KiB")
def test_a_raster_of_ten_gigabytes_is_cut_at_the_profiles_alone(tmp_path):
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=100_000, height=100_000, count=1, dtype="uint8", crs="EPSG:4326", tiled=True,
        transform=from_origin(20, 43, 4e-5, 4e-5), blockxsize=512, blockysize=512, compress="deflate", SPARSE_OK=True,
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 10**6
    cut = "lambda path: cut_windows(find_layers([path]), np.linspace(20.1, 23.9, 200), np.linspace(39.1, 42.9, 200), 1)"
    program = PROGRAM.replace('getattr(importlib.import_module(f"soilcarbon.{module}"), name)', cut)
    program = program.replace(
        "import numpy as np", "import numpy as np\nfrom soilcarbon.geo.raster import cut_windows, find_layers"
    )
    ((status, taken, _),) = outcomes(program, f"::{path}")
    assert status == 0 and taken < 1000, (status, taken)
