"""Plausibility bounds and units of every quantity that is read: one table, with sources, and one check of a column or raster.

A value beyond `Quantity.limits` is impossible: a row to be rejected and counted. A column in which most values are impossible, or
all are far too small, is in another unit: `check_plausible` raises a question that names the unit it looks like.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from soilcarbon.io.files import UserError


@dataclass(frozen=True)
class Quantity:
    """A measured quantity: its standard unit, bounds in that unit, the other units it comes in, and the bounds' source."""

    name: str
    unit: str  # the standard one
    limits: tuple[float, float]  # the least and the largest possible value
    usual: tuple[float, float]  # a column's largest value is above the first, its median (of values other than 0) up to the second
    units: Mapping[str, tuple[float, float]]  # unit -> (factor, offset): standard value = value * factor + offset
    source: str


_PER_CENT = {"percent": (1.0, 0.0), "fraction": (100.0, 0.0), "per_mille": (0.1, 0.0)}
QUANTITIES: dict[str, Quantity] = {
    "depth": Quantity(
        "depth", "cm", (-200.0, 10_000.0), (3.0, 1000.0),
        {"cm": (1.0, 0.0), "m": (100.0, 0.0), "mm": (0.1, 0.0), "in": (2.54, 0.0)},
        "organic layers are described to 2 m upwards at most; the deepest of WoSIS 2023 are of some tens of metres",
    ),
    "thickness": Quantity(
        "thickness of horizons", "cm", (0.0, 10_000.0), (1.0, 100.0),
        {"cm": (1.0, 0.0), "m": (100.0, 0.0), "mm": (0.1, 0.0), "in": (2.54, 0.0)},
        "FAO 2006, Guidelines for Soil Description: horizons from 1 cm; few layers are thicker than 1 m",
    ),
    "stones": Quantity(
        "coarse fragments", "percent", (0.0, 100.0), (1.0, 100.0),
        _PER_CENT | {"cm3/dm3": (0.1, 0.0), "mass_percent": (1.0, 0.0), "mass_fraction": (100.0, 0.0)},
        "a share; of volume, unless the unit says mass. SoilGrids and WoSIS: cfvo in cm3/dm3 or per cent of volume",
    ),
    "bulk_density": Quantity(
        "bulk density", "kg/m3", (100.0, 2650.0), (100.0, 2300.0),
        {"g/cm3": (1000.0, 0.0), "kg/m3": (1.0, 0.0), "kg/dm3": (1000.0, 0.0), "Mg/m3": (1000.0, 0.0), "t/m3": (1000.0, 0.0),
         "cg/cm3": (10.0, 0.0)},
        "the least of peat, and quartz without a pore",
    ),
    "soc": Quantity(
        "SOC", "g/kg", (0.0, 1000.0), (0.6, 580.0),
        {"g/kg": (1.0, 0.0), "%": (10.0, 0.0), "mg/kg": (1e-3, 0.0), "mg/g": (1.0, 0.0), "g/g": (1000.0, 0.0), "dg/kg": (0.1, 0.0)},
        "organic matter has 58 per cent of carbon (van Bemmelen), and topsoils of the world a median near 12 g/kg (WoSIS)",
    ),
    "year": Quantity(
        "year", "year", (1850.0, 2100.0), (1850.0, 2100.0), {"year": (1.0, 0.0)},
        "the first described profiles of WoSIS are of 1920",
    ),
    "longitude": Quantity(
        "longitude", "degrees", (-180.0, 360.0), (-180.0, 360.0), {"degrees": (1.0, 0.0)}, "an angle, east of Greenwich"
    ),
    "latitude": Quantity(
        "latitude", "degrees", (-90.0, 90.0), (-90.0, 90.0), {"degrees": (1.0, 0.0)}, "an angle, north of the equator"
    ),
    "temperature": Quantity(
        "mean annual temperature", "degC", (-60.0, 40.0), (-60.0, 35.0),
        {"degC": (1.0, 0.0), "K": (1.0, -273.15), "0.1 degC": (0.1, 0.0), "0.1 K": (0.1, -273.15), "degF": (5 / 9, -160 / 9)},
        "Dome A has -58, Dallol 34.6 degC",
    ),
    "precipitation": Quantity(
        "annual precipitation", "mm", (0.0, 13_000.0), (20.0, 6000.0),
        {"mm": (1.0, 0.0), "m": (1000.0, 0.0), "0.1 mm": (0.1, 0.0), "mm/day": (365.25, 0.0), "mm/month": (12.0, 0.0),
         "kg m-2 s-1": (31_557_600.0, 0.0), "m/s": (3.15576e10, 0.0)},
        "Mawsynram has 11,872 mm",
    ),
}  # fmt: skip
"""Name -> bounds and units. The first of a quantity's units that fits is the one that a question names."""


