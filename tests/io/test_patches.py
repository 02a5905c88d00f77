"""Patches are packed in any form; the cached packed array is used only while everything it was made of is unchanged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FEW_CATEGORIES, full_disk

from soilcarbon.categories import Category
from soilcarbon.io import patches
from soilcarbon.io.files import UserError
from soilcarbon.io.patches import pack, patch_paths, read_packed
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.soil.dataset import write_dataset

IDS = [f"P{k:04d}" for k in range(120)]
WINDOWS = [category.model_copy(update={"radius": 1}) for category in FEW_CATEGORIES]


# --- packing ---------------------------------------------------------------------------------------------------------


def packed(folder, patches, ids, radius):
    dump_pickle(folder / "x.pkl", patches)
    return pack(folder, ids, [Category(name="x", variables=("x",), radius=radius)])[0]


@pytest.mark.parametrize("form", ["dict", "list", "array", "integer keys"])
def test_every_form_of_patches_gives_the_same_windows(tmp_path, form):
    array = np.arange(4 * 9, dtype=float).reshape(4, 3, 3)
    ids = ["1", "2", "3", "4"]
    value = {
        "dict": dict(zip(ids, array, strict=True)),
        "list": list(array),
        "array": array,
        "integer keys": dict(zip(np.arange(1, 5), array, strict=True)),
    }[form]
    np.testing.assert_array_equal(packed(tmp_path, value, ids, 1), array.reshape(4, 9))
    np.testing.assert_array_equal(packed(tmp_path, value, ids, 0), array[:, 1, 1][:, None])


def test_minus_9999_and_infinity_are_missing(tmp_path):
    patches = {"a": np.array([[-9999.0]]), "b": np.array([[np.inf]]), "c": np.array([[0.0]])}
    np.testing.assert_array_equal(packed(tmp_path, patches, ["a", "b", "c"], 0), [[np.nan], [np.nan], [0]])


@pytest.mark.parametrize(
    ("patches", "radius", "words"),
    [
        ({"a": np.ones((3, 3))}, 0, "no patch for 1 of 2 profiles, first 'b'"),
        ({"a": np.ones((3, 3)), "b": np.ones((5, 5))}, 0, r"differ in shape: \(3, 3\) at profile 'a', \(5, 5\) at profile 'b'"),
        ({"a": np.ones((3, 3)), "b": np.ones((3, 3))}, 2, "3 x 3 cells are smaller than the window of 5 x 5"),
        ({"a": np.ones((2, 2)), "b": np.ones((2, 2))}, 0, "odd side"),
        ({"a": np.ones((3, 5)), "b": np.ones((3, 5))}, 0, "square"),
        ({"a": np.array([["x"]]), "b": np.array([["y"]])}, 0, "not plain numbers"),
        ({"a": np.array([[1]], object), "b": np.array([[1]], object)}, 0, "not plain numbers"),
        ({"a": np.array([[1j]]), "b": np.array([[1j]])}, 0, "must hold numbers"),
        ([np.ones((1, 1))], 0, "1 patches in profile order for 2 profiles"),
        ([np.ones((3, 3)), np.ones((5, 5))], 0, "differ in shape"),
        ({"a": [[1, 2], [3]], "b": [[1, 2], [3]]}, 0, "must be an array of numbers; found a list"),
        ({"a": 1.0, "b": 2.0}, 1, "1 x 1 cells are smaller than the window of 3 x 3"),
        ({"a": np.ones((1, 1)), "b": np.ones((1, 1)), " b": np.ones((1, 1))}, 0, "1 profiles have two patches"),
        (np.array(3.0), 0, "found float64"),
        ("text", 0, "found str"),
        (3.0, 0, "found float"),
    ],
)
def test_bad_patches_are_refused(tmp_path, patches, radius, words):
    with pytest.raises(UserError, match=words):
        packed(tmp_path, patches, ["a", "b"], radius)


# --- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(patches, "CACHED_FROM", 1)


@pytest.fixture
def no_patches_read(monkeypatch):
    """Return a function after which patches must not be read."""

    def refuse(*_):
        raise AssertionError("patches were read")

    return lambda: monkeypatch.setattr(patches, "pack", refuse)


def read(folder, ids=IDS, categories=WINDOWS):
    return patches.read_packed(folder, folder / "patches", ids, categories)


def truth(folder, ids=IDS, categories=WINDOWS):
    return pack(folder / "patches", ids, categories)[0]


def files_of(folder):
    return sorted((folder / ".packed").iterdir())


def test_a_second_start_reads_no_patches_and_gets_the_same(dataset, no_patches_read):
    expected = truth(dataset)
    np.testing.assert_array_equal(read(dataset), expected)
    assert [path.suffix for path in files_of(dataset)] == [".json", ".npy"]
    no_patches_read()
    again = read(dataset)
    np.testing.assert_array_equal(again, expected)
    assert (type(again), again.dtype) == (np.ndarray, np.float32)
    copied = shutil.copytree(dataset, dataset.with_name("copy"), copy_function=shutil.copyfile)  # with times of its own
    np.testing.assert_array_equal(read(copied), expected)


def test_a_small_dataset_is_left_as_it_is(dataset, monkeypatch):
    monkeypatch.setattr(patches, "CACHED_FROM", 120 * 288 + 1)
    np.testing.assert_array_equal(read(dataset), truth(dataset))
    assert not (dataset / ".packed").exists()


def test_what_is_written_to_the_array_stays_in_memory(dataset):
    expected = read(dataset).copy()
    before = [path.read_bytes() for path in files_of(dataset)]
    read(dataset)[:] = 7
    assert [path.read_bytes() for path in files_of(dataset)] == before
    np.testing.assert_array_equal(read(dataset), expected)


def change_a_patch(folder):
    """Keep size and times as they were."""
    path = folder / "patches" / "slope.pkl"
    about, patches = path.stat(), load_pickle(path)
    dump_pickle(path, patches | {"P0007": patches["P0007"] + 1})
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size


@pytest.mark.parametrize(
    ("change", "ids", "categories"),
    [
        (change_a_patch, IDS, WINDOWS),
        (None, IDS[::-1], WINDOWS),
        (None, IDS[:-1], WINDOWS),
        (None, IDS, FEW_CATEGORIES),
        (None, IDS, WINDOWS[::-1]),
        (lambda folder: (folder / "patches" / "slope.pkl").rename(folder / "patches" / "incline.pkl"), None, None),
    ],
    ids=["a patch", "order of profiles", "fewer profiles", "radius", "order of categories", "a file that is gone"],
)
def test_what_has_changed_is_read_anew(dataset, change, ids, categories):
    before = read(dataset).copy()
    if change:
        change(dataset)
    if ids is None:
        with pytest.raises(UserError, match="no patches of variable 'slope'"):
            read(dataset)
        return
    expected = truth(dataset, ids, categories)
    assert expected.shape != before.shape or (expected != before).any()
    for _ in range(2):
        np.testing.assert_array_equal(read(dataset, ids, categories), expected)


def test_a_cache_of_another_format_is_not_used(dataset, monkeypatch, caplog):
    caplog.set_level("INFO")
    read(dataset)
    monkeypatch.setattr(patches, "FORMAT", patches.FORMAT + 1)
    read(dataset)
    assert "they are read again" in caplog.text


def with_header(path, change):
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(change(about)))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def saved_as(path, array, **how):
    with path.open("wb") as file:
        np.save(file, array, **how)


SPOILT = {
    "a number": lambda path: flip(path, -2),
    "the shape": lambda path: path.write_bytes(path.read_bytes().replace(b"(120, 72)", b"(119, 72)")),
    "a huge shape": lambda path: path.write_bytes(path.read_bytes().replace(b"(120, 72), ", b"(9999999999,)")),
    "the kind of numbers": lambda path: path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4")),
    "order": lambda path: path.write_bytes(path.read_bytes().replace(b"False", b"True ")),
    "the end": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "all": lambda path: path.write_bytes(b""),
    "the mark": lambda path: flip(path, 0),
    "objects": lambda path: saved_as(path, np.full((120, 72), None), allow_pickle=True),
    "another array": lambda path: saved_as(path, np.zeros((120, 72), "f4")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no header": lambda path: path.with_suffix(".json").unlink(),
    "half a header": lambda path: path.with_suffix(".json").write_text("{"),
    "a header of another kind": lambda path: path.with_suffix(".json").write_text("[1]"),
    "a deep header": lambda path: path.with_suffix(".json").write_text("[" * 100_000),
    "its checksum": lambda path: with_header(path, lambda about: about | {"sha256": "0" * 64}),
    "the checksums of patches": lambda path: with_header(
        path, lambda about: about | {"source": about["source"] | {"patches": dict.fromkeys(about["source"]["patches"], "0")}}
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_damaged_or_altered_cache_is_not_used(dataset, caplog, what):
    caplog.set_level("INFO")
    expected = read(dataset).copy()
    path = files_of(dataset)[1]
    SPOILT[what](path)
    np.testing.assert_array_equal(read(dataset), expected)
    assert ("they are read again" in caplog.text) == (what != "no header")
    assert "read from the cache" not in caplog.text
    read(dataset)
    assert ("read from the cache" in caplog.text) == (what != "a folder")  # which stays where it is


def test_patches_that_change_while_they_are_read_leave_nothing_kept(dataset, monkeypatch):
    real = patches.pack

    def meanwhile(*arguments):
        x = real(*arguments)
        dump_pickle(dataset / "patches" / "slope.pkl", load_pickle(dataset / "patches" / "slope.pkl"))
        return x

    monkeypatch.setattr(patches, "pack", meanwhile)
    read(dataset)
    assert not (dataset / ".packed").exists()


def test_a_dataset_that_cannot_be_written_to_is_read_all_the_same(dataset, caplog):
    caplog.set_level("INFO")
    (dataset / ".packed").write_text("in the way")
    for _ in range(2):
        np.testing.assert_array_equal(read(dataset), truth(dataset))
    assert "is not cached" in caplog.text


def test_a_full_disk_does_not_stop_a_run(dataset, caplog):
    caplog.set_level("INFO")
    with full_disk():
        found = read(dataset)
    np.testing.assert_array_equal(found, truth(dataset))
    assert "is not cached" in caplog.text
    assert files_of(dataset) == []


@pytest.mark.slow
def test_starts_at_the_same_time_get_the_same_and_leave_one_array(dataset):
    program = (
        "import sys, hashlib, json, time; sys.path.insert(0, sys.argv[1])\n"
        "from soilcarbon.io import patches; from pathlib import Path; from soilcarbon.categories import Category\n"
        "patches.CACHED_FROM, folder, table = 1, Path(sys.argv[2]), [Category(**each) for each in json.loads(sys.argv[3])]\n"
        "for _ in range(8):\n"
        "    x = patches.read_packed(folder, folder / 'patches', [f'P{k:04d}' for k in range(120)], table)\n"
        "    print(hashlib.sha256(x.data).hexdigest())\n"
        "    for path in (folder / '.packed').glob('*.npy'): path.unlink(missing_ok=True)\n"
    )
    root, table = Path(__file__).resolve().parents[2], json.dumps([each.model_dump() for each in FEW_CATEGORIES])
    words = [sys.executable, "-c", program, str(root), str(dataset), table]
    runs = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert len({line for out, _ in said for line in out.split()}) == 1
    read(dataset, categories=FEW_CATEGORIES)
    assert [path.suffix for path in files_of(dataset)] == [".json", ".npy"]


def test_a_dataset_written_anew_is_read_anew(dataset):
    import pandas as pd

    read(dataset)
    samples = pd.read_csv(dataset / "samples.csv")
    split = np.array(["train", "valid", "test"])[np.arange(120) % 3]
    names = [name for category in FEW_CATEGORIES for name in category.variables]
    patches = {name: np.random.default_rng(k).normal(size=(120, 3, 3)) for k, name in enumerate(names)}
    write_dataset(dataset, samples, patches, split, FEW_CATEGORIES, {})
    np.testing.assert_array_equal(read(dataset)[:, :9], patches["band1"].reshape(120, 9).astype("f4"))


def test_dataset_of_other_variables_says_how_to_make_one_of_a_models(tmp_path):
    (tmp_path / "humus.pkl").touch()
    with pytest.raises(UserError, match=r"'band1' \(1 variables there\), nor of the 7 others; soilcarbon prepare --global_data"):
        patch_paths(tmp_path, FEW_CATEGORIES)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_infinite_cells_are_missing_and_named(tmp_path, caplog, monkeypatch, value):
    cells = {f"p{k}": np.full((3, 3), float(k)) for k in range(5)}
    cells["p3"][1, 1] = value
    (tmp_path / "patches").mkdir()
    dump_pickle(tmp_path / "patches" / "slope.pkl", cells)
    monkeypatch.setattr("soilcarbon.io.patches.CACHED_FROM", 1)
    for _ in range(2):  # also when it might have been cached
        caplog.clear()
        x = read_packed(tmp_path, tmp_path / "patches", list(cells), [Category(name="relief", variables=("slope",), radius=1)])
        assert np.argwhere(np.isnan(x)).tolist() == [[3, 4]]
        assert "slope.pkl: 1 of 45 cells are infinite" in caplog.text
        assert "first at profile 'p3'" in caplog.text
