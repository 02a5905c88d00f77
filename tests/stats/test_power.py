"""Power, minimum detectable change and required places: Cohen's published numbers, hand-worked strata, and simulation."""

import numpy as np
import pytest
from scipy import stats

from soilcarbon.stats.power import minimum_detectable_change, paired_survey, required_places, survey_power, unpaired_survey


@pytest.mark.parametrize(
    ("survey", "effect", "confidence", "sides", "expected"),
    [  # Cohen 1988, as tabulated by G*Power and R's pwr
        (unpaired_survey(1.0), 0.2, 0.95, "two", 394),
        (unpaired_survey(1.0), 0.5, 0.95, "two", 64),
        (unpaired_survey(1.0), 0.8, 0.95, "two", 26),
        (unpaired_survey(1.0), 0.5, 0.95, "one", 51),
        (paired_survey(1.0), 0.5, 0.95, "two", 34),
        (paired_survey(1.0), 0.5, 0.95, "one", 27),
        (paired_survey(1.0), 0.2, 0.95, "two", 199),
        (paired_survey(1.0), 0.8, 0.95, "two", 15),
    ],
)
def test_published_numbers_of_places(survey, effect, confidence, sides, expected):
    assert required_places(survey, effect, 0.8, confidence, sides).places == expected


def test_scale_sign_and_correlation():
    plan = required_places(paired_survey(sd=10.0, sd_after=10.0, correlation=0.5), -5.0, 0.8, 0.95)
    assert plan.places == 34  # sd of differences 10
    assert paired_survey(sd=3.0, sd_after=4.0, correlation=0.0).sds == pytest.approx(np.array([[5.0]]))


def test_required_places_and_detectable_change_are_inverse():
    for survey in (paired_survey(7.0), unpaired_survey([3.0, 9.0], shares=[3, 1], allocation="neyman")):
        for sides in ("one", "two"):
            found = minimum_detectable_change(survey, 41, 0.8, 0.9, sides)
            assert survey_power(survey, 41, found.change, 0.9, sides) == pytest.approx(0.8, abs=1e-8)
            assert required_places(survey, found.change * 1.0001, 0.8, 0.9, sides).places == 41
            assert required_places(survey, found.change * 0.999, 0.8, 0.9, sides).places > 41


def test_allocation_and_standard_error_by_hand():
    given = {"shares": [0.5, 0.3, 0.2], "sd": [10.0, 20.0, 5.0]}
    proportional, neyman = (unpaired_survey(**given, allocation=each) for each in ("proportional", "neyman"))
    assert proportional.allocate(60).tolist() == [30, 18, 12]
    assert neyman.allocate(60).tolist() == [25, 30, 5]  # 5 : 6 : 1
    terms = 0.25 * 100 / 25 + 0.09 * 400 / 30 + 0.04 * 25 / 5
    assert neyman.standard_error(60) == pytest.approx(np.sqrt(2 * terms))
    assert neyman.standard_error(60) < proportional.standard_error(60)
    assert neyman.df(60) == pytest.approx(2 * (60 - 3))


def test_finite_population_by_hand():
    survey = paired_survey(10.0, population=100)
    assert survey.standard_error(50) == pytest.approx(10 / np.sqrt(50) * np.sqrt(0.5))
    assert survey.standard_error(100) == 0
    assert survey_power(survey, 100, 0.1) == 1
    assert required_places(survey, 2.0).places < required_places(paired_survey(10.0), 2.0).places


@pytest.mark.parametrize("seed", range(30))
def test_allocations_add_up_and_keep_their_bounds(seed):
    random = np.random.default_rng(seed)
    strata = int(random.integers(1, 7))
    population = random.integers(2, 40, strata)
    survey = unpaired_survey(
        random.exponential(5.0, strata).tolist(),
        shares=random.exponential(1.0, strata).tolist(),
        population=population.tolist(),
        allocation="neyman" if seed % 2 else "proportional",
    )
    for places in range(2 * strata, int(population.sum()) + 1):
        found = survey.allocate(places)
        assert found.sum() == places
        assert (found >= 2).all() and (found <= population).all()


SURVEYS = {
    "simple": unpaired_survey(8.0),
    "other spread": unpaired_survey(4.0, sd_after=9.0),
    "paired": paired_survey(sd=8.0, correlation=0.6),
    "stratified, proportional": unpaired_survey([4.0, 12.0], shares=[0.7, 0.3]),
    "stratified, Neyman": unpaired_survey([4.0, 12.0], shares=[0.7, 0.3], allocation="neyman"),
    "stratified, paired": paired_survey([3.0, 6.0, 9.0], shares=[0.5, 0.3, 0.2], allocation="neyman"),
}


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("places", [8, 30])
@pytest.mark.parametrize("name", SURVEYS)
def test_power_is_that_of_simulated_surveys(name, places, sides):
    """Surveys are drawn, their change tested as `stats.change` does, and the share that finds it is the power."""
    survey, draws, random = SURVEYS[name], 4000, np.random.default_rng(7)
    plan = minimum_detectable_change(survey, places, 0.7, 0.9, sides)
    change, variances = np.zeros(draws), np.zeros((len(survey.sds), draws))
    for h, n in enumerate(plan.by_stratum):
        for visit, sd in enumerate(survey.sds[:, h]):
            last = visit == len(survey.sds) - 1
            values = random.normal(plan.change if last else 0.0, sd, (draws, n))
            change += survey.shares[h] * values.mean(axis=1) * (1 if last else -1)
            variances[visit] += survey.shares[h] ** 2 * values.var(axis=1, ddof=1) / n
    total = variances.sum(axis=0)
    df = (places - len(survey.shares)) / ((variances / total) ** 2).sum(axis=0)
    low = change - stats.t.ppf(0.95 if sides == "two" else 0.9, df) * np.sqrt(total)
    assert np.mean(low > 0) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_survey(), "give the standard deviation of differences"),
        (lambda: paired_survey(3.0, sd=2.0, correlation=0.1), "give the standard deviation of differences"),
        (lambda: paired_survey(sd=2.0, correlation=1.5), "from -1 to 1"),
        (lambda: unpaired_survey([1.0, 2.0]), "shares of as many strata"),
        (lambda: unpaired_survey(-1.0), "0 or more"),
        (lambda: unpaired_survey(1.0, population=1), "two places or more"),
        (lambda: required_places(paired_survey(1.0), 0.0), "cannot be detected"),
        (lambda: required_places(paired_survey(1.0), 1.0, power=0.05), "that of chance"),
        (lambda: required_places(paired_survey(1.0), 1e-6), "more than 10000000 places"),
        (lambda: minimum_detectable_change(unpaired_survey([1, 1], shares=[1, 1]), 3), "two a stratum"),
        (lambda: minimum_detectable_change(paired_survey(1.0), 10, power=1.0), "below 1"),
        (lambda: required_places(paired_survey(1.0), 1.0, confidence=90), "confidence 90 must lie between 0 and 1"),
    ],
)
def test_impossible_plans_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
