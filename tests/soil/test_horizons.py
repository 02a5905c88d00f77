"""Rows and profiles: one soil in many spellings gives one value, as horizons and as profiles; what is unclear is refused."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.io.points import TableRule, read_points
from soilcarbon.soil.horizons import read_horizons
from soilcarbon.soil.profiles import read_profiles
from soilcarbon.soil.visits import one_row_each

LIMITS, SOC = (0, 10, 30, 60), (60.0, 30.0, 6.0)
IDS = ("007", "1e5", "P 3")
TOPSOIL = (60 * 10 + 30 * 20) / 30  # 0-30 cm


def soils(**more) -> pd.DataFrame:
    """Return the same three horizons of three profiles."""
    rows = [
        (name, 10.0 + k, 50.0, upper, lower, soc)
        for k, name in enumerate(IDS) for (upper, lower), soc in zip(pairwise(LIMITS), SOC, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["profile_id", "lon", "lat", "top", "bottom", "soc"]).assign(**more)


def write(folder: Path, table: pd.DataFrame, name="h.csv", **how) -> Path:
    table.to_csv(folder / name, index=False, **how)
    return folder / name


SPELLINGS = {
    "gsif": soils().rename(columns={"profile_id": "SOURCEID", "top": "UHDICM", "bottom": "LHDICM"}),
    "kssl": soils().rename(columns={"profile_id": "pedon_key", "top": "hzn_top", "bottom": "hzn_bot"}),
    "ncss": soils().rename(columns={"profile_id": "peiid", "top": "hzdept_r", "bottom": "hzdepb_r"}),
    "wosis": soils().rename(columns={"top": "upper_depth", "bottom": "lower_depth", "lon": "longitude", "lat": "latitude"}),
    "wise": soils().rename(columns={"profile_id": "WISE3_id", "top": "TopDep", "bottom": "BotDep", "lon": "LONDD", "lat": "LATDD"}),
    "israd": soils().rename(
        columns={"profile_id": "pro_name", "top": "lyr_top", "bottom": "lyr_bot", "lon": "pro_long", "lat": "pro_lat"}
    ),
    "lucas": soils().rename(columns={"profile_id": "POINT_ID", "lon": "GPS_LONG", "lat": "GPS_LAT"}),
    "blanks": soils().rename(columns={"profile_id": "Profile ID", "top": "Upper depth (cm)", "bottom": "Lower-depth [cm]"}),
    "from and to": soils().rename(columns={"top": "Depth.from", "bottom": "Depth.to"}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_soil_in_many_spellings(tmp_path, spelling):
    path = write(tmp_path, SPELLINGS[spelling])
    found = read_profiles(path, "soc").table.set_index("profile_id")
    assert sorted(found.index) == sorted(IDS)
    np.testing.assert_allclose(found["soc"], TOPSOIL)
    horizons, _, _ = read_horizons(path)
    assert sorted(horizons.once["profile_id"]) == sorted(IDS)
    assert sorted(set(horizons.horizons.bottom.round(6))) == [10, 30, 60]


def test_columns_are_named_by_the_user(tmp_path):
    names = {"profile_id": "a", "lon": "b", "lat": "c", "top": "d", "bottom": "e", "soc": "f"}
    path = write(tmp_path, soils().rename(columns=names))
    found = read_profiles(path, None, rule=TableRule(columns=names))
    np.testing.assert_allclose(found.table["soc"], TOPSOIL)
    assert read_horizons(path, TableRule(columns=names))[1].columns.found == names


@pytest.mark.parametrize(
    "rename", [{"top": "za", "bottom": "zb"}, {"top": "top", "bottom": "zb"}, {"top": "z_upper_bound", "bottom": "zb"}]
)
@pytest.mark.parametrize("with_ids", [True, False])
def test_horizons_are_never_read_as_profiles(tmp_path, rename, with_ids):
    table = soils().rename(columns=rename)
    path = write(tmp_path, table if with_ids else table.drop(columns="profile_id"))
    with pytest.raises(UserError, match=rf"9 of 9 rows repeat {'ids' if with_ids else 'places'}.*--columns .*{rename['bottom']}"):
        read_profiles(path, "soc")
    rows = read_profiles(path, "soc", rule=TableRule(columns={"profile_id": "row"}))  # the way out that it names
    assert len(rows.table) == 9


def test_layers_without_depths_are_refused_and_ids_of_layers_too(tmp_path):
    table = soils().drop(columns=["top", "bottom"]).assign(lab=range(9))
    with pytest.raises(UserError, match="rows repeat ids, first '007', while soc, lab change: horizons or visits"):
        read_profiles(write(tmp_path, table), "soc")
    layers = soils(profile_id=[f"L{k}" for k in range(9)]).rename(columns={"profile_id": "labsampnum"})
    with pytest.raises(UserError, match="'labsampnum' has one horizon only, while 6 of 9 lie below another.*an id of layers"):
        read_horizons(write(tmp_path, layers.assign(pit=1)))


def test_few_repeats_and_copies_are_counted(tmp_path):
    table = pd.DataFrame({"id": [*range(40), 3], "lon": 10.0, "lat": [*np.linspace(40, 60, 40), 41.5], "soc": [*[9.0] * 40, 7]})
    assert read_profiles(write(tmp_path, table), "soc").counts() == {"duplicate profile_id": 1}
    copies = pd.concat([table[:20]] * 3)
    assert read_profiles(write(tmp_path, copies), "soc").counts() == {"duplicate profile_id": 40}


# --- visits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("years", [("2009", "2015"), ("2009-06-01", "2015-07-01"), ("01/06/2009", "2015")])
@pytest.mark.parametrize("has_depth", [True, False])
def test_visits_are_profiles_of_their_own(tmp_path, years, has_depth):
    rows = [
        (f"P{k}", 10.0 + k, 50.0 + 0.0001 * visit, year, 0, 30, 30.0 - 6 * visit)
        for k in range(3)
        for visit, year in enumerate(years)
    ]
    table = pd.DataFrame(rows, columns=["POINTID", "lon", "lat", "survey_date", "top", "bottom", "soc"])
    path = write(tmp_path, table if has_depth else table.drop(columns=["top", "bottom"]))
    found = read_profiles(path, "soc")
    table = found.table.set_index("profile_id")
    assert table["soc"].to_dict() == {f"P{k}_{year}": soc for k in range(3) for year, soc in ((2009, 30), (2015, 24))}
    assert table["year"].tolist() == [2009, 2015] * 3
    assert table["site_id"].tolist() == [f"P{k}" for k in range(3) for _ in range(2)]
    assert table["lat"].nunique() == 1  # at the first visit's place: no fold splits them
    assert "3 profile_id were visited in several years: 6 visits" in "; ".join(found.facts["notes"])
    points = read_points(path)
    if not has_depth:
        assert one_row_each(points, "soc")["profile_id"].tolist() == table.index.tolist()
    else:
        assert read_horizons(path)[0].once["year"].tolist() == [2009, 2015] * 3


def test_visits_far_apart_are_left_out(tmp_path):
    table = pd.DataFrame({"id": ["a", "a", "b"], "lon": [10, 12, 11], "lat": 50, "year": [2009, 2015, 2009], "soc": [9, 8, 7]})
    found = read_profiles(write(tmp_path, table), "soc")
    assert found.counts() == {"its visits lie at different places": 2}
    with pytest.raises(UserError, match="1 visits lie far from the first"):
        one_row_each(read_points(tmp_path / "h.csv"), "soc")


# --- organic layers and depths -----------------------------------------------------------------------------------------

LITTER = {
    "negative": [("O", -5, 0), ("A", 0, 10), ("B", 10, 40)],
    "downwards": [("O", 0, 5), ("A", 5, 15), ("B", 15, 45)],
    "upwards": [("O", 5, 0), ("A", 0, 10), ("B", 10, 40)],
    "both from 0": [("O", 0, 5), ("A", 0, 10), ("B", 10, 40)],
    "two upwards": [("Oi", 5, 2), ("Oe", 2, 0), ("A", 0, 10), ("B", 10, 40)],
    "two from 0": [("Oi", 0, 3), ("Oe", 3, 5), ("A", 0, 10), ("B", 10, 40)],
}


@pytest.mark.parametrize("spelling", LITTER)
def test_organic_layers_in_any_spelling(tmp_path, spelling):
    soc = {"O": 350.0, "A": 40.0, "B": 10.0}
    rows = [("a", 10, 50, name, top, bottom, soc[name[0]]) for name, top, bottom in LITTER[spelling]]
    table = pd.DataFrame(rows, columns=["id", "lon", "lat", "hzname", "top", "bottom", "soc"])
    found = read_profiles(write(tmp_path, table), "soc")
    np.testing.assert_allclose(found.table["soc"], (350 * 5 + 40 * 10 + 10 * 15) / 30)
    if spelling not in ("negative", "downwards"):
        assert "organic layers of 1 profiles" in "; ".join(found.facts["notes"])
    if spelling in ("upwards", "two upwards"):  # known without designations too
        found = read_profiles(write(tmp_path, table.drop(columns="hzname")), "soc")
        np.testing.assert_allclose(found.table["soc"], (350 * 5 + 40 * 10 + 10 * 15) / 30)


def test_a_slip_is_no_organic_layer_and_swapped_columns_are_refused(tmp_path):
    table = soils()
    table.loc[1, ["top", "bottom"]] = 30, 10
    found = read_profiles(write(tmp_path, table), "soc")
    assert found.facts["horizons"]["depth impossible (bottom not below top)"] == 1
    with pytest.raises(UserError, match="9 of 9 lower limits are above the upper ones"):
        read_profiles(write(tmp_path, soils().rename(columns={"top": "bottom", "bottom": "top"})), "soc")


@pytest.mark.parametrize(("factor", "unit"), [(0.01, "m"), (10, "mm")])
def test_depths_in_another_unit_are_asked_about(tmp_path, factor, unit):
    path = write(tmp_path, soils(top=soils()["top"] * factor, bottom=soils()["bottom"] * factor))
    with pytest.raises(UserError, match=f"depths .top, bottom.*look like {unit}.*--units depth={unit}"):
        read_profiles(path, "soc")
    np.testing.assert_allclose(read_profiles(path, "soc", rule=TableRule(depth_unit=unit)).table["soc"], TOPSOIL)


# --- places ------------------------------------------------------------------------------------------------------------


def places(**more) -> pd.DataFrame:
    return pd.DataFrame({"id": ["a", "b", "c"], "lon": [-44.5, 10.25, -70.0], "lat": [-32.5, 50.5, 5.0], "soc": 9.0}).assign(**more)


def test_columns_called_like_letters_that_hold_none_are_not_used(tmp_path):
    path = write(tmp_path, places(hemisphere=[1, 2, 3], EW=44))
    found = read_profiles(path, "soc")
    np.testing.assert_allclose(found.table[["lon", "lat"]].to_numpy(float), places()[["lon", "lat"]].to_numpy())
    assert not {"lon_letter", "lat_letter"} & set(found.facts["columns"])


def test_projected_coordinates_are_asked_about_and_transformed(tmp_path):
    from pyproj import Transformer

    x, y = Transformer.from_crs(4326, 32633, always_xy=True).transform([14.0, 15.0, 16.0], [50.0, 50.5, 51.0])
    path = write(tmp_path, places(lon=x, lat=y).rename(columns={"lon": "Easting", "lat": "Northing"}))
    with pytest.raises(UserError, match="3 of 3 coordinates are no degrees .Easting, Northing.*--crs EPSG"):
        read_profiles(path, "soc")
    found = read_profiles(path, "soc", rule=TableRule(crs="EPSG:32633")).table
    np.testing.assert_allclose(found[["lon", "lat"]], [[14, 50], [15, 50.5], [16, 51]], atol=1e-6)
    with pytest.raises(UserError, match="--crs EPSG:0: no coordinate system"):
        read_profiles(path, "soc", rule=TableRule(crs="EPSG:0"))


def test_layers_of_a_geopackage_are_named(tmp_path):
    import geopandas

    points = geopandas.points_from_xy([10.0, 11.0], [50.0, 51.0])
    for layer, soc in (("first", 5.0), ("second", 7.0)):
        geopandas.GeoDataFrame({"id": ["007", "008"], "soc": soc}, geometry=points, crs=4326).to_file(
            tmp_path / "p.gpkg", layer=layer
        )
    with pytest.raises(UserError, match="has 2 layers, first, second; name one as p.gpkg:first"):
        read_profiles(tmp_path / "p.gpkg", "soc")
    found = read_profiles(Path(f"{tmp_path}/p.gpkg:second"), "soc").table
    assert found[["profile_id", "soc"]].to_numpy().tolist() == [["007", 7], ["008", 7]]
    with pytest.raises(UserError, match="no layer 'secnd'; did you mean 'second'"):
        read_points(Path(f"{tmp_path}/p.gpkg:secnd"))


def test_a_site_table_gives_coordinates(tmp_path):
    sites = soils().drop_duplicates("profile_id")[["profile_id", "lon", "lat"]].assign(country="X", sampling_year=1999)
    rule = TableRule(sites=write(tmp_path, sites.rename(columns={"profile_id": "site_id"}), "sites.csv"))
    path = write(tmp_path, soils().drop(columns=["lon", "lat"]))
    found = read_profiles(path, "soc", rule=rule).table
    assert found[["profile_id", "lon", "lat", "country", "year"]].to_numpy().tolist() == [
        [name, 10.0 + k, 50.0, "X", 1999.0] for k, name in enumerate(IDS)
    ]
    write(tmp_path, sites.assign(profile_id=["7", "100000", "P3"]), "sites.csv")
    with pytest.raises(UserError, match="9 of 9 rows of h.csv have no site in it .first '007'; its ids are such as '7'"):
        read_profiles(path, "soc", rule=rule)
    write(tmp_path, pd.concat([sites, sites[:1]]), "sites.csv")
    with pytest.raises(UserError, match="1 profile_id come twice .first '007'"):
        read_profiles(path, "soc", rule=rule)


# --- measurements ------------------------------------------------------------------------------------------------------


def test_units_in_names_and_organic_matter(tmp_path):
    path = write(tmp_path, soils(soc=soils()["soc"] / 10, bd=1300, cf=0.1).rename(
        columns={"soc": "SOC (%)", "bd": "bulk_density_kgm3", "cf": "coarse_fragments_fraction"}))  # fmt: skip
    assert read_horizons(path)[2] == {"soc": "%", "bulk_density": "kg/m3", "stones": "fraction"}
    found = read_profiles(path, "SOC (%)")
    np.testing.assert_allclose(found.table["soc"], TOPSOIL)
    path = write(tmp_path, soils(soc=soils()["soc"] / 0.58).rename(columns={"soc": "humus"}))
    for read in (read_horizons, lambda path: read_profiles(path, "humus")):
        with pytest.raises(UserError, match="'humus' .* organic matter.*--soc_factor 0.58"):
            read(path)
    with pytest.raises(UserError, match="is 'humus' in per cent or in g/kg"):
        read_profiles(path, "humus", soc_factor=0.58)
    found = read_profiles(path, "humus", soc_factor=0.58, unit="g/kg")
    np.testing.assert_allclose(found.table["soc"], TOPSOIL)
    assert found.facts["target"]["unit"] == "g/kg"
    assert read_horizons(path, soc_factor=0.58)[0].table["soc"].tolist() == pytest.approx([*SOC] * 3)


def test_repeated_depths_with_another_time_are_asked_about(tmp_path):
    table = pd.concat([soils(campaign="first"), soils(campaign="second").assign(soc=soils()["soc"] / 2)])
    path = write(tmp_path, table)
    with pytest.raises(
        UserError, match="18 of 18 horizons repeat profile and depths .first '007'., while campaign changes: visits"
    ):
        read_profiles(path, "soc")
    found = read_profiles(path, "soc", rule=TableRule({"year": "none"}))
    assert found.table["soc"].tolist() == pytest.approx([0.75 * TOPSOIL] * 3)


def test_per_cent_signs_and_names_of_columns_agree_or_are_refused(tmp_path):
    signed = soils(bd="1.3", gravel="40%")
    by_mass = write(tmp_path, signed.rename(columns={"gravel": "gravel (wt%)"}))
    assert read_horizons(by_mass)[2]["stones"] == "mass_percent"
    with pytest.raises(UserError, match="its name says fraction, its values carry per cent signs"):
        read_horizons(write(tmp_path, signed.rename(columns={"gravel": "gravel_fraction"})))
    with pytest.raises(UserError, match="its name says g/kg, its values carry per cent signs"):
        read_horizons(write(tmp_path, soils().astype({"soc": str}).assign(soc="2 %").rename(columns={"soc": "soc_gkg"})))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("litter", [[(8, 3), (2, 0)], [(8, 3), (3, 0)], [(0, 3), (3, 8)]])
def test_organic_layers_are_turned_where_rows_come_twice_and_across_a_gap(litter, copies, tmp_path):
    rows = [("a", 10, 50, *limits, "Oe", 200) for limits in litter] + [("a", 10, 50, 0, 10, "A", 20), ("a", 10, 50, 10, 40, "B", 5)]
    table = pd.DataFrame(rows * copies, columns=["profile_id", "lon", "lat", "top", "bottom", "hzname", "soc"])
    organic = 7 if (2, 0) in litter else 8
    expected = (200 * organic + 20 * 10 + 5 * 12) / (organic + 22)
    assert read_profiles(write(tmp_path, table), "soc").table["soc"][0] == pytest.approx(expected)
