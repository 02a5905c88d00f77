"""Bulk density by pedotransfer functions: published values, a known line, errors of profiles left out."""

import numpy as np
import pandas as pd
import pytest
from conftest import REALDATA, needs_realdata

from soilcarbon.soil.bulk_density import (
    estimate_bulk_density,
    fill_bulk_density,
    fit_pedotransfer,
    mineral_bulk_density,
    organic_bulk_density,
    score_bulk_density_functions,
)


def test_published_functions_meet_at_organic_soils():
    np.testing.assert_allclose(organic_bulk_density(np.array([90.0, 490.0])), [1380 - 310 * np.log(10), 1380 - 310 * np.log(50)])
    np.testing.assert_allclose(mineral_bulk_density(np.array([0.0, 10, 40])), [1660, 1342, 1024])
    soc = np.array([10.0, 80, 80.001, 300, 1000])
    limits = [*mineral_bulk_density(soc[:2]), *organic_bulk_density(soc[2:4]), 100]  # the last would be negative
    np.testing.assert_allclose(estimate_bulk_density(soc), limits)
    np.testing.assert_allclose(estimate_bulk_density(soc, lambda soc: soc * 0 + 9999)[:2], 2650)


def made_horizons(rng, profiles=150, noise=120.0):
    profile = np.repeat(np.arange(profiles), 3)
    soc = rng.lognormal(2.3, 0.8, profile.size).clip(1, 79)
    return profile, soc, 1700 - 250 * np.log1p(soc / 10) + rng.normal(0, noise, profile.size)


def test_pedotransfer_finds_the_line_and_its_error():
    rng = np.random.default_rng(1)
    profile, soc, truth = made_horizons(rng, 400)
    measured = np.where(rng.uniform(size=soc.size) < 0.5, truth, np.nan)
    peat = np.array([300.0, 500.0])
    found = fit_pedotransfer(np.append(profile, [0, 1]), np.append(soc, peat), np.append(measured, [2600.0, 2600.0]))  # not mineral
    assert found.intercept == pytest.approx(1700, abs=25)
    assert found.slope == pytest.approx(-250, abs=25)
    assert found.rmse == pytest.approx(120, rel=0.08)
    assert abs(found.bias) < 3
    assert (found.horizons, found.profiles) == (np.isfinite(measured).sum(), np.unique(profile[np.isfinite(measured)]).size)
    np.testing.assert_allclose(found(np.array([0.0, 10])), found.intercept + found.slope * np.array([0, np.log(2)]))


def test_error_is_of_profiles_left_out():
    rng = np.random.default_rng(2)
    profile, soc, _ = made_horizons(rng, 24, 0.0)
    soc = np.tile(rng.lognormal(2.3, 0.8, 24).clip(1, 79)[:, None], 3).ravel()  # a profile's horizons are alike
    bulk_density = 1300 + np.repeat(rng.normal(0, 200, 24), 3)
    mixed = rng.permutation(72)
    found = fit_pedotransfer(profile[mixed], soc[mixed], bulk_density[mixed])
    held = []
    for k in range(24):
        of = profile == k
        line = np.polyfit(np.log1p(soc[~of] / 10), bulk_density[~of], 1)
        held.append(np.polyval(line, np.log1p(soc[of] / 10)) - bulk_density[of])
    inside = np.polyval(np.polyfit(np.log1p(soc / 10), bulk_density, 1), np.log1p(soc / 10)) - bulk_density
    assert found.rmse > np.sqrt(np.mean(inside**2)) * 1.03
    assert found.rmse == pytest.approx(np.sqrt(np.mean(np.square(held))), rel=0.1)
    assert found.r2 == pytest.approx(1 - found.rmse**2 / bulk_density.var())


def test_too_few_measured_horizons_take_the_published_function():
    rng = np.random.default_rng(3)
    profile, soc, truth = made_horizons(rng, 30)
    soc[-3:] = 200.0
    few = np.where(profile < 19, truth, np.nan)
    found, sd, own = fill_bulk_density(profile, soc, few, np.full(90, 7.0))
    assert own is None
    np.testing.assert_array_equal(found[profile < 19], truth[profile < 19])
    np.testing.assert_allclose(found[profile >= 19], estimate_bulk_density(soc[profile >= 19]))
    assert (sd[0], sd[60], sd[-1]) == (7, 260, 80)
    with pytest.raises(ValueError, match="19 profiles have SOC and bulk density"):
        fit_pedotransfer(profile, soc, few)
    enough = np.where(profile < 20, truth, np.nan)
    found, sd, own = fill_bulk_density(profile, soc, enough, np.full(90, 7.0))
    np.testing.assert_allclose(found[profile >= 20], estimate_bulk_density(soc[profile >= 20], own))
    assert (sd[0], sd[60], sd[-1]) == (7, own.rmse, 80)


def test_functions_are_scored_against_measured_bulk_density():
    rng = np.random.default_rng(7)
    profile, soc, _ = made_horizons(rng)
    soc[:6] = rng.uniform(100, 300, 6)
    truth = np.where(soc > 80, organic_bulk_density(soc), mineral_bulk_density(soc))
    truth[::3] = np.nan
    found = score_bulk_density_functions(profile, soc, truth)
    exact = found["Manrique and Jones 1991, mineral"], found["1380 - 310 ln(1 + SOC/10), organic"]
    assert all((each["rmse"], each["bias"], each["r2"]) == (0, 0, 1) for each in exact)
    assert exact[1]["horizons"] == 4
    off = organic_bulk_density(soc) - truth
    rows = np.isfinite(truth) & (soc <= 80)
    assert found["1380 - 310 ln(1 + SOC/10), mineral"]["bias"] == pytest.approx(off[rows].mean(), abs=1e-3)
    assert found["1380 - 310 ln(1 + SOC/10), mineral"]["rmse"] == pytest.approx(np.sqrt(np.mean(off[rows] ** 2)), abs=1e-3)
    assert found["fitted to these horizons, mineral"]["rmse"] < 60
    assert score_bulk_density_functions(profile, soc, np.full(soc.size, np.nan)) == {}
    few = np.where(profile < 5, truth, np.nan)
    assert "fitted to these horizons, mineral" not in score_bulk_density_functions(profile, soc, few)


@needs_realdata
def test_pedotransfer_on_real_horizons():
    table = pd.read_csv(REALDATA / "north_macedonia" / "horizons.csv")
    profile, soc = table["profile_id"].factorize()[0], table["soc_gkg"].to_numpy(float)
    earth = table["BLD"].to_numpy(float) * 1000
    assert ((earth < 100) | (earth > 2650)).sum() == 63
    earth[(earth < 100) | (earth > 2650)] = np.nan
    own = fit_pedotransfer(profile, soc, earth)
    mineral, organic = (np.isfinite(earth) & (soc <= 80)), (np.isfinite(earth) & (soc > 80))
    assert own.rmse < 0.92 * earth[mineral].std()  # better than their mean
    error = {name: of(soc[at]) - earth[at] for name, of, at in
             (("published", mineral_bulk_density, mineral), ("organic", organic_bulk_density, organic))}  # fmt: skip
    assert own.rmse < 0.7 * np.sqrt(np.mean(error["published"] ** 2)) == pytest.approx(0.7 * 260, abs=1)
    assert np.sqrt(np.mean(error["organic"] ** 2)) == pytest.approx(80, abs=1)
    assert abs(error["organic"].mean()) < 5
