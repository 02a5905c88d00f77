"""Bulk density by pedotransfer functions, from SOC, where it was not measured; coarse fragments by mass and by volume.

All bulk densities and SOC contents are of the fine earth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

from soilcarbon.quantities import QUANTITIES

PARTICLE_DENSITY = 2650.0  # kg/m3, of stones: quartz
ORGANIC = 80.0  # g/kg: above it a soil is organic, and bulk density falls with SOC as in `organic_bulk_density`
MINERAL_SD, ORGANIC_SD = 260.0, 80.0
"""kg/m3: root mean square errors of the two published functions, on 1,288 mineral and 12 organic horizons of North Macedonia."""
BULK_DENSITIES = QUANTITIES["bulk_density"].limits  # kg/m3; measured values outside are impossible
FEWEST_PROFILES = 20  # profiles with measured bulk density, at least, to fit a pedotransfer function to
_FOLDS = 10


def stones_by_volume(by_mass: np.ndarray, bulk_density: np.ndarray) -> np.ndarray:
    """Return coarse fragments in per cent of the soil's volume by those in per cent of the whole soil's mass (beyond 100, 100).

    The stones of w kg in 1 kg of soil fill w / `PARTICLE_DENSITY`, the fine earth (1 - w) / bulk density, kg/m3.

    >>> stones_by_volume(np.array([0.0, 40.0, 100.0]), np.array([1300.0, 1300.0, 1300.0])).round(1)
    array([  0. ,  24.6, 100. ])
    """
    share = np.minimum(by_mass / 100, 1.0)
    stones, earth = share / PARTICLE_DENSITY, (1 - share) / bulk_density
    return 100 * stones / (stones + earth)


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
    """Pedotransfer function: bulk density of mineral soils as a straight line in ln(1 + SOC / 10), fitted to measured horizons."""

    intercept: float  # kg/m3
    slope: float  # kg/m3
    horizons: int  # number it was fitted to
    profiles: int
    rmse: float  # of predictions for profiles left out of the fit, kg/m3, as are bias and r2
    bias: float  # predicted less measured
    r2: float

    def __call__(self, soc: np.ndarray) -> np.ndarray:
        """Return bulk density, kg/m3, by SOC, g/kg."""
        return self.intercept + self.slope * np.log1p(soc / 10)


def fit_pedotransfer(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> Pedotransfer:
    """Fit bulk density (L,), kg/m3, to SOC (L,), g/kg, on mineral horizons that have both, and cross-validate by whole profiles.

    ValueError if fewer than `FEWEST_PROFILES` profiles have both.

    >>> profile, soc = np.repeat(np.arange(30), 2), np.linspace(2.0, 60.0, 60)
    >>> found = fit_pedotransfer(profile, soc, 1600 - 200 * np.log1p(soc / 10))
    >>> round(found.intercept), round(found.slope), found.profiles
    (1600, -200, 30)
    """
    both = (soc <= ORGANIC) & np.isfinite(bulk_density)
    found = np.unique(profile[both]).size
    if found < FEWEST_PROFILES:
        raise ValueError(f"{found} profiles have SOC and bulk density; a pedotransfer function needs {FEWEST_PROFILES}")
    x, y = np.log1p(soc[both, None] / 10), bulk_density[both]
    line = LinearRegression().fit(x, y)
    predicted = cross_val_predict(LinearRegression(), x, y, groups=profile[both], cv=GroupKFold(_FOLDS))
    return Pedotransfer(float(line.intercept_), float(line.coef_[0]), y.size, found, **_errors(predicted, y))


def _errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    error = predicted - measured
    mean_square, variance = float(np.mean(error**2)), float(np.mean((measured - measured.mean()) ** 2))
    r2 = 1 - mean_square / variance if variance else float("nan")
    return {"rmse": float(np.sqrt(mean_square)), "bias": float(error.mean()), "r2": r2}


def score_bulk_density_functions(profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray) -> dict[str, dict[str, float]]:
    """Score the functions that estimate bulk density (kg/m3) from SOC (g/kg) on horizons with both.

    Returns function and soils -> horizons, measured (their mean), rmse, bias (estimated less measured) in kg/m3, and r2. The one
    fitted to these horizons is scored on profiles left out, and is missing below `FEWEST_PROFILES`. Soils without a measured
    horizon are missing.
    """
    measured = np.isfinite(soc) & np.isfinite(bulk_density)
    mineral, organic = measured & (soc <= ORGANIC), measured & (soc > ORGANIC)
    found: dict[str, dict[str, float]] = {}
    for name, function, rows in (
        ("Manrique and Jones 1991, mineral", mineral_bulk_density, mineral),
        ("1380 - 310 ln(1 + SOC/10), mineral", organic_bulk_density, mineral),
        ("Manrique and Jones 1991, organic", mineral_bulk_density, organic),
        ("1380 - 310 ln(1 + SOC/10), organic", organic_bulk_density, organic),
    ):
        if rows.any():
            errors = _errors(function(soc[rows]), bulk_density[rows])
            found[name] = {"horizons": int(rows.sum()), "measured": float(bulk_density[rows].mean()), **errors}
    if np.unique(profile[mineral]).size >= FEWEST_PROFILES:
        own = fit_pedotransfer(profile, soc, bulk_density)
        errors = {"rmse": own.rmse, "bias": own.bias, "r2": own.r2}
        mean = float(bulk_density[mineral].mean())
        found["fitted to these horizons, mineral"] = {"horizons": own.horizons, "measured": mean, **errors}
    return {name: {key: round(value, 3) for key, value in scores.items()} for name, scores in found.items()}


def estimate_bulk_density(soc: np.ndarray, mineral: Callable[[np.ndarray], np.ndarray] = mineral_bulk_density) -> np.ndarray:
    """Return bulk density, kg/m3, by SOC, g/kg: `organic_bulk_density` above `ORGANIC`, `mineral` up to it.

    The two do not meet at `ORGANIC`: organic layers are lighter than the line through mineral horizons. Values beyond
    `BULK_DENSITIES` are set to the limit.

    >>> estimate_bulk_density(np.array([10.0, 40.0, 300.0])).round()
    array([1342., 1024.,  315.])
    """
    return np.where(soc > ORGANIC, organic_bulk_density(soc), mineral(soc)).clip(*BULK_DENSITIES)


def fill_bulk_density(
    profile: np.ndarray, soc: np.ndarray, bulk_density: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Pedotransfer | None]:
    """Estimate bulk density (L,), kg/m3, where missing, by a function fitted to these horizons if enough are measured.

    Returns bulk density, NaN where SOC is unknown too; its standard deviation, of an estimate its function's error; and the
    function for mineral soils, None for `mineral_bulk_density`: fewer than `FEWEST_PROFILES` were measured.
    """
    missing = np.isnan(bulk_density)
    measured = profile[~missing & (soc <= ORGANIC)]
    own = fit_pedotransfer(profile, soc, bulk_density) if np.unique(measured).size >= FEWEST_PROFILES else None
    estimate = estimate_bulk_density(soc, own or mineral_bulk_density)
    error = np.where(soc > ORGANIC, ORGANIC_SD, own.rmse if own else MINERAL_SD)
    return np.where(missing, estimate, bulk_density), np.where(missing, error, sd), own
