"""The commands and code of the pages of docs/, how they are run, and how what they print is compared with what a page shows."""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from soilcarbon.__main__ import dispatch

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SCRIPTS = ("train_global.py", "train_regional.py", "pred.py", "models.py", "utils.py")
NUMBER = re.compile(r"[-−]?\d[\d,]*\.?\d*")
_BLOCK = re.compile(r"^([ \t]*)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:soilcarbon [a-z]+\s+--|python \w+/?\w*\.py |make |pip install |docker |conda |torchrun )[^`]*)`")
_SHORT = ["--epochs", "1", "--no-tensorboard", "--workers", "1"]
_FEW_TREES = "--trees 5 --search_trees 3 --best 2 --candidates 1 --workers 1 --folds 2 --inner_folds 2 --block_size 0.3"
SMALLER = {
    "simulate": ["--profiles", "900", "--cell", "2"],
    "drivers": ["--bootstraps", "10", "--learners", "forest", "--workers", "1", "--min_skill", "0"],
    "fit": ["--candidates", "mean", "ridge", "--workers", "1"],
    "map": ["--workers", "1"],
    "compare": ["--folds", "2", "--workers", "1", "--config", "few.yaml"],
    "train": _SHORT,
    "finetune": [*_SHORT, "--members", "2"],
    "train_global.py": _SHORT,
    "train_regional.py": [*_SHORT, "--members", "2"],
    "zones": _FEW_TREES.split(),
}
"""Command -> settings that make it quick, where a page does not give these settings itself."""


def pieces(page: str) -> list[tuple[str, str]]:
    """Return (kind, text) of the code blocks of a page and the commands in its sentences, in order; continued lines joined."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        indent = block[1]
        lines = [line.removeprefix(indent) for line in block[3].splitlines()]
        found.append((block.start(), block[2], re.sub(r"\\\n\s*", " ", "\n".join(lines))))
    prose = _BLOCK.sub(lambda block: " " * len(block[0]), text)
    found += [(each.start(), "inline", " ".join(each[1].split())) for each in _INLINE.finditer(prose)]
    return [(kind, text) for _, kind, text in sorted(found)]


def commands(text: str) -> list[str]:
    """Return the commands of a block: a line each, or several of a loop or with what they read (<<'END')."""
    found, end = [], None
    for line in text.strip().splitlines():
        if end is not None:
            found[-1] += "\n" + line
            end = None if line.strip() == end else end
        elif line.strip() and not line.startswith("#"):
            found.append(line)
            heredoc = re.search(r"<<'(\w+)'", line)
            end = heredoc[1] if heredoc else "done" if re.search(r"\bdo\b(?!.*\bdone\b)", line) else None
    return found


def run_command(line: str, smaller: dict[str, list[str]] = SMALLER) -> None:
    """Run a command: ours in this process and smaller, others in a shell."""
    words = shlex.split(line, comments=True)
    name = words[1] if len(words) > 1 else ""
    more = _not_given(smaller.get(name, []), words)
    if words[0] == "soilcarbon":
        with contextlib.suppress(SystemExit) if "--help" in words else contextlib.nullcontext():
            dispatch([*words[1:], *more])
    elif words[0] == "python" and name in SCRIPTS:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", [name, *words[2:], *more])
            runpy.run_path(str(ROOT / name), run_name="__main__")
        assert not end.value.code, line
    else:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        if words[0] == "python" and name != "-":
            line = shlex.join(["python", str(ROOT / name), *words[2:]])
        subprocess.run(["bash", "-euc", line], check=True, env=environment)


def _not_given(more: list[str], words: list[str]) -> list[str]:
    """Return the settings that a command has not: `--name value value ...`."""
    groups = re.split(r" (?=--)", " ".join(more)) if more else []
    chosen = {"--candidates": {"--candidates", "--model"}}
    return [word for group in groups for word in group.split() if not chosen.get(group.split()[0], {group.split()[0]}) & set(words)]


def numbers(text: str) -> list[float]:
    """Return the numbers in a text."""
    return [float(each.replace(",", "").replace("−", "-")) for each in NUMBER.findall(text)]


def check_output(shown: str, printed: str) -> None:
    """Every line shown was printed: the same words, numbers to a fiftieth."""
    lines = {tuple(NUMBER.sub("#", line).split()): line for line in printed.splitlines()}
    for line in shown.strip().splitlines():
        words = tuple(NUMBER.sub("#", line).split())
        assert words in lines, f"not printed: {line}"
        assert numbers(line) == pytest.approx(numbers(lines[words]), rel=0.02, abs=0.01), line
