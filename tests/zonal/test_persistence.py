"""Zoned forests in files: the same to the bit when read again, and strangers' files refused before anything happens."""

import json
import pickle
import sys
import zipfile

import numpy as np
import pytest
import skops.io
import yaml
from simulated import ZONED_QUICK, zoned_world
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.io.files import UserError
from soilcarbon.zonal.climate_zones import ClimateZones
from soilcarbon.zonal.forest import SelectedForest, ZonedForest
from soilcarbon.zonal.persistence import load_zoned, save_zoned

NAMES = ("map", "mat", "a", "b", "noise", "year")


def holed(n=260):
    land = zoned_world(n)
    land.x[::7, 2] = np.nan
    return land


@pytest.fixture(scope="module")
def fitted():
    land = holed()
    labels = ClimateZones().labels(land.x[:, 0], land.x[:, 1])
    fewest = int(np.bincount(labels).min()) + 1  # one zone is served by the forest of all
    zones = ClimateZones(width_precipitation=50, width_temperature=1)
    return ZonedForest(zones, 0, 1, SelectedForest(**ZONED_QUICK | {"best": 2}), fewest=fewest).fit(land, 0)


@pytest.fixture
def saved(fitted, tmp_path):
    save_zoned(fitted, tmp_path / "m.skops", "socd_0_20", "kg/m2", NAMES, {"seed": 0})
    return tmp_path / "m.skops"


def content_of(path):
    return skops.io.loads(path.read_bytes(), trusted=[])


def put(path, content):
    path.write_bytes(skops.io.dumps(content))
    return path


def test_a_model_read_again_predicts_the_same_to_the_bit_gaps_included(fitted, saved):
    again, facts = load_zoned(saved)
    land = holed(200)
    land.x[::3, 2:5] = np.nan
    np.testing.assert_array_equal(again.predict(land), fitted.predict(land))
    assert (facts.target, facts.unit, facts.variables, facts.record) == ("socd_0_20", "kg/m2", NAMES, {"seed": 0})
    assert (again.zones, again.counts) == (fitted.zones, fitted.counts)
    assert [again.own(name) for name in again.zones.names] == [fitted.own(name) for name in fitted.zones.names]
    assert {name: each.settings for name, each in again.forests.items()} == {
        name: each.settings for name, each in fitted.forests.items()
    }


def test_facts_lie_beside_it_for_people(saved):
    beside = yaml.safe_load(saved.with_suffix(".yaml").read_text())
    assert beside["variables"] == list(NAMES)
    assert beside["zones"]["precipitation"] == 400
    assert beside["forests"].keys() == content_of(saved)["forests"].keys()


def test_a_file_holds_nothing_but_containers_and_numbers(saved):
    assert skops.io.get_untrusted_types(file=saved) == []
    with zipfile.ZipFile(saved) as archive:
        assert all(name == "schema.json" or name.endswith(".npy") for name in archive.namelist())
        assert "sklearn" not in archive.read("schema.json").decode()


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_pickles_and_foreign_files_are_refused_and_nothing_of_them_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"pickle": pickle.dumps(Bomb()), "text": b"forests", "empty": b""}.items():
        path = tmp_path / f"{name}.skops"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a model of zoned forests"):
            load_zoned(path)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match="no such model; make one with train_zoned.py"):
        load_zoned(tmp_path / "none.skops")


