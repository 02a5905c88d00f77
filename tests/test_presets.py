"""Every YAML preset is executed once, on tiny data with the variables it names."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_dataset, slow_but
from map_world import draw_nothing

import pred
import train_global
import train_regional
from soilcarbon.categories import Category
from soilcarbon.commands import compare, densities, drivers, map, simulate, zones
from soilcarbon.io.files import run
from soilcarbon.io.pickles import dump_pickle
from soilcarbon.settings import PRESETS

pytestmark = pytest.mark.usefixtures("small_learners", "light_maps", "whole_maps")

QUICK = ["--epochs", "1", "--no-tensorboard", "--device", "cpu"]
WORLD = "model/pretrain_model/GSoilCPM.pth"
REGIONS = ("south_brazil", "kenya", "south_africa", "north_macedonia", "ethiopia", "burkina_faso", "guinea", "angola",
           "southeast_brazil", "west_amazonia")  # fmt: skip


def preset(name):
    return ["--config", str(PRESETS / f"{name}.yaml")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A working folder with a tiny example world, a tiny dataset resembling China, and a network pretrained for one epoch."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_nothing(patch)
        shutil.copytree(PRESETS, "configs")
        simulate.main(["--cell", "2", "--profiles", "600"])
        simulate.main(["--world", "china", "--cell", "1", "--profiles", "400"])
        train_global.main(QUICK)
    return folder


@pytest.fixture(autouse=True)
def here(tiny, monkeypatch):
    monkeypatch.chdir(tiny)


def executed(name, command, *arguments):
    assert run(lambda: command([*preset(name), *arguments])) == 0


def test_sim_global():
    assert Path(WORLD).is_file()  # by the fixture: without arguments the script takes this preset


def test_sim_regional_and_sim_map():
    executed("sim_regional", train_regional.main, *QUICK, "--members", "2", "--workers", "1")
    executed("sim_regional", pred.main)
    executed("sim_map", map.main, "--workers", "1")
    assert Path("results/anhui/soc.tif").is_file() and Path("results/anhui/scores.json").is_file()


@pytest.mark.slow
def test_taught():
    more = ["--data_dir", "data/sim/denmark", "--run", "taught", "--init_from", WORLD, "--global_data", "data/sim/global"]
    executed("taught", train_regional.main, *QUICK, *more, "--members", "2")


def test_published_layout():
    source, folder = Path("data/sim/denmark"), Path("DL_inputs/denmark")
    shutil.copytree(source / "patches", folder)
    (folder / "samples").mkdir()
    for theirs, ours in (("df_soc_0to30.csv", "samples.csv"), ("df_var_stats.csv", "stats.csv")):
        shutil.copy(source / ours, folder / "samples" / theirs)
    shutil.copytree(source / "split", folder / "samples" / "data_split")
    executed("published_layout", train_global.main, *QUICK, "--data_dir", str(folder), "--run", "published")


@pytest.mark.parametrize("name", ["realdata_global", "realdata_fine", "realdata_1km"])
def test_realdata_training(name, tmp_path):
    said = yaml.safe_load((PRESETS / f"{name}.yaml").read_text()).get("categories")
    categories = [Category(**each) for each in said or [{"name": "all", "variables": ["a", "b"]}]]
    make_dataset(tmp_path / "data", side=1 + 2 * max(each.radius for each in categories), categories=tuple(categories))
    executed(name, train_global.main, *QUICK, "--data_dir", str(tmp_path / "data"), "--members", "1")


@pytest.mark.parametrize(
    "name", slow_but(["sim_compare", "realdata_compare", "realdata_curves", "realdata_untouched"], "sim_compare")
)
def test_compare(name):
    for region in ("global", *REGIONS):
        link = Path("data/real") / region
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(Path("data/sim").resolve() / ("global" if region == "global" else "denmark"))
    shutil.copy(WORLD, "model/pretrain_model/realdata.pth")
    settings = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    few = ["--methods", "mean", "ridge", "pretrained", "--few_methods", "mean", "ridge", "--folds", "2", "--workers", "1"]
    few += ["--profiles", "20"] if settings.get("profiles") else []
    few += ["--sizes", "20", "--repeats", "1"] if "sizes" in settings else []
    executed(name, compare.main, "--regions", settings["regions"][0], *few, "--out", f"results/{name}")
    assert Path(f"results/{name}/report.html").is_file()


@pytest.mark.slow
def test_sim_drivers():
    few = ["--bootstraps", "10", "--learners", "forest", "--workers", "1", "--min_skill", "0"]
    executed("sim_drivers", drivers.main, *few)
    assert Path("results/drivers/report.html").is_file()


@pytest.mark.slow
def test_realdata_drivers(tmp_path):
    settings = yaml.safe_load((PRESETS / "realdata_drivers.yaml").read_text())
    named = [name for names in settings["drivers"].values() for name in names]
    folder = make_dataset(tmp_path / "data", n=400, side=1, categories=(Category(name="all", variables=tuple(named)),))
    random, table = np.random.default_rng(0), pd.read_csv(folder / "samples.csv")  # in every zone of the preset
    table["lon"], table["lat"] = random.uniform(-82, 180, 400), random.uniform(-56, 72, 400)
    table.to_csv(folder / "samples.csv", index=False)
    for name, low, high in (("bio01", -300, 400), ("bio12", 0, 3000)):
        values = random.uniform(low, high, 400).astype(np.float32)
        dump_pickle(folder / "patches" / f"{name}.pkl", {key: values[k].reshape(1, 1) for k, key in enumerate(table["profile_id"])})
    few = ["--bootstraps", "10", "--learners", "forest", "--workers", "1", "--min_skill", "0"]
    executed("realdata_drivers", drivers.main, *few, "--data_dir", str(tmp_path / "data"), "--out", "results/drivers_real")


def test_sim_zoned():
    densities.main(["--horizons", "data/sim/china/horizons.csv", "--out", "data/sim/china/densities.csv"])
    few = ["--targets", "socd_0_20", "--trees", "5", "--search_trees", "3", "--best", "2", "--candidates", "1", "--workers", "1"]
    executed("sim_zoned", zones.main, *few, "--no-network", "--folds", "2", "--inner_folds", "2")


def test_no_preset_is_forgotten():
    text = Path(__file__).read_text()
    assert not [path.stem for path in PRESETS.glob("*.yaml") if f'"{path.stem}"' not in text and path.stem != "sim_global"]
