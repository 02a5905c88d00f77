"""The scripts end to end: files they write, and exit status 2 with one or two lines for a user's mistake."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import FEW_CATEGORIES, PUBLISHED_WEIGHTS, make_dataset, needs_published_weights

import pred
import train_global
import train_regional
from soilcarbon.__main__ import dispatch
from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.commands.arguments import COMMANDS
from soilcarbon.io.files import run
from soilcarbon.io.manifest import MANIFEST
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.stats.metrics import scores

pytestmark = pytest.mark.usefixtures("no_drawing")
ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--epochs", "2", "--no-tensorboard", "--workers", "1"]


def pretrain(folder, *more):
    return run(lambda: train_global.main(["--data_dir", str(folder), "--run", "g", *QUICK, *more]))


def fine_tune(folder, *more):
    start = ["--init_from", "model/pretrain_model/g.pth"]
    return run(lambda: train_regional.main(["--data_dir", str(folder), "--run", "r", *start, *QUICK, *more]))


def predict(folder, *more):
    return run(lambda: pred.main(["--data_dir", str(folder), "--checkpoint", "model/pretrain_model/g.pth", *more]))


# --- what they write ----------------------------------------------------------------------------------------------------


def test_from_dataset_to_scores(dataset, workplace, capsys):
    assert pretrain(dataset, "--lr", "3e-4") == 0
    assert fine_tune(dataset, "--members", "2") == 0
    assert run(lambda: pred.main(["--checkpoint", "model/r.pth", "--data_dir", str(dataset)])) == 0
    table = pd.read_csv("results/r/predictions.csv")
    expected = "profile_id lon lat observed predicted residual unit sd member_0 member_1 lower upper di lpd inside"
    assert list(table) == expected.split()
    np.testing.assert_array_equal(table["inside"], table["lpd"] > 0)
    assert set(table["profile_id"]) == set(pd.read_csv(dataset / "split/test.csv")["profile_id"])
    np.testing.assert_allclose(table["residual"], table["observed"] - table["predicted"])
    np.testing.assert_allclose(table["sd"], table[["member_0", "member_1"]].std(axis=1, ddof=1))
    truth = pd.read_csv(dataset / "samples.csv").set_index("profile_id").loc[table["profile_id"], "soc"]
    np.testing.assert_allclose(table["observed"], truth)
    saved = json.loads(Path("results/r/scores.json").read_text())
    expected = scores(table["observed"].to_numpy(), table["predicted"].to_numpy())
    assert saved["scores"]["n"] == 24
    for name in ("rmse", "mae", "me", "r2", "ccc"):
        assert saved["scores"][name]["value"] == pytest.approx(expected[name])
        assert saved["scores"][name]["low"] <= saved["scores"][name]["value"] <= saved["scores"][name]["high"]
    assert all(Path(f"results/r/{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("observed_predicted", "residual_map"))
    assert expected == pytest.approx(json.loads(Path("log/r/scores.json").read_text())["test"])  # as logged by training
    words = capsys.readouterr().out
    assert f"{expected['rmse']:.3f}" in words
    held = ((table["lower"] <= table["observed"]) & (table["observed"] <= table["upper"])).mean()
    assert (saved["coverage"]["level"], saved["coverage"]["n"], saved["coverage"]["value"]) == (0.9, 24, pytest.approx(held))
    assert saved["coverage"]["low"] <= held <= saved["coverage"]["high"]
    assert f"90% intervals cover {held:.1%} of them" in words
    assert yaml.safe_load(Path("log/g/settings.yaml").read_text())["lr"] == 3e-4  # the settings lie beside every result
    assert yaml.safe_load(Path("model/pretrain_model/g.yaml").read_text())["record"]["settings"]["lr"] == 3e-4
    assert "data_dir" in yaml.safe_load(Path("results/r/settings.yaml").read_text())


def test_a_profile_that_lacks_a_covariate_is_neither_in_the_area_of_applicability_nor_outside(dataset, workplace, capsys):
    assert pretrain(dataset) == 0
    patches = load_pickle(dataset / "patches" / "bio01.pkl")
    gappy = [profile for k, profile in enumerate(pd.read_csv(dataset / "split/test.csv")["profile_id"]) if k < 5]
    dump_pickle(dataset / "patches" / "bio01.pkl", patches | {profile: np.full((3, 3), np.nan) for profile in gappy})
    assert predict(dataset) == 0
    table = pd.read_csv("results/g/predictions.csv").set_index("profile_id")
    assert table.loc[gappy, ["di", "lpd", "inside"]].isna().all(axis=None)
    assert table.drop(index=gappy)[["di", "lpd", "inside"]].notna().all(axis=None)
    assert np.isfinite(table["predicted"]).all()
    assert "5 lack a covariate: whether they lie in the area of applicability is not known" in capsys.readouterr().out


def test_intervals_are_those_of_the_checkpoint_and_of_the_level(dataset, workplace, capsys):
    assert pretrain(dataset, "--target_transform", "log1p", "--center", "median", "--select_on", "none") == 0
    found = {}
    for level in ("0.5", "0.9"):
        assert predict(dataset, "--level", level, "--on", "all") == 0
        found[level] = pd.read_csv("results/g/predictions_all.csv")
        lower, upper = load_checkpoint("model/pretrain_model/g.pth").calibration.interval(found[level]["predicted"], float(level))
        np.testing.assert_allclose(found[level]["lower"], lower)
        np.testing.assert_allclose(found[level]["upper"], upper)
    assert "sd" not in found["0.5"]
    capsys.readouterr()
    assert predict(dataset, "--level", "0.99", "--on", "all") == 2  # 24 profiles cannot support such a level
    assert "level = 0.99: the checkpoint's held-out profiles support intervals up to 0.960" in capsys.readouterr().err
    narrow, wide = found.values()
    np.testing.assert_array_equal(narrow["predicted"], wide["predicted"])
    assert ((narrow["upper"] - narrow["lower"]) < (wide["upper"] - wide["lower"])).all()
    assert (wide["lower"] <= wide["predicted"]).all()
    assert (wide["predicted"] <= wide["upper"]).all()
    saved = json.loads(Path("results/g/scores_all.json").read_text())["coverage"]
    assert saved["level"] == 0.9
    valid = wide["profile_id"].isin(pd.read_csv(dataset / "split/valid.csv")["profile_id"])
    inside = (wide["lower"] <= wide["observed"]) & (wide["observed"] <= wide["upper"])
    assert inside[valid].sum() >= 22  # the 24 that calibrated: 0.9 of 25 is the 23rd


def test_without_a_calibration_there_are_no_intervals(dataset, workplace, capsys):
    assert pretrain(dataset) == 0
    network = load_checkpoint("model/pretrain_model/g.pth")
    network.calibration = None
    save_checkpoint(network, Path("model/pretrain_model/g.pth"))
    assert predict(dataset) == 0
    assert not {"lower", "upper"} & set(pd.read_csv("results/g/predictions.csv"))
    assert json.loads(Path("results/g/scores.json").read_text())["coverage"] == {}
    assert "intervals cover" not in capsys.readouterr().out


def test_prediction_scores_the_column_the_network_was_trained_on(dataset, workplace):
    table = pd.read_csv(dataset / "samples.csv")
    table.assign(humus=table["soc"] / 10).to_csv(dataset / "samples.csv", index=False)
    assert pretrain(dataset, "--target", "humus") == 0
    assert predict(dataset) == 0
    assert pd.read_csv("results/g/predictions.csv")["observed"].max() < table["soc"].max() / 5


def test_results_of_other_profiles_stand_beside_those_of_the_test(tmp_path, dataset, workplace):
    assert pretrain(dataset) == 0
    assert predict(dataset) == 0
    folder = Path("results/g")
    (folder / "mine.png").write_text("the user's")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    elsewhere = make_dataset(tmp_path / "kenya", seed=1, categories=FEW_CATEGORIES)
    assert predict(elsewhere, "--on", "all") == 0
    assert predict(dataset, "--on", "valid") == 0
    assert predict(elsewhere) == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    names = {path.name for path in folder.glob("predictions*.csv")}
    assert names == {"predictions.csv", "predictions_all_kenya.csv", "predictions_valid.csv", "predictions_test_kenya.csv"}
    namesake = make_dataset(tmp_path / "other" / "kenya", categories=FEW_CATEGORIES)
    assert predict(namesake, "--on", "all") == 2  # of the same name, and another place


def test_files_of_the_user_are_neither_replaced_nor_removed(dataset, workplace, capsys):
    assert pretrain(dataset) == 0
    (workplace / "mine").mkdir()
    for name in ("figure.png", "residual_map.png"):
        (workplace / "mine" / name).write_text("the user's")
    assert predict(dataset, "--results_dir", "mine") == 2
    assert "residual_map.png: would be replaced, and was not written here" in lines(capsys)
    assert sorted(path.name for path in (workplace / "mine").iterdir()) == ["figure.png", "residual_map.png"]


def test_fine_tuning_requires_a_checkpoint(dataset, workplace, capsys):
    assert run(lambda: train_regional.main(["--data_dir", str(dataset), "--run", "r", *QUICK])) == 2
    assert "--init_from is required" in lines(capsys)
    assert run(lambda: train_regional.main(["--data_dir", str(dataset), "--run", "r", "--init_from", "none", *QUICK])) == 0


def test_prediction_needs_only_the_checkpoint(dataset, workplace):
    folder = dataset
    assert pretrain(folder, "--missing", "zero") == 0
    assert predict(folder, "--on", "all") == 0
    first = pd.read_csv("results/g/predictions_all.csv")
    for name in ("stats.csv", "dataset.yaml"):
        (folder / name).unlink()
    shutil.rmtree(folder / "split")
    pd.read_csv(folder / "samples.csv").drop(columns="soc").to_csv(folder / "samples.csv", index=False)
    shutil.rmtree("results")
    assert predict(folder, "--on", "all") == 0
    second = pd.read_csv("results/g/predictions_all.csv")
    np.testing.assert_array_equal(first["predicted"], second["predicted"])
    assert second["observed"].isna().all()
    assert json.loads(Path("results/g/scores_all.json").read_text())["scores"] == {"n": 0}


def test_tensorboard_holds_graph_losses_scores_histograms_and_settings(dataset, workplace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(lambda: train_global.main(["--data_dir", str(dataset), "--run", "g", "--epochs", "3"])) == 0
    log = EventAccumulator("log/g", size_guidance={"histograms": 0}).Reload()
    assert {"loss/train", "rmse/train", "rmse/valid", "ccc/valid", "final/test_r2"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("rmse/valid")] == [0, 1, 2, 3]
    assert "classifier/0/weight" in log.Tags()["histograms"]
    assert log.Tags()["graph"]
    assert any("hparams" in name for name in log.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name.split())


def test_logs_of_an_older_run_of_the_name_are_replaced(dataset, workplace):
    for epochs in ("3", "2"):
        assert run(lambda epochs=epochs: train_global.main(["--data_dir", str(dataset), "--run", "g", "--epochs", epochs])) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert [event.step for event in EventAccumulator("log/g").Reload().Scalars("rmse/valid")] == [0, 1, 2]
    assert len(Path("log/g/epochs.jsonl").read_text().splitlines()) == 3


def published_folder(tmp_path):
    """A folder in the layout of the published code, with its -9999."""
    folder = make_dataset(tmp_path / "data")
    published = tmp_path / "DL_inputs" / "global"
    for name in (name for category in PUBLISHED_CATEGORIES for name in category.variables):
        patches = load_pickle(folder / "patches" / f"{name}.pkl")
        patches["P0003"] = np.full_like(patches["P0003"], -9999)
        dump_pickle(published / f"{name}.pkl", patches)
    (published / "samples").mkdir()
    for source, name in (("samples.csv", "df_soc_0to30.csv"), ("stats.csv", "df_var_stats.csv"), ("split", "data_split")):
        (folder / source).rename(published / "samples" / name)
    return published


@needs_published_weights
def test_the_published_world_opens(tmp_path, workplace):
    """Published layout, published weights, published treatment of missing cells: the numbers follow by hand."""
    folder = published_folder(tmp_path)
    preset = ["--config", str(ROOT / "configs/published_layout.yaml"), "--data_dir", str(folder), "--missing", "zero"]
    assert run(lambda: pred.main([*preset, "--checkpoint", str(PUBLISHED_WEIGHTS), "--on", "all"])) == 0
    table = pd.read_csv("results/GSoilCPM/predictions_all.csv")
    stats = pd.read_csv(folder / "samples/df_var_stats.csv").set_index("var_name")
    z = []
    for name in (name for category in PUBLISHED_CATEGORIES for name in category.variables):
        patches = load_pickle(folder / f"{name}.pkl")
        values = np.array([patches[k][1, 1] for k in table["profile_id"]], float)
        values[values == -9999] = 0
        z.append((values - stats.loc[name, "v_mean"]) / stats.loc[name, "v_std"])
    with torch.no_grad():
        expected = load_checkpoint(PUBLISHED_WEIGHTS)(torch.tensor(np.array(z).T, dtype=torch.float32))
    np.testing.assert_allclose(table["predicted"], expected, rtol=1e-4)
    assert run(lambda: train_regional.main([*preset, "--init_from", str(PUBLISHED_WEIGHTS), "--run", "r", *QUICK])) == 0
    assert load_checkpoint("model/r.pth").specification.missing == "zero"
    assert run(lambda: train_global.main([*preset, "--run", "g", *QUICK])) == 0


def test_help_is_quick_to_import_and_states_the_purpose():
    """One process prints the help of the scripts and of every command, and then what is loaded."""
    heavy = ("torch", "pandas", "rasterio", "sklearn", "scipy", "matplotlib", "tensorboard")
    program = f"""
