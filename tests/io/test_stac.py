"""STAC items and collections: which files they name, and where they must not lead."""

import json

import pytest
from remote_server import serve

from soilcarbon.io.files import UserError
from soilcarbon.io.stac import read_assets

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(assets, name="T1", bbox=(10, 46, 11, 47)):
    return {"type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": list(bbox), "assets": assets, "links": []}


def asset(href, kind=TIFF, **more):
    return {"href": href, "type": kind, **more}


@pytest.fixture
def write(tmp_path):
    def made(value, name="item.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return made


def found(path, tmp_path):
    return {each.key: each.place for each in read_assets(path, tmp_path / "cache")}


def test_geotiffs_that_are_no_pictures_are_taken(write, tmp_path):
    path = write(
        item(
            {
                "B04": asset("https://example.org/B04.tif"),
                "B08": asset("./bands/B08.TIF", None),
                "preview": asset("preview.tif", roles=["overview"]),
                "thumbnail": asset("t.jpg", "image/jpeg"),
                "meta": asset("meta.xml", "application/xml"),
                "dem": asset("s3://copernicus-dem-90m/a/a.tif", "image/tiff"),
            }
        )
    )
    assert found(path, tmp_path) == {
        "B04": "https://example.org/B04.tif",
        "B08": tmp_path / "bands" / "B08.TIF",
        "dem": "https://copernicus-dem-90m.s3.amazonaws.com/a/a.tif",
    }
    assert found(f"{path}#B04", tmp_path) == {"B04": "https://example.org/B04.tif"}
    assert read_assets(path, tmp_path)[0].bounds == (10.0, 46.0, 11.0, 47.0)


def test_a_collection_names_the_assets_of_all_its_items(write, tmp_path):
    items = [item({"dem": asset(f"https://example.org/{k}.tif")}, f"T{k}") for k in range(3)]
    path = write({"type": "FeatureCollection", "features": items})
    assert [(each.item, each.place) for each in read_assets(path, tmp_path)] == [
        (f"T{k}", f"https://example.org/{k}.tif") for k in range(3)
    ]


def test_an_item_at_an_address_names_files_beside_it(tmp_path):
    with serve() as server:
        server.files["/a/item.json"] = json.dumps(
            item({"dem": asset("dem.tif"), "far": asset("https://example.org/x.tif")})
        ).encode()
        places = found(f"{server.address}/a/item.json", tmp_path)
        assert places == {"dem": f"{server.address}/a/dem.tif", "far": "https://example.org/x.tif"}


@pytest.mark.parametrize(
    "href",
    [
        "/etc/passwd.tif",
        "../other/x.tif",
        "a/../../x.tif",
        "%2e%2e/x.tif",
        "file:///etc/x.tif",
        "/vsicurl/http://10.0.0.1/x.tif",
        "//10.0.0.1/x.tif",
        "ftp://example.org/x.tif",
        "http://example.org/x.tif",
        "https://10.0.0.1/x.tif",
        "https://localhost/x.tif",
        "http://127.0.0.1:8080/x.tif",
        "https://user:pw@example.org/x.tif",
        "..\\x.tif",
        "javascript:x.tif",
    ],
)
def test_an_item_leads_nowhere_else(write, tmp_path, href):
    with pytest.raises(UserError, match=r"leads to|only https|without a password"):
        read_assets(write(item({"dem": asset(href)})), tmp_path)


def test_nor_by_a_link(write, tmp_path):
    (tmp_path / "below").symlink_to("/etc")
    with pytest.raises(UserError, match="leads to"):
        read_assets(write(item({"dem": asset("below/x.tif")})), tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("7", "expected a STAC item"),
        ({"type": "FeatureCollection", "features": []}, "expected a STAC item or a collection"),
        ({"type": "Feature", "geometry": None}, "with assets"),
        ({"type": "FeatureCollection", "features": [7]}, "with assets"),
        ({"type": "Catalog", "links": []}, "is a STAC catalog; give items of it"),
        ({"type": "Collection", "links": []}, "is a STAC collection; give items of it"),
        (item({"a": asset("x.jp2", "image/jp2")}), "no GeoTIFF among its assets; it has a"),
        (item({"a": "x.tif", "b": {"href": 7}, "c": []}), "no GeoTIFF among its assets"),
    ],
)
def test_what_is_no_item_is_refused(write, tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read_assets(write(content), tmp_path)


def test_unknown_assets_are_named(write, tmp_path):
    with pytest.raises(UserError, match="no assets B99; it has B04"):
        read_assets(f"{write(item({'B04': asset('https://example.org/x.tif')}))}#B99", tmp_path)


@pytest.mark.parametrize("bbox", [None, [1, 2], ["a", 1, 2, 3], [0, 10, 1, -10], [1e400, 0, 1, 1]])
def test_an_extent_that_is_none_is_not_believed(write, tmp_path, bbox):
    value = item({"a": asset("https://example.org/x.tif")}) | {"bbox": bbox}
    assert read_assets(write(value), tmp_path)[0].bounds is None
