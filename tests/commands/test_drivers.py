"""The script, from a dataset and a model's output to a report: what it names, refuses, resumes and never lets through."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_dataset
from geo.test_field import write_netcdf

from soilcarbon.benchmark.sections import Page
from soilcarbon.categories import Category
from soilcarbon.commands import drivers
from soilcarbon.commands.arguments import read_settings
from soilcarbon.commands.drivers import DriverSettings
from soilcarbon.drivers import report as driverpage
from soilcarbon.drivers.subsampling import BUDGETS, Budget
from soilcarbon.io.files import UserError, read_table
from soilcarbon.io.pickles import load_pickle

CATEGORIES = (
    Category(name="climate", variables=("warm", "wet")),
    Category(name="green", variables=("green",)),
    Category(name="rock", variables=("rock",), kind="classes"),
)
SMALL = Budget(150, 60, 3, 4)
HOSTILE = "<script>alert(1)</script> & $x_1$ | *m*"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(BUDGETS, "forest", SMALL)
    monkeypatch.setattr("soilcarbon.figures.DPI", 60)


def make(folder, name="model", n=360):
    """Write profiles whose carbon follows warm, wet and green, and a model that knows warm alone, profile by profile."""
    data = make_dataset(folder / "data", n=n, side=1, categories=CATEGORIES)
    warm = np.array([patch.item() for patch in load_pickle(data / "patches" / "warm.pkl").values()])
    table = read_table(data / "samples.csv")
    lat, lon = np.linspace(45.05, 54.95, 100), np.linspace(5.05, 14.95, 100)
    row, col = (np.abs(table[which].to_numpy(float)[:, None] - axis).argmin(1) for which, axis in (("lat", lat), ("lon", lon)))
    carbon = np.full((100, 100), 1e20, np.float32)
    carbon[row, col] = np.exp(-0.8 * np.tanh((warm - warm.mean()) / warm.std()) + 2)
    write_netcdf(folder / "model.nc", lat, lon, carbon, fill=1e20)
    facts = {
        "data_dir": str(data),
        "targets": [
            {"name": "observations", "kind": "observed"},
            {"name": name, "kind": "model", "path": str(folder / "model.nc")},
        ],
        "drivers": {"temperature": ["warm"], "water": ["wet"]},
        "zones": {"north": {"lat": [50, 60]}},
        "support": "profiles",
        "learners": ["forest"],
        "bootstraps": 10,
        "workers": 1,
        "out": str(folder / "out"),
    }
    (folder / "d.yaml").write_text(yaml.safe_dump(facts))
    return folder / "d.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder and its settings' file."""
    folder = tmp_path_factory.mktemp("drivers")
    path = make(folder, HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "forest", SMALL)
        patch.setattr("soilcarbon.figures.DPI", 60)
        drivers.main(["--config", str(path)])
    return folder / "out", path


def test_the_record_names_what_the_model_lacks_and_overdoes(finished):
    record = json.loads((finished[0] / "mismatch.json").read_text())
    named = {each["of"]: each for each in record["differences"] if each["named"] and each["zone"] == "everywhere"}
    assert named["temperature"]["difference"]["value"] > 0.1 and named["water"]["difference"]["value"] < -0.04
    assert named["temperature"]["ratio"]["low"] > 1 and "times as important" in named["temperature"]["words"]
    assert named["temperature"]["observed_rank"]["value"] == named["temperature"]["modelled_rank"]["value"] == 1
    assert "rock" not in named and {each["zone"] for each in record["differences"]} == {"everywhere", "north"}
    assert {each["zone"] for each in record["differences"] if each["kind"] == "response"} == {"everywhere", "north"}
    assert record["facts"]["targets"]["observations"]["unit"] == "g/kg" and record["facts"]["targets"][HOSTILE]["unit"] == "kg/m2"
    assert record["ensemble"][0]["models"] == 1 and record["ensemble"][0]["driver"] == "temperature"
    assert "causation" in record["caveat"]


def test_tables_say_what_the_page_shows(finished):
    tables = {path.stem: pd.read_csv(path) for path in finished[0].glob("*.csv")}
    assert set(tables) == {
        *("skill", "importance", "agreement", "responses", "joint", "ensemble", "places", "shapes", "mismatch"),
    }
    shares = tables["importance"]
    whole = shares[(shares["kind"] == "driver") & (shares["method"] == "conditional")]
    assert whole["share"].clip(lower=0).groupby([whole["target"], whole["zone"]]).sum().between(99, 104).all()
    assert set(shares["method"]) == {"permutation", "conditional", "impurity", "shapley"}
    for name, low, high in (("importance", "low", "high"), ("share", "share_low", "share_high")):
        assert shares[name].between(shares[low], shares[high]).all()
    assert tables["skill"]["told"].all() and tables["skill"]["r2"].between(0.3, 1).all()
    curves = tables["responses"]
    curves = curves[(curves["variable"] == "warm") & (curves["way"] == "accumulated") & (curves["target"] == "observations")]
    assert list(dict.fromkeys(curves["zone"])) == ["everywhere", "north"]
    for _, warm in curves.groupby("zone"):
        assert warm["density"].sum() == pytest.approx(1) and (warm["value"] * warm["density"]).sum() == pytest.approx(0, abs=1e-6)


def test_the_page_lets_no_name_through_and_needs_nothing_from_outside(finished):
    page = (finished[0] / "report.html").read_text()
    assert "<script" not in page and html.escape(HOSTILE) in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "default-src 'none'" in page
    assert "not causation" in page and "To repeat it" in page
    names = re.findall(r'<a href="#(\w+)">', page)
    assert names == re.findall(r'<section id="(\w+)">', page) and "mismatch" in names and "zones" in names
    assert {path.name for path in finished[0].glob("*.png")} == {
        *("drivers.png", "variables.png", "responses_accumulated.png", "responses_partial.png"),
        *("joint_accumulated.png", "joint_partial.png", "zones.png", "responses_zones.png", "map.png"),
    }


