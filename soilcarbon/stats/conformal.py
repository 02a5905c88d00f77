"""Prediction intervals by split conformal calibration: errors on held-out profiles determine the intervals' width.

In: observations and predictions of profiles that the model was not fitted on. Out: intervals for any other prediction.
`metrics.coverage` and `metrics.picp_table` measure whether they have the coverage they state.

Papadopoulos et al. 2002; Lei et al. 2018, J. Am. Stat. Assoc. 113, 1094-1111. Coverage is marginal, over new profiles drawn as the
held-out ones were; hold out what prediction is for (blocks, if the map reaches beyond sampled areas). Small data may be calibrated
on out-of-fold predictions, whose coverage is nearly as good (Barber et al. 2021, Ann. Stat. 49, 486).
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soilcarbon.stats.metrics import check_level, checked_vectors

log = logging.getLogger(__name__)

Tail = tuple[tuple[float, ...], tuple[float, ...]]
"""Ascending scores, and the share of new profiles (ascending, below 1) whose score each of them is not below."""

_MAX_SCORES, _MAX_STRATA = 2000, 1000
_ROUNDING = 1e-9  # by which a share may miss a level and still meet it: 9 tenths, added up, are less than 0.9


@dataclass(frozen=True)
class ConformalCalibration:
    """Split conformal calibration: quantiles of held-out errors, from which prediction intervals are computed.

    Attributes
    ----------
    scale
        Where errors are measured: "identity", the target's unit, or "log1p", ln(1 + target).
    bounds
        Least and largest value an interval's ends may have; None: no largest. A truth above the upper bound is in no
        interval, so that of few profiles the largest training target is too low a bound.
    overall
        The tail of |error| over all calibration profiles; or two tails, of errors downwards and upwards.
    strata
        The same of each stratum that was large enough, by label.

    Raises
    ------
    ValueError
        If scale or bounds are invalid.

    Examples
    --------
    >>> observed, predicted = np.array([10.0, 12.0, 9.0, 30.0, 22.0]), np.array([12.0, 11.0, 9.5, 26.0, 19.0])
    >>> calibration = ConformalCalibration.fit(observed, predicted)
    >>> calibration.interval(np.array([20.0]), level=0.6)
    (array([17.]), array([23.]))
    >>> round(calibration.highest_level(), 2)
    0.83
    """

    scale: Literal["identity", "log1p"]
    bounds: tuple[float, float | None]
    overall: tuple[Tail, ...]
    strata: dict[str, tuple[Tail, ...]]

    def __post_init__(self) -> None:
        if self.scale not in ("identity", "log1p"):
            raise ValueError(f"calibration: scale {str(self.scale)[:20]!r} is neither 'identity' nor 'log1p'")
        low, high = self.bounds
        ordered = _is_number(low) and (high is None or (_is_number(high) and low <= high))
        if not ordered or (self.scale == "log1p" and low <= -1):
            raise ValueError(f"calibration: bounds {str(self.bounds)[:40]} are no range, or have no ln(1 + y)")

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        predicted: np.ndarray,
        *,
        scale: Literal["identity", "log1p"] = "identity",
        symmetric: bool = True,
        groups: np.ndarray | None = None,
        strata: np.ndarray | None = None,
        smallest_stratum: int = 50,
        bounds: tuple[float, float | None] = (0.0, None),
    ) -> "ConformalCalibration":
        """Calibrate on held-out profiles.

        Profiles of one spatial group (block) err alike, so the exchangeable unit is the group, not the profile. An
        unseen group of any error is therefore reckoned with: of K groups, the shares of all scores add up to K / (K + 1), as if
        there were K independent errors (Dunn et al. 2023, J. Am. Stat. Assoc. 118, 2491; Lee et al. 2023, arXiv:2306.06342). All
        profiles count alike, so that coverage is that of all profiles of new areas together.

        Parameters
        ----------
        y, predicted
            (n,) in the target's unit.
        scale, bounds
            See the class.
        symmetric
            Intervals reach equally far down and up on the scale; or leave (1 - level) / 2 out on each side, which fits
            skewed or biased errors and needs twice the profiles.
        groups
            (n,) the spatial group of each profile. None: each is its own, and the quantile that of split conformal,
            the ceil((n + 1) level)-th smallest score.
        strata
            (n,) text or integers: intervals have their level within each stratum (Mondrian; Vovk et al. 2005).
        smallest_stratum
            A stratum of fewer groups gets the scores of all profiles: its own few would make wild intervals.

        Raises
        ------
        ValueError
            If there are no profiles, lengths differ, or a value is not finite or not on the scale.
        """
        y, predicted = checked_vectors(y=y, predicted=predicted)
        if len(y) == 0:
            raise ValueError("0 profiles: intervals need errors of profiles that were held out")
        member = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        labels = np.full(len(y), "") if strata is None else _labels(strata)
        if member.shape != y.shape or labels.shape != y.shape:
            raise ValueError(f"groups {member.shape} and strata {labels.shape} must be as many as profiles {y.shape}")
        error = _to_scale(y, scale) - _to_scale(predicted, scale)

        def tails(chosen: np.ndarray) -> tuple[Tail, ...]:
            sides = [np.abs(error)] if symmetric else [-error, error]
            return tuple(_tail(side[chosen], len(np.unique(member[chosen]))) for side in sides)

        found = {} if strata is None else {str(label): labels == label for label in np.unique(labels)}
        large = {label: tails(some) for label, some in found.items() if len(np.unique(member[some])) >= smallest_stratum}
        if len(large) < len(found):
            counts = len(found) - len(large), len(found), smallest_stratum
            log.info("intervals: %d of %d zones have fewer than %d groups (blocks), and take the errors of all profiles", *counts)
        ends = float(bounds[0]), None if bounds[1] is None else float(bounds[1])
        return cls(scale, ends, tails(np.ones(len(y), bool)), large)

    def interval(
        self, predicted: np.ndarray, level: float, stratum: np.ndarray | str | int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of prediction intervals of coverage `level`.

        Where the calibration profiles are too few for the level, see `highest_level`, no finite interval has it: its
        ends are then the bounds, the upper one infinite if there is none.

        Parameters
        ----------
        predicted
            (n,) or any shape, in the target's unit, as the model gave them in `fit`. NaN, a cell without one, gives NaN.
        level
            Between 0 and 1, both exclusive.
        stratum
            One label, or one for each prediction; unknown and small strata get the scores of all profiles.

        Returns
        -------
        lower, upper
            Float64, the target's unit.

        Raises
        ------
        ValueError
            If the level is out of range, or a prediction is not on the scale.
        """
        check_level(level)
        predicted = np.asarray(predicted, np.float64)
        share = level if len(self.overall) == 1 else (1 + level) / 2
        labels, which = np.unique(_labels("" if stratum is None else stratum), return_inverse=True)
        tails = [self.overall if stratum is None else self._tails(label) for label in labels]
        down, up = (np.array([_quantile(sides[k], share) for sides in tails])[which] for k in (0, -1))
        centre = _to_scale(predicted, self.scale)
        lower, upper = _from_scale(centre - down, self.scale), _from_scale(centre + up, self.scale)
        return np.clip(lower, *self.bounds), np.clip(upper, *self.bounds)

    def highest_level(self, stratum: str | int | None = None) -> float:
        """Return the highest level that has a finite interval: K / (K + 1) of K groups, (K - 1) / (K + 1) if asymmetric."""
        tails = self.overall if stratum is None else self._tails(stratum)
        share = min(shares[-1] for _, shares in tails)
        return share if len(tails) == 1 else max(0.0, 2 * share - 1)

    def _tails(self, label: str | int) -> tuple[Tail, ...]:
        return self.strata.get(str(label), self.overall)

    def to_plain(self) -> dict[str, Any]:
        """Return it as numbers, text and containers, for storage in a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"strata": dict(self.strata)}

    @classmethod
    def from_plain(cls, plain: Any) -> "ConformalCalibration":
        """Make it from `to_plain`'s content, which may come from an untrusted file; a ValueError names what is wrong with it."""
        names = set(cls.__dataclass_fields__)
        if isinstance(plain, dict) and set(plain) == {"scale", "floor", "bounds", "overall", "groups"} and plain["floor"] is None:
            plain = {name: value for name, value in plain.items() if name != "floor"}  # written by version 0.1
            plain["strata"] = plain.pop("groups")
        if not isinstance(plain, dict) or set(plain) != names:
            found = sorted(map(str, plain))[:10] if isinstance(plain, dict) else type(plain).__name__
            raise ValueError(f"calibration: expected {', '.join(sorted(names))}; found {found}")
        bounds, strata = plain["bounds"], plain["strata"]
        if not isinstance(bounds, (list, tuple)) or len(bounds) != 2:
            raise ValueError(f"calibration: bounds {str(bounds)[:40]!r} are not two")
        if not isinstance(strata, dict) or len(strata) > _MAX_STRATA or not all(isinstance(each, str) for each in strata):
            raise ValueError(f"calibration: strata are not tails of at most {_MAX_STRATA} labels")
        overall = _tails_of(plain["overall"])
        by_label = {label: _tails_of(tails) for label, tails in strata.items()}
        if any(len(tails) != len(overall) for tails in by_label.values()):
            raise ValueError("calibration: some have one tail, others two")
        return cls(plain["scale"], (bounds[0], bounds[1]), overall, by_label)


