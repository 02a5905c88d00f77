"""Variograms of fields whose range is known; distances on the sphere."""

import numpy as np
import pytest
from simulated import field, haversine

from soilcarbon.stats import variogram
from soilcarbon.stats.variogram import (
    KM_PER_DEGREE,
    EmpiricalVariogram,
    Variogram,
    arc_km,
    empirical_variogram,
    fit_variogram,
    unit_vectors,
)


def test_distances_are_great_circles_also_over_the_date_line_and_the_pole():
    points = unit_vectors(np.array([179.9, -179.9, 0, 180, 0, 0]), np.array([0.0, 0, 89, 89, 0, 1e-5]))
    chord = np.linalg.norm(points[::2] - points[1::2], axis=1)
    assert arc_km(chord) == pytest.approx(np.array([0.2, 2, 1e-5]) * KM_PER_DEGREE, rel=1e-8)
    assert arc_km(2.0) == pytest.approx(180 * KM_PER_DEGREE)


@pytest.fixture
def few_pairs(monkeypatch):
    """Lags of one pair are kept, so that a handful of points can be worked by hand."""
    monkeypatch.setattr(variogram, "_MIN_PAIRS", 1)
    monkeypatch.setattr(variogram, "_LAGS", 3)  # edges at 1/9 and 4/9 of the largest distance


@pytest.mark.usefixtures("few_pairs")
def test_semivariances_of_three_points_by_hand():
    lon, values = np.array([0.0, 0.3, 3]), np.array([1.0, 3, 7])
    lags = empirical_variogram(lon, np.zeros(3), values, max_km=3.01 * KM_PER_DEGREE)
    assert lags.km == pytest.approx(np.array([0.3, 2.85]) * KM_PER_DEGREE)
    assert lags.semivariance == pytest.approx([2, 13])  # (3 - 1)^2 / 2; the mean of (7 - 3)^2 / 2 and (7 - 1)^2 / 2
    assert lags.pairs.tolist() == [1, 2]
    robust = empirical_variogram(lon, np.zeros(3), values, robust=True, max_km=3.01 * KM_PER_DEGREE)
    two = ((2 + np.sqrt(6)) / 2) ** 4 / (0.457 + 0.494 / 2) / 2  # differences 4 and 6
    assert robust.semivariance == pytest.approx([4 / (0.457 + 0.494) / 2, two])


@pytest.mark.usefixtures("few_pairs")
def test_lags_cover_a_third_of_the_extent_and_every_pair_once():
    lon, lat, values = field(150, 100, 0.2, 3)
    distance = haversine(lon[:, None], lat[:, None], lon, lat)[np.triu_indices(150, 1)]
    lags = empirical_variogram(lon, lat, values)
    within = distance[distance <= distance.max() / 3]
    assert lags.pairs.sum() == within.size
    assert (lags.km * lags.pairs).sum() == pytest.approx(within.sum())


@pytest.mark.parametrize("most", [20_000, 60_000])  # drawn blindly, and from the list of all 120,000 near pairs
def test_sampled_pairs_give_what_all_pairs_give_and_depend_on_the_seed_only(monkeypatch, most):
    lon, lat, values = field(900, 120, 0.2, 1)
    whole = empirical_variogram(lon, lat, values)
    monkeypatch.setattr(variogram, "_MAX_PAIRS", most)
    part, again, other = (empirical_variogram(lon, lat, values, seed=seed) for seed in (0, 0, 1))
    assert part.km[-8:] == pytest.approx(whole.km[-8:], rel=0.02)
    assert part.semivariance[-8:] == pytest.approx(whole.semivariance[-8:], rel=0.1)
    assert (part.semivariance == again.semivariance).all()
    assert (part.pairs != other.pairs).any()


@pytest.mark.usefixtures("few_pairs")
def test_twins_at_one_spot_say_nothing_of_the_nugget():
    lon, lat, values = field(200, 100, 0.5, 0)
    alone = empirical_variogram(lon, lat, values)
    twins = empirical_variogram(np.tile(lon, 2), np.tile(lat, 2), np.tile(values, 2))
    assert twins.semivariance == pytest.approx(alone.semivariance)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("practical_range", [30, 60])
