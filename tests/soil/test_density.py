"""SOC content to density: the equation and its units, its errors, depth intervals."""

import numpy as np
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.soil.bulk_density import PARTICLE_DENSITY, stones_by_volume
from soilcarbon.soil.density import STANDARD_LAYERS, Measured, interval_densities, soc_density, soc_density_sd
from soilcarbon.soil.depth import IMPOSSIBLE_MEANS, Horizons, harmonise


def densities(
    profile, top, bottom, soc, bulk_density, stones, intervals, profiles, units=("g/kg", "kg/m3"), sd=(0, 0, 0), **options
):
    """Return the densities of flat arrays."""
    measured = map(Measured, (soc, bulk_density, stones), (*units, "percent"), sd)
    return interval_densities(Horizons(profile, top, bottom, profiles), *measured, intervals, **options)


def columns(*rows):
    """Return rows of profile, top, bottom, soc, bulk density, stones as arrays."""
    profile, *others = np.array(rows, float).T
    return profile.astype(int), *others


# --- units and the equation ----------------------------------------------------------------------------------------


def test_one_per_cent_in_twenty_centimetres():
    soc, earth = Measured(np.array([1.0]), "%").possible("soc"), Measured(np.array([1.3]), "g/cm3").possible("bulk_density")
    stones = np.array([0.0, 25.0, 100.0])  # 1 % of 1.3 g in each of 20 cm3 is 0.26 g/cm2, 2.6 kg/m2
    np.testing.assert_allclose(soc_density(soc, earth, 20.0, stones), [2.6, 2.6 * 0.75, 0], atol=1e-12)


def test_deviation_is_that_of_drawn_values():
    assert soc_density_sd(0.0, 1000.0, 10.0, 0.0, 2.0, 100.0, 5.0) == pytest.approx(0.2)  # of SOC alone: 2 g/kg in 10 cm
    assert soc_density_sd(10.0, 1000.0, 10.0, 0.0, 0.0, 0.0, 10.0) == pytest.approx(0.1)  # stones unknown by 10 of 100
    rng = np.random.default_rng(0)
    for case in range(8):
        mean = rng.uniform(5, 60), rng.uniform(900, 1600), rng.uniform(15, 60)  # stones below 100 in all draws
        sd = mean[0] * rng.uniform(0.02, 0.3), mean[1] * rng.uniform(0.02, 0.2), rng.uniform(1, 8)
        if case < 3:  # each of the three alone
            sd = tuple(each if k == case else 0.0 for k, each in enumerate(sd))
        drawn = [rng.normal(a, b, 400_000) for a, b in zip(mean, sd, strict=True)]
        truth = soc_density(drawn[0], drawn[1], 30.0, drawn[2])
        found = soc_density_sd(mean[0], mean[1], 30.0, mean[2], *sd)
        assert found == pytest.approx(truth.std(), rel=0.03)
        assert soc_density(mean[0], mean[1], 30.0, mean[2]) == pytest.approx(truth.mean(), rel=0.005)


# --- intervals -----------------------------------------------------------------------------------------------------


def test_density_of_an_interval_by_hand():
    horizons = columns((0, 0, 10, 20, 1000, 0), (0, 10, 40, 10, 1500, 20))
    found = densities(*horizons, [(0, 20), (0, 100)], 1)
    assert found.density[0, 0] == pytest.approx(0.020 * 1000 * 0.1 + 0.010 * 1500 * 0.1 * 0.8)
    assert np.isnan(found.density[0, 1])
    assert found.interval_counts == [{"profiles": 1}, {"with fewer than 100 cm observed, left out": 1}]
    partly = densities(*horizons, [(0, 100)], 1, min_covered=40)
    assert partly.density[0, 0] == pytest.approx(0.020 * 1000 * 0.1 + 0.010 * 1500 * 0.3 * 0.8)
    assert (partly.reach[0, 0], partly.covered[0, 0]) == (40, 40)
    assert np.isnan(densities(*horizons, [(0, 100)], 1, min_covered=41).density).all()


@pytest.mark.parametrize("method", ["mean", "spline"])
@pytest.mark.parametrize("multiply", ["horizons", "intervals", "layers"])
def test_units_and_order_do_not_change_a_density(method, multiply):
    rng = np.random.default_rng(4)
    profile = np.repeat(np.arange(30), 3)
    top = np.tile([0.0, 12, 40], 30)
    soc, earth, stones = rng.uniform(5, 200, 90), rng.uniform(800, 1600, 90), rng.uniform(0, 60, 90)
    options = {"method": method, "multiply": multiply}
    intervals = [(0, 20), (5, 60)]
    found = densities(profile, top, top + 30, soc, earth, stones, intervals, 30, sd=(soc / 10, 50.0, 5.0), **options)
    mixed = rng.permutation(90)
    rows = (each[mixed] for each in (profile, top, top + 30, soc / 10, earth / 1000, stones))
    other = densities(*rows, intervals, 30, units=("%", "g/cm3"), sd=((soc / 100)[mixed], 0.05, 5.0), **options)
    assert np.isfinite(found.density).all()
    np.testing.assert_allclose(other.density, found.density)
    np.testing.assert_allclose(other.sd, found.sd)


