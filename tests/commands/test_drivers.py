"""The command, from a dataset and a model's output to a report: what is significant, refused, resumed and escaped."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import make_dataset
from damage import damage
from geo.test_field import write_netcdf
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.categories import Category
from soilcarbon.commands import drivers
from soilcarbon.commands.arguments import read_settings
from soilcarbon.drivers import learners, report, responses
from soilcarbon.drivers.subsampling import BUDGETS, Budget
from soilcarbon.html import FigureFolder
from soilcarbon.io.files import UserError
from soilcarbon.io.pickles import load_pickle
from soilcarbon.io.tables import read_table

CATEGORIES = (
    Category(name="climate", variables=("warm", "wet")),
    Category(name="green", variables=("green",)),
    Category(name="rock", variables=("rock",), kind="classes"),
)
HOSTILE = "<script>alert(1)</script> & $x_1$ | *m*"


def small(patch):
    """Let refits be measured on few rows, by forests of a few trees, and figures be drawn coarsely."""
    patch.setitem(BUDGETS, "forest", Budget(150, 60, 3, 4))
    patch.setattr(learners, "RandomForestRegressor", lambda _, **how: RandomForestRegressor(5, **how))
    patch.setattr(responses, "JOINT_BINS", 3)
    patch.setattr("soilcarbon.figures.DPI", 60)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    small(monkeypatch)


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
        "responses": ["warm", "wet"],
        "learners": ["forest"],
        "bootstraps": 10,
        "workers": 1,
        "out": str(folder / "out"),
    }
    (folder / "d.yaml").write_text(yaml.safe_dump(facts))
    return folder / "d.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder, its settings' file, and its results."""
    folder, kept = tmp_path_factory.mktemp("drivers"), []
    path = make(folder, HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        write = report.write_report
        patch.setattr(report, "write_report", lambda out, results: (kept.append(results), write(out, results)))
        drivers.main(["--config", str(path)])
    return folder / "out", path, kept[0]


def test_the_record_shows_what_the_model_lacks_and_exaggerates(finished):
    record = json.loads((finished[0] / "mismatch.json").read_text())
    found = {each["name"]: each for each in record["differences"] if each["significant"] and each["zone"] == "everywhere"}
    assert found["temperature"]["difference"]["value"] > 0.1 and found["water"]["difference"]["value"] < -0.04
    assert found["temperature"]["ratio"]["low"] > 1
    assert found["temperature"]["observed_rank"]["value"] == found["temperature"]["modelled_rank"]["value"] == 1
    assert "rock" not in found
    for kind in ("importance", "response"):
        assert {each["zone"] for each in record["differences"] if each["kind"] == kind} == {"everywhere", "north"}
    assert record["facts"]["targets"]["observations"]["unit"] == "g/kg" and record["facts"]["targets"][HOSTILE]["unit"] == "kg/m2"
    assert record["ensemble"][0]["models"] == 1 and record["ensemble"][0]["driver"] == "temperature"
    assert "causation" in record["caveat"]


def test_tables_hold_what_the_page_shows(finished):
    tables = {path.stem: pd.read_csv(path) for path in finished[0].glob("*.csv")}
    assert set(tables) == set(finished[2].tables())
    shares = tables["importance"]
    whole = shares[(shares["kind"] == "driver") & (shares["method"] == "conditional")]
    assert whole["share"].clip(lower=0).groupby([whole["target"], whole["zone"]]).sum().between(98, 104).all()
    assert set(shares["method"]) == {"permutation", "conditional", "impurity", "shapley"}
    for name, low, high in (("importance", "low", "high"), ("share", "share_low", "share_high")):
        assert shares[name].between(shares[low], shares[high]).all()
    assert tables["skill"]["reported"].all() and tables["skill"]["r2"].between(0.3, 1).all()
    curves = tables["responses"]
    curves = curves[(curves["variable"] == "warm") & (curves["method"] == "accumulated") & (curves["target"] == "observations")]
    assert list(dict.fromkeys(curves["zone"])) == ["everywhere", "north"]
    for _, warm in curves.groupby("zone"):
        assert warm["density"].sum() == pytest.approx(1) and (warm["value"] * warm["density"]).sum() == pytest.approx(0, abs=1e-6)


def test_the_page_opens_with_plain_sentences_of_its_numbers(finished):
    results = finished[2]
    said = report.in_words(results)
    shares = results.importance
    whole = shares[(shares["kind"] == "driver") & (shares["method"] == "conditional") & (shares["zone"] == "everywhere")]
    whole = whole[(whole["target"] == results.reference) & (whole["learner"] == results.facts["lead"])]
    top = whole.sort_values("share").iloc[-1]
    assert said.startswith(
        f"Soil carbon in the {results.reference} follows {top['name']} most ({top['share']:.0f} % of what all drivers"
    )
    assert all(model in said for model in results.models) and "the MODEL" not in said
    page = (finished[0] / "report.html").read_text()
    assert html.escape(said, quote=False)[:80] in page.replace("&#x27;", "'")


def test_the_page_escapes_names_and_needs_nothing_from_outside(finished):
    page = (finished[0] / "report.html").read_text()
    assert "<script" not in page and html.escape("<script>alert(1)</script> &") in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "default-src 'none'" in page
    assert "not causation" in page and "soilcarbon drivers --config" in page
    names = re.findall(r'<section id="(\w+)">', page)
    assert names == ["mismatch", "importance", "responses", "zones", "skill", "method"]
    assert {path.stem for path in finished[0].glob("*.png")} == set(report.FIGURES)


def test_zones_without_skill_of_the_lead_are_listed_without_a_figure(finished, tmp_path):
    results = finished[2]
    zoned = results.responses["zone"] != "everywhere"
    blocks = report._zones(replace(results, responses=results.responses[~zoned]), FigureFolder(tmp_path / "a"))
    assert [block.kind for block in blocks] == ["figure", "table"]  # zones of classes alone have no curves
    elsewhere = results.importance["zone"] != "everywhere"
    importance = results.importance.assign(learner=results.importance["learner"].where(~elsewhere, "another"))
    last = report._zones(replace(results, importance=importance), FigureFolder(tmp_path / "b"))[-1]
    assert last.kind == "note" and last.text.endswith("significantly above 0): north.")


@pytest.mark.slow
def test_resuming_keeps_what_is_finished_and_makes_damaged_parts_again(finished, capsys, caplog):
    out, path, _ = finished
    before = {each.name: each.stat().st_mtime_ns for each in (out / "parts").iterdir()}
    record = (out / "mismatch.json").read_bytes()
    part = out / "parts" / "forest-0003.npz"
    part.unlink()
    drivers.main(["--config", str(path), "--resume"])
    after = {each.name: each.stat().st_mtime_ns for each in (out / "parts").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {part.name, f"{part.name}.sha256"}
    assert (out / "mismatch.json").read_bytes() == record
    assert "report.html" in capsys.readouterr().out
    damage(sorted((out / "parts").glob("*.npz"))[1:], seed=16)
    drivers.main(["--config", str(path), "--resume"])
    assert (out / "mismatch.json").read_bytes() == record
    assert caplog.text.count("it is made again") == len(list((out / "parts").glob("*.npz"))) - 1


def test_what_was_begun_otherwise_is_not_resumed(finished, monkeypatch):
    _, path, _ = finished
    with pytest.raises(UserError, match="continue it with --resume"):
        drivers.main(["--config", str(path)])
    with pytest.raises(UserError, match="was begun with other values of seed"):
        drivers.main(["--config", str(path), "--resume", "--seed", "1"])
    samples = path.parent / "data" / "samples.csv"
    whole = samples.read_text()
    table = read_table(samples)
    table.loc[0, "soc"] += 1
    table.to_csv(samples, index=False)
    with pytest.raises(UserError, match="begun with other values of the input files"):
        drivers.main(["--config", str(path), "--resume"])
    samples.write_text(whole)
    monkeypatch.setattr("soilcarbon.drivers.subsampling.EDITION", 1)
    with pytest.raises(UserError, match="begun with other values of edition of refits; give another folder"):
        drivers.main(["--config", str(path), "--resume"])


def test_a_target_that_cannot_be_predicted_is_refused_with_the_score(tmp_path):
    path = make(tmp_path)
    samples = read_table(tmp_path / "data" / "samples.csv")
    random = np.random.default_rng(7)  # not that of the covariates
    samples.assign(soc=np.exp(random.normal(size=len(samples)))).to_csv(tmp_path / "data" / "samples.csv", index=False)
    with pytest.raises(UserError, match=r"observations: cross-validated R2 of forest -?0\.\d\d .* below min_skill 0.1"):
        drivers.main(["--config", str(path)])


@pytest.mark.slow
def test_without_shap_and_models_with_skill_the_observations_alone_are_reported(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    path = make(tmp_path)
    lat, lon = np.linspace(45.05, 54.95, 100), np.linspace(5.05, 14.95, 100)
    noise = np.exp(np.random.default_rng(0).normal(size=(100, 100))).astype(np.float32)
    write_netcdf(tmp_path / "model.nc", lat, lon, noise)
    monkeypatch.setattr("soilcarbon.drivers.subsampling.has_shap", lambda: False)
    drivers.main(["--config", str(path)])
    record = json.loads((tmp_path / "out" / "mismatch.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    assert record["differences"] == [] and 'id="mismatch"' not in page and not (tmp_path / "out" / "map.png").exists()
    assert "its drivers are not reported" in caplog.text and "no skill" in page
    importance = pd.read_csv(tmp_path / "out" / "importance.csv")
    assert set(importance.loc[importance["method"] == "shapley", "kind"]) == {"driver"}


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
        ({"targets": [{"name": "o", "kind": "observed"}, {"name": "o", "kind": "observed"}]}, "one target at most may be without"),
        ({"targets": [{"name": "o", "kind": "observed"}, {"name": "o", "kind": "model", "path": "m.nc"}]}, "'o' is there twice"),
        ({"rasters": ["a.tif"]}, "give one"),
        ({"zones": {"z": {"lat": [5, 1]}}}, "lower limit below its upper one"),
        ({"drivers": {"a": ["warm"], "b": ["warm"]}}, "drivers: 'warm' is there twice"),
    ],
)
def test_mistakes_are_named_before_any_training(tmp_path, change, words):
    path = make(tmp_path, n=120)
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(words)):
        drivers.main(["--config", str(path)])


@pytest.mark.parametrize("name", ["sim_drivers.yaml", "realdata_drivers.yaml"])
def test_presets_are_understood(name):
    settings = read_settings(drivers.DriverSettings, "", ["--config", f"configs/{name}"])
    assert settings.targets[0].kind == "observed" and settings.learners == ["boosting", "forest", "network"]
