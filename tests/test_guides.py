"""The commands of the tutorial and of the pages for users run as they stand, and print what the pages say."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from conftest import PUBLISHED_WEIGHTS, needs_published_weights
from doc_pages import ROOT, check_output, commands, pieces, run_command

EXAMPLE = ROOT / "examples" / "anhui"
ONE_WORKER = ["--workers", "1"]
SMALLER = {
    "simulate": ["--profiles", "900", "--cell", "2"],
    "drivers": ["--bootstraps", "10"],
    "fit": ONE_WORKER,
    "map": ONE_WORKER,
    "finetune": ONE_WORKER,
}
"""Command -> settings that are added to it here."""


@pytest.fixture
def run_page(tmp_path, monkeypatch, capsys, caplog):
    """A function that runs a page's commands in an empty folder, and returns how many outputs agree with those that it shows."""

    def run(page: str) -> int:
        printed, compared = "", 0
        for kind, text in pieces(page):
            if kind == "bash":
                caplog.clear()
                for line in commands(text):
                    run_command(line, SMALLER)
                printed = capsys.readouterr().out + "\n" + "\n".join(caplog.messages)
            elif kind == "text":
                check_output(text, printed)
                compared += 1
        return compared

    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "data").mkdir()
    caplog.set_level(logging.INFO)
    return run


@pytest.mark.slow
def test_tutorial(run_page):
    assert run_page("tutorial") == 6
    total = pd.read_csv("results/xuancheng_stock/socd_totals.csv").iloc[0]
    assert total[["total", "total_lower", "total_upper"]].tolist() == pytest.approx([14.8, 13.9, 15.8], abs=0.1)
    accuracy = pd.read_csv("results/xuancheng_validation/design_scores.csv").set_index("part").loc["area"]
    assert accuracy["picp"] == pytest.approx(0.94, abs=0.01)


@pytest.mark.slow
def test_agency(run_page):
    run_page("agency")
    assert pd.read_csv("results/agency/soc_totals.csv")["zone"].tolist() == ["whole map", "west", "east"]
    assert Path("data/survey/points.csv").is_file()


@pytest.mark.slow
def test_market_analyst(run_page):
    assert run_page("market") == 1
    assert Path("results/project_claim/claim.html").is_file()


@pytest.mark.slow
def test_modeller(run_page):
    run_page("modeller")
    assert Path("results/drivers/report.html").is_file()


@pytest.mark.slow
@needs_published_weights
def test_owner_of_the_published_weights(run_page, tmp_path):
    (tmp_path / "model" / "pretrain_model").mkdir(parents=True)
    (tmp_path / "model" / "pretrain_model" / "published.pth").symlink_to(PUBLISHED_WEIGHTS)
    run_page("weights")
    assert Path("results/published/soc.tif").is_file()


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch, capsys):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.chdir(EXAMPLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cells = json.loads((EXAMPLE / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    names, figures = {}, 0
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), "tutorial.ipynb", "exec"), names)
        check_output("".join(line for each in cell["outputs"] for line in each.get("text", [])), capsys.readouterr().out)
        assert len(plt.get_fignums()) == sum("image/png" in each.get("data", {}) for each in cell["outputs"])
        figures += len(plt.get_fignums())
        plt.close("all")
    assert figures == 2


def test_the_sample_is_not_among_the_profiles():
    profiles, sample = (pd.read_csv(EXAMPLE / "data" / f"{name}.csv") for name in ("profiles", "probability_sample"))
    assert (len(profiles), len(sample)) == (121, 62)
    assert not set(profiles["profile_id"]) & set(sample["profile_id"])
    assert sample["soc_gkg"].to_numpy() == pytest.approx(0.58 * sample["som_gkg"].to_numpy(), abs=0.005)


def test_the_example_is_small():
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 1_500_000
