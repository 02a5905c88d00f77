"""Coverage of the intervals of means: how often the interval of a map's mean holds the truth, on simulated regions.

    python experiments/areal_means.py [--first 2000] [--seeds 20] [--models forest network] [--change both] [--out FILE]
    python experiments/areal_means.py --show FILE

Each seed is another planet with the soils of the example world, four regions of which are surveyed by 100 and 300 profiles,
evenly and in clusters, with noise (30 %, right on average). A forest of `soilcarbon fit`, its mean of ridge regression and
regression kriging, or a network fine-tuned from that of the example world (`model/pretrain_model/GSoilCPM.pth`, of `python
train_global.py`), plain or taught, maps the region; its mean over all of it and over its four quarters is compared with the
truth, by the error model that `soilcarbon map` uses. With --change the mean change to a second period that is 2 degrees warmer
is compared: half of the profiles are of each (both), or all of the first. FILE keeps finished cases, one JSON line each, also
of several processes side by side. --show prints the table of docs/totals.md.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from scipy.stats import norm, t

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import SoilCarbonNet, as_means, predict
from soilcarbon.regression.fit import fit_model
from soilcarbon.regression.learners import Task
from soilcarbon.simulation.example import LARGEST, NOISE
from soilcarbon.simulation.sampling import GriddedWorld, centres, draw_profiles, grid_over, rasterize_world
from soilcarbon.simulation.world import REGIONS, World
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.areal_mean import areal_mean
from soilcarbon.stats.error_field import NOT_PERSISTENT, ErrorField, kilometres_apart
from soilcarbon.stats.groups import group_folds, spatial_groups

CELL = 0.1
WARMING = 2.0
YEARS = (2000, 2020)
LEVEL = 0.9
LEAST_CELLS = 30
SIMPLE = ("forest", "ridge-kriging")
"""Learners of `soilcarbon fit` that need no pretrained network."""
VARIABLES = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
PRETRAINED = Path("model/pretrain_model/GSoilCPM.pth")


@dataclass(frozen=True)
class Region:
    """A surveyed region: profiles, and the cells of its map, whose truth is known, in one period or two.

    Attributes
    ----------
    lon, lat, y, period
        (n,) of profiles.
    x
        (n, F) their covariates.
    cell_lon, cell_lat, area
        (m,) of cells.
    cells, truth
        (P, m, F) covariates and (P, m) SOC of cells.
    """

    lon: np.ndarray
    lat: np.ndarray
    y: np.ndarray
    period: np.ndarray
    x: np.ndarray
    cell_lon: np.ndarray
    cell_lat: np.ndarray
    area: np.ndarray
    cells: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Mapped:
    """Means that a model predicts of cells (P, m), and of profiles (n,), held out and not; their folds (n,).

    `averaging` as of `ErrorField.fit`.
    """

    cells: np.ndarray
    held_out: np.ndarray
    folds: np.ndarray
    fitted: np.ndarray
    averaging: np.ndarray | None = None


def survey(seed: int, name: str, n: int, how: str, change: str) -> Region:
    """Survey a region of a planet: `how` is even or clustered, `change` is no, both or first."""
    periods = 1 if change == "no" else 2
    region = REGIONS[name]
    grid = grid_over(region.bounds, round(CELL * region.coarser, 9))
    worlds = [rasterize_world(World(seed, WARMING * k), grid) for k in range(periods)]
    random = np.random.default_rng([seed, 7, list(REGIONS).index(name), n, how == "even"])
    lon, lat = np.meshgrid(*centres(grid))
    soil = np.logical_and.reduce([np.isfinite(world.truth) for world in worlds])
    area = np.cos(np.radians(lat))
    if how == "even":
        chance = (soil * area).ravel()
        drawn = random.choice(chance.size, n, p=chance / chance.sum(), replace=n > soil.sum())
        at = [axis.ravel()[drawn] + random.uniform(-0.45, 0.45, n) * grid.cell[0] for axis in (lon, lat)]
    else:
        there = GriddedWorld(grid, {}, np.where(soil, worlds[0].truth, np.nan), worlds[0].undisturbed)
        at = list(draw_profiles(there, np.ones(soil.shape), n, 0.05 * grid.cell[0] * min(soil.shape), random)[:2])
    row, column = (each.astype(int) for each in grid.places(*at))
    noise = NOISE * random.normal(size=n) - NOISE**2 / 2
    period = random.integers(periods, size=n) if change == "both" else np.zeros(n, np.int64)
    cells = np.stack([np.stack([world.covariates[name] for name in VARIABLES], axis=-1) for world in worlds]).astype(np.float32)
    truth = np.stack([world.truth for world in worlds]).astype(np.float64)
    y = np.minimum(truth[period, row, column] * np.exp(noise), LARGEST)
    here = (lon[soil], lat[soil], area[soil], cells[:, soil], truth[:, soil])
    return Region(*at, y, np.array(YEARS)[period] if change == "both" else period, cells[period, row, column], *here)


def dataset(region: Region) -> Dataset:
    """Return the profiles as a dataset that is not split."""
    n = len(region.y)
    table = pd.DataFrame({"profile_id": [str(k) for k in range(n)], "lon": region.lon, "lat": region.lat})
    return Dataset(table, region.x, region.y, {"train": np.arange(n), "valid": np.arange(0)}, PUBLISHED_CATEGORIES)


def fit_learner(region: Region, key: str) -> Mapped:
    """Map with a learner of `soilcarbon fit`, cross-validated as there."""
    data = dataset(region)
    result = fit_model(data, np.arange(len(region.y)), Task(PUBLISHED_CATEGORIES, jobs=1), wanted=key)
    model = result.model
    place = np.column_stack([region.cell_lon, region.cell_lat])
    cells = [model.means(model.predict(np.column_stack([place, x]))) for x in region.cells]
    fitted = model.means(model.predict(np.column_stack([region.lon, region.lat, region.x])))
    return Mapped(np.stack(cells), model.means(result.held_out[key].to_numpy()), result.held_out["fold"].to_numpy(), fitted)


def fit_network(region: Region, seed: int, name: str, pretrained: SoilCarbonNet, taught: bool) -> Mapped:
    """Map with five networks fine-tuned by folds of blocks, plain or taught."""
    groups = spatial_groups(region.lon, region.lat, REGIONS[name].block_size)
    model = SoilCarbonRegressor(
        PUBLISHED_CATEGORIES, init_from=pretrained, teacher="ensemble" if taught else "none", members=5, random_state=seed
    )
    network = model.fit(region.x, region.y, groups).network_
    facts = network.specification
    cells = [as_means(predict(network, x)[1], facts).mean(0) for x in region.cells]
    members = as_means(predict(network, region.x)[1], facts)
    folds = group_folds(groups, 5, seed)
    gained = members.var(0, ddof=1) * (1 - 1 / len(members)) if network.record.settings["select_on"] == "none" else None
    return Mapped(np.stack(cells), members[folds, np.arange(len(region.y))], folds, members.mean(0), gained)


def evaluate(region: Region, mapped: Mapped) -> Iterator[dict[str, Any]]:
    """Yield for the whole and for quarters of a region: truth, the map's mean, and two intervals."""
    n, lon, lat = len(region.y), region.cell_lon, region.cell_lat
    places = np.column_stack([region.lon, region.lat])
    known = np.maximum(mapped.held_out, 0), np.zeros(n, int), 1, places, region.period
    apart = kilometres_apart(places, mapped.folds)
    errors = ErrorField.fit(region.y, *known, apart=apart, fitted=mapped.fitted, timeless=True, averaging=mapped.averaging)
    spread = [errors.spread(cells, np.ones((1, len(lon)))) * errors.growth(lon, lat) for cells in mapped.cells]
    changes = len(mapped.cells) > 1
    alone = (NOT_PERSISTENT if changes else 1.0) * sum(map(errors.cell_variance, mapped.cells))
    east, north = lon >= np.median(lon), lat >= np.median(lat)
    zones = {"whole": np.ones(len(lon), bool), "sw": ~east & ~north, "nw": ~east & north, "se": east & ~north, "ne": east & north}
    residual = region.y - mapped.held_out
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * residual.std(ddof=1) / n**0.5)
    for zone, mask in zones.items():
        if mask.sum() < LEAST_CELLS:
            continue
        share = region.area * mask / (region.area * mask).sum()
        signs = (-1.0, 1.0) if changes else (1.0,)
        periods = YEARS if changes else (None,)
        weights = {when: csr_array((sign * share * each)[None]) for sign, when, each in zip(signs, periods, spread, strict=True)}
        drawn = errors.sums(lon, lat, weights)[0]
        truth, raw = (sum(sign * share @ each for sign, each in zip(signs, of, strict=True)) for of in (region.truth, mapped.cells))
        least = 0.0 if changes else errors.standard_error * float(share @ np.mean(spread, axis=0))
        found = areal_mean(raw, raw + drawn, level=LEVEL, variance=float(alone @ share**2), least=least, signed=changes)
        naive = float(residual.mean()) + raw
        yield {
            "zone": zone,
            "truth": float(truth),
            "map": float(raw),
            **{name: getattr(found, name) for name in ("mean", "lower", "upper")},
            "level_of_map": float(share @ region.truth[0]),
            "naive": [naive - half, naive + half],
            **({"cells": cells_held(region, mapped, errors, spread, alone)} if changes and zone == "whole" else {}),
        }


