"""Show finished maps: a picture of each, and one page that holds them all.

In: GeoTIFFs of one or more bands in any CRS. Out: a PNG file, an HTML file that needs no network, whole or not at all.
"""

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soilcarbon.figures import INK, literal, save
from soilcarbon.geo.crs import short_name
from soilcarbon.geo.raster import open_raster
from soilcarbon.io.files import write_text
from soilcarbon.mapping import page as mappage
from soilcarbon.mapping.picture import (
    DIFFERENCES,
    Band,
    Ground,
    Picture,
    Ramp,
    View,
    as_shown,
    bar_length,
    bar_words,
    degree_words,
    drawn_shape,
    ground,
    linear_unit,
    ramp_of,
    read_picture,
    round_values,
    to_scale,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["View", "page", "preview"]

_PREVIEW_SIDE = 1200
_PAGE_SIDE = 1000
_BANDS_IN_FULL = 16
"""Bands of all maps beyond which they are shown in fewer cells."""
_BAND_BYTES, _PAGE_BYTES = 700_000, 12_000_000
"""A band may take up in a page, and all bands together."""


def preview(png: Path, view: View) -> None:
    """Draw the first band of a map, with legend, axes and scale bar.

    Parameters
    ----------
    png
        The file to write.
    view
        The map; at most 1200 x 1200 averaged cells of it are read.

    Raises
    ------
    UserError
        If the map is not readable, has no CRS, or is rotated.
    """
    save(draw(read_picture(view, _PREVIEW_SIDE, first=1)), png)


def page(
    html: Path,
    title: str,
    views: Sequence[View],
    scores: Mapping[str, Mapping[str, float | None]],
    provenance: Mapping[str, Any],
    totals: "pd.DataFrame | None" = None,
    notes: Sequence[str] = (),
) -> None:
    """Write one page that shows maps, all their bands, and what is known of them, without a network.

    A band of one name and unit has the same colours in all maps, so that these can be compared; maps of change, whose
    first band is called "change", have their own.

    Parameters
    ----------
    html
        The file to write.
    title
        Its heading.
    views
        The maps, at least one. Each is averaged to at most 1000 x 1000 cells, fewer where many maps, many bands or
        restless values would make the page large: a band takes up 0.7 MB at most, all bands 12 MB.
    scores
        By what was scored, such as a split, then by score: rmse, mae and me (in the unit of the first map's first band), r2,
        ccc, n; others are shown as they are. None where undefined. Those of profiles are named by their split, those
        of this map's cells begin with "cells".
    provenance
        Anything nested; shown flat.
    totals
        Of `zones.totals`, a row for each zone, perhaps with a column `map`.
    notes
        A sentence each.

    Raises
    ------
    UserError
        If a map is not readable, has no CRS, or is rotated, or the page cannot be written.
    """
    bands = 0
    for view in views:
        with open_raster(view.tif) as raster:
            bands += raster.count
    side = min(_PAGE_SIDE, int(_PAGE_SIDE * (_BANDS_IN_FULL / bands) ** 0.5))
    pictures = [read_picture(view, side) for view in views]
    chosen = {likeness: ramp for likeness, ramp in _shared_ramps(pictures).items() if ramp}
    order, ramps = list(chosen), list(chosen.values())
    packed = []
    for k, picture in enumerate(pictures):
        likenesses = [_likeness(picture, band) for band in picture.bands]
        numbers = [order.index(likeness) if likeness in chosen else None for likeness in likenesses]
        pictures[k], small = _packed_within(picture, numbers, ramps, min(_BAND_BYTES, _PAGE_BYTES // bands) * len(numbers))
        packed.append(small)
    alike = _alike(pictures)  # in fewer cells perhaps than the ramps were chosen for
    chosen = {likeness: as_shown(ramp, alike[likeness]) for likeness, ramp in chosen.items()}
    ramps = list(chosen.values())
    still = io.BytesIO()
    first = draw(pictures[0], chosen.get(_likeness(pictures[0], pictures[0].bands[0])))
    first.savefig(still, format="jpeg", dpi=110, pil_kwargs={"quality": 85})
    links = [Path(os.path.relpath(view.tif, html.parent)).as_posix() for view in views]
    write_text(html, mappage.render(title, packed, ramps, still.getvalue(), pictures, links, scores, provenance, totals, notes))


def _likeness(picture: Picture, band: Band) -> tuple[str, str, bool]:
    """Return what bands that share a ramp have in common: name, unit, and whether their maps are of change."""
    return band.name, band.unit, picture.of_change


def _alike(pictures: Sequence[Picture]) -> dict[tuple[str, str, bool], list[Band]]:
    alike: dict[tuple[str, str, bool], list[Band]] = {}
    for picture in pictures:
        for band in picture.bands:
            alike.setdefault(_likeness(picture, band), []).append(band)
    return alike


def _shared_ramps(pictures: Sequence[Picture]) -> dict[tuple[str, str, bool], Ramp | None]:
    """Choose a ramp for all bands that are alike."""
    return {
        (name, unit, change): ramp_of(bands, diverging=change and name in DIFFERENCES)
        for (name, unit, change), bands in _alike(pictures).items()
    }


def _packed_within(
    picture: Picture, numbers: Sequence[int | None], ramps: Sequence[Ramp], size: int
) -> tuple[Picture, dict[str, Any]]:
    """Pack a picture for the page: first with coarser steps, then with fewer cells, until it has at most `size` bytes."""
    longest, codes = max(picture.grid.height, picture.grid.width), mappage.FINE
    while True:
        packed = mappage.pack(picture, numbers, ramps, codes)
        if sum(len(band["codes"]) for band in packed["bands"]) <= size or longest < 100:
            return picture, packed
        if codes == mappage.FINE:
            codes = mappage.COARSE
        else:
            longest = int(0.85 * longest)
            picture = read_picture(picture.view, longest)


def draw(picture: Picture, ramp: Ramp | None = None) -> "Figure":
    """Return the figure of a picture's first band, in the colours of `ramp`; default: its own."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    band, grid = picture.bands[0], picture.grid
    ramp = ramp or ramp_of([band], diverging=picture.of_change and band.name in DIFFERENCES)
    scale = ground(grid)
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
        norm = (LogNorm if ramp.logarithmic else Normalize)(ramp.low, ramp.high)
        shown = np.maximum(band.values, ramp.low) if ramp.logarithmic else band.values  # a logarithm would drop zeros
        colours = colormaps[ramp.colours].with_extremes(bad=(0, 0, 0, 0))
        image = axes.imshow(shown, extent=(x_min, x_max, y_min, y_max), norm=norm, cmap=colours)
        place: dict[str, Any] = {"shrink": min(1.0, 4 / height)} if beside else {"location": "bottom", "aspect": 40}
        bar = figure.colorbar(
            image, ax=axes, extend=ramp.extend, ticks=ramp.ticks(), format=lambda value, _: f"{value:g}".replace("-", "−"), **place
        )
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=8)
        bar.set_label(literal(band.label), fontsize=9)
    axes.set_aspect((height / (y_max - y_min)) / (width / (x_max - x_min)))
    axes.tick_params(labelsize=8)
    for axis, letters, low, high, inches in ((axes.xaxis, "EW", x_min, x_max, width), (axes.yaxis, "NS", y_min, y_max, height)):
        _label_axis(axis, letters if grid.geographic else "", low, high, inches)
    if not grid.geographic:
        axes.set_xlabel(literal(f"km east, {short_name(grid.crs)}"), fontsize=8)
        axes.set_ylabel("km north", fontsize=8)
    notes = [ramp.words() + (f" ({band.unit})" if band.unit else "")] if ramp else []
    notes += ["height and width are not to one scale"] if not to_scale(grid, scale) else []
    notes += ["grey: no value"] if ramp and not np.isfinite(band.values).all() else []
    _foot(figure, picture, scale, unit, "; ".join(notes))
    return figure


def _label_axis(axis: "Axis", letters: str, low: float, high: float, inches: float) -> None:
    """Label an axis in degrees (with `letters`) or kilometres, a tick for every inch or so."""
    values = round_values(low, high, max(1, min(8, int(inches / 0.95))))
    places = max(0, 2 - math.floor(math.log10(high - low)))
    numbers = [f"{value:.{places}f}" for value in values]
    while places and all(number.endswith("0") for number in numbers):
        places -= 1
        numbers = [f"{value:.{places}f}" for value in values]
    axis.set_ticks(values, [degree_words(value, letters, places) for value in values] if letters else numbers)


def _foot(figure: "Figure", picture: Picture, scale: Ground | None, unit: float, words: str) -> None:
    """Write scale bar, north and notes below the axes, however tall or narrow they are."""
    from matplotlib.transforms import blended_transform_factory, offset_copy

    axes, grid = figure.axes[0], picture.grid
    below = 26 if grid.geographic else 40  # points, past tick labels and the axis's label
    left, right = axes.get_xlim()
    under = offset_copy(blended_transform_factory(axes.transData, axes.transAxes), figure, y=-below, units="points")
    free: dict[str, Any] = {"transform": under, "clip_on": False}
    if scale:
        length = bar_length((right - left) / unit * scale.x)
        end = left + length / scale.x * unit
        axes.plot([left, end], [0, 0], color="black", linewidth=2.5, solid_capstyle="butt", **free)
        label = f"{bar_words(length, grid, scale)}    ↑ N"
        axes.annotate(label, (end, 0), (5, 0), xycoords=under, textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(left, right)
    if words:
        narrow = textwrap.fill(literal(words), max(40, int(14 * figure.get_figwidth())))
        figure.supxlabel(narrow, fontsize=7.5, color=INK)
