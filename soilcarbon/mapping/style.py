"""QGIS styles of a map (.qml), one for each band: QGIS colours `soc.tif` by `soc.qml` beside it, with a legend in the band's unit.

In: the maps. Out: XML with the colour ramps that the page has; bands of one quantity share theirs, to be compared.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.mapping.picture import Ramp, View, read_picture, shared_ramps

_SIDE = 1200
"""Cells along the longer side of a map that its ramp is chosen from, as its picture's."""
_STOPS = 33
"""Colours of a ramp, between which QGIS interpolates."""
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def styles(views: Sequence[View]) -> list[dict[str, str]]:
    """Return the styles of each map: band -> XML, the first band first; UserError if none of its cells has a value."""
    pictures = [read_picture(view, _SIDE) for view in views]
    ramps = shared_ramps(pictures)
    found = []
    for picture in pictures:
        of_bands = {band.name: ramps[band.name, band.unit, picture.of_change] for band in picture.bands}
        if of_bands[picture.bands[0].name] is None:
            raise UserError(f"{picture.view.tif}: no cell has a value, so there are no colours to choose")
        texts = {}
        for number, band in enumerate(picture.bands, 1):
            if (ramp := of_bands[band.name]) is not None:
                texts[band.name] = style(ramp, band.unit, number)
        found.append(texts)
    return found


def style(ramp: Ramp, unit: str, number: int = 1) -> str:
    """Return the style of a band of a map by its number.

    A linear ramp has a continuous legend. A logarithmic one lists round values: QGIS spaces a continuous legend evenly.
    """
    from matplotlib import colormaps  # slow to import
    from matplotlib.colors import to_hex

    low, high = f"{ramp.low:.9g}", f"{ramp.high:.9g}"
    root = Xml.Element("qgis", version="3.22", styleCategories="Symbology", hasScaleBasedVisibilityFlag="0")
    pipe = Xml.SubElement(root, "pipe")
    renderer = Xml.SubElement(
        pipe, "rasterrenderer", type="singlebandpseudocolor", band=str(number), opacity="1", alphaBand="-1", nodataColor="",
        classificationMin=low, classificationMax=high,
    )  # fmt: skip
    Xml.SubElement(renderer, "rasterTransparency")
    origin = Xml.SubElement(renderer, "minMaxOrigin")
    Xml.SubElement(origin, "limits").text = "None"  # the ends are given, and not chosen anew for each part that is looked at
    shader = Xml.SubElement(
        Xml.SubElement(renderer, "rastershader"), "colorrampshader", colorRampType="INTERPOLATED", classificationMode="1", clip="0",
        minimumValue=low, maximumValue=high, labelPrecision="4",
    )  # fmt: skip
    suffix = f" {unit}" if unit else ""
    colours = colormaps[ramp.colours]
    for value in _stops(ramp):
        colour = to_hex(colours(ramp.place(value)))
        Xml.SubElement(shader, "item", value=f"{value:.9g}", label=f"{value:.4g}{suffix}", color=colour, alpha="255")
    Xml.SubElement(
        shader, "rampLegendSettings", prefix="", suffix=suffix, direction="0", minimumLabel="", maximumLabel="", orientation="2",
        useContinuousLegend=str(int(not ramp.logarithmic)),
    )  # fmt: skip
    for name in ("brightnesscontrast", "huesaturation", "rasterresampler"):
        Xml.SubElement(pipe, name)
    Xml.indent(root)
    return _DOCTYPE + Xml.tostring(root, encoding="unicode") + "\n"


def _stops(ramp: Ramp) -> list[float]:
    """Return the values at which colours are given: evenly spaced ones, or the labels of a logarithmic ramp and its ends."""
    if not ramp.logarithmic:
        return [float(value) for value in np.linspace(ramp.low, ramp.high, _STOPS)]
    inside = [value for value in ramp.ticks() if 0.03 < ramp.place(value) < 0.97]
    return [ramp.low, *inside, ramp.high]
