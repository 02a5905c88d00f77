"""What a GIS looks for beside a map: QGIS styles of its bands, and a STAC item.

In: finished GeoTIFFs and the files beside them. Out: a style (.qml) of each band, as XML, by which QGIS colours `soc.tif` as
`soc.qml` beside it says, with a legend in the band's unit, and the colour ramps that the page has: bands of one quantity share
theirs, to be compared. A STAC 1.1 item (https://stacspec.org) with the extensions projection, raster and file, as plain containers:
where a map lies, of what time, which bands it has, and the files beside it with their checksums. Paths are relative, so that the
folder may be moved or put into a catalogue.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import antimeridian
import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.warp import transform_geom
from shapely.geometry import box, mapping, shape  # type: ignore[import-untyped]

from soilcarbon.geo.grid import Grid, nominal_metres, raster_grid
from soilcarbon.io.files import NODATA, UserError, sha256
from soilcarbon.mapping.picture import Ramp, View, read_picture, shared_ramps

_SIDE = 1200
"""Cells along the longer side of a map that its ramp is chosen from, as its picture's."""
_STOPS = 33
"""Colours of a ramp, between which QGIS interpolates."""
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_EXTENSIONS = {"projection": "v2.0.0", "raster": "v2.0.0", "file": "v2.1.0"}
_KINDS: dict[str, tuple[str, list[str]]] = {
    ".tif": ("image/tiff; application=geotiff; profile=cloud-optimized", ["data"]),
    ".tiff": ("image/tiff; application=geotiff; profile=cloud-optimized", ["data"]),
    ".png": ("image/png", ["overview"]),
    ".html": ("text/html", ["metadata"]),
    ".yaml": ("application/yaml", ["metadata"]),
    ".csv": ("text/csv", ["data"]),
    ".json": ("application/json", ["metadata"]),
    ".gpkg": ("application/geopackage+sqlite3", ["data"]),
    ".qml": ("application/xml", ["style"]),
}
"""Ending of a file -> media type and roles."""
_SHA256 = "1220"
"""Start of a multihash: the function, and the length of the digest."""
_STATISTICS = {"minimum": "MINIMUM", "maximum": "MAXIMUM", "mean": "MEAN", "stddev": "STDDEV"}
_STEPS = 32
"""Vertices along each side of a footprint."""


# --- QGIS styles -------------------------------------------------------------------------------------------------------


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


# --- STAC --------------------------------------------------------------------------------------------------------------


def item(
    tif: Path,
    assets: Mapping[str, tuple[Path, str]],
    title: str,
    years: tuple[int, int] | None,
    made: datetime,
    properties: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the STAC item of a map with assets (key -> file and its title), all in the folder of the item, the map among them.

    `years` are the first and last that it is of; where they are not known, its time is `made`, when the model was written, UTC.
    """
    grid = raster_grid(tif)
    geometry, extent = _footprint(grid)
    times: dict[str, str | None] = {"datetime": f"{made:%Y-%m-%dT%H:%M:%SZ}"}
    if years is not None:
        times = {"datetime": None, "start_datetime": f"{years[0]}-01-01T00:00:00Z", "end_datetime": f"{years[1]}-12-31T23:59:59Z"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [f"https://stac-extensions.github.io/{name}/{which}/schema.json" for name, which in _EXTENSIONS.items()],
        "id": tif.stem,
        "geometry": geometry,
        "bbox": extent,
        "properties": {"title": title, **times, **_projection(grid), **properties},
        "links": [],
        "assets": {key: _asset(path, what, tif) for key, (path, what) in assets.items()},
    }


def _projection(grid: Grid) -> dict[str, Any]:
    crs = CRS.from_user_input(grid.crs)
    code = crs.to_authority()
    x_min, x_max, y_min, y_max = grid.bounds
    found: dict[str, Any] = {"proj:code": ":".join(code) if code else None}
    if not code:
        found["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
    found |= {"proj:shape": [grid.height, grid.width], "proj:bbox": [x_min, y_min, x_max, y_max]}
    return found | {"proj:transform": [grid.cell[0], 0.0, grid.x, 0.0, -grid.cell[1], grid.y]}


def _footprint(grid: Grid) -> tuple[dict[str, Any], list[float]]:
    """Return the extent in degrees: a polygon, cut at the antimeridian, and west, south, east, north."""
    x_min, x_max, y_min, y_max = grid.bounds
    outline = box(x_min, y_min, x_max, y_max)
    if not grid.geographic:
        dense = outline.segmentize(max(x_max - x_min, y_max - y_min) / _STEPS)
        outline = shape(transform_geom(grid.crs, "EPSG:4326", mapping(dense), precision=6))
    elif x_max - x_min >= 360 - 1e-9:
        outline = box(-180.0, max(y_min, -90.0), 180.0, min(y_max, 90.0))
    fixed = antimeridian.fix_polygon(outline, fix_winding=True) if outline.geom_type == "Polygon" else outline
    bounds = [round(float(value), 6) for value in antimeridian.bbox(fixed)]
    return dict(mapping(fixed)), bounds


def _asset(path: Path, title: str, tif: Path) -> dict[str, Any]:
    kind, roles = _KINDS[path.suffix.lower()]
    found: dict[str, Any] = {"href": f"./{path.name}", "title": title, "type": kind, "roles": roles}
    found |= {"file:size": path.stat().st_size, "file:checksum": f"{_SHA256}{sha256(path)}"}
    return found | (_bands(path) if path == tif else {})


def _bands(tif: Path) -> dict[str, Any]:
    grid = raster_grid(tif)
    bands = []
    with rasterio.open(tif) as raster:
        for number, (name, unit) in enumerate(zip(raster.descriptions, raster.units, strict=True), start=1):
            tags = raster.tags(number)
            band: dict[str, Any] = {"name": name, "data_type": "float32", "nodata": NODATA}
            band |= {"description": tags["MEANING"]} if tags.get("MEANING") else {}
            band |= {"unit": unit} if unit else {}
            statistics = {key: float(tags[f"STATISTICS_{tag}"]) for key, tag in _STATISTICS.items() if f"STATISTICS_{tag}" in tags}
            bands.append(band | ({"statistics": statistics} if statistics else {}))
    metres = nominal_metres(grid.crs, grid.cell[1])
    return {"bands": bands, "raster:sampling": "area", "raster:spatial_resolution": round(metres, 6)}
