"""Files of the user stay: only what a folder's manifest lists is replaced or removed; names never become paths."""

from pathlib import Path

import pytest

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.io.manifest import MANIFEST, begin_files, finish_files, listed_files
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
