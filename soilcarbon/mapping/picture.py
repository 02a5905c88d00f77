"""Pictures of maps: decimated bands, colour ramps, scale bars, and the PNG preview.

In: GeoTIFFs of one or more bands in any CRS. Out: bands averaged to few cells, the ramp that colours them, lengths on the ground
in the middle of the map, and a PNG file. `page` shows the same in a browser.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.enums import Resampling

from soilcarbon.figures import INK, is_skewed, literal, save
from soilcarbon.geo.crs import Bounds, short_name
from soilcarbon.geo.grid import Grid, lonlat, raster_grid
from soilcarbon.geo.raster import named_errors, open_raster
from soilcarbon.html import format_value
from soilcarbon.io.files import NODATA

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DIFFERENCES = ("change", "lower", "upper")
"""Bands of a map of change that may be above or below zero; its sd is not."""
_TAILS = (0.01, 0.995)
"""Quantiles at which a ramp ends, so that a few cells do not bleach the rest; the upper tail of SOC is what one looks for."""
_LONGEST = 8.0
"""A map is not drawn longer than so many times its width, nor wider: a strip of one row must still be seen."""
_PREVIEW_SIDE = 1200


@dataclass(frozen=True)
class View:
    """Map to draw: its title, such as "Kenya, 2000-2004", and its GeoTIFF."""

    title: str
    tif: Path


@dataclass(frozen=True)
class Band:
    """A band to be shown: name, unit and meaning ("" where unknown), values (h, w) float32, north up, missing = NaN."""

    name: str
    unit: str
    meaning: str
    values: np.ndarray

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Picture:
    """A decimated map."""

    view: View
    full: Grid
    grid: Grid  # the same extent in the (h, w) cells that are shown
    bands: list[Band]

    @property
    def of_change(self) -> bool:
        """Whether it is a map of change."""
        return self.bands[0].name == "change"


@dataclass(frozen=True)
class Ramp:
    """Colour ramp of a band."""

    colours: str  # name of matplotlib's colour map
    low: float  # low, high: values at the ends, in the band's unit; high > low
    high: float
    logarithmic: bool  # whether colours go with the logarithm; low is then positive
    extend: str  # which ends have values beyond them, in matplotlib's terms: neither, min, max or both
    note: str  # what the colours alone do not show

    def place(self, value: float) -> float:
        """Return where on the ramp a value lies: 0 at its low end, 1 at its high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values to label."""
        if self.logarithmic:
            decades = math.log10(self.high / self.low)
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            leading = (1, 2, 5) if decades < 3 else (1,)
            values = [digit * 10.0**exponent for exponent in exponents for digit in leading]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) >= 3:
                return inside
        return round_values(self.low, self.high, 6)


def round_values(low: float, high: float, at_most: int) -> list[float]:
    """Return round numbers in [low, high], evenly spaced.

    Examples
    --------
    >>> round_values(0.3, 9.7, 5)
    [2.0, 4.0, 6.0, 8.0]
    """
    from matplotlib.ticker import MaxNLocator

    tolerance = 1e-9 * (high - low)
    values = MaxNLocator(at_most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in values if low - tolerance <= value <= high + tolerance]


# --- reading ---------------------------------------------------------------------------------------------------


def read_picture(view: View, side: int, first: int | None = None) -> Picture:
    """Read the first bands of a map (default: all) so that its longer side has at most `side` cells.

    Cells are averages of the file's, taken from its overviews where it has them. Missing is what the file declares, -9999, and what
    is not finite. UserError if the file is not readable, has no CRS, or is rotated.
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
        meanings = [raster.tags(number).get("MEANING", "") for number in numbers]
    values = values[:, :: -1 if corner.e > 0 else 1, :: -1 if corner.a < 0 else 1]
    values[~np.isfinite(values) | (values == NODATA)] = np.nan
    if fill is not None:
        values[values == np.float32(fill)] = np.nan
    bands = [
        Band(names[number - 1] or f"band {number}", units[number - 1] or "", meaning, plane)
        for number, meaning, plane in zip(numbers, meanings, values, strict=True)
    ]
    return Picture(view, full, replace(full, cell=cell, height=height, width=width), bands)


