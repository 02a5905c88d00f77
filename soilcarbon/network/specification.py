"""Specification of a network (categories, statistics, policies, bounds), and the preprocessing of covariates that it says.

A checkpoint carries its specification, and standardising, filling of missing cells, clipping and one-hot encoding of classes happen
here alone, so that training, prediction and maps cannot disagree.
"""

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from soilcarbon.categories import (
    PUBLISHED_CATEGORIES,
    Category,
    column_slices,
    consecutive,
    unique_names,
    variable_columns,
)
from soilcarbon.soil.target import Target

log = logging.getLogger(__name__)
FAR = 4.0
"""Standard deviations from the mean of the training profiles beyond which an input counts as far from them."""


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
    label, depth, years
        The target's name where it is another than the column's; its depth interval, cm, and first and last year, where known.
    target_transform
        The target is learnt as it is, or as ln(1 + target).
    output_scale
        Mean and standard deviation of the transformed training targets: the network's output, times the deviation, plus the mean,
        is the transformed target. (0, 1): the output is the transformed target itself, as in the published network.
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
    clip_inputs: float = Field(0.0, ge=0, le=1e30)
    target: str = Field("soc", max_length=60, pattern=r"^[^\x00-\x1f\x7f/\\]+$")
    unit: str = Field("g/kg", max_length=30, pattern=r"^[^$\x00-\x1f\x7f]*$")
    label: str = Field("", max_length=60, pattern=r"^[^\x00-\x1f\x7f]*$")
    depth: tuple[float, float] | None = None
    years: tuple[int, int] | None = None
    target_transform: Literal["none", "log1p"] = "none"
    output_scale: tuple[float, float] = (0.0, 1.0)
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
        if not (abs(self.output_scale[0]) < 1e30 and 1e-30 < self.output_scale[1] < 1e30):
            raise ValueError(f"output_scale {self.output_scale} is no mean and deviation")
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
    def meaning(self) -> Target:
        """What is predicted: name, unit, depth, years."""
        return Target(self.label or self.target, self.unit, self.depth, self.years)

    @property
    def input_columns(self) -> list[slice]:
        """Where each category's channels lie in the encoded inputs (B, E)."""
        return consecutive([self.channels(category) * category.size**2 for category in self.categories])

    @property
    def input_width(self) -> int:
        """E, the number of encoded inputs of a profile."""
        return self.input_columns[-1].stop

    def standardised(self, y: np.ndarray) -> np.ndarray:
        """Return the outputs (n,) float64 that a network should give for targets (n,): transformed and standardised."""
        transformed = np.log1p(y) if self.target_transform == "log1p" else np.asarray(y, np.float64)
        mean, deviation = self.output_scale
        return (transformed - mean) / deviation

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


# --- preprocessing of covariates ----------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Encoder of packed covariates, with the parameters of a specification.

    It has no weights and is not stored in checkpoints: it is rebuilt from their specification.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.specification = specification
        columns = variable_columns(specification.categories)
        pairs = [(specification.statistics or {}).get(name, (0.0, 1.0)) for name in columns]
        cells = torch.tensor([at.stop - at.start for at in columns.values()], device="cpu")
        table = torch.tensor(pairs, dtype=torch.float32, device="cpu").repeat_interleave(cells, 0)
        mean, std = table.T.contiguous()
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode packed covariates.

        Parameters
        ----------
        x
            (B, F) float32, raw units, missing = NaN.

        Returns
        -------
        Tensor
            (B, E); E = F where no category is of kind "classes".
        """
        facts = self.specification
        filled = torch.zeros_like(x) if facts.missing == "zero" else self._mean.expand_as(x)
        z = (torch.where(torch.isnan(x), filled, x) - self._mean) / self._std
        if facts.clip_inputs:
            z = z.clamp(-facts.clip_inputs, facts.clip_inputs)
        if not facts.classes:
            return z
        parts = []
        for category, columns in zip(facts.categories, column_slices(facts.categories).values(), strict=True):
            if category.kind == "numeric":
                parts.append(z[:, columns])
                continue
            codes = x[:, columns].unflatten(1, (len(category.variables), -1))
            for k, name in enumerate(category.variables):
                known = torch.tensor(facts.classes[name], dtype=x.dtype, device=x.device)
                parts.append((codes[:, k, None, :] == known[None, :, None]).to(x.dtype).flatten(1))
        return torch.cat(parts, 1)


def unfold_classes(values: np.ndarray, specification: Specification) -> np.ndarray:
    """One-hot encode classes for distances in predictor space; numeric variables stay unchanged.

    Parameters
    ----------
    values
        (n, V) every variable's value at a place, raw units, missing = NaN, in the specification's order.
    specification
        Of a network.

    Returns
    -------
    ndarray
        (n, p) float32; NaN where missing, and where a code is none of the network's classes.
    """
    columns, start = [], 0
    for category in specification.categories:
        part = values[:, start : start + len(category.variables)]
        start += len(category.variables)
        if category.kind == "numeric":
            columns.append(part)
            continue
        for k, name in enumerate(category.variables):
            known = np.isin(part[:, k], specification.classes[name])
            columns += [np.where(known, part[:, k] == code, np.nan)[:, None] for code in specification.classes[name]]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def variable_of_predictor(specification: Specification) -> list[str]:
    """Return the variable that each column of `unfold_classes` belongs to: a class has one of its own."""
    return [
        name
        for category in specification.categories
        for name in category.variables
        for _ in range(len(specification.classes[name]) if category.kind == "classes" else 1)
    ]


def warn_of_far_inputs(specification: Specification, x: np.ndarray) -> None:
    """Log which variables of covariates (n, F) lie far outside the range of the training profiles.

    More than 5 % of the values beyond four standard deviations, or of the class codes unknown: a wrong unit, or other covariates.
    """
    far = []
    for name, columns in variable_columns(specification.categories).items():
        cells = x[:, columns][np.isfinite(x[:, columns])].astype(np.float64)
        if not cells.size:
            continue
        if name in specification.classes:
            unlike, origin = ~np.isin(cells, specification.classes[name]), "codes"
        elif specification.statistics is not None:
            mean, std = specification.statistics[name]
            unlike, origin = np.abs(cells - mean) > FAR * std, f"values (mean {cells.mean():.4g} here, {mean:.4g} there)"
        else:
            continue
        if unlike.mean() > 0.05:
            far.append(f"{unlike.mean():.0%} of {name}'s {origin}")
    if far:
        more = f" and {len(far) - 3} more variables" if len(far) > 3 else ""
        log.warning("far from what the model was trained on: %s%s; are the units the same?", "; ".join(far[:3]), more)
