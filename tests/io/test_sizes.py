"""Files that claim or have a great size, and hold nothing: refused in one or two lines, with little memory."""

import subprocess
import sys

import pytest
import rasterio
from rasterio.transform import from_origin

READ = {
    "x.csv": "from soilcarbon.io.tables import read_text as read",
    "x.geojson": "from soilcarbon.io.points import read_points as read",
    "x.gpkg": "from soilcarbon.io.points import read_points as read",
    "x.yaml": "from soilcarbon.io.files import read_yaml as read",
    "x.pkl": "from soilcarbon.io.pickles import load_pickle as read",
    "x.npz": "from soilcarbon.zonal.persistence import load_zoned as read",
    "x.tif": "from soilcarbon.geo.raster import find_layers; read = lambda path: find_layers([path])",
}
PROGRAM = """
import resource, sys
from pathlib import Path
from soilcarbon.io.files import run
{load}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = run(lambda: read(Path(sys.argv[1])))
print(status, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def outcome(load, path):
    """Return exit status, MiB taken, and the lines of the error."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(load=load), str(path)], capture_output=True, text=True, timeout=60)
    status, taken = done.stdout.split()
    return int(status), int(taken), done.stderr.strip().splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and memory in KiB")
@pytest.mark.parametrize("name", READ)
def test_two_gigabytes_of_zeros_are_refused_unread(name, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**31)
    status, taken, error = outcome(READ[name], tmp_path / name)
    assert status == 2 and taken < 300, (status, taken)
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
    load = "import numpy as np; from soilcarbon.geo.raster import cut_windows, find_layers\n"
    load += "read = lambda path: cut_windows(find_layers([path]), np.linspace(20.1, 23.9, 200), np.linspace(39.1, 42.9, 200), 1)"
    status, taken, _ = outcome(load, path)
    assert status == 0 and taken < 1000, (status, taken)
