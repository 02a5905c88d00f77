"""Space-time table: years into periods, rasters of a period to its profiles, and what is left out or refused."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_dataset
from rasterio.transform import Affine
from simulated import write_zoned_samples

from soilcarbon.geo.periods import find_spans
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.zonal.settings import ZonedSettings
from soilcarbon.zonal.space_time import NO_PERIOD, covariates_at, period_of, read_space_time

GRID = Affine(1, 0, 0, 0, -1, 2)
LON, LAT = np.array([0.5, 1.5, 0.5]), np.array([1.5, 1.5, 0.5])


def put(folder, name, value, variable="ndvi"):
    write_geotiff(folder / name / f"{variable}.tif", np.broadcast_to(np.asarray(value, float), (1, 2, 2)), [variable], GRID)


@pytest.mark.parametrize(
    ("year", "expected"),
    [(1985, 1985), (1989.99, 1985), (1990, 1990), (2020, 2020), (1984.9, NO_PERIOD), (np.nan, NO_PERIOD), (np.inf, NO_PERIOD)],
)
def test_a_year_lies_in_its_five_years(year, expected):
    assert period_of(np.array([year]), 1985, 5).tolist() == [expected]
    assert period_of(np.array([1999.5]), 1985, 1).tolist() == [1999]
    with pytest.raises(ValueError, match="a period of 0 years"):
        period_of(np.array([1990]), 1985, 0)


@pytest.mark.parametrize(
    ("rasters", "period", "expected", "unmatched"),
    [
        ({"1985": 1, "1987": 4, "1990": 10, "1994": 30}, [1985, 1990, NO_PERIOD], [2.5, 20, np.nan], {1985: 0, 1990: 0}),
        ({"1985": [[np.nan, 1], [np.nan, 1]], "1986": [[7, 3], [np.nan, 3]]}, [1985] * 3, [7, 2, np.nan], {1985: 0}),
        ({"1985-1989": 5, "1988-1992": 99}, [1985, 1985, 1990], [5, 5, np.nan], {1985: 0, 1990: 1}),
    ],
    ids=["mean of the own period's years", "missing years left out", "a span must lie in one period"],
)
def test_a_profile_takes_the_covariates_of_its_own_period(rasters, period, expected, unmatched, tmp_path):
    for name, value in rasters.items():
        put(tmp_path, name, value)
    values, none = covariates_at(tmp_path, LON, LAT, np.array(period), 5)
    np.testing.assert_array_equal(values["ndvi"], expected)
    assert none == unmatched
    with pytest.raises(UserError, match="lie in none of the 5-year periods"):
        covariates_at(tmp_path, LON, LAT, np.full(3, 2000), 5)


def test_each_variable_is_read_and_other_folders_are_ignored(tmp_path):
    put(tmp_path, "1986", 1.0)
    put(tmp_path, "1986", 2.0, "lswi")
    put(tmp_path, "static", 3.0)
    assert list(find_spans(tmp_path)) == [(1986, 1986)]
    values, _ = covariates_at(tmp_path, LON, LAT, np.full(3, 1985), 5)
    assert {name: found.tolist() for name, found in values.items()} == {"lswi": [2.0] * 3, "ndvi": [1.0] * 3}


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_spans(tmp_path / "none")
    with pytest.raises(UserError, match="no folder named by a year"):
        find_spans(tmp_path)
    put(tmp_path, "1989-1985", 1.0)
    with pytest.raises(UserError, match="its last year is before its first"):
        find_spans(tmp_path)
    put(tmp_path / "b", "1985", 1.0)
    put(tmp_path / "b", "1986", 1.0, "evi")
    with pytest.raises(UserError, match=r"1985: lacks evi, which other years have"):
        find_spans(tmp_path / "b")


# --- the table -----------------------------------------------------------------------------------------------------------

PLACE = Affine(1, 0, 80, 0, -1, 50)
"""Of 25 x 40 cells, as large as the zoned world."""


def read(samples, **values):
    return read_space_time(ZonedSettings(samples=samples, **{"unit": "kg/m2"} | values))


def test_rasters_and_periods_become_covariates_and_columns_of_the_table_do_not(tmp_path):
    years = {0: 1979, 1: 2016}
    write_zoned_samples(tmp_path, year=[years.get(k, 1987.5) for k in range(200)])
    write_geotiff(tmp_path / "static.tif", np.arange(1000.0).reshape(1, 25, 40), ["height"], PLACE)
    for year, value in ((1986, 1.0), (1988, 3.0), (1991, 9.0)):
        write_geotiff(tmp_path / f"p/{year}/x.tif", np.full((1, 25, 40), value), ["ndvi"], PLACE)
    data = read(tmp_path / "s.csv", rasters=[tmp_path / "static.tif"], periods=tmp_path / "p")
    assert (data.covariates, data.variables) == (("height", "ndvi"), ("height", "ndvi", "map", "mat", "year"))
    assert data.left_out.set_index("profile_id")["reason"].to_dict() == {"p0": "year before 1985", "p1": "no rasters of its period"}
    assert data.table["ndvi"].unique().tolist() == [2.0]
    row = data.table.iloc[5]
    assert row["height"] == np.floor(50 - row["lat"]) * 40 + np.floor(row["lon"] - 80)
    profiles, ids = data.profiles("socd_0_100", 2.0)
    assert profiles.x.shape == (len(ids), 5)
    np.testing.assert_array_equal(profiles.y, data.table.set_index("profile_id").loc[ids, "socd_0_100"])
    assert len(ids) == data.table["socd_0_100"].notna().sum() < len(data.table)


def test_a_dataset_folder_gives_its_variables(tmp_path):
    folder = make_dataset(tmp_path / "data", n=40)
    pd.read_csv(folder / "samples.csv").assign(year=2000).to_csv(folder / "samples.csv", index=False)
    data = read(folder, targets=["soc"], precipitation="bio12", temperature="bio01")
    assert (len(data.covariates), data.covariates[0], data.variables[-1]) == (32, "band1", "year")
    patch = pd.read_pickle(folder / "patches" / "bio12.pkl")  # noqa: S301 - made above
    assert data.table["bio12"].iloc[3] == patch[data.table["profile_id"].iloc[3]][1, 1]


def test_a_zone_is_a_covariate_only_if_it_is_named(tmp_path):
    write_zoned_samples(tmp_path)
    bands = np.stack([np.ones((25, 40)), np.arange(1000.0).reshape(25, 40)])
    write_geotiff(tmp_path / "r.tif", bands, ["eco", "height"], PLACE)
    given = {"rasters": [tmp_path / "r.tif"], "zone": "eco"}
    assert read(tmp_path / "s.csv", **given).covariates == ("height",)
    assert read(tmp_path / "s.csv", **given, covariates=["eco", "height"]).covariates == ("eco", "height")


@pytest.mark.parametrize(
    ("values", "change", "words"),
    [
        ({}, {}, "no covariates: give --rasters"),
        ({"covariates": ["a", "bb"]}, {}, "no column or variable 'bb'; did you mean 'b'"),
        (
            {"covariates": ["a"], "precipitation": "rain"},
            {},
            "no column or variable 'rain'; --precipitation takes one of",
        ),
        ({"covariates": ["a"], "targets": ["socd"]}, {}, "no column 'socd'; did you mean 'socd_0_20'"),
        ({"covariates": ["a", "socd_0_20"]}, {}, "'socd_0_20' is a target"),
        ({"covariates": ["a"], "year": "sampled"}, {}, "no column 'sampled' of sampling years"),
        ({"covariates": ["a"]}, {"a": np.nan}, "'a' has no number at any of the 200 profiles"),
        ({"covariates": ["a"]}, {"a": ["<10", *[1.5] * 198, "40%"]}, "'a': 2 values are not numbers, first '<10' of profile p0"),
        (
            {"covariates": ["a"]},
            {"a": [-999.0] * 3 + [1.0, 2.0] * 98 + [1.0]},
            "'a': 3 of 200 values are -999, far from all others",
        ),
        ({"covariates": ["a"]}, {"a": -9999.0}, "'a' has no number at any of the 200 profiles"),
        ({"covariates": ["a"]}, {"year": "1990s"}, "column 'year': 200 of 200 values are no years .first '1990s'"),
        ({"covariates": ["a"]}, {"year": np.nan}, "'year' has no number"),
        ({"covariates": ["a"]}, {"socd_0_20": -1.0}, "socd_0_20 must lie between 0"),
        ({"rasters": ["twin.tif"]}, {}, "variable 'a' is a column already"),
    ],
)
def test_bad_input_is_refused(values, change, words, workplace):
    write_zoned_samples(workplace, **change)
    write_geotiff(workplace / "twin.tif", np.zeros((1, 25, 40)), ["a"], PLACE)
    if "rasters" in values:
        values = {"rasters": [workplace / name for name in values["rasters"]]}
    with pytest.raises(UserError, match=words):
        read(workplace / "s.csv", **values)


def test_profiles_without_climate_or_any_target_are_left_out(tmp_path):
    table = write_zoned_samples(tmp_path, map=lambda mm: mm.where(mm.index != 4))
    table.loc[7, ["socd_0_20", "socd_0_100"]] = np.nan
    table.to_csv(tmp_path / "s.csv", index=False)
    data = read(tmp_path / "s.csv", covariates=["a"])
    assert data.left_out.set_index("profile_id")["reason"].to_dict() == {"p4": "no map", "p7": "no target"}
    data.table["socd_0_20"] = np.nan
    with pytest.raises(UserError, match="target 'socd_0_20': 0 of 198 profiles have one"):
        data.profiles("socd_0_20", 2.0)


@pytest.mark.parametrize("date", ["1990-06-15", "15/06/1990", "33039", "19900615"])
def test_a_table_of_points_is_read_as_everywhere(tmp_path, date):
    table = write_zoned_samples(tmp_path, year=1990)
    expected = read(tmp_path / "s.csv", covariates=["a"]).table
    other = table.assign(year=date).rename(
        columns={"profile_id": "POINT_ID", "lon": "Longitude", "lat": "Y", "year": "survey_date"}
    )
    other.to_csv(tmp_path / "s.csv", index=False, sep=";", encoding="utf-16")
    found = read(tmp_path / "s.csv", covariates=["a"]).table
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)


def test_visits_of_several_years_are_profiles_of_one_block(tmp_path):
    table = write_zoned_samples(tmp_path, year=1990)
    again = table.assign(year=2005, lon=table["lon"] + 0.001)
    pd.concat([table, again]).to_csv(tmp_path / "s.csv", index=False)
    data = read(tmp_path / "s.csv", covariates=["a"])
    assert len(data.table) == 2 * len(table)
    profiles, ids = data.profiles("socd_0_20", 0.0005)
    groups = pd.Series(profiles.groups).groupby([name.rpartition("_")[0] for name in ids])
    assert (groups.nunique() == 1).all()
    assert (groups.size() == 2).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"socd_0_20": ["<1", *["2"] * 199]}, "1 values are below a limit of detection"),
        ({"profile_id": "a", "year": 1990, "layer": [f"{k}-{k + 1}" for k in range(200)]}, "rows repeat ids"),
        ({"year": 87_000}, "are no years"),
    ],
)
def test_unclear_tables_of_points_are_refused(tmp_path, change, words):
    write_zoned_samples(tmp_path).assign(**change).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "s.csv", covariates=["a"])
