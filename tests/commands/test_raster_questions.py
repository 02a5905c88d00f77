"""Every command that reads rasters asks about fill values that are not declared, and keeps classes and units as they are."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from conftest import slow_but
from raster_files import write_raster

from soilcarbon.__main__ import dispatch
from soilcarbon.io.files import run
from soilcarbon.mapping.forest import ForestPredictor
from soilcarbon.zonal.persistence import load_zoned

pytestmark = pytest.mark.usefixtures("light_maps")

SIDE = 60
QUICK = ["--folds", "2", "--inner_folds", "2", "--candidates", "1", "--search_trees", "3", "--trees", "5", "--workers", "1"]
CODES = np.array([10, 30, 60, 90, 120, 150, 190, 210])


def put(name, bands, names, dtype="float32", colours=()):
    bands = np.asarray(bands, np.float64)
    table = {code: (code, 90, 9, 255) for code in colours}
    values = (bands if dtype == "float32" else bands.round()).astype(dtype)
    write_raster(name, values, 10, 50, 0.1, names=names, colours=table)


@pytest.fixture
def world(workplace):
    rows, cols = np.mgrid[:SIDE, :SIDE]
    warmth, rain, relief = 4.07 + 0.2 * rows, 200 + 8.0 * cols, 100.0 + 9 * rows + 5 * cols
    codes = CODES[(rows // 12 * 3 + cols // 13 * 5) % 8]
    void = (rows // 6 + cols // 6) % 9 == 0
    put("climate.tif", [warmth, rain], ["bio01", "bio12"])
    put("relief.tif", [relief], ["elevation"])
    put("void.tif", [np.where(void, -32768, relief)], ["elevation"], "int16")
    put("void_climate.tif", np.where(void, -32768, [warmth, rain]), ["bio01", "bio12"], "int16")
    put("kelvin.tif", [warmth + 273.15, rain], ["bio01", "bio12"])
    put("lulc_2018.tif", [codes], [None], "uint8", colours=CODES.tolist())
    put("ids.tif", [28547312 + np.searchsorted(CODES, codes)], ["unit"], "int32")
    put("keys.tif", [2774001 + np.searchsorted(CODES, codes) // 4], ["unit"], "int32")
    put("ours.tif", [1 + relief / 200], ["prediction"])
    put("void_product.tif", [np.where(void, 255, 10 + relief / 20)], ["ocs"], "uint8")
    random = np.random.default_rng(0)
    lon, lat = random.uniform(10.1, 15.9, 240), random.uniform(44.1, 49.9, 240)
    row, col = ((50 - lat) / 0.1).astype(int), ((lon - 10) / 0.1).astype(int)
    soc = 5 + relief[row, col] / 50 + codes[row, col] / 10 + random.normal(0, 0.3, 240)
    table = {"profile_id": [f"P{k}" for k in range(240)], "lon": lon, "lat": lat, "soc": soc, "socd": soc / 5}
    pd.DataFrame(table).to_csv("points.csv", index=False)
    observed = {"name": "map", "kind": "observed", "path": "ours.tif", "unit": "kg/m2"}
    model = {"name": "x", "kind": "model", "path": "void_product.tif", "unit": "t/ha"}
    for name, targets, covariate in (("covariate", [observed], "void.tif"), ("target", [observed, model], "relief.tif")):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"targets": targets, "rasters": ["climate.tif", covariate]}))
    return workplace


def command(*arguments):
    return run(partial(dispatch, [str(each) for each in arguments]))


def refused(capfd, *arguments):
    assert command(*arguments) == 2
    text = capfd.readouterr().err.strip().splitlines()
    return text[-1]


PREPARE = ["prepare", "--points", "points.csv", "--target", "soc", "--out", "data", "--rasters", "climate.tif"]
ZONES = [
    "zones",
    "--samples",
    "points.csv",
    "--targets",
    "socd",
    "--unit",
    "kg/m2",
    "--year",
    "none",
    *QUICK,
    "--best",
    "2",
    "--block_size",
    "1",
]
CLIMATE = ["--precipitation", "bio12", "--temperature", "bio01"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([*PREPARE, "void.tif"], "--nodata elevation=-32768"),
        ([*ZONES, *CLIMATE, "--rasters", "climate.tif", "void.tif"], "--nodata elevation=-32768"),
        (["covariates", "--climate", "void_climate.tif", *CLIMATE, "--out", "z.tif"], "--nodata -32768"),
        (["validate", "--maps", "ours.tif,unit=kg/m2", "--products", "ref=void_product.tif,unit=t/ha"], "nodata=255"),
        (["drivers", "--config", "covariate.yaml"], "--nodata elevation=-32768"),
        (["drivers", "--config", "target.yaml"], "nodata=255"),
    ],
)
def test_a_fill_value_is_asked_about_by_every_command(arguments, answer, world, capfd):
    text = refused(capfd, *arguments)
    assert "far from all other values: missing values that the file does not declare?" in text
    assert f"{answer} takes them as missing" in text


def test_the_answer_is_kept_with_the_dataset(world):
    assert command(*PREPARE, "void.tif", "--nodata", "-32768") == 0
    facts = yaml.safe_load(Path("data/dataset.yaml").read_text())
    given = {name: values for grid in facts["rasters"] for name, values in grid.get("nodata", {}).items()}
    assert given["elevation"] == [-32768.0]
    mean = pd.read_csv("data/stats.csv").set_index("var_name").loc["elevation", "v_mean"]
    assert 300 < mean < 700
    assert facts["missing_cells"]["elevation"] > 10


def test_voids_leave_no_climate_zone_and_no_carbon(world):
    assert command("covariates", "--climate", "void_climate.tif", *CLIMATE, "--nodata", "-32768", "--out", "z.tif") == 0
    with rasterio.open("z.tif") as raster, rasterio.open("void.tif") as void:
        np.testing.assert_array_equal(raster.read(1, masked=True).mask, void.read(1) == -32768)
    products = ["--products", "ref=void_product.tif,unit=t/ha,nodata=255"]
    assert command("validate", "--maps", "ours.tif,unit=kg/m2", *products, "--out", "v") == 0
    row = pd.read_csv("v/product_scores.csv").iloc[0]
    assert row["mean_reference"] == pytest.approx(row["mean_map"], rel=0.01)


# --- classes -----------------------------------------------------------------------------------------------------------


def test_a_colour_table_makes_classes_in_a_dataset_and_a_list_of_categories_must_say_so(world, capfd):
    assert command(*PREPARE, "lulc_2018.tif") == 0
    kinds = {each["name"]: each["kind"] for each in yaml.safe_load(Path("data/dataset.yaml").read_text())["categories"]}
    assert kinds == {"climate": "numeric", "lulc_2018": "classes"}
    Path("c.yaml").write_text("categories:\n- {name: a, variables: [bio01, lulc_2018]}\n")
    assert "lulc_2018 has a colour table or category names: class codes?" in refused(
        capfd, *PREPARE, "lulc_2018.tif", "--config", "c.yaml"
    )
    Path("c.yaml").write_text("categories:\n- {name: a, variables: [bio01, lulc_2018], kind: numeric}\n")
    assert command(*PREPARE, "lulc_2018.tif", "--config", "c.yaml") == 0


GIVEN = [([], ("lulc_2018",)), (["--classes", "none"], ()), (["--classes", "bio01"], ("bio01",))]


@pytest.mark.parametrize(("given", "classes"), slow_but(GIVEN, GIVEN[0]))
def test_zonal_forests_keep_their_classes_and_maps_never_mix_them(given, classes, world):
    assert command(*ZONES, *CLIMATE, "--rasters", "climate.tif", "lulc_2018.tif", *given) == 0
    model = load_zoned(Path("model/zoned_socd.npz"))
    assert model.classes == classes
    assert ForestPredictor(Path("model/zoned_socd.npz")).classes == frozenset(classes)


@pytest.mark.parametrize("arguments", [[*PREPARE, "ids.tif"], [*ZONES, "--rasters", "climate.tif", "ids.tif", "--zone", "unit"]])
def test_codes_that_cannot_be_told_apart_are_refused(arguments, world, capfd):
    assert "class codes of unit beyond 16,777,216, first 285473" in refused(capfd, *arguments)


def test_zones_of_seven_digits_have_names_of_their_own(world):
    assert command(*ZONES, "--rasters", "climate.tif", "keys.tif", "--zone", "unit") == 0
    assert load_zoned(Path("model/zoned_socd.npz")).forest.zones.names == ("zone 2774001", "zone 2774002")


# --- units of the climate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", slow_but(["covariates", "zones"], "covariates"))
def test_kelvin_is_asked_about_and_the_unit_moves_the_threshold(which, world, capfd):
    def made(climate, *more):
        if which == "covariates":
            return ["covariates", "--climate", climate, *CLIMATE, "--out", "z.tif", *more]
        return [*ZONES, "--rasters", climate, *CLIMATE, "--run", f"{climate[:-4]}{len(more)}", *more]

    text = refused(capfd, *made("kelvin.tif"))
    assert "are no mean annual temperature in degC" in text and "--units temperature=K" in text
    found = []
    for arguments in (made("kelvin.tif", "--units", "temperature=K"), made("climate.tif")):
        assert command(*arguments) == 0
        if which == "covariates":
            with rasterio.open("z.tif") as raster:
                found.append(raster.read(1))
        else:
            found.append(pd.read_csv(f"results/{arguments[arguments.index('--run') + 1]}/predictions.csv")["zone"].to_numpy())
    np.testing.assert_array_equal(*found)
    own = made("kelvin.tif", "--warm", "283.15", "--wet", "300")
    assert command(*own) == 0  # thresholds in the variables' own units


def test_a_unit_that_the_file_states_is_believed(world):
    with rasterio.open("kelvin.tif", "r+") as raster:
        raster.units = ("K", "mm")
    for climate, out in (("kelvin.tif", "a.tif"), ("climate.tif", "b.tif")):
        assert command("covariates", "--climate", climate, *CLIMATE, "--out", out) == 0
    with rasterio.open("a.tif") as first, rasterio.open("b.tif") as second:
        np.testing.assert_array_equal(first.read(1), second.read(1))
