"""Choice of a learner by spatial cross-validation: a preferred one, unless another is surely better.

In: profiles, learners. Out: what each learner predicts of the profiles held out, a table of scores with standard errors over
folds, and the choice with its reason. No fold splits a place or block, and a learner computes everything from its training folds.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.ensemble import RandomForestRegressor

from soilcarbon.io.files import UserError
from soilcarbon.network.specification import Specification
from soilcarbon.parallel import worker_pool
from soilcarbon.progress import Progress, quiet_training
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.learners import FEWEST_OF_NETWORK, LEARNERS, MOST_PROFILES, Task, fit_parts
from soilcarbon.regression.model import MEANS, FittedModel, from_scale
from soilcarbon.regression.parts import cells_of_trees, transformed
from soilcarbon.stats import metrics
from soilcarbon.stats.groups import check_no_leak, group_folds, spatial_groups
from soilcarbon.stats.spatial_cv import make_folds

log = logging.getLogger(__name__)
SCORES = ("mae", "rmse", "r2", "ccc", "me")
MOST_GIVEN_UP = 0.01
"""Of the lowest MAE, by the choice of a simpler learner. On small tables one standard error is 5 % and more: the rule alone was 6 %
above a forest on some of the data sets of `experiments/own_data.py`, and 2 to 3 % above this one on average."""
PREFERRED = ("stack", "ridge-kriging", "regression-kriging", "forest")
"""Where the first of them that is there is beaten on evidence only: a test of the difference over folds. Of those with the lowest
MAE many were lucky, and fail in the next fold."""
_SURE = 0.95
"""Level of that test, one-sided, by Student's t: 2.1 standard errors of five folds, 2.9 of three."""
_FEWEST_BLOCKS = 10
"""Of fewer blocks, a fold is one or two landscapes, and its score their luck."""


# --- folds -------------------------------------------------------------------------------------------------------------------


def draw_folds(samples: Samples, task: Task, k: int) -> tuple[np.ndarray, float | None, dict[str, Any]]:
    """Draw folds of whole blocks, or of whole places where there are too few blocks.

    Blocks are those of the task; where it has none, their side is the range of the variogram of a forest's residuals.

    Parameters
    ----------
    samples, task
        Profiles, and what is known of them.
    k
        Folds, or as many as there are groups.

    Returns
    -------
    folds, block_size, facts
        (n,) int64; side of the blocks, degrees, or None for places; plain values for a record.

    Raises
    ------
    UserError
        If all profiles lie in one place.
    """
    lon, lat = samples.X[:, 0], samples.X[:, 1]
    places = spatial_groups(lon, lat)
    if (count := np.unique(places).size) < 2:
        raise UserError(f"{len(lon)} profiles at {count} place: nothing can be held out in space; check lon and lat")
    k, why = min(k, count), ""
    for size in (task.block_size, None) if task.block_size is not None else (None,):
        more: dict[str, Any] = {"block_size": size} if size else {"residuals": _residuals(samples, task, group_folds(places, k, 0))}
        try:
            folds, facts = make_folds("blocks", lon, lat, k, task.seed, **more)
        except ValueError as error:  # fewer blocks than folds, or too few pairs for a variogram
            why = str(error)
            continue
        if facts["blocks"] >= _FEWEST_BLOCKS:
            check_no_leak(folds, places)
            return folds, facts["block_size"], facts
        why = f"{facts['blocks']} blocks of {facts['block_size']:g} degrees are too few"
    log.warning("folds are of places, not of blocks (%s): scores are of gaps between profiles, and too good far from them", why)
    folds, facts = make_folds("place", lon, lat, k, task.seed)
    return folds, None, {**facts, "places": count, "no_blocks": why}


def _residuals(samples: Samples, task: Task, folds: np.ndarray) -> np.ndarray:
    """Return residuals (n,) of a small forest, each profile predicted by folds of places without it."""
    facts = task.specify(samples)
    x, y = cells_of_trees(samples.X, facts, filled=False), transformed(samples.y, facts)
    found = np.empty(len(y))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        forest = RandomForestRegressor(100, max_features=1 / 3, random_state=task.seed, n_jobs=task.jobs)
        found[out] = y[out] - forest.fit(x[~out], y[~out]).predict(x[out])
    return found


