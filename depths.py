"""Bring soil horizons to one depth interval.

In: the horizons of many profiles as flat arrays, depths in cm below the surface. Out: one value per profile.
Stands alone: NumPy only.
"""

import numpy as np


def from_surface(profile: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Count depths from the surface of the soil, organic layers included.

    Until 1990 or so, organic layers were described upwards from the mineral surface, which had depth 0: a profile
    with an O horizon from -8 to 0 cm is moved down by 8 cm, as horizons are counted today (FAO 2006, Guidelines for
    Soil Description).

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1.
    top, bottom
        (L,) cm.

    Returns
    -------
    top, bottom : ndarray
        (L,) cm, no top above 0.
    moved : int
        The number of profiles that were moved.
    """
    highest = np.zeros(profile.max(initial=-1) + 1)
    np.minimum.at(highest, profile, top)
    return top - highest[profile], bottom - highest[profile], int((highest < 0).sum())


def weighted_mean(
    profile: np.ndarray, top: np.ndarray, bottom: np.ndarray, value: np.ndarray, interval: tuple[float, float], profiles: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average horizons over a depth interval, each weighted by its thickness within it.

    What was not observed is not guessed: the mean is over the observed centimetres, and their number is given.
    Horizons with the same limits are repeated measurements of one: they are averaged first. Horizons that overlap
    otherwise each keep their own thickness as weight, but a centimetre is counted as observed once.

    Parameters
    ----------
    profile
        (L,) int64: the profile of each horizon, 0 to N-1; in any order.
    top, bottom
        (L,) cm, top < bottom.
    value
        (L,) finite, per mass of soil (g/kg), not per volume.
    interval
        Upper and lower limit, cm.
    profiles
        N.

    Returns
    -------
    mean : ndarray
        (N,) unit of `value`; NaN where no horizon reaches into the interval.
    covered : ndarray
        (N,) centimetres of the interval that were observed.
    layers : ndarray
        (N,) int64: the horizons within the interval.
    """
    order = np.lexsort((bottom, top, profile))
    profile, top, bottom, value = (array[order] for array in (profile, top, bottom, value))
    same = (np.diff(profile) == 0) & (np.diff(top) == 0) & (np.diff(bottom) == 0)
    first = np.flatnonzero(np.concatenate(([True], ~same))[: profile.size])
    repeats = np.diff(np.append(first, profile.size))
    value = np.add.reduceat(value, first) / repeats if first.size else value
    profile, top, bottom = profile[first], top[first].clip(*interval), bottom[first].clip(*interval)

    reached = bottom > top
    profile, top, bottom, value = (array[reached] for array in (profile, top, bottom, value))
    weight = bottom - top
    total = np.bincount(profile, weight, profiles)
    with np.errstate(invalid="ignore"):  # 0 / 0: no horizon
        mean = np.bincount(profile, weight * value, profiles) / total

    # Observed centimetres: what each horizon, from the top, adds below the deepest one so far. Profiles are told
    # apart by an offset larger than the interval, so that one running maximum serves all of them.
    offset = profile * (interval[1] - interval[0] + 1.0)
    deepest = np.maximum.accumulate(bottom + offset) - offset
    before = np.concatenate(([interval[0]], deepest[:-1])).clip(*interval)[: profile.size]
    before[np.flatnonzero(np.diff(profile, prepend=-1))] = interval[0]
    added = (bottom - np.maximum(top, before)).clip(0.0)
    covered = np.bincount(profile, added, profiles).round(6)
    return mean, covered, np.bincount(profile, minlength=profiles)
