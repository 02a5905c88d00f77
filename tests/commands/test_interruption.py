"""Every command: a second run of one name is refused, and a signal at any moment ends it in one line with nothing left over."""

import importlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import test_compare, test_drivers, test_map
from conftest import make_dataset
from simulated import ZONED_NAMES, write_zoned_samples

from soilcarbon.io.files import locked, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and locks")
LEFT = re.compile(r"\.soilcarbon-.*|.*\.lock|.*\.partial|shared\.pth|\.unfinished")


@pytest.mark.parametrize(
    ("command", "arguments", "folder", "file"),
    [
        ("prepare", "--points p.csv --rasters r --out data/a", None, "data/a"),
        ("simulate", "--out data/a", "data/a", None),
        ("densities", "--horizons h.csv --out data/a.csv", None, "data/a.csv"),
        ("covariates", "--dem dem.tif --out data/a.tif", None, "data/a.tif"),
    ],
)
def test_a_second_run_of_a_name_is_refused_before_anything_is_read(workplace, capsys, command, arguments, folder, file):
    module = importlib.import_module(f"soilcarbon.commands.{command}")
    with locked(*([Path(folder)] if folder else []), files=[Path(file)] if file else []):
        assert run(lambda: module.main(arguments.split())) == 2
        assert "another run is at work here" in capsys.readouterr().err
    assert run(lambda: module.main([*arguments.split(), "--config", "absent.yaml"])) == 2
    assert "another run" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "more", "folder", "file"),
    [
        ("train", "", None, "model/pretrain_model/a.pth"),
        ("train", "", "log/a", None),
        ("finetune", "--init_from none", None, "model/a.pth"),
        ("predict", "--checkpoint model/pretrain_model/m.pth", "results/a", None),
    ],
)
def test_a_second_run_of_a_name_is_refused_before_anything_is_written(dataset, workplace, capsys, command, more, folder, file):
    quick = ["--data_dir", str(dataset), "--epochs", "1", "--no-tensorboard"]
    if command == "predict":
        assert run(lambda: importlib.import_module("soilcarbon.commands.train").main([*quick, "--run", "m"])) == 0
        quick = quick[:2]
    module, before = importlib.import_module(f"soilcarbon.commands.{command}"), sorted(workplace.rglob("*"))
    with locked(*([Path(folder)] if folder else []), files=[Path(file)] if file else []):
        assert run(lambda: module.main([*quick, "--run", "a", *more.split()])) == 2
    assert "another run is at work here" in capsys.readouterr().err
    assert not [path for path in workplace.rglob("*") if path.is_file() and path not in before]


def start(*words, **more):
    words = [sys.executable, "-m", "soilcarbon", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # in the background of a shell Ctrl-C is ignored, and would be here
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=heed, **pipes, **more)


@pytest.mark.slow
def test_of_two_trainings_of_one_name_one_is_refused_and_one_ends_whole(dataset, workplace):
    both = [start("train", "--data_dir", dataset, "--run", "a", "--epochs", "150", "--no-tensorboard") for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert any("another run is at work here" in each and "Traceback" not in each for each in errors)
    assert not [path for path in Path().rglob("*") if LEFT.fullmatch(path.name)]


# --- signals at random moments -------------------------------------------------------------------------------------------


def prepare_map(folder):
    test_map.make_checkpoint(folder / "model/m.pth")
    test_map.write_rasters(folder / "rasters", test_map.covariates(300, 400), cell=0.01)
    return ["map", "--checkpoint", "model/m.pth", "--rasters", "rasters", "--out", "out/soc.tif", "--tile", "32", "--workers", "2"]


def prepare_prepare(folder):
    test_map.write_rasters(folder / "rasters", test_map.covariates(300, 400), cell=0.01)
    dice = np.random.default_rng(0)
    lon, lat = 10 + 3.9 * dice.random(3000), 50 - 2.9 * dice.random(3000)
    soc = dice.lognormal(2, 0.5, 3000)
    pd.DataFrame({"profile_id": np.arange(3000), "lon": lon, "lat": lat, "soc": soc}).to_csv(folder / "p.csv", index=False)
    return ["prepare", "--points", "p.csv", "--rasters", "rasters", "--out", "data/a", "--radius", "5"]


def prepare_train(folder):
    make_dataset(folder / "data")
    how = ["--epochs", "60", "--members", "2", "--workers", "2", "--validate_on", "folds", "--select_on", "none", "--patience", "0"]
    return ["finetune", "--data_dir", "data", "--run", "a", "--init_from", "none", *how]


def prepare_zones(folder):
    write_zoned_samples(folder)
    quick = ["--folds", "2", "--inner_folds", "2", "--candidates", "4", "--search_trees", "10", "--trees", "10", "--workers", "2"]
    return ["zones", "--samples", "s.csv", "--covariates", *ZONED_NAMES[:5], "--best", "4", "--block_size", "2", *quick]


def prepare_drivers(folder):
    path = test_drivers.make(folder)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"workers": 2}))
    return ["drivers", "--config", "d.yaml"]


