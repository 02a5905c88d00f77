"""Places of profiles: which share their covariates with a training profile, and how precisely coordinates are given."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from soilcarbon.stats.variogram import KM_PER_DEGREE

STEPS = {
    1.0: "1 degree",
    0.5: "0.5 degrees",
    0.25: "0.25 degrees",
    1 / 6: "10 arc minutes",
    0.1: "0.1 degrees",
    1 / 12: "5 arc minutes",
    0.05: "0.05 degrees",
    1 / 60: "1 arc minute",
    0.01: "0.01 degrees",
    1 / 120: "30 arc seconds",
    0.001: "0.001 degrees",
    1 / 3600: "1 arc second",
}
"""Degrees to whose multiples coordinates are often rounded, the coarsest first, and their names."""
_WRITTEN = 5e-5  # degrees: what a fraction loses when it is written with four decimals


def share_covariates(centres: Mapping[str, np.ndarray], split: np.ndarray) -> dict[str, int]:
    """Count profiles held out whose covariates are all those of a training profile: mostly they lie in its raster cell.

    `centres` has the variables (N,) in the profiles' own cells.

    >>> share_covariates({"slope": np.array([1.0, 1.0, 2.0])}, np.array(["train", "test", "test"]))
    {'valid': 0, 'test': 1}
    """
    cell = pd.DataFrame(dict(centres)).groupby(list(centres), dropna=False, sort=False).ngroup().to_numpy()
    shared = np.isin(cell, cell[split == "train"])
    return {name: int((shared & (split == name)).sum()) for name in ("valid", "test")}


def coordinate_step(lon: np.ndarray, lat: np.ndarray) -> tuple[float, str, float] | None:
    """Return the coarsest step, degrees, of whose multiples half of the coordinates or more are, its name, and their share.

    None if there is no such step of `STEPS`, or there are fewer than 10 places.

    >>> lon = np.arange(20) / 60
    >>> coordinate_step(lon.round(5), 50 + lon.round(5))
    (0.016666666666666666, '1 arc minute', 1.0)
    """
    places = np.unique(np.stack([lon, lat], axis=1), axis=0)
    if len(places) < 10:
        return None
    for step, name in STEPS.items():
        written = 1e-7 if float(f"{step:.6g}") == step else _WRITTEN
        share = float((np.abs(places - np.rint(places / step) * step) <= written).all(axis=1).mean())
        if share >= 0.5:
            return step, name, share
    return None


def precision_hint(lon: np.ndarray, lat: np.ndarray, cell: float) -> str | None:
    """Return a sentence if coordinates are rounded to steps wider than a raster cell, `cell` metres.

    >>> lon = np.arange(20) / 10
    >>> precision_hint(lon, 50 + lon, cell=250.0)[:91]
    '100 % of the places are multiples of 0.1 degrees: they may be 5,560 m off, and raster cells'
    """
    found = coordinate_step(lon, lat)
    if found is None or found[0] * KM_PER_DEGREE * 1000 <= cell:
        return None
    step, name, share = found
    off = 500 * KM_PER_DEGREE * step
    apart, wide = (f"{float(f'{metres:.3g}'):,.0f} m" for metres in (off, cell))
    words = f"they may be {apart} off, and raster cells are {wide} wide"
    return f"{100 * share:.0f} % of the places are multiples of {name}: {words}; covariates may be of other soil"
