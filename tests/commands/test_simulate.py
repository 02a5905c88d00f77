"""The command simulate: what it makes, prints and refuses."""

from soilcarbon.commands import simulate
from soilcarbon.io.files import run
from soilcarbon.io.tables import read_table


def test_command_line(tmp_path, capsys):
    small = ["--cell", "2", "--profiles", "100"]
    assert run(lambda: simulate.main(["--out", str(tmp_path / "sim"), *small])) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "global (100 profiles, cells of 2 degrees) and four regions (33 profiles each" in said.out
    assert len(read_table(tmp_path / "sim" / "global" / "samples.csv")) == 100
    assert run(lambda: simulate.main(["--profile", "10"])) == 2
    assert "did you mean '--profiles'" in capsys.readouterr().err