def ramp_of(bands: Sequence[Band], diverging: bool) -> Ramp | None:
    """Choose the colour ramp that bands of one name and unit share; None where no cell has a value.

    It ends at robust quantiles, is logarithmic where values are right-skewed and not negative, and centred at zero if `diverging`.
    The band "inside", a share of cells, has 0 and 1 at its ends.
    """
    known = np.concatenate([band.values[np.isfinite(band.values)] for band in bands]).astype(np.float64)
    if not known.size:
        return None
    lowest, highest = float(known.min()), float(known.max())
    if all((band.name, band.unit) == ("inside", "") for band in bands) and lowest >= 0 and highest <= 1:
        note = "1 inside, 0 outside the area of applicability; between: share of the cells"
        return Ramp("cividis", 0.0, 1.0, False, "neither", note)
    note = f"values from {format_value(lowest)} to {format_value(highest)}"
    if diverging:
        end = float(np.quantile(np.abs(known), _TAILS[1])) or max(-lowest, highest) or 1.0
        words = "red: lower, blue: higher" if any(band.name == "difference" for band in bands) else "red: loss, blue: gain"
        return Ramp("RdBu", -end, end, False, _beyond(lowest < -end, highest > end), f"{note}; {words}")
    skewed = is_skewed(known)
    low, high = (float(end) for end in np.quantile(known[known > 0] if skewed else known, _TAILS))
    if low == high:  # nearly all cells are alike
        low, high = lowest, highest
    if low == high:
        margin = 0.05 * abs(low) or 1.0
        return Ramp("viridis", low - margin, high + margin, False, "neither", f"the same everywhere: {format_value(low)}")
    logarithmic = skewed and low > 0
    if lowest < low or highest > high:
        note += f", colours from {format_value(low)} to {format_value(high)}"
    note += "; logarithmic ramp" if logarithmic else ""
    return Ramp("viridis", low, high, logarithmic, _beyond(lowest < low, highest > high), note)


def shared_ramps(pictures: Sequence[Picture]) -> dict[tuple[str, str, bool], Ramp | None]:
    """Return the ramp of each band by name, unit and whether it is of a change: the same for bands of several maps."""
    alike: dict[tuple[str, str, bool], list[Band]] = {}
    for picture in pictures:
        for band in picture.bands:
            alike.setdefault((band.name, band.unit, picture.of_change), []).append(band)
    return {key: ramp_of(bands, diverging=key[2] and key[0] in DIFFERENCES) for key, bands in alike.items()}


def _beyond(below: bool, above: bool) -> str:
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


# --- on the ground ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """Metres on the ground for a unit of x and of y, at the latitude (degrees) where they were measured."""

    x: float
    y: float
    lat: float


def ground(grid: Grid) -> Ground | None:
    """Measure the ground in the middle of a map, or as near to it as the CRS reaches; None if it reaches nowhere."""
    across, down = (axis.ravel() for axis in np.meshgrid(np.linspace(0.1, 0.9, 17), np.linspace(0.1, 0.9, 17)))
    order = np.argsort(np.hypot(across - 0.5, down - 0.5), kind="stable")
    step = 5e-4  # of the extent
    rows = (down[order, None] + step * np.array([0, 0, -1, 1])) * grid.height
    cols = (across[order, None] + step * np.array([-1, 1, 0, 0])) * grid.width
    lon, lat = (each.reshape(rows.shape) for each in lonlat(grid, rows.ravel(), cols.ravel()))
    for k in np.flatnonzero(np.isfinite(lon + lat).all(axis=1)):
        lengths = Geod(ellps="WGS84").inv(lon[k, ::2], lat[k, ::2], lon[k, 1::2], lat[k, 1::2])[2]
        x, y = (float(length) / (2 * step * size) for length, size in zip(lengths, _extent(grid), strict=True))
        if math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0:
            return Ground(x, y, float(lat[k].mean()))
    return None