def prepare_compare(folder):
    for name, n, west, seed in (("west", 150, 0, 1), ("world", 300, 10, 3)):
        test_compare.make(folder / "data" / name, n, west, seed)
    done = start("train", "--data_dir", "data/world", "--run", "w", "--epochs", "2", "--no-tensorboard", cwd=folder)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    (folder / "regional.yaml").write_text("epochs: 1\n")
    values = {"regions": ["data/west"], "global_data": "data/world", "pretrained": "model/pretrain_model/w.pth", "out": "out"}
    values |= {"regional": "regional.yaml", "folds": 2, "methods": ["mean", "ridge", "regional"], "few_methods": ["mean"]}
    (folder / "c.yaml").write_text(yaml.safe_dump(values | {"workers": 2}))
    return ["compare", "--config", "c.yaml"]


PREPARED = [prepare_prepare, prepare_train, prepare_map, prepare_zones, prepare_drivers, prepare_compare]


def in_session(number):
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def catches_signals(process):
    """Return whether a process has come so far that it answers SIGTERM itself."""
    try:
        words = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(int(words.get("SigCgt", "0"), 16) >> (signal.SIGTERM - 1) & 1)


def interrupt(words, folder, number, delay):
    """Start a command, send it a signal after a delay, and return its exit status and what it said."""
    process = start(*words, cwd=folder)
    while not catches_signals(process) and process.poll() is None:
        time.sleep(0.005)
    try:
        process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        if number == signal.SIGINT:  # of a terminal: to all processes
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process, errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("make", PREPARED, ids=lambda make: make.__name__.removeprefix("prepare_"))
def test_a_signal_at_any_moment_ends_a_command_in_one_line_and_leaves_nothing(workplace, make):
    words, seed = make(workplace), int(os.environ.get("SEED", "16"))
    dice = random.Random(seed)
    before = {path for path in workplace.rglob("*")}
    resumes = words[0] not in ("prepare",)
    for k in range(8):
        number = dice.choice([signal.SIGINT, signal.SIGTERM])
        began = time.monotonic()
        process, errors = interrupt([*words, *(["--resume"] if resumes and k else [])], workplace, number, dice.uniform(0, 12))
        about = f"seed {seed}, signal {number} after {time.monotonic() - began:.2f} s: {process.returncode}: {errors[-2000:]}"
        assert "Traceback" not in errors and "Exception" not in errors, about
        assert process.returncode in (0, 128 + number, -number), about  # the last: as the interpreter ended
        if process.returncode > 0:
            assert errors.count("interrupted") == 1 and errors.splitlines()[-1].startswith("interrupted"), about
        deadline = time.monotonic() + 1
        while in_session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not in_session(process.pid), about
        left = [path for path in workplace.rglob("*") if LEFT.fullmatch(path.name) and path not in before]
        assert not left, about
        if process.returncode <= 0:
            break
    else:
        process = start(*words, *(["--resume"] if resumes else []), cwd=workplace)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors


def test_a_thread_that_fails_while_the_process_is_ended_prints_nothing(workplace):
    """As the thread of a pool, whose workers are ended under it."""
    Path("fails.py").write_text(
        "import threading, time\n"
        "from soilcarbon.io import interruption\n"
        "def fail():\n    raise OSError('handle is closed')\n"
        "def end_workers():\n    threading.Thread(target=fail).start()\n    time.sleep(0.3)\n"
        "interruption._end_workers = end_workers\n"
        "interruption.end(143, 'interrupted')\n"
    )
    found = subprocess.run([sys.executable, "fails.py"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (143, "interrupted\n")
