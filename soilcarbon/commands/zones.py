"""Learn soil carbon density by climate zone: a random forest for each zone and depth, and whether that is better than one for all.

    soilcarbon zones --samples densities.csv --rasters climate/ terrain.tif --periodic landsat/
                          --precipitation bio12 --temperature bio01
    soilcarbon zones --samples data/mine --targets soc --unit g/kg --precipitation bio12 --temperature bio01
    soilcarbon zones --samples densities.csv --rasters covariates/ --zone ecoregion      zones of a ready map
    soilcarbon zones --samples ... --network       this project's network on the same folds, too
    soilcarbon zones --samples ... --resume        go on after an interruption

After Dong, Wang and Su (2024, Earth Syst. Sci. Data Discuss., essd-2024-588). For each target folds of whole blocks are held out,
each with about its share of zones and decades. Of the other profiles covariates and settings are chosen (every subset of the ten
best), for each zone and for all together, and what is held out is predicted. Writes into results/zoned/: scores.csv and .png,
differences.csv (zoned against unzoned, paired), importances.csv, predictions.csv, trace/ (all that was tried), left_out.csv; and
into model/ a model of all profiles for each target.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, begin_or_resume, check_writable, locked, read_table, write_table
from soilcarbon.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from soilcarbon.benchmark.baselines import Known
    from soilcarbon.zonal.forest import ZonedForest
    from soilcarbon.zonal.space_time import SpaceTime


class ZonedSettings(Settings):
    """Forests by climate zone, one target after the other."""

    samples: Path = Field(description="table of profile_id, lon, lat, year, targets and covariates; or a dataset's folder")
    targets: list[str] = Field(
        ["socd_0_20", "socd_0_100"],
        min_length=1,
        description="columns to learn, each by itself; profiles without one are left out of it",
    )
    unit: str = Field("kg/m2", description="the targets' unit")
    covariates: list[str] = Field(
        [], description="columns and variables to learn from [all that are numbers, but for targets and year]"
    )
    rasters: list[Path] = Field([], description="GeoTIFFs or folders of them whose variables are added as columns")
    periodic: Path | None = Field(
        None,
        description="folder of a folder of GeoTIFFs per year (1985) or span (1985-1989); a profile takes its own period's mean",
    )
    first_year: int = Field(1985, ge=1000, le=9999, description="first year of the first period")
    period_years: int = Field(5, ge=1, le=1000, description="years of a period")
    year: str | None = Field(
        "year", description="the column of sampling years; profiles without a year are left out; none: years are not asked for"
    )
    precipitation: str = Field("map", description="the column of long-term mean annual precipitation")
    temperature: str = Field("mat", description="the column of long-term mean annual temperature")
    zone: str | None = Field(
        None, description="the column or raster variable of ready zones, whole numbers, instead of precipitation and temperature"
    )
    wet: float = Field(400.0, description="precipitation from which a zone is wet, in its column's unit (mm)")
    warm: float = Field(10.0, description="temperature from which a zone is warm, in its column's unit (degrees C)")
    wet_band: float = Field(50.0, ge=0, description="width of the band over which blended predictions pass from wet to dry")
    warm_band: float = Field(1.0, ge=0, description="width of the band over which blended predictions pass from warm to cool")
    zone_names: list[str] = Field(
        ["humid", "semi-humid", "semi-arid", "arid"],
        min_length=4,
        max_length=4,
        description="names of wet and warm, wet and cool, dry and warm, dry and cool; which the paper calls which is unverified",
    )
    boundary: Literal["hard", "blended"] = Field("hard", description="what the saved model does at a boundary; scores tell of both")
    fewest: int = Field(50, ge=10, description="profiles below which a zone is served by the forest of all")
    correlation: float = Field(0.95, gt=0, le=1, description="|Pearson r| above which one of two covariates is dropped")
    best: int = Field(10, ge=1, le=14, description="covariates of the highest rank of which every subset is tried, 2^best - 1")
    candidates: int = Field(20, ge=1, le=10_000, description="settings of the forest that are tried, drawn at random")
    folds: int = Field(5, ge=2, le=50, description="folds held out for the scores")
    inner_folds: int = Field(5, ge=2, le=50, description="folds that choose covariates and settings, of the profiles not held out")
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks that no fold parts, degrees")
    trees: int = Field(300, ge=1, le=100_000, description="trees of a forest")
    network: bool = Field(
        False, description="also score this project's network on the same folds: one for all, and fine-tuned in each zone"
    )
    network_epochs: int = Field(100, ge=1, le=1_000_000, description="its passes over the profiles, at most")
    search_trees: int = Field(50, ge=1, le=100_000, description="trees of a forest that is only tried")
    run: str = Field("zoned", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names models and results")
    model_dir: Path = Field(Path("model"), description="folder of models: <run>_<target>.skops, and .yaml for people")
    results_dir: Path | None = Field(None, description="folder of scores and importances [results/<run>/]")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, forests and bootstrap")
    resume: bool = Field(False, description="keep the folds that an interrupted run of the same settings has finished")

    @field_validator("targets", "covariates", "zone_names")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{double!r} comes twice")
        if unseen := next((name for name in names if not name.isprintable()), None):
            raise ValueError(f"{unseen!r} holds what cannot be printed")
        return names

    @model_validator(mode="after")
    def _periods_need_years(self) -> Self:
        if self.periodic is not None and self.year is None:
            raise ValueError("periodic rasters are of the years profiles were sampled in, so they need year")
        return self

    @field_validator("targets")
    @classmethod
    def _targets_name_files(cls, names: list[str]) -> list[str]:
        wrong = next((name for name in names if not re.fullmatch(r"\w[\w.-]*", name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} names files too: letters, digits, '-', '.' and '_' only")
        return names

    @property
    def results(self) -> Path:
        """The folder of this run's results."""
        return self.results_dir or Path("results") / self.run