def _to_scale(values: np.ndarray, scale: str) -> np.ndarray:
    if scale == "log1p" and (values <= -1).any():
        raise ValueError(f"{int((values <= -1).sum())} values, first {values[values <= -1].flat[0]:g}, are too low for ln(1 + y)")
    return np.log1p(values) if scale == "log1p" else values


def _from_scale(values: np.ndarray, scale: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # a wide interval on the log scale may end at infinity, which is then clipped at the bounds
        return np.expm1(values) if scale == "log1p" else values


def _labels(strata: Any) -> np.ndarray:
    """Return stratum labels as text, so that 3 and "3" are one; 3.0 would be another, and a missing label a stratum."""
    strata = np.asarray(strata)
    if strata.dtype.kind not in "iuUO" or (
        strata.dtype.kind == "O" and not all(isinstance(each, (str, int, np.integer)) for each in strata.flat)
    ):
        raise ValueError(f"strata must be text or integers, not {strata.dtype}")
    return strata.astype(str)


def _tail(scores: np.ndarray, groups: int) -> Tail:
    """Return the tail of scores (n,) of so many groups, thinned so that no quantile gets smaller."""
    kept_scores = np.sort(scores)
    shares = np.cumsum(np.ones(len(scores))) / len(scores) * (groups / (groups + 1))
    step = np.floor(shares * _MAX_SCORES)  # of the scores in one step the largest is kept
    kept = np.flatnonzero(np.append(step[1:] != step[:-1], True))
    return tuple(kept_scores[kept].tolist()), tuple(shares[kept].tolist())


def _quantile(tail: Tail, share: float) -> float:
    scores, shares = tail
    k = int(np.searchsorted(shares, share - _ROUNDING))
    return scores[k] if k < len(scores) else np.inf


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _tails_of(plain: Any) -> tuple[Tail, ...]:
    """Return the tails of an untrusted file, if they are valid."""
    if not isinstance(plain, (list, tuple)) or len(plain) not in (1, 2):
        raise ValueError("calibration: one tail or two expected")
    for tail in plain:
        if not (isinstance(tail, (list, tuple)) and len(tail) == 2 and all(isinstance(part, (list, tuple)) for part in tail)):
            raise ValueError("calibration: a tail is a list of scores and one of shares")
        scores, shares = tail
        if not 1 <= len(scores) == len(shares) <= _MAX_SCORES or not all(map(_is_number, [*scores, *shares])):
            raise ValueError(f"calibration: a tail has 1 to {_MAX_SCORES} finite scores and as many shares")
        if (np.diff(scores) < 0).any() or (np.diff(shares) < 0).any() or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError("calibration: scores and shares must ascend, shares between 0 and 1")
    return tuple((tuple(map(float, scores)), tuple(map(float, shares))) for scores, shares in plain)