import sys, importlib
for name in {["train_global", "train_regional", "pred", *(f"soilcarbon.commands.{name}" for name in COMMANDS)]}:
    try:
        print("==", name)
        importlib.import_module(name).main(["--help"])
    except SystemExit as done:
        assert not done.code, name
    assert not set({heavy}) & set(sys.modules), name
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, text in (part.split("\n", 1) for part in done.stdout.split("== ")[1:]):
        assert name.rpartition(".")[2] in text


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 0, "usage: soilcarbon COMMAND"),
        (["--version"], 0, "soilcarbon 0."),
        (["mapp"], 2, "error: no command 'mapp'; did you mean 'map'?"),
        (["map", "--tyle", "3"], 2, "error: unknown argument '--tyle'; did you mean '--tile'?"),
    ],
)
def test_command_line_of_the_package(words, status, said, capsys):
    assert run(lambda: dispatch(words)) == status
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize("words", [["-m", "soilcarbon", "mapp"], ["pred.py", "--mapp", "3"]])
def test_a_mistake_is_the_status_of_the_process(words):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_first_step_waits_for_nothing_that_is_needed_later(dataset, workplace):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from soilcarbon.training.accelerator import Accelerator; import train_global\n"
        "plain = Accelerator.epoch\n"
        "def first(*given):\n"
        "    plain(*given)\n"
        "    later = {'sklearn', 'scipy', 'rasterio', 'matplotlib', 'tensorboard', 'torch._dynamo'}\n"
        "    print('late:', *later & set(sys.modules))\n"
        "    sys.exit()\n"
        "Accelerator.epoch = first\n"
        f"train_global.main(['--data_dir', {str(dataset)!r}, '--no-tensorboard'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "late:\n"


