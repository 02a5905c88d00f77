"""Specification of a network: categories, statistics, policies, bounds.

A checkpoint carries its specification, so that training, prediction and maps cannot disagree.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, consecutive, unique_names


class Specification(BaseModel):
    """Specification of a network: meaning of its inputs and output, and parameters of their preprocessing.

    Attributes
    ----------
    categories
        The table the branches are built from.
    statistics
        Variable -> (mean, standard deviation), raw units. None: inputs are standardised already.
    classes
        Variable of kind "classes" -> its codes, one input channel each; other codes and missing cells give zeros.
    missing
        A missing numeric cell becomes the variable's mean, or 0 in raw units (as in the published code).
    clip_inputs
        Standardised inputs are clipped to so many standard deviations; 0: not clipped.
    target, unit
        The sample table's column and its unit.
    target_transform
        The network's output is the target, or ln(1 + target).
    smearing
        Duan's smearing factor (1983, JASA 78, 605): the mean of exp(residual) on the log scale, over training and
        validation profiles. exp of a mean logarithm is a median, too low for a mean; times the factor it is a mean again.
        One per member.
    center
        Under log1p a prediction is the mean, times `smearing`, or the median, without.
    bounds
        Predictions are clipped between 0 and the largest training target. None: unknown, not clipped.
    members
        Networks whose predictions are averaged.

    Examples
    --------
    >>> Specification().input_width
    32
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    categories: tuple[Category, ...] = Field(PUBLISHED_CATEGORIES, min_length=1)
    statistics: dict[str, tuple[float, float]] | None = None
    classes: dict[str, tuple[int, ...]] = {}
    missing: Literal["mean", "zero"] = "mean"
    clip_inputs: float = Field(0.0, ge=0)
    target: str = Field("soc", max_length=60, pattern=r"^[^\x00-\x1f\x7f/\\]+$")
    unit: str = Field("g/kg", max_length=30, pattern=r"^[^$\x00-\x1f\x7f]*$")
    target_transform: Literal["none", "log1p"] = "none"
    smearing: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    center: Literal["mean", "median"] = "mean"
    bounds: tuple[float, float] | None = None
    members: int = Field(1, ge=1, le=100)

    @model_validator(mode="after")
    def _complete(self) -> "Specification":
        if self.smearing is not None and len(self.smearing) != self.members:
            raise ValueError(f"{len(self.smearing)} smearing factors for {self.members} members")
        unique_names(self.categories)
        if self.bounds is not None and not -1e30 < self.bounds[0] <= self.bounds[1] < 1e30:
            raise ValueError(f"bounds {self.bounds} are no range")
        for name, (mean, std) in (self.statistics or {}).items():
            if not (abs(mean) < 1e30 and 1e-30 < std < 1e30):
                raise ValueError(f"variable {name!r} has mean {mean:g} and deviation {std:g}")
        for name, codes in self.classes.items():
            if not codes or max(map(abs, codes)) >= 2**24:
                raise ValueError(f"variable {name!r} has no class codes, or codes beyond 24 bits")
        for category in self.categories:
            facts = self.classes if category.kind == "classes" else self.statistics
            lacking = [name for name in category.variables if facts is not None and name not in facts]
            if lacking:
                raise ValueError(f"no {'classes' if category.kind == 'classes' else 'statistics'} of variable {lacking[0]!r}")
        return self

    def channels(self, category: Category) -> int:
        """Return the input channels of a category's branch: its variables, or the classes of all of them."""
        if category.kind == "numeric":
            return len(category.variables)
        return sum(len(self.classes[name]) for name in category.variables)

    @property
    def input_columns(self) -> list[slice]:
        """Where each category's channels lie in the encoded inputs (B, E)."""
        return consecutive([self.channels(category) * category.size**2 for category in self.categories])

    @property
    def input_width(self) -> int:
        """E, the number of encoded inputs of a profile."""
        return self.input_columns[-1].stop

    def changed(self, **changes: Any) -> "Specification":
        """Return a copy with other values, which are checked."""
        return Specification(**(dict(self) | changes))


def difference(mine: Sequence[Category], theirs: Sequence[Category]) -> str | None:
    """Return the first difference between two tables of categories as text, or None; also detects a swapped order."""
    for here, there in zip(mine, theirs, strict=False):
        if here.variables != there.variables and len(here.variables) == len(there.variables):
            k = next(k for k, pair in enumerate(zip(here.variables, there.variables, strict=True)) if pair[0] != pair[1])
            return f"category {here.name!r}: variable {k + 1} is {here.variables[k]!r} here, {there.variables[k]!r} there"
        if here != there:
            return " ".join(
                f"{category.name!r} ({len(category.variables)} variables, radius {category.radius}, {category.kind}) {place}"
                for category, place in ((here, "here,"), (there, "there"))
            )
    return None if len(mine) == len(theirs) else f"{len(mine)} categories here, {len(theirs)} there"
