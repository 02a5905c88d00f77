"""Where a model's drivers differ from the observations': differences, their intervals, and which of them may be named.

In: what the refits of one learner found (`halves.stacked`), the reference first, then the models. Out: `Contrast`s, in numbers.
Words are up to `drivertables`.

An interval is the mean over refits on random halves, plus and minus Student's t times their standard deviation, which is that
of the whole (`halves` says why). A report looks at many differences, and some will seem large by chance. So one is named only if
it is beyond what the largest of all of them reaches by chance, at the level wanted: the distribution of the largest deviation of
any studentised difference over refits is taken from the refits themselves (single-step max-T: Westfall and Young 1993; Romano
and Wolf 2005, Econometrica 73, 1237-1282). The chance that a report on a model that follows the observations' law names
anything is then 1 - level at most; `benchmarks/false_alarms.py` counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from importance import shares

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
        Importance: shares of the sum over drivers, %. Response: the answer's change over the middle 90 % of places, standard
        deviations.
    difference
        modelled - observed.
    ratio
        Importance: modelled / observed, where both are above 0 beyond doubt.
    distance
        Response: root mean square difference of the curves, weighted by the density of places, standard deviations.
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
    """Return the ratio of two shares over refits (H,), each, with its interval on the scale of logarithms.

    It has none where either share may be 0: one divided by nearly nothing says nothing.
    """
    both = interval(modelled, level), interval(observed, level)
    if not all(each.low > 0 for each in both) or not ((modelled > 0) & (observed > 0)).all():
        return NOTHING
    logs = interval(np.log(modelled / observed), level)
    return Interval(*(float(np.exp(each)) for each in (logs.value, logs.low, logs.high)))


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
        Variable and weights (K,) of each response.
    level
        Of intervals, and of all that is named together.
    """
    v = found["permutation"].shape[2] - len(drivers)
    parts: list[tuple[dict[str, object], np.ndarray]] = []
    for number, model in models:
        for zone_number, zone in enumerate([EVERYWHERE, *zones]):
            values = found["zones"][:, :, zone_number - 1] if zone_number else found["permutation"][:, :, v:]
            observed, modelled = shares(values[:, 0]), shares(values[:, number])
            for k, driver in enumerate(drivers):
                gap = modelled[:, k] - observed[:, k]
                if np.isfinite(gap).all():
                    facts = {
                        "kind": "importance",
                        "model": model,
                        "of": driver,
                        "zone": zone,
                        "observed": interval(observed[:, k], level),
                        "modelled": interval(modelled[:, k], level),
                        "difference": interval(gap, level),
                        "ratio": ratio_of(modelled[:, k], observed[:, k], level),
                        "distance": NOTHING,
                    }
                    parts.append((facts, gap[:, None]))
        for k, (variable, weights) in enumerate(curves):
            both = found["curves"][:, [0, number], k, : len(weights)]
            gap = both[:, 1] - both[:, 0]
            if np.isfinite(gap).all():
                effect = effects(both, weights)
                facts = {
                    "kind": "response",
                    "model": model,
                    "of": variable,
                    "zone": EVERYWHERE,
                    "observed": interval(effect[:, 0], level),
                    "modelled": interval(effect[:, 1], level),
                    "difference": interval(effect[:, 1] - effect[:, 0], level),
                    "ratio": NOTHING,
                    "distance": distance_of(gap, weights, level),
                }
                parts.append((facts, gap))
    if not parts:
        return []
    strengths = _strengths([gap for _, gap in parts], level)
    every = [Contrast(**facts, strength=strength) for (facts, _), strength in zip(parts, strengths, strict=True)]  # type: ignore[arg-type]
    return sorted(every, key=lambda each: -each.strength)


def effects(curves: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the change of curves (..., K) over the middle 90 % of places, by their weights (K,)."""
    share = np.cumsum(weights) - weights / 2
    low, high = int(np.searchsorted(share, 0.05)), int(np.searchsorted(share, 0.95, side="right")) - 1
    return np.asarray(curves[..., high] - curves[..., low])


def _strengths(gaps: Sequence[np.ndarray], level: float) -> list[float]:
    """Return for each difference (H, K) its largest studentised value over what the largest of all reaches by chance."""
    every = np.concatenate(gaps, axis=1)
    spread = every.std(axis=0, ddof=1)
    spread = np.maximum(spread, 1e-9)
    mean = every.mean(axis=0)
    reached = float(np.quantile((np.abs(every - mean) / spread).max(axis=1), level, method="higher"))
    ends = np.cumsum([gap.shape[1] for gap in gaps])
    return [float((np.abs(mean) / spread)[end - gap.shape[1] : end].max() / reached) for gap, end in zip(gaps, ends, strict=True)]
