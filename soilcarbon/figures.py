"""Figures of predictions: observed against predicted, maps of residuals and of SOC, bars of scores, and pages of panels.

In: arrays in memory. Out: PNG files, whole or not at all. No display is needed and no global state of matplotlib is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from soilcarbon.io.files import atomic_write
from soilcarbon.stats.metrics import scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "0.25"
WIDTH, DPI = 7.2, 200
"""Inches and resolution of figures of panels: a page shows them all at one scale, so that their letters are of one size."""
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito (2008): distinguishable with any colour vision
_CROWDED = 2000
"""Profiles beyond which points hide each other, and their density is drawn instead."""
_LEGEND_HEIGHT = 0.45
"""Inches."""


@dataclass(frozen=True)
class SocMap:
    """A map: title, values (H, W) north up with NaN where unknown, lon_min lat_min lon_max lat_max, profiles (N,) on it."""

    title: str
    values: np.ndarray
    bounds: Sequence[float]
    lon: np.ndarray
    lat: np.ndarray


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def literal(text: object) -> str:
    r"""Return untrusted text escaped for matplotlib: drawn letter by letter, and no formula.

    Examples
    --------
    >>> print(literal("$soc$"))
    \$soc\$
    """
    return str(text).replace("$", r"\$")


def is_skewed(values: np.ndarray) -> bool:
    """Return whether values (n,) are right-skewed from zero, so that a linear axis would show little but the largest.

    Examples
    --------
    >>> is_skewed(np.array([1, 2, 3, 5, 90.0])), is_skewed(np.array([1, 2, 3, 4, 5.0]))
    (True, False)
    """
    if len(values) < 5 or values.min() < 0:
        return False
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return bool(middle > 0 and high - middle > 2 * (middle - low))


def plain_numbers(axis: "Axis", few: bool) -> None:
    """Label a logarithmic axis 1, 10, 100, ... rather than in powers of ten; of few decades also 2, 5, 20, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _shared_range(observed: np.ndarray, predicted: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """Return the common limits of both axes."""
    both = np.concatenate([observed, predicted])
    if not len(both):
        return 0.0, 1.0
    low, high = float(both.min()), float(both.max())
    if logarithmic:  # one value near zero must not squeeze all others into a corner
        return float(np.quantile(both[both > 0], 0.002, method="higher")) / 1.5, 1.2 * high
    margin = 0.04 * (high - low or 1.0)
    return 0.0 if 0 <= low < 0.3 * high else low - margin, high + margin


def observed_against_predicted(
    path: Path,
    observed: np.ndarray,
    predicted: np.ndarray,
    unit: str,
    title: str,
    labels: tuple[str, str] = ("observed", "predicted"),
    things: str = "profiles",
) -> None:
    """Draw predictions against observations (n,), with the 1:1 line and the scores, as PNG.

    Both axes span the same range. They are logarithmic when the observations are right-skewed, as carbon contents are; what is near
    or below zero then stands at the edge, as a triangle. Beyond 2,000 profiles their density is shown. `labels` are of the axes,
    `things` what is counted.
    """
    title, unit, labels = literal(title), literal(unit), (literal(labels[0]), literal(labels[1]))
    logarithmic = is_skewed(observed)
    scale: Literal["log", "linear"] = "log" if logarithmic else "linear"
    low, high = _shared_range(observed, predicted, logarithmic)
    figure, axes = _figure(6.3 if len(observed) > _CROWDED else 5.4, 5.6)
    axes.set(xscale=scale, yscale=scale)
    x, y = np.clip(observed, low, high), np.clip(predicted, low, high)
    outside = (x != observed) | (y != predicted)
    _points_or_density(figure, axes, x[~outside], y[~outside], (low, high), things)
    if outside.any():
        axes.scatter(x[outside], y[outside], s=24, color=_ORANGE, marker="v", clip_on=False, zorder=3)
        below = f"▼ {int(outside.sum())} below {low:.2g} {unit}"
        axes.annotate(below, (1, 0), (-4, 8), "axes fraction", "offset points", ha="right", color=_ORANGE, fontsize=8)
    if logarithmic:
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis, high < 1000 * low)
    axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=(0, (5, 3)))
    axes.annotate("1:1", (high, high), (-20, -10), textcoords="offset points", ha="right", color=INK, fontsize=9)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel=in_unit(labels[0], unit), ylabel=in_unit(labels[1], unit))
    axes.set_aspect("equal")
    axes.set_title(f"{title}\n{_scores_line(observed, predicted, unit)}", fontsize=9)
    save(figure, path)


