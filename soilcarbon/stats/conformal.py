"""Put intervals round predictions that hold the truth as often as they say.

In: observations, predictions and a spread of profiles that the model was not fitted on. Out: intervals for any other
prediction; `coverage.py` measures whether they keep their promise. Arrays in memory, no settings, no files.

    calibration = Calibration.fit(y, predicted, spread, scale="log1p", units=blocks)
    lower, upper = calibration.interval(cell_predicted, cell_spread, level=0.9)

Split conformal prediction (Papadopoulos et al. 2002; Lei et al. 2018, J. Am. Stat. Assoc. 113, 1094-1111) takes any
model: the errors made on profiles held out say how wide an interval must be. Its promise is marginal, over new profiles
drawn as the held-out ones were; hold out what prediction is for (blocks, if the map reaches beyond sampled land). Small
data may be calibrated on out-of-fold predictions, whose promise is nearly as good (Barber et al. 2021, Ann. Stat. 49, 486).
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soilcarbon.stats.metrics import checked_vectors

log = logging.getLogger(__name__)

Tail = tuple[tuple[float, ...], tuple[float, ...]]
"""Ascending scores, and the share of new profiles (ascending, below 1) whose score each of them is not below."""

_MOST_SCORES, _MOST_GROUPS = 2000, 1000
_ROUNDING = 1e-9
"""By which a share may miss a level and still meet it: 9 tenths, added up, are less than 0.9."""


@dataclass(frozen=True)
class Calibration:
    """Know how large held-out errors were, and turn predictions into intervals.

    A score is error / max(spread, floor), both on the scale; without a spread, the error alone.

    Attributes
    ----------
    scale
        Where errors are measured: "identity", the target's unit, or "log1p", ln(1 + target).
    floor
        The smallest spread believed, on the scale. None: there is no spread.
    bounds
        Least and largest value an interval's ends may have; None: no largest. A truth above the upper bound is in no
        interval, so that of few profiles the largest training target is too low a bound.
    overall
        The tail of |score| over all calibration profiles; or two tails, of errors downwards and upwards.
    groups
        The same of each group that was large enough, by label.

    Raises
    ------
    ValueError
        If scale, floor or bounds are none.
    """

    scale: Literal["identity", "log1p"]
    floor: float | None
    bounds: tuple[float, float | None]
    overall: tuple[Tail, ...]
    groups: dict[str, tuple[Tail, ...]]

    def __post_init__(self) -> None:
        if self.scale not in ("identity", "log1p"):
            raise ValueError(f"calibration: scale {str(self.scale)[:20]!r} is neither 'identity' nor 'log1p'")
        if self.floor is not None and not (_is_number(self.floor) and self.floor > 0):
            raise ValueError(f"calibration: floor {str(self.floor)[:20]!r} is no positive number; are most spreads 0?")
        low, high = self.bounds
        ordered = _is_number(low) and (high is None or (_is_number(high) and low <= high))
        if not ordered or (self.scale == "log1p" and low <= -1):
            raise ValueError(f"calibration: bounds {str(self.bounds)[:40]} are no range, or have no ln(1 + y)")

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        predicted: np.ndarray,
        spread: np.ndarray | None = None,
        *,
        scale: Literal["identity", "log1p"] = "identity",
        symmetric: bool = True,
        units: np.ndarray | None = None,
        cap: float = 1.0,
        groups: np.ndarray | None = None,
        smallest_group: int = 50,
        floor: float | None = None,
        bounds: tuple[float, float | None] = (0.0, None),
    ) -> "Calibration":
        """Learn from profiles held out.

        Profiles of one spatial unit err alike, so what is exchangeable with new land is the unit, not the profile. Each
        unit therefore has the same say, shared among its profiles, and an unseen unit of any error is reckoned with:
        of K units, a score's share is that of the K + 1 (Dunn et al. 2023, J. Am. Stat. Assoc. 118, 2491; Lee et al.
        2023, arXiv:2306.06342). Counted singly, one crowded block would set the width everywhere and n, far above K,
        would promise a precision that is not there. Coverage is then that of a profile drawn from a unit drawn at
        random. For coverage of all profiles of new land together, where crowded units count for more, let `cap` be infinite.

        Parameters
        ----------
        y, predicted
            (n,) in the target's unit.
        spread
            (n,) how uncertain each prediction says it is, on the scale (a standard deviation over members, the width
            between two quantiles, a fitted function); only its proportions matter. None: all alike.
        scale, bounds
            See the class.
        symmetric
            Intervals reach equally far down and up on the scale; or leave (1 - level) / 2 out on each side, which fits
            skewed or biased errors and asks for twice the profiles.
        units
            (n,) the spatial unit of each profile. None: each is its own, and the quantile that of split conformal,
            the ceil((n + 1) level)-th smallest score.
        cap
            A unit counts as at most so many profiles. 1: units count alike; infinity: profiles do, of K units still.
        groups
            (n,) text or integers: intervals hold their level within each (Mondrian; Vovk et al. 2005).
        smallest_group
            A group of fewer units gets the scores of all profiles: its own few would make wild intervals.
        floor
            Default: a tenth of the median spread, lest an accidental agreement of members give no width.

        Raises
        ------
        ValueError
            If there are no profiles, lengths differ, a value is not finite or not on the scale, or most spreads are 0.
        """
        spread = np.ones(np.shape(y)) if (plain := spread is None) else spread
        y, predicted, spread = checked_vectors(y=y, predicted=predicted, spread=spread)
        if len(y) == 0 or not cap > 0 or (spread < 0).any():
            raise ValueError(
                f"{len(y)} profiles, cap {cap}: expected some, above 0; {int((spread < 0).sum())} spreads are negative"
            )
        member = np.arange(len(y)) if units is None else np.unique(units, return_inverse=True)[1]
        labels = np.full(len(y), "") if groups is None else _labels(groups)
        if member.shape != y.shape or labels.shape != y.shape:
            raise ValueError(f"units {member.shape} and groups {labels.shape} must be as many as profiles {y.shape}")
        floor = None if plain else float(np.median(spread) / 10 if floor is None else floor)
        score = (_to_scale(y, scale) - _to_scale(predicted, scale)) / np.maximum(spread, floor or 1.0)

        def tails(chosen: np.ndarray) -> tuple[Tail, ...]:
            sides = [np.abs(score)] if symmetric else [-score, score]
            return tuple(_tail(side[chosen], member[chosen], cap) for side in sides)

        found = {} if groups is None else {str(label): labels == label for label in np.unique(labels)}
        large = {label: tails(some) for label, some in found.items() if len(np.unique(member[some])) >= smallest_group}
        if len(large) < len(found):
            counts = len(found) - len(large), len(found), smallest_group
            log.info("intervals of %d of %d zones, of fewer than %d blocks each, rest on the errors of all profiles", *counts)
        ends = float(bounds[0]), None if bounds[1] is None else float(bounds[1])
        return cls(scale, floor, ends, tails(np.ones(len(y), bool)), large)

    def interval(
        self, predicted: np.ndarray, spread: np.ndarray | None, level: float, group: np.ndarray | str | int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the intervals that hold a share `level` of the truth.

        Where the calibration profiles are too few for the level, see `highest_level`, no finite interval has it: its
        ends are then the bounds, the upper one infinite if there is none.

        Parameters
        ----------
        predicted
            (n,) or any shape, in the target's unit, as the model gave them in `fit`. NaN, a cell without one, gives NaN.
        spread
            Of the same shape, as in `fit`; None if that had none.
        level
            Between 0 and 1, both exclusive.
        group
            One label, or one for each prediction; unknown and small groups get the scores of all profiles.

        Returns
        -------
        lower, upper
            Float64, the target's unit.

        Raises
        ------
        ValueError
            If shapes differ, spread is given to one of `fit` and this only, or is negative, the level is none, or a
            prediction is not on the scale.
        """
        if not 0 < level < 1:
            raise ValueError(f"level {level} must lie between 0 and 1")
        if (spread is None) != (self.floor is None):
            raise ValueError("give a spread exactly if the calibration was fitted with one")
        predicted = np.asarray(predicted, np.float64)
        unit = np.ones(predicted.shape) if spread is None else np.asarray(spread, np.float64)
        if unit.shape != predicted.shape or (unit < 0).any():
            raise ValueError(f"spread {unit.shape} must not be negative, and one for each prediction {predicted.shape}")
        unit = np.maximum(unit, self.floor or 0)
        share = level if len(self.overall) == 1 else (1 + level) / 2
        labels, which = np.unique(_labels("" if group is None else group), return_inverse=True)
        tails = [self.overall if group is None else self._tails(label) for label in labels]
        down, up = (np.array([_quantile(sides[k], share) for sides in tails])[which] for k in (0, -1))
        centre = _to_scale(predicted, self.scale)
        lower, upper = _from_scale(centre - down * unit, self.scale), _from_scale(centre + up * unit, self.scale)
        return np.clip(lower, *self.bounds), np.clip(upper, *self.bounds)

    def highest_level(self, group: str | int | None = None) -> float:
        """Return the highest level that has a finite interval: K / (K + 1) of K units, (K - 1) / (K + 1) if asymmetric."""
        tails = self.overall if group is None else self._tails(group)
        share = min(shares[-1] for _, shares in tails)
        return share if len(tails) == 1 else max(0.0, 2 * share - 1)

    def _tails(self, label: str | int) -> tuple[Tail, ...]:
        return self.groups.get(str(label), self.overall)

    def to_plain(self) -> dict[str, Any]:
        """Return it as numbers, text and containers, fit for a checkpoint that admits nothing else."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"groups": dict(self.groups)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Calibration":
        """Make it from `to_plain`'s content, which may be a stranger's.

        Raises
        ------
        ValueError
            Naming what is missing, unknown, of another kind or size, not finite or out of range.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(plain, dict) or set(plain) != names:
            found = sorted(map(str, plain))[:10] if isinstance(plain, dict) else type(plain).__name__
            raise ValueError(f"calibration: expected {', '.join(sorted(names))}; found {found}")
        bounds, groups = plain["bounds"], plain["groups"]
        if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
            raise ValueError(f"calibration: bounds {str(bounds)[:40]!r} are not two")
        if not isinstance(groups, dict) or len(groups) > _MOST_GROUPS or not all(isinstance(g, str) for g in groups):
            raise ValueError(f"calibration: groups are not tails of at most {_MOST_GROUPS} labels")
        overall = _tails_of(plain["overall"])
        by_label = {label: _tails_of(tails) for label, tails in groups.items()}
        if any(len(tails) != len(overall) for tails in by_label.values()):
            raise ValueError("calibration: some have one tail, others two")
        return cls(plain["scale"], plain["floor"], (bounds[0], bounds[1]), overall, by_label)


