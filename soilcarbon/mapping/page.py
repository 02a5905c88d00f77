"""HTML page of finished maps: zoom, pan, and the values of all bands under the pointer, without a network.

In: GeoTIFFs of one or more bands in any CRS, and their metadata. Out: one file, under 10 MB whatever the size of the maps:
bands are averaged to as many cells as fit, and their values stored as integer codes. Form and script are `templates/map.html`.
"""

import base64
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from soilcarbon.geo.crs import short_name, transformed
from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.geo.raster import open_raster
from soilcarbon.html import Items, Section, Table, flattened, format_value, render
from soilcarbon.io.files import write_text
from soilcarbon.mapping.picture import Band, Picture, Ramp, View, drawn_shape, ground, linear_unit, read_picture, shared_ramps

if TYPE_CHECKING:
    import pandas as pd

_SIDE, _CELLS = 2000, 12_000_000
"""Cells along the longer side of a map, and of all bands together, at most."""
_BYTES = 8_000_000
"""Of all bands together, in base64."""
_CODES = (1 << 16) - 1
"""Codes of a band: 0 for missing, and steps from the lowest to the highest value."""
_LATTICE = 33
"""Places along each side of a map that is not in degrees, between which the page interpolates longitude and latitude."""
_SCORES = {"rmse": "RMSE", "mae": "MAE", "me": "ME", "r2": "R²", "ccc": "CCC", "rpiq": "RPIQ", "n": "n"}
_IN_UNIT = ("rmse", "mae", "me")


def write_page(
    page: Path,
    title: str,
    views: Sequence[View],
    scores: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
    totals: "pd.DataFrame | None" = None,
    notes: Sequence[str] = (),
    profiles: "Profiles | None" = None,
) -> None:
    """Write one page with maps, all their bands, and their metadata.

    Bands of one name and unit have the same colours in all maps, so that these can be compared; maps of change, whose first band is
    called "change", have their own. `scores` are by what was scored, such as a split, then by name, in the unit of the first map's
    first band; `provenance` is anything nested; `totals` are of `zonal_statistics.totals`, perhaps with a column `map`; `profiles`
    are shown on the maps, with a switch. UserError if a map is not readable, has no CRS, or is rotated.
    """
    data, pictures = _fitting(views)
    if profiles is not None:
        values = [float(f"{value:.6g}") if math.isfinite(value) else None for value in profiles.values]
        data["profiles"] = {"ids": list(profiles.ids), "values": values, "unit": profiles.unit}
        for view, picture in zip(data["views"], pictures, strict=True):
            view["profiles"] = _placed(picture.grid, profiles)
    links = [quote(Path(os.path.relpath(view.tif, page.parent)).as_posix()) for view in views]
    unit = pictures[0].bands[0].unit
    sections = [
        Section("scores", "Scores", [_score_table(scores, unit)] if scores else []),
        Section("totals", "Means and totals", [_totals_table(totals)] if totals is not None else []),
        Section("provenance", "Provenance", [Table("", ["name", "value"], list(flattened(provenance)), [False, False])]),
        Section("notes", "Notes", [Items(notes)] if notes else []),
    ]
    files = [{"title": picture.view.title, "link": link, **_size(picture)} for picture, link in zip(pictures, links, strict=True)]
    write_text(page, render("map.html", title=title, data=data, files=files, sections=[each for each in sections if each.blocks]))


@dataclass(frozen=True)
class Profiles:
    """Profiles to show: N ids, longitudes and latitudes in degrees, measured values (NaN where there is none) and their unit."""

    ids: Sequence[str]
    lon: np.ndarray
    lat: np.ndarray
    values: np.ndarray
    unit: str


def _placed(grid: Grid, profiles: Profiles) -> list[list[float]]:
    """Return [column, row, number of the profile] of those on a grid, in cells of it."""
    row, col = grid.places(*transformed("EPSG:4326", grid.crs, profiles.lon, profiles.lat))
    with np.errstate(invalid="ignore"):
        inside = (row >= 0) & (row <= grid.height) & (col >= 0) & (col <= grid.width)
    return [[round(float(col[k]), 2), round(float(row[k]), 2), int(k)] for k in np.flatnonzero(inside)]


