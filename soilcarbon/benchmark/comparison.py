"""Hold what a comparison of methods found, and say its numbers in words.

In: facts and tables in memory, as `Comparison` lists them; all but the scores may be empty. Out: what follows from them in
more than one place: the order of methods, means over regions, changes against the strongest baseline, gains by number of
profiles, errors inside and outside the area of applicability; each method's name and `Look`, the same everywhere; numbers
as they are printed, and the verdict that an interval allows. Nothing is escaped, drawn or written here.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.mapping.picture import sensible
from soilcarbon.stats.metrics import bootstrap_means

MEAN = "mean of regions"
"""What `differences` names the mean over regions."""
SCORES = {"mae": "MAE", "rmse": "RMSE", "ccc": "CCC", "r2": "R²", "rpiq": "RPIQ", "me": "ME"}
_DRAWS = 1000
IN_UNIT = ("mae", "rmse", "me")
LESS_IS_BETTER = ("mae", "rmse")
_WAYS = {
    "random": "random folds",
    "place": "folds of whole places",
    "blocks": "spatial blocks",
    "region": "whole regions",
    "knndm": "folds as far out as the map",
}
NETWORK, BASELINE = "#D55E00", "#0072B2"  # Okabe and Ito (2008): told apart with any colour vision
_OTHERS = {"network": ["#CC79A7", "#E69F00", "#9A6324"], "baseline": ["#009E73", "#56B4E9", "0.35", "0.6", "#7A5195"]}
_MARKERS = {"network": "sDP", "baseline": "ov^<>X"}

_COLUMNS = {
    "differences": "region way method against",
    "curves": "region method n_train repeat mae ccc",
    "coverage": "region way method level stratum n coverage mean_width interval_score",
    "predictions": "region way unit observed predicted di inside",
    "selection": "score region chosen_on value",
    "floor": "region n floor_mae median_mae",
}
"""What is read of tables that may be empty."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn: its label, whether it is a network, its colour and marker, whether it is drawn boldly."""

    label: str
    network: bool
    colour: str
    marker: str
    bold: bool


def looks(labels: Mapping[str, str], networks: Iterable[str], winner: str, strongest: str) -> dict[str, Look]:
    """Return a look for each method: orange the winner, blue the strongest baseline, others in the colours left."""
    networks, found = set(networks), {}
    turn = {"network": 0, "baseline": 0}
    for key, label in labels.items():
        kind, bold = "network" if key in networks else "baseline", key in (winner, strongest)
        if bold:
            colour, marker = (NETWORK if key == winner else BASELINE), _MARKERS[kind][0]
        else:
            colour = _OTHERS[kind][turn[kind] % len(_OTHERS[kind])]
            marker = _MARKERS[kind][1 + turn[kind] % (len(_MARKERS[kind]) - 1)]
            turn[kind] += 1
        found[key] = Look(label, kind == "network", colour, marker, bold)
    return found


