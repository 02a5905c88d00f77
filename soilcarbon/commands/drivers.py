"""Analyse the drivers of soil carbon in observations and in models, and where models disagree, and write a report.

    soilcarbon drivers                                          the example world and its process model
    soilcarbon drivers --config configs/realdata_drivers.yaml   an analysis of your own, in a YAML file
    soilcarbon drivers --config ... --resume                    resume after an interruption

Targets (profiles, maps, output of models as GeoTIFF or NetCDF) are brought to the same places; each learner is
cross-validated on whole blocks, and one without skill is refused; the others are refitted on random half-samples of the blocks.
Writes into results/drivers/: report.html, figures; mismatch.json, mismatch.csv (every difference), importance.csv,
responses.csv, joint.csv, shapes.csv, agreement.csv, ensemble.csv, skill.csv, places.csv; parts/ (what --resume keeps).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from soilcarbon.commands.arguments import command_line, ensure_example_world, read_settings
from soilcarbon.drivers.analysis import Analysis
from soilcarbon.io.files import check_writable, locked
from soilcarbon.io.manifest import check_files
from soilcarbon.io.resumption import begin_or_resume

if TYPE_CHECKING:
    from soilcarbon.drivers.support import Support


class DriverSettings(Analysis):
    """Settings of an analysis of the drivers of soil carbon in observations and in models."""

    preset = "sim_drivers.yaml"
    preset_unless = ("config", "data_dir", "rasters")

    bootstraps: int = Field(100, ge=10, le=10_000, description="refits of each learner on half-samples of the blocks; even")
    out: Path = Field(Path("results/drivers"), description="folder of the report and of its intermediate results")
    resume: bool = Field(False, description="keep the refits that an interrupted run of the same settings has finished")

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.bootstraps % 2:
            raise ValueError("refits come in pairs, one trained on each half of the blocks: bootstraps must be even")
        return self


_FREE = {"resume", "workers", "out", "bootstraps"}
"""Settings that may differ when an analysis is resumed: it may draw more refits."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(DriverSettings, __doc__, arguments, "soilcarbon drivers")
    from soilcarbon.drivers.importance import has_shap  # here and below: slow to import, and --help needs none
    from soilcarbon.drivers.mismatch import gather
    from soilcarbon.drivers.report import verdict, write_report
    from soilcarbon.drivers.subsampling import EDITION, read_refits, refit_tasks, screen
    from soilcarbon.drivers.support import make_support
    from soilcarbon.parallel import run_tasks

    if settings.data_dir is not None:
        ensure_example_world(settings.data_dir)
    support = make_support(settings)
    check_writable(settings.out)
    parts = settings.out / "parts"
    with locked(settings.out):
        _begin(settings, support, EDITION, has_shap())
        screening = screen(support, settings, parts)
        count = settings.bootstraps
        tasks = [refit_tasks(parts, screening.study, learner, count, able) for learner, able in screening.able.items()]
        run_tasks([task for each in tasks[::-1] for task in each], settings.workers, "refits")
        found = {learner: read_refits(parts, learner, count) for learner in screening.able}
        command = command_line("soilcarbon drivers", arguments)
        results = gather(support, settings, screening, found, command)
        write_report(settings.out, results)
    print(f"{verdict(results)}\n{settings.out / 'report.html'}")


def _begin(settings: DriverSettings, support: "Support", edition: int, shap: bool) -> None:
    """Check that a resumed run has the same settings and data, and that no finished results are overwritten."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    digest = hashlib.sha256()
    for array in (support.x, support.y, support.lon, support.lat):
        digest.update(array.tobytes())
    plain["digest"] = digest.hexdigest()
    plain["edition of refits"] = edition
    plain["shap"] = shap
    check_files(settings.out, ("report.html", "mismatch.json", "mismatch.csv", "places.csv"), "drivers")
    begin_or_resume(settings.out, plain, ("parts",), settings.resume)
