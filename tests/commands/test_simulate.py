"""The command simulate: what it makes, prints and refuses."""

import subprocess
import sys

from soilcarbon.io.tables import read_table


def simulate(*arguments):
    return subprocess.run([sys.executable, "-m", "soilcarbon", "simulate", *arguments], capture_output=True, text=True, check=False)


def test_command_line(tmp_path):
    small = ["--cell", "2", "--profiles", "150"]
    made = simulate("--out", tmp_path / "sim", *small)
    assert (made.returncode, made.stderr) == (0, "")
    assert "global (150 profiles, cells of 2 degrees) and four regions (50 profiles each" in made.stdout
    assert len(read_table(tmp_path / "sim" / "global" / "samples.csv")) == 150
    wrong = simulate("--profile", "10")
    assert wrong.returncode == 2
    assert "did you mean '--profiles'" in wrong.stderr
