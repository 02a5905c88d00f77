"""Ask whether a forest for each climate zone is better than one for all, and what each goes by.

In: a method and profiles, one fold held out at a time. Out: what was predicted of every held-out profile, and tables of scores,
differences and importances by zone, with 95 % intervals by blocks.

Every number is of profiles that had no part in choosing covariates, settings or trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from soilcarbon.benchmark.baselines import Known
from soilcarbon.stats.metrics import bootstrap_means, bootstrap_scores, paired_differences
from soilcarbon.zonal.climate_zones import Zones
from soilcarbon.zonal.feature_selection import stratified_folds
from soilcarbon.zonal.forest import SelectedForest, ZonedForest, decades
from soilcarbon.zonal.network import ZonedNetwork

ALL = "all"
"""Stands for all zones in tables."""
UNZONED, ZONED, BLENDED = "unzoned", "zoned", "blended"
"""One forest for all; one for each zone, with hard boundaries; the same, with bands."""
NETWORK, NETWORK_ZONED = "network", "network zoned"
"""One network for all; the same, fine-tuned in each zone."""
METHODS = (UNZONED, ZONED, BLENDED, NETWORK, NETWORK_ZONED)
PAIRS = ((ZONED, UNZONED), (BLENDED, UNZONED), (NETWORK, UNZONED), (NETWORK_ZONED, NETWORK), (NETWORK_ZONED, ZONED))
"""What is compared with what."""
LEVEL = 0.95
"""Of intervals."""
_FEWEST = 2
"""Blocks: of one alone, nothing can be drawn."""


@dataclass(frozen=True)
class HeldOut:
    """What is known of one fold's profiles.

    Attributes
    ----------
    predictions
        A row per profile: row (its number in the whole table), fold, zone (its name), observed, unzoned, zoned, blended; and
        network, network zoned where there is one.
    increases
        A row per method, covariate and profile: method, row, covariate (column of x), increase of the squared error when the
        covariate's values are dealt out anew. Covariates a forest does not use have none, and are left out.
    trace
        What was tried: forest (zone or "all"), and the columns of `SelectedForest.trace`.
    """

    predictions: pd.DataFrame
    increases: pd.DataFrame
    trace: pd.DataFrame


def space_time_folds(known: Known, method: ZonedForest, k: int, seed: int) -> np.ndarray:
    """Return folds (n,) of whole units with about its share of every zone and decade in each."""
    strata = np.char.add(np.char.add(method.labels(known).astype(str), " "), decades(known, method.forest.year).astype(str))
    return stratified_folds(known.units, strata, k, seed)


def hold_out(
    known: Known,
    folds: np.ndarray,
    fold: int,
    method: ZonedForest,
    seed: int,
    repeats: int = 5,
    network: ZonedNetwork | None = None,
) -> HeldOut:
    """Fit to all other folds, zoned and not, and predict one.

    Parameters
    ----------
    known
        n profiles, all with a climate.
    folds, fold
        (n,), and the one to hold out.
    method
        The zoned forest, not fitted, its zones with the widths of "blended".
    seed, repeats
        Of the fits; and how often a covariate is dealt out anew.
    network
        Not fitted, to be held against the forests.
    """
    train, rows = known.take(folds != fold), np.flatnonzero(folds == fold)
    test = known.take(rows)
    everywhere = replace(method.forest, label=f"{method.forest.label}, {ALL}").fit(train, seed)
    zoned = replace(method, everywhere=everywhere).fit(train, seed)
    hard = replace(zoned, zones=zoned.zones.hard())
    hard.forests = zoned.forests
    labels, names = zoned.labels(test), np.array(method.zones.names)
    predictions = pd.DataFrame(
        {
            "row": rows,
            "fold": fold,
            "zone": names[labels],
            "observed": test.y,
            UNZONED: everywhere.predict(test),
            ZONED: hard.predict(test),
            BLENDED: zoned.predict(test),
        }
    )
    if network is not None:
        network.fit(train, zoned.labels(train), seed)
        predictions[NETWORK], predictions[NETWORK_ZONED] = network.predict(test, labels)
    increases = [permuted(everywhere, test, rows, seed, repeats).assign(method=UNZONED)]
    for k in np.unique(labels):
        here = labels == k
        increases.append(permuted(zoned.forests[names[k]], test.take(here), rows[here], seed, repeats).assign(method=ZONED))
    fitted = {ALL: everywhere} | {name: forest for name, forest in zoned.forests.items() if zoned.own(name)}
    trace = pd.concat([forest.trace.assign(forest=name) for name, forest in fitted.items()], ignore_index=True)
    return HeldOut(predictions, pd.concat(increases, ignore_index=True), trace)


def permuted(forest: SelectedForest, places: Known, rows: np.ndarray, seed: int, repeats: int) -> pd.DataFrame:
    """Return by how much each profile's squared error grows when a covariate's values are dealt out anew among the profiles.

    Permutation importance (Breiman 2001, Mach. Learn. 45, 5-32), profile by profile. Of two covariates that tell the same,
    either looks dispensable.

    Returns
    -------
    DataFrame
        row, covariate (column of x), increase: the mean over the repeats.
    """
    random, parts = np.random.default_rng(seed), []
    error = (forest.predict(places) - places.y) ** 2
    for column in forest.columns:
        increase = np.zeros(len(places))
        for _ in range(repeats):
            x = places.x.copy()
            x[:, column] = random.permutation(x[:, column])
            increase += (forest.predict(replace(places, x=x)) - places.y) ** 2 - error
        parts.append(pd.DataFrame({"row": rows, "covariate": column, "increase": increase / repeats}))
    return pd.concat(parts, ignore_index=True)


# --- tables ----------------------------------------------------------------------------------------------------------------


def _groups(predictions: pd.DataFrame, zones: Zones) -> list[tuple[str, np.ndarray]]:
    """Return all profiles, then those of each zone that has some: a name and a mask (n,)."""
    zone = predictions["zone"].to_numpy()
    return [(ALL, np.ones(len(zone), bool)), *((name, zone == name) for name in zones.names if (zone == name).any())]


def score_tables(
    predictions: pd.DataFrame, units: np.ndarray, zones: Zones, seed: int, draws: int = 1000
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of each method, and what zoning and a network change, for all profiles and for each zone.

    Parameters
    ----------
    predictions
        As of `HeldOut`, of all folds.
    units
        (n,) the block of each of its rows; whole blocks are drawn, `validation.bootstrap_scores` tells why.
    zones
        For the order of names.
    seed, draws
        Of the bootstrap.

    Returns
    -------
    scores
        zone, method, n, blocks, and r2, rmse, mae, me, ccc, each with _low and _high.
    differences
        zone, method, against (`PAIRS`), n, blocks, and what `validation.paired_differences` tells: rmse and mae in percent,
        negative where the method errs less; r2 and ccc as differences, positive where it agrees better; each with _low
        and _high. An interval that holds 0 has not told the two apart. There is one for each zone and target: of twenty
        such intervals one misses by chance alone.
    """
    table: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    observed = predictions["observed"].to_numpy()
    for name, rows in _groups(predictions, zones):
        blocks = int(np.unique(units[rows]).size)
        head, sure = {"zone": name, "n": int(rows.sum()), "blocks": blocks}, blocks >= _FEWEST
        given = {each: predictions[each].to_numpy() for each in METHODS if each in predictions}
        for method, predicted in given.items():
            found = bootstrap_scores(observed[rows], predicted[rows], seed, draws, LEVEL, units[rows])
            table.append(head | {"method": method} | _flat(found, ("r2", "rmse", "mae", "me", "ccc"), sure))
        for method, against in PAIRS:
            if method in given:
                pair = given[method][rows], given[against][rows]
                change = paired_differences(observed[rows], *pair, seed, draws, LEVEL, units[rows])
                what = {"method": method, "against": against}
                differences.append(head | what | _flat(change, ("r2", "rmse", "mae", "ccc"), sure))
    return pd.DataFrame(table), pd.DataFrame(differences)