def _to_scale(values: np.ndarray, scale: str) -> np.ndarray:
    if scale == "log1p" and (values <= -1).any():
        raise ValueError(f"{int((values <= -1).sum())} values, first {values[values <= -1].flat[0]:g}, are too low for ln(1 + y)")
    return np.log1p(values) if scale == "log1p" else values


def _from_scale(values: np.ndarray, scale: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # a wide interval on the log scale may end at infinity, which bounds then hold
        return np.expm1(values) if scale == "log1p" else values


def _labels(groups: Any) -> np.ndarray:
    """Return groups as text, so that 3 and "3" are one; 3.0 would be another, and a missing one a group."""
    groups = np.asarray(groups)
    if groups.dtype.kind not in "iuUO" or (
        groups.dtype.kind == "O" and not all(isinstance(g, (str, int, np.integer)) for g in groups.flat)
    ):
        raise ValueError(f"groups must be text or integers, not {groups.dtype}")
    return groups.astype(str)


def _tail(scores: np.ndarray, member: np.ndarray, cap: float) -> Tail:
    """Return the weighted tail of scores (n,) of units (n,), thinned so that no quantile gets smaller."""
    _, unit, sizes = np.unique(member, return_inverse=True, return_counts=True)
    weights = np.minimum(1, cap / sizes)[unit]
    order = np.argsort(scores, kind="stable")
    shares = np.cumsum(weights[order]) / weights.sum() * (len(sizes) / (len(sizes) + 1))
    step = np.floor(shares * _MOST_SCORES)  # of the scores in one step the largest is kept
    kept = np.flatnonzero(np.append(step[1:] != step[:-1], True))
    return tuple(scores[order][kept].tolist()), tuple(shares[kept].tolist())


def _quantile(tail: Tail, share: float) -> float:
    scores, shares = tail
    k = int(np.searchsorted(shares, share - _ROUNDING))
    return scores[k] if k < len(scores) else np.inf


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _tails_of(plain: Any) -> tuple[Tail, ...]:
    """Return a stranger's tails, if they are such."""
    if not isinstance(plain, (list, tuple)) or len(plain) not in (1, 2):
        raise ValueError("calibration: one tail or two expected")
    for tail in plain:
        if not (isinstance(tail, (list, tuple)) and len(tail) == 2 and all(isinstance(part, (list, tuple)) for part in tail)):
            raise ValueError("calibration: a tail is a list of scores and one of shares")
        scores, shares = tail
        if not 1 <= len(scores) == len(shares) <= _MOST_SCORES or not all(map(_is_number, [*scores, *shares])):
            raise ValueError(f"calibration: a tail has 1 to {_MOST_SCORES} finite scores and as many shares")
        if (np.diff(scores) < 0).any() or (np.diff(shares) < 0).any() or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError("calibration: scores and shares must ascend, shares between 0 and 1")
    return tuple((tuple(map(float, scores)), tuple(map(float, shares))) for scores, shares in plain)
