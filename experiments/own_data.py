"""Methods on the data of one region: what a user gets by default beside a forest, cross-validated on real profiles.

    python experiments/own_data.py [--sets NAME ...] [--folds blocks random] [--learners NAME ...] [--no_intervals] [--out FOLDER]
    python experiments/own_data.py --show [--out FOLDER]

Data sets are built from ../shared/realdata and ../shared/realdata2 (--realdata, --realdata2): regions with global rasters,
North Macedonia and others with their own, countries of WISE, and tables of laboratory measurements, which have no rasters at
all. Each is cross-validated by five folds of blocks, as `soilcarbon fit` draws them, and of places at random. `log-forest` is
scikit-learn's random forest with default settings on ln(1 + SOC); `default` is `SoilCarbonRegressor()` on the plain table,
`default-network` the same without its forest; `teacher` what `taught` is distilled from; `fit` is `soilcarbon fit` within the
training folds, choosing among learners that are no networks; the others are its learners. `best` is the choice of its rule among
all learners for each fold by their errors in the other folds. FOLDER keeps what is finished, a file per set, folds and learner,
also of several processes side by side.
--show prints the tables of docs/own-data.md.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import RandomForestRegressor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from soilcarbon.categories import Category
from soilcarbon.estimator import SoilCarbonRegressor
from soilcarbon.geo.raster import cut_windows, find_layers
from soilcarbon.io.files import atomic_write
from soilcarbon.regression.estimators import Samples
from soilcarbon.regression.fit import fit_model
from soilcarbon.regression.learners import LEARNERS, Task
from soilcarbon.regression.model import MEANS, from_scale
from soilcarbon.regression.parts import encoded_cells, transformed
from soilcarbon.regression.selection import draw_folds, hold_out, select
from soilcarbon.regression.uncertainty import calibrate
from soilcarbon.stats import metrics
from soilcarbon.stats.groups import group_folds, spatial_groups
from soilcarbon.training.distillation import Teacher
from soilcarbon.training.run import choose_transform

CODED = ("glim_class", "igbp_2019", "GLIM_0p5deg_class")
"""Variables that are class codes, though their files do not say so."""
LABORATORY = ["clay_pct", "silt_pct", "sand_pct", "ph_h2o", "cec", "bottom"]
COUNTRIES = ("AR", "AU", "BR", "CO", "MX", "RU", "TH", "US", "UY", "YE")
SEED = 17
FOLDS = 5
LEVEL = 0.9
SIMPLE = tuple(key for key, each in LEARNERS.items() if not each.network)
REFERENCE, ALONE = "log-forest", "default-network"
TRAINED = (REFERENCE, *(key for key in SIMPLE if key not in MEANS), "teacher", "default", "taught", "network", "fit")
"""What is trained, in this order; means of two and the choice need no more."""


@dataclass(frozen=True)
class Table:
    """Profiles of one region: covariates (n, F), target (n,) in g/kg, positions in degrees."""

    x: pd.DataFrame
    y: np.ndarray
    lon: np.ndarray
    lat: np.ndarray

    @property
    def categories(self) -> tuple[Category, ...]:
        """Numbers, and class codes."""
        coded = tuple(name for name in self.x if name in CODED)
        numbers = tuple(name for name in self.x if name not in CODED)
        return (
            Category(name="numbers", variables=numbers),
            *(Category(name=each, variables=(each,), kind="classes") for each in coded),
        )

    def some(self, n: int) -> "Table":
        """Return n profiles drawn at random, with the covariates that vary among them."""
        rows = np.random.default_rng([SEED, n]).permutation(len(self.y))[:n]
        return cleaned(self.x.iloc[rows], self.y[rows], self.lon[rows], self.lat[rows])


def cleaned(x: pd.DataFrame, y: np.ndarray, lon: np.ndarray, lat: np.ndarray) -> Table:
    """Return profiles with a target and half of the covariates, class codes behind the numbers; covariates that vary."""
    kept = np.isfinite(y) & (x.notna().mean(axis=1) > 0.5).to_numpy()
    x = x[kept].reset_index(drop=True)
    x = x.loc[:, x.nunique() > 1]
    x = x[sorted(x, key=lambda name: name in CODED)]
    return Table(x.astype(np.float32), y[kept].astype(np.float64), lon[kept], lat[kept])


def sampled(points: pd.DataFrame, rasters: list[Path]) -> Table:
    """Return profiles with the rasters' cells that they lie in."""
    lon, lat = points["lon"].to_numpy(float), points["lat"].to_numpy(float)
    cells, _ = cut_windows(find_layers(rasters), lon, lat, 0)
    return cleaned(pd.DataFrame({name: each[:, 0, 0] for name, each in cells.items()}), points["soc_gkg"].to_numpy(float), lon, lat)


