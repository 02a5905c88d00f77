"""Maps of xarray Datasets equal those of `soilcarbon map`: windows, classes, gaps, chunks and turned axes included."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import rioxarray  # noqa: F401 - Dataset.rio
import xarray as xr
from map_world import (
    VARIABLES,
    calibration,
    covariates,
    draw_nothing,
    make,
    make_checkpoint,
    write_boxes,
    write_rasters,
)
from raster_files import write_raster
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import soilcarbon
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.network.specification import unfold_classes
from soilcarbon.stats.applicability import ApplicabilityArea
from soilcarbon.stats.error_field import ErrorField

pytestmark = pytest.mark.usefixtures("light_maps")


ROWS, COLS = 40, 60
"""A corner of the small world, with its gaps."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rasters, a checkpoint with intervals, area of applicability and error model, and their map with zones: the folder."""
    folder, random = tmp_path_factory.mktemp("datasets"), np.random.default_rng(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_nothing(patch)
        write_rasters(Path("rasters"), covariates(ROWS, COLS))
        make_checkpoint(Path("model/m.pth"), calibration=calibration())
        network, stack = load_checkpoint(Path("model/m.pth")), soilcarbon.open_map("rasters")
        cells = np.stack([stack[name].values.ravel() for name in VARIABLES], axis=1)
        cells = cells[np.isfinite(cells).all(1)]
        profiles = unfold_classes(cells[random.choice(len(cells), 60)], network.specification)
        network.applicability = ApplicabilityArea.fit(profiles, folds=np.arange(60) % 3)
        places, y = np.column_stack([random.uniform(10, 16, 40), random.uniform(46, 50, 40)]), 12 + random.normal(0, 2, 40)
        network.errors = ErrorField.fit(y, np.full(40, 11.0), np.zeros(40, int), 1, places, np.zeros(40, int))
        save_checkpoint(network, Path("model/m.pth"))
        write_boxes(west=(10, 46, 13, 50), east=(13, 46, 16, 50))
        assert make("--workers", "1", "--level", "0.8", "--zones", "z.geojson", "--inside_only") == 0
        yield folder


@pytest.fixture(autouse=True)
def here(request, monkeypatch):
    if "world" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("world"))


def mapped():
    return soilcarbon.open_map("out/soc.tif").load()


def same(found, expected):
    assert list(found.data_vars) == list(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_allclose(
            found[name].values, expected[name].values, rtol=2e-5, atol=1e-4 * (name in ("di", "sd")), err_msg=name
        )
        assert found[name].attrs["units"] == expected[name].attrs.get("units", "")
        assert found[name].attrs["long_name"] == expected[name].attrs["long_name"]


def test_a_dataset_gives_the_map_of_the_same_rasters(world):
    expected = mapped()
    found = soilcarbon.predict("model/m.pth", soilcarbon.open_map("rasters").load(), level=0.8, tile=32)
    same(found, expected)
    assert found.rio.crs == expected.rio.crs and np.isnan(found["prediction"].values).any()
    np.testing.assert_allclose(found["x"], expected["x"])
    np.testing.assert_allclose(found["y"], expected["y"])


def test_dask_arrays_give_dask_arrays_that_read_only_what_is_asked_for(world):
    pytest.importorskip("dask")
    expected = mapped()
    stack = soilcarbon.open_map("rasters")
    assert all(stack[name].chunks for name in stack.data_vars)
    read = []

    def watched(block, block_info):
        read.append(block_info[0]["array-location"])
        return block

    chunked = stack.chunk(y=28, x=30)
    chunked["evi"] = chunked["evi"].copy(data=chunked["evi"].data.map_blocks(watched, dtype="float32", meta=np.empty((0, 0), "f4")))
    found = soilcarbon.predict("model/m.pth", chunked, level=0.8, tile=24)
    assert found["prediction"].chunks
    read.clear()
    corner = found["prediction"][:8, :8].compute()
    assert {tuple(map(tuple, each)) for each in read} == {((0, 28), (0, 30))}
    np.testing.assert_allclose(corner, expected["prediction"][:8, :8], rtol=2e-5)
    same(found.compute(), expected)


@pytest.mark.parametrize("turn", [{"y": slice(None, None, -1)}, {"x": slice(None, None, -1)}])
def test_an_axis_may_run_the_other_way(world, turn):
    expected = soilcarbon.predict("model/m.pth", soilcarbon.open_map("rasters").load())
    found = soilcarbon.predict("model/m.pth", soilcarbon.open_map("rasters").load().isel(turn), tile=20)
    np.testing.assert_allclose(found["prediction"], expected["prediction"].isel(turn), rtol=2e-5)
    np.testing.assert_allclose(found["y"], expected["y"].isel({k: v for k, v in turn.items() if k == "y"}))


def test_names_of_degrees_undeclared_gaps_and_packed_values_are_understood(world):
    stack = soilcarbon.open_map("rasters").load()
    expected = soilcarbon.predict("model/m.pth", stack)
    packed = stack.rename(y="lat", x="lon").drop_vars("spatial_ref")
    elevation = packed["elevation"]
    stored = np.where(np.isfinite(elevation), np.round((elevation - 100) / 0.001), -2e9).astype(np.int32)
    packed["elevation"] = (("lat", "lon"), stored, {"_FillValue": -2e9, "scale_factor": 0.001, "add_offset": 100.0})
    packed["evi"] = packed["evi"].fillna(-9999)
    packed = packed.expand_dims(time=1)
    found = soilcarbon.predict("model/m.pth", packed)
    assert found["prediction"].dims == ("lat", "lon") and found.rio.crs.to_epsg() == 4326
    np.testing.assert_allclose(found["prediction"], expected["prediction"], rtol=1e-3)


def test_all_longitudes_close_round_the_earth(workplace):
    make_checkpoint(Path("m.pth"))
    random = np.random.default_rng(0)
    lon, lat = np.arange(-175.0, 180, 10), np.arange(45.0, -50, -10)
    names = soilcarbon.load_model("m.pth").variables
    layers = {name: (("lat", "lon"), random.uniform(1, 3, (len(lat), len(lon))).round()) for name in names}
    world = xr.Dataset(layers, {"lat": lat, "lon": lon})
    whole = soilcarbon.predict("m.pth", world, tile=16)["prediction"]
    turned = soilcarbon.predict("m.pth", world.roll(lon=18, roll_coords=False).assign_coords(lon=lon + 180), tile=16)["prediction"]
    np.testing.assert_allclose(turned.values, np.roll(whole.values, 18, 1), rtol=1e-5)


def test_means_of_zones_are_those_of_the_map(world):
    expected = pd.read_csv("out/soc_totals.csv").drop(columns="map")
    areas = geopandas.read_file("z.geojson")
    found = soilcarbon.zone_means("model/m.pth", soilcarbon.open_map("rasters").load(), areas, level=0.8, inside_only=True, tile=25)
    assert found["mean_upper"].notna().all() and (found["mean"] > found["map_mean"]).all()
    filled = (each.drop(columns=[name for name in each if name.startswith("total")]) for each in (found, expected))
    pd.testing.assert_frame_equal(*filled, rtol=1e-3, check_dtype=False)


def test_a_regressor_in_memory_maps_like_its_checkpoint():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"rain": random.uniform(300, 900, 80), "slope": random.uniform(0, 9, 80)})
    model = soilcarbon.SoilCarbonRegressor(teacher="none", members=2, epochs=2).fit(table, 5 + table["rain"] / 100)
    assert model.feature_names_in_.tolist() == ["rain", "slope"]
    layers = {name: (("lat", "lon"), random.uniform(300, 900, (3, 4))) for name in ("slope", "rain")}
    data = xr.Dataset(layers, {"lat": [47.5, 47.4, 47.3], "lon": [8.1, 8.2, 8.3, 8.4]})
    found = soilcarbon.predict(model, data)
    cells = pd.DataFrame({name: data[name].values.ravel() for name in ("rain", "slope")})
    np.testing.assert_allclose(found["prediction"].values.ravel(), model.predict(cells), rtol=1e-5)
    _, interval = model.predict(cells, return_interval=0.9)
    np.testing.assert_allclose(found["upper"].values.ravel(), interval[:, 1], rtol=1e-5)