def _points_or_density(
    figure: "Figure", axes: "Axes", x: np.ndarray, y: np.ndarray, ends: tuple[float, float], things: str
) -> None:
    """Draw points, or their density where they would overlap."""
    if len(x) <= _CROWDED:
        alpha = float(np.clip(10 / max(len(x), 1) ** 0.5, 0.35, 0.9))
        axes.scatter(x, y, s=18, color=_BLUE, alpha=alpha, linewidths=0)
        return
    logarithmic = axes.get_xscale() == "log"
    scale: Literal["log", "linear"] = "log" if logarithmic else "linear"
    extent = tuple(np.log10([*ends, *ends])) if logarithmic else (*ends, *ends)
    cells = axes.hexbin(
        x, y, gridsize=60, extent=extent, bins="log", mincnt=1, cmap="viridis", xscale=scale, yscale=scale, linewidths=0.1
    )
    plain_numbers(figure.colorbar(cells, ax=axes, label=things, shrink=0.7).ax.yaxis, True)


def in_unit(name: str, unit: str) -> str:
    """Return a name with its unit, where that is known.

    Examples
    --------
    >>> in_unit("observed", "kg/m2"), in_unit("observed", "")
    ('observed (kg/m2)', 'observed')
    """
    return f"{name} ({unit})" if unit else name


def _scores_line(observed: np.ndarray, predicted: np.ndarray, unit: str) -> str:
    """Return n and the scores in one line."""
    score = scores(observed, predicted)
    errors = [f"{name.upper()} {score[name]:.3g}" for name in ("rmse", "mae", "me") if score[name] is not None]
    bare = [f"{label} {score[name]:.2f}" for label, name in (("R²", "r2"), ("CCC", "ccc")) if score[name] is not None]
    line = ", ".join([f"n = {score['n']}", *errors]) + (f" {unit}" if errors else "")
    return line + (f"; {', '.join(bare)}" if bare else "")


