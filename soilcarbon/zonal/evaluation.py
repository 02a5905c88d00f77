"""Evaluation of zoned forests: cross-validated predictions, scores, paired differences, permutation importance by zone, a figure.

In: a model and profiles, one fold held out at a time. Out: tables with 95 % intervals from a bootstrap of whole blocks. No
profile is scored by a model that used it for feature selection, hyperparameters or training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soilcarbon.figures import INK, literal, save
from soilcarbon.stats.metrics import bootstrap_means, bootstrap_scores, paired_differences
from soilcarbon.zonal.climate_zones import Zones
from soilcarbon.zonal.feature_selection import stratified_folds
from soilcarbon.zonal.forest import SelectedForest, ZonedForest, ZonedNetwork, decades
from soilcarbon.zonal.space_time import Profiles

ALL = "all"
"""Stands for all zones in tables."""
UNZONED, ZONED, BLENDED = "unzoned", "zoned", "blended"
"""One forest for all zones; one for each zone, with hard boundaries; the same, with bands."""
NETWORK, NETWORK_ZONED = "network", "network zoned"
"""One network for all zones; the same, fine-tuned in each zone."""
METHODS = (UNZONED, ZONED, BLENDED, NETWORK, NETWORK_ZONED)
PAIRS = ((ZONED, UNZONED), (BLENDED, UNZONED), (NETWORK, UNZONED), (NETWORK_ZONED, NETWORK), (NETWORK_ZONED, ZONED))
"""Methods that are compared, each with its reference."""
LEVEL = 0.95
"""Of intervals."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the profiles of one fold."""

    # a row per profile: row (its number in the whole table), fold, zone (its name), observed, unzoned, zoned, blended; and network,
    # network zoned where there is one
    predictions: pd.DataFrame
    # a row per method, covariate and profile: method, row, covariate (column of x), increase of the squared error when the
    # covariate is permuted. Covariates that a forest does not use have none, and are left out.
    increases: pd.DataFrame
    trace: pd.DataFrame  # all candidates: forest (zone or "all"), and the columns of `SelectedForest.trace`


def space_time_folds(profiles: Profiles, method: ZonedForest, k: int, seed: int) -> np.ndarray:
    """Return folds (n,) of whole groups, each with about its share of every zone and decade."""
    zone, decade = method.labels(profiles.x).astype(str), decades(profiles.x, method.forest.year).astype(str)
    return stratified_folds(profiles.groups, np.char.add(np.char.add(zone, " "), decade), k, seed)


def hold_out(
    profiles: Profiles,
    folds: np.ndarray,
    fold: int,
    method: ZonedForest,
    seed: int,
    repeats: int = 5,
    network: ZonedNetwork | None = None,
) -> HeldOut:
    """Train on all other folds, unzoned and zoned, and predict one of n profiles, all with a climate.

    The method is not fitted, its zones with the bands of "blended"; nor is the network, which is compared with the forests.
    `repeats` is the number of permutations of each covariate.
    """
    train, rows = profiles.take(folds != fold), np.flatnonzero(folds == fold)
    test, data = profiles.take(rows), (train.x, train.y, train.groups)
    everywhere = replace(method.forest, label=f"{method.forest.label}, {ALL}").fit(*data, seed)
    blended = replace(method, everywhere=everywhere).fit(*data, seed)
    hard = replace(blended, zones=blended.zones.hard())
    hard.forests = blended.forests
    labels, names = blended.labels(test.x), np.array(method.zones.names)
    predictions = pd.DataFrame({"row": rows, "fold": fold, "zone": names[labels], "observed": test.y})
    for name, model in ((UNZONED, everywhere), (ZONED, hard), (BLENDED, blended)):
        predictions[name] = model.predict(test.x)
    if network is not None:
        network.fit(train, blended.labels(train.x), seed)
        predictions[NETWORK], predictions[NETWORK_ZONED] = network.predict(test.x, labels)
    increases = [permutation_increases(everywhere, test, rows, seed, repeats).assign(method=UNZONED)]
    for k in np.unique(labels):
        here = labels == k
        part = permutation_increases(blended.forests[names[k]], test.take(here), rows[here], seed, repeats)
        increases.append(part.assign(method=ZONED))
    fitted = {ALL: everywhere} | {name: forest for name, forest in blended.forests.items() if blended.has_own(name)}
    trace = pd.concat([forest.trace.assign(forest=name) for name, forest in fitted.items()], ignore_index=True)
    return HeldOut(predictions, pd.concat(increases, ignore_index=True), trace)