def test_carbon_of_horizons_is_kept_where_products_of_means_overstate_it():
    horizons = columns((0, 0, 5, 400, 200, 0), (0, 5, 30, 20, 1300, 0))
    truth = 0.4 * 200 * 0.05 + 0.02 * 1300 * 0.25
    assert densities(*horizons, [(0, 30)], 1).density[0, 0] == pytest.approx(truth)
    exact = densities(*horizons, [(0, 30)], 1, method="spline", smoothing=0.0)
    assert exact.density[0, 0] == pytest.approx(truth)
    means = densities(*horizons, [(0, 30)], 1, multiply="intervals").density[0, 0]
    assert means == pytest.approx((400 * 5 + 20 * 25) / 30 * (200 * 5 + 1300 * 25) / 30 * 30e-5)
    assert means > 2.5 * truth


@pytest.mark.parametrize("multiply", ["horizons", "intervals", "layers"])
def test_deviation_of_an_interval(multiply):
    horizons = columns((0, 0, 10, 20, 1000, 10), (0, 10, 30, 20, 1000, 10))
    found = densities(*horizons, [(0, 30)], 1, sd=(2.0, 100.0, 9.0), multiply=multiply)
    # relative errors of 0.1, 0.1 and 9 / 90, the same in both horizons
    assert found.sd[0, 0] == pytest.approx(found.density[0, 0] * 0.1 * np.sqrt(3))
    assert densities(*horizons, [(0, 30)], 1, multiply=multiply).sd[0, 0] == 0
    not_known = np.full(len(horizons[0]), 2.0)
    not_known[0] = np.nan
    assert np.isnan(densities(*horizons, [(0, 30)], 1, sd=(not_known, 100.0, 9.0), multiply=multiply).sd[0, 0])


def test_layers_are_weighted_as_the_paper_does():
    rng = np.random.default_rng(8)
    profile = np.repeat(np.arange(40), 4)
    limits = np.cumsum(rng.uniform(5, 50, (40, 5)), axis=1) - 5
    top, bottom = limits[:, :4].ravel() - limits[:, :1].repeat(4, axis=1).ravel(), (limits[:, 1:] - limits[:, :1]).ravel()
    soc, earth, stones = rng.uniform(5, 60, 160), rng.uniform(800, 1600, 160), rng.uniform(0, 60, 160)
    measured = soc, earth, stones
    found = densities(profile, top, bottom, *measured, [(0, 20), (0, 100)], 40, method="spline", multiply="layers")
    means = [harmonise(Horizons(profile, top, bottom, 40), each, STANDARD_LAYERS, "spline").mean for each in measured]
    for k, weights, thickness in ((0, [1 / 4, 1 / 2, 1 / 4, 0, 0], 20), (1, [1 / 20, 1 / 10, 3 / 20, 3 / 10, 2 / 5], 100)):
        of_soc, of_earth, of_stones = (np.nan_to_num(mean) @ weights for mean in means)
        known = np.isfinite(found.density[:, k])
        assert known.sum() > 5
        np.testing.assert_allclose(found.density[known, k], (of_soc * of_earth * thickness * (1 - of_stones / 100) * 1e-5)[known])


def test_what_is_missing_or_impossible_is_counted_and_flagged():
    horizons = columns(
        (0, 0, 10, 10, 1200, 0),
        (0, 10, 20, 10, np.nan, np.nan),
        (1, 0, 20, 10, 99, 120),  # lighter than peat, more stones than soil
        (2, 0, 20, np.nan, 1200, 0),
        (3, 0, 20, -9999, 1200, 0),
        (4, 0, 20, 10, 2651, -1),
        (5, 0, 20, 10, 1000, 0),
        (5, 25, 30, np.inf, 1000, 0),
        (6, 0, 20, 10, 1000, 0),
        (7, 0, 0, 10, 1000, 0),
    )
    sd = np.where(np.isin(horizons[0], [2, 3]), 99.0, 3.0)  # large where SOC is not known
    found = densities(*horizons, [(0, 20)], 8, sd=(0, 0, sd))
    assert found.counts == {
        "horizons": 10,
        "SOC missing": 1,
        "SOC impossible": 2,
        "bulk density missing": 1,
        "bulk density impossible": 2,
        "coarse fragments missing": 1,
        "coarse fragments impossible": 2,
        "bulk density estimated": 3,
        "coarse fragments taken as none": 3,
        "depth missing or impossible": 1,
    }
    assert found.interval_counts == [{"profiles": 5, "without a horizon in it": 3}]
    np.testing.assert_array_equal(found.estimated[:, 0], [0.5, 1, np.nan, np.nan, 1, 0, 0, np.nan])
    np.testing.assert_array_equal(found.stones_assumed[:, 0], found.estimated[:, 0])
    assert found.pedotransfer is None
    assert found.density[1, 0] == pytest.approx(10 * (1660 - 318) * 20e-5)
    estimated = np.hypot(10 * 260 * 20e-5, found.density[1, 0] * 0.03)
    np.testing.assert_allclose(found.sd[[1, 4, 5, 6], 0], [estimated, estimated, 0.06, 0.06])