def cells_held(region: Region, mapped: Mapped, errors: ErrorField, spread: list[np.ndarray], alone: np.ndarray) -> float:
    """Return the share of cells whose true change lies in their interval, as `mapping.areal.deviation_of_change` makes it."""
    before, after = spread
    first, last, shared = errors.covariances(region.cell_lon, region.cell_lat, *YEARS)
    variance = first * before**2 + last * after**2 - 2 * shared * before * after + alone
    error = np.subtract(*region.truth[::-1]) - np.subtract(*mapped.cells[::-1])
    return float((np.abs(error) <= norm.ppf((1 + LEVEL) / 2) * variance**0.5).mean())


def cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what identifies each case."""
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for region in REGIONS:
            for n in (100, 300):
                for how in ("even", "clustered"):
                    for model in arguments.models:
                        yield {"seed": seed, "region": region, "n": n, "how": how, "model": model, "change": arguments.change}


def run(case: dict[str, Any], pretrained: SoilCarbonNet | None) -> dict[str, Any]:
    """Return a case with what was found."""
    region = survey(case["seed"], case["region"], case["n"], case["how"], case["change"])
    if case["model"] in SIMPLE:
        mapped = fit_learner(region, case["model"])
    else:
        assert pretrained is not None
        mapped = fit_network(region, case["seed"], case["region"], pretrained, case["model"] == "taught")
    return case | {"zones": list(evaluate(region, mapped))}


def table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return coverage by class: model, change, sampling, number of profiles, whole map or quarters."""
    rows = []
    for line in lines:
        for zone in line["zones"]:
            held = zone["lower"] <= zone["truth"] <= zone["upper"]
            naive = zone["naive"][0] <= zone["truth"] <= zone["naive"][1]
            size = zone["level_of_map"]
            rows.append(
                {name: line[name] for name in ("model", "change", "how", "n", "seed", "region")}
                | {"of": "whole" if zone["zone"] == "whole" else "quarters", "held": held, "naive": naive}
                | {"cells": zone.get("cells")}
                | {"width": (zone["upper"] - zone["lower"]) / size, "naive width": np.diff(zone["naive"])[0] / size}
                | {"bias": (zone["mean"] - zone["truth"]) / size, "bias of the map": (zone["map"] - zone["truth"]) / size}
            )
    return pd.DataFrame(rows)


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table of coverage, in per cent: a row for each class, of whole regions and of quarters."""
    each = table(lines)
    each = pd.concat([each, each.assign(how="all", n=0)])
    of = ("whole", "quarters")
    names = [f"{part}: {name}" for part in of for name in ("held (s.e.)", "naive", "width (naive)", "bias (of the map)")]
    print(
        "| change | model | sampling | profiles | maps |", " | ".join(names), "| cells: held |\n" + "|---" * (6 + len(names)) + "|"
    )
    for (change, model, how, n), rows in each.groupby(["change", "model", "how", "n"], sort=True):
        parts = [rows[rows["of"] == name] for name in of]
        cells = f"{100 * rows['cells'].dropna().mean():.0f}" if rows["cells"].notna().any() else "-"
        print(f"| {change} | {model} | {how} | {n or 'all'} | {len(parts[0])} |", " | ".join(map(_columns, parts)), f"| {cells} |")


def _columns(part: pd.DataFrame) -> str:
    """Return the columns of whole regions or quarters. Standard errors are those of clusters: a planet's region has one truth."""
    if part.empty:
        return " | ".join("-" * 4)
    held, region = part["held"].mean(), part.groupby(["seed", "region"]).ngroup()
    sums = (part["held"] - held).groupby(region).sum()
    error = (len(sums) / max(len(sums) - 1, 1) * (sums**2).sum()) ** 0.5 / len(part)
    width, naive, bias, own = (100 * part[name].mean() for name in ("width", "naive width", "bias", "bias of the map"))
    shares = f"**{100 * held:.1f}** ({100 * error:.1f}) | {100 * part['naive'].mean():.0f}"
    return f"{shares} | {width:.0f} ({naive:.0f}) | {bias:+.1f} ({own:+.1f})"


def main() -> None:
    """Run the cases that are not in FILE, or show them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--models", nargs="+", choices=(*SIMPLE, "network", "taught"), default=["forest", "network"])
    parser.add_argument("--change", choices=("no", "both", "first"), default="no")
    parser.add_argument("--out", type=Path, default=Path("results/areal_means.jsonl"))
    parser.add_argument("--show", type=Path)
    arguments = parser.parse_args()
    if arguments.show:
        show([json.loads(line) for line in arguments.show.read_text(encoding="utf-8").splitlines()])
        return
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    pretrained = load_checkpoint(PRETRAINED) if not set(arguments.models) <= set(SIMPLE) else None
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in cases(arguments):
        done = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.is_file() else []
        if any(case.items() <= json.loads(line).items() for line in done):
            continue
        found = run(case, pretrained)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