def _extent(grid: Grid) -> tuple[float, float]:
    return grid.width * grid.cell[0], grid.height * grid.cell[1]


def bar_length(width: float) -> float:
    """Return the longest 1, 2 or 5 x 10^n metres within 0.3 of a map's width (m on the ground)."""
    longest = 0.3 * width
    power = 10.0 ** math.floor(math.log10(longest))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= longest * (1 + 1e-9))


def degree_label(value: float, letters: str, places: int) -> str:
    """Return a latitude ("NS") or longitude ("EW") with its letter; longitudes are brought to -180 to 180.

    Examples
    --------
    >>> degree_label(190, "EW", 0), degree_label(-1.5, "NS", 1), degree_label(0, "NS", 0)
    ('170° W', '1.5° S', '0°')
    """
    if letters == "EW":
        value = (value + 180) % 360 - 180
    size = f"{abs(value):.{places}f}"
    bare = float(size) == 0 or (letters == "EW" and float(size) == 180)
    return f"{size}°" if bare else f"{size}° {letters[value < 0]}"


def shape_on_ground(grid: Grid, scale: Ground | None) -> float:
    """Return width / height of a map on the ground."""
    x, y = (scale.x, scale.y) if scale else (1.0, 1.0)
    width, height = _extent(grid)
    return width * x / (height * y)


def drawn_shape(grid: Grid, scale: Ground | None) -> float:
    """Return width / height of a map as it is drawn: that on the ground, within limits."""
    return float(np.clip(shape_on_ground(grid, scale), 1 / _LONGEST, _LONGEST))


def linear_unit(grid: Grid) -> float:
    """Return the metres of a unit of x; metres are assumed where a CRS has no unit."""
    crs = CRS.from_user_input(grid.crs)
    return float(crs.linear_units_factor[1]) if crs.is_projected else 1.0


# --- PNG -------------------------------------------------------------------------------------------------------


def preview(png: Path, view: View) -> None:
    """Draw the first band of a map, of at most 1200 x 1200 averaged cells, with legend, axes and scale bar, as PNG."""
    picture = read_picture(view, _PREVIEW_SIDE, first=1)
    save(draw(picture, picture.of_change and picture.bands[0].name in DIFFERENCES), png)


def draw(picture: Picture, diverging: bool = False) -> "Figure":
    """Return the figure of a picture's first band; `diverging`: colours are centred at zero."""
    from matplotlib.figure import Figure

    band, grid = picture.bands[0], picture.grid
    ramp, scale = ramp_of([band], diverging), ground(grid)
    shape = drawn_shape(grid, scale)
    width, height = (7.5, 7.5 / shape) if shape > 1 else (7.5 * shape, 7.5)
    beside = height > 2.4
    figure = Figure(figsize=(max(width + 1.0 + 1.2 * beside, 4.5), height + 1.5 + 0.8 * (not beside)), dpi=180, layout="compressed")
    axes = figure.add_subplot()
    unit = 1.0 if grid.geographic else linear_unit(grid) / 1000
    x_min, x_max, y_min, y_max = (edge * unit for edge in grid.bounds)
    axes.set_facecolor("0.87")
    axes.set(xlim=(x_min, x_max), ylim=(y_min, y_max))
    axes.set_title(literal(textwrap.fill(picture.view.title, max(24, int(9 * figure.get_figwidth())))), fontsize=10)
    if ramp is None:
        axes.annotate("no cell has a value", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=INK)
    else:
        _paint(figure, band, ramp, grid.bounds, unit, height if beside else None)
    axes.set_aspect((height / (y_max - y_min)) / (width / (x_max - x_min)))
    axes.tick_params(labelsize=8)
    for axis, letters, low, high, inches in ((axes.xaxis, "EW", x_min, x_max, width), (axes.yaxis, "NS", y_min, y_max, height)):
        _label_axis(axis, letters if grid.geographic else "", low, high, inches)
    if not grid.geographic:
        axes.set_xlabel(literal(f"km east, {short_name(grid.crs)}"), fontsize=8)
        axes.set_ylabel("km north", fontsize=8)
    notes = [ramp.note + (f" ({band.unit})" if band.unit else "")] if ramp else []
    notes += ["grey: no value"] if ramp and not np.isfinite(band.values).all() else []
    notes += ["height and width are not to one scale"] if not math.isclose(shape, shape_on_ground(grid, scale)) else []
    _foot(figure, picture, scale, unit, "; ".join(notes))
    return figure


