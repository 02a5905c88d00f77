"""Hold profiles out for a fair score, in the way that matches what the map will be used for.

In: arrays of positions (degrees), labels, residuals. Out: fold numbers (N,) 0..k-1, and facts of them for a report.
A score is only as honest as the distance between the profiles held out and those trained on: `make_folds` draws folds
in each way of `WAYS`; `knndm.held_out_distances` tells how far they hold out, `knndm.mismatch` what a map's need is missed by.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.model_selection import PredefinedSplit

from soilcarbon.io.files import UserError, read_table, read_yaml, write_table, write_yaml
from soilcarbon.stats.grouping import check_k, group_folds, split_units
from soilcarbon.stats.knndm import held_out_distances, knndm_folds
from soilcarbon.stats.variogram import block_side, distinct_places, fit_variogram, semivariances, unit_vectors

WAYS = {
    "random": "Single profiles: the score of filling gaps between profiles; too good for a map wherever profiles cluster.",
    "place": "All profiles of one place together: as random, but no profile is predicted from its own twin.",
    "blocks": "Square blocks: the score on land some way from any profile; choose sides as wide as the residuals agree.",
    "region": "Whole regions: the score in a land that has no profiles at all; the hardest test, and of transfer only.",
    "knndm": "Held out as far from training profiles as the map's cells are from profiles: the score of that map.",
}
"""Way -> when to choose it."""
SPATIAL = ("place", "blocks", "region", "knndm")
"""Ways that never part the profiles of one place."""

_BLOCKS_PER_FOLD = 5
"""Fewer blocks make folds that are one landscape each, and of very unequal size."""

# --- drawing folds -----------------------------------------------------------------------------------------------


def cluster_regions(lon: np.ndarray, lat: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return compact regions (N,) 0..k-1 of profiles that have no region's label: k-means on the sphere.

    Raises
    ------
    ValueError
        If there are fewer places than regions.
    """
    points, member, sizes = distinct_places(lon, lat)
    check_k(k, len(points), "places")
    return np.asarray(KMeans(k, n_init=10, random_state=seed).fit(points, sample_weight=sizes).labels_[member], np.int64)


