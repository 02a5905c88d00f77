"""Report of a map validation: scores at points, scores against other maps, figures, and differences as GeoTIFF.

In: what `map_validation` computed. Out: report.html and the figures and rasters beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.figures import observed_against_predicted, residual_map, save
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.html import Block, FigureFolder, Items, Note, Section, Table, format_value, write_report
from soilcarbon.mapping.map_validation import SCORES, Points
from soilcarbon.mapping.picture import View, draw, read_picture
from soilcarbon.mapping.products import Shared, file_name

_TITLES = {"r2": "R²", "rmse": "RMSE", "me": "bias", "mae": "MAE", "ccc": "CCC"}
_IN_UNIT = ("rmse", "me", "mae")
_EXPLAINED = (
    "R²: share of the variance explained, below 0 worse than the mean. Bias: mean of map minus point, or map minus reference map. "
    "CCC: Lin's concordance correlation coefficient."
)
_SIDE = 1000
"""Cells along the longer side of a picture."""


class ValidationReport:
    """Report of a map validation, built up one pair of maps after the other, so that no two pairs are held at once.

    Parameters
    ----------
    folder
        Where the report, its figures and the differences go.
    maps
        Names of the maps that are validated.

    Attributes
    ----------
    lines
        The results as text, for a terminal.
    """

    def __init__(self, folder: Path, maps: Sequence[str]) -> None:
        self.folder, self.maps, self.lines = folder, maps, list[str]()
        self._figures = FigureFolder(folder)
        self._sections: list[Section] = []
        self._rows: list[Mapping[str, Any]] = []

    def add_points(self, points: Points, rows: pd.DataFrame, depth: str = "") -> None:
        """Add the scores of every map at independent points, as `score_points` returns them."""
        n, groups = len(points.table), int(rows["blocks"].iloc[0])
        which = f"{n:,} of {points.given:,} points ({groups:,} blocks{f', {depth}' if depth else ''}), where all maps have values"
        scores = [*SCORES, *(["coverage"] if "coverage" in rows else [])]
        body = []
        for row in rows.to_dict("records"):
            body.append([str(row["map"]), *(_bounded(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for name in scores)])
            self.lines.append(f"{row['map']} at {n:,} points: {_as_text(row, points.unit)}")
        header = ["map", *_titles(points.unit), *(["PICP"] if "coverage" in rows else [])]
        note = f"{which}; 95 % intervals by blocks. {_EXPLAINED}"
        note += " PICP: share of points inside the map's own prediction interval." if "coverage" in rows else ""
        blocks: list[Block] = [Table("Maps at points", header, body, note=note)]
        observed = points.table["observed"].to_numpy()
        for name in rows["map"]:
            predicted = points.table[name].to_numpy()
            alt, key = f"{name} against points", file_name(name)
            values = observed, predicted, points.unit, alt, ("observed", name), "points"
            blocks.append(self._figures.draw(f"points-{key}", alt, f"{name} at the points.", observed_against_predicted, *values))
            if name in self.maps:
                residuals = *(points.table[each].to_numpy() for each in ("lon", "lat")), observed - predicted, points.unit, alt
                caption = f"Residuals of {name}", "Observed minus map."
                blocks.append(self._figures.draw(f"residuals-{key}", *caption, residual_map, *residuals))
        self._sections.append(Section("points", "Independent points", blocks))

    def add_pair(self, shared: Shared, row: Mapping[str, Any]) -> None:
        """Add a map and a reference map, as `score_pair` returns them; write their difference, and draw it and their scatter."""
        ours, theirs, unit = str(row["map"]), str(row["reference"]), str(row["unit"])
        key, both = file_name(ours, theirs), shared.both
        tif = self.folder / f"difference-{key}.tif"
        bands = np.stack([shared.first - shared.second, shared.first, shared.second])
        names = ["difference", f"map: {ours}", f"product: {theirs}"]
        write_geotiff(tif, bands, names, shared.grid.transform, shared.grid.crs, [unit] * 3)
        title, about = f"{ours} against {theirs}", f"{row['n']:,} cells of {row['cell_km']:.3g} km"
        scatter = shared.second[both], shared.first[both], unit, title, (theirs, ours), "cells"

        def difference(png: Path) -> None:
            picture = read_picture(View(f"{ours} minus {theirs}", tif), _SIDE, first=1)
            save(draw(picture, diverging=True), png)

        figures = [
            self._figures.draw(f"scatter-{key}", title, about, observed_against_predicted, *scatter),
            self._figures.draw(f"difference-{key}", f"{ours} minus {theirs}", f"{ours} minus {theirs}, {unit}.", difference),
        ]
        self._rows.append(row)
        self._sections.append(Section(f"pair{len(self._rows)}", title, [Note(_depth_mismatch(row) or about), *figures]))
        self.lines.append(f"{title}, {about}: {_as_text(row, unit)}")

    def write(self) -> None:
        """Write report.html."""
        sections = list(self._sections)
        if self._rows:
            sections.insert(0, Section("references", "Reference maps", [_pair_table(self._rows)]))
        notes = depth_warnings(self._rows)
        sections.append(Section("notes", "Notes", [Items(notes)] if notes else []))
        title = f"{', '.join(self.maps)} against points and reference maps"
        subject = "A reference map is not the truth: agreement with it shows little, disagreement shows where to look."
        write_report(self.folder / "report.html", title, subject, self.lines, sections)


def depth_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each pair of maps of different or unknown depths."""
    return list(dict.fromkeys(text for row in rows if (text := _depth_mismatch(row))))


def _depth_mismatch(row: Mapping[str, Any]) -> str:
    """Return a warning about the depths of a pair; "" where they agree or neither is known."""
    ours, theirs = row["depth_map"], row["depth_reference"]
    if ours == theirs:
        return ""
    if not ours or not theirs:
        unknown = "depth unknown"
        return f"{row['map']} ({ours or unknown}) and {row['reference']} ({theirs or unknown}) may be of different depths"
    return f"{row['map']} is of {ours}, {row['reference']} of {theirs}: part of the bias is the difference in depth"


def _titles(unit: str) -> list[str]:
    return [_TITLES[name] + (f" ({unit})" if name in _IN_UNIT else "") for name in SCORES]


def _pair_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    unit = str(rows[0]["unit"])
    both, total = ["map", "reference"], "total_map" in rows[0]
    groups = [("", [*both, "cells", "cell (km)", "area (km2)", *_titles(unit)]), (f"mean ({unit})", both)]
    groups += [("total (Pg)", both)] if total else []
    names = [*both, "n", "cell_km", "area_km2", *SCORES, "mean_map", "mean_reference"]
    body = [
        [*(row[name] for name in names), *(row[f"total_{which}"] / 1000 for which in both if total)]  # Tg -> Pg
        for row in rows
    ]
    return Table.grouped("Maps against reference maps", groups, body, texts=2, note=_EXPLAINED)


def _bounded(value: Any, low: Any, high: Any) -> str:
    shown = [format_value(each) for each in (value, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if shown[0] != "–" else "–"


def _as_text(row: Mapping[str, Any], unit: str) -> str:
    return ", ".join(f"{_TITLES[name]} {format_value(row[name])}" + (f" {unit}" if name in _IN_UNIT else "") for name in SCORES)
