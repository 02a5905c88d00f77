"""Untrusted tables of profiles and horizons: what is taken, what is left out and why."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REALDATA, needs_realdata, slow_but

from soilcarbon.io.files import UserError
from soilcarbon.io.points import TableRule
from soilcarbon.soil.profiles import DepthRule, read_profiles, unit_hint


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def horizons(path: Path, *rows: tuple, header="profile_id,lon,lat,top,bottom,soc") -> Path:
    return write(path, "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


# --- tables --------------------------------------------------------------------------------------------------------


def test_target_becomes_soc_other_columns_stay_and_missing_ids_are_numbered(tmp_path):
    path = write(tmp_path / "p.csv", "profile_id,lon,lat,soc,soc_gkg,year\na,1,2,bad,30,1999\n")
    row = read_profiles(path, "soc_gkg").table.iloc[0]
    assert row.to_dict() == {"profile_id": "a", "lon": 1, "lat": 2, "soc": 30, "soc_input": "bad", "year": 1999}
    found = read_profiles(write(tmp_path / "p.csv", "lon,lat,soc\n1,2,3\n4,5,6\n"), None)
    assert found.table["profile_id"].tolist() == ["1", "2"]
    assert found.facts["columns"]["profile_id"] == "row number"


def test_each_bad_row_is_rejected_for_its_first_reason(tmp_path):
    rows = {
        "good": "10,50,12", "word": "10,50,n.a.", "gap": "10,50,", "negative": "10,50,-3", "absurd": "10,50,1001",
        "nowhere": ",50,12", "text": "here,50,12", "east": "-190,50,-1", "north": "10,91,12",
        "peat": "10,50,1000", "zero": "10,50,0",
    }  # fmt: skip
    text = "profile_id,lon,lat,soc\n" + "".join(f"{name},{row}\n" for name, row in rows.items())
    found = read_profiles(write(tmp_path / "p.csv", text + "good,10,50,99\n,10,50,12\nabsurd,10,50,7\n"), None)
    assert found.table["profile_id"].tolist() == ["good", "peat", "zero", "absurd"]  # of absurd, the good row
    assert found.table["soc"].tolist() == [12, 1000, 0, 7]
    reasons = dict(zip(found.rejected["profile_id"].fillna("?"), found.rejected["reason"], strict=True))
    assert reasons == {
        "?": "no profile_id",
        "nowhere": "longitude or latitude missing or not a number",
        "text": "longitude or latitude missing or not a number",
        "east": "longitude or latitude out of range",
        "north": "longitude or latitude out of range",
        "word": "soc missing",
        "gap": "soc missing",
        "negative": "soc negative",
        "absurd": "soc above 1000 g/kg",
        "good": "duplicate profile_id",
    }
    assert sum(found.counts().values()) == len(found.rejected) == 10


def test_bounds_only_count_what_lies_beyond(tmp_path):
    path = write(tmp_path / "p.csv", "profile_id,lon,lat,soc\na,1,1,5\nb,20,1,5\nc,20,1,-3\nd,2,2,-3\n")
    found = read_profiles(path, None, bounds=(0, 10, 0, 10))
    assert (found.table["profile_id"].tolist(), found.facts["out_of_bounds"]) == (["a"], 2)
    assert found.counts() == {"soc negative": 1}


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("profile_id,lat,soc\na,1,2\n", None, "no column for lon"),
        ("profile_id,lon,lat,orgc\na,1,2,3\n", "orgcc", "'orgcc' is not in it; did you mean 'orgc'"),
        ("source,id,lon,lat,soc_gkg\na,a,1,2,3\n", None, "'soc' is not in it; did you mean 'soc_gkg'"),
        ("profile_id,lon,lat,soc\na,1,2,x\nb,1,2,y\n", None, "column 'soc': 2 of 2 values are no numbers .first 'x', row 2"),
        ("profile_id,lon,lat,soc\na,1,2,\n", None, "column 'soc' is empty"),
        ("profile_id,lon,lat,soc\n", None, "holds no rows"),
        ("profile_id,lon,lat,soc\na,48,117,2\nb,50,120,3\nc,50,80,3\n", None, "look swapped .2 of 3 rows, first: lon 48, lat 117"),
        ("lon,lat,top,bottom,soc\n1,2,0,30,5\n", None, "no column for profile_id"),
        ("profile_id,lon,lat,soc\na,1,2,3\n", "lon", "'lon' is no measurement"),
        ("id,lon,lat,soc,unit\na,1,2,3,%\nb,1,3,30,g/kg\n", None, "'unit' has several units .1 of '%', 1 of 'g/kg'"),
        ("id,lon,lat,orgc,property\na,1,2,30,oc\na,1,2,250,clay\n", "orgc", "'property' says which quantity .* .oc, clay"),
        ("id,lon,lat,top,bottom,soc,parameter\na,1,2,0,9,30,oc\na,1,2,0,9,250,clay\n", None, "'parameter' says which quantity"),
        ("id,lon,lat,soc\na,1,2,3\nMean,1,2,3\n", None, "1 rows are called such as 'Mean'"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, target, message):
    with pytest.raises(UserError, match=message):
        read_profiles(write(tmp_path / "p.csv", text), target)


def test_swapped_coordinates_are_seen_by_the_bounds_but_not_from_one_row_out_of_range(tmp_path):
    path = write(tmp_path / "p.csv", "profile_id,lon,lat,soc\na,-1,37,2\nb,0.5,35,3\n")
    with pytest.raises(UserError, match="swapped"):
        read_profiles(path, None, bounds=(33.9, 41.9, -4.7, 5.0))
    path = write(tmp_path / "p.csv", "profile_id,lon,lat,soc\na,10,50,2\nb,10,95,3\nc,10,50,3\n")
    assert read_profiles(path, None).counts() == {"longitude or latitude out of range": 1}


def test_swapped_coordinates_of_both_hemispheres_are_refused_where_only_some_are_impossible(tmp_path):
    rows = "".join(f"p{k},{40 + k},{-118 + k if k % 3 == 0 else 20 + k},5\n" for k in range(12))
    with pytest.raises(UserError, match="look swapped .4 of 12 rows"):
        read_profiles(write(tmp_path / "p.csv", "profile_id,lon,lat,soc\n" + rows), None)


def test_places_at_0_0_are_missing(tmp_path):
    found = read_profiles(write(tmp_path / "p.csv", "id,lon,lat,soc\na,0,0,2\nb,0,50,3\n"), None)
    assert found.table["profile_id"].tolist() == ["b"]
    assert "1 places at 0, 0 taken for missing" in found.facts["notes"]


@pytest.mark.parametrize(
    ("factor", "said"), [(0.01, "in m .the first ends at 0.6 cm"), (10, "in mm .the first ends at 600"), (1, None)]
)
def test_profiles_whose_depths_look_like_another_unit_are_counted(tmp_path, factor, said):
    rows = [(f"p{k}", 10 + k, 50, a * f, b * f, 9) for k, f in enumerate((1, 1, factor)) for a, b in ((0, 10), (10, 60))]
    notes = read_profiles(horizons(tmp_path / "h.csv", *rows), None).facts["notes"]
    assert not notes if said is None else re.search(f"1 of 3 profiles of several layers look as if they were {said}", notes[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,lon,lat,easting,northing,soc\na,9,50,500000,5538630,2\n", "lon, lat are degrees .first 9, 50., not of EPSG:32632"),
        ("id,easting,northing,utm_zone,soc\na,500000,5538630,32N,2\nb,300000,5538630,33N,2\n", "1 of 2 rows are of zone 33"),
        ("id,easting,northing,zone,soc\na,500000,5538630,32,2\nb,300000,5538630,33,2\n", "1 of 2 rows are of zone 33"),
        ("id,easting,northing,zone,soc\na,500000,5538630,1,2\nb,300000,5538630,2,2\n", None),  # zones of anything
    ],
)
def test_coordinates_that_are_not_of_the_given_system_are_refused(tmp_path, text, message):
    path, rule = write(tmp_path / "p.csv", text), TableRule(crs="EPSG:32632")
    if message is None:
        assert read_profiles(path, None, rule=rule).table["lon"][0] == pytest.approx(9)
        return
    with pytest.raises(UserError, match=message):
        read_profiles(path, None, rule=rule)


def test_old_line_ends_and_properties_without_a_name(tmp_path):
    path = write(tmp_path / "p.csv", "")
    path.write_bytes(b"id,x,y,soc\r007,10,50,12.5\r008,11,50,3\r")
    assert read_profiles(path, None).table["soc"].tolist() == [12.5, 3]
    geometry = {"type": "Point", "coordinates": [10, 50]}
    feature = {"type": "Feature", "properties": {"id": "a", "soc": 3, "": "W"}, "geometry": geometry}
    path = write(tmp_path / "p.geojson", json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert read_profiles(path, None).table["lon"].tolist() == [10]


def test_per_cent_is_suspected():
    per_cent = np.random.default_rng(0).lognormal(0.2, 0.7, 200)
    assert "per cent" in str(unit_hint(per_cent))
    assert unit_hint(per_cent * 10) is None


# --- horizon tables ------------------------------------------------------------------------------------------------


def test_horizons_are_averaged_and_faulty_ones_counted(tmp_path):
    path = horizons(
        tmp_path / "h.csv",
        ("b", 5, 6, 10, 30, 4),  # unordered
        ("a", 1, 2, 10, 40, 8),
        ("a", 1, 2, 0, 10, 20),
        ("b", 5, 6, 0, 10, 10),
        ("b", 5, 6, 0, 10, 10),  # twice
        ("a", 1, 2, 40, 40, 3),  # no thickness
        ("a", 1, 2, 60, 50, 3),  # upside down
        ("a", 1, 2, 90, "", 3),  # open below
        ("a", 1, 2, 90, 99, ""),
        ("a", 1, 2, 99, 110, -3),
        ("a", 1, 2, 99, 110, 2000),
        ("deep", 1, 2, 40, 60, 3),
        ("moves", 1, 2, 0, 20, 3),
        ("moves", 1, 3, 20, 30, 3),
    )
    found = read_profiles(path, None)
    assert found.facts["horizons"] == {
        "rows": 14,
        "depth missing": 1,
        "depth impossible (bottom not below top)": 2,
        "soc missing": 1,
        "soc negative": 1,
        "soc above 1000 g/kg": 1,
        "same limits twice, averaged": 1,
    }
    assert found.table[["profile_id", "cm_covered", "n_layers"]].to_numpy().tolist() == [["b", 30, 2], ["a", 30, 2]]
    np.testing.assert_allclose(found.table["soc"], [(10 * 10 + 4 * 20) / 30, (20 * 10 + 8 * 20) / 30])
    assert found.counts() == {"its horizons lie at different places": 1, "no usable horizon within 0-30 cm": 1}
    assert "no usable horizon within 0-5 cm" not in read_profiles(path, None, DepthRule((0.0, 100.0))).counts()


def test_profiles_with_too_little_observed_are_left_out(tmp_path):
    path = horizons(tmp_path / "h.csv", ("a", 1, 2, 0, 9, 5), ("b", 1, 2, 0, 10, 5))
    assert read_profiles(path, None, DepthRule(min_covered=10)).counts() == {"fewer than 10 cm observed": 1}
    text = "profile_id,lon,lat,soc,depth_top_cm,depth_bottom_cm,cm_covered\na,1,2,3,0,30,17\n"  # averaged already: no horizons
    found = read_profiles(write(tmp_path / "p.csv", text), None)
    assert (found.facts["kind"], found.table["cm_covered"].tolist()) == ("profiles", [17])


@pytest.mark.parametrize("rule", [DepthRule(method="spline"), DepthRule(further=[(0, 5)]), DepthRule(min_covered=10)])
def test_depth_rules_need_horizons(tmp_path, rule):
    path = write(tmp_path / "p.csv", "profile_id,lon,lat,soc\na,1,2,3\n")
    with pytest.raises(UserError, match="needs? horizons"):
        read_profiles(path, None, rule)
    assert len(read_profiles(path, None, rule, places_only=True).table) == 1


def test_columns_constant_within_profiles_are_kept_under_free_names(tmp_path):
    header = "profile_id,lon,lat,top,bottom,soc,country,layer,n_layers,note,soc_0_5"
    rows = [
        ("a", 1, 2, 0, 10, 5, "X", 1, 7, "", 77),
        ("a", 1, 2, 10, 30, 5, "X", 2, 7, "", 77),
        ("b", 1, 2, 0, 10, 5, "Y", 1, 8, "n", 77),
    ]
    table = read_profiles(horizons(tmp_path / "h.csv", *rows, header=header), None, DepthRule(further=[(0, 5)])).table
    kept = ["country", "n_layers_input", "note", "soc_0_5_input", "cm_covered", "n_layers", "soc_0_5"]
    assert list(table) == ["profile_id", "lon", "lat", "soc", *kept]
    assert table["n_layers"].tolist() == [2, 1]
    assert table[["soc_0_5", "soc_0_5_input"]].to_numpy().tolist() == [[5, 77]] * 2


def wosis(path: Path) -> Path:
    """Write a file as the WoSIS December 2023 snapshot has them."""
    header = "profile_id\tlayer_id\tcountry_name\tlongitude\tlatitude\tupper_depth\tlower_depth\tvalue\tvalue_avg\tdate\tlicence"
    rows = [
        "36897\t1\tKenya\t36.5\t-0.5\t0\t20\t{1:15.0}\t15.0\t1985-03-01\tCC BY",
        "36897\t2\tKenya\t36.5\t-0.5\t20\t50\t{1:6.0,2:6.2}\t6.0\t1985-03-01\tCC BY",
        "40001\t3\tPeru\t-72.1\t-13.2\t0\t30\t{1:42.5}\t42.5\t\tCC BY-NC",
    ]
    return write(path, "\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize("target", [None, "value_avg"])
def test_wosis_file_as_it_comes(tmp_path, target):
    found = read_profiles(wosis(tmp_path / "wosis_202312_orgc.tsv"), target)
    assert found.facts["columns"]["soc"] == "value_avg"
    assert found.table[["profile_id", "lon", "lat", "soc", "cm_covered", "licence"]].to_numpy().tolist() == [
        ["36897", 36.5, -0.5, (15 * 20 + 6 * 10) / 30, 30, "CC BY"],
        ["40001", -72.1, -13.2, 42.5, 30, "CC BY-NC"],
    ]
    assert "layer_id" not in found.table


# --- other formats -------------------------------------------------------------------------------------------------


def collection(*features, **more) -> str:
    shaped = [{"type": "Feature", "geometry": geometry, "properties": properties} for geometry, properties in features]
    return json.dumps({"type": "FeatureCollection", "features": shaped, **more})


def test_geojson_points(tmp_path):
    good = ({"type": "Point", "coordinates": [10, 50, 3]}, {"id": "007", "soc": 12, "lon": "wrong"})
    path = write(tmp_path / "p.geojson", collection(good, (None, {"id": "008", "soc": 3})))
    found = read_profiles(path, None)
    assert found.table.iloc[0].tolist() == ["007", 10, 50, 12]
    assert found.counts() == {"longitude or latitude missing or not a number": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a GeoJSON"),
        ("[1, 2]", "not a GeoJSON"),
        (collection(({"type": "Polygon", "coordinates": []}, {"soc": 1})), "holds a Polygon"),
        (collection(({"type": "Point", "coordinates": [1, 2]}, {"soc": 1}), crs={"name": "EPSG:32633"}), "reproject"),
        (collection(), "holds no rows"),
    ],
)
def test_bad_geojson_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_profiles(write(tmp_path / "p.geojson", text), None)


# --- real horizons -------------------------------------------------------------------------------------------------


@needs_realdata
@pytest.mark.parametrize("folder", slow_but(["global", "north_macedonia"], "north_macedonia"))
def test_real_horizons_give_the_real_points(folder):
    found = read_profiles(REALDATA / folder / "horizons.csv", "soc_gkg").table.set_index("profile_id")
    points = pd.read_csv(REALDATA / folder / "points.csv", dtype={"profile_id": str}, low_memory=False).set_index("profile_id")
    assert set(found.index) == set(points.index)
    points = points.loc[found.index]
    np.testing.assert_allclose(found["soc"], points["soc_gkg"], atol=1e-5)
    # Where horizons overlap, points.csv of the world counts the centimetres they share twice.
    twice = ["MY51", "ctb0636:Perfil-08", "ctb0641:P-IIIRCC-13-PR"]
    differ = ~np.isclose(found["cm_covered"], points["cm_covered"])
    assert set(found.index[differ]) <= set(twice)
    assert (found["cm_covered"] <= points["cm_covered"] + 1e-6).all()


def test_a_file_that_only_calls_itself_geopackage_is_not_opened(tmp_path):
    pytest.importorskip("geopandas")
    secret = tmp_path / "secret.csv"
    secret.write_text("profile_id,lon,lat,soc\na,1,50,10\n")
    (tmp_path / "x.gpkg").write_text(
        f"<OGRVRTDataSource><OGRVRTLayer name='secret'><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
    )
    with pytest.raises(UserError, match="not a GeoPackage"):
        read_profiles(tmp_path / "x.gpkg", "soc")
