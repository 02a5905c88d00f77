"""The example world: plausible, coherent, with known truth."""

import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
from conftest import slow_but

from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.io.files import UserError, read_yaml
from soilcarbon.io.pickles import load_pickle
from soilcarbon.io.tables import read_table
from soilcarbon.simulation import example, sampling
from soilcarbon.simulation.example import make_world
from soilcarbon.simulation.world import FADE, REGIONS, Pedogenesis, World, bioclim, departure_weight, soil_carbon

NAMES = ["global", *REGIONS]
VARIABLES = [variable for category in PUBLISHED_CATEGORIES for variable in category.variables]
# bio.. that never exceed bio..
ORDERED = [(11, 1), (1, 10), (6, 11), (10, 5), (9, 10), (8, 10), (11, 9), (11, 8), (14, 13), (17, 16), (17, 18), (19, 16), (16, 12)]
TINY = {"cell": 2.0, "region_cell": 0.5, "profiles": 200, "region_profiles": 60}
SMALL = {"cell": 1.0, "region_cell": 0.2, "profiles": 900, "region_profiles": 100}


def read_rasters(folder):
    layers = {}
    for path in [folder / "truth.tif", *sorted((folder / "rasters").glob("*.tif"))]:
        with rasterio.open(path) as raster:
            bands = np.ma.filled(raster.read(masked=True).astype(np.float64), np.nan)
            layers |= dict(zip(["truth"] if path.stem == "truth" else raster.descriptions, bands, strict=True))
            layers["transform"] = raster.transform
    return layers


def positions(layers, lon, lat):
    grid = layers["transform"]
    return (lat - grid.f) / grid.e, (lon - grid.c) / grid.a  # row and column, with fractions


def centres(layers):
    rows, columns = np.indices(layers["truth"].shape)
    grid = layers["transform"]
    return grid.c + (columns + 0.5) * grid.a, grid.f + (rows + 0.5) * grid.e


def cells_of(layers, samples):
    row, column = positions(layers, samples.lon.to_numpy(), samples.lat.to_numpy())
    return np.floor(row).astype(int), np.floor(column).astype(int)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def rasters(out):
    return {name: read_rasters(out / name) for name in NAMES}


@pytest.fixture(scope="module")
def samples(out):
    return {name: read_table(out / name / "samples.csv") for name in NAMES}


@pytest.fixture(scope="module")
def splits(out):
    return {
        name: {part: set(read_table(out / name / "split" / f"{part}.csv").profile_id) for part in ("train", "valid", "test")}
        for name in NAMES
    }


