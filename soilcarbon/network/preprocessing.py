"""Preprocessing of covariates: standardising, filling of missing cells, clipping, one-hot encoding of classes.

Training, prediction and maps all use this module; the network's specification holds the parameters.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from soilcarbon.categories import column_slices, variable_columns
from soilcarbon.network.specification import Specification

log = logging.getLogger(__name__)
FAR = 4.0
"""Standard deviations from the mean of the training profiles beyond which an input counts as far from them."""


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
        (n, p) float32.
    """
    columns, start = [], 0
    for category in specification.categories:
        part = values[:, start : start + len(category.variables)]
        start += len(category.variables)
        if category.kind == "numeric":
            columns.append(part)
            continue
        codes = [(k, code) for k, name in enumerate(category.variables) for code in specification.classes[name]]
        columns += [np.where(np.isnan(part[:, k]), np.nan, part[:, k] == code)[:, None] for k, code in codes]
    return np.concatenate(columns, axis=1, dtype=np.float32)


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
        log.warning("far from what the network was trained on: %s%s; are the units the same?", "; ".join(far[:3]), more)
