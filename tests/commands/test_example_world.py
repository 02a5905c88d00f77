"""compare and drivers without arguments make the example world where it is not there, as the three scripts do."""

from pathlib import Path

import pytest

from soilcarbon.commands import compare, drivers, simulate
from soilcarbon.commands.arguments import command_line
from soilcarbon.io.files import run


@pytest.mark.parametrize("command", [compare, drivers])
def test_the_example_world_is_made_where_it_is_not_there(command, workplace, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(simulate, "main", made.append)
    assert run(lambda: command.main([])) == 2  # what is made here is empty
    assert made == [["--out", "data/sim"]]
    assert "no such" in capsys.readouterr().err or command is drivers


@pytest.mark.parametrize("command", [compare, drivers])
def test_it_is_not_made_for_other_data(command, workplace, monkeypatch):
    monkeypatch.setattr(simulate, "main", lambda arguments: pytest.fail(f"made {arguments}"))
    Path("c.yaml").write_text(
        "{regions: [a], global_data: b, pretrained: c, regional: d.yaml}\n" if command is compare else "data_dir: b\n"
    )
    Path("d.yaml").write_text("epochs: 1\n")
    assert run(lambda: command.main(["--config", "c.yaml"])) == 2


def test_the_command_that_repeats_a_run_has_its_flags():
    flags = ["--config", "my file.yaml", "--folds", "3", "--resume"]
    assert command_line("soilcarbon compare", flags) == "soilcarbon compare --config 'my file.yaml' --folds 3"
