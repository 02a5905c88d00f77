"""Years into periods, and rasters of a period to its profiles."""

import numpy as np
import pytest
from rasterio.transform import Affine

from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.zonal.periods import NO_PERIOD, covariates_at, find_spans, period_of

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


def test_a_period_has_at_least_a_year():
    assert period_of(np.array([1999.5]), 1985, 1).tolist() == [1999]
    with pytest.raises(ValueError, match="a period of 0 years"):
        period_of(np.array([1990]), 1985, 0)


def test_a_profile_takes_the_mean_of_the_years_of_its_own_period(tmp_path):
    for year, value in ((1985, 1.0), (1987, 4.0), (1990, 10.0), (1994, 30.0)):
        put(tmp_path, str(year), value)
    values, unmatched = covariates_at(tmp_path, LON, LAT, np.array([1985, 1990, NO_PERIOD]), 5)
    np.testing.assert_array_equal(values["ndvi"], [2.5, 20, np.nan])
    assert unmatched == {1985: 0, 1990: 0}


def test_a_year_without_a_value_there_is_left_out_of_the_mean(tmp_path):
    put(tmp_path, "1985", [[np.nan, 1], [np.nan, 1]])
    put(tmp_path, "1986", [[7, 3], [np.nan, 3]])
    values, _ = covariates_at(tmp_path, LON, LAT, np.full(3, 1985), 5)
    np.testing.assert_array_equal(values["ndvi"], [7, 2, np.nan])


def test_a_span_counts_only_to_a_period_that_holds_all_of_it(tmp_path):
    put(tmp_path, "1985-1989", 5.0)
    put(tmp_path, "1988-1992", 99.0)
    values, unmatched = covariates_at(tmp_path, LON, LAT, np.array([1985, 1985, 1990]), 5)
    np.testing.assert_array_equal(values["ndvi"], [5, 5, np.nan])
    assert unmatched == {1985: 0, 1990: 1}
    with pytest.raises(UserError, match="lie in none of the 5-year periods"):
        covariates_at(tmp_path, LON, LAT, np.full(3, 2000), 5)


def test_variables_are_told_apart_and_other_folders_are_passed_by(tmp_path):
    put(tmp_path, "1986", 1.0)
    put(tmp_path, "1986", 2.0, "lswi")
    put(tmp_path, "static", 3.0)
    assert list(find_spans(tmp_path)) == [(1986, 1986)]
    values, _ = covariates_at(tmp_path, LON, LAT, np.full(3, 1985), 5)
    assert {name: found.tolist() for name, found in values.items()} == {"lswi": [2.0] * 3, "ndvi": [1.0] * 3}


def test_what_is_wrong_with_the_folders_is_told(tmp_path):
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
