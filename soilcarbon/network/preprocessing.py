"""From raw covariates to the network's inputs: standardise, fill what is missing, hold within limits, unfold classes.

The one place where this happens, for training, prediction and maps alike; what is done is the specification's.
"""

import numpy as np
import torch
from torch import Tensor, nn

from soilcarbon.categories import column_slices
from soilcarbon.network.specification import Specification


class Encoder(nn.Module):
    """Encode packed covariates as a specification says.

    It has no weights, and nothing of it is stored: a checkpoint's specification makes it anew.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self.specification = specification
        pairs, cells = [], []
        for category in specification.categories:
            pairs += [(specification.statistics or {}).get(name, (0.0, 1.0)) for name in category.variables]
            cells += [category.size**2] * len(category.variables)
        table = torch.tensor(pairs, dtype=torch.float32, device="cpu").repeat_interleave(torch.tensor(cells, device="cpu"), 0)
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
    """Return predictors of which distances can be told: numeric variables as they are, classes as 0/1 columns.

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