def make_folds(
    way: str,
    lon: np.ndarray,
    lat: np.ndarray,
    k: int = 5,
    seed: int = 0,
    *,
    side: float | None = None,
    residuals: np.ndarray | None = None,
    regions: Sequence[str] | np.ndarray | None = None,
    places: tuple[np.ndarray, np.ndarray] | None = None,
    maxp: float = 0.5,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw folds in one of `WAYS` and say what they are.

    Parameters
    ----------
    way
        A key of `WAYS`.
    lon, lat
        (N,) degrees.
    k, seed
        Folds, and the draw's seed; labelled regions are one fold each, whatever k.
    side
        "blocks": their side, degrees.
    residuals
        "blocks", where no side is given: (N,) residuals of a model, whose variogram gives the side.
    regions
        "region": (N,) labels; default: k clusters.
    places, maxp
        "knndm": see `knndm.knndm_folds`.

    Returns
    -------
    folds, facts
        (N,) int64 0..k-1; plain values for YAML or a report: way, why, k, seed, sizes, median_km (of
        `held_out_distances`), and what the way adds.

    Raises
    ------
    ValueError
        For an unknown way, a missing argument, or too few units for the folds.
    """
    if way not in WAYS:
        raise ValueError(f"way = {way!r}: expected one of {', '.join(WAYS)}")
    unit_vectors(lon, lat)
    more: dict[str, Any] = {}
    if way == "random":
        folds = group_folds(np.arange(len(lon)), k, seed)
    elif way == "place":
        folds = group_folds(split_units(lon, lat, "random"), k, seed)
    elif way == "blocks":
        if side is None:
            if residuals is None:
                raise ValueError("blocks need a side (degrees) or residuals whose variogram gives it")
            fitted = fit_variogram(semivariances(lon, lat, residuals, robust=True, seed=seed))
            side, limit = block_side(lon, lat, fitted.practical_range, _BLOCKS_PER_FOLD * k)
            more = {"range_km": fitted.practical_range, "range_found": fitted.bounded, "side_limit": limit}
        blocks = split_units(lon, lat, "blocks", side)
        folds = group_folds(blocks, k, seed)
        more |= {"side_degrees": float(side), "blocks": int(np.unique(blocks).size)}
    elif way == "region":
        if regions is None:
            regions = [f"cluster {number:02d}" for number in cluster_regions(lon, lat, k, seed)]
        names, folds = np.unique(np.asarray(regions, str), return_inverse=True)
        check_k(len(names), len(names), "regions")
        more = {"regions": names.tolist()}
    else:
        if places is None:
            raise ValueError("knndm needs the places that will be predicted, see knndm.draw_places")
        folds, more = knndm_folds(lon, lat, k, places, seed, maxp)
    if way in SPATIAL:
        check_no_leak(folds, split_units(lon, lat, "random"))
    sizes = np.bincount(folds).tolist()
    median = float(np.median(held_out_distances(lon, lat, folds)))
    return folds, {"way": way, "why": WAYS[way], "k": len(sizes), "seed": seed, "sizes": sizes, "median_km": median} | more


def check_no_leak(folds: np.ndarray, units: np.ndarray) -> None:
    """Stop if profiles of one unit (place, block, region) are in two folds.

    Raises
    ------
    ValueError
        With the number of such units, and the first.
    """
    folds, (distinct, unit) = np.asarray(folds), np.unique(units, return_inverse=True)
    if folds.shape != unit.shape:
        raise ValueError(f"folds {folds.shape} and units {unit.shape} must be two vectors of one length")
    pairs = np.unique(np.stack([unit, folds]), axis=1)
    parted = np.flatnonzero(np.bincount(pairs[0]) > 1)
    if parted.size:
        first = distinct[parted[0]].item()
        raise ValueError(f"{parted.size} of {len(distinct)} units are in more than one fold, first {first!r}")


def splits(folds: np.ndarray) -> PredefinedSplit:
    """Return the folds as scikit-learn takes them: `cross_val_predict(model, x, y, cv=splits(folds))`."""
    return PredefinedSplit(np.asarray(folds))


# --- keeping folds -----------------------------------------------------------------------------------------------


def save_folds(path: Path, ids: Sequence[str], folds: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Write folds to `path` (CSV: profile_id, fold), and what they are beside it, in the same name as .yaml.

    Raises
    ------
    ValueError
        If ids repeat, or folds are not numbered 0..k-1 without a gap, one for each id.
    """
    folds, names = np.asarray(folds), [str(each) for each in ids]
    if len(set(names)) < len(names) or folds.shape != (len(names),):
        raise ValueError(f"{len(names)} ids, {len(set(names))} distinct, and folds {folds.shape}: expected one fold for each id")
    if not np.array_equal(np.unique(folds), np.arange(len(np.unique(folds)))):
        raise ValueError(f"folds are numbered {np.unique(folds)[:10].tolist()}: expected 0, 1, ... without a gap")
    write_yaml(path.with_suffix(".yaml"), dict(facts))
    write_table(path, pd.DataFrame({"profile_id": names, "fold": folds}))


def read_folds(path: Path, ids: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what `save_folds` wrote, for a table that may stand in another order.

    Parameters
    ----------
    path
        The CSV.
    ids
        (N,) the table's ids.

    Returns
    -------
    folds, facts
        (N,) int64, in the order of `ids`; the facts saved with them.

    Raises
    ------
    UserError
        If a file or column is missing, an id is in the one table and not in the other, or repeated, or a fold is no
        number 0, 1, ...
    """
    table, facts = read_table(path, ("profile_id", "fold")), read_yaml(path.with_suffix(".yaml"))
    fold = pd.to_numeric(table["fold"], errors="coerce").to_numpy(np.float64)
    number = np.isfinite(fold) & (fold >= 0) & (fold == np.floor(fold))
    named = table["profile_id"].fillna("").str.strip()
    for wrong, rule in ((~number, "fold must be 0, 1, ..."), (named.duplicated().to_numpy(), "profile_id must be unique")):
        if wrong.any():
            raise UserError(
                f"{path}: {rule}; not so in {int(wrong.sum())} of {len(table)} rows, first at {named[wrong.argmax()]!r}"
            )
    fold_of, wanted = dict(zip(named, fold.astype(np.int64).tolist(), strict=True)), [str(each).strip() for each in ids]
    missing, unknown = [each for each in wanted if each not in fold_of], list(set(fold_of) - set(wanted))
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} profiles have no fold, first {missing[0]!r}; draw folds anew")
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(table)} profiles are not in this table, first {min(unknown)!r}; draw folds anew"
        )
    return np.array([fold_of[each] for each in wanted], np.int64), facts