@dataclass(frozen=True)
class Comparison:
    """Hold all that the report tells.

    Attributes
    ----------
    facts
        title; target; unit; winner, the key of the method that the report is about; strongest: {way: key of its strongest
        baseline}; regions: {name:
        {fact: value}}; ways: {way: {"reason": text, "label": text (optional), fact: {region: value}}} in the order
        shown, the last being what the answer rests on; settings; methods: {key: {"label", "kind": "baseline",
        "forests" (taught by or teaching a network) or "network", "meaning"}}; notes: texts; how: the command.
    table
        region, way, method, n_train, n_test, and for each of `SCORES`, and these with the suffix _log: s, s_low, s_high.
    differences
        region (also `MEAN`), way, method, against; mae and rmse, changes in %, ccc and r2, changes as they are, with _low, _high.
    curves
        (This and all that follow may be empty.) region, method, n_train, repeat, mae, rmse, ccc.
    coverage
        region, way, method, level, stratum ("all" for all), n, coverage, low, high, mean_width, interval_score.
    predictions
        region, way, profile_id, lon, lat, unit (place or block), observed, predicted (by the winner), di, inside (0, 1; both
        may be NaN).
    selection
        region, score, chosen_on ("validation", "test"), value (mean over folds).
    floor
        region, n, floor_mae, median_mae: of predicting a profile by the median of others in its cell, and of the region.
    """

    facts: dict[str, Any]
    table: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame
    coverage: pd.DataFrame
    predictions: pd.DataFrame
    selection: pd.DataFrame
    floor: pd.DataFrame

    def __post_init__(self) -> None:
        for name, columns in _COLUMNS.items():
            if getattr(self, name).empty:
                object.__setattr__(self, name, pd.DataFrame({column: [] for column in columns.split()}))

    @property
    def unit(self) -> str:
        """Of the target."""
        return str(self.facts["unit"])

    @property
    def ways(self) -> dict[str, str]:
        """Way -> its words."""
        return {way: str(facts.get("label") or _WAYS.get(way, way)) for way, facts in self.facts["ways"].items()}

    @property
    def headline(self) -> str:
        """The way that the answer rests on."""
        return list(self.facts["ways"])[-1]

    @property
    def level(self) -> float:
        """The level of intervals that is told of: the one nearest to 90 %."""
        return float(min(self.coverage["level"].unique(), key=lambda level: abs(level - 0.9)))

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean over regions of each score, and `regions`, their count; indexed by way and method."""
        groups = self.table.groupby(["way", "method"], sort=False)
        return groups[list(SCORES)].mean().assign(regions=groups["region"].nunique())

    @cached_property
    def order(self) -> list[str]:
        """Methods by their MAE in the headline's way, the best first; those without one last."""
        mae = self.means.xs(self.headline, level="way")["mae"].sort_values()
        return [*mae.index, *(key for key in self.table["method"].unique() if key not in mae.index)]

    def label(self, method: str) -> str:
        """Return a method's name in words."""
        return str(self.facts["methods"].get(method, {}).get("label", method))

    def kind(self, method: str) -> str:
        """Return what a method is: a baseline, forests or a network."""
        return str(self.facts["methods"].get(method, {}).get("kind", "baseline"))

    def is_network(self, method: str) -> bool:
        """Return whether a method is a network."""
        return self.kind(method) == "network"

    def look(self, methods: Sequence[str]) -> dict[str, Look]:
        """Return how the methods are drawn; the same in every figure."""
        networks = [key for key in self.order if self.is_network(key)]
        curved = {*self.curves["method"], *self.coverage["method"]}  # these must differ from each other, and so come first
        every = {key: self.label(key) for key in sorted([*self.order, *methods], key=lambda key: key not in curved)}
        found = looks(every, networks, self.facts["winner"], self.facts["strongest"].get(self.headline, ""))
        return {key: found[key] for key in methods}

    def change(self, way: str, method: str, region: str = MEAN) -> pd.Series | None:
        """Return the change from the way's strongest baseline to a method; of a single region, that is the mean."""
        rows = self.differences
        rows = rows[(rows["way"] == way) & (rows["method"] == method) & (rows["against"] == self.facts["strongest"].get(way))]
        found = rows[rows["region"] == region]
        if found.empty and region == MEAN and rows["region"].nunique() == 1:
            found = rows
        return None if found.empty else found.iloc[0]

    def held_out(self) -> pd.DataFrame:
        """Return the winner's predictions in the headline's way."""
        rows = self.predictions[self.predictions["way"] == self.headline]
        logs = np.log1p(rows[["predicted", "observed"]].astype(float).clip(lower=0))
        error = (rows["predicted"] - rows["observed"]).abs()
        return rows.assign(error=error, relative=(logs["predicted"] - logs["observed"]).abs())

    def inside_out(self) -> pd.DataFrame:
        """Return per region the profiles inside and outside the area of applicability and their MAE."""
        rows = self.held_out().dropna(subset="inside")
        parts = rows.groupby(["region", "inside"], sort=False)["error"].agg(["size", "mean"]).unstack("inside")
        parts = parts.reindex(columns=[(what, side) for what in ("size", "mean") for side in (1, 0)])
        return parts.set_axis(["n_in", "n_out", "mae_in", "mae_out"], axis=1).fillna({"n_in": 0, "n_out": 0})

    def outside(self, regions: Sequence[str]) -> tuple[float, float, float]:
        """Return by how many % errors of ln(1 + target) are larger outside the area than inside, with the 95 % interval.

        Mean of regions. On that scale a soil's level does not matter: outside may just be richer. Whole units are resampled.
        """
        rows, found = self.held_out().dropna(subset="inside"), []
        for region in regions:
            here = rows[rows["region"] == region]
            inside, error = here["inside"].to_numpy(float), here["relative"].to_numpy(float)
            columns = np.stack([inside * error, inside, (1 - inside) * error, 1 - inside], axis=1)
            units = here["unit"].to_numpy()
            means = np.concatenate([columns.mean(0, keepdims=True), bootstrap_means(columns, units, 0, _DRAWS)])
            with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have none outside
                found.append(100 * (means[:, 2] / means[:, 3] / (means[:, 0] / means[:, 1]) - 1))
        change = np.mean(found, axis=0)
        drawn = change[1:][np.isfinite(change[1:])]
        low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
        return float(change[0]), float(low), float(high)

    def gains(self) -> tuple[str, str, pd.Series] | None:
        """Return the winner, the strongest curve of a baseline, and the change of MAE in % by region and n; None without both."""
        means = self.curves.groupby(["method", "region", "n_train"], sort=False)["mae"].mean()
        overall = self.curves.groupby("method")["mae"].mean().sort_values()
        ours = [key for key in [self.facts["winner"], *overall.index] if key in overall and self.is_network(key)]
        theirs = [
            key
            for key in [self.facts["strongest"].get(self.headline), *overall.index]
            if key in overall and not self.is_network(key)
        ]
        if not ours or not theirs:
            return None
        change = 100 * (means[ours[0]] / means[theirs[0]] - 1)
        return ours[0], theirs[0], change.dropna().sort_index()

    def changes(self, score: str) -> pd.DataFrame:
        """Return way, method, value, low and high of each mean change; the strongest baseline's own is 0."""
        rows = []
        for way in self.ways:
            for key in self.order:
                if (row := self.change(way, key)) is not None:
                    rows.append((way, key, row[score], row[f"{score}_low"], row[f"{score}_high"]))
                elif key == self.facts["strongest"].get(way) and len(self.differences):
                    rows.append((way, key, 0.0, 0.0, 0.0))
        return pd.DataFrame(rows, columns=["way", "method", "value", "low", "high"])


