"""Estimate the bulk density of soil horizons from their organic carbon (SOC) where it was not measured.

In: horizons as flat arrays, SOC in g/kg, bulk density in kg/m3 of fine earth. Out: bulk density for all with SOC, and
how far estimates may err. Stands alone: NumPy and scikit-learn only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

ORGANIC = 80.0
"""g/kg: above it a soil is organic, and bulk density falls with SOC as in `organic_bulk_density`."""
MINERAL_SD, ORGANIC_SD = 260.0, 80.0
"""kg/m3: root mean square errors of the two published functions, on 1,288 mineral and 12 organic horizons of North Macedonia."""
BULK_DENSITIES = (100.0, 2650.0)
"""kg/m3: the least of peat, and quartz without a pore; measured values outside are impossible."""
FEWEST_PROFILES = 20
"""Profiles with measured bulk density, at least, to fit a pedotransfer function to."""
_FOLDS = 10


def organic_bulk_density(soc: np.ndarray) -> np.ndarray:
    """Return the bulk density, kg/m3, of organic soils by SOC, g/kg: 1380 - 310 ln(1 + SOC / 10)."""
    return 1380 - 310 * np.log1p(soc / 10)


def mineral_bulk_density(soc: np.ndarray) -> np.ndarray:
    """Return the bulk density, kg/m3, of mineral soils by SOC, g/kg: 1660 - 318 sqrt(SOC in per cent).

    Of 19,651 horizons, R2 0.41 (Manrique and Jones 1991, Soil Sci. Soc. Am. J. 55, 476-481).
    """
    return 1660 - 318 * np.sqrt(soc / 10)


@dataclass(frozen=True)
class Pedotransfer:
    """Bulk density of mineral soils as a straight line in ln(1 + SOC / 10), fitted to measured horizons.

    Attributes
    ----------
    intercept, slope
        kg/m3.
    horizons, profiles
        What it was fitted to.
    rmse, bias, r2
        Of predictions for profiles left out of the fit, kg/m3 (bias: predicted less measured).
    """

    intercept: float
    slope: float
    horizons: int
    profiles: int
    rmse: float
    bias: float
    r2: float

    def __call__(self, soc: np.ndarray) -> np.ndarray:
        """Return bulk density, kg/m3, by SOC, g/kg."""
        return self.intercept + self.slope * np.log1p(soc / 10)


def fit_pedotransfer(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> Pedotransfer:
    """Fit bulk density to SOC on mineral horizons that have both, and cross-validate by whole profiles in ten folds.

    Parameters
    ----------
    profile
        (L,) int64.
    soc
        (L,) g/kg; horizons above `ORGANIC` or without a value are left out.
    bulk_density
        (L,) kg/m3; NaN where not measured.

    Raises
    ------
    ValueError
        If fewer than `FEWEST_PROFILES` profiles have both.
    """
    both = (soc <= ORGANIC) & np.isfinite(bulk_density)
    found = np.unique(profile[both]).size
    if found < FEWEST_PROFILES:
        raise ValueError(f"{found} profiles have SOC and bulk density; a pedotransfer function needs {FEWEST_PROFILES}")
    x, y = np.log1p(soc[both, None] / 10), bulk_density[both]
    line = LinearRegression().fit(x, y)
    error = cross_val_predict(LinearRegression(), x, y, groups=profile[both], cv=GroupKFold(_FOLDS)) - y
    spread = float(np.mean((y - y.mean()) ** 2))
    return Pedotransfer(
        intercept=float(line.intercept_),
        slope=float(line.coef_[0]),
        horizons=y.size,
        profiles=found,
        rmse=float(np.sqrt(np.mean(error**2))),
        bias=float(error.mean()),
        r2=1 - float(np.mean(error**2)) / spread if spread else float("nan"),
    )


def judge_functions(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> dict[str, dict[str, float]]:
    """Hold what bulk density may be estimated by against what was measured.

    Parameters
    ----------
    profile, soc, bulk_density
        As `fit_pedotransfer` takes them.

    Returns
    -------
    dict
        Function and soils -> horizons, measured (their mean), rmse, bias (estimated less measured) in kg/m3, and r2. The one
        fitted to these horizons is scored on profiles left out, and is missing below `FEWEST_PROFILES`. Soils without a
        measured horizon are missing.
    """
    measured = np.isfinite(soc) & np.isfinite(bulk_density)
    mineral = measured & (soc <= ORGANIC)
    asked = [
        ("Manrique and Jones 1991, mineral", mineral_bulk_density, mineral),
        ("1380 - 310 ln(1 + SOC/10), mineral", organic_bulk_density, mineral),
        ("Manrique and Jones 1991, organic", mineral_bulk_density, measured & ~mineral),
        ("1380 - 310 ln(1 + SOC/10), organic", organic_bulk_density, measured & ~mineral),
    ]
    found = {
        name: _scored(function(soc[rows]) - bulk_density[rows], bulk_density[rows]) for name, function, rows in asked if rows.any()
    }
    if np.unique(profile[mineral]).size >= FEWEST_PROFILES:
        own = fit_pedotransfer(profile, soc, bulk_density)
        numbers = {"horizons": own.horizons, "measured": float(bulk_density[mineral].mean())}
        numbers |= {"rmse": own.rmse, "bias": own.bias, "r2": own.r2}
        found["fitted to these horizons, mineral"] = {name: round(value, 3) for name, value in numbers.items()}
    return found


def _scored(error: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Return how far estimates are off what was measured."""
    mean_square, spread = float(np.mean(error**2)), float(measured.var())
    r2 = 1 - mean_square / spread if spread else float("nan")
    numbers = {"horizons": error.size, "measured": float(measured.mean()), "rmse": mean_square**0.5, "bias": float(error.mean())}
    return {name: round(value, 3) for name, value in (numbers | {"r2": r2}).items()}


def estimate_bulk_density(soc: np.ndarray, mineral: Callable[[np.ndarray], np.ndarray] = mineral_bulk_density) -> np.ndarray:
    """Return bulk density, kg/m3, by SOC, g/kg: `organic_bulk_density` above `ORGANIC`, `mineral` up to it.

    The two do not meet at `ORGANIC`: organic layers are lighter than a line through mineral horizons would have them.
    What either gives beyond `BULK_DENSITIES` is brought to the limit.
    """
    return np.where(soc > ORGANIC, organic_bulk_density(soc), mineral(soc)).clip(*BULK_DENSITIES)


def fill_bulk_density(
    profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pedotransfer | None]:
    """Estimate bulk density where it is missing, by the user's own horizons if enough of them are measured.

    Parameters
    ----------
    profile, soc, bulk_density
        As `fit_pedotransfer` takes them.
    sd
        (L,) kg/m3, of what was measured.

    Returns
    -------
    bulk_density, sd : ndarray
        (L,) kg/m3; NaN where SOC is unknown too. The deviation of an estimate is its function's error.
    pedotransfer : Pedotransfer or None
        What mineral soils were estimated by; None: `mineral_bulk_density`, for fewer than `FEWEST_PROFILES` are measured.
    """
    missing = np.isnan(bulk_density)
    measured = profile[~missing & (soc <= ORGANIC)]
    own = fit_pedotransfer(profile, soc, bulk_density) if np.unique(measured).size >= FEWEST_PROFILES else None
    estimate = estimate_bulk_density(soc, own or mineral_bulk_density)
    error = np.where(soc > ORGANIC, ORGANIC_SD, own.rmse if own else MINERAL_SD)
    return np.where(missing, estimate, bulk_density), np.where(missing, error, sd), own
