"""Budget of computing time of a comparison on one dataset: what is computed, what is shrunk, what is left out.

Times are in cross-validations of the reference, a default forest, on the same folds. The plan depends on the data alone, by
expected times, so that it is the same whenever and wherever it is made; what then takes longer is stopped at the limit.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from soilcarbon.benchmark.methods import CONSTANTS, METHODS, REFERENCE, Method
from soilcarbon.regression.learners import MEMBERS

LIMITS = {"quick": 10.0, "full": 100.0, "unlimited": math.inf}  # budget -> computing time at most
PLANNED = 0.85  # share of the limit that is planned for
REPEATS = {"quick": 1, "full": 3, "unlimited": 3}
FEWER_MEMBERS = 3
ALWAYS = (*CONSTANTS, REFERENCE)  # methods that are never left out
_FIRST = ("ridge", "network", "idw", "unchanged", "fine-tuned", "boosting", "regression-kriging", "taught", "transferred-taught")
"""Methods that are taken in before others, after those that the user adds."""


@dataclass(frozen=True)
class Choice:
    """What is computed: methods under the last strategy, under others, draws of the folds, members, whether methods are tuned."""

    methods: tuple[str, ...]
    beside: tuple[str, ...]
    repeats: int
    members: int = MEMBERS
    tuned: bool = False


def fit_into(
    wanted: Choice, known: Mapping[str, Method], times: Callable[[Choice], float], limit: float
) -> tuple[Choice, list[str]]:
    """Choose what is expected to fit into a budget: methods in turn, then methods under the other strategies, then repeats.

    `known` has the methods in the order of tables, `times` gives the expected time of a choice, in the unit of the limit.
    Returned are the choice and what was changed, a sentence each.
    """
    added = [key for key in wanted.methods if key not in METHODS]
    order = list(dict.fromkeys([*added, *_FIRST, *wanted.methods]))

    def fits(choice: Choice) -> bool:
        return times(choice) <= PLANNED * limit

    choices = [_filled(wanted, order, members, known, fits) for members in (wanted.members, min(FEWER_MEMBERS, wanted.members))]
    choice = max(choices, key=lambda each: sum(known[key].kind == "network" for key in each.methods))  # at a tie the first
    changes = []
    if choice is not choices[0] and choice.members < wanted.members:
        changes.append(f"networks are ensembles of {choice.members}, not of {wanted.members}")
    if lost := [key for key in wanted.methods if key not in choice.methods]:
        next_budget = f"full allows for {LIMITS['full']:g} times" if limit < LIMITS["full"] else "unlimited has none"
        why = f"left out, beyond the budget of {limit:g} times a forest's computing time"
        changes.append(f"{why}: {', '.join(lost)}; --budget {next_budget}")
    if len(choice.beside) < len(choice.methods):
        changes.append(f"under other folds than those of the verdict, only {', '.join(choice.beside)}")
    if choice.repeats < wanted.repeats:
        changes.append(f"{choice.repeats} of {wanted.repeats} draws of the folds")
    return choice, changes


def _filled(
    wanted: Choice, order: Sequence[str], members: int, known: Mapping[str, Method], fits: Callable[[Choice], bool]
) -> Choice:
    """Return the choice with so many members that has as much of what is wanted as fits."""
    choice = replace(wanted, methods=_sorted(ALWAYS, known), beside=_sorted(ALWAYS, known), repeats=1, members=members)
    choice = _added(choice, "methods", [key for key in order if key in wanted.methods], known, fits)
    choice = _added(choice, "beside", [key for key in order if key in choice.methods], known, fits)
    fitting = [k for k in range(1, wanted.repeats + 1) if fits(replace(choice, repeats=k))]
    return replace(choice, repeats=max(fitting, default=1))


def _added(
    choice: Choice,
    name: Literal["methods", "beside"],
    order: Sequence[str],
    known: Mapping[str, Method],
    fits: Callable[[Choice], bool],
) -> Choice:
    """Return the choice with those methods added to a field, in turn, that fit; stacks, means of others, cost nothing."""

    def plus(key: str) -> Choice:
        keys = _sorted({*getattr(choice, name), key}, known)
        return replace(choice, methods=keys) if name == "methods" else replace(choice, beside=keys)

    for key in order:
        if not known[key].parts and fits(plus(key)):
            choice = plus(key)
    for key in order:
        if known[key].parts and set(known[key].parts) <= set(getattr(choice, name)):
            choice = plus(key)
    return choice


def _sorted(keys: Collection[str], known: Mapping[str, Method]) -> tuple[str, ...]:
    return tuple(key for key in known if key in keys)