def without(name):
    return lambda data: data.drop_vars(name)


BAD = {
    "missing": (without("slope"), "1 of the model's 6 variables are not in the Dataset, first 'slope'"),
    "other crs": (
        lambda data: data.assign(evi=data["evi"].drop_vars("spatial_ref").rio.write_crs("EPSG:3035", grid_mapping_name="other")),
        "evi: is in EPSG:3035, bio01 in EPSG:4326",
    ),
    "no crs": (lambda data: data.drop_vars("spatial_ref"), "bio01: has no coordinate reference system"),
    "times": (lambda data: data.expand_dims(time=2), "select along others first"),
    "uneven": (lambda data: data.isel(x=[0, 1, 2, 4]), "along x are not evenly spaced"),
    "text": (lambda data: data.assign(evi=data["evi"].astype(str)), "evi: holds <U"),
    "fill": (lambda data: data.assign(elevation=data["elevation"].fillna(-32768)), "elevation: \\d+ cells here are -32768"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_does_not_fit_is_named(world, fault):
    change, words = BAD[fault]
    with pytest.raises(UserError, match=words):
        soilcarbon.predict("model/m.pth", change(soilcarbon.open_map("rasters").load()))


def test_what_is_no_fitted_model_is_named(world):
    model = soilcarbon.SoilCarbonRegressor()
    for given, error, words in (
        (model, NotFittedError, "not fitted yet"),
        (make_pipeline(model), UserError, "is a Pipeline; expected"),
    ):
        with pytest.raises(error, match=words):
            soilcarbon.predict(given, soilcarbon.open_map("rasters"))


def test_open_map_applies_scale_and_names_what_a_band_is(workplace):
    values = np.full((2, 3, 4), 250, np.int16)
    values[0, 0, 0] = -1
    write_raster(Path("t.tif"), values, nodata=-1, names=("t", "n"), units=("degC", ""))
    with rasterio.open("t.tif", "r+") as raster:
        raster.scales, raster.offsets = (0.1, 1), (-5, 0)
        raster.update_tags(1, MEANING="mean annual temperature")
    data = soilcarbon.open_map("t.tif")
    assert list(data.data_vars) == ["t", "n"] and data["t"].attrs["units"] == "degC"
    assert (data["t"].attrs["long_name"], data["n"].attrs["long_name"]) == ("mean annual temperature", "n")
    assert np.isnan(data["t"].values[0, 0]) and float(data["t"][1, 1]) == pytest.approx(20.0)


def test_without_dask_a_map_is_read_when_it_is_used(world, monkeypatch):
    monkeypatch.setattr("soilcarbon.geo.field.find_spec", lambda _: None)
    data = soilcarbon.open_map("rasters")
    assert data["slope"].chunks is None and not data["slope"].variable._in_memory
    found = soilcarbon.predict("model/m.pth", data.isel(y=slice(0, 30), x=slice(0, 30)), tile=16)
    assert not data["slope"].variable._in_memory and isinstance(found["prediction"].variable._data, np.ndarray)
    whole = soilcarbon.predict("model/m.pth", data.load())
    np.testing.assert_allclose(found["prediction"][:20, :20], whole["prediction"][:20, :20], rtol=2e-5)
