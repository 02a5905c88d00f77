"""A map that is interrupted, killed, or made by several processes has the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from damage import damage
from map_world import ROOT, covariates, interrupt_after, make, make_checkpoint, make_world, refused, write_boxes, write_rasters

from soilcarbon.mapping import tiles as mapping

pytestmark = pytest.mark.usefixtures("light_maps")


@pytest.fixture
def world(workplace):
    return make_world(workplace, members=1)


def test_resumed_map_has_the_same_bytes_and_a_torn_tile_is_not_believed(world, monkeypatch, caplog):
    assert make("--tile", "16") == 0
    expected = Path("out/soc.tif").read_bytes()
    shutil.rmtree("out")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 11)
        assert make("--tile", "16") == 130
    assert not Path("out/soc.tif").exists()
    tiles = sorted(Path("out/.soc.tif.tiles").glob("0*.tif"))
    assert 11 <= len(tiles) < 16
    damage(tiles[3:9], seed=16)
    computed = []
    real = mapping.compute_tile
    monkeypatch.setattr(mapping, "compute_tile", lambda *which: computed.append(which[2]) or real(*which))
    assert make("--tile", "16", "--resume") == 0
    assert len(computed) == 30 - (len(tiles) - 6)
    assert Path("out/soc.tif").read_bytes() == expected
    assert not Path("out/.soc.tif.tiles").exists()


def test_resuming_another_map_is_refused(world, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        make("--tile", "16")
    capsys.readouterr()
    assert make("--tile", "32", "--max_missing", "0.1", "--resume") == 2
    refused(capsys, "tile", "max_missing", "--resume")
    write_boxes(north=(10, 47, 19, 50))
    assert make("--tile", "16", "--zones", "z.geojson", "--resume") == 2
    refused(capsys, "areas")
    write_rasters(Path("rasters"), covariates(seed=1))
    assert make("--tile", "16", "--resume") == 2
    refused(capsys, "stamps")


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_threads(world):
    assert make("--tile", "32", "--workers", "1") == 0
    assert make("--tile", "32", "--workers", "2", out="out/two.tif") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/two.tif").read_bytes()


COMMAND = [sys.executable, "-m", "soilcarbon", "map", "--checkpoint", "model/m.pth", "--rasters", "rasters", "--out", "out/soc.tif"]


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(workplace):
    make_checkpoint(Path("model/m.pth"))
    write_rasters(Path("rasters"), covariates(300, 400), cell=0.01)
    assert make("--tile", "32", "--workers", "1", out="out/here.tif") == 0
    command = [*COMMAND, "--tile", "32", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Path("out/.soc.tif.tiles")
    while process.poll() is None and len(list(folder.glob("0*.tif"))) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("out/soc.tif").exists()
    assert make("--tile", "32", "--workers", "1", "--resume") == 0
    assert Path("out/soc.tif").read_bytes() == Path("out/here.tif").read_bytes()


@pytest.mark.slow
def test_dask_workers_give_the_same_bytes_though_one_is_killed(workplace):
    distributed = pytest.importorskip("distributed", reason="pip install 'dask[distributed]'")
    make_checkpoint(Path("model/m.pth"))
    write_rasters(Path("rasters"), covariates(300, 400), cell=0.01)
    assert make("--tile", "32", "--workers", "1", out="out/here.tif") == 0
    script = f"""
import os, sys, signal, subprocess, time
from pathlib import Path
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        process = subprocess.Popen({COMMAND!r} + ["--tile", "32", "--scheduler", cluster.scheduler_address])
        folder = Path("out/.soc.tif.tiles")
        while process.poll() is None and len(list(folder.glob("0*.tif"))) < 15:
            time.sleep(0.02)
        assert process.poll() is None, "finished before a worker could be killed"
        os.kill(list(cluster.workers.values())[0].pid, signal.SIGKILL)
        sys.exit(process.wait())
"""
    Path("cluster.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "cluster.py"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path("out/soc.tif").read_bytes() == Path("out/here.tif").read_bytes()
    assert distributed.__version__