log = logging.getLogger(__name__)
FOLDS = "folds"
"""Folder of finished folds."""
_FREE = ("resume", "workers", "model_dir", "results_dir")
"""What a run may be resumed with another value of."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ZonedSettings, __doc__, arguments, "soilcarbon zones")
    import pandas as pd  # here and below: --help needs none of these, and they are slow to import

    from soilcarbon.zonal.figures import draw_scores
    from soilcarbon.zonal.space_time import read_space_time

    data = read_space_time(settings)
    for reason, count in data.left_out["reason"].value_counts().items():
        log.info("left out: %d profiles, %s", count, reason)
    check_writable(settings.results, settings.model_dir)
    with locked(settings.results):
        _begin(settings, data)
        write_table(settings.results / "left_out.csv", data.left_out)
        done = [learn(settings, data, target) for target in settings.targets]
        whole = {name: pd.concat([tables[name] for tables in done], ignore_index=True) for name in done[0]}
        for name, table in whole.items():
            write_table(settings.results / f"{name}.csv", table)
        draw_scores(settings.results / "scores.png", {"": whole["scores"]}, "rmse", f"RMSE ({settings.unit}), held-out blocks")
    print(f"{settings.results}; models: {settings.model_dir}/{settings.run}_*.skops")


def learn(settings: ZonedSettings, data: "SpaceTime", target: str) -> "dict[str, pd.DataFrame]":
    """Score a target's forests on folds held out, save those of all profiles, and return the tables."""
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from soilcarbon.zonal.evaluation import ALL, BLENDED, ZONED, importance_table, score_tables, space_time_folds
    from soilcarbon.zonal.periods import period_of
    from soilcarbon.zonal.persistence import save_zoned
    from soilcarbon.zonal.uncertainty import assure

    known, ids = data.known(target, settings.block_size)
    method, seed = new_method(settings, data, target), settings.seed
    folds = space_time_folds(known, method, settings.folds, seed)
    log.info("%s: %d profiles in %d blocks, %d covariates", target, len(known), len(set(known.units)), len(data.covariates))
    bar = tqdm(range(int(folds.max()) + 1), target, unit="fold", disable=None)
    parts = [_held_out(settings, data, target, known, folds, fold, method) for fold in bar]
    predictions = pd.concat([part[0] for part in parts]).sort_values("row", ignore_index=True)
    increases = pd.concat([part[1] for part in parts], ignore_index=True)
    scores, differences = score_tables(predictions, known.units, method.zones, seed)
    importances = importance_table(increases, predictions, known.units, method.zones, data.variables, seed)

    if settings.boundary == "hard":
        method = replace(method, zones=method.zones.hard())
    method.fit(known, seed)
    forests = {name if method.own(name) else ALL: forest for name, forest in method.forests.items()}
    trace = pd.concat([forest.trace.assign(forest=name) for name, forest in forests.items()], ignore_index=True)
    _write_trace(settings, data, target, "final", trace)
    record = {"settings": settings.as_plain(), "scores": _plain(scores), "differences": _plain(differences)}
    path = settings.model_dir / f"{settings.run}_{target}.skops"
    years = known.x[:, data.variables.index(settings.year)] if settings.year else np.full(len(known), np.nan)
    predicted = ZONED if settings.boundary == "hard" else BLENDED
    periods = period_of(years, settings.first_year, settings.period_years)
    assurance = assure(method, known, predictions, predicted, periods, seed)
    save_zoned(method, path, target, settings.unit, data.variables, record, assurance)
    log.info("%s", _in_words(target, scores, differences, settings.unit))
    predictions = predictions.assign(profile_id=ids[predictions["row"]]).drop(columns="row")
    tables = {"scores": scores, "differences": differences, "importances": importances, "predictions": predictions}
    return {name: table.assign(target=target) for name, table in tables.items()}


