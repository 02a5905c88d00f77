"""Find what controls soil carbon in observations and in models, and where models disagree, and write a report.

    python drivers.py                                          the example world and its process model
    python drivers.py --config configs/realdata_drivers.yaml   an analysis of your own, in a YAML file
    python drivers.py --config ... --resume                    go on after an interruption

Targets (profiles, maps, output of models as GeoTIFF or NetCDF) are brought to the same places; each learner is
cross-validated on whole blocks, and one without skill is refused; the others are refitted on random halves of the blocks.
Writes into results/drivers/: report.html, figures; mismatch.json, mismatch.csv (every difference), importance.csv,
responses.csv, joint.csv, shapes.csv, agreement.csv, ensemble.csv, skill.csv, places.csv; parts/ (what --resume keeps).
"""

import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import begin_or_resume, check_writable, locked, run
from soilcarbon.study_settings import DriverSettings

if TYPE_CHECKING:
    from soilcarbon.drivers.support import Support

_FREE = {"resume", "workers", "out", "bootstraps", "level"}
"""What an analysis may be resumed with another value of: more refits may be drawn."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(DriverSettings, __doc__, arguments)
    from soilcarbon.drivers.facts import gather  # here and below: --help needs none of these, and they are slow to import
    from soilcarbon.drivers.report import write_report
    from soilcarbon.drivers.studies import screen
    from soilcarbon.drivers.subsampling import EDITION, refits, stacked
    from soilcarbon.drivers.support import make_support
    from soilcarbon.drivers.tables import answer
    from soilcarbon.parallel import run_all

    support = make_support(settings)
    check_writable(settings.out)
    parts = settings.out / "parts"
    with locked(settings.out):
        _begin(settings, support, EDITION)
        screened = screen(support, settings, parts)
        count = settings.bootstraps
        tasks = [refits(parts, screened.study, learner, count, told) for learner, told in screened.able.items()]
        run_all([task for each in tasks[::-1] for task in each], settings.workers, "refits")
        found = {learner: stacked(parts, learner, count) for learner in screened.able}
        how = "python drivers.py" + (f" --config {settings.config}" if settings.config else "")
        drivers = gather(support, settings, screened, found, how)
        write_report(settings.out, drivers)
    print("\n".join(f"{lead} {rest}" for lead, rest in answer(drivers)))
    print(f"\n{settings.out / 'report.html'}")


def _begin(settings: DriverSettings, support: "Support", edition: int) -> None:
    """See that what is resumed was of the same settings and data, and that nothing finished is lost."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    digest = hashlib.sha256()
    for array in (support.x, support.y, support.lon, support.lat):
        digest.update(array.tobytes())
    plain["digest"] = digest.hexdigest()
    plain["edition of refits"] = edition
    begin_or_resume(settings.out, plain, ("parts",), settings.resume)


if __name__ == "__main__":
    sys.exit(run(main))