# --- cross-validation --------------------------------------------------------------------------------------------------------


def suitable(keys: Sequence[str], samples: Samples) -> list[str]:
    """Return the learners, the simplest first, that suit the number of profiles; others are logged."""
    n, groups, kept = len(samples.y), np.unique(samples.groups).size, []
    for key in (key for key in LEARNERS if key in keys):
        if LEARNERS[key].network and (n < FEWEST_OF_NETWORK or groups < 3):
            log.warning("%s: left out; %d profiles in %d groups are too few", key, n, groups)
        elif n > (most := MOST_PROFILES.get(key, n)):
            log.warning("%s: left out; it takes at most %d profiles, here are %d", key, most, n)
        else:
            kept.append(key)
    return kept


def hold_out(key: str, samples: Samples, task: Task, folds: np.ndarray, fold: int) -> np.ndarray:
    """Return the transformed target of the profiles of one fold, predicted by a learner fitted to the others."""
    out = folds == fold
    train = samples.take(~out)
    parts, facts = fit_parts(key, train, task)
    found = FittedModel(key, facts, parts).outputs(samples.X[out])
    return np.clip(found, *np.sort(transformed(np.array(facts.bounds), facts)))


def cross_validate(keys: Sequence[str], samples: Samples, task: Task, folds: np.ndarray, workers: int = 1) -> dict[str, np.ndarray]:
    """Return learner -> transformed target (n,) of every profile, predicted by folds without it; cheap learners first.

    Parameters
    ----------
    keys
        Of `LEARNERS`. One that cannot be fitted is logged and left out.
    samples, task, folds
        Profiles, what is to be learnt, and their folds (n,).
    workers
        Processes; 0: one per core; 1: this one alone. Forests alone are grown by threads of this process.
    """
    wanted = {each for key in keys for each in MEANS.get(key, (key,))}
    bases = [key for key in LEARNERS if key in wanted]
    jobs = [(key, fold) for key in bases for fold in range(int(folds.max()) + 1)]
    found = {key: np.full(len(samples.y), np.nan) for key in bases}
    failed: dict[str, str] = {}
    cores, left = workers or os.cpu_count() or 1, dict.fromkeys(bases, int(folds.max()) + 1)

    def note(key: str, fold: int, result: np.ndarray | Exception) -> None:
        if isinstance(result, Exception):
            failed.setdefault(key, str(result))
        else:
            found[key][folds == fold] = result
        bar.step(LEARNERS[key].cost)
        left[key] -= 1
        if not left[key] and key not in failed:
            known = np.expm1(found[key]) if task.transform == "log1p" else found[key]
            log.info("%s: MAE %.3g of profiles held out", key, np.abs(known - samples.y).mean())

    with Progress("cross-validation", sum(LEARNERS[key].cost for key, _ in jobs)) as bar:
        if cores == 1 or not any(LEARNERS[key].network for key in bases):
            here = replace(task, jobs=cores)
            for key, fold in jobs:
                note(key, fold, _attempt(key, samples, here, folds, fold))
        else:
            alone = replace(task, jobs=1)
            with worker_pool(cores) as pool:
                running = {pool.submit(_attempt, key, samples, alone, folds, fold): (key, fold) for key, fold in jobs}
                for each in as_completed(running):
                    note(*running[each], each.result())
    for key, why in failed.items():
        log.warning("%s: left out; %s", key, why)
        del found[key]
    for key, parts in MEANS.items():
        if all(each in found for each in parts):
            found[key] = np.mean([found[each] for each in parts], axis=0)
    return {key: found[key] for key in LEARNERS if key in found and key in keys}


def _attempt(key: str, samples: Samples, task: Task, folds: np.ndarray, fold: int) -> np.ndarray | Exception:
    try:
        with quiet_training():
            return hold_out(key, samples, task, folds, fold)
    except (ValueError, UserError) as error:  # too few profiles in a fold, a loss that is no longer finite
        return error


