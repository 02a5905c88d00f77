"""Put finished maps into one page: a map to point at, its legend, and tables of what is known of it.

In: pictures and the facts about them. Out: the text of an HTML page that needs neither network nor libraries. The
page's form and script are `templates/map.html`; all that comes from files is escaped here, and the page's own policy
lets no other script run and nothing be fetched.
"""

import base64
import html
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from soilcarbon.geo.crs import short_name
from soilcarbon.geo.grid import Grid, lonlat
from soilcarbon.html import fill
from soilcarbon.mapping.picture import (
    Picture,
    Ramp,
    bar_length,
    bar_words,
    degree_words,
    drawn_shape,
    ground,
    linear_unit,
    sensible,
    to_scale,
)

if TYPE_CHECKING:
    import pandas as pd

_LATTICE = 33
"""Places along each side of a map that is not in degrees, between which the page interpolates longitude and latitude."""
FINE, COARSE = 65535, 4096
"""Codes of a band's values, one of which means missing; few compress better."""
_SCORES = {"rmse": "RMSE", "mae": "MAE", "me": "ME", "r2": "R²", "ccc": "CCC", "rpiq": "RPIQ", "n": "n"}
_IN_UNIT = ("rmse", "mae", "me")
_PROFILES = "Rows held out, train, valid and test are of profiles, in the model's own splits or folds."
_CELLS = "Rows “cells” compare this map with a raster, cell by cell."


def render(
    title: str,
    packed: Sequence[Mapping[str, Any]],
    ramps: Sequence[Ramp],
    still: bytes,
    pictures: Sequence[Picture],
    links: Sequence[str],
    scores: Mapping[str, Mapping[str, float | None]],
    provenance: Mapping[str, Any],
    totals: "pd.DataFrame | None",
    notes: Sequence[str],
) -> str:
    """Return the page.

    Parameters
    ----------
    title
        Its heading.
    packed
        The maps, from `pack`.
    ramps
        Those that bands of `packed` refer to by number.
    still
        A JPEG of the first map, shown where scripts do not run.
    pictures, links
        What was packed, and the path from the page to each map's file.
    scores, provenance, totals, notes
        As for `mapview.page`.
    """
    grids: list[dict[str, Any]] = []
    views = []
    for view, picture in zip(packed, pictures, strict=True):
        place = _places(picture.grid)
        if place not in grids:
            grids.append(place)
        views.append({**view, "grid": grids.index(place)})
    data = {"views": views, "grids": grids, "ramps": [_plain_ramp(ramp) for ramp in ramps], "palettes": _palettes(ramps)}
    unit = pictures[0].bands[0].unit
    sections = [
        _section("Scores", _score_table(scores, unit)),
        _section("Totals", _totals_table(totals) if totals is not None else ""),
        _section("Files", _files(pictures, links)),
        _section("Where it comes from", _facts(provenance)),
        _section("Notes", f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""),
    ]
    first = pictures[0]
    return fill(
        "map.html",
        {
            "title": html.escape(title),
            "alt": html.escape(f"Map of {first.bands[0].name}, {first.view.title}"),
            "still": f"data:image/jpeg;base64,{base64.b64encode(still).decode()}",
            "tables": "\n".join(sections),
            "data": _in_script(data),
        },
    )


