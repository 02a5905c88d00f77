"""Put what refits found into tables: importance, agreement, responses, shapes, mismatches, the ensemble, and a record for machines.

In: a `Support`, what was `Screened`, and what each learner's refits left (`halves.stacked`). Out: one `Drivers`, tables in memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from soilcarbon.commands.drivers import DriverSettings
from soilcarbon.drivers.importance import FOREMOST, METHODS, shares
from soilcarbon.drivers.mismatch import EVERYWHERE, Contrast, Interval, contrasts, interval
from soilcarbon.drivers.responses import Found, agreed_shape, density
from soilcarbon.drivers.studies import Screened
from soilcarbon.drivers.support import Support


@dataclass(frozen=True)
class Drivers:
    """Hold all that the report tells.

    Attributes
    ----------
    facts
        title, how (the command), targets: {name: {kind, unit, ...}} with the reference first, learners in the order asked for,
        lead, level, bootstraps, block_size, drivers: {name: variables}, support: what was counted, noise: {model: factor},
        settings.
    skill
        As of `Screened`.
    importance
        target, learner, zone, method, kind (variable, driver), of, importance, low, high (as the method counts it, of learners
        of halves; both ways to permute: growth of the squared error of ln carbon), share, share_low, share_high (% of the sum
        over its kind), refits.
    agreement
        target, a, b ("learner: method"), tau (Kendall's, of variables).
    responses
        target, learner, zone, way (accumulated, partial), variable, at, density, value, low, high (ln carbon).
    joint
        target, learner, way, first, second, at_first, at_second, value, low, high.
    shapes
        (target, variable) -> shape by the lead.
    contrasts
        Learner -> its contrasts, the strongest first; their importances are those that endless profiles would have taught.
    ensemble
        driver, observed, models, mean, low, high (importance over models), above, below (models named so), observed_rank,
        mean_rank.
    places
        lon, lat, and per model the answer predicted for it less the one predicted for the reference, out of fold.
    """

    facts: dict[str, Any]
    skill: pd.DataFrame
    importance: pd.DataFrame
    agreement: pd.DataFrame
    responses: pd.DataFrame
    joint: pd.DataFrame
    shapes: dict[tuple[str, str], Found]
    contrasts: dict[str, list[Contrast]]
    ensemble: pd.DataFrame
    places: pd.DataFrame

    @property
    def reference(self) -> str:
        """The target that others are held against."""
        return next(iter(self.facts["targets"]))

    @property
    def models(self) -> list[str]:
        """The other targets that have skill with the lead."""
        return list(dict.fromkeys(each.model for each in self.contrasts.get(self.facts["lead"], [])))

    @property
    def lead(self) -> list[Contrast]:
        """What the report rests on, the strongest first."""
        return self.contrasts.get(self.facts["lead"], [])

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by the name of their file."""
        flat = [{"learner": learner, **as_plain(each)} for learner, every in self.contrasts.items() for each in every]
        bends = [{"target": t, "variable": v, **vars(found)} for (t, v), found in self.shapes.items()]
        found = {
            name: getattr(self, name) for name in ("skill", "importance", "agreement", "responses", "joint", "ensemble", "places")
        }
        return found | {"shapes": pd.DataFrame(bends), "mismatch": pd.json_normalize(flat, sep="_")}


def as_plain(contrast: Contrast) -> dict[str, Any]:
    """Return a contrast as plain containers; None where there is no number."""

    def plain(value: Any) -> Any:
        if isinstance(value, Interval):
            return {name: plain(each) for name, each in vars(value).items()} if math.isfinite(value.value) else None
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in vars(contrast).items()} | {"named": contrast.named}