def smearing(y: np.ndarray, outputs: np.ndarray, transform: str) -> float:
    """Return Duan's smearing factor (1983) of held-out predictions of ln(1 + y); 1 where the target is not transformed."""
    return float(np.exp(np.log1p(y) - outputs).mean()) if transform == "log1p" else 1.0


def in_unit(y: np.ndarray, outputs: np.ndarray, facts: Specification, folds: np.ndarray) -> np.ndarray:
    """Return held-out predictions (n,) in the target's unit; for means, a fold's smearing factor is that of the other folds."""
    found = np.empty(len(outputs))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        factor = smearing(y[~out], outputs[~out], facts.target_transform)
        found[out] = from_scale(outputs[out], facts.changed(smearing=(factor,)))
    return found


# --- scores and choice -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """A choice of learner.

    Attributes
    ----------
    table
        A row per learner, the simplest first: model, n, folds; mae, rmse, r2, ccc, me, each with _se, its standard error over
        folds; difference: its MAE less the lowest, with _se, that of the difference; within: whether it would do by
        the rule of `select`; chosen.
    chosen
        Key of the simplest learner that is within.
    reason
        Why, in one sentence.
    """

    table: pd.DataFrame
    chosen: str
    reason: str


def jackknife(values: Any, folds: np.ndarray) -> float:
    """Return the standard error over folds of a statistic of rows, by leaving out one fold at a time; NaN of one fold.

    Parameters
    ----------
    values
        Function of a mask of rows (n,), or numbers (n,) whose mean is taken.
    folds
        (n,) int.

    Examples
    --------
    >>> round(jackknife(np.array([1.0, 1, 3, 3, 5, 5]), np.array([0, 0, 1, 1, 2, 2])), 4)  # sd of 1, 3, 5 over the root of 3
    1.1547
    """
    statistic = values if callable(values) else lambda rows: float(values[rows].mean())
    distinct = np.unique(folds)
    if len(distinct) < 2:
        return float("nan")
    left = np.array([np.nan if (found := statistic(folds != fold)) is None else found for fold in distinct], float)
    return float(np.sqrt((len(left) - 1) * left.var()))


def score_errors(y: np.ndarray, predicted: np.ndarray, folds: np.ndarray) -> dict[str, float]:
    """Return the standard error over folds of each of `SCORES` of predictions (n,)."""
    return {name: jackknife(lambda some, name=name: metrics.scores(y[some], predicted[some])[name], folds) for name in SCORES}


def select(y: np.ndarray, predicted: Mapping[str, np.ndarray], folds: np.ndarray, unit: str = "g/kg") -> Selection:
    """Choose the preferred learner, unless another's MAE is surely lower.

    The first of `PREFERRED` that is there is preferred, if its MAE is lower than the mean's. Of the learners the one is chosen for
    which the upper end of the difference from it, at a one-sided level of 95 %, is the lowest. Where none is preferred,
    it is the simplest whose MAE is within one standard error, and within `MOST_GIVEN_UP`, of the lowest. Standard errors are
    those of differences over folds: folds differ in difficulty, which all learners share.

    Parameters
    ----------
    y
        (n,) observed.
    predicted
        Learner -> (n,) held-out predictions, the simplest learner first.
    folds
        (n,) int.
    unit
        Of the target, for the reason.

    Examples
    --------
    >>> y, folds = np.arange(8.0), np.arange(8) % 4
    >>> forest, network = y + np.tile([0.2, 0.8], 4), y + np.tile([0.8, 0.2], 4)  # the same MAE
    >>> select(y, {"mean": np.full(8, 3.5), "forest": forest, "network": network}, folds).chosen
    'forest'
    """
    error = {key: np.abs(each - y) for key, each in predicted.items()}
    best = min(error, key=lambda key: float(error[key].mean()))
    rows = []
    for key, each in predicted.items():
        found = metrics.scores(y, each)
        row: dict[str, Any] = {"model": key, "n": len(y), "folds": int(np.unique(folds).size)}
        for name, error_of_score in score_errors(y, each, folds).items():
            row |= {name: found[name], f"{name}_se": error_of_score}
        apart = error[key] - error[best]
        row["difference"], row["difference_se"] = float(apart.mean()), jackknife(apart, folds)
        rows.append(row)
    for row, within in zip(rows, _within(error, folds, best), strict=True):
        row["within"] = within
    chosen = next(row["model"] for row in rows if row["within"])
    table = pd.DataFrame(rows).assign(chosen=lambda table: table["model"] == chosen)
    return Selection(table, chosen, _reason(table.set_index("model"), chosen, best, unit))


def _preferred(mae: Mapping[str, float]) -> str | None:
    """Return the learner that others must surely beat, from the MAE of each; None: there is none that is better than the mean."""
    key = next((key for key in PREFERRED if key in mae), None)
    return None if key is None or mae.get("mean", np.inf) <= mae[key] else key


def _within(error: Mapping[str, np.ndarray], folds: np.ndarray, best: str) -> list[bool]:
    """Return for each learner whether it would do, from absolute errors (n,) of each."""
    if preferred := _preferred({key: float(each.mean()) for key, each in error.items()}):
        apart = [each - error[preferred] for each in error.values()]
        wide = t.ppf(_SURE, max(np.unique(folds).size - 1, 1))
        highest = [float(each.mean()) + (wide * jackknife(each, folds) if each.any() else 0.0) for each in apart]
        return [each == min(highest) for each in highest]
    given_up = MOST_GIVEN_UP * float(error[best].mean())
    apart = [each - error[best] for each in error.values()]
    return [
        key == best or float(each.mean()) <= min(jackknife(each, folds), given_up) for key, each in zip(error, apart, strict=True)
    ]


def _reason(table: pd.DataFrame, chosen: str, best: str, unit: str) -> str:
    mae, se = float(table.at[chosen, "mae"]), float(table.at[chosen, "mae_se"])
    unit = f" {unit}" if unit else ""
    text = f"{chosen}: MAE {mae:.3g} (standard error {se:.2g}){unit} over {int(table.at[chosen, 'folds'])} folds"
    if len(table) == 1:
        return f"{text}; no other was tried"
    simplest = list(table.index).index(chosen) == 0
    gap, of_gap = float(table.at[chosen, "difference"]), float(table.at[chosen, "difference_se"])
    if chosen == best and simplest:
        text += f", the lowest of {len(table)}, and the simplest"
    elif preferred := _preferred(table["mae"].to_dict()):
        text += f", the lowest of {len(table)}" if chosen == best else f"; the lowest, {best}'s, is {gap:.2g} less"
        if chosen == preferred:
            text += "; no other is surely (95 %) better"
        else:
            text += f"; surely (95 %) lower than {preferred}'s"
    elif chosen == best:
        least = f"one standard error of the difference or {100 * MOST_GIVEN_UP:g} %"
        text += f", the lowest of {len(table)}, by more than {least} from every simpler one"
    else:
        text += f"; the lowest, {best}'s, is {gap:.2g} less, within one standard error of the difference ({of_gap:.2g}) "
        text += f"and {100 * MOST_GIVEN_UP:g} %, and {chosen} is simpler"
    if chosen == "mean":
        return f"{text}: the covariates do not predict the target here"
    if "mean" in table.index and table.at["mean", "mae"] > 0:
        text += f"; {100 * (1 - mae / float(table.at['mean', 'mae'])):.0f} % below the mean's"
    return text


def given(selection: Selection, key: str) -> Selection:
    """Return the selection with a learner that the user names, and what the rule would have chosen in the reason."""
    row = selection.table.set_index("model").loc[key]
    told = f"{key}, as set: MAE {row['mae']:.3g} (standard error {row['mae_se']:.2g})"
    if "mean" in set(selection.table["model"]) and key != "mean":
        mean = selection.table.set_index("model").at["mean", "mae"]
        told += f"; the mean's is {mean:.3g}" + ("" if row["mae"] < mean else ", lower")
    table = selection.table.assign(chosen=selection.table["model"] == key)
    return Selection(table, key, told)