def _paint(figure: "Figure", band: Band, ramp: Ramp, bounds: Bounds, unit: float, height: float | None) -> None:
    """Draw the cells of a band, and its colour bar: beside a map of a height in inches, or below."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if ramp.logarithmic else Normalize)(ramp.low, ramp.high)
    shown = np.maximum(band.values, ramp.low) if ramp.logarithmic else band.values  # a logarithm would drop zeros
    colours = colormaps[ramp.colours].with_extremes(bad=(0, 0, 0, 0))
    x_min, x_max, y_min, y_max = (edge * unit for edge in bounds)
    image = figure.axes[0].imshow(shown, extent=(x_min, x_max, y_min, y_max), norm=norm, cmap=colours)
    style: dict[str, Any] = {"shrink": min(1.0, 4 / height)} if height else {"location": "bottom", "aspect": 40}
    style |= {"ticks": ramp.ticks(), "format": lambda value, _: f"{value:g}".replace("-", "−")}
    bar = figure.colorbar(image, ax=figure.axes[0], extend=ramp.extend, **style)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.set_label(literal(band.label), fontsize=9)


def _label_axis(axis: "Axis", letters: str, low: float, high: float, inches: float) -> None:
    """Label an axis in degrees (with `letters`) or kilometres, a tick for every inch or so."""
    values = round_values(low, high, max(1, min(8, int(inches / 0.95))))
    places = max(0, 2 - math.floor(math.log10(high - low)))
    numbers = [f"{value:.{places}f}" for value in values]
    while places and all(number.endswith("0") for number in numbers):
        places -= 1
        numbers = [f"{value:.{places}f}" for value in values]
    axis.set_ticks(values, [degree_label(value, letters, places) for value in values] if letters else numbers)


def _foot(figure: "Figure", picture: Picture, scale: Ground | None, unit: float, notes: str) -> None:
    """Write scale bar, north and notes below the axes, however tall or narrow they are."""
    from matplotlib.transforms import blended_transform_factory, offset_copy

    axes, grid = figure.axes[0], picture.grid
    below = 26 if grid.geographic else 40  # points, past tick labels and the axis's label
    left, right = axes.get_xlim()
    under = offset_copy(blended_transform_factory(axes.transData, axes.transAxes), figure, y=-below, units="points")
    if scale:
        length = bar_length((right - left) / unit * scale.x)
        end = left + length / scale.x * unit
        style: dict[str, Any] = {"color": "black", "linewidth": 2.5, "solid_capstyle": "butt", "transform": under, "clip_on": False}
        axes.plot([left, end], [0, 0], **style)
        label = f"{length / 1000:,g} km" if length >= 1000 else f"{length:g} m"
        label += f" at {degree_label(scale.lat, 'NS', 1)}" if grid.geographic else ""  # degrees shrink towards the poles
        axes.annotate(f"{label}    ↑ N", (end, 0), (5, 0), xycoords=under, textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(left, right)
    if notes:
        figure.supxlabel(textwrap.fill(literal(notes), max(40, int(14 * figure.get_figwidth()))), fontsize=7.5, color=INK)
