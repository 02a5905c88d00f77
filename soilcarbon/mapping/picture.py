"""Maps made small enough to be looked at: cells, colours, and how long things are on the ground.

In: GeoTIFFs of one or more bands in any CRS, whose overviews make it quick. Out: values in memory, the ramp that
colours them, and lengths that are true in the middle of the map. `mapview` draws them, `mappage` puts them in a page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Resampling

from soilcarbon.constants import NODATA
from soilcarbon.figures import is_skewed
from soilcarbon.geo.grid import Grid, lonlat, raster_grid
from soilcarbon.geo.raster import named_errors, open_raster

DIFFERENCES = ("change", "lower", "upper")
"""Bands of a map of change that are above or below zero; its sd is not."""
_TAILS = (0.01, 0.995)
"""Quantiles at which a ramp ends, so that a few cells do not bleach the rest; SOC's upper tail is what one looks for."""
_INSIDE = "1 inside, 0 outside the area of applicability; between: share of the cells"
_LONGEST = 8.0
"""A map is not drawn longer than so many times its width, nor wider: a strip of one row must still be seen."""


@dataclass(frozen=True)
class View:
    """A map to be shown: its title, such as "Kenya, 2000-2004", and its GeoTIFF."""

    title: str
    tif: Path


@dataclass(frozen=True)
class Band:
    """A band as it is shown: name, unit and meaning ("" where unknown), values (h, w) float32, north up, missing = NaN.

    `whole` are the lowest and the highest value of the file, which averages do not reach; None where not known.
    """

    name: str
    unit: str
    meaning: str
    values: np.ndarray
    whole: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Picture:
    """A map made small enough to be shown.

    Attributes
    ----------
    view
        What it shows.
    full
        The grid of the file.
    grid
        The same extent in the (h, w) cells that are shown.
    bands
        In the order of the file.
    """

    view: View
    full: Grid
    grid: Grid
    bands: list[Band]

    @property
    def of_change(self) -> bool:
        """Whether it shows how values changed."""
        return self.bands[0].name == "change"


@dataclass(frozen=True)
class Ground:
    """Metres on the ground for a unit of x and of y, at the latitude (degrees) where they were measured."""

    x: float
    y: float
    lat: float


@dataclass(frozen=True)
class Ramp:
    """How values become colours.

    Attributes
    ----------
    colours
        Name of matplotlib's colour map.
    low, high
        Values at the ends, in the band's unit; high > low.
    logarithmic
        Whether colours go with the logarithm; low is then positive.
    lowest, highest
        Of the values that are shown; those beyond the ends get the ends' colours.
    whole
        Lowest and highest value of the files; None where only what is shown is known, averages of cells.
    says
        What the colours mean where the ends are fixed, whatever the values; "" where the values chose the ends.
    """

    colours: str
    low: float
    high: float
    logarithmic: bool
    lowest: float
    highest: float
    whole: tuple[float, float] | None = None
    says: str = ""

    @property
    def diverging(self) -> bool:
        """Whether zero is in the middle."""
        return self.low == -self.high

    def place(self, value: float) -> float:
        """Return where on the ramp a value lies: 0 at its low end, 1 at its high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values to label."""
        if self.lowest == self.highest and not self.says:
            return [self.lowest]
        if self.logarithmic:
            decades = math.log10(self.high / self.low)
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            leading = (1, 2, 5) if decades < 3 else (1,)
            values = [digit * 10.0**exponent for exponent in exponents for digit in leading]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) >= 3:
                return inside
        return round_values(self.low, self.high, 6)

    def words(self) -> str:
        """Return what the colours alone do not say."""
        if self.says:
            return self.says
        lowest, highest = self.whole or (self.lowest, self.highest)
        averaged = "" if self.whole else "as shown, averaged: "
        if lowest == highest:
            return f"{averaged}the same everywhere: {sensible(lowest)}"
        notes = [f"{averaged or 'cells '}from {sensible(lowest)} to {sensible(highest)}"]
        ends = [f"{word} {sensible(end)}" for word, end, out in self._beyond() if out]
        notes += [f"those {' and '.join(ends)} take the ends' colours"] if ends else []
        notes += ["logarithmic ramp"] if self.logarithmic else []
        notes += ["red: loss, blue: gain"] if self.diverging else []
        return "; ".join(notes)

    def _beyond(self) -> list[tuple[str, float, bool]]:
        return [("below", self.low, self.lowest < self.low), ("above", self.high, self.highest > self.high)]

    @property
    def extend(self) -> str:
        """Which ends have values beyond them, in matplotlib's words: neither, min, max or both."""
        below, above = (out for _, _, out in self._beyond())
        return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def sensible(value: float) -> str:
    """Return a number with three digits, or all those before the decimal point: 0.0123, 12.3, 12,345."""
    if not math.isfinite(value):
        return "–"
    shown = f"{value:,.0f}" if 999.5 <= abs(value) < 1e15 else f"{value:.3g}"
    return shown.replace("-", "−")


