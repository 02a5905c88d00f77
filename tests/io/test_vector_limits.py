"""Vector files that are programs, rings of pages or claims are refused; plain ones are read."""

import json
import sqlite3
import time
from contextlib import closing

import geopandas
import numpy as np
import pytest
import shapely

from soilcarbon.geo import vector
from soilcarbon.geo.vector import read_areas
from soilcarbon.io.files import UserError
from soilcarbon.io.points import read_points

VIEW = "CREATE VIEW {} AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i AS fid, geom FROM n, kept"
BOX = shapely.box(5, 45, 6, 46)


def package(path):
    geopandas.GeoDataFrame({"name": ["a0"]}, geometry=[BOX], crs=4326).to_file(path, layer="zones")
    return path


def changed(path, *statements):
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def endless(path):
    with closing(sqlite3.connect(path)) as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    changed(path, *(f"DROP TRIGGER {name}" for (name,) in triggers), "ALTER TABLE zones RENAME TO kept", VIEW.format("zones"))


def claiming(path):
    changed(path, "UPDATE gpkg_ogr_contents SET feature_count = 1000000000000")


def computed(path):
    changed(path, "ALTER TABLE zones ADD COLUMN long TEXT GENERATED ALWAYS AS (hex(zeroblob(200000000)))")


def other_database(path):
    path.unlink()
    changed(path, "CREATE TABLE zones (geom BLOB)")


def looping(path):
    """Let all children of a page be one page."""
    changed(path, "CREATE TABLE long (t TEXT)", "INSERT INTO long VALUES ('" + "a" * 90_000 + "')")
    content = bytearray(path.read_bytes())
    for page in range(10 * 4096, len(content), 4096):
        if content[page : page + 4] != b"\0\0\0\0" and content[page] == 0:  # a page of overflow names the next one
            content[page : page + 4] = (page // 4096 + 1).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (endless, "'zones' is a view or computed"),
        (claiming, "claims 1,000,000,000,000 features"),
        (computed, "is a view or computed|too big"),
        (other_database, "no GeoPackage|is missing"),
        (looping, "damaged"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: read_areas(path, "EPSG:4326"), read_points], ids=["areas", "points"])
@pytest.mark.filterwarnings("ignore:GPKG")
def test_a_package_that_is_no_plain_table_is_refused_at_once(tmp_path, change, words, read):
    path = package(tmp_path / "x.gpkg")
    change(path)
    begin = time.monotonic()
    with pytest.raises(UserError, match=words):
        read(tmp_path / "x.gpkg:zones")
    assert time.monotonic() - begin < 5


def test_a_view_beside_a_plain_layer_does_no_harm(tmp_path):
    path = package(tmp_path / "x.gpkg")
    changed(path, "CREATE VIEW other AS SELECT * FROM zones")
    assert [area.name for area in read_areas(path, "EPSG:4326")[0]] == ["a0"]
    with pytest.raises(UserError, match="'other' is a view"):
        read_areas(tmp_path / "x.gpkg:other", "EPSG:4326")


def test_flatgeobuf_that_claims_many_features_is_refused(tmp_path):
    package(tmp_path / "x.gpkg")
    geopandas.read_file(tmp_path / "x.gpkg").to_file(tmp_path / "x.fgb", SPATIAL_INDEX="NO")
    content = (tmp_path / "x.fgb").read_bytes()
    (tmp_path / "x.gpkg").unlink()
    for at in range(8, len(content) - 8):  # wherever the header counts one
        if content[at : at + 8] == (1).to_bytes(8, "little"):
            (tmp_path / "x.fgb").write_bytes(content[:at] + (10**11).to_bytes(8, "little") + content[at + 8 :])
            with pytest.raises(UserError, match=r"claims 100,000,000,000 features|not readable"):
                read_areas(tmp_path / "x.fgb", "EPSG:4326")
            break
    else:
        pytest.fail("the header counts no feature")


def star(corners, step):
    angle = 2 * np.pi * step * np.arange(corners) / corners
    return shapely.Polygon(np.column_stack([10 + 5 * np.cos(angle), 50 + 5 * np.sin(angle)]))


def comb(teeth, turned):
    """Teeth from west to east, or from south to north."""
    x = np.repeat(np.arange(2 * teeth + 1) / (2 * teeth + 1), 2)
    points = np.column_stack([x, np.resize([0, 1, 1, 0], len(x))]) * 5 + [5, 45]
    shape = shapely.Polygon([*points, (10, 44.9), (5, 44.9)])
    return shapely.affinity.rotate(shape, 90, (7.5, 47.5)) if turned else shape


SHAPES = {"star": [star(401, 200)], "larger": [star(4001, 2000)], "combs": [comb(60, False), comb(60, True)]}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_borders_that_cross_many_times_are_refused_at_once(tmp_path, shapes):
    frame = geopandas.GeoDataFrame({"name": ["a"] * len(shapes)}, geometry=shapes, crs=4326)
    frame.to_file(tmp_path / "x.geojson")
    begin = time.monotonic()
    with pytest.raises(UserError, match="cross at 3,000 places or more"):
        read_areas(tmp_path / "x.geojson", "EPSG:3035")
    assert time.monotonic() - begin < 20


def test_many_long_edges_get_no_more_vertices_than_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(vector, "_VERTICES", 50_000)
    radius, angle = np.where(np.arange(4000) % 2, 1, 30), 2 * np.pi * np.arange(4000) / 4000
    spikes = shapely.Polygon(np.column_stack([10 + radius * np.cos(angle), 40 + radius * np.sin(angle)]))
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[spikes], crs=4326).to_file(tmp_path / "x.geojson")
    (area,), _ = read_areas(tmp_path / "x.geojson", "EPSG:3035")
    assert shapely.get_num_coordinates(area.shape) < 60_000


def test_coordinates_beyond_all_measure_are_refused_or_counted_as_missing(tmp_path):
    path = tmp_path / "x.geojson"
    head, place = (
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"profile_id": "a"}, "geometry": ',
        "0.5",
    )
    point = json.dumps({"type": "Point", "coordinates": [0.5, 1]})
    ring = json.dumps({"type": "Polygon", "coordinates": [[[0.5, 0], [1, 0], [1, 1], [0.5, 0]]]})
    for number in ("1" + "0" * 400, "1e400"):
        path.write_text(head + point.replace(place, number) + "}]}")
        with pytest.raises(UserError, match="'lon' holds no numbers"):
            read_points(path).places()
        path.write_text(head + ring.replace(place, number) + "}]}")
        with pytest.raises(UserError, match=r"not finite|not readable"):
            read_areas(path, "EPSG:4326")