@pytest.mark.parametrize(
    "stranger",
    [np.random.RandomState(0), RandomForestRegressor(2).fit([[0.0], [1.0]], [0, 1]), np.array([1]).astype, print, (1, 2)],
)
def test_a_type_that_is_not_trusted_is_named_and_never_made(stranger, tmp_path, saved, monkeypatch):
    path = put(tmp_path / "x.skops", content_of(saved) | {"facts": stranger})
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=r"torn, foreign or changed \(holds .*, and only builtins.dict"):
        load_zoned(path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("left", lambda a: np.where(a >= 0, a + 10**6, a), "child is not a later node"),
        ("left", lambda a: np.where(a >= 0, 0, a), "child is not a later node"),
        ("right", lambda a: np.where(a >= 0, -7, a), "child is not a later node"),
        ("right", lambda a: np.full_like(a, -1), "child is not a later node"),
        ("column", lambda a: a + 100, "asks a column there is not"),
        ("column", lambda a: a - 100, "asks a column there is not"),
        ("threshold", lambda a: a * np.nan, "threshold is not a number"),
        ("value", lambda a: a + np.inf, "threshold is not a number"),
        ("value", lambda a: a + 1e308, "threshold is not a number"),
        ("nodes", lambda a: np.ones(100_001, a.dtype), "100001 trees, more than"),
        ("value", lambda a: a[:-1], "too short or too long"),
        ("nodes", lambda a: a + 1, "do not add up"),
        ("nodes", lambda a: np.array([2**62, 2**62, 2**62, 2**62 + a.sum()]), "do not add up"),
        ("nodes", lambda a: a[:0], "do not add up"),
        ("value", lambda a: a.reshape(-1, 1), "a forest is made of"),
        ("value", lambda a: a.astype(str), "a forest is made of"),
    ],
)
def test_a_tree_that_is_none_is_refused_before_it_is_one(name, change, words, saved):
    content = content_of(saved)
    arrays = content["forests"]["humid"]
    arrays[name] = change(arrays[name])
    with pytest.raises(UserError, match=f"not a model of zoned forests.*{words}"):
        load_zoned(put(saved, content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts | {"variables": facts["variables"][:2]}, "forests are not those"),
        (lambda facts: facts | {"precipitation": -1}, "greater than or equal to 0"),
        (lambda facts: facts | {"forests": {}}, "forests are not those"),
        (lambda facts: facts | {"counts": {"humid": 3}}, "zones are not those"),
        (lambda facts: facts | {"zones": facts["zones"] | {"width_temperature": -1}}, "width is 0 or more"),
        (lambda facts: facts | {"zones": facts["zones"] | {"precipitation": float("nan")}}, "expected finite numbers"),
        (lambda facts: facts | {"zones": {"codes": list(range(20_000))}}, "20000 zones, more than 100"),
        (lambda facts: facts | {"variables": facts["variables"] + [f"v{k}" for k in range(1000)]}, "at most 1000 items"),
        (lambda facts: facts | {"variables": ["map"] * len(facts["variables"])}, "variable comes twice"),
        (lambda facts: facts | {"target": "\x1b[31m"}, "name cannot be printed"),
        (lambda facts: {name: value for name, value in facts.items() if name != "target"}, "Field required"),
    ],
)
def test_facts_that_do_not_fit_are_refused(change, words, saved):
    content = content_of(saved)
    content["facts"] = json.dumps(change(json.loads(content["facts"])))
    with pytest.raises(UserError, match=words):
        load_zoned(put(saved, content))


def test_a_zone_without_a_forest_is_refused(saved):
    content = content_of(saved)
    facts = json.loads(content["facts"])
    del facts["forests"][""], content["forests"][""]
    with pytest.raises(UserError, match="a zone has no forest"):
        load_zoned(put(saved, content | {"facts": json.dumps(facts)}))


def test_a_flipped_bit_and_a_packed_file_are_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
        parts = {each.filename: archive.read(each) for each in archive.infolist()}
    torn = bytearray(saved.read_bytes())
    torn[entry.header_offset + 300] ^= 1
    whole = saved.read_bytes()
    saved.write_bytes(bytes(torn))
    with pytest.raises(UserError, match="not a model"):
        load_zoned(saved)
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(UserError, match="compressed or damaged"):
        load_zoned(saved)
    saved.write_bytes(whole)
    load_zoned(saved)


def test_without_skops_the_message_says_how_to_get_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(UserError, match=r"pip install 'skops>="):
        load_zoned(saved)
