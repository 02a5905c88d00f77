"""The tutorial's commands run as they stand, and print what the page says."""

import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from soilcarbon.__main__ import dispatch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
EXAMPLE = ROOT / "examples" / "anhui"
NUMBER = re.compile(r"[-−]?\d[\d,]*\.?\d*")


def blocks() -> list[tuple[str, str]]:
    """Return (kind, text) of the code blocks of the page, continued lines joined."""
    found = re.findall(r"```(bash|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [(kind, re.sub(r"\\\n\s*", " ", text)) for kind, text in found]


def run_block(text: str) -> None:
    """Run the lines of a block: those of soilcarbon in this process, with one worker, others in a shell."""
    for line in re.split(r"\n(?=soilcarbon )", text.strip()):
        if line.startswith("soilcarbon "):
            command, *arguments = shlex.split(line)[1:]
            dispatch([command, *arguments, *(["--workers", "1"] if command in ("fit", "map") else [])])
        else:
            subprocess.run(["bash", "-euc", line], check=True)


def numbers(text: str) -> list[float]:
    """Return the numbers in a text."""
    return [float(each.replace(",", "").replace("−", "-")) for each in NUMBER.findall(text)]


def check_output(shown: str, printed: str) -> None:
    """Every line shown was printed: the same words, numbers to a fiftieth, or to two of a number's last place."""
    printed_words = {NUMBER.sub("#", line).split().__repr__(): line for line in printed.splitlines()}
    for line in shown.strip().splitlines():
        words = NUMBER.sub("#", line).split().__repr__()
        assert words in printed_words, f"not printed: {line}"
        assert numbers(line) == pytest.approx(numbers(printed_words[words]), rel=0.02, abs=0.01), line


@pytest.mark.slow
def test_commands_and_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "data").mkdir()
    last, compared = "", 0
    for kind, text in blocks():
        if kind == "bash":
            run_block(text)
            last = capsys.readouterr().out
        else:
            check_output(text, last)
            compared += 1
    assert compared == 6
    total = pd.read_csv("results/xuancheng_stock/socd_totals.csv").iloc[0]
    assert total[["total", "total_lower", "total_upper"]].tolist() == pytest.approx([14.8, 13.7, 15.9], abs=0.1)
    accuracy = pd.read_csv("results/xuancheng_validation/design_scores.csv").set_index("part").loc["area"]
    assert accuracy["picp"] == pytest.approx(0.94, abs=0.01)


def test_the_sample_is_not_among_the_profiles():
    profiles, sample = (pd.read_csv(EXAMPLE / "data" / f"{name}.csv") for name in ("profiles", "probability_sample"))
    assert (len(profiles), len(sample)) == (121, 62)
    assert not set(profiles["profile_id"]) & set(sample["profile_id"])
    assert sample["soc_gkg"].to_numpy() == pytest.approx(0.58 * sample["som_gkg"].to_numpy(), abs=0.005)


def test_the_example_is_small():
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 1_500_000
