"""Targets of different grids are brought to the same places, and places left out are counted."""

import pickle

import numpy as np
import pytest
from conftest import make_dataset
from rasterio.transform import Affine

from soilcarbon.categories import Category
from soilcarbon.drivers.analysis import Analysis, Target
from soilcarbon.drivers.support import drivers_of, make_support, zones_of
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError, atomic_write, write_table
from soilcarbon.io.pickles import load_pickle
from soilcarbon.io.tables import read_table
from soilcarbon.settings import build

CATEGORIES = (Category(name="climate", variables=("warm", "wet")), Category(name="rock", variables=("rock",), kind="classes"))


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "data", n=300, side=1, categories=CATEGORIES)


def model(path, cell=1.0, values=None, unit="kg m-2"):
    """Write a map over lon 5..15, lat 45..55 whose value is lon + 100 lat of its cell's centre, divided by 1000."""
    size = round(10 / cell)
    centres = (np.arange(size) + 0.5) * cell
    if values is None:
        values = (5 + centres[None, :] + 100 * (55 - centres[:, None])) / 1000
    write_geotiff(path, values[None].astype(np.float32), ["cSoil"], Affine(cell, 0, 5, 0, -cell, 55), units=[unit])
    return Target(name=path.stem, kind="model", path=path)


def settings(data, *models, **given):
    return build(Analysis, {"data_dir": data, "targets": (Target(name="observed", kind="observed"), *models), **given})