def gather(
    support: Support, settings: DriverSettings, screened: Screened, found: Mapping[str, Mapping[str, np.ndarray]], how: str
) -> Drivers:
    """Return all tables.

    Parameters
    ----------
    support, settings, screened
        What was compared, how, and who has skill.
    found
        Learner -> what its refits left, the lead first.
    how
        The command.
    """
    study, level = screened.study, settings.level
    targets = [support.targets[k] for k in screened.order]
    names = [target.name for target in targets]
    lead = next(iter(screened.able))
    insides = study.zones.values()
    grids = [
        (support.variables[column], grid, np.stack([weights, *(density(support.x[inside, column], grid) for inside in insides)]))
        for column, grid, weights in study.curves
    ]
    zones = list(study.zones)
    told = {learner: _without_skill(arrays, settings.min_skill, level) for learner, arrays in found.items()}
    every = {
        learner: contrasts(
            told[learner],
            [(t, names[t]) for t in screened.able[learner] if t],
            list(study.drivers),
            zones,
            [(name, weights) for name, _, weights in grids],
            level,
        )
        for learner in found
    }
    shapes = {
        (names[t], name): agreed_shape(found[lead]["curves"][:, t, k, : len(grid)], grid, weights[0], level)
        for t in screened.able[lead]
        for k, (name, grid, weights) in enumerate(grids)
    }
    importance = _importance(names, support, screened, told, level)
    places = {"lon": support.lon, "lat": support.lat}
    places |= {names[t]: screened.predicted[t] - screened.predicted[0] for t in screened.able[lead] if t}
    kinds = {target.name: {"kind": target.kind, "unit": support.units[screened.order[t]]} for t, target in enumerate(targets)}
    counted = support.facts["targets"]
    facts = {
        "title": f"What controls soil carbon: {names[0]}{_against(names[1:])}",
        "how": how,
        "targets": {name: {**kinds[name], **counted[name]} for name in names},
        "learners": list(settings.learners),
        "lead": lead,
        "level": level,
        "bootstraps": {learner: len(arrays["r2"]) for learner, arrays in found.items()},
        "block_size": settings.block_size,
        "blocks": len(np.unique(study.units)),
        "drivers": {driver: [support.variables[k] for k in columns] for driver, columns in study.drivers.items()},
        "zones": {zone: int(inside.sum()) for zone, inside in study.zones.items()},
        "support": {name: value for name, value in support.facts.items() if name != "targets"},
        "noise": {names[t]: float(study.factors[t]) for t in range(1, len(names))},
        "settings": settings.as_plain(),
    }
    return Drivers(
        facts,
        screened.skill,
        importance,
        _agreement(importance),
        _responses(names, grids, screened, told, level),
        _joint(names, support, screened, found, level),
        shapes,
        every,
        _ensemble(every[lead], [target.name for target in targets if target.kind == "model"]),
        pd.DataFrame(places),
    )


