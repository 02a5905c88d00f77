"""Draw how well forests by climate zone did beside one forest for all.

In: tables of scores (`zonedscores.score_tables`). Out: a PNG file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soilcarbon.figures import INK, literal, save
from soilcarbon.zonal.evaluation import ALL, METHODS, NETWORK, NETWORK_ZONED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PAPER = {
    "socd_0_20": {"unzoned": {"r2": 0.46, "rmse": 2.38}, "zoned": {"r2": 0.63, "rmse": 2.03}},
    "socd_0_100": {"unzoned": {"r2": 0.43, "rmse": 8.06}, "zoned": {"r2": 0.62, "rmse": 6.16}},
}
"""Target -> method -> scores, kg/m2, of Dong, Wang and Su (2024, Earth Syst. Sci. Data Discuss., essd-2024-588) for China."""
_COLOURS = {"unzoned": "0.55", "zoned": "#D55E00", "blended": "#E69F00", "network": "#56B4E9", "network zoned": "#0072B2"}
"""Okabe and Ito (2008): told apart with any colour vision."""
_WIDTH = 0.16
_PAPERS = " (paper, China)"


def draw_scores(path: Path, tables: "Mapping[str, pd.DataFrame]", score: str, label: str, paper: bool = False) -> None:
    """Draw a score of each method, zone and target, with its interval.

    Parameters
    ----------
    path
        The PNG file.
    tables
        Title -> a table of scores with a column target: a row of panels each, a panel per target.
    score, label
        "r2" or "rmse", and what it is called on the axis.
    paper
        Whether the paper's figures for China are drawn beside those of all zones, where it has the target.
    """
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(target for table in tables.values() for target in table["target"]))
    size = 1.2 + 4.2 * len(targets), 0.9 + 2.6 * len(tables)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(len(tables), len(targets), squeeze=False, sharey=score == "r2")
    for row, (title, table) in zip(panels, tables.items(), strict=True):
        for axes, target in zip(row, targets, strict=True):
            _panel(axes, table[table["target"] == target], score, PAPER.get(target, {}) if paper else {})
            axes.set_title(literal(f"{title}: {target}" if title else target), fontsize=9, loc="left")
        row[0].set_ylabel(literal(label))
    handles = {text: handle for axes in panels.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = sorted(handles, key=lambda text: text.endswith(_PAPERS))  # ours first, as methods stand
    figure.legend([handles[text] for text in order], order, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def _label(method: str) -> str:
    return method if method in (NETWORK, NETWORK_ZONED) else f"forest, {method}"


def _panel(axes: "Axes", table: "pd.DataFrame", score: str, paper: Mapping[str, Mapping[str, float]]) -> None:
    """Draw one target: its zones side by side, in each the methods."""
    zones: Sequence[str] = list(dict.fromkeys(table["zone"]))
    methods = [method for method in METHODS if (table["method"] == method).any()]
    for k, method in enumerate(methods):
        rows = table[table["method"] == method].set_index("zone").reindex(zones)
        place = np.arange(len(zones)) + _WIDTH * (k - (len(methods) - 1) / 2)
        value, ends = rows[score].to_numpy(float), rows[[f"{score}_low", f"{score}_high"]].to_numpy(float)
        away = np.abs(ends.T - value)  # NaN, of a single block, draws no interval
        axes.errorbar(place, value, away, label=_label(method), fmt="o", markersize=5, color=_COLOURS[method], elinewidth=1.3)
        if method in paper:
            axes.plot(
                place[zones.index(ALL)] - len(methods) * _WIDTH / 2 - 0.02,
                paper[method][score],
                marker="D",
                markersize=6,
                markerfacecolor="none",
                markeredgecolor=_COLOURS[method],
                linestyle="none",
                label=f"{_label(method)}{_PAPERS}",
            )
    counts = table.drop_duplicates("zone").set_index("zone")["n"]
    axes.set_xticks(np.arange(len(zones)), [f"{literal(zone)}\nn = {counts[zone]}" for zone in zones], fontsize=8)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
