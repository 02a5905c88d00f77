"""Short trainings for tests: global and regional settings, weights of checkpoints, interruptions, what keeps the last epoch."""

import json
from pathlib import Path

import pytest
import torch

from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.settings import GlobalSettings, RegionalSettings
from soilcarbon.training import distillation, ensemble, loop
from soilcarbon.training.ensemble import RESUME
from soilcarbon.training.run import train as train_run

ROOT = Path(__file__).resolve().parents[1]


def quick(data_dir, **values):
    return GlobalSettings(**{"data_dir": data_dir, "run": "g", "epochs": 3, "tensorboard": False, "workers": 1} | values)


def regional(data_dir, **values):
    first = {
        "data_dir": data_dir,
        "run": "r",
        "epochs": 3,
        "tensorboard": False,
        "workers": 1,
        "init_from": Path("model/pretrain_model/g.pth"),
    }
    return RegionalSettings(**first | values)


def train(settings):
    return train_run(settings, distillation.distil if getattr(settings, "teacher", "none") != "none" else None)


def weights(path):
    return {name: value for name, value in torch.load(path, weights_only=True).items() if name != "_extra_state"}


def epochs_of(folder):
    """Return what a member's log folder says of each epoch."""
    return [json.loads(line) for line in (Path(folder) / "epochs.jsonl").read_text().splitlines()]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- interruptions -------------------------------------------------------------------


class StopError(Exception):
    """An interruption."""


def stop(monkeypatch, make, member, epoch):
    """Train until the state of a member after an epoch is on disk."""
    with monkeypatch.context() as patched:
        stop_after(patched, member, epoch)
        with pytest.raises(StopError):
            train(make(run="cut"))


def stop_after(patched, member, epoch):
    """Interrupt a run as soon as the state of a member after an epoch is on disk."""
    save = ensemble.save_state

    def saved(path, state):
        save(path, state)
        if path.name == RESUME and (path.parent.name.removeprefix("member_"), state["epoch"]) in (
            (str(member), epoch),
            ("cut" if member == 0 else "", epoch),
        ):
            raise StopError

    patched.setattr(ensemble, "save_state", saved)


def stop_then_resume(monkeypatch, make, stop_at, folder):
    """Train to the end; train anew, stop after an epoch of a member, and continue; return both checkpoints' weights."""
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    whole = train(make(run="whole"))
    stop(monkeypatch, make, *stop_at)
    assert train(make(run="cut", resume=True)) == whole
    first, second = (load_checkpoint(f"{folder}/{run}.pth") for run in ("whole", "cut"))
    assert first.calibration == second.calibration
    for name in ("epochs.jsonl", "member_1/epochs.jsonl"):
        assert Path(f"log/whole/{name}").read_text() == Path(f"log/cut/{name}").read_text()
    return weights(f"{folder}/whole.pth"), weights(f"{folder}/cut.pth")


# --- learning rates, and no choice of an epoch ----------------------------------------

STAND = {"select_on": "none", "patience": 0}