_SPELT = {
    "c": "degC", "°c": "degC", "celsius": "degC", "degreesc": "degC", "degreescelsius": "degC", "kelvin": "K", "degreesk": "K",
    "mm/year": "mm", "mm/yr": "mm", "mmyr-1": "mm", "mma-1": "mm", "kgm-2": "mm", "kgm-2yr-1": "mm", "mmday-1": "mm/day",
}  # fmt: skip
"""Units as files spell them, without blanks and in lower case -> one of `Quantity.units`."""


def spelt_unit(quantity: str, text: str) -> str | None:
    """Return one of a quantity's units for a unit as files or users spell it; None for any other.

    >>> spelt_unit("temperature", "Kelvin"), spelt_unit("precipitation", "kgm-2s-1"), spelt_unit("temperature", "mm")
    ('K', 'kg m-2 s-1', None)
    """
    plain = "".join(text.split()).lower()
    known = {"".join(unit.split()).lower(): unit for unit in QUANTITIES[quantity].units}
    found = known.get(plain) or _SPELT.get(plain)
    return found if found in QUANTITIES[quantity].units else None


_MANY = 0.1
"""Share of impossible values from which on they are no slips, if all values are possible in another unit."""
DENSITY_LIMITS = {"kg/m2": 2000.0, "g/m2": 2e6, "t/ha": 20_000.0, "g/cm3": 2.65, "kg/m3": 2650.0}
"""Unit -> largest density of carbon: of an area, a peat of 30 m contains 2,000 kg/m2; of a volume, quartz without a pore."""
CARBON_UNITS = {
    **{"kg/m2": ("kg/m2", 1.0), "g/m2": ("kg/m2", 1e-3), "t/ha": ("kg/m2", 0.1)},
    **{"g/kg": ("g/kg", 1.0), "dg/kg": ("g/kg", 0.1), "%": ("g/kg", 10.0)},
}
"""Unit -> what it is brought to, and the factor."""


_CARBON_SPELT = {
    **{"kgm-2": "kg/m2", "gm-2": "g/m2", "gkg-1": "g/kg", "dgkg-1": "dg/kg"},
    **dict.fromkeys(("percent", "pct", "percentage", "wt%", "mass%", "g/100g", "dag/kg", "dagkg-1"), "%"),
    **dict.fromkeys(("tha-1", "mgha-1", "mg/ha", "ton/ha", "tons/ha", "tonne/ha", "tonnes/ha"), "t/ha"),
    **dict.fromkeys(("mg/g", "‰", "permille"), "g/kg"),
}
"""The same as files spell them, without blanks and signs of powers."""


def unit_of(text: str | None) -> str | None:
    """Return one of `CARBON_UNITS` for a unit as files spell it, such as "kg m-2" or "kgC m^-2"; None for any other."""
    if text is None:
        return None
    plain = re.sub(r"[\s_*^{}().]|of|carbon", "", str(text).lower()).replace("m²", "m2")
    plain = re.sub(r"(?<=g)c(?=m|/|ha|$)", "", plain)
    found = _CARBON_SPELT.get(plain, plain)
    return found if found in CARBON_UNITS else None


