"""Change between visits: against SciPy's tests, hand-worked strata and blocks, and the coverage of intervals by simulation."""

import numpy as np
import pytest
from conftest import slow_but
from scipy import stats

from soilcarbon.stats.change import difference_of_changes, difference_of_domains, paired_change, rate_per_year, unpaired_change
from soilcarbon.stats.design_based import sampling_design


def visits(n=14, m=14, seed=3):
    random = np.random.default_rng(seed)
    before = random.normal(50, 8, n)
    return before, (before if n == m else random.normal(50, 8, m)) + random.normal(2, 5, m)


def test_paired_change_is_the_paired_t_test():
    before, after = visits()
    found, test = paired_change(before, after, level=0.95, one_sided=0.8), stats.ttest_rel(after, before)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, test.pvalue))
    one = stats.ttest_rel(after, before, alternative="greater").confidence_interval(0.8)
    assert found.least == pytest.approx(one.low)
    assert found.most == pytest.approx(2 * found.change - one.low)
    assert (found.n_before, found.n_after, found.df) == (14, 14, 13)


def test_unpaired_change_is_welchs_t_test():
    before, after = visits(14, 9)
    found, test = unpaired_change(before, after, level=0.95), stats.ttest_ind(after, before, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p, found.df) == pytest.approx((interval.low, interval.high, test.pvalue, test.df))


def test_the_deviations_plan_the_survey():
    before, after = visits()
    found = paired_change(before, after)
    assert found.sd_before == pytest.approx(before.std(ddof=1))
    assert found.sd_difference == pytest.approx((after - before).std(ddof=1))
    implied = found.sd_before**2 + found.sd_after**2 - 2 * found.correlation * found.sd_before * found.sd_after
    assert found.sd_difference**2 == pytest.approx(implied)


def test_strata_by_hand():
    before, after = np.zeros(5), np.array([1.0, 3.0, 2.0, 4.0, 6.0])
    strata = ["a", "a", "b", "b", "b"]
    design = sampling_design(5, strata, {"a": 0.25, "b": 0.75})
    found = paired_change(before, after, design)
    assert found.change == pytest.approx(0.25 * 2 + 0.75 * 4)
    assert found.standard_error == pytest.approx(np.sqrt(0.25**2 * 2 / 2 + 0.75**2 * 4 / 3))
    assert found.df == 3
    both = unpaired_change(before, after, (design, design))
    assert both.standard_error == pytest.approx(found.standard_error)
    assert both.df == pytest.approx(3)  # all of the variance is that of the second visit


def test_finite_populations_by_hand():
    before, after = visits()
    infinite, finite = paired_change(before, after), paired_change(before, after, population={"all": 28})
    assert finite.standard_error == pytest.approx(infinite.standard_error * np.sqrt(0.5))
    assert unpaired_change(before, after, population={"all": 14}).standard_error == pytest.approx(0, abs=1e-12)
    strata = ["a"] * 4 + ["b"] * 10
    design, difference = sampling_design(14, strata, {"a": 1, "b": 1}), after - before
    found = paired_change(before, after, design, population={"a": 8, "b": 1000})
    terms = 0.25 * difference[:4].var(ddof=1) / 4 * 0.5 + 0.25 * difference[4:].var(ddof=1) / 10 * 0.99
    assert found.standard_error == pytest.approx(np.sqrt(terms))
    with pytest.raises(ValueError, match="14 places of a population of 10"):
        paired_change(before, after, population={"all": 10})


@pytest.mark.parametrize("more", [{"sizes": {"a": 1, "b": 1}}, {"weights": np.linspace(1, 5, 14)}])
def test_a_population_without_end_is_none_at_all(more):
    before, after = visits()
    design = sampling_design(14, ["a"] + ["b"] * 13, **more)  # a and b are joined for variances
    found = paired_change(before, after, design, population={"a": 1e9, "b": 1e9})
    assert found.standard_error == pytest.approx(paired_change(before, after, design).standard_error, rel=1e-6)