def at_points(path: Path) -> Table:
    """Return profiles whose covariates stand in the table of points, `at_...`."""
    points = pd.read_csv(path)
    x = points[[name for name in points if name.startswith("at_")]]
    return cleaned(x, *(points[name].to_numpy(float) for name in ("soc_gkg", "lon", "lat")))


def data_sets(real: Path, real2: Path) -> Mapping[str, Callable[[], Table]]:
    """Return name -> function that builds the data set."""
    layers = [
        *sorted((real / "global").glob("cov_*.tif")),
        *(real2 / "global_0p05deg" / f"cov_{name}.tif" for name in ("vegetation", "landcover")),
    ]
    regions = pd.read_csv(real / "regions.csv", index_col="region")

    def region(name: str, n: int) -> Table:
        points, box = pd.read_csv(real / "global" / "points.csv"), regions.loc[name]
        inside = points["lon"].between(box["lon_min"], box["lon_max"]) & points["lat"].between(box["lat_min"], box["lat_max"])
        return sampled(points[inside], layers).some(n)

    def macedonia(n: int) -> Table:
        folder = real / "north_macedonia"
        return sampled(pd.read_csv(folder / "points.csv"), sorted(folder.glob("cov_*.tif"))).some(n)

    def topsoils() -> pd.DataFrame:
        layers = pd.read_csv(real2 / "profiles_world2" / "horizons.csv", low_memory=False)
        return layers[(layers["top"] <= 0) & layers["soc_gkg"].notna()].drop_duplicates("profile_id")

    def country(code: str) -> Table:
        points = pd.read_csv(real2 / "profiles_world2" / "points.csv")
        of = points.merge(topsoils()[["profile_id", "country"]], on="profile_id")
        chosen = of["source"] == "usa_ds801" if code == "DS801" else (of["country"] == code) & (of["source"] != "usa_ds801")
        return sampled(of[chosen], layers)

    def laboratory(code: str) -> Table:
        of = topsoils()
        of = of[(of["country"] == code) & of[["clay_pct", "ph_h2o", "cec"]].notna().all(axis=1)]
        return cleaned(of[LABORATORY].reset_index(drop=True), *(of[name].to_numpy(float) for name in ("soc_gkg", "lon", "lat")))

    return {
        "xuancheng": lambda: at_points(real2 / "xuancheng_anhui" / "points.csv"),
        "amhara": lambda: at_points(real2 / "amhara_ethiopia" / "points.csv"),
        **{f"north_macedonia_{n}": (lambda n=n: macedonia(n)) for n in (93, 261, 1000)},
        **{f"{name}_{n}": (lambda name=name, n=n: region(name, n)) for name in regions.index[:3] for n in (200, 500)},
        **{f"wise_{code}": (lambda code=code: country(code)) for code in COUNTRIES},
        "ds801_400": lambda: country("DS801").some(400),
        **{f"laboratory_{code}": (lambda code=code: laboratory(code)) for code in ("AR", "BR", "CO", "TH")},
    }  # fmt: skip