def _in_script(value: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


# --- values and places -----------------------------------------------------------------------------------------


def pack(picture: Picture, numbers: Sequence[int | None], ramps: Sequence[Ramp], codes: int) -> dict[str, Any]:
    """Return a map as plain containers for the page.

    Parameters
    ----------
    picture
        The map.
    numbers
        For each band the number of its ramp in `ramps`; None where no cell has a value.
    ramps
        How values become colours; a logarithmic one makes the steps between values grow with them.
    codes
        Values are rounded to so many steps between the lowest and the highest, less one.
    """
    grid, scale = picture.grid, ground(picture.grid)
    shown: dict[str, Any] = {
        "title": picture.view.title,
        "width": grid.width,
        "height": grid.height,
        "shape": round(drawn_shape(grid, scale), 5),
        "bar": None,
        "places": 3,
    }
    if scale:
        width = grid.width * grid.cell[0] * scale.x
        length = bar_length(width)
        shown["bar"] = {"share": length / width, "words": bar_words(length, grid, scale)}
        shown["places"] = int(np.clip(math.ceil(-math.log10(grid.cell[1] * scale.y / 111_195)), 0, 6))
    shown["extent"] = _extent(picture.full, max(2, shown["places"]))
    if not to_scale(grid, scale):
        shown["extent"] += "; height and width are not to one scale"
    shown["bands"] = [
        {
            "name": band.name,
            "unit": band.unit,
            "meaning": band.meaning,
            "ramp": number,
            **quantise(band.values, ramps[number].low if number is not None and ramps[number].logarithmic else 0.0, codes),
        }
        for band, number in zip(picture.bands, numbers, strict=True)
    ]
    return shown


def quantise(values: np.ndarray, curve: float, codes: int) -> dict[str, Any]:
    """Round values to few enough steps that they take little room in a page.

    Parameters
    ----------
    values
        (h, w), missing = NaN.
    curve
        Positive: steps are even in asinh(value / curve), so below it of one size and beyond in proportion to the
        value. 0: even in the value.
    codes
        Of which 0 means missing; at most 65535.

    Returns
    -------
    dict
        curve; start and step, so that code k > 0 means start + step (k - 1), in asinh(value / curve) if curve is not
        0; codes, base64 of zlib of the differences along rows, folded to 2 |d| or 2 |d| - 1, high bytes before low ones.
    """
    known = np.isfinite(values)
    scaled = np.where(known, values, 0).astype(np.float64)
    scaled = np.arcsinh(scaled / curve) if curve else scaled
    start, end = (float(scaled[known].min()), float(scaled[known].max())) if known.any() else (0.0, 0.0)
    step = (end - start) / (codes - 2) or 1.0
    code = np.where(known, np.round((scaled - start) / step) + 1, 0).astype(np.uint16)
    rise = np.diff(code, axis=1, prepend=np.uint16(0)).view(np.int16)
    folded = ((rise << 1) ^ (rise >> 15)).view(np.uint16)
    planes = (folded >> 8).astype(np.uint8).tobytes() + (folded & 255).astype(np.uint8).tobytes()
    return {"curve": curve, "start": start, "step": step, "codes": base64.b64encode(zlib.compress(planes)).decode()}


def _places(grid: Grid) -> dict[str, Any]:
    """Return what the page needs to know of a grid to tell longitude and latitude."""
    if grid.geographic:
        x_min, x_max, y_min, y_max = grid.bounds
        return {"x": [x_min, x_max], "y": [y_max, y_min]}
    shares = np.linspace(0, 1, _LATTICE)
    rows, cols = (axis.ravel() for axis in np.meshgrid(shares * grid.height, shares * grid.width, indexing="ij"))
    lon, lat = (np.deg2rad(angle) for angle in lonlat(grid, rows, cols))
    # on the unit sphere neither the antimeridian nor a pole is a seam
    sphere = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    return {"side": _LATTICE, "lattice": [round(float(value), 9) if np.isfinite(value) else None for value in sphere.ravel()]}


def _extent(grid: Grid, places: int) -> str:
    x_min, x_max, y_min, y_max = grid.bounds
    if grid.geographic:
        south, north = (degree_words(edge, "NS", places) for edge in (y_min, y_max))
        west, east = (degree_words(edge, "EW", places) for edge in (x_min, x_max))
        where = f"{south} to {north}, " + ("all longitudes" if x_max - x_min > 359.999 else f"{west} to {east}")
    else:
        unit = linear_unit(grid) / 1000
        where = f"{x_min * unit:,.1f} to {x_max * unit:,.1f} km east, {y_min * unit:,.1f} to {y_max * unit:,.1f} km north"
    return f"{where}; {short_name(grid.crs)}".replace("-", "−")


def _plain_ramp(ramp: Ramp) -> dict[str, Any]:
    ticks = [[round(ramp.place(value), 5), f"{value:g}".replace("-", "−")] for value in ramp.ticks()]
    kept = {"colours": ramp.colours, "low": ramp.low, "high": ramp.high, "log": ramp.logarithmic}
    return {**kept, "ticks": ticks, "words": ramp.words(), "extend": ramp.extend}


def _palettes(ramps: Sequence[Ramp]) -> dict[str, str]:
    """Return 256 colours of each colour map in use, as hexadecimal digits."""
    from matplotlib import colormaps

    names = {ramp.colours for ramp in ramps}
    return {name: colormaps[name](np.arange(256) / 255, bytes=True)[:, :3].tobytes().hex() for name in sorted(names)}


# --- tables ----------------------------------------------------------------------------------------------------


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{body}\n</section>" if body else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a table whose cells are HTML already; the first cell of a row names it."""
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(kinds, header, strict=True))
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        body += f'<tr><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>\n'
    return f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _score_table(scores: Mapping[str, Mapping[str, float | None]], unit: str) -> str:
    if not scores:
        return ""
    given = list(dict.fromkeys(name for row in scores.values() for name in row))
    names = [name for name in _SCORES if name in given] + [name for name in given if name not in _SCORES]
    header = [_SCORES.get(name, name) + (f" ({unit})" if unit and name in _IN_UNIT else "") for name in names]
    rows = [[html.escape(split), *(_score(name, row.get(name)) for name in names)] for split, row in scores.items()]
    told = [_PROFILES] if any(not split.startswith("cells") for split in scores) else []
    told += [_CELLS] if any(split.startswith("cells") for split in scores) else []
    table = _table(["", *map(html.escape, header)], rows, [False, *[True] * len(names)])
    return f'<p class="soft">{" ".join(told)}</p>\n{table}'


