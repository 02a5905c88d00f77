"""Training, validation and test sets of a dataset: single places or spatial blocks, and the block size if none is given.

In: places (N,) in degrees and their target. Out: the set of each profile, and facts of `dataset.yaml`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.stats.groups import spatial_groups, train_valid_test_split
from soilcarbon.stats.spatial_cv import block_size_for_range
from soilcarbon.stats.variogram import KM_PER_DEGREE, empirical_variogram, fit_variogram

SETS = ("train", "valid", "test")
FEW_BLOCKS = 5  # with fewer held-out blocks a score says little about areas elsewhere
_WIDEST, _NARROWEST = 180.0, 1e-5  # degrees, of a block
_WIDEST_CHOSEN = 0.5
"""Degrees, of a block that is chosen: beyond some 50 km soil is alike by climate and rock, which covariates explain."""


@dataclass(frozen=True)
class SplitRule:
    """Rule by which profiles are split into training, validation and test sets."""

    method: Literal["random", "blocks"] = "random"  # single places, or whole blocks
    block_size: float | None = None  # degrees; None: by `choose_block_size`
    valid_share: float = 0.1
    test_share: float = 0.2  # 0: no test set
    seed: int = 314

    def __post_init__(self) -> None:
        """Raise UserError if the block size is none."""
        if self.block_size is not None and not _NARROWEST <= self.block_size <= _WIDEST:
            raise UserError(f"block_size = {self.block_size:g}: a block is {_NARROWEST:g} to {_WIDEST:g} degrees wide")

    @property
    def needed(self) -> tuple[str, ...]:
        """Sets that must have profiles."""
        return SETS if self.test_share > 0 else SETS[:2]


def draw_split(
    lon: np.ndarray, lat: np.ndarray, values: np.ndarray, rule: SplitRule, theirs: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Split profiles into training, validation and test sets; return (N,) text, and facts of how, plain values.

    The variogram of the target `values` gives the size of blocks if the rule has none. `theirs` is the set of each profile, or "",
    in the dataset that the region's model was pretrained on: a group with one of its training profiles is for training. UserError
    if a set would be empty, with a block size that works if there is one.
    """
    theirs = np.full(len(lon), "") if theirs is None else theirs

    def drawn(side: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Return groups and sets (N,)."""
        groups = spatial_groups(lon, lat, side)
        fixed = {group: name for name in reversed(SETS) for group in groups[theirs == name].tolist()}
        return groups, train_valid_test_split(groups, rule.valid_share, rule.test_share, rule.seed, fixed)

    def works(side: float | None, least: int = 1) -> bool:
        groups, split = drawn(side)
        return all(np.unique(groups[split == name]).size >= least for name in rule.needed)

    side, why = rule.block_size, "as given"
    if rule.method != "blocks":
        side, why = None, ""
    elif side is None:
        side, why = choose_block_size(lon, lat, values, min(share for share in (rule.valid_share, rule.test_share) if share))
        if other := _narrowed(side, works):
            side, why = other, why if other == side else "narrowed until each set has blocks enough"
    groups, split = drawn(side)
    if lacking := [name for name in rule.needed if not (split == name).any()]:
        raise UserError(_advice(lacking[0], groups, side, works))
    counts = {name: int((split == name).sum()) for name in SETS}
    facts = {
        **counts,
        "groups": {name: int(np.unique(groups[split == name]).size) for name in SETS},
        "method": rule.method,
        "block_size": side,
        "reason": _reason(side, why, lat),
        "seed": rule.seed,
        "valid_share": rule.valid_share,
        "test_share": rule.test_share,
    }
    return split, facts


def choose_block_size(lon: np.ndarray, lat: np.ndarray, values: np.ndarray, smallest_share: float) -> tuple[float, str]:
    """Return a side of blocks, degrees, and the reason: the range of the target's variogram, up to half a degree.

    It is narrowed until there are blocks enough: five for the smallest set, hence fifty for a share of 0.1.

    >>> lon, lat = (each.ravel() for each in np.meshgrid(np.arange(0, 2, 0.05), np.arange(0, 2, 0.05)))
    >>> choose_block_size(lon, lat, np.sin(20 * lon), 0.1)[0]
    0.24
    """
    enough = min(math.ceil(FEW_BLOCKS / smallest_share), max(len(np.unique(spatial_groups(lon, lat))) // 2, 3))
    widest = _WIDEST_CHOSEN * KM_PER_DEGREE * max(float(np.cos(np.radians(np.median(np.abs(lat))))), 0.1)
    try:
        logs = np.log(values) if (values > 0).all() else values
        found = fit_variogram(empirical_variogram(lon, lat, logs, robust=True)).practical_range
        known = f"the target is correlated over {float(f'{found:.3g}'):g} km"
    except ValueError:
        found, known = widest, "too few profiles for a variogram"
    side, why = block_size_for_range(lon, lat, min(found, widest), enough, known)
    if found >= widest and side >= _WIDEST_CHOSEN:
        why = f"the widest that is chosen; {known}"
    return _rounded(side), why


def _rounded(side: float) -> float:
    """Return a side with two digits, within limits."""
    return min(max(float(f"{side:.2g}"), _NARROWEST), _WIDEST)


def _narrowed(side: float, works: Callable[..., bool]) -> float | None:
    """Return the widest side, from this one down, by which each set has blocks enough, or at least one; None if there is none."""
    for least in (FEW_BLOCKS, 1):
        other = side
        while other > _NARROWEST:
            if works(other, least):
                return other
            other = _rounded(0.8 * other)
    return None


def _advice(name: str, groups: np.ndarray, side: float | None, works: Callable[..., bool]) -> str:
    """Return the message on a set that would be empty."""
    profiles, found = len(groups), len(np.unique(groups))
    if side is None:
        return f"the {name} split would be empty: {profiles} profiles at {found} places; use more, or a larger --{name}_share"
    of = f"the {name} split would be empty: {profiles} profiles in {found} blocks of {side:g} degrees"
    if other := _narrowed(side, works):
        return f"{of}; --block_size {other:g} works"
    return f"{of}, and with smaller ones; use more profiles, or a larger --{name}_share"


def _reason(side: float | None, why: str, lat: np.ndarray) -> str:
    """Return one sentence on the meaning of the test score under a split."""
    if side is None:
        return "single places are held out at random, which scores gaps among the profiles, not land without profiles"
    km = side * KM_PER_DEGREE * max(float(np.cos(np.radians(np.median(np.abs(lat))))), 0.1)
    return (
        f"whole blocks of {side:g} degrees ({km:.3g} km; {why}) are held out, because neighbours share covariates and soil, so that"
        " single held-out profiles would flatter the score on land without profiles"
    )