# --- cross-validation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A data set and its folds (n,), drawn as `soilcarbon fit` does or at random."""

    table: Table
    samples: Samples
    task: Task
    folds: np.ndarray

    @classmethod
    def draw(cls, table: Table, how: str) -> "Case":
        """Draw folds of blocks, or of places ("random")."""
        places = spatial_groups(table.lon, table.lat)
        samples = Samples(np.column_stack([table.lon, table.lat, table.x]), table.y, places)
        task = Task(table.categories)
        transform = choose_transform(task.settings(target_transform="auto"), table.y)
        task = Task(table.categories, transform=transform)
        if how == "random":
            return cls(table, samples, task, group_folds(places, FOLDS, SEED))
        folds, side, _ = draw_folds(samples, task, FOLDS)
        groups = spatial_groups(table.lon, table.lat, side)
        return cls(table, samples._replace(groups=groups), Task(table.categories, block_size=side, transform=transform), folds)


Found = tuple[np.ndarray, np.ndarray | None]
"""Predictions (m,) of the profiles of a fold, and their intervals (m, 2)."""


def log_forest(case: Case, fold: int) -> Found:
    """Predict by scikit-learn's random forest with default settings on ln(1 + SOC); it takes missing values."""
    out, x = case.folds == fold, case.table.x.to_numpy()
    forest = RandomForestRegressor(random_state=SEED).fit(x[~out], np.log1p(case.table.y[~out]))
    return np.expm1(forest.predict(x[out])), None


def default(case: Case, fold: int, intervals: bool = True, forest: Literal["auto", "none"] = "auto") -> Found:
    """Predict by `SoilCarbonRegressor()` on the plain table; without intervals its predictions are the same."""
    out, x = case.folds == fold, case.table.x
    model = SoilCarbonRegressor(intervals=intervals, forest=forest).fit(x[~out], case.table.y[~out])
    return model.predict(x[out], return_interval=LEVEL) if intervals else (model.predict(x[out]), None)


def teacher(case: Case, fold: int) -> Found:
    """Predict by the teacher of `taught` itself, which is not distilled into networks: what these can reach at best."""
    out = case.folds == fold
    train = case.samples.take(~out)
    facts = case.task.specify(train)
    target = transformed(train.y, facts)
    centre, scale = target.mean(), target.std()
    fitted = Teacher(case.task.seed).fit(encoded_cells(train.X, facts), (target - centre) / scale, None, None)
    outputs = fitted.predict(encoded_cells(case.samples.X[out], facts)) * scale + centre
    return from_scale(outputs, facts), None


def fit(case: Case, fold: int) -> Found:
    """Predict by what `soilcarbon fit` chooses within the other folds among learners that are no networks."""
    out = case.folds == fold
    train = case.samples.take(~out)
    data = Task(case.task.categories).dataset(train)
    data.table["profile_id"] = np.arange(len(train.y)).astype(str)
    model = fit_model(data, np.arange(len(train.y)), Task(case.task.categories), candidates=SIMPLE).model
    predicted, calibration = model.predict(case.samples.X[out]), model.uncertainty.calibration
    return predicted, None if calibration is None else np.stack(calibration.interval(predicted, LEVEL), axis=1)


def learner(key: str) -> "Method":
    """Return a learner of `soilcarbon fit` as a function of a case and a fold."""

    def predict(case: Case, fold: int) -> Found:
        outputs = hold_out(key, case.samples, case.task, case.folds, fold)
        return (np.expm1(outputs) if case.task.transform == "log1p" else outputs), None

    return predict


Method = Callable[[Case, int], Found]
METHODS: Mapping[str, Method] = {
    REFERENCE: log_forest, "default": default, ALONE: partial(default, intervals=False, forest="none"),
    "teacher": teacher, "fit": fit, **{key: learner(key) for key in LEARNERS},
}  # fmt: skip


def cross_validate(case: Case, method: Method) -> dict[str, np.ndarray]:
    """Return what a method predicts of every profile by folds without it, with intervals (NaN: none) and seconds per fit."""
    n = len(case.folds)
    found, ends, begun = np.empty(n), np.full((n, 2), np.nan), time.process_time()
    for fold in range(int(case.folds.max()) + 1):
        out = case.folds == fold
        found[out], interval = method(case, fold)
        if interval is not None:
            ends[out] = interval
    seconds = np.array((time.process_time() - begun) / (case.folds.max() + 1))
    facts = {"y": case.table.y, "folds": case.folds, "groups": case.samples.groups, "log": np.array(case.task.transform == "log1p")}
    return {"predicted": found, "interval": ends, "seconds": seconds, **facts}


