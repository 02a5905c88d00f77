"""SOC stocks: fixed depth and equivalent soil mass against a published program's output, hand-worked numbers and Monte Carlo."""

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED

from soilcarbon.soil.density import soc_density_sd
from soilcarbon.soil.depth import Horizons
from soilcarbon.soil.stocks import (
    GAP,
    OVERLAP,
    SHORT,
    SURFACE,
    Cores,
    ErrorPropagation,
    Layers,
    equivalent_mass_stocks,
    fine_soil_density,
    fixed_depth_stocks,
    smallest_masses,
)

EXAMPLE = SHARED / "realdata2" / "esm_example"
needs_example = pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the worked example (CeCILL-C) is not beside the checkout")


def layers(limits, values, sd=0.0, core=0, cores=1):
    limits = np.asarray(limits, float)
    return Layers.of(Horizons(np.full(len(limits) - 1, core), limits[:-1], limits[1:], cores), np.asarray(values, float), sd)


def one_core(soc=(20.0, 10.0), bulk_density=(1300.0, 1500.0), limits=(0, 10, 30), **more):
    return Cores(layers(limits, soc, more.pop("soc_sd", 0.0)), layers(limits, bulk_density, more.pop("bd_sd", 0.0)), **more)


# --- the worked example ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    soc, density = (pd.read_csv(EXAMPLE / name) for name in ("concentrations.csv", "bulk_density.csv"))
    names = [f"{c}_{p}_{i}" for c, p, i in soc[["Campaign", "Plot", "Point"]].drop_duplicates().itertuples(index=False)]

    def read(table, column):
        core = (table["Campaign"] + "_" + table["Plot"] + "_" + table["Point"]).map(names.index).to_numpy()
        horizons = Horizons(core, -table["Upper_cm"].to_numpy(float), -table["Lower_cm"].to_numpy(float), len(names))
        return Layers.of(horizons, table[column].to_numpy(float))

    density["bd"] = density["BD_g_cm3"] * 1000
    expected = pd.read_csv(EXAMPLE / "stocks.csv")
    reference = pd.read_csv(EXAMPLE / "reference_mass.csv")["Ref_soil_mass_t_ha"].cumsum().to_numpy(float)

    def wanted(method, column):
        return np.stack([expected[(expected["core"] == name) & (expected["method"] == method)][column] for name in names])

    return Cores(read(soc, "SOC_g_kg"), read(density, "bd")), reference, wanted


@needs_example
def test_fixed_depth_of_the_example(example):
    cores, _, wanted = example
    found = fixed_depth_stocks(cores, np.array([10.0, 20.0, 35.0, 40.0, 60.0]))
    np.testing.assert_allclose(found.stock, wanted("FD", "soc_stock_cum_t_ha"), rtol=1e-12)
    np.testing.assert_allclose(found.layer, wanted("FD", "soc_stock_t_ha"), rtol=1e-11)
    np.testing.assert_allclose(found.mass, wanted("FD", "soil_mass_cum_t_ha"), rtol=1e-12)


@needs_example
def test_spline_at_equivalent_mass_of_the_example(example):
    cores, reference, wanted = example
    found = equivalent_mass_stocks(cores, reference, "spline")
    np.testing.assert_allclose(found.stock, wanted("ESM2_hyman_spline", "soc_stock_cum_t_ha"), rtol=1e-12)
    np.testing.assert_allclose(found.layer, wanted("ESM2_hyman_spline", "soc_stock_t_ha"), rtol=1e-11)
    np.testing.assert_allclose(found.depth, wanted("ESM2_hyman_spline", "lower_cm"), rtol=1e-12)


@needs_example
def test_linear_at_equivalent_mass_of_the_example(example):
    cores, reference, wanted = example
    found = equivalent_mass_stocks(cores, reference, "linear")
    exact = wanted("ESM2_hyman_spline", "linear_exact_soc_stock_cum_t_ha")
    np.testing.assert_allclose(found.stock, exact, rtol=1e-12)


@needs_example
def test_steps_of_a_millimetre_of_the_example(example):
    cores, reference, wanted = example
    depths = np.arange(1, 601) / 10
    every = fixed_depth_stocks(cores, depths)
    for core in range(len(cores)):
        last = np.searchsorted(every.mass[core], reference * (1 + 1e-9), side="right") - 1  # not above the reference
        np.testing.assert_allclose(every.stock[core, last], wanted("ESM1_mm_steps", "soc_stock_cum_t_ha")[core], rtol=1e-12)
        np.testing.assert_allclose(depths[last], wanted("ESM1_mm_steps", "lower_cm")[core], rtol=1e-12)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_fixed_depth_cuts_a_layer_and_subtracts_stones():
    cores = one_core(stones=layers((0, 10, 30), (0.0, 20.0)))
    found = fixed_depth_stocks(cores, np.array([10.0, 25.0]))
    np.testing.assert_allclose(found.stock, [[26.0, 26.0 + 10 * 1500 * 0.8 * 15 * 1e-4]])
    np.testing.assert_allclose(found.layer, [[26.0, 18.0]])
    np.testing.assert_allclose(found.mass, [[1300.0, 3100.0]])
    np.testing.assert_allclose(found.kg_m2, [[2.6, 4.4]])