def new_method(settings: ZonedSettings, data: "SpaceTime", target: str) -> "ZonedForest":
    """Return the zoned forest that settings describe, not fitted; its bands are those of blended predictions."""
    from soilcarbon.zonal.climate_zones import MOST_ZONES, ClimateZones, GivenZones, Zones
    from soilcarbon.zonal.forest import SelectedForest, ZonedForest

    at = {name: k for k, name in enumerate(data.variables)}
    climate = (settings.zone, settings.zone) if settings.zone else (settings.precipitation, settings.temperature)
    zones: Zones = ClimateZones(settings.wet, settings.warm, settings.wet_band, settings.warm_band, tuple(settings.zone_names))
    if settings.zone:
        try:
            zones = GivenZones(tuple(sorted(data.table[settings.zone].unique().tolist())))
        except ValueError as error:
            raise UserError(f"{settings.zone}: {error}") from error
        if len(zones.codes) > MOST_ZONES:
            raise UserError(f"{settings.zone}: {len(zones.codes)} zones, more than {MOST_ZONES}; is it a measurement?")
    forest = SelectedForest(
        covariates=tuple(at[name] for name in data.covariates),
        year=at[settings.year] if settings.year else None,
        limit=settings.correlation,
        best=settings.best,
        inner=settings.inner_folds,
        candidates=settings.candidates,
        search_trees=settings.search_trees,
        trees=settings.trees,
        workers=settings.workers,
        label=target,
    )
    return ZonedForest(zones, at[climate[0]], at[climate[1]], forest, settings.fewest)


def _held_out(
    settings: ZonedSettings, data: "SpaceTime", target: str, known: "Known", folds: "np.ndarray", fold: int, method: "ZonedForest"
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return predictions and increases of a fold, from its files if it was finished before."""
    import numpy as np

    from soilcarbon.zonal.evaluation import hold_out

    increases, predictions = (settings.results / FOLDS / f"{target}-{fold}-{name}.csv" for name in ("increases", "predictions"))
    if not predictions.is_file():
        network = None
        if settings.network:
            from soilcarbon.zonal.network import ZonedNetwork

            network = ZonedNetwork(method.forest.covariates, settings.network_epochs, settings.fewest)
        found = hold_out(known, folds, fold, method, settings.seed, network=network)
        _write_trace(settings, data, target, str(fold), found.trace)
        write_table(increases, found.increases)
        write_table(predictions, found.predictions)  # the last: with it the fold is finished
    return _finished(predictions, increases, np.flatnonzero(folds == fold))


def _finished(predictions: Path, increases: Path, rows: "np.ndarray") -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Read a finished fold's tables; UserError if they are not of its rows (n,), or changed into what is no number."""
    import numpy as np

    found = read_table(predictions, ("row", "zone", "observed", "unzoned", "zoned", "blended"), text=("zone",))
    grown = read_table(increases, ("row", "covariate", "increase", "method"), text=("method",))
    for path, table, text in ((predictions, found, "zone"), (increases, grown, "method")):
        sound = all(kind.kind in "iuf" for kind in table.drop(columns=text).dtypes) and not table[["row", text]].isna().any(
            axis=None
        )
        if not (sound and np.array_equal(np.unique(table["row"]), rows) and (path is increases or len(table) == len(rows))):
            raise UserError(f"{path}: is not what was found of its fold; remove both of the fold's files and go on with --resume")
    return found, grown


def _write_trace(settings: ZonedSettings, data: "SpaceTime", target: str, part: str, trace: "pd.DataFrame") -> None:
    """Write what was tried, covariates by their names."""
    names = [" ".join(data.variables[int(k)] for k in text.split()) for text in trace["columns"]]
    write_table(settings.results / "trace" / f"{target}-{part}.csv", trace.assign(columns=names))


def _begin(settings: ZonedSettings, data: "SpaceTime") -> None:
    """See that what is resumed was of the same settings and data, and that nothing finished is lost."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    plain["digest"] = hashlib.sha256(data.table.to_csv(index=False).encode()).hexdigest()
    begin_or_resume(settings.results, plain, (FOLDS,), settings.resume)


def _plain(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a table's rows for a record; what is undefined is None."""
    return [{name: None if value != value else value for name, value in row.items()} for row in table.to_dict("records")]


def _in_words(target: str, scores: "pd.DataFrame", differences: "pd.DataFrame", unit: str) -> str:
    """Say for each zone how well its profiles were predicted, and whether zoning helped."""
    lines = [f"{target}: held-out R2 and RMSE ({unit}) unzoned -> zoned; change of RMSE [95 %]"]
    table, change = scores.set_index(["zone", "method"]), differences.set_index(["zone", "method"])
    for zone in scores["zone"].unique():
        before, after, found = table.loc[(zone, "unzoned")], table.loc[(zone, "zoned")], change.loc[(zone, "zoned")]
        told = "better" if found["rmse_high"] < 0 else "worse" if found["rmse_low"] > 0 else "no difference can be told"
        if found["rmse_low"] == found["rmse_high"] == 0:
            told = "served by the forest of all"
        pair = [f"{row['r2']:.2f}, {row['rmse']:.3g}" for row in (before, after)]
        interval = f"{found['rmse']:+.1f} % [{found['rmse_low']:+.1f}, {found['rmse_high']:+.1f}]"
        lines.append(f"  {zone} (n = {before['n']:.0f}): {' -> '.join(pair)}; {interval}, {told}")
    return "\n".join(lines)
