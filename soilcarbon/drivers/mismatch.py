"""Mismatch of a model's drivers and those of the observations: differences, intervals, significance, and tables.

In: results of each learner's refits (`subsampling.read_refits`), the reference first, then the models. Out: `Contrast`s, and
`Results`, tables in memory that the report shows.

An interval is the mean over refits, plus and minus Student's t times their standard deviation, which is the standard error of the
whole (`subsampling` explains why). Of many differences some are large by chance; one is significant if it exceeds the largest that
occurs by chance: the distribution of the largest studentised deviation is taken from the refits themselves (single-step max-T:
Westfall and Young 1993; Romano and Wolf 2005, Econometrica 73, 1237-1282). So the probability that a report on a model that follows
the observations' relationship has any significant difference is at most 1 - level; `experiments/false_alarms.py` counts it.

Importances are extrapolated to infinite sample size (`subsampling.extrapolate`). Significance is tested on the half-samples' own
importances: their shortfall is the same for targets that follow one relationship, and correcting it would only add noise.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, norm
from scipy.stats import t as student

from soilcarbon.drivers.analysis import Analysis
from soilcarbon.drivers.importance import MAIN_METHOD, METHODS, shares
from soilcarbon.drivers.responses import CurveShape, common_shape, density
from soilcarbon.drivers.subsampling import LEVEL, Screening, extrapolate
from soilcarbon.drivers.support import Support

EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Interval:
    """A value and its interval; NaN where there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Contrast:
    """Contrast: one difference between a model and the observations."""

    kind: str  # "importance" of a driver, or "response" to a variable
    model: str  # model, name, zone: which model; the driver or variable; `EVERYWHERE` or a zone
    name: str
    zone: str
    # observed, modelled: importance: growth of the squared error of ln carbon when the driver is permuted within strata. Response:
    # change of ln carbon over the middle 90 % of places.
    observed: Interval
    modelled: Interval
    difference: Interval
    ratio: Interval  # importance: modelled / observed, where both are significantly above 0. Response: none.
    # observed_rank, modelled_rank: importance: the rank among all drivers, 1 the most important. Response: none.
    observed_rank: Interval
    modelled_rank: Interval
    # response: root mean square difference of the curves of ln carbon, weighted by the density of places. Importance: none.
    distance: Interval
    statistic: float  # largest studentised difference over its max-T critical value; significant above 1

    @property
    def significant(self) -> bool:
        """Whether the difference is significant by the max-T test over all differences."""
        return self.statistic > 1


# --- intervals ---------------------------------------------------------------------------------------------------------


def interval(values: np.ndarray, level: float) -> Interval:
    """Return the mean of a statistic over refits on half-samples (H,) and its Student interval; NaN are left out.

    Examples
    --------
    >>> interval(np.array([1.0, 2.0, 3.0]), 0.5)
    Interval(value=2.0, low=1.18..., high=2.81...)
    """
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return Interval()
    half, mean = float(student.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1)), float(known.mean())
    return Interval(mean, mean - half, mean + half)


def ratio_of(modelled: np.ndarray, observed: np.ndarray, level: float) -> Interval:
    """Return the ratio of the means of two importances over refits (H,), with Fieller's interval (1954).

    There is none where either may be 0.
    """
    if not all(interval(each, level).low > 0 for each in (modelled, observed)):
        return Interval()
    t = float(student.ppf((1 + level) / 2, len(observed) - 1))
    (upper, shared), (_, lower) = t**2 * np.cov(modelled, observed) / observed.mean() ** 2  # spreads, relative to the observed
    ratio = float(modelled.mean() / observed.mean())
    middle = (ratio - shared) / (1 - lower)
    half = float(np.sqrt(max(upper - 2 * ratio * shared + ratio**2 * lower - (upper * lower - shared**2), 0))) / (1 - lower)
    return Interval(ratio, float(middle) - half, float(middle) + half)