def round_values(low: float, high: float, at_most: int) -> list[float]:
    """Return round numbers in [low, high], evenly spaced."""
    from matplotlib.ticker import MaxNLocator

    hair = 1e-9 * (high - low)
    values = MaxNLocator(at_most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low - hair <= value <= high + hair]


# --- reading ---------------------------------------------------------------------------------------------------


def read_picture(view: View, side: int, first: int | None = None) -> Picture:
    """Read a map so that its longer side has at most `side` cells.

    Cells are averages of the file's, taken from its overviews where it has them. Missing is what the file declares,
    -9999, and what is not finite.

    Parameters
    ----------
    view
        The map.
    side
        Cells.
    first
        Read only so many bands; default: all.

    Raises
    ------
    UserError
        If the file is not readable, has no CRS, or is rotated.
    """
    full = raster_grid(view.tif)
    shrink = max(1.0, max(full.height, full.width) / side)
    height, width = (max(1, round(cells / shrink)) for cells in (full.height, full.width))
    cell = (full.cell[0] * full.width / width, full.cell[1] * full.height / height)
    with named_errors(view.tif), open_raster(view.tif) as raster:
        # an undeclared -9999 must not be averaged with its neighbours
        how = Resampling.average if raster.nodata is not None else Resampling.nearest
        numbers = list(raster.indexes)[:first]
        values = raster.read(numbers, out_shape=(len(numbers), height, width), out_dtype="float32", resampling=how)
        fill, names, units, corner = raster.nodata, raster.descriptions, raster.units, raster.transform
        tags = [raster.tags(number) for number in numbers]
    values = values[:, :: -1 if corner.e > 0 else 1, :: -1 if corner.a < 0 else 1]
    values[~np.isfinite(values) | (values == NODATA)] = np.nan
    if fill is not None:
        values[values == np.float32(fill)] = np.nan
    bands = [
        Band(
            names[number - 1] or f"band {number}",
            units[number - 1] or "",
            told.get("MEANING", ""),
            plane,
            _range(plane) if plane.shape == (full.height, full.width) else _told_range(told, plane),
        )
        for number, told, plane in zip(numbers, tags, values, strict=True)
    ]
    return Picture(view, full, replace(full, cell=cell, height=height, width=width), bands)


def _range(values: np.ndarray) -> tuple[float, float] | None:
    """Return the lowest and the highest value, missing = NaN; None where all are missing."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else None


def _told_range(tags: Mapping[str, str], averages: np.ndarray) -> tuple[float, float] | None:
    """Return the range that a band's statistics tell, as GDAL names them; None where there are none to trust.

    Statistics that GDAL calls approximate are of an overview, and those of which averages lie outside are stale.
    """
    seen = _range(averages)
    try:
        low, high = (float(tags[f"STATISTICS_{end}"]) for end in ("MINIMUM", "MAXIMUM"))
    except (KeyError, ValueError):
        return None
    if seen is None or tags.get("STATISTICS_APPROXIMATE", "NO").upper() != "NO" or not (math.isfinite(low) and math.isfinite(high)):
        return None
    hair = 1e-5 * max(abs(low), abs(high))  # of float32, and of the digits that are written
    return (low, high) if low <= high and low - hair <= seen[0] and seen[1] <= high + hair and low != NODATA else None


def ramp_of(bands: Sequence[Band], diverging: bool) -> Ramp | None:
    """Choose the colours that bands of one name and unit share; None where no cell has a value.

    The share of cells inside the area of applicability has fixed ends, other values choose theirs (`ramp_for`).
    """
    ramp = ramp_for([band.values for band in bands], diverging)
    if ramp is None:
        return None
    if all((band.name, band.unit) == ("inside", "") for band in bands) and ramp.lowest >= 0 and ramp.highest <= 1:
        ramp = Ramp("cividis", 0.0, 1.0, False, ramp.lowest, ramp.highest, says=_INSIDE)
    return as_shown(ramp, bands)


def as_shown(ramp: Ramp, bands: Sequence[Band]) -> Ramp:
    """Return a ramp that tells the range of these bands; one without values adds nothing."""
    seen = [(found, band.whole) for band in bands if (found := _range(band.values))]
    wholes = [whole for _, whole in seen if whole]
    whole = (min(low for low, _ in wholes), max(high for _, high in wholes)) if len(wholes) == len(seen) and wholes else None
    lowest, highest = min(found[0] for found, _ in seen), max(found[1] for found, _ in seen)
    return replace(ramp, lowest=lowest, highest=highest, whole=whole)


def ramp_for(values: Sequence[np.ndarray], diverging: bool) -> Ramp | None:
    """Choose the colours of values, given as arrays of any shape, missing = NaN.

    They are taken to be all there are. The ramp ends at robust quantiles, is logarithmic where values are right-skewed
    and not negative, and centred at zero if `diverging`. None where no cell has a value.
    """
    known = np.concatenate([each[np.isfinite(each)] for each in values]).astype(np.float64)
    if not len(known):
        return None
    lowest, highest = float(known.min()), float(known.max())
    if diverging:
        end = float(np.quantile(np.abs(known), _TAILS[1])) or max(-lowest, highest) or 1.0
        return Ramp("RdBu", -end, end, False, lowest, highest, (lowest, highest))
    skewed = is_skewed(known)
    low, high = (float(end) for end in np.quantile(known[known > 0] if skewed else known, _TAILS))
    if low == high:  # nearly all cells are alike
        low, high = lowest, highest
    if low == high:
        margin = 0.05 * abs(low) or 1.0
        low, high = low - margin, high + margin
    return Ramp("viridis", low, high, skewed and low > 0, lowest, highest, (lowest, highest))


# --- on the ground ---------------------------------------------------------------------------------------------


def _in_space(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return places (n,) on the WGS 84 ellipsoid as metres from the Earth's centre (n, 3)."""
    flattening = 1 / 298.257223563
    squeeze = (1 - flattening) ** 2
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    normal = 6378137.0 / np.sqrt(1 - (1 - squeeze) * np.sin(lat) ** 2)
    flat = normal * np.cos(lat)
    return np.stack([flat * np.cos(lon), flat * np.sin(lon), squeeze * normal * np.sin(lat)], axis=-1)