def permutation_increases(forest: SelectedForest, test: Profiles, rows: np.ndarray, seed: int, repeats: int) -> pd.DataFrame:
    """Return the increase of each profile's squared error when a covariate is permuted among the profiles, the mean of the repeats.

    Permutation importance (Breiman 2001, Mach. Learn. 45, 5-32) before it is averaged. Of two correlated covariates each looks
    unimportant beside the other. Columns: row, covariate (column of x), increase.
    """
    random, parts = np.random.default_rng(seed), []
    error = (forest.predict(test.x) - test.y) ** 2
    for column in forest.columns:
        increase = np.zeros(len(test))
        for _ in range(repeats):
            x = test.x.copy()
            x[:, column] = random.permutation(x[:, column])
            increase += (forest.predict(x) - test.y) ** 2 - error
        parts.append(pd.DataFrame({"row": rows, "covariate": column, "increase": increase / repeats}))
    return pd.concat(parts, ignore_index=True)


def _groups(predictions: pd.DataFrame, zones: Zones) -> list[tuple[str, np.ndarray]]:
    """Return name and mask (n,) of all profiles, then of each zone that has some."""
    zone = predictions["zone"].to_numpy()
    return [(ALL, np.ones(len(zone), bool)), *((name, zone == name) for name in zones.names if (zone == name).any())]