def residual_map(path: Path, lon: np.ndarray, lat: np.ndarray, residual: np.ndarray, unit: str, title: str) -> None:
    """Draw a map of residuals (n,), observed - predicted: where more was observed than predicted, and where less, as PNG.

    The ramp is centred at zero and ends at the 95th percentile of the absolute residuals, so that a few outliers do not bleach the
    rest. Degrees are drawn as long as they are on the ground in the middle of the map.
    """
    from matplotlib.colors import Normalize

    title, unit = literal(title), literal(unit)
    spans = [max(float(np.ptp(values)), 0.2) * 1.08 if len(values) else 1.0 for values in (lon, lat)]
    middles = [float(values.min() + values.max()) / 2 if len(values) else 0.0 for values in (lon, lat)]
    stretch = 1 / max(float(np.cos(np.deg2rad(middles[1]))), 0.2)
    tall = spans[1] * stretch / spans[0]
    figure, axes = _figure(7.5, float(np.clip(5.6 * tall, 3.0, 8.0)) + 0.9)
    limit = float(np.quantile(np.abs(residual), 0.95)) if len(residual) else 0.0
    limit = limit or float(np.max(np.abs(residual), initial=0.0)) or 1.0
    order = np.argsort(np.abs(residual))  # the largest on top
    style: dict[str, Any] = {"cmap": "RdBu_r", "norm": Normalize(-limit, limit), "edgecolors": "0.35", "linewidths": 0.25}
    size = float(np.clip(4000 / max(len(lon), 1), 5, 40))
    points = axes.scatter(lon[order], lat[order], c=residual[order], s=size, **style)
    axes.set_facecolor("0.94")
    axes.grid(color="white", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_aspect(stretch)
    xlim, ylim = ((middle - span / 2, middle + span / 2) for middle, span in zip(middles, spans, strict=True))
    axes.set(xlim=xlim, ylim=ylim, xlabel="longitude (degrees east)", ylabel="latitude (degrees north)")
    bar = figure.colorbar(points, ax=axes, extend="both", shrink=0.8, aspect=30)
    bar.set_label(in_unit("observed - predicted", unit))
    axes.set_title(f"{title}\nn = {len(residual)}; red: more than predicted, blue: less", fontsize=9)
    save(figure, path)


def soc_maps(path: Path, maps: "Sequence[SocMap]", unit: str) -> None:
    """Draw maps of SOC on one logarithmic ramp, the first over the whole width, the others in a row below it."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.6), dpi=110, layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(1.55, 1))))
    axes = [top.add_subplot(), *np.atleast_1d(bottom.subplots(1, len(maps) - 1))]
    known = np.concatenate([each.values[np.isfinite(each.values)] for each in maps])
    norm = LogNorm(*np.quantile(known, [0.01, 0.995]))
    for each, ax in zip(maps, axes, strict=True):
        west, south, east, north = each.bounds
        image = ax.imshow(each.values, extent=(west, east, south, north), norm=norm, cmap="viridis", interpolation="nearest")
        ax.set_facecolor("0.93")
        ax.scatter(each.lon, each.lat, s=0.4 if ax is axes[0] else 2, c="black", linewidths=0, alpha=0.6)
        ax.set_aspect(1 / float(np.cos(np.deg2rad((south + north) / 2))) if ax is not axes[0] else 1.15)
        ax.set_title(each.title, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=6 if ax is not axes[0] else 13)
    axes[0].set_ylabel("degrees north", fontsize=8)
    axes[1].set_xlabel("degrees east", fontsize=8)
    bar = top.colorbar(image, ax=axes[0], shrink=0.85, aspect=25, extend="both", format="%g")
    bar.set_label(f"SOC ({unit})")
    save(figure, path)


def skill_bars(path: Path, table: "pd.DataFrame", unit: str) -> None:
    """Draw MAE and CCC of each method in each region, with their intervals.

    `table`: a row per region and method: region, method, n_test, and for mae and ccc the columns <score>, <score>_low,
    <score>_high. Regions and methods are drawn in the order of the rows.
    """
    from matplotlib.figure import Figure

    regions, methods = list(dict.fromkeys(table["region"])), list(dict.fromkeys(table["method"]))
    figure = Figure(figsize=(9.5, 1.3 + 0.28 * len(regions) * (len(methods) + 1)), dpi=150, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    greys = np.linspace(0.82, 0.5, max(len(methods) - 1, 1))  # of all methods but the last
    colours = {method: str(round(float(grey), 3)) for method, grey in zip(methods, greys, strict=False)} | {methods[-1]: _ORANGE}
    for axes, name, label in zip(
        panels, ("mae", "ccc"), (f"{in_unit('MAE', unit)}: less is better", "CCC: more is better"), strict=True
    ):
        for i, region in enumerate(regions):
            for j, method in enumerate(methods):
                rows = table[(table["region"] == region) & (table["method"] == method)]
                if rows.empty or rows[name].isna().any():
                    continue
                value, low, high = (float(rows.iloc[0][column]) for column in (name, f"{name}_low", f"{name}_high"))
                place = i * (len(methods) + 1) + j
                axes.barh(place, value, height=0.85, color=colours[method], label=method if i == 0 else None)
                axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(label)
        axes.spines[["top", "right", "left"]].set_visible(False)
    first = panels[0]
    counts = table.drop_duplicates("region").set_index("region")["n_test"]
    first.set_yticks(
        [i * (len(methods) + 1) + (len(methods) - 1) / 2 for i in range(len(regions))],
        [f"{region}\nn = {counts[region]}" for region in regions],
    )
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    first.set_ylim(len(regions) * (len(methods) + 1) - 1.2, -0.8)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(methods), frameon=False, fontsize=9)
    save(figure, path)


def short_label(text: object, longest: int = 34) -> str:
    """Return an untrusted name as a label: no mathematics, no line ends, not longer than `longest`.

    Examples
    --------
    >>> short_label("mean annual temperature", 12)
    'mean annual…'
    """
    letters = "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()
    short = letters if len(letters) <= longest else letters[: longest - 1] + "…"
    return literal(short.replace("_", " ", 1) if short.startswith("_") else short)


def panels(n: int, columns: int, height: float, sharex: bool = False, sharey: bool = False) -> "tuple[Figure, list[Axes]]":
    """Return a figure with n axes in rows of at most `columns`, each row so many inches high."""
    from matplotlib.figure import Figure

    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH, rows * height + _LEGEND_HEIGHT), dpi=DPI, layout="constrained")
    axes = list(np.ravel(np.asarray(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey))))
    for spare in axes[n:]:
        spare.set_visible(False)
    for ax in axes[:n]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes[:n]


def legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend above all panels, in as many columns as fit its labels."""
    columns = max(1, min(len(labels), 100 // (max(map(len, labels), default=0) + 8)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=8, handlelength=2.2)
