"""soilcarbon fetch, and prepare and map with remote rasters: the same as with local ones."""

import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from shapely.geometry import box

from soilcarbon.__main__ import dispatch
from soilcarbon.commands import fetch
from soilcarbon.geo.sources import SOURCES, find_source
from soilcarbon.io.files import UserError, run
from soilcarbon.io.pickles import load_pickle
from soilcarbon.zonal.settings import ZonedSettings
from soilcarbon.zonal.space_time import read_space_time

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "anhui" / "data"
COVARIATES = EXAMPLE / "covariates.tif"


@pytest.fixture
def server(server):
    server.files["/covariates.tif"] = COVARIATES.read_bytes()
    return server


def prepare(rasters, out):
    table = ["--points", str(EXAMPLE / "profiles.csv"), "--target", "som_gkg", "--soc_factor", "0.58"]
    dispatch(["prepare", *table, "--rasters", str(rasters), "--split", "blocks", "--test_share", "0", "--out", out])


def test_prepare_and_map_of_an_address_equal_those_of_the_file(server, workplace):
    address = f"{server.address}/covariates.tif?token=SECRET"
    prepare(COVARIATES, "data/near")
    prepare(address, "data/far")
    for variable in ("dem", "slope", "precipitation"):
        near, far = (load_pickle(Path(f"data/{name}/patches/{variable}.pkl")) for name in ("near", "far"))
        assert near.keys() == far.keys()
        assert all(np.array_equal(near[key], far[key], equal_nan=True) for key in near)
    facts = Path("data/far/dataset.yaml").read_text()
    assert yaml.safe_load(facts)["settings"]["rasters"] == [f"{server.address}/covariates.tif"]
    assert "SECRET" not in facts
    dispatch(["fit", "--data_dir", "data/near", "--model", "mean", "--workers", "1"])
    bounds = ["--bounds", "700000", "710000", "3400000", "3408000"]
    where = ["map", "--checkpoint", "model/near.npz", *bounds, "--no-applicability", "--workers", "1"]
    dispatch([*where, "--rasters", str(COVARIATES), "--out", "near.tif"])
    asked = len(server.asked)
    dispatch([*where, "--rasters", address, "--out", "far.tif"])
    assert len(server.asked) == asked  # prepare had read these parts
    with rasterio.open("near.tif") as near, rasterio.open("far.tif") as far:
        assert near.transform.almost_equals(far.transform)
        np.testing.assert_array_equal(near.read(), far.read())
    with pytest.raises(UserError, match="which part of it"):
        dispatch(["map", "--checkpoint", "model/near.npz", "--rasters", address, "--out", "whole.tif"])


def test_zones_and_design_take_addresses(server, workplace):
    address = Path(f"{server.address}/covariates.tif")
    how = {"samples": EXAMPLE / "profiles.csv", "targets": ["som_gkg"], "unit": "g/kg", "zone": None, "year": None}
    tables = [read_space_time(ZonedSettings(**how, rasters=[raster])).table for raster in (COVARIATES, address)]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["dem"].notna().sum() > 80
    geopandas.GeoDataFrame(geometry=[box(118.9, 30.8, 119.1, 31.0)], crs="EPSG:4326").to_file("farm.gpkg")
    for name, raster in (("near", COVARIATES), ("far", address)):
        dispatch(["design", "--rasters", str(raster), "--n_points", "12", "--aoi", "farm.gpkg", "--out", name])
    pd.testing.assert_frame_equal(pd.read_csv("near/points.csv"), pd.read_csv("far/points.csv"))
    with pytest.raises(UserError, match="which part of the remote rasters.* give --aoi"):
        dispatch(["design", "--rasters", str(address), "--n_points", "12"])


