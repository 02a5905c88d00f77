"""Exports to models' grids: conserved carbon, CF rules, errors and realisations of the maps' error model, depths, refusals."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from map_world import covariates as covariates_of
from map_world import draw_nothing, make, make_checkpoint, write_rasters
from rasterio.transform import Affine

import soilcarbon
from soilcarbon.geo.field import read_field
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.network.checkpoint import load_checkpoint, save_checkpoint
from soilcarbon.stats.error_field import ErrorField

pytestmark = pytest.mark.usefixtures("light_maps")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A map of density with an error model, 0-30 cm of 1998-2015: the folder, in which the tests work."""
    folder, random = tmp_path_factory.mktemp("export"), np.random.default_rng(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_nothing(patch)
        write_rasters(Path("rasters"), covariates_of(40, 60))
        make_checkpoint(Path("model/m.pth"), unit="t/ha", depth=(0.0, 30.0), years=(1998, 2015))
        network = load_checkpoint(Path("model/m.pth"))
        places = np.column_stack([random.uniform(10, 16, 60), random.uniform(46, 50, 60)])
        network.errors = ErrorField.fit(
            13 + 2 * np.sin(places[:, 0]) + random.normal(0, 2, 60),
            np.full(60, 12.0),
            np.zeros(60, int),
            1,
            places,
            np.zeros(60, int),
        )
        save_checkpoint(network, Path("model/m.pth"))
        assert make("--workers", "1") == 0
        soilcarbon.run("export", maps="out/soc.tif", cell=1.0, realizations=200)
        yield folder


@pytest.fixture(autouse=True)
def here(world, monkeypatch):
    monkeypatch.chdir(world)


def opened(path="out/cSoil.nc"):
    return xr.open_dataset(path).load()


def test_carbon_is_that_of_the_map(world):
    data, totals = opened(), pd.read_csv("out/soc_totals.csv").iloc[0]
    soc = soilcarbon.open_map("out/soc.tif")["prediction"].load() / 10  # t/ha to kg m-2
    inside = soc.sel(x=slice(11, 12), y=slice(48, 47))
    weights = np.cos(np.radians(inside["y"]))
    cell = data.sel(lon=11.5, lat=47.5).isel(time=0)
    assert float(cell["cSoil_map"]) == pytest.approx(float(inside.weighted(weights).mean()), rel=1e-4)
    area = (data["areacella"] * data["covered"]).where(data["cSoil"].isel(time=0).notnull())
    assert float(area.sum()) == pytest.approx(totals["area_km2"] * 1e6, rel=1e-4)
    for name, column in (("cSoil_map", "map_mean"), ("cSoil", "mean")):
        assert float((data[name].isel(time=0) * area).sum() / area.sum()) * 10 == pytest.approx(totals[column], rel=2e-3)


def test_standard_errors_and_realisations_are_those_of_the_error_model(world):
    data, totals = opened().isel(time=0), pd.read_csv("out/soc_totals.csv").iloc[0]
    drawn, mean, error = data["cSoil_realizations"], data["cSoil"], data["cSoil_standard_error"]
    known = mean.notnull().values
    assert drawn.sizes["realization"] == 200 and float(drawn.min()) >= 0
    np.testing.assert_allclose(drawn.mean("realization").values[known], mean.values[known], rtol=0.02)
    np.testing.assert_allclose(drawn.std("realization").values[known], error.values[known], rtol=0.15)
    area = (data["areacella"] * data["covered"]).fillna(0)
    means = (drawn * area).sum(("lat", "lon")) / area.where(known).sum()
    lower, upper = np.quantile(means * 10, [0.05, 0.95])
    assert (lower, upper) == pytest.approx((totals["mean_lower"], totals["mean_upper"]), rel=0.01)
    assert upper - lower == pytest.approx(totals["mean_upper"] - totals["mean_lower"], rel=0.15)
    alone = 2 * 1.645 * float((area**2 * error**2).sum()) ** 0.5 / float(area.where(known).sum()) * 10
    assert upper - lower > 1.3 * alone  # cells are no independent errors
    neighbours = np.corrcoef(drawn.values[:, 1, 1:3].T)[0, 1]
    apart = np.corrcoef(drawn.values[:, [0, -1], [0, -1]].T)[0, 1]
    assert neighbours > apart and neighbours > 0.3


def test_on_the_map_s_own_cells_realisations_have_what_single_cells_err(world):
    """There the nugget, which averages out over large cells, is most of the variance, and values are skewed."""
    soilcarbon.run("export", maps="out/soc.tif", realizations=100, out="fine/c.nc")
    data = opened("fine/c.nc").isel(time=0)
    drawn, mean, error = (data[name].values for name in ("cSoil_realizations", "cSoil", "cSoil_standard_error"))
    known = np.isfinite(mean)
    assert np.nanmean(error[known] / mean[known]) > 0.1
    assert (drawn.std(0)[known] / error[known]).mean() == pytest.approx(1, abs=0.03)
    assert (drawn.mean(0)[known] / mean[known]).mean() == pytest.approx(1, abs=0.003)
    assert np.nanmean(drawn > mean) < 0.49  # skewed: more lie below the mean
    coarse = float(opened()["cSoil_standard_error"].mean())
    assert coarse < 0.8 * float(np.nanmean(error))


def check_cf(path):
    """Check rules of CF-1.8 that the file's parts must meet, and those of CMIP's tables that ILAMB and ESMValTool rely on."""
    raw = xr.open_dataset(path, decode_cf=False)
    assert raw.attrs["Conventions"] == "CF-1.8" and {"title", "source", "history", "references"} <= set(raw.attrs)
    soil = raw["cSoil"]
    assert (soil.attrs["standard_name"], soil.attrs["units"]) == ("soil_mass_content_of_carbon", "kg m-2")
    assert soil.dims[-2:] == ("lat", "lon") and soil.attrs["_FillValue"] == np.float32(1e20) and soil.dtype == np.float32
    assert re.fullmatch(r"area: mean where land( time: mean)?", soil.attrs["cell_methods"])
    assert ("time" in soil.dims) == soil.attrs["cell_methods"].endswith("time: mean")
    if "ancillary_variables" in soil.attrs:  # of which ILAMB would take two for the ends of an interval
        error = raw[soil.attrs["ancillary_variables"]]
        assert (error.dims, error.attrs["units"]) == (soil.dims, "kg m-2")
        assert error.attrs["standard_name"] == "soil_mass_content_of_carbon standard_error"
    assert soil.attrs["cell_measures"] == "area: areacella" and raw["areacella"].attrs["standard_name"] == "cell_area"
    assert "depth" in soil.attrs["coordinates"].split() and raw["depth"].attrs["positive"] == "down"
    for name, axis, unit in (("lat", "Y", "degrees_north"), ("lon", "X", "degrees_east")):
        array, edges = raw[name], raw[raw[name].attrs["bounds"]]
        assert (array.attrs["axis"], array.attrs["units"], array.dtype) == (axis, unit, np.float64)
        assert "_FillValue" not in array.attrs and "_FillValue" not in edges.attrs and not edges.attrs.get("units")
        assert (np.diff(array) > 0).all() or (np.diff(array) < 0).all()
        assert (edges.min("bnds") < array).all() and (array < edges.max("bnds")).all()
    if "time" in soil.dims:
        assert raw["time"].attrs["units"].startswith("days since") and raw["time"].attrs["bounds"] in raw
    return raw


def test_the_file_follows_the_conventions(world):
    raw = check_cf("out/cSoil.nc")
    assert raw["depth_bnds"].values.tolist() == [0.0, 0.3] and raw["realization"].attrs["standard_name"] == "realization"
    data = opened()
    assert str(data["time_bnds"].values[0, 0])[:10] == "1998-01-01" and str(data["time_bnds"].values[0, 1])[:10] == "2016-01-01"
    assert "soc.tif (SHA-256 " in data.attrs["input_files"] and "m.pth" in data.attrs["input_files"]
    assert "soilcarbon export --maps out/soc.tif --cell 1.0" in data.attrs["history"]


def test_only_what_has_a_depth_says_so_and_bounds_are_no_coordinates(world):
    raw = xr.open_dataset("out/cSoil.nc", decode_coords=False, decode_times=False)
    assert "coordinates" not in raw.attrs  # iris does not read a file that has it
    named = {name for name in raw.variables if "coordinates" in raw[name].attrs}
    assert named == {"cSoil", "cSoil_standard_error", "cSoil_map", "cSoil_realizations"}
    assert {raw[name].attrs["bounds"] for name in ("lat", "lon", "time", "depth")} <= set(raw.variables)


def test_a_cf_checker_finds_nothing(world):
    pytest.importorskip("compliance_checker", reason="pip install compliance-checker")
    from compliance_checker.runner import CheckSuite, ComplianceChecker

    CheckSuite().load_all_available_checkers()
    report = {"output_filename": "cf.txt", "output_format": "text"}
    ComplianceChecker.run_checker("out/cSoil.nc", ["cf:1.8"], 0, "strict", **report)
    found = re.findall(r"^\* (.*)", Path("cf.txt").read_text(), re.MULTILINE)
    # the bounds of a scalar have one dimension (CF 7.1: one more than their coordinate), as in CMIP's own files
    assert [each for each in found if not each.startswith("Boundary variable depth_bnds")] == []


def test_the_page_s_example_gives_the_interval_of_the_total(world):
    page = (Path(__file__).resolve().parents[2] / "docs" / "earth-system-models.md").read_text(encoding="utf-8")
    block, names = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {}
    exec(block.replace("results/mine/", "out/"), names)
    totals = pd.read_csv("out/soc_totals.csv").iloc[0]
    size = {"t": 1e-9, "kt": 1e-6, "Mt": 1e-3, "Pg": 1.0}[totals["total_unit"]]
    assert float(names["stocks"].mean()) == pytest.approx(totals["total"] * size, rel=0.01)
    ends = names["stocks"].quantile([0.05, 0.95]).values
    assert ends == pytest.approx((totals["total_lower"] * size, totals["total_upper"] * size), rel=0.01)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_iris_of_which_esmvaltool_is_made_reads_it(world):
    iris = pytest.importorskip("iris", reason="pip install scitools-iris")
    cube = iris.load_cube("out/cSoil.nc", iris.Constraint(cube_func=lambda cube: cube.var_name == "cSoil"))
    assert (cube.standard_name, str(cube.units)) == ("soil_mass_content_of_carbon", "kg m-2")
    assert [each.name() for each in cube.coords(dim_coords=True)] == ["time", "latitude", "longitude"]
    assert all(cube.coord(name).has_bounds() for name in ("time", "latitude", "longitude", "depth"))
    assert cube.cell_measure("cell_area").shape == cube.shape[1:] and len(cube.ancillary_variables()) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("project", "table"), [("OBS6", "Emon"), ("OBS", "Lmon")])