def test_resuming_keeps_what_is_finished_and_a_torn_part_is_named(finished, capsys):
    out, path = finished
    before = {each.name: each.stat().st_mtime_ns for each in (out / "parts").iterdir()}
    record = (out / "mismatch.json").read_bytes()
    (out / "parts" / "forest-0003.npz").unlink()
    drivers.main(["--config", str(path), "--resume"])
    after = {each.name: each.stat().st_mtime_ns for each in (out / "parts").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"forest-0003.npz"}
    assert (out / "mismatch.json").read_bytes() == record
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(UserError, match="go on with --resume"):
        drivers.main(["--config", str(path)])
    with pytest.raises(UserError, match="was begun with another seed"):
        drivers.main(["--config", str(path), "--resume", "--seed", "1"])
    whole = (out / "parts" / "forest-0003.npz").read_bytes()
    (out / "parts" / "forest-0003.npz").write_bytes(whole[:100])
    with pytest.raises(UserError, match="forest-0003.npz: not readable"):
        drivers.main(["--config", str(path), "--resume"])
    (out / "parts" / "forest-0003.npz").write_bytes(whole)


def test_other_data_under_the_same_name_is_not_resumed(finished):
    out, path = finished
    samples = path.parent / "data" / "samples.csv"
    whole = samples.read_text()
    table = read_table(samples)
    table.loc[0, "soc"] += 1
    table.to_csv(samples, index=False)
    try:
        with pytest.raises(UserError, match="another digest"):
            drivers.main(["--config", str(path), "--resume"])
    finally:
        samples.write_text(whole)


def test_refits_of_another_edition_are_not_gone_on_from(finished, monkeypatch):
    monkeypatch.setattr("soilcarbon.drivers.subsampling.EDITION", 1)
    with pytest.raises(UserError, match="begun with another edition of refits; give another folder"):
        drivers.main(["--config", str(finished[1]), "--resume"])


def test_drivers_of_what_cannot_be_predicted_are_refused_with_the_score(tmp_path):
    path = make(tmp_path)
    samples = read_table(tmp_path / "data" / "samples.csv")
    random = np.random.default_rng(7)  # not that of the covariates
    samples.assign(soc=np.exp(random.normal(size=len(samples)))).to_csv(tmp_path / "data" / "samples.csv", index=False)
    with pytest.raises(UserError, match=r"observations: cross-validated R2 of forest -?0\.\d\d .* below min_skill 0.1"):
        drivers.main(["--config", str(path)])


def test_a_model_without_skill_is_left_out_and_observations_alone_are_told_of(tmp_path, caplog):
    caplog.set_level("INFO")
    path = make(tmp_path)
    random = np.random.default_rng(0)
    lat, lon = np.linspace(45.05, 54.95, 100), np.linspace(5.05, 14.95, 100)
    write_netcdf(tmp_path / "model.nc", lat, lon, np.exp(random.normal(size=(100, 100))).astype(np.float32))
    drivers.main(["--config", str(path)])
    record = json.loads((tmp_path / "out" / "mismatch.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    assert record["differences"] == [] and 'id="mismatch"' not in page and not (tmp_path / "out" / "map.png").exists()
    assert "its drivers are not told of" in caplog.text and "Not told of, for want of skill" in page


def test_zones_that_the_foremost_learner_cannot_tell_of_are_named_without_a_figure(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("soilcarbon.drivers.report.write_report", lambda _, facts: found.append(facts))
    drivers.main(["--config", str(make(tmp_path))])
    (facts,) = found
    page = Page(tmp_path / "page")
    assert "Responses by zone" in driverpage._zones(facts, page)
    of_classes = replace(facts, responses=facts.responses[facts.responses["zone"] == "everywhere"])
    assert "Share of importance" in (told := driverpage._zones(of_classes, page)) and "Responses by zone" not in told
    zoned = facts.importance["zone"] != "everywhere"
    facts.importance.loc[zoned, "learner"] = "another"
    assert "for want of skill of forest there: north" in driverpage._zones(facts, page)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_size": 90}, "blocks; 20 are needed"),
        ({"responses": ["rock"]}, "'rock' is a class"),
        ({"responses": ["warmth"]}, "did you mean 'warm'"),
        ({"pair": ["warm"]}, "two variables, or none"),
        ({"bootstraps": 11}, "must be even"),
        ({"targets": [{"name": "m", "kind": "model", "path": "m.nc"}]}, "one must be observed"),
        ({"targets": [{"name": "o", "kind": "observed", "path": "none.nc"}]}, "no such map or model output"),
        ({"targets": [{"name": "o", "kind": "observed"}, {"name": "o", "kind": "observed"}]}, "two targets are named 'o'"),
        ({"rasters": ["a.tif"]}, "give one of the two"),
        ({"zones": {"z": {"lat": [5, 1]}}}, "lower limit below its upper one"),
        ({"drivers": {"a": ["warm"], "b": ["warm"]}}, "'warm' comes twice"),
    ],
)
def test_mistakes_are_named_before_anything_is_learnt(tmp_path, change, words):
    path = make(tmp_path, n=120)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(words)):
        drivers.main(["--config", str(path)])


@pytest.mark.parametrize("name", ["sim_drivers.yaml", "realdata_drivers.yaml"])
def test_presets_are_understood(name):
    settings = read_settings(DriverSettings, "", ["--config", f"configs/{name}"])
    assert settings.targets[0].kind == "observed" and settings.learners == ["boosting", "forest", "network"]
