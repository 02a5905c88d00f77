"""Categories of covariates, and their columns in the packed array.

A category is a group of variables that shares one branch of the network. Covariates of N profiles lie in one packed array
(N, F), F = sum over categories of C*S*S: category by category, variable by variable, each window row by row. All arithmetic on
these columns is here.
"""

import re
from collections.abc import Collection, Hashable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import numpy as np

COLUMNS = 10_000_000  # cells of all windows of a profile: 200 variables at radius 50 have 2,000,000


class Category(BaseModel):
    """A group of variables that shares one branch of the network.

    >>> relief = Category(name="relief", variables=("elevation", "slope"), radius=1)
    >>> relief.size, relief.width
    (3, 18)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)  # of the branch's tensors, `features_<name>.0.weight`
    variables: tuple[str, ...] = Field(min_length=1)  # in the order of the branch's input channels
    radius: int = Field(0, ge=0, le=50)  # r; the branch sees a window of S = 2r+1 cells round the profile
    kind: Literal["numeric", "classes"] = "numeric"  # "classes": integer codes (lithology, land cover), one channel per class

    @field_validator("name")
    @classmethod
    def _not_the_fusion_layers(cls, name: str) -> str:
        if name == "merge":
            raise ValueError("a category must not be named 'merge', the fusion layer's name")
        return name

    @field_validator("variables")
    @classmethod
    def _names_are_no_paths(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((name for name in names if re.search(r"[/\\\x00-\x1f]|^\.*$", name)), None)
        if wrong is not None:
            raise ValueError(f"variable {wrong!r} names a file, and must have no / or \\")
        return names

    @property
    def size(self) -> int:
        """S = 2r+1, the window's side in cells."""
        return 2 * self.radius + 1

    @property
    def width(self) -> int:
        """C*S*S, the columns the category takes in the packed array."""
        return len(self.variables) * self.size**2


# The published network's inputs (Zhang et al. 2025), in the order of its channels. Nothing else names a category.
PUBLISHED_CATEGORIES = (
    Category(name="band", variables=tuple(f"band{k}" for k in range(1, 8))),
    Category(name="topo", variables=("elevation", "slope")),
    Category(name="climate", variables=tuple(f"bio{k:02d}" for k in range(1, 20))),
    Category(name="vege", variables=("evi_mean", "evi_min", "evi_max")),
    Category(name="bedrock", variables=("bedrock",)),
)


def first_repeated(names: Sequence[Hashable]) -> Any:
    """Return the first name that stands behind its equal, or None.

    >>> first_repeated(["slope", "elevation", "slope"])
    'slope'
    """
    seen: set[Hashable] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def unique_names(categories: tuple[Category, ...] | None) -> tuple[Category, ...] | None:
    """Validate that there are categories with unique names (pydantic validator); ValueError otherwise."""
    if categories is not None:
        if not categories:
            raise ValueError("at least one category is needed")
        for names in ([c.name for c in categories], [v for c in categories for v in c.variables]):
            double = first_repeated(names)
            if double is not None:
                raise ValueError(f"{double!r} is named twice")
        if (width := packed_width(categories)) > COLUMNS:
            raise ValueError(f"{width:,} cells of all windows are more than {COLUMNS:,}; take a smaller radius or fewer variables")
    return categories


def separate_classes(categories: Sequence[Category], classes: Collection[str]) -> tuple[Category, ...]:
    """Return categories in which variables that are class codes stand apart, in categories of kind "classes".

    >>> cover = Category(name="cover", variables=("trees", "class"))
    >>> [(each.name, each.variables, each.kind) for each in separate_classes([cover], {"class"})]
    [('cover', ('trees',), 'numeric'), ('cover_classes', ('class',), 'classes')]
    """
    found = []
    for each in categories:
        coded = tuple(name for name in each.variables if each.kind == "classes" or name in classes)
        rest = tuple(name for name in each.variables if name not in coded)
        if rest:
            found.append(each.model_copy(update={"variables": rest}))
        if coded:
            name = f"{each.name}_classes" if rest else each.name
            found.append(each.model_copy(update={"name": name, "variables": coded, "kind": "classes"}))
    return tuple(found)


def without_windows(categories: Sequence[Category]) -> tuple[Category, ...]:
    """Return categories of the profiles' own cells."""
    return tuple(each.model_copy(update={"radius": 0}) for each in categories)


def class_variables(categories: Sequence[Category]) -> list[str]:
    """Return the variables that are class codes."""
    return [name for each in categories if each.kind == "classes" for name in each.variables]


def consecutive(widths: Sequence[int]) -> list[slice]:
    """Return the slices of consecutive blocks of columns of given widths.

    >>> consecutive([2, 1])
    [slice(0, 2, None), slice(2, 3, None)]
    """
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


def packed_width(categories: Sequence[Category]) -> int:
    """Return F, the number of columns of the packed array.

    >>> packed_width(PUBLISHED_CATEGORIES)
    32
    """
    return sum(category.width for category in categories)


def column_slices(categories: Sequence[Category]) -> dict[str, slice]:
    """Return category -> its columns in the packed array (N, F).

    >>> column_slices(PUBLISHED_CATEGORIES)["topo"]
    slice(7, 9, None)
    """
    columns = consecutive([category.width for category in categories])
    return {category.name: each for category, each in zip(categories, columns, strict=True)}


def variable_columns(categories: Sequence[Category]) -> dict[str, slice]:
    """Return variable -> its columns in the packed array (N, F), one per cell of its window.

    >>> variable_columns([Category(name="relief", variables=("elevation", "slope"), radius=1)])
    {'elevation': slice(0, 9, None), 'slope': slice(9, 18, None)}
    """
    cells = [(name, category.size**2) for category in categories for name in category.variables]
    columns = consecutive([count for _, count in cells])
    return {name: each for (name, _), each in zip(cells, columns, strict=True)}


def variable_of_column(categories: Sequence[Category]) -> list[int]:
    """Return the number of the variable that each of the F columns belongs to."""
    return [k for k, at in enumerate(variable_columns(categories).values()) for _ in range(at.start, at.stop)]


def class_columns(categories: Sequence[Category]) -> list[bool]:
    """Return whether each of the F columns holds class codes."""
    return [category.kind == "classes" for category in categories for _ in range(category.width)]


def category_views(x: "np.ndarray", categories: Sequence[Category]) -> "dict[str, np.ndarray]":
    """Return category -> its patches (N, C, S, S), views of the packed array (N, F)."""
    columns = column_slices(categories)
    return {each.name: x[:, columns[each.name]].reshape(len(x), -1, each.size, each.size) for each in categories}


def middle_cells(x: "np.ndarray", categories: Sequence[Category]) -> "np.ndarray":
    """Return each variable's value in the profile's own cell, (n, V), of packed covariates (n, F)."""
    return x.take([(at.start + at.stop) // 2 for at in variable_columns(categories).values()], axis=1)
