"""Choice of the presets for real profiles: variants of target, fine-tuning and back-transform, without the test split.

    make realdata                                   # or at least its prepare.py call for data/real/global
    python experiments/choices.py [--folds 2] [--members 3]

The training and validation profiles of the global dataset are divided anew by half-degree blocks, `folds` times. In each
fold the network is pretrained, fine-tuned on each region of regions.csv by several variants, and scored on the fold's held-out
blocks of the region, beside two regional forests. Printed: means over folds and regions; change of MAE and RMSE against the
raw-target forest in %, and of CCC. The test split is not read.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from soilcarbon.benchmark.trained_runs import predict_baselines
from soilcarbon.commands.arguments import read_settings
from soilcarbon.network.network import SoilCarbonNet, predict
from soilcarbon.settings import GlobalSettings, RegionalSettings
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.stats import groups as grouping
from soilcarbon.stats import metrics as validation
from soilcarbon.training.ensemble import assemble, prepare_members, train_members
from soilcarbon.training.run import compute_statistics, follow_checkpoint, new_specification

GLOBAL = ["--config", "configs/realdata_global.yaml", "--no-tensorboard"]
PRETRAINING = {"squared error": [], "raw target": ["--target_transform", "none"]}
FINE_TUNING = {
    "nothing frozen, lr 3e-4": ["--lr", "3e-4"],
    "nothing frozen, lr 1e-4": ["--lr", "1e-4"],
    "nothing frozen, lr 1e-4, by CCC": ["--lr", "1e-4", "--select_on", "ccc"],
    "nothing frozen, lr 1e-4, by MAE": ["--lr", "1e-4", "--select_on", "mae"],
    "features frozen, lr 3e-4": ["--lr", "3e-4", "--freeze", "features"],
    "all but head frozen, lr 1e-3": ["--lr", "1e-3", "--freeze", "all-but-head"],
}


def fit(network, data, settings):
    members = prepare_members(network, data, settings, settings.start is not None, torch.device("cpu"))
    return assemble(members, train_members(members), settings)


def copy_of(network):
    return SoilCarbonNet.assemble(network.specification, [member.tensors() for member in network.members()])


def smearing_variants(network, data):
    """Return predictions of the test profiles by a factor from the validation profiles alone, and by none."""
    valid, test = data.split["valid"], data.split["test"]
    with torch.no_grad():
        output = network(torch.from_numpy(data.x[valid])).double().numpy()
    residual = (network.specification.standardised(data.y[valid]) - output) * network.specification.output_scale[1]
    factor = float(np.exp(residual).mean())
    for name, value in (("smearing by validation profiles alone", factor), ("no smearing (median)", 1.0)):
        network.respecify(smearing=(value,) * network.specification.members)
        yield name, predict(network, data.x[test])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=2, help="divisions of the profiles [2]")
    parser.add_argument("--members", type=int, default=3, help="of each network [3]")
    parser.add_argument("--regions", type=Path, default=Path("../shared/realdata/regions.csv"), help="name and bounds of regions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole_world = read_settings(GlobalSettings, "", GLOBAL)
    data = read_dataset(whole_world.data_dir, whole_world.categories)
    known = np.concatenate([data.split["train"], data.split["valid"]])
    units = grouping.spatial_groups(data.lon[known], data.lat[known], 0.5)
    regions = pd.read_csv(options.regions).to_dict("records")
    rows = []
    for fold in tqdm(range(options.folds), unit="fold", disable=None):
        split = grouping.train_valid_test_split(units, 0.1, 0.2, seed=fold)
        whole = replace(data, split={name: known[split == name] for name in ("train", "valid", "test")})
        statistics = compute_statistics(data.x[whole.split["train"]], data.categories)
        common = ["--members", str(options.members), "--seed", str(fold)]
        pretrained = {}
        for name, flags in PRETRAINING.items():
            settings = read_settings(GlobalSettings, "", [*GLOBAL, *common, *flags])
            pretrained[name] = fit(SoilCarbonNet(new_specification(settings, whole, statistics)), whole, settings)
        for region in regions:
            inside = (data.lon >= region["lon_min"]) & (data.lon <= region["lon_max"])
            inside &= (data.lat >= region["lat_min"]) & (data.lat <= region["lat_max"])
            part = replace(whole, split={name: chosen[inside[chosen]] for name, chosen in whole.split.items()})
            fitted, test = np.concatenate([part.split["train"], part.split["valid"]]), part.split["test"]
            predicted = predict_baselines(data, fitted, test, fold)
            for name, network in pretrained.items():
                predicted[f"pretrained, {name}"] = predict(network, data.x[test])[0]
            for name, flags in FINE_TUNING.items():
                arguments = [
                    "--data_dir",
                    "-",
                    "--init_from",
                    "the network above",
                    "--no-tensorboard",
                    "--select_on",
                    "rmse",
                    *common,
                    *flags,
                ]
                start = copy_of(pretrained["squared error"])
                settings = follow_checkpoint(read_settings(RegionalSettings, "", arguments), start, part)
                network = fit(start, part, settings)
                predicted[f"fine-tuned, {name}"] = predict(network, data.x[test])[0]
                if "features" in name:
                    predicted |= {f"fine-tuned, {name}, {how}": values for how, values in smearing_variants(network, part)}
            rows += [
                {"fold": fold, "region": region["region"], "method": m, **validation.scores(data.y[test], v)}
                for m, v in predicted.items()
            ]
    table = pd.DataFrame(rows)
    forest = table[table["method"] == "forest"].set_index(["fold", "region"])
    place = pd.MultiIndex.from_frame(table[["fold", "region"]])
    for name in ("mae", "rmse"):
        table[f"{name} %"] = 100 * (table[name].to_numpy() / forest[name].loc[place].to_numpy() - 1)
    table["ccc +"] = table["ccc"].to_numpy() - forest["ccc"].loc[place].to_numpy()
    columns = ["mae", "rmse", "me", "r2", "ccc", "mae %", "rmse %", "ccc +"]
    print(table.groupby("method")[columns].mean().sort_values("ccc +").round(3).to_string())


if __name__ == "__main__":
    main()