def test_a_known_range_and_nugget_are_recovered(robust, practical_range):
    fits = [fit_variogram(empirical_variogram(*field(700, practical_range, 0.3, seed), robust=robust)) for seed in range(5)]
    assert np.median([fit.practical_range for fit in fits]) == pytest.approx(practical_range, rel=0.2)
    assert np.median([fit.nugget for fit in fits]) == pytest.approx(0.3, abs=0.1)
    assert np.median([fit.nugget + fit.sill for fit in fits]) == pytest.approx(1, abs=0.1)


def test_the_robust_semivariance_withstands_wild_residuals():
    lon, lat, values = field(700, 60, 0.3, 2)
    wild = values.copy()
    wild[::70] += 15
    plain, robust = (fit_variogram(empirical_variogram(lon, lat, wild, robust=robust)) for robust in (False, True))
    assert robust.nugget + robust.sill < 1.5 < 3 < plain.nugget + plain.sill
    assert robust.practical_range == pytest.approx(60, rel=0.5)


@pytest.mark.parametrize(("model", "reach"), [("exponential", 3), ("spherical", 1)])
def test_an_exact_model_is_fitted_exactly(model, reach):
    km = np.linspace(5, 200, 15)
    true = Variogram(model, 0.2, 0.8, 120 / reach, True)
    fit = fit_variogram(EmpiricalVariogram(km, true.at(km), np.full(15, 100)), model)
    assert fit.practical_range == pytest.approx(120, rel=1e-3)
    assert (fit.nugget, fit.sill) == pytest.approx((0.2, 0.8), rel=1e-3)
    assert fit.bounded


def test_lags_weigh_by_their_pairs_and_inversely_by_the_model_squared():
    lags = empirical_variogram(*field(300, 60, 0.3, 5))
    fit = fit_variogram(lags)
    weight = np.sqrt(lags.pairs) / fit.at(lags.km)
    terms = np.stack([np.ones(lags.km.size), 1 - np.exp(-lags.km / fit.scale)], axis=1)
    by_hand = np.linalg.lstsq(terms * weight[:, None], lags.semivariance * weight)[0]
    assert (fit.nugget, fit.sill) == pytest.approx(by_hand, rel=1e-3)
    assert min(by_hand) > 0.1


def test_a_nugget_is_never_negative_and_a_range_beyond_the_lags_is_reported():
    km = np.linspace(5, 200, 15)
    convex = fit_variogram(EmpiricalVariogram(km, (km / 200) ** 2, np.full(15, 100)))
    assert convex.nugget == 0
    assert not convex.bounded


def test_noise_has_no_range():
    random = np.random.default_rng(0)
    lon, lat = random.uniform(0, 10, (2, 800))
    ranges = [fit_variogram(empirical_variogram(lon, lat, random.normal(size=800))).practical_range for _ in range(7)]
    assert np.median(ranges) < 20  # of 1,100 km
    assert fit_variogram(EmpiricalVariogram(np.arange(1.0, 9), np.zeros(8), np.full(8, 99))).practical_range == 0


def test_a_variogram_does_not_see_the_date_line():
    here, there = (empirical_variogram(*field(300, 100, 0.2, 0, centre)) for centre in ((10, 50), (180, 50)))
    assert there.semivariance == pytest.approx(here.semivariance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.array([1.0, np.nan, 2])}, "finite"),
        ({"lat": np.array([0.0, 91, 0])}, "positions"),
        ({"lat": np.zeros(2)}, "one length"),
        ({}, "2 or more"),
    ],
)
def test_a_variogram_refuses_misuse(change, message):
    with pytest.raises(ValueError, match=message):
        empirical_variogram(**{"lon": np.arange(3.0), "lat": np.zeros(3), "values": np.arange(3.0)} | change)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="gaussian"):
        fit_variogram(EmpiricalVariogram(np.ones(2), np.ones(2), np.ones(2)), "gaussian")