def test_fetch_writes_the_window_and_replaces_no_other_file(server, workplace, capsys):
    where = ["--bounds", "119.0", "119.1", "30.9", "31.0", "--out", "covariates"]
    line = ["fetch", "--rasters", f"{server.address}/covariates.tif", *where]
    dispatch(line)
    dispatch(line)
    assert capsys.readouterr().out.splitlines()[-1] == "1 rasters -> covariates"
    with rasterio.open("covariates/covariates.tif") as raster:
        assert raster.count == 5
        assert raster.shape[0] < 418
    Path("covariates/covariates.tif").write_bytes(b"mine")
    assert run(lambda: dispatch(line)) == 2
    assert "is there, and is another file" in capsys.readouterr().err


def test_a_source_is_fetched_by_its_pattern(server, workplace, monkeypatch):
    tile = "Copernicus_DSM_COG_30_N30_00_E119_00_DEM"
    server.files[f"/{tile}/{tile}.tif"] = COVARIATES.read_bytes()
    addresses = find_source("copernicus-dem-90").addresses("elevation", (119.0, 119.5, 30.2, 31.5))
    assert addresses == [
        f"https://copernicus-dem-90m.s3.amazonaws.com/{name}/{name}.tif"
        for name in ("Copernicus_DSM_COG_30_N30_00_E119_00_DEM", "Copernicus_DSM_COG_30_N31_00_E119_00_DEM")
    ]
    source = type(find_source("copernicus-dem-90"))
    local = [each.replace("https://copernicus-dem-90m.s3.amazonaws.com", server.address) for each in addresses]
    monkeypatch.setattr(source, "addresses", lambda *_: local)
    dispatch(["fetch", "--source", "copernicus-dem-90", "--bounds", "119.0", "119.5", "30.2", "31.5", "--out", "far"])
    assert [path.name for path in Path("far").iterdir()] == ["elevation.tif"]


def test_addresses_of_sources():
    assert find_source("copernicus-dem-30").addresses("elevation", (-0.5, 0.5, -0.5, 0.5))[0].endswith("_S01_00_W001_00_DEM.tif")
    assert find_source("chelsa-2.1").addresses("bio12", (0, 1, 0, 1))[0].endswith("/bio/CHELSA_bio12_1981-2010_V.2.1.tif")
    soil = find_source("soilgrids-2.0-1km").addresses("soc_0-5cm_mean", (0, 1, 0, 1))
    assert soil == ["https://files.isric.org/soilgrids/latest/data_aggregated/1000m/soc/soc_0-5cm_mean_1000.tif"]


def test_the_table_names_unit_cell_licence_and_address_of_every_source(capsys):
    fetch.main(["--list"])
    text = capsys.readouterr().out
    assert "No address was tried" in text
    for each in SOURCES:
        assert all(words in text for words in (each.name, each.unit, each.cell, each.licence, each.address))
        assert bool(each.by_hand) != bool(each.variables)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --source NAME"),
        (["--source", "chelsa-2.1", "--rasters", "x.tif"], "give --source NAME"),
        (["--source", "chelsa-2.1"], "are required"),
        (["--source", "chelsa", "--bounds", "0", "1", "0", "1", "--out", "x"], "no source 'chelsa'; did you mean 'chelsa-2.1'?"),
        (["glim", "--bounds", "0", "1", "0", "1", "--out", "x"], "glim: a zip file with a text grid"),
        (["--source", "glim", "--bounds", "0", "1", "0", "1", "--out", "x"], "glim: a zip file with a text grid"),
        (["--source", "chelsa-2.1", "--variables", "bio99", "--bounds", "0", "1", "0", "1", "--out", "x"], "no variable 'bio99'"),
        (["--source", "chelsa-2.1", "--bounds", "1", "0", "0", "1", "--out", "x"], "bounds are degrees"),
        (["--source", "chelsa-2.1", "--bounds", "0", "1", "0", "91", "--out", "x"], "bounds are degrees"),
    ],
)
def test_mistakes(workplace, arguments, words, capsys):
    assert run(lambda: dispatch(["fetch", *arguments])) == 2
    assert words in capsys.readouterr().err
    shutil.rmtree("x", ignore_errors=True)
