"""The experiment on transfer: what is held out, interpolation between cells, mixtures of compared methods, the printed table."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
import transfer

from soilcarbon.categories import Category
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import spatial_groups


def test_no_block_is_in_training_and_held_out_and_profiles_are_as_many_as_wanted():
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"profile_id": list(map(str, range(900))), "lon": random.uniform(0, 9, 900), "lat": random.uniform(0, 9, 900)}
    )
    data = Dataset(table, np.zeros((900, 1), np.float32), np.ones(900), {}, (Category(name="a", variables=("x",)),), None)
    rows = transfer.rows_of(data, (0, 6, 0, 6))
    assert set(rows) == set(np.flatnonzero((data.lon <= 6) & (data.lat <= 6)))
    groups = spatial_groups(data.lon, data.lat, 0.5)
    for profiles in (40, 0):
        found = list(transfer.divisions(data, rows, profiles))
        assert sorted(np.concatenate([test for *_, test in found])) == sorted(rows)
        for _, train, test in found:
            assert not set(groups[train]) & set(groups[test])
            assert len(train) == (profiles or len(rows) - len(test))


def test_interpolation_between_four_cells_and_without_missing_ones():
    values = np.array([[1.0, 3.0], [5.0, 7.0]])  # centres at 0.5 and 1.5 degrees east, 1.5 and 0.5 north
    lon, lat = np.array([0.5, 1.0, 1.25, 0.75]), np.array([1.5, 1.0, 1.5, 0.5])
    inverse = ~from_origin(0, 2, 1, 1)
    np.testing.assert_allclose(transfer.interpolated(values, inverse, lon, lat), [1, 4, 2.5, 5.5])
    values[1, 0] = np.nan
    np.testing.assert_allclose(transfer.interpolated(values, inverse, lon, lat), [1, 11 / 3, 2.5, 7])


@pytest.fixture
def runs(tmp_path):
    """Return the folder of a comparison of two folds."""
    (tmp_path / "runs").mkdir()
    for fold in (0, 1):
        table = pd.DataFrame(
            {"profile_id": list("abcd"), "lon": [0.1, 1.1, 2.1, 3.1], "lat": 5.0 + fold, "observed": [2.0, 4, 6, 8]}
        )
        table["n_train"] = 200
        more = {"forest_log": [3.0, 3, 3, 8], "regional": [0.0, 3, 8, 8], "regional_lower_0.9": 1.0, "di": 0.5, "inside": 1}
        table.assign(**more).to_csv(tmp_path / "runs" / f"kenya-blocks-{fold}-200.csv", index=False)
    return tmp_path


def test_mixtures_are_means_on_the_log_scale_and_changes_are_paired(runs):
    found = transfer.by_mixtures(Namespace(out=runs))
    table = found["kenya"]
    assert list(table) == ["observed", "group", "forest_log", "regional", "network + forest"]
    np.testing.assert_allclose(table["network + forest"], [1, 3, 5, 8] * 2)
    assert table["group"].nunique() == 8
    lines = transfer.shown(found, "forest_log").splitlines()
    assert lines[1].split() == ["forest_log", "1.25"]
    assert lines[2].split()[:2] == ["regional", "1.25"] and "+0.0 [" in lines[2]
    assert "network + forest 0.75 (-40.0 [" in " ".join(lines[3].split())
    assert "kenya (forest_log)" in transfer.shown(found, "best").splitlines()[0]
    assert transfer.shown(found, "best").splitlines()[3].split("0.75")[1] == lines[3].split("0.75")[1]
