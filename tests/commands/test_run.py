"""Commands called from Python: the same settings, results and questions as on the command line."""

import importlib
import inspect
import logging
from pathlib import Path

import pytest
import yaml
from map_world import make, make_world

import soilcarbon
from soilcarbon.commands.arguments import COMMANDS, Keywords, command_line, read_settings
from soilcarbon.commands.map import MapSettings
from soilcarbon.io.files import UserError
from soilcarbon.settings import RegionalSettings

pytestmark = pytest.mark.usefixtures("small_learners")


@pytest.mark.usefixtures("no_drawing")
def test_a_map_from_python_is_that_of_the_command_line(workplace, capsys):
    make_world(workplace, members=1)
    assert make("--workers", "1", "--bounds", "11", "12", "48", "49", "--no-applicability") == 0
    said = capsys.readouterr().out
    typed = {"checkpoint": Path("model/m.pth"), "rasters": "rasters", "out": "other/soc.tif", "bounds": (11, 12, 48, 49)}
    soilcarbon.run("map", **typed, workers=1, applicability=False)
    assert capsys.readouterr().out == said.replace("out/", "other/")
    assert Path("other/soc.tif").read_bytes() == Path("out/soc.tif").read_bytes()


def test_settings_have_the_types_of_the_command(workplace):
    Path("c.yaml").write_text(yaml.safe_dump({"level": 0.5, "tile": 64}))
    found = read_settings(
        MapSettings, None, Keywords({"config": "c.yaml", "checkpoint": "m", "rasters": "r", "tile": 32, "out": None})
    )
    assert (found.level, found.tile, found.rasters, found.out) == (0.5, 32, [Path("r")], None)
    assert found.given("tile") and not found.given("resume")


def test_settings_that_only_yaml_can_hold_are_keywords_too():
    categories = [{"name": "a", "variables": ["x"], "radius": 1}]
    assert read_settings(RegionalSettings, None, Keywords({"categories": categories, "data_dir": "d"})).categories[0].radius == 1


def test_the_preset_is_that_of_the_command_line():
    assert read_settings(MapSettings, None, Keywords({"level": 0.5})) == read_settings(MapSettings, None, ["--level", "0.5"])


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("maps", {}, "no command 'maps'; did you mean 'map'"),
        ("map", {"rastres": "x", "checkpoint": "m"}, "settings: unknown setting 'rastres'; did you mean 'rasters'"),
        ("map", {"level": 2, "checkpoint": "m", "rasters": "r"}, "setting level = 2: Input should be less than 1"),
        ("predict", {"checkpoint": "none.pth", "data_dir": "d"}, "none.pth"),
    ],
)
def test_mistakes_are_errors_of_python(workplace, command, settings, words):
    with pytest.raises(UserError, match=words):
        soilcarbon.run(command, **settings)


def test_a_run_is_told_as_it_would_be_typed():
    given = Keywords({"folds": 3, "out": Path("my results"), "resume": True, "sizes": [1, 2], "shap": False, "mask": None})
    assert (
        command_line("soilcarbon compare", given)
        == "soilcarbon compare --folds 3 --out 'my results' --sizes 1 2 --no-shap --mask none"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_arguments(name):
    assert list(inspect.signature(importlib.import_module(f"soilcarbon.commands.{name}").main).parameters) == ["arguments"]


def test_what_a_command_says_is_shown_as_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    soilcarbon.run("fetch", list=True)
    logging.getLogger("soilcarbon.anything").info("11 of 12 profiles")
    assert capsys.readouterr().err == "11 of 12 profiles\n"