def ranks_of(values: np.ndarray, level: float) -> list[Interval]:
    """Return the ranks of drivers, 1 the most important, from importances over refits (H, G); intervals: refits' own ranks."""
    each = np.argsort(np.argsort(-values, axis=1), axis=1) + 1
    whole = np.argsort(np.argsort(-values.mean(0))) + 1
    ends = np.quantile(each, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")
    return [Interval(*(float(found) for found in some)) for some in zip(whole, *ends, strict=True)]


def distance_of(differences: np.ndarray, weights: np.ndarray, level: float) -> Interval:
    """Return the weighted root mean square difference of two curves, from differences (H, K) of refits in pairs.

    A squared difference is above 0 by chance alone. The two refits of a pair share no training data, so that the product of their
    differences is not; its mean is the squared distance without that bias, 0 where chance has made it negative.
    """
    found = interval((differences[::2] * differences[1::2] * weights).sum(1), level)
    return Interval(*(float(np.sqrt(max(each, 0.0))) for each in (found.value, found.low, found.high)))


def effects(curves: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the change of curves (..., K) over the middle 90 % of places, by their weights (K,)."""
    share = np.cumsum(weights) - weights / 2
    low, high = int(np.searchsorted(share, 0.05)), int(np.searchsorted(share, 0.95, side="right")) - 1
    return np.asarray(curves[..., high] - curves[..., low])


# --- contrasts ---------------------------------------------------------------------------------------------------------


def contrasts(
    found: Mapping[str, np.ndarray],
    models: Sequence[tuple[int, str]],
    drivers: Sequence[str],
    zones: Sequence[str],
    curves: Sequence[tuple[str, np.ndarray]],
    level: float,
) -> list[Contrast]:
    """Return all differences between models (number and name) and the reference, target 0, the largest statistic first.

    `found` is of `subsampling.read_refits`, NaN in zones in which a target has no skill; `curves` are variable and weights (1 + Z,
    K) of each response, everywhere and in each zone; `level` is of intervals, and 1 - the family-wise error rate.
    """
    raised = extrapolate(found)
    v = found["conditional"].shape[2] - len(drivers)
    parts: list[tuple[dict[str, Any], np.ndarray]] = []
    for number, model in models:
        for place, zone in enumerate([EVERYWHERE, *zones]):
            own, sizes = (each["zones"][:, :, place - 1] if place else each["conditional"][:, :, v:] for each in (found, raised))
            if not np.isfinite(sizes[:, [0, number]]).all():
                continue
            ranks = [ranks_of(sizes[:, target], level) for target in (0, number)]
            for k, driver in enumerate(drivers):
                observed, modelled = sizes[:, 0, k], sizes[:, number, k]
                facts = _values("importance", model, driver, zone, observed, modelled, level)
                facts |= {"ratio": ratio_of(modelled, observed, level), "observed_rank": ranks[0][k], "modelled_rank": ranks[1][k]}
                parts.append((facts, (own[:, number, k] - own[:, 0, k])[:, None]))
            lines = found["zone_curves"][:, :, place - 1] if place else found["curves"]
            for k, (variable, weights) in enumerate(curves):
                both = lines[:, [0, number], k, : weights.shape[1]]
                gap, effect = both[:, 1] - both[:, 0], effects(both, weights[place])
                facts = _values("response", model, variable, zone, effect[:, 0], effect[:, 1], level)
                parts.append((facts | {"distance": distance_of(gap, weights[place], level)}, gap[:, weights[place] > 0]))
    if not parts:
        return []
    statistics = _max_t([gap for _, gap in parts], level)
    every = [Contrast(**facts, statistic=statistic) for (facts, _), statistic in zip(parts, statistics, strict=True)]
    return sorted(every, key=lambda each: -each.statistic)


def _values(
    kind: str, model: str, name: str, zone: str, observed: np.ndarray, modelled: np.ndarray, level: float
) -> dict[str, Any]:
    """Return a contrast's fields, from values of refits (H,), each; NaN where a field does not apply."""
    facts: dict[str, Any] = {"kind": kind, "model": model, "name": name, "zone": zone}
    facts |= dict.fromkeys(("ratio", "observed_rank", "modelled_rank", "distance"), Interval())
    values = {"observed": observed, "modelled": modelled, "difference": modelled - observed}
    return facts | {key: interval(some, level) for key, some in values.items()}


def _max_t(gaps: Sequence[np.ndarray], level: float) -> list[float]:
    """Return for each difference (H, K) its largest studentised value over the critical value of the largest of all.

    A refit's deviation is studentised by a spread that it contributed to, and cannot be large if refits are few. So the quantile
    of the largest is read as a normal deviate, and Student's t of the same probability is the critical value.
    """
    every = np.concatenate(gaps, axis=1)
    spread = np.maximum(every.std(axis=0, ddof=1), 1e-9)
    mean = every.mean(axis=0)
    reached = float(np.quantile((np.abs(every - mean) / spread).max(axis=1), level, method="higher"))
    critical = float(student.isf(norm.sf(reached), len(every) - 1))
    ends = np.cumsum([gap.shape[1] for gap in gaps])
    return [float((np.abs(mean) / spread)[end - gap.shape[1] : end].max() / critical) for gap, end in zip(gaps, ends, strict=True)]


# --- results -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """All tables of an analysis."""

    # title, command, targets: {name: {kind, unit, ...}} with the reference first, learners as requested, lead, level, refits of
    # each learner, block_size, blocks, drivers: {name: variables}, zones: {name: places}, support: what was counted, noise: {model:
    # factor}, settings
    facts: dict[str, Any]
    skill: pd.DataFrame  # as of `Screening`
    # target, learner, zone, method, kind (variable, driver), name, importance, low, high (by the method, of learners of half-
    # samples; permutation: growth of the squared error of ln carbon), share, share_low, share_high (% of the sum over its kind),
    # refits
    importance: pd.DataFrame
    agreement: pd.DataFrame  # target, a, b ("learner: method"), tau (Kendall's, of variables)
    # target, learner, zone, method (accumulated, partial), variable, at, density, value, low, high (ln carbon)
    responses: pd.DataFrame
    joint: pd.DataFrame  # target, learner, method, first, second, at_first, at_second, value, low, high
    shapes: dict[tuple[str, str], CurveShape]  # (target, variable) -> shape of the lead's curves
    contrasts: dict[str, list[Contrast]]  # learner -> its contrasts, the largest statistic first
    # driver, observed, models, mean, low, high (importance over models), above, below (models significantly so), observed_rank,
    # mean_rank
    ensemble: pd.DataFrame
    places: pd.DataFrame  # lon, lat, and per model its predicted log target less the reference's, out of fold

    @property
    def reference(self) -> str:
        """The target that others are compared with."""
        return next(iter(self.facts["targets"]))

    @property
    def lead(self) -> list[Contrast]:
        """The contrasts of the first learner with skill, which the report is based on."""
        return self.contrasts.get(self.facts["lead"], [])

    @property
    def models(self) -> list[str]:
        """The other targets that the lead has skill on."""
        return list(dict.fromkeys(each.model for each in self.lead))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by the name of their CSV file."""
        flat = [{"learner": learner, **as_plain(each)} for learner, every in self.contrasts.items() for each in every]
        bends = [{"target": t, "variable": v, **vars(found)} for (t, v), found in self.shapes.items()]
        names = ("skill", "importance", "agreement", "responses", "joint", "ensemble", "places")
        return {name: getattr(self, name) for name in names} | {
            "shapes": pd.DataFrame(bends),
            "mismatch": pd.json_normalize(flat, sep="_"),
        }

    def record(self) -> dict[str, object]:
        """Return the content of mismatch.json: plain containers, None where there is no number."""
        facts = {name: value for name, value in self.facts.items() if name != "settings"}
        shapes = [{"target": t, "variable": v, **_plain_fields(found)} for (t, v), found in self.shapes.items()]
        ensemble = [{name: _plain(value) for name, value in row.items()} for row in self.ensemble.to_dict("records")]
        return {"facts": facts, "differences": [as_plain(each) for each in self.lead], "shapes": shapes, "ensemble": ensemble}


def as_plain(contrast: Contrast) -> dict[str, Any]:
    """Return a contrast as plain containers; None where there is no number."""
    return _plain_fields(contrast) | {"significant": contrast.significant}


def _plain_fields(found: object) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(found).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return _plain_fields(value) if math.isfinite(value.value) else None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def gather(
    support: Support, analysis: Analysis, screening: Screening, found: Mapping[str, Mapping[str, np.ndarray]], command: str
) -> Results:
    """Return the tables of an analysis; `found`: learner -> what its refits left, the lead first."""
    study, level, able = screening.study, LEVEL, screening.able
    targets = [support.targets[k] for k in screening.order]
    names = [target.name for target in targets]
    lead, zones = next(iter(able)), list(study.zones)
    grids = []
    for column, grid, everywhere in study.curves:
        by_zone = [density(support.x[inside, column], grid) for inside in study.zones.values()]
        grids.append((support.variables[column], grid, np.stack([everywhere, *by_zone])))
    masked = {learner: _without_skill(arrays, analysis.min_skill, level) for learner, arrays in found.items()}
    weights = [(name, weights) for name, _, weights in grids]
    every = {
        learner: contrasts(arrays, [(t, names[t]) for t in able[learner] if t], list(study.drivers), zones, weights, level)
        for learner, arrays in masked.items()
    }
    shapes = {
        (names[t], name): common_shape(found[lead]["curves"][:, t, k, : len(grid)], grid, weights[0], level)
        for t in able[lead]
        for k, (name, grid, weights) in enumerate(grids)
    }
    gaps = {names[t]: screening.predicted[t] - screening.predicted[0] for t in able[lead] if t}
    importance = pd.DataFrame(_importance_rows(names, support, screening, masked, level))
    return Results(
        facts=_facts(support, analysis, screening, command) | {"refits": {name: len(each["r2"]) for name, each in found.items()}},
        skill=screening.skill,
        importance=importance,
        agreement=_agreement(importance),
        responses=pd.DataFrame(_response_rows(names, grids, screening, masked, level)),
        joint=pd.DataFrame(_joint_rows(names, support, screening, found, level)),
        shapes=shapes,
        contrasts=every,
        ensemble=_ensemble(every[lead], [target.name for target in targets if target.kind == "model"]),
        places=pd.DataFrame({"lon": support.lon, "lat": support.lat, **gaps}),
    )


def _facts(support: Support, analysis: Analysis, screening: Screening, command: str) -> dict[str, Any]:
    study = screening.study
    units = {support.targets[k].name: support.units[k] for k in screening.order}
    first, *others = units
    against = f" against {others[0] if len(others) == 1 else f'{len(others)} others'}" if others else ""
    return {
        "title": f"What controls soil carbon: {first}{against}",
        "command": command,
        "targets": {name: {**support.facts["targets"][name], "unit": unit} for name, unit in units.items()},
        "learners": list(analysis.learners),
        "lead": next(iter(screening.able)),
        "level": LEVEL,
        "block_size": analysis.block_size,
        "blocks": len(np.unique(study.blocks)),
        "drivers": {driver: [support.variables[k] for k in columns] for driver, columns in study.drivers.items()},
        "zones": {zone: int(inside.sum()) for zone, inside in study.zones.items()},
        "support": {name: value for name, value in support.facts.items() if name != "targets"},
        "noise": {name: float(factor) for name, factor in zip(others, study.factors[1:], strict=True)},
        "settings": analysis.as_plain(),
    }


def _without_skill(arrays: Mapping[str, np.ndarray], least: float, level: float) -> dict[str, np.ndarray]:
    """Return the refits' results, NaN in zones where a target's mean R2 is below the minimum, or may be 0.

    There importances are close to 0, and shares of them are meaningless.
    """
    skill = [[interval(each, level) for each in target.T] for target in np.moveaxis(arrays["zone_r2"], 1, 0)]
    poor = np.array([[not (found.value >= least and found.low > 0) for found in zones] for zones in skill], bool)
    poor = poor.reshape(arrays["zone_r2"].shape[1:])
    masks = dict.fromkeys(("zones", "quarter_zones"), poor[None, :, :, None]) | {"zone_curves": poor[None, :, :, None, None]}
    return {**arrays, **{name: np.where(mask, np.nan, arrays[name]) for name, mask in masks.items()}}


Rows = Iterator[dict[str, Any]]
Found = Mapping[str, Mapping[str, np.ndarray]]
"""Learner -> results of its refits."""


def _importance_rows(names: Sequence[str], support: Support, screening: Screening, found: Found, level: float) -> Rows:
    drivers, v = list(screening.study.drivers), len(support.variables)
    for learner, arrays in found.items():
        for t in screening.able[learner]:
            parts = [
                (EVERYWHERE, method, kind, of, arrays[method][:, t, part])
                for method in METHODS
                for kind, of, part in (("variable", support.variables, np.s_[:v]), ("driver", drivers, np.s_[v:]))
            ]
            zones = enumerate(screening.study.zones)
            parts += [(zone, MAIN_METHOD, "driver", drivers, arrays["zones"][:, t, k]) for k, zone in zones]
            for zone, method, kind, of, values in parts:
                known = values[np.isfinite(values).all(1)]
                for name, share, raw in zip(of, shares(known).T, known.T, strict=True):
                    if not len(known):
                        continue
                    size, part = interval(raw, level), interval(share, level)
                    row: dict[str, Any] = {"target": names[t], "learner": learner, "zone": zone, "method": method}
                    row |= {"kind": kind, "name": name, "importance": size.value, "low": size.low, "high": size.high}
                    yield row | {"share": part.value, "share_low": part.low, "share_high": part.high, "refits": len(known)}


def _agreement(importance: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau of variables' importances by every two learners and methods, for each target."""
    rows = []
    some = importance[(importance["kind"] == "variable") & (importance["zone"] == EVERYWHERE)]
    for target, here in some.groupby("target", sort=False):
        both = here["learner"] + ": " + here["method"]
        wide = here.assign(both=both).pivot(index="name", columns="both", values="share")
        order = [each for each in dict.fromkeys(both) if wide[each].notna().all()]
        for k, a in enumerate(order):
            rows += [
                {"target": target, "a": a, "b": b, "tau": float(kendalltau(wide[a], wide[b]).statistic)} for b in order[k + 1 :]
            ]
    return pd.DataFrame(rows, columns=["target", "a", "b", "tau"])


def _response_rows(
    names: Sequence[str], grids: Sequence[tuple[str, np.ndarray, np.ndarray]], screening: Screening, found: Found, level: float
) -> Rows:
    for learner, arrays in found.items():
        parts = [(EVERYWHERE, "accumulated", 0, arrays["curves"]), (EVERYWHERE, "partial", 0, arrays["dependences"])]
        zones = enumerate(screening.study.zones)
        parts += [(zone, "accumulated", k + 1, arrays["zone_curves"][:, :, k]) for k, zone in zones]
        for t in screening.able[learner]:
            for zone, method, place, curves in parts:
                for k, (variable, grid, weights) in enumerate(grids):
                    base = {"target": names[t], "learner": learner, "zone": zone, "method": method, "variable": variable}
                    for j in np.flatnonzero(weights[place] * np.isfinite(curves[:, t, k, : len(grid)]).all(0)):
                        values = vars(interval(curves[:, t, k, j], level))
                        yield {**base, "at": grid[j], "density": weights[place, j], **values}


def _joint_rows(names: Sequence[str], support: Support, screening: Screening, found: Found, level: float) -> Rows:
    if screening.study.pair is None:
        return
    columns, (firsts, seconds) = screening.study.pair
    first, second = (support.variables[k] for k in columns)
    for learner, arrays in found.items():
        for t in screening.able[learner]:
            for method, array in (("accumulated", "joint"), ("partial", "joint_dependences")):
                for i, j in np.ndindex(len(firsts), len(seconds)):
                    row: dict[str, Any] = {"target": names[t], "learner": learner, "method": method}
                    row |= {"first": first, "second": second, "at_first": firsts[i], "at_second": seconds[j]}
                    yield row | vars(interval(arrays[array][:, t, i, j], level))


def _ensemble(every: Sequence[Contrast], models: Sequence[str]) -> pd.DataFrame:
    """Return per driver the models' mean importance and range, the observed one, and how many differ significantly."""
    rows = []
    some = [each for each in every if each.kind == "importance" and each.zone == EVERYWHERE and each.model in models]
    for driver in dict.fromkeys(each.name for each in some):
        here = [each for each in some if each.name == driver]
        values = np.array([each.modelled.value for each in here])
        signs = [np.sign(each.difference.value) for each in here if each.significant]
        row = {"driver": driver, "observed": here[0].observed.value, "models": len(here), "mean": values.mean()}
        row |= {"low": values.min(), "high": values.max(), "above": signs.count(1.0), "below": signs.count(-1.0)}
        rows.append(row)
    table = pd.DataFrame(rows, columns=["driver", "observed", "models", "mean", "low", "high", "above", "below"])
    ranks = {f"{name}_rank": table[name].rank(ascending=False, method="first").astype(int) for name in ("observed", "mean")}
    return table.assign(**ranks).sort_values("observed", ascending=False, ignore_index=True)