def pooled(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return coverage, width and interval score of groups of rows, each row weighing as many profiles as it has."""
    names = ["coverage", "mean_width", "interval_score"]
    sums = rows[names].mul(rows["n"], axis=0).assign(n=rows["n"]).groupby([rows[name] for name in by], sort=False).sum()
    return sums[names].div(sums["n"], axis=0).assign(n=sums["n"]).reset_index()


# --- numbers in words ----------------------------------------------------------------------------------------------


def fixed(value: float, places: int = 2, sign: bool = False) -> str:
    """Return a number with so many decimals and a true minus; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    rounded = round(float(value), places) + 0.0  # no minus, and no plus, before a zero
    return f"{rounded:{'+' if sign and rounded else ''},.{places}f}".replace("-", "−")


def percent(value: float, sign: bool = True) -> str:
    """Return a number that is in percent with one decimal and its unit."""
    return f"{fixed(value, 1, sign)} %" if math.isfinite(value) else "–"


def bounds(row: pd.Series | Mapping[Any, Any], name: str, words: Callable[[float], str]) -> str:
    """Return a number and its interval, where it has one."""
    ends = words(row[f"{name}_low"]), words(row[f"{name}_high"])
    return f"{words(row[name])} [{ends[0]}, {ends[1]}]" if "–" not in ends else words(row[name])


def changed(row: pd.Series | None, name: str) -> str:
    """Return a change and its interval: in percent of MAE and RMSE, as it is of CCC and R²."""
    if row is None:
        return "–"
    return bounds(row, name, partial(fixed, places=1 if name in LESS_IS_BETTER else 3, sign=True))


def verdict(change: pd.Series | None) -> str:
    """Return "better", "worse", or "open" where the interval of the change in MAE spans zero or there is none."""
    if change is None or not np.isfinite([change["mae_low"], change["mae_high"]]).all():
        return "open"
    return "better" if change["mae_high"] < 0 else "worse" if change["mae_low"] > 0 else "open"


def count(n: int, of: str) -> str:
    """Return how many there are of what, such as "1 region" or "1,234 profiles"."""
    return f"{n:,} {of}" + ("" if n == 1 else "s")


def fact(value: Any) -> str:
    """Return a fact of any kind in words: numbers as sensible, a dash for None."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    return sensible(float(value)) if isinstance(value, float | np.floating) else "–" if value is None else str(value)


def score_title(name: str, unit: str) -> str:
    """Return a score's name, with the unit if it has one."""
    return f"{SCORES[name]} ({unit})" if name in IN_UNIT else SCORES[name]
