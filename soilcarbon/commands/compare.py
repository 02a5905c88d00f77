"""Compare the network with every baseline, on the same folds, and write a report.

    python compare.py                                          regions of the example world
    python compare.py --config configs/realdata_compare.yaml   a comparison of your own, in a YAML file
    python compare.py --config ... --resume                    go on after an interruption

For each region the network is pretrained again without any place of it; every method then learns from the same profiles
and predicts the same ones held out, in each way of holding out (random, place, blocks, region, knndm).
Writes into results/compare/: report.html, report.md, figures; table.csv (scores), differences.csv (paired, against the
strongest baseline), curves.csv, coverage.csv, selection.csv, floor.csv; folds/ and trials/ (every prediction).
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import begin_or_resume, check_writable, locked, run, sha256, write_table
from soilcarbon.study_settings import CompareSettings

_FREE = {"resume", "workers", "out", "sizes", "repeats"}
"""What a comparison may be resumed with another value of: it may draw more learning curves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(CompareSettings, __doc__, arguments)
    import pandas as pd  # here and below: --help needs none of these, and they are slow to import

    from soilcarbon.benchmark.experiment import folds_of, stage
    from soilcarbon.benchmark.page import write_report
    from soilcarbon.benchmark.results import compare
    from soilcarbon.benchmark.trials import finished, plan_trials, run_all
    from soilcarbon.network.network import load_checkpoint

    trials = plan_trials(settings)
    stage.cache_clear()
    regions = stage(settings.model_dump_json()).regions  # all that can be wrong with the input, before anything is cleared
    check_writable(settings.out)
    with locked(settings.out):
        _begin(settings)
        run_all(settings, trials)
        folds: dict[tuple[str, str], dict[str, Any]] = {}
        for name, data in regions.items():
            folds |= {(name, way): folds_of(settings, name, data, way)[1] for way in settings.ways}
        facts = load_checkpoint(settings.pretrained).specification
        how = "python compare.py" + (f" --config {settings.config}" if settings.config else "")
        comparison = compare(settings, list(finished(settings, trials)), regions, folds, (facts.target, facts.unit), how)
        for each in fields(comparison):
            table = getattr(comparison, each.name)
            if isinstance(table, pd.DataFrame) and each.name != "predictions":
                write_table(settings.out / f"{each.name}.csv", table)
        write_report(settings.out, comparison)
    print((settings.out / "report.md").read_text(encoding="utf-8").split("\n## ")[0].strip())
    print(f"\n{settings.out / 'report.html'}")


def _begin(settings: CompareSettings) -> None:
    """See that what is resumed was of the same settings and data, and that nothing finished is lost."""
    plain = {name: value for name, value in settings.as_plain().items() if name not in _FREE}
    plain["digest"] = _digest(settings)
    begin_or_resume(settings.out, plain, ("trials", "pretrained", "folds"), settings.resume)


def _digest(settings: CompareSettings) -> str:
    """Return a checksum of all that trials are made from: datasets, checkpoint, settings, land."""
    paths = [settings.pretrained, settings.regional, *([settings.land] if settings.land else [])]
    for folder in (settings.global_data, *settings.regions):
        paths += sorted(path for path in folder.rglob("*") if path.is_file() and _is_data(path))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(sha256(path).encode())
    return digest.hexdigest()


def _is_data(path: Path) -> bool:
    return path.suffix in (".csv", ".pkl") or path.name == "dataset.yaml"


if __name__ == "__main__":
    sys.exit(run(main))