def _against(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" against {names[0]}" if len(names) == 1 else f" against {len(names)} others"


def _without_skill(arrays: Mapping[str, np.ndarray], least: float, level: float) -> dict[str, np.ndarray]:
    """Return what refits found, NaN in zones where a target's mean R2 is below the least, or may be 0.

    There, permuting drivers costs next to nothing, and shares of next to nothing say nothing.
    """
    skill = arrays["zone_r2"]
    poor = np.ones(skill.shape[1:], bool)
    for target, zone in np.ndindex(poor.shape):
        found = interval(skill[:, target, zone], level)
        poor[target, zone] = not (found.value >= least and found.low > 0)
    masked = dict.fromkeys(("zones", "quarter_zones"), poor[None, :, :, None]) | {"zone_curves": poor[None, :, :, None, None]}
    return {**arrays, **{name: np.where(mask, np.nan, arrays[name]) for name, mask in masked.items()}}


def _importance(
    names: Sequence[str], support: Support, screened: Screened, found: Mapping[str, Mapping[str, np.ndarray]], level: float
) -> pd.DataFrame:
    drivers, v = list(screened.study.drivers), len(support.variables)
    rows: list[dict[str, Any]] = []

    def add(values: np.ndarray, of: Sequence[str], **facts: Any) -> None:
        known = values[np.isfinite(values).all(1)]
        if len(known):
            for name, share, raw in zip(of, shares(known).T, known.T, strict=True):
                size, part = interval(raw, level), interval(share, level)
                row = {**facts, "of": name, "importance": size.value, "low": size.low, "high": size.high}
                row |= {"share": part.value, "share_low": part.low, "share_high": part.high}
                rows.append(row | {"refits": len(known)})

    for learner, arrays in found.items():
        for t in screened.able[learner]:
            base = {"target": names[t], "learner": learner}
            for method in METHODS:
                for kind, of, part in (("variable", support.variables, np.s_[:v]), ("driver", drivers, np.s_[v:])):
                    add(arrays[method][:, t, part], of, **base, zone=EVERYWHERE, method=method, kind=kind)
            for k, zone in enumerate(screened.study.zones):
                add(arrays["zones"][:, t, k], drivers, **base, zone=zone, method=FOREMOST, kind="driver")
    return pd.DataFrame(rows)


def _agreement(importance: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau of variables' importances by every two ways to tell it, for each target."""
    rows = []
    some = importance[(importance["kind"] == "variable") & (importance["zone"] == EVERYWHERE)]
    for target, here in some.groupby("target", sort=False):
        wide = here.assign(way=here["learner"] + ": " + here["method"]).pivot(index="of", columns="way", values="share")
        ways = [way for way in dict.fromkeys(here["learner"] + ": " + here["method"]) if wide[way].notna().all()]
        for k, a in enumerate(ways):
            for b in ways[k + 1 :]:
                rows.append({"target": target, "a": a, "b": b, "tau": float(kendalltau(wide[a], wide[b]).statistic)})
    return pd.DataFrame(rows, columns=["target", "a", "b", "tau"])


_WAYS = (("accumulated", "curves", "joint"), ("partial", "dependences", "joint_dependences"))


def _responses(
    names: Sequence[str],
    grids: Sequence[tuple[str, np.ndarray, np.ndarray]],
    screened: Screened,
    found: Mapping[str, Mapping[str, np.ndarray]],
    level: float,
) -> pd.DataFrame:
    rows = []
    for learner, arrays in found.items():
        some = [(EVERYWHERE, way, 0, arrays[array]) for way, array, _ in _WAYS]
        some += [(zone, "accumulated", k + 1, arrays["zone_curves"][:, :, k]) for k, zone in enumerate(screened.study.zones)]
        for t in screened.able[learner]:
            for zone, way, place, curves in some:
                for k, (variable, grid, weights) in enumerate(grids):
                    base = {"target": names[t], "learner": learner, "zone": zone, "way": way, "variable": variable}
                    for j in np.flatnonzero(weights[place] * np.isfinite(curves[:, t, k, : len(grid)]).all(0)):
                        told = interval(curves[:, t, k, j], level)
                        row = {**base, "at": grid[j], "density": weights[place, j]}
                        rows.append(row | {"value": told.value, "low": told.low, "high": told.high})
    return pd.DataFrame(rows)


def _joint(
    names: Sequence[str], support: Support, screened: Screened, found: Mapping[str, Mapping[str, np.ndarray]], level: float
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    if screened.study.pair is not None:
        (first, second), grids = screened.study.pair
        for learner, arrays in found.items():
            for t in screened.able[learner]:
                for way, _, array in _WAYS:
                    for i, at_first in enumerate(grids[0]):
                        for j, at_second in enumerate(grids[1]):
                            told = interval(arrays[array][:, t, i, j], level)
                            row = {"target": names[t], "learner": learner, "way": way}
                            row |= {"first": support.variables[first], "second": support.variables[second]}
                            row |= {"at_first": at_first, "at_second": at_second}
                            rows.append(row | {"value": told.value, "low": told.low, "high": told.high})
    return pd.DataFrame(rows)


def _ensemble(every: Sequence[Contrast], models: Sequence[str]) -> pd.DataFrame:
    """Return per driver the models' mean importance and range, the observed one, and how many are named above and below it."""
    rows = []
    some = [each for each in every if each.kind == "importance" and each.zone == EVERYWHERE and each.model in models]
    for driver in dict.fromkeys(each.of for each in some):
        here = [each for each in some if each.of == driver]
        values = np.array([each.modelled.value for each in here])
        signs = [np.sign(each.difference.value) for each in here if each.named]
        row = {"driver": driver, "observed": here[0].observed.value, "models": len(here), "mean": values.mean()}
        row |= {"low": values.min(), "high": values.max(), "above": signs.count(1.0), "below": signs.count(-1.0)}
        rows.append(row)
    table = pd.DataFrame(rows, columns=["driver", "observed", "models", "mean", "low", "high", "above", "below"])
    ranks = {f"{name}_rank": table[name].rank(ascending=False, method="first").astype(int) for name in ("observed", "mean")}
    return table.assign(**ranks).sort_values("observed", ascending=False, ignore_index=True)
