"""Figures of an analysis of drivers: importances, response curves, joint responses, a map of differences.

In: tables of `mismatch.Results`. Out: PNG files, written atomically. Targets differ in colour and in marker.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soilcarbon.figures import INK, WIDTH, legend, panels, save, short_label

if TYPE_CHECKING:
    import pandas as pd

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.35"]  # Okabe and Ito (2008)
_MARKERS = "osD^vPX"
_MOST = 15
"""Variables shown; more cannot be read."""


def importance_bars(path: Path, table: "pd.DataFrame", label: str) -> None:
    """Draw the importances of each target side by side, with intervals, a panel per zone.

    `table`: zone, target, name, importance, low, high, of one learner and method; the reference first. The 15 most important to the
    reference are shown, in their order.
    """
    zones, targets = (list(dict.fromkeys(table[column])) for column in ("zone", "target"))
    means = table[table["target"] == targets[0]].groupby("name", sort=False)["importance"].mean()
    order = means.sort_values(ascending=False).index.tolist()[:_MOST]
    figure, axes = panels(len(zones), 2, 0.6 + len(order) * (0.09 + 0.12 * len(targets)))
    handles: dict[str, Any] = {}
    step = 0.8 / len(targets)
    for ax, zone in zip(axes, zones, strict=True):
        for k, target in enumerate(targets):
            here = table[(table["zone"] == zone) & (table["target"] == target)]
            if here.empty:
                continue
            here = here.set_index("name").reindex(order)
            at = np.arange(len(order)) + (k - (len(targets) - 1) / 2) * step
            alpha = 1 if k == 0 else 0.75
            handles[target] = ax.barh(at, here["importance"], height=0.92 * step, color=_COLOURS[k % len(_COLOURS)], alpha=alpha)
            ax.hlines(at, here["low"], here["high"], color=INK, linewidth=1.1)
            marks: dict[str, Any] = {"marker": _MARKERS[k % len(_MARKERS)], "markersize": 3.5, "linestyle": ""}
            ax.plot(here["importance"], at, color=INK, markerfacecolor="white", **marks)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(range(len(order)), [short_label(name, 28) for name in order])
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        if len(zones) > 1:
            ax.set_title(short_label(zone), fontsize=9)
    figure.supxlabel(label, fontsize=8.5)
    legend(figure, list(handles.values()), [short_label(target) for target in handles])
    save(figure, path)


def response_curves(path: Path, table: "pd.DataFrame", bends: dict[tuple[str, str], float]) -> None:
    """Draw each variable's response, targets overlaid: line and interval, ticks where places lie, dots where a response bends.

    `table`: zone, target, variable, at, density, value, low, high, of one learner and method; a panel per variable and zone.
    `bends`: (target, variable) -> where it bends, NaN where it does not.
    """
    targets = list(dict.fromkeys(table["target"]))
    shown = {key: some for key, some in table.groupby(["variable", "zone"], sort=False)}
    alone = table["zone"].nunique() == 1
    figure, axes = panels(len(shown), 3, 2.1)
    handles: dict[str, Any] = {}
    for ax, ((variable, zone), panel) in zip(axes, shown.items(), strict=True):
        for k, target in enumerate(targets):
            here = panel[panel["target"] == target]
            if here.empty:
                continue
            colour = _COLOURS[k % len(_COLOURS)]
            ax.fill_between(here["at"], here["low"], here["high"], color=colour, alpha=0.18, linewidth=0)
            style: dict[str, Any] = {"marker": _MARKERS[k % len(_MARKERS)], "markersize": 3, "linewidth": 1.5}
            (handles[target],) = ax.plot(here["at"], here["value"], color=colour, linestyle="-" if k == 0 else "--", **style)
            if np.isfinite(at := bends.get((target, variable), np.nan)):
                ax.plot(at, np.interp(at, here["at"], here["value"]), "o", color=colour, markersize=9, markerfacecolor="none")
        ax.axhline(0, color=INK, linewidth=0.6)
        inner = np.unique(panel["at"].to_numpy())
        ax.set_xlim(inner[0], inner[-1])
        ax.set_xticks(inner, minor=True)
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(axis="x", which="minor", length=4, color="0.6")
        ax.set_title(
            short_label(variable) if alone else f"{short_label(variable)}\n{short_label(zone, 40)}", fontsize=9 if alone else 8
        )
    figure.supylabel("ln carbon (+0.7: twice, −0.7: half)", fontsize=8.5)
    legend(figure, list(handles.values()), [short_label(target) for target in handles])
    save(figure, path)


def joint_surfaces(path: Path, table: "pd.DataFrame") -> None:
    """Draw second-order effects of two variables, a panel per target, on one ramp centred at zero.

    `table`: target, first, second, at_first, at_second, value, low, high, of one learner and method; crosses mark where the
    interval includes zero.
    """
    from matplotlib.colors import Normalize

    targets = list(dict.fromkeys(table["target"]))
    limit = float(table["value"].abs().max()) or 1.0
    figure, axes = panels(len(targets), 3, 2.6)
    for ax, target in zip(axes, targets, strict=True):
        here = table[table["target"] == target]
        wide = here.pivot(index="at_second", columns="at_first", values="value")
        image = ax.pcolormesh(wide.columns, wide.index, wide, cmap="RdBu_r", norm=Normalize(-limit, limit), shading="gouraud")
        open_ = here[(here["low"] <= 0) & (here["high"] >= 0)]
        ax.plot(open_["at_first"], open_["at_second"], "x", color=INK, markersize=3, markeredgewidth=0.7)
        ax.set_title(short_label(target), fontsize=9)
        ax.locator_params(nbins=4)
        ax.set_xlabel(short_label(here["first"].iloc[0]), fontsize=8.5)
    axes[0].set_ylabel(short_label(table["second"].iloc[0]), fontsize=8.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=25)
    bar.set_label("ln carbon", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    save(figure, path)


def mismatch_map(path: Path, places: "pd.DataFrame", models: Sequence[str], reference: str) -> None:
    """Draw where covariates make each model richer (red, pointing up) or poorer (blue, pointing down) than the reference.

    `places`: lon, lat (degrees), and per model its predicted ln carbon less the reference's.
    """
    from matplotlib.colors import Normalize

    values = places[list(models)].to_numpy(float)
    limit = float(np.quantile(np.abs(values), 0.95)) or 1.0
    lon, lat = places["lon"].to_numpy(float), places["lat"].to_numpy(float)
    middle = max(0.2, float(np.cos(np.deg2rad((lat.min() + lat.max()) / 2))))
    columns = 1 if len(models) == 1 else 2
    tall = 0.8 * WIDTH / columns * np.ptp(lat) / max(np.ptp(lon) * middle, 1e-9)
    figure, axes = panels(len(models), columns, 0.3 + float(np.clip(tall, 1.0, 5.0)))
    for ax, model in zip(axes, models, strict=True):
        gap = places[model].to_numpy(float)
        order = np.argsort(np.abs(gap))  # the largest on top
        ramp: dict[str, Any] = {"cmap": "RdBu_r", "norm": Normalize(-limit, limit), "edgecolors": "0.35", "linewidths": 0.1}
        size = float(np.clip(8000 / len(order), 2.5, 26))
        for up, marker in ((True, "^"), (False, "v")):
            some = order[(gap[order] >= 0) == up]
            points = ax.scatter(lon[some], lat[some], c=gap[some], s=size, marker=marker, **ramp)
        ax.set_facecolor("0.94")
        ax.grid(color="white", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.set_aspect(1 / middle)
        ax.margins(0.03)
        ax.set_title(f"{short_label(model)}, n = {len(order):,}", fontsize=9)
    bar = figure.colorbar(points, ax=axes, extend="both", shrink=0.8, aspect=25, pad=0.02)
    bar.set_label("ln carbon (+0.7: twice, −0.7: half)", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    figure.supxlabel("degrees east", fontsize=8.5)
    figure.supylabel("degrees north", fontsize=8.5)
    figure.suptitle(f"model − {short_label(reference)}: ▲ red relatively richer, ▼ blue poorer in carbon", fontsize=9)
    save(figure, path)
