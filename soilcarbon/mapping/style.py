"""QGIS style of a map (.qml): QGIS colours `soc.tif` by `soc.qml` beside it, with a legend in the band's unit.

In: the maps. Out: XML with the colour ramp that picture and page have; maps of one quantity share theirs, to be compared.
"""

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

import numpy as np

from soilcarbon.io.files import UserError
from soilcarbon.mapping.picture import DIFFERENCES, Band, Ramp, View, ramp_of, read_picture

_SIDE = 1200
"""Cells along the longer side of a map that its ramp is chosen from, as its picture's."""
_STOPS = 33
"""Colours of a ramp, between which QGIS interpolates."""
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def styles(views: Sequence[View]) -> list[str]:
    """Return the style of each map, of its first band.

    Raises
    ------
    UserError
        If a map is not readable, or none of its cells has a value.
    """
    pictures = [read_picture(view, _SIDE, first=1) for view in views]
    keys = [(picture.bands[0].name, picture.bands[0].unit, picture.of_change) for picture in pictures]
    alike: dict[tuple[str, str, bool], list[Band]] = {}
    for key, picture in zip(keys, pictures, strict=True):
        alike.setdefault(key, []).append(picture.bands[0])
    ramps = {key: ramp_of(bands, diverging=key[2] and key[0] in DIFFERENCES) for key, bands in alike.items()}
    found = []
    for key, view in zip(keys, views, strict=True):
        ramp = ramps[key]
        if ramp is None:
            raise UserError(f"{view.tif}: no cell has a value, so there are no colours to choose")
        found.append(style(ramp, key[1]))
    return found


def style(ramp: Ramp, unit: str) -> str:
    """Return the style of a map's first band.

    A linear ramp has a continuous legend. A logarithmic one lists round values: QGIS spaces a continuous legend evenly.

    Examples
    --------
    >>> text = style(Ramp("viridis", 0.0, 32.0, False, "max", ""), "g/kg")
    >>> [item.get("color") for item in Xml.fromstring(text).iter("item")][::16]
    ['#440154', '#21918c', '#fde725']
    """
    low, high = f"{ramp.low:.9g}", f"{ramp.high:.9g}"
    root = Xml.Element("qgis", version="3.22", styleCategories="Symbology", hasScaleBasedVisibilityFlag="0")
    pipe = Xml.SubElement(root, "pipe")
    renderer = Xml.SubElement(
        pipe, "rasterrenderer", type="singlebandpseudocolor", band="1", opacity="1", alphaBand="-1", nodataColor="",
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
    for value in _stops(ramp):
        colour = _colour(ramp.colours, ramp.place(value))
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


def _colour(name: str, place: float) -> str:
    from matplotlib import colormaps  # slow to import
    from matplotlib.colors import to_hex

    return str(to_hex(colormaps[name](place)))
