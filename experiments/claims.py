"""Simulated projects: how often the change that `soilcarbon claim` credits is above the true one, and its tests' false alarms.

    python experiments/claims.py [--projects 400] [--kinds plots maps] [--out results/claims.jsonl]
    python experiments/claims.py --show results/claims.jsonl

Every project is another area whose change is known in every place. Its plots or points are drawn and measured with error at two
visits, and go as files through `soilcarbon change` and `soilcarbon claim`. FILE keeps finished projects, one JSON line each; the
same command continues. --show prints the tables of docs/claim.md.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from soilcarbon.commands import change, claim
from soilcarbon.geo.crs import transformed
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.points import TableRule
from soilcarbon.mapping.claim_validation import validate_stock
from soilcarbon.mapping.probability_sample import SampleRule
from soilcarbon.stats.areal_mean import areal_mean
from soilcarbon.stats.credit import Uncertain, credit
from soilcarbon.stats.error_field import ErrorField, kilometres_apart

CONFIDENCES = (0.667, 0.8, 0.9, 0.95)
PLACES, GAIN, NOISE, LABORATORY = 5000, 4.0, 0.05, 1.5
"""Places of an area of plots; mean change, t/ha; error of a measurement, a share; sd of an error all of a visit share, t/ha."""
SIDE, CELL, WEST, NORTH, CRS = 60, 500.0, 500_000.0, 5_500_000.0, "EPSG:32632"
YEARS = (2010, 2020)
PROFILES, POINTS = 100, 60
PLOT_KINDS = {
    "30 pairs": (30, {}), "80 pairs": (80, {}), "40 pairs in 4 strata": (40, {"strata": True}),
    "two samples of 60": (60, {"paired": False}), "80 pairs, laboratory error, not stated": (80, {"laboratory": True}),
    "80 pairs, laboratory error, stated": (80, {"laboratory": True, "stated": True}),
}  # fmt: skip
KINDS = {"plots": list(PLOT_KINDS), "maps": ["maps"]}


def command(main, *arguments):
    """Run a command in this process, quietly."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main([str(each) for each in arguments])


def claimed(*arguments):
    """Return the facts of a claim."""
    command(claim.main, *arguments, "--out", "claim")
    return json.loads(Path("claim/claim.json").read_text(encoding="utf-8"))


def credits_of(row):
    """Return what is credited of an estimate by each confidence, and by the discount rule."""
    estimate = Uncertain(row["value"], row["standard_error"], np.inf if row["df"] is None else row["df"])
    found = {f"at_{confidence:g}": credit(estimate, confidence=confidence).credited for confidence in CONFIDENCES}
    return found | {"discount": credit(estimate, "discount").credited, **{name: row[name] for name in ("value", "low", "high")}}


# --- plots ------------------------------------------------------------------------------------------------------------


def project_of_plots(kind, seed):
    """Return the claim of an area of plots, and its true change."""
    random = np.random.default_rng([seed, list(PLOT_KINDS).index(kind)])
    n, how = PLOT_KINDS[kind]
    zone = random.integers(4, size=PLACES) ** 2 // 3  # 0, 0, 1, 3: of unequal size
    first = 60 * np.exp(0.3 * random.normal(size=PLACES) + 0.2 * zone - 0.2)
    gain = GAIN + 1.5 * (zone - zone.mean()) + 6 * (random.gamma(2.0, size=PLACES) - 2) / 2**0.5  # skewed: most change little
    truth, population = float(gain.mean()), pd.DataFrame({"zone": [f"z{each}" for each in zone]})
    if how.get("strata"):
        counts = population["zone"].value_counts()
        each = np.maximum(np.round(n * counts / PLACES).astype(int), 2)
        drawn = np.concatenate(
            [random.choice(np.flatnonzero(population["zone"] == name), k, replace=False) for name, k in each.items()]
        )
        more = ["--stratum", "zone", "--sizes", *(f"{name}={count}" for name, count in counts.items())]
    else:
        drawn, more = random.choice(PLACES, n, replace=False), []
    again = drawn if how.get("paired", True) else random.choice(PLACES, n, replace=False)
    shared = random.normal(0, LABORATORY) if how.get("laboratory") else 0.0
    rows = []
    for when, places, values, error in ((YEARS[0], drawn, first, 0.0), (YEARS[1], again, first + gain, shared)):
        measured = values[places] * (1 + NOISE * random.normal(size=len(places))) + error
        table = {
            "profile_id": [f"p{each}" for each in places],
            "year": when,
            "stock_t_ha": measured,
            "zone": population["zone"][places],
        }
        rows.append(pd.DataFrame(table))
    pd.concat(rows).to_csv("stocks.csv", index=False)
    design = [] if how.get("paired", True) else ["--design", "unpaired"]
    command(change.main, "--table", "stocks.csv", "--value", "stock_t_ha", *more, *design, "--out", "change")
    stated = ["--shared_sd", LABORATORY] if how.get("stated") else []
    found = claimed("--change", "change", "--area_ha", 100, *stated)
    assert abs(found["deduction"]["credited"] - credits_of(found["change"])["at_0.9"]) < 1e-9
    return {"truth": truth, **credits_of(found["change"])}