# --- tables ------------------------------------------------------------------------------------------------------------------


def with_derived(found: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Return the methods of a case with the stack, and with the choice of `fit`'s rule for each fold by the other folds."""
    one = next(iter(found.values()))
    y, folds, log = one["y"], one["folds"], bool(one["log"])
    for name, parts in MEANS.items():
        if set(parts) <= set(found):
            both = [found[key]["predicted"] for key in parts]
            mean = np.expm1(np.mean(np.log1p(both), axis=0)) if log else np.mean(both, axis=0)
            found = found | {name: one | {"predicted": mean, "interval": np.full((len(y), 2), np.nan)}}
    keys = [key for key in LEARNERS if key in found]
    if not {"mean", "ridge", "forest"} <= set(keys):
        return found
    best, ends = np.empty(len(y)), np.full((len(y), 2), np.nan)
    for fold in np.unique(folds):
        out = folds == fold
        chosen = select(y[~out], {key: found[key]["predicted"][~out] for key in keys}, folds[~out]).chosen
        predicted = found[chosen]["predicted"]
        best[out] = predicted[out]
        scale: Literal["log1p", "identity"] = "log1p" if log else "identity"
        calibration, _ = calibrate(y[~out], predicted[~out], one["groups"][~out], scale, "groups")
        if calibration is not None:
            ends[out] = np.stack(calibration.interval(predicted[out], LEVEL), axis=1)
    return found | {"best": one | {"predicted": best, "interval": ends}}


def read(folder: Path) -> dict[str, dict[str, dict[str, dict[str, np.ndarray]]]]:
    """Return folds -> data set -> method -> what was found."""
    cases: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]] = {}
    for path in sorted(folder.glob("*.npz")):
        name, how, method = path.stem.split(".")
        with np.load(path) as file:
            cases.setdefault(how, {}).setdefault(name, {})[method] = dict(file)
    return {
        how: {name: with_derived(found) for name, found in sets.items() if {REFERENCE, "mean"} <= set(found)}
        for how, sets in cases.items()
    }


def compare(sets: Mapping[str, dict[str, dict[str, np.ndarray]]], method: str) -> pd.DataFrame:
    """Return a row per data set that a method was tried on: its scores, and changes of MAE with paired 95 % intervals."""
    rows = []
    for name, found in sets.items():
        if method not in found:
            continue
        one = found[method]
        y, groups = one["y"], one["groups"]
        scores = metrics.scores(y, one["predicted"])
        row = {"set": name, "n": len(y), "mae": scores["mae"], "r2": scores["r2"], "ccc": scores["ccc"], "seconds": one["seconds"]}
        for other in (REFERENCE, "mean"):
            change = metrics.paired_differences(y, one["predicted"], found[other]["predicted"], SEED, groups=groups)["mae"]
            row |= {f"{other} {end}": change[end] for end in ("value", "low", "high")}
        covered = np.isfinite(one["interval"]).all(axis=1)
        inside = (one["interval"][:, 0] <= y) & (y <= one["interval"][:, 1])
        row |= {"intervals": int(covered.sum()), "inside": int(inside[covered].sum())}
        rows.append(row)
    return pd.DataFrame(rows)


COLUMNS = "sets", "MAE, %", "sets above +3 %", "worst, %", "sets above the mean", "R2", "sets below 0", "CCC", "s per fit"


