"""The target of a dataset: its name, unit, depth interval and years, and which values are possible.

A unit is stated (`--unit`), or follows from the name of the column: soil organic carbon (soc, orgc, toc ...) is in g/kg, and
socd_0_30, as `soilcarbon densities` writes it, in kg/m2. Any other name is asked about.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.quantities import DENSITY_LIMITS, QUANTITIES, unit_of

_DENSITY = re.compile(r"socd_\d+(\.\d+)?_\d+(\.\d+)?")
_OTHER = {
    r"(^|_)(pct|perc|percent|prc|prozent)(_|$)|%|da_?g_?(per_?)?kg|g_?(per_?)?100_?g": "per cent",
    r"(^|_)per_?mille(_|$)": "per mille",
    r"kg_?m_?2|(^|_)g_?m_?2(_|$)|socd|ocd|density": "a density",
    r"stock|(^|_)ocs(_|$)|(^|_)(t|mg|ton|tons|tonnes)_?(c_?)?(per_?)?ha": "a stock of carbon",
    r"(^|_)s?om(_|$)|humus|org(anic)?_?mat|(^|_)loi(_|$)|ignition": "organic matter",
    r"(^|_)([mu]g_?(c_?)?(per_?)?kg|ppm)(_|$)": "mg/kg",
}
"""Pattern of a name in small letters, other characters being "_" -> what it is, which is not SOC in g/kg."""
_SOC = re.compile(
    r"soc|(^|_)[st]?oc(_|$)|orgc|org_?c(arb)?|(^|_)(t|oc|c)_?org|carbon(?!at)|(^|_)[ct]_?(tot|total)?(_|$)|value_avg|(^|_)g_?(c_?)?(per_?)?kg(_|$)"
)
_STATED = re.compile(r"(^|_)g_?(c_?)?(per_?)?kg(_|$)|(?<![mdkuµ])(?<!da)gkg|value_avg")
_DEPTHS = re.compile(r"(\d+(?:\.\d+)?)_?(?:to_?)?_(\d+(?:\.\d+)?)(?:_?cm)?$")


@dataclass(frozen=True)
class Target:
    """Meaning of a target: name, unit ("" where unknown), depth interval (cm) and first and last year of sampling where known.

    Examples
    --------
    >>> target = Target("soc", "g/kg", (0, 30), (1998, 2015))
    >>> target.title, target.limits
    ('SOC, 0-30 cm, 1998-2015', (0.0, 1000.0))
    """

    name: str = "soc"
    unit: str = "g/kg"
    depth: tuple[float, float] | None = None
    years: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """What is mapped, for a heading, without the unit."""
        return title(self.name, self.depth, self.years)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest possible value in the unit; infinite where not known."""
        return limits_of(self.unit)

    def as_plain(self) -> dict[str, Any]:
        """Return it as plain containers, for dataset.yaml."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def title(name: str, depth: tuple[float, float] | None, years: tuple[int, int] | None) -> str:
    """Return a heading: what, depth, years.

    >>> title("socd_0_20", (0.0, 20.0), (2010, 2010)), title("humus", None, None)
    ('SOC density, 0-20 cm, 2010', 'humus')
    """
    plain = name.lower()
    what = "SOC density" if _DENSITY.fullmatch(plain) else "SOC" if re.fullmatch(r"soc(_[\d.]+_[\d.]+)?", plain) else name
    depths = f"{depth[0]:g}-{depth[1]:g} cm" if depth else ""
    span = "" if not years else f"{years[0]}" if years[0] == years[1] else f"{years[0]}-{years[1]}"
    return ", ".join(part for part in (what, depths, span) if part)


def limits_of(unit: str) -> tuple[float, float]:
    """Return the least and the largest possible value in a unit; infinite for units of which that is not known.

    >>> limits_of("%"), limits_of("t/ha"), limits_of("dimensionless")
    ((0.0, 100.0), (0.0, 20000.0), (-inf, inf))
    """
    soc, spelt = QUANTITIES["soc"], unit_of(unit) or unit
    if spelt in soc.units:
        return 0.0, soc.limits[1] / soc.units[spelt][0]
    return (0.0, DENSITY_LIMITS[spelt]) if spelt in DENSITY_LIMITS else (-np.inf, np.inf)


def target_of(column: str, unit: str | None, where: Path | str, depth: tuple[float, float] | None = None) -> Target:
    """Return the meaning of a column from its name, and from what the user stated: its unit, and the depth interval (cm).

    UserError (of the file `where`) if no unit is stated, and the name is none of soil
    organic carbon in g/kg or of a density made here.

    >>> target_of("orgc_gkg", None, "points.csv"), target_of("socd_0_20", None, "points.csv").unit
    (Target(name='soc', unit='g/kg', depth=None, years=None), 'kg/m2')
    >>> target_of("humus", None, "points.csv")
    Traceback (most recent call last):
    soilcarbon.io.files.UserError: points.csv: the target 'humus' looks like organic matter, not like SOC in g/kg; ...
    """
    plain = re.sub(r"[^a-z0-9%.]+", "_", column.lower().strip())
    found = _DEPTHS.search(plain)
    if depth is None and found and float(found[1]) < float(found[2]):
        depth = float(found[1]), float(found[2])
    if unit is None and _DENSITY.fullmatch(plain):
        unit = "kg/m2"
    if unit is None:
        bare = plain.replace("_", "")
        other = next((what for pattern, what in _OTHER.items() if re.search(pattern, plain)), None)
        if other is None and not _SOC.search(plain) and not _STATED.search(bare):
            other = "something else than soil organic carbon"
        if other is not None:
            looks = f"looks like {other}, not like SOC in g/kg"
            raise UserError(f"{where}: the target {column!r} {looks}; --unit says its unit (%, kg/m2, g/kg ...)")
        unit = "g/kg"
    unit = unit_of(unit) or unit.strip()
    is_soc = unit == "g/kg" and bool(_SOC.search(plain))
    return Target("soc" if is_soc else column, unit, depth)


def organic_matter_unit(column: str, where: Path | str) -> str:
    """Return the unit of a column of organic matter, "g/kg", if its name says so.

    UserError if it does not: organic matter is given in per cent as often.
    """
    if not unit_is_stated(column):
        raise UserError(f"{where}: is {column!r} in per cent or in g/kg? --unit % or --unit g/kg says it")
    return "g/kg"


def unit_is_stated(column: str) -> bool:
    """Return whether a column's name says g/kg.

    >>> unit_is_stated("SOC (g/kg)"), unit_is_stated("soc")
    (True, False)
    """
    return bool(_STATED.search(re.sub(r"[^a-z0-9%]+", "_", column.lower())))


def target_from_plain(facts: Mapping[str, Any] | None, column: str, where: Path | str) -> Target:
    """Return the meaning of a column of a dataset's sample table, from the record of its target (`Target.as_plain`).

    The column is "soc", a further interval of it such as soc_0_5, or any other. Without a record soc is in g/kg. UserError if it is
    damaged.
    """
    own = Target()
    if facts is not None:
        try:
            depth, years = facts.get("depth"), facts.get("years")
            own = Target(
                str(facts["name"])[:60],
                str(facts["unit"])[:30],
                (float(depth[0]), float(depth[1])) if depth else None,
                (int(years[0]), int(years[1])) if years else None,
            )
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise UserError(f"{where}: target: expected name, unit, depth and years, as prepare writes them") from error
    if column == "soc":
        return own
    found = re.fullmatch(r"soc_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)", column)
    if found:
        return Target(own.name if own.unit != "g/kg" else "soc", own.unit, (float(found[1]), float(found[2])), own.years)
    unit = "kg/m2" if _DENSITY.fullmatch(column.lower()) else ""
    return Target(column, unit, target_of(column, unit, where).depth, own.years)