def test_compaction_changes_the_fixed_depth_stock_and_not_that_at_equivalent_mass():
    before = one_core((20.0, 10.0, 5.0), (1200.0, 1400.0, 1500.0), (0, 10, 30, 60))
    after = one_core((20.0, 10.0, 5.0), (1200 / 0.8, 1400 / 0.8, 1500.0), (0, 8, 24, 54))  # the same soil in fewer centimetres
    depth, mass = np.array([30.0]), np.array([1200 + 2800.0])
    assert fixed_depth_stocks(after, depth).stock[0, 0] - fixed_depth_stocks(before, depth).stock[0, 0] == pytest.approx(4.5)
    for method in ("linear", "spline"):
        same = [equivalent_mass_stocks(each, mass, method) for each in (before, after)]
        assert same[0].stock[0, 0] == pytest.approx(52.0) == same[1].stock[0, 0]
        assert [each.depth[0, 0] for each in same] == pytest.approx([30.0, 24.0])


def test_equivalent_mineral_mass_leaves_organic_matter_out():
    cores = one_core((58.0, 0.0), (1000.0, 1000.0), (0, 10, 20))
    found = equivalent_mass_stocks(cores, np.array([900.0, 1400.0]), "linear", mass="mineral")
    np.testing.assert_allclose(found.depth, [[10.0, 15.0]])  # 1000 t/ha of soil have 100 of organic matter
    np.testing.assert_allclose(found.stock, [[58.0, 58.0]])


@pytest.mark.parametrize(
    ("of", "by_mass", "expected"),
    [
        ("fine_earth", False, 1300 * 0.8),
        ("fine_earth", True, 0.8 / (0.8 / 1300 + 0.2 / 2650)),  # a kilogram of soil has 0.8 of fine earth
        ("fine_mass", False, 1300),
        ("fine_mass", True, 1300),
        ("whole_soil", True, 1300 * 0.8),
        ("whole_soil", False, 1300 - 0.2 * 2650),
    ],
)
def test_fine_soil_density_by_definition_of_bulk_density(of, by_mass, expected):
    assert fine_soil_density(np.array([1300.0]), np.array([20.0]), of, by_mass)[0] == pytest.approx(expected)


def test_cores_too_short_with_gaps_or_without_a_surface_have_no_stock():
    top, bottom = np.array([0.0, 10, 0, 20, 10, 0]), np.array([10.0, 30, 10, 40, 30, 10])
    core = np.array([0, 0, 1, 1, 2, 4])
    horizons = Horizons(core, top, bottom, 5)
    density = np.full(6, 1000.0)
    cores = Cores(Layers.of(horizons, np.full(6, 10.0)), Layers.of(horizons, density))
    found = fixed_depth_stocks(cores, np.array([10.0, 40.0]))
    assert found.reason.tolist() == [["", SHORT], ["", GAP], [SURFACE] * 2, [SURFACE] * 2, ["", SHORT]]
    np.testing.assert_array_equal(np.isnan(found.stock), found.reason != "")
    assert found.total_depth.tolist() == [30, 10, 0, 0, 10]
    at_mass = equivalent_mass_stocks(cores, np.array([1000.0, 3000.0]), "linear")
    assert at_mass.reason.tolist() == [["", ""], ["", GAP], [SURFACE] * 2, [SURFACE] * 2, ["", SHORT]]


def test_the_core_that_sets_the_reference_reaches_it():
    random = np.random.default_rng(5)
    n = 40
    horizons = Horizons(np.repeat(np.arange(n), 4), np.tile([0.0, 10, 20, 30], n), np.tile([10.0, 20, 30, 50], n), n)
    cores = Cores(Layers.of(horizons, random.uniform(3, 30, 4 * n)), Layers.of(horizons, random.uniform(900, 1700, 4 * n)))
    own = fixed_depth_stocks(cores, np.array([30.0, 50.0]))
    for method in ("linear", "spline"):
        found = equivalent_mass_stocks(cores, smallest_masses(own.mass), method)
        assert not np.isnan(found.stock).any()
        lightest = own.mass.argmin(axis=0)
        np.testing.assert_allclose(found.stock[lightest, [0, 1]], own.stock[lightest, [0, 1]])


