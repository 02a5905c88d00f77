"""Several processes train as one does, rank 0 alone writes, and a killed process ends the job, which resumes."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import epochs_of

import train_global
from soilcarbon.io.files import run
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.training import distributed

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "--",
]  # torchrun would else take --run for its own
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")


def command(dataset, run, *more, epochs=4):
    fixed = ["--data_dir", str(dataset), "--run", run, "--epochs", str(epochs), "--batch_size", "25", "--target_transform", "log1p"]
    return [str(ROOT / "train_global.py"), *fixed, "--device", "cpu", "--no-tensorboard", *more]


@pytest.fixture
def start():
    """Start a command; what still runs when the test is over is ended."""
    started = []

    def begin(words, **more):
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def workers_of(pid):
    """Return the processes that a launcher started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def weights(run):
    tensors = next(iter(load_checkpoint(Path(f"model/pretrain_model/{run}.pth")).members())).tensors()
    return np.concatenate([value.numpy().ravel() for value in tensors.values()])


def test_a_single_process_is_rank_0_and_has_the_whole_batch():
    assert distributed.size() == 1 and distributed.is_rank_zero()
    assert list(range(7))[distributed.share(7)] == list(range(7))
    assert distributed.broadcast(1.5) == 1.5 and distributed.broadcast(None) is None


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 32])
def test_shares_make_up_the_batch(monkeypatch, size, count):
    monkeypatch.setattr(distributed, "size", lambda: size)
    parts = []
    for rank in range(size):
        monkeypatch.setattr(distributed.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(list(range(count))[distributed.share(count)])
    assert sum(parts, []) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_of_them_writes(start, dataset, workplace, monkeypatch, capsys, caplog):
    """72 profiles in batches of 25: shares are unequal, and the last batch is smaller. This process is rank 0."""
    caplog.set_level("INFO")
    with socket.create_server(("127.0.0.1", 0)) as free:
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    other = start([sys.executable, *command(dataset, "both")], RANK="1", LOCAL_RANK="1", **job)
    with monkeypatch.context() as patched:
        for name, value in {**job, "RANK": "0", "LOCAL_RANK": "0"}.items():
            patched.setenv(name, value)
        join = partial(torch.distributed.init_process_group, timeout=timedelta(seconds=100))
        patched.setattr(torch.distributed, "init_process_group", join)
        patched.setattr("soilcarbon.commands.train.end_with_parent", lambda: None)  # these tests go on
        assert run(lambda: train_global.main(command(dataset, "both")[1:])) == 0
    assert capsys.readouterr().out.count("both -> model") == 1 and caplog.text.count("from scratch") == 1
    assert other.communicate(timeout=60) == ("", "") and other.returncode == 0
    assert run(lambda: train_global.main(command(dataset, "alone")[1:])) == 0
    ours, plain = (epochs_of(Path("log") / run) for run in ("both", "alone"))
    assert [each["epoch"] for each in ours] == [0, 1, 2, 3, 4]
    losses, expected = ([each["loss"] for each in rows[1:]] for rows in (ours, plain))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert weights("both") == pytest.approx(weights("alone"), rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_resumes_to_the_same_bits(start, dataset, workplace):
    often = Path("often.py")  # as train_global.py, but it keeps its state after every epoch
    lines = [
        "import sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from soilcarbon.training import loop",
        "from soilcarbon.io import files",
        "import train_global",
        "loop.SAVE_EVERY_S = 0",
    ]
    often.write_text("\n".join([*lines, "sys.exit(files.run(train_global.main))"]))

    def both(run, *more):
        return start([*LAUNCH, str(often), *command(dataset, run, *more, epochs=40)[1:]])

    whole, killed = both("whole"), both("killed")
    log, deadline = Path("log/killed/epochs.jsonl"), time.monotonic() + 100
    while not (log.is_file() and log.read_text().count("\n") > 2):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(workers_of(killed.pid)[1], signal.SIGKILL)
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode not in (0, None)
    assert not Path("model/pretrain_model/killed.pth").exists()
    again = both("killed", "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and "resuming after epoch" in errors
    assert whole.wait(timeout=120) == 0
    assert (weights("killed") == weights("whole")).all()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_within_a_second_of_their_launcher(start, dataset, workplace, number):
    launcher = start([*LAUNCH, *command(dataset, "killed", epochs=100_000)])
    log, deadline = Path("log/killed/epochs.jsonl"), time.monotonic() + 100
    while not (log.is_file() and log.read_text().count("\n") > 2):
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    ranks = workers_of(launcher.pid)
    assert len(ranks) == 2
    launcher.send_signal(number)
    launcher.wait(60)
    time.sleep(1)
    assert not [rank for rank in ranks if Path(f"/proc/{rank}/exe").exists()]
    assert not list(workplace.rglob("*.partial"))