def summary(sets: Mapping[str, dict[str, dict[str, np.ndarray]]], method: str, table: pd.DataFrame) -> tuple[str, ...]:
    """Return the cells of a method's row over data sets: its change of MAE against the log forest, and scores."""
    parts = [
        (found[method]["y"], found[method]["predicted"], found[REFERENCE]["predicted"], found[method]["groups"])
        for found in sets.values()
        if method in found
    ]
    change, against = metrics.mean_paired_differences(parts, SEED)["mae"], table[f"{REFERENCE} value"]
    return (
        str(len(table)),
        f"{change['value']:+.1f} ({change['low']:+.1f} to {change['high']:+.1f})",
        str(int((against > 3).sum())),
        f"{against.max():+.1f}",
        str(int((table["mean low"] > 0).sum())),
        f"{table['r2'].mean():.3f}",
        str(int((table["r2"] < 0).sum())),
        f"{table['ccc'].mean():.3f}",
        f"{table['seconds'].mean():.1f}",
    )


def show(folder: Path) -> None:
    """Print a table of the methods for each kind of folds, one of the data sets, and the coverage of intervals."""
    for how, sets in read(folder).items():
        methods = [
            key
            for key in (REFERENCE, *LEARNERS, "teacher", "default", ALONE, "fit", "best")
            if any(key in found for found in sets.values())
        ]
        tables = {method: compare(sets, method).set_index("set", drop=False) for method in methods}
        print(f"\nfolds: {how}; {len(sets)} data sets; MAE against the log forest's\n| method | {' | '.join(COLUMNS)} |")
        print("|---" * (1 + len(COLUMNS)) + "|")
        for method, table in tables.items():
            print(f"| {method} | {' | '.join(summary(sets, method, table))} |")
        shown = [method for method in methods if method not in (REFERENCE, "mean")]
        print(f"\n| set | n | mean, g/kg | log forest, g/kg | {' | '.join(f'{method}, %' for method in shown)} |")
        print("|---" * (4 + len(shown)) + "|")
        for name in sets:
            cells = [(key, "mae", ".2f") for key in ("mean", REFERENCE)] + [(key, f"{REFERENCE} value", "+.1f") for key in shown]
            texts = [f"{tables[key].at[name, of]:{form}}" if name in tables[key].index else "" for key, of, form in cells]
            print(f"| {name} | {tables[REFERENCE].at[name, 'n']} | {' | '.join(texts)} |")
        for method in [key for key in ("default", "fit", "best") if key in tables]:
            table = tables[method]
            table = table[table["intervals"] > 0]
            share = 100 * table["inside"] / table["intervals"]
            by_set = ", ".join(f"{name} {each:.0f}" for name, each in share.items())
            pooled, count = 100 * table["inside"].sum() / max(table["intervals"].sum(), 1), table["intervals"].sum()
            print(f"\n{method}: {pooled:.1f} % of {count} profiles in {100 * LEVEL:.0f} % intervals; by set {by_set}")


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield data set, folds and method of what is not in the folder yet."""
    for method in arguments.learners:
        for how in arguments.folds:
            for name in arguments.sets or data_sets(arguments.realdata, arguments.realdata2):
                if not (arguments.out / f"{name}.{how}.{method}.npz").is_file():
                    yield name, how, method


def main() -> None:
    """Run what is not in the folder, or show it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--realdata", type=Path, default=Path("../shared/realdata"))
    parser.add_argument("--realdata2", type=Path, default=Path("../shared/realdata2"))
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--folds", nargs="+", choices=("blocks", "random"), default=["blocks", "random"])
    parser.add_argument("--learners", nargs="+", choices=list(METHODS), default=list(TRAINED))
    parser.add_argument("--no_intervals", action="store_true", help="of default: half of the time")
    parser.add_argument("--out", type=Path, default=Path("results/own_data"))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.show:
        show(arguments.out)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = data_sets(arguments.realdata, arguments.realdata2)
    methods = METHODS | {"default": partial(default, intervals=False)} if arguments.no_intervals else METHODS
    draw = cache(lambda name, how: Case.draw(known[name](), how))
    for name, how, method in jobs(arguments):
        found = cross_validate(draw(name, how), methods[method])
        with atomic_write(arguments.out / f"{name}.{how}.{method}.npz") as file:
            np.savez_compressed(file, **found)
        error = np.abs(found["predicted"] - found["y"]).mean()
        print(f"{name} {how} {method}: MAE {error:.3f}, {found['seconds']:.1f} s per fit", flush=True)


if __name__ == "__main__":
    main()