# --- mistakes -----------------------------------------------------------------------------------------------------------


def edit(folder, name, change):
    table = pd.read_csv(folder / name)
    pd.DataFrame(change(table)).to_csv(folder / name, index=False)


def set_first(column, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[0, column] = value
        return table

    return change


def spoil_patches(folder, change):
    path = folder / "patches" / "slope.pkl"
    dump_pickle(path, change(load_pickle(path)))


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


MISTAKES = {
    "no sample table": (lambda f: (f / "samples.csv").unlink(), "samples.csv: no sample table"),
    "text SOC": (lambda f: edit(f, "samples.csv", set_first("soc", "high")), "first 'high' at profile 'P0000'"),
    "profile in two splits": (lambda f: edit(f, "split/test.csv", set_first("profile_id", "P0000")), "already in the train split"),
    "no patch file": (lambda f: (f / "patches/slope.pkl").unlink(), "no patches of variable 'slope'"),
    "constant variable": (lambda f: spoil_patches(f, lambda p: {k: np.ones((3, 3)) for k in p}), "'slope' is constant"),
    "all missing": (lambda f: spoil_patches(f, lambda p: {k: np.full((3, 3), -9999.0) for k in p}), "'slope' is missing at all"),
    "zero deviation": (lambda f: edit(f, "stats.csv", set_first("v_std", 0)), "deviation must be above 0"),
    "hostile pickle": (lambda f: (f / "patches/slope.pkl").write_bytes(pickle.dumps(Hostile())), "refused"),
}
"""One of each table, and what is checked of them together; others are in soil/test_dataset and io/test_patches."""


def lines(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert 1 <= len(error.strip().splitlines()) <= 2
    return error


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_dataset_ends_with_status_2_and_a_plain_line(dataset, workplace, capsys, name):
    spoil, words = MISTAKES[name]
    spoil(dataset)
    assert pretrain(dataset) == 2
    assert words in lines(capsys)
    assert not Path("model/pretrain_model/g.pth").exists()
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda"], "finds no CUDA device"),
        (["--lr", "x"], "setting lr = 'x'"),
        (["--target", "som"], "no column 'som'"),
        (["--model_dir", "file/model"], "cannot be written"),
        (["--log_dir", "file"], "cannot be written"),
    ],
)
def test_a_mistake_on_the_command_line_likewise(dataset, workplace, capsys, arguments, words):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    Path("file").write_text("")
    assert pretrain(dataset, *arguments) == 2
    assert words in lines(capsys)
    assert not list(Path().rglob("g.pth"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init_from", "absent.pth"], "absent.pth: no such checkpoint"),
        (["--validate_on", "folds", "--members", "100"], "96 places or blocks cannot be held out by 100 members"),
        (["--teacher", "ensemble", "--global_data", "nowhere"], "nowhere/samples.csv: no sample table there"),
    ],
)
def test_a_mistake_in_folds_and_teachers_likewise(dataset, workplace, capsys, arguments, words):
    assert pretrain(dataset) == 0
    capsys.readouterr()
    assert fine_tune(dataset, *arguments) == 2
    assert words in lines(capsys)
    assert not Path("model/r.pth").exists()