def ground(grid: Grid) -> Ground | None:
    """Measure the ground in the middle of a map, or as near to it as the CRS reaches; None if it reaches nowhere."""
    across, down = (axis.ravel() for axis in np.meshgrid(np.linspace(0.1, 0.9, 17), np.linspace(0.1, 0.9, 17)))
    nearest = np.argsort(np.hypot(across - 0.5, down - 0.5), kind="stable")
    step = 5e-4  # of the extent: short, so that a chord is as good as an arc
    for k in nearest:
        rows = (down[k] + step * np.array([0, 0, -1, 1])) * grid.height
        cols = (across[k] + step * np.array([-1, 1, 0, 0])) * grid.width
        lon, lat = lonlat(grid, rows, cols)
        west, east, north, south = _in_space(lon, lat)
        x = float(np.linalg.norm(east - west)) / (2 * step * grid.width * grid.cell[0])
        y = float(np.linalg.norm(north - south)) / (2 * step * grid.height * grid.cell[1])
        if math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0:
            return Ground(x, y, float(lat.mean()))
    return None


def bar_length(width: float) -> float:
    """Return the longest 1, 2 or 5 x 10^n metres within 0.3 of a map's width (m on the ground)."""
    longest = 0.3 * width
    power = 10.0 ** math.floor(math.log10(longest))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= longest * (1 + 1e-9))


def bar_words(length: float, grid: Grid, scale: Ground) -> str:
    """Return the label of a scale bar of `length` metres; degrees shrink towards the poles, so there it says where."""
    words = f"{length / 1000:,g} km" if length >= 1000 else f"{length:g} m"
    return f"{words} at {degree_words(scale.lat, 'NS', 1)}" if grid.geographic else words


def degree_words(value: float, letters: str, places: int) -> str:
    """Return a latitude ("NS") or longitude ("EW") with its letter; longitudes beyond 180 come round."""
    if letters == "EW":
        value = (value + 180) % 360 - 180
    size = f"{abs(value):.{places}f}"
    bare = float(size) == 0 or (letters == "EW" and float(size) == 180)
    return f"{size}°" if bare else f"{size}° {letters[value < 0]}"


def _shape(grid: Grid, scale: Ground | None) -> float:
    x, y = (scale.x, scale.y) if scale else (1.0, 1.0)
    return grid.width * grid.cell[0] * x / (grid.height * grid.cell[1] * y)


def drawn_shape(grid: Grid, scale: Ground | None) -> float:
    """Return width / height of a map as it is drawn: that on the ground, within limits."""
    return float(np.clip(_shape(grid, scale), 1 / _LONGEST, _LONGEST))


def to_scale(grid: Grid, scale: Ground | None) -> bool:
    """Whether a map is drawn as wide and high as on the ground, both to one scale."""
    return math.isclose(_shape(grid, scale), drawn_shape(grid, scale), rel_tol=1e-9)


def linear_unit(grid: Grid) -> float:
    """Return the metres of a unit of x; a CRS that does not say counts metres."""
    crs = CRS.from_user_input(grid.crs)
    return float(crs.linear_units_factor[1]) if crs.is_projected else 1.0
