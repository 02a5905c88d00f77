"""Zoned forests in files: equal to the bit when loaded again, and damaged or hostile files refused before anything happens."""

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import yaml
from simulated import ZONED_QUICK, zoned_world

from soilcarbon.io.files import UserError
from soilcarbon.zonal.climate_zones import ClimateZones, GivenZones, OneZone
from soilcarbon.zonal.forest import SelectedForest, ZonedForest
from soilcarbon.zonal.persistence import ZonedModel, load_zoned, save_zoned

NAMES = ("map", "mat", "a", "b", "noise", "year")
REFUSED = "not a model of zoned forests, or damaged"


def holed(n=260):
    profiles = zoned_world(n)
    profiles.x[::7, 2] = np.nan
    return profiles


@pytest.fixture(scope="module")
def model():
    profiles = holed()
    labels = ClimateZones().labels(*profiles.x[:, :2].T)
    zones = ClimateZones(width_precipitation=50, width_temperature=1)
    few = int(np.bincount(labels).min()) + 1  # one zone is predicted by the forest of all
    forest = ZonedForest(zones, (0, 1), SelectedForest(**ZONED_QUICK | {"best": 2}), min_profiles=few)
    return ZonedModel(forest.fit(profiles.x, profiles.y, profiles.groups, 0), "socd_0_20", "kg/m2", NAMES, record={"seed": 0})


@pytest.fixture
def saved(model, tmp_path):
    save_zoned(model, tmp_path / "m.npz")
    return tmp_path / "m.npz"


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def forge(path, metadata=None, **arrays):
    """Write a file again with other arrays, its metadata changed by a function."""
    content = arrays_of(path) | arrays
    if metadata is not None:
        content["metadata"] = np.frombuffer(json.dumps(metadata(json.loads(content["metadata"].tobytes()))).encode(), np.uint8)
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


def test_a_loaded_model_predicts_the_same_to_the_bit_gaps_included(model, saved):
    again = load_zoned(saved)
    profiles = holed(200)
    profiles.x[::3, 2:5] = np.nan
    np.testing.assert_array_equal(again.forest.predict(profiles.x), model.forest.predict(profiles.x))
    assert (again.target, again.unit, again.variables, again.record) == ("socd_0_20", "kg/m2", NAMES, {"seed": 0})
    one, other = again.forest, model.forest
    assert (one.zones, one.climate, one.counts) == (other.zones, other.climate, other.counts)
    assert list(map(one.has_own, one.zones.names)) == list(map(other.has_own, other.zones.names))
    assert {name: each.parameters for name, each in one.forests.items()} == {
        name: each.parameters for name, each in other.forests.items()
    }