def test_the_checker_of_esmvaltool_accepts_it(world, project, table):
    reason = "pip install --no-deps esmvalcore, and what it imports; esmpy is not needed for its checker"
    fixes, checks = (pytest.importorskip(f"esmvalcore.cmor.{name}", reason=reason) for name in ("fix", "check"))
    iris, which, strict = pytest.importorskip("iris"), (project, table, "cSoil", "mon"), checks.CheckLevels.STRICT
    cubes = fixes.fix_metadata(iris.load_raw("out/cSoil.nc"), "cSoil", project, "soilcarbon", table, frequency="mon")
    cube = checks.cmor_check_metadata(cubes[0], *which, check_level=strict)  # raises at any discrepancy
    cube = checks.cmor_check_data(cube, *which, check_level=strict)
    assert cube.shape[-2:] == opened()["cSoil"].shape[-2:] and cube.coord("time").has_bounds()


def test_ilamb_reads_it_and_converts_its_units(world):
    dataset = pytest.importorskip("ilamb3.dataset", reason="pip install ilamb3")
    from ilamb3.analysis.bias import bias_analysis

    ours = opened().drop_vars("cSoil_realizations")
    assert [dataset.get_dim_name(ours, name) for name in ("lat", "lon", "time")] == ["lat", "lon", "time"]
    model = ours.assign(cSoil=(1.1 * ours["cSoil"]).assign_attrs(ours["cSoil"].attrs))
    table = bias_analysis("cSoil")(ours, model)[0].set_index(["source", "name"])["value"]
    assert table["Comparison", "Bias"] == pytest.approx(0.1 * table["Reference", "Period Mean"], rel=1e-3)