def _fitting(views: Sequence[View]) -> tuple[dict[str, Any], list[Picture]]:
    """Return the data of the page, and the pictures they are of: as many cells as fit."""
    bands = 0
    for view in views:
        with open_raster(view.tif) as raster:
            bands += raster.count
    side = min(_SIDE, int((_CELLS / bands) ** 0.5))
    while True:
        pictures = [read_picture(view, side) for view in views]
        data = page_data(pictures)
        size = sum(len(band["codes"]) for view in data["views"] for band in view["bands"])
        if size <= _BYTES or side < 100:
            return data, pictures
        side = int(side * 0.95 * (_BYTES / size) ** 0.5)


def page_data(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return maps as plain containers for the script of the page: grids, values as codes, colours."""
    from matplotlib import colormaps

    ramps = shared_ramps(pictures)
    views = []
    for picture in pictures:
        bands = [_plain_band(band, ramps[band.name, band.unit, picture.of_change]) for band in picture.bands]
        views.append({**_plain_grid(picture), "bands": bands})
    names = sorted({ramp.colours for ramp in ramps.values() if ramp})
    palettes = {name: colormaps[name](np.arange(256) / 255, bytes=True)[:, :3].tobytes().hex() for name in names}
    return {"views": views, "palettes": palettes}


def _plain_grid(picture: Picture) -> dict[str, Any]:
    grid, scale = picture.grid, ground(picture.grid)
    cell = scale.x * grid.cell[0] if scale else None  # metres
    return {
        "title": picture.view.title,
        "width": grid.width,
        "height": grid.height,
        "aspect": grid.width / (grid.height * drawn_shape(grid, scale)),  # of a cell: height / width
        "metres": cell,
        "places": int(np.clip(math.ceil(-math.log10(cell / 111_195)), 0, 6)) if cell else 3,  # digits of a degree
        "degrees": degree_lattice(grid),
    }


def _plain_band(band: Band, ramp: Ramp | None) -> dict[str, Any]:
    curve = ramp.low if ramp and ramp.logarithmic else 0.0
    shown: dict[str, Any] | None = None
    if ramp:
        ticks = [[round(ramp.place(value), 5), f"{value:g}".replace("-", "−")] for value in ramp.ticks()]
        shown = {"colours": ramp.colours, "low": ramp.low, "high": ramp.high, "log": ramp.logarithmic}
        shown |= {"ticks": ticks, "note": ramp.note, "extend": ramp.extend}
    return {"name": band.name, "unit": band.unit, "meaning": band.meaning, "ramp": shown, **quantise(band.values, curve)}


def quantise(values: np.ndarray, curve: float) -> dict[str, Any]:
    """Quantise values (h, w), missing = NaN, to steps, to keep the page small.

    `curve` above 0: steps are even in asinh(value / curve), so below it of one size and beyond in proportion to the value. Code k >
    0 means start + step (k - 1), in asinh(value / curve) if curve is not 0; 0 means missing; codes are base64 of zlib of the
    differences along rows, folded to 2 |d| or 2 |d| - 1, high bytes before low ones.
    """
    known = np.isfinite(values)
    scaled = np.where(known, values, 0).astype(np.float64)
    scaled = np.arcsinh(scaled / curve) if curve else scaled
    start, end = (float(scaled[known].min()), float(scaled[known].max())) if known.any() else (0.0, 0.0)
    step = (end - start) / (_CODES - 2) or 1.0
    code = np.where(known, np.round((scaled - start) / step) + 1, 0).astype(np.uint16)
    rise = np.diff(code, axis=1, prepend=np.uint16(0)).view(np.int16)
    folded = ((rise << 1) ^ (rise >> 15)).view(np.uint16)
    planes = (folded >> 8).astype(np.uint8).tobytes() + (folded & 255).astype(np.uint8).tobytes()
    return {"curve": curve, "start": start, "step": step, "codes": base64.b64encode(zlib.compress(planes)).decode()}


def degree_lattice(grid: Grid) -> dict[str, Any]:
    """Return a lattice of places on the unit sphere (x, y, z), between which longitude and latitude are interpolated.

    On the sphere neither the antimeridian nor a pole is a seam. A grid in degrees has its bounds instead.
    """
    if grid.geographic:
        x_min, x_max, y_min, y_max = grid.bounds
        return {"x": [x_min, x_max], "y": [y_max, y_min]}
    shares = np.linspace(0, 1, _LATTICE)
    rows, cols = (axis.ravel() for axis in np.meshgrid(shares * grid.height, shares * grid.width, indexing="ij"))
    lon, lat = (np.deg2rad(angle) for angle in lonlat(grid, rows, cols))
    sphere = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    return {"side": _LATTICE, "lattice": [round(float(value), 9) if np.isfinite(value) else None for value in sphere.ravel()]}


def _score_table(scores: Mapping[str, Mapping[str, Any]], unit: str) -> Table:
    """Return scores, which may come from an untrusted checkpoint, as a table."""
    given = list(dict.fromkeys(name for row in scores.values() for name in row))
    names = [name for name in _SCORES if name in given] + [name for name in given if name not in _SCORES]
    header = [_SCORES.get(name, name) + (f" ({unit})" if unit and name in _IN_UNIT else "") for name in names]
    rows = [[split, *(_number(row.get(name)) for name in names)] for split, row in scores.items()]
    note = "train, valid, test and held out: at profiles of these splits; cells: against a raster, cell by cell."
    return Table("", ["", *header], rows, note=note)


def _number(value: Any) -> str:
    try:
        return format_value(int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value))
    except (TypeError, ValueError, OverflowError):
        return "–"


def _totals_table(totals: "pd.DataFrame") -> Table:
    """Return means and totals by zone; intervals stand beside the values, and a unit that all rows share in the header."""
    table = totals.drop(columns=[name for name in totals if name.startswith("variance")]).dropna(axis="columns", how="all")
    table = table.loc[:, [not table[name].eq("").all() for name in table]]
    units = {name: table[f"{name}_unit"].unique() for name in table if f"{name}_unit" in table}
    shared = {name: str(each[0]) for name, each in units.items() if len(each) == 1}
    bounds = {name for name in table if f"{name}_lower" in table and f"{name}_upper" in table}
    hidden = {f"{name}_unit" for name in shared} | {f"{name}{end}" for name in bounds for end in ("_lower", "_upper")}
    kept = [name for name in table if name not in hidden]
    rows = []
    for row in table.to_dict("records"):
        cells = [format_value(row[name]) for name in kept]
        for k, name in enumerate(kept):
            if name in bounds and math.isfinite(row[f"{name}_lower"]):
                cells[k] += f" [{format_value(row[f'{name}_lower'])}, {format_value(row[f'{name}_upper'])}]"
        rows.append(cells)
    names = {"area_km2": "area (km2)", "map_mean": "mean, not corrected"}
    header = [f"{name} ({shared[name]})" if name in shared else names.get(name, name) for name in kept]
    numeric, level = [table[name].dtype.kind in "iuf" for name in kept], totals.attrs.get("level", 0.9)
    return Table("", header, rows, numeric, note=f"In brackets: {100 * level:g} % interval." if bounds else "")


def _size(picture: Picture) -> dict[str, str]:
    """Return CRS, cell size and shape of a map's file, and of what is shown, as text."""
    grid, shown = picture.full, picture.grid
    cell = grid.cell if grid.geographic else [size * linear_unit(grid) for size in grid.cell]
    size = f"{cell[0]:.4g}" if math.isclose(*cell, rel_tol=1e-4) else f"{cell[0]:.4g} × {cell[1]:.4g}"
    shape, fewer = (f"{each.height:,} × {each.width:,}" for each in (grid, shown))
    return {
        "crs": short_name(grid.crs),
        "cell": f"{size}{'°' if grid.geographic else ' m'}",
        "shape": shape,
        "shown": "all" if shape == fewer else f"averaged to {fewer}",
    }
