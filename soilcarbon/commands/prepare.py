"""Make a dataset from soil profiles and covariate rasters.

    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters climate.tif relief/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth 0 30 --rasters covariates/ --out data/mine
    soilcarbon prepare --points horizons.csv --target soc_gkg --depth_method spline --depth_limits 0 5 15 30 60 100
                      --min_covered 20 --rasters covariates/ --out data/mine
    soilcarbon prepare --points wosis_202312_orgc.tsv --rasters covariates/ --split blocks --out data/world
    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters covariates/ --bounds 33.9 41.9 -4.7 5.0
                      --global_data data/world --out data/kenya
    soilcarbon prepare --points profiles.csv --target soc_gkg --rasters local/ --world_rasters world/
                      --global_data data/world --out data/mine

Profiles need columns of longitude and latitude (degrees), soil organic carbon (g/kg) and an id; horizons also their
upper and lower depth (cm). Rasters are GeoTIFFs of any CRS and cell size whose bands are the variables. Writes into
the folder --out the dataset that `soilcarbon train` and `finetune` read, rejected.csv (profiles left out, and why), and
dataset.yaml (provenance). A region that is to be fine-tuned from a model of the world takes that model's
dataset as --global_data: it keeps its categories, statistics and held-out places. With --world_rasters the region's own
rasters are further categories, by which `soilcarbon finetune` grows the model; each is cut on its own grid.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soilcarbon.commands.arguments import read_settings, used_columns
from soilcarbon.io.files import UserError, locked
from soilcarbon.soil.settings import PrepareSettings

if TYPE_CHECKING:
    from soilcarbon.soil.prepare import Prepared


log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(PrepareSettings, __doc__, arguments, "soilcarbon prepare")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it reports is raised as an error too
    from soilcarbon.io.points import table_file
    from soilcarbon.soil.prepare import prepare_dataset  # slow, and --help does not need it

    points, parent = table_file(settings.points), settings.global_data
    out, written = settings.out.resolve(), ("samples.csv", "stats.csv", "rejected.csv")
    if points.resolve() in [out / name for name in written] or (parent and out == parent.resolve()):
        raise UserError(f"{settings.out}: would overwrite the points or the global dataset; choose another folder for --out")
    with locked(files=[settings.out]):
        made = prepare_dataset(settings)
    report(settings, made)
    variables = sum(len(category.variables) for category in made.categories)
    if settings.predict_only:
        command = f"soilcarbon predict --checkpoint FILE --data_dir {settings.out} --on all --run {settings.out.name or 'new'}"
        print(f"{len(made.profiles.table)} places, {variables} variables -> {settings.out}; next: {command}")
        return
    facts = made.facts["split"]
    groups = "blocks" if facts["method"] == "blocks" else "places"
    counts = ", ".join(
        f"{name} {facts[name]} in {facts['groups'][name]} {groups}" for name in ("train", "valid", "test") if facts[name]
    )
    profiles, categories = len(made.profiles.table), len(made.categories)
    print(f"{profiles} profiles ({counts}), {variables} variables in {categories} categories -> {settings.out}")


def report(settings: PrepareSettings, made: "Prepared") -> None:
    """Log counts of profiles used and left out, missing cells, and hints."""
    from soilcarbon.soil.target import target_from_plain

    facts = made.profiles.facts
    log.info(
        "%s: %d rows (%s); %s", settings.points, facts["rows"], facts["kind"], used_columns(facts["columns"], facts["not_used"])
    )
    for note in facts["notes"]:
        log.info("%s", note)
    for title, counts in (
        ("horizons", facts.get("horizons")),
        *facts.get("further_depths", {}).items(),
        (f"left out, see {settings.out}/rejected.csv", made.profiles.counts()),
    ):
        if counts:
            log.info("%s: %s", title, ", ".join(f"{count} {what}" for what, count in counts.items()))
    if settings.bounds:
        log.info("out of bounds: %d", facts["out_of_bounds"])
    if "target" in made.facts:
        target = target_from_plain(made.facts["target"], "soc", settings.points)
        log.info("target: %s (%s)", target.title, target.unit)
    log.info("missing cells: %s", made.missing_cells())
    if "split" in made.facts:
        log.info("split: %s", made.facts["split"]["reason"])
    for hint in made.hints:
        log.info("hint: %s", hint)