def test_drivers_read_it_back(world):
    field, data = read_field(Path("out/cSoil.nc")), opened()
    assert (field.variable, field.unit, field.times) == ("cSoil", "kg/m2", 1)
    np.testing.assert_allclose(field.values, data["cSoil"].isel(time=0, lat=slice(None, None, -1)).values)
    assert field.at(np.array([11.5]), np.array([47.5]))[0] == pytest.approx(float(data["cSoil"].sel(lat=47.5, lon=11.5)[0]))


def write_density(path, value, unit="kg/m2", tags=None):
    write_geotiff(Path(path), np.full((1, 20, 30), value), ["prediction"], Affine(0.1, 0, 10, 0, -0.1, 50), units=[unit])
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(**(tags or {}))


def test_depths_that_lie_on_each_other_are_added_and_the_grid_is_the_model_s(world):
    for name, value, depth in (("a", 3.0, "0-30 cm"), ("b", 20.0, "30-60 cm"), ("c", 9.0, "60-100 cm"), ("d", 7.5, "0-60 cm")):
        write_density(f"{name}.tif", value, tags={"DEPTH": depth})
    lat, lon = np.array([48.25, 49.25, 51.0]), np.array([370.0, 372.0])
    axes = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    xr.Dataset({"x": (("lat", "lon"), np.zeros((3, 2)))}, axes).to_netcdf("model.nc", engine="scipy")
    maps = ["a.tif", "b.tif", "c.tif", "d.tif"]
    soilcarbon.run("export", maps=maps, grid="model.nc", uncertainty=False, out="m/c.nc", covered=0.05)
    data = opened("m/c.nc")
    check_cf("m/c.nc")
    assert "time" not in data.dims and data["lat"].values.tolist() == lat.tolist() and data["lon"].values.tolist() == lon.tolist()
    assert np.unique(data["cSoil"].values[np.isfinite(data["cSoil"].values)]) == pytest.approx([16.5])  # d and c: the fewest maps
    assert float(data["depth_bnds"][1]) == 1.0 and data["covered"].values[1, 0] > 0.3
    soilcarbon.run("export", maps=maps, grid="model.nc", uncertainty=False, out="m/c.nc", depth=30, years=(2000, 2004))
    assert float(opened("m/c.nc")["cSoil"].max()) == 3.0 and opened("m/c.nc")["time"].dt.year.values[0] == 2002
    with pytest.raises(UserError, match="depth 45 cm: the maps reach 30, 60, 100 cm"):
        soilcarbon.run("export", maps=maps, cell=1, uncertainty=False, depth=45)


