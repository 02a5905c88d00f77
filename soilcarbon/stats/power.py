"""Planning of a survey of change: power, minimum detectable change and required number of places.

In: standard deviations between places, or of the differences of pairs, by stratum. Out: plain numbers and `Plan`. The test is
Student's (paired) or Welch's (unpaired), and its power that of the non-central t distribution, not the normal approximation, which
promises too much for few places.

    design = paired_survey(sd=12.0, correlation=0.7)
    required_places(design, change=3.0).places
    minimum_detectable_change(design, places=50).change
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from soilcarbon.stats.metrics import check_level
from soilcarbon.stats.sample_selection import allocate

Sides = Literal["two", "one"]
Allocation = Literal["proportional", "neyman"]
_MOST = 10_000_000  # places: more are not asked for
_LARGE = 35.0  # standard errors beyond the critical value: the power is 1, and SciPy's non-central t loses its digits


@dataclass(frozen=True)
class Survey:
    """Design of a survey of two visits; made by `paired_survey` and `unpaired_survey`."""

    sds: np.ndarray  # (V, H) standard deviations in H strata: of differences (V = 1, paired), or of both visits (V = 2, unpaired)
    shares: np.ndarray  # (H,) of the strata in the area, sum 1
    allocation: Allocation  # of places to strata: by their share, or by share x standard deviation ("neyman")
    population: np.ndarray  # (H,) places there are, for the finite population correction; infinite where there is none

    @property
    def paired(self) -> bool:
        """Whether the same places are visited twice."""
        return len(self.sds) == 1

    @property
    def fewest(self) -> int:
        """Places needed for a variance: two a stratum."""
        return 2 * len(self.shares)

    def allocate(self, places: int) -> np.ndarray:
        """Return the places (H,) of each stratum: two at least, none more than there are; else a ValueError.

        >>> unpaired_survey([4.0, 12.0], shares=[0.5, 0.5], allocation="neyman").allocate(40)
        array([10, 30])
        """
        if places < self.fewest or places > self.population.sum():
            raise ValueError(f"{places} places: from {self.fewest} (two a stratum) to {self.population.sum():g} (all there are)")
        spreads = np.sqrt((self.sds**2).sum(axis=0)) if self.allocation == "neyman" else None
        return allocate(places, self.shares, spreads, most=self.population)

    def standard_error(self, places: int) -> float:
        """Return the standard error of the change, with so many places at each visit."""
        return float(np.sqrt(self._variances(places).sum()))

    def df(self, places: int) -> float:
        """Return the degrees of freedom: places minus strata, of both visits by Welch and Satterthwaite."""
        variances, own = self._variances(places), places - len(self.shares)
        if not variances.sum() > 0:
            return float(own * len(variances))
        return float(own / ((variances / variances.sum()) ** 2).sum())

    def _variances(self, places: int) -> np.ndarray:
        each = self.allocate(places)
        return np.asarray((self.shares**2 * self.sds**2 * (1 / each - 1 / self.population)).sum(axis=1))


@dataclass(frozen=True)
class Plan:
    """A survey that detects a change, or the change that a survey detects."""

    places: int  # at each visit
    by_stratum: tuple[int, ...]  # places of each stratum
    change: float  # true change, in the unit of the standard deviations
    power: float  # probability that the test finds it
    standard_error: float  # standard_error, df: of the estimated change
    df: float
    confidence: float  # of the test: with "two" sides 0.9 finds a change whose 90 % interval excludes 0
    sides: Sides  # "one": the one-sided limit excludes 0


def paired_survey(
    sd_difference: float | Sequence[float] | None = None,
    *,
    sd: float | Sequence[float] | None = None,
    sd_after: float | Sequence[float] | None = None,
    correlation: float | Sequence[float] | None = None,
    shares: Sequence[float] | None = None,
    allocation: Allocation = "proportional",
    population: float | Sequence[float] | None = None,
) -> Survey:
    """Survey that visits the same places twice, by the standard deviation of the differences of pairs; one, or (H,) by stratum.

    Instead of it: standard deviations between places at each visit (the second as the first, if not given), and the correlation of
    pairs, which make sqrt(sd^2 + sd_after^2 - 2 correlation sd sd_after). The others are of `Survey`; shares may have any sum.

    >>> paired_survey(sd=10.0, correlation=0.5).sds
    array([[10.]])
    """
    if (sd_difference is None) == (sd is None or correlation is None):
        raise ValueError("give the standard deviation of differences, or that of values and the correlation of pairs")
    if sd_difference is None:
        first, related = np.asarray(sd, float), np.asarray(correlation, float)
        second = first if sd_after is None else np.asarray(sd_after, float)
        if not (np.abs(related) <= 1).all():
            raise ValueError(f"correlation {related}: from -1 to 1")
        sd_difference = np.sqrt(np.maximum(first**2 + second**2 - 2 * related * first * second, 0.0)).tolist()
    return _survey([sd_difference], shares, allocation, population)


def unpaired_survey(
    sd: float | Sequence[float],
    *,
    sd_after: float | Sequence[float] | None = None,
    shares: Sequence[float] | None = None,
    allocation: Allocation = "proportional",
    population: float | Sequence[float] | None = None,
) -> Survey:
    """Survey that draws new places at the second visit, as many as at the first; arguments as of `paired_survey`.

    >>> round(unpaired_survey(10.0).standard_error(50), 2)
    2.0
    """
    return _survey([sd, sd if sd_after is None else sd_after], shares, allocation, population)


def _survey(
    sds: Sequence[float | Sequence[float]],
    shares: Sequence[float] | None,
    allocation: Allocation,
    population: float | Sequence[float] | None,
) -> Survey:
    strata = max([np.size(each) for each in sds] + [1 if shares is None else len(shares)])
    if shares is None and strata > 1:
        raise ValueError(f"{strata} standard deviations need the shares of as many strata")
    each_sd = np.stack([np.broadcast_to(np.asarray(each, float), strata) for each in sds])
    share = np.ones(1) if shares is None else np.asarray(shares, float)
    whole = np.broadcast_to(np.inf if population is None else np.floor(np.asarray(population, float)), strata)
    if len(share) != strata or not (share > 0).all() or not (each_sd >= 0).all() or not np.isfinite(each_sd).all():
        raise ValueError("standard deviations must be 0 or more and shares above 0, one of each for each stratum")
    if not (whole >= 2).all():
        raise ValueError(f"population {whole.tolist()}: two places or more in each stratum")
    return Survey(each_sd, share / share.sum(), allocation, whole)


def power_of_test(effect: float, df: float, confidence: float = 0.9, sides: Sides = "two") -> float:
    """Power of a t test: the probability that it finds a change of `effect` (0 or more) standard errors of its estimate.

    `confidence` is the level of the interval that must exclude 0.

    >>> round(power_of_test(0.5 * 34**0.5, 33, confidence=0.95), 4)  # Cohen: 34 pairs for an effect of 0.5
    0.8078
    """
    check_level(confidence, "confidence")
    critical = float(stats.t.ppf((1 + confidence) / 2 if sides == "two" else confidence, df))
    if effect > critical + _LARGE:
        return 1.0
    found = float(stats.nct.sf(critical, df, effect))
    if sides == "two":
        other = float(stats.nct.cdf(-critical, df, effect))
        found += other if other == other else 0.0
    return min(found, 1.0)


def survey_power(survey: Survey, places: int, change: float, confidence: float = 0.9, sides: Sides = "two") -> float:
    """Power of a survey: the probability that it finds a true change.

    >>> round(survey_power(unpaired_survey(2.0), 64, 1.0, confidence=0.95), 4)  # Cohen: 64 in each group for an effect of 0.5
    0.8015
    """
    error = survey.standard_error(places)
    if error == 0:
        return 1.0 if change else 0.0
    return power_of_test(abs(change) / error, survey.df(places), confidence, sides)


def minimum_detectable_change(
    survey: Survey, places: int, power: float = 0.8, confidence: float = 0.9, sides: Sides = "two"
) -> Plan:
    """Smallest true change that a survey of so many places finds with a given power.

    Raises
    ------
    ValueError
        If the power is not between that of no change and 1, or there are too few places.

    Examples
    --------
    >>> round(minimum_detectable_change(paired_survey(10.0), 34, confidence=0.95).change, 2)
    4.95
    """
    error, df = survey.standard_error(places), survey.df(places)
    change = error * detectable_effect(df, power, confidence, sides)
    return Plan(places, tuple(survey.allocate(places).tolist()), change, power, error, df, confidence, sides)


def detectable_effect(df: float, power: float = 0.8, confidence: float = 0.9, sides: Sides = "two") -> float:
    """Smallest change, in standard errors of its estimate, that a t test finds with a given power.

    >>> round(detectable_effect(30), 2)
    2.54
    """
    if not 1 - confidence < power < 1:
        raise ValueError(f"power {power:g}: above {1 - confidence:.3g}, that of chance, and below 1")
    high = 4.0
    while power_of_test(high, df, confidence, sides) < power:
        high *= 2
    return float(brentq(lambda effect: power_of_test(effect, df, confidence, sides) - power, 0.0, high, xtol=1e-10))


def required_places(survey: Survey, change: float, power: float = 0.8, confidence: float = 0.9, sides: Sides = "two") -> Plan:
    """Fewest places at each visit with which a survey finds a true change with a given power.

    Raises
    ------
    ValueError
        If the change is 0, the power out of range, or more than ten million places would be needed.

    Examples
    --------
    >>> required_places(paired_survey(10.0), 5.0, confidence=0.95).places
    34
    """
    if not 1 - confidence < power < 1:
        raise ValueError(f"power {power:g}: above {1 - confidence:.3g}, that of chance, and below 1")
    if change == 0:
        raise ValueError("a change of 0 cannot be detected")

    def enough(places: int) -> bool:
        return survey_power(survey, places, change, confidence, sides) >= power

    most = int(min(_MOST, survey.population.sum()))
    low, high = survey.fewest, survey.fewest
    while not enough(high):
        if high >= most:
            raise ValueError(f"a change of {change:g} needs more than {most} places")
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    found = survey_power(survey, high, change, confidence, sides)
    by_stratum = tuple(survey.allocate(high).tolist())
    return Plan(high, by_stratum, change, found, survey.standard_error(high), survey.df(high), confidence, sides)