def test_profiles_are_averaged_in_the_cells_of_the_coarsest_target(data, tmp_path):
    found = make_support(settings(data, model(tmp_path / "fine.tif", 0.5), model(tmp_path / "coarse.tif", 2.0)))
    table = read_table(data / "samples.csv")
    lon, lat, soc = (table[name].to_numpy(float) for name in ("lon", "lat", "soc"))
    cell = np.floor((55 - lat) / 2).astype(int) * 5 + np.floor((lon - 5) / 2).astype(int)
    patches = [load_pickle(data / "patches" / f"{name}.pkl") for name in ("warm", "rock")]
    warm, rock = (np.array([patch.item() for patch in each.values()]) for each in patches)
    assert found.counts.sum() == 300 and len(found) == 25 == found.facts["places"]
    for k, number in enumerate(np.unique(cell)):
        here = cell == number
        assert found.counts[k] == here.sum()
        assert found.y[0, k] == pytest.approx(soc[here].mean())
        assert found.x[k, 0] == pytest.approx(warm[here].mean(), rel=1e-5)
        codes, times = np.unique(rock[here], return_counts=True)
        assert found.x[k, 2] == codes[times.argmax()]
        assert found.y[2, k] == pytest.approx((6 + 2 * (number % 5) + 100 * (54 - 2 * (number // 5))) / 1000, rel=1e-5)
        assert (found.lon[k], found.lat[k]) == pytest.approx((lon[here].mean(), lat[here].mean()))


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr("soilcarbon.drivers.support._MIN_PLACES", 10)


def test_profiles_one_by_one_take_the_value_of_their_cell(data, tmp_path, caplog):
    caplog.set_level("INFO")
    found = make_support(settings(data, model(tmp_path / "m.tif", 2.0), support="profiles"))
    table = read_table(data / "samples.csv")
    east = 5 + 2 * np.floor((table["lon"] - 5) / 2) + 1
    north = 55 - 2 * np.floor((55 - table["lat"]) / 2) - 1
    assert found.y[1] == pytest.approx((east + 100 * north) / 1000, rel=1e-5) and found.y[0] == pytest.approx(table["soc"])
    assert found.facts["cells_with_profiles"] == {"m": 25} and "300 profiles lie in 25 of its cells" in caplog.text


def test_profiles_have_the_unit_of_their_target(data):
    plain = make_support(settings(data))
    given = {"targets": (Target(name="observed", kind="observed", unit="t/ha"),)}
    found = make_support(build(Analysis, {"data_dir": data} | given))
    assert (plain.units, found.units) == (("g/kg",), ("kg/m2",))
    np.testing.assert_allclose(found.y, plain.y * 0.1)
    given = {"targets": (Target(name="observed", kind="observed", unit="pounds"),)}
    with pytest.raises(UserError, match="target 'observed': unit 'pounds' is none of kg/m2"):
        make_support(build(Analysis, {"data_dir": data} | given))


def test_places_without_all_targets_are_counted_and_left_out(data, tmp_path):
    values = np.full((10, 10), 0.01)
    values[:5] = np.nan
    found = make_support(settings(data, model(tmp_path / "m.tif", 1.0, values * (1 + np.arange(10))), support="profiles"))
    south = read_table(data / "samples.csv")["lat"] < 50
    assert len(found) == south.sum() and found.facts["targets"]["m"]["without"] == (~south).sum()


def test_gaps_are_filled_counted_and_logged(data, tmp_path, caplog):
    caplog.set_level("INFO")
    for name, rows in (("warm", 7), ("rock", 4)):
        patches = load_pickle(data / "patches" / f"{name}.pkl")
        for key in list(patches)[slice(rows) if name == "warm" else slice(-rows, None)]:
            patches[key] = np.full((1, 1), np.nan, np.float32)
        with atomic_write(data / "patches" / f"{name}.pkl") as file:
            pickle.dump(patches, file)
    found = make_support(settings(data, support="profiles"))
    whole = load_pickle(data / "patches" / "warm.pkl")
    assert found.facts["filled"] == {"warm": 7, "rock": 4} and "filled 11 missing values of 2 variables" in caplog.text
    assert found.x[0, 0] == pytest.approx(np.nanmedian([patch.item() for patch in whole.values()]))
    codes, times = np.unique(found.x[:-4, 2], return_counts=True)
    assert found.x[-1, 2] == codes[times.argmax()] and np.isfinite(found.x).all()


def test_a_target_that_is_nowhere_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="no value at any of 300 places"):
        make_support(settings(data, model(tmp_path / "m.tif", 1.0, np.full((10, 10), np.nan))))
    with pytest.raises(UserError, match="is the unit right"):
        make_support(settings(data, model(tmp_path / "m.tif", 1.0, np.full((10, 10), 9e4))))


def rasters(folder):
    """Write covariates of half a degree, a map of one degree that follows them, and a model of two."""
    folder.mkdir()
    random = np.random.default_rng(0)
    warm = random.normal(size=(40, 40)).astype(np.float32)
    rock = random.integers(1, 4, (40, 40)).astype(np.float32)
    place = Affine(0.5, 0, 0, 0, -0.5, 20)
    write_geotiff(folder / "covariates.tif", np.stack([warm, rock]), ["warm", "rock"], place)
    coarse = np.exp(warm.reshape(20, 2, 20, 2).mean((1, 3)))
    write_geotiff(folder / "map.tif", coarse[None], ["soc"], Affine(1, 0, 0, 0, -1, 20), units=["kg m-2"])
    esm = coarse.reshape(10, 2, 10, 2).mean((1, 3))
    write_geotiff(folder / "esm.tif", esm[None], ["c"], Affine(2, 0, 0, 0, -2, 20), units=["g m-2"])
    return warm, coarse


def test_rasters_alone_are_brought_to_the_coarsest_grid(tmp_path):
    warm, coarse = rasters(tmp_path / "r")
    targets = (
        Target(name="map", kind="observed", path=tmp_path / "r" / "map.tif"),
        Target(name="esm", kind="model", path=tmp_path / "r" / "esm.tif"),
    )
    given = {"targets": targets, "rasters": [tmp_path / "r" / "covariates.tif"], "classes": ["rock"]}
    found = make_support(build(Analysis, given))
    assert len(found) == 100 and found.variables == ("warm", "rock") and found.classes.tolist() == [False, True]
    inner = np.s_[1:-1, 1:-1]
    esm = coarse.reshape(10, 2, 10, 2).mean((1, 3))
    assert found.y[1].reshape(10, 10) == pytest.approx(esm / 1000, rel=1e-5)
    assert np.corrcoef(found.y[0].reshape(10, 10)[inner].ravel(), esm[inner].ravel())[0, 1] > 0.8
    assert np.corrcoef(found.x[:, 0].reshape(10, 10)[inner].ravel(), np.log(esm)[inner].ravel())[0, 1] > 0.7
    assert set(np.unique(found.x[:, 1])) <= {1, 2, 3} and found.lon[:2].tolist() == [1, 3] and found.lat[0] == 19
    with pytest.raises(UserError, match="did you mean 'rock'"):
        make_support(build(Analysis, given | {"classes": ["rok"]}))


def test_drivers_take_their_variables_from_the_categories(data):
    found = make_support(settings(data, support="profiles"))
    named = drivers_of(found, {"water": ["wet"]})
    assert {driver: columns.tolist() for driver, columns in named.items()} == {"water": [1], "climate": [0], "rock": [2]}
    with pytest.raises(UserError, match="did you mean 'wet'"):
        drivers_of(found, {"water": ["wett"]})
    with pytest.raises(UserError, match="1 driver"):
        drivers_of(found, {"all": ["warm", "wet", "rock"]})


def test_variables_of_a_dataset_may_be_declared_classes(tmp_path):
    categories = (Category(name="land", variables=("cover", "warm")), Category(name="bedrock", variables=("rock",)))
    data = make_dataset(tmp_path / "data", n=300, side=1, categories=categories)
    patches = load_pickle(data / "patches" / "cover.pkl")
    codes = {key: np.full((1, 1), 10 + k % 3, np.float32) for k, key in enumerate(patches)}
    with atomic_write(data / "patches" / "cover.pkl") as target:
        pickle.dump(codes, target)
    plain, coded = (make_support(settings(data, classes=classes)) for classes in ([], ["cover"]))
    assert plain.variables == ("cover", "warm", "rock") and not plain.classes.any()
    assert coded.variables == ("warm", "cover", "rock") and coded.classes.tolist() == [False, True, False]
    assert [(each.name, each.kind) for each in coded.categories] == [
        *(("land", "numeric"), ("land_classes", "classes"), ("bedrock", "numeric"))
    ]
    assert np.array_equal(coded.x, plain.x[:, [1, 0, 2]])
    with pytest.raises(UserError, match="classes: no variable 'cove' in .*cover"):
        make_support(settings(data, classes=["cove"]))
    with pytest.raises(UserError, match="'warm' is not an integer at 300 of 300 places, the first"):
        make_support(settings(data, classes=["warm"]))


def test_zones_are_ranges_of_place_and_variables(data):
    found = make_support(settings(data, support="profiles"))
    zones = zones_of(found, {"north-east": {"lon": (10, 15), "lat": (50, 60)}, "rock 2": {"rock": (2, 3)}})
    assert np.array_equal(zones["north-east"], (found.lon >= 10) & (found.lon < 15) & (found.lat >= 50))
    assert np.array_equal(zones["rock 2"], found.x[:, 2] == 2)
    with pytest.raises(UserError, match="contains none of 300 places"):
        zones_of(found, {"hot": {"warm": (1e5, 2e5)}})
    with pytest.raises(UserError, match="no variable 'worm'; did you mean 'warm'"):
        zones_of(found, {"hot": {"worm": (0, 1)}})


def test_constant_variables_are_left_out(data, tmp_path):
    patches = {key: np.ones((1, 1), np.float32) for key in load_pickle(data / "patches" / "wet.pkl")}
    with atomic_write(data / "patches" / "wet.pkl") as file:
        pickle.dump(patches, file)
    found = make_support(settings(data, support="profiles"))
    assert found.variables == ("warm", "rock") and found.facts["constant"] == ["wet"]
    assert drivers_of(found, {"water": ["wet"]}).keys() == {"climate", "rock"}


def test_too_few_places_are_refused(data, monkeypatch):
    monkeypatch.setattr("soilcarbon.drivers.support._MIN_PLACES", 301)
    with pytest.raises(UserError, match="300 of 300 places"):
        make_support(settings(data, support="profiles"))
    write_table(data / "samples.csv", read_table(data / "samples.csv").assign(soc=-1.0))
    with pytest.raises(UserError, match="must lie between 0"):
        make_support(settings(data, support="profiles"))


def test_targets_that_no_profile_has_together_are_refused(data, tmp_path):
    west, east = np.full((2, 10, 10), 0.01)
    west[:, 5:], east[:, :5] = np.nan, np.nan
    models = model(tmp_path / "west.tif", 1.0, west), model(tmp_path / "east.tif", 1.0, east)
    with pytest.raises(UserError, match="none of 300 profiles has all targets: observed, west, east"):
        make_support(settings(data, *models))