def digests(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_same_seed_same_bytes_other_seed_another_world(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_world(tmp_path / name, seed=seed, **TINY)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert not any(a[path] == c[path] for path in a if path.suffix in (".tif", ".pkl"))


def test_bioclim_of_a_hand_worked_year():
    mean = np.array([0, 1, 5, 9, 14, 18, 20, 19, 15, 10, 5, 1.0])[:, None]
    rain = np.array([10, 20, 30, 40, 50, 60, 90, 80, 40, 30, 25, 10.0])[:, None]
    year = {name: value[0] for name, value in bioclim(mean - 5, mean + 5, rain).items()}
    assert list(year) == [f"bio{k:02d}" for k in range(1, 20)]
    assert year["bio01"] == pytest.approx(117 / 12)
    assert (year["bio02"], year["bio05"], year["bio06"], year["bio07"]) == (10, 25, -5, 30)
    assert year["bio03"] == pytest.approx(100 / 3)
    assert year["bio04"] == pytest.approx(100 * mean.std())
    assert year["bio10"] == year["bio08"] == 19  # June to August: warmest, and wettest
    assert year["bio11"] == year["bio09"] == pytest.approx(2 / 3)  # December to February: a quarter spans the new year
    assert (year["bio12"], year["bio13"], year["bio14"]) == (485, 90, 10)
    assert (year["bio16"], year["bio17"], year["bio18"], year["bio19"]) == (230, 40, 230, 40)
    assert year["bio15"] == pytest.approx(100 * rain.std() / (1 + 485 / 12))


@pytest.mark.parametrize("name", NAMES)
def test_climate_is_consistent(rasters, name):
    bio = {k: rasters[name][f"bio{k:02d}"] for k in range(1, 20)}
    land = np.isfinite(bio[1])
    bio = {k: values[land] for k, values in bio.items()}
    tolerance = 1e-3
    np.testing.assert_allclose(bio[7], bio[5] - bio[6], atol=tolerance)
    np.testing.assert_allclose(bio[3], 100 * bio[2] / bio[7], rtol=1e-4)
    for low, high in ORDERED:
        assert (bio[low] <= bio[high] + tolerance).all(), (low, high)
    assert (bio[13] <= bio[16] + tolerance).all()
    assert (bio[16] <= 3 * bio[13] + tolerance).all()
    assert (bio[14] >= 0).all()
    assert (bio[2] > 0).all()
    assert bio[1].min() > -60
    assert bio[1].max() < 35


def test_sea_is_nodata_and_land_lies_where_it_should(rasters):
    layers = rasters["global"]
    sea = np.isnan(layers["elevation"])
    assert 0.6 < sea.mean() < 0.85
    assert all(np.isnan(layers[name][sea]).all() for name in [*VARIABLES, "truth"])

    def at(lon, lat):
        row, column = positions(layers, lon, lat)
        return not sea[int(row), int(column)]

    for lon, lat in [(117, 32), (8.5, 47), (9.3, 56), (134, -25), (-100, 40), (-60, -10), (20, 5), (60, 55), (47, -19)]:
        assert at(lon, lat), (lon, lat)
    for lon, lat in [(-30, 30), (-150, 0), (80, -20), (0, -30), (170, 45), (-175, -50)]:
        assert not at(lon, lat), (lon, lat)
    for name, share in {"anhui": 0.8, "switzerland": 0.95, "denmark": 0.4, "australia": 0.4}.items():
        assert np.isfinite(rasters[name]["elevation"]).mean() > share


def test_nothing_breaks_at_the_antimeridian():
    world = World(314)
    lat = np.linspace(66, 68, 50)
    west, east = (world.at(np.full(50, lon), lat)[0] for lon in (-179.9999, 179.9999))
    both = np.isfinite(west["elevation"]) & np.isfinite(east["elevation"])
    assert both.sum() > 30
    for name in ("elevation", "bio01", "bio12"):
        np.testing.assert_allclose(west[name][both], east[name][both], rtol=0.01, atol=0.5)


@pytest.mark.parametrize("name", REGIONS)
def test_region_and_globe_are_one_world(rasters, name):
    regional, whole = rasters[name], rasters["global"]
    row, column = positions(whole, *centres(regional))
    here = np.floor(row).astype(int), np.floor(column).astype(int)
    # a region's cell whose centre nearly is that of a global cell shows nearly the same
    close = (abs(row % 1 - 0.5) < 0.26) & (abs(column % 1 - 0.5) < 0.26)
    for variable, tolerance in {"bio01": 1.5, "bio04": 30, "bio12": 120, "evi_mean": 0.05, "truth": 15}.items():
        difference = (regional[variable] - whole[variable][here])[close]
        assert np.nanmedian(abs(difference)) < tolerance, variable


def test_world_is_a_function_of_place_not_of_raster():
    world = World(7)
    lon, lat = np.array([8.5, 117.1, -95.2, 30.0]), np.array([47.1, 31.9, 41.3, -3.2])
    together, truth, _ = world.at(lon, lat)
    for k in range(4):
        alone, soc, _ = world.at(lon[k : k + 1], lat[k : k + 1])
        assert soc == pytest.approx(truth[k : k + 1], rel=1e-3, nan_ok=True)
        for name in VARIABLES:
            assert alone[name] == pytest.approx(together[name][k : k + 1], rel=1e-3, abs=1e-3, nan_ok=True), name


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_the_truth_with_the_stated_noise(out, rasters, samples, name):
    table = samples[name]
    truth = rasters[name]["truth"][cells_of(rasters[name], table)]
    assert np.isfinite(truth).all()
    residual = np.log(table.soc) - np.log(truth)
    n = len(table)
    assert residual.std() == pytest.approx(example.NOISE, rel=4 / np.sqrt(2 * n))
    assert abs(residual.mean() + example.NOISE**2 / 2) < 4 * example.NOISE / np.sqrt(n)  # of no bias in g/kg
    west, south, east, north = read_yaml(out / name / "dataset.yaml")["bounds"]
    assert table.lon.between(west, east).all()
    assert table.lat.between(south, north).all()
    assert table.profile_id.is_unique
    pd.testing.assert_frame_equal(table, read_table(out / name / "profiles.csv"))
    assert list(table.columns) == ["profile_id", "lon", "lat", "soc"]


def test_soc_is_skewed_with_peat(rasters, samples):
    soc = samples["global"].soc
    assert 7 < soc.median() < 16
    assert soc.skew() > 2
    assert soc.max() <= example.LARGEST
    truth = rasters["global"]["truth"][np.isfinite(rasters["global"]["truth"])]
    assert truth.min() > 0
    assert truth.max() > 200
    assert 0.002 < (truth > 120).mean() < 0.1


def in_region(table, region):
    west, south, east, north = region.bounds
    return table.lon.between(west, east) & table.lat.between(south, north)


def test_global_profiles_are_sparse_in_regions_and_absent_where_those_hold_out(samples, splits):
    table = samples["global"]
    inside = np.logical_or.reduce([in_region(table, region) for region in REGIONS.values()])
    assert inside.mean() < 0.03
    for name, region in REGIONS.items():
        held_out = samples[name][~samples[name].profile_id.isin(splits[name]["train"])]

        def blocks(points, side=region.block_size):
            return set(zip((points.lon + 180) // side, (points.lat + 90) // side, strict=True))

        assert not blocks(table[in_region(table, region)]) & blocks(held_out)
        assert not blocks(held_out) & blocks(samples[name][samples[name].profile_id.isin(splits[name]["train"])])


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_whole(samples, splits, name):
    parts = splits[name]
    assert sum(len(ids) for ids in parts.values()) == len(samples[name])
    assert set.union(*parts.values()) == set(samples[name].profile_id)
    assert len(parts["test"]) == pytest.approx(example.TEST_SHARE * len(samples[name]), rel=0.3)
    valid_share = example.REGION_VALID_SHARE if name in REGIONS else example.VALID_SHARE
    assert len(parts["valid"]) == pytest.approx(valid_share * len(samples[name]), rel=0.4)


@pytest.mark.parametrize("name", ["global", "denmark"])
def test_patches_are_the_rasters_cells(out, rasters, samples, name):
    table, layers = samples[name], rasters[name]
    row, column = cells_of(layers, table)
    for variable in VARIABLES:
        patches = load_pickle(out / name / "patches" / f"{variable}.pkl")
        assert list(patches) == table.profile_id.tolist()
        windows = np.stack([patches[key] for key in table.profile_id])
        assert windows.shape == (len(table), 3, 3)
        np.testing.assert_allclose(windows[:, 1, 1], layers[variable][row, column], rtol=1e-6)
        east = np.clip(column + 1, 0, layers[variable].shape[1] - 1)
        inner = column < layers[variable].shape[1] - 1
        np.testing.assert_allclose(windows[inner, 1, 2], layers[variable][row, east][inner], rtol=1e-6)


def test_regions_take_the_global_statistics(out):
    whole = read_table(out / "global" / "stats.csv", text=("var_name",))
    assert whole.var_name.tolist() == VARIABLES
    assert all((out / name / "stats.csv").read_bytes() == (out / "global" / "stats.csv").read_bytes() for name in REGIONS)


@pytest.mark.parametrize("name", slow_but(REGIONS, "anhui"))
def test_regions_depart(out, name):
    region = REGIONS[name]
    gridded = sampling.rasterize_world(World(314), sampling.grid_over(region.bounds, 0.2 * region.coarser))
    change = np.log(gridded.truth) - np.log(gridded.undisturbed)
    assert abs(np.nanmean(change)) > 0.2
    assert np.nanstd(change) > 0.02  # more than a factor
    facts = read_yaml(out / name / "dataset.yaml")
    assert facts["departure"]["mean_ln_ratio"] == pytest.approx(float(np.nanmean(change)), abs=1e-4)
    assert facts["split"]["method"] == "blocks"
    assert facts["split"]["reason"]


def test_departure_fades():
    region = REGIONS["anhui"]
    west, _, east, north = region.bounds
    weight = departure_weight(region, np.array([east, east + FADE / 2, east + FADE, west]), np.array([32, 32, 32, north]))
    np.testing.assert_allclose(weight, [1, 0.5, 0, 1])


def test_soil_carbon_answers_as_soils_do():
    base = {"evi_mean": 0.3, "evi_min": 0.15, "bio01": 10.0, "bio12": 700.0, "slope": 3.0, "bedrock": 1.0}

    def soc(how=Pedogenesis(), hollow=0.0, **changed):  # noqa: B008 (frozen)
        return soil_carbon({k: np.array([v]) for k, v in (base | changed).items()}, np.zeros(1), np.full(1, hollow), how)[0]

    assert 8 < soc() < 25
    assert soc(evi_mean=0.45, evi_min=0.225) > soc()  # more litter
    assert soc(bio01=25.0) < soc()  # faster decay
    assert soc(slope=20.0) < soc()  # erosion
    assert soc(bedrock=2.0) > soc() > soc(bedrock=9.0)  # basalt, granite
    assert soc(bio01=-2.0, bio12=1200.0, slope=0.0, hollow=2.0) > 150  # peat
    assert soc(Pedogenesis(factor=0.5)) == pytest.approx(soc() / 2, rel=0.05)
    assert soc(bio01=-5.0, bio12=4000.0, slope=0.0, hollow=4.0, evi_mean=0.6, evi_min=0.5) < 550


def test_interrupted_simulation_leaves_the_world_that_was_there(out, tmp_path, monkeypatch):
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = digests(tmp_path)
    monkeypatch.setattr("soilcarbon.simulation.example.soc_maps", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path, **TINY, seed=2)
    assert digests(tmp_path) == before


def test_simulation_replaces_no_files_that_were_not_simulated(tmp_path):
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "samples.csv").write_text("mine")
    with pytest.raises(UserError, match="not simulated, and would be overwritten"):
        make_world(tmp_path, **SMALL)


def test_unwritable_folder_is_a_plain_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        make_world(tmp_path / "file", **SMALL)