def test_metadata_lies_beside_it_for_people(saved):
    beside = yaml.safe_load(saved.with_suffix(".yaml").read_text())
    assert beside["variables"] == list(NAMES)
    assert beside["zones"]["precipitation"] == 400
    assert all(array.dtype.kind in "iuf" for array in arrays_of(saved).values())


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_pickles_and_foreign_files_are_refused_and_nothing_of_them_runs(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"pickle": pickle.dumps(Bomb()), "text": b"forests", "empty": b""}.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=REFUSED):
            load_zoned(path)
    np.savez(saved, **arrays_of(saved), more=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match=r"more.npy: not an array of numbers"):
        load_zoned(saved)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match="no such model; make one with soilcarbon zones"):
        load_zoned(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("left", lambda a: np.where(a >= 0, a + 10**6, a), "child is not a later node"),
        ("left", lambda a: np.where(a >= 0, 0, a), "child is not a later node"),
        ("right", lambda a: np.where(a >= 0, -7, a), "child is not a later node"),
        ("right", lambda a: np.full_like(a, -1), "child is not a later node"),
        ("column", lambda a: a + 100, "splits a column there is not"),
        ("column", lambda a: a - 100, "splits a column there is not"),
        ("threshold", lambda a: a * np.nan, "threshold is not a number"),
        ("value", lambda a: a + np.inf, "threshold is not a number"),
        ("value", lambda a: a + 1e308, "threshold is not a number"),
        ("nodes", lambda a: np.ones(100_001, a.dtype), "100001 trees, more than"),
        ("value", lambda a: a[:-1], "too short or too long"),
        ("nodes", lambda a: a + 1, "do not add up"),
        ("nodes", lambda a: np.array([2**62, 2**62, 2**62, 2**62 + a.sum()]), "do not add up"),
        ("nodes", lambda a: a[:0], "do not add up"),
        ("value", lambda a: a.reshape(-1, 1), "another type or shape"),
        ("value", lambda a: a.astype(np.int64), "another type or shape"),
        ("left", lambda a: a + 0.5, "another type or shape"),
        ("left", lambda a: a.astype(str), "not an array of numbers"),
        ("left", lambda _: None, "arrays are not those of its forests"),
    ],
)
def test_a_forged_tree_is_refused_before_it_is_built(name, change, words, saved):
    arrays = arrays_of(saved)
    with pytest.raises(UserError, match=f"{REFUSED}.*{words}"):
        load_zoned(forge(saved, **{f"0_{name}": change(arrays[f"0_{name}"])}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts | {"variables": facts["variables"][:1]}, "column is none of its variables"),
        (lambda facts: facts | {"climate": [-1, 1]}, "column is none of its variables"),
        (lambda facts: facts | {"climate": [0]}, "climate is of other columns"),
        (lambda facts: facts | {"forests": {}}, "a zone has no forest"),
        (lambda facts: facts | {"forests": {k: v for k, v in facts["forests"].items() if k}}, "a zone has no forest"),
        (lambda facts: facts | {"forests": facts["forests"] | {"x": facts["forests"][""]}}, "of other zones"),
        (lambda facts: facts | {"counts": {"humid": 3}}, "of other zones"),
        (lambda facts: facts | {"zones": facts["zones"] | {"width_temperature": -1}}, "must be 0 or more"),
        (lambda facts: facts | {"zones": facts["zones"] | {"precipitation": float("nan")}}, "expected finite numbers"),
        (lambda facts: facts | {"zones": {"codes": list(range(20_000))}}, "20000 zones, more than 100"),
        (lambda facts: facts | {"variables": facts["variables"] + [f"v{k}" for k in range(1000)]}, "at most 1000 items"),
        (lambda facts: facts | {"variables": ["map"] * len(facts["variables"])}, "variable comes twice"),
        (lambda facts: facts | {"target": "\x1b[31m"}, "name cannot be printed"),
        (lambda facts: {name: value for name, value in facts.items() if name != "target"}, "Field required"),
        (lambda facts: facts | {"more": 1}, "Extra inputs"),
        (lambda _: [], "not a model"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(change, words, saved):
    with pytest.raises(UserError, match=words):
        load_zoned(forge(saved, change))


def test_damaged_and_compressed_files_and_lengths_that_lie_are_refused(saved):
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    torn = bytearray(whole)
    torn[entry.header_offset + 300] ^= 1
    saved.write_bytes(bytes(torn))
    with pytest.raises(UserError, match="compressed or damaged"):
        load_zoned(saved)
    saved.write_bytes(whole)
    np.savez_compressed(saved, **arrays_of(saved) | {"zeros": np.zeros(10**7)})
    with pytest.raises(UserError, match="compressed or damaged"):
        load_zoned(saved)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    saved.write_bytes(whole)
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("huge.npy", header.getvalue())
    with pytest.raises(UserError, match=r"huge.npy: not an array of numbers of its length"):
        load_zoned(saved)


def test_zones_of_a_map_are_loaded_with_their_codes(model, saved):
    forest = replace(model.forest, zones=GivenZones((1.0, 3.0)), climate=(5,))
    forest.forests, forest.counts = (
        {name: model.forest.everywhere for name in forest.zones.names},
        dict.fromkeys(forest.zones.names, 9),
    )
    save_zoned(replace(model, forest=forest), saved)
    again = load_zoned(saved).forest
    assert (again.zones, again.climate, again.counts) == (forest.zones, (5,), forest.counts)


def test_one_zone_needs_no_climate(model, saved):
    forest = replace(model.forest, zones=OneZone(), climate=())
    forest.forests, forest.counts = {"everywhere": model.forest.everywhere}, {"everywhere": 260}
    save_zoned(replace(model, forest=forest), saved)
    again, x = load_zoned(saved).forest, holed(90).x
    x[:, :2] = np.nan
    assert (again.zones, again.climate, again.counts) == (OneZone(), (), {"everywhere": 260})
    np.testing.assert_array_equal(again.predict(x), model.forest.everywhere.predict(x))
    with pytest.raises(UserError, match="climate is of other columns"):
        load_zoned(forge(saved, lambda facts: facts | {"climate": [0]}))
