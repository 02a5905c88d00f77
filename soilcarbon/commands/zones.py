r"""Train and evaluate random forests of soil carbon density by climate zone, and one for all zones.

    soilcarbon zones --samples densities.csv --rasters climate/ terrain.tif --periods landsat/ \
                     --precipitation bio12 --temperature bio01
    soilcarbon zones --samples data/mine --targets soc --precipitation bio12 --temperature bio01
    soilcarbon zones --samples densities.csv --rasters covariates/ --zone ecoregion      zones of a given map
    soilcarbon zones --samples ... --network       cross-validate this project's network on the same folds
    soilcarbon zones --samples ... --resume        continue an interrupted run

After Dong, Wang and Su (2024, Earth Syst. Sci. Data Discuss., essd-2024-588). For each target, cross-validation holds out folds of
whole blocks, each with about its share of zones and decades. Covariates (every subset of the ten best) and hyperparameters are
selected within the training profiles, for each zone and for all together. Writes into results/<run>/: scores.csv and .png,
differences.csv (zoned against unzoned, paired), importances.csv, predictions.csv, trace/ (all candidates), left_out.csv; and into
model/ a model of all profiles for each target, for soilcarbon map.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError
from soilcarbon.zonal.settings import ZonedSettings

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from soilcarbon.zonal.forest import ZonedForest
    from soilcarbon.zonal.space_time import SpaceTime

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ZonedSettings, __doc__, arguments, "soilcarbon zones")
    from soilcarbon.parallel import worker_pool  # here and below: --help needs none of these, and they are slow to import
    from soilcarbon.zonal.space_time import read_space_time
    from soilcarbon.zonal.train import train_zoned

    settings = settings.model_copy(update={"unit": _unit(settings)})
    data = read_space_time(settings)
    for reason, count in data.left_out["reason"].value_counts().items():
        log.info("left out: %d profiles, %s", count, reason)
    with nullcontext() if settings.workers == 1 else worker_pool(settings.workers) as pool:
        train_zoned(settings, data, new_forest(settings, data, pool))
    print(f"{settings.results}; models: {settings.model_dir}/{settings.run}_*.npz")


def _unit(settings: ZonedSettings) -> str:
    """Return the unit of the targets; UserError if it is not known, or they have several."""
    from soilcarbon.soil.dataset import dataset_target
    from soilcarbon.soil.target import target_of

    units: dict[str, str] = {}
    for name in settings.targets:
        recorded = dataset_target(settings.samples, name).unit if settings.samples.is_dir() else ""
        found = recorded or target_of(name, settings.unit, settings.samples).unit
        if recorded and settings.unit is not None and (stated := target_of(name, settings.unit, "").unit) != recorded:
            raise UserError(f"{settings.samples}: {name} is in {recorded} (dataset.yaml), and --unit says {stated}; drop it")
        units[name] = found
    if len(set(units.values())) > 1:
        each = ", ".join(f"{name} in {unit}" for name, unit in units.items())
        raise UserError(f"{settings.samples}: {each}; train targets of one unit at a time")
    return next(iter(units.values()))


def new_forest(settings: ZonedSettings, data: "SpaceTime", pool: "Executor | None") -> "ZonedForest":
    """Return the zoned forest that settings describe, not fitted; its bands are those of blended predictions."""
    from soilcarbon.zonal.climate_zones import OneZone, Zones, climate_variables, given_zones, log_zones, zones_of
    from soilcarbon.zonal.forest import SelectedForest, ZonedForest

    zones: Zones
    if settings.zone is None:
        zones = OneZone()
    elif settings.zone == "climate":
        where, variables = str(settings.samples), climate_variables(settings, data.units)
        zones = zones_of(variables, [data.table[each.name].to_numpy() for each in variables], where, tuple(settings.zone_names))
        climate = (data.table[each.name].to_numpy() for each in variables)
        log_zones(zones.names, zones.labels(*climate), "profiles", zones.thresholds)
    else:
        zones = given_zones(settings.zone, data.table[settings.zone].to_numpy())
    forest = SelectedForest(
        covariates=tuple(map(data.variables.index, data.covariates)),
        year=data.variables.index(settings.year) if settings.year else None,
        pool=pool,
        **{name: getattr(settings, name) for name in ("best", "inner_folds", "candidates", "search_trees", "trees")},
    )
    return ZonedForest(zones, tuple(map(data.variables.index, settings.climate.values())), forest)
