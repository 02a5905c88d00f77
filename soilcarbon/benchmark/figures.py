"""Figures of a comparison: changes against the strongest baseline, learning curves, coverage of intervals, residuals.

In: tables in memory, and the `Look` of each method, in the order drawn. Out: PNG files, whole or not at all; `path` is the file.
Networks and baselines differ in colour and in marker; no figure relies on colour alone. `strategies` maps a cross-validation
strategy to the title of its panel, `label` is the axis' with its unit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soilcarbon.figures import INK, is_skewed, legend, panels, plain_numbers, save, short_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORK, BASELINE = "#D55E00", "#0072B2"  # Okabe and Ito (2008): distinguishable with any colour vision
_OTHERS = {"network": ["#CC79A7", "#E69F00", "#9A6324"], "baseline": ["#009E73", "#56B4E9", "0.35", "0.6", "#7A5195"]}
_MARKERS = {"network": "sDP", "baseline": "ov^<>X"}
_BAND = "0.88"
_FEW = 4  # methods in a panel of which each gets a band; of more, the subject and the strongest baseline
_FEWEST = 8  # minimum profiles of a bin for a median


@dataclass(frozen=True)
class Look:
    """Drawing style of a method: label, whether it is a network, colour, marker, whether it is drawn boldly."""

    label: str
    network: bool
    colour: str
    marker: str
    bold: bool


def looks(labels: Mapping[str, str], networks: Iterable[str], subject: str, strongest: str) -> dict[str, Look]:
    """Return a drawing style for each method: the subject orange, the strongest baseline blue, others in other colours.

    >>> looks({"a": "network", "b": "forest"}, ["a"], subject="a", strongest="b")["b"].marker
    'o'
    """
    networks, found = set(networks), {}
    turn = {"network": 0, "baseline": 0}
    for key, label in labels.items():
        kind, bold = "network" if key in networks else "baseline", key in (subject, strongest)
        if bold:
            colour, marker = (NETWORK if key == subject else BASELINE), _MARKERS[kind][0]
        else:
            colour = _OTHERS[kind][turn[kind] % len(_OTHERS[kind])]
            marker = _MARKERS[kind][1 + turn[kind] % (len(_MARKERS[kind]) - 1)]
            turn[kind] += 1
        found[key] = Look(label, kind == "network", colour, marker, bold)
    return found


def _kinds_legend(figure: "Figure", chosen: Sequence[Look]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in (True, False) if any(look.network == kind for look in chosen)]
    style = {True: (NETWORK, "s", "network"), False: (BASELINE, "o", "baseline")}
    handles = [Line2D([], [], color=style[kind][0], marker=style[kind][1], markersize=5, linewidth=1.6) for kind in kinds]
    legend(figure, handles, [style[kind][2] for kind in kinds])


def _rows(ax: "Axes", chosen: Sequence[Look], labels: bool = True) -> None:
    """Give each method a row, the first on top, every other row on a grey ground."""
    for place in range(0, len(chosen), 2):
        ax.axhspan(place - 0.5, place + 0.5, color="0.96", linewidth=0, zorder=0)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if labels:
        ax.set_yticks(range(len(chosen)), [short_label(look.label) for look in chosen], fontsize=8)
        ax.set_ylim(len(chosen) - 0.4, -0.6)
        for tick, look in zip(ax.get_yticklabels(), chosen, strict=True):
            tick.set_fontweight("bold" if look.bold else "normal")


def differences(
    path: Path, table: "pd.DataFrame", look: Mapping[str, Look], strategies: Mapping[str, str], label: str, unit: str
) -> None:
    """Draw the change against the strongest baseline, point and interval, a panel per cross-validation strategy.

    The table has strategy, method, value, low, high; methods without a row of a strategy are left blank there. The axis ends
    where most intervals do: a method far off is an arrow at its edge, with its number and `unit` ("%" or "").
    """
    chosen = list(look.values())
    figure, axes = panels(len(strategies), len(strategies), 0.45 + 0.24 * len(chosen), sharey=True, sharex=True)
    ends = table[["low", "high"]].to_numpy(float)
    sizes = np.abs(ends[np.isfinite(ends)])
    limit = min(sizes.max(), 3 * float(np.median(sizes))) if len(sizes) else 1.0
    limit = limit or 1.0
    left, right = (float(np.clip(edge, -limit, limit)) for edge in (np.nanmin([*ends[:, 0], 0]), np.nanmax([*ends[:, 1], 0])))
    margin = 0.06 * (right - left or 1)
    left, right = left - margin, right + margin
    for ax, (strategy, title) in zip(axes, strategies.items(), strict=True):
        _rows(ax, chosen, labels=ax is axes[0])
        ax.axvline(0, color=INK, linewidth=1)
        for place, (key, each) in enumerate(look.items()):
            found = table[(table["strategy"] == strategy) & (table["method"] == key)]
            if found.empty or not np.isfinite(value := float(found.iloc[0]["value"])):
                continue
            low, high = (float(found.iloc[0][end]) for end in ("low", "high"))
            colour, marker = (NETWORK, "s") if each.network else (BASELINE, "o")
            if left <= value <= right:
                ax.plot(np.clip([low, high], left, right), [place, place], color=colour, linewidth=1.6)
                ax.plot(value, place, marker=marker, color=colour, markersize=6.5 if each.bold else 5)
                continue
            inset = 0.02 * (right - left)
            edge, side = (right - inset, "right") if value > right else (left + inset, "left")
            ax.plot(edge, place, marker=">" if side == "right" else "<", color=colour, markersize=5)
            number = f"{value:+.0f} {unit}" if unit else f"{value:+.2f}"
            offset = (-7 if side == "right" else 7, 0)
            ax.annotate(
                number.replace("-", "−"), (edge, place), offset, textcoords="offset points", ha=side, va="center", fontsize=7.5
            )
        ax.set_title(short_label(title, 60), fontsize=9)
        ax.set_xlim(left, right)
        ax.locator_params(axis="x", nbins=5)
    figure.supxlabel(label, fontsize=8.5)
    _kinds_legend(figure, chosen)
    save(figure, path)


def strategies_compared(
    path: Path, table: "pd.DataFrame", look: Mapping[str, Look], strategies: Mapping[str, str], label: str
) -> None:
    """Draw a score of each method under each strategy, linked by a line, from a table of strategy, method, value."""
    from matplotlib.lines import Line2D

    figure, (ax,) = panels(1, 1, 0.45 + 0.24 * len(look))
    _rows(ax, list(look.values()))
    marks = dict(zip(strategies, [("o", "white"), ("o", None), ("D", None), ("^", None), ("v", None)], strict=False))
    values = table.set_index(["method", "strategy"])["value"]
    for place, (key, each) in enumerate(look.items()):
        colour = NETWORK if each.network else BASELINE
        known = {name: float(values[(key, name)]) for name in marks if (key, name) in values.index}
        ax.plot(list(known.values()), [place] * len(known), color=colour, linewidth=1.4, alpha=0.6)
        for name, value in known.items():
            marker, inside = marks[name]
            ax.plot(value, place, marker=marker, color=colour, markerfacecolor=inside or colour, markersize=6)
    ax.set_xlabel(label, fontsize=8.5)
    handles = [Line2D([], [], color=INK, marker=m, markerfacecolor=inside or INK, linestyle="") for m, inside in marks.values()]
    kinds = [Line2D([], [], color=colour, linewidth=2) for colour in (NETWORK, BASELINE)]
    legend(figure, [*handles, *kinds], [*(short_label(strategies[name]) for name in marks), "network", "baseline"])
    save(figure, path)


def learning_curves(path: Path, curves: "pd.DataFrame", look: Mapping[str, Look], score: str, label: str) -> None:
    """Draw a score against the number of training profiles, a panel per region: mean over repeats, band from least to most.

    The table has region, method, n_train, repeat, and the score. Beyond four methods, only bold ones have a band.
    """
    regions = list(dict.fromkeys(curves["region"]))
    figure, axes = panels(len(regions), 2, 2.35)
    handles = {}
    for ax, region in zip(axes, regions, strict=True):
        here = curves[curves["region"] == region]
        for key, each in look.items():
            found = here[here["method"] == key].groupby("n_train")[score].agg(["mean", "min", "max"]).dropna()
            if found.empty:
                continue
            if each.bold or len(look) <= _FEW:
                ax.fill_between(found.index, found["min"], found["max"], color=each.colour, alpha=0.16, linewidth=0)
            style: dict[str, Any] = {"linewidth": 2 if each.bold else 1.1, "markersize": 4.5 if each.bold else 3.5}
            (handles[key],) = ax.plot(found.index, found["mean"], color=each.colour, marker=each.marker, **style)
        counts = np.sort(here["n_train"].unique())
        ax.set_xscale("log")
        apart = [counts[0]]
        apart += [count for last, count in pairwise(counts) if count >= 1.35 * last]
        ax.set_xticks(apart, [f"{count:,}" for count in apart])
        ax.set_xticks([], minor=True)
        ax.set_title(short_label(region), fontsize=9)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
    figure.supxlabel("training profiles (logarithmic)", fontsize=8.5)
    figure.supylabel(label, fontsize=8.5)
    kept = [key for key in look if key in handles][::-1]
    legend(figure, [handles[key] for key in kept], [short_label(look[key].label) for key in kept])
    save(figure, path)


def coverage(path: Path, table: "pd.DataFrame", look: Mapping[str, Look], strategies: Mapping[str, str]) -> None:
    """Draw coverage of prediction intervals less their nominal level, a panel per strategy.

    The table has strategy, method, region (None: all together, else small marks), level, coverage; shares of one.
    """
    from matplotlib.patches import Patch

    figure, axes = panels(len(strategies), 2, 2.9, sharey=True)
    levels = sorted(table["level"].unique())
    furthest = max(4.0, 1.15 * 100 * float((table["coverage"] - table["level"]).abs().max()))
    handles = {}
    for ax, (strategy, title) in zip(axes, strategies.items(), strict=True):
        ax.axhspan(-2, 2, color=_BAND, linewidth=0)
        ax.axhline(0, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
        for k, (key, each) in enumerate(look.items()):
            found = table[(table["strategy"] == strategy) & (table["method"] == key)].sort_values("level")
            aside = 0.4 * (k - (len(look) - 1) / 2) / len(look)  # methods of one level stand side by side
            x = np.searchsorted(levels, found["level"]) + aside
            y = 100 * (found["coverage"] - found["level"]).to_numpy(float)
            single = found["region"].notna().to_numpy()
            marks: dict[str, Any] = {"color": each.colour, "marker": each.marker}
            ax.plot(x[single] + 0.06, y[single], linestyle="", markersize=3, alpha=0.45, **marks)
            (handles[key],) = ax.plot(x[~single], y[~single], linewidth=1.4, markersize=6, **marks)
        ax.set_xlim(-0.5, len(levels) - 0.5)
        ax.set_ylim(-furthest, furthest)
        ax.set_xticks(range(len(levels)), [f"{100 * level:g}" for level in levels])
        ax.set_title(short_label(title, 60), fontsize=9)
        for height, text, side in ((0.98, "too wide", "top"), (0.02, "too narrow", "bottom")):
            ax.annotate(text, (0.98, height), xycoords="axes fraction", ha="right", va=side, fontsize=7.5, color=INK)
    figure.supxlabel("nominal level of the interval (%)", fontsize=8.5)
    axes[0].set_ylabel("coverage − nominal level (points)", fontsize=8.5)
    keys = [key for key in look if key in handles]
    labels = [*(short_label(look[key].label) for key in keys), "within ± 2 points"]
    legend(figure, [*(handles[key] for key in keys), Patch(color=_BAND)], labels)
    save(figure, path)


def error_against_dissimilarity(path: Path, predictions: "pd.DataFrame", unit: str) -> None:
    """Draw the median absolute error of bins of equally many profiles, from the least to the most dissimilar.

    The table has region, observed, predicted, di (finite), inside. The area of applicability ends at the largest `di` inside it.
    """
    regions = list(dict.fromkeys(predictions["region"]))
    figure, axes = panels(len(regions), 2, 2.4)
    for ax, region in zip(axes, regions, strict=True):
        here = predictions[predictions["region"] == region].sort_values("di")
        di, error = here["di"].to_numpy(float), (here["predicted"] - here["observed"]).abs().to_numpy(float)
        bins = np.array_split(np.arange(len(di)), int(np.clip(len(di) // (2 * _FEWEST), 1, 8)))
        x = np.array([np.median(di[some]) for some in bins])
        y, low, high = np.array([np.quantile(error[some], [0.5, 0.25, 0.75]) for some in bins]).T
        ax.vlines(x, low, high, color=BASELINE, linewidth=4, alpha=0.25)
        ax.plot(x, y, color=BASELINE, marker="o", markersize=5, linewidth=1.4)
        inside = here.loc[here["inside"] == 1, "di"]
        if len(inside) and (here["inside"] == 0).any():
            ax.axvline(float(inside.max()), color=NETWORK, linewidth=1.2, linestyle=(0, (4, 3)))
        if is_skewed(di) and di.min() > 0:
            ax.set_xscale("log")
            plain_numbers(ax.xaxis, di.max() < 100 * di.min())
        ax.set_ylim(0, 1.14 * high.max() or 1.0)
        for place, some, top in zip(x, bins, high, strict=True):
            ax.annotate(f"{len(some)}", (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=6.5, color=INK)
        ax.set_title(f"{short_label(region)}, n = {len(di):,}", fontsize=9)
    figure.supxlabel("dissimilarity to the training profiles", fontsize=8.5)
    figure.supylabel(f"absolute error ({short_label(unit)}): median, middle half", fontsize=8.5)
    save(figure, path)


def residual_maps(path: Path, predictions: "pd.DataFrame", unit: str) -> None:
    """Draw maps of residuals per region: more observed than predicted (red, pointing up) or less (blue, pointing down).

    The table has region, lon, lat (degrees), observed, predicted. Each map has its own ramp, centred at zero and ending at the
    95th percentile of its absolute residuals.
    """
    from matplotlib.colors import Normalize

    regions = list(dict.fromkeys(predictions["region"]))
    figure, axes = panels(len(regions), 2, 3.1)
    for ax, region in zip(axes, regions, strict=True):
        here = predictions[predictions["region"] == region]
        lon, lat, observed, predicted = (here[name].to_numpy(float) for name in ("lon", "lat", "observed", "predicted"))
        residual = observed - predicted
        limit = float(np.quantile(np.abs(residual), 0.95)) or float(np.max(np.abs(residual))) or 1.0
        order = np.argsort(np.abs(residual))  # the largest on top
        ramp: dict[str, Any] = {"cmap": "RdBu_r", "norm": Normalize(-limit, limit), "edgecolors": "0.35", "linewidths": 0.2}
        size = float(np.clip(3000 / len(order), 4, 26))
        for sign, marker in ((1, "^"), (-1, "v")):
            some = order[residual[order] >= 0] if sign > 0 else order[residual[order] < 0]
            points = ax.scatter(lon[some], lat[some], c=residual[some], s=size, marker=marker, **ramp)
        ax.set_facecolor("0.94")
        ax.grid(color="white", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.set_aspect(1 / max(float(np.cos(np.deg2rad((lat.min() + lat.max()) / 2))), 0.2), adjustable="datalim")
        ax.locator_params(nbins=5)
        bar = figure.colorbar(points, ax=ax, extend="both", shrink=0.8, aspect=22, pad=0.02)
        bar.ax.tick_params(labelsize=7.5)
        ax.set_title(f"{short_label(region)}, n = {len(order):,}", fontsize=9)
    figure.supxlabel("degrees east", fontsize=8.5)
    figure.supylabel("degrees north", fontsize=8.5)
    figure.suptitle(f"observed − predicted ({short_label(unit)}): ▲ red more, ▼ blue less than predicted", fontsize=9)
    save(figure, path)