def score_tables(
    predictions: pd.DataFrame, groups: np.ndarray, zones: Zones, seed: int, draws: int = 1000
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of each method, and the paired differences between methods, for all profiles and for each zone.

    Predictions are of all folds, `groups` (n,) the block of each, which the bootstrap draws whole. Scores: zone, method, n, blocks,
    and r2, rmse, mae, me, ccc, each with _low and _high. Differences: zone, method, against (`PAIRS`), n, blocks, and those of
    `stats.metrics.paired_differences`: rmse and mae in percent, negative where the method errs less; r2 and ccc as differences,
    positive where it agrees better. An interval that contains 0 does not separate the two. There is one for each zone and target:
    of twenty such intervals one misses by chance.
    """
    table: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    observed = predictions["observed"].to_numpy()
    for name, rows in _groups(predictions, zones):
        blocks = int(np.unique(groups[rows]).size)
        head, sure = {"zone": name, "n": int(rows.sum()), "blocks": blocks}, blocks > 1
        given = {each: predictions[each].to_numpy() for each in METHODS if each in predictions}
        for method, predicted in given.items():
            found = bootstrap_scores(observed[rows], predicted[rows], seed, draws, LEVEL, groups[rows])
            table.append(head | {"method": method} | _flat(found, ("r2", "rmse", "mae", "me", "ccc"), sure))
        for method, against in PAIRS:
            if method in given:
                pair = given[method][rows], given[against][rows]
                change = paired_differences(observed[rows], *pair, seed, draws, LEVEL, groups[rows])
                what = {"method": method, "against": against}
                differences.append(head | what | _flat(change, ("r2", "rmse", "mae", "ccc"), sure))
    return pd.DataFrame(table), pd.DataFrame(differences)


def _flat(found: Any, names: Sequence[str], sure: bool) -> dict[str, float]:
    """Return value, low and high of scores as columns; NaN where undefined, and for the interval of a single block."""
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{name}{end}": np.nan if found[name][key] is None or (end and not sure) else found[name][key]
        for name in names
        for end, key in ends.items()
    }


def importance_table(
    increases: pd.DataFrame,
    predictions: pd.DataFrame,
    groups: np.ndarray,
    zones: Zones,
    names: Sequence[str],
    seed: int,
    draws: int = 1000,
) -> pd.DataFrame:
    """Return the permutation importance of each covariate as loss of R2, for all profiles (unzoned) and for each zone (zoned).

    Increases and predictions are of all folds; in a fold whose forest did not choose a covariate it is 0, and covariates that no
    fold chose are left out. `groups` (n,) are the blocks that the bootstrap draws whole, `names` (V,) of the columns of x. Columns:
    zone, method, covariate, importance, low, high, chosen (share of folds whose forest uses it), n; by zone, in descending order of
    importance.
    """
    parts = []
    for zone, rows in _groups(predictions, zones):
        method, here = (UNZONED if zone == ALL else ZONED), np.flatnonzero(rows)
        members = predictions["row"].to_numpy()[here]
        found = increases[(increases["method"] == method) & increases["row"].isin(members)]
        table = found.pivot(index="row", columns="covariate", values="increase").reindex(members).fillna(0.0)
        matrix, variance = table.to_numpy(), float(predictions["observed"].to_numpy()[here].var())
        if not len(found) or variance == 0:
            continue
        drawn = bootstrap_means(matrix, groups[here], seed, draws) / variance
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        folds = predictions["fold"].to_numpy()[here]
        used = [np.unique(folds[column != 0]).size / np.unique(folds).size for column in matrix.T]
        part = pd.DataFrame({"zone": zone, "method": method, "covariate": [names[k] for k in table.columns]})
        part = part.assign(importance=matrix.mean(0) / variance, low=low, high=high, chosen=used, n=len(here))
        parts.append(part.sort_values("importance", ascending=False))
    return pd.concat(parts, ignore_index=True)


PAPER = {
    "socd_0_20": {"unzoned": {"r2": 0.46, "rmse": 2.38}, "zoned": {"r2": 0.63, "rmse": 2.03}},
    "socd_0_100": {"unzoned": {"r2": 0.43, "rmse": 8.06}, "zoned": {"r2": 0.62, "rmse": 6.16}},
}
"""Target -> method -> scores, kg/m2, of Dong, Wang and Su (2024, Earth Syst. Sci. Data Discuss., essd-2024-588) for China."""
_COLOURS = {"unzoned": "0.55", "zoned": "#D55E00", "blended": "#E69F00", "network": "#56B4E9", "network zoned": "#0072B2"}
"""Okabe and Ito (2008): distinct for colour-blind readers too."""
_WIDTH = 0.16
_PAPERS = " (paper, China)"


def draw_scores(path: Path, tables: Mapping[str, pd.DataFrame], score: str, label: str, paper: bool = False) -> None:
    """Draw a score ("r2" or "rmse") of each method, zone and target, with its interval, as PNG.

    `tables`: title -> a table of scores with a column target: a row of panels each, a panel per target. `paper`: whether the
    paper's figures for China are drawn beside those of all zones, where it has the target.
    """
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


def _panel(axes: Axes, table: pd.DataFrame, score: str, paper: Mapping[str, Mapping[str, float]]) -> None:
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
            beside = place[zones.index(ALL)] - len(methods) * _WIDTH / 2 - 0.02
            style: dict[str, Any] = {"marker": "D", "markersize": 6, "markerfacecolor": "none", "linestyle": "none"}
            style |= {"markeredgecolor": _COLOURS[method], "label": f"{_label(method)}{_PAPERS}"}
            axes.plot(beside, paper[method][score], **style)
    counts = table.drop_duplicates("zone").set_index("zone")["n"]
    axes.set_xticks(np.arange(len(zones)), [f"{literal(zone)}\nn = {counts[zone]}" for zone in zones], fontsize=8)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