def test_blocks_shared_by_both_visits_by_hand():
    before, after = np.array([10.0, 12.0, 20.0, 22.0]), np.array([13.0, 13.0, 22.0, 26.0])
    blocks = np.array(["u", "u", "v", "v"])
    found = unpaired_change(before, after, units=(blocks, blocks))
    assert found.change == pytest.approx(2.5)
    assert found.standard_error == pytest.approx(0.5)  # blocks changed by 2 and 3: sd 0.707 / sqrt(2)
    assert found.df == 1
    paired = paired_change(before, after, sampling_design(4, units=blocks))
    assert (paired.standard_error, paired.df) == pytest.approx((0.5, 1))
    assert unpaired_change(before, after).standard_error > 4


def test_a_stratum_of_one_shared_block_is_joined_with_another_for_variances():
    random = np.random.default_rng(0)
    stratum, block, weight = list("aaaaaabbbb"), np.array(list("uuvvwwxxxx")), np.repeat([0.5 / 6, 0.5 / 4], [6, 4])
    before, gain = random.normal(60, 9, 10), random.normal(1, 1, 10)
    drawn = (sampling_design(10, stratum, {"a": 1, "b": 1}),) * 2
    found = unpaired_change(before, before + gain, drawn, units=(block, block))
    effects = [(weight * (gain - (weight * gain).sum()))[block == each].sum() for each in "uvwx"]
    assert (found.change, found.df) == (pytest.approx((weight * gain).sum()), 3)
    assert found.standard_error**2 == pytest.approx(4 / 3 * np.square(effects).sum())


def test_single_places_units_are_welch_without_the_shared_part():
    before, after = visits(12, 10)
    apart = unpaired_change(before, after, units=(np.arange(12), 100 + np.arange(10)))
    assert apart.standard_error == pytest.approx(unpaired_change(before, after).standard_error, rel=0.06)


def test_treatment_against_control():
    control, treated = (paired_change(*visits(10, 10, seed)) for seed in (1, 2))
    found = difference_of_changes(control, treated)
    assert found.change == pytest.approx(treated.change - control.change)
    assert found.standard_error == pytest.approx(np.hypot(treated.standard_error, control.standard_error))
    assert 9 < found.df < 18


def test_rate_per_year():
    found = paired_change(*visits())
    assert rate_per_year(found, 5.0) == pytest.approx((found.change / 5, found.low / 5, found.high / 5))


def test_too_few_places_have_a_change_without_an_interval():
    for found in (
        paired_change(np.array([1.0]), np.array([3.0])),
        unpaired_change(np.array([1.0]), np.array([3.0, 3.0])),
        unpaired_change(np.array([1.0]), np.array([3.0]), units=(np.array(["u"]), np.array(["u"]))),
    ):
        assert found.change == 2.0
        assert np.isnan([found.standard_error, found.low, found.high, found.least, found.p]).all()


def test_no_spread_has_an_interval_of_no_width():
    found = paired_change(np.arange(4.0), np.arange(4.0) + 2)
    assert (found.low, found.change, found.high) == (2.0, 2.0, 2.0)
    same = unpaired_change(np.ones(3), np.full(4, 2.0))
    assert (same.low, same.high, same.df) == (1.0, 1.0, 5.0)


@pytest.mark.parametrize("paired", slow_but([True, False], True))
def test_intervals_hold_the_true_change_as_often_as_they_say(paired):
    random = np.random.default_rng(11)
    held, above = [], []
    for _ in range(700):
        before = random.normal(40, 6, 8)
        after = before + random.normal(3, 4, 8) if paired else random.normal(43, 12, 15)
        found = (paired_change if paired else unpaired_change)(before, after, level=0.8, one_sided=0.7)
        held.append(found.low <= 3 <= found.high)
        above.append(found.least <= 3)
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)
    assert np.mean(above) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("shared", slow_but([True, False], True))
