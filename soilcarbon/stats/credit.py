"""Credited change: an estimated change less a deduction for its uncertainty, by a stated rule.

In: an estimate with its standard error (`Uncertain`). Out: `Credit`. Carbon standards use either rule in some form;
levels and thresholds differ between standards and are arguments here.

    change = Uncertain(2.4, 0.8, df=39)
    credit(change, "lower_bound", confidence=0.9).credited         # 1.36
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy import stats

Rule = Literal["lower_bound", "discount"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Uncertain:
    """An estimate with its standard error."""

    value: float
    standard_error: float  # in the unit of the value; NaN where it is unknown
    df: float = float("inf")  # degrees of freedom of the t distribution; infinite: a normal distribution

    @classmethod
    def of_interval(cls, value: float, low: float, high: float, level: float) -> "Uncertain":
        """Return the normal estimate whose interval of a level is as wide as that from low to high.

        >>> round(Uncertain.of_interval(5.0, 3.0, 7.0, 0.9).standard_error, 3)
        1.216
        """
        return cls(value, (high - low) / 2 / float(stats.norm.ppf((1 + level) / 2)))

    @property
    def known(self) -> bool:
        """Whether there is a standard error."""
        return bool(np.isfinite(self.standard_error) and self.df > 0)

    def quantile(self, probability: float) -> float:
        """Return the t quantile of a probability, in standard errors; NaN where there is no standard error."""
        return float(stats.t.ppf(probability, self.df)) if self.known else float("nan")

    def probability_below(self, quantile: float) -> float | None:
        """Return the probability of a t quantile, in standard errors; None where it is not defined."""
        return float(stats.t.cdf(quantile, self.df)) if self.known and np.isfinite(quantile) else None

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the two-sided interval."""
        half = self.quantile((1 + level) / 2) * self.standard_error
        return self.value - half, self.value + half

    def times(self, factor: float) -> "Uncertain":
        """Return the estimate in another unit, or as a total: times a positive factor that is known."""
        return replace(self, value=self.value * factor, standard_error=self.standard_error * factor)

    def with_error(self, deviation: float) -> "Uncertain":
        """Return the estimate with a further, independent error of a known standard deviation; Satterthwaite's degrees of freedom.

        >>> found = Uncertain(10.0, 3.0, df=9).with_error(4.0)
        >>> found.standard_error, round(found.df, 1)
        (5.0, 69.4)
        """
        if not (self.known and deviation > 0):
            return self
        variance = self.standard_error**2 + deviation**2
        share = self.standard_error**2 / variance
        df = self.df / share**2 if share > 0 else float("inf")
        return Uncertain(self.value, variance**0.5, df)


@dataclass(frozen=True)
class Credit:
    """A credited change; credited and deducted part are together the change, where that is positive."""

    rule: Rule
    credited: float
    deduction: float
    relative_half_width: float  # of the two-sided interval, as a share of the change; NaN where that is not positive


def credit(
    change: Uncertain, rule: Rule = "lower_bound", confidence: float = 0.9, level: float = 0.9, threshold: float = 0.1
) -> Credit:
    """Deduct from a change for its uncertainty. A change of 0 or less, or one without a standard error, is credited with 0.

    "lower_bound": credited is the one-sided lower limit of the change: with probability `confidence`, 0.5 to 1, it is not above the
    true change. "discount": the half-width of the two-sided interval of `level`, as a share of the change, is deducted as far as it
    exceeds the threshold; how often that is above the true change depends on the half-width, and is not stated by the rule.

    >>> change = Uncertain(10.0, 2.0)
    >>> round(credit(change).credited, 2), round(credit(change, "discount", threshold=0.15).credited, 2)
    (7.44, 8.21)
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: expected {' or '.join(map(repr, RULES))}")
    if not (0.5 <= confidence < 1 and 0 < level < 1 and 0 <= threshold <= 1):
        raise ValueError(f"confidence {confidence:g}: 0.5 to 1; level {level:g}: 0 to 1; threshold {threshold:g}: 0 to 1")
    half = change.quantile((1 + level) / 2) * change.standard_error
    if not change.value > 0:
        return Credit(rule, 0.0, 0.0, float("nan"))
    relative = half / change.value
    if not change.known:
        credited = 0.0
    elif rule == "lower_bound":
        credited = change.value - change.quantile(confidence) * change.standard_error
    else:
        credited = change.value * (1 - max(0.0, relative - threshold))
    credited = min(max(credited, 0.0), change.value)
    return Credit(rule, credited, change.value - credited, relative)
