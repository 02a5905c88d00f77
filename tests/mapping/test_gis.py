"""What a GIS finds beside a map: a QGIS style, a STAC item, zones as GeoPackage; and the map's own names, units and statistics."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree as Xml

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from map_world import (
    CATEGORIES,
    CELL,
    NORTH,
    WEST,
    covariates,
    draw_nothing,
    make,
    make_checkpoint,
    make_world,
    write_boxes,
    write_rasters,
)
from matplotlib import colormaps
from rasterio.transform import Affine

import soilcarbon
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.manifest import MANIFEST, listed_files
from soilcarbon.mapping.gis import item, style
from soilcarbon.mapping.picture import Ramp, View, ramp_of, read_picture

ROWS, COLS = 40, 60
READERS = {"csv": pd.read_csv, "gpkg": geopandas.read_file}
pytestmark = pytest.mark.usefixtures("light_maps", "whole_maps")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Maps of two periods, with zones: the folder of the results."""
    folder = tmp_path_factory.mktemp("gis")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_nothing(patch)
        write_rasters(Path("rasters"), covariates(ROWS, COLS))
        make_checkpoint(Path("model/m.pth"), depth=(0.0, 30.0), years=(1998, 2015))
        warmer = {name: values for name, values in covariates(ROWS, COLS, seed=1).items() if name.startswith("bio")}
        write_rasters(Path("later"), warmer)
        write_boxes(west=(10, 46.5, 13, 50), east=(13, 46.5, 16, 50))
        assert make("--workers", "1") == 0
        more = ["--workers", "1", "--periods", "2000-2004=rasters", "2020=later", "--zones", "z.geojson"]
        assert make(*more, out="out/both.tif") == 0
        yield folder / "out"


def shader(path):
    return Xml.fromstring(path.read_text()).find(".//colorrampshader")


