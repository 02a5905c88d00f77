"""A training that is stopped, killed or torn resumes to the same bits, and believes no state that was changed."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from conftest import FEW_CATEGORIES, make_dataset, slow_but
from damage import damage
from training_runs import ROOT, STAND, quick, regional, same, stop, stop_then_resume, train, weights

from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, read_state, save_state
from soilcarbon.training import distillation, loop
from soilcarbon.training.ensemble import BEST, FINISHED, RESUME

pytestmark = pytest.mark.usefixtures("small_learners")


@pytest.mark.parametrize("stop_at", slow_but([((1, 2),), ((0, 4),)], ((1, 2),)))
def test_a_run_stopped_after_any_epoch_resumes_to_the_same_bits(dataset, workplace, monkeypatch, stop_at):
    make = partial(quick, dataset, members=2, epochs=5, target_transform="log1p", lr=0.01)
    assert same(*stop_then_resume(monkeypatch, make, stop_at, "model/pretrain_model"))


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [(1, 1), (2, 3)])
def test_a_stopped_run_with_a_teacher_and_folds_resumes_to_the_same_bits(dataset, tmp_path, workplace, monkeypatch, stop_at):
    monkeypatch.setattr(distillation, "TREES", 10)
    monkeypatch.setattr(distillation, "MIXED", 300)
    world = make_dataset(tmp_path / "world", n=200, seed=7, categories=FEW_CATEGORIES)
    train(quick(world, target_transform="log1p"))
    how = {"teacher": "ensemble", "global_data": world, "members": 3, "validate_on": "folds", "lr_schedule": "cosine", **STAND}
    whole, cut = stop_then_resume(monkeypatch, partial(regional, dataset, center="median", **how), stop_at, "model")
    assert same(whole, cut)
    moved = world.rename(tmp_path / "moved")
    train(regional(dataset, run="cut", center="median", resume=True, **how | {"global_data": moved}))
    table = pd.read_csv(moved / "samples.csv")
    table["soc"] += 1
    table.to_csv(moved / "samples.csv", index=False)
    with pytest.raises(UserError, match="the interrupted run differs in data and first weights"):
        train(regional(dataset, run="cut", center="median", resume=True, **how | {"global_data": moved}))


def test_a_fresh_run_drops_what_an_older_one_of_the_name_left(dataset, workplace):
    folder = workplace / "log/g"
    (folder / "member_3").mkdir(parents=True)
    for name in (RESUME, FINISHED, BEST, f"member_3/{FINISHED}", "member_3/epochs.jsonl"):
        (folder / name).write_bytes(b"old")
    train(quick(dataset))
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"epochs.jsonl", FINISHED, "scores.json", "settings.yaml"}
    assert (folder / FINISHED).read_bytes() != b"old"


def test_resume_refuses_other_settings_and_says_when_there_is_nothing(dataset, workplace, caplog):
    caplog.set_level("INFO")
    train(quick(dataset, resume=True))
    assert "nothing to resume; starting afresh" in caplog.text
    with pytest.raises(UserError, match="the interrupted run differs in lr"):
        train(quick(dataset, resume=True, lr=0.5))
    table = pd.read_csv(dataset / "samples.csv")
    table["soc"] += 1
    table.to_csv(dataset / "samples.csv", index=False)
    with pytest.raises(UserError, match="differs in .*data"):
        train(quick(dataset, resume=True))


def test_a_damaged_state_is_not_believed_and_the_run_ends_with_the_same_bits(dataset, workplace, monkeypatch, caplog):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    train(quick(dataset, run="whole"))
    stop(monkeypatch, partial(quick, dataset), 0, 2)
    states = {RESUME: Path(f"log/cut/{RESUME}").read_bytes(), FINISHED: Path(f"log/whole/{FINISHED}").read_bytes()}
    for seed in range(6):
        name = (RESUME, FINISHED)[seed % 2]
        for each in (RESUME, FINISHED):
            Path(f"log/cut/{each}").unlink(missing_ok=True)
        path = Path(f"log/cut/{name}")
        path.write_bytes(states[name])
        damage([path], seed)
        train(quick(dataset, run="cut", resume=True))
        assert same(weights("model/pretrain_model/whole.pth"), weights("model/pretrain_model/cut.pth"))
    assert caplog.text.count("this member is trained again") >= 5  # a bit in a name or a time of the archive changes nothing


def edited(state, name):
    """Return a state of which one value was changed to another that is as valid."""
    if name == "epoch":
        return {**state, "epoch": state["epoch"] - 1}
    if name == "score":
        return {**state, "best": {**state["best"], "score": 0.5}}
    weights = state["weights" if name == "weights" else "best"]
    weights = weights if name == "weights" else weights["weights"]
    next(iter(weights.values())).mul_(1.01)
    return state


@pytest.mark.parametrize("name", slow_but(["epoch", "score", "weights", "best"], "epoch", "best"))
def test_an_edited_state_that_is_valid_is_not_believed(dataset, workplace, monkeypatch, caplog, name):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    train(quick(dataset, run="whole"))
    stop(monkeypatch, partial(quick, dataset), 0, 2)
    path = Path(f"log/cut/{RESUME}")
    save_state(path, edited(read_state(path), name))
    train(quick(dataset, run="cut", resume=True))
    assert "changed since it was written; this member is trained again" in caplog.text
    assert same(weights("model/pretrain_model/whole.pth"), weights("model/pretrain_model/cut.pth"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.slow
def test_killed_at_random_moments_then_resumed_gives_the_same_bits(dataset, workplace):
    arguments = ["--data_dir", str(dataset), "--epochs", "150", "--no-tensorboard", "--target_transform", "log1p"]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from soilcarbon.training import loop; loop.SAVE_EVERY_S = 0.02; "
    program += "import train_global; train_global.main(sys.argv[1:])"

    def start(run, *more):
        command = [sys.executable, "-c", program, *arguments, "--run", run, *more]
        return subprocess.Popen(command, cwd=workplace, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    whole = start("whole")
    assert whole.wait(240) == 0
    dice, kills = random.Random(os.getpid()), 0
    state = workplace / "log/cut/resume.pth"
    for _ in range(2):
        process = start("cut", "--resume")
        stamp = state.stat().st_mtime_ns if state.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and (not state.exists() or state.stat().st_mtime_ns == stamp):
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.25))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait(60)
        unfinished, finished = workplace / "log/cut/best.pth", workplace / "model/pretrain_model/cut.pth"
        load_checkpoint(unfinished if unfinished.exists() else finished)  # readable at any instant
    assert kills > 0
    assert start("cut", "--resume").wait(240) == 0
    assert same(weights(workplace / "model/pretrain_model/whole.pth"), weights(workplace / "model/pretrain_model/cut.pth"))


# --- members side by side -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_members_side_by_side_are_those_one_after_the_other_and_resume_when_killed(dataset, tmp_path, workplace):
    """By the command line, with two worker processes, a teacher and a world: all that is shared between processes."""
    train(quick(dataset, target_transform="log1p"))
    world = make_dataset(tmp_path / "world", n=200, seed=7, categories=FEW_CATEGORIES)
    arguments = ["--data_dir", str(dataset), "--init_from", "model/pretrain_model/g.pth", "--global_data", str(world)]
    arguments += ["--teacher", "ensemble", "--members", "3", "--validate_on", "folds", "--select_on", "none", "--patience", "0"]
    arguments += ["--epochs", "3", "--no-tensorboard"]

    def start(run, *more):
        words = [sys.executable, str(ROOT / "train_regional.py"), *arguments, "--run", run, *more]
        return subprocess.Popen(words, cwd=workplace, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    assert start("alone", "--workers", "1").wait(200) == 0
    process = start("cut", "--workers", "2")
    deadline = time.monotonic() + 120
    while not list((workplace / "log/cut").rglob(FINISHED)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not (workplace / "model/cut.pth").exists()
    time.sleep(1)  # its workers end with it
    assert start("cut", "--workers", "2", "--resume").wait(200) == 0
    assert same(weights("model/alone.pth"), weights("model/cut.pth"))
    assert not (workplace / "log/cut/shared.pth").exists()
