"""Growth of a pretrained network by the covariates of a region.

In: a network, and the region's categories. Out: a network with a branch for each category that the pretrained one has not, which
predicts exactly what that one does until it is trained on: the fusion layer reads the new branches with weights of zero. These have
gradients from the first optimiser step, the branches behind them from the second. Variables that the region lacks are taken as
their mean. A standardised mean is 0, which contributes nothing to a convolution without padding: their channels are removed.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from soilcarbon.categories import Category
from soilcarbon.io.files import UserError
from soilcarbon.network.network import MAPS, Growth, Member, SoilCarbonNet
from soilcarbon.network.specification import Specification, difference

MOST_FILLED = 0.5
"""Default of the largest share of a network's variables that are filled by their mean."""
_SHOWN = 8


def plan_growth(
    wanted: Sequence[Category], theirs: Sequence[Category], most_filled: float = MOST_FILLED, as_listed: bool = True
) -> Growth:
    """Return what a network has to gain and to do without for the categories of a region.

    Variables are known by their names, whatever category the region has them in.

    Parameters
    ----------
    wanted
        The region's categories.
    theirs
        The network's.
    most_filled
        Largest share of the network's variables that the region may lack.
    as_listed
        Whether categories that both have must be alike in order, radius and kind, else in kind only: a dataset is read by name.

    Raises
    ------
    UserError
        If a category that both have has other variables, or too many of the network's variables lack.

    Examples
    --------
    >>> world = [Category(name="climate", variables=("mat", "map")), Category(name="topo", variables=("elevation",))]
    >>> own = [Category(name="climate", variables=("mat",)), *world[1:], Category(name="radar", variables=("vv", "vh"), radius=2)]
    >>> found = plan_growth(own, world)
    >>> [each.name for each in found.added], found.filled
    (['radar'], ('map',))
    """
    category_of = {name: each for each in theirs for name in each.variables}
    by_name = {each.name: each for each in theirs}
    added = []
    for each in wanted:
        own = tuple(name for name in each.variables if name not in category_of)
        if same := by_name.get(each.name):
            shared = same.model_copy(update={"variables": tuple(name for name in same.variables if name in each.variables)})
            if own:
                raise UserError(
                    f"category {each.name!r}: variable {own[0]!r} is not one of the checkpoint's there; "
                    "give the region's own variables a category of another name"
                )
            if as_listed and (differs := difference([each], [shared])):
                raise UserError(f"the checkpoint's variables are not the settings': {differs}")
        other = next((name for name in each.variables if name in category_of and category_of[name].kind != each.kind), None)
        if other is not None:
            raise UserError(f"variable {other!r} is of kind {each.kind} here, {category_of[other].kind} in the checkpoint")
        if own:
            added.append(each.model_copy(update={"variables": own}))
    here = {name for each in wanted for name in each.variables}
    filled = tuple(name for name in category_of if name not in here)
    if len(filled) == len(category_of) or len(filled) > most_filled * len(category_of):
        raise UserError(
            f"{len(filled)} of the checkpoint's {len(category_of)} variables are not in the dataset ({named(filled)}), more than "
            f"the share of {most_filled:g} that may be filled by their means (max_filled)"
        )
    return Growth(added=tuple(added), filled=filled)


def named(names: Sequence[str]) -> str:
    """Return names as text, the first eight of many."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def grown_categories(categories: Sequence[Category], growth: Growth) -> tuple[Category, ...]:
    """Return the categories of a grown network: those kept, without what is filled, then those added."""
    kept = [(each, tuple(name for name in each.variables if name not in growth.filled)) for each in categories]
    return *(each.model_copy(update={"variables": names}) for each, names in kept if names), *growth.added


def grow(
    network: SoilCarbonNet,
    growth: Growth,
    statistics: Mapping[str, tuple[float, float]] | None = None,
    classes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> SoilCarbonNet:
    """Grow a network; before training the result predicts what the network does where `filled` variables have their mean.

    Prediction intervals and errors of means are kept where no variable is filled: predictions then are the same, so they hold.
    The area of applicability is not: it is of other predictors.

    Parameters
    ----------
    network
        Any number of members; it is not changed.
    growth
        What is added and filled; its record.
    statistics
        Of added numeric variables, and of all where the network (the published file) has none.
    classes
        Codes of added variables of kind "classes".
    seed
        Of the new branches' weights; those of training are drawn by its members' own seeds.

    Examples
    --------
    >>> network = SoilCarbonNet(Specification()).eval()
    >>> slope = Category(name="local", variables=("curvature",), radius=1)
    >>> grown = grow(network, Growth(added=(slope,)))
    >>> x = torch.randn(4, 32)
    >>> bool(torch.allclose(grown(torch.cat([x, torch.randn(4, 9)], 1)), network(x)))
    True
    """
    facts = network.specification
    known: dict[str, tuple[float, float]] | None = {**(statistics or {}), **(facts.statistics or {})} or None
    codes = {**(classes or {}), **facts.classes}
    grown = facts.changed(
        categories=grown_categories(facts.categories, growth),
        statistics=None if known is None else {name: pair for name, pair in known.items() if name not in growth.filled},
        classes={name: each for name, each in codes.items() if name not in growth.filled},
    )
    record = network.record.model_copy(deep=True)
    record.growth = (*record.growth, growth)
    if growth.filled:
        record.scores, record.scores_of_mean, record.calibrated_on = {}, {}, None
    names = tuple(each.name for each in growth.added)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        drawn = Member(grown)
        tensors = []
        for k, member in enumerate(network.members()):
            drawn.initialise(seed + k)
            tensors.append(drawn.tensors() | _without(member, facts, growth.filled))
            merge = tensors[-1]["features_merge.0.weight"]
            zeros = merge.new_zeros(len(merge), MAPS * len(names), 1, 1)
            tensors[-1]["features_merge.0.weight"] = torch.cat([merge, zeros], 1)
            tensors[-1] = {name: value.clone() for name, value in tensors[-1].items()}
    made = SoilCarbonNet.assemble(grown, tensors, record)
    made.respecify(smearing=facts.smearing)
    made.new = (*network.new, *names)
    if not growth.filled:
        made.calibration, made.errors = network.calibration, network.errors
    return made


def _without(member: Member, facts: Specification, filled: Sequence[str]) -> dict[str, Tensor]:
    """Return a member's tensors without the channels of some variables, which are 0.

    A branch that loses all of them gives the same maps everywhere: what they add to the fusion layer is added to its bias.
    """
    tensors = dict(member.tensors())
    weight, bias = tensors["features_merge.0.weight"], tensors["features_merge.0.bias"].double()
    columns = []
    for k, category in enumerate(facts.categories):
        name = f"features_{category.name}"
        counts = [len(facts.classes[each]) if category.kind == "classes" else 1 for each in category.variables]
        kept = [each not in filled for each, count in zip(category.variables, counts, strict=True) for _ in range(count)]
        column = slice(MAPS * k, MAPS * (k + 1))
        if any(kept):
            tensors[f"{name}.0.weight"] = tensors[f"{name}.0.weight"][:, torch.tensor(kept)]
            columns.append(weight[:, column])
            continue
        maps = member.get_submodule(name)(weight.new_zeros(1, len(kept), category.size, category.size)).flatten()
        bias = bias + weight[:, column].flatten(1).double() @ maps.double()
        tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    return tensors | {"features_merge.0.weight": torch.cat(columns, 1), "features_merge.0.bias": bias.to(weight.dtype)}