def test_a_style_has_the_colours_of_the_page_and_the_unit(results):
    found = shader(results / "soc.qml")
    ramp = ramp_of(read_picture(View("", results / "soc.tif"), 1200, 1).bands, False)
    values = [float(each.get("value")) for each in found.iter("item")]
    assert (values[0], values[-1]) == pytest.approx((ramp.low, ramp.high)) and values == sorted(values) and len(values) > 4
    assert float(found.get("minimumValue")) == pytest.approx(ramp.low)
    for each, value in zip(found.iter("item"), values, strict=True):
        assert each.get("label").endswith(" g/kg")
        rgb = [int(each.get("color")[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        assert rgb == pytest.approx(colormaps[ramp.colours](ramp.place(value))[:3], abs=0.015)
    renderer = Xml.fromstring((results / "soc.qml").read_text()).find(".//rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("singlebandpseudocolor", "1")


def test_maps_of_two_periods_share_a_style_and_the_change_is_centred_at_zero(results):
    first, last, change = (results / f"both_{name}.qml" for name in ("2000-2004", "2020", "change"))
    assert first.read_text() == last.read_text() != change.read_text()
    ends = [float(each.get("value")) for each in shader(change).iter("item")]
    assert ends[0] == -ends[-1] and shader(change).findall("item")[16].get("color") == "#f6f7f7"


def test_every_band_has_a_style_with_the_pages_ramp_of_it(results):
    picture = read_picture(View("", results / "soc.tif"), 1200)
    assert [band.name for band in picture.bands[1:]] == ["lower", "upper", "sd"]
    assets = stac(results / "soc_stac.json")["assets"]
    for number, band in enumerate(picture.bands, 1):
        path = results / ("soc.qml" if number == 1 else f"soc_{band.name}.qml")
        renderer = Xml.fromstring(path.read_text()).find(".//rasterrenderer")
        ends = float(renderer.get("classificationMin")), float(renderer.get("classificationMax"))
        ramp = ramp_of([band], False)
        assert (renderer.get("band"), *ends) == (str(number), pytest.approx(ramp.low), pytest.approx(ramp.high))
        assert path.name in [asset["href"].removeprefix("./") for asset in assets.values()]


def test_a_logarithmic_ramp_lists_round_values():
    found = Xml.fromstring(style(Ramp("viridis", 1.3, 220.0, True, "both", ""), "")).find(".//colorrampshader")
    assert [each.get("label") for each in found.iter("item")] == ["1.3", "2", "5", "10", "20", "50", "100", "220"]
    assert found.find("rampLegendSettings").get("useContinuousLegend") == "0"


def stac(path):
    return json.loads(path.read_text())


def check_item(found, folder):
    """Check the rules of STAC 1.1 and of the extensions that need no schema."""
    assert (found["type"], found["stac_version"]) == ("Feature", "1.1.0") and found["links"] == []
    properties = found["properties"]
    assert properties["datetime"] or (properties["start_datetime"] < properties["end_datetime"])
    shape, place = properties["proj:shape"], properties["proj:transform"]
    with rasterio.open(folder / found["assets"]["map"]["href"]) as raster:
        assert list(raster.shape) == shape and list(raster.transform)[:6] == pytest.approx(place)
        assert len(found["assets"]["map"]["bands"]) == raster.count
    for asset in found["assets"].values():
        content = (folder / asset["href"]).read_bytes()
        assert asset["file:size"] == len(content) and asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert asset["type"] and asset["roles"] and asset["title"]
    lon, lat = np.array(found["geometry"]["coordinates"][0]).T
    west, south, east, north = found["bbox"]
    assert (lon.min(), lat.min(), lon.max(), lat.max()) == pytest.approx((west, south, east, north), abs=1e-6)


def test_a_stac_item_describes_the_map(results):
    found = stac(results / "soc_stac.json")
    check_item(found, results)
    assert found["bbox"] == pytest.approx([WEST, NORTH - ROWS * CELL, WEST + COLS * CELL, NORTH])
    properties, band = found["properties"], found["assets"]["map"]["bands"][0]
    assert properties["title"] == "m: SOC, 0-30 cm, 1998-2015 (g/kg)" and properties["proj:code"] == "EPSG:4326"
    assert (properties["start_datetime"], properties["end_datetime"]) == ("1998-01-01T00:00:00Z", "2015-12-31T23:59:59Z")
    assert (band["name"], band["unit"], band["nodata"]) == ("prediction", "g/kg", -9999.0)
    with rasterio.open(results / "soc.tif") as raster:
        values = raster.read(1, masked=True)
        assert raster.tags()["DEPTH"] == "0-30 cm" and raster.tags()["YEARS"] == "1998-2015"
    assert band["statistics"]["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert set(found["assets"]) == {
        "map",
        "overview",
        "style",
        "style_lower",
        "style_upper",
        "style_sd",
        "page",
        "provenance",
        "totals",
    }
    change = stac(results / "both_change_stac.json")
    assert (change["properties"]["start_datetime"], change["properties"]["end_datetime"]) == (
        "2000-01-01T00:00:00Z",
        "2020-12-31T23:59:59Z",
    )
    assert "zones" in change["assets"] and change["assets"]["map"]["href"] == "./both_change.tif"


@pytest.mark.slow
def test_pystac_validates_the_items(results):
    pystac = pytest.importorskip("pystac", reason="pip install 'pystac[validation]'")
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    for path in results.glob("*_stac.json"):
        found = pystac.Item.from_dict(stac(path))
        JsonSchemaSTACValidator().validate_core(found.to_dict(), pystac.STACObjectType.ITEM, "1.1.0")


def test_items_of_projections_and_across_the_antimeridian(tmp_path):
    when, path = pd.Timestamp("2026-01-02T03:04:05Z").to_pydatetime(), tmp_path / "m.tif"
    local = "+proj=laea +lat_0=10 +lon_0=180 +datum=WGS84 +units=m"
    write_geotiff(path, np.ones((1, 4, 6)), ["a"], Affine(1e5, 0, -3e5, 0, -1e5, 2e5), crs=local)
    found = item(path, {"map": (path, "map")}, "t", None, when, {})
    assert found["properties"]["proj:code"] is None and "Lambert Azimuthal Equal Area" in found["properties"]["proj:wkt2"]
    assert found["properties"]["datetime"] == "2026-01-02T03:04:05Z"
    west, south, east, north = found["bbox"]
    assert 177 < west < 178 and -178 < east < -177 and 8 < south < 9 and 11 < north < 12
    assert found["geometry"]["type"] == "MultiPolygon"
    write_geotiff(path, np.ones((1, 180, 360)), ["a"], Affine(1, 0, 0, 0, -1, 90))
    assert item(path, {"map": (path, "map")}, "t", None, when, {})["bbox"] == [-180, -90, 180, 90]


def test_zones_are_layers_with_their_totals(results):
    table = pd.read_csv(results / "both_totals.csv")
    for name in ("2000-2004", "2020", "change"):
        layer = geopandas.read_file(results / "both_totals.gpkg", layer=name)
        assert layer.crs.to_epsg() == 4326 and layer["zone"].tolist() == ["west", "east"]
        assert layer.total_bounds.tolist() == [10, 46.5, 16, 50]
        expected = table[(table["map"] == name) & table["zone"].isin(["west", "east"])]
        np.testing.assert_allclose(layer[["mean", "mean_lower"]], expected[["mean", "mean_lower"]], rtol=1e-4)
    assert not (results / "soc_totals.gpkg").exists()


def test_predictions_are_points(workplace):
    make_world(workplace, members=1)
    lon, lat = np.linspace(10.1, 18.9, 20), np.linspace(43.1, 49.9, 20)
    places = pd.DataFrame({"profile_id": [f"p{k}" for k in range(20)], "lon": lon, "lat": lat})
    places.to_csv("places.csv", index=False)
    Path("c.yaml").write_text(yaml.safe_dump({"categories": [category.model_dump(mode="json") for category in CATEGORIES]}))
    soilcarbon.run("prepare", config="c.yaml", points="places.csv", rasters="rasters", out="data", predict_only=True)
    soilcarbon.run("predict", checkpoint="model/m.pth", data_dir="data", on="all")
    table, layer = (read(next(Path("results/m").glob(f"predictions*.{kind}"))) for kind, read in READERS.items())
    assert layer.crs.to_epsg() == 4326 and layer["profile_id"].tolist() == table["profile_id"].tolist()
    np.testing.assert_allclose(layer.geometry.x, table["lon"])
    np.testing.assert_allclose(layer.geometry.y, table["lat"])
    np.testing.assert_allclose(layer["predicted"], table["predicted"], rtol=1e-5)
    assert next(Path("results/m").glob("predictions*.gpkg")).name in listed_files(Path("results/m"))


def test_they_are_results_of_the_map(results):
    assert {"soc.qml", "soc_stac.json", "both_totals.gpkg", "both_2020.qml"} <= set(listed_files(results))
    assert not [name for name in listed_files(results) if not (results / name).exists()]


def test_a_style_that_was_not_written_here_is_kept(workplace, capsys):
    """Beside a map of a version that wrote neither styles nor a manifest, whose other files may be replaced."""
    make_world(workplace, members=1)
    assert make("--workers", "1") == 0
    (Path("out") / MANIFEST).unlink()
    Path("out/soc.qml").write_text("mine")
    assert make("--workers", "1") == 2
    assert "soc.qml: would be replaced, and was not written here" in capsys.readouterr().err
    assert Path("out/soc.qml").read_text() == "mine"
