"""The simulated dataset resembling China: contents, truth by its equations, and densities recovered from horizons."""

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml

from soilcarbon.commands import simulate
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.simulation.china import DEPTHS, PERIODS, RESPONSES, China, bulk_density, make_china, mean_share
from soilcarbon.simulation.sampling import grid_over
from soilcarbon.soil.density import Measured, interval_densities, soc_density
from soilcarbon.soil.depth import Horizons
from soilcarbon.zonal.climate_zones import ZONES
from soilcarbon.zonal.covariates import INDICES

CELL = 1.5


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sim")
    return {relationship: make_china(folder, relationship, profiles=300, cell=CELL) for relationship in ("zoned", "unzoned")}


@pytest.fixture(scope="module")
def china():
    return China(314, grid_over((74.0, 18.0, 135.0, 54.0), CELL), "zoned")


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan), raster.descriptions


def test_every_period_has_its_covariates_and_truth(datasets):
    for folder in datasets.values():
        for first, last in PERIODS:
            values, names = read(folder / f"periodic/{first}-{last}/indices.tif")
            assert names == tuple(INDICES)
            assert np.nanmin(values[0]) > -1 < np.nanmax(values[0]) < 1
            for name in ("socd_0_20", "socd_0_100"):
                truth, names = read(folder / f"truth/{first}-{last}/{name}.tif")
                assert names == (name,)
                np.testing.assert_array_equal(np.isnan(truth[0]), np.isnan(values[0]))
        assert {layer.name for layer in find_layers([folder / "rasters"])} >= {"map", "mat", "slope", "clay_map"}


def test_both_relationships_share_everything_but_carbon(datasets):
    for name in ("rasters/climate.tif", "rasters/soil.tif", "periodic/1985-1989/indices.tif", "bands/2015-2019.tif"):
        assert (datasets["zoned"] / name).read_bytes() == (datasets["unzoned"] / name).read_bytes()
    truth = [read(folder / "truth/1985-1989/socd_0_20.tif")[0] for folder in datasets.values()]
    assert np.nanmax(np.abs(truth[0] / truth[1] - 1)) > 0.5
    assert [yaml.safe_load((folder / "world.yaml").read_text())["law"] for folder in datasets.values()] == ["zoned", "unzoned"]
    assert len(set(RESPONSES["unzoned"].values())) == 1
    assert len(set(RESPONSES["zoned"].values())) == 4


def test_all_four_zones_have_profiles_and_land(datasets, china):
    table = pd.read_csv(datasets["zoned"] / "horizons.csv").drop_duplicates("profile_id")
    windows, inside = cut_windows(find_layers([datasets["zoned"] / "rasters"]), table["lon"].to_numpy(), table["lat"].to_numpy(), 0)
    assert inside.all()
    assert np.isfinite(windows["map"]).all()
    assert np.bincount(china.zone[china.zone >= 0], minlength=len(ZONES)).min() > 50
    assert table["year"].between(1980, 2019).all()
    assert (table["year"] < 1985).mean() < 0.2


def test_density_is_the_integral_of_content_and_bulk_density(china):
    surface = china.surface(china.period(3))
    cell = int(np.nanargmax(surface))
    depth = (np.arange(10_000) + 0.5) / 100  # a tenth of a millimetre
    soc = surface[cell] * (0.12 + 0.88 * np.exp(-depth / china.reach[cell]))
    slices = soc_density(soc, bulk_density(soc, depth), 0.01, china.stones[cell])
    for (_, lower), found in zip(DEPTHS, china.densities(surface), strict=True):
        assert found[cell] == pytest.approx(slices[depth < lower].sum(), rel=2e-3)


def test_mean_of_a_layer_is_that_of_its_parts():
    reach = np.array([20.0])
    parts = [mean_share(np.array([top]), np.array([bottom]), reach) for top, bottom in ((0.0, 10.0), (10.0, 40.0))]
    whole = mean_share(np.array([0.0]), np.array([40.0]), reach)
    np.testing.assert_allclose(whole, (10 * parts[0] + 30 * parts[1]) / 40)


def test_a_law_that_differs_is_seen_in_its_own_zone_alone(china, monkeypatch):
    period = china.period(0)
    before = china.surface(period)
    monkeypatch.setitem(RESPONSES, "zoned", RESPONSES["zoned"] | {"arid": RESPONSES["unzoned"]["arid"]})
    after = China(314, china.grid, "zoned").surface(period)
    changed = np.abs(after / before - 1) > 1e-9
    assert set(np.unique(china.zone[changed])) == {ZONES.index("arid")}


def test_horizons_lead_back_to_the_truth(datasets):
    folder = datasets["zoned"]
    table = pd.read_csv(folder / "horizons.csv")
    profile, ids = table["profile_id"].factorize()
    horizons = Horizons(profile, table["top"].to_numpy(float), table["bottom"].to_numpy(float), len(ids))
    units = {"soc": "g/kg", "bd": "g/cm3", "cf": "percent"}
    measured = (Measured(table[name].to_numpy(float), unit) for name, unit in units.items())
    found = interval_densities(horizons, *measured, [(0, 20)], method="spline")
    assert found.counts["bulk density impossible"] > 0
    once = table.drop_duplicates("profile_id")
    truth = np.full(len(ids), np.nan)
    for first, last in PERIODS:
        rows = once["year"].between(first, last).to_numpy()
        windows, _ = cut_windows(
            find_layers([folder / f"truth/{first}-{last}"]), once["lon"].to_numpy()[rows], once["lat"].to_numpy()[rows], 0
        )
        truth[rows] = windows["socd_0_20"][:, 0, 0]
    known = np.isfinite(truth) & np.isfinite(found.density[:, 0])
    ratio = np.log(found.density[known, 0] / truth[known])
    assert known.sum() > 200
    assert 0.2 < ratio.std() < 0.4  # what differs within a cell, and stones and bulk density that were not measured
    assert abs(ratio.mean()) < 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(datasets, tmp_path, capsys):
    arguments = ["--world", "china", "--profiles", "300", "--cell", str(CELL), "--out"]
    simulate.main([*arguments, str(tmp_path / "a")])
    assert "300 profiles" in capsys.readouterr().out
    again = tmp_path / "a" / "china"
    files = sorted(path.relative_to(again) for path in again.rglob("*.*") if path.is_file())
    assert len(files) == 2 + 3 + 5 * len(PERIODS)
    assert all((again / name).read_bytes() == (datasets["zoned"] / name).read_bytes() for name in files)
    simulate.main([*arguments, str(tmp_path / "b"), "--seed", "1"])
    assert (tmp_path / "b/china/horizons.csv").read_bytes() != (again / "horizons.csv").read_bytes()
