"""Show how maps fare against points and other products: figures, differences as GeoTIFF, and one page.

In: what `judging` found. Out: files in the report's folder. Names are a user's and escaped.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark.sections import Page
from soilcarbon.benchmark.tables import Table
from soilcarbon.commands.validate import AgainstSettings
from soilcarbon.figures import observed_against_predicted, residual_map, save
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.html import fill
from soilcarbon.io.files import write_text
from soilcarbon.mapping.map_validation import SCORES, Points
from soilcarbon.mapping.picture import ramp_of, read_picture
from soilcarbon.mapping.products import Shared, file_name
from soilcarbon.mapping.view import View, draw

_TITLES = {"r2": "R²", "rmse": "RMSE", "me": "bias", "mae": "MAE", "ccc": "CCC"}
_IN_UNIT = ("rmse", "me", "mae")
_EXPLAINED = (
    "R²: share of the variance explained, below 0 worse than the mean. Bias: mean of map minus point, or map minus product. "
    "CCC: Lin's concordance."
)
_SIDE = 1000
"""Cells along the longer side of a picture."""


class Report:
    """Draw and write what is found, one after the other, so that no two pairs of maps are held at once.

    Attributes
    ----------
    lines
        What was found, for a terminal.
    """

    def __init__(self, settings: AgainstSettings) -> None:
        self.settings, self.page, self.lines = settings, Page(settings.out), list[str]()
        self._sections: list[tuple[str, str]] = []
        self._rows: list[Mapping[str, Any]] = []

    def add_points(self, points: Points, rows: pd.DataFrame) -> None:
        """Tell how every map fares at points."""
        depth = f", {self.settings.depth}" if self.settings.depth else ""
        n, blocks = len(points.table), int(rows["blocks"].iloc[0])
        told = f"{n:,} of {points.given:,} points ({blocks:,} blocks{depth}), where all maps have values; 95 % intervals by blocks."
        names = [_TITLES[name] + (f" ({points.unit})" if name in _IN_UNIT else "") for name in SCORES]
        held = "held" in rows
        body = []
        for row in rows.to_dict("records"):
            cells = [_bounded(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in SCORES]
            extra = [_bounded(row["held"], row["held_low"], row["held_high"])] if held else []
            body.append([str(row["of"]), *cells, *extra])
            self.lines.append(f"{row['of']} at {n:,} points: {_in_words(row, points.unit)}")
        table = Table("Maps at points", [("", ["map", *names, *(["in interval"] if held else [])])], body)
        parts = [f'<p class="soft">{html.escape(f"{told} {_EXPLAINED}")}</p>', table.to_html()]
        observed = points.table["observed"].to_numpy()
        for name in [each.name for each in (*self.settings.maps, *self.settings.products)]:
            predicted = points.table[name].to_numpy()
            alt = f"{name} against points"
            values = observed, predicted, points.unit, alt, ("observed", name), "points"
            parts.append(
                self.page.figure(f"points-{file_name(name)}", alt, f"{name} at the points.", observed_against_predicted, *values)
            )
            if name in [each.name for each in self.settings.maps]:
                where = points.table["lon"].to_numpy(), points.table["lat"].to_numpy()
                picture = f"residuals-{file_name(name)}"
                values_there = *where, observed - predicted, points.unit, alt
                parts.append(self.page.figure(picture, f"Residuals of {name}", "Observed minus map.", residual_map, *values_there))
        self._sections.append(("Against points", "\n".join(parts)))

    def add_pair(self, shared: Shared, row: Mapping[str, Any]) -> None:
        """Write the difference of two maps, and draw it and their scatter."""
        ours, theirs, unit = str(row["of"]), str(row["against"]), str(row["unit"])
        name, both = file_name(ours, theirs), shared.both
        tif = self.settings.out / f"difference-{name}.tif"
        bands = np.stack([shared.first - shared.second, shared.first, shared.second])
        names = ["difference", f"map: {ours}", f"product: {theirs}"]
        write_geotiff(tif, bands, names, shared.grid.transform, shared.grid.crs, [unit] * 3)
        title, about = f"{ours} against {theirs}", f"{row['n']:,} cells of {row['cell_km']:.3g} km"
        scatter = shared.second[both], shared.first[both], unit, title, (theirs, ours), "cells"
        parts = [f'<p class="soft">{html.escape(_depths(row) or about)}</p>']
        parts.append(self.page.figure(f"scatter-{name}", title, about, observed_against_predicted, *scatter))

        def difference(png: Any) -> None:
            picture = read_picture(View(f"{ours} minus {theirs}", tif), _SIDE, first=1)
            save(draw(picture, ramp_of(picture.bands, diverging=True)), png)

        parts.append(
            self.page.figure(f"difference-{name}", f"{ours} minus {theirs}", f"{ours} minus {theirs}, {unit}.", difference)
        )
        self._sections.append((title, "\n".join(parts)))
        self._rows.append(row)
        self.lines.append(f"{ours} against {theirs}, {about}: {_in_words(row, unit)}")

    def write(self) -> None:
        """Write the page."""
        sections = list(self._sections)
        if self._rows:
            sections.insert(0, ("Against other products", _pair_table(self._rows)))
        if notes := warnings_of(self._rows):
            sections.append(("Notes", f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>"))
        keyed = [(f"s{k}", html.escape(title), body) for k, (title, body) in enumerate(sections)]
        names = ", ".join(each.name for each in self.settings.maps)
        values = {
            "title": html.escape(f"{names} against points and products"),
            "target": "Another product is no truth: agreement with it tells little, disagreement where to look.",
            "answer": "".join(f"<p>{html.escape(line)}</p>" for line in self.lines),
            "contents": "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in keyed),
            "sections": "\n".join(f'<section id="{key}">\n<h2>{title}</h2>\n{body}\n</section>' for key, title, body in keyed),
        }
        write_text(self.settings.out / "report.html", fill("compare.html", values))


def warnings_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which pairs are of different or unknown depths."""
    told = [words for row in rows if (words := _depths(row))]
    return list(dict.fromkeys(told))