def _score(name: str, value: Any) -> str:
    """Return a score in words; it may come from a stranger's checkpoint."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return "–"
    two_places = name in ("r2", "ccc", "rpiq") and abs(number) < 100
    return f"{number:.2f}".replace("-", "−") if two_places else sensible(number)


def _totals_table(totals: "pd.DataFrame") -> str:
    """Return totals as a table: what no row has is left out, what all rows share is in the header, bounds stand beside.

    Of columns `a`, `a_lower`, `a_upper` and `a_unit` come cells such as "24.7 [24.1, 25.2]" below "a (g/kg)".
    """
    table = totals.loc[:, [not all(map(_empty, totals[name])) for name in totals.columns]]
    names = [str(name) for name in table.columns]
    columns = dict(zip(names, (list(table[name]) for name in table.columns), strict=True))
    bounded = [name for name in names if {f"{name}_lower", f"{name}_upper"} <= columns.keys()]
    used = {f"{name}{end}" for name in bounded for end in ("_lower", "_upper")}
    header, cells, numeric = [], [], []
    for name, kind in zip(names, table.dtypes, strict=True):
        what, _, ending = name.rpartition("_")
        if name in used or (ending == "unit" and what in columns and _shared(columns[name])):
            continue
        numeric.append(kind.kind in "iuf")
        unit = _shared(columns.get(f"{name}_unit", []))
        parts = [columns[name], *([columns[f"{name}_lower"], columns[f"{name}_upper"]] if name in bounded else [])]
        power = _thousands(parts[0]) if unit and numeric[-1] else 0
        title, unit = (what, "km2") if ending == "km2" and not unit else (name, unit)
        unit = f"10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(digit)] for digit in str(power))} {unit}" if power else unit
        header.append(html.escape(f"{title} ({unit})" if unit else title))
        scaled = [[value / 10**power for value in part] for part in parts] if power else parts
        cells.append([html.escape(_with_bounds(*map(_cell, row))) for row in zip(*scaled, strict=True)])
    told = '<p class="soft">In brackets: lower and upper bound.</p>\n' if used else ""
    return told + _table(header, list(zip(*cells, strict=True)), numeric) if cells else ""


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def _shared(units: Sequence[Any]) -> str:
    """Return the unit that all rows have in common, but for those without any; "" where there is none."""
    known = {str(unit) for unit in units if not _empty(unit)}
    return known.pop() if len(known) == 1 else ""


def _thousands(values: Sequence[float]) -> int:
    """Return the power of ten, 0, 3, 6, ..., by which to divide so that millions get short and nothing less than one."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes or max(sizes) < 1e6 or min(sizes) < 1:
        return 0
    return 3 * (math.floor(math.log10(min(sizes))) // 3)


def _with_bounds(value: str, lower: str = "–", upper: str = "–") -> str:
    return value if (lower, upper) == ("–", "–") else f"{value} [{lower}, {upper}]"


def _cell(value: Any) -> str:
    if _empty(value):
        return "–"
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    return sensible(float(value)) if isinstance(value, float | np.floating) else str(value)


def _files(pictures: Sequence[Picture], links: Sequence[str]) -> str:
    rows = []
    for picture, link in zip(pictures, links, strict=True):
        grid, shown = picture.full, picture.grid
        unit = "°" if grid.geographic else " m"
        cell = grid.cell if grid.geographic else [size * linear_unit(grid) for size in grid.cell]
        size = f"{cell[0]:.4g}" if math.isclose(*cell, rel_tol=1e-4) else f"{cell[0]:.4g} × {cell[1]:.4g}"
        rows.append(
            [
                html.escape(picture.view.title),
                f'<a href="{html.escape(quote(link))}">{html.escape(link)}</a>',
                html.escape(short_name(grid.crs)),
                f"{size}{unit}",
                f"{grid.height:,} × {grid.width:,}",
                "all" if grid == shown else f"averaged to {shown.height:,} × {shown.width:,}",
            ]
        )
    return _table(["Map", "File", "CRS", "Cell", "Rows × columns", "Shown here"], rows, [False] * 6)


def _facts(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(words)}</td></tr>\n' for name, words in flattened(values)
    )
    return f'<table class="facts"><tbody>\n{rows}</tbody></table>' if rows else ""


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name, a dot between levels, and the words of everything in nested mappings and sequences."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping | list | tuple) for each in value):
        for k, inner in enumerate(value, start=1):
            yield from flattened(inner, f"{name}.{k}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "–"
    else:
        yield name, "–" if value is None or value == {} else str(value)