def test_errors_of_two_depths_go_together(world):
    Path("two").mkdir(exist_ok=True)
    soilcarbon.run("export", maps=["out/soc.tif"], cell=1.0, out="two/one.nc")
    with rasterio.open("out/soc.tif") as raster:
        profile, values, tags = raster.profile, raster.read(), raster.tags()
    with rasterio.open("two/below.tif", "w", **{**profile, "driver": "GTiff"}) as raster:
        raster.write(values)
        raster.descriptions, raster.units = ("prediction", "lower", "upper", "sd"), ["t/ha"] * 4
        raster.update_tags(**tags | {"DEPTH": "30-60 cm"})
    soilcarbon.run("export", maps=["out/soc.tif", "two/below.tif"], cell=1.0, out="two/both.nc", checkpoints=["model/m.pth"] * 2)
    one, both = opened("two/one.nc"), opened("two/both.nc")
    for name in ("cSoil", "cSoil_standard_error"):
        np.testing.assert_allclose(both[name], 2 * one[name], rtol=1e-4)


def test_an_error_that_all_measurements_share_is_added(world):
    assert make("--workers", "1", "--shared_sd", "20%", out="shared/soc.tif") == 0
    soilcarbon.run("export", maps="shared/soc.tif", cell=1.0, realizations=2)
    alone, both = opened(), opened("shared/cSoil.nc")
    expected = np.hypot(alone["cSoil_standard_error"], 0.2 * alone["cSoil_map"])
    np.testing.assert_allclose(both["cSoil_standard_error"], expected, rtol=1e-4)
    np.testing.assert_allclose(both["cSoil"], alone["cSoil"], rtol=1e-5)