def test_intervals_of_places_in_blocks_hold_where_those_of_single_places_do_not(shared):
    random = np.random.default_rng(1)
    block, draws = np.repeat(np.arange(8), 4), 400
    held = np.zeros(2)
    for _ in range(draws):
        first, own, changed = random.normal(0, 3, 8), random.normal(0, 3, 8), random.normal(0, 1, 8)
        before = 50 + first[block] + random.normal(0, 2, 32)
        after = 52 + ((first if shared else own) + changed)[block] + random.normal(0, 2, 32)
        units = block, block if shared else block + 100
        found = unpaired_change(before, after, units=units), unpaired_change(before, after)
        held += [each.low <= 2 <= each.high for each in found]
    assert held[0] / draws == pytest.approx(0.9, abs=0.035)
    assert abs(held[1] / draws - 0.9) > 0.05


@pytest.mark.parametrize(("before", "after"), [([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0])])
def test_values_that_do_not_fit_are_refused(before, after):
    with pytest.raises(ValueError):
        paired_change(np.array(before), np.array(after))


@pytest.mark.parametrize("wrong", [{"level": 90}, {"one_sided": 0}, {"level": np.nan}])
def test_levels_are_shares(wrong):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        paired_change(*visits(), **wrong)


def test_the_change_of_a_domain_by_the_textbook():
    random = np.random.default_rng(5)
    stratum, inside = np.repeat(["a", "b"], [30, 20]), random.random(50) < 0.4
    before = random.normal(50, 8, 50)
    after = before + np.where(stratum == "a", 6, 1) + random.normal(0, 2, 50)
    sizes, counts = {"a": 300.0, "b": 700.0}, {"a": 30, "b": 20}
    weight = np.array([sizes[each] / counts[each] for each in stratum])

    def by_hand(values):  # Saerndal, Swensson and Wretman 1992, 5.8: the ratio of two totals of the domain
        whole = (weight * inside).sum()
        value = (weight * inside * values).sum() / whole
        z = inside * (values - value)
        return value, sum(sizes[k] ** 2 / counts[k] * z[stratum == k].var(ddof=1) for k in sizes) / whole**2

    design = sampling_design(50, stratum, sizes)
    found, (value, variance) = paired_change(before, after, design, domain=inside), by_hand(after - before)
    assert (found.change, found.standard_error**2) == pytest.approx((value, variance))
    assert (found.n_before, found.before) == (inside.sum(), pytest.approx(by_hand(before)[0]))
    both = unpaired_change(before, after, (design, design), domains=(inside, inside))
    parts = by_hand(before), by_hand(after)
    assert both.change == pytest.approx(value)
    assert both.standard_error**2 == pytest.approx(parts[0][1] + parts[1][1])


def test_domains_of_one_sample_are_not_independent():
    """Strata differ much, and each domain has half of each: the more of a stratum is in one, the less is in the other."""
    random, truth, held, independent = np.random.default_rng(12), 1.0, 0, 0
    for _ in range(300):
        stratum, inside = np.repeat(["a", "b"], 20), random.random(40) < 0.5
        gain = np.where(stratum == "a", 10.0, 0.0) + truth * inside + random.normal(0, 2, 40)
        design = sampling_design(40, stratum, {"a": 1, "b": 1})
        changes = [paired_change(np.zeros(40), gain, design, domain=part) for part in (~inside, inside)]
        found = difference_of_domains(*changes, [(gain, design, ~inside, inside)])
        held += found.low <= truth <= found.high
        apart = difference_of_changes(*changes)
        independent += apart.low <= truth <= apart.high
        assert found.change == pytest.approx(apart.change)
    assert 0.86 <= held / 300 <= 0.95
    assert independent / 300 < 0.85
    both = difference_of_domains(*changes, [(gain, design, ~inside, inside)] * 2)  # as of two independent visits
    assert both.standard_error == pytest.approx(2**0.5 * found.standard_error)