def test_own_horizons_estimate_what_they_lack():
    rng = np.random.default_rng(5)
    profile, soc = np.repeat(np.arange(150), 3), rng.lognormal(2.3, 0.8, 450).clip(1, 79)
    truth = 1700 - 250 * np.log1p(soc / 10) + rng.normal(0, 120, 450)
    measured = np.where(profile < 100, truth, np.nan)
    top = np.tile([0.0, 10, 20], 150)
    found = densities(profile, top, top + 10, soc, measured, np.zeros(450), [(0, 30)], 150)
    assert found.pedotransfer.horizons == 300
    assert found.counts["bulk density estimated"] == 150
    real = np.bincount(profile, soc * truth * 10e-5)
    np.testing.assert_allclose(found.density[:100, 0], real[:100])
    error = found.density[100:, 0] - real[100:]
    assert abs(error.mean()) < 0.05 * real.mean()
    assert np.abs(error).max() < 4 * found.sd[100:, 0].max()
    assert (found.sd[100:, 0] > 0).all()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (
            ("g/kg", "g/cm3"),
            "4 of 4 values .first 1200. are no bulk density in g/cm3 .*look like kg/m3: --units bulk_density=kg/m3 says so",
        ),
        (("%", "kg/m3"), "3 of 4 values .first 150. are no SOC in % .*look like g/kg or dg/kg: --units soc=g/kg or dg/kg says so"),
        (("kg/m3", "kg/m3"), "SOC: unit 'kg/m3' is none of g/kg"),
        (("furlong", "kg/m3"), "'furlong' is none of"),
    ],
)
def test_a_wrong_unit_is_refused(units, message):
    horizons = columns((0, 0, 10, 150, 1200, 0), (0, 10, 20, 120, 1200, 0), (1, 0, 20, 300, 1200, 0), (1, 20, 30, 90, 1200, 0))
    with pytest.raises((ValueError, UserError), match=message):
        densities(*horizons, [(0, 20)], 2, units)


def test_zeros_for_missing_bulk_density_are_no_wrong_unit_and_no_horizons_no_error():
    horizons = columns((0, 0, 10, 15, 0, 0), (0, 10, 20, 12, 0, 0), (1, 0, 20, 30, 1200, 0))
    found = densities(*horizons, [(0, 20)], 2)
    assert found.counts["bulk density impossible"] == found.counts["bulk density estimated"] == 2
    nothing = np.zeros(0)
    found = densities(nothing.astype(int), *[nothing] * 5, [(0, 20)], 2)
    assert np.isnan(found.density).all()
    assert found.interval_counts == [{"without a horizon in it": 2}]


@pytest.mark.parametrize("multiply", ["horizons", "intervals", "layers"])
def test_density_is_never_zero_where_the_spline_overshoots(multiply):
    horizons = Horizons(np.zeros(3, int), np.array([0.0, 10, 12]), np.array([10.0, 12, 60]), 1)
    soc = Measured(np.array([400.0, 1, 2]), "g/kg")
    earth, rock = Measured(np.full(3, 1.0), "g/cm3"), Measured(np.zeros(3), "percent")
    through = [(15.0, 30.0)] if multiply == "layers" else [(12.0, 20.0)]
    by_spline, by_mean = (
        interval_densities(horizons, soc, earth, rock, through, multiply=multiply, method=method, smoothing=0.0)
        for method in ("spline", "mean")
    )
    assert by_spline.density == pytest.approx(by_mean.density)
    assert sum(count for what, count in by_spline.counts.items() if IMPOSSIBLE_MEANS in what) == 1


def test_stones_by_mass_fill_less_than_their_share_of_the_mass():
    by_mass, earth = np.array([0.0, 20.0, 60.0]), np.array([1300.0, 1300.0, 1000.0])
    found = stones_by_volume(by_mass, earth)
    volume = by_mass / PARTICLE_DENSITY, (100 - by_mass) / earth
    np.testing.assert_allclose(found, 100 * volume[0] / (volume[0] + volume[1]))
    horizons = Horizons(np.array([0]), np.array([0.0]), np.array([30.0]), 1)
    measured = Measured(np.array([20.0]), "g/kg"), Measured(np.array([1.3]), "g/cm3")
    of_mass = interval_densities(horizons, *measured, Measured(np.array([20.0]), "mass_percent"), [(0, 30)])
    of_volume = interval_densities(horizons, *measured, Measured(found[1:2], "percent"), [(0, 30)])
    assert of_mass.density == pytest.approx(of_volume.density)


@pytest.mark.parametrize(("values", "looks"), [([0.4, 0.0, 0.2], "fraction"), ([400.0, 0.0, 350.0], "per_mille")])
def test_stones_in_another_unit_are_asked_about(values, looks):
    with pytest.raises(UserError, match=f"look like .*{looks}.*--units stones="):
        Measured(np.array(values), "percent", stated=False).usable("stones", {})