def test_without_the_extra_the_file_is_classic_netcdf(world, monkeypatch):
    from soilcarbon.mapping import export

    write_density("a.tif", 3.0, tags={"DEPTH": "0-30 cm", "YEARS": "2000-2004"})
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    soilcarbon.run("export", maps="a.tif", uncertainty=False, out="classic/c.nc")
    assert Path("classic/c.nc").read_bytes()[:4] == b"CDF\x02"
    check_cf("classic/c.nc")
    assert opened("classic/c.nc").sizes["lat"] == 20 and read_field(Path("classic/c.nc")).times == 1


def test_medians_are_told_where_no_model_makes_them_means(world, caplog):
    write_density("medians.tif", 3.0, tags={"DEPTH": "0-30 cm"})
    with rasterio.open("medians.tif", "r+") as raster:
        raster.update_tags(1, MEANING="SOC density, median (one network); totals are of means")
    soilcarbon.run("export", maps="medians.tif", uncertainty=False, out="medians/c.nc")
    assert "medians.tif is of medians" in caplog.text


REFUSED = {
    "nothing": ({"maps": "absent.tif"}, "absent.tif: no such map"),
    "depth": ({"maps": "nodepth.tif", "uncertainty": False}, "of which depth is it"),
    "content": ({"maps": "content.tif", "uncertainty": False}, "a content is no stock"),
    "below": ({"maps": "below.tif", "uncertainty": False}, "no map begins at the surface"),
    "model": ({"maps": "plain.tif"}, "its model  is not there; give --checkpoints; --no-uncertainty"),
    "other model": ({"maps": "plain.tif", "checkpoints": "model/m.pth"}, "is not the model that made plain.tif"),
    "projected": ({"maps": "metres.tif", "uncertainty": False}, "the map is not in degrees: give cell"),
    "uncovered": ({"maps": "plain.tif", "uncertainty": False, "cell": 30}, "no cell of the model's grid is covered by 50%"),
    "both": ({"maps": "plain.tif", "cell": 1, "grid": "plain.tif"}, "give one"),
    "no errors": ({"maps": "plain.tif", "uncertainty": False, "realizations": 5}, "they need uncertainty"),
    "name": ({"maps": "plain.tif", "uncertainty": False, "out": "x.tif"}, "an export is NetCDF"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_exported_is_refused(world, fault):
    write_density("nodepth.tif", 3.0)
    write_density("content.tif", 3.0, "g/kg", {"DEPTH": "0-30 cm"})
    write_density("below.tif", 3.0, tags={"DEPTH": "30-60 cm"})
    write_density("plain.tif", 3.0, tags={"DEPTH": "0-30 cm"})
    write_geotiff(
        Path("metres.tif"),
        np.full((1, 3, 3), 2.0),
        ["prediction"],
        Affine(1e4, 0, 4e6, 0, -1e4, 3e6),
        crs="EPSG:3035",
        units=["kg/m2"],
    )
    with rasterio.open("metres.tif", "r+") as raster:
        raster.update_tags(DEPTH="0-30 cm")
    settings, words = REFUSED[fault]
    with pytest.raises(UserError, match=re.escape(words)):
        soilcarbon.run("export", **settings)
