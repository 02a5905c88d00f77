"""Short trainings for tests: global and regional settings, weights of checkpoints, and what keeps the last epoch."""

from pathlib import Path

import torch

from soilcarbon.settings import GlobalSettings, RegionalSettings
from soilcarbon.training import distillation
from soilcarbon.training.run import train as train_run

ROOT = Path(__file__).resolve().parents[2]


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


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- learning rates, and no choice of an epoch ----------------------------------------

STAND = {"select_on": "none", "patience": 0}
