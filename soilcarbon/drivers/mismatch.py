"""Where a model's drivers differ from the observations': differences, their intervals, and which of them may be named.

In: what the refits of one learner found (`halves.stacked`), the reference first, then the models. Out: `Contrast`s, in numbers.
Words are up to `drivertables`.

An interval is the mean over refits on random halves, plus and minus Student's t times their standard deviation, which is that
of the whole (`halves` says why). A report looks at many differences, and some will seem large by chance. So one is named only if
it is beyond what the largest of all of them reaches by chance, at the level wanted: the distribution of the largest deviation of
any studentised difference over refits is taken from the refits themselves (single-step max-T: Westfall and Young 1993; Romano
and Wolf 2005, Econometrica 73, 1237-1282). The chance that a report on a model that follows the observations' law names
anything is then 1 - level at most; `benchmarks/false_alarms.py` counts it.

Importances and their intervals are told as endless profiles would have taught them (`halves.endless`). Whether a difference is
named is asked of the halves' own importances: what they fall short by is the same for targets of one law, and to make up for it
would only add noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from soilcarbon.drivers.subsampling import endless

EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Interval:
    """A value and its interval; NaN where there is none."""

    value: float
    low: float
    high: float


NOTHING = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Contrast:
    """One difference between a model and the observations.

    Attributes
    ----------
    kind
        "importance" of a driver, or "response" to a variable.
    model, of, zone
        Which model; the driver or variable; `EVERYWHERE` or a zone.
    observed, modelled
        Importance: growth of the squared error of ln carbon when it is permuted within places alike in all else. Response: the
        change of ln carbon over the middle 90 % of places.
    difference
        modelled - observed.
    ratio
        Importance: modelled / observed, where both are above 0 beyond doubt. Response: none.
    observed_rank, modelled_rank
        Importance: the place among all drivers, 1 the foremost. Response: none.
    distance
        Response: root mean square difference of the curves of ln carbon, weighted by the density of places. Importance: none.
    strength
        Largest studentised difference over the one that chance reaches; above 1 it is named.
    """

    kind: str
    model: str
    of: str
    zone: str
    observed: Interval
    modelled: Interval
    difference: Interval
    ratio: Interval
    observed_rank: Interval
    modelled_rank: Interval
    distance: Interval
    strength: float

    @property
    def named(self) -> bool:
        """Whether it may be told of as a mismatch."""
        return self.strength > 1


def interval(values: np.ndarray, level: float) -> Interval:
    """Return the mean of a statistic over refits on halves (H,) and its interval; refits where it is undefined are left out."""
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return NOTHING
    half = float(student.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1))
    return Interval(float(known.mean()), float(known.mean()) - half, float(known.mean()) + half)


def ratio_of(modelled: np.ndarray, observed: np.ndarray, level: float) -> Interval:
    """Return the ratio of the means of two importances over refits (H,), each, with Fieller's interval (1954).

    There is none where either may be 0: one divided by nearly nothing says nothing.
    """
    if not all(interval(each, level).low > 0 for each in (modelled, observed)):
        return NOTHING
    t = float(student.ppf((1 + level) / 2, len(observed) - 1))
    (upper, shared), (_, lower) = t**2 * np.cov(modelled, observed) / observed.mean() ** 2  # spreads, relative to the observed
    ratio = float(modelled.mean() / observed.mean())
    middle = (ratio - shared) / (1 - lower)
    half = float(np.sqrt(max(upper - 2 * ratio * shared + ratio**2 * lower - (upper * lower - shared**2), 0))) / (1 - lower)
    return Interval(ratio, float(middle) - half, float(middle) + half)


def ranks_of(values: np.ndarray, level: float) -> list[Interval]:
    """Return each driver's rank, 1 the foremost, from importances over refits (H, G); the interval is of the refits' own ranks."""
    each = np.argsort(np.argsort(-values, axis=1), axis=1) + 1
    whole = np.argsort(np.argsort(-values.mean(0))) + 1
    ends = np.quantile(each, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    return [Interval(*(float(found) for found in some)) for some in zip(whole, *ends, strict=True)]


def distance_of(differences: np.ndarray, weights: np.ndarray, level: float) -> Interval:
    """Return the weighted root mean square difference of two curves, from differences (H, K) of refits in pairs.

    A squared difference is above 0 by chance alone. The two refits of a pair share no data, so that the product of their
    differences is not; its mean is the squared distance without that bias, 0 where chance has made it negative.
    """
    products = (differences[::2] * differences[1::2] * weights).sum(1)
    found = interval(products, level)
    return Interval(*(float(np.sqrt(max(each, 0.0))) for each in (found.value, found.low, found.high)))


def contrasts(
    found: dict[str, np.ndarray],
    models: Sequence[tuple[int, str]],
    drivers: Sequence[str],
    zones: Sequence[str],
    curves: Sequence[tuple[str, np.ndarray]],
    level: float,
) -> list[Contrast]:
    """Return all differences between models and the reference, the strongest first.

    Parameters
    ----------
    found
        As `halves.stacked` returns it; the reference is target 0.
    models
        Number and name of each other target.
    drivers, zones
        Names; zones in which a target has no skill are to be NaN.
    curves
        Variable and weights (1 + Z, K) of each response, everywhere and in each zone.
    level
        Of intervals, and of all that is named together.
    """
    sizes = endless(found)
    v = found["conditional"].shape[2] - len(drivers)
    parts: list[tuple[dict[str, object], np.ndarray]] = []
    for number, model in models:
        for place, zone in enumerate([EVERYWHERE, *zones]):
            learnt, values = (each["zones"][:, :, place - 1] if place else each["conditional"][:, :, v:] for each in (found, sizes))
            if not np.isfinite(values[:, [0, number]]).all():
                continue
            ranks = [ranks_of(values[:, target], level) for target in (0, number)]
            for k, driver in enumerate(drivers):
                observed, modelled = values[:, 0, k], values[:, number, k]
                facts = {
                    **_values("importance", model, driver, zone, observed, modelled, level),
                    "ratio": ratio_of(modelled, observed, level),
                    "observed_rank": ranks[0][k],
                    "modelled_rank": ranks[1][k],
                }
                parts.append((facts, (learnt[:, number, k] - learnt[:, 0, k])[:, None]))
            lines = found["zone_curves"][:, :, place - 1] if place else found["curves"]
            for k, (variable, weights) in enumerate(curves):
                both = lines[:, [0, number], k, : weights.shape[1]]
                gap, effect = both[:, 1] - both[:, 0], effects(both, weights[place])
                facts = {
                    **_values("response", model, variable, zone, effect[:, 0], effect[:, 1], level),
                    "distance": distance_of(gap, weights[place], level),
                }
                parts.append((facts, gap[:, weights[place] > 0]))
    if not parts:
        return []
    strengths = _strengths([gap for _, gap in parts], level)
    every = [Contrast(**facts, strength=strength) for (facts, _), strength in zip(parts, strengths, strict=True)]  # type: ignore[arg-type]
    return sorted(every, key=lambda each: -each.strength)


def _values(
    kind: str, model: str, of: str, zone: str, observed: np.ndarray, modelled: np.ndarray, level: float
) -> dict[str, object]:
    """Return a contrast's fields, from values of refits (H,), each; what does not apply is left without a number."""
    facts: dict[str, object] = {"kind": kind, "model": model, "of": of, "zone": zone}
    facts |= dict.fromkeys(("ratio", "observed_rank", "modelled_rank", "distance"), NOTHING)
    values = {"observed": observed, "modelled": modelled, "difference": modelled - observed}
    return facts | {name: interval(some, level) for name, some in values.items()}


def effects(curves: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the change of curves (..., K) over the middle 90 % of places, by their weights (K,)."""
    share = np.cumsum(weights) - weights / 2
    low, high = int(np.searchsorted(share, 0.05)), int(np.searchsorted(share, 0.95, side="right")) - 1
    return np.asarray(curves[..., high] - curves[..., low])


def _strengths(gaps: Sequence[np.ndarray], level: float) -> list[float]:
    """Return for each difference (H, K) its largest studentised value over what the largest of all reaches by chance.

    A refit's deviation is measured by a spread that it helped to make, and cannot be large if refits are few. So what the largest
    reaches is taken as a normal deviate, and Student's t of the same probability is demanded.
    """
    every = np.concatenate(gaps, axis=1)
    spread = np.maximum(every.std(axis=0, ddof=1), 1e-9)
    mean = every.mean(axis=0)
    reached = float(np.quantile((np.abs(every - mean) / spread).max(axis=1), level, method="higher"))
    reached = float(student.isf(norm.sf(reached), len(every) - 1))
    ends = np.cumsum([gap.shape[1] for gap in gaps])
    return [float((np.abs(mean) / spread)[end - gap.shape[1] : end].max() / reached) for gap, end in zip(gaps, ends, strict=True)]
