"""GeoJSON that GDAL would read in part, or in another place."""

import json

import pytest

from soilcarbon.geo.vector import read_areas
from soilcarbon.io.files import UserError

RING = [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]


def feature(name, kind="Polygon", whole="Feature"):
    return {"type": whole, "properties": {"name": name}, "geometry": {"type": kind, "coordinates": RING}}


def read(folder, *features, start="", **members):
    path = folder / "areas.geojson"
    path.write_text(start + json.dumps({"type": "FeatureCollection", "features": features} | members), encoding="utf-8")
    return [area.name for area in read_areas(path, "EPSG:4326")[0]]


@pytest.mark.parametrize(
    "name", ["EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:EPSG::3857", "ESRI:54009", "WGS 84"]
)
def test_known_types_and_systems_are_read(name, tmp_path):
    assert read(tmp_path, feature("a"), feature("b")) == ["a", "b"]
    assert read(tmp_path, feature("a"), start="\ufeff") == ["a"]
    assert read(tmp_path, feature("a"), crs={"type": "name", "properties": {"name": name}}) == ["a"]
    assert read(tmp_path, feature("a"), {"type": "Feature", "properties": {}, "geometry": None}, crs=None) == ["a"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (feature("b", "Polygn"), "1 of 2 features .* first number 2: geometry 'Polygn'; did you mean 'Polygon'"),
        (feature("b", "polygon"), "geometry 'polygon'"),
        (feature("b", whole="Featur"), "first number 2: 'Featur', not 'Feature'"),
        ({"type": "Feature", "properties": {}, "geometry": "POLYGON ((0 0, 1 0, 1 1, 0 0))"}, "geometry 'POLYGON"),
    ],
)
def test_what_gdal_would_leave_out_is_refused(bad, words, tmp_path):
    with pytest.raises(UserError, match=words):
        read(tmp_path, feature("a"), bad)


@pytest.mark.parametrize(
    "crs", [{"type": "name", "properties": {"name": "EPSG:999999"}}, {"type": "name", "properties": {"name": "our own grid"}}, {}]
)
def test_an_unknown_system_is_not_taken_for_degrees(crs, tmp_path):
    with pytest.raises(UserError, match="is unknown, and GDAL would take it for degrees"):
        read(tmp_path, feature("a"), crs=crs)