def test_a_refused_run_leaves_no_folder_behind(tmp_path, dataset, workplace, capsys):
    assert pretrain(dataset) == 0
    other = make_dataset(tmp_path / "other", categories=FEW_CATEGORIES[:1])
    assert fine_tune(other) == 2
    assert "6 of the checkpoint's 8 variables are not in the dataset (elevation, " in lines(capsys)
    assert sorted(str(path) for path in Path().glob("*/*")) == ["log/g", "model/pretrain_model"]


def test_prediction_refuses_a_torn_checkpoint_other_variables_and_a_folder_it_cannot_write(dataset, workplace, capsys):
    assert pretrain(dataset) == 0
    whole = Path("model/pretrain_model/g.pth").read_bytes()
    Path("file").write_text("")
    capsys.readouterr()
    assert predict(dataset, "--results_dir", "file/results") == 2
    assert "cannot be written" in lines(capsys)
    swapped = [category.model_dump(mode="json") for category in FEW_CATEGORIES]
    swapped[1]["variables"].reverse()
    Path("c.yaml").write_text(yaml.safe_dump({"categories": swapped}))
    assert predict(dataset, "--config", "c.yaml") == 2
    assert "variable 1 is 'slope' here, 'elevation' there" in lines(capsys)
    Path("model/pretrain_model/g.pth").write_bytes(whole[:5000])
    assert predict(dataset) == 2
    assert "not a checkpoint" in lines(capsys)
    assert not Path("results").exists()
