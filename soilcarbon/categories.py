"""Categories of covariates: groups of variables, one branch of the network each, and where their columns lie."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Category(BaseModel):
    """A group of variables that shares one branch of the network.

    Attributes
    ----------
    name
        Names the branch's tensors, `features_<name>.0.weight`.
    variables
        In the order of the branch's input channels.
    radius
        r; the branch sees a window of S = 2r+1 cells round the profile.
    kind
        "numeric": standardised. "classes": integer codes (lithology, land cover), one channel per class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)
    variables: tuple[str, ...] = Field(min_length=1)
    radius: int = Field(0, ge=0, le=50)
    kind: Literal["numeric", "classes"] = "numeric"

    @field_validator("name")
    @classmethod
    def _not_the_fusion_layers(cls, name: str) -> str:
        if name == "merge":
            raise ValueError("a category must not be named 'merge', the fusion layer's name")
        return name

    @property
    def size(self) -> int:
        """S = 2r+1, the window's side in cells."""
        return 2 * self.radius + 1

    @property
    def width(self) -> int:
        """C*S*S, the columns the category takes in the packed array."""
        return len(self.variables) * self.size**2


def column_slices(categories: Sequence[Category]) -> dict[str, slice]:
    """Return where each category's columns lie in the packed array (N, F), F the sum of their widths."""
    ends = [sum(category.width for category in categories[: k + 1]) for k in range(len(categories))]
    return {category.name: slice(end - category.width, end) for category, end in zip(categories, ends, strict=True)}


# The published network's inputs (Zhang et al. 2025), in the order of its channels. Nothing else names a category.
PUBLISHED_CATEGORIES = (
    Category(name="band", variables=tuple(f"band{k}" for k in range(1, 8))),
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="climate", variables=tuple(f"bio{k:02d}" for k in range(1, 20))),
    Category(name="vege", variables=("evi_mean", "evi_min", "evi_max")),
    Category(name="bedrock", variables=("bedrock",)),
)


def unique_names(categories: tuple[Category, ...] | None) -> tuple[Category, ...] | None:
    """Return the categories if there are any and no name comes twice; else ValueError, for pydantic."""
    if categories is not None:
        if not categories:
            raise ValueError("at least one category is needed")
        for names in ([c.name for c in categories], [v for c in categories for v in c.variables]):
            double = next((name for name in names if names.count(name) > 1), None)
            if double:
                raise ValueError(f"{double!r} is named twice")
    return categories
