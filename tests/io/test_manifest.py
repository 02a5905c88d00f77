"""Files of the user stay: only what a folder's manifest lists is replaced or removed; names never become paths."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_dataset
from rasterio.transform import Affine

from soilcarbon.categories import Category
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError, run
from soilcarbon.io.manifest import MANIFEST, begin_files, finish_files, listed_files, result_set
from soilcarbon.io.names import file_name


def test_only_listed_files_are_replaced_or_removed(tmp_path):
    begin_files(tmp_path, ["a.png", "b.png"], "test")
    for name in ("a.png", "b.png", "mine.png"):
        (tmp_path / name).write_text("")
    finish_files(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"])
    begin_files(tmp_path, ["a.png", "b.png"], "test")  # again: they are its own
    finish_files(tmp_path, ["a.png", "b.png", "mine.png"], ["a.png"])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "mine.png"]
    assert listed_files(tmp_path) == {"a.png": "test"}


@pytest.mark.parametrize(
    ("name", "purpose", "message"),
    [("mine.png", "test", "was not written here"), ("a.png", "all", "holds results of test, not of all")],
)
def test_files_of_the_user_and_of_another_purpose_are_refused(tmp_path, name, purpose, message):
    begin_files(tmp_path, ["a.png"], "test")
    (tmp_path / "mine.png").write_text("content")
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(UserError, match=message):
        begin_files(tmp_path, ["new.png", name], purpose)
    assert (tmp_path / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', "[" * 100_000])
def test_a_foreign_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="not readable"):
        begin_files(tmp_path, ["a.png"], "test")
    assert (tmp_path / MANIFEST).read_text() == content


NAMES = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "C:\\x",
    "a\0b",
    "CON",
    "nul.txt",
    "-rf",
    "~",
    "a\nb",
    "é" * 300,
    "x" * 300,
    " a",
    "a.",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_component_of_a_path(tmp_path, name):
    found = file_name(name)
    assert Path(found).name == found and found not in ("", ".", "..")
    (tmp_path / f"{found}.tif").touch()
    assert [path.parent for path in tmp_path.rglob("*.tif")] == [tmp_path]


def test_distinct_names_stay_distinct_and_harmless_ones_themselves():
    assert len({file_name(name).casefold() for name in [*NAMES, "a_b", "a/b"]}) == len(NAMES) + 2
    assert [file_name(name) for name in ("socd_0_20", "SOC 0-30 cm", "Сода")] == ["socd_0_20", "SOC 0-30 cm", "Сода"]


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", ".", "", "a\nb"])
def test_a_variable_is_no_path(name):
    with pytest.raises(ValueError, match="names a file"):
        Category(name="a", variables=("slope", name))


# --- sets of results ---------------------------------------------------------------------------------------------------


def write_set(folder, purpose, **files):
    with result_set(folder, purpose) as new:
        for name, text in files.items():
            (new / f"{name}.csv").write_text(text)


def test_a_set_replaces_and_removes_only_files_of_its_purpose(tmp_path):
    write_set(tmp_path, "test", a="1", b="1")
    write_set(tmp_path, "all", c="1")
    (tmp_path / "mine.csv").write_text("mine")
    write_set(tmp_path, "test", a="2")
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.csv")} == {"a": "2", "c": "1", "mine": "mine"}
    assert listed_files(tmp_path) == {"a.csv": "test", "c.csv": "all"}


@pytest.mark.parametrize(("purpose", "name"), [("test", "mine"), ("all", "a")])
def test_a_set_that_would_replace_another_file_changes_nothing(tmp_path, purpose, name):
    write_set(tmp_path, "test", a="1")
    (tmp_path / "mine.csv").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused = r"was not written here|holds results of test"
    with pytest.raises(UserError, match=refused):
        write_set(tmp_path, purpose, new="1", **{name: "2"})
    with (
        pytest.raises(UserError, match=r"was not written here|holds results of test"),
        result_set(tmp_path, purpose, [f"{name}.csv"]),
    ):
        pytest.fail("the work was begun")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupted_set_leaves_the_earlier_one_whole(tmp_path):
    write_set(tmp_path, "test", a="1", b="1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt), result_set(tmp_path, "test") as new:
        (new / "a.csv").write_text("2")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- what commands write ----------------------------------------------------------------------------------------------

STRANGERS = {  # command -> files of the user where it would write, with the arguments that do
    "densities": (("d.csv", "d.yaml", "d_left_out.csv"), "--horizons h.csv --out d.csv"),
    "covariates": (("t.tif",), "--dem dem.tif --out t.tif"),
    "prepare": (
        ("D/samples.csv", "D/dataset.yaml", "D/rejected.csv", "D/patches/elevation.pkl", "D/split/test.csv"),
        "--points p.csv --rasters dem.tif --out D",
    ),
    "validate": (("out/report.html", "out/points-dem.png"), "--maps dem=dem.tif,unit=g/kg --points p.csv --value soc --out out"),
    "zones": (
        ("results/z/scores.csv", "results/z/settings.yaml", "model/z_soc.npz", "model/z_soc.yaml"),
        "--samples p.csv --targets soc --rasters dem.tif --zone none --year none --run z --best 1 --trees 5 --search_trees 5 "
        "--candidates 1 --folds 2 --inner_folds 2 --workers 1",
    ),
    "fit": (("model/f.npz", "model/f.yaml", "results/f/held_out.csv"), "--data_dir E --run f --candidates ridge"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    relief = 100 + np.add.outer(np.arange(30.0), np.arange(30.0))
    write_geotiff(folder / "dem.tif", relief[None], ["elevation"], Affine(0.1, 0, 10, 0, -0.1, 50))
    lon, lat = random.uniform(10.1, 12.9, (1, 60)).round(3)[0], random.uniform(47.1, 49.9, 60).round(3)
    table = pd.DataFrame(
        {"profile_id": [f"p{k}" for k in range(60)], "lon": lon, "lat": lat, "soc": random.uniform(5, 60, 60).round(2)}
    )
    table.to_csv(folder / "p.csv", index=False)
    table.assign(top=0, bottom=30, bulk_density=1.3).to_csv(folder / "h.csv", index=False)
    make_dataset(folder / "E", 60, side=1)
    return folder


@pytest.mark.parametrize(("command", "name"), [(command, name) for command, (names, _) in STRANGERS.items() for name in names])
def test_no_file_of_the_user_is_replaced(workplace, inputs, capsys, command, name):
    shutil.copytree(inputs, workplace, dirs_exist_ok=True)
    stranger = workplace / name
    stranger.parent.mkdir(parents=True, exist_ok=True)
    stranger.write_bytes(b"mine: 1\n")
    before = {path for path in workplace.rglob("*") if path.is_file()}
    main = importlib.import_module(f"soilcarbon.commands.{command}").main
    assert run(lambda: main(STRANGERS[command][1].split())) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert Path(name).name in error and ("move it" in error or "not of an earlier run" in error), error
    assert stranger.read_bytes() == b"mine: 1\n"
    left = {path for path in workplace.rglob("*") if path.is_file()} - before
    assert not {path for path in left if "results" not in path.parts}, left
