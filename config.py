"""Values of the published pipeline: the table of covariate categories and the settings of the three scripts.

Edit the values here that apply to every run. What a YAML file (`--config FILE`) or a flag (`--lr 3e-4`) says wins over these
values; a setting that is in none of them has the default that `python train_global.py --help` shows. Values are those of
Zhang et al. 2025 (Geoderma 461, 117466) and its code where they are sound; CHANGELOG.md lists the differences.
"""

from typing import Any

from soilcarbon.categories import Category

# One branch of the network per category, one channel per variable, in this order: the order of the published weights.
# radius r: the branch sees a window of (2r+1) x (2r+1) cells. kind "classes": integer codes, one channel per class.
# A dataset folder made by `soilcarbon prepare` names its own categories in dataset.yaml; those are used for it.
CATEGORIES = (
    Category(name="band", variables=("band1", "band2", "band3", "band4", "band5", "band6", "band7"), radius=0),
    Category(name="topo", variables=("elevation", "slope"), radius=0),
    Category(name="climate", variables=tuple(f"bio{k:02d}" for k in range(1, 20)), radius=0),
    Category(name="vege", variables=("evi_mean", "evi_min", "evi_max"), radius=0),
    Category(name="bedrock", variables=("bedrock",), radius=0),
)

TRAIN_GLOBAL: dict[str, Any] = {
    "run": "GSoilCPM",  # names the checkpoint, model/pretrain_model/<run>.pth, and the logs, log/<run>/
    "target": "soc",  # column of the sample table, g/kg
    "epochs": 1000,
    "batch_size": 32,
    "lr": 1e-3,  # Adam, on the mean squared error
    "select_on": "r2",  # validation score that chooses the best epoch
    "seed": 314,
}

TRAIN_REGIONAL: dict[str, Any] = {
    "run": "anhui",  # names the checkpoint, model/<run>.pth
    "epochs": 200,
    "batch_size": 32,
    "lr": 3e-4,
    "freeze": "none",  # or "features" (branches and fusion), "all-but-head" (all but the last layer)
    "select_on": "ccc",
    "patience": 50,  # epochs without a better validation score after which training stops; 0: never
    "seed": 314,
}

PREDICT: dict[str, Any] = {
    "on": "test",  # or "train", "valid", "all"
    "level": 0.9,  # nominal coverage of the prediction intervals
}
