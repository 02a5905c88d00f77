"""Targets of any unit: kept from the table to the map's totals, asked about where unknown, never taken for g/kg in silence."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from conftest import slow_but
from rasterio.transform import Affine

import pred
import train_global
import train_regional
from soilcarbon.commands import compare, drivers, fit, prepare, zones
from soilcarbon.commands import map as make_map
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run
from soilcarbon.network.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("small_learners", "light_maps")

UNITS = {"kg/m2": ("kg/m2", 1.0), "t/ha": ("t/ha", 10.0), "%": ("%", 2.0), "g/cm3": ("g/cm3", 0.01), "kg C m-2": ("kg/m2", 1.0)}
"""As stated -> as recorded, and how much larger the numbers are than kg/m2."""


@pytest.fixture
def world(workplace):
    """A raster x, and points whose density of carbon is 5 + 3 x kg/m2."""
    random = np.random.default_rng(0)
    values = random.normal(size=(40, 40)).clip(-1.5, 1.5)
    write_geotiff(Path("x.tif"), values[None], ["x"], Affine(0.1, 0, 10, 0, -0.1, 50))
    row, col = np.divmod(random.permutation(1600)[:200], 40)
    soc = 5 + 3 * values[row, col]
    table = pd.DataFrame({"id": [f"p{k}" for k in range(200)], "lon": 10.05 + 0.1 * col, "lat": 49.95 - 0.1 * row, "stock": soc})
    table.assign(year=random.integers(2009, 2016, 200)).to_csv("points.csv", index=False)
    return table


def made(*more, target="stock", points="points.csv", out="data"):
    return run(lambda: prepare.main(["--points", points, "--target", target, "--rasters", "x.tif", "--out", out, *more]))


def train(*more, data="data", name="g"):
    return run(lambda: train_global.main(["--data_dir", data, "--run", name, "--epochs", "2", "--no-tensorboard", *more]))


def error(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines and lines[-1].startswith("error:")
    return lines[-1]


@pytest.mark.parametrize("stated", slow_but(UNITS, "t/ha", "kg/m2"))
def test_the_unit_stays_from_the_table_to_the_totals(whole_maps, world, stated, capsys):
    unit, factor = UNITS[stated]
    world.assign(stock=world["stock"] * factor, year=2012).to_csv("points.csv", index=False)
    assert made("--unit", stated) == 0
    recorded = yaml.safe_load(Path("data/dataset.yaml").read_text())["target"]
    assert recorded == {"name": "stock", "unit": unit, "depth": None, "years": [2012, 2012]}
    assert train() == 0
    facts = load_checkpoint("model/pretrain_model/g.pth").specification
    assert (facts.unit, facts.meaning.title) == (unit, "stock, 2012")
    capsys.readouterr()
    assert run(lambda: pred.main(["--checkpoint", "model/pretrain_model/g.pth", "--data_dir", "data"])) == 0
    assert f"stock, 2012; rmse, mae and me in {unit}" in capsys.readouterr().out
    assert set(pd.read_csv("results/g/predictions.csv")["unit"]) == {unit}
    assert json.loads(Path("results/g/scores.json").read_text())["unit"] == unit
    assert run(lambda: make_map.main(["--checkpoint", "model/pretrain_model/g.pth", "--rasters", "x.tif"])) == 0
    with rasterio.open("results/g/stock.tif") as tif:
        assert tif.units[0] == tif.tags()["UNIT"] == unit
        assert tif.tags(1)["MEANING"].startswith("stock, 2012")
        mean = tif.read(1, masked=True).mean()
    totals = pd.read_csv("results/g/stock_totals.csv").iloc[0]
    assert totals["mean_unit"] == unit
    if unit in ("kg/m2", "t/ha"):
        kilotonnes = totals["mean"] / factor * totals["area_km2"]  # 1 kg/m2 is 1e6 kg per km2
        assert totals["total"] * {"kt": 1, "Mt": 1e3, "Pg": 1e6}[totals["total_unit"]] == pytest.approx(kilotonnes, rel=1e-6)
    else:
        assert pd.isna(totals["total"]) and pd.isna(totals["total_unit"])
    assert totals["mean"] == pytest.approx(mean, rel=0.01)
    page = Path("results/g/stock.html").read_text()
    assert f"<h1>g: stock, 2012 ({unit})</h1>" in page
    assert "g/kg" not in page


ASKED = ["stock", "socd", "som", "humus", "ocs", "ph", "soc_t_ha", "LOI", "soc_kgm2"]


@pytest.mark.parametrize("name", ASKED)
def test_a_name_that_is_not_soc_in_g_per_kg_is_asked_about(world, name, capsys):
    world.rename(columns={"stock": name}).to_csv("points.csv", index=False)
    assert made(target=name) == 2
    assert re.search("--unit says its unit|looks like organic matter, not carbon: --soc_factor", error(capsys))
    assert not Path("data").exists()
    assert made("--unit", "%", target=name) == 0


TURNED = {"soc_pct": 10.0, "SOC (%)": 10.0, "soc_dagkg": 10.0, "soc_mgkg": 1e-3, "soc": 1.0, "SOC_gkg": 1.0, "OrgC": 1.0}
"""Name of SOC -> how many g/kg one is."""


@pytest.mark.parametrize(("name", "factor"), [*TURNED.items(), ("socd_0_30", 1.0)])
def test_a_name_that_says_its_unit_is_not_asked_about(world, name, factor):
    world.assign(stock=world["stock"] / factor, oc_pct=1.0).rename(columns={"stock": name}).to_csv("points.csv", index=False)
    assert made(target=name) == 0
    found = yaml.safe_load(Path("data/dataset.yaml").read_text())["target"]
    assert (found["unit"], found["depth"]) == (("kg/m2", [0.0, 30.0]) if name == "socd_0_30" else ("g/kg", None))
    assert pd.read_csv("data/samples.csv")["soc"].mean() == pytest.approx(world["stock"].mean(), rel=1e-6)


def test_a_column_of_units_says_the_unit(world):
    world.assign(stock=world["stock"] / 10, soc_unit="%").rename(columns={"stock": "soc"}).to_csv("points.csv", index=False)
    assert made(target="soc") == 0
    assert pd.read_csv("data/samples.csv")["soc"].mean() == pytest.approx(world["stock"].mean(), rel=1e-6)


def test_fitted_models_keep_the_unit(world, capsys):
    assert made("--unit", "t/ha") == 0
    assert run(lambda: fit.main(["--data_dir", "data", "--model", "mean", "--run", "m", "--workers", "1"])) == 0
    assert run(lambda: pred.main(["--checkpoint", "model/m.npz", "--data_dir", "data"])) == 0
    words = capsys.readouterr().out
    assert "rmse, mae and me in t/ha" in words
    assert "no better than the mean of the training profiles" in words
    assert run(lambda: make_map.main(["--checkpoint", "model/m.npz", "--rasters", "x.tif"])) == 0
    assert pd.read_csv("results/m/stock_totals.csv")["total_unit"].isin(["kt", "Mt", "Pg"]).all()


def test_plausible_values_depend_on_the_unit(world, capsys):
    world.assign(stock=world["stock"] * 150).to_csv("points.csv", index=False)  # up to 1,400
    assert made("--unit", "t/ha") == 0
    assert yaml.safe_load(Path("data/dataset.yaml").read_text())["rejected"] == {}
    assert train() == 0
    assert made("--unit", "g/kg", out="other") == 0
    rejected = yaml.safe_load(Path("other/dataset.yaml").read_text())["rejected"]
    assert rejected == {"stock above 1000 g/kg": int((world["stock"] * 150 > 1000).sum())}
    assert made("--unit", "%") == 2  # most are
    assert "of 200 values lie beyond 0 to 100 %" in error(capsys)
    world.assign(stock=world["stock"] - 5).to_csv("points.csv", index=False)
    assert made("--unit", "dimensionless", out="signed") == 0  # logarithms, changes
    assert yaml.safe_load(Path("signed/dataset.yaml").read_text())["rejected"] == {}


def test_soc_that_looks_like_per_cent_is_asked_about(world, capsys):
    world.assign(soc=world["stock"] / 4).to_csv("points.csv", index=False)
    assert made(target="soc") == 2
    assert "look like per cent, not g/kg; --unit % if so, --unit g/kg if not" in error(capsys)
    assert made("--unit", "g/kg", target="soc") == 0


def test_stocks_of_horizons_are_not_averaged(world, capsys):
    layers = [world.assign(top=top, bottom=top + 15) for top in (0, 15)]
    pd.concat(layers).to_csv("horizons.csv", index=False)
    assert made("--unit", "kg/m2", points="horizons.csv") == 2
    assert "cannot be averaged over depth" in error(capsys)


def test_two_units_are_never_mixed(world, capsys):
    world.assign(soc=world["stock"] * 3).to_csv("points.csv", index=False)
    assert made("--unit", "kg/m2") == 0
    assert made(target="soc", out="content") == 0
    assert train() == 0
    model = ["--checkpoint", "model/pretrain_model/g.pth"]
    assert run(lambda: pred.main([*model, "--data_dir", "content"])) == 2
    assert "soc is in g/kg, what the checkpoint predicts in kg/m2" in error(capsys)
    assert made("--global_data", "data", target="soc", out="region") == 2
    assert "the target is in g/kg, and data is in kg/m2" in error(capsys)
    start = ["--init_from", "model/pretrain_model/g.pth", "--epochs", "1", "--no-tensorboard", "--run", "r"]
    teacher = ["--teacher", "ensemble", "--global_data", "data"]
    assert run(lambda: train_regional.main(["--data_dir", "content", *start, *teacher])) == 2
    assert "data: stock is in kg/m2, that of the region's dataset in g/kg" in error(capsys)
    Path("r.yaml").write_text("epochs: 1\n")
    both = ["--regions", "content", "--global_data", "data", "--pretrained", model[1], "--regional", "r.yaml"]
    assert run(lambda: compare.main(both)) == 2
    assert "content: soc is in g/kg, that of model/pretrain_model/g.pth in kg/m2" in error(capsys)
    write_geotiff(Path("old.tif"), np.ones((1, 40, 40)), ["soc"], Affine(0.1, 0, 10, 0, -0.1, 50), units=["g/kg"])
    assert run(lambda: make_map.main([*model, "--rasters", "x.tif", "--against", "old.tif"])) == 2
    assert "old.tif: is in g/kg, the map in kg/m2" in error(capsys)
    Path("d.yaml").write_text("targets: [{name: profiles, kind: observed, unit: g/kg}]\n")
    assert run(lambda: drivers.main(["--config", "d.yaml", "--data_dir", "data"])) == 2
    assert "the dataset is in kg/m2" in error(capsys)
    for stated, message in ((["--unit", "g/kg"], "soc is in kg/m2 (dataset.yaml), and --unit says g/kg"),):
        assert run(lambda more=stated: zones.main(["--samples", "data", "--targets", "soc", *more])) == 2
        assert message in error(capsys)
    assert run(lambda: zones.main(["--samples", "points.csv", "--targets", "stock"])) == 2
    assert "--unit says its unit" in error(capsys)


def test_a_sample_table_of_a_dataset_keeps_its_unit(world):
    assert made("--unit", "kg/m2") == 0
    assert made(points="data/samples.csv", target="soc", out="again") == 0
    assert yaml.safe_load(Path("again/dataset.yaml").read_text())["target"]["unit"] == "kg/m2"


@pytest.mark.parametrize("damage", ["kg/m2", {"name": "a"}, {"name": "a", "unit": "b", "depth": [1]}, [1]])
def test_a_damaged_record_is_refused(world, damage, capsys):
    assert made("--unit", "kg/m2") == 0
    facts = yaml.safe_load(Path("data/dataset.yaml").read_text()) | {"target": damage}
    Path("data/dataset.yaml").write_text(yaml.safe_dump(facts))
    assert train() == 2
    assert "expected name, unit, depth and years" in error(capsys)