def _depths(row: Mapping[str, Any]) -> str:
    """Return what is to be said of the depths of a pair; "" where they agree or nothing is known of either."""
    ours, theirs = row["depth_of"], row["depth_against"]
    if ours == theirs:
        return ""
    if not ours or not theirs:
        return (
            f"{row['of']} ({ours or 'depth not said'}) and {row['against']} ({theirs or 'depth not said'}): are they of one depth?"
        )
    return f"{row['of']} is of {ours}, {row['against']} of {theirs}: they do not tell of the same soil, and the bias is partly that"


def _pair_table(rows: Sequence[Mapping[str, Any]]) -> str:
    unit = str(rows[0]["unit"])
    names = [_TITLES[name] + (f" ({unit})" if name in _IN_UNIT else "") for name in SCORES]
    total = "total_of" in rows[0]
    groups = [("", ["map", "product"]), ("", ["cells", "cell (km)", "area (km2)", *names]), (f"mean ({unit})", ["map", "product"])]
    groups += [("total (Pg)", ["map", "product"])] if total else []
    body = []
    for row in rows:
        cells = [f"{row['n']:,}", f"{row['cell_km']:.3g}", f"{row['area_km2']:,.0f}", *(_number(row[name]) for name in SCORES)]
        cells += [_number(row["mean_of"]), _number(row["mean_against"])]
        cells += [_number(row[f"total_{which}"] / 1000) for which in ("of", "against")] if total else []
        body.append([str(row["of"]), str(row["against"]), *cells])
    return f'<p class="soft">{html.escape(_EXPLAINED)}</p>' + Table("Maps against products", groups, body, texts=2).to_html()


def _number(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.3g}".replace("-", "−")


def _bounded(value: Any, low: Any, high: Any) -> str:
    return f"{_number(value)} [{_number(low)}, {_number(high)}]" if value is not None and value == value else "–"


def _in_words(row: Mapping[str, Any], unit: str) -> str:
    return ", ".join(f"{_TITLES[name]} {_number(row[name])}" + (f" {unit}" if name in _IN_UNIT else "") for name in SCORES)