def _flat(found: Any, names: Sequence[str], sure: bool) -> dict[str, float]:
    """Return value, low and high of some scores side by side; NaN where undefined, and of one block alone for the ends."""
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{name}{end}": np.nan if found[name][key] is None or (end and not sure) else found[name][key]
        for name in names
        for end, key in ends.items()
    }


def importance_table(
    increases: pd.DataFrame,
    predictions: pd.DataFrame,
    units: np.ndarray,
    zones: Zones,
    names: Sequence[str],
    seed: int,
    draws: int = 1000,
) -> pd.DataFrame:
    """Return how much R2 is lost without each covariate, for all profiles (unzoned) and for each zone (zoned).

    A fold whose forest did not choose a covariate loses nothing without it.

    Parameters
    ----------
    increases, predictions
        As of `HeldOut`, of all folds.
    units
        (n,) the block of each row of `predictions`.
    zones
        For the order of names.
    names
        (F,) of the columns of x.
    seed, draws
        Of the bootstrap of whole blocks.

    Returns
    -------
    DataFrame
        zone, method, covariate, importance, low, high, chosen (share of folds whose forest uses it), n; by zone, the most
        important first. Covariates that no fold chose are left out.
    """
    position = pd.Series(np.arange(len(predictions)), index=predictions["row"])
    parts = []
    for zone, rows in _groups(predictions, zones):
        method, here = (UNZONED if zone == ALL else ZONED), np.flatnonzero(rows)
        found = increases[increases["method"] == method]
        at = position.loc[found["row"]].to_numpy()
        found = found[rows[at]]
        columns = sorted(found["covariate"].unique().tolist())
        matrix = np.zeros((len(predictions), len(columns)))
        matrix[position.loc[found["row"]], np.searchsorted(columns, found["covariate"])] = found["increase"]
        variance = float(predictions["observed"].to_numpy()[here].var())
        if not columns or variance == 0:
            continue
        drawn = bootstrap_means(matrix[here], units[here], seed, draws) / variance
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        folds = predictions["fold"].to_numpy()[here]
        used = [np.unique(folds[(matrix[here, k] != 0)]).size / np.unique(folds).size for k in range(len(columns))]
        part = pd.DataFrame({"zone": zone, "method": method, "covariate": [names[k] for k in columns]})
        part = part.assign(importance=matrix[here].mean(0) / variance, low=low, high=high, chosen=used, n=len(here))
        parts.append(part.sort_values("importance", ascending=False))
    return pd.concat(parts, ignore_index=True)