# --- maps -------------------------------------------------------------------------------------------------------------


def field(random, cells):
    """Return a Gaussian field (SIDE, SIDE) whose correlation reaches so many cells, mean 0 and variance 1 in expectation."""
    pad = int(3 * cells)
    smooth = gaussian_filter(random.normal(size=(SIDE + 2 * pad, SIDE + 2 * pad)), cells)
    return (smooth * 2 * np.pi**0.5 * cells)[pad:-pad, pad:-pad]


def lonlat(row, col):
    """Return the degrees of cells' middles."""
    return transformed(CRS, "EPSG:4326", WEST + (col + 0.5) * CELL, NORTH - (row + 0.5) * CELL)


def clustered(random, n):
    """Return rows and columns of n places in clusters of about ten."""
    middle = random.uniform(0, SIDE, (2, n // 10))
    chosen = middle[:, random.integers(n // 10, size=n)] + random.normal(0, 2.0, (2, n))
    return np.clip(chosen, 0, SIDE - 1).astype(int)


def write_points(name, random, places, first, second):
    """Write a table of points that were measured at both visits, kg/m2."""
    row, col = places
    lon, lat = lonlat(row, col)
    before, after = (each[row, col] * (1 + 0.1 * random.normal(size=len(row))) for each in (first, second))
    table = {"profile_id": [f"v{k}" for k in range(len(row))], "lon": lon, "lat": lat, "socd": after, "dsocd": after - before}
    pd.DataFrame(table).to_csv(name, index=False)


def write_map(mapped, change_of_mean, half):
    """Write maps of kg/m2 with their totals and facts, as `soilcarbon map` does."""
    place = Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    bands = np.stack([mapped[1], np.maximum(mapped[1] + half[0], 0), mapped[1] + half[1]])
    write_geotiff(Path("soc_2020.tif"), bands, ["prediction", "lower", "upper"], place, CRS, ["kg/m2"] * 3)
    write_geotiff(Path("soc_change.tif"), (mapped[1] - mapped[0])[None], ["change"], place, CRS, ["kg/m2"])
    area = SIDE**2 * CELL**2 / 1e6
    head = {"zone": "whole map", "cells": SIDE**2, "area_km2": area, "mean_unit": "kg/m2"}
    rows = [{"map": str(year), "map_mean": each.mean(), "mean": each.mean()} for year, each in zip(YEARS, mapped, strict=True)]
    of_change = {"mean": change_of_mean.mean, "mean_lower": change_of_mean.lower, "mean_upper": change_of_mean.upper}
    rows.append({"map": "change", "map_mean": (mapped[1] - mapped[0]).mean(), **of_change})
    pd.DataFrame([head | row for row in rows]).to_csv("soc_totals.csv", index=False)
    Path("soc.yaml").write_text(yaml.safe_dump({"model": {}, "settings": {"level": 0.9}}), encoding="utf-8")


def project_of_maps(_, seed):
    """Return claims of a mapped area: by the map and a sample, and by the map alone; and tests of a map without bias, and with."""
    random = np.random.default_rng([seed, 99])
    seen, seen_fine, hidden, own = field(random, 12), field(random, 4), field(random, 6), field(random, 6)
    first = 6 * np.exp(0.25 * seen + 0.15 * seen_fine + 0.2 * hidden - 0.06)
    second = first + 0.4 + 0.15 * seen + 0.25 * own
    places = [clustered(random, PROFILES) for _ in YEARS]
    row, col = np.concatenate(places, axis=1)
    period = np.repeat([0, 1], PROFILES)
    y = np.where(period == 0, first[row, col], second[row, col]) * (1 + 0.1 * random.normal(size=len(row)))
    covariates = np.stack([seen, seen_fine], -1)

    def inputs(x, when):
        return np.column_stack([x, when, x * when[:, None]])

    x = inputs(covariates[row, col], period)
    model = Ridge(1.0)
    held_out = np.maximum(cross_val_predict(model, x, y, cv=KFold(10)), 0.1)
    folds = np.concatenate([np.full(len(part), k) for k, (_, part) in enumerate(KFold(10).split(x))])
    model.fit(x, y)
    flat = covariates.reshape(-1, 2)
    mapped = [np.maximum(model.predict(inputs(flat, np.full(len(flat), when))), 0.1).reshape(SIDE, SIDE) for when in (0, 1)]
    years = np.array(YEARS)[period]
    places = np.column_stack(lonlat(row, col))
    known = y, held_out, np.zeros(len(y), int), 1, places, years
    errors = ErrorField.fit(*known, apart=kilometres_apart(places, folds), fitted=np.maximum(model.predict(x), 0.1))
    rows, cols = np.indices((SIDE, SIDE))
    lon, lat = lonlat(rows.ravel(), cols.ravel())
    growth = errors.growth(lon, lat) / SIDE**2
    spreads = [errors.spread(each.ravel(), np.ones((1, SIDE**2))) * growth for each in mapped]
    weights = {year: csr_array((sign * each)[None]) for year, sign, each in zip(YEARS, (-1, 1), spreads, strict=True)}
    raw = float((mapped[1] - mapped[0]).mean())
    modelled = areal_mean(raw, raw + errors.sums(lon, lat, weights)[0], level=0.9, signed=True)
    write_points("points.csv", random, random.integers(0, SIDE, (2, POINTS)), first, second)
    write_points("near.csv", random, clustered(random, POINTS), first, second)
    right = [mapped[0], mapped[1] * second.mean() / mapped[1].mean()]  # no bias: a warning is a false alarm
    measured = second * (1 + 0.1 * random.normal(size=second.shape))
    write_map(mapped, modelled, np.quantile(measured - mapped[1], [0.05, 0.95]))
    by = ("--map", "soc.tif", "--value", "socd")
    found = claimed(*by, "--points", "points.csv", "--change_value", "dsocd", "--sampling", "random")
    result = {"truth": 10 * float((second - first).mean()), "by_sample": credits_of(found["change"])}
    result["alone"] = credits_of(
        next(each for each in found["estimates"] if each["method"] == "map alone" and each["quantity"] == "change")
    )
    half = np.quantile(measured - right[1], [0.05, 0.95])
    how = {"random": ("points.csv", SampleRule("random")), "clustered": ("near.csv", SampleRule("none"))}
    for name, sample, maps in (
        ("unbiased", "random", right),
        ("unbiased", "clustered", right),
        ("biased", "random", [right[0], right[1] * 1.05]),
    ):
        write_map(maps, modelled, half)
        points, drawn = how[sample]
        scores = validate_stock(Path("soc_2020.tif"), Path(points), "socd", "kg/m2", TableRule(), drawn).facts(0.9, 0.9)
        result[f"{name}_{sample}"] = scores["bias_p"] < 0.05
        result[f"narrow_{name}_{sample}"] = scores["inside_high"] < scores["nominal"]
    return result


# --- all --------------------------------------------------------------------------------------------------------------


def show(path):
    """Print the tables of finished projects."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cases = [(row["kind"], row["truth"], row) for row in rows if row["kind"] != "maps"]
    for row in rows:
        if row["kind"] == "maps":
            cases += [
                (f"{title}", row["truth"], row[name])
                for name, title in (("by_sample", "map and 60 points"), ("alone", "map alone"))
            ]
    table = []
    for kind in dict.fromkeys(case[0] for case in cases):
        own = [(truth, row) for name, truth, row in cases if name == kind]
        above = {
            name: 100 * np.mean([row[name] > truth for truth, row in own])
            for name in (*(f"at_{c:g}" for c in CONFIDENCES), "discount")
        }
        held = 100 * np.mean([row["low"] <= truth <= row["high"] for truth, row in own])
        share = 100 * np.mean([row["at_0.9"] for _, row in own]) / np.mean([truth for truth, _ in own])
        table.append({"kind": kind, "projects": len(own), **above, "interval_90_holds": held, "credited_percent_at_0.9": share})
    print(pd.DataFrame(table).round(1).to_csv(index=False))
    maps = [row for row in rows if row["kind"] == "maps"]
    if maps:
        names = [name for name in maps[-1] if name.endswith(("_random", "_clustered"))]
        print(
            pd.Series({name: 100 * np.mean([row[name] for row in maps]) for name in names})
            .round(1)
            .to_csv(header=[f"% of {len(maps)}"])
        )


def main():
    """Run all projects that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("results/claims.jsonl"))
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show:
        return show(given.show)
    out = given.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.is_file() else []
    done = {(row["kind"], row["seed"]) for row in lines}
    logging.disable(logging.WARNING)
    wanted = [kind for group in given.kinds for kind in KINDS[group]]
    with tempfile.TemporaryDirectory() as folder, out.open("a", encoding="utf-8") as file:
        os.chdir(folder)
        for seed in range(given.first, given.first + given.projects):
            for kind in wanted:
                if (kind, seed) not in done:
                    run = project_of_maps if kind == "maps" else project_of_plots
                    file.write(json.dumps({"kind": kind, "seed": seed, **run(kind, seed)}, default=bool) + "\n")
                    file.flush()
    return show(out)


if __name__ == "__main__":
    main()