def test_repeated_layers_are_averaged_and_cores_of_overlapping_ones_left_out():
    twice = Horizons(np.zeros(3, int), np.array([0.0, 0, 10]), np.array([10.0, 10, 20]), 1)
    assert Layers.of(twice, np.array([10.0, 30.0, 5.0])).value.tolist() == [20.0, 5.0]
    overlap = Horizons(np.zeros(2, int), np.array([0.0, 5]), np.array([10.0, 20]), 1)
    layer = Layers.of(overlap, np.array([1.0, 2.0]))
    assert fixed_depth_stocks(Cores(layer, layer), np.array([10.0])).reason.tolist() == [[OVERLAP]]


@pytest.mark.parametrize("wanted", [[20.0, 10.0], [0.0], [], [np.inf]])
def test_depths_and_masses_must_increase(wanted):
    for function in (fixed_depth_stocks, equivalent_mass_stocks):
        with pytest.raises(ValueError, match="above the one before"):
            function(one_core(), np.array(wanted))


def test_a_layer_of_stones_only_has_no_stock():
    cores = one_core((20.0, 10.0, 5.0), (1300.0,) * 3, (0, 10, 20, 30), stones=layers((0, 10, 20, 30), (0.0, 100.0, 0.0)))
    for method in ("linear", "spline"):
        assert equivalent_mass_stocks(cores, np.array([2600.0]), method).stock[0, 0] == pytest.approx(26 + 6.5)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_at_fixed_depth_by_hand():
    cores = one_core(soc_sd=np.array([2.0, 1.0]))
    independent = fixed_depth_stocks(cores, np.array([10.0, 30.0]))
    np.testing.assert_allclose(independent.sd, [[2.6, np.hypot(2.6, 3.0)]])
    np.testing.assert_allclose(independent.layer_sd, [[2.6, 3.0]])
    alike = fixed_depth_stocks(cores, np.array([10.0, 30.0]), ErrorPropagation(correlation=1.0))
    np.testing.assert_allclose(alike.sd, [[2.6, 5.6]])
    assert np.isnan(fixed_depth_stocks(one_core(), np.array([10.0])).sd).all()
    for errors in (ErrorPropagation(), ErrorPropagation(draws=1000)):  # of an error that is not known
        found = fixed_depth_stocks(one_core(soc_sd=np.array([2.0, np.nan])), np.array([10.0, 30.0]), errors)
        np.testing.assert_allclose(found.sd, [[2.6, np.nan]], rtol=0.1)


def test_errors_of_one_layer_are_those_of_densities():
    given = 20.0, 1300.0, 10.0, 15.0, 2.0, 130.0, 5.0
    limits = (0, 10)
    cores = Cores(layers(limits, [20.0], 2.0), layers(limits, [1300.0], 130.0), layers(limits, [15.0], 5.0))
    found = fixed_depth_stocks(cores, np.array([10.0]))
    assert found.sd[0, 0] == pytest.approx(10 * soc_density_sd(*given), rel=1e-4)


def test_at_equivalent_mass_errors_of_bulk_density_cancel_in_uniform_soil():
    cores = one_core((10.0, 10.0), (1300.0, 1500.0), bd_sd=130.0)
    assert equivalent_mass_stocks(cores, np.array([2000.0]), "linear").sd[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert fixed_depth_stocks(cores, np.array([20.0])).sd[0, 0] == pytest.approx(np.hypot(1.3, 1.3))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("method", ["fixed", "linear", "spline"])
def test_delta_method_and_monte_carlo_agree(method, correlation):
    limits = (0, 10, 20, 40, 70)
    soc, density = np.array([25.0, 18.0, 9.0, 4.0]), np.array([1150.0, 1300.0, 1450.0, 1500.0])
    stones = layers(limits, [10.0, 10.0, 15.0, 20.0], 2.0)
    cores = Cores(layers(limits, soc, 0.06 * soc), layers(limits, density, 0.05 * density), stones)

    def run(errors):
        if method == "fixed":
            return fixed_depth_stocks(cores, np.array([15.0, 30.0, 60.0]), errors)
        return equivalent_mass_stocks(cores, np.array([1500.0, 3300.0, 6500.0]), method, errors)

    exact, drawn = run(ErrorPropagation(correlation)), run(ErrorPropagation(correlation, draws=20_000))
    np.testing.assert_allclose(drawn.sd, exact.sd, rtol=0.04)
    np.testing.assert_allclose(drawn.layer_sd, exact.layer_sd, rtol=0.04)
    np.testing.assert_array_equal(drawn.stock, exact.stock)
