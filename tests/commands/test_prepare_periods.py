"""Datasets whose profiles take the rasters of their year."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepare_world import CELL, NORTH, WEST, made, profiles, refused, write_world
from rasterio.transform import Affine

from soilcarbon.categories import variable_columns
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError
from soilcarbon.regression.fit import fit_model
from soilcarbon.regression.learners import Task
from soilcarbon.soil.dataset import read_dataset


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


def periodic(world: Path, *names: str) -> list[str]:
    """Write rasters of ndvi, 1 higher in each further period; return the option."""
    cells = np.random.default_rng(1).uniform(size=(1, 80, 80))
    for k, name in enumerate(names):
        (world / "periodic" / name).mkdir(parents=True)
        write_geotiff(world / "periodic" / name / "ndvi.tif", cells + k, ["ndvi"], Affine(CELL, 0, WEST, 0, -CELL, NORTH))
    return ["--periods", str(world / "periodic")]


def test_profiles_take_the_rasters_of_their_year_and_the_error_model_knows_the_periods(world, caplog):
    years = np.resize([1985, 1989.5, 2005, 1999, np.nan], 200)
    profiles(world / "points.csv", year=years)
    folder, facts = made(world, *periodic(world, "1985-1989", "2005"))
    samples, rejected = pd.read_csv(folder / "samples.csv"), pd.read_csv(folder / "rejected.csv")
    assert rejected["reason"].value_counts().to_dict() == {"no year": 40, "no rasters of its year": 40}
    assert facts["periods"] == {1985: 80, 2005: 40}
    np.testing.assert_array_equal(samples["period"], np.where(samples["year"] < 1990, 1985, 2005))
    data = read_dataset(folder)
    columns = variable_columns(data.categories)
    ndvi, lon = data.x[:, columns["ndvi"]].ravel(), data.x[:, columns["lon"]].ravel()
    np.testing.assert_array_equal(np.floor(ndvi), data.period == 2005)
    np.testing.assert_allclose(lon, WEST + CELL * (np.floor((data.lon - WEST) / CELL) + 0.5), rtol=1e-6)
    model = fit_model(data, data.rows("all"), Task(data.categories), wanted="mean").model
    assert {*model.uncertainty.errors.period} == {1985, 2005}
    (folder / "samples.csv").write_text(samples.drop(columns="period").to_csv(index=False))
    with pytest.raises(UserError, match="column 'period' lacks the year"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (("now", "then"), {}, "holds no folder named by a year"),
        (("1985-1989", "1989-1993"), {}, "1989 lies in two of them, 1985 and 1989-1993"),
        (("1985-1989", "1990-1994"), {"year": np.nan}, "no year"),
        (("2001", "2002"), {}, "200 no rasters of its year"),
    ],
)
def test_periods_that_profiles_do_not_fit_are_refused(world, capfd, names, columns, words):
    profiles(world / "points.csv", **columns)
    assert words in refused(world, capfd, *periodic(world, *names))


@pytest.mark.parametrize("name", ["now", "2005-2000"])
def test_a_period_is_named_by_years_in_order(world, capfd, name):
    folder = Path(periodic(world, "1985-1989", "1990-1994")[1])
    words = refused(world, capfd, "--periods", f"1985-1989={folder / '1985-1989'}", f"{name}={folder / '1990-1994'}")
    assert f"period '{name}': a profile takes the rasters of its year; name the period by years" in words