def to_standard(values: np.ndarray, quantity: str, unit: str) -> np.ndarray:
    """Return values in the quantity's standard unit; ValueError if the unit is none of the quantity's.

    >>> to_standard(np.array([1.5, 2.0]), "soc", "%")
    array([15., 20.])
    """
    found = QUANTITIES[quantity]
    if unit not in found.units:
        raise ValueError(f"{found.name}: unit {unit!r} is none of {', '.join(found.units)}")
    factor, offset = found.units[unit]
    with np.errstate(over="ignore"):  # an infinite value is impossible, and counted as such
        return np.asarray(values, np.float64) * factor + offset


def possible(values: np.ndarray, quantity: str, unit: str) -> np.ndarray:
    """Return which values (any shape, NaN: not) lie within the quantity's limits."""
    standard, (low, high) = to_standard(values, quantity, unit), QUANTITIES[quantity].limits
    return np.asarray((standard >= low) & (standard <= high))


def check_plausible(
    values: np.ndarray, quantity: str, unit: str | None = None, where: str = "", setting: str = "", stated: bool = False
) -> None:
    """Raise a question if the values of a column or raster look like another unit.

    NaN and infinite values are not looked at. Few impossible ones pass: they are the caller's to reject and count. `unit` is what
    they are taken for, by default the standard one, and if it was `stated` by the user only a majority of impossible values is
    asked about. `where` (file and column) and `setting`, the beginning of what says the unit, are named in the question.
    """
    found = QUANTITIES[quantity]
    unit = unit or found.unit
    given = np.asarray(values, np.float64).ravel()
    given = given[np.isfinite(given)]
    if found.limits[0] > 0:
        given = given[given != 0]  # for missing, in any unit
    standard = to_standard(given, quantity, unit)
    bad = ~possible(given, quantity, unit)
    elsewhere = [other for other in found.units if possible(given, quantity, other).mean() > 0.99] if bad.any() else []
    impossible_mostly = 2 * bad.sum() > bad.size or bool(not stated and elsewhere and bad.sum() > _MANY * bad.size)
    if not impossible_mostly:
        if stated or _is_usual(standard, found):
            return
        saw = f"{given.size} values ({given.min():.6g} to {given.max():.6g}) are unusual for {found.name} in {unit}"
    else:
        low, high = ((limit - found.units[unit][1]) / found.units[unit][0] for limit in found.limits)
        saw = f"{bad.sum()} of {given.size} values (first {given[bad][0]:.8g}) are no {found.name} in {unit} ({low:g} to {high:g})"
    # of units of one scale the first: g/cm3, not t/m3 too
    differing = {scale: other for other, scale in reversed(list(found.units.items())) if scale != found.units[unit]}
    others = [other for other in found.units if other in differing.values() and _fits(given, quantity, other)]
    looks = f"they look like {' or '.join(others[:2])}" if others else "they look like no unit that is known"
    if setting and others:
        looks += f": {setting}{' or '.join(map(_typed, others[:2]))} says so"
        looks += "" if impossible_mostly else f"; {setting}{_typed(unit)} if they are right"
    raise UserError(f"{where}{': ' if where else ''}{saw}; {looks}")


def _typed(unit: str) -> str:
    """Return a unit as it is typed in a shell."""
    return f'"{unit}"' if " " in unit else unit


def _is_usual(standard: np.ndarray, quantity: Quantity) -> bool:
    """Return whether values have the usual size; nothing but zeros has no size."""
    some = standard[standard != 0]
    return not some.size or bool(some.max() > quantity.usual[0] and np.median(some) <= quantity.usual[1])


def _fits(values: np.ndarray, quantity: str, unit: str) -> bool:
    """Return whether most values are possible and usual in a unit."""
    good = possible(values, quantity, unit)
    return 2 * int(good.sum()) > good.size and _is_usual(to_standard(values[good], quantity, unit), QUANTITIES[quantity])
